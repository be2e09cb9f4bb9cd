//! How many operations a second does each peer of a case reach, when the machine drifts meanwhile?
//!
//! Peers take turns in slices of some milliseconds, round after round, so that a machine that slows down hits all
//! alike; a figure is the median over its slices. What threads fight for settles when a process starts (where its
//! memory lies, which core runs what) and differs from one start to the next far more than within one: such a case
//! runs in several processes, and a figure is the median over them.
//!
//! The first peer is measured twice, as itself and as "(again)": what differs between the two is noise.

use std::any::Any;
use std::env;
use std::hint::black_box;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lexopt::Error;

/// The hidden word that makes this program a process of its own for one case.
pub const ONE_LAUNCH: &str = "one-launch";

/// How often a thread looks whether its slice is over, in operations.
const BATCH: u64 = 1024;

/// How much time to spend.
pub struct Effort {
    slice: Duration,
    rounds: usize,
    launches: usize,
}

impl Effort {
    pub const QUICK: Self = Self { slice: Duration::from_millis(10), rounds: 11, launches: 5 };
    pub const FULL: Self = Self { slice: Duration::from_millis(20), rounds: 25, launches: 9 };
}

/// One question, and those who answer it.
pub struct Case {
    name: &'static str,
    threads: &'static [usize],
    peers: Vec<Peer>,
    bar: Option<(&'static str, f64)>,
    hold: fn() -> Box<dyn Any>,
}

struct Peer {
    name: &'static str,
    run: Box<dyn Fn(&Start) -> Lap + Send + Sync>,
}

/// What the threads of a slice share.
struct Start {
    line: Barrier,
    is_over: AtomicBool,
}

/// What one thread did in a slice.
struct Lap {
    start: Instant,
    end: Instant,
    operations: u64,
}

/// What is known about a peer: operations a second of all threads together, in each slice or launch.
struct Row {
    threads: usize,
    peer: String,
    rates: Vec<f64>,
}

impl Case {
    /// A case for one thread.
    pub fn new(name: &'static str) -> Self {
        Self { name, threads: &[1], peers: Vec::new(), bar: None, hold: || Box::new(()) }
    }

    /// Measures with so many threads, one number after the other.
    pub fn threads(mut self, threads: &'static [usize]) -> Self {
        self.threads = threads;
        self
    }

    /// Lets each thread make and hold something while it measures, such as the way into a runtime.
    pub fn hold(mut self, hold: fn() -> Box<dyn Any>) -> Self {
        self.hold = hold;
        self
    }

    /// Adds a peer whose threads share `thing`.
    pub fn peer<T, R>(
        self,
        name: &'static str,
        thing: T,
        operation: impl Fn(&T) -> R + Send + Sync + 'static,
    ) -> Self
    where
        T: Send + Sync + 'static,
    {
        self.add(name, move |start| start.lap(|| operation(black_box(&thing))))
    }

    /// Adds a peer of which each thread makes its own, anew in each slice.
    pub fn peer_per_thread<T, R>(
        self,
        name: &'static str,
        make: impl Fn() -> T + Send + Sync + 'static,
        operation: impl Fn(&mut T) -> R + Send + Sync + 'static,
    ) -> Self {
        self.add(name, move |start| {
            let mut thing = make();
            start.lap(|| operation(black_box(&mut thing)))
        })
    }

    fn add(mut self, name: &'static str, run: impl Fn(&Start) -> Lap + Send + Sync + 'static) -> Self {
        self.peers.push(Peer { name, run: Box::new(run) });
        self
    }

    /// Says how many nanoseconds an operation of the first peer may take beyond one of `peer`.
    pub fn bar(mut self, peer: &'static str, nanos: f64) -> Self {
        self.bar = Some((peer, nanos));
        self
    }

    /// Measures all peers with so many threads, in this process.
    fn measure(&self, threads: usize, effort: &Effort) -> Vec<Row> {
        let entrants: Vec<&Peer> = self.peers.iter().chain(self.peers.first()).collect();
        let again = entrants.len() - 1;
        let mut rows: Vec<Row> = (0..entrants.len())
            .map(|at| {
                let again = if at == again { " (again)" } else { "" };
                Row { threads, peer: format!("{}{again}", entrants[at].name), rates: Vec::new() }
            })
            .collect();
        for round in 0..=effort.rounds {
            // Each round starts with another peer, so that none always follows the same one.
            for at in (0..entrants.len()).map(|turn| (turn + round) % entrants.len()) {
                let rate = self.slice(entrants[at], threads, effort.slice);
                // The first round warms up.
                if round > 0 {
                    rows[at].rates.push(rate);
                }
            }
        }
        rows
    }

    /// Runs one peer for one slice and returns the operations a second of all threads together.
    fn slice(&self, peer: &Peer, threads: usize, length: Duration) -> f64 {
        let start = Start { line: Barrier::new(threads + 1), is_over: AtomicBool::new(false) };
        let laps: Vec<Lap> = thread::scope(|scope| {
            let runner = || {
                let _held = (self.hold)();
                (peer.run)(&start)
            };
            let runners: Vec<_> = (0..threads).map(|_| scope.spawn(runner)).collect();
            start.line.wait();
            thread::sleep(length);
            start.is_over.store(true, Ordering::Relaxed);
            runners.into_iter().map(|runner| runner.join().expect("a peer panicked")).collect()
        });
        let first = laps.iter().map(|lap| lap.start).min();
        let last = laps.iter().map(|lap| lap.end).max();
        let time = last.zip(first).map_or(Duration::ZERO, |(last, first)| last - first);
        laps.iter().map(|lap| lap.operations).sum::<u64>() as f64 / time.as_secs_f64()
    }

    /// Measures in processes of their own; each gives one rate per peer.
    fn launch(&self, area: &str, effort: &Effort, quick: bool) -> Result<Vec<Row>, Error> {
        let mut rows: Vec<Row> = Vec::new();
        for launch in 1..=effort.launches {
            eprintln!("  {area}: {}, launch {launch} of {}", self.name, effort.launches);
            let program = env::current_exe().map_err(|error| error.to_string())?;
            let quick = quick.then_some("--quick");
            let output = Command::new(program)
                .args([ONE_LAUNCH, area, self.name])
                .args(quick)
                .output()
                .map_err(|error| error.to_string())?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).as_ref().into());
            }
            for (at, line) in String::from_utf8_lossy(&output.stdout).lines().enumerate() {
                let row = Row::from_line(line).ok_or_else(|| format!("not a row: {line}"))?;
                match rows.get_mut(at) {
                    Some(known) => known.rates.extend(row.rates),
                    None => rows.push(row),
                }
            }
        }
        Ok(rows)
    }

    /// What a process of its own does: measures and prints one line per row.
    pub fn one_launch(&self, effort: &Effort) {
        for row in self.threads.iter().flat_map(|&threads| self.measure(threads, effort)) {
            println!("{}\t{}\t{}", row.threads, row.peer, row.rate());
        }
    }

    /// Measures and prints.
    pub fn run(&self, area: &str, effort: &Effort, quick: bool, tsv: bool) -> Result<(), Error> {
        let rows = if self.threads == [1] {
            eprintln!("  {area}: {}", self.name);
            self.measure(1, effort)
        } else {
            self.launch(area, effort, quick)?
        };
        if tsv {
            for row in &rows {
                let Row { threads, peer, .. } = row;
                println!("{area}\t{}\t{peer}\t{threads}\tops_per_s\t{:.0}", self.name, row.rate());
            }
        } else {
            self.print(area, &rows);
        }
        Ok(())
    }

    fn print(&self, area: &str, rows: &[Row]) {
        let width = rows.iter().map(|row| row.peer.len()).max().unwrap_or(0);
        println!("\n{area}: {}", self.name);
        println!("  {:width$}  threads    ns/op  million ops/s  times the first  spread", "peer");
        for row in rows {
            let first = rows.iter().find(|first| first.threads == row.threads).map_or(f64::NAN, Row::rate);
            println!(
                "  {:width$}  {:>7}  {:>7.1}  {:>13.2}  {:>15.2}  {:>4.0} %",
                row.peer,
                row.threads,
                row.nanos(),
                row.rate() / 1e6,
                row.rate() / first,
                row.spread() * 100.0,
            );
        }
        let Some((peer, allowed)) = self.bar else { return };
        let beside = rows.iter().find(|row| row.peer == peer);
        if let (Some(first), Some(beside)) = (rows.first(), beside) {
            let more = first.nanos() - beside.nanos();
            let met = if more <= allowed { "met" } else { "MISSED" };
            println!("  bar: at most {allowed} ns more than {peer}; it is {more:.1} ns: {met}");
        }
    }

    /// Finds a case by its name.
    pub fn named(cases: Vec<Self>, name: &str) -> Result<Self, Error> {
        let case = cases.into_iter().find(|case| case.name == name);
        case.ok_or_else(|| format!("no case {name:?} in this area").into())
    }
}

impl Start {
    /// Waits for the other threads, then runs `operation` until the slice is over.
    fn lap<R>(&self, mut operation: impl FnMut() -> R) -> Lap {
        self.line.wait();
        let start = Instant::now();
        let mut operations = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            for _ in 0..BATCH {
                black_box(operation());
            }
            operations += BATCH;
        }
        Lap { start, end: Instant::now(), operations }
    }
}

impl Row {
    fn from_line(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let threads = fields.next()?.parse().ok()?;
        let peer = fields.next()?.to_string();
        let rate = fields.next()?.parse().ok()?;
        Some(Self { threads, peer, rates: vec![rate] })
    }

    fn rate(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The time between two operations, whichever thread makes them.
    fn nanos(&self) -> f64 {
        1e9 / self.rate()
    }

    /// How far apart the middle half of the slices or launches lies, as a share of the median.
    fn spread(&self) -> f64 {
        (self.quantile(0.75) - self.quantile(0.25)) / self.rate()
    }

    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.rates.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
        let at = share * last as f64;
        let below = sorted[at as usize];
        let above = sorted[last.min(at as usize + 1)];
        below + (above - below) * at.fract()
    }
}

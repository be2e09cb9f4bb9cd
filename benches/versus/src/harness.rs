//! How many operations a second does each peer of a case reach, when the machine drifts meanwhile?
//!
//! Peers take turns in slices of some milliseconds, round after round, so that a machine that slows down hits all
//! alike; a figure is the median over its slices. What threads fight for settles when a process starts (where its
//! memory lies, which core runs what) and differs from one start to the next far more than within one: such a case
//! runs in several processes, and a figure is the median over them.
//!
//! The first peer is measured twice, as itself and as "(again)": what differs between the two is noise. The order within
//! a round is shuffled, so that no peer always finds what another has left in the caches.
//!
//! A case can also ask for tails. Then each round has further slices in which every operation is timed by itself, and
//! which count for nothing else: what the clock costs would spoil the rates, and threads that read it meet less often.

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
    /// With how many threads a quick run measures, if not with all of them.
    quick: Option<&'static [usize]>,
    peers: Vec<Peer>,
    bar: Option<(&'static str, f64)>,
    hold: fn() -> Box<dyn Any>,
    tails: bool,
}

struct Peer {
    name: &'static str,
    run: Box<dyn Fn(&Start) -> Lap + Send + Sync>,
}

/// What the threads of a slice share.
struct Start {
    line: Barrier,
    is_over: AtomicBool,
    /// Each operation is timed.
    is_timed: bool,
}

/// What one thread did in a slice.
struct Lap {
    start: Instant,
    end: Instant,
    operations: u64,
    times: Times,
}

/// What is known about a peer, in each slice or launch.
struct Row {
    threads: usize,
    peer: String,
    /// Operations a second of all threads together.
    rates: Vec<f64>,
    /// Operations of the slowest thread per one of the fastest.
    evenness: Vec<f64>,
    /// The nanoseconds that 999 of 1,000 operations take at most, with a reading of the clock.
    tails: Vec<f64>,
}

/// How many operations took how long, to within a sixteenth.
struct Times(Vec<u64>);

impl Times {
    const FINE: u32 = 4;

    fn new() -> Self {
        Self(vec![0; 64 << Self::FINE])
    }

    fn count(&mut self, time: Duration) {
        let nanos = (time.as_nanos() as u64).max(1 << Self::FINE);
        let shift = nanos.ilog2() - Self::FINE;
        self.0[(u64::from(shift) << Self::FINE) as usize + (nanos >> shift) as usize - (1 << Self::FINE)] +=
            1;
    }

    fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, count)| *sum += count);
    }

    /// The time that so large a share stays below.
    fn below(&self, share: f64) -> f64 {
        let mut left = (self.0.iter().sum::<u64>() as f64 * share) as u64;
        let at =
            self.0.iter().position(|count| left.checked_sub(*count).inspect(|rest| left = *rest).is_none());
        at.map_or(f64::NAN, |at| {
            (((at % (1 << Self::FINE)) + (1 << Self::FINE) + 1) << (at >> Self::FINE)) as f64
        })
    }
}

impl Case {
    /// A case for one thread.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            threads: &[1],
            quick: None,
            peers: Vec::new(),
            bar: None,
            hold: || Box::new(()),
            tails: false,
        }
    }

    /// Measures with so many threads, one number after the other.
    pub fn threads(mut self, threads: &'static [usize]) -> Self {
        self.threads = threads;
        self
    }

    /// Measures with only so many threads in a quick run, or not at all.
    pub fn quick(mut self, threads: &'static [usize]) -> Self {
        self.quick = Some(threads);
        self
    }

    /// With how many threads to measure.
    fn counts(&self, quick: bool) -> &'static [usize] {
        self.quick.filter(|_| quick).unwrap_or(self.threads)
    }

    /// Also measures how long the slowest operations take, and how evenly threads come to theirs.
    pub fn tails(mut self) -> Self {
        self.tails = true;
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

    /// Adds a peer of which one operation moves `items` items, with threads of its own.
    pub fn peer_in_bulk(
        self,
        name: &'static str,
        items: u64,
        operation: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        self.add(name, move |start| {
            start.line.wait();
            let (begin, mut operations) = (Instant::now(), 0);
            while operations == 0 || !start.is_over.load(Ordering::Relaxed) {
                operation();
                operations += items;
            }
            Lap { start: begin, end: Instant::now(), operations, times: Times::new() }
        })
    }

    /// Adds a peer of which one operation moves `items` items and returns what that took from the processor: that is its
    /// time, however long it had to wait.
    pub fn peer_by_processor(
        self,
        name: &'static str,
        items: u64,
        operation: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        self.add(name, move |start| {
            start.line.wait();
            let (begin, mut took, mut operations) = (Instant::now(), Duration::ZERO, 0);
            while operations == 0 || !start.is_over.load(Ordering::Relaxed) {
                took += operation();
                operations += items;
            }
            Lap { start: begin, end: begin + took, operations, times: Times::new() }
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
                Row::new(threads, format!("{}{again}", entrants[at].name))
            })
            .collect();
        let mut times: Vec<Times> = rows.iter().map(|_| Times::new()).collect();
        let mut order: Vec<usize> = (0..entrants.len()).collect();
        let mut seed = 1;
        for round in 0..=effort.rounds {
            shuffle(&mut order, &mut seed);
            for &at in &order {
                let laps = self.slice(entrants[at], threads, effort.slice, false);
                // The first round warms up.
                if round > 0 {
                    rows[at].hear(&laps);
                }
            }
            // Fewer of these: a slice has many operations, and a rate is only one number.
            for &at in order.iter().filter(|_| self.tails && round % 3 == 1) {
                let laps = self.slice(entrants[at], threads, effort.slice, true);
                laps.iter().for_each(|lap| times[at].add(&lap.times));
            }
        }
        for (row, times) in rows.iter_mut().zip(times).filter(|_| self.tails) {
            row.tails.push(times.below(0.999));
        }
        rows
    }

    /// Runs one peer for one slice and returns what its threads did.
    fn slice(&self, peer: &Peer, threads: usize, length: Duration, is_timed: bool) -> Vec<Lap> {
        let start = Start { line: Barrier::new(threads + 1), is_over: AtomicBool::new(false), is_timed };
        thread::scope(|scope| {
            let runner = || {
                let _held = (self.hold)();
                (peer.run)(&start)
            };
            let runners: Vec<_> = (0..threads).map(|_| scope.spawn(runner)).collect();
            start.line.wait();
            thread::sleep(length);
            start.is_over.store(true, Ordering::Relaxed);
            runners.into_iter().map(|runner| runner.join().expect("a peer panicked")).collect()
        })
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
                    Some(known) => {
                        known.rates.extend(row.rates);
                        known.evenness.extend(row.evenness);
                        known.tails.extend(row.tails);
                    }
                    None => rows.push(row),
                }
            }
        }
        Ok(rows)
    }

    /// What a process of its own does: measures and prints one line per row.
    pub fn one_launch(&self, effort: &Effort, quick: bool) {
        for row in self.counts(quick).iter().flat_map(|&threads| self.measure(threads, effort)) {
            println!("{}\t{}\t{}\t{}\t{}", row.threads, row.peer, row.rate(), row.even(), row.tail());
        }
    }

    /// Measures and prints.
    pub fn run(&self, area: &str, effort: &Effort, quick: bool, tsv: bool) -> Result<(), Error> {
        if self.counts(quick).is_empty() {
            return Ok(());
        }
        let rows = if self.threads == [1] {
            eprintln!("  {area}: {}", self.name);
            self.measure(1, effort)
        } else {
            self.launch(area, effort, quick)?
        };
        if tsv {
            for row in &rows {
                let Row { threads, peer, .. } = row;
                let case = format!("{area}\t{}\t{peer}\t{threads}", self.name);
                println!("{case}\tops_per_s\t{:.0}", row.rate());
                if self.tails {
                    println!("{case}\tp999_ns\t{:.0}", row.tail());
                    println!("{case}\tevenness\t{:.3}", row.even());
                }
            }
        } else {
            self.print(area, &rows);
        }
        Ok(())
    }

    fn print(&self, area: &str, rows: &[Row]) {
        let width = rows.iter().map(|row| row.peer.len()).max().unwrap_or(0);
        println!("\n{area}: {}", self.name);
        let tails = if self.tails { "  p99.9 ns  slowest thread" } else { "" };
        println!("  {:width$}  threads    ns/op  million ops/s  times the first  spread{tails}", "peer");
        for row in rows {
            let first = rows.iter().find(|first| first.threads == row.threads).map_or(f64::NAN, Row::rate);
            let tails = if self.tails {
                format!("  {:>8.0}  {:>14.2}", row.tail(), row.even())
            } else {
                String::new()
            };
            println!(
                "  {:width$}  {:>7}  {:>7.1}  {:>13.2}  {:>15.2}  {:>4.0} %{tails}",
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
        let mut times = Times::new();
        let start = Instant::now();
        let mut operations = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            if self.is_timed {
                let mut before = Instant::now();
                for _ in 0..BATCH {
                    black_box(operation());
                    let after = Instant::now();
                    times.count(after - before);
                    before = after;
                }
            } else {
                for _ in 0..BATCH {
                    black_box(operation());
                }
            }
            operations += BATCH;
        }
        Lap { start, end: Instant::now(), operations, times }
    }
}

/// Brings the entrants into another order (R. Durstenfeld, 1964), the same one in every process.
fn shuffle(order: &mut [usize], seed: &mut u64) {
    for last in (1..order.len()).rev() {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, (*seed >> 33) as usize % (last + 1));
    }
}

impl Row {
    fn new(threads: usize, peer: String) -> Self {
        Self { threads, peer, rates: Vec::new(), evenness: Vec::new(), tails: Vec::new() }
    }

    /// Counts a slice.
    fn hear(&mut self, laps: &[Lap]) {
        let first = laps.iter().map(|lap| lap.start).min();
        let last = laps.iter().map(|lap| lap.end).max();
        let time = last.zip(first).map_or(Duration::ZERO, |(last, first)| last - first);
        let operations = laps.iter().map(|lap| lap.operations);
        self.rates.push(operations.clone().sum::<u64>() as f64 / time.as_secs_f64());
        let least = operations.clone().min().unwrap_or(0);
        self.evenness.push(least as f64 / operations.max().unwrap_or(0).max(1) as f64);
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let mut row = Self::new(fields.next()?.parse().ok()?, fields.next()?.to_string());
        for values in [&mut row.rates, &mut row.evenness, &mut row.tails] {
            values.push(fields.next()?.parse().ok()?);
        }
        Some(row)
    }

    fn rate(&self) -> f64 {
        quantile(&self.rates, 0.5)
    }

    fn even(&self) -> f64 {
        quantile(&self.evenness, 0.5)
    }

    fn tail(&self) -> f64 {
        quantile(&self.tails, 0.5)
    }

    /// The time between two operations, whichever thread makes them.
    fn nanos(&self) -> f64 {
        1e9 / self.rate()
    }

    /// How far apart the middle half of the slices or launches lies, as a share of the median.
    fn spread(&self) -> f64 {
        (quantile(&self.rates, 0.75) - quantile(&self.rates, 0.25)) / self.rate()
    }
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share * last as f64;
    let below = sorted[at as usize];
    let above = sorted[last.min(at as usize + 1)];
    below + (above - below) * at.fract()
}

//! Twice as much work as can be done, of three priorities: what waits how long, and what is shed, first in a plain queue and
//! then in one that sheds what is too old.
//!
//! ```text
//! cargo run --release --example worker_queue
//! ```
//!
//! The work is real: each job reads a file of this machine and hashes it, on two threads. Three producers offer jobs at
//! twice the rate at which they are done: a fifth of the capacity is urgent, three fifths are normal, and bulk is more
//! than all the rest. When the queue is full, the lowest class makes room.
//!
//! In the first half that is all: the queue stays full, and what is not urgent waits as long as a full queue takes. Half-way
//! CoDel and newest-first are switched on: as much work is done, but what is done has just come. Each row is half a second.
//! At the end come a table and what must have held; if something did not, the program fails.
//!
//! [`queue`] and [`submit`] are what you would start from.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use floodwall::{
    Call, DropReason, Histogram, Overflow, Priorities, Queue, Reason, Work, Workers, stable_hash,
};

/// The queue before the workers; `target` is the difference between both halves: the wait that a job should not exceed.
fn queue(target: Option<Duration>, log: &Arc<Log>) -> Queue<Work> {
    let hears = log.clone();
    let queue = Queue::new(1_000)
        .priorities(Priorities::strict_from(200).then(100, 3).then(0, 1))
        .overflow(Overflow::DropLowest)
        .on_drop(move |work: Work, why| hears.of(work.call().priority).shed(why));
    match target {
        Some(target) => queue.codel(target, target * 20).newest_first_when_overloaded(),
        None => queue,
    }
}

/// Offers one file to be hashed. What is refused here a server would answer with 503 and `Retry-After`.
fn submit(workers: &Workers, log: &Arc<Log>, priority: u8, file: PathBuf) {
    let (offered, hears) = (Instant::now(), log.clone());
    let job = async move {
        hears.of(priority).waited(offered.elapsed());
        let hash = fs::read(file).map(|content| stable_hash(&content, 0));
        hears.of(priority).done(hash.is_ok());
    };
    match workers.try_run_for(Call::new().priority(priority), job) {
        Ok(job) => {
            log.of(priority).accepted.fetch_add(1, Relaxed);
            job.detach();
        }
        Err(rejected) => log.of(priority).refused(rejected.reason()),
    }
}

/// Name, priority, and its share of the capacity.
const CLASSES: [(&str, u8, f64); 3] = [("urgent", 220, 0.2), ("normal", 130, 0.6), ("bulk", 20, 1.2)];

const HALF: Duration = Duration::from_secs(4);
const ROW: Duration = Duration::from_millis(500);

/// What became of the jobs of one class.
#[derive(Default)]
struct ClassLog {
    accepted: AtomicU64,
    done: AtomicU64,
    unreadable: AtomicU64,
    full: AtomicU64,
    lowest: AtomicU64,
    too_old: AtomicU64,
    other: AtomicU64,
    waits: Histogram,
    /// Those of the row that is being filled.
    recent: Mutex<Histogram>,
}

#[derive(Default)]
struct Log([ClassLog; 3]);

impl Log {
    fn of(&self, priority: u8) -> &ClassLog {
        let class = CLASSES.iter().position(|class| class.1 == priority);
        &self.0[class.expect("one of the three")]
    }

    fn sum(&self, of: impl Fn(&ClassLog) -> &AtomicU64) -> u64 {
        self.0.iter().map(|class| of(class).load(Relaxed)).sum()
    }
}

impl ClassLog {
    fn waited(&self, wait: Duration) {
        self.waits.record(wait);
        self.recent.lock().unwrap().record(wait);
    }

    fn done(&self, is_read: bool) {
        self.done.fetch_add(1, Relaxed);
        self.unreadable.fetch_add(u64::from(!is_read), Relaxed);
    }

    fn shed(&self, why: DropReason) {
        let count = match why {
            DropReason::Lowest => &self.lowest,
            DropReason::Overloaded => &self.too_old,
            _ => &self.other,
        };
        count.fetch_add(1, Relaxed);
    }

    fn refused(&self, why: Reason) {
        let count = if why == Reason::QueueFull { &self.full } else { &self.other };
        count.fetch_add(1, Relaxed);
    }

    fn all_shed(&self) -> u64 {
        [&self.full, &self.lowest, &self.too_old, &self.other].map(|count| count.load(Relaxed)).iter().sum()
    }
}

/// Files of a size at which a job takes some tenths of a millisecond.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![
        PathBuf::from("/usr/lib"),
        PathBuf::from("/usr/bin"),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
    ];
    folders.extend(std::env::current_exe().ok().and_then(|program| Some(program.parent()?.to_owned())));
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.metadata() else { continue };
            if kind.is_dir() && !kind.is_symlink() {
                folders.push(entry.path());
            } else if kind.is_file() && (100_000..800_000).contains(&kind.len()) {
                found.push(entry.path());
            }
        }
        if found.len() >= 50 {
            break;
        }
    }
    found.truncate(50);
    found
}

/// How many files two threads hash in a second, with nothing else to do.
fn capacity(files: &[PathBuf]) -> Result<f64, Box<dyn Error>> {
    let workers = Workers::threads(2);
    let hash_all = || -> Result<u64, Box<dyn Error>> {
        let jobs = files.iter().cloned().map(|file| {
            workers
                .run_blocking(async move { fs::read(file).map(|content| stable_hash(&content, 0)).is_ok() })
        });
        let jobs: Vec<_> = jobs.collect::<Result<_, _>>()?;
        Ok(jobs.into_iter().filter_map(|job| job.wait_blocking().ok()).map(u64::from).sum())
    };
    // Once to bring them into memory.
    let readable = hash_all()?;
    let (start, mut done) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(800) {
        done += hash_all()?;
    }
    if readable == 0 {
        return Err("none of the files can be read".into());
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

/// What the workers can do in a second. Other programs on this machine change it, so it is measured again in each row.
struct Pace(AtomicU64);

impl Pace {
    fn per_second(&self) -> f64 {
        self.0.load(Relaxed) as f64
    }

    /// Hears what was done in a row. Where less was offered than could be done, that is a reason to offer more.
    fn hear(&self, done: u64) {
        let per_second = done as f64 / ROW.as_secs_f64();
        self.0.store(per_second.max(self.per_second() / 2.0) as u64, Relaxed);
    }
}

/// Offers jobs of one class at an even rate, in bursts of a millisecond.
fn produce(
    workers: &Workers,
    log: &Arc<Log>,
    class: usize,
    pace: &Pace,
    files: &[PathBuf],
    end: &AtomicBool,
) {
    let (_, priority, share) = CLASSES[class];
    let (mut then, mut due, mut offered) = (Instant::now(), 0.0, 0);
    while !end.load(Relaxed) {
        due += then.elapsed().as_secs_f64() * pace.per_second() * share;
        then = Instant::now();
        while (offered as f64) < due {
            submit(workers, log, priority, files[offered % files.len()].clone());
            offered += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs one half and returns what happened, and how much was done per second.
fn half(target: Option<Duration>, capacity: f64, files: &[PathBuf]) -> (Arc<Log>, f64) {
    let log = Arc::new(Log::default());
    let workers = Workers::builder().queue(queue(target, &log)).threads(2);
    let (pace, end) = (Pace(AtomicU64::new(capacity as u64)), AtomicBool::new(false));
    thread::scope(|scope| {
        for class in 0..CLASSES.len() {
            let (workers, log, pace, end) = (&workers, &log, &pace, &end);
            scope.spawn(move || produce(workers, log, class, pace, files, end));
        }
        let start = Instant::now();
        let (mut accepted, mut done, mut shed) = (0, 0, 0);
        while start.elapsed() < HALF {
            thread::sleep(ROW);
            let now = (
                log.sum(|class| &class.accepted),
                log.sum(|class| &class.done),
                log.0.iter().map(ClassLog::all_shed).sum::<u64>(),
            );
            print!(
                "{:>9}{:>8}{:>8}{:>8} ",
                now.0 - accepted,
                now.1 - done,
                now.2 - shed,
                workers.stats().queue.len
            );
            pace.hear(now.1 - done);
            (accepted, done, shed) = now;
            for class in &log.0 {
                let waits = std::mem::take(&mut *class.recent.lock().unwrap());
                print!("{:>9}{:>9}", show(waits.quantile(0.5)), show(waits.quantile(0.99)));
            }
            println!();
        }
        end.store(true, Relaxed);
    });
    let per_second = log.sum(|class| &class.done) as f64 / HALF.as_secs_f64();
    // What is still inside is not part of the question.
    drop(workers.shutdown_blocking(Duration::ZERO));
    (log, per_second)
}

fn show(wait: Option<Duration>) -> String {
    wait.map_or("-".to_owned(), |wait| format!("{:.1}", wait.as_secs_f64() * 1_000.0))
}

fn table(log: &Log) {
    println!("          accepted    done    full  lower  too old   wait p50    p99  p99.9 ms");
    for ((name, ..), class) in CLASSES.iter().zip(&log.0) {
        let count = |count: &AtomicU64| count.load(Relaxed);
        println!(
            "{name:>8}{:>10}{:>8}{:>8}{:>7}{:>9}{:>11}{:>7}{:>7}",
            count(&class.accepted),
            count(&class.done),
            count(&class.full),
            count(&class.lowest),
            count(&class.too_old),
            show(class.waits.quantile(0.5)),
            show(class.waits.quantile(0.99)),
            show(class.waits.quantile(0.999)),
        );
    }
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let files = files();
    if files.is_empty() {
        return Err("no files to hash were found".into());
    }
    let capacity = capacity(&files)?;
    println!(
        "{} files; two threads hash {capacity:.0} of them a second, and are offered twice what they can do",
        files.len()
    );

    let mut halves = Vec::new();
    // 5 ms, or some jobs' time: an urgent job also waits until a worker has ended another one.
    let target = Duration::from_millis(5).max(Duration::from_secs_f64(8.0 / capacity));
    for (target, name) in [(None, "a plain queue"), (Some(target), "CoDel, newest first under overload")] {
        println!("\n{name}: waits in ms (p50, p99)");
        println!(" accepted    done    shed  inside            urgent            normal              bulk");
        halves.push(half(target, capacity, &files));
    }
    for ((log, per_second), name) in halves.iter().zip(["a plain queue", "CoDel, newest first"]) {
        println!("\n{name}: {per_second:.0} a second");
        table(log);
    }

    let [plain, shedding] = &halves[..] else { unreachable!("two halves") };
    let half_of = |log: &Log| log.0[2].waits.quantile(0.5).unwrap_or(Duration::MAX);
    let held = [
        ("urgent jobs lose nothing", plain.0.0[0].all_shed() + shedding.0.0[0].all_shed() == 0),
        ("bulk that is done has waited less than half as long", half_of(&shedding.0) < half_of(&plain.0) / 2),
        ("about as much is done", shedding.1 > plain.1 / 2.0),
    ];
    println!();
    for (what, holds) in held {
        println!("{} {what}", if holds { "yes" } else { "NO " });
    }
    Ok(if held.iter().all(|claim| claim.1) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

//! Counters that are written behind into SQLite, by a process that is killed half-way and loses nothing.
//!
//! ```text
//! cargo run --release --example write_behind --features sqlite
//! ```
//!
//! A process counts visits to a thousand pages, 64 at a time. A visit is answered when its count is on disk, in the journal;
//! the database gets it soon, with many others in one transaction. Half-way the process is killed by SIGKILL, and
//! another one goes on where it stopped. The program hears of each answer, and in the end looks at the database: it
//! fails if a count that was answered is not there.
//!
//! [`open`] and [`visit`] are what you would start from. Below them come the process that counts, and the one that kills it.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodwall::WriteBehind;
use floodwall::store::journal::Journal;
use floodwall::store::{BlockingStore, Offload, Plain, Sqlite, Store};
use tokio::task::JoinSet;

type Counts = WriteBehind<u64, u64, Offload<Sqlite<u64, u64>>>;

/// Opens the counts of a folder, with what the database had not got when they were closed, or killed.
fn open(folder: &Path) -> Result<(Counts, Arc<Journal>), Box<dyn Error>> {
    // SQLite blocks, so its work goes to threads that may.
    let database = Sqlite::open(folder.join("counts.db"), "counts")?;
    let database = database.offload(|job| drop(tokio::task::spawn_blocking(job)));
    // `Always`: a write is taken when it is on disk. All who wait share one fsync.
    let (journal, recovery) = Journal::open(folder.join("journal"))?;
    let journal = Arc::new(journal);
    let counts = WriteBehind::builder(database)
        .journal(journal.clone(), &recovery, Plain)?
        // A count waits so long for newer ones of its page, which replace it; or until so many pages wait.
        .delay(Duration::from_millis(500))
        .batch(4_096)
        .build();
    // Somebody must do the writing.
    tokio::spawn(counts.run());
    Ok((counts, journal))
}

/// Counts a visit, and returns the count when it will survive whatever happens to this process.
async fn visit(counts: &Counts, page: u64) -> Result<u64, Box<dyn Error + Send + Sync>> {
    // The last count that was taken, in the database or not yet.
    let count = counts.load(&page).await?.unwrap_or(0) + 1;
    counts.save(&page, &count).await?;
    Ok(count)
}

const VISITORS: u64 = 64;
const PAGES: u64 = 1_024;
const VISITS: u64 = 40_000;

/// The process that counts, until all visits are made: says each count when it was taken.
#[tokio::main]
async fn count(folder: PathBuf, visits: u64) -> Result<(), Box<dyn Error>> {
    let (counts, journal) = open(&folder)?;
    say(format_args!("found {}", counts.backlog().keys))?;
    let mut visitors = JoinSet::new();
    for visitor in 0..VISITORS {
        let counts = counts.clone();
        visitors.spawn(async move {
            // Each has pages of its own: two who read a count at once would both write the same next one.
            for step in 0..visits / VISITORS {
                let page = (step * VISITORS + visitor) % PAGES;
                let count = visit(&counts, page).await?;
                say(format_args!("took {page} {count}"))?;
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        });
    }
    while let Some(visitor) = visitors.join_next().await {
        visitor?.map_err(|error| error.to_string())?;
    }
    let left = counts.close(Duration::from_secs(30)).await;
    assert!(left.is_empty(), "{} counts did not reach the database", left.len());
    say(format_args!("made {} {}", counts.backlog().written, journal.stats().syncs))?;
    Ok(())
}

/// In one piece, so that a kill does not cut a line.
fn say(line: std::fmt::Arguments<'_>) -> io::Result<()> {
    io::stdout().write_all(format!("{line}\n").as_bytes())
}

/// What was heard of the process that counts.
#[derive(Default)]
struct Heard {
    /// The last count of each page that was taken.
    counts: BTreeMap<u64, u64>,
    taken: u64,
    /// Writes that were found in the journal, rows that were written, and fsyncs of the journal.
    found: u64,
    rows: u64,
    syncs: u64,
}

impl Heard {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse().expect("a number");
        match words[0] {
            "found" => self.found = number(1),
            "took" => {
                let before = self.counts.insert(number(1), number(2));
                assert!(
                    before < Some(number(2)),
                    "a count that was taken was forgotten: {line} after {before:?}"
                );
                self.taken += 1;
            }
            "made" => (self.rows, self.syncs) = (number(1), number(2)),
            _ => panic!("{line}"),
        }
    }
}

fn start(folder: &Path, visits: u64) -> io::Result<(Child, io::Lines<BufReader<ChildStdout>>)> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("count").arg(folder).arg(visits.to_string()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    Ok((child, lines))
}

/// Compares the database with what was heard: how many counts are there, and how many are not, or are older.
fn compare(folder: &Path, heard: &Heard) -> Result<(usize, usize), Box<dyn Error>> {
    let database = Sqlite::<u64, u64>::open(folder.join("counts.db"), "counts")?;
    let pages: Vec<&u64> = heard.counts.keys().collect();
    let mut there = 0;
    for (row, count) in database.load_many(&pages)?.into_iter().zip(heard.counts.values()) {
        there += usize::from(row?.is_some_and(|row| row >= *count));
    }
    Ok((there, pages.len() - there))
}

fn kill_and_restart(folder: &Path) -> Result<(), Box<dyn Error>> {
    let (mut heard, begin) = (Heard::default(), Instant::now());
    println!("{VISITORS} at a time visit {PAGES} pages; a visit is answered when its count is on disk.");
    let (mut child, mut lines) = start(folder, VISITS)?;
    while heard.taken < VISITS / 2 {
        heard.hear(&lines.next().ok_or("it ended early")??);
    }
    child.kill()?; // SIGKILL, on Unix
    lines.try_for_each(|line| line.map(|line| heard.hear(&line)))?;
    println!("After {:.1?} and {} visits it was killed: {}.", begin.elapsed(), heard.taken, child.wait()?);
    let (there, missing) = compare(folder, &heard)?;
    println!("The database has the last counts of {there} pages, and lacks those of {missing}.");

    let (begin, before) = (Instant::now(), heard.taken);
    let (mut child, mut lines) = start(folder, VISITS - before)?;
    lines.try_for_each(|line| line.map(|line| heard.hear(&line)))?;
    let status = child.wait()?;
    println!("Started again, it found {} counts in the journal, and went on.", heard.found);
    let (visits, took) = (heard.taken - before, begin.elapsed());
    println!(
        "After another {took:.1?} and {visits} visits it ended: {status}. They took {} fsyncs, and {} rows were written.",
        heard.syncs, heard.rows,
    );
    let (there, missing) = compare(folder, &heard)?;
    println!("The database has the last counts of {there} pages, and lacks those of {missing}.");
    if !status.success() || missing > 0 {
        return Err("what was claimed does not hold".into());
    }
    println!("Every count that was answered is in the database.");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_some_and(|argument| argument == "count") {
        let folder = arguments.next().ok_or("where?")?;
        let visits = arguments.next().and_then(|visits| visits.to_str()?.parse().ok()).ok_or("how many?")?;
        return count(folder.into(), visits);
    }
    let folder = env::temp_dir().join(format!("floodwall-write-behind-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let outcome = kill_and_restart(&folder);
    fs::remove_dir_all(&folder)?;
    outcome
}

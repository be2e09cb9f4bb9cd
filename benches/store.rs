//! What does it cost to take a write for good, beside one `fsync`, and beside a database that syncs each write?
//!
//! With `--features sqlite` it also asks SQLite. `FLOODWALL_BENCH_PATH` names a folder on the disk in question. Where an `fsync`
//! costs almost nothing, only the counts of them mean something.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use floodwall::store::journal::{Durability, Journal, JournalStats, Kind};

const VALUE: [u8; 200] = [7; 200];
const THREADS: u32 = 64;

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes and syncs blocks to the end of a file, as the journal does; returns what one takes.
fn fsync(path: &Path, bytes: usize) -> Duration {
    let mut file = File::create(path.join("plain")).unwrap();
    let block = vec![7; bytes];
    let mut once = || {
        let start = Instant::now();
        file.write_all(&block).unwrap();
        file.sync_data().unwrap();
        start.elapsed()
    };
    for _ in 0..50 {
        once();
    }
    let mut took: Vec<Duration> = (0..500).map(|_| once()).collect();
    took.sort_unstable();
    took[took.len() / 2]
}

/// Has threads write as fast as they can; returns how many writes a second they got done.
fn per_second(threads: u32, each: u32, write: impl Fn(u32, u32) + Sync) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let write = &write;
            scope.spawn(move || (0..each).for_each(|count| write(thread, count)));
        }
    });
    f64::from(threads * each) / start.elapsed().as_secs_f64()
}

fn journal(path: &Path, durability: Durability, threads: u32, each: u32) -> (f64, JournalStats) {
    let path = path.join("journal");
    let (journal, _) = Journal::builder().durability(durability).open(&path).unwrap();
    let rate = per_second(threads, each, |thread, _| {
        let sequence = journal.append_blocking(Kind::Put, &thread.to_le_bytes(), &VALUE).unwrap();
        journal.acknowledge([sequence]);
    });
    let stats = journal.stats();
    drop(journal);
    fs::remove_dir_all(path).unwrap();
    (rate, stats)
}

fn main() {
    let root = std::env::var_os("FLOODWALL_BENCH_PATH").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = Folder(root.join(format!("floodwall-bench-{}", std::process::id())));
    fs::create_dir_all(&folder.0).unwrap();
    let path = &folder.0;

    println!("| what | writes a second | groups | writes a group | fsyncs | time a group, in fsyncs |");
    println!("|---|---|---|---|---|---|");
    for (name, durability, threads, each) in [
        ("Always, 1 writer", Durability::Always, 1, 2_000),
        ("Always, 64 writers", Durability::Always, THREADS, 500),
        ("Interval of 10 ms, 64 writers", Durability::Interval(Duration::from_millis(10)), THREADS, 2_000),
        ("Os, 1 writer", Durability::Os, 1, 100_000),
        ("Os, 64 writers", Durability::Os, THREADS, 2_000),
    ] {
        let (rate, stats) = journal(path, durability, threads, each);
        let writes = f64::from(threads * each);
        let group = Duration::from_secs_f64(writes / rate / stats.groups as f64);
        // A block as large as a group, just then: what a disk takes changes with the time of day.
        let plain = fsync(path, (writes / stats.groups as f64) as usize * 240);
        println!(
            "| {name} | {rate:.0} | {} | {:.1} | {} | {:.2} ({group:.0?} to {plain:.0?}) |",
            stats.groups,
            writes / stats.groups as f64,
            stats.syncs,
            group.as_secs_f64() / plain.as_secs_f64(),
        );
    }
    #[cfg(feature = "sqlite")]
    sqlite::compare(path);
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use floodwall::WriteBehind;
    use floodwall::store::{BlockingStore, Plain, Sqlite, Store};

    use super::*;

    /// 64 writers, each write on disk before it is taken.
    pub(super) fn compare(path: &Path) {
        let through = Sqlite::<u64, Vec<u8>>::open(path.join("through.db"), "rows").unwrap();
        let one_by_one = per_second(THREADS, 100, |thread, count| {
            through.save(&u64::from(thread * 100 + count), &VALUE.to_vec()).unwrap();
        });

        let store = Sqlite::<u64, Vec<u8>>::open(path.join("behind.db"), "rows").unwrap();
        let (journal, recovery) = Journal::open(path.join("behind")).unwrap();
        let behind =
            WriteBehind::builder(store.in_place()).journal(journal, &recovery, Plain).unwrap().build();
        let (at_once, drained) = std::thread::scope(|scope| {
            let runner = scope.spawn(|| behind.run_blocking());
            let rate = per_second(THREADS, 1_000, |thread, count| {
                behind.save_blocking(&u64::from(thread * 1_000 + count), &VALUE.to_vec()).unwrap();
            });
            let start = Instant::now();
            assert!(behind.close_blocking(Duration::from_secs(60)).is_empty());
            runner.join().unwrap();
            (rate, start.elapsed())
        });
        let plain = fsync(path, 240);
        println!();
        println!(
            "SQLite takes {one_by_one:.0} writes a second, each synced before it returns, from 64 writers;"
        );
        println!(
            "write-behind with a journal of `Always` {at_once:.0}: {:.1} times as many.",
            at_once / one_by_one
        );
        println!("64,000 keys were all in the database {drained:.1?} later. One fsync takes {plain:.0?}.");
    }
}

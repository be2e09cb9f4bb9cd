//! What does it cost to take a write for good, beside one `fsync`, and beside a database that syncs each write?
//!
//! With `--features sqlite` it also asks SQLite. `FLOODWALL_BENCH_PATH` names a folder on the disk in question. Where an `fsync`
//! costs almost nothing, only the counts of them mean something.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodwall::store::journal::{Durability, Journal, JournalStats, Kind};

const VALUE: [u8; 200] = [7; 200];
const WRITERS: u32 = 64;

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
    let mut took: Vec<Duration> = (0..200).map(|_| once()).collect();
    took.sort_unstable();
    took[took.len() / 2]
}

#[derive(Clone, Copy, PartialEq)]
enum Writers {
    Threads(u32),
    /// Of a runtime of two threads.
    Tasks,
    /// Of a runtime of one thread.
    TasksOfOneThread,
}

impl Writers {
    const fn count(self) -> u32 {
        match self {
            Writers::Threads(threads) => threads,
            _ => WRITERS,
        }
    }

    /// Has writers write as fast as they can; returns how many writes a second they got done.
    fn per_second<F: Future<Output = ()> + Send + 'static>(
        self,
        each: u32,
        write: impl Fn(u32, u32) -> F + Clone + Send + Sync + 'static,
    ) -> f64 {
        let start = Instant::now();
        let mut runtime = match self {
            Writers::Threads(threads) => {
                std::thread::scope(|scope| {
                    for writer in 0..threads {
                        let write = &write;
                        scope.spawn(move || {
                            (0..each).for_each(|count| floodwall::block_on(write(writer, count)))
                        });
                    }
                });
                return f64::from(threads * each) / start.elapsed().as_secs_f64();
            }
            Writers::Tasks => tokio::runtime::Builder::new_multi_thread(),
            Writers::TasksOfOneThread => tokio::runtime::Builder::new_current_thread(),
        };
        runtime.worker_threads(2).build().unwrap().block_on(async {
            let spawn = |writer| {
                let write = write.clone();
                tokio::spawn(async move {
                    for count in 0..each {
                        write(writer, count).await;
                    }
                })
            };
            for task in (0..WRITERS).map(spawn).collect::<Vec<_>>() {
                task.await.unwrap();
            }
        });
        f64::from(WRITERS * each) / start.elapsed().as_secs_f64()
    }
}

fn journal(path: &Path, durability: Durability, writers: Writers, each: u32) -> (f64, JournalStats) {
    let path = path.join("journal");
    let journal = Arc::new(Journal::builder().durability(durability).open(&path).unwrap().0);
    let shared = journal.clone();
    let rate = writers.per_second(each, move |writer, _| {
        let journal = shared.clone();
        async move {
            let sequence = journal.append(Kind::Put, &writer.to_le_bytes(), &VALUE).await.unwrap();
            journal.acknowledge([sequence]);
        }
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

    println!("| journal | writes a second | groups | writes a group | fsyncs | a group, in fsyncs as long |");
    println!("|---|---|---|---|---|---|");
    let always = Durability::Always;
    let interval = Durability::Interval(Duration::from_millis(10));
    for (name, durability, writers, each) in [
        ("Always, 1 thread", always, Writers::Threads(1), 500),
        ("Always, 64 threads", always, Writers::Threads(WRITERS), 300),
        ("Always, 64 tasks", always, Writers::Tasks, 300),
        ("Always, 64 tasks of one thread", always, Writers::TasksOfOneThread, 300),
        ("Interval of 10 ms, 64 threads", interval, Writers::Threads(WRITERS), 2_000),
        ("Os, 1 thread", Durability::Os, Writers::Threads(1), 100_000),
        ("Os, 64 threads", Durability::Os, Writers::Threads(WRITERS), 2_000),
    ] {
        let (rate, stats) = journal(path, durability, writers, each);
        let writes = f64::from(writers.count() * each);
        print!(
            "| {name} | {rate:.0} | {} | {:.1} | {} |",
            stats.groups,
            writes / stats.groups as f64,
            stats.syncs
        );
        if durability == always {
            // What the disk took for just these, each of a whole group.
            let (group, sync) = (writes / rate / stats.groups as f64, stats.sync_time / stats.syncs as u32);
            let group = Duration::from_secs_f64(group);
            print!(" {:.2} ({group:.0?} to {sync:.0?}) |", group.as_secs_f64() / sync.as_secs_f64());
            assert_eq!(stats.syncs, stats.groups, "one fsync for each group");
        }
        println!();
    }
    let plain = fsync(path, 240);
    println!("\nOne fsync beside nothing else takes {plain:.0?}.\n");
    #[cfg(feature = "sqlite")]
    sqlite::compare(path);
    #[cfg(not(feature = "sqlite"))]
    println!("With `--features sqlite` it also compares write-behind to SQLite.");
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use std::sync::atomic::{AtomicU64, Ordering};

    use floodwall::WriteBehind;
    use floodwall::store::{Batch, BlockingStore, InPlace, Plain, Sqlite, SqliteError, Store, Write};

    use super::*;

    /// SQLite, and how many transactions it was asked for.
    struct Rows {
        rows: Sqlite<u64, Vec<u8>>,
        commits: AtomicU64,
    }

    impl Rows {
        fn open(path: &Path) -> Self {
            Self { rows: Sqlite::open(path, "rows").unwrap(), commits: AtomicU64::new(0) }
        }
    }

    impl BlockingStore<u64, Vec<u8>> for Rows {
        type Error = SqliteError;

        fn load(&self, key: &u64) -> Result<Option<Vec<u8>>, SqliteError> {
            self.rows.load(key)
        }

        fn save(&self, key: &u64, value: &Vec<u8>) -> Result<(), SqliteError> {
            self.commits.fetch_add(1, Ordering::Relaxed);
            self.rows.save(key, value)
        }

        fn remove(&self, key: &u64) -> Result<(), SqliteError> {
            self.rows.remove(key)
        }

        fn write_many(&self, writes: &[Write<'_, u64, Vec<u8>>]) -> Batch<(), SqliteError> {
            self.commits.fetch_add(1, Ordering::Relaxed);
            self.rows.write_many(writes)
        }
    }

    type Behind = WriteBehind<u64, Vec<u8>, InPlace<Rows>>;

    fn behind(path: &Path, name: &str) -> (Behind, Arc<Journal>) {
        let path = path.join(name);
        fs::create_dir_all(&path).unwrap();
        let (journal, recovery) = Journal::open(path.join("journal")).unwrap();
        let journal = Arc::new(journal);
        let behind = WriteBehind::builder(Rows::open(&path.join("rows.db")).in_place());
        (behind.journal(journal.clone(), &recovery, Plain).unwrap().build(), journal)
    }

    /// A row that is not the one that is there: SQLite does not write what does not change.
    fn value() -> Vec<u8> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut value = VALUE.to_vec();
        value[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        value
    }

    fn write_through(path: &Path) -> f64 {
        let rows = Arc::new(Rows::open(&path.join("through.db")).in_place());
        Writers::Threads(WRITERS).per_second(20, move |writer, count| {
            let rows = rows.clone();
            async move { rows.save(&u64::from(writer * 20 + count), &value()).await.unwrap() }
        })
    }

    /// 64 writers, each write on disk before it is taken.
    pub(super) fn compare(path: &Path) {
        println!(
            "| 64 writers, on disk before a write is taken | writes a second | write-through, before and after | times as many | fsyncs of the journal | transactions | rows | all stored after another |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        for (name, writers, keys) in [
            ("threads, each key once", Writers::Threads(WRITERS), u64::MAX),
            ("threads, 1,000 counters", Writers::Threads(WRITERS), 1_000),
            ("tasks, each key once", Writers::Tasks, u64::MAX),
            ("tasks, 1,000 counters", Writers::Tasks, 1_000),
        ] {
            let each = 500;
            let before = write_through(path);
            let (behind, journal) = behind(path, name);
            let runner = std::thread::spawn({
                let behind = behind.clone();
                move || behind.run_blocking()
            });
            let shared = behind.clone();
            let rate = writers.per_second(each, move |writer, count| {
                let behind = shared.clone();
                async move { behind.save(&(u64::from(writer * each + count) % keys), &value()).await.unwrap() }
            });
            let syncs = journal.stats().syncs;
            let start = Instant::now();
            assert!(behind.close_blocking(Duration::from_secs(60)).is_empty());
            let drained = start.elapsed();
            runner.join().unwrap();
            let after = write_through(path);
            let times = rate / ((before + after) / 2.0);
            println!(
                "| {name} | {rate:.0} | {before:.0}, {after:.0} | {times:.1} | {syncs} for {} | {} | {} | {drained:.0?} |",
                WRITERS * each,
                behind.store().0.commits.load(Ordering::Relaxed),
                behind.backlog().written,
            );
        }

        let (behind, _journal) = behind(path, "one");
        (0..100).for_each(|_| behind.save_blocking(&7, &value()).unwrap());
        behind.flush_blocking();
        println!("\n100 updates of one key made {} write.", behind.backlog().written);
        assert_eq!((behind.backlog().written, behind.store().0.commits.load(Ordering::Relaxed)), (1, 1));
    }
}

//! The journal on a real disk, in a process that is killed at a random moment, again and again; with `--features sqlite` also
//! what is written behind into a database.
//!
//! A kill takes nothing that the operating system has, so here all durabilities promise the same. What a crash of the
//! machine takes is in `journal.rs`.
//!
//! The test runs its own binary once more as the process that writes. What was accepted there comes back through a
//! pipe, and is looked for after the kill.
#![cfg(all(unix, not(floodwall_loom)))]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use floodwall::store::journal::{Durability, Journal, JournalError, Kind, Record, Recovery};

const PATH: &str = "FLOODWALL_CRASH_PATH";
const MODE: &str = "FLOODWALL_CRASH_MODE";
const ROUND: &str = "FLOODWALL_CRASH_ROUND";
const ROUNDS: u64 = 210;
const WRITERS: u64 = 4;
const KEYS: u64 = 5;

const MODES: [(&str, Durability); 3] = [
    ("always", Durability::Always),
    ("interval", Durability::Interval(Duration::from_millis(2))),
    ("os", Durability::Os),
];

fn toss(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed ^ (*seed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 20
}

fn open(path: &Path, durability: Durability) -> (Journal, Recovery) {
    loop {
        // Small, so that segments come and go all the time.
        match Journal::builder().durability(durability).segment_bytes(8 << 10).open(path) {
            // The test beside this one is about to start a process, which has the lock's file until it runs its program.
            Err(JournalError::Locked) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

/// A value that says to which write it belongs; of any length.
fn value(round: u64, count: u64, length: u64) -> Vec<u8> {
    let mut value = format!("{round} {count} ").into_bytes();
    value.extend((0..length).map(|at| (count ^ at) as u8 | 1));
    value
}

/// Returns the round and the count that a value says, if it is whole.
fn read_value(value: &[u8]) -> Option<(u64, u64)> {
    let mut words = value.splitn(3, |byte| *byte == b' ');
    let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<u64>().ok();
    let (round, count) = (number()?, number()?);
    let rest = words.next()?;
    (value == self::value(round, count, rest.len() as u64)).then_some((round, count))
}

fn say(line: String) {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).unwrap();
    out.flush().unwrap();
}

/// What the process that is killed is told: where, how and in which round.
fn told() -> Option<(PathBuf, Durability, u64)> {
    let path = std::env::var_os(PATH)?;
    let mode = std::env::var(MODE).unwrap();
    let (_, durability) = MODES.into_iter().find(|(name, _)| *name == mode).unwrap();
    Some((path.into(), durability, std::env::var(ROUND).unwrap().parse().unwrap()))
}

/// Runs one of the tests here as a process, kills it at a random moment, and returns what it has said.
fn kill(test: &str, path: &Path, mode: &str, round: u64) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .envs([(MODE, mode), (ROUND, &round.to_string())])
        .env(PATH, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.by_ref().map(Result::unwrap).any(|line| line == "@ready");
    assert!(ready, "the process ended early");
    let heard = std::thread::spawn(move || lines.map(Result::unwrap).collect::<Vec<_>>());
    // Any moment will do, also none at all.
    std::thread::sleep(Duration::from_micros(toss(&mut (round ^ 77)) % 40_000));
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "it did not end by the kill");
    heard.join().unwrap()
}

/// Not a test by itself: what the killed process runs. Writes until it is killed, and says what was accepted.
#[test]
fn the_process_that_is_killed() {
    let Some((path, durability, round)) = told() else { return };
    let (journal, recovery) = open(&path, durability);
    // What earlier rounds have left goes bit by bit, so that some of it has to be carried along.
    let left = Mutex::new(recovery.records.into_iter().map(|record| record.sequence).collect::<Vec<_>>());
    say("\n@ready\n".into());
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (journal, left) = (&journal, &left);
            scope.spawn(move || {
                let seed = &mut (round * WRITERS + writer);
                let mut mine = Vec::new();
                for count in 1.. {
                    let key = format!("{writer}/{}", toss(seed) % KEYS);
                    let value = value(round, count, toss(seed) % 300);
                    let sequence = journal.append_blocking(Kind::Put, key.as_bytes(), &value).unwrap();
                    say(format!("@accepted {sequence} {writer} {key} {count}\n"));
                    mine.push(sequence);
                    if toss(seed) % 4 == 0 {
                        // As a store would: said before it is done. The first ones of this round, so that no older
                        // record of a key is acknowledged later than a newer one.
                        let take = toss(seed) as usize % (mine.len() + 1);
                        let mut some: Vec<u64> = mine.drain(..take).collect();
                        if toss(seed) % 8 == 0 {
                            let mut left = left.lock().unwrap();
                            let take = left.len().min(3);
                            some.extend(left.drain(..take));
                        }
                        some.iter().for_each(|sequence| say(format!("@acknowledged {sequence}\n")));
                        journal.acknowledge(some);
                    }
                }
            });
        }
    });
}

#[derive(Default)]
struct Promised {
    /// Sequence number to key, round and count.
    accepted: BTreeMap<u64, (String, u64, u64)>,
    acknowledged: BTreeSet<u64>,
    /// All sequence numbers that were ever given out.
    given: BTreeSet<u64>,
    /// By writer, in the last round: the highest count that was accepted.
    counts: BTreeMap<String, u64>,
}

impl Promised {
    fn hear(&mut self, line: &str, round: u64) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["@accepted", sequence, writer, key, count] => {
                let (sequence, count) = (sequence.parse().unwrap(), count.parse().unwrap());
                assert!(self.given.insert(sequence), "{sequence} was given out twice");
                self.accepted.insert(sequence, (key.to_owned(), round, count));
                self.counts.insert(writer.to_owned(), count);
            }
            ["@acknowledged", sequence] => drop(self.acknowledged.insert(sequence.parse().unwrap())),
            _ => {}
        }
    }

    fn check(&self, records: &[Record], round: u64) {
        let found: BTreeMap<u64, &Record> = records.iter().map(|record| (record.sequence, record)).collect();
        for (sequence, (key, round, count)) in &self.accepted {
            match found.get(sequence) {
                Some(record) => {
                    assert_eq!(record.key, key.as_bytes());
                    assert_eq!(read_value(&record.value), Some((*round, *count)), "{sequence}");
                }
                None => assert!(self.acknowledged.contains(sequence), "{sequence} of round {round} is lost"),
            }
        }
        let mut last = BTreeMap::new();
        for record in records {
            let at = read_value(&record.value).expect("the value is whole");
            let before = last.insert(&record.key, at);
            assert!(before < Some(at), "{before:?} before {at:?}");
            let key = String::from_utf8(record.key.clone()).unwrap();
            let known = self.counts.get(key.split('/').next().unwrap()).copied().unwrap_or(0);
            // One write of each writer may have been under way.
            assert!(at.0 < round || at.1 <= known + 1, "{key}: {at:?} was never written");
        }
    }
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_was_accepted_is_found_after_a_kill() {
    let folder = Folder(std::env::temp_dir().join(format!("floodwall-crash-{}", std::process::id())));
    let (mut accepted, mut found, mut torn) = (0, 0, 0);
    for (mode, durability) in MODES {
        let path = folder.0.join(mode);
        let mut promised = Promised::default();
        for round in 0..ROUNDS / 3 {
            let heard = kill("the_process_that_is_killed", &path, mode, round);
            promised.counts.clear();
            let before = promised.accepted.len();
            heard.iter().for_each(|line| promised.hear(line, round));
            accepted += promised.accepted.len() - before;

            let (journal, recovery) = open(&path, durability);
            promised.check(&recovery.records, round);
            found += recovery.records.len();
            torn += usize::from(recovery.torn_bytes > 0);
            // What was acknowledged and is found all the same may go now, or later.
            let sequences: Vec<u64> = recovery.records.iter().map(|record| record.sequence).collect();
            promised.accepted.retain(|sequence, _| sequences.binary_search(sequence).is_ok());
            promised.acknowledged.clear();
            if round % 8 == 7 {
                promised.accepted.clear();
                journal.acknowledge(sequences);
                journal.close_blocking().unwrap();
            }
        }
    }
    println!("{ROUNDS} kills: {accepted} writes accepted, {found} records found, {torn} ends torn");
    assert!(accepted > ROUNDS as usize * 10, "only {accepted} writes were accepted");
}

/// Writes that go through a write-behind with a journal into SQLite, in a process that is killed.
#[cfg(feature = "sqlite")]
mod database {
    use floodwall::WriteBehind;
    use floodwall::store::{BlockingStore, InPlace, Plain, Sqlite, Store};
    use rusqlite::Connection;

    use super::*;

    /// Keys of each writer, and one that all of them write.
    const OWN: u64 = 4;
    const SHARED: u64 = 1_000;
    /// No value, but a write that takes one away. Values of a writer rise, over all rounds.
    const REMOVED: u64 = 1 << 63;

    type Behind = WriteBehind<u64, u64, InPlace<Sqlite<u64, u64>>>;

    /// A database that remembers in which order its rows were written.
    fn connect(path: &Path) -> Connection {
        let connection = Connection::open(path.join("rows.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
                CREATE TABLE IF NOT EXISTS history (at INTEGER PRIMARY KEY, key BLOB, value BLOB);
                CREATE TRIGGER IF NOT EXISTS new AFTER INSERT ON rows
                    BEGIN INSERT INTO history (key, value) VALUES (new.key, new.value); END;
                CREATE TRIGGER IF NOT EXISTS other AFTER UPDATE ON rows
                    BEGIN INSERT INTO history (key, value) VALUES (new.key, new.value); END;",
            )
            .unwrap();
        connection
    }

    fn open(path: &Path, durability: Durability) -> Behind {
        let (journal, recovery) = super::open(&path.join("journal"), durability);
        let store = Sqlite::new(connect(path), "rows").unwrap();
        WriteBehind::builder(store.in_place())
            .journal(journal, &recovery, Plain)
            .unwrap()
            .batch(8)
            .delay(Duration::from_millis(2))
            .build()
    }

    fn row(connection: &Connection, key: u64) -> Option<u64> {
        let row =
            connection.query_row("SELECT value FROM rows WHERE key = ?1", (key.to_be_bytes(),), |row| {
                row.get::<_, [u8; 8]>(0)
            });
        row.ok().map(u64::from_be_bytes)
    }

    /// Not a test by itself: what the killed process runs.
    #[test]
    fn the_process_that_is_killed() {
        let Some((path, durability, round)) = told() else { return };
        // Before it is opened: the kill may come while what was found is on its way to the database.
        say("\n@ready\n".into());
        let behind = open(&path, durability);
        std::thread::scope(|scope| {
            scope.spawn(|| behind.run_blocking());
            for writer in 0..WRITERS {
                let behind = &behind;
                scope.spawn(move || {
                    let seed = &mut (round * WRITERS + writer);
                    for count in 1.. {
                        let own = toss(seed) % 4 != 0;
                        let key = if own { writer * OWN + toss(seed) % OWN } else { SHARED };
                        let value = writer << 48 | round << 32 | count;
                        if own && toss(seed) % 4 == 0 {
                            say(format!("@began {key} {}\n", REMOVED | value));
                            behind.remove_blocking(&key).unwrap();
                            say(format!("@accepted {key} {}\n", REMOVED | value));
                        } else {
                            say(format!("@began {key} {value}\n"));
                            behind.save_blocking(&key, &value).unwrap();
                            say(format!("@accepted {key} {value}\n"));
                        }
                    }
                });
            }
        });
    }

    /// A write that may be the last one of its key.
    struct Candidate {
        value: u64,
        accepted: bool,
        /// Those that had been accepted before it began, and those of which a kill has left unknown what they became.
        before: Vec<u64>,
    }

    /// By key: all of its writes that may be the last one.
    #[derive(Default)]
    struct Writes {
        candidates: BTreeMap<u64, Vec<Candidate>>,
        accepted: usize,
    }

    impl Writes {
        fn hear(&mut self, line: &str, left: &BTreeSet<u64>) {
            let words: Vec<&str> = line.split(' ').collect();
            let [what @ ("@began" | "@accepted"), key, value] = words[..] else { return };
            let (key, value) = (key.parse().unwrap(), value.parse().unwrap());
            let none = || vec![Candidate { value: REMOVED, accepted: true, before: Vec::new() }];
            let candidates = self.candidates.entry(key).or_insert_with(none);
            if what == "@began" {
                let older = candidates.iter().filter(|other| other.accepted || left.contains(&other.value));
                let before = older.map(|other| other.value).collect();
                candidates.push(Candidate { value, accepted: false, before });
            } else {
                let this = candidates.iter_mut().find(|other| other.value == value).unwrap();
                this.accepted = true;
                let before = std::mem::take(&mut this.before);
                candidates.retain(|other| !before.contains(&other.value));
                self.accepted += 1;
            }
        }

        /// All that may be the last ones, of all keys.
        fn left(&self) -> BTreeSet<u64> {
            self.candidates.values().flatten().map(|candidate| candidate.value).collect()
        }

        /// Says whether this may be what was written last; if so, nothing else is from now on.
        fn settle(&mut self, key: u64, found: Option<u64>) {
            let Some(candidates) = self.candidates.get_mut(&key) else { return assert_eq!(found, None) };
            candidates.retain(|other| match found {
                Some(value) => other.value == value,
                None => other.value & REMOVED != 0,
            });
            assert!(!candidates.is_empty(), "key {key}: {found:x?} was not written last");
            candidates.truncate(1);
            candidates[0].accepted = true;
        }
    }

    /// The writes of each writer to a key came to the database in their order, some of them again. Returns how many.
    fn check_order(connection: &Connection) -> usize {
        let mut history = connection.prepare("SELECT key, value FROM history ORDER BY at").unwrap();
        let rows = history.query_map((), |row| Ok((row.get::<_, [u8; 8]>(0)?, row.get::<_, [u8; 8]>(1)?)));
        let (mut last, mut count) = (BTreeMap::new(), 0);
        for row in rows.unwrap() {
            let (key, value) = row.unwrap();
            let value = u64::from_be_bytes(value);
            let before = last.insert((key, value >> 48), value);
            assert!(before <= Some(value), "key {key:?}: {before:x?} before {value:x}");
            count += 1;
        }
        count
    }

    #[test]
    fn what_was_accepted_is_in_the_database_after_a_kill() {
        let path = std::env::temp_dir().join(format!("floodwall-crash-database-{}", std::process::id()));
        let folder = Folder(path);
        std::fs::create_dir_all(&folder.0).unwrap();
        let connection = connect(&folder.0);
        let (mut writes, mut saved) = (Writes::default(), 0);
        for round in 0..ROUNDS {
            let (mode, durability) = MODES[round as usize % 3];
            let left = writes.left();
            let heard = kill("database::the_process_that_is_killed", &folder.0, mode, round);
            heard.iter().for_each(|line| writes.hear(line, &left));
            // Else the next process finds what this one has left, and may be killed over it.
            if toss(&mut (round ^ 5)) % 3 == 0 || round == ROUNDS - 1 {
                let keys: Vec<u64> = writes.candidates.keys().copied().collect();
                let before: Vec<Option<u64>> = keys.iter().map(|key| row(&connection, *key)).collect();
                let behind = open(&folder.0, durability);
                let found = behind.load_many_blocking(&keys.iter().collect::<Vec<_>>()).unwrap();
                let found: Vec<Option<u64>> = found.into_iter().map(Result::unwrap).collect();
                assert!(behind.close_blocking(Duration::from_secs(60)).is_empty());
                for (key, found) in keys.iter().zip(&found) {
                    writes.settle(*key, *found);
                    assert_eq!(row(&connection, *key), *found, "key {key}");
                }
                saved += before.iter().zip(&found).filter(|(before, found)| before != found).count();
            }
        }
        let (accepted, made) = (writes.accepted, check_order(&connection));
        println!(
            "{ROUNDS} kills: {accepted} writes accepted, {made} made, {saved} found in the journal alone"
        );
        assert!(accepted > ROUNDS as usize && made > 0 && saved > 0);
    }
}

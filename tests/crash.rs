//! The journal on a real disk, in a process that is killed at a random moment, again and again.
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

use floodwall::store::journal::{Durability, Journal, Kind, Record, Recovery};

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
    // Small, so that segments come and go all the time.
    Journal::builder().durability(durability).segment_bytes(8 << 10).open(path).unwrap()
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

/// Not a test by itself: what the killed process runs. Writes until it is killed, and says what was accepted.
#[test]
fn the_process_that_is_killed() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let mode = std::env::var(MODE).unwrap();
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let (_, durability) = MODES.into_iter().find(|(name, _)| *name == mode).unwrap();
    let (journal, recovery) = open(Path::new(&path), durability);
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes()).unwrap();
        out.flush().unwrap();
    };
    // What earlier rounds have left goes bit by bit, so that some of it has to be carried along.
    let left = Mutex::new(recovery.records.into_iter().map(|record| record.sequence).collect::<Vec<_>>());
    say("\n@ready\n".into());
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (journal, left, say) = (&journal, &left, &say);
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
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "the_process_that_is_killed", "--nocapture"])
                .envs([(MODE, mode), (ROUND, &round.to_string())])
                .env(PATH, &path)
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
            promised.counts.clear();
            let before = promised.accepted.len();
            heard.join().unwrap().iter().for_each(|line| promised.hear(line, round));
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

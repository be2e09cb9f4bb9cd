//! The journal, on a disk that fails, loses and crashes.
#![cfg(not(floodwall_loom))]

#[path = "support/disk.rs"]
mod disk;

use std::collections::{BTreeMap, BTreeSet};

use disk::{Fault, FaultyDisk, Unsynced, toss};
use floodwall::store::journal::{Journal, JournalBuilder, JournalError, Kind, Recovery};

fn small() -> JournalBuilder {
    Journal::builder().segment_bytes(4096)
}

fn open(disk: &FaultyDisk) -> (Journal, Recovery) {
    small().open_on(disk.clone()).unwrap()
}

fn put(journal: &Journal, key: &str, value: &str) -> u64 {
    journal.append_blocking(Kind::Put, key.as_bytes(), value.as_bytes()).unwrap()
}

fn values(recovery: &Recovery) -> Vec<String> {
    recovery.records.iter().map(|record| String::from_utf8(record.value.clone()).unwrap()).collect()
}

/// What a run has asked for, and what it was promised.
#[derive(Default)]
struct History {
    /// Each write that was tried, by a number that its value begins with.
    tried: BTreeMap<u64, (Kind, Vec<u8>, Vec<u8>)>,
    /// Sequence number to number of the write.
    accepted: BTreeMap<u64, u64>,
    acknowledged: BTreeSet<u64>,
    /// Acknowledged, and on disk since.
    settled: BTreeSet<u64>,
}

impl History {
    /// Nothing that was accepted is missing, nothing is there that was not tried, in order.
    fn check(&self, recovery: &Recovery, what: &str) {
        let mut found = BTreeMap::new();
        let mut last = 0;
        for record in &recovery.records {
            assert!(record.sequence > last, "{what}: out of order");
            last = record.sequence;
            let number = u64::from_le_bytes(*record.value.first_chunk().unwrap());
            let tried = &self.tried[&number];
            assert_eq!((record.kind, &record.key, &record.value), (tried.0, &tried.1, &tried.2), "{what}");
            if let Some(accepted) = self.accepted.get(&record.sequence) {
                assert_eq!(*accepted, number, "{what}: another write has the number {}", record.sequence);
            }
            assert!(!self.settled.contains(&record.sequence), "{what}: {} came back", record.sequence);
            assert!(found.insert(number, record.sequence).is_none(), "{what}: twice");
        }
        for (sequence, number) in &self.accepted {
            let lost = !self.acknowledged.contains(sequence) && found.get(number) != Some(sequence);
            assert!(!lost, "{what}: {sequence} is lost; {} found", found.len());
        }
    }

    fn go_on(&mut self, recovery: &Recovery, what: &str) {
        self.check(recovery, what);
        // What is found again has to be acknowledged again.
        for record in &recovery.records {
            self.acknowledged.remove(&record.sequence);
        }
    }

    /// Runs some steps drawn by `seed`, until they are done or the journal fails.
    fn run(&mut self, disk: &FaultyDisk, mut seed: u64, steps: usize) -> Result<(), JournalError> {
        let seed = &mut seed;
        let (mut journal, recovery) = small().open_on(disk.clone())?;
        self.go_on(&recovery, "at the start");
        for _ in 0..steps {
            match toss(seed) % 16 {
                0..9 => {
                    let number = self.tried.len() as u64;
                    let length = if toss(seed) % 8 == 0 { 1500 } else { toss(seed) as usize % 200 };
                    let mut value = number.to_le_bytes().to_vec();
                    value.extend((0..length).map(|_| toss(seed) as u8));
                    let kind = if toss(seed) % 4 == 0 { Kind::Remove } else { Kind::Put };
                    let key = vec![toss(seed) as u8 % 8; 1 + toss(seed) as usize % 9];
                    self.tried.insert(number, (kind, key.clone(), value.clone()));
                    let sequence = journal.append_blocking(kind, &key, &value)?;
                    self.accepted.insert(sequence, number);
                }
                9..13 => {
                    let live: Vec<u64> = self
                        .accepted
                        .keys()
                        .filter(|sequence| !self.acknowledged.contains(sequence))
                        .copied()
                        .collect();
                    // Mostly the oldest ones, now and then any one, so that some live long.
                    let some: Vec<u64> =
                        live.iter().take(live.len() / 2).filter(|_| toss(seed) % 8 > 0).copied().collect();
                    self.acknowledged.extend(&some);
                    journal.acknowledge(some);
                }
                13 => {
                    journal.sync_blocking()?;
                    self.settled = self.acknowledged.clone();
                }
                14 => {
                    journal.close_blocking()?;
                    self.settled = self.acknowledged.clone();
                    drop(journal);
                    let opened = small().open_on(disk.clone())?;
                    self.go_on(&opened.1, "after a close");
                    journal = opened.0;
                }
                _ => {
                    drop(journal);
                    let opened = small().open_on(disk.clone())?;
                    self.go_on(&opened.1, "after a drop");
                    journal = opened.0;
                }
            }
        }
        Ok(())
    }
}

#[test]
fn what_was_accepted_is_found_until_it_is_acknowledged() {
    let disk = FaultyDisk::default();
    let (journal, recovery) = open(&disk);
    assert_eq!(recovery, Recovery::default());
    let first = put(&journal, "a", "1");
    let second = put(&journal, "a", "2");
    assert!(first < second);
    drop(journal);

    let (journal, recovery) = open(&disk);
    assert_eq!(values(&recovery), ["1", "2"]);
    assert_eq!(recovery.records[1].sequence, second);
    journal.acknowledge([first]);
    journal.sync_blocking().unwrap();
    assert!(put(&journal, "a", "3") > second);
    drop(journal);
    assert_eq!(values(&open(&disk).1), ["2", "3"]);
}

#[test]
fn a_crash_at_any_verb_loses_nothing_that_was_accepted() {
    let (mut crashes, mut torn) = (0, 0);
    for seed in 0..4 {
        let whole = FaultyDisk::default();
        History::default().run(&whole, seed, 150).unwrap();
        for verb in 0..whole.verbs() {
            let disk = FaultyDisk::default();
            disk.fail_at(verb, Fault::Crash);
            let mut history = History::default();
            // Who leads hears of the last few verbs only the next time.
            let _ = history.run(&disk, seed, 150);
            assert!(disk.is_down());
            let coin = |side: u64| seed << 32 | (verb as u64) << 8 | side;
            for unsynced in [
                Unsynced::Lost,
                Unsynced::Kept,
                Unsynced::Any(coin(1)),
                Unsynced::Any(coin(2)),
                Unsynced::Prefix(coin(3)),
                Unsynced::Prefix(coin(4)),
            ] {
                let what = format!("seed {seed}, verb {verb}, {unsynced:?}");
                let found = disk.after_crash(unsynced);
                let recovery = match small().open_on(found.clone()) {
                    Ok((_, recovery)) => recovery,
                    Err(error) => panic!("{what}: {error}"),
                };
                history.check(&recovery, &what);
                torn += usize::from(recovery.torn_bytes > 0);
                crashes += 1;
                // Once more, with a crash in the middle of the opening.
                let again = disk.after_crash(unsynced);
                again.fail_at(toss(&mut coin(5)) as usize % (found.verbs() + 1), Fault::Crash);
                let opened = small().open_on(again.clone());
                drop(opened);
                let third = again.after_crash(Unsynced::Any(coin(6)));
                history.check(&open(&third).1, &format!("{what}, twice"));
            }
        }
    }
    println!("{crashes} crashes, {torn} torn");
    assert!(crashes > 4_000 && torn > 200, "{crashes} crashes, {torn} torn");
}

//! The journal, on a disk that fails, loses and crashes.
#![cfg(not(floodwall_loom))]

#[path = "support/disk.rs"]
mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use disk::{Fault, FaultyDisk, Unsynced, open, put, small, toss, values};
use floodwall::Clock;
use floodwall::store::journal::{Durability, Journal, JournalError, Kind, Recovery};

/// What a run has asked for, and what it was promised.
#[derive(Default)]
struct History {
    durability: Durability,
    clock: Option<Clock>,
    /// Each write that was tried, by a number that its value begins with.
    tried: BTreeMap<u64, (Kind, Vec<u8>, Vec<u8>)>,
    /// Sequence number to number of the write, and when it was accepted.
    accepted: BTreeMap<u64, (u64, Instant)>,
    acknowledged: BTreeSet<u64>,
    /// Acknowledged, and on disk since.
    settled: BTreeSet<u64>,
    /// What was accepted up to this sequence number is on disk by now.
    promised: u64,
}

impl History {
    fn new(durability: Durability) -> Self {
        Self { durability, clock: Some(Clock::manual()), ..Self::default() }
    }

    fn clock(&self) -> Clock {
        self.clock.clone().unwrap_or_default()
    }

    fn open(&self, disk: &FaultyDisk) -> Result<(Journal, Recovery), JournalError> {
        small().durability(self.durability).clock(self.clock()).open_on(disk.clone())
    }

    /// Nothing that was promised is missing, nothing is there that was not tried, in order; and if something is missing that
    /// was accepted, so is all that came later.
    fn check(&self, recovery: &Recovery, promised: u64, what: &str) {
        let mut found = BTreeMap::new();
        let mut last = 0;
        for record in &recovery.records {
            assert!(record.sequence > last, "{what}: out of order");
            last = record.sequence;
            let number = u64::from_le_bytes(*record.value.first_chunk().unwrap());
            let tried = &self.tried[&number];
            assert_eq!((record.kind, &record.key, &record.value), (tried.0, &tried.1, &tried.2), "{what}");
            if let Some(accepted) = self.accepted.get(&record.sequence) {
                assert_eq!(accepted.0, number, "{what}: another write has the number {}", record.sequence);
            }
            assert!(!self.settled.contains(&record.sequence), "{what}: {} came back", record.sequence);
            assert!(found.insert(number, record.sequence).is_none(), "{what}: twice");
        }
        let mut lost = None;
        for (sequence, (number, _)) in &self.accepted {
            let is_found = found.get(number) == Some(sequence);
            if is_found {
                assert!(lost.is_none(), "{what}: {lost:?} is lost, and the later {sequence} is not");
            } else if !self.acknowledged.contains(sequence) {
                assert!(*sequence > promised, "{what}: {sequence} is lost; {} found", found.len());
                lost = Some(sequence);
            }
        }
    }

    fn last_accepted(&self) -> u64 {
        self.accepted.last_key_value().map_or(0, |(sequence, _)| *sequence)
    }

    fn go_on(&mut self, recovery: &Recovery, what: &str) {
        // The machine has not stopped.
        self.check(recovery, u64::MAX, what);
        // What is found again has to be acknowledged again.
        for record in &recovery.records {
            self.acknowledged.remove(&record.sequence);
        }
        self.promised = self.last_accepted();
    }

    /// Runs some steps drawn by `seed`, until they are done or the journal fails.
    fn run(&mut self, disk: &FaultyDisk, seed: u64, steps: usize) -> Result<(), JournalError> {
        let (mut journal, recovery) = self.open(disk)?;
        self.go_on(&recovery, "at the start");
        let done = self.steps(disk, &mut journal, seed, steps);
        if done.is_err() {
            let again = journal.append_blocking(Kind::Put, b"", b"").unwrap_err();
            assert_eq!(again.to_string(), journal.ended().unwrap().to_string());
            assert!(matches!(again, JournalError::Poisoned(_) | JournalError::Io(_)), "{again}");
            assert!(journal.sync_blocking().is_err());
        }
        done
    }

    fn steps(
        &mut self,
        disk: &FaultyDisk,
        journal: &mut Journal,
        mut seed: u64,
        steps: usize,
    ) -> Result<(), JournalError> {
        let seed = &mut seed;
        let clock = self.clock();
        for _ in 0..steps {
            clock.advance(Duration::from_millis(toss(seed) % 100));
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
                    assert!(sequence > self.last_accepted());
                    self.accepted.insert(sequence, (number, clock.now()));
                    let old = |at: Instant| match self.durability {
                        Durability::Always => true,
                        Durability::Interval(interval) => clock.now() - at >= interval,
                        _ => false,
                    };
                    let promised = self.accepted.iter().rev().find(|(_, (_, at))| old(*at));
                    self.promised = self.promised.max(promised.map_or(0, |(sequence, _)| *sequence));
                }
                9..13 => {
                    let live: Vec<u64> = self
                        .accepted
                        .keys()
                        .filter(|sequence| !self.acknowledged.contains(sequence))
                        .copied()
                        .collect();
                    // Mostly the oldest ones, but some live long.
                    let some: Vec<u64> =
                        live.iter().take(live.len() / 2).filter(|_| toss(seed) % 8 > 0).copied().collect();
                    self.acknowledged.extend(&some);
                    journal.acknowledge(some);
                }
                13 => {
                    journal.sync_blocking()?;
                    self.settled = self.acknowledged.clone();
                    self.promised = self.last_accepted();
                }
                step => {
                    if step == 14 {
                        journal.close_blocking()?;
                        self.settled = self.acknowledged.clone();
                    }
                    // Closed before it is opened again.
                    *journal = small().open_on(FaultyDisk::default()).unwrap().0;
                    let (opened, recovery) = match self.open(disk) {
                        Ok(opened) => opened,
                        Err(error) => {
                            *journal = ended();
                            return Err(error);
                        }
                    };
                    self.go_on(&recovery, "opened again");
                    *journal = opened;
                }
            }
        }
        Ok(())
    }
}

/// A journal that has failed.
fn ended() -> Journal {
    let disk = FaultyDisk::default();
    let (journal, _) = open(&disk);
    disk.fail_at(disk.verbs(), Fault::Crash);
    journal.append_blocking(Kind::Put, b"", b"").unwrap_err();
    journal
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

const MODES: [Durability; 3] =
    [Durability::Always, Durability::Interval(Duration::from_millis(500)), Durability::Os];

/// What a crash can leave, in six ways.
fn crashes(seed: u64) -> [Unsynced; 6] {
    let coin = |side: u64| seed << 8 | side;
    [
        Unsynced::Lost,
        Unsynced::Kept,
        Unsynced::Any(coin(1)),
        Unsynced::Any(coin(2)),
        Unsynced::Prefix(coin(3)),
        Unsynced::Prefix(coin(4)),
    ]
}

/// Opens what a crash has left, and says how much of it was torn.
fn check_crash(history: &History, disk: &FaultyDisk, unsynced: Unsynced, seed: u64, what: &str) -> u64 {
    let what = format!("{what}, {:?}, {unsynced:?}", history.durability);
    let found = disk.after_crash(unsynced);
    let torn = match history.open(&found) {
        Ok((_, recovery)) => {
            history.check(&recovery, history.promised, &what);
            recovery.torn_bytes
        }
        Err(error) => panic!("{what}: {error}"),
    };
    // Once more, with a crash in the middle of the opening.
    let mut seed = seed;
    let again = disk.after_crash(unsynced);
    again.fail_at(toss(&mut seed) as usize % (found.verbs() + 1), Fault::Crash);
    drop(history.open(&again));
    let third = again.after_crash(Unsynced::Any(seed));
    let (_, recovery) = history.open(&third).unwrap_or_else(|error| panic!("{what}, twice: {error}"));
    history.check(&recovery, history.promised, &format!("{what}, twice"));
    torn
}

#[test]
fn a_crash_at_any_verb_loses_nothing_that_was_promised() {
    let (mut seen, mut torn) = (0, 0);
    for (seed, durability) in (0..).zip(MODES) {
        let whole = FaultyDisk::default();
        History::new(durability).run(&whole, seed, 150).unwrap();
        for verb in 0..whole.verbs() {
            let disk = FaultyDisk::default();
            disk.fail_at(verb, Fault::Crash);
            let mut history = History::new(durability);
            // Who leads hears of the last few verbs only the next time.
            let _ = history.run(&disk, seed, 150);
            assert!(disk.is_down());
            let coin = seed << 32 | verb as u64;
            for unsynced in crashes(coin) {
                let bytes = check_crash(&history, &disk, unsynced, coin, &format!("verb {verb}"));
                torn += usize::from(bytes > 0);
                seen += 1;
            }
        }
    }
    println!("{seen} crashes, {torn} torn");
    assert!(seen > 3_000 && torn > 500, "{seen} crashes, {torn} torn");
}

/// Also not when the journal is opened again on the same machine, finds in memory what never reached the disk, and
/// goes on; and then the machine stops.
#[test]
fn a_verb_that_fails_once_ends_the_journal_and_loses_nothing_that_was_promised() {
    let (mut failed, mut went_on) = (0, 0);
    for (seed, durability) in (10..).zip(MODES) {
        let whole = FaultyDisk::default();
        History::new(durability).run(&whole, seed, 120).unwrap();
        for verb in 0..whole.verbs() {
            let disk = FaultyDisk::default();
            disk.fail_at(verb, Fault::Eio);
            let mut history = History::new(durability);
            match history.run(&disk, seed, 120) {
                Ok(()) => went_on += 1,
                Err(_) => failed += 1,
            }
            let coin = seed << 32 | verb as u64;
            let what = format!("failed at verb {verb}");
            check_crash(&history, &disk, crashes(coin)[verb % 6], coin, &what);
            let next = disk.after_kill();
            history.run(&next, coin, 20).unwrap();
            for unsynced in crashes(coin) {
                check_crash(&history, &next, unsynced, coin, &format!("{what}, gone on"));
            }
        }
    }
    println!("{failed} ended, {went_on} went on");
    // What only tidies may fail.
    assert!(failed > 300 && went_on < failed / 4, "{failed} ended, {went_on} went on");
}

#[test]
fn a_write_that_takes_only_a_part_is_continued() {
    let whole = FaultyDisk::default();
    History::new(Durability::Always).run(&whole, 20, 100).unwrap();
    for verb in 0..whole.verbs() {
        let disk = FaultyDisk::default();
        disk.fail_at(verb, Fault::Short);
        let mut history = History::new(Durability::Always);
        history.run(&disk, 20, 100).unwrap();
        check_crash(&history, &disk, Unsynced::Lost, 20, &format!("short at verb {verb}"));
    }
}

#[test]
fn a_full_disk_refuses_new_writes_and_keeps_the_old_ones() {
    for room in [0, 39, 40, 60, 100, 500, 3_000, 4_050, 4_096, 4_120, 4_200, 9_000] {
        for durability in MODES {
            let disk = FaultyDisk::default();
            let mut history = History::new(durability);
            history.run(&disk, 30, 10).unwrap();
            let (journal, recovery) = history.open(&disk).unwrap();
            history.go_on(&recovery, "before");
            disk.limit(Some(disk.bytes() + room));
            let (mut refused, mut number) = (Vec::new(), 1000);
            while refused.len() < 3 {
                let mut value = u64::to_le_bytes(number).to_vec();
                value.extend([7; 200]);
                history.tried.insert(number, (Kind::Put, b"key".to_vec(), value.clone()));
                match journal.append_blocking(Kind::Put, b"key", &value) {
                    Ok(sequence) => drop(history.accepted.insert(sequence, (number, history.clock().now()))),
                    Err(JournalError::Full(_)) => refused.push(value),
                    Err(error) => panic!("{room}: {error}"),
                }
                number += 1;
            }
            assert!(journal.ended().is_none());
            let what = format!("full after {room}");
            let (_, recovery) = history.open(&disk.after_kill()).unwrap();
            history.check(&recovery, u64::MAX, &what);
            // What was refused is not there.
            assert!(recovery.records.iter().all(|record| !refused.contains(&record.value)), "{what}");

            // There is room again.
            disk.limit(None);
            let number = number + 1;
            let value = u64::to_le_bytes(number).to_vec();
            history.tried.insert(number, (Kind::Put, b"key".to_vec(), value.clone()));
            let sequence = journal.append_blocking(Kind::Put, b"key", &value).unwrap();
            history.accepted.insert(sequence, (number, history.clock().now()));
            journal.sync_blocking().unwrap();
            history.promised = sequence;
            for unsynced in crashes(room as u64) {
                check_crash(&history, &disk, unsynced, room as u64, &what);
            }
        }
    }
}

/// Acknowledging makes room on a full disk, though saying so takes some.
#[test]
fn a_full_disk_becomes_free_by_acknowledging() {
    let disk = FaultyDisk::default();
    let (journal, _) = open(&disk);
    let value = "v".repeat(500);
    let sequences: Vec<u64> = (0..40).map(|_| put(&journal, "key", &value)).collect();
    disk.limit(Some(disk.bytes()));
    assert!(matches!(journal.append_blocking(Kind::Put, b"key", &[1; 4000]), Err(JournalError::Full(_))));
    journal.acknowledge(sequences);
    // The first one may still be refused; it finds what can go.
    let _ = journal.append_blocking(Kind::Put, b"key", &[1; 4000]);
    let sequence = put(&journal, "key", &value);
    drop(journal);
    let (_, recovery) = open(&disk.after_kill());
    assert_eq!(recovery.records.last().unwrap().sequence, sequence);
}

/// The files of a run, with what must be found in them.
fn recorded(seed: u64, close: bool) -> (FaultyDisk, History) {
    let disk = FaultyDisk::default();
    let mut history = History::new(Durability::Always);
    history.run(&disk, seed, 60).unwrap();
    let (journal, recovery) = history.open(&disk).unwrap();
    history.go_on(&recovery, "recorded");
    history.steps(&disk, &mut { journal }, seed, 0).unwrap();
    let (mut journal, recovery) = history.open(&disk).unwrap();
    history.go_on(&recovery, "recorded");
    for number in 5000..5006 {
        let value = u64::to_le_bytes(number).repeat(9);
        history.tried.insert(number, (Kind::Put, b"end".to_vec(), value.clone()));
        let sequence = journal.append_blocking(Kind::Put, b"end", &value).unwrap();
        history.accepted.insert(sequence, (number, history.clock().now()));
    }
    if close {
        journal.close_blocking().unwrap();
        journal = ended();
    }
    drop(journal);
    (disk.after_kill(), history)
}

#[test]
fn a_flipped_bit_is_an_error_or_loses_nothing() {
    let (mut errors, mut harmless) = (0, 0);
    for close in [false, true] {
        let (disk, history) = recorded(41, close);
        assert!(disk.names().len() > 2, "{:?}", disk.names());
        for name in disk.names() {
            let contents = disk.contents(&name);
            for at in 0..contents.len() {
                let damaged = disk.after_kill();
                let mut contents = contents.clone();
                contents[at] ^= 1 << (at % 8);
                damaged.put(&name, contents);
                match history.open(&damaged) {
                    Ok((_, recovery)) => {
                        history.check(&recovery, u64::MAX, &format!("{name}, byte {at}"));
                        harmless += 1;
                    }
                    Err(JournalError::Corrupt { segment, offset, .. }) => {
                        assert!(name.contains(&segment.to_string()), "{name}");
                        assert!(offset <= at as u64, "{name}: byte {at}, not {offset}");
                        errors += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    println!("{errors} errors, {harmless} harmless");
    // Only the mark that a close leaves can be torn without a loss.
    assert!(errors > 5_000 && harmless < 60, "{errors} errors, {harmless} harmless");
}

#[test]
fn only_the_last_segment_may_end_early() {
    let (disk, history) = recorded(42, false);
    let names = disk.names();
    let (last, others) = names.split_last().unwrap();
    assert!(others.len() > 1);
    for name in others {
        let length = disk.contents(name).len();
        for cut in [1, 30, 40, length / 2, length - 40, length - 1, length] {
            let cut = cut.clamp(1, length);
            let damaged = disk.after_kill();
            damaged.put(name, disk.contents(name)[..length - cut].to_vec());
            let error = history.open(&damaged).unwrap_err();
            assert!(matches!(error, JournalError::Corrupt { .. }), "{name} without {cut}: {error}");
        }
        let damaged = disk.after_kill();
        damaged.delete(name);
        let is_first = *name == names[0];
        // The first one may have been removed rightly, as far as its followers know.
        assert_eq!(history.open(&damaged).is_err(), !is_first, "{name}");
    }
    let contents = disk.contents(last);
    for length in 40..contents.len() {
        let torn = disk.after_kill();
        torn.put(last, contents[..length].to_vec());
        let (_, recovery) = history.open(&torn).unwrap();
        history.check(&recovery, 0, &format!("{length} of {}", contents.len()));
        // Zeroes behind it are no frames.
        let mut longer = contents[..length].to_vec();
        longer.resize(length.next_multiple_of(disk::SECTOR) + 100, 0);
        torn.put(last, longer);
        let torn = disk.after_kill();
        history.check(&history.open(&torn).unwrap().1, 0, "zeroes");
    }
}

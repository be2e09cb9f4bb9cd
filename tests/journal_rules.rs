//! What a journal promises to those who use it together: groups, leaders, limits, room, and files that lie.
#![cfg(not(floodwall_loom))]

#[path = "support/disk.rs"]
mod disk;
#[path = "support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use disk::{Fault, FaultyDisk, Unsynced, open, put, small, values};
use floodwall::store::journal::{Disk, DiskFile, Durability, Journal, JournalError, Kind, Recovery, Write};
use floodwall::{Clock, TimeSource};
use proptest::prelude::*;
use support::{poll, secs};

/// A disk whose syncs wait at a gate, or panic.
#[derive(Clone, Default)]
struct Gated {
    disk: FaultyDisk,
    gate: Arc<(Mutex<Gate>, Condvar)>,
    writes: Arc<AtomicUsize>,
    panics: Arc<AtomicBool>,
    /// By how much a sync advances it.
    clock: Option<(Clock, Duration)>,
}

#[derive(Default)]
struct Gate {
    closed: bool,
    waiting: usize,
}

impl Gated {
    fn close(&self) {
        self.gate.0.lock().unwrap().closed = true;
    }

    fn open(&self) {
        self.gate.0.lock().unwrap().closed = false;
        self.gate.1.notify_all();
    }

    fn wait_for_a_leader(&self) {
        let waiting = self.gate.1.wait_while(self.gate.0.lock().unwrap(), |gate| gate.waiting == 0);
        assert_eq!(waiting.unwrap().waiting, 1);
    }
}

struct GatedFile {
    file: Box<dyn DiskFile>,
    disk: Gated,
}

impl DiskFile for GatedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.writes.fetch_add(1, Ordering::Relaxed);
        self.file.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        let (gate, changed) = &*self.disk.gate;
        let mut gate = gate.lock().unwrap();
        gate.waiting += 1;
        changed.notify_all();
        let mut gate = changed.wait_while(gate, |gate| gate.closed).unwrap();
        gate.waiting -= 1;
        drop(gate);
        assert!(!self.disk.panics.load(Ordering::Relaxed), "a disk with a bug");
        if let Some((clock, takes)) = &self.disk.clock {
            clock.advance(*takes);
        }
        self.file.sync()
    }
}

impl Disk for Gated {
    fn names(&self) -> io::Result<Vec<String>> {
        Disk::names(&self.disk)
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(GatedFile { file: self.disk.create(name)?, disk: self.clone() }))
    }
    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        self.disk.read(name)
    }
    fn length(&self, name: &str) -> io::Result<u64> {
        self.disk.length(name)
    }
    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        self.disk.truncate(name, length)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }
}

/// Polls one that may lead: it lets others come first, once.
fn lead<F: Future>(append: &mut Pin<Box<F>>) -> Poll<F::Output> {
    assert!(poll(append).is_pending());
    poll(append)
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn those_who_come_during_a_sync_share_the_next_one() {
    let disk = Gated::default();
    let (journal, _) = Journal::builder().open_on(disk.clone()).unwrap();
    disk.close();
    let (writes, syncs) = (disk.writes.load(Ordering::Relaxed), disk.disk.syncs());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| put(&journal, "first", "1"));
        disk.wait_for_a_leader();
        let key = |number: usize| format!("key {number}").into_bytes();
        let keys: Vec<Vec<u8>> = (0..64).map(key).collect();
        let mut appends: Vec<_> =
            keys.iter().map(|key| Box::pin(journal.append(Kind::Put, key, b"v"))).collect();
        assert!(appends.iter_mut().all(|append| poll(append).is_pending()));
        disk.open();
        let first = first.join().unwrap();
        // Whichever is polled first leads for all.
        let Poll::Ready(accepted) = lead(&mut appends[0]) else { panic!("the first one leads") };
        assert_eq!(accepted.unwrap(), first + 1);
        for (append, place) in appends[1..].iter_mut().zip(2..) {
            let Poll::Ready(accepted) = poll(append) else { panic!("it was led") };
            assert_eq!(accepted.unwrap(), first + place);
        }
    });
    assert_eq!(disk.writes.load(Ordering::Relaxed) - writes, 2);
    assert_eq!(disk.disk.syncs() - syncs, 2);
    assert_eq!(journal.stats().groups, 2);
    assert_eq!(journal.stats().live_records, 65);
}

#[test]
fn tasks_of_one_thread_share_a_sync_though_who_leads_blocks_it() {
    let disk = FaultyDisk::default();
    let (journal, _) = Journal::builder().open_on(disk.clone()).unwrap();
    let (journal, syncs) = (Arc::new(journal), disk.syncs());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let write = |task: u8| {
            let journal = journal.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    journal.append(Kind::Put, &[task], b"v").await.unwrap();
                }
            })
        };
        for task in (0..64).map(write).collect::<Vec<_>>() {
            task.await.unwrap();
        }
    });
    assert_eq!((journal.stats().live_records, journal.stats().groups), (640, 10));
    assert_eq!(disk.syncs() - syncs, 10);
}

type Events = Arc<Mutex<VecDeque<Box<dyn FnOnce() + Send>>>>;

/// A clock on which something happens at each reading, as long as there is something left.
struct Eventful(Clock, Events);

impl TimeSource for Eventful {
    fn now(&self) -> Instant {
        let event = self.1.lock().unwrap().pop_front();
        if let Some(event) = event {
            event();
        }
        self.0.now()
    }

    fn sleep_until(&self, at: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.0.sleep_until(at))
    }
}

/// Two write together. When the first of them is there again, it waits for the second one: a look at a time.
#[test]
fn a_group_waits_for_those_of_the_last_one_but_no_longer_than_half_a_sync() {
    // When the second one comes, in milliseconds after the sync, which took 10, and with whom it is written.
    for (comes_after, groups) in [(0, 2), (4, 2), (5, 3)] {
        let (clock, events) = (Clock::manual(), Events::default());
        let takes = Duration::from_millis(10);
        let disk = Gated { clock: Some((clock.clone(), takes)), ..Gated::default() };
        let builder = Journal::builder().clock(Clock::new(Eventful(clock.clone(), events.clone())));
        let journal = Arc::new(builder.open_on(disk).unwrap().0);
        let append = || {
            let journal = journal.clone();
            Box::pin(async move { journal.append(Kind::Put, b"k", b"v").await.unwrap() })
        };
        let [mut first, mut second] = [append(), append()];
        assert!(poll(&mut first).is_pending() && lead(&mut second).is_ready() && poll(&mut first).is_ready());
        assert_eq!(journal.stats().groups, 1);

        let mut first = append();
        assert!(poll(&mut first).is_pending());
        let second = Arc::new(Mutex::new(append()));
        let comes = second.clone();
        let advance = Duration::from_millis(comes_after);
        events.lock().unwrap().extend::<[Box<dyn FnOnce() + Send>; 3]>([
            Box::new(|| ()),
            Box::new(move || clock.advance(advance)),
            Box::new(move || assert!(poll(&mut comes.lock().unwrap()).is_pending())),
        ]);
        assert!(poll(&mut first).is_ready());
        assert_eq!(events.lock().unwrap().len(), 0);
        let mut second = second.lock().unwrap();
        assert!(poll(&mut second).is_ready() || poll(&mut second).is_ready());
        assert_eq!(journal.stats().groups, groups, "it comes after {comes_after} ms");
    }
}

#[test]
fn a_waiter_that_is_dropped_or_not_polled_holds_nobody_up() {
    let disk = Gated::default();
    let (journal, _) = Journal::builder().open_on(disk.clone()).unwrap();
    disk.close();
    let woken = [(); 4].map(|()| Arc::new(Woken::default()));
    let counts = || woken.each_ref().map(|woken| woken.0.load(Ordering::Relaxed));
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| put(&journal, "first", "1"));
        disk.wait_for_a_leader();
        let mut appends: Vec<_> =
            woken.iter().map(|_| Some(Box::pin(journal.append(Kind::Put, b"k", b"v")))).collect();
        for (append, woken) in appends.iter_mut().zip(&woken) {
            let waker = Waker::from(woken.clone());
            assert!(append.as_mut().unwrap().as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        // One leaves before its turn, one when it has been called, and one is not polled.
        appends[0] = None;
        disk.open();
        leader.join().unwrap();
        assert_eq!(counts(), [0, 1, 1, 1]);
        appends[1] = None;
        let Poll::Ready(accepted) = lead(appends[3].as_mut().unwrap()) else { panic!("it leads") };
        accepted.unwrap();
        let Poll::Ready(accepted) = poll(appends[2].as_mut().unwrap()) else { panic!("it was led") };
        accepted.unwrap();
    });
    // Those who left brought records that nobody needs.
    journal.close_blocking().unwrap();
    assert_eq!(values(&open(&disk.disk.after_kill()).1), ["1", "v", "v"]);
}

#[test]
fn an_append_that_is_dropped_while_it_is_written_leaves_nothing_to_acknowledge() {
    let disk = Gated::default();
    let (journal, _) = Journal::builder().open_on(disk.clone()).unwrap();
    disk.close();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| put(&journal, "first", "1"));
        disk.wait_for_a_leader();
        let mut dropped = Box::pin(journal.append(Kind::Put, b"k", b"dropped"));
        assert!(poll(&mut dropped).is_pending());
        let mut second = Box::pin(journal.append(Kind::Put, b"second", b"2"));
        assert!(poll(&mut second).is_pending());
        disk.open();
        first.join().unwrap();
        disk.close();
        let second = scope.spawn(|| floodwall::block_on(second).unwrap());
        disk.wait_for_a_leader();
        drop(dropped);
        disk.open();
        second.join().unwrap();
    });
    put(&journal, "third", "3");
    assert_eq!(journal.stats().live_records, 3);
}

/// A waker that looks at the journal when it is dropped.
struct Nosy(Arc<Journal>, Arc<AtomicUsize>);

impl Wake for Nosy {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Nosy {
    fn drop(&mut self) {
        self.1.fetch_add(self.0.stats().segments, Ordering::Relaxed);
    }
}

#[test]
fn wakers_are_dropped_outside_the_lock() {
    let (disk, drops) = (Gated::default(), Arc::new(AtomicUsize::new(0)));
    let journal = Arc::new(Journal::builder().open_on(disk.clone()).unwrap().0);
    let nosy = || Waker::from(Arc::new(Nosy(journal.clone(), drops.clone())));
    disk.close();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| put(&journal, "first", "1"));
        disk.wait_for_a_leader();
        let mut appends: Vec<_> =
            (0..3).map(|_| Some(Box::pin(journal.append(Kind::Put, b"k", b"v")))).collect();
        for append in appends.iter_mut().flatten() {
            for waker in [nosy(), nosy()] {
                assert!(append.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            }
        }
        // One leaves before its group is written, one meanwhile, and one stays.
        appends[0] = None;
        disk.open();
        first.join().unwrap();
        disk.close();
        let leader = scope.spawn(|| put(&journal, "second", "2"));
        disk.wait_for_a_leader();
        appends[1] = None;
        disk.open();
        leader.join().unwrap();
    });
    assert_eq!(drops.load(Ordering::Relaxed), 6);
}

#[test]
fn a_disk_that_panics_ends_the_journal_for_all() {
    let disk = Gated::default();
    let (journal, _) = Journal::builder().open_on(disk.clone()).unwrap();
    disk.close();
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| journal.append_blocking(Kind::Put, b"k", b"v"));
        disk.wait_for_a_leader();
        let mut waiting = Box::pin(journal.append(Kind::Put, b"k", b"v"));
        assert!(poll(&mut waiting).is_pending());
        disk.panics.store(true, Ordering::Relaxed);
        disk.open();
        assert!(leader.join().is_err());
        let Poll::Ready(Err(error)) = poll(&mut waiting) else { panic!("nobody leads any more") };
        assert_eq!(error.to_string(), "journal poisoned by a failed write: the disk panicked");
    });
    assert!(matches!(journal.close_blocking(), Err(JournalError::Poisoned(_))));
}

#[test]
fn a_failed_sync_is_never_asked_again() {
    let disk = FaultyDisk::default();
    let (journal, _) = open(&disk);
    put(&journal, "a", "1");
    disk.fail_at(disk.verbs() + 1, Fault::Eio);
    let failed = journal.append_blocking(Kind::Put, b"a", b"2").unwrap_err();
    let JournalError::Poisoned(error) = &failed else { panic!("{failed}") };
    assert_eq!(error.raw_os_error(), Some(5));
    let verbs = disk.verbs();
    for _ in 0..3 {
        assert!(matches!(journal.append_blocking(Kind::Put, b"a", b"3"), Err(JournalError::Poisoned(_))));
        assert!(matches!(journal.sync_blocking(), Err(JournalError::Poisoned(_))));
        assert!(matches!(journal.close_blocking(), Err(JournalError::Poisoned(_))));
    }
    assert_eq!(disk.verbs(), verbs, "the disk was touched again");
    drop(journal);

    // The second record is only in the system's memory. What is opened now promises to keep it, and keeps it.
    let (journal, recovery) = open(&disk.after_kill());
    assert_eq!(values(&recovery), ["1", "2"]);
    drop(journal);
}

#[test]
fn what_is_found_after_a_failed_sync_is_written_to_another_file() {
    let disk = FaultyDisk::default();
    let (journal, _) = open(&disk);
    put(&journal, "a", "1");
    disk.fail_at(disk.verbs() + 1, Fault::Eio);
    journal.append_blocking(Kind::Put, b"a", b"2").unwrap_err();
    drop(journal);
    let machine = disk.after_kill();
    let (journal, recovery) = open(&machine);
    assert_eq!(values(&recovery), ["1", "2"]);
    put(&journal, "a", "3");
    drop(journal);
    for unsynced in [Unsynced::Lost, Unsynced::Kept] {
        assert_eq!(values(&open(&machine.after_crash(unsynced)).1), ["1", "2", "3"]);
    }
}

#[test]
fn a_closed_journal_takes_nothing_and_can_be_closed_again() {
    let disk = FaultyDisk::default();
    let (journal, _) = open(&disk);
    let first = put(&journal, "a", "1");
    put(&journal, "b", "2");
    journal.acknowledge([first]);
    journal.close_blocking().unwrap();
    journal.close_blocking().unwrap();
    assert!(matches!(journal.append_blocking(Kind::Put, b"c", b"3"), Err(JournalError::Closed)));
    assert!(matches!(journal.sync_blocking(), Err(JournalError::Closed)));
    assert_eq!(journal.ended().unwrap().to_string(), "journal is closed");
    assert_eq!(values(&open(&disk.after_crash(Unsynced::Lost)).1), ["2"]);
}

#[test]
fn a_record_above_the_limit_is_refused_and_the_others_of_its_group_too() {
    let disk = FaultyDisk::default();
    let (journal, _) = Journal::builder().record_limit(10).open_on(disk).unwrap();
    put(&journal, "12345", "67890");
    let error = journal.append_blocking(Kind::Put, b"12345", b"678901").unwrap_err();
    assert!(matches!(error, JournalError::TooLarge { bytes: 11, limit: 10 }));
    assert_eq!(error.to_string(), "record of 11 bytes is longer than the limit of 10");
    let writes = [b"fits".as_slice(), b"does not fit"];
    let writes = writes.map(|value| Write { kind: Kind::Put, key: b"", value });
    assert!(matches!(journal.append_all_blocking(&writes), Err(JournalError::TooLarge { .. })));
    assert_eq!(journal.stats().live_records, 1);
}

#[test]
fn records_appended_together_have_numbers_in_a_row_and_cost_one_sync() {
    let disk = FaultyDisk::default();
    let (journal, _) = Journal::builder().open_on(disk.clone()).unwrap();
    let syncs = disk.syncs();
    let keys: Vec<[u8; 1]> = (0..100).map(|key| [key]).collect();
    let write = |key| Write { kind: Kind::Remove, key, value: b"" };
    let writes: Vec<_> = keys.iter().map(|key| write(key.as_slice())).collect();
    let sequences = journal.append_all_blocking(&writes).unwrap();
    assert_eq!(sequences.end - sequences.start, 100);
    assert_eq!(disk.syncs() - syncs, 1);
    assert_eq!(journal.append_all_blocking(&[]).unwrap(), 0..0);
    assert_eq!(disk.syncs() - syncs, 1);
    let (_, recovery) = Journal::builder().open_on(disk.after_crash(Unsynced::Lost)).unwrap();
    let found: Vec<u64> = recovery.records.iter().map(|record| record.sequence).collect();
    assert_eq!(found, sequences.collect::<Vec<_>>());
    assert!(recovery.records.iter().all(|record| record.kind == Kind::Remove && record.value.is_empty()));
}

#[test]
fn a_record_longer_than_a_segment_gets_one_of_its_own() {
    let disk = FaultyDisk::default();
    let (journal, _) = open(&disk);
    let long = "x".repeat(20_000);
    let values = ["short", &long, "short", &long, &long];
    for value in values {
        put(&journal, "k", value);
    }
    let (_, recovery) = open(&disk.after_crash(Unsynced::Lost));
    assert_eq!(self::values(&recovery), values);
}

#[test]
fn an_interval_syncs_when_it_is_over_and_os_never_does() {
    let clock = Clock::manual();
    for (durability, rounds) in [(Durability::Interval(secs(1)), 3), (Durability::Os, 0)] {
        let disk = FaultyDisk::default();
        let builder = Journal::builder().durability(durability).clock(clock.clone());
        let (journal, _) = builder.open_on(disk.clone()).unwrap();
        let syncs = disk.syncs();
        for _ in 0..30 {
            clock.advance(secs(1) / 10);
            put(&journal, "k", "v");
        }
        assert_eq!(disk.syncs() - syncs, rounds, "{durability:?}");
        // Asked for, it does in any case, and only if there is something.
        journal.sync_blocking().unwrap();
        let syncs = disk.syncs();
        journal.sync_blocking().unwrap();
        assert_eq!(disk.syncs(), syncs);
        assert_eq!(open(&disk.after_crash(Unsynced::Lost)).1.records.len(), 30);
    }
}

#[test]
fn run_syncs_what_nobody_writes_behind() {
    let (clock, disk) = (Clock::manual(), FaultyDisk::default());
    let builder = Journal::builder().durability(Durability::Interval(secs(1))).clock(clock.clone());
    let (journal, _) = builder.open_on(disk.clone()).unwrap();
    let mut run = Box::pin(journal.run());
    assert!(poll(&mut run).is_pending());
    put(&journal, "k", "v");
    assert_eq!(open(&disk.after_crash(Unsynced::Lost)).1.records.len(), 0);
    clock.advance(secs(1));
    assert!(poll(&mut run).is_pending());
    assert_eq!(open(&disk.after_crash(Unsynced::Lost)).1.records.len(), 1);
    journal.close_blocking().unwrap();
    clock.advance(secs(1));
    assert!(matches!(poll(&mut run), Poll::Ready(Ok(()))));
    let (always, _) = open(&FaultyDisk::default());
    assert!(matches!(poll(&mut Box::pin(always.run())), Poll::Ready(Ok(()))));
}

/// One record that nobody acknowledges does not keep all that came after it.
#[test]
fn a_long_lived_record_is_carried_along_and_room_is_given_back() {
    let disk = FaultyDisk::default();
    let (journal, _) = open(&disk);
    let old = put(&journal, "old", "old");
    let mut most = 0;
    for number in 0..2_000 {
        let sequence = put(&journal, "k", &format!("{number:0200}"));
        journal.acknowledge([sequence]);
        most = most.max(journal.stats().bytes);
    }
    // A segment that is written, one whose worth may be dead, and what is on its way.
    assert!(most < 3 * 4096, "{most}");
    assert_eq!(journal.stats().live_records, 2);
    assert_eq!(disk.bytes() as u64, journal.stats().bytes);
    let (journal, recovery) = open(&disk.after_kill());
    assert_eq!(recovery.records[0].sequence, old);
    assert_eq!(recovery.records[0].value, b"old");
    journal.acknowledge(recovery.records.iter().map(|record| record.sequence));
    journal.close_blocking().unwrap();
}

/// However much of it is needed, it takes at most twice that and some segments, and copying is paid for by what is written.
#[test]
fn the_files_are_at_most_twice_as_long_as_what_is_needed() {
    let disk = FaultyDisk::default();
    let (journal, _) = open(&disk);
    let mut live = std::collections::VecDeque::new();
    let mut seed = 9;
    for round in 0..3_000_usize {
        live.push_back(put(&journal, "key", &"v".repeat(disk::toss(&mut seed) as usize % 300)));
        if live.len() > 100 {
            // Any one, so that every segment is full of holes.
            let place = disk::toss(&mut seed) as usize % live.len();
            journal.acknowledge(live.remove(place));
        }
        let stats = journal.stats();
        assert!(stats.bytes < 2 * stats.live_bytes + 4 * 4096, "{round}: {stats:?}");
    }
    let (_, recovery) = open(&disk.after_crash(Unsynced::Lost));
    let found: Vec<u64> = recovery.records.iter().map(|record| record.sequence).collect();
    assert!(live.iter().all(|sequence| found.binary_search(sequence).is_ok()));
    // The last acknowledgement has not been written.
    assert!(found.len() <= live.len() + 1);
}

/// Without an `fsync` for each write, what goes must not go before what stands for it is on disk.
#[test]
fn what_was_on_disk_stays_there_until_its_copy_or_its_successor_is() {
    let disk = FaultyDisk::default();
    let (journal, _) = small().durability(Durability::Os).open_on(disk.clone()).unwrap();
    let old = put(&journal, "old", "old");
    let mut kept = put(&journal, "kept", "0");
    journal.sync_blocking().unwrap();
    let first = disk.names()[0].clone();
    for number in 1..400 {
        let sequence = put(&journal, "k", &format!("{number:0100}"));
        journal.acknowledge([sequence]);
        if number % 25 == 0 {
            let newer = put(&journal, "kept", &number.to_string());
            journal.acknowledge([std::mem::replace(&mut kept, newer)]);
        }
        let (_, recovery) = open(&disk.after_crash(Unsynced::Lost));
        assert_eq!(recovery.records[0].sequence, old, "{number}");
        assert!(recovery.records.iter().any(|record| record.key == b"kept"), "{number}");
    }
    assert!(!disk.names().contains(&first), "nothing was removed");
}

#[test]
fn no_number_is_given_out_twice_though_what_had_it_is_lost() {
    let mut disk = FaultyDisk::default();
    let mut given = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let (journal, recovery) = small().durability(Durability::Os).open_on(disk.clone()).unwrap();
        assert!(recovery.records.is_empty());
        for _ in 0..3 {
            assert!(given.insert(put(&journal, "k", "v")), "{given:?}");
        }
        drop(journal);
        disk = disk.after_crash(Unsynced::Lost);
    }
}

/// A sector that has become zeroes looks like one that was never written; but what follows could not be there then.
#[test]
fn zeroes_before_what_was_written_later_are_damage() {
    let disk = FaultyDisk::default();
    let (journal, _) = Journal::builder().open_on(disk.clone()).unwrap();
    for _ in 0..40 {
        put(&journal, "key", &"v".repeat(150));
    }
    journal.close_blocking().unwrap();
    let contents = disk.contents(FIRST);
    let (mut damaged, mut last) = (0, 0);
    for start in (0..contents.len()).step_by(disk::SECTOR) {
        let mut contents = contents.clone();
        let end = contents.len().min(start + disk::SECTOR);
        contents[start..end].fill(0);
        let after = disk.after_kill();
        after.put(FIRST, contents);
        match Journal::builder().open_on(after) {
            Err(JournalError::Corrupt { .. }) => damaged += 1,
            // The last sector can never have been written, as far as anybody knows.
            opened => last = opened.unwrap().1.records.len(),
        }
    }
    assert_eq!((damaged, last), (contents.len() / disk::SECTOR, 39));
}

/// What was written of a group that failed is nobody's: it must not be kept for ever.
#[test]
fn a_group_that_fails_in_its_second_segment_leaves_nothing_live() {
    let disk = FaultyDisk::default();
    let (journal, _) = open(&disk);
    let value = [7; 1000];
    let write = Write { kind: Kind::Put, key: b"k", value: &value };
    disk.limit(Some(disk.bytes() + 6_000));
    assert!(matches!(journal.append_all_blocking(&[write; 9]), Err(JournalError::Full(_))));
    disk.limit(None);
    put(&journal, "k", "v");
    assert_eq!(journal.stats().live_records, 1);
    assert_eq!(values(&open(&disk.after_kill()).1), ["v"]);
}

#[test]
fn a_write_that_was_refused_is_not_found_though_a_part_of_its_group_had_room() {
    let disk = FaultyDisk::default();
    let open = || Journal::builder().segment_bytes(1_024).open_on(disk.after_kill()).unwrap().1;
    let (journal, _) = Journal::builder().segment_bytes(1_024).open_on(disk.clone()).unwrap();
    let first = put(&journal, "k", &"1".repeat(800));
    journal.acknowledge([first]);
    // There is room for the record in this segment, and on the disk; not for the acknowledgement behind it.
    disk.limit(Some(disk.bytes() + 140));
    assert!(matches!(journal.append_blocking(Kind::Put, b"k", &[b'2'; 100]), Err(JournalError::Full(_))));
    assert!(!values(&open()).contains(&"2".repeat(100)));
}

#[test]
fn what_goes_along_with_a_write_is_put_off_while_the_disk_has_room_for_the_write_alone() {
    let disk = FaultyDisk::default();
    let open = || Journal::builder().segment_bytes(1_024).open_on(disk.after_kill()).unwrap().1;
    let (journal, _) = Journal::builder().segment_bytes(1_024).open_on(disk.clone()).unwrap();
    let value = |digit: &str| digit.repeat(300);
    for key in ["a", "b"] {
        put(&journal, key, &value(key));
    }
    let dead = [1, 2, 3, 4].map(|_| put(&journal, "k", &"dead".repeat(200)));
    // Now copies of the two are due, and an acknowledgement of the four: 700 bytes, and a header.
    journal.acknowledge(dead);
    disk.limit(Some(disk.bytes() + 520));
    put(&journal, "c", &"c".repeat(400));
    assert_eq!((journal.stats().live_records, journal.stats().segments), (3, 7));
    assert_eq!(values(&open()).len(), 7);

    disk.limit(None);
    put(&journal, "d", "d");
    assert_eq!(values(&open()), [value("a"), value("b"), "c".repeat(400), "d".to_owned()]);
    put(&journal, "e", "e");
    assert!(journal.stats().segments < 7, "{:?}", journal.stats());
}

#[test]
fn what_is_not_a_segment_is_left_alone() {
    let disk = FaultyDisk::default();
    put(&open(&disk).0, "a", "1");
    for name in
        ["README", "1.journal", "0000000000000000000x.journal", "00000000000000000000.journal", "lock"]
    {
        disk.put(name, b"mine".to_vec());
    }
    let (_, recovery) = open(&disk);
    assert_eq!(values(&recovery), ["1"]);
    assert_eq!(disk.contents("README"), b"mine");
}

#[test]
fn a_segment_under_the_name_of_another_is_an_error() {
    let disk = FaultyDisk::default();
    for value in 0..60 {
        put(&open(&disk).0, "a", &"v".repeat(value));
    }
    let names = disk.names();
    let (last, before) = (&names[names.len() - 1], &names[names.len() - 2]);
    let contents = disk.contents(before);
    disk.put(before, disk.contents(last));
    let error = small().open_on(disk.clone()).unwrap_err();
    assert!(error.to_string().ends_with("at byte 12: the file has the name of another segment"), "{error}");
    disk.put(before, contents);
    disk.put(last, b"what?".repeat(20));
    let error = small().open_on(disk).unwrap_err();
    assert!(error.to_string().ends_with("at byte 0: this is not a journal"), "{error}");
}

/// Frames as an attacker would write them, who can compute checksums.
mod forged {
    pub(crate) fn header(segment: u64, first: u64, previous: u64) -> Vec<u8> {
        let mut bytes = b"floodlog\x01\0\0\0".to_vec();
        for number in [segment, first, previous] {
            bytes.extend(number.to_le_bytes());
        }
        let crc = crc32c(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    pub(crate) fn head(segment: u64, kind: u8, key: u32, value: u32, sequence: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xF7, 1, kind, 0];
        bytes.extend(key.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        bytes.extend(sequence.to_le_bytes());
        bytes.extend(crc32c(body).to_le_bytes());
        let sealed = crc32c(&[&segment.to_le_bytes(), bytes.as_slice()].concat());
        bytes.extend(sealed.to_le_bytes());
        bytes
    }

    pub(crate) fn frame(segment: u64, kind: u8, sequence: u64, value: &[u8]) -> Vec<u8> {
        let mut bytes = head(segment, kind, 0, value.len() as u32, sequence, value);
        bytes.extend(value);
        bytes.push(0x6E);
        bytes
    }

    /// Bit by bit, by the polynomial.
    fn crc32c(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(
                crc ^ u32::from(*byte),
                |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 },
            )
        })
    }
}

const FIRST: &str = "00000000000000000001.journal";

fn open_forged(parts: &[Vec<u8>]) -> Result<Recovery, JournalError> {
    let disk = FaultyDisk::default();
    disk.put(FIRST, parts.concat());
    small().open_on(disk).map(|opened| opened.1)
}

#[test]
fn files_that_lie_are_found_out() {
    use forged::{frame, head, header};
    let record = frame(1, 1, 5, b"value");
    assert_eq!(open_forged(&[header(1, 1, 0), record.clone()]).unwrap().records[0].value, b"value");
    // All numbers that there are, in a few bytes.
    let all = frame(1, 3, 0, &[0_u64.to_le_bytes(), u64::MAX.to_le_bytes()].concat());
    assert!(open_forged(&[header(1, 1, 0), record.clone(), all]).unwrap().records.is_empty());
    let problem = |parts: &[Vec<u8>]| match open_forged(parts).unwrap_err() {
        JournalError::Corrupt { segment: 0..=1, problem, .. } => problem,
        error => panic!("{error}"),
    };
    let backwards = frame(1, 3, 0, &[9_u64.to_le_bytes(), 8_u64.to_le_bytes()].concat());
    assert_eq!(problem(&[header(1, 1, 0), backwards]), "an acknowledgement makes no sense");
    let half = frame(1, 3, 0, b"half of a range");
    assert_eq!(problem(&[header(1, 1, 0), half]), "an acknowledgement makes no sense");
    for last in [u64::MAX, u64::MAX - 1] {
        assert_eq!(problem(&[header(1, 1, 0), frame(1, 1, last, b"")]), "the sequence numbers are used up");
        assert_eq!(problem(&[header(1, last, 0)]), "the sequence numbers are used up");
    }
    // A head that announces four gigabytes twice is no head at all.
    let huge = head(1, 1, u32::MAX, u32::MAX, 5, b"");
    assert_eq!(problem(&[header(1, 1, 0), huge.clone(), vec![1; 600]]), "the head of a frame is damaged");
    // And one that announces more than there is was cut off.
    let large = head(1, 1, 0, 200 << 20, 5, b"");
    assert_eq!(open_forged(&[header(1, 1, 0), large, vec![1; 600]]).unwrap().torn_bytes, 628);
    // But not if something follows that was written when it was on disk.
    let damaged = [header(1, 1, 0), frame(2, 1, 5, b"strayed"), frame(1, 1, 6, b"")];
    assert_eq!(problem(&damaged), "the head of a frame is damaged");
    let last = frame(1, 1, 7, b"same number");
    let twice = open_forged(&[header(1, 1, 0), frame(1, 1, 7, b""), last]).unwrap();
    assert_eq!(twice.records.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_file_makes_opening_panic(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                (1..3_u64, 0..6_u8, 0..9_u64, prop::collection::vec(any::<u8>(), 0..40))
                    .prop_map(|(segment, kind, sequence, value)| forged::frame(segment, kind, sequence, &value)),
                (0..600_usize).prop_map(|length| vec![0; length]),
            ],
            0..8,
        ),
        header: bool,
    ) {
        let mut parts = pieces;
        if header {
            parts.insert(0, forged::header(1, 1, 0));
        }
        let disk = FaultyDisk::default();
        disk.put(FIRST, parts.concat());
        match small().open_on(disk.clone()) {
            Ok((journal, recovery)) => {
                put(&journal, "k", "v");
                drop(journal);
                prop_assert_eq!(open(&disk).1.records.len(), recovery.records.len() + 1);
            }
            Err(error) => {
                prop_assert!(matches!(error, JournalError::Corrupt { .. }), "{}", error);
                prop_assert_eq!(disk.contents(FIRST), parts.concat());
                prop_assert_eq!(disk.names().len(), 1);
            }
        }
    }
}

#[cfg(unix)]
mod real {
    use std::path::PathBuf;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("floodwall-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_one_journal_at_a_time_has_a_folder() {
        let folder = Folder::new("locked");
        let path = folder.0.join("made/with/those/above");
        let (journal, _) = Journal::open(&path).unwrap();
        put(&journal, "a", "1");
        let error = Journal::open(&path).unwrap_err();
        assert!(matches!(error, JournalError::Locked));
        assert_eq!(error.to_string(), "journal is open elsewhere");
        put(&journal, "a", "2");
        journal.close_blocking().unwrap();
        // Closed is enough: the folder is free while the journal is still there.
        let (second, recovery) = Journal::open(&path).unwrap();
        assert_eq!(values(&recovery), ["1", "2"]);
        drop(second);
        assert_eq!(values(&Journal::open(&path).unwrap().1), ["1", "2"]);
    }

    #[test]
    fn many_threads_share_syncs() {
        let folder = Folder::new("threads");
        let (journal, _) = Journal::builder().segment_bytes(64 << 10).open(&folder.0).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..16_u8 {
                let journal = &journal;
                scope.spawn(move || {
                    for count in 0..100_u8 {
                        let sequence = journal.append_blocking(Kind::Put, &[thread], &[count; 200]).unwrap();
                        if count % 2 == 0 {
                            journal.acknowledge([sequence]);
                        }
                    }
                });
            }
        });
        let stats = journal.stats();
        assert!(stats.groups < 1_600, "{stats:?}");
        drop(journal);
        let (_, recovery) = Journal::open(&folder.0).unwrap();
        let odd = recovery.records.iter().filter(|record| record.value[0] % 2 == 1).count();
        assert_eq!(odd, 800);
        for thread in 0..16 {
            let mine = recovery.records.iter().filter(|record| record.key == [thread]);
            assert!(mine.map(|record| record.value[0]).is_sorted());
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        let folder = Folder::new("file");
        std::fs::write(&folder.0, "a file").unwrap();
        assert!(matches!(Journal::open(folder.0.join("below")).unwrap_err(), JournalError::Io(_)));
        std::fs::remove_file(&folder.0).unwrap();
    }
}

#[test]
#[should_panic(expected = "segment_bytes: 1023 must be from 1 KiB to 1 GiB")]
fn a_segment_must_have_some_room() {
    let _ = Journal::builder().segment_bytes(1023);
}

#[test]
#[should_panic(expected = "record_limit: 0 must be from 1 byte to 256 MiB")]
fn a_record_must_have_some_room() {
    let _ = Journal::builder().record_limit(0);
}

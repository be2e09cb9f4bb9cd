//! Write-behind with a journal, over crashes of the process and of the machine. Run it with `--features journal`.
#![cfg(all(feature = "journal", not(floodwall_loom)))]

mod support {
    pub(crate) mod disk;
    pub(crate) mod faulty;
}

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use floodwall::store::journal::{Journal, JournalError};
use floodwall::store::{MemoryStore, Plain, Store, WhenFull, Write, WriteBehindError};
use floodwall::{Clock, Exponential, Reason, WriteBehind};
use proptest::prelude::*;
use support::disk::{FaultyDisk, Unsynced};
use support::faulty::{Faulty, Mood};

type Behind = WriteBehind<u64, u64, Arc<Faulty>>;
type Task = Pin<Box<dyn Future<Output = ()>>>;

fn poll(task: &mut Task) -> bool {
    task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn open(store: &Arc<Faulty>, clock: &Clock, disk: &FaultyDisk) -> Behind {
    let (journal, recovery) = Journal::builder().segment_bytes(2_048).open_on(disk.clone()).unwrap();
    WriteBehind::builder(store.clone())
        .journal(journal, &recovery, Plain)
        .unwrap()
        .clock(clock.clone())
        .batch(4)
        .backoff(Exponential::new(Duration::from_millis(100)).max(Duration::from_secs(2)))
        .seed(7)
        .build()
}

#[test]
fn what_was_taken_is_there_after_a_crash_of_the_machine_and_reaches_the_store() {
    let (store, clock, disk) = (Faulty::new(), Clock::manual(), FaultyDisk::default());
    let behind = open(&store, &clock, &disk);
    for value in 0..50 {
        behind.save_blocking(&(value % 5), &value).unwrap();
    }
    behind.remove_blocking(&4).unwrap();
    let disk = disk.after_crash(Unsynced::Lost);
    drop(behind);
    assert_eq!(store.writes(), 0);

    let behind = open(&store, &clock, &disk);
    assert_eq!(behind.load_blocking(&3).unwrap(), Some(48));
    assert_eq!(behind.load_blocking(&4).unwrap(), None);
    assert_eq!(behind.backlog().keys, 5);
    assert!(behind.close_blocking(Duration::from_secs(9)).is_empty());
    // A hundred updates or fifty: one write for each key.
    assert_eq!((store.writes(), store.row(0), store.row(4)), (5, Some(45), None));
    drop(behind);
    // A journal that was closed with nothing left finds nothing.
    let behind = open(&store, &clock, &disk);
    assert_eq!(behind.backlog().keys, 0);
}

#[test]
fn a_full_disk_is_an_error_to_the_writer_and_loses_nothing_that_was_taken() {
    let (store, clock, disk) = (Faulty::new(), Clock::manual(), FaultyDisk::default());
    let behind = open(&store, &clock, &disk);
    behind.save_blocking(&1, &1).unwrap();
    disk.limit(Some(disk.bytes()));
    let error = behind.save_blocking(&1, &2).unwrap_err();
    assert!(matches!(error, WriteBehindError::Journal(_)), "{error:?}");
    assert_eq!(behind.load_blocking(&1).unwrap(), Some(1));
    assert_eq!(behind.backlog().bytes, behind.backlog().keys as u64 * (16 + 256));
    disk.limit(None);
    behind.save_blocking(&1, &3).unwrap();
    behind.flush_blocking();
    assert_eq!((store.row(1), behind.backlog().bytes), (Some(3), 0));
}

#[test]
fn writes_that_come_together_share_one_sync() {
    let (store, clock, disk) = (Faulty::new(), Clock::manual(), FaultyDisk::default());
    let behind = open(&store, &clock, &disk);
    let rows: Vec<(u64, u64)> = (0..40).map(|key| (key % 30, key)).collect();
    let writes: Vec<Write<'_, u64, u64>> = rows.iter().map(|(key, value)| Write::save(key, value)).collect();
    let syncs = disk.syncs();
    let results = behind.write_many_blocking(&writes).unwrap();
    assert_eq!((results.len(), results.iter().filter(|result| result.is_ok()).count()), (40, 40));
    // Segments of two kilobytes make it two.
    assert!(disk.syncs() - syncs <= 2, "{}", disk.syncs() - syncs);
    assert_eq!(behind.backlog().keys, 30);
    drop(behind);

    let disk = disk.after_crash(Unsynced::Lost);
    let behind = open(&store, &clock, &disk);
    // The later one of a key counts.
    assert_eq!((behind.load_blocking(&3).unwrap(), behind.load_blocking(&20).unwrap()), (Some(33), Some(20)));
    assert!(behind.close_blocking(Duration::from_secs(9)).is_empty());
    assert_eq!((store.writes(), behind.backlog().bytes), (30, 0));
}

#[test]
fn a_write_that_cannot_be_kept_holds_up_none_of_those_that_come_with_it() {
    let database = Arc::new(MemoryStore::<u64, Vec<u8>>::new());
    let (journal, recovery) = Journal::builder().record_limit(100).open_on(FaultyDisk::default()).unwrap();
    let journal = Arc::new(journal);
    let behind = WriteBehind::builder(database.clone());
    let behind = behind.journal(journal.clone(), &recovery, Plain).unwrap().build();
    let (short, long) = (vec![1; 50], vec![2; 500]);
    let writes =
        [Write::save(&1, &short), Write::save(&2, &long), Write::save(&3, &short), Write::remove(&4)];
    let results = behind.write_many_blocking(&writes).unwrap();
    assert_eq!([0, 2, 3].map(|at: usize| results[at].is_ok()), [true; 3]);
    assert!(
        matches!(
            results[1],
            Err(WriteBehindError::Journal(JournalError::TooLarge { bytes: 508, limit: 100 }))
        ),
        "{results:?}"
    );
    assert_eq!((behind.load_blocking(&2).unwrap(), behind.load_blocking(&3).unwrap()), (None, Some(short)));
    assert_eq!((behind.backlog().keys, journal.stats().live_records), (3, 3));
    behind.flush_blocking();
    assert_eq!((behind.backlog().bytes, database.len()), (0, 2));
}

#[test]
fn more_writes_than_there_is_room_for_are_taken_in_turns_or_refused() {
    let build = |when_full| {
        let (journal, recovery) = Journal::builder().open_on(FaultyDisk::default()).unwrap();
        let behind = WriteBehind::builder(Faulty::new()).journal(journal, &recovery, Plain).unwrap();
        behind.weigher(|_, _| 1).max_bytes(4).when_full(when_full).build()
    };
    let rows: Vec<(u64, u64)> = (0..10).map(|key| (key, key)).collect();
    let writes: Vec<Write<'_, u64, u64>> = rows.iter().map(|(key, value)| Write::save(key, value)).collect();

    let behind = build(WhenFull::Wait);
    assert!(behind.write_many_blocking(&writes).unwrap().iter().all(Result::is_ok));
    // Who waits for room makes it: four, four, and two that wait.
    assert_eq!((behind.store().writes(), behind.backlog().bytes), (8, 2));

    let behind = build(WhenFull::Reject);
    let refused = behind.write_many_blocking(&writes).unwrap_err();
    assert!(matches!(refused, WriteBehindError::Rejected(_)), "{refused:?}");
    assert_eq!((behind.backlog().keys, behind.backlog().bytes), (4, 4));

    let behind = build(WhenFull::WriteThrough);
    assert!(behind.write_many_blocking(&writes).unwrap().iter().all(Result::is_ok));
    // Four fit, four go through with those, and the last two fit again.
    assert_eq!((behind.store().writes(), behind.backlog().bytes), (8, 2));

    behind.close_blocking(Duration::ZERO);
    let closed = behind.write_many_blocking(&writes).unwrap_err();
    assert!(matches!(closed, WriteBehindError::Rejected(rejected) if rejected.reason() == Reason::Closed));
    assert_eq!(behind.backlog().bytes, 0);
}

/// Threads write the same few keys; whatever moment the disk is looked at, nothing older than what was acknowledged then
/// may come back.
#[test]
fn at_any_moment_a_crash_brings_back_nothing_older_than_what_was_acknowledged() {
    use std::sync::atomic::{AtomicU64, Ordering};

    let (store, disk) = (Faulty::new(), FaultyDisk::default());
    let (journal, recovery) = Journal::builder().segment_bytes(2_048).open_on(disk.clone()).unwrap();
    let behind = WriteBehind::builder(store.clone())
        .journal(journal, &recovery, Plain)
        .unwrap()
        .delay(Duration::from_micros(50))
        .build();
    // Values of a key rise with its writer; two writers share each key, and each counts by itself.
    let acknowledged: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| behind.run_blocking());
        let writers: Vec<_> = (0..4_u64)
            .map(|writer| {
                let (behind, acknowledged) = (&behind, &acknowledged);
                scope.spawn(move || {
                    for count in 1..=400_u64 {
                        behind.save_blocking(&(writer % 2), &(writer * 1_000_000 + count)).unwrap();
                        acknowledged[writer as usize].store(count, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let mut looks = 0;
        while writers.iter().any(|writer| !writer.is_finished()) {
            // What is acknowledged before the look must be in the journal then, or in the store afterwards.
            let before: Vec<u64> = acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).collect();
            let (_, found) =
                Journal::builder().segment_bytes(2_048).open_on(disk.after_crash(Unsynced::Lost)).unwrap();
            let rows = store.rows.lock().unwrap().clone();
            for key in 0..2 {
                let kept = found.records.iter().filter(|record| record.key == u64::to_be_bytes(key));
                let mut kept = kept.map(|record| u64::from_be_bytes(record.value[..].try_into().unwrap()));
                let Some(value) = kept.next_back().or(rows.get(&key).copied()) else { continue };
                let (writer, count) = ((value / 1_000_000) as usize, value % 1_000_000);
                // Of one writer's writes, none older than its last acknowledged one.
                assert!(count >= before[writer], "key {key}: {count} came back after {}", before[writer]);
            }
            looks += 1;
        }
        assert!(looks > 3, "only {looks} looks");
        assert!(behind.close_blocking(Duration::from_secs(30)).is_empty());
    });
    for key in 0..2 {
        assert_eq!(store.row(key).unwrap() % 1_000_000, 400);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Save(u64, u64),
    Remove(u64),
    Advance(u64),
    Mood(Mood),
    Hang(bool),
    Full(bool),
    Kill,
    Crash(Unsynced),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0u64..6;
    prop_oneof![
        8 => (key.clone(), 0u64..1_000).prop_map(|(key, value)| Step::Save(key, value)),
        3 => key.prop_map(Step::Remove),
        6 => (0u64..3_000).prop_map(Step::Advance),
        2 => Just(Step::Mood(Mood::Well)),
        1 => Just(Step::Mood(Mood::Down)),
        1 => Just(Step::Mood(Mood::Lying)),
        1 => prop::collection::hash_set(0u64..6, 1..3).prop_map(|keys| Step::Mood(Mood::Picky(keys))),
        1 => Just(Step::Hang(true)),
        2 => Just(Step::Hang(false)),
        1 => any::<bool>().prop_map(Step::Full),
        1 => Just(Step::Kill),
        1 => Just(Step::Crash(Unsynced::Lost)),
        1 => Just(Step::Crash(Unsynced::Kept)),
        1 => any::<u64>().prop_map(|seed| Step::Crash(Unsynced::Any(seed))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    /// As the model without a journal, but the process is killed, and the machine stops, at any step. A write that was
    /// refused, since the disk was full, does not come back either.
    #[test]
    fn reads_see_the_last_write_over_crashes_too(steps in prop::collection::vec(step(), 1..100)) {
        let (store, clock, mut disk) = (Faulty::new(), Clock::manual(), FaultyDisk::default());
        let mut behind = open(&store, &clock, &disk);
        let mut run: Task = Box::pin(behind.run());
        let mut twin: BTreeMap<u64, u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Save(key, value) => if behind.save_blocking(&key, &value).is_ok() {
                    twin.insert(key, value);
                },
                Step::Remove(key) => if behind.remove_blocking(&key).is_ok() {
                    twin.remove(&key);
                },
                Step::Advance(millis) => clock.advance(Duration::from_millis(millis)),
                Step::Mood(mood) => store.set(mood),
                Step::Hang(hangs) => store.hang(hangs),
                Step::Full(full) => disk.limit(full.then(|| disk.bytes() + 100)),
                Step::Kill | Step::Crash(_) => {
                    let next = match step {
                        Step::Crash(unsynced) => disk.after_crash(unsynced),
                        _ => disk.after_kill(),
                    };
                    drop((run, behind));
                    store.forget_what_is_written();
                    store.batches.lock().unwrap().clear();
                    disk = next;
                    disk.limit(None);
                    behind = open(&store, &clock, &disk);
                    run = Box::pin(behind.run());
                }
            }
            let _ = poll(&mut run);
            for key in 0..6 {
                prop_assert_eq!(behind.load_blocking(&key).unwrap(), twin.get(&key).copied(), "key {}", key);
            }
        }
        store.set(Mood::Well);
        store.hang(false);
        let mut close: Task = {
            let behind = behind.clone();
            Box::pin(async move { assert!(behind.close(Duration::from_secs(100)).await.is_empty()) })
        };
        let mut closed = false;
        for _ in 0..100 {
            if behind.backlog().keys > 0 {
                let _ = poll(&mut run);
            }
            closed = poll(&mut close);
            if closed {
                break;
            }
            clock.advance(Duration::from_millis(500));
        }
        prop_assert!(closed, "closing does not end: {:?}", behind.backlog());
        prop_assert_eq!(&*store.rows.lock().unwrap(), &twin);
    }
}

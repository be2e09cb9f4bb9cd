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

use floodwall::store::journal::Journal;
use floodwall::store::{Plain, Store, WriteBehindError};
use floodwall::{Clock, Exponential, WriteBehind};
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

    /// As the model without a journal, but the process is killed, and the machine stops, at any step.
    #[test]
    fn reads_see_the_last_write_over_crashes_too(steps in prop::collection::vec(step(), 1..100)) {
        let (store, clock, mut disk) = (Faulty::new(), Clock::manual(), FaultyDisk::default());
        let mut behind = open(&store, &clock, &disk);
        let mut run: Task = Box::pin(behind.run());
        let mut twin: BTreeMap<u64, u64> = BTreeMap::new();
        let mut unsure: BTreeMap<u64, Vec<Option<u64>>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Save(key, value) => if behind.save_blocking(&key, &value).is_ok() {
                    twin.insert(key, value);
                    unsure.remove(&key);
                } else {
                    unsure.entry(key).or_default().push(Some(value));
                },
                Step::Remove(key) => if behind.remove_blocking(&key).is_ok() {
                    twin.remove(&key);
                    unsure.remove(&key);
                } else {
                    unsure.entry(key).or_default().push(None);
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
                    // A write that failed is not seen, but a crash may bring it back.
                    for (key, values) in std::mem::take(&mut unsure) {
                        let found = behind.load_blocking(&key).unwrap();
                        match found {
                            _ if !values.contains(&found) => {}
                            Some(value) => drop(twin.insert(key, value)),
                            None => drop(twin.remove(&key)),
                        }
                    }
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

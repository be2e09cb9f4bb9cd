//! Write-behind: what is coalesced, batched, retried, given up, and never lost. The numbers of traps are those of the
//! survey of caches: 27 (a newer write hidden when an older one lands), 31 (a poison item holds up the others),
//! 32 (a close that loses the open batch, or waits for it to fill).
#![cfg(not(floodwall_loom))]

mod support {
    pub(crate) mod faulty;
}

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use floodwall::store::{Store, WhenFull, WriteBehindBuilder, WriteBehindError};
use floodwall::{
    CircuitBreaker, Clock, Constant, Error, Event, Exponential, Jitter, Reason, Timeout, WriteBehind,
};
use support::faulty::{Broken, Faulty, Mood};

type Behind<P = ()> = WriteBehind<u64, u64, Arc<Faulty>, P>;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Waits half a second, then a second, up to eight; gives up after four failures.
fn builder(store: &Arc<Faulty>, clock: &Clock) -> WriteBehindBuilder<u64, u64, Arc<Faulty>> {
    let backoff = Exponential::new(millis(500)).max(secs(8)).attempts(4).jitter(Jitter::None);
    WriteBehind::builder(store.clone()).clock(clock.clone()).backoff(backoff)
}

fn poll<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// As [`finish`], beside a runner.
fn finish_beside(
    run: &mut Pin<Box<impl Future<Output = ()>>>,
    clock: &Clock,
    future: impl Future<Output = ()>,
) -> u64 {
    let mut future = Box::pin(future);
    finish(
        clock,
        std::future::poll_fn(move |_| {
            for _ in 0..3 {
                if poll(&mut future).is_ready() {
                    return Poll::Ready(());
                }
                let _ = poll(run);
            }
            Poll::Pending
        }),
    )
}

/// Moves the clock until the future is done; returns how many seconds that took.
fn finish(clock: &Clock, future: impl Future<Output = ()>) -> u64 {
    let mut future = Box::pin(future);
    for second in 0..1_000 {
        if poll(&mut future).is_ready() {
            return second;
        }
        clock.advance(secs(1));
    }
    panic!("not done after a thousand seconds");
}

fn save<P>(behind: &Behind<P>, key: u64, value: u64)
where
    P: floodwall::Policy<Vec<Result<(), Broken>>, Broken> + 'static,
{
    behind.save_blocking(&key, &value).unwrap();
}

#[test]
fn a_hundred_updates_of_a_key_are_one_write() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind = builder(&store, &clock).build();
    for value in 0..100 {
        save(&behind, 7, value);
    }
    behind.flush_blocking();
    assert_eq!(*store.batches.lock().unwrap(), [[(7, Some(99), 100)]]);
    let backlog = behind.backlog();
    assert_eq!((backlog.written, backlog.coalesced, backlog.keys, backlog.bytes), (1, 99, 0, 0));
}

#[test]
fn a_batch_is_written_when_it_is_due_or_full_or_heavy() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind =
        builder(&store, &clock).batch(3).batch_bytes(1_000).weigher(|_, value| *value.unwrap_or(&1)).build();
    let mut run = Box::pin(behind.run());
    // The delay counts from the first write of a key, not from the newest.
    save(&behind, 1, 1);
    assert!(poll(&mut run).is_pending());
    clock.advance(millis(600));
    save(&behind, 1, 2);
    assert!(poll(&mut run).is_pending());
    clock.advance(millis(399));
    assert!(poll(&mut run).is_pending());
    assert_eq!(store.writes(), 0);
    assert_eq!(behind.backlog().oldest, Some(millis(999)));
    clock.advance(millis(1));
    assert!(poll(&mut run).is_pending());
    assert_eq!((store.row(1), store.sizes()), (Some(2), vec![1]));
    // Three are a batch at once, and the fourth waits.
    (1..=4).for_each(|key| save(&behind, key, 10));
    assert!(poll(&mut run).is_pending());
    assert_eq!(store.sizes(), [1, 3]);
    // Heavy ones go at once too, and each alone if together they are too heavy.
    save(&behind, 5, 600);
    assert!(poll(&mut run).is_pending());
    assert_eq!(store.sizes(), [1, 3]);
    save(&behind, 6, 700);
    assert!(poll(&mut run).is_pending());
    assert_eq!((store.sizes(), store.row(5)), (vec![1, 3, 2], Some(600)));
}

/// Trap 27.
#[test]
fn a_newer_write_is_seen_and_kept_when_an_older_one_of_its_key_lands() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind = builder(&store, &clock).build();
    let mut run = Box::pin(behind.run());
    store.hang(true);
    save(&behind, 1, 1);
    clock.advance(secs(1));
    assert!(poll(&mut run).is_pending());
    assert_eq!(store.writes(), 1);
    save(&behind, 1, 2);
    assert_eq!(behind.load_blocking(&1).unwrap(), Some(2));
    store.hang(false);
    assert!(poll(&mut run).is_pending());
    assert_eq!(store.row(1), Some(1));
    assert_eq!(behind.load_blocking(&1).unwrap(), Some(2));
    // A removal is a write as well: the store still has a row.
    behind.remove_blocking(&1).unwrap();
    assert_eq!(behind.load_blocking(&1).unwrap(), None);
    save(&behind, 1, 3);
    behind.remove_blocking(&1).unwrap();
    assert_eq!(finish_beside(&mut run, &clock, behind.flush()), 0);
    assert_eq!((store.row(1), behind.load_blocking(&1).unwrap()), (None, None));
    assert_eq!(behind.backlog().bytes, 0);
}

/// Trap 31. The store fails a batch as a whole, so that nobody says which write it was.
#[test]
fn a_batch_that_fails_is_halved_until_what_spoils_it_is_alone() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let letters = Arc::new(Mutex::new(Vec::new()));
    let heard = letters.clone();
    let behind = builder(&store, &clock)
        .batch(64)
        .dead_letters(move |letter| {
            assert_eq!(*letter.error, Error::Inner(Broken));
            heard.lock().unwrap().push((*letter.key, letter.value.copied(), letter.attempts));
        })
        .build();
    store.set(Mood::Spoiled(HashSet::from([40])));
    (0..64).for_each(|key| save(&behind, key, key));
    finish(&clock, behind.flush());
    let stored = store.rows.lock().unwrap().len();
    assert_eq!(stored, 63);
    assert_eq!(*letters.lock().unwrap(), [(40, Some(40), 4)]);
    assert!(store.sizes().len() < 30, "{:?}", store.sizes());
    let backlog = behind.backlog();
    assert_eq!((backlog.dead_letters, backlog.keys, backlog.bytes), (1, 0, 0));
}

#[test]
fn a_write_that_was_found_to_spoil_batches_is_in_none_with_others_again() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind = builder(&store, &clock).batch(8).build();
    let mut run = Box::pin(behind.run());
    store.set(Mood::Spoiled(HashSet::from([3])));
    (0..8).for_each(|key| save(&behind, key, key));
    for key in 100..220 {
        save(&behind, key, key);
        clock.advance(millis(500));
        assert!(poll(&mut run).is_pending());
    }
    let batches = store.batches.lock().unwrap();
    let spoiled: Vec<usize> =
        batches.iter().filter(|batch| batch.iter().any(|write| write.0 == 3)).map(Vec::len).collect();
    let alone = spoiled.iter().position(|writes| *writes == 1).unwrap();
    assert_eq!((spoiled[0], spoiled[alone..].iter().all(|writes| *writes == 1)), (8, true), "{spoiled:?}");
    assert!(spoiled.len() > alone + 5, "{spoiled:?}");
}

/// Trap 31, where the store says which write it was.
#[test]
fn a_write_that_fails_holds_up_no_other_and_is_given_up_while_others_land() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let letters = Arc::new(AtomicUsize::new(0));
    let heard = letters.clone();
    let behind = builder(&store, &clock)
        .dead_letters(move |_| {
            heard.fetch_add(1, Ordering::Relaxed);
        })
        .build();
    let mut run = Box::pin(behind.run());
    store.set(Mood::Picky(HashSet::from([13])));
    for key in 0..60 {
        save(&behind, key, key);
        clock.advance(secs(1));
        assert!(poll(&mut run).is_pending());
        // Each landed at its first attempt, a second after it came.
        assert_eq!(store.row(key), (key != 13).then_some(key));
    }
    assert_eq!(letters.load(Ordering::Relaxed), 1);
    assert_eq!(store.batches.lock().unwrap().iter().flatten().filter(|write| write.0 == 13).count(), 4);
    assert_eq!(behind.load_blocking(&13).unwrap(), None);
}

#[test]
fn an_outage_gives_up_nothing_however_long() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind = builder(&store, &clock).dead_letters(|letter| panic!("{letter:?}")).build();
    let mut run = Box::pin(behind.run());
    (0..100).for_each(|key| save(&behind, key, key));
    store.set(Mood::Down);
    for _ in 0..7_200 {
        clock.advance(secs(1));
        assert!(poll(&mut run).is_pending());
    }
    // Eight seconds apart, and not one after the other.
    assert!((890..1_000).contains(&store.sizes().len()), "{}", store.sizes().len());
    assert_eq!(behind.backlog().keys, 100);
    store.set(Mood::Well);
    for _ in 0..60 {
        clock.advance(secs(1));
        assert!(poll(&mut run).is_pending());
    }
    assert_eq!((store.rows.lock().unwrap().len(), behind.backlog().keys), (100, 0));
}

#[test]
fn without_a_hook_nothing_is_given_up() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind = builder(&store, &clock).give_up_when(|_| true).build();
    let mut run = Box::pin(behind.run());
    store.set(Mood::Picky(HashSet::from([0])));
    for key in 0..100 {
        save(&behind, key, key);
        clock.advance(secs(1));
        assert!(poll(&mut run).is_pending());
    }
    assert_eq!(behind.load_blocking(&0).unwrap(), Some(0));
    store.set(Mood::Well);
    assert!(finish_beside(&mut run, &clock, behind.flush()) <= 8);
    assert_eq!(store.row(0), Some(0));
}

#[test]
fn what_is_known_to_be_permanent_is_given_up_at_once() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let letters = Arc::new(AtomicUsize::new(0));
    let heard = letters.clone();
    let behind = builder(&store, &clock)
        .give_up_when(|_| true)
        .dead_letters(move |letter| {
            assert_eq!(letter.attempts, 1);
            heard.fetch_add(1, Ordering::Relaxed);
        })
        .build();
    store.set(Mood::Picky(HashSet::from([1, 2])));
    (0..10).for_each(|key| save(&behind, key, key));
    assert_eq!(finish(&clock, behind.flush()), 0);
    assert_eq!((letters.load(Ordering::Relaxed), store.writes()), (2, 10));
}

#[test]
fn a_write_whose_hook_panics_is_kept() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let calls = Arc::new(AtomicUsize::new(0));
    let heard = calls.clone();
    let behind = builder(&store, &clock)
        .give_up_when(|_| true)
        .dead_letters(move |_| assert!(heard.fetch_add(1, Ordering::Relaxed) > 0, "as the test wants it"))
        .build();
    store.set(Mood::Picky(HashSet::from([1, 2])));
    (0..4).for_each(|key| save(&behind, key, key));
    catch_unwind(AssertUnwindSafe(|| behind.flush_blocking())).unwrap_err();
    assert_eq!((behind.load_blocking(&1).unwrap(), behind.load_blocking(&2).unwrap()), (Some(1), Some(2)));
    finish(&clock, behind.flush());
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    assert_eq!(behind.backlog().bytes, 0);
}

/// Who judges an error, and who observes, may have bugs of their own.
#[test]
fn a_judge_or_an_observer_that_panics_loses_nothing() {
    for judge_panics in [true, false] {
        let (store, clock, calls) = (Faulty::new(), Clock::manual(), AtomicUsize::new(0));
        let behind = builder(&store, &clock)
            .give_up_when(move |_| {
                assert!(!judge_panics, "as the test wants it");
                // The first write that fails may be made again, the second never.
                calls.fetch_add(1, Ordering::Relaxed) == 1
            })
            .observe("behind", |_: &str, event: Event| panic!("as the test wants it: {event:?}"))
            .dead_letters(|letter| panic!("{letter:?} was to come later"))
            .build();
        store.set(Mood::Picky(HashSet::from([1, 2])));
        (0..4).for_each(|key| save(&behind, key, key));
        catch_unwind(AssertUnwindSafe(|| behind.flush_blocking())).unwrap_err();
        // Where nobody has judged, nobody knows what was written.
        assert_eq!(behind.backlog().keys, if judge_panics { 4 } else { 2 });
        assert_eq!(
            (behind.load_blocking(&1).unwrap(), behind.load_blocking(&2).unwrap()),
            (Some(1), Some(2))
        );
        store.set(Mood::Well);
        finish(&clock, behind.flush());
        assert_eq!((store.rows.lock().unwrap().len(), behind.backlog().bytes), (4, 0));
    }
}

#[test]
fn a_store_that_panics_loses_nothing() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind = builder(&store, &clock).build();
    store.set(Mood::Panicking);
    (0..4).for_each(|key| save(&behind, key, key));
    catch_unwind(AssertUnwindSafe(|| behind.flush_blocking())).unwrap_err();
    assert_eq!(behind.backlog().keys, 4);
    store.set(Mood::Well);
    finish(&clock, behind.flush());
    assert_eq!((store.rows.lock().unwrap().len(), behind.backlog().bytes), (4, 0));
}

/// A store that is not asked is not failing.
#[test]
fn an_open_circuit_costs_no_attempt_and_a_batch_of_failures_opens_it() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let breaker = CircuitBreaker::builder().failures(3).open_for(secs(60)).clock(clock.clone()).build();
    let behind =
        builder(&store, &clock).policy(Arc::new(breaker)).dead_letters(|letter| panic!("{letter:?}")).build();
    let mut run = Box::pin(behind.run());
    store.set(Mood::Down);
    save(&behind, 1, 1);
    for _ in 0..50 {
        clock.advance(secs(1));
        assert!(poll(&mut run).is_pending());
    }
    assert_eq!(store.writes(), 3);
    store.set(Mood::Well);
    for _ in 0..60 {
        clock.advance(secs(1));
        assert!(poll(&mut run).is_pending());
    }
    assert_eq!((store.row(1), store.writes()), (Some(1), 4));
}

#[test]
fn a_batch_that_takes_too_long_is_made_again_in_halves() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind = builder(&store, &clock).policy(Timeout::new(secs(3)).clock(clock.clone())).build();
    store.hang(true);
    // The store's own note of what it writes ends with the call that the timeout drops.
    (0..4).for_each(|key| save(&behind, key, key));
    let mut flush = Box::pin(behind.flush());
    assert!(poll(&mut flush).is_pending());
    clock.advance(secs(3));
    assert!(poll(&mut flush).is_pending());
    assert_eq!(store.sizes(), [4]);
    store.forget_what_is_written();
    store.hang(false);
    drop(flush);
    finish(&clock, behind.flush());
    assert_eq!((store.sizes()[1], behind.backlog().keys), (2, 0));
    assert_eq!(behind.backlog().retries, 4);
}

#[test]
fn without_room_a_write_is_rejected() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind = builder(&store, &clock)
        .weigher(|_, _| 10)
        .max_bytes(20)
        .when_full(WhenFull::Reject)
        .name("counts")
        .build();
    (0..2).for_each(|key| save(&behind, key, key));
    match behind.save_blocking(&2, &2).unwrap_err() {
        WriteBehindError::Rejected(rejected) => {
            assert_eq!((rejected.reason(), rejected.by()), (Reason::QueueFull, "counts"));
        }
        other => panic!("{other:?}"),
    }
    behind.flush_blocking();
    save(&behind, 2, 2);
    assert_eq!(behind.backlog().bytes, 10);
}

#[test]
fn without_room_a_write_waits_and_makes_room_where_nobody_else_does() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind = builder(&store, &clock).weigher(|_, _| 10).max_bytes(20).build();
    (0..2).for_each(|key| save(&behind, key, key));
    // Before anything is due: the need for room is reason enough.
    save(&behind, 2, 2);
    assert_eq!((store.row(0), store.row(1), store.row(2)), (Some(0), Some(1), None));
    // While the store is down it waits; dropped, it has taken nothing.
    store.set(Mood::Down);
    save(&behind, 4, 4);
    let mut waiting = Box::pin(behind.save(&3, &3));
    assert!(poll(&mut waiting).is_pending());
    assert!(behind.backlog().bytes <= 20);
    drop(waiting);
    assert_eq!(behind.load_blocking(&3).unwrap(), None);
    store.set(Mood::Well);
    finish(&clock, behind.flush());
    assert_eq!(behind.backlog().bytes, 0);
}

#[test]
fn without_room_a_write_goes_through_and_is_acknowledged_when_it_is_stored() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind =
        builder(&store, &clock).weigher(|_, _| 10).max_bytes(20).when_full(WhenFull::WriteThrough).build();
    (0..2).for_each(|key| save(&behind, key, key));
    assert_eq!(store.writes(), 0);
    save(&behind, 2, 2);
    assert_eq!((store.row(0), store.row(1), store.row(2)), (Some(0), Some(1), Some(2)));
}

#[test]
fn a_write_heavier_than_all_the_room_goes_through() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind = builder(&store, &clock).weigher(|_, _| 30).max_bytes(20).build();
    save(&behind, 1, 1);
    assert_eq!((store.row(1), behind.backlog().bytes), (Some(1), 0));
}

/// Trap 32.
#[test]
fn closing_writes_what_waits_at_once_and_reports_what_is_left() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind = builder(&store, &clock).build();
    let mut run = Box::pin(behind.run());
    (0..10).for_each(|key| save(&behind, key, key));
    assert!(poll(&mut run).is_pending());
    let mut close = Box::pin(behind.close(secs(5)));
    assert!(poll(&mut close).is_pending(), "the runner leads");
    assert!(poll(&mut run).is_ready());
    match poll(&mut close) {
        Poll::Ready(left) => assert_eq!(left, []),
        Poll::Pending => panic!("closing waits for nothing"),
    }
    assert_eq!(store.rows.lock().unwrap().len(), 10);
    match behind.save_blocking(&1, &1).unwrap_err() {
        WriteBehindError::Rejected(rejected) => assert_eq!(rejected.reason(), Reason::Closed),
        other => panic!("{other:?}"),
    }

    let behind = builder(&store, &clock).build();
    store.set(Mood::Down);
    save(&behind, 1, 100);
    behind.remove_blocking(&2).unwrap();
    let mut run = Box::pin(behind.run());
    let mut close = Box::pin(behind.close(secs(5)));
    for _ in 0..5 {
        assert!(poll(&mut close).is_pending());
        assert!(poll(&mut run).is_pending());
        clock.advance(secs(1));
    }
    let Poll::Ready(left) = poll(&mut close) else { panic!("five seconds have passed") };
    let left: Vec<_> = left.iter().map(|left| (*left.key, left.value.as_deref().copied())).collect();
    assert_eq!(left, [(1, Some(100)), (2, None)]);
    assert!(poll(&mut run).is_ready());
    // It can still be read, and another close tries again.
    assert_eq!(behind.load_blocking(&1).unwrap(), Some(100));
    store.set(Mood::Well);
    finish(&clock, async { assert!(behind.close(secs(60)).await.is_empty()) });
    assert_eq!((store.row(1), store.row(2)), (Some(100), None));
}

/// An operation that is on its way may arrive however late: it is never begun a second time beside itself.
#[test]
fn who_leaves_in_the_middle_of_a_batch_leaves_it_to_the_next() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind = builder(&store, &clock).build();
    store.hang(true);
    save(&behind, 1, 1);
    let mut first = Box::pin(behind.flush());
    let mut second = Box::pin(behind.flush());
    assert!(poll(&mut first).is_pending());
    assert!(poll(&mut second).is_pending());
    drop(first);
    assert!(poll(&mut second).is_pending());
    drop(second);
    store.hang(false);
    assert_eq!(finish(&clock, behind.flush()), 0);
    assert_eq!((store.sizes(), store.row(1)), (vec![1], Some(1)));
}

#[test]
fn a_flush_waits_for_what_came_before_it_and_not_for_what_came_after() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let behind = builder(&store, &clock).batch(1).build();
    save(&behind, 1, 1);
    store.hang(true);
    let mut flush = Box::pin(behind.flush());
    assert!(poll(&mut flush).is_pending());
    save(&behind, 2, 2);
    store.hang(false);
    assert!(poll(&mut flush).is_ready());
    assert_eq!((store.row(1), store.row(2)), (Some(1), None));
}

#[test]
fn retries_and_what_is_given_up_are_heard() {
    let (store, clock) = (Faulty::new(), Clock::manual());
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = events.clone();
    let behind = builder(&store, &clock)
        .backoff(Constant::new(secs(1)).attempts(2))
        .dead_letters(|_| {})
        .observe("counts", move |name: &str, event: Event| {
            heard.lock().unwrap().push((name.to_owned(), event))
        })
        .build();
    let mut run = Box::pin(behind.run());
    store.set(Mood::Picky(HashSet::from([1])));
    for key in 1..5 {
        save(&behind, key, key);
        clock.advance(secs(1));
        assert!(poll(&mut run).is_pending());
    }
    let events = events.lock().unwrap();
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events[0], ("counts".to_owned(), Event::Retrying { attempt: 1, delay: secs(1) }));
    assert!(matches!(events[1].1, Event::GaveUp { attempts: 2, .. }));
}

#[test]
fn on_real_threads_every_write_lands_and_the_last_one_wins() {
    let store = Faulty::new();
    let behind = WriteBehind::builder(store.clone())
        .delay(millis(1))
        .batch(16)
        .weigher(|_: &u64, _: Option<&u64>| 1)
        .max_bytes(40)
        .build();
    std::thread::scope(|scope| {
        scope.spawn(|| behind.run_blocking());
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let behind = &behind;
                scope.spawn(move || {
                    for value in 0..2_000 {
                        let key = writer * 100 + value % 50;
                        behind.save_blocking(&key, &value).unwrap();
                        assert_eq!(behind.load_blocking(&key).unwrap(), Some(value));
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert!(behind.close_blocking(secs(30)).is_empty());
    });
    for writer in 0..4 {
        for key in 0..50 {
            assert_eq!(store.row(writer * 100 + key), Some(1_950 + key));
        }
    }
    assert_eq!(behind.backlog().bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn in_tokio_a_spawned_runner_writes_when_it_is_due() {
    let store = Faulty::new();
    let behind = WriteBehind::new(store.clone());
    let runner = tokio::spawn(behind.run());
    behind.save(&1, &1).await.unwrap();
    tokio::time::sleep(millis(999)).await;
    assert_eq!(store.writes(), 0);
    tokio::time::sleep(millis(10)).await;
    assert_eq!(store.row(1), Some(1));
    behind.save(&2, &2).await.unwrap();
    assert!(behind.close(secs(1)).await.is_empty());
    runner.await.unwrap();
    assert_eq!(store.row(2), Some(2));
}

//! Look-ups that are loaded in batches.
#![cfg(not(floodwall_loom))]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use floodwall::cache::BatchLoader;
use floodwall::{Cache, Clock, Error, Reason};
use support::{millis, poll};

type Users = Cache<u64, u64>;
type Loaded = Result<Vec<(u64, u64)>, &'static str>;
type LookUp<'a> = Pin<Box<dyn Future<Output = Result<Option<u64>, Error<&'static str>>> + 'a>>;

/// What the loads were given.
type Log = Mutex<Vec<Vec<u64>>>;

/// Loads ten times each key, but no key above 99.
async fn tenfold(log: &Log, keys: Vec<u64>) -> Loaded {
    log.lock().unwrap().push(keys.clone());
    Ok(keys.into_iter().filter(|key| *key < 100).map(|key| (key, 10 * key)).collect())
}

fn users(clock: &Clock) -> Users {
    Users::builder(1_000).clock(clock.clone()).build()
}

fn taken(log: &Log) -> Vec<Vec<u64>> {
    std::mem::take(&mut log.lock().unwrap())
}

#[test]
fn what_is_asked_for_within_the_window_is_loaded_together() {
    let (clock, log) = (Clock::manual(), Log::default());
    let loader = BatchLoader::new(users(&clock), |keys| tenfold(&log, keys)).window(millis(5));
    let keys = [3, 1, 3, 200, 2];
    let mut calls: Vec<LookUp<'_>> = keys.iter().map(|key| Box::pin(loader.get(key)) as LookUp<'_>).collect();
    assert!(calls.iter_mut().all(|call| poll(call).is_pending()));
    clock.advance(millis(4));
    assert!(calls.iter_mut().all(|call| poll(call).is_pending()));
    assert_eq!(taken(&log).len(), 0, "the window is still open");
    clock.advance(millis(1));
    let values: Vec<_> = calls.iter_mut().map(poll).collect();
    assert_eq!(values, [Some(30), Some(10), Some(30), None, Some(20)].map(|value| Poll::Ready(Ok(value))));
    assert_eq!(taken(&log), [[3, 1, 200, 2]], "each key once, in the order in which they came");

    // Those that are there wait for nothing; the one that is not is asked for again.
    assert_eq!(poll(&mut (Box::pin(loader.get(&3)) as LookUp<'_>)), Poll::Ready(Ok(Some(30))));
    let mut again: LookUp<'_> = Box::pin(loader.get(&200));
    assert!(poll(&mut again).is_pending());
    clock.advance(millis(5));
    assert_eq!((poll(&mut again), taken(&log)), (Poll::Ready(Ok(None)), vec![vec![200]]));
    let stats = loader.cache().stats();
    assert_eq!((stats.hits, stats.misses, stats.loads), (1, 6, 3));
}

#[test]
fn a_full_batch_is_loaded_at_once_and_the_next_key_opens_another() {
    let (clock, log) = (Clock::manual(), Log::default());
    let loader = BatchLoader::new(users(&clock), |keys| tenfold(&log, keys)).limit(2);
    let keys = [1, 1, 2, 3];
    let mut calls: Vec<LookUp<'_>> = keys.iter().map(|key| Box::pin(loader.get(key)) as LookUp<'_>).collect();
    assert!(calls.iter_mut().all(|call| poll(call).is_pending()));
    let values: Vec<_> = calls.iter_mut().map(poll).collect();
    assert_eq!(values[..3], [Some(10), Some(10), Some(20)].map(|value| Poll::Ready(Ok(value))));
    assert_eq!((values[3].is_pending(), taken(&log)), (true, vec![vec![1, 2]]));
    clock.advance(millis(1));
    assert_eq!((poll(&mut calls[3]), taken(&log)), (Poll::Ready(Ok(Some(30))), vec![vec![3]]));
}

#[test]
fn a_batch_survives_those_who_leave_it_at_any_point() {
    // Who leaves: the one that would load, one that waits, and whether the window is still open.
    for (leaves, waited) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (clock, log) = (Clock::manual(), Log::default());
        let first = AtomicU64::new(0);
        let loader = BatchLoader::new(users(&clock), async |keys| {
            if first.fetch_add(1, Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            tenfold(&log, keys).await
        });
        let mut calls: Vec<LookUp<'_>> =
            [1, 2, 3].iter().map(|key| Box::pin(loader.get(key)) as LookUp<'_>).collect();
        assert!(calls.iter_mut().all(|call| poll(call).is_pending()));
        clock.advance(millis(waited));
        assert!(calls.iter_mut().all(|call| poll(call).is_pending()));
        drop(calls.remove(leaves));
        clock.advance(millis(1));
        let mut values = vec![None; 2];
        for _ in 0..4 {
            for (call, value) in calls.iter_mut().zip(&mut values).filter(|(_, value)| value.is_none()) {
                if let Poll::Ready(loaded) = poll(call) {
                    *value = loaded.unwrap();
                }
            }
        }
        let left = [[Some(20), Some(30)], [Some(10), Some(30)]][leaves];
        assert_eq!(values, left, "{leaves} left after {waited} ms");
    }
}

#[test]
fn a_batch_that_all_have_left_is_not_joined() {
    let (clock, log) = (Clock::manual(), Log::default());
    let loader = BatchLoader::new(users(&clock), |keys| tenfold(&log, keys));
    let mut gone: LookUp<'_> = Box::pin(loader.get(&1));
    assert!(poll(&mut gone).is_pending());
    drop(gone);
    clock.advance(millis(10));
    let mut call: LookUp<'_> = Box::pin(loader.get(&2));
    assert!(poll(&mut call).is_pending(), "it waits for others through a window of its own");
    clock.advance(millis(1));
    assert_eq!((poll(&mut call), taken(&log)), (Poll::Ready(Ok(Some(20))), vec![vec![2]]));
}

#[test]
fn an_error_is_for_the_whole_batch_and_a_panic_for_one() {
    let clock = Clock::manual();
    let fails = BatchLoader::new(users(&clock), async |_: Vec<u64>| Loaded::Err("down"));
    let mut calls: Vec<LookUp<'_>> =
        [1, 2, 1].iter().map(|key| Box::pin(fails.get(key)) as LookUp<'_>).collect();
    assert!(calls.iter_mut().all(|call| poll(call).is_pending()));
    clock.advance(millis(1));
    assert!(calls.iter_mut().all(|call| poll(call) == Poll::Ready(Err(Error::Inner("down")))));
    assert_eq!((fails.cache().len(), fails.cache().stats().load_failures), (0, 2));

    let (log, runs) = (Log::default(), AtomicU64::new(0));
    let panics = BatchLoader::new(users(&clock), async |keys: Vec<u64>| {
        assert!(runs.fetch_add(1, Ordering::Relaxed) > 0, "the first load panics");
        tenfold(&log, keys).await
    });
    let mut calls: Vec<LookUp<'_>> =
        [1, 2].iter().map(|key| Box::pin(panics.get(key)) as LookUp<'_>).collect();
    assert!(calls.iter_mut().all(|call| poll(call).is_pending()));
    clock.advance(millis(1));
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut calls[0]))).is_err());
    assert_eq!((poll(&mut calls[1]), taken(&log)), (Poll::Ready(Ok(Some(20))), vec![vec![1, 2]]));
}

#[test]
fn a_key_that_another_loads_is_waited_for_and_one_that_was_changed_is_not_kept() {
    let (clock, log) = (Clock::manual(), Log::default());
    let loader = BatchLoader::new(users(&clock), |keys| tenfold(&log, keys));
    let (gives, load) = tokio::sync::oneshot::channel();
    let mut other = Box::pin(loader.cache().get_or_load(&1, || async { Ok::<u64, ()>(load.await.unwrap()) }));
    assert!(poll(&mut other).is_pending());
    let mut calls: Vec<LookUp<'_>> =
        [1, 2].iter().map(|key| Box::pin(loader.get(key)) as LookUp<'_>).collect();
    assert!(calls.iter_mut().all(|call| poll(call).is_pending()));
    clock.advance(millis(1));
    assert!(calls.iter_mut().all(|call| poll(call).is_pending()));
    assert_eq!(taken(&log), [[2]]);
    gives.send(11).unwrap();
    assert_eq!(poll(&mut other), Poll::Ready(Ok(11)));
    assert_eq!(poll(&mut calls[0]), Poll::Ready(Ok(Some(11))));
    assert_eq!(poll(&mut calls[1]), Poll::Ready(Ok(Some(20))));

    let cache = users(&clock);
    let loader = BatchLoader::new(cache.clone(), async |keys: Vec<u64>| {
        cache.remove(&keys[0]);
        Loaded::Ok(vec![(keys[0], 5)])
    });
    let mut call: LookUp<'_> = Box::pin(loader.get(&1));
    assert!(poll(&mut call).is_pending());
    clock.advance(millis(1));
    assert_eq!((poll(&mut call), cache.peek(&1)), (Poll::Ready(Ok(Some(5))), None));
}

#[test]
fn a_load_that_waits_for_itself_is_told_so() {
    let cache = Users::new(100);
    let loader = BatchLoader::new(cache.clone(), async |_: Vec<u64>| {
        match cache.get_or_load(&1, async || Ok::<_, ()>(1)).await {
            Err(Error::Rejected(rejected)) if rejected.reason() == Reason::Recursive => {
                Loaded::Err("recursive")
            }
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(loader.get_blocking(&1), Err(Error::Inner("recursive")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_look_up_on_any_thread() {
    let log: &'static Log = Box::leak(Box::default());
    let loader: &'static _ =
        Box::leak(Box::new(BatchLoader::new(Users::new(100), move |keys| tenfold(log, keys))));
    let tasks: Vec<_> = (0..50).map(|key| tokio::spawn(async move { loader.get(&key).await })).collect();
    for (key, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), Ok(Some(10 * key as u64)));
    }
    assert_eq!(taken(log).concat().len(), 50);
}

#[test]
fn threads_and_tasks_share_batches_and_lose_nothing() {
    let (loads, keys) = (AtomicU64::new(0), AtomicU64::new(0));
    let loader = BatchLoader::new(Users::new(10_000), async |batch: Vec<u64>| {
        loads.fetch_add(1, Ordering::Relaxed);
        keys.fetch_add(batch.len() as u64, Ordering::Relaxed);
        assert!(batch.len() <= 4);
        Loaded::Ok(batch.into_iter().map(|key| (key, key + 1)).collect())
    })
    .window(millis(1))
    .limit(4);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let loader = &loader;
            scope.spawn(move || {
                for key in 0..50 {
                    assert_eq!(
                        loader.get_blocking(&(key + thread / 4 * 25)),
                        Ok(Some(key + thread / 4 * 25 + 1))
                    );
                }
            });
        }
    });
    assert_eq!(keys.load(Ordering::Relaxed), 75, "each key was loaded once");
    assert!(loads.load(Ordering::Relaxed) <= 75);
}

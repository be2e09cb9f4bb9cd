//! A store with a cache in front: what is read and written through it, by many at a time, by those who go away in the
//! middle, and over a store that fails.
#![cfg(not(floodwall_loom))]

#[path = "support/stepped.rs"]
mod stepped;
mod support;

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::Poll;
use std::time::Duration;

use floodwall::cache::Job;
use floodwall::store::{BlockingStore, CachedStore, MemoryStore, Store, Write};
use floodwall::{Cache, Clock, Error, Reason, WriteBehind, block_on};
use stepped::{Broken, Mood, Stepped};
use support::{poll, secs};

type Cached = CachedStore<u64, u64, Arc<Stepped>>;
type Make = fn(Cache<u64, Option<u64>>, Arc<Stepped>) -> Cached;

const ALL: [Make; 3] = [Cached::write_through, Cached::write_around, Cached::invalidating];
const INNER: Result<(), Error<Broken>> = Err(Error::Inner(Broken));

fn cached(make: Make, steps: usize) -> (Cached, Arc<Stepped>) {
    let store = Stepped::new(steps);
    (make(Cache::new(100), store.clone()), store)
}

/// Polls a future until it is done, and says how often that was.
fn polls<F: Future>(future: F) -> (usize, F::Output) {
    let mut future = Box::pin(future);
    (1..)
        .find_map(|number| match poll(&mut future) {
            Poll::Ready(output) => Some((number, output)),
            Poll::Pending => None,
        })
        .unwrap()
}

// What reads do.

#[test]
fn a_read_is_loaded_once_for_all_and_what_is_not_there_is_known_too() {
    let (cached, store) = cached(Cached::write_through, 1);
    store.rows.lock().unwrap().insert(1, 10);
    for (key, value) in [(1, Some(10)), (2, None)] {
        let mut reads: Vec<_> = (0..10).map(|_| Box::pin(cached.load(&key))).collect();
        assert!(reads.iter_mut().all(|read| poll(read).is_pending()));
        reads.into_iter().for_each(|read| assert_eq!(block_on(read), Ok(value)));
        assert_eq!(cached.load_blocking(&key), Ok(value));
    }
    assert_eq!(store.loads(), 2);
}

#[test]
fn entries_are_refreshed_in_the_background_and_outlive_a_store_that_is_down() {
    let (clock, store) = (Clock::manual(), Stepped::new(0));
    let (sender, jobs) = mpsc::sync_channel(8);
    let cache = Cache::builder(100)
        .ttl(secs(10))
        .negative_ttl(secs(2))
        .refresh_ahead(0.5)
        .stale_if_error(secs(3600))
        .background(move |job: Job| sender.send(job).unwrap())
        .clock(clock.clone())
        .build();
    let cached = CachedStore::write_through(cache, store.clone());
    cached.save_blocking(&1, &10).unwrap();
    store.rows.lock().unwrap().insert(1, 11);
    clock.advance(secs(5));
    assert_eq!(cached.load_blocking(&1), Ok(Some(10)));
    jobs.try_recv().unwrap().run();
    assert_eq!((cached.load_blocking(&1), store.loads()), (Ok(Some(11)), 1));

    assert_eq!((cached.load_blocking(&2), cached.load_blocking(&2), store.loads()), (Ok(None), Ok(None), 2));
    clock.advance(secs(2));
    assert_eq!((cached.load_blocking(&2), store.loads()), (Ok(None), 3));

    store.set(Mood::Down);
    clock.advance(secs(100));
    assert_eq!(cached.load_blocking(&1), Ok(Some(11)));
    assert_eq!(cached.load_blocking(&3), Err(Error::Inner(Broken)));
}

#[test]
fn many_keys_are_read_in_one_load_and_each_has_its_own_error() {
    let (cached, store) = cached(Cached::write_through, 1);
    store.rows.lock().unwrap().extend([(1, 10), (2, 20), (4, 40)]);
    assert_eq!(cached.load_blocking(&4), Ok(Some(40)));
    let keys = [&1, &2, &3, &4, &2];
    let values = [Ok(Some(10)), Ok(Some(20)), Ok(None), Ok(Some(40)), Ok(Some(20))];
    assert_eq!(cached.load_many_blocking(&keys).unwrap(), values);
    assert_eq!((cached.load_many_blocking(&keys).unwrap(), store.loads()), (values.to_vec(), 2));

    cached.cache().clear();
    store.set(Mood::Picky);
    let failed = Err(Error::Inner(Broken));
    // The second 3 is asked for once more, alone, and then it is there.
    assert_eq!(
        cached.load_many_blocking(&[&2, &3, &5, &3]).unwrap(),
        [Ok(Some(20)), failed, failed, Ok(None)]
    );
    store.set(Mood::Down);
    assert_eq!(cached.load_many_blocking(&[&7, &9]), Err(Error::Inner(Broken)));
    assert_eq!(cached.load_many_blocking(&[&2]).unwrap(), [Ok(Some(20))]);
}

// What writes do to the cache.

#[test]
fn a_write_leaves_in_the_cache_what_its_strategy_says() {
    for (number, make) in ALL.into_iter().enumerate() {
        let (cached, store) = cached(make, 0);
        let held = |key: u64| cached.cache().peek(&key);
        cached.save_blocking(&1, &10).unwrap();
        assert_eq!(held(1), [Some(Some(10)), None, None][number], "a key that was not there");
        assert_eq!((cached.load_blocking(&1), held(1)), (Ok(Some(10)), Some(Some(10))));
        cached.save_blocking(&1, &11).unwrap();
        assert_eq!(held(1), [Some(Some(11)), Some(Some(11)), None][number], "a key that was there");
        cached.load_blocking(&1).unwrap();
        cached.remove_blocking(&1).unwrap();
        assert_eq!(held(1), [Some(None), Some(None), None][number], "a key that was removed");
        assert_eq!((cached.load_blocking(&1), store.row(1)), (Ok(None), None));
    }
}

/// The contract of JCache.
#[test]
fn a_store_that_fails_leaves_the_cache_as_it_was_unless_it_is_to_be_sure() {
    for (number, make) in ALL.into_iter().enumerate() {
        let (cached, store) = cached(make, 0);
        cached.save_blocking(&2, &20).unwrap();
        cached.load_blocking(&2).unwrap();
        store.set(Mood::Down);
        assert_eq!((cached.save_blocking(&2, &21), cached.save_blocking(&4, &40)), (INNER, INNER));
        assert_eq!(cached.remove_blocking(&2), INNER);
        let writes = [Write::save(&2, &22), Write::remove(&4)];
        assert_eq!(cached.write_many_blocking(&writes), Err(Error::Inner(Broken)));
        assert_eq!(cached.cache().peek(&2), [Some(Some(20)), Some(Some(20)), None][number]);
        assert_eq!(cached.cache().peek(&4), None);
    }
}

#[test]
fn a_batch_that_fails_in_part_applies_what_succeeded_and_reports_the_rest() {
    for (number, make) in ALL.into_iter().enumerate() {
        let (cached, store) = cached(make, 1);
        for key in 1..=4 {
            cached.save_blocking(&key, &key).unwrap();
            cached.load_blocking(&key).unwrap();
        }
        store.set(Mood::Picky);
        let writes =
            [Write::save(&1, &10), Write::save(&2, &20).sequence(7), Write::remove(&3), Write::remove(&4)];
        assert_eq!(cached.write_many_blocking(&writes).unwrap(), [INNER, Ok(()), INNER, Ok(())]);
        let rows: Vec<_> = [1, 2, 3, 4].map(|key| store.row(key)).into();
        assert_eq!(rows, [Some(1), Some(20), Some(3), None]);
        assert_eq!(store.log.lock().unwrap()[4], (2, Some(20), 7), "the number of a write is passed on");
        let held: Vec<_> = [1, 2, 3, 4].map(|key| cached.cache().peek(&key)).into();
        assert_eq!(held, if number == 2 { vec![None; 4] } else { rows.into_iter().map(Some).collect() });
        assert!(cached.write_many_blocking(&[]).unwrap().is_empty());
    }
}

#[test]
fn a_value_that_is_too_heavy_is_written_and_not_kept() {
    let store = Arc::new(MemoryStore::new());
    let cache = Cache::builder(10).weigher(|_, value: &Option<u64>| value.unwrap_or(1)).build();
    let cached = CachedStore::write_through(cache, store.clone());
    cached.save_blocking(&1, &5).unwrap();
    cached.save_blocking(&1, &11).unwrap();
    assert_eq!(cached.cache().peek(&1), None);
    assert_eq!((cached.load_blocking(&1), store.load_blocking(&1)), (Ok(Some(11)), Ok(Some(11))));
}

// Who comes when.

/// Trap 1: a load that began before a key was invalidated or written is not kept.
#[test]
fn trap_1_a_load_that_began_before_a_write_is_not_installed_after_it() {
    for make in ALL {
        for steps_before_the_write in 1..=4 {
            let (cached, store) = cached(make, 2);
            store.rows.lock().unwrap().insert(1, 10);
            let mut load = Box::pin(cached.load(&1));
            for _ in 0..steps_before_the_write {
                assert!(poll(&mut load).is_pending());
            }
            polls(cached.save(&1, &11)).1.unwrap();
            // Who began to read before the write ended may see either; who comes later must not.
            let value = block_on(load).unwrap().unwrap();
            assert!(value == 10 || value == 11);
            assert_eq!(block_on(cached.load(&1)), Ok(Some(11)));
        }
        let (cached, store) = cached(make, 2);
        let mut load = Box::pin(cached.load(&1));
        assert!(poll(&mut load).is_pending() && poll(&mut load).is_pending() && poll(&mut load).is_pending());
        store.rows.lock().unwrap().insert(1, 12);
        cached.cache().remove(&1);
        assert_eq!((block_on(load), block_on(cached.load(&1))), (Ok(None), Ok(Some(12))));
    }
}

/// Trap 2: a refresh that ends after its key was removed does not bring it back, nor after a newer write.
#[test]
fn trap_2_a_refresh_resurrects_nothing() {
    for make in ALL {
        let (clock, store) = (Clock::manual(), Stepped::new(2));
        let (sender, jobs) = mpsc::sync_channel(8);
        let cache = Cache::builder(100)
            .ttl(secs(10))
            .refresh_ahead(0.5)
            .background(move |job: Job| sender.send(job).unwrap())
            .clock(clock.clone())
            .build();
        let cached = make(cache, store.clone());
        for removed in [true, false] {
            store.rows.lock().unwrap().insert(1, 10);
            cached.cache().remove(&1);
            block_on(cached.load(&1)).unwrap();
            clock.advance(secs(6));
            assert_eq!(block_on(cached.load(&1)), Ok(Some(10)));
            let mut refresh = Box::pin(jobs.try_recv().unwrap());
            for _ in 0..3 {
                assert!(poll(&mut refresh).is_pending());
            }
            let expected = if removed {
                block_on(cached.remove(&1)).unwrap();
                None
            } else {
                block_on(cached.save(&1, &11)).unwrap();
                Some(11)
            };
            block_on(refresh);
            assert_eq!(block_on(cached.load(&1)), Ok(expected), "removed: {removed}");
        }
    }
}

/// Trap 3: a load that began when the value was A must not overwrite the A that came after B.
#[test]
fn trap_3_the_same_value_again_is_another_value() {
    for make in ALL {
        let (cached, store) = cached(make, 2);
        store.rows.lock().unwrap().insert(1, 10);
        let mut load = Box::pin(cached.load(&1));
        assert!(poll(&mut load).is_pending() && poll(&mut load).is_pending());
        for value in [11, 10] {
            block_on(cached.save(&1, &value)).unwrap();
        }
        let mut second = Box::pin(cached.save(&1, &12));
        assert!(poll(&mut second).is_pending());
        assert!(poll(&mut load).is_pending());
        block_on(second).unwrap();
        block_on(load).unwrap();
        assert_eq!(block_on(cached.load(&1)), Ok(Some(12)));
    }
}

#[test]
fn writers_of_a_key_take_turns_and_the_cache_ends_with_what_the_store_ends_with() {
    for make in ALL {
        let (cached, store) = cached(make, 3);
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (cached, made) = (&cached, &made);
                scope.spawn(move || {
                    for round in 0..300 {
                        let (key, value) = ((thread + round) % 3, thread * 1_000 + round);
                        match round % 7 {
                            0 => cached.remove_blocking(&key).unwrap(),
                            1 => {
                                let writes =
                                    [Write::save(&2, &value), Write::remove(&0), Write::save(&1, &value)];
                                cached.write_many_blocking(&writes).unwrap();
                            }
                            2 => drop(cached.cache().remove(&key)),
                            3 => drop(cached.load_many_blocking(&[&0, &1, &2]).unwrap()),
                            4 => drop(cached.load_blocking(&key).unwrap()),
                            _ => cached.save_blocking(&key, &value).unwrap(),
                        }
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(made.into_inner(), 1_200);
        for key in 0..3 {
            let held = cached.cache().peek(&key);
            assert!(held.is_none() || held == Some(store.row(key)), "{held:?} for {:?}", store.row(key));
            assert_eq!(cached.load_blocking(&key), Ok(store.row(key)));
        }
    }
}

#[test]
fn a_write_in_progress_is_not_seen_and_a_second_one_waits_its_turn() {
    let (cached, store) = cached(Cached::write_through, 2);
    block_on(cached.save(&1, &10)).unwrap();
    let mut first = Box::pin(cached.save(&1, &11));
    let mut second = Box::pin(cached.save(&1, &12));
    for _ in 0..3 {
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
    }
    assert_eq!((block_on(cached.load(&1)), store.row(1)), (Ok(Some(10)), Some(11)));
    // Another key waits for nobody.
    block_on(cached.save(&2, &20)).unwrap();
    block_on(first).unwrap();
    assert_eq!(block_on(cached.load(&1)), Ok(Some(11)));
    block_on(second).unwrap();
    assert_eq!((block_on(cached.load(&1)), store.row(1)), (Ok(Some(12)), Some(12)));
}

// Who goes away.

#[test]
fn a_write_that_is_dropped_at_any_point_is_seen_as_the_store_has_it() {
    for make in ALL {
        let whole = polls(cached(make, 2).0.save(&1, &11)).0;
        assert!(whole > 4, "only {whole} points");
        for stop in 1..whole {
            for next in 0..4 {
                let (cached, store) = cached(make, 2);
                block_on(cached.save(&1, &10)).unwrap();
                block_on(cached.load(&1)).unwrap();
                let mut save = Box::pin(cached.save(&1, &11));
                for _ in 0..stop {
                    assert!(poll(&mut save).is_pending());
                }
                drop(save);
                let expected = match next {
                    0 => Some(11),
                    1 => {
                        assert_eq!(block_on(cached.load_many(&[&1])).unwrap(), [Ok(Some(11))]);
                        Some(11)
                    }
                    2 => {
                        block_on(cached.save(&1, &12)).unwrap();
                        Some(12)
                    }
                    _ => {
                        block_on(cached.flush()).unwrap();
                        assert_eq!(store.row(1), Some(11), "at its end without anybody who comes to the key");
                        Some(11)
                    }
                };
                assert_eq!(block_on(cached.load(&1)), Ok(expected), "dropped after {stop} polls");
                assert_eq!(store.row(1), expected);
            }
        }
    }
}

#[test]
fn a_batch_that_is_dropped_holds_up_each_of_its_keys_until_it_has_ended() {
    for stop in 1..5 {
        let (cached, store) = cached(Cached::write_through, 2);
        let writes = [Write::save(&1, &10), Write::save(&2, &20), Write::save(&3, &30)];
        let mut batch = Box::pin(cached.write_many(&writes));
        for _ in 0..stop {
            assert!(poll(&mut batch).is_pending());
        }
        drop(batch);
        // Three who come for it at once, of whom the one who is at it goes away as well.
        let mut first = Box::pin(cached.load(&1));
        let mut second = Box::pin(cached.save(&2, &21));
        let mut third = Box::pin(cached.load(&3));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        let mut read = poll(&mut third);
        assert!(stop == 4 || read.is_pending(), "the batch has not ended");
        drop(first);
        let mut is_written = false;
        for _ in 0..40 {
            is_written = is_written || poll(&mut second).is_ready();
            if read.is_pending() {
                read = poll(&mut third);
            }
        }
        assert!(is_written && read == Poll::Ready(Ok(Some(30))), "dropped after {stop} polls: {read:?}");
        let rows = [1, 2, 3].map(|key| store.row(key));
        assert_eq!(rows, [Some(10), Some(21), Some(30)]);
        assert_eq!(block_on(cached.load(&2)), Ok(Some(21)));
    }
}

#[test]
fn one_that_is_dropped_while_it_waits_for_its_turn_writes_nothing() {
    let (cached, store) = cached(Cached::write_through, 2);
    let mut first = Box::pin(cached.save(&1, &10));
    let mut waits = Box::pin(cached.save(&1, &11));
    let writes = [Write::save(&0, &1), Write::save(&1, &12)];
    let mut batch = Box::pin(cached.write_many(&writes));
    assert!(poll(&mut first).is_pending() && poll(&mut waits).is_pending() && poll(&mut batch).is_pending());
    drop((waits, batch));
    block_on(first).unwrap();
    block_on(cached.save(&0, &2)).unwrap();
    assert_eq!(*store.log.lock().unwrap(), [(1, Some(10), 0), (0, Some(2), 0)]);
    assert_eq!(block_on(cached.load(&1)), Ok(Some(10)));
}

#[test]
fn a_store_that_panics_costs_one_write_and_what_it_may_have_done_is_looked_up() {
    for make in ALL {
        let (cached, store) = cached(make, 1);
        block_on(cached.save(&1, &10)).unwrap();
        block_on(cached.load(&1)).unwrap();
        store.set(Mood::Panicking);
        let panics = |write: Pin<Box<dyn Future<Output = Result<(), Error<Broken>>> + Send + '_>>| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| block_on(write))).unwrap_err()
        };
        panics(Box::pin(cached.save(&1, &11)));
        assert_eq!(cached.cache().peek(&1), None);
        // Also one that was left to others.
        let mut save = Box::pin(cached.save(&1, &12));
        assert!(poll(&mut save).is_pending());
        drop(save);
        panics(Box::pin(async { cached.load(&1).await.map(drop) }));
        store.set(Mood::Well);
        assert_eq!(block_on(cached.load(&1)), Ok(Some(10)));
        block_on(cached.save(&1, &13)).unwrap();
        assert_eq!(block_on(cached.load(&1)), Ok(Some(13)));
    }
}

/// A store of a client that goes on with what it was asked to do, whoever waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_goes_on_elsewhere_never_ends_after_a_later_one_or_behind_the_back_of_a_read() {
    struct Rows(Stepped);
    impl BlockingStore<u64, u64> for Rows {
        type Error = Broken;
        fn load(&self, key: &u64) -> Result<Option<u64>, Broken> {
            Ok(self.0.row(*key))
        }
        fn save(&self, key: &u64, value: &u64) -> Result<(), Broken> {
            (0..value % 50).for_each(|_| std::thread::yield_now());
            self.0.save_blocking(key, value)
        }
        fn remove(&self, key: &u64) -> Result<(), Broken> {
            self.0.remove_blocking(key)
        }
    }
    let store = Arc::new(Rows(Stepped::default()).offload(|job| drop(tokio::task::spawn_blocking(job))));
    let cached = CachedStore::write_through(Cache::new(100), store.clone());
    for value in 1..500 {
        let mut save = Box::pin(cached.save(&1, &value));
        let begun = poll(&mut save).is_pending();
        drop(save);
        if begun && value % 3 == 0 {
            cached.save(&1, &(value + 1_000)).await.unwrap();
            assert_eq!(cached.load(&1).await, Ok(Some(value + 1_000)));
        } else {
            assert_eq!(cached.load(&1).await, Ok(Some(value)));
        }
        assert_eq!(cached.cache().peek(&1), Some(store.store().0.row(1)));
    }
}

// What else there is.

#[test]
fn a_store_that_comes_back_for_its_own_key_is_told_so() {
    #[derive(Default)]
    struct Echo {
        cached: OnceLock<CachedStore<u64, u64, Arc<Echo>>>,
        heard: Mutex<Vec<Result<(), Reason>>>,
    }
    impl Store<u64, u64> for Echo {
        type Error = Broken;
        async fn load(&self, _: &u64) -> Result<Option<u64>, Broken> {
            Ok(None)
        }
        async fn save(&self, key: &u64, value: &u64) -> Result<(), Broken> {
            if *value > 0 {
                let cached = self.cached.get().unwrap();
                for other in [key + 1, *key] {
                    let result = Box::pin(cached.save(&other, &0)).await.map_err(|error| match error {
                        Error::Rejected(rejected) => rejected.reason(),
                        error => panic!("{error:?}"),
                    });
                    self.heard.lock().unwrap().push(result);
                }
            }
            Ok(())
        }
        async fn remove(&self, _: &u64) -> Result<(), Broken> {
            Ok(())
        }
    }
    let echo = Arc::new(Echo::default());
    let cached = CachedStore::write_through(Cache::new(100), echo.clone());
    assert!(echo.cached.set(cached.clone()).is_ok());
    cached.save_blocking(&1, &1).unwrap();
    assert_eq!(*echo.heard.lock().unwrap(), [Ok(()), Err(Reason::Recursive)]);
}

#[test]
fn over_a_write_behind_writes_are_taken_at_once_and_seen_however_they_leave_the_cache() {
    let database = Stepped::new(1);
    let behind = WriteBehind::builder(database.clone()).clock(Clock::manual()).build();
    let cached = CachedStore::write_through(Cache::new(2), behind.clone());
    for key in 0..10 {
        cached.save_blocking(&key, &(key * 10)).unwrap();
    }
    assert!(database.rows.lock().unwrap().is_empty());
    cached.remove_blocking(&3).unwrap();
    for key in 0..10 {
        let value = (key != 3).then_some(key * 10);
        assert_eq!(cached.load_blocking(&key).unwrap(), value, "key {key}");
    }
    assert!(behind.close_blocking(Duration::from_secs(1)).is_empty());
    assert_eq!((database.row(9), database.row(3)), (Some(90), None));
    assert!(matches!(cached.save_blocking(&1, &1), Err(Error::Inner(_))), "it is closed");
    assert_eq!(cached.load_blocking(&1).unwrap(), Some(10));
}

//! Traps that other caches fell into, by the numbers of the crate's notes on caches; this table says where each is shown.
//!
//! | trap | what goes wrong | where the tests are |
//! |---|---|---|
//! | 1 | a load that races an invalidation is kept | `cache_loading`, `cached_store`, `loom` |
//! | 2, 3 | a refresh brings a key back, or replaces what is newer, also if it looks the same | `cache_loading`, `cache_fresh`, `cached_store` |
//! | 4 | an update that is computed is lost | `cache_loading` |
//! | 5 | a load that asks for its own key waits for ever | `cache_loading`, `single_flight` |
//! | 6, 7, 8 | a load that panics or is cancelled, or a guard that is dropped, leaves something behind | `cache_loading`, `cache_batch`, `single_flight` |
//! | 9 | a listener that uses the cache | `cache_loading`, `cache_events` |
//! | 10 | users' code that panics | `cache_model`, `cache_events`, `single_flight`, `tags` |
//! | 11 | a value that uses the cache when it is dropped, or takes long | here, `cache` |
//! | 12 | weights that overflow or drift | here, `cache`, `cache_model` |
//! | 13 | a heavy entry that no part has room for | here |
//! | 14 | tiny capacities | here, `cache_model`, `src/cache/evict/tests.rs` |
//! | 15 | entries without weight | here, `cache_model`, `src/cache/evict/tests.rs` |
//! | 16 | a timer wheel that loses or frees what it holds | `src/cache/wheel.rs` |
//! | 17, 18 | clocks that jump; a read that brings back what was over | `cache_expiry` |
//! | 19 | writers that wait for a queue of maintenance | none: there is no queue, and a write does its share itself |
//! | 20 | more memory than allowed in a storm of inserts | `cache_threads` |
//! | 21 | a clear beside inserts, loads and iterators | `cache_events`, `cache_loading`, `cache_model`, `loom` |
//! | 22 | keys that are told apart by their hashes alone | `cache_model` (one hash for all), `single_flight` |
//! | 23, 24 | a flood that keeps a key out; a sketch that stops ageing | `src/cache/evict/tests.rs` |
//! | 25 | refreshes that count as uses | `cache_fresh` |
//! | 26 | a learner that swings, or is worse than an LRU | `cache_sim` |
//! | 27 to 32 | writes behind that are lost, hidden, out of order, or stuck | `write_behind`, `write_behind_model`, `journal`, `journal_rules`, `crash` |
//! | 33 | an instance that no longer hears of the others | `bus`, `cache_events` |
//! | 34 | what has left is kept after the cache is gone | here, `cache_threads` |
//! | 35 | an iteration that misses, repeats or counts as use | `cache_events` |
#![cfg(not(floodwall_loom))]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use floodwall::Cache;
use floodwall::cache::{Compute, Eviction};

#[test]
fn trap_11_a_value_may_use_the_cache_when_it_is_dropped() {
    struct Value(u64);
    static CACHE: OnceLock<Cache<u64, Value>> = OnceLock::new();
    static DROPPED: AtomicU64 = AtomicU64::new(0);
    impl Drop for Value {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            let cache = CACHE.get().unwrap();
            // Its own key, another one of the same hash's part, and one that makes others leave, once.
            cache.with(&self.0, |value| assert_eq!(value.0, self.0));
            cache.remove_if(&(self.0 + 1), |_| false);
            if self.0 < 1_000 {
                assert!(cache.insert(self.0 + 1_000, Value(self.0 + 1_000)).is_ok());
            }
        }
    }
    // On a thread of its own, so that a deadlock fails the test.
    let (done, ends) = mpsc::channel();
    thread::spawn(move || {
        let cache = CACHE.get_or_init(|| Cache::new(10));
        for round in 0..3 {
            for key in 0..100 {
                assert!(cache.insert(key, Value(key)).is_ok());
                cache.remove_if(&(key / 2), |_| true);
            }
            cache.set_capacity(10 - round);
            cache.sweep(10);
            cache.clear();
        }
        done.send(cache.len()).unwrap();
    });
    let left = ends.recv_timeout(Duration::from_secs(60)).expect("nothing waits for itself");
    assert!(left <= 8 && DROPPED.load(Ordering::Relaxed) >= 300);
}

#[test]
fn trap_11_a_value_that_takes_long_to_drop_holds_up_nobody_else() {
    struct Slow(Arc<Barrier>);
    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.wait();
            self.0.wait();
        }
    }
    let barrier = Arc::new(Barrier::new(2));
    let cache = Cache::new(4);
    // Once before they have used it, and once after.
    assert!(cache.insert(1, Some(Slow(barrier.clone()))).is_ok());
    thread::scope(|scope| {
        scope.spawn(|| cache.remove_if(&1, |_| true));
        barrier.wait();
        assert!(!cache.contains(&1));
        for key in 0..20 {
            assert!(cache.insert(key, None).is_ok());
            assert!(cache.with(&key, Option::is_none).is_some());
        }
        cache.clear();
        barrier.wait();
    });
    assert_eq!(cache.len(), 0);
}

#[test]
fn trap_12_weights_that_change_in_parallel_add_up() {
    for eviction in [Eviction::Adaptive, Eviction::Lru] {
        let cache = Cache::builder(20_000).weigher(|_: &u64, value: &u64| *value).eviction(eviction).build();
        thread::scope(|scope| {
            for thread in 0..4u64 {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..3_000u64 {
                        let number = (round * 4 + thread).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                        let (key, weight) = (number % 97, number % 1_013);
                        match number % 16 {
                            0 => drop(cache.remove(&key)),
                            1 => drop(cache.compute_blocking(&key, |_| Compute::Put(weight))),
                            2 => cache.set_capacity(10_000 + number % 10_000),
                            3 if round % 64 == 0 => cache.clear(),
                            _ => drop(cache.insert(key, weight)),
                        }
                        let all = cache.weight();
                        assert!(all <= 40_000, "{all}: neither negative nor without a bound");
                    }
                });
            }
        });
        cache.set_capacity(15_000);
        let mut all = (0, 0);
        cache.for_each(|_, weight| all = (all.0 + 1, all.1 + weight));
        assert_eq!((cache.len(), cache.weight()), all);
        assert!(all.1 <= 15_000);
        // No room was lost on the way.
        cache.clear();
        cache.sweep(usize::MAX);
        assert_eq!(cache.insert(1, 15_000), Ok(()));
        assert_eq!(cache.weight(), 15_000);
    }
}

#[test]
fn trap_13_an_entry_of_half_the_capacity_is_kept_however_many_parts_there_are() {
    // Of 100,000 there are as many parts as a cache can have.
    let cache = Cache::builder(100_000).weigher(|_: &u64, value: &u64| *value).build();
    (0..1_000).for_each(|key| cache.insert(key, 100).unwrap());
    cache.insert(5_000, 50_000).unwrap();
    assert_eq!(cache.get(&5_000), Some(50_000));
    assert!((48_000..=50_000).contains(&(cache.weight() - 50_000)), "{}", cache.weight());
    cache.insert(5_001, 100_000).unwrap();
    assert_eq!((cache.get(&5_001), cache.len()), (Some(100_000), 1), "all of it, too");
    assert_eq!(cache.insert(5_002, 100_001).unwrap_err().limit, 100_000);
}

#[test]
fn trap_14_a_small_cache_holds_as_many_as_it_says_and_the_newest_among_them() {
    for eviction in [Eviction::Adaptive, Eviction::Lru] {
        for capacity in 0..100 {
            let cache = Cache::builder(capacity).eviction(eviction).build();
            for key in 0..3 * capacity + 2 {
                assert_eq!(cache.insert(key, key).is_ok(), capacity > 0);
                assert_eq!(cache.get(&key).is_some(), capacity > 0, "of {capacity}");
                assert!(cache.len() as u64 <= capacity);
            }
            // From 64 on others leave somewhat before it is full.
            let slack = if eviction == Eviction::Lru || capacity < 64 { 0 } else { capacity / 64 };
            assert!(cache.len() as u64 >= capacity - slack, "{} of {capacity}", cache.len());
        }
    }
}

#[test]
fn trap_15_entries_without_weight_do_not_stand_in_the_way() {
    for eviction in [Eviction::Adaptive, Eviction::Lru] {
        let cache = Cache::builder(100).weigher(|_: &u64, value: &u64| *value).eviction(eviction).build();
        (0..10_000).for_each(|key| cache.insert(key, 0).unwrap());
        (10_000..10_300).for_each(|key| cache.insert(key, 1).unwrap());
        cache.insert(20_000, 100).unwrap();
        assert_eq!((cache.weight(), cache.len()), (100, 10_001));
        cache.set_capacity(0);
        assert_eq!((cache.weight(), cache.len()), (0, 10_000), "what weighs nothing fits always");
    }
}

#[test]
fn trap_34_nothing_outlives_the_cache() {
    let value = Arc::new(());
    let cache = Cache::new(100_000);
    (0..150_000).for_each(|key| cache.insert(key, value.clone()).unwrap());
    let (entered, read) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    let reader = {
        let cache = cache.clone();
        thread::spawn(move || {
            cache.with(&149_999, |_| {
                entered.send(()).unwrap();
                let _ = ends.recv();
            })
        })
    };
    read.recv().unwrap();
    cache.clear();
    (0..50).for_each(|key| cache.insert(key, value.clone()).unwrap());
    drop(cache);
    // The reader has it still.
    assert!(Arc::strong_count(&value) > 1);
    drop(end);
    assert_eq!(reader.join().unwrap(), Some(()));
    assert_eq!(Arc::strong_count(&value), 1);
}

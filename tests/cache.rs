//! `Cache`: what is kept, what leaves, and who hears of it.
#![cfg(not(floodwall_loom))]

use std::sync::{Arc, Mutex, OnceLock};

use floodwall::Cache;
use floodwall::cache::{Cause, Eviction, Simulator};

type Left = Arc<Mutex<Vec<(u64, u64, Cause)>>>;

/// A cache of `capacity` that weighs values by their number, and what has left it.
fn watched(capacity: u64) -> (Cache<u64, u64>, Left) {
    let left = Left::default();
    let heard = Arc::clone(&left);
    let cache = Cache::builder(capacity)
        .weigher(|_, value| *value)
        .listener(move |key, value, cause| heard.lock().unwrap().push((*key, *value, cause)))
        .build();
    (cache, left)
}

#[test]
fn a_value_is_found_until_it_is_removed() {
    let cache = Cache::new(10);
    assert_eq!(cache.get("a"), None);
    cache.insert("a".to_string(), 1).unwrap();
    assert_eq!(cache.get("a"), Some(1));
    assert_eq!(cache.peek("a"), Some(1));
    assert_eq!(cache.with("a", |value| value + 1), Some(2));
    assert_eq!(cache.remove("a"), Some(1));
    assert_eq!(cache.get("a"), None);
    assert_eq!(cache.remove("a"), None);
}

#[test]
fn the_listener_hears_why_an_entry_left() {
    let (cache, left) = watched(10);
    cache.insert(1, 4).unwrap();
    cache.insert(1, 5).unwrap();
    cache.remove(&1);
    assert_eq!(*left.lock().unwrap(), [(1, 4, Cause::Replaced), (1, 5, Cause::Explicit)]);
}

#[test]
fn what_is_too_heavy_is_given_back_and_what_it_replaces_is_gone() {
    let (cache, left) = watched(10);
    cache.insert(1, 4).unwrap();
    let refused = cache.insert(1, 11).unwrap_err();
    assert_eq!((refused.value, refused.weight, refused.limit), (11, 11, 10));
    assert_eq!(refused.to_string(), "an entry of weight 11 is heavier than one may be, 10");
    assert_eq!(cache.get(&1), None, "the old value is no longer true");
    assert_eq!(*left.lock().unwrap(), [(1, 4, Cause::Replaced)]);
}

#[test]
fn a_smaller_capacity_holds_at_once() {
    let (cache, left) = watched(10);
    for key in 0..5 {
        cache.insert(key, 2).unwrap();
    }
    assert_eq!((cache.weight(), cache.len()), (10, 5));
    cache.set_capacity(4);
    assert_eq!((cache.weight(), cache.len(), cache.capacity()), (4, 2, 4));
    assert!(left.lock().unwrap().iter().all(|(_, _, cause)| *cause == Cause::Size));
}

/// Trap 12.
#[test]
fn trap_12_weights_near_the_end_of_numbers_are_neither_lost_nor_added_up() {
    let (cache, left) = watched(u64::MAX);
    let most = 1 << 56;
    assert_eq!(cache.capacity(), most);
    assert_eq!(cache.insert(0, u64::MAX).unwrap_err().limit, most);
    for (key, weight) in [(1, most - 1), (2, 1), (3, most), (4, 0)] {
        cache.insert(key, weight).unwrap();
    }
    assert_eq!((cache.weight(), cache.len()), (most, 2));
    let mut left = left.lock().unwrap().clone();
    left.sort_unstable_by_key(|(key, ..)| *key);
    assert_eq!(left, [(1, most - 1, Cause::Size), (2, 1, Cause::Size)]);
}

/// Trap 11.
#[test]
fn the_key_of_a_refused_value_is_dropped_where_it_may_use_the_cache() {
    #[derive(PartialEq, Eq, Hash)]
    struct Key(u64);
    static CACHE: OnceLock<Cache<Key, u64>> = OnceLock::new();
    impl Drop for Key {
        fn drop(&mut self) {
            if self.0 == 1 {
                CACHE.get().unwrap().insert(Key(2), 1).unwrap();
                CACHE.get().unwrap().remove(&Key(3));
            }
        }
    }
    let cache = CACHE.get_or_init(|| Cache::builder(1).weigher(|_, value| *value).build());
    assert_eq!(cache.insert(Key(1), 5).unwrap_err().value, 5);
    assert_eq!(cache.get(&Key(2)), Some(1));
}

#[test]
fn what_leaves_is_dropped_at_once_in_a_small_cache_and_by_a_sweep_in_a_large_one() {
    let value = Arc::new(());
    let small = Cache::new(255);
    for _ in 0..1000 {
        small.insert(1, value.clone()).unwrap();
        assert_eq!(Arc::strong_count(&value), 2);
        drop(small.remove(&1));
        assert_eq!(Arc::strong_count(&value), 1);
        small.insert(1, value.clone()).unwrap();
        assert!(small.remove_if(&1, |_| true));
        assert_eq!(Arc::strong_count(&value), 1);
    }
    let large = Cache::new(100_000);
    for key in 0..300_000 {
        large.insert(key, value.clone()).unwrap();
    }
    let most = Arc::strong_count(&value);
    assert!(most <= 100_002, "{most}");
    large.sweep(0);
    assert_eq!(Arc::strong_count(&value), large.len() + 1);
    large.clear();
    assert_eq!(large.len(), 0);
    assert!(Arc::strong_count(&value) > 90_000, "a clear drops no more than a thousand");
    large.sweep(usize::MAX);
    assert_eq!(Arc::strong_count(&value), 1);
    (0..500).for_each(|key| large.insert(key, value.clone()).unwrap());
    large.clear();
    assert_eq!(Arc::strong_count(&value), 1, "what are not more are dropped at once");
}

#[test]
fn a_value_that_is_read_is_dropped_after_the_read() {
    let value = Arc::new(());
    let cache = Cache::new(10);
    cache.insert(1, value.clone()).unwrap();
    let seen = cache.with(&1, |_| {
        cache.remove(&1);
        cache.clear();
        Arc::strong_count(&value)
    });
    assert_eq!((seen, Arc::strong_count(&value)), (Some(2), 2));
    cache.sweep(0);
    assert_eq!(Arc::strong_count(&value), 1);
}

/// Which share of a sequence of keys is found; what is missing is put in.
fn hits(eviction: Eviction, capacity: u64, keys: &[u64]) -> f64 {
    let cache = Cache::builder(capacity).eviction(eviction).build();
    let hits = keys.iter().filter(|&&key| {
        let hit = cache.get(&key).is_some();
        if !hit {
            cache.insert(key, key).unwrap();
        }
        hit
    });
    hits.count() as f64 / keys.len() as f64
}

#[test]
fn a_cache_in_parts_hits_what_its_eviction_alone_would() {
    let mut seed = 1_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as f64 / (1_u64 << 31) as f64
    };
    let skewed: Vec<u64> = (0..300_000).map(|_| 100_000_f64.powf(random()) as u64).collect();
    let scanned = (0..300_000).map(|n| if n % 3 == 0 { 1_000_000 + n } else { skewed[n as usize] }).collect();
    let looped = (0..300_000).map(|n| n % 6_000).collect();
    for (name, keys) in [("skewed", skewed), ("scanned", scanned), ("looped", looped)] {
        let capacity = 5_000;
        let mut simulator = Simulator::new(Eviction::Adaptive, capacity);
        let alone = keys
            .iter()
            .filter(|&&key| simulator.access(key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32), 1));
        let alone = alone.count() as f64 / keys.len() as f64;
        let parts = hits(Eviction::Adaptive, capacity, &keys);
        let lru = hits(Eviction::Lru, capacity, &keys);
        println!("{name}: alone {alone:.3}, in parts {parts:.3}, lru {lru:.3}");
        // Which keys are in the sample is a matter of luck; in a loop that decides how long it takes to learn.
        assert!(parts > alone - 0.12, "{name}: {parts} in parts, {alone} alone");
        assert!(parts > lru, "{name}: {parts}, an LRU {lru}");
    }
}

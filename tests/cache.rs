//! `Cache`: what is kept, what leaves, and who hears of it.
#![cfg(not(floodwall_loom))]

use std::sync::{Arc, Mutex};

use floodwall::Cache;
use floodwall::cache::Cause;

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

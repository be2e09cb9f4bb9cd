//! Reads of a cache that hold no lock, beside threads that change what they read.
//!
//! Each value says whose it is, and whether it was dropped. loom fails a model if a slot is filled or emptied while somebody looks
//! at it; but not if a fence, of a scan for another reason, has ordered the two. So who reads asks the value, too.

use std::sync::atomic::AtomicBool;

use super::*;

type Numbers = Cache<u8, Value>;

struct Value {
    number: u64,
    /// It outlives the value, and is no step of the model.
    is_dropped: &'static AtomicBool,
}

impl Value {
    fn new(key: u8) -> Self {
        Self { number: number(key), is_dropped: Box::leak(Box::new(AtomicBool::new(false))) }
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        assert!(!self.is_dropped.swap(true, Ordering::Relaxed), "dropped once");
    }
}

/// In a thread of its own: a model's first one ends after what all threads share.
fn model_of_reads(check: impl Fn() + Send + Sync + Copy + 'static) {
    model_of(2, move || thread::spawn(check).join().unwrap());
}

const fn number(key: u8) -> u64 {
    key as u64 * 100
}

fn reads(cache: &Numbers, key: u8) -> Option<u64> {
    cache.with(&key, |found| {
        assert!(!found.is_dropped.load(Ordering::Relaxed), "read after it was dropped");
        assert_eq!(found.number, number(key));
        found.number
    })
}

fn insert(cache: &Numbers, key: u8) {
    assert!(cache.insert(key, Value::new(key)).is_ok());
}

#[test]
fn a_slot_is_not_used_again_while_it_is_read() {
    model_of_reads(|| {
        let cache = Numbers::new(1);
        insert(&cache, 1);
        let reader = {
            let cache = cache.clone();
            thread::spawn(move || reads(&cache, 1))
        };
        insert(&cache, 2);
        insert(&cache, 3);
        reader.join().unwrap();
        assert_eq!((reads(&cache, 1), reads(&cache, 3), cache.len()), (None, Some(300), 1));
    });
}

#[test]
fn a_removed_value_is_not_dropped_while_it_is_read() {
    model_of_reads(|| {
        let cache = Numbers::new(2);
        insert(&cache, 1);
        let reader = {
            let cache = cache.clone();
            thread::spawn(move || (reads(&cache, 1), reads(&cache, 2)))
        };
        cache.remove_if(&1, |_| true);
        insert(&cache, 2);
        cache.sweep(1);
        reader.join().unwrap();
    });
}

/// Weighed, so that the table begins small.
fn grown(entries: u8) -> Numbers {
    let cache = Numbers::builder(100).weigher(|_, _| 1).build();
    (0..entries).for_each(|key| insert(&cache, key));
    cache
}

#[test]
fn what_stays_is_found_while_the_table_grows() {
    model_of_reads(|| {
        let cache = grown(6);
        let reader = {
            let cache = cache.clone();
            thread::spawn(move || {
                for key in [2, 5] {
                    assert_eq!(reads(&cache, key), Some(number(key)));
                }
            })
        };
        insert(&cache, 6);
        insert(&cache, 7);
        cache.sweep(1);
        reader.join().unwrap();
        assert_eq!(cache.len(), 8);
    });
}

/// Who has found the table before it grew looks at one that nobody changes any more: also what has left is still in it.
#[test]
fn what_has_left_is_not_read_through_a_table_that_was_outgrown() {
    model_of_reads(|| {
        let cache = grown(6);
        let reader = {
            let cache = cache.clone();
            thread::spawn(move || reads(&cache, 2))
        };
        insert(&cache, 6);
        cache.remove_if(&2, |_| true);
        cache.sweep(1);
        reader.join().unwrap();
        assert_eq!((reads(&cache, 2), cache.len()), (None, 6));
    });
}

#[test]
fn what_was_cleared_is_not_dropped_while_it_is_read() {
    model_of_reads(|| {
        let cache = grown(3);
        let reader = {
            let cache = cache.clone();
            thread::spawn(move || (reads(&cache, 2), reads(&cache, 5)))
        };
        cache.clear();
        assert_eq!((cache.len(), cache.weight()), (0, 0));
        insert(&cache, 5);
        reader.join().unwrap();
        assert_eq!((reads(&cache, 2), reads(&cache, 5), cache.len()), (None, Some(500), 1));
    });
}

#[test]
fn what_stays_is_found_while_others_move_up() {
    // Whichever it is that moves up when another one leaves.
    for (leaves, stays) in (0..6).flat_map(|leaves| (0..6).map(move |stays| (leaves, stays))) {
        if leaves == stays {
            continue;
        }
        model_of_reads(move || {
            let cache = grown(6);
            let reader = {
                let cache = cache.clone();
                thread::spawn(move || assert_eq!(reads(&cache, stays), Some(number(stays))))
            };
            cache.remove_if(&leaves, |_| true);
            reader.join().unwrap();
            assert_eq!(cache.len(), 5);
        });
    }
}

#[test]
fn a_lane_goes_from_a_thread_that_ends_to_one_that_comes() {
    model_of_reads(|| {
        let cache = Numbers::new(1);
        insert(&cache, 1);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let cache = cache.clone();
                thread::spawn(move || reads(&cache, 1))
            })
            .collect();
        insert(&cache, 2);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(reads(&cache, 2), Some(200));
    });
}

/// An insert that meets no flight takes no lock of theirs: one that it did not see began after it.
#[test]
fn what_is_inserted_while_it_is_loaded_stays() {
    model_of_reads(|| {
        let cache = Cache::<u8, u64>::new(2);
        let source = Arc::new(AtomicU64::new(1));
        let loads = {
            let (cache, source) = (cache.clone(), source.clone());
            thread::spawn(move || {
                cache.get_or_load_blocking(&7, || Ok::<_, ()>(source.load(Ordering::Relaxed))).unwrap()
            })
        };
        source.store(2, Ordering::Relaxed);
        cache.insert(7, 2).unwrap();
        assert!([1, 2].contains(&loads.join().unwrap()));
        assert_eq!(cache.get(&7), Some(2));
    });
}

#[test]
fn what_is_inserted_while_it_is_computed_is_not_lost() {
    model_of_reads(|| {
        let cache = Cache::<u8, u64>::new(2);
        cache.insert(7, 1).unwrap();
        let computes = {
            let cache = cache.clone();
            thread::spawn(move || {
                let more = |value: Option<&u64>| Compute::Put(value.map_or(0, |value| value + 1));
                cache.compute_blocking(&7, more).unwrap()
            })
        };
        cache.insert(7, 10).unwrap();
        let computed = computes.join().unwrap();
        let expected = if computed == Some(11) { 11 } else { 10 };
        assert_eq!(cache.get(&7), Some(expected));
    });
}

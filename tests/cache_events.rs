//! What makes the entries of a `Cache` leave, who hears of it, and who looks at all of them. Traps 9, 10, 20, 21 and 35 of the
//! cache page.
#![cfg(not(floodwall_loom))]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use floodwall::cache::{Cause, Eviction, Invalidation, Kept};
use floodwall::{Cache, Clock};
use proptest::prelude::*;
use support::{poll, secs};

fn keys<V: Clone>(cache: &Cache<u32, V>) -> Vec<u32> {
    let mut keys: Vec<_> = cache.iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys
}

fn filled(count: u32) -> Cache<u32, u32> {
    let cache = Cache::new(10_000);
    for key in 0..count {
        cache.insert(key, key * 10).unwrap();
    }
    cache
}

#[test]
fn a_key_is_removed_if_its_value_passes_a_test_that_may_use_the_cache() {
    let cache = filled(3);
    assert!(!cache.remove_if(&1, |value| *value > 10));
    assert!(!cache.remove_if(&9, |_| true));
    // The value is replaced under the test: the new one is tested too.
    let mut tested = Vec::new();
    let removed = cache.remove_if(&1, |value| {
        tested.push(*value);
        if *value == 10 {
            cache.insert(1, 11).unwrap();
        }
        *value <= 11
    });
    assert!(removed);
    assert_eq!(tested, [10, 11]);
    assert_eq!(keys(&cache), [0, 2]);
    // It is removed under the test.
    assert!(!cache.remove_if(&2, |_| {
        cache.remove(&2);
        true
    }));
}

#[test]
fn retain_keeps_what_passes_and_the_listener_hears_of_the_rest() {
    let heard = Arc::new(Mutex::new(BTreeSet::new()));
    let listener = heard.clone();
    let cache = Cache::builder(100)
        .listener(move |key: &u32, value: &u32, cause| {
            listener.lock().unwrap().insert((*key, *value, cause == Cause::Explicit));
        })
        .build();
    for key in 0..6 {
        cache.insert(key, key).unwrap();
    }
    cache.retain(|key, _| key % 2 == 0);
    assert_eq!(keys(&cache), [0, 2, 4]);
    assert_eq!(*heard.lock().unwrap(), BTreeSet::from([(1, 1, true), (3, 3, true), (5, 5, true)]));
    cache.clear();
    assert_eq!((cache.len(), cache.weight(), heard.lock().unwrap().len()), (0, 0, 6));
}

/// Trap 21: moka#345, otter#139.
#[test]
fn clear_leaves_nothing_that_was_written_before_it() {
    let cache = Cache::new(1_000_000);
    let stop = AtomicBool::new(false);
    // The last number that each thread has written.
    let written = [AtomicU64::new(0), AtomicU64::new(0)];
    std::thread::scope(|scope| {
        for (thread, written) in (0..).zip(&written) {
            let (cache, stop) = (&cache, &stop);
            scope.spawn(move || {
                for number in (1u64..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    cache.insert((thread, number % 100), number).unwrap();
                    written.store(number, Ordering::SeqCst);
                }
            });
        }
        for _ in 0..100 {
            let before = [written[0].load(Ordering::SeqCst), written[1].load(Ordering::SeqCst)];
            cache.clear();
            cache.for_each(|(thread, _): &(usize, u64), number| {
                assert!(*number > before[*thread], "still there")
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
    cache.clear();
    assert_eq!((cache.len(), cache.weight()), (0, 0));
}

/// A clear ends at once and is swept later: nobody sees what was cleared, nobody leaves for it, and each is told once.
#[test]
fn trap_21_what_was_cleared_leaves_little_by_little_and_makes_nothing_else_leave() {
    const MANY: u32 = 20_000;
    for (eviction, listened) in [
        (Eviction::Lru, true),
        (Eviction::Lru, false),
        (Eviction::Adaptive, true),
        (Eviction::Adaptive, false),
    ] {
        let clock = Clock::manual();
        let heard: Arc<Mutex<HashMap<u32, Cause>>> = Arc::default();
        let listener = heard.clone();
        let mut builder =
            Cache::builder(MANY.into()).ttl(Duration::MAX).eviction(eviction).clock(clock.clone());
        if listened {
            builder = builder.listener(move |key: &u32, _: &Arc<()>, cause| {
                assert_eq!(listener.lock().unwrap().insert(*key, cause), None, "told once");
            });
        }
        let cache = builder.build();
        let value = Arc::new(());
        for key in 0..MANY {
            let ttl = secs(if key % 10 == 0 { 1 } else { 100 });
            cache.insert_for(key, value.clone(), ttl).unwrap();
        }
        let full = Arc::strong_count(&value);
        let before = cache.len();
        clock.advance(secs(1));
        cache.clear();
        let told = || cache.stats().removed + cache.stats().expired;
        assert_eq!((cache.len(), cache.weight(), cache.iter().count()), (0, 0, 0));
        assert!((1_000..1_200).contains(&told()), "{} at once", told());
        assert!((0..MANY).all(|key| !cache.contains(&key)));
        for key in 0..MANY / 2 {
            let was = told();
            cache.insert(MANY + key, value.clone()).unwrap();
            assert_eq!(cache.len(), key as usize + 1, "none of the new ones leaves");
            assert!(told() - was <= 8, "not all at once");
            assert!(Arc::strong_count(&value) <= full + 1, "nor is there more than there was");
        }
        let evicted = cache.stats().evicted;
        assert_eq!(told() + evicted, u64::from(MANY), "all that there was");
        assert_eq!(before as u64 + evicted, u64::from(MANY));
        if listened {
            let heard = heard.lock().unwrap();
            assert!((0..MANY).all(|key| match heard[&key] {
                Cause::Expired => key % 10 == 0,
                Cause::Explicit => key % 10 != 0,
                cause => cause == Cause::Size,
            }));
            assert_eq!(heard.len(), MANY as usize);
        }
        cache.sweep(0);
        assert_eq!(Arc::strong_count(&value), 1 + cache.len());
    }
}

/// What is heavy, and comes after a clear, waits for as much as it needs of what was cleared, and no more.
#[test]
fn a_heavy_entry_after_a_clear_drops_what_it_needs_and_evicts_nothing() {
    for listened in [true, false] {
        let evicted = Arc::new(AtomicU64::new(0));
        let count = evicted.clone();
        let mut builder = Cache::builder(10_000).weigher(|_: &u32, value: &Arc<u64>| **value);
        if listened {
            builder = builder.listener(move |_: &u32, _: &Arc<u64>, cause| {
                count.fetch_add(u64::from(cause == Cause::Size), Ordering::Relaxed);
            });
        }
        let cache = builder.build();
        let light = Arc::new(1);
        (0..9_000).for_each(|key| cache.insert(key, light.clone()).unwrap());
        cache.clear();
        for key in 0..10 {
            cache.insert(key, Arc::new(5)).unwrap();
        }
        cache.insert(100, Arc::new(6_000)).unwrap();
        assert_eq!((cache.len(), cache.weight()), (11, 6_050));
        assert_eq!((cache.stats().evicted, evicted.load(Ordering::Relaxed)), (0, 0));
        let waiting = Arc::strong_count(&light) - 1;
        assert!(waiting <= 10_000 - 6_050, "{waiting} still take room");
        assert!(waiting >= 2_000, "{waiting} of 8,000 are left");
        cache.set_capacity(6_050);
        assert_eq!(Arc::strong_count(&light), 1, "a smaller capacity holds at once");
        assert_eq!(cache.len(), 11);
    }
}

struct Order {
    customer: u32,
    city: &'static str,
}

fn orders(capacity: u64) -> Cache<u32, Order> {
    Cache::builder(capacity)
        .tags(|_: &u32, order: &Order| {
            [format!("customer:{}", order.customer), format!("city:{}", order.city)]
        })
        .build()
}

#[test]
fn a_tag_removes_just_what_carries_it_now() {
    let cache = orders(100);
    for key in 0..6 {
        cache.insert(key, Order { customer: key % 3, city: if key < 3 { "Ulm" } else { "Bonn" } }).unwrap();
    }
    assert_eq!(cache.remove_tag("customer:1"), 2);
    assert_eq!(cache.remove_tag("customer:1"), 0);
    // It has moved.
    cache.insert(0, Order { customer: 0, city: "Bonn" }).unwrap();
    assert_eq!(cache.remove_tag("city:Ulm"), 1);
    assert_eq!(cache.remove_tag("nobody"), 0);
    assert_eq!(cache.remove_tag("city:Bonn"), 3);
    assert_eq!(cache.len(), 0);
}

#[test]
fn a_tag_is_found_after_its_entry_was_written_again() {
    let cache = orders(100);
    for _ in 0..5 {
        cache.insert(1, Order { customer: 7, city: "Ulm" }).unwrap();
    }
    assert_eq!(cache.remove_tag("customer:7"), 1);
}

#[test]
fn what_has_lost_its_tag_while_the_tag_is_removed_stays() {
    let slot: Arc<OnceLock<Cache<u32, u32>>> = Arc::default();
    let inside = slot.clone();
    let cache = Cache::builder(10)
        .tags(|_: &u32, value: &u32| [*value])
        .listener(move |key: &u32, _: &u32, cause| {
            // Whichever of the two goes first, the other one changes.
            if cause == Cause::Explicit {
                inside.get().unwrap().insert(3 - *key, 8).unwrap();
            }
        })
        .build();
    slot.set(cache.clone()).unwrap();
    cache.insert(1, 7).unwrap();
    cache.insert(2, 7).unwrap();
    assert_eq!(cache.remove_tag(&7_u32), 1);
    assert_eq!(cache.iter().map(|(_, value)| value).collect::<Vec<_>>(), [8]);
}

#[test]
fn tags_need_to_be_told() {
    let cache: Cache<u32, u32> = filled(1);
    assert!(catch_unwind(AssertUnwindSafe(|| cache.remove_tag("a"))).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn tags_remove_what_a_search_through_everything_would(
        steps in prop::collection::vec((0u8..6, 0u32..12, prop::collection::vec(0u8..5, 0..4)), 1..80),
    ) {
        let cache = Cache::builder(20).weigher(|_: &u32, tags: &Vec<u8>| tags.len() as u64)
            .tags(|_: &u32, tags: &Vec<u8>| tags.clone()).build();
        for (step, key, tags) in steps {
            match step {
                0..=2 => _ = cache.insert(key, tags),
                3 => _ = cache.remove(&key),
                4 => _ = cache.insert(key, vec![1; 21]).unwrap_err(),
                _ => {
                    let tag = tags.first().copied().unwrap_or(0);
                    let carries = cache.iter().filter(|(_, tags)| tags.contains(&tag)).count();
                    let stay: Vec<u32> = keys(&cache).into_iter().filter(|key| !cache.peek(key).unwrap().contains(&tag)).collect();
                    prop_assert_eq!(cache.remove_tag(&tag), carries);
                    prop_assert_eq!(keys(&cache), stay);
                }
            }
        }
    }
}

/// Trap 9.
#[test]
fn a_listener_may_use_the_cache() {
    let slot: Arc<OnceLock<Cache<u32, u32>>> = Arc::default();
    let inside = slot.clone();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = heard.clone();
    let cache = Cache::builder(2)
        .listener(move |key: &u32, value: &u32, cause| {
            let Some(cache) = inside.get() else { return };
            listener.lock().unwrap().push((*key, *value, cause));
            if *value < 100 {
                // The same key and another one.
                cache.insert(*key, value + 100).unwrap();
                cache.remove(&77);
                cache.get(key);
                cache.for_each(|_, _| {});
            }
        })
        .build();
    slot.set(cache.clone()).unwrap();
    cache.insert(1, 1).unwrap();
    cache.insert(1, 2).unwrap();
    assert_eq!(cache.get(&1), Some(102));
    cache.remove(&1);
    cache.insert(2, 200).unwrap();
    cache.insert(3, 300).unwrap();
    cache.clear();
    let heard = heard.lock().unwrap();
    assert_eq!(heard[..2], [(1, 1, Cause::Replaced), (1, 2, Cause::Replaced)]);
    assert_eq!(cache.len(), 0, "all values left were above 100");
}

/// Trap 10: what panics does so once, and the cache goes on.
#[test]
fn a_panic_of_a_listener_a_weigher_a_test_or_a_tag_leaves_the_cache_whole() {
    let armed = Arc::new(AtomicU64::new(0));
    let strikes = |at: u64| {
        let armed = armed.clone();
        move || {
            assert!(armed.compare_exchange(at, 0, Ordering::SeqCst, Ordering::SeqCst).is_err(), "as planned")
        }
    };
    let (listens, weighs, tags, computes) = (strikes(1), strikes(2), strikes(3), strikes(4));
    let cache = Cache::builder(10)
        .listener(move |_: &u32, _: &u32, _| listens())
        .weigher(move |_: &u32, _: &u32| {
            weighs();
            2
        })
        .tags(move |_: &u32, value: &u32| {
            tags();
            [*value]
        })
        .expiry(move |_: &u32, _: &u32| {
            computes();
            Duration::MAX
        })
        .build();
    let mut panics = 0;
    for round in 0..6 {
        for at in 1..=4 {
            armed.store(at, Ordering::SeqCst);
            let work = || {
                cache.insert(round, at as u32).unwrap();
                cache.insert(round, 5).unwrap();
                cache.retain(|_, value| *value != 6 && armed.load(Ordering::SeqCst) != 5);
            };
            panics += u32::from(catch_unwind(AssertUnwindSafe(work)).is_err());
            armed.store(0, Ordering::SeqCst);
            let count = cache.iter().count();
            assert_eq!((cache.len(), cache.weight()), (count, 2 * count as u64));
        }
        let test = |_: &u32| -> bool { panic!("as planned") };
        assert!(catch_unwind(AssertUnwindSafe(|| cache.remove_if(&round, test))).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| cache.with(&round, |_| panic!("as planned")))).is_err());
    }
    assert_eq!(panics, 24);
    cache.clear();
    for key in 0..10 {
        cache.insert(key, 1).unwrap();
    }
    assert_eq!((cache.len(), cache.weight()), (5, 10));
}

/// Trap 35.
#[test]
fn entries_that_stay_are_seen_exactly_once_while_others_come_and_go() {
    let cache = Cache::new(100_000);
    for key in 0..500u32 {
        cache.insert(key, 0).unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for key in 1_000u32.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                cache.insert(key, 0).unwrap();
                cache.remove(&(key - 300));
            }
        });
        for _ in 0..50 {
            let mut seen: HashMap<u32, u32> = HashMap::new();
            cache.for_each(|key, _| *seen.entry(*key).or_default() += 1);
            assert!((0..500).all(|key| seen.get(&key) == Some(&1)));
            assert!(seen.values().all(|times| *times == 1));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Trap 35.
#[test]
fn to_look_at_everything_is_no_use_of_it() {
    let cache = filled(10);
    let _ = (cache.iter().count(), cache.snapshot(), cache.hottest(3), cache.contains(&1), cache.peek(&2));
    cache.for_each(|_, _| {});
    cache.retain(|_, _| true);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses), (0, 0));
    assert_eq!(stats.hit_ratio(), 0.0);
}

#[test]
fn the_hottest_come_first() {
    let cache = filled(10);
    for _ in 0..3 {
        cache.get(&4);
        cache.get(&7);
    }
    let mut hottest: Vec<u32> = cache.hottest(2).into_iter().map(|kept| kept.key).collect();
    hottest.sort_unstable();
    assert_eq!(hottest, [4, 7]);
    assert_eq!(cache.hottest(0), []);
    let all = cache.snapshot();
    assert_eq!(all.len(), 10);
    assert!(all[..2].iter().all(|kept| [4, 7].contains(&kept.key)));
    assert_eq!(cache.hottest(100).len(), 10);
}

#[test]
fn a_cache_warmed_from_a_snapshot_has_what_was_left_to_live_and_keeps_what_is_newer() {
    let clock = Clock::manual();
    let timed = || Cache::builder(3).ttl(secs(60)).clock(clock.clone()).build();
    let before = timed();
    before.insert(1, "a").unwrap();
    clock.advance(secs(30));
    before.insert_for(2, "b", Duration::MAX).unwrap();
    let snapshot = before.snapshot();
    assert!(snapshot.contains(&Kept { key: 1, value: "a", left: secs(30) }));
    assert!(snapshot.contains(&Kept { key: 2, value: "b", left: Duration::MAX }));

    let after = timed();
    after.insert(1, "newer").unwrap();
    assert_eq!(after.warm(snapshot.clone()), 1);
    assert_eq!(after.peek(&1), Some("newer"));
    after.remove(&1);
    assert_eq!(after.warm(snapshot.clone()), 1);
    clock.advance(secs(30));
    assert_eq!((after.peek(&1), after.peek(&2)), (None, Some("b")));
    // An expired entry is in no snapshot.
    assert_eq!(before.snapshot().len(), 1);
}

#[test]
fn a_warm_start_ends_when_the_cache_is_full() {
    let entry = |key: u32| Kept { key, value: (), left: secs(1) };
    let cache = Cache::new(3);
    assert_eq!(cache.warm((0..10).map(entry)), 3);
    assert_eq!(keys(&cache), [0, 1, 2], "the first are the hottest");
    let cache = Cache::builder(10).ttl(secs(5)).build();
    assert_eq!(cache.warm([Kept { key: 1u32, value: (), left: Duration::ZERO }]), 0);
}

#[test]
fn invalidations_do_what_they_say() {
    let cache = orders(100);
    for key in 0..6 {
        cache.insert(key, Order { customer: key % 3, city: "Ulm" }).unwrap();
    }
    cache.apply(Invalidation::<u32>::Key(0));
    assert_eq!(cache.len(), 5);
    cache.apply(Invalidation::<u32>::Tag("customer:1".into()));
    assert_eq!(cache.len(), 3);
    cache.apply(Invalidation::<u32>::Everything);
    assert_eq!(cache.len(), 0);
}

/// Trap 20: who hears no more of what is no longer true must not go on believing.
#[tokio::test]
async fn a_cache_that_no_longer_hears_is_emptied() {
    let cache = filled(10);
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Invalidation<u32>>(1);
    let listener = tokio::spawn(cache.clone().listen(async move || receiver.recv().await));
    for key in 0..5 {
        sender.send(Invalidation::Key(key)).await.unwrap();
    }
    drop(sender);
    listener.await.unwrap();
    assert_eq!(cache.len(), 0);

    let cache = filled(10);
    let mut listener =
        Box::pin(cache.clone().listen(async || std::future::pending::<Option<Invalidation<u32>>>().await));
    assert!(poll(&mut listener).is_pending());
    assert_eq!(cache.len(), 10);
    drop(listener);
    assert_eq!(cache.len(), 0);
}

#[test]
fn statistics_count_what_happened() {
    let clock = Clock::manual();
    let cache =
        Cache::builder(3).ttl(secs(10)).weigher(|_: &u32, value: &u64| *value).clock(clock.clone()).build();
    cache.insert(1, 1).unwrap();
    cache.insert(1, 1).unwrap();
    cache.insert(2, 1).unwrap();
    cache.insert(3, 1).unwrap();
    cache.insert(4, 1).unwrap();
    cache.insert(5, 9).unwrap_err();
    let hits = (0..6).filter(|key| cache.get(key).is_some()).count() as u64;
    cache.remove(&4);
    let len = cache.len();
    clock.advance(secs(11));
    cache.sweep(100);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses), (3, 3));
    assert_eq!(hits, 3);
    assert_eq!((stats.replaced, stats.evicted, stats.refused), (1, 1, 1));
    assert_eq!(stats.removed + stats.expired, 3);
    assert_eq!(stats.expired, len as u64);
    assert_eq!((stats.len, stats.weight), (0, 0));
    assert_eq!(stats.mean_load_time(), Duration::ZERO);
    assert_eq!(stats.hit_ratio(), 0.5);
}

//! How long the entries of a `Cache` live: by time to live, by idle time, one by one. Traps 16 to 18 of the cache page; the
//! wheel itself is tested against a sorted map beside its code.
#![cfg(not(floodwall_loom))]

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use floodwall::cache::{Cause, Expiry};
use floodwall::{Cache, CacheBuilder, Clock, TimeSource};
use proptest::prelude::*;
use support::{nanos, secs, settable};

fn manual<V: 'static>(
    setting: impl FnOnce(CacheBuilder<u32, V>) -> CacheBuilder<u32, V>,
) -> (Cache<u32, V>, Clock) {
    let clock = Clock::manual();
    (setting(Cache::builder(10_000)).clock(clock.clone()).build(), clock)
}

const NANO: Duration = Duration::from_nanos(1);

#[test]
fn an_entry_is_never_given_out_at_its_deadline_however_late_the_sweep() {
    let (cache, clock) = manual(|cache| cache.ttl(secs(10)));
    cache.insert(1, "a").unwrap();
    clock.advance(secs(10) - NANO);
    assert_eq!((cache.get(&1), cache.peek(&1), cache.contains(&1)), (Some("a"), Some("a"), true));
    clock.advance(NANO);
    assert_eq!((cache.get(&1), cache.peek(&1), cache.contains(&1)), (None, None, false));
    assert_eq!(cache.with(&1, |value| *value), None);
    assert_eq!(cache.iter().count(), 0);
    assert_eq!(cache.len(), 1, "not swept yet");
    clock.advance(secs(1));
    assert_eq!((cache.sweep(100), cache.len()), (1, 0));
}

#[test]
fn writes_sweep_what_is_over() {
    let (cache, clock) = manual(|cache| cache.ttl(secs(10)));
    for key in 0..100 {
        cache.insert(key, ()).unwrap();
    }
    clock.advance(secs(11));
    // Enough of them to meet each part of the cache.
    for key in 1_000..3_000 {
        cache.insert(key, ()).unwrap();
    }
    assert_eq!(cache.len(), 2_000, "each write looks at a few");
}

#[test]
fn the_budget_of_a_sweep_bounds_it() {
    let (cache, clock) = manual(|cache| cache.ttl(secs(10)));
    for key in 0..500 {
        cache.insert(key, ()).unwrap();
    }
    clock.advance(secs(11));
    assert_eq!(cache.sweep(0), 0);
    let first = cache.sweep(1);
    assert!((1..500).contains(&first), "{first}");
    while cache.sweep(50) > 0 {}
    assert_eq!(cache.len(), 0);
}

#[test]
fn a_write_begins_a_new_life() {
    let (cache, clock) = manual(|cache| cache.ttl(secs(10)));
    cache.insert(1, "a").unwrap();
    clock.advance(secs(9));
    cache.insert(1, "b").unwrap();
    clock.advance(secs(9));
    assert_eq!(cache.get(&1), Some("b"));
    clock.advance(secs(1));
    assert_eq!(cache.get(&1), None);
}

#[test]
fn an_idle_entry_leaves_and_one_that_is_read_stays() {
    let (cache, clock) = manual(|cache| cache.idle(secs(10)));
    cache.insert(1, "a").unwrap();
    cache.insert(2, "b").unwrap();
    for _ in 0..10 {
        clock.advance(secs(5));
        assert_eq!(cache.get(&1), Some("a"));
    }
    assert_eq!(cache.get(&2), None);
    // To look quietly is no use.
    for _ in 0..10 {
        clock.advance(secs(1));
        cache.peek(&1);
        cache.contains(&1);
        cache.for_each(|_, _| {});
    }
    assert_eq!(cache.get(&1), None);
}

#[test]
fn idle_time_does_not_reach_beyond_the_time_to_live() {
    let (cache, clock) = manual(|cache| cache.ttl(secs(12)).idle(secs(5)));
    cache.insert(1, "a").unwrap();
    for _ in 0..3 {
        clock.advance(secs(4) - NANO);
        assert_eq!(cache.get(&1), Some("a"));
    }
    clock.advance(nanos(3));
    assert_eq!(cache.get(&1), None);
    cache.insert_for(1, "b", secs(3)).unwrap();
    clock.advance(secs(3));
    assert_eq!(cache.get(&1), None);
}

/// As long as the value says; a third of it more for an update; as long again when it is read.
struct ByValue;

impl Expiry<u32, u64> for ByValue {
    fn after_create(&self, _: &u32, value: &u64) -> Duration {
        secs(*value)
    }

    fn after_update(&self, _: &u32, value: &u64, left: Duration) -> Duration {
        secs(*value) + left
    }

    fn after_read(&self, key: &u32, value: &u64, left: Duration) -> Option<Duration> {
        assert!(left > Duration::ZERO);
        (*key != 7).then(|| secs(*value))
    }
}

#[test]
fn an_expiry_is_asked_when_an_entry_is_created_updated_and_read() {
    let (cache, clock) = manual(|cache| cache.expiry(ByValue));
    cache.insert(7, 10).unwrap();
    cache.insert(8, 10).unwrap();
    clock.advance(secs(6));
    assert_eq!((cache.get(&7), cache.get(&8)), (Some(10), Some(10)));
    clock.advance(secs(4));
    assert_eq!((cache.get(&7), cache.get(&8)), (None, Some(10)));
    // What has expired is created anew, what has not is updated and keeps its ten.
    cache.insert(7, 1).unwrap();
    cache.insert(8, 1).unwrap();
    clock.advance(secs(1));
    assert_eq!((cache.peek(&7), cache.peek(&8)), (None, Some(1)));
    clock.advance(secs(10) - NANO);
    assert_eq!(cache.peek(&8), Some(1));
    clock.advance(NANO);
    assert_eq!(cache.peek(&8), None);
}

#[test]
fn a_read_may_shorten_a_life_too() {
    struct Once;
    impl Expiry<u32, u8> for Once {
        fn after_create(&self, _: &u32, _: &u8) -> Duration {
            Duration::MAX
        }
        fn after_read(&self, _: &u32, _: &u8, left: Duration) -> Option<Duration> {
            assert_eq!(left, Duration::MAX);
            Some(Duration::ZERO)
        }
    }
    let (cache, clock) = manual(|cache| cache.expiry(Once));
    cache.insert(1, 1).unwrap();
    clock.advance(secs(1_000_000));
    assert_eq!(cache.get(&1), Some(1));
    assert_eq!(cache.get(&1), None);
}

#[test]
fn what_an_entry_says_itself_goes_before_what_is_computed_and_that_before_what_all_have() {
    let (cache, clock) = manual(|cache| {
        cache
            .ttl(secs(9))
            .negative_ttl(secs(2))
            .expiry(|_: &u32, value: &Option<u64>| secs(value.unwrap_or(100)))
    });
    cache.insert_for(1, Some(5), secs(1)).unwrap();
    cache.insert_for(2, None, secs(3)).unwrap();
    cache.insert(3, Some(5)).unwrap();
    cache.insert(4, None).unwrap();
    let mut alive = Vec::new();
    for _ in 0..6 {
        alive.push((1..5).filter(|key| cache.contains(key)).collect::<Vec<_>>());
        clock.advance(secs(1));
    }
    assert_eq!(alive, [vec![1, 2, 3, 4], vec![2, 3, 4], vec![2, 3], vec![3], vec![3], vec![]]);
}

#[test]
fn jitter_shortens_evenly_and_never_lengthens() {
    let (cache, clock) = manual(|cache| cache.ttl(secs(1_000)).jitter(0.2));
    for key in 0..1_000 {
        cache.insert(key, ()).unwrap();
    }
    clock.advance(secs(800) - NANO);
    assert_eq!(cache.iter().count(), 1_000);
    let mut before = 1_000;
    for _ in 0..10 {
        clock.advance(secs(20));
        let now = cache.iter().count();
        // A tenth each; 100 ± 50 is five standard deviations.
        assert!((50..150).contains(&(before - now)), "{}", before - now);
        before = now;
    }
    assert_eq!(before, 0);
}

#[test]
fn jitter_is_the_same_for_a_key_each_time() {
    let (cache, clock) = manual(|cache| cache.ttl(secs(1_000)).jitter(1.0));
    let mut lives = Vec::new();
    for _ in 0..2 {
        cache.insert(5, ()).unwrap();
        cache.insert(6, ()).unwrap();
        let mut life = [0, 0];
        while cache.contains(&5) || cache.contains(&6) {
            clock.advance(secs(1));
            life[0] += u32::from(cache.contains(&5));
            life[1] += u32::from(cache.contains(&6));
        }
        lives.push(life);
    }
    assert_eq!(lives[0], lives[1]);
    assert_ne!(lives[0][0], lives[0][1]);
}

#[test]
fn a_cache_that_knows_no_time_reads_no_clock() {
    struct Unread(AtomicU64);
    impl TimeSource for Unread {
        fn now(&self) -> std::time::Instant {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::time::Instant::now()
        }
        fn sleep_until(&self, _: std::time::Instant) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
            unreachable!("nobody sleeps")
        }
    }
    let source = Arc::new(Unread(AtomicU64::new(0)));
    struct Shared(Arc<Unread>);
    impl TimeSource for Shared {
        fn now(&self) -> std::time::Instant {
            self.0.now()
        }
        fn sleep_until(&self, at: std::time::Instant) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
            self.0.sleep_until(at)
        }
    }
    let cache = Cache::builder(2).clock(Clock::new(Shared(source.clone()))).build();
    for key in 0..10 {
        cache.insert(key, key).unwrap();
        cache.get(&key);
        cache.remove(&key);
    }
    cache.retain(|_, _| true);
    cache.sweep(10);
    cache.snapshot();
    assert_eq!(source.0.load(Ordering::Relaxed), 0);
}

#[test]
fn the_listener_hears_that_an_entry_expired_whoever_finds_it() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = heard.clone();
    let (cache, clock) = manual(|cache| {
        let cache = cache.ttl(secs(10)).weigher(|_, value: &u64| *value);
        cache.listener(move |key: &u32, _: &u64, cause| listener.lock().unwrap().push((*key, cause)))
    });
    for key in 1..=4 {
        cache.insert(key, 1).unwrap();
    }
    clock.advance(secs(10));
    assert_eq!(cache.remove(&1), None);
    assert!(cache.insert(2, 50_000).is_err(), "too heavy: nothing is swept beside");
    assert!(!cache.remove_if(&3, |_| unreachable!("what is over is not shown")));
    cache.insert(3, 1).unwrap();
    clock.advance(secs(5));
    cache.sweep(100);
    let mut heard = heard.lock().unwrap().clone();
    heard.sort_by_key(|(key, _)| *key);
    assert_eq!(heard, [(1, Cause::Expired), (2, Cause::Expired), (3, Cause::Expired), (4, Cause::Expired)]);
    assert_eq!(cache.iter().collect::<Vec<_>>(), [(3, 1)]);
    assert_eq!((cache.stats().expired, cache.stats().removed), (4, 0));
}

/// Trap 17: moka#472 panicked.
#[test]
fn every_extreme_of_every_time_is_harmless() {
    let extremes = [
        nanos(1),
        nanos(2),
        secs(1),
        Duration::from_secs(1 << 34),
        Duration::from_nanos(u64::MAX),
        Duration::MAX,
    ];
    for start in [
        Duration::ZERO,
        nanos(1),
        Duration::from_secs(1 << 33),
        Duration::from_nanos(u64::MAX - 1),
        Duration::MAX,
    ] {
        for ttl in extremes {
            for idle in extremes {
                for by in extremes {
                    let (cache, clock) = manual(|cache| {
                        cache
                            .ttl(ttl)
                            .idle(idle)
                            .jitter(0.5)
                            .stale_if_error(by)
                            .stale_while_revalidate(ttl)
                            .refresh_ahead(0.5)
                    });
                    clock.advance(start);
                    cache.insert(1, 1).unwrap();
                    cache.insert_for(2, 2, by).unwrap();
                    cache.insert_for(3, 3, Duration::ZERO).unwrap();
                    assert_eq!(cache.get(&3), None);
                    cache.get(&1);
                    clock.advance(by);
                    let end = start.saturating_add(by);
                    if by >= ttl.min(idle) && end < Duration::from_nanos(u64::MAX) {
                        assert_eq!(cache.get(&1), None, "{ttl:?} {idle:?} {by:?} from {start:?}");
                        assert_eq!(cache.get(&2), None);
                    }
                    if ttl == Duration::MAX && idle == Duration::MAX {
                        assert_eq!(cache.get(&1), Some(1), "for ever, {by:?} from {start:?}");
                    }
                    cache.sweep(usize::MAX);
                    cache.insert(1, 1).unwrap();
                }
            }
        }
    }
}

/// Trap 17.
#[test]
fn a_clock_that_jumps_back_and_far_ahead_keeps_its_promise_in_its_own_time() {
    let (clock, offset) = settable(secs(1_000_000));
    let cache = Cache::builder(100).ttl(secs(60)).idle(secs(30)).clock(clock).build();
    let at = |time: i64| offset.store(time * 1_000_000_000, Ordering::Relaxed);
    cache.insert(1, 1).unwrap();
    at(-3_600);
    assert_eq!(cache.get(&1), Some(1));
    cache.insert(2, 2).unwrap();
    cache.sweep(100);
    at(-3_600 + 30);
    assert_eq!((cache.get(&1), cache.get(&2)), (Some(1), None));
    at(3_000_000_000);
    cache.insert(3, 3).unwrap();
    assert_eq!((cache.get(&1), cache.get(&2), cache.get(&3)), (None, None, Some(3)));
    at(0);
    cache.insert(4, 4).unwrap();
    cache.sweep(100);
    assert_eq!(cache.get(&4), Some(4));
    at(31);
    assert_eq!(cache.get(&4), None);
    cache.sweep(100);
    assert!(!cache.iter().any(|(key, _)| key == 4));
}

/// Trap 18: nobody sees an entry again that somebody has seen ended.
#[test]
fn a_slow_read_does_not_bring_back_what_others_have_seen_end() {
    struct Slow(Arc<(AtomicBool, Barrier, Barrier)>);
    impl Expiry<u32, u8> for Slow {
        fn after_create(&self, _: &u32, _: &u8) -> Duration {
            secs(10)
        }
        fn after_read(&self, _: &u32, _: &u8, _: Duration) -> Option<Duration> {
            if self.0.0.swap(false, Ordering::Relaxed) {
                self.0.1.wait();
                self.0.2.wait();
            }
            Some(secs(10))
        }
    }
    let gate = Arc::new((AtomicBool::new(true), Barrier::new(2), Barrier::new(2)));
    let (cache, clock) = manual(|cache| cache.expiry(Slow(gate.clone())));
    cache.insert(1, 1).unwrap();
    clock.advance(secs(9));
    let reader = {
        let cache = cache.clone();
        std::thread::spawn(move || cache.get(&1))
    };
    gate.1.wait();
    clock.advance(secs(1));
    assert_eq!(cache.get(&1), None);
    gate.2.wait();
    assert_eq!(reader.join().unwrap(), Some(1), "it was there when it was looked for");
    assert_eq!(cache.get(&1), None, "and does not come back");
}

#[test]
fn wrong_literals_panic_and_say_what_is_wrong() {
    let message = |make: fn() -> CacheBuilder<u32, Option<u8>>| {
        let panic = std::panic::catch_unwind(move || drop(make())).unwrap_err();
        panic
            .downcast_ref::<String>()
            .cloned()
            .or(panic.downcast_ref::<&str>().map(|text| text.to_string()))
            .unwrap()
    };
    let zero = Duration::ZERO;
    assert_eq!(message(|| Cache::builder(1).ttl(Duration::ZERO)), "ttl: 0 ns must be at least 1 ns");
    assert_eq!(message(|| Cache::builder(1).idle(Duration::ZERO)), "idle: 0 ns must be at least 1 ns");
    assert_eq!(
        message(|| Cache::builder(1).negative_ttl(Duration::ZERO)),
        "negative_ttl: 0 ns must be at least 1 ns"
    );
    assert_eq!(message(|| Cache::builder(1).jitter(1.1)), "jitter: 1.1 must be within 0 and 1");
    assert_eq!(message(|| Cache::builder(1).jitter(f64::NAN)), "jitter: NaN must be within 0 and 1");
    assert_eq!(message(|| Cache::builder(1).refresh_early(-1.0)), "refresh_early: -1 must be at least 0");
    let untimed = Cache::new(1);
    assert!(
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| untimed.insert_for(1, 1, zero).unwrap()))
            .is_err()
    );
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u32),
    InsertFor(u32, u64),
    Get(u32),
    Peek(u32),
    Remove(u32),
    Sweep(usize),
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0u32..8;
    prop_oneof![
        3 => key.clone().prop_map(Step::Insert),
        2 => (key.clone(), 0u64..3_000).prop_map(|(key, ttl)| Step::InsertFor(key, ttl)),
        5 => key.clone().prop_map(Step::Get),
        2 => key.clone().prop_map(Step::Peek),
        1 => key.prop_map(Step::Remove),
        1 => (0usize..10).prop_map(Step::Sweep),
        5 => prop_oneof![0u64..50, 0u64..1_000, Just(1)].prop_map(Step::Advance),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..Default::default() })]

    /// Exact without idle time; with it, an entry that was read may leave a 256th of it early. In units of 2²⁰ ns, so that
    /// the wheel's tick is met too.
    #[test]
    fn a_cache_gives_out_what_a_map_with_deadlines_does(
        ttl in 1u64..2_000,
        idle in prop_oneof![Just(u64::MAX), 256u64..1_000],
        steps in prop::collection::vec(step(), 1..100),
    ) {
        const UNIT: u64 = 1 << 20;
        let slack = if idle == u64::MAX { 0 } else { idle / 256 + 1 };
        let clock = Clock::manual();
        let mut builder = Cache::builder(1_000).ttl(nanos(ttl * UNIT)).clock(clock.clone());
        if idle < u64::MAX {
            builder = builder.idle(nanos(idle * UNIT));
        }
        let cache = builder.build();
        // Value, cap, end.
        let mut twin: HashMap<u32, (usize, u64, u64)> = HashMap::new();
        let mut now = 0u64;
        for (number, step) in steps.into_iter().enumerate() {
            let mut write = |key: u32, ttl: u64| {
                twin.insert(key, (number, now + ttl, (now + ttl).min(now.saturating_add(idle))));
            };
            match step {
                Step::Insert(key) => {
                    cache.insert(key, number).unwrap();
                    write(key, ttl);
                }
                Step::InsertFor(key, ttl) => {
                    cache.insert_for(key, number, nanos(ttl * UNIT)).unwrap();
                    write(key, ttl);
                }
                Step::Get(key) | Step::Peek(key) => {
                    let reads = matches!(step, Step::Get(_));
                    let got = if reads { cache.get(&key) } else { cache.peek(&key) };
                    let kept = twin.get(&key).copied();
                    match got {
                        Some(value) => {
                            let (number, cap, end) = kept.expect("it was written");
                            prop_assert_eq!(value, number);
                            prop_assert!(now < end, "given out at {} after {}", now, end);
                            if reads {
                                twin.insert(key, (number, cap, cap.min(now.saturating_add(idle))));
                            }
                        }
                        None => {
                            if let Some((_, cap, end)) = kept {
                                prop_assert!(now + if end < cap { slack } else { 0 } >= end, "not given out at {} before {}", now, end);
                                twin.remove(&key);
                            }
                        }
                    }
                }
                Step::Remove(key) => {
                    let removed = cache.remove(&key);
                    let kept = twin.remove(&key);
                    prop_assert!(removed.is_none() || removed == kept.map(|kept| kept.0));
                }
                Step::Sweep(budget) => {
                    cache.sweep(budget);
                }
                Step::Advance(by) => {
                    clock.advance(nanos(by * UNIT));
                    now += by;
                }
            }
        }
        // In the end all leave.
        clock.advance(nanos(10_000 * UNIT));
        while cache.sweep(usize::MAX) > 0 {}
        prop_assert_eq!((cache.len(), cache.weight()), (0, 0));
    }
}

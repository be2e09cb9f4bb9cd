//! A token bucket for each key, all at one rate.
#![cfg(not(floodwall_loom))]

use std::collections::HashMap;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use floodwall::{
    Call, Carry, Clock, Event, Gate, Outcome, Policy, Reason, Rejected, Residual, TokenBucket, TokenBuckets,
    block_on,
};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn limits(tokens: u64, burst: u64, max_keys: usize) -> (TokenBuckets<u64>, Clock) {
    let clock = Clock::manual();
    (TokenBuckets::per_second(tokens).burst(burst).max_keys(max_keys).clock(clock.clone()), clock)
}

#[test]
fn each_key_has_a_bucket_of_its_own() {
    let (limits, clock) = limits(2, 2, 100);
    for key in 0..50 {
        assert!(limits.try_acquire(&key).is_ok());
        assert!(limits.try_acquire(&key).is_ok());
        let rejected = limits.try_acquire(&key).unwrap_err();
        assert_eq!((rejected.reason(), rejected.retry_after()), (Reason::RateLimited, Some(SECOND / 2)));
    }
    clock.advance(SECOND / 2);
    assert!((0..50).all(|key| limits.try_acquire(&key).is_ok()));
    assert!((0..50).all(|key| limits.try_acquire(&key).is_err()));
    assert_eq!(limits.len(), 50);
}

#[test]
fn more_than_a_bucket_holds_is_refused_for_good_and_makes_no_key() {
    let (limits, _) = limits(2, 2, 100);
    let rejected = limits.try_acquire_for(&1, Call::new().cost(3)).unwrap_err();
    assert_eq!((rejected.reason(), rejected.retry_after()), (Reason::RateLimited, None));
    assert!(limits.is_empty());
    assert!(limits.try_acquire_for(&1, Call::new().cost(0)).is_ok());
    assert!(limits.try_acquire_for(&1, Call::new().cost(u32::MAX)).is_err());
    assert_eq!(limits.available(&1), 2);
}

#[test]
fn a_call_whose_deadline_has_passed_takes_nothing() {
    let (limits, clock) = limits(2, 2, 100);
    let late = Call::new().deadline(clock.now());
    assert_eq!(limits.try_acquire_for(&1, late).unwrap_err().reason(), Reason::DeadlineExceeded);
    assert!(limits.is_empty());
}

#[test]
fn keys_are_found_by_what_they_borrow() {
    let limits = TokenBuckets::<String>::per_second(1).clock(Clock::manual());
    assert!(limits.try_acquire("ann").is_ok());
    assert!(limits.try_acquire(&"ann".to_owned()).is_err());
    assert_eq!((limits.available("ann"), limits.available("bob")), (0, 1));
    assert!(limits.remove("ann") && !limits.remove("ann"));
    assert!(limits.try_acquire("ann").is_ok());
}

/// R11.
#[test]
fn a_flood_of_new_keys_brings_no_new_burst() {
    let (limits, clock) = limits(1, 10, 1_000);
    let mut admitted = 0;
    for round in 0..100 {
        admitted += (0..20).filter(|_| limits.try_acquire(&0).is_ok()).count();
        // A hundred times as many keys as there is room for.
        for key in 0..1_000 {
            let _ = limits.try_acquire(&(1 + round * 1_000 + key));
        }
        assert!(limits.len() <= 1_000);
        clock.advance(SECOND / 10);
    }
    assert_eq!(admitted, 10 + 9, "a burst, and what has flowed in 9.9 s");
}

#[test]
fn without_room_a_new_key_is_told_when_there_is_and_known_ones_go_on() {
    let (limits, clock) = limits(1, 5, 10);
    for key in 0..10 {
        let cost = if key == 4 { 2 } else { 3 };
        assert!(limits.try_acquire_for(&key, Call::new().cost(cost)).is_ok());
    }
    let rejected = limits.try_acquire(&10).unwrap_err();
    assert_eq!((rejected.reason(), rejected.retry_after()), (Reason::Shed, Some(SECOND * 2)));
    assert_eq!(limits.charge(&10, 1).unwrap_err().reason(), Reason::Shed);
    assert!(limits.try_acquire(&3).is_ok());
    clock.advance(SECOND * 2);
    assert!(limits.try_acquire(&10).is_ok());
    assert_eq!(limits.len(), 10);
    assert_eq!(limits.available(&3), 3, "it is still in debt, so another one had to go");
}

#[test]
fn a_key_that_is_used_again_outlives_those_that_came_once() {
    for _ in 0..50 {
        let (limits, clock) = limits(1_000, 10, 100);
        for key in 1..200_u64 {
            assert!(limits.try_acquire(&key).is_ok());
            if key % 20 == 0 {
                assert!(limits.try_acquire(&0).is_ok());
            }
            clock.advance(SECOND);
        }
        assert_eq!(limits.len(), 100);
        assert!(limits.remove(&0), "it was forgotten");
    }
}

#[test]
fn what_a_call_cost_in_the_end_is_charged_or_given_back() {
    let (limits, clock) = limits(100, 100, 10);
    let at = limits.at(&1);
    let mut permit = at.try_acquire_for(Call::new().cost(60)).unwrap();
    permit.settle(10);
    assert_eq!(limits.available(&1), 90);
    permit.settle(190);
    permit.success();
    assert_eq!(limits.available(&1), 0);
    assert!(matches!(at.residual(), Some(Residual::Until(until)) if until == clock.now() + SECOND * 19 / 10));
    clock.advance(SECOND * 9 / 10);
    assert!(limits.try_acquire(&1).is_err(), "90 are still owed");
    clock.advance(SECOND / 100);
    assert!(limits.try_acquire(&1).is_ok());
    limits.refund(&1, 1_000);
    assert_eq!(limits.available(&1), 100);
    limits.refund(&2, 1_000);
    assert_eq!(limits.len(), 1);
    assert_eq!(limits.at(&2).residual(), None);
}

#[test]
fn a_stack_is_rejected_by_name_and_tells_its_events() {
    let (sender, events) = mpsc::channel();
    let limits = TokenBuckets::<u64>::per_second(1)
        .observe("clients", move |name: &str, event: Event| sender.send((name.to_owned(), event)).unwrap())
        .clock(Clock::manual());
    let stack = (limits.at(&7),);
    assert_eq!(block_on(stack.call(|| async { Ok::<_, ()>(1) })), Ok(1));
    let rejected = Rejected::new("clients", Reason::RateLimited).after(SECOND);
    assert_eq!(block_on(stack.call(|| async { Ok::<_, ()>(1) })), Err(rejected.into()));
    let told: Vec<_> = events.try_iter().map(|(name, event)| (name == "clients", event)).collect();
    let expected = [Event::Admitted, Event::Finished(Outcome::Success), Event::Rejected(rejected)];
    assert_eq!(told, expected.map(|event| (true, event)));
}

#[test]
fn keys_whose_buckets_are_full_can_be_forgotten() {
    let (limits, clock) = limits(1, 5, 10_000);
    for key in 0..2_000_u64 {
        limits.try_acquire_for(&key, Call::new().cost(1 + (key % 5) as u32)).unwrap();
    }
    clock.advance(SECOND * 3);
    limits.forget_idle();
    assert_eq!(limits.len(), 800);
    assert!((0..2_000).all(|key| limits.available(&key) == if key % 5 > 2 { 7 - key % 5 } else { 5 }));
    clock.advance(SECOND * 2);
    limits.forget_idle();
    assert!(limits.is_empty());
}

#[test]
fn the_heaviest_are_those_who_owe_most() {
    let (limits, _) = limits(10, 10, 10_000);
    for key in 0..5_000_u64 {
        limits.try_acquire_for(&key, Call::new().cost((key % 10) as u32)).unwrap();
    }
    limits.charge(&42, 100).unwrap();
    let heaviest = limits.heaviest(3);
    assert_eq!(heaviest[0], (42, 102));
    assert_eq!((heaviest[1].1, heaviest[2].1), (9, 9));
    assert_eq!(limits.heaviest(10_000).len(), 4_500);
}

/// R12.
#[test]
fn a_changed_rate_counts_for_all_keys() {
    let (limits, clock) = limits(10, 10, 10_000);
    for key in 0..2_000 {
        limits.try_acquire_for(&key, Call::new().cost(4)).unwrap();
    }
    limits.set_rate(1_000, SECOND, 100, Carry::AsIs).unwrap();
    assert!((0..2_000).all(|key| limits.available(&key) == 6));
    assert_eq!(limits.available(&2_000), 100, "a key that is not known has a full bucket");
    clock.advance(SECOND / 100);
    assert!((0..2_000).all(|key| limits.available(&key) == 16));
    limits.set_rate(7, Duration::from_secs(3), 50, Carry::Scaled).unwrap();
    assert!((0..2_000).all(|key| limits.available(&key) == 8));
    limits.set_rate(1, SECOND, 3, Carry::Full).unwrap();
    assert!((0..2_000).all(|key| limits.available(&key) == 3));
    let error = limits.set_rate(0, SECOND, 3, Carry::Full).unwrap_err();
    assert_eq!(error.to_string(), "tokens: 0 must be at least 1");
}

#[test]
fn a_count_that_nears_its_end_starts_anew_and_loses_nothing() {
    // 4,093 is prime: as many units flow each nanosecond, and the count lasts for days.
    let clock = Clock::manual();
    let limits = TokenBuckets::<u64>::per(4_093, SECOND).burst(4_093).clock(clock.clone());
    let bucket = TokenBucket::per(4_093, SECOND).burst(4_093).clock(clock.clone());
    for half_day in 0..30_u32 {
        for _ in 0..3 {
            let call = Call::new().cost(3_700 - half_day);
            assert_eq!(limits.try_acquire_for(&1, call).is_ok(), bucket.try_acquire_for(call).is_ok());
            assert_eq!(limits.available(&1), bucket.available());
            clock.advance(Duration::from_nanos(123_456_789));
        }
        clock.advance(SECOND * (12 * 3_600 - 1));
        limits.charge(&1, 7).unwrap();
        bucket.charge(7);
    }
    assert_eq!(limits.quota(&1), bucket.quota());
}

/// R1: many threads, a real clock, all on one key.
#[test]
fn threads_get_no_more_of_a_key_than_has_flowed_in() {
    let limits = TokenBuckets::<u64>::per_second(1_000_000).burst(100);
    let start = Instant::now();
    let admitted: u64 = thread::scope(|scope| {
        let run = || {
            let mut admitted = 0;
            while start.elapsed() < Duration::from_millis(200) {
                admitted += u64::from(limits.try_acquire(&1).is_ok());
            }
            admitted
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let most = 100 + start.elapsed().as_micros() as u64 + 1;
    assert!(admitted > 100 && admitted <= most, "{admitted} of {most}");
}

#[test]
#[should_panic(expected = "max_keys: 0 must be at least 1")]
fn no_keys_are_refused() {
    let _ = TokenBuckets::<u64>::per_second(1).max_keys(0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a map of single buckets, with room for all keys.
    #[test]
    fn keys_do_what_single_buckets_do(
        tokens in 1u64..2_000, period in 1u64..2_000_000, burst in 1u64..50,
        steps in prop::collection::vec((0u8..12, 0u64..6, 0u32..60, 0u64..400_000), 1..200),
    ) {
        let clock = Clock::manual();
        let period = Duration::from_nanos(period.max(tokens));
        let limits = TokenBuckets::<u64>::per(tokens, period).burst(burst).clock(clock.clone());
        let mut twins: HashMap<u64, TokenBucket> = HashMap::new();
        let mut rate = (tokens, period, burst);
        for (step, key, n, wait) in steps {
            let (tokens, period, burst) = rate;
            let time = clock.clone();
            let fresh = || TokenBucket::per(tokens, period).burst(burst).clock(time.clone());
            let twin = twins.entry(key).or_insert_with(fresh);
            match step {
                0..=5 => {
                    let call = Call::new().cost(n % 5);
                    let expected = twin.try_acquire_for(call).map(Permitted::new);
                    prop_assert_eq!(limits.try_acquire_for(&key, call), expected.map(|_| ()));
                }
                6 => {
                    limits.charge(&key, n).unwrap();
                    twin.charge(n);
                }
                7 => {
                    limits.refund(&key, n);
                    twin.refund(n);
                }
                8 => {
                    limits.remove(&key);
                    twins.remove(&key);
                }
                9 => limits.forget_idle(),
                10 => {
                    rate = (1 + u64::from(n) * 17 % 1_000, Duration::from_nanos(1_000 + wait), 1 + u64::from(n));
                    let carry = [Carry::AsIs, Carry::Scaled, Carry::Full][n as usize % 3];
                    // What was not met has a full bucket, and so have these.
                    limits.forget_idle();
                    twins.retain(|_, twin| twin.residual().is_some());
                    limits.set_rate(rate.0, rate.1, rate.2, carry).unwrap();
                    for twin in twins.values() {
                        twin.set_rate(rate.0, rate.1, rate.2, carry).unwrap();
                    }
                }
                _ => clock.advance(Duration::from_nanos(wait)),
            }
            for (key, twin) in &twins {
                prop_assert_eq!(limits.quota(key), twin.quota());
            }
        }
    }

    /// With room for few keys: no key ever gets more than a burst and what flows in.
    #[test]
    fn no_debt_is_forgotten_for_want_of_room(
        max_keys in 1usize..8,
        steps in prop::collection::vec((0u64..12, 1u32..4, 0u64..900), 1..300),
    ) {
        let (limits, clock) = limits(1_000_000, 5, max_keys);
        let mut taken: HashMap<u64, Vec<(u64, u64)>> = HashMap::new();
        let mut now = 0;
        for (key, cost, wait) in steps {
            if limits.try_acquire_for(&key, Call::new().cost(cost)).is_ok() {
                let taken = taken.entry(key).or_default();
                taken.push((now, cost.into()));
                for from in 0..taken.len() {
                    let sum: u64 = taken[from..].iter().map(|call| call.1).sum();
                    prop_assert!(sum <= 5 + (now - taken[from].0) / 1_000, "key {}: {:?}", key, taken);
                }
            }
            prop_assert!(limits.len() <= max_keys);
            now += wait;
            clock.advance(Duration::from_nanos(wait));
        }
    }
}

/// Ends a permit.
struct Permitted;

impl Permitted {
    fn new(permit: floodwall::Permit<'_>) -> Self {
        permit.success();
        Self
    }
}

//! A bucket that warms up: after its start, and after it was idle.
#![cfg(not(floodwall_loom))]

use std::time::Duration;

use floodwall::{Acquire, AllOf, Call, Carry, Clock, Gate, Residual, TokenBucket, block_on};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// 300 a second after a minute, 100 a second at first.
fn bucket() -> (TokenBucket, Clock) {
    let clock = Clock::manual();
    (TokenBucket::per_second(300).burst(30).warm_up(MINUTE).clock(clock.clone()), clock)
}

/// Takes all that flows in the next `time`, and looks every millisecond.
fn drain(bucket: &TokenBucket, clock: &Clock, time: Duration) -> u64 {
    (0..time.as_millis())
        .map(|_| {
            clock.advance(Duration::from_millis(1));
            u64::from(bucket.take_up_to(1_000))
        })
        .sum()
}

#[test]
fn a_cold_bucket_starts_with_a_third_of_its_burst() {
    let (bucket, _) = bucket();
    assert_eq!(bucket.available(), 10);
    assert_eq!(bucket.quota().remaining, 10);
    assert_eq!(bucket.take_up_to(30), 10);
    assert!(bucket.try_acquire().is_err());
}

#[test]
fn its_rate_rises_evenly_from_a_third_to_the_whole() {
    let (bucket, clock) = bucket();
    bucket.take_up_to(30);
    // The integral of 100 + 200 t / 60 over each ten seconds.
    let counts: Vec<_> = (0..7).map(|_| drain(&bucket, &clock, SECOND * 10)).collect();
    assert_eq!(counts, [1_166, 1_500, 1_834, 2_166, 2_500, 2_834, 3_000]);
    assert_eq!(counts.iter().sum::<u64>(), 15_000);
}

#[test]
fn looking_does_not_start_it() {
    let (bucket, clock) = bucket();
    assert!(bucket.peek(Call::new()).is_ok());
    assert!(bucket.peek(Call::new().cost(11)).is_err());
    clock.advance(SECOND * 1_000);
    assert_eq!(bucket.available(), 10);
    assert_eq!(bucket.residual(), None);
    bucket.take_up_to(30);
    assert_eq!(drain(&bucket, &clock, SECOND * 10), 1_166);
}

#[test]
fn it_is_cold_again_once_it_was_full_for_as_long_as_it_takes_to_warm_up() {
    let (bucket, clock) = bucket();
    bucket.take_up_to(30);
    drain(&bucket, &clock, MINUTE);
    // A tenth of a second fills it.
    clock.advance(MINUTE + Duration::from_millis(99));
    assert_eq!(bucket.available(), 30);
    assert!(matches!(bucket.residual(), Some(Residual::Until(_))));
    clock.advance(Duration::from_millis(2));
    assert_eq!(bucket.available(), 10);
    assert_eq!(bucket.residual(), None);
    assert_eq!(bucket.take_up_to(30), 10);
    assert_eq!(drain(&bucket, &clock, SECOND * 10), 1_166);
}

#[test]
fn it_stays_warm_while_it_is_used() {
    let (bucket, clock) = bucket();
    bucket.take_up_to(30);
    drain(&bucket, &clock, MINUTE);
    for _ in 0..10 {
        clock.advance(MINUTE - SECOND);
        assert_eq!(bucket.take_up_to(30), 30);
    }
}

#[test]
fn who_comes_back_when_told_to_is_admitted_and_not_before() {
    let (bucket, clock) = bucket();
    for _ in 0..5_000 {
        let Err(rejected) = bucket.try_acquire_for(Call::new().cost(7)) else { continue };
        clock.advance(rejected.retry_after().unwrap() - Duration::from_nanos(1));
        assert!(bucket.peek(Call::new().cost(7)).is_err());
        clock.advance(Duration::from_nanos(1));
        assert!(bucket.peek(Call::new().cost(7)).is_ok());
    }
    assert!(clock.now() > Clock::manual().now() + MINUTE);
}

#[test]
fn those_who_wait_for_a_cold_bucket_wait_longer() {
    let (bucket, clock) = bucket();
    bucket.take_up_to(30);
    let first = bucket.reserve(Call::new(), SECOND).unwrap();
    let wait = first.wait();
    assert!(wait > Duration::from_micros(9_990) && wait <= Duration::from_millis(10), "{wait:?}");
    clock.advance(wait);
    assert!(block_on(first.ready()).is_ok());
    drain(&bucket, &clock, MINUTE * 2);
    let later = bucket.reserve(Call::new(), SECOND).unwrap();
    assert!(later.wait() <= Duration::from_nanos(3_333_334), "{:?}", later.wait());
    drop(later);
    let clocked = bucket.wait_up_to(SECOND);
    assert_eq!(clocked.waiting(), 0);
}

#[test]
fn a_debt_or_a_pause_is_not_lost_in_the_cold() {
    let (bucket, clock) = bucket();
    bucket.charge(40);
    assert_eq!(bucket.available(), 0);
    // 30 tokens more than there were.
    assert!(bucket.peek(Call::new()).unwrap_err().retry_after() > Some(Duration::from_millis(300)));
    clock.advance(MINUTE * 5);
    assert_eq!(bucket.available(), 10);
    bucket.pause_until(clock.now() + MINUTE);
    clock.advance(MINUTE - SECOND);
    assert!(bucket.try_acquire().is_err());
    clock.advance(SECOND);
    assert!(bucket.try_acquire().is_ok());
}

/// He has looked last before the bucket was full, so his tokens are no longer on its account.
#[test]
fn who_is_due_since_before_the_cold_passes_the_end_of_a_pause_and_takes_from_nobody() {
    let (bucket, clock) = bucket();
    bucket.take_up_to(30);
    let due = bucket.reserve(Call::new().cost(5), SECOND).unwrap();
    clock.advance(MINUTE * 5);
    bucket.pause_until(clock.now() + SECOND * 20);
    assert_eq!(due.wait(), SECOND * 20);
    assert_eq!(bucket.try_acquire().unwrap_err().retry_after(), Some(SECOND * 20));
    clock.advance(SECOND * 20);
    assert_eq!((due.wait(), bucket.take_up_to(30)), (Duration::ZERO, 1));
    drop(due);
    assert_eq!(bucket.available(), 0, "nothing of it was there to be given back");
}

#[test]
fn another_rate_is_as_warm_as_the_one_before() {
    let (bucket, clock) = bucket();
    bucket.take_up_to(30);
    drain(&bucket, &clock, MINUTE / 2);
    // Two thirds of 3,000 a second, on their way to the whole.
    bucket.set_rate(3_000, SECOND, 30, Carry::AsIs).unwrap();
    let admitted = drain(&bucket, &clock, SECOND);
    assert!((2_000..=2_020).contains(&admitted), "{admitted}");
    drain(&bucket, &clock, MINUTE / 2);
    let admitted = drain(&bucket, &clock, SECOND);
    assert!((2_999..=3_001).contains(&admitted), "{admitted}");
}

#[test]
fn a_burst_set_afterwards_leaves_it_cold() {
    let clock = Clock::manual();
    let bucket = TokenBucket::per_second(300).warm_up(MINUTE).burst(9).clock(clock);
    assert_eq!(bucket.take_up_to(9), 3);
    let one = TokenBucket::per_second(300).burst(1).warm_up(MINUTE).clock(Clock::manual());
    assert_eq!(one.take_up_to(9), 1);
}

#[test]
fn a_warm_up_shorter_than_a_call_takes_ends_all_the_same() {
    // By the system clock, which goes on while the bucket is asked.
    let bucket = TokenBucket::per_second(1).burst(1).warm_up(Duration::from_nanos(1));
    assert!(bucket.try_acquire().is_ok());
    assert!(bucket.try_acquire().is_err());
    let other = TokenBucket::per_second(1).burst(1).warm_up(Duration::from_nanos(1));
    assert_eq!(other.take_up_to(5), 1);
}

#[test]
fn what_was_reserved_is_there_also_once_the_bucket_is_cold_again() {
    let (bucket, clock) = bucket();
    bucket.take_up_to(30);
    let first = bucket.reserve(Call::new().cost(5), SECOND).unwrap();
    let second = bucket.reserve(Call::new().cost(5), SECOND).unwrap();
    assert!(first.wait() > Duration::ZERO);
    clock.advance(MINUTE * 10);
    // Cold, and started anew, while both still have their tokens.
    assert_eq!(bucket.take_up_to(30), 10);
    assert_eq!((first.wait(), second.wait()), (Duration::ZERO, Duration::ZERO));
    assert!(block_on(first.ready()).is_ok());
    // What flowed past long ago is not given back.
    drop(second);
    assert_eq!(bucket.available(), 0);
}

#[test]
fn a_long_warm_up_in_the_finest_units_ends() {
    let (clock, day) = (Clock::manual(), Duration::from_secs(24 * 3_600));
    for rate in [4_093, 65_521, 999_999_999] {
        let bucket = TokenBucket::per_second(rate).burst(3).warm_up(day).clock(clock.clone());
        bucket.take_up_to(3);
        for _ in 0..30 {
            // Often enough that it is never cold again.
            clock.advance(day - SECOND * 10);
            assert_eq!(bucket.take_up_to(5), 3);
            assert!(bucket.try_acquire().is_err());
        }
    }
}

#[test]
fn a_bucket_among_several_warms_up_too() {
    let clock = Clock::manual();
    let both =
        AllOf::new([TokenBucket::per_second(300).burst(30).warm_up(MINUTE), TokenBucket::per_second(1_000)])
            .clock(clock.clone());
    assert!(both.try_acquire_for(Call::new().cost(11)).is_err());
    assert!(both.try_acquire_for(Call::new().cost(10)).is_ok());
    let mut admitted = 0;
    for _ in 0..10_000 {
        clock.advance(Duration::from_millis(1));
        admitted += u64::from(both.try_acquire().is_ok());
    }
    assert_eq!(admitted, 1_166);
}

#[test]
#[should_panic(expected = "warm_up: 144000000000000 ns must be at most")]
fn a_warm_up_of_days_is_refused() {
    let _ = TokenBucket::per_second(1).warm_up(Duration::from_secs(144_000));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Against floating point, whatever the rate and the times: never more than the integral of the rate, and not less
    /// than it by more than what the burst cut off.
    #[test]
    fn what_is_admitted_is_the_integral_of_the_rate(
        tokens in 1u64..5_000, millis in 1u64..5_000, warm_up in 1u64..100_000, waits in prop::collection::vec(1u64..500, 1..200),
    ) {
        let clock = Clock::manual();
        let bucket = TokenBucket::per(tokens, Duration::from_millis(millis))
            .burst(1 << 30)
            .warm_up(Duration::from_millis(warm_up))
            .clock(clock.clone());
        let start = u64::from(bucket.take_up_to(u32::MAX));
        prop_assert_eq!(start, (1 << 30) / 3);
        let (mut time, mut admitted) = (0, 0);
        let rate = tokens as f64 / millis as f64;
        for wait in waits {
            clock.advance(Duration::from_millis(wait));
            time += wait;
            admitted += u64::from(bucket.take_up_to(u32::MAX));
            let (t, w) = (time as f64, warm_up as f64);
            let flowed = rate * if t < w { t / 3.0 + t * t / (3.0 * w) } else { t - w / 3.0 };
            prop_assert!((admitted as f64) <= flowed + 1e-3 && admitted as f64 > flowed - 1.001, "{} of {}", admitted, flowed);
        }
    }
}

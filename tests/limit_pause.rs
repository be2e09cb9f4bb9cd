//! A bucket that was told to pause.
#![cfg(not(floodwall_loom))]

mod support;

use std::pin::Pin;
use std::time::{Duration, Instant};

use floodwall::{Acquire, AllOf, Call, Carry, Clock, Gate, Residual, TokenBucket};
use support::{millis, nanos, poll, secs};

fn cost(tokens: u32) -> Call {
    Call::new().cost(tokens)
}

#[test]
fn a_pause_holds_everybody_and_then_lets_them_go_in_turn() {
    let clock = Clock::manual();
    let bucket = TokenBucket::per_second(2).burst(10).clock(clock.clone());
    bucket.pause_until(clock.now() + secs(60));
    assert_eq!(bucket.try_acquire().unwrap_err().retry_after(), Some(secs(60)));
    clock.advance(secs(60));
    assert_eq!(bucket.available(), 1);
    assert!(bucket.try_acquire().is_ok());
    let mut waiters = [Box::pin(bucket.acquire()), Box::pin(bucket.acquire())];
    waiters.iter_mut().for_each(|waiter| assert!(poll(waiter).is_pending()));
    bucket.pause_until(clock.now() + secs(9));
    clock.advance(millis(8_999));
    assert!(poll(&mut waiters[0]).is_pending());
    clock.advance(millis(1));
    assert!(poll(&mut waiters[0]).is_ready() && poll(&mut waiters[1]).is_pending());
    clock.advance(millis(500));
    assert!(poll(&mut waiters[1]).is_ready());
    bucket.pause_until(clock.now());
    bucket.pause_until(Instant::now() + secs(365 * 86_400 * 400));
    assert!(bucket.try_acquire().is_err());
}

/// Asserts that nobody is admitted before `at`, that whoever comes back when told to is admitted, and that he is the only
/// one until the next token, `next` later, is there.
#[track_caller]
fn assert_paused(bucket: &TokenBucket, clock: &Clock, at: Instant, next: Duration) {
    let is_refused = || {
        let rejected = bucket.try_acquire().unwrap_err();
        assert_eq!(rejected.retry_after(), Some(at - clock.now()));
        assert_eq!(bucket.peek(Call::new()), Err(rejected));
        assert_eq!((bucket.available(), bucket.take_up_to(5)), (0, 0));
        let quota = bucket.quota();
        assert_eq!((quota.remaining, quota.more_after), (0, at - clock.now()));
        let Some(Residual::Until(until)) = bucket.residual() else { panic!("a pause is not forgotten") };
        assert!(until >= at);
    };
    is_refused();
    clock.advance(at - clock.now() - nanos(1));
    is_refused();
    clock.advance(nanos(1));
    assert_eq!((bucket.available(), bucket.try_acquire().is_ok()), (1, true));
    assert_eq!(bucket.try_acquire().unwrap_err().retry_after(), Some(next));
    clock.advance(next);
    assert!(bucket.try_acquire().is_ok() && bucket.try_acquire().is_err());
}

/// A bucket of 10 a second that is paused for a minute, and has been used for three.
fn paused() -> (TokenBucket, Clock, Instant) {
    let clock = Clock::manual();
    let bucket = TokenBucket::per_second(10).burst(100).clock(clock.clone());
    clock.advance(secs(180));
    let at = clock.now() + secs(60);
    bucket.pause_until(at);
    (bucket, clock, at)
}

#[test]
fn what_is_given_back_during_a_pause_does_not_end_it() {
    let (bucket, clock, at) = paused();
    bucket.refund(100);
    clock.advance(secs(10));
    bucket.refund(1_000_000);
    assert_paused(&bucket, &clock, at, millis(100));

    let clock = Clock::manual();
    let bucket = TokenBucket::per_second(10).burst(100).clock(clock.clone());
    let mut estimate = bucket.try_acquire_for(cost(100)).unwrap();
    let at = clock.now() + secs(60);
    bucket.pause_until(at);
    estimate.settle(0);
    assert_paused(&bucket, &clock, at, millis(100));
}

#[test]
fn a_debt_that_outlasts_a_pause_is_settled_during_it() {
    let clock = Clock::manual();
    let bucket = TokenBucket::per_second(10).burst(10).clock(clock.clone());
    let mut estimate = bucket.try_acquire().unwrap();
    estimate.settle(1_000);
    assert_eq!(bucket.try_acquire().unwrap_err().retry_after(), Some(millis(99_100)));
    let at = clock.now() + secs(60);
    bucket.pause_until(at);
    // Of a debt of 99 seconds, 60 are paid meanwhile.
    assert_eq!(bucket.try_acquire().unwrap_err().retry_after(), Some(millis(99_100)));
    bucket.charge(10);
    assert_eq!(bucket.try_acquire().unwrap_err().retry_after(), Some(millis(100_100)));
    estimate.settle(0);
    assert_paused(&bucket, &clock, at, millis(100));
}

#[test]
fn another_rate_moves_no_pause() {
    let rates =
        [(1_000, 1_000, millis(1)), (1, 1, secs(1)), (10, 7, millis(100)), (4_093, 50, nanos(244_320))];
    for (tokens, burst, next) in rates {
        for carry in [Carry::AsIs, Carry::Scaled, Carry::Full] {
            let (bucket, clock, at) = paused();
            clock.advance(secs(10));
            bucket.set_rate(tokens, secs(1), burst, carry).unwrap();
            assert_paused(&bucket, &clock, at, next);
        }
    }
}

#[test]
fn a_debt_on_top_of_a_pause_is_carried_over_to_another_rate() {
    for (carry, late) in [(Carry::AsIs, secs(4)), (Carry::Scaled, secs(4)), (Carry::Full, secs(0))] {
        let (bucket, clock, at) = paused();
        bucket.charge(20);
        bucket.set_rate(5, secs(1), 10, carry).unwrap();
        assert_eq!(
            bucket.try_acquire().unwrap_err().retry_after(),
            Some(at - clock.now() + late),
            "{carry:?}"
        );
    }
}

/// Asserts that one after the other is admitted, from `at` on, `apart` from each other.
#[track_caller]
fn assert_in_turn<F: Future<Output: std::fmt::Debug>>(
    mut waiters: Vec<Pin<Box<F>>>,
    clock: &Clock,
    at: Instant,
    apart: Duration,
) {
    clock.advance(at - clock.now() - nanos(1));
    for turn in 0..waiters.len() {
        waiters[turn..].iter_mut().for_each(|waiter| assert!(poll(waiter).is_pending(), "{turn}"));
        clock.advance(nanos(1));
        assert!(poll(&mut waiters[turn]).is_ready(), "{turn}");
        waiters[turn + 1..].iter_mut().for_each(|waiter| assert!(poll(waiter).is_pending(), "{turn}"));
        clock.advance(apart - nanos(1));
    }
}

#[test]
fn who_leaves_during_a_pause_lets_nobody_go_before_its_end() {
    for before in [true, false] {
        let clock = Clock::manual();
        let bucket = TokenBucket::per_second(1).burst(10).clock(clock.clone());
        assert!(bucket.try_acquire_for(cost(10)).is_ok());
        let at = clock.now() + secs(60);
        if !before {
            bucket.pause_until(at);
        }
        let costs = [5, 1, 1, 1];
        let mut waiters: Vec<_> = costs.map(|tokens| Box::pin(bucket.acquire_for(cost(tokens)))).into();
        waiters.iter_mut().for_each(|waiter| assert!(poll(waiter).is_pending()));
        if before {
            bucket.pause_until(at);
        }
        drop(waiters.remove(0));
        // All that is given back is less than what the next one would pass the end with.
        bucket.refund(3);
        assert_in_turn(waiters, &clock, at, secs(1));
        // Who comes behind them has his turn after the last.
        assert!(bucket.try_acquire().is_err());
        clock.advance(nanos(1));
        assert!(bucket.try_acquire().is_ok() && bucket.try_acquire().is_err());
    }
}

#[test]
fn who_is_alone_and_leaves_during_a_pause_leaves_one_token_at_its_end() {
    let (bucket, clock, at) = paused();
    let mut waiter = Box::pin(bucket.acquire_for(cost(50)));
    assert!(poll(&mut waiter).is_pending());
    bucket.pause_until(at + secs(60));
    drop(waiter);
    assert_paused(&bucket, &clock, at + secs(60), millis(100));
}

#[test]
fn those_who_wait_keep_their_distances_from_the_end_of_a_pause_at_another_rate() {
    for carry in [Carry::AsIs, Carry::Scaled, Carry::Full] {
        let clock = Clock::manual();
        let bucket = TokenBucket::per_second(1).clock(clock.clone());
        assert!(bucket.try_acquire().is_ok());
        let mut waiters: Vec<_> = (0..3).map(|_| Box::pin(bucket.acquire())).collect();
        waiters.iter_mut().for_each(|waiter| assert!(poll(waiter).is_pending()));
        let at = clock.now() + secs(60);
        bucket.pause_until(at);
        bucket.set_rate(10, secs(1), 10, carry).unwrap();
        assert_in_turn(waiters, &clock, at, millis(100));
    }
}

#[test]
fn a_pause_with_an_earlier_end_does_not_shorten_one() {
    let (bucket, clock, at) = paused();
    bucket.pause_until(at - secs(20));
    bucket.pause_until(clock.now());
    bucket.refund(100);
    assert_paused(&bucket, &clock, at, millis(100));
    let at = clock.now() + secs(5);
    bucket.pause_until(at - secs(2));
    bucket.pause_until(at);
    assert_paused(&bucket, &clock, at, millis(100));
}

#[test]
fn a_pause_that_is_over_leaves_what_has_flowed_since_its_end() {
    let clock = Clock::manual();
    let bucket = TokenBucket::per_second(10).burst(100).clock(clock.clone());
    clock.advance(secs(180));
    bucket.pause_until(clock.now() - secs(100));
    assert_eq!(bucket.available(), 100);
    bucket.pause_until(clock.now() - secs(5));
    assert_eq!(bucket.available(), 51);
    bucket.pause_until(clock.now());
    assert_eq!((bucket.available(), bucket.try_acquire().is_ok()), (1, true));
}

/// At all kinds of rates: in the finest units the count of 4,093 a second ends after six and a half days; that of 1.2 tokens
/// a nanosecond is rounded.
#[test]
fn a_pause_of_years_ends_to_the_nanosecond() {
    for (tokens, period) in [(4_093, secs(1)), (6_000_000_007, secs(5)), (1, secs(3_600)), (3, nanos(7))] {
        let clock = Clock::manual();
        let bucket = TokenBucket::per(tokens, period).burst(1).clock(clock.clone());
        clock.advance(secs(86_400));
        let year = secs(365 * 86_400);
        bucket.pause_until(clock.now() + 100 * year);
        let mut waiter = Box::pin(bucket.acquire());
        assert!(poll(&mut waiter).is_pending());
        for _ in 0..2 {
            let wait = bucket.try_acquire_for(cost(1)).unwrap_err().retry_after();
            assert!(wait > Some(49 * year), "{wait:?}");
            clock.advance(50 * year - nanos(1));
        }
        clock.advance(nanos(1));
        assert!(poll(&mut waiter).is_pending() && bucket.try_acquire().is_err());
        clock.advance(nanos(1));
        assert!(poll(&mut waiter).is_ready());
    }
    let bucket = TokenBucket::per_second(4_093).clock(Clock::manual());
    bucket.pause_until(Instant::now() + secs(400 * 365 * 86_400));
    assert!(bucket.try_acquire().unwrap_err().retry_after() > Some(secs(399 * 365 * 86_400)));
}

#[test]
fn a_cold_bucket_or_a_warm_one_keeps_its_pause() {
    for idle in [secs(0), secs(30), secs(600)] {
        let clock = Clock::manual();
        let bucket = TokenBucket::per_second(300).burst(30).warm_up(secs(60)).clock(clock.clone());
        assert!(bucket.try_acquire().is_ok());
        clock.advance(idle);
        let at = clock.now() + secs(20);
        bucket.pause_until(at);
        bucket.pause_until(at - secs(10));
        bucket.refund(1_000);
        bucket.set_rate(600, secs(1), 60, Carry::Full).unwrap();
        bucket.refund(1_000);
        assert_eq!(bucket.try_acquire().unwrap_err().retry_after(), Some(secs(20)));
        assert!(bucket.residual().is_some());
        clock.advance(secs(20) - nanos(1));
        assert_eq!((bucket.available(), bucket.take_up_to(60)), (0, 0));
        clock.advance(nanos(1));
        assert_eq!(bucket.take_up_to(60), 1);
        // A third of the rate rises to the whole in a minute, pause or not.
        let flow = bucket.try_acquire().unwrap_err().retry_after().unwrap();
        let warmth = if idle == secs(30) { 50 } else { 20 };
        let expected = secs(1).as_secs_f64() / 200.0 / (1.0 + 2.0 * f64::from(warmth) / 60.0);
        assert!((flow.as_secs_f64() / expected - 1.0).abs() < 1e-3, "{flow:?} of {expected}");
    }
}

#[test]
fn a_paused_bucket_keeps_everybody_out_of_several_limits() {
    let clock = Clock::manual();
    let both = AllOf::new([
        TokenBucket::per_second(10).name("second"),
        TokenBucket::per(1_000, secs(3_600)).name("hour"),
    ])
    .clock(clock.clone());
    let mut permit = both.try_acquire_for(cost(10)).unwrap();
    both.buckets()[0].pause_until(clock.now() + secs(60));
    permit.settle(0);
    both.buckets()[0].set_rate(100, secs(1), 100, Carry::Full).unwrap();
    let rejected = both.try_acquire().unwrap_err();
    assert_eq!((rejected.by(), rejected.retry_after()), ("second", Some(secs(60))));
    let mut waiter = Box::pin(both.acquire());
    assert!(poll(&mut waiter).is_pending());
    clock.advance(secs(60) - nanos(1));
    assert!(poll(&mut waiter).is_pending() && both.try_acquire().is_err());
    clock.advance(nanos(1));
    assert!(poll(&mut waiter).is_ready() && both.try_acquire().is_err());
}

//! Several buckets as one limit.
#![cfg(not(floodwall_loom))]

mod support;

use std::task::Poll;

use floodwall::{
    Acquire, AllOf, Call, Clock, Gate, Keyed, Policy, Reason, Rejected, Residual, TokenBucket, block_on,
};
use support::{millis, nanos, poll, secs};

fn cost(tokens: u32) -> Call {
    Call::new().cost(tokens)
}

fn two(clock: &Clock) -> AllOf {
    let hour = TokenBucket::per(100, secs(3600)).burst(15).name("hour");
    AllOf::new([TokenBucket::per_second(10).name("second"), hour]).clock(clock.clone())
}

fn left(limits: &AllOf) -> [u64; 2] {
    [limits.buckets()[0].available(), limits.buckets()[1].available()]
}

/// Trap R10.
#[test]
fn a_call_takes_from_all_or_from_none_and_hears_of_the_longest_wait() {
    let clock = Clock::manual();
    let limits = two(&clock);
    assert!(limits.try_acquire_for(cost(10)).is_ok());
    assert_eq!(left(&limits), [0, 5]);
    assert_eq!(
        limits.try_acquire().unwrap_err(),
        Rejected::new("second", Reason::RateLimited).after(millis(100))
    );
    assert_eq!(left(&limits), [0, 5]);
    clock.advance(secs(1));
    let rejected = limits.try_acquire_for(cost(7)).unwrap_err();
    assert_eq!((rejected.by(), left(&limits)), ("hour", [10, 5]));
    clock.advance(rejected.retry_after().unwrap() - nanos(1));
    assert!(limits.try_acquire_for(cost(7)).is_err());
    clock.advance(nanos(1));
    assert!(limits.try_acquire_for(cost(7)).is_ok());
    assert_eq!(limits.try_acquire_for(cost(11)).unwrap_err(), Rejected::new("second", Reason::RateLimited));
}

/// Trap R10.
#[test]
fn a_waiter_waits_for_the_slowest_and_gives_back_to_all() {
    let clock = Clock::manual();
    let limits = two(&clock);
    assert!(limits.try_acquire_for(cost(10)).is_ok());
    let mut cancelled = Box::pin(limits.acquire_for(cost(6)));
    let mut waiter = Box::pin(limits.acquire_for(cost(6)));
    assert!(poll(&mut cancelled).is_pending() && poll(&mut waiter).is_pending());
    drop(cancelled);
    clock.advance(secs(35));
    assert!(poll(&mut waiter).is_pending());
    clock.advance(secs(1));
    assert!(poll(&mut waiter).is_ready());
    let Poll::Ready(Err(_)) = poll(&mut Box::pin(limits.acquire_within(cost(6), secs(5)))) else {
        panic!("it waits")
    };
    assert_eq!(left(&limits), [10, 0]);
}

/// Trap R10: what one bucket had ready while another kept the call waiting belongs to nobody yet.
#[test]
fn a_waiter_that_leaves_between_its_turns_gives_back_to_all() {
    let clock = Clock::manual();
    let limits = two(&clock);
    assert!(limits.try_acquire_for(cost(10)).is_ok());
    let mut waiter = Box::pin(limits.acquire_for(cost(6)));
    assert!(poll(&mut waiter).is_pending());
    clock.advance(millis(700));
    // Its turn at the first has come, at the second it comes in 36 seconds.
    assert!(poll(&mut waiter).is_pending());
    assert_eq!(left(&limits), [1, 0]);
    assert_eq!([limits.buckets()[0].waiting(), limits.buckets()[1].waiting()], [0, 1]);
    drop(waiter);
    assert_eq!(left(&limits), [7, 5]);
}

#[test]
fn an_estimate_is_settled_with_all() {
    let limits = two(&Clock::manual());
    let mut permit = limits.try_acquire_for(cost(10)).unwrap();
    permit.settle(4);
    permit.success();
    assert_eq!(left(&limits), [6, 11]);
    assert_eq!(limits.available(), 6);
    assert!(matches!(limits.residual(), Some(Residual::Until(_))));
}

/// Trap R10.
#[test]
fn threads_never_take_more_than_each_limit_has() {
    let limits = two(&Clock::manual());
    let admitted: usize = std::thread::scope(|scope| {
        let take = || (0..50).filter(|_| limits.try_acquire().is_ok()).count();
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!((admitted, left(&limits)), (10, [0, 5]));
}

/// Trap R10. The tenant's own limit comes first, so what it refuses costs the others nothing.
#[test]
fn a_noisy_tenant_drains_its_own_limit_and_not_that_of_all() {
    let clock = Clock::manual();
    let (all, time) = (TokenBucket::per_second(100).clock(clock.clone()), clock.clone());
    let tenants = Keyed::new(move |_: &u8| TokenBucket::per_second(10).clock(time.clone()));
    let call = |tenant: u8| {
        let stack = (tenants.at(&tenant), &all);
        block_on(stack.call(|| async { Ok::<_, ()>(()) })).is_ok()
    };
    for _ in 0..20 {
        let noisy = (0..1_000).filter(|_| call(0)).count();
        assert!(noisy <= 10, "{noisy}");
        assert!((1..=9).all(&call), "a quiet tenant has to wait for the noisy one");
        clock.advance(millis(100));
    }
}

/// Trap R13.
#[test]
#[should_panic(expected = "buckets: 0 must be at least 1")]
fn no_limit_at_all_is_refused() {
    let _ = AllOf::new([]);
}

#[test]
fn who_would_have_to_wait_too_long_at_several_limits_hears_of_the_longest_wait() {
    let both = AllOf::new([
        TokenBucket::per_second(1).name("second"),
        TokenBucket::per(1, secs(3_600)).burst(2).name("hour"),
    ])
    .clock(Clock::manual());
    both.buckets()[1].charge(1);
    assert!(both.try_acquire().is_ok());
    let rejected = block_on(both.acquire_within(Call::new(), millis(500))).unwrap_err();
    assert_eq!((rejected.by(), rejected.retry_after()), ("hour", Some(secs(3_600))));
    let late = Call::new().cost(1);
    let rejected = block_on(both.acquire_within(late, secs(10))).unwrap_err();
    assert_eq!((rejected.by(), rejected.retry_after()), ("hour", Some(secs(3_600))));
    // The first one has kept nothing of them.
    assert_eq!(both.buckets()[0].try_acquire().unwrap_err().retry_after(), Some(secs(1)));
}

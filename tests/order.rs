//! What stands outside what: that the advice in the documentation is true, and that no order that may be right is refused.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use floodwall::{
    Blocking, Bulkhead, CircuitBreaker, Clock, Constant, Error, Failover, Fallback, Gate, Jitter, Outcome,
    Policy, Reason, Retry, Timeout, TokenBucket, block_on,
};
use support::{millis, poll, secs};

fn at_once(attempts: u32) -> Retry {
    Retry::new(Constant::new(Duration::ZERO).attempts(attempts))
}

/// Runs a call to its end on a clock that moves by 100 ms; returns how it ended and how long it took.
fn run<T, E>(
    clock: &Clock,
    call: impl Future<Output = Result<T, Error<E>>>,
) -> (Result<T, Error<E>>, Duration) {
    let (start, mut call) = (clock.now(), Box::pin(call));
    for _ in 0..1_000 {
        if let Poll::Ready(result) = poll(&mut call) {
            return (result, clock.now() - start);
        }
        clock.advance(millis(100));
    }
    panic!("it does not end");
}

/// The first attempt hangs, the second answers.
fn hangs_once() -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = Result<u32, ()>> + Send>> + Send + Sync
{
    let attempts = AtomicU32::new(0);
    move || match attempts.fetch_add(1, Ordering::Relaxed) {
        0 => Box::pin(std::future::pending()),
        _ => Box::pin(std::future::ready(Ok(2))),
    }
}

#[test]
fn a_timeout_outside_alone_lets_one_attempt_use_up_all_the_time() {
    let clock = Clock::manual();
    let (total, each) =
        (Timeout::new(secs(2)).clock(clock.clone()), Timeout::new(millis(400)).clock(clock.clone()));
    let retry = || Retry::new(Constant::new(Duration::ZERO).attempts(3)).clock(clock.clone());
    let outside = (total.clone(), retry());
    let (result, took) = run(&clock, outside.call(hangs_once()));
    assert!(matches!(result, Err(Error::TimedOut(_))) && took == secs(2));
    let both = (total, retry(), each);
    let (result, took) = run(&clock, both.call(hangs_once()));
    assert!(result == Ok(2) && took <= millis(500), "{took:?}");
}

#[test]
fn a_timeout_inside_alone_bounds_no_whole() {
    let clock = Clock::manual();
    let delays = Constant::new(secs(1)).attempts(3).jitter(Jitter::None);
    let stack = (Retry::new(delays).clock(clock.clone()), Timeout::new(millis(400)).clock(clock.clone()));
    let (_, took) = run(&clock, stack.call(std::future::pending::<Result<(), ()>>));
    assert_eq!(took, millis(3 * 400 + 2 * 1_000));
}

#[test]
fn a_bulkhead_outside_a_retry_stays_taken_while_it_sleeps() {
    let clock = Clock::manual();
    let delays = Constant::new(secs(1)).attempts(2);
    for outside in [true, false] {
        let bulkhead = Bulkhead::new(1);
        let stack = (
            outside.then_some(&bulkhead),
            Retry::new(delays).clock(clock.clone()),
            (!outside).then_some(&bulkhead),
        );
        let mut call = Box::pin(stack.call(|| async { Err::<(), _>(()) }));
        assert!(poll(&mut call).is_pending());
        assert_eq!(bulkhead.running(), usize::from(outside));
    }
}

#[test]
fn limits_count_attempts_only_inside_a_retry_and_refused_calls_only_outside_a_breaker() {
    let tokens = || TokenBucket::per_second(10).clock(Clock::manual());
    let (outer, inner) = (tokens(), tokens());
    let _ = (&outer, at_once(3), &inner).call_blocking(|| Err::<(), _>(()));
    assert_eq!((outer.available(), inner.available()), (9, 7));

    let open = CircuitBreaker::builder().failures(1).clock(Clock::manual()).build();
    open.try_acquire().unwrap().failure();
    let (outer, inner) = (tokens(), tokens());
    let refused = (&outer, &open, &inner).call_blocking(|| Ok::<_, ()>(()));
    assert!(matches!(refused, Err(Error::Rejected(r)) if r.reason() == Reason::CircuitOpen));
    assert_eq!((outer.available(), inner.available()), (9, 10));
}

#[test]
fn retries_multiply() {
    let attempts = AtomicU32::new(0);
    let _ = (at_once(3), at_once(3)).call_blocking(|| {
        attempts.fetch_add(1, Ordering::Relaxed);
        Err::<(), _>(())
    });
    assert_eq!(attempts.into_inner(), 9);
}

#[test]
fn a_failover_inside_a_retry_asks_the_next_at_once_and_outside_only_after_all_attempts() {
    for (inside, expected) in [(true, vec![0, 1]), (false, vec![0, 0, 0, 1])] {
        let failover = || Failover::new(2).clock(Clock::manual());
        let mut asked = Vec::new();
        let op = |call: floodwall::Call| {
            asked.push(call.alternate());
            if call.alternate() == 0 { Err(()) } else { Ok(()) }
        };
        let stack = ((!inside).then(failover), at_once(3), inside.then(failover));
        assert_eq!(stack.call_blocking_with(floodwall::Call::new(), op), Ok(()));
        assert_eq!(asked, expected);
    }
}

/// All of these may do something, so all of them compile.
#[test]
fn no_order_that_may_be_right_is_refused() {
    fn both<P: Policy<u32, &'static str> + Blocking<u32, &'static str>>(stack: P, expected: u32) {
        assert_eq!(stack.call_blocking(|| Err("failed")), Ok(expected));
        assert_eq!(block_on(stack.call(|| async { Err("failed") })), Ok(expected));
    }
    let breaker = || CircuitBreaker::builder().clock(Clock::manual()).build();
    // A judge of values hears something; so does whoever stands outside what rejects calls.
    let values = at_once(2).judge(|result: &Result<u32, Error<&str>>| match result {
        Ok(0) => Outcome::Failure,
        _ => Outcome::Success,
    });
    both((values, Fallback::with(0)), 0);
    both((at_once(2).when(|_: &Error<&str>| true), Bulkhead::new(1), Fallback::with(0)), 0);
    // A fallback that picks, that may fail itself, that can be switched off, or that stands around another.
    both((at_once(2), Fallback::with(0).when(|error: &Error<&str>| matches!(error, Error::Inner(_)))), 0);
    both((breaker(), Fallback::from_fn(|_: Result<u32, Error<&'static str>>| Ok(0))), 0);
    both((at_once(2), Some(Fallback::with(0))), 0);
    both((Fallback::with(1), Fallback::with(0)), 0);
    both((Fallback::with(1), (Fallback::with(0), at_once(2)), (breaker(), ())), 0);
    both((Bulkhead::new(1), Fallback::with(0), Failover::new(2), breaker()), 0);
}

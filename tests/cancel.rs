//! Every await point cancelled: whatever was taken comes back.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;

use floodwall::{
    Acquire, Bulkhead, CircuitBreaker, Clock, Constant, Error, Fallback, Gate, Hedge, Jitter, Policy, Retry,
    RetryBudget, State, Timeout, TokenBucket, block_on,
};
use support::{millis, poll, secs};

/// Counts how many operations have started and not ended, so that none is forgotten half-way.
struct InFlight<'a>(&'a AtomicU32);

impl<'a> InFlight<'a> {
    fn start(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a call that fails twice and then succeeds, each attempt yielding twice, under everything that waits; drops it
/// after `polls` polls, with the clock moved on between them. Returns whether it had ended by then.
fn cancelled_after(polls: usize) -> bool {
    let clock = Clock::manual();
    let bucket = TokenBucket::per(1, secs(1)).burst(2).clock(clock.clone());
    let bulkhead = Bulkhead::new(1).clock(clock.clone());
    let breaker = CircuitBreaker::builder().failures(100).clock(clock.clone()).build();
    let (started, in_flight) = (AtomicU32::new(0), AtomicU32::new(0));
    let stack = (
        Fallback::with(0).when(|error: &Error<()>| matches!(error, Error::Rejected(_))),
        Timeout::new(secs(60)).clock(clock.clone()),
        Retry::new(Constant::new(secs(1)).attempts(5).jitter(Jitter::None)).clock(clock.clone()),
        &breaker,
        (&bulkhead).wait_up_to(secs(30)),
        (&bucket).wait_up_to(secs(30)),
        Timeout::new(secs(5)).clock(clock.clone()),
    );
    let op = async || {
        let _here = InFlight::start(&in_flight);
        let attempt = started.fetch_add(1, Ordering::Relaxed) + 1;
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        if attempt < 3 { Err(()) } else { Ok(attempt) }
    };
    // Another caller holds the only place at first, so that the call also waits there.
    let mut holder = Some(bulkhead.try_acquire().unwrap());
    let mut call = Box::pin(stack.call(op));
    let mut ended = false;
    for number in 0..polls {
        if number == 2 {
            holder = None;
        }
        if let Poll::Ready(result) = poll(&mut call) {
            assert_eq!(result, Ok(3));
            ended = true;
            break;
        }
        clock.advance(millis(500));
    }
    drop(call);
    drop(holder);
    assert_eq!(in_flight.load(Ordering::Relaxed), 0, "an operation outlived its call");
    assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0), "a place was lost after {polls} polls");
    assert_eq!(breaker.state(), State::Closed);
    clock.advance(secs(2));
    assert_eq!(bucket.available(), 2, "tokens were lost after {polls} polls");
    assert_eq!(block_on((&bulkhead, &bucket).call(|| async { Ok::<_, ()>(1) })), Ok(1));
    ended
}

#[test]
fn a_call_cancelled_at_any_await_point_gives_everything_back() {
    let polls_to_the_end = (0..100).position(cancelled_after).expect("the call ends");
    assert!(polls_to_the_end > 10, "only {polls_to_the_end} await points were tried");
}

/// Runs a call whose first attempt fails, and whose second hangs until its further copy answers, under a retry and a
/// hedge that share a budget; drops it after `polls` polls. Returns whether it had ended by then.
fn hedged_and_cancelled_after(polls: usize) -> bool {
    let clock = Clock::manual();
    let budget = Arc::new(RetryBudget::of_running(0.1).min(2));
    let bulkhead = Bulkhead::new(3).clock(clock.clone());
    let breaker = CircuitBreaker::builder().failures(100).clock(clock.clone()).build();
    let bucket = TokenBucket::per(1, millis(400)).burst(3).clock(clock.clone());
    let (started, in_flight) = (AtomicU32::new(0), AtomicU32::new(0));
    let stack = (
        Timeout::new(secs(60)).clock(clock.clone()),
        Retry::new(Constant::new(secs(1)).attempts(5)).clock(clock.clone()).budget(budget.clone()),
        Hedge::after(secs(1)).max(2).clock(clock.clone()).budget(budget.clone()),
        &breaker,
        &bulkhead,
        (&bucket).wait_up_to(secs(30)),
    );
    let op = async || {
        let _here = InFlight::start(&in_flight);
        let copy = started.fetch_add(1, Ordering::Relaxed) + 1;
        tokio::task::yield_now().await;
        match copy {
            1..=3 => Err(()),
            4 => std::future::pending().await,
            copy => Ok(copy),
        }
    };
    let mut call = Box::pin(stack.call(op));
    let mut ended = false;
    for _ in 0..polls {
        if let Poll::Ready(result) = poll(&mut call) {
            assert_eq!(result, Ok(5));
            ended = true;
            break;
        }
        clock.advance(millis(250));
    }
    drop(call);
    assert_eq!(in_flight.load(Ordering::Relaxed), 0, "a copy outlived its call");
    assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0), "a place was lost after {polls} polls");
    assert_eq!(budget.available(), 2, "the budget lost a place after {polls} polls");
    assert_eq!(breaker.state(), State::Closed);
    clock.advance(secs(2));
    assert_eq!(bucket.available(), 3, "tokens were lost after {polls} polls");
    ended
}

#[test]
fn a_hedged_call_cancelled_at_any_await_point_gives_everything_back() {
    let polls_to_the_end = (0..100).position(hedged_and_cancelled_after).expect("the call ends");
    assert!(polls_to_the_end > 10, "only {polls_to_the_end} await points were tried");
}

#[test]
fn a_cancelled_call_leaves_a_half_open_breaker_its_probe() {
    for polls in 0..4 {
        let clock = Clock::manual();
        let breaker =
            CircuitBreaker::builder().failures(1).open_for(secs(1)).probes(1).clock(clock.clone()).build();
        breaker.try_acquire().unwrap().failure();
        clock.advance(secs(1));
        let bulkhead = Bulkhead::new(1).clock(clock.clone());
        let holder = bulkhead.try_acquire().unwrap();
        let stack = (&breaker, (&bulkhead).wait_up_to(secs(30)));
        let mut call = Box::pin(stack.call(std::future::pending::<Result<(), ()>>));
        for _ in 0..polls {
            assert!(poll(&mut call).is_pending());
        }
        if polls == 3 {
            drop(holder);
            assert!(poll(&mut call).is_pending());
        }
        drop(call);
        breaker.try_acquire().expect("the probe came back").success();
        assert_eq!(breaker.state(), State::Closed);
    }
}

#[test]
fn a_call_that_was_never_polled_took_nothing() {
    let bulkhead = Bulkhead::new(1);
    let bucket = TokenBucket::per_second(1).clock(Clock::manual());
    let budget = Arc::new(RetryBudget::of_running(1.0).min(0));
    let hedge = Hedge::after(millis(1)).budget(budget.clone());
    let stack = (hedge, &bulkhead, &bucket);
    drop(stack.call(|| async { Ok::<_, ()>(1) }));
    assert_eq!((bulkhead.running(), bucket.available(), budget.available()), (0, 1, 0));
}

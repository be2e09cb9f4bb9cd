//! Every await point cancelled: whatever was taken comes back.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;

use floodwall::{
    Acquire, AdaptiveConcurrency, AdaptiveThrottle, Bulkhead, Call, Chaos, CircuitBreaker, Clock, Constant,
    Error, Failover, Fallback, Gate, Hedge, Jitter, LatencyShed, LoadShed, Policy, Retry, RetryBudget, State,
    Timeout, TokenBucket, block_on,
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

/// Trap R7.
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

/// As above, for a failover of three alternates of which the first two are down, with delays injected and gates that
/// shed; returns whether the call had ended by then.
fn failing_over_cancelled_after(polls: usize) -> bool {
    let clock = Clock::manual();
    let failover = Failover::new(3).rest_for(secs(10)).clock(clock.clone());
    let chaos = Chaos::delay(1.0, secs(1)).clock(clock.clone());
    let throttle = AdaptiveThrottle::new().clock(clock.clone());
    let (by_latency, by_load) =
        (LatencyShed::above(secs(1)).clock(clock.clone()), LoadShed::by(|| 0.5).clock(clock.clone()));
    let in_flight = AtomicU32::new(0);
    // The first is to be probed by this call, after a failure of long ago.
    let down = async |call: Call| if call.alternate() == 0 { Err(()) } else { Ok(9) };
    assert_eq!(block_on(failover.call_with(Call::new(), down)), Ok(9));
    clock.advance(secs(10));
    chaos.enable();
    let op = async |call: Call| {
        let _here = InFlight::start(&in_flight);
        tokio::task::yield_now().await;
        if call.alternate() < 2 { Err(()) } else { Ok(call.alternate()) }
    };
    let stack =
        (&failover, &throttle, &by_load, &by_latency, Timeout::new(secs(5)).clock(clock.clone()), &chaos);
    let mut call = Box::pin(stack.call_with(Call::new(), op));
    let mut ended = false;
    for _ in 0..polls {
        if let Poll::Ready(result) = poll(&mut call) {
            assert_eq!(result, Ok(2));
            ended = true;
            break;
        }
        clock.advance(millis(500));
    }
    drop(call);
    assert_eq!(in_flight.load(Ordering::Relaxed), 0, "an operation outlived its call");
    assert_eq!(by_latency.running(), 0, "a permit was lost after {polls} polls");
    chaos.disable();
    // Whoever was cancelled before it heard of the first gives the probe back to the next call.
    let answers = async |call: Call| Ok::<_, ()>(call.alternate());
    let first_failed = failover.is_resting(0);
    let expected = match (first_failed, failover.is_resting(1)) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    };
    assert_eq!(block_on(stack.call_with(Call::new(), answers)), Ok(expected), "after {polls} polls");
    ended
}

#[test]
fn a_failover_cancelled_at_any_await_point_gives_everything_back() {
    let polls_to_the_end = (0..100).position(failing_over_cancelled_after).expect("the call ends");
    assert!(polls_to_the_end > 6, "only {polls_to_the_end} await points were tried");
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

/// Waits at a gate with two in line before, through every stage of it: not polled, in line, first in line, granted and
/// not told, admitted. Dropped at each, it leaves the gate to the others as if it had never come.
fn a_waiter_can_leave_at_any_stage<G: Acquire>(
    gate: &G,
    clock: &Clock,
    waiting: impl Fn() -> (usize, usize),
) {
    let call = || Call::new().deadline(clock.now() + secs(9));
    for stage in 0..6 {
        let mut held = vec![gate.try_acquire().unwrap()];
        let mut before = Box::pin(gate.acquire_for(call()));
        let mut leaves = Box::pin(gate.acquire_for(call()));
        let mut behind = Box::pin(gate.acquire_for(call()));
        assert!(poll(&mut before).is_pending());
        if stage >= 1 {
            assert!(poll(&mut leaves).is_pending());
        }
        assert!(poll(&mut behind).is_pending());
        if stage >= 2 {
            held.clear();
            let Poll::Ready(Ok(permit)) = poll(&mut before) else { panic!("its turn") };
            held.push(permit);
        }
        if stage >= 3 {
            // The place is granted to it, and it does not know yet.
            held.clear();
            assert!(poll(&mut behind).is_pending());
        }
        match stage {
            4 => assert!(poll(&mut leaves).is_ready(), "and its permit is dropped"),
            5 => clock.advance(secs(9)),
            _ => {}
        }
        drop(leaves);
        held.clear();
        drop(before);
        assert!(poll(&mut behind).is_ready(), "lost at stage {stage}");
        drop(behind);
        assert_eq!(waiting(), (0, 0), "at stage {stage}");
        assert_eq!(gate.residual(), None);
    }
}

#[test]
fn a_waiter_at_a_bulkhead_or_an_adaptive_limit_can_leave_at_any_stage() {
    let clock = Clock::manual();
    let bulkhead = Bulkhead::new(1).clock(clock.clone());
    a_waiter_can_leave_at_any_stage(&bulkhead, &clock, || (bulkhead.running(), bulkhead.waiting()));
    let limit = AdaptiveConcurrency::between(1, 1).clock(clock.clone());
    a_waiter_can_leave_at_any_stage(&limit, &clock, || (limit.running(), limit.waiting()));
    assert_eq!(limit.limit(), 1);
    let memory = Bulkhead::new(1).by_cost().newest_first().clock(clock.clone());
    drop((memory.acquire_for(Call::new().cost(2)), memory.acquire()));
    assert_eq!((memory.running(), memory.waiting()), (0, 0));
}

#[test]
fn a_call_cancelled_at_an_adaptive_limit_gives_its_place_back_and_teaches_nothing() {
    let clock = Clock::manual();
    let limit = AdaptiveConcurrency::between(1, 1).clock(clock.clone());
    let stack = (&limit).wait_up_to(secs(30));
    for polls in 0..4 {
        let mut holder = Some(limit.try_acquire().unwrap());
        let mut call = Box::pin(stack.call(async || {
            tokio::task::yield_now().await;
            std::future::pending::<Result<(), ()>>().await
        }));
        for number in 0..polls {
            if number == 1 {
                holder = None;
            }
            assert!(poll(&mut call).is_pending());
            clock.advance(millis(500));
        }
        drop(call);
        drop(holder);
        assert_eq!((limit.running(), limit.waiting(), limit.baseline()), (0, 0, None), "after {polls} polls");
    }
}

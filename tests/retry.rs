//! Retry and timeout: what is repeated, how long it waits, what comes out.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use floodwall::{
    Backoff, Blocking, Bulkhead, Call, Clock, Constant, Error, Event, Exponential, Fallback, Gate, Jitter,
    Outcome, Policy, Reason, Rejected, Retry, TimedOut, Timeout, TokenBucket, block_on,
};
use support::{millis, poll, secs};

fn at_once(attempts: u32) -> Retry {
    Retry::new(Constant::new(Duration::ZERO).attempts(attempts))
}

/// An operation that fails so often before it succeeds.
fn fails(times: u32) -> impl Fn() -> std::future::Ready<Result<u32, &'static str>> + Send + Sync {
    let attempts = AtomicU32::new(0);
    move || {
        let attempt = attempts.fetch_add(1, Ordering::Relaxed) + 1;
        std::future::ready(if attempt <= times { Err("failed") } else { Ok(attempt) })
    }
}

#[test]
fn it_repeats_until_it_succeeds_or_the_attempts_end() {
    assert_eq!(block_on(at_once(3).call(fails(0))), Ok(1));
    assert_eq!(block_on(at_once(3).call(fails(2))), Ok(3));
    assert_eq!(block_on(at_once(3).call(fails(3))), Err(Error::Inner("failed")));
    assert_eq!(block_on(at_once(1).call(fails(1))), Err(Error::Inner("failed")));
}

#[test]
fn on_a_thread_it_does_the_same() {
    let mut attempts = 0;
    let result = at_once(3).call_blocking(|| {
        attempts += 1;
        if attempts < 3 { Err("failed") } else { Ok(attempts) }
    });
    assert_eq!(result, Ok(3));
    let mut attempts = 0;
    let call = Call::new().once();
    let result = at_once(3).call_blocking_with(call, |_| {
        attempts += 1;
        Err::<(), _>("failed")
    });
    assert_eq!((result, attempts), (Err(Error::Inner("failed")), 1));
}

#[test]
fn it_sleeps_what_the_backoff_says() {
    let clock = Clock::manual();
    let backoff = Exponential::new(secs(1)).attempts(3).jitter(Jitter::None);
    let retry = Retry::new(backoff).clock(clock.clone());
    let mut call = Box::pin(retry.call(fails(2)));
    for delay in [1, 2] {
        assert!(poll(&mut call).is_pending());
        clock.advance(secs(delay) - millis(1));
        assert!(poll(&mut call).is_pending());
        clock.advance(millis(1));
    }
    assert_eq!(poll(&mut call), Poll::Ready(Ok(3)));
}

#[test]
fn the_same_seed_sleeps_the_same() {
    let delays = |seed| {
        let (sender, delays) = std::sync::mpsc::channel();
        let retry = Retry::new(Exponential::new(Duration::from_nanos(1_000)).attempts(5)).seed(seed).observe(
            "db",
            move |_: &str, event| {
                if let Event::Retrying { delay, .. } = event {
                    sender.send(delay).unwrap();
                }
            },
        );
        assert!(retry.call_blocking(|| Err::<(), _>(())).is_err());
        delays.try_iter().collect::<Vec<_>>()
    };
    assert_eq!(delays(7).len(), 4);
    assert_eq!(delays(7), delays(7));
    assert_ne!(delays(7), delays(8));
}

#[test]
fn each_attempt_knows_its_number() {
    let numbers = std::sync::Mutex::new(Vec::new());
    let result = block_on(at_once(3).call_with(Call::new().cost(9), async |call: Call| {
        numbers.lock().unwrap().push((call.attempt, call.cost));
        Err::<(), _>(())
    }));
    assert_eq!(result, Err(Error::Inner(())));
    assert_eq!(*numbers.lock().unwrap(), [(1, 9), (2, 9), (3, 9)]);
}

#[test]
fn rejections_are_not_repeated_unless_told_and_then_no_earlier_than_they_ask() {
    let clock = Clock::manual();
    let bucket = TokenBucket::per_second(1).clock(clock.clone());
    assert!(bucket.try_acquire().is_ok());
    let result = block_on((at_once(3), &bucket).call(fails(0)));
    assert!(matches!(result, Err(Error::Rejected(_))));

    let patient = at_once(2).when(|_: &Error<&str>| true).clock(clock.clone());
    let stack = (patient, &bucket);
    let mut call = Box::pin(stack.call(fails(0)));
    assert!(poll(&mut call).is_pending());
    clock.advance(millis(999));
    assert!(poll(&mut call).is_pending());
    clock.advance(millis(1));
    assert_eq!(poll(&mut call), Poll::Ready(Ok(1)));
}

#[test]
fn throttled_values_are_repeated_no_earlier_than_they_ask() {
    let clock = Clock::manual();
    let retry = at_once(2).clock(clock.clone()).judge(|result: &Result<u16, Error<()>>| match result {
        Ok(429) => Outcome::Throttled { retry_after: Some(secs(7)) },
        _ => Outcome::Success,
    });
    let mut statuses = Box::pin(retry.call({
        let attempts = AtomicU32::new(0);
        move || std::future::ready(Ok(if attempts.fetch_add(1, Ordering::Relaxed) == 0 { 429 } else { 200 }))
    }));
    assert!(poll(&mut statuses).is_pending());
    clock.advance(secs(7));
    assert_eq!(poll(&mut statuses), Poll::Ready(Ok(200)));
}

#[test]
fn a_throttled_rejection_keeps_the_time_that_it_asked_for() {
    let clock = Clock::manual();
    let rejected = Error::Rejected(Rejected::new("quota", Reason::RateLimited).after(secs(10)));
    let retry = at_once(2)
        .clock(clock.clone())
        .judge(|_: &Result<(), Error<()>>| Outcome::Throttled { retry_after: None });
    let rejects = Fallback::from_fn(move |_: Result<(), Error<()>>| Err(rejected));
    let stack = (retry, rejects);
    let mut call = Box::pin(stack.call(|| async { Err(()) }));
    assert!(poll(&mut call).is_pending());
    clock.advance(secs(9));
    assert!(poll(&mut call).is_pending());
    clock.advance(secs(1));
    assert!(poll(&mut call).is_ready());
}

#[test]
fn without_a_delay_it_yields_between_attempts() {
    let retry = at_once(3);
    let mut call = Box::pin(retry.call(fails(2)));
    assert!(poll(&mut call).is_pending());
    assert!(poll(&mut call).is_pending());
    assert_eq!(poll(&mut call), Poll::Ready(Ok(3)));
}

/// A server that asks for a year must not hold a task for a year.
#[test]
fn a_wait_that_is_too_long_ends_the_retries() {
    let year = Outcome::Throttled { retry_after: Some(secs(365 * 86_400)) };
    let retry = at_once(9).judge(move |_: &Result<u16, Error<()>>| year);
    assert_eq!(block_on(retry.call(|| async { Ok(429) })), Ok(429));
    // What the backoff itself waits is its own affair.
    let short = Retry::new(Constant::new(millis(2))).max_wait(millis(1));
    assert_eq!(block_on(short.call(fails(1))), Ok(2));
}

#[test]
fn it_does_not_sleep_past_the_deadline() {
    let clock = Clock::manual();
    let retry = Retry::new(Constant::new(secs(1)).attempts(9)).clock(clock.clone());
    let call = Call::new().deadline(clock.now() + secs(2));
    let op = fails(9);
    let mut running = Box::pin(retry.call_with(call, |_| op()));
    assert!(poll(&mut running).is_pending());
    clock.advance(secs(1));
    assert_eq!(poll(&mut running), Poll::Ready(Err(Error::Inner("failed"))));
}

#[test]
fn a_total_timeout_outside_a_retry_is_seen_inside_it() {
    let clock = Clock::manual();
    let stack = (
        Timeout::new(secs(3)).clock(clock.clone()),
        Retry::new(Constant::new(secs(2)).attempts(9)).clock(clock.clone()),
        Timeout::new(secs(1)).clock(clock.clone()).name("attempt"),
    );
    let mut call = Box::pin(stack.call(std::future::pending::<Result<(), ()>>));
    assert!(poll(&mut call).is_pending());
    clock.advance(secs(1));
    // The next attempt could start only when the time is over: the first one's error comes out at once.
    assert_eq!(poll(&mut call), Poll::Ready(Err(Error::TimedOut(TimedOut::new("attempt", secs(1))))));
}

#[test]
fn a_backoff_of_ones_own_and_extreme_settings() {
    let own = Retry::new(Backoff::from_fn(|attempt| (attempt < 4).then_some(Duration::ZERO)));
    assert_eq!(block_on(own.call(fails(3))), Ok(4));
    let clock = Clock::manual();
    let for_ever = Constant::new(Duration::MAX).attempts(u32::MAX);
    let asleep = Retry::new(for_ever).max_wait(Duration::MAX).clock(clock.clone());
    let mut call = Box::pin(asleep.call(fails(1)));
    assert!(poll(&mut call).is_pending());
    clock.advance(secs(500 * 365 * 86_400));
    assert!(poll(&mut call).is_pending());
}

#[test]
#[should_panic(expected = "attempts: 0 must be at least 1: the first one counts")]
fn no_attempt_at_all_is_refused() {
    let _ = Constant::new(Duration::ZERO).attempts(0);
}

#[test]
#[should_panic(expected = "base: 0 ns must be at least 1 ns")]
fn an_exponential_of_nothing_is_refused() {
    let _ = Exponential::new(Duration::ZERO);
}

mod timeout {
    use super::*;

    #[test]
    fn a_ready_call_pays_for_no_timer() {
        // Outside tokio and outside `block_on` there is no timer to be had: asking for one would panic.
        let timeout = Timeout::new(secs(1));
        let mut ready = Box::pin(timeout.call(|| async { Ok::<_, ()>(1) }));
        assert_eq!(poll(&mut ready), Poll::Ready(Ok(1)));
    }

    #[test]
    fn the_tighter_of_two_deadlines_holds_and_is_passed_on() {
        let clock = Clock::manual();
        let stack = (Timeout::new(secs(2)).clock(clock.clone()), Timeout::new(secs(5)).clock(clock.clone()));
        let expires =
            block_on(stack.call_with(Call::new(), |call| async move { Ok::<_, ()>(call.expires()) }));
        assert_eq!(expires, Ok(Some(clock.now() + secs(2))));
        let mut call = Box::pin(stack.call(std::future::pending::<Result<(), ()>>));
        assert!(poll(&mut call).is_pending());
        clock.advance(secs(2));
        assert!(matches!(poll(&mut call), Poll::Ready(Err(Error::TimedOut(_)))));
    }

    #[test]
    fn a_call_whose_time_is_over_never_starts() {
        let clock = Clock::manual();
        let timeout = Timeout::new(secs(2)).clock(clock.clone()).name("search");
        let late = Call::new().deadline(clock.now());
        let result = block_on(timeout.call_with(late, |_| async { panic!("started") as Result<(), ()> }));
        assert_eq!(result, Err(Error::Rejected(Rejected::new("search", Reason::DeadlineExceeded))));
    }

    #[test]
    fn the_operation_is_dropped_when_its_time_is_over() {
        let clock = Clock::manual();
        let bulkhead = Bulkhead::new(1);
        let stack = (Timeout::new(secs(2)).clock(clock.clone()), &bulkhead);
        let mut call = Box::pin(stack.call(std::future::pending::<Result<(), ()>>));
        assert!(poll(&mut call).is_pending());
        assert_eq!(bulkhead.running(), 1);
        clock.advance(secs(2));
        assert!(poll(&mut call).is_ready());
        assert_eq!(bulkhead.running(), 0);
    }

    #[test]
    fn it_tells_its_observer() {
        let clock = Clock::manual();
        let (sender, events) = std::sync::mpsc::channel();
        let timeout = Timeout::new(secs(2))
            .clock(clock.clone())
            .observe("search", move |_: &str, event| sender.send(event).unwrap());
        let mut call = Box::pin(timeout.call(std::future::pending::<Result<(), ()>>));
        assert!(poll(&mut call).is_pending());
        clock.advance(secs(2));
        assert!(poll(&mut call).is_ready());
        assert_eq!(events.recv().unwrap(), Event::TimedOut(TimedOut::new("search", secs(2))));
    }

    #[test]
    fn for_ever_is_for_ever() {
        let clock = Clock::manual();
        let timeout = Timeout::new(Duration::MAX).clock(clock.clone());
        let mut call = Box::pin(timeout.call(std::future::pending::<Result<(), ()>>));
        assert!(poll(&mut call).is_pending());
        clock.advance(secs(500 * 365 * 86_400));
        assert!(poll(&mut call).is_pending());
    }

    #[test]
    #[should_panic(expected = "limit: 0 ns must be at least 1 ns")]
    fn no_time_at_all_is_refused() {
        let _ = Timeout::new(Duration::ZERO);
    }
}

//! Retry and timeout: what is repeated, how long it waits, what comes out.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::task::Poll;
use std::time::Duration;

use floodwall::{
    Backoff, Blocking, Bulkhead, Call, Clock, Constant, Error, Event, Exponential, Fallback, Gate, GiveUp,
    Jitter, Outcome, Policy, Reason, Rejected, Retry, RetryBudget, TimedOut, Timeout, TokenBucket, block_on,
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
    clock.advance(millis(251));
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
    clock.advance(millis(6_999));
    assert!(poll(&mut statuses).is_pending());
    clock.advance(millis(1_751));
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
    clock.advance(millis(3_500));
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

/// A retry, and what it will say.
fn observed(retry: Retry) -> (Retry, Receiver<Event>) {
    let (sender, events) = std::sync::mpsc::channel();
    (retry.observe("db", move |_: &str, event| sender.send(event).unwrap()), events)
}

/// How long a retry waits that was told to come back after `asked`.
fn delay_when_asked(asked: Duration, retry: Retry, call: Call) -> Option<Duration> {
    let (sender, events) = std::sync::mpsc::channel();
    let retry = retry
        .observe("db", move |_: &str, event| sender.send(event).unwrap())
        .judge(move |_: &Result<(), Error<()>>| Outcome::Throttled { retry_after: Some(asked) });
    let mut running = Box::pin(retry.call_with(call, |_| async { Err::<(), _>(()) }));
    let _ = poll(&mut running);
    match events.try_recv().unwrap() {
        Event::Retrying { delay, .. } => Some(delay),
        event => {
            assert_eq!(event, Event::GaveUp { attempts: 1, why: GiveUp::Time });
            None
        }
    }
}

/// The herd: a server that restarts tells all its clients the same.
#[test]
fn ten_thousand_clients_told_the_same_time_come_back_spread_over_a_quarter_of_it() {
    let clock = Clock::manual();
    let mut delays: Vec<_> = (0..10_000)
        .map(|seed| {
            let retry = at_once(2).seed(seed).clock(clock.clone());
            delay_when_asked(secs(8), retry, Call::new()).unwrap()
        })
        .collect();
    delays.sort_unstable();
    assert!(delays[0] >= secs(8) && delays[9_999] <= secs(10), "{:?} to {:?}", delays[0], delays[9_999]);
    let middle = delays[9_500] - delays[500];
    assert!(middle > millis(1_700), "nine in ten come back within {middle:?}");
    let most = (0..20).map(|tenth| {
        let from = secs(8) + millis(100) * tenth;
        delays.iter().filter(|delay| (from..from + millis(100)).contains(delay)).count()
    });
    let most = most.max().unwrap();
    assert!(most < 1_000, "{most} of 10,000 come back within a tenth of a second");
}

#[test]
fn the_spread_leaves_time_before_the_deadline_and_never_ends_the_retries() {
    let clock = Clock::manual();
    for seed in 0..200 {
        let within = |limit| {
            let retry = at_once(2).seed(seed).clock(clock.clone());
            delay_when_asked(secs(8), retry, Call::new().deadline(clock.now() + limit))
        };
        let tight = within(secs(9)).expect("there is time");
        assert!(tight >= secs(8) && tight <= millis(8_500), "{tight:?}");
        assert_eq!(within(secs(8)), None);
    }
}

#[test]
fn a_longest_time_that_is_asked_for_overflows_nothing() {
    let delay = delay_when_asked(Duration::MAX, at_once(2).max_wait(Duration::MAX), Call::new());
    assert!(delay.unwrap() > secs(500 * 365 * 86_400));
}

#[test]
fn no_attempt_starts_after_max_elapsed() {
    let clock = Clock::manual();
    let backoff = Constant::new(secs(2)).attempts(99);
    let (retry, events) = observed(Retry::new(backoff).max_elapsed(secs(5)).clock(clock.clone()));
    let mut call = Box::pin(retry.call(fails(99)));
    for _ in 0..2 {
        assert!(poll(&mut call).is_pending());
        clock.advance(secs(2));
    }
    assert_eq!(poll(&mut call), Poll::Ready(Err(Error::Inner("failed"))));
    assert_eq!(events.try_iter().last(), Some(Event::GaveUp { attempts: 3, why: GiveUp::Time }));
    // The limit itself is in time.
    let exact = Retry::new(backoff).max_elapsed(secs(4)).clock(clock.clone());
    let mut call = Box::pin(exact.call(fails(2)));
    for _ in 0..2 {
        assert!(poll(&mut call).is_pending());
        clock.advance(secs(2));
    }
    assert_eq!(poll(&mut call), Poll::Ready(Ok(3)));
}

#[test]
fn without_a_delay_max_elapsed_and_the_deadline_hold_too() {
    for (elapsed, deadline) in [(secs(2), secs(9)), (Duration::MAX, millis(2_500))] {
        let clock = Clock::manual();
        let retry = at_once(99).max_elapsed(elapsed).clock(clock.clone());
        let mut starts = Vec::new();
        let call = Call::new().deadline(clock.now() + deadline);
        let start = clock.now();
        let result = retry.call_blocking_with(call, |_| {
            starts.push((clock.now() - start).as_secs());
            clock.advance(secs(1));
            Err::<(), _>(())
        });
        assert_eq!((result, starts), (Err(Error::Inner(())), vec![0, 1, 2]));
    }
}

#[test]
fn it_says_why_it_gives_up() {
    let clock = Clock::manual();
    let asked = |retry_after| move |_: &Result<(), Error<()>>| Outcome::Throttled { retry_after };
    let run = |retry: Retry, retry_after, call| {
        let (retry, events) = observed(retry.clock(clock.clone()));
        let _ = retry.judge(asked(retry_after)).call_blocking_with(call, |_| Err(()));
        events.try_iter().last().unwrap()
    };
    let soon = Call::new().deadline(clock.now() + secs(1));
    let empty = RetryBudget::of_calls(0.1).min_per_second(0).burst(1).clock(clock.clone());
    for (retry, retry_after, call, attempts, why) in [
        (at_once(3), None, Call::new(), 3, GiveUp::Attempts),
        (at_once(3), Some(secs(61)), Call::new(), 1, GiveUp::MaxWait),
        (at_once(3), Some(secs(60)), soon, 1, GiveUp::Time),
        (at_once(3), None, Call::new().once(), 1, GiveUp::Once),
        (at_once(9).budget(empty), None, Call::new(), 2, GiveUp::Budget),
    ] {
        assert_eq!(run(retry, retry_after, call), Event::GaveUp { attempts, why });
    }
    // What succeeds, and what is nobody's fault, is not given up.
    let (retry, events) = observed(at_once(3));
    assert_eq!(retry.call_blocking(|| Ok::<_, ()>(1)), Ok(1));
    let full = Bulkhead::new(1);
    let _permit = full.try_acquire().unwrap();
    assert!((&retry, &full).call_blocking(|| Ok::<_, ()>(1)).is_err());
    assert_eq!(events.try_iter().count(), 0);
}

mod budget {
    use super::*;

    fn of_calls(share: f64, burst: u32) -> Arc<RetryBudget> {
        Arc::new(RetryBudget::of_calls(share).min_per_second(0).burst(burst))
    }

    /// Makes a call that fails through a retry without end; returns how many attempts were made.
    fn attempts(retry: &Retry) -> u64 {
        let mut attempts = 0;
        let _ = retry.call_blocking(|| {
            attempts += 1;
            Err::<(), _>(())
        });
        attempts
    }

    #[test]
    fn each_call_brings_its_share_and_the_rest_return_their_first_failure() {
        let retry = at_once(9).budget(of_calls(0.25, 1));
        assert_eq!(attempts(&retry), 2);
        let made: Vec<_> = (0..8).map(|_| attempts(&retry)).collect();
        assert_eq!(made, [1, 1, 1, 2, 1, 1, 1, 2]);
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let budget = of_calls(0.5, 3);
        let retry = at_once(99).budget(budget.clone());
        for _ in 0..100 {
            assert_eq!(retry.call_blocking(|| Ok::<_, ()>(1)), Ok(1));
        }
        assert_eq!((budget.available(), attempts(&retry)), (3, 4));
    }

    #[test]
    fn a_service_that_calls_seldom_can_retry_every_second() {
        let clock = Clock::manual();
        let budget = RetryBudget::of_calls(0.001).min_per_second(2).burst(1).clock(clock.clone());
        let retry = at_once(99).budget(budget);
        assert_eq!(attempts(&retry), 4);
        assert_eq!(attempts(&retry), 1);
        clock.advance(millis(500));
        assert_eq!(attempts(&retry), 2);
        clock.advance(secs(3600));
        assert_eq!(attempts(&retry), 3, "an hour of peace saves up no more than a second does");
        // The order of the setters does not matter.
        let budget = RetryBudget::of_calls(0.001).clock(clock.clone()).min_per_second(1).burst(1);
        let retry = at_once(99).budget(budget);
        assert_eq!(attempts(&retry), 3);
        clock.advance(secs(1));
        assert_eq!(attempts(&retry), 2);
    }

    #[test]
    fn policies_that_share_a_budget_share_what_is_left() {
        let budget = of_calls(0.001, 5);
        let (reads, writes) = (at_once(4).budget(budget.clone()), at_once(9).budget(budget.clone()));
        assert_eq!((attempts(&reads), attempts(&writes), attempts(&reads)), (4, 3, 1));
        assert_eq!(budget.available(), 0);
    }

    /// The overdraft race: to look and then to take lets threads take together what was there once.
    #[test]
    fn sixty_four_threads_overdraw_no_budget() {
        const CALLS: u64 = 200;
        for budget in [of_calls(0.1, 7), of_calls(1.5, 1)] {
            let share = if budget.available() == 7 { 0.1 } else { 1.5 };
            let burst = budget.available();
            let retry = at_once(20).budget(budget);
            let made = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for _ in 0..64 {
                    scope.spawn(|| {
                        for _ in 0..CALLS {
                            made.fetch_add(attempts(&retry), Ordering::Relaxed);
                        }
                    });
                }
            });
            let retries = made.into_inner() - 64 * CALLS;
            let most = (share * (64 * CALLS) as f64) as u64 + burst;
            assert!(retries <= most, "{retries} retries of at most {most}");
            // Nor is anything lost, but what calls brought while the budget was full.
            assert!(share > 1.0 || retries + 2 * burst + 7 >= most, "only {retries} retries of {most}");
        }
    }

    #[test]
    fn running_calls_bound_the_retries_that_run_and_give_their_places_back() {
        let clock = Clock::manual();
        let budget = Arc::new(RetryBudget::of_running(0.25).min(1));
        let retry =
            Retry::new(Constant::new(secs(1)).attempts(2)).budget(budget.clone()).clock(clock.clone());
        let mut calls: Vec<_> =
            (0..12).map(|_| Box::pin(retry.call(|| async { Err::<(), _>(()) }))).collect();
        // Of the first seven only one may wait for its second attempt, and with eight that run two.
        let waiting = calls.iter_mut().map(|call| poll(call).is_pending()).filter(|waits| *waits).count();
        assert_eq!((waiting, budget.available()), (1, 0));
        drop(calls);
        assert_eq!(budget.available(), 1);

        let mut hang: Vec<_> =
            (0..8).map(|_| Box::pin(retry.call(std::future::pending::<Result<(), ()>>))).collect();
        assert!(hang.iter_mut().all(|call| poll(call).is_pending()));
        assert_eq!(budget.available(), 2);
        let mut waits: Vec<_> = (0..4).map(|_| Box::pin(retry.call(|| async { Err::<(), _>(()) }))).collect();
        let waiting = waits.iter_mut().map(|call| poll(call).is_pending()).filter(|waits| *waits).count();
        assert_eq!((waiting, budget.available()), (2, 0));
        clock.advance(secs(1));
        for call in &mut waits[..2] {
            assert_eq!(poll(call), Poll::Ready(Err(Error::Inner(()))));
        }
        assert_eq!(budget.available(), 2, "attempts that have ended are counted no more");
    }

    #[test]
    fn sixty_four_threads_never_run_more_retries_than_the_running_calls_allow() {
        let budget = Arc::new(RetryBudget::of_running(0.2).min(3));
        let retry = at_once(20).budget(budget.clone());
        let (retries, most) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let _ = retry.call_blocking_with(Call::new(), |call| {
                            if call.attempt > 1 {
                                most.fetch_max(
                                    retries.fetch_add(1, Ordering::Relaxed) + 1,
                                    Ordering::Relaxed,
                                );
                                std::thread::yield_now();
                                retries.fetch_sub(1, Ordering::Relaxed);
                            }
                            Err::<(), _>(())
                        });
                    }
                });
            }
        });
        let most = most.into_inner();
        assert!((1..=12).contains(&most), "{most} retries at once of 64 calls");
        assert_eq!(budget.available(), 3, "all places came back");
    }

    #[test]
    fn an_attempt_of_a_retry_outside_brings_nothing() {
        let stack = (at_once(3), at_once(2).budget(of_calls(1.0, 1)));
        let mut attempts = 0;
        let result = stack.call_blocking(|| {
            attempts += 1;
            Err::<(), _>(())
        });
        assert_eq!((result, attempts), (Err(Error::Inner(())), 4));
    }

    #[test]
    #[should_panic(expected = "share: 0 must be above 0 and at most 10")]
    fn a_share_of_nothing_is_refused() {
        let _ = RetryBudget::of_calls(0.0);
    }

    #[test]
    #[should_panic(expected = "burst: 0 must be at least 1")]
    fn a_budget_that_holds_nothing_is_refused() {
        let _ = RetryBudget::of_calls(0.1).burst(0);
    }

    #[test]
    #[should_panic(expected = "min: a budget of calls has a burst and a min_per_second")]
    fn a_setting_of_the_other_kind_is_refused() {
        let _ = RetryBudget::of_calls(0.1).min(3);
    }
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

    /// By its place in the stack: outside a retry it limits the whole, inside it each attempt.
    #[test]
    fn a_total_timeout_ends_the_retries_and_one_inside_ends_an_attempt() {
        let clock = Clock::manual();
        let stack = (
            Timeout::new(secs(5)).clock(clock.clone()).name("total"),
            Retry::new(Constant::new(Duration::ZERO).attempts(9)).clock(clock.clone()),
            Timeout::new(secs(2)).clock(clock.clone()).name("attempt"),
        );
        let attempts = AtomicU32::new(0);
        let mut call = Box::pin(stack.call(|| {
            attempts.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<Result<(), ()>>()
        }));
        let mut at_seconds = Vec::new();
        for _ in 0..5 {
            // Often enough for what it does at one time: between attempts it yields.
            (0..3).for_each(|_| assert!(poll(&mut call).is_pending()));
            at_seconds.push(attempts.load(Ordering::Relaxed));
            clock.advance(secs(1));
        }
        assert_eq!(at_seconds, [1, 1, 2, 2, 3]);
        // The last attempt was told what was left, and ran out of that.
        let timed_out = TimedOut::new("attempt", secs(1));
        assert_eq!(poll(&mut call), Poll::Ready(Err(Error::TimedOut(timed_out))));
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

//! Circuit breakers: the state machine at literal times, and the traps that other breakers fell into, C1 to C16 (some are in
//! `breaker_rules.rs`, `alloc.rs` and `loom`).
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use floodwall::{
    Blocking, Call, CircuitBreaker, CircuitBreakerBuilder, Clock, Error, Event, Gate, Outcome, Policy,
    Reason, Rejected, Residual, State, TimedOut, Timeout, block_on,
};
use support::{millis, nanos, poll, secs};

fn builder(clock: &Clock) -> CircuitBreakerBuilder {
    CircuitBreaker::builder().clock(clock.clone())
}

fn succeed(breaker: &CircuitBreaker) {
    breaker.try_acquire().unwrap().success();
}

fn fail(breaker: &CircuitBreaker) {
    breaker.try_acquire().unwrap().failure();
}

fn opened(clock: &Clock) -> CircuitBreaker {
    let breaker = builder(clock).failures(1).open_for(secs(30)).probes(2).build();
    fail(&breaker);
    assert_eq!(breaker.state(), State::Open);
    breaker
}

#[test]
fn failures_in_a_row_open_it_and_a_success_between_does_not() {
    let breaker = builder(&Clock::manual()).failures(3).build();
    for _ in 0..5 {
        fail(&breaker);
        fail(&breaker);
        succeed(&breaker);
    }
    assert_eq!(breaker.state(), State::Closed);
    fail(&breaker);
    fail(&breaker);
    fail(&breaker);
    assert_eq!(breaker.state(), State::Open);
}

/// C12: (successes, failures, opens) with at least 10 calls and a rate of a half; the last call is a failure.
#[test]
fn the_failure_rate_opens_it_from_the_least_number_of_calls_on() {
    for (successes, failures, opens) in [
        (0, 9, false),
        (0, 10, true),
        (5, 4, false),
        (5, 5, true),
        (6, 5, false),
        (6, 6, true),
        (1000, 999, false),
    ] {
        let breaker = builder(&Clock::manual()).failure_rate(0.5).min_calls(10).build();
        (0..successes).for_each(|_| succeed(&breaker));
        (0..failures).for_each(|_| fail(&breaker));
        assert_eq!(breaker.state() == State::Open, opens, "{successes} successes, {failures} failures");
    }
}

/// A "sliding" window that never lets go of old successes needs as many failures to open.
#[test]
fn old_successes_do_not_hide_new_failures() {
    let clock = Clock::manual();
    let breaker = builder(&clock).failure_rate(0.5).min_calls(10).window(secs(10)).build();
    (0..100_000).for_each(|_| succeed(&breaker));
    clock.advance(secs(10));
    (0..10).for_each(|_| fail(&breaker));
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn with_both_rules_whichever_comes_first_opens_it() {
    let both = || builder(&Clock::manual()).failures(3).failure_rate(0.2).min_calls(10).build();
    let by_row = both();
    (0..3).for_each(|_| fail(&by_row));
    assert_eq!(by_row.state(), State::Open);
    let by_rate = both();
    for _ in 0..2 {
        (0..4).for_each(|_| succeed(&by_rate));
        fail(&by_rate);
    }
    assert_eq!(by_rate.state(), State::Open);
    let only_row = builder(&Clock::manual()).failures(1000).build();
    (0..999).for_each(|_| fail(&only_row));
    assert_eq!(only_row.state(), State::Closed);
}

#[test]
fn open_it_tells_how_long_and_half_open_it_lets_probes_decide() {
    let clock = Clock::manual();
    let breaker = opened(&clock);
    clock.advance(secs(29));
    let rejected = Rejected::new("", Reason::CircuitOpen);
    assert_eq!(breaker.try_acquire().unwrap_err(), rejected.after(secs(1)));
    clock.advance(secs(1));
    assert_eq!(breaker.state(), State::HalfOpen);
    let (first, second) = (breaker.try_acquire().unwrap(), breaker.try_acquire().unwrap());
    // All probes are out: they may have decided in a tenth of the time.
    assert_eq!(breaker.try_acquire().unwrap_err(), rejected.after(secs(3)));
    first.success();
    assert_eq!(breaker.state(), State::HalfOpen);
    assert!(breaker.try_acquire().is_err());
    second.success();
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_failed_probe_opens_it_again_for_the_whole_time() {
    let clock = Clock::manual();
    let breaker = opened(&clock);
    clock.advance(secs(30));
    let (good, bad) = (breaker.try_acquire().unwrap(), breaker.try_acquire().unwrap());
    clock.advance(secs(5));
    bad.failure();
    assert_eq!(breaker.try_acquire().unwrap_err().retry_after(), Some(secs(30)));
    good.success();
    assert_eq!(breaker.state(), State::Open);
}

/// C1: elsewhere the place of a cancelled probe is lost, and with it the circuit.
#[test]
fn a_dropped_probe_gives_its_place_back() {
    let clock = Clock::manual();
    let breaker = opened(&clock);
    clock.advance(secs(30));
    for _ in 0..10 {
        drop(breaker.try_acquire().unwrap());
    }
    succeed(&breaker);
    breaker.try_acquire().unwrap().report(Outcome::Ignored);
    succeed(&breaker);
    assert_eq!(breaker.state(), State::Closed);
}

/// C1, at each await point.
#[test]
fn a_probe_cancelled_at_any_await_point_does_not_wedge_it() {
    for polls in 0..3 {
        let clock = Clock::manual();
        let breaker = opened(&clock);
        clock.advance(secs(30));
        let mut call = Box::pin(breaker.call(async || {
            tokio::task::yield_now().await;
            std::future::pending::<Result<(), ()>>().await
        }));
        for _ in 0..polls {
            assert!(poll(&mut call).is_pending());
        }
        drop(call);
        succeed(&breaker);
        succeed(&breaker);
        assert_eq!(breaker.state(), State::Closed);
    }
}

/// C2: a probe that neither ends nor is dropped.
#[test]
fn a_hung_probe_does_not_wedge_it() {
    let clock = Clock::manual();
    let breaker = opened(&clock);
    clock.advance(secs(30));
    let hung = [breaker.try_acquire().unwrap(), breaker.try_acquire().unwrap()];
    clock.advance(secs(29));
    assert_eq!(breaker.try_acquire().unwrap_err().retry_after(), Some(secs(1)));
    clock.advance(secs(1));
    succeed(&breaker);
    // The hung ones have no place to give back.
    hung.into_iter().for_each(drop);
    let probe = breaker.try_acquire().unwrap();
    assert!(breaker.try_acquire().is_err());
    probe.success();
    assert_eq!(breaker.state(), State::Closed);
}

/// A breaker that forgets probes which take longer than `open_for` never closes again.
#[test]
fn probes_that_take_longer_than_it_was_open_still_count() {
    let clock = Clock::manual();
    let breaker = opened(&clock);
    clock.advance(secs(30));
    let mut slow = Vec::new();
    for _ in 0..4 {
        slow.extend(breaker.try_acquire());
        clock.advance(secs(20));
    }
    slow.drain(..2).for_each(|permit| permit.success());
    assert_eq!(breaker.state(), State::Closed);
    slow.into_iter().for_each(|permit| permit.failure());
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn exactly_the_failure_rate_opens_it() {
    for percent in 1..=100 {
        let rate = f64::from(percent) / 100.0;
        let breaker = builder(&Clock::manual()).failure_rate(rate).min_calls(100).build();
        (percent..100).for_each(|_| succeed(&breaker));
        (0..percent).for_each(|_| fail(&breaker));
        assert_eq!(breaker.state(), State::Open, "{percent} %");
    }
}

#[test]
fn a_call_whose_time_is_over_takes_no_probe() {
    let clock = Clock::manual();
    let breaker = opened(&clock);
    clock.advance(secs(30));
    let late = Call::new().deadline(clock.now());
    assert_eq!(breaker.try_acquire_for(late).unwrap_err().reason(), Reason::DeadlineExceeded);
    succeed(&breaker);
    succeed(&breaker);
    assert_eq!(breaker.state(), State::Closed);
}

/// C3: late results, of a closed time and of an earlier trial.
#[test]
fn results_of_an_earlier_generation_are_not_counted() {
    let clock = Clock::manual();
    let breaker = builder(&clock).failures(2).open_for(secs(1)).probes(1).build();
    let late: Vec<_> = (0..6).map(|_| breaker.try_acquire().unwrap()).collect();
    let mut late = late.into_iter();
    fail(&breaker);
    fail(&breaker);
    late.next().unwrap().success();
    assert_eq!(breaker.state(), State::Open);
    clock.advance(secs(1));
    let old_probe = breaker.try_acquire().unwrap();
    late.next().unwrap().success();
    late.next().unwrap().failure();
    assert_eq!(breaker.state(), State::HalfOpen);
    clock.advance(secs(1));
    fail(&breaker);
    clock.advance(secs(1));
    let probe = breaker.try_acquire().unwrap();
    old_probe.success();
    assert_eq!(breaker.state(), State::HalfOpen);
    probe.success();
    assert_eq!(breaker.state(), State::Closed);
    late.for_each(|permit| permit.failure());
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_dropped_permit_counts_for_nothing_before_its_deadline_and_as_a_failure_after_it() {
    let clock = Clock::manual();
    let breaker = builder(&clock).failures(1).build();
    let call = Call::new().deadline(clock.now() + secs(1));
    drop(breaker.try_acquire_for(call).unwrap());
    assert_eq!(breaker.state(), State::Closed);
    let slow = breaker.try_acquire_for(call).unwrap();
    clock.advance(secs(1));
    drop(slow);
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_timeout_outside_the_breaker_counts_as_a_failure_inside() {
    let clock = Clock::manual();
    let breaker = builder(&clock).failures(1).build();
    let stack = (Timeout::new(secs(1)).clock(clock.clone()), &breaker);
    let mut call = Box::pin(stack.call(std::future::pending::<Result<(), ()>>));
    assert!(poll(&mut call).is_pending());
    clock.advance(secs(1));
    let timed_out = Error::TimedOut(TimedOut::new("", secs(1)));
    assert_eq!(poll(&mut call), std::task::Poll::Ready(Err(timed_out)));
    drop(call);
    assert_eq!(breaker.state(), State::Open);
}

/// C8.
#[test]
fn a_panic_counts_as_a_failure_and_poisons_nothing() {
    let breaker = builder(&Clock::manual()).failures(1).build();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = breaker.call_blocking(|| -> Result<(), ()> { panic!("in the operation") });
    }));
    assert!(panicked.is_err());
    assert_eq!(breaker.state(), State::Open);
    let breaker = builder(&Clock::manual()).failures(1).build();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        block_on(breaker.call(|| async { if true { panic!("in the operation") } else { Ok::<(), ()>(()) } }))
            .unwrap();
    }));
    assert!(panicked.is_err());
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn throttled_counts_as_a_failure_and_ignored_does_not() {
    let breaker = builder(&Clock::manual()).failures(2).build();
    fail(&breaker);
    breaker.try_acquire().unwrap().report(Outcome::Ignored);
    breaker.try_acquire().unwrap().report(Outcome::Throttled { retry_after: None });
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_rejection_further_in_is_not_counted() {
    let breaker = builder(&Clock::manual()).failures(1).build();
    let full = floodwall::Bulkhead::new(1);
    let _permit = full.try_acquire().unwrap();
    let result = (&breaker, &full).call_blocking(|| Ok::<_, ()>(1));
    assert!(matches!(result, Err(Error::Rejected(_))));
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_rejection_further_in_is_not_even_judged() {
    let breaker = builder(&Clock::manual()).failures(1).build().when(|_: &Error<()>| true);
    let full = floodwall::Bulkhead::new(1);
    let _permit = full.try_acquire().unwrap();
    assert!((&breaker, &full).call_blocking(|| Ok(1)).is_err());
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_judge_sees_values_and_when_picks_errors() {
    let judged =
        builder(&Clock::manual()).failures(1).build().judge(|result: &Result<u16, Error<()>>| match result {
            Ok(500..) => Outcome::Failure,
            _ => Outcome::Success,
        });
    assert_eq!(judged.call_blocking(|| Ok(503)), Ok(503));
    assert_eq!(judged.state(), State::Open);
    let picked =
        builder(&Clock::manual()).failures(1).build().when(|error: &Error<u16>| *error == Error::Inner(500));
    assert_eq!(picked.call_blocking(|| Err::<(), _>(404)), Err(Error::Inner(404)));
    assert_eq!(picked.state(), State::Closed);
    assert_eq!(picked.call_blocking(|| Err::<(), _>(500)), Err(Error::Inner(500)));
    assert_eq!(picked.state(), State::Open);
}

/// C16: an observer that asks the breaker deadlocks if it is called under the breaker's lock.
#[test]
fn each_transition_is_told_once_and_outside_the_lock() {
    let clock = Clock::manual();
    let told = Arc::new(Mutex::new(Vec::new()));
    let shared: Arc<std::sync::OnceLock<CircuitBreaker>> = Arc::default();
    let (log, handle) = (told.clone(), shared.clone());
    let breaker =
        builder(&clock).failures(1).open_for(secs(1)).probes(1).observe("db", move |name: &str, event| {
            if let Event::StateChanged { from, to } = event {
                let now = handle.get().map(CircuitBreaker::state);
                log.lock().unwrap().push((name.to_owned(), from, to, now));
            }
        });
    let breaker = shared.get_or_init(|| breaker.build());
    fail(breaker);
    clock.advance(secs(1));
    succeed(breaker);
    let told = told.lock().unwrap();
    let changes: Vec<_> =
        told.iter().map(|(name, from, to, now)| (name.as_str(), *from, *to, *now)).collect();
    assert_eq!(
        changes,
        [
            ("db", State::Closed, State::Open, Some(State::Open)),
            ("db", State::Open, State::HalfOpen, Some(State::HalfOpen)),
            ("db", State::HalfOpen, State::Closed, Some(State::Closed)),
        ]
    );
}

/// C4; see also the models.
#[test]
fn racing_threads_get_no_more_probes_than_there_are() {
    for _ in 0..50 {
        let clock = Clock::manual();
        let breaker = builder(&clock).failures(1).open_for(secs(1)).probes(3).build();
        fail(&breaker);
        clock.advance(secs(1));
        let admitted: usize = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| (0..4).filter_map(|_| breaker.try_acquire().ok()).collect::<Vec<_>>())
                })
                .collect();
            let permits: Vec<_> = racers.into_iter().flat_map(|racer| racer.join().unwrap()).collect();
            permits.len()
        });
        assert_eq!(admitted, 3);
    }
}

#[test]
fn an_open_circuit_is_a_residual() {
    let clock = Clock::manual();
    let breaker = builder(&clock).failures(1).open_for(secs(30)).build();
    assert_eq!(breaker.residual(), None);
    fail(&breaker);
    assert_eq!(breaker.residual(), Some(Residual::Until(clock.now() + secs(30))));
    clock.advance(secs(30));
    let _probe = breaker.try_acquire().unwrap();
    assert_eq!(breaker.residual(), Some(Residual::InUse));
}

mod absurd_settings {
    use super::*;

    #[test]
    #[should_panic(expected = "open_for: 0 ns must be at least 1 ns")]
    fn open_for_zero() {
        let _ = CircuitBreaker::builder().open_for(Duration::ZERO);
    }

    #[test]
    #[should_panic(expected = "window: 0 ns must be at least 1 ns")]
    fn window_zero() {
        let _ = CircuitBreaker::builder().window(Duration::ZERO);
    }

    #[test]
    #[should_panic(expected = "failures: 0 must be at least 1")]
    fn failures_zero() {
        let _ = CircuitBreaker::builder().failures(0);
    }

    #[test]
    #[should_panic(expected = "min_calls: 0 must be at least 1")]
    fn min_calls_zero() {
        let _ = CircuitBreaker::builder().min_calls(0);
    }

    #[test]
    #[should_panic(expected = "probes: 0 must be at least 1")]
    fn probes_zero() {
        let _ = CircuitBreaker::builder().probes(0);
    }

    #[test]
    fn a_rate_outside_its_range_names_its_value() {
        for rate in [0.0, -0.5, 1.01, f64::NAN, f64::INFINITY] {
            let panic =
                std::panic::catch_unwind(|| CircuitBreaker::builder().failure_rate(rate)).unwrap_err();
            let message = panic.downcast_ref::<String>().unwrap();
            assert_eq!(message, &format!("failure_rate: {rate} must be above 0 and at most 1"));
        }
    }

    #[test]
    fn open_for_ever_and_a_window_of_all_time_are_served() {
        let clock = Clock::manual();
        let breaker = builder(&clock).failures(1).open_for(Duration::MAX).build();
        fail(&breaker);
        clock.advance(secs(100 * 365 * 86_400));
        assert!(breaker.try_acquire().unwrap_err().retry_after().unwrap() > secs(400 * 365 * 86_400));
        let wide = builder(&clock).failure_rate(1.0).window(Duration::MAX).min_calls(2).build();
        fail(&wide);
        clock.advance(secs(50 * 365 * 86_400));
        fail(&wide);
        assert_eq!(wide.state(), State::Open);
        let narrow = builder(&clock).failure_rate(1.0).window(nanos(1)).min_calls(2).build();
        fail(&narrow);
        clock.advance(millis(1));
        fail(&narrow);
        assert_eq!(narrow.state(), State::Closed);
    }
}

//! Circuit breakers: when they open, how they come back, and who may tell them what to do.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use floodwall::{
    Backoff, BreakerMode, Call, CircuitBreaker, CircuitBreakerBuilder, Clock, Event, Exponential, Gate,
    Jitter, Keyed, Outcome, OwnedPermit, Permit, Policy, Reason, Residual, State,
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

fn wait(breaker: &CircuitBreaker) -> Duration {
    breaker.try_acquire().unwrap_err().retry_after().unwrap()
}

mod counting {
    use super::*;

    /// C5: a window of calls that never lets go of old successes.
    #[test]
    fn a_million_successes_are_forgotten_after_a_window_of_failures() {
        let breaker = builder(&Clock::manual()).failure_rate(0.5).last_calls(100).build();
        (0..1_000_000).for_each(|_| succeed(&breaker));
        (0..49).for_each(|_| fail(&breaker));
        assert_eq!(breaker.state(), State::Closed);
        fail(&breaker);
        assert_eq!(breaker.state(), State::Open);
    }

    /// C6: (last calls, least calls, failures from the start that open it)
    #[test]
    fn the_least_number_of_calls_is_never_more_than_the_window_holds() {
        for (last, least, opens_at) in
            [(10, 1, 1), (10, 9, 9), (10, 10, 10), (10, 11, 10), (10, 1_000, 10), (1, 1, 1), (1, 20, 1)]
        {
            let breaker =
                builder(&Clock::manual()).failure_rate(1.0).last_calls(last).min_calls(least).build();
            let opened = (1..=20).find(|_| {
                fail(&breaker);
                breaker.state() == State::Open
            });
            assert_eq!(opened, Some(opens_at), "{last} calls, at least {least}");
        }
    }

    /// C7: (failures at 0, wait, failures then, opens) with at least 4 calls in a window of 10 s, slices of 1 s.
    #[test]
    fn a_failure_counts_until_its_slice_leaves_the_window() {
        for (before, wait, after, opens) in [
            (3, nanos(0), 1, true),
            (3, nanos(9_999_999_999), 1, true),
            (3, secs(10), 1, false),
            (3, secs(15), 3, false),
            (3, secs(15), 4, true),
            (3, secs(1_000_000), 1, false),
            (3, secs(86_400 * 365 * 100), 4, true),
        ] {
            let clock = Clock::manual();
            let breaker = builder(&clock).failure_rate(0.5).min_calls(4).window(secs(10)).build();
            (0..before).for_each(|_| fail(&breaker));
            clock.advance(wait);
            (0..after).for_each(|_| fail(&breaker));
            assert_eq!(breaker.state() == State::Open, opens, "{before}, {wait:?}, {after}");
        }
    }

    #[test]
    fn counts_tell_what_the_window_holds_and_nothing_of_an_earlier_time() {
        let clock = Clock::manual();
        let breaker = builder(&clock).slow_calls(secs(1), 1.0).abandoned_rate(1.0).min_calls(5).build();
        succeed(&breaker);
        fail(&breaker);
        drop(breaker.try_acquire().unwrap());
        let slow = breaker.try_acquire().unwrap();
        clock.advance(secs(1));
        slow.success();
        let counts = breaker.counts();
        assert_eq!((counts.calls, counts.failures, counts.slow, counts.abandoned), (3, 1, 1, 1));
        breaker.reset();
        assert_eq!(breaker.counts(), floodwall::CallCounts::default());
        succeed(&breaker);
        assert_eq!(breaker.counts().calls, 1);
    }

    /// Failures of many threads at once, with a success between any two of one thread.
    #[test]
    fn threads_that_count_together_lose_nothing() {
        let breaker = builder(&Clock::manual()).failure_rate(0.9).min_calls(10).build();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        succeed(&breaker);
                        fail(&breaker);
                    }
                });
            }
        });
        let counts = breaker.counts();
        assert_eq!((counts.calls, counts.failures), (80_000, 40_000));
    }
}

mod slow_calls {
    use super::*;

    /// (took, slow)
    #[test]
    fn a_call_that_took_the_time_is_slow_however_it_ended() {
        for (took, outcome, slow) in [
            (millis(999), Outcome::Success, 0),
            (secs(1), Outcome::Success, 1),
            (secs(1_000), Outcome::Success, 1),
            (secs(1), Outcome::Failure, 1),
            (secs(1), Outcome::Abandoned, 1),
            (millis(999), Outcome::Abandoned, 0),
            (secs(1), Outcome::Ignored, 0),
        ] {
            let clock = Clock::manual();
            clock.advance(secs(77_777));
            let breaker = builder(&clock).slow_calls(secs(1), 0.5).build();
            let permit = breaker.try_acquire().unwrap();
            clock.advance(took);
            permit.report(outcome);
            assert_eq!(breaker.counts().slow, slow, "{took:?} {outcome:?}");
        }
    }

    #[test]
    fn the_share_of_slow_calls_opens_it() {
        for last_calls in [None, Some(10)] {
            let clock = Clock::manual();
            let breaker = builder(&clock).slow_calls(millis(100), 0.3).min_calls(10);
            let breaker = last_calls.into_iter().fold(breaker, CircuitBreakerBuilder::last_calls).build();
            for call in 0..10 {
                assert_eq!(breaker.state(), State::Closed);
                let permit = breaker.try_acquire().unwrap();
                clock.advance(if call < 7 { millis(10) } else { millis(100) });
                permit.success();
            }
            assert_eq!(breaker.state(), State::Open);
        }
    }

    /// C13: thousands of calls hang before the first of them has timed out.
    #[test]
    fn calls_that_hang_open_it_before_any_has_ended() {
        let clock = Clock::manual();
        let breaker = builder(&clock).slow_calls(secs(1), 0.5).build();
        let mut hung = Vec::new();
        let tripped = (0..3_000).find(|_| {
            clock.advance(millis(1));
            let permit = breaker.try_acquire();
            let refused = permit.is_err();
            hung.extend(permit);
            refused
        });
        // From one second on, and at most a quarter later.
        assert!((1_000..=1_252).contains(&tripped.unwrap()), "{tripped:?}");
        hung.into_iter().for_each(Permit::failure);
        assert_eq!(breaker.state(), State::Open);
    }

    /// Quarters are 250 ms, and some nanoseconds: what has started at the end of one has not run for all of it.
    #[test]
    fn a_call_that_runs_is_not_slow_before_its_time() {
        let clock = Clock::manual();
        let breaker = builder(&clock).slow_calls(secs(1), 0.5).min_calls(2).build();
        clock.advance(millis(249));
        let _hung = [breaker.try_acquire().unwrap(), breaker.try_acquire().unwrap()];
        clock.advance(millis(751));
        succeed(&breaker);
        clock.advance(millis(249));
        succeed(&breaker);
        clock.advance(millis(2));
        assert!(breaker.try_acquire().is_err());
    }

    #[test]
    fn calls_that_hang_for_ever_do_not_open_it_again_once_it_has_closed() {
        let clock = Clock::manual();
        let breaker =
            builder(&clock).slow_calls(secs(1), 0.5).min_calls(5).open_for(secs(5)).probes(1).build();
        let hung: Vec<_> = (0..10).map(|_| breaker.try_acquire().unwrap()).collect();
        clock.advance(secs(2));
        assert!(breaker.try_acquire().is_err());
        clock.advance(secs(5));
        succeed(&breaker);
        assert_eq!(breaker.state(), State::Closed);
        for _ in 0..20 {
            clock.advance(millis(500));
            succeed(&breaker);
        }
        drop(hung);
        assert_eq!(breaker.state(), State::Closed);
        assert_eq!(breaker.counts().slow, 0);
    }

    #[test]
    fn a_few_long_calls_among_many_short_ones_do_not_open_it() {
        let clock = Clock::manual();
        let breaker = builder(&clock).slow_calls(secs(1), 0.5).build();
        let _long: Vec<_> = (0..20).map(|_| breaker.try_acquire().unwrap()).collect();
        for _ in 0..5_000 {
            clock.advance(millis(10));
            succeed(&breaker);
        }
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn a_slow_probe_has_failed() {
        let clock = Clock::manual();
        let breaker = builder(&clock).failures(1).slow_calls(secs(1), 1.0).open_for(secs(5)).build();
        fail(&breaker);
        clock.advance(secs(5));
        let probe = breaker.try_acquire().unwrap();
        clock.advance(secs(1));
        probe.success();
        assert_eq!(breaker.state(), State::Open);
    }
}

mod abandoned_calls {
    use super::*;

    /// C9: an endpoint that never answers loses every hedged pair, and is cancelled each time.
    #[test]
    fn an_endpoint_whose_calls_are_all_cancelled_opens_if_asked_to() {
        for (rate, opens) in [(Some(0.9), true), (None, false)] {
            let clock = Clock::manual();
            let dead = builder(&clock).min_calls(10);
            let dead = rate.into_iter().fold(dead, CircuitBreakerBuilder::abandoned_rate).build();
            let alive = builder(&clock).abandoned_rate(0.9).min_calls(10).build();
            for _ in 0..10 {
                let mut hangs = Box::pin(dead.call(std::future::pending::<Result<u8, ()>>));
                assert!(poll(&mut hangs).is_pending());
                let mut answers = Box::pin(alive.call(|| async { Ok::<_, ()>(1) }));
                assert!(poll(&mut answers).is_ready());
            }
            assert_eq!(dead.state() == State::Open, opens);
            assert_eq!(alive.state(), State::Closed);
        }
    }

    #[test]
    fn some_abandoned_calls_count_for_nothing() {
        for last_calls in [None, Some(100)] {
            let breaker = builder(&Clock::manual()).abandoned_rate(0.9).min_calls(10);
            let breaker = last_calls.into_iter().fold(breaker, CircuitBreakerBuilder::last_calls).build();
            (0..10).for_each(|_| succeed(&breaker));
            for _ in 0..89 {
                drop(breaker.try_acquire().unwrap());
            }
            assert_eq!(breaker.state(), State::Closed);
            drop(breaker.try_acquire().unwrap());
            assert_eq!(breaker.state(), State::Open);
        }
    }
}

mod opening {
    use super::*;

    fn throttle(breaker: &CircuitBreaker, seconds: Option<u64>) {
        let retry_after = seconds.map(secs);
        breaker.try_acquire().unwrap().report(Outcome::Throttled { retry_after });
    }

    /// (asked, told)
    #[test]
    fn a_server_that_asks_for_time_gets_it_up_to_a_cap() {
        for (asked, told) in [(None, 5), (Some(1), 5), (Some(30), 30), (Some(51), 50), (Some(u64::MAX), 50)] {
            let breaker = builder(&Clock::manual()).failures(1).open_for(secs(5)).build();
            throttle(&breaker, asked);
            assert_eq!(wait(&breaker), secs(told), "{asked:?}");
        }
        for (asked, told) in [(None, 5), (Some(1), 5), (Some(60), 60), (Some(61), 60)] {
            let breaker = builder(&Clock::manual()).open_for(secs(5)).open_when_throttled(secs(60)).build();
            throttle(&breaker, asked);
            assert_eq!(wait(&breaker), secs(told), "{asked:?}");
        }
    }

    #[test]
    fn a_throttling_opens_it_at_once_only_if_asked_to() {
        let breaker = builder(&Clock::manual()).build();
        throttle(&breaker, Some(60));
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn a_throttled_probe_is_obeyed_too() {
        let clock = Clock::manual();
        let breaker = builder(&clock).failures(1).open_for(secs(5)).build();
        fail(&breaker);
        clock.advance(secs(5));
        throttle(&breaker, Some(20));
        assert_eq!(wait(&breaker), secs(20));
    }

    #[test]
    fn the_open_time_grows_until_it_has_closed() {
        let clock = Clock::manual();
        let backoff = Exponential::new(secs(5)).max(secs(15)).jitter(Jitter::None).attempts(1);
        let breaker = builder(&clock).failures(1).probes(1).open_backoff(backoff).build();
        for expected in [5, 10, 15, 15] {
            fail(&breaker);
            assert_eq!(wait(&breaker), secs(expected));
            clock.advance(secs(expected));
        }
        succeed(&breaker);
        fail(&breaker);
        assert_eq!(wait(&breaker), secs(5));
    }

    #[test]
    fn the_open_time_is_drawn_anew_each_time() {
        let clock = Clock::manual();
        let backoff = Exponential::new(secs(8)).max(secs(8)).jitter(Jitter::Equal);
        let breaker = builder(&clock).failures(1).open_backoff(backoff).build();
        let mut waits: Vec<_> = (0..50)
            .map(|_| {
                fail(&breaker);
                let wait = wait(&breaker);
                clock.advance(wait);
                wait
            })
            .collect();
        assert!(waits.iter().all(|wait| (secs(4)..=secs(8)).contains(wait)));
        waits.dedup();
        assert!(waits.len() > 40);
    }

    /// C16, for the other code of the user's: it asks the breaker, which deadlocks under its lock.
    #[test]
    fn a_backoff_of_the_users_runs_outside_the_lock_and_may_end_it_all() {
        let clock = Clock::manual();
        let shared: Arc<std::sync::OnceLock<CircuitBreaker>> = Arc::default();
        let handle = shared.clone();
        let backoff = Backoff::from_fn(move |trips| {
            assert!(handle.get().is_some_and(|breaker| breaker.state() != State::Open));
            if trips < 3 { Some(secs(trips.into())) } else { None }
        });
        let breaker = builder(&clock).failures(1).open_backoff(backoff).build();
        let breaker = shared.get_or_init(|| breaker);
        for expected in [1, 2] {
            fail(breaker);
            assert_eq!(wait(breaker), secs(expected));
            clock.advance(secs(expected));
        }
        fail(breaker);
        clock.advance(secs(86_400 * 365));
        assert_eq!(breaker.state(), State::Open);
        breaker.reset();
        succeed(breaker);
    }

    /// C14: nobody calls, and yet the state is told as a call would meet it.
    #[test]
    fn the_state_is_true_without_traffic() {
        let clock = Clock::manual();
        let breaker = builder(&clock).failures(1).open_for(secs(5)).build();
        fail(&breaker);
        clock.advance(secs(5) - nanos(1));
        assert_eq!(breaker.state(), State::Open);
        clock.advance(nanos(1));
        assert_eq!(breaker.state(), State::HalfOpen);
    }

    /// C8: times of any size.
    #[test]
    fn the_longest_times_overflow_nowhere() {
        let clock = Clock::manual();
        clock.advance(secs(1_000_000_000));
        let breaker = builder(&clock)
            .failures(1)
            .window(Duration::MAX)
            .slow_calls(Duration::MAX, 1.0)
            .abandoned_rate(1.0)
            .open_for(Duration::MAX)
            .open_when_throttled(Duration::MAX)
            .open_backoff(Exponential::new(Duration::MAX).max(Duration::MAX))
            .build();
        drop(breaker.try_acquire().unwrap());
        breaker.try_acquire().unwrap().report(Outcome::Throttled { retry_after: Some(Duration::MAX) });
        assert_eq!(breaker.state(), State::Open);
        assert!(breaker.try_acquire().is_err());
        assert!(matches!(breaker.residual(), Some(Residual::Until(_))));
    }
}

mod recovery {
    use super::*;

    fn recovering(clock: &Clock, builder: CircuitBreakerBuilder) -> Arc<CircuitBreaker> {
        let breaker = builder.failures(5).failure_rate(0.5).open_for(secs(5)).clock(clock.clone()).build();
        (0..5).for_each(|_| fail(&breaker));
        assert_eq!(breaker.state(), State::Open);
        clock.advance(secs(5));
        Arc::new(breaker)
    }

    /// (probes, rate, failed probes that it bears)
    #[test]
    fn a_share_of_the_probes_may_fail() {
        for (probes, rate, bears) in [(10, 0.5, 4), (10, 0.51, 5), (4, 0.25, 0), (4, 0.26, 1), (3, 1.0, 2)] {
            for failing in [bears, bears + 1] {
                let clock = Clock::manual();
                let breaker =
                    recovering(&clock, CircuitBreaker::builder().probes(probes).probe_failure_rate(rate));
                (0..probes).for_each(|probe| {
                    if let Ok(permit) = breaker.try_acquire() {
                        if probe < failing { permit.failure() } else { permit.success() }
                    }
                });
                let expected = if failing == bears { State::Closed } else { State::Open };
                assert_eq!(breaker.state(), expected, "{failing} of {probes} at {rate}");
            }
        }
    }

    #[test]
    fn it_ramps_up_by_what_succeeds() {
        let clock = Clock::manual();
        let breaker = recovering(&clock, CircuitBreaker::builder().probes(3).ramp_up(48));
        let mut rounds = Vec::new();
        while breaker.state() == State::HalfOpen {
            let permits: Vec<_> =
                std::iter::from_fn(|| OwnedPermit::try_acquire(breaker.clone()).ok()).take(1_000).collect();
            assert!(wait_is_told(&breaker));
            rounds.push(permits.len());
            permits.into_iter().for_each(OwnedPermit::success);
        }
        assert_eq!(rounds, [3, 3, 6, 12, 24]);
        assert_eq!(breaker.state(), State::Closed);
    }

    fn wait_is_told(breaker: &CircuitBreaker) -> bool {
        wait(breaker) > Duration::ZERO
    }

    #[test]
    fn a_failure_while_it_ramps_up_is_weighed_as_when_it_is_closed() {
        let clock = Clock::manual();
        let breaker = recovering(&clock, CircuitBreaker::builder().probes(2).ramp_up(100));
        (0..10).for_each(|_| succeed(&breaker));
        (0..4).for_each(|_| fail(&breaker));
        assert_eq!(breaker.state(), State::HalfOpen);
        fail(&breaker);
        assert_eq!(breaker.state(), State::Open, "five in a row");
    }

    #[test]
    fn calls_that_hang_while_it_ramps_up_do_not_wedge_it() {
        let clock = Clock::manual();
        let breaker = recovering(&clock, CircuitBreaker::builder().probes(2).ramp_up(10));
        (0..2).for_each(|_| succeed(&breaker));
        let hung: Vec<_> = (0..2).map(|_| breaker.try_acquire().unwrap()).collect();
        assert!(wait_is_told(&breaker));
        clock.advance(secs(5));
        (0..8).for_each(|_| succeed(&breaker));
        assert_eq!(breaker.state(), State::Closed);
        drop(hung);
    }

    /// C11: a dependency comes back with cold caches and can do twice as many calls at once as it has done in the last
    /// step; five hundred callers are waiting.
    #[test]
    fn there_is_no_rush_on_a_dependency_that_has_just_come_back() {
        for (ramp_up, holds) in [(400, true), (0, false)] {
            let clock = Clock::manual();
            let breaker = recovering(&clock, CircuitBreaker::builder().probes(4).ramp_up(ramp_up));
            let (mut can_do, mut steps, mut failures) = (8, 0, 0);
            while can_do < 500 && steps < 20 {
                let running: Vec<_> =
                    std::iter::from_fn(|| OwnedPermit::try_acquire(breaker.clone()).ok()).take(500).collect();
                steps += 1;
                let (done, works) = (running.len(), can_do);
                failures += done.saturating_sub(works);
                for (number, permit) in running.into_iter().enumerate() {
                    if number < works { permit.success() } else { permit.failure() }
                }
                can_do = can_do.max(2 * done.min(works));
                clock.advance(millis(100));
            }
            assert_eq!(failures == 0, holds, "{failures} calls too many");
            if holds {
                assert!(steps <= 9, "{steps} steps until all are served");
                assert_eq!(breaker.state(), State::Closed);
            }
        }
    }

    /// Between its failure and its opening the user's backoff runs, and others may come and go.
    #[test]
    fn a_trial_that_is_lost_admits_nobody_and_cannot_be_won() {
        let clock = Clock::manual();
        let shared: Arc<std::sync::OnceLock<Arc<CircuitBreaker>>> = Arc::default();
        let held: Arc<Mutex<Vec<OwnedPermit>>> = Arc::default();
        let (handle, probes, time) = (shared.clone(), held.clone(), clock.clone());
        let backoff = Backoff::from_fn(move |trips| {
            let breaker = handle.get()?;
            if trips == 2 {
                probes.lock().unwrap().drain(..).for_each(OwnedPermit::success);
                assert_eq!(breaker.state(), State::HalfOpen);
                time.advance(secs(60));
                assert!(wait_is_told(breaker));
            }
            Some(secs(5))
        });
        let described = builder(&clock).failures(1).open_for(secs(5)).probe_failure_rate(0.25);
        let breaker = Arc::new(described.probes(3).open_backoff(backoff).build());
        assert!(shared.set(breaker.clone()).is_ok());
        fail(&breaker);
        clock.advance(secs(5));
        let failing = breaker.try_acquire().unwrap();
        held.lock().unwrap().extend((0..2).map(|_| OwnedPermit::try_acquire(breaker.clone()).unwrap()));
        failing.failure();
        assert!(held.lock().unwrap().is_empty(), "the backoff was asked");
        clock.advance(secs(5));
        assert_eq!(breaker.state(), State::HalfOpen);
        (0..3).for_each(|_| succeed(&breaker));
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn a_late_failure_of_a_probe_does_not_open_it_twice() {
        let clock = Clock::manual();
        let changes = Arc::new(Mutex::new(0));
        let told = changes.clone();
        let observed = CircuitBreaker::builder().probes(3).observe("db", move |_: &str, event| {
            *told.lock().unwrap() += u32::from(matches!(event, Event::StateChanged { .. }));
        });
        let breaker = recovering(&clock, observed);
        let probes: Vec<_> = (0..3).map(|_| breaker.try_acquire().unwrap()).collect();
        probes.into_iter().for_each(Permit::failure);
        assert_eq!(*changes.lock().unwrap(), 3);
        assert_eq!(wait(&breaker), secs(5));
    }
}

mod by_hand {
    use super::*;

    #[test]
    fn forced_open_it_rejects_whatever_comes_and_comes_out_as_new() {
        let clock = Clock::manual();
        let breaker = builder(&clock).failures(2).open_for(secs(5)).build();
        fail(&breaker);
        let running = breaker.try_acquire().unwrap();
        breaker.set_mode(BreakerMode::ForcedOpen);
        clock.advance(secs(60));
        let rejected = breaker.try_acquire().unwrap_err();
        assert_eq!((rejected.reason(), rejected.retry_after()), (Reason::CircuitOpen, Some(secs(5))));
        assert_eq!((breaker.state(), breaker.mode()), (State::Open, BreakerMode::ForcedOpen));
        assert_eq!(breaker.residual(), Some(Residual::InUse));
        breaker.set_mode(BreakerMode::Automatic);
        running.failure();
        fail(&breaker);
        assert_eq!(breaker.state(), State::Closed);
        fail(&breaker);
        assert_eq!(breaker.state(), State::Open);
    }

    #[test]
    fn disabled_it_admits_whatever_comes_and_counts_nothing() {
        let clock = Clock::manual();
        let breaker = builder(&clock).failures(2).build();
        (0..2).for_each(|_| fail(&breaker));
        breaker.set_mode(BreakerMode::Disabled);
        (0..10).for_each(|_| fail(&breaker));
        let running = breaker.try_acquire().unwrap();
        assert_eq!(breaker.state(), State::Closed);
        breaker.set_mode(BreakerMode::Automatic);
        fail(&breaker);
        running.failure();
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn metrics_only_it_decides_and_tells_but_admits() {
        let clock = Clock::manual();
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        let breaker = builder(&clock).failures(2).open_for(secs(5)).probes(1);
        let breaker = breaker
            .observe("db", move |_: &str, event| {
                if let Event::StateChanged { to, .. } = event {
                    log.lock().unwrap().push(to);
                }
            })
            .build();
        breaker.set_mode(BreakerMode::MetricsOnly);
        (0..10).for_each(|_| fail(&breaker));
        assert_eq!(breaker.state(), State::Open);
        clock.advance(secs(5));
        let (probe, more) = (breaker.try_acquire().unwrap(), breaker.try_acquire().unwrap());
        more.failure();
        assert_eq!(breaker.state(), State::HalfOpen);
        probe.success();
        assert_eq!(breaker.state(), State::Closed);
        assert_eq!(*told.lock().unwrap(), [State::Open, State::HalfOpen, State::Closed]);
    }

    #[test]
    fn a_mode_tells_its_change_of_state_once() {
        let changes = Arc::new(Mutex::new(Vec::new()));
        let log = changes.clone();
        let breaker = builder(&Clock::manual()).observe("db", move |_: &str, event| {
            if let Event::StateChanged { from, to } = event {
                log.lock().unwrap().push((from, to));
            }
        });
        let breaker = breaker.build();
        for mode in [
            BreakerMode::ForcedOpen,
            BreakerMode::ForcedOpen,
            BreakerMode::Disabled,
            BreakerMode::Automatic,
            BreakerMode::MetricsOnly,
        ] {
            breaker.set_mode(mode);
        }
        breaker.reset();
        let expected = [(State::Closed, State::Open), (State::Open, State::Closed)];
        assert_eq!(*changes.lock().unwrap(), expected);
    }

    #[test]
    fn reset_closes_it_and_forgets() {
        let clock = Clock::manual();
        let breaker = builder(&clock).failures(2).open_for(Duration::MAX).build();
        let running: Vec<_> = (0..4).map(|_| breaker.try_acquire().unwrap()).collect();
        (0..2).for_each(|_| fail(&breaker));
        breaker.reset();
        assert_eq!(breaker.state(), State::Closed);
        running.into_iter().for_each(Permit::failure);
        fail(&breaker);
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn thresholds_change_under_way_and_what_was_counted_stays() {
        let clock = Clock::manual();
        let breaker = builder(&clock).failures(10).failure_rate(0.9).min_calls(4).build();
        (0..3).for_each(|_| fail(&breaker));
        let mut thresholds = breaker.thresholds();
        assert_eq!((thresholds.failures, thresholds.failure_rate), (Some(10), Some(0.9)));
        (thresholds.failures, thresholds.open_for, thresholds.probes) = (Some(4), secs(60), 1);
        breaker.set_thresholds(thresholds).unwrap();
        fail(&breaker);
        assert_eq!(wait(&breaker), secs(60));
        clock.advance(secs(60));
        succeed(&breaker);
        assert_eq!(breaker.state(), State::Closed);
        (thresholds.failures, thresholds.failure_rate) = (None, Some(0.25));
        breaker.set_thresholds(thresholds).unwrap();
        (0..3).for_each(|_| succeed(&breaker));
        fail(&breaker);
        assert_eq!(breaker.state(), State::Open);
    }

    #[test]
    fn thresholds_that_make_no_sense_are_named_and_change_nothing() {
        let breaker = builder(&Clock::manual()).failures(3).build();
        let good = breaker.thresholds();
        let bad = |change: fn(&mut floodwall::BreakerThresholds)| {
            let mut thresholds = good;
            change(&mut thresholds);
            breaker.set_thresholds(thresholds).unwrap_err().to_string()
        };
        assert_eq!(bad(|t| t.failures = Some(0)), "failures: 0 must be at least 1");
        assert_eq!(bad(|t| t.probes = 0), "probes: 0 must be at least 1");
        assert_eq!(bad(|t| t.open_for = Duration::ZERO), "open_for: 0 ns must be at least 1 ns");
        assert_eq!(bad(|t| t.failure_rate = Some(1.5)), "failure_rate: 1.5 must be above 0 and at most 1");
        assert_eq!(
            bad(|t| t.failure_rate = Some(0.5)),
            "failure_rate: 0.5 needs a breaker that was built with one"
        );
        assert_eq!(bad(|t| t.slow_rate = Some(f64::NAN)), "slow_rate: NaN must be above 0 and at most 1");
        assert_eq!(breaker.thresholds(), good);
    }
}

mod by_key {
    use super::*;

    #[test]
    fn a_closed_breaker_asks_to_be_remembered_for_a_window_after_a_failure() {
        let clock = Clock::manual();
        let breaker = builder(&clock).failures(3).window(secs(10)).build();
        succeed(&breaker);
        assert_eq!(breaker.residual(), None);
        clock.advance(secs(1));
        fail(&breaker);
        let until = clock.now() + secs(11);
        assert_eq!(breaker.residual(), Some(Residual::Until(until)));
        // Not each failure is written down; the tenth more covers those that are not.
        clock.advance(secs(1));
        fail(&breaker);
        assert_eq!(breaker.residual(), Some(Residual::Until(until)));
        clock.advance(secs(10));
        assert_eq!(breaker.residual(), None);
    }

    /// C15: a map of breakers that only grows.
    #[test]
    fn a_hundred_thousand_hosts_fit_into_the_room_for_a_thousand() {
        let clock = Clock::manual();
        let time = clock.clone();
        let hosts = Keyed::new(move |_: &u32| builder(&time).failures(1).open_for(secs(5)).build());
        let hosts = hosts.max_keys(1_000).clock(clock.clone());
        for host in 0..100_000 {
            hosts.try_acquire(&host).unwrap().success();
        }
        assert!(hosts.len() <= 1_000);
        // Open ones are not forgotten: what finds no room is refused until their time is over.
        let open =
            (0..5_000).filter(|host| hosts.try_acquire(host).map(OwnedPermit::failure).is_ok()).count();
        assert!((500..=1_000).contains(&open), "{open}");
        assert_eq!(
            (0..5_000).filter(|host| hosts.get(host).is_ok_and(|b| b.state() == State::Open)).count(),
            open
        );
        clock.advance(secs(10));
        assert!(hosts.try_acquire(&1_000_000).is_ok());
        assert!(hosts.len() <= 1_000);
    }

    /// Most breakers are made for a host each: a bound on what they take, with the heap that follows.
    #[test]
    fn a_breaker_is_small() {
        let size = size_of::<CircuitBreaker>();
        println!("a breaker: {size} bytes");
        assert!(size <= 288, "{size} bytes");
    }
}

mod absurd_settings {
    use super::*;

    #[test]
    fn each_is_named_with_what_it_must_be() {
        type Set = fn(CircuitBreakerBuilder) -> CircuitBreakerBuilder;
        let cases: [(Set, &str); 8] = [
            (|b| b.slow_calls(Duration::ZERO, 0.5), "slow_calls: 0 ns must be at least 1 ns"),
            (|b| b.slow_calls(secs(1), 0.0), "slow_rate: 0 must be above 0 and at most 1"),
            (|b| b.abandoned_rate(1.5), "abandoned_rate: 1.5 must be above 0 and at most 1"),
            (|b| b.last_calls(0), "last_calls: 0 must be at least 1"),
            (|b| b.last_calls(65_537), "last_calls: 65537 must be at most 65536"),
            (|b| b.probe_failure_rate(-1.0), "probe_failure_rate: -1 must be above 0 and at most 1"),
            (|b| b.open_when_throttled(Duration::ZERO), "open_when_throttled: 0 ns must be at least 1 ns"),
            (|b| b.failure_rate(2.0), "failure_rate: 2 must be above 0 and at most 1"),
        ];
        for (set, message) in cases {
            let panic = std::panic::catch_unwind(|| set(CircuitBreaker::builder())).unwrap_err();
            let said = panic.downcast_ref::<String>().map(String::as_str);
            assert_eq!(said, Some(message));
        }
    }
}

#[test]
fn a_call_whose_time_is_over_takes_no_probe_and_is_told_so_only_then() {
    let clock = Clock::manual();
    let breaker = builder(&clock).failures(1).open_for(secs(5)).build();
    fail(&breaker);
    let late = Call::new().deadline(clock.now());
    assert_eq!(breaker.try_acquire_for(late).unwrap_err().reason(), Reason::CircuitOpen);
    clock.advance(secs(5));
    assert_eq!(breaker.try_acquire_for(late).unwrap_err().reason(), Reason::DeadlineExceeded);
}

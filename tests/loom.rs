//! Models of what threads share, in every order that three preemptions allow:
//! `RUSTFLAGS="--cfg floodwall_loom" cargo test --test loom --release`.
//!
//! loom fails a model on a deadlock, so "it is woken" is proved by the model's end. Clocks move while threads run: with
//! a clock that stands still, a time that was read too early is never caught.
#![cfg(floodwall_loom)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use floodwall::{
    Acquire, AdaptiveConcurrency, AdaptiveRate, AdaptiveThrottle, Blocking, Bulkhead, Call, Carry,
    CircuitBreaker, Clock, Constant, Event, Failover, FixedWindow, Gate, Hedge, Keyed, LoadShed, Outcome,
    OwnedPermit, Policy, Retry, RetryBudget, SingleFlight, SlidingCounter, State, TokenBucket, block_on,
};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

fn model(check: impl Fn() + Send + Sync + 'static) {
    model_of(3, check);
}

/// For models whose steps are too many for three preemptions.
fn model_of(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(check);
}

fn poll<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn waiting(
    bulkhead: &Arc<Bulkhead>,
) -> Pin<Box<impl Future<Output = Result<OwnedPermit, floodwall::Rejected>>>> {
    let mut waiter = Box::pin(OwnedPermit::acquire(bulkhead.clone()));
    assert!(poll(&mut waiter).is_pending());
    waiter
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn no_wake_up_is_lost() {
    model(|| {
        let bulkhead = Arc::new(Bulkhead::new(1));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let bulkhead = bulkhead.clone();
                thread::spawn(move || bulkhead.acquire_blocking().unwrap().success())
            })
            .collect();
        bulkhead.acquire_blocking().unwrap().success();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
    });
}

#[test]
fn a_cancelled_waiter_passes_its_grant_on() {
    model(|| {
        let bulkhead = Arc::new(Bulkhead::new(1));
        let permit = OwnedPermit::try_acquire(bulkhead.clone()).unwrap();
        let cancelled = waiting(&bulkhead);
        let releases = thread::spawn(move || permit.success());
        let next = {
            let bulkhead = bulkhead.clone();
            thread::spawn(move || bulkhead.acquire_blocking().unwrap().success())
        };
        drop(cancelled);
        releases.join().unwrap();
        next.join().unwrap();
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
    });
}

#[test]
fn a_timeout_that_races_a_grant_loses_nothing() {
    model(|| {
        let clock = Clock::manual();
        let bulkhead = Arc::new(Bulkhead::new(1).clock(clock.clone()));
        let permit = OwnedPermit::try_acquire(bulkhead.clone()).unwrap();
        let releases = thread::spawn(move || permit.success());
        let call = Call::new().deadline(clock.now() + SECOND);
        let moves = thread::spawn(move || clock.advance(SECOND));
        if let Ok(permit) = bulkhead.acquire_blocking_for(call) {
            assert_eq!(bulkhead.running(), 1);
            permit.success();
        }
        releases.join().unwrap();
        moves.join().unwrap();
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
        assert!(bulkhead.try_acquire().is_ok());
    });
}

#[test]
fn two_releases_before_the_first_waiter_runs_wake_two() {
    model(|| {
        let bulkhead = Arc::new(Bulkhead::new(2));
        let permits: Vec<_> = (0..2).map(|_| OwnedPermit::try_acquire(bulkhead.clone()).unwrap()).collect();
        let waiters: Vec<_> = (0..2).map(|_| waiting(&bulkhead)).collect();
        let releases: Vec<_> =
            permits.into_iter().map(|permit| thread::spawn(move || permit.success())).collect();
        // Each must be served without the other one having run.
        for waiter in waiters.into_iter().rev() {
            block_on(waiter).unwrap().success();
        }
        releases.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
    });
}

/// Two places appear by a resize while one is given back and a waiter gives up: all who wait are served.
#[test]
fn a_resize_that_races_a_release_and_a_cancel_serves_who_waits() {
    model(|| {
        let bulkhead = Arc::new(Bulkhead::new(1));
        let permit = OwnedPermit::try_acquire(bulkhead.clone()).unwrap();
        let (cancelled, waiter) = (waiting(&bulkhead), waiting(&bulkhead));
        let releases = thread::spawn(move || permit.success());
        let grows = {
            let bulkhead = bulkhead.clone();
            thread::spawn(move || bulkhead.set_max(2).unwrap())
        };
        drop(cancelled);
        block_on(waiter).unwrap().success();
        releases.join().unwrap();
        grows.join().unwrap();
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
    });
}

/// Who joins the line while the bulkhead grows either sees the new place or is seen.
#[test]
fn a_bulkhead_that_grows_wakes_who_joins_meanwhile() {
    model(|| {
        let bulkhead = Arc::new(Bulkhead::new(1));
        let held = bulkhead.try_acquire().unwrap();
        let waits = {
            let bulkhead = bulkhead.clone();
            thread::spawn(move || bulkhead.acquire_blocking().unwrap().success())
        };
        bulkhead.set_max(2).unwrap();
        waits.join().unwrap();
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (1, 0));
        held.success();
    });
}

/// The lock-free way in, beside a line that forms and dissolves: nobody is lost, and nobody is too many.
#[test]
fn newcomers_and_waiters_share_the_places_of_a_bulkhead() {
    model(|| {
        let bulkhead = Arc::new(Bulkhead::new(1));
        let inside = Arc::new(AtomicU64::new(0));
        let enter = |permit: Result<floodwall::Permit<'_>, _>, inside: &AtomicU64| {
            if let Ok(permit) = permit {
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                inside.fetch_sub(1, Ordering::SeqCst);
                permit.success();
                return true;
            }
            false
        };
        let newcomer = {
            let (bulkhead, inside) = (bulkhead.clone(), inside.clone());
            thread::spawn(move || enter(bulkhead.try_acquire(), &inside))
        };
        let waits = {
            let (bulkhead, inside) = (bulkhead.clone(), inside.clone());
            thread::spawn(move || enter(bulkhead.acquire_blocking(), &inside))
        };
        enter(bulkhead.try_acquire(), &inside);
        newcomer.join().unwrap();
        assert!(waits.join().unwrap());
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
        assert_eq!(bulkhead.residual(), None);
    });
}

#[test]
fn no_more_run_than_a_bulkhead_allows() {
    model(|| {
        let bulkhead = Arc::new(Bulkhead::new(1));
        let running = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (bulkhead, running) = (bulkhead.clone(), running.clone());
                thread::spawn(move || {
                    if let Ok(permit) = bulkhead.try_acquire() {
                        assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                        running.fetch_sub(1, Ordering::SeqCst);
                        permit.success();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(bulkhead.running(), 0);
    });
}

#[test]
fn a_sleeper_is_woken_by_a_clock_that_moves_while_it_lies_down() {
    model(|| {
        let clock = Clock::manual();
        let at = clock.now() + SECOND;
        let moves = {
            let clock = clock.clone();
            thread::spawn(move || clock.advance(SECOND))
        };
        block_on(clock.sleep_until(at));
        moves.join().unwrap();
    });
}

/// Returns how many calls `gate` admits of two on each of two threads, while the clock moves by each of `moves`.
fn admitted_while_the_clock_moves(gate: impl Gate + 'static, clock: &Clock, moves: &[Duration]) -> u64 {
    let (gate, admitted) = (Arc::new(gate), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (gate, admitted) = (gate.clone(), admitted.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    if gate.try_acquire().is_ok() {
                        admitted.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    moves.iter().for_each(|by| clock.advance(*by));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    admitted.load(Ordering::SeqCst)
}

/// Trap R1.
#[test]
fn a_bucket_admits_no_more_than_has_flowed_in_while_the_clock_moves() {
    model(|| {
        let clock = Clock::manual();
        let bucket = TokenBucket::per_second(1).burst(1).clock(clock.clone());
        let admitted = admitted_while_the_clock_moves(bucket, &clock, &[SECOND]);
        assert!((1..=2).contains(&admitted), "{admitted} of 1 and 1");
    });
}

/// Trap R16. What flows in while threads ask is there for each of them: with two words, a thread that had moved the time
/// and not yet the count would hide it.
#[test]
fn a_thread_that_is_stopped_halfway_hides_no_tokens() {
    model(|| {
        let clock = Clock::manual();
        let bucket = Arc::new(TokenBucket::per_second(1).burst(2).clock(clock.clone()));
        assert!(bucket.try_acquire_for(Call::new().cost(2)).is_ok());
        clock.advance(2 * SECOND);
        let other = {
            let bucket = bucket.clone();
            thread::spawn(move || bucket.try_acquire().is_ok())
        };
        assert!(bucket.try_acquire().is_ok());
        assert!(other.join().unwrap());
        assert!(bucket.try_acquire().is_err());
    });
}

#[test]
fn a_fixed_window_admits_its_quota_once_while_the_clock_moves() {
    model(|| {
        let clock = Clock::manual();
        let window = FixedWindow::per_second(1).clock(clock.clone());
        let admitted = admitted_while_the_clock_moves(window, &clock, &[SECOND]);
        assert!((1..=2).contains(&admitted), "{admitted} of 1 and 1");
    });
}

#[test]
fn a_window_from_first_use_starts_once_while_the_clock_moves() {
    model(|| {
        let clock = Clock::manual();
        let window = FixedWindow::per_second(1).from_first_use().clock(clock.clone());
        let admitted = admitted_while_the_clock_moves(window, &clock, &[SECOND]);
        assert!((1..=2).contains(&admitted), "{admitted} of 1 and 1");
    });
}

/// At the start of a window all that the one before admitted counts: a call that a late thread still adds to it after
/// another has weighed it would be one too many.
#[test]
fn a_counter_weighs_the_window_before_as_it_ended() {
    for taken_before in [0, 1] {
        model(move || {
            let clock = Clock::manual();
            let counter = SlidingCounter::per_second(2).clock(clock.clone());
            if taken_before == 1 {
                counter.try_acquire().unwrap().success();
            }
            let admitted = taken_before + admitted_while_the_clock_moves(counter, &clock, &[SECOND]);
            assert_eq!(admitted, 2);
        });
    }
}

/// Trap R1.
#[test]
fn a_counter_admits_what_its_formula_allows_while_windows_pass() {
    model(|| {
        let clock = Clock::manual();
        let counter = SlidingCounter::per_second(1).clock(clock.clone());
        // One window counts until the second one after it; the windows are 0, 1 and 2.
        let admitted = admitted_while_the_clock_moves(counter, &clock, &[SECOND, SECOND]);
        assert!((1..=2).contains(&admitted), "{admitted} of 1, 0 and 1");
    });
}

/// Trap R7.
#[test]
fn a_bucket_gives_cancelled_tokens_back_once() {
    model(|| {
        let clock = Clock::manual();
        let bucket = Arc::new(TokenBucket::per_second(1).burst(2).clock(clock));
        assert!(bucket.try_acquire_for(Call::new().cost(2)).is_ok());
        let mut waiter = Box::pin(OwnedPermit::acquire(bucket.clone()));
        assert!(poll(&mut waiter).is_pending());
        let other = {
            let bucket = bucket.clone();
            thread::spawn(move || assert!(bucket.try_acquire().is_err()))
        };
        drop(waiter);
        other.join().unwrap();
        assert_eq!(bucket.try_acquire().unwrap_err().retry_after(), Some(SECOND));
    });
}

/// Trap R12.
#[test]
fn a_rate_that_changes_while_threads_take_loses_and_mints_nothing() {
    model(|| {
        let clock = Clock::manual();
        let bucket = Arc::new(TokenBucket::per_second(4).burst(2).clock(clock));
        let admitted = Arc::new(AtomicU64::new(0));
        let takes = {
            let (bucket, admitted) = (bucket.clone(), admitted.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    if bucket.try_acquire().is_ok() {
                        admitted.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        };
        bucket.set_rate(3, SECOND, 2, Carry::AsIs).unwrap();
        takes.join().unwrap();
        assert_eq!(admitted.load(Ordering::SeqCst), 2);
        assert_eq!(bucket.available(), 0);
        // Nobody gave out more than there was: the next token is a whole one away.
        let wait = bucket.try_acquire().unwrap_err().retry_after().unwrap();
        assert!(wait >= SECOND / 3 && wait <= SECOND / 3 + Duration::from_nanos(4), "{wait:?}");
    });
}

#[test]
fn a_pause_holds_back_a_thread_that_takes_and_gives_back_meanwhile() {
    model(|| {
        let clock = Clock::manual();
        let bucket = Arc::new(TokenBucket::per_second(4).burst(2).clock(clock.clone()));
        let takes = {
            let bucket = bucket.clone();
            thread::spawn(move || match bucket.try_acquire() {
                Ok(mut permit) => permit.settle(0),
                Err(rejected) => assert_eq!(rejected.retry_after(), Some(SECOND)),
            })
        };
        bucket.pause_until(clock.now() + SECOND);
        assert_eq!(bucket.try_acquire().unwrap_err().retry_after(), Some(SECOND));
        takes.join().unwrap();
        assert_eq!(bucket.try_acquire().unwrap_err().retry_after(), Some(SECOND));
        clock.advance(SECOND);
        assert!(bucket.try_acquire().is_ok() && bucket.try_acquire().is_err());
    });
}

/// Trap R7.
#[test]
fn a_waiter_that_leaves_wakes_the_next_while_the_clock_moves() {
    model(|| {
        let clock = Clock::manual();
        let bucket = Arc::new(TokenBucket::per_second(1).clock(clock.clone()));
        assert!(bucket.try_acquire().is_ok());
        let mut first = Box::pin(OwnedPermit::acquire(bucket.clone()));
        assert!(poll(&mut first).is_pending());
        let second = {
            let bucket = bucket.clone();
            thread::spawn(move || bucket.acquire_blocking().unwrap().success())
        };
        clock.advance(SECOND);
        drop(first);
        // The second joined before the first one left, or after: its time is one second or two.
        clock.advance(SECOND);
        second.join().unwrap();
        assert_eq!(bucket.waiting(), 0);
    });
}

#[test]
fn a_half_open_breaker_admits_its_probes_and_tells_one_transition() {
    model(|| {
        let clock = Clock::manual();
        let changes = Arc::new(AtomicU64::new(0));
        let told = changes.clone();
        let breaker = CircuitBreaker::builder().failures(1).open_for(SECOND).probes(1).clock(clock.clone());
        let breaker = Arc::new(
            breaker
                .observe("db", move |_: &str, event| {
                    if let Event::StateChanged { to: State::HalfOpen, .. } = event {
                        told.fetch_add(1, Ordering::SeqCst);
                    }
                })
                .build(),
        );
        breaker.try_acquire().unwrap().failure();
        clock.advance(SECOND);
        let probes = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (breaker, probes) = (breaker.clone(), probes.clone());
                thread::spawn(move || {
                    if let Ok(permit) = breaker.try_acquire() {
                        probes.fetch_add(1, Ordering::SeqCst);
                        std::mem::forget(permit);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(probes.load(Ordering::SeqCst), 1);
        assert_eq!(changes.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_late_result_that_races_a_transition_is_counted_in_one_generation_at_most() {
    model(|| {
        let breaker = Arc::new(CircuitBreaker::builder().failures(2).clock(Clock::manual()).build());
        let permits: Vec<_> = (0..3).map(|_| OwnedPermit::try_acquire(breaker.clone()).unwrap()).collect();
        let threads: Vec<_> =
            permits.into_iter().map(|permit| thread::spawn(move || permit.failure())).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(breaker.state(), State::Open);
    });
}

/// Two of four calls failed: one that is lost, a success or a failure, keeps it closed. In a model the first collision gives
/// each thread a line of its own.
#[test]
fn a_window_loses_no_count_when_threads_meet_in_a_new_slice_while_the_clock_moves() {
    model(|| {
        let clock = Clock::manual();
        let breaker = CircuitBreaker::builder().failure_rate(0.5).min_calls(4).window(3 * SECOND);
        let breaker = Arc::new(breaker.clock(clock.clone()).build());
        let succeeds = {
            let breaker = breaker.clone();
            thread::spawn(move || breaker.try_acquire().unwrap().success())
        };
        let fails = {
            let breaker = breaker.clone();
            thread::spawn(move || {
                breaker.try_acquire().unwrap().success();
                breaker.try_acquire().unwrap().failure();
            })
        };
        clock.advance(SECOND);
        succeeds.join().unwrap();
        fails.join().unwrap();
        assert_eq!(breaker.state(), State::Closed);
        breaker.try_acquire().unwrap().failure();
        assert_eq!(breaker.state(), State::Open);
    });
}

/// Returns an observer that counts how often a breaker opened.
fn counts_openings() -> (impl Fn(&str, Event) + Send + Sync + 'static, Arc<AtomicU64>) {
    let opened = Arc::new(AtomicU64::new(0));
    let told = opened.clone();
    let observer = move |_: &str, event: Event| {
        if let Event::StateChanged { to: State::Open, .. } = event {
            told.fetch_add(1, Ordering::SeqCst);
        }
    };
    (observer, opened)
}

#[test]
fn of_failures_that_race_the_last_opens_it_and_one_tells() {
    for last_calls in [false, true] {
        model_of(1, move || {
            let (observer, opened) = counts_openings();
            let mut breaker = CircuitBreaker::builder().failure_rate(1.0).min_calls(2).clock(Clock::manual());
            if last_calls {
                breaker = breaker.last_calls(2);
            }
            let breaker = Arc::new(breaker.observe("db", observer).build());
            let permits: Vec<_> =
                (0..3).map(|_| OwnedPermit::try_acquire(breaker.clone()).unwrap()).collect();
            let threads: Vec<_> =
                permits.into_iter().map(|permit| thread::spawn(move || permit.failure())).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(breaker.state(), State::Open);
            assert_eq!(opened.load(Ordering::SeqCst), 1);
        });
    }
}

/// Each looks at what the other has counted in another word: without a fence between the two, both may look too early.
#[test]
fn of_failures_that_race_in_two_slices_one_sees_both() {
    model_of(2, || {
        let clock = Clock::manual();
        let breaker = CircuitBreaker::builder().failure_rate(1.0).min_calls(2).window(3 * SECOND);
        let breaker = Arc::new(breaker.clock(clock.clone()).build());
        let other = {
            let permit = OwnedPermit::try_acquire(breaker.clone()).unwrap();
            thread::spawn(move || permit.failure())
        };
        let permit = breaker.try_acquire().unwrap();
        clock.advance(SECOND);
        permit.failure();
        other.join().unwrap();
        assert_eq!(breaker.state(), State::Open);
    });
}

/// C4: as many probes as there are, from however many threads; and when they fail together it opens once.
#[test]
fn racing_probes_are_no_more_than_allowed_and_open_it_once() {
    model_of(2, || {
        let clock = Clock::manual();
        let (observer, opened) = counts_openings();
        let breaker = CircuitBreaker::builder().failures(1).open_for(SECOND).probes(2).clock(clock.clone());
        let breaker = Arc::new(breaker.observe("db", observer).build());
        breaker.try_acquire().unwrap().failure();
        clock.advance(SECOND);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let breaker = breaker.clone();
                thread::spawn(move || OwnedPermit::try_acquire(breaker).ok())
            })
            .collect();
        let mine = OwnedPermit::try_acquire(breaker.clone()).ok();
        let theirs = threads.into_iter().map(|thread| thread.join().unwrap());
        let mut probes: Vec<_> = theirs.chain([mine]).flatten().collect();
        assert_eq!(probes.len(), 2);
        let (first, second) = (probes.pop().unwrap(), probes.pop().unwrap());
        let other = thread::spawn(move || first.failure());
        second.failure();
        other.join().unwrap();
        assert_eq!(opened.load(Ordering::SeqCst), 2);
        assert_eq!(breaker.try_acquire().unwrap_err().retry_after(), Some(SECOND));
    });
}

#[test]
fn a_call_that_races_a_closing_is_admitted_or_told_to_wait() {
    model(|| {
        let clock = Clock::manual();
        let breaker = CircuitBreaker::builder().failures(1).open_for(SECOND).probes(1).clock(clock.clone());
        let breaker = Arc::new(breaker.build());
        breaker.try_acquire().unwrap().failure();
        clock.advance(SECOND);
        let probe = OwnedPermit::try_acquire(breaker.clone()).unwrap();
        let closes = thread::spawn(move || probe.success());
        match breaker.try_acquire() {
            Ok(permit) => permit.success(),
            Err(rejected) => assert!(rejected.retry_after() > Some(Duration::ZERO)),
        }
        closes.join().unwrap();
        assert_eq!(breaker.state(), State::Closed);
    });
}

/// A call too many that seems to run would be overdue for ever.
#[test]
fn calls_that_run_are_counted_up_and_down_while_the_clock_moves() {
    model(|| {
        let clock = Clock::manual();
        let breaker = CircuitBreaker::builder().slow_calls(4 * SECOND, 1.0).min_calls(1).window(SECOND);
        let breaker = Arc::new(breaker.clock(clock.clone()).build());
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let breaker = breaker.clone();
                thread::spawn(move || breaker.try_acquire().unwrap().success())
            })
            .collect();
        clock.advance(SECOND);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        clock.advance(60 * SECOND);
        assert!(breaker.try_acquire().is_ok());
        assert_eq!(breaker.state(), State::Closed);
    });
}

/// Two calls of one congestion end at once, an interval apart by their clocks, while a third is admitted: the rate is
/// lowered once, and the bucket holds what it says.
#[test]
fn calls_of_one_congestion_lower_an_adaptive_rate_once() {
    model(|| {
        let clock = Clock::manual();
        let limit = AdaptiveRate::between(1, 8).start(8).aimd(1, 0.5).interval(SECOND).clock(clock.clone());
        let limit = Arc::new(limit);
        let throttled = Outcome::Throttled { retry_after: None };
        let [first, second] = [(), ()].map(|()| OwnedPermit::try_acquire(limit.clone()).unwrap());
        let other = thread::spawn(move || {
            clock.advance(SECOND);
            first.report(throttled);
        });
        second.report(throttled);
        assert!(limit.try_acquire().is_ok());
        other.join().unwrap();
        assert_eq!(limit.rate(), 4.0);
        assert!(limit.available() <= 4);
    });
}

/// A congestion lowers the limit while another call ends and a third waits: no place is lost, and it is lowered once.
#[test]
fn an_adaptive_limit_that_falls_while_calls_end_loses_no_waiter() {
    model(|| {
        let limit = AdaptiveConcurrency::between(1, 2).aimd(1, 0.5).clock(Clock::manual());
        let limit = Arc::new(limit);
        let throttled = Outcome::Throttled { retry_after: None };
        let [first, second] = [(), ()].map(|()| OwnedPermit::try_acquire(limit.clone()).unwrap());
        let other = thread::spawn(move || first.report(throttled));
        let waits = {
            let limit = limit.clone();
            thread::spawn(move || limit.acquire_blocking().unwrap().success())
        };
        second.report(throttled);
        other.join().unwrap();
        waits.join().unwrap();
        assert_eq!((limit.limit(), limit.running(), limit.waiting()), (1, 0, 0));
    });
}

#[test]
fn an_adaptive_limit_that_rises_wakes_who_joins_meanwhile() {
    model(|| {
        let limit = Arc::new(AdaptiveConcurrency::between(1, 1).clock(Clock::manual()));
        let held = OwnedPermit::try_acquire(limit.clone()).unwrap();
        let waits = {
            let limit = limit.clone();
            thread::spawn(move || limit.acquire_blocking().unwrap().success())
        };
        limit.set_between(2, 2).unwrap();
        waits.join().unwrap();
        assert_eq!((limit.limit(), limit.running()), (2, 1));
        held.success();
    });
}

#[test]
fn two_threads_that_meet_a_new_key_share_one_gate() {
    model(|| {
        let limits =
            Keyed::new(|_: &u64| TokenBucket::per_second(1).burst(1).clock(Clock::manual())).max_keys(2);
        let limits = Arc::new(limits.clock(Clock::manual()));
        let other = {
            let limits = limits.clone();
            thread::spawn(move || u32::from(limits.try_acquire(&7).is_ok()))
        };
        let mine = u32::from(limits.try_acquire(&7).is_ok());
        assert_eq!(mine + other.join().unwrap(), 1);
        assert_eq!(limits.len(), 1);
    });
}

/// A breaker's state is under a lock that loom knows; that a gate's last holder is seen is also up to `Arc`, which is
/// the standard library's and which loom does not model.
#[test]
fn a_key_that_is_used_while_room_is_sought_is_not_forgotten() {
    model(|| {
        let clock = Clock::manual();
        let time = clock.clone();
        let hosts =
            Keyed::new(move |_: &u64| CircuitBreaker::builder().failures(1).clock(time.clone()).build());
        let hosts = Arc::new(hosts.max_keys(1).clock(clock));
        // Known, and with nothing to lose: a new key may take its place until it is used.
        drop(hosts.get(&1));
        let flood = {
            let hosts = hosts.clone();
            thread::spawn(move || hosts.try_acquire(&2).map(|permit| permit.success()).is_ok())
        };
        let failed = hosts.try_acquire(&1).map(|permit| permit.failure()).is_ok();
        assert!(!failed || hosts.try_acquire(&1).is_err(), "forgot that it is open");
        assert!(failed | flood.join().unwrap());
        assert_eq!(hosts.len(), 1);
    });
}

#[test]
fn calls_that_fail_at_once_begin_one_rest_and_the_next_one_passes_it_over() {
    model(|| {
        let clock = Clock::manual();
        let failover = Arc::new(Failover::new(2).clock(clock.clone()));
        let ask = |failover: &Failover| {
            let mut asked = Vec::new();
            let answer = failover.call_blocking_with(Call::new(), |call| {
                asked.push(call.alternate());
                if call.alternate() == 0 { Err(()) } else { Ok(()) }
            });
            assert_eq!(answer, Ok(()));
            asked
        };
        let other = {
            let failover = failover.clone();
            thread::spawn(move || ask(&failover))
        };
        let both = [ask(&failover), other.join().unwrap()];
        assert!(both.iter().any(|asked| *asked == [0, 1]), "somebody met the failure");
        assert_eq!(ask(&failover), [1]);
        clock.advance(SECOND);
        assert!(!failover.is_resting(0), "two failures at once doubled the rest");
    });
}

#[test]
fn one_of_two_threads_probes_the_other_passes_over() {
    model(|| {
        let clock = Clock::manual();
        let failover = Arc::new(Failover::new(2).clock(clock.clone()));
        let down = |call: Call| if call.alternate() == 0 { Err(()) } else { Ok(1) };
        assert_eq!(failover.call_blocking_with(Call::new(), down), Ok(1));
        clock.advance(SECOND);
        let other = {
            let failover = failover.clone();
            thread::spawn(move || {
                failover.call_blocking_with(Call::new(), |call| Ok::<_, ()>(call.alternate()))
            })
        };
        let mine = failover.call_blocking_with(Call::new(), |call| Ok::<_, ()>(call.alternate()));
        let both = [mine, other.join().unwrap()];
        assert!(both.contains(&Ok(0)), "nobody probed");
        let after = failover.call_blocking_with(Call::new(), |call| Ok::<_, ()>(call.alternate()));
        assert_eq!(after, Ok(0), "it is well again");
    });
}

#[test]
fn a_signal_is_asked_by_one_thread_at_a_time_and_once_per_interval() {
    model(|| {
        let (clock, asked, busy) =
            (Clock::manual(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let shed = LoadShed::by({
            let (asked, busy) = (asked.clone(), busy.clone());
            move || {
                assert_eq!(busy.fetch_add(1, Ordering::Relaxed), 0, "two at once");
                asked.fetch_add(1, Ordering::Relaxed);
                busy.fetch_sub(1, Ordering::Relaxed);
                0.0
            }
        });
        let shed = Arc::new(shed.interval(SECOND).clock(clock.clone()));
        let other = {
            let shed = shed.clone();
            thread::spawn(move || shed.try_acquire().is_ok())
        };
        assert!(shed.try_acquire().is_ok() & other.join().unwrap());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        clock.advance(SECOND);
        assert!(shed.try_acquire().is_ok());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn one_of_two_calls_passes_while_all_are_kept_back() {
    model(|| {
        let clock = Clock::manual();
        let throttle = AdaptiveThrottle::new().min_calls(1).seed(7).clock(clock.clone());
        // The lowest priority is kept back with a probability of nearly one.
        let call = Call::new().priority(0);
        for _ in 0..3 {
            if let Ok(permit) = throttle.try_acquire_for(call) {
                permit.failure();
            }
        }
        let throttle = Arc::new(throttle);
        clock.advance(SECOND);
        let other = {
            let throttle = throttle.clone();
            thread::spawn(move || {
                u32::from(throttle.try_acquire_for(call).map(|permit| permit.failure()).is_ok())
            })
        };
        let mine = u32::from(throttle.try_acquire_for(call).map(|permit| permit.failure()).is_ok());
        assert_eq!(mine + other.join().unwrap(), 1);
    });
}

/// Two threads make a call each that fails, and repeat it as long as `budget` lets them. Returns how many further
/// attempts there were, and how many at most at once.
fn further_attempts(budget: &Arc<RetryBudget>) -> (u64, u64) {
    let counts = Arc::new((AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)));
    let retry = Retry::new(Constant::new(Duration::ZERO).attempts(3)).clock(Clock::manual());
    let retry = Arc::new(retry.budget(budget.clone()));
    let fail = |retry: &Retry, (made, running, most): &(AtomicU64, AtomicU64, AtomicU64)| {
        let _ = retry.call_blocking_with(Call::new(), |call| {
            if call.attempt > 1 {
                made.fetch_add(1, Ordering::SeqCst);
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                running.fetch_sub(1, Ordering::SeqCst);
            }
            Err::<(), _>(())
        });
    };
    let other = {
        let (retry, counts) = (retry.clone(), counts.clone());
        thread::spawn(move || fail(&retry, &counts))
    };
    fail(&retry, &counts);
    other.join().unwrap();
    (counts.0.load(Ordering::SeqCst), counts.2.load(Ordering::SeqCst))
}

#[test]
fn a_budget_of_calls_is_not_overdrawn() {
    model(|| {
        // One and twice a quarter, of which some is lost while the budget is full.
        let budget = Arc::new(RetryBudget::of_calls(0.25).min_per_second(0).burst(1));
        let (made, _) = further_attempts(&budget);
        assert_eq!((made, budget.available()), (1, 0));
    });
}

#[test]
fn a_budget_of_running_calls_gives_its_places_out_once_and_gets_them_back() {
    model(|| {
        let budget = Arc::new(RetryBudget::of_running(0.1).min(1));
        let (made, most) = further_attempts(&budget);
        assert!((2..=4).contains(&made) && most == 1, "{made}, {most} at once");
        assert_eq!(budget.available(), 1);
    });
}

#[test]
fn no_latency_is_lost_between_slices_of_time() {
    model(|| {
        let clock = Clock::manual();
        let hedge = Hedge::at_quantile(0.5).between(Duration::ZERO, SECOND * 3_600).clock(clock.clone());
        let hedge = Arc::new(hedge);
        let call = |hedge: &Hedge| {
            assert_eq!(block_on(hedge.call(|| async { Ok::<_, ()>(1) })), Ok(1));
        };
        let other = {
            let hedge = hedge.clone();
            thread::spawn(move || call(&hedge))
        };
        let moves = {
            let clock = clock.clone();
            thread::spawn(move || clock.advance(SECOND * 30))
        };
        call(&hedge);
        other.join().unwrap();
        moves.join().unwrap();
        // Both are needed for it to be more than a guess.
        assert!(hedge.delay() < SECOND * 3_600);
    });
}

/// Whoever comes while a run is in progress waits for it or starts the next one; none is left waiting, and two never run
/// at a time.
#[test]
fn callers_of_one_key_share_runs_and_none_is_left_waiting() {
    model(|| {
        let flights = Arc::new(SingleFlight::<u8, u64>::new());
        let (runs, running) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let ask = {
            let flights = flights.clone();
            move || {
                let answer = flights.run_blocking(&1, || {
                    assert_eq!(running.fetch_add(1, Ordering::Relaxed), 0);
                    let number = runs.fetch_add(1, Ordering::Relaxed);
                    running.fetch_sub(1, Ordering::Relaxed);
                    if number == 0 { Err(()) } else { Ok(number) }
                });
                answer.ok()
            }
        };
        let threads: Vec<_> = (0..2).map(|_| thread::spawn(ask.clone())).collect();
        let mut answers: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        answers.push(ask());
        assert_eq!(answers.iter().filter(|answer| answer.is_none()).count(), 1);
        assert_eq!(flights.running(), 0);
    });
}

/// A leader is dropped, and the waiter after it too, while a thread comes: it gets the lead, whichever is first.
#[test]
fn a_lead_that_is_dropped_reaches_who_comes_meanwhile() {
    model(|| {
        let flights = Arc::new(SingleFlight::<u8, u64>::new());
        let asks = |flights: Arc<SingleFlight<u8, u64>>| {
            let mut asks: Pin<Box<dyn Future<Output = _> + Send>> =
                Box::pin(async move { flights.run(&1, std::future::pending::<Result<u64, ()>>).await });
            assert!(poll(&mut asks).is_pending());
            asks
        };
        let (leads, waits) = (asks(flights.clone()), asks(flights.clone()));
        let comes = {
            let flights = flights.clone();
            thread::spawn(move || flights.run_blocking(&1, || Ok::<_, ()>(7)).unwrap())
        };
        let leaves = thread::spawn(move || drop(waits));
        drop(leads);
        leaves.join().unwrap();
        assert_eq!(comes.join().unwrap(), 7);
        assert_eq!(flights.running(), 0);
    });
}

/// Who comes after a key was forgotten never gets what was read before: the run, a waiter that joins it, and the change
/// race. A value that the run reads before the change answers only those who came before it.
#[test]
fn who_comes_after_a_key_is_forgotten_gets_what_is_new() {
    model(|| {
        let flights = Arc::new(SingleFlight::<u8, u64>::new());
        let source = Arc::new(AtomicU64::new(1));
        let ask = {
            let (flights, source) = (flights.clone(), source.clone());
            move || flights.run_blocking(&1, || Ok::<_, ()>(source.load(Ordering::SeqCst))).unwrap()
        };
        let runs = thread::spawn(ask.clone());
        let other = thread::spawn(ask.clone());
        source.store(2, Ordering::SeqCst);
        flights.forget(&1);
        assert_eq!(ask(), 2);
        runs.join().unwrap();
        other.join().unwrap();
        assert_eq!(flights.running(), 0);
    });
}

/// A deadline that passes while the leader gives up: the waiter takes the lead or leaves it to nobody.
#[test]
fn a_deadline_that_races_a_dropped_leader_leaves_no_run_behind() {
    model(|| {
        let clock = Clock::manual();
        let flights = Arc::new(SingleFlight::<u8, u64>::new().clock(clock.clone()));
        let leads = {
            let flights = flights.clone();
            let mut leads =
                Box::pin(async move { flights.run(&1, std::future::pending::<Result<u64, ()>>).await });
            assert!(poll(&mut leads).is_pending());
            leads
        };
        let call = Call::new().deadline(clock.now() + SECOND);
        let drops = thread::spawn(move || drop(leads));
        let moves = thread::spawn(move || clock.advance(SECOND));
        if let Ok(answer) = flights.at(&1).call_blocking_with(call, |_| Ok::<_, ()>(3)) {
            assert_eq!(answer, 3);
        }
        drops.join().unwrap();
        moves.join().unwrap();
        assert_eq!(flights.running(), 0);
    });
}

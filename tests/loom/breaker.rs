//! What a circuit breaker counts and admits while threads race.

use super::*;

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

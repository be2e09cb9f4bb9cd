//! What does a circuit breaker cost around a call that succeeds, when a tenth fail, and when it is open?
//!
//! What is not alike. "rate" is a failure rate over ten seconds: floodwall counts in ten slices, failsafe keeps a moving
//! average and five counters of calls. "last" is one over the last hundred calls: recloser keeps them under a spin lock,
//! and reads no clock while it is closed. "row" counts failures in a row. Only floodwall says when to try again, and drops
//! results that come from before a change of state.

use std::cell::Cell;
use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use failsafe::{CircuitBreaker as _, backoff, failure_policy};
use floodwall::{Blocking, CircuitBreaker, Clock, Gate};
use recloser::Recloser;

use crate::harness::Case;

const WINDOW: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

thread_local!(static CALLS: Cell<u32> = const { Cell::new(0) });

pub fn cases() -> Vec<Case> {
    vec![closed("closed", 0), closed("a tenth fails", 10), open()]
}

/// `fails`: of how many calls of a thread one does; 0 for none.
fn closed(name: &'static str, fails: u32) -> Case {
    let work = move || match fails {
        0 => Ok(black_box(42)),
        fails => {
            let call = CALLS.get().wrapping_add(1);
            CALLS.set(call);
            if call.is_multiple_of(fails) { Err(()) } else { Ok(call) }
        }
    };
    let rate = || CircuitBreaker::builder().failure_rate(0.5).window(WINDOW).min_calls(20).open_for(HOUR);
    let row = CircuitBreaker::builder().failures(1_000).open_for(HOUR).build();
    let by_hand = move |breaker: &CircuitBreaker| {
        let permit = breaker.try_acquire().unwrap();
        match work() {
            Ok(_) => permit.success(),
            Err(()) => permit.failure(),
        }
    };
    let policy = failure_policy::success_rate_over_time_window(0.5, 20, WINDOW, backoff::constant(HOUR));
    let failsafe_rate = failsafe::Config::new().failure_policy(policy).build();
    let policy = failure_policy::consecutive_failures(1_000, backoff::constant(HOUR));
    let failsafe_row = failsafe::Config::new().failure_policy(policy).build();
    let recloser = Recloser::custom().closed_len(100).error_rate(0.5).open_wait(HOUR).build();
    Case::new(name)
        .threads(&[1, 2, 4])
        .peer("floodwall, rate", rate().build(), move |breaker| breaker.call_blocking(work))
        .peer("floodwall, rate, permit", rate().build(), by_hand)
        .peer("floodwall, last", rate().last_calls(100).build(), move |breaker| breaker.call_blocking(work))
        .peer("floodwall, row", row, move |breaker| breaker.call_blocking(work))
        .peer("failsafe, rate", failsafe_rate, move |breaker| breaker.call(work))
        .peer("failsafe, row", failsafe_row, move |breaker| breaker.call(work))
        .peer("recloser, last", recloser, move |breaker| breaker.call(work))
}

fn open() -> Case {
    let breaker = |clock| {
        let breaker = CircuitBreaker::builder().failures(1).open_for(HOUR).clock(clock).build();
        breaker.try_acquire().unwrap().failure();
        breaker
    };
    let policy = failure_policy::consecutive_failures(1, backoff::constant(HOUR));
    let failsafe = failsafe::Config::new().failure_policy(policy).build();
    failsafe.call(|| Err::<(), _>(())).unwrap_err();
    let recloser = Recloser::custom().closed_len(1).open_wait(HOUR).build();
    // It looks at a full ring before it writes into it, so it takes one call more.
    (0..2).for_each(|_| drop(recloser.call(|| Err::<(), _>(()))));
    Case::new("open")
        .threads(&[1, 2, 4])
        .peer("floodwall", breaker(Clock::system()), |breaker| breaker.call_blocking(work).unwrap_err())
        .peer("floodwall, permit", breaker(Clock::system()), |breaker| breaker.try_acquire().unwrap_err())
        .peer("floodwall, tsc", breaker(Clock::tsc()), |breaker| breaker.call_blocking(work).unwrap_err())
        .peer("failsafe", failsafe, |breaker| breaker.call(work).unwrap_err())
        .peer("recloser", recloser, |breaker| breaker.call(work).unwrap_err())
}

fn work() -> Result<u32, Infallible> {
    Ok(black_box(42))
}

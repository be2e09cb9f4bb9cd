//! What does a circuit breaker cost around a call that succeeds, and when it is open?
//!
//! What is not alike. floodwall counts calls and failures in ten slices of ten seconds; failsafe keeps a moving average
//! of the success rate over ten seconds, and five counters of calls; recloser keeps the last hundred outcomes, under a
//! spin lock, and reads no clock while it is closed. Only floodwall says when to try again, and drops results that come
//! from before a change of state.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use failsafe::{CircuitBreaker as _, backoff, failure_policy};
use floodwall::{Blocking, CircuitBreaker, Clock, Gate};
use recloser::Recloser;

use crate::harness::Case;

const WINDOW: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

pub fn cases() -> Vec<Case> {
    vec![closed(), open()]
}

fn closed() -> Case {
    let breaker = || CircuitBreaker::builder().failure_rate(0.5).window(WINDOW).min_calls(20).open_for(HOUR);
    let policy = failure_policy::success_rate_over_time_window(0.5, 20, WINDOW, backoff::constant(HOUR));
    let failsafe = failsafe::Config::new().failure_policy(policy).build();
    let recloser = Recloser::custom().closed_len(100).error_rate(0.5).open_wait(HOUR).build();
    Case::new("closed")
        .threads(&[1, 2, 4])
        .peer("floodwall", breaker().build(), |breaker| breaker.call_blocking(work).unwrap())
        .peer("floodwall, permit", breaker().build(), |breaker| breaker.try_acquire().unwrap().success())
        .peer("floodwall, tsc", breaker().clock(Clock::tsc()).build(), |breaker| {
            breaker.call_blocking(work).unwrap()
        })
        .peer("failsafe", failsafe, |breaker| breaker.call(work).unwrap())
        .peer("recloser", recloser, |breaker| breaker.call(work).unwrap())
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

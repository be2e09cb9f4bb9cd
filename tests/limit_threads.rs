//! Buckets under a real clock: threads that fight for one get all that flows into it, and no more.
//!
//! A time that is old when it is used admits too much, or loses what flowed in meanwhile; with a clock that stands still
//! no test can see that.
#![cfg(not(floodwall_loom))]

mod support;

use std::time::{Duration, Instant};

use floodwall::{AdaptiveRate, AllOf, Call, Gate, PriorityBucket, TokenBucket};
use support::{millis, secs};

/// Takes what is there, in large pieces and then in smaller ones down to `least`; returns how much that was.
fn emptied(gate: &dyn Gate, least: u32) -> u64 {
    let (mut taken, mut piece) = (0, u32::MAX);
    while piece >= least {
        match gate.try_acquire_for(Call::new().cost(piece)) {
            Ok(_) => taken += u64::from(piece),
            Err(_) => piece /= 2,
        }
    }
    taken
}

/// Lets threads ask for more than `rate` tokens a second of two gates that `make` makes with the burst that it is given:
/// one with room for a minute, which never overflows, and one that holds ten calls.
///
/// The bounds are exact. That of the roomy gate has no share for what a busy machine may cost: a thread goes on until it
/// is refused after the end, and whatever had flowed in by then was taken by somebody.
fn fight<G: Gate>(threads: u64, rate: u64, length: Duration, make: impl Fn(u64) -> G) {
    // Twenty thousand calls a second use up the rate: a tenth of what a machine under load makes.
    let cost = (rate / 20_000).max(1);
    let call = Call::new().cost(cost as u32);
    let (room, burst) = (60 * rate, 10 * cost);
    let flowed = |time: Duration| (time.as_nanos() * u128::from(rate) / 1_000_000_000) as u64;

    let start = Instant::now();
    let (roomy, tight) = (make(room), make(burst));
    let mut taken = (emptied(&roomy, call.cost), emptied(&tight, call.cost));
    // From now on at the latest nothing is lost to a full gate.
    let end = Instant::now() + length;
    std::thread::scope(|scope| {
        let worker = || {
            let mut taken = (0, 0);
            loop {
                let now = Instant::now();
                taken.1 += cost * u64::from(tight.try_acquire_for(call).is_ok());
                match roomy.try_acquire_for(call) {
                    Ok(_) => taken.0 += cost,
                    Err(_) if now >= end => return taken,
                    Err(_) => {}
                }
                assert!(now < end + secs(20), "{threads} threads do not use up {rate} a second");
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            let (from_roomy, from_tight) = worker.join().unwrap();
            taken = (taken.0 + from_roomy, taken.1 + from_tight);
        }
    });
    let most = flowed(start.elapsed()) + 1;
    let case = format!("{threads} threads at {rate} a second");
    let least = room + flowed(length) - cost - 1;
    assert!(taken.0 >= least, "{case}: {} of at least {least}", taken.0);
    assert!(taken.0 <= room + most, "{case}: {} of at most {}", taken.0, room + most);
    assert!(taken.1 >= burst, "{case}: {} of a burst of {burst}", taken.1);
    assert!(taken.1 <= burst + most, "{case}: {} of at most {}", taken.1, burst + most);
}

/// Traps R1 (a time read before a lost race is used after it), R4 (a rate that is rounded) and R5 (fractions that are
/// lost at each call).
#[test]
fn threads_get_all_that_flows_in_and_no_more() {
    for rate in [1_000, 1_000_000, 1_000_000_000, 10_000_000_000] {
        for threads in [2, 4, 8] {
            fight(threads, rate, millis(300), |burst| TokenBucket::per_second(rate).burst(burst));
        }
    }
}

/// Trap R1 where a bucket is a part of something else.
#[test]
fn gates_made_of_buckets_admit_all_that_flows_in_and_no_more() {
    const RATE: u64 = 1_000_000;
    let bucket = |burst| TokenBucket::per_second(RATE).burst(burst);
    fight(4, RATE, millis(200), |burst| AllOf::new([bucket(burst), bucket(burst)]));
    fight(4, RATE, millis(200), |burst| PriorityBucket::per_second(RATE).burst(burst));
    fight(4, RATE, millis(200), |burst| AdaptiveRate::between(1e6, 1e6).burst(burst));
}

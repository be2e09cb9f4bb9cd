//! Adaptive rates: literal steps, and closed loops with a server that can take so much and no more.
#![cfg(not(floodwall_loom))]

mod support;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use floodwall::{
    Acquire, AdaptiveRate, Blocking, Call, Clock, Error, Gate, Outcome, OwnedPermit, Permit, Policy, Reason,
    Rejected, block_on,
};
use support::{millis, nanos, poll, secs};

const THROTTLED: Outcome = Outcome::Throttled { retry_after: None };

/// Takes all there is and reports the same for each; the last call was refused.
fn spend(limit: &AdaptiveRate, outcome: Outcome) -> usize {
    std::iter::from_fn(|| limit.try_acquire().ok()).map(|permit| permit.report(outcome)).count()
}

/// Lets each of some seconds end in the same way.
fn seconds(limit: &AdaptiveRate, clock: &Clock, count: u32, outcome: Outcome) {
    for _ in 0..count {
        spend(limit, outcome);
        clock.advance(secs(1));
    }
}

fn round(rate: f64) -> f64 {
    (rate * 1e6).round() / 1e6
}

/// (successes, failures, rate after it), from 100 a second; the limit was reached each time.
#[test]
fn the_success_ratio_raises_and_lowers_the_rate_by_a_tenth() {
    for (successes, failures, rate) in [
        (100, 0, 110.0),
        (96, 4, 110.0),
        (95, 5, 100.0),
        (90, 10, 100.0),
        (80, 20, 100.0),
        (79, 21, 90.0),
        (0, 100, 90.0),
    ] {
        let clock = Clock::manual();
        let limit = AdaptiveRate::between(10, 1_000).start(100).clock(clock.clone());
        let permits: Vec<_> = std::iter::from_fn(|| limit.try_acquire().ok()).collect();
        assert_eq!(permits.len(), 100);
        let last = permits.len() - 1;
        for (index, permit) in permits.into_iter().enumerate() {
            if index == last {
                clock.advance(secs(1));
            }
            // The failures first, so that the last call is a success where there is one.
            if index < failures { permit.failure() } else { permit.success() }
        }
        assert_eq!(round(limit.rate()), rate, "{successes} successes, {failures} failures");
    }
}

#[test]
fn every_setting_is_obeyed() {
    let clock = Clock::manual();
    let limit = AdaptiveRate::between(10, 1_000)
        .start(100)
        .raise_above(0.5)
        .lower_below(0.4)
        .step(0.5)
        .interval(millis(100))
        .min_calls(4)
        .burst(4)
        .clock(clock.clone());
    assert_eq!(spend(&limit, Outcome::Success), 4);
    clock.advance(millis(99));
    assert_eq!((spend(&limit, Outcome::Success), limit.rate()), (4, 100.0));
    clock.advance(millis(1));
    // Nothing flowed in but a tenth of a token: the next result comes when there is one.
    clock.advance(millis(9));
    assert_eq!(spend(&limit, Outcome::Success), 1);
    assert_eq!(limit.rate(), 150.0);
    clock.advance(secs(1));
    assert_eq!(spend(&limit, Outcome::Failure), 4);
    clock.advance(millis(100));
    assert_eq!(spend(&limit, Outcome::Failure), 4);
    assert_eq!(limit.rate(), 75.0);
}

#[test]
fn a_limit_that_nobody_reaches_does_not_creep_up() {
    for limit in [
        AdaptiveRate::between(10, 1_000).start(100),
        AdaptiveRate::between(10, 1_000).start(100).aimd(10, 0.5),
        AdaptiveRate::between(10, 1_000).start(100).cubic(),
    ] {
        let clock = Clock::manual();
        let limit = limit.clock(clock.clone());
        for _ in 0..1_000 {
            limit.try_acquire().unwrap().success();
            clock.advance(millis(20));
        }
        assert!(limit.rate() <= 100.0, "{}", limit.rate());
        // A cost that the bucket never holds is not a limit reached.
        for _ in 0..1_000 {
            assert!(limit.try_acquire_for(Call::new().cost(10_000)).is_err());
            limit.try_acquire().unwrap().success();
            clock.advance(millis(20));
        }
        assert!(limit.rate() <= 100.0, "{}", limit.rate());
    }
}

#[test]
fn a_call_that_waited_has_reached_the_limit() {
    let clock = Clock::manual();
    let limit = AdaptiveRate::between(1, 1_000).burst(1).min_calls(1).clock(clock.clone());
    limit.try_acquire().unwrap().success();
    let mut waiter = Box::pin(limit.acquire());
    assert!(poll(&mut waiter).is_pending());
    assert_eq!(limit.waiting(), 1);
    clock.advance(secs(1));
    let std::task::Poll::Ready(Ok(permit)) = poll(&mut waiter) else { panic!("its time has come") };
    permit.success();
    assert_eq!(limit.rate(), 1.1);
}

#[test]
fn a_call_that_would_have_to_wait_too_long_has_reached_the_limit() {
    let clock = Clock::manual();
    let limit = AdaptiveRate::between(1, 1_000).burst(1).min_calls(1).clock(clock.clone());
    limit.try_acquire().unwrap().success();
    let in_time = Call::new().deadline(clock.now() + millis(999));
    assert!(block_on(limit.acquire_for(in_time)).is_err());
    clock.advance(secs(1));
    assert!(limit.try_acquire_for(in_time).is_err());
    limit.try_acquire().unwrap().success();
    assert_eq!(limit.rate(), 1.1);
}

#[test]
fn those_who_wait_are_told_of_a_changed_rate() {
    let clock = Clock::manual();
    let limit = AdaptiveRate::between(1, 1_000).start(10).burst(1).aimd(1, 0.5).clock(clock.clone());
    let permit = limit.try_acquire().unwrap();
    let mut waiter = Box::pin(limit.acquire());
    assert!(poll(&mut waiter).is_pending());
    permit.report(THROTTLED);
    assert_eq!(limit.rate(), 5.0);
    clock.advance(millis(199));
    assert!(poll(&mut waiter).is_pending());
    clock.advance(millis(1));
    assert!(poll(&mut waiter).is_ready());
}

#[test]
fn the_rate_keeps_between_floor_and_ceiling() {
    for limit in [
        AdaptiveRate::between(10, 200).start(100),
        AdaptiveRate::between(10, 200).start(100).aimd(30, 0.3),
        AdaptiveRate::between(10, 200).start(100).cubic(),
    ] {
        let clock = Clock::manual();
        let limit = limit.clock(clock.clone());
        for _ in 0..100 {
            seconds(&limit, &clock, 1, Outcome::Success);
            assert!((10.0..=200.0).contains(&limit.rate()));
        }
        assert_eq!(limit.rate(), 200.0);
        for _ in 0..100 {
            seconds(&limit, &clock, 1, THROTTLED);
            assert!((10.0..=200.0).contains(&limit.rate()));
        }
        assert_eq!(limit.rate(), 10.0);
        let before = clock.now();
        assert!(spend(&limit, Outcome::Success) <= 10);
        assert_eq!(clock.now(), before);
    }
}

/// Trap R12. (floor, ceiling, rate), from 100 a second.
#[test]
fn bounds_that_change_move_the_rate_between_them() {
    for (floor, ceiling, rate) in [(1, 50, 50.0), (200, 300, 200.0), (10, 1_000, 100.0), (100, 100, 100.0)] {
        let clock = Clock::manual();
        let limit = AdaptiveRate::between(10, 1_000).start(100).burst(10).aimd(30, 0.3).clock(clock.clone());
        limit.set_between(floor, ceiling).unwrap();
        assert_eq!(limit.rate(), rate);
        assert_eq!(spend(&limit, Outcome::Ignored), 10);
        assert_eq!(
            limit.try_acquire().unwrap_err().retry_after(),
            Some(Duration::from_secs_f64(1.0 / rate)),
            "the bucket has another rate"
        );
        seconds(&limit, &clock, 100, Outcome::Success);
        assert_eq!(limit.rate(), f64::from(ceiling));
        seconds(&limit, &clock, 100, THROTTLED);
        assert_eq!(limit.rate(), f64::from(floor));
    }
}

#[test]
fn calls_from_before_the_bounds_changed_the_rate_say_nothing_about_it() {
    for limit in [
        AdaptiveRate::between(1, 1_000).start(100).aimd(10, 0.5),
        AdaptiveRate::between(1, 1_000).start(100).min_calls(10),
    ] {
        let clock = Clock::manual();
        let limit = limit.clock(clock.clone());
        let old: Vec<_> = (0..50).map(|_| limit.try_acquire().unwrap()).collect();
        limit.set_between(1, 80).unwrap();
        assert_eq!(limit.rate(), 80.0);
        clock.advance(secs(2));
        old.into_iter().for_each(|permit| permit.report(THROTTLED));
        assert_eq!(limit.rate(), 80.0);
        seconds(&limit, &clock, 2, THROTTLED);
        assert!(limit.rate() < 80.0);
    }
}

#[test]
fn those_who_wait_are_told_of_changed_bounds() {
    let clock = Clock::manual();
    let limit = AdaptiveRate::between(1, 1_000).start(1).burst(1).clock(clock.clone());
    limit.try_acquire().unwrap().success();
    let (mut waiter, mut last) = (Box::pin(limit.acquire()), Box::pin(limit.acquire()));
    assert!(poll(&mut waiter).is_pending() && poll(&mut last).is_pending());
    limit.set_between(10, 1_000).unwrap();
    clock.advance(millis(100));
    assert!(poll(&mut waiter).is_ready() && poll(&mut last).is_pending());
    clock.advance(millis(100));
    assert!(poll(&mut last).is_ready());
}

#[test]
fn bounds_that_make_no_sense_change_nothing() {
    let limit = AdaptiveRate::between(10, 1_000).start(100);
    for (floor, ceiling, message) in [
        (0.0, 1.0, "floor: 0 must be at least 0.001"),
        (f64::NAN, 1.0, "floor: NaN must be at least 0.001"),
        (10.0, 5.5, "ceiling: 5.5 must be at least the floor"),
        (10.0, f64::NAN, "ceiling: NaN must be at least the floor"),
        (1.0, 2e12, "ceiling: 2000000000000 must be at most 1000000000000"),
    ] {
        assert_eq!(limit.set_between(floor, ceiling).unwrap_err().to_string(), message);
        assert_eq!(limit.rate(), 100.0);
    }
    limit.set_between(0.001, 1e12).unwrap();
    assert_eq!(limit.rate(), 100.0);
}

/// One call in two seconds at the floor, and it must still find its way up.
#[test]
fn rates_below_one_a_second_work() {
    let clock = Clock::manual();
    let limit = AdaptiveRate::between(0.5, 0.75).min_calls(2).clock(clock.clone());
    limit.try_acquire().unwrap().success();
    assert_eq!(limit.try_acquire().unwrap_err().retry_after(), Some(secs(2)));
    clock.advance(secs(2) - nanos(1));
    assert!(limit.try_acquire().is_err());
    clock.advance(nanos(1));
    limit.try_acquire().unwrap().success();
    assert_eq!(limit.rate(), 0.55);
    seconds(&limit, &clock, 100, Outcome::Success);
    assert_eq!(limit.rate(), 0.75);
    assert_eq!(AdaptiveRate::between(0.001, 0.001).rate(), 0.001);
    let slowest = AdaptiveRate::between(0.001, 1e12).clock(Clock::manual());
    assert!(slowest.try_acquire().is_ok());
    assert_eq!(slowest.try_acquire().unwrap_err().retry_after(), Some(secs(1_000)));
    assert_eq!(AdaptiveRate::between(1, 1e12).start(1e12).available(), 1_000_000_000_000);
}

#[test]
fn too_few_calls_say_nothing_yet() {
    let clock = Clock::manual();
    let limit = AdaptiveRate::between(1, 100).start(50).clock(clock.clone());
    for _ in 0..9 {
        limit.try_acquire().unwrap().failure();
        clock.advance(secs(10));
    }
    assert_eq!(limit.rate(), 50.0);
    limit.try_acquire().unwrap().failure();
    assert_eq!(limit.rate(), 45.0);
}

/// (mode, rate after one congestion, rate after two), from 100 a second.
#[test]
fn calls_admitted_before_the_rate_was_lowered_cannot_lower_it_again() {
    for (limit, once, twice) in [
        (AdaptiveRate::between(1, 1_000).aimd(10, 0.5), 50.0, 25.0),
        // The second time by what was really sent, which was little: the results came all at once.
        (AdaptiveRate::between(1, 1_000).cubic(), 70.0, 1.12),
    ] {
        let clock = Clock::manual();
        let limit = limit.start(100).clock(clock.clone());
        let mut old: Vec<_> = (0..50).map(|_| limit.try_acquire().unwrap()).collect();
        old.pop().unwrap().report(THROTTLED);
        assert_eq!(limit.rate(), once);
        let new = limit.try_acquire().unwrap();
        clock.advance(secs(1));
        old.into_iter().for_each(|permit| permit.report(THROTTLED));
        assert_eq!(limit.rate(), once, "they were all of one congestion");
        new.report(THROTTLED);
        assert_eq!(round(limit.rate()), twice);
    }
}

/// One after the other, each call admitted after the one before it was throttled: a server without room for a moment must
/// not send the rate to its floor.
#[test]
fn a_burst_of_throttlings_lowers_the_rate_once() {
    let clock = Clock::manual();
    let limit = AdaptiveRate::between(1, 1_000).start(100).aimd(10, 0.5).clock(clock.clone());
    assert!(spend(&limit, THROTTLED) > 40);
    assert_eq!(limit.rate(), 50.0);
    clock.advance(millis(999));
    spend(&limit, THROTTLED);
    assert_eq!(limit.rate(), 50.0);
    clock.advance(millis(100));
    spend(&limit, THROTTLED);
    assert_eq!(limit.rate(), 25.0);
}

/// Calls take five intervals. Judged by calls of older rates, it would fall by a tenth each second meanwhile.
#[test]
fn calls_that_take_longer_than_an_interval_lower_the_rate_once() {
    let clock = Clock::manual();
    let limit = AdaptiveRate::between(1, 1_000).start(100).clock(clock.clone());
    let mut slow = VecDeque::new();
    for second in 0..5 {
        clock.advance(secs(1));
        slow.extend((0..20).map(|_| (second, limit.try_acquire().unwrap())));
    }
    for (second, permit) in slow {
        clock.advance(millis(50));
        permit.failure();
        assert_eq!(limit.rate(), if second == 0 { 100.0 } else { 90.0 });
    }
}

#[test]
fn a_throttling_counts_although_the_rate_rose_since_the_call_began() {
    let clock = Clock::manual();
    let limit = AdaptiveRate::between(1, 1_000).start(100).aimd(10, 0.5).clock(clock.clone());
    let slow = limit.try_acquire().unwrap();
    seconds(&limit, &clock, 3, Outcome::Success);
    assert_eq!(limit.rate(), 120.0);
    slow.report(THROTTLED);
    assert_eq!(limit.rate(), 60.0);
}

#[test]
fn a_throttled_rate_falls_at_once_and_rises_once_an_interval() {
    let clock = Clock::manual();
    let limit =
        AdaptiveRate::between(1, 1_000).start(100).aimd(7, 0.5).interval(millis(500)).clock(clock.clone());
    let mut rates = Vec::new();
    for step in 0..12 {
        spend(&limit, if step % 6 == 3 { THROTTLED } else { Outcome::Success });
        rates.push(limit.rate());
        clock.advance(millis(250));
    }
    assert_eq!(rates, [100.0, 100.0, 107.0, 53.5, 53.5, 60.5, 60.5, 67.5, 67.5, 33.75, 33.75, 40.75]);
}

#[test]
fn only_throttlings_move_a_rate_that_goes_by_them() {
    for limit in [AdaptiveRate::between(1, 1_000).aimd(10, 0.5), AdaptiveRate::between(1, 1_000).cubic()] {
        let clock = Clock::manual();
        let limit = limit.start(100).clock(clock.clone());
        seconds(&limit, &clock, 20, Outcome::Failure);
        assert_eq!(limit.rate(), 100.0);
    }
}

#[test]
fn ignored_and_abandoned_calls_count_for_nothing_and_late_ones_as_failures() {
    let clock = Clock::manual();
    let limit = AdaptiveRate::between(1, 1_000).start(100).min_calls(1).clock(clock.clone());
    for _ in 0..10 {
        spend(&limit, Outcome::Ignored);
        clock.advance(secs(1));
        while let Ok(permit) = limit.try_acquire_for(Call::new().deadline(clock.now() + secs(1))) {
            drop(permit);
        }
        clock.advance(secs(1));
    }
    assert_eq!(limit.rate(), 100.0);
    let late = |clock: &Clock| limit.try_acquire_for(Call::new().deadline(clock.now() + secs(1))).unwrap();
    let (first, second) = (late(&clock), late(&clock));
    clock.advance(secs(1));
    drop(first);
    clock.advance(secs(1));
    drop(second);
    assert_eq!(limit.rate(), 90.0);
}

#[test]
fn an_estimate_is_settled_and_the_call_still_counts() {
    let clock = Clock::manual();
    let limit = AdaptiveRate::between(1, 1_000).start(100).aimd(1, 0.5).clock(clock.clone());
    let mut permit = limit.try_acquire_for(Call::new().cost(40)).unwrap();
    permit.settle(10);
    assert_eq!(limit.available(), 90);
    permit.report(THROTTLED);
    // As many as the halved bucket holds.
    assert_eq!((limit.rate(), limit.available()), (50.0, 50));
    assert!(limit.residual().is_none());
    assert!(limit.try_acquire().is_ok());
    assert!(limit.residual().is_some());
}

#[test]
fn it_is_a_policy_and_rejects_by_name() {
    let clock = Clock::manual();
    let limit = AdaptiveRate::between(1, 10).name("partner").clock(clock.clone());
    assert_eq!(block_on(limit.call(|| async { Ok::<_, ()>(1) })), Ok(1));
    let rejected = Rejected::new("partner", Reason::RateLimited).after(secs(1));
    assert_eq!(limit.call_blocking(|| Ok::<_, ()>(1)), Err(Error::Rejected(rejected)));
    let patient = (&limit).wait_up_to(secs(2));
    let mut call = Box::pin(patient.call(|| async { Ok::<_, ()>(2) }));
    assert!(poll(&mut call).is_pending());
    clock.advance(secs(1));
    assert_eq!(poll(&mut call), std::task::Poll::Ready(Ok(2)));
}

/// Takes up to `capacity` calls a second, evenly, and refuses the others.
struct Server {
    capacity: f64,
    room: f64,
    served: u32,
}

impl Server {
    fn tick(&mut self, seconds: f64) {
        self.room = (self.room + self.capacity * seconds).min(self.capacity / 10.0);
    }

    fn serve(&mut self) -> bool {
        let served = self.room >= 1.0;
        if served {
            self.room -= 1.0;
            self.served += 1;
        }
        served
    }
}

/// What a loop of so many seconds came to: the mean rate, and the share of the capacity that was used.
struct Settled {
    rate: f64,
    used: f64,
}

/// More callers than the limit admits, a server, answers after `latency` milliseconds; steps of a millisecond. The
/// first half is for settling, the second is measured.
fn run(
    limit: &Arc<AdaptiveRate>,
    clock: &Clock,
    capacity: f64,
    latency: usize,
    length: u32,
    refusal: Outcome,
) -> Settled {
    let mut server = Server { capacity, room: 0.0, served: 0 };
    let mut answers: VecDeque<Vec<(OwnedPermit, bool)>> = (0..latency).map(|_| Vec::new()).collect();
    let (mut rates, mut served) = (0.0, 0);
    for step in 0..length * 1_000 {
        server.tick(0.001);
        let mut sent = Vec::new();
        while let Ok(permit) = OwnedPermit::try_acquire(limit.clone()) {
            sent.push((permit, server.serve()));
        }
        answers.push_back(sent);
        for (permit, good) in answers.pop_front().unwrap() {
            permit.report(if good { Outcome::Success } else { refusal });
        }
        if step >= length * 500 {
            rates += limit.rate();
            served += std::mem::take(&mut server.served);
        } else {
            server.served = 0;
        }
        clock.advance(millis(1));
    }
    let half = f64::from(length) * 500.0;
    Settled { rate: rates / half, used: f64::from(served) / (capacity * half / 1_000.0) }
}

#[test]
fn by_success_ratio_the_rate_settles_a_little_above_what_the_server_takes() {
    for latency in [0, 30, 3_000] {
        let clock = Clock::manual();
        let limit = Arc::new(AdaptiveRate::between(10, 10_000).start(50).clock(clock.clone()));
        for capacity in [400.0, 200.0, 800.0] {
            let length = if latency > 1_000 { 200 } else { 80 };
            let Settled { rate, used } = run(&limit, &clock, capacity, latency, length, Outcome::Failure);
            let case = format!("{capacity}/s after {latency} ms: {rate}, {used} used");
            assert!(rate > capacity && rate < capacity * 1.25, "{case}");
            assert!(used > 0.97, "{case}");
        }
    }
}

#[test]
fn by_throttlings_the_rate_saws_below_what_the_server_takes() {
    for latency in [0, 30, 300] {
        let clock = Clock::manual();
        let limit = Arc::new(
            AdaptiveRate::between(10, 10_000).start(50).burst(10).aimd(10, 0.8).clock(clock.clone()),
        );
        for capacity in [400.0, 200.0, 800.0] {
            let Settled { rate, used } = run(&limit, &clock, capacity, latency, 120, THROTTLED);
            let case = format!("{capacity}/s after {latency} ms: {rate}, {used} used");
            assert!(rate > capacity * 0.85 && rate < capacity * 1.05, "{case}");
            assert!(used > 0.85, "{case}");
        }
    }
}

#[test]
fn along_the_cubic_curve_the_rate_lingers_near_what_the_server_takes() {
    for latency in [0, 30, 300] {
        let clock = Clock::manual();
        let limit = AdaptiveRate::between(0.5, 10_000).start(50).burst(10).cubic().interval(millis(100));
        let limit = Arc::new(limit.clock(clock.clone()));
        for capacity in [400.0, 200.0, 800.0] {
            let Settled { rate, used } = run(&limit, &clock, capacity, latency, 120, THROTTLED);
            let case = format!("{capacity}/s after {latency} ms: {rate}, {used} used");
            assert!(rate > capacity * 0.8 && rate < capacity * 1.1, "{case}");
            assert!(used > 0.8, "{case}");
        }
    }
}

/// A server that refuses everything for a while, as after a crash, must not leave the rate at the floor for ever.
#[test]
fn after_an_outage_the_rate_comes_back() {
    let clock = Clock::manual();
    let limit = Arc::new(AdaptiveRate::between(1, 10_000).start(100).clock(clock.clone()));
    run(&limit, &clock, 0.0001, 10, 600, Outcome::Failure);
    assert_eq!(limit.rate(), 1.0);
    let Settled { rate, used } = run(&limit, &clock, 100.0, 10, 300, Outcome::Failure);
    assert!(rate > 95.0 && rate < 125.0 && used > 0.95, "{rate}, {used} used");
}

/// Trap R12. Results of one rate come in on one thread while the other is admitted under the next, and time goes on:
/// the bucket must end with the rate that the limit names, and the ceiling's quota must hold.
#[test]
fn threads_that_race_leave_bucket_and_rate_in_step() {
    let clock = Clock::manual();
    let start = clock.now();
    let limit = AdaptiveRate::between(1_000, 2_000_000).start(100_000).burst(10).aimd(50_000, 0.5);
    let limit = limit.interval(nanos(1_000)).clock(clock.clone());
    let run = &|thread: u64| {
        let mut held: VecDeque<Permit<'_>> = VecDeque::new();
        let mut admitted = 0;
        for turn in 0..20_000 {
            clock.advance(nanos(300));
            if let Ok(permit) = limit.try_acquire() {
                admitted += 1;
                held.push_back(permit);
            }
            if held.len() > 8 {
                let outcome = if turn % 97 == thread { THROTTLED } else { Outcome::Success };
                held.pop_front().unwrap().report(outcome);
            }
            let rate = limit.rate();
            assert!((1_000.0..=2_000_000.0).contains(&rate), "{rate}");
        }
        admitted
    };
    let admitted: u64 = std::thread::scope(|scope| {
        let workers = [0, 1].map(|thread| scope.spawn(move || run(thread)));
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    let most = 10.0 + 2_000_000.0 * (clock.now() - start).as_secs_f64() + 1.0;
    assert!(admitted as f64 <= most, "{admitted} of {most}");
    // Emptied, and left alone until just one token is there, the bucket tells its rate by when it is full.
    spend(&limit, Outcome::Ignored);
    clock.advance(limit.try_acquire().unwrap_err().retry_after().unwrap());
    spend(&limit, Outcome::Ignored);
    let full = limit.try_acquire_for(Call::new().cost(10)).unwrap_err().retry_after().unwrap().as_secs_f64();
    let expected = 10.0 / limit.rate();
    assert!((full - expected).abs() <= expected * 0.001 + 5e-9, "{full} s at {} a second", limit.rate());
}

mod absurd_settings {
    use super::*;

    fn limit() -> AdaptiveRate {
        AdaptiveRate::between(10, 1_000)
    }

    /// What it panics with.
    fn says(build: impl FnOnce() -> AdaptiveRate + std::panic::UnwindSafe) -> String {
        let panic = std::panic::catch_unwind(build).expect_err("it is accepted");
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap()
    }

    /// Trap R13.
    #[test]
    fn each_is_named_with_its_value() {
        let nan = f64::NAN;
        for (message, panic) in [
            ("floor: 0 must be at least 0.001", says(|| AdaptiveRate::between(0, 1))),
            ("floor: NaN must be at least 0.001", says(move || AdaptiveRate::between(nan, 1))),
            ("floor: -1 must be at least 0.001", says(|| AdaptiveRate::between(-1, 1))),
            ("ceiling: 5 must be at least the floor, 10", says(|| AdaptiveRate::between(10, 5))),
            ("ceiling: NaN must be at least the floor, 10", says(move || AdaptiveRate::between(10, nan))),
            ("ceiling: inf must be at most 1000000000000", says(|| AdaptiveRate::between(1, f64::INFINITY))),
            ("start: 9 must be between 10 and 1000", says(|| limit().start(9))),
            ("start: NaN must be between 10 and 1000", says(move || limit().start(nan))),
            ("burst: 0 must be at least 1", says(|| limit().burst(0))),
            (
                "burst: 18446744073709551615 must be at most 288230376151711744 (2^58)",
                says(|| limit().burst(u64::MAX)),
            ),
            ("raise_above: 1 must be at least 0 and below 1", says(|| limit().raise_above(1.0))),
            ("raise_above: NaN must be at least 0 and below 1", says(move || limit().raise_above(nan))),
            ("lower_below: 0 must be above 0 and at most 1", says(|| limit().lower_below(0.0))),
            ("lower_below: NaN must be above 0 and at most 1", says(move || limit().lower_below(nan))),
            ("step: 1 must be above 0 and below 1", says(|| limit().step(1.0))),
            ("step: NaN must be above 0 and below 1", says(move || limit().step(nan))),
            ("interval: 0 ns must be at least 1 ns", says(|| limit().interval(Duration::ZERO))),
            ("min_calls: 0 must be at least 1", says(|| limit().min_calls(0))),
            ("increase: 0 must be above 0 and finite", says(|| limit().aimd(0, 0.5))),
            ("increase: inf must be above 0 and finite", says(|| limit().aimd(f64::INFINITY, 0.5))),
            ("factor: 1 must be above 0 and below 1", says(|| limit().aimd(1, 1.0))),
            ("factor: NaN must be above 0 and below 1", says(move || limit().aimd(1, nan))),
        ] {
            assert_eq!(panic, message);
        }
    }

    #[test]
    fn extreme_ones_that_make_sense_are_obeyed() {
        let clock = Clock::manual();
        let limit = AdaptiveRate::between(0.001, 1e12).start(1e12).step(0.999).interval(Duration::MAX);
        let limit = limit.clock(clock.clone());
        assert!(limit.try_acquire_for(Call::new().cost(u32::MAX)).is_ok());
        clock.advance(secs(500 * 365 * 86_400));
        limit.try_acquire().unwrap().failure();
        assert_eq!(limit.rate(), 1e12);
    }
}

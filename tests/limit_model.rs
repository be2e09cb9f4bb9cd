//! Buckets under random commands: against obvious twins, or against what must hold at any time.
#![cfg(not(floodwall_loom))]

mod support;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::Poll;

use floodwall::{
    Acquire, AdaptiveRate, AllOf, Call, Carry, Clock, Gate, Permit, PriorityBucket, Rejected, TokenBucket,
};
use proptest::prelude::*;
use support::{nanos, poll, secs, settable};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..Default::default() }
}

/// What somebody does who stands at a bucket, or comes to it.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Waits for so many tokens.
    Join(u32),
    /// One of those who wait leaves.
    Leave(prop::sample::Index),
    /// Takes so many tokens, or none.
    Try(u32),
    /// Takes more than was asked for, also what is not there.
    Charge(u32),
    /// Gives back what was not used.
    Refund(u32),
    /// Time passes.
    Pass(u64),
    /// Nobody is admitted for so long.
    Pause(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0u32..8).prop_map(Step::Join),
        2 => any::<prop::sample::Index>().prop_map(Step::Leave),
        2 => (0u32..8).prop_map(Step::Try),
        1 => (0u32..6).prop_map(Step::Charge),
        1 => (0u32..6).prop_map(Step::Refund),
        4 => (1u64..30).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..120)
}

/// The same with pauses. Who takes nothing passes any end of a pause, and is not among them.
fn steps_with_pauses() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1u32..8).prop_map(Step::Join),
        2 => any::<prop::sample::Index>().prop_map(Step::Leave),
        2 => (1u32..8).prop_map(Step::Try),
        1 => (0u32..6).prop_map(Step::Charge),
        1 => (0u32..6).prop_map(Step::Refund),
        4 => (1u64..30).prop_map(Step::Pass),
        1 => (0u64..60).prop_map(Step::Pause),
    ];
    prop::collection::vec(step, 1..120)
}

/// A queue before a bucket, in quarters of a token: one flows in each nanosecond.
struct Twin {
    /// During a pause, that at its end.
    level: i64,
    burst: i64,
    queue: VecDeque<i64>,
    /// So long nobody is admitted and nothing flows.
    pause: i64,
}

impl Twin {
    /// What the first one takes, or one token: at the end of a pause there is no more.
    fn first(&self) -> i64 {
        self.queue.front().copied().unwrap_or(4)
    }

    fn cap(&self) -> i64 {
        if self.pause > 0 { self.first() } else { self.burst }
    }

    fn pause(&mut self, time: i64) {
        if time >= self.pause {
            self.level = (self.level + time - self.pause).min(self.first());
            self.pause = time;
        }
    }

    fn pass(&mut self) {
        if self.pause > 0 {
            self.pause -= 1;
        } else {
            self.level = (self.level + 1).min(self.burst);
        }
    }

    fn leave(&mut self, at: usize) {
        self.queue.remove(at);
        self.level = self.level.min(self.cap());
    }

    fn fits(&self, units: i64) -> bool {
        self.pause == 0 && self.queue.is_empty() && units <= self.level
    }

    /// Serves whose turn it is, and returns how many.
    fn serve(&mut self) -> usize {
        let mut served = 0;
        while self.pause == 0 && self.queue.front().is_some_and(|cost| *cost <= self.level) {
            self.level -= self.queue.pop_front().unwrap();
            served += 1;
        }
        served
    }
}

type Waiter<'a> = Pin<Box<dyn Future<Output = Result<Permit<'a>, Rejected>> + 'a>>;

/// Polls all who wait; returns how many were served, which must be the first ones.
fn served(waiters: &mut VecDeque<Waiter<'_>>) -> Result<usize, TestCaseError> {
    let ready: Vec<_> = waiters.iter_mut().map(poll).collect();
    let count = ready.iter().take_while(|ready| matches!(ready, Poll::Ready(Ok(_)))).count();
    prop_assert!(ready[count..].iter().all(Poll::is_pending), "one passed another, or was refused");
    waiters.drain(..count);
    Ok(count)
}

/// Lets a bucket and a plain queue do the same steps.
fn compare_with_a_plain_queue(burst: u32, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let clock = Clock::manual();
    let bucket = TokenBucket::per(1, nanos(4)).burst(burst.into()).clock(clock.clone());
    let full = 4 * i64::from(burst);
    let mut twin = Twin { level: full, burst: full, queue: VecDeque::new(), pause: 0 };
    let mut waiters: VecDeque<Waiter<'_>> = VecDeque::new();
    for step in steps {
        match step {
            Step::Join(cost) if cost <= burst => {
                waiters.push_back(Box::pin(bucket.acquire_for(Call::new().cost(cost))));
                twin.queue.push_back(4 * i64::from(cost));
            }
            Step::Leave(index) if !waiters.is_empty() => {
                let at = index.index(waiters.len());
                drop(waiters.remove(at));
                twin.leave(at);
            }
            Step::Try(cost) => {
                let units = 4 * i64::from(cost);
                let fits = twin.fits(units);
                prop_assert_eq!(bucket.peek(Call::new().cost(cost)).is_ok(), fits);
                prop_assert_eq!(bucket.try_acquire_for(Call::new().cost(cost)).is_ok(), fits);
                twin.level -= if fits { units } else { 0 };
            }
            Step::Charge(tokens) => {
                bucket.charge(tokens);
                twin.level -= 4 * i64::from(tokens);
            }
            Step::Refund(tokens) => {
                // What is more than the bucket holds nobody took.
                let tokens = i64::from(tokens).min((twin.burst - twin.level) / 4);
                bucket.refund(tokens as u32);
                twin.level = (twin.level + 4 * tokens).min(twin.cap());
            }
            Step::Pass(time) => {
                for _ in 0..time {
                    clock.advance(nanos(1));
                    twin.pass();
                    prop_assert_eq!(served(&mut waiters)?, twin.serve());
                }
            }
            Step::Pause(time) => {
                bucket.pause_until(clock.now() + nanos(time));
                twin.pause(time as i64);
            }
            _ => {}
        }
        prop_assert_eq!(served(&mut waiters)?, twin.serve());
        prop_assert_eq!(bucket.waiting(), twin.queue.len());
        let there = if twin.fits(0) { twin.level.max(0) / 4 } else { 0 };
        prop_assert_eq!(bucket.available(), there as u64);
    }
    waiters.clear();
    clock.advance(secs(1));
    prop_assert_eq!(bucket.available(), u64::from(burst));
    Ok(())
}

proptest! {
    #![proptest_config(config(500))]

    /// Traps R7 (a waiter that leaves takes tokens with it, or blocks those behind it), R8 (those behind it keep their
    /// old times) and R9 (small costs pass a large one): at every nanosecond the line does what a plain queue does.
    #[test]
    fn those_who_wait_are_served_as_in_a_plain_queue(burst in 1u32..8, steps in steps()) {
        compare_with_a_plain_queue(burst, steps)?;
    }

    /// Whatever is given back or charged and whoever leaves meanwhile.
    #[test]
    fn a_pause_is_a_time_in_which_a_plain_queue_stands_still(burst in 1u32..8, steps in steps_with_pauses()) {
        compare_with_a_plain_queue(burst, steps)?;
    }
}

proptest! {
    #![proptest_config(config(500))]

    /// Trap R10: a limit of two equal buckets is one of them, whoever waits, leaves or is refused; a token that one of the
    /// two keeps or loses shows.
    #[test]
    fn two_equal_buckets_stay_in_step_with_one(burst in 1u32..8, steps in steps()) {
        let clock = Clock::manual();
        let bucket = || TokenBucket::per(1, nanos(4)).burst(burst.into()).clock(clock.clone());
        let (one, two) = (bucket(), AllOf::new([bucket(), bucket()]).clock(clock.clone()));
        let (mut at_one, mut at_two) = (VecDeque::<Waiter<'_>>::new(), VecDeque::<Waiter<'_>>::new());
        for step in steps {
            match step {
                Step::Join(cost) if cost <= burst => {
                    at_one.push_back(Box::pin(one.acquire_for(Call::new().cost(cost))));
                    at_two.push_back(Box::pin(two.acquire_for(Call::new().cost(cost))));
                }
                Step::Leave(index) if !at_one.is_empty() => {
                    let at = index.index(at_one.len());
                    drop((at_one.remove(at), at_two.remove(at)));
                }
                Step::Try(cost) => {
                    let call = Call::new().cost(cost);
                    let decision = one.try_acquire_for(call).map(drop);
                    prop_assert_eq!(two.try_acquire_for(call).map(drop), decision);
                }
                Step::Pass(time) => clock.advance(nanos(time)),
                _ => {}
            }
            prop_assert_eq!(served(&mut at_one)?, served(&mut at_two)?);
            for each in two.buckets() {
                prop_assert_eq!((each.available(), each.waiting()), (one.available(), one.waiting()));
                prop_assert_eq!(each.residual(), one.residual());
            }
        }
    }

    /// Trap R2: on a clock that walks forth and back there is no more than has flowed in by its latest time, and who
    /// waits as told on it is admitted.
    #[test]
    fn a_clock_that_walks_mints_nothing_and_strands_nobody(
        burst in 1u64..6, steps in prop::collection::vec(-400i64..500, 1..60),
    ) {
        let (clock, offset) = settable(secs(1_000));
        let bucket = || TokenBucket::per(1, nanos(100)).burst(burst);
        let gates: [Box<dyn Gate>; 4] = [
            Box::new(bucket().clock(clock.clone())),
            Box::new(AllOf::new([bucket(), bucket()]).clock(clock.clone())),
            Box::new(PriorityBucket::per(1, nanos(100)).burst(burst).clock(clock.clone())),
            Box::new(AdaptiveRate::between(1e7, 1e7).burst(burst).clock(clock.clone())),
        ];
        for (which, gate) in gates.iter().enumerate() {
            let (mut now, mut latest, mut admitted) = (0, 0, 0);
            for step in [0].iter().chain(&steps) {
                now += step;
                for obeys in [false, true] {
                    offset.store(now, Ordering::Relaxed);
                    latest = latest.max(now);
                    let before = admitted;
                    while gate.try_acquire().is_ok() {
                        admitted += 1;
                        prop_assert!(admitted <= burst + latest as u64 / 100 + 1);
                    }
                    prop_assert!(admitted > before || !obeys, "{} strands who obeys", which);
                    let wait = gate.try_acquire().unwrap_err().retry_after().unwrap().as_nanos() as i64;
                    // To the next token, and over what the clock went back.
                    prop_assert!(wait <= 100 + latest - now + 1, "{} is told to wait {}", which, wait);
                    now += wait;
                }
            }
        }
    }

    /// Trap R12: a rate that changes while it is used neither mints nor destroys tokens; whether they come as they are or
    /// in proportion, a count of tokens with fractions says the same.
    #[test]
    fn a_rate_that_changes_at_any_time_keeps_its_account(
        steps in prop::collection::vec(
            (0u64..40_000_000, 0u32..12, prop::option::of((1u64..2_000, 1u64..40, any::<bool>()))), 1..120,
        ),
    ) {
        let clock = Clock::manual();
        let bucket = TokenBucket::per_second(100).burst(10).clock(clock.clone());
        let (mut rate, mut burst, mut level) = (100.0, 10.0, 10.0_f64);
        let (mut flowed, mut taken, mut only_as_is) = (10.0, 0.0, true);
        for (pass, cost, change) in steps {
            clock.advance(nanos(pass));
            let flow = pass as f64 * rate / 1e9;
            level = (level + flow).min(burst);
            flowed += flow;
            if let Some((tokens, room, as_is)) = change {
                let carry = if as_is { Carry::AsIs } else { Carry::Scaled };
                bucket.set_rate(tokens, secs(1), room, carry).unwrap();
                level = if as_is { level.min(room as f64) } else { level * room as f64 / burst };
                (rate, burst) = (tokens as f64, room as f64);
                only_as_is &= as_is;
            }
            // Each change may cost a unit, a few millionths of a token.
            let sure = (level - f64::from(cost)).abs() > 0.001;
            let admitted = bucket.try_acquire_for(Call::new().cost(cost)).is_ok();
            prop_assert!(!sure || admitted == (level > f64::from(cost)), "{} of {}: {}", cost, level, admitted);
            if admitted {
                level -= f64::from(cost);
                taken += f64::from(cost);
            }
            prop_assert!(!only_as_is || taken <= flowed + 0.001, "{} of {} that flowed", taken, flowed);
        }
    }
}

/// Each order of magnitude as often as any other.
fn log_uniform(most: u64) -> impl Strategy<Value = u64> {
    (0..=most.ilog2(), any::<u64>())
        .prop_map(move |(bits, noise)| ((1 << bits) | (noise % (1 << bits))).min(most))
}

proptest! {
    #![proptest_config(config(2_000))]

    /// Trap R3: nothing overflows or is rounded away at any rate from one in 292 years to a thousand a nanosecond, with
    /// any burst, cost and time between calls; whole numbers of 128 bits say the same to within a unit of time.
    #[test]
    fn extremes_of_rate_burst_cost_and_time_are_exact(
        period in log_uniform(1 << 63),
        tokens in log_uniform(u64::MAX),
        burst in log_uniform(1 << 58),
        steps in prop::collection::vec((log_uniform(1 << 58), log_uniform(u32::MAX.into())), 1..20),
    ) {
        let tokens = tokens.min(period.saturating_mul(1_000));
        let clock = Clock::manual();
        let bucket = TokenBucket::per(tokens, nanos(period)).burst(burst).clock(clock.clone());
        // Tokens times the period, so that all numbers are whole.
        let full = i128::from(burst) * i128::from(period);
        let mut level = full;
        // Two nanoseconds of flow, a token, or what a burst of 2^58 units is made of; one more for each new start.
        let unit = (2 * i128::from(tokens)).max(i128::from(period >> (1_u64 << 58).div_ceil(burst).ilog2()));
        let unit = 20 * unit.min(i128::from(period)).max(1);
        for (pass, cost) in steps {
            let cost = cost as u32;
            clock.advance(nanos(pass));
            level = full.min(level + i128::from(pass) * i128::from(tokens));
            let left = level - i128::from(cost) * i128::from(period);
            match bucket.try_acquire_for(Call::new().cost(cost)) {
                Ok(_) => {
                    prop_assert!(left > -unit, "admitted what was not there");
                    level = left;
                }
                Err(_) if u64::from(cost) > burst => {}
                Err(rejected) => {
                    prop_assert!(left < unit, "refused what was there");
                    let Some(wait) = rejected.retry_after() else { continue };
                    let missing = (-left) as f64 / tokens as f64;
                    let off = (wait.as_nanos() as f64 - missing).abs();
                    prop_assert!(off <= missing / 1e9 + unit as f64 / tokens as f64 + 1.0, "{:?}", wait);
                }
            }
        }
    }
}

//! Primitives against their obvious twins, under random commands at random times.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use floodwall::{
    Call, CircuitBreaker, Clock, FixedWindow, Gate, Outcome, OwnedPermit, SlidingCounter, SlidingLog, State,
    TokenBucket,
};
use proptest::prelude::*;
use support::{nanos, settable};

/// A bucket in exact arithmetic: tokens times the period, so that all numbers are whole.
struct ExactBucket {
    tokens: i128,
    period: i128,
    burst: i128,
    level: i128,
}

impl ExactBucket {
    fn new(tokens: u64, period: u64, burst: u64) -> Self {
        let (period, burst) = (i128::from(period), i128::from(burst) * i128::from(period));
        Self { tokens: i128::from(tokens), period, burst, level: burst }
    }

    fn advance(&mut self, nanos: u128) {
        self.level = (self.level + nanos as i128 * self.tokens).min(self.burst);
    }

    /// What is left when `cost` is taken.
    fn left(&self, cost: u32) -> i128 {
        self.level - i128::from(cost) * self.period
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..Default::default() })]

    /// Trap R4. Ours counts time in units of at most two nanoseconds. It may differ by one unit, and errors do not add
    /// up.
    #[test]
    fn a_bucket_admits_what_exact_arithmetic_admits(
        tokens in 1u64..2_000,
        period in prop_oneof![Just(1_000_000_000), 2_000u64..5_000_000],
        burst in 1u64..50,
        steps in prop::collection::vec((0u64..3_000_000, 0u32..20), 1..200),
    ) {
        let clock = Clock::manual();
        let bucket = TokenBucket::per(tokens, nanos(period)).burst(burst).clock(clock.clone());
        let mut exact = ExactBucket::new(tokens, period, burst);
        let unit = 2 * exact.tokens;
        for (wait, cost) in steps {
            clock.advance(nanos(wait));
            exact.advance(wait.into());
            let call = Call::new().cost(cost);
            let mut decision = bucket.try_acquire_for(call).map(|_| ());
            if let Err(rejected) = decision {
                prop_assert!(exact.left(cost) < unit, "refused what was there");
                if let Some(wait) = rejected.retry_after() {
                    clock.advance(wait);
                    exact.advance(wait.as_nanos());
                    decision = bucket.try_acquire_for(call).map(|_| ());
                    prop_assert!(decision.is_ok(), "who obeys is admitted");
                }
            }
            if decision.is_ok() {
                prop_assert!(exact.left(cost) > -unit, "admitted what was not there");
                exact.level = exact.left(cost);
            }
        }
    }
}

/// Every admission: when, and how many tokens.
#[derive(Default)]
struct Admissions(Vec<(u64, u64)>);

impl Admissions {
    fn tokens(&self, counts: impl Fn(u64) -> bool) -> u64 {
        self.0.iter().filter(|(at, _)| counts(*at)).map(|(_, tokens)| tokens).sum()
    }
}

/// Calls `limit` at random times, and now and then waits as it was told to.
///
/// `admits` says whether a call of so many tokens at a time is to be admitted after those that were, and `admitted`
/// checks what must hold once it was.
fn against_its_twin(
    limit: &dyn Gate,
    clock: &Clock,
    steps: Vec<(u64, u32, bool)>,
    tokens: u64,
    mut admits: impl FnMut(&Admissions, u64, u64) -> bool,
    mut admitted: impl FnMut(&Admissions, u64) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let (mut now, mut admissions) = (0, Admissions::default());
    let mut advance = |by: u64| {
        clock.advance(nanos(by));
        now += by;
        now
    };
    for (wait, cost, obeys) in steps {
        let mut now = advance(wait);
        let call = Call::new().cost(cost);
        let mut expected = admits(&admissions, now, cost.into());
        let mut decision = limit.try_acquire_for(call).map(|_| ());
        prop_assert_eq!(decision.is_ok(), expected, "{} tokens at {} after {:?}", cost, now, admissions.0);
        if let Err(rejected) = decision {
            let ready = rejected.retry_after().map(|wait| wait.as_nanos() as u64);
            prop_assert_eq!(ready.is_none(), u64::from(cost) > tokens);
            if let Some(ready) = ready {
                prop_assert!(!admits(&admissions, now + ready - 1, cost.into()), "not a moment earlier");
                prop_assert!(admits(&admissions, now + ready, cost.into()), "who obeys is admitted");
                if obeys {
                    now = advance(ready);
                    (decision, expected) = (limit.try_acquire_for(call).map(|_| ()), true);
                    prop_assert_eq!(decision.is_ok(), expected);
                }
            }
        }
        if decision.is_ok() {
            admissions.0.push((now, cost.into()));
            admitted(&admissions, now)?;
        }
    }
    Ok(())
}

fn steps() -> impl Strategy<Value = Vec<(u64, u32, bool)>> {
    let wait = prop_oneof![3 => 0u64..40, 1 => 0u64..400, 1 => Just(0)];
    prop::collection::vec((wait, prop_oneof![3 => 0u32..3, 1 => 0u32..12], any::<bool>()), 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_sliding_log_admits_what_the_log_of_all_calls_admits(tokens in 1u64..12, period in 1u64..100, steps in steps()) {
        let clock = Clock::manual();
        let log = SlidingLog::per(tokens, nanos(period)).clock(clock.clone());
        let young = |now: u64| move |at: u64| at + period > now;
        against_its_twin(
            &log, &clock, steps, tokens,
            |admissions, now, cost| admissions.tokens(young(now)) + cost <= tokens,
            |admissions, now| {
                prop_assert_eq!(log.available(), tokens - admissions.tokens(young(now)));
                Ok(())
            },
        )?;
    }

    #[test]
    fn a_fixed_window_admits_what_fits_into_each_window(tokens in 1u64..12, period in 24u64..100, steps in steps()) {
        let clock = Clock::manual();
        let window = FixedWindow::per(tokens, nanos(period)).clock(clock.clone());
        let same = |now: u64| move |at: u64| at / period == now / period;
        against_its_twin(
            &window, &clock, steps, tokens,
            |admissions, now, cost| admissions.tokens(same(now)) + cost <= tokens,
            |admissions, now| {
                prop_assert_eq!(window.available(), tokens - admissions.tokens(same(now)));
                Ok(())
            },
        )?;
    }

    #[test]
    fn a_window_from_first_use_lasts_its_period_rounded_up(tokens in 1u64..12, period in 24u64..100, steps in steps()) {
        let clock = Clock::manual();
        let window = FixedWindow::per(tokens, nanos(period)).from_first_use().clock(clock.clone());
        // At most two nanoseconds for each token.
        let unit = (tokens + 1).next_power_of_two();
        prop_assert!(unit <= 2 * tokens);
        let taken = |admissions: &Admissions, now: u64| {
            let mut window = (0, 0);
            for &(at, tokens) in admissions.0.iter().filter(|(_, tokens)| *tokens > 0) {
                window = if at < window.0 { (window.0, window.1 + tokens) } else {
                    (at.next_multiple_of(unit) + period, tokens)
                };
            }
            if now < window.0 { window.1 } else { 0 }
        };
        against_its_twin(
            &window, &clock, steps, tokens,
            |admissions, now, cost| taken(admissions, now) + cost <= tokens,
            |admissions, now| {
                prop_assert_eq!(window.available(), tokens - taken(admissions, now));
                Ok(())
            },
        )?;
    }

    /// The formula in whole numbers, times the period; and how many tokens beyond its limit it may let pass.
    #[test]
    fn a_sliding_counter_admits_what_the_formula_admits(tokens in 1u64..12, period in 48u64..100, steps in steps()) {
        let clock = Clock::manual();
        let counter = SlidingCounter::per(tokens, nanos(period)).clock(clock.clone());
        let in_window = |admissions: &Admissions, window: u64| admissions.tokens(|at| at / period == window);
        let before = |admissions: &Admissions, now: u64| match now / period {
            0 => 0,
            window => in_window(admissions, window - 1),
        };
        let estimate = |admissions: &Admissions, now: u64| {
            before(admissions, now) * (period - now % period) + in_window(admissions, now / period) * period
        };
        against_its_twin(
            &counter, &clock, steps, tokens,
            |admissions, now, cost| estimate(admissions, now) + cost * period <= tokens * period,
            |admissions, now| {
                prop_assert_eq!(counter.available(), (tokens * period - estimate(admissions, now)) / period);
                let exact = admissions.tokens(|at| at + period > now);
                prop_assert!(exact * period <= tokens * period + before(admissions, now) * (now % period));
                prop_assert!(exact < 2 * tokens);
                Ok(())
            },
        )?;
    }

    /// Trap R2. On a clock that walks forth and back there is no more than fits into the windows up to its latest time,
    /// and who waits as told on it is admitted.
    #[test]
    fn no_limit_mints_when_its_clock_goes_back(
        tokens in 1u64..6, period in 24u64..100, steps in prop::collection::vec(-150i64..200, 1..60),
    ) {
        let (clock, offset) = settable(Duration::from_secs(1_000));
        let limits: [Box<dyn Gate>; 4] = [
            Box::new(FixedWindow::per(tokens, nanos(period)).clock(clock.clone())),
            Box::new(FixedWindow::per(tokens, nanos(period)).from_first_use().clock(clock.clone())),
            Box::new(SlidingCounter::per(tokens, nanos(period)).clock(clock.clone())),
            Box::new(SlidingLog::per(tokens, nanos(period)).clock(clock)),
        ];
        // The first two may have begun a window just before the first call, since theirs start elsewhere.
        for (limit, more) in limits.iter().zip([1, 0, 1, 0]) {
            let (mut now, mut latest, mut admitted) = (0, 0, 0);
            for step in [0].iter().chain(&steps) {
                now += step;
                for obeys in [false, true] {
                    offset.store(now, Ordering::Relaxed);
                    latest = latest.max(now);
                    let before = admitted;
                    while limit.try_acquire().is_ok() {
                        admitted += 1;
                        prop_assert!(admitted <= tokens * (latest as u64 / period + 1 + more));
                    }
                    prop_assert!(admitted > before || !obeys);
                    now += limit.try_acquire().unwrap_err().retry_after().unwrap().as_nanos() as i64;
                }
            }
        }
    }

    /// Under an even load a counter is right to within one call, at any time.
    #[test]
    fn a_sliding_counter_is_right_if_calls_come_evenly(
        period in 1_000u64..100_000, spacing in 10u64..2_000, first in 0u64..5_000, later in 0u64..300_000,
    ) {
        let clock = Clock::manual();
        let tokens = period.div_ceil(spacing) + 1;
        let counter = SlidingCounter::per(tokens, nanos(period)).clock(clock.clone());
        let until = first + 2 * period + later;
        let calls: Vec<u64> = (0..).map(|call| first % spacing + call * spacing).take_while(|at| *at <= until).collect();
        let mut now = 0;
        for at in &calls {
            clock.advance(nanos(at - now));
            now = *at;
            prop_assert!(counter.try_acquire().is_ok());
        }
        clock.advance(nanos(until - now));
        let exact = calls.iter().filter(|at| **at + period > until).count() as u64;
        let estimate = tokens - counter.available();
        prop_assert!(exact.abs_diff(estimate) <= 1, "{} instead of {}", estimate, exact);
    }
}

/// A breaker that remembers every call.
struct NaiveBreaker {
    state: State,
    failures: u32,
    probes: u32,
    open_for: u64,
    in_a_row: u32,
    opened: u64,
    out: u32,
    passed: u32,
    lease: u64,
    generation: u32,
    round: u32,
}

impl NaiveBreaker {
    fn change(&mut self, state: State, now: u64) {
        self.state = state;
        self.generation += 1;
        (self.in_a_row, self.out, self.passed) = (0, 0, 0);
        self.round = 0;
        if state == State::Open {
            self.opened = now;
        }
    }

    fn admit(&mut self, now: u64) -> Option<(u32, u32)> {
        if self.state == State::Open && now - self.opened >= self.open_for {
            self.change(State::HalfOpen, now);
        }
        match self.state {
            State::Closed => {}
            State::Open => return None,
            State::HalfOpen => {
                if self.out + self.passed >= self.probes {
                    if now < self.lease {
                        return None;
                    }
                    self.round += 1;
                    self.out = 0;
                }
                self.out += 1;
                self.lease = now + self.open_for;
            }
        }
        Some((self.generation, self.round))
    }

    fn end(&mut self, (generation, round): (u32, u32), outcome: Outcome, now: u64) {
        if generation != self.generation {
            return;
        }
        if self.state == State::HalfOpen && round == self.round {
            self.out -= 1;
        }
        match (self.state, outcome) {
            (State::Closed, Outcome::Success) => self.in_a_row = 0,
            (State::Closed, Outcome::Failure) => {
                self.in_a_row += 1;
                if self.in_a_row == self.failures {
                    self.change(State::Open, now);
                }
            }
            (State::HalfOpen, Outcome::Success) => {
                self.passed += 1;
                if self.passed == self.probes {
                    self.change(State::Closed, now);
                }
            }
            (State::HalfOpen, Outcome::Failure) => self.change(State::Open, now),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_breaker_does_what_its_twin_does(
        failures in 1u32..4,
        probes in 1u32..4,
        steps in prop::collection::vec((0u64..15, 0u8..5, any::<prop::sample::Index>()), 1..200),
    ) {
        let clock = Clock::manual();
        let breaker = std::sync::Arc::new(
            CircuitBreaker::builder()
                .failures(failures)
                .probes(probes)
                .open_for(Duration::from_nanos(20))
                .clock(clock.clone())
                .build(),
        );
        let mut twin = NaiveBreaker {
            state: State::Closed, failures, probes, open_for: 20, in_a_row: 0, opened: 0, out: 0, passed: 0,
            lease: 0, generation: 0, round: 0,
        };
        let mut running: Vec<(OwnedPermit, (u32, u32))> = Vec::new();
        let mut now = 0;
        for (wait, step, index) in steps {
            if wait < 10 {
                clock.advance(nanos(wait));
                now += wait;
            }
            let outcome = match step {
                0 | 1 => {
                    let admitted = OwnedPermit::try_acquire(breaker.clone());
                    let expected = twin.admit(now);
                    prop_assert_eq!(admitted.is_ok(), expected.is_some());
                    if let Err(rejected) = admitted {
                        prop_assert!(rejected.retry_after().is_some());
                    } else {
                        running.push((admitted.unwrap(), expected.unwrap()));
                    }
                    continue;
                }
                2 => Outcome::Success,
                3 => Outcome::Failure,
                _ => Outcome::Abandoned,
            };
            if !running.is_empty() {
                let (permit, generation) = running.swap_remove(index.index(running.len()));
                permit.report(outcome);
                twin.end(generation, outcome, now);
            }
            let due = twin.state == State::Open && now - twin.opened >= 20;
            prop_assert_eq!(breaker.state(), if due { State::HalfOpen } else { twin.state });
        }
    }
}

/// The rules of a closed breaker over a log of all calls: whether a share is too high after the last one.
struct Log {
    /// When a call ended, how, and whether it had been slow.
    calls: Vec<(u64, Outcome, bool)>,
    /// Of its ten slices.
    slice: u64,
    last: Option<usize>,
    min_calls: u64,
    rates: [f64; 3],
}

impl Log {
    fn opens(&self, now: u64) -> bool {
        let said = |call: &&(u64, Outcome, bool)| call.1 != Outcome::Ignored;
        let said: Vec<_> = self.calls.iter().filter(said).collect();
        let live: Vec<_> = match self.last {
            Some(last) => said[said.len().saturating_sub(last)..].to_vec(),
            None => said.into_iter().filter(|call| call.0 / self.slice + 9 >= now / self.slice).collect(),
        };
        let count =
            |which: fn(&(u64, Outcome, bool)) -> bool| live.iter().filter(|call| which(call)).count() as f64;
        let abandoned = count(|call| call.1 == Outcome::Abandoned && !call.2);
        let failed = count(|call| call.1 == Outcome::Failure);
        let slow = count(|call| call.2);
        let calls = live.len() as f64 - abandoned;
        let [failure_rate, slow_rate, abandoned_rate] = self.rates;
        let given_up = if abandoned / live.len() as f64 >= abandoned_rate { abandoned } else { 0.0 };
        let least = self.min_calls.min(self.last.map_or(u64::MAX, |last| last as u64)) as f64;
        let is_over = |part: f64, whole: f64, rate| whole >= least && part / whole >= rate;
        is_over(failed + given_up, calls + given_up, failure_rate) || is_over(slow, calls, slow_rate)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_breaker_opens_when_a_log_of_all_calls_says_so(
        rates in [1u32..=10, 1u32..=10, 1u32..=10],
        last in prop_oneof![Just(None), (1u32..20).prop_map(Some)],
        min_calls in 1u64..15,
        steps in prop::collection::vec((0u64..300, 0u64..1_200, 0u8..8), 1..60),
    ) {
        let rates = rates.map(|tenths| f64::from(tenths) / 10.0);
        let clock = Clock::manual();
        let breaker = CircuitBreaker::builder()
            .failure_rate(rates[0])
            .slow_calls(nanos(1_000), rates[1])
            .abandoned_rate(rates[2])
            .window(nanos(10_000))
            .min_calls(min_calls)
            .clock(clock.clone());
        let breaker = last.into_iter().fold(breaker, floodwall::CircuitBreakerBuilder::last_calls).build();
        let last = last.map(|last| last as usize);
        let (mut now, mut log) = (0, Log { calls: Vec::new(), slice: 1_000, last, min_calls, rates });
        for (wait, took, ends) in steps {
            clock.advance(nanos(wait));
            let permit = breaker.try_acquire().unwrap();
            clock.advance(nanos(took));
            now += wait + took;
            let outcome = match ends {
                0..4 => Outcome::Success,
                4..6 => Outcome::Failure,
                6 => Outcome::Abandoned,
                _ => Outcome::Ignored,
            };
            permit.report(outcome);
            let is_slow = took >= 1_000 && outcome != Outcome::Ignored;
            log.calls.push((now, outcome, is_slow));
            // Only a bad end can open it: a good one lowers every share, or lets the window reach its least number.
            let is_bad = is_slow || matches!(outcome, Outcome::Failure | Outcome::Abandoned);
            let opens = is_bad && log.opens(now);
            prop_assert_eq!(breaker.state() == State::Open, opens, "{:?}", log.calls);
            if opens {
                break;
            }
        }
    }
}

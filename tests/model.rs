//! Primitives against their obvious twins, under random commands at random times.
#![cfg(not(floodwall_loom))]

mod support;

use std::time::Duration;

use floodwall::{Call, CircuitBreaker, Clock, Gate, Outcome, OwnedPermit, State, TokenBucket};
use proptest::prelude::*;
use support::nanos;

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

    /// Ours counts time in units of at most two nanoseconds. It may differ by one unit, and errors do not add up.
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

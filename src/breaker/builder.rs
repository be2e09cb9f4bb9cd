//! How a breaker is described, and what of it can be changed while it runs.

use std::time::Duration;

use super::health::{Calls, Health, Watched, bits};
use super::machine::{Machine, Phase, next};
use super::{BreakerMode, CircuitBreaker, Growth};
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::error::{BadSetting, absurd, saturating_nanos};
use crate::event::Hook;
use crate::rng::Seeds;
use crate::setters::setters;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// What of a [`CircuitBreaker`] can be changed while it is used: see [`CircuitBreaker::set_thresholds`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct BreakerThresholds {
    /// It opens after so many failures in a row; `None`: they do not matter.
    pub failures: Option<u32>,
    /// It opens when this share of the calls failed; `None`: that does not matter.
    pub failure_rate: Option<f64>,
    /// It opens when this share of the calls was slow; `None`: that does not matter.
    pub slow_rate: Option<f64>,
    /// Rates matter only from so many calls on.
    pub min_calls: u64,
    /// It stays open for so long.
    pub open_for: Duration,
    /// So many calls decide in half-open.
    pub probes: u32,
}

impl BreakerThresholds {
    pub(super) fn check(&self) -> Result<(), BadSetting> {
        let at_least_1 = [
            ("failures", self.failures.map_or(1, u64::from)),
            ("min_calls", self.min_calls),
            ("probes", self.probes.into()),
        ];
        if let Some((setting, value)) = at_least_1.into_iter().find(|(_, value)| *value == 0) {
            return Err(BadSetting::new(setting, value, "must be at least 1"));
        }
        if self.open_for.is_zero() {
            return Err(BadSetting::new("open_for", 0, "ns must be at least 1 ns"));
        }
        for (setting, rate) in [("failure_rate", self.failure_rate), ("slow_rate", self.slow_rate)] {
            if let Some(rate) = rate.filter(|rate| !is_real(*rate)) {
                return Err(BadSetting::real(setting, rate, "must be above 0 and at most 1"));
            }
        }
        Ok(())
    }
}

fn is_real(rate: f64) -> bool {
    rate > 0.0 && rate <= 1.0
}

#[track_caller]
fn share(setting: &str, rate: f64) -> f64 {
    assert!(is_real(rate), "{setting}: {rate} must be above 0 and at most 1");
    rate
}

impl CircuitBreaker {
    /// Returns the thresholds that hold now.
    pub fn thresholds(&self) -> BreakerThresholds {
        let machine = self.machine.lock();
        let rules = self.health.rules();
        let slow_rate = f64::from_bits(self.health.slow_rate.load(Ordering::Relaxed));
        BreakerThresholds {
            failures: u32::try_from(rules.failures).ok(),
            failure_rate: Some(rules.failure_rate).filter(|rate| rate.is_finite()),
            slow_rate: Some(slow_rate).filter(|rate| rate.is_finite()),
            min_calls: self.health.min_calls.load(Ordering::Relaxed),
            open_for: Duration::from_nanos(machine.open_for),
            probes: machine.probes,
        }
    }

    /// Changes the thresholds. What was counted stays, and so does its state: a circuit that is open stays so for the
    /// time that it was given.
    ///
    /// ```
    /// use floodwall::CircuitBreaker;
    ///
    /// let breaker = CircuitBreaker::builder().failure_rate(0.5).build();
    /// let mut thresholds = breaker.thresholds();
    /// thresholds.failure_rate = Some(0.3);
    /// breaker.set_thresholds(thresholds)?;
    /// thresholds.probes = 0;
    /// let error = breaker.set_thresholds(thresholds).unwrap_err();
    /// assert_eq!(error.to_string(), "probes: 0 must be at least 1");
    /// # Ok::<(), floodwall::BadSetting>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If one makes no sense: one at which its setter would panic, or a rate of what this breaker was not built to count.
    /// Nothing is changed then.
    pub fn set_thresholds(&self, thresholds: BreakerThresholds) -> Result<(), BadSetting> {
        let BreakerThresholds { failures, failure_rate, slow_rate, min_calls, open_for, probes } = thresholds;
        thresholds.check()?;
        if let (Some(rate), Calls::No) = (failure_rate, &self.health.calls) {
            return Err(BadSetting::real("failure_rate", rate, "needs a breaker that was built with one"));
        }
        if let (Some(rate), None) = (slow_rate, &self.health.slow) {
            return Err(BadSetting::real(
                "slow_rate",
                rate,
                "needs a breaker that was built with slow_calls",
            ));
        }
        let mut machine = self.machine.lock();
        machine.open_for = saturating_nanos(open_for);
        machine.probes = probes;
        // Relaxed: calls that end meanwhile may be judged by some old and some new ones.
        self.health.failures.store(failures.map_or(u64::MAX, u64::from), Ordering::Relaxed);
        self.health.failure_rate.store(bits(failure_rate), Ordering::Relaxed);
        self.health.slow_rate.store(bits(slow_rate), Ordering::Relaxed);
        self.health.min_calls.store(min_calls, Ordering::Relaxed);
        self.publish(&machine);
        Ok(())
    }
}

/// Describes a [`CircuitBreaker`].
///
/// Without [`failures`](Self::failures) and [`failure_rate`](Self::failure_rate) it opens at a failure rate of 0.5;
/// with one of them by that one; with both by whichever comes first.
#[derive(Clone, Debug)]
#[must_use = "call build()"]
pub struct CircuitBreakerBuilder {
    failures: Option<u32>,
    failure_rate: Option<f64>,
    slow: Option<(Duration, f64)>,
    abandoned_rate: Option<f64>,
    window: Duration,
    last_calls: Option<u32>,
    min_calls: u64,
    open_for: Duration,
    backoff: Option<Backoff>,
    throttled: Option<Duration>,
    probes: u32,
    probe_failure_rate: f64,
    ramp_up: u32,
    clock: Clock,
    hook: Hook,
}

impl Default for CircuitBreakerBuilder {
    fn default() -> Self {
        Self {
            failures: None,
            failure_rate: None,
            slow: None,
            abandoned_rate: None,
            window: Duration::from_secs(10),
            last_calls: None,
            min_calls: 20,
            open_for: Duration::from_secs(5),
            backoff: None,
            throttled: None,
            probes: 3,
            probe_failure_rate: 0.0,
            ramp_up: 0,
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
    }
}

impl CircuitBreakerBuilder {
    /// Opens after so many failures in a row. Default: failures in a row do not matter.
    ///
    /// # Panics
    ///
    /// If `failures` is 0.
    #[track_caller]
    pub fn failures(mut self, failures: u32) -> Self {
        if failures == 0 {
            absurd("failures", 0, "must be at least 1");
        }
        self.failures = Some(failures);
        self
    }

    /// Opens when this share of the calls failed. Default: 0.5, unless `failures` is set.
    ///
    /// # Panics
    ///
    /// If `rate` is not above 0 and at most 1.
    #[track_caller]
    pub fn failure_rate(mut self, rate: f64) -> Self {
        self.failure_rate = Some(share("failure_rate", rate));
        self
    }

    /// Opens when this share of the calls took at least `after`, however they ended (unless that is to be ignored). Default: slowness does not matter.
    ///
    /// Calls that still run count too, from `after` and at most a quarter as much again on: a dependency that answers nobody
    /// is found out before the first caller gives up, as soon as another one comes. Half-open, a slow probe has failed.
    /// How long a call took is known to a millionth.
    ///
    /// # Cost
    ///
    /// A reading of the clock when a call starts and when it ends, and a word that all threads write at both.
    ///
    /// # Panics
    ///
    /// If `after` is zero, or `rate` is not above 0 and at most 1.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{CircuitBreaker, Clock, Gate, State};
    ///
    /// let clock = Clock::manual();
    /// let breaker = CircuitBreaker::builder()
    ///     .slow_calls(Duration::from_secs(1), 0.5)
    ///     .min_calls(2)
    ///     .clock(clock.clone())
    ///     .build();
    /// let hung = [breaker.try_acquire()?, breaker.try_acquire()?];
    /// clock.advance(Duration::from_millis(1_500));
    /// assert!(breaker.try_acquire().is_err());
    /// assert_eq!(breaker.state(), State::Open);
    /// # Ok::<(), floodwall::Rejected>(())
    /// ```
    #[track_caller]
    pub fn slow_calls(mut self, after: Duration, rate: f64) -> Self {
        if after.is_zero() {
            absurd("slow_calls", 0, "ns must be at least 1 ns");
        }
        self.slow = Some((after, share("slow_rate", rate)));
        self
    }

    /// Counts abandoned calls as failures when their share of all calls reaches `rate`. Default: they count for nothing.
    ///
    /// A call is abandoned when its permit is dropped without a report: a caller that changed its mind, the slower one of
    /// a hedged pair. Some are normal and say nothing; but when nearly all are (0.9, say), the dependency does not answer.
    /// They count for the failure rate (0.5 if none is set), and in half-open for nothing.
    ///
    /// # Panics
    ///
    /// If `rate` is not above 0 and at most 1.
    #[track_caller]
    pub fn abandoned_rate(mut self, rate: f64) -> Self {
        self.abandoned_rate = Some(share("abandoned_rate", rate));
        self
    }

    /// Takes rates over so much time, in ten slices. Default: 10 s.
    ///
    /// A call counts for this time, or up to a tenth less. Without concurrency that is exact while a slice holds up to 64
    /// successes; of more, and of those of each thread where threads meet, the clock is read for every 16th only, and up
    /// to 15 may count for a shorter time. No count is lost or made up.
    ///
    /// # Panics
    ///
    /// If `length` is zero.
    #[track_caller]
    pub fn window(mut self, length: Duration) -> Self {
        if length.is_zero() {
            absurd("window", 0, "ns must be at least 1 ns");
        }
        self.window = length;
        self
    }

    /// Takes rates over the last `calls` calls instead of over time. Default: over time, see `window`.
    ///
    /// Exact, and reads no clock; but all threads write one word. Old failures count until as many calls have come.
    ///
    /// # Panics
    ///
    /// If `calls` is 0 or above 65,536.
    #[track_caller]
    pub fn last_calls(mut self, calls: u32) -> Self {
        if calls == 0 {
            absurd("last_calls", 0, "must be at least 1");
        }
        if calls > 1 << 16 {
            absurd("last_calls", calls.into(), "must be at most 65536");
        }
        self.last_calls = Some(calls);
        self
    }

    /// Looks at rates only when there are so many calls to take them over. Default: 20, or `last_calls` if that is less.
    ///
    /// # Panics
    ///
    /// If `calls` is 0.
    #[track_caller]
    pub fn min_calls(mut self, calls: u64) -> Self {
        if calls == 0 {
            absurd("min_calls", 0, "must be at least 1");
        }
        self.min_calls = calls;
        self
    }

    /// Rejects calls for so long once it is open. Default: 5 s. `Duration::MAX` stays open.
    ///
    /// It is also how long probes have, before others are let through beside them.
    ///
    /// # Panics
    ///
    /// If `time` is zero.
    #[track_caller]
    pub fn open_for(mut self, time: Duration) -> Self {
        if time.is_zero() {
            absurd("open_for", 0, "ns must be at least 1 ns");
        }
        self.open_for = time;
        self
    }

    /// Draws the time for which it is open from `backoff`, by how often it has opened since it was closed. Default: it is
    /// always `open_for`.
    ///
    /// Take [`Jitter::Equal`](crate::Jitter::Equal), so that clients do not probe together, nor at once. How many attempts
    /// the backoff allows does not matter; when a function says `None`, the circuit stays open until it is
    /// [`reset`](CircuitBreaker::reset).
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{CircuitBreaker, Exponential, Jitter};
    ///
    /// let secs = Duration::from_secs;
    /// let backoff = Exponential::new(secs(5)).max(secs(120)).jitter(Jitter::Equal);
    /// let breaker = CircuitBreaker::builder().open_backoff(backoff).build();
    /// # assert_eq!(breaker.state(), floodwall::State::Closed);
    /// ```
    pub fn open_backoff(mut self, backoff: impl Into<Backoff>) -> Self {
        self.backoff = Some(backoff.into());
        self
    }

    /// Opens at once when the dependency throttles, for as long as it asks, up to `at_most`. Default: a throttling is a
    /// failure like others.
    ///
    /// Whatever opens it: a throttling that asks for longer than it would be open is obeyed; without this setting up to ten
    /// times `open_for`.
    ///
    /// # Panics
    ///
    /// If `at_most` is zero.
    #[track_caller]
    pub fn open_when_throttled(mut self, at_most: Duration) -> Self {
        if at_most.is_zero() {
            absurd("open_when_throttled", 0, "ns must be at least 1 ns");
        }
        self.throttled = Some(at_most);
        self
    }

    /// Lets so many calls through when half-open, and closes when they all succeed. Default: 3.
    ///
    /// # Panics
    ///
    /// If `probes` is 0.
    #[track_caller]
    pub fn probes(mut self, probes: u32) -> Self {
        if probes == 0 {
            absurd("probes", 0, "must be at least 1");
        }
        self.probes = probes;
        self
    }

    /// Opens again when this share of the probes has failed, and closes if fewer have once all are done. Default: when one
    /// has failed.
    ///
    /// # Panics
    ///
    /// If `rate` is not above 0 and at most 1.
    #[track_caller]
    pub fn probe_failure_rate(mut self, rate: f64) -> Self {
        self.probe_failure_rate = share("probe_failure_rate", rate);
        self
    }

    /// Goes on slowly after the probes, until `calls` calls have succeeded. Default: it closes as soon as they have.
    ///
    /// Meanwhile only as many calls run at once as have succeeded since it was open: their number doubles with each
    /// answer time, as fast as the dependency really answers, and there is no rush on one that has just come back with
    /// empty caches. It opens again by the same rules as when it is closed, over the calls since it was open.
    pub fn ramp_up(mut self, calls: u32) -> Self {
        self.ramp_up = calls;
        self
    }

    setters!("breaker");

    /// Builds the breaker, closed.
    pub fn build(self) -> CircuitBreaker {
        let failure_rate = match (self.failures, self.failure_rate, self.abandoned_rate) {
            (Some(_), None, None) => None,
            (_, rate, _) => Some(rate.unwrap_or(0.5)),
        };
        let health = Health::new(Watched {
            failures: self.failures,
            failure_rate,
            slow: self.slow,
            abandoned_rate: self.abandoned_rate,
            min_calls: self.min_calls,
            window: self.window,
            last_calls: self.last_calls,
        });
        let machine = Machine {
            open_for: saturating_nanos(self.open_for),
            probes: self.probes,
            probe_failure_rate: self.probe_failure_rate,
            ramp_up: self.ramp_up,
            mode: BreakerMode::Automatic,
            generation: next(0),
            phase: Phase::Closed,
            trips: 0,
        };
        let breaker = CircuitBreaker {
            control: AtomicU64::new(0),
            until: AtomicU64::new(0),
            health,
            machine: Mutex::new(machine),
            growth: self.backoff.map(|backoff| Box::new(Growth { backoff, seeds: Seeds::from_entropy() })),
            throttled: self.throttled.map_or(0, saturating_nanos),
            clock: self.clock,
            hook: self.hook,
        };
        breaker.publish(&breaker.machine.lock());
        breaker
    }
}

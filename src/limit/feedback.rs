//! What the outcomes of calls say about the rate of a limit: [`Feedback`].

use std::time::Duration;

use super::cubic::Cubic;
use super::rate::Rate;
use crate::error::BadSetting;
use crate::event::Outcome;

/// A bucket's rate is a whole number of tokens per period, ours a fraction per second.
const PERIOD: Duration = Duration::from_secs(1_000);

#[derive(Debug)]
pub(super) enum Rule {
    Ratio,
    Aimd {
        increase: f64,
        factor: f64,
    },
    /// Begins with the first result.
    Cubic(Option<Cubic>),
}

/// The settings, and what was heard in this interval. Told the time, and what is shared between calls.
#[derive(Debug)]
pub(super) struct Feedback {
    pub(super) rule: Rule,
    pub(super) floor: f64,
    pub(super) ceiling: f64,
    pub(super) rate: f64,
    pub(super) burst: Option<u64>,
    pub(super) raise_above: f64,
    pub(super) lower_below: f64,
    pub(super) step: f64,
    /// In nanoseconds.
    pub(super) interval: u64,
    pub(super) min_calls: u64,
    /// When this interval began: with its first result, or with the last throttling.
    pub(super) since: Option<u64>,
    /// When a throttling lowered the rate.
    pub(super) lowered: Option<u64>,
    pub(super) calls: u64,
    pub(super) successes: u64,
}

/// How a call ended, never ignored nor abandoned.
#[derive(Clone, Copy)]
pub(super) struct Heard {
    pub(super) outcome: Outcome,
    pub(super) tokens: u32,
    /// It was admitted in this epoch.
    pub(super) is_current: bool,
    /// A call was refused, or had to wait, since the rate was last looked at.
    pub(super) was_reached: bool,
}

/// The rate was looked at, and may have changed.
pub(super) struct Look {
    pub(super) rate: f64,
    pub(super) new_epoch: bool,
}

/// What is wrong with a floor and a ceiling, if anything; a NaN is.
pub(super) fn check_bounds(floor: f64, ceiling: f64) -> Result<(), BadSetting> {
    let (setting, value, must) = if floor.is_nan() || floor < 0.001 {
        ("floor", floor, "must be at least 0.001")
    } else if ceiling.is_nan() || ceiling < floor {
        ("ceiling", ceiling, "must be at least the floor")
    } else if ceiling > 1e12 {
        ("ceiling", ceiling, "must be at most 1000000000000")
    } else {
        return Ok(());
    };
    Err(BadSetting::real(setting, value, must))
}

impl Feedback {
    /// Within floor and ceiling always: every rate is clamped here, and `start` checks its own.
    pub(super) fn hear(&mut self, heard: Heard, now: u64) -> Option<Look> {
        let (rate, lowered) = match self.rule {
            Rule::Ratio => (self.hear_ratio(heard, now)?, false),
            Rule::Aimd { .. } | Rule::Cubic(_) => self.hear_throttling(heard, now)?,
        };
        let rate = rate.clamp(self.floor, self.ceiling);
        let changed = matches!(self.rule, Rule::Ratio) && rate != self.rate;
        Some(Look { rate, new_epoch: lowered || changed })
    }

    /// Every change begins an epoch: what the next one is judged by was admitted under the rate that is judged, also
    /// where calls take longer than an interval.
    fn hear_ratio(&mut self, heard: Heard, now: u64) -> Option<f64> {
        if !heard.is_current {
            return None;
        }
        self.calls += 1;
        self.successes += u64::from(heard.outcome == Outcome::Success);
        if !self.is_over(now) || self.calls < self.min_calls {
            return None;
        }
        let ratio = self.successes as f64 / self.calls as f64;
        let rate = if ratio < self.lower_below {
            self.rate * (1.0 - self.step)
        } else if ratio > self.raise_above && heard.was_reached {
            self.rate * (1.0 + self.step)
        } else {
            self.rate
        };
        (self.since, self.calls, self.successes) = (None, 0, 0);
        Some(rate)
    }

    /// Only lowering begins an epoch: a throttling must count although the rate rose since the call was admitted.
    fn hear_throttling(&mut self, heard: Heard, now: u64) -> Option<(f64, bool)> {
        let old = self.rate;
        if let Rule::Cubic(cubic) = &mut self.rule {
            cubic.get_or_insert_with(|| Cubic::starting(old, now)).count(heard.tokens, now);
        }
        match heard.outcome {
            _ if !heard.is_current => None,
            Outcome::Throttled { .. } => {
                self.since = Some(now);
                // A burst that meets a server without room is one congestion, although each of its calls is current.
                if self.lowered.is_some_and(|at| now.saturating_sub(at) < self.interval) {
                    return None;
                }
                self.lowered = Some(now);
                let rate = match &mut self.rule {
                    Rule::Cubic(Some(cubic)) => cubic.lowered(old, now),
                    Rule::Aimd { factor, .. } => old * *factor,
                    Rule::Ratio | Rule::Cubic(None) => old,
                };
                Some((rate, true))
            }
            Outcome::Success if self.is_over(now) => {
                self.since = None;
                let rate = match &self.rule {
                    Rule::Cubic(Some(cubic)) => cubic.raised(now),
                    Rule::Aimd { increase, .. } => old + *increase,
                    Rule::Ratio | Rule::Cubic(None) => old,
                };
                Some((if heard.was_reached { rate } else { rate.min(old) }, false))
            }
            _ => None,
        }
    }

    /// Returns whether this interval is over; begins it if it had not begun.
    fn is_over(&mut self, now: u64) -> bool {
        // A time that was read before another call's may be earlier.
        now.saturating_sub(*self.since.get_or_insert(now)) >= self.interval
    }

    /// Moves the bounds, and the rate between them. A rate that has changed begins an epoch: what is still to end was
    /// admitted under another one.
    pub(super) fn bound(&mut self, floor: f64, ceiling: f64) -> Option<Look> {
        (self.floor, self.ceiling) = (floor, ceiling);
        let rate = self.rate.clamp(floor, ceiling);
        if rate == self.rate {
            return None;
        }
        (self.since, self.calls, self.successes) = (None, 0, 0);
        Some(Look { rate, new_epoch: true })
    }

    #[track_caller]
    pub(super) fn bucket_rate(&self) -> Rate {
        let tokens = (self.rate * PERIOD.as_secs() as f64).round() as u64;
        let burst = self.burst.unwrap_or(self.rate.max(1.0) as u64);
        Rate::expect(tokens, PERIOD, Some(burst))
    }
}

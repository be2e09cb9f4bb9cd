//! What a breaker does when it is not simply closed: [`Machine`], told the time, under the breaker's lock.
//!
//! Invariants, which the tests hold against a twin and loom against racing threads:
//!
//! 1. Every change of phase goes through `enter`, which raises the generation. A result counts only if its ticket is of the
//!    generation that is now, so what was started before a change says nothing after it.
//! 2. `out` is the number of this round's probes that have not reported. Before they have decided, one is let out only
//!    while `out + decided < probes`; while it ramps up, only while `out` is below the number that have succeeded.
//! 3. A round ends when its lease does: then the probes that are out hold no places any more. So neither a hung probe nor
//!    one whose permit was leaked can keep it half-open. They still count when they report: the dependency did answer.
//! 4. Once the probes have failed it admits nobody and cannot close, until the caller has opened it. That is a step
//!    of its own, since the open time may come from the user's code, which must not run under the lock.

use super::BreakerMode;
use crate::event::State;

/// `generation << 40`; the bits below are the control word's flags, or the ticket's round and start.
pub(super) const GENERATION_SHIFT: u32 = 40;
pub(super) const GENERATION: u64 = u64::MAX << GENERATION_SHIFT;
pub(super) const ROUND_SHIFT: u32 = 32;
const ROUND: u64 = 0xff << ROUND_SHIFT;

#[derive(Debug)]
pub(super) struct Machine {
    /// In nanoseconds.
    pub(super) open_for: u64,
    pub(super) probes: u32,
    /// Probes have failed when this share of them has; with 0, when one has.
    pub(super) probe_failure_rate: f64,
    /// Closes when so many calls have succeeded in half-open.
    pub(super) ramp_up: u32,
    pub(super) mode: BreakerMode,
    /// Shifted to its place. Never 0: tickets that do not count have that.
    pub(super) generation: u64,
    pub(super) phase: Phase,
    /// How often it has opened since it was last closed.
    pub(super) trips: u32,
}

#[derive(Debug)]
pub(super) enum Phase {
    Closed,
    Open { until: u64 },
    HalfOpen(Trial),
}

/// One half-open period.
#[derive(Debug, Default)]
pub(super) struct Trial {
    round: u8,
    /// Set once the probes have failed.
    is_lost: bool,
    out: u32,
    succeeded: u32,
    failed: u32,
    in_a_row: u32,
    lease: u64,
}

/// What is said to the observer, if anything.
pub(super) type Change = Option<(State, State)>;

/// What became of a result.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Stays,
    Closes(Change),
    /// The caller is to `open` it.
    Fails,
}

/// When failures are too many, after the probes have decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) failures: u64,
    pub(super) failure_rate: f64,
}

impl Machine {
    /// Admits a call with generation and round as its word, or says how many nanoseconds to wait.
    pub(super) fn admit(&mut self, now: u64) -> (Result<u64, u64>, Change) {
        let mut change = None;
        match self.phase {
            Phase::Closed => unreachable!("closed, it is not asked"),
            Phase::Open { until } if now < until => return (Err(until - now), None),
            Phase::Open { .. } => change = self.enter(Phase::HalfOpen(Trial::default())),
            Phase::HalfOpen(_) => {}
        }
        let (probes, open_for, generation) = (self.probes, self.open_for, self.generation);
        let Phase::HalfOpen(trial) = &mut self.phase else { unreachable!("entered above") };
        if trial.is_lost || trial.is_full(probes) {
            if trial.is_lost || now < trial.lease {
                // By then they may have decided.
                let wait = (open_for / 10).min(trial.lease.saturating_sub(now)).max(1);
                return (Err(wait), change);
            }
            trial.round = trial.round.wrapping_add(1);
            trial.out = 0;
        }
        trial.out += 1;
        trial.lease = now.saturating_add(open_for);
        (Ok(generation | u64::from(trial.round) << ROUND_SHIFT), change)
    }

    /// Hears how a call of half-open ended: whether it failed, or nothing.
    pub(super) fn settle(&mut self, word: u64, failed: Option<bool>, rules: Rules) -> Step {
        let is_current = word & GENERATION == self.generation;
        let Phase::HalfOpen(trial) = &mut self.phase else { return Step::Stays };
        if !is_current {
            return Step::Stays;
        }
        if (word & ROUND) >> ROUND_SHIFT == u64::from(trial.round) {
            // Saturates: one of 256 rounds ago passes for one of this.
            trial.out = trial.out.saturating_sub(1);
        }
        match failed {
            _ if trial.is_lost => return Step::Stays,
            None => return Step::Stays,
            Some(true) => {
                trial.failed += 1;
                trial.in_a_row += 1;
            }
            Some(false) => {
                trial.succeeded += 1;
                trial.in_a_row = 0;
            }
        }
        let decided = trial.succeeded + trial.failed;
        let probes = f64::from(self.probes);
        let ramps = decided > self.probes;
        trial.is_lost = failed == Some(true)
            && if ramps {
                u64::from(trial.in_a_row) >= rules.failures
                    || f64::from(trial.failed) / f64::from(decided) >= rules.failure_rate
            } else {
                f64::from(trial.failed) / probes >= self.probe_failure_rate
            };
        if trial.is_lost {
            Step::Fails
        } else if decided >= self.probes && trial.succeeded >= self.ramp_up {
            Step::Closes(self.close())
        } else {
            Step::Stays
        }
    }

    /// Opens until a time, if nothing has changed since `generation`.
    pub(super) fn open(&mut self, generation: u64, until: u64) -> Change {
        if self.generation != generation {
            return None;
        }
        self.trips = self.trips.saturating_add(1);
        self.enter(Phase::Open { until })
    }

    /// Closes, as new.
    pub(super) fn close(&mut self) -> Change {
        self.trips = 0;
        self.enter(Phase::Closed)
    }

    /// Enters a mode. What overrides the machine starts it anew, before and after.
    pub(super) fn set_mode(&mut self, mode: BreakerMode, now: u64) -> Change {
        let from = self.state(now);
        let overrides = |mode| matches!(mode, BreakerMode::ForcedOpen | BreakerMode::Disabled);
        let anew = mode != self.mode && (overrides(mode) || overrides(self.mode));
        self.mode = mode;
        if anew {
            self.close();
        }
        let to = self.state(now);
        (from != to).then_some((from, to))
    }

    /// The state that a call would meet at `now`.
    pub(super) fn state(&self, now: u64) -> State {
        match (self.mode, &self.phase) {
            (BreakerMode::ForcedOpen, _) => State::Open,
            (BreakerMode::Disabled, _) => State::Closed,
            (_, Phase::Open { until }) if now >= *until => State::HalfOpen,
            (_, phase) => phase.state(),
        }
    }

    fn enter(&mut self, phase: Phase) -> Change {
        let (from, to) = (self.phase.state(), phase.state());
        self.generation = next(self.generation);
        self.phase = phase;
        (from != to).then_some((from, to))
    }
}

impl Trial {
    const fn is_full(&self, probes: u32) -> bool {
        let decided = self.succeeded + self.failed;
        if decided < probes {
            self.out + decided >= probes
        } else {
            let allowed = if self.succeeded > 0 { self.succeeded } else { 1 };
            self.out >= allowed
        }
    }
}

impl Phase {
    pub(super) const fn state(&self) -> State {
        match self {
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen(_) => State::HalfOpen,
        }
    }
}

/// The generation after another one, past 0.
pub(super) const fn next(generation: u64) -> u64 {
    match generation.wrapping_add(1 << GENERATION_SHIFT) {
        0 => 1 << GENERATION_SHIFT,
        next => next,
    }
}

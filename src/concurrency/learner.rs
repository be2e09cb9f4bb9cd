//! What a limit learns from how calls end: [`Learner`], told the time.

use super::rule::{Rule, Seen};
use crate::clock::NEVER;
use crate::rng::Rng;

/// The limit, and what was heard since it was last looked at.
///
/// It is looked at after a *round*: as many calls as the limit, all of which began since the last look. What they show
/// they show of the limit that is judged.
#[derive(Debug)]
pub(super) struct Learner {
    pub(super) rule: Rule,
    pub(super) floor: u64,
    pub(super) ceiling: u64,
    /// Never below the floor, nor above the ceiling.
    pub(super) limit: f64,
    /// In nanoseconds.
    pub(super) slow_after: u64,
    /// When this round began.
    since: u64,
    calls: u64,
    /// Of their round trips, in nanoseconds.
    sum: u64,
    was_used: bool,
    /// The average of the last round that is known, in nanoseconds; 0 before it.
    rtt: f64,
    /// How long calls take when the dependency is not loaded, in nanoseconds; 0 before it is known.
    baseline: f64,
    phase: Phase,
    /// When a congestion lowered the limit.
    lowered: Option<u64>,
    /// Of the calls that began since then, the share that was too slow; the latest count most.
    slow: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// So many rounds since the last probe, of so many.
    Running { rounds: u64, of: u64 },
    /// The limit is halved for one round, so that a queue shows: without it, calls take less time.
    Probing,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Answered,
    /// It ran out of time.
    TooLate,
    Throttled,
    /// It says nothing, unless it was too slow.
    Otherwise,
}

/// A round has at least so many calls, so that their average means something.
const MIN_CALLS: u64 = 10;

/// A round that takes so many times the baseline asks for a probe,
const SUSPICIOUS: f64 = 2.0;
/// after so many rounds.
const SOONEST_PROBE: u64 = 5;
/// Without suspicion, a probe comes after that many rounds, to as many again.
const ROUNDS: u64 = 20;

/// A probe ends after so many round trips, if it has the least of calls.
const LONGEST_PROBE: u64 = 4;

/// The last calls say how many are too slow: roughly as many as the limit, but at least and at most so many.
const MEMORY: (f64, f64) = (8.0, 32.0);
/// This share of them is a congestion.
const CONGESTED: f64 = 0.2;

/// A round that is so much faster is a new baseline, not luck.
const FASTER: f64 = 0.8;

impl Learner {
    /// Starts with the gradient.
    pub(super) const fn new(floor: u64, ceiling: u64, start: u64) -> Self {
        Self {
            rule: Rule::Gradient,
            floor,
            ceiling,
            limit: start as f64,
            slow_after: NEVER,
            since: 0,
            calls: 0,
            sum: 0,
            was_used: false,
            rtt: 0.0,
            baseline: 0.0,
            // The first baseline was learned under load, so the first probe comes early.
            phase: Phase::Running { rounds: 0, of: SOONEST_PROBE },
            lowered: None,
            slow: 0.0,
        }
    }

    /// Returns how many calls may run at once now.
    pub(super) fn max(&self) -> u64 {
        let max = if self.phase == Phase::Probing { self.limit / 2.0 } else { self.limit };
        (max as u64).clamp(self.floor, self.ceiling)
    }

    pub(super) fn baseline(&self) -> Option<u64> {
        (self.baseline > 0.0).then_some(self.baseline as u64)
    }

    /// Hears how a call ended that began at `start`, and whether half of the limit was in flight then.
    pub(super) fn hear(&mut self, heard: Heard, start: u64, was_used: bool, now: u64) {
        // A clock that went back says nothing of how long the call took.
        let Some(rtt) = now.checked_sub(start) else { return };
        let is_slow = heard == Heard::TooLate || rtt > self.slow_after;
        if heard == Heard::Otherwise && !is_slow {
            return;
        }
        if heard == Heard::Throttled || self.is_congested(is_slow, start) {
            self.lower(start, now);
        } else if !is_slow && start >= self.since {
            self.calls += 1;
            self.sum = self.sum.saturating_add(rtt.max(1));
            self.was_used |= was_used;
            if self.calls >= self.max().max(MIN_CALLS) || self.probes_too_long(now) {
                self.end_round(now);
            }
        }
    }

    /// A straggler is no congestion: some calls take long whatever the limit is.
    fn is_congested(&mut self, is_slow: bool, start: u64) -> bool {
        if self.lowered.is_some_and(|lowered| start <= lowered) {
            return false;
        }
        self.slow += (f64::from(u8::from(is_slow)) - self.slow) / self.limit.clamp(MEMORY.0, MEMORY.1);
        self.slow > CONGESTED
    }

    /// Once for all calls that the same congestion slowed down: those that began before the limit was lowered met the old
    /// one. And where refusals come faster than answers, once in the time that answers take.
    fn lower(&mut self, start: u64, now: u64) {
        if let Some(lowered) = self.lowered {
            if start <= lowered || now.saturating_sub(lowered) < self.rtt as u64 {
                return;
            }
        }
        (self.lowered, self.slow) = (Some(now), 0.0);
        self.set(self.rule.lowered(self.limit));
        self.begin_round(now);
    }

    fn end_round(&mut self, now: u64) {
        let (rtt, was_used) = (self.sum as f64 / self.calls as f64, self.was_used);
        self.begin_round(now);
        if !self.rule.needs_baseline() {
            self.rtt = rtt;
            self.set(self.rule.next(self.limit, Seen { baseline: rtt, rtt, was_used }));
            return;
        }
        match &mut self.phase {
            Phase::Probing => {
                self.baseline = rtt;
                // Drawn from the times, so that clients who share a server do not probe in step.
                let more = Rng::seeded(now ^ rtt.to_bits()).up_to(ROUNDS);
                self.phase = Phase::Running { rounds: 0, of: ROUNDS + more };
            }
            Phase::Running { rounds, of } => {
                *rounds += 1;
                let suspicious = *rounds >= SOONEST_PROBE && rtt > SUSPICIOUS * self.baseline;
                if *rounds >= *of || suspicious {
                    self.phase = Phase::Probing;
                }
                self.rtt = rtt;
                if self.baseline == 0.0 {
                    self.baseline = rtt;
                    return;
                }
                if rtt < FASTER * self.baseline {
                    self.baseline = rtt;
                }
                let seen = Seen { baseline: self.baseline, rtt, was_used };
                self.set(self.rule.next(self.limit, seen));
            }
        }
    }

    /// Where few calls succeed, enough of them do not come in one round's time; the limit must not stay halved for it.
    fn probes_too_long(&self, now: u64) -> bool {
        let most = (self.sum / self.calls).saturating_mul(LONGEST_PROBE);
        self.phase == Phase::Probing && self.calls >= MIN_CALLS && now.saturating_sub(self.since) > most
    }

    fn begin_round(&mut self, now: u64) {
        (self.since, self.calls, self.sum, self.was_used) = (now, 0, 0, false);
    }

    /// Changes the bounds, and the limit if it is outside.
    pub(super) fn set_between(&mut self, floor: u64, ceiling: u64) {
        (self.floor, self.ceiling) = (floor, ceiling);
        self.set(self.limit);
    }

    /// Every limit passes here: none is above the ceiling or below the floor, which is at least 1.
    pub(super) fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(self.floor as f64, self.ceiling as f64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn learner(rule: Rule, floor: u64, ceiling: u64, start: u64) -> Learner {
        let mut learner = Learner::new(floor, ceiling, start);
        learner.rule = rule;
        learner
    }

    /// A round of as many calls as may run, each of `rtt`.
    fn round(learner: &mut Learner, now: &mut u64, rtt: u64) {
        let start = *now;
        *now += rtt;
        for _ in 0..learner.max().max(MIN_CALLS) {
            learner.hear(Heard::Answered, start, true, *now);
        }
    }

    /// The published vectors, by way of rounds: the first one of a baseline changes nothing.
    #[test]
    fn vegas_learns_its_baseline_before_it_moves() {
        for (rtt, then) in [(10, 16.0), (50, 9.0), (14, 10.0)] {
            let (mut vegas, mut now) = (learner(Rule::Vegas, 1, 1_000, 10), MS);
            round(&mut vegas, &mut now, 10 * MS);
            assert_eq!((vegas.limit, vegas.baseline()), (10.0, Some(10 * MS)));
            round(&mut vegas, &mut now, rtt * MS);
            assert_eq!(vegas.limit, then, "{rtt} ms");
        }
        let aimd = Rule::Aimd { increase: 1.0, factor: 0.9 };
        let (mut full, mut now) = (learner(aimd, 1, 21, 21), MS);
        round(&mut full, &mut now, 10 * MS);
        assert_eq!(full.limit, 21.0);
        let mut dropped = learner(aimd, 1, 200, 30);
        dropped.hear(Heard::Throttled, MS, true, 2 * MS);
        assert_eq!(dropped.limit, 27.0);
    }

    #[test]
    fn calls_of_the_round_before_are_not_counted() {
        let (mut gradient, mut now) = (learner(Rule::Gradient, 1, 1_000, 10), MS);
        round(&mut gradient, &mut now, 10 * MS);
        let limit = gradient.limit;
        for _ in 0..100 {
            gradient.hear(Heard::Answered, now - 1, true, now + 900 * MS);
        }
        assert_eq!((gradient.limit, gradient.calls), (limit, 0));
    }

    #[test]
    fn calls_that_take_twice_as_long_ask_for_a_probe_but_not_too_often() {
        let (mut gradient, mut now) = (learner(Rule::Gradient, 1, 1_000, 100), MS);
        let mut probes = Vec::new();
        for number in 0..40 {
            if gradient.phase == Phase::Probing {
                probes.push(number);
            }
            // Always slower, so that no baseline is ever good enough.
            round(&mut gradient, &mut now, (10 * MS) << number.min(30));
        }
        assert!(probes.len() >= 5, "{probes:?}");
        assert!(probes.windows(2).all(|pair| pair[1] - pair[0] > SOONEST_PROBE), "{probes:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

        /// Whatever calls tell, at whatever times: the limit stays between its bounds and is a number; it rises only where
        /// it was used, and falls by a congestion only once for calls that began before.
        #[test]
        fn a_limit_keeps_its_rules(
            rule in prop_oneof![
                Just(Rule::Vegas),
                Just(Rule::Gradient),
                (0.1f64..50.0, 0.01f64..0.99).prop_map(|(increase, factor)| Rule::Aimd { increase, factor }),
            ],
            floor in 1u64..20,
            room in 0u64..300,
            slow_after in prop_oneof![Just(NEVER), 0u64..100],
            ends in prop::collection::vec((0u8..8, any::<bool>(), 0u64..200, any::<u32>()), 1..800),
        ) {
            let (ceiling, mut now) = (floor + room, 1_000u64);
            let mut learner = learner(rule, floor, ceiling, floor + room / 2);
            learner.slow_after = slow_after;
            let (mut used_since, mut lowered) = (false, None);
            for (end, was_used, took, moves) in ends {
                // Mostly forwards; a clock that goes back, or jumps by centuries, is told too.
                now = match moves % 64 {
                    0 => now.saturating_sub(500),
                    1 => now.saturating_add(u64::MAX / 8),
                    step => now.saturating_add(u64::from(step)),
                };
                let start = if end == 7 { now.saturating_add(took) } else { now.saturating_sub(took) };
                let heard = match end {
                    0 => Heard::Throttled,
                    1 => Heard::TooLate,
                    2 => Heard::Otherwise,
                    _ => Heard::Answered,
                };
                let (before, since) = (learner.limit, learner.since);
                used_since |= was_used;
                learner.hear(heard, start, was_used, now);
                let after = learner.limit;
                prop_assert!(after.is_finite() && after >= floor as f64 && after <= ceiling as f64);
                prop_assert!((floor..=ceiling).contains(&learner.max()));
                if after > before {
                    prop_assert!(used_since, "rose unused");
                    prop_assert_eq!(heard, Heard::Answered);
                }
                if heard == Heard::Throttled && after < before {
                    prop_assert!(lowered.is_none_or(|lowered| start > lowered), "lowered twice");
                }
                if learner.lowered != lowered {
                    lowered = learner.lowered;
                }
                if learner.since != since {
                    used_since = false;
                }
            }
        }
    }
}

//! Whether an entry is to be given out, refreshed or both: a pure decision, [`Rules::state`], and who acts on it.
//!
//! An entry has one word for this beside the time when it leaves: from when on it is due to be refreshed. Whoever finds it
//! due moves the word ahead, and is the one to refresh it; if that fails the word says when to try again. Its lowest bit
//! says that it was moved, so that nobody takes it for what was written.
//!
//! Where entries are refreshed early, the word of one that nobody has moved lies as long before the end as its load takes, times
//! beta. That is the unit in which what is left is measured: the chance that an entry is due is e to the power of minus
//! that (A. Vattani, F. Chierichetti and K. Lowenstein, "Optimal probabilistic cache stampede prevention", 2015).

use super::expiry::Rules;
use super::times::Times;
use crate::clock::NEVER;

const SECOND: u64 = 1_000_000_000;
/// How long whoever has claimed a refresh has for it, before another one may. Only for those that vanish: a refresh in
/// progress keeps others away however long it takes.
const LEASE: u64 = 10 * SECOND;
/// How long to wait after a refresh that has failed, at least and at most.
const BACKOFF: (u64, u64) = (SECOND, 60 * SECOND);

/// What an entry is worth to one who would load it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is given out.
    Good,
    /// It is given out, and whoever claims it refreshes it.
    Due,
    /// It is loaded anew, and given out if that fails.
    Spare,
    /// It is worth nothing.
    Over,
}

/// That somebody is to refresh an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    found: u64,
    left: u64,
}

impl Rules {
    /// Returns what an entry is worth at `now`, and how long it has to live if its time is not over.
    pub(super) fn state(&self, times: Times<'_>, now: u64) -> (State, Option<u64>) {
        let due = times.get(self.due_word());
        let left = self.left(times, now);
        if left.is_some() {
            let is_due = due <= now && (self.early == 0.0 || due & 1 == 1);
            return (if is_due { State::Due } else { State::Good }, left);
        }
        let (leaves, kept) = (times.expires(), self.kept());
        if leaves <= now {
            return (State::Over, None);
        }
        let over_for = (now + kept).saturating_sub(leaves);
        let waits = waits(due, now);
        let state = match (waits, over_for < self.revalidate, over_for < self.on_error) {
            (_, false, false) => State::Over,
            (true, _, _) => State::Good,
            (false, true, _) => State::Due,
            (false, false, true) => State::Spare,
        };
        (state, None)
    }

    /// The time from which an early refresh of an entry is measured that ends at `cap`.
    pub(super) fn early_from(&self, cap: u64, took: u64) -> u64 {
        // A cast ends at the largest number.
        if cap == NEVER { NEVER } else { cap.saturating_sub((took as f64 * self.early) as u64) }
    }

    /// Whether an entry that is good is refreshed before its end; `draw` gives 64 random bits.
    #[inline]
    pub(super) fn is_early(&self, times: Times<'_>, now: u64, draw: impl FnOnce() -> u64) -> bool {
        if self.early == 0.0 {
            return false;
        }
        let from = times.get(self.due_word());
        let end = if self.caps() { times.get(self.cap_word()) } else { self.end(times.expires()) };
        let (scale, left) = (end.saturating_sub(from), end.saturating_sub(now));
        // Somebody has moved it; or what is left is so many units that it would not happen in the age of the world.
        if from & 1 == 1 || left / 64 >= scale {
            return false;
        }
        let drawn = draw() as f64 / u64::MAX as f64;
        drawn < (-(left as f64) / scale as f64).exp()
    }

    /// Hears that a reader has moved the end of an entry: it is refreshed as long before the new one.
    pub(super) fn end_moved(&self, times: Times<'_>, old: u64, new: u64) {
        let from = times.get(self.due_word());
        if self.early > 0.0 && !self.caps() && from & 1 == 0 {
            let moved = if new == NEVER { NEVER - 1 } else { new.saturating_sub(old.saturating_sub(from)) };
            times.exchange(self.due_word(), from, moved & !1);
        }
    }

    /// Claims the refresh of an entry that is due; `None` if another one has.
    pub(super) fn claim(&self, times: Times<'_>, now: u64) -> Option<Claim> {
        let found = times.get(self.due_word());
        // Another one may have been faster since it was seen to be due.
        if waits(found, now) {
            return None;
        }
        let left = now.saturating_add(LEASE) | 1;
        times.exchange(self.due_word(), found, left).then_some(Claim { found, left })
    }

    /// What to do later for an entry whose load fails now.
    pub(super) fn spare(&self, times: Times<'_>) -> Claim {
        let due = times.get(self.due_word());
        Claim { found: due, left: due }
    }

    /// Lets an entry whose refresh has failed be given out for a while before the next one; if it still is that entry.
    pub(super) fn failed(&self, claim: Claim, times: Times<'_>, now: u64) {
        let leaves = times.expires();
        let over_for = now.saturating_add(self.kept()).saturating_sub(leaves);
        let wait = (over_for / 2).clamp(BACKOFF.0, BACKOFF.1);
        times.exchange(self.due_word(), claim.left, now.saturating_add(wait) | 1);
    }

    /// Gives a claim back that came to nothing.
    pub(super) fn unclaim(&self, claim: Claim, times: Times<'_>) {
        times.exchange(self.due_word(), claim.left, claim.found);
    }
}

/// Whether an entry is not to be refreshed yet, since somebody moved the time at which it is due. One that has ended before it
/// was due, since nobody used it, does not wait.
const fn waits(due: u64, now: u64) -> bool {
    due > now && due & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::AtomicU64;

    const RULES: Rules = Rules {
        ttl: 100 * SECOND,
        ahead: super::super::expiry::WHOLE / 2,
        revalidate: 20 * SECOND,
        on_error: 1_000 * SECOND,
        ..Rules::FOREVER
    };

    fn entry(rules: &Rules, now: u64) -> Vec<AtomicU64> {
        let life = rules.life(now, rules.ttl, 7, SECOND);
        life.words[..rules.words()].iter().map(|word| AtomicU64::new(*word)).collect()
    }

    #[test]
    fn an_entry_is_good_then_due_then_a_spare_then_over() {
        let entry = entry(&RULES, SECOND);
        let state = |at| {
            let (state, left) = RULES.state(Times(&entry), at);
            (state, left.is_none())
        };
        let table = [
            (0, State::Good, false),
            (51 * SECOND - 1, State::Good, false),
            (51 * SECOND, State::Due, false),
            (101 * SECOND - 1, State::Due, false),
            (101 * SECOND, State::Due, true),
            (121 * SECOND - 1, State::Due, true),
            (121 * SECOND, State::Spare, true),
            (1_101 * SECOND - 1, State::Spare, true),
            (1_101 * SECOND, State::Over, true),
            (NEVER - 1, State::Over, true),
        ];
        for (at, worth, over) in table {
            assert_eq!(state(at), (worth, over), "{at}");
        }
    }

    #[test]
    fn an_early_refresh_is_as_likely_as_the_paper_says() {
        let rules = Rules { ttl: 200 * SECOND, early: 2.0, ..Rules::FOREVER };
        let entry = entry(&rules, 0);
        let times = Times(&entry);
        // Its load took a second: it is due if a number between 0 and 1 is below e^(-left / 2 s).
        for (at, chance) in [(198.0, (-1.0f64).exp()), (199.0, (-0.5f64).exp()), (180.0, (-10.0f64).exp())] {
            let now = (at * 1e9) as u64;
            assert_eq!(rules.state(times, now).0, State::Good);
            let below = ((chance - 1e-9) * u64::MAX as f64) as u64;
            let above = ((chance + 1e-9) * u64::MAX as f64) as u64;
            assert!(rules.is_early(times, now, || below), "at {at}");
            assert!(!rules.is_early(times, now, || above), "at {at}");
        }
        assert!(!rules.is_early(times, 0, || panic!("so long before its end nothing is drawn")));
        let claim = rules.claim(times, 199 * SECOND).unwrap();
        assert!(!rules.is_early(times, 199 * SECOND, || 0), "another one refreshes it");
        rules.failed(claim, times, 199 * SECOND);
        assert_eq!(rules.state(times, 199 * SECOND + SECOND / 2).0, State::Good);
        assert!(rules.claim(times, 199 * SECOND + SECOND / 2).is_none());
    }

    #[test]
    fn an_entry_that_lives_on_is_refreshed_as_long_before_its_new_end() {
        let rules = Rules { ttl: 100 * SECOND, early: 2.0, after_read: true, ..Rules::FOREVER };
        let entry = entry(&rules, 0);
        let times = Times(&entry);
        rules.live_on(times, 50 * SECOND, 100 * SECOND);
        assert!(!rules.is_early(times, 99 * SECOND, || u64::MAX / 1000));
        assert!(rules.is_early(times, 148 * SECOND, || u64::MAX / 3));
        assert!(!rules.is_early(times, 148 * SECOND, || u64::MAX / 2));
        rules.live_on(times, 50 * SECOND, NEVER);
        assert!(!rules.is_early(times, 148 * SECOND, || 0), "what never ends is never refreshed");
    }

    #[test]
    fn one_claims_a_refresh_and_the_claim_ends_by_itself() {
        let entry = entry(&RULES, 0);
        let times = Times(&entry);
        let claim = RULES.claim(times, 60 * SECOND).unwrap();
        assert!(RULES.claim(times, 60 * SECOND).is_none(), "who saw it due at the same time comes too late");
        assert_eq!(RULES.state(times, 60 * SECOND).0, State::Good);
        assert_eq!(RULES.state(times, 70 * SECOND).0, State::Good);
        assert_eq!(RULES.state(times, 70 * SECOND + 1).0, State::Due, "who claimed it has vanished");
        RULES.unclaim(claim, times);
        assert_eq!(RULES.state(times, 60 * SECOND).0, State::Due);
    }

    #[test]
    fn who_fails_backs_off_the_longer_the_longer_the_entry_is_over() {
        let entry = entry(&RULES, 0);
        let times = Times(&entry);
        let mut waits = Vec::new();
        let mut now = 50 * SECOND;
        while now < 1_100 * SECOND {
            let claim = match RULES.state(times, now).0 {
                State::Due => RULES.claim(times, now).unwrap(),
                State::Spare => RULES.spare(times),
                state => panic!("{state:?} at {now}"),
            };
            RULES.failed(claim, times, now);
            let failed = now;
            while RULES.state(times, now).0 == State::Good {
                now += SECOND / 2;
            }
            waits.push((now - failed) / SECOND);
        }
        waits.pop();
        assert!(waits[..30].iter().all(|wait| *wait == 1), "{waits:?}");
        assert!(waits.is_sorted() && waits.len() < 60 && waits.contains(&8), "{waits:?}");
        assert_eq!(waits.last(), Some(&60));
    }

    #[test]
    fn a_newer_entry_does_not_hear_of_what_failed_before_it() {
        let entry = entry(&RULES, 0);
        let claim = RULES.claim(Times(&entry), 60 * SECOND).unwrap();
        let newer = super::tests::entry(&RULES, 60 * SECOND);
        RULES.failed(claim, Times(&newer), 61 * SECOND);
        assert_eq!(RULES.state(Times(&newer), 110 * SECOND).0, State::Due);
    }

    #[test]
    fn an_entry_that_nobody_used_is_due_at_its_end() {
        let rules = Rules { idle: 10 * SECOND, ..RULES };
        let entry = entry(&rules, 0);
        assert_eq!(rules.state(Times(&entry), 9 * SECOND).0, State::Good);
        assert_eq!(rules.state(Times(&entry), 10 * SECOND).0, State::Due);
        assert_eq!(rules.state(Times(&entry), 30 * SECOND).0, State::Spare);
    }
}

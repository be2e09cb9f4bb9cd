//! Whether an entry is to be given out, refreshed or both: a pure decision, [`Rules::state`], and who acts on it.
//!
//! An entry has one word for this beside the time when it leaves: from when on it is due to be refreshed. Whoever finds it
//! due moves the word ahead, and is the one to refresh it; if that fails the word says when to try again. Its lowest bit
//! says that it was moved, so that nobody takes it for what was written.

use super::expiry::Rules;
use super::times::Times;

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
            return (if due <= now { State::Due } else { State::Good }, left);
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
    use crate::clock::NEVER;
    use crate::sync::AtomicU64;

    const RULES: Rules = Rules {
        ttl: 100 * SECOND,
        ahead: super::super::expiry::WHOLE / 2,
        revalidate: 20 * SECOND,
        on_error: 1_000 * SECOND,
        ..Rules::FOREVER
    };

    fn entry(rules: &Rules, now: u64) -> Vec<AtomicU64> {
        let life = rules.life(now, rules.ttl, 7);
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

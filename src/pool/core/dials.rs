//! When a pool connects: while more callers wait than are being served, and not too soon after a failure.

use super::{Core, Entry, Home, Mode};

/// What to do about dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) enum Plan {
    /// Connect; it is counted already.
    Dial {
        generation: u64,
    },
    /// Look again at this time.
    At(u64),
    Nothing,
}

impl<C> Core<C> {
    pub(in crate::pool) const fn failures(&self) -> u32 {
        self.failures
    }

    pub(in crate::pool) const fn is_failing(&self) -> bool {
        self.failures >= self.limits.fail_fast_after && self.now < self.retry_at
    }

    /// Returns whether there may be one more than there are.
    pub(in crate::pool) fn has_room(&self) -> bool {
        self.total < self.limits.max.saturating_add(self.limits.overflow)
    }

    /// Returns whether there should be one more dial, now or after a pause, for so many who wait.
    pub(in crate::pool) fn wants_dial(&self, waiting: usize) -> bool {
        let free = self.limits.max_connecting.saturating_sub(self.connecting);
        if free == 0 || !matches!(self.mode, Mode::Open | Mode::Draining) {
            return false;
        }
        // Who waits may be about to be served what is idle.
        let unserved = waiting.saturating_sub(self.idle.len());
        let for_callers = self.connecting < unserved && self.has_room();
        for_callers || self.mode == Mode::Open && self.wants_spare(waiting)
    }

    /// Returns whether there should be one more that nobody waits for.
    fn wants_spare(&self, waiting: usize) -> bool {
        if self.runners == 0 || self.total >= self.limits.max {
            return false;
        }
        let coming = (self.idle.len() + self.connecting).saturating_sub(waiting);
        let spare = self.limits.min_idle.min(self.limits.max_idle);
        coming < spare || self.connecting < self.owed || self.living() < self.warm_up
    }

    /// Returns whether nobody but one who sleeps until the next try can do anything about dials.
    pub(in crate::pool) const fn is_kept(&self) -> bool {
        self.keeper && self.now < self.retry_at
    }

    /// Starts a dial, if there should be one more now.
    pub(in crate::pool) fn plan(&mut self, now: u64, waiting: usize) -> Plan {
        self.advance(now);
        if !self.wants_dial(waiting) {
            return Plan::Nothing;
        }
        if self.now < self.retry_at {
            return Plan::At(self.retry_at);
        }
        self.total += 1;
        self.connecting += 1;
        Plan::Dial { generation: self.generation }
    }

    /// A dial has succeeded: takes its connection home.
    pub(in crate::pool) fn dialled(&mut self, now: u64, entry: Box<Entry<C>>) -> Home {
        self.advance(now);
        self.connecting -= 1;
        self.owed = self.owed.saturating_sub(1);
        self.counts.connected += 1;
        (self.failures, self.retry_at) = (0, 0);
        if self.limits.replace_ahead > 0 {
            // Those that were due and had to wait for this one.
            self.sweep_at = self.sweep_at.min(self.now);
        }
        self.put_back(entry)
    }

    /// Returns how often dials have failed in a row, with one that began at `started`. Those that were under way together
    /// have failed together, and count once.
    pub(in crate::pool) const fn failures_with(&self, started: u64) -> u32 {
        if self.failures == 0 || started >= self.failed_at {
            self.failures.saturating_add(1)
        } else {
            self.failures
        }
    }

    /// A dial that began at `started` has failed: none starts for so long.
    pub(in crate::pool) fn failed(&mut self, now: u64, started: u64, delay: u64) {
        self.advance(now);
        self.abandoned();
        self.counts.failed += 1;
        self.failures = self.failures_with(started);
        self.failed_at = self.now;
        self.retry_at = self.retry_at.max(self.now.saturating_add(delay));
    }

    /// A dial is no more, and says nothing about the next.
    pub(in crate::pool) const fn abandoned(&mut self) {
        self.connecting -= 1;
        self.total -= 1;
    }
}

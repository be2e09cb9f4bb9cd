//! Which connections of a pool end: those that are old, unused for long, too many, or of a former generation.

use super::{Core, Entry, Mode};
use crate::clock::NEVER;

impl<C> Core<C> {
    pub(in crate::pool) const fn sweep_at(&self) -> u64 {
        self.sweep_at
    }

    /// Has what is idle looked at once more: it may be due by other rules now.
    pub(in crate::pool) const fn look_again(&mut self) {
        self.sweep_at = 0;
    }

    /// Returns whether there is one more than are kept.
    pub(super) fn is_surplus(&self) -> bool {
        self.living() > self.limits.max || self.idle.len() >= self.limits.max_idle
    }

    #[cold]
    pub(super) fn doom(&mut self, entry: Box<Entry<C>>) {
        self.closing += 1;
        self.doomed.push(entry);
    }

    pub(super) fn doom_idle(&mut self) {
        self.closing += self.idle.len();
        self.doomed.extend(self.idle.drain(..));
    }

    pub(super) fn due(&self, entry: &Entry<C>) -> u64 {
        let ahead = if self.runners > 0 { self.limits.replace_ahead } else { 0 };
        (entry.expires - ahead.min(entry.expires)).min(entry.seen.saturating_add(self.limits.idle_timeout))
    }

    /// Dooms what is overdue. If somebody runs the pool, one that will soon be too old goes while there are others, and
    /// another one is made for it.
    #[cold]
    pub(in crate::pool) fn sweep(&mut self) {
        self.sweep_at = NEVER;
        let is_run = self.runners > 0 && self.mode == Mode::Open;
        for _ in 0..self.idle.len() {
            let Some(entry) = self.idle.pop_front() else { break };
            let idle_until = entry.seen.saturating_add(self.limits.idle_timeout);
            let is_old = entry.expires <= self.now;
            let is_unused = idle_until <= self.now && self.idle.len() >= self.limits.min_idle;
            if is_old || is_unused {
                self.doom(entry);
                continue;
            }
            let ahead = entry.expires.saturating_sub(self.limits.replace_ahead);
            let has_room = self.connecting + self.owed < self.limits.max_connecting;
            if is_run && ahead <= self.now && !self.idle.is_empty() && has_room {
                self.owed += 1;
                self.doom(entry);
                continue;
            }
            // What is due and is kept anyway is looked at again when one is made, or at its end.
            let next = [ahead, idle_until, entry.expires].into_iter().filter(|at| *at > self.now).min();
            self.sweep_at = self.sweep_at.min(next.unwrap_or(NEVER));
            self.idle.push_back(entry);
        }
    }

    /// Dooms what is more than may be kept, those first that were not used for longest.
    pub(in crate::pool) fn trim(&mut self) {
        while self.living() > self.limits.max || self.idle.len() > self.limits.max_idle {
            let Some(entry) = self.idle.pop_front() else { break };
            self.doom(entry);
        }
    }

    /// Lets no connection be given out any more that there is now, nor any that is being made.
    pub(in crate::pool) fn clear(&mut self) {
        self.generation += 1;
        self.doom_idle();
    }

    /// Has all idle connections checked before they are given out.
    pub(in crate::pool) fn suspect(&mut self) {
        self.idle.iter_mut().for_each(|entry| entry.suspect = true);
    }

    /// Takes an idle connection that was not known to work for so long, to be checked.
    pub(in crate::pool) fn take_unproved(&mut self, interval: u64) -> Option<Box<Entry<C>>> {
        let now = self.now;
        let place = self.idle.iter().position(|entry| entry.proved.saturating_add(interval) <= now)?;
        self.idle.remove(place)
    }

    /// Returns when the idle connection was last known to work of which that is longest ago.
    pub(in crate::pool) fn least_proved(&self) -> Option<u64> {
        self.idle.iter().map(|entry| entry.proved).min()
    }

    /// Returns when the idle connection was last used of which that is longest ago.
    pub(in crate::pool) fn oldest(&self) -> Option<u64> {
        Some(self.idle.front()?.seen)
    }

    /// Takes that connection out of the pool.
    pub(in crate::pool) fn take_oldest(&mut self) -> Option<Box<Entry<C>>> {
        let entry = self.idle.pop_front()?;
        self.taken_away();
        Some(entry)
    }

    pub(in crate::pool) fn has_doomed(&self) -> bool {
        !self.doomed.is_empty()
    }

    /// Hands out what is to be closed; each is [`gone`](Core::gone) when it is.
    pub(in crate::pool) fn doomed(&mut self) -> Vec<Box<Entry<C>>> {
        std::mem::take(&mut self.doomed)
    }

    /// A connection that was doomed is closed.
    pub(in crate::pool) const fn gone(&mut self) {
        self.counts.closed += 1;
        self.closing -= 1;
        self.total -= 1;
    }
}

//! Who holds connections, and for how long: [`HeldFor`], for leaks to be found.

use std::panic::Location;
use std::time::Duration;

use crate::clock::NEVER;
use crate::slab::Slab;

/// A connection that is given out: since when, and by which line of code it was taken; from [`Pool::held`](crate::Pool::held).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldFor {
    /// Where it was taken.
    pub at: &'static Location<'static>,
    /// How long it has been held.
    pub held: Duration,
}

/// The connections that are given out, those first that are held for longest. Who was told of leaves the queue.
#[derive(Debug)]
pub(super) struct Held {
    outs: Slab<Out>,
    /// How long one may be held, in nanoseconds; `NEVER` if nobody asks.
    pub(super) limit: u64,
}

#[derive(Clone, Copy, Debug)]
struct Out {
    at: &'static Location<'static>,
    since: u64,
}

impl Held {
    pub(super) const fn new(limit: u64) -> Self {
        Self { outs: Slab::new(), limit }
    }

    pub(super) fn goes_out(&mut self, at: &'static Location<'static>, since: u64) -> usize {
        self.outs.push_back(Out { at, since })
    }

    pub(super) fn comes_home(&mut self, key: usize) {
        self.outs.remove(key);
    }

    /// Returns one that is held for too long and was not told of yet.
    pub(super) fn next_overdue(&mut self, now: u64) -> Option<HeldFor> {
        let first = self.outs.first()?;
        let out = *self.outs.get(first)?;
        if now < self.overdue_at() {
            return None;
        }
        self.outs.unqueue(first);
        Some(out.held(now))
    }

    /// Returns when the next one is held for too long.
    pub(super) fn overdue_at(&self) -> u64 {
        let first = self.outs.first().and_then(|first| self.outs.get(first));
        first.map_or(NEVER, |out| out.since.saturating_add(self.limit))
    }

    pub(super) fn all(&self, now: u64) -> Vec<HeldFor> {
        self.outs.values().map(|out| out.held(now)).collect()
    }
}

impl Out {
    fn held(&self, now: u64) -> HeldFor {
        HeldFor { at: self.at, held: Duration::from_nanos(now.saturating_sub(self.since)) }
    }
}

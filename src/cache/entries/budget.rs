//! How much there may be in all shards together: [`Budget`].

use crate::sync::{AtomicU64, Ordering};

/// The capacity, and what of it nobody has yet.
///
/// Room is counted where things are dropped, not where they leave: what a reader still looks at, or what waits for a
/// scan, takes as much as before. A cache can be filled to the last entry; but once there was no room for one, others leave
/// somewhat before it runs out again: `slack` is what waits to be dropped, or is spread over the shards in small change.
#[derive(Debug)]
pub(super) struct Budget {
    capacity: AtomicU64,
    /// As a signed number: below zero, readers hold more than there is room for.
    pool: AtomicU64,
    slack: AtomicU64,
    /// 1 since somebody found no room, until there is plenty.
    is_full: AtomicU64,
    shards: u64,
}

impl Budget {
    /// What is more cannot be counted.
    const MOST: u64 = i64::MAX as u64 / 2;

    pub(super) fn new(capacity: u64, shards: usize) -> Self {
        let room = capacity.min(Self::MOST);
        Self {
            capacity: AtomicU64::new(capacity),
            pool: AtomicU64::new(room),
            slack: AtomicU64::new(slack(room)),
            is_full: AtomicU64::new(0),
            shards: shards as u64,
        }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// What one entry may weigh.
    pub(super) fn limit(&self) -> u64 {
        self.capacity().min(Self::MOST)
    }

    /// Changes the capacity. What is there and too much counts against the pool.
    pub(super) fn resize(&self, capacity: u64) {
        let before = self.capacity.swap(capacity, Ordering::Relaxed).min(Self::MOST);
        let room = capacity.min(Self::MOST);
        self.slack.store(slack(room), Ordering::Relaxed);
        self.pool.fetch_add(room.wrapping_sub(before), Ordering::Relaxed);
    }

    /// What nobody has; negative if there is too much.
    #[inline]
    fn pool(&self) -> i64 {
        self.pool.load(Ordering::Relaxed) as i64
    }

    /// Whether entries have to leave for those that come to a shard in which so much waits to be dropped. Not if that is
    /// more than its part of the slack: then there is room enough, only not yet.
    #[inline]
    pub(super) fn is_short(&self, pending: u64) -> bool {
        if self.is_full.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let slack = self.slack.load(Ordering::Relaxed);
        if self.pool() >= slack as i64 {
            self.is_full.store(0, Ordering::Relaxed);
            return false;
        }
        pending < slack / self.shards
    }

    /// Remembers that there was no room.
    pub(super) fn fill(&self) {
        self.is_full.store(1, Ordering::Relaxed);
    }

    /// Whether a shard that has so much, given back or soon to be, should have more.
    pub(super) fn is_thin(&self, room: u64) -> bool {
        room < self.slack.load(Ordering::Relaxed) / (2 * self.shards)
    }

    /// How much a shard may keep for itself.
    #[inline]
    pub(super) fn change(&self) -> u64 {
        self.slack.load(Ordering::Relaxed) / (4 * self.shards)
    }

    /// Takes what is wanted or what is there; a little more, so that it need not be asked for often.
    pub(super) fn take(&self, wanted: u64) -> u64 {
        let more = wanted.saturating_add(self.change());
        let mut pool = self.pool();
        while pool > 0 {
            let taken = more.min(pool as u64);
            let (seen, left) = (pool as u64, pool as u64 - taken);
            match self.pool.compare_exchange_weak(seen, left, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return taken,
                Err(now) => pool = now as i64,
            }
        }
        0
    }

    pub(super) fn give(&self, room: u64) {
        self.pool.fetch_add(room, Ordering::Relaxed);
    }

    /// Takes what is not there.
    pub(super) fn overdraw(&self, room: u64) {
        self.pool.fetch_sub(room, Ordering::Relaxed);
    }

    /// What is to be paid for that was taken and not there.
    #[inline]
    pub(super) fn debt(&self) -> u64 {
        0i64.saturating_sub(self.pool()).max(0) as u64
    }
}

/// Small caches have none: each entry that comes waits for the one that leaves.
fn slack(capacity: u64) -> u64 {
    capacity / 64
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_once() {
        let budget = Budget::new(10, 1);
        assert_eq!((budget.take(4), budget.take(7), budget.take(1)), (4, 6, 0));
        budget.overdraw(3);
        assert_eq!((budget.debt(), budget.take(1)), (3, 0));
        budget.give(5);
        assert_eq!((budget.debt(), budget.take(9)), (0, 2));
    }

    #[test]
    fn a_smaller_capacity_is_a_debt() {
        let budget = Budget::new(u64::MAX, 1);
        assert_eq!(budget.capacity(), u64::MAX);
        let taken = budget.take(100);
        budget.resize(60);
        assert_eq!(budget.debt(), taken - 60);
        budget.resize(u64::MAX);
        assert_eq!(budget.debt(), 0);
    }
}

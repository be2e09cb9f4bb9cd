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
    pool: AtomicU64,
    /// What was taken and not there: it waits to be dropped.
    debt: AtomicU64,
    slack: AtomicU64,
    /// 1 since somebody found no room, until there is plenty.
    is_full: AtomicU64,
    shards: u64,
    /// What share of the capacity one entry may weigh.
    largest: f64,
}

/// No capacity is more than this, and no entry heavier: what has left weighs something until it is dropped, and the sum of
/// all that may wait for it has to be a number.
const MOST: u64 = 1 << 56;

impl Budget {
    pub(super) fn new(capacity: u64, largest: f64, shards: usize) -> Self {
        let capacity = capacity.min(MOST);
        Self {
            capacity: AtomicU64::new(capacity),
            pool: AtomicU64::new(capacity),
            debt: AtomicU64::new(0),
            slack: AtomicU64::new(slack(capacity)),
            is_full: AtomicU64::new(0),
            shards: shards as u64,
            largest,
        }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// What one entry may weigh.
    pub(super) fn limit(&self) -> u64 {
        let capacity = self.capacity();
        if self.largest >= 1.0 {
            return capacity;
        }
        ((capacity as f64 * self.largest) as u64).max(capacity.min(1))
    }

    /// Changes the capacity. What is there and too much is a debt.
    pub(super) fn resize(&self, capacity: u64) {
        let capacity = capacity.min(MOST);
        let before = self.capacity.swap(capacity, Ordering::Relaxed);
        self.slack.store(slack(capacity), Ordering::Relaxed);
        if capacity >= before {
            self.give(capacity - before);
        } else {
            self.overdraw(before - capacity);
        }
    }

    /// Whether entries have to leave for those that come to a shard in which so much waits to be dropped. Not if that is
    /// more than its part of the slack: then there is room enough, only not yet.
    #[inline]
    pub(super) fn is_short(&self, pending: u64) -> bool {
        if self.is_full.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let slack = self.slack.load(Ordering::Relaxed);
        if self.pool.load(Ordering::Relaxed) >= slack {
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
        take(&self.pool, wanted.saturating_add(self.change()))
    }

    /// Gives room back. Debts are paid first.
    pub(super) fn give(&self, room: u64) {
        let paid = if self.debt() > 0 { take(&self.debt, room) } else { 0 };
        if room > paid {
            self.pool.fetch_add(room - paid, Ordering::Relaxed);
        }
    }

    /// Takes room, if it is there or not.
    pub(super) fn overdraw(&self, room: u64) {
        let taken = take(&self.pool, room);
        if room > taken {
            self.debt.fetch_add(room - taken, Ordering::Relaxed);
        }
    }

    /// Pays debts with what there is: threads that take and give at the same time may leave both.
    pub(super) fn balance(&self) {
        let debt = self.debt();
        if debt > 0 {
            self.give(take(&self.pool, debt));
        }
    }

    /// What is to be paid for that was taken and not there.
    #[inline]
    pub(super) fn debt(&self) -> u64 {
        self.debt.load(Ordering::Relaxed)
    }
}

/// Takes so much of a number, or what there is.
fn take(from: &AtomicU64, wanted: u64) -> u64 {
    let mut there = from.load(Ordering::Relaxed);
    while there > 0 && wanted > 0 {
        let taken = wanted.min(there);
        match from.compare_exchange_weak(there, there - taken, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return taken,
            Err(now) => there = now,
        }
    }
    0
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
        let budget = Budget::new(10, 1.0, 1);
        assert_eq!((budget.take(4), budget.take(7), budget.take(1)), (4, 6, 0));
        budget.overdraw(3);
        assert_eq!((budget.debt(), budget.take(1)), (3, 0));
        budget.give(5);
        assert_eq!((budget.debt(), budget.take(9)), (0, 2));
    }

    #[test]
    fn a_smaller_capacity_is_a_debt() {
        let budget = Budget::new(u64::MAX, 1.0, 1);
        assert_eq!(budget.capacity(), MOST);
        let taken = budget.take(100);
        budget.resize(60);
        assert_eq!(budget.debt(), taken - 60);
        budget.resize(u64::MAX);
        assert_eq!((budget.debt(), budget.take(u64::MAX)), (0, MOST - taken));
    }
}

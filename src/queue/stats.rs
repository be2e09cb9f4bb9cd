//! What a queue has done and what is in it: [`QueueStats`].

use std::time::Duration;

use super::Queue;
use crate::event::DropReason;
use crate::histogram::Histogram;

/// A snapshot of a queue.
///
/// `pushed` is what is inside, was popped, was dropped, or was taken out by [`close_now`](Queue::close_now); what was refused
/// is none of these.
///
/// ```
/// use floodwall::{DropReason, Overflow, Queue};
///
/// let queue = Queue::new(2).overflow(Overflow::DropOldest);
/// (0..5).for_each(|item| queue.try_push(item).unwrap());
/// queue.try_pop().unwrap();
/// let stats = queue.stats();
/// assert_eq!((stats.pushed, stats.popped, stats.len), (5, 1, 1));
/// assert_eq!(stats.dropped(DropReason::Oldest), 3);
/// assert_eq!((queue.close_now().len(), queue.stats().pushed), (1, 5));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueueStats {
    /// How many items are inside.
    pub len: usize,
    /// What they cost together; without [`max_weight`](Queue::max_weight), how many they are.
    pub weight: u64,
    /// How many wait for room.
    pub pushing: usize,
    /// How many wait for an item.
    pub popping: usize,
    /// How many items were taken in, or dropped as the newest.
    pub pushed: u64,
    /// How many items came out to whom popped.
    pub popped: u64,
    /// How many items were given back.
    pub refused: u64,
    /// How many items come out per second while there are any; `None` until that is known.
    pub per_second: Option<f64>,
    waits: Histogram,
    dropped: [u64; DropReason::COUNT],
}

impl QueueStats {
    /// Returns how many items were dropped for a reason.
    pub const fn dropped(&self, why: DropReason) -> u64 {
        self.dropped[why as usize]
    }

    /// Returns how many items were dropped, for any reason.
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Returns how long a share `q` of the items that came out was inside at most; `None` if that was not measured yet.
    ///
    /// Each item counts where the queue minds deadlines or overload, else one of 64.
    ///
    /// # Panics
    ///
    /// If `q` is not between 0 and 1.
    #[track_caller]
    pub fn wait(&self, q: f64) -> Option<Duration> {
        self.waits.quantile(q)
    }
}

impl<T> Queue<T> {
    /// Returns what the queue has done and what is in it.
    pub fn stats(&self) -> QueueStats {
        let waits = self.waits.clone();
        let state = self.state.lock();
        let counts = state.items.counts;
        QueueStats {
            len: state.items.len(),
            weight: state.items.weight(),
            pushing: state.pushers.queued(),
            popping: state.poppers.queued(),
            pushed: state.items.pushed(),
            popped: state.items.popped(),
            refused: counts.refused,
            per_second: state.items.drain.per_second(),
            waits,
            dropped: counts.dropped,
        }
    }
}

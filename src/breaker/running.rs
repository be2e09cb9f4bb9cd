//! How many calls have been running for long: [`Running`].

use crate::sync::{AtomicU64, Ordering};

/// Counts the calls that run, by when they started: so that a dependency which answers nobody is found out before the
/// first call has given up on it.
///
/// Time is cut into quarters of the time after which a call is slow. A slot is `number of its quarter << 32 | calls`,
/// a signed number; what is left of a quarter when its slot is taken by a later one goes to `older`. The sum over all is
/// always the number of calls that run: a call that ends where it is no longer expected is taken from `older`.
#[derive(Debug)]
pub(super) struct Running {
    slots: [AtomicU64; SLOTS],
    older: AtomicU64,
}

const SLOTS: usize = 8;

/// A call that started so many quarters before this one has run for at least four.
const OVERDUE: i32 = 5;

impl Running {
    pub(super) fn new() -> Self {
        Self { slots: std::array::from_fn(|_| AtomicU64::new(0)), older: AtomicU64::new(0) }
    }

    /// A call starts; returns whether it is the first one of its quarter.
    pub(super) fn start(&self, quarter: u64) -> bool {
        self.change(quarter, 1)
    }

    /// A call that had started in `quarter` has ended.
    pub(super) fn end(&self, quarter: u64) {
        self.change(quarter, -1);
    }

    fn change(&self, quarter: u64, by: i32) -> bool {
        let slot = &self.slots[(quarter % SLOTS as u64) as usize];
        let quarter = quarter as u32;
        // Relaxed: what is counted guards no other data.
        loop {
            let word = slot.load(Ordering::Relaxed);
            let (tag, calls) = ((word >> 32) as u32, word as u32 as i32);
            let ahead = tag.wrapping_sub(quarter) as i32;
            if ahead > 0 {
                self.older.fetch_add(i64::from(by) as u64, Ordering::Relaxed);
                return false;
            }
            let next = if ahead == 0 { calls.wrapping_add(by) } else { by };
            let next = u64::from(quarter) << 32 | u64::from(next as u32);
            if slot.compare_exchange(word, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                if ahead < 0 && calls != 0 {
                    self.older.fetch_add(i64::from(calls) as u64, Ordering::Relaxed);
                }
                return ahead < 0;
            }
        }
    }

    /// Returns how many calls are certain to have run for four quarters.
    pub(super) fn overdue(&self, quarter: u64) -> u64 {
        let old = self.slots.iter().map(|slot| {
            let word = slot.load(Ordering::Relaxed);
            let age = (quarter as u32).wrapping_sub((word >> 32) as u32) as i32;
            if age >= OVERDUE { i64::from(word as u32 as i32) } else { 0 }
        });
        // Between the two steps of a change the sum is off by one.
        (old.sum::<i64>() + self.older.load(Ordering::Relaxed) as i64).max(0) as u64
    }

    /// Forgets the calls that run: for those who hold the lock.
    pub(super) fn restart(&self) {
        self.slots.iter().chain([&self.older]).for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn overdue_calls_are_those_of_a_list_of_all(
            steps in prop::collection::vec((0u64..4, any::<bool>(), any::<prop::sample::Index>()), 1..300),
        ) {
            let (running, mut now, mut list) = (Running::new(), 0, Vec::new());
            for (wait, ends, index) in steps {
                now += wait;
                if ends && !list.is_empty() {
                    running.end(list.swap_remove(index.index(list.len())));
                } else {
                    running.start(now);
                    list.push(now);
                }
                let overdue = list.iter().filter(|start| now - **start >= OVERDUE as u64).count() as u64;
                prop_assert_eq!(running.overdue(now), overdue);
            }
        }
    }
}

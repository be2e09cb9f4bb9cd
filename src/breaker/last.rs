//! How the last so many calls ended, exactly: [`Last`].

use crate::sync::{AtomicU64, Ordering};

/// A ring of bits for each thing that can be said of a call, and a head that says where the next call goes.
///
/// The head is `generation << 40 | calls so far`; one compare-and-swap takes a place. A call of an earlier generation gets
/// none, and what it may still write is not counted before its place is taken anew, and overwritten. With one thread
/// the counts are exact. With more, a call that has its place and has not written yet is counted as what stood there.
#[derive(Debug)]
pub(super) struct Last {
    places: u64,
    head: AtomicU64,
    /// For each of `KINDS`, `places` bits in words.
    bits: Box<[AtomicU64]>,
}

/// What the bits of a call say; a call without any was a success.
pub(super) const FAILED: u8 = 1;
pub(super) const SLOW: u8 = 2;
pub(super) const ABANDONED: u8 = 4;
const KINDS: usize = 3;

const GENERATION_SHIFT: u32 = 40;
const CALLS: u64 = (1 << GENERATION_SHIFT) - 1;

impl Last {
    pub(super) fn new(places: u32) -> Self {
        let places = u64::from(places);
        let words = places.div_ceil(64) as usize * KINDS;
        Self { places, head: AtomicU64::new(0), bits: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Starts a generation: for those who hold the lock, before any call of it can end.
    pub(super) fn restart(&self, generation: u64) {
        self.head.store(generation << GENERATION_SHIFT, Ordering::Relaxed);
    }

    pub(super) fn record(&self, generation: u64, kinds: u8) {
        // Relaxed: the counts are of words that each say what they count.
        let take = |head| {
            let calls = head & CALLS;
            // Far from its end it starts again at a multiple, so that it stays full and in step.
            let next = if calls == CALLS { self.places + calls % self.places } else { calls };
            (head >> GENERATION_SHIFT == generation).then_some(generation << GENERATION_SHIFT | (next + 1))
        };
        let Ok(head) = self.head.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) else { return };
        let place = (head & CALLS) % self.places;
        for kind in 0..KINDS {
            let (word, bit) = (self.word(kind, place), 1 << (place % 64));
            let (was, is) = (word.load(Ordering::Relaxed) & bit != 0, kinds >> kind & 1 == 1);
            // Mostly a success takes the place of one: nothing to write.
            if is && !was {
                word.fetch_or(bit, Ordering::Relaxed);
            } else if was && !is {
                word.fetch_and(!bit, Ordering::Relaxed);
            }
        }
    }

    /// Returns how many calls of this generation it holds, and how many of each kind.
    pub(super) fn counts(&self, generation: u64) -> (u64, [u64; KINDS]) {
        let head = self.head.load(Ordering::Relaxed);
        if head >> GENERATION_SHIFT != generation {
            return (0, [0; KINDS]);
        }
        let calls = (head & CALLS).min(self.places);
        let ones = |kind| {
            let words = (0..calls.div_ceil(64)).map(|at| {
                let mask = if calls - at * 64 >= 64 { u64::MAX } else { (1 << (calls % 64)) - 1 };
                u64::from((self.word(kind, at * 64).load(Ordering::Relaxed) & mask).count_ones())
            });
            words.sum()
        };
        (calls, [ones(0), ones(1), ones(2)])
    }

    pub(super) const fn places(&self) -> u64 {
        self.places
    }

    fn word(&self, kind: usize, place: u64) -> &AtomicU64 {
        &self.bits[kind * (self.bits.len() / KINDS) + (place / 64) as usize]
    }
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn the_last_calls_are_the_end_of_a_log_of_all(
            places in 1u32..200,
            calls in prop::collection::vec((0u8..8, 0u8..100), 1..600),
        ) {
            let (last, mut generation, mut log) = (Last::new(places), 1, Vec::new());
            last.restart(generation);
            for (kinds, next) in calls {
                if next == 0 {
                    generation += 1;
                    last.restart(generation);
                    log.clear();
                }
                last.record(generation - 1, 7);
                last.record(generation, kinds);
                log.push(kinds);
                let end = &log[log.len().saturating_sub(places as usize)..];
                let ones = |kind: u8| end.iter().filter(|kinds| **kinds & kind != 0).count() as u64;
                let exact = (end.len() as u64, [ones(FAILED), ones(SLOW), ones(ABANDONED)]);
                prop_assert_eq!(last.counts(generation), exact);
            }
        }
    }

    #[test]
    fn a_head_at_its_end_goes_on() {
        let last = Last::new(10);
        last.head.store(1 << GENERATION_SHIFT | (CALLS - 3), Ordering::Relaxed);
        (0..10).for_each(|_| last.record(1, FAILED));
        assert_eq!(last.counts(1), (10, [10, 0, 0]));
        (0..5).for_each(|_| last.record(1, 0));
        assert_eq!(last.counts(1), (10, [5, 0, 0]));
    }
}

//! Rolling counters over slices of time, without a lock: [`Window`].
//!
//! A window of time is cut into ten slices. What falls into a slice is counted in a word of its own, which also says
//! which slice that is: the first count of a newer slice replaces it, so there is no sweep and no drift, and what time has
//! left behind is never summed. What a window counts is between its length and its length less a slice old, and without
//! concurrency exactly that, but for hot counters:
//!
//! *Hot* counters are for what nearly every call does. While threads do not meet they are one word too; where they do,
//! each thread gets a line of its own. They save the clock: in a slice in which a thread's line has counted [`EXACT`] it is
//! read for every [`SAMPLE`]th only, so up to `SAMPLE - 1` counts of a line may land in an older slice than their own,
//! unless another count has seen the newer one.

use std::time::Duration;

use crate::error::saturating_nanos;
use crate::sync::{AtomicU64, Ordering, SetOnce, parallelism, thread_number};

/// In a model fewer: each is a step that threads can meet at.
const SLICES: usize = if cfg!(floodwall_loom) { 3 } else { 10 };

/// So many of a slice are counted by the clock, each.
const EXACT: u64 = 64;

/// Further ones read it once for so many.
const SAMPLE: u64 = 16;

/// So many collisions in a slice are worth stripes. In a model the first one is.
const COLLISIONS: u64 = if cfg!(floodwall_loom) { 1 } else { 64 };

const MAX_STRIPES: usize = if cfg!(floodwall_loom) { 2 } else { 64 };

/// Counts `HOT` and `COLD` kinds of things over the last so much time, each for an *epoch*: a new one begins at zero,
/// and a count that comes late for an old one changes nothing that the new one sees.
#[derive(Debug)]
pub(crate) struct Window<const HOT: usize, const COLD: usize> {
    /// In nanoseconds, at least 1.
    slice: u64,
    /// The number on the timeline of the newest slice that any count has seen.
    latest: AtomicU64,
    hot: [Striped; HOT],
    cold: [Slices; COLD],
}

impl<const HOT: usize, const COLD: usize> Window<HOT, COLD> {
    pub(crate) fn new(length: Duration) -> Self {
        Self {
            slice: saturating_nanos(length).div_ceil(SLICES as u64).max(1),
            latest: AtomicU64::new(0),
            hot: std::array::from_fn(|_| Striped::default()),
            cold: std::array::from_fn(|_| Slices::default()),
        }
    }

    /// Counts one of a hot kind. The time is asked for only now and then.
    #[inline]
    pub(crate) fn count_hot(&self, kind: usize, epoch: u8, now: impl FnOnce() -> u64) {
        let striped = &self.hot[kind];
        let slices = striped.mine();
        // Relaxed, here and below: each word says by itself what it counts, and guards no other data.
        let place = Place::of(self.latest.load(Ordering::Relaxed), epoch);
        let slot = &slices.0[place.slot];
        let word = slot.load(Ordering::Relaxed);
        let count = word & COUNT;
        if word >> TAG_SHIFT == place.tag && count >= EXACT && count % SAMPLE != 0 {
            if count == COUNT || swap(slot, word, word + 1) {
                return;
            }
            striped.collided(&place);
            slices.add(&place);
            return;
        }
        let place = Place::of(self.advance(now()), epoch);
        if slices.add(&place) {
            striped.collided(&place);
        }
    }

    /// Counts one of a cold kind.
    pub(crate) fn count(&self, kind: usize, epoch: u8, now: u64) {
        self.cold[kind].add(&Place::of(self.advance(now), epoch));
    }

    /// Returns how many of a hot kind the window holds, or some number of at least `enough` if it holds as many.
    pub(crate) fn hot(&self, kind: usize, epoch: u8, now: u64, enough: u64) -> u64 {
        let (striped, newest) = (&self.hot[kind], self.advance(now));
        let mut sum = 0;
        // This thread's own line first: it is near, and often enough.
        for slices in striped.all_from_mine() {
            sum += slices.sum(newest, epoch);
            if sum >= enough {
                break;
            }
        }
        sum
    }

    /// Returns how many of a cold kind the window holds.
    pub(crate) fn cold(&self, kind: usize, epoch: u8, now: u64) -> u64 {
        self.cold[kind].sum(self.advance(now), epoch)
    }

    /// Gives each thread a line of its own, as if threads had met.
    #[cfg(all(test, not(floodwall_loom)))]
    pub(crate) fn split(&self) {
        let place = Place::of(0, 0);
        self.hot.iter().for_each(|hot| (0..COLLISIONS).for_each(|_| hot.collided(&place)));
    }

    /// Returns the number of the slice of `now`. A clock that went back counts into the newest slice.
    fn advance(&self, now: u64) -> u64 {
        let (number, latest) = (now / self.slice, self.latest.load(Ordering::Relaxed));
        if number > latest {
            // Whoever counts without the clock sees it. Written once per slice, so that it stays in all caches.
            self.latest.fetch_max(number, Ordering::Relaxed).max(number)
        } else {
            latest
        }
    }
}

/// Where a count belongs: which word, and what the word must say.
struct Place {
    slot: usize,
    tag: u64,
}

/// A word: epoch (8 bits), round (24 bits), count (32 bits; it stays at its end). Round `r` of the ring are the slices
/// from `10 r` on. A slot that nothing was counted in for exactly 2^24 rounds would pass for a live one: five years for
/// a window of ten seconds.
const TAG_SHIFT: u32 = 32;
const COUNT: u64 = (1 << TAG_SHIFT) - 1;
const ROUND_BITS: u32 = 24;

impl Place {
    #[inline]
    const fn of(number: u64, epoch: u8) -> Self {
        let round = number / SLICES as u64;
        let tag = (epoch as u64) << ROUND_BITS | round & ((1 << ROUND_BITS) - 1);
        Self { slot: (number % SLICES as u64) as usize, tag }
    }

    /// Whether a word of `tag` is of a later epoch or round, so that what belongs here is gone.
    ///
    /// Both wrap. Only what is a little later counts as later, the rest as long gone: else a slot that nobody has used
    /// for half a cycle would refuse to count for the other half.
    const fn is_past_for(&self, tag: u64) -> bool {
        const LITTLE: u64 = 64;
        let epochs = (tag >> ROUND_BITS).wrapping_sub(self.tag >> ROUND_BITS) & 0xff;
        let rounds = tag.wrapping_sub(self.tag) & ((1 << ROUND_BITS) - 1);
        let later = if epochs == 0 { rounds } else { epochs };
        later > 0 && later <= LITTLE
    }
}

/// One counter: a ring of slices.
#[derive(Debug, Default)]
struct Slices([AtomicU64; SLICES]);

impl Slices {
    /// Counts one; returns whether another thread was in the way.
    #[inline]
    fn add(&self, place: &Place) -> bool {
        let slot = &self.0[place.slot];
        let mut collided = false;
        loop {
            let word = slot.load(Ordering::Relaxed);
            let tag = word >> TAG_SHIFT;
            let next = if tag == place.tag {
                word + u64::from(word & COUNT < COUNT)
            } else if word & COUNT > 0 && place.is_past_for(tag) {
                return collided;
            } else {
                place.tag << TAG_SHIFT | 1
            };
            if next == word || swap(slot, word, next) {
                return collided;
            }
            collided = true;
        }
    }

    fn sum(&self, newest: u64, epoch: u8) -> u64 {
        let oldest = newest.saturating_sub(SLICES as u64 - 1);
        let count = |number| {
            let place = Place::of(number, epoch);
            let word = self.0[place.slot].load(Ordering::Relaxed);
            if word >> TAG_SHIFT == place.tag { word & COUNT } else { 0 }
        };
        (oldest..=newest).map(count).sum()
    }
}

#[inline]
fn swap(slot: &AtomicU64, from: u64, to: u64) -> bool {
    slot.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// One counter that splits when threads meet at it.
#[derive(Debug, Default)]
struct Striped {
    first: Slices,
    collisions: AtomicU64,
    stripes: SetOnce<Box<[Stripe]>>,
}

/// Alone on its cache lines: processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(Slices);

impl Striped {
    #[inline]
    fn mine(&self) -> &Slices {
        match self.stripes.get() {
            None => &self.first,
            Some(stripes) => &stripes[thread_number() % stripes.len()].0,
        }
    }

    fn all_from_mine(&self) -> impl Iterator<Item = &Slices> {
        let stripes = self.stripes.get().map_or(&[][..], |stripes| &stripes[..]);
        let mine = thread_number() % stripes.len().max(1);
        let (before, from) = stripes.split_at(mine);
        from.iter().chain(before).map(|stripe| &stripe.0).chain([&self.first])
    }

    #[cold]
    fn collided(&self, place: &Place) {
        let tag = place.tag << TAG_SHIFT;
        let word = self.collisions.load(Ordering::Relaxed);
        let seen = if word & !COUNT == tag { word & COUNT } else { 0 };
        // A collision lost between the two is no harm.
        self.collisions.store(tag | (seen + 1).min(COUNT), Ordering::Relaxed);
        if seen + 1 >= COLLISIONS {
            let stripes = (2 * parallelism()).next_power_of_two().min(MAX_STRIPES);
            self.stripes.get_or_init(|| (0..stripes).map(|_| Stripe::default()).collect());
        }
    }
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Both = Window<1, 1>;

    fn count(window: &Both, failed: bool, epoch: u8, now: u64) {
        if failed { window.count(0, epoch, now) } else { window.count_hot(0, epoch, || now) }
    }

    /// (successes, failures)
    fn counts(window: &Both, epoch: u8, now: u64) -> (u64, u64) {
        (window.hot(0, epoch, now, u64::MAX), window.cold(0, epoch, now))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Against the obvious twin, a log of every call: what is younger than nine slices counts, what is older than
        /// ten does not, and nothing of another epoch does.
        #[test]
        fn a_window_counts_what_a_log_counts(
            length in prop_oneof![1u64..5_000, Just(u64::MAX)],
            start in prop_oneof![0u64..100_000, Just(1 << 40)],
            calls in prop::collection::vec((0u64..2_000, any::<bool>(), 0u8..20), 1..60),
        ) {
            let window = Both::new(Duration::from_nanos(length));
            let slice = length.div_ceil(10);
            let (mut now, mut epoch, mut log) = (start, 250u8, Vec::new());
            for (wait, failed, next) in calls {
                now += wait;
                if next == 0 {
                    epoch = epoch.wrapping_add(1);
                    log.clear();
                }
                // What comes late for an old epoch.
                count(&window, failed, epoch.wrapping_sub(3), now);
                count(&window, failed, epoch, now);
                log.push((now, failed));
                let exact: Vec<_> = log.iter().filter(|call| call.0 / slice + 9 >= now / slice).collect();
                let failures = exact.iter().filter(|call| call.1).count() as u64;
                prop_assert_eq!(counts(&window, epoch, now), (exact.len() as u64 - failures, failures));
            }
        }

        /// Many more than are counted by the clock: of those, each line may be late with less than a sample, and none
        /// is lost.
        #[test]
        fn many_counts_are_late_by_less_than_a_sample(
            steps in prop::collection::vec((0u64..500, 1usize..200), 1..30),
        ) {
            let window = Both::new(Duration::from_nanos(1_000));
            let (mut now, mut log) = (0, Vec::new());
            for (wait, calls) in steps {
                now += wait;
                for _ in 0..calls {
                    window.count_hot(0, 0, || now);
                    log.push(now);
                }
                let exact = log.iter().filter(|at| **at / 100 + 9 >= now / 100).count() as u64;
                let seen = window.hot(0, 0, now, u64::MAX);
                // Late ones leave early, so there are never more; one slice may hold those of the gap before it.
                prop_assert!(seen <= exact && exact - seen < SAMPLE, "{} of {}", seen, exact);
            }
        }
    }

    #[test]
    fn an_idle_gap_empties_the_window() {
        let window = Both::new(Duration::from_secs(10));
        window.count(0, 0, 0);
        count(&window, false, 0, 9_999_999_999);
        assert_eq!(counts(&window, 0, 9_999_999_999), (1, 1));
        assert_eq!(counts(&window, 0, 10_000_000_000), (1, 0));
        assert_eq!(counts(&window, 0, u64::MAX), (0, 0));
    }

    #[test]
    fn a_window_of_a_nanosecond_and_one_of_five_centuries_work() {
        for length in [Duration::from_nanos(1), Duration::MAX] {
            let window = Both::new(length);
            for now in [5, u64::MAX] {
                window.count(0, 0, now);
                assert!(window.cold(0, 0, now) >= 1);
            }
        }
    }

    /// A tag that is compared by order only takes a slot that was idle for half a cycle of rounds for a later one.
    #[test]
    fn a_slot_counts_again_however_long_it_was_idle() {
        for shift in 0..60 {
            let window = Both::new(Duration::from_nanos(10));
            window.count(0, 0, 3);
            window.count(0, 0, 3 + (10 << shift));
            assert_eq!(window.cold(0, 0, 3 + (10 << shift)), 1 + u64::from(shift >= ROUND_BITS), "{shift}");
        }
    }

    #[test]
    fn a_clock_that_went_back_counts_into_the_newest_slice() {
        let window = Both::new(Duration::from_nanos(1_000));
        window.count(0, 0, 10_000);
        window.count(0, 0, 20);
        assert_eq!((window.cold(0, 0, 20), window.cold(0, 0, 11_000)), (2, 0));
    }

    /// A thread that was interrupted between its look at the newest slice and its count.
    #[test]
    fn a_count_that_comes_late_to_its_slot_destroys_nothing() {
        let slices = Slices::default();
        for (number, epoch) in [(30, 7), (20, 7), (30, 6), (20, 8), (30, 7)] {
            slices.add(&Place::of(number, epoch));
        }
        assert_eq!((slices.sum(30, 7), slices.sum(20, 8)), (0, 1));
        slices.add(&Place::of(30, 8));
        slices.add(&Place::of(20, 8));
        assert_eq!(slices.sum(30, 8), 1);
    }

    #[test]
    fn a_full_word_stays_full() {
        let mut window = Both::new(Duration::from_nanos(10));
        window.cold[0].0[0] = AtomicU64::new(COUNT - 1);
        (0..3).for_each(|_| window.count(0, 0, 0));
        assert_eq!(window.cold(0, 0, 0), COUNT);
    }

    #[test]
    fn threads_that_meet_get_lines_of_their_own_and_none_is_lost() {
        let window = Both::new(Duration::from_secs(10));
        window.split();
        assert!(window.hot[0].stripes.get().is_some());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50_000).for_each(|_| window.count_hot(0, 0, || 7)));
            }
        });
        assert_eq!(window.hot(0, 0, 7, u64::MAX), 200_000);
        assert!(window.hot(0, 0, 7, 10) >= 10);
        assert_eq!(window.hot[0].first.sum(0, 0), 0);
    }
}

//! How long things take, as quantiles: [`Histogram`].
//!
//! For latencies, in metrics and where a policy goes by them. When **not** to use it: for a mean or a maximum, which it
//! does not keep; for a handful of samples, which a sorted list holds exactly.
//!
//! The buckets are log-linear, as in HdrHistogram (G. Tene, <https://hdrhistogram.org>): each doubling of the time is
//! cut into 16 equal parts, so that the error is a share of the value, and to find a bucket takes no logarithm.

use std::fmt;
use std::time::Duration;

use crate::error::saturating_nanos;
use crate::sync::{AtomicU64, Ordering, const_fn, zeroes};

/// Into how many parts, as a power of two, each doubling is cut.
const PARTS_LOG2: u32 = 4;
const PARTS: usize = 1 << PARTS_LOG2;

/// Times of 2⁴⁰ ns and more share the last bucket. A model has fewer buckets, which it can walk through.
const RANGE_LOG2: u32 = if cfg!(floodwall_loom) { 6 } else { 40 };
const BUCKETS: usize = PARTS * (RANGE_LOG2 - PARTS_LOG2 + 1) as usize;

/// Counts durations, and tells their quantiles to within a thirty-second (3.2 %).
///
/// From 1 ns to 18 minutes; what takes longer counts as 18 minutes. It forgets nothing: for what is recent, take a new
/// one from time to time. Histograms of several threads or processes can be [merged](Histogram::merge) without further
/// error; a clone is a snapshot.
///
/// # Cost
///
/// One atomic addition to record, without a lock; a walk through 592 counters to ask. 4,736 bytes, whatever is
/// recorded; no allocation.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::Histogram;
///
/// static LATENCY: Histogram = Histogram::new();
/// for millis in 1..=1_000 {
///     LATENCY.record(Duration::from_millis(millis));
/// }
/// let p99 = LATENCY.quantile(0.99).unwrap();
/// assert!(p99.abs_diff(Duration::from_millis(990)) <= Duration::from_millis(990) / 32);
/// ```
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
}

impl Histogram {
    const_fn! {
        /// Creates an empty histogram.
        pub fn new() -> Self {
            Self { counts: zeroes() }
        }
    }

    /// Counts one duration.
    #[inline]
    pub fn record(&self, took: Duration) {
        // Relaxed, here and in all that follows: the counts guard nothing.
        self.counts[bucket_of(saturating_nanos(took))].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many durations were counted.
    pub fn count(&self) -> u64 {
        self.counts().sum()
    }

    /// Returns the smallest duration that a share `q` of all does not exceed (the nearest rank), off by at most a
    /// thirty-second of itself; `None` if nothing was counted.
    ///
    /// # Panics
    ///
    /// If `q` is not between 0 and 1.
    #[track_caller]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        assert!((0.0..=1.0).contains(&q), "q: {q} must be between 0 and 1");
        // Added up once before: what is recorded meanwhile moves the answer by no more than that.
        // The middle of a bucket, which is at most a sixteenth of its shortest time wide.
        let (low, width) = bounds(ranked(self.counts(), self.count(), q)?);
        Some(Duration::from_nanos(low + width / 2))
    }

    /// Adds all that `other` has counted.
    pub fn merge(&self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter().zip(other.counts()) {
            // Most are empty, and to add nothing would still take the line from those who record.
            if theirs > 0 {
                mine.fetch_add(theirs, Ordering::Relaxed);
            }
        }
    }

    /// Returns the buckets that are not empty, shortest first: the longest duration that each holds, and its count.
    ///
    /// For exporters. The last possible bucket, of up to 2⁴⁰ ns, also holds all that took longer.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::Histogram;
    ///
    /// let histogram = Histogram::new();
    /// histogram.record(Duration::from_nanos(15));
    /// histogram.record(Duration::from_nanos(1_000));
    /// let buckets: Vec<_> = histogram.buckets().collect();
    /// assert_eq!(buckets, [(Duration::from_nanos(15), 1), (Duration::from_nanos(1_023), 1)]);
    /// ```
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let all = self.counts().enumerate();
        all.filter(|(_, count)| *count > 0).map(|(bucket, count)| {
            let (low, width) = bounds(bucket);
            (Duration::from_nanos(low + width - 1), count)
        })
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed))
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for Histogram {
    fn clone(&self) -> Self {
        let copy = Self::new();
        copy.merge(self);
        copy
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .finish_non_exhaustive()
    }
}

/// Below 16 ns each nanosecond has its own bucket; above, the 4 bits after the leading one choose among 16.
#[inline]
const fn bucket_of(nanos: u64) -> usize {
    if nanos < PARTS as u64 {
        return nanos as usize;
    }
    let doublings = nanos.ilog2();
    if doublings >= RANGE_LOG2 {
        return BUCKETS - 1;
    }
    let part = (nanos >> (doublings - PARTS_LOG2)) as usize - PARTS;
    PARTS * (doublings - PARTS_LOG2 + 1) as usize + part
}

/// Returns the shortest time of a bucket, and how many nanoseconds it spans.
const fn bounds(bucket: usize) -> (u64, u64) {
    if bucket < PARTS {
        return (bucket as u64, 1);
    }
    let width = 1 << (bucket / PARTS - 1);
    ((PARTS + bucket % PARTS) as u64 * width, width)
}

/// Returns the bucket in which the sample of the nearest rank lies.
fn ranked(counts: impl Iterator<Item = u64>, total: u64, q: f64) -> Option<usize> {
    let rank = ((q * total as f64).ceil() as u64).clamp(1, total.max(1));
    let (mut seen, mut last) = (0, None);
    for (bucket, count) in counts.enumerate().filter(|(_, count)| *count > 0) {
        last = Some(bucket);
        seen += count;
        if seen >= rank {
            break;
        }
    }
    last
}

/// A histogram of the last one to two slices of time, so that its quantiles follow the present.
///
/// Each counter carries the number of the slice that it counts for. The first count of a newer slice starts it anew, so
/// there is no sweep, no moment at which a slice is half empty, and no lock.
pub(crate) struct Recent {
    /// In nanoseconds, at least 1.
    slice: u64,
    /// Even slices and odd ones; each counter is a slice's number in the high half and a count in the low one.
    counts: [[AtomicU64; BUCKETS]; 2],
}

impl Recent {
    pub(crate) fn new(slice: Duration) -> Self {
        Self { slice: saturating_nanos(slice).max(1), counts: [zeroes(), zeroes()] }
    }

    pub(crate) fn record(&self, now: u64, took: u64) {
        let slice = now / self.slice;
        let counter = &self.counts[(slice % 2) as usize][bucket_of(took)];
        let mut word = counter.load(Ordering::Relaxed);
        loop {
            // Wrapping, as the numbers are cut to 32 bits. A clock that went back counts into the newer slice.
            let is_older = ((slice as u32).wrapping_sub((word >> 32) as u32) as i32) > 0;
            let next = match word as u32 {
                _ if is_older => slice << 32 | 1,
                u32::MAX => return,
                _ => word + 1,
            };
            match counter.compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => word = other,
            }
        }
    }

    pub(crate) fn count(&self, now: u64) -> u64 {
        self.counts(now).sum()
    }

    /// Returns a time that a share `q` of the recent ones does not exceed, and at most a sixteenth more than needed.
    ///
    /// Rather the end of a bucket than its middle: where all take nearly the same time, most would exceed the middle.
    pub(crate) fn quantile(&self, now: u64, total: u64, q: f64) -> Option<u64> {
        let (low, width) = bounds(ranked(self.counts(now), total, q)?);
        Some(low + width - 1)
    }

    fn counts(&self, now: u64) -> impl Iterator<Item = u64> {
        let slice = now / self.slice;
        let of = |slice: u64, counter: &AtomicU64| {
            let word = counter.load(Ordering::Relaxed);
            if (word >> 32) as u32 == slice as u32 { word & u64::from(u32::MAX) } else { 0 }
        };
        let [even, odd] = &self.counts;
        let (current, before) = if slice % 2 == 0 { (even, odd) } else { (odd, even) };
        // There is none before the first slice, and no counter has its number.
        let pairs = current.iter().zip(before);
        pairs.map(move |(current, before)| of(slice, current) + of(slice.wrapping_sub(1), before))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_nanosecond_lies_in_its_bucket_and_buckets_leave_no_gap() {
        let mut next = 0;
        for bucket in 0..BUCKETS {
            let (low, width) = bounds(bucket);
            assert_eq!(low, next);
            assert!(width == 1 || width * PARTS as u64 <= low);
            assert_eq!((bucket_of(low), bucket_of(low + width - 1)), (bucket, bucket));
            next = low + width;
        }
        assert_eq!(next, 1 << RANGE_LOG2);
        assert_eq!((bucket_of(next), bucket_of(u64::MAX)), (BUCKETS - 1, BUCKETS - 1));
    }

    #[test]
    fn the_memory_is_what_the_documentation_says() {
        assert_eq!((BUCKETS, size_of::<Histogram>()), (592, 4_736));
        assert_eq!(size_of::<Recent>(), 2 * 4_736 + 8);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Against the obvious twin, a list of all samples: those of this slice and of the one before count.
        #[test]
        fn recent_quantiles_are_those_of_the_recent_samples(
            slice in 1u64..1_000,
            samples in prop::collection::vec((0u64..700, 0u64..100_000), 1..200),
            q in 0.0..=1.0f64,
        ) {
            let recent = Recent::new(Duration::from_nanos(slice));
            let (mut now, mut list) = (0, Vec::new());
            for (wait, took) in samples {
                now += wait;
                recent.record(now, took);
                list.push((now / slice, took));
                let mut live: Vec<_> =
                    list.iter().filter(|sample| sample.0 + 1 >= now / slice).map(|sample| sample.1).collect();
                live.sort_unstable();
                let total = recent.count(now);
                prop_assert_eq!(total, live.len() as u64);
                let exact = live[((q * live.len() as f64).ceil() as usize).max(1) - 1];
                let told = recent.quantile(now, total, q).unwrap();
                prop_assert!(told >= exact && (told - exact) * 16 <= exact, "{} instead of {}", told, exact);
            }
        }
    }

    #[test]
    fn an_idle_gap_of_any_length_forgets_everything() {
        for gap in [20, 30, 40, 1 << 20, 10 << 30] {
            let recent = Recent::new(Duration::from_nanos(10));
            recent.record(5, 7);
            assert_eq!((recent.count(5), recent.count(15), recent.count(5 + gap)), (1, 1, 0), "{gap}");
            recent.record(5 + gap, 7);
            assert_eq!(recent.count(5 + gap), 1, "{gap}");
        }
    }
}

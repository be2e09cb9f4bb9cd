//! What a cache has done: [`CacheStats`].

use std::hash::Hash;
use std::time::Duration;

use super::Cache;
use crate::lanes;
use crate::sync::{AtomicU64, Ordering, parallelism};

/// What a [`Cache`] has done since it was built.
///
/// ```
/// use floodwall::Cache;
///
/// let cache = Cache::new(100);
/// cache.insert("a", 1)?;
/// (cache.get("a"), cache.get("a"), cache.get("b"));
/// let stats = cache.stats();
/// assert_eq!((stats.hits, stats.misses), (2, 1));
/// assert!((stats.hit_ratio() - 2.0 / 3.0).abs() < 1e-9);
/// # Ok::<(), floodwall::cache::TooHeavy<i32>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Look-ups that found a value in its time.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
    /// Look-ups that were given a value after its time, while it was refreshed or because it could not be; they count as
    /// misses too.
    pub stale: u64,
    /// Loads that gave a value, refreshes included.
    pub loads: u64,
    /// Loads that failed, panicked or were given up.
    pub load_failures: u64,
    /// How long all of these took together.
    pub load_time: Duration,
    /// Entries that left since others needed the room.
    pub evicted: u64,
    /// Entries that left since their time was over.
    pub expired: u64,
    /// Entries that were removed.
    pub removed: u64,
    /// Entries that left for a new value.
    pub replaced: u64,
    /// Entries that were too heavy.
    pub refused: u64,
    /// How many entries there are.
    pub len: usize,
    /// What they weigh.
    pub weight: u64,
}

impl CacheStats {
    /// Returns the share of the look-ups that were hits; 0 if there was none.
    pub fn hit_ratio(&self) -> f64 {
        self.hits as f64 / (self.hits as f64 + self.misses as f64).max(1.0)
    }

    /// Returns how long a load took on average; zero if there was none.
    pub fn mean_load_time(&self) -> Duration {
        let loads = u128::from(self.loads) + u128::from(self.load_failures);
        Duration::from_nanos(self.load_time.as_nanos().checked_div(loads).unwrap_or(0) as u64)
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Count {
    Hits,
    Misses,
    Stale,
    Loads,
    LoadFailures,
    LoadNanos,
    Evicted,
    Expired,
    Removed,
    Replaced,
    Refused,
}

const COUNTS: usize = Count::Refused as usize + 1;

/// Counters of threads that they do not share, as long as there are not many.
pub(super) struct Counts {
    own: Box<[Stripe]>,
    shared: Stripe,
}

/// Alone on its cache lines: processors fetch them in pairs.
#[repr(align(128))]
struct Stripe([AtomicU64; COUNTS]);

impl Stripe {
    fn new() -> Self {
        Self(crate::sync::zeroes())
    }
}

impl Counts {
    pub(super) fn new() -> Self {
        let stripes = (parallelism() * 2).clamp(8, 64);
        Self { own: (0..stripes).map(|_| Stripe::new()).collect(), shared: Stripe::new() }
    }

    #[inline]
    pub(super) fn add(&self, count: Count) {
        self.add_many(count, 1);
    }

    #[inline]
    pub(super) fn add_many(&self, count: Count, by: u64) {
        match lanes::number().and_then(|number| self.own.get(number)) {
            // Whose lane it is, is alone with it; who had it before has handed it on.
            Some(stripe) => {
                let count = &stripe.0[count as usize];
                count.store(count.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
            }
            None => _ = self.shared.0[count as usize].fetch_add(by, Ordering::Relaxed),
        }
    }

    fn sum(&self, count: Count) -> u64 {
        let stripes = self.own.iter().chain([&self.shared]);
        stripes.map(|stripe| stripe.0[count as usize].load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

/// What share of the look-ups would have been hits lately, with more and with less room: see [`Cache::estimate`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// With half the capacity.
    pub half: f64,
    /// With the capacity that it has.
    pub same: f64,
    /// With twice the capacity.
    pub double: f64,
}

impl<K: Hash + Eq, V> Cache<K, V> {
    /// Returns what the cache has done since it was built.
    ///
    /// # Cost
    ///
    /// Some loads for each processor. To count costs a look-up one addition on a line that mostly its own thread writes: 14 of
    /// the 278 instructions of a hit in a cache of `u64` (`valgrind --tool=callgrind`, with and without it, 2026-12-01). A hit takes
    /// 11.1 ns, one of which neither they nor eviction hear 8.5 (`cargo bench --bench cache -- --quick`, the same day, 2 idle cores).
    pub fn stats(&self) -> CacheStats {
        let sum = |count| self.inner.counts.sum(count);
        CacheStats {
            hits: sum(Count::Hits),
            misses: sum(Count::Misses),
            stale: sum(Count::Stale),
            loads: sum(Count::Loads),
            load_failures: sum(Count::LoadFailures),
            load_time: Duration::from_nanos(sum(Count::LoadNanos)),
            evicted: sum(Count::Evicted),
            expired: sum(Count::Expired),
            removed: sum(Count::Removed),
            replaced: sum(Count::Replaced),
            refused: sum(Count::Refused),
            len: self.len(),
            weight: self.weight(),
        }
    }

    /// Returns what share of the look-ups would have been hits lately, with half, with the same and with twice the capacity.
    ///
    /// Small simulations beside the cache tell, which see a sample of the keys: within some hundredths of what a cache of that
    /// size would have done. Nothing before some thousand look-ups, and nothing with [`Eviction::Lru`](super::Eviction::Lru).
    /// Each look-up that misses counts as if it were followed by an insert.
    ///
    /// ```
    /// use floodwall::Cache;
    ///
    /// let cache = Cache::new(100);
    /// for round in 0..100 {
    ///     for key in 0..150 {
    ///         if cache.get(&key).is_none() {
    ///             cache.insert(key, round)?;
    ///         }
    ///     }
    /// }
    /// let estimate = cache.estimate().unwrap();
    /// assert!(estimate.half < estimate.same && estimate.same < estimate.double);
    /// assert!(estimate.double > 0.9, "twice as many would hold all");
    /// # Ok::<(), floodwall::cache::TooHeavy<i32>>(())
    /// ```
    pub fn estimate(&self) -> Option<Estimate> {
        let ratios = self.inner.entries.ratios()?;
        Some(Estimate { half: ratios.half, same: ratios.same, double: ratios.double })
    }
}

//! What would a cache of this size have hit? [`Simulator`].

use super::Eviction;
use super::mini::Mini;
use super::selector::Selector;

/// Runs a cache's eviction over a trace of keys, without keys and values: to find out how large a cache has to be.
///
/// It is what evicts in a `Cache`, in a single shard, and takes some dozens of bytes an entry.
///
/// # Examples
///
/// ```
/// use floodwall::cache::{Eviction, Simulator};
///
/// let mut simulator = Simulator::new(Eviction::Adaptive, 100);
/// let hits = (0..10_000).filter(|request| simulator.access(request % 120, 1)).count();
/// // An LRU of 100 entries would hit nothing in a loop over 120 keys.
/// assert!(hits > 7_000, "{hits} hits");
/// ```
#[derive(Debug)]
pub struct Simulator {
    cache: Mini<u64>,
    selector: Option<Selector>,
    accesses: u64,
}

impl Simulator {
    /// After so many accesses it is asked how many entries there is room for, which with weights may change.
    const TURN: u64 = 1_024;

    /// Creates an empty cache that has room for this weight.
    pub fn new(eviction: Eviction, capacity: u64) -> Self {
        let mut cache = Mini::new(eviction, capacity);
        let selector = (eviction == Eviction::Adaptive).then(|| Selector::new(capacity));
        if let Some(selector) = &selector {
            cache.choose(selector.choice());
        }
        Self { cache, selector, accesses: 0 }
    }

    /// Asks for a key by its hash, takes it in if it is missing, and returns whether it was there.
    ///
    /// Two keys with one hash are one key. A key that weighs more than the cache has room for is not taken in; one that weighs
    /// nothing stays for ever.
    #[inline]
    pub fn access(&mut self, hash: u64, weight: u64) -> bool {
        let is_hit = self.cache.access(hash, weight);
        if let Some(selector) = &mut self.selector {
            self.accesses += 1;
            if self.accesses % Self::TURN == 0 {
                selector.fit(self.cache.room());
            }
            let hash = (hash ^ (hash >> 32)) as u32;
            if Selector::is_sampled(hash, selector.limit()) {
                if let Some(choice) = selector.access(hash, is_hit) {
                    self.cache.choose(choice);
                }
            }
        }
        is_hit
    }

    /// Returns how many entries there are.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Returns whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns what the entries weigh together.
    pub const fn weight(&self) -> u64 {
        self.cache.weight()
    }
}

//! Looking at everything: iteration, the hottest entries, snapshots and warm starts.

use std::cmp::Reverse;
use std::hash::Hash;
use std::time::Duration;

use super::Cache;
use super::inner::duration;
use crate::error::saturating_nanos;

/// An entry of a snapshot, to be kept elsewhere and given to [`Cache::warm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept<K, V> {
    /// The key.
    pub key: K,
    /// The value.
    pub value: V,
    /// How long it had to live; `Duration::MAX` is for ever.
    pub left: Duration,
}

impl<K: Hash + Eq, V> Cache<K, V> {
    /// Shows every entry to `see`, quietly: none counts as used.
    ///
    /// Entries that are there all the while are seen exactly once, those that come or go meanwhile at most once. No
    /// lock is held, so `see` may use the cache.
    pub fn for_each(&self, mut see: impl FnMut(&K, &V)) {
        let now = self.inner.now();
        self.inner.entries.scan(|found| {
            if self.inner.is_live(&found, now) {
                see(found.key, found.value);
            }
            true
        });
    }

    /// Returns clones of all entries, in no order, as [`for_each`](Cache::for_each) sees them.
    ///
    /// ```
    /// use floodwall::Cache;
    ///
    /// let cache = Cache::new(100);
    /// cache.insert("a", 1)?;
    /// cache.insert("b", 2)?;
    /// let mut all: Vec<_> = cache.iter().collect();
    /// all.sort();
    /// assert_eq!(all, [("a", 1), ("b", 2)]);
    /// # Ok::<(), floodwall::cache::TooHeavy<i32>>(())
    /// ```
    ///
    /// # Cost
    ///
    /// All of them are cloned at once.
    pub fn iter(&self) -> impl Iterator<Item = (K, V)> + use<K, V>
    where
        K: Clone,
        V: Clone,
    {
        let mut all = Vec::with_capacity(self.len());
        self.for_each(|key, value| all.push((key.clone(), value.clone())));
        all.into_iter()
    }

    /// Returns clones of the `n` entries that are used most, the hottest first.
    pub fn hottest(&self, n: usize) -> Vec<Kept<K, V>>
    where
        K: Clone,
        V: Clone,
    {
        let now = self.inner.now();
        // Heat first: only those that are among the hottest are cloned.
        let mut heats = Vec::with_capacity(self.len());
        self.inner.entries.scan(|found| {
            heats.push(found.heat);
            true
        });
        heats.sort_unstable_by_key(|heat| Reverse(*heat));
        let coldest = heats.get(n.saturating_sub(1)).copied().unwrap_or(0);
        let mut hottest = Vec::with_capacity(n.min(heats.len()));
        self.inner.entries.scan(|found| {
            if found.heat >= coldest && n > 0 {
                if let Some(left) = self.inner.settings.rules.left(found.times, now) {
                    let entry =
                        Kept { key: found.key.clone(), value: found.value.clone(), left: duration(left) };
                    hottest.push((found.heat, entry));
                }
            }
            true
        });
        hottest.sort_by_key(|(heat, _)| Reverse(*heat));
        hottest.into_iter().take(n).map(|(_, entry)| entry).collect()
    }

    /// Returns clones of all entries, the hottest first: what a process writes down when it ends, for the next one to
    /// [`warm`](Cache::warm) its cache.
    pub fn snapshot(&self) -> Vec<Kept<K, V>>
    where
        K: Clone,
        V: Clone,
    {
        self.hottest(usize::MAX)
    }

    /// Takes in the entries of a snapshot, the hottest first, until the cache is full; each lives for what it had left.
    ///
    /// What is there already is newer and stays. Returns how many it took.
    ///
    /// ```
    /// use floodwall::Cache;
    ///
    /// let before = Cache::new(100);
    /// before.insert("a", 1)?;
    /// let after = Cache::new(100);
    /// assert_eq!(after.warm(before.snapshot()), 1);
    /// assert_eq!(after.get("a"), Some(1));
    /// # Ok::<(), floodwall::cache::TooHeavy<i32>>(())
    /// ```
    pub fn warm(&self, entries: impl IntoIterator<Item = Kept<K, V>>) -> usize {
        let mut taken = 0;
        for Kept { key, value, left } in entries {
            if self.weight() >= self.capacity() {
                break;
            }
            if self.contains(&key) || left.is_zero() {
                continue;
            }
            let ttl = self.inner.timed().then(|| saturating_nanos(left));
            taken += usize::from(self.inner.insert(key, value, ttl).is_ok());
        }
        taken
    }
}

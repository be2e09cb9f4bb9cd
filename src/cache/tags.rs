//! Which entries carry a tag: [`Tags`].
//!
//! An index, not marks that readers check: to carry tags then costs a read nothing, a removal finds just its entries, and
//! they are gone, with their memory and their listeners told, when it returns. The price is memory for each tag of an
//! entry, and a lock for each when it is written and when it leaves.
//!
//! Loads are the one thing that an index cannot see: what one will carry is known at its end. So a removal leaves its number
//! at one of a fixed number of places, by the tag's hash, and a load that began before it is not kept. Two tags that share
//! a place cost a load, and no more.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

use crate::hash::ByHash;
use crate::sync::{AtomicU64, Mutex, Ordering};

const PLACES: usize = 1024;
const SHARDS: usize = 16;

type TagsOf<K, V> = dyn Fn(&K, &V, &RandomState, &mut dyn FnMut(u64)) + Send + Sync;

/// By tag, the hashes of the entries that carry it, and how often: while a value is replaced both may do so.
type Carriers = ByHash<ByHash<u32>>;

/// Which entries carry a tag, both by hash.
pub(super) struct Tags<K, V> {
    of: Box<TagsOf<K, V>>,
    hasher: RandomState,
    carriers: Box<[Mutex<Carriers>]>,
    /// The number of the last removal, and the last one at each place.
    removals: AtomicU64,
    removed: Box<[AtomicU64]>,
}

impl<K, V> Tags<K, V> {
    pub(super) fn new<T: Hash, I: IntoIterator<Item = T>>(
        of: impl Fn(&K, &V) -> I + Send + Sync + 'static,
    ) -> Self {
        Self {
            of: Box::new(move |key, value, hasher, see| {
                of(key, value).into_iter().for_each(|tag| see(hasher.hash_one(tag)));
            }),
            hasher: RandomState::new(),
            carriers: (0..SHARDS).map(|_| Mutex::new(HashMap::default())).collect(),
            removals: AtomicU64::new(0),
            removed: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(super) fn hash<T: Hash + ?Sized>(&self, tag: &T) -> u64 {
        self.hasher.hash_one(tag)
    }

    /// Returns the hashes of an entry's tags.
    pub(super) fn of(&self, key: &K, value: &V) -> Vec<u64> {
        let mut tags = Vec::new();
        self.each(key, value, |tag| tags.push(tag));
        tags
    }

    /// Hears that an entry is about to be written.
    pub(super) fn entered(&self, hash: u64, tags: &[u64]) {
        for &tag in tags {
            *self.shard(tag).lock().entry(tag).or_default().entry(hash).or_default() += 1;
        }
    }

    /// Hears that an entry has left, or was not written after all.
    pub(super) fn left(&self, hash: u64, tags: &[u64]) {
        for tag in tags {
            let mut shard = self.shard(*tag).lock();
            let Some(carriers) = shard.get_mut(tag) else { continue };
            let Some(count) = carriers.get_mut(&hash) else { continue };
            *count -= 1;
            if *count == 0 {
                carriers.remove(&hash);
                if carriers.is_empty() {
                    shard.remove(tag);
                }
            }
        }
    }

    /// Begins to remove a tag, and returns the hashes of the entries that may carry it.
    pub(super) fn remove(&self, tag: u64) -> Vec<u64> {
        // SeqCst: a load that does not see this removal has its entry in the index before the removal looks there.
        let number = self.removals.fetch_add(1, Ordering::SeqCst) + 1;
        self.removed[tag as usize % PLACES].fetch_max(number, Ordering::SeqCst);
        self.shard(tag)
            .lock()
            .get(&tag)
            .map(|carriers| carriers.keys().copied().collect())
            .unwrap_or_default()
    }

    pub(super) fn carries(&self, key: &K, value: &V, tag: u64) -> bool {
        let mut carries = false;
        self.each(key, value, |other| carries |= other == tag);
        carries
    }

    /// The number of the last removal: what a load has to remember when it begins.
    pub(super) fn removals(&self) -> u64 {
        self.removals.load(Ordering::SeqCst)
    }

    /// Returns whether a tag of an entry was removed after the removal of a number.
    pub(super) fn removed_since(&self, number: u64, key: &K, value: &V) -> bool {
        let mut removed = false;
        self.each(key, value, |tag| {
            removed |= self.removed[tag as usize % PLACES].load(Ordering::SeqCst) > number;
        });
        removed
    }

    fn each(&self, key: &K, value: &V, mut see: impl FnMut(u64)) {
        (self.of)(key, value, &self.hasher, &mut see);
    }

    fn shard(&self, tag: u64) -> &Mutex<Carriers> {
        &self.carriers[(tag >> 60) as usize % SHARDS]
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.carriers.iter().map(|shard| shard.lock().values().map(HashMap::len).sum::<usize>()).sum()
    }
}

#[cfg(test)]
mod tests {
    use crate::cache::Cache;

    #[test]
    fn the_index_knows_of_nothing_that_is_not_there() {
        let cache = Cache::builder(8).tags(|key: &u32, tags: &Vec<u32>| {
            tags.iter().copied().chain([key % 2, 100, 100]).collect::<Vec<_>>()
        });
        let cache = cache.weigher(|_, tags| 1 + tags.len() as u64).build();
        let index = || cache.inner.settings.tags.as_ref().unwrap().len();
        for round in 0..1_000u32 {
            let tags: Vec<u32> = (0..round % 10).collect();
            let _ = cache.insert(round % 13, tags);
            if round % 7 == 0 {
                cache.remove(&(round % 13));
            }
            if round % 50 == 0 {
                cache.remove_tag(&3_u32);
            }
            let mut carried = 0;
            cache.for_each(|key, tags| {
                let mut tags: Vec<u32> = tags.iter().copied().chain([key % 2, 100]).collect();
                tags.sort_unstable();
                tags.dedup();
                carried += tags.len();
            });
            assert_eq!(index(), carried, "in round {round}");
        }
        cache.clear();
        assert_eq!(index(), 0);
    }

    #[test]
    fn a_load_that_began_before_a_tag_was_removed_is_told() {
        let cache = Cache::<u32, u32>::builder(8).tags(|_: &u32, value: &u32| [*value]).build();
        let tags = cache.inner.settings.tags.as_ref().unwrap();
        let began = tags.removals();
        assert!(!tags.removed_since(began, &1, &7));
        cache.remove_tag(&7_u32);
        assert!(tags.removed_since(began, &1, &7));
        assert!(!tags.removed_since(tags.removals(), &1, &7), "what begins later is kept");
    }
}

//! What is found by key, in parts under locks of their own: [`Shards`].

use std::cmp::Reverse;
use std::hash::{BuildHasher, Hash, RandomState};

use crate::error::absurd;
use crate::sync::Mutex;

/// Up to 4,096 parts, of at least 512 keys each, so that the fullest is not far from the mean.
pub(crate) struct Shards<T> {
    shards: Box<[Shard<T>]>,
    hasher: RandomState,
}

/// Alone on its cache lines: processors fetch them in pairs.
#[repr(align(128))]
struct Shard<T>(Mutex<T>);

impl<T> Shards<T> {
    /// Makes each part with room for its share of `max_keys`.
    #[track_caller]
    pub(crate) fn new(max_keys: usize, make: impl Fn(usize) -> T) -> Self {
        if max_keys == 0 {
            absurd("max_keys", 0, "must be at least 1");
        }
        if max_keys as u64 > 1 << 32 {
            absurd("max_keys", max_keys as u64, "must be at most 2^32");
        }
        let shards = 1 << (max_keys / 512).clamp(1, 4096).ilog2();
        let room = |shard| max_keys / shards + usize::from(shard < max_keys % shards);
        let shards = (0..shards).map(|shard| Shard(Mutex::new(make(room(shard))))).collect();
        Self { shards, hasher: RandomState::new() }
    }

    /// Returns the part of a key, by the upper bits of its hash, and the hash, of which the lower half is left to use.
    #[inline]
    pub(crate) fn find<Q: Hash + ?Sized>(&self, key: &Q) -> (&Mutex<T>, u64) {
        let hash = self.hasher.hash_one(key);
        // As many as a power of two.
        let shard = hash.rotate_left(16) as usize & (self.shards.len() - 1);
        (&self.shards[shard].0, hash)
    }

    /// Returns the `n` keys that weigh most, the heaviest first.
    pub(crate) fn heaviest<K: Clone, N: Ord + Copy>(
        &self,
        n: usize,
        weights: impl Fn(&T) -> Vec<(&K, N)>,
    ) -> Vec<(K, N)> {
        let mut heaviest = Vec::new();
        for shard in self.iter() {
            let part = shard.lock();
            let mut keys = weights(&part);
            keys.sort_by_key(|(_, weight)| Reverse(*weight));
            heaviest.extend(keys.into_iter().take(n).map(|(key, weight)| (key.clone(), weight)));
        }
        heaviest.sort_by_key(|(_, weight)| Reverse(*weight));
        heaviest.truncate(n);
        heaviest
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mutex<T>> {
        self.shards.iter().map(|shard| &shard.0)
    }
}

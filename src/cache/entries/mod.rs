//! The entries of a cache, by key: [`Entries`].

mod budget;
mod chunks;
mod gone;
mod lessons;
mod locked;
mod room;
mod shard;
mod slots;
mod state;
mod table;

use std::borrow::Borrow;

use super::TooHeavy;
use super::evict::{Core, Eviction, Ratios};
use super::times::{Life, Times};
use crate::rng::Rng;
use crate::sync::parallelism;
use budget::Budget;
use lessons::Lessons;
use shard::Shard;

pub(super) use gone::Gone;

/// Why an entry left the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Its time was over.
    Expired,
    /// It was removed on purpose.
    Explicit,
    /// A new value took its place.
    Replaced,
    /// Others needed the room.
    Size,
}

/// How much a table may hold, and what it must know of its entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) capacity: u64,
    pub(super) weighted: bool,
    /// What share of the capacity one entry may weigh.
    pub(super) largest: f64,
    pub(super) eviction: Eviction,
    /// What makes its order of leaving hard to foresee.
    pub(super) seed: u64,
    /// How many words of [`Life`] it keeps of each entry; 0 if the cache knows no time.
    pub(super) words: usize,
    /// What leaves is to be seen once more.
    pub(super) listened: bool,
}

/// An entry, as a look-up sees it.
pub(super) struct Found<'a, K, V> {
    pub(super) key: &'a K,
    pub(super) value: &'a V,
    pub(super) times: Times<'a>,
    /// How much it is used, beside others of the same table.
    pub(super) heat: u64,
}

impl<K, V> Found<'_, K, V> {
    /// Whether both are the same entry, while one of them is held.
    pub(super) fn is(&self, other: &Found<'_, K, V>) -> bool {
        std::ptr::eq(self.key, other.key) && std::ptr::eq(self.value, other.value)
    }
}

/// The entries of a cache: read without locks, changed in shards, bounded as a whole.
pub(super) struct Entries<K, V> {
    shards: Box<[Shard<K, V>]>,
    budget: Budget,
    is_listened: bool,
    is_weighted: bool,
    is_timed: bool,
    /// Of a cache that learns; one that does not keeps its entries in order at each use.
    lessons: Option<Lessons>,
}

/// More entries than this make no difference.
const MANY: u64 = 1 << 40;

impl<K, V> Entries<K, V> {
    pub(super) fn new(room: Room) -> Self {
        // So many that threads rarely meet, so few that each has entries to choose from. A strict order is one.
        let most = (parallelism() * 16).next_power_of_two().clamp(1, 1 << 12) as u64;
        let most = if room.eviction == Eviction::Lru { 1 } else { most };
        let shards = 1usize << (room.capacity / 256).clamp(1, most).ilog2();
        let expected = (!room.weighted).then(|| room.capacity.div_ceil(shards as u64));
        let mut seeds = Rng::seeded(room.seed);
        Self {
            shards: (0..shards)
                .map(|_| {
                    let order = Core::new(room.eviction, seeds.next());
                    Shard::new(order, expected, room.weighted, room.words)
                })
                .collect(),
            budget: Budget::new(room.capacity, room.largest, shards),
            is_listened: room.listened,
            is_weighted: room.weighted,
            is_timed: room.words > 0,
            lessons: (room.eviction == Eviction::Adaptive).then(|| Lessons::new(room.capacity.min(MANY))),
        }
    }

    /// For about how many entries there is room.
    #[cold]
    fn entries(&self) -> u64 {
        let (len, weight) = (self.len() as u64, self.weight());
        if self.is_weighted && weight > 0 {
            let entries = u128::from(len.max(1)) * u128::from(self.capacity()) / u128::from(weight);
            return entries.min(MANY.into()) as u64;
        }
        self.capacity().min(MANY)
    }

    /// What share of the look-ups would have been hits lately, with this capacity and others.
    pub(super) fn ratios(&self) -> Option<Ratios> {
        self.lessons.as_ref()?.ratios()
    }

    /// The shard of a hash, by its upper bits, and the bits that are left for the table.
    #[inline]
    fn place(&self, hash: u64) -> (usize, u32) {
        // As many as a power of two.
        ((hash >> 48) as usize & (self.shards.len() - 1), hash as u32)
    }

    pub(super) fn capacity(&self) -> u64 {
        self.budget.capacity()
    }

    /// Whether it knows time at all.
    #[inline]
    pub(super) fn is_timed(&self) -> bool {
        self.is_timed
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(Shard::len).sum::<u64>() as usize
    }

    pub(super) fn weight(&self) -> u64 {
        self.shards.iter().map(Shard::weight).fold(0, u64::saturating_add)
    }

    /// Returns how many bytes the table takes, keys and values as far as they lie in it included.
    pub(super) fn memory_usage(&self) -> usize {
        let lessons = self.lessons.as_ref().map_or(0, Lessons::memory);
        size_of::<Self>() + self.shards.iter().map(Shard::memory).sum::<usize>() + lessons
    }
}

impl<K: Eq, V> Entries<K, V> {
    /// Shows the entry of `key` to `see` if `judge` says that it is worth something; that counts as a use.
    #[inline]
    pub(super) fn read<Q, J, R>(
        &self,
        hash: u64,
        key: &Q,
        judge: impl FnOnce(&Found<'_, K, V>) -> Option<J>,
        see: impl FnOnce(Found<'_, K, V>, J) -> R,
    ) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let (shard, hash) = self.place(hash);
        let shard = &self.shards[shard];
        let Some(lessons) = &self.lessons else {
            let seen = shard.look(hash, key, |slot, _, found| {
                let judged = judge(&found)?;
                shard.reuse(slot);
                Some(see(found, judged))
            });
            return seen.flatten();
        };
        let seen = shard.look(hash, key, |slot, _, found| {
            let judged = judge(&found)?;
            shard.slots.get(slot).node.touch();
            Some(see(found, judged))
        });
        let seen = seen.flatten();
        lessons.hear(hash, seen.is_some(), || self.entries());
        seen
    }

    /// Shows the entry of `key` to `see`; counts as nothing.
    pub(super) fn peek<Q, R>(&self, hash: u64, key: &Q, see: impl FnOnce(Found<'_, K, V>) -> R) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let (shard, hash) = self.place(hash);
        self.shards[shard].look(hash, key, |_, _, found| see(found))
    }

    /// Puts an entry in place of the one of its key, and makes others leave for its room. What weighs more than one
    /// entry may is given back, and the old one leaves all the same.
    pub(super) fn insert(
        &self,
        hash: u64,
        key: K,
        value: V,
        weight: u64,
        life: Life,
    ) -> (Gone<'_, K, V>, Option<TooHeavy<V>>) {
        let limit = self.budget.limit();
        if weight > limit {
            let mut gone = self.remove_if(hash, &key, |old| {
                Some(if old.times.is_over(life.now) { Cause::Expired } else { Cause::Replaced })
            });
            gone.refuse(key);
            return (gone, Some(TooHeavy { value, weight, limit }));
        }
        let mut gone = Gone::new(self);
        let (shard, hash) = self.place(hash);
        self.admit(shard, hash, key, value, weight, life, &mut gone);
        (gone, None)
    }

    /// Removes the entry of `key` if `why` gives a cause. It is asked outside the lock, and again if the entry changes
    /// meanwhile.
    pub(super) fn remove_if<Q>(
        &self,
        hash: u64,
        key: &Q,
        why: impl Fn(Found<'_, K, V>) -> Option<Cause>,
    ) -> Gone<'_, K, V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let mut gone = Gone::new(self);
        let (shard, hash) = self.place(hash);
        // It stays the same entry while it is shown: its slot is not used for another.
        while let Some(true) = self.shards[shard].look(hash, key, |slot, _, found| {
            why(found).is_some_and(|cause| !self.take(shard, slot, cause, &mut gone))
        }) {}
        gone
    }

    /// Makes entries leave whose time is over at `now`, after having looked at about `budget` of them in each shard; to be
    /// tidied up after it.
    pub(super) fn expire(&self, now: u64, budget: usize) -> Gone<'_, K, V> {
        let mut gone = Gone::new(self);
        for (number, shard) in self.shards.iter().enumerate() {
            let mut locked = shard.lock();
            self.expire_some(&mut locked, number, now, budget, &mut gone);
        }
        gone
    }

    /// Shows the entries whose keys hash to `hash` to `see`, quietly.
    pub(super) fn scan_hash(&self, hash: u64, mut see: impl FnMut(Found<'_, K, V>)) {
        let (shard, hash) = self.place(hash);
        let shard = &self.shards[shard];
        let all = shard.lock().all_of(hash);
        for slot in all {
            shard.look_at(hash, slot, |_, _, found| see(found));
        }
    }

    /// Shows all entries to `see`, quietly, until it returns false. What stays meanwhile is shown exactly once.
    pub(super) fn scan(&self, mut see: impl FnMut(Found<'_, K, V>) -> bool) {
        for shard in &self.shards {
            let mut all = shard.lock().all();
            all.sort_unstable();
            // A key whose value is replaced meanwhile is in another slot then, perhaps in one that we have passed.
            let mut moved = Vec::new();
            for &(slot, hash) in &all {
                let shown = shard.look_at(hash, slot, |_, _, found| see(found)).or_else(|| {
                    let is_new =
                        |slot| all.binary_search(&(slot, hash)).is_err() && !moved.contains(&(slot, hash));
                    let shown = shard.look_for(hash, is_new, |slot, _, found| (slot, see(found)))?;
                    moved.push((shown.0, hash));
                    Some(shown.1)
                });
                if shown == Some(false) {
                    return;
                }
            }
        }
    }
}

//! The entries of a cache, by key: [`Entries`].

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;

use super::TooHeavy;
use super::times::{Life, Times};
use crate::clock::NEVER;
use crate::hash::ByHash;
use crate::sync::{AtomicU64, Mutex, Ordering};

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
    /// How many words of [`Life`] it keeps of each entry; 0 if the cache knows no time.
    pub(super) words: usize,
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

/// Entries that have left: still readable by who took them out, given back when this is dropped.
#[must_use = "listeners hear of what has left"]
pub(super) struct Gone<'a, K, V> {
    left: Vec<(Arc<Record<K, V>>, Cause)>,
    /// The key of a value that was too heavy: dropped with the rest, after every lock.
    refused: Option<K>,
    table: PhantomData<&'a Entries<K, V>>,
}

struct Record<K, V> {
    key: K,
    value: V,
    weight: u64,
    times: Box<[AtomicU64]>,
    uses: AtomicU64,
    hash: u64,
    /// Rises in the order of arrival.
    number: u64,
    /// Where it stands in `due`: when it was to leave when that was last looked at. Changed under the lock.
    queued: AtomicU64,
}

/// The entries of a cache, under one lock, which leave in the order in which they came.
pub(super) struct Entries<K, V> {
    table: Mutex<Table<K, V>>,
}

struct Table<K, V> {
    records: ByHash<Vec<Arc<Record<K, V>>>>,
    /// By number.
    order: BTreeMap<u64, Arc<Record<K, V>>>,
    /// When each is to leave that ever does, and its number. Readers move times without telling: it may be later.
    due: BTreeSet<(u64, u64)>,
    arrived: u64,
    capacity: u64,
    words: usize,
    weight: u64,
}

impl<'a, K, V> Gone<'a, K, V> {
    const fn new() -> Self {
        Self { left: Vec::new(), refused: None, table: PhantomData }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V, Cause)> {
        self.left.iter().map(|(record, cause)| (&record.key, &record.value, *cause))
    }
}

impl<K, V> Record<K, V> {
    const fn times(&self) -> Times<'_> {
        Times(&self.times)
    }

    fn found(&self) -> Found<'_, K, V> {
        Found {
            key: &self.key,
            value: &self.value,
            times: self.times(),
            heat: self.uses.load(Ordering::Relaxed),
        }
    }
}

impl<K: Eq, V> Entries<K, V> {
    pub(super) fn new(room: Room) -> Self {
        let table = Table {
            records: ByHash::default(),
            order: BTreeMap::new(),
            due: BTreeSet::new(),
            arrived: 0,
            capacity: room.capacity,
            words: room.words,
            weight: 0,
        };
        Self { table: Mutex::new(table) }
    }

    /// Shows the entry of `key` to `see`; counts as a use.
    pub(super) fn read<Q, R>(&self, hash: u64, key: &Q, see: impl FnOnce(Found<'_, K, V>) -> R) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let record = Arc::clone(self.table.lock().find(hash, key)?);
        record.uses.fetch_add(1, Ordering::Relaxed);
        Some(see(record.found()))
    }

    /// Shows the entry of `key` to `see`; counts as nothing.
    pub(super) fn peek<Q, R>(&self, hash: u64, key: &Q, see: impl FnOnce(Found<'_, K, V>) -> R) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let record = Arc::clone(self.table.lock().find(hash, key)?);
        Some(see(record.found()))
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
        let mut gone = Gone::new();
        let mut table = self.table.lock();
        if let Some(old) = table.take(hash, &key) {
            let cause = if old.times().is_over(life.now) { Cause::Expired } else { Cause::Replaced };
            gone.left.push((old, cause));
        }
        if weight > table.capacity {
            let limit = table.capacity;
            gone.refused = Some(key);
            return (gone, Some(TooHeavy { value, weight, limit }));
        }
        table.expire(life.now, 4, &mut gone);
        let room = table.capacity - weight;
        table.shrink(room, &mut gone);
        let times: Box<[AtomicU64]> =
            life.words[..table.words].iter().map(|time| AtomicU64::new(*time)).collect();
        let queued = AtomicU64::new(Times(&times).expires());
        table.arrived += 1;
        let (uses, number) = (AtomicU64::new(0), table.arrived);
        table.add(Arc::new(Record { key, value, weight, times, uses, hash, number, queued }));
        (gone, None)
    }

    /// Removes the entry of `key` if `why` gives a cause, which it does under the lock.
    pub(super) fn remove_if<Q>(
        &self,
        hash: u64,
        key: &Q,
        why: impl FnOnce(Found<'_, K, V>) -> Option<Cause>,
    ) -> Gone<'_, K, V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let mut gone = Gone::new();
        let mut table = self.table.lock();
        if let Some(cause) = table.find(hash, key).and_then(|record| why(record.found())) {
            gone.left.extend(table.take(hash, key).map(|record| (record, cause)));
        }
        gone
    }

    /// Makes entries leave whose time is over at `now`, after having looked at about `budget` of them.
    pub(super) fn expire(&self, now: u64, budget: usize) -> Gone<'_, K, V> {
        let mut gone = Gone::new();
        let mut table = self.table.lock();
        table.expire(now, budget, &mut gone);
        gone
    }

    /// Shows the entries whose keys hash to `hash` to `see`, quietly.
    pub(super) fn scan_hash(&self, hash: u64, mut see: impl FnMut(Found<'_, K, V>)) {
        let all = self.table.lock().records.get(&hash).cloned();
        all.iter().flatten().for_each(|record| see(record.found()));
    }

    /// Shows all entries to `see`, quietly, until it returns false.
    pub(super) fn scan(&self, mut see: impl FnMut(Found<'_, K, V>) -> bool) {
        let all: Vec<_> = self.table.lock().records.values().flatten().cloned().collect();
        let _ = all.iter().all(|record| see(record.found()));
    }

    pub(super) fn set_capacity(&self, capacity: u64) -> Gone<'_, K, V> {
        let mut gone = Gone::new();
        let mut table = self.table.lock();
        table.capacity = capacity;
        table.shrink(capacity, &mut gone);
        gone
    }

    pub(super) fn capacity(&self) -> u64 {
        self.table.lock().capacity
    }

    pub(super) fn len(&self) -> usize {
        self.table.lock().order.len()
    }

    pub(super) fn weight(&self) -> u64 {
        self.table.lock().weight
    }
}

impl<K: Eq, V> Table<K, V> {
    fn find<Q>(&self, hash: u64, key: &Q) -> Option<&Arc<Record<K, V>>>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.records.get(&hash)?.iter().find(|record| record.key.borrow() == key)
    }

    fn take<Q>(&mut self, hash: u64, key: &Q) -> Option<Arc<Record<K, V>>>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let record = Arc::clone(self.find(hash, key)?);
        self.drop_record(&record);
        Some(record)
    }

    fn add(&mut self, record: Arc<Record<K, V>>) {
        self.weight += record.weight;
        self.records.entry(record.hash).or_default().push(Arc::clone(&record));
        self.queue(&record);
        self.order.insert(record.number, record);
    }

    fn queue(&mut self, record: &Record<K, V>) {
        let at = record.queued.load(Ordering::Relaxed);
        if at != NEVER {
            self.due.insert((at, record.number));
        }
    }

    fn drop_record(&mut self, record: &Arc<Record<K, V>>) {
        if let Some(records) = self.records.get_mut(&record.hash) {
            records.retain(|it| !Arc::ptr_eq(it, record));
            if records.is_empty() {
                self.records.remove(&record.hash);
            }
        }
        self.due.remove(&(record.queued.load(Ordering::Relaxed), record.number));
        self.order.remove(&record.number);
        self.weight -= record.weight;
    }

    fn expire(&mut self, now: u64, budget: usize, gone: &mut Gone<'_, K, V>) {
        for _ in 0..budget {
            let Some(&(at, number)) = self.due.first() else { return };
            if at > now {
                return;
            }
            self.due.pop_first();
            let Some(record) = self.order.get(&number).map(Arc::clone) else { continue };
            if record.times().is_over(now) {
                self.drop_record(&record);
                gone.left.push((record, Cause::Expired));
            } else {
                record.queued.store(record.times().expires(), Ordering::Relaxed);
                self.queue(&record);
            }
        }
    }

    /// Makes the oldest leave until the others weigh at most `most`.
    fn shrink(&mut self, most: u64, gone: &mut Gone<'_, K, V>) {
        while self.weight > most {
            let Some(record) = self.order.first_key_value().map(|(_, record)| Arc::clone(record)) else {
                return;
            };
            self.drop_record(&record);
            gone.left.push((record, Cause::Size));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::times::MOST_WORDS;

    #[test]
    fn nothing_is_left_of_entries_that_were_replaced_or_removed() {
        let entries = Entries::new(Room { capacity: 8, weighted: false, words: 1 });
        for time in 0..100 {
            let life = Life { now: 0, words: [1_000 + time; MOST_WORDS] };
            let (_, refused) = entries.insert(time % 10, time % 10, "value", 1, life);
            assert_eq!(refused, None);
        }
        let sizes = || {
            let table = entries.table.lock();
            (table.records.len(), table.order.len(), table.due.len(), table.weight)
        };
        assert_eq!(sizes(), (8, 8, 8, 8));
        for key in 0..10 {
            drop(entries.remove_if(key, &key, |_| Some(Cause::Explicit)));
        }
        assert_eq!(sizes(), (0, 0, 0, 0));
    }
}

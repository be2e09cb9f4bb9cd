//! The entries of a cache, by key: [`Entries`].

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;

use super::TooHeavy;
use super::times::{Life, Times};
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
    table: PhantomData<&'a Entries<K, V>>,
}

struct Record<K, V> {
    key: K,
    value: V,
    weight: u64,
    times: Box<[AtomicU64]>,
    uses: AtomicU64,
    hash: u64,
}

/// The entries of a cache.
pub(super) struct Entries<K, V> {
    table: Mutex<Table<K, V>>,
}

struct Table<K, V> {
    /// By hash.
    records: HashMap<u64, Vec<Arc<Record<K, V>>>>,
    /// Hashes in order of arrival; those of entries that left meanwhile are passed over.
    order: VecDeque<Arc<Record<K, V>>>,
    capacity: u64,
    words: usize,
    weight: u64,
    count: usize,
}

impl<'a, K, V> Gone<'a, K, V> {
    const fn new() -> Self {
        Self { left: Vec::new(), table: PhantomData }
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
            records: HashMap::new(),
            order: VecDeque::new(),
            capacity: room.capacity,
            words: room.words,
            weight: 0,
            count: 0,
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
            return (gone, Some(TooHeavy { value, weight, limit }));
        }
        let times = life.words[..table.words].iter().map(|time| AtomicU64::new(*time)).collect();
        let record = Arc::new(Record { key, value, weight, times, uses: AtomicU64::new(0), hash });
        table.count += 1;
        table.weight += weight;
        table.records.entry(hash).or_default().push(Arc::clone(&record));
        table.order.push_back(record);
        table.expire(life.now, 4, &mut gone);
        table.shrink(&mut gone);
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
        table.shrink(&mut gone);
        gone
    }

    pub(super) fn capacity(&self) -> u64 {
        self.table.lock().capacity
    }

    pub(super) fn len(&self) -> usize {
        self.table.lock().count
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

    fn drop_record(&mut self, record: &Arc<Record<K, V>>) -> bool {
        let Some(records) = self.records.get_mut(&record.hash) else { return false };
        let Some(place) = records.iter().position(|it| Arc::ptr_eq(it, record)) else { return false };
        records.swap_remove(place);
        if records.is_empty() {
            self.records.remove(&record.hash);
        }
        self.order.retain(|it| !Arc::ptr_eq(it, record));
        self.weight -= record.weight;
        self.count -= 1;
        true
    }

    fn expire(&mut self, now: u64, budget: usize, gone: &mut Gone<'_, K, V>) {
        if self.words == 0 {
            return;
        }
        let over = self.order.iter().filter(|record| record.times().is_over(now));
        for record in over.take(budget).cloned().collect::<Vec<_>>() {
            if self.drop_record(&record) {
                gone.left.push((record, Cause::Expired));
            }
        }
    }

    fn shrink(&mut self, gone: &mut Gone<'_, K, V>) {
        while self.weight > self.capacity {
            let Some(record) = self.order.front().cloned() else { return };
            self.drop_record(&record);
            gone.left.push((record, Cause::Size));
        }
    }
}

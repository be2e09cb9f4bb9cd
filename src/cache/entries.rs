//! The entries of a cache, by key: [`Entries`].
#![expect(dead_code, reason = "expiry and scans are still to come")]

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;

use super::TooHeavy;
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
    pub(super) timed: bool,
}

/// When an entry ends, in nanoseconds of the cache's clock; `u64::MAX` is never.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) expires: u64,
}

impl Life {
    pub(super) const FOREVER: Self = Self { expires: u64::MAX };
}

/// When an entry ends, as readers see it and may move it.
#[derive(Debug)]
pub(super) struct Times {
    expires: AtomicU64,
}

impl Times {
    pub(super) fn expires(&self) -> u64 {
        self.expires.load(Ordering::Relaxed)
    }
}

/// An entry, as a look-up sees it.
pub(super) struct Found<'a, K, V> {
    pub(super) key: &'a K,
    pub(super) value: &'a V,
    pub(super) times: &'a Times,
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
    times: Times,
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
    const fn found(&self) -> Found<'_, K, V> {
        Found { key: &self.key, value: &self.value, times: &self.times }
    }
}

impl<K: Eq, V> Entries<K, V> {
    pub(super) fn new(room: Room) -> Self {
        let table = Table {
            records: HashMap::new(),
            order: VecDeque::new(),
            capacity: room.capacity,
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
        self.peek(hash, key, see)
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
            gone.left.push((old, Cause::Replaced));
        }
        if weight > table.capacity {
            let limit = table.capacity;
            return (gone, Some(TooHeavy { value, weight, limit }));
        }
        let times = Times { expires: AtomicU64::new(life.expires) };
        let record = Arc::new(Record { key, value, weight, times, hash });
        table.count += 1;
        table.weight += weight;
        table.records.entry(hash).or_default().push(Arc::clone(&record));
        table.order.push_back(record);
        table.shrink(&mut gone);
        (gone, None)
    }

    /// Removes the entry of `key` if it passes the test.
    pub(super) fn remove_if<Q>(
        &self,
        hash: u64,
        key: &Q,
        cause: Cause,
        test: impl FnOnce(Found<'_, K, V>) -> bool,
    ) -> Gone<'_, K, V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let mut gone = Gone::new();
        let mut table = self.table.lock();
        if table.find(hash, key).is_some_and(|record| test(record.found())) {
            gone.left.extend(table.take(hash, key).map(|record| (record, cause)));
        }
        gone
    }

    /// Makes entries leave whose time is over at `now`, after having looked at about `budget` of them.
    pub(super) fn expire(&self, now: u64, budget: usize) -> Gone<'_, K, V> {
        let mut gone = Gone::new();
        let mut table = self.table.lock();
        let over: Vec<_> =
            table.order.iter().filter(|record| record.times.expires() <= now).take(budget).cloned().collect();
        for record in over {
            if table.drop_record(&record) {
                gone.left.push((record, Cause::Expired));
            }
        }
        gone
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

    fn shrink(&mut self, gone: &mut Gone<'_, K, V>) {
        while self.weight > self.capacity {
            let Some(record) = self.order.front().cloned() else { return };
            self.drop_record(&record);
            gone.left.push((record, Cause::Size));
        }
    }
}

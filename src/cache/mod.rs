//! What was looked up lately, kept in memory in bounded room: [`Cache`].
//!
//! For results that cost more to make than to keep, and that may be as old as you say: rows, pages, tokens, answers of
//! other services. Not for what must never be lost, nor for what many processes must agree on: a cache may forget any
//! entry at any time.

mod builder;
mod entries;
mod evict;
mod hash;

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

pub use builder::CacheBuilder;
pub use entries::Cause;

use crate::clock::Clock;
use crate::event::Hook;
use entries::{Entries, Gone, Life, Room};
use hash::Seed;

/// A cache in memory for many threads and tasks, bounded by entries or by weight.
///
/// Clones are handles of one cache. `get` clones the value: keep what is large in an `Arc`, or look at it in place by
/// [`with`](Cache::with).
///
/// ```
/// use floodwall::Cache;
///
/// let users = Cache::new(10_000);
/// users.insert(7, "ann".to_string())?;
/// assert_eq!(users.get(&7), Some("ann".to_string()));
/// assert_eq!(users.remove(&7), Some("ann".to_string()));
/// assert_eq!(users.get(&7), None);
/// # Ok::<(), floodwall::cache::TooHeavy<String>>(())
/// ```
pub struct Cache<K, V> {
    inner: Arc<Inner<K, V>>,
}

struct Inner<K, V> {
    entries: Entries<K, V>,
    seed: Seed,
    settings: Settings<K, V>,
    clock: Clock,
    hook: Hook,
}

type Weigher<K, V> = dyn Fn(&K, &V) -> u64 + Send + Sync;
type Listener<K, V> = dyn Fn(&K, &V, Cause) + Send + Sync;

/// What a builder sets beside clock and name.
struct Settings<K, V> {
    weigher: Option<Box<Weigher<K, V>>>,
    listener: Option<Box<Listener<K, V>>>,
}

/// A value that [`Cache::insert`] did not take: it weighs more than one entry may. It is given back here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooHeavy<V> {
    /// The value.
    pub value: V,
    /// What it weighs.
    pub weight: u64,
    /// What one entry may weigh.
    pub limit: u64,
}

impl<V> fmt::Display for TooHeavy<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an entry of weight {} is heavier than one may be, {}", self.weight, self.limit)
    }
}

impl<V: fmt::Debug> std::error::Error for TooHeavy<V> {}

impl<K: Hash + Eq, V> Cache<K, V> {
    /// Makes a cache of at most `capacity` entries. The rest of the settings: [`builder`](Cache::builder).
    pub fn new(capacity: u64) -> Self {
        Self::builder(capacity).build()
    }

    /// Starts to build a cache of at most `capacity`: entries, or what a [weigher](CacheBuilder::weigher) counts.
    pub fn builder(capacity: u64) -> CacheBuilder<K, V> {
        CacheBuilder::new(capacity)
    }

    /// Returns a clone of the value of `key`.
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        self.with(key, V::clone)
    }

    /// Looks at the value of `key` in place.
    pub fn with<Q, R>(&self, key: &Q, see: impl FnOnce(&V) -> R) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.inner.entries.read(self.inner.hash(key), key, |found| see(found.value))
    }

    /// Returns a clone of the value of `key` quietly: it counts as no use, in no statistics.
    pub fn peek<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        self.inner.entries.peek(self.inner.hash(key), key, |found| found.value.clone())
    }

    /// Keeps `value` for `key`, in place of what was there.
    ///
    /// # Errors
    ///
    /// [`TooHeavy`], with the value, if it weighs more than one entry may. The key is then absent: what was there is
    /// no longer true.
    pub fn insert(&self, key: K, value: V) -> Result<(), TooHeavy<V>> {
        let inner = &*self.inner;
        let weight = inner.settings.weigher.as_ref().map_or(1, |weigh| weigh(&key, &value));
        let hash = inner.hash(&key);
        let (gone, refused) = inner.entries.insert(hash, key, value, weight, Life::FOREVER);
        inner.tell(gone);
        refused.map_or(Ok(()), Err)
    }

    /// Removes `key` and returns a clone of its value.
    pub fn remove<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        let inner = &*self.inner;
        let gone = inner.entries.remove_if(inner.hash(key), key, Cause::Explicit, |_| true);
        let value = gone.iter().next().map(|(_, value, _)| value.clone());
        inner.tell(gone);
        value
    }

    /// Removes `key`. Returns whether it was there.
    pub fn forget<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let inner = &*self.inner;
        let gone = inner.entries.remove_if(inner.hash(key), key, Cause::Explicit, |_| true);
        let was_there = gone.iter().next().is_some();
        inner.tell(gone);
        was_there
    }

    /// Changes how much it may hold. Entries leave at once if it is less than what is there.
    pub fn set_capacity(&self, capacity: u64) {
        self.inner.tell(self.inner.entries.set_capacity(capacity));
    }

    /// Returns how many entries it holds; those that expired and were not yet swept included.
    pub fn len(&self) -> usize {
        self.inner.entries.len()
    }

    /// Returns whether it holds no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns what its entries weigh.
    pub fn weight(&self) -> u64 {
        self.inner.entries.weight()
    }

    /// Returns how much it may hold.
    pub fn capacity(&self) -> u64 {
        self.inner.entries.capacity()
    }
}

impl<K: Hash + Eq, V> Inner<K, V> {
    #[inline]
    fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        self.seed.hash(key)
    }

    /// Tells the listener of what has left, and lets go of it.
    fn tell(&self, gone: Gone<'_, K, V>) {
        if let Some(listener) = &self.settings.listener {
            for (key, value, cause) in gone.iter() {
                listener(key, value, cause);
            }
        }
    }
}

impl<K, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K: Eq, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("name", &self.inner.hook.name)
            .field("clock", &self.inner.clock)
            .finish_non_exhaustive()
    }
}

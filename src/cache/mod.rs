//! What was looked up lately, kept in memory in bounded room: [`Cache`].
//!
//! For results that cost more to make than to keep, and that may be as old as you say: rows, pages, tokens, answers of
//! other services. Not for what must never be lost, nor for what many processes must agree on: a cache may forget any
//! entry at any time.
//!
//! # Coming from moka, quick_cache or lru
//!
//! | here | moka | quick_cache | lru |
//! |---|---|---|---|
//! | [`new`](Cache::new), [`builder`](Cache::builder) | `new`, `builder().max_capacity` | `new`, `with_weighter` | `new` |
//! | [`get`](Cache::get), [`with`](Cache::with) | `get` | `get` | `get` |
//! | [`peek`](Cache::peek), [`contains`](Cache::contains) | `contains_key` | `peek`, `contains_key` | `peek`, `contains` |
//! | [`insert`](Cache::insert) | `insert` | `insert` | `put`, `push` |
//! | [`remove`](Cache::remove) | `remove`, `invalidate` | `remove` | `pop` |
//! | [`remove_if`](Cache::remove_if), [`retain`](Cache::retain) | `invalidate_entries_if` | `remove_if`, `retain` | |
//! | [`clear`](Cache::clear) | `invalidate_all` | `clear` | `clear` |
//! | [`get_or_load`](Cache::get_or_load), [`get_or_load_blocking`](Cache::get_or_load_blocking) | `try_get_with` of `future::Cache`, of `sync::Cache` | `get_or_insert_async`, `get_or_insert_with` | `try_get_or_insert` |
//! | [`entry`](Cache::entry) with a [`LoadGuard`] | | `get_value_or_guard_async` | |
//! | [`compute`](Cache::compute) | `entry(..).and_try_compute_with` | `entry` | `get_mut` |
//! | [`get_many`](Cache::get_many), [`BatchLoader`] | | | |
//! | [`weigher`](CacheBuilder::weigher), in u64 | `weigher`, in u32 | `Weighter` | |
//! | [`ttl`](CacheBuilder::ttl), [`idle`](CacheBuilder::idle) | `time_to_live`, `time_to_idle` | | |
//! | [`expiry`](CacheBuilder::expiry), [`insert_for`](Cache::insert_for) | `expire_after` | | |
//! | [`refresh_ahead`](CacheBuilder::refresh_ahead), [`stale_if_error`](CacheBuilder::stale_if_error) and what stands beside them | | | |
//! | [`listener`](CacheBuilder::listener) | `eviction_listener` | `Lifecycle` | `push` returns it |
//! | [`tags`](CacheBuilder::tags), [`remove_tag`](Cache::remove_tag), [`listen`](Cache::listen) | | | |
//! | [`iter`](Cache::iter), [`for_each`](Cache::for_each) | `iter` | `iter` | `iter` |
//! | [`set_capacity`](Cache::set_capacity) | | `set_capacity` | `resize` |
//! | [`sweep`](Cache::sweep) | `run_pending_tasks` | | |
//! | [`len`](Cache::len), [`weight`](Cache::weight) | `entry_count`, `weighted_size` | `len`, `weight` | `len` |
//! | [`stats`](Cache::stats) | | `hits`, `misses` | |
//!
//! What is different: one cache serves threads and tasks, so there are no two types for them. `insert` returns an error with
//! the value if the entry is too heavy, where the others drop it silently. `remove` stops loads of its key from being kept.
//! There is no thread and no queue behind it: an insert is seen at once, and counts are exact.

mod at;
mod batch;
mod builder;
mod compute;
mod entries;
mod entry;
mod evict;
mod expiry;
mod fresh;
mod hash;
mod inner;
mod invalidate;
mod load;
mod many;
mod refresh;
mod snapshot;
mod stats;
mod tags;
mod times;
mod timing;
mod wheel;

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

pub use at::CacheAt;
pub use batch::BatchLoader;
pub use builder::CacheBuilder;
pub use compute::Compute;
pub use entries::Cause;
pub use entry::{Entry, LoadGuard};
pub use evict::{Eviction, Simulator};
pub use expiry::Expiry;
pub use invalidate::Invalidation;
pub use refresh::Job;
pub use snapshot::Kept;
pub use stats::{CacheStats, Estimate};

use crate::clock::Clock;
use crate::error::saturating_nanos;
use crate::event::Hook;
use crate::flight::Flights;
use crate::rng::Seeds;
use entries::{Entries, Room};
use expiry::Rules;
use hash::Seed;
use stats::Counts;
use tags::Tags;

/// A cache in memory for many threads and tasks, bounded by entries or by weight.
///
/// Clones are handles of one cache. `get` clones the value: keep what is large in an `Arc`, or look at it in place by
/// [`with`](Cache::with).
///
/// # Cost
///
/// A look-up takes no lock and writes to nothing that threads share, save one byte beside an entry that is not in much use
/// yet. A write locks a part of the cache. Which entry leaves when there is no room is chosen by how often and how lately it
/// was used ([`Eviction::Adaptive`]); that is learnt from one look-up in some dozens, in small caches in turns, which is a third
/// of a microsecond for each that is heard. With [`Eviction::Lru`] all of it is under one lock.
///
/// # Memory
///
/// An entry of two `u64` takes 47 bytes in a cache of a million, as the allocator counts them, of which 16 are key and value. A
/// weigher adds 9, and knowing time 33 (`tests/cache_memory.rs` prints them). Slots for the entries that are expected come from
/// the system at once, and take memory as they are used.
///
/// # When values are dropped
///
/// What leaves may be read at that moment by another thread, so it is dropped when it is known that nobody does: by the write that
/// made it leave or by one soon after, of which each drops up to two. What has left and is not dropped yet
/// takes room as before; there is never more than the cache may hold, and one entry for each thread that
/// writes or reads. In a cache of fewer than 256 entries what leaves is dropped at once if nobody reads it.
/// [`sweep`](Cache::sweep), [`retain`](Cache::retain) and [`set_capacity`](Cache::set_capacity) drop all that nobody reads;
/// [`clear`](Cache::clear) leaves all but a thousand to the writes that follow.
///
/// Values are dropped, cloned and looked at outside all locks. [`Eq`] of keys may run under one: it must not use the cache.
///
/// # Examples
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
    flights: Flights<K, V>,
    seed: Seed,
    settings: Settings<K, V>,
    counts: Counts,
    clock: Clock,
    hook: Hook,
}

type Weigher<K, V> = dyn Fn(&K, &V) -> u64 + Send + Sync;
type IsNegative<V> = fn(&V) -> bool;
type Listener<K, V> = dyn Fn(&K, &V, Cause) + Send + Sync;

/// What a builder sets beside clock and name.
struct Settings<K, V> {
    weigher: Option<Box<Weigher<K, V>>>,
    listener: Option<Box<Listener<K, V>>>,
    rules: Rules,
    expiry: Option<Box<dyn Expiry<K, V>>>,
    /// Which values say that there is none, and how long they live.
    negative: Option<(IsNegative<V>, u64)>,
    tags: Option<Tags<K, V>>,
    background: Option<Box<dyn Fn(Job) + Send + Sync>>,
    /// What early refreshes are drawn from.
    seeds: Seeds,
    soft_timeout: Duration,
}

/// A value that [`Cache::insert`] did not take: it weighs more than one entry may. It is given back here.
#[derive(Clone, PartialEq, Eq)]
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

// Whatever the value is: `unwrap` and `?` must not ask more of it than the cache does.
impl<V> fmt::Debug for TooHeavy<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TooHeavy")
            .field("weight", &self.weight)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<V> std::error::Error for TooHeavy<V> {}

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
        self.inner.look(self.inner.hash(key), key, |found| see(found.value))
    }

    /// Returns a clone of the value of `key` quietly: it counts as no use, in no statistics.
    pub fn peek<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        self.inner.peek(self.inner.hash(key), key, |found| found.value.clone())
    }

    /// Returns whether there is a value for `key`, quietly as [`peek`](Cache::peek).
    pub fn contains<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.inner.peek(self.inner.hash(key), key, |_| ()).is_some()
    }

    /// Keeps `value` for `key`, in place of what was there.
    ///
    /// # Errors
    ///
    /// [`TooHeavy`], with the value, if it weighs more than one entry may. The key is then absent: what was there is
    /// no longer true.
    pub fn insert(&self, key: K, value: V) -> Result<(), TooHeavy<V>> {
        self.inner.insert(key, value, None)
    }

    /// Keeps `value` for `key` for a time of its own, instead of the cache's: `Duration::MAX` is for ever.
    ///
    /// [Jitter](CacheBuilder::jitter) and [idle time](CacheBuilder::idle) shorten it all the same.
    ///
    /// # Errors
    ///
    /// As [`insert`](Cache::insert).
    ///
    /// # Panics
    ///
    /// If the cache knows no time; `ttl(Duration::MAX)` makes it know.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Cache, Clock};
    ///
    /// let clock = Clock::manual();
    /// let cache = Cache::builder(100).ttl(Duration::MAX).clock(clock.clone()).build();
    /// cache.insert_for("session", "ann", Duration::from_secs(60))?;
    /// clock.advance(Duration::from_secs(60));
    /// assert_eq!(cache.get("session"), None);
    /// # Ok::<(), floodwall::cache::TooHeavy<&str>>(())
    /// ```
    #[track_caller]
    pub fn insert_for(&self, key: K, value: V, ttl: Duration) -> Result<(), TooHeavy<V>> {
        assert!(self.inner.timed(), "insert_for: the cache knows no time; build it with ttl(Duration::MAX)");
        self.inner.insert(key, value, Some(saturating_nanos(ttl)))
    }

    /// Removes `key` and returns a clone of its value.
    pub fn remove<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        let inner = &*self.inner;
        let gone = inner.take(inner.hash(key), key);
        // Before the value is cloned, which may panic.
        inner.tell_of(&gone);
        let value = gone.iter().find(|gone| gone.2 == Cause::Explicit).map(|(_, value, _)| value.clone());
        drop(gone);
        value
    }

    /// Lets entries go whose time is over or that were [cleared](Cache::clear), after having looked at up to `budget` of them in
    /// each part of the cache; returns how many went.
    ///
    /// Each write does a little of this. A cache that is hardly written to any more keeps what is over until it is called.
    pub fn sweep(&self, budget: usize) -> usize {
        let gone = self.inner.entries.expire(self.inner.now(), budget);
        let unseen: u64 = gone.unseen().map(|(_, count)| count).sum();
        let count = gone.iter().count() + unseen as usize;
        self.inner.tell(gone);
        self.inner.entries.tidy();
        count
    }

    /// Changes how much it may hold. Entries leave at once if it is less than what is there.
    pub fn set_capacity(&self, capacity: u64) {
        self.inner.tell(self.inner.entries.set_capacity(capacity));
        self.inner.entries.tidy();
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

    /// Returns how many bytes the cache takes: keys and values as they lie in it, without what they point to.
    ///
    /// # Cost
    ///
    /// Takes the lock of each part in turn.
    ///
    /// ```
    /// use floodwall::Cache;
    ///
    /// let cache = Cache::new(1000);
    /// let empty = cache.memory_usage();
    /// for key in 0..1000 {
    ///     cache.insert(key, 7)?;
    /// }
    /// assert!(cache.memory_usage() - empty >= 1000 * size_of::<(i32, i32)>());
    /// # Ok::<(), floodwall::cache::TooHeavy<i32>>(())
    /// ```
    pub fn memory_usage(&self) -> usize {
        self.inner.entries.memory_usage()
    }

    /// The clock that it was built with.
    pub(crate) fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Returns how much it may hold.
    pub fn capacity(&self) -> u64 {
        self.inner.entries.capacity()
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

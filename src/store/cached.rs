//! A store with a cache in front of it: [`CachedStore`].
//!
//! For rows that are read more often than they are written, through one place. When **not** to use it: where others write
//! the same rows past it, unless they tell so or what is cached may be as old as its time to live; and for values that are
//! changed by what they were: two that load, change and save lose an update, with a cache or without.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use super::bus::Bus;
use super::in_step::InStep;
use super::tracks::Tracks;
use super::{Batch, Store, Write};
use crate::cache::{Cache, Invalidation};
use crate::error::{Error, Rejected};
use crate::park::block_on;
use crate::sync::Mutex;

/// A [`Store`] that is read through a [`Cache`], and keeps the two in step when it is written.
///
/// Clones are handles of one store. The cache is the user's: its capacity, times and listeners are set there. It keeps
/// `Option<V>`, so that it also knows what is not in the store; [`negative_ttl`](crate::CacheBuilder::negative_ttl) says for how
/// long.
///
/// A read is loaded once for all who ask meanwhile; it is refreshed ahead, in the background, and given out stale when
/// the store fails, all as the [cache](Cache::get_or_refresh) was told. What a write does to the cache is chosen by name:
///
/// | | the store has taken it | the store has failed |
/// |---|---|---|
/// | [`write_through`](CachedStore::write_through) | the cache holds the new value | the cache is as it was |
/// | [`write_around`](CachedStore::write_around) | the cache holds it if it held the key before: what is written and never read takes no room | the cache is as it was |
/// | [`invalidating`](CachedStore::invalidating) | the cache does not hold the key | the cache does not hold the key |
///
/// A cache that stays as it was can go on answering while the store is down. The price is that an error which hides a
/// write that was made leaves the old value until its time is over; where that matters, invalidate.
///
/// Over a [`WriteBehind`](crate::WriteBehind), writes are taken at once and reach the store soon.
///
/// # Order
///
/// Writes of one key are made one after the other, so the cache ends with what the store ends with; writes of
/// different keys do not wait for each other. A value that began to be loaded before a write of its key ended is not kept.
/// In a batch each write that succeeds counts, and the result of each says which did.
///
/// # Errors
///
/// Those of the store as [`Error::Inner`]; [`Recursive`](crate::Reason::Recursive) if the store comes back here for the key that
/// it is at.
///
/// # Cancel safety
///
/// A write that is dropped may or may not be made, but never after a later one of its key: it is brought to its end by
/// whoever comes to the key next, or by [`flush`](CachedStore::flush). Until then the cache does not hold the key. A store that may
/// hang needs timeouts of its own.
///
/// # Cost
///
/// A hit is one of the cache. A write locks some locks of its own and allocates some times; it clones its key and value
/// twice.
///
/// # Examples
///
/// ```
/// use floodwall::store::{CachedStore, MemoryStore, Store};
/// use floodwall::Cache;
///
/// let users = CachedStore::write_through(Cache::new(10_000), MemoryStore::new());
/// users.save_blocking(&7, &"ann".to_string())?;
/// assert_eq!(users.load_blocking(&7)?, Some("ann".to_string()));
/// assert_eq!(users.load_blocking(&8)?, None);
/// assert_eq!(users.load_blocking(&8)?, None);
/// // The write told the cache, and that there is no 8 was asked once.
/// assert_eq!(users.cache().stats().loads, 1);
/// # Ok::<(), floodwall::Error<std::convert::Infallible>>(())
/// ```
pub struct CachedStore<K, V, S, B = ()> {
    pub(super) inner: Arc<Inner<K, V, S, B>>,
}

pub(super) struct Inner<K, V, S, B> {
    pub(super) cache: Cache<K, Option<V>>,
    store: S,
    writing: Writing,
    pub(super) tracks: Tracks,
    hasher: RandomState,
    pub(super) bus: B,
    /// With a bus only.
    pub(super) in_step: Option<InStep<K>>,
}

/// What a write does to the cache.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Writing {
    Through,
    Around,
    Invalidating,
}

/// A write that borrows nothing: key, value, sequence.
type Owned<K, V> = (K, Option<V>, u64);

fn borrow<K, V>((key, value, sequence): &Owned<K, V>) -> Write<'_, K, V> {
    Write { key, value: value.as_ref(), sequence: *sequence }
}

/// Keys that could not be loaded, and why.
type Failed<K, E> = Mutex<HashMap<K, Error<E>>>;

impl<K, V, S> CachedStore<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: Store<K, V> + 'static,
{
    /// Puts `cache` in front of `store`; what is written is then in the cache.
    pub fn write_through(cache: Cache<K, Option<V>>, store: S) -> Self {
        Self::new(cache, store, Writing::Through)
    }

    /// Puts `cache` in front of `store`; what is written comes into the cache only when it is read, but takes the place of an
    /// older value that is there.
    ///
    /// For data that is written far more often than it is read: it does not push out what is read.
    pub fn write_around(cache: Cache<K, Option<V>>, store: S) -> Self {
        Self::new(cache, store, Writing::Around)
    }

    /// Puts `cache` in front of `store`; what is written, or may have been, leaves the cache.
    ///
    /// For stores that make of a value what they like (defaults, triggers), and where an error may hide a write that was
    /// made.
    pub fn invalidating(cache: Cache<K, Option<V>>, store: S) -> Self {
        Self::new(cache, store, Writing::Invalidating)
    }

    fn new(cache: Cache<K, Option<V>>, store: S, writing: Writing) -> Self {
        let (tracks, hasher) = (Tracks::new(), RandomState::new());
        let inner = Inner { cache, store, writing, tracks, hasher, bus: (), in_step: None };
        Self { inner: Arc::new(inner) }
    }

    /// Tells the other instances over the same store by `bus` what is written here. Default: nobody.
    ///
    /// Spawn [`listen`](CachedStore::listen), too, to hear what they write.
    ///
    /// A write returns when the bus has its message; a bus that may hang needs a timeout of its own. What the bus does not
    /// take is sent again with the next write, or when `listen` begins; [`unsent`](CachedStore::unsent) says how much there is.
    ///
    /// # Panics
    ///
    /// If it was cloned before.
    #[track_caller]
    pub fn bus<B: Bus<K>>(self, bus: B) -> CachedStore<K, V, S, B> {
        let Some(inner) = Arc::into_inner(self.inner) else {
            panic!("bus: to be set before there are clones")
        };
        let Inner { cache, store, writing, tracks, hasher, bus: (), in_step: _ } = inner;
        let in_step = Some(InStep::new(cache.clock().clone()));
        CachedStore { inner: Arc::new(Inner { cache, store, writing, tracks, hasher, bus, in_step }) }
    }
}

impl<K, V, S, B> CachedStore<K, V, S, B>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: Store<K, V> + 'static,
    B: Bus<K> + 'static,
{
    /// Waits for the end of writes whose callers were dropped, and sends what the [bus](Self::bus) has not taken yet.
    ///
    /// For the end of a program: nobody may come to their keys any more.
    ///
    /// # Errors
    ///
    /// When the store calls it from one of them.
    pub async fn flush(&self) -> Result<(), Rejected> {
        self.inner.tracks.settle_all().await?;
        self.inner.resend().await;
        Ok(())
    }

    /// As [`flush`](CachedStore::flush), on a plain thread.
    ///
    /// # Errors
    ///
    /// As `flush`.
    pub fn flush_blocking(&self) -> Result<(), Rejected> {
        block_on(self.flush())
    }

    /// Makes writes: `make` does so in the store, and then applies what came of it.
    async fn write<T, M, Fut>(&self, writes: Vec<Owned<K, V>>, make: M) -> Result<T, Rejected>
    where
        T: Send + 'static,
        M: FnOnce(Arc<Inner<K, V, S, B>>, Arc<[Owned<K, V>]>) -> Fut,
        Fut: Future<Output = T> + Send + 'static,
    {
        let inner = &*self.inner;
        let held = inner.tracks.take(writes.iter().map(|write| inner.track(&write.0)).collect()).await?;
        let writes: Arc<[_]> = writes.into();
        let work = make(Arc::clone(&self.inner), Arc::clone(&writes));
        Ok(held.run(work, || writes.iter().for_each(|write| drop(inner.cache.remove(&write.0)))).await)
    }

    async fn write_one(&self, write: Owned<K, V>) -> Result<(), Error<S::Error>> {
        let make = |inner: Arc<Inner<K, V, S, B>>, writes: Arc<[Owned<K, V>]>| async move {
            let began = inner.began();
            let (key, value, _) = &writes[0];
            let result = match value {
                Some(value) => inner.store.save(key, value).await,
                None => inner.store.remove(key).await,
            };
            inner.end(&writes, &[result.is_ok()], began).await;
            result
        };
        self.write(vec![write], make).await?.map_err(Error::Inner)
    }
}

impl<K, V, S, B> CachedStore<K, V, S, B> {
    /// Returns the cache: to look at what is there, for its statistics, and to remove what others have changed.
    pub fn cache(&self) -> &Cache<K, Option<V>> {
        &self.inner.cache
    }

    /// Returns the store behind it.
    pub fn store(&self) -> &S {
        &self.inner.store
    }
}

impl<K: Hash, V, S, B> Inner<K, V, S, B> {
    pub(super) fn track(&self, key: &K) -> u64 {
        self.hasher.hash_one(key)
    }
}

impl<K, V, S, B> Inner<K, V, S, B>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: Store<K, V>,
    B: Bus<K>,
{
    /// What the others have said when a write begins.
    fn began(&self) -> u64 {
        self.in_step.as_ref().map_or(0, InStep::begin)
    }

    /// Lets the cache know how a write ended. Loads that began before it ended well are overtaken, whatever the strategy.
    fn apply(&self, (key, value, _): &Owned<K, V>, is_written: bool, began: u64) {
        let overtaken =
            || self.in_step.as_ref().is_some_and(|others| others.is_overtaken(self.track(key), began));
        let holds = match self.writing {
            Writing::Invalidating => false,
            _ if !is_written => return,
            Writing::Through => true,
            Writing::Around => self.cache.contains(key),
        };
        // One that is too heavy is not kept: the key is then absent, and that is right as well.
        let is_kept = holds && !overtaken() && self.cache.insert(key.clone(), value.clone()).is_ok();
        // Whoever is heard after this look removes the key himself.
        if !is_kept || overtaken() {
            self.cache.remove(key);
        }
        if let (Some(others), true) = (&self.in_step, is_written) {
            others.wrote(key, began);
        }
    }

    /// Does all that is to be done when writes have ended; `are_written` says which of them well.
    async fn end(&self, writes: &[Owned<K, V>], are_written: &[bool], began: u64) {
        for (write, is_written) in writes.iter().zip(are_written) {
            self.apply(write, *is_written, began);
        }
        let Some(others) = &self.in_step else { return };
        for ((key, ..), is_written) in writes.iter().zip(are_written) {
            if *is_written || self.writing == Writing::Invalidating {
                self.publish(others, Invalidation::Key(key.clone())).await;
            }
        }
    }

    async fn load(&self, key: &K) -> Result<Option<V>, Error<S::Error>> {
        self.tracks.settle(self.track(key)).await?;
        self.store.load(key).await.map_err(Error::Inner)
    }

    /// Loads several keys; those that the store cannot say are left out, and why goes to `failed`.
    async fn load_many(
        &self,
        keys: Vec<K>,
        failed: &Failed<K, S::Error>,
    ) -> Result<Vec<(K, Option<V>)>, Error<S::Error>> {
        for key in &keys {
            self.tracks.settle(self.track(key)).await?;
        }
        let results = self.store.load_many(&keys.iter().collect::<Vec<_>>()).await.map_err(Error::Inner)?;
        assert!(results.len() == keys.len(), "load_many: a result for each key");
        let mut loaded = Vec::with_capacity(keys.len());
        for (key, result) in keys.into_iter().zip(results) {
            match result {
                Ok(value) => loaded.push((key, value)),
                Err(error) => drop(failed.lock().insert(key, Error::Inner(error))),
            }
        }
        Ok(loaded)
    }
}

impl<K, V, S, B> Store<K, V> for CachedStore<K, V, S, B>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: Store<K, V> + 'static,
    B: Bus<K> + 'static,
{
    type Error = Error<S::Error>;

    async fn load(&self, key: &K) -> Result<Option<V>, Self::Error> {
        let make = || {
            let (inner, key) = (Arc::clone(&self.inner), key.clone());
            move || async move { inner.load(&key).await }
        };
        self.inner.cache.get_or_refresh_by(key, make).await
    }

    async fn save(&self, key: &K, value: &V) -> Result<(), Self::Error> {
        self.write_one((key.clone(), Some(value.clone()), 0)).await
    }

    async fn remove(&self, key: &K) -> Result<(), Self::Error> {
        self.write_one((key.clone(), None, 0)).await
    }

    async fn load_many(&self, keys: &[&K]) -> Batch<Option<V>, Self::Error> {
        let failed = Mutex::new(HashMap::new());
        let load = |keys| self.inner.load_many(keys, &failed);
        let values = self.inner.cache.get_many(keys.iter().copied(), load).await;
        let values = values.map_err(|error| match error {
            Error::Inner(error) => error,
            Error::Rejected(rejected) => rejected.into(),
            Error::TimedOut(timed_out) => timed_out.into(),
        })?;
        let mut results = Vec::with_capacity(keys.len());
        for (key, value) in keys.iter().zip(values) {
            let error = failed.lock().remove(*key);
            results.push(match (value, error) {
                (Some(value), _) => Ok(value),
                (None, Some(error)) => Err(error),
                // It stands there twice, and its error went to the first.
                (None, None) => self.load(key).await,
            });
        }
        Ok(results)
    }

    async fn write_many(&self, writes: &[Write<'_, K, V>]) -> Batch<(), Self::Error> {
        let owned = |write: &Write<'_, K, V>| (write.key.clone(), write.value.cloned(), write.sequence);
        let make = |inner: Arc<Inner<K, V, S, B>>, writes: Arc<[Owned<K, V>]>| async move {
            let began = inner.began();
            let borrowed: Vec<Write<'_, K, V>> = writes.iter().map(borrow).collect();
            let results = inner.store.write_many(&borrowed).await;
            let are_written: Vec<bool> = match &results {
                Ok(results) => results.iter().map(Result::is_ok).collect(),
                Err(_) => vec![false; writes.len()],
            };
            assert!(are_written.len() == writes.len(), "write_many: a result for each write");
            inner.end(&writes, &are_written, began).await;
            results
        };
        let results = self.write(writes.iter().map(owned).collect(), make).await?;
        let lifted = |results: Vec<Result<(), S::Error>>| {
            results.into_iter().map(|result| result.map_err(Error::Inner)).collect()
        };
        results.map(lifted).map_err(Error::Inner)
    }
}

impl<K, V, S, B> Clone for CachedStore<K, V, S, B> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K: Eq, V, S, B> fmt::Debug for CachedStore<K, V, S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedStore")
            .field("writing", &self.inner.writing)
            .field("cache", &self.inner.cache)
            .finish_non_exhaustive()
    }
}

//! Look-ups made at nearly the same time, loaded by one call: [`BatchLoader`].

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use super::Cache;
use super::many::Miss;
use crate::answer::{self, Answer, Question};
use crate::call::Call;
use crate::error::{Error, absurd, saturating_nanos};
use crate::flight::SingleFlight;
use crate::hash::ByHash;
use crate::park::block_on;
use crate::sync::{Mutex, SetOnce};

/// Loads what look-ups of a [`Cache`] miss in batches: one call for all keys that were asked for within a short window.
///
/// For code that looks up one key at a time, in many tasks or in resolvers that know nothing of one another, over a store
/// that answers a hundred keys as fast as one. Who has the keys together already uses
/// [`get_many`](Cache::get_many), which waits for nothing. Do not use it where every look-up hits: that is what it leaves
/// to the cache alone.
///
/// The first look-up that misses opens a batch, those that come within its [window](BatchLoader::window) join it, and the
/// first one then loads for all, so that nothing has to be spawned. A batch that is [full](BatchLoader::limit) is loaded
/// at once. A key is never loaded twice at the same time, also if [`get_or_load`](Cache::get_or_load) loads it.
///
/// # Errors of a load
///
/// All look-ups of the batch get a clone of the error. If the look-up that loads panics or is dropped, the next one of its
/// batch loads.
///
/// # Cost
///
/// A hit costs what it costs in the cache. A miss locks one lock of the loader for a moment, and waits for the window.
///
/// # Examples
///
/// ```
/// use floodwall::Cache;
/// use floodwall::cache::BatchLoader;
///
/// let users = BatchLoader::new(Cache::new(10_000), |ids: Vec<u64>| async move {
///     // select id, name from users where id in (..)
///     Ok::<_, String>(ids.into_iter().filter(|id| *id < 100).map(|id| (id, format!("user {id}"))))
/// });
/// # floodwall::block_on(async {
/// let (ann, bob, nobody) = tokio::try_join!(users.get(&1), users.get(&2), users.get(&100))?;
/// assert_eq!((ann, bob, nobody), (Some("user 1".into()), Some("user 2".into()), None));
/// # Ok::<_, floodwall::Error<String>>(())
/// # }).unwrap();
/// assert_eq!(users.cache().stats().loads, 2);
/// ```
pub struct BatchLoader<K, V, F> {
    cache: Cache<K, V>,
    load: F,
    window: Duration,
    limit: usize,
    batches: Mutex<Batches<K, V>>,
    /// By the number of the batch.
    flights: SingleFlight<u64, Arc<[Option<V>]>>,
}

/// All that is known of batches until they are closed.
struct Batches<K, V> {
    /// The number of the next one.
    next: u64,
    open: Option<Open<K, V>>,
}

/// The batch that look-ups join now.
struct Open<K, V> {
    batch: Arc<Batch<K, V>>,
    keys: Vec<(u64, K)>,
    /// Where the first key of a hash is.
    places: ByHash<usize>,
    is_full: Answer<()>,
}

/// Look-ups that are loaded together.
struct Batch<K, V> {
    number: u64,
    /// When it is loaded at the latest.
    ends: u64,
    is_full: Question<()>,
    /// Set once nobody joins it any more.
    keys: SetOnce<Vec<(u64, K)>>,
    /// For who comes to its flight after that has landed.
    values: SetOnce<Arc<[Option<V>]>>,
}

impl<K: Hash + Eq, V: Clone, F> BatchLoader<K, V, F> {
    /// Loads what is missed in `cache` by `load`: it is given keys, each once, and returns pairs of key and value. What it
    /// leaves out is not there, and what it adds is ignored.
    pub fn new(cache: Cache<K, V>, load: F) -> Self {
        Self {
            cache,
            load,
            window: Duration::from_millis(1),
            limit: 100,
            batches: Mutex::new(Batches { next: 0, open: None }),
            flights: SingleFlight::new(),
        }
    }

    /// Lets a batch wait for so long for more look-ups. Default: 1 ms.
    #[must_use = "returns the changed value"]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Loads a batch at once when it has so many keys. Default: 100.
    ///
    /// # Panics
    ///
    /// If `keys` is 0.
    #[must_use = "returns the changed value"]
    #[track_caller]
    pub fn limit(mut self, keys: usize) -> Self {
        if keys == 0 {
            absurd("limit", 0, "must be at least 1");
        }
        self.limit = keys;
        self
    }

    /// Returns the cache.
    pub const fn cache(&self) -> &Cache<K, V> {
        &self.cache
    }

    /// Returns a clone of the value of `key`, or else loads it with the others of its batch; `None` if the load left it out.
    ///
    /// # Errors
    ///
    /// That of the load; with [`Recursive`](crate::Reason::Recursive) if the load waits for itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up this look-up only: if it was the one that loads, another one of its batch takes over.
    pub async fn get<Q, Fut, L, E>(&self, key: &Q) -> Result<Option<V>, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: Fn(Vec<K>) -> Fut,
        K: Clone,
        Fut: Future<Output = Result<L, E>>,
        L: IntoIterator<Item = (K, V)>,
        E: Clone + Send + Sync + 'static,
    {
        let hash = self.cache.inner.hash(key);
        if let Some(value) = self.cache.inner.look(hash, key, |found| found.value.clone()) {
            return Ok(Some(value));
        }
        let (batch, place) = self.join(hash, key.to_owned());
        let flight = self.flights.at(&batch.number).share_errors();
        let values = flight.fly(Call::new(), |_| self.load(&batch)).await?;
        Ok(values[place].clone())
    }

    /// As [`get`](BatchLoader::get), and blocks this thread meanwhile. The load is polled on this thread if it falls to it.
    ///
    /// # Errors
    ///
    /// As [`get`](BatchLoader::get).
    pub fn get_blocking<Q, Fut, L, E>(&self, key: &Q) -> Result<Option<V>, Error<E>>
    where
        K: Borrow<Q> + Clone,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: Fn(Vec<K>) -> Fut,
        Fut: Future<Output = Result<L, E>>,
        L: IntoIterator<Item = (K, V)>,
        E: Clone + Send + Sync + 'static,
    {
        block_on(self.get(key))
    }

    /// Loads a batch for all who joined it.
    async fn load<Fut, L, E>(&self, batch: &Batch<K, V>) -> Result<Arc<[Option<V>]>, Error<E>>
    where
        K: Clone,
        F: Fn(Vec<K>) -> Fut,
        Fut: Future<Output = Result<L, E>>,
        L: IntoIterator<Item = (K, V)>,
    {
        if let Some(values) = batch.values.get() {
            return Ok(Arc::clone(values));
        }
        batch.is_full.within(self.cache.inner.clock.sleep_until_nanos(batch.ends)).await;
        let keys = self.close(batch);
        let mut values = vec![None; keys.len()];
        let misses = keys.iter().enumerate().map(|(place, (hash, key))| Miss { key, hash: *hash, place });
        self.cache.load_many(misses.collect(), &mut values, &self.load).await?;
        Ok(Arc::clone(batch.values.get_or_init(|| values.into())))
    }

    /// Joins the open batch, or opens one. Returns it, and which of its keys this one is.
    fn join(&self, hash: u64, key: K) -> (Arc<Batch<K, V>>, usize) {
        let now = self.cache.inner.clock.nanos();
        let mut batches = self.batches.lock();
        // Whoever loads it is late, or gone: it is loaded without this one.
        let over = batches.open.take_if(|open| now > open.batch.ends).map(Open::close);
        let Batches { next, open } = &mut *batches;
        let joined = open.get_or_insert_with(|| {
            *next += 1;
            Open::new(*next, now.saturating_add(saturating_nanos(self.window)))
        });
        let batch = Arc::clone(&joined.batch);
        let (place, spare) = joined.add(hash, key);
        let full = open.take_if(|open| open.keys.len() >= self.limit).map(Open::close);
        // What wakes tasks and drops keys, after the lock is released.
        drop(batches);
        drop((over, full, spare));
        (batch, place)
    }

    /// Lets nobody join a batch any more, and returns its keys.
    fn close<'b>(&self, batch: &'b Batch<K, V>) -> &'b [(u64, K)] {
        let mut batches = self.batches.lock();
        let is_full = batches.open.take_if(|open| open.batch.number == batch.number).map(Open::close);
        drop(batches);
        drop(is_full);
        batch.keys.get_or_init(Vec::new)
    }
}

impl<K: Eq, V> Open<K, V> {
    fn new(number: u64, ends: u64) -> Self {
        let (question, is_full) = answer::ask();
        let (keys, values) = (SetOnce::default(), SetOnce::default());
        let batch = Arc::new(Batch { number, ends, is_full: question, keys, values });
        Self { batch, keys: Vec::new(), places: ByHash::default(), is_full }
    }

    /// Adds a key, unless it is there already: then it is given back. Returns where it is.
    fn add(&mut self, hash: u64, key: K) -> (usize, Option<K>) {
        let new = self.keys.len();
        let first = *self.places.entry(hash).or_insert(new);
        if first < new && self.keys[first].1 == key {
            return (first, Some(key));
        }
        // Of keys with the same hash, all but the first may be here several times: each is loaded once all the same.
        self.keys.push((hash, key));
        (new, None)
    }

    /// Lets nobody join it any more: whoever finds it closed finds its keys. Dropping what is returned says that it is full.
    fn close(self) -> Answer<()> {
        self.batch.keys.get_or_init(|| self.keys);
        self.is_full
    }
}

impl<K, V, F> fmt::Debug for BatchLoader<K, V, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchLoader")
            .field("window", &self.window)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

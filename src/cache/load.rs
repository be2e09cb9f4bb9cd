//! Loading what is not there: one load per key at a time, kept unless the key was changed meanwhile.

use std::borrow::Borrow;
use std::future::ready;
use std::hash::Hash;

use super::refresh::Asked;
use super::stats::Count;
use super::{Cache, CacheAt, Inner};
use crate::clock::NEVER;
use crate::error::Error;
use crate::flight::{Joined, Lead, Leads, Led, OwnErrors, Part, Sharing, Until};
use crate::park::block_on;

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// Returns a clone of the value of `key`, or else loads it, keeps it and returns it.
    ///
    /// One caller loads at a time; the others wait for what it brings. If its load fails, panics or is dropped, the first
    /// of those who wait loads with its own function; its error goes to nobody else. To share errors, and for deadlines:
    /// [`at`](Cache::at).
    ///
    /// A value is not kept if its key was inserted, removed or computed while it was loaded, nor if all was cleared or a
    /// tag of its own removed: it may be old. Those who asked for it get it all the same. They also get a value that is too
    /// heavy to be kept.
    ///
    /// If entries are [refreshed ahead](crate::CacheBuilder::refresh_ahead) or given out
    /// [after their time](crate::CacheBuilder::stale_while_revalidate), a value that is there may be loaded anew by one
    /// caller, who gets it back if that fails; [`get_or_refresh`](Cache::get_or_refresh) does so in the background.
    ///
    /// The key is cloned when it is loaded.
    ///
    /// # Errors
    ///
    /// The error of `load`; with [`Recursive`](crate::Reason::Recursive) if the load waits for itself: see
    /// [`SingleFlight`](crate::SingleFlight#what-recursion-is-found).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the load; the first of those who wait for it takes over.
    ///
    /// ```
    /// use floodwall::Cache;
    ///
    /// # floodwall::block_on(async {
    /// let users = Cache::new(10_000);
    /// let user = users.get_or_load(&7, || async { Ok::<_, std::io::Error>("ann".to_string()) }).await?;
    /// assert_eq!((user, users.get(&7)), ("ann".to_string(), Some("ann".to_string())));
    /// # Ok::<_, floodwall::Error<std::io::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_or_load<Q, F, Fut, E>(&self, key: &Q, load: F) -> Result<V, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
    {
        let load = || async { load().await.map_err(Error::Inner) };
        self.fly::<Q, _, _, E, OwnErrors>(key, NEVER, load).await
    }

    /// Returns a clone of the value of `key`, or else loads it on this thread, keeps it and returns it; waits for the load
    /// that runs, if there is one, also if a task does it.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Cache::get_or_load).
    ///
    /// ```
    /// use floodwall::Cache;
    ///
    /// let pages = Cache::new(100);
    /// let page: String = pages.get_or_load_blocking("Cargo.toml", || std::fs::read_to_string("Cargo.toml"))?;
    /// assert!(page.contains("floodwall"));
    /// # let _: &Cache<String, String> = &pages;
    /// # Ok::<_, floodwall::Error<std::io::Error>>(())
    /// ```
    pub fn get_or_load_blocking<Q, F, E>(&self, key: &Q, load: F) -> Result<V, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnOnce() -> Result<V, E>,
    {
        self.fly_blocking::<Q, _, E, OwnErrors>(key, NEVER, || load().map_err(Error::Inner))
    }

    /// Returns the key as a policy: a hit answers without what is further in, a miss is loaded by it.
    ///
    /// ```
    /// use floodwall::{Bulkhead, Cache, Policy};
    ///
    /// let users = Cache::new(10_000);
    /// let upstream = Bulkhead::new(8);
    /// # floodwall::block_on(async {
    /// for _ in 0..2 {
    ///     let user = (users.at(&7), &upstream).call(|| async { Ok::<_, String>("ann") }).await;
    ///     assert_eq!(user, Ok("ann"));
    /// }
    /// # });
    /// assert_eq!(users.stats().loads, 1);
    /// ```
    pub fn at<'a, Q: ?Sized>(&'a self, key: &'a Q) -> CacheAt<'a, K, V, Q>
    where
        K: Borrow<Q>,
    {
        CacheAt::new(self, key)
    }

    pub(super) async fn fly<Q, F, Fut, E, S>(&self, key: &Q, deadline: u64, load: F) -> Result<V, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, Error<E>>>,
        S: Sharing<E>,
    {
        let hash = self.inner.hash(key);
        let asked = self.ask(hash, key);
        self.fly_on::<Q, _, _, E, S>(hash, key, deadline, asked, load).await
    }

    /// Goes on with what a look-up gave.
    pub(super) async fn fly_on<Q, F, Fut, E, S>(
        &self,
        hash: u64,
        key: &Q,
        deadline: u64,
        asked: Asked<K, V>,
        load: F,
    ) -> Result<V, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, Error<E>>>,
        S: Sharing<E>,
    {
        let inner = &*self.inner;
        let old = match asked {
            Asked::Value(value) => return Ok(value),
            Asked::Old(old) => Some(old),
            Asked::Absent => None,
        };
        let load_of = match old.as_ref().filter(|old| !old.is_spare) {
            Some(old) => match inner.flights.join(hash, key) {
                Joined::Lead(lead) => inner.begin(hash, lead),
                // It is being loaded already.
                Joined::Follow(_) => return Ok(old.give()),
            },
            None => match inner.flights.take_part::<Q, E, S>(hash, key, inner.until(deadline)).await {
                Ok(Part::Value(value)) => return Ok(value),
                Ok(Part::Lead(lead)) => match inner.load(hash, key, lead) {
                    Err(value) => return Ok(value),
                    Ok(load_of) => load_of,
                },
                Err(error) => return old.map_or(Err(error), |old| Ok(old.give())),
            },
        };
        let (result, load_of) = Led::new(load_of, load).await;
        match (result, old) {
            (Err(error), Some(old)) => old.failed(load_of, error),
            (result, _) => {
                load_of.end::<Q, E, S>(key, &result);
                result
            }
        }
    }

    pub(super) fn fly_blocking<Q, F, E, S>(&self, key: &Q, deadline: u64, load: F) -> Result<V, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnOnce() -> Result<V, Error<E>>,
        S: Sharing<E>,
    {
        block_on(self.fly::<Q, _, _, E, S>(key, deadline, || ready(load())))
    }
}

impl<K: Hash + Eq, V: Clone> Inner<K, V> {
    pub(super) fn until(&self, deadline: u64) -> Until<'_> {
        Until { clock: &self.clock, hook: &self.hook, deadline }
    }

    /// Begins to load a key, unless its value has come since it was missed.
    pub(super) fn load<'a, Q>(&'a self, hash: u64, key: &Q, lead: Lead<'a, K, V>) -> Result<Load<'a, K, V>, V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        if let Some(value) = self.peek(hash, key, |found| found.value.clone()) {
            lead.dissolve();
            return Err(value);
        }
        Ok(self.begin(hash, lead))
    }

    pub(super) fn begin<'a>(&'a self, hash: u64, lead: Lead<'a, K, V>) -> Load<'a, K, V> {
        let removals = self.settings.tags.as_ref().map_or(0, |tags| tags.removals());
        Load { inner: self, hash, lead: Some(lead), start: self.clock.nanos(), removals }
    }
}

/// A key being loaded. Dropped, it has failed, and the next who waits takes over.
pub(super) struct Load<'a, K, V> {
    inner: &'a Inner<K, V>,
    hash: u64,
    /// `None` once it has ended.
    lead: Option<Lead<'a, K, V>>,
    start: u64,
    /// The number of the last removal of a tag when it began.
    removals: u64,
}

impl<K: Hash + Eq, V: Clone> Load<'_, K, V> {
    /// Ends it with what the load gave.
    pub(super) fn end<Q, E, S>(self, key: &Q, result: &Result<V, Error<E>>)
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + ?Sized,
        S: Sharing<E>,
    {
        match result {
            Ok(value) => {
                self.install(key.to_owned(), value);
            }
            Err(error) => self.fail::<E, S>(error),
        }
    }

    /// Keeps a clone of the value, and gives one to each who waits. Returns whether it was kept.
    pub(super) fn install(mut self, key: K, value: &V) -> bool {
        let (inner, hash) = (self.inner, self.hash);
        let kept = value.clone();
        let took = inner.clock.nanos().saturating_sub(self.start);
        let entry = inner.prepare(hash, &key, &kept, None, took);
        // Asked after the entry is in the index: a removal that comes later finds it there.
        let removed =
            inner.settings.tags.as_ref().is_some_and(|tags| tags.removed_since(self.removals, &key, &kept));
        let Some(lead) = self.lead.take() else { return false };
        let (weight, life) = (entry.weight, entry.life);
        let insert = || (!removed).then(|| inner.entries.insert(hash, key, kept, weight, life));
        let written = lead.land(|| value.clone(), insert).flatten();
        self.count(Count::Loads);
        match written {
            Some(written) => inner.written(hash, entry, written).is_ok(),
            None => {
                inner.not_written(hash, &entry);
                false
            }
        }
    }

    /// Ends it with a failure, and gives the value before to each who waits. Returns whether that is what the key is worth.
    pub(super) fn fall_back(mut self, old: &V) -> bool {
        let Some(lead) = self.lead.take() else { return false };
        self.count(Count::LoadFailures);
        lead.land(|| old.clone(), || ()).is_some()
    }

    fn fail<E, S: Sharing<E>>(mut self, error: &Error<E>) {
        let Some(lead) = self.lead.take() else { return };
        self.count(Count::LoadFailures);
        lead.fail::<E, S>(error);
    }
}

impl<K, V> Load<'_, K, V> {
    /// Ends it since there is nothing to load.
    pub(super) fn forgo(mut self) {
        self.lead = None;
    }

    fn count(&self, what: Count) {
        self.inner.counts.add(what);
        let took = self.inner.clock.nanos().saturating_sub(self.start);
        self.inner.counts.add_many(Count::LoadNanos, took);
    }
}

impl<K, V> Drop for Load<'_, K, V> {
    fn drop(&mut self) {
        if self.lead.is_some() {
            self.count(Count::LoadFailures);
        }
    }
}

impl<K, V> Leads for Load<'_, K, V> {
    fn addresses(&self) -> impl Iterator<Item = usize> {
        self.lead.addresses()
    }
}

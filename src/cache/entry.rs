//! Loading by hand, where it does not fit a closure: [`Entry`], [`LoadGuard`].

use std::borrow::Borrow;
use std::convert::Infallible;
use std::fmt;
use std::hash::Hash;

use super::load::Load;
use super::{Cache, Inner};
use crate::clock::NEVER;
use crate::error::{Error, Reason, Rejected};
use crate::flight::{Joined, Lead, OwnErrors, Part};
use crate::park::block_on;

/// What there is for a key: its value, or leave to load it. Given by [`Cache::entry`].
#[derive(Debug)]
pub enum Entry<'a, K, V> {
    /// A clone of its value.
    Found(V),
    /// There is none, and whoever holds this is the only one who loads it.
    Vacant(LoadGuard<'a, K, V>),
}

/// Leave to load a key: others who ask for it wait until it is [inserted](LoadGuard::insert), or take over when this is
/// dropped.
#[must_use = "others wait until the value is inserted or this is dropped"]
pub struct LoadGuard<'a, K, V> {
    load: Load<'a, K, V>,
    key: K,
}

impl<K: Hash + Eq, V: Clone> LoadGuard<'_, K, V> {
    /// Returns the key to load.
    pub const fn key(&self) -> &K {
        &self.key
    }

    /// Keeps the value, gives it to all who wait for it, and returns whether it was kept.
    ///
    /// It is not if the key was changed meanwhile or the value is too heavy: see [`Cache::get_or_load`].
    pub fn insert(self, value: V) -> bool {
        self.load.install(self.key, &value)
    }
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// Returns a clone of the value of `key`, or leave to load it; waits while another one loads it.
    ///
    /// For loads that do not fit the closure of [`get_or_load`](Cache::get_or_load). The key is cloned if there is no value.
    ///
    /// # Errors
    ///
    /// With [`Recursive`](Reason::Recursive) if it is called in a load of the same key. While a guard is held that is not
    /// found: its own holder waits for ever when he asks for the key.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the line, and passes on the leave to load.
    ///
    /// ```
    /// use floodwall::{Cache, cache::Entry};
    ///
    /// # floodwall::block_on(async {
    /// let users = Cache::new(10_000);
    /// let user = match users.entry("ann").await? {
    ///     Entry::Found(user) => user,
    ///     Entry::Vacant(guard) => {
    ///         let user = guard.key().len();
    ///         guard.insert(user);
    ///         user
    ///     }
    /// };
    /// assert_eq!((user, users.get("ann")), (3, Some(3)));
    /// # let _: &Cache<String, usize> = &users;
    /// # Ok::<_, floodwall::Rejected>(())
    /// # }).unwrap();
    /// ```
    pub async fn entry<Q>(&self, key: &Q) -> Result<Entry<'_, K, V>, Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let inner = &*self.inner;
        let hash = inner.hash(key);
        if let Some(value) = inner.look(hash, key, |found| found.value.clone()) {
            return Ok(Entry::Found(value));
        }
        let part = inner.flights.take_part::<Q, Infallible, OwnErrors>(hash, key, inner.until(NEVER)).await;
        match part.map_err(rejected)? {
            Part::Value(value) => Ok(Entry::Found(value)),
            Part::Lead(lead) => Ok(inner.led(hash, key, lead)),
        }
    }

    /// Returns a clone of the value of `key`, or leave to load it; blocks this thread while another one loads it.
    ///
    /// # Errors
    ///
    /// As [`entry`](Cache::entry).
    pub fn entry_blocking<Q>(&self, key: &Q) -> Result<Entry<'_, K, V>, Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        block_on(self.entry(key))
    }

    /// Returns a clone of the value of `key`, or leave to load it, or `None` while another one loads it. Never waits.
    ///
    /// ```
    /// use floodwall::{Cache, cache::Entry};
    ///
    /// let users: Cache<u64, &str> = Cache::new(10_000);
    /// let Some(Entry::Vacant(guard)) = users.try_entry(&7) else { panic!("nobody loads it") };
    /// assert!(users.try_entry(&7).is_none());
    /// assert!(guard.insert("ann"));
    /// assert!(matches!(users.try_entry(&7), Some(Entry::Found("ann"))));
    /// ```
    pub fn try_entry<Q>(&self, key: &Q) -> Option<Entry<'_, K, V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let inner = &*self.inner;
        let hash = inner.hash(key);
        if let Some(value) = inner.look(hash, key, |found| found.value.clone()) {
            return Some(Entry::Found(value));
        }
        let Joined::Lead(lead) = inner.flights.join(hash, key) else { return None };
        Some(inner.led(hash, key, lead))
    }
}

impl<K: Hash + Eq, V: Clone> Inner<K, V> {
    /// Returns what there is for a key whose lead has fallen to the caller.
    fn led<'a, Q>(&'a self, hash: u64, key: &Q, lead: Lead<'a, K, V>) -> Entry<'a, K, V>
    where
        K: Borrow<Q>,
        Q: Eq + ToOwned<Owned = K> + ?Sized,
    {
        match self.load(hash, key, lead) {
            Ok(load) => Entry::Vacant(LoadGuard { load, key: key.to_owned() }),
            Err(value) => Entry::Found(value),
        }
    }
}

/// What is left of the errors of a load that gives none of its own, and has no deadline.
pub(super) fn rejected(error: Error<Infallible>) -> Rejected {
    match error {
        Error::Rejected(rejected) => rejected,
        Error::Inner(never) => match never {},
        Error::TimedOut(timed_out) => Rejected::new(timed_out.by(), Reason::DeadlineExceeded),
    }
}

impl<K: fmt::Debug, V> fmt::Debug for LoadGuard<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadGuard").field("key", &self.key).finish_non_exhaustive()
    }
}

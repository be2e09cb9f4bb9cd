//! Changing a value by what it is: [`Cache::compute`].

use std::borrow::Borrow;
use std::convert::Infallible;
use std::hash::Hash;

use super::Cache;
use super::entries::Found;
use super::entry::rejected;
use crate::clock::NEVER;
use crate::error::Rejected;
use crate::flight::{Leads, OwnErrors, Part};
use crate::park::block_on;

/// What becomes of a value that [`Cache::compute`] has looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute<V> {
    /// It stays as it is, or stays absent.
    Keep,
    /// This one takes its place.
    Put(V),
    /// It goes.
    Remove,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// Changes the value of `key` by what it is now, and returns a clone of what is there afterwards.
    ///
    /// Nobody else computes or loads the key meanwhile, and no update is lost: if the key is inserted or removed while
    /// `change` looks at it, `change` is called again. It runs under no lock, and should be quick: others who compute
    /// or load the key wait for it. A value that is too heavy leaves the key absent.
    ///
    /// # Errors
    ///
    /// With [`Recursive`](crate::Reason::Recursive) if it is called in a load or a `compute` of the same key.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future while it waits for others changes nothing.
    ///
    /// ```
    /// use floodwall::{Cache, cache::Compute};
    ///
    /// # floodwall::block_on(async {
    /// let visits = Cache::new(10_000);
    /// for _ in 0..3 {
    ///     visits.compute("ann", |visits| Compute::Put(visits.map_or(1, |visits| visits + 1))).await?;
    /// }
    /// assert_eq!(visits.get("ann"), Some(3));
    /// let left = visits.compute("ann", |_| Compute::Remove).await?;
    /// assert_eq!((left, visits.get("ann")), (None, None));
    /// # let _: &Cache<String, u32> = &visits;
    /// # Ok::<_, floodwall::Rejected>(())
    /// # }).unwrap();
    /// ```
    pub async fn compute<Q>(
        &self,
        key: &Q,
        mut change: impl FnMut(Option<&V>) -> Compute<V>,
    ) -> Result<Option<V>, Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let inner = &*self.inner;
        let hash = inner.hash(key);
        loop {
            let part =
                inner.flights.take_part::<Q, Infallible, OwnErrors>(hash, key, inner.until(NEVER)).await;
            let Part::Lead(lead) = part.map_err(rejected)? else { continue };
            let entered = lead.enter();
            let mut old = None;
            let seen = inner.look(hash, key, |found| {
                let becomes = change(Some(found.value));
                old = matches!(becomes, Compute::Keep).then(|| found.value.clone());
                becomes
            });
            let becomes = seen.unwrap_or_else(|| change(None));
            drop(entered);
            // The lead then goes to the next in line, one by one.
            match becomes {
                Compute::Keep => return Ok(old),
                Compute::Put(value) => {
                    let (key, kept) = (key.to_owned(), value.clone());
                    let entry = inner.prepare(hash, &key, &kept, None, 0);
                    let (weight, life) = (entry.weight, entry.life);
                    let insert = || inner.entries.insert(hash, key, kept, weight, life);
                    match lead.change(insert) {
                        Some(written) => {
                            return Ok(inner.written(hash, entry, written).is_ok().then_some(value));
                        }
                        None => inner.not_written(hash, &entry),
                    }
                }
                Compute::Remove => {
                    let now = inner.now();
                    let why = |found: Found<'_, K, V>| Some(inner.cause(&found, now));
                    if let Some(gone) = lead.change(|| inner.entries.remove_if(hash, key, why)) {
                        inner.tell(gone);
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Changes the value of `key` by what it is now, as [`compute`](Cache::compute) does, and blocks this thread while others
    /// load or compute it.
    ///
    /// # Errors
    ///
    /// As [`compute`](Cache::compute).
    pub fn compute_blocking<Q>(
        &self,
        key: &Q,
        change: impl FnMut(Option<&V>) -> Compute<V>,
    ) -> Result<Option<V>, Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        block_on(self.compute(key, change))
    }
}

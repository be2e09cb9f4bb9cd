//! Many keys at once, with one load for those that are not there: [`Cache::get_many`].

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::{poll_fn, ready};
use std::hash::Hash;
use std::task::Poll;

use super::load::Load;
use super::{Cache, Inner};
use crate::clock::NEVER;
use crate::error::{Error, Reason, Rejected};
use crate::event::Event;
use crate::flight::{Follow, Followed, Joined, Leads, Led};
use crate::park::block_on;

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// Returns clones of the values of `keys`, in their order, with one load for all that are neither there nor being loaded.
    ///
    /// `load` is given those keys, each once, and returns pairs of key and value: what it leaves out is `None` in the
    /// result, and what it adds is ignored. The call waits for keys that others load; should such a load fail, `load` is
    /// called again for the keys concerned. Everything else is as for [`get_or_load`](Cache::get_or_load).
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Cache::get_or_load).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the load; those who wait for its keys take over, each with its own function.
    ///
    /// ```
    /// use floodwall::Cache;
    ///
    /// # floodwall::block_on(async {
    /// let users = Cache::new(10_000);
    /// users.insert(7, "ann").unwrap();
    /// let found = users
    ///     .get_many(&[7, 8, 9], |missing: Vec<u64>| async move {
    ///         assert_eq!(missing, [8, 9]);
    ///         Ok::<_, std::io::Error>([(8, "bob")])
    ///     })
    ///     .await?;
    /// assert_eq!(found, [Some("ann"), Some("bob"), None]);
    /// # Ok::<_, floodwall::Error<std::io::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_many<'k, Q, F, Fut, L, E>(
        &self,
        keys: impl IntoIterator<Item = &'k Q>,
        load: F,
    ) -> Result<Vec<Option<V>>, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized + 'k,
        F: FnMut(Vec<K>) -> Fut,
        Fut: Future<Output = Result<L, E>>,
        L: IntoIterator<Item = (K, V)>,
    {
        let inner = &*self.inner;
        let mut values = Vec::new();
        let (mut misses, mut repeated, mut first) = (Vec::new(), Vec::new(), HashMap::new());
        for (place, key) in keys.into_iter().enumerate() {
            let hash = inner.hash(key);
            let value = inner.look(hash, key, |found| found.value.clone());
            if value.is_none() {
                match first.entry(key) {
                    Entry::Occupied(first) => repeated.push((place, *first.get())),
                    Entry::Vacant(entry) => {
                        entry.insert(place);
                        misses.push(Miss { key, hash, place });
                    }
                }
            }
            values.push(value);
        }
        self.load_many(misses, &mut values, load).await?;
        for (place, first) in repeated {
            values[place] = values[first].clone();
        }
        Ok(values)
    }

    /// Returns clones of the values of `keys`, in their order, as [`get_many`](Cache::get_many) does, and blocks this thread
    /// while others load some of them.
    ///
    /// # Errors
    ///
    /// As [`get_many`](Cache::get_many).
    pub fn get_many_blocking<'k, Q, F, L, E>(
        &self,
        keys: impl IntoIterator<Item = &'k Q>,
        mut load: F,
    ) -> Result<Vec<Option<V>>, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized + 'k,
        F: FnMut(Vec<K>) -> Result<L, E>,
        L: IntoIterator<Item = (K, V)>,
    {
        block_on(self.get_many(keys, |missing| ready(load(missing))))
    }

    /// Fills in the values of keys that were missed.
    pub(super) async fn load_many<'k, Q, F, Fut, L, E>(
        &self,
        mut misses: Vec<Miss<'k, Q>>,
        values: &mut [Option<V>],
        mut load: F,
    ) -> Result<(), Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnMut(Vec<K>) -> Fut,
        Fut: Future<Output = Result<L, E>>,
        L: IntoIterator<Item = (K, V)>,
    {
        let inner = &*self.inner;
        let mut follows = Vec::new();
        while !misses.is_empty() || !follows.is_empty() {
            let mut batch = inner.join_many(&mut misses, &mut follows, values);
            if batch.0.is_empty() {
                batch = inner.follow_many(&mut follows, &mut misses, values).await?;
            }
            if !batch.0.is_empty() {
                let keys = batch.0.iter().map(|(miss, _)| miss.key.to_owned()).collect();
                let (result, batch) = Led::new(batch, || load(keys)).await;
                batch.install(result.map_err(Error::Inner)?, values);
            }
        }
        Ok(())
    }
}

/// A key that was missed, and the first place in the result where it belongs.
pub(super) struct Miss<'k, Q: ?Sized> {
    pub(super) key: &'k Q,
    pub(super) hash: u64,
    pub(super) place: usize,
}

/// Keys to load in one call.
struct Batch<'a, 'k, K, V, Q: ?Sized>(Vec<(Miss<'k, Q>, Load<'a, K, V>)>);

impl<K, V, Q: ?Sized> Leads for Batch<'_, '_, K, V, Q> {
    fn addresses(&self) -> impl Iterator<Item = usize> {
        self.0.iter().flat_map(|(_, load)| load.addresses())
    }
}

impl<K: Hash + Eq, V: Clone, Q: Hash + Eq + ?Sized> Batch<'_, '_, K, V, Q>
where
    K: Borrow<Q>,
{
    /// Keeps what was loaded, and lets others try what was not.
    fn install(self, loaded: impl IntoIterator<Item = (K, V)>, values: &mut [Option<V>]) {
        let mut loaded: HashMap<K, V> = loaded.into_iter().collect();
        for (miss, load) in self.0 {
            match loaded.remove_entry(miss.key) {
                Some((key, value)) => {
                    load.install(key, &value);
                    values[miss.place] = Some(value);
                }
                None => load.forgo(),
            }
        }
    }
}

type Follows<'a, 'k, K, V, Q> = Vec<(Miss<'k, Q>, Follow<'a, K, V>)>;

impl<K: Hash + Eq, V: Clone> Inner<K, V> {
    /// Comes to the flights of keys that were missed, and returns those to load.
    fn join_many<'a, 'k, Q>(
        &'a self,
        misses: &mut Vec<Miss<'k, Q>>,
        follows: &mut Follows<'a, 'k, K, V, Q>,
        values: &mut [Option<V>],
    ) -> Batch<'a, 'k, K, V, Q>
    where
        K: Borrow<Q>,
        Q: Eq + ToOwned<Owned = K> + ?Sized,
    {
        let mut batch = Vec::new();
        for miss in misses.drain(..) {
            match self.flights.join(miss.hash, miss.key) {
                Joined::Lead(lead) => match self.load(miss.hash, miss.key, lead) {
                    Ok(load) => batch.push((miss, load)),
                    Err(value) => values[miss.place] = Some(value),
                },
                Joined::Follow(follow) => {
                    self.hook.emit(Event::Joined);
                    follows.push((miss, follow));
                }
            }
        }
        Batch(batch)
    }

    /// Waits for keys that others load, until there is something to do: returns those to load, and leaves those to come
    /// to once more among the misses.
    ///
    /// Whoever leads a flight does not wait: two that lead what the other waits for would do so for ever. So all others
    /// are left when a lead falls to it.
    async fn follow_many<'a, 'k, Q, E>(
        &'a self,
        follows: &mut Follows<'a, 'k, K, V, Q>,
        misses: &mut Vec<Miss<'k, Q>>,
        values: &mut [Option<V>],
    ) -> Result<Batch<'a, 'k, K, V, Q>, Error<E>>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let end = |(miss, follow): (_, Follow<'a, K, V>)| (miss, Box::pin(follow.end(&self.clock, NEVER)));
        let mut waiting: Vec<(Miss<'k, Q>, _)> = follows.drain(..).map(end).collect();
        let mut batch = Vec::new();
        let is_recursive = poll_fn(|context| {
            let mut still = Vec::with_capacity(waiting.len());
            for (miss, mut end) in waiting.drain(..) {
                match end.as_mut().poll(context) {
                    Poll::Pending => still.push((miss, end)),
                    Poll::Ready(Followed::Value(value)) => values[miss.place] = Some(value),
                    Poll::Ready(Followed::Lead(lead)) => match self.load(miss.hash, miss.key, lead) {
                        Ok(load) => batch.push((miss, load)),
                        Err(value) => values[miss.place] = Some(value),
                    },
                    Poll::Ready(Followed::Recursive) => return Poll::Ready(true),
                    Poll::Ready(Followed::Nothing | Followed::Error(_) | Followed::TooLate) => {
                        misses.push(miss)
                    }
                }
            }
            waiting = still;
            let is_done = waiting.is_empty() || !batch.is_empty() || !misses.is_empty();
            if is_done { Poll::Ready(false) } else { Poll::Pending }
        });
        if is_recursive.await {
            let rejected = Rejected::new(self.hook.name, Reason::Recursive);
            self.hook.emit(Event::Rejected(rejected));
            return Err(rejected.into());
        }
        misses.extend(waiting.into_iter().map(|(miss, _)| miss));
        Ok(Batch(batch))
    }
}

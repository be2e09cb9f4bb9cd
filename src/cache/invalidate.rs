//! What is no longer true: removal by test, by tag, of everything, and by what others say ([`Invalidation`]).

use std::borrow::Borrow;
use std::hash::Hash;

use super::entries::{Found, Gone};
use super::tags::Tags;
use super::{Cache, CacheBuilder, Inner};

/// What others say is no longer true; for [`Cache::apply`] and [`Cache::listen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invalidation<K, T = String> {
    /// The value of a key.
    Key(K),
    /// The values that carry a tag.
    Tag(T),
    /// Everything.
    Everything,
}

impl<K: Hash + Eq, V> Cache<K, V> {
    /// Removes `key` if its value passes `test`, and returns whether it did.
    ///
    /// The test is made outside every lock. If the value is replaced meanwhile, the new one is tested too.
    ///
    /// ```
    /// use floodwall::Cache;
    ///
    /// let versions = Cache::new(100);
    /// versions.insert("a", 3)?;
    /// assert!(!versions.remove_if("a", |version| *version < 3));
    /// assert!(versions.remove_if("a", |version| *version < 4));
    /// # Ok::<(), floodwall::cache::TooHeavy<i32>>(())
    /// ```
    pub fn remove_if<Q>(&self, key: &Q, mut test: impl FnMut(&V) -> bool) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.inner.hash(key);
        loop {
            let now = self.inner.now();
            let taken = self.inner.entries.peek(hash, key, |found| {
                let goes = !found.times.is_over(now) && test(found.value);
                goes.then(|| self.inner.take_found(hash, &found))
            });
            let Some(gone) = taken.flatten() else { return false };
            // Else it was replaced since it was found.
            if gone.iter().next().is_some() {
                // No longer read by us: it may be dropped here.
                self.inner.tell(gone);
                return true;
            }
        }
    }

    /// Keeps the entries that pass `test`, and removes the others.
    ///
    /// The test is made outside every lock. Entries that are written meanwhile may or may not be tested; loads that run
    /// meanwhile are not kept.
    pub fn retain(&self, mut test: impl FnMut(&K, &V) -> bool) {
        self.inner.overtake_all();
        let now = self.inner.now();
        self.inner.entries.scan(|found| {
            if found.times.is_over(now) || !test(found.key, found.value) {
                self.inner.remove_found(self.inner.hash(found.key), &found);
            }
            true
        });
        self.inner.entries.tidy();
    }

    /// Removes everything that was written before.
    ///
    /// Entries that are written meanwhile may stay; loads that run meanwhile are not kept.
    ///
    /// # Cost
    ///
    /// Constant, however many entries there are. None of them is found any more when it returns; they are told to the
    /// [listener](CacheBuilder::listener), counted in the statistics and dropped little by little: a thousand here, and four by
    /// each write that follows. Until then they take room, and nothing that is newer leaves for them. All that are left go
    /// with [`sweep(usize::MAX)`](Cache::sweep).
    ///
    /// ```
    /// use floodwall::Cache;
    ///
    /// let cache = Cache::new(100_000);
    /// for key in 0..50_000 {
    ///     cache.insert(key, key)?;
    /// }
    /// cache.clear();
    /// assert_eq!((cache.get(&7), cache.len()), (None, 0));
    /// cache.sweep(usize::MAX);
    /// assert_eq!(cache.stats().removed, 50_000);
    /// # Ok::<(), floodwall::cache::TooHeavy<i32>>(())
    /// ```
    pub fn clear(&self) {
        self.inner.overtake_all();
        let (gone, is_all) = self.inner.entries.clear(self.inner.now());
        self.inner.tell(gone);
        if is_all {
            self.inner.entries.tidy();
        }
    }

    /// Removes the entries that carry `tag`, and returns how many. Loads that run meanwhile are kept only without it.
    ///
    /// A tag is found by its hash, so `&str` finds `String`; a `u32` does not find a `u64`.
    ///
    /// # Panics
    ///
    /// If the cache was not told its [`tags`](CacheBuilder::tags).
    ///
    /// # Cost
    ///
    /// That of the entries which carry it, however many others there are.
    #[track_caller]
    pub fn remove_tag<T: Hash + ?Sized>(&self, tag: &T) -> usize {
        let inner = &*self.inner;
        let Some(tags) = &inner.settings.tags else {
            panic!("remove_tag: the cache knows no tags; build it with tags(..)")
        };
        let tag = tags.hash(tag);
        let mut removed = 0;
        for hash in tags.remove(tag) {
            inner.entries.scan_hash(hash, |found| {
                if tags.carries(found.key, found.value, tag) && inner.remove_found(hash, &found) {
                    removed += 1;
                }
            });
        }
        removed
    }

    /// Does what an invalidation says.
    ///
    /// # Panics
    ///
    /// On a tag, as [`remove_tag`](Cache::remove_tag).
    #[track_caller]
    pub fn apply<Q, T>(&self, invalidation: Invalidation<Q, T>)
    where
        K: Borrow<Q>,
        Q: Hash + Eq,
        T: Hash,
    {
        match invalidation {
            Invalidation::Key(key) => self.inner.remove(&key),
            Invalidation::Tag(tag) => _ = self.remove_tag(&tag),
            Invalidation::Everything => self.clear(),
        }
    }

    /// Does what `next` says, until it says `None`; then, or when it is dropped, it clears the cache: what nobody says any more
    /// could stay wrong for ever.
    ///
    /// A future to be spawned. `next` is an async closure around whatever brings the messages: a channel, a stream, a
    /// subscription. A loop of your own around [`apply`](Cache::apply) does the same, also on a thread.
    ///
    /// # Cancel safety
    ///
    /// Dropping it clears the cache.
    ///
    /// ```
    /// use floodwall::{Cache, cache::Invalidation};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let users = Cache::new(100);
    /// users.insert(7, "ann").unwrap();
    /// users.insert(8, "bob").unwrap();
    /// let (sender, mut receiver) = tokio::sync::mpsc::channel::<Invalidation<i32>>(8);
    /// let listener = tokio::spawn(users.clone().listen(async move || receiver.recv().await));
    ///
    /// sender.send(Invalidation::Key(7)).await.unwrap();
    /// while users.contains(&7) {
    ///     tokio::task::yield_now().await;
    /// }
    /// assert!(users.contains(&8));
    ///
    /// drop(sender); // Nobody would tell us any more.
    /// listener.await.unwrap();
    /// assert!(users.is_empty());
    /// # }
    /// ```
    pub async fn listen<Q, T>(self, mut next: impl AsyncFnMut() -> Option<Invalidation<Q, T>>)
    where
        K: Borrow<Q>,
        Q: Hash + Eq,
        T: Hash,
    {
        let deaf = ClearOnDrop(self);
        while let Some(invalidation) = next().await {
            deaf.0.apply(invalidation);
        }
    }
}

struct ClearOnDrop<K: Hash + Eq, V>(Cache<K, V>);

impl<K: Hash + Eq, V> Drop for ClearOnDrop<K, V> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

impl<K: Hash + Eq, V> Inner<K, V> {
    /// Takes out an entry that is held at this moment, if it is still there.
    fn take_found(&self, hash: u64, held: &Found<'_, K, V>) -> Gone<'_, K, V> {
        let now = self.now();
        let why = |found: Found<'_, K, V>| found.is(held).then(|| self.cause(&found, now));
        self.flights.overtake(hash, || self.entries.remove_if(hash, held.key, why))
    }

    /// Removes an entry that is held at this moment, if it is still there.
    fn remove_found(&self, hash: u64, held: &Found<'_, K, V>) -> bool {
        let gone = self.take_found(hash, held);
        let removed = gone.iter().next().is_some();
        self.tell(gone);
        removed
    }

    /// Removes a key, whatever its value.
    pub(super) fn remove<Q>(&self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let gone = self.take(self.hash(key), key);
        self.tell(gone);
    }

    /// Takes a key out, whatever its value. Loads that run meanwhile are not kept.
    pub(super) fn take<Q>(&self, hash: u64, key: &Q) -> Gone<'_, K, V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let now = self.now();
        let why = |found: Found<'_, K, V>| Some(self.cause(&found, now));
        self.flights.overtake(hash, || self.entries.remove_if(hash, key, why))
    }

    /// Lets no load that runs now be kept.
    pub(super) fn overtake_all(&self) {
        self.flights.overtake_all();
    }
}

impl<K: Hash + Eq, V> CacheBuilder<K, V> {
    /// Gives each entry the tags that `tags` returns, by which [`remove_tag`](Cache::remove_tag) finds it. Default: none.
    ///
    /// It must return the same tags for the same entry each time.
    ///
    /// ```
    /// use floodwall::Cache;
    ///
    /// struct Order { customer: u32 }
    /// let orders = Cache::builder(100).tags(|_id: &u64, order: &Order| [order.customer]).build();
    /// orders.insert(1, Order { customer: 7 })?;
    /// orders.insert(2, Order { customer: 8 })?;
    /// assert_eq!(orders.remove_tag(&7_u32), 1);
    /// assert!(!orders.contains(&1) && orders.contains(&2));
    /// # Ok::<(), floodwall::cache::TooHeavy<Order>>(())
    /// ```
    ///
    /// # Cost
    ///
    /// Memory for each tag of an entry, and a lock for each when the entry is written and when it leaves. Reads cost nothing
    /// more.
    pub fn tags<T, I>(mut self, tags: impl Fn(&K, &V) -> I + Send + Sync + 'static) -> Self
    where
        T: Hash,
        I: IntoIterator<Item = T>,
    {
        self.settings.tags = Some(Tags::new(tags));
        self
    }
}

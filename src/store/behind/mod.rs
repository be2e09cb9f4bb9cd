//! Write now, store soon: [`WriteBehind`].
//!
//! For data that changes more often than a store can write it, counters above all, and for writes that must not wait for
//! a slow store, or for one that is down. When **not** to use it: where others read the store and must see a write at
//! once; and, without a journal, where the writes of the last second must survive a crash.
//!
//! One batch is written at a time. Whoever drives it leads: the runner, or whoever waits for a flush. The batch itself
//! belongs to nobody: dropped in the middle of it, a leader leaves it to the next one, so that a write is never begun
//! a second time while the first may still be on its way.

mod builder;
mod dirty;
mod drive;
mod epochs;
mod error;
mod item;
mod keep;
mod many;
mod pins;

use std::fmt;
use std::future::poll_fn;
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

pub use builder::{DeadLetter, WhenFull, WriteBehindBuilder};
pub use error::WriteBehindError;

use super::{Batch, Store, Write};
use crate::bell::Bell;
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{Reason, Rejected};
use crate::event::Hook;
use crate::park::block_on;
use crate::policy::Policy;
use crate::rng::Seeds;
use crate::semaphore::{Ask, Semaphore};
use crate::sync::Mutex;
use crate::wait::Turn;
use builder::Settings;
use dirty::Dirty;
use drive::{Slot, Target};
use keep::Keep;

/// A [`Store`] that takes writes at once, and writes them to another one soon: in batches, the newest of each key only.
///
/// Clones are handles of one write-behind. Reads see the last write that was taken, whether it is in the store yet or
/// not. A write that fails is made again, and again; one that spoils its batch is found by halving it, so that
/// it holds up nobody; one that can never be written goes to [`dead_letters`](WriteBehindBuilder::dead_letters).
///
/// Somebody must do the writing: spawn [`run`](WriteBehind::run), or give a thread to
/// [`run_blocking`](WriteBehind::run_blocking). Where nobody does, a [`flush`](WriteBehind::flush) and writers that wait for room do
/// it. End with [`close`](WriteBehind::close): what is not written when the last handle is dropped is lost.
///
/// A store may be asked to write the same twice, and sees the writes of one key in order.
///
/// ```
/// # use std::{sync::Arc, time::Duration};
/// use floodwall::WriteBehind;
/// use floodwall::store::{MemoryStore, Store};
///
/// let database = Arc::new(MemoryStore::new());
/// let counts = WriteBehind::new(database.clone());
/// for count in 1..=100 {
///     counts.save_blocking(&"visits", &count)?;
/// }
/// assert_eq!(counts.load_blocking(&"visits")?, Some(100));
/// assert!(database.is_empty());
///
/// assert!(counts.close_blocking(Duration::from_secs(5)).is_empty());
/// assert_eq!(database.load_blocking(&"visits").unwrap(), Some(100));
/// assert_eq!(counts.backlog().written, 1);
/// # Ok::<(), floodwall::store::WriteBehindError<std::convert::Infallible>>(())
/// ```
///
/// # Cancel safety
///
/// A write that is dropped may have been taken or not; so may one that returned an error of the journal. All else may be
/// dropped at any point.
///
/// # Cost
///
/// A write is two locks and two or three allocations; a read is a lock and, of what is in memory, a clone.
pub struct WriteBehind<K: Send + Sync, V: Send + Sync, S: Store<K, V>, P = ()> {
    inner: Arc<Inner<K, V, S, P>>,
}

/// What waits, and what has happened; made by [`WriteBehind::backlog`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backlog {
    /// How many keys have a write that is not in the store.
    pub keys: usize,
    /// What these weigh, and those that are being taken.
    pub bytes: u64,
    /// How long the oldest of them waits.
    pub oldest: Option<Duration>,
    /// How many writes were made.
    pub written: u64,
    /// How many were replaced by a newer one of their key before they were made.
    pub coalesced: u64,
    /// How many were made again.
    pub retries: u64,
    /// How many were given up.
    pub dead_letters: u64,
}

/// A write that [`close`](WriteBehind::close) could not bring into the store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unwritten<K, V> {
    /// What was to be written.
    pub key: Arc<K>,
    /// The value; `None` if it was to be taken away.
    pub value: Option<Arc<V>>,
    /// The number of the write.
    pub sequence: u64,
}

pub(super) struct Inner<K: Send + Sync, V: Send + Sync, S: Store<K, V>, P> {
    dirty: Mutex<Dirty<K, V>>,
    /// The bytes that wait.
    room: Semaphore,
    /// Rings when there may be something to do, and when something is done.
    bell: Bell,
    slot: Mutex<Slot<K, V, S::Error>>,
    target: Arc<Target<S, P>>,
    settings: Settings<K, V, S::Error>,
    keep: Option<Box<dyn Keep<K, V, S::Error>>>,
    seeds: Seeds,
    clock: Clock,
    hook: Hook,
}

impl<K, V, S> WriteBehind<K, V, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
{
    /// Writes to `store`, with the settings that [`builder`](WriteBehind::builder) starts with.
    pub fn new(store: S) -> Self {
        Self::builder(store).build()
    }

    /// Starts to build a write-behind for `store`.
    pub fn builder(store: S) -> WriteBehindBuilder<K, V, S> {
        WriteBehindBuilder::new(store)
    }
}

impl<K, V, S, P> WriteBehind<K, V, S, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
    P: Policy<Vec<Result<(), S::Error>>, S::Error> + 'static,
{
    /// Writes what is due, until it is [closed](WriteBehind::close): a future to spawn.
    ///
    /// Several may run; they write one batch at a time between them.
    pub fn run(&self) -> impl Future<Output = ()> + Send + 'static {
        let inner = self.inner.clone();
        async move { inner.drive(|dirty| dirty.has_ended().then_some(())).await }
    }

    /// Writes what is due, on this thread, until it is [closed](WriteBehind::close).
    pub fn run_blocking(&self) {
        block_on(self.run());
    }

    /// Waits until every write that was taken before is in the store, or was replaced by a newer one that is, or was given
    /// up.
    ///
    /// Does it itself where nobody else does. While the store fails it goes on trying: bound it by a timeout.
    pub async fn flush(&self) {
        self.inner.flush().await;
    }

    /// As [`flush`](WriteBehind::flush), on a plain thread.
    pub fn flush_blocking(&self) {
        block_on(self.flush());
    }

    /// Takes no more writes, gives the others so long to reach the store, and returns those that did not.
    ///
    /// Those can still be read here. It ends [`run`](WriteBehind::run); to try once more, close again.
    pub async fn close(&self, within: Duration) -> Vec<Unwritten<K, V>> {
        let inner = &*self.inner;
        inner.dirty.lock().close();
        let mut sleep = pin!(inner.clock.sleep(within));
        let mut flush = pin!(inner.flush());
        poll_fn(|context| match flush.as_mut().poll(context) {
            Poll::Pending => sleep.as_mut().poll(context),
            ready => ready,
        })
        .await;
        let left = {
            let mut dirty = inner.dirty.lock();
            dirty.end();
            dirty.left()
        };
        inner.bell.ring();
        if let (Some(keep), true) = (&inner.keep, left.is_empty()) {
            keep.close().await;
        }
        left.into_iter().map(|(key, value, sequence)| Unwritten { key, value, sequence }).collect()
    }

    /// As [`close`](WriteBehind::close), on a plain thread.
    pub fn close_blocking(&self, within: Duration) -> Vec<Unwritten<K, V>> {
        block_on(self.close(within))
    }

    /// Tells what waits, and what has happened.
    pub fn backlog(&self) -> Backlog {
        let now = self.inner.clock.nanos();
        let dirty = self.inner.dirty.lock();
        let counts = dirty.counts();
        Backlog {
            keys: dirty.len(),
            bytes: self.inner.room.running(),
            oldest: dirty.oldest().map(|since| Duration::from_nanos(now.saturating_sub(since))),
            written: counts.written,
            coalesced: counts.coalesced,
            retries: counts.retries,
            dead_letters: counts.dead,
        }
    }

    /// Returns the store that it writes to.
    pub fn store(&self) -> &S {
        &self.inner.target.store
    }

    fn read(&self, key: &K) -> Option<Option<V>>
    where
        V: Clone,
    {
        let found = self.inner.dirty.lock().get(key)?;
        Some(found.map(|value| V::clone(&value)))
    }
}

impl<K, V, S, P> Inner<K, V, S, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
    P: Policy<Vec<Result<(), S::Error>>, S::Error> + 'static,
{
    async fn flush(&self) {
        let epoch = self.dirty.lock().epochs.end();
        self.bell.ring();
        self.drive(|dirty| dirty.epochs.reached(epoch).then_some(())).await;
    }

    /// Takes a write.
    async fn take(&self, key: K, value: Option<V>) -> Result<(), WriteBehindError<S::Error>> {
        let bytes = (self.settings.weigher)(&key, value.as_ref());
        let mut room = self.enter(bytes).await?;
        let (key, value) = (Arc::new(key), value.map(Arc::new));
        let mut pin = None;
        let (freed, looks) = match &self.keep {
            None => {
                let now = self.clock.nanos();
                let mut dirty = self.dirty.lock();
                if dirty.is_closed() {
                    return Err(self.rejected(Reason::Closed).into());
                }
                let sequence = dirty.next_sequence();
                dirty.accept(now, &key, value, bytes, sequence)
            }
            Some(keep) => {
                pin = Some(self.pin(&key)?);
                let sequence = keep.append(&key, value.as_deref()).await?;
                // Closed meanwhile or not: it is kept, so it is taken.
                let now = self.clock.nanos();
                self.dirty.lock().accept(now, &key, value, bytes, sequence)
            }
        };
        room.bytes = 0;
        // In this order: of two writes of a key the older one is let go first.
        self.free([freed]);
        drop(pin);
        if looks {
            self.bell.ring();
        }
        if room.through {
            self.flush().await;
        }
        Ok(())
    }

    fn pin<'a>(&'a self, key: &'a Arc<K>) -> Result<Pinned<'a, K, V, S, P>, Rejected> {
        let mut dirty = self.dirty.lock();
        if dirty.is_closed() {
            return Err(self.rejected(Reason::Closed));
        }
        Ok(Pinned { inner: self, key, pin: dirty.pin(key) })
    }

    /// Finds room for a write.
    async fn enter(&self, bytes: u64) -> Result<Room<'_>, Rejected> {
        let mut ask = Ask::places(bytes);
        let room = |through| Room { places: &self.room, bytes, through };
        match (self.room.try_enter(&mut ask), self.settings.when_full) {
            (Turn::Served, _) => Ok(room(false)),
            (_, WhenFull::Reject) => Err(self.rejected(Reason::QueueFull)),
            (Turn::Never, _) | (_, WhenFull::WriteThrough) => {
                self.room.overrun(bytes);
                Ok(room(true))
            }
            (Turn::NotYet, WhenFull::Wait) => {
                let mut enter = pin!(self.room.enter(ask, Call::new(), Duration::MAX, &self.clock));
                // Who waits for room makes room, if nobody else does.
                let mut drive = pin!(self.drive(|_| None::<()>));
                let mut waits = false;
                let entered = poll_fn(|context| {
                    if let Poll::Ready(entered) = enter.as_mut().poll(context) {
                        return Poll::Ready(entered);
                    }
                    if !std::mem::replace(&mut waits, true) {
                        self.bell.ring();
                    }
                    drive.as_mut().poll(context).map(|()| Err(Reason::QueueFull))
                });
                entered.await.map(|_| room(false)).map_err(|_| self.rejected(Reason::QueueFull))
            }
        }
    }

    fn rejected(&self, reason: Reason) -> Rejected {
        Rejected::new(self.hook.name, reason)
    }
}

/// A writer that is getting a number: see [`pins`].
struct Pinned<'a, K, V, S, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
{
    inner: &'a Inner<K, V, S, P>,
    key: &'a Arc<K>,
    pin: u64,
}

impl<K, V, S, P> Drop for Pinned<'_, K, V, S, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
{
    fn drop(&mut self) {
        let (done, _garbage) = self.inner.dirty.lock().unpin(self.key, self.pin);
        self.inner.acknowledge(done);
    }
}

/// Bytes that are taken, and given back on drop unless they have become a write's.
struct Room<'a> {
    places: &'a Semaphore,
    bytes: u64,
    through: bool,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.places.leave(self.bytes);
    }
}

impl<K, V, S, P> Store<K, V> for WriteBehind<K, V, S, P>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: Store<K, V> + 'static,
    P: Policy<Vec<Result<(), S::Error>>, S::Error> + 'static,
{
    type Error = WriteBehindError<S::Error>;

    async fn load(&self, key: &K) -> Result<Option<V>, Self::Error> {
        match self.read(key) {
            Some(value) => Ok(value),
            None => self.store().load(key).await.map_err(WriteBehindError::Store),
        }
    }

    async fn save(&self, key: &K, value: &V) -> Result<(), Self::Error> {
        self.inner.take(key.clone(), Some(value.clone())).await
    }

    async fn remove(&self, key: &K) -> Result<(), Self::Error> {
        self.inner.take(key.clone(), None).await
    }

    async fn load_many(&self, keys: &[&K]) -> Batch<Option<V>, Self::Error> {
        let found: Vec<Option<Option<V>>> = keys.iter().map(|key| self.read(key)).collect();
        let missing: Vec<&K> =
            keys.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(key, _)| *key).collect();
        if missing.is_empty() {
            return Ok(found.into_iter().flatten().map(Ok).collect());
        }
        let loaded = self.store().load_many(&missing).await.map_err(WriteBehindError::Store)?;
        let mut loaded = loaded.into_iter().map(|result| result.map_err(WriteBehindError::Store));
        Ok(found.into_iter().filter_map(|found| found.map(Ok).or_else(|| loaded.next())).collect())
    }

    /// Takes several writes. With a [journal](WriteBehindBuilder::journal), all of them share one `fsync`.
    async fn write_many(&self, writes: &[Write<'_, K, V>]) -> Batch<(), Self::Error> {
        self.inner.take_many(writes).await
    }
}

impl<K: Send + Sync, V: Send + Sync, S: Store<K, V>, P> Clone for WriteBehind<K, V, S, P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<K: Send + Sync, V: Send + Sync, S: Store<K, V>, P> fmt::Debug for WriteBehind<K, V, S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteBehind")
            .field("name", &self.inner.hook)
            .field("bytes", &self.inner.room.running())
            .finish_non_exhaustive()
    }
}

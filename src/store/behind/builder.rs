//! The settings of a write-behind: [`WriteBehindBuilder`].

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use super::dirty::Limits;
use super::keep::Keep;
#[cfg(feature = "journal")]
use super::keep::{Journaled, decoded};
use super::{Inner, WriteBehind};
use crate::backoff::{Backoff, Exponential};
use crate::clock::Clock;
use crate::error::{Error, absurd, saturating_nanos};
use crate::event::Hook;
use crate::policy::Policy;
use crate::rng::Seeds;
use crate::setters::setters;
use crate::store::Store;
#[cfg(feature = "journal")]
use crate::store::journal::{Journal, Recovery};
#[cfg(feature = "journal")]
use crate::store::{Codec, CodecError};

/// Builds a [`WriteBehind`]; made by [`WriteBehind::builder`].
#[must_use = "call build"]
pub struct WriteBehindBuilder<K: Send + Sync, V: Send + Sync, S: Store<K, V>, P = ()> {
    store: S,
    policy: P,
    settings: Settings<K, V, S::Error>,
    keep: Option<Box<dyn Keep<K, V, S::Error>>>,
    /// What was kept before a crash.
    kept: Vec<(K, Option<V>, u64)>,
    limits: Limits,
    max_bytes: u64,
    seeds: Seeds,
    clock: Clock,
    hook: Hook,
}

type Weigher<K, V> = dyn Fn(&K, Option<&V>) -> u64 + Send + Sync;
type DeadLetters<K, V, E> = dyn Fn(DeadLetter<'_, K, V, E>) + Send + Sync;
type GiveUpWhen<E> = dyn Fn(&E) -> bool + Send + Sync;

pub(super) struct Settings<K, V, E> {
    pub(super) when_full: WhenFull,
    pub(super) weigher: Box<Weigher<K, V>>,
    pub(super) backoff: Backoff,
    pub(super) give_up_when: Option<Box<GiveUpWhen<E>>>,
    pub(super) dead_letters: Option<Box<DeadLetters<K, V, E>>>,
}

/// What becomes of a write when as many bytes wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// It waits until there is room, in turn.
    Wait,
    /// It is refused, with [`Reason::QueueFull`](crate::Reason::QueueFull).
    Reject,
    /// It is taken, and its caller waits until it is in the store, with all that came before.
    WriteThrough,
}

/// A write that was given up.
#[derive(Debug)]
#[non_exhaustive]
pub struct DeadLetter<'a, K, V, E> {
    /// What was to be written.
    pub key: &'a K,
    /// The value; `None` if it was to be taken away.
    pub value: Option<&'a V>,
    /// The number of the write.
    pub sequence: u64,
    /// How often it has failed.
    pub attempts: u32,
    /// How it failed the last time.
    pub error: &'a Error<E>,
}

impl<K, V, S> WriteBehindBuilder<K, V, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
{
    pub(super) fn new(store: S) -> Self {
        Self {
            store,
            policy: (),
            settings: Settings {
                when_full: WhenFull::Wait,
                weigher: Box::new(|_, _| (size_of::<K>() + size_of::<V>()) as u64 + OVERHEAD),
                backoff: Exponential::new(Duration::from_millis(100))
                    .max(Duration::from_secs(30))
                    .attempts(8)
                    .into(),
                give_up_when: None,
                dead_letters: None,
            },
            keep: None,
            kept: Vec::new(),
            limits: Limits { batch: 256, batch_bytes: 1 << 20, delay: 1_000_000_000 },
            max_bytes: 64 << 20,
            seeds: Seeds::from_entropy(),
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
    }

    /// Writes batches under `policy`: a breaker, a rate limit, a timeout, a stack. Default: none.
    ///
    /// A batch of which nothing was written counts as a failed call. A batch that is rejected, since a circuit is open
    /// say, costs its writes no attempt; they wait as long as the rejection asks for. A timeout may cut off a write that
    /// is then made a second time, as everything here may be.
    pub fn policy<P>(self, policy: P) -> WriteBehindBuilder<K, V, S, P> {
        let Self { store, policy: (), settings, keep, kept, limits, max_bytes, seeds, clock, hook } = self;
        WriteBehindBuilder { store, policy, settings, keep, kept, limits, max_bytes, seeds, clock, hook }
    }
}

/// What an entry takes beside its key and value, about.
const OVERHEAD: u64 = 256;

impl<K, V, S, P> WriteBehindBuilder<K, V, S, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
{
    /// Writes a batch as soon as so many keys wait, and never more in one. Default: 256.
    ///
    /// # Panics
    ///
    /// If `writes` is 0.
    #[track_caller]
    pub fn batch(mut self, writes: usize) -> Self {
        if writes == 0 {
            absurd("batch", 0, "must be at least 1");
        }
        self.limits.batch = writes;
        self
    }

    /// Writes a batch as soon as so many bytes wait, and never more in one, unless one write alone is larger. Default:
    /// 1 MiB.
    pub fn batch_bytes(mut self, bytes: u64) -> Self {
        self.limits.batch_bytes = bytes;
        self
    }

    /// Lets a write wait so long for others to share its batch, and for newer ones of its key. Default: 1 s.
    ///
    /// This is what a crash loses at most while the store is well, without a journal.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.limits.delay = saturating_nanos(delay);
        self
    }

    /// Lets at most so many bytes wait, as the [weigher](Self::weigher) counts them. Default: 64 MiB.
    ///
    /// # Panics
    ///
    /// If `bytes` is 0.
    #[track_caller]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        if bytes == 0 {
            absurd("max_bytes", 0, "must be at least 1");
        }
        self.max_bytes = bytes;
        self
    }

    /// Sets what becomes of writes for which there is no room. Default: [`WhenFull::Wait`].
    ///
    /// A single write of more than [`max_bytes`](Self::max_bytes) is written through, unless it is to be rejected.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.settings.when_full = when_full;
        self
    }

    /// Counts the bytes of a write by `weigher`. Default: the sizes of the types and 256, which does not see what they
    /// hold on the heap.
    pub fn weigher(mut self, weigher: impl Fn(&K, Option<&V>) -> u64 + Send + Sync + 'static) -> Self {
        self.settings.weigher = Box::new(weigher);
        self
    }

    /// Waits between attempts as `backoff` says. Default: from 100 ms to 30 s, doubling, with full jitter, 8 attempts.
    ///
    /// The number of attempts matters with [`dead_letters`](Self::dead_letters) only.
    pub fn backoff(mut self, backoff: impl Into<Backoff>) -> Self {
        self.settings.backoff = backoff.into();
        self
    }

    /// Tells `hook` of each write that is given up, before it is forgotten. Default: nobody, and nothing is given up.
    ///
    /// A write is given up when it has failed as often as the [backoff](Self::backoff) has attempts while others could be
    /// written: so an outage gives up nothing, however long. Or at once, if [`give_up_when`](Self::give_up_when) says so.
    /// If the hook panics, the write is kept and tried again.
    pub fn dead_letters(
        mut self,
        hook: impl Fn(DeadLetter<'_, K, V, S::Error>) + Send + Sync + 'static,
    ) -> Self {
        self.settings.dead_letters = Some(Box::new(hook));
        self
    }

    /// Gives a write up at its first error for which `is_permanent` says so: a value that the store will never take.
    /// Default: no error is. It matters with [`dead_letters`](Self::dead_letters) only.
    pub fn give_up_when(mut self, is_permanent: impl Fn(&S::Error) -> bool + Send + Sync + 'static) -> Self {
        self.settings.give_up_when = Some(Box::new(is_permanent));
        self
    }

    /// Keeps each write in `journal` before it is taken, until the store has it. Default: what is not written is lost when
    /// the process ends.
    ///
    /// What `recovery` found there, at the opening of the journal, is taken as if it had been written now. The bytes are
    /// those of `codec`. A write returns, and is seen by readers, when it is as safe as the journal's
    /// [`Durability`](crate::store::journal::Durability) says. [`close`](WriteBehind::close) closes the journal, if
    /// nothing is left in it. Give it an `Arc` of which you keep a clone to see its
    /// [statistics](Journal::stats), or to let it [sync](Journal::run) at intervals.
    ///
    /// ```
    /// # let folder = std::env::temp_dir().join(format!("floodwall-doc-{}", std::process::id()));
    /// # use std::{sync::Arc, time::Duration};
    /// use floodwall::WriteBehind;
    /// use floodwall::store::journal::Journal;
    /// use floodwall::store::{MemoryStore, Plain, Store};
    ///
    /// let database = Arc::new(MemoryStore::<u64, u64>::new());
    /// let open = || -> Result<_, Box<dyn std::error::Error>> {
    ///     let (journal, recovery) = Journal::open(&folder)?;
    ///     Ok(WriteBehind::builder(database.clone()).journal(journal, &recovery, Plain)?.build())
    /// };
    /// let counts = open()?;
    /// counts.save_blocking(&7, &1)?;
    /// drop(counts); // or the process is killed
    ///
    /// let counts = open()?;
    /// assert_eq!(counts.load_blocking(&7)?, Some(1));
    /// assert!(counts.close_blocking(Duration::from_secs(5)).is_empty());
    /// assert_eq!(database.load_blocking(&7)?, Some(1));
    /// # std::fs::remove_dir_all(&folder)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When what was found is not of these types.
    #[cfg(feature = "journal")]
    #[cfg_attr(docsrs, doc(cfg(feature = "journal")))]
    pub fn journal<C: Codec<K> + Codec<V> + 'static>(
        mut self,
        journal: impl Into<Arc<Journal>>,
        recovery: &Recovery,
        codec: C,
    ) -> Result<Self, CodecError> {
        self.kept = decoded(recovery, &codec)?;
        self.keep = Some(Box::new(Journaled { journal: journal.into(), codec }));
        Ok(self)
    }

    /// Draws the same jitter in each run. Default: a random seed.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seeds = Seeds::seeded(seed);
        self
    }

    setters!("write-behind");

    /// Builds it. Nothing is written until somebody [runs](WriteBehind::run) or [flushes](WriteBehind::flush) it.
    pub fn build(self) -> WriteBehind<K, V, S, P>
    where
        P: Policy<Vec<Result<(), S::Error>>, S::Error>,
    {
        let Self { store, policy, settings, keep, kept, limits, max_bytes, seeds, clock, hook } = self;
        let inner = Inner::new(store, policy, settings, keep, limits, max_bytes, seeds, clock, hook);
        inner.take_again(kept);
        WriteBehind { inner: Arc::new(inner) }
    }
}

impl<K: Send + Sync, V: Send + Sync, S: Store<K, V>, P> fmt::Debug for WriteBehindBuilder<K, V, S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteBehindBuilder")
            .field("name", &self.hook)
            .field("limits", &self.limits)
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

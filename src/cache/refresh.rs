//! Keeping entries fresh: who loads one that is due, what the others get meanwhile, and what is left when the load fails.

use std::borrow::Borrow;
use std::fmt;
use std::future::ready;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::entries::Found;
use super::fresh::{Claim, State};
use super::load::Load;
use super::stats::Count;
use super::{Cache, CacheBuilder};
use crate::answer;
use crate::clock::NEVER;
use crate::error::Error;
use crate::flight::OwnErrors;
use crate::park::block_on;

/// What one who would load a key gets before it does.
pub(super) enum Asked<K: Hash + Eq, V> {
    /// The value, and nothing to do.
    Value(V),
    /// A value to be refreshed.
    Old(Old<K, V>),
    Absent,
}

/// A value, and that its holder is to refresh it. Dropped, it gives that back: another one may.
pub(super) struct Old<K: Hash + Eq, V> {
    cache: Cache<K, V>,
    hash: u64,
    key: K,
    value: V,
    claim: Claim,
    /// Whether it may be given out only if it cannot be refreshed.
    pub(super) is_spare: bool,
    is_over: bool,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// Looks up a key for one who would load it.
    pub(super) fn ask<Q>(&self, hash: u64, key: &Q) -> Asked<K, V>
    where
        K: Borrow<Q>,
        Q: Eq + ToOwned<Owned = K> + ?Sized,
    {
        let inner = &*self.inner;
        let rules = &inner.settings.rules;
        if !rules.refreshes() {
            return inner.look(hash, key, |found| found.value.clone()).map_or(Asked::Absent, Asked::Value);
        }
        let now = inner.now();
        let draw = || inner.settings.seeds.next().next();
        let judge = |found: &Found<'_, K, V>| match rules.state(found.times, now) {
            (State::Over, _) => None,
            (State::Good, Some(left)) if rules.is_early(found.times, now, draw) => {
                Some((State::Due, Some(left)))
            }
            state => Some(state),
        };
        let asked = inner.entries.read(hash, key, judge, |found, (state, left)| {
            if let Some(left) = left {
                inner.used(&found, now, left);
            }
            // Cloned before anything is claimed: that is the user's code, and may panic.
            let value = found.value.clone();
            let claim = match state {
                State::Due => rules.claim(found.times, now),
                State::Spare => Some(rules.spare(found.times)),
                _ => None,
            };
            let is_over = left.is_none();
            let Some(claim) = claim else { return (Asked::Value(value), is_over) };
            let (cache, is_spare) = (self.clone(), state == State::Spare);
            (Asked::Old(Old { cache, hash, key: key.to_owned(), value, claim, is_spare, is_over }), is_over)
        });
        let (asked, is_over) = asked.unwrap_or((Asked::Absent, true));
        inner.counts.add(if is_over { Count::Misses } else { Count::Hits });
        if is_over && matches!(asked, Asked::Value(_)) {
            inner.counts.add(Count::Stale);
        }
        asked
    }
}

impl<K: Hash + Eq, V: Clone> Old<K, V> {
    /// Gives it out.
    pub(super) fn give(&self) -> V {
        if self.is_over {
            self.cache.inner.counts.add(Count::Stale);
        }
        self.value.clone()
    }

    /// Ends a load that has failed: those who wait for it get the old value, and so does who loaded, unless the key was
    /// changed or removed meanwhile.
    pub(super) fn failed<E>(&self, load: Load<'_, K, V>, error: Error<E>) -> Result<V, Error<E>> {
        let (inner, now) = (&*self.cache.inner, self.cache.inner.now());
        inner.entries.peek(self.hash, &self.key, |found| {
            inner.settings.rules.failed(self.claim, found.times, now);
        });
        if load.fall_back(&self.value) { Ok(self.give()) } else { Err(error) }
    }
}

impl<K: Hash + Eq, V> Drop for Old<K, V> {
    fn drop(&mut self) {
        // Without effect once the entry was written anew, or its refresh has failed.
        let inner = &*self.cache.inner;
        inner
            .entries
            .peek(self.hash, &self.key, |found| inner.settings.rules.unclaim(self.claim, found.times));
    }
}

/// A refresh to be finished in the background; see [`CacheBuilder::background`].
///
/// It is a future for a runtime, or [runs](Job::run) on a thread. Dropped, it is not done, and a later look-up tries again.
#[must_use = "it is done when it is awaited or run"]
pub struct Job(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Job {
    /// Runs it on this thread until it is done.
    pub fn run(self) {
        block_on(self.0);
    }
}

impl Future for Job {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(context)
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}

impl<K: Hash + Eq, V> CacheBuilder<K, V> {
    /// Hands refreshes to `start`, which spawns them as tasks or runs them on threads; for
    /// [`get_or_refresh`](Cache::get_or_refresh). Default: whoever claims a refresh does it itself.
    ///
    /// ```
    /// use floodwall::{Cache, cache::Job};
    ///
    /// let tasks = Cache::<u32, String>::builder(100).background(|job: Job| drop(tokio::spawn(job)));
    /// let threads = Cache::<u32, String>::builder(100).background(|job: Job| {
    ///     std::thread::spawn(|| job.run());
    /// });
    /// # let _ = (tasks, threads);
    /// ```
    pub fn background(mut self, start: impl Fn(Job) + Send + Sync + 'static) -> Self {
        self.settings.background = Some(Box::new(start));
        self
    }

    /// Waits at most so long for the load of an entry that [may be given out if it fails](Self::stale_if_error), then gives
    /// the entry out while the load goes on in the [background](Self::background). Default: as long as it takes.
    ///
    /// For [`get_or_refresh`](Cache::get_or_refresh), with a background.
    pub fn soft_timeout(mut self, time: Duration) -> Self {
        self.settings.soft_timeout = time;
        self
    }
}

impl<K, V> Cache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// As [`get_or_load`](Cache::get_or_load), but refreshes go on in the [background](CacheBuilder::background), so that
    /// only who finds nothing at all has to wait.
    ///
    /// What an entry that is there is worth, and what is done about it:
    ///
    /// | its age | it is given out | it is loaded |
    /// |---|---|---|
    /// | up to [`refresh_ahead`](CacheBuilder::refresh_ahead) of its time, or until [by chance](CacheBuilder::refresh_early) | at once | not |
    /// | up to its time | at once | by one in the background |
    /// | [`stale_while_revalidate`](CacheBuilder::stale_while_revalidate) more | at once | by one in the background |
    /// | [`stale_if_error`](CacheBuilder::stale_if_error) more | if the load fails, or is slower than [`soft_timeout`](CacheBuilder::soft_timeout) | by one, for all |
    /// | older | not | by one, for all |
    ///
    /// A load that fails leaves what is there, and the next begins after a second; the longer the entry is over its time,
    /// the later. A load whose key is written or removed meanwhile is not kept.
    ///
    /// # Errors
    ///
    /// That of the load, if there is nothing else to give out.
    ///
    /// # Cancel safety
    ///
    /// What is in the background stays there. Else as [`get_or_load`](Cache::get_or_load).
    pub async fn get_or_refresh<Q, F, Fut, E>(&self, key: &Q, load: F) -> Result<V, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Send + 'static,
    {
        let load = || async { load().await.map_err(Error::Inner) };
        self.get_or_refresh_by(key, || load).await
    }

    /// As [`get_or_refresh`](Cache::get_or_refresh), for a load that is made only when it is needed.
    pub(crate) async fn get_or_refresh_by<Q, M, F, Fut, E>(&self, key: &Q, make: M) -> Result<V, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        M: FnOnce() -> F,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, Error<E>>> + Send + 'static,
        E: Send + 'static,
    {
        let (hash, settings) = (self.inner.hash(key), &self.inner.settings);
        let (old, start) = match (self.ask(hash, key), &settings.background) {
            (Asked::Old(old), Some(start)) if !old.is_spare || settings.soft_timeout < Duration::MAX => {
                (old, start)
            }
            (asked, _) => {
                return self.fly_on::<Q, _, _, E, OwnErrors>(hash, key, NEVER, asked, || make()()).await;
            }
        };
        let load = make();
        let (value, key, cache) = (old.value.clone(), old.key.clone(), self.clone());
        let (is_spare, is_over) = (old.is_spare, old.is_over);
        let (question, answer) = answer::ask();
        start(Job(Box::pin(async move {
            let fresh = cache.fly_on::<K, _, _, E, OwnErrors>(hash, &key, NEVER, Asked::Old(old), load);
            answer.give(fresh.await);
        })));
        if is_spare {
            let sleep = self.inner.clock.sleep(settings.soft_timeout);
            // `None`: it is too late, or the job was dropped.
            if let Some(fresh) = question.within(sleep).await {
                return fresh;
            }
        }
        if is_over {
            self.inner.counts.add(Count::Stale);
        }
        Ok(value)
    }

    /// As [`get_or_refresh`](Cache::get_or_refresh), on threads: who finds nothing loads on its own thread, refreshes run
    /// where the [background](CacheBuilder::background) runs its jobs.
    ///
    /// # Errors
    ///
    /// As [`get_or_refresh`](Cache::get_or_refresh).
    pub fn get_or_refresh_blocking<Q, F, E>(&self, key: &Q, load: F) -> Result<V, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        V: Sync,
        F: FnOnce() -> Result<V, E> + Send + 'static,
        E: Send + 'static,
    {
        block_on(self.get_or_refresh(key, || ready(load())))
    }
}

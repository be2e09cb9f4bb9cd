//! Who writes the batches: one leader at a time, and what it does with how they end.

use std::future::poll_fn;
use std::hash::Hash;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::builder::{DeadLetter, Settings};
use super::dirty::{Dirty, Fate, Freed, GiveUp, Item, Landed, Limits, Next};
use super::keep::Keep;
use super::{Bell, Inner};
use crate::clock::{Clock, NEVER};
use crate::error::{Error, saturating_nanos};
use crate::event::{self, Event, Hook};
use crate::policy::Policy;
use crate::rng::{Rng, Seeds};
use crate::semaphore::Semaphore;
use crate::store::{Store, Write};
use crate::sync::Mutex;

/// What a batch is written to.
pub(super) struct Target<S, P> {
    pub(super) store: S,
    policy: P,
}

type Written<E> = Result<Vec<Result<(), E>>, Error<E>>;

/// The batch that is being written, when no leader has it.
pub(super) struct Slot<K, V, E> {
    led: bool,
    flight: Option<Flight<K, V, E>>,
}

struct Flight<K, V, E> {
    load: Arc<Load<K, V, E>>,
    future: Pin<Box<dyn Future<Output = Written<E>> + Send>>,
}

struct Load<K, V, E> {
    items: Vec<Item<K, V>>,
    /// If each of them failed by itself: how, but for the first, whose error is that of the call.
    others: Mutex<Option<Vec<Result<(), E>>>>,
}

impl<S, P> Target<S, P> {
    /// Writes a batch. One of which nothing was written is a failed call, for the policies to see.
    async fn write<K, V>(self: Arc<Self>, load: Arc<Load<K, V, S::Error>>) -> Written<S::Error>
    where
        K: Send + Sync,
        V: Send + Sync,
        S: Store<K, V>,
        P: Policy<Vec<Result<(), S::Error>>, S::Error>,
    {
        let (store, load) = (&self.store, &*load);
        let write = || async move {
            *load.others.lock() = None;
            let writes: Vec<Write<'_, K, V>> = load
                .items
                .iter()
                .map(|item| Write { key: &*item.key, value: item.value.as_deref(), sequence: item.sequence })
                .collect();
            let mut results = store.write_many(&writes).await?;
            assert!(results.len() == writes.len(), "write_many: a result for each write");
            if results.iter().any(Result::is_ok) {
                return Ok(results);
            }
            let others = results.split_off(1);
            *load.others.lock() = Some(others);
            results.remove(0).map(|()| results)
        };
        let written = self.policy.call(write).await;
        match (written, load.others.lock().take()) {
            (Err(Error::Inner(first)), Some(others)) => {
                Ok(std::iter::once(Err(first)).chain(others).collect())
            }
            (written, _) => written,
        }
    }
}

/// The one who writes.
struct Leader<'a, K, V, S, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
{
    inner: &'a Inner<K, V, S, P>,
    flight: Option<Flight<K, V, S::Error>>,
    /// Code of others has the batch in hand, from the start of a poll until the end is noted. Still set when this is dropped,
    /// if the store, a policy or who judges errors has panicked.
    is_at_risk: bool,
}

impl<K, V, S, P> Inner<K, V, S, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
{
    #[expect(clippy::too_many_arguments, reason = "the parts of a builder")]
    pub(super) fn new(
        store: S,
        policy: P,
        settings: Settings<K, V, S::Error>,
        keep: Option<Box<dyn Keep<K, V, S::Error>>>,
        limits: Limits,
        max_bytes: u64,
        seeds: Seeds,
        clock: Clock,
        hook: Hook,
    ) -> Self {
        Self {
            dirty: Mutex::new(Dirty::new(limits)),
            room: Semaphore::new(max_bytes, usize::MAX),
            bell: Bell::default(),
            slot: Mutex::new(Slot { led: false, flight: None }),
            target: Arc::new(Target { store, policy }),
            settings,
            keep,
            seeds,
            clock,
            hook,
        }
    }

    /// Takes writes that were kept before a crash, oldest first.
    pub(super) fn take_again(&self, kept: Vec<(K, Option<V>, u64)>) {
        for (key, value, sequence) in kept {
            let bytes = (self.settings.weigher)(&key, value.as_ref());
            self.room.overrun(bytes);
            let (key, value) = (Arc::new(key), value.map(Arc::new));
            let now = self.clock.nanos();
            let (freed, _) = self.dirty.lock().accept(now, &key, value, bytes, sequence);
            self.free([freed]);
        }
    }

    /// Gives back room, and lets go of what was kept.
    pub(super) fn free(&self, freed: impl IntoIterator<Item = Freed<K, V>>) {
        let (mut bytes, mut done) = (0, Vec::new());
        for freed in freed {
            bytes += freed.bytes;
            if self.keep.is_some() {
                done.extend(freed.done);
            }
        }
        self.room.leave(bytes);
        self.acknowledge(done);
    }

    pub(super) fn acknowledge(&self, done: Vec<u64>) {
        if let (Some(keep), false) = (&self.keep, done.is_empty()) {
            keep.acknowledge(done);
        }
    }

    /// Keeps what was in a batch that has panicked: the store, a policy, or who judges errors. Nobody knows what was written.
    fn crash(&self, flight: Option<Flight<K, V, S::Error>>) {
        let Some(Flight { load, future }) = flight else { return };
        drop(future);
        let items = &load.items;
        let now = self.clock.nanos();
        let mut freed = Vec::new();
        {
            let mut dirty = self.dirty.lock();
            dirty.batch_ended(0, items.len(), Some(now.saturating_add(SECOND)), true);
            for item in items {
                if let Landed::Freed(free) = dirty.land(now, item, Fate::Unclear) {
                    freed.push(free);
                }
            }
        }
        self.free(freed);
    }
}

impl<K, V, S, P> Inner<K, V, S, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
    P: Policy<Vec<Result<(), S::Error>>, S::Error> + 'static,
{
    /// Writes, or waits while somebody else does, until `done` says so.
    pub(super) async fn drive<R>(&self, mut done: impl FnMut(&Dirty<K, V>) -> Option<R>) -> R {
        let mut leader = None;
        loop {
            let heard = self.bell.rings();
            let result = done(&self.dirty.lock());
            if let Some(result) = result {
                return result;
            }
            if leader.is_none() {
                leader = self.lead();
            }
            match &mut leader {
                Some(leader) => leader.step(heard).await,
                None => self.bell.wait(heard, &self.clock, NEVER).await,
            }
        }
    }

    fn tell(&self, again: &[(&Item<K, V>, Fate)], pause: u64) {
        for (item, fate) in again {
            let (failed, delay) = match *fate {
                Fate::Failed { delay, .. } => (item.failed, delay.max(pause)),
                Fate::Unclear => (item.failed, pause),
                Fate::Written | Fate::Untried => continue,
            };
            let attempt = u16::try_from(failed.saturating_add(1)).unwrap_or(u16::MAX);
            self.hook.emit(Event::Retrying { attempt, delay: Duration::from_nanos(delay) });
        }
    }

    fn lead(&self) -> Option<Leader<'_, K, V, S, P>> {
        let mut slot = self.slot.lock();
        if mem::replace(&mut slot.led, true) {
            return None;
        }
        Some(Leader { inner: self, flight: slot.flight.take(), is_at_risk: false })
    }
}

/// Says what is to be done about failures.
struct Verdicts<'a, K, V, E> {
    settings: &'a Settings<K, V, E>,
    rng: Rng,
}

impl<K, V, E> Verdicts<'_, K, V, E> {
    /// How long to wait after so many failures in a row.
    fn delay(&mut self, failures: u32) -> u64 {
        self.settings.backoff.delay(failures, &mut self.rng).map_or(MINUTE, saturating_nanos)
    }

    fn failed(&mut self, item: &Item<K, V>, error: &Error<E>, alone: bool) -> Fate {
        let failed = item.failed.saturating_add(1);
        let next = self.settings.backoff.next_delay(failed, &mut self.rng).map(saturating_nanos);
        let is_permanent = match (error, &self.settings.give_up_when) {
            (Error::Inner(error), Some(is_permanent)) => is_permanent(error),
            _ => false,
        };
        let give_up = match (&self.settings.dead_letters, next) {
            (None, _) => GiveUp::Never,
            _ if is_permanent => GiveUp::Now,
            (_, None) => GiveUp::IfOthersLand,
            _ => GiveUp::Never,
        };
        Fate::Failed { delay: next.unwrap_or_else(|| self.delay(failed)), alone, give_up }
    }
}

/// How each write of a batch ended, and why.
type Ends<E> = (Vec<Fate>, Vec<Option<Error<E>>>);
/// A write that can never be made, and why.
type Letter<'a, K, V, E> = (&'a Item<K, V>, Option<&'a Error<E>>);

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

/// Writes on their way to the hook. Those that do not arrive, since it panicked, are kept.
struct Dead<'a, K, V, S, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
    P: Policy<Vec<Result<(), S::Error>>, S::Error> + 'static,
{
    inner: &'a Inner<K, V, S, P>,
    letters: Vec<Letter<'a, K, V, S::Error>>,
}

impl<K, V, S, P> Dead<'_, K, V, S, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
    P: Policy<Vec<Result<(), S::Error>>, S::Error> + 'static,
{
    fn deliver(mut self) {
        while let Some((item, error)) = self.letters.last() {
            let attempts = item.failed.saturating_add(1);
            if let (Some(error), Some(hook)) = (error, &self.inner.settings.dead_letters) {
                let (key, value) = (&*item.key, item.value.as_deref());
                hook(DeadLetter { key, value, sequence: item.sequence, attempts, error });
            }
            let freed = self.inner.dirty.lock().bury(item);
            self.letters.pop();
            self.inner.free([freed]);
            let attempts = u16::try_from(attempts).unwrap_or(u16::MAX);
            self.inner.hook.emit(Event::GaveUp { attempts, why: event::GiveUp::Attempts });
        }
    }
}

impl<K, V, S, P> Drop for Dead<'_, K, V, S, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
    P: Policy<Vec<Result<(), S::Error>>, S::Error> + 'static,
{
    fn drop(&mut self) {
        for (item, _) in mem::take(&mut self.letters) {
            let now = self.inner.clock.nanos();
            let landed = self.inner.dirty.lock().revive(now, item);
            if let Landed::Freed(freed) = landed {
                self.inner.free([freed]);
            }
        }
    }
}

impl<K, V, S, P> Leader<'_, K, V, S, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
    P: Policy<Vec<Result<(), S::Error>>, S::Error> + 'static,
{
    /// Writes a batch, or waits until there is one, or until the bell has rung again.
    async fn step(&mut self, heard: u64) {
        let inner = self.inner;
        if self.flight.is_none() {
            let (now, pressed) = (inner.clock.nanos(), inner.room.waiting() > 0);
            let next = inner.dirty.lock().next(now, pressed);
            match next {
                Next::Sleep(at) => return inner.bell.wait(heard, &inner.clock, at).await,
                Next::Write(items) => {
                    let load = Arc::new(Load { items, others: Mutex::new(None) });
                    let future = Box::pin(inner.target.clone().write(load.clone()));
                    self.flight = Some(Flight { load, future });
                }
            }
        }
        let Some(flight) = &mut self.flight else { return };
        let is_at_risk = &mut self.is_at_risk;
        let written = poll_fn(|context| {
            *is_at_risk = true;
            let poll = flight.future.as_mut().poll(context);
            *is_at_risk = poll.is_ready();
            poll
        })
        .await;
        self.land(written);
        inner.bell.ring();
    }

    /// Takes note of how a batch ended.
    fn land(&mut self, written: Written<S::Error>) {
        let (inner, Some(flight)) = (self.inner, &self.flight) else { return };
        let load = flight.load.clone();
        let items = &load.items[..];
        let failures = inner.dirty.lock().failures();
        let now = inner.clock.nanos();
        let mut verdicts = Verdicts { settings: &inner.settings, rng: inner.seeds.next() };
        let (mut pause, mut whole, mut landed) = (None, false, 0);
        let pause_after =
            |verdicts: &mut Verdicts<'_, K, V, S::Error>| verdicts.delay(failures.saturating_add(1));
        let (fates, errors): Ends<S::Error> = match written {
            Ok(results) => {
                let results = items.iter().zip(results).map(|(item, result)| match result {
                    Ok(()) => {
                        landed += 1;
                        (Fate::Written, None)
                    }
                    Err(error) => {
                        let error = Error::Inner(error);
                        (verdicts.failed(item, &error, false), Some(error))
                    }
                });
                results.unzip()
            }
            Err(error) => {
                let asked = error.retry_after().map_or(0, saturating_nanos);
                pause = Some(pause_after(&mut verdicts).max(asked));
                whole = !matches!(error, Error::Rejected(_));
                if whole && items.len() == 1 {
                    (vec![verdicts.failed(&items[0], &error, true)], vec![Some(error)])
                } else {
                    let fate = if whole { Fate::Unclear } else { Fate::Untried };
                    items.iter().map(|_| (fate, None)).unzip()
                }
            }
        };
        // Nothing was written, and not because it never could be: the store may be down.
        let may_pass = |fate: &Fate| matches!(fate, Fate::Failed { give_up, .. } if *give_up != GiveUp::Now);
        if landed == 0 && pause.is_none() && fates.iter().any(may_pass) {
            pause = Some(pause_after(&mut verdicts));
        }
        let (mut freed, mut again, mut dead) = (Vec::with_capacity(landed), Vec::new(), Vec::new());
        {
            let mut dirty = inner.dirty.lock();
            let pause = pause.map(|pause| now.saturating_add(pause));
            dirty.batch_ended(landed, items.len(), pause, whole);
            for ((item, fate), error) in items.iter().zip(&fates).zip(&errors) {
                match dirty.land(now, item, *fate) {
                    Landed::Freed(free) => freed.push(free),
                    Landed::StillDirty => again.push((item, *fate)),
                    Landed::Dead => dead.push((item, error.as_ref())),
                }
            }
        }
        self.is_at_risk = false;
        let _done = self.flight.take();
        let dead = Dead { inner, letters: dead };
        inner.free(freed);
        inner.tell(&again, pause.unwrap_or(0));
        dead.deliver();
    }
}

impl<K, V, S, P> Drop for Leader<'_, K, V, S, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
{
    fn drop(&mut self) {
        let mut flight = self.flight.take();
        if self.is_at_risk {
            self.inner.crash(flight.take());
        }
        let mut slot = self.inner.slot.lock();
        slot.flight = flight;
        slot.led = false;
        drop(slot);
        self.inner.bell.ring();
    }
}

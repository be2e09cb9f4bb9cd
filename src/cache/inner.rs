//! What the verbs of a cache share: looking up, writing and telling.

use std::borrow::Borrow;
use std::hash::Hash;
use std::time::Duration;

use super::entries::{Cause, Found, Gone};
use super::stats::Count;
use super::times::Life;
use super::{Inner, TooHeavy};
use crate::clock::NEVER;
use crate::error::saturating_nanos;

/// What is known of an entry before it is written.
pub(super) struct Prepared {
    pub(super) weight: u64,
    pub(super) life: Life,
    tags: Vec<u64>,
}

impl<K: Hash + Eq, V> Inner<K, V> {
    pub(super) fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        self.seed.hash(key)
    }

    /// Whether it knows time at all; else it reads no clock.
    #[inline]
    pub(super) fn timed(&self) -> bool {
        self.entries.is_timed()
    }

    /// The time, before the end of it: what never ends outlives every clock.
    pub(super) fn now(&self) -> u64 {
        if self.timed() { self.clock.nanos().min(NEVER - 1) } else { 0 }
    }

    /// Shows a live entry to `see`, as a use of it.
    pub(super) fn look<Q, R>(&self, hash: u64, key: &Q, see: impl FnOnce(Found<'_, K, V>) -> R) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let seen = if self.timed() {
            let now = self.now();
            let judge = |found: &Found<'_, K, V>| self.settings.rules.left(found.times, now);
            self.entries.read(hash, key, judge, |found, left| {
                self.used(&found, now, left);
                see(found)
            })
        } else {
            self.entries.read(hash, key, |_| Some(()), |found, ()| see(found))
        };
        self.counts.add(if seen.is_some() { Count::Hits } else { Count::Misses });
        seen
    }

    /// Shows a live entry to `see`, quietly.
    pub(super) fn peek<Q, R>(&self, hash: u64, key: &Q, see: impl FnOnce(Found<'_, K, V>) -> R) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let now = self.now();
        let seen = self.entries.peek(hash, key, |found| self.is_live(&found, now).then(|| see(found)));
        seen.flatten()
    }

    pub(super) fn is_live(&self, found: &Found<'_, K, V>, now: u64) -> bool {
        !self.timed() || self.settings.rules.left(found.times, now).is_some()
    }

    /// What a use does to the time of an entry that was found in time.
    pub(super) fn used(&self, found: &Found<'_, K, V>, now: u64, left: u64) {
        let rules = &self.settings.rules;
        rules.used(found.times, now);
        if let Some(expiry) = self.settings.expiry.as_ref().filter(|_| rules.after_read) {
            if let Some(ttl) = expiry.after_read(found.key, found.value, duration(left)) {
                rules.live_on(found.times, now, saturating_nanos(ttl));
            }
        }
    }

    /// Writes an entry; for how long may be said. Loads of the key that run meanwhile are not kept.
    pub(super) fn insert(&self, key: K, value: V, ttl: Option<u64>) -> Result<(), TooHeavy<V>> {
        let hash = self.hash(&key);
        let entry = self.prepare(hash, &key, &value, ttl, 0);
        let (weight, life) = (entry.weight, entry.life);
        let written = self.flights.overtake(hash, || self.entries.insert(hash, key, value, weight, life));
        self.written(hash, entry, written)
    }

    /// Asks the user's code all that is to be known of an entry before it is written; if it was loaded, that took so long.
    pub(super) fn prepare(&self, hash: u64, key: &K, value: &V, ttl: Option<u64>, took: u64) -> Prepared {
        let weight = self.settings.weigher.as_ref().map_or(1, |weigh| weigh(key, value));
        let life = self.life(hash, key, value, ttl, took);
        let tags = self.settings.tags.as_ref().map_or_else(Vec::new, |tags| tags.of(key, value));
        if let Some(index) = &self.settings.tags {
            index.entered(hash, &tags);
        }
        Prepared { weight, life, tags }
    }

    /// Tells what came of it.
    pub(super) fn written(
        &self,
        hash: u64,
        entry: Prepared,
        (gone, refused): (Gone<'_, K, V>, Option<TooHeavy<V>>),
    ) -> Result<(), TooHeavy<V>> {
        self.tell(gone);
        let Some(refused) = refused else { return Ok(()) };
        self.counts.add(Count::Refused);
        self.not_written(hash, &entry);
        Err(refused)
    }

    /// Forgets an entry that was not written after all.
    pub(super) fn not_written(&self, hash: u64, entry: &Prepared) {
        if let Some(tags) = &self.settings.tags {
            tags.left(hash, &entry.tags);
        }
    }

    fn life(&self, hash: u64, key: &K, value: &V, ttl: Option<u64>, took: u64) -> Life {
        if !self.timed() {
            return Life::FOREVER;
        }
        let (now, rules) = (self.now(), &self.settings.rules);
        let negative =
            || self.settings.negative.filter(|(is_negative, _)| is_negative(value)).map(|(_, ttl)| ttl);
        let computed = || {
            let expiry = self.settings.expiry.as_ref()?;
            // How long the one before has to live is looked up before: nothing of the user's runs under a lock.
            let old = self.entries.peek(hash, key, |found| rules.left(found.times, now)).flatten();
            Some(saturating_nanos(match old {
                Some(left) => expiry.after_update(key, value, duration(left)),
                None => expiry.after_create(key, value),
            }))
        };
        rules.life(now, ttl.or_else(negative).or_else(computed).unwrap_or(rules.ttl), hash, took)
    }

    /// Why an entry leaves that is removed at `now`.
    pub(super) fn cause(&self, found: &Found<'_, K, V>, now: u64) -> Cause {
        if self.is_live(found, now) { Cause::Explicit } else { Cause::Expired }
    }

    /// Tells the listener of what has left, and lets go of it.
    pub(super) fn tell(&self, gone: Gone<'_, K, V>) {
        self.tell_of(&gone);
    }

    /// Tells the listener of what has left.
    pub(super) fn tell_of(&self, gone: &Gone<'_, K, V>) {
        gone.unseen().for_each(|(cause, count)| self.counts.add_many(count_of(cause), count));
        for (key, value, cause) in gone.iter() {
            self.counts.add(count_of(cause));
            if let Some(tags) = &self.settings.tags {
                tags.left(self.hash(key), &tags.of(key, value));
            }
        }
        // Last: should it panic, all else is done.
        if let Some(listener) = &self.settings.listener {
            gone.iter().for_each(|(key, value, cause)| listener(key, value, cause));
        }
    }
}

const fn count_of(cause: Cause) -> Count {
    match cause {
        Cause::Expired => Count::Expired,
        Cause::Size => Count::Evicted,
        Cause::Explicit => Count::Removed,
        Cause::Replaced => Count::Replaced,
    }
}

/// A time of the clock's nanoseconds, as users see it.
pub(super) const fn duration(nanos: u64) -> Duration {
    if nanos == NEVER { Duration::MAX } else { Duration::from_nanos(nanos) }
}

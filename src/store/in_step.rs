//! What one of several caches over one store knows of the others: [`InStep`].
//!
//! Whoever has written a key says so, after the store has it; who hears it removes the key. Two races are left. A load
//! that began before is overtaken by the removal, as by any other. A write of one's own that is on its way when the message
//! comes may be the older or the newer one in the store: so what it brings is not kept, and loaded when it is asked for.
//!
//! Messages carry no value, so an old one can undo nothing; at worst it costs a load. One that is known to be older than the
//! last write here does not cost that either. What is known does not rest on clocks that agree: if a later message of the
//! same origin was heard before that write began, then so had ended what the old message tells of.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::mem;

use super::bus::Message;
use crate::cache::{Cache, Invalidation};
use crate::clock::Clock;
use crate::sync::Mutex;

/// Of so many keys it is known when they were last written here. The others are removed for older messages, too.
const WRITTEN: u64 = 10_000;
/// So many messages wait to be sent at most, before they become one that says everything.
const UNSENT: usize = 1_000;
const PLACES: usize = 256;

pub(super) struct InStep<K> {
    origin: u64,
    clock: Clock,
    known: Mutex<Known>,
    /// The count of messages when the last write of a key began.
    written: Cache<K, u64>,
    /// What the bus has not taken yet.
    unsent: Mutex<Vec<Message<K>>>,
}

struct Known {
    /// The time of the last message of one's own.
    said: u64,
    /// How many messages of others were heard.
    count: u64,
    /// The count at the last message for keys of a place, and at the last one that said everything.
    places: Box<[u64]>,
    everything: u64,
    /// Of each origin the highest time that was heard, and the count then.
    origins: HashMap<u64, (u64, u64)>,
}

impl<K: Hash + Eq + Clone> InStep<K> {
    pub(super) fn new(clock: Clock) -> Self {
        let known = Known {
            said: 0,
            count: 0,
            places: vec![0; PLACES].into(),
            everything: 0,
            origins: HashMap::new(),
        };
        Self {
            origin: RandomState::new().build_hasher().finish(),
            clock,
            known: Mutex::new(known),
            written: Cache::new(WRITTEN),
            unsent: Mutex::default(),
        }
    }

    /// Hears that a write begins; what it returns is for [`is_overtaken`](Self::is_overtaken).
    pub(super) fn begin(&self) -> u64 {
        self.known.lock().count
    }

    /// Whether a message for a key came since a write of it began.
    pub(super) fn is_overtaken(&self, hash: u64, began: u64) -> bool {
        let known = self.known.lock();
        known.everything.max(known.places[hash as usize % PLACES]) > began
    }

    /// Hears that a write of a key has ended well that had begun at a count.
    pub(super) fn wrote(&self, key: &K, began: u64) {
        // A number is never too heavy.
        drop(self.written.insert(key.clone(), began));
    }

    /// Makes a message.
    pub(super) fn say(&self, what: Invalidation<K, Infallible>) -> Message<K> {
        let now = self.clock.epoch().saturating_add(self.clock.nanos());
        let mut known = self.known.lock();
        known.said = now.max(known.said + 1);
        Message::new(what, known.said, self.origin)
    }

    /// Hears a message; returns what is to be removed for it.
    pub(super) fn hear(
        &self,
        message: Message<K>,
        hash: impl FnOnce(&K) -> u64,
    ) -> Option<Invalidation<K, Infallible>> {
        let Message { what, time, origin } = message;
        if origin == self.origin {
            return None;
        }
        let key = match &what {
            Invalidation::Key(key) => Some((hash(key), self.written.peek(key))),
            Invalidation::Everything => None,
            Invalidation::Tag(never) => match *never {},
        };
        let mut known = self.known.lock();
        known.count += 1;
        let count = known.count;
        let latest = known.origins.entry(origin).or_insert((0, count));
        let (heard, at) = *latest;
        if time > heard {
            *latest = (time, count);
        }
        match key {
            Some((_, Some(began))) if time <= heard && began >= at => return None,
            Some((hash, _)) => known.places[hash as usize % PLACES] = count,
            None => known.everything = count,
        }
        drop(known);
        Some(what)
    }

    /// Hears that messages may have been lost.
    pub(super) fn lose(&self) {
        let mut known = self.known.lock();
        known.count += 1;
        known.everything = known.count;
        let origins = mem::take(&mut known.origins);
        drop(known);
        drop(origins);
    }

    /// Keeps a message that the bus did not take. Of each key the last one is enough, and one that says everything is
    /// enough for all: whoever hears it does so after what it is to tell of.
    pub(super) fn keep(&self, message: Message<K>) {
        // What is no longer needed, to be dropped after the lock.
        let mut gone = Vec::new();
        let mut unsent = self.unsent.lock();
        let says_everything = |message: &Message<K>| message.what == Invalidation::Everything;
        if unsent.iter().any(says_everything) {
            gone.push(message);
        } else if let Some(other) = unsent.iter_mut().find(|other| other.what == message.what) {
            gone.push(mem::replace(other, message));
        } else {
            if unsent.len() == UNSENT || says_everything(&message) {
                gone = mem::take(&mut *unsent);
                unsent.push(Message::new(Invalidation::Everything, message.time, self.origin));
            } else {
                unsent.push(message);
            }
        }
        drop(unsent);
        drop(gone);
    }

    /// Returns a message that waits to be sent.
    pub(super) fn next_unsent(&self) -> Option<Message<K>> {
        self.unsent.lock().first().cloned()
    }

    /// Forgets a message that was sent.
    pub(super) fn sent(&self, message: &Message<K>) {
        let mut unsent = self.unsent.lock();
        let place = unsent.iter().position(|other| other.time == message.time);
        let gone = place.map(|place| unsent.remove(place));
        drop(unsent);
        drop(gone);
    }

    pub(super) fn unsent(&self) -> usize {
        self.unsent.lock().len()
    }
}

//! Where entries lie: [`Slot`]s, and what is kept beside them.
#![expect(unsafe_code, reason = "what a slot holds comes and goes behind shared references")]

use std::mem::MaybeUninit;

use super::super::evict::{Node, Nodes};
use super::chunks::{Chunks, Zero};
use crate::cache::times::{Life, MOST_WORDS, Times};
use crate::cache::wheel::{Links, UNLINKED};
use crate::sync::{AtomicU32, AtomicU64, Guarded, Ordering};

/// One entry, or room for one.
///
/// The lock of its shard, or being the last who knows of it, gives the right to fill and to empty it. Others may look at what
/// it holds while it is named in their lane, and was in the table after that.
pub(super) struct Slot<K, V> {
    pub(super) node: Node,
    content: Content<K, V>,
}

struct Content<K, V>(Guarded<MaybeUninit<(K, V)>>);

// SAFETY: through a shared slot others get shared references to key and value (so both must be `Sync`), and may take
// out what another thread has put in (so both must be `Send`).
unsafe impl<K: Send + Sync, V: Send + Sync> Sync for Content<K, V> {}

impl<K, V> Default for Slot<K, V> {
    fn default() -> Self {
        Self { node: Node::new(), content: Content(Guarded::new(MaybeUninit::uninit())) }
    }
}

// SAFETY: a node is integers, and what is not filled may be anything.
unsafe impl<K, V> Zero for Slot<K, V> {}

impl<K, V> Slot<K, V> {
    /// Fills an empty slot.
    ///
    /// # Safety
    ///
    /// Nobody else fills, empties or looks at it meanwhile.
    #[inline]
    pub(super) unsafe fn fill(&self, key: K, value: V) {
        // SAFETY: the caller is alone with it. What was there was taken out or never was.
        self.content.0.with_mut(|content| unsafe { content.write(MaybeUninit::new((key, value))) });
    }

    /// Takes out what it holds.
    ///
    /// # Safety
    ///
    /// It is filled, and nobody else fills, empties or looks at it meanwhile. It counts as empty then.
    #[inline]
    pub(super) unsafe fn empty(&self) -> (K, V) {
        // SAFETY: the caller is alone with it and it is filled.
        self.content.0.with_mut(|content| unsafe { (*content).assume_init_read() })
    }

    /// Looks at what it holds.
    ///
    /// # Safety
    ///
    /// It is filled, and stays so while `see` runs.
    #[inline]
    pub(super) unsafe fn see<R>(&self, see: impl FnOnce(&K, &V) -> R) -> R {
        self.content.0.with(|content| {
            // SAFETY: the caller says that it is filled and stays so.
            let (key, value) = unsafe { (*content).assume_init_ref() };
            see(key, value)
        })
    }

    /// Returns what it holds for as long as the caller vouches for.
    ///
    /// # Safety
    ///
    /// It is filled, and stays so while the references are used.
    pub(super) unsafe fn content(&self) -> (&K, &V) {
        self.content.0.with(|content| {
            // SAFETY: the caller says that it is filled and stays so.
            let (key, value) = unsafe { (*content).assume_init_ref() };
            (key, value)
        })
    }

    /// What a reader names.
    #[inline]
    pub(super) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// The slots of a shard, and beside them only what was asked for. Number 0 is none.
pub(super) struct Slots<K, V> {
    slots: Chunks<Slot<K, V>>,
    weights: Option<Box<Chunks<AtomicU64>>>,
    times: Option<Box<Chunks<Clocked>>>,
    words: usize,
}

/// What is kept beside an entry of a cache that knows time. The links are stored inverted, so that 0 is none.
#[derive(Default)]
struct Clocked {
    words: [AtomicU64; MOST_WORDS],
    next: AtomicU32,
    previous: AtomicU32,
}

const _: () = assert!(UNLINKED == u32::MAX);

// SAFETY: integers.
unsafe impl Zero for Clocked {}

impl<K, V> Slots<K, V> {
    pub(super) const MOST: u32 = Chunks::<AtomicU64>::MOST - 1;

    /// `expected` is how many there will be on average, or 0.
    pub(super) fn new(expected: u32, is_weighted: bool, words: usize) -> Self {
        // Somewhat more, but no such room for those who say no limit in large numbers.
        let first = if expected > 1 << 16 { 0 } else { expected };
        let first = first + first / 32 + first.isqrt();
        Self {
            slots: Chunks::new(first),
            weights: is_weighted.then(|| Box::new(Chunks::new(first))),
            times: (words > 0).then(|| Box::new(Chunks::new(first))),
            words,
        }
    }

    /// Makes room for a slot; under the lock.
    pub(super) fn make(&self, slot: u32) {
        self.slots.make(slot);
        if let Some(weights) = &self.weights {
            weights.make(slot);
        }
        if let Some(times) = &self.times {
            times.make(slot);
        }
    }

    #[inline]
    pub(super) fn get(&self, slot: u32) -> &Slot<K, V> {
        self.slots.get(slot)
    }

    #[inline]
    pub(super) fn times(&self, slot: u32) -> Times<'_> {
        Times(self.times.as_ref().map_or(&[], |times| &times.get(slot).words[..self.words]))
    }

    pub(super) fn is_timed(&self) -> bool {
        self.words > 0
    }

    /// Forgets where an entry stood in a wheel that is no more.
    pub(super) fn unlink(&self, slot: u32) {
        if self.is_timed() {
            Links::set_next(self, slot, UNLINKED);
            Links::set_previous(self, slot, UNLINKED);
        }
    }

    fn clocked(&self, slot: u32) -> &Clocked {
        self.times.as_ref().expect("only what knows time has a wheel").get(slot)
    }

    /// Sets what is kept beside a slot.
    pub(super) fn set(&self, slot: u32, weight: u64, life: Life) {
        if let Some(weights) = &self.weights {
            weights.get(slot).store(weight, Ordering::Relaxed);
        }
        if let Some(times) = &self.times {
            for (word, time) in times.get(slot).words.iter().zip(life.words) {
                word.store(time, Ordering::Relaxed);
            }
        }
    }

    /// Returns how many bytes the first so many take.
    pub(super) fn memory(&self, slots: u32) -> usize {
        let weights =
            self.weights.as_ref().map_or(0, |weights| size_of_val(&**weights) + weights.memory(slots));
        let times = self.times.as_ref().map_or(0, |times| size_of_val(&**times) + times.memory(slots));
        self.slots.memory(slots) + weights + times
    }
}

impl<K, V> Nodes for Slots<K, V> {
    fn node(&self, id: u32) -> &Node {
        &self.get(id).node
    }

    fn weight(&self, id: u32) -> u64 {
        self.weights.as_ref().map_or(1, |weights| weights.get(id).load(Ordering::Relaxed))
    }
}

impl<K, V> Links for Slots<K, V> {
    fn deadline(&self, id: u32) -> u64 {
        self.times(id).expires()
    }

    fn next(&self, id: u32) -> u32 {
        !self.clocked(id).next.load(Ordering::Relaxed)
    }

    fn previous(&self, id: u32) -> u32 {
        !self.clocked(id).previous.load(Ordering::Relaxed)
    }

    fn set_next(&self, id: u32, next: u32) {
        self.clocked(id).next.store(!next, Ordering::Relaxed);
    }

    fn set_previous(&self, id: u32, previous: u32) {
        self.clocked(id).previous.store(!previous, Ordering::Relaxed);
    }
}

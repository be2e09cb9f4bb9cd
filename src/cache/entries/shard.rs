//! A part of the entries, changed under its lock and read without: [`Shard`].
//!
//! A look-up finds a cell, names the slot in its lane, and looks at the cell again. If it still stands there, in the table
//! that is still the shard's, then whoever takes it out later finds the slot named. So what is taken out is free
//! after the next scan that does not find it named; nobody waits for that. Tables that have grown are freed alike.
//!
//! A look-up that meets moving cells may miss its own: the version tells, and it looks again.
#![expect(unsafe_code, reason = "slots and tables are shared by the rules above, which loom checks")]

use std::borrow::Borrow;
use std::ptr;

use super::Found;
use super::locked::Locked;
use super::slots::{Slot, Slots};
use super::state::{Chain, State};
use super::table::{self, Table};
use crate::cache::evict::{Core, Node};
use crate::lanes::{self, Hold};
use crate::short::{Short, ShortGuard};
use crate::sync::{AtomicPtr, AtomicU64, Ordering, fence};

/// What a shard shares. Processors fetch lines in pairs.
#[repr(align(128))]
pub(super) struct Shard<K, V> {
    pub(super) table: AtomicPtr<Table>,
    /// Odd while cells move.
    pub(super) version: AtomicU64,
    pub(super) slots: Slots<K, V>,
    pub(super) writers: Writers,
}

/// On lines of its own: readers do not look at it.
#[repr(align(128))]
pub(super) struct Writers {
    state: Short<State>,
    /// Room of what has been dropped since the lock was last held.
    pub(super) returned: AtomicU64,
    /// What the entries in the table weigh and how many there are; changed under the lock.
    pub(super) weight: AtomicU64,
    pub(super) len: AtomicU64,
}

impl<K, V> Shard<K, V> {
    /// How often a look-up goes on without the lock.
    const TRIES: usize = 16;

    pub(super) fn new(order: Core, expected: Option<u64>, is_weighted: bool, words: usize) -> Self {
        let expected = expected.map_or(0, |expected| expected.min(Slots::<K, V>::MOST.into()) as u32);
        let homes = table::first_size(expected);
        let table = Box::new(Table::new(homes, 8, homes * 2));
        Self {
            table: AtomicPtr::new(Box::into_raw(table)),
            version: AtomicU64::new(0),
            slots: Slots::new(expected, is_weighted, words),
            writers: Writers {
                state: Short::new(State {
                    order,
                    lesson: 0,
                    wheel: None,
                    slots: 0,
                    free: 0,
                    fresh: Chain::default(),
                    young: Chain::default(),
                    stamp: 0,
                    ripe: Chain::default(),
                    cleared: Vec::new(),
                    outgrown: Vec::new(),
                    is_outgrown_new: false,
                    most: table::most(homes),
                    expected,
                    credit: 0,
                    owed: 0,
                }),
                returned: AtomicU64::new(0),
                weight: AtomicU64::new(0),
                len: AtomicU64::new(0),
            },
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.writers.len.load(Ordering::Relaxed)
    }

    pub(super) fn weight(&self) -> u64 {
        self.writers.weight.load(Ordering::Relaxed)
    }

    /// Gives back the room of what was dropped.
    pub(super) fn give_back(&self, weight: u64) {
        self.writers.returned.fetch_add(weight, Ordering::Relaxed);
    }

    #[inline]
    fn lock_state(&self) -> ShortGuard<'_, State> {
        self.writers.state.lock()
    }

    /// Finds the slot of a hash that `is` says it is, and names it. It stays filled as long as `hold` names it.
    #[inline]
    fn seek<'a>(
        &'a self,
        hold: &Hold,
        hash: u32,
        mut is: impl FnMut(u32, &Slot<K, V>) -> bool,
    ) -> Option<(u32, &'a Slot<K, V>)> {
        for _ in 0..Self::TRIES {
            let version = self.version.load(Ordering::Acquire);
            let found = self.table.load(Ordering::Acquire);
            // SAFETY: it was the shard's table when this thread was already reading, so it is freed after `hold` ends.
            let table = unsafe { &*found };
            // The last one that was looked at, unless its cell has changed meanwhile.
            let mut seen = None;
            let cell = table.find(hash, |cell| {
                let slot = self.slots.get(cell.slot);
                hold.name(slot.address());
                let is_there =
                    table.word(cell.at) == cell.word && ptr::eq(self.table.load(Ordering::Acquire), found);
                seen = is_there.then_some((cell.slot, slot));
                !is_there || is(cell.slot, slot)
            });
            match (cell, seen) {
                (Some(_), Some(seen)) => return Some(seen),
                (Some(_), None) => {}
                (None, _) => {
                    // Cells were acquired: if one has moved, the version says so.
                    fence(Ordering::Acquire);
                    if version % 2 == 0 && self.version.load(Ordering::Relaxed) == version {
                        return None;
                    }
                }
            }
        }
        self.seek_locked(hold, hash, is)
    }

    /// Cells that move all the time do not under the lock.
    #[cold]
    #[inline(never)]
    fn seek_locked<'a>(
        &'a self,
        hold: &Hold,
        hash: u32,
        mut is: impl FnMut(u32, &Slot<K, V>) -> bool,
    ) -> Option<(u32, &'a Slot<K, V>)> {
        let locked = self.lock();
        let cell = locked.table().find(hash, |cell| is(cell.slot, self.slots.get(cell.slot)))?;
        let slot = self.slots.get(cell.slot);
        hold.name(slot.address());
        Some((cell.slot, slot))
    }

    /// Shows the entry of a key to `see`, without the lock.
    #[inline]
    pub(super) fn look<Q, R>(
        &self,
        hash: u32,
        key: &Q,
        see: impl FnOnce(u32, &Node, Found<'_, K, V>) -> R,
    ) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let hold = lanes::hold();
        let (number, slot) = self.seek(&hold, hash, |_, slot| {
            // SAFETY: it is named, and was in the table after that: nobody empties it.
            unsafe { slot.see(|known, _| known.borrow() == key) }
        })?;
        Some(self.show(number, slot, see))
    }

    /// Shows the entry in a slot to `see`, if it is in the table with this hash.
    pub(super) fn look_at<R>(
        &self,
        hash: u32,
        number: u32,
        see: impl FnOnce(u32, &Node, Found<'_, K, V>) -> R,
    ) -> Option<R> {
        self.look_for(hash, |slot| slot == number, see)
    }

    /// Shows an entry of a hash in a slot that `is` says it is.
    pub(super) fn look_for<R>(
        &self,
        hash: u32,
        is: impl Fn(u32) -> bool,
        see: impl FnOnce(u32, &Node, Found<'_, K, V>) -> R,
    ) -> Option<R> {
        let hold = lanes::hold();
        let (number, slot) = self.seek(&hold, hash, |at, slot| slot.node.hash() == hash && is(at))?;
        Some(self.show(number, slot, see))
    }

    /// Shows a slot that is named and was in the table after that.
    #[inline]
    fn show<R>(
        &self,
        number: u32,
        slot: &Slot<K, V>,
        see: impl FnOnce(u32, &Node, Found<'_, K, V>) -> R,
    ) -> R {
        let (times, heat) = (self.slots.times(number), slot.node.uses().into());
        // SAFETY: it is named, and was in the table after that: nobody empties it.
        unsafe { slot.see(|key, value| see(number, &slot.node, Found { key, value, times, heat })) }
    }

    /// Counts a use of an entry that is named, where the order is exact.
    pub(super) fn reuse(&self, slot: u32) {
        let mut locked = self.lock();
        if locked.find_slot(slot).is_some() {
            locked.state.order.reuse(&self.slots, slot);
        }
    }

    /// Takes the lock.
    #[inline]
    pub(super) fn lock(&self) -> Locked<'_, K, V> {
        Locked { shard: self, state: self.lock_state() }
    }

    pub(super) fn memory(&self) -> usize {
        let locked = self.lock();
        let outgrown: usize = locked.state.outgrown.iter().map(|(_, table)| table.memory()).sum();
        size_of::<Self>()
            + locked.table().memory()
            + outgrown
            + self.slots.memory(locked.state.slots + 1)
            + locked.state.order.memory()
    }
}

impl<K, V> Drop for Shard<K, V> {
    fn drop(&mut self) {
        let mut locked = self.lock();
        let mut filled: Vec<u32> = locked.table().slots().collect();
        let slots = &self.slots;
        filled.extend(std::iter::from_fn(|| locked.pop_cleared().map(|(slot, _)| slot)));
        let state = &mut *locked.state;
        filled.extend(std::iter::from_fn(|| state.fresh.pop(slots)));
        filled.extend(std::iter::from_fn(|| state.young.pop(slots)));
        filled.extend(std::iter::from_fn(|| state.ripe.pop(slots)));
        drop(locked);
        // SAFETY: it came out of a box, and nobody reads any more.
        drop(unsafe { Box::from_raw(self.table.load(Ordering::Relaxed)) });
        let mut rest = Filled { slots, numbers: filled };
        while rest.drop_one() {}
    }
}

/// Slots that nobody else has any more. If one of the values panics when it is dropped, the others are dropped all the
/// same.
struct Filled<'a, K, V> {
    slots: &'a Slots<K, V>,
    numbers: Vec<u32>,
}

impl<K, V> Filled<'_, K, V> {
    fn drop_one(&mut self) -> bool {
        let Some(slot) = self.numbers.pop() else { return false };
        // SAFETY: it is filled, it is not among the numbers any more, and nobody else has the shard.
        drop(unsafe { self.slots.get(slot).empty() });
        true
    }
}

impl<K, V> Drop for Filled<'_, K, V> {
    fn drop(&mut self) {
        while self.drop_one() {}
    }
}

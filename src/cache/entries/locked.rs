//! What changes a shard: [`Locked`].
#![expect(unsafe_code, reason = "slots and tables are shared by the rules of shards, which loom checks")]

use std::borrow::Borrow;
use std::mem::needs_drop;

use super::New;
use super::shard::{Shard, Writers};
use super::slots::Slots;
use super::state::{Chain, Cleared, State};
use super::table::{self, Cell, Table};
use crate::cache::evict::{NIL, Nodes};
use crate::cache::wheel::Wheel;
use crate::clock::NEVER;
use crate::lanes;
use crate::short::ShortGuard;
use crate::sync::{AtomicPtr, Ordering, fence};

/// A table that some may still read: no box before they have ended, since a box is alone with what it holds.
pub(super) struct Outgrown(AtomicPtr<Table>);

impl Outgrown {
    pub(super) fn memory(&self) -> usize {
        // SAFETY: it is freed with `self`, and nobody changes it.
        unsafe { &*self.0.load(Ordering::Relaxed) }.memory()
    }
}

impl Drop for Outgrown {
    fn drop(&mut self) {
        // SAFETY: it came out of a box. It is dropped when all who read it have ended, or with the shard.
        drop(unsafe { Box::from_raw(self.0.load(Ordering::Relaxed)) });
    }
}

/// A shard whose lock is held.
pub(super) struct Locked<'a, K, V> {
    pub(super) shard: &'a Shard<K, V>,
    pub(super) state: ShortGuard<'a, State>,
}

impl<'a, K, V> Locked<'a, K, V> {
    #[inline]
    pub(super) fn table(&self) -> &Table {
        // SAFETY: tables change under the lock, and the shard's own one is not freed.
        unsafe { &*self.shard.table.load(Ordering::Relaxed) }
    }

    /// Finds the cell of a key, or the free one where it would be. Runs the key's `Eq`.
    pub(super) fn search<Q>(&self, hash: u32, key: &Q) -> Result<Cell, usize>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.table().search(hash, |cell| {
            // SAFETY: it is in the table, and the lock is held: nobody empties it.
            unsafe { self.shard.slots.get(cell.slot).see(|known, _| known.borrow() == key) }
        })
    }

    /// Finds the cell of a slot.
    #[inline]
    pub(super) fn find_slot(&self, slot: u32) -> Option<Cell> {
        self.table().find_slot(self.shard.slots.get(slot).node.hash(), slot)
    }

    /// Puts in a slot whose key is not there, at the free cell that a search for it ended at.
    #[inline]
    pub(super) fn put(&mut self, hash: u32, at: usize, slot: u32) {
        if !self.table().put(hash, at, slot) {
            self.lengthen(hash, slot);
        }
        self.count(1, self.shard.slots.weight(slot), 0, 0);
    }

    /// Puts a slot in the place of one with the same hash, which is out of the table then.
    #[inline]
    pub(super) fn replace(&mut self, cell: Cell, slot: u32) {
        self.table().replace(cell, slot);
        let slots = &self.shard.slots;
        self.count(1, slots.weight(slot), 1, slots.weight(cell.slot));
    }

    /// Takes an entry out of the table.
    pub(super) fn remove(&mut self, cell: Cell) {
        let version = &self.shard.version;
        let slots = &self.shard.slots;
        let even = version.load(Ordering::Relaxed);
        let moves = || {
            version.store(even + 1, Ordering::Relaxed);
            // Whoever sees a moved cell sees the odd version.
            fence(Ordering::Release);
        };
        if self.table().remove(cell.at, moves, |slot| slots.get(slot).node.hash()) {
            version.store(even + 2, Ordering::Release);
        }
        self.count(0, 0, 1, slots.weight(cell.slot));
    }

    /// Takes all entries out of the table, in constant time. They wait to be swept, and take room as before.
    #[inline(never)]
    pub(super) fn clear(&mut self, now: u64) {
        let (len, weight) = (self.len(), self.shard.weight());
        if len == 0 {
            return;
        }
        let lists = self.state.order.clear();
        let lists = lists.into_iter().filter(|first| *first != NIL).map(|first| Cleared { first, at: now });
        self.state.cleared.extend(lists);
        self.state.wheel = None;
        let homes = table::first_size(self.state.expected);
        let table = Table::new(homes, 8, self.most(homes));
        self.exchange(table);
        self.state.most = table::most(homes);
        self.count(0, 0, len, weight);
    }

    /// Whether there is something that was cleared.
    #[inline]
    pub(super) fn has_cleared(&self) -> bool {
        !self.state.cleared.is_empty()
    }

    /// Returns an entry that was cleared, and when; now it is in no list.
    pub(super) fn pop_cleared(&mut self) -> Option<(u32, u64)> {
        let slots = &self.shard.slots;
        let Cleared { first: slot, at } = *self.state.cleared.last()?;
        let node = &slots.get(slot).node;
        match (node.next(), self.state.cleared.last_mut()) {
            (NIL, _) => _ = self.state.cleared.pop(),
            (next, list) => list?.first = next,
        }
        node.set_place(0);
        slots.unlink(slot);
        Some((slot, at))
    }

    fn count(&self, more: u64, heavier: u64, less: u64, lighter: u64) {
        let Writers { weight, len, .. } = &self.shard.writers;
        len.store(len.load(Ordering::Relaxed) + more - less, Ordering::Relaxed);
        // What comes and what leaves may be more than a number holds, together.
        let all = weight.load(Ordering::Relaxed).wrapping_add(heavier).wrapping_sub(lighter);
        weight.store(all, Ordering::Relaxed);
    }

    pub(super) fn len(&self) -> u64 {
        self.shard.len()
    }

    /// Sees to it that there is a free slot, and a place in the table. To be called before a cell is looked for: cells may move.
    #[inline]
    pub(super) fn reserve(&mut self) {
        if self.state.free == 0 {
            self.make();
        }
        if self.len() >= self.state.most {
            self.grow();
        }
    }

    /// Makes one more slot.
    #[inline(never)]
    fn make(&mut self) {
        let (slots, number) = (&self.shard.slots, self.state.slots + 1);
        slots.make(number);
        slots.get(number).node.set_next(0);
        self.state.slots = number;
        self.state.free = number;
        if number > self.table().most() {
            self.renew(self.table().homes(), self.table().tail());
        }
    }

    /// Fills the slot that was reserved, of which nobody knows, and returns it.
    #[inline]
    pub(super) fn fill(&mut self, hash: u32, new: New<K, V>) -> u32 {
        let New { key, value, weight, life } = new;
        let (slots, number) = (&self.shard.slots, self.state.free);
        let slot = slots.get(number);
        self.state.free = slot.node.next();
        slot.node.renew(hash);
        slots.set(number, weight, life);
        if life.words[0] != NEVER && slots.is_timed() {
            let wheel = self.state.wheel.get_or_insert_with(|| Wheel::new(life.now));
            wheel.schedule(slots, number);
        }
        // SAFETY: it was free, so it is empty and in no table, and nobody looks at it.
        unsafe { slot.fill(key, value) };
        number
    }

    /// Hands over what an entry that has left holds: to be dropped when no reader names it any more.
    #[inline]
    pub(super) fn retire(&mut self, slot: u32) {
        self.unschedule(slot);
        self.state.fresh.push(&self.shard.slots, slot);
    }

    /// Takes an entry out of the wheel.
    #[inline]
    pub(super) fn unschedule(&mut self, slot: u32) {
        if let Some(wheel) = &mut self.state.wheel {
            wheel.deschedule(&self.shard.slots, slot);
        }
    }

    /// How many wait for a scan.
    pub(super) fn young(&self) -> u32 {
        self.state.young.len + self.state.fresh.len
    }

    /// Learns what the last scan has found. To be called before anything is taken out under this lock.
    #[inline]
    pub(super) fn ripen(&mut self) {
        let state = &*self.state;
        let is_due = if state.young.len > 0 { lanes::scanned() > state.stamp } else { state.fresh.len > 0 };
        if is_due || !state.outgrown.is_empty() {
            self.ripen_all();
        }
    }

    #[inline(never)]
    fn ripen_all(&mut self) {
        if self.state.young.len == 0 {
            // Taken out under this lock before it was taken again.
            self.stamp(lanes::stamp());
        } else if lanes::scanned() > self.state.stamp {
            self.ripen_young();
        }
        if !self.state.outgrown.is_empty() {
            let quiet = lanes::quiet();
            self.state.outgrown.retain(|(stamp, _)| *stamp >= quiet);
        }
    }

    fn ripen_young(&mut self) {
        let slots = &self.shard.slots;
        let state = &mut *self.state;
        let mut young = std::mem::take(&mut state.young);
        let mut ripe = Chain::default();
        lanes::with_named(|is_named| match is_named {
            None => ripe = young,
            Some(is_named) => {
                while let Some(slot) = young.pop(slots) {
                    let chain =
                        if is_named(slots.get(slot).address()) { &mut state.young } else { &mut ripe };
                    chain.push(slots, slot);
                }
            }
        });
        if needs_drop::<(K, V)>() {
            state.ripe.append(slots, &mut ripe);
        } else {
            // Nothing of the user's runs when it is dropped, so it is dropped here.
            state.set_free(slots, ripe);
        }
        if self.young() > 0 {
            self.stamp(lanes::stamp());
        }
    }

    fn stamp(&mut self, stamp: u64) {
        let state = &mut *self.state;
        state.young.append(&self.shard.slots, &mut state.fresh);
        state.stamp = stamp;
    }

    /// Lets the next scan that begins be told of all, also of what was just taken out.
    pub(super) fn stamp_now(&mut self) {
        if self.state.fresh.len > 0 {
            self.stamp(lanes::stamp_now());
        }
    }

    /// Empties a slot that nobody names any more, and returns what it held and weighed.
    pub(super) fn reap(&mut self) -> Option<((K, V), u64)> {
        let slots = &self.shard.slots;
        let slot = self.state.ripe.pop(slots)?;
        // SAFETY: it is filled, out of the table since before a scan, and the scan did not find it named: nobody
        // looks at it. The lock keeps others from emptying it.
        let content = unsafe { slots.get(slot).empty() };
        slots.get(slot).node.set_next(self.state.free);
        self.state.free = slot;
        Some((content, slots.weight(slot)))
    }

    /// Takes the room that was given back.
    #[inline]
    pub(super) fn collect(&mut self) {
        let returned = &self.shard.writers.returned;
        // Read first: it is mostly nothing.
        if returned.load(Ordering::Relaxed) > 0 {
            self.state.credit += returned.swap(0, Ordering::Relaxed);
        }
    }

    /// Takes so much of the shard's room, or what there is.
    pub(super) fn spend(&mut self, wanted: u64) -> u64 {
        let spent = wanted.min(self.state.credit);
        self.state.credit -= spent;
        spent
    }

    /// Returns the slots of all entries, and their hashes.
    pub(super) fn all(&self) -> Vec<(u32, u32)> {
        let hash = |slot| self.shard.slots.get(slot).node.hash();
        self.table().slots().map(|slot| (slot, hash(slot))).collect()
    }

    /// Returns the slots of all entries with a hash.
    pub(super) fn all_of(&self, hash: u32) -> Vec<u32> {
        let mut all = Vec::new();
        self.table().find(hash, |cell| {
            if self.shard.slots.get(cell.slot).node.hash() == hash {
                all.push(cell.slot);
            }
            false
        });
        all
    }

    /// Makes a table with more homes.
    #[cold]
    fn grow(&mut self) {
        let more = table::next_size(self.table().homes(), self.state.expected);
        self.renew(more, more.clamp(8, 1024));
        self.state.most = table::most(more);
    }

    /// Puts a slot into a table with a longer tail, for many entries with nearly the same hash.
    #[cold]
    fn lengthen(&mut self, hash: u32, slot: u32) {
        while !self.table().add(hash, slot) {
            self.renew(self.table().homes(), self.table().tail() * 2);
        }
    }

    fn renew(&mut self, homes: u32, mut tail: u32) {
        let slots = &self.shard.slots;
        let table = loop {
            let table = Table::new(homes, tail, self.most(homes));
            let mut all = self.table().slots();
            if all.all(|slot| table.add(slots.get(slot).node.hash(), slot)) {
                break table;
            }
            tail *= 2;
        };
        self.exchange(table);
    }

    /// For how many slots a table has to have numbers.
    fn most(&self, homes: u32) -> u32 {
        let most = (homes + homes / 4).max(self.state.slots + self.state.slots / 4) + 64;
        most.min(Slots::<K, V>::MOST)
    }

    /// Puts a table in place of the one that there is, which others may still read.
    fn exchange(&mut self, table: Table) {
        self.state.outgrown.reserve(1);
        let outgrown = self.shard.table.swap(Box::into_raw(Box::new(table)), Ordering::AcqRel);
        // A reader of the old one may have missed what the new one has.
        let version = self.shard.version.load(Ordering::Relaxed);
        self.shard.version.store(version + 2, Ordering::Release);
        self.state.outgrown.push((lanes::stamp_now(), Outgrown(AtomicPtr::new(outgrown))));
        self.state.is_outgrown_new = true;
    }

    /// Whether a table was outgrown since this was asked last.
    pub(super) fn is_outgrown_new(&mut self) -> bool {
        std::mem::take(&mut self.state.is_outgrown_new)
    }
}

//! What changes a shard: [`Locked`].
#![expect(unsafe_code, reason = "slots and tables are shared by the rules of shards, which loom checks")]

use std::borrow::Borrow;
use std::ptr;

use super::shard::{Shard, Writers};
use super::slots::Slots;
use super::state::{Cleared, State};
use super::table::{self, Cell, Table};
use crate::cache::evict::{NIL, Nodes};
use crate::cache::times::Life;
use crate::cache::wheel::Wheel;
use crate::clock::NEVER;
use crate::lanes;
use crate::sync::{AtomicPtr, MutexGuard, Ordering, fence};

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
    pub(super) state: MutexGuard<'a, State>,
}

impl<'a, K, V> Locked<'a, K, V> {
    #[inline]
    pub(super) fn table(&self) -> &Table {
        // SAFETY: tables change under the lock, and the shard's own one is not freed.
        unsafe { &*self.shard.table.load(Ordering::Relaxed) }
    }

    /// Finds the cell of a key. Runs the key's `Eq`.
    pub(super) fn find<Q>(&self, hash: u32, key: &Q) -> Option<Cell>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.table().find(hash, |cell| {
            // SAFETY: it is in the table, and the lock is held: nobody empties it.
            unsafe { self.shard.slots.get(cell.slot).see(|known, _| known.borrow() == key) }
        })
    }

    /// Finds the cell of a slot.
    pub(super) fn find_slot(&self, slot: u32) -> Option<Cell> {
        let hash = self.shard.slots.get(slot).node.hash();
        self.table().find(hash, |cell| cell.slot == slot)
    }

    /// Puts in an entry whose key is not there.
    pub(super) fn put(&mut self, hash: u32, key: K, value: V, weight: u64, life: Life) -> u32 {
        let slot = self.fill(hash, key, value, weight, life);
        if self.len() >= u64::from(self.table().homes()) * 4 / 5 || !self.table().put(hash, slot) {
            self.grow();
            while !self.table().put(hash, slot) {
                self.lengthen();
            }
        }
        self.count(1, weight, 0, 0);
        slot
    }

    /// Puts a new entry in the place of one with the same hash, which is out of the table then. Returns the new slot.
    pub(super) fn replace(
        &mut self,
        hash: u32,
        cell: Cell,
        key: K,
        value: V,
        weight: u64,
        life: Life,
    ) -> u32 {
        let old = self.shard.slots.weight(cell.slot);
        let before = ptr::from_ref(self.table());
        let slot = self.fill(hash, key, value, weight, life);
        let moved = if ptr::eq(before, self.table()) { None } else { self.find_slot(cell.slot) };
        self.table().replace(moved.unwrap_or(cell), slot);
        self.count(1, weight, 1, old);
        slot
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

    /// Fills a slot that nobody knows of.
    fn fill(&mut self, hash: u32, key: K, value: V, weight: u64, life: Life) -> u32 {
        let slots = &self.shard.slots;
        let number = self.state.free.pop(slots).unwrap_or_else(|| {
            let number = self.state.slots + 1;
            slots.make(number);
            self.state.slots = number;
            number
        });
        if number > self.table().most() {
            self.renew(self.table().homes(), self.table().tail());
        }
        let slot = slots.get(number);
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
    pub(super) fn retire(&mut self, slot: u32) {
        self.unschedule(slot);
        self.state.fresh.push(&self.shard.slots, slot);
        let pending = self.state.pending;
        self.state.pending = pending.wrapping_add(self.shard.slots.weight(slot));
    }

    /// Takes an entry out of the wheel.
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
        if self.state.young.len > 0 {
            if lanes::scanned() > self.state.stamp {
                self.ripen_all();
            }
        } else if self.state.fresh.len > 0 {
            // Taken out under this lock before it was taken again.
            self.stamp(lanes::stamp());
        }
        if !self.state.outgrown.is_empty() {
            let quiet = lanes::quiet();
            self.state.outgrown.retain(|(stamp, _)| *stamp >= quiet);
        }
    }

    fn ripen_all(&mut self) {
        let slots = &self.shard.slots;
        let state = &mut *self.state;
        let mut young = std::mem::take(&mut state.young);
        lanes::with_named(|is_named| {
            while let Some(slot) = young.pop(slots) {
                let chain =
                    if is_named(slots.get(slot).address()) { &mut state.young } else { &mut state.ripe };
                chain.push(slots, slot);
            }
        });
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
        let weight = slots.weight(slot);
        self.state.pending = self.state.pending.wrapping_sub(weight);
        self.state.free.push_first(slots, slot);
        Some((content, weight))
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
    fn grow(&mut self) {
        let more = table::next_size(self.table().homes(), self.state.expected);
        self.renew(more, more.clamp(8, 1024));
    }

    /// Makes a table with a longer tail, for many entries with nearly the same hash.
    fn lengthen(&mut self) {
        self.renew(self.table().homes(), self.table().tail() * 2);
    }

    fn renew(&mut self, homes: u32, mut tail: u32) {
        let slots = &self.shard.slots;
        let table = loop {
            let table = Table::new(homes, tail, self.most(homes));
            let mut all = self.table().slots();
            if all.all(|slot| table.put(slots.get(slot).node.hash(), slot)) {
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

//! Who comes in and who has to go: room is made here.
#![expect(unsafe_code, reason = "what has left the table is handed over")]

use super::shard::{Locked, Shard};
use super::{Cause, Entries, Gone};
use crate::cache::evict::Nodes;
use crate::cache::times::Life;
use crate::lanes;
use crate::sync::back_off;

/// How many are dropped at a time: one for the entry that comes, and one to catch up.
const REAPED: usize = 2;

/// What is taken out of slots under the lock, to be dropped without it.
struct Reaped<'a, K, V> {
    contents: [Option<(K, V)>; REAPED],
    /// Dropped last, also if a value panics.
    room: Returns<'a, K, V>,
}

/// Room to be given back to a shard.
struct Returns<'a, K, V> {
    shard: &'a Shard<K, V>,
    weight: u64,
}

impl<K, V> Drop for Returns<'_, K, V> {
    fn drop(&mut self) {
        if self.weight > 0 {
            self.shard.give_back(self.weight);
        }
    }
}

impl<'a, K, V> Reaped<'a, K, V> {
    fn new(shard: &'a Shard<K, V>) -> Self {
        Self { contents: [None, None], room: Returns { shard, weight: 0 } }
    }

    /// Takes out what nobody reads any more, up to so many. Returns whether there was any.
    fn reap(&mut self, locked: &mut Locked<'_, K, V>, most: usize) -> bool {
        locked.ripen();
        for place in &mut self.contents[..most] {
            let Some((content, weight)) = locked.reap() else { break };
            *place = Some(content);
            self.room.weight += weight;
        }
        self.contents[0].is_some()
    }
}

impl<K, V> Entries<K, V> {
    /// How many entries leave for one that comes, at most. What is owed then is left for the next.
    const VICTIMS: usize = 8;

    pub(super) fn is_scan_due(&self, locked: &Locked<'_, K, V>) -> bool {
        u64::from(locked.young()) > self.budget.change() || locked.has_outgrown() && locked.young() == 0
    }

    /// Finds out what is free, and drops some of a shard's: all in a small cache, where nothing waits.
    pub(super) fn scan_for(&self, shard: &Shard<K, V>) {
        lanes::scan();
        let mut reaped = Reaped::new(shard);
        let mut locked = shard.lock();
        reaped.reap(&mut locked, REAPED);
        drop(locked);
    }

    /// Lets an entry go that is out of the table.
    fn leave(
        &self,
        locked: &mut Locked<'_, K, V>,
        shard: usize,
        slot: u32,
        cause: Cause,
        gone: &mut Gone<'_, K, V>,
    ) {
        if self.is_listened {
            locked.unschedule(slot);
            // SAFETY: it came out of the table and out of the order of this shard, under its lock, just now.
            unsafe { gone.push(shard, slot, cause) };
        } else {
            gone.count(cause);
            locked.retire(slot);
        }
    }

    /// Makes entries of a shard leave whose time is over.
    pub(super) fn expire_some(
        &self,
        locked: &mut Locked<'_, K, V>,
        shard: usize,
        now: u64,
        mut budget: usize,
        gone: &mut Gone<'_, K, V>,
    ) {
        let slots = &self.shards[shard].slots;
        while let Some(slot) =
            locked.state.wheel.as_mut().and_then(|wheel| wheel.pop(slots, now, &mut budget))
        {
            if let Some(cell) = locked.find_slot(slot) {
                locked.remove(cell);
                locked.state.order.remove(slots, slot);
                self.leave(locked, shard, slot, Cause::Expired, gone);
            }
        }
    }

    /// Makes one entry leave. Returns what it weighs.
    fn evict(&self, locked: &mut Locked<'_, K, V>, shard: usize, gone: &mut Gone<'_, K, V>) -> Option<u64> {
        let slots = &self.shards[shard].slots;
        let slot = locked.state.order.victim(slots)?;
        let weight = slots.weight(slot);
        if let Some(cell) = locked.find_slot(slot) {
            locked.remove(cell);
        }
        self.leave(locked, shard, slot, Cause::Size, gone);
        Some(weight)
    }

    /// Takes an entry out that the caller is looking at. False if somebody else did.
    pub(super) fn take(&self, shard: usize, slot: u32, cause: Cause, gone: &mut Gone<'_, K, V>) -> bool {
        let mut locked = self.shards[shard].lock();
        let Some(cell) = locked.find_slot(slot) else { return false };
        locked.remove(cell);
        locked.state.order.remove(&self.shards[shard].slots, slot);
        locked.unschedule(slot);
        // SAFETY: it came out of the table and out of the order of this shard, under its lock, just now.
        unsafe { gone.push(shard, slot, cause) };
        true
    }

    /// Makes room in the whole cache, with all locks free: returns so much of it.
    #[cold]
    #[inline(never)]
    fn make_room(&self, first: usize, weight: u64, gone: &mut Gone<'_, K, V>) -> u64 {
        self.budget.fill();
        let mut got = self.budget.take(weight);
        for _ in 0..Self::ROUNDS {
            // First what is free already, then what a scan finds free, at last what has to leave for it.
            if self.gather(first, weight, &mut got) > 0 && got < weight {
                lanes::scan();
                self.gather(first, weight, &mut got);
            }
            if got < weight {
                if self.drive_out(first, weight - got, gone) > 0 {
                    lanes::scan();
                } else {
                    // Others look at what there is, or are about to drop it.
                    back_off();
                }
                self.gather(first, weight, &mut got);
            }
            if got >= weight {
                return got;
            }
        }
        // One entry a thread.
        self.budget.overdraw(weight - got);
        weight
    }

    const ROUNDS: usize = 8;

    /// Takes what was given back; debts are paid first.
    #[inline]
    fn collect(&self, locked: &mut Locked<'_, K, V>) {
        locked.collect();
        let debt = self.budget.debt();
        if debt > 0 {
            let paid = locked.spend(debt);
            self.budget.give(paid);
        }
    }

    /// The numbers of all shards, beginning with one of them.
    fn shards_from(&self, first: usize) -> impl Iterator<Item = usize> {
        let shards = self.shards.len();
        (0..shards).map(move |next| (first + next) % shards)
    }

    /// Drops what nobody reads any more, and collects room, until there is enough. Returns how many still wait for a scan.
    fn gather(&self, first: usize, weight: u64, got: &mut u64) -> u32 {
        let mut young = 0;
        for number in self.shards_from(first) {
            let shard = &self.shards[number];
            let mut has_reaped = true;
            while has_reaped {
                let mut reaped = Reaped::new(shard);
                let mut locked = shard.lock();
                self.collect(&mut locked);
                *got += locked.spend(weight.saturating_sub(*got));
                if *got >= weight {
                    return young;
                }
                has_reaped = reaped.reap(&mut locked, 1);
                if !has_reaped {
                    young += locked.young();
                }
            }
            *got += self.budget.take(weight.saturating_sub(*got));
        }
        young
    }

    /// Makes entries leave that weigh so much, if there are any. Returns how many did.
    fn drive_out(&self, first: usize, weight: u64, gone: &mut Gone<'_, K, V>) -> u64 {
        let (mut left, mut count) = (weight, 0);
        for number in self.shards_from(first) {
            let mut more = true;
            while more && left > 0 {
                let mut locked = self.shards[number].lock();
                for _ in 0..Self::VICTIMS {
                    let Some(weight) = self.evict(&mut locked, number, gone) else {
                        more = false;
                        break;
                    };
                    left = left.saturating_sub(weight);
                    count += 1;
                    if left == 0 {
                        break;
                    }
                }
            }
        }
        count
    }
}

impl<K: Eq, V> Entries<K, V> {
    /// Puts an entry into its shard.
    #[allow(clippy::too_many_arguments, reason = "an entry and where it goes")]
    pub(super) fn admit(
        &self,
        number: usize,
        hash: u32,
        key: K,
        value: V,
        weight: u64,
        life: Life,
        gone: &mut Gone<'_, K, V>,
    ) {
        let shard = &self.shards[number];
        let slots = &shard.slots;
        let mut spare = 0;
        let (locked, reaped) = loop {
            let mut reaped = Reaped::new(shard);
            let mut locked = shard.lock();
            // In a small cache two are too many.
            reaped.reap(&mut locked, if self.budget.change() == 0 { 1 } else { REAPED });
            self.collect(&mut locked);
            locked.state.credit += std::mem::take(&mut spare);
            if locked.state.credit < weight {
                let missing = weight - locked.state.credit;
                locked.state.credit += self.budget.take(missing);
            }
            if locked.state.credit >= weight {
                break (locked, reaped);
            }
            drop(locked);
            drop(reaped);
            spare = self.make_room(number, weight, gone);
        };
        // Moved in this order, so that the lock is released before anything is dropped, also if a key's `Eq` panics.
        let _reaped = reaped;
        let mut locked = locked;
        self.expire_some(&mut locked, number, life.now, 4, gone);
        let mut cell = locked.find(hash, &key);
        locked.state.credit -= weight;
        let replaced = cell.map_or(0, |cell| slots.weight(cell.slot));
        locked.state.owed = locked.state.owed.saturating_add(weight).saturating_sub(replaced);
        if locked.state.owed > 0 {
            if self.budget.is_short(locked.state.pending) {
                if self.budget.is_thin(locked.state.pending.saturating_add(locked.state.credit)) {
                    locked.state.owed = locked.state.owed.saturating_add(weight);
                }
                for _ in 0..Self::VICTIMS {
                    let owed = locked.state.owed;
                    if owed == 0 {
                        break;
                    }
                    let Some(left) = self.evict(&mut locked, number, gone) else { break };
                    locked.state.owed = owed.saturating_sub(left);
                }
                cell = cell.and_then(|cell| locked.find_slot(cell.slot));
            } else {
                locked.state.owed = 0;
            }
        }
        match cell {
            Some(cell) => {
                let slot = locked.replace(hash, cell, key, value, weight, life);
                locked.state.order.replace(slots, cell.slot, slot);
                slots.get(slot).node.touch();
                let was_over = slots.times(cell.slot).is_over(life.now);
                let cause = if was_over { Cause::Expired } else { Cause::Replaced };
                self.leave(&mut locked, number, cell.slot, cause, gone);
            }
            None => {
                let slot = locked.put(hash, key, value, weight, life);
                locked.state.order.admit(slots, slot);
            }
        }
        let excess = locked.state.credit.saturating_sub(2 * self.budget.change());
        if excess > 0 {
            let paid = locked.spend(excess);
            self.budget.give(paid);
        }
        let is_due = self.is_scan_due(&locked);
        drop(locked);
        if is_due {
            self.scan_for(shard);
        }
    }

    /// Changes how much there may be. What is too much leaves.
    pub(in crate::cache) fn set_capacity(&self, capacity: u64) -> Gone<'_, K, V> {
        let mut gone = Gone::new(self);
        self.budget.resize(capacity);
        let mut has_evicted = true;
        while self.weight() > capacity && has_evicted {
            has_evicted = false;
            for (number, shard) in self.shards.iter().enumerate() {
                let mut locked = shard.lock();
                for _ in 0..Self::VICTIMS {
                    if self.weight() <= capacity || self.evict(&mut locked, number, &mut gone).is_none() {
                        break;
                    }
                    has_evicted = true;
                }
            }
        }
        self.tidy();
        gone
    }

    /// Drops what has left and gives the room back to all.
    pub(in crate::cache) fn tidy(&self) {
        lanes::scan();
        for shard in &self.shards {
            loop {
                let mut reaped = Reaped::new(shard);
                let mut locked = shard.lock();
                locked.collect();
                let room = locked.spend(u64::MAX);
                self.budget.give(room);
                if !reaped.reap(&mut locked, 1) {
                    break;
                }
            }
        }
    }
}

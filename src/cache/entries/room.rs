//! Who comes in and who has to go: room is made here.
#![expect(unsafe_code, reason = "what has left the table is handed over")]

use super::locked::Locked;
use super::shard::Shard;
use super::{Cause, Entries, Gone};
use crate::cache::evict::Nodes;
use crate::cache::times::Life;
use crate::lanes;

/// How many are dropped at a time: one for the entry that comes, and one to catch up.
const REAPED: usize = 2;

/// What was taken out of slots under a lock, to be dropped without any, and the room to be given back then.
pub(super) struct Reaped<'a, K, V> {
    contents: [Option<(K, V)>; REAPED],
    /// Dropped last, also if a value panics.
    room: Returns<'a, K, V>,
}

/// Room to be given back to a shard.
struct Returns<'a, K, V> {
    shard: Option<&'a Shard<K, V>>,
    weight: u64,
}

impl<K, V> Drop for Returns<'_, K, V> {
    fn drop(&mut self) {
        if let Some(shard) = self.shard.take() {
            shard.give_back(self.weight);
        }
    }
}

impl<'a, K, V> Reaped<'a, K, V> {
    pub(super) const fn none() -> Self {
        Self { contents: [None, None], room: Returns { shard: None, weight: 0 } }
    }

    /// Takes out what nobody reads any more, up to so many; once. Returns whether there was any.
    fn reap(&mut self, shard: &'a Shard<K, V>, locked: &mut Locked<'_, K, V>, most: usize) -> bool {
        locked.ripen();
        for place in &mut self.contents[..most] {
            let Some((content, weight)) = locked.reap() else { break };
            *place = Some(content);
            self.room.shard = Some(shard);
            self.room.weight += weight;
        }
        self.room.shard.is_some()
    }
}

impl<K, V> Entries<K, V> {
    /// How many entries leave for one that comes, at most. What is owed then is left for the next.
    const VICTIMS: usize = 8;
    /// How many a clear lets go of at once; the writes that follow do the rest.
    const SWEPT: usize = 1024;

    /// Whether a shard has waited long enough to be told what is free.
    pub(super) fn is_scan_due(&self, locked: &mut Locked<'_, K, V>) -> bool {
        let is_due = u64::from(locked.young()) > self.budget.change() || locked.is_outgrown_new();
        if is_due {
            locked.stamp_now();
        }
        is_due
    }

    /// Finds out what is free, and drops some of a shard's: all in a small cache, where nothing waits.
    pub(super) fn scan_for(&self, shard: usize) {
        lanes::scan();
        let shard = &self.shards[shard];
        let mut reaped = Reaped::none();
        reaped.reap(shard, &mut shard.lock(), REAPED);
    }

    /// Pays what was taken and not there, by dropping what nobody reads any more.
    pub(super) fn settle(&self, first: usize) {
        self.budget.balance();
        if self.budget.debt() > 0 && self.drop_some(first) > 0 {
            lanes::scan();
            self.drop_some(first);
        }
    }

    /// Drops what nobody reads any more, until all is paid. Returns how many wait for a scan if it is not.
    fn drop_some(&self, first: usize) -> u32 {
        let mut young = 0;
        for number in self.shards_from(first) {
            let shard = &self.shards[number];
            loop {
                let mut reaped = Reaped::none();
                let mut locked = shard.lock();
                self.collect(&mut locked);
                if self.budget.debt() == 0 {
                    return 0;
                }
                if !reaped.reap(shard, &mut locked, 1) {
                    locked.stamp_now();
                    young += locked.young();
                    break;
                }
            }
        }
        young
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

    /// Makes up to so many leave of those that were cleared. Returns whether there are more.
    pub(super) fn sweep_some(
        &self,
        locked: &mut Locked<'_, K, V>,
        shard: usize,
        budget: &mut usize,
        gone: &mut Gone<'_, K, V>,
    ) -> bool {
        while *budget > 0 {
            let Some((slot, at)) = locked.pop_cleared() else { return false };
            *budget -= 1;
            let was_over = self.shards[shard].slots.times(slot).is_over(at);
            let cause = if was_over { Cause::Expired } else { Cause::Explicit };
            self.leave(locked, shard, slot, cause, gone);
        }
        locked.has_cleared()
    }

    /// Makes entries of a shard leave that were cleared or whose time is over.
    pub(super) fn expire_some(
        &self,
        locked: &mut Locked<'_, K, V>,
        shard: usize,
        now: u64,
        mut budget: usize,
        gone: &mut Gone<'_, K, V>,
    ) {
        if locked.has_cleared() {
            self.sweep_some(locked, shard, &mut budget, gone);
        }
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

    /// Makes room in the whole cache, with no lock of it held: returns so much of it.
    ///
    /// Nothing is dropped here, since what is dropped runs code of the user's. What waits to be dropped is lent, and the debt
    /// is paid when the caller lets go of `gone`: one entry a thread.
    #[cold]
    #[inline(never)]
    fn make_room(&self, first: usize, weight: u64, gone: &mut Gone<'_, K, V>) -> u64 {
        self.budget.fill();
        let mut got = self.budget.take(weight);
        let mut pending = 0u64;
        for number in self.shards_from(first) {
            if got >= weight {
                return got;
            }
            let mut locked = self.shards[number].lock();
            self.collect(&mut locked);
            got += locked.spend(weight - got);
            // What was cleared goes before what is there.
            while locked.has_cleared() {
                let waiting = pending.saturating_add(locked.state.pending);
                if waiting >= weight.saturating_sub(got).saturating_add(self.budget.debt()) {
                    break;
                }
                self.sweep_some(&mut locked, number, &mut Self::VICTIMS.clone(), gone);
                drop(locked);
                got += self.budget.take(weight.saturating_sub(got));
                locked = self.shards[number].lock();
            }
            pending = pending.saturating_add(locked.state.pending);
        }
        // What others have borrowed will be paid by what waits.
        let wanted = weight.saturating_sub(got).saturating_add(self.budget.debt()).saturating_sub(pending);
        self.drive_out(first, wanted, gone);
        got += self.budget.take(weight.saturating_sub(got));
        if got < weight {
            self.budget.overdraw(weight - got);
            gone.owe();
        }
        got.max(weight)
    }

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

    /// Makes entries leave that weigh so much, if there are any.
    fn drive_out(&self, first: usize, mut left: u64, gone: &mut Gone<'_, K, V>) {
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
                    if left == 0 {
                        return;
                    }
                }
            }
        }
    }
}

impl<K: Eq, V> Entries<K, V> {
    /// Puts an entry into its shard. Runs no code of a user's but `Eq` of keys.
    #[allow(clippy::too_many_arguments, reason = "an entry and where it goes")]
    pub(super) fn admit<'a>(
        &'a self,
        number: usize,
        hash: u32,
        key: K,
        value: V,
        weight: u64,
        life: Life,
        gone: &mut Gone<'a, K, V>,
    ) {
        let shard = &self.shards[number];
        let slots = &shard.slots;
        let mut locked = shard.lock();
        // In a small cache two are too many.
        let most = if self.budget.change() == 0 { 1 } else { REAPED };
        gone.reaped.reap(shard, &mut locked, most);
        self.collect(&mut locked);
        if locked.state.credit < weight {
            let missing = weight - locked.state.credit;
            locked.state.credit += self.budget.take(missing);
        }
        if locked.state.credit < weight {
            // The room of the one that it replaces is as good as free.
            let missing = weight - locked.state.credit;
            let freed = locked.find(hash, &key).map_or(0, |cell| slots.weight(cell.slot)).min(missing);
            if freed > 0 {
                self.budget.overdraw(freed);
                gone.owe();
                locked.state.credit += freed;
            }
        }
        if locked.state.credit < weight {
            let missing = weight - locked.state.credit;
            let kept = locked.spend(u64::MAX);
            drop(locked);
            let room = self.make_room(number, missing, gone);
            locked = shard.lock();
            locked.state.credit += room + kept;
        }
        if let Some(lessons) =
            self.lessons.as_ref().filter(|lessons| lessons.version() != locked.state.lesson)
        {
            locked.state.lesson = lessons.version();
            locked.state.order.choose(lessons.choice());
        }
        self.expire_some(&mut locked, number, life.now, 4, gone);
        let mut cell = locked.find(hash, &key);
        locked.state.credit -= weight;
        let replaced = cell.map_or(0, |cell| slots.weight(cell.slot));
        locked.state.owed = locked.state.owed.saturating_add(weight).saturating_sub(replaced);
        if locked.state.owed > 0 {
            // What was cleared is swept little by little, and nothing has to leave for that.
            if !locked.has_cleared() && self.budget.is_short(locked.state.pending) {
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
        if self.is_scan_due(&mut locked) {
            gone.due = Some(number as u16);
        }
    }

    /// Changes how much there may be. What is too much leaves; to be tidied up after it.
    pub(in crate::cache) fn set_capacity(&self, capacity: u64) -> Gone<'_, K, V> {
        let mut gone = Gone::new(self);
        self.budget.resize(capacity);
        for (number, shard) in self.shards.iter().enumerate() {
            while self.sweep_some(&mut shard.lock(), number, &mut Self::SWEPT.clone(), &mut gone) {}
        }
        loop {
            // Summed up once a round: there may be many shards.
            let mut excess = self.weight().saturating_sub(capacity);
            let mut has_evicted = false;
            for (number, shard) in self.shards.iter().enumerate() {
                let mut locked = shard.lock();
                for _ in 0..Self::VICTIMS {
                    if excess == 0 {
                        break;
                    }
                    let Some(left) = self.evict(&mut locked, number, &mut gone) else { break };
                    excess = excess.saturating_sub(left);
                    has_evicted = true;
                }
            }
            if !has_evicted {
                return gone;
            }
        }
    }

    /// Takes all entries out of the table at once, and makes some of them leave. Returns them, and whether those are all.
    #[cold]
    #[inline(never)]
    pub(in crate::cache) fn clear(&self, now: u64) -> (Gone<'_, K, V>, bool) {
        let mut gone = Gone::new(self);
        self.shards.iter().for_each(|shard| shard.lock().clear(now));
        let mut is_all = true;
        for (number, shard) in self.shards.iter().enumerate() {
            let mut budget = Self::SWEPT.div_ceil(self.shards.len());
            is_all &= !self.sweep_some(&mut shard.lock(), number, &mut budget, &mut gone);
        }
        (gone, is_all)
    }

    /// Drops what has left and gives the room back to all.
    pub(in crate::cache) fn tidy(&self) {
        self.shards.iter().for_each(|shard| shard.lock().stamp_now());
        lanes::scan();
        for shard in &self.shards {
            loop {
                let mut reaped = Reaped::none();
                let mut locked = shard.lock();
                locked.collect();
                let room = locked.spend(u64::MAX);
                self.budget.give(room);
                if !reaped.reap(shard, &mut locked, REAPED) {
                    break;
                }
            }
        }
    }
}

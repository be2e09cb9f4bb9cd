//! What a queue is under its lock: the items, and who waits at either end.
//!
//! Why nothing is lost: an item stays in the queue until the one who pops it is polled. Who waits for an item is granted
//! *one of* those that are there, as a number of reserved items, and may leave without taking anything along. Who waits
//! for room leaves the item here, from where whoever makes room moves it in; so a pusher that is dropped takes back an item
//! that is still outside, and one that is inside stays there.

use std::collections::VecDeque;
use std::task::Waker;

use super::Overflow;
pub(super) use super::effects::{Effects, Look, PushLook, Pushed, Taken};
use crate::clock::NEVER;
use crate::discipline::{Drain, Entry, Ordered, Threshold};
use crate::error::Reason;
use crate::event::DropReason;
use crate::slab::Slab;

#[derive(Debug)]
pub(super) struct State<T> {
    pub(super) store: Store<T>,
    pub(super) capacity: usize,
    pub(super) max_weight: u64,
    pub(super) threshold: Option<Box<Threshold>>,
    pub(super) drain: Drain,
    pub(super) is_closed: bool,
    pub(super) counts: Counts,
    /// How many items are promised to poppers that were woken. Fewer may be there, if some were dropped meanwhile.
    reserved: usize,
    pub(super) poppers: Slab<Popper>,
    pub(super) pushers: Slab<Pusher<T>>,
    /// The number of the next item that comes in.
    seq: u64,
    /// The number of the item at the front of a plain store.
    front: u64,
    /// One item whose time inside is measured, where not all are: its number, and when it came.
    probe: (u64, u64),
}

#[derive(Debug)]
pub(super) enum Store<T> {
    /// First in, first out, and nothing else.
    Plain(VecDeque<T>),
    Ordered(Box<Ordered<T>>),
}

/// Who waits for an item.
#[derive(Debug)]
pub(super) struct Popper {
    pub(super) waker: Option<Waker>,
    is_granted: bool,
}

/// Who waits for room.
#[derive(Debug)]
pub(super) struct Pusher<T> {
    /// `None` once it is inside.
    entry: Option<Entry<T>>,
    pub(super) waker: Option<Waker>,
    refused: Option<Reason>,
}

/// Every item that came in or was refused is counted in one of these, and in the length.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) pushed: u64,
    pub(super) popped: u64,
    pub(super) refused: u64,
    pub(super) dropped: [u64; DropReason::COUNT],
}

/// Of so many items one is measured.
const SAMPLED: u64 = 64;

impl<T> State<T> {
    pub(super) const fn new(capacity: usize) -> Self {
        Self {
            store: Store::Plain(VecDeque::new()),
            capacity,
            max_weight: u64::MAX,
            threshold: None,
            drain: Drain::new(),
            is_closed: false,
            counts: Counts { pushed: 0, popped: 0, refused: 0, dropped: [0; DropReason::COUNT] },
            reserved: 0,
            poppers: Slab::new(),
            pushers: Slab::new(),
            seq: 0,
            front: 0,
            probe: (NEVER, NEVER),
        }
    }

    pub(super) fn len(&self) -> usize {
        match &self.store {
            Store::Plain(items) => items.len(),
            Store::Ordered(items) => items.len(),
        }
    }

    pub(super) fn weight(&self) -> u64 {
        match &self.store {
            Store::Plain(items) => items.len() as u64,
            Store::Ordered(items) => items.weight(),
        }
    }

    /// Puts an item into a plain store with room, at which nobody waits to push; else gives it back. Returns whom to wake.
    #[inline]
    pub(super) fn push_plain(&mut self, item: T) -> Result<Option<Waker>, T> {
        let Store::Plain(items) = &mut self.store else { return Err(item) };
        if items.len() >= self.capacity || self.pushers.queued() > 0 || self.is_closed {
            return Err(item);
        }
        items.push_back(item);
        self.seq += 1;
        self.counts.pushed += 1;
        if self.poppers.queued() == 0 {
            return Ok(None);
        }
        let mut effects = Effects::<T>::none();
        self.grant(&mut effects);
        Ok(effects.waker)
    }

    /// Takes an item that is promised to nobody from a plain store at which nobody waits to push.
    #[inline]
    pub(super) fn pop_plain(&mut self) -> Option<Taken<T>> {
        let Store::Plain(items) = &mut self.store else { return None };
        // Closed, the last one has others to wake.
        if items.len() <= self.reserved || self.pushers.queued() > 0 || self.is_closed {
            return None;
        }
        let item = items.pop_front()?;
        if items.is_empty() {
            self.drain.idle();
        }
        let seq = self.front;
        self.front += 1;
        self.counts.popped += 1;
        Some(Taken { item, since: self.measured(seq) })
    }

    /// Returns whether the item that came in last is one to measure.
    #[inline]
    pub(super) const fn wants_probe(&self) -> bool {
        self.seq % SAMPLED == 1 && self.probe.0 == NEVER
    }

    /// Notes when the newest item came, unless it has left already.
    pub(super) fn set_probe(&mut self, seq: u64, now: u64) {
        if self.probe.0 == NEVER && seq >= self.front && self.len() > 0 {
            self.probe = (seq, now);
        }
    }

    pub(super) const fn newest(&self) -> u64 {
        self.seq - 1
    }

    #[inline]
    fn measured(&mut self, seq: u64) -> u64 {
        if seq != self.probe.0 {
            return NEVER;
        }
        std::mem::replace(&mut self.probe, (NEVER, NEVER)).1
    }

    /// Puts an item in, makes room for it, or says why not; `waits` if its pusher would wait.
    pub(super) fn push(
        &mut self,
        entry: Entry<T>,
        now: u64,
        overflow: Overflow,
        waits: bool,
        effects: &mut Effects<T>,
    ) -> Pushed<T> {
        if let Some(reason) = self.refuses(&entry, now) {
            self.counts.refused += 1;
            return Pushed::Refused(entry, reason);
        }
        if !self.bars(&entry) && self.fits(&entry) {
            self.put(entry);
            self.grant(effects);
            return Pushed::In;
        }
        match overflow {
            Overflow::Wait if waits => return Pushed::Full(entry),
            Overflow::Wait | Overflow::Reject => {}
            Overflow::DropNewest => {
                self.counts.pushed += 1;
                self.drop_item(entry.item, DropReason::Newest, effects);
                return Pushed::In;
            }
            Overflow::DropOldest | Overflow::DropLowest => {
                while !self.fits(&entry) {
                    let (victim, why) = match &mut self.store {
                        Store::Plain(items) => {
                            let seq = self.front;
                            self.front += 1;
                            (
                                items.pop_front().map(|item| Entry { seq, ..Entry::plain(item) }),
                                DropReason::Oldest,
                            )
                        }
                        Store::Ordered(items) if overflow == Overflow::DropLowest => {
                            (items.evict_lowest(entry.priority), DropReason::Lowest)
                        }
                        Store::Ordered(items) => (items.evict_oldest(entry.priority), DropReason::Oldest),
                    };
                    let Some(victim) = victim else { break };
                    self.measured(victim.seq);
                    self.drop_item(victim.item, why, effects);
                }
                if self.fits(&entry) {
                    self.put(entry);
                    self.grant(effects);
                    return Pushed::In;
                }
            }
            Overflow::Latest => {
                for item in self.drain_all() {
                    self.drop_item(item, DropReason::Superseded, effects);
                }
                self.put(entry);
                self.grant(effects);
                return Pushed::In;
            }
        }
        self.counts.refused += 1;
        Pushed::Refused(entry, Reason::QueueFull)
    }

    /// Says why an item has no chance, whether there is room or not.
    fn refuses(&mut self, entry: &Entry<T>, now: u64) -> Option<Reason> {
        if self.is_closed {
            return Some(Reason::Closed);
        }
        let Store::Ordered(items) = &self.store else { return None };
        if u64::from(entry.weight) > self.max_weight {
            return Some(Reason::TooHeavy);
        }
        if items.order.drops_expired && entry.deadline != NEVER {
            let wait = self.drain.time_for(items.ahead_of(entry.priority) + 1).unwrap_or(0);
            if now.saturating_add(wait) >= entry.deadline {
                return Some(Reason::DeadlineExceeded);
            }
        }
        let fill = items.len() as f64 / self.capacity as f64;
        let fill = fill.max(items.weight() as f64 / self.max_weight as f64);
        let admits = self.threshold.as_mut().is_none_or(|threshold| threshold.admits(entry.priority, fill));
        (!admits).then_some(Reason::Shed)
    }

    /// Returns whether somebody waits whom this item must not pass: also a light one not a heavy one.
    fn bars(&self, entry: &Entry<T>) -> bool {
        let first = self.pushers.first().and_then(|key| self.pushers.get(key)?.entry.as_ref());
        first.is_some_and(|first| self.class_of(first) <= self.class_of(entry))
    }

    fn class_of(&self, entry: &Entry<T>) -> usize {
        match &self.store {
            Store::Plain(_) => 0,
            Store::Ordered(items) => items.order.class_of(entry.priority),
        }
    }

    fn fits(&self, entry: &Entry<T>) -> bool {
        match &self.store {
            Store::Plain(items) => items.len() < self.capacity,
            Store::Ordered(items) => {
                items.len() < items.open_to(entry.priority, self.capacity)
                    && items.weight() + u64::from(entry.weight) <= self.max_weight
            }
        }
    }

    /// Puts an item in that asks for nothing, whether there is room or not.
    pub(super) fn put_plain(&mut self, item: T) {
        self.put(Entry::plain(item));
        self.counts.pushed -= 1;
    }

    /// Refuses those who wait with an item that would never fit any more.
    pub(super) fn refuse_too_heavy(&mut self, effects: &mut Effects<T>) {
        let mut next = self.pushers.first();
        while let Some(key) = next {
            next = self.pushers.after(key);
            let Some(pusher) = self.pushers.get_mut(key) else { return };
            let weight = pusher.entry.as_ref().map_or(0, |entry| entry.weight);
            if u64::from(weight) > self.max_weight {
                pusher.refused = Some(Reason::TooHeavy);
                effects.wake(pusher.waker.take());
                self.pushers.unqueue(key);
                self.counts.refused += 1;
            }
        }
    }

    fn put(&mut self, mut entry: Entry<T>) {
        entry.seq = self.seq;
        self.seq += 1;
        self.counts.pushed += 1;
        match &mut self.store {
            Store::Plain(items) => items.push_back(entry.item),
            Store::Ordered(items) => items.push(entry),
        }
    }

    fn drop_item(&mut self, item: T, why: DropReason, effects: &mut Effects<T>) {
        self.counts.dropped[why as usize] += 1;
        effects.dropped.push((item, why));
    }

    /// Takes an item that is promised to nobody.
    pub(super) fn pop(&mut self, now: u64, effects: &mut Effects<T>) -> Option<Taken<T>> {
        loop {
            if self.len() <= self.reserved {
                return None;
            }
            let taken = self.take(now, effects);
            self.settle(now, effects);
            if taken.is_some() {
                return taken;
            }
        }
    }

    /// Returns whether nothing is inside and nothing will come.
    pub(super) fn is_over(&self) -> bool {
        self.is_closed && self.len() == 0
    }

    fn take(&mut self, now: u64, effects: &mut Effects<T>) -> Option<Taken<T>> {
        let taken = match &mut self.store {
            Store::Plain(items) => items.pop_front().map(|item| {
                self.front += 1;
                (item, self.front - 1, NEVER)
            }),
            Store::Ordered(items) => {
                let counts = &mut self.counts;
                let entry = items.pop(now, |entry, why| {
                    counts.dropped[why as usize] += 1;
                    effects.dropped.push((entry.item, why));
                });
                let is_timed = items.order.needs_time();
                entry.map(|entry| (entry.item, entry.seq, if is_timed { entry.at } else { NEVER }))
            }
        };
        if self.len() == 0 {
            self.drain.idle();
        }
        let (item, seq, at) = taken?;
        self.counts.popped += 1;
        let probed = self.measured(seq);
        if at != NEVER && self.counts.popped % 16 == 0 {
            self.drain.sample(now, self.counts.popped);
        }
        Some(Taken { item, since: if at == NEVER { probed } else { at } })
    }

    /// Moves in those who wait for room and have it now, and promises what is inside to those who wait for it.
    pub(super) fn settle(&mut self, now: u64, effects: &mut Effects<T>) {
        while let Some(key) = self.pushers.first() {
            let fits = self.pushers.get(key).and_then(|pusher| pusher.entry.as_ref());
            if !fits.is_some_and(|entry| self.fits(entry)) {
                break;
            }
            self.pushers.unqueue(key);
            let Some(pusher) = self.pushers.get_mut(key) else { break };
            let (entry, waker) = (pusher.entry.take(), pusher.waker.take());
            if let Some(mut entry) = entry {
                // What it waited outside is not the queue's.
                entry.at = now;
                self.put(entry);
            }
            effects.wake(waker);
        }
        self.grant(effects);
        if self.is_over() {
            self.wake_poppers(effects);
        }
    }

    fn grant(&mut self, effects: &mut Effects<T>) {
        while self.len() > self.reserved {
            let Some(key) = self.poppers.first() else { return };
            self.poppers.unqueue(key);
            let Some(popper) = self.poppers.get_mut(key) else { return };
            popper.is_granted = true;
            self.reserved += 1;
            effects.wake(popper.waker.take());
        }
    }

    fn wake_poppers(&mut self, effects: &mut Effects<T>) {
        let mut next = self.poppers.first();
        while let Some(key) = next {
            effects.wake(self.poppers.get_mut(key).and_then(|popper| popper.waker.take()));
            next = self.poppers.after(key);
        }
    }

    pub(super) fn join_poppers(&mut self, waker: Option<Waker>) -> usize {
        self.poppers.push_back(Popper { waker, is_granted: false })
    }

    /// Lets a waiting popper look; puts `waker` in place of its own one if it must go on waiting.
    pub(super) fn look(
        &mut self,
        key: usize,
        now: u64,
        waker: &mut Option<Waker>,
        effects: &mut Effects<T>,
    ) -> Look<T> {
        let Some(popper) = self.poppers.get_mut(key) else { return Look::Closed };
        if popper.is_granted {
            self.poppers.remove(key);
            self.reserved -= 1;
            loop {
                let taken = self.take(now, effects);
                self.settle(now, effects);
                if let Some(taken) = taken {
                    return Look::Taken(taken);
                }
                if self.len() <= self.reserved {
                    break;
                }
            }
            if self.is_over() {
                return Look::Closed;
            }
            // All that was there has been dropped: it keeps its place at the head of the line.
            let first = self.poppers.first();
            let popper = Popper { waker: waker.take(), is_granted: false };
            return Look::NotYet(self.poppers.push_before(first, popper));
        }
        if self.is_over() {
            effects.unused = self.poppers.remove(key).and_then(|popper| popper.waker);
            return Look::Closed;
        }
        std::mem::swap(&mut self.poppers.get_mut(key).expect("found above").waker, waker);
        Look::NotYet(key)
    }

    /// Takes a popper out that has waited long enough; what it was granted it may still take.
    pub(super) fn leave_poppers(&mut self, key: usize, effects: &mut Effects<T>) -> Option<Waker> {
        let popper = self.poppers.remove(key)?;
        if popper.is_granted {
            self.reserved -= 1;
            self.grant(effects);
        }
        popper.waker
    }

    /// Adds a pusher in its place: behind those of its class and of better ones.
    pub(super) fn join_pushers(&mut self, entry: Entry<T>, waker: Waker) -> usize {
        let class = self.class_of(&entry);
        let (mut next, mut last) = (None, self.pushers.last());
        while let Some(key) = last {
            let other = self.pushers.get(key).and_then(|pusher| pusher.entry.as_ref());
            if other.is_none_or(|other| self.class_of(other) <= class) {
                break;
            }
            (next, last) = (Some(key), self.pushers.before(key));
        }
        let pusher = Pusher { entry: Some(entry), waker: Some(waker), refused: None };
        self.pushers.push_before(next, pusher)
    }

    /// Lets a waiting pusher look; puts `waker` in place of its own one if it must go on waiting.
    pub(super) fn look_pusher(&mut self, key: usize, waker: &mut Option<Waker>) -> PushLook<T> {
        let Some(pusher) = self.pushers.get_mut(key) else { return PushLook::In };
        match (&pusher.entry, pusher.refused) {
            (None, _) => {
                self.pushers.remove(key);
                PushLook::In
            }
            (Some(_), None) => {
                std::mem::swap(&mut pusher.waker, waker);
                PushLook::NotYet
            }
            (Some(_), Some(reason)) => match self.pushers.remove(key).and_then(|pusher| pusher.entry) {
                Some(entry) => PushLook::Refused(entry.item, reason),
                None => PushLook::In,
            },
        }
    }

    /// Takes a pusher out; with its item, if that is still outside.
    pub(super) fn leave_pushers(
        &mut self,
        key: usize,
        now: u64,
        effects: &mut Effects<T>,
    ) -> (Option<T>, Option<Waker>) {
        let Some(pusher) = self.pushers.remove(key) else { return (None, None) };
        // With the first one gone, the second may fit.
        self.settle(now, effects);
        (pusher.entry.map(|entry| entry.item), pusher.waker)
    }

    /// Lets nothing in any more. Pushers that wait are refused; poppers get what is left.
    pub(super) fn close(&mut self, effects: &mut Effects<T>) {
        self.is_closed = true;
        while let Some(key) = self.pushers.first() {
            self.pushers.unqueue(key);
            let Some(pusher) = self.pushers.get_mut(key) else { break };
            pusher.refused = Some(Reason::Closed);
            self.counts.refused += 1;
            effects.wake(pusher.waker.take());
        }
        if self.len() == 0 {
            self.wake_poppers(effects);
        }
    }

    /// Takes out all that is inside, also what is promised.
    pub(super) fn drain_all(&mut self) -> Vec<T> {
        self.probe = (NEVER, NEVER);
        self.drain.idle();
        self.front = self.seq;
        match &mut self.store {
            Store::Plain(items) => items.drain(..).collect(),
            Store::Ordered(items) => std::iter::from_fn(|| items.pop_any()).map(|entry| entry.item).collect(),
        }
    }
}

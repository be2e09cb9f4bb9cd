//! What a queue is under its lock: its items, and who waits at either end.
//!
//! Why nothing is lost: an item stays in the queue until the one who pops it is polled. Who waits for an item is woken for
//! *one of* those that are there, and may leave without taking anything along: then the next one is woken for it. Who waits
//! for room leaves the item here, from where whoever makes room moves it in; so a pusher that is dropped takes back an item
//! that is still outside, and one that is inside stays there.
//!
//! Who pops without waiting may be quicker than the one who was woken, who then finds nothing and stands first in line
//! again. Were it kept for him, each item would have to wait until a thread or task has been started again, while others run
//! that could take it at once.

use std::task::Waker;

use super::Overflow;
use super::effects::{Effects, Look, PushLook, Pushed, Taken};
use super::items::Items;
use super::wanted::Wanted;
use crate::discipline::{Entry, Threshold};
use crate::error::Reason;
use crate::event::DropReason;
use crate::slab::Slab;

#[derive(Debug)]
#[repr(C)]
pub(super) struct State<T> {
    pub(super) items: Items<T>,
    pub(super) is_closed: bool,
    /// Poppers are woken newest first.
    pub(super) wakes_newest: bool,
    /// How many poppers were woken for an item and have not come yet.
    granted: usize,
    pub(super) poppers: Slab<Popper>,
    pub(super) pushers: Slab<Pusher<T>>,
    pub(super) threshold: Option<Box<Threshold>>,
    pub(super) wanted: Option<Wanted<T>>,
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

impl<T> State<T> {
    pub(super) const fn new(capacity: usize) -> Self {
        Self {
            items: Items::new(capacity),
            threshold: None,
            is_closed: false,
            wanted: None,
            wakes_newest: false,
            granted: 0,
            poppers: Slab::new(),
            pushers: Slab::new(),
        }
    }

    /// Says anew whether pushes and pops have it easy. It ends whatever changes what that depends on.
    pub(super) fn reopen(&mut self) {
        self.items.open = if self.is_easy() { self.items.capacity } else { 0 };
    }

    /// Returns whether a push has to look at the room only, and a pop at who is next: nobody waits whom a push must not
    /// pass, or whom a pop lets in. Closed, a push is refused, and the last pop has others to wake.
    fn is_easy(&self) -> bool {
        self.pushers.queued() == 0 && !self.is_closed && self.threshold.is_none() && self.items.is_easy()
    }

    /// Puts an item into a plain store that has room; else gives it back. Returns whom to wake.
    #[inline]
    pub(super) fn push_plain(&mut self, item: T) -> Result<Option<Waker>, T> {
        debug_assert_eq!(self.items.open > 0, self.is_easy());
        self.items.put_plain(item)?;
        Ok(if self.poppers.queued() == 0 { None } else { self.grant_one() })
    }

    /// Puts an item in if that is easy and there is room; else gives it back. Returns whom to wake.
    #[inline]
    pub(super) fn push_easily(&mut self, entry: Entry<T>) -> Result<Option<Waker>, Entry<T>> {
        debug_assert_eq!(self.items.open > 0, self.is_easy());
        self.items.put_easily(entry)?;
        Ok(if self.poppers.queued() == 0 { None } else { self.grant_one() })
    }

    /// Takes the next item of a plain store if that is easy; `None` if it is not.
    #[inline]
    pub(super) fn pop_plain(&mut self) -> Option<Option<Taken<T>>> {
        debug_assert_eq!(self.items.open > 0, self.is_easy());
        (self.items.open > 0).then(|| self.items.take_plain())
    }

    /// Takes the next item if that is easy; `None` if it is not, or there is none.
    #[inline]
    pub(super) fn pop_easily(&mut self) -> Option<Taken<T>> {
        debug_assert_eq!(self.items.open > 0, self.is_easy());
        if self.items.open > 0 { self.items.take_easily() } else { None }
    }

    /// Puts an item in, makes room for it, or says why not; `waits` if its pusher would wait.
    #[inline]
    pub(super) fn push(
        &mut self,
        entry: Entry<T>,
        now: u64,
        overflow: Overflow,
        waits: bool,
        effects: &mut Effects<T>,
    ) -> Pushed<T> {
        if let Some(reason) = self.refuses(&entry, now) {
            self.items.counts.refused += 1;
            return Pushed::Refused(entry, reason);
        }
        if !self.bars(&entry) && self.items.fits(&entry) {
            return self.let_in(entry, effects);
        }
        if self.drop_unwanted(now, effects) && !self.bars(&entry) && self.items.fits(&entry) {
            return self.let_in(entry, effects);
        }
        match overflow {
            Overflow::Wait if waits => return Pushed::Full(entry),
            Overflow::Wait | Overflow::Reject => {}
            Overflow::DropNewest => {
                self.drop_item(entry.item, DropReason::Newest, effects);
                return Pushed::In;
            }
            Overflow::DropOldest | Overflow::DropLowest => {
                if self.items.make_room(&entry, overflow, &mut effects.dropped) {
                    return self.let_in(entry, effects);
                }
            }
            Overflow::Latest => {
                for item in self.items.drain_all() {
                    self.drop_item(item, DropReason::Superseded, effects);
                }
                return self.let_in(entry, effects);
            }
        }
        self.items.counts.refused += 1;
        Pushed::Refused(entry, Reason::QueueFull)
    }

    #[inline]
    fn let_in(&mut self, entry: Entry<T>, effects: &mut Effects<T>) -> Pushed<T> {
        self.items.put(entry);
        self.grant(effects);
        Pushed::In
    }

    /// Drops what nobody wants any more, and lets those in who waited for its room; returns whether there was such.
    fn drop_unwanted(&mut self, now: u64, effects: &mut Effects<T>) -> bool {
        let Some(is_unwanted) = self.wanted.as_ref().and_then(Wanted::unwanted) else { return false };
        let before = effects.dropped.len();
        self.items.extract(is_unwanted, |item| effects.dropped.push((item, DropReason::Abandoned)));
        let count = effects.dropped.len() - before;
        self.items.counts.dropped[DropReason::Abandoned as usize] += count as u64;
        self.settle(now, effects);
        count > 0
    }

    fn drop_item(&mut self, item: T, why: DropReason, effects: &mut Effects<T>) {
        self.items.counts.dropped[why as usize] += 1;
        effects.dropped.push((item, why));
    }

    /// Says why an item has no chance, whether there is room or not.
    #[inline]
    fn refuses(&mut self, entry: &Entry<T>, now: u64) -> Option<Reason> {
        if self.is_closed {
            return Some(Reason::Closed);
        }
        if u64::from(entry.weight) > self.items.max_weight {
            return Some(Reason::TooHeavy);
        }
        if self.items.is_hopeless(entry, now) {
            return Some(Reason::DeadlineExceeded);
        }
        let threshold = self.threshold.as_mut()?;
        let admits = threshold.admits(entry.priority, self.items.fill());
        (!admits).then_some(Reason::Shed)
    }

    /// Returns whether somebody waits whom this item must not pass: also a light one not a heavy one.
    #[inline]
    fn bars(&self, entry: &Entry<T>) -> bool {
        let own = self.items.class_of(entry.priority);
        let mut next = self.pushers.first();
        while let Some(first) = next.and_then(|key| self.entry_at(key)) {
            match self.items.class_of(first.priority) {
                class if class > own => return false,
                class if class == own || !self.waits_for_others(first) => return true,
                _ => next = next.and_then(|key| self.pushers.after(key)),
            }
        }
        false
    }

    /// Returns whether all that keeps a waiting item outside are places that are kept for other classes, which these may
    /// take before it.
    fn waits_for_others(&self, entry: &Entry<T>) -> bool {
        self.items.keeps_places() && self.items.fits_by_weight(entry)
    }

    fn entry_at(&self, key: usize) -> Option<&Entry<T>> {
        self.pushers.get(key)?.entry.as_ref()
    }

    /// Refuses those who wait with an item that would never fit any more.
    pub(super) fn refuse_too_heavy(&mut self, effects: &mut Effects<T>) {
        let mut next = self.pushers.first();
        while let Some(key) = next {
            next = self.pushers.after(key);
            if self.entry_at(key).is_some_and(|entry| u64::from(entry.weight) > self.items.max_weight) {
                self.refuse(key, Reason::TooHeavy, effects);
            }
        }
    }

    /// Tells a pusher that waits that its item does not get in.
    fn refuse(&mut self, key: usize, reason: Reason, effects: &mut Effects<T>) {
        self.pushers.unqueue(key);
        self.reopen();
        if let Some(pusher) = self.pushers.get_mut(key) {
            pusher.refused = Some(reason);
            self.items.counts.refused += 1;
            effects.wake(pusher.waker.take());
        }
    }

    /// Takes the next item.
    #[inline]
    pub(super) fn pop(&mut self, now: u64, effects: &mut Effects<T>) -> Option<Taken<T>> {
        while self.items.len() > 0 {
            let taken = self.items.take(now, &mut effects.dropped);
            self.settle(now, effects);
            if taken.is_some() {
                return taken;
            }
        }
        None
    }

    /// Returns whether nothing is inside and nothing will come.
    pub(super) fn is_over(&self) -> bool {
        self.is_closed && self.items.len() == 0
    }

    /// Moves in those who wait for room and have it now, and wakes those who wait for what is inside.
    #[inline]
    pub(super) fn settle(&mut self, now: u64, effects: &mut Effects<T>) {
        let mut next = self.pushers.first();
        while let Some((key, entry)) = next.and_then(|key| Some((key, self.entry_at(key)?))) {
            next = self.pushers.after(key);
            if self.items.fits(entry) {
                self.move_in(key, now, effects);
            } else if !self.waits_for_others(entry) {
                break;
            }
        }
        self.grant(effects);
    }

    fn move_in(&mut self, key: usize, now: u64, effects: &mut Effects<T>) {
        self.pushers.unqueue(key);
        self.reopen();
        let Some(pusher) = self.pushers.get_mut(key) else { return };
        effects.wake(pusher.waker.take());
        if let Some(entry) = pusher.entry.take() {
            // What it waited outside is not the queue's.
            self.items.put(Entry { at: now, ..entry });
        }
    }

    /// Wakes one popper for each item for which none was woken yet.
    #[inline]
    fn grant(&mut self, effects: &mut Effects<T>) {
        while self.items.len() > self.granted && self.poppers.queued() > 0 {
            let waker = self.grant_one();
            effects.wake(waker);
        }
    }

    /// Grants an item to the next popper, if there are both; returns whom to wake.
    #[inline(never)]
    fn grant_one(&mut self) -> Option<Waker> {
        if self.items.len() <= self.granted {
            return None;
        }
        let key = if self.wakes_newest { self.poppers.last() } else { self.poppers.first() }?;
        self.poppers.unqueue(key);
        let popper = self.poppers.get_mut(key)?;
        popper.is_granted = true;
        self.granted += 1;
        popper.waker.take()
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

    /// Lets a waiting popper look, whose waker is `current`. If it must go on waiting and has another one, it is given
    /// `waker`; without one, it comes again with one.
    pub(super) fn look(
        &mut self,
        key: usize,
        now: u64,
        current: &Waker,
        waker: &mut Option<Waker>,
        effects: &mut Effects<T>,
    ) -> Look<T> {
        let Some(popper) = self.poppers.get_mut(key) else { return Look::Closed };
        // Closed, what is there is for whoever comes: not all come who were woken for it.
        if popper.is_granted || self.is_closed {
            let popper = self.poppers.remove(key);
            self.granted -= usize::from(popper.as_ref().is_some_and(|popper| popper.is_granted));
            effects.unused = popper.and_then(|popper| popper.waker);
            if let Some(taken) = self.pop(now, effects) {
                return Look::Taken(taken);
            }
            if self.is_over() {
                return Look::Closed;
            }
            // What was there has been taken by others, or dropped: it keeps its place at the head of the line.
            let first = if self.wakes_newest { None } else { self.poppers.first() };
            let waker = waker.take();
            let look = if waker.is_some() { Look::NotYet } else { Look::NoWaker };
            return look(self.poppers.push_before(first, Popper { waker, is_granted: false }));
        }
        let own = &mut self.poppers.get_mut(key).expect("found above").waker;
        match is_told(own, current, waker) {
            true => Look::NotYet(key),
            false => Look::NoWaker(key),
        }
    }

    /// Takes a popper out that has waited long enough; what it was granted it may still take.
    pub(super) fn leave_poppers(&mut self, key: usize, effects: &mut Effects<T>) -> Option<Waker> {
        let popper = self.poppers.remove(key)?;
        if popper.is_granted {
            self.granted -= 1;
            self.grant(effects);
        }
        popper.waker
    }

    /// Adds a pusher in its place: behind those of its class and of better ones.
    pub(super) fn join_pushers(&mut self, entry: Entry<T>, waker: Waker) -> usize {
        let class = self.items.class_of(entry.priority);
        let (mut next, mut last) = (None, self.pushers.last());
        while let Some(key) = last {
            let other = self.entry_at(key).map(|entry| self.items.class_of(entry.priority));
            if other.is_none_or(|other| other <= class) {
                break;
            }
            (next, last) = (Some(key), self.pushers.before(key));
        }
        let pusher = Pusher { entry: Some(entry), waker: Some(waker), refused: None };
        let key = self.pushers.push_before(next, pusher);
        self.reopen();
        key
    }

    /// Lets a waiting pusher look, as [`look`](Self::look) does a popper.
    pub(super) fn look_pusher(
        &mut self,
        key: usize,
        current: &Waker,
        waker: &mut Option<Waker>,
    ) -> PushLook<T> {
        let Some(pusher) = self.pushers.get_mut(key) else { return PushLook::In };
        match (&pusher.entry, pusher.refused) {
            (None, _) => {
                self.pushers.remove(key);
                PushLook::In
            }
            (Some(_), None) if is_told(&mut pusher.waker, current, waker) => PushLook::NotYet,
            (Some(_), None) => PushLook::NoWaker,
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
        self.reopen();
        // With the first one gone, the second may fit.
        self.settle(now, effects);
        (pusher.entry.map(|entry| entry.item), pusher.waker)
    }

    /// Lets nothing in any more. Pushers that wait are refused; poppers look once more, and get what is left.
    pub(super) fn close(&mut self, effects: &mut Effects<T>) {
        self.is_closed = true;
        self.reopen();
        while let Some(key) = self.pushers.first() {
            self.refuse(key, Reason::Closed, effects);
        }
        self.wake_poppers(effects);
    }
}

/// Returns whether `own` wakes whom `current` does; if it is another one, puts `waker` in its place, if there is one.
fn is_told(own: &mut Option<Waker>, current: &Waker, waker: &mut Option<Waker>) -> bool {
    if own.as_ref().is_some_and(|own| own.will_wake(current)) {
        return true;
    }
    // The old one is dropped outside the lock.
    std::mem::swap(own, waker);
    own.is_some()
}

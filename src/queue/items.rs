//! What is inside a queue: the items in their order, how many and how heavy they may be, and what became of them.

use std::collections::VecDeque;

use super::Overflow;
use super::effects::Taken;
use crate::clock::NEVER;
use crate::discipline::{Drain, Entry, Order, Ordered};
use crate::event::DropReason;

// What a push and a pop of a plain queue write comes first, and in this order lies beside the lock, in one line of the cache:
// from core to core that line is most of what an item costs.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Items<T> {
    store: Store<T>,
    /// Up to so many items, a push has to look at nothing but the room, and a pop at nothing but who is next: the capacity,
    /// or 0 where there is more to it.
    pub(super) open: usize,
    /// How many items have come in: the number of the next one.
    seq: u64,
    /// One item whose time inside is measured, where not all are: its number, and when it came.
    probe: u64,
    probe_came: u64,
    pub(super) max_weight: u64,
    pub(super) capacity: usize,
    /// How many items left and were not popped.
    otherwise: u64,
    pub(super) drain: Drain,
    pub(super) counts: Counts,
}

#[derive(Debug)]
enum Store<T> {
    /// First in, first out, and nothing else.
    Plain(VecDeque<T>),
    Ordered(Box<Ordered<T>>),
}

/// What became of items that were not popped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub(super) refused: u64,
    pub(super) dropped: [u64; DropReason::COUNT],
}

/// Of so many items one is measured.
const SAMPLED: u64 = 64;

/// Where all items are timed, the rate is learned once in so many pops.
const RATED: u64 = 16;

impl<T> Items<T> {
    pub(super) const fn new(capacity: usize) -> Self {
        Self {
            store: Store::Plain(VecDeque::new()),
            open: capacity,
            seq: 0,
            probe: NEVER,
            probe_came: NEVER,
            max_weight: u64::MAX,
            capacity,
            otherwise: 0,
            drain: Drain::new(),
            counts: Counts { refused: 0, dropped: [0; DropReason::COUNT] },
        }
    }

    #[inline]
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

    /// Returns how many items were taken in, or dropped as the newest.
    pub(super) const fn pushed(&self) -> u64 {
        self.seq + self.counts.dropped[DropReason::Newest as usize]
    }

    /// Returns how many items came out to whom popped.
    pub(super) fn popped(&self) -> u64 {
        self.seq - self.otherwise - self.len() as u64
    }

    /// Returns whether it takes no clock, no deadline and no place that is kept for others to put an item in or to take one.
    pub(super) fn is_easy(&self) -> bool {
        match &self.store {
            Store::Plain(_) => true,
            Store::Ordered(items) => !items.order.needs_time() && !items.keeps_places(),
        }
    }

    /// Returns the order, if it is not plain.
    pub(super) fn order(&self) -> Option<&Order> {
        match &self.store {
            Store::Plain(_) => None,
            Store::Ordered(items) => Some(&items.order),
        }
    }

    /// Changes the order; what is inside goes along.
    pub(super) fn reorder(&mut self, order: Order) {
        let mut ordered = Box::new(Ordered::new(order));
        match &mut self.store {
            Store::Plain(items) => {
                let first = self.seq - items.len() as u64;
                let entries = items.drain(..).zip(first..);
                entries.for_each(|(item, seq)| ordered.push(Entry { seq, ..Entry::plain(item) }));
            }
            Store::Ordered(items) => {
                std::iter::from_fn(|| items.pop_any()).for_each(|entry| ordered.push(entry));
            }
        }
        self.store = Store::Ordered(ordered);
    }

    /// Returns how much of the room is taken, from 0 to 1; more after it shrank.
    pub(super) fn fill(&self) -> f64 {
        let fill = self.len() as f64 / self.capacity as f64;
        fill.max(self.weight() as f64 / self.max_weight as f64)
    }

    pub(super) fn class_of(&self, priority: u8) -> usize {
        self.order().map_or(0, |order| order.class_of(priority))
    }

    /// Returns whether an item would come out too late, at the rate at which items come out now.
    #[inline]
    pub(super) fn is_hopeless(&self, entry: &Entry<T>, now: u64) -> bool {
        let Store::Ordered(items) = &self.store else { return false };
        if !items.order.drops_expired || entry.deadline == NEVER {
            return false;
        }
        let wait = self.drain.time_for(items.ahead_of(entry.priority) + 1).unwrap_or(0);
        now.saturating_add(wait) >= entry.deadline
    }

    #[inline]
    pub(super) fn fits(&self, entry: &Entry<T>) -> bool {
        match &self.store {
            Store::Plain(items) => items.len() < self.capacity,
            Store::Ordered(items) => {
                items.len() < items.open_to(entry.priority, self.capacity) && self.fits_by_weight(entry)
            }
        }
    }

    pub(super) fn fits_by_weight(&self, entry: &Entry<T>) -> bool {
        self.weight() + u64::from(entry.weight) <= self.max_weight
    }

    /// Returns whether some classes have places of their own.
    pub(super) const fn keeps_places(&self) -> bool {
        match &self.store {
            Store::Plain(_) => false,
            Store::Ordered(items) => items.keeps_places(),
        }
    }

    #[inline]
    pub(super) fn put(&mut self, entry: Entry<T>) {
        let seq = self.seq;
        self.seq += 1;
        match &mut self.store {
            Store::Plain(items) => items.push_back(entry.item),
            // Field by field: what was just written in narrow words and is copied in wide ones waits for them.
            Store::Ordered(items) => {
                let Entry { item, weight, priority, key, at, deadline, .. } = entry;
                items.push(Entry { item, weight, priority, key, at, deadline, seq });
            }
        }
    }

    /// Puts an item into a plain store that has room, or gives it back.
    #[inline]
    pub(super) fn put_plain(&mut self, item: T) -> Result<(), T> {
        let Store::Plain(items) = &mut self.store else { return Err(item) };
        if items.len() >= self.open {
            return Err(item);
        }
        items.push_back(item);
        self.seq += 1;
        Ok(())
    }

    /// Puts an item in where nothing but the room matters, and there is room; or gives it back.
    #[inline]
    pub(super) fn put_easily(&mut self, entry: Entry<T>) -> Result<(), Entry<T>> {
        if self.len() >= self.open || !self.fits_by_weight(&entry) {
            return Err(entry);
        }
        self.put(entry);
        Ok(())
    }

    /// Takes the next item at `now`; what is dropped before it goes to `dropped`.
    #[inline]
    pub(super) fn take(&mut self, now: u64, dropped: &mut Vec<(T, DropReason)>) -> Option<Taken<T>> {
        let Store::Ordered(items) = &mut self.store else { return self.take_plain() };
        let (counts, otherwise) = (&mut self.counts, &mut self.otherwise);
        let entry = items.pop(now, |entry, why| {
            counts.dropped[why as usize] += 1;
            *otherwise += 1;
            dropped.push((entry.item, why));
        });
        if items.len() == 0 {
            self.drain.idle();
        }
        let is_timed = items.order.needs_time();
        let entry = entry?;
        let probed = self.measured(entry.seq);
        if is_timed && self.popped() % RATED == 0 {
            self.drain.sample(now, self.popped());
        }
        Some(Taken { item: entry.item, since: if is_timed { entry.at } else { probed } })
    }

    #[inline]
    pub(super) fn take_plain(&mut self) -> Option<Taken<T>> {
        let Store::Plain(items) = &mut self.store else { return None };
        let item = items.pop_front()?;
        let left = items.len() as u64;
        if left == 0 {
            self.drain.idle();
        }
        Some(Taken { item, since: self.measured(self.seq - left - 1) })
    }

    /// Takes the next item where nothing but the order matters.
    #[inline]
    pub(super) fn take_easily(&mut self) -> Option<Taken<T>> {
        let Store::Ordered(items) = &mut self.store else { return self.take_plain() };
        let entry = items.pop_untimed()?;
        if items.len() == 0 {
            self.drain.idle();
        }
        Some(Taken { item: entry.item, since: self.measured(entry.seq) })
    }

    /// Drops what an overflow drops for this entry, until it fits; returns false, and drops nothing, if it would not fit all the
    /// same.
    pub(super) fn make_room(
        &mut self,
        entry: &Entry<T>,
        overflow: Overflow,
        dropped: &mut Vec<(T, DropReason)>,
    ) -> bool {
        let mut evicted = Vec::new();
        while !self.fits(entry) {
            let first = self.seq - self.len() as u64;
            let (item, seq, why) = match &mut self.store {
                Store::Plain(items) => {
                    let Some(item) = items.pop_front() else { return false };
                    (item, first, DropReason::Oldest)
                }
                Store::Ordered(items) => {
                    let is_lowest = overflow == Overflow::DropLowest;
                    let next = if is_lowest {
                        items.evict_lowest(entry.priority)
                    } else {
                        items.evict_oldest(entry.priority)
                    };
                    match next {
                        Some(next) => evicted.push(next),
                        None => {
                            evicted.into_iter().rev().for_each(|evicted| items.put_back(evicted));
                            return false;
                        }
                    }
                    continue;
                }
            };
            self.dropped(item, seq, why, dropped);
        }
        let why = if overflow == Overflow::DropLowest { DropReason::Lowest } else { DropReason::Oldest };
        evicted
            .into_iter()
            .for_each(|evicted| self.dropped(evicted.entry.item, evicted.entry.seq, why, dropped));
        true
    }

    fn dropped(&mut self, item: T, seq: u64, why: DropReason, dropped: &mut Vec<(T, DropReason)>) {
        self.otherwise += 1;
        self.counts.dropped[why as usize] += 1;
        self.measured(seq);
        dropped.push((item, why));
    }

    /// Takes out all items of which `is_gone` says so, if they are not in a plain order.
    pub(super) fn extract(&mut self, is_gone: impl Fn(&T) -> bool, mut gone: impl FnMut(T)) {
        let otherwise = &mut self.otherwise;
        if let Store::Ordered(items) = &mut self.store {
            items.extract(is_gone, |entry| {
                *otherwise += 1;
                gone(entry.item);
            });
        }
    }

    /// Takes out all that is inside.
    pub(super) fn drain_all(&mut self) -> Vec<T> {
        self.probe = NEVER;
        self.drain.idle();
        self.otherwise += self.len() as u64;
        match &mut self.store {
            Store::Plain(items) => items.drain(..).collect(),
            Store::Ordered(items) => std::iter::from_fn(|| items.pop_any()).map(|entry| entry.item).collect(),
        }
    }

    /// Says whether the item that came in last is one to measure, and returns its number for [`came_at`](Self::came_at):
    /// the clock is read outside the lock.
    #[inline]
    pub(super) fn probe(&mut self) -> Option<u64> {
        if self.seq % SAMPLED != 1 || self.probe != NEVER {
            return None;
        }
        (self.probe, self.probe_came) = (self.seq - 1, NEVER);
        Some(self.probe)
    }

    /// Notes when the measured item came in, unless it has left already.
    pub(super) fn came_at(&mut self, seq: u64, now: u64) {
        if self.probe == seq {
            self.probe_came = now;
        }
    }

    /// Hears that an item leaves; returns when it came, if that was noted.
    #[inline]
    fn measured(&mut self, seq: u64) -> u64 {
        if seq != self.probe {
            return NEVER;
        }
        self.probe = NEVER;
        self.probe_came
    }
}

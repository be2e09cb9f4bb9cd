//! Pushing and popping.

use std::time::Duration;

use super::state::{Effects, Pushed, Taken};
use super::{Entry, Event, Pop, PopError, Push, PushError, Queue, Reason, Rejected};
use crate::call::Call;
use crate::clock::NEVER;
use crate::park::block_on;
use crate::sync::back_off;

/// How often a thread looks again before it parks. What it waits for often comes within a microsecond, and to park and be
/// woken takes many.
const ROUNDS: usize = 2;

impl<T> Queue<T> {
    /// Puts an item in if there is room. Never waits.
    ///
    /// # Errors
    ///
    /// With the item, if the queue is full and does not [drop](super::Overflow) another one for it, or is closed.
    #[inline]
    pub fn try_push(&self, item: T) -> Result<(), PushError<T>> {
        self.try_push_for(item, Call::new())
    }

    /// Puts an item in if there is room, with what `call` asks for it. Never waits.
    ///
    /// # Errors
    ///
    /// As [`try_push`](Self::try_push); if the item is [too heavy](Reason::TooHeavy); if its deadline cannot be met and the
    /// queue [minds](Self::drop_expired); if it is [shed](Self::admit_by_priority).
    #[inline]
    pub fn try_push_for(&self, item: T, call: Call) -> Result<(), PushError<T>> {
        match self.push_fast(item) {
            Ok(()) => Ok(()),
            Err(item) => self.push_slow(self.entry(item, call)),
        }
    }

    /// Puts an item in, and waits for room if the queue is full and made for that.
    ///
    /// # Errors
    ///
    /// As [`push_for`](Self::push_for).
    ///
    /// # Cancel safety
    ///
    /// As [`push_for`](Self::push_for).
    #[inline]
    pub fn push(&self, item: T) -> Push<'_, T> {
        self.push_for(item, Call::new())
    }

    /// Puts an item in, with what `call` asks for it; waits for room at most until the call's deadline.
    ///
    /// # Errors
    ///
    /// As [`try_push_for`](Self::try_push_for); with [`DeadlineExceeded`](Reason::DeadlineExceeded) if there was no room in
    /// time; with [`Closed`](Reason::Closed) if the queue is closed meanwhile. The error has the item.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the line. The item is then inside, or is dropped with the future;
    /// [`Push::cancel`] tells which, and gives it back.
    #[inline]
    pub fn push_for(&self, item: T, call: Call) -> Push<'_, T> {
        Push::new(self, item, call)
    }

    /// Blocks this thread until the item is inside.
    ///
    /// # Errors
    ///
    /// As [`push_for`](Self::push_for).
    pub fn push_blocking(&self, item: T) -> Result<(), PushError<T>> {
        self.push_blocking_for(item, Call::new())
    }

    /// Blocks this thread until the item is inside, at most until the call's deadline.
    ///
    /// # Errors
    ///
    /// As [`push_for`](Self::push_for).
    pub fn push_blocking_for(&self, mut item: T, call: Call) -> Result<(), PushError<T>> {
        for round in 0..=ROUNDS {
            match self.push_fast(item) {
                Ok(()) => return Ok(()),
                Err(back) => item = back,
            }
            if !self.is_plain || round == ROUNDS {
                break;
            }
            back_off();
        }
        block_on(self.push_for(item, call))
    }

    /// Takes the next item if there is one. Never waits.
    ///
    /// # Errors
    ///
    /// If there is none.
    #[inline]
    pub fn try_pop(&self) -> Result<T, PopError> {
        match self.pop_fast() {
            Some(item) => Ok(item),
            None => self.pop_slow(),
        }
    }

    /// Takes the next item, and waits for one.
    ///
    /// # Errors
    ///
    /// If the queue is closed and nothing is left in it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the item stays in its place in the queue until the future is polled for it.
    #[inline]
    pub fn pop(&self) -> Pop<'_, T> {
        Pop::new(self, NEVER)
    }

    /// Takes the next item, and waits for one at most for `limit`.
    ///
    /// # Errors
    ///
    /// As [`pop`](Self::pop); as [`Empty`](PopError::Empty) if nothing came in time.
    ///
    /// # Cancel safety
    ///
    /// As [`pop`](Self::pop).
    pub fn pop_within(&self, limit: Duration) -> Pop<'_, T> {
        Pop::new(self, self.clock.after(limit))
    }

    /// Blocks this thread until there is an item, and takes it.
    ///
    /// # Errors
    ///
    /// As [`pop`](Self::pop).
    pub fn pop_blocking(&self) -> Result<T, PopError> {
        self.pop_soon().unwrap_or_else(|| block_on(self.pop()))
    }

    /// Blocks this thread until there is an item, at most for `limit`, and takes it.
    ///
    /// # Errors
    ///
    /// As [`pop_within`](Self::pop_within).
    pub fn pop_blocking_within(&self, limit: Duration) -> Result<T, PopError> {
        self.pop_soon().unwrap_or_else(|| block_on(self.pop_within(limit)))
    }

    fn pop_soon(&self) -> Option<Result<T, PopError>> {
        for _ in 0..ROUNDS {
            match self.try_pop() {
                Err(PopError::Empty) => back_off(),
                result => return Some(result),
            }
        }
        None
    }

    /// Puts in as many items as there is room for, in one critical section, and returns the others.
    ///
    /// Items that the queue drops for them, or refuses for another reason than room, go the way of
    /// [`try_push`](Self::try_push); it stops at the first that is refused.
    ///
    /// ```
    /// use floodwall::Queue;
    ///
    /// let queue = Queue::new(3);
    /// let mut rest = queue.try_push_many(1..=5);
    /// assert_eq!((queue.len(), rest.next()), (3, Some(4)));
    /// ```
    ///
    /// # Cost
    ///
    /// Of the iterator, each item is taken outside the lock, and at most 64 at a time go in under it.
    pub fn try_push_many<I: IntoIterator<Item = T>>(&self, items: I) -> Rest<I::IntoIter> {
        let mut items = items.into_iter();
        loop {
            let batch: Vec<_> =
                items.by_ref().take(BATCH).map(|item| self.entry(item, Call::new())).collect();
            if batch.is_empty() {
                return Rest { refused: Vec::new().into_iter(), items };
            }
            let mut batch = batch.into_iter();
            let (now, mut effects) = (self.now(), Effects::none());
            let mut refused = Vec::new();
            let mut state = self.state.lock();
            for entry in batch.by_ref() {
                match state.push(entry, now, self.overflow, false, &mut effects) {
                    Pushed::In => {}
                    Pushed::Full(entry) | Pushed::Refused(entry, _) => {
                        refused.push(entry.item);
                        break;
                    }
                }
            }
            drop(state);
            self.follow_up(effects);
            if !refused.is_empty() {
                refused.extend(batch.map(|entry| entry.item));
                return Rest { refused: refused.into_iter(), items };
            }
        }
    }

    /// Takes up to `most` items that are there, in one critical section, and appends them to `into`; returns how many. Never
    /// waits.
    ///
    /// ```
    /// use floodwall::Queue;
    ///
    /// let queue = Queue::new(9);
    /// queue.try_push_many(1..=5);
    /// let mut batch = Vec::new();
    /// assert_eq!(queue.try_pop_many(&mut batch, 3), 3);
    /// assert_eq!(batch, [1, 2, 3]);
    /// ```
    pub fn try_pop_many(&self, into: &mut Vec<T>, most: usize) -> usize {
        let (now, mut effects) = (self.now(), Effects::none());
        let before = into.len();
        into.reserve(most.min(self.len()));
        let mut since = NEVER;
        let mut state = self.state.lock();
        while into.len() - before < most {
            // To grow it is no user code, and rare: more have come since it was made large enough.
            let Some(taken) = state.pop(now, &mut effects) else { break };
            since = since.min(taken.since);
            into.push(taken.item);
        }
        drop(state);
        self.follow_up(effects);
        self.measure(since, now);
        into.len() - before
    }

    /// Takes up to `most` items, and waits until there is at least one; appends them to `into` and returns how many.
    ///
    /// # Errors
    ///
    /// As [`pop`](Self::pop).
    ///
    /// # Cancel safety
    ///
    /// As [`pop`](Self::pop): nothing is taken before the future ends.
    pub async fn pop_many(&self, into: &mut Vec<T>, most: usize) -> Result<usize, PopError> {
        if most == 0 {
            return Ok(0);
        }
        into.push(self.pop().await?);
        Ok(1 + self.try_pop_many(into, most - 1))
    }

    /// Puts all items in, in their order, and waits for room.
    ///
    /// # Errors
    ///
    /// With the first item that is refused; those before it are inside.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the items that are not inside yet.
    pub async fn push_many(&self, items: impl IntoIterator<Item = T>) -> Result<(), PushError<T>> {
        let mut rest = self.try_push_many(items);
        while let Some(item) = rest.next() {
            self.push(item).await?;
            rest = rest.again(self);
        }
        Ok(())
    }

    pub(super) fn entry(&self, item: T, call: Call) -> Entry<T> {
        let key = self.key_of.as_ref().map_or(0, |key_of| key_of(&item));
        let weight = if self.by_cost { call.cost } else { 1 };
        Entry { item, weight, priority: call.priority, key, at: 0, deadline: call.deadline, seq: 0 }
    }

    /// Pushes where nothing but the room matters.
    #[inline]
    pub(super) fn push_fast(&self, item: T) -> Result<(), T> {
        if !self.is_plain {
            return Err(item);
        }
        let mut state = self.state.lock();
        let waker = state.push_plain(item)?;
        let probe = state.wants_probe().then(|| state.newest());
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(seq) = probe {
            self.probe(seq);
        }
        self.hook.emit(Event::Admitted);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn probe(&self, seq: u64) {
        let now = self.clock.nanos();
        self.state.lock().set_probe(seq, now);
    }

    #[inline(never)]
    fn push_slow(&self, entry: Entry<T>) -> Result<(), PushError<T>> {
        match self.push_entry(entry, false) {
            Pushed::In => Ok(()),
            Pushed::Full(entry) => Err(self.refused(entry.item, Reason::QueueFull)),
            Pushed::Refused(entry, reason) => Err(self.refused(entry.item, reason)),
        }
    }

    pub(super) fn push_entry(&self, mut entry: Entry<T>, waits: bool) -> Pushed<T> {
        let (now, mut effects) = (self.now(), Effects::none());
        entry.at = now;
        let mut state = self.state.lock();
        let pushed = state.push(entry, now, self.overflow, waits, &mut effects);
        let probe = (!self.is_timed && state.wants_probe()).then(|| state.newest());
        drop(state);
        self.follow_up(effects);
        if let Some(seq) = probe {
            self.probe(seq);
        }
        if let Pushed::In = pushed {
            self.hook.emit(Event::Admitted);
        }
        pushed
    }

    #[cold]
    pub(super) fn refused(&self, item: T, reason: Reason) -> PushError<T> {
        let mut rejected = Rejected::new(self.hook.name, reason);
        if let Reason::QueueFull | Reason::Shed = reason {
            let state = self.state.lock();
            // Once all that is inside now has come out, who comes back is not one of a crowd at the last place.
            if let Some(wait) = state.drain.time_for(state.len()) {
                rejected = rejected.after_nanos(wait);
            }
        }
        self.hook.emit(Event::Rejected(rejected));
        PushError::new(item, rejected)
    }

    /// Pops where nothing but the order of coming matters.
    #[inline]
    fn pop_fast(&self) -> Option<T> {
        if !self.is_plain {
            return None;
        }
        let Taken { item, since } = self.state.lock().pop_plain()?;
        if since != NEVER {
            self.measure(since, 0);
        }
        Some(item)
    }

    #[inline(never)]
    fn pop_slow(&self) -> Result<T, PopError> {
        let (now, mut effects) = (self.now(), Effects::none());
        let mut state = self.state.lock();
        let taken = state.pop(now, &mut effects);
        let is_over = state.is_over();
        drop(state);
        self.follow_up(effects);
        match taken {
            Some(taken) => Ok(self.delivered(taken, now)),
            None if is_over => Err(PopError::Closed),
            None => Err(PopError::Empty),
        }
    }

    pub(super) fn delivered(&self, taken: Taken<T>, now: u64) -> T {
        self.measure(taken.since, now);
        taken.item
    }

    /// Notes how long an item was inside; where `now` was not read, reads it.
    fn measure(&self, since: u64, now: u64) {
        if since == NEVER {
            return;
        }
        let end = if self.is_timed { now } else { self.clock.nanos() };
        self.waits.record(Duration::from_nanos(end.saturating_sub(since)));
        if !self.is_timed {
            let mut state = self.state.lock();
            let popped = state.counts.popped;
            state.drain.sample(end, popped);
        }
    }
}

/// So many go in under one lock.
const BATCH: usize = 64;

/// The items that did not go in.
#[derive(Debug)]
pub struct Rest<I: Iterator> {
    refused: std::vec::IntoIter<I::Item>,
    items: I,
}

impl<I: Iterator> Rest<I> {
    fn again(self, queue: &Queue<I::Item>) -> Self {
        let Rest { refused, items } = self;
        let mut rest = queue.try_push_many(refused);
        if rest.refused.len() == 0 {
            return queue.try_push_many(items);
        }
        let left: Vec<_> = rest.refused.by_ref().chain(rest.items).collect();
        Rest { refused: left.into_iter(), items }
    }
}

impl<I: Iterator> Iterator for Rest<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.refused.next().or_else(|| self.items.next())
    }
}

//! Pushing and popping.

use std::task::Waker;
use std::time::Duration;

use super::effects::{Effects, Pushed, Taken};
use super::{Entry, Event, Pop, PopError, Push, PushError, Queue, Reason, Rejected};
use crate::call::Call;
use crate::clock::NEVER;
use crate::park::{PATIENCE, block_on, patiently};

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
        match self.push_fast(item, call) {
            Ok(()) => Ok(()),
            Err(item) => self.push_or_refuse(item, call),
        }
    }

    #[inline(never)]
    fn push_or_refuse(&self, item: T, call: Call) -> Result<(), PushError<T>> {
        match self.push_slow(self.entry(item, call), false) {
            Pushed::In => Ok(()),
            Pushed::Full(entry) => Err(self.refused(entry.item, Reason::QueueFull)),
            Pushed::Refused(entry, reason) => Err(self.refused(entry.item, reason)),
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
    #[inline]
    pub fn push_blocking(&self, item: T) -> Result<(), PushError<T>> {
        self.push_blocking_for(item, Call::new())
    }

    /// Blocks this thread until the item is inside, at most until the call's deadline.
    ///
    /// # Errors
    ///
    /// As [`push_for`](Self::push_for).
    #[inline]
    pub fn push_blocking_for(&self, item: T, call: Call) -> Result<(), PushError<T>> {
        match self.push_fast(item, call) {
            Ok(()) => Ok(()),
            Err(item) => self.push_patiently(item, call),
        }
    }

    #[inline(never)]
    fn push_patiently(&self, mut item: T, call: Call) -> Result<(), PushError<T>> {
        // Where priorities are counted to tell which to admit, it is counted once; and who has a deadline may have little time.
        if !self.by_priority && call.deadline == NEVER {
            let mut entry = Some(self.entry(item, call));
            let pushed = patiently(|| match self.push_slow(entry.take()?, true) {
                Pushed::Full(back) => {
                    entry = Some(back);
                    None
                }
                Pushed::In => Some(Ok(())),
                Pushed::Refused(entry, reason) => Some(Err(self.refused(entry.item, reason))),
            });
            match (pushed, entry) {
                (Some(pushed), _) => return pushed,
                (None, Some(entry)) => item = entry.item,
                (None, None) => unreachable!("it was pushed, or has come back"),
            }
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
            Some(popped) => popped,
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
    #[inline]
    pub fn pop_blocking(&self) -> Result<T, PopError> {
        match self.pop_fast() {
            Some(Ok(item)) => Ok(item),
            _ => self.pop_patiently(),
        }
    }

    #[inline(never)]
    fn pop_patiently(&self) -> Result<T, PopError> {
        self.pop_soon().unwrap_or_else(|| block_on(self.pop()))
    }

    /// Blocks this thread until there is an item, at most for `limit`, and takes it.
    ///
    /// # Errors
    ///
    /// As [`pop_within`](Self::pop_within).
    pub fn pop_blocking_within(&self, limit: Duration) -> Result<T, PopError> {
        let soon = if limit < PATIENCE { None } else { self.pop_soon() };
        soon.unwrap_or_else(|| block_on(self.pop_within(limit)))
    }

    fn pop_soon(&self) -> Option<Result<T, PopError>> {
        patiently(|| match self.try_pop() {
            Err(PopError::Empty) => None,
            result => Some(result),
        })
    }

    #[inline]
    pub(super) fn entry(&self, item: T, call: Call) -> Entry<T> {
        let key = self.key_of.as_ref().map_or(0, |key_of| key_of(&item));
        let weight = if self.by_cost { call.cost } else { 1 };
        Entry { item, weight, priority: call.priority, key, at: 0, deadline: call.deadline, seq: 0 }
    }

    /// Pushes where nothing but the room matters, and there is some.
    #[inline]
    pub(super) fn push_fast(&self, item: T, call: Call) -> Result<(), T> {
        if !self.is_plain {
            return self.push_easily(item, call);
        }
        let mut state = self.state.lock();
        let waker = state.push_plain(item)?;
        let probe = state.items.probe();
        drop(state);
        self.pushed(waker, probe);
        Ok(())
    }

    #[inline(never)]
    fn push_easily(&self, item: T, call: Call) -> Result<(), T> {
        if self.is_timed {
            return Err(item);
        }
        let entry = self.entry(item, call);
        let mut state = self.state.lock();
        let waker = state.push_easily(entry).map_err(|entry| entry.item)?;
        let probe = state.items.probe();
        drop(state);
        self.pushed(waker, probe);
        Ok(())
    }

    /// Does what is left once an item is in.
    #[inline]
    fn pushed(&self, waker: Option<Waker>, probe: Option<u64>) {
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(seq) = probe {
            self.probe(seq);
        }
        self.hook.emit(Event::Admitted);
    }

    #[cold]
    #[inline(never)]
    fn probe(&self, seq: u64) {
        let now = self.clock.nanos();
        self.state.lock().items.came_at(seq, now);
    }

    #[inline(never)]
    pub(super) fn push_slow(&self, mut entry: Entry<T>, waits: bool) -> Pushed<T> {
        let (now, mut effects) = (self.now(), Effects::none());
        entry.at = now;
        let mut state = self.state.lock();
        let pushed = state.push(entry, now, self.overflow, waits, &mut effects);
        let probe = if self.is_timed { None } else { state.items.probe() };
        drop(state);
        self.follow_up(effects);
        if let Pushed::In = pushed {
            self.pushed(None, probe);
        }
        pushed
    }

    #[cold]
    pub(super) fn refused(&self, item: T, reason: Reason) -> PushError<T> {
        let mut rejected = Rejected::new(self.hook.name, reason);
        if let Reason::QueueFull | Reason::Shed = reason {
            let state = self.state.lock();
            // Once all that is inside now has come out, who comes back is not one of a crowd at the last place.
            if let Some(wait) = state.items.drain.time_for(state.items.len()) {
                rejected = rejected.after_nanos(wait);
            }
        }
        self.hook.emit(Event::Rejected(rejected));
        PushError::new(item, rejected)
    }

    /// Pops where nothing but the order matters.
    #[inline]
    pub(super) fn pop_fast(&self) -> Option<Result<T, PopError>> {
        if !self.is_plain {
            return self.pop_easily().map(Ok);
        }
        let popped = self.state.lock().pop_plain();
        match popped? {
            Some(taken) => Some(Ok(self.delivered(taken, 0))),
            None => Some(Err(PopError::Empty)),
        }
    }

    #[inline(never)]
    fn pop_easily(&self) -> Option<T> {
        if self.is_timed {
            return None;
        }
        let taken = self.state.lock().pop_easily()?;
        Some(self.delivered(taken, 0))
    }

    #[inline(never)]
    pub(super) fn pop_slow(&self) -> Result<T, PopError> {
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

    #[inline]
    pub(super) fn delivered(&self, taken: Taken<T>, now: u64) -> T {
        self.measure(taken.since, now);
        taken.item
    }

    /// Notes how long an item was inside; where `now` was not read, reads it.
    #[inline]
    pub(super) fn measure(&self, since: u64, now: u64) {
        if since != NEVER {
            self.note_wait(since, now);
        }
    }

    #[inline(never)]
    fn note_wait(&self, since: u64, now: u64) {
        let end = if self.is_timed { now } else { self.clock.nanos() };
        self.waits.record(Duration::from_nanos(end.saturating_sub(since)));
        if !self.is_timed {
            let mut state = self.state.lock();
            let popped = state.items.popped();
            state.items.drain.sample(end, popped);
        }
    }
}

//! Pushing and popping many at once: the lock is taken once for all of them.

use std::collections::{VecDeque, vec_deque};

use super::effects::{Effects, Pushed};
use super::{Entry, Event, PopError, PushError, Queue};
use crate::call::Call;
use crate::clock::NEVER;

/// So many go in under one lock, so that no critical section is long.
const BATCH: usize = 64;

/// The items that did not go in, in their order; made by [`Queue::try_push_many`].
#[derive(Debug)]
pub struct Unpushed<I: Iterator> {
    refused: vec_deque::IntoIter<Entry<I::Item>>,
    items: I,
}

impl<I: Iterator> Iterator for Unpushed<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.refused.next().map(|entry| entry.item).or_else(|| self.items.next())
    }
}

impl<T> Queue<T> {
    /// Puts in items as long as there is room, and returns the others; it stops at the first that is refused. Never waits.
    ///
    /// ```
    /// use floodwall::Queue;
    ///
    /// let queue = Queue::new(3);
    /// let mut rest = queue.try_push_many(1..=5);
    /// assert_eq!((queue.len(), rest.next(), rest.next()), (3, Some(4), Some(5)));
    /// ```
    ///
    /// # Cost
    ///
    /// One critical section and one allocation for 64 items, which are taken from the iterator before it.
    pub fn try_push_many<I: IntoIterator<Item = T>>(&self, items: I) -> Unpushed<I::IntoIter> {
        let mut items = items.into_iter();
        loop {
            let mut batch = self.batch(&mut items);
            let is_over = batch.is_empty();
            self.put_batch(&mut batch);
            if is_over || !batch.is_empty() {
                return Unpushed { refused: batch.into_iter(), items };
            }
        }
    }

    /// Puts all items in, in their order, and waits for room.
    ///
    /// # Errors
    ///
    /// With the first item that is refused; those before it are inside, those after it are dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the items that are not inside yet.
    pub async fn push_many(&self, items: impl IntoIterator<Item = T>) -> Result<(), PushError<T>> {
        let mut items = items.into_iter();
        loop {
            let mut batch = self.batch(&mut items);
            if batch.is_empty() {
                return Ok(());
            }
            loop {
                self.put_batch(&mut batch);
                let Some(first) = batch.pop_front() else { break };
                self.push(first.item).await?;
            }
        }
    }

    fn batch(&self, items: &mut impl Iterator<Item = T>) -> VecDeque<Entry<T>> {
        items.take(BATCH).map(|item| self.entry(item, Call::new())).collect()
    }

    /// Puts in the first of the batch, up to one that is refused.
    fn put_batch(&self, batch: &mut VecDeque<Entry<T>>) {
        let (now, mut effects) = (self.now(), Effects::none());
        let before = batch.len();
        let mut state = self.state.lock();
        while let Some(mut entry) = batch.pop_front() {
            entry.at = now;
            match state.push(entry, now, self.overflow, false, &mut effects) {
                Pushed::In => {}
                Pushed::Full(entry) | Pushed::Refused(entry, _) => {
                    batch.push_front(entry);
                    break;
                }
            }
        }
        drop(state);
        self.follow_up(effects);
        (batch.len()..before).for_each(|_| self.hook.emit(Event::Admitted));
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
            if self.is_timed {
                self.measure(taken.since, now);
            } else {
                since = since.min(taken.since);
            }
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
}

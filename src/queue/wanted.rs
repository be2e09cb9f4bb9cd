//! Items that somebody waits for, who may leave: what the workers and the waiting line of this crate put into a queue.

use std::sync::Arc;

use super::{DropReason, Queue};
use crate::clock::Clock;
use crate::event::Hook;
use crate::sync::{AtomicU64, Ordering};

/// How a full queue finds items that nobody wants any more.
#[derive(Debug)]
pub(super) struct Wanted<T> {
    /// How many there are inside.
    left: Arc<AtomicU64>,
    is_wanted: fn(&T) -> bool,
}

impl<T> Wanted<T> {
    /// Returns whether an item is to be dropped to make room; `None` if there is none that could be.
    pub(super) fn unwanted(&self) -> Option<impl Fn(&T) -> bool + use<T>> {
        let is_wanted = self.is_wanted;
        (self.left.load(Ordering::Relaxed) > 0).then_some(move |item: &T| !is_wanted(item))
    }
}

impl<T: 'static> Queue<T> {
    /// Makes room, when it is full, by dropping what nobody wants any more, of which there are `left`; gives each item that
    /// is dropped to `tell`, with the queue's name, before others see it; measures all waits; and serves those who wait to
    /// pop newest first, so that those who are many too many stay idle.
    ///
    /// `is_wanted` is called under the lock, and must be quick.
    pub(crate) fn of_wanted(
        mut self,
        left: Arc<AtomicU64>,
        is_wanted: fn(&T) -> bool,
        tell: impl Fn(&T, DropReason, &'static str) + Send + Sync + 'static,
    ) -> Self {
        let (then, name) = (self.on_drop.take(), self.hook.name);
        self.on_drop = Some(Box::new(move |item, why| {
            tell(&item, why, name);
            match &then {
                Some(take) => take(item, why),
                None => drop(item),
            }
        }));
        let mut state = self.state.lock();
        state.wanted = Some(Wanted { left, is_wanted });
        state.wakes_newest = true;
        drop(state);
        self.reordered(|order| order.is_timed = true)
    }

    /// Takes the observer away, for whoever tells what happens in better words; the name stays.
    pub(crate) fn silent(mut self) -> (Self, Hook) {
        let silent = Hook::named(self.hook.name);
        let hook = std::mem::replace(&mut self.hook, silent);
        (self, hook)
    }

    pub(crate) const fn clock_ref(&self) -> &Clock {
        &self.clock
    }

    pub(crate) const fn hook(&self) -> &Hook {
        &self.hook
    }
}

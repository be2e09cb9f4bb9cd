//! Those who have taken tokens of a bucket in advance, in the order in which these flow in: [`Line`].

use std::task::Waker;

use crate::slab::Slab;
use crate::sync::MutexGuard;

/// Waiters in turn. Lives under the bucket's lock.
///
/// Each has its tokens on the bucket's word already, so newcomers stand behind it without looking here. The line is
/// for what happens later: when one leaves, those behind it move up by what it gave back; when the rate changes, all
/// get new times. Whoever's time has changed is woken, outside the lock, to look again.
#[derive(Debug)]
pub(super) struct Line {
    waiters: Slab<Waiter>,
    limit: usize,
}

#[derive(Debug)]
pub(super) struct Waiter {
    /// The bucket's word after this one, in units.
    pub(super) next: u64,
    /// In units.
    pub(super) cost: u64,
    waker: Option<Waker>,
}

impl Line {
    pub(super) const fn bounded(limit: usize) -> Self {
        Self { waiters: Slab::new(), limit }
    }

    pub(super) const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub(super) const fn len(&self) -> usize {
        self.waiters.queued()
    }

    pub(super) const fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    pub(super) fn join(&mut self, next: u64, cost: u64) -> usize {
        self.waiters.push_back(Waiter { next, cost, waker: None })
    }

    pub(super) fn get_mut(&mut self, key: usize) -> &mut Waiter {
        self.waiters.get_mut(key).expect("a waiter keeps its entry until it leaves")
    }

    /// Takes out a waiter whose turn has come.
    pub(super) fn leave(&mut self, key: usize) {
        self.waiters.remove(key);
    }

    /// Takes out a waiter that gives up, and moves up those behind it by `back` units; returns who must look again.
    pub(super) fn give_up(&mut self, key: usize, back: u64) -> Vec<Waker> {
        let behind = self.waiters.after(key);
        self.waiters.remove(key);
        self.change(behind, |waiter| waiter.next = waiter.next.saturating_sub(back))
    }

    /// Changes all waiters; returns who must look again.
    pub(super) fn change_all(&mut self, change: impl FnMut(&mut Waiter)) -> Vec<Waker> {
        let first = self.waiters.first();
        self.change(first, change)
    }

    /// Lets what all wait for be there. Nobody has to be woken: for those it concerns, that time has come long ago.
    pub(super) fn all_are_due(&mut self) {
        let mut next = self.waiters.first();
        while let Some(key) = next {
            next = self.waiters.after(key);
            self.get_mut(key).next = 0;
        }
    }

    pub(super) fn first(&mut self) -> Option<&mut Waiter> {
        let first = self.waiters.first()?;
        self.waiters.get_mut(first)
    }

    /// Returns the word of the one behind.
    pub(super) fn behind(&mut self, key: usize) -> Option<u64> {
        let behind = self.waiters.after(key)?;
        Some(self.get_mut(behind).next)
    }

    fn change(&mut self, from: Option<usize>, mut change: impl FnMut(&mut Waiter)) -> Vec<Waker> {
        let mut woken = Vec::new();
        let mut next = from;
        while let Some(key) = next {
            next = self.waiters.after(key);
            let waiter = self.get_mut(key);
            change(waiter);
            woken.extend(waiter.waker.take());
        }
        woken
    }
}

/// Wakes who must look again, once the lock is released.
pub(super) fn wake(line: MutexGuard<'_, Line>, woken: Vec<Waker>) {
    drop(line);
    woken.into_iter().for_each(Waker::wake);
}

impl Waiter {
    /// Remembers whom to wake; returns the one before, to be dropped outside the lock.
    pub(super) const fn remember(&mut self, waker: Waker) -> Option<Waker> {
        self.waker.replace(waker)
    }

    /// Forgets whom to wake; returns it, to be dropped outside the lock.
    pub(super) const fn forget(&mut self) -> Option<Waker> {
        self.waker.take()
    }
}

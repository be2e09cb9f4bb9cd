//! What a step under the lock comes to, and what it leaves to do after it.

use std::task::Waker;

use crate::discipline::Entry;
use crate::error::Reason;
use crate::event::DropReason;

/// What is left to do once the lock is released.
pub(super) struct Effects<T> {
    pub(super) waker: Option<Waker>,
    pub(super) more: Vec<Waker>,
    /// Not to be woken, only dropped.
    pub(super) unused: Option<Waker>,
    pub(super) dropped: Vec<(T, DropReason)>,
}

impl<T> Effects<T> {
    pub(super) const fn none() -> Self {
        Self { waker: None, more: Vec::new(), unused: None, dropped: Vec::new() }
    }

    /// Returns whether there is something to do.
    #[inline]
    pub(super) fn is_some(&self) -> bool {
        self.waker.is_some() || self.unused.is_some() || !self.dropped.is_empty()
    }

    pub(super) fn wake(&mut self, waker: Option<Waker>) {
        match (&self.waker, waker) {
            (None, waker) => self.waker = waker,
            (_, Some(waker)) => self.more.push(waker),
            (_, None) => {}
        }
    }
}

/// What became of an item that was to go in.
pub(super) enum Pushed<T> {
    In,
    /// It may wait.
    Full(Entry<T>),
    Refused(Entry<T>, Reason),
}

/// What came out, and since when it was inside; `NEVER` if that was not measured.
pub(super) struct Taken<T> {
    pub(super) item: T,
    pub(super) since: u64,
}

/// What a popper finds when it looks.
pub(super) enum Look<T> {
    Taken(Taken<T>),
    Closed,
    /// It waits, under this key from now on.
    NotYet(usize),
    /// It waits under this key, and must come again with a waker.
    NoWaker(usize),
}

/// What a pusher finds when it looks.
pub(super) enum PushLook<T> {
    In,
    Refused(T, Reason),
    NotYet,
    /// It must come again with a waker.
    NoWaker,
}

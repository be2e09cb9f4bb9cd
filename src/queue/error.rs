//! How pushing and popping can fail: [`PushError`], [`PopError`].

use std::fmt;

use crate::error::{Reason, Rejected};

/// An item that did not go into a queue, and why.
///
/// ```
/// use floodwall::{Queue, Reason};
///
/// let queue = Queue::new(1);
/// queue.try_push("first").unwrap();
/// let error = queue.try_push("second").unwrap_err();
/// assert_eq!(error.reason(), Reason::QueueFull);
/// assert_eq!(error.into_item(), "second");
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PushError<T> {
    item: T,
    rejected: Rejected,
}

impl<T> PushError<T> {
    pub(super) const fn new(item: T, rejected: Rejected) -> Self {
        Self { item, rejected }
    }

    /// Returns the item.
    pub fn into_item(self) -> T {
        self.item
    }

    /// Returns who refused the item, why, and when to come back.
    pub const fn rejected(&self) -> Rejected {
        self.rejected
    }

    /// Returns why the item was refused.
    pub const fn reason(&self) -> Reason {
        self.rejected.reason()
    }
}

impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushError").field("rejected", &self.rejected).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rejected.fmt(f)
    }
}

impl<T> std::error::Error for PushError<T> {}

impl<T> From<PushError<T>> for Rejected {
    fn from(error: PushError<T>) -> Self {
        error.rejected
    }
}

/// Why nothing came out of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PopError {
    /// There is nothing, or nothing came in time.
    Empty,
    /// The queue is closed and nothing is left in it.
    Closed,
}

impl fmt::Display for PopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PopError::Empty => "queue empty",
            PopError::Closed => "closed",
        })
    }
}

impl std::error::Error for PopError {}

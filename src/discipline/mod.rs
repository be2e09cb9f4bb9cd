//! Who is served next and who is dropped: the parts that decide it for queues and lines of waiters.
//!
//! Each is a pure core that is told what it decides by. [`Ordered`] puts them together: classes of priority, within a
//! class flows that are served in turn, within a flow first in first out, or newest first under overload.

mod codel;
mod drain;
mod drr;
mod ordered;
mod priorities;
mod shuffle;
mod threshold;

pub(crate) use codel::Codel;
pub(crate) use drain::Drain;
pub(crate) use ordered::{Entry, Order, Ordered};
pub use priorities::Priorities;
pub(crate) use threshold::Threshold;

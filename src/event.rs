//! What primitives say about themselves: [`Event`], [`Outcome`], [`State`], [`DropReason`], and the [`Observer`] that hears it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Rejected, TimedOut};

/// How an admitted call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The dependency did what it was asked to do.
    Success,
    /// The dependency failed.
    Failure,
    /// The dependency asked for less: HTTP 429, `RESOURCE_EXHAUSTED`.
    Throttled {
        /// How long it asked to be left alone, if it said so.
        retry_after: Option<Duration>,
    },
    /// The result says nothing about the dependency: a mistake of the caller's, a call that never ran.
    Ignored,
    /// The permit was dropped without a report: the caller changed its mind, or a task was cancelled.
    Abandoned,
}

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Calls pass and are counted.
    Closed,
    /// Calls are rejected.
    Open,
    /// A few probes pass and decide what comes next.
    HalfOpen,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half-open",
        })
    }
}

/// Something that a primitive or a policy did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A call was admitted.
    Admitted,
    /// A call was refused.
    Rejected(Rejected),
    /// An admitted call ended.
    Finished(Outcome),
    /// A circuit breaker changed its state.
    StateChanged {
        /// What it was.
        from: State,
        /// What it is now.
        to: State,
    },
    /// A call failed and will be made again.
    Retrying {
        /// The number of the attempt that failed, from 1.
        attempt: u16,
        /// How long until the next one.
        delay: Duration,
    },
    /// A retry lets a failed result stand, or a hedge makes no further copy.
    GaveUp {
        /// How many attempts or copies were made.
        attempts: u16,
        /// What kept it from making another.
        why: GiveUp,
    },
    /// A hedge makes a further copy of a call.
    Hedged {
        /// The number of the copy, from 2.
        copy: u16,
        /// How long the call has waited for the copy before; zero if that failed.
        delay: Duration,
    },
    /// One of several copies of a call gave the result, and the others were dropped.
    HedgeWon {
        /// The number of the copy, from 1 for the call itself.
        copy: u16,
    },
    /// A call ran out of time.
    TimedOut(TimedOut),
    /// A failure was replaced by something else.
    FellBack,
    /// An alternate failed and another is asked.
    FailedOver {
        /// The number of the one that failed, from 0.
        from: u8,
        /// The number of the one that is asked now.
        to: u8,
    },
    /// A call waits for what another one of the same key is doing.
    Joined,
    /// A fault, a delay or an answer was put in place of what would have happened.
    Injected,
    /// An item that was in a queue, or was to go into one, was dropped.
    Dropped(DropReason),
}

/// Why a queue dropped an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// The queue was full, and what came last was dropped: this item.
    Newest,
    /// The queue was full, and what had waited longest was dropped.
    Oldest,
    /// The queue was full, and what mattered least was dropped.
    Lowest,
    /// Only the latest item matters, and a later one came.
    Superseded,
    /// The item's deadline passed.
    Expired,
    /// The queue was overloaded, and the item had waited too long.
    Overloaded,
    /// Who waited for what comes of it has left.
    Abandoned,
}

impl DropReason {
    pub(crate) const COUNT: usize = 7;
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DropReason::Newest => "newest",
            DropReason::Oldest => "oldest",
            DropReason::Lowest => "lowest",
            DropReason::Superseded => "superseded",
            DropReason::Expired => "expired",
            DropReason::Overloaded => "overloaded",
            DropReason::Abandoned => "abandoned",
        })
    }
}

/// What keeps a failed call from being made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GiveUp {
    /// As many attempts were made as the backoff allows.
    Attempts,
    /// The next attempt would start too late: past the call's deadline, or [`max_elapsed`](crate::Retry::max_elapsed).
    Time,
    /// The dependency asked to wait longer than [`max_wait`](crate::Retry::max_wait).
    MaxWait,
    /// The [`RetryBudget`](crate::RetryBudget) is used up.
    Budget,
    /// The call may be made only once.
    Once,
}

/// Hears what primitives do: each call, each change of state. Closures `Fn(&str, Event)` are observers, and so is an
/// `Arc` of one, which several primitives can share. Write a closure's types out: `|name: &str, event: Event| ..`.
///
/// An observer is called on the caller's thread, outside every lock, so it may call back into the primitive that it
/// observes. It should be quick, and must not panic.
///
/// ```
/// use std::sync::mpsc;
/// use floodwall::{Bulkhead, Event, Gate};
///
/// let (sender, events) = mpsc::channel();
/// let bulkhead = Bulkhead::new(1).observe("db", move |name: &str, event: Event| {
///     sender.send((name.to_string(), event)).unwrap();
/// });
/// let _permit = bulkhead.try_acquire().unwrap();
/// assert_eq!(events.recv().unwrap(), ("db".to_string(), Event::Admitted));
/// ```
pub trait Observer: Send + Sync {
    /// Hears one event of the primitive called `name`.
    fn on_event(&self, name: &str, event: Event);
}

impl<F: Fn(&str, Event) + Send + Sync> Observer for F {
    fn on_event(&self, name: &str, event: Event) {
        self(name, event);
    }
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn on_event(&self, name: &str, event: Event) {
        (**self).on_event(name, event);
    }
}

/// A primitive's name and who listens to it. Without a listener an event costs one branch.
#[derive(Clone)]
pub(crate) struct Hook {
    pub(crate) name: &'static str,
    observer: Option<Arc<dyn Observer>>,
}

impl Hook {
    pub(crate) const fn unnamed() -> Self {
        Self::named("")
    }

    pub(crate) const fn named(name: &'static str) -> Self {
        Self { name, observer: None }
    }

    pub(crate) fn observe(&mut self, name: &'static str, observer: impl Observer + 'static) {
        self.name = name;
        self.observer = Some(Arc::new(observer));
    }

    #[inline]
    pub(crate) fn emit(&self, event: Event) {
        if self.observer.is_some() {
            self.tell(event);
        }
    }

    /// Out of line, so that where nobody listens no event is made.
    #[cold]
    #[inline(never)]
    fn tell(&self, event: Event) {
        if let Some(observer) = &self.observer {
            observer.on_event(self.name, event);
        }
    }

    /// Tells an event that is made only if somebody listens: made before, it costs a nanosecond or two of stores.
    #[inline]
    pub(crate) fn emit_with(&self, event: impl FnOnce() -> Event) {
        if let Some(observer) = &self.observer {
            observer.on_event(self.name, event());
        }
    }

    /// Tells a decision to the observer, and hands it on.
    #[inline]
    pub(crate) fn admission<P>(&self, decision: Result<P, Rejected>) -> Result<P, Rejected> {
        if self.observer.is_some() {
            self.tell(match &decision {
                Ok(_) => Event::Admitted,
                Err(rejected) => Event::Rejected(*rejected),
            });
        }
        decision
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

//! Connections being made and being closed: [`Job`]. They belong to the pool, and are polled by whoever drives them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::error::ConnectError;
use super::manager::Manager;

pub(super) struct Job<M: Manager> {
    work: Work<M>,
    pub(super) started: u64,
    /// When it is given up.
    pub(super) deadline: u64,
    /// Of the pool when it began.
    pub(super) generation: u64,
}

type Work<M> = Pin<Box<dyn Future<Output = Ended<M>> + Send>>;

pub(super) enum Ended<M: Manager> {
    Connected(M::Connection),
    Failed(ConnectError<M::Error>),
    Closed,
}

impl<M: Manager> Job<M> {
    pub(super) fn dial(manager: Arc<M>, started: u64, deadline: u64, generation: u64) -> Self {
        let work = async move {
            match manager.connect().await {
                Ok(connection) => Ended::Connected(connection),
                Err(error) => Ended::Failed(ConnectError::Failed(Arc::new(error))),
            }
        };
        Self { work: Box::pin(work), started, deadline, generation }
    }

    pub(super) fn close(manager: Arc<M>, connection: M::Connection, deadline: u64) -> Self {
        let work = async move {
            manager.close(connection).await;
            Ended::Closed
        };
        Self { work: Box::pin(work), started: CLOSES, deadline, generation: 0 }
    }

    pub(super) const fn is_dial(&self) -> bool {
        self.started != CLOSES
    }

    /// Polls it once. A panic ends it, as an error does.
    pub(super) fn poll(&mut self, waker: &Waker) -> Option<Ended<M>> {
        let poll = || self.work.as_mut().poll(&mut Context::from_waker(waker));
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Poll::Ready(ended)) => Some(ended),
            Ok(Poll::Pending) => None,
            Err(_) if self.is_dial() => Some(Ended::Failed(ConnectError::Panicked)),
            Err(_) => Some(Ended::Closed),
        }
    }

    /// Drops it: what the manager left in there may panic.
    pub(super) fn put_away(self) {
        drop(catch_unwind(AssertUnwindSafe(|| drop(self))));
    }
}

/// The start of what is no dial.
const CLOSES: u64 = u64::MAX;

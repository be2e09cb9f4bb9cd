//! Connections being made and being closed: [`Job`]. They belong to the pool, and are polled by whoever drives them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::core::Entry;
use super::error::ConnectError;
use super::hooks::Hooks;
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
    /// One that was idle works, or does not.
    Checked(Box<Entry<M::Connection>>, bool),
    /// One that was being checked is gone.
    Lost,
}

impl<M: Manager> Job<M> {
    pub(super) fn dial(
        manager: Arc<M>,
        hooks: Arc<Hooks<M>>,
        started: u64,
        deadline: u64,
        generation: u64,
    ) -> Self {
        let work = async move {
            let mut connection = match manager.connect().await {
                Ok(connection) => connection,
                Err(error) => return Ended::Failed(ConnectError::Failed(Arc::new(error))),
            };
            if let Err(error) = hooks.connected(&mut connection) {
                manager.close(connection).await;
                return Ended::Failed(error);
            }
            Ended::Connected(connection)
        };
        Self { work: Box::pin(work), started, deadline, generation }
    }

    pub(super) fn close(
        manager: Arc<M>,
        hooks: Arc<Hooks<M>>,
        mut connection: M::Connection,
        deadline: u64,
    ) -> Self {
        let work = async move {
            hooks.closes(&mut connection);
            manager.close(connection).await;
            Ended::Closed
        };
        Self { work: Box::pin(work), started: CLOSES, deadline, generation: 0 }
    }

    /// Checks one that is idle, to keep it alive.
    pub(super) fn check(manager: Arc<M>, mut entry: Box<Entry<M::Connection>>, deadline: u64) -> Self {
        let work = async move {
            let works = manager.check(&mut entry.connection).await.is_ok();
            Ended::Checked(entry, works)
        };
        Self { work: Box::pin(work), started: CHECKS, deadline, generation: 0 }
    }

    pub(super) const fn is_dial(&self) -> bool {
        self.started < CHECKS
    }

    /// What it is when its time is over, or when it has panicked.
    pub(super) fn given_up(&self, error: ConnectError<M::Error>) -> Ended<M> {
        match self.started {
            CLOSES => Ended::Closed,
            CHECKS => Ended::Lost,
            _ => Ended::Failed(error),
        }
    }

    /// Polls it once. A panic ends it, as an error does.
    pub(super) fn poll(&mut self, waker: &Waker) -> Option<Ended<M>> {
        let poll = || self.work.as_mut().poll(&mut Context::from_waker(waker));
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Poll::Ready(ended)) => Some(ended),
            Ok(Poll::Pending) => None,
            Err(_) => Some(self.given_up(ConnectError::Panicked)),
        }
    }

    /// Drops it: what the manager left in there may panic.
    pub(super) fn put_away(self) {
        drop(catch_unwind(AssertUnwindSafe(|| drop(self))));
    }
}

/// The starts of what is no dial.
const CLOSES: u64 = u64::MAX;
const CHECKS: u64 = u64::MAX - 1;

//! The pool of one key: [`Room`], and the manager that takes places for its connections.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::places::{Common, Place};
use crate::call::Call;
use crate::clock::Clock;
use crate::error::Rejected;
use crate::gate::{Gate, Permit};
use crate::pool::{Manager, Pool, PoolBuilder, PoolStatus};
use crate::semaphore::Semaphore;

pub(super) struct Room<M: Manager> {
    pub(super) pool: Pool<Placing<M>>,
    /// Those who have one of its connections, or are let in to get one.
    pub(super) callers: Semaphore,
}

impl<M: Manager> Room<M> {
    pub(super) fn new(pool: PoolBuilder<M>, common: &Arc<Common<M>>) -> Arc<Self> {
        let (most, waiting, newest_first) = pool.bounds();
        let callers = Semaphore::new(most as u64, waiting);
        if newest_first {
            callers.change_list(|list| list.serve_newest_first());
        }
        let clock = pool.shared_clock();
        let pool = pool.with_manager(|inner| Placing { inner, common: common.clone(), clock }).build();
        let room = Arc::new(Self { pool, callers });
        common.add(&room);
        room
    }

    pub(super) fn status(&self) -> PoolStatus {
        let mut status = self.pool.status();
        status.waiting += self.callers.waiting();
        status
    }
}

/// The room of a key, in the registry of keys. Who uses it holds it, so that the key is not forgotten; connections that
/// nobody uses may be.
pub(super) struct Site<M: Manager>(pub(super) Arc<Room<M>>);

impl<M: Manager> Gate for Site<M> {
    fn try_acquire_for(&self, _: Call) -> Result<Permit<'_>, Rejected> {
        unreachable!("the registry is only asked for rooms")
    }
}

/// Takes a place for each connection.
pub(super) struct Placing<M: Manager> {
    inner: M,
    common: Arc<Common<M>>,
    clock: Clock,
}

/// A connection, and its place, which is free after it.
pub(super) struct Placed<C> {
    pub(super) connection: C,
    pub(super) place: Place,
}

impl<C> Deref for Placed<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.connection
    }
}

impl<C> DerefMut for Placed<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.connection
    }
}

impl<M: Manager> Placing<M> {
    pub(super) async fn close_inner(&self, connection: M::Connection) {
        self.inner.close(connection).await;
    }
}

impl<M: Manager> Manager for Placing<M> {
    type Connection = Placed<M::Connection>;
    type Error = M::Error;

    async fn connect(&self) -> Result<Self::Connection, M::Error> {
        let place = self.common.place(&self.clock).await;
        Ok(Placed { connection: self.inner.connect().await?, place })
    }

    fn check(&self, placed: &mut Self::Connection) -> impl Future<Output = Result<(), M::Error>> + Send {
        self.inner.check(placed)
    }

    fn is_broken(&self, placed: &mut Self::Connection) -> bool {
        self.inner.is_broken(placed)
    }

    fn needs_reset(&self, placed: &mut Self::Connection) -> bool {
        self.inner.needs_reset(placed)
    }

    fn reset(&self, placed: &mut Self::Connection) -> impl Future<Output = Result<(), M::Error>> + Send {
        self.inner.reset(placed)
    }

    async fn close(&self, placed: Self::Connection) {
        let Placed { connection, place } = placed;
        self.inner.close(connection).await;
        drop(place);
    }
}

//! What a user does to connections on their way: [`Hooks`]. A hook that panics has said no, and the pool goes on.

use std::ops::DerefMut;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::error::ConnectError;
use super::manager::Manager;

type Says<C, T> = Box<dyn Fn(&mut C) -> T + Send + Sync>;
type Prepares<M> = Says<<M as Manager>::Connection, Result<(), <M as Manager>::Error>>;

/// Without a hook each costs a branch.
pub(super) struct Hooks<M: Manager> {
    pub(super) connect: Option<Prepares<M>>,
    pub(super) take: Option<Says<M::Connection, bool>>,
    pub(super) come_home: Option<Says<M::Connection, bool>>,
    pub(super) close: Option<Says<M::Connection, ()>>,
}

impl<M: Manager> Default for Hooks<M> {
    fn default() -> Self {
        Self { connect: None, take: None, come_home: None, close: None }
    }
}

impl<M: Manager> Hooks<M> {
    /// The same hooks, for a manager around this one.
    pub(super) fn further_in<N>(self) -> Hooks<N>
    where
        N: Manager<Connection: DerefMut<Target = M::Connection>, Error = M::Error>,
    {
        let Self { connect, take, come_home, close } = self;
        Hooks {
            connect: further_in(connect),
            take: further_in(take),
            come_home: further_in(come_home),
            close: further_in(close),
        }
    }

    /// Prepares one that was just made.
    pub(super) fn connected(&self, connection: &mut M::Connection) -> Result<(), ConnectError<M::Error>> {
        match ask(self.connect.as_ref(), connection) {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(ConnectError::Failed(Arc::new(error))),
            Some(Err(Panicked)) => Err(ConnectError::Panicked),
        }
    }

    /// Says whether one may be given out.
    #[inline]
    pub(super) fn lets_go(&self, connection: &mut M::Connection) -> bool {
        ask(self.take.as_ref(), connection).is_none_or(|says| says.unwrap_or(false))
    }

    /// Says whether one that comes home may be given out again.
    #[inline]
    pub(super) fn keeps(&self, connection: &mut M::Connection) -> bool {
        ask(self.come_home.as_ref(), connection).is_none_or(|says| says.unwrap_or(false))
    }

    pub(super) fn closes(&self, connection: &mut M::Connection) {
        ask(self.close.as_ref(), connection);
    }
}

struct Panicked;

/// A hook for what holds the connection.
fn further_in<C: 'static, D: DerefMut<Target = C>, T: 'static>(
    hook: Option<Says<C, T>>,
) -> Option<Says<D, T>> {
    hook.map(|hook| -> Says<D, T> { Box::new(move |outer| hook(outer)) })
}

#[inline]
fn ask<C, T>(hook: Option<&Says<C, T>>, connection: &mut C) -> Option<Result<T, Panicked>> {
    hook.map(|hook| catch_unwind(AssertUnwindSafe(|| hook(connection))).map_err(|_| Panicked))
}

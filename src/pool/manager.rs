//! How connections are made, checked and closed: [`Manager`], [`BlockingManager`], [`InPlace`].

use std::sync::Arc;

/// Makes the connections of a [`Pool`](crate::Pool), checks them, and closes them.
///
/// For a client that blocks, implement [`BlockingManager`] instead. What panics in here counts as an error, and the pool
/// goes on. Nothing in here is called under a lock.
///
/// ```
/// use floodwall::{Manager, Pool};
///
/// struct Redis;
/// # struct Connection { open: bool }
/// # impl Connection {
/// #     async fn open(_: &str) -> std::io::Result<Self> { Ok(Self { open: true }) }
/// #     async fn ping(&mut self) -> std::io::Result<()> { Ok(()) }
/// # }
/// impl Manager for Redis {
///     type Connection = Connection;
///     type Error = std::io::Error;
///     async fn connect(&self) -> std::io::Result<Connection> {
///         Connection::open("10.0.0.7:6379").await
///     }
///     async fn check(&self, connection: &mut Connection) -> std::io::Result<()> {
///         connection.ping().await
///     }
///     fn is_broken(&self, connection: &mut Connection) -> bool {
///         !connection.open
///     }
/// }
/// let pool = Pool::new(Redis, 4);
/// # floodwall::block_on(async {
/// let connection = pool.get().await?;
/// assert!(connection.open);
/// # Ok::<(), floodwall::pool::PoolError<std::io::Error>>(())
/// # }).unwrap();
/// ```
pub trait Manager: Send + Sync + 'static {
    /// A connection.
    type Connection: Send + 'static;

    /// Why there is none. Those who wait for a connection share it.
    type Error: Send + Sync + 'static;

    /// Connects.
    ///
    /// The pool bounds how long that takes, and how many do it at once. A caller that goes away does not end it.
    ///
    /// # Errors
    ///
    /// When there is no connection; the pool waits a while and tries again.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Self::Error>> + Send;

    /// Asks the other side whether the connection still works, as cheaply as that is possible.
    ///
    /// Called before a connection is given out that was idle for long, or may be broken. It may be dropped half-way, and
    /// called again later.
    ///
    /// # Errors
    ///
    /// When it does not; the connection is closed then.
    fn check(
        &self,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Says whether the connection is known to be broken, without asking anybody. Default: it is not.
    ///
    /// Called when one comes home. If it is, those that are idle are checked before they are given out. It must not block.
    fn is_broken(&self, connection: &mut Self::Connection) -> bool {
        let _ = connection;
        false
    }

    /// Says whether what the last user left must be [reset](Manager::reset) before the next one: an open transaction,
    /// settings of a session. Default: nothing must.
    ///
    /// Called when a connection comes home. It must not block.
    fn needs_reset(&self, connection: &mut Self::Connection) -> bool {
        let _ = connection;
        false
    }

    /// Clears away what the last user left. Called before the connection is given out again, in place of a check. Default:
    /// as [`check`](Manager::check).
    ///
    /// # Errors
    ///
    /// When that is not possible; the connection is closed then.
    fn reset(
        &self,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        self.check(connection)
    }

    /// Closes a connection. Default: drops it.
    ///
    /// Its place is taken until this has ended, so that the other side never sees more connections than the pool may
    /// have. It is polled first where the connection is given up, which may be outside of any runtime.
    fn close(&self, connection: Self::Connection) -> impl Future<Output = ()> + Send {
        async move { drop(connection) }
    }
}

/// A [`Manager`] whose operations block the thread: embedded databases, blocking clients.
///
/// [`in_place`](BlockingManager::in_place) makes a `Manager` of it. Meanings and errors are those of `Manager`.
///
/// ```
/// use floodwall::Pool;
/// use floodwall::pool::BlockingManager;
///
/// struct Files;
/// impl BlockingManager for Files {
///     type Connection = std::fs::File;
///     type Error = std::io::Error;
///     fn connect(&self) -> std::io::Result<std::fs::File> {
///         std::fs::File::open("Cargo.toml")
///     }
///     fn check(&self, file: &mut std::fs::File) -> std::io::Result<()> {
///         file.metadata().map(drop)
///     }
/// }
/// let pool = Pool::new(Files.in_place(), 4);
/// assert!(pool.get_blocking().unwrap().metadata().unwrap().is_file());
/// ```
#[expect(clippy::missing_errors_doc, reason = "they are those of Manager")]
pub trait BlockingManager: Send + Sync + 'static {
    /// A connection.
    type Connection: Send + 'static;

    /// Why there is none.
    type Error: Send + Sync + 'static;

    /// Connects. Bound the time by what the client offers for that: a call that blocks cannot be cut off.
    fn connect(&self) -> Result<Self::Connection, Self::Error>;

    /// Asks the other side whether the connection still works.
    fn check(&self, connection: &mut Self::Connection) -> Result<(), Self::Error>;

    /// Says whether the connection is known to be broken, without asking anybody. Default: it is not.
    fn is_broken(&self, connection: &mut Self::Connection) -> bool {
        let _ = connection;
        false
    }

    /// Says whether what the last user left must be reset before the next one. Default: nothing must.
    fn needs_reset(&self, connection: &mut Self::Connection) -> bool {
        let _ = connection;
        false
    }

    /// Clears away what the last user left. Default: as [`check`](BlockingManager::check).
    fn reset(&self, connection: &mut Self::Connection) -> Result<(), Self::Error> {
        self.check(connection)
    }

    /// Closes a connection. Default: drops it.
    fn close(&self, connection: Self::Connection) {
        drop(connection);
    }

    /// Makes a [`Manager`] that runs on the caller's thread.
    fn in_place(self) -> InPlace<Self>
    where
        Self: Sized,
    {
        InPlace(self)
    }
}

/// A [`BlockingManager`] as a [`Manager`] whose operations run on the caller's thread, and block it.
///
/// For plain threads. A caller that waits connects itself, and may come late for its deadline by what that takes; with
/// [`run_blocking`](crate::Pool::run_blocking) on threads of their own, those connect instead. In async code it holds up
/// the other tasks of its thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct InPlace<M>(pub M);

impl<M: BlockingManager> Manager for InPlace<M> {
    type Connection = M::Connection;
    type Error = M::Error;

    async fn connect(&self) -> Result<M::Connection, M::Error> {
        self.0.connect()
    }

    async fn check(&self, connection: &mut M::Connection) -> Result<(), M::Error> {
        self.0.check(connection)
    }

    fn is_broken(&self, connection: &mut M::Connection) -> bool {
        self.0.is_broken(connection)
    }

    fn needs_reset(&self, connection: &mut M::Connection) -> bool {
        self.0.needs_reset(connection)
    }

    async fn reset(&self, connection: &mut M::Connection) -> Result<(), M::Error> {
        self.0.reset(connection)
    }

    async fn close(&self, connection: M::Connection) {
        self.0.close(connection);
    }
}

impl<M: Manager> Manager for Arc<M> {
    type Connection = M::Connection;
    type Error = M::Error;

    fn connect(&self) -> impl Future<Output = Result<M::Connection, M::Error>> + Send {
        (**self).connect()
    }

    fn check(&self, connection: &mut M::Connection) -> impl Future<Output = Result<(), M::Error>> + Send {
        (**self).check(connection)
    }

    fn is_broken(&self, connection: &mut M::Connection) -> bool {
        (**self).is_broken(connection)
    }

    fn needs_reset(&self, connection: &mut M::Connection) -> bool {
        (**self).needs_reset(connection)
    }

    fn reset(&self, connection: &mut M::Connection) -> impl Future<Output = Result<(), M::Error>> + Send {
        (**self).reset(connection)
    }

    fn close(&self, connection: M::Connection) -> impl Future<Output = ()> + Send {
        (**self).close(connection)
    }
}

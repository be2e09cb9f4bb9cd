//! Connections to a PostgreSQL server: [`PostgresManager`].

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;

use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Error, Socket, Statement};

use super::manager::Manager;
use crate::answer::{Question, ask};
use crate::sync::Mutex;

/// Makes the connections of a [`Pool`](crate::Pool) to a PostgreSQL server, by tokio-postgres.
///
/// It connects inside a tokio runtime: that of [`run`](crate::Pool::run) if that is spawned, and then callers may be plain
/// threads; or else that of the callers who wait.
///
/// A connection is known to be broken once the server, or the network, has ended it, and is checked by an empty query. The
/// manager waits until one is closed in good order before another one takes its place.
///
/// A `Transaction` that is dropped rolls back, before the next user's first query. What else a user leaves in a session
/// (settings, temporary tables, listens, a `BEGIN` in words) stays, unless [`reset_by`](PostgresManager::reset_by) says
/// what to do about it.
///
/// ```no_run
/// use floodwall::Pool;
/// use floodwall::pool::PostgresManager;
/// use tokio_postgres::NoTls;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = "host=localhost user=app".parse()?;
/// let manager = PostgresManager::new(server, NoTls, |driver| drop(tokio::spawn(driver)));
/// let pool = Pool::new(manager, 8);
/// let mut connection = pool.get().await?;
/// let add = connection.prepare_cached("SELECT $1::int4 + 1").await?;
/// assert_eq!(connection.query_one(&add, &[&41]).await?.get::<_, i32>(0), 42);
/// let transaction = connection.transaction().await?;
/// transaction.batch_execute("DELETE FROM orders").await?;
/// // Dropped, and so rolled back.
/// # Ok(())
/// # }
/// ```
pub struct PostgresManager {
    dial: Box<Dial>,
    reset: Option<Box<str>>,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Dial = dyn Fn() -> Boxed<Result<PostgresConnection, Error>> + Send + Sync;

impl PostgresManager {
    /// Clears away what a session can hold, but for prepared statements: as `DISCARD ALL` does, which would discard those,
    /// after a `ROLLBACK`. For [`reset_by`](PostgresManager::reset_by).
    pub const CLEAN: &str = "ROLLBACK; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
                             SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

    /// Connects as `config` says, by `tls` or `NoTls`.
    ///
    /// Each connection has a driver, which must run for as long as the connection is used: `spawn` sees to that, mostly by
    /// `tokio::spawn`.
    pub fn new<T, S>(config: Config, tls: T, spawn: S) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
        S: Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync + 'static,
    {
        let spawn = Arc::new(spawn);
        let dial = move || -> Boxed<_> {
            let (config, tls, spawn) = (config.clone(), tls.clone(), spawn.clone());
            Box::pin(async move {
                let (client, driver) = config.connect(tls).await?;
                let (ended, end) = ask();
                spawn(Box::pin(async move {
                    // How it fails is told to those who use the connection.
                    drop(driver.await);
                    end.give(());
                }));
                Ok(PostgresConnection { client, prepared: Mutex::default(), ended })
            })
        };
        Self { dial: Box::new(dial), reset: None }
    }

    /// Executes `statements` before a connection is given out again, such as [`CLEAN`](PostgresManager::CLEAN). That is one
    /// round trip more for each use. Default: nothing.
    #[must_use = "returns the changed manager"]
    pub fn reset_by(mut self, statements: &str) -> Self {
        self.reset = Some(statements.into());
        self
    }
}

impl Manager for PostgresManager {
    type Connection = PostgresConnection;
    type Error = Error;

    async fn connect(&self) -> Result<PostgresConnection, Error> {
        (self.dial)().await
    }

    async fn check(&self, connection: &mut PostgresConnection) -> Result<(), Error> {
        connection.batch_execute("").await
    }

    fn is_broken(&self, connection: &mut PostgresConnection) -> bool {
        connection.is_closed()
    }

    fn needs_reset(&self, _: &mut PostgresConnection) -> bool {
        self.reset.is_some()
    }

    async fn reset(&self, connection: &mut PostgresConnection) -> Result<(), Error> {
        connection.batch_execute(self.reset.as_deref().unwrap_or_default()).await
    }

    async fn close(&self, connection: PostgresConnection) {
        let PostgresConnection { client, prepared, ended } = connection;
        drop(prepared);
        // Its driver says goodbye then, and ends.
        drop(client);
        poll_fn(|context| ended.poll(context.waker())).await;
    }
}

impl fmt::Debug for PostgresManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresManager").field("reset_by", &self.reset).finish_non_exhaustive()
    }
}

/// A connection of a [`PostgresManager`]. It derefs to tokio-postgres' `Client`, and keeps prepared statements.
pub struct PostgresConnection {
    client: Client,
    prepared: Mutex<HashMap<Box<str>, Statement>>,
    /// Answered when its driver has ended.
    ended: Question<()>,
}

impl PostgresConnection {
    const MOST_PREPARED: usize = 256;

    /// Prepares a statement, once for as long as the connection lasts.
    ///
    /// It is found again by its text: put values into parameters. At most 256 are kept; another one begins anew.
    ///
    /// # Errors
    ///
    /// When the server does not take it, or the connection is lost.
    ///
    /// # Cost
    ///
    /// A round trip the first time, or two for types that the server has to explain; later a short lock and a hash.
    pub async fn prepare_cached(&self, sql: &str) -> Result<Statement, Error> {
        let known = self.prepared.lock().get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        let mut prepared = self.prepared.lock();
        let is_full = prepared.len() >= Self::MOST_PREPARED;
        let old = if is_full { mem::take(&mut *prepared) } else { HashMap::new() };
        prepared.insert(sql.into(), statement.clone());
        drop(prepared);
        drop(old);
        Ok(statement)
    }
}

impl Deref for PostgresConnection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for PostgresConnection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl fmt::Debug for PostgresConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConnection").field("is_closed", &self.is_closed()).finish_non_exhaustive()
    }
}

//! A store in a PostgreSQL database: [`Postgres`].

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;

use super::{Batch, Codec, CodecError, Plain, Store, Write};
use crate::bell::Bell;
use crate::clock::{Clock, NEVER};
use crate::pool::{Checkout, Pool, PoolError, PostgresConnection, PostgresManager};
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering};

/// A table of keys and values in a PostgreSQL database: `(key bytea PRIMARY KEY, value bytea NOT NULL)`.
///
/// Keys and values cross by a [`Codec`], [`Plain`] unless [`codec`](Postgres::codec) sets another. For tables of another
/// form, implement [`Store`] over a [`Pool`] of your own; this file is a model.
///
/// Operations that run at the same time share a connection of the pool, in which they follow one another without waiting
/// for answers; it goes home when none is on its way, or after some hundreds. A batch is one statement, of arrays. If the
/// table refuses one of its writes, the batch is halved until it is found, and the others are made.
///
/// An operation on a connection that is lost fails. To try again is for a [`Retry`](crate::Retry) or a
/// [`WriteBehind`](crate::WriteBehind); the pool sees to it that a server that comes back meets few new connections at a
/// time.
///
/// # Cancel safety
///
/// A write that is dropped may or may not be made, and may be made after a later one. Its connection is checked before
/// it is used again.
///
/// ```no_run
/// use floodwall::Pool;
/// use floodwall::pool::PostgresManager;
/// use floodwall::store::{Postgres, Store};
/// use tokio_postgres::NoTls;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = "host=localhost user=app".parse()?;
/// let manager = PostgresManager::new(server, NoTls, |driver| drop(tokio::spawn(driver)));
/// let users = Postgres::<u64, String>::open(Pool::new(manager, 8), "users").await?;
/// users.save(&7, &"ann".to_string()).await?;
/// assert_eq!(users.load(&7).await?, Some("ann".to_string()));
/// # Ok(())
/// # }
/// ```
pub struct Postgres<K, V, C = Plain> {
    pool: Pool<PostgresManager>,
    /// The connection that was taken last, while operations are on their way in it.
    busy: Mutex<Weak<Busy>>,
    /// Rings when one is taken.
    taken: Bell,
    clock: Clock,
    table: String,
    sql: Sql,
    codec: C,
    types: PhantomData<fn(K) -> V>,
}

/// The statements, with the table's name in them.
struct Sql {
    create: String,
    load: String,
    save: String,
    remove: String,
    load_many: String,
    write_many: String,
}

impl Sql {
    fn new(table: &str) -> Self {
        let table = format!(r#""{}""#, table.replace('"', "\"\""));
        let upsert = "ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        Self {
            create: format!(
                "CREATE TABLE IF NOT EXISTS {table} (key bytea PRIMARY KEY NOT NULL, value bytea NOT NULL)"
            ),
            load: format!("SELECT value FROM {table} WHERE key = $1"),
            save: format!("INSERT INTO {table} (key, value) VALUES ($1, $2) {upsert}"),
            remove: format!("DELETE FROM {table} WHERE key = $1"),
            load_many: format!("SELECT key, value FROM {table} WHERE key = ANY ($1)"),
            write_many: format!(
                "WITH gone AS (DELETE FROM {table} WHERE key = ANY ($3)) \
                 INSERT INTO {table} (key, value) SELECT * FROM UNNEST ($1::bytea[], $2::bytea[]) {upsert}"
            ),
        }
    }
}

/// A connection with operations on their way, which follow one another without waiting for answers.
struct Busy {
    connection: Checkout<'static, PostgresManager>,
    operations: AtomicU64,
    /// One has failed or was dropped: whoever came next might wait behind it.
    in_doubt: AtomicBool,
}

impl Busy {
    /// Then it goes home, where others may wait for it.
    const MOST_OPERATIONS: u64 = 256;

    fn takes_more(&self) -> bool {
        // Relaxed: some more or less do no harm.
        !self.in_doubt.load(Ordering::Relaxed)
            && !self.connection.is_closed()
            && self.operations.fetch_add(1, Ordering::Relaxed) < Self::MOST_OPERATIONS
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.in_doubt.load(Ordering::Relaxed) {
            self.connection.mark_suspect();
        }
    }
}

/// One of them.
struct Operation {
    busy: Arc<Busy>,
    has_ended: bool,
}

impl Operation {
    /// It has ended well.
    fn end(mut self) {
        self.has_ended = true;
    }
}

impl Deref for Operation {
    type Target = PostgresConnection;

    fn deref(&self) -> &PostgresConnection {
        &self.busy.connection
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if !self.has_ended {
            self.busy.in_doubt.store(true, Ordering::Relaxed);
        }
    }
}

impl<K, V> Postgres<K, V> {
    /// Takes its connections from `pool`, and creates `table` if there is none.
    ///
    /// The pool may be shared with other stores and with queries of one's own.
    ///
    /// # Errors
    ///
    /// When there is no connection, or a table of that name has another form.
    pub async fn open(pool: Pool<PostgresManager>, table: &str) -> Result<Self, PostgresError> {
        let sql = Sql::new(table);
        let connection = pool.get().await?;
        let created = connection.batch_execute(&sql.create).await;
        let loads = connection.prepare_cached(&sql.load).await;
        // Of two who create the table at once one may fail, although it is there then.
        loads.map_err(|error| created.err().unwrap_or(error))?;
        drop(connection);
        Ok(Self {
            pool,
            busy: Mutex::default(),
            taken: Bell::default(),
            clock: Clock::system(),
            table: table.to_owned(),
            sql,
            codec: Plain,
            types: PhantomData,
        })
    }
}

struct Row {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl<K, V, C> Postgres<K, V, C> {
    /// Turns keys and values into bytes by `codec`. Default: [`Plain`].
    pub fn codec<D: Codec<K> + Codec<V>>(self, codec: D) -> Postgres<K, V, D> {
        let Self { pool, busy, taken, clock, table, sql, codec: _, types } = self;
        Postgres { pool, busy, taken, clock, table, sql, codec, types }
    }

    /// Returns the pool.
    pub fn pool(&self) -> &Pool<PostgresManager> {
        &self.pool
    }

    /// Joins the operations that are on their way, or takes a connection, whichever comes first.
    async fn connection(&self) -> Result<Operation, PostgresError> {
        if let Some(operation) = self.join() {
            return Ok(operation);
        }
        let mut get = pin!(self.pool.get());
        loop {
            let heard = self.taken.rings();
            if let Some(operation) = self.join() {
                return Ok(operation);
            }
            let mut taken = pin!(self.taken.wait(heard, &self.clock, NEVER));
            let got = poll_fn(|context| match get.as_mut().poll(context) {
                Poll::Ready(got) => Poll::Ready(Some(got)),
                Poll::Pending => taken.as_mut().poll(context).map(|()| None),
            });
            if let Some(got) = got.await {
                let (operations, in_doubt) = (AtomicU64::new(1), AtomicBool::new(false));
                let busy = Arc::new(Busy { connection: got?.into_owned(), operations, in_doubt });
                *self.busy.lock() = Arc::downgrade(&busy);
                self.taken.ring();
                return Ok(Operation { busy, has_ended: false });
            }
        }
    }

    fn join(&self) -> Option<Operation> {
        let busy = self.busy.lock().upgrade();
        let busy = busy.filter(|busy| busy.takes_more())?;
        Some(Operation { busy, has_ended: false })
    }

    async fn write_rows(
        &self,
        connection: &PostgresConnection,
        rows: &[Row],
    ) -> Result<(), tokio_postgres::Error> {
        let prepare = |sql| connection.prepare_cached(sql);
        let wrote = match rows {
            [] => return Ok(()),
            [Row { key, value: Some(value) }] => {
                connection.execute(&prepare(&self.sql.save).await?, &[key, value]).await
            }
            [Row { key, value: None }] => connection.execute(&prepare(&self.sql.remove).await?, &[key]).await,
            _ => {
                let saved = rows.iter().filter_map(|row| Some((&*row.key, row.value.as_deref()?)));
                let (keys, values): (Vec<&[u8]>, Vec<&[u8]>) = saved.unzip();
                let removed = rows.iter().filter(|row| row.value.is_none());
                let removed: Vec<&[u8]> = removed.map(|row| &*row.key).collect();
                let write_many = prepare(&self.sql.write_many).await?;
                connection.execute(&write_many, &[&keys, &values, &removed]).await
            }
        };
        wrote.map(drop)
    }

    fn encoded<T>(&self, value: &T) -> Result<Vec<u8>, PostgresError>
    where
        C: Codec<T>,
    {
        let mut bytes = Vec::new();
        self.codec.encode(value, &mut bytes)?;
        Ok(bytes)
    }

    fn row(&self, write: &Write<'_, K, V>) -> Result<Row, PostgresError>
    where
        C: Codec<K> + Codec<V>,
    {
        let value = write.value.map(|value| self.encoded(value)).transpose()?;
        Ok(Row { key: self.encoded(write.key)?, value })
    }

    async fn write(&self, row: Result<Row, PostgresError>) -> Result<(), PostgresError> {
        let row = row?;
        let connection = self.connection().await?;
        self.write_rows(&connection, &[row]).await?;
        connection.end();
        Ok(())
    }
}

impl<K, V, C> Store<K, V> for Postgres<K, V, C>
where
    K: Send + Sync,
    V: Send + Sync,
    C: Codec<K> + Codec<V>,
{
    type Error = PostgresError;

    async fn load(&self, key: &K) -> Result<Option<V>, PostgresError> {
        let key = self.encoded(key)?;
        let connection = self.connection().await?;
        let load = connection.prepare_cached(&self.sql.load).await?;
        let row = connection.query_opt(&load, &[&key]).await?;
        connection.end();
        Ok(row.map(|row| self.codec.decode(row.get(0))).transpose()?)
    }

    async fn save(&self, key: &K, value: &V) -> Result<(), PostgresError> {
        self.write(self.row(&Write::save(key, value))).await
    }

    async fn remove(&self, key: &K) -> Result<(), PostgresError> {
        self.write(self.row(&Write::remove(key))).await
    }

    async fn load_many(&self, keys: &[&K]) -> Batch<Option<V>, PostgresError> {
        let keys: Vec<_> = keys.iter().map(|key| self.encoded(*key)).collect();
        let asked: Vec<&[u8]> = keys.iter().flatten().map(|key| &**key).collect();
        let connection = self.connection().await?;
        let load_many = connection.prepare_cached(&self.sql.load_many).await?;
        let rows = connection.query(&load_many, &[&asked]).await?;
        connection.end();
        let found: HashMap<&[u8], &[u8]> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let value = |key: Result<Vec<u8>, PostgresError>| {
            Ok(found.get(&*key?).map(|bytes| self.codec.decode(bytes)).transpose()?)
        };
        Ok(keys.into_iter().map(value).collect())
    }

    async fn write_many(&self, writes: &[Write<'_, K, V>]) -> Batch<(), PostgresError> {
        let mut results = Vec::with_capacity(writes.len());
        let (mut rows, mut places) = (Vec::new(), Vec::new());
        for (place, write) in writes.iter().enumerate() {
            results.push(self.row(write).map(|row| {
                rows.push(row);
                places.push(place);
            }));
        }
        let connection = self.connection().await?;
        let mut parts = vec![(0, rows.len())];
        while let Some((start, end)) = parts.pop() {
            let wrote = self.write_rows(&connection, &rows[start..end]).await;
            match wrote.map_err(PostgresError::Database) {
                Ok(()) => {}
                Err(error) if !error.is_permanent() => return Err(error),
                Err(error) if end - start == 1 => results[places[start]] = Err(error),
                Err(_) => {
                    let middle = start.midpoint(end);
                    parts.extend([(middle, end), (start, middle)]);
                }
            }
        }
        connection.end();
        Ok(results)
    }
}

impl<K, V, C> fmt::Debug for Postgres<K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("table", &self.table).finish_non_exhaustive()
    }
}

/// How an operation on a [`Postgres`] fails.
#[derive(Debug)]
#[non_exhaustive]
pub enum PostgresError {
    /// PostgreSQL failed, or the connection to it was lost.
    Database(tokio_postgres::Error),
    /// A key or value has no bytes, or bytes are no value.
    Codec(CodecError),
    /// The pool gave no connection.
    Pool(PoolError<tokio_postgres::Error>),
}

impl PostgresError {
    /// Returns whether the same operation will fail again, whenever it is made: for
    /// [`give_up_when`](crate::WriteBehindBuilder::give_up_when).
    pub fn is_permanent(&self) -> bool {
        let PostgresError::Database(error) = self else { return matches!(self, PostgresError::Codec(_)) };
        // Classes of SQLSTATE: data exceptions, integrity constraints, limits of the program.
        error.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.code().starts_with(class)))
    }
}

impl From<tokio_postgres::Error> for PostgresError {
    fn from(error: tokio_postgres::Error) -> Self {
        PostgresError::Database(error)
    }
}

impl From<PoolError<tokio_postgres::Error>> for PostgresError {
    fn from(error: PoolError<tokio_postgres::Error>) -> Self {
        PostgresError::Pool(error)
    }
}

impl From<CodecError> for PostgresError {
    fn from(error: CodecError) -> Self {
        PostgresError::Codec(error)
    }
}

impl fmt::Display for PostgresError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PostgresError::Database(error) => error.fmt(f),
            PostgresError::Codec(error) => error.fmt(f),
            PostgresError::Pool(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PostgresError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PostgresError::Database(error) => error.source(),
            PostgresError::Codec(error) => error.source(),
            PostgresError::Pool(error) => error.source(),
        }
    }
}

//! A store in a PostgreSQL database: [`Postgres`].

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use tokio_postgres::{Client, Statement};

use super::{Batch, Codec, CodecError, Plain, Store, Write};
use crate::error::{Error, Rejected};
use crate::flight::SingleFlight;
use crate::sync::Mutex;

/// A table of keys and values in a PostgreSQL database: `(key bytea PRIMARY KEY, value bytea NOT NULL)`.
///
/// Keys and values cross by a [`Codec`], [`Plain`] unless [`codec`](Postgres::codec) sets another. For tables of another
/// form, implement [`Store`] over a client of your own; this file is a model.
///
/// All operations share one connection, in which they follow one another without waiting for answers. A batch is one
/// statement, of arrays. If the table refuses one of its writes, the batch is halved until it is found, and the others
/// are made.
///
/// An operation on a connection that is lost fails; the next one makes a new connection, once for all who ask. To try
/// again is for a [`Retry`](crate::Retry) or a [`WriteBehind`](crate::WriteBehind).
///
/// ```no_run
/// use floodwall::store::{Postgres, Store};
/// use tokio_postgres::NoTls;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), floodwall::store::PostgresError> {
/// let connect = || async {
///     let (client, connection) = tokio_postgres::connect("host=localhost user=app", NoTls).await?;
///     tokio::spawn(connection);
///     Ok(client)
/// };
/// let users = Postgres::<u64, String>::open("users", connect).await?;
/// users.save(&7, &"ann".to_string()).await?;
/// assert_eq!(users.load(&7).await?, Some("ann".to_string()));
/// # Ok(())
/// # }
/// ```
pub struct Postgres<K, V, C = Plain> {
    connect: Box<Connect>,
    /// The connection that was made last.
    connected: Mutex<Option<Arc<Connected>>>,
    connecting: SingleFlight<(), Arc<Connected>>,
    table: String,
    codec: C,
    types: PhantomData<fn(K) -> V>,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Client, tokio_postgres::Error>> + Send>>;
type Connect = dyn Fn() -> Connecting + Send + Sync;

/// A connection, and what is prepared in it.
struct Connected {
    client: Client,
    load: Statement,
    save: Statement,
    remove: Statement,
    load_many: Statement,
    write_many: Statement,
}

impl Connected {
    async fn new(client: Client, table: &str) -> Result<Self, PostgresError> {
        let table = format!(r#""{}""#, table.replace('"', "\"\""));
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {table} (key bytea PRIMARY KEY NOT NULL, value bytea NOT NULL)"
        );
        let created = client.batch_execute(&create).await;
        let prepare = |sql: String| {
            let client = &client;
            async move { client.prepare(&sql).await }
        };
        let load = prepare(format!("SELECT value FROM {table} WHERE key = $1")).await;
        // Of two who create the table at once one may fail, although it is there then.
        let load = load.map_err(|error| created.err().unwrap_or(error))?;
        let upsert = "ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        let save = prepare(format!("INSERT INTO {table} (key, value) VALUES ($1, $2) {upsert}")).await?;
        let remove = prepare(format!("DELETE FROM {table} WHERE key = $1")).await?;
        let load_many = prepare(format!("SELECT key, value FROM {table} WHERE key = ANY ($1)")).await?;
        let write_many = format!(
            "WITH gone AS (DELETE FROM {table} WHERE key = ANY ($3)) \
             INSERT INTO {table} (key, value) SELECT * FROM UNNEST ($1::bytea[], $2::bytea[]) {upsert}"
        );
        let write_many = prepare(write_many).await?;
        Ok(Self { client, load, save, remove, load_many, write_many })
    }

    async fn write(&self, rows: &[Row]) -> Result<(), tokio_postgres::Error> {
        let wrote = match rows {
            [] => return Ok(()),
            [Row { key, value: Some(value) }] => self.client.execute(&self.save, &[key, value]).await,
            [Row { key, value: None }] => self.client.execute(&self.remove, &[key]).await,
            _ => {
                let saved = rows.iter().filter_map(|row| Some((&*row.key, row.value.as_deref()?)));
                let (keys, values): (Vec<&[u8]>, Vec<&[u8]>) = saved.unzip();
                let removed = rows.iter().filter(|row| row.value.is_none());
                let removed: Vec<&[u8]> = removed.map(|row| &*row.key).collect();
                self.client.execute(&self.write_many, &[&keys, &values, &removed]).await
            }
        };
        wrote.map(drop)
    }
}

impl<K, V> Postgres<K, V> {
    /// Connects by `connect`, and creates `table` if there is none.
    ///
    /// `connect` is called again whenever the connection is lost. It must spawn what drives the connection, as the
    /// example does.
    ///
    /// # Errors
    ///
    /// When there is no connection, or a table of that name has another form.
    pub async fn open<F, Fut>(table: &str, connect: F) -> Result<Self, PostgresError>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Client, tokio_postgres::Error>> + Send + 'static,
    {
        let store = Self {
            connect: Box::new(move || Box::pin(connect())),
            connected: Mutex::new(None),
            connecting: SingleFlight::new(),
            table: table.to_owned(),
            codec: Plain,
            types: PhantomData,
        };
        store.connected().await?;
        Ok(store)
    }
}

struct Row {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl<K, V, C> Postgres<K, V, C> {
    /// Turns keys and values into bytes by `codec`. Default: [`Plain`].
    pub fn codec<D: Codec<K> + Codec<V>>(self, codec: D) -> Postgres<K, V, D> {
        let Self { connect, connected, connecting, table, codec: _, types } = self;
        Postgres { connect, connected, connecting, table, codec, types }
    }

    /// Returns the connection, or makes one.
    async fn connected(&self) -> Result<Arc<Connected>, PostgresError> {
        let live = || self.connected.lock().clone().filter(|connected| !connected.client.is_closed());
        if let Some(connected) = live() {
            return Ok(connected);
        }
        let connect = || async {
            // Another one may have made it since.
            if let Some(connected) = live() {
                return Ok(connected);
            }
            let connected = Arc::new(Connected::new((self.connect)().await?, &self.table).await?);
            let old = self.connected.lock().replace(connected.clone());
            drop(old);
            Ok(connected)
        };
        self.connecting.run(&(), connect).await.map_err(|error| match error {
            Error::Inner(error) => error,
            Error::Rejected(rejected) => PostgresError::Rejected(rejected),
            Error::TimedOut(_) => unreachable!("there is no deadline"),
        })
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
        Ok(self.connected().await?.write(&[row]).await?)
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
        let connected = self.connected().await?;
        let row = connected.client.query_opt(&connected.load, &[&key]).await?;
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
        let connected = self.connected().await?;
        let rows = connected.client.query(&connected.load_many, &[&asked]).await?;
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
        let connected = self.connected().await?;
        let mut parts = vec![(0, rows.len())];
        while let Some((start, end)) = parts.pop() {
            match connected.write(&rows[start..end]).await.map_err(PostgresError::Database) {
                Ok(()) => {}
                Err(error) if !error.is_permanent() => return Err(error),
                Err(error) if end - start == 1 => results[places[start]] = Err(error),
                Err(_) => {
                    let middle = start.midpoint(end);
                    parts.extend([(middle, end), (start, middle)]);
                }
            }
        }
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
    /// PostgreSQL failed, or there is no connection to it.
    Database(tokio_postgres::Error),
    /// A key or value has no bytes, or bytes are no value.
    Codec(CodecError),
    /// What makes connections asked the store for one.
    Rejected(Rejected),
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
            PostgresError::Rejected(rejected) => rejected.fmt(f),
        }
    }
}

impl std::error::Error for PostgresError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PostgresError::Database(error) => error.source(),
            PostgresError::Codec(error) => error.source(),
            PostgresError::Rejected(_) => None,
        }
    }
}

//! A store in an SQLite database: [`Sqlite`].

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior};

use super::{Batch, BlockingStore, Codec, CodecError, Plain, Write};
use crate::sync::Mutex;

/// A table of keys and values in an SQLite database: `(key BLOB PRIMARY KEY, value BLOB NOT NULL)`.
///
/// Keys and values cross by a [`Codec`], [`Plain`] unless [`codec`](Sqlite::codec) sets another. For tables of another
/// form, implement [`BlockingStore`] over a connection of your own; this file is a model.
///
/// A write is on the disk when it ends. A batch is one transaction, of one `fsync`; an upsert that fails alone leaves the
/// others of its batch as they are.
///
/// ```
/// use floodwall::store::{BlockingStore, Sqlite};
///
/// let users = Sqlite::<u64, String>::open_in_memory("users")?;
/// users.save(&7, &"ann".to_string())?;
/// assert_eq!(users.load(&7)?, Some("ann".to_string()));
/// # Ok::<(), floodwall::store::SqliteError>(())
/// ```
pub struct Sqlite<K, V, C = Plain> {
    writer: Mutex<Connection>,
    /// Reads do not wait for the commits of writes. `None` in memory, where a second connection is another database.
    reader: Option<Mutex<Connection>>,
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
}

impl Sql {
    fn new(table: &str) -> Self {
        let table = table.replace('"', "\"\"");
        Self {
            create: format!(
                r#"CREATE TABLE IF NOT EXISTS "{table}" (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID"#
            ),
            load: format!(r#"SELECT value FROM "{table}" WHERE key = ?1"#),
            save: format!(
                r#"INSERT INTO "{table}" (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"#
            ),
            remove: format!(r#"DELETE FROM "{table}" WHERE key = ?1"#),
        }
    }
}

impl<K, V> Sqlite<K, V> {
    /// Opens or creates the database at `path` and the table in it, in WAL mode, each commit synced to the disk.
    ///
    /// It waits up to 5 s for other processes that write.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or is no database, or a table of that name has another form.
    pub fn open(path: impl AsRef<Path>, table: &str) -> Result<Self, SqliteError> {
        let open = || {
            let connection = Connection::open(&path)?;
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            Ok::<_, SqliteError>(connection)
        };
        let mut store = Self::new(open()?, table)?;
        store.reader = Some(Mutex::new(open()?));
        Ok(store)
    }

    /// Creates a database in memory, which ends with the store.
    ///
    /// # Errors
    ///
    /// When SQLite cannot.
    pub fn open_in_memory(table: &str) -> Result<Self, SqliteError> {
        Self::new(Connection::open_in_memory()?, table)
    }

    /// Takes a connection as it is, and creates the table if there is none.
    ///
    /// # Errors
    ///
    /// When the table cannot be created, or one of that name has another form.
    pub fn new(connection: Connection, table: &str) -> Result<Self, SqliteError> {
        let sql = Sql::new(table);
        connection.execute(&sql.create, [])?;
        drop(connection.prepare_cached(&sql.load)?);
        Ok(Self { writer: Mutex::new(connection), reader: None, sql, codec: Plain, types: PhantomData })
    }
}

impl<K, V, C> Sqlite<K, V, C> {
    /// Turns keys and values into bytes by `codec`. Default: [`Plain`].
    pub fn codec<D: Codec<K> + Codec<V>>(self, codec: D) -> Sqlite<K, V, D> {
        let Self { writer, reader, sql, codec: _, types } = self;
        Sqlite { writer, reader, sql, codec, types }
    }

    fn encoded<T>(&self, value: &T) -> Result<Vec<u8>, SqliteError>
    where
        C: Codec<T>,
    {
        let mut bytes = Vec::new();
        self.codec.encode(value, &mut bytes)?;
        Ok(bytes)
    }

    fn write(&self, connection: &Connection, row: &Row) -> Result<(), SqliteError> {
        match &row.value {
            Some(value) => connection.prepare_cached(&self.sql.save)?.execute((&row.key, value))?,
            None => connection.prepare_cached(&self.sql.remove)?.execute((&row.key,))?,
        };
        Ok(())
    }

    fn row(&self, write: &Write<'_, K, V>) -> Result<Row, SqliteError>
    where
        C: Codec<K> + Codec<V>,
    {
        let value = write.value.map(|value| self.encoded(value)).transpose()?;
        Ok(Row { key: self.encoded(write.key)?, value })
    }
}

struct Row {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl<K, V, C> BlockingStore<K, V> for Sqlite<K, V, C>
where
    K: Send + Sync,
    V: Send + Sync,
    C: Codec<K> + Codec<V>,
{
    type Error = SqliteError;

    fn load(&self, key: &K) -> Result<Option<V>, SqliteError> {
        let key = self.encoded(key)?;
        let bytes: Option<Vec<u8>> = {
            let connection = self.reader.as_ref().unwrap_or(&self.writer).lock();
            let mut load = connection.prepare_cached(&self.sql.load)?;
            load.query_row((&key,), |row| row.get(0)).optional()?
        };
        Ok(bytes.map(|bytes| self.codec.decode(&bytes)).transpose()?)
    }

    fn save(&self, key: &K, value: &V) -> Result<(), SqliteError> {
        let row = self.row(&Write::save(key, value))?;
        self.write(&self.writer.lock(), &row)
    }

    fn remove(&self, key: &K) -> Result<(), SqliteError> {
        let row = self.row(&Write::remove(key))?;
        self.write(&self.writer.lock(), &row)
    }

    fn write_many(&self, writes: &[Write<'_, K, V>]) -> Batch<(), SqliteError> {
        let rows: Vec<_> = writes.iter().map(|write| self.row(write)).collect();
        let connection = self.writer.lock();
        let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)?;
        let mut results = Vec::with_capacity(rows.len());
        for row in rows {
            let result = row.and_then(|row| self.write(&transaction, &row));
            if result.is_err() && connection.is_autocommit() {
                // A full disk, say: SQLite has rolled back what was written before.
                return result.map(|()| results);
            }
            results.push(result);
        }
        transaction.commit()?;
        Ok(results)
    }
}

impl<K, V, C> fmt::Debug for Sqlite<K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("load", &self.sql.load).finish_non_exhaustive()
    }
}

/// How an operation on a [`Sqlite`] fails.
#[derive(Debug)]
#[non_exhaustive]
pub enum SqliteError {
    /// SQLite failed.
    Database(rusqlite::Error),
    /// A key or value has no bytes, or bytes are no value.
    Codec(CodecError),
}

impl SqliteError {
    /// Returns whether the same operation will fail again, whenever it is made: for
    /// [`give_up_when`](crate::WriteBehindBuilder::give_up_when).
    pub fn is_permanent(&self) -> bool {
        let SqliteError::Database(error) = self else { return true };
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
        )
    }
}

impl From<rusqlite::Error> for SqliteError {
    fn from(error: rusqlite::Error) -> Self {
        SqliteError::Database(error)
    }
}

impl From<CodecError> for SqliteError {
    fn from(error: CodecError) -> Self {
        SqliteError::Codec(error)
    }
}

impl fmt::Display for SqliteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqliteError::Database(error) => error.fmt(f),
            SqliteError::Codec(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SqliteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SqliteError::Database(error) => error.source(),
            SqliteError::Codec(error) => error.source(),
        }
    }
}

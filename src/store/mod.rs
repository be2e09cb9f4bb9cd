//! The system of record behind a cache: [`Store`], stores that really exist, and the ways to write to one.
//!
//! For data whose truth lies in a database, with a cache in front of it. When **not** to use it: where several rows
//! change together or a query selects them; that is what the database's own client is for.

mod behind;
mod blocking;
mod bus;
mod cached;
mod codec;
mod in_step;
#[cfg(feature = "journal")]
#[cfg_attr(docsrs, doc(cfg(feature = "journal")))]
pub mod journal;
mod listen;
mod memory;
mod offload;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
mod tracks;

pub use behind::{
    Backlog, DeadLetter, Unwritten, WhenFull, WriteBehind, WriteBehindBuilder, WriteBehindError,
};
pub use blocking::{BlockingStore, InPlace};
pub use bus::{Bus, LocalBus, LocalSubscription, Message, Silence, Subscription};
pub use cached::CachedStore;
#[cfg(feature = "serde")]
pub use codec::Json;
pub use codec::{Codec, CodecError, Plain};
pub use memory::MemoryStore;
pub use offload::{Job, Offload};
#[cfg(feature = "postgres")]
pub use postgres::{Postgres, PostgresError};
#[cfg(feature = "sqlite")]
pub use sqlite::{Sqlite, SqliteError};

use std::sync::Arc;

use crate::park::block_on;

/// Where the truth lies: a table, a bucket of objects, another service.
///
/// A store for code that blocks, such as `Sqlite`, implements [`BlockingStore`] instead, which
/// [`InPlace`] and [`Offload`] turn into this. Callers on plain threads use the verbs that end in `_blocking`.
///
/// Writes must be idempotent: what was written once may be written again. Whoever calls a store writes a key only
/// once at a time, and awaits the end; a store need not order writes.
///
/// ```
/// use floodwall::store::{MemoryStore, Store};
///
/// let users = MemoryStore::new();
/// users.save_blocking(&7, &"ann".to_string())?;
/// assert_eq!(users.load_blocking(&7)?, Some("ann".to_string()));
/// users.remove_blocking(&7)?;
/// assert_eq!(users.load_blocking(&7)?, None);
/// # Ok::<(), std::convert::Infallible>(())
/// ```
pub trait Store<K: Send + Sync, V: Send + Sync>: Send + Sync {
    /// How an operation fails.
    type Error: Send;

    /// Reads the value of `key`; `None` if it has none.
    ///
    /// # Errors
    ///
    /// When the store cannot say.
    fn load(&self, key: &K) -> impl Future<Output = Result<Option<V>, Self::Error>> + Send;

    /// Sets the value of `key`, whether it has one or not.
    ///
    /// # Errors
    ///
    /// When it was not written, or when that is not known.
    fn save(&self, key: &K, value: &V) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Takes the value of `key` away. There may be none.
    ///
    /// # Errors
    ///
    /// When it was not written, or when that is not known.
    fn remove(&self, key: &K) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Reads several keys; answers in their order. By default one by one.
    ///
    /// # Errors
    ///
    /// When nothing can be said of any key; what is wrong with one of them stands in its place.
    fn load_many(&self, keys: &[&K]) -> impl Future<Output = Batch<Option<V>, Self::Error>> + Send {
        async move {
            let mut results = Vec::with_capacity(keys.len());
            for key in keys {
                results.push(self.load(key).await);
            }
            Ok(results)
        }
    }

    /// Makes several writes, each of another key; results in their order. By default one by one.
    ///
    /// # Errors
    ///
    /// When the batch failed as a whole: each of its writes may or may not have been made. What is wrong with one of
    /// them stands in its place, and the others are made.
    fn write_many(&self, writes: &[Write<'_, K, V>]) -> impl Future<Output = Batch<(), Self::Error>> + Send {
        async move {
            let mut results = Vec::with_capacity(writes.len());
            for write in writes {
                results.push(match write.value {
                    Some(value) => self.save(write.key, value).await,
                    None => self.remove(write.key).await,
                });
            }
            Ok(results)
        }
    }

    /// As [`load`](Store::load), on a plain thread.
    ///
    /// # Errors
    ///
    /// As `load`.
    fn load_blocking(&self, key: &K) -> Result<Option<V>, Self::Error> {
        block_on(self.load(key))
    }

    /// As [`save`](Store::save), on a plain thread.
    ///
    /// # Errors
    ///
    /// As `save`.
    fn save_blocking(&self, key: &K, value: &V) -> Result<(), Self::Error> {
        block_on(self.save(key, value))
    }

    /// As [`remove`](Store::remove), on a plain thread.
    ///
    /// # Errors
    ///
    /// As `remove`.
    fn remove_blocking(&self, key: &K) -> Result<(), Self::Error> {
        block_on(self.remove(key))
    }

    /// As [`load_many`](Store::load_many), on a plain thread.
    ///
    /// # Errors
    ///
    /// As `load_many`.
    fn load_many_blocking(&self, keys: &[&K]) -> Batch<Option<V>, Self::Error> {
        block_on(self.load_many(keys))
    }

    /// As [`write_many`](Store::write_many), on a plain thread.
    ///
    /// # Errors
    ///
    /// As `write_many`.
    fn write_many_blocking(&self, writes: &[Write<'_, K, V>]) -> Batch<(), Self::Error> {
        block_on(self.write_many(writes))
    }
}

/// What became of a batch: a result for each item, or an error of the whole.
pub type Batch<T, E> = Result<Vec<Result<T, E>>, E>;

/// One write of a batch.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Write<'a, K, V> {
    /// What is written.
    pub key: &'a K,
    /// Its new value; `None` takes it away.
    pub value: Option<&'a V>,
    /// The number of the write: of two writes of a key the later has the higher one. A write that is made again has the
    /// same, so that (key, sequence) tells a repetition from a new write. 0 where nobody counts.
    pub sequence: u64,
}

impl<'a, K, V> Write<'a, K, V> {
    /// Sets a value.
    pub const fn save(key: &'a K, value: &'a V) -> Self {
        Self { key, value: Some(value), sequence: 0 }
    }

    /// Takes a value away.
    pub const fn remove(key: &'a K) -> Self {
        Self { key, value: None, sequence: 0 }
    }

    /// Numbers the write. Default: 0.
    #[must_use = "returns the changed write"]
    pub const fn sequence(mut self, sequence: u64) -> Self {
        self.sequence = sequence;
        self
    }
}

impl<K, V> Clone for Write<'_, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Write<'_, K, V> {}

macro_rules! delegate_store {
    ($pointer:ty) => {
        impl<K: Send + Sync, V: Send + Sync, S: Store<K, V> + ?Sized> Store<K, V> for $pointer {
            type Error = S::Error;

            fn load(&self, key: &K) -> impl Future<Output = Result<Option<V>, S::Error>> + Send {
                (**self).load(key)
            }

            fn save(&self, key: &K, value: &V) -> impl Future<Output = Result<(), S::Error>> + Send {
                (**self).save(key, value)
            }

            fn remove(&self, key: &K) -> impl Future<Output = Result<(), S::Error>> + Send {
                (**self).remove(key)
            }

            fn load_many(&self, keys: &[&K]) -> impl Future<Output = Batch<Option<V>, S::Error>> + Send {
                (**self).load_many(keys)
            }

            fn write_many(
                &self,
                writes: &[Write<'_, K, V>],
            ) -> impl Future<Output = Batch<(), S::Error>> + Send {
                (**self).write_many(writes)
            }
        }
    };
}
delegate_store!(&S);
delegate_store!(Arc<S>);

//! Stores whose operations block: [`BlockingStore`], and [`InPlace`], which runs them where they are called.

use super::{Batch, Offload, Store, Write};

/// A [`Store`] whose operations block the thread: files, embedded databases, blocking clients.
///
/// [`in_place`](BlockingStore::in_place) makes a `Store` of it for programs of plain threads,
/// [`offload`](BlockingStore::offload) one for async tasks, whose threads must not block. Meanings and errors are those
/// of `Store`.
#[expect(clippy::missing_errors_doc, reason = "they are those of Store")]
pub trait BlockingStore<K: Send + Sync, V: Send + Sync>: Send + Sync {
    /// How an operation fails.
    type Error: Send;

    /// Reads the value of `key`; `None` if it has none.
    fn load(&self, key: &K) -> Result<Option<V>, Self::Error>;

    /// Sets the value of `key`, whether it has one or not.
    fn save(&self, key: &K, value: &V) -> Result<(), Self::Error>;

    /// Takes the value of `key` away. There may be none.
    fn remove(&self, key: &K) -> Result<(), Self::Error>;

    /// Reads several keys; answers in their order. By default one by one.
    fn load_many(&self, keys: &[&K]) -> Batch<Option<V>, Self::Error> {
        Ok(keys.iter().map(|key| self.load(key)).collect())
    }

    /// Makes several writes, each of another key; results in their order. By default one by one.
    fn write_many(&self, writes: &[Write<'_, K, V>]) -> Batch<(), Self::Error> {
        let write = |write: &Write<'_, K, V>| match write.value {
            Some(value) => self.save(write.key, value),
            None => self.remove(write.key),
        };
        Ok(writes.iter().map(write).collect())
    }

    /// Makes a [`Store`] that runs operations on the caller's thread.
    fn in_place(self) -> InPlace<Self>
    where
        Self: Sized,
    {
        InPlace(self)
    }

    /// Makes a [`Store`] that gives operations to `run`, which must run them on a thread that may block.
    ///
    /// See [`Offload`] for an example.
    fn offload(self, run: impl Fn(super::Job) + Send + Sync + 'static) -> Offload<Self>
    where
        Self: Sized,
    {
        Offload::new(self, run)
    }
}

/// A [`BlockingStore`] as a [`Store`] whose operations run on the caller's thread, and block it.
///
/// For plain threads. In async code it holds up the other tasks of its thread: there, [`Offload`].
#[derive(Clone, Copy, Debug, Default)]
pub struct InPlace<S>(pub S);

impl<K: Send + Sync, V: Send + Sync, S: BlockingStore<K, V>> Store<K, V> for InPlace<S> {
    type Error = S::Error;

    async fn load(&self, key: &K) -> Result<Option<V>, S::Error> {
        self.0.load(key)
    }

    async fn save(&self, key: &K, value: &V) -> Result<(), S::Error> {
        self.0.save(key, value)
    }

    async fn remove(&self, key: &K) -> Result<(), S::Error> {
        self.0.remove(key)
    }

    async fn load_many(&self, keys: &[&K]) -> Batch<Option<V>, S::Error> {
        self.0.load_many(keys)
    }

    async fn write_many(&self, writes: &[Write<'_, K, V>]) -> Batch<(), S::Error> {
        self.0.write_many(writes)
    }
}

//! Blocking stores for async tasks: [`Offload`].

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{Batch, BlockingStore, Store, Write};
use crate::answer::{Question, ask};
use crate::error::{Error, Reason, Rejected};
use crate::sync::Mutex;

/// Work for a thread that may block.
pub type Job = Box<dyn FnOnce() + Send>;

/// A [`BlockingStore`] as a [`Store`] for async tasks: a function of yours brings its operations to other threads.
///
/// Reads run as they come. Writes run one after the other, in the order in which they were begun, also those whose caller
/// was dropped meanwhile: an old write never ends after a newer one.
///
/// ```
/// use floodwall::store::{BlockingStore, Store};
///
/// struct Files;
/// impl BlockingStore<String, Vec<u8>> for Files {
///     type Error = std::io::Error;
///     fn load(&self, key: &String) -> std::io::Result<Option<Vec<u8>>> {
///         std::fs::read(key).map(Some)
///     }
///     fn save(&self, key: &String, value: &Vec<u8>) -> std::io::Result<()> {
///         std::fs::write(key, value)
///     }
///     fn remove(&self, key: &String) -> std::io::Result<()> {
///         std::fs::remove_file(key)
///     }
/// }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let files = Files.offload(|job| drop(tokio::task::spawn_blocking(job)));
/// assert!(files.load(&"Cargo.toml".to_string()).await.unwrap().is_some());
/// # });
/// ```
///
/// # Errors
///
/// Those of the store as [`Error::Inner`]; [`Reason::Closed`] where a job was dropped before it ran, or panicked.
///
/// # Cancel safety
///
/// A write that is dropped may or may not be made.
pub struct Offload<S> {
    store: Arc<S>,
    lane: Arc<Lane>,
}

struct Lane {
    run: Box<dyn Fn(Job) + Send + Sync>,
    writes: Mutex<Writes>,
}

#[derive(Default)]
struct Writes {
    waiting: VecDeque<Job>,
    running: bool,
}

impl<S> Offload<S> {
    /// Gives the operations of `store` to `run`, which must run them on a thread that may block.
    pub fn new(store: S, run: impl Fn(Job) + Send + Sync + 'static) -> Self {
        let lane = Lane { run: Box::new(run), writes: Mutex::default() };
        Self { store: Arc::new(store), lane: Arc::new(lane) }
    }

    /// Returns the store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Runs a read.
    async fn read<T: Send + 'static, E: Send + 'static>(
        &self,
        read: impl FnOnce(&S) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Error<E>>
    where
        S: Send + Sync + 'static,
    {
        let ((question, answer), store) = (ask(), self.store.clone());
        (self.lane.run)(Box::new(move || answer.give(read(&store))));
        answered(question).await
    }

    /// Runs a write, in its turn.
    async fn write<T: Send + 'static, E: Send + 'static>(
        &self,
        write: impl FnOnce(&S) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Error<E>>
    where
        S: Send + Sync + 'static,
    {
        let ((question, answer), store) = (ask(), self.store.clone());
        self.lane.writes.lock().waiting.push_back(Box::new(move || answer.give(write(&store))));
        let turn = Turn { lane: Some(self.lane.clone()) };
        (self.lane.run)(Box::new(move || turn.take()));
        answered(question).await
    }
}

/// A visit to the lane: makes all writes that wait, unless another visit is at it.
struct Turn {
    /// `None` once it was made.
    lane: Option<Arc<Lane>>,
}

impl Turn {
    fn take(mut self) {
        let Some(lane) = self.lane.take() else { return };
        if mem::replace(&mut lane.writes.lock().running, true) {
            return;
        }
        while let Some(job) = lane.next() {
            // A panic costs its own write, whose answer is dropped, and not those behind it.
            drop(catch_unwind(AssertUnwindSafe(job)));
        }
    }
}

impl Lane {
    /// Returns the write whose turn it is. After the last one the visit is over, in the same breath: who comes later
    /// begins another.
    fn next(&self) -> Option<Job> {
        let mut writes = self.writes.lock();
        let job = writes.waiting.pop_front();
        writes.running = job.is_some();
        job
    }
}

impl Drop for Turn {
    /// Nobody runs jobs any more: no write that waits may leave its caller waiting.
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            let unmade = mem::take(&mut lane.writes.lock().waiting);
            drop(unmade);
        }
    }
}

async fn answered<T, E>(question: Question<Result<T, E>>) -> Result<T, Error<E>> {
    match poll_fn(|context| question.poll(context.waker())).await {
        Some(result) => result.map_err(Error::Inner),
        None => Err(Rejected::new("", Reason::Closed).into()),
    }
}

impl<K, V, S> Store<K, V> for Offload<S>
where
    K: Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BlockingStore<K, V> + 'static,
    S::Error: 'static,
{
    type Error = Error<S::Error>;

    async fn load(&self, key: &K) -> Result<Option<V>, Self::Error> {
        let key = key.clone();
        self.read(move |store| store.load(&key)).await
    }

    async fn save(&self, key: &K, value: &V) -> Result<(), Self::Error> {
        let (key, value) = (key.clone(), value.clone());
        self.write(move |store| store.save(&key, &value)).await
    }

    async fn remove(&self, key: &K) -> Result<(), Self::Error> {
        let key = key.clone();
        self.write(move |store| store.remove(&key)).await
    }

    async fn load_many(&self, keys: &[&K]) -> Batch<Option<V>, Self::Error> {
        let keys: Vec<K> = keys.iter().map(|key| (*key).clone()).collect();
        let load = move |store: &S| store.load_many(&keys.iter().collect::<Vec<_>>());
        self.read(load).await.map(lifted)
    }

    async fn write_many(&self, writes: &[Write<'_, K, V>]) -> Batch<(), Self::Error> {
        let own = |write: &Write<'_, K, V>| (write.key.clone(), write.value.cloned(), write.sequence);
        let writes: Vec<(K, Option<V>, u64)> = writes.iter().map(own).collect();
        let write = move |store: &S| {
            let borrow = |write| {
                let (key, value, sequence): &(K, Option<V>, u64) = write;
                Write { key, value: value.as_ref(), sequence: *sequence }
            };
            store.write_many(&writes.iter().map(borrow).collect::<Vec<_>>())
        };
        self.write(write).await.map(lifted)
    }
}

fn lifted<T, E>(results: Vec<Result<T, E>>) -> Vec<Result<T, Error<E>>> {
    results.into_iter().map(|result| result.map_err(Error::Inner)).collect()
}

impl<S: fmt::Debug> fmt::Debug for Offload<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offload").field("store", &self.store).finish_non_exhaustive()
    }
}

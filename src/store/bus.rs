//! How caches over one store tell each other what has changed: [`Bus`], [`Message`], and [`LocalBus`] within a process.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::{pending, poll_fn};
use std::mem;
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};

use crate::cache::Invalidation;
use crate::sync::Mutex;

/// Carries [messages](Message) between the instances of a program: a channel of Redis or NATS, `LISTEN` of PostgreSQL.
///
/// It may bring a message late, twice or in another order, but must not lose one in silence: a [`Subscription`] that may
/// have missed one ends. For [`CachedStore::bus`](super::CachedStore::bus).
///
/// ```
/// use floodwall::Cache;
/// use floodwall::store::{CachedStore, LocalBus, MemoryStore, Store};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (database, bus) = (std::sync::Arc::new(MemoryStore::new()), LocalBus::new());
/// let instance = || CachedStore::write_through(Cache::new(100), database.clone()).bus(bus.clone());
/// let (one, other) = (instance(), instance());
/// let listener = other.clone();
/// tokio::spawn(async move {
///     while listener.listen().await.is_ok() {} // Again when the connection is lost; with a pause, over a network.
/// });
/// # tokio::task::yield_now().await;
/// one.save(&7, &"ann").await.unwrap();
/// assert_eq!(other.load(&7).await.unwrap(), Some("ann"));
/// one.save(&7, &"eve").await.unwrap();
/// # tokio::task::yield_now().await;
/// assert_eq!(other.load(&7).await.unwrap(), Some("eve"));
/// # }
/// ```
pub trait Bus<K: Send + Sync>: Send + Sync {
    /// How it fails.
    type Error: Send;

    /// What brings the messages.
    type Subscription: Subscription<K>;

    /// Sends a message to all who have subscribed; it may come back to the sender.
    ///
    /// # Errors
    ///
    /// When it was not sent, or when that is not known: it is sent again.
    fn publish(&self, message: &Message<K>) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Subscribes to what is published from now on.
    ///
    /// # Errors
    ///
    /// When there is no connection.
    fn subscribe(&self) -> impl Future<Output = Result<Self::Subscription, Self::Error>> + Send;
}

/// Brings the messages of a [`Bus`].
pub trait Subscription<K>: Send {
    /// Returns the next message; `None` once there will be no more, or one may have been missed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future must lose no message.
    fn next(&mut self) -> impl Future<Output = Option<Message<K>>> + Send;
}

/// What an instance says that it has changed. It carries no value: who hears it loads that from the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Message<K> {
    /// What is no longer true: the value of a key, or everything.
    pub what: Invalidation<K, Infallible>,
    /// When it was said, in nanoseconds since the Unix epoch by the origin's clock; higher than that of all messages which
    /// the origin sent before.
    pub time: u64,
    /// The number of the instance that says it, drawn at random.
    pub origin: u64,
}

impl<K> Message<K> {
    /// Makes a message out of its parts, for a bus that brings it from elsewhere.
    pub const fn new(what: Invalidation<K, Infallible>, time: u64, origin: u64) -> Self {
        Self { what, time, origin }
    }
}

/// No bus: nobody else is told.
impl<K: Send + Sync> Bus<K> for () {
    type Error = Infallible;
    type Subscription = Silence;

    async fn publish(&self, _: &Message<K>) -> Result<(), Infallible> {
        Ok(())
    }

    async fn subscribe(&self) -> Result<Silence, Infallible> {
        Ok(Silence(()))
    }
}

/// The subscription to no bus: there is never a message.
#[derive(Debug)]
pub struct Silence(());

impl<K> Subscription<K> for Silence {
    async fn next(&mut self) -> Option<Message<K>> {
        pending().await
    }
}

/// A [`Bus`] within a process: for several caches over one store, and for tests of programs that will have another one.
///
/// Clones are handles of one bus.
///
/// ```
/// use floodwall::cache::Invalidation;
/// use floodwall::store::{Bus, LocalBus, Message, Subscription};
///
/// # floodwall::block_on(async {
/// let bus = LocalBus::new();
/// let mut subscription = bus.subscribe().await?;
/// let message = Message::new(Invalidation::Key("ann"), 1, 7);
/// bus.publish(&message).await?;
/// assert_eq!(subscription.next().await, Some(message));
/// # Ok::<_, std::convert::Infallible>(())
/// # }).unwrap();
/// ```
pub struct LocalBus<K> {
    subscribers: Arc<Mutex<Vec<Weak<Queue<K>>>>>,
    /// How many messages wait for a subscriber at most.
    capacity: usize,
}

struct Queue<K>(Mutex<Waiting<K>>);

struct Waiting<K> {
    messages: VecDeque<Message<K>>,
    is_lost: bool,
    waker: Option<Waker>,
}

impl<K> LocalBus<K> {
    /// Creates a bus of which a subscriber that leaves more than 10,000 messages waiting is told that it has lost some.
    pub fn new() -> Self {
        Self { subscribers: Arc::default(), capacity: 10_000 }
    }
}

impl<K: Clone + Send + Sync> Bus<K> for LocalBus<K> {
    type Error = Infallible;
    type Subscription = LocalSubscription<K>;

    async fn publish(&self, message: &Message<K>) -> Result<(), Infallible> {
        let queues: Vec<_> = {
            let mut subscribers = self.subscribers.lock();
            subscribers.retain(|queue| queue.strong_count() > 0);
            subscribers.clone()
        };
        for queue in queues.iter().filter_map(Weak::upgrade) {
            let message = message.clone();
            let mut lost = VecDeque::new();
            let mut waiting = queue.0.lock();
            if waiting.messages.len() == self.capacity {
                waiting.is_lost = true;
                lost = mem::take(&mut waiting.messages);
            }
            if !waiting.is_lost {
                waiting.messages.push_back(message);
            }
            let waker = waiting.waker.take();
            drop(waiting);
            drop(lost);
            waker.into_iter().for_each(Waker::wake);
        }
        Ok(())
    }

    async fn subscribe(&self) -> Result<LocalSubscription<K>, Infallible> {
        let waiting = Waiting { messages: VecDeque::new(), is_lost: false, waker: None };
        let queue = Arc::new(Queue(Mutex::new(waiting)));
        self.subscribers.lock().push(Arc::downgrade(&queue));
        Ok(LocalSubscription { queue })
    }
}

/// The messages of a [`LocalBus`] since it was subscribed to.
pub struct LocalSubscription<K> {
    queue: Arc<Queue<K>>,
}

impl<K: Send + Sync> Subscription<K> for LocalSubscription<K> {
    async fn next(&mut self) -> Option<Message<K>> {
        poll_fn(|context| {
            // Wakers are user code: cloned before the lock is taken, dropped after it is released.
            let waker = context.waker().clone();
            let mut waiting = self.queue.0.lock();
            if waiting.is_lost {
                return Poll::Ready(None);
            }
            if let Some(message) = waiting.messages.pop_front() {
                return Poll::Ready(Some(message));
            }
            let old = waiting.waker.replace(waker);
            drop(waiting);
            drop(old);
            Poll::Pending
        })
        .await
    }
}

impl<K> Default for LocalBus<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> Clone for LocalBus<K> {
    fn clone(&self) -> Self {
        Self { subscribers: Arc::clone(&self.subscribers), capacity: self.capacity }
    }
}

impl<K> fmt::Debug for LocalBus<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalBus").field("subscribers", &self.subscribers.lock().len()).finish()
    }
}

impl<K> fmt::Debug for LocalSubscription<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSubscription").field("waiting", &self.queue.0.lock().messages.len()).finish()
    }
}

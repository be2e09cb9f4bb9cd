//! A queue as a [`Stream`] of what comes out, and as a [`Sink`] for what goes in.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_sink::Sink;
use pin_project_lite::pin_project;

use super::{PushError, Queue, pop, push};
use crate::call::Call;

pin_project! {
    /// What comes out of a queue, until it is closed and empty; made by [`Queue::stream`].
    ///
    /// Dropping it loses nothing: the item that it waited for stays in the queue.
    pub struct QueueStream<P, T>
    where
        P: Deref<Target = Queue<T>>,
    {
        queue: P,
        // Since it waits.
        key: Option<usize>,
        kind: PhantomData<fn() -> T>,
    }

    impl<P, T> PinnedDrop for QueueStream<P, T>
    where
        P: Deref<Target = Queue<T>>,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(key) = this.key.take() {
                pop::leave(this.queue, key);
            }
        }
    }
}

pin_project! {
    /// The way into a queue, which waits for room; made by [`Queue::sink`].
    ///
    /// It holds one item that does not fit yet, and drops it when it is dropped before it is flushed. To close it flushes
    /// it, and leaves the queue open for others.
    pub struct QueueSink<P, T>
    where
        P: Deref<Target = Queue<T>>,
    {
        queue: P,
        // Before it waits.
        item: Option<T>,
        // Since it waits.
        key: Option<usize>,
        kind: PhantomData<fn() -> T>,
    }

    impl<P, T> PinnedDrop for QueueSink<P, T>
    where
        P: Deref<Target = Queue<T>>,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(key) = this.key.take() {
                drop(push::leave(this.queue, key));
            }
        }
    }
}

impl<T> Queue<T> {
    /// Returns all that comes out of a queue, until it is closed and empty. Of an `Arc`, the stream keeps the queue alive.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use floodwall::Queue;
    /// use futures_util::{SinkExt, StreamExt, stream};
    ///
    /// # floodwall::block_on(async {
    /// let queue = Arc::new(Queue::new(2));
    /// let (items, sink) = (Queue::stream(queue.clone()), Queue::sink(queue.clone()));
    /// let push = async {
    ///     stream::iter(1..=5).map(Ok).forward(sink).await.unwrap();
    ///     queue.close();
    /// };
    /// let ((), sum) = futures_util::join!(push, items.fold(0, |sum, item| async move { sum + item }));
    /// assert_eq!(sum, 15);
    /// # });
    /// ```
    pub const fn stream<P: Deref<Target = Self>>(queue: P) -> QueueStream<P, T> {
        QueueStream { queue, key: None, kind: PhantomData }
    }

    /// Returns a way into a queue that waits for room, for each item as [`push`](Self::push) does.
    pub const fn sink<P: Deref<Target = Self>>(queue: P) -> QueueSink<P, T> {
        QueueSink { queue, item: None, key: None, kind: PhantomData }
    }
}

impl<P: Deref<Target = Queue<T>>, T> Stream for QueueStream<P, T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let this = self.project();
        if this.key.is_none() {
            if let Some(Ok(item)) = this.queue.pop_fast() {
                return Poll::Ready(Some(item));
            }
        }
        pop::wait_for_item(this.queue, this.key, context).map(Result::ok)
    }
}

impl<P: Deref<Target = Queue<T>>, T> Sink<T> for QueueSink<P, T> {
    type Error = PushError<T>;

    fn poll_ready(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), PushError<T>>> {
        self.poll_flush(context)
    }

    fn start_send(self: Pin<&mut Self>, item: T) -> Result<(), PushError<T>> {
        let this = self.project();
        assert!(this.item.is_none() && this.key.is_none(), "an item is sent only to a sink that is ready");
        *this.item = Some(item);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), PushError<T>>> {
        let this = self.project();
        if this.item.is_none() && this.key.is_none() {
            return Poll::Ready(Ok(()));
        }
        if let Some(item) = this.item.take() {
            match this.queue.push_fast(item, Call::new()) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(item) => *this.item = Some(item),
            }
        }
        push::wait_for_room(this.queue, this.item, Call::new(), this.key, context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), PushError<T>>> {
        self.poll_flush(context)
    }
}

impl<P: Deref<Target = Queue<T>>, T> fmt::Debug for QueueStream<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueStream").field("queue", &*self.queue).finish_non_exhaustive()
    }
}

impl<P: Deref<Target = Queue<T>>, T> fmt::Debug for QueueSink<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueSink").field("queue", &*self.queue).finish_non_exhaustive()
    }
}

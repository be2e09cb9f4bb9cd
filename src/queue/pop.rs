//! Waiting for an item: [`Pop`].

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use super::effects::{Effects, Look};
use super::{PopError, Queue};
use crate::clock::{NEVER, Sleep};

pin_project! {
    /// Takes the next item of a queue once there is one; made by [`Queue::pop`].
    ///
    /// Dropping it loses nothing: the item stays in its place in the queue until this future is polled for it.
    #[must_use = "nothing is popped unless it is awaited"]
    pub struct Pop<'a, T> {
        queue: &'a Queue<T>,
        deadline: u64,
        // Since it waits.
        key: Option<usize>,
        #[pin]
        sleep: Option<Sleep>,
    }

    impl<T> PinnedDrop for Pop<'_, T> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(key) = this.key.take() {
                leave(*this.queue, key);
            }
        }
    }
}

impl<'a, T> Pop<'a, T> {
    pub(super) const fn new(queue: &'a Queue<T>, deadline: u64) -> Self {
        Self { queue, deadline, key: None, sleep: None }
    }
}

/// Leaves the line, and passes on what it was granted.
fn leave<T>(queue: &Queue<T>, key: usize) {
    let mut effects = Effects::none();
    let waker = queue.state.lock().leave_poppers(key, &mut effects);
    queue.follow_up(effects);
    drop(waker);
}

impl<T> Future for Pop<'_, T> {
    type Output = Result<T, PopError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let queue = *this.queue;
        if this.key.is_none() {
            match queue.try_pop() {
                Err(PopError::Empty) => {}
                result => return Poll::Ready(result),
            }
        }

        // Cloned and dropped outside the lock: wakers are user code.
        let mut waker = Some(context.waker().clone());
        let (now, mut effects) = (queue.now(), Effects::none());
        let mut state = queue.state.lock();
        let look = match *this.key {
            None => match state.pop(now, &mut effects) {
                Some(taken) => Look::Taken(taken),
                None if state.is_over() => Look::Closed,
                None => Look::NotYet(state.join_poppers(waker.take())),
            },
            Some(key) => state.look(key, now, &mut waker, &mut effects),
        };
        drop(state);
        drop(waker);
        queue.follow_up(effects);
        *this.key = None;
        match look {
            Look::Taken(taken) => return Poll::Ready(Ok(queue.delivered(taken, now))),
            Look::Closed => return Poll::Ready(Err(PopError::Closed)),
            Look::NotYet(key) => *this.key = Some(key),
        }

        if *this.deadline == NEVER {
            return Poll::Pending;
        }
        if queue.clock.nanos() < *this.deadline {
            if this.sleep.is_none() {
                this.sleep.set(Some(queue.clock.sleep_until_nanos(*this.deadline)));
            }
            ready!(this.sleep.as_mut().as_pin_mut().expect("set just now").poll(context));
        }

        // The time is over; it may have been granted an item just before.
        let key = this.key.take().expect("it joined the line above");
        let (now, mut effects, mut waker) = (queue.now(), Effects::none(), None);
        let mut state = queue.state.lock();
        let look = state.look(key, now, &mut waker, &mut effects);
        let old = match look {
            Look::NotYet(key) => state.leave_poppers(key, &mut effects),
            _ => None,
        };
        drop(state);
        drop((waker, old));
        queue.follow_up(effects);
        Poll::Ready(match look {
            Look::Taken(taken) => Ok(queue.delivered(taken, now)),
            Look::Closed => Err(PopError::Closed),
            Look::NotYet(_) => Err(PopError::Empty),
        })
    }
}

impl<T> fmt::Debug for Pop<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pop").field("queue", self.queue).finish_non_exhaustive()
    }
}

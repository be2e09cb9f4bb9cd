//! Waiting for an item: [`Pop`].

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::effects::{Effects, Look};
use super::{PopError, Queue};
use crate::clock::{NEVER, Sleep};

/// Takes the next item of a queue once there is one; made by [`Queue::pop`].
///
/// Dropping it loses nothing: the item stays in its place in the queue until this future is polled for it. Kept and never
/// polled, or [forgotten](std::mem::forget), it loses nothing either; but it may have been woken for an item, of which others
/// that wait then hear only as the next one comes, or the queue is closed.
#[must_use = "nothing is popped unless it is awaited"]
pub struct Pop<'a, T> {
    queue: &'a Queue<T>,
    deadline: u64,
    /// Once there was nothing; most never wait, and a future that has nothing to drop is a cheap one.
    wait: Option<Waiting<'a, T>>,
}

struct Waiting<'a, T> {
    queue: &'a Queue<T>,
    /// While it stands in the line.
    key: Option<usize>,
    /// Since it waits with a deadline.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<T> Drop for Waiting<'_, T> {
    #[inline(never)]
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            leave(self.queue, key);
        }
    }
}

impl<'a, T> Pop<'a, T> {
    pub(super) const fn new(queue: &'a Queue<T>, deadline: u64) -> Self {
        Self { queue, deadline, wait: None }
    }
}

/// Leaves the line, and passes on what it was granted.
pub(super) fn leave<T>(queue: &Queue<T>, key: usize) {
    let mut effects = Effects::none();
    let waker = queue.state.lock().leave_poppers(key, &mut effects);
    queue.follow_up(effects);
    drop(waker);
}

impl<T> Future for Pop<'_, T> {
    type Output = Result<T, PopError>;

    // A call to it takes a fifth of what it does.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.wait.is_none() {
            if let Some(Ok(item)) = self.queue.pop_fast() {
                return Poll::Ready(Ok(item));
            }
        }
        self.wait(context)
    }
}

impl<'a, T> Pop<'a, T> {
    #[inline(never)]
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Result<T, PopError>> {
        let queue = self.queue;
        let wait = self.wait.get_or_insert_with(|| Waiting { queue, key: None, sleep: None });
        let popped = wait_for_item(queue, &mut wait.key, context);
        let popped = match popped {
            Poll::Pending if self.deadline != NEVER => wait.poll_deadline(self.deadline, context),
            popped => popped,
        };
        if popped.is_ready() {
            self.wait = None;
        }
        popped
    }
}

impl<T> Waiting<'_, T> {
    #[cold]
    fn poll_deadline(&mut self, deadline: u64, context: &mut Context<'_>) -> Poll<Result<T, PopError>> {
        let queue = self.queue;
        if queue.clock.nanos() < deadline {
            let sleep = || Box::pin(queue.clock.sleep_until_nanos(deadline));
            ready!(self.sleep.get_or_insert_with(sleep).as_mut().poll(context));
        }

        // The time is over; it may have been granted an item just before.
        let key = self.key.take().expect("it joined the line above");
        let (now, mut effects, mut waker) = (queue.now(), Effects::none(), None);
        let mut state = queue.state.lock();
        let look = state.look(key, now, context.waker(), &mut waker, &mut effects);
        let old = match look {
            Look::NotYet(key) | Look::NoWaker(key) => state.leave_poppers(key, &mut effects),
            _ => None,
        };
        drop(state);
        drop((waker, old));
        queue.follow_up(effects);
        Poll::Ready(match look {
            Look::Taken(taken) => Ok(queue.delivered(taken, now)),
            Look::Closed => Err(PopError::Closed),
            Look::NotYet(_) | Look::NoWaker(_) => Err(PopError::Empty),
        })
    }
}

/// Takes an item, or waits for one in the place that `key` has in the line.
#[inline(never)]
pub(super) fn wait_for_item<T>(
    queue: &Queue<T>,
    key: &mut Option<usize>,
    context: &mut Context<'_>,
) -> Poll<Result<T, PopError>> {
    // First without a waker, which costs more than the rest, unless that was done.
    if key.is_none() && queue.is_timed {
        match queue.pop_slow() {
            Err(PopError::Empty) => {}
            result => return Poll::Ready(result),
        }
    }
    // Cloned and dropped outside the lock: wakers are user code. Who comes again is mostly to take an item, and needs none.
    let mut waker = if key.is_none() { Some(context.waker().clone()) } else { None };
    loop {
        let (now, mut effects) = (queue.now(), Effects::none());
        let mut state = queue.state.lock();
        let look = match key.take() {
            None => match state.pop(now, &mut effects) {
                Some(taken) => Look::Taken(taken),
                None if state.is_over() => Look::Closed,
                None => Look::NotYet(state.join_poppers(waker.take())),
            },
            Some(key) => state.look(key, now, context.waker(), &mut waker, &mut effects),
        };
        drop(state);
        queue.follow_up(effects);
        return match look {
            Look::Taken(taken) => Poll::Ready(Ok(queue.delivered(taken, now))),
            Look::Closed => Poll::Ready(Err(PopError::Closed)),
            Look::NotYet(place) => {
                *key = Some(place);
                Poll::Pending
            }
            Look::NoWaker(place) => {
                *key = Some(place);
                waker = Some(context.waker().clone());
                continue;
            }
        };
    }
}

impl<T> fmt::Debug for Pop<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pop").field("queue", self.queue).finish_non_exhaustive()
    }
}

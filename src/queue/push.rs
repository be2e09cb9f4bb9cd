//! Waiting for room: [`Push`].

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::effects::{Effects, PushLook, Pushed};
use super::{Entry, Event, Overflow, PushError, Queue, Reason};
use crate::call::Call;
use crate::clock::{NEVER, Sleep};

/// Puts an item into a queue once there is room; made by [`Queue::push`].
///
/// Dropping it leaves the line. The item is then inside, or it is dropped with the future;
/// [`cancel`](Push::cancel) tells which, and gives it back.
#[must_use = "nothing is pushed unless it is awaited"]
pub struct Push<'a, T> {
    queue: &'a Queue<T>,
    /// Before it waits.
    item: Option<T>,
    call: Call,
    /// Once there was no room; most never wait, and a future that has nothing to drop is a cheap one.
    wait: Option<Waiting<'a, T>>,
}

struct Waiting<'a, T> {
    queue: &'a Queue<T>,
    /// While it stands in the line.
    key: Option<usize>,
    /// Since it waits with a deadline.
    sleep: Option<Pin<Box<Sleep>>>,
}

/// An item is moved in and out, and never pinned.
impl<T> Unpin for Push<'_, T> {}

impl<T> Drop for Waiting<'_, T> {
    #[inline(never)]
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            drop(leave(self.queue, key));
        }
    }
}

impl<'a, T> Push<'a, T> {
    pub(super) const fn new(queue: &'a Queue<T>, item: T, call: Call) -> Self {
        Self { queue, item: Some(item), call, wait: None }
    }

    /// Gives up, and returns the item unless it is in the queue already.
    ///
    /// ```
    /// use std::pin::pin;
    /// use std::task::{Context, Waker};
    /// use floodwall::Queue;
    ///
    /// let queue = Queue::new(1);
    /// queue.try_push(1).unwrap();
    /// let mut push = pin!(queue.push(2));
    /// assert!(push.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    /// assert_eq!(push.cancel(), Some(2));
    /// ```
    pub fn cancel(&mut self) -> Option<T> {
        match self.wait.as_mut().and_then(|wait| wait.key.take()) {
            Some(key) => leave(self.queue, key),
            None => self.item.take(),
        }
    }
}

/// Leaves the line; returns the item unless it is in the queue already.
pub(super) fn leave<T>(queue: &Queue<T>, key: usize) -> Option<T> {
    let (now, mut effects) = (queue.now(), Effects::none());
    let (item, waker) = queue.state.lock().leave_pushers(key, now, &mut effects);
    queue.follow_up(effects);
    drop(waker);
    item
}

impl<T> Future for Push<'_, T> {
    type Output = Result<(), PushError<T>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.wait.is_none() {
            let item = self.item.take().expect("a push that has ended is not polled again");
            match self.queue.push_fast(item, self.call) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(item) => self.item = Some(item),
            }
        }
        self.wait(context)
    }
}

impl<T> Push<'_, T> {
    #[inline(never)]
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Result<(), PushError<T>>> {
        let queue = self.queue;
        let wait = self.wait.get_or_insert_with(|| Waiting { queue, key: None, sleep: None });
        let pushed = wait_for_room(queue, &mut self.item, self.call, &mut wait.key, context);
        let pushed = match pushed {
            Poll::Pending if self.call.deadline != NEVER => wait.poll_deadline(self.call.deadline, context),
            pushed => pushed,
        };
        if pushed.is_ready() {
            self.wait = None;
        }
        pushed
    }
}

impl<T> Waiting<'_, T> {
    #[cold]
    fn poll_deadline(&mut self, deadline: u64, context: &mut Context<'_>) -> Poll<Result<(), PushError<T>>> {
        let queue = self.queue;
        if queue.clock.nanos() < deadline {
            let sleep = || Box::pin(queue.clock.sleep_until_nanos(deadline));
            ready!(self.sleep.get_or_insert_with(sleep).as_mut().poll(context));
        }

        // The time is over; the item may have been moved in just before.
        let key = self.key.take().expect("it joined the line above");
        let (now, mut effects) = (queue.now(), Effects::none());
        let mut state = queue.state.lock();
        let (item, waker) = state.leave_pushers(key, now, &mut effects);
        state.items.counts.refused += u64::from(item.is_some());
        drop(state);
        queue.follow_up(effects);
        drop(waker);
        Poll::Ready(match item {
            Some(item) => Err(queue.refused(item, Reason::DeadlineExceeded)),
            None => {
                queue.hook.emit(Event::Admitted);
                Ok(())
            }
        })
    }
}

/// Puts the item in, or waits for room in the place that `key` has in the line.
#[inline(never)]
pub(super) fn wait_for_room<T>(
    queue: &Queue<T>,
    item: &mut Option<T>,
    call: Call,
    key: &mut Option<usize>,
    context: &mut Context<'_>,
) -> Poll<Result<(), PushError<T>>> {
    let Some(place) = *key else {
        let Some(item) = item.take() else { return Poll::Pending };
        let mut entry = queue.entry(item, call);
        // First without a waker, which costs more than the rest; but not where it would be counted twice, or was looked at.
        let was_looked_at = queue.is_plain && queue.overflow == Overflow::Wait;
        if !queue.by_priority && !was_looked_at {
            entry = match queue.push_slow(entry, true) {
                Pushed::In => return Poll::Ready(Ok(())),
                Pushed::Full(entry) => entry,
                Pushed::Refused(entry, reason) => {
                    return Poll::Ready(Err(queue.refused(entry.item, reason)));
                }
            };
        }
        *key = match queue.push_or_join(entry, context.waker()) {
            Ok(None) => return Poll::Ready(Ok(())),
            Ok(key) => key,
            Err(error) => return Poll::Ready(Err(error)),
        };
        return Poll::Pending;
    };
    // Cloned and dropped outside the lock: wakers are user code. Who comes again is mostly inside, and needs none.
    let mut waker = None;
    let look = loop {
        let look = queue.state.lock().look_pusher(place, context.waker(), &mut waker);
        match look {
            PushLook::NoWaker => waker = Some(context.waker().clone()),
            look => break look,
        }
    };
    let result = match look {
        PushLook::NotYet | PushLook::NoWaker => return Poll::Pending,
        PushLook::In => {
            queue.hook.emit(Event::Admitted);
            Ok(())
        }
        PushLook::Refused(item, reason) => Err(queue.refused(item, reason)),
    };
    *key = None;
    Poll::Ready(result)
}

impl<T> Queue<T> {
    /// Puts an item in, or joins those who wait for room and returns the key of its place there.
    fn push_or_join(
        &self,
        mut entry: Entry<T>,
        waker: &std::task::Waker,
    ) -> Result<Option<usize>, PushError<T>> {
        let waker = waker.clone();
        let (now, mut effects) = (self.now(), Effects::none());
        entry.at = now;
        let mut state = self.state.lock();
        let (key, waker) = match state.push(entry, now, self.overflow, true, &mut effects) {
            Pushed::Full(entry) => (Ok(Some(state.join_pushers(entry, waker))), None),
            Pushed::In => (Ok(None), Some(waker)),
            Pushed::Refused(entry, reason) => (Err((entry.item, reason)), Some(waker)),
        };
        drop(state);
        drop(waker);
        self.follow_up(effects);
        if let Ok(None) = key {
            self.hook.emit(Event::Admitted);
        }
        key.map_err(|(item, reason)| self.refused(item, reason))
    }
}

impl<T> fmt::Debug for Push<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Push").field("queue", self.queue).finish_non_exhaustive()
    }
}

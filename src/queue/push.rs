//! Waiting for room: [`Push`].

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use super::effects::{Effects, PushLook, Pushed};
use super::{Entry, Event, PushError, Queue, Reason};
use crate::call::Call;
use crate::clock::{NEVER, Sleep};

pin_project! {
    /// Puts an item into a queue once there is room; made by [`Queue::push`].
    ///
    /// Dropping it leaves the line. The item is then inside, or it is dropped with the future;
    /// [`cancel`](Push::cancel) tells which, and gives it back.
    #[must_use = "nothing is pushed unless it is awaited"]
    pub struct Push<'a, T> {
        queue: &'a Queue<T>,
        // Before it waits.
        item: Option<T>,
        call: Call,
        // Since it waits.
        key: Option<usize>,
        #[pin]
        sleep: Option<Sleep>,
    }

    impl<T> PinnedDrop for Push<'_, T> {
        fn drop(this: Pin<&mut Self>) {
            drop(this.cancel());
        }
    }
}

impl<'a, T> Push<'a, T> {
    pub(super) const fn new(queue: &'a Queue<T>, item: T, call: Call) -> Self {
        Self { queue, item: Some(item), call, key: None, sleep: None }
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
    /// assert_eq!(push.as_mut().cancel(), Some(2));
    /// ```
    pub fn cancel(self: Pin<&mut Self>) -> Option<T> {
        let this = self.project();
        let Some(key) = this.key.take() else { return this.item.take() };
        let queue = *this.queue;
        let (now, mut effects) = (queue.now(), Effects::none());
        let (item, waker) = queue.state.lock().leave_pushers(key, now, &mut effects);
        queue.follow_up(effects);
        drop(waker);
        item
    }
}

impl<T> Future for Push<'_, T> {
    type Output = Result<(), PushError<T>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let queue = *this.queue;
        match *this.key {
            None => {
                let item = this.item.take().expect("a push that has ended is not polled again");
                let item = match queue.push_fast(item) {
                    Ok(()) => return Poll::Ready(Ok(())),
                    Err(item) => item,
                };
                match queue.push_or_join(queue.entry(item, *this.call), context.waker()) {
                    Ok(None) => return Poll::Ready(Ok(())),
                    Ok(Some(key)) => *this.key = Some(key),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            Some(key) => {
                // Cloned and dropped outside the lock: wakers are user code.
                let mut waker = Some(context.waker().clone());
                let look = queue.state.lock().look_pusher(key, &mut waker);
                drop(waker);
                if let PushLook::NotYet = look {
                } else {
                    *this.key = None;
                }
                match look {
                    PushLook::In => {
                        queue.hook.emit(Event::Admitted);
                        return Poll::Ready(Ok(()));
                    }
                    PushLook::Refused(item, reason) => {
                        return Poll::Ready(Err(queue.refused(item, reason)));
                    }
                    PushLook::NotYet => {}
                }
            }
        }

        let deadline = this.call.deadline;
        if deadline == NEVER {
            return Poll::Pending;
        }
        if queue.clock.nanos() < deadline {
            if this.sleep.is_none() {
                this.sleep.set(Some(queue.clock.sleep_until_nanos(deadline)));
            }
            ready!(this.sleep.as_mut().as_pin_mut().expect("set just now").poll(context));
        }

        // The time is over; the item may have been moved in just before.
        let key = this.key.take().expect("it joined the line above");
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

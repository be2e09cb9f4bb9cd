//! One answer from whoever works on another thread or in another task: [`Question`], [`Answer`].

use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::clock::Sleep;
use crate::sync::Mutex;

/// Waits for one answer.
pub(crate) struct Question<T>(Arc<Mutex<Asked<T>>>);

/// Gives it; dropped, it says that none will come.
pub(crate) struct Answer<T>(Option<Arc<Mutex<Asked<T>>>>);

enum Asked<T> {
    Waiting(Option<Waker>),
    Answered(T),
    Never,
}

/// Returns both ends.
pub(crate) fn ask<T>() -> (Question<T>, Answer<T>) {
    let asked = Arc::new(Mutex::new(Asked::Waiting(None)));
    (Question(Arc::clone(&asked)), Answer(Some(asked)))
}

impl<T> Question<T> {
    /// Returns the answer, or `None` if none will come.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Option<T>> {
        // Wakers are user code: cloned before the lock is taken, dropped after it is released.
        let waker = waker.clone();
        let mut asked = self.0.lock();
        match mem::replace(&mut *asked, Asked::Never) {
            Asked::Waiting(old) => {
                *asked = Asked::Waiting(Some(waker));
                drop(asked);
                drop(old);
                Poll::Pending
            }
            Asked::Answered(answer) => Poll::Ready(Some(answer)),
            Asked::Never => Poll::Ready(None),
        }
    }

    /// Returns the answer if it comes before the sleep ends.
    pub(crate) async fn within(&self, sleep: Sleep) -> Option<T> {
        let mut sleep = pin!(sleep);
        poll_fn(|context| match self.poll(context.waker()) {
            Poll::Pending => sleep.as_mut().poll(context).map(|()| None),
            ready => ready,
        })
        .await
    }
}

impl<T> Answer<T> {
    pub(crate) fn give(mut self, answer: T) {
        self.end(Asked::Answered(answer));
    }

    fn end(&mut self, end: Asked<T>) {
        let Some(asked) = self.0.take() else { return };
        let before = mem::replace(&mut *asked.lock(), end);
        if let Asked::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        self.end(Asked::Never);
    }
}

//! What several test files share.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use floodwall::{Clock, TimeSource};

/// Polls a future once, with a waker that does nothing.
pub(crate) fn poll<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Counts how often it is woken.
#[derive(Debug, Default)]
pub(crate) struct Wakes(AtomicU64);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Wakes {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts from 0 again, and returns how far it was.
    pub(crate) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }

    /// Polls a future once, to be woken here.
    pub(crate) fn poll<F: Future + ?Sized>(self: &Arc<Self>, future: &mut Pin<Box<F>>) -> Poll<F::Output> {
        future.as_mut().poll(&mut Context::from_waker(&self.clone().into()))
    }
}

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) const fn nanos(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}

/// A clock that a test sets to what it likes.
struct Settable(Instant, Arc<AtomicI64>);

impl TimeSource for Settable {
    fn now(&self) -> Instant {
        let offset = self.1.load(Ordering::Relaxed);
        if offset >= 0 { self.0 + nanos(offset as u64) } else { self.0 - nanos(offset.unsigned_abs()) }
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

/// Returns a clock that tells `start` from now, plus as many nanoseconds as the second value is set to.
pub(crate) fn settable(start: Duration) -> (Clock, Arc<AtomicI64>) {
    let offset = Arc::new(AtomicI64::new(0));
    (Clock::new(Settable(Instant::now() + start, offset.clone())), offset)
}

//! A service that checks how layers call it.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use floodwall::{Constant, Retry};
use tower::{Service, ServiceExt};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// A service that checks how it is called: it panics if it was not made ready, and a clone is not ready.
///
/// Being ready reserves something, as it does in services that limit concurrency. Not `Sync`, as boxed services are.
pub(crate) struct Probe {
    shared: Arc<Shared>,
    is_ready: Cell<bool>,
}

/// What all clones of one probe share.
#[derive(Default)]
pub(crate) struct Shared {
    /// What `poll_ready` says next; when there is nothing left, that it is ready.
    pub(crate) readiness: Mutex<VecDeque<Poll<Result<(), &'static str>>>>,
    /// What calls answer next, `Pending` for never; when there is nothing left, their request.
    answers: Mutex<VecDeque<Poll<Result<u32, &'static str>>>>,
    /// The requests so far.
    pub(crate) requests: Mutex<Vec<u32>>,
    /// How many instances are ready and not yet called.
    reserved: AtomicUsize,
}

pub(crate) fn probe() -> (Probe, Arc<Shared>) {
    let shared = Arc::new(Shared::default());
    (Probe { shared: shared.clone(), is_ready: Cell::new(false) }, shared)
}

impl Shared {
    pub(crate) fn ready(&self, script: impl IntoIterator<Item = Poll<Result<(), &'static str>>>) {
        *self.readiness.lock().unwrap() = script.into_iter().collect();
    }

    pub(crate) fn answer(&self, script: impl IntoIterator<Item = Poll<Result<u32, &'static str>>>) {
        *self.answers.lock().unwrap() = script.into_iter().collect();
    }

    pub(crate) fn requests(&self) -> Vec<u32> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn reserved(&self) -> usize {
        self.reserved.load(Ordering::Relaxed)
    }
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), is_ready: Cell::new(false) }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.reserved.fetch_sub(usize::from(self.is_ready.get()), Ordering::Relaxed);
    }
}

impl Service<u32> for Probe {
    type Response = u32;
    type Error = &'static str;
    type Future = Pin<Box<dyn Future<Output = Result<u32, &'static str>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.is_ready.get() {
            return Poll::Ready(Ok(()));
        }
        let next = self.shared.readiness.lock().unwrap().pop_front().unwrap_or(Poll::Ready(Ok(())));
        match next {
            Poll::Ready(Ok(())) => {
                self.is_ready.set(true);
                self.shared.reserved.fetch_add(1, Ordering::Relaxed);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => context.waker().wake_by_ref(),
        }
        next
    }

    fn call(&mut self, request: u32) -> Self::Future {
        assert!(self.is_ready.replace(false), "called without having been made ready");
        self.shared.reserved.fetch_sub(1, Ordering::Relaxed);
        self.shared.requests.lock().unwrap().push(request);
        let answer = self.shared.answers.lock().unwrap().pop_front().unwrap_or(Poll::Ready(Ok(request)));
        Box::pin(async move {
            tokio::task::yield_now().await;
            match answer {
                Poll::Ready(answer) => answer,
                Poll::Pending => pending().await,
            }
        })
    }
}

/// A copy that can be told from its original.
pub(crate) fn copied(request: &u32) -> Option<u32> {
    Some(request + 100)
}

pub(crate) fn retry(attempts: u32) -> Retry {
    Retry::new(Constant::new(Duration::ZERO).attempts(attempts))
}

pub(crate) fn fails(error: &'static str) -> Poll<Result<u32, &'static str>> {
    Poll::Ready(Err(error))
}

pub(crate) async fn send<S: Service<R>, R>(service: &mut S, request: R) -> Result<S::Response, S::Error> {
    service.ready().await?.call(request).await
}

pub(crate) fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls until nothing more can come of it while the clock stands still.
pub(crate) fn settle<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    (0..20).map(|_| poll(future.as_mut())).find(Poll::is_ready).unwrap_or(Poll::Pending)
}

pub(crate) fn poll_ready<S: Service<R>, R>(service: &mut S) -> Poll<Result<(), S::Error>> {
    service.poll_ready(&mut Context::from_waker(Waker::noop()))
}

//! What does it cost to be ready to hedge a call that then needs no hedge, and to measure what it takes?
//!
//! `hedge at a quantile` is beside tower's `Hedge`, around the same service, ready at once. `record` is a latency that
//! threads count into one histogram; hdrhistogram's is not made to be shared, so a mutex is around it (its own
//! recorders are for one thread each, and are collected later). It is given one significant digit, which is nearest to our
//! sixteen parts of a doubling.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::hint::black_box;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use floodwall::tower::PolicyLayer;
use floodwall::{Histogram, Policy};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tower::{Service, ServiceBuilder};

use crate::harness::Case;

pub fn cases() -> Vec<Case> {
    vec![ready_call(), record(), quantile()]
}

fn ready_call() -> Case {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_current_thread().enable_time().build().unwrap());
    let measured = || floodwall::Hedge::at_quantile(0.95);
    let layer = PolicyLayer::repeating(measured(), |request: &u32| Some(*request));
    let layered = ServiceBuilder::new().layer(layer).service_fn(serve);
    Case::new("hedge around a ready call")
        .hold(|| Box::new(RUNTIME.enter()))
        .peer("floodwall at a quantile", measured(), |hedge| now(hedge.call(work)).unwrap())
        .peer("floodwall after 50 ms", floodwall::Hedge::after(Duration::from_millis(50)), |hedge| {
            now(hedge.call(work)).unwrap()
        })
        .peer_per_thread("floodwall in tower", move || layered.clone(), |service| drive(service).unwrap())
        .peer_per_thread("tower", tower_hedge, |service| drive(service).unwrap())
}

/// tower's own, with the quantile, the number of samples and the time that floodwall's has by itself.
fn tower_hedge() -> impl Service<u32, Response = u32, Error = tower::BoxError> {
    tower::hedge::Hedge::new(Serve, Always, 100, 0.95, Duration::from_secs(30))
}

#[derive(Clone)]
struct Always;

impl tower::hedge::Policy<u32> for Always {
    fn clone_request(&self, request: &u32) -> Option<u32> {
        Some(*request)
    }

    fn can_retry(&self, _: &u32) -> bool {
        true
    }
}

/// A service that is ready at once.
#[derive(Clone)]
struct Serve;

impl Service<u32> for Serve {
    type Response = u32;
    type Error = Infallible;
    type Future = Ready<Result<u32, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u32) -> Self::Future {
        serve(request)
    }
}

fn hdr() -> Mutex<hdrhistogram::Histogram<u64>> {
    Mutex::new(hdrhistogram::Histogram::new_with_bounds(1, 1 << 40, 1).unwrap())
}

fn record() -> Case {
    Case::new("record a latency in one histogram")
        .threads(&[1, 2])
        .peer("floodwall", Histogram::new(), |histogram| {
            histogram.record(black_box(Duration::from_micros(700)));
        })
        .peer("hdrhistogram, mutex", hdr(), |histogram| {
            histogram.lock().record(black_box(Duration::from_micros(700)).as_nanos() as u64).unwrap();
        })
}

fn quantile() -> Case {
    let (ours, theirs) = (Histogram::new(), hdr());
    for micros in 1..10_000 {
        ours.record(Duration::from_micros(micros));
        theirs.lock().record(micros * 1_000).unwrap();
    }
    Case::new("ask for the 99th percentile")
        .peer("floodwall", ours, |histogram| histogram.quantile(0.99))
        .peer("hdrhistogram, mutex", theirs, |histogram| histogram.lock().value_at_quantile(0.99))
}

fn work() -> Ready<Result<u32, Infallible>> {
    ready(Ok(black_box(42)))
}

fn serve(request: u32) -> Ready<Result<u32, Infallible>> {
    ready(Ok(black_box(request)))
}

fn drive<S: Service<u32>>(service: &mut S) -> Result<S::Response, S::Error> {
    now(poll_fn(|context| service.poll_ready(context)))?;
    now(service.call(black_box(42)))
}

/// The output of a future that has it at once.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a future that should be ready has to wait"),
    }
}

//! What does an async stack cost around a future that is ready at once?
//!
//! `floodwall` is a tuple and its `call`; `floodwall in tower` is the same tuple as a layer around a service, which is
//! what to compare with `tower`, its own layers around the same service. All run inside a runtime, whose timers tower's
//! timeout asks for; each future is polled once, by hand, with a waker that does nothing.
//!
//! What is not alike. tower has no breaker. Its rate limit belongs to one service: nothing in it is shared between
//! threads, so it needs no atomics, and it cannot be cloned, hence not stand under its retry; it lets bursts through
//! at the edge of two periods. Its limits wait unless a load shedder stands before them, so one does: floodwall's
//! reject. Its timeout makes its sleep when the call starts, floodwall's only when the call has to wait. floodwall's
//! layer boxes its future once per call, tower's layers are nested types.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::hint::black_box;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use floodwall::tower::PolicyLayer;
use floodwall::{Bulkhead, CircuitBreaker, Exponential, Policy, Retry, Timeout, TokenBucket};
use tokio::runtime::{Builder, Runtime};
use tower::{BoxError, Service, ServiceBuilder};
use tower_resilience_bulkhead::BulkheadLayer;
use tower_resilience_circuitbreaker::{CircuitBreakerError, CircuitBreakerLayer};
use tower_resilience_ratelimiter::RateLimiterLayer;
use tower_resilience_retry::RetryLayer;
use tower_resilience_timelimiter::TimeLimiterLayer;

use crate::harness::Case;

const BILLION: u64 = 1_000_000_000;
const SECOND: Duration = Duration::from_secs(1);
const MAX: usize = 64;

pub fn cases() -> Vec<Case> {
    vec![empty(), limits(), retry(), five()]
}

fn case(name: &'static str) -> Case {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_current_thread().enable_time().build().unwrap());
    Case::new(name).hold(|| Box::new(RUNTIME.enter()))
}

fn empty() -> Case {
    let layered = ServiceBuilder::new().layer(PolicyLayer::new(())).service_fn(serve);
    case("empty")
        .peer("floodwall", (), |stack| now(stack.call(work)).unwrap())
        .peer_per_thread("floodwall in tower", move || layered.clone(), |service| drive(service).unwrap())
        .peer("bare future", (), |()| now(work()).unwrap())
        .bar("bare future", 0.5)
}

fn limits() -> Case {
    let stack = || (Timeout::new(SECOND), Bulkhead::new(MAX), TokenBucket::per_second(BILLION));
    let layered = ServiceBuilder::new().layer(PolicyLayer::new(stack())).service_fn(serve);
    case("timeout, bulkhead, rate limit")
        .peer("floodwall", stack(), |stack| now(stack.call(work)).unwrap())
        .peer_per_thread("floodwall in tower", move || layered.clone(), |service| drive(service).unwrap())
        .peer_per_thread("tower", tower_limits, |service| drive(service).unwrap())
}

fn tower_limits() -> impl Service<u32, Response = u32, Error = BoxError> {
    ServiceBuilder::new()
        .timeout(SECOND)
        .load_shed()
        .concurrency_limit(MAX)
        .rate_limit(BILLION, SECOND)
        .service_fn(serve)
}

fn retry() -> Case {
    let stack = || (Timeout::new(SECOND), retries(), Bulkhead::new(MAX));
    let layer = PolicyLayer::repeating(stack(), |request: &u32| Some(*request));
    let layered = ServiceBuilder::new().layer(layer).service_fn(serve);
    let tower = ServiceBuilder::new()
        .timeout(SECOND)
        .retry(Attempts(3))
        .load_shed()
        .concurrency_limit(MAX)
        .service_fn(serve);
    case("timeout, retry, bulkhead")
        .peer("floodwall", stack(), |stack| now(stack.call(work)).unwrap())
        .peer_per_thread("floodwall in tower", move || layered.clone(), |service| drive(service).unwrap())
        .peer_per_thread("tower", move || tower.clone(), |service| drive(service).unwrap())
}

/// tower itself has no such stack: no breaker, and no rate limit under its retry. tower-resilience has; the third is
/// what someone in a hurry would take, tower's own layers where there are any.
fn five() -> Case {
    let stack = || {
        let breaker = CircuitBreaker::builder().build();
        (Timeout::new(SECOND), retries(), breaker, Bulkhead::new(MAX), TokenBucket::per_second(BILLION))
    };
    let layer = PolicyLayer::repeating(stack(), |request: &u32| Some(*request));
    let layered = ServiceBuilder::new().layer(layer).service_fn(serve);
    let breaker = || CircuitBreakerLayer::builder().build().unwrap();
    let bucket = || {
        let limit = RateLimiterLayer::builder().limit_for_period(BILLION as usize).refresh_period(SECOND);
        limit.burst_size(0).timeout_duration(Duration::ZERO).build().unwrap()
    };
    let retry = RetryLayer::<u32, _, _>::builder().max_attempts(3);
    let resilience = ServiceBuilder::new()
        .layer(TimeLimiterLayer::builder().timeout_duration(SECOND).build())
        .layer(retry.exponential_backoff(Duration::from_millis(50)).build())
        .layer(breaker())
        .layer(BulkheadLayer::builder().max_concurrent_calls(MAX).reject_when_full().build().unwrap())
        .layer(bucket())
        .service_fn(serve);
    let mixed = ServiceBuilder::new()
        .timeout(SECOND)
        .retry(Attempts(3))
        .map_err(|error: CircuitBreakerError<BoxError>| BoxError::from(error.to_string()))
        .layer(breaker())
        .load_shed()
        .concurrency_limit(MAX)
        .layer(bucket())
        .service_fn(serve);
    case("timeout, retry, breaker, bulkhead, rate limit")
        .peer("floodwall", stack(), |stack| now(stack.call(work)).unwrap())
        .peer_per_thread("floodwall in tower", move || layered.clone(), |service| drive(service).unwrap())
        .peer_per_thread("tower-resilience", move || resilience.clone(), |service| drive(service).unwrap())
        .peer_per_thread("tower, tower-resilience", move || mixed.clone(), |service| drive(service).unwrap())
}

fn retries() -> Retry {
    Retry::new(Exponential::new(Duration::from_millis(50)).attempts(3))
}

/// tower's users write their own; like floodwall's default it repeats every error, without a wait.
#[derive(Clone)]
struct Attempts(u32);

impl<T, E> tower::retry::Policy<u32, T, E> for Attempts {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut u32, result: &mut Result<T, E>) -> Option<Ready<()>> {
        self.0 -= 1;
        (result.is_err() && self.0 > 0).then(|| ready(()))
    }

    fn clone_request(&mut self, request: &u32) -> Option<u32> {
        Some(*request)
    }
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
pub fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a future that should be ready has to wait"),
    }
}

//! Stacks as tower layers: how they call a service, what clones share, what moves through them, and real servers.

use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use floodwall::tower::{PolicyFuture, PolicyLayer, PolicyService};
use floodwall::{
    Acquire, Bulkhead, Call, Clock, Constant, Error, Fallback, Gate, Hedge, Outcome, Policy, Reason, Retry,
    RetryBudget, Timeout, TokenBucket, block_on,
};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tower::util::BoxCloneService;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A service that checks how it is called: it panics if it was not made ready, and a clone is not ready.
///
/// Being ready reserves something, as it does in services that limit concurrency. Not `Sync`, as boxed services are.
struct Probe {
    shared: Arc<Shared>,
    is_ready: Cell<bool>,
}

/// What all clones of one probe share.
#[derive(Default)]
struct Shared {
    /// What `poll_ready` says next; when there is nothing left, that it is ready.
    readiness: Mutex<VecDeque<Poll<Result<(), &'static str>>>>,
    /// What calls answer next, `Pending` for never; when there is nothing left, their request.
    answers: Mutex<VecDeque<Poll<Result<u32, &'static str>>>>,
    /// The requests so far.
    requests: Mutex<Vec<u32>>,
    /// How many instances are ready and not yet called.
    reserved: AtomicUsize,
}

fn probe() -> (Probe, Arc<Shared>) {
    let shared = Arc::new(Shared::default());
    (Probe { shared: shared.clone(), is_ready: Cell::new(false) }, shared)
}

impl Shared {
    fn ready(&self, script: impl IntoIterator<Item = Poll<Result<(), &'static str>>>) {
        *self.readiness.lock().unwrap() = script.into_iter().collect();
    }

    fn answer(&self, script: impl IntoIterator<Item = Poll<Result<u32, &'static str>>>) {
        *self.answers.lock().unwrap() = script.into_iter().collect();
    }

    fn requests(&self) -> Vec<u32> {
        self.requests.lock().unwrap().clone()
    }

    fn reserved(&self) -> usize {
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
fn copied(request: &u32) -> Option<u32> {
    Some(request + 100)
}

fn retry(attempts: u32) -> Retry {
    Retry::new(Constant::new(Duration::ZERO).attempts(attempts))
}

fn fails(error: &'static str) -> Poll<Result<u32, &'static str>> {
    Poll::Ready(Err(error))
}

async fn send<S: Service<R>, R>(service: &mut S, request: R) -> Result<S::Response, S::Error> {
    service.ready().await?.call(request).await
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls until nothing more can come of it while the clock stands still.
fn settle<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    (0..20).map(|_| poll(future.as_mut())).find(Poll::is_ready).unwrap_or(Poll::Pending)
}

fn poll_ready<S: Service<R>, R>(service: &mut S) -> Poll<Result<(), S::Error>> {
    service.poll_ready(&mut Context::from_waker(Waker::noop()))
}

// The contract of `poll_ready`.

#[test]
#[should_panic(expected = "called without having been made ready")]
fn the_probe_catches_a_layer_that_calls_a_clone_of_the_ready_service() {
    let (mut probe, _) = probe();
    let naive = async {
        let mut clone = probe.ready().await?.clone();
        clone.call(7).await
    };
    let _ = block_on(naive);
}

#[test]
fn the_service_that_was_made_ready_is_the_one_that_is_called() {
    let (probe, shared) = probe();
    let mut once = PolicyLayer::new((Bulkhead::new(1), Timeout::new(MINUTE))).layer(probe.clone());
    let mut repeating = PolicyLayer::repeating(Bulkhead::new(1), copied).layer(probe);
    for request in 1..=3 {
        assert_eq!(block_on(send(&mut once, request)), Ok(request));
        assert_eq!(block_on(send(&mut once.clone(), request + 10)), Ok(request + 10));
        assert_eq!(block_on(send(&mut repeating, request)), Ok(request + 100));
        assert_eq!(block_on(send(&mut repeating.clone(), request + 10)), Ok(request + 110));
    }
    assert_eq!(shared.requests().len(), 12);
    assert_eq!(shared.reserved(), 0);
}

#[test]
fn a_clone_of_a_ready_service_is_made_ready_itself() {
    let (probe, shared) = probe();
    let mut service = PolicyLayer::new(()).layer(probe);
    assert_eq!(poll_ready(&mut service), Poll::Ready(Ok(())));
    let mut clone = service.clone();
    shared.ready([Poll::Pending]);
    assert_eq!(poll_ready(&mut clone), Poll::Pending);
    assert_eq!(poll_ready(&mut clone), Poll::Ready(Ok(())));
    assert_eq!(shared.reserved(), 2);
    assert_eq!(block_on(service.call(1)), Ok(1));
    assert_eq!(block_on(clone.call(2)), Ok(2));
    assert_eq!(shared.requests(), [1, 2]);
}

#[test]
fn each_further_attempt_polls_a_clone_until_it_is_ready() {
    let (probe, shared) = probe();
    let mut service = PolicyLayer::repeating((retry(4),), copied).layer(probe);
    shared.answer([fails("first"), fails("second"), fails("third")]);
    let ready = Poll::Ready(Ok(()));
    shared.ready([ready, Poll::Pending, Poll::Pending, ready, Poll::Pending, ready]);
    assert_eq!(block_on(send(&mut service, 7)), Ok(107));
    assert_eq!(shared.requests(), [107; 4]);
    assert!(shared.readiness.lock().unwrap().is_empty());
    assert_eq!(shared.reserved(), 0);
}

#[test]
fn an_error_of_poll_ready_comes_out_as_the_services_own() {
    let (probe, shared) = probe();
    let mut once = PolicyLayer::new((Bulkhead::new(1),)).layer(probe.clone());
    let mut repeating = PolicyLayer::repeating((retry(3),), copied).layer(probe);
    shared.ready([Poll::Ready(Err("closed")), Poll::Ready(Err("broken"))]);
    assert_eq!(poll_ready(&mut once), Poll::Ready(Err(Error::Inner("closed"))));
    assert_eq!(poll_ready(&mut repeating), Poll::Ready(Err(Error::Inner("broken"))));
    assert_eq!(block_on(send(&mut once, 7)), Ok(7));
    assert_eq!(shared.requests(), [7]);
}

#[test]
fn a_further_attempt_whose_service_fails_to_become_ready_has_failed_and_is_repeated() {
    let (probe, shared) = probe();
    let mut service = PolicyLayer::repeating((retry(3),), copied).layer(probe);
    shared.answer([fails("first")]);
    shared.ready([Poll::Ready(Ok(())), Poll::Ready(Err("closed"))]);
    assert_eq!(block_on(send(&mut service, 7)), Ok(107));
    assert_eq!(shared.requests(), [107, 107]);

    shared.answer([fails("first")]);
    shared.ready([Poll::Ready(Ok(())), Poll::Ready(Err("closed")), Poll::Ready(Err("still closed"))]);
    assert_eq!(block_on(send(&mut service, 8)), Err(Error::Inner("still closed")));
    assert_eq!(shared.requests(), [107, 107, 108]);
}

#[test]
fn a_service_that_is_not_ready_keeps_the_call_waiting_and_is_charged_nothing() {
    let (probe, shared) = probe();
    let bulkhead = Arc::new(Bulkhead::new(1));
    let bucket = Arc::new(TokenBucket::per(5, MINUTE).clock(Clock::manual()));
    let stack = Arc::new((bulkhead.clone(), bucket.clone()));
    let mut once = PolicyLayer::new(stack.clone()).layer(probe.clone());
    let mut repeating = PolicyLayer::repeating(stack, copied).layer(probe);
    shared.ready([Poll::Pending; 6]);
    for _ in 0..3 {
        assert!(poll_ready(&mut once).is_pending());
        assert!(poll_ready(&mut repeating).is_pending());
    }
    assert_eq!((bulkhead.running(), bucket.available()), (0, 5));

    // Made ready by a thousand clones that never call: nothing is taken from those who do.
    for _ in 0..1000 {
        assert!(poll_ready(&mut once.clone()).is_ready());
        assert!(poll_ready(&mut repeating.clone()).is_ready());
    }
    assert!(poll_ready(&mut once).is_ready());
    assert!(poll_ready(&mut repeating).is_ready());
    assert_eq!((bulkhead.running(), bucket.available()), (0, 5));
    assert_eq!(shared.reserved(), 2);
    drop((once.call(1), repeating.call(1)));
    assert_eq!((bulkhead.running(), shared.reserved()), (0, 0));
    assert!(shared.requests().is_empty());
}

#[test]
fn a_further_attempt_that_never_becomes_ready_runs_out_of_its_own_time() {
    let (clock, (probe, shared)) = (Clock::manual(), probe());
    let stack = (retry(2), Timeout::new(SECOND).clock(clock.clone()).name("attempt"));
    let mut service = PolicyLayer::repeating(stack, copied).layer(probe);
    assert!(poll_ready(&mut service).is_ready());
    shared.answer([fails("first")]);
    shared.ready([Poll::Pending; 100]);
    let mut call = service.call(7);
    assert!(settle(call.as_mut()).is_pending());
    clock.advance(SECOND);
    let ended = settle(call.as_mut());
    assert!(matches!(ended, Poll::Ready(Err(Error::TimedOut(t))) if t.by() == "attempt"), "{ended:?}");
    assert_eq!(shared.requests(), [107]);
}

#[test]
fn a_rejected_call_gives_back_what_the_ready_service_had_reserved() {
    let (probe, shared) = probe();
    let bulkhead = Arc::new(Bulkhead::new(1));
    let mut once = PolicyLayer::new((bulkhead.clone(),)).layer(probe.clone());
    let mut repeating = PolicyLayer::repeating((retry(3), bulkhead.clone()), copied).layer(probe);
    let permit = bulkhead.try_acquire().unwrap();
    for _ in 0..3 {
        let rejected = block_on(send(&mut once, 1)).unwrap_err();
        assert!(matches!(rejected, Error::Rejected(r) if r.reason() == Reason::BulkheadFull));
        assert_eq!(block_on(send(&mut repeating, 1)), Err(rejected));
        assert_eq!(shared.reserved(), 0);
    }
    permit.success();
    assert_eq!(block_on(send(&mut once, 2)), Ok(2));
    assert_eq!(block_on(send(&mut repeating, 2)), Ok(102));
    assert_eq!(shared.requests(), [2, 102]);
}

/// Makes two attempts at once and takes the first that is good.
struct Twice;

impl<T: Send, E: Send> Policy<T, E> for Twice {
    async fn around<F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        let (first, second) = tokio::join!(next(call), next(call));
        first.or(second)
    }
}

#[tokio::test]
async fn two_attempts_at_once_call_two_ready_services() {
    let (probe, shared) = probe();
    let mut service = PolicyLayer::repeating((Twice, Bulkhead::new(2)), copied).layer(probe);
    shared.answer([fails("one of two")]);
    shared.ready([Poll::Ready(Ok(())), Poll::Pending, Poll::Pending]);
    assert_eq!(send(&mut service, 7).await, Ok(107));
    assert_eq!(shared.requests(), [107, 107]);
    assert_eq!(shared.reserved(), 0);
}

// What clones share.

#[test]
fn ten_clones_of_a_service_share_one_limit() {
    let clock = Clock::manual();
    let (probe, shared) = probe();
    let bucket = || TokenBucket::per(3, MINUTE).clock(clock.clone());
    let once = PolicyLayer::new((bucket(),)).layer(probe.clone());
    let repeating = PolicyLayer::repeating((bucket(),), copied).layer(probe);
    for minute in 1..=3 {
        let mut admitted = [0, 0];
        for _ in 0..2 {
            let mut clones: Vec<_> = (0..10).map(|_| (once.clone(), repeating.clone())).collect();
            for (once, repeating) in &mut clones {
                admitted[0] += u32::from(block_on(send(once, 1)).is_ok());
                admitted[1] += u32::from(block_on(send(repeating, 1)).is_ok());
            }
        }
        assert_eq!(admitted, [3, 3]);
        assert_eq!(shared.requests().len(), minute * 6);
        clock.advance(MINUTE);
    }
}

#[test]
fn services_made_by_clones_of_one_layer_share_its_policies() {
    let (probe, _) = probe();
    let layer = PolicyLayer::new((TokenBucket::per(2, MINUTE).clock(Clock::manual()),));
    let mut services = [layer.layer(probe.clone()), layer.clone().layer(probe)];
    let answers = [0, 1, 0, 1].map(|service: usize| block_on(send(&mut services[service], 1)).is_ok());
    assert_eq!(answers, [true, true, false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_each_hold_a_clone_never_run_more_at_once_than_the_bulkhead_allows() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counting = {
        let (now, most) = (now.clone(), most.clone());
        service_fn(move |request: u32| {
            let (now, most) = (now.clone(), most.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, Infallible>(request)
            }
        })
    };
    let bulkhead = Arc::new(Bulkhead::new(3));
    let stack = (bulkhead.clone().wait_up_to(Duration::MAX),);
    let service = ServiceBuilder::new().layer(PolicyLayer::new(stack)).service(counting);
    let tasks: Vec<_> = (0..50).map(|request| tokio::spawn(service.clone().oneshot(request))).collect();
    for (request, task) in (0..).zip(tasks) {
        assert_eq!(task.await.unwrap(), Ok(request));
    }
    assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
    assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
}

// Requests and responses that can only be moved.

/// `Send`, and neither `Clone` nor `Sync`.
#[derive(Debug, PartialEq)]
struct Moved(Cell<u32>);

#[derive(Clone)]
struct Doubler;

impl Service<Moved> for Doubler {
    type Response = Moved;
    type Error = Moved;
    type Future = std::future::Ready<Result<Moved, Moved>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Moved>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, Moved(request): Moved) -> Self::Future {
        std::future::ready(match request.get() {
            0 => Err(Moved(request)),
            number => Ok(Moved(Cell::new(2 * number))),
        })
    }
}

#[tokio::test]
async fn what_is_neither_clone_nor_sync_moves_through_a_stack() {
    let stack = (
        Timeout::new(MINUTE),
        Some(Fallback::from_fn(|result: Result<Moved, Error<Moved>>| result)),
        (Bulkhead::new(1).wait_up_to(SECOND), TokenBucket::per_second(100)),
    );
    let once = PolicyLayer::new(stack).layer(Doubler);
    let answer = tokio::spawn(once.clone().oneshot(Moved(Cell::new(4)))).await.unwrap();
    assert_eq!(answer, Ok(Moved(Cell::new(8))));
    let error = tokio::spawn(once.oneshot(Moved(Cell::new(0)))).await.unwrap();
    assert_eq!(error, Err(Error::Inner(Moved(Cell::new(0)))));

    let copy = |request: &Moved| Some(Moved(Cell::new(request.0.get())));
    let repeating = PolicyLayer::repeating((retry(2), Bulkhead::new(1)), copy).layer(Doubler);
    let answer = tokio::spawn(repeating.clone().oneshot(Moved(Cell::new(4)))).await.unwrap();
    assert_eq!(answer, Ok(Moved(Cell::new(8))));
    let error = tokio::spawn(repeating.oneshot(Moved(Cell::new(0)))).await.unwrap();
    assert_eq!(error, Err(Error::Inner(Moved(Cell::new(0)))));
}

// Retries.

#[test]
fn a_request_is_repeated_with_copies_of_the_original() {
    let (probe, shared) = probe();
    let copies = Arc::new(AtomicUsize::new(0));
    let copy = {
        let copies = copies.clone();
        move |request: &u32| Some(request + 100 * (copies.fetch_add(1, Ordering::Relaxed) as u32 + 1))
    };
    let mut service = PolicyLayer::repeating((retry(5), Bulkhead::new(1)), copy).layer(probe);
    shared.answer([fails("first"), fails("second")]);
    assert_eq!(block_on(send(&mut service, 7)), Ok(307));
    assert_eq!(shared.requests(), [107, 207, 307]);
    assert_eq!(copies.load(Ordering::Relaxed), 3);
}

#[test]
fn as_many_attempts_are_made_as_the_retry_allows_and_the_last_error_comes_out() {
    let (probe, shared) = probe();
    for attempts in 1..=4 {
        let mut service = PolicyLayer::repeating((retry(attempts),), copied).layer(probe.clone());
        shared.requests.lock().unwrap().clear();
        shared.answer(["first", "second", "third", "fourth"].map(fails));
        let last = ["first", "second", "third", "fourth"][attempts as usize - 1];
        assert_eq!(block_on(send(&mut service, 7)), Err(Error::Inner(last)));
        assert_eq!(shared.requests(), vec![107; attempts as usize]);
    }
}

#[test]
fn a_request_that_the_hook_does_not_copy_is_sent_once_as_it_is() {
    let (probe, shared) = probe();
    let even_only = |request: &u32| (request % 2 == 0).then(|| request + 100);
    let mut service = PolicyLayer::repeating((retry(3), Timeout::new(MINUTE)), even_only).layer(probe);
    assert_eq!(block_on(send(&mut service, 7)), Ok(7));
    shared.answer([fails("not to be done twice")]);
    assert_eq!(block_on(send(&mut service, 9)), Err(Error::Inner("not to be done twice")));
    shared.answer([fails("can be done twice")]);
    assert_eq!(block_on(send(&mut service, 8)), Ok(108));
    assert_eq!(shared.requests(), [7, 9, 108, 108]);
}

#[test]
fn a_hook_that_refuses_a_second_copy_ends_the_call_without_sending_it_again() {
    let (probe, shared) = probe();
    let left = Arc::new(AtomicUsize::new(1));
    let copy = move |request: &u32| {
        let one_left = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        one_left.ok().map(|_| request + 100)
    };
    let mut service = PolicyLayer::repeating((retry(3),), copy).layer(probe);
    shared.answer([fails("first")]);
    let ended = block_on(send(&mut service, 7));
    assert!(matches!(ended, Err(Error::Rejected(r)) if r.by() == "tower"), "{ended:?}");
    assert_eq!(shared.requests(), [107]);
}

#[test]
fn a_policy_outside_the_retry_sees_one_call_and_one_inside_sees_each_attempt() {
    let (probe, shared) = probe();
    let clock = Clock::manual();
    let bucket = || Arc::new(TokenBucket::per(10, MINUTE).clock(clock.clone()));
    let (outside, inside) = (bucket(), bucket());
    let stack = (outside.clone(), retry(3), inside.clone());
    let mut service = PolicyLayer::repeating(stack, copied).layer(probe);
    shared.answer([fails("first"), fails("second")]);
    assert_eq!(block_on(send(&mut service, 7)), Ok(107));
    assert_eq!((outside.available(), inside.available()), (9, 7));
}

#[test]
fn delays_between_attempts_are_those_of_the_retrys_clock() {
    let (clock, (probe, shared)) = (Clock::manual(), probe());
    let retry = Retry::new(Constant::new(10 * SECOND).attempts(3)).clock(clock.clone());
    let mut service = PolicyLayer::repeating((retry,), copied).layer(probe);
    assert!(poll_ready(&mut service).is_ready());
    shared.answer([fails("first"), fails("second")]);
    let mut call = service.call(7);
    for attempts in 1..=2 {
        assert!(settle(call.as_mut()).is_pending());
        clock.advance(9 * SECOND);
        assert!(settle(call.as_mut()).is_pending());
        assert_eq!(shared.requests().len(), attempts);
        clock.advance(SECOND);
    }
    assert_eq!(settle(call.as_mut()), Poll::Ready(Ok(107)));
    assert_eq!(shared.requests(), [107; 3]);
}

#[test]
fn an_attempt_that_ran_out_of_time_is_dropped_and_repeated_with_a_copy() {
    let (clock, (probe, shared)) = (Clock::manual(), probe());
    let bulkhead = Arc::new(Bulkhead::new(1));
    let stack = (retry(2), bulkhead.clone(), Timeout::new(SECOND).clock(clock.clone()));
    let mut service = PolicyLayer::repeating(stack, copied).layer(probe);
    assert!(poll_ready(&mut service).is_ready());
    shared.answer([Poll::Pending]);
    let mut call = service.call(7);
    assert!(settle(call.as_mut()).is_pending());
    assert_eq!(bulkhead.running(), 1);
    clock.advance(SECOND);
    assert_eq!(settle(call.as_mut()), Poll::Ready(Ok(107)));
    assert_eq!(shared.requests(), [107, 107]);
    assert_eq!(bulkhead.running(), 0);
}

// Hedges.

#[test]
fn a_copy_of_a_slow_request_is_sent_to_a_clone_that_was_made_ready() {
    let (clock, (probe, shared)) = (Clock::manual(), probe());
    let budget = RetryBudget::of_calls(0.1).clock(clock.clone());
    let stack = (Hedge::after(SECOND).clock(clock.clone()).budget(budget), Bulkhead::new(2));
    let mut service = PolicyLayer::repeating(stack, copied).layer(probe);
    assert!(poll_ready(&mut service).is_ready());
    shared.answer([Poll::Pending]);
    let mut call = service.call(7);
    assert!(settle(call.as_mut()).is_pending());
    assert_eq!(shared.requests(), [107]);
    clock.advance(SECOND);
    assert_eq!(settle(call.as_mut()), Poll::Ready(Ok(107)));
    assert_eq!(shared.requests(), [107, 107]);
}

#[test]
fn a_request_that_cannot_be_copied_is_not_hedged() {
    let (clock, (probe, shared)) = (Clock::manual(), probe());
    let hedge = Hedge::after(SECOND).clock(clock.clone());
    let mut service = PolicyLayer::repeating((hedge,), |_: &u32| None).layer(probe);
    assert!(poll_ready(&mut service).is_ready());
    shared.answer([Poll::Pending]);
    let mut call = service.call(7);
    assert!(settle(call.as_mut()).is_pending());
    clock.advance(SECOND);
    assert!(settle(call.as_mut()).is_pending());
    assert_eq!(shared.requests(), [7]);
}

// Calls that do not end.

#[test]
fn a_call_dropped_after_any_number_of_polls_gives_every_permit_back() {
    let (clock, (probe, shared)) = (Clock::manual(), probe());
    let outer = Arc::new(Bulkhead::new(1));
    let inner = Arc::new(Bulkhead::new(1).clock(clock.clone()));
    let waiting = Arc::new(inner.clone().wait_up_to(MINUTE));
    let attempt = Timeout::new(MINUTE).clock(clock.clone());
    let delayed = Retry::new(Constant::new(SECOND).attempts(3)).clock(clock.clone());
    let mut once = PolicyLayer::new((outer.clone(), waiting.clone(), attempt.clone())).layer(probe.clone());
    let mut repeating =
        PolicyLayer::repeating((outer.clone(), delayed, waiting, attempt), copied).layer(probe);

    // Drops a call after so many polls. Another holds the inner bulkhead until the third, and time passes at each.
    let drop_after = |polls: usize, mut call: PolicyFuture<u32, &'static str>| {
        let mut other = Some(inner.try_acquire().unwrap());
        shared.ready([Poll::Pending, Poll::Ready(Ok(())), Poll::Pending]);
        shared.answer([fails("first"), fails("second")]);
        let mut ended = Poll::Pending;
        for number in 0..polls {
            if number == 2 {
                other = None;
            }
            ended = poll(call.as_mut());
            if ended.is_ready() {
                break;
            }
            clock.advance(SECOND);
        }
        drop((call, other));
        assert_eq!((outer.running(), inner.running(), inner.waiting()), (0, 0, 0), "after {polls} polls");
        assert_eq!(shared.reserved(), 0, "after {polls} polls");
        shared.ready([]);
        ended
    };
    let mut ended_once = Vec::new();
    let mut ended_repeating = Vec::new();
    for polls in 0..20 {
        assert!(poll_ready(&mut once).is_ready());
        ended_once.push(drop_after(polls, once.call(7)));
        assert!(poll_ready(&mut repeating).is_ready());
        ended_repeating.push(drop_after(polls, repeating.call(7)));
    }
    let dropped = |ended: &[Poll<_>]| ended.iter().filter(|ended| ended.is_pending()).count();
    assert_eq!(ended_once[19], Poll::Ready(Err(Error::Inner("first"))));
    assert_eq!(ended_repeating[19], Poll::Ready(Ok(107)));
    assert_eq!((dropped(&ended_once), dropped(&ended_repeating)), (4, 10));
}

#[tokio::test]
async fn a_service_that_panics_gives_its_permit_back() {
    let bulkhead = Arc::new(Bulkhead::new(1));
    let stack = (bulkhead.clone(), Timeout::new(MINUTE));
    let service = PolicyLayer::new(stack).layer(service_fn(|request: u32| async move {
        assert_ne!(request, 13, "a service that does not like thirteen");
        Ok::<_, Infallible>(request)
    }));
    assert!(tokio::spawn(service.clone().oneshot(13)).await.unwrap_err().is_panic());
    assert_eq!(bulkhead.running(), 0);
    assert_eq!(service.oneshot(12).await, Ok(12));
}

// With the rest of tower.

#[tokio::test]
async fn boxed_services_work_inside_and_outside_a_layer() {
    struct Backend {
        guarded: PolicyService<BoxCloneService<u32, u32, &'static str>, (TokenBucket,)>,
    }
    let (probe, shared) = probe();
    let bucket = TokenBucket::per(3, MINUTE).clock(Clock::manual());
    let backend = Backend { guarded: PolicyLayer::new((bucket,)).layer(probe.clone().boxed_clone()) };
    let outside: BoxCloneService<u32, u32, Error<&'static str>> = backend.guarded.clone().boxed_clone();
    let mut clones = vec![outside; 5];
    let mut answers = Vec::new();
    for clone in &mut clones {
        answers.push(send(clone, 7).await.is_ok());
    }
    assert_eq!(answers, [true, true, true, false, false]);
    assert!(matches!(backend.guarded.oneshot(7).await, Err(Error::Rejected(_))));

    let mut repeating = ServiceBuilder::new()
        .boxed_clone()
        .layer(PolicyLayer::repeating((retry(2),), copied))
        .service(probe.boxed_clone());
    shared.answer([fails("first")]);
    assert_eq!(send(&mut repeating, 8).await, Ok(108));
    assert_eq!(shared.requests(), [7, 7, 7, 108, 108]);
}

#[tokio::test]
async fn errors_are_lifted_into_the_boxed_error_of_tower() {
    let picky = service_fn(|request: u32| async move {
        if request == 0 { Err(BoxError::from("zero")) } else { Ok(request) }
    });
    let bucket = TokenBucket::per(2, MINUTE).clock(Clock::manual()).name("quota");
    let mut service: BoxCloneService<u32, u32, BoxError> = ServiceBuilder::new()
        .boxed_clone()
        .map_err(Error::lift::<BoxError>)
        .layer(PolicyLayer::new((bucket,)))
        .service(picky);
    assert_eq!(send(&mut service, 1).await.unwrap(), 1);
    assert_eq!(send(&mut service, 0).await.unwrap_err().to_string(), "zero");
    let rejected = send(&mut service, 1).await.unwrap_err();
    let rejected = rejected.downcast_ref::<floodwall::Rejected>().unwrap();
    assert_eq!((rejected.by(), rejected.retry_after()), ("quota", Some(30 * SECOND)));
}

#[tokio::test]
async fn a_fallback_in_the_stack_answers_in_the_services_place() {
    let stack = (
        Fallback::from_fn(|result: Result<u32, Error<&'static str>>| match result {
            Err(Error::Rejected(_)) => Ok(429),
            result => result,
        }),
        TokenBucket::per(1, MINUTE).clock(Clock::manual()),
    );
    let (probe, shared) = probe();
    let mut service = PolicyLayer::new(stack).layer(probe);
    assert_eq!(send(&mut service, 200).await, Ok(200));
    assert_eq!(send(&mut service, 200).await, Ok(429));
    assert_eq!(shared.requests(), [200]);
}

// Real servers and clients.

type Answer = Response<Full<Bytes>>;

/// Serves each connection to a port of the loopback with a clone of `service`.
async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + Send,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service.clone();
            let service = hyper::service::service_fn(move |request| service.clone().oneshot(request));
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn connect(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn get(connection: &mut SendRequest<Full<Bytes>>) -> (u16, Option<String>) {
    connection.ready().await.unwrap();
    let request = Request::get("/").header(header::HOST, "localhost").body(Full::default()).unwrap();
    let (head, body) = connection.send_request(request).await.unwrap().into_parts();
    body.collect().await.unwrap();
    let wait = head.headers.get(header::RETRY_AFTER).map(|wait| wait.to_str().unwrap().to_string());
    (head.status.as_u16(), wait)
}

/// What a server says about a call that its stack did not let through.
///
/// No error is left; the type stays, since tower converts errors of `poll_ready` into it.
fn answered(result: Result<Answer, Error<Infallible>>) -> Result<Answer, Error<Infallible>> {
    let error = match result {
        Ok(answer) => return Ok(answer),
        Err(error) => error,
    };
    let status = match &error {
        Error::Inner(never) => match *never {},
        Error::Rejected(rejected) if rejected.reason() == Reason::RateLimited => {
            StatusCode::TOO_MANY_REQUESTS
        }
        Error::Rejected(_) => StatusCode::SERVICE_UNAVAILABLE,
        Error::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
    };
    let mut answer = Response::new(Full::from(error.to_string()));
    *answer.status_mut() = status;
    if let Some(wait) = error.retry_after() {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connections_of_a_server_share_its_rate_and_the_rest_is_answered_429() {
    let clock = Clock::manual();
    let bucket = TokenBucket::per(4, MINUTE).clock(clock.clone());
    let greet = service_fn(|_: Request<Incoming>| async { Ok::<_, Infallible>(Answer::default()) });
    let service =
        ServiceBuilder::new().map_result(answered).layer(PolicyLayer::new((bucket,))).service(greet);
    let address = serve(service).await;
    let clients: Vec<_> = (0..10)
        .map(|_| {
            tokio::spawn(async move {
                let mut connection = connect(address).await;
                [get(&mut connection).await, get(&mut connection).await]
            })
        })
        .collect();
    let mut answers = Vec::new();
    for client in clients {
        answers.extend(client.await.unwrap());
    }
    answers.sort();
    let (passed, turned_away) = answers.split_at(4);
    assert_eq!(passed, vec![(200, None); 4]);
    assert_eq!(turned_away, vec![(429, Some("15".to_string())); 16]);

    let mut connection = connect(address).await;
    clock.advance(Duration::from_millis(1));
    assert_eq!(get(&mut connection).await, (429, Some("15".to_string())));
    clock.advance(Duration::from_millis(13_999));
    assert_eq!(get(&mut connection).await, (429, Some("1".to_string())));
    clock.advance(SECOND);
    assert_eq!(get(&mut connection).await, (200, None));
}

/// A service that tells when a request has come in, and answers when a permit is added to the semaphore.
fn held_back(
    came_in: tokio::sync::mpsc::UnboundedSender<()>,
    answer: Arc<tokio::sync::Semaphore>,
) -> BoxCloneService<Request<Incoming>, Answer, Infallible> {
    let service = service_fn(move |_: Request<Incoming>| {
        let (came_in, answer) = (came_in.clone(), answer.clone());
        async move {
            came_in.send(()).unwrap();
            answer.acquire().await.unwrap().forget();
            Ok(Answer::default())
        }
    });
    service.boxed_clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_answers_503_while_its_bulkhead_is_full() {
    let (came_in, mut incoming) = tokio::sync::mpsc::unbounded_channel();
    let answer = Arc::new(tokio::sync::Semaphore::new(0));
    let bulkhead = Arc::new(Bulkhead::new(2));
    let service = ServiceBuilder::new()
        .then(|result| async { answered(result) })
        .layer(PolicyLayer::new((bulkhead.clone(),)))
        .service(held_back(came_in, answer.clone()));
    let address = serve(service).await;
    let held = [(); 2].map(|()| tokio::spawn(async move { get(&mut connect(address).await).await }));
    incoming.recv().await.unwrap();
    incoming.recv().await.unwrap();
    let mut third = connect(address).await;
    assert_eq!(get(&mut third).await, (503, None));
    assert_eq!(bulkhead.running(), 2);
    answer.add_permits(3);
    for client in held {
        assert_eq!(client.await.unwrap(), (200, None));
    }
    assert_eq!(get(&mut third).await, (200, None));
    assert_eq!(bulkhead.running(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_gives_the_place_of_its_call_back() {
    let (came_in, mut incoming) = tokio::sync::mpsc::unbounded_channel();
    let bulkhead = Arc::new(Bulkhead::new(1));
    let service = ServiceBuilder::new()
        .map_result(answered)
        .layer(PolicyLayer::new((bulkhead.clone(), Timeout::new(MINUTE))))
        .service(held_back(came_in, Arc::new(tokio::sync::Semaphore::new(0))));
    let address = serve(service).await;
    let stream = TcpStream::connect(address).await.unwrap();
    stream.writable().await.unwrap();
    stream.try_write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    incoming.recv().await.unwrap();
    assert_eq!(bulkhead.running(), 1);
    drop(stream);
    let permit = tokio::time::timeout(MINUTE, bulkhead.acquire()).await.unwrap().unwrap();
    assert_eq!(bulkhead.running(), 1);
    permit.success();
}

/// A body that is made as it is sent: `Send`, and neither `Clone` nor `Sync`.
struct Chunks(Cell<u32>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        Poll::Ready((left > 0).then(|| Ok(Frame::data(Bytes::from_static(b"chunk")))))
    }
}

async fn chunks_in<B: Body<Data = Bytes, Error: std::fmt::Debug>>(body: B) -> u32 {
    body.collect().await.unwrap().to_bytes().len() as u32 / 5
}

#[tokio::test(flavor = "multi_thread")]
async fn streaming_bodies_pass_a_stack_in_a_client_and_in_a_server() {
    // Takes any body apart and answers with twice as many chunks.
    let double = service_fn(|request: Request<UnsyncBoxBody<Bytes, hyper::Error>>| async {
        let chunks = chunks_in(request.into_body()).await;
        Ok::<_, Infallible>(Response::new(Chunks(Cell::new(2 * chunks))))
    });
    let server = (Bulkhead::new(8).wait_up_to(SECOND), TokenBucket::per_second(100), Timeout::new(MINUTE));
    let service = ServiceBuilder::new()
        .map_err(Error::lift::<BoxError>)
        .map_request(|request: Request<Incoming>| request.map(BodyExt::boxed_unsync))
        .layer(PolicyLayer::new(server))
        .service(double);
    let address = serve(service).await;

    let client = Client::builder(TokioExecutor::new()).build_http::<Chunks>();
    let stack = (Timeout::new(MINUTE), Bulkhead::new(4).wait_up_to(MINUTE));
    let client = ServiceBuilder::new().layer(PolicyLayer::new(stack)).service(client);
    let uploads: Vec<_> = (1..=8)
        .map(|chunks| {
            let upload = Request::post(format!("http://{address}/")).body(Chunks(Cell::new(chunks))).unwrap();
            tokio::spawn(client.clone().oneshot(upload))
        })
        .collect();
    for (chunks, upload) in (1..).zip(uploads) {
        let answer = upload.await.unwrap().unwrap();
        assert_eq!(chunks_in(answer.into_body()).await, 2 * chunks);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_repeats_a_get_that_was_answered_503_and_never_a_post() {
    let hits = Arc::new(AtomicUsize::new(0));
    let flaky = {
        let hits = hits.clone();
        service_fn(move |_: Request<Incoming>| {
            let hit = hits.fetch_add(1, Ordering::SeqCst);
            let mut answer = Answer::default();
            if hit % 3 < 2 {
                *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            async move { Ok::<_, Infallible>(answer) }
        })
    };
    let address = serve(flaky).await;

    type Failure = Error<hyper_util::client::legacy::Error>;
    let unavailable = retry(5).judge(|result: &Result<Response<Incoming>, Failure>| match result {
        Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => Outcome::Failure,
        Ok(_) => Outcome::Success,
        Err(_) => Outcome::Failure,
    });
    // The body of a GET is empty and can be made again; that of a POST is on its way once it has been sent.
    let copy = |request: &Request<Chunks>| {
        (request.method() == Method::GET)
            .then(|| Request::get(request.uri().clone()).body(Chunks(Cell::new(0))).unwrap())
    };
    let client = Client::builder(TokioExecutor::new()).build_http::<Chunks>();
    let client = ServiceBuilder::new()
        .layer(PolicyLayer::repeating((unavailable, Timeout::new(MINUTE)), copy))
        .service(client);

    let get = Request::get(format!("http://{address}/")).body(Chunks(Cell::new(0))).unwrap();
    assert_eq!(client.clone().oneshot(get).await.unwrap().status(), StatusCode::OK);
    assert_eq!(hits.load(Ordering::SeqCst), 3);
    let post = Request::post(format!("http://{address}/")).body(Chunks(Cell::new(3))).unwrap();
    assert_eq!(client.oneshot(post).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(hits.load(Ordering::SeqCst), 4);
}

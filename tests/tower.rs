//! Stacks as tower layers: how they call a service, what clones share, and what moves through them.

#[path = "support/probe.rs"]
mod probe;

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use floodwall::tower::{PolicyFuture, PolicyLayer, PolicyService};
use floodwall::{
    Acquire, Bulkhead, Call, Clock, Constant, Error, Fallback, Gate, Hedge, Policy, Reason, Retry,
    RetryBudget, Timeout, TokenBucket, block_on,
};
use probe::{MINUTE, SECOND, copied, fails, poll, poll_ready, probe, retry, send, settle};
use tower::util::BoxCloneService;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};

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

/// Trap R19.
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

/// Trap R19.
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

/// Trap R19.
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

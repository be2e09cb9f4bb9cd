//! Stacks as tower layers that call a service several times: what is repeated, when, and with which copy of the request.

#[path = "support/probe.rs"]
mod probe;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use floodwall::tower::PolicyLayer;
use floodwall::{Bulkhead, Clock, Constant, Error, Retry, Timeout, TokenBucket, block_on};
use probe::{MINUTE, SECOND, copied, fails, poll_ready, probe, retry, send, settle};
use tower::{Layer, Service};

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

//! Stacks: in which order policies act, and what comes out of them.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::Mutex;

use floodwall::{
    Blocking, Bulkhead, Call, CircuitBreaker, Clock, Constant, Error, Gate, Policy, Reason, Rejected, Retry,
    State, Timeout, TokenBucket, block_on,
};
use support::secs;

/// Writes down when a call passes it, in and out.
struct Passes<'a>(&'static str, &'a Mutex<Vec<String>>);

impl<T: Send, E: Send> Policy<T, E> for Passes<'_> {
    async fn around<F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        self.1.lock().unwrap().push(format!("into {}", self.0));
        let result = next(call).await;
        self.1.lock().unwrap().push(format!("out of {}", self.0));
        result
    }
}

impl<T, E> Blocking<T, E> for Passes<'_> {
    fn around_blocking<F>(&self, call: Call, mut next: F) -> Result<T, Error<E>>
    where
        F: FnMut(Call) -> Result<T, Error<E>>,
    {
        self.1.lock().unwrap().push(format!("into {}", self.0));
        let result = next(call);
        self.1.lock().unwrap().push(format!("out of {}", self.0));
        result
    }
}

#[test]
fn the_first_is_outermost_and_tuples_nest() {
    let log = Mutex::new(Vec::new());
    let stack = (Passes("a", &log), (Passes("b", &log), Passes("c", &log)), Passes("d", &log));
    let expected =
        ["into a", "into b", "into c", "into d", "the call", "out of d", "out of c", "out of b", "out of a"];
    let asynchronous = block_on(stack.call(|| async {
        log.lock().unwrap().push("the call".to_owned());
        Ok::<_, ()>(1)
    }));
    assert_eq!(asynchronous, Ok(1));
    assert_eq!(std::mem::take(&mut *log.lock().unwrap()), expected);
    let blocking = stack.call_blocking(|| {
        log.lock().unwrap().push("the call".to_owned());
        Ok::<_, ()>(1)
    });
    assert_eq!(blocking, Ok(1));
    assert_eq!(*log.lock().unwrap(), expected);
}

#[test]
fn errors_stay_flat_however_deep_the_stack() {
    let stack =
        ((Retry::new(Constant::new(secs(0))), (Bulkhead::new(1),)), ((TokenBucket::per_second(9),), ()));
    let result: Result<(), Error<&str>> = block_on(stack.call(|| async { Err("mine") }));
    assert_eq!(result, Err(Error::Inner("mine")));
}

#[test]
fn what_stands_inside_a_retry_sees_every_attempt_and_what_stands_outside_sees_one() {
    let (inside, outside) = (counted(3), counted(3));
    let stack = (&outside, Retry::new(Constant::new(secs(0)).attempts(3)), &inside);
    assert_eq!(stack.call_blocking(|| Err::<(), _>(())), Err(Error::Inner(())));
    assert_eq!((outside.state(), inside.state()), (State::Closed, State::Open));
}

fn counted(failures: u32) -> CircuitBreaker {
    CircuitBreaker::builder().failures(failures).clock(Clock::manual()).build()
}

#[test]
fn a_rejection_inside_costs_nothing_outside() {
    let full = Bulkhead::new(1).name("full");
    let _permit = full.try_acquire().unwrap();
    let outer = Bulkhead::new(1);
    let result = (&outer, &full).call_blocking(|| Ok::<_, ()>(1));
    assert_eq!(result, Err(Error::Rejected(Rejected::new("full", Reason::BulkheadFull))));
    assert_eq!(outer.running(), 0);
}

#[test]
fn the_cost_of_a_call_reaches_every_limit() {
    let (outer, inner) = (TokenBucket::per_second(100), TokenBucket::per_second(50));
    let call = Call::new().cost(30);
    let stack = (&outer, Timeout::new(secs(1)), &inner);
    assert_eq!(block_on(stack.call_with(call, |call| async move { Ok::<_, ()>(call.cost) })), Ok(30));
    assert_eq!((outer.available(), inner.available()), (70, 20));
    let result = block_on(stack.call_with(call, |_| async { Ok::<_, ()>(()) }));
    assert!(matches!(result, Err(Error::Rejected(_))));
}

#[test]
fn an_option_switches_a_policy_off() {
    let full = Bulkhead::new(1);
    let _permit = full.try_acquire().unwrap();
    for (policy, runs) in [(None, true), (Some(&full), false)] {
        assert_eq!((policy,).call_blocking(|| Ok::<_, ()>(1)).is_ok(), runs);
        assert_eq!(block_on((policy,).call(|| async { Ok::<_, ()>(1) })).is_ok(), runs);
    }
}

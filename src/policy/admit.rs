//! Gates as policies: admit, run, report.

use std::borrow::Borrow;
use std::hash::Hash;
use std::pin::pin;

use super::{Blocking, Errors, Once, Policy};
use crate::acquire::{Acquire, WaitUpTo};
use crate::breaker::CircuitBreaker;
use crate::bulkhead::Bulkhead;
use crate::call::Call;
use crate::concurrency::AdaptiveConcurrency;
use crate::error::{Error, Rejected};
use crate::event::Outcome;
use crate::gate::{Gate, Permit};
use crate::judge::{AnyError, Judge, Judged};
use crate::keyed::At;
use crate::limit::{
    AdaptiveRate, AllOf, BucketAt, FixedWindow, PriorityBucket, SlidingCounter, SlidingLog, TokenBucket,
};
use crate::park::block_on;
use crate::shed::{LatencyShed, LoadShed};
use crate::throttle::AdaptiveThrottle;
use crate::waiting_room::WaitingRoom;

/// Puts a gate of your own into a stack. `Arc<dyn Gate>` needs no wrapper.
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use floodwall::{Call, Error, Gate, Gated, Permit, Policy, Reason, Rejected};
///
/// struct Maintenance(AtomicBool);
/// impl Gate for Maintenance {
///     fn try_acquire_for(&self, _: Call) -> Result<Permit<'_>, Rejected> {
///         if self.0.load(Ordering::Relaxed) {
///             Err(Rejected::new("maintenance", Reason::Closed))
///         } else {
///             Ok(Permit::free())
///         }
///     }
/// }
/// let stack = (Gated(Maintenance(AtomicBool::new(true))),);
/// let result = floodwall::block_on(stack.call(|| async { Ok::<_, ()>(1) }));
/// assert_eq!(result, Err(Error::Rejected(Rejected::new("maintenance", Reason::Closed))));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Gated<G>(pub G);

fn admitted_blocking<T, E>(
    permit: Result<Permit<'_>, Rejected>,
    judge: &impl Judge<T, E>,
    call: Call,
    mut next: impl FnMut(Call) -> Result<T, Error<E>>,
) -> Result<T, Error<E>> {
    let permit = permit?;
    let result = next(call);
    permit.report(verdict(judge, &result));
    result
}

// Out of the way, so that admissions need not share its large result.
#[cold]
#[inline(never)]
fn refused<T, E>(rejected: Rejected) -> Result<T, Error<E>> {
    Err(Error::Rejected(rejected))
}

/// Reports how the call ended, and hands that on.
#[inline]
fn reported<T, E>(
    permit: Permit<'_>,
    judge: &impl Judge<T, E>,
    result: Result<T, Error<E>>,
) -> Result<T, Error<E>> {
    permit.report(verdict(judge, &result));
    result
}

/// A rejection further in is not for a judge: the dependency was not asked.
fn verdict<T, E>(judge: &impl Judge<T, E>, result: &Result<T, Error<E>>) -> Outcome {
    match result {
        Err(Error::Rejected(_)) => Outcome::Ignored,
        result => judge.judge(result),
    }
}

/// Makes a policy of a type, given where its gate and its judge are, and whether it is of use without errors.
macro_rules! gate_policy {
    ([$($generics:tt)*] $type:ty, |$this:ident| $gate:expr, $judge:expr) => {
        gate_policy!([$($generics)*] $type, |$this| $gate, $judge, GIVES);
    };
    ([$($generics:tt)*] $type:ty, |$this:ident| $gate:expr, $judge:expr, $errors:ident) => {
        impl<T: Send, E: Send, $($generics)*> Policy<T, E> for $type {
            const ERRORS: Errors = Errors::$errors;

            fn around<F, Fut>(&self, call: Call, next: F) -> impl Future<Output = Result<T, Error<E>>> + Send
            where
                F: Fn(Call) -> Fut + Send + Sync,
                Fut: Future<Output = Result<T, Error<E>>> + Send,
            {
                let $this = self;
                async move {
                    // Not a function of its own: a future within a future would be larger by its arguments. For the
                    // same reason an `async` block: an `async fn` keeps its arguments twice.
                    let permit = match $gate.try_acquire_for(call) {
                        Ok(permit) => permit.by_fields(),
                        Err(rejected) => return refused(rejected),
                    };
                    // Pinned where it is made: awaited as a value it would be moved first, future and all. And a
                    // result that is moved whole is copied in words of which a small value has written only some.
                    match pin!(next(call)).await {
                        Ok(value) => reported(permit, $judge, Ok(value)),
                        Err(error) => reported(permit, $judge, Err(error)),
                    }
                }
            }
        }

        impl<T, E, $($generics)*> Blocking<T, E> for $type {
            const ERRORS: Errors = Errors::$errors;

            fn around_blocking<F>(&self, call: Call, next: F) -> Result<T, Error<E>>
            where
                F: FnMut(Call) -> Result<T, Error<E>>,
            {
                let $this = self;
                admitted_blocking($gate.try_acquire_for(call), $judge, call, next)
            }
        }
    };
}
gate_policy!([] TokenBucket, |gate| gate, &AnyError);
gate_policy!([] AdaptiveRate, |gate| gate, &AnyError);
gate_policy!([] AllOf, |gate| gate, &AnyError);
gate_policy!([] PriorityBucket, |gate| gate, &AnyError);
gate_policy!([] FixedWindow, |gate| gate, &AnyError);
gate_policy!([] SlidingCounter, |gate| gate, &AnyError);
gate_policy!([] SlidingLog, |gate| gate, &AnyError);
gate_policy!([] CircuitBreaker, |gate| gate, &AnyError, NEEDS_AND_GIVES);
gate_policy!([] AdaptiveThrottle, |gate| gate, &AnyError, NEEDS_AND_GIVES);
gate_policy!([] Bulkhead, |gate| gate, &AnyError);
gate_policy!([] AdaptiveConcurrency, |gate| gate, &AnyError);
gate_policy!([] LatencyShed, |gate| gate, &AnyError);
gate_policy!([] LoadShed, |gate| gate, &AnyError);
gate_policy!([] dyn Gate + '_, |gate| gate, &AnyError);
gate_policy!([G: Gate] At<G>, |gate| gate, &AnyError);
gate_policy!([K: Borrow<Q> + Eq + Hash + Send, Q: Eq + Hash + ToOwned<Owned = K> + Sync + ?Sized]
    BucketAt<'_, K, Q>, |gate| gate, &AnyError);
gate_policy!([G: Gate] Gated<G>, |gated| gated.0, &AnyError);
gate_policy!([G: Gate, J: Judge<T, E>] Judged<G, J>, |judged| judged.gate, &judged.judge);

impl Once for TokenBucket {}
impl Once for AdaptiveRate {}
impl Once for AllOf {}
impl Once for PriorityBucket {}
impl Once for FixedWindow {}
impl Once for SlidingCounter {}
impl Once for SlidingLog {}
impl Once for CircuitBreaker {}
impl Once for AdaptiveThrottle {}
impl Once for Bulkhead {}
impl Once for AdaptiveConcurrency {}
impl Once for LatencyShed {}
impl Once for LoadShed {}
impl Once for dyn Gate + '_ {}
impl<G> Once for At<G> {}
impl<K, Q: ?Sized> Once for BucketAt<'_, K, Q> {}
impl<G> Once for Gated<G> {}
impl<G, J> Once for Judged<G, J> {}
impl<G, J> Once for WaitUpTo<G, J> {}
impl Once for WaitingRoom {}

/// Waits for its place as long as the call's deadline allows: to wait is what the room is for.
impl<T: Send, E: Send> Policy<T, E> for WaitingRoom {
    async fn around<F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        let permit = self.acquire_for(call).await?;
        let result = pin!(next(call)).await;
        reported(permit, &AnyError, result)
    }
}

impl<T, E> Blocking<T, E> for WaitingRoom {
    fn around_blocking<F>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: FnMut(Call) -> Result<T, Error<E>>,
    {
        admitted_blocking(self.acquire_blocking_for(call), &AnyError, call, next)
    }
}

impl<T: Send, E: Send, G: Acquire, J: Judge<T, E>> Policy<T, E> for WaitUpTo<G, J> {
    async fn around<F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        let permit = self.gate.acquire_within(call, self.limit).await?;
        let result = pin!(next(call)).await;
        reported(permit, &self.judge, result)
    }
}

impl<T, E, G: Acquire, J: Judge<T, E>> Blocking<T, E> for WaitUpTo<G, J> {
    fn around_blocking<F>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: FnMut(Call) -> Result<T, Error<E>>,
    {
        admitted_blocking(block_on(self.gate.acquire_within(call, self.limit)), &self.judge, call, next)
    }
}

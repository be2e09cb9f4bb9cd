//! Stop waiting for a call: [`Timeout`].
//!
//! Outside a retry it limits the whole, inside it each attempt; use both. When **not** to use it: around work that
//! does not yield (a blocking call, a long computation), which no timer can interrupt.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::{Once, Policy};
use crate::call::Call;
use crate::clock::{Clock, NEVER};
use crate::error::{Error, Reason, Rejected, TimedOut, absurd, saturating_nanos};
use crate::event::{Event, Hook};
use crate::setters::setters;

/// Gives a call so much time, and drops it when that is over.
///
/// The deadline is written into the [`Call`], so that policies further in do not wait or retry past it, and the
/// operation can pass it on. A call whose deadline has passed before it starts is rejected. On a thread there is no
/// timeout: it does not implement [`Blocking`](crate::Blocking).
///
/// # Cancel safety
///
/// Dropping the call drops the operation where it stands; so does the timeout.
///
/// # Cost
///
/// One reading of the clock; a timer only once the call has to wait. No allocation by this crate.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Error, Policy, Timeout};
///
/// let timeout = Timeout::new(Duration::from_millis(1)).name("search");
/// let result = floodwall::block_on(timeout.call(|| std::future::pending::<Result<(), ()>>()));
/// assert!(matches!(result, Err(Error::TimedOut(t)) if t.after() == Duration::from_millis(1)));
/// ```
///
/// In total and for each attempt, by its place in the stack:
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Constant, Policy, Retry, Timeout};
///
/// let millis = Duration::from_millis;
/// let stack = (
///     Timeout::new(millis(2_000)),
///     Retry::new(Constant::new(Duration::ZERO)),
///     Timeout::new(millis(1)),
/// );
/// let answer = stack.call_with(floodwall::Call::new(), |call| async move {
///     if call.attempt == 1 { std::future::pending().await } else { Ok::<_, ()>(call.attempt) }
/// });
/// assert_eq!(floodwall::block_on(answer), Ok(2));
/// ```
#[derive(Clone, Debug)]
pub struct Timeout {
    limit: Duration,
    clock: Clock,
    hook: Hook,
}

impl Timeout {
    /// Gives a call `limit`; `Duration::MAX` gives it for ever.
    ///
    /// # Panics
    ///
    /// If `limit` is zero.
    #[track_caller]
    pub const fn new(limit: Duration) -> Self {
        if limit.is_zero() {
            absurd("limit", 0, "ns must be at least 1 ns");
        }
        Self { limit, clock: Clock::system(), hook: Hook::unnamed() }
    }

    setters!("timeout");
}

impl<T: Send, E: Send> Policy<T, E> for Timeout {
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
    fn around<F, Fut>(&self, call: Call, next: F) -> impl Future<Output = Result<T, Error<E>>> + Send
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        async move {
            let start = self.clock.nanos();
            let call = call.tightened(start.saturating_add(saturating_nanos(self.limit)));
            if start >= call.deadline && call.deadline != NEVER {
                let rejected = Rejected::new(self.hook.name, Reason::DeadlineExceeded);
                self.hook.emit(Event::Rejected(rejected));
                return Err(rejected.into());
            }
            let mut running = pin!(next(call));
            let mut sleep = pin!(None);
            poll_fn(|context| {
                match running.as_mut().poll(context) {
                    Poll::Ready(Ok(value)) => return Poll::Ready(Ok(value)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
                // Only now: a call that is ready at once pays for no timer.
                if sleep.is_none() {
                    sleep.set(Some(self.clock.sleep_until_nanos(call.deadline)));
                }
                let sleep = sleep.as_mut().as_pin_mut().expect("set just now");
                sleep.poll(context).map(|()| {
                    let timed_out =
                        TimedOut::new(self.hook.name, Duration::from_nanos(call.deadline - start));
                    self.hook.emit(Event::TimedOut(timed_out));
                    Err(timed_out.into())
                })
            })
            .await
        }
    }
}

impl Once for Timeout {}

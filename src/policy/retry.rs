//! Make a failed call again: [`Retry`].
//!
//! For failures that pass: a lost packet, a restarting server, a lock conflict. When **not** to use it: around calls
//! that must not happen twice (see [`Call::once`]); around another retry; without a breaker or a limit inside it
//! when many clients share one dependency, since retries multiply load exactly when there is too much of it.

use std::fmt;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::{Blocking, Errors, Policy};
use crate::backoff::{Backoff, Delays};
use crate::call::Call;
use crate::clock::Clock;
use crate::error::Error;
use crate::event::{Event, Hook, Observer, Outcome};
use crate::judge::{AnyError, Judge, When};
use crate::rng::Seeds;

/// Makes a call again when it failed, after a delay.
///
/// It repeats your errors and timeouts, and not the rejections of policies further in; [`when`](Retry::when) and
/// [`judge`](Retry::judge) change that. Told to repeat a rejection or a throttled call, it waits at least as long as
/// that asked for. It never sleeps past the call's deadline, nor when asked to wait longer than
/// [`max_wait`](Retry::max_wait): then it returns the last result at once. Calls marked [`once`](Call::once) are not
/// repeated. Without a delay it yields between attempts.
///
/// # Cancel safety
///
/// Dropping the call drops the attempt, or the sleep, that it is in.
///
/// # Cost
///
/// Around a call that succeeds, one atomic addition; no clock is read and nothing allocated.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Blocking, Error, Exponential, Retry};
///
/// let retry = Retry::new(Exponential::new(Duration::from_millis(1)).attempts(4))
///     .when(|error: &Error<u16>| matches!(error, Error::Inner(500..)));
/// let mut answers = [503, 500, 200].into_iter();
/// let status = retry.call_blocking(|| match answers.next() {
///     Some(status @ 500..) => Err(status),
///     status => Ok(status),
/// });
/// assert_eq!(status, Ok(Some(200)));
/// ```
#[must_use = "call through it"]
pub struct Retry<J = AnyError> {
    backoff: Backoff,
    judge: J,
    max_wait: Duration,
    seeds: Seeds,
    clock: Clock,
    hook: Hook,
}

impl Retry {
    /// Waits between attempts, and ends them, as `backoff` says: an [`Exponential`](crate::Exponential), a
    /// [`Constant`](crate::Constant), or a function.
    pub fn new(backoff: impl Into<Backoff>) -> Self {
        Self {
            backoff: backoff.into(),
            judge: AnyError,
            max_wait: Duration::from_secs(60),
            seeds: Seeds::from_entropy(),
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
    }
}

impl<J> Retry<J> {
    /// Repeats only the errors for which `is_transient` says so. Default: your errors and timeouts.
    #[must_use = "returns the changed retry"]
    pub fn when<E, F: Fn(&Error<E>) -> bool>(self, is_transient: F) -> Retry<When<F>> {
        self.judged(When::new(is_transient))
    }

    /// Repeats what `judge` calls a failure or throttled, values included.
    #[must_use = "returns the changed retry"]
    pub fn judge<T, E, F: Fn(&Result<T, Error<E>>) -> Outcome>(self, judge: F) -> Retry<F> {
        self.judged(judge)
    }

    fn judged<K>(self, judge: K) -> Retry<K> {
        let Self { backoff, judge: _, max_wait, seeds, clock, hook } = self;
        Retry { backoff, judge, max_wait, seeds, clock, hook }
    }

    /// Gives up when a rejection or a throttled call asks to wait longer than `limit`. Default: 1 minute.
    ///
    /// The delays of the backoff have a cap of their own.
    #[must_use = "returns the changed retry"]
    pub fn max_wait(mut self, limit: Duration) -> Self {
        self.max_wait = limit;
        self
    }

    /// Draws the same jitter in each run. Default: a random seed.
    #[must_use = "returns the changed retry"]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seeds = Seeds::seeded(seed);
        self
    }

    /// Sleeps and reads deadlines on `clock`. Default: the system clock.
    #[must_use = "returns the changed retry"]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Names the retry and tells its events to `observer`. Default: nobody.
    #[must_use = "returns the changed retry"]
    pub fn observe(mut self, name: &'static str, observer: impl Observer + 'static) -> Self {
        self.hook.observe(name, observer);
        self
    }

    /// Returns how long to wait before the next attempt, or `None` if `result` stands.
    fn next_delay<T, E>(
        &self,
        result: &Result<T, Error<E>>,
        call: Call,
        delays: &mut Option<Delays>,
    ) -> Option<Duration>
    where
        J: Judge<T, E>,
    {
        let throttled = match self.judge.judge(result) {
            Outcome::Failure => None,
            Outcome::Throttled { retry_after } => retry_after,
            Outcome::Success | Outcome::Ignored | Outcome::Abandoned => return None,
        };
        let asked = throttled.max(result.as_ref().err().and_then(Error::retry_after)).unwrap_or_default();
        if !call.is_repeatable() {
            return None;
        }
        let delays = delays.get_or_insert_with(|| self.backoff.delays_from(self.seeds.next()));
        let delay = delays.next()?.max(asked);
        if asked > self.max_wait || call.remaining_on(&self.clock).is_some_and(|left| delay >= left) {
            return None;
        }
        self.hook.emit(Event::Retrying { attempt: call.attempt, delay });
        Some(delay)
    }
}

impl<T: Send, E: Send, J: Judge<T, E>> Policy<T, E> for Retry<J> {
    const ERRORS: Errors = Errors::acting_on(J::HEARS);

    async fn around<F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        let mut call = call.attempt(1);
        let mut delays = None;
        loop {
            let result = next(call).await;
            let Some(delay) = self.next_delay(&result, call, &mut delays) else { return result };
            drop(result);
            if delay.is_zero() {
                yield_now().await;
            } else {
                self.clock.sleep(delay).await;
            }
            call = call.attempt(call.attempt.saturating_add(1));
        }
    }
}

impl<T, E, J: Judge<T, E>> Blocking<T, E> for Retry<J> {
    const ERRORS: Errors = Errors::acting_on(J::HEARS);

    fn around_blocking<F>(&self, call: Call, mut next: F) -> Result<T, Error<E>>
    where
        F: FnMut(Call) -> Result<T, Error<E>>,
    {
        let mut call = call.attempt(1);
        let mut delays = None;
        loop {
            let result = next(call);
            let Some(delay) = self.next_delay(&result, call, &mut delays) else { return result };
            drop(result);
            self.clock.sleep_blocking(delay);
            call = call.attempt(call.attempt.saturating_add(1));
        }
    }
}

/// Lets other tasks run: attempts that fail at once must not keep a thread to themselves.
fn yield_now() -> impl Future<Output = ()> + Send {
    let mut yielded = false;
    poll_fn(move |context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

impl<J> fmt::Debug for Retry<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("name", &self.hook)
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}

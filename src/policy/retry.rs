//! Make a failed call again: [`Retry`].
//!
//! For failures that pass: a lost packet, a restarting server, a lock conflict. When **not** to use it: around calls
//! that must not happen twice (see [`Call::once`]); around another retry; without a breaker or a limit inside it
//! when many clients share one dependency, since retries multiply load exactly when there is too much of it.

use std::fmt;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::budget::{Entered, Further, RetryBudget};
use super::{Blocking, Errors, Policy};
use crate::backoff::{Backoff, Steps};
use crate::call::Call;
use crate::clock::{Clock, NEVER};
use crate::error::{Error, saturating_nanos};
use crate::event::{Event, GiveUp, Hook, Observer, Outcome};
use crate::judge::{AnyError, Judge, When};
use crate::rng::Seeds;

/// Makes a call again when it failed, after a delay.
///
/// It repeats your errors and timeouts, and not the rejections of policies further in; [`when`](Retry::when) and
/// [`judge`](Retry::judge) change that. Without a delay it yields between attempts.
///
/// Told to repeat a rejection or a throttled call, it waits at least as long as that asked for, and up to a quarter
/// longer, drawn at random: all clients of a server that is down are told the same, and must not come back as one.
///
/// It returns the last result at once, and says why in an [`Event::GaveUp`], when the attempts end; when the next
/// attempt would start past the call's deadline or [`max_elapsed`](Retry::max_elapsed); when it is asked to wait longer
/// than [`max_wait`](Retry::max_wait); when the [`budget`](Retry::budget) is used up; and for calls marked
/// [`once`](Call::once).
///
/// # Cancel safety
///
/// Dropping the call drops the attempt, or the sleep, that it is in, and ends what it holds of a budget.
///
/// # Cost
///
/// Around a call that succeeds some nanoseconds, and what the budget costs if there is one. No clock is read unless
/// there is a `max_elapsed`, and nothing allocated.
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
    max_elapsed: Duration,
    budget: Option<Arc<RetryBudget>>,
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
            max_elapsed: Duration::MAX,
            budget: None,
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
        let Self { backoff, judge: _, max_wait, max_elapsed, budget, seeds, clock, hook } = self;
        Retry { backoff, judge, max_wait, max_elapsed, budget, seeds, clock, hook }
    }

    /// Gives up when a rejection or a throttled call asks to wait longer than `limit`. Default: 1 minute.
    ///
    /// What is asked for counts, without the quarter that may be drawn on top. The delays of the backoff have a cap of
    /// their own.
    #[must_use = "returns the changed retry"]
    pub fn max_wait(mut self, limit: Duration) -> Self {
        self.max_wait = limit;
        self
    }

    /// Starts no attempt later than `limit` after the first one started. Default: there is no such limit.
    ///
    /// It interrupts nothing: a [`Timeout`](crate::Timeout) outside the retry does, and its deadline is kept here too.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Blocking, Constant, Retry};
    ///
    /// let millis = Duration::from_millis;
    /// let retry = Retry::new(Constant::new(millis(10)).attempts(100)).max_elapsed(millis(25));
    /// let mut attempts = 0;
    /// let result = retry.call_blocking(|| {
    ///     attempts += 1;
    ///     Err::<(), _>("down")
    /// });
    /// assert!(result.is_err() && attempts <= 3);
    /// ```
    #[must_use = "returns the changed retry"]
    pub fn max_elapsed(mut self, limit: Duration) -> Self {
        self.max_elapsed = limit;
        self
    }

    /// Takes each further attempt from `budget`, which others may share. Default: there is no budget.
    ///
    /// ```
    /// # use std::{sync::Arc, time::Duration};
    /// use floodwall::{Constant, Hedge, Retry, RetryBudget};
    ///
    /// let budget = Arc::new(RetryBudget::of_calls(0.1));
    /// let backoff = Constant::new(Duration::from_millis(50));
    /// let reads = (Retry::new(backoff).budget(budget.clone()), Hedge::after(Duration::from_millis(80)).budget(budget.clone()));
    /// let writes = (Retry::new(backoff).budget(budget),);
    /// # let _ = (reads, writes);
    /// ```
    #[must_use = "returns the changed retry"]
    pub fn budget(mut self, budget: impl Into<Arc<RetryBudget>>) -> Self {
        self.budget = Some(budget.into());
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

    #[inline]
    fn begin(&self, call: Call) -> Round<'_> {
        Round {
            call,
            first: call.attempt,
            last_start: match self.max_elapsed {
                Duration::MAX => NEVER,
                limit => self.clock.after(limit),
            },
            steps: None,
            further: Further::FREE,
            _entered: self.budget.as_ref().map_or(Entered::UNCOUNTED, |budget| budget.enter(call)),
        }
    }

    /// Goes on to the next attempt, after a delay, unless `result` stands.
    #[inline]
    fn step<'a, T, E>(
        &'a self,
        result: Result<T, Error<E>>,
        round: &mut Round<'a>,
    ) -> ControlFlow<Result<T, Error<E>>, Duration>
    where
        J: Judge<T, E>,
    {
        let throttled = match self.judge.judge(&result) {
            Outcome::Failure => None,
            Outcome::Throttled { retry_after } => retry_after,
            Outcome::Success | Outcome::Ignored | Outcome::Abandoned => return ControlFlow::Break(result),
        };
        let asked = throttled.max(result.as_ref().err().and_then(Error::retry_after));
        match self.after_failure(asked.unwrap_or_default(), round) {
            Some(delay) => ControlFlow::Continue(delay),
            None => ControlFlow::Break(result),
        }
    }

    // Out of the way, so that around a call that succeeds there is little to be inlined.
    #[cold]
    fn after_failure<'a>(&'a self, asked: Duration, round: &mut Round<'a>) -> Option<Duration> {
        // The attempt that failed holds nothing any more.
        round.further = Further::FREE;
        let attempt = round.call.attempt.saturating_sub(round.first).saturating_add(1);
        match self.decide(asked, round) {
            Ok(delay) => {
                self.hook.emit(Event::Retrying { attempt, delay });
                round.call = round.call.attempt(round.call.attempt.saturating_add(1));
                Some(delay)
            }
            Err(why) => {
                self.hook.emit(Event::GaveUp { attempts: attempt, why });
                None
            }
        }
    }

    fn decide<'a>(&'a self, asked: Duration, round: &mut Round<'a>) -> Result<Duration, GiveUp> {
        if !round.call.is_repeatable() {
            return Err(GiveUp::Once);
        }
        let steps = round.steps.get_or_insert_with(|| Steps::new(self.seeds.next()));
        let delay = saturating_nanos(steps.next(&self.backoff).ok_or(GiveUp::Attempts)?);
        if asked > self.max_wait {
            return Err(GiveUp::MaxWait);
        }
        let asked = saturating_nanos(asked);
        let mut delay = delay.max(asked);
        let mut spread = asked / 4;
        let deadline = round.call.deadline;
        if deadline != NEVER || round.last_start != NEVER {
            // An attempt at the deadline itself is of no use, one at the last start is.
            let start = self.clock.nanos().saturating_add(delay);
            if start > round.last_start || start >= deadline && deadline != NEVER {
                return Err(GiveUp::Time);
            }
            // What is drawn on top must not end what would have been in time, nor take all that is left.
            spread = spread.min((deadline.min(round.last_start) - start) / 2);
        }
        if asked > 0 {
            delay = delay.max(asked.saturating_add(steps.spread(spread)));
        }
        if let Some(budget) = &self.budget {
            round.further = budget.try_take().ok_or(GiveUp::Budget)?;
        }
        Ok(Duration::from_nanos(delay))
    }
}

/// One call on its way through the attempts.
struct Round<'a> {
    /// As the next attempt sees it. Its number goes on from that of the call: what stands further in must see that a
    /// hedge or retry further out repeats.
    call: Call,
    /// The number of the first attempt.
    first: u16,
    /// When the last attempt may start, by `max_elapsed`.
    last_start: u64,
    /// Made at the first failure.
    steps: Option<Steps>,
    further: Further<'a>,
    _entered: Entered<'a>,
}

impl<T: Send, E: Send, J: Judge<T, E>> Policy<T, E> for Retry<J> {
    const ERRORS: Errors = Errors::acting_on(J::HEARS);

    #[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
    fn around<F, Fut>(&self, call: Call, next: F) -> impl Future<Output = Result<T, Error<E>>> + Send
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        async move {
            let mut round = self.begin(call);
            loop {
                // In an expression of its own: what a failed attempt leaves takes no room while the future sleeps.
                let step = match pin!(next(round.call)).await {
                    Ok(value) => self.step(Ok(value), &mut round),
                    Err(error) => self.step(Err(error), &mut round),
                };
                let delay = match step {
                    ControlFlow::Continue(delay) => delay,
                    ControlFlow::Break(result) => return result,
                };
                if delay.is_zero() {
                    yield_now().await;
                } else {
                    self.clock.sleep(delay).await;
                }
            }
        }
    }
}

impl<T, E, J: Judge<T, E>> Blocking<T, E> for Retry<J> {
    const ERRORS: Errors = Errors::acting_on(J::HEARS);

    fn around_blocking<F>(&self, call: Call, mut next: F) -> Result<T, Error<E>>
    where
        F: FnMut(Call) -> Result<T, Error<E>>,
    {
        let mut round = self.begin(call);
        loop {
            match self.step(next(round.call), &mut round) {
                ControlFlow::Continue(delay) => self.clock.sleep_blocking(delay),
                ControlFlow::Break(result) => return result,
            }
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

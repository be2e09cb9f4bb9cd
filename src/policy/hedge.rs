//! Make a slow call a second time, and take what comes first: [`Hedge`].
//!
//! For calls whose slowest few are much slower than the rest: a busy replica, a lost packet, a pause for garbage. When
//! **not** to use it: around what must not happen twice (see [`Call::once`]); where all calls become slow together,
//! since then copies only add load; without a [`budget`](Hedge::budget), which keeps that from happening.
//!
//! (J. Dean and L. A. Barroso, "The Tail at Scale", Communications of the ACM, 2013: to send the second copy after the
//! 95th percentile adds some 5 % of load.)

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::Policy;
use super::budget::{Further, RetryBudget};
use super::latency::{Delay, Known, Watch};
use crate::call::Call;
use crate::clock::{Clock, NEVER, Sleep};
use crate::error::{Error, absurd};
use crate::event::{Event, GiveUp, Hook, Outcome};
use crate::judge::{AnyError, Judge, When};
use crate::setters::setters;

/// How many copies of a call there can be, the first included: each has its place in the call's future.
const COPIES: usize = 3;

/// Makes a further copy of a call that takes long, and returns the first good result; the other copies are dropped.
///
/// A copy that fails makes the next one start at once; the last failure comes out when no copy is left. A throttled copy
/// does not, and ends the hedging of its call: the dependency asked for less. A copy that a policy further in rejects
/// leaves the others alone. [`when`](Hedge::when) and [`judge`](Hedge::judge) say what is a failure; by default your
/// errors and timeouts are.
///
/// No copy is made of calls marked [`once`](Call::once), nor when the call's deadline would come before the copy could
/// help: before it starts, or before the median of measured calls has passed. All copies run in the task of the call:
/// nothing is spawned. They have the numbers of attempts: the first that of the call, the next one more.
///
/// Put it outside the limits and the breaker, so that they see each copy, and inside a retry. To a breaker a copy that is
/// dropped is a call that was abandoned, and counts for nothing. Outside a [`Failover`](crate::Failover)
/// each copy begins at another alternate; inside it all ask the same one.
///
/// # Cancel safety
///
/// Dropping the call drops all copies, and ends what they hold of a budget.
///
/// # Cost
///
/// Around a call that is ready at once some nanoseconds, and for a measured delay two readings of the clock and one
/// compare-and-swap. A timer only once the call has to wait. No allocation by this crate. The call's future holds three
/// of the operation's.
///
/// # Examples
///
/// ```
/// # use std::{future, sync::atomic::{AtomicU32, Ordering}, time::Duration};
/// use floodwall::{Hedge, Policy, RetryBudget};
///
/// let hedge = Hedge::after(Duration::from_millis(1)).budget(RetryBudget::of_calls(0.05));
/// let copies = AtomicU32::new(0);
/// let answer = hedge.call(|| {
///     let copy = copies.fetch_add(1, Ordering::Relaxed) + 1;
///     async move {
///         match copy {
///             1 => future::pending().await, // this one hangs
///             copy => Ok::<_, ()>(copy),
///         }
///     }
/// });
/// assert_eq!(floodwall::block_on(answer), Ok(2));
/// ```
#[must_use = "call through it"]
pub struct Hedge<J = AnyError> {
    delay: Delay,
    copies: usize,
    judge: J,
    budget: Option<Arc<RetryBudget>>,
    clock: Clock,
    hook: Hook,
}

impl Hedge {
    /// Makes a further copy of a call that has taken `delay`; zero makes it at once.
    pub const fn after(delay: Duration) -> Self {
        Self::with(Delay::fixed(delay))
    }

    /// Makes a further copy of a call that takes longer than a share `q` of recent calls did, those of the last half to
    /// whole minute: 0.95 copies one in twenty.
    ///
    /// Until there are enough of them, 100 and five beyond the quantile, it waits for the ceiling (see
    /// [`between`](Hedge::between)). What counts is how long the first copies take that succeed. A first copy that failed, or
    /// was dropped since another one won, counts with the time that it had taken if that was beyond the delay: it would
    /// have taken longer still. Without it the slow ones would vanish from what is measured, and the delay would sink.
    ///
    /// The measuring takes 10 kB, and follows a change within a second or two.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Hedge, Policy, RetryBudget};
    ///
    /// let millis = Duration::from_millis;
    /// let hedge = Hedge::at_quantile(0.95).between(millis(5), millis(500)).budget(RetryBudget::of_calls(0.1));
    /// assert_eq!(hedge.delay(), millis(500));
    /// # assert_eq!(floodwall::block_on(hedge.call(|| async { Ok::<_, ()>(1) })), Ok(1));
    /// ```
    ///
    /// # Panics
    ///
    /// If `q` is below 0.5 or above 0.9999.
    #[track_caller]
    pub fn at_quantile(q: f64) -> Self {
        Self::with(Delay::at_quantile(q))
    }

    const fn with(delay: Delay) -> Self {
        Self {
            delay,
            copies: 2,
            judge: AnyError,
            budget: None,
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
    }
}

impl<J> Hedge<J> {
    /// Keeps a measured delay between `floor` and `ceiling`. Default: 1 ms and 10 s.
    ///
    /// # Panics
    ///
    /// If the delay is not [measured](Hedge::at_quantile), or `ceiling` is below `floor`.
    #[track_caller]
    pub fn between(mut self, floor: Duration, ceiling: Duration) -> Self {
        self.delay = self.delay.between(floor, ceiling);
        self
    }

    /// Makes at most `copies` further copies, each after the delay. Default: 1.
    ///
    /// # Panics
    ///
    /// If `copies` is 0 or more than 2.
    #[track_caller]
    pub const fn max(mut self, copies: usize) -> Self {
        if copies == 0 || copies >= COPIES {
            absurd("max", copies as u64, "must be 1 or 2");
        }
        self.copies = copies + 1;
        self
    }

    /// Takes each further copy from `budget`, which others may share. Default: there is no budget.
    ///
    /// Have one: when all calls become slow, a hedge without a budget copies them all.
    pub fn budget(mut self, budget: impl Into<Arc<RetryBudget>>) -> Self {
        self.budget = Some(budget.into());
        self
    }

    /// Takes only the errors for which `is_failure` says so as failures; any other one is the call's result. Default:
    /// your errors and timeouts.
    pub fn when<E, F: Fn(&Error<E>) -> bool>(self, is_failure: F) -> Hedge<When<F>> {
        self.judged(When::new(is_failure))
    }

    /// Lets `judge` say which results are failures or throttled, values included.
    pub fn judge<T, E, F: Fn(&Result<T, Error<E>>) -> Outcome>(self, judge: F) -> Hedge<F> {
        self.judged(judge)
    }

    fn judged<K>(self, judge: K) -> Hedge<K> {
        let Self { delay, copies, judge: _, budget, clock, hook } = self;
        Hedge { delay, copies, judge, budget, clock, hook }
    }

    setters!("hedge");

    /// Returns after which time it makes a further copy of a call that starts now.
    pub fn delay(&self) -> Duration {
        Duration::from_nanos(self.delay.at(self.clock.nanos()).delay)
    }
}

/// What the copies of one call share.
struct Race<'a, J, T, E> {
    hedge: &'a Hedge<J>,
    call: Call,
    /// How many copies were started.
    started: usize,
    /// Whether there may be more.
    is_open: bool,
    /// After which time the next one is due, once that is known.
    delay: u64,
    /// The result that comes out if no copy does better.
    held: Option<Result<T, Error<E>>>,
    /// What the copies hold of the budget.
    further: [Option<Further<'a>>; COPIES],
    watch: Option<Watch<'a>>,
}

type Copies<'a, Fut> = [Pin<&'a mut Option<Fut>>; COPIES];

/// The number of the copy that won, from 0, or `None` if all have lost; and what comes out.
type Finish<T, E> = (Option<usize>, Result<T, Error<E>>);

impl<J: Judge<T, E>, T, E> Race<'_, J, T, E> {
    /// Polls the copies, and starts further ones, until one wins, or all have lost, or there is nothing to do.
    fn poll<Fut: Future<Output = Result<T, Error<E>>>>(
        &mut self,
        next: &impl Fn(Call) -> Fut,
        copies: &mut Copies<'_, Fut>,
        mut timer: Pin<&mut Option<Sleep>>,
        context: &mut Context<'_>,
    ) -> Poll<Finish<T, E>> {
        loop {
            let mut has_failed = false;
            for (number, copy) in copies.iter_mut().enumerate().take(self.started) {
                let Some(running) = copy.as_mut().as_pin_mut() else { continue };
                let Poll::Ready(result) = running.poll(context) else { continue };
                copy.set(None);
                self.further[number] = None;
                let outcome = self.hedge.judge.judge(&result);
                let rejected = matches!(result, Err(Error::Rejected(_)));
                if number == 0 {
                    match self.watch.take() {
                        Some(watch) if rejected => watch.forget(),
                        Some(watch) => watch.ended(outcome == Outcome::Success),
                        None => {}
                    }
                }
                match outcome {
                    Outcome::Failure => has_failed = true,
                    Outcome::Throttled { .. } => self.is_open = false,
                    // It never ran: that does not end those that do.
                    _ if rejected => {}
                    Outcome::Success | Outcome::Ignored | Outcome::Abandoned => {
                        return Poll::Ready((Some(number), result));
                    }
                }
                // What the dependency said is worth more than that it was not asked.
                if self.held.is_none() || !rejected {
                    self.held = Some(result);
                }
            }
            if has_failed && self.start_next(Duration::ZERO, next, copies) {
                timer.set(None);
                continue;
            }
            if copies.iter().all(|copy| copy.is_none()) {
                let held = self.held.take().expect("a copy that is gone has left its result");
                return Poll::Ready((None, held));
            }
            if let Some(watch) = &mut self.watch {
                watch.has_to_wait();
            }
            if !self.is_open || self.started == self.hedge.copies {
                return Poll::Pending;
            }
            if timer.is_none() {
                // Only now: a call that is ready at once pays for no timer.
                let now = self.hedge.clock.nanos();
                let known = self.hedge.delay.at(now);
                let due = now.saturating_add(known.delay);
                self.delay = known.delay;
                // A copy that fails may still be followed by another.
                let due = if self.is_too_late(due, known) { NEVER } else { due };
                timer.set(Some(self.hedge.clock.sleep_until_nanos(due)));
            }
            ready!(timer.as_mut().as_pin_mut().expect("set just now").poll(context));
            timer.set(None);
            if !self.start_next(Duration::from_nanos(self.delay), next, copies) {
                return Poll::Pending;
            }
        }
    }

    /// Whether a copy that starts at a time could not help any more: half of the copies take longer than the median.
    fn is_too_late(&self, at: u64, known: Known) -> bool {
        self.call.deadline != NEVER && at.saturating_add(known.median) >= self.call.deadline
    }

    /// Starts the next copy if there may be one.
    fn start_next<Fut>(
        &mut self,
        delay: Duration,
        next: &impl Fn(Call) -> Fut,
        copies: &mut Copies<'_, Fut>,
    ) -> bool {
        let Hedge { delay: known, copies: most, budget, clock, hook, .. } = self.hedge;
        if !self.is_open || self.started == *most {
            return false;
        }
        // Whatever stands against this copy also stands against one that would start later.
        self.is_open = false;
        let copy = self.started;
        if self.call.deadline != NEVER {
            let now = clock.nanos();
            if self.is_too_late(now, known.at(now)) {
                return false;
            }
        }
        if let Some(budget) = budget {
            self.further[copy] = budget.try_take();
            if self.further[copy].is_none() {
                hook.emit(Event::GaveUp { attempts: copy as u16, why: GiveUp::Budget });
                return false;
            }
        }
        self.is_open = true;
        self.started += 1;
        hook.emit(Event::Hedged { copy: self.started as u16, delay });
        copies[copy].set(Some(next(self.call.attempt(self.call.attempt.saturating_add(copy as u16)))));
        true
    }
}

impl<T: Send, E: Send, J: Judge<T, E>> Policy<T, E> for Hedge<J> {
    async fn around<F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        let _entered = self.budget.as_ref().map(|budget| budget.enter(call));
        let mut race = Race {
            hedge: self,
            call,
            started: 1,
            is_open: call.is_repeatable(),
            delay: 0,
            held: None,
            further: [const { None }; COPIES],
            watch: self.delay.watch(&self.clock),
        };
        let (first, second, third) = (pin!(Some(next(call))), pin!(None), pin!(None));
        let mut copies = [first, second, third];
        let mut timer = pin!(None);
        let (winner, result) =
            poll_fn(|context| race.poll(&next, &mut copies, timer.as_mut(), context)).await;
        // The losers go before anyone hears of it.
        copies.iter_mut().for_each(|copy| copy.set(None));
        let started = race.started;
        drop(race);
        if let (Some(winner), 2..) = (winner, started) {
            self.hook.emit(Event::HedgeWon { copy: winner as u16 + 1 });
        }
        result
    }
}

impl<J> fmt::Debug for Hedge<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedge")
            .field("name", &self.hook)
            .field("delay", &self.delay())
            .finish_non_exhaustive()
    }
}

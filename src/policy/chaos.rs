//! Break things on purpose: [`Chaos`].
//!
//! For tests, game days and rehearsals: does the fallback answer, does the breaker open, do the retries stay within
//! their budget, when so many calls fail, hang or answer wrongly? When **not** to use it: where nobody watches. It is
//! off until [`enable`](Chaos::enable) is called, so that a stack that carries it into production changes nothing by
//! accident; put that call behind a switch of your own.
//!
//! The kinds of Simmy, which is now part of Polly: fault, latency and outcome.

use std::fmt;
use std::time::Duration;

use super::{Blocking, Once, Policy};
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{Error, Reason, Rejected, TimedOut};
use crate::event::{Event, Hook};
use crate::rng::Seeds;
use crate::setters::setters;
use crate::sync::{AtomicU64, Ordering};

/// Injects a fault, a delay or an answer into a share of the calls, while it is enabled.
///
/// It does one thing, by one rate: stack several for more. A fault or an answer comes **instead of** the call, which is
/// then not made; a delay comes before it. It stands for the dependency, so it belongs innermost, inside the timeout of
/// one attempt too: what stands further in than it does not notice it.
///
/// # Cancel safety
///
/// Dropping the call drops the delay, or the operation, that it is in.
///
/// # Cost
///
/// Disabled, one load. Enabled, one atomic addition and a few multiplications. No allocation.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Blocking, Chaos, Constant, Error, Fallback, Retry};
///
/// let outage = Chaos::fail(0.5, || "connection reset").seed(7);
/// let stack = (Fallback::with(0), Retry::new(Constant::new(Duration::ZERO).attempts(2)), &outage);
/// let answers = || (0..100).map(|_| stack.call_blocking(|| Ok(1)).unwrap()).sum::<u32>();
///
/// assert_eq!(answers(), 100); // off, as always at first
/// outage.enable();
/// assert!((60..90).contains(&answers())); // one in four fails twice
/// outage.disable();
/// assert_eq!(answers(), 100);
/// ```
///
/// Seconds that no test sleeps:
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Chaos, Policy, Timeout};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let slow = Chaos::delay(1.0, Duration::from_secs(5));
/// slow.enable();
/// let stack = (Timeout::new(Duration::from_secs(1)), slow);
/// assert!(stack.call(|| async { Ok::<_, ()>(1) }).await.is_err());
/// # });
/// ```
#[must_use = "call through it, and enable it"]
pub struct Chaos<I> {
    inject: I,
    switch: Switch,
    seeds: Seeds,
    clock: Clock,
    hook: Hook,
}

/// What a [`Chaos`] puts in place of a call, or before it.
pub trait Inject<T, E>: Send + Sync {
    /// Returns what the call ends with, or `None` if it is made. `by` is the name of the chaos.
    fn instead(&self, by: &'static str) -> Option<Result<T, Error<E>>>;

    /// Returns how long to sleep before that. Default: not at all.
    fn delay(&self) -> Duration {
        Duration::ZERO
    }
}

/// Errors of your own; made by [`Chaos::fail`].
#[derive(Clone, Copy, Debug)]
pub struct Fail<F>(F);

impl<T, E, F: Fn() -> E + Send + Sync> Inject<T, E> for Fail<F> {
    fn instead(&self, _: &'static str) -> Option<Result<T, Error<E>>> {
        Some(Err(Error::Inner(self.0())))
    }
}

/// Values; made by [`Chaos::answer`].
#[derive(Clone, Copy, Debug)]
pub struct Answer<F>(F);

impl<T, E, F: Fn() -> T + Send + Sync> Inject<T, E> for Answer<F> {
    fn instead(&self, _: &'static str) -> Option<Result<T, Error<E>>> {
        Some(Ok(self.0()))
    }
}

/// A rejection, a delay or a timeout; made by [`Chaos::reject`], [`Chaos::delay`] and [`Chaos::time_out`].
#[derive(Clone, Copy, Debug)]
pub struct Fault(Kind);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Reject(Reason),
    Delay(Duration),
    TimeOut(Duration),
}

impl<T, E> Inject<T, E> for Fault {
    fn instead(&self, by: &'static str) -> Option<Result<T, Error<E>>> {
        match self.0 {
            Kind::Reject(reason) => Some(Err(Rejected::new(by, reason).into())),
            Kind::Delay(_) => None,
            Kind::TimeOut(after) => Some(Err(TimedOut::new(by, after).into())),
        }
    }

    fn delay(&self) -> Duration {
        match self.0 {
            Kind::Reject(_) => Duration::ZERO,
            Kind::Delay(time) | Kind::TimeOut(time) => time,
        }
    }
}

impl<F> Chaos<Fail<F>> {
    /// Lets this share of the calls fail with an error that `error` makes.
    ///
    /// # Panics
    ///
    /// If `rate` is not at least 0 and at most 1.
    #[track_caller]
    pub fn fail<E>(rate: f64, error: F) -> Self
    where
        F: Fn() -> E,
    {
        Self::with(rate, Fail(error))
    }
}

impl<F> Chaos<Answer<F>> {
    /// Answers this share of the calls with a value that `value` makes: a status 503, an empty list, a stale copy.
    ///
    /// # Panics
    ///
    /// If `rate` is not at least 0 and at most 1.
    #[track_caller]
    pub fn answer<T>(rate: f64, value: F) -> Self
    where
        F: Fn() -> T,
    {
        Self::with(rate, Answer(value))
    }
}

impl Chaos<Fault> {
    /// Rejects this share of the calls, as a limit or an open breaker would.
    ///
    /// # Panics
    ///
    /// If `rate` is not at least 0 and at most 1.
    #[track_caller]
    pub fn reject(rate: f64, reason: Reason) -> Self {
        Self::with(rate, Fault(Kind::Reject(reason)))
    }

    /// Lets this share of the calls begin later by `time`. A delay does not end at the call's deadline: that is for a
    /// [`Timeout`](crate::Timeout) to see.
    ///
    /// # Panics
    ///
    /// If `rate` is not at least 0 and at most 1.
    #[track_caller]
    pub fn delay(rate: f64, time: Duration) -> Self {
        Self::with(rate, Fault(Kind::Delay(time)))
    }

    /// Lets this share of the calls time out after `time`, also on a thread, where there is no
    /// [`Timeout`](crate::Timeout).
    ///
    /// # Panics
    ///
    /// If `rate` is not at least 0 and at most 1.
    #[track_caller]
    pub fn time_out(rate: f64, time: Duration) -> Self {
        Self::with(rate, Fault(Kind::TimeOut(time)))
    }
}

impl<I> Chaos<I> {
    /// Does what `inject` says to this share of the calls.
    ///
    /// # Panics
    ///
    /// If `rate` is not at least 0 and at most 1.
    #[track_caller]
    pub fn with(rate: f64, inject: I) -> Self {
        Self {
            inject,
            switch: Switch::off(checked(rate)),
            seeds: Seeds::from_entropy(),
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
    }

    /// Draws the same calls in each run, counted in the order in which they come. Default: a random seed.
    #[must_use = "returns the changed chaos"]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seeds = Seeds::seeded(seed);
        self
    }

    setters!("chaos");

    /// Lets it break calls from now on.
    pub fn enable(&self) {
        self.switch.turn(true);
    }

    /// Lets all calls pass from now on. Delays that have begun go on.
    pub fn disable(&self) {
        self.switch.turn(false);
    }

    /// Returns whether it breaks calls now.
    pub fn is_enabled(&self) -> bool {
        self.switch.is_on()
    }

    /// Changes the share of the calls that it breaks.
    ///
    /// # Panics
    ///
    /// If `rate` is not at least 0 and at most 1.
    #[track_caller]
    pub fn set_rate(&self, rate: f64) {
        self.switch.set(checked(rate));
    }

    /// Decides about one call.
    fn strikes(&self) -> bool {
        let strikes = self.switch.strikes(&self.seeds);
        if strikes {
            self.hook.emit(Event::Injected);
        }
        strikes
    }
}

#[track_caller]
fn checked(rate: f64) -> f64 {
    assert!((0.0..=1.0).contains(&rate), "rate: {rate} must be at least 0 and at most 1");
    rate
}

/// The rate and the switch in one word, so that a call loads both at once: twice the rate in units of 2⁻⁶², plus 1 if
/// it is on.
#[derive(Debug)]
struct Switch(AtomicU64);

const WHOLE: u64 = 1 << 62;

impl Switch {
    fn off(rate: f64) -> Self {
        Self(AtomicU64::new(Self::units(rate) << 1))
    }

    /// Exactly 0 and exactly `WHOLE` at the ends: a double between them keeps its 53 bits.
    fn units(rate: f64) -> u64 {
        (rate * WHOLE as f64) as u64
    }

    fn turn(&self, on: bool) {
        // Relaxed, here and below: the word says nothing about other data.
        if on {
            self.0.fetch_or(1, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!1, Ordering::Relaxed);
        }
    }

    fn set(&self, rate: f64) {
        let set = |word: u64| Some(Self::units(rate) << 1 | word & 1);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, set);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) & 1 == 1
    }

    fn strikes(&self, seeds: &Seeds) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        word & 1 == 1 && seeds.next().up_to(WHOLE - 1) < word >> 1
    }
}

impl<T: Send, E: Send, I: Inject<T, E>> Policy<T, E> for Chaos<I> {
    async fn around<F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        if self.strikes() {
            let delay = self.inject.delay();
            if !delay.is_zero() {
                self.clock.sleep(delay).await;
            }
            if let Some(result) = self.inject.instead(self.hook.name) {
                return result;
            }
        }
        next(call).await
    }
}

impl<I> Once for Chaos<I> {}

impl<T, E, I: Inject<T, E>> Blocking<T, E> for Chaos<I> {
    fn around_blocking<F>(&self, call: Call, mut next: F) -> Result<T, Error<E>>
    where
        F: FnMut(Call) -> Result<T, Error<E>>,
    {
        if self.strikes() {
            let delay = self.inject.delay();
            if !delay.is_zero() {
                self.clock.sleep_blocking(delay);
            }
            if let Some(result) = self.inject.instead(self.hook.name) {
                return result;
            }
        }
        next(call)
    }
}

impl<I> fmt::Debug for Chaos<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chaos")
            .field("name", &self.hook)
            .field("is_enabled", &self.is_enabled())
            .finish_non_exhaustive()
    }
}

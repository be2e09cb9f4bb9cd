//! Ask another when one fails: [`Failover`].
//!
//! For a dependency that there is more than once: a primary and its replica, two regions, a partner's API and a local
//! copy. When **not** to use it: to spread load over equal servers (that is load balancing: here the first one gets
//! every call while it is well); where asking another is wrong, since a write that timed out at one may have happened.

use std::fmt;
use std::time::Duration;

use super::fallback::Always;
use super::health::{Asked, Memory};
use super::{Blocking, Errors, Policy};
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{Error, absurd, saturating_nanos};
use crate::event::{Event, Hook, Observer, Outcome};
use crate::judge::{Judge, When};

/// Asks one alternate after the other until one answers, the first one first, and passes over those that failed lately.
///
/// The operation learns from [`Call::alternate`] which one it is to ask, so it is called through
/// [`call_with`](Policy::call_with); a tower service does not see the call, and cannot choose. By default every error
/// lets the next one be asked, rejections included; [`when`](Failover::when) and [`judge`](Failover::judge) choose. When
/// all have failed, the last error comes out; a rejection only if none of them was asked at all.
///
/// An alternate that failed **rests**: calls pass it over for [`rest_for`](Failover::rest_for), and twice as long each
/// time that it fails again, up to [`max_rest`](Failover::max_rest). So a dead primary costs its timeout to one call
/// per rest and not to all. When its rest is over, one call probes it while the others still pass it over; a success
/// brings everyone back. No call is refused for this: when all the others have failed or rest too, those that rest are
/// asked after all, the one whose rest ends first before the others. A rejection further in does not lay an alternate to
/// rest: it was not asked.
///
/// A second attempt, by a [`Retry`](crate::Retry) or a hedge further out, begins at the second of those that are well,
/// and goes around from there: a hedge outside races two alternates, rather than asking one twice. (Copies do not know of
/// each other: a first one that fails late goes on down the list, and may come to where the second one waits.) When all
/// have failed, a further attempt asks them all again: give it a [`RetryBudget`](crate::RetryBudget).
///
/// Who loses such a race does not rest for it: it may be slow for this call only. One that never answers rests once a copy
/// has waited for it up to a [`Timeout`](crate::Timeout) inside, so have one; until then each call that asks it first
/// needs its hedge.
///
/// A timeout inside bounds each alternate, one outside bounds them all; nobody is asked after the call's deadline. A call
/// marked [`once`](Call::once) moves on from a rejection only.
///
/// # Cancel safety
///
/// Dropping the call drops the operation that it is in. A probe is given back, and the next call probes; if the call's
/// deadline had passed, its alternate counts as failed.
///
/// # Cost
///
/// While all are well, two loads, and no clock is read. While one rests, two short critical sections and two readings
/// of the clock. No allocation.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Blocking, Call, Clock, Failover};
///
/// let clock = Clock::manual();
/// let origins = Failover::new(3).rest_for(Duration::from_secs(1)).clock(clock.clone());
/// let mut asked = Vec::new();
/// let mut ask = |primary_is_up: bool| {
///     origins.call_blocking_with(Call::new(), |call| {
///         asked.push(call.alternate());
///         if call.alternate() > 0 || primary_is_up { Ok(call.alternate()) } else { Err("down") }
///     })
/// };
/// assert_eq!(ask(false), Ok(1)); // the primary fails, the secondary answers
/// assert_eq!(ask(false), Ok(1)); // the primary rests: it is not asked
/// clock.advance(Duration::from_secs(1));
/// assert_eq!(ask(true), Ok(0)); // this call probes it, and it is back
/// assert_eq!(asked, [0, 1, 1, 0]);
/// ```
#[must_use = "call through it"]
pub struct Failover<J = Always> {
    memory: Memory,
    judge: J,
    clock: Clock,
    hook: Hook,
}

impl Failover {
    /// Asks so many alternates, numbered from 0.
    ///
    /// # Panics
    ///
    /// If `alternates` is 0 or more than 64.
    #[track_caller]
    pub fn new(alternates: usize) -> Self {
        if alternates == 0 || alternates > 64 {
            absurd("alternates", alternates as u64, "must be at least 1 and at most 64");
        }
        Self { memory: Memory::of(alternates), judge: Always, clock: Clock::system(), hook: Hook::unnamed() }
    }
}

impl<J> Failover<J> {
    /// Asks the next one only after the errors for which `is_failure` says so. Default: after all.
    #[must_use = "returns the changed failover"]
    pub fn when<E, F: Fn(&Error<E>) -> bool>(self, is_failure: F) -> Failover<When<F>> {
        self.judged(When::new(is_failure))
    }

    /// Asks the next one after what `judge` calls a failure or throttled, values included. A throttled alternate rests
    /// at least as long as it asked for, up to [`max_rest`](Self::max_rest).
    #[must_use = "returns the changed failover"]
    pub fn judge<T, E, F: Fn(&Result<T, Error<E>>) -> Outcome>(self, judge: F) -> Failover<F> {
        self.judged(judge)
    }

    fn judged<K>(self, judge: K) -> Failover<K> {
        let Self { memory, judge: _, clock, hook } = self;
        Failover { memory, judge, clock, hook }
    }

    /// Lays an alternate to rest after so many failures in a row. Default: 1.
    ///
    /// # Panics
    ///
    /// If `failures` is 0.
    #[track_caller]
    #[must_use = "returns the changed failover"]
    pub fn failures(self, failures: u32) -> Self {
        if failures == 0 {
            absurd("failures", 0, "must be at least 1");
        }
        self.memory.change(|health| health.failures = failures);
        self
    }

    /// Passes an alternate over for so long after it failed, and twice as long each time that it fails again.
    /// Default: 1 s.
    ///
    /// # Panics
    ///
    /// If `time` is zero.
    #[track_caller]
    #[must_use = "returns the changed failover"]
    pub fn rest_for(self, time: Duration) -> Self {
        if time.is_zero() {
            absurd("rest_for", 0, "ns must be at least 1 ns");
        }
        self.memory.change(|health| health.rest_for = saturating_nanos(time));
        self
    }

    /// Passes an alternate over for no longer than this. Default: 1 minute.
    ///
    /// # Panics
    ///
    /// If `time` is zero.
    #[track_caller]
    #[must_use = "returns the changed failover"]
    pub fn max_rest(self, time: Duration) -> Self {
        if time.is_zero() {
            absurd("max_rest", 0, "ns must be at least 1 ns");
        }
        self.memory.change(|health| health.max_rest = saturating_nanos(time));
        self
    }

    /// Tells the time by `clock`. Default: the system clock.
    #[must_use = "returns the changed failover"]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Names the failover and tells its events to `observer`. Default: nobody.
    #[must_use = "returns the changed failover"]
    pub fn observe(mut self, name: &'static str, observer: impl Observer + 'static) -> Self {
        self.hook.observe(name, observer);
        self
    }

    /// Returns whether an alternate rests now.
    pub fn is_resting(&self, alternate: usize) -> bool {
        self.memory.rests(alternate, &self.clock)
    }

    fn first(&self, call: Call) -> Asked<'_> {
        self.memory.ask(call, 0, 0, &self.clock).expect("there is at least one alternate")
    }

    /// Remembers how `asked` did, and picks the next one to ask; `None` if the result stands.
    fn next<T, E>(
        &self,
        asked: Asked<'_>,
        result: &Result<T, Error<E>>,
        call: Call,
        tried: &mut u64,
    ) -> Option<Asked<'_>>
    where
        J: Judge<T, E>,
    {
        let from = asked.alternate;
        let outcome = self.judge.judge(result);
        let never_ran = matches!(result, Err(Error::Rejected(_)));
        asked.report(if never_ran { Outcome::Ignored } else { outcome });
        let failed = matches!(outcome, Outcome::Failure | Outcome::Throttled { .. });
        if !failed || !(call.is_repeatable() || never_ran) {
            return None;
        }
        *tried |= 1 << from;
        if call.remaining_on(&self.clock).is_some_and(|left| left.is_zero()) {
            return None;
        }
        let next = self.memory.ask(call, *tried, from, &self.clock)?;
        self.hook.emit(Event::FailedOver { from: from as u8, to: next.alternate as u8 });
        Some(next)
    }
}

/// Prefers what came from one that ran: a rejection after it must not say that nothing did.
fn telling<T, E>(result: Result<T, Error<E>>, earlier: Option<Result<T, Error<E>>>) -> Result<T, Error<E>> {
    match (result, earlier) {
        (Err(Error::Rejected(_)), Some(earlier)) => earlier,
        (result, _) => result,
    }
}

impl<T: Send, E: Send, J: Judge<T, E>> Policy<T, E> for Failover<J> {
    const ERRORS: Errors = Errors::acting_on(J::HEARS);

    async fn around<F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        let (mut asked, mut tried, mut earlier) = (self.first(call), 0, None);
        loop {
            let result = next(call.at_alternate(asked.alternate)).await;
            let Some(other) = self.next(asked, &result, call, &mut tried) else {
                return telling(result, earlier);
            };
            asked = other;
            earlier = Some(telling(result, earlier));
        }
    }
}

impl<T, E, J: Judge<T, E>> Blocking<T, E> for Failover<J> {
    const ERRORS: Errors = Errors::acting_on(J::HEARS);

    fn around_blocking<F>(&self, call: Call, mut next: F) -> Result<T, Error<E>>
    where
        F: FnMut(Call) -> Result<T, Error<E>>,
    {
        let (mut asked, mut tried, mut earlier) = (self.first(call), 0, None);
        loop {
            let result = next(call.at_alternate(asked.alternate));
            let Some(other) = self.next(asked, &result, call, &mut tried) else {
                return telling(result, earlier);
            };
            asked = other;
            earlier = Some(telling(result, earlier));
        }
    }
}

impl<J> fmt::Debug for Failover<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failover")
            .field("name", &self.hook)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

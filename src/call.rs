//! What one call asks for: [`Call`].

use std::time::{Duration, Instant};

use crate::clock::{self, Clock, NEVER};

/// What one call asks of the policies on its way: its deadline, cost and priority.
///
/// Every policy sees it, and may tighten it for those further in: a [`Timeout`](crate::Timeout) writes its deadline
/// into it, [`Retry`](crate::Retry) the number of the attempt, [`Failover`](crate::Failover) the alternate to ask. The
/// fields `cost`, `priority` and `attempt` are read as fields; methods of the same names set them.
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Call, Policy, Timeout};
/// # floodwall::block_on(async {
/// let stack = (Timeout::new(Duration::from_secs(2)),);
/// let left = stack
///     .call_with(Call::new().cost(500), |call| async move { Ok::<_, ()>(call.remaining()) })
///     .await?;
/// assert!(left.unwrap() <= Duration::from_secs(2));
/// # Ok::<_, floodwall::Error<()>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// Nanoseconds on the process's timeline; `NEVER` if there is none.
    pub(crate) deadline: u64,
    /// How many tokens the call takes from the rate limits on its way. Default: 1.
    pub cost: u32,
    /// The number of the attempt, from 1.
    pub attempt: u16,
    /// How much the call matters; higher matters more. Default: [`Call::NORMAL`].
    pub priority: u8,
    /// The number of the alternate to ask; with `ONCE`, the call must not be repeated. One byte, so that a call stays
    /// in two words.
    marks: u8,
}

const ONCE: u8 = 1 << 7;

impl Call {
    /// The priority of a call that asked for none.
    pub const NORMAL: u8 = 128;

    /// A call without a deadline, of cost 1 and normal priority.
    pub const fn new() -> Self {
        Self { deadline: NEVER, cost: 1, attempt: 1, priority: Self::NORMAL, marks: 0 }
    }

    /// Takes `tokens` from the rate limits on the way. Zero takes none, and still waits for a debt to be paid.
    #[must_use = "returns the changed call"]
    pub const fn cost(mut self, tokens: u32) -> Self {
        self.cost = tokens;
        self
    }

    /// Says how much the call matters; higher matters more.
    #[must_use = "returns the changed call"]
    pub const fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// Numbers the first attempt. Mostly it has that number already; written into, a call that is then copied whole
    /// would have to wait for the store.
    #[inline]
    pub(crate) const fn first_attempt(self) -> Self {
        if self.attempt == 1 { self } else { self.attempt_anew() }
    }

    #[cold]
    #[inline(never)]
    const fn attempt_anew(self) -> Self {
        self.attempt(1)
    }

    /// Sets the number of the attempt.
    #[must_use = "returns the changed call"]
    pub(crate) const fn attempt(mut self, attempt: u16) -> Self {
        self.attempt = attempt;
        self
    }

    /// Ends the call's time at `at`, unless it ends earlier already: a deadline is only ever tightened.
    ///
    /// `at` is an instant of the clock that the stack's policies use. A call whose time is over is refused by what looks
    /// at the clock anyway: timeouts, rate limits, gates that shed, gates where it would have to wait, a breaker that is
    /// not closed. The others do not read the clock for it.
    #[must_use = "returns the changed call"]
    pub fn deadline(self, at: Instant) -> Self {
        self.tightened(clock::nanos_of(at))
    }

    /// Ends the call's time `limit` from now on the system clock, unless it ends earlier already.
    ///
    /// With another clock: `call.deadline(clock.now() + limit)`.
    #[must_use = "returns the changed call"]
    pub fn within(self, limit: Duration) -> Self {
        self.tightened(Clock::system().after(limit))
    }

    /// Forbids to make this call again: retries and hedges let it through once, and a failover asks another alternate
    /// only if the call did not run. For what must not be done twice.
    #[must_use = "returns the changed call"]
    pub const fn once(mut self) -> Self {
        self.marks |= ONCE;
        self
    }

    /// Returns the instant at which the call's time ends, if there is one.
    pub fn expires(&self) -> Option<Instant> {
        (self.deadline != NEVER).then(|| clock::instant_of(self.deadline))
    }

    /// Returns what is left of the call's time on the system clock; zero if it is over, `None` without a deadline.
    ///
    /// Hand it on to a driver's own timeout or a request header. With another clock: [`Call::remaining_on`].
    pub fn remaining(&self) -> Option<Duration> {
        self.remaining_on(&Clock::system())
    }

    /// Returns what is left of the call's time on `clock`; zero if it is over, `None` without a deadline.
    pub fn remaining_on(&self, clock: &Clock) -> Option<Duration> {
        (self.deadline != NEVER).then(|| Duration::from_nanos(self.deadline.saturating_sub(clock.nanos())))
    }

    /// Returns whether the call may be made more than once.
    pub const fn is_repeatable(&self) -> bool {
        self.marks & ONCE == 0
    }

    /// Returns which alternate a [`Failover`](crate::Failover) asks, from 0; 0 where there is none.
    ///
    /// ```
    /// use floodwall::{Failover, Policy};
    ///
    /// const ORIGINS: [&str; 2] = ["eu.example", "us.example"];
    /// let failover = Failover::new(ORIGINS.len());
    /// let asked = failover.call_with(floodwall::Call::new(), |call| async move {
    ///     Ok::<_, ()>(ORIGINS[call.alternate()])
    /// });
    /// assert_eq!(floodwall::block_on(asked), Ok("eu.example"));
    /// ```
    pub const fn alternate(&self) -> usize {
        (self.marks & !ONCE) as usize
    }

    /// Directs the call to an alternate, below 128.
    #[must_use = "returns the changed call"]
    pub(crate) const fn at_alternate(mut self, alternate: usize) -> Self {
        self.marks = self.marks & ONCE | alternate as u8 & !ONCE;
        self
    }

    pub(crate) const fn tightened(mut self, deadline: u64) -> Self {
        if deadline < self.deadline {
            self.deadline = deadline;
        }
        self
    }
}

impl Default for Call {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_fits_in_two_words() {
        assert_eq!(size_of::<Call>(), 16);
    }

    #[test]
    fn an_alternate_and_once_do_not_touch_each_other() {
        let call = Call::new().at_alternate(127).once().at_alternate(5);
        assert_eq!((call.alternate(), call.is_repeatable()), (5, false));
        assert_eq!((Call::new().at_alternate(127).alternate(), Call::new().alternate()), (127, 0));
        assert!(Call::new().at_alternate(127).is_repeatable());
    }

    #[test]
    fn a_deadline_is_only_ever_tightened() {
        let clock = Clock::manual();
        let soon = clock.now() + Duration::from_secs(1);
        let late = clock.now() + Duration::from_secs(9);
        assert_eq!(Call::new().deadline(soon).deadline(late).expires(), Some(soon));
        assert_eq!(
            Call::new().deadline(late).deadline(soon).remaining_on(&clock),
            Some(Duration::from_secs(1))
        );
        clock.advance(Duration::from_secs(5));
        assert_eq!(Call::new().deadline(soon).remaining_on(&clock), Some(Duration::ZERO));
    }
}

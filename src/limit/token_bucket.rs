//! So many calls per second, with bursts: [`TokenBucket`].
//!
//! For quotas ("500 a second, at most 50 at once") on what you call or on what calls you. When **not** to use it: to
//! cap how many calls run at the same time (that is a [`Bulkhead`](crate::Bulkhead)); to keep a strict cap in *any*
//! window: a bucket admits up to `burst` plus what flows in (that is a [`SlidingLog`](crate::SlidingLog)).
//!
//! The whole state is one word: the instant, counted in fractions of a token, at which everything taken so far will
//! have flowed back (the *theoretical arrival time* of the generic cell rate algorithm, ITU-T I.371; the "virtual
//! scheduling" form of a token bucket).

use std::time::Duration;

use super::period_nanos;
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{Reason, Rejected, absurd};
use crate::event::{Event, Hook, Observer, Outcome};
use crate::gate::{Acquire, Gate, Permit, Residual, Ticket, until};
use crate::sync::{AtomicU64, Ordering, const_fn};

/// Admits so many calls per second, and as many at once as the bucket holds.
///
/// A call takes [`cost`](Call::cost) tokens. In a stack it is rejected at once when there are too few, with the time
/// after which it would be admitted; with [`wait_up_to`](Acquire::wait_up_to) it waits its turn. Those who wait have
/// taken their tokens in advance, so nobody passes them, and a wait that cannot end before the call's deadline is
/// refused at its start.
///
/// Rates are exact: in a time `t` a bucket admits at most `burst + rate × t`, to within two nanoseconds of flow, and
/// without drift, however long it runs and however often it is asked.
///
/// # Which limiter to choose
///
#[doc = include_str!("which.md")]
///
/// # Cost
///
/// One reading of the clock, some arithmetic and one compare-and-swap, repeated when threads collide; a rejection
/// writes nothing. No lock, no allocation.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Clock, Gate, TokenBucket};
///
/// static MAIL: TokenBucket = TokenBucket::per_second(5).burst(20);
/// assert!(MAIL.try_acquire().is_ok());
///
/// let clock = Clock::manual();
/// let bucket = TokenBucket::per(2, Duration::from_secs(60)).burst(1).clock(clock.clone());
/// assert!(bucket.try_acquire().is_ok());
/// let rejected = bucket.try_acquire().unwrap_err();
/// assert_eq!(rejected.retry_after(), Some(Duration::from_secs(30)));
/// clock.advance(Duration::from_secs(30));
/// assert!(bucket.try_acquire().is_ok());
/// ```
#[derive(Debug)]
pub struct TokenBucket {
    rate: Rate,
    /// When everything taken will have flowed back, in `rate`'s units. Zero: the bucket is full.
    full_at: AtomicU64,
    clock: Clock,
    hook: Hook,
}

impl TokenBucket {
    const_fn! {
        /// Creates a full bucket into which `tokens` flow per second, and which holds as many.
        ///
        /// # Panics
        ///
        /// If `tokens` is 0 or more than 10⁹.
        #[track_caller]
        pub fn per_second(tokens: u64) -> Self {
            Self::per(tokens, Duration::from_secs(1))
        }
    }

    const_fn! {
        /// Creates a full bucket into which `tokens` flow per `period`, and which holds as many.
        ///
        /// Tokens flow in evenly, not once per period.
        ///
        /// # Panics
        ///
        /// If `tokens` is 0, or more than one per nanosecond of `period`; if `period` is zero or over 292 years.
        #[track_caller]
        pub fn per(tokens: u64, period: Duration) -> Self {
            Self {
                rate: Rate::new(tokens, period),
                full_at: AtomicU64::new(0),
                clock: Clock::system(),
                hook: Hook::unnamed(),
            }
        }
    }

    const_fn! {
        /// Lets the bucket hold `tokens`, so that as many calls may start at once. Default: the tokens of one period.
        ///
        /// # Panics
        ///
        /// If `tokens` is 0 or more than 2⁶².
        #[track_caller]
        #[must_use = "returns the changed bucket"]
        pub fn burst(mut self, tokens: u64) -> Self {
            self.rate = self.rate.with_burst(tokens);
            self
        }
    }

    /// Tells the time by `clock`. Default: the system clock.
    #[must_use = "returns the changed bucket"]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Names the bucket in its rejections. Default: no name.
    #[must_use = "returns the changed bucket"]
    pub fn name(mut self, name: &'static str) -> Self {
        self.hook.name = name;
        self
    }

    /// Names the bucket and tells its events to `observer`. Default: nobody.
    #[must_use = "returns the changed bucket"]
    pub fn observe(mut self, name: &'static str, observer: impl Observer + 'static) -> Self {
        self.hook.observe(name, observer);
        self
    }

    /// Returns how many tokens a call could take now; 0 while others wait for theirs.
    pub fn available(&self) -> u64 {
        self.rate.available(self.full_at.load(Ordering::Relaxed), self.clock.nanos())
    }

    /// Takes the call's tokens if they are there, or will be there within `limit` and before its deadline.
    ///
    /// Returns when they are there, or `NOW`.
    fn take(&self, call: Call, limit: Duration) -> Result<u64, Rejected> {
        // Relaxed throughout: the word is all there is, and it guards no other data.
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            // Read in each round. A time from before a lost race could admit nothing more, since the word only moves
            // forward, but it would refuse what has flowed in since.
            let now = self.clock.nanos();
            if now >= call.deadline {
                return Err(Rejected::new(self.hook.name, Reason::DeadlineExceeded));
            }
            let limited = Rejected::new(self.hook.name, Reason::RateLimited);
            let (next, ready_at) = self.rate.take(full_at, now, call.cost).ok_or(limited)?;
            if ready_at != NOW {
                let wait = Duration::from_nanos(ready_at.saturating_sub(now));
                if wait > limit {
                    return Err(limited.after(wait));
                }
                if ready_at >= call.deadline {
                    return Err(Rejected::new(self.hook.name, Reason::DeadlineExceeded).after(wait));
                }
            }
            match self.full_at.compare_exchange_weak(full_at, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(ready_at),
                Err(actual) => full_at = actual,
            }
        }
    }

    fn permit(&self, call: Call) -> Permit<'_> {
        Permit::new(self, Ticket::new(0, call))
    }
}

impl Gate for TokenBucket {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        self.hook.admission(self.take(call, Duration::ZERO).map(|_| self.permit(call)))
    }

    fn release(&self, _ticket: Ticket, outcome: Outcome) {
        self.hook.emit(Event::Finished(outcome));
    }

    fn residual(&self) -> Option<Residual> {
        let full_at = self.rate.nanos_of(self.full_at.load(Ordering::Relaxed));
        (full_at > self.clock.nanos()).then(|| until(full_at))
    }
}

impl Acquire for TokenBucket {
    async fn acquire_within(&self, call: Call, limit: Duration) -> Result<Permit<'_>, Rejected> {
        let taken = self.take(call, limit);
        if let Ok(ready_at @ 1..) = taken {
            let waiting = Waiting { bucket: self, cost: call.cost };
            self.clock.sleep_until_nanos(ready_at).await;
            std::mem::forget(waiting);
        }
        self.hook.admission(taken.map(|_| self.permit(call)))
    }
}

/// A caller that has taken its tokens and waits for them; gives them back if it is cancelled.
struct Waiting<'a> {
    bucket: &'a TokenBucket,
    cost: u32,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let units = self.bucket.rate.units_of(self.cost);
        let back = |full_at: u64| Some(full_at.saturating_sub(units));
        let _ = self.bucket.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
    }
}

/// Stands for "at once" where a time is expected.
const NOW: u64 = 0;

/// How time becomes tokens, in exact arithmetic.
///
/// A unit is 2^-shift tokens, and the shift is the largest at which units come no faster than nanoseconds and the
/// burst stays below 2^62. So the count of units lasts as long as the clock, and at low rates is as fine as it.
/// `units(now)` is a function of the absolute time, rounded down once: errors cannot add up, and since a token is a
/// whole number of units, rounding units down rounds tokens down as exact arithmetic would.
#[derive(Clone, Copy, Debug)]
struct Rate {
    tokens: u64,
    /// In nanoseconds.
    period: u64,
    shift: u32,
    /// Units per period: `tokens << shift`.
    flow: u64,
    /// Units per 2^64 nanoseconds, rounded down.
    flow_reciprocal: u64,
    /// In units.
    burst: u64,
}

impl Rate {
    const MAX_BURST: u64 = 1 << 62;

    #[track_caller]
    const fn new(tokens: u64, period: Duration) -> Self {
        let period = period_nanos(period);
        if tokens == 0 {
            absurd("tokens", tokens, "must be at least 1");
        }
        if tokens > period {
            absurd("tokens", tokens, "must be at most 1 per nanosecond of the period");
        }
        let unset = Self { tokens, period, shift: 0, flow: 0, flow_reciprocal: 0, burst: 0 };
        unset.with_burst(if tokens > Self::MAX_BURST { Self::MAX_BURST } else { tokens })
    }

    #[track_caller]
    const fn with_burst(mut self, tokens: u64) -> Self {
        if tokens == 0 {
            absurd("burst", tokens, "must be at least 1");
        }
        if tokens > Self::MAX_BURST {
            absurd("burst", tokens, "must be at most 4611686018427387904 (2^62)");
        }
        // The largest shifts that keep `tokens << shift <= period` and `burst << shift <= MAX_BURST`.
        let flow_shift = (self.period / self.tokens).ilog2();
        let burst_shift = (Self::MAX_BURST / tokens).ilog2();
        self.shift = if flow_shift < burst_shift { flow_shift } else { burst_shift };
        self.burst = tokens << self.shift;
        self.flow = self.tokens << self.shift;
        let reciprocal = ((self.flow as u128) << 64) / self.period as u128;
        self.flow_reciprocal = if reciprocal > u64::MAX as u128 { u64::MAX } else { reciprocal as u64 };
        self
    }

    /// Returns how many units have flowed since the start of time: `floor(nanos * flow / period)`.
    const fn units(&self, nanos: u64) -> u64 {
        // The rounded reciprocal gives the quotient or one less; the remainder tells which.
        let quotient = ((nanos as u128 * self.flow_reciprocal as u128) >> 64) as u64;
        let remainder = nanos as u128 * self.flow as u128 - quotient as u128 * self.period as u128;
        if remainder >= self.period as u128 { quotient + 1 } else { quotient }
    }

    /// Returns the first time at which `units` have flowed.
    const fn nanos_of(&self, units: u64) -> u64 {
        let nanos = (units as u128 * self.period as u128).div_ceil(self.flow as u128);
        if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
    }

    const fn units_of(&self, cost: u32) -> u64 {
        (cost as u64) << self.shift
    }

    /// Returns what the word becomes when `cost` tokens are taken at `now`, and when they are there, or `NOW`;
    /// `None` if they never are.
    fn take(&self, full_at: u64, now: u64, cost: u32) -> Option<(u64, u64)> {
        // `burst >> shift` fits no fewer bits than `cost`, so that `units_of` cannot overflow once it is compared.
        if u64::from(cost) > self.burst >> self.shift {
            return None;
        }
        let flowed = self.units(now);
        let next = full_at.max(flowed).checked_add(self.units_of(cost))?;
        let ready_at = next.saturating_sub(self.burst);
        Some((next, if ready_at <= flowed { NOW } else { self.nanos_of(ready_at) }))
    }

    fn available(&self, full_at: u64, now: u64) -> u64 {
        let missing = full_at.saturating_sub(self.units(now));
        self.burst.saturating_sub(missing) >> self.shift
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    proptest! {
        #[test]
        fn units_are_the_exact_quotient(tokens in 1u64..1 << 40, period in 1u64..1 << 50, burst in 1u64..1 << 40, nanos: u64) {
            let period = period.max(tokens);
            let rate = Rate::new(tokens, Duration::from_nanos(period)).with_burst(burst);
            let exact = u128::from(nanos) * u128::from(tokens << rate.shift) / u128::from(period);
            prop_assert_eq!(u128::from(rate.units(nanos)), exact);
            let units = rate.units(nanos);
            let first = rate.nanos_of(units);
            prop_assert!(first <= nanos && rate.units(first) == units);
            prop_assert!(first == 0 || rate.units(first - 1) < units);
        }
    }

    #[test]
    fn the_extremes_are_exact() {
        let century = Duration::from_secs(3_155_760_000);
        let slow = Rate::new(1, century);
        assert_eq!(slow.take(0, 0, 1).map(|taken| taken.1), Some(NOW));
        let (full_at, _) = slow.take(0, 0, 1).unwrap();
        assert_eq!(slow.take(full_at, 0, 1).map(|taken| taken.1), Some(3_155_760_000 * SECOND));

        let fast = Rate::new(SECOND, Duration::from_secs(1)).with_burst(1 << 62);
        assert_eq!(fast.units(u64::MAX), u64::MAX);
        assert_eq!(fast.available(0, 0), 1 << 62);
        assert_eq!(fast.take(u64::MAX, 0, 1), None);

        let longest = Rate::new(1, Duration::from_nanos(1 << 63));
        assert_eq!(longest.units(u64::MAX) >> longest.shift, 1);
        assert!(Rate::new(u64::MAX >> 1, Duration::from_nanos(1 << 63)).units(u64::MAX) > 0);
    }

    #[test]
    fn a_billion_nanoseconds_at_two_thirds_of_a_token_give_exactly_that() {
        let rate = Rate::new(2, Duration::from_nanos(3)).with_burst(1);
        for nanos in [0, 1, 2, 3, 4, SECOND, u64::MAX / 4] {
            assert_eq!(rate.units(nanos) >> rate.shift, nanos / 3 * 2 + nanos % 3 * 2 / 3);
        }
    }
}

//! So many calls per second, with bursts: [`TokenBucket`].
//!
//! For quotas ("500 a second, at most 50 at once") on what you call or on what calls you. When **not** to use it: to
//! cap how many calls run at the same time (that is a [`Bulkhead`](crate::Bulkhead)); to keep a strict cap in *any*
//! window: a bucket admits up to `burst` plus what flows in (that is a [`SlidingLog`](crate::SlidingLog)).
//!
//! The state is one word: the instant, counted in fractions of a token, at which everything taken so far will have
//! flowed back (the *theoretical arrival time* of the generic cell rate algorithm, ITU-T I.371; the "virtual
//! scheduling" form of a token bucket). With a burst of 1 that is a leaky bucket: calls are spaced evenly.

use std::task::Waker;
use std::time::{Duration, Instant};

use super::line::{Line, wake};
use super::quota::Quota;
use super::rate::{Rate, Seen, Shared};
use super::reservation::{Place, Reservation, Taken};
use crate::acquire::Acquire;
use crate::call::Call;
use crate::clock::{Clock, NEVER, nanos_of};
use crate::error::{BadSetting, Reason, Rejected, saturating_nanos};
use crate::event::{Event, Hook, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket, until};
use crate::setters::setters;
use crate::sync::{Mutex, back_off, const_fn};

/// Admits so many calls per second, and as many at once as the bucket holds.
///
/// A call takes [`cost`](Call::cost) tokens. In a stack it is rejected at once when there are too few, with the time
/// after which it would be admitted; with [`wait_up_to`](Acquire::wait_up_to) it waits its turn. Those who wait have
/// taken their tokens in advance: nobody passes them, and a wait that cannot end in time is refused at its start. When
/// one of them leaves, those behind it move up.
///
/// Rates are exact: in a time `t` a bucket admits at most `burst + rate × t`, without drift, however long it runs and
/// however often it is asked. Time is counted in units of a token's 2ⁿth part, at most two nanoseconds of flow each
/// (more only where the burst is so large that they would not fit); a bucket may be one unit early.
///
/// # Which limiter to choose
///
#[doc = include_str!("which.md")]
///
/// # Cost
///
/// One reading of the clock, some arithmetic and one compare-and-swap, repeated when threads collide; a rejection
/// writes nothing. No lock and no allocation, but for those who wait.
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
    /// The rate, and when everything taken will have flowed back, in its units; zero: the bucket is full.
    pub(super) shared: Shared,
    /// Those who have taken tokens in advance. Its lock is also the one that changes the rate.
    pub(super) line: Mutex<Line>,
    pub(super) clock: Clock,
    pub(super) hook: Hook,
}

impl TokenBucket {
    const MAX_WAITING: usize = 1024;

    const_fn! {
        /// Creates a full bucket into which `tokens` flow per second, and which holds as many.
        ///
        /// # Panics
        ///
        /// If `tokens` is 0 or more than 10¹².
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
        /// If `tokens` is 0, or more than 1,000 per nanosecond of `period`; if `period` is zero or over 292 years.
        #[track_caller]
        pub fn per(tokens: u64, period: Duration) -> Self {
            Self {
                shared: Shared::new(Rate::expect(tokens, period, None)),
                line: Mutex::new(Line::bounded(Self::MAX_WAITING)),
                clock: Clock::system(),
                hook: Hook::unnamed(),
            }
        }
    }

    const_fn! {
        /// Lets the bucket hold `tokens`, so that as many calls may start at once. Default: the tokens of one period.
        /// With 1, calls are spaced evenly.
        ///
        /// # Panics
        ///
        /// If `tokens` is 0 or more than 2⁵⁸.
        #[track_caller]
        #[must_use = "returns the changed bucket"]
        pub fn burst(mut self, tokens: u64) -> Self {
            self.shared = self.shared.with_burst(tokens);
            self
        }
    }

    /// Starts with `tokens` in the bucket, or with as many as it holds. Default: full.
    ///
    /// Call it after `burst` and `clock`, which it looks at.
    #[must_use = "returns the changed bucket"]
    pub fn initial(self, tokens: u64) -> Self {
        let rate = self.shared.rate();
        let missing = rate.burst.saturating_sub(rate.units_of(tokens));
        let now = self.clock.nanos();
        self.shared.adjust(|_| rate.flowed(now).units.saturating_add(missing));
        self
    }

    /// Lets at most `waiting` calls wait for their turn; more are rejected. Default: 1,024.
    #[must_use = "returns the changed bucket"]
    pub fn max_waiting(self, waiting: usize) -> Self {
        self.line.lock().set_limit(waiting);
        self
    }

    setters!("bucket");

    /// Takes as many tokens as there are, at most `tokens`; returns how many. Never waits.
    pub fn take_up_to(&self, tokens: u32) -> u32 {
        loop {
            let there = self.available().min(u64::from(tokens)) as u32;
            if there == 0 || self.take(Call::new().cost(there), 0, None).is_ok() {
                return there;
            }
        }
    }

    /// Takes the call's tokens for later: at most `limit` from now, and before the call's deadline.
    ///
    /// Use it to run work at its time by other means, or to take tokens of several limits before waiting for any.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Call, Clock, TokenBucket};
    ///
    /// let bucket = TokenBucket::per_second(1).clock(Clock::manual());
    /// let first = bucket.reserve(Call::new(), Duration::ZERO)?;
    /// let second = bucket.reserve(Call::new(), Duration::from_secs(5))?;
    /// assert_eq!(second.wait(), Duration::from_secs(1));
    /// drop(first); // gives its token back
    /// assert_eq!(second.wait(), Duration::ZERO);
    /// # Ok::<(), floodwall::Rejected>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the tokens are not there in time, or too many wait already. Nothing is taken then.
    pub fn reserve(&self, call: Call, limit: Duration) -> Result<Reservation<'_>, Rejected> {
        match self.take(call, 0, None) {
            Ok(taken) => Ok(Reservation { bucket: self, call, until: NEVER, taken, place: Place::Ready }),
            Err(Refusal { reason: Reason::RateLimited, .. }) if !limit.is_zero() => {
                self.reserve_at(call, limit, self.clock.nanos())
            }
            Err(refusal) => Err(self.rejected(refusal)),
        }
    }

    /// Takes tokens for later at a time that was read outside every lock, since a clock may be the user's.
    pub(super) fn reserve_at(
        &self,
        call: Call,
        limit: Duration,
        now: u64,
    ) -> Result<Reservation<'_>, Rejected> {
        let limit = saturating_nanos(limit);
        let mut line = self.line.lock();
        if line.is_full() {
            // Not waited for, they may still be there.
            let taken = self.take(call, 0, Some(now)).map_err(|refusal| self.rejected(refusal))?;
            return Ok(Reservation { bucket: self, call, until: NEVER, taken, place: Place::Ready });
        }
        let taken = self.take(call, limit, Some(now)).map_err(|refusal| self.rejected(refusal))?;
        let until = now.saturating_add(limit);
        let place =
            if taken.wait > 0 { Place::InLine(line.join(taken.next, taken.cost)) } else { Place::Ready };
        Ok(Reservation { bucket: self, call, until, taken, place })
    }

    /// Returns whether the call would be admitted now, without taking anything.
    ///
    /// # Errors
    ///
    /// What [`try_acquire_for`](Gate::try_acquire_for) would say.
    pub fn peek(&self, call: Call) -> Result<(), Rejected> {
        self.peek_at(call, self.clock.nanos())
    }

    pub(super) fn peek_at(&self, call: Call, now: u64) -> Result<(), Rejected> {
        let decision = self.decide(&self.shared.read(), now, call, 0);
        decision.map(|_| ()).map_err(|refusal| self.rejected(refusal))
    }

    pub(super) fn take_at(&self, call: Call, now: u64) -> Result<(), Rejected> {
        self.take(call, 0, Some(now)).map(|_| ()).map_err(|refusal| self.rejected(refusal))
    }

    /// Returns how many tokens a call could take now; 0 while others wait for theirs.
    pub fn available(&self) -> u64 {
        let now = self.clock.nanos();
        let Seen { rate, full_at, .. } = self.shared.read();
        rate.available(full_at, now)
    }

    /// Returns what is left, and when there will be more; its limit is the burst, its window the time in which an
    /// empty bucket fills.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Clock, TokenBucket};
    ///
    /// let quota = TokenBucket::per_second(5).burst(20).clock(Clock::manual()).quota();
    /// assert_eq!((quota.limit, quota.window), (20, Duration::from_secs(4)));
    /// assert_eq!((quota.remaining, quota.more_after), (20, Duration::ZERO));
    /// ```
    pub fn quota(&self) -> Quota {
        let now = self.clock.nanos();
        let Seen { rate, full_at, .. } = self.shared.read();
        let (limit, remaining) = (rate.burst >> rate.shift, rate.available(full_at, now));
        // Nothing is missing, or one token less than is missing now.
        let more_at = full_at.saturating_sub(rate.units_of((limit - remaining).saturating_sub(1)));
        let more_after = if remaining == limit { 0 } else { rate.wait(rate.flowed(now), more_at) };
        let window = rate.wait(rate.flowed(rate.origin), rate.burst);
        Quota {
            name: self.hook.name,
            limit,
            window: Duration::from_nanos(window),
            remaining,
            more_after: Duration::from_nanos(more_after),
        }
    }

    /// Returns how many calls wait now.
    pub fn waiting(&self) -> usize {
        self.line.lock().len()
    }

    /// Gives back tokens that were taken and not used; those who wait move up. The bucket holds no more than its burst.
    pub fn refund(&self, tokens: u32) {
        let mut line = self.line.lock();
        let units = self.shared.rate().units_of(tokens.into());
        self.shared.adjust(|full_at| full_at.saturating_sub(units));
        let woken = line.change_all(|waiter| waiter.next = waiter.next.saturating_sub(units));
        wake(line, woken);
    }

    /// Takes tokens that were used without asking, also if they are not there: others wait until the debt is paid.
    pub fn charge(&self, tokens: u32) {
        let now = self.clock.nanos();
        let mut line = self.line.lock();
        let rate = self.shared.rate();
        let units = rate.units_of(tokens.into());
        self.shared.adjust(|full_at| full_at.max(rate.flowed(now).units).saturating_add(units));
        let woken = line.change_all(|waiter| waiter.next = waiter.next.saturating_add(units));
        wake(line, woken);
    }

    /// Admits nobody before `at`, because the server said so; then one call, and more at the bucket's rate.
    pub fn pause_until(&self, at: Instant) {
        let mut line = self.line.lock();
        let rate = self.shared.rate();
        let start = rate.flowed(nanos_of(at)).units.saturating_add(rate.burst);
        match line.first() {
            // The first one's tokens are there at `at`, and the others follow in their distances.
            Some(first) => {
                let later = start.saturating_sub(first.next);
                self.shared.adjust(|full_at| full_at.saturating_add(later));
                let woken = line.change_all(|waiter| waiter.next = waiter.next.saturating_add(later));
                wake(line, woken);
            }
            None => self.shared.adjust(|full_at| full_at.max(start.saturating_sub(rate.units_of(1)))),
        }
    }

    /// Changes the rate to `tokens` per `period` in bursts of `burst`, and carries over what was taken as `carry` says.
    ///
    /// Those who wait get new times; one that would then wait longer than it wanted is rejected.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Call, Carry, Clock, Gate, TokenBucket};
    ///
    /// let bucket = TokenBucket::per_second(100).clock(Clock::manual());
    /// assert!(bucket.try_acquire_for(Call::new().cost(40)).is_ok());
    /// bucket.set_rate(1_000, Duration::from_secs(1), 1_000, Carry::Scaled)?;
    /// assert_eq!(bucket.available(), 600);
    /// # Ok::<(), floodwall::BadSetting>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If a setting makes no sense: the one at which the constructor would panic. Nothing is changed then.
    pub fn set_rate(
        &self,
        tokens: u64,
        period: Duration,
        burst: u64,
        carry: Carry,
    ) -> Result<(), BadSetting> {
        let woken = self.change_rate(Some(Rate::new(tokens, period, burst)?), carry, self.clock.nanos());
        woken.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Changes the rate, or with `None` only its origin; returns who must look again.
    pub(super) fn change_rate(&self, rate: Option<Rate>, carry: Carry, now: u64) -> Vec<Waker> {
        let mut line = self.line.lock();
        let mut woken = Vec::new();
        self.shared.change(|old, full_at| {
            // A time that was read before another change would let what has flowed since then flow once more.
            let now = now.max(old.origin);
            let rate = Rate { origin: now, ..rate.unwrap_or(*old) };
            let level = old.level(full_at, now);
            let level = match carry {
                Carry::AsIs => rate.convert(level, old).min(rate.burst.into()),
                Carry::Scaled if level > 0 => level * i128::from(rate.burst) / i128::from(old.burst),
                Carry::Scaled => rate.convert(level, old),
                Carry::Full => rate.burst.into(),
            };
            // The new origin is now, so that nothing has flowed yet.
            let mut full_at = (i128::from(rate.burst) - level).clamp(0, i128::from(u64::MAX)) as u64;
            woken = line.change_all(|waiter| {
                waiter.cost = rate.units_of(waiter.cost >> old.shift);
                waiter.next = match carry {
                    Carry::Full => {
                        full_at = full_at.saturating_add(waiter.cost);
                        full_at
                    }
                    Carry::AsIs | Carry::Scaled => {
                        let missing = i128::from(waiter.next)
                            - i128::from(old.burst)
                            - i128::from(old.flowed(now).units);
                        let next = i128::from(rate.burst) - rate.convert(-missing, old);
                        next.clamp(0, i128::from(u64::MAX)) as u64
                    }
                };
            });
            (rate, full_at)
        });
        drop(line);
        woken
    }

    /// Takes the call's tokens if they are there within `limit` nanoseconds and before its deadline.
    fn take(&self, call: Call, limit: u64, now: Option<u64>) -> Result<Taken, Refusal> {
        loop {
            // In each round, and before the word: read between the word and its swap, it would make threads collide.
            // A time that is a little old can admit nothing more, since the word only moves forward.
            let time = now.unwrap_or_else(|| self.clock.nanos());
            let seen = self.shared.read();
            match self.decide(&seen, time, call, limit) {
                Ok(taken) if self.shared.swap(&seen, taken.next) => return Ok(taken),
                Ok(_) => back_off(),
                Err(_) if now.is_none() && self.renew(time) => {}
                Err(refusal) => return Err(refusal),
            }
        }
    }

    /// Moves the origin if the count of units nears its end; returns whether it did.
    pub(super) fn renew(&self, now: u64) -> bool {
        let rate = self.shared.read().rate;
        let worn = rate.is_worn(now);
        if worn {
            self.change_rate(None, Carry::AsIs, now).into_iter().for_each(Waker::wake);
        }
        worn
    }

    /// Says what the word becomes, and when the call's tokens are there.
    #[inline(always)]
    fn decide(&self, seen: &Seen, now: u64, call: Call, limit: u64) -> Result<Taken, Refusal> {
        if now >= call.deadline && call.deadline != NEVER {
            return Err(Refusal { reason: Reason::DeadlineExceeded, wait: NEVER });
        }
        let never = Refusal { reason: Reason::RateLimited, wait: NEVER };
        let rate = &seen.rate;
        let (next, wait) = rate.take(seen.full_at, rate.flowed(now), call.cost).ok_or(never)?;
        if wait > limit {
            return Err(Refusal { reason: Reason::RateLimited, wait });
        }
        if wait > 0 && now.saturating_add(wait) >= call.deadline {
            return Err(Refusal { reason: Reason::DeadlineExceeded, wait });
        }
        Ok(Taken { next, wait, cost: rate.units_of(call.cost.into()), origin: rate.origin })
    }

    fn rejected(&self, Refusal { reason, wait }: Refusal) -> Rejected {
        let rejected = Rejected::new(self.hook.name, reason);
        if wait == NEVER { rejected } else { rejected.after(Duration::from_nanos(wait)) }
    }

    pub(super) fn permit(&self, call: Call) -> Permit<'_> {
        Permit::new(self, Ticket::new(call.cost.into(), call))
    }
}

impl Gate for TokenBucket {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        self.hook.admission(match self.take(call, 0, None) {
            Ok(_) => Ok(self.permit(call)),
            Err(refusal) => Err(self.rejected(refusal)),
        })
    }

    fn release(&self, _ticket: Ticket, outcome: Outcome) {
        self.hook.emit(Event::Finished(outcome));
    }

    fn settle(&self, ticket: &mut Ticket, actual: u32) {
        // The word is the cost that the call was admitted with.
        let estimate = ticket.word() as u32;
        ticket.set_word(actual.into());
        match actual.checked_sub(estimate) {
            Some(more) => self.charge(more),
            None => self.refund(estimate - actual),
        }
    }

    fn residual(&self) -> Option<Residual> {
        let now = self.clock.nanos();
        let Seen { rate, full_at, .. } = self.shared.read();
        (full_at > rate.flowed(now).units).then(|| until(rate.time_of(full_at, now)))
    }
}

impl Acquire for TokenBucket {
    async fn acquire_within(&self, call: Call, limit: Duration) -> Result<Permit<'_>, Rejected> {
        let admitted = match self.reserve(call, limit) {
            Ok(reservation) => reservation.ready().await,
            Err(rejected) => Err(rejected),
        };
        self.hook.admission(admitted)
    }
}

/// Why tokens were not taken: smaller than a [`Rejected`], which is made of it once it is known to be told.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    reason: Reason,
    /// In nanoseconds, or `NEVER`.
    wait: u64,
}

/// What becomes of the tokens taken so far when the rate changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry {
    /// As many tokens are there as before, or as the bucket holds.
    AsIs,
    /// The bucket is as full as before: half full stays half full. Debts stay as they are.
    Scaled,
    /// The bucket is full.
    Full,
}

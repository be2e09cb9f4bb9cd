//! So many calls per second, with bursts: [`TokenBucket`].
//!
//! For quotas ("500 a second, at most 50 at once") on what you call or on what calls you. When **not** to use it: to
//! cap how many calls run at the same time (that is a [`Bulkhead`](crate::Bulkhead)); to keep a strict cap in *any*
//! window: a bucket admits up to `burst` plus what flows in (that is a [`SlidingLog`](crate::SlidingLog)).
//!
//! The state is one word: the instant, counted in fractions of a token, at which everything taken so far will have
//! flowed back (the *theoretical arrival time* of the generic cell rate algorithm, ITU-T I.371; the "virtual
//! scheduling" form of a token bucket). With a burst of 1 that is a leaky bucket: calls are spaced evenly.

use std::time::Duration;

use super::line::{Line, wake};
use super::quota::Quota;
use super::rate::Rate;
use super::reservation::Taken;
use super::shared::{Seen, Shared};
use crate::acquire::Acquire;
use crate::call::Call;
use crate::clock::{Clock, NEVER};
use crate::error::{Reason, Rejected};
use crate::event::{Event, Hook, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket, until};
use crate::setters::setters;
use crate::sync::{Mutex, OnceLock, back_off, const_fn};

/// Admits so many calls per second, and as many at once as the bucket holds.
///
/// A call takes [`cost`](Call::cost) tokens. In a stack it is rejected at once when there are too few, with the time
/// after which it would be admitted; with [`wait_up_to`](Acquire::wait_up_to) it waits its turn. Those who wait have
/// taken their tokens in advance: nobody passes them, and a wait that cannot end in time is refused at its start. When
/// one of them leaves, those behind it move up.
///
/// Rates are exact: in a time `t` a bucket admits at most `burst + rate × t`, without drift, however long it runs and
/// however often it is asked. Most are so to the nanosecond: all whose tokens per nanosecond are a fraction with a
/// numerator of at most 4,096, such as any number per second up to that, and round ones above. Others count time in units
/// of a token's 2ⁿth part, at most two nanoseconds of flow each (more only where the burst is so large that they would
/// not fit), and may be one unit early.
///
/// # Which limiter to choose
///
#[doc = include_str!("which.md")]
///
/// # Cost
///
/// One reading of the clock, some arithmetic and one compare-and-swap, repeated when threads collide; a rejection
/// writes nothing. No lock and no allocation, but for those who wait and where a cold bucket starts to warm up. What
/// changes tokens already taken, [`settle`](Permit::settle), [`refund`](Self::refund) and [`charge`](Self::charge), takes
/// a lock, which is allocated once.
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
#[repr(C)] // What every call needs comes first, on few cache lines.
pub struct TokenBucket {
    /// The rate, and when everything taken will have flowed back, in its units; zero: the bucket is full.
    pub(super) shared: Shared,
    pub(super) clock: Clock,
    pub(super) hook: Hook,
    /// Made when it is first needed, since there may be a bucket for each of many keys: see `line`.
    waiters: OnceLock<Box<Mutex<Line>>>,
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
                clock: Clock::system(),
                hook: Hook::unnamed(),
                waiters: OnceLock::new(),
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

    const_fn! {
        /// Starts cold, at a third of the rate with a third of the burst, and warms up to the whole within `time`; again
        /// when it was full for as long. Default: it is always warm.
        ///
        /// For what must not be hit by the full load at once: a cache that is empty after a start, a pool of
        /// connections, a server that scales. The rate rises evenly from the first call on, as that of Sentinel's
        /// and Guava's warm-up does with the cold factor 3; at its end `2/3 rate × time` has flowed.
        ///
        /// ```
        /// # use std::time::Duration;
        /// use floodwall::{Clock, Gate, TokenBucket};
        ///
        /// let clock = Clock::manual();
        /// let bucket = TokenBucket::per_second(300).burst(30).warm_up(Duration::from_secs(30)).clock(clock.clone());
        /// assert_eq!(bucket.available(), 10);
        /// let per_second = || {
        ///     while bucket.try_acquire().is_ok() {}
        ///     let mut admitted = 0;
        ///     for _ in 0..1_000 {
        ///         clock.advance(Duration::from_millis(1));
        ///         admitted += bucket.take_up_to(30);
        ///     }
        ///     admitted
        /// };
        /// assert_eq!(per_second(), 103);
        /// clock.advance(Duration::from_secs(29));
        /// assert_eq!(per_second(), 300);
        /// ```
        ///
        /// # Panics
        ///
        /// If `time` is over 39 hours.
        #[track_caller]
        #[must_use = "returns the changed bucket"]
        pub fn warm_up(mut self, time: Duration) -> Self {
            self.shared = self.shared.with_warm_up(time);
            self
        }
    }

    /// Starts with `tokens` in the bucket, or with as many as it holds. Default: full.
    ///
    /// Call it after `burst` and `clock`, which it looks at. A bucket that warms up starts with a third.
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
        self.line().lock().set_limit(waiting);
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

    /// Returns whether the call would be admitted now, without taking anything.
    ///
    /// # Errors
    ///
    /// What [`try_acquire_for`](Gate::try_acquire_for) would say.
    pub fn peek(&self, call: Call) -> Result<(), Rejected> {
        self.peek_at(call, 0, self.clock.nanos())
    }

    /// The same for one that waits for at most `limit` nanoseconds.
    pub(super) fn peek_at(&self, call: Call, limit: u64, now: u64) -> Result<(), Rejected> {
        let decision = self.decide(&self.look(now), now, call, limit);
        decision.map(|_| ()).map_err(|refusal| self.rejected(refusal))
    }

    pub(super) fn take_at(&self, call: Call, now: u64) -> Result<(), Rejected> {
        self.start_if_cold(&self.shared.read(), now);
        self.take(call, 0, Some(now)).map(|_| ()).map_err(|refusal| self.rejected(refusal))
    }

    /// Returns how many tokens a call could take now; 0 while others wait for theirs.
    pub fn available(&self) -> u64 {
        let now = self.clock.nanos();
        let Seen { rate, full_at, .. } = self.look(now);
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
        let Seen { rate, full_at, .. } = self.look(now);
        Quota::of(self.hook.name, &rate, full_at, now)
    }

    /// Returns how many calls wait now.
    pub fn waiting(&self) -> usize {
        self.waiters.get().map_or(0, |line| line.lock().len())
    }

    /// Gives back tokens that were taken and not used; those who wait move up. The bucket holds no more than its burst, and
    /// at the end of a pause no more than one token.
    pub fn refund(&self, tokens: u32) {
        let now = self.clock.nanos();
        let mut line = self.line().lock();
        let rate = self.shared.rate();
        let first = line.first().map(|waiter| waiter.next);
        let units = self.spared(&rate, now, rate.units_of(tokens.into()), first);
        self.shared.adjust(|full_at| full_at.saturating_sub(units));
        let woken = line.change_all(|waiter| waiter.next = waiter.next.saturating_sub(units));
        wake(line, woken);
    }

    /// Takes tokens that were used without asking, also if they are not there: others wait until the debt is paid.
    pub fn charge(&self, tokens: u32) {
        let now = self.clock.nanos();
        self.start_if_cold(&self.shared.read(), now);
        // Beyond the end of the count a debt would be lost.
        self.renew(now);
        let mut line = self.line().lock();
        let rate = self.shared.rate();
        let units = rate.units_of(tokens.into());
        self.shared.adjust(|full_at| full_at.max(rate.flowed(now).units).saturating_add(units));
        let woken = line.change_all(|waiter| waiter.next = waiter.next.saturating_add(units));
        wake(line, woken);
    }

    /// Those who have taken tokens in advance. Its lock is also the one that changes the rate.
    pub(super) fn line(&self) -> &Mutex<Line> {
        self.waiters.get_or_init(|| Box::new(Mutex::new(Line::bounded(Self::MAX_WAITING))))
    }

    /// Takes the call's tokens if they are there now: what [`take`](Self::take) does for no limit, in fewer steps.
    #[inline]
    fn take_at_once(&self, call: Call) -> Result<(), Refusal> {
        loop {
            // The time first, and anew in each round: see `take`.
            let now = self.clock.nanos();
            let seen = self.shared.read();
            let is_late = now >= call.deadline && call.deadline != NEVER;
            match seen.rate.take_at_once(seen.full_at, now, call.cost) {
                Some(next) if !is_late => {
                    if self.shared.swap(&seen, next) {
                        return Ok(());
                    }
                    back_off();
                }
                _ if self.start_if_cold(&seen, now) => return self.take(call, 0, Some(now)).map(drop),
                _ => match self.decide(&seen, now, call, 0) {
                    Ok(taken) if self.shared.swap(&seen, taken.next) => return Ok(()),
                    Ok(_) => {}
                    Err(_) if self.renew_if_worn(&seen.rate, now) => {}
                    Err(refusal) => return Err(refusal),
                },
            }
        }
    }

    /// Takes the call's tokens if they are there within `limit` nanoseconds and before its deadline.
    pub(super) fn take(&self, call: Call, limit: u64, now: Option<u64>) -> Result<Taken, Refusal> {
        loop {
            // In each round, and before the word: read between the word and its swap, it would make threads collide.
            // A time that is a little old can admit nothing more, since the word only moves forward.
            let time = now.unwrap_or_else(|| self.clock.nanos());
            let seen = self.shared.read();
            if now.is_none() && self.start_if_cold(&seen, time) {
                // At the same time: at a later one a short warm-up would be over, and the bucket cold once more.
                return self.take(call, limit, Some(time));
            }
            match self.decide(&seen, time, call, limit) {
                Ok(taken) if self.shared.swap(&seen, taken.next) => return Ok(taken),
                Ok(_) => back_off(),
                Err(_) if now.is_none() && self.renew(time) => {}
                Err(refusal) => return Err(refusal),
            }
        }
    }

    /// Returns the rate and the word that a call would meet at `now`, without changing anything.
    fn look(&self, now: u64) -> Seen {
        let seen = self.shared.read();
        match seen.rate.cold(seen.full_at, now) {
            Some((rate, full_at)) => Seen { rate, full_at, ..seen },
            None => seen,
        }
    }

    /// Says what the word becomes, and when the call's tokens are there.
    #[inline(always)]
    fn decide(&self, seen: &Seen, now: u64, call: Call, limit: u64) -> Result<Taken, Refusal> {
        if now >= call.deadline && call.deadline != NEVER {
            return Err(Refusal { reason: Reason::DeadlineExceeded, wait: NEVER });
        }
        let never = Refusal { reason: Reason::RateLimited, wait: NEVER };
        let rate = &seen.rate;
        let (next, wait) = rate.take(seen.full_at, now, call.cost).ok_or(never)?;
        if wait > limit {
            return Err(Refusal { reason: Reason::RateLimited, wait });
        }
        if wait > 0 && now.saturating_add(wait) >= call.deadline {
            return Err(Refusal { reason: Reason::DeadlineExceeded, wait });
        }
        Ok(Taken { next, wait, cost: rate.units_of(call.cost.into()), version: seen.version })
    }

    /// Makes a rejection of a refusal, and tells it.
    fn refuse(&self, refusal: Refusal) -> Rejected {
        let rejected = self.rejected(refusal);
        self.hook.emit(Event::Rejected(rejected));
        rejected
    }

    pub(super) fn rejected(&self, Refusal { reason, wait }: Refusal) -> Rejected {
        let rejected = Rejected::new(self.hook.name, reason);
        if wait == NEVER { rejected } else { rejected.after(Duration::from_nanos(wait)) }
    }

    pub(super) fn permit(&self, call: Call) -> Permit<'_> {
        Permit::new(self, Ticket::new(call.cost.into(), call))
    }
}

impl Gate for TokenBucket {
    #[inline(always)]
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        match self.take_at_once(call) {
            Ok(()) => {
                self.hook.emit(Event::Admitted);
                Ok(self.permit(call))
            }
            Err(refusal) => Err(self.refuse(refusal)),
        }
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
        // Forgotten while it is warm, it would be cold again.
        let lost = if rate.warm_up > 0 {
            rate.cold(full_at, now).is_none()
        } else {
            now < rate.paused_until || full_at > rate.flowed(now).units
        };
        lost.then(|| until(rate.time_of(full_at, now).saturating_add(rate.warm_up)))
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
pub(super) struct Refusal {
    pub(super) reason: Reason,
    /// In nanoseconds, or `NEVER`.
    wait: u64,
}

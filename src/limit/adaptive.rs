//! A rate that finds out by itself what the dependency can take: [`AdaptiveRate`].
//!
//! For a quota that nobody tells you, or that changes: a partner's API, a shared database, a service that grows and
//! shrinks. When **not** to use it: if the quota is known (that is a [`TokenBucket`]); if the dependency is slow rather
//! than refusing, since a rate does not see how many calls pile up; around calls that fail because of their input, unless
//! [`when`](Gate::when) or [`judge`](Gate::judge) tells those failures apart.
//!
//! Lowering once for all that fails of the same congestion, and not for each call, is what keeps such limits from
//! collapsing (TCP NewReno, RFC 6582): a call carries the number of the rate under which it was admitted.

use std::task::Waker;
use std::time::Duration;

use super::change::Carry;
use super::feedback::{Feedback, Heard, Look, Rule, check_bounds};
use super::quota::Quota;
use super::reservation::Place;
use super::shared::Shared;
use super::token_bucket::TokenBucket;
use crate::acquire::Acquire;
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{BadSetting, Rejected, absurd, saturating_nanos};
use crate::event::{Event, Hook, Observer, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

/// A [`TokenBucket`] whose rate moves between a floor and a ceiling by how the calls that it admitted end.
///
/// By default it goes by the **success ratio**. After each `interval` it looks at the calls that were admitted since
/// the last change and have ended: above a ratio of 0.95 the rate rises by a tenth, below 0.8 it falls by a tenth. So
/// the rate settles where the dependency refuses between a twentieth and a fifth.
/// [`Failure`](Outcome::Failure) and [`Throttled`](Outcome::Throttled) count against it.
///
/// With [`aimd`](Self::aimd) or [`cubic`](Self::cubic) it goes by **[`Throttled`](Outcome::Throttled)** alone: it falls
/// at once, and rises after each interval without one; other failures neither raise nor lower it. Let
/// [`judge`](Gate::judge) say which results are throttlings. How long one asked to be left alone is for a
/// [`Retry`](crate::Retry) to obey.
///
/// Three rules hold in all modes. The rate rises only if a call was refused, or had to wait, since it was last looked at:
/// a limit that nobody reaches says nothing about what the dependency can take. Calls that were admitted before the
/// rate was last lowered cannot lower it again, however late they end. A permit dropped without a report counts for
/// nothing, unless its call's deadline had passed: that is a failure.
///
/// # Cost
///
/// To admit: what a bucket costs, and one load. To hear a result: one reading of the clock and a short critical section
/// of constant length. A change of the rate, at most one up and one down per interval, also gives those who wait their
/// new times. No allocation, but for those who wait.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{AdaptiveRate, Clock, Gate};
///
/// let clock = Clock::manual();
/// let partner = AdaptiveRate::between(10, 1_000).start(100).clock(clock.clone());
/// for _ in 0..2 {
///     while let Ok(permit) = partner.try_acquire() {
///         permit.failure();
///     }
///     clock.advance(Duration::from_secs(1));
/// }
/// partner.try_acquire()?.failure();
/// assert_eq!(partner.rate(), 81.0); // twice a tenth less
/// # Ok::<(), floodwall::Rejected>(())
/// ```
///
/// By what the server says, in a stack:
///
/// ```
/// use floodwall::{AdaptiveRate, Clock, Error, Gate, Outcome, Policy};
///
/// let partner = AdaptiveRate::between(0.5, 1_000).start(100).aimd(5, 0.5).clock(Clock::manual());
/// let partner = partner.judge(|result: &Result<u16, Error<()>>| match result {
///     Ok(429) => Outcome::Throttled { retry_after: None },
///     Ok(_) => Outcome::Success,
///     Err(_) => Outcome::Failure,
/// });
/// let _ = floodwall::block_on(partner.call(|| async { Ok(429) }));
/// assert_eq!(partner.rate(), 50.0);
/// ```
#[derive(Debug)]
pub struct AdaptiveRate {
    bucket: TokenBucket,
    /// Twice the number of the *epoch*, plus 1 if a call was refused since the rate was last looked at.
    seen: AtomicU64,
    feedback: Mutex<Feedback>,
    hook: Hook,
}

impl AdaptiveRate {
    /// Creates a limit whose rate stays between `floor` and `ceiling` calls per second; fractions are welcome.
    ///
    /// # Panics
    ///
    /// If `floor` is below 0.001; if `ceiling` is below `floor` or above 10¹²; if one is not a number.
    #[track_caller]
    pub fn between(floor: impl Into<f64>, ceiling: impl Into<f64>) -> Self {
        let (floor, ceiling) = (floor.into(), ceiling.into());
        assert!(floor >= 0.001, "floor: {floor} must be at least 0.001");
        assert!(ceiling >= floor, "ceiling: {ceiling} must be at least the floor, {floor}");
        assert!(ceiling <= 1e12, "ceiling: {ceiling} must be at most 1000000000000");
        let feedback = Feedback {
            rule: Rule::Ratio,
            floor,
            ceiling,
            rate: floor,
            burst: None,
            raise_above: 0.95,
            lower_below: 0.8,
            step: 0.1,
            interval: 1_000_000_000,
            min_calls: 10,
            since: None,
            lowered: None,
            calls: 0,
            successes: 0,
        };
        let bucket = TokenBucket::per_second(1);
        Self { bucket, seen: AtomicU64::new(0), feedback: Mutex::new(feedback), hook: Hook::unnamed() }
            .restarted()
    }

    /// Starts with `rate` calls per second. Default: the floor.
    ///
    /// # Panics
    ///
    /// If `rate` is not between the floor and the ceiling.
    #[track_caller]
    #[must_use = "returns the changed limit"]
    pub fn start(self, rate: impl Into<f64>) -> Self {
        let rate = rate.into();
        self.change(|feedback| {
            let Feedback { floor, ceiling, .. } = *feedback;
            assert!((floor..=ceiling).contains(&rate), "start: {rate} must be between {floor} and {ceiling}");
            feedback.rate = rate;
        })
        .restarted()
    }

    /// Lets the bucket hold `tokens`, so that as many calls may start at once. Default: the tokens of one second at
    /// the rate of the moment, and at least 1.
    ///
    /// # Panics
    ///
    /// If `tokens` is 0 or more than 2⁵⁸.
    #[track_caller]
    #[must_use = "returns the changed limit"]
    pub fn burst(self, tokens: u64) -> Self {
        self.change(|feedback| feedback.burst = Some(tokens)).restarted()
    }

    /// Raises the rate while more than this share of the calls succeeds. Default: 0.95.
    ///
    /// # Panics
    ///
    /// If `ratio` is not at least 0 and below 1.
    #[track_caller]
    #[must_use = "returns the changed limit"]
    pub fn raise_above(self, ratio: f64) -> Self {
        assert!((0.0..1.0).contains(&ratio), "raise_above: {ratio} must be at least 0 and below 1");
        self.change(|feedback| feedback.raise_above = ratio)
    }

    /// Lowers the rate while less than this share of the calls succeeds; goes before raising. Default: 0.8.
    ///
    /// # Panics
    ///
    /// If `ratio` is not above 0 and at most 1.
    #[track_caller]
    #[must_use = "returns the changed limit"]
    pub fn lower_below(self, ratio: f64) -> Self {
        assert!(ratio > 0.0 && ratio <= 1.0, "lower_below: {ratio} must be above 0 and at most 1");
        self.change(|feedback| feedback.lower_below = ratio)
    }

    /// Raises and lowers the rate by this share of it. Default: 0.1.
    ///
    /// # Panics
    ///
    /// If `share` is not above 0 and below 1.
    #[track_caller]
    #[must_use = "returns the changed limit"]
    pub fn step(self, share: f64) -> Self {
        assert!(share > 0.0 && share < 1.0, "step: {share} must be above 0 and below 1");
        self.change(|feedback| feedback.step = share)
    }

    /// Raises and lowers the rate at most once each in so much time. Default: 1 s.
    ///
    /// Not much less than calls take: what was changed shows in the calls that begin after it.
    ///
    /// # Panics
    ///
    /// If `time` is zero.
    #[track_caller]
    #[must_use = "returns the changed limit"]
    pub fn interval(self, time: Duration) -> Self {
        if time.is_zero() {
            absurd("interval", 0, "ns must be at least 1 ns");
        }
        self.change(|feedback| feedback.interval = saturating_nanos(time))
    }

    /// Judges a success ratio by no fewer calls; where they are rarer, the interval lasts longer. Default: 10.
    ///
    /// # Panics
    ///
    /// If `calls` is 0.
    #[track_caller]
    #[must_use = "returns the changed limit"]
    pub fn min_calls(self, calls: u64) -> Self {
        if calls == 0 {
            absurd("min_calls", 0, "must be at least 1");
        }
        self.change(|feedback| feedback.min_calls = calls)
    }

    /// Goes by throttlings: one lowers the rate to `factor` of it, each interval without one raises it by `increase`.
    /// Default: by success ratio.
    ///
    /// Additive increase, multiplicative decrease (D.-M. Chiu and R. Jain, 1989): clients that share a server come to
    /// equal rates.
    ///
    /// # Panics
    ///
    /// If `increase` is not above 0 and finite, or `factor` is not above 0 and below 1.
    #[track_caller]
    #[must_use = "returns the changed limit"]
    pub fn aimd(self, increase: impl Into<f64>, factor: f64) -> Self {
        let increase = increase.into();
        assert!(increase > 0.0 && increase.is_finite(), "increase: {increase} must be above 0 and finite");
        assert!(factor > 0.0 && factor < 1.0, "factor: {factor} must be above 0 and below 1");
        self.change(|feedback| feedback.rule = Rule::Aimd { increase, factor })
    }

    /// Goes by throttlings along the cubic curve of the AWS SDKs' client rate limiter: one lowers the rate to 0.7 of
    /// what is really sent, then it climbs back, lingers there, and climbs on. Default: by success ratio.
    ///
    /// It is never more than twice what is really sent, so that it starts low after an idle time. A floor of 0.5 is theirs.
    #[must_use = "returns the changed limit"]
    pub fn cubic(self) -> Self {
        self.change(|feedback| feedback.rule = Rule::Cubic(None))
    }

    /// Lets at most `waiting` calls wait for their turn; more are rejected. Default: 1,024.
    #[must_use = "returns the changed limit"]
    pub fn max_waiting(mut self, waiting: usize) -> Self {
        self.bucket = self.bucket.max_waiting(waiting);
        self
    }

    /// Tells the time by `clock`. Default: the system clock.
    #[must_use = "returns the changed limit"]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.bucket.clock = clock;
        self
    }

    /// Names the limit in its rejections. Default: no name.
    #[must_use = "returns the changed limit"]
    pub const fn name(mut self, name: &'static str) -> Self {
        self.hook.name = name;
        self.bucket.hook.name = name;
        self
    }

    /// Names the limit and tells its events to `observer`. Default: nobody.
    #[must_use = "returns the changed limit"]
    pub fn observe(mut self, name: &'static str, observer: impl Observer + 'static) -> Self {
        self.hook.observe(name, observer);
        self.name(name)
    }

    /// Returns how many calls per second it admits now.
    pub fn rate(&self) -> f64 {
        self.feedback.lock().rate
    }

    /// Returns how many tokens a call could take now; 0 while others wait for theirs.
    pub fn available(&self) -> u64 {
        self.bucket.available()
    }

    /// Returns what is left, and when there is more, at the rate of the moment.
    pub fn quota(&self) -> Quota {
        self.bucket.quota()
    }

    /// Returns how many calls wait now.
    pub fn waiting(&self) -> usize {
        self.bucket.waiting()
    }

    /// Lets the rate stay between `floor` and `ceiling` calls per second from now on, and moves it there if it is not.
    ///
    /// Calls that were admitted under a rate that this has changed can neither raise nor lower it. Those who wait get new
    /// times; one that would then wait longer than it wanted is rejected.
    ///
    /// ```
    /// use floodwall::{AdaptiveRate, Clock};
    ///
    /// let partner = AdaptiveRate::between(10, 1_000).start(500).clock(Clock::manual());
    /// partner.set_between(10, 200)?;
    /// assert_eq!(partner.rate(), 200.0);
    /// assert_eq!(partner.set_between(10, 5).unwrap_err().to_string(), "ceiling: 5 must be at least the floor");
    /// # Ok::<(), floodwall::BadSetting>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If a bound makes no sense: the one at which the constructor would panic. Nothing is changed then.
    pub fn set_between(&self, floor: impl Into<f64>, ceiling: impl Into<f64>) -> Result<(), BadSetting> {
        let (floor, ceiling) = (floor.into(), ceiling.into());
        check_bounds(floor, ceiling)?;
        let now = self.bucket.clock.nanos();
        let mut feedback = self.feedback.lock();
        if let Some(look) = feedback.bound(floor, ceiling) {
            self.follow(feedback, look, now).into_iter().for_each(Waker::wake);
        }
        Ok(())
    }

    #[track_caller]
    fn change(self, change: impl FnOnce(&mut Feedback)) -> Self {
        change(&mut self.feedback.lock());
        self
    }

    /// Gives the bucket the rate to start with, and fills it.
    #[track_caller]
    fn restarted(mut self) -> Self {
        self.bucket.shared = Shared::new(self.feedback.lock().bucket_rate());
        self
    }

    fn permit(&self, call: Call, seen: u64) -> Permit<'_> {
        Permit::new(self, Ticket::new(word(epoch(seen), call.cost), call))
    }

    /// Remembers that a call met the limit, unless the rate was looked at since `seen`.
    fn reached(&self, seen: u64) {
        if seen % 2 == 0 {
            // Relaxed: it says nothing about other data. Lost, it is known from another call.
            let _ = self.seen.compare_exchange(seen, seen + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn decided<P>(&self, decision: &Result<P, Rejected>, seen: u64) {
        // Without a time, it was too late anyway, or more than the bucket ever holds.
        if decision.as_ref().is_err_and(|rejected| rejected.retry_after().is_some()) {
            self.reached(seen);
        }
    }

    /// Counts how a call ended; returns who must look at the new rate.
    fn hear(&self, ticket: &Ticket, outcome: Outcome) -> Vec<Waker> {
        let now = self.bucket.clock.nanos();
        let mut feedback = self.feedback.lock();
        let seen = self.seen.load(Ordering::Relaxed);
        let heard = Heard {
            outcome,
            tokens: ticket.word() as u32,
            is_current: ticket.word() >> 32 == u64::from(epoch(seen)),
            was_reached: seen % 2 == 1,
        };
        let Some(look) = feedback.hear(heard, now) else { return Vec::new() };
        self.follow(feedback, look, now)
    }

    /// Gives the bucket the rate that was found; returns who must look at it.
    fn follow(&self, mut feedback: MutexGuard<'_, Feedback>, look: Look, now: u64) -> Vec<Waker> {
        let seen = self.seen.load(Ordering::Relaxed);
        let mut woken = Vec::new();
        if look.rate != feedback.rate {
            feedback.rate = look.rate;
            woken = self.bucket.change_rate(Some(feedback.bucket_rate()), Carry::AsIs, now);
        }
        // After the rate. Release, partner of the Acquire at admission: a call of the new epoch met the new rate.
        let epoch = (seen >> 1) + u64::from(look.new_epoch);
        self.seen.store(epoch << 1, Ordering::Release);
        woken
    }
}

const fn epoch(seen: u64) -> u32 {
    (seen >> 1) as u32
}

/// A ticket's word: what the call was admitted under, and its cost.
const fn word(epoch: u32, cost: u32) -> u64 {
    (epoch as u64) << 32 | cost as u64
}

impl Gate for AdaptiveRate {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        // Before the tokens are taken: a call that lost a race against a new rate counts for the old one.
        let seen = self.seen.load(Ordering::Acquire);
        let taken = self.bucket.try_acquire_for(call).map(Permit::into_ticket);
        self.decided(&taken, seen);
        self.hook.admission(taken.map(|_| self.permit(call, seen)))
    }

    fn release(&self, ticket: Ticket, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Abandoned if ticket.is_late(&self.bucket.clock) => Outcome::Failure,
            outcome => outcome,
        };
        if !matches!(outcome, Outcome::Ignored | Outcome::Abandoned) {
            self.hear(&ticket, outcome).into_iter().for_each(Waker::wake);
        }
        self.hook.emit(Event::Finished(outcome));
    }

    fn settle(&self, ticket: &mut Ticket, actual: u32) {
        let epoch = (ticket.word() >> 32) as u32;
        self.bucket.settle(ticket, actual);
        ticket.set_word(word(epoch, actual));
    }

    /// What the bucket would lose. A rate that was lowered is forgotten.
    fn residual(&self) -> Option<Residual> {
        self.bucket.residual()
    }
}

impl Acquire for AdaptiveRate {
    async fn acquire_within(&self, call: Call, limit: Duration) -> Result<Permit<'_>, Rejected> {
        let seen = self.seen.load(Ordering::Acquire);
        let taken = match self.bucket.reserve(call, limit) {
            Ok(reservation) => {
                if let Place::InLine(_) = reservation.place {
                    self.reached(seen);
                }
                reservation.ready().await.map(Permit::into_ticket)
            }
            Err(rejected) => Err(rejected),
        };
        self.decided(&taken, seen);
        // It starts now, and is judged under the rate of now.
        self.hook.admission(taken.map(|_| self.permit(call, self.seen.load(Ordering::Acquire))))
    }
}

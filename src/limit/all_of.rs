//! Several limits at once: [`AllOf`].
//!
//! For quotas in tiers: "10 a second and 1,000 an hour". When **not** to use it: for limits that guard different things,
//! which a stack of buckets expresses better, each with its own name and place.

use std::time::Duration;

use super::token_bucket::TokenBucket;
use crate::acquire::Acquire;
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{Rejected, saturating_nanos};
use crate::event::{Event, Hook, Observer, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket};
use crate::sync::Mutex;

/// Admits a call when all of its token buckets do, and takes its tokens from all of them or from none.
///
/// A rejection names the bucket that would keep the call out longest, and tells for how long.
///
/// # Cost
///
/// One reading of the clock, a short critical section, and per bucket what a bucket costs. No allocation, but for calls
/// that wait.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{AllOf, Clock, Gate, TokenBucket};
///
/// let hour = Duration::from_secs(3600);
/// let limits = AllOf::new([
///     TokenBucket::per_second(10).name("second"),
///     TokenBucket::per(1_000, hour).burst(15).name("hour"),
/// ])
/// .clock(Clock::manual());
/// let admitted = (0..100).filter(|_| limits.try_acquire().is_ok()).count();
/// assert_eq!(admitted, 10);
/// let rejected = limits.try_acquire().unwrap_err();
/// assert_eq!((rejected.by(), rejected.retry_after()), ("second", Some(Duration::from_millis(100))));
/// ```
#[derive(Debug)]
pub struct AllOf {
    buckets: Box<[TokenBucket]>,
    /// Makes checking all and charging all one step.
    turn: Mutex<()>,
    clock: Clock,
    hook: Hook,
}

impl AllOf {
    /// Combines `buckets` into one limit. Their own clocks and observers are not used.
    ///
    /// # Panics
    ///
    /// If there are none.
    #[track_caller]
    pub fn new(buckets: impl IntoIterator<Item = TokenBucket>) -> Self {
        let buckets: Box<[TokenBucket]> = buckets.into_iter().collect();
        assert!(!buckets.is_empty(), "buckets: 0 must be at least 1");
        Self { buckets, turn: Mutex::new(()), clock: Clock::system(), hook: Hook::unnamed() }.share_clock()
    }

    fn share_clock(mut self) -> Self {
        for bucket in &mut self.buckets {
            bucket.clock = self.clock.clone();
        }
        self
    }

    /// Tells the time by `clock`. Default: the system clock.
    #[must_use = "returns the changed limit"]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self.share_clock()
    }

    /// Names the limit and tells its events to `observer`. Default: nobody.
    #[must_use = "returns the changed limit"]
    pub fn observe(mut self, name: &'static str, observer: impl Observer + 'static) -> Self {
        self.hook.observe(name, observer);
        self
    }

    /// Returns the buckets, to look at them or to change their rates.
    pub fn buckets(&self) -> &[TokenBucket] {
        &self.buckets
    }

    /// Returns how many tokens a call could take now.
    pub fn available(&self) -> u64 {
        self.buckets.iter().map(TokenBucket::available).min().unwrap_or(0)
    }

    fn take(&self, call: Call) -> Result<(), Rejected> {
        let now = self.clock.nanos();
        match self.take_at(call, now) {
            Err(_) if self.buckets.iter().filter(|bucket| bucket.renew(now)).count() > 0 => {
                self.take_at(call, now)
            }
            decision => decision,
        }
    }

    /// Asks all before any is charged: whoever is rejected has taken nothing, not even for a moment. Returns the
    /// rejection that would last longest.
    fn ask(&self, call: Call, limit: u64, now: u64) -> Result<(), Rejected> {
        let mut worst: Option<Rejected> = None;
        for rejected in self.buckets.iter().filter_map(|bucket| bucket.peek_at(call, limit, now).err()) {
            // A rejection without a time is for ever.
            let wait = |rejected: &Rejected| rejected.retry_after().unwrap_or(Duration::MAX);
            if worst.as_ref().is_none_or(|worst| wait(&rejected) > wait(worst)) {
                worst = Some(rejected);
            }
        }
        worst.map_or(Ok(()), Err)
    }

    fn take_at(&self, call: Call, now: u64) -> Result<(), Rejected> {
        let turn = self.turn.lock();
        self.ask(call, 0, now)?;
        // It fails only if a bucket was charged, paused or slowed down from outside since it was asked.
        let mut takes = self.buckets.iter().map(|bucket| bucket.take_at(call, now)).enumerate();
        let failed = takes.find_map(|(taken, result)| Some((taken, result.err()?)));
        // A refund wakes those who wait, which is not to be done under a lock.
        drop(turn);
        let Some((taken, rejected)) = failed else { return Ok(()) };
        self.buckets[..taken].iter().for_each(|bucket| bucket.refund(call.cost));
        Err(rejected)
    }

    fn permit(&self, call: Call) -> Permit<'_> {
        Permit::new(self, Ticket::new(call.cost.into(), call))
    }
}

impl Gate for AllOf {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        self.hook.admission(self.take(call).map(|()| self.permit(call)))
    }

    fn release(&self, _ticket: Ticket, outcome: Outcome) {
        self.hook.emit(Event::Finished(outcome));
    }

    fn settle(&self, ticket: &mut Ticket, actual: u32) {
        let estimate = ticket.word();
        for bucket in &self.buckets {
            ticket.set_word(estimate);
            bucket.settle(ticket, actual);
        }
    }

    fn residual(&self) -> Option<Residual> {
        let residuals = self.buckets.iter().filter_map(Gate::residual);
        residuals.max_by_key(|residual| match residual {
            Residual::Until(at) => Some(*at),
            Residual::InUse => None,
        })
    }
}

impl Acquire for AllOf {
    async fn acquire_within(&self, call: Call, limit: Duration) -> Result<Permit<'_>, Rejected> {
        self.hook.admission(match self.take(call) {
            Ok(()) => Ok(self.permit(call)),
            Err(_) => self.wait(call, limit).await.map(|()| self.permit(call)),
        })
    }
}

impl AllOf {
    async fn wait(&self, call: Call, limit: Duration) -> Result<(), Rejected> {
        let now = self.clock.nanos();
        let mut reservations = Vec::with_capacity(self.buckets.len());
        let turn = self.turn.lock();
        self.ask(call, saturating_nanos(limit), now)?;
        // What fails now does so for a full line, or for what has happened to a bucket from outside since it was asked.
        let rejected = self.buckets.iter().find_map(|bucket| match bucket.reserve_at(call, limit, now) {
            Ok(reservation) => {
                reservations.push(reservation);
                None
            }
            Err(rejected) => Some(rejected),
        });
        drop(turn);
        if let Some(rejected) = rejected {
            // Dropping the reservations made so far gives their tokens back.
            return Err(rejected);
        }
        for reservation in &mut reservations {
            reservation.turn().await?;
        }
        // Used only when all are there: who leaves before gives back to all. The whole has a permit of its own.
        for reservation in reservations {
            reservation.into_permit().into_ticket();
        }
        Ok(())
    }
}

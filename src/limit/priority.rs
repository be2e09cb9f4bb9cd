//! One rate shared by classes of priority: [`PriorityBucket`].
//!
//! For a limit that all customers share and that must not fail the important ones first: premium, standard, basic. When
//! **not** to use it: to give each class a fixed limit of its own (that is a [`TokenBucket`](crate::TokenBucket) for
//! each: nobody may then use what another leaves); among callers of equal rank, who need a bucket for each caller.
//!
//! One bucket for the whole, and within it one for each class's reserve, filled by the class's share of the rate: what
//! lies in the whole and in no reserve is common. (The *borrowing* of hierarchical token buckets, S. Floyd and V. Jacobson,
//! "Link-sharing and Resource Management Models for Packet Networks", 1995, with no one else's unspent reserve to lend.)

use std::time::Duration;

use super::change::Carry;
use super::quota::Quota;
use super::shares::{Limits, Refusal, Shares};
use crate::call::Call;
use crate::clock::{Clock, NEVER};
use crate::error::{BadSetting, Reason, Rejected};
use crate::event::{Event, Hook, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket, until};
use crate::setters::setters;
use crate::sync::{Mutex, const_fn};

/// Admits so many calls per second, shared by classes of [priority](Call::priority): a lower class is shed first, and
/// none can starve another of the share that is reserved for it.
///
/// A call belongs to the first class whose priority it reaches; calls below all of them form a last class without a
/// share. Each share of the rate flows into the class's reserve, which holds that share of *half* of the burst, at least a
/// token. What else flows in, and what a full reserve cannot hold, is common. A call takes from its class's reserve
/// first, and the rest from what is common. Of that the highest class may take all, the last one only what leaves half of
/// it (as it is when nothing is missing), and those between in proportion; so a lower class goes without before a higher
/// one does.
///
/// # What is promised
///
/// - In any time `t` no more than `burst + rate × t` is admitted, whatever the mix.
/// - A class that keeps within its share is never refused: a call is admitted whenever it and all that was admitted of its
///   class fit a bucket of the class's share of the rate and of half of the burst, whatever the other classes do.
/// - Nothing is wasted: a class that is alone is admitted at the whole rate, also without a share. Held back from it is
///   only a burst: the others' reserves, and what it must leave of the common tokens.
///
/// A call that [settles](Permit::settle) for more than its estimate puts the whole into debt; the second promise holds
/// again when that is paid.
///
/// A call is rejected as [`RateLimited`](Reason::RateLimited) if the whole has too few tokens, and as
/// [`Shed`](Reason::Shed) if there are enough but they are kept for others; in both cases with the time after which it is
/// admitted if no other call comes first, and without one if it asks for more than it can ever get.
///
/// There is no line to wait in. Who waits at a [`TokenBucket`](crate::TokenBucket) has taken tokens in advance, which is
/// why its time is known and nobody passes; here a higher class has to pass, again and again, so a lower one could be
/// promised no time. Let a [`Retry`](crate::Retry) wait, which obeys the time that a rejection tells.
///
/// # Cost
///
/// One reading of the clock and a short critical section, with some arithmetic for each class. No allocation.
///
/// # Examples
///
/// ```
/// use floodwall::{Call, Clock, Gate, PriorityBucket, Reason};
///
/// static API: PriorityBucket = PriorityBucket::per_second(100)
///     .class(200, 0.5) // premium, from priority 200 up: half of the rate is theirs
///     .class(100, 0.3); // standard; all others have no share, and may use what is left
/// assert!(API.try_acquire().is_ok());
///
/// let api = PriorityBucket::per_second(100).class(200, 0.5).class(100, 0.3).clock(Clock::manual());
/// let (premium, basic) = (Call::new().priority(200), Call::new().priority(0));
/// while api.try_acquire_for(basic).is_ok() {}
/// assert_eq!(api.try_acquire_for(basic).unwrap_err().reason(), Reason::Shed);
/// assert!(api.try_acquire_for(premium).is_ok());
/// ```
#[derive(Debug)]
pub struct PriorityBucket {
    /// As it was built; its classes stay.
    limits: Limits,
    state: Mutex<State>,
    clock: Clock,
    hook: Hook,
}

#[derive(Debug)]
struct State {
    shares: Shares,
    /// What holds instead of the limits that it was built with.
    changed: Option<Box<Limits>>,
}

impl PriorityBucket {
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
        /// Creates a full bucket into which `tokens` flow per `period`, evenly, and which holds as many.
        ///
        /// # Panics
        ///
        /// If `tokens` is 0, more than 1,000 per nanosecond of `period`, or more than 2⁴⁰; if `period` is zero or over 292
        /// years.
        #[track_caller]
        pub fn per(tokens: u64, period: Duration) -> Self {
            Self {
                limits: Limits::new(tokens, period),
                state: Mutex::new(State { shares: Shares::FULL, changed: None }),
                clock: Clock::system(),
                hook: Hook::unnamed(),
            }
        }
    }

    const_fn! {
        /// Lets the bucket hold `tokens`, so that as many calls may start at once. Default: the tokens of one period.
        ///
        /// Call it before `class`, which looks at it.
        ///
        /// # Panics
        ///
        /// If `tokens` is 0 or more than 2⁴⁰; if there are classes already.
        #[track_caller]
        #[must_use = "returns the changed bucket"]
        pub fn burst(mut self, tokens: u64) -> Self {
            self.limits = self.limits.with_burst(tokens);
            self
        }
    }

    const_fn! {
        /// Adds a class, below those before it: calls of this priority and above, for which `share` of the rate is
        /// reserved. Default: all calls are one class.
        ///
        /// # Panics
        ///
        /// If `priority` is not below that of the class before; if `share` is not between 0 and 1, or all shares are more
        /// than 1; if the reserves leave nothing of the burst that is common; if there are 8 classes already.
        #[track_caller]
        #[must_use = "returns the changed bucket"]
        pub fn class(mut self, priority: u8, share: f64) -> Self {
            self.limits = self.limits.with_class(priority, share);
            self
        }
    }

    setters!("bucket");

    /// Returns how many tokens a call of this priority could take now.
    ///
    /// ```
    /// use floodwall::{Clock, PriorityBucket};
    ///
    /// let bucket = PriorityBucket::per_second(100).class(200, 0.5).clock(Clock::manual());
    /// assert_eq!(bucket.available(200), 100);
    /// assert_eq!(bucket.available(199), 38); // 25 are reserved for the others, 37 common ones must be left
    /// ```
    pub fn available(&self, priority: u8) -> u64 {
        let now = self.clock.nanos();
        self.look(|limits, shares| {
            shares.advance(limits, now);
            shares.available(limits, limits.class_of(priority))
        })
    }

    /// Returns what is left for calls of this priority, and when there is more if no other call comes.
    ///
    /// Its limit is what they can take at once when nothing is missing, its window the time in which so much flows in.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Call, Clock, Gate, PriorityBucket};
    ///
    /// let bucket = PriorityBucket::per_second(100).class(200, 0.5).clock(Clock::manual());
    /// bucket.try_acquire_for(Call::new().priority(0).cost(30))?.success();
    /// let quota = bucket.quota(0);
    /// assert_eq!((quota.limit, quota.remaining, quota.window), (38, 8, Duration::from_millis(380)));
    /// assert_eq!(quota.more_after, Duration::from_millis(10));
    /// # Ok::<(), floodwall::Rejected>(())
    /// ```
    pub fn quota(&self, priority: u8) -> Quota {
        let (now, class) = (self.clock.nanos(), self.limits.class_of(priority));
        self.look(|limits, shares| {
            let (limit, window) = limits.alone(class);
            let behind = shares.advance(limits, now);
            // While a reserve fills there may be more than when all are full.
            let remaining = shares.available(limits, class).min(limit);
            let more_after = if remaining == limit {
                0
            } else {
                shares.more_after(limits, class, remaining).saturating_add(behind)
            };
            Quota {
                name: self.hook.name,
                limit,
                window: Duration::from_nanos(window),
                remaining,
                more_after: Duration::from_nanos(more_after),
            }
        })
    }

    /// Changes the rate to `tokens` per `period` in bursts of `burst`, and carries over what was taken as `carry` says.
    ///
    /// The classes keep their shares; a reserve that has become larger is filled by its share of the new rate.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Call, Carry, Clock, Gate, PriorityBucket};
    ///
    /// let bucket = PriorityBucket::per_second(100).class(200, 0.5).clock(Clock::manual());
    /// bucket.try_acquire_for(Call::new().priority(200).cost(40))?.success();
    /// bucket.set_rate(1_000, Duration::from_secs(1), 1_000, Carry::Scaled).unwrap();
    /// assert_eq!(bucket.available(200), 600);
    /// # Ok::<(), floodwall::Rejected>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If a setting makes no sense: the one at which the constructor would panic. Nothing is changed then.
    ///
    /// # Cost
    ///
    /// An allocation.
    pub fn set_rate(
        &self,
        tokens: u64,
        period: Duration,
        burst: u64,
        carry: Carry,
    ) -> Result<(), BadSetting> {
        let new = Box::new(self.limits.changed(tokens, period, burst)?);
        let now = self.clock.nanos();
        let mut state = self.state.lock();
        let State { shares, changed } = &mut *state;
        shares.change(changed.as_deref().unwrap_or(&self.limits), &new, carry, now);
        *changed = Some(new);
        Ok(())
    }

    fn look<R>(&self, look: impl FnOnce(&Limits, &mut Shares) -> R) -> R {
        let mut state = self.state.lock();
        let State { shares, changed } = &mut *state;
        look(changed.as_deref().unwrap_or(&self.limits), shares)
    }

    fn take(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        let now = self.clock.nanos();
        if call.deadline != NEVER && now >= call.deadline {
            return Err(Rejected::new(self.hook.name, Reason::DeadlineExceeded));
        }
        let class = self.limits.class_of(call.priority);
        let decision = self.look(|limits, shares| shares.take(limits, class, call.cost, now));
        match decision {
            Ok(()) => Ok(Permit::new(self, Ticket::new((class as u64) << 32 | u64::from(call.cost), call))),
            Err(Refusal { reason, wait }) => {
                let rejected = Rejected::new(self.hook.name, reason);
                Err(wait.map_or(rejected, |wait| rejected.after(Duration::from_nanos(wait))))
            }
        }
    }
}

impl Gate for PriorityBucket {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        self.hook.admission(self.take(call))
    }

    fn release(&self, _ticket: Ticket, outcome: Outcome) {
        self.hook.emit(Event::Finished(outcome));
    }

    fn settle(&self, ticket: &mut Ticket, actual: u32) {
        let (class, estimate) = ((ticket.word() >> 32) as usize, ticket.word() as u32);
        ticket.set_word((class as u64) << 32 | u64::from(actual));
        let now = self.clock.nanos();
        self.look(|limits, shares| shares.settle(limits, class, estimate, actual, now));
    }

    fn residual(&self) -> Option<Residual> {
        let now = self.clock.nanos();
        let wait = self.look(|limits, shares| {
            let behind = shares.advance(limits, now);
            Some(shares.until_full(limits)).filter(|wait| *wait > 0).map(|wait| wait.saturating_add(behind))
        });
        wait.map(|wait| until(now.saturating_add(wait)))
    }
}

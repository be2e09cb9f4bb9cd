//! At most so many calls at once: [`Bulkhead`].
//!
//! A slow dependency must not take every thread, connection and byte of memory with it: cap the calls that run, and
//! refuse or queue the rest. When **not** to use it: to limit calls per second (that is a
//! [`TokenBucket`](crate::TokenBucket)); where nobody knows how many the dependency can take (that is
//! [`AdaptiveConcurrency`](crate::AdaptiveConcurrency)); or to share a resource that a pool already counts.
//!
//! A counting semaphore with a fair, bounded line (the *bulkhead* pattern: M. Nygard, "Release It!", 2007).

use std::time::Duration;

use crate::acquire::Acquire;
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{BadSetting, Reason, Rejected, absurd};
use crate::event::{Event, Hook, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket};
use crate::semaphore::{Ask, Semaphore};
use crate::setters::setters;
use crate::sync::const_fn;
use crate::wait::{Turn, WaitList};

/// Lets at most `max` calls run at once.
///
/// In a stack it rejects a call at once when it is full; with
/// [`wait_up_to`](Acquire::wait_up_to) the call waits its turn. By hand, [`try_acquire`](Gate::try_acquire) never
/// waits, [`acquire`](Acquire::acquire) and [`acquire_blocking`](Acquire::acquire_blocking) do. Tasks and threads
/// wait in one line, first come first served, and nobody passes it.
///
/// Every call takes one place, whatever its [`cost`](Call::cost): costs are tokens of rate limits. With
/// [`by_cost`](Self::by_cost) a call takes as many places as it costs.
///
/// # Cost
///
/// One atomic operation to enter and one to leave, and none to be refused; no lock is taken, no clock is read and nothing
/// allocated. While somebody waits, each is a short critical section instead, and the line allocates as it grows to its
/// longest.
///
/// # Examples
///
/// ```
/// use floodwall::{Blocking, Bulkhead, Gate, Reason};
///
/// static DISK: Bulkhead = Bulkhead::new(1);
///
/// let written = DISK.call_blocking(|| {
///     assert_eq!(DISK.try_acquire().unwrap_err().reason(), Reason::BulkheadFull);
///     Ok::<_, std::io::Error>(3)
/// });
/// assert_eq!(written.unwrap(), 3);
/// ```
#[derive(Debug)]
pub struct Bulkhead {
    places: Semaphore,
    by_cost: bool,
    clock: Clock,
    hook: Hook,
}

impl Bulkhead {
    const_fn! {
        /// Creates a bulkhead for `max` calls at once.
        ///
        /// # Panics
        ///
        /// If `max` is 0.
        #[track_caller]
        pub fn new(max: usize) -> Self {
            if max == 0 {
                absurd("max", 0, MUST_BE_SOME);
            }
            Self {
                places: Semaphore::new(max as u64, Self::MAX_WAITING),
                by_cost: false,
                clock: Clock::system(),
                hook: Hook::unnamed(),
            }
        }
    }

    const MAX_WAITING: usize = 1024;

    /// Lets at most `waiting` calls wait for their turn; more are rejected. Default: 1,024.
    #[must_use = "returns the changed bulkhead"]
    pub fn max_waiting(self, waiting: usize) -> Self {
        self.places.change_list(|list| list.set_limit(waiting));
        self
    }

    /// Lets a call take as many places as it [costs](Call::cost): `max` is then a sum of costs, such as bytes of memory.
    /// Default: one place for each call.
    ///
    /// A call that must wait for many places holds back those behind it, so that small ones cannot starve it. One that
    /// costs more than `max` is rejected at once, also if it waits already when `max` shrinks. A call of cost 0 takes no
    /// place, and waits its turn like others. [`settle`](Permit::settle) corrects an estimate: it gives places back, or
    /// takes more although there may be none.
    ///
    /// ```
    /// use floodwall::{Bulkhead, Call, Gate};
    ///
    /// let memory = Bulkhead::new(1_000).by_cost();
    /// let mut upload = memory.try_acquire_for(Call::new().cost(700))?;
    /// assert!(memory.try_acquire_for(Call::new().cost(400)).is_err());
    /// upload.settle(600);
    /// assert!(memory.try_acquire_for(Call::new().cost(400)).is_ok());
    /// # Ok::<(), floodwall::Rejected>(())
    /// ```
    #[must_use = "returns the changed bulkhead"]
    pub const fn by_cost(mut self) -> Self {
        self.by_cost = true;
        self
    }

    /// Serves the newest waiter first, and drops the oldest one for a new one when the line is full. Default: first come,
    /// first served.
    ///
    /// For overload: the oldest waiters are those whose callers have given up most likely. An old waiter, or one that
    /// needs many places, may then wait for ever; give them a limit to wait for.
    #[must_use = "returns the changed bulkhead"]
    pub fn newest_first(self) -> Self {
        self.places.change_list(WaitList::serve_newest_first);
        self
    }

    setters!("bulkhead");

    /// Changes how many calls may run at once, at run time.
    ///
    /// Growing serves as many waiters as fit. Shrinking takes no place from a call that runs: [`running`](Self::running)
    /// may be above the new `max` for a while, and no call is admitted until enough have ended.
    ///
    /// ```
    /// use floodwall::{Bulkhead, Gate};
    ///
    /// let bulkhead = Bulkhead::new(2);
    /// let (first, _second) = (bulkhead.try_acquire().unwrap(), bulkhead.try_acquire().unwrap());
    /// bulkhead.set_max(1)?;
    /// assert_eq!((bulkhead.running(), bulkhead.max()), (2, 1));
    /// first.success();
    /// assert!(bulkhead.try_acquire().is_err());
    /// # Ok::<(), floodwall::BadSetting>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If `max` is 0; nothing changes then.
    pub fn set_max(&self, max: usize) -> Result<(), BadSetting> {
        if max == 0 {
            return Err(BadSetting::new("max", 0, MUST_BE_SOME));
        }
        self.places.replace_max(max as u64);
        self.places.serve();
        Ok(())
    }

    /// Returns how many calls may run at once.
    pub fn max(&self) -> usize {
        self.places.max() as usize
    }

    /// Returns how many calls run now; with [`by_cost`](Self::by_cost), what they cost together.
    pub fn running(&self) -> usize {
        self.places.running() as usize
    }

    /// Returns how many calls wait now.
    pub fn waiting(&self) -> usize {
        self.places.waiting()
    }

    fn ask(&self, call: Call) -> Ask {
        Ask::places(if self.by_cost { call.cost.into() } else { 1 })
    }

    fn permit(&self, ask: Ask, call: Call) -> Permit<'_> {
        Permit::new(self, Ticket::new(ask.places, call))
    }

    // Out of the way, so that what it needs of the stack costs no admission anything.
    #[cold]
    fn full(&self) -> Rejected {
        let rejected = self.refused(Reason::BulkheadFull);
        self.hook.emit(Event::Rejected(rejected));
        rejected
    }

    fn refused(&self, reason: Reason) -> Rejected {
        Rejected::new(self.hook.name, reason)
    }
}

const MUST_BE_SOME: &str = "must be at least 1";

impl Gate for Bulkhead {
    #[inline]
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        let mut ask = self.ask(call);
        match self.places.try_enter(&mut ask) {
            Turn::Served => {
                self.hook.emit(Event::Admitted);
                Ok(self.permit(ask, call))
            }
            Turn::NotYet | Turn::Never => Err(self.full()),
        }
    }

    fn release(&self, ticket: Ticket, outcome: Outcome) {
        self.places.leave(ticket.word());
        self.hook.emit(Event::Finished(outcome));
    }

    fn settle(&self, ticket: &mut Ticket, actual: u32) {
        if !self.by_cost {
            return;
        }
        let (estimate, actual) = (ticket.word(), u64::from(actual));
        ticket.set_word(actual);
        if actual > estimate {
            self.places.overrun(actual - estimate);
        } else {
            self.places.leave(estimate - actual);
        }
    }

    fn residual(&self) -> Option<Residual> {
        self.places.in_use().then_some(Residual::InUse)
    }
}

impl Acquire for Bulkhead {
    async fn acquire_within(&self, call: Call, limit: Duration) -> Result<Permit<'_>, Rejected> {
        let entered = self.places.enter(self.ask(call), call, limit, &self.clock).await;
        self.hook.admission(match entered {
            Ok(ask) => Ok(self.permit(ask, call)),
            Err(reason) => Err(self.refused(reason)),
        })
    }
}

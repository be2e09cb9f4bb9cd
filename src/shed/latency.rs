//! Shed calls when they take too long because too many run: [`LatencyShed`].
//!
//! For a server that cannot say how loaded it is, but knows how long a call may take. When **not** to use it: where
//! calls take very different times by their nature (a mean says nothing there: give each kind a gate of its own); to
//! find the best number of calls at once (that is an adaptive concurrency limit); for calls that hang, which a
//! [`Timeout`](crate::Timeout) ends.
//!
//! As BBR shedding does (Alibaba's Sentinel, go-kratos' aegis; after N. Cardwell and others, "BBR: Congestion-based
//! congestion control", 2016), it multiplies the highest rate at which calls were served by a time, which gives how
//! many can be in flight for that long each (J. Little, 1961). Theirs is the shortest time seen lately, which forgets
//! what short means when the overload lasts longer than the window; ours is what you ask for.

use std::time::Duration;

use crate::call::Call;
use crate::clock::{Clock, NEVER};
use crate::error::{Reason, Rejected, absurd, saturating_nanos};
use crate::event::{Event, Hook, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket};
use crate::setters::setters;
use crate::sync::{Mutex, const_fn};

/// Sheds calls while those that end take longer than a target, and more are in flight than can end in that time.
///
/// While the mean of the last moments (this slice of the window and the one before) is within the target, every call is
/// admitted, however many run. Above it, as many may be in flight as are served in the target's time at the highest rate
/// that any slice of the [`window`](LatencyShed::window) saw. Calls of lower [`priority`](Call::priority) have to stop
/// earlier: the lowest at half of that, the highest may go half beyond. If none runs, one is always admitted.
///
/// [`Success`](Outcome::Success) counts; a failure only if it took longer than the target, since one that comes fast
/// says nothing about how fast calls are served. A permit dropped after its call's deadline is such a failure.
///
/// # Cost
///
/// A short critical section and one reading of the clock to enter, and as much to leave; above the target, entering
/// also adds up ten slices. No allocation.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Clock, Gate, LatencyShed, Reason};
///
/// let clock = Clock::manual();
/// let shed = LatencyShed::above(Duration::from_millis(100)).clock(clock.clone());
/// // 20 calls a second are served, each in 50 ms; then calls begin to take 500 ms.
/// for _ in 0..20 {
///     let permit = shed.try_acquire()?;
///     clock.advance(Duration::from_millis(50));
///     permit.success();
/// }
/// let slow: Vec<_> = (0..40).map(|_| shed.try_acquire().unwrap()).collect();
/// clock.advance(Duration::from_millis(500));
/// let mut running: Vec<_> = slow.into_iter().skip(1).collect(); // one of them ends
/// assert!(shed.try_acquire().is_ok()); // dropped: it says nothing
/// running.drain(..30).for_each(|permit| permit.success());
/// // 30 in a second are the most so far: 3 calls may be in flight, and 9 are.
/// assert_eq!(shed.try_acquire().unwrap_err().reason(), Reason::Shed);
/// # Ok::<(), floodwall::Rejected>(())
/// ```
#[derive(Debug)]
pub struct LatencyShed {
    core: Mutex<Core>,
    clock: Clock,
    hook: Hook,
}

impl LatencyShed {
    const_fn! {
        /// Sheds while calls take longer than `target` in the mean.
        ///
        /// # Panics
        ///
        /// If `target` is zero.
        #[track_caller]
        pub fn above(target: Duration) -> Self {
            if target.is_zero() {
                absurd("target", 0, "ns must be at least 1 ns");
            }
            let core = Core {
                target: saturating_nanos(target),
                slice: 1_000_000_000,
                slices: [Slice { number: 0, served: 0, ended: 0, time: 0 }; SLICES],
                running: 0,
            };
            Self { core: Mutex::new(core), clock: Clock::system(), hook: Hook::unnamed() }
        }
    }

    /// Remembers for so long how many calls were served, in ten slices. Default: 10 s.
    ///
    /// # Panics
    ///
    /// If `length` is zero.
    #[track_caller]
    #[must_use = "returns the changed gate"]
    pub fn window(self, length: Duration) -> Self {
        if length.is_zero() {
            absurd("window", 0, "ns must be at least 1 ns");
        }
        self.core.lock().slice = saturating_nanos(length).div_ceil(SLICES as u64);
        self
    }

    setters!("gate");

    /// Returns how many calls run now.
    pub fn running(&self) -> usize {
        self.core.lock().running as usize
    }

    /// Returns how many calls of normal priority may be in flight now, or `None` while calls take no longer than the
    /// target.
    pub fn limit(&self) -> Option<usize> {
        let now = self.clock.nanos();
        self.core.lock().limit(now).map(|limit| limit as usize)
    }
}

impl Gate for LatencyShed {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        let now = self.clock.nanos();
        let decision = if now >= call.deadline && call.deadline != NEVER {
            Err(Rejected::new(self.hook.name, Reason::DeadlineExceeded))
        } else {
            self.core
                .lock()
                .admit(call.priority, now)
                .map_err(|wait| Rejected::new(self.hook.name, Reason::Shed).after(Duration::from_nanos(wait)))
        };
        self.hook.admission(decision.map(|()| Permit::new(self, Ticket::new(now, call))))
    }

    fn release(&self, ticket: Ticket, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Abandoned if ticket.is_late(&self.clock) => Outcome::Failure,
            outcome => outcome,
        };
        let now = self.clock.nanos();
        self.core.lock().end(ticket.word(), outcome, now);
        self.hook.emit(Event::Finished(outcome));
    }

    fn residual(&self) -> Option<Residual> {
        (self.core.lock().running > 0).then_some(Residual::InUse)
    }
}

const SLICES: usize = 10;

/// The decision, told the time. What a slice holds is never older than the window, and `running` is the number of
/// permits that are out.
#[derive(Debug)]
struct Core {
    /// In nanoseconds, at least 1, as is the next.
    target: u64,
    slice: u64,
    slices: [Slice; SLICES],
    running: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slice {
    /// The number of the slice on the timeline.
    number: u64,
    served: u64,
    /// Those whose time counts, and how long they took in all.
    ended: u64,
    time: u128,
}

impl Core {
    /// Admits a call, or says in how many nanoseconds some of those in flight should have ended.
    fn admit(&mut self, priority: u8, now: u64) -> Result<(), u64> {
        // Normal priority has the limit, the lowest half of it, the highest half more; each at least 1, as the limit is.
        let room = |limit: u64| (u128::from(limit) * (128 + u128::from(priority))).div_ceil(256) as u64;
        if self.limit(now).is_some_and(|limit| self.running >= room(limit)) {
            return Err(self.target);
        }
        self.running += 1;
        Ok(())
    }

    /// How many calls are served in the target's time at the best rate of the window, if they take longer than that
    /// now. While no slice before this one saw any call end, the rate is not known and nobody is shed.
    fn limit(&self, now: u64) -> Option<u64> {
        let number = now / self.slice;
        // Where this slice and the one before are kept, if they are still there.
        let kept = [number, number.saturating_sub(1)].map(|number| self.slices[Self::place(number)]);
        let recent = kept.iter().filter(|slice| slice.number.saturating_add(1) >= number);
        // In the first slice of all both are the same one, twice over, which changes no mean.
        let (ended, time) = recent.fold((0, 0), |sum, slice| (sum.0 + slice.ended, sum.1 + slice.time));
        if time <= u128::from(ended) * u128::from(self.target) {
            return None;
        }
        let oldest = number.saturating_sub(SLICES as u64 - 1);
        let live = self.slices.iter().filter(|slice| slice.number >= oldest && slice.ended > 0);
        let is_known = live.clone().any(|slice| slice.number < number);
        let served = live.map(|slice| slice.served).max()?;
        let limit = u128::from(served) * u128::from(self.target) / u128::from(self.slice);
        is_known.then_some(u64::try_from(limit).unwrap_or(u64::MAX).max(1))
    }

    const fn place(number: u64) -> usize {
        (number % SLICES as u64) as usize
    }

    fn end(&mut self, start: u64, outcome: Outcome, now: u64) {
        // A ticket that somebody made up cannot take it below zero, at which it would shed for ever.
        self.running = self.running.saturating_sub(1);
        let took = now.saturating_sub(start);
        let served = match outcome {
            Outcome::Success => 1,
            Outcome::Failure if took > self.target => 0,
            _ => return,
        };
        let number = now / self.slice;
        let slice = &mut self.slices[Self::place(number)];
        // A clock that went back counts into the newer slice.
        if slice.number < number {
            *slice = Slice { number, served: 0, ended: 0, time: 0 };
        }
        slice.served += served;
        slice.ended += 1;
        slice.time += u128::from(took);
    }
}

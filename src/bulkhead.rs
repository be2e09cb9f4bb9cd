//! At most so many calls at once: [`Bulkhead`].
//!
//! A slow dependency must not take every thread, connection and byte of memory with it: cap the calls that run, and
//! refuse or queue the rest. When **not** to use it: to limit calls per second (that is a
//! [`TokenBucket`](crate::TokenBucket)), or to share a resource that a pool already counts.
//!
//! A counting semaphore with a fair, bounded line (the *bulkhead* pattern: M. Nygard, "Release It!", 2007).

use std::time::Duration;

use crate::acquire::Acquire;
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{Reason, Rejected, absurd};
use crate::event::{Event, Hook, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket};
use crate::setters::setters;
use crate::sync::{Mutex, const_fn};
use crate::wait::{Line, Wait, WaitList, Waited, serve_waiters};

/// Lets at most `max` calls run at once.
///
/// In a stack it rejects a call at once when it is full; with
/// [`wait_up_to`](Acquire::wait_up_to) the call waits its turn. By hand, [`try_acquire`](Gate::try_acquire) never
/// waits, [`acquire`](Acquire::acquire) and [`acquire_blocking`](Acquire::acquire_blocking) do. Tasks and threads
/// wait in one line, first come first served, and nobody passes it.
///
/// Every call takes one place, whatever its [`cost`](Call::cost): costs are tokens of rate limits.
///
/// # Cost
///
/// A short critical section to enter and one to leave; no clock is read and nothing allocated, but for the line
/// itself as it grows to its longest.
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
    core: Mutex<Core>,
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
                absurd("max", 0, "must be at least 1");
            }
            let core = Core { max, running: 0, waiting: WaitList::bounded(Self::MAX_WAITING) };
            Self { core: Mutex::new(core), clock: Clock::system(), hook: Hook::unnamed() }
        }
    }

    const MAX_WAITING: usize = 1024;

    /// Lets at most `waiting` calls wait for their turn; more are rejected. Default: 1,024.
    #[must_use = "returns the changed bulkhead"]
    pub fn max_waiting(self, waiting: usize) -> Self {
        self.core.lock().waiting.set_limit(waiting);
        self
    }

    setters!("bulkhead");

    /// Returns how many calls may run at once.
    pub fn max(&self) -> usize {
        self.core.lock().max
    }

    /// Returns how many calls run now.
    pub fn running(&self) -> usize {
        self.core.lock().running
    }

    /// Returns how many calls wait now.
    pub fn waiting(&self) -> usize {
        self.core.lock().waiting.len()
    }

    fn permit(&self, call: Call) -> Permit<'_> {
        Permit::new(self, Ticket::new(0, call))
    }

    fn too_late(&self) -> Rejected {
        Rejected::new(self.hook.name, Reason::DeadlineExceeded)
    }

    fn full(&self) -> Rejected {
        Rejected::new(self.hook.name, Reason::BulkheadFull)
    }
}

impl Gate for Bulkhead {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        let served = self.core.lock().serve_newcomer(&mut ());
        self.hook.admission(if served { Ok(self.permit(call)) } else { Err(self.full()) })
    }

    fn release(&self, _ticket: Ticket, outcome: Outcome) {
        let mut core = self.core.lock();
        core.take_back(());
        serve_waiters(&self.core, core);
        self.hook.emit(Event::Finished(outcome));
    }

    fn residual(&self) -> Option<Residual> {
        let core = self.core.lock();
        (core.running > 0 || !core.waiting.is_empty()).then_some(Residual::InUse)
    }
}

impl Acquire for Bulkhead {
    async fn acquire_within(&self, call: Call, limit: Duration) -> Result<Permit<'_>, Rejected> {
        if self.core.lock().serve_newcomer(&mut ()) {
            return self.hook.admission(Ok(self.permit(call)));
        }
        let patience = self.clock.after(limit);
        let waited = Wait::new(&self.core, &self.clock, patience.min(call.deadline), ()).await;
        self.hook.admission(match waited {
            Waited::Served(()) => Ok(self.permit(call)),
            Waited::TooLate if call.deadline <= patience => Err(self.too_late()),
            Waited::Full | Waited::TooLate => Err(self.full()),
        })
    }
}

#[derive(Debug)]
struct Core {
    max: usize,
    running: usize,
    waiting: WaitList<()>,
}

/// `running` never exceeds `max`: it grows only in `serve`, under the lock, and each growth is taken back once, by the
/// permit or by the waiter that never saw it.
impl Line for Core {
    type Slot = ();

    fn waiters(&mut self) -> &mut WaitList<()> {
        &mut self.waiting
    }

    fn serve(&mut self, (): &mut ()) -> bool {
        let free = self.running < self.max;
        self.running += usize::from(free);
        free
    }

    fn take_back(&mut self, (): ()) {
        self.running = self.running.saturating_sub(1);
    }
}

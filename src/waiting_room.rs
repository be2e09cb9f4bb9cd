//! A queue of callers before a limited number of places: [`WaitingRoom`].
//!
//! Where a [`Bulkhead`](crate::Bulkhead) lets callers wait in one fair line, here they wait in a [`Queue`], with all that it
//! can do: priorities, deadlines, CoDel, newest first under overload. When **not** to use it: where a short fair line will
//! do, a bulkhead takes no lock while there is room; to hand over work rather than to wait for leave to do it oneself (that
//! is a [`Queue`], or [`Workers`](crate::Workers)).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::acquire::Acquire;
use crate::call::Call;
use crate::clock::{NEVER, Sleep};
use crate::error::{BadSetting, Reason, Rejected, absurd};
use crate::event::{DropReason, Event, Hook, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket};
use crate::queue::{Queue, QueueStats};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Lets at most so many calls run at once; the others wait in a [`Queue`] and are served, or shed, as it says.
///
/// In a stack a call waits for its place as long as its deadline allows; by hand, [`acquire`](Acquire::acquire) waits,
/// [`try_acquire`](Gate::try_acquire) never does. A call's priority, deadline and cost are those of its
/// [`Call`]. What the queue refuses or drops is [rejected](Rejected): full, shed, too late. A caller that leaves gives up
/// its place in the queue, and makes room there when it is needed.
///
/// The queue's clock, name and observer are the room's.
///
/// # Cost
///
/// While there are places, one atomic operation to enter, one to leave, and a look at the queue under its lock. Who waits
/// costs an allocation and some short critical sections.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Call, Policy, Priorities, Queue, Timeout, WaitingRoom};
///
/// let queue = Queue::new(200)
///     .priorities(Priorities::default())
///     .codel(Duration::from_millis(5), Duration::from_millis(100));
/// let stack = (Timeout::new(Duration::from_secs(2)), WaitingRoom::new(64, queue));
/// let answer = stack.call_with(Call::new().priority(200), |_| async { Ok::<_, ()>(42) });
/// assert_eq!(floodwall::block_on(answer), Ok(42));
/// ```
pub struct WaitingRoom {
    queue: Queue<Waiting>,
    running: AtomicU64,
    max: AtomicU64,
    /// How many in the queue have left.
    left: Arc<AtomicU64>,
    hook: Hook,
}

/// A caller that waits in the queue of a [`WaitingRoom`].
pub struct Waiting {
    seat: Arc<Seat>,
    call: Call,
}

/// What a caller and its place in the queue share.
struct Seat {
    state: Mutex<SeatState>,
    left: Arc<AtomicU64>,
}

enum SeatState {
    Waiting(Option<Waker>),
    Granted,
    Refused(Rejected),
    /// The caller has left while it waited.
    Left,
    /// It has heard the decision.
    Over,
}

const MUST_BE_SOME: &str = "must be at least 1";

impl WaitingRoom {
    /// Creates a room for `max` calls at once, before which callers wait in `queue`.
    ///
    /// # Panics
    ///
    /// If `max` is 0.
    #[track_caller]
    pub fn new(max: usize, queue: Queue<Waiting>) -> Self {
        if max == 0 {
            absurd("max", 0, MUST_BE_SOME);
        }
        let left = Arc::new(AtomicU64::new(0));
        let (queue, hook) = queue.silent();
        let queue = queue.of_wanted(left.clone(), Waiting::is_wanted, |waiting, why, name| {
            waiting.seat.decide(SeatState::Refused(Rejected::new(
                name,
                match why {
                    DropReason::Expired => Reason::DeadlineExceeded,
                    _ => Reason::Shed,
                },
            )));
        });
        Self { queue, running: AtomicU64::new(0), max: AtomicU64::new(max as u64), left, hook }
    }

    /// Changes how many calls may run at once, at run time. Growing lets in who waits; shrinking takes no place from a call
    /// that runs.
    ///
    /// # Errors
    ///
    /// If `max` is 0; nothing changes then.
    pub fn set_max(&self, max: usize) -> Result<(), BadSetting> {
        if max == 0 {
            return Err(BadSetting::new("max", 0, MUST_BE_SOME));
        }
        self.max.store(max as u64, Ordering::Release);
        self.serve();
        Ok(())
    }

    /// Returns how many calls may run at once.
    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed) as usize
    }

    /// Returns how many calls run now.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed) as usize
    }

    /// Returns what the queue has done and who is in it.
    pub fn stats(&self) -> QueueStats {
        self.queue.stats()
    }

    /// Lets nobody in any more who has to wait; those who wait are still served.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Takes a place if there is one.
    fn take(&self) -> bool {
        let more = |running| (running < self.max.load(Ordering::Acquire)).then_some(running + 1);
        self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn give_back(&self) {
        let fewer = |running: u64| Some(running.saturating_sub(1));
        let _ = self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer);
    }

    /// Gives places to those who wait, as long as there are both.
    ///
    /// Why nobody is missed: who joins the queue looks for a place afterwards, and who gives one back looks at the queue
    /// afterwards, under its lock. So whoever of the two comes second sees the other.
    fn serve(&self) {
        while !self.queue.is_empty() && self.take() {
            let is_taken = self.queue.try_pop().is_ok_and(|waiting| waiting.seat.decide(SeatState::Granted));
            if !is_taken {
                self.give_back();
            }
        }
    }

    fn leave(&self) {
        self.give_back();
        self.serve();
    }

    fn permit(&self, call: Call) -> Permit<'_> {
        Permit::new(self, Ticket::new(0, call))
    }

    fn refused(&self, reason: Reason) -> Rejected {
        Rejected::new(self.hook.name, reason)
    }

    /// Takes a place unless there is none, or others wait.
    fn enters(&self) -> bool {
        self.queue.is_empty() && self.take()
    }

    async fn wait(&self, call: Call, limit: Duration) -> Result<(), Rejected> {
        let clock = self.queue.clock_ref();
        let patience = clock.after(limit);
        let until = patience.min(call.deadline);
        let state = Mutex::new(SeatState::Waiting(None));
        let seat = Arc::new(Seat { state, left: self.left.clone() });
        let sleep = (until != NEVER).then(|| clock.sleep_until_nanos(until));
        let wait = Wait { room: self, seat: seat.clone(), sleep: sleep.map(Box::pin) };
        self.queue.try_push_for(Waiting { seat, call }, call.tightened(until))?;
        self.serve();
        match wait.await {
            Some(decision) => decision,
            None if call.deadline <= patience => Err(self.refused(Reason::DeadlineExceeded)),
            None => Err(self.refused(Reason::BulkheadFull)),
        }
    }
}

impl Waiting {
    /// Returns what the caller asks for: its priority, deadline and cost.
    pub const fn call(&self) -> Call {
        self.call
    }

    fn is_wanted(&self) -> bool {
        !matches!(*self.seat.state.lock(), SeatState::Left)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.seat.decide(SeatState::Refused(Rejected::new("", Reason::Closed))) {
            self.seat.forget();
        }
    }
}

impl Seat {
    /// Tells a caller that still waits what was decided; returns false if none does.
    fn decide(&self, decision: SeatState) -> bool {
        let mut state = self.state.lock();
        match &mut *state {
            SeatState::Waiting(waker) => {
                let waker = waker.take();
                *state = decision;
                drop(state);
                if let Some(waker) = waker {
                    waker.wake();
                }
                true
            }
            _ => false,
        }
    }

    /// Hears that its place in the queue is gone.
    fn forget(&self) {
        let mut state = self.state.lock();
        if let SeatState::Left = *state {
            *state = SeatState::Over;
            drop(state);
            self.left.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The future of a caller in the queue: the decision, or `None` when its time is over.
struct Wait<'a> {
    room: &'a WaitingRoom,
    seat: Arc<Seat>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Future for Wait<'_> {
    type Output = Option<Result<(), Rejected>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Wakers are user code: cloned before the lock is taken, dropped after it is released.
        let mut waker = Some(context.waker().clone());
        let mut state = self.seat.state.lock();
        let decided = match &mut *state {
            SeatState::Waiting(place) => {
                std::mem::swap(place, &mut waker);
                None
            }
            SeatState::Granted => Some(Ok(())),
            SeatState::Refused(rejected) => Some(Err(*rejected)),
            SeatState::Left | SeatState::Over => panic!("a wait that has ended is not polled again"),
        };
        if decided.is_some() {
            *state = SeatState::Over;
        }
        drop(state);
        drop(waker);
        if decided.is_some() {
            return Poll::Ready(decided);
        }
        match &mut self.sleep {
            // Granted just now, it is given back as this is dropped.
            Some(sleep) => sleep.as_mut().poll(context).map(|()| None),
            None => Poll::Pending,
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut state = self.seat.state.lock();
        match std::mem::replace(&mut *state, SeatState::Over) {
            SeatState::Waiting(waker) => {
                *state = SeatState::Left;
                drop(state);
                self.seat.left.fetch_add(1, Ordering::Relaxed);
                drop(waker);
            }
            SeatState::Granted => {
                drop(state);
                self.room.leave();
            }
            SeatState::Refused(_) | SeatState::Left | SeatState::Over => {}
        }
    }
}

impl Gate for WaitingRoom {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        let entered = if self.enters() { Ok(()) } else { Err(self.refused(Reason::BulkheadFull)) };
        self.hook.admission(entered.map(|()| self.permit(call)))
    }

    fn release(&self, _: Ticket, outcome: Outcome) {
        self.leave();
        self.hook.emit(Event::Finished(outcome));
    }

    fn residual(&self) -> Option<Residual> {
        (self.running() > 0 || !self.queue.is_empty()).then_some(Residual::InUse)
    }
}

impl Acquire for WaitingRoom {
    async fn acquire_within(&self, call: Call, limit: Duration) -> Result<Permit<'_>, Rejected> {
        let entered = if self.enters() { Ok(()) } else { self.wait(call, limit).await };
        self.hook.admission(entered.map(|()| self.permit(call)))
    }
}

impl fmt::Debug for WaitingRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitingRoom")
            .field("name", &self.hook)
            .field("running", &self.running())
            .field("max", &self.max())
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("call", &self.call).finish_non_exhaustive()
    }
}

//! One job, from both sides: [`Job`] for the one who waits for its result, [`Work`] for the one who runs it.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::call::Call;
use crate::error::{Error, Reason, Rejected};
use crate::park::block_on;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Waits for the result of a job; made by [`Workers::try_run`](super::Workers::try_run) and its siblings.
///
/// Dropped, it says that nobody wants the result any more: a job that has not started then never does.
/// [`detach`](Job::detach) lets it run all the same.
///
/// # Errors
///
/// - [`Error::Inner`] if it was started and did not end: it panicked, or its worker was dropped under way.
/// - [`Error::Rejected`] if it was not started: it was shed by the queue or its deadline passed first, or the workers were
///   shut down.
///
/// # Cancel safety
///
/// Dropping it skips the job, as said above.
///
/// # Examples
///
/// ```
/// use floodwall::Workers;
///
/// let workers = Workers::threads(2);
/// let sum = workers.try_run(async { (1..=100).sum::<u32>() })?;
/// assert_eq!(sum.wait_blocking().unwrap(), 5_050);
/// # Ok::<(), floodwall::Rejected>(())
/// ```
#[must_use = "a job whose handle is dropped is skipped unless it runs already"]
pub struct Job<R> {
    slot: Arc<Slot<R>>,
}

/// Why a job that was started has no result.
#[non_exhaustive]
pub enum JobError {
    /// It panicked, with this payload.
    Panicked(Box<dyn Any + Send>),
    /// The worker, or the [`Work::run`] that it ran in, was dropped under way.
    Dropped,
}

impl fmt::Debug for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JobError::Panicked(_) => "Panicked",
            JobError::Dropped => "Dropped",
        })
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobError::Panicked(payload) => match message(payload.as_ref()) {
                Some(message) => write!(f, "the job panicked: {message}"),
                None => f.write_str("the job panicked"),
            },
            JobError::Dropped => f.write_str("the job was dropped under way"),
        }
    }
}

impl std::error::Error for JobError {}

fn message(payload: &(dyn Any + Send)) -> Option<&str> {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

/// What both sides share.
struct Slot<R> {
    state: Mutex<State<R>>,
    /// How many of the jobs in the queue are wanted by nobody any more.
    left: Arc<AtomicU64>,
}

struct State<R> {
    step: Step<R>,
    /// The handle still waits, or has said that the job is to run without it.
    is_wanted: bool,
    is_detached: bool,
    waker: Option<Waker>,
}

enum Step<R> {
    Queued,
    Running,
    Ended(Result<R, Error<JobError>>),
    /// The result was handed over.
    Over,
}

impl<R> Slot<R> {
    /// Notes the end of the job and wakes who waits for it.
    fn end(&self, result: Result<R, Error<JobError>>) {
        let mut state = self.state.lock();
        if let Step::Ended(_) | Step::Over = state.step {
            return;
        }
        let waker = state.waker.take();
        let unheard = if state.is_wanted && !state.is_detached {
            state.step = Step::Ended(result);
            None
        } else {
            state.step = Step::Over;
            Some(result)
        };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        // The result of a job may panic when it is dropped, and that must not take the worker along.
        quietly(|| drop(unheard));
    }
}

/// Runs what may panic, and forgets with what.
pub(super) fn quietly(run: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
        // A payload may panic when it is dropped, too: leaked, it cannot.
        std::mem::forget(payload);
    }
}

/// The side of the one who runs it, whatever its result is.
trait Place: Send + Sync {
    /// Returns whether somebody wants the job.
    fn is_wanted(&self) -> bool;
    /// Notes that the job starts; returns false if nobody wants it.
    fn start(&self) -> bool;
    /// Ends a job that was not started.
    fn refuse(&self, rejected: Rejected);
    /// Ends a job that comes to no end of its own.
    fn give_up(&self);
}

impl<R: Send> Place for Slot<R> {
    fn is_wanted(&self) -> bool {
        self.state.lock().is_wanted
    }

    fn start(&self) -> bool {
        let mut state = self.state.lock();
        if !state.is_wanted {
            state.step = Step::Over;
            drop(state);
            self.left.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        state.step = Step::Running;
        true
    }

    fn refuse(&self, rejected: Rejected) {
        let mut state = self.state.lock();
        if !state.is_wanted && matches!(state.step, Step::Queued) {
            state.step = Step::Over;
            self.left.fetch_sub(1, Ordering::Relaxed);
        }
        drop(state);
        self.end(Err(Error::Rejected(rejected)));
    }

    fn give_up(&self) {
        let is_running = matches!(self.state.lock().step, Step::Running);
        if is_running {
            self.end(Err(Error::Inner(JobError::Dropped)));
        } else {
            self.refuse(Rejected::new("", Reason::Closed));
        }
    }
}

impl<R> Job<R> {
    /// Blocks this thread until the job has ended, and returns its result.
    ///
    /// # Errors
    ///
    /// As awaiting it.
    pub fn wait_blocking(self) -> Result<R, Error<JobError>> {
        block_on(self)
    }

    /// Returns whether the job has ended: to wait for it takes no time.
    pub fn is_finished(&self) -> bool {
        matches!(self.slot.state.lock().step, Step::Ended(_) | Step::Over)
    }

    /// Lets the job run although nobody waits for its result.
    pub fn detach(self) {
        self.slot.state.lock().is_detached = true;
    }

    /// Says that nobody wants the result, and returns whether that was in time: then the job never starts.
    ///
    /// One that runs already runs on, and what it returns is dropped.
    pub fn cancel(self) -> bool {
        self.leave()
    }

    fn leave(&self) -> bool {
        let mut state = self.slot.state.lock();
        if state.is_detached || !state.is_wanted {
            return false;
        }
        state.is_wanted = false;
        let in_time = matches!(state.step, Step::Queued);
        let (waker, result) = (state.waker.take(), take_result(&mut state.step));
        drop(state);
        if in_time {
            self.slot.left.fetch_add(1, Ordering::Relaxed);
        }
        drop((waker, result));
        in_time
    }
}

fn take_result<R>(step: &mut Step<R>) -> Option<Result<R, Error<JobError>>> {
    if !matches!(step, Step::Ended(_)) {
        return None;
    }
    match std::mem::replace(step, Step::Over) {
        Step::Ended(result) => Some(result),
        _ => None,
    }
}

impl<R> Future for Job<R> {
    type Output = Result<R, Error<JobError>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Wakers are user code: cloned before the lock is taken, dropped after it is released.
        let waker = context.waker().clone();
        let mut state = self.slot.state.lock();
        if let Some(result) = take_result(&mut state.step) {
            drop(state);
            return Poll::Ready(result);
        }
        assert!(!matches!(state.step, Step::Over), "a job that has ended is not polled again");
        let old = state.waker.replace(waker);
        drop(state);
        drop(old);
        Poll::Pending
    }
}

impl<R> Drop for Job<R> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<R> fmt::Debug for Job<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("is_finished", &self.is_finished()).finish_non_exhaustive()
    }
}

/// A job that has not run: what stands in the queue of [`Workers`](super::Workers), and what comes back from a
/// [`shutdown`](super::Workers::shutdown) in time.
///
/// Run it elsewhere, and who waits for it gets its result; drop it, and he is told that it was
/// [refused](Reason::Closed).
pub struct Work {
    job: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
    place: Arc<dyn Place>,
    call: Call,
}

impl Work {
    pub(super) fn new<F>(job: F, call: Call, left: &Arc<AtomicU64>) -> (Self, Job<F::Output>)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let state = State { step: Step::Queued, is_wanted: true, is_detached: false, waker: None };
        let slot = Arc::new(Slot { state: Mutex::new(state), left: left.clone() });
        let job = Some(Box::pin(guarded(job, slot.clone())) as Pin<Box<dyn Future<Output = bool> + Send>>);
        (Self { job, place: slot.clone(), call }, Job { slot })
    }

    /// Returns what was asked for the job: its priority, deadline and cost.
    pub const fn call(&self) -> Call {
        self.call
    }

    /// Returns whether somebody waits for the result, or it was [detached](Job::detach).
    pub fn is_wanted(&self) -> bool {
        self.place.is_wanted()
    }

    /// Runs the job, unless nobody wants it any more.
    ///
    /// # Cancel safety
    ///
    /// Dropped under way, the future drops the job, and who waits for it is told so.
    pub async fn run(self) {
        if self.start() {
            self.finish().await;
        }
    }

    /// Runs the job on this thread, unless nobody wants it any more.
    pub fn run_blocking(self) {
        block_on(self.run());
    }

    pub(super) fn start(&self) -> bool {
        self.place.start()
    }

    /// Runs the job that was started; returns whether it panicked.
    pub(super) async fn finish(mut self) -> bool {
        match &mut self.job {
            Some(job) => job.await,
            None => false,
        }
    }

    /// Tells who waits for the job that it does not run.
    pub(super) fn refuse(&self, rejected: Rejected) {
        self.place.refuse(rejected);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let job = self.job.take();
        quietly(|| drop(job));
        self.place.give_up();
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("is_wanted", &self.is_wanted()).finish_non_exhaustive()
    }
}

/// Runs a job to its end, whatever that is; returns whether it panicked.
async fn guarded<F: Future>(job: F, slot: Arc<Slot<F::Output>>) -> bool {
    let mut job = pin!(Some(job));
    let result = poll_fn(|context| {
        let step = AssertUnwindSafe(|| match job.as_mut().as_pin_mut() {
            Some(job) => job.poll(context),
            None => Poll::Pending,
        });
        match catch_unwind(step) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => Poll::Ready(Err(payload)),
        }
    })
    .await;
    quietly(|| job.set(None));
    let has_panicked = result.is_err();
    slot.end(result.map_err(|payload| Error::Inner(JobError::Panicked(payload))));
    has_panicked
}

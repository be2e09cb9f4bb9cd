//! Threads or tasks that do jobs from a bounded queue: [`Workers`].
//!
//! For work that may come faster than it can be done: hashing, rendering, calls to a slow server. The queue in front says
//! what gives then. When **not** to use it: for a handful of calls that need a limit and no thread of their own (that is a
//! [`Bulkhead`](crate::Bulkhead)); to split one computation over all cores, which work-stealing pools do better; for jobs
//! that must survive the process.

mod crew;
mod job;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crew::{Counts, Crew, Worker};
pub use job::{Job, JobError, Work};

use crate::call::Call;
use crate::error::{BadSetting, Reason, Rejected, absurd};
use crate::event::DropReason;
use crate::park::block_on;
use crate::queue::{Queue, QueueStats};
use crate::sync::{AtomicU64, Ordering};

/// Does jobs from a bounded [`Queue`], on threads or in tasks.
///
/// A job is a future: on a thread it may block as it likes, so `async move { .. }` around plain code will do; in a task it
/// must not. [`try_run`](Self::try_run), [`run`](Self::run) and [`run_blocking`](Self::run_blocking) put it into the queue and
/// return a [`Job`] to wait for its result with. A job whose handle was dropped, or whose
/// [deadline](Call::deadline) has passed, is not started. A panic ends the job and not the worker.
///
/// When the queue is full a job is refused, and the rejection says after what time there will probably be room, by the
/// rate at which jobs come out now: what an HTTP server answers with 503 and `Retry-After`. All that a
/// [`Queue`] can do is set on it, and by [`grow_to`](WorkersBuilder::grow_to) more workers come when jobs would have to
/// wait.
///
/// Dropped, it lets nothing in any more; what is in the queue is still done. Use [`shutdown`](Self::shutdown) to wait for
/// that.
///
/// # Cost
///
/// Two allocations and some short critical sections for each job.
///
/// # Examples
///
/// ```
/// use floodwall::{Call, Priorities, Queue, Workers};
///
/// let workers =
///     Workers::builder().queue(Queue::new(100).priorities(Priorities::default())).threads(2);
/// let urgent = Call::new().priority(250);
/// let job = workers.try_run_for(urgent, async { "done".len() })?;
/// assert_eq!(job.wait_blocking().unwrap(), 4);
/// # Ok::<(), floodwall::Rejected>(())
/// ```
pub struct Workers {
    crew: Arc<Crew>,
    /// How many jobs in the queue are wanted by nobody any more.
    left: Arc<AtomicU64>,
    caller_runs: bool,
}

/// Configures [`Workers`]; made by [`Workers::builder`].
#[must_use = "no workers until threads or tasks are said"]
#[derive(Debug)]
pub struct WorkersBuilder {
    queue: Queue<Work>,
    max: usize,
    keepalive: Duration,
    caller_runs: bool,
}

impl Workers {
    /// How many jobs wait at most, unless a queue is set.
    const WAITING: usize = 1_024;

    /// Starts `count` threads, with a queue for 1,024 jobs.
    ///
    /// # Panics
    ///
    /// As [`WorkersBuilder::threads`].
    #[cfg(not(floodwall_loom))]
    #[track_caller]
    pub fn threads(count: usize) -> Self {
        Self::builder().threads(count)
    }

    /// Configures workers.
    pub fn builder() -> WorkersBuilder {
        WorkersBuilder {
            queue: Queue::new(Self::WAITING),
            max: 0,
            keepalive: Duration::from_secs(10),
            caller_runs: false,
        }
    }

    /// Puts a job into the queue if there is room. Never waits.
    ///
    /// # Errors
    ///
    /// If the queue refuses it: full, shed by priority, too late for its deadline, or closed. The job is dropped.
    pub fn try_run<F>(&self, job: F) -> Result<Job<F::Output>, Rejected>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.try_run_for(Call::new(), job)
    }

    /// Puts a job into the queue if there is room, with what `call` asks for it. Never waits.
    ///
    /// # Errors
    ///
    /// As [`try_run`](Self::try_run).
    pub fn try_run_for<F>(&self, call: Call, job: F) -> Result<Job<F::Output>, Rejected>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (work, job) = Work::new(job, call, &self.left);
        self.crew.queue.try_push_for(work, call)?;
        self.crew.grow();
        Ok(job)
    }

    /// Puts a job into the queue, and waits for room.
    ///
    /// # Errors
    ///
    /// As [`run_for`](Self::run_for).
    ///
    /// # Cancel safety
    ///
    /// As [`run_for`](Self::run_for).
    pub async fn run<F>(&self, job: F) -> Result<Job<F::Output>, Rejected>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.run_for(Call::new(), job).await
    }

    /// Puts a job into the queue, with what `call` asks for it, and waits for room at most until the call's deadline.
    ///
    /// # Errors
    ///
    /// As [`try_run`](Self::try_run); with [`DeadlineExceeded`](Reason::DeadlineExceeded) if there was no room in time. The
    /// job is dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the job, or leaves it in the queue to be skipped.
    pub async fn run_for<F>(&self, call: Call, job: F) -> Result<Job<F::Output>, Rejected>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (work, job) = Work::new(job, call, &self.left);
        let queue = &self.crew.queue;
        if self.caller_runs {
            match queue.try_push_for(work, call) {
                Ok(()) => {}
                Err(error) if error.reason() == Reason::QueueFull => self.crew.serve(error.into_item()).await,
                Err(error) => return Err(error.into()),
            }
        } else {
            queue.push_for(work, call).await?;
        }
        self.crew.grow();
        Ok(job)
    }

    /// Puts a job into the queue, and blocks this thread until there is room.
    ///
    /// # Errors
    ///
    /// As [`run_for`](Self::run_for).
    pub fn run_blocking<F>(&self, job: F) -> Result<Job<F::Output>, Rejected>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        block_on(self.run(job))
    }

    /// Puts a job into the queue, and blocks this thread until there is room, at most until the call's deadline.
    ///
    /// # Errors
    ///
    /// As [`run_for`](Self::run_for).
    pub fn run_blocking_for<F>(&self, call: Call, job: F) -> Result<Job<F::Output>, Rejected>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        block_on(self.run_for(call, job))
    }

    /// Lets nothing in any more, waits until all that is in the queue is done and the workers have ended, at most for
    /// `limit`, and returns what was not started by then.
    ///
    /// Jobs that run when the time is over run on, and so do their workers.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::Workers;
    ///
    /// let workers = Workers::threads(1);
    /// let job = workers.try_run(async { 7 })?;
    /// let rest = workers.shutdown_blocking(Duration::from_secs(60));
    /// assert_eq!((rest.unrun.len(), rest.running), (0, 0));
    /// assert_eq!(job.wait_blocking().unwrap(), 7);
    /// assert!(workers.try_run(async { 8 }).is_err());
    /// # Ok::<(), floodwall::Rejected>(())
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the queue closed; what is in it is still done. It may be called again.
    pub async fn shutdown(&self, limit: Duration) -> Shutdown {
        self.crew.queue.close();
        self.crew.tell_if_over();
        // Closed once the last worker has ended; else the time is over.
        let _ = self.crew.ended.pop_within(limit).await;
        let mut unrun = self.crew.queue.close_now();
        unrun.retain(Work::is_wanted);
        Shutdown { unrun, running: self.crew.counts.running.load(Ordering::Relaxed) as usize }
    }

    /// As [`shutdown`](Self::shutdown), blocking this thread.
    pub fn shutdown_blocking(&self, limit: Duration) -> Shutdown {
        block_on(self.shutdown(limit))
    }

    /// Changes how many jobs may wait, at run time.
    ///
    /// # Errors
    ///
    /// As [`Queue::set_capacity`].
    pub fn set_capacity(&self, capacity: usize) -> Result<(), BadSetting> {
        self.crew.queue.set_capacity(capacity)
    }

    /// Returns what the workers have done and what they do.
    pub fn stats(&self) -> WorkersStats {
        let Counts { alive, idle, running, finished, panicked, skipped, expired } = &self.crew.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let queue = self.crew.queue.stats();
        WorkersStats {
            workers: read(alive) as usize,
            idle: read(idle) as usize,
            running: read(running) as usize,
            finished: read(finished),
            panicked: read(panicked),
            skipped: read(skipped) + queue.dropped(DropReason::Abandoned),
            expired: read(expired) + queue.dropped(DropReason::Expired),
            queue,
        }
    }
}

/// What a [shutdown](Workers::shutdown) leaves.
#[derive(Debug)]
#[non_exhaustive]
pub struct Shutdown {
    /// The jobs that were not started and that somebody still waits for, in the order in which they would have come.
    pub unrun: Vec<Work>,
    /// How many jobs still run.
    pub running: usize,
}

/// A snapshot of [`Workers`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkersStats {
    /// How many workers there are.
    pub workers: usize,
    /// How many of them wait for a job.
    pub idle: usize,
    /// How many jobs run.
    pub running: usize,
    /// How many jobs came to their end.
    pub finished: u64,
    /// How many jobs panicked.
    pub panicked: u64,
    /// How many jobs were not started since nobody waited for them any more.
    pub skipped: u64,
    /// How many jobs were not started since their deadline had passed.
    pub expired: u64,
    /// What the queue in front of the workers has done.
    pub queue: QueueStats,
}

impl WorkersBuilder {
    /// Puts `queue` in front of the workers; its clock, name and observer are theirs, too. Default: one for 1,024 jobs,
    /// first in, first out.
    ///
    /// Its events are told besides those of the workers: [`Finished`](crate::Event::Finished) for each job, as a failure if
    /// it panicked, and [`Dropped`](crate::Event::Dropped) for one that is not started.
    pub fn queue(mut self, queue: Queue<Work>) -> Self {
        self.queue = queue;
        self
    }

    /// Starts further workers, up to `max`, when more jobs wait than workers. Default: there are always as many.
    pub const fn grow_to(mut self, max: usize) -> Self {
        self.max = max;
        self
    }

    /// Ends a worker that is more than the smallest number when it was idle for so long. Default: 10 seconds.
    pub const fn keepalive(mut self, idle: Duration) -> Self {
        self.keepalive = idle;
        self
    }

    /// Lets the caller of [`run`](Workers::run) or [`run_blocking`](Workers::run_blocking) do the job himself when the queue
    /// is full, which keeps him from making more. Default: he waits for room.
    pub const fn caller_runs(mut self) -> Self {
        self.caller_runs = true;
        self
    }

    /// Starts `count` threads.
    ///
    /// # Panics
    ///
    /// If `count` is 0 and [`grow_to`](Self::grow_to) is not set, or if the system starts none of them.
    #[cfg(not(floodwall_loom))]
    #[track_caller]
    pub fn threads(self, count: usize) -> Workers {
        let workers = self.start(count, |worker| {
            let thread = crate::sync::thread::Builder::new().name("worker".to_owned());
            thread.spawn(move || block_on(worker)).is_ok()
        });
        let started = workers.crew.counts.alive.load(Ordering::Relaxed);
        assert!(count == 0 || started > 0, "the system starts no thread");
        workers
    }

    /// Starts `count` tasks: `spawn` is called for each, and again whenever another one is needed.
    ///
    /// ```
    /// use floodwall::Workers;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let workers = Workers::builder().grow_to(8).tasks(2, |worker| drop(tokio::spawn(worker)));
    /// let job = workers.run(async { 40 + 2 }).await?;
    /// assert_eq!(job.await.unwrap(), 42);
    /// # Ok::<(), floodwall::Rejected>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Panics
    ///
    /// If `count` is 0 and [`grow_to`](Self::grow_to) is not set.
    #[track_caller]
    pub fn tasks(self, count: usize, spawn: impl Fn(Worker) + Send + Sync + 'static) -> Workers {
        self.start(count, move |worker| {
            spawn(worker);
            true
        })
    }

    #[track_caller]
    fn start(self, count: usize, start: impl Fn(Worker) -> bool + Send + Sync + 'static) -> Workers {
        let max = self.max.max(count);
        if max == 0 {
            absurd("count", 0, "must be at least 1");
        }
        let left = Arc::new(AtomicU64::new(0));
        let queue = self.queue.of_wanted(left.clone(), Work::is_wanted, |work, why, name| {
            work.refuse(Rejected::new(
                name,
                match why {
                    DropReason::Expired => Reason::DeadlineExceeded,
                    _ => Reason::Shed,
                },
            ));
        });
        let crew = Arc::new(Crew {
            ended: Queue::new(1).clock(queue.clock_ref().clone()),
            queue,
            min: count as u64,
            max: max as u64,
            keepalive: self.keepalive,
            start: Box::new(start),
            counts: Counts::default(),
        });
        crew.muster();
        Workers { crew, left, caller_runs: self.caller_runs }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.crew.queue.close();
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats();
        f.debug_struct("Workers")
            .field("workers", &stats.workers)
            .field("running", &stats.running)
            .field("queue", &self.crew.queue)
            .finish_non_exhaustive()
    }
}

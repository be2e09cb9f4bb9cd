//! Those who run the jobs: how many they are, when another one comes and when one leaves.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::job::Work;
use crate::clock::NEVER;
use crate::error::{Reason, Rejected};
use crate::event::{DropReason, Event, Outcome};
use crate::queue::{PopError, Queue};
use crate::sync::{AtomicU64, Ordering};

/// One worker, for a thread or a task to run: it ends when the workers are shut down, or when it is one too many.
pub(super) type Worker = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Crew {
    pub(super) queue: Queue<Work>,
    /// Closed by the last worker that leaves a closed queue.
    pub(super) ended: Queue<()>,
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) keepalive: Duration,
    pub(super) start: Box<dyn Fn(Worker) -> bool + Send + Sync>,
    pub(super) counts: Counts,
}

// All atomics are counts that guard nothing (Relaxed), but for `alive` and `idle`: what they say about a job in the queue is
// ordered by the queue's lock. Who pushes a job locks it before it reads them; a worker that is about to leave locks it after
// it has changed them, to look for a job that came meanwhile.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) alive: AtomicU64,
    pub(super) idle: AtomicU64,
    pub(super) running: AtomicU64,
    pub(super) finished: AtomicU64,
    pub(super) panicked: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) expired: AtomicU64,
}

/// Counts for as long as it lives.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A worker's place in the crew; left when it ends, also by a panic or with its task.
struct Member {
    crew: Arc<Crew>,
    is_counted: bool,
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.is_counted {
            self.crew.counts.alive.fetch_sub(1, Ordering::Relaxed);
        }
        self.crew.tell_if_over();
    }
}

impl Crew {
    /// Starts the workers that are always there.
    pub(super) fn muster(self: &Arc<Self>) {
        while self.counts.alive.load(Ordering::Relaxed) < self.min {
            if !self.enlist() {
                break;
            }
        }
    }

    /// Starts another worker if more jobs wait than workers do, and there may be another.
    pub(super) fn grow(self: &Arc<Self>) {
        if self.min < self.max && self.queue.len() as u64 > self.counts.idle.load(Ordering::Relaxed) {
            self.enlist();
        }
    }

    /// Starts a worker unless there are as many as may be; returns whether it did.
    fn enlist(self: &Arc<Self>) -> bool {
        let more = |alive| (alive < self.max).then_some(alive + 1);
        if self.counts.alive.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return false;
        }
        let member = Member { crew: self.clone(), is_counted: true };
        // Not started, it is dropped, and its place with it.
        (self.start)(Box::pin(work(member)))
    }

    /// Gives up a worker's place if there are enough without it, and no job came meanwhile for which nobody was called.
    fn retires(&self) -> bool {
        let alive = &self.counts.alive;
        let fewer = |alive| if alive > self.min { Some(alive - 1) } else { None };
        if alive.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_err() {
            return false;
        }
        let again = |alive| (alive < self.max).then_some(alive + 1);
        self.queue.is_empty() || alive.fetch_update(Ordering::Relaxed, Ordering::Relaxed, again).is_err()
    }

    /// Tells who waits for the end, if it has come.
    pub(super) fn tell_if_over(&self) {
        if self.queue.is_closed() && self.counts.alive.load(Ordering::Relaxed) == 0 {
            self.ended.close();
        }
    }

    pub(super) async fn serve(&self, work: Work) {
        let (counts, hook) = (&self.counts, self.queue.hook());
        let deadline = work.call().deadline;
        if deadline != NEVER && self.queue.clock_ref().nanos() >= deadline {
            counts.expired.fetch_add(1, Ordering::Relaxed);
            work.refuse(Rejected::new(hook.name, Reason::DeadlineExceeded));
            hook.emit(Event::Dropped(DropReason::Expired));
            return;
        }
        if !work.start() {
            counts.skipped.fetch_add(1, Ordering::Relaxed);
            hook.emit(Event::Dropped(DropReason::Abandoned));
            return;
        }
        let running = Counted::new(&counts.running);
        let has_panicked = work.finish().await;
        drop(running);
        let count = if has_panicked { &counts.panicked } else { &counts.finished };
        count.fetch_add(1, Ordering::Relaxed);
        hook.emit(Event::Finished(if has_panicked { Outcome::Failure } else { Outcome::Success }));
    }
}

/// What a worker does all its life.
async fn work(mut member: Member) {
    loop {
        let crew = &member.crew;
        let idle = Counted::new(&crew.counts.idle);
        let popped = if crew.counts.alive.load(Ordering::Relaxed) > crew.min {
            crew.queue.pop_within(crew.keepalive).await
        } else {
            crew.queue.pop().await
        };
        drop(idle);
        match popped {
            Ok(work) => crew.serve(work).await,
            Err(PopError::Empty) if crew.retires() => {
                member.is_counted = false;
                return;
            }
            Err(PopError::Empty) => {}
            Err(PopError::Closed) => return,
        }
    }
}

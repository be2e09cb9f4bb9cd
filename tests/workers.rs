//! Workers: who runs a job, who hears of it, and what is left at the end.
#![cfg(not(floodwall_loom))]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use floodwall::{
    Call, Clock, DropReason, Error, Event, JobError, Outcome, Overflow, Priorities, Queue, Reason, Work,
    Workers, block_on,
};
use support::{millis, poll, secs};

/// Long enough for whatever must come, on a machine with other work.
const LONG: Duration = secs(60);

/// Waits until it is true; for what other threads do next.
fn until(what: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !what() {
        assert!(start.elapsed() < LONG, "it does not come");
        thread::yield_now();
    }
}

/// A job that runs until it is told to end.
fn blocker(workers: &Workers) -> Sender<()> {
    let (end, ends): (Sender<()>, Receiver<()>) = channel();
    let (starts, started) = channel();
    let job = async move {
        starts.send(()).unwrap();
        let _ = ends.recv();
    };
    workers.try_run(job).unwrap().detach();
    started.recv_timeout(LONG).unwrap();
    end
}

fn one_worker(queue: Queue<Work>) -> Workers {
    Workers::builder().queue(queue).threads(1)
}

#[test]
fn jobs_run_on_threads_and_give_their_results() {
    let workers = Workers::threads(3);
    let jobs: Vec<_> = (0..100_u64).map(|n| workers.try_run(async move { n * n }).unwrap()).collect();
    let sum: u64 = jobs.into_iter().map(|job| job.wait_blocking().unwrap()).sum();
    assert_eq!(sum, (0..100).map(|n| n * n).sum::<u64>());
    until(|| workers.stats().finished == 100);
    assert_eq!(workers.stats().queue.popped, 100);
}

#[tokio::test]
async fn jobs_run_in_tasks_and_may_wait_there() {
    let workers = Workers::builder().tasks(2, |worker| drop(tokio::spawn(worker)));
    let (first, second) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let (one, other) = (first.clone(), second.clone());
    // Each waits for the other one: two run at once.
    let ping = workers.run(async move { (one.notify_one(), other.notified().await).1 }).await.unwrap();
    let pong = workers.run(async move { (second.notify_one(), first.notified().await).1 }).await.unwrap();
    ping.await.unwrap();
    pong.await.unwrap();
    assert_eq!(workers.shutdown(LONG).await.unrun.len(), 0);
}

async fn unlucky() {
    panic!("no {}", "luck");
}

/// Trap 30: a panic in a job, in its result's drop, or in the drop of a panic's payload takes no worker along.
#[test]
fn panics_are_told_and_counted_and_kill_no_worker() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !thread::panicking() {
                panic!("dropped");
            }
        }
    }
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let hears = outcomes.clone();
    let queue = Queue::new(100).observe("jobs", move |name: &str, event: Event| {
        if let Event::Finished(outcome) = event {
            hears.lock().unwrap().push((name.to_string(), outcome));
        }
    });
    let workers = Workers::builder().queue(queue).threads(2);
    for _ in 0..10 {
        let job = workers.try_run(unlucky()).unwrap();
        let error: Error<JobError> = job.wait_blocking().unwrap_err();
        assert_eq!(error.to_string(), "the job panicked: no luck");
    }
    let (starts, started) = channel();
    for _ in 0..4 {
        let starts = starts.clone();
        let result = async move {
            starts.send(()).unwrap();
            Bomb
        };
        let job = workers.try_run(result).unwrap();
        started.recv_timeout(LONG).unwrap();
        // Too late to skip it: its result is dropped by the worker, or has come and is dropped here.
        let _ = catch_unwind(AssertUnwindSafe(|| job.cancel()));
        let job = workers.try_run(async { panic_any(Bomb) }).unwrap();
        let _ = catch_unwind(AssertUnwindSafe(|| job.detach()));
    }
    assert_eq!(workers.try_run(async { 1 }).unwrap().wait_blocking().unwrap(), 1);
    until(|| workers.stats().panicked == 14);
    assert_eq!(workers.stats().workers, 2);
    until(|| outcomes.lock().unwrap().len() == 19);
    let failures = outcomes.lock().unwrap().iter().filter(|told| told.1 == Outcome::Failure).count();
    assert_eq!((failures, outcomes.lock().unwrap()[0].0.as_str()), (14, "jobs"));
}

/// Trap 31: a job whose caller has left, or whose time is over, never starts.
#[test]
fn jobs_that_nobody_waits_for_any_more_are_skipped() {
    let clock = Clock::manual();
    let workers = one_worker(Queue::new(10).clock(clock.clone()));
    let end = blocker(&workers);
    let runs = Arc::new(AtomicU64::new(0));
    let count = || {
        let runs = runs.clone();
        async move { runs.fetch_add(1, Ordering::Relaxed) }
    };
    drop(workers.try_run(count()).unwrap());
    assert!(workers.try_run(count()).unwrap().cancel());
    workers.try_run(count()).unwrap().detach();
    let late = Call::new().deadline(clock.now() + secs(1));
    let late = workers.try_run_for(late, count()).unwrap();
    let last = workers.try_run(count()).unwrap();
    clock.advance(secs(1));
    end.send(()).unwrap();
    last.wait_blocking().unwrap();
    let Err(Error::Rejected(rejected)) = late.wait_blocking() else { panic!("it ran") };
    assert_eq!(rejected.reason(), Reason::DeadlineExceeded);
    let stats = workers.stats();
    assert_eq!((runs.load(Ordering::Relaxed), stats.skipped, stats.expired), (2, 2, 1));
}

#[test]
fn a_job_that_runs_cannot_be_cancelled() {
    let workers = Workers::threads(1);
    let (starts, started) = channel();
    let (end, ends) = channel::<()>();
    let has_ended = Arc::new(AtomicBool::new(false));
    let tells = has_ended.clone();
    let job = workers
        .try_run(async move {
            starts.send(()).unwrap();
            ends.recv().unwrap();
            tells.store(true, Ordering::Relaxed);
        })
        .unwrap();
    started.recv_timeout(LONG).unwrap();
    assert!(!job.cancel());
    end.send(()).unwrap();
    until(|| has_ended.load(Ordering::Relaxed));
}

/// Those who have left make room for others, though no worker has come to their jobs.
#[test]
fn a_full_queue_drops_jobs_that_nobody_wants_first() {
    let workers = one_worker(Queue::new(2));
    let end = blocker(&workers);
    let first = workers.try_run(async { 1 }).unwrap();
    let left = workers.try_run(async { 2 }).unwrap();
    assert_eq!(workers.try_run(async { 3 }).unwrap_err().reason(), Reason::QueueFull);
    drop(left);
    let third = workers.try_run(async { 3 }).unwrap();
    end.send(()).unwrap();
    assert_eq!((first.wait_blocking().unwrap(), third.wait_blocking().unwrap()), (1, 3));
    assert_eq!((workers.stats().skipped, workers.stats().queue.dropped(DropReason::Abandoned)), (1, 1));
}

#[test]
fn a_job_that_the_queue_drops_tells_who_waits_for_it() {
    let dropped = Arc::new(Mutex::new(Vec::new()));
    let hears = dropped.clone();
    let queue = Queue::new(1)
        .overflow(Overflow::DropOldest)
        .on_drop(move |_: Work, why| hears.lock().unwrap().push(why))
        .name("jobs");
    let workers = one_worker(queue);
    let end = blocker(&workers);
    let shed = workers.try_run(async { 1 }).unwrap();
    let last = workers.try_run(async { 2 }).unwrap();
    let Err(Error::Rejected(rejected)) = shed.wait_blocking() else { panic!("it ran") };
    assert_eq!((rejected.reason(), rejected.by()), (Reason::Shed, "jobs"));
    assert_eq!(*dropped.lock().unwrap(), [DropReason::Oldest]);
    end.send(()).unwrap();
    assert_eq!(last.wait_blocking().unwrap(), 2);
}

#[test]
fn urgent_jobs_come_first() {
    let workers = one_worker(Queue::new(10).priorities(Priorities::default()));
    let end = blocker(&workers);
    let order = Arc::new(Mutex::new(Vec::new()));
    let jobs: Vec<_> = [10, 250, 100]
        .map(|priority| {
            let order = order.clone();
            let job = async move { order.lock().unwrap().push(priority) };
            workers.try_run_for(Call::new().priority(priority), job).unwrap()
        })
        .into();
    end.send(()).unwrap();
    jobs.into_iter().for_each(|job| job.wait_blocking().unwrap());
    assert_eq!(order.lock().unwrap()[0], 250);
}

/// At one job a second and three ahead, there is room for the next in about three seconds.
#[test]
fn a_rejection_says_when_there_will_be_room() {
    let clock = Clock::manual();
    let workers = one_worker(Queue::new(3).clock(clock.clone()));
    for _ in 0..3 {
        workers.try_run(async {}).unwrap().wait_blocking().unwrap();
    }
    let mut retry_after = None;
    let mut ends = vec![blocker(&workers)];
    for _ in 0..100 {
        // One is always in the queue, so that it is never idle.
        loop {
            let (end, ends_here) = channel::<()>();
            let Ok(job) = workers.try_run(async move { ends_here.recv().is_ok() }) else { break };
            job.detach();
            ends.push(end);
        }
        retry_after = workers.try_run(async {}).unwrap_err().retry_after();
        clock.advance(secs(1));
        let popped = workers.stats().queue.popped;
        ends.remove(0).send(()).unwrap();
        until(|| workers.stats().queue.popped > popped);
    }
    assert_eq!(retry_after, Some(secs(3)));
}

#[test]
fn a_caller_that_finds_no_room_may_run_the_job_itself() {
    let workers = Workers::builder().queue(Queue::new(1)).caller_runs().threads(1);
    let end = blocker(&workers);
    let queued = workers.run_blocking(async { thread::current().id() }).unwrap();
    let own = workers.run_blocking(async { thread::current().id() }).unwrap();
    assert!(own.is_finished());
    assert_eq!(own.wait_blocking().unwrap(), thread::current().id());
    end.send(()).unwrap();
    assert_ne!(queued.wait_blocking().unwrap(), thread::current().id());
}

#[test]
fn more_workers_come_when_jobs_would_wait_and_go_when_they_are_idle() {
    let clock = Clock::manual();
    let queue = Queue::new(100).clock(clock.clone());
    let workers = Workers::builder().queue(queue).grow_to(4).keepalive(secs(10)).threads(1);
    assert_eq!(workers.stats().workers, 1);
    until(|| workers.stats().idle == 1);
    // Four that wait for each other: as many run at once.
    let together = Arc::new(Barrier::new(4));
    let jobs: Vec<_> = (0..4)
        .map(|_| {
            let together = together.clone();
            workers.try_run(async move { together.wait() }).unwrap()
        })
        .collect();
    assert!(jobs.into_iter().all(|job| job.wait_blocking().is_ok()));
    assert_eq!(workers.stats().workers, 4);
    until(|| workers.stats().idle == 4);
    until(|| {
        clock.advance(secs(11));
        workers.stats().workers == 1
    });
    until(|| workers.stats().idle == 1);
    assert_eq!(workers.try_run(async { 7 }).unwrap().wait_blocking().unwrap(), 7);
}

#[test]
fn with_none_at_least_the_first_job_calls_a_worker() {
    let clock = Clock::manual();
    let queue = Queue::new(100).clock(clock.clone());
    let workers = Workers::builder().queue(queue).grow_to(1).keepalive(millis(5)).threads(0);
    for round in 0..200 {
        assert_eq!(workers.try_run(async move { round }).unwrap().wait_blocking().unwrap(), round);
        clock.advance(millis(5));
    }
    assert!(workers.stats().workers <= 1);
}

#[test]
fn a_shutdown_drains_the_queue() {
    let workers = Workers::threads(2);
    let jobs: Vec<_> = (0..50).map(|n| workers.try_run(async move { n }).unwrap()).collect();
    let rest = workers.shutdown_blocking(LONG);
    assert_eq!((rest.unrun.len(), rest.running, workers.stats().workers), (0, 0, 0));
    assert!(jobs.into_iter().enumerate().all(|(n, job)| job.wait_blocking().unwrap() == n));
    assert_eq!(workers.try_run(async {}).unwrap_err().reason(), Reason::Closed);
    assert_eq!(workers.shutdown_blocking(LONG).unrun.len(), 0);
}

/// Trap 32: what a shutdown in time does not get done comes back, and can be run elsewhere, or is refused.
#[test]
fn a_shutdown_whose_time_is_over_returns_what_did_not_run() {
    let clock = Clock::manual();
    let workers = one_worker(Queue::new(10).clock(clock.clone()));
    let end = blocker(&workers);
    let elsewhere = workers.try_run(async { 1 }).unwrap();
    let refused = workers.try_run(async { 2 }).unwrap();
    drop(workers.try_run(async { 3 }).unwrap());
    let mut shutdown = Box::pin(workers.shutdown(secs(5)));
    assert!(poll(&mut shutdown).is_pending());
    clock.advance(secs(5));
    let rest = block_on(shutdown);
    assert_eq!((rest.unrun.len(), rest.running), (2, 1));
    let mut unrun = rest.unrun.into_iter();
    unrun.next().unwrap().run_blocking();
    drop(unrun);
    assert_eq!(elsewhere.wait_blocking().unwrap(), 1);
    let Err(Error::Rejected(rejected)) = refused.wait_blocking() else { panic!("it ran") };
    assert_eq!(rejected.reason(), Reason::Closed);
    end.send(()).unwrap();
    until(|| workers.stats().workers == 0);
}

/// Trap 32: pushers that wait at a queue that is shut down are told.
#[test]
fn who_waits_for_room_hears_of_the_shutdown() {
    let workers = Arc::new(one_worker(Queue::new(1)));
    let end = blocker(&workers);
    workers.try_run(async {}).unwrap().detach();
    let waits = {
        let workers = workers.clone();
        thread::spawn(move || workers.run_blocking(async {}).map(drop))
    };
    until(|| workers.stats().queue.pushing == 1);
    end.send(()).unwrap_or(());
    let rest = workers.shutdown_blocking(LONG);
    assert_eq!(rest.running, 0);
    // It got in before, or was refused.
    let heard = waits.join().unwrap();
    assert!(heard.is_ok() || heard.unwrap_err().reason() == Reason::Closed);
}

#[tokio::test]
async fn a_job_whose_worker_is_aborted_says_so() {
    let tasks = Arc::new(Mutex::new(Vec::new()));
    let keeps = tasks.clone();
    let workers = Workers::builder().tasks(1, move |worker| keeps.lock().unwrap().push(tokio::spawn(worker)));
    let (starts, started) = tokio::sync::oneshot::channel();
    let job = workers.try_run(async move {
        starts.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    started.await.unwrap();
    tasks.lock().unwrap().iter().for_each(|task| task.abort());
    assert!(matches!(job.unwrap().await, Err(Error::Inner(JobError::Dropped))));
    assert_eq!(workers.stats().workers, 0);
    assert_eq!(workers.shutdown(LONG).await.running, 0);
}

#[test]
fn dropped_workers_finish_what_is_in_the_queue() {
    let workers = Workers::threads(1);
    let jobs: Vec<_> = (0..20).map(|n| workers.try_run(async move { n }).unwrap()).collect();
    drop(workers);
    assert!(jobs.into_iter().enumerate().all(|(n, job)| job.wait_blocking().unwrap() == n));
}

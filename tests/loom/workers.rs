//! Models of workers.

use std::time::Duration;

use floodwall::{Clock, Queue, Workers, block_on};
use loom::thread;

use super::model_of;

const IDLE: Duration = Duration::from_secs(1);

fn elastic(clock: &Clock) -> Workers {
    Workers::builder()
        .queue(Queue::new(2).clock(clock.clone()))
        .grow_to(1)
        .keepalive(IDLE)
        .tasks(0, |worker| drop(thread::spawn(move || block_on(worker))))
}

/// The only worker leaves for being idle as a job comes: it stays for it, or another one is called.
#[test]
fn a_job_that_comes_as_the_last_worker_leaves_is_run() {
    model_of(2, || {
        let clock = Clock::manual();
        let workers = elastic(&clock);
        workers.try_run(async {}).unwrap().detach();
        clock.advance(IDLE);
        assert_eq!(workers.try_run(async { 7 }).unwrap().wait_blocking().unwrap(), 7);
    });
}

#[test]
fn a_job_that_is_cancelled_as_it_starts_runs_or_does_not() {
    model_of(2, || {
        let workers = elastic(&Clock::manual());
        let job = workers.try_run(async {}).unwrap();
        let in_time = job.cancel();
        let rest = block_on(workers.shutdown(Duration::MAX));
        assert_eq!((rest.unrun.len(), rest.running), (0, 0));
        let stats = workers.stats();
        assert_eq!((stats.skipped, stats.finished), if in_time { (1, 0) } else { (0, 1) });
    });
}

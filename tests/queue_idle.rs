//! What waiting at a queue takes from the processor: nothing.
//!
//! A thread's processor time is its own, whatever else runs meanwhile: so these hold on a loaded machine, too.
#![cfg(all(target_os = "linux", not(floodwall_loom)))]

mod support;

use std::thread;
use std::time::Duration;

use floodwall::{PopError, Queue, Workers};
use support::millis;

/// The processor time that this thread has used.
#[expect(unsafe_code, reason = "the standard library does not tell it, and procfs only from tick to tick")]
fn used() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the value that is borrowed for it, and nothing else.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Runs it on a thread of its own; returns how much of the processor's time it took.
fn cost(run: impl FnOnce() + Send) -> Duration {
    let run = || {
        let before = used();
        run();
        used() - before
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap())
}

const IDLE: Duration = millis(500);

/// One that spun would take a hundred times as much.
const NOTHING: Duration = millis(5);

/// Trap 34: whoever waits, at either end, as a thread or as a task, with a deadline or without.
#[test]
fn who_waits_uses_no_processor() {
    let tasks = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (empty, full, late) = (Queue::<u32>::new(1), Queue::new(1), Queue::<u32>::new(1));
    full.try_push(0).unwrap();
    let none = Err(PopError::Empty);
    let waits: [(&str, &(dyn Fn() + Sync)); 7] = [
        ("a thread that pops", &|| assert_eq!(empty.pop_blocking(), Err(PopError::Closed))),
        ("a thread that pops in time", &|| assert_eq!(late.pop_blocking_within(IDLE), none)),
        ("a thread that pushes", &|| assert!(full.push_blocking(1).is_err())),
        ("a task that pops", &|| assert_eq!(tasks().block_on(empty.pop()), Err(PopError::Closed))),
        ("a task that pops in time", &|| assert_eq!(tasks().block_on(late.pop_within(IDLE)), none)),
        ("a task that pushes", &|| assert!(tasks().block_on(full.push(1)).is_err())),
        ("two that keep each other company", &|| {
            let (first, second) = (empty.pop(), empty.pop());
            tasks().block_on(async { tokio::join!(first, second) }).0.unwrap_err();
        }),
    ];
    let costs = thread::scope(|scope| {
        let costs = waits.map(|(who, wait)| (who, scope.spawn(move || cost(wait))));
        assert_eq!(late.pop_blocking_within(IDLE), none);
        empty.close();
        full.close();
        costs.map(|(who, cost)| (who, cost.join().unwrap()))
    });
    for (who, cost) in costs {
        assert!(cost < NOTHING, "{who} took {cost:?} of {IDLE:?}");
    }
}

#[test]
fn a_worker_without_a_job_uses_no_processor() {
    let workers = Workers::threads(1);
    let used =
        || workers.try_run(async { (thread::current().id(), used()) }).unwrap().wait_blocking().unwrap();
    let (worker, before) = used();
    assert_eq!(Queue::<()>::new(1).pop_blocking_within(IDLE), Err(PopError::Empty));
    let (same, after) = used();
    assert_eq!(worker, same);
    assert!(after - before < NOTHING, "{:?}", after - before);
}

//! Bulkheads: nobody too many, nobody lost, first come first served.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use floodwall::{
    Acquire, Blocking, Bulkhead, Call, Clock, Error, Gate, Policy, Reason, Rejected, Residual, block_on,
};
use support::{millis, poll, secs};

#[test]
fn it_admits_as_many_as_it_holds() {
    let bulkhead = Bulkhead::new(2).name("disk");
    let first = bulkhead.try_acquire().unwrap();
    let _second = bulkhead.try_acquire().unwrap();
    assert_eq!((bulkhead.max(), bulkhead.running()), (2, 2));
    assert_eq!(bulkhead.try_acquire().unwrap_err(), Rejected::new("disk", Reason::BulkheadFull));
    drop(first);
    assert!(bulkhead.try_acquire().is_ok());
}

#[test]
fn a_call_takes_one_place_whatever_it_costs() {
    let bulkhead = Bulkhead::new(1);
    let permit = bulkhead.try_acquire_for(Call::new().cost(5_000)).unwrap();
    assert_eq!(bulkhead.running(), 1);
    permit.success();
    assert_eq!(bulkhead.running(), 0);
}

#[test]
fn waiters_are_served_in_turn_and_not_passed() {
    let bulkhead = Bulkhead::new(1);
    let permit = bulkhead.try_acquire().unwrap();
    let mut first = Box::pin(bulkhead.acquire());
    let mut second = Box::pin(bulkhead.acquire());
    assert!(poll(&mut first).is_pending());
    assert!(poll(&mut second).is_pending());
    assert_eq!(bulkhead.waiting(), 2);
    permit.success();
    assert!(bulkhead.try_acquire().is_err());
    assert!(poll(&mut second).is_pending());
    let Poll::Ready(Ok(permit)) = poll(&mut first) else { panic!("its turn") };
    drop(permit);
    assert!(poll(&mut second).is_ready());
}

#[test]
fn the_line_is_bounded() {
    let bulkhead = Bulkhead::new(1).max_waiting(1);
    let _permit = bulkhead.try_acquire().unwrap();
    let mut waiter = Box::pin(bulkhead.acquire());
    assert!(poll(&mut waiter).is_pending());
    let Poll::Ready(Err(rejected)) = poll(&mut Box::pin(bulkhead.acquire())) else {
        panic!("the line is full")
    };
    assert_eq!(rejected.reason(), Reason::BulkheadFull);
    let nobody_waits = Bulkhead::new(1).max_waiting(0);
    let _permit = block_on(nobody_waits.acquire()).unwrap();
    assert!(block_on(nobody_waits.acquire()).is_err());
}

#[test]
fn a_waiter_leaves_at_its_deadline() {
    let clock = Clock::manual();
    let bulkhead = Bulkhead::new(1).clock(clock.clone());
    let _permit = bulkhead.try_acquire().unwrap();
    let mut waiter = Box::pin(bulkhead.acquire_for(Call::new().deadline(clock.now() + secs(1))));
    assert!(poll(&mut waiter).is_pending());
    clock.advance(secs(1));
    let Poll::Ready(Err(rejected)) = poll(&mut waiter) else { panic!("too late") };
    assert_eq!(rejected.reason(), Reason::DeadlineExceeded);
    assert_eq!(bulkhead.waiting(), 0);
}

#[test]
fn a_call_whose_time_is_over_does_not_wait() {
    let clock = Clock::manual();
    let bulkhead = Bulkhead::new(1).clock(clock.clone());
    let _permit = bulkhead.try_acquire().unwrap();
    let late = Call::new().deadline(clock.now());
    let refused = block_on(bulkhead.acquire_for(late)).map(drop);
    assert_eq!(refused, Err(Rejected::new("", Reason::DeadlineExceeded)));
    assert_eq!((bulkhead.running(), bulkhead.waiting()), (1, 0));
}

#[test]
fn a_judge_and_a_wait_go_together_in_either_order() {
    let judge = |result: &Result<u16, Error<()>>| match result {
        Ok(500..) => floodwall::Outcome::Failure,
        _ => floodwall::Outcome::Success,
    };
    let clock = Clock::manual();
    let (sender, outcomes) = std::sync::mpsc::channel();
    let bulkhead = Bulkhead::new(1).clock(clock).observe("db", move |_: &str, event: floodwall::Event| {
        if let floodwall::Event::Finished(outcome) = event {
            sender.send(outcome).unwrap();
        }
    });
    let judged_first = (&bulkhead).judge(judge).wait_up_to(secs(1));
    let waits_first = (&bulkhead).wait_up_to(secs(1)).judge(judge);
    let permit = bulkhead.try_acquire().unwrap();
    let mut first = Box::pin(judged_first.call(|| async { Ok(503) }));
    let mut second = Box::pin(waits_first.call(|| async { Ok(503) }));
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
    permit.success();
    assert!(poll(&mut first).is_ready() && poll(&mut second).is_ready());
    let failure = floodwall::Outcome::Failure;
    assert_eq!(outcomes.try_iter().collect::<Vec<_>>(), [floodwall::Outcome::Success, failure, failure]);
}

#[test]
fn in_a_stack_it_rejects_and_wait_up_to_waits() {
    let clock = Clock::manual();
    let bulkhead = Bulkhead::new(1).clock(clock.clone());
    let permit = bulkhead.try_acquire().unwrap();
    let full = Error::Rejected(Rejected::new("", Reason::BulkheadFull));
    assert_eq!(bulkhead.call_blocking(|| Ok::<_, ()>(1)), Err(full));
    let patient = (&bulkhead).wait_up_to(secs(1));
    let mut late = Box::pin(patient.call(|| async { Ok::<_, ()>(1) }));
    let mut served =
        Box::pin(patient.call_with(Call::new(), |call| async move { Ok::<_, ()>(call.expires()) }));
    assert!(poll(&mut late).is_pending());
    clock.advance(secs(1));
    assert_eq!(poll(&mut late), Poll::Ready(Err(Error::Rejected(Rejected::new("", Reason::BulkheadFull)))));
    assert!(poll(&mut served).is_pending());
    permit.success();
    // The limit of the wait is not the operation's deadline.
    assert_eq!(poll(&mut served), Poll::Ready(Ok(None)));
    assert_eq!(patient.running(), 0);
}

#[test]
fn threads_and_tasks_wait_in_one_line() {
    let bulkhead = Bulkhead::new(1);
    let permit = bulkhead.try_acquire().unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| bulkhead.acquire_blocking().map(|permit| permit.success()));
        while bulkhead.waiting() == 0 {
            std::thread::yield_now();
        }
        let mut task = Box::pin(bulkhead.acquire());
        assert!(poll(&mut task).is_pending());
        permit.success();
        thread.join().unwrap().unwrap();
        assert!(poll(&mut task).is_ready());
    });
}

#[test]
fn no_more_than_max_run_under_contention() {
    let bulkhead = Bulkhead::new(3);
    let (running, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let patient = (&bulkhead).wait_up_to(secs(60));
                    let result = patient.call_blocking(|| {
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                        Ok::<_, ()>(())
                    });
                    done.fetch_add(usize::from(result.is_ok()), Ordering::SeqCst);
                }
            });
        }
    });
    assert!(most.into_inner() <= 3);
    assert_eq!(done.into_inner(), 4_000);
    assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_tasks_leave_no_place_taken() {
    let bulkhead = std::sync::Arc::new(Bulkhead::new(2));
    for round in 0..200 {
        let tasks: Vec<_> = (0..6)
            .map(|_| {
                let bulkhead = bulkhead.clone();
                tokio::spawn(async move {
                    let _permit = bulkhead.acquire().await.unwrap();
                    tokio::task::yield_now().await;
                })
            })
            .collect();
        for (number, task) in tasks.into_iter().enumerate() {
            if (round + number) % 3 == 0 {
                task.abort();
            }
            let _ = task.await;
        }
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
    }
}

#[test]
fn what_runs_or_waits_is_a_residual() {
    let bulkhead = Bulkhead::new(1);
    assert_eq!(bulkhead.residual(), None);
    let _permit = bulkhead.try_acquire().unwrap();
    assert_eq!(bulkhead.residual(), Some(Residual::InUse));
}

#[test]
#[should_panic(expected = "max: 0 must be at least 1")]
fn a_bulkhead_for_nobody_is_refused() {
    let _ = Bulkhead::new(0);
}

#[test]
fn the_largest_bulkhead_is_served() {
    let bulkhead = Bulkhead::new(usize::MAX).max_waiting(usize::MAX);
    assert!(bulkhead.try_acquire().is_ok());
    let slept = bulkhead.wait_up_to(millis(1)).call_blocking(|| Ok::<_, ()>(1));
    assert_eq!(slept, Ok(1));
}

//! Bulkheads: nobody too many, nobody lost, first come first served.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use floodwall::{
    Acquire, Blocking, Bulkhead, Call, Clock, Error, Gate, Policy, Reason, Rejected, Residual, block_on,
};
use proptest::prelude::*;
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

fn big(cost: u32) -> Call {
    Call::new().cost(cost)
}

#[test]
fn by_cost_a_call_takes_as_many_places_as_it_costs() {
    let memory = Bulkhead::new(10).by_cost();
    let large = memory.try_acquire_for(big(7)).unwrap();
    assert!(memory.try_acquire_for(big(4)).is_err());
    let small = memory.try_acquire_for(big(3)).unwrap();
    assert_eq!(memory.running(), 10);
    assert!(memory.try_acquire_for(big(0)).is_ok());
    large.success();
    small.success();
    assert_eq!((memory.running(), memory.residual()), (0, None));
}

#[test]
fn a_large_call_holds_back_the_small_ones_behind_it() {
    let memory = Bulkhead::new(4).by_cost();
    let held: Vec<_> = (0..4).map(|_| memory.try_acquire_for(big(1)).unwrap()).collect();
    let mut large = Box::pin(memory.acquire_for(big(3)));
    let mut small = Box::pin(memory.acquire_for(big(1)));
    assert!(poll(&mut large).is_pending() && poll(&mut small).is_pending());
    for (given_back, permit) in held.into_iter().enumerate() {
        assert!(poll(&mut small).is_pending(), "passed the large one after {given_back}");
        assert!(memory.try_acquire_for(big(1)).is_err(), "passed the line after {given_back}");
        assert_eq!(poll(&mut large).is_ready(), given_back == 3);
        permit.success();
    }
    assert!(poll(&mut small).is_ready());
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let memory = Bulkhead::new(4).by_cost();
    let full = Err(Rejected::new("", Reason::BulkheadFull));
    assert_eq!(block_on(memory.acquire_for(big(5))).map(drop), full);
    // Also behind others, who need not be waited for.
    let _held = memory.try_acquire_for(big(4)).unwrap();
    let mut waiter = Box::pin(memory.acquire_for(big(1)));
    assert!(poll(&mut waiter).is_pending());
    assert_eq!(block_on(memory.acquire_for(big(5))).map(drop), full);
    assert_eq!(memory.waiting(), 1);
}

#[test]
fn a_waiter_that_no_longer_fits_is_refused_and_the_next_is_served() {
    let memory = Bulkhead::new(4).by_cost();
    let held = memory.try_acquire_for(big(2)).unwrap();
    let mut large = Box::pin(memory.acquire_for(big(3)));
    let mut small = Box::pin(memory.acquire_for(big(1)));
    assert!(poll(&mut large).is_pending() && poll(&mut small).is_pending());
    memory.set_max(2).unwrap();
    let Poll::Ready(Err(rejected)) = poll(&mut large) else { panic!("it never fits") };
    assert_eq!(rejected.reason(), Reason::BulkheadFull);
    assert!(poll(&mut small).is_pending());
    held.success();
    assert!(poll(&mut small).is_ready());
}

#[test]
fn an_estimate_can_be_settled_and_wakes_who_fits() {
    let memory = Bulkhead::new(10).by_cost();
    let mut permit = memory.try_acquire_for(big(8)).unwrap();
    let mut waiter = Box::pin(memory.acquire_for(big(5)));
    assert!(poll(&mut waiter).is_pending());
    permit.settle(5);
    let Poll::Ready(Ok(other)) = poll(&mut waiter) else { panic!("there is room") };
    permit.settle(12);
    assert_eq!(memory.running(), 17);
    permit.success();
    other.success();
    assert_eq!(memory.running(), 0);
    // Where calls count, their costs are nothing to settle.
    let calls = Bulkhead::new(1);
    let mut permit = calls.try_acquire().unwrap();
    permit.settle(9);
    assert_eq!(calls.running(), 1);
    permit.success();
    assert_eq!(calls.running(), 0);
}

#[test]
fn growing_serves_as_many_as_fit_and_shrinking_takes_places_as_they_come_back() {
    let bulkhead = Bulkhead::new(1);
    let first = bulkhead.try_acquire().unwrap();
    let mut waiters: Vec<_> = (0..4).map(|_| Box::pin(bulkhead.acquire())).collect();
    assert!(waiters.iter_mut().all(|waiter| poll(waiter).is_pending()));
    bulkhead.set_max(3).unwrap();
    assert_eq!((bulkhead.running(), bulkhead.waiting()), (3, 2));
    // The last first: nobody is served because another one has run.
    let mut served = Vec::new();
    for (number, waiter) in waiters.iter_mut().enumerate().rev() {
        match poll(waiter) {
            Poll::Ready(permit) => served.push((number, permit.unwrap())),
            Poll::Pending => assert!(number >= 2),
        }
    }
    assert_eq!(served.len(), 2);

    bulkhead.set_max(1).unwrap();
    assert_eq!((bulkhead.running(), bulkhead.max()), (3, 1));
    first.success();
    served.pop();
    assert_eq!(bulkhead.running(), 1);
    assert!(waiters.iter_mut().skip(2).all(|waiter| poll(waiter).is_pending()));
    served.pop();
    assert!(poll(&mut waiters[2]).is_ready());
    let zero = bulkhead.set_max(0).unwrap_err();
    assert_eq!((zero.to_string().as_str(), bulkhead.max()), ("max: 0 must be at least 1", 1));
}

#[test]
fn newest_first_serves_the_newest_and_drops_the_oldest() {
    let bulkhead = Bulkhead::new(1).max_waiting(2).newest_first();
    let held = bulkhead.try_acquire().unwrap();
    let mut waiters: Vec<_> = (0..3).map(|_| Box::pin(bulkhead.acquire())).collect();
    assert!(waiters.iter_mut().all(|waiter| poll(waiter).is_pending()));
    assert_eq!(bulkhead.waiting(), 2);
    let Poll::Ready(Err(rejected)) = poll(&mut waiters[0]) else { panic!("the line was full") };
    assert_eq!(rejected.reason(), Reason::BulkheadFull);
    held.success();
    assert!(poll(&mut waiters[1]).is_pending());
    let Poll::Ready(Ok(permit)) = poll(&mut waiters[2]) else { panic!("the newest is first") };
    permit.success();
    assert!(poll(&mut waiters[1]).is_ready());
    assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
}

#[test]
fn a_waiter_cancelled_after_it_was_granted_its_place_passes_it_on() {
    let bulkhead = Bulkhead::new(1);
    let held = bulkhead.try_acquire().unwrap();
    let (mut first, mut second) = (Box::pin(bulkhead.acquire()), Box::pin(bulkhead.acquire()));
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
    held.success();
    drop(first);
    assert!(poll(&mut second).is_ready());
    assert_eq!(bulkhead.running(), 0);
}

/// What a bulkhead by cost does, said plainly: who stands in line, and who was granted or refused and has not looked.
struct Twin {
    max: u64,
    running: u64,
    newest_first: bool,
    line: Vec<(usize, u64)>,
    decided: Vec<(usize, u64, bool)>,
}

impl Twin {
    const MAX_WAITING: usize = 4;

    fn fits(&self, cost: u64) -> bool {
        self.running + cost <= self.max
    }

    /// Returns whether it is admitted.
    fn tries(&mut self, cost: u64) -> bool {
        let admitted = self.fits(cost) && (self.newest_first || self.line.is_empty());
        self.running += if admitted { cost } else { 0 };
        admitted
    }

    /// Returns whether it is admitted or refused at once; otherwise it waits.
    fn asks(&mut self, id: usize, cost: u64) -> Option<bool> {
        if cost > self.max || self.tries(cost) {
            return Some(cost <= self.max);
        }
        if self.line.len() == Self::MAX_WAITING {
            if !self.newest_first {
                return Some(false);
            }
            let (oldest, cost) = self.line.pop().unwrap();
            self.decided.push((oldest, cost, false));
        }
        self.line.insert(if self.newest_first { 0 } else { self.line.len() }, (id, cost));
        None
    }

    fn serves(&mut self) {
        while let Some((id, cost)) = self.line.first().copied() {
            if cost <= self.max && !self.fits(cost) {
                break;
            }
            self.line.remove(0);
            self.decided.push((id, cost, cost <= self.max));
            self.running += if cost <= self.max { cost } else { 0 };
        }
    }

    fn gives_up(&mut self, id: usize) {
        self.line.retain(|waiter| waiter.0 != id);
        if let Some(at) = self.decided.iter().position(|waiter| waiter.0 == id) {
            let (_, cost, granted) = self.decided.remove(at);
            self.running -= if granted { cost } else { 0 };
        }
        self.serves();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn places_are_conserved_whatever_happens(
        newest_first: bool,
        steps in prop::collection::vec((0u8..7, 0u32..6, any::<prop::sample::Index>()), 1..150),
    ) {
        let mut bulkhead = Bulkhead::new(3).by_cost().max_waiting(Twin::MAX_WAITING);
        if newest_first {
            bulkhead = bulkhead.newest_first();
        }
        let mut twin = Twin { max: 3, running: 0, newest_first, line: Vec::new(), decided: Vec::new() };
        let (mut waiters, mut permits) = (Vec::new(), Vec::new());
        for (id, (step, cost, index)) in steps.into_iter().enumerate() {
            match step {
                0 => {
                    let permit = bulkhead.try_acquire_for(big(cost));
                    prop_assert_eq!(permit.is_ok(), twin.tries(cost.into()));
                    permits.extend(permit.ok().map(|permit| (cost, permit)));
                }
                1 | 2 => {
                    let mut waiter = Box::pin(bulkhead.acquire_for(big(cost)));
                    let polled = poll(&mut waiter);
                    match twin.asks(id, cost.into()) {
                        None => {
                            prop_assert!(polled.is_pending());
                            waiters.push((id, cost, waiter));
                        }
                        Some(admitted) => match polled {
                            Poll::Ready(permit) => {
                                prop_assert_eq!(permit.is_ok(), admitted);
                                permits.extend(permit.ok().map(|permit| (cost, permit)));
                            }
                            Poll::Pending => prop_assert!(false, "it waits"),
                        },
                    }
                }
                3 if !permits.is_empty() => {
                    let (cost, permit) = permits.swap_remove(index.index(permits.len()));
                    permit.success();
                    twin.running -= u64::from(cost);
                    twin.serves();
                }
                4 if !waiters.is_empty() => {
                    let (id, _, waiter) = waiters.swap_remove(index.index(waiters.len()));
                    drop(waiter);
                    twin.gives_up(id);
                }
                5 if cost > 0 => {
                    bulkhead.set_max(cost as usize).unwrap();
                    twin.max = cost.into();
                    twin.serves();
                }
                6 if !waiters.is_empty() => {
                    let at = index.index(waiters.len());
                    let polled = poll(&mut waiters[at].2);
                    let known = twin.decided.iter().position(|waiter| waiter.0 == waiters[at].0);
                    prop_assert_eq!(polled.is_ready(), known.is_some());
                    if let (Poll::Ready(permit), Some(known)) = (polled, known) {
                        prop_assert_eq!(permit.is_ok(), twin.decided.remove(known).2);
                        let (_, cost, _) = waiters.swap_remove(at);
                        permits.extend(permit.ok().map(|permit| (cost, permit)));
                    }
                }
                _ => {}
            }
            prop_assert_eq!(bulkhead.running() as u64, twin.running);
            prop_assert_eq!(bulkhead.waiting(), twin.line.len());
        }
        drop((waiters, permits));
        prop_assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
        prop_assert_eq!(bulkhead.residual(), None);
    }
}

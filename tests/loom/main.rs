//! Models of what threads share, in every order that three preemptions allow:
//! `RUSTFLAGS="--cfg floodwall_loom" cargo test --test loom --release --features journal`.
//!
//! loom fails a model on a deadlock, so "it is woken" is proved by the model's end. Clocks move while threads run: with
//! a clock that stands still, a time that was read too early is never caught.
#![cfg(floodwall_loom)]

mod breaker;
mod cache;
mod cached_store;
mod flight;
#[cfg(feature = "journal")]
mod journal;
mod keyed_pool;
mod limit;
mod pool;
mod queue;
mod shard;
mod short;
mod waiting_room;
mod workers;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use floodwall::{
    Acquire, AdaptiveConcurrency, AdaptiveRate, AdaptiveThrottle, Blocking, Bulkhead, Cache, Call, Carry,
    CircuitBreaker, Clock, Constant, Event, Failover, FixedWindow, Gate, Hedge, Keyed, LoadShed, Outcome,
    OwnedPermit, Policy, Retry, RetryBudget, SingleFlight, SlidingCounter, State, TokenBucket, block_on,
};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

/// What `src/short.rs` finds under this name in its own crate.
mod sync {
    pub(crate) use loom::cell::UnsafeCell as Guarded;
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};

    pub(crate) fn wait_for_lock(_: u32) {
        loom::thread::yield_now();
    }

    macro_rules! const_fn {
        ($($item:tt)*) => { $($item)* };
    }
    pub(crate) use const_fn;
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    model_of(3, check);
}

/// For models whose steps are too many for three preemptions.
fn model_of(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(check);
}

fn poll<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn waiting(
    bulkhead: &Arc<Bulkhead>,
) -> Pin<Box<impl Future<Output = Result<OwnedPermit, floodwall::Rejected>>>> {
    let mut waiter = Box::pin(OwnedPermit::acquire(bulkhead.clone()));
    assert!(poll(&mut waiter).is_pending());
    waiter
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn no_wake_up_is_lost() {
    model(|| {
        let bulkhead = Arc::new(Bulkhead::new(1));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let bulkhead = bulkhead.clone();
                thread::spawn(move || bulkhead.acquire_blocking().unwrap().success())
            })
            .collect();
        bulkhead.acquire_blocking().unwrap().success();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
    });
}

#[test]
fn a_cancelled_waiter_passes_its_grant_on() {
    model(|| {
        let bulkhead = Arc::new(Bulkhead::new(1));
        let permit = OwnedPermit::try_acquire(bulkhead.clone()).unwrap();
        let cancelled = waiting(&bulkhead);
        let releases = thread::spawn(move || permit.success());
        let next = {
            let bulkhead = bulkhead.clone();
            thread::spawn(move || bulkhead.acquire_blocking().unwrap().success())
        };
        drop(cancelled);
        releases.join().unwrap();
        next.join().unwrap();
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
    });
}

#[test]
fn a_timeout_that_races_a_grant_loses_nothing() {
    model(|| {
        let clock = Clock::manual();
        let bulkhead = Arc::new(Bulkhead::new(1).clock(clock.clone()));
        let permit = OwnedPermit::try_acquire(bulkhead.clone()).unwrap();
        let releases = thread::spawn(move || permit.success());
        let call = Call::new().deadline(clock.now() + SECOND);
        let moves = thread::spawn(move || clock.advance(SECOND));
        if let Ok(permit) = bulkhead.acquire_blocking_for(call) {
            assert_eq!(bulkhead.running(), 1);
            permit.success();
        }
        releases.join().unwrap();
        moves.join().unwrap();
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
        assert!(bulkhead.try_acquire().is_ok());
    });
}

#[test]
fn two_releases_before_the_first_waiter_runs_wake_two() {
    model(|| {
        let bulkhead = Arc::new(Bulkhead::new(2));
        let permits: Vec<_> = (0..2).map(|_| OwnedPermit::try_acquire(bulkhead.clone()).unwrap()).collect();
        let waiters: Vec<_> = (0..2).map(|_| waiting(&bulkhead)).collect();
        let releases: Vec<_> =
            permits.into_iter().map(|permit| thread::spawn(move || permit.success())).collect();
        // Each must be served without the other one having run.
        for waiter in waiters.into_iter().rev() {
            block_on(waiter).unwrap().success();
        }
        releases.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
    });
}

/// Two places appear by a resize while one is given back and a waiter gives up: all who wait are served.
#[test]
fn a_resize_that_races_a_release_and_a_cancel_serves_who_waits() {
    model(|| {
        let bulkhead = Arc::new(Bulkhead::new(1));
        let permit = OwnedPermit::try_acquire(bulkhead.clone()).unwrap();
        let (cancelled, waiter) = (waiting(&bulkhead), waiting(&bulkhead));
        let releases = thread::spawn(move || permit.success());
        let grows = {
            let bulkhead = bulkhead.clone();
            thread::spawn(move || bulkhead.set_max(2).unwrap())
        };
        drop(cancelled);
        block_on(waiter).unwrap().success();
        releases.join().unwrap();
        grows.join().unwrap();
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
    });
}

/// Who joins the line while the bulkhead grows either sees the new place or is seen.
#[test]
fn a_bulkhead_that_grows_wakes_who_joins_meanwhile() {
    model(|| {
        let bulkhead = Arc::new(Bulkhead::new(1));
        let held = bulkhead.try_acquire().unwrap();
        let waits = {
            let bulkhead = bulkhead.clone();
            thread::spawn(move || bulkhead.acquire_blocking().unwrap().success())
        };
        bulkhead.set_max(2).unwrap();
        waits.join().unwrap();
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (1, 0));
        held.success();
    });
}

/// The lock-free way in, beside a line that forms and dissolves: nobody is lost, and nobody is too many.
#[test]
fn newcomers_and_waiters_share_the_places_of_a_bulkhead() {
    model(|| {
        let bulkhead = Arc::new(Bulkhead::new(1));
        let inside = Arc::new(AtomicU64::new(0));
        let enter = |permit: Result<floodwall::Permit<'_>, _>, inside: &AtomicU64| {
            if let Ok(permit) = permit {
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                inside.fetch_sub(1, Ordering::SeqCst);
                permit.success();
                return true;
            }
            false
        };
        let newcomer = {
            let (bulkhead, inside) = (bulkhead.clone(), inside.clone());
            thread::spawn(move || enter(bulkhead.try_acquire(), &inside))
        };
        let waits = {
            let (bulkhead, inside) = (bulkhead.clone(), inside.clone());
            thread::spawn(move || enter(bulkhead.acquire_blocking(), &inside))
        };
        enter(bulkhead.try_acquire(), &inside);
        newcomer.join().unwrap();
        assert!(waits.join().unwrap());
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
        assert_eq!(bulkhead.residual(), None);
    });
}

#[test]
fn no_more_run_than_a_bulkhead_allows() {
    model(|| {
        let bulkhead = Arc::new(Bulkhead::new(1));
        let running = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (bulkhead, running) = (bulkhead.clone(), running.clone());
                thread::spawn(move || {
                    if let Ok(permit) = bulkhead.try_acquire() {
                        assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                        running.fetch_sub(1, Ordering::SeqCst);
                        permit.success();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(bulkhead.running(), 0);
    });
}

#[test]
fn a_sleeper_is_woken_by_a_clock_that_moves_while_it_lies_down() {
    model(|| {
        let clock = Clock::manual();
        let at = clock.now() + SECOND;
        let moves = {
            let clock = clock.clone();
            thread::spawn(move || clock.advance(SECOND))
        };
        block_on(clock.sleep_until(at));
        moves.join().unwrap();
    });
}

/// Two calls of one congestion end at once, an interval apart by their clocks, while a third is admitted: the rate is
/// lowered once, and the bucket holds what it says.
#[test]
fn calls_of_one_congestion_lower_an_adaptive_rate_once() {
    model(|| {
        let clock = Clock::manual();
        let limit = AdaptiveRate::between(1, 8).start(8).aimd(1, 0.5).interval(SECOND).clock(clock.clone());
        let limit = Arc::new(limit);
        let throttled = Outcome::Throttled { retry_after: None };
        let [first, second] = [(), ()].map(|()| OwnedPermit::try_acquire(limit.clone()).unwrap());
        let other = thread::spawn(move || {
            clock.advance(SECOND);
            first.report(throttled);
        });
        second.report(throttled);
        assert!(limit.try_acquire().is_ok());
        other.join().unwrap();
        assert_eq!(limit.rate(), 4.0);
        assert!(limit.available() <= 4);
    });
}

/// A congestion lowers the limit while another call ends and a third waits: no place is lost, and it is lowered once.
#[test]
fn an_adaptive_limit_that_falls_while_calls_end_loses_no_waiter() {
    model(|| {
        let limit = AdaptiveConcurrency::between(1, 2).aimd(1, 0.5).clock(Clock::manual());
        let limit = Arc::new(limit);
        let throttled = Outcome::Throttled { retry_after: None };
        let [first, second] = [(), ()].map(|()| OwnedPermit::try_acquire(limit.clone()).unwrap());
        let other = thread::spawn(move || first.report(throttled));
        let waits = {
            let limit = limit.clone();
            thread::spawn(move || limit.acquire_blocking().unwrap().success())
        };
        second.report(throttled);
        other.join().unwrap();
        waits.join().unwrap();
        assert_eq!((limit.limit(), limit.running(), limit.waiting()), (1, 0, 0));
    });
}

#[test]
fn an_adaptive_limit_that_rises_wakes_who_joins_meanwhile() {
    model(|| {
        let limit = Arc::new(AdaptiveConcurrency::between(1, 1).clock(Clock::manual()));
        let held = OwnedPermit::try_acquire(limit.clone()).unwrap();
        let waits = {
            let limit = limit.clone();
            thread::spawn(move || limit.acquire_blocking().unwrap().success())
        };
        limit.set_between(2, 2).unwrap();
        waits.join().unwrap();
        assert_eq!((limit.limit(), limit.running()), (2, 1));
        held.success();
    });
}

#[test]
fn two_threads_that_meet_a_new_key_share_one_gate() {
    model(|| {
        let limits =
            Keyed::new(|_: &u64| TokenBucket::per_second(1).burst(1).clock(Clock::manual())).max_keys(2);
        let limits = Arc::new(limits.clock(Clock::manual()));
        let other = {
            let limits = limits.clone();
            thread::spawn(move || u32::from(limits.try_acquire(&7).is_ok()))
        };
        let mine = u32::from(limits.try_acquire(&7).is_ok());
        assert_eq!(mine + other.join().unwrap(), 1);
        assert_eq!(limits.len(), 1);
    });
}

/// A breaker's state is under a lock that loom knows; that a gate's last holder is seen is also up to `Arc`, which is
/// the standard library's and which loom does not model.
#[test]
fn a_key_that_is_used_while_room_is_sought_is_not_forgotten() {
    model(|| {
        let clock = Clock::manual();
        let time = clock.clone();
        let hosts =
            Keyed::new(move |_: &u64| CircuitBreaker::builder().failures(1).clock(time.clone()).build());
        let hosts = Arc::new(hosts.max_keys(1).clock(clock));
        // Known, and with nothing to lose: a new key may take its place until it is used.
        drop(hosts.get(&1));
        let flood = {
            let hosts = hosts.clone();
            thread::spawn(move || hosts.try_acquire(&2).map(|permit| permit.success()).is_ok())
        };
        let failed = hosts.try_acquire(&1).map(|permit| permit.failure()).is_ok();
        assert!(!failed || hosts.try_acquire(&1).is_err(), "forgot that it is open");
        assert!(failed | flood.join().unwrap());
        assert_eq!(hosts.len(), 1);
    });
}

#[test]
fn calls_that_fail_at_once_begin_one_rest_and_the_next_one_passes_it_over() {
    model(|| {
        let clock = Clock::manual();
        let failover = Arc::new(Failover::new(2).clock(clock.clone()));
        let ask = |failover: &Failover| {
            let mut asked = Vec::new();
            let answer = failover.call_blocking_with(Call::new(), |call| {
                asked.push(call.alternate());
                if call.alternate() == 0 { Err(()) } else { Ok(()) }
            });
            assert_eq!(answer, Ok(()));
            asked
        };
        let other = {
            let failover = failover.clone();
            thread::spawn(move || ask(&failover))
        };
        let both = [ask(&failover), other.join().unwrap()];
        assert!(both.iter().any(|asked| *asked == [0, 1]), "somebody met the failure");
        assert_eq!(ask(&failover), [1]);
        clock.advance(SECOND);
        assert!(!failover.is_resting(0), "two failures at once doubled the rest");
    });
}

#[test]
fn one_of_two_threads_probes_the_other_passes_over() {
    model(|| {
        let clock = Clock::manual();
        let failover = Arc::new(Failover::new(2).clock(clock.clone()));
        let down = |call: Call| if call.alternate() == 0 { Err(()) } else { Ok(1) };
        assert_eq!(failover.call_blocking_with(Call::new(), down), Ok(1));
        clock.advance(SECOND);
        let other = {
            let failover = failover.clone();
            thread::spawn(move || {
                failover.call_blocking_with(Call::new(), |call| Ok::<_, ()>(call.alternate()))
            })
        };
        let mine = failover.call_blocking_with(Call::new(), |call| Ok::<_, ()>(call.alternate()));
        let both = [mine, other.join().unwrap()];
        assert!(both.contains(&Ok(0)), "nobody probed");
        let after = failover.call_blocking_with(Call::new(), |call| Ok::<_, ()>(call.alternate()));
        assert_eq!(after, Ok(0), "it is well again");
    });
}

#[test]
fn a_signal_is_asked_by_one_thread_at_a_time_and_once_per_interval() {
    model(|| {
        let (clock, asked, busy) =
            (Clock::manual(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let shed = LoadShed::by({
            let (asked, busy) = (asked.clone(), busy.clone());
            move || {
                assert_eq!(busy.fetch_add(1, Ordering::Relaxed), 0, "two at once");
                asked.fetch_add(1, Ordering::Relaxed);
                busy.fetch_sub(1, Ordering::Relaxed);
                0.0
            }
        });
        let shed = Arc::new(shed.interval(SECOND).clock(clock.clone()));
        let other = {
            let shed = shed.clone();
            thread::spawn(move || shed.try_acquire().is_ok())
        };
        assert!(shed.try_acquire().is_ok() & other.join().unwrap());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        clock.advance(SECOND);
        assert!(shed.try_acquire().is_ok());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn one_of_two_calls_passes_while_all_are_kept_back() {
    model(|| {
        let clock = Clock::manual();
        let throttle = AdaptiveThrottle::new().min_calls(1).seed(7).clock(clock.clone());
        // The lowest priority is kept back with a probability of nearly one.
        let call = Call::new().priority(0);
        for _ in 0..3 {
            if let Ok(permit) = throttle.try_acquire_for(call) {
                permit.failure();
            }
        }
        let throttle = Arc::new(throttle);
        clock.advance(SECOND);
        let other = {
            let throttle = throttle.clone();
            thread::spawn(move || {
                u32::from(throttle.try_acquire_for(call).map(|permit| permit.failure()).is_ok())
            })
        };
        let mine = u32::from(throttle.try_acquire_for(call).map(|permit| permit.failure()).is_ok());
        assert_eq!(mine + other.join().unwrap(), 1);
    });
}

/// Two threads make a call each that fails, and repeat it as long as `budget` lets them. Returns how many further
/// attempts there were, and how many at most at once.
fn further_attempts(budget: &Arc<RetryBudget>) -> (u64, u64) {
    let counts = Arc::new((AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)));
    let retry = Retry::new(Constant::new(Duration::ZERO).attempts(3)).clock(Clock::manual());
    let retry = Arc::new(retry.budget(budget.clone()));
    let fail = |retry: &Retry, (made, running, most): &(AtomicU64, AtomicU64, AtomicU64)| {
        let _ = retry.call_blocking_with(Call::new(), |call| {
            if call.attempt > 1 {
                made.fetch_add(1, Ordering::SeqCst);
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                running.fetch_sub(1, Ordering::SeqCst);
            }
            Err::<(), _>(())
        });
    };
    let other = {
        let (retry, counts) = (retry.clone(), counts.clone());
        thread::spawn(move || fail(&retry, &counts))
    };
    fail(&retry, &counts);
    other.join().unwrap();
    (counts.0.load(Ordering::SeqCst), counts.2.load(Ordering::SeqCst))
}

#[test]
fn a_budget_of_calls_is_not_overdrawn() {
    model(|| {
        // One and twice a quarter, of which some is lost while the budget is full.
        let budget = Arc::new(RetryBudget::of_calls(0.25).min_per_second(0).burst(1));
        let (made, _) = further_attempts(&budget);
        assert_eq!((made, budget.available()), (1, 0));
    });
}

#[test]
fn a_budget_of_running_calls_gives_its_places_out_once_and_gets_them_back() {
    model(|| {
        let budget = Arc::new(RetryBudget::of_running(0.1).min(1));
        let (made, most) = further_attempts(&budget);
        assert!((2..=4).contains(&made) && most == 1, "{made}, {most} at once");
        assert_eq!(budget.available(), 1);
    });
}

#[test]
fn no_latency_is_lost_between_slices_of_time() {
    model(|| {
        let clock = Clock::manual();
        let hedge = Hedge::at_quantile(0.5).between(Duration::ZERO, SECOND * 3_600).clock(clock.clone());
        let hedge = Arc::new(hedge);
        let call = |hedge: &Hedge| {
            assert_eq!(block_on(hedge.call(|| async { Ok::<_, ()>(1) })), Ok(1));
        };
        let other = {
            let hedge = hedge.clone();
            thread::spawn(move || call(&hedge))
        };
        let moves = {
            let clock = clock.clone();
            thread::spawn(move || clock.advance(SECOND * 30))
        };
        call(&hedge);
        other.join().unwrap();
        moves.join().unwrap();
        // Both are needed for it to be more than a guess.
        assert!(hedge.delay() < SECOND * 3_600);
    });
}

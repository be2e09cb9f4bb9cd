//! What a call allocates, and how large its future is.
#![cfg(not(floodwall_loom))]
#![expect(unsafe_code, reason = "a counting allocator")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use floodwall::{
    Acquire, AdaptiveConcurrency, AdaptiveRate, AdaptiveThrottle, Blocking, Bulkhead, Call, Chaos,
    CircuitBreaker, Clock, Exponential, Failover, FixedWindow, Gate, Hedge, Histogram, LatencyShed, LoadShed,
    Policy, PriorityBucket, Retry, RetryBudget, SlidingCounter, SlidingLog, Timeout, TokenBucket,
    TokenBuckets, block_on, headers,
};
use support::{millis, nanos, secs};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(run: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

fn five_policies() -> impl Policy<u64, std::io::Error> {
    (
        Timeout::new(secs(2)),
        Retry::new(Exponential::new(millis(1)).attempts(3)),
        CircuitBreaker::builder().build(),
        Bulkhead::new(64),
        TokenBucket::per_second(1_000_000_000),
    )
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn a_call_through_five_policies_allocates_nothing() {
    let stack = five_policies();
    let call = || {
        let result = block_on(stack.call(|| async { Ok::<_, std::io::Error>(42) }));
        assert_eq!(result.unwrap(), 42);
    };
    call();
    assert_eq!(allocations(|| (0..1_000).for_each(|_| call())), 0);
}

#[test]
fn a_call_that_has_to_wait_and_retry_allocates_nothing_in_tokio() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let stack = five_policies();
    let fail = || async {
        tokio::task::yield_now().await;
        Err::<u64, _>(std::io::Error::from(std::io::ErrorKind::TimedOut))
    };
    runtime.block_on(async {
        let warm = stack.call(fail).await;
        assert!(warm.is_err());
        let before = ALLOCATIONS.get();
        assert!(stack.call(fail).await.is_err());
        assert_eq!(ALLOCATIONS.get() - before, 0);
    });
}

#[test]
fn hedged_calls_and_budgets_allocate_nothing() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let budget = std::sync::Arc::new(RetryBudget::of_calls(10.0));
    let stack = (
        Retry::new(Exponential::new(millis(1)).attempts(3)).budget(budget.clone()),
        Hedge::at_quantile(0.9).between(millis(1), millis(20)).max(2).budget(budget.clone()),
        Hedge::after(millis(30)).budget(std::sync::Arc::new(RetryBudget::of_running(1.0))),
        Bulkhead::new(64),
    );
    let ready = || {
        let result = block_on(stack.call(|| async { Ok::<_, ()>(42) }));
        assert_eq!(result, Ok(42));
    };
    ready();
    assert_eq!(allocations(|| (0..1_000).for_each(|_| ready())), 0);

    let copies = Cell::new(0);
    let copies = std::sync::Mutex::new(copies);
    let slow = || async {
        let copy = {
            let copies = copies.lock().unwrap();
            copies.set(copies.get() + 1);
            copies.get()
        };
        // A failure, then a copy that is too slow, then one that is not.
        match copy % 3 {
            0 => return Err(()),
            1 => tokio::time::sleep(millis(100)).await,
            _ => tokio::time::sleep(millis(5)).await,
        }
        Ok::<_, ()>(())
    };
    runtime.block_on(async {
        let _ = stack.call(slow).await;
        let before = ALLOCATIONS.get();
        for _ in 0..20 {
            assert!(stack.call(slow).await.is_ok());
        }
        assert_eq!(ALLOCATIONS.get() - before, 0);
    });
    assert!(copies.lock().unwrap().get() > 30, "copies were made");
}

#[test]
fn a_histogram_allocates_nothing() {
    let (histogram, other) = (Histogram::new(), Histogram::new());
    let all = || {
        histogram.record(millis(3));
        histogram.merge(&other);
        assert!(histogram.quantile(0.99).is_some());
        assert!(histogram.clone().buckets().count() == 1);
    };
    assert_eq!(allocations(|| (0..100).for_each(|_| all())), 0);
}

#[test]
fn gates_by_hand_and_on_threads_allocate_nothing() {
    let (bulkhead, breaker) = (Bulkhead::new(1), CircuitBreaker::builder().failures(1).build());
    let bucket = TokenBucket::per_second(1);
    let all = || {
        let held = bulkhead.acquire_blocking().unwrap();
        assert!(bulkhead.try_acquire().is_err());
        held.success();
        let _ = bucket.try_acquire();
        assert!(breaker.call_blocking(|| Ok::<_, ()>(1)).is_ok());
    };
    all();
    assert_eq!(allocations(|| (0..100).for_each(|_| all())), 0);
    breaker.try_acquire().unwrap().failure();
    assert_eq!(allocations(|| assert!(breaker.try_acquire().is_err())), 0);
}

/// C10: a change of state elsewhere leaves the old one behind, in memory too.
#[test]
fn a_hundred_thousand_openings_allocate_nothing() {
    let clock = Clock::manual();
    let breaker = CircuitBreaker::builder()
        .failure_rate(0.5)
        .min_calls(1)
        .slow_calls(secs(1), 0.5)
        .open_backoff(Exponential::new(secs(1)))
        .probes(1)
        .clock(clock.clone())
        .build();
    let all = || {
        breaker.try_acquire().unwrap().failure();
        clock.advance(secs(60));
        breaker.try_acquire().unwrap().success();
        assert_eq!(breaker.state(), floodwall::State::Closed);
    };
    assert_eq!(allocations(|| (0..100_000).for_each(|_| all())), 0);
}

#[test]
fn limits_that_adapt_or_are_shared_allocate_nothing() {
    let adaptive =
        AdaptiveRate::between(1, 1_000_000).interval(std::time::Duration::from_nanos(1)).min_calls(1);
    let shared = PriorityBucket::per_second(10).class(200, 0.5);
    let all = || {
        while let Ok(permit) = adaptive.try_acquire() {
            permit.failure();
        }
        while let Ok(permit) = shared.try_acquire() {
            permit.success();
        }
    };
    assert_eq!(allocations(|| (0..100).for_each(|_| all())), 0);
}

#[test]
fn a_known_key_allocates_nothing_even_if_it_is_charged() {
    let limits = TokenBuckets::<String>::per_second(1_000).max_keys(10);
    let all = || {
        limits.try_acquire("alice").unwrap();
        limits.charge("alice", 2).unwrap();
        limits.at("alice").try_acquire().unwrap().settle(3);
        limits.refund("alice", 6);
    };
    all();
    assert_eq!(allocations(|| (0..100).for_each(|_| all())), 0);
}

#[test]
fn a_limit_on_calls_at_once_allocates_nothing_while_it_learns() {
    let clock = Clock::manual();
    let limit = AdaptiveConcurrency::between(1, 1_000).class(200, 0.1).clock(clock.clone());
    let bulkhead = Bulkhead::new(3).by_cost();
    let all = || {
        let [first, second] = [limit.try_acquire(), limit.try_acquire()];
        clock.advance(millis(1));
        first.unwrap().success();
        second.unwrap().failure();
        bulkhead.set_max(2).unwrap();
        assert!(bulkhead.try_acquire().is_ok());
    };
    assert_eq!(allocations(|| (0..5_000).for_each(|_| all())), 0);
    assert!(limit.baseline().is_some(), "it has learned");
}

#[test]
fn windows_allocate_nothing_and_a_log_only_as_it_grows() {
    let clock = Clock::manual();
    let window = FixedWindow::per_second(3).clock(clock.clone());
    let counter = SlidingCounter::per_second(3).clock(clock.clone());
    let log = SlidingLog::per_second(1_000).clock(clock.clone());
    let run = |calls: u64| {
        for _ in 0..calls {
            let _ = (window.try_acquire(), counter.try_acquire(), log.try_acquire());
            clock.advance(nanos(1));
        }
        clock.advance(secs(1));
    };
    assert_eq!(allocations(|| run(4)), 1);
    // 4 entries, 8, 16 .. 512, and at last 1,000.
    assert_eq!(allocations(|| run(2_000)), 8);
    assert_eq!(allocations(|| run(2_000)), 0);
}

#[test]
fn failing_over_shedding_and_breaking_on_purpose_allocate_nothing() {
    let (throttle, by_latency) = (AdaptiveThrottle::new(), LatencyShed::above(nanos(1)));
    let by_load = LoadShed::by(|| 0.9).interval(nanos(1));
    let stack = (Failover::new(3), throttle, by_load, by_latency, Chaos::fail(0.5, || ()));
    stack.4.enable();
    let call = || {
        let op = |call: Call| if call.alternate() < 2 { Err(()) } else { Ok(()) };
        let _ = stack.call_blocking_with(Call::new(), op);
        let _ = block_on(stack.call_with(Call::new(), |call| std::future::ready(op(call))));
    };
    call();
    assert_eq!(allocations(|| (0..1_000).for_each(|_| call())), 0);
}

#[test]
fn a_line_of_waiters_allocates_only_as_it_grows() {
    let bulkhead = Bulkhead::new(1);
    let wait = || {
        let held = bulkhead.try_acquire().unwrap();
        let mut waiter = Box::pin(bulkhead.acquire());
        assert!(support::poll(&mut waiter).is_pending());
        held.success();
        assert!(support::poll(&mut waiter).is_ready());
    };
    wait();
    // The box of this test's own.
    assert_eq!(allocations(wait), 1);
}

#[test]
fn headers_allocate_their_values_and_reading_them_allocates_nothing() {
    let quota = TokenBucket::per_second(1_000_000).name("uploads").quota();
    let now = std::time::SystemTime::now();
    assert_eq!(allocations(|| drop(headers::of(&quota))), 2);
    assert_eq!(allocations(|| drop(headers::legacy(&quota, now))), 3);
    assert_eq!(allocations(|| drop(headers::retry_after(millis(2_500)))), 1);
    let read = || {
        let answer = [
            ("date", "now"),
            ("retry-after", "Sunday, 06-Nov-94 08:49:37 GMT"),
            ("ratelimit", r#""a";r=0;t=5"#),
        ];
        assert!(headers::parse_wait(answer, now, secs(60)).is_some());
    };
    assert_eq!(allocations(read), 0);
}

/// The bound leaves some room over what was measured, for other compilers; a box or a doubled future would not fit.
#[test]
fn the_future_of_five_policies_is_small() {
    let stack = five_policies();
    let future = stack.call(|| async { Ok::<_, std::io::Error>(42) });
    let size = size_of_val(&future);
    println!("a call through five policies: {size} bytes");
    assert!(size <= 1_024, "{size} bytes");

    let hedged = (Hedge::after(millis(1)), Bulkhead::new(1));
    let future = hedged.call(|| async { Ok::<_, std::io::Error>(42) });
    let size = size_of_val(&future);
    println!("a hedged call through one gate: {size} bytes");
    assert!(size <= 1_024, "{size} bytes");

    let gates = (Bulkhead::new(1), TokenBucket::per_second(1), CircuitBreaker::builder().build());
    let future = gates.call(|| async { Ok::<_, std::io::Error>(42) });
    let size = size_of_val(&future);
    println!("a call through three gates: {size} bytes");
    assert!(size <= 400, "{size} bytes");
}

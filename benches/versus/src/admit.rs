//! What does a gate cost alone, and what does a stack add to its gates?
//!
//! Each gate stands beside the least that it could be made of (`parts`): the same number of locks, clock readings and
//! atomic writes, without permits, outcomes, observers or windows. A stack stands beside its own gates taken one after
//! the other by hand. The results are unwrapped, so a gate that refuses where it should admit ends the run.

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use floodwall::{AdaptiveConcurrency, Blocking, Bulkhead, CircuitBreaker, Clock, Gate, TokenBucket};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::harness::Case;

const BILLION: u64 = 1_000_000_000;

pub fn cases() -> Vec<Case> {
    vec![
        clocks(),
        mutexes(),
        empty_stack(),
        bucket(),
        denied(),
        bulkhead(),
        bulkhead_full(),
        bulkhead_shared(),
        adaptive(),
        breaker(),
        stack_of_three(),
    ]
}

fn clocks() -> Case {
    Case::new("clocks")
        .peer("floodwall", Clock::system(), Clock::now)
        .peer("floodwall, tsc", Clock::tsc(), Clock::now)
        .peer("std", (), |()| Instant::now())
        .peer("quanta", quanta::Clock::new(), quanta::Clock::now)
}

/// Which lock should gates be made of?
fn mutexes() -> Case {
    Case::new("mutexes")
        .threads(&[1, 2, 4])
        .peer("parking_lot", Mutex::new(0), |count| *count.lock() += 1)
        .peer("std", StdMutex::new(0), |count| *count.lock().unwrap() += 1)
}

fn empty_stack() -> Case {
    Case::new("empty stack")
        .peer("floodwall", (), |stack| stack.call_blocking(work).unwrap())
        .peer("bare closure", (), |()| work().unwrap())
        .bar("bare closure", 0.5)
}

/// At a billion tokens a second, a billion at once, nothing is denied.
fn bucket() -> Case {
    let bucket = || TokenBucket::per_second(BILLION);
    Case::new("bucket, admitted")
        .peer("floodwall", bucket(), |bucket| bucket.try_acquire().unwrap().success())
        .peer("floodwall, tsc", bucket().clock(Clock::tsc()), |bucket| {
            bucket.try_acquire().unwrap().success();
        })
        .peer("parts: clock, swap", (Instant::now(), AtomicU64::new(0)), |(start, word)| {
            let now = start.elapsed().as_nanos() as u64;
            let old = word.load(Ordering::Relaxed);
            word.compare_exchange_weak(old, old.max(now) + 1, Ordering::Relaxed, Ordering::Relaxed)
        })
}

fn denied() -> Case {
    let hourly = || {
        let bucket = TokenBucket::per(1, Duration::from_secs(3600));
        bucket.try_acquire().unwrap().success();
        bucket
    };
    Case::new("bucket, denied")
        .peer("floodwall", hourly(), |bucket| bucket.try_acquire().unwrap_err())
        .peer("floodwall, tsc", hourly().clock(Clock::tsc()), |bucket| bucket.try_acquire().unwrap_err())
        .peer("parts: clock, load", (Instant::now(), AtomicU64::new(u64::MAX)), |(start, word)| {
            word.load(Ordering::Relaxed).checked_sub(start.elapsed().as_nanos() as u64).unwrap()
        })
}

fn bulkhead() -> Case {
    Case::new("bulkhead")
        .peer("floodwall", Bulkhead::new(64), |bulkhead| bulkhead.try_acquire().unwrap().success())
        .peer("tokio semaphore", Semaphore::new(64), |semaphore| drop(semaphore.try_acquire().unwrap()))
        .peer("parts: swap, swap", AtomicU64::new(0), |running| {
            running.fetch_add(1, Ordering::Acquire);
            running.fetch_sub(1, Ordering::Release)
        })
}

/// What learning costs beside counting: a reading of the clock on the way in and on the way out, and a lock on the way out.
fn adaptive() -> Case {
    let adaptive = || AdaptiveConcurrency::between(64, 64);
    Case::new("adaptive concurrency")
        .peer("floodwall", adaptive(), |limit| limit.try_acquire().unwrap().success())
        .peer("floodwall, tsc", adaptive().clock(Clock::tsc()), |limit| {
            limit.try_acquire().unwrap().success();
        })
        .peer("floodwall bulkhead", Bulkhead::new(64), |bulkhead| bulkhead.try_acquire().unwrap().success())
        .peer(
            "parts: swap, clock, clock, lock, swap",
            (AtomicU64::new(0), Mutex::new((0u64, 0u64))),
            |parts| {
                let (running, sum) = parts;
                running.fetch_add(1, Ordering::Acquire);
                let start = Instant::now();
                let time = start.elapsed().as_nanos() as u64;
                {
                    let mut sum = sum.lock();
                    *sum = (sum.0 + time, sum.1 + 1);
                }
                running.fetch_sub(1, Ordering::Release)
            },
        )
}

/// How do threads share the places of one bulkhead? There are enough for all.
fn bulkhead_shared() -> Case {
    Case::new("bulkhead, shared")
        .threads(&[1, 2, 4])
        .peer("floodwall", Bulkhead::new(64), |bulkhead| bulkhead.try_acquire().unwrap().success())
        .peer("floodwall, adaptive", AdaptiveConcurrency::between(64, 64), |limit| {
            limit.try_acquire().unwrap().success();
        })
        .peer("tokio semaphore", Semaphore::new(64), |semaphore| drop(semaphore.try_acquire().unwrap()))
}

fn bulkhead_full() -> Case {
    let bulkhead = Bulkhead::new(1);
    std::mem::forget(bulkhead.try_acquire().unwrap());
    Case::new("bulkhead, full")
        .peer("floodwall", bulkhead, |bulkhead| bulkhead.try_acquire().unwrap_err())
        .peer("tokio semaphore", Semaphore::new(0), |semaphore| semaphore.try_acquire().is_err())
}

fn breaker() -> Case {
    let breaker = CircuitBreaker::builder;
    Case::new("breaker, closed")
        .peer("floodwall", breaker().build(), |breaker| breaker.try_acquire().unwrap().success())
        .peer("floodwall, tsc", breaker().clock(Clock::tsc()).build(), |breaker| {
            breaker.try_acquire().unwrap().success();
        })
        .peer("parts: lock, clock, lock", Mutex::new((false, 0u64, None)), |state| {
            assert!(!state.lock().0);
            let now = Instant::now();
            let mut state = state.lock();
            state.1 += 1;
            state.2 = Some(now);
        })
}

/// The bar: a layer of a stack adds at most 3 ns to its gate.
fn stack_of_three() -> Case {
    let gates = || (CircuitBreaker::builder().build(), Bulkhead::new(64), TokenBucket::per_second(BILLION));
    Case::new("stack of three")
        .peer("floodwall", gates(), |stack| stack.call_blocking(work).unwrap())
        .peer("by hand", gates(), |(breaker, bulkhead, bucket)| {
            let from_breaker = breaker.try_acquire().unwrap();
            let from_bulkhead = bulkhead.try_acquire().unwrap();
            let from_bucket = bucket.try_acquire().unwrap();
            let answer = work().unwrap();
            from_bucket.success();
            from_bulkhead.success();
            from_breaker.success();
            answer
        })
        .peer("one after the other", gates(), |(breaker, bulkhead, bucket)| {
            breaker.try_acquire().unwrap().success();
            bulkhead.try_acquire().unwrap().success();
            bucket.try_acquire().unwrap().success();
            work().unwrap()
        })
        .bar("one after the other", 9.0)
}

fn work() -> Result<u32, Infallible> {
    Ok(black_box(42))
}

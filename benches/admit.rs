//! What does a gate cost alone, on one thread?
//!
//! The benchmarks are built with tokio's `test-util`, as the tests are; reading the system clock then also looks
//! whether a test has paused it. Beside peers, and under contention: `versus/`.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use floodwall::{
    AdaptiveConcurrency, AdaptiveThrottle, Bulkhead, CircuitBreaker, Clock, FixedWindow, Gate, LatencyShed,
    LoadShed, SlidingCounter, SlidingLog, TokenBucket,
};

const HOUR: Duration = Duration::from_secs(3600);

fn clock(criterion: &mut Criterion) {
    let clock = Clock::system();
    criterion.bench_function("clock/system", |bencher| bencher.iter(|| clock.now()));
}

/// At a billion tokens a second, a billion at once, nothing is denied.
fn bucket(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bucket");
    let bucket = TokenBucket::per_second(1_000_000_000);
    group.bench_function("admitted", |bencher| bencher.iter(|| bucket.try_acquire().unwrap().success()));
    let bucket = TokenBucket::per(1, HOUR);
    bucket.try_acquire().unwrap().success();
    group.bench_function("denied", |bencher| bencher.iter(|| bucket.try_acquire().unwrap_err()));
    group.finish();
}

/// As many tokens as there may be. The log holds the some thousand calls of its last 100 microseconds.
fn windows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("window");
    let window = FixedWindow::per_second(500_000_000);
    group
        .bench_function("fixed/admitted", |bencher| bencher.iter(|| window.try_acquire().unwrap().success()));
    let counter = SlidingCounter::per_second(250_000_000);
    group.bench_function("counter/admitted", |bencher| {
        bencher.iter(|| counter.try_acquire().unwrap().success())
    });
    let log = SlidingLog::per(1_000_000, Duration::from_micros(100));
    group.bench_function("log/admitted", |bencher| bencher.iter(|| log.try_acquire().unwrap().success()));

    let window = FixedWindow::per(1, HOUR).from_first_use();
    window.try_acquire().unwrap().success();
    group.bench_function("fixed/denied", |bencher| bencher.iter(|| window.try_acquire().unwrap_err()));
    let counter = SlidingCounter::per(1, HOUR);
    counter.try_acquire().unwrap().success();
    group.bench_function("counter/denied", |bencher| bencher.iter(|| counter.try_acquire().unwrap_err()));
    let log = SlidingLog::per(1_000, HOUR);
    (0..1_000).for_each(|_| log.try_acquire().unwrap().success());
    group.bench_function("log/denied", |bencher| bencher.iter(|| log.try_acquire().unwrap_err()));
    group.finish();
}

fn bulkhead(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bulkhead");
    let bulkhead = Bulkhead::new(1);
    group.bench_function("admitted", |bencher| bencher.iter(|| bulkhead.try_acquire().unwrap().success()));
    let _permit = bulkhead.try_acquire().unwrap();
    group.bench_function("full", |bencher| bencher.iter(|| bulkhead.try_acquire().unwrap_err()));
    group.finish();
}

/// With an answer each time, so that it also learns.
fn adaptive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("adaptive");
    let limit = AdaptiveConcurrency::between(1, 64);
    group.bench_function("admitted", |bencher| bencher.iter(|| limit.try_acquire().unwrap().success()));
    let limit = AdaptiveConcurrency::between(1, 1);
    let _permit = limit.try_acquire().unwrap();
    group.bench_function("full", |bencher| bencher.iter(|| limit.try_acquire().unwrap_err()));
    group.finish();
}

fn breaker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("breaker");
    let breaker = CircuitBreaker::builder().build();
    group.bench_function("closed", |bencher| bencher.iter(|| breaker.try_acquire().unwrap().success()));
    let breaker = CircuitBreaker::builder().failures(1).open_for(HOUR).build();
    breaker.try_acquire().unwrap().failure();
    group.bench_function("open", |bencher| bencher.iter(|| breaker.try_acquire().unwrap_err()));
    group.finish();
}

fn shedding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("throttle");
    let throttle = AdaptiveThrottle::new();
    let call = || throttle.try_acquire().map(|permit| permit.success());
    group.bench_function("all accepted", |bencher| bencher.iter(call));
    // A failure now and then, which is the usual state of things.
    (0..100).for_each(|_| throttle.try_acquire().unwrap().failure());
    group.bench_function("most accepted", |bencher| bencher.iter(call));
    let throttle = AdaptiveThrottle::new();
    group.bench_function("none accepted", |bencher| {
        bencher.iter(|| throttle.try_acquire().map(|permit| permit.failure()));
    });
    group.finish();
    let mut group = criterion.benchmark_group("shed");
    let shed = LoadShed::by(|| 0.5);
    group.bench_function("load/admitted", |bencher| bencher.iter(|| shed.try_acquire().unwrap().success()));
    let shed = LoadShed::by(|| 0.9);
    group.bench_function("load/half", |bencher| {
        bencher.iter(|| shed.try_acquire().map(|permit| permit.success()));
    });
    let shed = LatencyShed::above(HOUR);
    group
        .bench_function("latency/admitted", |bencher| bencher.iter(|| shed.try_acquire().unwrap().success()));
    let shed = LatencyShed::above(Duration::from_nanos(1));
    group.bench_function("latency/above the target", |bencher| {
        bencher.iter(|| shed.try_acquire().unwrap().success());
    });
    group.finish();
}

criterion_group!(benches, clock, bucket, windows, bulkhead, adaptive, breaker, shedding);
criterion_main!(benches);

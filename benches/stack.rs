//! What does a stack add to the gates in it, on a thread and around a future that is ready at once?
//!
//! The benchmarks are built with tokio's `test-util`, as the tests are; reading the system clock then also looks
//! whether a test has paused it. Beside tower's own layers: `versus/`.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use floodwall::{
    Blocking, Bulkhead, Call, Chaos, CircuitBreaker, Exponential, Failover, Gate, Hedge, Histogram, Policy,
    Retry, RetryBudget, Timeout, TokenBucket,
};

type Gates = (CircuitBreaker, Bulkhead, TokenBucket);

/// None of them refuses: a billion tokens a second, a billion at once.
fn gates() -> Gates {
    (CircuitBreaker::builder().build(), Bulkhead::new(64), TokenBucket::per_second(1_000_000_000))
}

fn blocking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("blocking");
    let work = || Ok::<_, Infallible>(black_box(42));
    group.bench_function("empty", |bencher| bencher.iter(|| ().call_blocking(work)));
    let one = (Bulkhead::new(64),);
    group.bench_function("one gate", |bencher| bencher.iter(|| one.call_blocking(work).unwrap()));
    let three = gates();
    group.bench_function("three gates", |bencher| bencher.iter(|| three.call_blocking(work).unwrap()));
    // What the stack of three is measured by.
    group.bench_function("three gates by hand", |bencher| bencher.iter(|| by_hand(&three)));
    let failover = Failover::new(3);
    group.bench_function("failover, all well", |bencher| bencher.iter(|| failover.call_blocking(work)));
    let resting = Failover::new(3).rest_for(Duration::from_secs(3_600)).max_rest(Duration::from_secs(3_600));
    let down = |call: Call| if call.alternate() == 0 { Err(()) } else { Ok(()) };
    resting.call_blocking_with(Call::new(), down).unwrap();
    group.bench_function("failover, one rests", |bencher| bencher.iter(|| resting.call_blocking(work)));
    let chaos = Chaos::fail(0.0, || unreachable!("at a rate of 0"));
    group.bench_function("chaos, disabled", |bencher| bencher.iter(|| chaos.call_blocking(work)));
    chaos.enable();
    group.bench_function("chaos, enabled", |bencher| bencher.iter(|| chaos.call_blocking(work)));
    group.finish();
}

fn by_hand((breaker, bulkhead, bucket): &Gates) -> u32 {
    let from_breaker = breaker.try_acquire().unwrap();
    let from_bulkhead = bulkhead.try_acquire().unwrap();
    let from_bucket = bucket.try_acquire().unwrap();
    let answer = black_box(42);
    from_bucket.success();
    from_bulkhead.success();
    from_breaker.success();
    answer
}

fn asynchronous(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("async");
    group.bench_function("empty", |bencher| bencher.iter(|| now(().call(work))));
    let one = (Bulkhead::new(64),);
    group.bench_function("one gate", |bencher| bencher.iter(|| now(one.call(work)).unwrap()));
    let three = gates();
    group.bench_function("three gates", |bencher| bencher.iter(|| now(three.call(work)).unwrap()));
    let (breaker, bulkhead, bucket) = gates();
    let retry = Retry::new(Exponential::new(Duration::from_millis(50)).attempts(3));
    let five = (Timeout::new(Duration::from_secs(1)), retry, breaker, bulkhead, bucket);
    group.bench_function("five policies", |bencher| bencher.iter(|| now(five.call(work)).unwrap()));
    group.finish();
}

/// What it costs to be ready to repeat or copy a call that then succeeds at once.
fn repeating(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("repeating");
    let retry = || Retry::new(Exponential::new(Duration::from_millis(50)));
    let alone = retry();
    group.bench_function("retry", |bencher| bencher.iter(|| now(alone.call(work)).unwrap()));
    let of_calls = retry().budget(RetryBudget::of_calls(0.1));
    group.bench_function("budget of calls", |bencher| bencher.iter(|| now(of_calls.call(work)).unwrap()));
    let of_running = retry().budget(RetryBudget::of_running(0.2));
    group.bench_function("budget of running calls", |bencher| {
        bencher.iter(|| now(of_running.call(work)).unwrap())
    });
    let fixed = Hedge::after(Duration::from_millis(50));
    group.bench_function("hedge after", |bencher| bencher.iter(|| now(fixed.call(work)).unwrap()));
    let measured = Hedge::at_quantile(0.95);
    group.bench_function("hedge at a quantile", |bencher| bencher.iter(|| now(measured.call(work)).unwrap()));
    let histogram = Histogram::new();
    (1..10_000).for_each(|micros| histogram.record(Duration::from_micros(micros)));
    let took = black_box(Duration::from_micros(700));
    group.bench_function("histogram record", |bencher| bencher.iter(|| histogram.record(took)));
    group.bench_function("histogram quantile", |bencher| bencher.iter(|| histogram.quantile(0.99)));
    group.finish();
}

fn work() -> Ready<Result<u32, Infallible>> {
    ready(Ok(black_box(42)))
}

/// The output of a future that has it at once.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a future that should be ready has to wait"),
    }
}

criterion_group!(benches, blocking, asynchronous, repeating);
criterion_main!(benches);

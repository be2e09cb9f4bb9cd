//! Clocks: who wakes a sleeper where, and whether time is honest.
#![cfg(not(floodwall_loom))]

mod support;

use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use floodwall::{CircuitBreaker, Clock, Gate, Policy, State, TimeSource, Timeout, block_on};
use support::{millis, nanos, poll, secs};

#[test]
fn a_manual_clock_wakes_its_sleepers_in_the_order_of_their_times() {
    struct Note(u32, &'static Mutex<Vec<u32>>);
    impl std::task::Wake for Note {
        fn wake(self: std::sync::Arc<Self>) {
            self.1.lock().unwrap().push(self.0);
        }
    }
    static WOKEN: Mutex<Vec<u32>> = Mutex::new(Vec::new());
    let clock = Clock::manual();
    let mut sleepers: Vec<_> =
        [3, 1, 2, 9].into_iter().map(|at| (at, Box::pin(clock.sleep(secs(at.into()))))).collect();
    for (at, sleeper) in &mut sleepers {
        let waker = std::sync::Arc::new(Note(*at, &WOKEN)).into();
        assert!(sleeper.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    clock.advance(secs(3));
    assert_eq!(*WOKEN.lock().unwrap(), [1, 2, 3]);
    assert!(poll(&mut sleepers[0].1).is_ready());
    assert!(poll(&mut sleepers[3].1).is_pending());
}

#[test]
fn a_sleeper_that_was_woken_and_is_dropped_disarms_nobody_else() {
    struct Count(AtomicU32);
    impl std::task::Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (clock, count) = (Clock::manual(), std::sync::Arc::new(Count(AtomicU32::new(0))));
    let waker = count.clone().into();
    let mut context = Context::from_waker(&waker);
    let mut woken = Box::pin(clock.sleep(secs(1)));
    assert!(woken.as_mut().poll(&mut context).is_pending());
    clock.advance(secs(1));
    let mut other = Box::pin(clock.sleep(secs(1)));
    assert!(other.as_mut().poll(&mut context).is_pending());
    drop(woken);
    clock.advance(secs(1));
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
}

#[test]
fn a_manual_clock_wakes_threads() {
    let clock = Clock::manual();
    let slept = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            clock.sleep_blocking(secs(1));
            slept.store(1, Ordering::SeqCst);
        });
        while slept.load(Ordering::SeqCst) == 0 {
            clock.advance(secs(1));
            std::thread::yield_now();
        }
    });
    assert_eq!(slept.into_inner(), 1);
}

#[test]
#[should_panic(expected = "advance: only a manual clock can be moved by hand")]
fn the_system_clock_cannot_be_moved() {
    Clock::system().advance(secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_system_clock_obeys_paused_time() {
    let clock = Clock::system();
    let (start, real_start) = (clock.now(), Instant::now());
    clock.sleep(secs(3600)).await;
    assert!(clock.now() - start >= secs(3600));
    assert!(real_start.elapsed() < secs(60));
    // Whole policies do, too.
    let breaker = CircuitBreaker::builder().failures(1).open_for(secs(30)).build();
    breaker.try_acquire().unwrap().failure();
    tokio::time::advance(secs(30)).await;
    assert_eq!(breaker.state(), State::HalfOpen);
    let timed_out = Timeout::new(secs(60)).call(std::future::pending::<Result<(), ()>>).await;
    assert!(timed_out.is_err());
}

#[tokio::test]
async fn a_sleep_moves_between_tokio_and_a_blocked_thread() {
    let clock = Clock::system();
    let start = clock.now();
    let mut sleep = Box::pin(clock.sleep(millis(20)));
    assert!(poll(&mut sleep).is_pending());
    std::thread::spawn(move || {
        let rest = clock.sleep(millis(1));
        block_on(rest);
    })
    .join()
    .unwrap();
    sleep.await;
    assert!(Clock::system().now() - start >= millis(20));
}

#[test]
fn a_sleep_that_was_armed_on_one_thread_ends_on_another() {
    let clock = Clock::system();
    let mut sleep = Box::pin(clock.sleep(millis(5)));
    block_on(async { assert!(poll(&mut sleep).is_pending()) });
    std::thread::spawn(move || block_on(sleep)).join().unwrap();
}

#[cfg(not(feature = "timer"))]
#[test]
#[should_panic(
    expected = "enable floodwall's feature `tokio` and sleep inside its runtime, enable its feature `timer`"
)]
fn without_a_timer_the_message_names_the_fix() {
    let _ = poll(&mut Box::pin(Clock::system().sleep(secs(1))));
}

#[cfg(feature = "timer")]
#[test]
fn the_helper_thread_wakes_a_sleeper_without_any_runtime() {
    struct Flag(std::thread::Thread);
    impl std::task::Wake for Flag {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Flag(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let start = Instant::now();
    let mut sleep = Box::pin(Clock::system().sleep(millis(10)));
    while sleep.as_mut().poll(&mut context).is_pending() {
        std::thread::park_timeout(secs(10));
    }
    assert!(start.elapsed() >= millis(10) && start.elapsed() < secs(10));
}

struct Instantly(Mutex<Instant>);

impl TimeSource for Instantly {
    fn now(&self) -> Instant {
        *self.0.lock().unwrap()
    }

    fn sleep_until(&self, at: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        *self.0.lock().unwrap() = at;
        Box::pin(std::future::ready(()))
    }
}

#[test]
fn a_source_of_ones_own_tells_the_time_and_wakes() {
    let clock = Clock::new(Instantly(Mutex::new(Instant::now())));
    let start = clock.now();
    block_on(clock.sleep(secs(7)));
    assert_eq!(clock.now() - start, secs(7));
    clock.sleep_blocking(secs(1));
    assert_eq!(clock.now() - start, secs(8));
    assert_eq!(poll(&mut Box::pin(clock.sleep_until(start))), Poll::Ready(()));
}

fn never_goes_backwards(clock: &Clock, but_for: Duration) {
    let latest = Mutex::new(clock.now());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50_000 {
                    let mut latest = latest.lock().unwrap();
                    let now = clock.now();
                    assert!(now + but_for >= *latest, "{:?} back", *latest - now);
                    *latest = now.max(*latest);
                }
            });
        }
    });
}

#[test]
fn the_system_clock_never_goes_backwards_across_threads() {
    never_goes_backwards(&Clock::system(), Duration::ZERO);
}

#[cfg(feature = "tsc")]
#[test]
fn the_counter_never_goes_backwards_and_keeps_up_with_the_system() {
    let clock = Clock::tsc();
    // The processor may read it before it has the lock.
    never_goes_backwards(&clock, nanos(1_000));
    // Read between readings of the system clock, so that a busy machine cannot tear the two apart.
    let outer = Instant::now();
    let start = clock.now();
    let inner = Instant::now();
    std::thread::park_timeout(millis(100));
    let shortest = inner.elapsed();
    let told = clock.now() - start;
    let longest = outer.elapsed();
    let drift = millis(1);
    assert!(shortest - drift <= told && told <= longest + drift, "{told:?} of {shortest:?} to {longest:?}");
    block_on(clock.sleep(millis(1)));
}

#[test]
fn extreme_sleeps_overflow_nothing() {
    let clock = Clock::manual();
    clock.advance(nanos(u64::MAX - 1));
    clock.advance(Duration::MAX);
    let mut for_ever = Box::pin(clock.sleep(Duration::MAX));
    assert_eq!(for_ever.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
}

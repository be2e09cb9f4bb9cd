//! Fixed windows, sliding counters and sliding logs: tables of literal times, and the traps that others fell into.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use floodwall::{
    Call, Clock, Error, Event, FixedWindow, Gate, Observer, Outcome, Permit, Policy, Reason, Rejected,
    Residual, SlidingCounter, SlidingLog, block_on,
};
use support::{millis, nanos, secs, settable};

const CENTURY: Duration = secs(100 * 365 * 86_400);

fn cost(tokens: u32) -> Call {
    Call::new().cost(tokens)
}

/// What the limiters under test share beyond [`Gate`].
trait Window: Gate {
    fn available(&self) -> u64;
}

macro_rules! window {
    ($($limiter:ty),*) => {
        $(impl Window for $limiter {
            fn available(&self) -> u64 {
                <$limiter>::available(self)
            }
        })*
    };
}
window!(FixedWindow, SlidingCounter, SlidingLog);

fn observed(
    tokens: u64,
    period: Duration,
    clock: &Clock,
    observer: impl Observer + 'static,
) -> Vec<Box<dyn Window>> {
    let observer = Arc::new(observer);
    let fixed = || FixedWindow::per(tokens, period).clock(clock.clone());
    vec![
        Box::new(fixed().observe("quota", observer.clone())),
        Box::new(fixed().from_first_use().observe("quota", observer.clone())),
        Box::new(SlidingCounter::per(tokens, period).clock(clock.clone()).observe("quota", observer.clone())),
        Box::new(SlidingLog::per(tokens, period).clock(clock.clone()).observe("quota", observer)),
    ]
}

/// A fixed window, one from first use, a counter and a log, all new and called `quota`.
fn all(tokens: u64, period: Duration, clock: &Clock) -> Vec<Box<dyn Window>> {
    observed(tokens, period, clock, |_: &str, _: Event| {})
}

/// (milliseconds, cost, admitted, left, retry after)
type Row = (u64, u32, bool, u64, Option<u64>);

fn run(table: &[Row], limit: &dyn Window, clock: &Clock) {
    let start = clock.now();
    for &(at, tokens, admitted, left, retry_after) in table {
        clock.advance((start + millis(at)) - clock.now());
        let case = format!("{at} ms, cost {tokens}");
        let decision = limit.try_acquire_for(cost(tokens)).map(Permit::success);
        assert_eq!(decision.is_ok(), admitted, "{case}");
        assert_eq!(limit.available(), left, "{case}");
        let told = decision.err().and_then(|rejected| rejected.retry_after());
        assert_eq!(told, retry_after.map(millis), "{case}");
    }
}

#[test]
fn the_table_of_a_fixed_window() {
    let clock = Clock::manual();
    let window = FixedWindow::per(5, secs(1)).clock(clock.clone());
    let table = [
        (0, 6, false, 5, None),
        (0, 0, true, 5, None),
        (300, 2, true, 3, None),
        (300, 4, false, 3, Some(700)),
        (999, 3, true, 0, None),
        (999, 1, false, 0, Some(1)),
        (999, 0, true, 0, None),
        (1000, 5, true, 0, None),
        (1001, 5, false, 0, Some(999)),
        (7500, 1, true, 4, None),
        (7999, 5, false, 4, Some(1)),
        (8000, 5, true, 0, None),
    ];
    run(&table, &window, &clock);
}

#[test]
fn the_table_of_a_window_from_first_use() {
    let clock = Clock::manual();
    let window = FixedWindow::per(5, secs(1)).from_first_use().clock(clock.clone());
    // A window's start is a multiple of 8 ns here, as these times are.
    let table = [
        (0, 6, false, 5, None),
        (100, 0, true, 5, None),
        (300, 2, true, 3, None),
        (999, 4, false, 3, Some(301)),
        (1200, 3, true, 0, None),
        (1299, 1, false, 0, Some(1)),
        (1300, 5, true, 0, None),
        (1300, 1, false, 0, Some(1000)),
        (7500, 1, true, 4, None),
        (8499, 5, false, 4, Some(1)),
        (8500, 5, true, 0, None),
    ];
    run(&table, &window, &clock);
}

#[test]
fn the_table_of_a_sliding_counter() {
    let clock = Clock::manual();
    let counter = SlidingCounter::per(10, secs(1)).clock(clock.clone());
    let table = [
        (0, 11, false, 10, None),
        (0, 8, true, 2, None),
        // In the next window eight count by their share, and nine fit when that is down to one.
        (900, 3, false, 2, Some(225)),
        (900, 9, false, 2, Some(975)),
        (900, 2, true, 0, None),
        (900, 0, true, 0, None),
        (999, 1, false, 0, Some(101)),
        (1000, 1, false, 0, Some(100)),
        (1099, 1, false, 0, Some(1)),
        (1100, 1, true, 0, None),
        (1150, 1, false, 0, Some(50)),
        (1500, 5, false, 4, Some(100)),
        (1500, 4, true, 0, None),
        // Five were taken in this window, and all of ten are free when they have left.
        (1500, 10, false, 0, Some(1500)),
        (2000, 6, false, 5, Some(200)),
        (2500, 7, true, 0, None),
        (9000, 10, true, 0, None),
    ];
    run(&table, &counter, &clock);
}

#[test]
fn the_table_of_a_sliding_log() {
    let clock = Clock::manual();
    let log = SlidingLog::per(5, secs(1)).clock(clock.clone());
    let table = [
        (0, 6, false, 5, None),
        (0, 0, true, 5, None),
        (0, 1, true, 4, None),
        (300, 3, true, 1, None),
        (300, 2, false, 1, Some(700)),
        (300, 3, false, 1, Some(1000)),
        (500, 1, true, 0, None),
        (500, 1, false, 0, Some(500)),
        (500, 5, false, 0, Some(1000)),
        (999, 1, false, 0, Some(1)),
        (1000, 1, true, 0, None),
        (1000, 0, true, 0, None),
        (1299, 1, false, 0, Some(1)),
        (1300, 4, false, 3, Some(200)),
        (1500, 4, true, 0, None),
        (1500, 5, false, 0, Some(1000)),
        (2000, 1, true, 0, None),
        (9000, 5, true, 0, None),
    ];
    run(&table, &log, &clock);
}

/// The step at a boundary: the quota of one window in its last nanosecond, that of the next in its first one.
#[test]
fn only_a_fixed_window_admits_two_bursts_across_a_boundary() {
    let clock = Clock::manual();
    clock.advance(secs(60) - nanos(1));
    let limits = all(100, secs(60), &clock);
    let burst = || limits.iter().map(|limit| (0..200).filter(|_| limit.try_acquire().is_ok()).count());
    assert_eq!(burst().collect::<Vec<_>>(), [100, 100, 100, 100]);
    clock.advance(nanos(1));
    assert_eq!(burst().collect::<Vec<_>>(), [100, 0, 0, 0]);
    // A counter gives back evenly, the log to the nanosecond, and from first use after its 200 ns more at the latest.
    clock.advance(secs(60) - nanos(1));
    assert_eq!(burst().collect::<Vec<_>>(), [0, 0, 99, 100]);
    clock.advance(nanos(200));
    assert_eq!(burst().collect::<Vec<_>>(), [100, 100, 1, 0]);
}

/// Trap R14.
#[test]
fn who_comes_back_after_retry_after_is_admitted_and_not_a_moment_earlier() {
    for (tokens, period) in [
        (1, secs(1)),
        (3, secs(1)),
        (7, nanos(1_000_003)),
        (1, nanos(4)),
        (1, CENTURY),
        (1_000, nanos(4_001)),
    ] {
        for ask in [1, 2, 3, 7, 1_000] {
            let clock = Clock::manual();
            clock.advance(nanos(1_234_567));
            for (which, limit) in all(tokens, period, &clock).into_iter().enumerate() {
                let taken = (0..=tokens).take_while(|_| limit.try_acquire().is_ok());
                taken.for_each(|_| clock.advance(nanos(1)));
                let rejected = limit.try_acquire_for(cost(ask)).unwrap_err();
                if u64::from(ask) > tokens {
                    assert_eq!(rejected, Rejected::new("quota", Reason::RateLimited));
                    continue;
                }
                let case = format!("{which}: {ask} of {tokens} per {period:?}");
                clock.advance(rejected.retry_after().unwrap() - nanos(1));
                assert!(limit.try_acquire_for(cost(ask)).is_err(), "{case}");
                clock.advance(nanos(1));
                assert!(limit.try_acquire_for(cost(ask)).is_ok(), "{case}");
            }
        }
    }
}

/// Trap R5. A limiter that moves its state at each poll loses what had accrued in between.
#[test]
fn frequent_polling_loses_nothing() {
    let clock = Clock::manual();
    let limits = all(1, secs(1), &clock);
    let mut admitted = [0; 4];
    // 100 seconds, and the last poll is before their end.
    for _ in 0..66_666 {
        for (limit, admitted) in limits.iter().zip(&mut admitted) {
            *admitted += u32::from(limit.try_acquire().is_ok());
        }
        clock.advance(nanos(1_500_000));
    }
    // One call of the window before weighs something to the end, so that a counter never admits two in a row.
    assert_eq!(admitted, [100, 100, 50, 100]);
}

/// Trap R6.
#[test]
fn a_limit_that_was_idle_admits_no_more_than_before() {
    let clock = Clock::manual();
    for limit in all(3, secs(1), &clock) {
        for idle in [secs(0), secs(1_000), CENTURY] {
            clock.advance(idle);
            assert_eq!(limit.available(), 3);
            assert!(limit.try_acquire_for(cost(2)).is_ok());
            assert!(limit.try_acquire_for(cost(2)).is_err());
            clock.advance(secs(3));
        }
    }
}

/// Trap R2. The clock stands, goes back and jumps; what was admitted must fit into the windows up to the latest time.
#[test]
fn a_clock_that_goes_back_mints_nothing() {
    let (clock, offset) = settable(secs(1_000));
    let limits = all(2, secs(1), &clock);
    let (mut admitted, mut latest) = ([0; 4], 0);
    for step in [0, 500, -900_000, 1_000, 999, -5, 2_000, 0, 2_999, -700_000, 4_000, 3_999, 4_001] {
        latest = latest.max(step);
        offset.store(step * 1_000_000, Ordering::Relaxed);
        for (limit, admitted) in limits.iter().zip(&mut admitted) {
            while limit.try_acquire().is_ok() {
                *admitted += 1;
                // The windows on this clock need not start with its first second.
                assert!(*admitted <= 2 * (2 + latest / 1_000), "{admitted} at {step} ms");
            }
            let wait = limit.try_acquire().unwrap_err().retry_after().unwrap();
            assert!(wait <= millis((latest - step) as u64) + secs(2), "{wait:?} at {step} ms");
        }
    }
    assert_eq!(admitted[3], 8, "the log is exact");
}

/// Trap R2.
#[test]
fn who_obeys_while_the_clock_goes_back_is_admitted_when_it_has_caught_up() {
    for which in 0..4 {
        let (clock, offset) = settable(secs(1_000));
        let limit = &all(1, secs(1), &clock)[which];
        offset.store(5_000_000_000, Ordering::Relaxed);
        assert!(limit.try_acquire().is_ok());
        offset.store(1_700_000_000, Ordering::Relaxed);
        let wait = limit.try_acquire().unwrap_err().retry_after().unwrap().as_nanos() as i64;
        assert!(wait > 3_300_000_000);
        offset.fetch_add(wait - 1, Ordering::Relaxed);
        assert!(limit.try_acquire().is_err());
        offset.fetch_add(1, Ordering::Relaxed);
        assert!(limit.try_acquire().is_ok());
    }
}

/// Trap R1. Threads that reuse a time read before a lost race admit many times the quota: only a real clock shows it.
#[test]
fn threads_under_a_real_clock_never_exceed_the_quota() {
    for (threads, tokens, period) in [(2, 3, millis(1)), (8, 20_000, millis(7))] {
        for limit in all(tokens, period, &Clock::system()) {
            let start = Instant::now();
            let admitted: u64 = std::thread::scope(|scope| {
                let worker = || {
                    let mut admitted = 0;
                    while start.elapsed() < millis(100) {
                        admitted += u64::from(limit.try_acquire().is_ok());
                    }
                    admitted
                };
                let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
                workers.into_iter().map(|worker| worker.join().unwrap()).sum()
            });
            let windows = start.elapsed().as_nanos() / period.as_nanos() + 2;
            let bound = tokens * windows as u64;
            assert!(admitted <= bound, "{threads} threads, {tokens} per {period:?}: {admitted} > {bound}");
            assert!(admitted >= tokens.min(100));
        }
    }
}

#[test]
fn windows_start_with_those_of_the_wall_clock() {
    const DAY: u128 = 86_400_000_000_000;
    let daily = FixedWindow::per(1, secs(86_400));
    let into_the_day = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() % DAY;
    // Once, twice if it was midnight in between.
    let rejected = (0..3).find_map(|_| daily.try_acquire().err()).unwrap();
    let wait = rejected.retry_after().unwrap();
    let midnight = (into_the_day() + wait.as_nanos()) % DAY;
    let off = midnight.min(DAY - midnight);
    assert!(off < 10_000_000_000, "{off} ns from midnight");
}

#[test]
fn a_call_whose_deadline_has_passed_takes_nothing() {
    let clock = Clock::manual();
    let call = Call::new().deadline(clock.now() + secs(1));
    for limit in all(2, secs(10), &clock) {
        assert!(limit.try_acquire_for(call).is_ok());
    }
    let limits = all(2, secs(10), &clock);
    clock.advance(secs(1));
    for limit in limits {
        let late = limit.try_acquire_for(call).unwrap_err();
        assert_eq!(late, Rejected::new("quota", Reason::DeadlineExceeded));
        assert_eq!(limit.available(), 2);
    }
}

/// Trap R13.
#[test]
fn a_call_of_no_tokens_passes_a_full_limit_and_takes_nothing() {
    let clock = Clock::manual();
    for limit in all(3, secs(1), &clock) {
        assert!(limit.try_acquire_for(cost(0)).is_ok());
        assert_eq!((limit.available(), limit.residual()), (3, None));
        assert!(limit.try_acquire_for(cost(3)).is_ok());
        assert!(limit.try_acquire_for(cost(0)).is_ok());
        assert_eq!(limit.available(), 0);
    }
}

#[test]
fn a_permit_that_is_dropped_gives_nothing_back() {
    for limit in all(1, secs(1), &Clock::manual()) {
        drop(limit.try_acquire().unwrap());
        assert_eq!(limit.available(), 0);
        assert!(limit.try_acquire().is_err());
    }
}

#[test]
fn what_is_taken_is_a_residual_until_nothing_of_it_counts() {
    let clock = Clock::manual();
    let limits = all(10, secs(1), &clock);
    clock.advance(millis(300));
    let start = clock.now() - millis(300);
    let residuals = [millis(1_000), millis(1_300), millis(2_000), millis(1_300)];
    for (limit, ends) in limits.iter().zip(residuals) {
        assert_eq!(limit.residual(), None);
        assert!(limit.try_acquire_for(cost(4)).is_ok());
        assert_eq!(limit.residual(), Some(Residual::Until(start + ends)));
    }
    clock.advance(millis(700));
    let until = |millis_: u64| Some(Residual::Until(start + millis(millis_)));
    let residuals: Vec<_> = limits.iter().map(|limit| limit.residual()).collect();
    assert_eq!(residuals, [None, until(1_300), until(2_000), until(1_300)]);
    clock.advance(secs(1));
    assert!(limits.iter().all(|limit| limit.residual().is_none() && limit.available() == 10));
}

#[test]
fn events_tell_what_happened() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    let observer = move |name: &str, event: Event| hears.lock().unwrap().push((name.to_owned(), event));
    for limit in observed(1, secs(1), &Clock::manual(), observer) {
        limit.try_acquire().unwrap().success();
        let rejected = limit.try_acquire().unwrap_err();
        assert_eq!((rejected.by(), rejected.reason()), ("quota", Reason::RateLimited));
        let finished = Event::Finished(Outcome::Success);
        let expected = [Event::Admitted, finished, Event::Rejected(rejected)];
        let heard = std::mem::take(&mut *heard.lock().unwrap());
        assert_eq!(heard, expected.map(|event| ("quota".to_owned(), event)));
    }
}

#[test]
fn in_a_stack_they_reject() {
    static FIXED: FixedWindow = FixedWindow::per(1, CENTURY).from_first_use().name("fixed");
    static COUNTER: SlidingCounter = SlidingCounter::per(1, CENTURY).name("counter");
    static LOG: SlidingLog = SlidingLog::per(1, CENTURY).name("log");
    let ok = || async { Ok::<_, ()>(1) };
    for by in ["fixed", "counter", "log"] {
        let call = || match by {
            "fixed" => block_on((&FIXED,).call_once(ok)),
            "counter" => block_on((&COUNTER,).call_once(ok)),
            _ => block_on((&LOG,).call_once(ok)),
        };
        assert_eq!(call(), Ok(1));
        assert!(matches!(call(), Err(Error::Rejected(rejected)) if rejected.by() == by));
    }
}

/// Trap R3. One per century, and as many as there may be, to the end of time.
#[test]
fn the_extremes_are_served() {
    let clock = Clock::manual();
    let start = clock.now();
    let slow = all(1, CENTURY, &clock);
    let fast: [Box<dyn Window>; 3] = [
        Box::new(FixedWindow::per_second(500_000_000).clock(clock.clone())),
        Box::new(SlidingCounter::per_second(250_000_000).clock(clock.clone())),
        Box::new(SlidingLog::per(u64::MAX, secs(1)).clock(clock.clone())),
    ];
    for _ in 0..2 {
        assert!(slow.iter().all(|limit| limit.try_acquire().is_ok() && limit.try_acquire().is_err()));
        for limit in &fast {
            let available = limit.available();
            let ask = u32::try_from(available).unwrap_or(u32::MAX);
            assert!(limit.try_acquire_for(cost(ask)).is_ok());
            assert_eq!(limit.available(), available - u64::from(ask));
        }
        clock.advance(2 * CENTURY + nanos(2));
        assert!(slow.iter().all(|limit| limit.available() == 1));
        assert!(fast.iter().all(|limit| limit.available() >= 250_000_000));
    }
    clock.advance(start + nanos(u64::MAX - 1) - clock.now());
    for limit in slow.iter().chain(&fast[..2]) {
        assert!(limit.try_acquire_for(cost(limit.available() as u32)).is_ok());
        let rejected = limit.try_acquire().unwrap_err();
        assert_eq!((rejected.reason(), rejected.retry_after()), (Reason::RateLimited, None));
    }
}

#[test]
fn under_a_steady_excess_a_counter_keeps_one_token_back() {
    for (tokens, passes) in [(100, 99), (10, 9), (2, 1)] {
        let clock = Clock::manual();
        let counter = SlidingCounter::per(tokens, secs(1)).clock(clock.clone());
        let mut admitted = [0; 5];
        for period in &mut admitted {
            for _ in 0..1_000 {
                *period += u64::from(counter.try_acquire().is_ok());
                clock.advance(millis(1));
            }
        }
        assert_eq!(admitted, [tokens, passes, passes, passes, passes]);
    }
}

mod absurd_settings {
    use super::*;

    /// The message of what `set` panics with.
    fn message(set: impl FnOnce() + std::panic::UnwindSafe) -> String {
        *std::panic::catch_unwind(set).unwrap_err().downcast::<String>().unwrap()
    }

    /// Trap R13.
    #[test]
    fn are_named_with_their_values() {
        type New = fn(u64, Duration);
        let fixed: New = |tokens, period| drop(FixedWindow::per(tokens, period));
        let counter: New = |tokens, period| drop(SlidingCounter::per(tokens, period));
        let log: New = |tokens, period| drop(SlidingLog::per(tokens, period));
        let longest = "period: 18446744073709551615 must be at most 9223372036854775808 ns (292 years)";
        for new in [fixed, counter, log] {
            assert_eq!(message(|| new(0, secs(1))), "tokens: 0 must be at least 1");
            assert_eq!(message(|| new(1, Duration::ZERO)), "period: 0 must be at least 1 ns");
            assert_eq!(message(|| new(1, Duration::MAX)), longest);
            new(1, nanos(1 << 63));
        }
        for (new, each) in [(fixed, 2), (counter, 4)] {
            new(1_000, nanos(1_000 * each));
            for (tokens, period) in [(1_001, 1_000 * each), (u64::MAX, 1 << 63), (1, each - 1)] {
                let must = format!("must be at most 1 per {each} nanoseconds of the period");
                assert_eq!(message(|| new(tokens, nanos(period))), format!("tokens: {tokens} {must}"));
            }
        }
        log(u64::MAX, nanos(1));
    }
}

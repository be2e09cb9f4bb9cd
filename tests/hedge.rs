//! Hedging: when a further copy is made, which one wins, what becomes of the others, and what bounds them.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use floodwall::{
    Acquire, Bulkhead, Call, CircuitBreaker, Clock, Constant, Error, Event, Exponential, Gate, GiveUp, Hedge,
    Histogram, Outcome, Policy, Reason, Rejected, Retry, RetryBudget, State, Timeout, TokenBucket, block_on,
};
use support::{millis, poll, secs};

/// What a copy does: answers after a time, or hangs.
#[derive(Clone, Copy)]
enum Does {
    Answers(u64),
    Fails(u64),
    Hangs,
}
use Does::{Answers, Fails, Hangs};

/// Plays one behaviour after the other, one per copy, and counts the copies.
struct Server {
    clock: Clock,
    script: Vec<Does>,
    numbers: Mutex<Vec<u16>>,
    running: AtomicU32,
    most: AtomicU32,
}

struct Running<'a>(&'a Server);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    fn new(clock: &Clock, script: &[Does]) -> Self {
        let (clock, script) = (clock.clone(), script.to_vec());
        Self { clock, script, numbers: Mutex::default(), running: AtomicU32::new(0), most: AtomicU32::new(0) }
    }

    /// Answers with the number of the copy.
    async fn answer(&self, call: Call) -> Result<usize, usize> {
        let copy = {
            let mut numbers = self.numbers.lock().unwrap();
            numbers.push(call.attempt);
            numbers.len()
        };
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(running, Ordering::Relaxed);
        let _running = Running(self);
        let does = self.script[copy - 1];
        match does {
            Answers(0) | Fails(0) => {}
            Answers(wait) | Fails(wait) => self.clock.sleep(millis(wait)).await,
            Hangs => std::future::pending().await,
        }
        if matches!(does, Fails(_)) { Err(copy) } else { Ok(copy) }
    }

    fn started(&self) -> Vec<u16> {
        self.numbers.lock().unwrap().clone()
    }

    fn running(&self) -> u32 {
        self.running.load(Ordering::Relaxed)
    }
}

/// Makes a call, and moves the clock by milliseconds until it ends; returns its result and how long it took.
fn run<P: Policy<usize, usize>>(
    clock: &Clock,
    policy: P,
    server: &Server,
    call: Call,
) -> (Result<usize, Error<usize>>, u64) {
    let mut running = Box::pin(policy.call_with(call, |call| server.answer(call)));
    for millis_passed in 0..100_000 {
        if let Poll::Ready(result) = poll(&mut running) {
            return (result, millis_passed);
        }
        clock.advance(millis(1));
    }
    panic!("the call does not end");
}

/// What a call through `policy` comes to, against a server that plays `script`.
fn play(policy: impl Fn(&Clock) -> Hedge, script: &[Does]) -> (Result<usize, Error<usize>>, u64) {
    let clock = Clock::manual();
    let server = Server::new(&clock, script);
    let outcome = run(&clock, policy(&clock), &server, Call::new());
    assert_eq!(server.running(), 0, "a copy outlived its call");
    outcome
}

fn after(delay: u64) -> impl Fn(&Clock) -> Hedge {
    move |clock| Hedge::after(millis(delay)).clock(clock.clone())
}

fn observed(hedge: Hedge) -> (Hedge, Receiver<Event>) {
    let (sender, events) = std::sync::mpsc::channel();
    (hedge.observe("db", move |_: &str, event| sender.send(event).unwrap()), events)
}

#[test]
fn a_call_that_is_ready_at_once_pays_for_no_timer_and_no_copy() {
    // Outside tokio and outside `block_on` there is no timer to be had: asking for one would panic.
    for hedge in [Hedge::after(Duration::ZERO), Hedge::at_quantile(0.95)] {
        let copies = AtomicU32::new(0);
        let mut ready = Box::pin(
            hedge.call(|| std::future::ready(Ok::<_, ()>(copies.fetch_add(1, Ordering::Relaxed) + 1))),
        );
        assert_eq!(poll(&mut ready), Poll::Ready(Ok(1)));
    }
}

#[test]
fn what_comes_first_wins() {
    // The first is quick enough; just not quick enough, but quicker; slower; hangs.
    assert_eq!(play(after(10), &[Answers(9)]), (Ok(1), 9));
    assert_eq!(play(after(10), &[Answers(15), Answers(9)]), (Ok(1), 15));
    assert_eq!(play(after(10), &[Answers(25), Answers(9)]), (Ok(2), 19));
    assert_eq!(play(after(10), &[Hangs, Answers(9)]), (Ok(2), 19));
    // Both at once: the older one.
    assert_eq!(play(after(10), &[Answers(19), Answers(9)]), (Ok(1), 19));
    assert_eq!(play(after(0), &[Hangs, Answers(3)]), (Ok(2), 3));
}

#[test]
fn a_second_further_copy_is_made_if_that_is_allowed() {
    let two = |clock: &Clock| Hedge::after(millis(10)).max(2).clock(clock.clone());
    assert_eq!(play(two, &[Hangs, Hangs, Answers(5)]), (Ok(3), 25));
    assert_eq!(play(two, &[Hangs, Answers(15), Answers(4)]), (Ok(3), 24));
    assert_eq!(play(two, &[Hangs, Answers(13), Answers(4)]), (Ok(2), 23));
}

#[test]
fn a_failure_makes_the_next_copy_start_at_once_and_the_last_failure_comes_out() {
    assert_eq!(play(after(10), &[Fails(3), Answers(4)]), (Ok(2), 7));
    assert_eq!(play(after(10), &[Fails(3), Fails(4)]), (Err(Error::Inner(2)), 7));
    // The copy that runs may still succeed; and what runs is waited for.
    assert_eq!(play(after(10), &[Answers(40), Fails(5)]), (Ok(1), 40));
    assert_eq!(play(after(10), &[Fails(12), Answers(9)]), (Ok(2), 19));
    assert_eq!(play(after(10), &[Fails(0), Fails(0)]), (Err(Error::Inner(2)), 0));
    let two = |clock: &Clock| Hedge::after(millis(10)).max(2).clock(clock.clone());
    assert_eq!(play(two, &[Hangs, Fails(2), Answers(3)]), (Ok(3), 15));
}

#[test]
fn when_and_judge_say_what_a_failure_is() {
    let clock = Clock::manual();
    // What is no failure is an answer, and wins.
    let when = Hedge::after(millis(10))
        .clock(clock.clone())
        .when(|error: &Error<usize>| !matches!(error, Error::Inner(1)));
    let server = Server::new(&clock, &[Fails(3), Answers(1)]);
    assert_eq!(run(&clock, when, &server, Call::new()), (Err(Error::Inner(1)), 3));
    let judge =
        Hedge::after(millis(10)).clock(clock.clone()).judge(|result: &Result<usize, Error<usize>>| {
            match result {
                Ok(1) => Outcome::Failure,
                _ => Outcome::Success,
            }
        });
    let server = Server::new(&clock, &[Answers(3), Answers(1)]);
    assert_eq!(run(&clock, judge, &server, Call::new()), (Ok(2), 4));
}

#[test]
fn a_throttled_copy_makes_no_other() {
    let clock = Clock::manual();
    let hedge = || {
        Hedge::after(millis(10)).max(2).clock(clock.clone()).judge(|result: &Result<usize, Error<usize>>| {
            match result {
                Ok(_) => Outcome::Success,
                Err(_) => Outcome::Throttled { retry_after: None },
            }
        })
    };
    let server = Server::new(&clock, &[Fails(3)]);
    assert_eq!(run(&clock, hedge(), &server, Call::new()), (Err(Error::Inner(1)), 3));
    let server = Server::new(&clock, &[Answers(50), Fails(3)]);
    assert_eq!(run(&clock, hedge(), &server, Call::new()), (Ok(1), 50));
}

#[test]
fn a_copy_that_is_rejected_further_in_leaves_the_others_alone() {
    let clock = Clock::manual();
    let bulkhead = Bulkhead::new(1).name("full");
    let stack = || (Hedge::after(millis(10)).max(2).clock(clock.clone()), &bulkhead);
    let server = Server::new(&clock, &[Answers(40)]);
    assert_eq!(run(&clock, stack(), &server, Call::new()), (Ok(1), 40));
    // The failure that the dependency told is worth more than the rejections after it.
    let server = Server::new(&clock, &[Fails(40)]);
    assert_eq!(run(&clock, stack(), &server, Call::new()), (Err(Error::Inner(1)), 40));
    let breaker = CircuitBreaker::builder().failures(1).clock(clock.clone()).build();
    let server = Server::new(&clock, &[Fails(4)]);
    let opened = (after(10)(&clock), breaker);
    assert_eq!(run(&clock, opened, &server, Call::new()), (Err(Error::Inner(1)), 4));
    let held = bulkhead.try_acquire().unwrap();
    let rejected = Rejected::new("full", Reason::BulkheadFull);
    let nobody = Server::new(&clock, &[]);
    assert_eq!(run(&clock, stack(), &nobody, Call::new()), (Err(Error::Rejected(rejected)), 0));
    held.success();
    assert_eq!(bulkhead.running(), 0);
}

#[test]
fn copies_have_the_numbers_of_attempts_and_their_events() {
    let clock = Clock::manual();
    let (hedge, events) = observed(Hedge::after(millis(10)).max(2).clock(clock.clone()));
    let server = Server::new(&clock, &[Hangs, Fails(5), Answers(5)]);
    assert_eq!(run(&clock, &hedge, &server, Call::new()).0, Ok(3));
    assert_eq!(server.started(), [1, 2, 3]);
    let told = [
        Event::Hedged { copy: 2, delay: millis(10) },
        Event::Hedged { copy: 3, delay: Duration::ZERO },
        Event::HedgeWon { copy: 3 },
    ];
    assert_eq!(events.try_iter().collect::<Vec<_>>(), told);
    // Without a race nobody wins, and where all have failed neither.
    for script in [&[Answers(1)][..], &[Fails(1), Fails(1), Fails(1)]] {
        let _ = run(&clock, &hedge, &Server::new(&clock, script), Call::new());
    }
    assert!(events.try_iter().all(|event| matches!(event, Event::Hedged { .. })));
}

#[test]
fn inside_a_retry_each_attempt_is_hedged() {
    let clock = Clock::manual();
    let retry = Retry::new(Constant::new(millis(5))).clock(clock.clone());
    let stack = (retry, Hedge::after(millis(10)).clock(clock.clone()));
    let server = Server::new(&clock, &[Fails(1), Fails(1), Hangs, Answers(1)]);
    assert_eq!(run(&clock, stack, &server, Call::new()), (Ok(4), 2 + 5 + 11));
    assert_eq!(server.started(), [1, 2, 2, 3]);
}

#[test]
fn the_losers_are_dropped_before_the_result_is_there() {
    let clock = Clock::manual();
    let bulkhead = Arc::new(Bulkhead::new(3).clock(clock.clone()));
    let (seen, inner) = (Arc::new(Mutex::new(Vec::new())), bulkhead.clone());
    let hedge = Hedge::after(millis(10)).clock(clock.clone()).observe("db", {
        let seen = seen.clone();
        move |_: &str, event| seen.lock().unwrap().push((event, inner.running()))
    });
    let server = Server::new(&clock, &[Hangs, Answers(5)]);
    let stack = (hedge, bulkhead.clone());
    let mut call = Box::pin(stack.call_with(Call::new(), |call| server.answer(call)));
    assert!(poll(&mut call).is_pending());
    clock.advance(millis(10));
    assert!(poll(&mut call).is_pending());
    assert_eq!((server.running(), bulkhead.running()), (2, 2));
    clock.advance(millis(5));
    assert_eq!(poll(&mut call), Poll::Ready(Ok(2)));
    assert_eq!((server.running(), bulkhead.running()), (0, 0));
    let hedged = (Event::Hedged { copy: 2, delay: millis(10) }, 1);
    assert_eq!(*seen.lock().unwrap(), [hedged, (Event::HedgeWon { copy: 2 }, 0)]);
}

/// A loser was cancelled: that says nothing of the dependency.
#[test]
fn losers_are_no_failures_to_a_breaker_inside() {
    let clock = Clock::manual();
    let breaker = CircuitBreaker::builder().failures(1).clock(clock.clone()).build();
    let stack = (Hedge::after(millis(10)).clock(clock.clone()), &breaker);
    for _ in 0..20 {
        let server = Server::new(&clock, &[Hangs, Answers(5)]);
        assert_eq!(run(&clock, &stack, &server, Call::new()).0, Ok(2));
    }
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn what_must_not_happen_twice_is_not_hedged() {
    let clock = Clock::manual();
    for script in [[Answers(90)], [Fails(3)]] {
        let server = Server::new(&clock, &script);
        let hedge = Hedge::after(millis(10)).clock(clock.clone());
        let (result, _) = run(&clock, hedge, &server, Call::new().once());
        assert_eq!(result.is_ok(), matches!(script[0], Answers(_)));
        assert_eq!(server.started(), [1]);
    }
}

#[test]
fn no_copy_is_made_that_could_not_answer_before_the_deadline() {
    let clock = Clock::manual();
    let made = |delay, script: &[Does], limit| {
        let server = Server::new(&clock, script);
        let stack = (
            Timeout::new(millis(limit)).clock(clock.clone()),
            Hedge::after(millis(delay)).clock(clock.clone()),
        );
        let _ = run(&clock, stack, &server, Call::new());
        server.started().len()
    };
    assert_eq!(made(10, &[Hangs, Hangs], 11), 2);
    assert_eq!(made(10, &[Hangs], 10), 1);
    assert_eq!(made(10, &[Fails(4), Hangs], 5), 2);
    // Too late for a copy that is made since one failed, too.
    let slow = Server::new(&clock, &[Fails(20)]);
    let late = Call::new().deadline(clock.now() + millis(20));
    let hedge = Hedge::after(millis(50)).clock(clock.clone());
    assert_eq!(run(&clock, hedge, &slow, late), (Err(Error::Inner(1)), 20));
    // A measured hedge knows that half of the copies take 40 ms and more.
    let measured = Hedge::at_quantile(0.9).clock(clock.clone());
    for _ in 0..100 {
        let server = Server::new(&clock, &[Answers(40)]);
        assert_eq!(run(&clock, &measured, &server, Call::new()), (Ok(1), 40));
    }
    clock.advance(secs(1));
    assert!((millis(40)..millis(43)).contains(&measured.delay()), "{:?}", measured.delay());
    for (limit, copies) in [(79, 1), (90, 2)] {
        let server = Server::new(&clock, &[Hangs, Hangs]);
        let stack = (Timeout::new(millis(limit)).clock(clock.clone()), &measured);
        let _ = run(&clock, stack, &server, Call::new());
        assert_eq!(server.started().len(), copies, "within {limit} ms");
    }
}

/// Latencies that a seed draws, each from 0 to 40 ms, some of them failures.
fn drawn(seed: u64) -> Vec<Does> {
    let seconds = floodwall::Backoff::from(Exponential::new(millis(40)).max(millis(40)).attempts(9));
    let drawn = seconds.delays(seed).map(|delay| delay.as_millis() as u64);
    drawn.map(|wait| if wait % 3 == 0 { Fails(wait) } else { Answers(wait) }).collect()
}

/// The obvious twin: goes through the milliseconds and looks at every copy. Returns the result, how long it takes, and
/// how many copies are made.
fn twin(delay: u64, max: usize, script: &[Does]) -> (Result<usize, usize>, u64, usize) {
    let (mut running, mut started, mut last_start) = (vec![(1, 0)], 1, 0);
    for now in 0.. {
        loop {
            let (mut has_failed, mut last_failure) = (false, 0);
            for (copy, start) in std::mem::take(&mut running) {
                match script[copy - 1] {
                    Answers(takes) if now >= start + takes => return (Ok(copy), now, started),
                    Fails(takes) if now >= start + takes => (has_failed, last_failure) = (true, copy),
                    _ => running.push((copy, start)),
                }
            }
            let is_due = !running.is_empty() && now >= last_start + delay;
            if started <= max && (has_failed || is_due) {
                started += 1;
                last_start = now;
                running.push((started, now));
            } else if running.is_empty() {
                return (Err(last_failure), now, started);
            } else {
                break;
            }
        }
    }
    unreachable!("time does not end")
}

#[test]
fn random_races_end_as_their_twin_says() {
    for seed in 0..3_000 {
        let clock = Clock::manual();
        let (max, delay) = (1 + seed as usize % 2, seed % 25);
        let script = drawn(seed);
        let server = Server::new(&clock, &script);
        let hedge = Hedge::after(millis(delay)).max(max).clock(clock.clone());
        let (result, took) = run(&clock, hedge, &server, Call::new());
        let (expected, expected_time, copies) = twin(delay, max, &script);
        assert_eq!((result, took), (expected.map_err(Error::Inner), expected_time), "seed {seed}");
        assert_eq!(server.started().len(), copies, "seed {seed}");
        assert!(server.most.load(Ordering::Relaxed) as usize <= 1 + max);
        assert_eq!(server.running(), 0);
    }
}

#[test]
fn a_budget_that_is_used_up_leaves_the_first_copy_alone() {
    let clock = Clock::manual();
    let budget = Arc::new(RetryBudget::of_calls(0.001).min_per_second(0).burst(1));
    let (hedge, events) = observed(Hedge::after(millis(10)).clock(clock.clone()).budget(budget.clone()));
    let server = Server::new(&clock, &[Hangs, Answers(5)]);
    assert_eq!(run(&clock, &hedge, &server, Call::new()).0, Ok(2));
    let _ = events.try_iter().count();
    let server = Server::new(&clock, &[Answers(50)]);
    assert_eq!(run(&clock, &hedge, &server, Call::new()), (Ok(1), 50));
    let gave_up = Event::GaveUp { attempts: 1, why: GiveUp::Budget };
    assert_eq!(events.try_iter().collect::<Vec<_>>(), [gave_up]);
    // A retry that shares it finds it empty too.
    let retry = Retry::new(Constant::new(millis(1))).clock(clock.clone()).budget(budget);
    let server = Server::new(&clock, &[Fails(1)]);
    assert_eq!(run(&clock, retry, &server, Call::new()), (Err(Error::Inner(1)), 1));
}

#[test]
fn copies_give_their_places_in_a_running_budget_back() {
    let clock = Clock::manual();
    let budget = Arc::new(RetryBudget::of_running(0.1).min(1));
    let hedge = Hedge::after(millis(10)).max(2).clock(clock.clone()).budget(budget.clone());
    for polls in 0..6 {
        let server = Server::new(&clock, &[Hangs, Hangs]);
        let mut call = Box::pin(hedge.call_with(Call::new(), |call| server.answer(call)));
        for _ in 0..polls {
            assert!(poll(&mut call).is_pending());
            clock.advance(millis(5));
        }
        assert_eq!(server.started().len(), [0, 1, 1, 2, 2, 2][polls]);
        assert_eq!(budget.available(), u64::from(polls < 3));
        drop(call);
        assert_eq!((budget.available(), server.running()), (1, 0));
    }
    // A copy that has failed holds nothing, while the call goes on.
    let server = Server::new(&clock, &[Hangs, Fails(1), Answers(1)]);
    assert_eq!(run(&clock, &hedge, &server, Call::new()), (Ok(3), 12));
}

/// The storm: all calls become ten times as slow, so that each one would be copied.
#[test]
fn when_all_calls_become_slow_the_budget_bounds_the_copies() {
    let clock = Clock::manual();
    let budget = RetryBudget::of_calls(0.1).min_per_second(0).burst(10);
    let hedge = Hedge::at_quantile(0.95).clock(clock.clone()).budget(budget);
    let copies_of = |calls: u64, takes: u64| {
        let mut copies = 0;
        for _ in 0..calls {
            let server = Server::new(&clock, &[Answers(takes), Answers(takes)]);
            assert_eq!(run(&clock, &hedge, &server, Call::new()).0, Ok(1));
            copies += server.started().len() as u64 - 1;
        }
        copies
    };
    assert_eq!(copies_of(1_000, 10), 0);
    assert!((millis(10)..millis(11)).contains(&hedge.delay()));
    // Until one in twenty of the last minute's calls was slow it goes by the old delay, and would copy each.
    let copies = copies_of(50, 100);
    assert!((10..=15).contains(&copies), "{copies} copies of 50 calls");
    copies_of(100, 100);
    // By then it knows.
    assert!((millis(100)..millis(107)).contains(&hedge.delay()), "{:?}", hedge.delay());
    assert_eq!(copies_of(100, 100), 0);
}

#[test]
fn the_delay_is_the_quantile_of_the_last_minute_between_its_bounds() {
    let clock = Clock::manual();
    let hedge = Hedge::at_quantile(0.9).between(millis(4), millis(60)).clock(clock.clone());
    let measure = |takes: &mut dyn Iterator<Item = u64>| {
        for takes in takes {
            let server = Server::new(&clock, &[Answers(takes), Hangs]);
            assert_eq!(run(&clock, &hedge, &server, Call::new()).0, Ok(1));
        }
        clock.advance(secs(1));
        hedge.delay()
    };
    assert_eq!(measure(&mut (0..99).map(|_| 1)), millis(60), "99 samples are not enough");
    assert_eq!(measure(&mut [1].into_iter()), millis(4));
    // A minute later all that is forgotten.
    clock.advance(secs(60));
    assert_eq!(hedge.delay(), millis(60));
    let delay = measure(&mut (0..200).map(|number| number % 40 + 1));
    assert!((millis(36)..=millis(36) * 17 / 16).contains(&delay), "{delay:?}");
    clock.advance(secs(60));
    assert_eq!(measure(&mut (0..200).map(|_| 90)), millis(60));
}

/// Were the copies that lost simply left out, the slow ones would vanish from what is measured: the delay sinks, more of
/// them lose, and so on down to the floor.
#[test]
fn copies_that_lost_keep_the_delay_from_sinking() {
    let clock = Clock::manual();
    let hedge = Hedge::at_quantile(0.75).between(millis(1), millis(120)).clock(clock.clone());
    let mut delays = Vec::new();
    for round in 0..15 {
        for number in 0..200u64 {
            // One in five hangs, the rest take 1 to 100 ms; a second copy answers at once.
            let first = if number % 5 == 0 { Hangs } else { Answers((number * 37 + round) % 100 + 1) };
            let server = Server::new(&clock, &[first, Answers(0)]);
            assert!(run(&clock, &hedge, &server, Call::new()).0.is_ok());
        }
        clock.advance(secs(1));
        delays.push(hedge.delay().as_millis());
    }
    // Three quarters of all are 94 % of those that answer.
    assert!(delays.iter().all(|delay| (85..=105).contains(delay)), "{delays:?}");
}

#[test]
fn failures_and_calls_that_were_dropped_early_lower_no_delay() {
    let clock = Clock::manual();
    let hedge = Hedge::at_quantile(0.9).between(millis(1), millis(30)).clock(clock.clone());
    for _ in 0..200 {
        let server = Server::new(&clock, &[Fails(1), Fails(1)]);
        assert!(run(&clock, &hedge, &server, Call::new()).0.is_err());
        let server = Server::new(&clock, &[Hangs]);
        let mut dropped = Box::pin(hedge.call_with(Call::new(), |call| server.answer(call)));
        assert!(poll(&mut dropped).is_pending());
        clock.advance(millis(2));
    }
    clock.advance(secs(1));
    assert_eq!(hedge.delay(), millis(30), "nothing was measured");
    // Dropped beyond the delay, it belongs to the slow ones.
    for number in 0..200 {
        let server = Server::new(&clock, &[if number % 4 == 0 { Hangs } else { Answers(3) }, Hangs]);
        let stack = (Timeout::new(millis(45)).clock(clock.clone()), &hedge);
        let _ = run(&clock, stack, &server, Call::new());
    }
    clock.advance(secs(1));
    assert_eq!(hedge.delay(), millis(30), "a quarter takes longer than 3 ms");
}

#[test]
fn a_first_copy_that_was_rejected_raises_no_delay() {
    let clock = Clock::manual();
    let bulkhead = Bulkhead::new(1).clock(clock.clone());
    let hedge = Hedge::at_quantile(0.9).between(millis(1), millis(30)).clock(clock.clone());
    let stack = (&hedge, (&bulkhead).wait_up_to(millis(20)));
    for _ in 0..200 {
        let server = Server::new(&clock, &[Answers(3)]);
        assert_eq!(run(&clock, stack, &server, Call::new()), (Ok(1), 3));
    }
    clock.advance(secs(1));
    let delay = hedge.delay();
    let held = bulkhead.try_acquire().unwrap();
    for _ in 0..200 {
        let nobody = Server::new(&clock, &[]);
        assert!(matches!(run(&clock, stack, &nobody, Call::new()), (Err(Error::Rejected(_)), 20..)));
    }
    held.success();
    clock.advance(secs(1));
    assert_eq!(hedge.delay(), delay);
}

/// What hedging is for, by the figures of "The Tail at Scale".
#[test]
fn at_the_95th_percentile_it_cuts_the_tail_for_a_twentieth_more_calls() {
    let calls_take = |hedge: Option<Hedge>, clock: &Clock| {
        let (latency, mut copies) = (Histogram::new(), 0);
        for number in 0..4_000u64 {
            // Most take 5 to 20 ms, and three in a hundred half a second: of the first copies and of the others.
            let draw = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let takes = |draw: u64| if draw % 100 < 3 { 500 } else { 5 + draw % 16 };
            let script = [Answers(takes(draw >> 40)), Answers(takes(draw >> 20))];
            let server = Server::new(clock, &script);
            let (result, took) = run(clock, &hedge, &server, Call::new());
            assert!(result.is_ok());
            latency.record(millis(took));
            copies += server.started().len() as u64;
        }
        (latency.quantile(0.5).unwrap(), latency.quantile(0.99).unwrap(), copies)
    };
    let clock = Clock::manual();
    let (median, p99, copies) = calls_take(None, &clock);
    assert!(median < millis(15) && p99 > millis(480) && copies == 4_000);
    let hedge = Hedge::at_quantile(0.95).clock(clock.clone()).budget(RetryBudget::of_calls(0.1));
    let (hedged_median, hedged_p99, copies) = calls_take(Some(hedge), &clock);
    println!("p99 {p99:?} without, {hedged_p99:?} with hedges, {copies} copies of 4,000 calls");
    assert_eq!(hedged_median, median);
    assert!(hedged_p99 < millis(45), "{hedged_p99:?}");
    assert!(copies < 4_220, "{copies} copies of 4,000 calls");
}

#[tokio::test(start_paused = true)]
async fn a_spawned_call_is_hedged_in_its_own_task() {
    let stack = Arc::new((
        Timeout::new(secs(2)),
        Hedge::after(millis(50)).budget(RetryBudget::of_calls(0.1)),
        CircuitBreaker::builder().build(),
        Bulkhead::new(8),
        TokenBucket::per_second(500),
    ));
    let copies = Arc::new(AtomicU64::new(0));
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let (stack, copies) = (stack.clone(), copies.clone());
            tokio::spawn(async move {
                stack
                    .call(|| async {
                        if copies.fetch_add(1, Ordering::Relaxed) % 2 == 0 {
                            tokio::time::sleep(secs(1)).await;
                        }
                        Ok::<_, ()>(())
                    })
                    .await
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(()));
    }
    assert!(copies.load(Ordering::Relaxed) >= 4);
    assert_eq!(stack.3.running(), 0);
}

#[test]
fn hedges_nest_and_a_policy_may_be_switched_off() {
    let clock = Clock::manual();
    let stack = (Some(after(10)(&clock)), None::<Hedge>, after(3)(&clock));
    let server = Server::new(&clock, &[Hangs, Hangs, Hangs, Answers(1)]);
    assert_eq!(run(&clock, stack, &server, Call::new()), (Ok(4), 14));
    assert_eq!(block_on(None::<Hedge>.call(|| async { Ok::<_, ()>(1) })), Ok(1));
}

#[test]
fn a_hedge_is_a_constant() {
    const HEDGE: Hedge = Hedge::after(Duration::from_millis(80)).max(2).name("search");
    assert_eq!(HEDGE.delay(), millis(80));
    assert_eq!(format!("{HEDGE:?}"), r#"Hedge { name: "search", delay: 80ms, .. }"#);
}

#[test]
#[should_panic(expected = "max: 3 must be 1 or 2")]
fn more_copies_than_there_are_places_are_refused() {
    let _ = Hedge::after(millis(1)).max(3);
}

#[test]
#[should_panic(expected = "q: 95 must be between 0.5 and 0.9999")]
fn a_percentage_is_not_a_quantile() {
    let _ = Hedge::at_quantile(95.0);
}

#[test]
#[should_panic(expected = "between: the delay is not measured: start with at_quantile")]
fn bounds_of_a_fixed_delay_are_refused() {
    let _ = Hedge::after(millis(1)).between(millis(1), millis(2));
}

/// A hedge outside a failover: the copies of a call race alternates.
mod alternates {
    use super::*;
    use floodwall::Failover;

    /// Alternates, of which each does the same to every call, and a log of who was asked by which copy.
    struct Origins {
        clock: Clock,
        failover: Failover,
        does: Mutex<Vec<Does>>,
        asked: Mutex<Vec<(u16, usize)>>,
    }

    /// What came out of a call, after how many milliseconds, and which copy asked which alternate.
    type Told = (Result<usize, Error<usize>>, u64, Vec<(u16, usize)>);

    impl Origins {
        fn new(does: &[Does]) -> Self {
            let clock = Clock::manual();
            let failover = Failover::new(does.len()).clock(clock.clone());
            Self { clock, failover, does: Mutex::new(does.to_vec()), asked: Mutex::default() }
        }

        fn hedged(&self) -> (Hedge, &Failover) {
            (Hedge::after(millis(10)).clock(self.clock.clone()), &self.failover)
        }

        fn now_does(&self, alternate: usize, does: Does) {
            self.does.lock().unwrap()[alternate] = does;
        }

        /// Answers with the number of the alternate.
        async fn answer(&self, call: Call) -> Result<usize, usize> {
            let alternate = call.alternate();
            self.asked.lock().unwrap().push((call.attempt, alternate));
            let does = self.does.lock().unwrap()[alternate];
            match does {
                Answers(wait) | Fails(wait) => self.clock.sleep(millis(wait)).await,
                Hangs => std::future::pending().await,
            }
            if matches!(does, Fails(_)) { Err(alternate) } else { Ok(alternate) }
        }

        /// Makes a hedged call.
        fn call(&self) -> Told {
            let stack = self.hedged();
            let mut running = Box::pin(stack.call_with(Call::new(), |call| self.answer(call)));
            for passed in 0..1_000 {
                if let Poll::Ready(result) = poll(&mut running) {
                    return (result, passed, std::mem::take(&mut *self.asked.lock().unwrap()));
                }
                self.clock.advance(millis(1));
            }
            panic!("the call does not end");
        }

        fn resting(&self) -> Vec<usize> {
            let count = self.does.lock().unwrap().len();
            (0..count).filter(|alternate| self.failover.is_resting(*alternate)).collect()
        }
    }

    #[test]
    fn a_further_copy_asks_the_next_alternate() {
        let origins = Origins::new(&[Hangs, Answers(5), Answers(5)]);
        assert_eq!(origins.call(), (Ok(1), 15, vec![(1, 0), (2, 1)]));
        let two = (origins.hedged().0.max(2), &origins.failover);
        origins.now_does(1, Hangs);
        let mut call = Box::pin(two.call_with(Call::new(), |call| origins.answer(call)));
        for _ in 0..25 {
            assert!(poll(&mut call).is_pending());
            origins.clock.advance(millis(1));
        }
        assert_eq!(poll(&mut call), Poll::Ready(Ok(2)));
        assert_eq!(*origins.asked.lock().unwrap(), [(1, 0), (2, 1), (3, 2)]);
    }

    #[test]
    fn copies_pass_over_whoever_rests() {
        let origins = Origins::new(&[Fails(1), Hangs, Answers(5)]);
        // The first copy goes on from the failure; the other one meets neither of its two alternates.
        assert_eq!(origins.call(), (Ok(2), 15, vec![(1, 0), (1, 1), (2, 2)]));
        assert_eq!(origins.call(), (Ok(2), 15, vec![(1, 1), (2, 2)]));
        assert_eq!(origins.resting(), [0]);
    }

    #[test]
    fn one_that_is_well_is_asked_twice_rather_than_one_that_rests() {
        let origins = Origins::new(&[Fails(1), Answers(12)]);
        assert_eq!(origins.call().0, Ok(1));
        assert_eq!(origins.call(), (Ok(1), 12, vec![(1, 1), (2, 1)]));
    }

    /// Whoever asks it is slow to hear from it; but so is whoever asks a server that is merely busy.
    #[test]
    fn the_loser_of_a_race_does_not_lay_its_alternate_to_rest() {
        let origins = Origins::new(&[Hangs, Answers(5)]);
        for _ in 0..20 {
            assert_eq!(origins.call(), (Ok(1), 15, vec![(1, 0), (2, 1)]));
            assert_eq!(origins.resting(), [0; 0]);
        }
        // Nor where the further copy is the one that loses, though it has moved on from a failure.
        let origins = Origins::new(&[Answers(14), Fails(2), Hangs]);
        assert_eq!(origins.call(), (Ok(0), 14, vec![(1, 0), (2, 1), (2, 2)]));
        assert_eq!(origins.resting(), [1]);
    }

    /// What does: a timeout inside, which a copy reaches that no other one has overtaken.
    #[test]
    fn a_copy_that_runs_out_of_time_lays_its_alternate_to_rest() {
        let origins = Origins::new(&[Hangs, Answers(25)]);
        let attempt = Timeout::new(millis(30)).clock(origins.clock.clone());
        let stack = (origins.hedged().0, &origins.failover, attempt);
        let mut call = Box::pin(stack.call_with(Call::new(), |call| origins.answer(call)));
        for _ in 0..35 {
            assert!(poll(&mut call).is_pending());
            origins.clock.advance(millis(1));
        }
        assert_eq!(poll(&mut call), Poll::Ready(Ok(1)));
        assert_eq!(*origins.asked.lock().unwrap(), [(1, 0), (2, 1), (1, 1)]);
        assert_eq!(origins.resting(), [0]);
    }

    #[test]
    fn a_further_copy_whose_alternate_fails_goes_on_and_not_back_to_where_the_first_copy_waits() {
        let origins = Origins::new(&[Hangs, Fails(1), Answers(5)]);
        assert_eq!(origins.call(), (Ok(2), 16, vec![(1, 0), (2, 1), (2, 2)]));
        // Around, once there is nobody left further down.
        let origins = Origins::new(&[Answers(20), Fails(1), Fails(1)]);
        assert_eq!(origins.call(), (Ok(0), 20, vec![(1, 0), (2, 1), (2, 2), (2, 0)]));
    }

    #[test]
    fn a_rest_that_ends_between_two_copies_does_not_make_them_meet() {
        for alternates in [2, 3] {
            let origins = Origins::new(&[Fails(0), Answers(30), Answers(5)][..alternates]);
            assert_eq!(origins.call().0, Ok([1, 2][alternates - 2]));
            origins.asked.lock().unwrap().clear();
            origins.now_does(0, Answers(5));
            // The next call begins just before the rest of one second is over.
            let began = if alternates == 2 { 30 } else { 15 };
            origins.clock.advance(secs(1) - millis(began) - millis(5));
            assert!(origins.failover.is_resting(0));
            let other = [0, 2][alternates - 2];
            assert_eq!(origins.call(), (Ok(other), 15, vec![(1, 1), (2, other)]));
        }
    }

    #[test]
    fn a_probe_that_is_overtaken_or_dropped_is_given_back() {
        let origins = Origins::new(&[Fails(0), Answers(5)]);
        assert_eq!(origins.call().0, Ok(1));
        origins.now_does(0, Hangs);
        origins.clock.advance(secs(1));
        for _ in 0..3 {
            // Each one is the probe, and none of them makes the rest longer.
            assert_eq!(origins.call(), (Ok(1), 15, vec![(1, 0), (2, 1)]));
        }
        let stack = origins.hedged();
        let mut dropped = Box::pin(stack.call_with(Call::new(), |call| origins.answer(call)));
        assert!(poll(&mut dropped).is_pending());
        let beside = block_on(
            origins
                .failover
                .call_with(Call::new(), |call| std::future::ready(Ok::<_, usize>(call.alternate()))),
        );
        assert_eq!(beside, Ok(1), "one probe at a time");
        drop(dropped);
        origins.asked.lock().unwrap().clear();
        origins.now_does(0, Answers(5));
        assert_eq!(origins.call(), (Ok(0), 5, vec![(1, 0)]));
        assert_eq!(origins.call(), (Ok(0), 5, vec![(1, 0)]), "it is back");
    }

    /// A copy has failed when all alternates have. So the next one is a retry, and comes out of the budget.
    #[test]
    fn when_all_have_failed_a_further_copy_asks_them_all_again_if_the_budget_allows() {
        let origins = Origins::new(&[Fails(1), Fails(1), Fails(1)]);
        let (result, took, asked) = origins.call();
        assert_eq!((result, took), (Err(Error::Inner(2)), 6));
        assert_eq!(asked, [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]);
        let budget = RetryBudget::of_calls(0.001).min_per_second(0).burst(1);
        let stack = (origins.hedged().0.budget(budget), &origins.failover);
        for asked in [6, 3, 3] {
            let mut call = Box::pin(stack.call_with(Call::new(), |call| origins.answer(call)));
            for _ in 0..asked {
                assert!(poll(&mut call).is_pending());
                origins.clock.advance(millis(1));
            }
            assert_eq!(poll(&mut call), Poll::Ready(Err(Error::Inner(2))));
            assert_eq!(std::mem::take(&mut *origins.asked.lock().unwrap()).len(), asked);
        }
    }

    #[test]
    fn inside_a_failover_both_copies_ask_the_same_alternate() {
        let origins = Origins::new(&[Hangs, Answers(5)]);
        let stack = (&origins.failover, origins.hedged().0);
        let mut call = Box::pin(stack.call_with(Call::new(), |call| origins.answer(call)));
        for _ in 0..100 {
            assert!(poll(&mut call).is_pending());
            origins.clock.advance(millis(1));
        }
        assert_eq!(*origins.asked.lock().unwrap(), [(1, 0), (2, 0)]);
    }
}

//! Faults, delays and answers on purpose: only when enabled, as often as told, the same in each run.
#![cfg(not(floodwall_loom))]

mod support;

use std::task::Poll;

use floodwall::{
    Blocking, Call, Chaos, CircuitBreaker, Clock, Constant, Error, Event, Fallback, Gate, Outcome, Policy,
    Reason, Rejected, Retry, State, TimedOut, Timeout, block_on,
};
use support::{millis, poll, secs};

/// Which of 100 calls fail.
fn struck(chaos: &Chaos<impl floodwall::chaos::Inject<u32, &'static str>>) -> Vec<bool> {
    (0..100).map(|_| chaos.call_blocking(|| Ok::<_, &'static str>(1)).is_err()).collect()
}

#[test]
fn it_is_off_until_it_is_enabled_and_can_be_switched_at_any_time() {
    let chaos = Chaos::fail(1.0, || "chaos");
    assert!(!chaos.is_enabled() && struck(&chaos).iter().all(|struck| !struck));
    chaos.enable();
    assert!(chaos.is_enabled() && struck(&chaos).iter().all(|struck| *struck));
    chaos.disable();
    assert!(!chaos.is_enabled() && struck(&chaos).iter().all(|struck| !struck));
}

#[test]
fn the_rate_holds_at_its_ends_and_between_and_changes_at_run_time() {
    let chaos = Chaos::fail(0.0, || "chaos").seed(1);
    chaos.enable();
    assert!(struck(&chaos).iter().all(|struck| !struck));
    chaos.set_rate(1.0);
    assert!(struck(&chaos).iter().all(|struck| *struck));
    chaos.set_rate(0.3);
    let count = (0..100).flat_map(|_| struck(&chaos)).filter(|struck| *struck).count();
    assert!((2_800..3_200).contains(&count), "{count} of 10,000 calls failed");
    chaos.set_rate(f64::MIN_POSITIVE);
    assert!(chaos.is_enabled() && struck(&chaos).iter().all(|struck| !struck), "a rate does not switch");
    chaos.disable();
    chaos.set_rate(1.0);
    assert!(!chaos.is_enabled() && struck(&chaos).iter().all(|struck| !struck), "nor does it enable");
}

#[test]
fn the_same_seed_strikes_the_same_calls() {
    let run = |seed| {
        let chaos = Chaos::fail(0.5, || "chaos").seed(seed);
        chaos.enable();
        struck(&chaos)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn faults_and_answers_come_instead_of_the_call() {
    fn ends_with<I: floodwall::chaos::Inject<u16, &'static str>>(
        chaos: Chaos<I>,
    ) -> Result<u16, Error<&'static str>> {
        chaos.enable();
        let made = chaos.call_blocking(|| panic!("the call was made"));
        assert_eq!(block_on(chaos.call(|| async { panic!("the call was made") })), made);
        assert_eq!(block_on(chaos.call_once(|| async { panic!("the call was made") })), made);
        made
    }
    assert_eq!(ends_with(Chaos::fail(1.0, || "reset")), Err(Error::Inner("reset")));
    assert_eq!(ends_with(Chaos::answer(1.0, || 503)), Ok(503));
    let rejected = Rejected::new("chaos", Reason::CircuitOpen);
    assert_eq!(
        ends_with(Chaos::reject(1.0, Reason::CircuitOpen).name("chaos")),
        Err(Error::Rejected(rejected))
    );
    let timed_out = TimedOut::new("chaos", millis(1));
    assert_eq!(ends_with(Chaos::time_out(1.0, millis(1)).name("chaos")), Err(Error::TimedOut(timed_out)));
}

#[test]
fn a_delay_comes_before_the_call() {
    let clock = Clock::manual();
    let chaos = Chaos::delay(1.0, secs(5)).clock(clock.clone());
    chaos.enable();
    let mut call = Box::pin(chaos.call(|| async { Ok::<_, ()>(1) }));
    assert!(poll(&mut call).is_pending());
    clock.advance(millis(4_999));
    assert!(poll(&mut call).is_pending());
    clock.advance(millis(1));
    assert_eq!(poll(&mut call), Poll::Ready(Ok(1)));
}

#[test]
fn a_delay_on_a_thread_is_slept() {
    let clock = Clock::manual();
    let chaos = Chaos::delay(1.0, secs(5)).clock(clock.clone());
    chaos.enable();
    let start = clock.now();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| chaos.call_blocking(|| Ok::<_, ()>(clock.now() - start)));
        while !call.is_finished() {
            clock.advance(millis(1));
            std::thread::yield_now();
        }
        assert!(call.join().unwrap().unwrap() >= secs(5));
    });
}

#[test]
fn a_time_out_takes_its_time() {
    let clock = Clock::manual();
    let chaos = Chaos::time_out(1.0, secs(2)).clock(clock.clone());
    chaos.enable();
    let mut call = Box::pin(chaos.call(|| async { Ok::<_, ()>(1) }));
    assert!(poll(&mut call).is_pending());
    clock.advance(secs(2));
    assert_eq!(poll(&mut call), Poll::Ready(Err(Error::TimedOut(TimedOut::new("", secs(2))))));
}

#[test]
fn innermost_it_stands_for_the_dependency() {
    let clock = Clock::manual();
    let breaker = CircuitBreaker::builder().failures(3).clock(clock.clone()).build();
    let slow = Chaos::delay(1.0, secs(5)).clock(clock.clone());
    let stack = (
        Fallback::with(0),
        Retry::new(Constant::new(millis(0)).attempts(3)).clock(clock.clone()),
        &breaker,
        Timeout::new(secs(1)).clock(clock.clone()),
        &slow,
    );
    slow.enable();
    let mut call = Box::pin(stack.call(|| async { Ok::<_, ()>(1) }));
    let answer = (0..20).find_map(|_| {
        clock.advance(millis(500));
        if let Poll::Ready(answer) = poll(&mut call) { Some(answer) } else { None }
    });
    assert_eq!((answer, breaker.state()), (Some(Ok(0)), State::Open));
}

#[test]
fn injected_answers_are_judged_as_real_ones() {
    let breaker = CircuitBreaker::builder().failures(1).build();
    let judged = breaker.judge(|result: &Result<u16, Error<()>>| match result {
        Ok(500..) | Err(_) => Outcome::Failure,
        Ok(_) => Outcome::Success,
    });
    let chaos = Chaos::answer(1.0, || 503);
    chaos.enable();
    assert_eq!((&judged, chaos).call_blocking(|| Ok(200)), Ok(503));
    assert_eq!(judged.state(), State::Open);
}

#[test]
fn it_tells_its_observer_of_what_it_did_and_of_nothing_else() {
    let (sender, events) = std::sync::mpsc::channel();
    let chaos = Chaos::fail(1.0, || ()).observe("chaos", move |_: &str, event| sender.send(event).unwrap());
    assert_eq!(chaos.call_blocking(|| Ok(1)), Ok(1));
    chaos.enable();
    assert_eq!(chaos.call_blocking(|| Ok(1)), Err(Error::Inner(())));
    assert_eq!(events.try_iter().collect::<Vec<_>>(), [Event::Injected]);
}

#[test]
fn a_call_cancelled_in_its_delay_was_never_made() {
    let clock = Clock::manual();
    let chaos = Chaos::delay(1.0, secs(5)).clock(clock.clone());
    chaos.enable();
    let mut call = Box::pin(chaos.call_with(Call::new(), |_| async { panic!("made") as Result<(), ()> }));
    assert!(poll(&mut call).is_pending());
    drop(call);
    clock.advance(secs(5));
}

#[test]
#[should_panic(expected = "rate: 1.1 must be at least 0 and at most 1")]
fn more_than_all_calls_is_refused() {
    let _ = Chaos::delay(1.1, secs(1));
}

#[test]
#[should_panic(expected = "rate: NaN must be at least 0 and at most 1")]
fn a_rate_that_is_no_number_is_refused_at_run_time_too() {
    Chaos::delay(1.0, secs(1)).set_rate(f64::NAN);
}

//! What a client keeps back from a server that refuses.
#![cfg(not(floodwall_loom))]

mod support;

use floodwall::{
    AdaptiveThrottle, Blocking, Call, Clock, Error, Event, Gate, Outcome, Permit, Policy, Reason, Residual,
    block_on,
};
use support::{millis, secs};

fn throttle() -> (AdaptiveThrottle, Clock) {
    let clock = Clock::manual();
    (AdaptiveThrottle::new().seed(7).clock(clock.clone()), clock)
}

/// A server in virtual time that accepts so many calls in 10 ms and refuses the rest, and spends as much on five
/// refusals as on one acceptance.
struct Server {
    per_tick: f64,
    budget: f64,
    sent: u64,
    accepted: u64,
}

impl Server {
    fn new(per_second: f64) -> Self {
        Self { per_tick: per_second / 100.0, budget: 0.0, sent: 0, accepted: 0 }
    }

    fn accepts(&mut self) -> bool {
        self.sent += 1;
        let accepts = self.budget >= 1.0;
        self.budget -= if accepts { 1.0 } else { 0.2 };
        self.accepted += u64::from(accepts);
        accepts
    }

    /// 10 ms of `calls` calls.
    fn tick(&mut self, calls: u64, gate: Option<(&AdaptiveThrottle, &Clock)>) {
        // A tenth of a second is saved up; what refusals cost too much is paid later, up to a second's worth.
        self.budget = (self.budget + self.per_tick).min(10.0 * self.per_tick).max(-100.0 * self.per_tick);
        for _ in 0..calls {
            match gate.map(|(throttle, _)| throttle.try_acquire()).transpose() {
                Ok(None) => drop(self.accepts()),
                Ok(Some(permit)) => {
                    permit.report(if self.accepts() { Outcome::Success } else { Outcome::Failure })
                }
                Err(_) => {}
            }
        }
        if let Some((_, clock)) = gate {
            clock.advance(millis(10));
        }
    }
}

#[test]
fn a_server_that_is_asked_for_ten_times_what_it_can_do_serves_on_with_it_and_hardly_without() {
    // A hundred a second, asked for a thousand a second, for two minutes.
    let run = |gate| {
        let mut server = Server::new(100.0);
        (0..12_000).for_each(|_| server.tick(10, gate));
        (server.accepted, server.sent)
    };
    let (throttle, clock) = throttle();
    let (accepted, sent) = run(Some((&throttle, &clock)));
    // Asked for twice what it accepts, it spends a sixth on refusing.
    assert!(accepted > 9_000 && sent < 3 * accepted, "{accepted} of {sent} that were sent, of 120,000");
    let (without, _) = run(None);
    assert!(without < accepted / 2, "{without} without it, {accepted} with it");
}

/// Returns after how long 99 of 100 calls a second pass again, when the server is well after an outage.
fn recovers_after(throttle: &AdaptiveThrottle, clock: &Clock, outage: u64) -> u64 {
    for _ in 0..outage * 100 {
        if let Ok(permit) = throttle.try_acquire() {
            permit.failure();
        }
        clock.advance(millis(10));
    }
    for second in 1..=3_600 {
        let mut passed = 0;
        for _ in 0..100 {
            if let Ok(permit) = throttle.try_acquire() {
                permit.success();
                passed += 1;
            }
            clock.advance(millis(10));
        }
        assert!(passed >= 1, "no call passed in second {second}");
        if passed >= 99 {
            return second;
        }
    }
    panic!("it is stuck");
}

#[test]
fn during_an_outage_one_call_passes_each_second_and_hardly_more() {
    let (throttle, clock) = throttle();
    let mut passed = Vec::new();
    for _ in 0..120 {
        let mut count = 0;
        for _ in 0..1_000 {
            if let Ok(permit) = throttle.try_acquire() {
                permit.failure();
                count += 1;
            }
            clock.advance(millis(1));
        }
        passed.push(count);
    }
    let steady = &passed[10..];
    assert!(steady.iter().all(|count| (1..=4).contains(count)), "{passed:?}");
}

#[test]
fn after_an_outage_of_any_length_it_recovers_in_the_time_that_it_promises() {
    for outage in [10, 60, 600] {
        let (throttle, clock) = throttle();
        let seconds = recovers_after(&throttle, &clock, outage);
        assert!(seconds <= 75, "{seconds} s after an outage of {outage} s");
        assert!(throttle.rejection_rate() < 0.01);
    }
}

#[test]
fn nothing_is_kept_back_while_half_is_accepted_nor_before_enough_was_seen() {
    let (throttle, clock) = throttle();
    for _ in 0..19 {
        throttle.try_acquire().unwrap().failure();
    }
    assert_eq!(throttle.rejection_rate(), 0.0);
    clock.advance(secs(30));
    for _ in 0..1_000 {
        throttle.try_acquire().unwrap().success();
        throttle.try_acquire().unwrap().failure();
        clock.advance(millis(10));
    }
    assert_eq!(throttle.rejection_rate(), 0.0);
}

/// The trap of counting calls when they begin: nobody has answered yet, and it looks like an outage.
#[test]
fn a_burst_that_nobody_has_answered_yet_is_no_overload() {
    let (throttle, _clock) = throttle();
    let burst: Vec<Permit<'_>> = (0..10_000).map(|_| throttle.try_acquire().unwrap()).collect();
    assert_eq!(throttle.rejection_rate(), 0.0);
    burst.into_iter().for_each(Permit::success);
}

#[test]
fn what_says_nothing_about_the_server_counts_for_nothing() {
    let (throttle, clock) = throttle();
    for _ in 0..100 {
        throttle.try_acquire().unwrap().report(Outcome::Ignored);
        drop(throttle.try_acquire().unwrap());
        drop(throttle.try_acquire_for(Call::new().deadline(clock.now() + secs(9))).unwrap());
    }
    assert_eq!((throttle.rejection_rate(), throttle.residual()), (0.0, None));
    // Dropped after their deadline they were too slow.
    let late: Vec<_> = (0..20)
        .map(|_| throttle.try_acquire_for(Call::new().deadline(clock.now() + secs(1))).unwrap())
        .collect();
    clock.advance(secs(1));
    drop(late);
    assert_eq!(throttle.rejection_rate(), 20.0 / 21.0);
    assert_eq!(throttle.residual(), Some(Residual::Until(clock.now() + secs(30))));
}

#[test]
fn lower_priorities_are_kept_back_first() {
    let (throttle, clock) = throttle();
    let mut passed = [0, 0, 0];
    let mut server = Server::new(200.0);
    for _ in 0..6_000 {
        server.budget = server.per_tick;
        // Of each, 100 a second; the server takes 200 of the 600.
        for (number, priority) in [(0, 0), (0, 0), (0, 0), (0, 0), (1, Call::NORMAL), (2, 255)] {
            if let Ok(permit) = throttle.try_acquire_for(Call::new().priority(priority)) {
                passed[number] += 1;
                permit.report(if server.accepts() { Outcome::Success } else { Outcome::Failure });
            }
        }
        clock.advance(millis(10));
    }
    let [low, normal, high] = passed;
    // A tenth of the lowest, more than half of the normal ones, nearly all of the highest.
    assert!(high > 5_900 && normal > low, "{passed:?} of 24,000, 6,000 and 6,000");
}

#[test]
fn the_same_seed_keeps_the_same_calls_back() {
    let run = |seed| {
        let throttle = AdaptiveThrottle::new().seed(seed).clock(Clock::manual());
        (0..200)
            .map(|number| {
                throttle
                    .try_acquire()
                    .map(|permit| if number % 5 == 0 { permit.success() } else { permit.failure() })
                    .is_ok()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn it_says_why_and_when_one_passes_and_tells_its_observer() {
    let (throttle, clock) = throttle();
    let (sender, events) = std::sync::mpsc::channel();
    let throttle = throttle.observe("search", move |_: &str, event| sender.send(event).unwrap());
    for _ in 0..1_000 {
        let _ = throttle.call_blocking(|| Err::<(), _>(()));
    }
    clock.advance(millis(400));
    // Of a thousand in a thousand, one in a thousand may pass by chance.
    let rejected = (0..9).find_map(|_| throttle.try_acquire().err()).unwrap();
    assert_eq!((rejected.by(), rejected.reason()), ("search", Reason::Shed));
    assert_eq!(rejected.retry_after(), Some(millis(600)));
    clock.advance(millis(600));
    assert!(throttle.try_acquire().is_ok());
    let late = throttle.try_acquire_for(Call::new().deadline(clock.now())).unwrap_err();
    assert_eq!(late.reason(), Reason::DeadlineExceeded);
    let told = events.try_iter().filter(|event| matches!(event, Event::Rejected(_))).count();
    assert!(told > 900);
}

#[test]
fn threads_let_one_call_through_each_second_between_them() {
    let (throttle, clock) = throttle();
    // So many refusals that chance lets hardly anything through.
    for _ in 0..100_000 {
        let _ = throttle.try_acquire().map(Permit::failure);
    }
    let mut passed = 0;
    for _ in 0..20 {
        clock.advance(secs(1));
        passed += std::thread::scope(|scope| {
            let ask = || (0..10).filter(|_| throttle.try_acquire().map(Permit::failure).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
    }
    assert!((20..=23).contains(&passed), "{passed} in 20 s");
}

#[test]
fn it_is_a_policy_of_either_kind() {
    let (throttle, _) = throttle();
    assert_eq!(block_on((&throttle,).call_once(|| async { Ok::<_, ()>(1) })), Ok(1));
    let judged = (&throttle).when(|_: &Error<u16>| false);
    for _ in 0..100 {
        assert_eq!(judged.call_blocking(|| Err::<(), _>(404)), Err(Error::Inner(404)));
    }
}

#[test]
#[should_panic(expected = "multiplier: 1 must be above 1 and finite")]
fn a_multiplier_that_never_recovers_is_refused() {
    let _ = AdaptiveThrottle::new().multiplier(1.0);
}

//! What is shed, and when: by a signal, by latency, by what a server accepts.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use floodwall::{
    Blocking, Call, Clock, Event, Gate, LatencyShed, LoadShed, Outcome, Permit, Policy, Reason, Residual,
    Ticket, block_on,
};
use support::{millis, secs};

mod load {
    use super::*;

    /// A gate whose load a test sets in thousandths.
    fn shed() -> (LoadShed, Clock, Arc<AtomicU64>) {
        let (clock, load) = (Clock::manual(), Arc::new(AtomicU64::new(0)));
        let signal = load.clone();
        let shed =
            LoadShed::by(move || signal.load(Ordering::Relaxed) as f64 / 1e3).seed(7).clock(clock.clone());
        (shed, clock, load)
    }

    /// How many of 1,000 calls of a priority are admitted within one interval.
    fn admitted(shed: &LoadShed, priority: u8) -> usize {
        (0..1_000).filter(|_| shed.try_acquire_for(Call::new().priority(priority)).is_ok()).count()
    }

    #[test]
    fn the_share_rises_with_the_load_and_lower_priorities_go_first() {
        let (shed, clock, load) = shed();
        for (thousandths, expected) in [
            (799, [1_000, 1_000, 1_000]),
            (850, [500, 1_000, 1_000]),
            (900, [0, 500, 1_000]),
            (950, [0, 0, 500]),
            (1_000, [0, 0, 0]),
            (900, [0, 500, 1_000]),
            (0, [1_000, 1_000, 1_000]),
        ] {
            load.store(thousandths, Ordering::Relaxed);
            clock.advance(millis(100));
            for (priority, expected) in [0, Call::NORMAL, 255].into_iter().zip(expected) {
                let admitted = admitted(&shed, priority);
                let near = expected.max(40) - 40..=expected + 40;
                assert!(
                    near.contains(&admitted),
                    "{admitted} of 1,000 of priority {priority} at {thousandths}"
                );
            }
        }
    }

    #[test]
    fn while_all_are_shed_one_call_passes_in_each_interval() {
        let (shed, clock, load) = shed();
        load.store(5_000, Ordering::Relaxed);
        for _ in 0..10 {
            assert_eq!(admitted(&shed, Call::NORMAL), 1);
            clock.advance(millis(100));
        }
    }

    #[test]
    fn the_signal_is_asked_once_per_interval_and_after_an_idle_time_before_anyone_is_judged() {
        let (clock, asked) = (Clock::manual(), Arc::new(AtomicU32::new(0)));
        let shed = LoadShed::by({
            let asked = asked.clone();
            move || f64::from(asked.fetch_add(1, Ordering::Relaxed) % 2 * 2)
        })
        .interval(secs(1))
        .clock(clock.clone());
        assert_eq!(shed.load(), None);
        // 0 at first, 2 at the next look, and so on.
        assert_eq!((admitted(&shed, 0), asked.load(Ordering::Relaxed)), (1_000, 1));
        clock.advance(secs(3_600));
        assert_eq!((admitted(&shed, 0), asked.load(Ordering::Relaxed)), (1, 2));
        clock.advance(secs(1));
        assert_eq!((admitted(&shed, 0), asked.load(Ordering::Relaxed)), (1_000, 3));
        assert_eq!(shed.load(), Some(0.0));
    }

    #[test]
    fn a_signal_that_is_no_number_is_overheard_and_a_panic_is_not_for_ever() {
        let (clock, asked) = (Clock::manual(), AtomicU32::new(0));
        let shed = LoadShed::by(move || match asked.fetch_add(1, Ordering::Relaxed) {
            0 => 5.0,
            1 => f64::NAN,
            2 => panic!("on purpose"),
            _ => f64::NEG_INFINITY,
        })
        .clock(clock.clone());
        let next = |expected| {
            clock.advance(millis(100));
            assert_eq!(admitted(&shed, 0), expected);
        };
        next(1);
        next(1);
        clock.advance(millis(100));
        let panics = std::panic::AssertUnwindSafe(|| drop(shed.try_acquire()));
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(admitted(&shed, 0), 1, "what it said last holds until the next look");
        next(1_000);
    }

    #[test]
    fn the_signal_may_use_the_gate_and_is_never_asked_by_two_at_once() {
        let busy = Arc::new(AtomicU32::new(0));
        let shed = LoadShed::by({
            let busy = busy.clone();
            move || {
                assert_eq!(busy.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                std::thread::yield_now();
                busy.fetch_sub(1, Ordering::SeqCst);
                0.0
            }
        })
        .interval(std::time::Duration::from_nanos(1));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..2_000).for_each(|_| shed.try_acquire().unwrap().success()));
            }
        });

        let own: Arc<Mutex<Option<Arc<LoadShed>>>> = Arc::default();
        let signal = own.clone();
        let gate = Arc::new(LoadShed::by(move || {
            let gate = signal.lock().unwrap().clone().expect("set below");
            f64::from(u8::from(gate.try_acquire().is_ok()))
        }));
        *own.lock().unwrap() = Some(gate.clone());
        assert!(gate.try_acquire().is_ok());
        assert_eq!(gate.load(), Some(1.0));
        *own.lock().unwrap() = None;
    }

    #[test]
    fn it_says_why_and_when_to_come_back() {
        let (shed, clock, load) = shed();
        let (sender, events) = std::sync::mpsc::channel();
        let shed = shed.observe("front", move |_: &str, event| sender.send(event).unwrap());
        load.store(2_000, Ordering::Relaxed);
        assert_eq!(shed.call_blocking(|| Ok::<_, ()>(1)), Ok(1));
        let rejected = shed.try_acquire().unwrap_err();
        assert_eq!((rejected.by(), rejected.reason()), ("front", Reason::Shed));
        assert_eq!(rejected.retry_after(), Some(millis(100)));
        let late = shed.try_acquire_for(Call::new().deadline(clock.now())).unwrap_err();
        assert_eq!(late.reason(), Reason::DeadlineExceeded);
        assert_eq!(events.try_iter().filter(|event| matches!(event, Event::Rejected(_))).count(), 2);
    }

    #[test]
    #[should_panic(expected = "between: 0.9 must be below 0.5")]
    fn marks_the_wrong_way_round_are_refused() {
        let _ = LoadShed::by(|| 0.0).between(0.9, 0.5);
    }

    #[test]
    #[should_panic(expected = "interval: 0 ns must be at least 1 ns")]
    fn a_signal_asked_for_ever_is_refused() {
        let _ = LoadShed::by(|| 0.0).interval(secs(0));
    }
}

mod latency {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_ticket_that_somebody_made_up_takes_no_call_away() {
        let shed = LatencyShed::above(millis(1)).clock(Clock::manual());
        shed.release(Ticket::new(0, Call::new()), Outcome::Ignored);
        assert_eq!(shed.running(), 0);
        let _permit = shed.try_acquire().unwrap();
        assert_eq!(shed.running(), 1);
    }

    /// A server in virtual time: `workers` serve calls of 10 ms each, first come first served.
    struct Server<'a> {
        clock: Clock,
        workers: usize,
        /// When a call came, and its permit.
        queue: std::collections::VecDeque<(u64, Option<Permit<'a>>)>,
        /// When it ends, when it came.
        running: Vec<(u64, u64, Option<Permit<'a>>)>,
        now: u64,
        /// How long each served call took, in milliseconds.
        latencies: Vec<u64>,
    }

    impl<'a> Server<'a> {
        const SERVICE: u64 = 10;

        fn new(clock: &Clock, workers: usize) -> Self {
            let (queue, running, latencies) = Default::default();
            Self { clock: clock.clone(), workers, queue, running, now: 0, latencies }
        }

        /// One millisecond, in which `arrivals` calls come; returns how many were shed.
        fn tick(&mut self, arrivals: u64, gate: Option<&'a LatencyShed>) -> u64 {
            let mut shed = 0;
            for _ in 0..arrivals {
                match gate.map(Gate::try_acquire).transpose() {
                    Ok(permit) => self.queue.push_back((self.now, permit)),
                    Err(_) => shed += 1,
                }
            }
            self.now += 1;
            self.clock.advance(millis(1));
            let (now, latencies) = (self.now, &mut self.latencies);
            let (ended, running) = self.running.drain(..).partition::<Vec<_>, _>(|call| call.0 <= now);
            self.running = running;
            for (_, came, permit) in ended {
                latencies.push(now - came);
                permit.into_iter().for_each(Permit::success);
            }
            while self.running.len() < self.workers {
                let Some((came, permit)) = self.queue.pop_front() else { break };
                self.running.push((now + Self::SERVICE, came, permit));
            }
            shed
        }
    }

    /// Two seconds at half of what the server can do, twenty at three times that, then two at half.
    fn goodput(gate: Option<&LatencyShed>, clock: &Clock) -> (usize, u64, u64) {
        // 10 workers: 1,000 calls a second.
        let mut server = Server::new(clock, 10);
        for time in 0..2_000 {
            assert_eq!(server.tick(time % 2, gate), 0, "shed without overload");
        }
        server.latencies.clear();
        let shed: u64 = (0..20_000).map(|_| server.tick(3, gate)).sum();
        let good = server.latencies.iter().filter(|latency| **latency <= 200).count();
        let slowest = server.latencies.iter().skip(3_000).copied().max().unwrap();
        for time in 0..4_000 {
            let shed = server.tick(time % 2, gate);
            assert!(shed == 0 || time < 2_500, "still shed {time} ms after the overload");
        }
        (good, shed, slowest)
    }

    #[test]
    fn an_overloaded_server_keeps_serving_in_time_with_it_and_does_not_without() {
        let clock = Clock::manual();
        let gate = LatencyShed::above(millis(100)).clock(clock.clone());
        let (good, shed, slowest) = goodput(Some(&gate), &clock);
        // 20,000 could be served in 20 s.
        assert!(good > 16_000, "only {good} were served in time");
        assert!(shed > 30_000 && slowest < 400, "{shed} shed, the slowest took {slowest} ms");
        let (good, _, slowest) = goodput(None, &Clock::manual());
        assert!(good < 1_000 && slowest > 10_000, "{good} in time without it, the slowest took {slowest} ms");
    }

    #[test]
    fn within_the_target_nobody_is_shed_however_many_run() {
        let clock = Clock::manual();
        let gate = LatencyShed::above(millis(100)).clock(clock.clone());
        for _ in 0..30 {
            let permits: Vec<_> = (0..500).map(|_| gate.try_acquire().unwrap()).collect();
            clock.advance(millis(100));
            permits.into_iter().for_each(Permit::success);
            assert_eq!(gate.limit(), None);
        }
    }

    /// Twenty calls take 50 ms each, one after the other; then a hundred begin at once and take 300 ms.
    fn overloaded(clock: &Clock) -> LatencyShed {
        let gate = LatencyShed::above(millis(100)).clock(clock.clone());
        for _ in 0..20 {
            let permit = gate.try_acquire().unwrap();
            clock.advance(millis(50));
            permit.success();
        }
        clock.advance(millis(700));
        let slow: Vec<_> = (0..100).map(|_| gate.try_acquire().unwrap()).collect();
        clock.advance(millis(300));
        slow.into_iter().for_each(Permit::success);
        gate
    }

    #[test]
    fn above_it_as_many_are_in_flight_as_the_best_rate_serves_in_time_by_priority() {
        let clock = Clock::manual();
        for (priority, room) in [(0, 5), (Call::NORMAL, 10), (255, 15)] {
            let gate = overloaded(&clock);
            // 100 calls in the best slice of 1 s: 10 in 100 ms.
            assert_eq!(gate.limit(), Some(10));
            let call = Call::new().priority(priority);
            let held: Vec<_> = std::iter::from_fn(|| gate.try_acquire_for(call).ok()).take(1_000).collect();
            assert_eq!((held.len(), gate.running()), (room, room), "priority {priority}");
            let rejected = gate.try_acquire_for(call).unwrap_err();
            assert_eq!((rejected.reason(), rejected.retry_after()), (Reason::Shed, Some(millis(100))));
            clock.advance(secs(60));
        }
    }

    #[test]
    fn a_cold_start_sheds_nobody_before_a_slice_is_over() {
        let clock = Clock::manual();
        let gate = LatencyShed::above(millis(100)).clock(clock.clone());
        for _ in 0..4 {
            let permits: Vec<_> = (0..50).map(|_| gate.try_acquire().unwrap()).collect();
            clock.advance(millis(200));
            permits.into_iter().for_each(Permit::success);
            assert_eq!(gate.limit(), None);
        }
        clock.advance(millis(200));
        // 200 in the first slice.
        assert_eq!(gate.limit(), Some(20));
    }

    #[test]
    fn calls_that_hang_do_not_shed_for_ever_and_one_always_passes() {
        let clock = Clock::manual();
        let gate = overloaded(&clock);
        let hung: Vec<_> = std::iter::from_fn(|| gate.try_acquire().ok()).take(1_000).collect();
        clock.advance(millis(2_000));
        assert!(gate.try_acquire().is_ok(), "what was slow is long ago");
        assert_eq!(gate.residual(), Some(Residual::InUse));
        drop(hung);
        assert_eq!((gate.running(), gate.residual()), (0, None));
    }

    #[test]
    fn when_every_call_fails_slowly_one_at_a_time_still_tries() {
        let clock = Clock::manual();
        let gate = LatencyShed::above(millis(100)).clock(clock.clone());
        for _ in 0..100 {
            let permits: Vec<_> = std::iter::from_fn(|| gate.try_acquire().ok()).take(50).collect();
            assert!(!permits.is_empty());
            clock.advance(millis(500));
            permits.into_iter().for_each(Permit::failure);
        }
        assert_eq!(gate.limit(), Some(1));
        let probe = gate.try_acquire().unwrap();
        assert!(gate.try_acquire().is_err());
        probe.success();
        clock.advance(secs(2));
        assert_eq!(gate.limit(), None);
    }

    #[test]
    fn fast_failures_and_what_was_given_up_say_nothing() {
        let clock = Clock::manual();
        let gate = overloaded(&clock);
        for _ in 0..1_000 {
            gate.try_acquire().unwrap().failure();
            drop(gate.try_acquire().unwrap());
        }
        assert_eq!(gate.limit(), Some(10));
        clock.advance(secs(60));
        assert_eq!(gate.limit(), None);
        // One dropped after its deadline took too long.
        drop(gate.try_acquire_for(Call::new().deadline(clock.now() + secs(1))));
        let late = gate.try_acquire_for(Call::new().deadline(clock.now() + secs(1))).unwrap();
        clock.advance(secs(1));
        drop(late);
        clock.advance(secs(1));
        assert_eq!(gate.limit(), Some(1));
    }

    #[test]
    fn it_is_a_policy_and_extreme_settings_work() {
        static FRONT: LatencyShed = LatencyShed::above(millis(250));
        assert_eq!(block_on((&FRONT,).call_once(|| async { Ok::<_, ()>(1) })), Ok(1));
        for (target, window) in [
            (std::time::Duration::from_nanos(1), std::time::Duration::MAX),
            (std::time::Duration::MAX, std::time::Duration::from_nanos(1)),
        ] {
            let clock = Clock::manual();
            let gate = LatencyShed::above(target).window(window).clock(clock.clone());
            for _ in 0..100 {
                let permit = gate.try_acquire().unwrap();
                clock.advance(secs(1));
                permit.success();
                assert!(gate.limit().is_none_or(|limit| limit >= 1));
            }
        }
    }

    /// The obvious twin: a log of every call that ended and counts, as (slice, how long it took, whether it was served).
    fn limit_by_log(log: &[(u64, u64, bool)], now: u64) -> Option<u64> {
        let current = now / 1_000;
        let recent: Vec<_> = log.iter().filter(|call| call.0 + 1 >= current).map(|call| call.1).collect();
        let live = || log.iter().filter(|call| call.0 + 9 >= current);
        let is_slow = recent.iter().sum::<u64>() > 100 * recent.len() as u64;
        let is_known = live().any(|call| call.0 < current);
        let served = |slice| live().filter(|call| call.0 == slice && call.2).count() as u64;
        let best = (current.saturating_sub(9)..=current).map(served).max()?;
        (is_slow && is_known).then_some((best / 10).max(1))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// A target of 100 ms, and slices of a second, counted in milliseconds.
        #[test]
        fn it_admits_what_a_log_of_all_calls_allows(
            steps in prop::collection::vec((0u64..120, 0usize..30, any::<u8>(), 0u64..4), 1..120),
        ) {
            let clock = Clock::manual();
            let gate = LatencyShed::above(millis(100)).clock(clock.clone());
            let (mut now, mut log, mut running) = (0, Vec::new(), std::collections::VecDeque::new());
            for (wait, ends, priority, starts) in steps {
                // Now and then a long idle time.
                let wait = if wait == 0 { 5_000 } else { wait };
                clock.advance(millis(wait));
                now += wait;
                for (start, permit) in running.drain(..ends.min(running.len())).collect::<Vec<(u64, Permit<'_>)>>() {
                    let served = (start + now) % 5 > 0;
                    if served || now - start > 100 {
                        log.push((now / 1_000, now - start, served));
                    }
                    if served { permit.success() } else { permit.failure() }
                }
                let limit = limit_by_log(&log, now);
                prop_assert_eq!(gate.limit().map(|limit| limit as u64), limit);
                for _ in 0..starts * 8 {
                    let room = limit.map(|limit| (limit * (128 + u64::from(priority))).div_ceil(256));
                    let admitted = gate.try_acquire_for(Call::new().priority(priority));
                    prop_assert_eq!(admitted.is_ok(), room.is_none_or(|room| (running.len() as u64) < room));
                    running.extend(admitted.ok().map(|permit| (now, permit)));
                }
                prop_assert_eq!(gate.running(), running.len());
            }
        }
    }

    #[test]
    #[should_panic(expected = "target: 0 ns must be at least 1 ns")]
    fn no_time_at_all_is_refused() {
        let _ = LatencyShed::above(secs(0));
    }
}

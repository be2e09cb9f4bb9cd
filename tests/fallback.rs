//! What is answered when a call fails: another value, or another alternate.
#![cfg(not(floodwall_loom))]

mod support;

use floodwall::{Blocking, Error, Event, Fallback, Outcome, Policy, block_on};

#[test]
fn a_value_stands_in_for_every_error() {
    let stack = Fallback::with(0);
    assert_eq!(block_on(stack.call(|| async { Ok::<_, ()>(1) })), Ok(1));
    assert_eq!(block_on(stack.call(|| async { Err::<u32, _>(()) })), Ok(0));
    assert_eq!(stack.call_blocking(|| Err::<u32, _>(())), Ok(0));
}

#[test]
fn when_picks_the_errors_and_judge_sees_values() {
    let picked = Fallback::with(0).when(|error: &Error<u16>| matches!(error, Error::Inner(500..)));
    assert_eq!(picked.call_blocking(|| Err(503)), Ok(0));
    assert_eq!(picked.call_blocking(|| Err(404)), Err(Error::Inner(404)));
    let judged = Fallback::with(200).judge(|result: &Result<u16, Error<()>>| match result {
        Ok(500..) => Outcome::Failure,
        _ => Outcome::Success,
    });
    assert_eq!(judged.call_blocking(|| Ok(503)), Ok(200));
    assert_eq!(judged.call_blocking(|| Err(())), Err(Error::Inner(())));
}

#[test]
fn a_function_sees_what_happened_and_may_fail_too() {
    let stack = Fallback::from_fn(|result: Result<u32, Error<&'static str>>| match result {
        Err(Error::Inner("gone")) => Ok(0),
        _ => Err(Error::Inner("still failed")),
    });
    assert_eq!(stack.call_blocking(|| Err("gone")), Ok(0));
    assert_eq!(stack.call_blocking(|| Err("slow")), Err(Error::Inner("still failed")));
}

#[test]
fn it_tells_its_observer() {
    let (sender, events) = std::sync::mpsc::channel();
    let stack = Fallback::with(0).observe("price", move |_: &str, event| sender.send(event).unwrap());
    assert_eq!(stack.call_blocking(|| Ok::<_, ()>(1)), Ok(1));
    assert_eq!(stack.call_blocking(|| Err::<u32, _>(())), Ok(0));
    assert_eq!(events.try_iter().collect::<Vec<_>>(), [Event::FellBack]);
}

mod failover {
    use std::sync::Mutex;
    use std::sync::mpsc;
    use std::task::Poll;
    use std::time::Duration;

    use floodwall::{
        Bulkhead, Call, CircuitBreaker, Clock, Constant, Failover, Gate, Reason, Rejected, Retry, TimedOut,
        Timeout,
    };
    use proptest::prelude::*;

    use super::support::{millis, poll, secs};
    use super::*;

    /// Alternates that a test takes down, and a list of who was asked.
    struct Origins {
        failover: Failover,
        clock: Clock,
        down: u64,
        asked: Vec<usize>,
    }

    impl Origins {
        fn new(alternates: usize) -> Self {
            let clock = Clock::manual();
            let failover = Failover::new(alternates).clock(clock.clone());
            Self { failover, clock, down: 0, asked: Vec::new() }
        }

        /// Makes one call; returns who answered.
        fn call(&mut self) -> Result<usize, Error<usize>> {
            self.call_with(Call::new())
        }

        fn call_with(&mut self, call: Call) -> Result<usize, Error<usize>> {
            let Self { failover, down, asked, .. } = self;
            failover.call_blocking_with(call, |call| {
                asked.push(call.alternate());
                if *down >> call.alternate() & 1 == 1 { Err(call.alternate()) } else { Ok(call.alternate()) }
            })
        }

        fn asked(&mut self) -> Vec<usize> {
            std::mem::take(&mut self.asked)
        }
    }

    #[test]
    fn they_are_asked_in_order_until_one_answers() {
        let mut origins = Origins::new(3);
        assert_eq!((origins.call(), origins.asked()), (Ok(0), vec![0]));
        origins.down = 0b011;
        assert_eq!((origins.call(), origins.asked()), (Ok(2), vec![0, 1, 2]));
    }

    #[test]
    fn a_dead_primary_costs_one_call_per_rest_and_not_all() {
        let mut origins = Origins::new(2);
        origins.down = 0b01;
        for _ in 0..100 {
            assert_eq!(origins.call(), Ok(1));
            origins.clock.advance(millis(9));
        }
        assert_eq!(origins.asked().iter().filter(|asked| **asked == 0).count(), 1);
        assert!(origins.failover.is_resting(0) && !origins.failover.is_resting(1));
    }

    #[test]
    fn the_rest_doubles_up_to_its_cap_and_a_success_forgets_it() {
        let mut origins = Origins::new(2);
        origins.failover = origins.failover.max_rest(secs(5));
        origins.down = 0b01;
        for rest in [1, 2, 4, 5, 5] {
            assert_eq!((origins.call(), origins.asked()), (Ok(1), vec![0, 1]));
            origins.clock.advance(secs(rest) - Duration::from_nanos(1));
            assert_eq!((origins.call(), origins.asked()), (Ok(1), vec![1]));
            origins.clock.advance(Duration::from_nanos(1));
        }
        origins.down = 0;
        assert_eq!((origins.call(), origins.asked()), (Ok(0), vec![0]));
        origins.down = 0b01;
        assert_eq!((origins.call(), origins.asked()), (Ok(1), vec![0, 1]));
        origins.clock.advance(secs(1));
        assert_eq!((origins.call(), origins.asked()), (Ok(1), vec![0, 1]), "the first rest is short again");
    }

    #[test]
    fn when_all_rest_the_one_whose_rest_ends_first_is_asked_and_nobody_is_refused() {
        let mut origins = Origins::new(3);
        origins.down = 0b111;
        assert_eq!((origins.call(), origins.asked()), (Err(Error::Inner(2)), vec![0, 1, 2]));
        // All rest until 1 s; 0 fails once more and rests longer, so that 1 is first.
        origins.down = 0b001;
        assert_eq!((origins.call(), origins.asked()), (Ok(1), vec![0, 1]));
        origins.down = 0b110;
        // 1 is well again and fails: it rests until 1 s as 2 does, 0 until 2 s.
        assert_eq!((origins.call(), origins.asked()), (Ok(0), vec![1, 2, 0]));
        assert_eq!((origins.call(), origins.asked()), (Ok(0), vec![0]));
    }

    #[test]
    fn so_many_failures_in_a_row_are_needed_if_so_set() {
        let mut origins = Origins::new(2);
        origins.failover = origins.failover.failures(2);
        for (down, asked) in [(1, vec![0, 1]), (0, vec![0]), (1, vec![0, 1]), (1, vec![0, 1]), (1, vec![1])] {
            origins.down = down;
            assert!(origins.call().is_ok());
            assert_eq!(origins.asked(), asked);
        }
    }

    #[test]
    fn calls_that_fail_together_begin_one_rest() {
        let clock = Clock::manual();
        let failover = Failover::new(2).clock(clock.clone());
        let answers = Mutex::new(false);
        let op = |call: Call| std::future::poll_fn(move |_| Poll::Ready(Ok::<_, ()>(call.alternate())));
        let slow =
            |call: Call| {
                let answers = &answers;
                async move {
                    std::future::poll_fn(|_| {
                        if *answers.lock().unwrap() { Poll::Ready(()) } else { Poll::Pending }
                    })
                    .await;
                    if call.alternate() == 0 { Err(()) } else { Ok(1) }
                }
            };
        let mut calls: Vec<_> = (0..50).map(|_| Box::pin(failover.call_with(Call::new(), slow))).collect();
        for call in &mut calls {
            assert!(poll(call).is_pending());
        }
        *answers.lock().unwrap() = true;
        for call in &mut calls {
            assert_eq!(poll(call), Poll::Ready(Ok(1)));
        }
        clock.advance(secs(1));
        assert_eq!(block_on(failover.call_with(Call::new(), op)), Ok(0), "the first rest is over after 1 s");
    }

    #[test]
    fn one_call_probes_while_the_others_pass_over_and_a_cancelled_probe_comes_back() {
        for polls in [0, 1, 2] {
            let clock = Clock::manual();
            let failover = Failover::new(2).clock(clock.clone());
            let answer = |call: Call| std::future::ready(if call.alternate() == 0 { Err(()) } else { Ok(1) });
            assert_eq!(block_on(failover.call_with(Call::new(), answer)), Ok(1));
            clock.advance(secs(1));
            let hangs = |_| std::future::pending::<Result<usize, ()>>();
            let mut probe = Box::pin(failover.call_with(Call::new(), hangs));
            for _ in 0..polls {
                assert!(poll(&mut probe).is_pending());
            }
            let who = |call: Call| std::future::ready(Ok::<_, ()>(call.alternate()));
            let beside = block_on(failover.call_with(Call::new(), who));
            // Never polled, it took nothing, and this call is the probe.
            assert_eq!(beside, Ok(usize::from(polls > 0)));
            drop(probe);
            assert_eq!(block_on(failover.call_with(Call::new(), who)), Ok(0), "after {polls} polls");
        }
    }

    #[test]
    fn a_probe_that_hangs_does_not_keep_others_from_probing_for_ever() {
        let clock = Clock::manual();
        let failover = Failover::new(2).clock(clock.clone());
        let answer = |call: Call| std::future::ready(if call.alternate() == 0 { Err(()) } else { Ok(1) });
        assert_eq!(block_on(failover.call_with(Call::new(), answer)), Ok(1));
        clock.advance(secs(1));
        let mut probe = Box::pin(failover.call(std::future::pending::<Result<usize, ()>>));
        assert!(poll(&mut probe).is_pending());
        let who = |call: Call| std::future::ready(Ok::<_, ()>(call.alternate()));
        assert_eq!(block_on(failover.call_with(Call::new(), who)), Ok(1));
        clock.advance(secs(1));
        assert_eq!(block_on(failover.call_with(Call::new(), who)), Ok(0));
    }

    #[test]
    fn an_alternate_dropped_after_its_deadline_was_too_slow() {
        let clock = Clock::manual();
        let failover = Failover::new(2).clock(clock.clone());
        for (late, rests) in [(false, false), (true, true)] {
            let call = Call::new().deadline(clock.now() + secs(1));
            let mut running =
                Box::pin(failover.call_with(call, |_| std::future::pending::<Result<(), ()>>()));
            assert!(poll(&mut running).is_pending());
            clock.advance(if late { secs(1) } else { millis(1) });
            drop(running);
            assert_eq!(failover.is_resting(0), rests);
        }
    }

    #[test]
    fn a_panicking_alternate_failed() {
        let failover = Failover::new(2).clock(Clock::manual());
        let panics = || failover.call_blocking(|| -> Result<(), ()> { panic!("on purpose") });
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert!(failover.is_resting(0));
    }

    #[test]
    fn nobody_is_asked_after_the_deadline() {
        let clock = Clock::manual();
        let failover = Failover::new(3).clock(clock.clone());
        let mut asked = Vec::new();
        let call = Call::new().deadline(clock.now() + secs(2));
        let result = failover.call_blocking_with(call, |call| {
            asked.push(call.alternate());
            clock.advance(secs(1));
            Err::<(), _>(call.alternate())
        });
        assert_eq!((result, asked), (Err(Error::Inner(1)), vec![0, 1]));
    }

    #[test]
    fn a_timeout_inside_bounds_each_and_each_sees_what_is_left() {
        let clock = Clock::manual();
        let stack = (
            Timeout::new(millis(1_000)).clock(clock.clone()),
            Failover::new(3).clock(clock.clone()),
            Timeout::new(millis(400)).clock(clock.clone()),
        );
        let left = Mutex::new(Vec::new());
        let mut call = Box::pin(stack.call_with(Call::new(), |call| {
            left.lock().unwrap().push(call.remaining_on(&clock).unwrap());
            std::future::pending::<Result<(), ()>>()
        }));
        for wait in [400, 400, 200] {
            assert!(poll(&mut call).is_pending());
            clock.advance(millis(wait));
        }
        assert!(matches!(poll(&mut call), Poll::Ready(Err(Error::TimedOut(_)))));
        drop(call);
        assert_eq!(left.into_inner().unwrap(), [millis(400), millis(400), millis(200)]);
        assert!((0..3).all(|alternate| stack.1.is_resting(alternate)), "all three were too slow");
    }

    #[test]
    fn a_rejection_lets_the_next_be_asked_and_lays_nobody_to_rest() {
        let breakers = [(); 2]
            .map(|()| CircuitBreaker::builder().failures(1).clock(Clock::manual()).name("origin").build());
        breakers[0].try_acquire().unwrap().failure();
        /// A breaker for each alternate, as a policy of one's own.
        struct Each<'a>(&'a [CircuitBreaker]);
        impl<T, E> Blocking<T, E> for Each<'_> {
            fn around_blocking<F>(&self, call: Call, next: F) -> Result<T, Error<E>>
            where
                F: FnMut(Call) -> Result<T, Error<E>>,
            {
                self.0[call.alternate()].around_blocking(call, next)
            }
        }
        let failover = Failover::new(2).clock(Clock::manual());
        let stack = (&failover, Each(&breakers));
        let answer = stack.call_blocking_with(Call::new(), |call| Ok::<_, ()>(call.alternate()));
        assert_eq!(answer, Ok(1));
        assert!(!failover.is_resting(0));
        // The first is rejected and the second fails: a retry outside must hear that something ran.
        let failed = stack.call_blocking_with(Call::new(), |call| Err::<(), _>(call.alternate()));
        assert_eq!(failed, Err(Error::Inner(1)));
        let all_open = stack.call_blocking_with(Call::new(), |_| Ok::<_, ()>(()));
        assert!(matches!(all_open, Err(Error::Rejected(r)) if r.reason() == Reason::CircuitOpen));
    }

    #[test]
    fn a_rejection_does_not_hide_an_error_of_one_that_ran() {
        let failover = Failover::new(2).clock(Clock::manual());
        let mut results =
            [Err(Error::Inner("down")), Err(Error::Rejected(Rejected::new("", Reason::CircuitOpen)))]
                .into_iter();
        let result: Result<(), _> =
            failover.around_blocking(Call::new(), |_| results.next().expect("two are asked"));
        assert_eq!(result, Err(Error::Inner("down")));
    }

    #[test]
    fn a_call_that_must_not_run_twice_moves_on_from_a_rejection_only() {
        let failover = Failover::new(3).clock(Clock::manual());
        let rejected = Error::Rejected(Rejected::new("", Reason::CircuitOpen));
        let mut asked = Vec::new();
        let result: Result<(), _> = failover.around_blocking(Call::new().once(), |call| {
            asked.push(call.alternate());
            Err(if call.alternate() == 0 { rejected } else { Error::Inner("written, perhaps") })
        });
        assert_eq!((result, asked), (Err(Error::Inner("written, perhaps")), vec![0, 1]));
    }

    #[test]
    fn when_picks_the_errors_and_judge_sees_values_and_how_long_to_rest() {
        let picked = Failover::new(2)
            .clock(Clock::manual())
            .when(|error: &Error<u16>| matches!(error, Error::Inner(500..)));
        let status =
            |status: u16| move |call: Call| if call.alternate() == 0 { Err(status) } else { Ok(200) };
        assert_eq!(picked.call_blocking_with(Call::new(), status(404)), Err(Error::Inner(404)));
        assert_eq!(picked.call_blocking_with(Call::new(), status(503)), Ok(200));

        let clock = Clock::manual();
        let asked_for = [secs(7), secs(86_400)];
        for (retry_after, rest) in asked_for.into_iter().zip([7, 60]) {
            let judged =
                Failover::new(2).clock(clock.clone()).judge(move |result: &Result<u16, Error<()>>| {
                    match result {
                        Ok(429) => Outcome::Throttled { retry_after: Some(retry_after) },
                        _ => Outcome::Success,
                    }
                });
            let answer = |call: Call| Ok::<u16, ()>(if call.alternate() == 0 { 429 } else { 200 });
            assert_eq!(judged.call_blocking_with(Call::new(), answer), Ok(200));
            clock.advance(secs(rest) - millis(1));
            assert!(judged.is_resting(0), "it rests for {rest} s");
            clock.advance(millis(1));
            assert!(!judged.is_resting(0), "it rests for {rest} s");
        }
    }

    #[test]
    fn a_second_attempt_further_out_begins_at_the_second_alternate() {
        // As a hedge would do it: two attempts of one call, the first of which still runs.
        let failover = Failover::new(3).clock(Clock::manual());
        let asked = Mutex::new(Vec::new());
        let stack = (Retry::new(Constant::new(Duration::ZERO).attempts(4)), failover);
        let strict = stack.0.judge(|_: &Result<(), Error<()>>| Outcome::Failure);
        let result = (strict, stack.1).call_blocking_with(Call::new(), |call| {
            asked.lock().unwrap().push((call.attempt, call.alternate()));
            Ok::<_, ()>(())
        });
        assert_eq!(result, Ok(()));
        assert_eq!(*asked.lock().unwrap(), [(1, 0), (2, 1), (3, 2), (4, 0)]);
    }

    #[test]
    fn a_retry_in_between_does_not_hide_which_attempt_it_is() {
        let asked = Mutex::new(Vec::new());
        let twice = || Retry::new(Constant::new(Duration::ZERO).attempts(2));
        let judge = |_: &Result<(), Error<()>>| Outcome::Failure;
        let patient = Failover::new(9).when(|_: &Error<()>| false).clock(Clock::manual());
        let stack = (twice().judge(judge), twice().judge(judge), patient);
        assert_eq!(
            stack.call_blocking_with(Call::new(), |call| {
                asked.lock().unwrap().push((call.attempt, call.alternate()));
                Ok::<_, ()>(())
            }),
            Ok(())
        );
        assert_eq!(*asked.lock().unwrap(), [(1, 0), (2, 1), (2, 1), (3, 2)]);
    }

    #[test]
    fn it_tells_who_took_over() {
        let (sender, events) = mpsc::channel();
        let failover = Failover::new(3)
            .clock(Clock::manual())
            .observe("origins", move |name: &str, event| sender.send((name.to_owned(), event)).unwrap());
        let down = |call: Call| if call.alternate() < 2 { Err(()) } else { Ok(()) };
        assert_eq!(failover.call_blocking_with(Call::new(), down), Ok(()));
        assert_eq!(failover.call_blocking_with(Call::new(), down), Ok(()));
        let told: Vec<_> = events.try_iter().collect();
        let event = |from, to| ("origins".to_owned(), Event::FailedOver { from, to });
        assert_eq!(told, [event(0, 1), event(1, 2)]);
    }

    #[test]
    fn it_stands_in_a_stack_with_a_value_as_the_last_resort() {
        let full = Bulkhead::new(1);
        let _permit = full.try_acquire().unwrap();
        let stack = (Fallback::with(0), Failover::new(2), &full);
        assert_eq!(block_on(stack.call(|| async { Ok::<_, ()>(1) })), Ok(0));
        assert_eq!(stack.call_blocking(|| Ok::<_, ()>(1)), Ok(0));
    }

    #[test]
    fn a_timed_out_error_counts_as_the_alternates_failure() {
        let failover = Failover::new(2).clock(Clock::manual());
        let mut results =
            [Err(Error::TimedOut(TimedOut::new("", secs(1)))), Ok::<_, Error<()>>(())].into_iter();
        assert_eq!(failover.around_blocking(Call::new(), |_| results.next().unwrap()), Ok(()));
        assert!(failover.is_resting(0));
    }

    #[test]
    fn the_longest_rest_is_for_ever_and_sixty_four_alternates_work() {
        let mut origins = Origins::new(64);
        origins.failover = origins.failover.rest_for(Duration::MAX).max_rest(Duration::MAX);
        origins.down = u64::MAX >> 1;
        assert_eq!(origins.call(), Ok(63));
        origins.clock.advance(secs(400 * 365 * 86_400));
        origins.asked();
        assert_eq!((origins.call(), origins.asked()), (Ok(63), vec![63]));
    }

    #[test]
    #[should_panic(expected = "alternates: 65 must be at least 1 and at most 64")]
    fn more_alternates_than_it_can_tell_apart_are_refused() {
        let _ = Failover::new(65);
    }

    #[test]
    #[should_panic(expected = "alternates: 0 must be at least 1")]
    fn no_alternate_at_all_is_refused() {
        let _ = Failover::new(0);
    }

    /// The obvious twin: one call at a time, no epochs, no leases.
    #[derive(Clone, Copy, Default)]
    struct Twin {
        failed: u32,
        rests: u32,
        until: Duration,
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_asks_whom_the_obvious_twin_asks(
            failures in 1u32..4,
            steps in prop::collection::vec((any::<u8>(), 0u64..3_000), 1..60),
        ) {
            let mut origins = Origins::new(4);
            origins.failover = origins.failover.failures(failures).max_rest(secs(4));
            let (mut twins, mut now) = ([Twin::default(); 4], Duration::ZERO);
            for (down, wait) in steps {
                origins.down = u64::from(down & 0b1111);
                let mut call = Call::new();
                // Half of the calls are first attempts.
                call.attempt = [1, 1, 1, 1, 2, 2, 3, 4][usize::from(down >> 5)];
                let mut expected: Vec<usize> = Vec::new();
                loop {
                    let left = || (0..4usize).filter(|number| !expected.contains(number));
                    let mut fit: Vec<_> = left().filter(|number| twins[*number].until <= now).collect();
                    let further = usize::from(call.attempt) - 1;
                    match expected.last() {
                        _ if further == 0 || fit.is_empty() => {}
                        None => {
                            fit.sort_by_key(|number| twins[*number].rests > 0);
                            let count = fit.len();
                            fit.rotate_left(further % count);
                        }
                        Some(last) => fit.sort_by_key(|number| number < last),
                    }
                    let soonest = left().min_by_key(|number| twins[*number].until);
                    let Some(number) = fit.first().copied().or(soonest) else { break };
                    expected.push(number);
                    let twin = &mut twins[number];
                    if down >> number & 1 == 0 {
                        *twin = Twin::default();
                        break;
                    }
                    twin.failed += 1;
                    if twin.rests > 0 || twin.failed >= failures {
                        twin.until = now + secs(1 << twin.rests.min(2));
                        (twin.rests, twin.failed) = (twin.rests + 1, 0);
                    }
                }
                let answer = origins.call_with(call);
                prop_assert_eq!(answer.is_ok(), down & 0b1111 != 0b1111);
                prop_assert_eq!(origins.asked(), expected);
                origins.clock.advance(millis(wait));
                now += millis(wait);
            }
        }
    }
}

//! One run per key at a time, for threads and tasks in one table; trap numbers are those of the cache's design page.
#![cfg(not(floodwall_loom))]

mod support;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::Poll;

use floodwall::{
    Blocking, Bulkhead, Call, Clock, Error, Event, Policy, Reason, Retry, SingleFlight, TimedOut, block_on,
};
use support::{Wakes, millis, poll, secs};
use tokio::sync::oneshot;

type Flights = SingleFlight<u8, u32>;
type Answer = Result<u32, Error<&'static str>>;

fn reason<T, E>(result: Result<T, Error<E>>) -> Option<Reason> {
    match result {
        Err(Error::Rejected(rejected)) => Some(rejected.reason()),
        _ => None,
    }
}

type Teller = oneshot::Sender<Result<u32, &'static str>>;
type Run<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// A run that ends when it is told with what.
fn run<'a>(flights: &'a Flights, key: &'a u8) -> (Teller, Run<'a>) {
    let (sender, receiver) = oneshot::channel();
    (sender, Box::pin(flights.run(key, || async { receiver.await.unwrap() })))
}

fn wait_until(is_so: impl Fn() -> bool) {
    while !is_so() {
        std::thread::yield_now();
    }
}

#[test]
fn a_thousand_threads_and_tasks_share_one_run() {
    let (joined, runs) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
    let count = joined.clone();
    let flights = Flights::new().observe("users", move |_: &str, event: Event| {
        assert_eq!(event, Event::Joined);
        count.fetch_add(1, Ordering::Relaxed);
    });
    let release = Barrier::new(2);
    let op = || {
        runs.fetch_add(1, Ordering::Relaxed);
        Ok::<_, ()>(7)
    };
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| {
            flights.run_blocking(&1, || {
                release.wait();
                op()
            })
        });
        wait_until(|| flights.is_running(&1));
        let threads: Vec<_> = (0..9).map(|_| scope.spawn(|| flights.run_blocking(&1, op))).collect();
        let mut tasks: Vec<_> = (0..990).map(|_| Box::pin(flights.run(&1, async || op()))).collect();
        assert!(tasks.iter_mut().all(|task| poll(task).is_pending()));
        wait_until(|| joined.load(Ordering::Relaxed) == 999);
        release.wait();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap() == Ok(7)));
        assert_eq!(leader.join().unwrap(), Ok(7));
        assert!(tasks.iter_mut().all(|task| poll(task) == Poll::Ready(Ok(7))));
    });
    assert_eq!((runs.load(Ordering::Relaxed), flights.running()), (1, 0));
}

#[test]
fn keys_do_not_wait_for_each_other() {
    let flights = Flights::new();
    let (_first, mut one) = run(&flights, &1);
    assert!(poll(&mut one).is_pending());
    assert_eq!(flights.run_blocking(&2, || Ok::<_, ()>(2)), Ok(2));
    assert_eq!(flights.running(), 1);
    drop(one);
    assert_eq!(flights.running(), 0);
}

#[test]
fn nothing_is_kept_after_a_run() {
    let flights = Flights::new();
    for n in 0..3 {
        assert_eq!(flights.run_blocking(&1, || Ok::<_, ()>(n)), Ok(n));
    }
    assert_eq!(flights.running(), 0);
}

#[test]
fn an_error_goes_to_its_caller_and_the_next_runs() {
    let flights = Flights::new();
    let (fails, mut first) = run(&flights, &1);
    let (gives, mut second) = run(&flights, &1);
    let (_unused, mut third) = run(&flights, &1);
    for waiting in [&mut first, &mut second, &mut third] {
        assert!(poll(waiting).is_pending());
    }
    fails.send(Err("down")).unwrap();
    assert_eq!(poll(&mut first), Poll::Ready(Err(Error::Inner("down"))));
    assert!(poll(&mut third).is_pending());
    assert!(poll(&mut second).is_pending());
    gives.send(Ok(2)).unwrap();
    assert_eq!(poll(&mut second), Poll::Ready(Ok(2)));
    assert_eq!(poll(&mut third), Poll::Ready(Ok(2)));
    assert_eq!(flights.running(), 0);
}

#[test]
fn an_error_is_shared_by_those_who_take_its_type() {
    let flights = Flights::new();
    let (one, two) = (flights.at(&1).share_errors(), flights.at(&1));
    let (fails, failure) = oneshot::channel::<&'static str>();
    let failure = Mutex::new(Some(failure));
    let mut first = Box::pin(one.call_once(|| {
        let failure = failure.lock().unwrap().take().unwrap();
        async { Err::<u32, _>(failure.await.unwrap()) }
    }));
    let mut same = Box::pin(one.call(|| async { Ok::<_, &'static str>(1) }));
    let mut other_type = Box::pin(one.call(|| async { Ok::<_, u64>(2) }));
    let mut own = Box::pin(two.call(|| async { Ok::<_, &'static str>(3) }));
    assert!(poll(&mut first).is_pending());
    assert!(poll(&mut same).is_pending());
    assert!(poll(&mut other_type).is_pending());
    assert!(poll(&mut own).is_pending());
    fails.send("down").unwrap();
    assert_eq!(poll(&mut first), Poll::Ready(Err(Error::Inner("down"))));
    assert_eq!(poll(&mut same), Poll::Ready(Err(Error::Inner("down"))));
    assert_eq!(poll(&mut other_type), Poll::Ready(Ok(2)));
    assert_eq!(poll(&mut own), Poll::Ready(Ok(3)));
    assert_eq!(flights.running(), 0);
}

/// Trap 6: groupcache's single flight keeps its entry for ever when a function panics.
#[test]
fn trap_6_a_panic_goes_to_its_caller_and_the_next_of_ten_runs() {
    let flights = Arc::new(Flights::new());
    let (release, released) = mpsc::channel::<()>();
    let panics = {
        let flights = flights.clone();
        std::thread::spawn(move || {
            let op = || -> Result<u32, ()> {
                released.recv().unwrap();
                panic!("in the run");
            };
            catch_unwind(AssertUnwindSafe(|| flights.run_blocking(&1, op))).is_err()
        })
    };
    wait_until(|| flights.is_running(&1));
    let runs = AtomicU64::new(0);
    let mut waiters: Vec<_> = (0..10)
        .map(|_| {
            let runs = &runs;
            Box::pin(
                flights
                    .run(&1, move || async move { Ok::<_, ()>(runs.fetch_add(1, Ordering::Relaxed) as u32) }),
            )
        })
        .collect();
    assert!(waiters.iter_mut().all(|waiter| poll(waiter).is_pending()));
    release.send(()).unwrap();
    assert!(panics.join().unwrap());
    assert!(waiters.iter_mut().all(|waiter| poll(waiter) == Poll::Ready(Ok(0))));
    assert_eq!(flights.run_blocking(&1, || Ok::<_, ()>(9)), Ok(9));
    assert_eq!(flights.running(), 0);
}

#[test]
fn trap_6_all_may_panic_one_after_the_other() {
    let flights = Flights::new();
    let mut waiters: Vec<_> = (0..300)
        .map(|_| {
            Box::pin(flights.run(&1, || async {
                tokio::task::yield_now().await;
                if true { panic!("each") } else { Ok::<_, ()>(0) }
            }))
        })
        .collect();
    assert!(waiters.iter_mut().all(|waiter| poll(waiter).is_pending()));
    for waiter in &mut waiters {
        let mut polls = 0;
        while catch_unwind(AssertUnwindSafe(|| assert!(poll(waiter).is_pending()))).is_ok() {
            polls += 1;
            assert!(polls < 3, "its turn has come");
        }
    }
    assert_eq!(flights.running(), 0);
}

/// Trap 7.
#[test]
fn trap_7_a_dropped_leader_hands_over_to_the_next() {
    let flights = Flights::new();
    let (_never, mut first) = run(&flights, &1);
    let (gives, mut second) = run(&flights, &1);
    assert!(poll(&mut first).is_pending());
    let wakes = Arc::new(Wakes::default());
    assert!(wakes.poll(&mut second).is_pending());
    drop(first);
    assert_eq!(wakes.count(), 1);
    assert!(poll(&mut second).is_pending());
    gives.send(Ok(5)).unwrap();
    assert_eq!(poll(&mut second), Poll::Ready(Ok(5)));
}

#[test]
fn trap_7_the_waker_of_the_last_poll_is_the_one_that_is_woken() {
    let flights = Flights::new();
    let (gives, mut first) = run(&flights, &1);
    let (_unused, mut second) = run(&flights, &1);
    assert!(poll(&mut first).is_pending());
    let (old, new) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
    for wakes in [&old, &new] {
        assert!(wakes.poll(&mut second).is_pending());
    }
    gives.send(Ok(5)).unwrap();
    assert!(poll(&mut first).is_ready());
    assert_eq!((old.count(), new.count()), (0, 1));
    assert_eq!(poll(&mut second), Poll::Ready(Ok(5)));
}

/// Counts runs that have started and not ended.
struct Running<'a>(&'a AtomicU64);

impl<'a> Running<'a> {
    fn start(count: &'a AtomicU64) -> Self {
        assert_eq!(count.fetch_add(1, Ordering::Relaxed), 0, "two runs of one key at a time");
        Self(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Trap 7, at every await point: three callers, of which the one of `number` is dropped after `polls` polls. The others
/// end with a value, no two run at a time, and nothing is left.
#[test]
fn trap_7_callers_cancelled_at_any_await_point_leave_the_others_a_run() {
    for (number, polls) in (0..3).flat_map(|number| (0..8).map(move |polls| (number, polls))) {
        let flights = Flights::new();
        let running = AtomicU64::new(0);
        let op = async || {
            let _running = Running::start(&running);
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            Ok::<_, ()>(1)
        };
        let mut callers: Vec<_> = (0..3).map(|_| Some(Box::pin(flights.run(&1, op)))).collect();
        let mut ended = 0;
        for round in 0..20 {
            if round == polls {
                callers[number] = None;
            }
            for caller in &mut callers {
                if let Some(Poll::Ready(answer)) = caller.as_mut().map(poll) {
                    assert_eq!(answer, Ok(1));
                    ended += 1;
                    *caller = None;
                }
            }
        }
        assert!(ended >= 2, "caller {number} dropped after {polls} polls: {ended} ended");
        assert_eq!((flights.running(), running.load(Ordering::Relaxed)), (0, 0));
    }
}

#[test]
fn a_waiter_dropped_with_the_lead_in_its_hands_passes_it_on() {
    let flights = Flights::new();
    let (_never, mut first) = run(&flights, &1);
    let (_never_either, mut second) = run(&flights, &1);
    let (gives, mut third) = run(&flights, &1);
    for waiting in [&mut first, &mut second, &mut third] {
        assert!(poll(waiting).is_pending());
    }
    drop(first);
    // The lead is served to it, and it was not polled since.
    drop(second);
    assert!(poll(&mut third).is_pending());
    gives.send(Ok(3)).unwrap();
    assert_eq!(poll(&mut third), Poll::Ready(Ok(3)));
    assert_eq!(flights.running(), 0);
}

/// Trap 8.
#[test]
fn trap_8_nothing_is_left_of_callers_that_all_go() {
    let flights = SingleFlight::<Arc<u8>, Arc<u8>>::new();
    let (key, value) = (Arc::new(1), Arc::new(2));
    let op = || async {
        tokio::task::yield_now().await;
        Ok::<_, ()>(value.clone())
    };
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut callers: Vec<_> = (0..3).map(|_| Some(Box::pin(flights.run(&key, op)))).collect();
        callers.iter_mut().flatten().for_each(|caller| assert!(poll(caller).is_pending()));
        order.into_iter().for_each(|number| callers[number] = None);
        assert_eq!((flights.running(), Arc::strong_count(&key)), (0, 1), "dropped in order {order:?}");
    }
    assert_eq!(block_on(flights.run(&key, op)), Ok(value.clone()));
    flights.forget(&key);
    assert_eq!((Arc::strong_count(&key), Arc::strong_count(&value)), (1, 1));
}

#[test]
fn trap_5_a_run_that_asks_for_its_own_key_is_told_so() {
    let flights = Flights::new();
    let inner = flights.run_blocking(&1, || {
        flights.run_blocking(&1, || Ok::<_, ()>(1)).map_err(|error| error.retry_after())
    });
    assert_eq!(inner, Err(Error::Inner(None)));
    let result = Cell::new(None);
    let outer = flights.run_blocking(&1, || {
        result.set(reason(flights.run_blocking(&1, || Ok::<_, ()>(1))));
        Ok::<_, ()>(2)
    });
    assert_eq!((outer, result.get()), (Ok(2), Some(Reason::Recursive)));

    let outer = block_on(flights.run(&1, || async {
        tokio::task::yield_now().await;
        let inner = flights.run(&1, || async { Ok::<_, ()>(1) }).await;
        let blocking = flights.run_blocking(&1, || Ok::<_, ()>(1));
        Ok::<_, ()>(u32::from(
            reason(inner) == Some(Reason::Recursive) && reason(blocking) == Some(Reason::Recursive),
        ))
    }));
    assert_eq!(outer, Ok(1));
    assert_eq!(flights.running(), 0);
    assert_eq!(
        Error::<&str>::from(floodwall::Rejected::new("users", Reason::Recursive)).to_string(),
        "users: recursive"
    );
}

/// One key asks for the next in another table, and the last one for the first.
#[test]
fn trap_5_a_recursion_through_other_keys_and_tables_is_found() {
    let tables = [Flights::new(), Flights::new()];
    fn ask(tables: &[Flights; 2], key: u8) -> Answer {
        let next = |_: ()| ask(tables, (key + 1) % 4);
        tables[usize::from(key % 2)].run_blocking(&key, || match next(()) {
            Ok(value) => Ok(value + 1),
            Err(Error::Rejected(rejected)) if rejected.reason() == Reason::Recursive => Ok(0),
            Err(_) => Err("something else"),
        })
    }
    assert_eq!(ask(&tables, 0), Ok(3));
    assert!(tables.iter().all(|flights| flights.running() == 0));
}

#[test]
fn trap_5_threads_that_wait_for_each_others_keys_are_told_so() {
    let flights = Flights::new();
    let both_lead = Barrier::new(2);
    let ask = |own: u8, other: u8| {
        flights.run_blocking(&own, || {
            both_lead.wait();
            Ok::<_, ()>(match flights.run_blocking(&other, || Ok::<_, ()>(100)) {
                Ok(value) => value + 1,
                Err(error) if reason::<(), _>(Err(error)) == Some(Reason::Recursive) => 0,
                Err(_) => 1000,
            })
        })
    };
    let mut answers = std::thread::scope(|scope| {
        let other = scope.spawn(|| ask(2, 1));
        [ask(1, 2), other.join().unwrap()]
    });
    answers.sort_by_key(|answer| answer.unwrap());
    assert_eq!(answers, [Ok(0), Ok(1)]);
    assert_eq!(flights.running(), 0);
}

#[test]
fn trap_5_tasks_that_wait_for_each_others_keys_are_told_so() {
    let flights = Flights::new();
    let ask = async |own: u8, other: u8| {
        let other = async || {
            tokio::task::yield_now().await;
            let answer = flights.run(&other, || async { Ok::<_, ()>(100) }).await;
            Ok::<_, ()>(if reason(answer) == Some(Reason::Recursive) { 0 } else { answer.unwrap() + 1 })
        };
        flights.run(&own, other).await
    };
    let mut tasks = [Box::pin(ask(1, 2)), Box::pin(ask(2, 1))];
    let mut answers = Vec::new();
    while answers.len() < 2 {
        let ended: Vec<_> = tasks
            .iter_mut()
            .enumerate()
            .filter_map(|(n, task)| {
                if answers.iter().any(|(m, _)| *m == n) {
                    None
                } else if let Poll::Ready(answer) = poll(task) {
                    Some((n, answer.unwrap()))
                } else {
                    None
                }
            })
            .collect();
        answers.extend(ended);
    }
    let mut values: Vec<_> = answers.into_iter().map(|answer| answer.1).collect();
    values.sort();
    assert_eq!(values, [0, 1]);
}

/// What only looks like a recursion: another task on the same thread joins a run that is not being polled.
#[test]
fn tasks_on_one_thread_are_not_taken_for_a_recursion() {
    let flights = Flights::new();
    let (gives, mut first) = run(&flights, &1);
    let (_unused, mut second) = run(&flights, &1);
    assert!(poll(&mut first).is_pending());
    assert!(poll(&mut second).is_pending());
    // Nor is one that waits inside the run of another key.
    let mut third =
        Box::pin(flights.run(&2, || async { flights.run(&1, || async { Err(()) }).await.map_err(drop) }));
    assert!(poll(&mut third).is_pending());
    gives.send(Ok(1)).unwrap();
    assert_eq!(poll(&mut first), Poll::Ready(Ok(1)));
    assert_eq!((poll(&mut second), poll(&mut third)), (Poll::Ready(Ok(1)), Poll::Ready(Ok(1))));
}

#[test]
fn a_forgotten_run_answers_those_who_wait_and_nobody_else() {
    let flights = Flights::new();
    let (gives_old, mut old) = run(&flights, &1);
    let (_unused, mut old_waiter) = run(&flights, &1);
    assert!(poll(&mut old).is_pending());
    assert!(poll(&mut old_waiter).is_pending());
    flights.forget(&1);
    assert!(!flights.is_running(&1));
    let (gives_new, mut new) = run(&flights, &1);
    assert!(poll(&mut new).is_pending());
    assert!(flights.is_running(&1));
    gives_old.send(Ok(1)).unwrap();
    assert_eq!((poll(&mut old), poll(&mut old_waiter)), (Poll::Ready(Ok(1)), Poll::Ready(Ok(1))));
    assert!(poll(&mut new).is_pending());
    gives_new.send(Ok(2)).unwrap();
    assert_eq!(poll(&mut new), Poll::Ready(Ok(2)));
    assert_eq!(flights.running(), 0);
}

#[test]
fn those_who_wait_for_a_forgotten_run_that_fails_join_the_new_one() {
    for forget_all in [false, true] {
        let flights = Flights::new();
        let (fails, mut old) = run(&flights, &1);
        let (_unused, mut waiter) = run(&flights, &1);
        assert!(poll(&mut old).is_pending());
        assert!(poll(&mut waiter).is_pending());
        if forget_all {
            flights.forget_all();
        } else {
            flights.forget(&1);
        }
        let (gives, mut new) = run(&flights, &1);
        assert!(poll(&mut new).is_pending());
        fails.send(Err("down")).unwrap();
        assert!(poll(&mut old).is_ready());
        assert!(poll(&mut waiter).is_pending());
        gives.send(Ok(2)).unwrap();
        assert_eq!((poll(&mut new), poll(&mut waiter)), (Poll::Ready(Ok(2)), Poll::Ready(Ok(2))));
    }
}

#[test]
fn a_waiter_gives_up_at_its_deadline_and_the_run_goes_on() {
    let clock = Clock::manual();
    let flights = Flights::new().clock(clock.clone()).name("users");
    let (gives, mut first) = run(&flights, &1);
    assert!(poll(&mut first).is_pending());
    let at = flights.at(&1);
    let call = Call::new().deadline(clock.now() + secs(2));
    let mut late = Box::pin(at.call_with(call, |_| async { Ok::<_, ()>(9) }));
    assert!(poll(&mut late).is_pending());
    clock.advance(secs(2));
    assert_eq!(poll(&mut late), Poll::Ready(Err(TimedOut::new("users", secs(2)).into())));
    let over = at.call_blocking_with(call, |_| Ok::<_, ()>(9));
    assert_eq!(over, Err(TimedOut::new("users", secs(0)).into()));
    gives.send(Ok(1)).unwrap();
    assert_eq!(poll(&mut first), Poll::Ready(Ok(1)));
    assert_eq!(at.call_blocking_with(call, |_| Ok::<_, ()>(9)), Ok(9), "its own run is not refused");
}

#[test]
fn a_thread_gives_up_at_its_deadline() {
    let flights = Flights::new();
    let (_never, mut first) = run(&flights, &1);
    assert!(poll(&mut first).is_pending());
    let late = flights.at(&1).call_blocking_with(Call::new().within(millis(5)), |_| Ok::<_, ()>(9));
    assert!(matches!(late, Err(Error::TimedOut(_))));
}

#[test]
fn in_a_stack_one_of_many_calls_goes_further_in() {
    let (flights, bulkhead) = (SingleFlight::<String, u32>::new(), Bulkhead::new(1));
    let stack = (Retry::new(floodwall::Constant::new(secs(0))), flights.at("one"), &bulkhead);
    let op = || async {
        tokio::task::yield_now().await;
        Ok::<_, ()>(1)
    };
    let mut calls: Vec<_> = (0..3).map(|_| Box::pin(stack.call(op))).collect();
    assert!(calls.iter_mut().all(|call| poll(call).is_pending()));
    assert_eq!(bulkhead.running(), 1, "a second one would have been rejected");
    assert!(calls.iter_mut().all(|call| poll(call) == Poll::Ready(Ok(1))));
    assert_eq!((flights.at("two"), &bulkhead).call_blocking(|| Ok::<_, ()>(2)), Ok(2));
    let moved = String::from("moved");
    assert_eq!(block_on(flights.at("x").call_once(|| async move { Ok::<_, ()>(moved.len() as u32) })), Ok(5));
}

#[test]
fn an_observer_hears_who_joins_who_is_late_and_who_asks_for_itself() {
    let (sender, events) = mpsc::channel();
    let clock = Clock::manual();
    let flights = Flights::new().clock(clock.clone()).observe("users", move |name: &str, event: Event| {
        assert_eq!(name, "users");
        sender.send(event).unwrap();
    });
    let (_never, mut first) = run(&flights, &1);
    assert!(poll(&mut first).is_pending());
    let call = Call::new().deadline(clock.now());
    assert!(flights.at(&1).call_blocking_with(call, |_| Ok::<_, ()>(9)).is_err());
    let heard: Vec<_> = events.try_iter().collect();
    assert_eq!(heard, [Event::Joined, Event::TimedOut(TimedOut::new("users", secs(0)))]);
    let _ = flights.run_blocking(&2, || flights.run_blocking(&2, || Ok::<_, ()>(1)).map_err(drop));
    let heard: Vec<_> = events.try_iter().collect();
    assert!(
        matches!(heard[..], [Event::Joined, Event::Rejected(rejected)] if rejected.reason() == Reason::Recursive)
    );
}

/// All keys have the same hash, and one panics when it is compared.
#[derive(Clone, Debug)]
struct Odd(u8, Arc<AtomicU64>);

impl PartialEq for Odd {
    fn eq(&self, other: &Self) -> bool {
        assert_eq!(self.1.load(Ordering::Relaxed), 0, "compared");
        self.0 == other.0
    }
}
impl Eq for Odd {}
impl std::hash::Hash for Odd {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        0.hash(state);
    }
}

/// Traps 10 and 22.
#[test]
fn keys_of_one_hash_are_told_apart_and_a_panic_in_their_comparison_breaks_nothing() {
    let flights = SingleFlight::<Odd, u8>::new();
    let panics = Arc::new(AtomicU64::new(0));
    let keys: Vec<_> = (0..5).map(|number| Odd(number, panics.clone())).collect();
    let mut callers: Vec<_> = keys
        .iter()
        .map(|key| {
            Box::pin(flights.run(key, || async {
                tokio::task::yield_now().await;
                Ok::<_, ()>(key.0)
            }))
        })
        .collect();
    assert!(callers.iter_mut().all(|caller| poll(caller).is_pending()));
    assert_eq!(flights.running(), 5);
    let mut joins = Box::pin(flights.run(&keys[3], || async { Ok::<_, ()>(99) }));
    assert!(poll(&mut joins).is_pending());
    panics.store(1, Ordering::Relaxed);
    let fails = catch_unwind(AssertUnwindSafe(|| flights.run_blocking(&keys[0], || Ok::<_, ()>(1))));
    assert!(fails.is_err());
    panics.store(0, Ordering::Relaxed);
    for (key, caller) in keys.iter().zip(&mut callers) {
        assert_eq!(poll(caller), Poll::Ready(Ok(key.0)));
    }
    assert_eq!(poll(&mut joins), Poll::Ready(Ok(3)));
    assert_eq!(flights.running(), 0);
}

/// A value that panics when it is cloned, and uses the table when it is cloned or dropped.
struct Touchy(Arc<Flights>, bool);

impl Clone for Touchy {
    fn clone(&self) -> Self {
        assert!(!self.1, "cloned");
        self.0.run_blocking(&9, || Ok::<_, ()>(1)).unwrap();
        Self(self.0.clone(), false)
    }
}

impl Drop for Touchy {
    fn drop(&mut self) {
        self.0.forget(&1);
        assert!(!self.0.is_running(&1));
    }
}

/// Trap 10: clones and drops of values run under no lock, and a panic in one leaves the others a run.
#[test]
fn trap_10_a_value_may_panic_when_it_is_cloned() {
    let inner = Arc::new(Flights::new());
    let flights = SingleFlight::<u8, Touchy>::new();
    let (gives, given) = oneshot::channel();
    let mut first = Box::pin(flights.run(&1, || async { Ok::<_, ()>(given.await.ok().unwrap()) }));
    let mut second = Box::pin(flights.run(&1, || async { Ok::<_, ()>(Touchy(inner.clone(), false)) }));
    let mut third = Box::pin(flights.run(&1, || async { Ok::<_, ()>(Touchy(inner.clone(), false)) }));
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending() && poll(&mut third).is_pending());
    gives.send(Touchy(inner.clone(), true)).ok().unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut first).is_ready())).is_err());
    assert!(matches!(poll(&mut second), Poll::Ready(Ok(_))));
    assert!(matches!(poll(&mut third), Poll::Ready(Ok(_))));
    assert_eq!((flights.running(), inner.running()), (0, 0));
}

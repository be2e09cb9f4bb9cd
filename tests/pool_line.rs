//! Who of those that wait at a pool is served, in which order, and who is not: CoDel, newest first, passing.
#![cfg(not(floodwall_loom))]

#[path = "support/server.rs"]
mod server;
mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use floodwall::pool::PoolError;
use floodwall::{Call, Checkout, Clock, Event, Pool, PoolBuilder, Reason};
use server::{Refused, Server};
use support::{Wakes, millis, nanos, poll};

type Got<'a> = Result<Checkout<'a, Server>, PoolError<Refused>>;
type Get<'a> = Pin<Box<dyn Future<Output = Got<'a>> + Send + 'a>>;

fn setup(change: impl FnOnce(PoolBuilder<Server>) -> PoolBuilder<Server>) -> (Clock, Pool<Server>) {
    let clock = Clock::manual();
    let server = Server::new(&clock);
    (clock.clone(), change(Pool::builder(server).max(1).clock(clock)).build())
}

fn get(pool: &Pool<Server>, priority: u8) -> Get<'_> {
    Box::pin(pool.get_for(Call::new().priority(priority)))
}

#[track_caller]
fn waits(get: &mut Get<'_>) {
    assert!(poll(get).is_pending(), "it does not wait");
}

#[track_caller]
fn is_served<'a>(get: &mut Get<'a>) -> Checkout<'a, Server> {
    match poll(get) {
        Poll::Ready(got) => got.unwrap(),
        Poll::Pending => panic!("it waits"),
    }
}

#[track_caller]
fn is_shed(get: &mut Get<'_>) {
    match poll(get) {
        Poll::Ready(Err(PoolError::Rejected(rejected))) => assert_eq!(rejected.reason(), Reason::Shed),
        Poll::Ready(other) => panic!("not refused: {other:?}"),
        Poll::Pending => panic!("it waits"),
    }
}

/// By the rules of folly's CoDel: target 5 ms, interval 100 ms.
#[test]
fn under_overload_those_are_refused_who_have_waited_for_too_long() {
    let shed = Arc::new(AtomicU64::new(0));
    let heard = shed.clone();
    let (clock, pool) = setup(|pool| {
        pool.codel(millis(5), millis(100)).observe("db", move |_: &str, event: Event| {
            if matches!(event, Event::Rejected(rejected) if rejected.reason() == Reason::Shed) {
                heard.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    // The first one waits for a dial, the next one finds it idle.
    drop(is_served(&mut get(&pool, 0)));
    let mut held = is_served(&mut get(&pool, 0));
    // For a whole interval everybody waits for 20 ms: nobody is refused yet.
    for _ in 0..6 {
        let mut waiter = get(&pool, 0);
        waits(&mut waiter);
        clock.advance(millis(20));
        drop(held);
        held = is_served(&mut waiter);
    }
    // Now it is overloaded: the first one shows it, the others are refused, but for one that has come just now.
    let mut old: Vec<_> = (0..4).map(|_| get(&pool, 0)).collect();
    old.iter_mut().for_each(waits);
    clock.advance(millis(20));
    let mut new = get(&pool, 0);
    waits(&mut new);
    drop(held);
    drop(is_served(&mut old[0]));
    old[1..].iter_mut().for_each(is_shed);
    let held = is_served(&mut new);
    assert_eq!((pool.stats().shed, shed.load(Ordering::Relaxed), pool.status().waiting), (3, 3, 0));

    // Once somebody finds one idle it is over, however long ago it was.
    drop(held);
    let held = is_served(&mut get(&pool, 0));
    let mut late = [(); 2].map(|()| get(&pool, 0));
    late.iter_mut().for_each(waits);
    clock.advance(millis(20));
    drop(held);
    late.iter_mut().for_each(|waiter| drop(is_served(waiter)));
    assert_eq!(pool.stats().shed, 3);
}

#[test]
fn each_priority_is_judged_by_itself() {
    let (clock, pool) = setup(|pool| pool.codel(millis(5), millis(100)));
    let mut held = is_served(&mut get(&pool, 0));
    let mut old: Vec<_> = (0..3).map(|_| get(&pool, 10)).collect();
    old.iter_mut().for_each(waits);
    // Those of high priority wait for 1 ms each, those of low priority for long.
    for step in 0..130 {
        let mut urgent = get(&pool, 200);
        waits(&mut urgent);
        clock.advance(millis(1));
        drop(held);
        if step == 5 || step == 115 {
            drop(is_served(&mut urgent));
            held = is_served(&mut old.remove(0));
        } else {
            held = is_served(&mut urgent);
        }
    }
    let mut urgent = get(&pool, 200);
    waits(&mut urgent);
    drop(held);
    drop(is_served(&mut urgent));
    is_shed(&mut old[0]);
    assert_eq!((pool.stats().shed, pool.status().idle), (1, 1));
}

#[test]
fn a_default_pool_refuses_nobody_who_waits_its_time() {
    let (clock, pool) = setup(|pool| pool.timeout(Duration::MAX));
    let held = is_served(&mut get(&pool, 0));
    let mut waiting: Vec<_> = (0..100).map(|_| get(&pool, 0)).collect();
    waiting.iter_mut().for_each(waits);
    drop(held);
    for waiter in &mut waiting {
        clock.advance(Duration::from_secs(60));
        drop(is_served(waiter));
    }
    assert_eq!(pool.stats().shed, 0);
}

#[test]
#[should_panic(expected = "target: 5000000 ns must be above 0 and below the interval")]
fn a_target_must_be_below_the_interval() {
    let _ = setup(|pool| pool.codel(millis(5), millis(5)));
}

#[test]
fn who_comes_first_takes_what_came_home_if_others_may_pass() {
    let (_, pool) = setup(PoolBuilder::barging);
    let mut held = is_served(&mut get(&pool, 0));
    let wakes = Arc::new(Wakes::default());
    let mut waiter = get(&pool, 0);
    assert!(wakes.poll(&mut waiter).is_pending());
    for round in 1..=3 {
        drop(held);
        // It was woken, but is passed.
        held = is_served(&mut get(&pool, 0));
        assert_eq!(wakes.count(), round);
        assert!(wakes.poll(&mut waiter).is_pending());
    }
    // As long as it does not come, it is not woken again.
    drop(held);
    drop(pool.try_get().unwrap());
    drop(pool.try_get().unwrap());
    assert_eq!((wakes.count(), pool.status().waiting), (4, 1));
    drop(is_served(&mut waiter));
    assert_eq!((pool.status().idle, pool.status().waiting), (1, 0));
}

#[test]
fn nobody_passes_who_has_waited_for_a_millisecond() {
    let (clock, pool) = setup(PoolBuilder::barging);
    let held = is_served(&mut get(&pool, 0));
    let mut waiter = get(&pool, 0);
    waits(&mut waiter);
    clock.advance(millis(1) - nanos(1));
    drop(held);
    let held = is_served(&mut get(&pool, 0));
    // Who passed has told the time, and so does whoever comes.
    waits(&mut waiter);
    clock.advance(nanos(1));
    let mut second = get(&pool, 0);
    waits(&mut second);
    drop(held);
    assert!(pool.try_get().is_err(), "it is handed over");
    waits(&mut second);
    drop(is_served(&mut waiter));
    drop(is_served(&mut second));
}

/// Trap 1, where what came home is nobody's: who was woken and goes away, or never comes, holds up nobody.
#[test]
fn who_was_woken_and_does_not_come_holds_up_nobody() {
    let (_, pool) = setup(|pool| pool.max(2).barging());
    let [first, second] = [(); 2].map(|()| is_served(&mut get(&pool, 0)));
    let wakes = Arc::new(Wakes::default());
    let (mut leaves, mut next, mut last) = (get(&pool, 0), get(&pool, 0), get(&pool, 0));
    waits(&mut leaves);
    assert!(wakes.poll(&mut next).is_pending());
    waits(&mut last);
    drop(first);
    assert_eq!(wakes.count(), 0);
    drop(leaves);
    assert_eq!(wakes.count(), 1);
    let first = is_served(&mut next);

    // This one stays in line and is not polled: with the second connection it is served, and so is the one behind.
    let mut stays = last;
    let mut behind = get(&pool, 0);
    let wakes = Arc::new(Wakes::default());
    assert!(wakes.poll(&mut behind).is_pending());
    drop(first);
    assert_eq!((wakes.count(), pool.status().idle), (0, 1));
    drop(second);
    assert_eq!((wakes.count(), pool.status().idle), (1, 0));
    drop(is_served(&mut behind));
    drop(is_served(&mut stays));
    assert_eq!((pool.status().idle, pool.status().waiting), (2, 0));
}

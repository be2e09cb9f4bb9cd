//! Pools of connections: who gets which, when one is made, checked and closed; and the traps that other pools fell into.
//!
//! Traps have the numbers of our study of other pools: 1 a waiter that is never woken (also `pool_line`), 2 and 4 grants
//! that race a cancellation or a deadline, 5 and 6 (`pool_cancel`), 7 and 8 (`pool_outage`), 9 and 10 (`pool_run`), 11 a
//! peer that says nothing, 12 broken connections, 13 a failed connect wakes the next, 14 the place of one that is being
//! closed, 15 nested use, 16 panics (also `pool_hooks`), 17 drops anywhere, 18 races of closing (also `pool_run`), 19
//! changes of size (also `pool_cancel`), 20 one return only, 21 a clear, 22 clocks, 23 wakers that come back, 24 needless
//! polls, 25 changing wakers.
#![cfg(not(floodwall_loom))]

#[path = "support/server.rs"]
mod server;
mod support;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use floodwall::pool::{BlockingManager, ConnectError, Phase, PoolError, PoolStatus};
use floodwall::{Call, Checkout, Clock, Event, Pool, PoolBuilder, Reason, block_on};
use server::{Connection, DOWN, HANGS, PANICS, Refused, Server, WELL};
use support::{Wakes, millis, nanos, poll, secs};

type Get<'a> = Pin<Box<dyn Future<Output = Result<Checkout<'a, Server>, PoolError<Refused>>> + Send + 'a>>;

fn get(pool: &Pool<Server>) -> Get<'_> {
    Box::pin(pool.get())
}

fn get_within<'a>(pool: &'a Pool<Server>, clock: &Clock, limit: Duration) -> Get<'a> {
    Box::pin(pool.get_for(Call::new().deadline(clock.now() + limit)))
}

#[track_caller]
fn ready<'a>(get: &mut Get<'a>) -> Checkout<'a, Server> {
    match poll(get) {
        Poll::Ready(got) => got.unwrap(),
        Poll::Pending => panic!("it waits"),
    }
}

#[track_caller]
fn fails(get: &mut Get<'_>) -> PoolError<Refused> {
    match poll(get) {
        Poll::Ready(got) => got.unwrap_err(),
        Poll::Pending => panic!("it waits"),
    }
}

#[track_caller]
fn waits(get: &mut Get<'_>) {
    assert!(poll(get).is_pending(), "it does not wait");
}

/// Total, idle, in use, connecting, waiting.
fn counts(pool: &Pool<Server>) -> [usize; 5] {
    let PoolStatus { total, idle, in_use, connecting, waiting, .. } = pool.status();
    assert_eq!(idle + in_use + connecting, total);
    [total, idle, in_use, connecting, waiting]
}

fn setup(change: impl FnOnce(PoolBuilder<Server>) -> PoolBuilder<Server>) -> (Clock, Server, Pool<Server>) {
    let clock = Clock::manual();
    let server = Server::new(&clock);
    let pool = change(Pool::builder(server.clone()).clock(clock.clone()).seed(7)).build();
    (clock, server, pool)
}

/// Takes `n` connections and brings them home.
fn warm(pool: &Pool<Server>, n: usize) {
    let all: Vec<_> = (0..n).map(|_| block_on(pool.get()).unwrap()).collect();
    drop(all);
    assert_eq!(pool.status().idle, n);
}

#[test]
fn a_connection_is_made_when_somebody_asks_and_used_again() {
    let (_, server, pool) = setup(|pool| pool.max(2));
    assert_eq!(counts(&pool), [0; 5]);
    let first = ready(&mut get(&pool));
    assert_eq!((first.number, counts(&pool)), (1, [1, 0, 1, 0, 0]));
    drop(first);
    assert_eq!(counts(&pool), [1, 1, 0, 0, 0]);
    assert_eq!(ready(&mut get(&pool)).number, 1);
    assert_eq!(pool.get_blocking().unwrap().number, 1);
    assert_eq!(pool.try_get().unwrap().number, 1);
    assert_eq!(server.count(&server.dials), 1);
}

#[test]
fn the_one_that_was_used_last_is_given_out_first() {
    let (_, _, pool) = setup(|pool| pool.max(3));
    let [first, second, third] = [(); 3].map(|()| ready(&mut get(&pool)));
    drop(second);
    drop(third);
    drop(first);
    assert_eq!(ready(&mut get(&pool)).number, 1);
}

#[test]
fn callers_are_served_in_the_order_in_which_they_came() {
    let (_, server, pool) = setup(|pool| pool.max(1));
    let held = ready(&mut get(&pool));
    let mut waiting: Vec<Get<'_>> = (0..3).map(|_| get(&pool)).collect();
    waiting.iter_mut().for_each(waits);
    assert_eq!(counts(&pool), [1, 0, 1, 0, 3]);
    drop(held);
    // Nobody passes the line, although the connection came home.
    assert_eq!(pool.try_get().unwrap_err().reason(), Reason::NoneIdle);
    waits(&mut get(&pool));
    waiting[1..].iter_mut().for_each(waits);
    for mut waiter in waiting {
        assert_eq!(ready(&mut waiter).number, 1);
    }
    assert_eq!((server.count(&server.dials), counts(&pool)), (1, [1, 1, 0, 0, 0]));
}

#[test]
fn the_newest_is_served_first_if_so_asked_and_the_oldest_makes_room() {
    let (_, _, pool) = setup(|pool| pool.max(1).newest_first().max_waiting(2));
    let held = ready(&mut get(&pool));
    let mut waiting: Vec<Get<'_>> = (0..3).map(|_| get(&pool)).collect();
    waiting.iter_mut().for_each(waits);
    assert!(
        matches!(fails(&mut waiting[0]), PoolError::Rejected(rejected) if rejected.reason() == Reason::QueueFull)
    );
    drop(held);
    waits(&mut waiting[1]);
    let newest = ready(&mut waiting[2]);
    drop(newest);
    drop(ready(&mut waiting[1]));
}

#[test]
fn a_full_line_refuses_at_once() {
    let (_, _, pool) = setup(|pool| pool.max(1).max_waiting(1).name("db"));
    let _held = ready(&mut get(&pool));
    let mut first = get(&pool);
    waits(&mut first);
    let error = fails(&mut get(&pool));
    assert_eq!(error.to_string(), "db: queue full");
    assert!(error.cause().is_none());
}

#[test]
fn a_waiter_is_served_by_what_comes_home_while_a_dial_runs() {
    let (clock, server, pool) = setup(|pool| pool.max(2));
    let held = ready(&mut get(&pool));
    server.take_time(&server.connect_time, secs(1));
    let mut waiter = get(&pool);
    waits(&mut waiter);
    assert_eq!(counts(&pool), [2, 0, 1, 1, 1]);
    drop(held);
    assert_eq!(ready(&mut waiter).number, 1);
    drop(waiter);
    assert_eq!(counts(&pool), [2, 1, 0, 1, 0]);
    // The dial rests until somebody waits again, and is for that one then.
    clock.advance(secs(1));
    let _one = ready(&mut get(&pool));
    assert_eq!(ready(&mut get(&pool)).number, 2);
    assert_eq!(server.count(&server.dials), 2);
}

/// A call's own deadline, the pool's limit; and what the error says.
#[test]
fn a_caller_that_gets_none_in_time_is_told_why() {
    let (clock, server, pool) = setup(|pool| pool.max(1).name("db").timeout(secs(3)));
    server.set(&server.connects, DOWN);
    let mut waiter = get(&pool);
    waits(&mut waiter);
    clock.advance(secs(3));
    let PoolError::TimedOut(timeout) = fails(&mut waiter) else { panic!("not by time") };
    assert_eq!((timeout.phase, timeout.after), (Phase::Connect, secs(3)));
    let message = PoolError::TimedOut(timeout).to_string();
    assert_eq!(
        message,
        "db: timed out after 3s while connecting (max 1: 0 in use, 0 idle, 0 connecting; 0 waiting), \
         cannot connect: connection refused"
    );

    clock.advance(secs(60));
    server.set(&server.connects, WELL);
    let held = ready(&mut get(&pool));
    let mut waiter = get_within(&pool, &clock, secs(1));
    waits(&mut waiter);
    clock.advance(secs(1));
    let PoolError::TimedOut(timeout) = fails(&mut waiter) else { panic!("not by time") };
    assert_eq!((timeout.phase, timeout.status.in_use, timeout.after), (Phase::Wait, 1, secs(1)));
    assert!(timeout.cause.is_none(), "the server is well again");
    drop(held);

    let late = fails(&mut get_within(&pool, &clock, Duration::ZERO));
    assert!(matches!(late, PoolError::Rejected(rejected) if rejected.reason() == Reason::DeadlineExceeded));
    assert_eq!(counts(&pool), [1, 1, 0, 0, 0]);
}

#[test]
fn callers_fail_fast_if_so_asked_until_the_next_attempt() {
    let (clock, server, pool) = setup(|pool| pool.max(2).fail_fast_after(2).backoff(steady(secs(1))));
    server.set(&server.connects, DOWN);
    let mut first = get(&pool);
    waits(&mut first);
    clock.advance(secs(1));
    let error = fails(&mut first);
    assert!(matches!(&error, PoolError::Connect(ConnectError::Failed(error)) if **error == Refused));
    assert_eq!(error.to_string(), "cannot connect: connection refused");
    let dials = server.count(&server.dials);
    // Nobody waits now, and nobody dials.
    assert!(matches!(fails(&mut get(&pool)), PoolError::Connect(_)));
    assert_eq!(server.count(&server.dials), dials);
    // The first after the pause tries.
    clock.advance(secs(1));
    server.set(&server.connects, WELL);
    assert_eq!(ready(&mut get(&pool)).number, dials + 1);
}

fn steady(delay: Duration) -> floodwall::Constant {
    floodwall::Constant::new(delay)
}

#[test]
fn after_a_failure_the_whole_pool_waits_as_the_backoff_says() {
    let (clock, server, pool) = setup(|pool| pool.max(4).backoff(steady(secs(2))));
    server.set(&server.connects, DOWN);
    let mut waiting: Vec<Get<'_>> = (0..3).map(|_| get(&pool)).collect();
    waiting.iter_mut().for_each(waits);
    assert_eq!(server.count(&server.dials), 1);
    clock.advance(secs(2) - nanos(1));
    waiting.iter_mut().for_each(waits);
    assert_eq!(server.count(&server.dials), 1);
    clock.advance(nanos(1));
    waiting.iter_mut().for_each(waits);
    assert_eq!(server.count(&server.dials), 2);
    // Another one sleeps for the next attempt if the first goes away.
    drop(waiting.remove(0));
    waiting.iter_mut().for_each(waits);
    clock.advance(secs(2));
    server.set(&server.connects, WELL);
    drop(ready(&mut waiting[0]));
    drop(ready(&mut waiting[1]));
    assert_eq!(server.count(&server.dials), 3);
}

#[test]
fn who_sleeps_for_the_next_attempt_wakes_another_for_the_second() {
    let (clock, server, pool) = setup(|pool| pool.max(4).backoff(steady(secs(1))));
    server.set(&server.connects, DOWN);
    let [first, second] = [(); 2].map(|()| Arc::new(Wakes::default()));
    let (mut a, mut b) = (get(&pool), get(&pool));
    assert!(first.poll(&mut a).is_pending());
    assert!(second.poll(&mut b).is_pending());
    server.set(&server.connects, HANGS);
    clock.advance(secs(1));
    assert_eq!((first.count(), second.count()), (1, 0));
    assert!(first.poll(&mut a).is_pending());
    assert_eq!((second.count(), server.now(&server.dialling)), (1, 1));
    assert!(second.poll(&mut b).is_pending());
    assert_eq!(server.now(&server.dialling), 2);
}

#[test]
fn who_is_to_look_after_dials_and_is_served_meanwhile_wakes_another() {
    let (clock, server, pool) = setup(|pool| pool.max(3).backoff(steady(secs(1))));
    let [held, _other] = [(); 2].map(|()| ready(&mut get(&pool)));
    server.set(&server.connects, DOWN);
    let (mut keeper, mut second, mut third) = (get(&pool), get(&pool), get(&pool));
    let wakes = Arc::new(Wakes::default());
    waits(&mut keeper);
    waits(&mut second);
    assert!(wakes.poll(&mut third).is_pending());
    drop(keeper);
    drop(held);
    let _held = ready(&mut second);
    assert_eq!(wakes.count(), 1);
    assert!(wakes.poll(&mut third).is_pending());
    server.set(&server.connects, WELL);
    clock.advance(secs(1));
    assert_eq!(wakes.count(), 2);
    drop(ready(&mut third));
}

#[test]
fn a_dial_has_its_own_time() {
    let (clock, server, pool) = setup(|pool| pool.max(1).connect_timeout(secs(2)).backoff(steady(secs(1))));
    server.set(&server.connects, HANGS);
    let mut waiter = get(&pool);
    waits(&mut waiter);
    clock.advance(secs(2));
    waits(&mut waiter);
    assert_eq!((counts(&pool), server.now(&server.dialling)), ([0, 0, 0, 0, 1], 0));
    server.set(&server.connects, WELL);
    clock.advance(secs(1));
    assert_eq!(ready(&mut waiter).number, 2);
}

#[test]
fn no_more_are_made_at_once_than_may_be() {
    let (clock, server, pool) = setup(|pool| pool.max(10).max_connecting(3));
    server.take_time(&server.connect_time, millis(100));
    let mut waiting: Vec<Get<'_>> = (0..8).map(|_| get(&pool)).collect();
    waiting.iter_mut().for_each(waits);
    assert_eq!(counts(&pool), [3, 0, 0, 3, 8]);
    let mut got = Vec::new();
    for round in 1..=3 {
        clock.advance(millis(100));
        waiting.retain_mut(|waiter| match poll(waiter) {
            Poll::Ready(checkout) => {
                got.push(checkout.unwrap());
                false
            }
            Poll::Pending => true,
        });
        waiting.iter_mut().for_each(waits);
        assert_eq!(got.len(), (3 * round).min(8));
    }
    assert_eq!(server.now(&server.most_dialling), 3);
}

#[test]
fn what_was_idle_for_long_is_checked_and_what_was_used_just_now_is_not() {
    let (clock, server, pool) = setup(|pool| pool.max(1).check_after(millis(500)));
    warm(&pool, 1);
    clock.advance(millis(499));
    drop(ready(&mut get(&pool)));
    assert_eq!(server.count(&server.checked), 0);
    clock.advance(millis(500));
    drop(ready(&mut get(&pool)));
    assert_eq!(server.count(&server.checked), 1);
    // It asks nobody.
    clock.advance(secs(5));
    drop(pool.try_get().unwrap());
    assert_eq!(server.count(&server.checked), 1);
    let (_, server, always) = setup(|pool| pool.max(1).check_after(Duration::ZERO));
    warm(&always, 1);
    let before = server.count(&server.checked);
    drop(ready(&mut get(&always)));
    assert_eq!(server.count(&server.checked), before + 1);
}

#[test]
fn one_that_fails_its_check_makes_the_others_suspect() {
    let (_, server, pool) = setup(|pool| pool.max(3));
    warm(&pool, 3);
    let mut doubtful = ready(&mut get(&pool));
    doubtful.mark_suspect();
    drop(doubtful);
    server.kill_all();
    // All were used just now; the one at the top is checked, and with it the others.
    let got = ready(&mut get(&pool));
    assert_eq!((got.number, server.count(&server.checked), server.count(&server.closed)), (4, 3, 3));
}

/// A server that restarts is seen by whoever comes home first: the others need not each fail somebody.
#[test]
fn one_that_comes_home_broken_makes_the_others_suspect() {
    let (_, server, pool) = setup(|pool| pool.max(3));
    warm(&pool, 3);
    server.kill_all();
    let mut first = pool.try_get().unwrap();
    first.broken = true;
    drop(first);
    let second = ready(&mut get(&pool));
    assert_eq!(
        (server.count(&server.checked), second.number),
        (2, 4),
        "two were checked, and a new one was made"
    );
    // A user who throws one away says nothing of the others.
    drop(second);
    warm(&pool, 3);
    pool.try_get().unwrap().discard();
    drop(ready(&mut get(&pool)));
    assert_eq!(server.count(&server.checked), 2);
}

#[test]
fn what_needs_a_reset_is_reset_before_it_is_given_out() {
    let (_, server, pool) = setup(|pool| pool.max(1));
    server.set(&server.needs_reset, 1);
    drop(ready(&mut get(&pool)));
    server.set(&server.needs_reset, 0);
    assert_eq!(pool.try_get().unwrap_err().reason(), Reason::NoneIdle);
    drop(ready(&mut get(&pool)));
    assert_eq!((server.count(&server.resets), server.count(&server.checked)), (1, 0));
    drop(pool.try_get().unwrap());
}

#[test]
fn what_is_old_or_was_idle_for_too_long_is_closed() {
    let (clock, server, pool) = setup(|pool| pool.max(3).max_lifetime(secs(100)).idle_timeout(secs(10)));
    warm(&pool, 3);
    clock.advance(secs(9));
    drop(ready(&mut get(&pool)));
    clock.advance(secs(1));
    let held = ready(&mut get(&pool));
    assert_eq!((server.count(&server.closed), counts(&pool)), (2, [1, 0, 1, 0, 0]));
    clock.advance(secs(90));
    let newer = get_within(&pool, &clock, secs(1)).as_mut().poll(&mut Context::from_waker(Waker::noop()));
    drop(held);
    assert_eq!((server.count(&server.closed), counts(&pool)), (3, [1, 0, 1, 0, 0]));
    drop(newer);
}

/// Trap 10, by the pool's own times: none is older than its lifetime, and they end over a tenth of it.
#[test]
fn those_that_were_made_together_do_not_end_together() {
    let (clock, server, pool) =
        setup(|pool| pool.max(50).max_lifetime(secs(1000)).idle_timeout(Duration::MAX));
    warm(&pool, 50);
    let mut closed = vec![server.count(&server.closed)];
    clock.advance(secs(890));
    for _ in 0..12 {
        clock.advance(secs(10));
        drop(pool.try_get());
        closed.push(server.count(&server.closed));
    }
    assert_eq!((closed[0], closed[1], closed[12]), (0, closed[1], 50));
    let most = closed.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(most <= 15, "{closed:?}");
}

#[test]
fn more_than_max_are_made_while_callers_wait_and_closed_when_none_does() {
    let (_, server, pool) = setup(|pool| pool.max(1).overflow(1));
    let first = ready(&mut get(&pool));
    let second = ready(&mut get(&pool));
    let mut third = get(&pool);
    waits(&mut third);
    assert_eq!(counts(&pool), [2, 0, 2, 0, 1]);
    drop(first);
    let third = ready(&mut third);
    drop(third);
    assert_eq!((server.count(&server.closed), counts(&pool)), (1, [1, 0, 1, 0, 0]));
    drop(second);
    assert_eq!(counts(&pool), [1, 1, 0, 0, 0]);
}

#[test]
fn no_more_are_kept_idle_than_may_be() {
    let (_, server, pool) = setup(|pool| pool.max(4).max_idle(2));
    let all: Vec<_> = (0..4).map(|_| ready(&mut get(&pool))).collect();
    drop(all);
    assert_eq!((server.count(&server.closed), counts(&pool)), (2, [2, 2, 0, 0, 0]));
    pool.set_max_idle(1);
    assert_eq!((server.count(&server.closed), counts(&pool)), (3, [1, 1, 0, 0, 0]));
}

#[test]
fn a_checkout_can_be_taken_discarded_or_marked() {
    let (_, server, pool) = setup(|pool| pool.max(1));
    let mine = ready(&mut get(&pool)).take();
    assert_eq!((mine.number, counts(&pool)), (1, [0; 5]));
    ready(&mut get(&pool)).discard();
    assert_eq!((server.count(&server.closed), counts(&pool)), (1, [0; 5]));
    let mut broken = ready(&mut get(&pool));
    broken.broken = true;
    drop(broken);
    assert_eq!((server.count(&server.closed), counts(&pool)), (2, [0; 5]));
    let mut doubtful = ready(&mut get(&pool));
    doubtful.mark_suspect();
    drop(doubtful);
    assert_eq!(ready(&mut get(&pool)).number, 4);
    assert_eq!(server.count(&server.checked), 1);
    drop(mine);
    assert_eq!(server.now(&server.live), 1);
}

/// Who waits is served also by the place of one that left.
#[test]
fn a_place_that_becomes_free_is_dialled_for_who_waits() {
    let (_, _, pool) = setup(|pool| pool.max(1));
    for leave in [|it: Checkout<'_, Server>| drop(it.take()), |it: Checkout<'_, Server>| it.discard()] {
        let held = ready(&mut get(&pool));
        let before = held.number;
        let mut waiter = get(&pool);
        waits(&mut waiter);
        leave(held);
        assert_eq!(ready(&mut waiter).number, before + 1);
    }
}

/// Trap 1: whoever is woken for nothing is woken again.
#[test]
fn a_waiter_is_woken_whenever_there_is_something_for_it() {
    let (_, _, pool) = setup(|pool| pool.max(1));
    let (wakes, others) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
    let held = ready(&mut get(&pool));
    let mut waiter = get(&pool);
    assert!(wakes.poll(&mut waiter).is_pending());
    assert!(wakes.poll(&mut waiter).is_pending());
    let mut second = get(&pool);
    assert!(others.poll(&mut second).is_pending());
    drop(held);
    assert_eq!((wakes.count(), others.count()), (1, 0));
    let first = ready(&mut waiter);
    drop(first);
    assert_eq!((wakes.count(), others.count()), (1, 1));
    drop(ready(&mut second));
}

/// Trap 2.
#[test]
fn who_was_granted_a_connection_and_goes_away_leaves_it_to_the_next() {
    let (_, server, pool) = setup(|pool| pool.max(1));
    let held = ready(&mut get(&pool));
    let (mut first, mut second) = (get(&pool), get(&pool));
    waits(&mut first);
    waits(&mut second);
    drop(held);
    drop(first);
    let got = ready(&mut second);
    assert_eq!((got.number, server.count(&server.dials), counts(&pool)), (1, 1, [1, 0, 1, 0, 0]));
}

/// Trap 4.
#[test]
fn a_grant_at_the_very_deadline_is_kept_or_passed_on() {
    let (clock, _, pool) = setup(|pool| pool.max(1));
    let held = ready(&mut get(&pool));
    let mut granted = get_within(&pool, &clock, secs(1));
    let mut late = get_within(&pool, &clock, secs(1));
    waits(&mut granted);
    waits(&mut late);
    clock.advance(secs(1));
    drop(held);
    let got = ready(&mut granted);
    assert!(matches!(fails(&mut late), PoolError::TimedOut(_)));
    drop(got);
    assert_eq!(counts(&pool), [1, 1, 0, 0, 0]);
}

/// Trap 11.
#[test]
fn a_peer_that_says_nothing_costs_one_check_and_no_place() {
    let (clock, server, pool) = setup(|pool| pool.max(1).check_timeout(secs(1)).close_timeout(secs(2)));
    warm(&pool, 1);
    server.set(&server.checks, HANGS);
    server.set(&server.closes, HANGS);
    clock.advance(secs(5));
    let mut waiter = get_within(&pool, &clock, secs(10));
    waits(&mut waiter);
    clock.advance(secs(1));
    waits(&mut waiter);
    // It does not close either: its place is free after two seconds more.
    assert_eq!(counts(&pool), [1, 0, 1, 0, 1]);
    clock.advance(secs(2));
    assert_eq!(ready(&mut waiter).number, 2);
    // A caller with less time than the check has is out of time; the connection is not at fault.
    clock.advance(secs(5));
    let mut hasty = get_within(&pool, &clock, millis(10));
    waits(&mut hasty);
    clock.advance(millis(10));
    let PoolError::TimedOut(timeout) = fails(&mut hasty) else { panic!("not by time") };
    assert_eq!((timeout.phase, counts(&pool)), (Phase::Check, [1, 1, 0, 0, 0]));
}

/// Trap 12.
#[test]
fn broken_connections_starve_nobody() {
    let (clock, server, pool) = setup(|pool| pool.max(5));
    warm(&pool, 5);
    clock.advance(secs(10));
    server.kill_all();
    server.take_time(&server.check_time, millis(1));
    let mut waiter = get_within(&pool, &clock, secs(1));
    let mut got = None;
    for _ in 0..20 {
        if let Poll::Ready(checkout) = poll(&mut waiter) {
            got = Some(checkout.unwrap().number);
            break;
        }
        clock.advance(millis(1));
    }
    assert_eq!((got, server.count(&server.checked), counts(&pool)), (Some(6), 5, [1, 1, 0, 0, 0]));
}

/// Who was given a dead connection does not go to the back of the line.
#[test]
fn a_failed_check_costs_nobody_its_place_in_line() {
    let (clock, server, pool) = setup(|pool| pool.max(1));
    warm(&pool, 1);
    clock.advance(secs(10));
    server.kill_all();
    server.take_time(&server.check_time, millis(10));
    server.take_time(&server.connect_time, millis(10));
    let (mut first, mut second) = (get(&pool), get(&pool));
    waits(&mut first);
    waits(&mut second);
    clock.advance(millis(10));
    waits(&mut first);
    waits(&mut second);
    clock.advance(millis(10));
    waits(&mut second);
    let got = ready(&mut first);
    assert_eq!(got.number, 2);
    drop(got);
    drop(ready(&mut second));
}

/// Trap 13.
#[test]
fn a_failed_dial_lets_the_next_in_line_try() {
    let (clock, server, pool) = setup(|pool| pool.max(1).backoff(steady(millis(10))));
    server.set(&server.connects, DOWN);
    let (mut first, mut second) = (get_within(&pool, &clock, millis(5)), get(&pool));
    waits(&mut first);
    waits(&mut second);
    clock.advance(millis(5));
    assert!(matches!(fails(&mut first), PoolError::TimedOut(_)));
    server.set(&server.connects, WELL);
    waits(&mut second);
    clock.advance(millis(5));
    assert_eq!(ready(&mut second).number, 2);
}

/// Trap 14.
#[test]
fn a_place_is_free_only_when_its_connection_is_closed() {
    let (clock, server, pool) = setup(|pool| pool.max(2).close_timeout(secs(60)));
    server.take_time(&server.close_time, secs(1));
    let [first, second] = [(); 2].map(|()| ready(&mut get(&pool)));
    first.discard();
    second.discard();
    assert_eq!(counts(&pool), [2, 0, 2, 0, 0]);
    let mut waiter = get(&pool);
    waits(&mut waiter);
    assert_eq!((counts(&pool), server.count(&server.dials)), ([2, 0, 2, 0, 1], 2));
    clock.advance(secs(1));
    assert_eq!(ready(&mut waiter).number, 3);
    assert_eq!(server.now(&server.most_live), 2);
}

/// Trap 15.
#[test]
fn who_waits_for_itself_is_told_that_all_are_in_use() {
    let (clock, _, pool) = setup(|pool| pool.max(1).timeout(secs(1)));
    let _outer = ready(&mut get(&pool));
    let mut inner = get(&pool);
    waits(&mut inner);
    clock.advance(secs(1));
    let message = fails(&mut inner).to_string();
    assert!(message.contains("while all connections were in use (max 1: 1 in use"), "{message}");
}

/// Trap 16.
#[test]
fn whatever_panics_the_pool_goes_on() {
    let (clock, server, pool) = setup(|pool| pool.max(1).backoff(steady(millis(10))));
    server.set(&server.connects, PANICS);
    let mut waiter = get(&pool);
    waits(&mut waiter);
    server.set(&server.connects, WELL);
    clock.advance(millis(10));
    drop(ready(&mut waiter));

    server.set(&server.checks, PANICS);
    clock.advance(secs(1));
    drop(ready(&mut get(&pool)));
    assert_eq!((server.count(&server.closed), counts(&pool)), (1, [1, 1, 0, 0, 0]));
    server.set(&server.checks, WELL);

    server.set(&server.needs_reset, PANICS);
    drop(ready(&mut get(&pool)));
    assert_eq!((server.count(&server.closed), counts(&pool)), (2, [0; 5]));
    server.set(&server.needs_reset, 0);

    server.set(&server.closes, PANICS);
    ready(&mut get(&pool)).discard();
    assert_eq!(counts(&pool), [0; 5]);
    server.set(&server.closes, WELL);

    let mut bad = ready(&mut get(&pool));
    bad.panics_on_drop = true;
    bad.discard();
    assert_eq!(counts(&pool), [0; 5]);
    drop(ready(&mut get(&pool)));
    assert_eq!(server.now(&server.live), 1);
}

/// Trap 16.
#[test]
fn what_was_held_by_who_panicked_is_checked_before_it_is_used_again() {
    let (_, server, pool) = setup(|pool| pool.max(1));
    let holder = pool.clone();
    let thread = std::thread::spawn(move || {
        let _held = holder.get_blocking().unwrap();
        panic!("while it is held");
    });
    assert!(thread.join().is_err());
    assert_eq!(counts(&pool), [1, 1, 0, 0, 0]);
    assert_eq!(pool.try_get().unwrap_err().reason(), Reason::NoneIdle);
    drop(ready(&mut get(&pool)));
    assert_eq!(server.count(&server.checked), 1);
}

/// Trap 17.
#[test]
fn a_checkout_may_be_dropped_anywhere() {
    thread_local!(static KEPT: std::cell::RefCell<Option<Checkout<'static, Server>>> = const { std::cell::RefCell::new(None) });
    let server = Server::default();
    let pool = Pool::new(server.clone(), 3);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let [first, second] = runtime.block_on(async {
        let _running = tokio::spawn(pool.run());
        [pool.get().await.unwrap().into_owned(), pool.get().await.unwrap().into_owned()]
    });
    drop(runtime);
    std::thread::spawn(move || KEPT.with(|kept| *kept.borrow_mut() = Some(first))).join().unwrap();
    drop(second);
    assert_eq!(counts(&pool), [2, 2, 0, 0, 0]);
    // The runner died with its runtime: who waits drives again.
    let all: Vec<_> = (0..3).map(|_| pool.get_blocking().unwrap().into_owned()).collect();
    drop(pool);
    drop(all);
    assert_eq!(server.now(&server.live), 0);
}

/// Trap 18.
#[test]
fn a_closed_pool_refuses_all_who_wait_and_closes_each_connection_once() {
    let (clock, server, pool) = setup(|pool| pool.max(3));
    warm(&pool, 2);
    let held = ready(&mut get(&pool));
    let _idle = ready(&mut get(&pool));
    drop(_idle);
    server.take_time(&server.connect_time, secs(1));
    let other = ready(&mut get(&pool));
    let mut waiting: Vec<Get<'_>> = (0..2).map(|_| get(&pool)).collect();
    waiting.iter_mut().for_each(waits);
    assert_eq!(counts(&pool), [3, 0, 2, 1, 2]);
    pool.close_now();
    pool.close_now();
    for mut waiter in waiting {
        assert!(
            matches!(fails(&mut waiter), PoolError::Rejected(rejected) if rejected.reason() == Reason::Closed)
        );
    }
    assert_eq!((counts(&pool), pool.is_closed()), ([2, 0, 2, 0, 0], true));
    drop(held);
    drop(other);
    clock.advance(secs(1));
    assert_eq!((counts(&pool), server.count(&server.closed), server.now(&server.live)), ([0; 5], 2, 0));
    assert!(
        matches!(fails(&mut get(&pool)), PoolError::Rejected(rejected) if rejected.reason() == Reason::Closed)
    );
    assert_eq!(pool.try_get().unwrap_err().reason(), Reason::Closed);
}

#[test]
fn the_last_handle_closes_the_pool() {
    let (_, server, pool) = setup(|pool| pool.max(2));
    warm(&pool, 2);
    let mut running = Box::pin(pool.run());
    assert!(poll(&mut running).is_pending());
    let held = ready(&mut get(&pool)).into_owned();
    let other = pool.clone();
    drop(pool);
    assert_eq!(server.now(&server.live), 2);
    drop(other);
    assert_eq!(server.now(&server.live), 1);
    assert!(poll(&mut running).is_ready());
    drop(held);
    assert_eq!(server.now(&server.live), 0);
}

#[test]
fn a_drain_serves_who_waits_and_waits_for_what_is_out() {
    let (clock, server, pool) = setup(|pool| pool.max(1));
    server.take_time(&server.close_time, millis(10));
    let held = ready(&mut get(&pool));
    let mut waiter = get(&pool);
    waits(&mut waiter);
    let mut drain = Box::pin(pool.drain(secs(5)));
    assert!(poll(&mut drain).is_pending());
    assert!(
        matches!(fails(&mut get(&pool)), PoolError::Rejected(rejected) if rejected.reason() == Reason::Closed)
    );
    drop(held);
    let last = ready(&mut waiter);
    assert!(poll(&mut drain).is_pending());
    drop(last);
    assert!(poll(&mut drain).is_pending());
    clock.advance(millis(10));
    assert_eq!(poll(&mut drain), Poll::Ready(0));
    assert_eq!((server.count(&server.closed), counts(&pool)), (1, [0; 5]));
}

#[test]
fn a_drain_gives_up_at_its_time() {
    let (clock, server, pool) = setup(|pool| pool.max(2));
    warm(&pool, 2);
    let held = ready(&mut get(&pool));
    let mut drain = Box::pin(pool.drain(secs(5)));
    assert!(poll(&mut drain).is_pending());
    clock.advance(secs(5));
    assert_eq!(poll(&mut drain), Poll::Ready(1));
    drop(held);
    assert_eq!((server.count(&server.closed), counts(&pool)), (2, [0; 5]));
}

#[test]
fn a_paused_pool_gives_out_nothing_and_goes_on() {
    let (_, server, pool) = setup(|pool| pool.max(2));
    warm(&pool, 1);
    pool.pause();
    let (mut first, mut second) = (get(&pool), get(&pool));
    waits(&mut first);
    waits(&mut second);
    assert_eq!(pool.try_get().unwrap_err().reason(), Reason::NoneIdle);
    assert_eq!((server.count(&server.dials), counts(&pool)), (1, [1, 1, 0, 0, 2]));
    pool.resume();
    let _first = ready(&mut first);
    drop(ready(&mut second));
    pool.resume();
}

/// Trap 1: one in line is woken to drive a close, and served before it has looked.
#[test]
fn who_is_served_while_it_is_woken_anyway_holds_up_nobody_behind() {
    let (_, server, pool) = setup(|pool| pool.max(3));
    let [first, second, third] = [(); 3].map(|()| ready(&mut get(&pool)));
    pool.pause();
    let (mut woken, mut behind) = (get(&pool), get(&pool));
    waits(&mut woken);
    waits(&mut behind);
    drop(first);
    drop(second);
    server.take_time(&server.close_time, secs(1));
    third.discard();
    pool.resume();
    drop(ready(&mut behind));
    drop(ready(&mut woken));
}

/// Trap 19.
#[test]
fn a_pool_shrinks_as_connections_come_home_and_grows_for_who_waits() {
    let (_, server, pool) = setup(|pool| pool.max(4));
    let mut all: Vec<_> = (0..4).map(|_| ready(&mut get(&pool))).collect();
    pool.set_max(2).unwrap();
    pool.set_max(1).unwrap();
    assert_eq!(pool.set_max(0).unwrap_err().to_string(), "max: 0 must be at least 1");
    let mut waiter = get(&pool);
    waits(&mut waiter);
    for total in [3, 2, 1] {
        all.pop();
        assert_eq!(counts(&pool), [total, 0, total, 0, 1]);
    }
    pool.set_max(2).unwrap();
    drop(ready(&mut waiter));
    assert_eq!(counts(&pool), [2, 1, 1, 0, 0]);
    all.pop();
    assert_eq!((counts(&pool), server.count(&server.closed)), ([2, 2, 0, 0, 0], 3));
}

/// Trap 21.
#[test]
fn a_clear_reaches_what_is_idle_in_use_and_being_made() {
    let (clock, server, pool) = setup(|pool| pool.max(3));
    let [first, second] = [(); 2].map(|()| ready(&mut get(&pool)));
    drop(first);
    server.take_time(&server.connect_time, secs(1));
    let idle = ready(&mut get(&pool));
    let mut waiter = get(&pool);
    waits(&mut waiter);
    drop(idle);
    let taken = ready(&mut waiter);
    drop(taken);
    assert_eq!(counts(&pool), [3, 1, 1, 1, 0]);
    pool.clear();
    assert_eq!((counts(&pool), server.count(&server.closed)), ([2, 0, 1, 1, 0], 1));
    drop(second);
    assert_eq!((counts(&pool), server.count(&server.closed)), ([1, 0, 0, 1, 0], 2));
    let mut waiter = get(&pool);
    waits(&mut waiter);
    clock.advance(secs(1));
    waits(&mut waiter);
    assert_eq!(server.count(&server.closed), 3, "what was being made is closed");
    clock.advance(secs(1));
    assert_eq!(ready(&mut waiter).number, 4);
}

/// Trap 22.
#[test]
fn a_clock_that_goes_back_or_leaps_does_no_harm() {
    let (clock, offset) = support::settable(secs(1_000_000));
    let server = Server::new(&clock);
    let pool = Pool::builder(server.clone()).max(3).clock(clock.clone()).idle_timeout(secs(60)).build();
    warm(&pool, 3);
    offset.store(-900_000_000_000_000, Ordering::Relaxed);
    for _ in 0..3 {
        drop(pool.try_get().unwrap());
        drop(ready(&mut get(&pool)));
    }
    offset.store(0, Ordering::Relaxed);
    drop(ready(&mut get(&pool)));
    assert_eq!((server.count(&server.closed), counts(&pool)), (0, [3, 3, 0, 0, 0]));
    let pool = Pool::builder(server).max(1).clock(clock).timeout(Duration::MAX).max_lifetime(Duration::MAX);
    let pool =
        pool.idle_timeout(Duration::MAX).check_after(Duration::MAX).connect_timeout(Duration::MAX).build();
    offset.store(i64::MAX / 2, Ordering::Relaxed);
    drop(pool.try_get());
    drop(ready(&mut get(&pool)));
    assert_eq!(counts(&pool), [1, 1, 0, 0, 0]);
}

/// A waker that uses the pool as soon as it is called.
struct ComesBack(Pool<Server>, Mutex<Vec<bool>>);

impl Wake for ComesBack {
    fn wake(self: Arc<Self>) {
        let got = self.0.try_get().is_ok();
        let _ = self.0.status();
        self.1.lock().unwrap().push(got);
    }
}

/// Trap 23.
#[test]
fn a_waker_or_an_observer_may_use_the_pool() {
    let slot: Arc<Mutex<Option<Pool<Server>>>> = Arc::default();
    let seen = slot.clone();
    let observer = move |_: &str, _: Event| {
        if let Some(pool) = &*seen.lock().unwrap() {
            assert!(pool.status().max == 1);
        }
    };
    let (_, _, pool) = setup(|pool| pool.max(1).observe("db", observer));
    *slot.lock().unwrap() = Some(pool.clone());
    let held = ready(&mut get(&pool));
    let comes_back = Arc::new(ComesBack(pool.clone(), Mutex::default()));
    let mut waiter = get(&pool);
    let waker = comes_back.clone().into();
    assert!(waiter.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(held);
    assert_eq!(*comes_back.1.lock().unwrap(), [false]);
    drop(ready(&mut waiter));
    *slot.lock().unwrap() = None;
}

/// Trap 24.
#[test]
fn needless_polls_cost_nothing_and_a_forgotten_waiter_blocks_nobody_it_was_not_served() {
    let (_, server, pool) = setup(|pool| pool.max(2));
    let (first, second) = (ready(&mut get(&pool)), ready(&mut get(&pool)));
    let mut waiter = get(&pool);
    for _ in 0..100_000 {
        waits(&mut waiter);
    }
    assert_eq!((pool.status().waiting, server.count(&server.dials)), (1, 2));
    std::mem::forget(waiter);
    // It stands first, and is served the first connection; the second goes to who is there.
    let mut next = get(&pool);
    waits(&mut next);
    drop(first);
    waits(&mut next);
    drop(second);
    drop(ready(&mut next));
}

/// Trap 25.
#[test]
fn only_the_waker_that_was_left_last_is_woken() {
    let (_, _, pool) = setup(|pool| pool.max(1));
    let (old, new) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
    let held = ready(&mut get(&pool));
    let mut waiter = get(&pool);
    assert!(old.poll(&mut waiter).is_pending());
    assert!(new.poll(&mut waiter).is_pending());
    drop(held);
    assert_eq!((old.count(), new.count()), (0, 1));
}

#[test]
fn a_runner_makes_connections_and_who_waits_only_waits() {
    let (clock, server, pool) = setup(|pool| pool.max(3));
    server.take_time(&server.connect_time, millis(100));
    let wakes = Arc::new(Wakes::default());
    let waker: Waker = wakes.clone().into();
    let mut running = Box::pin(pool.run());
    assert!(running.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let mut waiter = get(&pool);
    waits(&mut waiter);
    assert_eq!((wakes.count(), server.count(&server.dials)), (1, 0));
    assert!(running.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(server.count(&server.dials), 1);
    // The caller goes away, the dial goes on.
    drop(waiter);
    clock.advance(millis(100));
    assert!(poll(&mut running).is_pending());
    assert_eq!(counts(&pool), [1, 1, 0, 0, 0]);
    // The runner goes away in the middle of a dial: who waits drives it to its end.
    let _held = ready(&mut get(&pool));
    let mut waiter = get(&pool);
    let wakes = Arc::new(Wakes::default());
    assert!(wakes.poll(&mut waiter).is_pending());
    assert!(poll(&mut running).is_pending());
    drop(running);
    assert!(wakes.count() > 0);
    waits(&mut waiter);
    clock.advance(millis(100));
    assert_eq!(ready(&mut waiter).number, 2);
    assert_eq!(server.count(&server.dials), 2);
}

#[test]
fn a_runner_closes_what_is_overdue() {
    let (clock, server, pool) = setup(|pool| pool.max(2).idle_timeout(secs(10)));
    warm(&pool, 2);
    let mut running = Box::pin(pool.run());
    assert!(poll(&mut running).is_pending());
    clock.advance(secs(10));
    assert!(poll(&mut running).is_pending());
    assert_eq!((server.count(&server.closed), counts(&pool)), (2, [0; 5]));
    pool.close_now();
    assert!(poll(&mut running).is_ready());
}

struct Blocking(Arc<AtomicU64>, Arc<AtomicU64>);

impl BlockingManager for Blocking {
    type Connection = u64;
    type Error = Refused;

    fn connect(&self) -> Result<u64, Refused> {
        let now = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.1.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(millis(5));
        self.0.fetch_sub(1, Ordering::SeqCst);
        Ok(now)
    }

    fn check(&self, _: &mut u64) -> Result<(), Refused> {
        Ok(())
    }
}

/// On the real clock.
#[test]
fn threads_share_a_pool_and_dial_for_themselves() {
    for with_runners in [false, true] {
        let most = Arc::new(AtomicU64::new(0));
        let pool = Pool::builder(Blocking(Arc::default(), most.clone()).in_place()).max(4).build();
        let runners: Vec<_> = (0..2 * usize::from(with_runners))
            .map(|_| {
                let pool = pool.clone();
                std::thread::spawn(move || pool.run_blocking())
            })
            .collect();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let pool = pool.clone();
                std::thread::spawn(move || {
                    for _ in 0..200 {
                        let checkout = pool.get_blocking().unwrap();
                        assert!(pool.status().total <= 4);
                        drop(checkout);
                        std::thread::yield_now();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(most.load(Ordering::SeqCst) <= 2, "more dials at once than may be");
        let status = pool.status();
        assert_eq!((status.in_use, status.waiting), (0, 0));
        assert_eq!(pool.drain_blocking(secs(5)), 0);
        runners.into_iter().for_each(|runner| runner.join().unwrap());
    }
}

#[test]
fn errors_say_what_they_are_in_a_stack() {
    let (_, server, pool) = setup(|pool| pool.max(1).fail_fast_after(1));
    server.set(&server.connects, DOWN);
    let error = fails(&mut get(&pool));
    assert!(std::error::Error::source(&error).unwrap().downcast_ref::<Refused>().is_some());
    assert!(matches!(error.into_error(), floodwall::Error::Inner(ConnectError::Failed(_))));
    pool.close_now();
    assert!(matches!(fails(&mut get(&pool)).into_error(), floodwall::Error::Rejected(_)));
}

#[test]
fn a_checkout_is_as_small_as_it_can_be() {
    assert!(size_of::<Checkout<'_, Server>>() <= 24);
    assert!(size_of::<PoolError<Refused>>() <= 40);
    let (_, _, pool) = setup(|pool| pool);
    assert!(size_of_val(&pool.get()) <= 1024, "{}", size_of_val(&pool.get()));
    fn is_send<T: Send>(_: &T) {}
    is_send(&pool.get());
    let _: fn(&Connection) = is_send;
}

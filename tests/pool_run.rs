//! What whoever runs a pool does for it: a minimum of idle connections, replacements ahead of time, signs of life, a start
//! that fails early; and what the pool tells of itself.
//!
//! Traps: 9 a minimum of idle connections that is overshot or churned, 10 connections that all end together, 18 a close while
//! connections are made or checked.
#![cfg(not(floodwall_loom))]

#[path = "support/server.rs"]
mod server;
mod support;

use std::pin::Pin;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use floodwall::pool::{ConnectError, PoolError, PoolSize};
use floodwall::{Call, Clock, Constant, Event, Pool, PoolBuilder, Reason};
use server::{DOWN, HANGS, Server, WELL};
use support::{millis, poll, secs};

fn setup(change: impl FnOnce(PoolBuilder<Server>) -> PoolBuilder<Server>) -> (Clock, Server, Pool<Server>) {
    let clock = Clock::manual();
    let server = Server::new(&clock);
    let pool = change(Pool::builder(server.clone()).clock(clock.clone()).seed(7)).build();
    (clock, server, pool)
}

/// Runs the pool for a while, in steps.
fn run(running: &mut Pin<Box<impl Future<Output = ()>>>, clock: &Clock, steps: usize, step: Duration) {
    for _ in 0..steps {
        assert!(poll(running).is_pending());
        clock.advance(step);
    }
    assert!(poll(running).is_pending());
}

/// Trap 9: bb8 made 34 connections for 2 in a second, r2d2 10 for 1.
#[test]
fn as_many_are_kept_idle_as_should_be_and_no_more_are_made() {
    let (clock, server, pool) = setup(|pool| pool.max(10).min_idle(2).idle_timeout(millis(50)));
    server.take_time(&server.connect_time, millis(30));
    let mut running = Box::pin(pool.run());
    run(&mut running, &clock, 100, millis(10));
    assert_eq!((pool.status().idle, server.count(&server.dials)), (2, 2));
    // One that is taken is made up for; those that are too many then end by their idle time.
    let one = pool.try_get().unwrap();
    run(&mut running, &clock, 10, millis(10));
    assert_eq!((pool.status().idle, server.count(&server.dials)), (2, 3));
    drop(one);
    run(&mut running, &clock, 100, millis(10));
    assert_eq!((pool.status().total, pool.status().idle), (2, 2));
    assert_eq!(server.count(&server.dials), 3);
    pool.set_min_idle(0);
    run(&mut running, &clock, 20, millis(10));
    assert_eq!(pool.status().total, 0);
}

#[test]
fn no_more_are_kept_idle_than_there_may_be() {
    let (clock, server, pool) = setup(|pool| pool.max(3).min_idle(10));
    let mut running = Box::pin(pool.run());
    run(&mut running, &clock, 10, millis(10));
    assert_eq!((pool.status().idle, server.count(&server.dials)), (3, 3));
    let _one = pool.try_get().unwrap();
    run(&mut running, &clock, 10, millis(10));
    assert_eq!((pool.status().total, server.count(&server.dials)), (3, 3));
}

/// Trap 10: 50 connections that were made together, on a virtual clock.
#[test]
fn those_that_age_together_are_replaced_one_by_one_while_nobody_waits() {
    let (clock, server, pool) = setup(|pool| {
        pool.max(50).min_idle(50).max_connecting(2).max_lifetime(secs(1_000)).idle_timeout(Duration::MAX)
    });
    let mut running = Box::pin(pool.run());
    run(&mut running, &clock, 1, Duration::ZERO);
    assert_eq!(server.count(&server.dials), 50);
    server.take_time(&server.connect_time, millis(200));
    let (mut before, mut most) = (50, 0);
    // A tenth of a second each; a hundredth of the lifetime are 10 seconds.
    for _ in 0..110 {
        for _ in 0..100 {
            clock.advance(millis(100));
            assert!(poll(&mut running).is_pending());
            let checkout = pool.try_get().expect("there is always one idle");
            drop(checkout);
        }
        most = most.max(server.count(&server.dials) - before);
        before = server.count(&server.dials);
    }
    assert!(server.count(&server.dials) >= 100, "all were replaced");
    assert!(most <= 15, "{most} were replaced within a hundredth of their lifetime");
    assert!(server.now(&server.most_live) <= 50);
}

/// Lifetimes end between 900 and 1,000 s here, and replacements come a twentieth of 1,000 s ahead of that.
#[test]
fn who_will_be_too_old_soon_is_replaced_before_that() {
    let (clock, server, pool) =
        setup(|pool| pool.max(20).min_idle(20).max_lifetime(secs(1_000)).idle_timeout(Duration::MAX));
    let mut running = Box::pin(pool.run());
    run(&mut running, &clock, 951, secs(1));
    assert_eq!((server.count(&server.dials), server.count(&server.closed)), (40, 20));
    assert_eq!(pool.status().idle, 20);
}

#[test]
fn what_is_idle_shows_signs_of_life_and_what_shows_none_is_replaced() {
    let (clock, server, pool) = setup(|pool| {
        pool.max(4).min_idle(2).keepalive(secs(10)).idle_timeout(secs(3_600)).check_timeout(secs(1))
    });
    let mut running = Box::pin(pool.run());
    run(&mut running, &clock, 9, secs(1));
    assert_eq!(server.count(&server.checked), 0);
    run(&mut running, &clock, 1, secs(1));
    assert_eq!((server.count(&server.checked), server.count(&server.dials)), (2, 2));
    // Whoever comes now needs no check.
    let taken = poll(&mut Box::pin(pool.get()));
    assert!(taken.is_ready() && server.count(&server.checked) == 2);
    drop(taken);
    server.kill_all();
    run(&mut running, &clock, 12, secs(1));
    assert_eq!((pool.status().idle, server.count(&server.closed), server.count(&server.dials)), (2, 2, 4));
    // One that says nothing is given up at the check's own time, and its place is free.
    server.set(&server.checks, HANGS);
    run(&mut running, &clock, 12, secs(1));
    server.set(&server.checks, WELL);
    run(&mut running, &clock, 2, secs(1));
    assert!(server.count(&server.dials) >= 6, "{} dials", server.count(&server.dials));
    assert_eq!(pool.status().idle, 2);
    assert!(server.now(&server.live) <= 4);
}

#[test]
fn a_pool_is_ready_when_it_has_what_it_should_keep() {
    let (clock, server, pool) = setup(|pool| pool.max(5).min_idle(3));
    server.take_time(&server.connect_time, millis(10));
    let mut ready = Box::pin(pool.ready());
    assert!(poll(&mut ready).is_pending());
    clock.advance(millis(10));
    assert!(poll(&mut ready).is_pending());
    clock.advance(millis(10));
    assert!(matches!(poll(&mut ready), Poll::Ready(Ok(()))));
    assert_eq!((pool.status().idle, server.count(&server.dials)), (3, 3));
    // At once, the second time.
    assert!(matches!(poll(&mut Box::pin(pool.ready())), Poll::Ready(Ok(()))));
}

#[test]
fn a_start_fails_with_the_first_attempt_to_connect_or_at_its_time() {
    let (clock, server, pool) = setup(|pool| pool.max(5).timeout(secs(3)).backoff(Constant::new(secs(1))));
    server.set(&server.connects, DOWN);
    let mut ready = Box::pin(pool.ready());
    assert!(matches!(poll(&mut ready), Poll::Ready(Err(PoolError::Connect(ConnectError::Failed(_))))));
    drop(ready);
    server.set(&server.connects, HANGS);
    clock.advance(secs(1));
    let mut ready = Box::pin(pool.ready());
    assert!(poll(&mut ready).is_pending());
    clock.advance(secs(3));
    assert!(matches!(poll(&mut ready), Poll::Ready(Err(PoolError::TimedOut(_)))));
    drop(ready);
    pool.close_now();
    let Poll::Ready(Err(PoolError::Rejected(rejected))) = poll(&mut Box::pin(pool.ready())) else {
        panic!("not refused")
    };
    assert_eq!((rejected.reason(), pool.status().total), (Reason::Closed, 0));
}

/// Trap 18.
#[test]
fn a_close_ends_the_dials_of_who_runs_the_pool_and_answers_who_waits() {
    let (_, server, pool) = setup(|pool| pool.max(4));
    server.take_time(&server.connect_time, secs(1));
    let mut running = Box::pin(pool.run());
    assert!(poll(&mut running).is_pending());
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(pool.get())).collect();
    assert!(waiting.iter_mut().all(|waiter| poll(waiter).is_pending()));
    assert!(poll(&mut running).is_pending());
    assert_eq!((server.now(&server.dialling), pool.status().connecting), (2, 2));
    pool.close_now();
    for mut waiter in waiting {
        let Poll::Ready(Err(PoolError::Rejected(rejected))) = poll(&mut waiter) else {
            panic!("not refused")
        };
        assert_eq!(rejected.reason(), Reason::Closed);
    }
    assert!(poll(&mut running).is_ready());
    assert_eq!((server.now(&server.dialling), server.now(&server.live), pool.status().total), (0, 0, 0));
}

/// Trap 18: what is being checked for a caller is in use; the caller gets it, and it is closed when it comes home.
#[test]
fn a_close_while_a_connection_is_checked_closes_it_when_it_comes_home() {
    for is_cancelled in [false, true] {
        let (clock, server, pool) = setup(|pool| pool.max(1));
        drop(poll_ready(&pool));
        clock.advance(secs(5));
        server.take_time(&server.check_time, millis(100));
        let mut checking = Box::pin(pool.get());
        assert!(poll(&mut checking).is_pending());
        pool.close_now();
        assert_eq!((pool.status().in_use, server.now(&server.live)), (1, 1));
        clock.advance(millis(100));
        if !is_cancelled {
            assert!(matches!(poll(&mut checking), Poll::Ready(Ok(_))));
        }
        drop(checking);
        assert_eq!((pool.status().total, server.count(&server.closed), server.now(&server.live)), (0, 1, 0));
    }
}

#[test]
fn what_is_held_for_too_long_is_told_once_and_by_its_place() {
    let (sender, events) = mpsc::channel();
    let observer = move |_: &str, event: Event| {
        if let Event::HeldTooLong { .. } = event {
            sender.send(event).unwrap();
        }
    };
    let (clock, _, pool) = setup(|pool| pool.max(2).leak_after(secs(60)).observe("db", observer));
    let mut running = Box::pin(pool.run());
    assert!(poll(&mut running).is_pending());
    let mut get = Box::pin(pool.get());
    let line = line!() - 1;
    assert!(poll(&mut get).is_pending());
    run(&mut running, &clock, 1, Duration::ZERO);
    let Poll::Ready(Ok(leaked)) = poll(&mut get) else { panic!("none") };
    run(&mut running, &clock, 70, secs(1));
    let Event::HeldTooLong { at, held } = events.try_recv().unwrap() else { panic!("not that") };
    assert_eq!((at.line(), at.file(), held), (line, file!(), secs(60)));
    assert!(events.try_recv().is_err(), "it is told once");
    let all = pool.held();
    assert_eq!((all.len(), all[0].at, all[0].held, pool.stats().leaks), (1, at, secs(70), 1));
    drop(leaked);
    assert!(pool.held().is_empty());

    // Without a runner, by who waits next.
    drop(running);
    let _first = pool.try_get().unwrap().into_owned();
    clock.advance(secs(61));
    drop(pool.get_blocking().unwrap().take());
    let Event::HeldTooLong { at, .. } = events.try_recv().unwrap() else { panic!("not that") };
    assert_eq!((at.file(), pool.held().len()), (file!(), 1));
}

#[test]
fn a_pool_counts_what_it_does() {
    let (clock, server, pool) = setup(|pool| pool.max(1).measure_holds().timeout(secs(1)));
    server.take_time(&server.connect_time, millis(100));
    let mut get = Box::pin(pool.get());
    assert!(poll(&mut get).is_pending());
    clock.advance(millis(100));
    let Poll::Ready(Ok(held)) = poll(&mut get) else { panic!("none") };
    let mut late = Box::pin(pool.get());
    assert!(poll(&mut late).is_pending());
    clock.advance(secs(1));
    assert!(matches!(poll(&mut late), Poll::Ready(Err(_))));
    drop(held);
    drop(pool.try_get().unwrap());
    poll_ready(&pool).discard();
    let stats = pool.stats();
    assert_eq!((stats.served, stats.timed_out, stats.connected, stats.failed, stats.closed), (3, 1, 1, 0, 1));
    let near = |time: Option<Duration>, to: Duration| time.unwrap().abs_diff(to) <= to / 32;
    assert!(near(stats.connects.quantile(1.0), millis(100)));
    assert!(near(stats.waits.quantile(1.0), millis(100)));
    assert!(near(stats.holds.quantile(1.0), secs(1)));
    assert_eq!((stats.waits.count(), stats.holds.count()), (1, 3));
}

fn poll_ready(pool: &Pool<Server>) -> floodwall::Checkout<'_, Server> {
    match poll(&mut Box::pin(pool.get())) {
        Poll::Ready(got) => got.unwrap(),
        Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn calls_of_higher_priority_stand_before_others() {
    let (_, _, pool) = setup(|pool| pool.max(1).max_waiting(3));
    let get = |priority| Box::pin(pool.get_for(Call::new().priority(priority)));
    let held = pool.get_blocking().unwrap();
    let (mut low, mut normal, mut high) = (get(10), get(Call::NORMAL), get(200));
    for waiter in [&mut low, &mut normal, &mut high] {
        assert!(poll(waiter).is_pending());
    }
    // The line is full: the one that matters least makes room for one that matters more.
    let mut urgent = get(255);
    assert!(poll(&mut urgent).is_pending());
    assert!(matches!(poll(&mut low), Poll::Ready(Err(PoolError::Rejected(_)))));
    drop(held);
    assert!(poll(&mut normal).is_pending() && poll(&mut high).is_pending());
    for waiter in [&mut urgent, &mut high, &mut normal] {
        let Poll::Ready(Ok(got)) = poll(waiter) else { panic!("not its turn") };
        drop(got);
    }
}

#[test]
fn a_pools_size_follows_from_the_databases() {
    assert_eq!(
        [PoolSize::suggest(4, 1, 1), PoolSize::suggest(8, 0, 3), PoolSize::suggest(1, 0, 9)],
        [9, 5, 1]
    );
    assert_eq!(
        [PoolSize::deadlock_free(3, 4), PoolSize::deadlock_free(7, 1), PoolSize::deadlock_free(7, 0)],
        [10, 1, 1]
    );
    assert_eq!(PoolSize::for_load(0, secs(1)), 1);
    assert_eq!(PoolSize::for_load(100, millis(20)), 3);
}

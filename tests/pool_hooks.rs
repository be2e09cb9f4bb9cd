//! Hooks of a pool: when each is called, what its answer does, and what it does when it panics.
#![cfg(not(floodwall_loom))]

#[path = "support/server.rs"]
mod server;
mod support;

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use floodwall::pool::{ConnectError, Phase, PoolError};
use floodwall::{Call, Checkout, Clock, Constant, Event, Pool, PoolBuilder, Reason};
use server::{Connection, Refused, Server};
use support::{millis, poll, secs};

type Got<'a> = Result<Checkout<'a, Server>, PoolError<Refused>>;
type Get<'a> = Pin<Box<dyn Future<Output = Got<'a>> + Send + 'a>>;

/// What hooks have seen: (which, the connection's number).
type Seen = Arc<Mutex<Vec<(&'static str, u64)>>>;

fn setup(change: impl FnOnce(PoolBuilder<Server>) -> PoolBuilder<Server>) -> (Clock, Server, Pool<Server>) {
    let clock = Clock::manual();
    let server = Server::new(&clock);
    let pool = change(Pool::builder(server.clone()).max(2).clock(clock.clone())).build();
    (clock, server, pool)
}

fn get(pool: &Pool<Server>) -> Get<'_> {
    Box::pin(pool.get())
}

#[track_caller]
fn is_served<'a>(get: &mut Get<'a>) -> Checkout<'a, Server> {
    match poll(get) {
        Poll::Ready(got) => got.unwrap(),
        Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn each_hook_is_called_in_its_turn() {
    let seen = Seen::default();
    let hook = |which: &'static str| {
        let seen = seen.clone();
        move |connection: &mut Connection| seen.lock().unwrap().push((which, connection.number))
    };
    let [connect, take, come_home, close] = ["connect", "take", "return", "close"].map(hook);
    let (clock, server, pool) = setup(|pool| {
        pool.on_connect(move |connection| {
            connect(connection);
            Ok(())
        })
        .on_take(move |connection| {
            take(connection);
            true
        })
        .on_return(move |connection| {
            come_home(connection);
            true
        })
        .on_close(close)
        .idle_timeout(secs(60))
    });
    let since = || std::mem::take(&mut *seen.lock().unwrap());
    let first = is_served(&mut get(&pool));
    assert_eq!(since(), [("connect", 1), ("take", 1)]);
    drop(first);
    assert_eq!(since(), [("return", 1)]);
    drop(pool.try_get().unwrap());
    drop(pool.get_blocking().unwrap());
    assert_eq!(since(), [("take", 1), ("return", 1)].repeat(2));
    // After a check, too; and a waiter is served through it.
    clock.advance(secs(5));
    let held = [is_served(&mut get(&pool)), is_served(&mut get(&pool))];
    assert_eq!((since(), server.count(&server.checked)), (vec![("take", 1), ("connect", 2), ("take", 2)], 1));
    let mut waiter = get(&pool);
    assert!(poll(&mut waiter).is_pending());
    let [one, two] = held;
    drop(one);
    drop(is_served(&mut waiter));
    assert_eq!(since(), [("return", 1), ("take", 1), ("return", 1)]);
    // One that does not come home to stay is only closed.
    two.discard();
    assert_eq!(since(), [("close", 2)]);
    drop(is_served(&mut get(&pool)).take());
    assert_eq!(since(), [("take", 1)]);
    drop(is_served(&mut get(&pool)));
    clock.advance(secs(60));
    assert!(pool.try_get().is_err());
    pool.close_now();
    assert_eq!(since(), [("connect", 3), ("take", 3), ("return", 3), ("close", 3)]);
    assert_eq!((server.count(&server.closed), server.now(&server.live)), (2, 0));
}

#[test]
fn one_that_cannot_be_prepared_is_a_failed_attempt_and_is_closed() {
    let events = Arc::new(AtomicU64::new(0));
    let heard = events.clone();
    let (clock, server, pool) = setup(|pool| {
        let pool = pool.on_connect(|connection| match connection.number {
            1 => Err(Refused),
            2 => panic!("the hook panics"),
            _ => Ok(()),
        });
        let pool = pool.observe("db", move |_: &str, event: Event| {
            heard.fetch_add(u64::from(matches!(event, Event::Connected { .. })), SeqCst);
        });
        pool.fail_fast_after(1).backoff(Constant::new(millis(10)))
    });
    let Poll::Ready(Err(PoolError::Connect(ConnectError::Failed(error)))) = poll(&mut get(&pool)) else {
        panic!("not told")
    };
    assert_eq!(*error, Refused);
    clock.advance(millis(10));
    let panicked = poll(&mut get(&pool));
    assert!(matches!(panicked, Poll::Ready(Err(PoolError::Connect(ConnectError::Panicked)))));
    assert_eq!((server.count(&server.closed), server.now(&server.live), pool.status().total), (2, 0, 0));
    clock.advance(millis(10));
    assert_eq!(is_served(&mut get(&pool)).number, 3);
    assert_eq!((pool.stats().failed, pool.stats().connected, events.load(SeqCst)), (2, 1, 1));
}

#[test]
fn one_that_may_not_be_given_out_is_closed_and_the_caller_gets_another() {
    // Up to which number none may be given out, and for which one the hook panics.
    let (refused, panics) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (up_to, panics_for) = (refused.clone(), panics.clone());
    let (clock, server, pool) = setup(|pool| {
        pool.on_take(move |connection| {
            assert_ne!(connection.number, panics_for.load(SeqCst), "the hook panics");
            connection.number > up_to.load(SeqCst)
        })
    });
    drop([is_served(&mut get(&pool)), is_served(&mut get(&pool))]);
    refused.store(2, SeqCst);
    assert_eq!(pool.try_get().unwrap_err().reason(), Reason::NoneIdle);
    assert_eq!((server.count(&server.closed), pool.status().total), (2, 0));
    let third = is_served(&mut get(&pool));
    assert_eq!(third.number, 3);
    // A waiter that is handed one it may not have stays before the others.
    let fourth = is_served(&mut get(&pool));
    let (mut first, mut second) = (get(&pool), get(&pool));
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
    panics.store(3, SeqCst);
    drop(third);
    let fifth = is_served(&mut first);
    assert_eq!(fifth.number, 5);
    drop(fourth);
    assert_eq!(is_served(&mut second).number, 4);
    drop(fifth);
    // After a check that takes its time.
    clock.advance(secs(1));
    refused.store(5, SeqCst);
    assert_eq!(is_served(&mut get(&pool)).number, 6);
    assert_eq!((server.count(&server.closed), pool.status().idle), (5, 1));
}

#[test]
fn a_hook_that_always_says_no_ends_at_the_callers_time() {
    let clock = Clock::manual();
    let (server, hands) = (Server::new(&clock), clock.clone());
    let says_no = move |_: &mut _| {
        hands.advance(millis(1));
        false
    };
    let pool = Pool::builder(server.clone()).max(2).clock(clock.clone()).on_take(says_no).build();
    let call = Call::new().deadline(clock.now() + millis(5));
    let Err(PoolError::TimedOut(timeout)) = pool.get_blocking_for(call) else { panic!("not by time") };
    assert_eq!((timeout.phase, pool.status().in_use), (Phase::Check, 0));
    assert_eq!(server.count(&server.dials), 5);
    assert_eq!(server.now(&server.live), pool.status().total as i64);
}

#[test]
fn one_that_may_not_come_home_is_closed_and_its_place_is_for_who_waits() {
    let (_, server, pool) = setup(|pool| {
        pool.max(1).on_return(|connection| {
            assert_ne!(connection.number, 2, "the hook panics");
            connection.number > 1
        })
    });
    let mut held = is_served(&mut get(&pool));
    for number in [2, 3] {
        let mut waiter = get(&pool);
        assert!(poll(&mut waiter).is_pending());
        drop(held);
        held = is_served(&mut waiter);
        assert_eq!((held.number, server.count(&server.closed)), (number, number - 1));
    }
    drop(held);
    assert_eq!(pool.status().idle, 1);
}

/// Trap 16: a connection is closed even if who hears of it panics; and one that comes home while its holder panics is
/// still asked about.
#[test]
fn whatever_hooks_do_each_connection_is_closed_once() {
    let (_, server, pool) = setup(|pool| {
        pool.on_close(|_| panic!("the hook panics")).on_return(|connection| {
            assert!(!connection.broken, "the hook panics");
            true
        })
    });
    is_served(&mut get(&pool)).discard();
    assert_eq!((server.count(&server.closed), pool.status().total), (1, 0));
    let holder = pool.clone();
    let thread = std::thread::spawn(move || {
        let held = holder.get_blocking().unwrap();
        let _held = held;
        panic!("while it is held");
    });
    assert!(thread.join().is_err());
    assert_eq!(pool.status().idle, 1);
    pool.close_now();
    assert_eq!((server.count(&server.closed), server.now(&server.live)), (2, 0));
}

/// Trap 23.
#[test]
fn a_hook_may_use_the_pool() {
    let slot: Arc<Mutex<Option<Pool<Server>>>> = Arc::default();
    let calls = Arc::new(AtomicU64::new(0));
    let uses = || {
        let (slot, calls) = (slot.clone(), calls.clone());
        move || {
            calls.fetch_add(1, SeqCst);
            let pool = slot.lock().unwrap().clone();
            assert!(pool.is_none_or(|pool| pool.try_get().is_err() && pool.status().max == 2));
        }
    };
    let [connect, take, come_home, close] = [(); 4].map(|()| uses());
    let (_, _, pool) = setup(|pool| {
        pool.on_connect(move |_| {
            connect();
            Ok(())
        })
        .on_take(move |_| {
            take();
            true
        })
        .on_return(move |_| {
            come_home();
            true
        })
        .on_close(move |_| close())
    });
    *slot.lock().unwrap() = Some(pool.clone());
    let held = is_served(&mut get(&pool));
    drop(held);
    pool.clear();
    assert_eq!((calls.load(SeqCst), pool.status().total), (4, 0));
    *slot.lock().unwrap() = None;
}

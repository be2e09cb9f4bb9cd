//! Pools per key under one cap: both caps hold, no key is starved, nothing is lost to those who go away.
#![cfg(not(floodwall_loom))]

mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::thread;

use floodwall::pool::PoolError;
use floodwall::{Call, Clock, Event, KeyedCheckout, KeyedPool, Manager, Pool, Reason};
use proptest::prelude::*;
use support::{millis, poll, secs};

type Error = PoolError<&'static str>;
type Get = Pin<Box<dyn Future<Output = Result<KeyedCheckout<Host>, Error>> + Send>>;

/// All hosts, and what they have seen: connections count from when they are begun until they are gone.
#[derive(Debug, Default)]
struct Net {
    live: AtomicI64,
    most: AtomicI64,
    of: [AtomicI64; 8],
    most_of: [AtomicI64; 8],
    dials: AtomicU64,
    /// Of host 0.
    hangs: AtomicBool,
    closes_hang: AtomicBool,
}

struct Host(Arc<Net>, usize);

#[derive(Debug)]
struct Connection(Arc<Net>, usize, u64);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, SeqCst);
        self.0.of[self.1].fetch_sub(1, SeqCst);
    }
}

impl Manager for Host {
    type Connection = Connection;
    type Error = &'static str;

    async fn connect(&self) -> Result<Connection, &'static str> {
        let (net, host) = (&self.0, self.1);
        net.most.fetch_max(net.live.fetch_add(1, SeqCst) + 1, SeqCst);
        net.most_of[host].fetch_max(net.of[host].fetch_add(1, SeqCst) + 1, SeqCst);
        let connection = Connection(net.clone(), host, net.dials.fetch_add(1, SeqCst) + 1);
        tokio::task::yield_now().await;
        while host == 0 && net.hangs.load(SeqCst) {
            tokio::task::yield_now().await;
        }
        Ok(connection)
    }

    async fn check(&self, _: &mut Connection) -> Result<(), &'static str> {
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn close(&self, connection: Connection) {
        if self.0.closes_hang.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        drop(connection);
    }
}

/// So many connections in all, and so many to a host.
fn hosts(max: usize, per_host: usize, clock: &Clock) -> (Arc<Net>, KeyedPool<usize, Host>) {
    let net = Arc::new(Net::default());
    let (made, time) = (net.clone(), clock.clone());
    let make = move |host: &usize| {
        Pool::builder(Host(made.clone(), *host)).max(per_host).clock(time.clone()).max_waiting(50)
    };
    (net, KeyedPool::new(max, make).clock(clock.clone()))
}

fn get(pool: &KeyedPool<usize, Host>, host: usize) -> Get {
    Box::pin(pool.get(&host))
}

/// Polls until it is served; the manager takes some polls.
fn served(get: &mut Get) -> KeyedCheckout<Host> {
    for _ in 0..10 {
        if let Poll::Ready(got) = poll(get) {
            return got.unwrap();
        }
    }
    panic!("it is not served");
}

fn waits(get: &mut Get) {
    for _ in 0..10 {
        assert!(poll(get).is_pending(), "it should wait");
    }
}

#[test]
fn a_key_has_connections_of_its_own_up_to_its_cap() {
    let (net, pool) = hosts(4, 2, &Clock::manual());
    let (a, b) = (served(&mut get(&pool, 0)), served(&mut get(&pool, 1)));
    assert_eq!((a.1, b.1), (0, 1));
    let second = served(&mut get(&pool, 0));
    let mut third = get(&pool, 0);
    waits(&mut third);
    assert_eq!(pool.try_get(&0).unwrap_err().reason(), Reason::NoneIdle);
    let status = pool.status();
    assert_eq!((status.keys, status.total, status.in_use, status.idle, status.waiting), (2, 3, 3, 0, 1));
    assert_eq!(pool.status_of(&0).unwrap().waiting, 1);
    let number = a.2;
    drop(a);
    assert_eq!(served(&mut third).2, number, "it is handed on");
    drop((b, second));
    assert_eq!(pool.try_get(&1).unwrap().1, 1);
    assert_eq!((net.dials.load(SeqCst), net.most_of[0].load(SeqCst)), (3, 2));
}

#[test]
fn the_connection_that_was_idle_for_longest_makes_place_for_another_key() {
    let clock = Clock::manual();
    let (net, pool) = hosts(3, 3, &clock);
    for host in [2, 0, 1] {
        drop(served(&mut get(&pool, host)));
        clock.advance(millis(10));
    }
    drop(served(&mut get(&pool, 3)));
    let totals = |hosts: [usize; 4]| hosts.map(|host| pool.status_of(&host).map_or(0, |status| status.total));
    assert_eq!(totals([0, 1, 2, 3]), [1, 1, 0, 1]);
    // Of its own it takes what is idle, whatever others want.
    let mut held = vec![served(&mut get(&pool, 1)), served(&mut get(&pool, 1))];
    assert_eq!(totals([0, 1, 2, 3]), [0, 2, 0, 1]);
    held.push(served(&mut get(&pool, 3)));
    let mut waiting = get(&pool, 0);
    waits(&mut waiting);
    assert_eq!(pool.status().waiting, 1);
    drop(held.remove(0));
    assert_eq!(served(&mut waiting).1, 0);
    assert_eq!((net.most.load(SeqCst), pool.status().total), (3, 3));
}

#[test]
fn calls_of_higher_priority_go_first_at_a_key_and_among_all() {
    for (low, high) in [(0, 0), (1, 2)] {
        let (_, pool) = hosts(1, 1, &Clock::manual());
        let held = served(&mut get(&pool, 0));
        let mut low: Get = Box::pin(pool.get_for(&low, Call::new().priority(10)));
        let mut high: Get = Box::pin(pool.get_for(&high, Call::new().priority(200)));
        waits(&mut low);
        waits(&mut high);
        drop(held);
        waits(&mut low);
        drop(served(&mut high));
        drop(served(&mut low));
    }
}

#[test]
fn one_that_makes_place_is_told_of_like_any_that_is_closed() {
    let (net, told) = (Arc::new(Net::default()), Arc::new(AtomicU64::new(0)));
    let (made, hears) = (net.clone(), told.clone());
    let pool = KeyedPool::new(1, move |host: &usize| {
        let (hook, observer) = (hears.clone(), hears.clone());
        let pool = Pool::builder(Host(made.clone(), *host)).max(1).clock(Clock::manual());
        let pool = pool.on_close(move |connection| _ = hook.fetch_add(connection.2, SeqCst));
        pool.observe("hosts", move |_: &str, event| {
            if matches!(event, Event::Disconnected) {
                observer.fetch_add(100, SeqCst);
            }
        })
    });
    drop(served(&mut get(&pool, 0)));
    drop(served(&mut get(&pool, 1)));
    assert_eq!((told.load(SeqCst), net.live.load(SeqCst)), (101, 1));
}

/// Callers of a busy key would hand its connections to each other for ever.
#[tokio::test]
async fn a_busy_key_keeps_nobody_else_out() {
    let (net, pool) = hosts(2, 2, &Clock::system());
    let pool = Arc::new(pool);
    let is_over = Arc::new(AtomicBool::new(false));
    let uses = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (pool, is_over, uses) = (pool.clone(), is_over.clone(), uses.clone());
        tasks.spawn(async move {
            while !is_over.load(SeqCst) {
                let connection = pool.get(&0).await.unwrap();
                tokio::task::yield_now().await;
                uses.fetch_add(1, SeqCst);
                drop(connection);
            }
        });
    }
    while uses.load(SeqCst) < 100 {
        tokio::task::yield_now().await;
    }
    for host in [1, 2, 1, 3] {
        let before = uses.load(SeqCst);
        drop(pool.get(&host).await.unwrap());
        let passed = uses.load(SeqCst) - before;
        assert!(passed <= 10, "{passed} uses of another key came before");
    }
    is_over.store(true, SeqCst);
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert!(net.most.load(SeqCst) <= 2);
    assert_eq!((pool.status().in_use, pool.status().waiting), (0, 0));
}

#[test]
fn a_dial_or_a_goodbye_that_nobody_drives_gives_its_place_to_another_key() {
    let (net, pool) = hosts(1, 1, &Clock::manual());
    net.hangs.store(true, SeqCst);
    let mut gone = get(&pool, 0);
    waits(&mut gone);
    drop(gone);
    assert_eq!((net.live.load(SeqCst), pool.status().total), (1, 1), "it belongs to the pool");
    let held = served(&mut get(&pool, 1));
    net.closes_hang.store(true, SeqCst);
    held.discard();
    assert_eq!(net.live.load(SeqCst), 1, "it says goodbye for ever");
    net.hangs.store(false, SeqCst);
    drop(served(&mut get(&pool, 0)));
    assert_eq!((net.most.load(SeqCst), net.live.load(SeqCst), net.dials.load(SeqCst)), (1, 1, 3));
    // One that is idle is closed in good order, within the time for a connect.
    let mut other = get(&pool, 2);
    waits(&mut other);
    drop(other);
    net.closes_hang.store(false, SeqCst);
    drop(served(&mut get(&pool, 3)));
    assert_eq!(net.most.load(SeqCst), 1);
}

/// What a caller had in hand for others, and lays down when it is served, is found by whoever looks for a place.
#[test]
fn what_a_served_caller_lays_down_gives_its_place_to_another_key() {
    let (net, pool) = hosts(2, 2, &Clock::manual());
    net.hangs.store(true, SeqCst);
    let (mut first, mut second) = (get(&pool, 0), get(&pool, 0));
    waits(&mut first);
    waits(&mut second);
    assert_eq!(net.live.load(SeqCst), 2);
    let mut other = get(&pool, 1);
    waits(&mut other);
    drop(second);
    // It takes the dial of the second one in hand.
    waits(&mut first);
    waits(&mut other);
    net.hangs.store(false, SeqCst);
    let _held = served(&mut first);
    assert_eq!(served(&mut other).1, 1);
    assert_eq!(net.most.load(SeqCst), 2);
}

/// The same for a caller that goes away.
#[test]
fn what_a_caller_lays_down_that_goes_away_gives_its_place_to_another_key() {
    let (net, pool) = hosts(2, 2, &Clock::manual());
    net.closes_hang.store(true, SeqCst);
    served(&mut get(&pool, 0)).discard();
    net.hangs.store(true, SeqCst);
    // It has the goodbye of the first and its own dial in hand.
    let mut gone = get(&pool, 0);
    waits(&mut gone);
    let mut other = get(&pool, 1);
    waits(&mut other);
    assert_eq!(net.live.load(SeqCst), 2);
    drop(gone);
    assert_eq!((served(&mut other).1, net.most.load(SeqCst)), (1, 2));
}

#[test]
fn who_is_too_late_or_one_too_many_is_told_so() {
    let clock = Clock::manual();
    let (_, pool) = hosts(2, 1, &clock);
    let held = served(&mut get(&pool, 0));
    let call = Call::new().deadline(clock.now() + millis(5));
    // Of its own key, and of all.
    let mut own = Box::pin(pool.get_for(&0, call));
    assert!(poll(&mut own).is_pending());
    let other = served(&mut get(&pool, 1));
    let mut of_all = Box::pin(pool.get_for(&2, call));
    assert!(poll(&mut of_all).is_pending());
    clock.advance(millis(5));
    for late in [&mut own as &mut (dyn Future<Output = _> + Unpin), &mut of_all] {
        let late = Pin::new(late).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Err(error)) = late else { panic!("it waits on") };
        assert!(matches!(&error, Error::TimedOut(timeout) if timeout.after == millis(5)), "{error}");
    }
    let mut line: Vec<_> = (0..50).map(|_| get(&pool, 0)).collect();
    line.iter_mut().for_each(waits);
    let Poll::Ready(Err(Error::Rejected(full))) = poll(&mut get(&pool, 0)) else { panic!("it is full") };
    assert_eq!(full.reason(), Reason::QueueFull);
    drop((held, other, line));
    assert_eq!((pool.status().waiting, pool.status().in_use), (0, 0));
}

#[test]
fn keys_are_bounded_and_forgotten_with_their_idle_connections() {
    let clock = Clock::manual();
    let (net, pool) = hosts(8, 2, &clock);
    let pool = pool.max_keys(2).idle(secs(60));
    let (a, b) = (served(&mut get(&pool, 0)), served(&mut get(&pool, 1)));
    let Poll::Ready(Err(Error::Rejected(shed))) = poll(&mut get(&pool, 2)) else { panic!("no room") };
    assert_eq!(shed.reason(), Reason::Shed);
    drop(b);
    drop(served(&mut get(&pool, 2)));
    assert_eq!((pool.status().keys, pool.status_of(&1), net.of[1].load(SeqCst)), (2, None, 0));
    // One whose connections are in use is not forgotten, however long that lasts.
    for _ in 0..3 {
        clock.advance(secs(61));
        pool.forget_idle();
    }
    assert_eq!((pool.status().keys, net.live.load(SeqCst)), (1, 1));
    drop(a);
    for _ in 0..3 {
        clock.advance(secs(61));
        pool.forget_idle();
    }
    assert_eq!((pool.status().keys, pool.status().total, net.live.load(SeqCst)), (0, 0, 0));
}

#[test]
fn closing_reaches_all_keys_and_all_who_wait() {
    let clock = Clock::manual();
    let (net, pool) = hosts(2, 1, &clock);
    let (a, b) = (served(&mut get(&pool, 0)), served(&mut get(&pool, 1)));
    let mut waiting = [get(&pool, 0), get(&pool, 2)];
    waiting.iter_mut().for_each(waits);
    pool.close_now();
    for mut waiting in waiting {
        let Poll::Ready(Err(Error::Rejected(closed))) = poll(&mut waiting) else { panic!("it waits on") };
        assert_eq!(closed.reason(), Reason::Closed);
    }
    assert_eq!(pool.try_get(&0).unwrap_err().reason(), Reason::Closed);
    let Poll::Ready(Err(Error::Rejected(closed))) = poll(&mut get(&pool, 5)) else { panic!("a new key") };
    assert_eq!(closed.reason(), Reason::Closed);
    drop((a, b));
    assert_eq!((net.live.load(SeqCst), pool.is_closed()), (0, true));
}

#[test]
fn a_drain_serves_who_waits_and_waits_for_what_is_out() {
    let clock = Clock::manual();
    let (net, pool) = hosts(1, 1, &clock);
    let held = served(&mut get(&pool, 0));
    let mut waiting = get(&pool, 1);
    waits(&mut waiting);
    let mut drain = Box::pin(pool.drain(secs(5)));
    assert!(poll(&mut drain).is_pending());
    assert!(matches!(poll(&mut get(&pool, 0)), Poll::Ready(Err(Error::Rejected(_)))));
    drop(held);
    let held = served(&mut waiting);
    assert!(poll(&mut drain).is_pending());
    drop(held);
    assert_eq!(poll(&mut drain), Poll::Ready(0));
    assert_eq!(net.live.load(SeqCst), 0);

    let (net, pool) = hosts(1, 1, &clock);
    let held = served(&mut get(&pool, 0));
    let mut drain = Box::pin(pool.drain(secs(5)));
    assert!(poll(&mut drain).is_pending());
    clock.advance(secs(5));
    assert_eq!(poll(&mut drain), Poll::Ready(1));
    drop(held);
    assert_eq!(net.live.load(SeqCst), 0, "it is closed when it comes home");
}

/// Whoever goes away, at whichever poll, takes nothing along.
#[test]
fn a_caller_that_goes_away_at_any_point_leaves_everything_to_the_others() {
    for polls in 0..8 {
        for is_full in [false, true] {
            let (net, pool) = hosts(1, 1, &Clock::manual());
            if is_full {
                drop(served(&mut get(&pool, 1)));
            }
            let mut gone = get(&pool, 0);
            (0..polls).take_while(|_| poll(&mut gone).is_pending()).count();
            drop(gone);
            for host in [2, 0, 0, 3] {
                drop(served(&mut get(&pool, host)));
            }
            let status = pool.status();
            assert_eq!((status.total, status.in_use, status.waiting), (1, 0, 0), "after {polls} polls");
            assert_eq!((net.live.load(SeqCst), net.most.load(SeqCst)), (1, 1));
        }
    }
}

#[test]
fn threads_never_have_more_than_either_cap() {
    let (net, pool) = hosts(4, 2, &Clock::system());
    thread::scope(|scope| {
        for thread in 0..8_usize {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..400_usize {
                    let host = (thread * 31 + round * 17) % 6;
                    if round % 7 == 0 {
                        drop(pool.try_get(&host));
                        continue;
                    }
                    let connection = pool.get_blocking(&host).unwrap();
                    assert_eq!(connection.1, host);
                    if round % 11 == 0 {
                        connection.discard();
                    }
                }
            });
        }
    });
    assert!(net.most.load(SeqCst) <= 4, "{} in all", net.most.load(SeqCst));
    assert!(net.most_of.iter().all(|most| most.load(SeqCst) <= 2), "{:?} of a host", net.most_of);
    // One that was begun for who was served otherwise may be made yet.
    let status = pool.status();
    assert_eq!((status.in_use, status.waiting, status.total as i64), (0, 0, net.live.load(SeqCst)));
    assert!(status.idle <= status.total && status.total <= 4, "{status:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever callers do, both caps hold, what is counted is what there is, and in the end everybody is served.
    #[test]
    fn both_caps_hold_and_nothing_is_lost(
        max in 1usize..5,
        per_host in 1usize..4,
        steps in prop::collection::vec((0u8..8, 0usize..5, any::<prop::sample::Index>()), 0..120),
    ) {
        let clock = Clock::manual();
        let (net, pool) = hosts(max, per_host, &clock);
        let (mut gets, mut held): (Vec<Get>, Vec<KeyedCheckout<Host>>) = (Vec::new(), Vec::new());
        for (step, host, which) in steps {
            match step {
                0 | 1 => gets.push(get(&pool, host)),
                2 | 3 if !gets.is_empty() => {
                    let place = which.index(gets.len());
                    if let Poll::Ready(got) = poll(&mut gets[place]) {
                        drop(gets.remove(place));
                        held.push(got.unwrap());
                    }
                }
                4 if !gets.is_empty() => drop(gets.remove(which.index(gets.len()))),
                5 if !held.is_empty() => drop(held.remove(which.index(held.len()))),
                6 if !held.is_empty() => held.remove(which.index(held.len())).discard(),
                7 if !held.is_empty() => drop(held.remove(which.index(held.len())).take()),
                _ => clock.advance(millis(100)),
            }
            prop_assert!(net.most.load(SeqCst) <= max as i64);
            prop_assert!(net.most_of.iter().all(|most| most.load(SeqCst) <= per_host as i64));
            prop_assert!(held.len() <= max && pool.status().total <= max);
        }
        drop(held);
        // Those who wait, each in its turn.
        for _ in 0..gets.len() * 20 {
            let mut first = None;
            gets.retain_mut(|get| match poll(get) {
                Poll::Ready(got) => {
                    first.get_or_insert_with(Vec::new).push(got.unwrap());
                    false
                }
                Poll::Pending => true,
            });
            drop(first);
        }
        prop_assert!(gets.is_empty(), "{} are never served", gets.len());
        let status = pool.status();
        prop_assert_eq!((status.in_use, status.waiting), (0, 0));
        prop_assert_eq!(status.total as i64, net.live.load(SeqCst));
        drop(pool);
        prop_assert_eq!(net.live.load(SeqCst), 0);
    }
}

//! Bad days of a pool on a virtual clock: an outage, a spike, a crowd. The bars are those of HikariCP's spike test, and of
//! an ideal queue.
#![cfg(not(floodwall_loom))]

#[path = "support/server.rs"]
mod server;
mod support;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use floodwall::pool::PoolError;
use floodwall::{Clock, Pool};
use server::{DOWN, HANGS, Server, WELL};
use support::{millis, secs};
use tokio::time::{Instant, sleep};

/// Trap 7: all connections die, 1,000 callers wait, the server returns.
async fn outage(how: u8, with_runner: bool) {
    const CAP: usize = 3;
    let clock = Clock::system();
    let server = Server::new(&clock);
    let pool = Pool::builder(server.clone()).max(50).max_connecting(CAP).max_waiting(2_000).seed(3);
    let pool = pool.connect_timeout(secs(2)).timeout(secs(60)).build();
    let runner = with_runner.then(|| tokio::spawn(pool.run()));
    server.take_time(&server.connect_time, millis(20));
    server.take_time(&server.check_time, millis(1));
    let warm: Vec<_> = futures(50, |_| pool.get()).await.into_iter().map(Result::unwrap).collect();
    drop(warm);
    assert_eq!(pool.status().idle, 50);

    sleep(secs(10)).await;
    server.kill_all();
    server.set(&server.connects, how);
    let (dials_before, start) = (server.count(&server.dials), Instant::now());
    let callers: Vec<_> = (0..1_000)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let connection = pool.get().await?;
                let served = Instant::now();
                sleep(millis(2)).await;
                drop(connection);
                Ok::<_, PoolError<_>>(served)
            })
        })
        .collect();
    let outage = secs(40);
    sleep(outage).await;
    let dials = server.count(&server.dials) - dials_before;
    server.set(&server.connects, WELL);
    let mut served = Vec::new();
    for caller in callers {
        served.push(caller.await.unwrap().expect("everybody is served in time") - start);
    }
    let (first, last) = (served.iter().min().unwrap(), served.iter().max().unwrap());
    // One step of the backoff, and a dial; a dial that hangs ends with its own time.
    let step = secs(5) + millis(20) + if how == HANGS { secs(2) } else { Duration::ZERO };
    assert!(*first >= outage && *first <= outage + step, "first service after {first:?}");
    assert!(*last <= secs(60), "last service after {last:?}");
    assert!(server.now(&server.most_dialling) <= CAP as i64);
    // The backoff reaches its longest within some ten attempts; then there are a few in each 2.5 s on average.
    assert!(dials <= 120, "{dials} dials while the server was away");
    let status = pool.status();
    assert_eq!((status.in_use, status.waiting), (0, 0));
    assert!(server.now(&server.most_live) <= 50);
    pool.close_now();
    if let Some(runner) = runner {
        runner.await.unwrap();
    }
    assert_eq!(server.now(&server.live), 0);
}

/// Awaits `n` futures at once.
async fn futures<T, F: Future<Output = T>>(n: usize, make: impl Fn(usize) -> F) -> Vec<T> {
    let mut all: Vec<_> = (0..n).map(|number| (None, Box::pin(make(number)))).collect();
    std::future::poll_fn(|context| {
        for (result, future) in &mut all {
            if result.is_none() {
                if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
                    *result = Some(value);
                }
            }
        }
        if all.iter().all(|(result, _)| result.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    all.into_iter().filter_map(|(result, _)| result).collect()
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_everybody_is_served_and_nobody_storms() {
    for with_runner in [false, true] {
        outage(DOWN, with_runner).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_server_that_said_nothing_everybody_is_served_and_nobody_storms() {
    for with_runner in [false, true] {
        outage(HANGS, with_runner).await;
    }
}

/// While the server is away and callers do not wait long, each is told in time, and why.
#[tokio::test(start_paused = true)]
async fn in_an_outage_everybody_is_answered_in_time() {
    for fail_fast in [false, true] {
        let server = Server::new(&Clock::system());
        let pool = Pool::builder(server.clone()).max(10).timeout(secs(1)).max_waiting(2_000).seed(3);
        let pool = if fail_fast { pool.fail_fast_after(3) } else { pool }.build();
        server.set(&server.connects, DOWN);
        let callers: Vec<_> = (0..1_000_u64)
            .map(|number| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    sleep(millis(7 * number)).await;
                    let start = Instant::now();
                    let error = pool.get().await.unwrap_err();
                    assert!(error.cause().is_some(), "{error}");
                    (start.elapsed(), matches!(error, PoolError::Connect(_)))
                })
            })
            .collect();
        let mut fast = 0;
        for caller in callers {
            let (waited, told_at_once) = caller.await.unwrap();
            assert!(waited <= secs(1));
            fast += usize::from(told_at_once);
        }
        assert!(if fail_fast { fast > 900 } else { fast == 0 }, "{fast} were told at once");
        assert!(server.count(&server.dials) < 60);
    }
}

/// Trap 8: HikariCP's "Welcome to the Jungle": 50 callers at once, 5 idle connections, 150 ms to connect, 2 ms of work.
#[tokio::test(start_paused = true)]
async fn a_spike_opens_no_more_connections_than_are_made_at_once() {
    for with_runner in [false, true] {
        let server = Server::new(&Clock::system());
        let pool = Pool::builder(server.clone()).max(50).max_connecting(2).build();
        if with_runner {
            drop(tokio::spawn(pool.run()));
        }
        drop(futures(5, |_| pool.get()).await);
        let before = pool.status().total;
        assert!(before <= 5);
        server.take_time(&server.connect_time, millis(150));
        let start = Instant::now();
        let work = async |pool: &Pool<Server>| {
            let connection = pool.get().await.unwrap();
            sleep(millis(2)).await;
            drop(connection);
            start.elapsed()
        };
        let done = futures(50, |_| work(&pool)).await;
        assert!(done.iter().max().unwrap() <= &millis(50), "they wait for dials: {:?}", done.iter().max());
        sleep(secs(1)).await;
        assert!(pool.status().total <= before + 2, "{:?}", pool.status());
        assert!(server.count(&server.dials) <= before as u64 + 2);
    }
}

/// How long each of so many callers waits for a connection, over and over, in an ideal queue: by turns of holding one.
fn ideal_waits(holds: &[Vec<u64>], connections: usize) -> Vec<u64> {
    let mut waits = Vec::new();
    let mut rounds = vec![0; holds.len()];
    let mut line: VecDeque<(usize, u64)> = (0..holds.len()).map(|caller| (caller, 0)).collect();
    let mut busy: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut now = 0;
    loop {
        while busy.len() < connections {
            let Some((caller, since)) = line.pop_front() else { break };
            waits.push(now - since);
            busy.push(Reverse((now + holds[caller][rounds[caller]], caller)));
            rounds[caller] += 1;
        }
        let Some(Reverse((end, caller))) = busy.pop() else { return waits };
        now = end;
        if rounds[caller] < holds[caller].len() {
            line.push_back((caller, now));
        }
    }
}

fn p999(mut waits: Vec<u64>) -> u64 {
    waits.sort_unstable();
    waits[waits.len() * 999 / 1_000]
}

/// bb8's issue 243: 1,000 tasks over 50 connections.
#[tokio::test(start_paused = true)]
async fn the_longest_waits_of_a_crowd_are_those_of_an_ideal_queue() {
    let mut state = 1_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1 + (state >> 33) % 20
    };
    let holds: Vec<Vec<u64>> = (0..1_000).map(|_| (0..20).map(|_| draw()).collect()).collect();
    let server = Server::new(&Clock::system());
    let pool = Pool::builder(server.clone()).max(50).max_connecting(50).build();
    drop(futures(50, |_| pool.get()).await);
    let tasks: Vec<_> = holds
        .iter()
        .cloned()
        .map(|holds| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut waits = Vec::new();
                for hold in holds {
                    let start = Instant::now();
                    let connection = pool.get().await.unwrap();
                    waits.push(start.elapsed().as_millis() as u64);
                    sleep(millis(hold)).await;
                    drop(connection);
                }
                waits
            })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.unwrap());
    }
    let (ours, ideal) = (p999(waits), p999(ideal_waits(&holds, 50)));
    println!("p99.9 of the waits: {ours} ms, in an ideal queue {ideal} ms");
    assert!(ours * 2 <= ideal * 3, "p99.9 {ours} ms, ideal {ideal} ms");
    assert_eq!(server.count(&server.dials), 50);
}

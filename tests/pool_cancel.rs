//! Callers of a pool that go away, at every point where they can: nothing is lost, nobody is forgotten.
#![cfg(not(floodwall_loom))]

#[path = "support/server.rs"]
mod server;
mod support;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake};

use floodwall::pool::PoolError;
use floodwall::{Call, Checkout, Clock, Constant, Pool};
use proptest::prelude::*;
use server::{DOWN, HANGS, Refused, Server, WELL};
use support::{millis, poll, secs};

type Got = Result<Checkout<'static, Server>, PoolError<Refused>>;

/// A future that is polled only when it was woken, as an executor does.
struct Task<T> {
    future: Pin<Box<dyn Future<Output = T> + Send>>,
    woken: Arc<Woken>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

impl<T> Task<T> {
    fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self { future: Box::pin(future), woken: Arc::new(Woken(AtomicBool::new(true))) }
    }

    fn is_woken(&self) -> bool {
        self.woken.0.load(SeqCst)
    }

    fn poll(&mut self) -> Poll<T> {
        self.woken.0.store(false, SeqCst);
        self.future.as_mut().poll(&mut Context::from_waker(&self.woken.clone().into()))
    }
}

fn get(pool: &Pool<Server>, call: Call) -> Task<Got> {
    let pool = pool.clone();
    Task::new(async move { Ok(pool.get_for(call).await?.into_owned()) })
}

/// A caller waits in line behind a holder and for a dial that fails at first, gets a connection that is overdue for a
/// check, which it fails, and waits again. It is dropped after so many polls; returns whether it had ended by then.
fn cancelled_after(polls: usize, with_runner: bool) -> bool {
    let clock = Clock::manual();
    let server = Server::new(&clock);
    let pool = Pool::builder(server.clone()).max(2).clock(clock.clone()).backoff(Constant::new(millis(300)));
    let pool = pool.check_timeout(secs(5)).build();
    let mut runner = with_runner.then(|| Task::new(pool.run()));
    let mut step = |clock: &Clock| {
        if let Some(runner) = runner.as_mut().filter(|runner| runner.is_woken()) {
            let _ = runner.poll();
        }
        clock.advance(millis(100));
    };
    let mut first = get(&pool, Call::new());
    let mut holder = loop {
        match first.poll() {
            Poll::Ready(got) => break Some(got.unwrap()),
            Poll::Pending => step(&clock),
        }
    };
    for time in [&server.connect_time, &server.check_time, &server.close_time] {
        server.take_time(time, millis(250));
    }
    server.set(&server.connects, DOWN);
    let mut caller = get(&pool, Call::new());
    let mut ended = false;
    for number in 0..polls {
        match number {
            6 => {
                // It comes home unclean and dead.
                server.set(&server.needs_reset, 1);
                holder = None;
                server.kill_all();
            }
            16 => server.set(&server.connects, WELL),
            _ => {}
        }
        if let Poll::Ready(got) = caller.poll() {
            assert!(got.unwrap().number > 2);
            ended = true;
            break;
        }
        step(&clock);
    }
    drop(caller);
    drop(holder);
    // All that was left half-way goes on, for the next that comes.
    server.set(&server.connects, WELL);
    let mut next = get(&pool, Call::new());
    let got = (0..200).find_map(|_| {
        let got = if next.is_woken() { next.poll() } else { Poll::Pending };
        step(&clock);
        match got {
            Poll::Ready(got) => Some(got.unwrap()),
            Poll::Pending => None,
        }
    });
    drop(got.expect("the next caller is served"));
    drop(next);
    let mut drain = Box::pin(pool.drain(secs(60)));
    let left = (0..200).find_map(|_| match poll(&mut drain) {
        Poll::Ready(left) => Some(left),
        Poll::Pending => {
            step(&clock);
            None
        }
    });
    assert_eq!(left, Some(0), "after {polls} polls");
    let status = pool.status();
    assert_eq!((status.total, status.waiting), (0, 0), "after {polls} polls");
    assert_eq!((server.now(&server.live), server.now(&server.dialling)), (0, 0), "after {polls} polls");
    assert!(server.now(&server.most_live) <= 2);
    ended
}

#[test]
fn a_caller_that_is_cancelled_at_any_await_point_loses_nothing() {
    for with_runner in [false, true] {
        let polls = (0..200).position(|polls| cancelled_after(polls, with_runner)).expect("the caller ends");
        assert!(polls > 15, "only {polls} await points were tried");
    }
}

/// Trap 5.
#[test]
fn a_check_that_is_cancelled_costs_no_connection() {
    let clock = Clock::manual();
    let server = Server::new(&clock);
    let pool = Pool::builder(server.clone()).max(1).clock(clock.clone()).build();
    drop(floodwall::block_on(pool.get()).unwrap());
    for _ in 0..100 {
        clock.advance(secs(1));
        server.set(&server.checks, HANGS);
        let mut caller = get(&pool, Call::new());
        assert!(caller.poll().is_pending());
        drop(caller);
        // However short a time ago that was, it is not given out unchecked.
        assert!(pool.try_get().is_err());
    }
    server.set(&server.checks, WELL);
    drop(floodwall::block_on(pool.get()).unwrap());
    assert_eq!((server.count(&server.dials), server.count(&server.checked)), (1, 101));
}

/// Trap 6.
#[test]
fn callers_that_give_up_too_early_still_get_a_connection_made() {
    for with_runner in [false, true] {
        let clock = Clock::manual();
        let server = Server::new(&clock);
        let pool = Pool::builder(server.clone()).max(100).clock(clock.clone()).build();
        let mut runner = with_runner.then(|| Task::new(pool.run()));
        server.take_time(&server.connect_time, millis(100));
        for round in 0..10 {
            let limit = millis(10);
            let mut callers: Vec<_> =
                (0..10).map(|_| get(&pool, Call::new().deadline(clock.now() + limit))).collect();
            for at in 0..2 {
                callers.retain_mut(|caller| match caller.poll() {
                    Poll::Pending => true,
                    Poll::Ready(Ok(_)) => false,
                    Poll::Ready(Err(error)) => {
                        assert!(matches!(error, PoolError::TimedOut(_)) && at == 1, "round {round}: {error}");
                        false
                    }
                });
                if let Some(runner) = &mut runner {
                    assert!(runner.poll().is_pending());
                }
                if at == 0 {
                    clock.advance(millis(10));
                }
            }
            assert!(callers.is_empty());
        }
        let mut last = get(&pool, Call::new());
        let mut got = last.poll();
        if let Some(runner) = &mut runner {
            assert!(runner.poll().is_pending());
        }
        if got.is_pending() {
            got = last.poll();
        }
        assert!(matches!(got, Poll::Ready(Ok(_))), "a dial of 100 ms has had its time");
        assert_eq!(server.now(&server.most_dialling), 2);
        assert_eq!(server.count(&server.dials), 2, "the first that are finished are kept");
    }
}

/// What a test of random steps holds.
struct World {
    clock: Clock,
    server: Server,
    pool: Pool<Server>,
    callers: Vec<Task<Got>>,
    held: Vec<Checkout<'static, Server>>,
    runner: Option<Task<()>>,
    /// How many there may be, as long as those that were there when it shrank are not gone.
    most: usize,
}

impl World {
    fn new(max: usize, line: u8) -> Self {
        let clock = Clock::manual();
        let server = Server::new(&clock);
        let pool = Pool::builder(server.clone()).max(max).clock(clock.clone()).seed(1);
        let pool = match line {
            0 => pool,
            1 => pool.newest_first(),
            2 => pool.barging(),
            _ => pool.codel(millis(5), millis(100)),
        };
        let pool = pool.idle_timeout(secs(3)).max_lifetime(secs(10)).check_after(millis(300));
        let pool =
            pool.check_timeout(millis(200)).connect_timeout(secs(1)).close_timeout(millis(500)).build();
        Self { clock, server, pool, callers: Vec::new(), held: Vec::new(), runner: None, most: max }
    }

    /// Polls one caller; `true` if it has ended.
    fn poll(&mut self, at: usize) -> bool {
        match self.callers[at].poll() {
            Poll::Pending => return false,
            Poll::Ready(Ok(checkout)) => self.held.push(checkout),
            Poll::Ready(Err(_)) => {}
        }
        drop(self.callers.swap_remove(at));
        true
    }

    /// Polls whoever was woken, until nobody is.
    fn run(&mut self) {
        for _ in 0..1_000 {
            let mut idle = true;
            let mut at = 0;
            while at < self.callers.len() {
                if self.callers[at].is_woken() {
                    idle = false;
                    if self.poll(at) {
                        continue;
                    }
                }
                at += 1;
            }
            if let Some(runner) = self.runner.as_mut().filter(|runner| runner.is_woken()) {
                idle = false;
                assert!(runner.poll().is_pending());
            }
            if idle {
                return;
            }
        }
        panic!("somebody is woken again and again");
    }

    fn step(&mut self, step: u8, value: usize) {
        match step {
            0..=3 => self.callers.push(get(&self.pool, Call::new())),
            4 => {
                let deadline = self.clock.now() + millis(100 * value as u64);
                self.callers.push(get(&self.pool, Call::new().deadline(deadline)));
            }
            5..=7 if !self.callers.is_empty() => {
                self.poll(value % self.callers.len());
            }
            8 | 9 if !self.callers.is_empty() => drop(self.callers.swap_remove(value % self.callers.len())),
            10..=12 if !self.held.is_empty() => drop(self.held.swap_remove(value % self.held.len())),
            13 if !self.held.is_empty() => {
                let held = self.held.swap_remove(value % self.held.len());
                match value % 3 {
                    0 => held.discard(),
                    1 => drop(held.take()),
                    _ => {
                        let panics = catch_unwind(AssertUnwindSafe(|| {
                            let _held = held;
                            std::panic::resume_unwind(Box::new(()));
                        }));
                        assert!(panics.is_err());
                    }
                }
            }
            14 => self.pool.set_max(value + 1).unwrap(),
            15 => self.pool.clear(),
            16 => match value % 2 {
                0 => self.pool.pause(),
                _ => self.pool.resume(),
            },
            17 => self.clock.advance(millis(50 * value as u64)),
            18 => {
                let what = [&self.server.connects, &self.server.checks, &self.server.closes][value % 3];
                self.server.set(what, [WELL, DOWN, HANGS][value / 2]);
            }
            19 => {
                let what = [&self.server.connect_time, &self.server.check_time, &self.server.close_time];
                self.server.take_time(what[value % 3], millis(40 * value as u64));
            }
            20 => self.server.set(&self.server.needs_reset, (value % 2) as u8),
            21 => self.server.kill_all(),
            22 => {
                self.runner = match self.runner {
                    Some(_) => None,
                    None => Some(Task::new(self.pool.run())),
                }
            }
            23 => drop(self.pool.try_get()),
            _ => self.run(),
        }
        let status = self.pool.status();
        assert_eq!(status.idle + status.in_use + status.connecting, status.total);
        self.most = self.most.min(status.total).max(status.max);
        assert!(status.total <= self.most, "{status:?}");
        assert!(status.connecting <= 2);
        assert!(self.held.len() <= status.in_use);
        // What was taken out of the pool is dropped at once here.
        assert!(self.server.now(&self.server.live) as usize <= status.total);
    }

    /// The server is well, and everybody brings home what it has: all who wait are served, by nothing but being woken.
    fn settle(mut self) {
        for what in [&self.server.connects, &self.server.checks, &self.server.closes] {
            self.server.set(what, WELL);
        }
        self.pool.resume();
        for _ in 0..600 {
            self.held.clear();
            self.run();
            if self.callers.is_empty() && self.held.is_empty() {
                break;
            }
            self.clock.advance(millis(50));
        }
        assert!(self.callers.is_empty(), "{} callers are forgotten: {:?}", self.callers.len(), self.pool);
        self.held.clear();
        let mut drain = Box::pin(self.pool.drain(secs(60)));
        let left = (0..2_000).find_map(|_| match poll(&mut drain) {
            Poll::Ready(left) => Some(left),
            Poll::Pending => {
                if let Some(runner) = self.runner.as_mut().filter(|runner| runner.is_woken()) {
                    if runner.poll().is_ready() {
                        self.runner = None;
                    }
                }
                self.clock.advance(millis(50));
                None
            }
        });
        drop(drain);
        assert_eq!((left, self.pool.status().total), (Some(0), 0));
        drop(self.runner);
        assert_eq!(self.server.now(&self.server.live), 0);
        assert_eq!(self.server.now(&self.server.dialling), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn connections_are_conserved_whatever_is_cancelled(
        max in 1usize..4,
        line in 0u8..4,
        steps in prop::collection::vec((0u8..27, 0usize..6), 1..120),
    ) {
        let mut world = World::new(max, line);
        for (step, value) in steps {
            world.step(step, value);
        }
        world.settle();
    }
}

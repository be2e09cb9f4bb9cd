//! What does it cost to take a connection and bring it back, alone and in a crowd?
//!
//! Each pool is managed, with its default care: deadpool asks its manager at each use, bb8 and r2d2 check at each use (which
//! is turned off here, as nothing is checked in floodwall that was used just now), bb8 and r2d2 have a limit of time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use deadpool::managed::{Metrics, RecycleResult};
use floodwall::Pool;
use floodwall::pool::{BlockingManager, InPlace};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::yield_now;

use crate::harness::Case;
use crate::stack::now;

pub fn cases() -> Vec<Case> {
    vec![
        alone(),
        alone_blocking(),
        shared(),
        crowd::<8>("8 tasks, 4 connections", 1),
        crowd::<64>("64 tasks, 4 connections", 1),
        crowd::<8>("8 tasks, 4 connections, 2 threads", 2),
        crowd::<64>("64 tasks, 4 connections, 2 threads", 2),
    ]
}

struct Numbers;

impl BlockingManager for Numbers {
    type Connection = u64;
    type Error = std::io::Error;

    fn connect(&self) -> std::io::Result<u64> {
        Ok(7)
    }

    fn check(&self, _: &mut u64) -> std::io::Result<()> {
        Ok(())
    }
}

impl deadpool::managed::Manager for Numbers {
    type Type = u64;
    type Error = Infallible;

    async fn create(&self) -> Result<u64, Infallible> {
        Ok(7)
    }

    async fn recycle(&self, _: &mut u64, _: &Metrics) -> RecycleResult<Infallible> {
        Ok(())
    }
}

impl bb8::ManageConnection for Numbers {
    type Connection = u64;
    type Error = std::io::Error;

    async fn connect(&self) -> std::io::Result<u64> {
        Ok(7)
    }

    async fn is_valid(&self, _: &mut u64) -> std::io::Result<()> {
        Ok(())
    }

    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

impl r2d2::ManageConnection for Numbers {
    type Connection = u64;
    type Error = std::io::Error;

    fn connect(&self) -> std::io::Result<u64> {
        Ok(7)
    }

    fn is_valid(&self, _: &mut u64) -> std::io::Result<()> {
        Ok(())
    }

    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

impl fastpool::ManageObject for Numbers {
    type Object = u64;
    type Error = Infallible;

    async fn create(&self) -> Result<u64, Infallible> {
        Ok(7)
    }

    async fn is_recyclable(&self, _: &mut u64, _: &fastpool::ObjectStatus) -> Result<(), Infallible> {
        Ok(())
    }
}

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());

fn ours(max: usize) -> Pool<InPlace<Numbers>> {
    warm(Pool::new(Numbers.in_place(), max), max)
}

/// As deadpool and fastpool are: whoever waits, waits for ever.
fn ours_patient(max: usize) -> Pool<InPlace<Numbers>> {
    warm(Pool::builder(Numbers.in_place()).max(max).timeout(Duration::MAX).build(), max)
}

/// As bb8's, where whoever comes first takes what came home.
fn ours_barging(max: usize) -> Pool<InPlace<Numbers>> {
    warm(Pool::builder(Numbers.in_place()).max(max).barging().build(), max)
}

fn warm(pool: Pool<InPlace<Numbers>>, max: usize) -> Pool<InPlace<Numbers>> {
    drop((0..max).map(|_| pool.get_blocking().unwrap()).collect::<Vec<_>>());
    pool
}

fn deadpool_of(max: usize) -> deadpool::managed::Pool<Numbers> {
    let pool = deadpool::managed::Pool::builder(Numbers).max_size(max).build().unwrap();
    drop(RUNTIME.block_on(pool.get()).unwrap());
    pool
}

fn bb8_of(max: usize) -> bb8::Pool<Numbers> {
    let pool = bb8::Pool::builder().max_size(max as u32).min_idle(max as u32).test_on_check_out(false);
    RUNTIME.block_on(pool.build(Numbers)).unwrap()
}

fn fastpool_of(max: usize) -> Arc<fastpool::bounded::Pool<Numbers>> {
    fastpool::bounded::Pool::new(fastpool::bounded::PoolConfig::new(max), Numbers)
}

fn r2d2_of(max: usize) -> r2d2::Pool<Numbers> {
    r2d2::Pool::builder().max_size(max as u32).test_on_check_out(false).build(Numbers).unwrap()
}

/// What a pool needs at least: places that are counted, and a stack.
struct Parts {
    places: Semaphore,
    idle: Mutex<VecDeque<u64>>,
}

impl Parts {
    fn new(max: usize) -> Self {
        Self { places: Semaphore::new(max), idle: Mutex::new(vec![7; max].into()) }
    }

    async fn visit(&self) -> u64 {
        let _place = self.places.acquire().await.unwrap();
        let connection = self.idle.lock().pop_back().unwrap();
        self.idle.lock().push_back(connection);
        connection
    }
}

fn alone() -> Case {
    Case::new("get and return, async")
        .hold(|| Box::new(RUNTIME.enter()))
        .peer("floodwall", ours(4), |pool| *now(pool.get()).unwrap())
        .peer("deadpool", deadpool_of(4), |pool| *now(pool.get()).unwrap())
        .peer("bb8", bb8_of(4), |pool| *now(pool.get()).unwrap())
        .peer("fastpool", fastpool_of(4), |pool| *now(pool.get()).unwrap())
        .peer("parts: semaphore, stack", Parts::new(4), |parts| now(parts.visit()))
}

fn alone_blocking() -> Case {
    Case::new("get and return, blocking")
        .peer("floodwall", ours(4), |pool| *pool.get_blocking().unwrap())
        .peer("r2d2", r2d2_of(4), |pool| *pool.get().unwrap())
        .peer("parts: mutex, stack", Parts::new(4), |parts| {
            let connection = parts.idle.lock().pop_back().unwrap();
            parts.idle.lock().push_back(connection);
            connection
        })
}

fn shared() -> Case {
    Case::new("get and return, blocking, 8 connections")
        .threads(&[2, 4])
        .peer("floodwall", ours(8), |pool| *pool.get_blocking().unwrap())
        .peer("r2d2", r2d2_of(8), |pool| *pool.get().unwrap())
}

/// Each of so many tasks takes a connection 64 times, and lets others run while it has it.
fn crowd<const TASKS: usize>(name: &'static str, threads: usize) -> Case {
    fn runtime(threads: usize) -> Runtime {
        match threads {
            1 => Builder::new_current_thread().enable_all().build().unwrap(),
            _ => Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap(),
        }
    }
    fn run<P: Clone + Send + Sync + 'static, F>(
        tasks: usize,
        (runtime, pool): &(Mutex<Runtime>, P),
        visit: fn(P) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        runtime.lock().block_on(async {
            let tasks: Vec<_> = (0..tasks).map(|_| tokio::spawn(visit(pool.clone()))).collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    }
    macro_rules! visits {
        ($pool:ident => $get:expr) => {
            |$pool| async move {
                for _ in 0..64 {
                    let connection = $get;
                    yield_now().await;
                    drop(connection);
                }
            }
        };
    }
    let rt = || Mutex::new(runtime(threads));
    Case::new(name)
        .peer("floodwall", (rt(), ours(4)), |it| run(TASKS, it, visits!(pool => pool.get().await.unwrap())))
        .peer("floodwall, no limit of time", (rt(), ours_patient(4)), |it| {
            run(TASKS, it, visits!(pool => pool.get().await.unwrap()))
        })
        .peer("floodwall, barging", (rt(), ours_barging(4)), |it| {
            run(TASKS, it, visits!(pool => pool.get().await.unwrap()))
        })
        .peer("deadpool", (rt(), deadpool_of(4)), |it| {
            run(TASKS, it, visits!(pool => pool.get().await.unwrap()))
        })
        .peer("bb8", (rt(), bb8_of(4)), |it| run(TASKS, it, visits!(pool => pool.get().await.unwrap())))
        .peer("fastpool", (rt(), fastpool_of(4)), |it| {
            run(TASKS, it, visits!(pool => pool.get().await.unwrap()))
        })
        .peer("parts: semaphore, stack", (rt(), Arc::new(Parts::new(4))), |it| {
            run(
                TASKS,
                it,
                visits!(parts => (parts.places.acquire().await.unwrap(), parts.idle.lock().len())),
            );
        })
}

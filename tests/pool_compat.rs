//! Managers of other pools in ours. Run it with `--features bb8-09,deadpool-013,r2d2-08`.
#![cfg(all(feature = "bb8-09", feature = "deadpool-013", feature = "r2d2-08", not(floodwall_loom)))]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use deadpool::managed::{Metrics, RecycleError, RecycleResult};
use floodwall::pool::compat::{Bb8, Deadpool, DeadpoolError, R2d2};
use floodwall::pool::{BlockingManager, PoolError};
use floodwall::{Clock, Manager, Pool, block_on};

/// One manager for each of the pools, and what was asked of it.
#[derive(Clone, Default)]
struct Numbers(Arc<Asked>);

#[derive(Default)]
struct Asked {
    made: AtomicU32,
    checked: AtomicU32,
    detached: AtomicU32,
    is_down: AtomicBool,
}

impl Numbers {
    fn make(&self) -> io::Result<u32> {
        if self.0.is_down.load(SeqCst) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(self.0.made.fetch_add(1, SeqCst) + 1)
    }

    fn check(&self) -> io::Result<()> {
        self.0.checked.fetch_add(1, SeqCst);
        if self.0.is_down.load(SeqCst) { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

impl bb8::ManageConnection for Numbers {
    type Connection = u32;
    type Error = io::Error;

    async fn connect(&self) -> io::Result<u32> {
        self.make()
    }

    async fn is_valid(&self, _: &mut u32) -> io::Result<()> {
        self.check()
    }

    fn has_broken(&self, number: &mut u32) -> bool {
        *number > 100
    }
}

impl r2d2::ManageConnection for Numbers {
    type Connection = u32;
    type Error = io::Error;

    fn connect(&self) -> io::Result<u32> {
        self.make()
    }

    fn is_valid(&self, _: &mut u32) -> io::Result<()> {
        self.check()
    }

    fn has_broken(&self, number: &mut u32) -> bool {
        *number > 100
    }
}

impl deadpool::managed::Manager for Numbers {
    type Type = u32;
    type Error = io::Error;

    async fn create(&self) -> io::Result<u32> {
        self.make()
    }

    async fn recycle(&self, number: &mut u32, metrics: &Metrics) -> RecycleResult<io::Error> {
        self.check()?;
        if *number > 100 {
            return Err(RecycleError::message("it is worn out"));
        }
        assert_eq!(metrics.recycle_count > 0, metrics.recycled.is_some());
        assert!(metrics.recycled.is_none_or(|recycled| recycled >= metrics.created));
        *number = 10 * (metrics.recycle_count as u32 + 1);
        Ok(())
    }

    fn detach(&self, _: &mut u32) {
        self.0.detached.fetch_add(1, SeqCst);
    }
}

/// What bb8's and r2d2's managers are asked, and when.
fn behaves<M: Manager<Connection = u32, Error = io::Error>>(numbers: &Numbers, manager: M) {
    let clock = Clock::manual();
    let pool = Pool::builder(manager).max(2).clock(clock.clone()).build();
    assert_eq!(*pool.get_blocking().unwrap(), 1);
    assert_eq!((*pool.get_blocking().unwrap(), numbers.0.checked.load(SeqCst)), (1, 0));
    clock.advance(Duration::from_secs(1));
    assert_eq!((*pool.get_blocking().unwrap(), numbers.0.checked.load(SeqCst)), (1, 1));
    // Known to be broken when it comes home.
    *pool.get_blocking().unwrap() = 101;
    assert_eq!(pool.status().total, 0);
    assert_eq!(*pool.get_blocking().unwrap(), 2);
    numbers.0.is_down.store(true, SeqCst);
    pool.clear();
    let error = pool.ready_blocking().unwrap_err();
    assert_eq!(error.to_string(), "cannot connect: connection refused");
}

#[test]
fn managers_of_bb8_are_asked_as_ours_are() {
    let numbers = Numbers::default();
    behaves(&numbers, Bb8(numbers.clone()));
}

#[test]
fn managers_of_r2d2_are_asked_as_ours_are() {
    let numbers = Numbers::default();
    behaves(&numbers, R2d2(numbers.clone()).in_place());
}

#[test]
fn managers_of_deadpool_recycle_before_each_further_use() {
    let numbers = Numbers::default();
    let pool = Pool::builder(Deadpool(numbers.clone())).max(1).clock(Clock::manual()).build();
    block_on(async {
        for expected in [1, 10, 20] {
            assert_eq!(**pool.get().await.unwrap(), expected);
        }
        assert!(pool.try_get().is_err(), "it would have to be recycled");
        // One that is not recycled is closed, and another one is made.
        **pool.get().await.unwrap() = 101;
        assert_eq!(**pool.get().await.unwrap(), 2);
        assert_eq!((numbers.0.made.load(SeqCst), numbers.0.detached.load(SeqCst)), (2, 1));
        assert_eq!(pool.get().await.unwrap().take().into_inner(), 10);
        numbers.0.is_down.store(true, SeqCst);
        let error = pool.ready().await.unwrap_err();
        let PoolError::Connect(failed) = &error else { panic!("{error}") };
        assert_eq!(failed.to_string(), "cannot connect: connection refused");
    });
    let message: DeadpoolError<io::Error> = DeadpoolError::Message("worn out".into());
    assert_eq!(message.to_string(), "worn out");
}

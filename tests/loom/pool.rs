//! Connections that threads share.

use floodwall::pool::{Manager, Pool, PoolBuilder, PoolError};

use super::*;

/// Counts what it has made and what is still open. Its dials are pending once.
struct Maker {
    made: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
    pends: bool,
}

struct Connection(Arc<AtomicU64>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Manager for Maker {
    type Connection = Connection;
    type Error = ();

    async fn connect(&self) -> Result<Connection, ()> {
        let mut pends = self.pends;
        std::future::poll_fn(|context| {
            if std::mem::take(&mut pends) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        self.made.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(Connection(self.open.clone()))
    }

    async fn check(&self, _: &mut Connection) -> Result<(), ()> {
        Ok(())
    }
}

struct Setup {
    pool: Pool<Maker>,
    made: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
}

fn setup(max: usize, pends: bool) -> Setup {
    setup_with(max, pends, |pool| pool)
}

fn setup_with(
    max: usize,
    pends: bool,
    change: impl FnOnce(PoolBuilder<Maker>) -> PoolBuilder<Maker>,
) -> Setup {
    let (made, open) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let maker = Maker { made: made.clone(), open: open.clone(), pends };
    let pool = Pool::builder(maker).max(max).clock(Clock::manual()).seed(1).timeout(Duration::MAX);
    let pool = change(pool).build();
    Setup { pool, made, open }
}

/// Trap 1: a connection that comes home while somebody is about to wait reaches it.
#[test]
fn a_connection_that_comes_home_reaches_who_waits() {
    model(|| {
        let Setup { pool, made, .. } = setup(1, false);
        let held = block_on(pool.get()).unwrap();
        let takes = {
            let pool = pool.clone();
            thread::spawn(move || drop(pool.get_blocking().unwrap()))
        };
        drop(held);
        takes.join().unwrap();
        let status = pool.status();
        assert_eq!((status.idle, status.in_use, status.waiting), (1, 0, 0));
        assert_eq!(made.load(Ordering::Relaxed), 1);
    });
}

/// Trap 2: a waiter goes away while a connection comes home; the other waiter gets it.
#[test]
fn a_waiter_that_goes_away_takes_no_connection_with_it() {
    model(|| {
        let Setup { pool, .. } = setup(1, false);
        let held = block_on(pool.get()).unwrap().into_owned();
        let (first, second) = (pool.clone(), pool.clone());
        let mut leaves: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(async move { first.get().await.map(|held| held.into_owned()) });
        assert!(poll(&mut leaves).is_pending());
        let takes = thread::spawn(move || drop(second.get_blocking().unwrap()));
        let comes_home = thread::spawn(move || drop(held));
        drop(leaves);
        takes.join().unwrap();
        comes_home.join().unwrap();
        let status = pool.status();
        assert_eq!((status.idle, status.in_use, status.waiting), (1, 0, 0));
    });
}

/// Trap 1, where others may pass: of two who wait one is woken and passed, or goes away; both are served, or one is.
#[test]
fn a_connection_that_anybody_may_take_reaches_who_waits() {
    model(|| {
        let Setup { pool, made, .. } = setup_with(1, false, PoolBuilder::barging);
        let held = block_on(pool.get()).unwrap().into_owned();
        let leaver = pool.clone();
        let mut leaves: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(async move { leaver.get().await.map(|held| held.into_owned()) });
        assert!(poll(&mut leaves).is_pending());
        let takes = {
            let pool = pool.clone();
            thread::spawn(move || drop(pool.get_blocking().unwrap()))
        };
        let comes_home = thread::spawn(move || drop(held));
        drop(pool.try_get());
        drop(leaves);
        takes.join().unwrap();
        comes_home.join().unwrap();
        let status = pool.status();
        assert_eq!((status.idle, status.in_use, status.waiting), (1, 0, 0));
        assert_eq!(made.load(Ordering::Relaxed), 1);
    });
}

/// The one that drives a dial goes away while another comes to wait: the dial reaches it, and no second one is made.
#[test]
fn a_dial_whose_driver_goes_away_reaches_who_waits() {
    model(|| {
        let Setup { pool, made, .. } = setup(1, true);
        let first = pool.clone();
        let mut drives: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(async move { first.get().await.map(|held| held.into_owned()) });
        assert!(poll(&mut drives).is_pending());
        let takes = {
            let pool = pool.clone();
            thread::spawn(move || drop(pool.get_blocking().unwrap()))
        };
        drop(drives);
        takes.join().unwrap();
        assert_eq!(made.load(Ordering::Relaxed), 1);
        assert_eq!(pool.status().idle, 1);
    });
}

/// A broken connection is closed while somebody is about to wait: its place is dialled for that one.
#[test]
fn a_place_that_becomes_free_reaches_who_waits() {
    model(|| {
        let Setup { pool, made, open } = setup(1, false);
        let held = block_on(pool.get()).unwrap().into_owned();
        let takes = {
            let pool = pool.clone();
            thread::spawn(move || drop(pool.get_blocking().unwrap()))
        };
        held.discard();
        takes.join().unwrap();
        assert_eq!((made.load(Ordering::Relaxed), open.load(Ordering::Relaxed)), (2, 1));
        assert_eq!(pool.status().total, 1);
    });
}

/// Trap 18: the pool is closed while a connection comes home and somebody waits. All are answered, all is closed.
#[test]
fn a_close_answers_all_and_leaves_nothing_open() {
    model(|| {
        let Setup { pool, open, .. } = setup(1, false);
        let held = block_on(pool.get()).unwrap().into_owned();
        let takes = {
            let pool = pool.clone();
            thread::spawn(move || match pool.get_blocking() {
                Ok(held) => drop(held),
                Err(error) => assert!(matches!(error, PoolError::Rejected(_))),
            })
        };
        let comes_home = thread::spawn(move || drop(held));
        pool.close_now();
        takes.join().unwrap();
        comes_home.join().unwrap();
        assert_eq!((pool.status().total, open.load(Ordering::Relaxed)), (0, 0));
    });
}

//! Connections that are expensive to make, kept and lent: [`Pool`].
//!
//! For connections to a database, a cache, a mail server: whatever one user at a time may use, and many need for a
//! moment. When **not** to use it: for clients that carry many calls over one connection, such as HTTP/2 or a
//! multiplexed Redis client; those need a limit, which is a [`Bulkhead`](crate::Bulkhead).
//!
//! Which connection, which waiter, whether to connect: all of that is one pure state machine under one short lock. The
//! rules are those that HikariCP, pgx and MongoDB's *Connection Monitoring and Pooling* specification arrived at: a
//! last-in-first-out stack of idle connections, a fair line of waiters to whom a returned connection is handed, few
//! connects at once that belong to the pool and not to a caller, and a check only where one may be needed.

mod builder;
mod checkout;
#[cfg(any(feature = "bb8-09", feature = "deadpool-013", feature = "r2d2-08"))]
pub mod compat;
mod core;
mod drive;
mod error;
mod get;
mod held;
mod hooks;
mod job;
mod keys;
mod land;
mod life;
mod manager;
#[cfg(feature = "postgres")]
mod postgres;
mod shared;
mod stats;

pub use builder::PoolBuilder;
pub use checkout::Checkout;
pub use error::{ConnectError, Phase, PoolError, PoolTimeout};
pub use held::HeldFor;
pub use manager::{BlockingManager, InPlace, Manager};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresConnection, PostgresManager};
pub use stats::{PoolSize, PoolStats};

use std::cmp::Reverse;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::call::Call;
use crate::error::{Reason, Rejected};
use crate::park::block_on;
use crate::sync::Ordering;
use core::Served;
use get::First;
use shared::Shared;

/// Lends connections, and keeps them between uses.
///
/// Clones are handles of one pool, which is [closed](Pool::close_now) when the last one is dropped. Tasks and threads wait
/// in one line, first come first served, calls of higher [`priority`](Call::priority) before those of lower; nobody passes
/// it, unless it is [built so](PoolBuilder::barging), and a connection that comes home is handed to its head. Two
/// neighbouring priorities (0 and 1, 2 and 3, and so on) count as one.
///
/// | | |
/// |---|---|
/// | [`get`](Pool::get), [`get_blocking`](Pool::get_blocking) | wait for a connection, at most for the pool's [`timeout`](PoolBuilder::timeout) |
/// | [`get_for`](Pool::get_for), [`get_blocking_for`](Pool::get_blocking_for) | and at most until the deadline of a [`Call`] |
/// | [`try_get`](Pool::try_get) | takes one that is idle, and does nothing that could wait |
///
/// # Who connects
///
/// Nothing is spawned. Spawn [`run`](Pool::run), and it makes the connections; otherwise callers who wait make them. Either
/// way an attempt to connect belongs to the pool: who gives up waiting loses nothing for those behind, and who is served by
/// a connection that came home meanwhile leaves the new one for the next. At most
/// [`max_connecting`](PoolBuilder::max_connecting) are made at once, and only while more callers wait than are being made.
/// After a failure the pool as a whole waits as its [`backoff`](PoolBuilder::backoff) says.
///
/// # Several connections at once
///
/// A caller that holds one connection and asks for another can wait for ever for callers that do the same: `n` tasks that
/// hold up to `k` connections each need a pool of `n * (k - 1) + 1`. Here they get a [`PoolError::TimedOut`] that says
/// that all are in use.
///
/// # Cost
///
/// To take an idle connection and to take it home are one short lock each and one reading of the clock, without an
/// allocation.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::pool::BlockingManager;
/// use floodwall::{Call, Pool};
///
/// struct Counters;
/// impl BlockingManager for Counters {
///     type Connection = u64;
///     type Error = std::io::Error;
///     fn connect(&self) -> std::io::Result<u64> {
///         Ok(0)
///     }
///     fn check(&self, _: &mut u64) -> std::io::Result<()> {
///         Ok(())
///     }
/// }
///
/// let pool = Pool::new(Counters.in_place(), 1);
/// let mut counter = pool.get_blocking()?;
/// *counter += 1;
/// let late = pool.get_blocking_for(Call::new().within(Duration::from_millis(1)));
/// assert!(late.is_err());
/// drop(counter);
/// assert_eq!(*pool.try_get().unwrap(), 1);
/// # Ok::<(), floodwall::pool::PoolError<std::io::Error>>(())
/// ```
pub struct Pool<M: Manager> {
    shared: Arc<Shared<M>>,
}

/// How many connections a pool has, and what they do; from [`Pool::status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// How many there may be.
    pub max: usize,
    /// How many there are: `idle`, `in_use` and `connecting` together.
    pub total: usize,
    /// How many wait to be used.
    pub idle: usize,
    /// How many are given out, being checked, or being closed.
    pub in_use: usize,
    /// How many are being made.
    pub connecting: usize,
    /// How many callers wait.
    pub waiting: usize,
}

const MUST_BE_SOME: &str = "must be at least 1";

impl<M: Manager> Pool<M> {
    /// Creates a pool of at most `max` connections.
    ///
    /// # Panics
    ///
    /// If `max` is 0.
    #[track_caller]
    pub fn new(manager: M, max: usize) -> Self {
        Self::builder(manager).max(max).build()
    }

    /// Starts a pool with settings.
    pub fn builder(manager: M) -> PoolBuilder<M> {
        PoolBuilder::new(manager)
    }

    /// Returns a connection, and waits for it at most for the pool's [`timeout`](PoolBuilder::timeout).
    ///
    /// # Errors
    ///
    /// [`PoolError::TimedOut`] says what it waited for, and how the last attempt to connect failed;
    /// [`PoolError::Rejected`] if too many wait already or the pool is closed; [`PoolError::Connect`] in a pool that
    /// [fails fast](PoolBuilder::fail_fast_after).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the line. A connection that it was granted goes to the next; one that was being made for
    /// it is still made; one that was being checked is checked again before it is given out.
    #[track_caller]
    pub fn get(&self) -> impl Future<Output = Result<Checkout<'_, M>, PoolError<M::Error>>> + Send {
        self.get_for(Call::new())
    }

    /// Returns a connection for `call`, and waits for it at most until the call's deadline.
    ///
    /// # Errors
    ///
    /// As [`get`](Pool::get).
    ///
    /// # Cancel safety
    ///
    /// As [`get`](Pool::get).
    #[track_caller]
    pub fn get_for(
        &self,
        call: Call,
    ) -> impl Future<Output = Result<Checkout<'_, M>, PoolError<M::Error>>> + Send {
        self.get_at(call, Location::caller())
    }

    /// Returns a connection, and blocks this thread until there is one.
    ///
    /// # Errors
    ///
    /// As [`get`](Pool::get).
    #[track_caller]
    pub fn get_blocking(&self) -> Result<Checkout<'_, M>, PoolError<M::Error>> {
        self.get_blocking_for(Call::new())
    }

    /// Returns a connection for `call`, and blocks this thread at most until the call's deadline.
    ///
    /// # Errors
    ///
    /// As [`get`](Pool::get).
    #[track_caller]
    pub fn get_blocking_for(&self, call: Call) -> Result<Checkout<'_, M>, PoolError<M::Error>> {
        let (shared, at) = (&self.shared, Location::caller());
        let now = shared.clock.nanos();
        match shared.first(call, now, at)? {
            First::Ready(checkout) => Ok(checkout),
            first => block_on(shared.obtain(first, call, now, at)),
        }
    }

    /// Returns a connection that is idle now.
    ///
    /// It asks nobody: one that was idle for long is given out without the check that [`get`](Pool::get) would make, one
    /// that is suspect or must be reset is not given out.
    ///
    /// # Errors
    ///
    /// [`Reason::NoneIdle`] if there is none, or if others wait; [`Reason::Closed`].
    #[track_caller]
    pub fn try_get(&self) -> Result<Checkout<'_, M>, Rejected> {
        let shared = &self.shared;
        let now = shared.clock.nanos();
        loop {
            match shared.take_unchecked(now) {
                Served::Entry(entry) => {
                    let mut checkout = Checkout::new(shared, entry);
                    if shared.hand_out(checkout.entry(), now, Location::caller()) {
                        return Ok(checkout);
                    }
                }
                Served::Closed => return Err(shared.refused(Reason::Closed)),
                Served::NotYet | Served::Failed | Served::Shed => {
                    return Err(shared.refused(Reason::NoneIdle));
                }
            }
        }
    }

    /// Tells how many connections there are, and what they do.
    pub fn status(&self) -> PoolStatus {
        self.shared.status()
    }

    /// Tells which connections are given out, where they were taken and for how long, those first that are held for
    /// longest; in a pool that [looks for leaks](PoolBuilder::leak_after), else nothing.
    pub fn held(&self) -> Vec<HeldFor> {
        let now = self.shared.clock.nanos();
        let mut all = self.shared.state().held.all(now);
        all.sort_by_key(|held| Reverse(held.held));
        all
    }

    /// Returns the manager.
    pub fn manager(&self) -> &M {
        &self.shared.manager
    }
}

impl<M: Manager> Clone for Pool<M> {
    fn clone(&self) -> Self {
        // Relaxed: a handle is made of one that there is.
        self.shared.handles.fetch_add(1, Ordering::Relaxed);
        Self { shared: self.shared.clone() }
    }
}

impl<M: Manager> Drop for Pool<M> {
    fn drop(&mut self) {
        // AcqRel: whoever closes sees what was done with the other handles.
        if self.shared.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.close();
        }
    }
}

impl<M: Manager> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.shared.hook)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

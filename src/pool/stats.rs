//! What a pool has done: [`PoolStats`], and how many connections it should have: [`PoolSize`].

use std::time::Duration;

use super::Pool;
use super::manager::Manager;
use crate::histogram::Histogram;

/// What a pool has done since it was built; from [`Pool::stats`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolStats {
    /// How many connections were given out.
    pub served: u64,
    /// How many callers got none in time.
    pub timed_out: u64,
    /// How many callers were [refused under overload](crate::PoolBuilder::codel).
    pub shed: u64,
    /// How many connections were made.
    pub connected: u64,
    /// How many attempts to connect failed.
    pub failed: u64,
    /// How many connections were closed.
    pub closed: u64,
    /// How many were held for longer than [`leak_after`](crate::PoolBuilder::leak_after).
    pub leaks: u64,
    /// How long callers waited in line, of those who did. All others of those `served` found one idle.
    pub waits: Histogram,
    /// How long connections were held, if [that is measured](crate::PoolBuilder::measure_holds).
    pub holds: Histogram,
    /// How long it took to connect.
    pub connects: Histogram,
}

/// The times that are counted as they come.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) waits: Histogram,
    pub(super) holds: Histogram,
    pub(super) connects: Histogram,
}

impl<M: Manager> Pool<M> {
    /// Tells what the pool has done.
    pub fn stats(&self) -> PoolStats {
        let counts = self.shared.state().core.counts;
        let times = &self.shared.times;
        PoolStats {
            served: counts.served,
            timed_out: counts.timed_out,
            shed: counts.shed,
            connected: counts.connected,
            failed: counts.failed,
            closed: counts.closed,
            leaks: counts.leaks,
            waits: times.waits.clone(),
            holds: times.holds.clone(),
            connects: times.connects.clone(),
        }
    }
}

/// How many connections a pool should have.
///
/// More than the database can work on at once make it slower, for all; callers wait better in the pool's line than inside
/// the database. Start with [`suggest`](PoolSize::suggest), stay above [`deadlock_free`](PoolSize::deadlock_free), hold it
/// against [`for_load`](PoolSize::for_load), and measure.
#[derive(Clone, Copy, Debug)]
pub struct PoolSize;

impl PoolSize {
    /// Returns twice the cores and once the spindles of the *database*, shared among so many instances of your program;
    /// at least 1.
    ///
    /// The formula is PostgreSQL's (its wiki, "Number Of Database Connections"; HikariCP's "About Pool Sizing"). Do not
    /// count hyper-threads; a database that fits in memory, or lies on SSDs, has no spindles to wait for: 0 or 1.
    ///
    /// ```
    /// use floodwall::pool::PoolSize;
    /// assert_eq!(PoolSize::suggest(16, 1, 4), 8);
    /// ```
    ///
    /// # Panics
    ///
    /// If `instances` is 0.
    #[track_caller]
    pub const fn suggest(cores: usize, spindles: usize, instances: usize) -> usize {
        assert!(instances > 0, "instances: 0 must be at least 1");
        at_least_one((2 * cores + spindles) / instances)
    }

    /// Returns how many connections keep `tasks` from waiting for each other for ever, each of which holds up to `held` at
    /// once: `tasks * (held - 1) + 1`.
    ///
    /// ```
    /// use floodwall::pool::PoolSize;
    /// assert_eq!(PoolSize::deadlock_free(8, 2), 9);
    /// ```
    pub const fn deadlock_free(tasks: usize, held: usize) -> usize {
        tasks * held.saturating_sub(1) + 1
    }

    /// Returns how many connections so many calls a second keep busy at four fifths, if each holds one for `hold` (Little's
    /// law). If that is more than [`suggest`](PoolSize::suggest) says, the database is too small for the load, or `hold` is
    /// too long.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::pool::PoolSize;
    /// assert_eq!(PoolSize::for_load(1_000, Duration::from_millis(8)), 10);
    /// ```
    pub const fn for_load(calls_per_second: u64, hold: Duration) -> usize {
        const SECOND: u128 = 1_000_000_000;
        let busy = calls_per_second as u128 * hold.as_nanos();
        at_least_one((busy * 10).div_ceil(SECOND * 8) as usize)
    }
}

const fn at_least_one(size: usize) -> usize {
    if size == 0 { 1 } else { size }
}

//! The settings of a pool: [`PoolBuilder`].

use std::fmt;
use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Duration;

use super::core::Limits;
use super::hooks::Hooks;
use super::manager::Manager;
use super::shared::{Settings, Shared, Slot};
use super::{MUST_BE_SOME, Pool};
use crate::backoff::{Backoff, Exponential};
use crate::clock::{Clock, NEVER};
use crate::error::{absurd, saturating_nanos};
use crate::event::Hook;
use crate::rng::Seeds;
use crate::setters::setters;
use crate::wait::WaitList;

/// Builds a [`Pool`]; made by [`Pool::builder`].
#[must_use = "call build"]
pub struct PoolBuilder<M: Manager> {
    manager: M,
    hooks: Hooks<M>,
    limits: Limits,
    settings: Settings,
    list: WaitList<Slot<M::Connection>>,
    clock: Clock,
    hook: Hook,
}

const SECOND: u64 = 1_000_000_000;

impl<M: Manager> PoolBuilder<M> {
    pub(super) fn new(manager: M) -> Self {
        Self {
            manager,
            hooks: Hooks::default(),
            limits: Limits {
                max: 10,
                overflow: 0,
                max_idle: usize::MAX,
                min_idle: 0,
                max_connecting: 2,
                idle_timeout: 600 * SECOND,
                replace_ahead: 0,
                fail_fast_after: u32::MAX,
                barging: false,
                codel: None,
            },
            settings: Settings {
                timeout: 30 * SECOND,
                check_after: SECOND / 2,
                check_timeout: 2 * SECOND,
                connect_timeout: 10 * SECOND,
                close_timeout: 5 * SECOND,
                max_lifetime: 1_800 * SECOND,
                keepalive: NEVER,
                leak_after: NEVER,
                measure_holds: false,
                barging: false,
                in_order: true,
                backoff: Exponential::new(Duration::from_millis(10)).max(Duration::from_secs(5)).into(),
                seeds: Seeds::from_entropy(),
            },
            list: WaitList::bounded(1024),
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
    }

    /// Has at most so many connections. Default: 10.
    ///
    /// # Panics
    ///
    /// If `max` is 0.
    #[track_caller]
    pub const fn max(mut self, max: usize) -> Self {
        if max == 0 {
            absurd("max", 0, MUST_BE_SOME);
        }
        self.limits.max = max;
        self
    }

    /// Makes up to so many more than `max` while callers wait; they are closed when nobody does. Default: 0.
    pub const fn overflow(mut self, connections: usize) -> Self {
        self.limits.overflow = connections;
        self
    }

    /// Keeps at most so many that nobody uses. Default: as many as there may be.
    pub const fn max_idle(mut self, connections: usize) -> Self {
        self.limits.max_idle = connections;
        self
    }

    /// Keeps at least so many that nobody uses, if there may be so many, while somebody [runs](Pool::run) the pool.
    /// Default: 0.
    pub const fn min_idle(mut self, connections: usize) -> Self {
        self.limits.min_idle = connections;
        self
    }

    /// Makes at most so many connections at the same time. Default: 2.
    ///
    /// A pool that has lost all of them comes back one or two at a time, and a burst of callers is mostly served by what
    /// comes home while the first of them connects.
    ///
    /// # Panics
    ///
    /// If `connections` is 0.
    #[track_caller]
    pub const fn max_connecting(mut self, connections: usize) -> Self {
        if connections == 0 {
            absurd("max_connecting", 0, MUST_BE_SOME);
        }
        self.limits.max_connecting = connections;
        self
    }

    /// Lets a caller wait so long for a connection, all in all: in line, while it is made, while it is checked. Default:
    /// 30 s.
    ///
    /// A [`Call`](crate::Call)'s deadline ends it earlier.
    pub const fn timeout(mut self, limit: Duration) -> Self {
        self.settings.timeout = saturating_nanos(limit);
        self
    }

    /// Lets at most so many callers wait; more are rejected. Default: 1,024.
    pub fn max_waiting(mut self, callers: usize) -> Self {
        self.list.set_limit(callers);
        self
    }

    /// Serves the newest waiter first, and drops the oldest one for a new one when the line is full. Default: first come,
    /// first served.
    pub fn newest_first(mut self) -> Self {
        self.list.serve_newest_first();
        self
    }

    /// Lets whoever comes first take a connection that came home, as if nobody waited (*barging*), until the first in line has
    /// waited for a millisecond. Default: what comes home is handed to the first in line, and nobody passes it.
    ///
    /// A task that brings its connection home and asks again at once keeps it, and none is idle while the one that it is
    /// handed to is not running yet: more throughput where a connection is held for microseconds, for waits that differ more.
    /// Where it is held for milliseconds it makes no difference.
    pub const fn barging(mut self) -> Self {
        self.limits.barging = true;
        self
    }

    /// Refuses with [`Reason::Shed`](crate::Reason::Shed) whose turn comes after more than twice `target` while the pool is
    /// overloaded: while for a whole `interval` nobody was served who had waited less than `target` (CoDel, as folly has it).
    /// Default: everybody waits for its whole time.
    ///
    /// Each priority is judged by itself. 5 ms and 100 ms suit services. Under overload it is better to serve some callers soon
    /// than all of them when they have given up.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use floodwall::{Pool, pool::BlockingManager};
    /// # struct Numbers;
    /// # impl BlockingManager for Numbers {
    /// #     type Connection = u8;
    /// #     type Error = std::io::Error;
    /// #     fn connect(&self) -> std::io::Result<u8> { Ok(7) }
    /// #     fn check(&self, _: &mut u8) -> std::io::Result<()> { Ok(()) }
    /// # }
    /// let pool = Pool::builder(Numbers.in_place()).max(4);
    /// let pool = pool.codel(Duration::from_millis(5), Duration::from_millis(100)).build();
    /// drop(pool.get_blocking()?);
    /// assert_eq!(pool.stats().shed, 0);
    /// # Ok::<(), floodwall::pool::PoolError<std::io::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If `target` is zero or not below `interval`.
    #[track_caller]
    pub fn codel(mut self, target: Duration, interval: Duration) -> Self {
        if target.is_zero() || target >= interval {
            absurd("target", saturating_nanos(target), "ns must be above 0 and below the interval");
        }
        self.limits.codel = Some((saturating_nanos(target), saturating_nanos(interval)));
        self
    }

    /// Checks a connection before it is given out if nobody has used it for so long; zero checks always, `Duration::MAX`
    /// never. Default: 500 ms.
    ///
    /// One that fails makes all others suspect that are idle then: they are checked, too, however short a time ago they
    /// were used.
    pub const fn check_after(mut self, idle: Duration) -> Self {
        self.settings.check_after = saturating_nanos(idle);
        self
    }

    /// Gives a check so long, within the caller's time. Default: 2 s.
    pub const fn check_timeout(mut self, limit: Duration) -> Self {
        self.settings.check_timeout = saturating_nanos(limit);
        self
    }

    /// Gives an attempt to connect so long. Default: 10 s.
    pub const fn connect_timeout(mut self, limit: Duration) -> Self {
        self.settings.connect_timeout = saturating_nanos(limit);
        self
    }

    /// Gives a connection so long to close, before its place is free anyway. Default: 5 s.
    pub const fn close_timeout(mut self, limit: Duration) -> Self {
        self.settings.close_timeout = saturating_nanos(limit);
        self
    }

    /// Uses a connection for at most so long, less up to a tenth, drawn for each, so that those that were made together
    /// do not end together. Default: 30 minutes.
    ///
    /// One that is in use then is closed when it comes home. While somebody [runs](Pool::run) the pool, one that is idle is
    /// replaced before, in the last twentieth of its time, as long as others are idle. Set it shorter than what ends connections from outside:
    /// the server's limit, a load balancer's.
    pub const fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.settings.max_lifetime = saturating_nanos(lifetime);
        self
    }

    /// Closes a connection that nobody has used for so long. Default: 10 minutes.
    ///
    /// The pool reads the clock when a connection is taken and not when one comes home, so that in a pool of which
    /// nobody else takes any, the time for which it was held counts as well.
    pub const fn idle_timeout(mut self, idle: Duration) -> Self {
        self.limits.idle_timeout = saturating_nanos(idle);
        self
    }

    /// Checks a connection that was not used for so long, so that nothing on the way forgets it, while somebody
    /// [runs](Pool::run) the pool. Default: never.
    ///
    /// It does not count as use: one that is kept alive still ends by [`idle_timeout`](Self::idle_timeout).
    ///
    /// # Panics
    ///
    /// If `interval` is zero.
    #[track_caller]
    pub const fn keepalive(mut self, interval: Duration) -> Self {
        if interval.is_zero() {
            absurd("keepalive", 0, "ns must be at least 1 ns");
        }
        self.settings.keepalive = saturating_nanos(interval);
        self
    }

    /// Tells of a connection that is held for longer than `limit`, once, by [`Event::HeldTooLong`](crate::Event::HeldTooLong):
    /// where it was taken, and for how long. Default: never.
    ///
    /// It is found by who [runs](Pool::run) the pool, or else by the next caller that waits. It costs a short lock more for
    /// each use.
    pub const fn leak_after(mut self, limit: Duration) -> Self {
        self.settings.leak_after = saturating_nanos(limit);
        self
    }

    /// Measures how long connections are held, for [`PoolStats::holds`](super::PoolStats::holds). It costs a reading of the
    /// clock more for each use. Default: not measured.
    pub const fn measure_holds(mut self) -> Self {
        self.settings.measure_holds = true;
        self
    }

    /// Waits between attempts to connect as `backoff` says: one backoff for the whole pool, which starts again when one has
    /// succeeded. Default: from 10 ms to 5 s, doubling, with full jitter. How many attempts it makes does not matter.
    pub fn backoff(mut self, backoff: impl Into<Backoff>) -> Self {
        self.settings.backoff = backoff.into();
        self
    }

    /// Lets nobody wait while the last `failures` attempts to connect have failed: until the next attempt, callers for whom
    /// none is idle get the error. Default: callers wait for their whole time, since it may succeed yet.
    ///
    /// # Panics
    ///
    /// If `failures` is 0.
    #[track_caller]
    pub const fn fail_fast_after(mut self, failures: u32) -> Self {
        if failures == 0 {
            absurd("fail_fast_after", 0, MUST_BE_SOME);
        }
        self.limits.fail_fast_after = failures;
        self
    }

    /// Prepares each connection when it is made, before anybody gets it; an error is a failed attempt to connect, and the
    /// connection is closed. Default: nothing.
    ///
    /// Hooks are for what is settled without waiting: what takes its time belongs into [`Manager::connect`], which may do
    /// more than connect. None is called under a lock. One that panics has said no.
    ///
    /// ```
    /// # use floodwall::{Pool, pool::BlockingManager};
    /// # struct Lists;
    /// # impl BlockingManager for Lists {
    /// #     type Connection = Vec<u8>;
    /// #     type Error = std::io::Error;
    /// #     fn connect(&self) -> std::io::Result<Vec<u8>> { Ok(Vec::new()) }
    /// #     fn check(&self, _: &mut Vec<u8>) -> std::io::Result<()> { Ok(()) }
    /// # }
    /// let pool = Pool::builder(Lists.in_place())
    ///     .on_connect(|list| Ok(list.try_reserve(1_024)?))
    ///     .on_return(|list| {
    ///         list.clear();
    ///         list.capacity() < 65_536
    ///     })
    ///     .build();
    /// pool.get_blocking()?.push(7);
    /// assert!(pool.get_blocking()?.is_empty());
    /// # Ok::<(), floodwall::pool::PoolError<std::io::Error>>(())
    /// ```
    pub fn on_connect(
        mut self,
        prepare: impl Fn(&mut M::Connection) -> Result<(), M::Error> + Send + Sync + 'static,
    ) -> Self {
        self.hooks.connect = Some(Box::new(prepare));
        self
    }

    /// Asks before each time that a connection is given out; one for which it says no is closed, and the caller gets another.
    /// Default: all are.
    pub fn on_take(mut self, may: impl Fn(&mut M::Connection) -> bool + Send + Sync + 'static) -> Self {
        self.hooks.take = Some(Box::new(may));
        self
    }

    /// Asks when a connection comes home; one for which it says no is closed. Default: all are kept that the manager does not
    /// [call broken](Manager::is_broken).
    pub fn on_return(mut self, keep: impl Fn(&mut M::Connection) -> bool + Send + Sync + 'static) -> Self {
        self.hooks.come_home = Some(Box::new(keep));
        self
    }

    /// Hears of each connection of the pool that is about to be [closed](Manager::close). Default: nobody does.
    pub fn on_close(mut self, hear: impl Fn(&mut M::Connection) + Send + Sync + 'static) -> Self {
        self.hooks.close = Some(Box::new(hear));
        self
    }

    /// Draws the same jitter in each run. Default: a random seed.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seeds = Seeds::seeded(seed);
        self
    }

    setters!("pool");

    /// Returns how many connections there may be, how many callers may wait, and whether the newest of them is served first.
    pub(crate) fn bounds(&self) -> (usize, usize, bool) {
        let (waiting, newest_first) = self.list.bounds();
        (self.limits.max.saturating_add(self.limits.overflow), waiting, newest_first)
    }

    pub(crate) fn shared_clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Puts another manager around its own. The line is without end, and first come, first served, whatever was set.
    pub(crate) fn with_manager<N>(self, around: impl FnOnce(M) -> N) -> PoolBuilder<N>
    where
        N: Manager<Connection: DerefMut<Target = M::Connection>, Error = M::Error>,
    {
        let Self { manager, hooks, limits, settings, list: _, clock, hook } = self;
        let limits = Limits { barging: false, codel: None, ..limits };
        let (manager, hooks, list) = (around(manager), hooks.further_in(), WaitList::bounded(usize::MAX));
        PoolBuilder { manager, hooks, limits, settings, list, clock, hook }
    }

    /// Builds it. It connects when somebody asks for a connection.
    pub fn build(self) -> Pool<M> {
        let Self { manager, hooks, mut limits, mut settings, list, clock, hook } = self;
        limits.replace_ahead = if settings.max_lifetime == NEVER { 0 } else { settings.max_lifetime / 20 };
        settings.barging = limits.barging;
        settings.in_order = !limits.barging && limits.codel.is_none();
        Pool { shared: Arc::new(Shared::new(manager, hooks, limits, settings, list, clock, hook)) }
    }
}

impl<M: Manager> fmt::Debug for PoolBuilder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("name", &self.hook)
            .field("limits", &self.limits)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

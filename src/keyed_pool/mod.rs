//! A pool for each key, under one cap: [`KeyedPool`].
//!
//! For clients of many hosts: what is connected to one is of no use for another, and all together may not be too many.
//! When **not** to use it: for a few hosts that are known beforehand, a [`Pool`](crate::Pool) each does.
//!
//! A caller is let in first by its key, and then by all keys together, each time in one fair line; so there are never more
//! callers let in than there may be connections. Whoever is let in takes an idle connection of its key, or makes one, in a
//! place that is free, or else in that of the connection of any other key that was idle for longest, which is closed
//! before. These are the rules of HttpClient's `maxPerRoute` and `maxTotal`, but for the fair line, without which the
//! callers of a busy host hand its connections to each other while others wait.

mod checkout;
mod places;
mod room;

pub use checkout::KeyedCheckout;

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use self::checkout::Stay;
use self::places::Common;
use self::room::{Room, Site};
use crate::bell::Bell;
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{Reason, Rejected, absurd};
use crate::keyed::Keyed;
use crate::park::block_on;
use crate::pool::{Manager, PoolBuilder, PoolError, PoolStatus};
use crate::sync::{AtomicU64, Ordering};

/// Lends connections to many hosts, or whatever a key stands for: a pool for each key, made when the key is first met,
/// and so many connections in all.
///
/// Each pool is as its [`PoolBuilder`] says; its `max` (with its `overflow`) is what one key may have. When a key may
/// have more, but all together may not, the connection of another key that was idle for longest is closed; when none is
/// idle, callers of all keys wait in one line, first come first served, where each key has as many at most as it may have
/// connections. So a busy key keeps nobody else out. Calls of higher [`priority`](Call::priority) go first. Nobody passes
/// those who wait, and none of them is refused for overload: [`barging`](PoolBuilder::barging) and
/// [`codel`](PoolBuilder::codel) have no effect here.
///
/// At most [`max_keys`](KeyedPool::max_keys) keys are known. A key that was idle for long, or whose room is needed, is
/// forgotten while nobody uses its connections, and these are closed.
///
/// Nothing is spawned: callers who wait make the connections. Drop it, and all is closed as it comes home.
///
/// # Cost
///
/// That of [`Keyed::get`](crate::Keyed::get) and of [`Pool::get`](crate::Pool::get), and some dozen atomic operations. To
/// make a connection when there are as many as there may be costs a look at every key.
///
/// # Examples
///
/// ```
/// use floodwall::pool::BlockingManager;
/// use floodwall::{KeyedPool, Pool};
///
/// struct Mirror(String);
/// impl BlockingManager for Mirror {
///     type Connection = String;
///     type Error = std::io::Error;
///     fn connect(&self) -> std::io::Result<String> {
///         Ok(format!("to {}", self.0))
///     }
///     fn check(&self, _: &mut String) -> std::io::Result<()> {
///         Ok(())
///     }
/// }
///
/// let hosts = KeyedPool::new(2, |host: &String| Pool::builder(Mirror(host.clone()).in_place()).max(2));
/// let first = hosts.get_blocking("a.example")?;
/// assert_eq!(*first, "to a.example");
/// drop(hosts.get_blocking("b.example")?);
/// drop(hosts.get_blocking("c.example")?); // in the place of that to b, which was idle
/// assert_eq!((hosts.status().total, hosts.status_of("b.example").unwrap().total), (2, 0));
/// # Ok::<(), floodwall::pool::PoolError<std::io::Error>>(())
/// ```
pub struct KeyedPool<K, M: Manager> {
    sites: Keyed<K, Site<M>>,
    shared: Arc<Shared<M>>,
    clock: Clock,
}

/// What the pool and those who use it share.
struct Shared<M: Manager> {
    common: Arc<Common<M>>,
    /// [`OPEN`], [`DRAINING`] or [`CLOSED`].
    mode: AtomicU64,
    /// How many callers there are.
    present: AtomicU64,
    /// Rings once.
    closed: Bell,
    /// Rings when somebody leaves and the pool is not open.
    left: Bell,
}

const OPEN: u64 = 0;
const DRAINING: u64 = 1;
const CLOSED: u64 = 2;

impl<M: Manager> Shared<M> {
    // SeqCst, here and below: who drains first says so, and then looks who is there; who comes does it the other way
    // round.
    fn comes(&self) {
        self.present.fetch_add(1, Ordering::SeqCst);
    }

    fn leaves(&self) {
        self.present.fetch_sub(1, Ordering::SeqCst);
        if !self.is_open() {
            self.left.ring();
        }
    }

    fn is_open(&self) -> bool {
        self.mode.load(Ordering::SeqCst) == OPEN
    }
}

/// How many connections a [`KeyedPool`] has, and what they do; from [`KeyedPool::status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyedPoolStatus {
    /// How many keys are known.
    pub keys: usize,
    /// How many connections there may be.
    pub max: usize,
    /// How many there are, those that are being made or closed included.
    pub total: usize,
    /// How many wait to be used.
    pub idle: usize,
    /// How many are given out, being checked, or being closed.
    pub in_use: usize,
    /// How many callers wait.
    pub waiting: usize,
}

type Got<M> = Result<KeyedCheckout<M>, PoolError<<M as Manager>::Error>>;

impl<K: Eq + Hash, M: Manager> KeyedPool<K, M> {
    const MAX_KEYS: usize = 10_000;

    /// Creates a pool of at most `max` connections in all; those of a key are as the builder says that `make` returns.
    ///
    /// `make` may be called by several threads for one key; one of what it returns is kept.
    ///
    /// # Panics
    ///
    /// If `max` is 0.
    #[track_caller]
    pub fn new(max: usize, make: impl Fn(&K) -> PoolBuilder<M> + Send + Sync + 'static) -> Self {
        if max == 0 {
            absurd("max", 0, "must be at least 1");
        }
        let common = Arc::new(Common::new(max));
        let rooms = common.clone();
        let sites = Keyed::new(move |key| Site(Room::new(make(key), &rooms))).max_keys(Self::MAX_KEYS);
        let shared = Shared {
            common,
            mode: AtomicU64::new(OPEN),
            present: AtomicU64::new(0),
            closed: Bell::default(),
            left: Bell::default(),
        };
        Self { sites, shared: Arc::new(shared), clock: Clock::system() }
    }

    /// Knows at most `keys` keys; when so many are in use, a new one is rejected with [`Reason::Shed`]. Default: 10,000.
    ///
    /// # Panics
    ///
    /// If `keys` is 0 or above 2³².
    #[track_caller]
    #[must_use = "returns the changed pool"]
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.sites = self.sites.max_keys(keys);
        self
    }

    /// Forgets a key that was not used for so long, and closes its connections. Default: 10 minutes.
    ///
    /// Such keys are looked for a few at a time while others are used; [`forget_idle`](KeyedPool::forget_idle) looks for
    /// all of them.
    #[must_use = "returns the changed pool"]
    pub fn idle(mut self, time: Duration) -> Self {
        self.sites = self.sites.idle(time);
        self
    }

    /// Tells the time by `clock`, which should be the one of the pools of its keys. Default: the system clock.
    #[must_use = "returns the changed pool"]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.sites = self.sites.clock(clock.clone());
        self.clock = clock;
        self
    }

    /// Returns a connection of `key`, and waits for it at most for the [`timeout`](PoolBuilder::timeout) of the key's pool.
    ///
    /// # Errors
    ///
    /// As [`Pool::get`](crate::Pool::get); and [`PoolError::Rejected`] with [`Reason::Shed`] if the key is new and
    /// [too many](KeyedPool::max_keys) are in use.
    ///
    /// # Cancel safety
    ///
    /// As [`Pool::get`](crate::Pool::get). What is being made for nobody any more is given up if another key needs its
    /// place.
    #[track_caller]
    pub fn get<Q>(&self, key: &Q) -> impl Future<Output = Got<M>> + Send + use<K, Q, M>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        self.get_for(key, Call::new())
    }

    /// Returns a connection of `key` for `call`, and waits for it at most until the call's deadline.
    ///
    /// # Errors
    ///
    /// As [`get`](KeyedPool::get).
    ///
    /// # Cancel safety
    ///
    /// As [`get`](KeyedPool::get).
    #[track_caller]
    pub fn get_for<Q>(&self, key: &Q, call: Call) -> impl Future<Output = Got<M>> + Send + use<K, Q, M>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let (site, shared, at) = (self.sites.get(key), self.shared.clone(), Location::caller());
        async move { obtain(site?, shared, call, at).await }
    }

    /// As [`get`](KeyedPool::get), and blocks this thread.
    ///
    /// # Errors
    ///
    /// As [`get`](KeyedPool::get).
    #[track_caller]
    pub fn get_blocking<Q>(&self, key: &Q) -> Got<M>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        block_on(self.get(key))
    }

    /// As [`get_for`](KeyedPool::get_for), and blocks this thread.
    ///
    /// # Errors
    ///
    /// As [`get`](KeyedPool::get).
    #[track_caller]
    pub fn get_blocking_for<Q>(&self, key: &Q, call: Call) -> Got<M>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        block_on(self.get_for(key, call))
    }

    /// Returns a connection of `key` that is idle now, as [`Pool::try_get`](crate::Pool::try_get) does.
    ///
    /// # Errors
    ///
    /// [`Reason::NoneIdle`] if there is none, or if others wait; [`Reason::Closed`]; [`Reason::Shed`] as in
    /// [`get`](KeyedPool::get).
    #[track_caller]
    pub fn try_get<Q>(&self, key: &Q) -> Result<KeyedCheckout<M>, Rejected>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let site = self.sites.get(key)?;
        let begun = Stay::begin(site.clone(), self.shared.clone());
        let mut stay = begun.map_err(|reason| site.0.pool.refuse(reason))?;
        if !stay.try_enter(Call::new()) {
            return Err(site.0.pool.refuse(Reason::NoneIdle));
        }
        let checkout = site.0.pool.try_get()?.into_owned();
        Ok(KeyedCheckout::new(checkout, stay))
    }

    /// Tells how many connections there are, and what they do, at the cost of a look at every key.
    pub fn status(&self) -> KeyedPoolStatus {
        let common = &self.shared.common;
        let mut status = KeyedPoolStatus {
            keys: self.sites.len(),
            max: common.places.max(),
            total: common.places.taken(),
            idle: 0,
            in_use: 0,
            waiting: common.users.waiting(),
        };
        for room in common.rooms() {
            let of_room = room.status();
            status.idle += of_room.idle;
            status.in_use += of_room.in_use;
            status.waiting += of_room.waiting;
        }
        status
    }

    /// Tells how many connections there are of `key`, if it is known. Those that wait for their turn among all keys do not
    /// count as waiting here.
    pub fn status_of<Q>(&self, key: &Q) -> Option<PoolStatus>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        Some(self.sites.peek(key)?.0.status())
    }

    /// Forgets all keys that were idle for long, and closes their connections; for a task that calls it from time to time.
    ///
    /// A key that was used since the last look at it is looked at again after another [`idle`](KeyedPool::idle) time.
    pub fn forget_idle(&self) {
        self.sites.forget_idle();
    }

    /// Closes the pools of all keys in good order: no newcomer gets a connection, those who wait already do, and all have so
    /// long to bring theirs home; then [closes](KeyedPool::close_now) them.
    ///
    /// Returns how many were still in use; those are closed when they come home.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves a pool that no newcomer gets a connection of; drain or close it again.
    pub async fn drain(&self, within: Duration) -> usize {
        let shared = &self.shared;
        // SeqCst: see `comes`. A pool that is closed stays so.
        shared.mode.fetch_max(DRAINING, Ordering::SeqCst);
        let end = self.clock.after(within);
        loop {
            let heard = shared.left.rings();
            if shared.present.load(Ordering::SeqCst) == 0 || self.clock.nanos() >= end {
                break;
            }
            shared.left.wait(heard, &self.clock, end).await;
        }
        self.close_now();
        let mut in_use = 0;
        for room in shared.common.rooms() {
            let left = Duration::from_nanos(end.saturating_sub(self.clock.nanos()));
            in_use += room.pool.drain(left).await;
        }
        in_use
    }

    /// As [`drain`](KeyedPool::drain), on a plain thread.
    pub fn drain_blocking(&self, within: Duration) -> usize {
        block_on(self.drain(within))
    }

    /// Closes the pools of all keys: those who wait are refused, what is idle is closed now, and what is in use when it
    /// comes home.
    pub fn close_now(&self) {
        self.shared.mode.store(CLOSED, Ordering::SeqCst);
        self.shared.closed.ring();
        self.shared.common.rooms().iter().for_each(|room| room.pool.close_now());
        self.shared.left.ring();
    }

    /// Returns whether the pool gives out no more connections, for good.
    pub fn is_closed(&self) -> bool {
        !self.shared.is_open()
    }
}

async fn obtain<M: Manager>(
    site: Arc<Site<M>>,
    shared: Arc<Shared<M>>,
    call: Call,
    at: &'static Location<'static>,
) -> Got<M> {
    let room = site.0.clone();
    let pool = &room.pool;
    let (clock, start, call) = pool.begin(call);
    let refuse = |reason| match reason {
        Reason::DeadlineExceeded if start < call.deadline => pool.timed_out(start, call.deadline),
        reason => pool.refuse(reason).into(),
    };
    let mut stay = Stay::begin(site, shared).map_err(refuse)?;
    stay.enter(call, clock).await.map_err(refuse)?;
    let checkout = pool.get_at(call, at).await?.into_owned();
    // What it has laid down when it was served, nobody may drive.
    stay.tell();
    Ok(KeyedCheckout::new(checkout, stay))
}

impl<K, M: Manager> fmt::Debug for KeyedPool<K, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedPool")
            .field("max", &self.shared.common.places.max())
            .field("total", &self.shared.common.places.taken())
            .finish_non_exhaustive()
    }
}

//! Which keys are being loaded, by whom, and who waits for it: [`Flights`].
//!
//! A flight is in the table while it may still *land*: while what its leader brings is what the key is worth. Whoever
//! changes the key meanwhile takes it out ([`Flights::overtake`]); then it still answers those who wait, and no more.
//! So "is it overtaken" and "put its value where all see it" are one step under one lock, which is all there is to a
//! load that races an invalidation.
//!
//! Most changes meet no flight, and need not lock the table to find that out ([`Flights::are_none`]). Each change of a key is
//! made under a lock of the cache's own. It asks for the count of flights under that lock; a flight is counted before its
//! leader takes the same lock once and gives it back, and only then does the leader look at anything. So either the
//! change was made before the leader took the lock, and the leader sees what it made; or it is made after that, and sees
//! the count. A flight is not counted any more once it has landed or was overtaken: who sees that from under
//! the lock, makes its change after it.
//!
//! Who waits stands in the flight's [`WaitList`]: the leader lands, and all are served; the leader fails or is dropped,
//! and the first of them is served the lead. A flight that has no leader and no waiter leaves the table.

use std::any::Any;
use std::borrow::Borrow;
use std::sync::Arc;

use super::part::Sharing;
use super::running::Waits;
use crate::clock::Clock;
use crate::error::Error;
use crate::hash::ByHash;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, SetOnce};
use crate::wait::{Line, Turn, Wait, WaitList, Waited, serve_waiters};

/// The flights of one cache or one [`SingleFlight`](crate::SingleFlight).
pub(crate) struct Flights<K, T> {
    shards: Box<[Shard<K, T>]>,
}

/// Alone on its cache lines: processors fetch them in pairs.
#[repr(align(128))]
struct Shard<K, T> {
    table: Mutex<Table<K, T>>,
    /// How many hashes there are in the table.
    count: AtomicU64,
}

/// A table whose lock is held; counted when that is given back.
struct Locked<'a, K, T> {
    count: &'a AtomicU64,
    table: MutexGuard<'a, Table<K, T>>,
}

impl<K, T> Shard<K, T> {
    fn lock(&self) -> Locked<'_, K, T> {
        Locked { count: &self.count, table: self.table.lock() }
    }
}

impl<K, T> Drop for Locked<'_, K, T> {
    fn drop(&mut self) {
        // Relaxed: see the module's documentation.
        self.count.store(self.table.len() as u64, Ordering::Relaxed);
    }
}

/// By the whole hash of the key.
type Table<K, T> = ByHash<Same<K, T>>;

/// Flights whose keys have the same hash, which is mostly one.
enum Same<K, T> {
    One(Arc<Flight<K, T>>),
    More(Vec<Arc<Flight<K, T>>>),
}

/// One key being loaded.
pub(crate) struct Flight<K, T> {
    key: K,
    hash: u64,
    /// Changed under the lock of `waiters`.
    state: AtomicU64,
    /// 1 once it is not in the table any more; changed under the lock of its shard.
    overtaken: AtomicU64,
    landing: SetOnce<Landing<T>>,
    waiters: Mutex<WaitList<Role>>,
}

/// Somebody leads.
const LED: u64 = 0;
/// Nobody leads: the next in line takes over, or it leaves the table.
const VACANT: u64 = 1;
/// There is something for all who wait.
const LANDED: u64 = 2;
/// There will be nothing: those who wait begin again.
const DISSOLVED: u64 = 3;

/// An error for all who wait and know its type.
pub(crate) type SharedError = Arc<dyn Any + Send + Sync>;

enum Landing<T> {
    Value(T),
    Error(SharedError),
    Nothing,
}

/// What a waiter comes to be.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Role {
    Waiter,
    Leader,
}

// A flight that lands serves all who wait, one without a leader the first of them.
impl<K, T> Line for Flight<K, T> {
    type Slot = Role;

    fn list(&self) -> &Mutex<WaitList<Role>> {
        &self.waiters
    }

    fn serve_one(&self, slot: &mut Role) -> Turn {
        match self.state() {
            LED => return Turn::NotYet,
            VACANT => {
                self.state.store(LED, Ordering::Relaxed);
                *slot = Role::Leader;
            }
            _ => {}
        }
        Turn::Served
    }

    fn take_back(&self, slot: Role) {
        if slot == Role::Leader {
            self.vacate();
        }
    }
}

impl<K, T> Flight<K, T> {
    fn new(hash: u64, key: K) -> Self {
        Self {
            key,
            hash,
            state: AtomicU64::new(LED),
            overtaken: AtomicU64::new(0),
            landing: SetOnce::default(),
            waiters: Mutex::new(WaitList::bounded(usize::MAX)),
        }
    }

    fn state(&self) -> u64 {
        // Relaxed: it is changed under a lock, and looked at without only as a hint.
        self.state.load(Ordering::Relaxed)
    }

    fn is_overtaken(&self) -> bool {
        self.overtaken.load(Ordering::Relaxed) != 0
    }

    fn mark_overtaken(&self) {
        self.overtaken.store(1, Ordering::Relaxed);
    }

    /// Leaves the flight without a leader; under the lock of `waiters`. If it is overtaken, those who wait begin again:
    /// there may be another flight of the key by now.
    fn vacate(&self) {
        self.state.store(if self.is_overtaken() { DISSOLVED } else { VACANT }, Ordering::Relaxed);
    }

    fn address(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).cast::<()>() as usize
    }
}

impl<K, T> Flights<K, T> {
    /// So many that threads rarely meet in one; a power of two.
    const SHARDS: usize = if cfg!(floodwall_loom) { 1 } else { 64 };

    pub(crate) fn new() -> Self {
        let shard = |_| Shard { table: Mutex::new(Table::default()), count: AtomicU64::new(0) };
        Self { shards: (0..Self::SHARDS).map(shard).collect() }
    }

    /// By bits that neither end of a hash has: those are used by tables.
    fn shard(&self, hash: u64) -> &Shard<K, T> {
        &self.shards[(hash >> 24) as usize & (self.shards.len() - 1)]
    }

    fn lock(&self, hash: u64) -> Locked<'_, K, T> {
        self.shard(hash).lock()
    }

    /// Whether no flight of the keys of `hash` may still land. Only to be asked under a lock that leaders pass through: see
    /// the module's documentation.
    #[inline]
    pub(crate) fn are_none(&self, hash: u64) -> bool {
        self.shard(hash).count.load(Ordering::Relaxed) == 0
    }

    /// Returns how many flights there are that may still land.
    pub(crate) fn len(&self) -> usize {
        let count = |shard: &Shard<K, T>| {
            shard.lock().table.values().map(|same| same.as_slice().len()).sum::<usize>()
        };
        self.shards.iter().map(count).sum()
    }

    /// Changes what the keys of `hash` are worth, by `change`, which runs no code of a user's but `Eq` of keys: it is
    /// done under a lock. Flights of these keys do not land after it.
    pub(crate) fn overtake<R>(&self, hash: u64, change: impl FnOnce() -> R) -> R {
        let overtaken;
        let mut locked = self.lock(hash);
        // Not by key: that one that is overtaken without need is loaded once more does not matter.
        overtaken = locked.table.remove(&hash);
        overtaken.iter().flat_map(Same::as_slice).for_each(|flight| flight.mark_overtaken());
        let changed = change();
        drop(locked);
        drop(overtaken);
        changed
    }

    /// Lets no flight land that runs now. To be called before what all keys are worth is changed.
    pub(crate) fn overtake_all(&self) {
        for shard in &self.shards {
            let mut locked = shard.lock();
            let overtaken = std::mem::take(&mut *locked.table);
            overtaken.values().flat_map(Same::as_slice).for_each(|flight| flight.mark_overtaken());
            drop(locked);
            drop(overtaken);
        }
    }

    /// Returns whether a flight of `key` runs that may still land.
    pub(crate) fn contains<Q: Eq + ?Sized>(&self, hash: u64, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.lock(hash).table.get(&hash).is_some_and(|same| same.find(key).is_some())
    }

    /// Takes the lead of a new flight of `key`, or joins the one that there is.
    pub(crate) fn join<Q>(&self, hash: u64, key: &Q) -> Joined<'_, K, T>
    where
        K: Borrow<Q>,
        Q: Eq + ToOwned<Owned = K> + ?Sized,
    {
        if let Some(flight) = self.find(hash, key) {
            return Joined::Follow(Follow { flights: self, flight });
        }
        // Keys are cloned outside the lock, and only for new flights.
        let flight = Arc::new(Flight::new(hash, key.to_owned()));
        let mut locked = self.lock(hash);
        // Somebody else may have been faster.
        if let Some(faster) = locked.table.get(&hash).and_then(|same| same.find(key)).map(Arc::clone) {
            drop(locked);
            return Joined::Follow(Follow { flights: self, flight: faster });
        }
        match locked.table.entry(hash) {
            std::collections::hash_map::Entry::Occupied(same) => same.into_mut().push(Arc::clone(&flight)),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Same::One(Arc::clone(&flight)));
            }
        }
        Joined::Lead(Lead { flights: self, flight: Some(flight) })
    }

    fn find<Q: Eq + ?Sized>(&self, hash: u64, key: &Q) -> Option<Arc<Flight<K, T>>>
    where
        K: Borrow<Q>,
    {
        self.lock(hash).table.get(&hash)?.find(key).map(Arc::clone)
    }

    /// Takes the flight out of its table, if it is still there. The caller holds it, so that it is not dropped here.
    fn remove(table: &mut Table<K, T>, flight: &Arc<Flight<K, T>>) {
        match table.get_mut(&flight.hash) {
            Some(Same::More(more)) if more.len() > 1 => more.retain(|it| !Arc::ptr_eq(it, flight)),
            Some(same) if Arc::ptr_eq(&same.as_slice()[0], flight) => {
                table.remove(&flight.hash);
                // A burst of flights leaves no room behind that nobody needs.
                if table.is_empty() && table.capacity() > 256 {
                    table.shrink_to(16);
                }
            }
            _ => {}
        }
        flight.mark_overtaken();
    }

    /// Lets a flight go that nobody leads and nobody waits for.
    fn tidy(&self, flight: &Arc<Flight<K, T>>) {
        if flight.state() != VACANT {
            return;
        }
        let mut locked = self.lock(flight.hash);
        let waiters = flight.waiters.lock();
        if flight.state() == VACANT && waiters.is_empty() {
            // Whoever found it in the table and has not joined the line yet begins again.
            flight.state.store(DISSOLVED, Ordering::Relaxed);
            Self::remove(&mut locked.table, flight);
        }
    }
}

impl<K, T> Same<K, T> {
    fn as_slice(&self) -> &[Arc<Flight<K, T>>] {
        match self {
            Same::One(one) => std::slice::from_ref(one),
            Same::More(more) => more,
        }
    }

    fn find<Q: Eq + ?Sized>(&self, key: &Q) -> Option<&Arc<Flight<K, T>>>
    where
        K: Borrow<Q>,
    {
        self.as_slice().iter().find(|flight| flight.key.borrow() == key)
    }

    fn push(&mut self, flight: Arc<Flight<K, T>>) {
        match self {
            Same::One(one) => *self = Same::More(vec![Arc::clone(one), flight]),
            Same::More(more) => more.push(flight),
        }
    }
}

/// What became of a caller that came to a flight.
pub(crate) enum Joined<'a, K, T> {
    Lead(Lead<'a, K, T>),
    Follow(Follow<'a, K, T>),
}

/// The lead of a flight: whoever holds it loads the key. Dropped, it goes to the next who waits.
pub(crate) struct Lead<'a, K, T> {
    flights: &'a Flights<K, T>,
    /// `None` once it has landed.
    flight: Option<Arc<Flight<K, T>>>,
}

impl<K, T> Lead<'_, K, T> {
    /// The address of its flight.
    pub(super) fn address(&self) -> usize {
        self.flight.as_ref().map_or(0, Flight::address)
    }

    /// Ends the flight with a value. Unless it is overtaken, `install` puts the value where all see it, under a lock, so
    /// with no code of a user's but `Eq` of keys; what it returns is returned. `share` gives the value to those who
    /// wait; it is not called if nobody does.
    pub(crate) fn land<R>(mut self, share: impl FnOnce() -> T, install: impl FnOnce() -> R) -> Option<R> {
        self.end(|| Landing::Value(share()), install)
    }

    /// Ends the flight with an error: for all who wait and know its type, or for nobody else, and the next takes over.
    pub(crate) fn fail<E, S: Sharing<E>>(mut self, error: &Error<E>) {
        if let Some(shared) = S::share(error) {
            self.end(|| Landing::Error(shared), || ());
        }
    }

    /// Changes what the key is worth, as `install` does in [`land`](Lead::land), unless the flight is overtaken; and keeps
    /// the lead.
    pub(crate) fn change<R>(&self, change: impl FnOnce() -> R) -> Option<R> {
        let flight = self.flight.as_ref()?;
        let _locked = self.flights.lock(flight.hash);
        (!flight.is_overtaken()).then(change)
    }

    /// Ends the flight with nothing: all who wait begin again.
    pub(crate) fn dissolve(mut self) {
        self.end(|| Landing::Nothing, || ());
    }

    fn end<R>(&mut self, landing: impl FnOnce() -> Landing<T>, install: impl FnOnce() -> R) -> Option<R> {
        let flight = self.flight.as_ref()?;
        let mut locked = self.flights.lock(flight.hash);
        // In one step under the lock: see the module's documentation.
        let installed = (!flight.is_overtaken()).then(install);
        Flights::remove(&mut locked.table, flight);
        drop(locked);
        // Now that nobody finds it in the table any more, this count only falls.
        if Arc::strong_count(flight) > 1 {
            let landing = landing();
            flight.landing.get_or_init(|| landing);
            let waiters = flight.waiters.lock();
            flight.state.store(LANDED, Ordering::Relaxed);
            serve_waiters(&**flight, waiters);
        }
        self.flight = None;
        installed
    }
}

impl<K, T> Drop for Lead<'_, K, T> {
    fn drop(&mut self) {
        let Some(flight) = self.flight.take() else { return };
        let waiters = flight.waiters.lock();
        flight.vacate();
        serve_waiters(&*flight, waiters);
        self.flights.tidy(&flight);
    }
}

/// Somebody who waits for a flight. Dropped, it leaves the line, or passes on the lead that it was served.
pub(crate) struct Follow<'a, K, T> {
    flights: &'a Flights<K, T>,
    flight: Arc<Flight<K, T>>,
}

/// What came of waiting for a flight.
pub(crate) enum Followed<'a, K, T> {
    Value(T),
    Error(SharedError),
    /// Its leader gave up: this one takes over.
    Lead(Lead<'a, K, T>),
    /// It was given up altogether: begin again.
    Nothing,
    TooLate,
    /// It waits for a load that this thread runs code of: to wait for it is to wait for oneself.
    Recursive,
}

impl<'a, K, T: Clone> Follow<'a, K, T> {
    /// Waits until the flight ends, or until `deadline`.
    pub(crate) async fn end(self, clock: &Clock, deadline: u64) -> Followed<'a, K, T> {
        let Some(_waits) = Waits::new(self.flight.address()) else { return Followed::Recursive };
        let waited = Wait::new(&*self.flight, clock, deadline, Role::Waiter).await;
        match waited {
            Waited::Served(Role::Leader) => {
                let flight = Some(Arc::clone(&self.flight));
                Followed::Lead(Lead { flights: self.flights, flight })
            }
            Waited::Served(Role::Waiter) => match self.flight.landing.get() {
                Some(Landing::Value(value)) => Followed::Value(value.clone()),
                Some(Landing::Error(error)) => Followed::Error(Arc::clone(error)),
                Some(Landing::Nothing) | None => Followed::Nothing,
            },
            Waited::TooLate | Waited::Full => Followed::TooLate,
        }
    }
}

impl<K, T> Drop for Follow<'_, K, T> {
    fn drop(&mut self) {
        self.flights.tidy(&self.flight);
    }
}

//! A gate for each key: [`Keyed`].
//!
//! For limits per client, breakers per host, bulkheads per tenant, where new keys come all the time and some of them
//! from an attacker. When **not** to use it: for a handful of keys that are known beforehand, make the gates and keep
//! them; to limit what all keys do together, put a gate for all beside it; for token buckets that all have one rate and
//! nobody waits at, take [`TokenBuckets`](crate::TokenBuckets), which are smaller and faster.
//!
//! Gates that are full, closed and idle are as good as new ones, so forgetting them loses nothing: that is what keeps
//! memory bounded. A gate says through [`Gate::residual`] whether it is one of them.

mod at;
mod room;
mod table;

pub use at::At;

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use self::table::Table;
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{Rejected, saturating_nanos};
use crate::event::{Hook, Observer};
use crate::gate::{Gate, OwnedPermit};
use crate::shards::Shards;
use crate::sync::Mutex;

/// A gate for each key, made when the key is first met, in bounded memory.
///
/// At most [`max_keys`](Keyed::max_keys) keys are known. A key is forgotten when there is no room for another one, or
/// when it was [`idle`](Keyed::idle) for long; but only while its gate has no [`residual`](Gate::residual) and nobody
/// holds it, so that the gate made when the key comes back is in the same state. **No debt is ever forgotten, no open
/// circuit, and no gate with a permit out.** Those that were not used lately go first.
///
/// # Under attack
///
/// When there is no room and all of some fifty keys that are looked at have a residual, a *new* key is rejected with
/// [`Reason::Shed`](crate::Reason::Shed) and the time at which the first of them recovers. Known keys are not affected. So someone who
/// comes with ever new keys
///
/// - gets no more from a key than its gate gives: coming back later, or flooding until the key would be forgotten,
///   brings no new burst;
/// - takes no more memory than `max_keys` keys need;
/// - can keep out keys that are not known yet, but only while he really owes on nearly `max_keys` keys: with gates that
///   recover within a time `t` from one call, by calling with `max_keys` different keys in every `t`. Where one token
///   takes an hour to flow back, that is little: use keys that are hard to come by (an account, a network prefix rather
///   than an address), a larger `max_keys`, or a gate for all new keys before this one.
///
/// # Cost
///
/// For a known key one hash (SipHash with a random secret, so that nobody can aim at one place of the table), one short
/// critical section in one of up to 4,096 shards, a reference count up and down, and what the gate costs. No allocation.
/// A new key costs an allocation for its gate, and when there is no room a look at fifty keys at most; never more, how
/// many there may be. Neither your closure nor a gate, an observer, a clock or the drop of a value runs under a lock;
/// `Eq` of a key does.
///
/// Memory: a key takes `16 + size_of::<G>()` bytes and `4/3 × (24 + size_of::<K>())` bytes of table, and what key and
/// gate allocate themselves: 219 bytes for a `u64` and a [`TokenBucket`](crate::TokenBucket), so 22 MB for 100,000 keys
/// (`tests/keyed_memory.rs`). Tables grow with the keys and do not shrink.
///
/// # Examples
///
/// ```
/// use floodwall::{Clock, Keyed, TokenBucket};
///
/// let clock = Clock::manual();
/// let time = clock.clone();
/// let limits = Keyed::new(move |_tenant: &String| TokenBucket::per_second(2).clock(time.clone())).clock(clock);
/// for _ in 0..2 {
///     limits.try_acquire("alice")?.success();
/// }
/// assert!(limits.try_acquire("alice").is_err());
/// assert!(limits.try_acquire("bob").is_ok());
/// assert_eq!(limits.get("bob")?.available(), 1);
/// # Ok::<(), floodwall::Rejected>(())
/// ```
///
/// In a stack:
///
/// ```
/// use floodwall::{Bulkhead, CircuitBreaker, Keyed, Policy};
///
/// let hosts = Keyed::new(|_host: &String| CircuitBreaker::builder().failures(3).build());
/// let upstream = Bulkhead::new(64);
/// let stack = (hosts.at("db.internal"), &upstream);
/// let answer = floodwall::block_on(stack.call(|| async { Ok::<_, ()>(42) }));
/// assert_eq!(answer, Ok(42));
/// ```
pub struct Keyed<K, G> {
    shards: Shards<Table<K, G>>,
    make: Box<dyn Fn(&K) -> G + Send + Sync>,
    max_keys: usize,
    idle: u64,
    clock: Clock,
    hook: Hook,
}

impl<K: Eq + Hash, G: Gate> Keyed<K, G> {
    const MAX_KEYS: usize = 100_000;
    const IDLE: Duration = Duration::from_secs(600);

    /// Creates a registry that knows no key yet, and makes the gates of new ones with `make`.
    ///
    /// When threads meet a key at the same time, `make` may run in each of them; one gate is kept, and they share it.
    pub fn new(make: impl Fn(&K) -> G + Send + Sync + 'static) -> Self {
        Self {
            shards: Shards::new(Self::MAX_KEYS, Table::new),
            make: Box::new(make),
            max_keys: Self::MAX_KEYS,
            idle: saturating_nanos(Self::IDLE),
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
    }

    /// Knows at most `keys` keys. Default: 100,000.
    ///
    /// Above a thousand they are spread over shards by their hash, each of which has its own part of the room: one may
    /// be full when some 90 % of the keys are known.
    ///
    /// # Panics
    ///
    /// If `keys` is 0 or above 2³².
    #[track_caller]
    #[must_use = "returns the changed registry"]
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self.shards = Shards::new(keys, Table::new);
        self
    }

    /// Forgets a key that was not used for so long. Default: 10 minutes.
    ///
    /// Idle keys are looked for a few at a time while others are used, so some stay for longer;
    /// [`forget_idle`](Keyed::forget_idle) looks for all of them.
    #[must_use = "returns the changed registry"]
    pub const fn idle(mut self, time: Duration) -> Self {
        self.idle = saturating_nanos(time);
        self
    }

    /// Tells the time by `clock`, which should be the one of its gates. Default: the system clock.
    #[must_use = "returns the changed registry"]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Names the registry in its own rejections. Default: no name.
    #[must_use = "returns the changed registry"]
    pub const fn name(mut self, name: &'static str) -> Self {
        self.hook.name = name;
        self
    }

    /// Names the registry and tells the new keys that it rejects to `observer`. Default: nobody.
    ///
    /// What its gates do they tell their own observers.
    #[must_use = "returns the changed registry"]
    pub fn observe(mut self, name: &'static str, observer: impl Observer + 'static) -> Self {
        self.hook.observe(name, observer);
        self
    }

    /// Admits one call at the key's gate, or says why not. Never waits.
    ///
    /// # Errors
    ///
    /// What the gate says; with [`Reason::Shed`](crate::Reason::Shed) if the key is new and there is no room for it.
    pub fn try_acquire<Q>(&self, key: &Q) -> Result<OwnedPermit, Rejected>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
        G: 'static,
    {
        self.try_acquire_for(key, Call::new())
    }

    /// Admits `call` at the key's gate, or says why not. Never waits.
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Keyed::try_acquire).
    pub fn try_acquire_for<Q>(&self, key: &Q, call: Call) -> Result<OwnedPermit, Rejected>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
        G: 'static,
    {
        let gate = self.get(key)?;
        let ticket = gate.try_acquire_for(call)?.into_ticket();
        Ok(OwnedPermit(ticket.map(|ticket| (gate as Arc<dyn Gate>, ticket))))
    }

    /// Returns the key's gate for the calls of a stack, made if the key is new.
    ///
    /// It is a gate itself, so that it can be judged, and waited at if its kind can.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Acquire, Blocking, Keyed, TokenBucket};
    ///
    /// let limits = Keyed::new(|_user: &u64| TokenBucket::per_second(1_000).burst(1));
    /// let patient = limits.at(&7).wait_up_to(Duration::from_secs(1));
    /// for _ in 0..3 {
    ///     assert_eq!(patient.call_blocking(|| Ok::<_, ()>(42)), Ok(42));
    /// }
    /// ```
    pub fn at<Q>(&self, key: &Q) -> At<G>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        At(self.get(key))
    }

    /// Returns the key's gate, made if the key is new: to ask it something, or to wait at it.
    ///
    /// While you hold it, the key is not forgotten.
    ///
    /// ```
    /// use floodwall::{Bulkhead, Keyed, OwnedPermit};
    ///
    /// let tenants = Keyed::new(|_tenant: &u32| Bulkhead::new(1));
    /// let permit = floodwall::block_on(OwnedPermit::acquire(tenants.get(&7)?))?;
    /// assert_eq!(tenants.get(&7)?.running(), 1);
    /// permit.success();
    /// # Ok::<(), floodwall::Rejected>(())
    /// ```
    ///
    /// # Errors
    ///
    /// With [`Reason::Shed`](crate::Reason::Shed) if the key is new and there is no room for it.
    #[inline]
    pub fn get<Q>(&self, key: &Q) -> Result<Arc<G>, Rejected>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let (shard, tag) = self.find(key);
        let found = shard.lock().enter(tag, key);
        match found {
            Some((gate, sweep)) => {
                if sweep {
                    self.sweep(shard);
                }
                Ok(gate)
            }
            None => self.meet(shard, tag, key),
        }
    }

    /// Returns the key's gate if the key is known; does not make one, and does not count as a use.
    pub fn peek<Q>(&self, key: &Q) -> Option<Arc<G>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (shard, tag) = self.find(key);
        shard.lock().peek(tag, key)
    }

    /// Forgets the key, whatever its gate remembers, and returns the gate: its next call meets a new one.
    pub fn remove<Q>(&self, key: &Q) -> Option<Arc<G>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (shard, tag) = self.find(key);
        let removed = shard.lock().remove(tag, key);
        removed.map(|(_, gate)| gate)
    }

    /// Forgets all keys that were idle for long and have no residual.
    ///
    /// A key that was used since the last look at it is looked at again after another [`idle`](Keyed::idle) time.
    ///
    /// # Cost
    ///
    /// A look at every key. There is no need to call it for what it protects: memory is bounded without.
    pub fn forget_idle(&self) {
        for shard in self.shards.iter() {
            // Not in the head of the loop, which would hold the lock.
            let places = shard.lock().places();
            // What a removal moves past the hand is for the next time.
            (0..=places / Self::SWEEP).for_each(|_| self.sweep(shard));
        }
    }

    /// Returns how many keys are known, at the cost of a look at every shard.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Returns whether no key is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the `n` keys that were used most lately, and how often, the heaviest first.
    ///
    /// A use is each `try_acquire`, `at` or `get`, admitted or not. It counts for half after a minute, for a quarter
    /// after two, and so on, more or less: look at who stands out, rather than at the numbers.
    ///
    /// ```
    /// use floodwall::{Keyed, TokenBucket};
    ///
    /// let limits = Keyed::new(|_client: &String| TokenBucket::per_second(5));
    /// for client in ["a", "b", "b", "c", "b"] {
    ///     let _ = limits.try_acquire(client);
    /// }
    /// assert_eq!(limits.heaviest(1), [("b".to_owned(), 3)]);
    /// ```
    ///
    /// # Cost
    ///
    /// A look at every key; the heaviest ones of each shard are cloned under its lock.
    pub fn heaviest(&self, n: usize) -> Vec<(K, u32)>
    where
        K: Clone,
    {
        let now = self.clock.nanos();
        self.shards.heaviest(n, |table| table.counts(now).collect())
    }

    #[inline]
    fn find<Q: Hash + ?Sized>(&self, key: &Q) -> (&Mutex<Table<K, G>>, u32) {
        let (shard, hash) = self.shards.find(key);
        (shard, hash as u32)
    }
}

impl<K, G> fmt::Debug for Keyed<K, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed")
            .field("name", &self.hook)
            .field("max_keys", &self.max_keys)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

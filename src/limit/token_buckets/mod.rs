//! A token bucket for each key, all at one rate: [`TokenBuckets`].
//!
//! For limits per client, address or tenant. When **not** to use it: where calls should wait for their turn, or keys have
//! rates of their own: that is a [`Keyed`](crate::Keyed) of [`TokenBucket`](crate::TokenBucket)s. (Or one of these for
//! each plan.)

mod table;

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use self::table::{Decision, Table, Tag};
use super::change::Carry;
use super::quota::Quota;
use super::rate::Rate;
use crate::call::Call;
use crate::clock::{Clock, NEVER};
use crate::error::{BadSetting, Reason, Rejected};
use crate::event::{Event, Hook, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket, until};
use crate::setters::setters;
use crate::shards::Shards;
use crate::sync::Mutex;

/// Admits so many calls per second of each key, in bounded memory: the limit that a server sets its clients.
///
/// Each key has a bucket with the exact arithmetic of a [`TokenBucket`](crate::TokenBucket), made when the key is first
/// met. As all of them have one rate, what is kept of a key is a word, not a gate: a sixth of the memory of a
/// [`Keyed`](crate::Keyed) of them, and a third of the time.
///
/// At most [`max_keys`](TokenBuckets::max_keys) keys are known. When there is no room for another one, a key whose
/// bucket is full again is forgotten, which loses nothing: **no debt is ever forgotten.** If none of some fifty that are
/// looked at is full, the *new* key is rejected with [`Reason::Shed`] and the time at which the first of them is; known
/// keys are not affected. What that means for someone who comes with ever new keys is said at
/// [`Keyed`](crate::Keyed#under-attack).
///
/// # Cost
///
/// One hash (SipHash with a random secret), one reading of the clock and a short critical section in one of up to 4,096
/// shards. No allocation, but when the table grows, and what a new key allocates itself. Only `Eq` of a key runs under a
/// lock, and its `Clone` for [`heaviest`](TokenBuckets::heaviest).
///
/// Memory: `4/3 × (16 + size_of::<K>())` bytes a key, and what it allocates itself: 32 bytes for a `u64`, so 3.2 MB for
/// 100,000 keys (`tests/keyed_memory.rs`). A shard's table is there twice while it grows; tables do not shrink.
///
/// # Examples
///
/// ```
/// use floodwall::{Clock, TokenBuckets};
///
/// let limits = TokenBuckets::<String>::per_second(5).burst(2).clock(Clock::manual());
/// for _ in 0..2 {
///     limits.try_acquire("10.0.0.1")?;
/// }
/// assert!(limits.try_acquire("10.0.0.1").is_err());
/// assert!(limits.try_acquire("10.0.0.2").is_ok());
/// # Ok::<(), floodwall::Rejected>(())
/// ```
///
/// In a stack:
///
/// ```
/// use floodwall::{Bulkhead, Policy, TokenBuckets};
///
/// let clients = TokenBuckets::<u64>::per_second(100);
/// let upstream = Bulkhead::new(64);
/// let stack = (clients.at(&7), &upstream);
/// assert_eq!(floodwall::block_on(stack.call(|| async { Ok::<_, ()>(42) })), Ok(42));
/// ```
pub struct TokenBuckets<K> {
    shards: Shards<Table<K>>,
    /// As it was set: that of each shard moves with its origin.
    rate: Rate,
    max_keys: usize,
    clock: Clock,
    hook: Hook,
}

impl<K: Eq + Hash> TokenBuckets<K> {
    const MAX_KEYS: usize = 100_000;

    /// Creates a registry that knows no key yet, into whose buckets `tokens` flow per second, and which hold as many.
    ///
    /// # Panics
    ///
    /// If `tokens` is 0 or more than 10¹².
    #[track_caller]
    pub fn per_second(tokens: u64) -> Self {
        Self::per(tokens, Duration::from_secs(1))
    }

    /// Creates a registry that knows no key yet, into whose buckets `tokens` flow per `period`, and which hold as many.
    ///
    /// # Panics
    ///
    /// If `tokens` is 0, or more than 1,000 per nanosecond of `period`; if `period` is zero or over 292 years.
    #[track_caller]
    pub fn per(tokens: u64, period: Duration) -> Self {
        let rate = Rate::expect(tokens, period, None);
        Self {
            shards: Self::shards(Self::MAX_KEYS, rate),
            rate,
            max_keys: Self::MAX_KEYS,
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
    }

    /// Lets each bucket hold `tokens`, so that as many calls may start at once. Default: the tokens of one period.
    ///
    /// # Panics
    ///
    /// If `tokens` is 0 or more than 2⁵⁸.
    #[track_caller]
    #[must_use = "returns the changed registry"]
    pub fn burst(mut self, tokens: u64) -> Self {
        self.rate = self.rate.with_burst(tokens);
        self.shards = Self::shards(self.max_keys, self.rate);
        self
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
        self.shards = Self::shards(keys, self.rate);
        self
    }

    setters!("registry");

    #[track_caller]
    fn shards(max_keys: usize, rate: Rate) -> Shards<Table<K>> {
        Shards::new(max_keys, |room| Table::new(room, rate))
    }

    /// Takes a token of the key's bucket, or says why not. Never waits.
    ///
    /// # Errors
    ///
    /// If there is none, with the time after which there is; with [`Reason::Shed`] if the key is new and there is no room
    /// for it.
    #[inline]
    pub fn try_acquire<Q>(&self, key: &Q) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        self.try_acquire_for(key, Call::new())
    }

    /// Takes [`call.cost`](Call::cost) tokens of the key's bucket, or says why not. Never waits.
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](TokenBuckets::try_acquire), and if the call's deadline has passed.
    #[inline]
    pub fn try_acquire_for<Q>(&self, key: &Q, call: Call) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let (shard, tag) = self.find(key);
        let now = self.clock.nanos();
        if now >= call.deadline && call.deadline != NEVER {
            return self.hook.admission(Err(Rejected::new(self.hook.name, Reason::DeadlineExceeded)));
        }
        let known = shard.lock().take(tag, key, now, call.cost);
        match known {
            Some(Decision::Taken) => {
                self.hook.emit(Event::Admitted);
                Ok(())
            }
            Some(refusal) => self.hook.admission(self.verdict(refusal)),
            None => {
                let key = key.to_owned();
                // The key that goes is the user's: not dropped under the lock.
                let (decision, _forgotten) = shard.lock().meet(tag, key, now, call.cost);
                self.hook.admission(self.verdict(decision))
            }
        }
    }

    /// Takes tokens that were used without asking, also if they are not there: the key is rejected until the debt is paid.
    ///
    /// # Errors
    ///
    /// With [`Reason::Shed`] if the key is new and there is no room for it. A key that was admitted and is still in debt
    /// is never new.
    pub fn charge<Q>(&self, key: &Q, tokens: u32) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let (shard, tag) = self.find(key);
        let now = self.clock.nanos();
        if shard.lock().charge_known(tag, key, now, tokens) {
            return Ok(());
        }
        let key = key.to_owned();
        let (decision, _forgotten) = shard.lock().charge(tag, key, now, tokens);
        self.verdict(decision)
    }

    /// Gives back tokens that were taken and not used. A bucket holds no more than its burst.
    ///
    /// With [`charge`](TokenBuckets::charge), for costs that are known only afterwards:
    ///
    /// ```
    /// use floodwall::{Call, Clock, TokenBuckets};
    ///
    /// let tokens = TokenBuckets::<u64>::per_second(1_000).clock(Clock::manual());
    /// tokens.try_acquire_for(&7, Call::new().cost(600))?;
    /// tokens.refund(&7, 600 - 250);
    /// assert_eq!(tokens.available(&7), 750);
    /// # Ok::<(), floodwall::Rejected>(())
    /// ```
    pub fn refund<Q>(&self, key: &Q, tokens: u32)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (shard, tag) = self.find(key);
        shard.lock().refund(tag, key, tokens);
    }

    /// Returns the key's bucket as a gate, for the calls of a stack.
    pub fn at<'a, Q: ?Sized>(&'a self, key: &'a Q) -> BucketAt<'a, K, Q> {
        BucketAt { buckets: self, key }
    }

    /// Returns how many tokens a call of the key's could take now.
    pub fn available<Q>(&self, key: &Q) -> u64
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.quota(key).remaining
    }

    /// Returns what is left in the key's bucket, and when there will be more: for the headers of an answer.
    pub fn quota<Q>(&self, key: &Q) -> Quota
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (shard, tag) = self.find(key);
        let now = self.clock.nanos();
        let table = shard.lock();
        let (rate, full_at) = (table.rate, table.full_at(tag, key));
        drop(table);
        Quota::of(self.hook.name, &rate, full_at, now)
    }

    /// Changes the rate of all keys to `tokens` per `period` in bursts of `burst`, and carries over what each has taken as
    /// `carry` says.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Carry, Clock, TokenBuckets};
    ///
    /// let limits = TokenBuckets::<u64>::per_second(100).clock(Clock::manual());
    /// for _ in 0..40 {
    ///     limits.try_acquire(&7)?;
    /// }
    /// limits.set_rate(1_000, Duration::from_secs(1), 1_000, Carry::Scaled)?;
    /// assert_eq!((limits.available(&7), limits.available(&8)), (600, 1_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If a setting makes no sense: the one at which the constructor would panic. Nothing is changed then.
    ///
    /// # Cost
    ///
    /// A change of every key's word; one shard after the other, so that for a moment some have the old rate.
    pub fn set_rate(
        &self,
        tokens: u64,
        period: Duration,
        burst: u64,
        carry: Carry,
    ) -> Result<(), BadSetting> {
        let rate = Rate::new(tokens, period, burst)?;
        let now = self.clock.nanos();
        self.shards.iter().for_each(|shard| shard.lock().change(rate, carry, now));
        Ok(())
    }

    /// Forgets the key, whatever it owes; returns whether it was known.
    pub fn remove<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (shard, tag) = self.find(key);
        // Dropped after the lock.
        let removed = shard.lock().remove(tag, key);
        removed.is_some()
    }

    /// Forgets all keys whose bucket is full, at the cost of a look at every key. There is no need to call it: memory is
    /// bounded without, and does not shrink with it; what keys allocate themselves is freed.
    pub fn forget_idle(&self) {
        let now = self.clock.nanos();
        for shard in self.shards.iter() {
            // Dropped after the lock.
            let removed = shard.lock().remove_full(now);
            drop(removed);
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

    /// Returns the `n` keys whose buckets miss the most tokens now, and how many, the heaviest first.
    ///
    /// ```
    /// use floodwall::{Clock, TokenBuckets};
    ///
    /// let limits = TokenBuckets::per_second(5).clock(Clock::manual());
    /// for client in ["a", "b", "b", "c", "b"] {
    ///     limits.try_acquire(client)?;
    /// }
    /// assert_eq!(limits.heaviest(1), [("b".to_owned(), 3)]);
    /// # Ok::<(), floodwall::Rejected>(())
    /// ```
    ///
    /// # Cost
    ///
    /// A look at every key; the heaviest ones of each shard are cloned under its lock.
    pub fn heaviest(&self, n: usize) -> Vec<(K, u64)>
    where
        K: Clone,
    {
        let now = self.clock.nanos();
        self.shards.heaviest(n, |table| table.missing(now).filter(|(_, missing)| *missing > 0).collect())
    }

    #[inline]
    fn find<Q: Hash + ?Sized>(&self, key: &Q) -> (&Mutex<Table<K>>, Tag) {
        let (shard, hash) = self.shards.find(key);
        (shard, Tag::new(hash))
    }

    fn verdict(&self, decision: Decision) -> Result<(), Rejected> {
        let (reason, wait) = match decision {
            Decision::Taken => return Ok(()),
            Decision::Wait(wait) => (Reason::RateLimited, Some(wait)),
            Decision::Never => (Reason::RateLimited, None),
            Decision::NoRoom(wait) => (Reason::Shed, Some(wait)),
        };
        let rejected = Rejected::new(self.hook.name, reason);
        Err(wait.map_or(rejected, |wait| rejected.after(Duration::from_nanos(wait))))
    }
}

impl<K> fmt::Debug for TokenBuckets<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenBuckets")
            .field("name", &self.hook)
            .field("max_keys", &self.max_keys)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

/// The bucket of one key, for the calls of a stack; made by [`TokenBuckets::at`].
pub struct BucketAt<'a, K, Q: ?Sized> {
    buckets: &'a TokenBuckets<K>,
    key: &'a Q,
}

impl<K, Q> Gate for BucketAt<'_, K, Q>
where
    K: Borrow<Q> + Eq + Hash + Send,
    Q: Eq + Hash + ToOwned<Owned = K> + Sync + ?Sized,
{
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        self.buckets.try_acquire_for(self.key, call)?;
        Ok(Permit::new(self, Ticket::new(call.cost.into(), call)))
    }

    fn release(&self, _ticket: Ticket, outcome: Outcome) {
        self.buckets.hook.emit(Event::Finished(outcome));
    }

    fn settle(&self, ticket: &mut Ticket, actual: u32) {
        // The word is the cost that the call was admitted with.
        let estimate = ticket.word() as u32;
        ticket.set_word(actual.into());
        match actual.checked_sub(estimate) {
            // There is room, unless the key has paid all it took meanwhile and was forgotten for another one in debt.
            Some(more) => drop(self.buckets.charge(self.key, more)),
            None => self.buckets.refund(self.key, estimate - actual),
        }
    }

    fn residual(&self) -> Option<Residual> {
        let (shard, tag) = self.buckets.find(self.key);
        let now = self.buckets.clock.nanos();
        let table = shard.lock();
        let (rate, full_at) = (table.rate, table.full_at(tag, self.key));
        drop(table);
        (full_at > rate.flowed(now).units).then(|| until(rate.time_of(full_at, now)))
    }
}

impl<K, Q: ?Sized> Clone for BucketAt<'_, K, Q> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, Q: ?Sized> Copy for BucketAt<'_, K, Q> {}

impl<K, Q: fmt::Debug + ?Sized> fmt::Debug for BucketAt<'_, K, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketAt").field("key", &self.key).field("buckets", &self.buckets).finish()
    }
}

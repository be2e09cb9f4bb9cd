//! One run of a function per key at a time, and its result for all who ask meanwhile: [`SingleFlight`].
//!
//! For expensive work that many ask for at the same moment: a query, a token, a file to fetch. When **not** to use it:
//! to keep results, which a [`Cache`](crate::Cache) does, with the same guarantees for its loads; for work with effects
//! that each caller needs for itself.

mod at;
mod part;
mod running;
mod table;

pub use at::FlightAt;
pub(crate) use part::{Leads, Led, Part, Until};
pub use part::{OwnErrors, SharedErrors, Sharing};
pub(crate) use table::{Flights, Follow, Followed, Joined, Lead};

use std::borrow::Borrow;
use std::fmt;
use std::future::ready;
use std::hash::{BuildHasher, Hash, RandomState};

use crate::clock::{Clock, NEVER};
use crate::error::Error;
use crate::event::Hook;
use crate::park::block_on;
use crate::setters::setters;

/// Runs at most one function per key at a time; all who ask for the key meanwhile get a clone of its result.
///
/// Threads and tasks meet at the same keys: some may call [`run`](SingleFlight::run) and others
/// [`run_blocking`](SingleFlight::run_blocking). Nothing is kept: who comes after a run has ended starts the next one.
///
/// # When a run does not end well
///
/// | what happens | its caller gets | who waits for it |
/// |---|---|---|
/// | it gives an error | the error | the first takes over with its own function; or all [share](FlightAt::share_errors) the error |
/// | it panics | the panic | the first takes over |
/// | its future is dropped | | the first takes over, after the dropped one is gone |
/// | it asks for its own key | [`Recursive`](crate::Reason::Recursive) inside it | |
/// | the key is [forgotten](SingleFlight::forget) | its result | its result; who comes later starts a new run |
///
/// # What recursion is found
///
/// A run that waits for itself is told so, instead of waiting for ever: by what its thread is running code of, and by
/// which runs wait for which. So it is found through other keys and other `SingleFlight`s and caches, and when two
/// threads or tasks wait for each other's keys. It is not found through what the crate does not see: a run that waits
/// for a channel, a lock, or a task that it spawned, which in turn asks for the key. Give calls a deadline where that
/// may happen. A future that leads and is never polled again nor dropped stops those who wait as well.
///
/// # Cost
///
/// A run that nobody joins allocates once, clones the key and locks three times; who joins clones the result. There is
/// memory only for runs in progress. No code of yours runs under a lock but `Eq` of keys.
///
/// # Examples
///
/// ```
/// use floodwall::SingleFlight;
///
/// let flights = SingleFlight::new();
/// # floodwall::block_on(async {
/// let user: String = flights.run(&7, || async { Ok::<_, std::io::Error>("ann".to_string()) }).await?;
/// assert_eq!(user, "ann");
/// # Ok::<_, floodwall::Error<std::io::Error>>(())
/// # }).unwrap();
/// let user = flights.run_blocking(&7, || Ok::<_, std::io::Error>("bob".to_string()))?;
/// assert_eq!(user, "bob");
/// # Ok::<_, floodwall::Error<std::io::Error>>(())
/// ```
///
/// With a deadline, and in a stack: see [`at`](SingleFlight::at).
pub struct SingleFlight<K, T> {
    flights: Flights<K, T>,
    hasher: RandomState,
    clock: Clock,
    hook: Hook,
}

impl<K, T> SingleFlight<K, T> {
    /// Creates one without runs.
    pub fn new() -> Self {
        Self {
            flights: Flights::new(),
            hasher: RandomState::new(),
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
    }

    setters!("flights");

    /// Returns how many keys are being run. Those that were forgotten do not count.
    pub fn running(&self) -> usize {
        self.flights.len()
    }

    /// Lets no later caller join the runs in progress, of any key: they answer those who wait already.
    pub fn forget_all(&self) {
        self.flights.overtake_all();
    }
}

impl<K: Hash + Eq, T: Clone> SingleFlight<K, T> {
    /// Runs `op`, or waits for the run of `key` in progress and returns a clone of what it gives.
    ///
    /// The key is cloned if there is no run in progress.
    ///
    /// # Errors
    ///
    /// The error of `op`; with [`Recursive`](crate::Reason::Recursive) if it is called in a run of the same key.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the run; the first of those who wait for it takes over.
    pub async fn run<Q, F, Fut, E>(&self, key: &Q, op: F) -> Result<T, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let op = || async { op().await.map_err(Error::Inner) };
        self.fly::<Q, _, _, E, OwnErrors>(key, NEVER, op).await
    }

    /// Runs `op` on this thread, or blocks it until the run of `key` in progress ends and returns a clone of what that
    /// gives.
    ///
    /// # Errors
    ///
    /// As [`run`](SingleFlight::run).
    pub fn run_blocking<Q, F, E>(&self, key: &Q, op: F) -> Result<T, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnOnce() -> Result<T, E>,
    {
        self.fly_blocking::<Q, _, E, OwnErrors>(key, NEVER, || op().map_err(Error::Inner))
    }

    /// Returns the key as a policy: for deadlines, for errors that are shared, and for stacks.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Blocking, Bulkhead, Call, Policy, SingleFlight};
    ///
    /// let flights = SingleFlight::new();
    /// let upstream = Bulkhead::new(8);
    /// # floodwall::block_on(async {
    /// let one = (flights.at("one"), &upstream).call(|| async { Ok::<_, String>(1) }).await;
    /// assert_eq!(one, Ok(1));
    /// # });
    /// let call = Call::new().within(Duration::from_secs(1));
    /// let two = flights.at("two").share_errors().call_blocking_with(call, |_| Err("disk full".to_string()));
    /// assert_eq!(two, Err(floodwall::Error::Inner("disk full".to_string())));
    /// # let _: Result<i32, _> = two;
    /// ```
    pub fn at<'a, Q: ?Sized>(&'a self, key: &'a Q) -> FlightAt<'a, K, Q, T>
    where
        K: Borrow<Q>,
    {
        FlightAt::new(self, key)
    }

    /// Lets no later caller join the run of `key` in progress: it answers those who wait already.
    ///
    /// For when what it will give is known to be old. The next caller starts a new run, beside the one in progress.
    pub fn forget<Q>(&self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.flights.overtake(self.hasher.hash_one(key), || ());
    }

    /// Returns whether a run of `key` is in progress that a caller would join.
    pub fn is_running<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.flights.contains(self.hasher.hash_one(key), key)
    }

    fn until(&self, deadline: u64) -> Until<'_> {
        Until { clock: &self.clock, hook: &self.hook, deadline }
    }

    async fn fly<Q, F, Fut, E, S: Sharing<E>>(&self, key: &Q, deadline: u64, op: F) -> Result<T, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, Error<E>>>,
    {
        let hash = self.hasher.hash_one(key);
        match self.flights.take_part::<Q, E, S>(hash, key, self.until(deadline)).await? {
            Part::Value(value) => Ok(value),
            Part::Lead(lead) => {
                let (result, lead) = Led::new(lead, op).await;
                land::<_, _, _, S>(lead, result)
            }
        }
    }

    fn fly_blocking<Q, F, E, S: Sharing<E>>(&self, key: &Q, deadline: u64, op: F) -> Result<T, Error<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnOnce() -> Result<T, Error<E>>,
    {
        block_on(self.fly::<Q, _, _, E, S>(key, deadline, || ready(op())))
    }
}

/// Ends a flight with the result of its run.
fn land<K, T: Clone, E, S: Sharing<E>>(
    lead: Lead<'_, K, T>,
    result: Result<T, Error<E>>,
) -> Result<T, Error<E>> {
    match &result {
        Ok(value) => {
            lead.land(|| value.clone(), || ());
        }
        Err(error) => lead.fail::<E, S>(error),
    }
    result
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, T> fmt::Debug for SingleFlight<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight")
            .field("name", &self.hook)
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

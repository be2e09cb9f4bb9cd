//! The key of a [`SingleFlight`] as a policy: [`FlightAt`].

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;

use super::{OwnErrors, SharedErrors, Sharing, SingleFlight};
use crate::call::Call;
use crate::error::Error;

/// One key of a [`SingleFlight`], for the calls of a stack; made by [`SingleFlight::at`].
///
/// A call runs what is further in, or waits for the run in progress: at most until its deadline, and is then
/// [`TimedOut`](crate::Error::TimedOut). Its own run is not interrupted by it; a [`Timeout`](crate::Timeout) does that.
#[must_use = "call through it"]
pub struct FlightAt<'a, K, Q: ?Sized, T, S = OwnErrors> {
    flights: &'a SingleFlight<K, T>,
    key: &'a Q,
    errors: PhantomData<S>,
}

impl<'a, K, Q: ?Sized, T> FlightAt<'a, K, Q, T> {
    pub(super) const fn new(flights: &'a SingleFlight<K, T>, key: &'a Q) -> Self {
        Self { flights, key, errors: PhantomData }
    }

    /// Gives the error of a run that fails to all who wait for it and take the same type of error. Default: to its own
    /// caller, and the next who waits runs.
    ///
    /// For when the dependency is down: one by one, those who wait would each find that out.
    pub const fn share_errors(self) -> FlightAt<'a, K, Q, T, SharedErrors> {
        FlightAt { flights: self.flights, key: self.key, errors: PhantomData }
    }
}

impl<K, Q, T, S> FlightAt<'_, K, Q, T, S>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    T: Clone,
{
    pub(crate) async fn fly<E, F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        S: Sharing<E>,
        F: FnOnce(Call) -> Fut,
        Fut: Future<Output = Result<T, Error<E>>>,
    {
        self.flights.fly::<Q, _, _, E, S>(self.key, call.deadline, || next(call)).await
    }

    pub(crate) fn fly_blocking<E, F>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        S: Sharing<E>,
        F: FnOnce(Call) -> Result<T, Error<E>>,
    {
        self.flights.fly_blocking::<Q, _, E, S>(self.key, call.deadline, || next(call))
    }
}

impl<K, Q: ?Sized, T, S> Clone for FlightAt<'_, K, Q, T, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, Q: ?Sized, T, S> Copy for FlightAt<'_, K, Q, T, S> {}

impl<K, Q: fmt::Debug + ?Sized, T, S> fmt::Debug for FlightAt<'_, K, Q, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlightAt").field("flights", self.flights).field("key", &self.key).finish()
    }
}

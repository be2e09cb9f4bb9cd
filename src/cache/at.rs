//! The key of a cache as a policy: [`CacheAt`].

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;

use super::Cache;
use crate::call::Call;
use crate::error::Error;
use crate::flight::{OwnErrors, SharedErrors, Sharing};

/// One key of a [`Cache`], for the calls of a stack; made by [`Cache::at`].
///
/// A hit answers without what is further in. A miss is loaded by it, one at a time: those who come meanwhile wait for
/// the load, at most until the deadline of their call, and are then [`TimedOut`](crate::Error::TimedOut). Their own load is not
/// interrupted by it; a [`Timeout`](crate::Timeout) does that.
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Blocking, Cache, Call, Error};
///
/// let users = Cache::new(10_000);
/// let call = Call::new().within(Duration::from_secs(1));
/// let user = users.at(&7).share_errors().call_blocking_with(call, |_| Err::<&str, _>("down"));
/// assert_eq!(user, Err(Error::Inner("down")));
/// assert_eq!(users.at(&7).call_blocking(|| Ok::<_, ()>("ann")), Ok("ann"));
/// ```
#[must_use = "call through it"]
pub struct CacheAt<'a, K, V, Q: ?Sized, S = OwnErrors> {
    cache: &'a Cache<K, V>,
    key: &'a Q,
    errors: PhantomData<S>,
}

impl<'a, K, V, Q: ?Sized> CacheAt<'a, K, V, Q> {
    pub(super) const fn new(cache: &'a Cache<K, V>, key: &'a Q) -> Self {
        Self { cache, key, errors: PhantomData }
    }

    /// Gives the error of a load that fails to all who wait for it and take the same type of error. Default: to its own
    /// caller, and the next who waits loads.
    ///
    /// For when the dependency is down: one by one, those who wait would each find that out.
    pub const fn share_errors(self) -> CacheAt<'a, K, V, Q, SharedErrors> {
        CacheAt { cache: self.cache, key: self.key, errors: PhantomData }
    }
}

impl<K, V, Q, S> CacheAt<'_, K, V, Q, S>
where
    K: Hash + Eq + Borrow<Q>,
    V: Clone,
    Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
{
    pub(crate) async fn fly<E, F, Fut>(&self, call: Call, next: F) -> Result<V, Error<E>>
    where
        S: Sharing<E>,
        F: FnOnce(Call) -> Fut,
        Fut: Future<Output = Result<V, Error<E>>>,
    {
        self.cache.fly::<Q, _, _, E, S>(self.key, call.deadline, || next(call)).await
    }

    pub(crate) fn fly_blocking<E, F>(&self, call: Call, next: F) -> Result<V, Error<E>>
    where
        S: Sharing<E>,
        F: FnOnce(Call) -> Result<V, Error<E>>,
    {
        self.cache.fly_blocking::<Q, _, E, S>(self.key, call.deadline, || next(call))
    }
}

impl<K, V, Q: ?Sized, S> Clone for CacheAt<'_, K, V, Q, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V, Q: ?Sized, S> Copy for CacheAt<'_, K, V, Q, S> {}

impl<K: Eq, V, Q: fmt::Debug + ?Sized, S> fmt::Debug for CacheAt<'_, K, V, Q, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheAt").field("cache", self.cache).field("key", &self.key).finish()
    }
}

//! What one of many callers of a key does for all, in a stack: [`FlightAt`].

use std::borrow::Borrow;
use std::hash::Hash;

use super::{Blocking, Once, Policy};
use crate::call::Call;
use crate::error::Error;
use crate::flight::{FlightAt, Sharing};

impl<K, Q, T, S, E> Policy<T, E> for FlightAt<'_, K, Q, T, S>
where
    K: Hash + Eq + Borrow<Q> + Send + Sync,
    Q: Hash + Eq + ToOwned<Owned = K> + Sync + ?Sized,
    T: Clone + Send + Sync,
    S: Sharing<E>,
    E: Send,
{
    async fn around<F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        self.fly(call, next).await
    }
}

impl<K, Q: ?Sized, T, S> Once for FlightAt<'_, K, Q, T, S> {}

impl<K, Q, T, S, E> Blocking<T, E> for FlightAt<'_, K, Q, T, S>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    T: Clone,
    S: Sharing<E>,
{
    fn around_blocking<F>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: FnMut(Call) -> Result<T, Error<E>>,
    {
        self.fly_blocking(call, next)
    }
}

//! The key of a cache or of a single flight in a stack: [`CacheAt`], [`FlightAt`].

use std::borrow::Borrow;
use std::hash::Hash;

use super::{Blocking, Once, Policy};
use crate::cache::CacheAt;
use crate::call::Call;
use crate::error::Error;
use crate::flight::{FlightAt, Sharing};

/// Both fly: what is further in runs for one of many callers, and not at all if its result is there.
macro_rules! flies {
    ($at:ident<$($parameter:ident),+>) => {
        impl<K, Q, T, S, E> Policy<T, E> for $at<'_, $($parameter),+, S>
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

        impl<K, Q: ?Sized, T, S> Once for $at<'_, $($parameter),+, S> {}

        impl<K, Q, T, S, E> Blocking<T, E> for $at<'_, $($parameter),+, S>
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
    };
}
flies!(FlightAt<K, Q, T>);
flies!(CacheAt<K, T, Q>);

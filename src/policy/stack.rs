//! Tuples are stacks, outermost first; `()` and `None` do nothing.

use super::{Blocking, Errors, Once, Policy};
use crate::call::Call;
use crate::error::Error;

impl<T: Send, E: Send> Policy<T, E> for () {
    const ERRORS: Errors = Errors::PASSES;

    fn around<F, Fut>(&self, call: Call, next: F) -> impl Future<Output = Result<T, Error<E>>> + Send
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        next(call)
    }
}

impl Once for () {}

impl<T, E> Blocking<T, E> for () {
    const ERRORS: Errors = Errors::PASSES;

    fn around_blocking<F>(&self, call: Call, mut next: F) -> Result<T, Error<E>>
    where
        F: FnMut(Call) -> Result<T, Error<E>>,
    {
        next(call)
    }
}

impl<T: Send, E: Send, P: Policy<T, E>> Policy<T, E> for Option<P> {
    async fn around<F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        match self {
            Some(policy) => policy.around(call, next).await,
            None => next(call).await,
        }
    }
}

impl<P: Once> Once for Option<P> {}

impl<T, E, P: Blocking<T, E>> Blocking<T, E> for Option<P> {
    fn around_blocking<F>(&self, call: Call, mut next: F) -> Result<T, Error<E>>
    where
        F: FnMut(Call) -> Result<T, Error<E>>,
    {
        match self {
            Some(policy) => policy.around_blocking(call, next),
            None => next(call),
        }
    }
}

/// `nested!(next; call; a b c)` is `a.around(call, |call| b.around(call, |call| c.around(call, next)))`.
macro_rules! nested {
    ($around:ident, $next:expr, $call:expr, $last:ident) => {
        $last.$around($call, $next)
    };
    ($around:ident, $next:expr, $call:expr, $first:ident $($rest:ident)+) => {
        $first.$around($call, |call| nested!($around, $next, call, $($rest)+))
    };
}

/// `errors!(Policy; A B C)` is how a stack of the three deals with errors.
macro_rules! errors {
    ($trait:ident; $last:ident) => {
        <$last as $trait<T, E>>::ERRORS
    };
    ($trait:ident; $first:ident $($rest:ident)+) => {
        <$first as $trait<T, E>>::ERRORS.around(errors!($trait; $($rest)+))
    };
}

macro_rules! stack {
    ($($policy:ident)+) => {
        impl<T: Send, E: Send, $($policy: Policy<T, E>),+> Policy<T, E> for ($($policy,)+) {
            const ERRORS: Errors = errors!(Policy; $($policy)+);

            #[expect(non_snake_case, reason = "a policy is called as its type parameter")]
            async fn around<F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
            where
                F: Fn(Call) -> Fut + Send + Sync,
                Fut: Future<Output = Result<T, Error<E>>> + Send,
            {
                // An order that cannot work fails to compile here.
                const { <Self as Policy<T, E>>::ERRORS };
                let ($($policy,)+) = self;
                let next = &next;
                nested!(around, next, call, $($policy)+).await
            }
        }

        impl<$($policy: Once),+> Once for ($($policy,)+) {}

        impl<T, E, $($policy: Blocking<T, E>),+> Blocking<T, E> for ($($policy,)+) {
            const ERRORS: Errors = errors!(Blocking; $($policy)+);

            #[expect(non_snake_case, reason = "a policy is called as its type parameter")]
            fn around_blocking<F>(&self, call: Call, mut next: F) -> Result<T, Error<E>>
            where
                F: FnMut(Call) -> Result<T, Error<E>>,
            {
                const { <Self as Blocking<T, E>>::ERRORS };
                let ($($policy,)+) = self;
                nested!(around_blocking, &mut next, call, $($policy)+)
            }
        }
    };
}
stack!(A);
stack!(A B);
stack!(A B C);
stack!(A B C D);
stack!(A B C D G);
stack!(A B C D G H);
stack!(A B C D G H I);
stack!(A B C D G H I J);

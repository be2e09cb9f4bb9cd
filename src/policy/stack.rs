//! Tuples are stacks, outermost first; `()` and `None` do nothing.

use std::pin::pin;

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

/// As `nested!`, for futures. Each layer holds one pointer to a `Whole`: those to the policies and to what they call
/// would be copied from layer to layer, in wider words than they were written in, for which a processor has to wait.
macro_rules! around {
    ($whole:ident; $call:ident; $last:tt) => {
        $whole.stack().$last.around($call, $whole.next())
    };
    ($whole:ident; $call:ident; $first:tt $($rest:tt)+) => {
        $whole.stack().$first.around($call, |call| around!($whole; call; $($rest)+))
    };
}

/// A stack, and what it calls.
struct Whole<'a, P, F>(&'a P, F);

impl<P, F> Whole<'_, P, F> {
    // Methods, since closures capture the fields that they use each by itself.
    fn stack(&self) -> &P {
        self.0
    }

    fn next(&self) -> &F {
        &self.1
    }
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
    ($($policy:ident $at:tt)+) => {
        impl<T: Send, E: Send, $($policy: Policy<T, E>),+> Policy<T, E> for ($($policy,)+) {
            const ERRORS: Errors = errors!(Policy; $($policy)+);

            fn around<F, Fut>(&self, call: Call, next: F) -> impl Future<Output = Result<T, Error<E>>> + Send
            where
                F: Fn(Call) -> Fut + Send + Sync,
                Fut: Future<Output = Result<T, Error<E>>> + Send,
            {
                // An order that cannot work fails to compile here.
                const { <Self as Policy<T, E>>::ERRORS };
                let whole = Whole(self, next);
                async move {
                    let whole = &whole;
                    match pin!(around!(whole; call; $($at)+)).await {
                        Ok(value) => Ok(value),
                        Err(error) => Err(error),
                    }
                }
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
stack!(A 0);
stack!(A 0 B 1);
stack!(A 0 B 1 C 2);
stack!(A 0 B 1 C 2 D 3);
stack!(A 0 B 1 C 2 D 3 G 4);
stack!(A 0 B 1 C 2 D 3 G 4 H 5);
stack!(A 0 B 1 C 2 D 3 G 4 H 5 I 6);
stack!(A 0 B 1 C 2 D 3 G 4 H 5 I 6 J 7);

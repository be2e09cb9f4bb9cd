//! Answer something else when a call fails: [`Fallback`].
//!
//! For a default, a cached or a partial answer that is better than an error. When **not** to use it: to hide errors
//! that someone should see.

use std::fmt;

use super::{Blocking, Errors, Once, Policy};
use crate::call::Call;
use crate::error::Error;
use crate::event::{Event, Hook, Observer, Outcome};
use crate::judge::{Hears, Judge, When};

/// Replaces the result of a call that ended badly.
///
/// By default it replaces every error, rejections included; [`when`](Fallback::when) and [`judge`](Fallback::judge)
/// choose.
///
/// # Cost
///
/// One branch around a call that succeeds.
///
/// # Examples
///
/// ```
/// use floodwall::{Bulkhead, Error, Fallback, Gate, Policy};
///
/// # floodwall::block_on(async {
/// let bulkhead = Bulkhead::new(1);
/// let _full = bulkhead.try_acquire().unwrap();
/// let price = (Fallback::with(100), &bulkhead).call(|| async { Ok::<_, ()>(42) }).await;
/// assert_eq!(price, Ok(100));
///
/// let stack = Fallback::from_fn(|result: Result<Option<u8>, Error<u16>>| match result {
///     Err(Error::Inner(404)) => Ok(None),
///     result => result,
/// });
/// assert_eq!(stack.call(|| async { Err::<Option<u8>, _>(404) }).await, Ok(None));
/// # });
/// ```
///
/// It belongs outside what acts on errors. A retry or a breaker around a fallback that answers every error never hears
/// one, and does not compile:
///
/// ```compile_fail,E0080
/// use floodwall::{Blocking, CircuitBreaker, Fallback};
///
/// let stack = (CircuitBreaker::builder().build(), Fallback::with(100));
/// let _ = stack.call_blocking(|| Err::<u8, _>("never counted"));
/// ```
#[derive(Clone)]
#[must_use = "call through it"]
pub struct Fallback<R, J = Always> {
    replace: R,
    judge: J,
    hook: Hook,
}

/// The judge of a fallback that was given none: every error is a failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Always;

impl<T, E> Judge<T, E> for Always {
    const HEARS: Hears = Hears::EveryError;

    fn judge(&self, result: &Result<T, Error<E>>) -> Outcome {
        if result.is_ok() { Outcome::Success } else { Outcome::Failure }
    }
}

/// What a [`Fallback`] answers: [`Instead`], or a closure `Fn(Result<T, Error<E>>) -> Result<T, Error<E>>`.
pub trait Replace<T, E>: Send + Sync {
    /// Replaces a result that the fallback's judge called a failure.
    fn replace(&self, result: Result<T, Error<E>>) -> Result<T, Error<E>>;

    /// Whether it always gives a value, as far as its type tells. Leave it as it is.
    #[doc(hidden)]
    const IS_VALUE: bool = false;
}

impl<T, E, F> Replace<T, E> for F
where
    F: Fn(Result<T, Error<E>>) -> Result<T, Error<E>> + Send + Sync,
{
    fn replace(&self, result: Result<T, Error<E>>) -> Result<T, Error<E>> {
        self(result)
    }
}

/// A clone of one value, whatever happened.
#[derive(Clone, Copy, Debug)]
pub struct Instead<V>(V);

impl<T: Clone + Send + Sync, E> Replace<T, E> for Instead<T> {
    const IS_VALUE: bool = true;

    fn replace(&self, _: Result<T, Error<E>>) -> Result<T, Error<E>> {
        Ok(self.0.clone())
    }
}

impl<V> Fallback<Instead<V>> {
    /// Answers with a clone of `value`.
    pub const fn with(value: V) -> Self {
        Self::from_fn(Instead(value))
    }
}

impl<R> Fallback<R> {
    /// Answers with what `replace` makes of the result.
    pub const fn from_fn(replace: R) -> Self {
        Self { replace, judge: Always, hook: Hook::unnamed() }
    }
}

impl<R, J> Fallback<R, J> {
    /// Replaces only the errors for which `is_failure` says so. Default: all.
    #[must_use = "returns the changed fallback"]
    pub fn when<E, F: Fn(&Error<E>) -> bool>(self, is_failure: F) -> Fallback<R, When<F>> {
        self.judged(When::new(is_failure))
    }

    /// Replaces what `judge` calls a failure or throttled, values included.
    #[must_use = "returns the changed fallback"]
    pub fn judge<T, E, F: Fn(&Result<T, Error<E>>) -> Outcome>(self, judge: F) -> Fallback<R, F> {
        self.judged(judge)
    }

    fn judged<K>(self, judge: K) -> Fallback<R, K> {
        let Self { replace, judge: _, hook } = self;
        Fallback { replace, judge, hook }
    }

    /// Names the fallback and tells its events to `observer`. Default: nobody.
    #[must_use = "returns the changed fallback"]
    pub fn observe(mut self, name: &'static str, observer: impl Observer + 'static) -> Self {
        self.hook.observe(name, observer);
        self
    }

    fn settle<T, E>(&self, result: Result<T, Error<E>>) -> Result<T, Error<E>>
    where
        R: Replace<T, E>,
        J: Judge<T, E>,
    {
        match self.judge.judge(&result) {
            Outcome::Failure | Outcome::Throttled { .. } => {
                self.hook.emit(Event::FellBack);
                self.replace.replace(result)
            }
            Outcome::Success | Outcome::Ignored | Outcome::Abandoned => result,
        }
    }
}

/// It stops all errors only if it is known to replace every one of them, by a value.
const fn errors<T, E, R: Replace<T, E>, J: Judge<T, E>>() -> Errors {
    if R::IS_VALUE && matches!(J::HEARS, Hears::EveryError) { Errors::STOPS } else { Errors::GIVES }
}

impl<T: Send, E: Send, R: Replace<T, E>, J: Judge<T, E>> Policy<T, E> for Fallback<R, J> {
    const ERRORS: Errors = errors::<T, E, R, J>();

    async fn around<F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        self.settle(next(call).await)
    }
}

impl<R, J> Once for Fallback<R, J> {}

impl<T, E, R: Replace<T, E>, J: Judge<T, E>> Blocking<T, E> for Fallback<R, J> {
    const ERRORS: Errors = errors::<T, E, R, J>();

    fn around_blocking<F>(&self, call: Call, mut next: F) -> Result<T, Error<E>>
    where
        F: FnMut(Call) -> Result<T, Error<E>>,
    {
        self.settle(next(call))
    }
}

impl<R, J> fmt::Debug for Fallback<R, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallback").field("name", &self.hook).finish_non_exhaustive()
    }
}

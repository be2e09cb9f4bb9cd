//! What a result says about the dependency: [`Judge`], and [`Judged`] gates.

use std::fmt;
use std::ops::Deref;

use crate::error::Error;
use crate::event::Outcome;

/// Says what a result tells about the dependency. Closures `Fn(&Result<T, Error<E>>) -> Outcome` are judges.
///
/// Gates count what the judge says. [`Retry`](crate::Retry) repeats, and [`Fallback`](crate::Fallback) replaces, what
/// it calls [`Failure`](Outcome::Failure) or [`Throttled`](Outcome::Throttled). A judge runs at most once per result, on
/// the task or thread of the call, and must not panic.
pub trait Judge<T, E>: Send + Sync {
    /// Judges one result.
    fn judge(&self, result: &Result<T, Error<E>>) -> Outcome;

    /// What it looks at. Leave it as it is.
    #[doc(hidden)]
    const HEARS: Hears = Hears::Values;
}

/// What a judge looks at, as far as its type tells.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum Hears {
    /// Values perhaps, too.
    Values,
    /// Some errors, and no values.
    SomeErrors,
    /// Every error, and no values.
    EveryError,
}

impl<T, E, F: Fn(&Result<T, Error<E>>) -> Outcome + Send + Sync> Judge<T, E> for F {
    fn judge(&self, result: &Result<T, Error<E>>) -> Outcome {
        self(result)
    }
}

/// The judge of a policy that was given none: your errors and timeouts are failures.
///
/// A rejection by a policy further in is [`Ignored`](Outcome::Ignored): a call that was not made says nothing about
/// the dependency.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyError;

impl<T, E> Judge<T, E> for AnyError {
    const HEARS: Hears = Hears::SomeErrors;

    fn judge(&self, result: &Result<T, Error<E>>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(Error::Rejected(_)) => Outcome::Ignored,
            Err(Error::Inner(_) | Error::TimedOut(_)) => Outcome::Failure,
        }
    }
}

/// The judge behind `.when`: the errors that it names are failures, all others are ignored.
#[derive(Clone, Copy)]
pub struct When<F>(F);

impl<F> When<F> {
    pub(crate) const fn new(is_failure: F) -> Self {
        Self(is_failure)
    }
}

impl<T, E, F: Fn(&Error<E>) -> bool + Send + Sync> Judge<T, E> for When<F> {
    const HEARS: Hears = Hears::SomeErrors;

    fn judge(&self, result: &Result<T, Error<E>>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(error) if (self.0)(error) => Outcome::Failure,
            Err(_) => Outcome::Ignored,
        }
    }
}

impl<F> fmt::Debug for When<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("When")
    }
}

/// A gate with a judge of its own; made by [`Gate::judge`](crate::Gate::judge) and [`Gate::when`](crate::Gate::when).
///
/// It derefs to the gate, so that questions such as `breaker.state()` still work.
#[derive(Clone, Copy)]
pub struct Judged<G, J> {
    pub(crate) gate: G,
    pub(crate) judge: J,
}

impl<G, J> Judged<G, J> {
    pub(crate) const fn new(gate: G, judge: J) -> Self {
        Self { gate, judge }
    }
}

impl<G, J> Deref for Judged<G, J> {
    type Target = G;

    fn deref(&self) -> &G {
        &self.gate
    }
}

impl<G: fmt::Debug, J> fmt::Debug for Judged<G, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judged").field("gate", &self.gate).finish_non_exhaustive()
    }
}

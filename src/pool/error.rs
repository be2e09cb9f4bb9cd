//! Why there is no connection: [`PoolError`].

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::PoolStatus;
use crate::error::{Error, Rejected, TimedOut};

/// Why a caller gets no connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum PoolError<E> {
    /// The pool cannot connect, and was told to [fail fast](crate::PoolBuilder::fail_fast_after).
    Connect(ConnectError<E>),
    /// There was none in time.
    TimedOut(Box<PoolTimeout<E>>),
    /// It was not waited for: too many wait already, the pool is closed, the call's time is over; or not any more: the pool
    /// [is overloaded](crate::PoolBuilder::codel).
    Rejected(Rejected),
}

/// How an attempt to connect failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError<E> {
    /// The manager's error, which all who wait for the attempt share.
    Failed(Arc<E>),
    /// It took longer than [`connect_timeout`](crate::PoolBuilder::connect_timeout).
    TimedOut(TimedOut),
    /// The manager panicked.
    Panicked,
}

/// A caller that got no connection in time: what it was waiting for, and how the pool was.
#[derive(Debug)]
#[non_exhaustive]
pub struct PoolTimeout<E> {
    /// The name of the pool, as given when it was built; empty if it was given none.
    pub by: &'static str,
    /// How long the caller was given.
    pub after: Duration,
    /// What the caller was waiting for at the end.
    pub phase: Phase,
    /// How the pool was then.
    pub status: PoolStatus,
    /// How the last attempt to connect failed, if none has succeeded since.
    pub cause: Option<ConnectError<E>>,
}

/// What a caller was waiting for when its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// For a connection that somebody else uses.
    Wait,
    /// For a new connection.
    Connect,
    /// For a connection to be checked.
    Check,
}

impl<E> PoolError<E> {
    /// Returns the same in terms of a stack's error: a failed attempt to connect is the error of the call.
    ///
    /// ```
    /// use floodwall::pool::PoolError;
    /// use floodwall::{Error, Reason, Rejected};
    ///
    /// let full = PoolError::<std::io::Error>::Rejected(Rejected::new("db", Reason::QueueFull));
    /// assert!(matches!(full.into_error(), Error::Rejected(_)));
    /// ```
    pub fn into_error(self) -> Error<ConnectError<E>> {
        match self {
            PoolError::Connect(error) => Error::Inner(error),
            PoolError::TimedOut(timeout) => TimedOut::new(timeout.by, timeout.after).into(),
            PoolError::Rejected(rejected) => rejected.into(),
        }
    }

    /// Returns how the last attempt to connect failed, if that is why there is no connection.
    pub fn cause(&self) -> Option<&ConnectError<E>> {
        match self {
            PoolError::Connect(error) => Some(error),
            PoolError::TimedOut(timeout) => timeout.cause.as_ref(),
            PoolError::Rejected(_) => None,
        }
    }
}

impl<E> From<Rejected> for PoolError<E> {
    fn from(rejected: Rejected) -> Self {
        PoolError::Rejected(rejected)
    }
}

// By hand: the error behind the `Arc` need not be `Clone`.
impl<E> Clone for ConnectError<E> {
    fn clone(&self) -> Self {
        match self {
            ConnectError::Failed(error) => ConnectError::Failed(error.clone()),
            ConnectError::TimedOut(timed_out) => ConnectError::TimedOut(*timed_out),
            ConnectError::Panicked => ConnectError::Panicked,
        }
    }
}

impl<E: fmt::Display> fmt::Display for PoolError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolError::Connect(error) => error.fmt(f),
            PoolError::TimedOut(timeout) => timeout.fmt(f),
            PoolError::Rejected(rejected) => rejected.fmt(f),
        }
    }
}

impl<E: fmt::Display> fmt::Display for ConnectError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Failed(error) => write!(f, "cannot connect: {error}"),
            ConnectError::TimedOut(timed_out) => write!(f, "cannot connect: {timed_out}"),
            ConnectError::Panicked => f.write_str("cannot connect: the manager panicked"),
        }
    }
}

impl<E: fmt::Display> fmt::Display for PoolTimeout<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TimedOut::new(self.by, self.after).fmt(f)?;
        f.write_str(match self.phase {
            Phase::Wait => " while all connections were in use",
            Phase::Connect => " while connecting",
            Phase::Check => " while a connection was checked",
        })?;
        let PoolStatus { max, in_use, idle, connecting, waiting, .. } = self.status;
        write!(f, " (max {max}: {in_use} in use, {idle} idle, {connecting} connecting; {waiting} waiting)")?;
        match &self.cause {
            Some(cause) => write!(f, ", {cause}"),
            None => Ok(()),
        }
    }
}

impl<E: StdError + 'static> StdError for PoolError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause()?.source()
    }
}

impl<E: StdError + 'static> StdError for ConnectError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            ConnectError::Failed(error) => Some(&**error),
            ConnectError::TimedOut(_) | ConnectError::Panicked => None,
        }
    }
}

//! Gates to wait at: [`Acquire`], and [`WaitUpTo`] in a stack.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::call::Call;
use crate::error::{Error, Rejected};
use crate::event::Outcome;
use crate::gate::{Gate, OwnedPermit, Permit};
use crate::judge::{AnyError, Judged, When};
use crate::park::block_on;

/// A gate that callers can wait at, first come first served.
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Acquire, Bulkhead, Call};
///
/// let bulkhead = Bulkhead::new(1);
/// let _permit = bulkhead.acquire_blocking()?;
/// let call = Call::new().within(Duration::from_millis(1));
/// assert!(bulkhead.acquire_blocking_for(call).is_err());
/// # Ok::<(), floodwall::Rejected>(())
/// ```
pub trait Acquire: Gate {
    /// Waits for leave to make `call`, at most for `limit` and at most until the call's deadline.
    ///
    /// # Errors
    ///
    /// If too many wait already; if `limit` is over, or is known to be over, before its turn comes; with
    /// [`DeadlineExceeded`](crate::Reason::DeadlineExceeded) if that holds for the call's deadline.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the line and gives back what it was granted; those behind move up.
    fn acquire_within(
        &self,
        call: Call,
        limit: Duration,
    ) -> impl Future<Output = Result<Permit<'_>, Rejected>> + Send;

    /// Waits for leave to make `call`, at most until the call's deadline.
    ///
    /// # Errors
    ///
    /// As [`acquire_within`](Acquire::acquire_within).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire_within`](Acquire::acquire_within).
    fn acquire_for(&self, call: Call) -> impl Future<Output = Result<Permit<'_>, Rejected>> + Send {
        self.acquire_within(call, Duration::MAX)
    }

    /// Waits for leave to make one call.
    ///
    /// # Errors
    ///
    /// If too many wait already.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire_within`](Acquire::acquire_within).
    fn acquire(&self) -> impl Future<Output = Result<Permit<'_>, Rejected>> + Send {
        self.acquire_for(Call::new())
    }

    /// Blocks this thread until it has leave to make one call.
    ///
    /// # Errors
    ///
    /// If too many wait already.
    fn acquire_blocking(&self) -> Result<Permit<'_>, Rejected> {
        self.acquire_blocking_for(Call::new())
    }

    /// Blocks this thread until it has leave to make `call`, at most until the call's deadline.
    ///
    /// # Errors
    ///
    /// As [`acquire_within`](Acquire::acquire_within).
    fn acquire_blocking_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        block_on(self.acquire_for(call))
    }

    /// Lets the calls of a stack wait at this gate for at most `limit`, where the bare gate would reject at once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Acquire, Bulkhead, Policy};
    ///
    /// let bulkhead = Bulkhead::new(1);
    /// let stack = (&bulkhead).wait_up_to(Duration::from_millis(50));
    /// let answer = floodwall::block_on(stack.call(|| async { Ok::<_, ()>(42) }));
    /// assert_eq!(answer, Ok(42));
    /// ```
    #[must_use = "returns the gate to wait at"]
    fn wait_up_to(self, limit: Duration) -> WaitUpTo<Self>
    where
        Self: Sized,
    {
        WaitUpTo { gate: self, judge: AnyError, limit }
    }
}

/// A gate at which the calls of a stack wait for a limited time; made by [`Acquire::wait_up_to`].
///
/// It derefs to the gate, so that questions such as `bulkhead.running()` still work.
#[derive(Clone, Copy)]
pub struct WaitUpTo<G, J = AnyError> {
    pub(crate) gate: G,
    pub(crate) judge: J,
    pub(crate) limit: Duration,
}

impl<G, J> WaitUpTo<G, J> {
    /// Lets `judge` say what a result tells about the dependency, as [`Gate::judge`] does.
    #[must_use = "returns the judged gate"]
    pub fn judge<T, E, F>(self, judge: F) -> WaitUpTo<G, F>
    where
        F: Fn(&Result<T, Error<E>>) -> Outcome,
    {
        WaitUpTo { gate: self.gate, judge, limit: self.limit }
    }

    /// Counts only the errors for which `is_failure` says so, as [`Gate::when`] does.
    #[must_use = "returns the judged gate"]
    pub fn when<E, F>(self, is_failure: F) -> WaitUpTo<G, When<F>>
    where
        F: Fn(&Error<E>) -> bool,
    {
        WaitUpTo { gate: self.gate, judge: When::new(is_failure), limit: self.limit }
    }
}

impl<G: Acquire, J> Judged<G, J> {
    /// Lets the calls of a stack wait at this gate for at most `limit`, as [`Acquire::wait_up_to`] does.
    #[must_use = "returns the gate to wait at"]
    pub fn wait_up_to(self, limit: Duration) -> WaitUpTo<G, J> {
        WaitUpTo { gate: self.gate, judge: self.judge, limit }
    }
}

impl<G, J> Deref for WaitUpTo<G, J> {
    type Target = G;

    fn deref(&self) -> &G {
        &self.gate
    }
}

impl<G: fmt::Debug, J> fmt::Debug for WaitUpTo<G, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitUpTo")
            .field("gate", &self.gate)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

macro_rules! delegate_acquire {
    ($pointer:ty) => {
        impl<G: Acquire + ?Sized> Acquire for $pointer {
            fn acquire_within(
                &self,
                call: Call,
                limit: Duration,
            ) -> impl Future<Output = Result<Permit<'_>, Rejected>> + Send {
                (**self).acquire_within(call, limit)
            }
        }
    };
}
delegate_acquire!(&G);
delegate_acquire!(Arc<G>);
delegate_acquire!(Box<G>);

impl OwnedPermit {
    /// Waits at `gate` for leave to make one call, as [`Acquire::acquire`] does.
    ///
    /// # Errors
    ///
    /// As [`Acquire::acquire_for`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the line and gives back what it was granted.
    pub async fn acquire<G: Acquire + 'static>(gate: Arc<G>) -> Result<Self, Rejected> {
        Self::acquire_for(gate, Call::new()).await
    }

    /// Waits at `gate` for leave to make `call`, as [`Acquire::acquire_for`] does.
    ///
    /// # Errors
    ///
    /// As [`Acquire::acquire_within`].
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](OwnedPermit::acquire).
    pub async fn acquire_for<G: Acquire + 'static>(gate: Arc<G>, call: Call) -> Result<Self, Rejected> {
        let ticket = gate.acquire_for(call).await?.into_ticket();
        Ok(Self(ticket.map(|ticket| (gate as Arc<dyn Gate>, ticket))))
    }
}

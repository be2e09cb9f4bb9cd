//! Admission as a value: [`Gate`], [`Permit`], [`OwnedPermit`], [`Ticket`].

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::call::Call;
use crate::clock::{self, Clock, NEVER};
use crate::error::{Error, Rejected};
use crate::event::Outcome;
use crate::judge::{Judged, When};

/// Decides whether a call may start, and hears how it ended. A rate limit, a breaker and a bulkhead are gates.
///
/// A gate can be used by hand, as below; every gate of this crate is also a [`Policy`](crate::Policy) for a stack.
/// To write your own, implement `try_acquire_for`; put it into a stack with [`Gated`](crate::Gated).
///
/// ```
/// use floodwall::{Bulkhead, Gate, Rejected};
///
/// fn import(bulkhead: &Bulkhead) -> Result<(), Rejected> {
///     let permit = bulkhead.try_acquire()?;
///     // .. the work ..
///     permit.success();
///     Ok(())
/// }
/// assert!(import(&Bulkhead::new(1)).is_ok());
/// ```
pub trait Gate: Send + Sync {
    /// Admits one call, or says why not. Never waits.
    ///
    /// The permit must report to this gate (`Permit::new(self, ..)`, or [`Permit::free`]), or to one that this gate
    /// also forwards [`release`](Gate::release) to.
    ///
    /// # Errors
    ///
    /// Why the call may not start, and when to try again if that is known.
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected>;

    /// Admits one call that asks for nothing special, or says why not. Never waits.
    ///
    /// # Errors
    ///
    /// As [`try_acquire_for`](Gate::try_acquire_for).
    fn try_acquire(&self) -> Result<Permit<'_>, Rejected> {
        self.try_acquire_for(Call::new())
    }

    /// Hears how an admitted call ended. Called once per permit, by the permit.
    fn release(&self, ticket: Ticket, outcome: Outcome) {
        let _ = (ticket, outcome);
    }

    /// Hears what an admitted call really cost, where that was not known before. Default: it does not matter.
    fn settle(&self, ticket: &mut Ticket, actual: u32) {
        let _ = (ticket, actual);
    }

    /// Returns what would be lost if this gate were forgotten, or `None` if nothing would.
    ///
    /// A registry of gates by key asks before it evicts one. Default: nothing.
    fn residual(&self) -> Option<Residual> {
        None
    }

    /// Lets `judge` say what a result tells about the dependency: `Ok(503)` may be a failure, 429 a throttle.
    ///
    /// A rejection by a policy further in is never judged: the dependency was not asked.
    ///
    /// ```
    /// use floodwall::{CircuitBreaker, Error, Gate, Outcome, Policy, State};
    ///
    /// let breaker = CircuitBreaker::builder().failures(1).build();
    /// let http = breaker.judge(|result: &Result<u16, Error<()>>| match result {
    ///     Ok(status) if *status >= 500 => Outcome::Failure,
    ///     Ok(_) => Outcome::Success,
    ///     Err(_) => Outcome::Failure,
    /// });
    /// let _ = floodwall::block_on(http.call(|| async { Ok(503) }));
    /// assert_eq!(http.state(), State::Open);
    /// ```
    #[must_use = "returns the judged gate"]
    fn judge<T, E, F>(self, judge: F) -> Judged<Self, F>
    where
        Self: Sized,
        F: Fn(&Result<T, Error<E>>) -> Outcome,
    {
        Judged::new(self, judge)
    }

    /// Counts only the errors for which `is_failure` says so; other errors say nothing about the dependency.
    ///
    /// A rejection by a policy further in is never counted, nor judged: the dependency was not asked.
    ///
    /// ```
    /// use floodwall::{CircuitBreaker, Error, Gate, Policy, State};
    ///
    /// let breaker = CircuitBreaker::builder().failures(1).build();
    /// let http = breaker.when(|error: &Error<u16>| !matches!(error, Error::Inner(400..=499)));
    /// let _ = floodwall::block_on(http.call(|| async { Err::<(), _>(404) }));
    /// assert_eq!(http.state(), State::Closed);
    /// ```
    #[must_use = "returns the judged gate"]
    fn when<E, F>(self, is_failure: F) -> Judged<Self, When<F>>
    where
        Self: Sized,
        F: Fn(&Error<E>) -> bool,
    {
        Judged::new(self, When::new(is_failure))
    }
}

/// What a gate would lose if it were forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Residual {
    /// Calls are running with its permits.
    InUse,
    /// It remembers something that keeps calls out: a debt, an open circuit. Nothing is lost from this instant on.
    Until(Instant),
}

/// What a gate remembers about a call that it admitted: neither `Copy` nor `Clone`, so that it comes back once.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    word: u64,
    deadline: u64,
}

impl Ticket {
    /// Creates a ticket for `call`. What `word` means is the gate's own affair: a generation, a start time.
    pub const fn new(word: u64, call: Call) -> Self {
        Self { word, deadline: call.deadline }
    }

    /// Returns the gate's own word.
    pub const fn word(&self) -> u64 {
        self.word
    }

    /// Changes the gate's own word.
    pub const fn set_word(&mut self, word: u64) {
        self.word = word;
    }

    /// Returns whether the call's deadline has passed on `clock`.
    ///
    /// A permit dropped after its call's deadline tells that the dependency was too slow; one dropped before it
    /// tells nothing, since the caller may just have changed its mind.
    pub fn is_late(&self, clock: &Clock) -> bool {
        self.deadline != NEVER && clock.nanos() >= self.deadline
    }

    /// As [`is_late`](Ticket::is_late), for who has read the clock already.
    pub(crate) const fn is_late_at(&self, now: u64) -> bool {
        self.deadline != NEVER && now >= self.deadline
    }
}

/// Leave to make one call. Report how the call ended; dropped without a report, it counts as [`Outcome::Abandoned`],
/// or as [`Outcome::Failure`] while the thread panics.
///
/// # Examples
///
/// ```
/// use floodwall::{CircuitBreaker, Gate};
///
/// let breaker = CircuitBreaker::builder().build();
/// let permit = breaker.try_acquire()?;
/// match "8080".parse::<u16>() {
///     Ok(_port) => permit.success(),
///     Err(_) => permit.failure(),
/// }
/// # Ok::<(), floodwall::Rejected>(())
/// ```
///
/// An unused permit ends at once, and the compiler says so:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// use floodwall::{Bulkhead, Gate, Rejected};
/// fn import(bulkhead: &Bulkhead) -> Result<(), Rejected> {
///     bulkhead.try_acquire()?;
///     Ok(())
/// }
/// ```
#[must_use = "the call may run only while the permit is held"]
#[clippy::has_significant_drop]
pub struct Permit<'a>(Option<(&'a dyn Gate, Ticket)>);

impl<'a> Permit<'a> {
    /// Creates a permit that reports to `gate`. For authors of gates.
    pub const fn new(gate: &'a dyn Gate, ticket: Ticket) -> Self {
        Self(Some((gate, ticket)))
    }

    /// Creates a permit that reports to nobody.
    pub const fn free() -> Self {
        Self(None)
    }

    /// Tells the gate what the call really cost, where [`Call::cost`] was an estimate: it gives back the rest, or takes
    /// more than there is and lets others wait until the debt is paid.
    ///
    /// ```
    /// use floodwall::{Call, Clock, Gate, TokenBucket};
    ///
    /// let tokens = TokenBucket::per_second(1_000).clock(Clock::manual());
    /// let mut permit = tokens.try_acquire_for(Call::new().cost(600))?;
    /// permit.settle(250);
    /// permit.success();
    /// assert_eq!(tokens.available(), 750);
    /// # Ok::<(), floodwall::Rejected>(())
    /// ```
    pub fn settle(&mut self, actual: u32) {
        if let Some((gate, ticket)) = &mut self.0 {
            gate.settle(ticket, actual);
        }
    }

    /// Reports that the dependency did what it should.
    pub fn success(self) {
        self.report(Outcome::Success);
    }

    /// Reports that the dependency failed.
    pub fn failure(self) {
        self.report(Outcome::Failure);
    }

    /// Reports how the call ended.
    pub fn report(mut self, outcome: Outcome) {
        let held = self.0.take();
        // Nothing is left to drop, also if the gate panics. Told so before the gate is called, the compiler keeps the
        // permit in registers, which saves a third of its cost.
        std::mem::forget(self);
        if let Some((gate, ticket)) = held {
            gate.release(ticket, outcome);
        }
    }

    /// Moves the permit field by field, so that a gate's inlined admission stays in registers although its refusal
    /// comes through memory; moved whole, it would be read from there in wider words than it was written in.
    #[inline(always)]
    pub(crate) fn by_fields(mut self) -> Self {
        let held = self.0.take();
        std::mem::forget(self);
        match held {
            Some((gate, Ticket { word, deadline })) => Self(Some((gate, Ticket { word, deadline }))),
            None => Self(None),
        }
    }

    pub(crate) fn into_ticket(mut self) -> Option<Ticket> {
        self.0.take().map(|(_, ticket)| ticket)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some((gate, ticket)) = self.0.take() {
            gate.release(ticket, unreported());
        }
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

/// A [`Permit`] that keeps its gate alive, so that it can be stored, or cross into a spawned task.
///
/// ```
/// use std::sync::Arc;
/// use floodwall::{Bulkhead, OwnedPermit};
///
/// let bulkhead = Arc::new(Bulkhead::new(1));
/// let permit = OwnedPermit::try_acquire(bulkhead.clone())?;
/// std::thread::spawn(move || permit.success()).join().unwrap();
/// assert_eq!(bulkhead.running(), 0);
/// # Ok::<(), floodwall::Rejected>(())
/// ```
#[must_use = "the call may run only while the permit is held"]
#[clippy::has_significant_drop]
pub struct OwnedPermit(pub(crate) Option<(Arc<dyn Gate>, Ticket)>);

impl OwnedPermit {
    /// Admits one call at `gate`, or says why not. Never waits.
    ///
    /// # Errors
    ///
    /// As [`Gate::try_acquire_for`].
    pub fn try_acquire(gate: Arc<dyn Gate>) -> Result<Self, Rejected> {
        Self::try_acquire_for(gate, Call::new())
    }

    /// Admits `call` at `gate`, or says why not. Never waits.
    ///
    /// # Errors
    ///
    /// As [`Gate::try_acquire_for`].
    pub fn try_acquire_for(gate: Arc<dyn Gate>, call: Call) -> Result<Self, Rejected> {
        let ticket = gate.try_acquire_for(call)?.into_ticket();
        Ok(Self(ticket.map(|ticket| (gate, ticket))))
    }

    /// Tells the gate what the call really cost, where [`Call::cost`] was an estimate: it gives back the rest, or takes
    /// more than there is and lets others wait until the debt is paid.
    pub fn settle(&mut self, actual: u32) {
        if let Some((gate, ticket)) = &mut self.0 {
            gate.settle(ticket, actual);
        }
    }

    /// Reports that the dependency did what it should.
    pub fn success(self) {
        self.report(Outcome::Success);
    }

    /// Reports that the dependency failed.
    pub fn failure(self) {
        self.report(Outcome::Failure);
    }

    /// Reports how the call ended.
    pub fn report(mut self, outcome: Outcome) {
        let held = self.0.take();
        // Nothing is left to drop, also if the gate panics. Told so before the gate is called, the compiler keeps the
        // permit in registers, which saves a third of its cost.
        std::mem::forget(self);
        if let Some((gate, ticket)) = held {
            gate.release(ticket, outcome);
        }
    }
}

impl Drop for OwnedPermit {
    fn drop(&mut self) {
        if let Some((gate, ticket)) = self.0.take() {
            gate.release(ticket, unreported());
        }
    }
}

impl fmt::Debug for OwnedPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnedPermit")
    }
}

fn unreported() -> Outcome {
    if std::thread::panicking() { Outcome::Failure } else { Outcome::Abandoned }
}

macro_rules! delegate_gate {
    ($pointer:ty) => {
        impl<G: Gate + ?Sized> Gate for $pointer {
            fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
                (**self).try_acquire_for(call)
            }

            fn release(&self, ticket: Ticket, outcome: Outcome) {
                (**self).release(ticket, outcome);
            }

            fn settle(&self, ticket: &mut Ticket, actual: u32) {
                (**self).settle(ticket, actual);
            }

            fn residual(&self) -> Option<Residual> {
                (**self).residual()
            }
        }
    };
}
delegate_gate!(&G);
delegate_gate!(Arc<G>);
delegate_gate!(Box<G>);

/// Returns the time of an instant that a gate may name in a [`Residual`].
pub(crate) fn until(nanos: u64) -> Residual {
    Residual::Until(clock::instant_of(nanos))
}

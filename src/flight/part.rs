//! Taking part in a flight, as its leader or as one who waits: [`Flights::take_part`], [`Led`].

use std::borrow::Borrow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use super::running::Entered;
use super::table::{Flights, Followed, Joined, Lead, SharedError};
use crate::clock::{Clock, NEVER};
use crate::error::{Error, Reason, Rejected, TimedOut};
use crate::event::{Event, Hook};

/// What those who wait get when a load fails: [`OwnErrors`] or [`SharedErrors`].
pub trait Sharing<E>: Send + Sync {
    /// Packs an error for those who wait, if they are to get it.
    #[doc(hidden)]
    fn share(error: &Error<E>) -> Option<SharedError>;

    /// Unpacks an error, if it is one of this kind.
    #[doc(hidden)]
    fn take(shared: &SharedError) -> Option<Error<E>>;
}

/// A load that fails tells its own caller, and the next who waits for it loads again. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnErrors;

impl<E> Sharing<E> for OwnErrors {
    fn share(_: &Error<E>) -> Option<SharedError> {
        None
    }

    fn take(_: &SharedError) -> Option<Error<E>> {
        None
    }
}

/// A load that fails tells all who wait for it and take the same type of error: each gets a clone.
#[derive(Clone, Copy, Debug, Default)]
pub struct SharedErrors;

impl<E: Clone + Send + Sync + 'static> Sharing<E> for SharedErrors {
    fn share(error: &Error<E>) -> Option<SharedError> {
        Some(Arc::new(error.clone()))
    }

    fn take(shared: &SharedError) -> Option<Error<E>> {
        shared.downcast_ref::<Error<E>>().cloned()
    }
}

/// How long to wait for others, and who hears of it.
#[derive(Clone, Copy)]
pub(crate) struct Until<'a> {
    pub(crate) clock: &'a Clock,
    pub(crate) hook: &'a Hook,
    /// In nanoseconds of the clock, or `NEVER`.
    pub(crate) deadline: u64,
}

/// What a caller gets of a flight.
pub(crate) enum Part<'a, K, T> {
    /// It is to load the key.
    Lead(Lead<'a, K, T>),
    /// Another one has loaded it.
    Value(T),
}

impl<K, T: Clone> Flights<K, T> {
    /// Takes the lead of the flight of `key`, or waits for what its leader brings, and takes over if that fails.
    pub(crate) async fn take_part<Q, E, S: Sharing<E>>(
        &self,
        hash: u64,
        key: &Q,
        until: Until<'_>,
    ) -> Result<Part<'_, K, T>, Error<E>>
    where
        K: Borrow<Q>,
        Q: Eq + ToOwned<Owned = K> + ?Sized,
    {
        let start = if until.deadline == NEVER { 0 } else { until.clock.nanos() };
        loop {
            let follow = match self.join(hash, key) {
                Joined::Lead(lead) => return Ok(Part::Lead(lead)),
                Joined::Follow(follow) => follow,
            };
            until.hook.emit(Event::Joined);
            match follow.end(until.clock, until.deadline).await {
                Followed::Value(value) => return Ok(Part::Value(value)),
                Followed::Lead(lead) => return Ok(Part::Lead(lead)),
                Followed::Error(shared) => {
                    if let Some(error) = S::take(&shared) {
                        return Err(error);
                    }
                }
                Followed::Nothing => {}
                Followed::TooLate => {
                    let given = std::time::Duration::from_nanos(until.deadline.saturating_sub(start));
                    let timed_out = TimedOut::new(until.hook.name, given);
                    until.hook.emit(Event::TimedOut(timed_out));
                    return Err(timed_out.into());
                }
                Followed::Recursive => {
                    let rejected = Rejected::new(until.hook.name, Reason::Recursive);
                    until.hook.emit(Event::Rejected(rejected));
                    return Err(rejected.into());
                }
            }
        }
    }
}

/// What leads flights, one or many.
pub(crate) trait Leads {
    /// Returns the addresses of the flights.
    fn addresses(&self) -> impl Iterator<Item = usize>;

    /// Says that this thread runs code of the flights, until what is returned is dropped.
    fn enter(&self) -> Entered {
        Entered::new(self.addresses())
    }
}

impl<K, T> Leads for Lead<'_, K, T> {
    fn addresses(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.address())
    }
}

impl<K, T> Leads for Option<Lead<'_, K, T>> {
    fn addresses(&self) -> impl Iterator<Item = usize> {
        self.iter().map(Lead::address)
    }
}

pin_project! {
    /// A load and the lead of its flights, which come back together.
    ///
    /// Dropped, it drops the load before it passes on the lead: a key is never loaded twice at a time.
    pub(crate) struct Led<L: Leads, Fut> {
        #[pin]
        load: Option<Fut>,
        leads: Option<L>,
    }

    impl<L: Leads, Fut> PinnedDrop for Led<L, Fut> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = this.leads.as_ref().map(L::enter);
            this.load.set(None);
        }
    }
}

impl<L: Leads, Fut: Future> Led<L, Fut> {
    pub(crate) fn new(leads: L, load: impl FnOnce() -> Fut) -> Self {
        let entered = leads.enter();
        let load = load();
        drop(entered);
        Self { load: Some(load), leads: Some(leads) }
    }
}

impl<L: Leads, Fut: Future> Future for Led<L, Fut> {
    type Output = (Fut::Output, L);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let entered = this.leads.as_ref().map(L::enter);
        let load = this.load.as_mut().as_pin_mut().expect("a load that has ended is not polled again");
        let output = ready!(load.poll(context));
        this.load.set(None);
        drop(entered);
        let leads = this.leads.take().expect("the leads stay until the load ends");
        Poll::Ready((output, leads))
    }
}

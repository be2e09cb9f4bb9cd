//! A connection of a keyed pool in somebody's hands: [`KeyedCheckout`].

use std::fmt;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::Shared;
use super::room::{Placing, Site};
use crate::call::Call;
use crate::clock::{Clock, NEVER};
use crate::error::Reason;
use crate::pool::{Checkout, Manager};
use crate::semaphore::{Ask, Semaphore};
use crate::wait::Turn;

/// A connection that was taken from a [`KeyedPool`](crate::KeyedPool), and goes home when it is dropped, wherever that is.
///
/// It derefs to the connection, and does what a [`Checkout`] does.
#[must_use = "the connection goes home when this is dropped"]
pub struct KeyedCheckout<M: Manager> {
    // Goes home first; then the caller leaves.
    checkout: Checkout<'static, Placing<M>>,
    stay: Stay<M>,
}

/// A caller, from when it comes until its connection is home again.
pub(super) struct Stay<M: Manager> {
    pub(super) site: Arc<Site<M>>,
    shared: Arc<Shared<M>>,
    is_caller: bool,
    is_user: bool,
}

impl<M: Manager> Stay<M> {
    /// Comes, or is refused.
    pub(super) fn begin(site: Arc<Site<M>>, shared: Arc<Shared<M>>) -> Result<Self, Reason> {
        shared.comes();
        let stay = Self { site, shared, is_caller: false, is_user: false };
        if stay.shared.is_open() { Ok(stay) } else { Err(Reason::Closed) }
    }

    /// Is let in, first by its key, and then by all: so no key has more callers in the line for all than it may have
    /// connections, and those of other keys have their turn soon.
    pub(super) async fn enter(&mut self, call: Call, clock: &Clock) -> Result<(), Reason> {
        enter(&self.site.0.callers, &self.shared, call, clock).await?;
        self.is_caller = true;
        enter(&self.shared.common.users, &self.shared, call, clock).await?;
        self.is_user = true;
        Ok(())
    }

    /// Tells those who look for a place: what this one has left behind may be idle now, or driven by nobody.
    pub(super) fn tell(&self) {
        self.shared.common.places.tell();
    }

    pub(super) fn try_enter(&mut self, call: Call) -> bool {
        self.is_caller = self.site.0.callers.try_enter(&mut ask(call)) == Turn::Served;
        self.is_user = self.is_caller && self.shared.common.users.try_enter(&mut ask(call)) == Turn::Served;
        self.is_user
    }
}

fn ask(call: Call) -> Ask {
    let mut ask = Ask::places(1);
    ask.class = u8::MAX - call.priority;
    ask
}

async fn enter<M: Manager>(
    line: &Semaphore,
    shared: &Shared<M>,
    call: Call,
    clock: &Clock,
) -> Result<(), Reason> {
    if line.try_enter(&mut ask(call)) == Turn::Served {
        return Ok(());
    }
    let mut enter = pin!(line.enter(ask(call), call, Duration::MAX, clock));
    let mut closed = pin!(shared.closed.wait(0, clock, NEVER));
    let entered = poll_fn(|context| match enter.as_mut().poll(context) {
        Poll::Pending => closed.as_mut().poll(context).map(|()| Err(Reason::Closed)),
        ready => ready,
    });
    match entered.await {
        Ok(_) => Ok(()),
        Err(Reason::BulkheadFull) => Err(Reason::QueueFull),
        Err(reason) => Err(reason),
    }
}

impl<M: Manager> Drop for Stay<M> {
    fn drop(&mut self) {
        self.tell();
        let common = &self.shared.common;
        if self.is_user {
            common.users.leave(1);
        }
        if self.is_caller {
            self.site.0.callers.leave(1);
        }
        self.shared.leaves();
    }
}

impl<M: Manager> KeyedCheckout<M> {
    pub(super) const fn new(checkout: Checkout<'static, Placing<M>>, stay: Stay<M>) -> Self {
        Self { checkout, stay }
    }

    /// Takes the connection out of the pool for good; its place is free.
    pub fn take(self) -> M::Connection {
        let Self { checkout, stay } = self;
        let connection = checkout.take().connection;
        drop(stay);
        connection
    }

    /// Closes the connection instead of taking it home.
    pub fn discard(mut self) {
        self.mark_broken();
    }

    /// Lets the connection be closed when this is dropped: after an error that says that it does not work any more.
    pub fn mark_broken(&mut self) {
        self.checkout.mark_broken();
    }

    /// Has the connection checked before it is given out again, however soon that is: after an error that leaves it in
    /// doubt.
    pub fn mark_suspect(&mut self) {
        self.checkout.mark_suspect();
    }
}

impl<M: Manager> Deref for KeyedCheckout<M> {
    type Target = M::Connection;

    fn deref(&self) -> &M::Connection {
        &self.checkout.connection
    }
}

impl<M: Manager> DerefMut for KeyedCheckout<M> {
    fn deref_mut(&mut self) -> &mut M::Connection {
        &mut self.checkout.connection
    }
}

impl<M: Manager<Connection: fmt::Debug>> fmt::Debug for KeyedCheckout<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyedCheckout").field(&**self).finish()
    }
}

//! A connection in somebody's hands: [`Checkout`].

use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::core::Entry;
use super::manager::Manager;
use super::shared::Shared;

/// A connection that was taken from a [`Pool`](crate::Pool), and goes home when it is dropped.
///
/// It derefs to the connection. It may be dropped anywhere: in a task, on a plain thread, after its runtime has ended,
/// while the thread unwinds; nothing is spawned. One that was held by whoever panicked is checked before it is given out
/// again.
///
/// ```
/// # use floodwall::{Pool, pool::BlockingManager};
/// # struct Numbers;
/// # impl BlockingManager for Numbers {
/// #     type Connection = Vec<u8>;
/// #     type Error = std::io::Error;
/// #     fn connect(&self) -> std::io::Result<Vec<u8>> { Ok(Vec::new()) }
/// #     fn check(&self, _: &mut Vec<u8>) -> std::io::Result<()> { Ok(()) }
/// # }
/// let pool = Pool::new(Numbers.in_place(), 2);
/// let mut connection = pool.get_blocking()?;
/// connection.push(7);
/// drop(connection);
/// assert_eq!(pool.status().idle, 1);
///
/// let connection = pool.get_blocking()?;
/// assert_eq!(connection.take(), [7]); // it is mine now, and has left the pool
/// assert_eq!(pool.status().total, 0);
/// # Ok::<(), floodwall::pool::PoolError<std::io::Error>>(())
/// ```
#[must_use = "the connection goes home when this is dropped"]
pub struct Checkout<'a, M: Manager> {
    home: Home<'a, M>,
    /// `None` once it has left.
    entry: Option<Box<Entry<M::Connection>>>,
}

enum Home<'a, M: Manager> {
    Borrowed(&'a Arc<Shared<M>>),
    Owned(Arc<Shared<M>>),
}

impl<'a, M: Manager> Checkout<'a, M> {
    pub(super) const fn new(shared: &'a Arc<Shared<M>>, entry: Box<Entry<M::Connection>>) -> Self {
        Self { home: Home::Borrowed(shared), entry: Some(entry) }
    }

    pub(super) fn entry(&mut self) -> &mut Entry<M::Connection> {
        self.entry.as_mut().expect(HELD)
    }

    fn shared(&self) -> &Shared<M> {
        match &self.home {
            Home::Borrowed(shared) => shared,
            Home::Owned(shared) => shared,
        }
    }

    /// Lets the checkout outlive the borrow of the pool: to be kept in a struct, or moved to another task.
    ///
    /// ```
    /// # use floodwall::{Checkout, Pool, pool::BlockingManager};
    /// # struct Numbers;
    /// # impl BlockingManager for Numbers {
    /// #     type Connection = u8;
    /// #     type Error = std::io::Error;
    /// #     fn connect(&self) -> std::io::Result<u8> { Ok(7) }
    /// #     fn check(&self, _: &mut u8) -> std::io::Result<()> { Ok(()) }
    /// # }
    /// let pool = Pool::new(Numbers.in_place(), 2);
    /// let connection: Checkout<'static, _> = pool.get_blocking()?.into_owned();
    /// let read = std::thread::spawn(move || *connection);
    /// assert_eq!(read.join().unwrap(), 7);
    /// # Ok::<(), floodwall::pool::PoolError<std::io::Error>>(())
    /// ```
    pub fn into_owned(mut self) -> Checkout<'static, M> {
        let shared = match &self.home {
            Home::Borrowed(shared) => Arc::clone(shared),
            Home::Owned(shared) => Arc::clone(shared),
        };
        Checkout { home: Home::Owned(shared), entry: self.entry.take() }
    }

    /// Takes the connection out of the pool for good; its place is free.
    pub fn take(mut self) -> M::Connection {
        let entry = self.entry.take().expect(HELD);
        self.shared().lose();
        entry.connection
    }

    /// Closes the connection instead of taking it home.
    pub fn discard(mut self) {
        self.mark_broken();
    }

    /// Lets the connection be closed when this is dropped: after an error that says that it does not work any more.
    pub fn mark_broken(&mut self) {
        self.entry().broken = true;
    }

    /// Has the connection checked before it is given out again, however soon that is: after an error that leaves it in
    /// doubt.
    pub fn mark_suspect(&mut self) {
        self.entry().suspect = true;
    }
}

const HELD: &str = "a checkout holds its connection until it is dropped";

impl<M: Manager> Deref for Checkout<'_, M> {
    type Target = M::Connection;

    #[inline]
    fn deref(&self) -> &M::Connection {
        &self.entry.as_ref().expect(HELD).connection
    }
}

impl<M: Manager> DerefMut for Checkout<'_, M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut M::Connection {
        &mut self.entry.as_mut().expect(HELD).connection
    }
}

impl<M: Manager> Drop for Checkout<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if let Some(entry) = mem::take(&mut self.entry) {
            self.shared().come_home(entry);
        }
    }
}

impl<M: Manager<Connection: fmt::Debug>> fmt::Debug for Checkout<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Checkout").field(&**self).finish()
    }
}

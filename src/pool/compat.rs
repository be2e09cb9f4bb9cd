//! Managers that were written for other pools: [`Bb8`], [`Deadpool`], [`R2d2`], each behind a feature with the version of
//! its crate.
//!
//! So what there is for a database can be used as it is; what is kept from the other pool is the manager alone.

#[cfg(feature = "bb8-09")]
pub use of_bb8::Bb8;
#[cfg(feature = "deadpool-013")]
pub use of_deadpool::{Deadpool, DeadpoolError, DeadpoolObject};
#[cfg(feature = "r2d2-08")]
pub use of_r2d2::R2d2;

#[cfg(feature = "bb8-09")]
mod of_bb8 {
    use bb8::ManageConnection;

    use crate::pool::manager::Manager;

    /// A manager for bb8 0.9 as a [`Manager`].
    ///
    /// Its `is_valid` is asked where a pool checks, which is not at each use, and `has_broken` when a connection comes home.
    ///
    /// ```
    /// use floodwall::Pool;
    /// use floodwall::pool::compat::Bb8;
    ///
    /// struct Numbers;
    /// impl bb8::ManageConnection for Numbers {
    ///     type Connection = u32;
    ///     type Error = std::io::Error;
    ///     async fn connect(&self) -> std::io::Result<u32> {
    ///         Ok(7)
    ///     }
    ///     async fn is_valid(&self, _: &mut u32) -> std::io::Result<()> {
    ///         Ok(())
    ///     }
    ///     fn has_broken(&self, number: &mut u32) -> bool {
    ///         *number == 0
    ///     }
    /// }
    /// let pool = Pool::new(Bb8(Numbers), 4);
    /// # floodwall::block_on(async {
    /// assert_eq!(*pool.get().await?, 7);
    /// # Ok::<(), floodwall::pool::PoolError<std::io::Error>>(())
    /// # }).unwrap();
    /// ```
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Bb8<M>(pub M);

    impl<M: ManageConnection<Error: Sync>> Manager for Bb8<M> {
        type Connection = M::Connection;
        type Error = M::Error;

        fn connect(&self) -> impl Future<Output = Result<M::Connection, M::Error>> + Send {
            self.0.connect()
        }

        fn check(&self, connection: &mut M::Connection) -> impl Future<Output = Result<(), M::Error>> + Send {
            self.0.is_valid(connection)
        }

        fn is_broken(&self, connection: &mut M::Connection) -> bool {
            self.0.has_broken(connection)
        }
    }
}

#[cfg(feature = "r2d2-08")]
mod of_r2d2 {
    use r2d2::ManageConnection;

    use crate::pool::manager::BlockingManager;

    /// A manager for r2d2 0.8 as a [`BlockingManager`].
    ///
    /// Its `is_valid` is asked where a pool checks, which is not at each use, and `has_broken` when a connection comes home.
    ///
    /// ```
    /// use floodwall::Pool;
    /// use floodwall::pool::BlockingManager;
    /// use floodwall::pool::compat::R2d2;
    ///
    /// struct Numbers;
    /// impl r2d2::ManageConnection for Numbers {
    ///     type Connection = u32;
    ///     type Error = std::io::Error;
    ///     fn connect(&self) -> std::io::Result<u32> {
    ///         Ok(7)
    ///     }
    ///     fn is_valid(&self, _: &mut u32) -> std::io::Result<()> {
    ///         Ok(())
    ///     }
    ///     fn has_broken(&self, number: &mut u32) -> bool {
    ///         *number == 0
    ///     }
    /// }
    /// let pool = Pool::new(R2d2(Numbers).in_place(), 4);
    /// assert_eq!(*pool.get_blocking()?, 7);
    /// # Ok::<(), floodwall::pool::PoolError<std::io::Error>>(())
    /// ```
    #[derive(Clone, Copy, Debug, Default)]
    pub struct R2d2<M>(pub M);

    impl<M: ManageConnection<Error: Send + Sync>> BlockingManager for R2d2<M> {
        type Connection = M::Connection;
        type Error = M::Error;

        fn connect(&self) -> Result<M::Connection, M::Error> {
            self.0.connect()
        }

        fn check(&self, connection: &mut M::Connection) -> Result<(), M::Error> {
            self.0.is_valid(connection)
        }

        fn is_broken(&self, connection: &mut M::Connection) -> bool {
            self.0.has_broken(connection)
        }
    }
}

#[cfg(feature = "deadpool-013")]
mod of_deadpool {
    use std::borrow::Cow;
    use std::error::Error;
    use std::fmt;
    use std::ops::{Deref, DerefMut};

    use deadpool::managed::{self, Metrics, RecycleError};

    use crate::pool::manager::Manager;

    /// A manager for deadpool 0.13 as a [`Manager`].
    ///
    /// Its `recycle` is asked before each further use, as deadpool does it: it may clear away what the last user left.
    /// So [`try_get`](crate::Pool::try_get), which asks nobody, gives out none that was used. `detach` is told of what the
    /// pool closes, and not of what is [taken](crate::Checkout::take).
    ///
    /// ```
    /// use deadpool::managed::{self, Metrics, RecycleResult};
    /// use floodwall::Pool;
    /// use floodwall::pool::compat::{Deadpool, DeadpoolError};
    ///
    /// struct Numbers;
    /// impl managed::Manager for Numbers {
    ///     type Type = u32;
    ///     type Error = std::io::Error;
    ///     async fn create(&self) -> std::io::Result<u32> {
    ///         Ok(7)
    ///     }
    ///     async fn recycle(&self, number: &mut u32, metrics: &Metrics) -> RecycleResult<std::io::Error> {
    ///         *number = 10 + metrics.recycle_count as u32;
    ///         Ok(())
    ///     }
    /// }
    /// let pool = Pool::new(Deadpool(Numbers), 4);
    /// # floodwall::block_on(async {
    /// assert_eq!(**pool.get().await?, 7);
    /// assert_eq!(**pool.get().await?, 10);
    /// assert_eq!(**pool.get().await?, 11);
    /// # Ok::<(), floodwall::pool::PoolError<DeadpoolError<std::io::Error>>>(())
    /// # }).unwrap();
    /// ```
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Deadpool<M>(pub M);

    /// An object of a deadpool manager. It derefs to the object.
    #[derive(Debug)]
    pub struct DeadpoolObject<T> {
        object: T,
        metrics: Metrics,
    }

    impl<T> DeadpoolObject<T> {
        /// Returns the object.
        pub fn into_inner(self) -> T {
            self.object
        }
    }

    impl<T> Deref for DeadpoolObject<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.object
        }
    }

    impl<T> DerefMut for DeadpoolObject<T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.object
        }
    }

    /// How a deadpool manager fails.
    #[derive(Debug)]
    #[non_exhaustive]
    pub enum DeadpoolError<E> {
        /// As its own error says.
        Backend(E),
        /// It did not recycle an object, for this reason.
        Message(Cow<'static, str>),
    }

    impl<E: fmt::Display> fmt::Display for DeadpoolError<E> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                DeadpoolError::Backend(error) => error.fmt(f),
                DeadpoolError::Message(message) => f.write_str(message),
            }
        }
    }

    impl<E: Error + 'static> Error for DeadpoolError<E> {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            match self {
                DeadpoolError::Backend(error) => error.source(),
                DeadpoolError::Message(_) => None,
            }
        }
    }

    impl<M> Manager for Deadpool<M>
    where
        M: managed::Manager<Type: 'static, Error: Sync + 'static> + 'static,
    {
        type Connection = DeadpoolObject<M::Type>;
        type Error = DeadpoolError<M::Error>;

        async fn connect(&self) -> Result<Self::Connection, Self::Error> {
            let object = self.0.create().await.map_err(DeadpoolError::Backend)?;
            Ok(DeadpoolObject { object, metrics: Metrics::default() })
        }

        async fn check(&self, connection: &mut Self::Connection) -> Result<(), Self::Error> {
            let DeadpoolObject { object, metrics } = connection;
            self.0.recycle(object, metrics).await.map_err(|error| match error {
                RecycleError::Backend(error) => DeadpoolError::Backend(error),
                RecycleError::Message(message) => DeadpoolError::Message(message),
            })?;
            metrics.recycle_count += 1;
            // New metrics are made now.
            metrics.recycled = Some(Metrics::default().created);
            Ok(())
        }

        fn needs_reset(&self, _: &mut Self::Connection) -> bool {
            true
        }

        async fn close(&self, mut connection: Self::Connection) {
            self.0.detach(&mut connection.object);
        }
    }
}

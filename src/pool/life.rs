//! What happens to a pool as a whole: who runs it, its size, pauses and its end.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::core::{Limits, Mode};
use super::drive::Driver;
use super::manager::Manager;
use super::shared::Shared;
use super::{MUST_BE_SOME, Pool};
use crate::clock::NEVER;
use crate::error::BadSetting;
use crate::park::block_on;

impl<M: Manager> Pool<M> {
    /// Makes connections, closes them, and closes those that are overdue, until the pool is closed: a future to spawn.
    ///
    /// Without it, callers who wait for a connection do that, and what is overdue is closed when somebody comes by. With it,
    /// an attempt to connect goes on in this task, and its runtime, whoever goes away. Several may run, and share the work.
    pub fn run(&self) -> impl Future<Output = ()> + Send + 'static {
        let shared = self.shared.clone();
        async move {
            let mut driver = Driver::running(&shared);
            shared
                .drive(&mut driver, NEVER, |shared, driver| {
                    let state = shared.state();
                    state.core.mode() == Mode::Closed && state.resting.is_empty() && !driver.is_busy()
                })
                .await;
        }
    }

    /// Does what [`run`](Pool::run) does, on this thread. With a [`BlockingManager`](super::BlockingManager) each thread
    /// that runs makes one connection at a time.
    pub fn run_blocking(&self) {
        block_on(self.run());
    }

    /// Changes how many connections there may be, at run time.
    ///
    /// What is idle beyond that is closed now, what is in use when it comes home; until then there may be more than `max`.
    ///
    /// ```
    /// # use floodwall::{Pool, pool::BlockingManager};
    /// # struct Numbers;
    /// # impl BlockingManager for Numbers {
    /// #     type Connection = u8;
    /// #     type Error = std::io::Error;
    /// #     fn connect(&self) -> std::io::Result<u8> { Ok(7) }
    /// #     fn check(&self, _: &mut u8) -> std::io::Result<()> { Ok(()) }
    /// # }
    /// let pool = Pool::new(Numbers.in_place(), 2);
    /// let (first, second) = (pool.get_blocking()?, pool.get_blocking()?);
    /// pool.set_max(1).unwrap();
    /// drop(first);
    /// drop(second);
    /// assert_eq!(pool.status().total, 1);
    /// # Ok::<(), floodwall::pool::PoolError<std::io::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If `max` is 0; nothing changes then.
    pub fn set_max(&self, max: usize) -> Result<(), BadSetting> {
        if max == 0 {
            return Err(BadSetting::new("max", 0, MUST_BE_SOME));
        }
        self.change(|limits| limits.max = max);
        Ok(())
    }

    /// Changes how many more than `max` there may be while callers wait, at run time.
    pub fn set_overflow(&self, connections: usize) {
        self.change(|limits| limits.overflow = connections);
    }

    /// Changes how many are kept that nobody uses, at run time.
    pub fn set_max_idle(&self, connections: usize) {
        self.change(|limits| limits.max_idle = connections);
    }

    fn change(&self, change: impl FnOnce(&mut Limits)) {
        {
            let mut state = self.shared.state();
            change(&mut state.core.limits);
            state.core.trim();
        }
        self.shared.bury();
        self.shared.rouse();
    }

    /// Lets no connection be given out again that there is now: what is idle is closed, what is in use when it comes home,
    /// what is being made when it is there.
    ///
    /// For after a fail-over, or a change of password.
    pub fn clear(&self) {
        self.shared.state().core.clear();
        self.shared.bury();
        self.shared.rouse();
    }

    /// Gives out no more connections, and makes none, until it is [resumed](Pool::resume): callers wait.
    ///
    /// For while the other side is being changed: clear the pool, and let it go on.
    pub fn pause(&self) {
        let mut state = self.shared.state();
        if state.core.mode() == Mode::Open {
            state.core.enter(Mode::Paused);
        }
    }

    /// Ends a [pause](Pool::pause).
    pub fn resume(&self) {
        {
            let mut state = self.shared.state();
            if state.core.mode() != Mode::Paused {
                return;
            }
            state.core.enter(Mode::Open);
        }
        self.shared.serve();
        self.shared.rouse();
    }

    /// Closes the pool in good order: no newcomer gets a connection, those who wait already do, and all have so long to
    /// bring theirs home and to be closed; then [closes](Pool::close_now) it.
    ///
    /// Returns how many were still in use; those are closed when they come home.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves a pool that no newcomer gets a connection of; drain or close it again.
    pub async fn drain(&self, within: Duration) -> usize {
        let shared = &*self.shared;
        {
            let mut state = shared.state();
            if state.core.mode() != Mode::Closed {
                state.core.enter(Mode::Draining);
            }
        }
        shared.serve();
        let end = shared.clock.after(within);
        let mut driver = Driver::running(shared);
        shared
            .drive(&mut driver, end, |shared, _| {
                let status = shared.status();
                status.in_use == 0 && status.waiting == 0
            })
            .await;
        shared.close();
        shared.drive(&mut driver, end, |shared, _| shared.status().total == 0).await;
        shared.status().in_use
    }

    /// As [`drain`](Pool::drain), on a plain thread.
    pub fn drain_blocking(&self, within: Duration) -> usize {
        block_on(self.drain(within))
    }

    /// Closes the pool: those who wait are refused, what is idle is closed now, and what is in use when it comes home.
    ///
    /// The last handle of a pool does that when it is dropped. It ends [`run`](Pool::run).
    pub fn close_now(&self) {
        self.shared.close();
    }

    /// Returns whether the pool gives out no more connections, for good.
    pub fn is_closed(&self) -> bool {
        matches!(self.shared.state().core.mode(), Mode::Draining | Mode::Closed)
    }
}

impl<M: Manager> Shared<M> {
    pub(super) fn close(&self) {
        self.state().core.enter(Mode::Closed);
        self.hang_up();
        self.serve();
        self.bury();
        self.bell.ring();
    }

    /// Drives until `done` says so, or until the time is `end`.
    async fn drive<'a>(
        &'a self,
        driver: &mut Driver<'a, M>,
        end: u64,
        done: impl Fn(&Self, &Driver<'a, M>) -> bool,
    ) {
        let mut sleep = pin!(self.clock.sleep_until_nanos(end));
        loop {
            let heard = self.bell.rings();
            if done(self, driver) {
                return;
            }
            let mut ring = pin!(self.bell.wait(heard, &self.clock, NEVER));
            let is_late = poll_fn(|context| {
                if driver.attend(context, None) {
                    return Poll::Ready(false);
                }
                if ring.as_mut().poll(context).is_ready() {
                    return Poll::Ready(false);
                }
                sleep.as_mut().poll(context).map(|()| true)
            })
            .await;
            if is_late {
                return;
            }
        }
    }
}

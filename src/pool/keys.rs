//! What a pool does as one of many, for [`KeyedPool`](crate::KeyedPool).

use std::panic::Location;

use super::Pool;
use super::checkout::Checkout;
use super::error::{ConnectError, Phase, PoolError};
use super::get::First;
use super::manager::Manager;
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{Reason, Rejected};
use crate::event::Event;

impl<M: Manager> Pool<M> {
    pub(crate) fn get_at(
        &self,
        call: Call,
        at: &'static Location<'static>,
    ) -> impl Future<Output = Result<Checkout<'_, M>, PoolError<M::Error>>> + Send {
        let shared = &self.shared;
        async move {
            let now = shared.clock.nanos();
            match shared.first(call, now, at)? {
                First::Ready(checkout) => Ok(checkout),
                first => shared.obtain(first, call, now, at).await,
            }
        }
    }

    /// Returns the clock, the time, and the call with the pool's patience.
    pub(crate) fn begin(&self, mut call: Call) -> (&Clock, u64, Call) {
        let shared = &*self.shared;
        let now = shared.clock.nanos();
        call.deadline = call.deadline.min(now.saturating_add(shared.settings.timeout));
        (&shared.clock, now, call)
    }

    pub(crate) fn refuse(&self, reason: Reason) -> Rejected {
        self.shared.refused(reason)
    }

    pub(crate) fn timed_out(&self, start: u64, deadline: u64) -> PoolError<M::Error> {
        self.shared.too_late(Phase::Wait, start, deadline)
    }

    /// Returns when the idle connection was last used of which that is longest ago.
    pub(crate) fn idle_since(&self) -> Option<u64> {
        self.shared.state().core.oldest()
    }

    /// Takes that connection out of the pool, to be closed.
    pub(crate) fn take_oldest(&self) -> Option<M::Connection> {
        let shared = &*self.shared;
        let mut entry = {
            let core = &mut shared.state().core;
            let entry = core.take_oldest()?;
            core.counts.closed += 1;
            entry
        };
        shared.hooks.closes(&mut entry.connection);
        shared.hook.emit(Event::Disconnected);
        shared.rouse();
        Some(entry.connection)
    }

    /// Gives up what is made or closed and driven by nobody: connections that nobody waits for any more are not made, and
    /// those that say goodbye are cut short.
    pub(crate) fn give_up_resting(&self) {
        let shared = &*self.shared;
        let resting = std::mem::take(&mut shared.state().resting);
        if resting.is_empty() {
            return;
        }
        for job in resting {
            if job.is_dial() {
                shared.state().core.abandoned();
                job.put_away();
            } else {
                let ended = job.given_up(ConnectError::Panicked);
                shared.end(job, ended);
            }
        }
        shared.rouse();
    }
}

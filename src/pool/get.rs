//! How a caller comes to a connection: at once, or in line, and checked.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::checkout::Checkout;
use super::core::{Entry, Mode, Served};
use super::drive::Driver;
use super::error::{ConnectError, Phase, PoolError, PoolTimeout};
use super::manager::Manager;
use super::shared::{Grant, Shared, Slot};
use crate::call::Call;
use crate::clock::NEVER;
use crate::error::{Reason, TimedOut};
use crate::event::Event;
use crate::wait::{Wait, Waited};

/// What there is for a caller at once.
pub(super) enum First<'a, M: Manager> {
    Ready(Checkout<'a, M>),
    /// It needs a check.
    Doubtful(Checkout<'a, M>),
    None,
}

/// What a check has shown.
enum Checked {
    Good,
    Bad,
    /// The caller's time was over first.
    Unknown,
}

type Got<'a, M> = Result<Checkout<'a, M>, PoolError<<M as Manager>::Error>>;

impl<M: Manager> Shared<M> {
    /// Takes what there is, without waiting for anything.
    #[inline]
    pub(super) fn first(
        self: &Arc<Self>,
        call: Call,
        now: u64,
        at: &'static Location<'static>,
    ) -> Result<First<'_, M>, PoolError<M::Error>> {
        if call.deadline <= now {
            return Err(self.refused(Reason::DeadlineExceeded).into());
        }
        loop {
            match self.take(now) {
                Served::Entry(entry) => {
                    let is_fit = self.is_fit(&entry, now);
                    let mut checkout = Checkout::new(self, entry);
                    if !is_fit {
                        return Ok(First::Doubtful(checkout));
                    }
                    if self.hand_out(checkout.entry(), now, at) {
                        return Ok(First::Ready(checkout));
                    }
                }
                Served::NotYet | Served::Shed => return Ok(First::None),
                Served::Failed => return Err(self.failed_fast()),
                Served::Closed => return Err(self.refused(Reason::Closed).into()),
            }
        }
    }

    /// Notes that one is given out, unless the user's hook says no: then it is broken.
    #[inline]
    pub(super) fn hand_out(
        &self,
        entry: &mut Entry<M::Connection>,
        now: u64,
        at: &'static Location<'static>,
    ) -> bool {
        if !self.hooks.lets_go(&mut entry.connection) {
            entry.broken = true;
            return false;
        }
        (entry.seen, entry.proved) = (now, now);
        if self.settings.leak_after != NEVER {
            entry.out = Some(self.state().held.goes_out(at, now));
        }
        self.hook.emit(Event::Admitted);
        true
    }

    #[cold]
    fn failed_fast(&self) -> PoolError<M::Error> {
        // Between a failure and its being told, a dial may have succeeded.
        self.failure().map_or_else(|| self.refused(Reason::NoneIdle).into(), PoolError::Connect)
    }

    /// Gets a connection for a caller that has found none that is ready.
    pub(super) async fn obtain<'a>(
        self: &'a Arc<Self>,
        first: First<'a, M>,
        call: Call,
        start: u64,
        at: &'static Location<'static>,
    ) -> Got<'a, M> {
        let patience = start.saturating_add(self.settings.timeout);
        let deadline = patience.min(call.deadline);
        let mut again = false;
        let mut first = first;
        loop {
            let (mut checkout, mut now) = match std::mem::replace(&mut first, First::None) {
                First::Ready(checkout) => return Ok(checkout),
                First::Doubtful(checkout) => (checkout, start),
                First::None => {
                    let since = if again { self.clock.nanos() } else { start };
                    let slot = Slot::new(call.priority, again, since);
                    let (entry, now) = self.line_up(slot, since, start, deadline).await?;
                    (Checkout::new(self, entry), now)
                }
            };
            if !self.is_fit(checkout.entry(), now) {
                match self.check(checkout.entry(), deadline).await {
                    Checked::Good => now = self.clock.nanos(),
                    Checked::Bad => {
                        // What broke this one may have broken all.
                        self.state().core.suspect();
                        checkout.discard();
                        again = true;
                        continue;
                    }
                    Checked::Unknown => {
                        drop(checkout);
                        return Err(self.too_late(Phase::Check, start, deadline));
                    }
                }
            }
            if self.hand_out(checkout.entry(), now, at) {
                return Ok(checkout);
            }
            drop(checkout);
            again = true;
            // A hook that always says no would have connections made for ever.
            if self.clock.nanos() >= deadline {
                return Err(self.too_late(Phase::Check, start, deadline));
            }
        }
    }

    /// Waits in line for a connection; returns it, and the time.
    async fn line_up(
        &self,
        slot: Slot<M::Connection>,
        since: u64,
        start: u64,
        deadline: u64,
    ) -> Result<(Box<Entry<M::Connection>>, u64), PoolError<M::Error>> {
        if self.settings.leak_after != NEVER {
            self.tell_leaks(self.clock.nanos());
        }
        // In this order, so that who is dropped leaves the line first, and then lays down what it drives.
        let mut driver = Driver::waiting(self);
        let mut wait = pin!(Wait::new(self, &self.clock, deadline, slot).from(since));
        let mut is_new = true;
        let waited = poll_fn(|context| {
            loop {
                if let Poll::Ready(waited) = wait.as_mut().poll(context) {
                    return Poll::Ready(waited);
                }
                // Later it may have been woken to look.
                if std::mem::take(&mut is_new) && !self.has_work() {
                    return Poll::Pending;
                }
                if !driver.attend(context, Some(wait.as_ref())) {
                    return Poll::Pending;
                }
            }
        })
        .await;
        match waited {
            Waited::Served(slot) => {
                driver.on_duty = slot.nudged;
                let now = self.clock.nanos();
                self.times.waits.record(Duration::from_nanos(now.saturating_sub(start)));
                match slot.into_grant() {
                    Grant::Entry(entry) => Ok((entry, now)),
                    Grant::Shed => Err(self.refused(Reason::Shed).into()),
                    Grant::Failed | Grant::Nothing => Err(self.failed_fast()),
                }
            }
            Waited::Full => {
                let is_closed = matches!(self.state().core.mode(), Mode::Closed);
                Err(self.refused(if is_closed { Reason::Closed } else { Reason::QueueFull }).into())
            }
            Waited::TooLate => {
                drop(driver);
                let status = self.status();
                let connects = status.connecting > 0 || status.total < status.max;
                let phase = if connects { Phase::Connect } else { Phase::Wait };
                Err(self.too_late(phase, start, deadline))
            }
        }
    }

    #[cold]
    pub(super) fn too_late(&self, phase: Phase, start: u64, deadline: u64) -> PoolError<M::Error> {
        let (by, after) = (self.hook.name, Duration::from_nanos(deadline.saturating_sub(start)));
        self.hook.emit(Event::TimedOut(TimedOut::new(by, after)));
        let cause: Option<ConnectError<M::Error>> = self.failure();
        self.state().core.counts.timed_out += 1;
        PoolError::TimedOut(Box::new(PoolTimeout { by, after, phase, status: self.status(), cause }))
    }

    /// Checks a connection, or resets it if that is due. Until it has passed, or if this is dropped, it is suspect.
    async fn check(&self, entry: &mut Entry<M::Connection>, deadline: u64) -> Checked {
        entry.suspect = true;
        let needs_reset = entry.unclean;
        let connection = &mut entry.connection;
        let until = self.clock.after(Duration::from_nanos(self.settings.check_timeout)).min(deadline);
        let passed = {
            let mut check = pin!(async {
                if needs_reset {
                    self.manager.reset(connection).await.is_ok()
                } else {
                    self.manager.check(connection).await.is_ok()
                }
            });
            let mut sleep = pin!(self.clock.sleep_until_nanos(until));
            poll_fn(|context| {
                // A panic is a bad sign, and no more.
                match catch_unwind(AssertUnwindSafe(|| check.as_mut().poll(context))) {
                    Ok(Poll::Ready(passed)) => Poll::Ready(Some(passed)),
                    Ok(Poll::Pending) => sleep.as_mut().poll(context).map(|()| None),
                    Err(_) => Poll::Ready(Some(false)),
                }
            })
            .await
        };
        match passed {
            Some(true) => {
                (entry.suspect, entry.unclean) = (false, false);
                Checked::Good
            }
            None if until == deadline => Checked::Unknown,
            Some(false) | None => Checked::Bad,
        }
    }
}

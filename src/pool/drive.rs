//! Who drives what is under way: [`Driver`].
//!
//! Nothing is spawned. What is under way belongs to the pool; one at a time has it in hand, and lays it down when it
//! leaves. Whoever runs the pool takes all there is; if nobody does, those who wait do: each takes at most one dial, and
//! the first that has none is woken when there is more. So no caller that goes away takes anything with it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::core::{Mode, Plan};
use super::error::ConnectError;
use super::job::{Ended, Job};
use super::manager::Manager;
use super::shared::{Shared, nudge};
use crate::clock::{NEVER, Sleep};
use crate::error::TimedOut;
use crate::wait::Wait;

pub(super) struct Driver<'a, M: Manager> {
    shared: &'a Shared<M>,
    runs: bool,
    jobs: Vec<Job<M>>,
    /// It is the one that sleeps until the next dial may start, which is then.
    keeps: Option<u64>,
    sleep: Option<(u64, Pin<Box<Sleep>>)>,
    /// Somebody else must look when it leaves.
    pub(super) on_duty: bool,
}

impl<'a, M: Manager> Driver<'a, M> {
    /// One that waits for a connection.
    pub(super) const fn waiting(shared: &'a Shared<M>) -> Self {
        Self { shared, runs: false, jobs: Vec::new(), keeps: None, sleep: None, on_duty: true }
    }

    /// One that does nothing else.
    pub(super) fn running(shared: &'a Shared<M>) -> Self {
        {
            let core = &mut shared.state().core;
            core.runners += 1;
            core.look_again();
        }
        let mut driver = Self::waiting(shared);
        driver.runs = true;
        driver
    }

    /// Returns whether it has something in hand.
    pub(super) fn is_busy(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Does what there is to do; returns whether something came of it, so that the caller looks again. Otherwise the
    /// caller is woken when there is something.
    pub(super) fn attend(
        &mut self,
        context: &mut Context<'_>,
        wait: Option<Pin<&Wait<'_, Shared<M>>>>,
    ) -> bool {
        let mut comes = false;
        if self.is_busy() && self.shared.state().core.mode() == Mode::Closed {
            let (dials, closes) = std::mem::take(&mut self.jobs).into_iter().partition(Job::is_dial);
            self.jobs = closes;
            self.shared.lay_down(dials);
        }
        for mut job in std::mem::take(&mut self.jobs) {
            match self.ended(&mut job, context) {
                Some(ended) => {
                    self.shared.end(job, ended);
                    comes = true;
                }
                None => self.jobs.push(job),
            }
        }
        // Once something has come, a waiter may have been served: it looks first.
        while !comes {
            let Some(mut job) = self.next(wait) else { break };
            match self.ended(&mut job, context) {
                Some(ended) => {
                    self.shared.end(job, ended);
                    comes = true;
                }
                None => self.jobs.push(job),
            }
        }
        comes || self.sleep(context).is_ready()
    }

    fn ended(&self, job: &mut Job<M>, context: &mut Context<'_>) -> Option<Ended<M>> {
        if let Some(ended) = job.poll(context.waker()) {
            return Some(ended);
        }
        if self.shared.clock.nanos() < job.deadline {
            return None;
        }
        let after = Duration::from_nanos(self.shared.settings.connect_timeout);
        Some(job.given_up(ConnectError::TimedOut(TimedOut::new(self.shared.hook.name, after))))
    }

    /// Finds the next thing to do.
    fn next(&mut self, wait: Option<Pin<&Wait<'_, Shared<M>>>>) -> Option<Job<M>> {
        let shared = self.shared;
        let now = shared.clock.nanos();
        let mut list = shared.list.lock();
        let waiting = list.len();
        let mut guard = shared.state();
        let state = &mut *guard;
        let core = &mut state.core;
        core.advance(now);
        let (mut job, mut dial, mut keeps, mut check) = (None, None, None, None);
        if self.runs || core.runners == 0 {
            job = state.resting.pop_front();
            if job.is_none() && (self.runs || !self.jobs.iter().any(Job::is_dial)) {
                match core.plan(now, waiting) {
                    Plan::Dial { generation } => dial = Some(generation),
                    Plan::At(at) if self.keeps.is_some() || !core.keeper => keeps = Some(at),
                    Plan::At(_) | Plan::Nothing => {}
                }
            }
            if self.runs && job.is_none() && dial.is_none() && shared.settings.keepalive != NEVER {
                check = core.take_unproved(shared.settings.keepalive);
            }
        }
        if self.keeps.is_some() || keeps.is_some() {
            core.keeper = keeps.is_some();
            self.keeps = keeps;
        }
        let more = !state.resting.is_empty() || core.wants_dial(waiting) && !core.is_kept();
        let runners = core.runners;
        drop(guard);
        let takes = job.is_some() || dial.is_some();
        if let Some(slot) = wait.and_then(|wait| wait.get_ref().slot(&mut list)) {
            slot.busy = takes || self.is_busy();
            slot.nudged = false;
        }
        let waker = if more && runners == 0 { nudge(&mut list, false) } else { None };
        drop(list);
        if let Some(waker) = waker {
            waker.wake();
        }
        if more && runners > 0 && (!self.runs || takes && runners > 1) {
            shared.bell.ring();
        }
        if let Some(entry) = check {
            let deadline = now.saturating_add(shared.settings.check_timeout);
            return Some(Job::check(shared.manager.clone(), entry, deadline));
        }
        job.or_else(|| {
            let deadline = now.saturating_add(shared.settings.connect_timeout);
            Some(Job::dial(shared.manager.clone(), shared.hooks.clone(), now, deadline, dial?))
        })
    }

    /// Sleeps until there may be something to do without anybody's saying so.
    fn sleep(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let deadlines = self.jobs.iter().map(|job| job.deadline);
        let mut at = deadlines.chain(self.keeps).min().unwrap_or(NEVER);
        if self.runs {
            at = at.min(self.sweep());
        }
        if at == NEVER {
            self.sleep = None;
            return Poll::Pending;
        }
        let clock = &self.shared.clock;
        let (_, sleep) = match &mut self.sleep {
            Some(sleep) if sleep.0 == at => sleep,
            sleep => sleep.insert((at, Box::pin(clock.sleep_until_nanos(at)))),
        };
        let poll = sleep.as_mut().poll(context);
        if poll.is_ready() {
            self.sleep = None;
        }
        poll
    }

    /// Closes what is overdue, tells of what is held for too long, and says when to do so next.
    fn sweep(&self) -> u64 {
        let shared = self.shared;
        let now = shared.clock.nanos();
        let mut state = shared.state();
        let core = &mut state.core;
        core.advance(now);
        if core.now() >= core.sweep_at() {
            core.sweep();
        }
        let has_doomed = core.has_doomed();
        let proved = if shared.settings.keepalive == NEVER { None } else { core.least_proved() };
        let keep = proved.map_or(NEVER, |at| at.saturating_add(shared.settings.keepalive));
        let at = core.sweep_at().min(keep);
        drop(state);
        if has_doomed {
            shared.bury();
        }
        at.min(shared.tell_leaks(now))
    }
}

impl<M: Manager> Drop for Driver<'_, M> {
    fn drop(&mut self) {
        let shared = self.shared;
        shared.tidy();
        let leaves = self.runs || self.on_duty || self.keeps.is_some() || self.is_busy();
        if !leaves {
            return;
        }
        {
            let mut state = shared.state();
            if self.keeps.is_some() {
                state.core.keeper = false;
            }
            if self.runs {
                state.core.runners -= 1;
            }
        }
        shared.lay_down(std::mem::take(&mut self.jobs));
        shared.rouse();
    }
}

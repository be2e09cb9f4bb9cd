//! How what was under way ends: connections that are made, checked, closed, or not.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use super::core::{Entry, Mode};
use super::error::ConnectError;
use super::job::{Ended, Job};
use super::manager::Manager;
use super::shared::Shared;
use crate::clock::NEVER;
use crate::error::saturating_nanos;
use crate::event::Event;

/// For backoffs that end.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

impl<M: Manager> Shared<M> {
    /// Begins to close what is doomed.
    pub(super) fn bury(&self) {
        let doomed = self.state().core.doomed();
        if doomed.is_empty() {
            return;
        }
        let deadline = self.clock.after(Duration::from_nanos(self.settings.close_timeout));
        for entry in doomed {
            let mut job = Job::close(self.manager.clone(), self.hooks.clone(), entry.connection, deadline);
            // Most are closed at once.
            match job.poll(Waker::noop()) {
                Some(ended) => {
                    self.end(job, ended);
                }
                None => self.state().resting.push_back(job),
            }
        }
        self.rouse();
    }

    /// Takes note of how a job has ended; the caller then looks for more to do, or rouses who does.
    pub(super) fn end(&self, job: Job<M>, ended: Ended<M>) {
        let (started, generation) = (job.started, job.generation);
        job.put_away();
        match ended {
            Ended::Closed => {
                self.state().core.gone();
                self.hook.emit(Event::Disconnected);
                self.tell_drain();
            }
            Ended::Checked(mut entry, works) => {
                if works {
                    entry.proved = self.clock.nanos();
                } else {
                    entry.broken = true;
                    self.state().core.suspect();
                }
                let mut state = self.state();
                let (home, mode) = (state.core.put_back(entry), state.core.mode());
                drop(state);
                self.settle(home, mode);
            }
            Ended::Lost => {
                let mut state = self.state();
                state.core.suspect();
                state.core.taken_away();
                drop(state);
                self.hook.emit(Event::Disconnected);
                self.tell_drain();
            }
            Ended::Connected(connection) => {
                let now = self.clock.nanos();
                let expires = self.expiry(now);
                let entry = Box::new(Entry {
                    connection,
                    expires,
                    seen: now,
                    proved: now,
                    generation,
                    suspect: false,
                    unclean: false,
                    broken: false,
                    out: None,
                });
                let took = Duration::from_nanos(now.saturating_sub(started));
                self.times.connects.record(took);
                self.hook.emit(Event::Connected { took });
                let mut state = self.state();
                let (home, mode) = (state.core.dialled(now, entry), state.core.mode());
                drop(state);
                self.settle(home, mode);
            }
            Ended::Failed(error) => self.fail(started, error),
        }
    }

    fn expiry(&self, now: u64) -> u64 {
        let lifetime = self.settings.max_lifetime;
        if lifetime == NEVER {
            return NEVER;
        }
        // A tenth, so that those that were made together do not end together.
        now.saturating_add(lifetime - self.settings.seeds.next().up_to(lifetime / 10))
    }

    fn fail(&self, started: u64, error: ConnectError<M::Error>) {
        let failures = self.state().core.failures_with(started);
        // May be the user's code.
        let delay = self.settings.backoff.delay(failures, &mut self.settings.seeds.next());
        let delay = delay.unwrap_or(LONGEST_BACKOFF);
        let now = self.clock.nanos();
        let (is_failing, _old) = {
            let mut state = self.state();
            state.core.failed(now, started, saturating_nanos(delay));
            (state.core.is_failing(), state.failure.replace(error))
        };
        let attempt = u16::try_from(failures).unwrap_or(u16::MAX);
        self.hook.emit(Event::Retrying { attempt, delay });
        if is_failing {
            self.serve();
        }
        self.tell_drain();
    }

    /// Takes what is under way from one who leaves.
    pub(super) fn lay_down(&self, jobs: Vec<Job<M>>) {
        if jobs.is_empty() {
            return;
        }
        let mut state = self.state();
        state.resting.extend(jobs);
        if state.core.mode() == Mode::Closed {
            drop(state);
            self.hang_up();
        }
    }

    /// Ends the dials that nobody drives.
    pub(super) fn hang_up(&self) {
        let mut state = self.state();
        let (dials, closes): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut state.resting).into_iter().partition(Job::is_dial);
        state.resting = closes;
        dials.iter().for_each(|_| state.core.abandoned());
        drop(state);
        if !dials.is_empty() {
            dials.into_iter().for_each(Job::put_away);
            self.bell.ring();
        }
    }
}

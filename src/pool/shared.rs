//! What all that use a pool share: [`Shared`], and how it serves those who wait.
//!
//! There are two locks. That of the state is held for a few instructions by everybody; that of the line is taken first, and
//! only where somebody waits. The core's mark, set under both before the first waiter looks a last time, brings everybody
//! else to the line: nothing that comes home in between is missed.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::Duration;

use super::PoolStatus;
use super::core::{Core, Entry, Home, Limits, Mode, Served};
use super::error::ConnectError;
use super::job::{Ended, Job};
use super::manager::Manager;
use crate::backoff::Backoff;
use crate::bell::Bell;
use crate::clock::{Clock, NEVER};
use crate::error::{Reason, Rejected, saturating_nanos};
use crate::event::{Event, Hook};
use crate::rng::Seeds;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};
use crate::wait::{Line, Turn, WaitList, serve_waiters};

pub(super) struct Shared<M: Manager> {
    pub(super) manager: Arc<M>,
    state: Mutex<State<M>>,
    pub(super) list: Mutex<WaitList<Slot<M::Connection>>>,
    /// 1 if connections were doomed under the line's lock, where nothing can be closed.
    doomed: AtomicU64,
    /// How many [`Pool`](super::Pool)s there are of this one.
    pub(super) handles: AtomicU64,
    pub(super) bell: Bell,
    seeds: Seeds,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) hook: Hook,
}

pub(super) struct State<M: Manager> {
    pub(super) core: Core<M::Connection>,
    /// What is under way and driven by nobody.
    pub(super) resting: VecDeque<Job<M>>,
    /// How the last dial failed.
    failure: Option<ConnectError<M::Error>>,
}

/// Times in nanoseconds.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) timeout: u64,
    pub(super) check_after: u64,
    pub(super) check_timeout: u64,
    pub(super) connect_timeout: u64,
    pub(super) close_timeout: u64,
    pub(super) max_lifetime: u64,
    pub(super) backoff: Backoff,
}

/// What a waiter brings, and takes away.
pub(super) struct Slot<C> {
    /// Who was given a connection that did not work stands before those who were given none.
    rank: u8,
    /// It drives something.
    pub(super) busy: bool,
    /// It was woken to see what there is to do.
    pub(super) nudged: bool,
    grant: Grant<C>,
}

pub(super) enum Grant<C> {
    Nothing,
    Entry(Box<Entry<C>>),
    Failed,
}

impl<C> Slot<C> {
    pub(super) const AGAIN: u8 = 0;
    pub(super) const FIRST: u8 = 1;

    pub(super) const fn new(rank: u8) -> Self {
        Self { rank, busy: false, nudged: false, grant: Grant::Nothing }
    }

    pub(super) fn into_grant(self) -> Grant<C> {
        self.grant
    }
}

impl<M: Manager> Line for Shared<M> {
    type Slot = Slot<M::Connection>;

    fn list(&self) -> &Mutex<WaitList<Self::Slot>> {
        &self.list
    }

    fn serve_one(&self, slot: &mut Self::Slot) -> Turn {
        let mut state = self.state.lock();
        let served = state.core.serve();
        self.note(&state);
        drop(state);
        slot.grant = match served {
            Served::Entry(entry) => Grant::Entry(entry),
            Served::Failed => Grant::Failed,
            Served::NotYet => return Turn::NotYet,
            Served::Closed => return Turn::Never,
        };
        Turn::Served
    }

    fn take_back(&self, slot: Self::Slot) {
        if let Grant::Entry(entry) = slot.grant {
            let mut state = self.state.lock();
            state.core.put_back(entry);
            self.note(&state);
        }
    }

    fn mark(&self, somebody_waits: bool) {
        let mut state = self.state.lock();
        state.core.mark(somebody_waits);
        self.note(&state);
    }

    fn rank(slot: &Self::Slot) -> u8 {
        slot.rank
    }
}

impl<M: Manager> Shared<M> {
    pub(super) fn new(
        manager: M,
        limits: Limits,
        settings: Settings,
        list: WaitList<Slot<M::Connection>>,
        seeds: Seeds,
        clock: Clock,
        hook: Hook,
    ) -> Self {
        let state = State { core: Core::new(limits), resting: VecDeque::new(), failure: None };
        Self {
            manager: Arc::new(manager),
            state: Mutex::new(state),
            list: Mutex::new(list),
            doomed: AtomicU64::new(0),
            handles: AtomicU64::new(1),
            bell: Bell::default(),
            seeds,
            settings,
            clock,
            hook,
        }
    }

    #[inline]
    pub(super) fn state(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock()
    }

    /// Remembers that there is something to close.
    fn note(&self, state: &State<M>) {
        if state.core.has_doomed() {
            // Relaxed: who notes it under the lock looks itself once it has left.
            self.doomed.store(1, Ordering::Relaxed);
        }
    }

    /// Closes what was doomed while somebody was served.
    pub(super) fn tidy(&self) {
        if self.doomed.load(Ordering::Relaxed) != 0 {
            self.doomed.store(0, Ordering::Relaxed);
            self.bury();
        }
    }

    /// Takes a connection for a newcomer.
    #[inline]
    pub(super) fn take(&self, now: u64) -> Served<M::Connection> {
        let mut state = self.state.lock();
        let served = state.core.take(now);
        let has_doomed = state.core.has_doomed();
        drop(state);
        if has_doomed {
            self.bury();
        }
        served
    }

    /// Takes one that may be given out as it is.
    pub(super) fn take_unchecked(&self, now: u64) -> Served<M::Connection> {
        let served = self.state.lock().core.take_unchecked(now);
        self.bury();
        served
    }

    /// Says whether a connection may be given out unchecked.
    #[inline]
    pub(super) fn is_fit(&self, entry: &Entry<M::Connection>, now: u64) -> bool {
        !entry.suspect && !entry.unclean && now.saturating_sub(entry.seen) < self.settings.check_after
    }

    /// Takes a connection home.
    #[inline]
    pub(super) fn come_home(&self, mut entry: Box<Entry<M::Connection>>) {
        // Whoever unwinds may have left it anyhow.
        entry.suspect |= thread::panicking();
        if !entry.broken {
            let connection = &mut entry.connection;
            let look = || (self.manager.is_broken(connection), self.manager.needs_reset(connection));
            let (is_broken, needs_reset) = catch_unwind(AssertUnwindSafe(look)).unwrap_or((true, false));
            entry.broken = is_broken;
            entry.unclean |= needs_reset;
        }
        let mut state = self.state.lock();
        let home = state.core.give(entry);
        let mode = state.core.mode();
        drop(state);
        if home != Home::Idle || mode != Mode::Open {
            self.settle(home);
        }
    }

    /// A connection will not come home.
    pub(super) fn lose(&self) {
        self.state.lock().core.taken_away();
        self.rouse();
    }

    /// Does what follows from a connection's coming home.
    #[cold]
    fn settle(&self, home: Home) {
        match home {
            Home::Awaited => self.serve(),
            Home::Doomed => self.bury(),
            Home::Idle => {}
        }
        self.tell_drain();
    }

    fn tell_drain(&self) {
        if self.state.lock().core.mode() == Mode::Draining {
            self.bell.ring();
        }
    }

    /// Serves those who wait.
    pub(super) fn serve(&self) {
        let now = self.clock.nanos();
        let list = self.list.lock();
        self.state.lock().core.advance(now);
        serve_waiters(self, list);
        self.tidy();
    }

    /// Begins to close what is doomed.
    pub(super) fn bury(&self) {
        let doomed = self.state.lock().core.doomed();
        if doomed.is_empty() {
            return;
        }
        let deadline = self.clock.after(Duration::from_nanos(self.settings.close_timeout));
        for entry in doomed {
            let mut job = Job::close(self.manager.clone(), entry.connection, deadline);
            // Most are closed at once.
            match job.poll(Waker::noop()) {
                Some(ended) => {
                    self.end(job, ended);
                }
                None => self.state.lock().resting.push_back(job),
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
                self.state.lock().core.gone();
                self.tell_drain();
            }
            Ended::Connected(connection) => {
                let now = self.clock.nanos();
                let expires = self.expiry(now);
                let entry = Box::new(Entry {
                    connection,
                    expires,
                    seen: now,
                    generation,
                    suspect: false,
                    unclean: false,
                    broken: false,
                });
                let home = self.state.lock().core.dialled(now, entry);
                self.settle(home);
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
        now.saturating_add(lifetime - self.seeds.next().up_to(lifetime / 10))
    }

    fn fail(&self, started: u64, error: ConnectError<M::Error>) {
        let failures = self.state.lock().core.failures_with(started);
        // May be the user's code.
        let delay = self.settings.backoff.delay(failures, &mut self.seeds.next());
        let delay = delay.unwrap_or(LONGEST_BACKOFF);
        let now = self.clock.nanos();
        let (is_failing, _old) = {
            let mut state = self.state.lock();
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
        let mut state = self.state.lock();
        state.resting.extend(jobs);
        if state.core.mode() == Mode::Closed {
            drop(state);
            self.hang_up();
        }
    }

    /// Ends the dials that nobody drives.
    pub(super) fn hang_up(&self) {
        let mut state = self.state.lock();
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

    /// Sees to it that somebody does what there is to do.
    pub(super) fn rouse(&self) {
        let mut list = self.list.lock();
        let state = self.state.lock();
        let core = &state.core;
        let wanted = !state.resting.is_empty() || core.wants_dial(list.len()) && !core.is_kept();
        let (has_runner, is_open) = (core.runners > 0, core.mode() == Mode::Open);
        drop(state);
        let waker = if wanted && !has_runner { nudge(&mut list, true) } else { None };
        drop(list);
        if let Some(waker) = waker {
            waker.wake();
        }
        if wanted && has_runner || !is_open {
            self.bell.ring();
        }
    }

    /// Returns how the last dial failed, if none has succeeded since.
    pub(super) fn failure(&self) -> Option<ConnectError<M::Error>> {
        let state = self.state.lock();
        if state.core.failures() > 0 { state.failure.clone() } else { None }
    }

    pub(super) fn refused(&self, reason: Reason) -> Rejected {
        let rejected = Rejected::new(self.hook.name, reason);
        self.hook.emit(Event::Rejected(rejected));
        rejected
    }

    pub(super) fn status(&self) -> PoolStatus {
        let list = self.list.lock();
        let state = self.state.lock();
        let core = &state.core;
        PoolStatus {
            max: core.limits.max,
            total: core.total(),
            idle: core.idle(),
            in_use: core.in_use(),
            connecting: core.connecting(),
            waiting: list.len(),
        }
    }
}

/// For backoffs that end.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// Picks who is to see what there is to do: one who does nothing yet, or also another one.
pub(super) fn nudge<C>(list: &mut WaitList<Slot<C>>, also_busy: bool) -> Option<Waker> {
    let somebody_free = list.nudge(|slot| !slot.busy).map(|(slot, waker)| {
        slot.nudged = true;
        waker
    });
    match somebody_free {
        Some(waker) => waker,
        None if also_busy => {
            let (slot, waker) = list.nudge(|_| true)?;
            slot.nudged = true;
            waker
        }
        None => None,
    }
}

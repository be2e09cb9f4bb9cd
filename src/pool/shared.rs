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
use super::held::{Held, HeldFor};
use super::hooks::Hooks;
use super::job::Job;
use super::manager::Manager;
use super::stats::Times;
use crate::backoff::Backoff;
use crate::bell::Bell;
use crate::clock::{Clock, NEVER};
use crate::error::{Reason, Rejected};
use crate::event::{Event, Hook};
use crate::rng::Seeds;
use crate::short::{Short, ShortGuard};
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::wait::{Line, Turn, WaitList, serve_next, serve_waiters, wake_first};

pub(super) struct Shared<M: Manager> {
    pub(super) manager: Arc<M>,
    pub(super) hooks: Arc<Hooks<M>>,
    state: Short<State<M>>,
    pub(super) list: Mutex<WaitList<Slot<M::Connection>>>,
    /// 1 if connections were doomed under the line's lock, where nothing can be closed.
    doomed: AtomicU64,
    /// 1 if there may have been something to do when somebody came to wait.
    has_work: AtomicU64,
    /// How many [`Pool`](super::Pool)s there are of this one.
    pub(super) handles: AtomicU64,
    pub(super) bell: Bell,
    pub(super) settings: Settings,
    pub(super) times: Times,
    pub(super) clock: Clock,
    pub(super) hook: Hook,
}

pub(super) struct State<M: Manager> {
    pub(super) core: Core<M::Connection>,
    /// What is under way and driven by nobody.
    pub(super) resting: VecDeque<Job<M>>,
    /// How the last dial failed.
    pub(super) failure: Option<ConnectError<M::Error>>,
    pub(super) held: Held,
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
    pub(super) keepalive: u64,
    pub(super) leak_after: u64,
    pub(super) measure_holds: bool,
    pub(super) barging: bool,
    /// What comes home goes to the first who waits, whatever the time.
    pub(super) in_order: bool,
    pub(super) backoff: Backoff,
    pub(super) seeds: Seeds,
}

/// What a waiter brings, and takes away.
pub(super) struct Slot<C> {
    /// By priority; of one, who was given a connection that did not work stands before those who were given none.
    rank: u8,
    /// When it came to wait.
    since: u64,
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
    Shed,
}

/// How long others may pass the first one in line, in nanoseconds, where they may.
const GRACE: u64 = 1_000_000;

impl<C> Slot<C> {
    pub(super) const fn new(priority: u8, again: bool, since: u64) -> Self {
        // Two priorities share a rank, and its lowest bit says who came again.
        let rank = (u8::MAX - priority) | 1;
        let rank = if again { rank - 1 } else { rank };
        Self { rank, since, busy: false, nudged: false, grant: Grant::Nothing }
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
        let served = state.core.serve(slot.rank | 1, slot.since);
        self.note(&state);
        drop(state);
        slot.grant = match served {
            Served::Entry(entry) => Grant::Entry(entry),
            Served::Failed => Grant::Failed,
            Served::Shed => Grant::Shed,
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
        // Under both locks: what comes to be done after this finds who is about to wait in the line.
        let has_work = !state.resting.is_empty() || state.core.has_room();
        self.has_work.store(u64::from(has_work), Ordering::Relaxed);
        self.note(&state);
    }

    fn may_be_passed(&self) -> bool {
        self.settings.barging
    }

    fn rank(slot: &Self::Slot) -> u8 {
        slot.rank
    }
}

impl<M: Manager> Shared<M> {
    pub(super) fn new(
        manager: M,
        hooks: Hooks<M>,
        limits: Limits,
        settings: Settings,
        list: WaitList<Slot<M::Connection>>,
        clock: Clock,
        hook: Hook,
    ) -> Self {
        let held = Held::new(settings.leak_after);
        let state = State { core: Core::new(limits), resting: VecDeque::new(), failure: None, held };
        Self {
            manager: Arc::new(manager),
            hooks: Arc::new(hooks),
            state: Short::new(state),
            list: Mutex::new(list),
            doomed: AtomicU64::new(0),
            has_work: AtomicU64::new(0),
            handles: AtomicU64::new(1),
            bell: Bell::default(),
            settings,
            times: Times::default(),
            clock,
            hook,
        }
    }

    #[inline]
    pub(super) fn state(&self) -> ShortGuard<'_, State<M>> {
        self.state.lock()
    }

    /// Remembers that there is something to close.
    fn note(&self, state: &State<M>) {
        if state.core.has_doomed() {
            // Relaxed: who notes it under the lock looks itself once it has left.
            self.doomed.store(1, Ordering::Relaxed);
        }
    }

    /// Says whether one who has just come to wait is to look for something to do.
    pub(super) fn has_work(&self) -> bool {
        self.has_work.load(Ordering::Relaxed) != 0
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
        !entry.suspect && !entry.unclean && now.saturating_sub(entry.proved) < self.settings.check_after
    }

    /// Takes a connection home.
    #[inline]
    pub(super) fn come_home(&self, mut entry: Box<Entry<M::Connection>>) {
        // Whoever unwinds may have left it anyhow.
        entry.suspect |= thread::panicking();
        let mut found_broken = false;
        if !entry.broken {
            let connection = &mut entry.connection;
            let look = || (self.manager.is_broken(connection), self.manager.needs_reset(connection));
            let (is_broken, needs_reset) = catch_unwind(AssertUnwindSafe(look)).unwrap_or((true, false));
            found_broken = is_broken;
            entry.broken = is_broken || !self.hooks.keeps(connection);
            entry.unclean |= needs_reset;
        }
        if self.settings.measure_holds {
            let held = self.clock.nanos().saturating_sub(entry.seen);
            self.times.holds.record(Duration::from_nanos(held));
        }
        let out = entry.out.take();
        let mut state = self.state.lock();
        if let Some(out) = out {
            state.held.comes_home(out);
        }
        if found_broken {
            // What broke this one may have broken all.
            state.core.suspect();
        }
        let home = state.core.give(entry);
        let mode = state.core.mode();
        drop(state);
        if home != Home::Idle || mode != Mode::Open {
            self.settle(home, mode);
        }
    }

    /// A connection will not come home.
    pub(super) fn lose(&self, out: Option<usize>) {
        {
            let mut state = self.state.lock();
            state.core.taken_away();
            if let Some(out) = out {
                state.held.comes_home(out);
            }
        }
        self.rouse();
    }

    /// Tells of what is held for too long, each once, and says when to do so next.
    pub(super) fn tell_leaks(&self, now: u64) -> u64 {
        if self.settings.leak_after == NEVER {
            return NEVER;
        }
        loop {
            let mut state = self.state.lock();
            let Some(HeldFor { at, held }) = state.held.next_overdue(now) else {
                return state.held.overdue_at();
            };
            state.core.counts.leaks += 1;
            drop(state);
            self.hook.emit(Event::HeldTooLong { at, held });
        }
    }

    /// Does what follows from a connection's coming home.
    #[cold]
    pub(super) fn settle(&self, home: Home, mode: Mode) {
        match home {
            Home::Awaited if self.settings.in_order => {
                serve_next(self, self.list.lock());
                self.tidy();
            }
            Home::Awaited => self.serve(),
            Home::Offered(now) => {
                let list = self.list.lock();
                if list.first().is_some_and(|slot| now.saturating_sub(slot.since) < GRACE) {
                    wake_first(list);
                } else {
                    drop(list);
                    self.serve();
                }
            }
            Home::Doomed => self.bury(),
            Home::Idle => {}
        }
        if mode == Mode::Draining {
            self.bell.ring();
        }
    }

    pub(super) fn tell_drain(&self) {
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

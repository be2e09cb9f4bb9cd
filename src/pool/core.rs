//! What a pool decides: who gets a connection, which ones are closed, when to connect: [`Core`].
//!
//! It is told the time, runs no code of a user's, and drops nothing of one's: what has to be closed is handed out. Every
//! connection stands in exactly one place: it is *idle*, or *connecting*, or *in use*, which is all else: given out, being
//! checked, or being closed. So the three always add up to `total`, and what a dial may add is decided in the same step
//! that counts it.

use std::collections::VecDeque;

use crate::clock::NEVER;

/// A connection, and what the pool knows of it.
#[derive(Debug)]
pub(super) struct Entry<C> {
    pub(super) connection: C,
    /// When it is too old to be given out.
    pub(super) expires: u64,
    /// When it was last taken or came home, as well as the pool knew the time then.
    pub(super) seen: u64,
    pub(super) generation: u64,
    /// It must be checked before it is given out, however short a time ago it was used.
    pub(super) suspect: bool,
    /// It must be reset before it is given out.
    pub(super) unclean: bool,
    /// It must not be given out again.
    pub(super) broken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) max: usize,
    /// How many more there may be while somebody waits.
    pub(super) overflow: usize,
    pub(super) max_idle: usize,
    pub(super) max_connecting: usize,
    pub(super) idle_timeout: u64,
    /// After so many failed dials in a row nobody waits for the next one.
    pub(super) fail_fast_after: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Open,
    /// Nothing is given out for a while.
    Paused,
    /// Those who wait are served, nobody else is.
    Draining,
    Closed,
}

#[derive(Debug)]
pub(super) struct Core<C> {
    /// The one that was used last is at the back.
    idle: VecDeque<Box<Entry<C>>>,
    /// To be closed; in use until they are.
    doomed: Vec<Box<Entry<C>>>,
    total: usize,
    connecting: usize,
    /// Of those in use: how many are being closed, or are about to be.
    closing: usize,
    pub(super) limits: Limits,
    mode: Mode,
    generation: u64,
    /// Somebody waits: nobody may take a connection but from the line.
    waited_for: bool,
    /// The latest time that was told.
    now: u64,
    /// No idle connection is overdue before.
    sweep_at: u64,
    /// How many rounds of dials have failed since one succeeded.
    failures: u32,
    failed_at: u64,
    /// No dial starts before.
    retry_at: u64,
    /// How many drive what there is to do as long as they live.
    pub(super) runners: usize,
    /// One of those who wait sleeps until `retry_at`.
    pub(super) keeper: bool,
}

/// What a caller gets.
#[derive(Debug)]
pub(super) enum Served<C> {
    Entry(Box<Entry<C>>),
    NotYet,
    /// It could not connect, and is not to wait for the next try.
    Failed,
    Closed,
}

/// Where a connection went that came home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Idle,
    /// It is idle, and somebody waits.
    Awaited,
    Doomed,
}

/// What to do about dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Connect; it is counted already.
    Dial {
        generation: u64,
    },
    /// Look again at this time.
    At(u64),
    Nothing,
}

impl<C> Core<C> {
    pub(super) const fn new(limits: Limits) -> Self {
        Self {
            idle: VecDeque::new(),
            doomed: Vec::new(),
            total: 0,
            connecting: 0,
            closing: 0,
            limits,
            mode: Mode::Open,
            generation: 0,
            waited_for: false,
            now: 0,
            sweep_at: NEVER,
            failures: 0,
            failed_at: 0,
            retry_at: 0,
            runners: 0,
            keeper: false,
        }
    }

    pub(super) const fn total(&self) -> usize {
        self.total
    }

    pub(super) const fn connecting(&self) -> usize {
        self.connecting
    }

    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    pub(super) fn in_use(&self) -> usize {
        self.total - self.connecting - self.idle.len()
    }

    pub(super) const fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) const fn now(&self) -> u64 {
        self.now
    }

    pub(super) const fn sweep_at(&self) -> u64 {
        self.sweep_at
    }

    /// Learns the time. One that is told late, or a clock that was set back, does not turn it back.
    pub(super) const fn advance(&mut self, now: u64) {
        if now > self.now {
            self.now = now;
        }
    }

    pub(super) fn mark(&mut self, somebody_waits: bool) {
        self.waited_for = somebody_waits;
        if !somebody_waits {
            self.trim();
        }
    }

    /// Takes a connection for a newcomer, who passes nobody who waits.
    #[inline]
    pub(super) fn take(&mut self, now: u64) -> Served<C> {
        self.advance(now);
        if self.mode != Mode::Open {
            return if self.mode == Mode::Paused { Served::NotYet } else { Served::Closed };
        }
        if self.waited_for { Served::NotYet } else { self.pop() }
    }

    /// Takes one for a newcomer that may be given out as it is.
    pub(super) fn take_unchecked(&mut self, now: u64) -> Served<C> {
        self.advance(now);
        if self.mode == Mode::Draining || self.mode == Mode::Closed {
            return Served::Closed;
        }
        if self.mode == Mode::Paused || self.waited_for {
            return Served::NotYet;
        }
        if self.now >= self.sweep_at {
            self.sweep();
        }
        let place = self.idle.iter().rposition(|entry| !entry.suspect && !entry.unclean);
        place.and_then(|place| self.idle.remove(place)).map_or(Served::NotYet, Served::Entry)
    }

    /// Takes a connection for the first who waits.
    pub(super) fn serve(&mut self) -> Served<C> {
        match self.mode {
            Mode::Open | Mode::Draining => self.pop(),
            Mode::Paused => Served::NotYet,
            Mode::Closed => Served::Closed,
        }
    }

    #[inline]
    fn pop(&mut self) -> Served<C> {
        if self.now >= self.sweep_at {
            self.sweep();
        }
        match self.idle.pop_back() {
            Some(entry) => Served::Entry(entry),
            None if self.is_failing() => Served::Failed,
            None => Served::NotYet,
        }
    }

    pub(super) const fn is_failing(&self) -> bool {
        self.failures >= self.limits.fail_fast_after && self.now < self.retry_at
    }

    /// Takes a connection home that was used.
    #[inline]
    pub(super) fn give(&mut self, mut entry: Box<Entry<C>>) -> Home {
        entry.seen = entry.seen.max(self.now);
        self.put_back(entry)
    }

    /// Takes a connection home as it was.
    #[inline]
    pub(super) fn put_back(&mut self, entry: Box<Entry<C>>) -> Home {
        let fits = self.living() <= self.limits.max.saturating_add(self.limits.overflow)
            && entry.generation == self.generation
            && self.now < entry.expires
            && !entry.broken
            && self.mode != Mode::Closed;
        if !fits || !self.waited_for && self.is_surplus() {
            self.doom(entry);
            return Home::Doomed;
        }
        self.sweep_at = self.sweep_at.min(self.due(&entry));
        self.idle.push_back(entry);
        if self.waited_for { Home::Awaited } else { Home::Idle }
    }

    /// Returns whether there is one more than are kept.
    fn is_surplus(&self) -> bool {
        self.living() > self.limits.max || self.idle.len() >= self.limits.max_idle
    }

    const fn living(&self) -> usize {
        self.total - self.closing
    }

    #[cold]
    fn doom(&mut self, entry: Box<Entry<C>>) {
        self.closing += 1;
        self.doomed.push(entry);
    }

    fn doom_idle(&mut self) {
        self.closing += self.idle.len();
        self.doomed.extend(self.idle.drain(..));
    }

    fn due(&self, entry: &Entry<C>) -> u64 {
        entry.expires.min(entry.seen.saturating_add(self.limits.idle_timeout))
    }

    /// Dooms what is overdue.
    #[cold]
    pub(super) fn sweep(&mut self) {
        self.sweep_at = NEVER;
        for _ in 0..self.idle.len() {
            let Some(entry) = self.idle.pop_front() else { break };
            let due = self.due(&entry);
            if due <= self.now {
                self.doom(entry);
            } else {
                self.sweep_at = self.sweep_at.min(due);
                self.idle.push_back(entry);
            }
        }
    }

    /// Dooms what is more than may be kept, those first that were not used for longest.
    pub(super) fn trim(&mut self) {
        while self.living() > self.limits.max || self.idle.len() > self.limits.max_idle {
            let Some(entry) = self.idle.pop_front() else { break };
            self.doom(entry);
        }
    }

    /// Lets no connection be given out any more that there is now, nor any that is being made.
    pub(super) fn clear(&mut self) {
        self.generation += 1;
        self.doom_idle();
    }

    /// Has all idle connections checked before they are given out.
    pub(super) fn suspect(&mut self) {
        self.idle.iter_mut().for_each(|entry| entry.suspect = true);
    }

    pub(super) fn enter(&mut self, mode: Mode) {
        self.mode = mode;
        if mode == Mode::Closed {
            self.doom_idle();
        }
    }

    pub(super) fn has_doomed(&self) -> bool {
        !self.doomed.is_empty()
    }

    /// Hands out what is to be closed; each is [`gone`](Core::gone) when it is.
    pub(super) fn doomed(&mut self) -> Vec<Box<Entry<C>>> {
        std::mem::take(&mut self.doomed)
    }

    /// A connection that was doomed is closed.
    pub(super) const fn gone(&mut self) {
        self.closing -= 1;
        self.total -= 1;
    }

    /// A connection that was given out will not come home.
    pub(super) const fn taken_away(&mut self) {
        self.total -= 1;
    }

    /// Returns whether there should be one more dial, now or after a pause, for so many who wait.
    pub(super) fn wants_dial(&self, waiting: usize) -> bool {
        // Who waits may be about to be served what is idle.
        let unserved = waiting.saturating_sub(self.idle.len());
        matches!(self.mode, Mode::Open | Mode::Draining)
            && self.connecting < unserved.min(self.limits.max_connecting)
            && self.total < self.limits.max.saturating_add(self.limits.overflow)
    }

    /// Returns whether nobody but one who sleeps until the next try can do anything about dials.
    pub(super) const fn is_kept(&self) -> bool {
        self.keeper && self.now < self.retry_at
    }

    /// Starts a dial, if there should be one more now.
    pub(super) fn plan(&mut self, now: u64, waiting: usize) -> Plan {
        self.advance(now);
        if !self.wants_dial(waiting) {
            return Plan::Nothing;
        }
        if self.now < self.retry_at {
            return Plan::At(self.retry_at);
        }
        self.total += 1;
        self.connecting += 1;
        Plan::Dial { generation: self.generation }
    }

    /// A dial has succeeded: takes its connection home.
    pub(super) fn dialled(&mut self, now: u64, entry: Box<Entry<C>>) -> Home {
        self.advance(now);
        self.connecting -= 1;
        (self.failures, self.retry_at) = (0, 0);
        self.put_back(entry)
    }

    /// Returns how often dials have failed in a row, with one that began at `started`. Those that were under way together
    /// have failed together, and count once.
    pub(super) const fn failures_with(&self, started: u64) -> u32 {
        if self.failures == 0 || started >= self.failed_at {
            self.failures.saturating_add(1)
        } else {
            self.failures
        }
    }

    /// A dial that began at `started` has failed: none starts for so long.
    pub(super) fn failed(&mut self, now: u64, started: u64, delay: u64) {
        self.advance(now);
        self.abandoned();
        self.failures = self.failures_with(started);
        self.failed_at = self.now;
        self.retry_at = self.retry_at.max(self.now.saturating_add(delay));
    }

    /// A dial is no more, and says nothing about the next.
    pub(super) const fn abandoned(&mut self) {
        self.connecting -= 1;
        self.total -= 1;
    }
}

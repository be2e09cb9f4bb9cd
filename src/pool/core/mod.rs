//! What a pool decides: who gets a connection, here; which ones are closed, in `ends`; when to connect, in `dials`:
//! [`Core`].
//!
//! It is told the time, runs no code of a user's, and drops nothing of one's: what has to be closed is handed out. Every
//! connection stands in exactly one place: it is *idle*, or *connecting*, or *in use*, which is all else: given out, being
//! checked, or being closed. So the three always add up to `total`, and what a dial may add is decided in the same step
//! that counts it.

mod dials;
mod ends;
mod overload;

pub(super) use dials::Plan;

use std::collections::VecDeque;

use crate::clock::NEVER;
use overload::Overload;

/// A connection, and what the pool knows of it.
#[derive(Debug)]
pub(super) struct Entry<C> {
    pub(super) connection: C,
    /// When it is too old to be given out.
    pub(super) expires: u64,
    /// When it was last taken or came home, as well as the pool knew the time then.
    pub(super) seen: u64,
    /// When it was last known to work.
    pub(super) proved: u64,
    pub(super) generation: u64,
    /// It must be checked before it is given out, however short a time ago it was used.
    pub(super) suspect: bool,
    /// It must be reset before it is given out.
    pub(super) unclean: bool,
    /// It must not be given out again.
    pub(super) broken: bool,
    /// Under which key it is known to be given out.
    pub(super) out: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) max: usize,
    /// How many more there may be while somebody waits.
    pub(super) overflow: usize,
    pub(super) max_idle: usize,
    /// So many are kept idle, if somebody runs the pool.
    pub(super) min_idle: usize,
    pub(super) max_connecting: usize,
    pub(super) idle_timeout: u64,
    /// How long before its end one is replaced, if somebody runs the pool.
    pub(super) replace_ahead: u64,
    /// After so many failed dials in a row nobody waits for the next one.
    pub(super) fail_fast_after: u32,
    /// Those who wait may be passed by others.
    pub(super) barging: bool,
    /// Target and interval.
    pub(super) codel: Option<(u64, u64)>,
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
    /// The first who waits is woken, to take what is idle if it comes first.
    offered: bool,
    overload: Overload,
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
    /// How many are to be made for others that were closed ahead of their time.
    owed: usize,
    /// How many there are to be before the pool is ready, as long as somebody waits for that.
    pub(super) warm_up: usize,
    pub(super) counts: Counts,
}

/// What has happened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) served: u64,
    pub(super) connected: u64,
    pub(super) failed: u64,
    pub(super) closed: u64,
    pub(super) timed_out: u64,
    pub(super) shed: u64,
    pub(super) leaks: u64,
}

/// What a caller gets.
#[derive(Debug)]
pub(super) enum Served<C> {
    Entry(Box<Entry<C>>),
    NotYet,
    /// It could not connect, and is not to wait for the next try.
    Failed,
    /// It has waited for too long, in a pool that is overloaded.
    Shed,
    Closed,
}

/// Where a connection went that came home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Idle,
    /// It is idle, and somebody waits.
    Awaited,
    /// It is idle for whoever comes first, and who waits first is to hear that; and the time.
    Offered(u64),
    Doomed,
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
            offered: false,
            overload: Overload::new(limits.codel),
            now: 0,
            sweep_at: NEVER,
            failures: 0,
            failed_at: 0,
            retry_at: 0,
            runners: 0,
            keeper: false,
            owed: 0,
            warm_up: 0,
            counts: Counts { served: 0, connected: 0, failed: 0, closed: 0, timed_out: 0, shed: 0, leaks: 0 },
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

    pub(super) const fn now(&self) -> u64 {
        self.now
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
            self.offered = false;
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
        if self.is_barred() {
            return Served::NotYet;
        }
        let served = self.pop();
        if let Served::Entry(_) = served {
            self.overload.ends();
        }
        served
    }

    /// Returns whether a newcomer must not take what is idle.
    const fn is_barred(&self) -> bool {
        self.waited_for && !self.limits.barging
    }

    /// Takes one for a newcomer that may be given out as it is.
    pub(super) fn take_unchecked(&mut self, now: u64) -> Served<C> {
        self.advance(now);
        if self.mode == Mode::Draining || self.mode == Mode::Closed {
            return Served::Closed;
        }
        if self.mode == Mode::Paused || self.is_barred() {
            return Served::NotYet;
        }
        if self.now >= self.sweep_at {
            self.sweep();
        }
        let place = self.idle.iter().rposition(|entry| !entry.suspect && !entry.unclean);
        let Some(entry) = place.and_then(|place| self.idle.remove(place)) else { return Served::NotYet };
        self.counts.served += 1;
        Served::Entry(entry)
    }

    /// Takes a connection for the first who waits, of that rank, since then.
    pub(super) fn serve(&mut self, rank: u8, since: u64) -> Served<C> {
        self.offered = false;
        match self.mode {
            Mode::Open | Mode::Draining => {}
            Mode::Paused => return Served::NotYet,
            Mode::Closed => return Served::Closed,
        }
        if !self.idle.is_empty() && self.overload.refuses(rank, self.now, since) {
            self.counts.shed += 1;
            return Served::Shed;
        }
        self.pop()
    }

    #[inline]
    fn pop(&mut self) -> Served<C> {
        if self.now >= self.sweep_at {
            self.sweep();
        }
        match self.idle.pop_back() {
            Some(entry) => {
                self.counts.served += 1;
                Served::Entry(entry)
            }
            None if self.is_failing() => Served::Failed,
            None => Served::NotYet,
        }
    }

    /// Takes a connection home that was used.
    #[inline]
    pub(super) fn give(&mut self, mut entry: Box<Entry<C>>) -> Home {
        entry.seen = entry.seen.max(self.now);
        entry.proved = entry.proved.max(self.now);
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
        if !self.waited_for {
            return Home::Idle;
        }
        // A second one that is idle shows that who was woken does not come.
        if !self.limits.barging || self.idle.len() > 1 {
            return Home::Awaited;
        }
        if std::mem::replace(&mut self.offered, true) { Home::Idle } else { Home::Offered(self.now) }
    }

    pub(super) const fn living(&self) -> usize {
        self.total - self.closing
    }

    pub(super) fn enter(&mut self, mode: Mode) {
        self.mode = mode;
        if mode == Mode::Closed {
            self.doom_idle();
        }
    }

    /// A connection that was given out will not come home.
    pub(super) const fn taken_away(&mut self) {
        self.total -= 1;
    }
}

#[cfg(test)]
mod twin;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The obvious pool: a list of all connections, and where each of them is.
    #[derive(Default)]
    struct Twin {
        /// Of those that are idle, the one that came home last is last.
        connections: Vec<Connection>,
        max: usize,
        overflow: usize,
        max_idle: usize,
        generation: u64,
        now: u64,
        failures: u32,
        failed_at: u64,
        retry_at: u64,
        waited_for: bool,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Place {
        Idle,
        Used,
        Closing,
        /// Since when.
        Dialling(u64),
    }

    #[derive(Clone, Copy, Debug)]
    struct Connection {
        number: u32,
        place: Place,
        seen: u64,
        expires: u64,
        generation: u64,
    }

    const IDLE_TIMEOUT: u64 = 50;
    const LIFETIME: u64 = 120;
    const MAX_CONNECTING: usize = 2;

    impl Twin {
        fn count(&self, is: impl Fn(Place) -> bool) -> usize {
            self.connections.iter().filter(|connection| is(connection.place)).count()
        }

        fn idle(&self) -> usize {
            self.count(|place| place == Place::Idle)
        }

        fn dialling(&self) -> usize {
            self.count(|place| matches!(place, Place::Dialling(_)))
        }

        fn living(&self) -> usize {
            self.count(|place| place != Place::Closing)
        }

        fn sweep(&mut self) {
            let now = self.now;
            for connection in &mut self.connections {
                let overdue = connection.expires <= now || connection.seen + IDLE_TIMEOUT <= now;
                if connection.place == Place::Idle && overdue {
                    connection.place = Place::Closing;
                }
            }
        }

        fn take(&mut self, mode: Mode) -> Option<u32> {
            if mode != Mode::Open || self.waited_for {
                return None;
            }
            self.sweep();
            let idle =
                self.connections.iter_mut().rev().find(|connection| connection.place == Place::Idle)?;
            idle.place = Place::Used;
            Some(idle.number)
        }

        fn home(&mut self, mut connection: Connection, broken: bool, closed: bool) {
            let too_many = self.living() + 1 > self.max + self.overflow;
            let old = connection.generation != self.generation || connection.expires <= self.now;
            let surplus = !self.waited_for && (self.living() + 1 > self.max || self.idle() >= self.max_idle);
            let keep = !(too_many || old || broken || closed || surplus);
            connection.place = if keep { Place::Idle } else { Place::Closing };
            self.connections.push(connection);
        }

        fn trim(&mut self) {
            while self.living() > self.max || self.idle() > self.max_idle {
                let oldest = self.connections.iter_mut().find(|connection| connection.place == Place::Idle);
                let Some(oldest) = oldest else { break };
                oldest.place = Place::Closing;
            }
        }

        fn remove(&mut self, index: usize, is: impl Fn(Place) -> bool) -> Option<Connection> {
            let places: Vec<_> =
                (0..self.connections.len()).filter(|at| is(self.connections[*at].place)).collect();
            (!places.is_empty()).then(|| self.connections.remove(places[index % places.len()]))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

        #[test]
        fn a_pool_decides_as_a_plain_list_does(
            steps in prop::collection::vec((0u8..14, 0usize..6), 1..200),
            max in 1usize..5,
            overflow in 0usize..2,
        ) {
            let limits = Limits {
                max, overflow, max_idle: usize::MAX, max_connecting: MAX_CONNECTING,
                idle_timeout: IDLE_TIMEOUT, fail_fast_after: 3,
            };
            let mut core: Core<u32> = Core::new(limits);
            let mut twin = Twin { max, overflow, max_idle: usize::MAX, ..Twin::default() };
            let mut held: Vec<Box<Entry<u32>>> = Vec::new();
            let mut buried: Vec<u32> = Vec::new();
            let mut mode = Mode::Open;
            let mut number = 0;
            for (step, value) in steps {
                match step {
                    0 | 1 => {
                        let took = match core.take(twin.now) {
                            Served::Entry(mut entry) => {
                                entry.seen = twin.now;
                                held.push(entry);
                                held.last().map(|entry| entry.connection)
                            }
                            Served::Failed => {
                                prop_assert!(twin.failures >= 3 && twin.now < twin.retry_at);
                                None
                            }
                            Served::NotYet | Served::Closed => None,
                        };
                        prop_assert_eq!(took, twin.take(mode));
                        let now = twin.now;
                        let used = twin.connections.iter_mut().find(|connection| Some(connection.number) == took);
                        if let Some(used) = used {
                            used.seen = now;
                        }
                    }
                    2 | 3 if !held.is_empty() => {
                        let mut entry = held.swap_remove(value % held.len());
                        entry.broken = value == 5;
                        let broken = entry.broken;
                        let number = entry.connection;
                        core.give(entry);
                        let place = twin.connections.iter().position(|connection| connection.number == number);
                        let mut connection = twin.connections.remove(place.unwrap());
                        connection.seen = twin.now;
                        twin.home(connection, broken, mode == Mode::Closed);
                    }
                    4 if !held.is_empty() => {
                        let entry = held.swap_remove(value % held.len());
                        core.taken_away();
                        twin.connections.retain(|connection| connection.number != entry.connection);
                    }
                    5 | 6 => {
                        let open = matches!(mode, Mode::Open | Mode::Draining);
                        let unserved = value.saturating_sub(twin.idle());
                        let wants = open
                            && twin.dialling() < unserved.min(MAX_CONNECTING)
                            && twin.connections.len() < twin.max + twin.overflow;
                        let dials = wants && twin.now >= twin.retry_at;
                        let plan = core.plan(twin.now, value);
                        prop_assert_eq!(matches!(plan, Plan::Dial { .. }), dials);
                        prop_assert_eq!(plan == Plan::At(twin.retry_at), wants && !dials);
                        if let Plan::Dial { generation } = plan {
                            prop_assert_eq!(generation, twin.generation);
                            number += 1;
                            let place = Place::Dialling(twin.now);
                            let (seen, expires) = (0, 0);
                            twin.connections.push(Connection { number, place, seen, expires, generation });
                        }
                    }
                    7 => if let Some(mut dial) = twin.remove(value, |place| matches!(place, Place::Dialling(_))) {
                        let (seen, expires) = (twin.now, twin.now + LIFETIME);
                        let entry = Entry {
                            connection: dial.number, expires, seen, generation: dial.generation,
                            suspect: false, unclean: false, broken: false,
                        };
                        core.dialled(twin.now, Box::new(entry));
                        (twin.failures, twin.retry_at) = (0, 0);
                        (dial.seen, dial.expires) = (seen, expires);
                        twin.home(dial, false, mode == Mode::Closed);
                    },
                    8 => if let Some(dial) = twin.remove(value, |place| matches!(place, Place::Dialling(_))) {
                        let Place::Dialling(since) = dial.place else { unreachable!() };
                        core.failed(twin.now, since, value as u64);
                        if twin.failures == 0 || since >= twin.failed_at {
                            twin.failures += 1;
                        }
                        twin.failed_at = twin.now;
                        twin.retry_at = twin.retry_at.max(twin.now + value as u64);
                        prop_assert_eq!(core.failures(), twin.failures);
                    },
                    9 => {
                        buried.extend(core.doomed().into_iter().map(|entry| entry.connection));
                        if let Some(closed) = buried.pop() {
                            core.gone();
                            let place = twin.connections.iter().position(|connection| connection.number == closed);
                            prop_assert_eq!(twin.connections.remove(place.unwrap()).place, Place::Closing);
                        }
                    }
                    10 => {
                        twin.now += 7 * value as u64;
                        core.advance(twin.now);
                        // Time may be told late.
                        core.advance(twin.now / 2);
                    }
                    11 => {
                        (twin.max, twin.max_idle) = (value.max(1), value + 1);
                        (core.limits.max, core.limits.max_idle) = (twin.max, twin.max_idle);
                        core.trim();
                        twin.trim();
                    }
                    12 if value == 0 => {
                        core.clear();
                        twin.generation += 1;
                        for connection in &mut twin.connections {
                            if connection.place == Place::Idle {
                                connection.place = Place::Closing;
                            }
                        }
                    }
                    12 => {
                        twin.waited_for = value > 3;
                        core.mark(twin.waited_for);
                        if !twin.waited_for {
                            twin.trim();
                        }
                    }
                    13 => {
                        mode = [Mode::Open, Mode::Open, Mode::Open, Mode::Paused, Mode::Draining, Mode::Open][value];
                        core.enter(mode);
                    }
                    _ => {}
                }
                prop_assert_eq!(core.idle() + core.in_use() + core.connecting(), core.total());
                prop_assert_eq!(core.total(), twin.connections.len());
                prop_assert_eq!(core.idle(), twin.idle());
                prop_assert_eq!(core.connecting(), twin.dialling());
                prop_assert_eq!(core.has_doomed(), twin.count(|place| place == Place::Closing) > buried.len());
                prop_assert!(core.connecting() <= MAX_CONNECTING);
                let newest = twin.connections.iter().rev().find(|connection| connection.place == Place::Idle);
                prop_assert_eq!(core.idle.back().map(|entry| entry.connection), newest.map(|idle| idle.number));
            }
        }
    }
}

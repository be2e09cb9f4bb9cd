//! A server that a test makes fail, hang and panic: a manager for pools that counts what is done to it.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use floodwall::{Clock, Manager};

/// How the server answers.
pub(crate) const WELL: u8 = 0;
pub(crate) const DOWN: u8 = 1;
pub(crate) const HANGS: u8 = 2;
pub(crate) const PANICS: u8 = 3;

#[derive(Clone, Default)]
pub(crate) struct Server(Arc<State>);

pub(crate) struct State {
    pub(crate) clock: Clock,
    pub(crate) connects: AtomicU8,
    pub(crate) checks: AtomicU8,
    pub(crate) closes: AtomicU8,
    /// In nanoseconds.
    pub(crate) connect_time: AtomicU64,
    pub(crate) check_time: AtomicU64,
    pub(crate) close_time: AtomicU64,
    /// A connection of a lower number is dead.
    pub(crate) dead_below: AtomicU64,
    pub(crate) needs_reset: AtomicU8,
    pub(crate) dials: AtomicU64,
    pub(crate) dialling: AtomicI64,
    pub(crate) most_dialling: AtomicI64,
    pub(crate) checked: AtomicU64,
    pub(crate) resets: AtomicU64,
    pub(crate) closed: AtomicU64,
    /// As the server sees it: connections that were made and are not closed.
    pub(crate) live: AtomicI64,
    pub(crate) most_live: AtomicI64,
}

impl Default for State {
    fn default() -> Self {
        Self::new(Clock::system())
    }
}

impl State {
    fn new(clock: Clock) -> Self {
        Self {
            clock,
            connects: AtomicU8::new(WELL),
            checks: AtomicU8::new(WELL),
            closes: AtomicU8::new(WELL),
            connect_time: AtomicU64::new(0),
            check_time: AtomicU64::new(0),
            close_time: AtomicU64::new(0),
            dead_below: AtomicU64::new(0),
            needs_reset: AtomicU8::new(0),
            dials: AtomicU64::new(0),
            dialling: AtomicI64::new(0),
            most_dialling: AtomicI64::new(0),
            checked: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            live: AtomicI64::new(0),
            most_live: AtomicI64::new(0),
        }
    }
}

impl std::ops::Deref for Server {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connection refused")
    }
}

impl std::error::Error for Refused {}

pub(crate) struct Connection {
    /// From 1, in the order in which they were made.
    pub(crate) number: u64,
    pub(crate) broken: bool,
    pub(crate) panics_on_drop: bool,
    server: Server,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.number.fmt(f)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.server.live.fetch_sub(1, SeqCst);
        assert!(!self.panics_on_drop || std::thread::panicking(), "a connection panics when it is dropped");
    }
}

/// Counts one that is under way, also if it is dropped half-way.
struct Under<'a>(&'a AtomicI64);

impl<'a> Under<'a> {
    fn way(now: &'a AtomicI64, most: &AtomicI64) -> Self {
        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        Self(now)
    }
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Server {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self(Arc::new(State::new(clock.clone())))
    }

    pub(crate) fn set(&self, what: &AtomicU8, how: u8) {
        what.store(how, SeqCst);
    }

    pub(crate) fn take_time(&self, what: &AtomicU64, time: Duration) {
        what.store(time.as_nanos() as u64, SeqCst);
    }

    pub(crate) fn count(&self, what: &AtomicU64) -> u64 {
        what.load(SeqCst)
    }

    pub(crate) fn now(&self, what: &AtomicI64) -> i64 {
        what.load(SeqCst)
    }

    /// All connections that there are die, without a sign.
    pub(crate) fn kill_all(&self) {
        self.dead_below.store(self.dials.load(SeqCst) + 1, SeqCst);
    }

    async fn answer(&self, how: &AtomicU8, time: &AtomicU64) -> Result<(), Refused> {
        let time = time.load(SeqCst);
        if time > 0 {
            self.clock.sleep(Duration::from_nanos(time)).await;
        }
        match how.load(SeqCst) {
            WELL => Ok(()),
            DOWN => Err(Refused),
            HANGS => std::future::pending().await,
            _ => panic!("the manager panics"),
        }
    }
}

impl Manager for Server {
    type Connection = Connection;
    type Error = Refused;

    async fn connect(&self) -> Result<Connection, Refused> {
        let number = self.dials.fetch_add(1, SeqCst) + 1;
        let _under_way = Under::way(&self.dialling, &self.most_dialling);
        self.answer(&self.connects, &self.connect_time).await?;
        self.most_live.fetch_max(self.live.fetch_add(1, SeqCst) + 1, SeqCst);
        Ok(Connection { number, broken: false, panics_on_drop: false, server: self.clone() })
    }

    async fn check(&self, connection: &mut Connection) -> Result<(), Refused> {
        self.checked.fetch_add(1, SeqCst);
        self.answer(&self.checks, &self.check_time).await?;
        if connection.number < self.dead_below.load(SeqCst) { Err(Refused) } else { Ok(()) }
    }

    fn is_broken(&self, connection: &mut Connection) -> bool {
        connection.broken
    }

    fn needs_reset(&self, _: &mut Connection) -> bool {
        match self.needs_reset.load(SeqCst) {
            PANICS => panic!("the manager panics"),
            needs_reset => needs_reset == 1,
        }
    }

    async fn reset(&self, connection: &mut Connection) -> Result<(), Refused> {
        self.resets.fetch_add(1, SeqCst);
        self.answer(&self.checks, &self.check_time).await?;
        if connection.number < self.dead_below.load(SeqCst) { Err(Refused) } else { Ok(()) }
    }

    async fn close(&self, connection: Connection) {
        let _ = self.answer(&self.closes, &self.close_time).await;
        self.closed.fetch_add(1, SeqCst);
        drop(connection);
    }
}

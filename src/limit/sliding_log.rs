//! So many calls in any stretch of time, exactly: [`SlidingLog`].
//!
//! For a cap that must hold wherever one looks: a contract's, a few tries at a password. When **not** to use it: for
//! many calls per period, or many limits, since it remembers each call of the last period (a
//! [`SlidingCounter`](crate::SlidingCounter) estimates in two words); to wait one's turn (that is a
//! [`TokenBucket`](crate::TokenBucket)).
//!
//! A log of times, oldest first. Each entry also holds the sum of all tokens admitted up to it, so that the tokens of
//! any stretch are a difference of two sums and times are found by bisection.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::period_nanos;
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{Reason, Rejected, absurd};
use crate::event::{Event, Hook, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket, until};
use crate::setters::setters;
use crate::sync::{Mutex, const_fn};

/// Admits so many calls in any stretch of one period, wherever it starts.
///
/// A call's tokens are there again one period after it was admitted, to the nanosecond; a rejection tells when there
/// will be enough. A call takes [`cost`](Call::cost) tokens; one that asks for more than the limit is rejected without
/// a time to come back. A permit that is dropped gives nothing back.
///
/// # Which limiter to choose
///
#[doc = include_str!("which.md")]
///
/// # Cost
///
/// One reading of the clock and a short critical section; a rejection, and a call that finds old ones to forget,
/// bisects the log. The log takes 16 bytes for each call admitted within one period, not for each token: at most
/// 16 × `tokens` bytes. It is allocated as it grows, and kept at its longest.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Call, Clock, Gate, SlidingLog};
///
/// const HOUR: Duration = Duration::from_secs(3600);
/// static LOGINS: SlidingLog = SlidingLog::per(5, HOUR);
/// assert!(LOGINS.try_acquire().is_ok());
///
/// let clock = Clock::manual();
/// let log = SlidingLog::per(3, HOUR).clock(clock.clone());
/// assert!(log.try_acquire().is_ok());
/// clock.advance(HOUR / 2);
/// assert!(log.try_acquire_for(Call::new().cost(2)).is_ok());
/// assert_eq!(log.try_acquire().unwrap_err().retry_after(), Some(HOUR / 2));
/// let two = Call::new().cost(2);
/// assert_eq!(log.try_acquire_for(two).unwrap_err().retry_after(), Some(HOUR));
/// ```
#[derive(Debug)]
pub struct SlidingLog {
    log: Mutex<Log>,
    clock: Clock,
    hook: Hook,
}

impl SlidingLog {
    const_fn! {
        /// Creates a limit of `tokens` in any second.
        ///
        /// # Panics
        ///
        /// If `tokens` is 0.
        #[track_caller]
        pub fn per_second(tokens: u64) -> Self {
            Self::per(tokens, Duration::from_secs(1))
        }
    }

    const_fn! {
        /// Creates a limit of `tokens` in any stretch of one `period`.
        ///
        /// # Panics
        ///
        /// If `tokens` is 0; if `period` is zero or over 292 years.
        #[track_caller]
        pub fn per(tokens: u64, period: Duration) -> Self {
            let log = Log::new(tokens, period);
            Self { log: Mutex::new(log), clock: Clock::system(), hook: Hook::unnamed() }
        }
    }

    setters!("limit");

    /// Returns how many tokens a call could take now.
    pub fn available(&self) -> u64 {
        let now = self.clock.nanos();
        let mut log = self.log.lock();
        log.forget_until(now);
        log.limit - log.taken()
    }

    fn take(&self, call: Call) -> Result<(), Rejected> {
        // Not under the lock, since a clock may be slow or the user's own. The log puts late times in order.
        let now = self.clock.nanos();
        if now >= call.deadline {
            return Err(Rejected::new(self.hook.name, Reason::DeadlineExceeded));
        }
        self.log.lock().take(now, call.cost).map_err(|ready_at| {
            let limited = Rejected::new(self.hook.name, Reason::RateLimited);
            ready_at.map_or(limited, |at| limited.after(Duration::from_nanos(at - now)))
        })
    }
}

impl Gate for SlidingLog {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        self.hook.admission(self.take(call).map(|()| Permit::new(self, Ticket::new(0, call))))
    }

    fn release(&self, _ticket: Ticket, outcome: Outcome) {
        self.hook.emit(Event::Finished(outcome));
    }

    fn residual(&self) -> Option<Residual> {
        let now = self.clock.nanos();
        let mut log = self.log.lock();
        log.forget_until(now);
        log.entries.back().map(|last| until(last.at.saturating_add(log.period)))
    }
}

/// The calls of the last period.
///
/// Sums wrap: only differences within one period count, and these are at most the limit.
struct Log {
    limit: u64,
    /// In nanoseconds.
    period: u64,
    /// The latest time seen. What was forgotten by it stays forgotten, so no call may be entered before it.
    now: u64,
    /// The tokens of all calls that were forgotten.
    forgotten: u64,
    /// Oldest first, and no two at the same time.
    entries: VecDeque<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    /// When its calls were admitted.
    at: u64,
    /// The tokens of all calls ever, these included.
    admitted: u64,
}

impl Log {
    #[track_caller]
    const fn new(limit: u64, period: Duration) -> Self {
        let period = period_nanos(period);
        if limit == 0 {
            absurd("tokens", limit, "must be at least 1");
        }
        Self { limit, period, now: 0, forgotten: 0, entries: VecDeque::new() }
    }

    /// Takes `cost` tokens; else returns when they will be there, `None` if never.
    fn take(&mut self, now: u64, cost: u32) -> Result<(), Option<u64>> {
        self.forget_until(now);
        let (free, cost) = (self.limit - self.taken(), u64::from(cost));
        if cost <= free {
            self.enter(cost);
            return Ok(());
        }
        if cost > self.limit {
            return Err(None);
        }
        let missing = cost - free;
        let before = self.first_not(|entry| entry.admitted.wrapping_sub(self.forgotten) < missing);
        Err(self.entries[before].at.checked_add(self.period))
    }

    /// Forgets the calls that are one period old, and moves the time on; a clock that went back moves nothing.
    fn forget_until(&mut self, now: u64) {
        self.now = self.now.max(now);
        let is_old = |entry: &Entry| self.now - entry.at >= self.period;
        let old = self.first_not(is_old);
        if old > 0 {
            self.forgotten = self.entries[old - 1].admitted;
            self.entries.drain(..old);
        }
    }

    /// Returns how many of the oldest entries satisfy `is_before`. Mostly they are few, and are looked at in turn.
    fn first_not(&self, is_before: impl Fn(&Entry) -> bool) -> usize {
        let few = self.entries.iter().take(3).take_while(|entry| is_before(entry)).count();
        if few < 3 { few } else { self.entries.partition_point(is_before) }
    }

    fn taken(&self) -> u64 {
        self.entries.back().map_or(0, |last| last.admitted.wrapping_sub(self.forgotten))
    }

    fn enter(&mut self, cost: u64) {
        let at = self.now;
        match self.entries.back_mut() {
            _ if cost == 0 => {}
            Some(last) if last.at == at => last.admitted = last.admitted.wrapping_add(cost),
            _ => {
                let admitted = self.forgotten.wrapping_add(self.taken()).wrapping_add(cost);
                self.make_room();
                self.entries.push_back(Entry { at, admitted });
            }
        }
    }

    /// Doubles the room when it is used up, but makes no more than for one entry per token, of which there can never
    /// be more.
    fn make_room(&mut self) {
        let length = self.entries.len();
        if length == self.entries.capacity() {
            let most = usize::try_from(self.limit).unwrap_or(usize::MAX);
            self.entries.reserve_exact(length.max(4).min(most - length));
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("limit", &self.limit)
            .field("period", &self.period)
            .field("taken", &self.taken())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn log(limit: u64) -> Log {
        Log::new(limit, Duration::from_secs(1))
    }

    #[test]
    fn a_call_is_forgotten_after_one_period_to_the_nanosecond() {
        let mut log = log(2);
        assert_eq!(log.take(5, 1), Ok(()));
        assert_eq!(log.take(9, 1), Ok(()));
        assert_eq!(log.take(SECOND + 4, 1), Err(Some(SECOND + 5)));
        assert_eq!(log.take(SECOND + 5, 2), Err(Some(SECOND + 9)));
        assert_eq!(log.take(SECOND + 5, 1), Ok(()));
        assert_eq!(log.take(SECOND + 5, 3), Err(None));
    }

    /// The entry of time 0 was forgotten at `SECOND`. A call entered at 1 would be one too many in a second from 0 on,
    /// and be forgotten too early.
    #[test]
    fn a_time_that_went_back_is_entered_where_the_log_stands() {
        let mut log = log(2);
        assert_eq!(log.take(0, 2), Ok(()));
        assert_eq!(log.take(SECOND, 3), Err(None));
        assert_eq!(log.take(1, 1), Ok(()));
        assert_eq!(log.take(2, 2), Err(Some(2 * SECOND)));
        assert_eq!(log.take(SECOND + 1, 2), Err(Some(2 * SECOND)));
        assert_eq!(log.take(2 * SECOND, 2), Ok(()));
    }

    #[test]
    fn the_log_has_room_for_one_entry_per_token_and_no_more() {
        for limit in [1, 3, 4, 5, 100, 1_000] {
            let mut log = log(limit);
            for at in 0..3 * limit {
                // The first ones are admitted; then one each second.
                let _ = log.take(at, 1);
                log.take(at, 0).unwrap();
            }
            for seconds in 2..3 * limit {
                log.take(seconds * SECOND, 1).unwrap();
            }
            assert!(log.entries.capacity() as u64 <= limit);
        }
    }

    #[test]
    fn calls_at_one_time_share_an_entry() {
        let mut log = log(1_000);
        for _ in 0..500 {
            log.take(7, 2).unwrap();
        }
        assert_eq!(log.entries.len(), 1);
        assert_eq!(log.take(8, 1), Err(Some(SECOND + 7)));
    }

    #[test]
    fn sums_wrap_and_the_largest_limit_is_served_exactly() {
        let mut log = log(u64::MAX);
        log.forgotten = u64::MAX - 5;
        for at in 0..10 {
            log.take(at, 3).unwrap();
        }
        assert_eq!(log.taken(), 30);
        log.forget_until(SECOND + 4);
        assert_eq!(log.taken(), 15);
        log.limit = 16;
        assert_eq!(log.take(SECOND + 4, 2), Err(Some(SECOND + 5)));
        assert_eq!(log.take(SECOND + 4, 7), Err(Some(SECOND + 6)));
    }

    #[test]
    fn what_time_never_frees_is_refused_without_a_time() {
        let mut log = log(1);
        assert_eq!(log.take(u64::MAX - 1, 1), Ok(()));
        assert_eq!(log.take(u64::MAX, 1), Err(None));
    }
}

//! So many calls in each window of time: [`FixedWindow`].
//!
//! For quotas that are counted so: "1,000 a day, anew at midnight", "5 tries within an hour of the first". When **not**
//! to use it: to spread calls over time. A window's whole quota may be used in its last moment and the next one's a
//! moment later, twice the quota at once; a [`TokenBucket`](crate::TokenBucket) or a
//! [`SlidingCounter`](crate::SlidingCounter) has no such step, and a [`SlidingLog`](crate::SlidingLog) never admits
//! more in any stretch of the period.
//!
//! The whole state is one word, a window and what was taken in it. It only ever grows: windows come one after another
//! and nothing is given back. So a time that was read too early can only be counted into a later window than its own.

use std::time::Duration;

use super::period_nanos;
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{Reason, Rejected, absurd};
use crate::event::{Event, Hook, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket, until};
use crate::setters::setters;
use crate::sync::{AtomicU64, Ordering, const_fn};

/// Admits so many calls in each window of time, and tells those it rejects when the next window starts.
///
/// Windows follow each other without gaps, aligned to the Unix epoch: those of a minute start with the minutes of the
/// wall clock, those of a day at midnight UTC, those of a week on Thursdays. The wall clock is read once in a process;
/// setting it later moves no window. On a manual clock the epoch is where the clock starts. Or else
/// [`from_first_use`](FixedWindow::from_first_use), each window starts with a call.
///
/// A call takes [`cost`](Call::cost) tokens, all of them from one window; one that asks for more than a window has is
/// rejected without a time to come back. A permit that is dropped gives nothing back.
///
/// # Which limiter to choose
///
#[doc = include_str!("which.md")]
///
/// # Cost
///
/// One reading of the clock, some arithmetic and one compare-and-swap, repeated when threads collide; a rejection
/// writes nothing. No lock, no allocation.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Clock, FixedWindow, Gate};
///
/// const DAY: Duration = Duration::from_secs(86_400);
/// static DAILY: FixedWindow = FixedWindow::per(1_000, DAY).name("daily quota");
/// assert!(DAILY.try_acquire().is_ok());
///
/// let clock = Clock::manual();
/// let window = FixedWindow::per(1, Duration::from_secs(60)).clock(clock.clone());
/// clock.advance(Duration::from_secs(45));
/// assert!(window.try_acquire().is_ok());
/// let rejected = window.try_acquire().unwrap_err();
/// assert_eq!(rejected.retry_after(), Some(Duration::from_secs(15)));
/// clock.advance(Duration::from_secs(15));
/// assert!(window.try_acquire().is_ok());
/// ```
#[derive(Debug)]
pub struct FixedWindow {
    windows: Windows,
    /// The latest window in which something was taken, and how much.
    word: AtomicU64,
    clock: Clock,
    hook: Hook,
}

impl FixedWindow {
    const_fn! {
        /// Creates a limit of `tokens` in each second.
        ///
        /// # Panics
        ///
        /// If `tokens` is 0 or more than 5 × 10⁸.
        #[track_caller]
        pub fn per_second(tokens: u64) -> Self {
            Self::per(tokens, Duration::from_secs(1))
        }
    }

    const_fn! {
        /// Creates a limit of `tokens` in each `period`.
        ///
        /// # Panics
        ///
        /// If `tokens` is 0, or more than one per two nanoseconds of `period`; if `period` is zero or over 292 years.
        #[track_caller]
        pub fn per(tokens: u64, period: Duration) -> Self {
            Self {
                windows: Windows::new(tokens, period),
                word: AtomicU64::new(0),
                clock: Clock::system(),
                hook: Hook::unnamed(),
            }
        }
    }

    const_fn! {
        /// Starts a window with the first call that takes something after the last window has ended. Default: aligned.
        ///
        /// Since a window's start shares a word with its count, it lasts up to two nanoseconds longer for each of its
        /// tokens: one of 5 an hour lasts an hour and up to 10 ns.
        ///
        /// ```
        /// # use std::time::Duration;
        /// use floodwall::{Clock, FixedWindow, Gate};
        ///
        /// let clock = Clock::manual();
        /// let tries = FixedWindow::per(5, Duration::from_secs(3600)).from_first_use().clock(clock.clone());
        /// clock.advance(Duration::from_secs(3599));
        /// assert!((0..5).all(|_| tries.try_acquire().is_ok()));
        /// clock.advance(Duration::from_secs(3599));
        /// let rejected = tries.try_acquire().unwrap_err();
        /// assert_eq!(rejected.retry_after().unwrap().as_secs(), 1);
        /// ```
        #[must_use = "returns the changed limit"]
        pub fn from_first_use(mut self) -> Self {
            self.windows.start = Start::FirstUse;
            self
        }
    }

    setters!("limit");

    /// Returns how many tokens a call could take now.
    pub fn available(&self) -> u64 {
        let time = self.clock.nanos().saturating_add(self.epoch());
        self.windows.limit - self.windows.at(self.word.load(Ordering::Relaxed), time).taken
    }

    fn take(&self, call: Call) -> Result<(), Rejected> {
        let epoch = self.epoch();
        // Relaxed throughout: the word is all there is, and it guards no other data.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            // Read in each round: a time from before a lost race would still count into the old window when that has
            // ended, and refuse what the next one has.
            let now = self.clock.nanos();
            if now >= call.deadline {
                return Err(Rejected::new(self.hook.name, Reason::DeadlineExceeded));
            }
            let next = self.windows.take(word, now.saturating_add(epoch), call.cost).map_err(|wait| {
                let limited = Rejected::new(self.hook.name, Reason::RateLimited);
                wait.map_or(limited, |wait| limited.after(Duration::from_nanos(wait)))
            })?;
            match self.word.compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(actual) => word = actual,
            }
        }
    }

    /// Returns when the clock's timeline starts on the timeline of the windows.
    fn epoch(&self) -> u64 {
        match self.windows.start {
            Start::Aligned => self.clock.epoch(),
            Start::FirstUse => 0,
        }
    }
}

impl Gate for FixedWindow {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        self.hook.admission(self.take(call).map(|()| Permit::new(self, Ticket::new(0, call))))
    }

    fn release(&self, _ticket: Ticket, outcome: Outcome) {
        self.hook.emit(Event::Finished(outcome));
    }

    fn residual(&self) -> Option<Residual> {
        let (epoch, now) = (self.epoch(), self.clock.nanos());
        let window = self.windows.at(self.word.load(Ordering::Relaxed), now.saturating_add(epoch));
        let end = self.windows.end(window.number).map_or(u64::MAX, |end| end - epoch);
        (window.taken > 0).then(|| until(end))
    }
}

/// Where windows start.
#[derive(Clone, Copy, Debug)]
enum Start {
    /// At multiples of the period.
    Aligned,
    /// At the first call, rounded up so that the start fits beside the count: to a multiple of `1 << count_bits`.
    FirstUse,
}

/// The rule by which time falls into windows, and how a window and its count share a word.
///
/// The lower `count_bits` hold what was taken, the others the window's number: the multiple at which it starts. Since
/// `1 << count_bits` is at most twice the limit and that at most the period, numbers last as long as the clock, and
/// no window is ever mistaken for an older one.
#[derive(Clone, Copy, Debug)]
struct Windows {
    limit: u64,
    /// In nanoseconds.
    period: u64,
    count_bits: u32,
    start: Start,
}

/// A window, and what was taken in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    number: u64,
    taken: u64,
}

impl Windows {
    #[track_caller]
    const fn new(limit: u64, period: Duration) -> Self {
        let period = period_nanos(period);
        if limit == 0 {
            absurd("tokens", limit, "must be at least 1");
        }
        if limit > period / 2 {
            absurd("tokens", limit, "must be at most 1 per 2 nanoseconds of the period");
        }
        Self { limit, period, count_bits: limit.ilog2() + 1, start: Start::Aligned }
    }

    /// Returns the window that a call at `time` counts into: the one in `word` unless that has ended.
    ///
    /// A clock that went back to before that window counts into it too.
    fn at(&self, word: u64, time: u64) -> Window {
        let (number, taken) = (word >> self.count_bits, word & ((1 << self.count_bits) - 1));
        if taken > 0 && time.saturating_sub(self.starts(number)) < self.period {
            return Window { number, taken };
        }
        let number = match self.start {
            Start::Aligned => time / self.period,
            Start::FirstUse => time.div_ceil(1 << self.count_bits).min(u64::MAX >> self.count_bits),
        };
        Window { number, taken: 0 }
    }

    const fn starts(&self, number: u64) -> u64 {
        match self.start {
            Start::Aligned => number * self.period,
            Start::FirstUse => number << self.count_bits,
        }
    }

    /// Returns when a window ends; `None` if time ends before it.
    const fn end(&self, number: u64) -> Option<u64> {
        self.starts(number).checked_add(self.period)
    }

    /// Returns the word when `cost` tokens are taken at `time`; else how long until they are there, `None` if never.
    fn take(&self, word: u64, time: u64, cost: u32) -> Result<u64, Option<u64>> {
        let (window, cost) = (self.at(word, time), u64::from(cost));
        if cost <= self.limit - window.taken {
            return Ok((window.number << self.count_bits) + window.taken + cost);
        }
        Err(if cost <= self.limit { self.end(window.number).map(|end| end - time) } else { None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn windows(limit: u64, period: u64, start: Start) -> Windows {
        Windows { start, ..Windows::new(limit, Duration::from_nanos(period)) }
    }

    #[test]
    fn the_word_counts_up_to_the_limit_and_starts_anew() {
        let windows = windows(3, SECOND, Start::Aligned);
        let word = windows.take(0, 0, 2).unwrap();
        assert_eq!(windows.take(word, 1, 2), Err(Some(SECOND - 1)));
        let word = windows.take(word, SECOND - 1, 1).unwrap();
        assert_eq!(windows.take(word, SECOND - 1, 1), Err(Some(1)));
        let word = windows.take(word, SECOND, 3).unwrap();
        assert_eq!(windows.at(word, SECOND), Window { number: 1, taken: 3 });
        assert_eq!(windows.at(word, 0), Window { number: 1, taken: 3 }, "a clock that went back");
        assert_eq!(windows.take(word, 0, 1), Err(Some(2 * SECOND)));
    }

    #[test]
    fn a_window_from_first_use_starts_with_what_takes_something() {
        let windows = windows(1, SECOND, Start::FirstUse);
        let untouched = windows.take(0, 7, 0).unwrap();
        assert_eq!(windows.at(untouched, 9), Window { number: 5, taken: 0 });
        let word = windows.take(untouched, 9, 1).unwrap();
        assert_eq!(windows.take(word, 10 + SECOND - 1, 1), Err(Some(1)));
        assert!(windows.take(word, 10 + SECOND, 1).is_ok());
    }

    /// The numbers and the count fill the word to its last bit.
    #[test]
    fn the_extremes_fit_and_are_exact_to_the_end_of_time() {
        let long = 1 << 63;
        for (limit, period) in [(1, 2), (1, long), (4, 8), (7, 15), (1 << 62, long), ((1 << 62) - 1, long)] {
            for start in [Start::Aligned, Start::FirstUse] {
                let windows = windows(limit, period, start);
                let mut word = 0;
                for time in [0, 1, period - 1, period, u64::MAX / 2, u64::MAX - period - 1, u64::MAX] {
                    let before = windows.at(word, time);
                    let Ok(next) = windows.take(word, time, 1) else { continue };
                    let after = windows.at(next, time);
                    assert_eq!(after, Window { number: before.number, taken: before.taken + 1 });
                    assert!(next > word, "it only grows");
                    word = next;
                }
                let full = (windows.at(word, u64::MAX).number << windows.count_bits) + limit;
                assert_eq!(windows.take(full, u64::MAX, 1).unwrap_err(), None, "no window after the last");
            }
        }
    }
}

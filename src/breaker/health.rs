//! What a closed breaker counts, and when it is too much: [`Health`], without a lock.

use std::time::Duration;

use super::CallCounts;
use super::last::{ABANDONED, FAILED, Last, SLOW};
use super::machine::{GENERATION, GENERATION_SHIFT, Rules};
use super::running::Running;
use crate::clock::Clock;
use crate::error::saturating_nanos;
use crate::event::Outcome;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::window::Window;

/// All counts are of one generation, which each word names: a result that is late counts for nothing.
#[derive(Debug)]
pub(super) struct Health {
    /// Failures in a row: `generation << 40 | failures`.
    row: AtomicU64,
    /// When something went wrong last in this generation, or up to `slack` before; 0: never.
    last_bad: AtomicU64,
    /// `u64::MAX`: no matter how many.
    pub(super) failures: AtomicU64,
    /// Shares, as bits; infinite: no matter how many.
    pub(super) failure_rate: AtomicU64,
    pub(super) slow_rate: AtomicU64,
    pub(super) abandoned_rate: f64,
    pub(super) min_calls: AtomicU64,
    /// In nanoseconds.
    pub(super) window: u64,
    pub(super) calls: Calls,
    pub(super) slow: Option<Box<Slow>>,
}

/// How calls are counted for rates.
#[derive(Debug)]
pub(super) enum Calls {
    No,
    /// Successes, which are hot, and failures; and what few ask for: slow and abandoned ones.
    Time(Box<Window<1, 1>>, Option<Box<Window<0, 2>>>),
    Last(Box<Last>),
}

const FAILURES: usize = 0;
const SLOW_CALLS: usize = 0;
const ABANDONED_CALLS: usize = 1;

/// What kinds of calls were counted, and what could not be told from fewer.
struct Tally {
    successes: u64,
    failures: u64,
    slow: u64,
    abandoned: u64,
}

/// What a breaker was built to watch; see [`CircuitBreakerBuilder`](super::CircuitBreakerBuilder).
pub(super) struct Watched {
    pub(super) failures: Option<u32>,
    pub(super) failure_rate: Option<f64>,
    pub(super) slow: Option<(Duration, f64)>,
    pub(super) abandoned_rate: Option<f64>,
    pub(super) min_calls: u64,
    pub(super) window: Duration,
    pub(super) last_calls: Option<u32>,
}

/// A share as bits; none is never reached.
pub(super) fn bits(rate: Option<f64>) -> u64 {
    rate.unwrap_or(f64::INFINITY).to_bits()
}

impl Health {
    pub(super) fn new(watched: Watched) -> Self {
        let Watched { failures, failure_rate, slow, abandoned_rate, min_calls, window, last_calls } = watched;
        let rare = slow.is_some() || abandoned_rate.is_some();
        let calls = match last_calls {
            _ if failure_rate.is_none() && !rare => Calls::No,
            Some(calls) => Calls::Last(Box::new(Last::new(calls))),
            None => Calls::Time(Box::new(Window::new(window)), rare.then(|| Box::new(Window::new(window)))),
        };
        Self {
            row: AtomicU64::new(0),
            last_bad: AtomicU64::new(0),
            failures: AtomicU64::new(failures.map_or(u64::MAX, u64::from)),
            failure_rate: AtomicU64::new(bits(failure_rate)),
            slow_rate: AtomicU64::new(bits(slow.map(|(_, rate)| rate))),
            abandoned_rate: abandoned_rate.unwrap_or(f64::INFINITY),
            min_calls: AtomicU64::new(min_calls),
            window: saturating_nanos(window),
            calls,
            slow: slow.map(|(after, _)| Box::new(Slow::new(after))),
        }
    }

    /// Counts a success that was not slow.
    #[inline]
    pub(super) fn succeed(&self, generation: u64, clock: &Clock) {
        // Mostly there is no failure in the row, and nothing to write.
        if self.row.load(Ordering::Relaxed) & !GENERATION != 0 {
            self.end_row(generation);
        }
        match &self.calls {
            Calls::No => {}
            Calls::Time(window, _) => window.count_hot(0, epoch(generation), || clock.nanos()),
            Calls::Last(last) => last.record(generation >> GENERATION_SHIFT, 0),
        }
    }

    /// Counts the end of a call, and says whether it is one too many.
    pub(super) fn settle(&self, generation: u64, outcome: Outcome, is_slow: bool, now: u64) -> bool {
        let kinds = match outcome {
            Outcome::Success => 0,
            Outcome::Failure | Outcome::Throttled { .. } => FAILED,
            Outcome::Ignored => return false,
            // It has been slow, whoever gave up.
            Outcome::Abandoned if is_slow => 0,
            Outcome::Abandoned if self.abandoned_rate.is_finite() => ABANDONED,
            Outcome::Abandoned => return false,
        } | if is_slow { SLOW } else { 0 };
        let most = self.failures.load(Ordering::Relaxed);
        // Where it does not matter it is not written: others read the line.
        let row = if kinds & FAILED != 0 && most < u64::MAX { self.lengthen_row(generation) } else { 0 };
        if outcome == Outcome::Success {
            self.end_row(generation);
        }
        match &self.calls {
            Calls::No => {}
            Calls::Last(last) => last.record(generation >> GENERATION_SHIFT, kinds),
            Calls::Time(window, rare) => {
                let epoch = epoch(generation);
                if kinds & FAILED != 0 {
                    window.count(FAILURES, epoch, now);
                } else if kinds & ABANDONED == 0 {
                    window.count_hot(0, epoch, || now);
                }
                if let Some(rare) = rare {
                    if kinds & SLOW != 0 {
                        rare.count(SLOW_CALLS, epoch, now);
                    }
                    if kinds & ABANDONED != 0 {
                        rare.count(ABANDONED_CALLS, epoch, now);
                    }
                }
            }
        }
        if kinds == 0 {
            return false;
        }
        let last_bad = self.last_bad.load(Ordering::Relaxed);
        if last_bad == 0 || now.saturating_sub(last_bad) > self.slack() {
            self.last_bad.store(now.max(1), Ordering::Relaxed);
        }
        // Of two that count in different words and then look at all, at least the second to pass here sees both.
        fence(Ordering::SeqCst);
        row >= most || self.is_bad(generation, now)
    }

    /// By how much the last bad end may be later than is written: not each of them writes.
    const fn slack(&self) -> u64 {
        self.window / 10
    }

    /// Returns until when something that counts may be remembered; 0 if nothing is.
    pub(super) fn remembers_until(&self) -> u64 {
        match self.last_bad.load(Ordering::Relaxed) {
            0 => 0,
            at => at.saturating_add(self.slack()).saturating_add(self.window),
        }
    }

    /// Whether a rate is too high. Only a bad end can raise one, or a call that does not end.
    pub(super) fn is_bad(&self, generation: u64, now: u64) -> bool {
        let [failure_rate, slow_rate] =
            [&self.failure_rate, &self.slow_rate].map(|rate| f64::from_bits(rate.load(Ordering::Relaxed)));
        let overdue = self.slow.as_ref().map_or(0, |slow| slow.overdue(now));
        // With more successes than this no rate can be too high: no need to look at more counters.
        let enough = |tally: &Tally| {
            let failures = tally.failures as f64 * (1.0 / failure_rate - 1.0);
            let slow = (tally.slow + overdue) as f64 / slow_rate;
            let abandoned = tally.abandoned as f64 / self.abandoned_rate;
            failures.max(slow).max(abandoned) as u64 + 2
        };
        let Some(Tally { successes, failures, slow, abandoned }) = self.tally(generation, now, enough) else {
            return false;
        };
        let mut min_calls = self.min_calls.load(Ordering::Relaxed);
        if let Calls::Last(last) = &self.calls {
            min_calls = min_calls.min(last.places());
        }
        // Divided rather than multiplied: 7 of 100 is 0.07, while 0.07 times 100 is more than 7.
        let is_over = |part: u64, calls: u64, rate| calls >= min_calls && part as f64 / calls as f64 >= rate;
        let calls = successes + failures;
        let counts = abandoned > 0 && abandoned as f64 / (calls + abandoned) as f64 >= self.abandoned_rate;
        let given_up = if counts { abandoned } else { 0 };
        is_over(failures + given_up, calls + given_up, failure_rate)
            || is_over(slow + overdue, calls + overdue, slow_rate)
    }

    pub(super) fn counts(&self, generation: u64, now: u64) -> CallCounts {
        match self.tally(generation, now, |_| u64::MAX) {
            None => CallCounts::default(),
            Some(Tally { successes, failures, slow, abandoned }) => {
                CallCounts { calls: successes + failures, failures, slow, abandoned }
            }
        }
    }

    /// Returns what was counted, with at least `enough` of the successes.
    fn tally(&self, generation: u64, now: u64, enough: impl Fn(&Tally) -> u64) -> Option<Tally> {
        match &self.calls {
            Calls::No => None,
            Calls::Time(window, rare) => {
                let epoch = epoch(generation);
                let rare = |kind| rare.as_ref().map_or(0, |rare| rare.cold(kind, epoch, now));
                let mut tally = Tally {
                    successes: 0,
                    failures: window.cold(FAILURES, epoch, now),
                    slow: rare(SLOW_CALLS),
                    abandoned: rare(ABANDONED_CALLS),
                };
                tally.successes = window.hot(0, epoch, now, enough(&tally));
                Some(tally)
            }
            Calls::Last(last) => {
                let (calls, [failures, slow, abandoned]) = last.counts(generation >> GENERATION_SHIFT);
                let successes = calls.saturating_sub(failures + abandoned);
                Some(Tally { successes, failures, slow, abandoned })
            }
        }
    }

    /// Starts a closed generation: for those who hold the lock, before it is known.
    pub(super) fn restart(&self, generation: u64) {
        if let Calls::Last(last) = &self.calls {
            last.restart(generation >> GENERATION_SHIFT);
        }
        if let Some(slow) = &self.slow {
            slow.running.restart();
        }
        self.last_bad.store(0, Ordering::Relaxed);
    }

    pub(super) fn rules(&self) -> Rules {
        Rules {
            failures: self.failures.load(Ordering::Relaxed),
            failure_rate: f64::from_bits(self.failure_rate.load(Ordering::Relaxed)),
        }
    }

    /// Adds a failure to the row and returns its length.
    fn lengthen_row(&self, generation: u64) -> u64 {
        let longer = |word: u64| match word & GENERATION {
            current if current == generation => Some(word + 1),
            // That of a later generation is not this one's. Generations wrap, and only a little later is later.
            other if other.wrapping_sub(generation) >> GENERATION_SHIFT <= 64 => None,
            _ => Some(generation + 1),
        };
        match self.row.fetch_update(Ordering::Relaxed, Ordering::Relaxed, longer) {
            Ok(before) => longer(before).map_or(0, |row| row - generation),
            Err(_) => 0,
        }
    }

    fn end_row(&self, generation: u64) {
        let ended = |word| (word & GENERATION == generation && word != generation).then_some(generation);
        let _ = self.row.fetch_update(Ordering::Relaxed, Ordering::Relaxed, ended);
    }
}

/// When calls are slow, and those that still run.
#[derive(Debug)]
pub(super) struct Slow {
    /// In nanoseconds.
    pub(super) after: u64,
    /// Starts are kept in units of 2^shift ns, a millionth of `after`, in 32 bits.
    shift: u32,
    /// A quarter of `after`, in units.
    quarter: u64,
    running: Running,
}

impl Slow {
    pub(super) fn new(after: Duration) -> Self {
        let after = saturating_nanos(after);
        let shift = after.ilog2().saturating_sub(20);
        Self { after, shift, quarter: (after >> shift).div_ceil(4).max(1), running: Running::new() }
    }

    /// What a ticket remembers of the time.
    pub(super) const fn stamp(&self, now: u64) -> u32 {
        (now >> self.shift) as u32
    }

    /// A call starts; returns, once a quarter, whether others have run for too long.
    pub(super) fn start(&self, now: u64) -> bool {
        self.running.start((now >> self.shift) / self.quarter) && self.overdue(now) > 0
    }

    /// A call that `start` was told of has ended.
    pub(super) fn end(&self, stamp: u32, now: u64) {
        let units = now >> self.shift;
        self.running.end(units.saturating_sub(self.age(stamp, now)) / self.quarter);
    }

    /// Whether a call took long enough. Above two thousand times `after`, that is not known any more.
    pub(super) fn is_slow(&self, stamp: u32, now: u64) -> bool {
        let started = (now >> self.shift).saturating_sub(self.age(stamp, now)) << self.shift;
        now.saturating_sub(started) >= self.after
    }

    /// In units. A clock that went back makes no call slow.
    fn age(&self, stamp: u32, now: u64) -> u64 {
        let age = self.stamp(now).wrapping_sub(stamp);
        if age > u32::MAX / 2 { 0 } else { age.into() }
    }

    fn overdue(&self, now: u64) -> u64 {
        self.running.overdue((now >> self.shift) / self.quarter)
    }
}

/// What a window's words know of a generation.
const fn epoch(generation: u64) -> u8 {
    (generation >> GENERATION_SHIFT) as u8
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use super::*;

    /// A thread that was interrupted between its look at the generation and its count.
    #[test]
    fn a_row_is_not_taken_by_an_earlier_generation() {
        let health = Health::new(Watched {
            failures: Some(3),
            failure_rate: None,
            slow: None,
            abandoned_rate: None,
            min_calls: 1,
            window: Duration::from_secs(10),
            last_calls: None,
        });
        // Generations wrap.
        for generation in [0x80_0000u64, 0xff_fffe, 0xff_ffff, 1, 2] {
            let generation = generation << GENERATION_SHIFT;
            let earlier = generation.wrapping_sub(1 << GENERATION_SHIFT);
            assert_eq!(health.lengthen_row(generation), 1);
            assert_eq!(health.lengthen_row(earlier), 0);
            health.end_row(earlier);
            assert_eq!(health.lengthen_row(generation), 2);
            health.end_row(generation);
            assert_eq!(health.lengthen_row(generation), 1);
        }
    }

    /// One that stops too early takes its own thread's successes for all.
    #[test]
    fn a_failure_looks_at_the_successes_of_other_threads() {
        let health = Health::new(Watched {
            failures: None,
            failure_rate: Some(0.5),
            slow: None,
            abandoned_rate: None,
            min_calls: 5,
            window: Duration::from_secs(10),
            last_calls: None,
        });
        let (clock, generation) = (Clock::manual(), 1 << GENERATION_SHIFT);
        let Calls::Time(window, _) = &health.calls else { unreachable!("over time") };
        window.split();
        std::thread::scope(|scope| {
            let successes = || (0..100).for_each(|_| health.succeed(generation, &clock));
            (0..8).for_each(|_| drop(scope.spawn(successes)));
        });
        (0..2).for_each(|_| health.succeed(generation, &clock));
        let opens = (1..=1_000).find(|_| health.settle(generation, Outcome::Failure, false, 0));
        assert_eq!(opens, Some(802));
    }
}

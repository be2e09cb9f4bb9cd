//! So many calls in a window that slides, by estimate: [`SlidingCounter`].
//!
//! For a cap without the step that a [`FixedWindow`](crate::FixedWindow) has at its boundaries, in two words whatever
//! the cap is. When **not** to use it: for a cap that must hold in any stretch of time (that is a
//! [`SlidingLog`](crate::SlidingLog)); for bursts of a size of their own, or to wait one's turn (that is a
//! [`TokenBucket`](crate::TokenBucket)).
//!
//! Time is cut into windows of one period, and two are counted: the current and the previous one. A stretch of one
//! period that ends at a share `f` of the current window is estimated to hold `previous × (1 - f) + current` tokens,
//! as if those of the previous window had come evenly ("sliding window counter": Cloudflare, "How we built rate
//! limiting capable of scaling to millions of domains", 2017).

use std::time::Duration;

use super::period_nanos;
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{Reason, Rejected, absurd};
use crate::event::{Event, Hook, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket, until};
use crate::setters::setters;
use crate::sync::{AtomicU64, Ordering, const_fn};

/// Admits so many calls per period by an estimate of how many the last period had.
///
/// The estimate, in exact arithmetic, takes the calls of the previous window to have come evenly. If they did, it is
/// right to within one call, and no stretch of one period holds more than one call beyond the limit. If they did not,
/// such a stretch may hold up to `limit + previous × f` tokens, `f` being the share of the current window that is
/// over: always fewer than twice the limit. Just as well, calls may be refused that a [`SlidingLog`](crate::SlidingLog)
/// would admit. Under a steady excess of calls one token per period is never given out, since what is left of the
/// window before weighs a little to the end: a limit of 100 lets 99 a period pass, a limit of 1 one every other period.
///
/// A call takes [`cost`](Call::cost) tokens; one that asks for more than the limit is rejected without a time to come
/// back. A permit that is dropped gives nothing back.
///
/// # Which limiter to choose
///
#[doc = include_str!("which.md")]
///
/// # Cost
///
/// One reading of the clock, some arithmetic and one compare-and-swap, two for the first call in a window, repeated
/// when threads collide; a rejection writes nothing. No lock, no allocation.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Clock, Gate, SlidingCounter};
///
/// static SEARCH: SlidingCounter = SlidingCounter::per_second(500);
/// assert!(SEARCH.try_acquire().is_ok());
///
/// let clock = Clock::manual();
/// let counter = SlidingCounter::per(10, Duration::from_secs(60)).clock(clock.clone());
/// assert!((0..10).all(|_| counter.try_acquire().is_ok()));
/// clock.advance(Duration::from_secs(60));
/// // The ten still count in full, and one of them less every six seconds.
/// let rejected = counter.try_acquire().unwrap_err();
/// assert_eq!(rejected.retry_after(), Some(Duration::from_secs(6)));
/// clock.advance(Duration::from_secs(45));
/// assert_eq!(counter.available(), 7);
/// ```
#[derive(Debug)]
pub struct SlidingCounter {
    estimate: Estimate,
    /// Windows of even numbers are counted in the first, those of odd ones in the second.
    slots: [AtomicU64; 2],
    clock: Clock,
    hook: Hook,
}

impl SlidingCounter {
    const_fn! {
        /// Creates a limit of `tokens` per second.
        ///
        /// # Panics
        ///
        /// If `tokens` is 0 or more than 2.5 × 10⁸.
        #[track_caller]
        pub fn per_second(tokens: u64) -> Self {
            Self::per(tokens, Duration::from_secs(1))
        }
    }

    const_fn! {
        /// Creates a limit of `tokens` per `period`.
        ///
        /// # Panics
        ///
        /// If `tokens` is 0, or more than one per four nanoseconds of `period`; if `period` is zero or over 292 years.
        #[track_caller]
        pub fn per(tokens: u64, period: Duration) -> Self {
            Self {
                estimate: Estimate::new(tokens, period),
                slots: [AtomicU64::new(0), AtomicU64::new(0)],
                clock: Clock::system(),
                hook: Hook::unnamed(),
            }
        }
    }

    setters!("limit");

    /// Returns how many tokens a call could take now.
    pub fn available(&self) -> u64 {
        self.estimate.available(&self.read().1)
    }

    fn take(&self, call: Call) -> Result<(), Rejected> {
        loop {
            let (slots, view, now) = self.read();
            if now >= call.deadline {
                return Err(Rejected::new(self.hook.name, Reason::DeadlineExceeded));
            }
            if !self.estimate.admits(&view, call.cost) {
                let limited = Rejected::new(self.hook.name, Reason::RateLimited);
                let ready_at = self.estimate.ready_at(&view, call.cost);
                return Err(ready_at.map_or(limited, |at| limited.after(Duration::from_nanos(at - now))));
            }
            if call.cost == 0 || self.count(slots, &view, call.cost) {
                return Ok(());
            }
        }
    }

    /// Reads the slots and then the clock: a time from before a lost race would be counted by an old estimate.
    #[inline]
    fn read(&self) -> ([u64; 2], View, u64) {
        loop {
            // Acquire, partner of the Release in `count`: who sees a window open sees the one before it sealed. The
            // other way round it may take another round.
            let slots = [self.slots[0].load(Ordering::Acquire), self.slots[1].load(Ordering::Acquire)];
            let now = self.clock.nanos();
            if let Some(view) = self.estimate.view(slots, now) {
                return (slots, view, now);
            }
        }
    }

    /// Counts `cost` in the current window; `false` if anything has changed since `slots` were read.
    ///
    /// The first call of a window seals the window before it, so that no thread that is late can add to a count that
    /// others have weighed already; it would find its word changed. A sealed slot stays as it is until the window
    /// after the next one opens, which changes the current slot first. So if the current slot is unchanged here, the
    /// whole view was.
    fn count(&self, slots: [u64; 2], view: &View, cost: u32) -> bool {
        let swap = |window: u64, next: u64| {
            let (slot, old) = (&self.slots[parity(window)], slots[parity(window)]);
            old == next || slot.compare_exchange(old, next, Ordering::Release, Ordering::Relaxed).is_ok()
        };
        let before = view.window.wrapping_sub(1);
        (view.is_open || swap(before, self.estimate.slot(before, true, view.previous)))
            && swap(view.window, self.estimate.slot(view.window, false, view.current + u64::from(cost)))
    }
}

impl Gate for SlidingCounter {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        self.hook.admission(self.take(call).map(|()| Permit::new(self, Ticket::new(0, call))))
    }

    fn release(&self, _ticket: Ticket, outcome: Outcome) {
        self.hook.emit(Event::Finished(outcome));
    }

    fn residual(&self) -> Option<Residual> {
        let (_, view, _) = self.read();
        let ends = match (view.previous, view.current) {
            (0, 0) => return None,
            (_, 0) => self.estimate.starts(view.window + 1),
            _ => self.estimate.starts(view.window + 2),
        };
        Some(until(ends.unwrap_or(u64::MAX)))
    }
}

/// Which slot a window is counted in.
const fn parity(window: u64) -> usize {
    (window & 1) as usize
}

/// What is known when a call arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct View {
    /// The number of the current window.
    window: u64,
    /// How much of it is over, in nanoseconds.
    elapsed: u64,
    /// The tokens of the window before it.
    previous: u64,
    /// The tokens of this one.
    current: u64,
    /// Whether something was taken in this one, so that the one before it is sealed.
    is_open: bool,
}

/// The formula, and how a window and its count share a slot.
///
/// From the top a slot holds a window's number, whether it is sealed, and its count. A slot's width in numbers,
/// `2 << count_bits`, is at most four times the limit and that at most the period, so that numbers last as long as
/// the clock, and no window is ever mistaken for an older one. Before the first call both slots are zero: window 0 is
/// open, and the second slot holds the number of none that would be looked for there.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    limit: u64,
    /// In nanoseconds.
    period: u64,
    count_bits: u32,
}

impl Estimate {
    #[track_caller]
    const fn new(limit: u64, period: Duration) -> Self {
        let period = period_nanos(period);
        if limit == 0 {
            absurd("tokens", limit, "must be at least 1");
        }
        if limit > period / 4 {
            absurd("tokens", limit, "must be at most 1 per 4 nanoseconds of the period");
        }
        Self { limit, period, count_bits: limit.ilog2() + 1 }
    }

    const fn slot(&self, number: u64, sealed: bool, count: u64) -> u64 {
        (((number << 1) | sealed as u64) << self.count_bits) | count
    }

    const fn number(&self, slot: u64) -> u64 {
        slot >> self.count_bits >> 1
    }

    const fn is_sealed(&self, slot: u64) -> bool {
        slot >> self.count_bits & 1 == 1
    }

    const fn count(&self, slot: u64) -> u64 {
        slot & ((1 << self.count_bits) - 1)
    }

    /// Returns when a window starts; `None` if time ends before it.
    const fn starts(&self, window: u64) -> Option<u64> {
        window.checked_mul(self.period)
    }

    /// Makes sense of two slots, or returns `None` if they were not read at one moment.
    ///
    /// A clock that went back to before the newest window stands at its start.
    #[inline]
    fn view(&self, slots: [u64; 2], now: u64) -> Option<View> {
        // Whoever sealed a window has seen the next one.
        let newest = slots.map(|slot| self.number(slot) + u64::from(self.is_sealed(slot)));
        let newest = newest[0].max(newest[1]);
        let elapsed = now.saturating_sub(newest * self.period);
        let (window, elapsed) =
            if elapsed < self.period { (newest, elapsed) } else { (now / self.period, now % self.period) };
        let (current, before) = (slots[parity(window)], slots[parity(window + 1)]);
        let is_open = self.number(current) == window;
        let follows = self.number(before) + 1 == window;
        if is_open && window > 0 && !(follows && self.is_sealed(before)) {
            return None;
        }
        Some(View {
            window,
            elapsed,
            previous: if follows { self.count(before) } else { 0 },
            current: if is_open { self.count(current) } else { 0 },
            is_open,
        })
    }

    /// Returns whether `previous × (1 - f) + current + cost <= limit`.
    fn admits(&self, view: &View, cost: u32) -> bool {
        let left = u128::from(self.period - view.elapsed);
        let free = (self.limit - view.current).checked_sub(u64::from(cost));
        free.is_some_and(|free| {
            u128::from(view.previous) * left <= u128::from(free) * u128::from(self.period)
        })
    }

    /// Returns when a call of `cost` is admitted if no other comes; `None` if it never is.
    fn ready_at(&self, view: &View, cost: u32) -> Option<u64> {
        let most = self.limit.checked_sub(u64::from(cost))?;
        let (window, elapsed) = match most.checked_sub(view.current) {
            Some(free) => (view.window, self.fits_from(view.previous, free)),
            // In the next window, where today's current count is the previous one.
            None => (view.window + 1, self.fits_from(view.current, most)),
        };
        self.starts(window)?.checked_add(elapsed)
    }

    /// Returns from when in a window on the share of `previous` that still counts is at most `free`: the first
    /// nanosecond `e` with `previous × (period - e) <= free × period`.
    ///
    /// That is the period itself, the start of the next window, if nothing is free.
    fn fits_from(&self, previous: u64, free: u64) -> u64 {
        if previous <= free {
            return 0;
        }
        let counts_for = u128::from(free) * u128::from(self.period) / u128::from(previous);
        self.period - counts_for as u64
    }

    fn available(&self, view: &View) -> u64 {
        let left = u128::from(self.period - view.elapsed);
        let weight = (u128::from(view.previous) * left).div_ceil(u128::from(self.period)) as u64;
        (self.limit - view.current).saturating_sub(weight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PERIOD: u64 = 1_000;

    fn estimate(limit: u64) -> Estimate {
        Estimate::new(limit, Duration::from_nanos(PERIOD))
    }

    fn view(window: u64, elapsed: u64, previous: u64, current: u64) -> View {
        View { window, elapsed, previous, current, is_open: true }
    }

    #[test]
    fn the_previous_window_counts_by_its_share() {
        let estimate = estimate(10);
        for (elapsed, previous, current, cost, admitted) in [
            (0, 10, 0, 1, false),
            (99, 10, 0, 1, false),
            (100, 10, 0, 1, true),
            (999, 10, 9, 1, false),
            (500, 10, 4, 1, true),
            (500, 10, 5, 1, false),
            (501, 10, 5, 0, true),
            (0, 9, 0, 1, true),
            (0, 0, 0, 10, true),
            (999, 1, 0, 10, false),
            (0, 0, 0, 11, false),
            (333, 3, 8, 0, false),
            (334, 3, 8, 0, true),
        ] {
            let view = view(5, elapsed, previous, current);
            assert_eq!(estimate.admits(&view, cost), admitted, "{view:?}, cost {cost}");
        }
    }

    #[test]
    fn slots_that_were_not_read_at_one_moment_make_no_view() {
        let estimate = estimate(10);
        let slot = |number, sealed, count| estimate.slot(number, sealed, count);
        let open = View { window: 3, elapsed: 7, previous: 4, current: 2, is_open: true };
        assert_eq!(estimate.view([slot(2, true, 4), slot(3, false, 2)], 3_007), Some(open));
        assert_eq!(estimate.view([slot(2, false, 4), slot(3, false, 2)], 3_007), None);
        assert_eq!(estimate.view([slot(0, true, 4), slot(3, false, 2)], 3_007), None);
        // Not open yet: the window before may still be added to, and is weighed as it is.
        let fresh = View { current: 0, is_open: false, ..open };
        assert_eq!(estimate.view([slot(2, false, 4), slot(1, true, 2)], 3_007), Some(fresh));
        assert_eq!(estimate.view([slot(2, true, 4), slot(1, true, 2)], 3_007), Some(fresh));
        // A clock that went back stands at the start of the newest window.
        let back = View { elapsed: 0, ..open };
        assert_eq!(estimate.view([slot(2, true, 4), slot(3, false, 2)], 1_500), Some(back));
        let back = View { elapsed: 0, ..fresh };
        assert_eq!(estimate.view([slot(2, true, 4), slot(1, true, 2)], 1_500), Some(back));
        // Idle for longer than a window.
        let idle = View { window: 9, elapsed: 1, previous: 0, current: 0, is_open: false };
        assert_eq!(estimate.view([slot(2, true, 4), slot(3, false, 2)], 9_001), Some(idle));
    }

    proptest! {
        /// Against the same formula without any care for its size or for rounding.
        #[test]
        fn calls_are_admitted_from_the_first_nanosecond_on_at_which_the_formula_says_so(
            limit in 1u64..60, elapsed in 0..PERIOD, previous in 0u64..60, current in 0u64..60, cost in 0u32..60,
        ) {
            let estimate = estimate(limit);
            let view = view(7, elapsed, previous.min(limit), current.min(limit));
            let admits = |at: u64| {
                let (previous, current) = match at / PERIOD {
                    7 => (view.previous, view.current),
                    8 => (view.current, 0),
                    _ => (0, 0),
                };
                let weight = previous * (PERIOD - at % PERIOD);
                weight + (current + u64::from(cost)) * PERIOD <= limit * PERIOD
            };
            let now = 7 * PERIOD + elapsed;
            prop_assert_eq!(estimate.admits(&view, cost), admits(now));
            if !admits(now) {
                let first = (now..10 * PERIOD).find(|at| admits(*at));
                prop_assert_eq!(estimate.ready_at(&view, cost), first);
            }
            let most = (0..=limit).rev().find(|cost| {
                view.previous * (PERIOD - elapsed) + (view.current + cost) * PERIOD <= limit * PERIOD
            });
            prop_assert_eq!(estimate.available(&view), most.unwrap_or(0));
        }
    }

    /// Numbers, seals and counts fill the slots to their last bit.
    #[test]
    fn the_extremes_fit_and_are_exact_to_the_end_of_time() {
        let long = 1 << 63;
        for (limit, period) in [(1, 4), (1, long), (2, 8), (3, 15), (1 << 61, long), ((1 << 61) - 1, long)] {
            let counter = SlidingCounter::per(limit, Duration::from_nanos(period));
            let estimate = counter.estimate;
            let last = u64::MAX / period;
            let mut windows = vec![0, 1, last - 1, last];
            windows.sort_unstable();
            windows.dedup();
            for window in windows {
                let at = window * period;
                let slots = [&counter.slots[0], &counter.slots[1]].map(|slot| slot.load(Ordering::Relaxed));
                let view = estimate.view(slots, at).unwrap();
                assert_eq!((view.window, view.elapsed), (window, 0));
                let taken = (limit - view.previous).min(u64::from(u32::MAX));
                assert!(estimate.admits(&view, taken as u32));
                assert!(counter.count(slots, &view, taken as u32));
                let slots = [&counter.slots[0], &counter.slots[1]].map(|slot| slot.load(Ordering::Relaxed));
                let view = estimate.view(slots, at).unwrap();
                assert_eq!((view.window, view.current, view.is_open), (window, taken, true));
            }
            let full = view(last, 0, limit, limit);
            assert_eq!(estimate.ready_at(&full, 1), None, "no window after the last");
        }
    }
}

//! Shed calls as a signal of yours rises: [`LoadShed`].
//!
//! For a server that knows how loaded it is: the processor, the memory, the length of a queue, the lag of an event loop.
//! When **not** to use it: for a dependency's sake (that is a breaker or a limit on the client's side); where no such
//! signal exists (see [`LatencyShed`](crate::LatencyShed)).
//!
//! Shedding with a probability that rises between two marks, as in random early detection (S. Floyd and V. Jacobson,
//! 1993): with one mark and a switch, load swings between too much and too little.

use std::fmt;
use std::time::Duration;

use crate::call::Call;
use crate::clock::{Clock, NEVER};
use crate::error::{Reason, Rejected, absurd, saturating_nanos};
use crate::event::{Event, Hook, Outcome};
use crate::gate::{Gate, Permit, Ticket};
use crate::rng::Seeds;
use crate::setters::setters;
use crate::sync::{AtomicU64, Ordering};

/// Sheds a share of the calls that rises with a load that you measure, lower priorities first.
///
/// Below the low mark every call is admitted, above the high mark none; [`between`](LoadShed::between) sets the two.
/// Between them calls of the lowest [`priority`](Call::priority) are shed first, all of them from half-way on; those of
/// the highest only from half-way on; normal ones from a quarter to three quarters of the way.
///
/// The signal is asked at most once per [`interval`](LoadShed::interval), by the call that happens to come then, and
/// never by two at once; the others go by what it said last. It should be quick. A signal that is not a number is
/// overheard. While it sheds every call of some priority, one in each interval is let through all the same: a signal that
/// only moves when calls are served is not stuck.
///
/// # Cost
///
/// One reading of the clock and two loads; while it sheds, one atomic addition more. No allocation.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// # use std::time::Duration;
/// use floodwall::{Call, Clock, Gate, LoadShed, Reason};
///
/// let queued = Arc::new(AtomicU64::new(0));
/// let clock = Clock::manual();
/// let shed = LoadShed::by({
///     let queued = queued.clone();
///     move || queued.load(Ordering::Relaxed) as f64
/// })
/// .between(100.0, 1_000.0)
/// .clock(clock.clone());
/// assert!(shed.try_acquire().is_ok());
///
/// queued.store(550, Ordering::Relaxed); // half-way
/// clock.advance(Duration::from_millis(100));
/// assert!(shed.try_acquire_for(Call::new().priority(255)).is_ok());
/// let lowest = || shed.try_acquire_for(Call::new().priority(0));
/// assert!(lowest().is_ok()); // one per interval
/// assert_eq!(lowest().unwrap_err().reason(), Reason::Shed);
/// ```
pub struct LoadShed {
    signal: Box<dyn Fn() -> f64 + Send + Sync>,
    low: f64,
    high: f64,
    /// In nanoseconds.
    interval: u64,
    /// The load that the signal told last, as the bits of a double.
    load: AtomicU64,
    /// When to ask the signal again.
    next_look: AtomicU64,
    /// 1 while a call asks the signal.
    looking: AtomicU64,
    /// When the next call may pass although all are shed.
    next_pass: AtomicU64,
    seeds: Seeds,
    clock: Clock,
    hook: Hook,
}

impl LoadShed {
    /// Sheds by what `signal` tells: a load in 0 to 1, or in any unit of yours that [`between`](Self::between) names.
    pub fn by(signal: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        Self {
            signal: Box::new(signal),
            low: 0.8,
            high: 1.0,
            interval: 100_000_000,
            load: AtomicU64::new(f64::NEG_INFINITY.to_bits()),
            next_look: AtomicU64::new(0),
            looking: AtomicU64::new(0),
            next_pass: AtomicU64::new(0),
            seeds: Seeds::from_entropy(),
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
    }

    /// Admits every call below `low` and none above `high`. Default: 0.8 and 1.
    ///
    /// # Panics
    ///
    /// If `low` is not below `high`, or one of them is not finite.
    #[track_caller]
    #[must_use = "returns the changed gate"]
    pub fn between(mut self, low: f64, high: f64) -> Self {
        assert!(low < high, "between: {low} must be below {high}");
        assert!(low.is_finite() && high.is_finite(), "between: {low} and {high} must be finite");
        (self.low, self.high) = (low, high);
        self
    }

    /// Asks the signal at most once in so much time. Default: 100 ms.
    ///
    /// # Panics
    ///
    /// If `time` is zero.
    #[track_caller]
    #[must_use = "returns the changed gate"]
    pub fn interval(mut self, time: Duration) -> Self {
        if time.is_zero() {
            absurd("interval", 0, "ns must be at least 1 ns");
        }
        self.interval = saturating_nanos(time);
        self
    }

    /// Draws the same calls in each run. Default: a random seed.
    #[must_use = "returns the changed gate"]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seeds = Seeds::seeded(seed);
        self
    }

    setters!("gate");

    /// Returns the load that the signal told last, or `None` if no call has come yet.
    pub fn load(&self) -> Option<f64> {
        let load = f64::from_bits(self.load.load(Ordering::Relaxed));
        (load != f64::NEG_INFINITY).then_some(load)
    }

    /// Asks the signal if it is time to, and nobody else does.
    fn look(&self, now: u64) {
        // Relaxed: at worst the winner below looks again.
        let is_due = || now >= self.next_look.load(Ordering::Relaxed);
        // Not a swap: who comes second writes nothing, and waits for no cache line.
        let wins = || self.looking.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if !is_due() || !wins() {
            return;
        }
        /// Lets others look, also if the signal panics.
        struct Done<'a>(&'a AtomicU64);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                // Release, partner of the Acquire above: the next one sees when it is due.
                self.0.store(0, Ordering::Release);
            }
        }
        let done = Done(&self.looking);
        // Another may have looked between the first question and the swap.
        if is_due() {
            self.next_look.store(now.saturating_add(self.interval), Ordering::Relaxed);
            let load = (self.signal)();
            if !load.is_nan() {
                // The lowest of all stands for "not known".
                self.load.store(load.max(f64::MIN).to_bits(), Ordering::Relaxed);
            }
        }
        drop(done);
    }

    fn sheds(&self, call: Call, now: u64) -> bool {
        self.look(now);
        let load = f64::from_bits(self.load.load(Ordering::Relaxed));
        let share = share_shed(load, self.low, self.high, call.priority);
        if share <= 0.0 {
            return false;
        }
        if share < 1.0 {
            // 53 bits, as many as a double holds.
            return (self.seeds.next().next() >> 11) as f64 / ((1u64 << 53) as f64) < share;
        }
        let next = self.next_pass.load(Ordering::Relaxed);
        let pass = now.saturating_add(self.interval);
        // One call passes: whoever finds the time changed was not it. Relaxed: nothing else depends on it.
        let passes = now >= next
            && self.next_pass.compare_exchange(next, pass, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        !passes
    }
}

/// Which share of the calls of a priority to shed: rising along half of the way from `low` to `high`, the earlier the
/// lower the priority.
fn share_shed(load: f64, low: f64, high: f64, priority: u8) -> f64 {
    // Halved, so that the difference of two huge marks is finite.
    let way = ((load / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0)).clamp(0.0, 1.0);
    (2.0 * way - f64::from(priority) / 255.0).clamp(0.0, 1.0)
}

impl Gate for LoadShed {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        let now = self.clock.nanos();
        let rejected = |reason| Rejected::new(self.hook.name, reason);
        self.hook.admission(if now >= call.deadline && call.deadline != NEVER {
            Err(rejected(Reason::DeadlineExceeded))
        } else if self.sheds(call, now) {
            Err(rejected(Reason::Shed).after(Duration::from_nanos(self.interval)))
        } else {
            Ok(Permit::new(self, Ticket::new(0, call)))
        })
    }

    fn release(&self, _: Ticket, outcome: Outcome) {
        self.hook.emit(Event::Finished(outcome));
    }
}

impl fmt::Debug for LoadShed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadShed")
            .field("name", &self.hook)
            .field("between", &(self.low, self.high))
            .field("load", &self.load())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use super::*;

    #[test]
    fn lower_priorities_are_shed_first_and_each_along_half_of_the_way() {
        for (priority, shares) in
            [(0, [0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0]), (255, [0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 1.0])]
        {
            let loads = [-1e300, 0.6, 0.65, 0.7, 0.75, 0.8, f64::INFINITY];
            for (load, share) in loads.into_iter().zip(shares) {
                let shed = share_shed(load, 0.6, 0.8, priority);
                assert!((shed - share).abs() < 1e-9, "priority {priority} at {load}: {shed}, not {share}");
            }
        }
        assert!((share_shed(0.5, 0.0, 1.0, Call::NORMAL) - 0.5).abs() < 0.01);
        assert!(
            share_shed(0.0, f64::MIN, f64::MAX, 0) == 1.0
                && share_shed(f64::MIN, f64::MIN, f64::MAX, 0) == 0.0
        );
    }

    #[test]
    fn nobody_is_shed_before_the_signal_was_heard() {
        assert_eq!(share_shed(f64::NEG_INFINITY, 0.8, 1.0, 0), 0.0);
    }
}

//! Send less to a dependency that refuses: [`AdaptiveThrottle`].
//!
//! An overloaded server spends time even on what it refuses. When many clients share one, each can see by itself that it
//! is refused, and keep back what would be refused anyway, without anyone telling it a limit. When **not** to use it: if
//! the quota is known (that is a limit); to stop calling what is down (a breaker does that sooner, and all or nothing);
//! around calls that fail because of their input, unless [`when`](Gate::when) or [`judge`](Gate::judge) tells those
//! failures apart.
//!
//! *Client-side throttling* of "Site Reliability Engineering" (Beyer, Jones, Petoff and Murphy, 2016, chapter 21): with
//! a multiplier *K*, a call is kept back with the probability `max(0, (requests - K * accepts) / (requests + 1))`, where
//! those kept back are requests too. So the server gets up to *K* times what it accepts, however much is wanted.

use std::time::Duration;

use crate::call::Call;
use crate::clock::{Clock, NEVER};
use crate::error::{Reason, Rejected, absurd, saturating_nanos};
use crate::event::{Event, Hook, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket, until};
use crate::rng::Seeds;
use crate::setters::setters;
use crate::sync::{AtomicU64, Ordering};
use crate::window::Window;

/// Keeps calls back with a probability that rises with the share of them that the dependency did not accept lately.
///
/// Nothing is kept back while at least one in [`multiplier`](AdaptiveThrottle::multiplier) requests is accepted, by
/// default half of them. Below that as many are let through as were accepted, times the multiplier. Those of lower
/// [`priority`](Call::priority) are kept back first: where a normal call is kept back with a probability of *p*, one of
/// the lowest priority is with the eighth root of *p*, one of the highest with its eighth power.
///
/// [`Success`](Outcome::Success) is acceptance. [`Failure`](Outcome::Failure) and [`Throttled`](Outcome::Throttled) are
/// not: an overloaded server is as often late as it is polite. What the judge ignores, and what was dropped without a
/// report before its deadline, counts for nothing. A call counts when it ends, or when it is kept back: a burst of
/// calls that nobody has answered yet is no sign of overload.
///
/// Once a second a call is let through that would be kept back, so that a server that is well again is found. What is
/// sent then doubles about three times in each [`window`](AdaptiveThrottle::window): after an outage of any length, 100
/// calls a second pass again 1¼ minutes later at the latest.
///
/// # Cost
///
/// One reading of the clock and ten loads to enter, as many again and a random number while it keeps calls back; one
/// atomic addition to leave. No allocation, but for a kilobyte or so per processor once threads meet in it.
///
/// # Examples
///
/// ```
/// use floodwall::{AdaptiveThrottle, Blocking, Clock, Error, Reason};
///
/// let throttle = AdaptiveThrottle::new().seed(7).clock(Clock::manual());
/// let kept_back = |_: &u32| match throttle.call_blocking(|| Err::<(), _>("overloaded")) {
///     Err(Error::Rejected(rejected)) => rejected.reason() == Reason::Shed,
///     _ => false,
/// };
/// // It begins when it has seen 20 calls; of the rest hardly any reaches the server.
/// let count = (0..1_000).filter(kept_back).count();
/// assert!((950..=980).contains(&count));
/// assert!(throttle.rejection_rate() > 0.99);
/// ```
#[derive(Debug)]
pub struct AdaptiveThrottle {
    /// Accepted, and not: refused by the dependency, or kept back here.
    window: Window<1, 1>,
    /// In nanoseconds.
    length: u64,
    multiplier: f64,
    min_calls: u64,
    /// When the next call passes that would be kept back.
    next_pass: AtomicU64,
    seeds: Seeds,
    clock: Clock,
    hook: Hook,
}

/// The window's kinds.
const ACCEPTED: usize = 0;
const REFUSED: usize = 0;

/// A call passes in so many nanoseconds, whatever the probability.
const PASS_EVERY: u64 = 1_000_000_000;

impl AdaptiveThrottle {
    /// Creates a throttle that has seen nothing yet.
    #[expect(
        clippy::new_without_default,
        reason = "no other gate has a default: it would not say what it limits"
    )]
    pub fn new() -> Self {
        Self {
            window: Window::new(Duration::ZERO),
            length: 0,
            multiplier: 2.0,
            min_calls: 20,
            next_pass: AtomicU64::new(0),
            seeds: Seeds::from_entropy(),
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
        .window(Duration::from_secs(30))
    }

    /// Lets through so many times what the dependency accepts. Default: 2.
    ///
    /// Lower wastes less of the server's time on refusals, higher notices sooner that it accepts more.
    ///
    /// # Panics
    ///
    /// If `multiplier` is not above 1 and finite.
    #[track_caller]
    #[must_use = "returns the changed throttle"]
    pub fn multiplier(mut self, multiplier: f64) -> Self {
        assert!(
            multiplier > 1.0 && multiplier.is_finite(),
            "multiplier: {multiplier} must be above 1 and finite"
        );
        self.multiplier = multiplier;
        self
    }

    /// Goes by the calls of so much time, in ten slices. Default: 30 s.
    ///
    /// The book's two minutes are steadier, and take four times as long to forget an outage.
    ///
    /// # Panics
    ///
    /// If `length` is zero.
    #[track_caller]
    #[must_use = "returns the changed throttle"]
    pub fn window(mut self, length: Duration) -> Self {
        if length.is_zero() {
            absurd("window", 0, "ns must be at least 1 ns");
        }
        (self.window, self.length) = (Window::new(length), saturating_nanos(length));
        self
    }

    /// Keeps nothing back while the window holds fewer calls. Default: 20.
    ///
    /// # Panics
    ///
    /// If `calls` is 0.
    #[track_caller]
    #[must_use = "returns the changed throttle"]
    pub fn min_calls(mut self, calls: u64) -> Self {
        if calls == 0 {
            absurd("min_calls", 0, "must be at least 1");
        }
        self.min_calls = calls;
        self
    }

    /// Draws the same calls in each run. Default: a random seed.
    #[must_use = "returns the changed throttle"]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seeds = Seeds::seeded(seed);
        self
    }

    setters!("throttle");

    /// Returns the probability with which a call of normal priority is kept back now.
    pub fn rejection_rate(&self) -> f64 {
        self.probability(self.clock.nanos())
    }

    fn probability(&self, now: u64) -> f64 {
        let refused = self.window.cold(REFUSED, 0, now);
        if refused == 0 {
            return 0.0;
        }
        // With so many accepted the probability is zero, and so many calls are enough to say so: no need to count on.
        let enough = (refused as f64 / (self.multiplier - 1.0)).ceil() as u64;
        let accepted = self.window.hot(ACCEPTED, 0, now, enough);
        rejection_rate(accepted, refused, self.multiplier, self.min_calls)
    }

    /// Lets a call through, or says in how many nanoseconds one will be in any case.
    fn admit(&self, priority: u8, now: u64) -> Result<(), u64> {
        let rate = for_priority(self.probability(now), priority);
        // 53 bits, as many as a double holds.
        let drawn = || (self.seeds.next().next() >> 11) as f64 / (1u64 << 53) as f64;
        if rate <= 0.0 || drawn() >= rate {
            return Ok(());
        }
        let next = self.next_pass.load(Ordering::Relaxed);
        let pass = now.saturating_add(PASS_EVERY);
        let next = if now < next {
            next
        } else {
            // One call passes: whoever finds the time changed was not it. Relaxed: nothing else depends on it.
            match self.next_pass.compare_exchange(next, pass, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(newer) => newer,
            }
        };
        self.window.count(REFUSED, 0, now);
        Err(next.saturating_sub(now).clamp(1, PASS_EVERY))
    }
}

fn rejection_rate(accepted: u64, refused: u64, multiplier: f64, min_calls: u64) -> f64 {
    let requests = accepted + refused;
    if requests < min_calls {
        return 0.0;
    }
    ((requests as f64 - multiplier * accepted as f64) / (requests as f64 + 1.0)).max(0.0)
}

/// The probability for a priority: raised to a power of 1/8 for the lowest, 1 for normal, 8 for the highest. Nothing
/// stays nothing, and what is nearly certain stays so.
fn for_priority(rate: f64, priority: u8) -> f64 {
    if rate <= 0.0 || priority == Call::NORMAL {
        return rate;
    }
    let steps = f64::from(priority) - f64::from(Call::NORMAL);
    rate.powf((steps * 3.0 / 128.0).exp2())
}

impl Gate for AdaptiveThrottle {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        let now = self.clock.nanos();
        let rejected = |reason| Rejected::new(self.hook.name, reason);
        let decision = if now >= call.deadline && call.deadline != NEVER {
            Err(rejected(Reason::DeadlineExceeded))
        } else {
            let wait = |wait| rejected(Reason::Shed).after(Duration::from_nanos(wait));
            self.admit(call.priority, now).map_err(wait)
        };
        self.hook.admission(decision.map(|()| Permit::new(self, Ticket::new(0, call))))
    }

    fn release(&self, ticket: Ticket, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Abandoned if ticket.is_late(&self.clock) => Outcome::Failure,
            outcome => outcome,
        };
        match outcome {
            Outcome::Success => self.window.count_hot(ACCEPTED, 0, || self.clock.nanos()),
            Outcome::Failure | Outcome::Throttled { .. } => self.window.count(REFUSED, 0, self.clock.nanos()),
            Outcome::Ignored | Outcome::Abandoned => {}
        }
        self.hook.emit(Event::Finished(outcome));
    }

    fn residual(&self) -> Option<Residual> {
        let now = self.clock.nanos();
        (self.probability(now) > 0.0).then(|| until(now.saturating_add(self.length)))
    }
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_the_books_formula() {
        for (accepted, refused, multiplier, rate) in [
            (100, 0, 2.0, 0.0),
            (100, 100, 2.0, 0.0),
            (100, 101, 2.0, 1.0 / 202.0),
            (100, 900, 2.0, 800.0 / 1001.0),
            (0, 1_000, 2.0, 1_000.0 / 1_001.0),
            (100, 9, 1.1, 0.0),
            (100, 20, 1.1, 10.0 / 121.0),
            (5, 14, 2.0, 0.0),
            (5, 15, 2.0, 10.0 / 21.0),
        ] {
            let found = rejection_rate(accepted, refused, multiplier, 20);
            assert!((found - rate).abs() < 1e-9, "{accepted} and {refused}: {found}, not {rate}");
        }
    }

    #[test]
    fn priorities_bend_the_rate_and_keep_its_ends() {
        for priority in [0, 1, 127, 128, 129, 255] {
            assert_eq!(for_priority(0.0, priority), 0.0);
            assert_eq!(for_priority(1.0, priority), 1.0);
        }
        assert!((for_priority(0.5, 0) - 0.917).abs() < 0.001);
        assert_eq!(for_priority(0.5, Call::NORMAL), 0.5);
        assert!((for_priority(0.5, 255) - 0.0042).abs() < 0.0005);
    }
}

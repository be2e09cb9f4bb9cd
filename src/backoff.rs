//! How long to wait between attempts: [`Exponential`], [`Constant`], and [`Backoff`], which is any of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{absurd, saturating_nanos};
use crate::rng::Rng;

/// Delays that double: `base`, 2 × `base`, 4 × `base` and so on up to a cap, each with jitter.
///
/// By default with *full jitter*: each delay is drawn evenly from zero to the full delay, which spreads the clients
/// that failed together best (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Backoff, Exponential, Jitter};
///
/// let millis = Duration::from_millis;
/// let backoff = Exponential::new(millis(50)).max(millis(150)).attempts(5).jitter(Jitter::None);
/// let delays: Vec<Duration> = Backoff::from(backoff).delays(0).collect();
/// assert_eq!(delays, [millis(50), millis(100), millis(150), millis(150)]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "give it to Retry::new"]
pub struct Exponential {
    base: u64,
    max: u64,
    attempts: u32,
    jitter: Jitter,
}

impl Exponential {
    /// Waits `base` before the second attempt, twice that before the third, and so on.
    ///
    /// # Panics
    ///
    /// If `base` is zero.
    #[track_caller]
    pub const fn new(base: Duration) -> Self {
        if base.is_zero() {
            absurd("base", 0, "ns must be at least 1 ns; for retries without delay take Constant");
        }
        Self { base: saturating_nanos(base), max: MINUTE, attempts: 3, jitter: Jitter::Full }
    }

    /// Never waits longer than `delay`, jitter included. Default: 1 minute.
    pub const fn max(mut self, delay: Duration) -> Self {
        self.max = saturating_nanos(delay);
        self
    }

    /// Makes at most so many attempts, the first included. Default: 3.
    ///
    /// # Panics
    ///
    /// If `attempts` is 0.
    #[track_caller]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = at_least_one(attempts);
        self
    }

    /// Sets how delays are spread. Default: [`Jitter::Full`].
    pub const fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }
}

/// The same delay each time, by default without jitter.
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Backoff, Constant};
///
/// let backoff = Backoff::from(Constant::new(Duration::ZERO).attempts(3));
/// assert_eq!(backoff.delays(0).count(), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "give it to Retry::new"]
pub struct Constant {
    delay: u64,
    attempts: u32,
    jitter: Jitter,
}

impl Constant {
    /// Waits `delay` before each further attempt; zero tries again at once.
    pub const fn new(delay: Duration) -> Self {
        Self { delay: saturating_nanos(delay), attempts: 3, jitter: Jitter::None }
    }

    /// Makes at most so many attempts, the first included. Default: 3.
    ///
    /// # Panics
    ///
    /// If `attempts` is 0.
    #[track_caller]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = at_least_one(attempts);
        self
    }

    /// Sets how delays are spread. Default: [`Jitter::None`].
    ///
    /// # Panics
    ///
    /// If `jitter` is [`Jitter::Decorrelated`], which needs delays that grow.
    #[track_caller]
    pub const fn jitter(mut self, jitter: Jitter) -> Self {
        assert!(
            !matches!(jitter, Jitter::Decorrelated),
            "jitter: decorrelated needs delays that grow: take Exponential"
        );
        self.jitter = jitter;
        self
    }
}

/// How delays are spread, so that clients which failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Jitter {
    /// The delay as it is.
    None,
    /// Evenly from half the delay to the delay.
    Equal,
    /// Evenly from zero to the delay.
    Full,
    /// Evenly from `base` to three times the delay before, within the cap: for [`Exponential`] only.
    ///
    /// It never waits less than `base`, and grows by what was drawn, so that those that failed together also lose step.
    /// The published form draws beyond the cap and cuts off, so that in the end most wait exactly the cap; this one draws
    /// within it.
    Decorrelated,
}

/// The delays between attempts: [`Exponential`], [`Constant`], or a function of your own.
#[derive(Clone)]
pub struct Backoff(Kind);

#[derive(Clone)]
enum Kind {
    Exponential(Exponential),
    Constant(Constant),
    Function(Arc<dyn Fn(u32) -> Option<Duration> + Send + Sync>),
}

impl Backoff {
    /// Waits what `delay` says after the attempt of a number, from 1; `None` ends the attempts.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::Backoff;
    ///
    /// let seconds = [1, 5, 60];
    /// let backoff = Backoff::from_fn(move |attempt| {
    ///     seconds.get(attempt as usize - 1).map(|&s| Duration::from_secs(s))
    /// });
    /// assert_eq!(backoff.delays(0).last(), Some(Duration::from_secs(60)));
    /// ```
    pub fn from_fn(delay: impl Fn(u32) -> Option<Duration> + Send + Sync + 'static) -> Self {
        Self(Kind::Function(Arc::new(delay)))
    }

    /// Returns the delays of one call. The same `seed` draws the same jitter.
    pub fn delays(&self, seed: u64) -> Delays {
        Delays { backoff: self.clone(), steps: Steps::new(Rng::seeded(seed)) }
    }

    /// Returns the delay after so many failures, however many attempts there may be; `None` only from a function.
    pub(crate) fn delay(&self, failed: u32, rng: &mut Rng) -> Option<Duration> {
        self.delay_after(failed, None, rng)
    }

    /// Returns the delay after so many failures; `None` after the last attempt.
    pub(crate) fn next_delay(&self, failed: u32, rng: &mut Rng) -> Option<Duration> {
        match &self.0 {
            Kind::Exponential(Exponential { attempts, .. }) | Kind::Constant(Constant { attempts, .. })
                if failed >= *attempts =>
            {
                None
            }
            _ => self.delay(failed, rng),
        }
    }

    /// The same as `delay`, after a delay of so many nanoseconds, where that is known.
    fn delay_after(&self, failed: u32, before: Option<u64>, rng: &mut Rng) -> Option<Duration> {
        let (delay, jitter) = match &self.0 {
            Kind::Exponential(Exponential { base, max, jitter: Jitter::Decorrelated, .. }) => {
                let shortest = *base.min(max);
                let before = before.unwrap_or_else(|| doubled(*base, failed.saturating_sub(1), *max));
                let longest = before.max(shortest).saturating_mul(3).min(*max);
                (shortest + rng.up_to(longest - shortest), Jitter::None)
            }
            // Capped before jitter is drawn: jitter takes away and never adds, so the cap holds.
            Kind::Exponential(Exponential { base, max, jitter, .. }) => {
                (doubled(*base, failed, *max), *jitter)
            }
            Kind::Constant(Constant { delay, jitter, .. }) => (*delay, *jitter),
            Kind::Function(delay) => return delay(failed),
        };
        Some(Duration::from_nanos(match jitter {
            Jitter::None => delay,
            Jitter::Equal => delay - rng.up_to(delay / 2),
            Jitter::Full | Jitter::Decorrelated => rng.up_to(delay),
        }))
    }
}

impl From<Exponential> for Backoff {
    fn from(exponential: Exponential) -> Self {
        Self(Kind::Exponential(exponential))
    }
}

impl From<Constant> for Backoff {
    fn from(constant: Constant) -> Self {
        Self(Kind::Constant(constant))
    }
}

impl fmt::Debug for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Exponential(exponential) => exponential.fmt(f),
            Kind::Constant(constant) => constant.fmt(f),
            Kind::Function(_) => f.write_str("Backoff::from_fn"),
        }
    }
}

/// The delays between the attempts of one call, made by [`Backoff::delays`]; ends after the last attempt.
#[derive(Clone, Debug)]
#[must_use = "iterators do nothing unless they are consumed"]
pub struct Delays {
    backoff: Backoff,
    steps: Steps,
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.steps.next(&self.backoff)
    }
}

/// How far one call has come with a backoff that is kept elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Steps {
    /// How many attempts have failed.
    failed: u32,
    /// The delay before this one, in nanoseconds; zero at first.
    before: u64,
    rng: Rng,
}

impl Steps {
    pub(crate) const fn new(rng: Rng) -> Self {
        Self { failed: 0, before: 0, rng }
    }

    /// Returns the delay before the next attempt; `None` after the last one.
    pub(crate) fn next(&mut self, backoff: &Backoff) -> Option<Duration> {
        self.failed = self.failed.saturating_add(1);
        match &backoff.0 {
            Kind::Exponential(Exponential { attempts, .. }) | Kind::Constant(Constant { attempts, .. })
                if self.failed >= *attempts =>
            {
                None
            }
            _ => {
                let delay = backoff.delay_after(self.failed, Some(self.before), &mut self.rng)?;
                self.before = saturating_nanos(delay);
                Some(delay)
            }
        }
    }

    /// Draws at most `longest` nanoseconds, to spread those that were all told one delay.
    pub(crate) fn spread(&mut self, longest: u64) -> u64 {
        self.rng.up_to(longest)
    }
}

/// Returns what `base` has doubled to after so many failures, at most `max`.
fn doubled(base: u64, failed: u32, max: u64) -> u64 {
    let doubled = match failed.saturating_sub(1) {
        doublings @ 0..64 => u128::from(base) << doublings,
        _ => u128::MAX,
    };
    doubled.min(u128::from(max)) as u64
}

const MINUTE: u64 = 60_000_000_000;

#[track_caller]
const fn at_least_one(attempts: u32) -> u32 {
    if attempts == 0 {
        absurd("attempts", 0, "must be at least 1: the first one counts");
    }
    attempts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn jitter_never_exceeds_the_cap(
            base in prop_oneof![1u64.., 1u64..1_000],
            max in prop_oneof![any::<u64>(), 0u64..1_000],
            attempts in 1u32..2_000,
            seed: u64,
            jitter in prop::sample::select(vec![Jitter::None, Jitter::Equal, Jitter::Full, Jitter::Decorrelated]),
        ) {
            let exponential = Exponential::new(Duration::from_nanos(base))
                .max(Duration::from_nanos(max)).attempts(attempts).jitter(jitter);
            let delays: Vec<_> = Backoff::from(exponential).delays(seed).collect();
            prop_assert_eq!(delays.len() as u32, attempts - 1);
            prop_assert!(delays.iter().all(|delay| *delay <= Duration::from_nanos(max)));
            if jitter == Jitter::Equal {
                prop_assert!(delays.iter().all(|delay| *delay >= Duration::from_nanos(base.min(max) / 2)));
            }
            if jitter == Jitter::Decorrelated {
                let shortest = Duration::from_nanos(base.min(max));
                prop_assert!(delays.iter().all(|delay| *delay >= shortest));
                let mut before = shortest;
                for delay in delays {
                    prop_assert!(delay <= before.saturating_mul(3), "{:?} after {:?}", delay, before);
                    before = delay;
                }
            }
        }
    }

    #[test]
    fn full_jitter_reaches_both_ends() {
        let backoff = Backoff::from(Exponential::new(Duration::from_nanos(1000)).attempts(2));
        let delays: Vec<_> = (0..10_000).flat_map(|seed| backoff.delays(seed)).collect();
        assert!(delays.iter().any(|delay| *delay < Duration::from_nanos(10)));
        assert!(delays.iter().any(|delay| *delay > Duration::from_nanos(990)));
    }

    #[test]
    fn decorrelated_delays_grow_and_do_not_gather_at_the_cap() {
        let second = Duration::from_secs(1);
        let backoff = Exponential::new(Duration::from_millis(10)).max(second).attempts(12);
        let backoff = Backoff::from(backoff.jitter(Jitter::Decorrelated));
        let all: Vec<Vec<_>> = (0..1_000).map(|seed| backoff.delays(seed).collect()).collect();
        let mean = |number: usize| all.iter().map(|delays| delays[number]).sum::<Duration>() / 1_000;
        assert!(mean(0) < Duration::from_millis(22) && mean(0) > Duration::from_millis(18));
        assert!(mean(10) > 10 * mean(0), "{:?}", mean(10));
        let at_the_cap = all.iter().filter(|delays| delays[10] > second * 99 / 100).count();
        assert!(at_the_cap < 50, "{at_the_cap} of 1,000 wait for the cap");
    }

    #[test]
    #[should_panic(expected = "jitter: decorrelated needs delays that grow")]
    fn decorrelated_delays_that_cannot_grow_are_refused() {
        let _ = Constant::new(Duration::from_secs(1)).jitter(Jitter::Decorrelated);
    }

    #[test]
    fn no_attempt_number_overflows() {
        for jitter in [Jitter::None, Jitter::Equal, Jitter::Full, Jitter::Decorrelated] {
            let forever = Exponential::new(Duration::MAX).max(Duration::MAX).attempts(u32::MAX);
            let mut delays = Backoff::from(forever.jitter(jitter)).delays(0);
            assert!((0..2_000).all(|_| delays.next().is_some()));
            delays.steps.failed = u32::MAX - 2;
            assert!(delays.next().is_some());
            assert_eq!(delays.next(), None);
            assert_eq!(delays.next(), None);
        }
    }
}

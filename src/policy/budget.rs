//! How much may be tried again: [`RetryBudget`].
//!
//! Retries multiply load exactly when there is too much of it, and so do hedges. A budget that all retries and hedges
//! towards one dependency share bounds them together, however many layers and callers there are. When **not** to use it:
//! for a batch that has to get through however long it takes (that is a matter of a slow backoff); as the only limit on
//! a dependency, since it does not see first attempts.

use std::fmt;

use crate::call::Call;
use crate::clock::Clock;
use crate::gate::Gate;
use crate::limit::TokenBucket;
use crate::sync::{AtomicU64, Ordering};

/// Bounds the retries and hedges of all policies that share it, by a share of the calls made.
///
/// Two ways to count, both without a gap between looking and taking:
///
/// | | a further attempt needs | bounds | good for |
/// |---|---|---|---|
/// | [`of_calls`](Self::of_calls) | a token; each call brings a share of one | attempts over time | most services |
/// | [`of_running`](Self::of_running) | a place; there are so many per running call | attempts at once | slow calls, where what piles up matters |
///
/// Give an `Arc` of one budget to [`Retry::budget`](crate::Retry::budget) and [`Hedge::budget`](crate::Hedge::budget), as
/// often as you like. A retry that finds it empty returns the last result at once, a hedge makes no further copy; both
/// say so with [`Event::GaveUp`](crate::Event::GaveUp).
///
/// Each policy brings the share of the calls that enter it; further attempts of a policy outside it bring nothing. So a
/// retry with a hedge inside that share a tenth add a fifth at most.
///
/// # Cost
///
/// Per call one load while the budget of calls is full, else one compare-and-swap; two additions for running ones. The
/// clock is read only when all that calls brought is used up. No allocation.
///
/// # Examples
///
/// ```
/// # use std::{sync::Arc, time::Duration};
/// use floodwall::{Blocking, Constant, Retry, RetryBudget};
///
/// let budget = Arc::new(RetryBudget::of_calls(0.1).min_per_second(0).burst(2));
/// let retry = Retry::new(Constant::new(Duration::ZERO).attempts(10)).budget(budget.clone());
/// let mut attempts = 0;
/// let result = retry.call_blocking(|| {
///     attempts += 1;
///     Err::<(), _>("down")
/// });
/// assert_eq!((result.is_err(), attempts, budget.available()), (true, 3, 0));
/// ```
pub struct RetryBudget {
    kind: Kind,
    clock: Clock,
}

enum Kind {
    OfCalls {
        /// In millionths of a token.
        balance: AtomicU64,
        per_call: u64,
        most: u64,
        /// What there is besides, so that those who call seldom can retry at all.
        besides: Option<TokenBucket>,
    },
    OfRunning {
        /// Further attempts in the high half, calls in the low one: one word, so that to look and to take is one step.
        running: AtomicU64,
        /// In millionths.
        share: u64,
        min: u32,
    },
}

const TOKEN: u64 = 1_000_000;
/// A further attempt, in the word of what runs.
const FURTHER: u64 = 1 << 32;

impl RetryBudget {
    /// Lets each call bring `share` of a further attempt; 0.1 is a good start.
    ///
    /// In any time there are at most as many further attempts as the calls of that time bring, plus `burst`, plus
    /// [`min_per_second`](Self::min_per_second) for each second and once more. A tenth is what clients at Google may add
    /// ("Handling Overload", Site Reliability Engineering, 2016); to save it up in a bucket is the way of finagle's
    /// `RetryBudget`.
    ///
    /// ```
    /// use floodwall::RetryBudget;
    /// assert_eq!(RetryBudget::of_calls(0.1).burst(10).min_per_second(1).available(), 11);
    /// ```
    ///
    /// # Panics
    ///
    /// If `share` is not above 0, or is above 10.
    #[track_caller]
    pub fn of_calls(share: f64) -> Self {
        let kind = Kind::OfCalls {
            balance: AtomicU64::new(10 * TOKEN),
            per_call: millionths(share),
            most: 10 * TOKEN,
            besides: Some(TokenBucket::per_second(1)),
        };
        Self { kind, clock: Clock::system() }
    }

    /// Lets `share` of the calls that run be further attempts, and at least [`min`](Self::min); 0.2 is a good start.
    ///
    /// A further attempt takes its place when it is decided upon, and holds it through the wait before it, so that
    /// those that wait are bounded too. (failsafe-go's `budget`, from which the 0.2 and 3 are.)
    ///
    /// ```
    /// use floodwall::RetryBudget;
    /// assert_eq!(RetryBudget::of_running(0.2).available(), 3);
    /// ```
    ///
    /// # Panics
    ///
    /// If `share` is not above 0, or is above 10.
    #[track_caller]
    pub fn of_running(share: f64) -> Self {
        let kind = Kind::OfRunning { running: AtomicU64::new(0), share: millionths(share), min: 3 };
        Self { kind, clock: Clock::system() }
    }

    /// Allows so many further attempts per second besides. Default: 1. With 0 only calls bring any.
    ///
    /// # Panics
    ///
    /// If the budget is one [of running calls](Self::of_running); if `attempts` is over 10⁹.
    #[track_caller]
    #[must_use = "returns the changed budget"]
    pub fn min_per_second(mut self, attempts: u32) -> Self {
        let Kind::OfCalls { besides, .. } = &mut self.kind else {
            panic!("min_per_second: a budget of running calls has a min")
        };
        assert!(attempts <= 1_000_000_000, "min_per_second: {attempts} must be at most 1000000000");
        *besides = (attempts > 0).then(|| TokenBucket::per_second(attempts.into()).clock(self.clock.clone()));
        self
    }

    /// Saves so many further attempts while they are not needed, and starts with them. Default: 10.
    ///
    /// Few suffice also for many calls, which go on to bring theirs while some of them fail.
    ///
    /// # Panics
    ///
    /// If the budget is one [of running calls](Self::of_running); if `attempts` is 0.
    #[track_caller]
    #[must_use = "returns the changed budget"]
    pub fn burst(mut self, attempts: u32) -> Self {
        let Kind::OfCalls { balance, most, .. } = &mut self.kind else {
            panic!("burst: a budget of running calls has a min")
        };
        assert!(attempts > 0, "burst: 0 must be at least 1");
        *most = u64::from(attempts) * TOKEN;
        *balance = AtomicU64::new(*most);
        self
    }

    /// Allows so many further attempts at once however few calls run. Default: 3.
    ///
    /// # Panics
    ///
    /// If the budget is one [of calls](Self::of_calls).
    #[track_caller]
    #[must_use = "returns the changed budget"]
    pub fn min(mut self, attempts: u32) -> Self {
        let Kind::OfRunning { min, .. } = &mut self.kind else {
            panic!("min: a budget of calls has a burst and a min_per_second")
        };
        *min = attempts;
        self
    }

    /// Tells the time by `clock`, for [`min_per_second`](Self::min_per_second). Default: the system clock.
    #[must_use = "returns the changed budget"]
    pub fn clock(mut self, clock: Clock) -> Self {
        if let Kind::OfCalls { besides, .. } = &mut self.kind {
            *besides = besides.take().map(|bucket| bucket.clock(clock.clone()));
        }
        self.clock = clock;
        self
    }

    /// Returns how many further attempts could start now.
    pub fn available(&self) -> u64 {
        match &self.kind {
            Kind::OfCalls { balance, besides, .. } => {
                let besides = besides.as_ref().map_or(0, TokenBucket::available);
                balance.load(Ordering::Relaxed) / TOKEN + besides
            }
            Kind::OfRunning { running, share, min } => {
                let running = running.load(Ordering::Relaxed);
                allowed(running, *share, *min).saturating_sub(running / FURTHER)
            }
        }
    }

    /// Counts a call that enters a policy, until what is returned is dropped.
    #[inline(never)]
    pub(super) fn enter(&self, call: Call) -> Entered<'_> {
        // A further attempt of a policy outside is paid for by the budget, and brings nothing to it.
        if call.attempt > 1 {
            return Entered(None);
        }
        match &self.kind {
            Kind::OfCalls { balance, per_call, most, .. } => {
                let mut held = balance.load(Ordering::Relaxed);
                // When all is well the budget is full, and calls do not write to what they share.
                while held < *most {
                    let next = held.saturating_add(*per_call).min(*most);
                    match balance.compare_exchange_weak(held, next, Ordering::Relaxed, Ordering::Relaxed) {
                        Ok(_) => break,
                        Err(other) => held = other,
                    }
                }
                Entered(None)
            }
            Kind::OfRunning { running, .. } => {
                running.fetch_add(1, Ordering::Relaxed);
                Entered(Some(running))
            }
        }
    }

    /// Takes one further attempt, which ends when what is returned is dropped.
    pub(super) fn try_take(&self) -> Option<Further<'_>> {
        match &self.kind {
            Kind::OfCalls { balance, besides, .. } => {
                let mut held = balance.load(Ordering::Relaxed);
                while held >= TOKEN {
                    let next = held - TOKEN;
                    match balance.compare_exchange_weak(held, next, Ordering::Relaxed, Ordering::Relaxed) {
                        Ok(_) => return Some(Further(None)),
                        Err(other) => held = other,
                    }
                }
                besides.as_ref()?.try_acquire().ok()?.success();
                Some(Further(None))
            }
            Kind::OfRunning { running, share, min } => {
                let mut word = running.load(Ordering::Relaxed);
                while word / FURTHER < allowed(word, *share, *min) {
                    let next = word + FURTHER;
                    match running.compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed) {
                        Ok(_) => return Some(Further(Some(running))),
                        Err(other) => word = other,
                    }
                }
                None
            }
        }
    }
}

/// How many further attempts may run beside the calls that a word counts.
fn allowed(running: u64, share: u64, min: u32) -> u64 {
    let calls = running & (FURTHER - 1);
    (calls * share / TOKEN).max(min.into()).min(u32::MAX.into())
}

#[track_caller]
fn millionths(share: f64) -> u64 {
    assert!(share > 0.0 && share <= 10.0, "share: {share} must be above 0 and at most 10");
    // A share too small to count is the smallest that does.
    ((share * TOKEN as f64).round() as u64).max(1)
}

/// A call that a budget counts while it runs.
pub(super) struct Entered<'a>(Option<&'a AtomicU64>);

impl Entered<'_> {
    /// Of a call that no budget counts.
    pub(super) const UNCOUNTED: Self = Self(None);
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.0 {
            running.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A further attempt that a budget allowed.
pub(super) struct Further<'a>(Option<&'a AtomicU64>);

impl Further<'_> {
    /// One that no budget had to allow.
    pub(super) const FREE: Self = Self(None);
}

impl Drop for Further<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.0 {
            running.fetch_sub(FURTHER, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for RetryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryBudget").field("available", &self.available()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// What happens to a budget: a call starts, a further attempt is asked for, one of either ends, time passes.
    #[derive(Clone, Debug)]
    enum Step {
        Enter,
        Take,
        Leave(usize),
        End(usize),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Enter),
            3 => Just(Step::Take),
            1 => any::<usize>().prop_map(Step::Leave),
            1 => any::<usize>().prop_map(Step::End),
            1 => (0u64..2_000).prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Against the obvious twin, which counts tokens in millionths and those of time by the millisecond.
        #[test]
        fn a_budget_of_calls_gives_what_its_twin_gives(
            share in 1u64..3_000, burst in 1u32..5, min_per_second in 0u32..4, steps in steps(),
        ) {
            let clock = Clock::manual();
            let budget = RetryBudget::of_calls(share as f64 / 1_000.0)
                .burst(burst).min_per_second(min_per_second).clock(clock.clone());
            let (most, most_of_time) = (u64::from(burst) * 1_000, u64::from(min_per_second) * 1_000);
            let (mut tokens, mut of_time) = (most, most_of_time);
            for step in steps {
                match step {
                    Step::Enter => {
                        drop(budget.enter(Call::new()));
                        tokens = (tokens + share).min(most);
                    }
                    Step::Take => {
                        let source = if tokens >= 1_000 { &mut tokens } else { &mut of_time };
                        let gives = *source >= 1_000;
                        prop_assert_eq!(budget.try_take().is_some(), gives);
                        *source -= if gives { 1_000 } else { 0 };
                    }
                    Step::Wait(millis) => {
                        clock.advance(Duration::from_millis(millis));
                        of_time = (of_time + millis * u64::from(min_per_second)).min(most_of_time);
                    }
                    Step::Leave(_) | Step::End(_) => {}
                }
                prop_assert_eq!(budget.available(), tokens / 1_000 + of_time / 1_000);
            }
        }

        #[test]
        fn a_budget_of_running_calls_gives_what_its_twin_gives(
            share in 1u64..3_000, min in 0u32..4, steps in steps(),
        ) {
            let budget = RetryBudget::of_running(share as f64 / 1_000.0).min(min);
            let (mut calls, mut further) = (Vec::new(), Vec::new());
            for step in steps {
                let allowed = (calls.len() as u64 * share / 1_000).max(min.into());
                match step {
                    Step::Enter => calls.push(budget.enter(Call::new())),
                    Step::Take => {
                        let taken = budget.try_take();
                        prop_assert_eq!(taken.is_some(), (further.len() as u64) < allowed);
                        further.extend(taken);
                    }
                    Step::Leave(which) if !calls.is_empty() => drop(calls.swap_remove(which % calls.len())),
                    Step::End(which) if !further.is_empty() => {
                        drop(further.swap_remove(which % further.len()));
                    }
                    Step::Leave(_) | Step::End(_) | Step::Wait(_) => {}
                }
                let allowed = (calls.len() as u64 * share / 1_000).max(min.into());
                prop_assert_eq!(budget.available(), allowed.saturating_sub(further.len() as u64));
            }
        }
    }
}

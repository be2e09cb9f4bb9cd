//! After which time to hedge: fixed, or measured on the calls themselves.

use std::time::Duration;

use crate::clock::{Clock, NEVER};
use crate::error::saturating_nanos;
use crate::histogram::Recent;
use crate::sync::{AtomicU64, Ordering};

/// What is measured is between one slice and two old.
const SLICE: Duration = Duration::from_secs(30);
/// How often the quantiles are looked up, which takes about a microsecond.
const LOOK_EVERY: u64 = 1_000_000_000;

pub(super) enum Delay {
    /// In nanoseconds.
    Fixed(u64),
    Measured(Box<Measured>),
}

pub(super) struct Measured {
    q: f64,
    floor: u64,
    ceiling: u64,
    recent: Recent,
    /// What was found last, and when to look again.
    delay: AtomicU64,
    median: AtomicU64,
    next_look: AtomicU64,
}

/// What is known of a delay at some time, in nanoseconds.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) delay: u64,
    /// How long half of the calls take at most; zero if that is not known.
    pub(super) median: u64,
}

impl Delay {
    pub(super) const fn fixed(delay: Duration) -> Self {
        Delay::Fixed(saturating_nanos(delay))
    }

    #[track_caller]
    pub(super) fn at_quantile(q: f64) -> Self {
        assert!((0.5..=0.9999).contains(&q), "q: {q} must be between 0.5 and 0.9999");
        let ceiling = 10_000_000_000;
        Delay::Measured(Box::new(Measured {
            q,
            floor: 1_000_000,
            ceiling,
            recent: Recent::new(SLICE),
            delay: AtomicU64::new(ceiling),
            median: AtomicU64::new(0),
            next_look: AtomicU64::new(0),
        }))
    }

    #[track_caller]
    pub(super) fn between(mut self, floor: Duration, ceiling: Duration) -> Self {
        let Delay::Measured(measured) = &mut self else {
            panic!("between: the delay is not measured: start with at_quantile")
        };
        assert!(floor <= ceiling, "between: the ceiling, {ceiling:?}, must be at least the floor, {floor:?}");
        (measured.floor, measured.ceiling) = (saturating_nanos(floor), saturating_nanos(ceiling));
        measured.delay = AtomicU64::new(measured.ceiling);
        self
    }

    pub(super) fn at(&self, now: u64) -> Known {
        match self {
            Delay::Fixed(delay) => Known { delay: *delay, median: 0 },
            Delay::Measured(measured) => measured.at(now),
        }
    }

    /// Watches a first copy that starts now, if there is anything to measure.
    pub(super) fn watch<'a>(&'a self, clock: &'a Clock) -> Option<Watch<'a>> {
        match self {
            Delay::Fixed(_) => None,
            Delay::Measured(measured) => Some(Watch { measured, clock, start: clock.nanos(), delay: NEVER }),
        }
    }
}

impl Measured {
    fn at(&self, now: u64) -> Known {
        let look = self.next_look.load(Ordering::Relaxed);
        // One of those who find it due looks; the others go by what was found last.
        let mine = now >= look
            && self
                .next_look
                .compare_exchange(look, now.saturating_add(LOOK_EVERY), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if mine {
            let found = self.look(now);
            self.delay.store(found.delay, Ordering::Relaxed);
            self.median.store(found.median, Ordering::Relaxed);
        }
        Known { delay: self.delay.load(Ordering::Relaxed), median: self.median.load(Ordering::Relaxed) }
    }

    fn look(&self, now: u64) -> Known {
        let samples = self.recent.count(now);
        // Five samples beyond the quantile, so that it does not hang on a single one. A model has two in all.
        let enough = if cfg!(floodwall_loom) { 2.0 } else { (5.0 / (1.0 - self.q)).max(100.0) };
        if (samples as f64) < enough {
            return Known { delay: self.ceiling, median: 0 };
        }
        let quantile = |q| self.recent.quantile(now, samples, q).unwrap_or(self.ceiling);
        Known { delay: quantile(self.q).clamp(self.floor, self.ceiling), median: quantile(0.5) }
    }
}

/// Measures a call's first copy.
///
/// A success counts as it is. Of anything else only a lower bound is known: how long the copy would have taken to
/// succeed, had it not failed or been dropped. Beyond the delay, that bound keeps the quantile where it is: the copy
/// belongs to those that take longer. Below it, it would pull the quantile down, and is left out.
pub(super) struct Watch<'a> {
    measured: &'a Measured,
    clock: &'a Clock,
    start: u64,
    /// After which time a further copy is due; `NEVER` before the copy had to wait.
    delay: u64,
}

impl Watch<'_> {
    pub(super) fn has_to_wait(&mut self) {
        if self.delay == NEVER {
            self.delay = self.measured.at(self.start).delay;
        }
    }

    /// The copy never ran, and says nothing.
    pub(super) fn forget(mut self) {
        self.delay = NEVER;
    }

    pub(super) fn ended(mut self, succeeded: bool) {
        if succeeded {
            self.delay = 0;
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let now = self.clock.nanos();
        let age = now.saturating_sub(self.start);
        if age >= self.delay {
            self.measured.recent.record(now, age);
        }
    }
}

//! How time becomes tokens: [`Rate`], in exact arithmetic.

use std::time::Duration;

use crate::error::{BadSetting, saturating_nanos};
use crate::sync::{AtomicU64, Ordering, back_off, const_fn, fence, into_inner};

/// So many tokens per period, and room for so many.
///
/// Time is counted in *units* of 2^-shift tokens since `origin`. The shift is the largest at which units come no faster
/// than nanoseconds and the burst fits; so a count lasts for decades, and at low rates is as fine as the clock. (Above
/// a token a nanosecond a unit is a whole token.) What has flowed is a function of the absolute time, rounded down once:
/// errors cannot add up, and since a token is a whole number of units, rounding units down rounds tokens down as exact
/// arithmetic would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// In nanoseconds on the clock's timeline.
    pub(super) origin: u64,
    /// In nanoseconds.
    pub(super) period: u64,
    /// Whole units per nanosecond.
    pub(super) whole: u64,
    /// Further units per period.
    pub(super) part: u64,
    /// `part` per 2^64 nanoseconds, rounded down.
    pub(super) reciprocal: u64,
    /// In units.
    pub(super) burst: u64,
    pub(super) shift: u32,
}

impl Rate {
    const MAX_PERIOD: u64 = 1 << 63;
    const MAX_BURST: u64 = 1 << 58;
    const MAX_PER_NANO: u64 = 1_000;
    /// Units after which the origin is moved: with room for a burst and a long line before the count's end at 2^61.
    const WORN: u64 = 1 << 60;

    /// Checks settings that are written in a program.
    #[track_caller]
    pub(super) const fn expect(tokens: u64, period: Duration, burst: Option<u64>) -> Self {
        let burst = match burst {
            Some(burst) => burst,
            None if tokens > Self::MAX_BURST => Self::MAX_BURST,
            None => tokens,
        };
        match Self::new(tokens, period, burst) {
            Ok(rate) => rate,
            Err(bad) => bad.panic(),
        }
    }

    pub(super) const fn new(tokens: u64, period: Duration, burst: u64) -> Result<Self, BadSetting> {
        let period = saturating_nanos(period);
        let (setting, value, must) = if period == 0 {
            ("period", period, "must be at least 1 ns")
        } else if period > Self::MAX_PERIOD {
            ("period", period, "must be at most 9223372036854775808 ns (292 years)")
        } else if tokens == 0 {
            ("tokens", tokens, "must be at least 1")
        } else if tokens / period > Self::MAX_PER_NANO
            || tokens / period == Self::MAX_PER_NANO && tokens % period > 0
        {
            ("tokens", tokens, "must be at most 1000 per nanosecond of the period")
        } else if burst == 0 {
            ("burst", burst, "must be at least 1")
        } else if burst > Self::MAX_BURST {
            ("burst", burst, "must be at most 288230376151711744 (2^58)")
        } else {
            return Ok(Self::checked(tokens, period, burst));
        };
        Err(BadSetting::new(setting, value, must))
    }

    const fn checked(tokens: u64, period: u64, burst: u64) -> Self {
        // The largest shifts that keep `tokens << shift <= period` and `burst << shift <= MAX_BURST`.
        let flow_shift = match (period / tokens).checked_ilog2() {
            Some(shift) => shift,
            None => 0,
        };
        let burst_shift = (Self::MAX_BURST / burst).ilog2();
        let shift = if flow_shift < burst_shift { flow_shift } else { burst_shift };
        let flow = tokens << shift;
        let part = flow % period;
        Self {
            origin: 0,
            period,
            whole: flow / period,
            part,
            reciprocal: (((part as u128) << 64) / period as u128) as u64,
            burst: burst << shift,
            shift,
        }
    }

    /// Returns what has flowed since the origin: `nanos * flow / period`, in whole units and the rest.
    #[inline]
    pub(super) const fn flowed(&self, now: u64) -> Flowed {
        let nanos = now.saturating_sub(self.origin);
        // The rounded reciprocal gives the quotient or one less; the remainder tells which.
        let quotient = ((nanos as u128 * self.reciprocal as u128) >> 64) as u64;
        let rest = (nanos as u128 * self.part as u128 - quotient as u128 * self.period as u128) as u64;
        let more = rest >= self.period;
        Flowed {
            units: nanos.saturating_mul(self.whole).saturating_add(quotient + more as u64),
            rest: if more { rest - self.period } else { rest },
        }
    }

    /// Returns how many nanoseconds after `flowed` there are `units`; 0 if there are.
    pub(super) const fn wait(&self, flowed: Flowed, units: u64) -> u64 {
        let missing = units.saturating_sub(flowed.units);
        if missing == 0 {
            return 0;
        }
        // The smallest wait with `wait * flow >= missing * period - rest`; nearly always in one word.
        if self.whole == 0 {
            if let Some(product) = missing.checked_mul(self.period) {
                return (product - flowed.rest).div_ceil(self.part);
            }
        }
        let flow = self.whole as u128 * self.period as u128 + self.part as u128;
        let wait = (missing as u128 * self.period as u128 - flowed.rest as u128).div_ceil(flow);
        if wait > u64::MAX as u128 { u64::MAX } else { wait as u64 }
    }

    /// Returns the time at which there are `units`, seen from `now`.
    pub(super) const fn time_of(&self, units: u64, now: u64) -> u64 {
        let now = if now > self.origin { now } else { self.origin };
        now.saturating_add(self.wait(self.flowed(now), units))
    }

    /// Returns `tokens` in units; saturates.
    pub(super) const fn units_of(&self, tokens: u64) -> u64 {
        if tokens > u64::MAX >> self.shift { u64::MAX } else { tokens << self.shift }
    }

    /// Returns whether the count nears its end, so that the origin has to be moved.
    pub(super) const fn is_worn(&self, now: u64) -> bool {
        self.flowed(now).units > Self::WORN
    }

    /// Returns what the word becomes when `cost` tokens are taken, and how many nanoseconds later they are there; `None`
    /// if they never are, or if the count has come to its end.
    #[inline]
    pub(super) fn take(&self, full_at: u64, flowed: Flowed, cost: u32) -> Option<(u64, u64)> {
        if u64::from(cost) > self.burst >> self.shift {
            return None;
        }
        let next = full_at.max(flowed.units).saturating_add(u64::from(cost) << self.shift);
        let wait = self.wait(flowed, next.saturating_sub(self.burst));
        (next < Shared::END).then_some((next, wait))
    }

    /// Returns how many units there are; negative if they are owed.
    pub(super) fn level(&self, full_at: u64, now: u64) -> i128 {
        i128::from(self.burst) - i128::from(full_at.saturating_sub(self.flowed(now).units))
    }

    /// Returns how many whole tokens there are.
    pub(super) fn available(&self, full_at: u64, now: u64) -> u64 {
        (self.level(full_at, now).max(0) as u64) >> self.shift
    }

    /// Turns units of another rate into units of this one, rounded down.
    pub(super) const fn convert(&self, units: i128, from: &Self) -> i128 {
        match self.shift.checked_sub(from.shift) {
            Some(left) => units << left,
            None => units >> (from.shift - self.shift),
        }
    }
}

/// What has flowed by some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flowed {
    pub(super) units: u64,
    /// The rest of the division by the period.
    rest: u64,
}

/// A rate and the word that counts in its units, which change together.
///
/// A sequence lock (H.-J. Boehm, "Can seqlocks get along with programming language memory models?", 2012): readers
/// load everything and look whether the version has changed meanwhile. `CHANGING` stands in for the word during a
/// change, and the word's low bits count the changes, so that a reader of the old rate can swap the word neither during
/// the change nor after it.
#[derive(Debug)]
pub(super) struct Shared {
    /// Odd during a change.
    version: AtomicU64,
    word: AtomicU64,
    fields: [AtomicU64; 7],
}

const CHANGING: u64 = u64::MAX;

/// A rate and its word, read together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) rate: Rate,
    /// When everything taken will have flowed back, in the rate's units.
    pub(super) full_at: u64,
    changes: u64,
}

impl Shared {
    const CHANGES_BITS: u32 = 3;
    /// Where the count of units ends.
    pub(super) const END: u64 = 1 << (64 - Self::CHANGES_BITS);

    const_fn! {
        pub(super) fn new(rate: Rate) -> Self {
            let Rate { origin, period, whole, part, reciprocal, burst, shift } = rate;
            Self {
                version: AtomicU64::new(0),
                word: AtomicU64::new(0),
                fields: [
                    AtomicU64::new(origin),
                    AtomicU64::new(period),
                    AtomicU64::new(whole),
                    AtomicU64::new(part),
                    AtomicU64::new(reciprocal),
                    AtomicU64::new(burst),
                    AtomicU64::new(shift as u64),
                ],
            }
        }
    }

    const_fn! {
        /// The same rate with room for `tokens`, before it is shared.
        #[track_caller]
        pub(super) fn with_burst(self, tokens: u64) -> Self {
            let Self { fields: [_, period, whole, part, _, _, shift], .. } = self;
            let period = into_inner(period);
            let flow = into_inner(whole) * period + into_inner(part);
            Self::new(Rate::expect(flow >> into_inner(shift), Duration::from_nanos(period), Some(tokens)))
        }
    }

    #[inline(always)]
    pub(super) fn read(&self) -> Seen {
        loop {
            // Acquire, partner of the Release that ends a change: sees all of it.
            let version = self.version.load(Ordering::Acquire);
            let rate = self.rate();
            let word = self.word.load(Ordering::Relaxed);
            // Partner of the fence that begins a change: what was loaded of it shows in the version.
            fence(Ordering::Acquire);
            if version % 2 == 0 && self.version.load(Ordering::Relaxed) == version && word != CHANGING {
                return Self::seen(rate, word);
            }
            back_off();
        }
    }

    const fn seen(rate: Rate, word: u64) -> Seen {
        Seen { rate, full_at: word >> Self::CHANGES_BITS, changes: word % (1 << Self::CHANGES_BITS) }
    }

    const fn word(full_at: u64, changes: u64) -> u64 {
        // One below the end, so that no word is `CHANGING`.
        let full_at = if full_at < Self::END { full_at } else { Self::END - 2 };
        full_at << Self::CHANGES_BITS | changes
    }

    /// Returns the rate, which must not be changing: for those who hold the lock that changes it.
    #[inline]
    pub(super) fn rate(&self) -> Rate {
        // Relaxed: `read` orders them.
        let [origin, period, whole, part, reciprocal, burst, shift] =
            self.fields.each_ref().map(|field| field.load(Ordering::Relaxed));
        Rate { origin, period, whole, part, reciprocal, burst, shift: shift as u32 }
    }

    /// Swaps the word that was seen, unless it has changed.
    #[inline]
    pub(super) fn swap(&self, seen: &Seen, full_at: u64) -> bool {
        let (word, next) = (Self::word(seen.full_at, seen.changes), Self::word(full_at, seen.changes));
        // Relaxed: the word is all there is, and guards no other data.
        self.word.compare_exchange(word, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Changes the word of a rate that is not changing: for those who hold the lock that changes it.
    pub(super) fn adjust(&self, change: impl Fn(u64) -> u64) {
        let _ = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let Seen { full_at, changes, .. } = Self::seen(self.rate(), word);
            Some(Self::word(change(full_at), changes))
        });
    }

    /// Changes rate and word together: for those who hold the lock that changes it.
    pub(super) fn change(&self, change: impl FnOnce(&Rate, u64) -> (Rate, u64)) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let Seen { rate, full_at, changes } =
            Self::seen(self.rate(), self.word.swap(CHANGING, Ordering::Relaxed));
        let (Rate { origin, period, whole, part, reciprocal, burst, shift }, full_at) =
            change(&rate, full_at);
        let values = [origin, period, whole, part, reciprocal, burst, u64::from(shift)];
        for (field, value) in self.fields.iter().zip(values) {
            field.store(value, Ordering::Relaxed);
        }
        let changes = (changes + 1) % (1 << Self::CHANGES_BITS);
        self.word.store(Self::word(full_at, changes), Ordering::Relaxed);
        self.version.store(version + 2, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(tokens: u64, period: u64, burst: u64) -> Rate {
        Rate::expect(tokens, Duration::from_nanos(period), Some(burst))
    }

    proptest! {
        #[test]
        fn what_has_flowed_is_the_exact_quotient(
            tokens in 1u64..1 << 40, period in 1u64..1 << 50, burst in 1u64..1 << 40, now: u64, further in 0u64..1 << 50,
        ) {
            let tokens = tokens.min(period.saturating_mul(1_000));
            let rate = rate(tokens, period, burst);
            let exact = u128::from(now) * u128::from(tokens << rate.shift) / u128::from(period);
            let flowed = rate.flowed(now);
            prop_assert_eq!(u128::from(flowed.units), exact.min(u128::from(u64::MAX)));
            let target = flowed.units.saturating_add(further);
            let wait = rate.wait(flowed, target);
            if now.checked_add(wait).is_some() && target < u64::MAX {
                prop_assert!(rate.flowed(now + wait).units >= target);
                prop_assert!(wait == 0 || rate.flowed(now + wait - 1).units < target);
                prop_assert_eq!(rate.time_of(target, now), now + wait);
            }
        }
    }

    #[test]
    fn the_extremes_are_exact() {
        let slow = rate(1, 3_155_760_000 * SECOND, 1);
        let (next, wait) = slow.take(0, slow.flowed(0), 1).unwrap();
        assert_eq!(wait, 0);
        assert_eq!(slow.take(next, slow.flowed(0), 1).unwrap().1, 3_155_760_000 * SECOND);

        let fast = rate(SECOND, SECOND, 1 << 58);
        assert_eq!(fast.flowed(u64::MAX).units, u64::MAX);
        assert_eq!(fast.available(0, 0), 1 << 58);
        assert_eq!(fast.take(u64::MAX >> 3, fast.flowed(0), 1), None);
        assert!(fast.is_worn(1 << 61) && !fast.is_worn(1 << 60));

        let longest = rate(1, 1 << 63, 1);
        assert_eq!(longest.flowed(u64::MAX).units >> longest.shift, 1);
        assert!(rate(u64::MAX >> 1, 1 << 63, 1).flowed(u64::MAX).units > 0);
        let fastest = rate(1_000 * SECOND, SECOND, SECOND);
        assert_eq!((fastest.flowed(7).units, fastest.flowed(u64::MAX).units), (7_000, u64::MAX));
    }

    #[test]
    fn two_thirds_of_a_token_per_nanosecond_are_exactly_that() {
        let rate = rate(2, 3, 1);
        for nanos in [0, 1, 2, 3, 4, SECOND, u64::MAX / 4] {
            assert_eq!(rate.flowed(nanos).units >> rate.shift, nanos / 3 * 2 + nanos % 3 * 2 / 3);
        }
    }
}

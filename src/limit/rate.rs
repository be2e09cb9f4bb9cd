//! How time becomes tokens: [`Rate`], in exact arithmetic.

use std::time::Duration;

use crate::clock::NEVER;
use crate::error::{BadSetting, absurd, saturating_nanos};

/// So many tokens per period, and room for so many.
///
/// Time is counted in *units* since `origin`. What has flowed is a function of the absolute time, rounded down once:
/// errors cannot add up, and since a token is a whole number of units, rounding units down rounds tokens down as exact
/// arithmetic would. There are two ways to choose the unit:
///
/// - As for nearly all rates that people write, such that a whole number of units, at most 2^12, flows each nanosecond:
///   with `p` tokens in `q` nanoseconds, in lowest terms, `p` units flow and a token has `q`. Nothing is ever rounded.
/// - Otherwise a token has a power of two of them: the largest at which they come no faster than nanoseconds and the
///   burst fits. (Above a token a nanosecond a unit is a whole token.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// In nanoseconds on the clock's timeline.
    pub(super) origin: u64,
    /// In nanoseconds; 1 if a whole number of units flows in each.
    pub(super) period: u64,
    /// Whole units per nanosecond.
    pub(super) whole: u64,
    /// Further units per period.
    pub(super) part: u64,
    /// `part` per 2^64 nanoseconds, rounded down.
    pub(super) reciprocal: u64,
    /// In units.
    pub(super) burst: u64,
    /// Units of a token.
    pub(super) token: u64,
    /// In so many nanoseconds after the origin the flow rises from a third to the whole; 0 if it is always whole.
    pub(super) warm_up: u64,
    /// Before this nothing can be taken, in nanoseconds on the clock's timeline: the bucket is paused. What flows counts from
    /// here on, so the origin is not earlier, but by the time that the bucket has warmed up.
    pub(super) paused_until: u64,
}

impl Rate {
    const MAX_PERIOD: u64 = 1 << 63;
    const MAX_BURST: u64 = 1 << 58;
    const MAX_PER_NANO: u64 = 1_000;
    /// How many units may flow per nanosecond if nothing is rounded: so few that a count lasts for days.
    const MAX_WHOLE: u64 = 1 << 12;
    /// Units after which the origin is moved: with room for a burst and a long line before the `END`.
    const WORN: u64 = 1 << 60;
    /// Where the count of units ends: three bits of its word are for other things.
    pub(super) const END: u64 = 1 << 61;
    /// A warm bucket's origin is at least a warm-up ago: at `MAX_WHOLE` units per nanosecond it is not worn by that alone.
    const MAX_WARM_UP: u64 = 1 << 47;

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
        let common = greatest_common_divisor(tokens, period);
        let (whole, token) = (tokens / common, period / common);
        if whole <= Self::MAX_WHOLE && token <= Self::MAX_BURST / burst {
            let burst = burst * token;
            return Self {
                origin: 0,
                period: 1,
                whole,
                part: 0,
                reciprocal: 0,
                burst,
                token,
                warm_up: 0,
                paused_until: 0,
            };
        }
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
            token: 1 << shift,
            warm_up: 0,
            paused_until: 0,
        }
    }

    /// The same rate with room for `tokens`.
    #[track_caller]
    pub(super) const fn with_burst(self, tokens: u64) -> Self {
        // So many units flow in a period, and so many are a token.
        let flow = self.whole * self.period + self.part;
        let common = greatest_common_divisor(flow, self.token);
        let period = Duration::from_nanos(self.period * (self.token / common));
        Self {
            origin: self.origin,
            warm_up: self.warm_up,
            ..Self::expect(flow / common, period, Some(tokens))
        }
    }

    /// The same rate, cold until its first use.
    #[track_caller]
    pub(super) const fn with_warm_up(self, time: Duration) -> Self {
        let warm_up = saturating_nanos(time);
        if warm_up > Self::MAX_WARM_UP {
            absurd("warm_up", warm_up, "ns must be at most 2^47 ns (39 hours)");
        }
        Self { origin: if warm_up > 0 { NEVER } else { 0 }, warm_up, ..self }
    }

    /// The same rate with its origin now, or as long ago as its predecessor has warmed up; as paused as that.
    pub(super) const fn following(self, old: &Self, now: u64) -> Self {
        let warmth = now.saturating_sub(old.origin);
        let warmth = if warmth < old.warm_up { warmth } else { old.warm_up };
        Self { origin: now - warmth, warm_up: old.warm_up, paused_until: old.paused_until, ..self }
    }

    /// The same rate, paused: nothing has flowed before `at` but what the bucket has warmed up by.
    pub(super) const fn paused(&self, at: u64) -> Self {
        Self { paused_until: at, ..self.following(self, at) }
    }

    /// Returns now, or the end of the pause that holds now.
    #[inline]
    pub(super) const fn resumed(&self, now: u64) -> u64 {
        if now < self.paused_until { self.paused_until } else { now }
    }

    /// Returns the rate and the word of a bucket that was full for as long as it takes to warm up, and so is cold; `None`
    /// if it is not.
    #[inline]
    pub(super) const fn cold(&self, full_at: u64, now: u64) -> Option<(Self, u64)> {
        if self.warm_up == 0 { None } else { self.cooled(full_at, now) }
    }

    const fn cooled(&self, full_at: u64, now: u64) -> Option<(Self, u64)> {
        let was_full = now.saturating_sub(self.origin) >= self.warm_up
            && full_at <= self.flowed(now - self.warm_up).units;
        if self.origin != NEVER && !was_full {
            return None;
        }
        // A third of the burst too, at least a token: all of it at once is what warming up is there against.
        let third = self.burst / self.token / 3;
        let level = self.token * if third > 0 { third } else { 1 };
        Some((Self { origin: now, ..*self }, self.burst - level))
    }

    /// Returns how much time at the whole rate the time since the origin is worth.
    ///
    /// The flow at a time `t` of a warm-up of `w` is `1/3 + 2/3 t/w` of the whole; this is its integral.
    #[inline]
    const fn warmed(&self, nanos: u64) -> u64 {
        if nanos >= self.warm_up {
            return nanos - self.warm_up.div_ceil(3);
        }
        let (time, warm_up) = (nanos as u128, self.warm_up as u128);
        (time * (warm_up + time) / (3 * warm_up)) as u64
    }

    /// Returns the first time since the origin that is worth so much.
    const fn unwarmed(&self, worth: u64) -> u64 {
        if worth >= self.warmed(self.warm_up) {
            return worth.saturating_add(self.warm_up.div_ceil(3));
        }
        // The root of `t² + w t - 3 w worth`, rounded down.
        let warm_up = self.warm_up as u128;
        let root = (warm_up * warm_up + 12 * warm_up * worth as u128).isqrt();
        let mut nanos = ((root - warm_up) / 2) as u64;
        while self.warmed(nanos) < worth {
            nanos += 1;
        }
        nanos
    }

    /// Returns what has flowed since the origin, in whole units and the rest.
    #[inline]
    pub(super) const fn flowed(&self, now: u64) -> Flowed {
        let since = now.saturating_sub(self.origin);
        if self.part | self.warm_up > 0 {
            return self.flowed_in(since);
        }
        // Most rates come to a unit per nanosecond, and a branch that is foreseen waits for no product.
        let units = if self.whole == 1 { since } else { since.saturating_mul(self.whole) };
        Flowed { units, rest: 0, since }
    }

    const fn flowed_in(&self, since: u64) -> Flowed {
        let nanos = if self.warm_up == 0 { since } else { self.warmed(since) };
        let whole = nanos.saturating_mul(self.whole);
        if self.part == 0 {
            return Flowed { units: whole, rest: 0, since };
        }
        // The rounded reciprocal gives the quotient or one less; the remainder tells which.
        let quotient = ((nanos as u128 * self.reciprocal as u128) >> 64) as u64;
        let rest = (nanos as u128 * self.part as u128 - quotient as u128 * self.period as u128) as u64;
        let more = rest >= self.period;
        Flowed {
            units: whole.saturating_add(quotient + more as u64),
            rest: if more { rest - self.period } else { rest },
            since,
        }
    }

    /// Returns how many nanoseconds after `flowed` there are `units`; 0 if there are.
    #[inline]
    pub(super) const fn wait(&self, flowed: Flowed, units: u64) -> u64 {
        let missing = units.saturating_sub(flowed.units);
        if missing == 0 {
            return 0;
        }
        // A unit per nanosecond is what most rates come to, and needs no division.
        let one_each = self.part == 0 && self.whole == 1;
        let wait = if one_each { missing } else { self.time_for(missing, flowed.rest) };
        if self.warm_up == 0 {
            return wait;
        }
        self.unwarmed(self.warmed(flowed.since).saturating_add(wait)) - flowed.since
    }

    const fn time_for(&self, missing: u64, rest: u64) -> u64 {
        if self.part == 0 {
            return missing.div_ceil(self.whole);
        }
        // The smallest wait with `wait * flow >= missing * period - rest`; nearly always in one word.
        if self.whole == 0 {
            if let Some(product) = missing.checked_mul(self.period) {
                return (product - rest).div_ceil(self.part);
            }
        }
        let flow = self.whole as u128 * self.period as u128 + self.part as u128;
        let wait = (missing as u128 * self.period as u128 - rest as u128).div_ceil(flow);
        if wait > u64::MAX as u128 { u64::MAX } else { wait as u64 }
    }

    /// Returns the time at which there are `units`, seen from `now`.
    pub(super) const fn time_of(&self, units: u64, now: u64) -> u64 {
        let now = self.resumed(if now > self.origin { now } else { self.origin });
        now.saturating_add(self.wait(self.flowed(now), units))
    }

    /// Returns `tokens` in units; saturates.
    #[inline]
    pub(super) const fn units_of(&self, tokens: u64) -> u64 {
        tokens.saturating_mul(self.token)
    }

    /// Returns whether the count nears its end, so that the origin has to be moved.
    #[inline]
    pub(super) const fn is_worn(&self, now: u64) -> bool {
        self.flowed(now).units > Self::WORN
    }

    /// Returns what the word becomes when `cost` tokens are taken, and how many nanoseconds later they are there; `None`
    /// if they never are, or if the count has come to its end.
    #[inline]
    pub(super) fn take(&self, full_at: u64, now: u64, cost: u32) -> Option<(u64, u64)> {
        let cost = self.units_of(cost.into());
        if cost > self.burst {
            return None;
        }
        let time = self.resumed(now);
        let flowed = self.flowed(time);
        let next = full_at.max(flowed.units).saturating_add(cost);
        let wait = self.wait(flowed, next.saturating_sub(self.burst));
        (next < Self::END).then_some((next, wait.saturating_add(time - now)))
    }

    /// Returns what the word becomes when `cost` tokens are taken, if they are there and the rate always the same; nothing
    /// is there during a pause, whatever the word.
    #[inline]
    pub(super) const fn take_at_once(&self, full_at: u64, now: u64, cost: u32) -> Option<u64> {
        if self.warm_up > 0 || now < self.paused_until {
            return None;
        }
        let flowed = self.flowed(now).units;
        let latest = if full_at > flowed { full_at } else { flowed };
        let next = latest.saturating_add(self.units_of(cost as u64));
        // More than the bucket holds is never there: `next` is then more than a burst later than what has flowed.
        if next.saturating_sub(self.burst) <= flowed && next < Self::END { Some(next) } else { None }
    }

    /// Returns how many units there are; negative if they are owed.
    pub(super) const fn level(&self, full_at: u64, now: u64) -> i128 {
        self.burst as i128 - full_at.saturating_sub(self.flowed(now).units) as i128
    }

    /// Returns how many whole tokens there are.
    pub(super) fn available(&self, full_at: u64, now: u64) -> u64 {
        if now < self.paused_until {
            return 0;
        }
        self.level(full_at, now).max(0) as u64 / self.token
    }

    /// Turns units of another rate into units of this one, rounded down.
    pub(super) const fn convert(&self, units: i128, from: &Self) -> i128 {
        // Whole tokens apart from the rest, so that no product is too large.
        let (tokens, rest) = (units.div_euclid(from.token as i128), units.rem_euclid(from.token as i128));
        tokens * self.token as i128 + rest * self.token as i128 / from.token as i128
    }
}

const fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// What has flowed by some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flowed {
    pub(super) units: u64,
    /// The rest of the division by the period.
    rest: u64,
    /// Nanoseconds since the origin.
    since: u64,
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
            // In two steps, since the product of all three may not fit.
            let (tokens, period, token) = (u128::from(tokens), u128::from(period), u128::from(rate.token));
            let flowed = u128::from(now) * tokens;
            let exact = flowed / period * token + flowed % period * token / period;
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
        let (next, wait) = slow.take(0, 0, 1).unwrap();
        assert_eq!(wait, 0);
        assert_eq!(slow.take(next, 0, 1).unwrap().1, 3_155_760_000 * SECOND);

        let fast = rate(SECOND, SECOND, 1 << 58);
        assert_eq!(fast.flowed(u64::MAX).units, u64::MAX);
        assert_eq!(fast.available(0, 0), 1 << 58);
        assert_eq!(fast.take(u64::MAX >> 3, 0, 1), None);
        assert!(fast.is_worn(1 << 61) && !fast.is_worn(1 << 60));

        let longest = rate(1, 1 << 63, 1);
        assert_eq!(longest.flowed(u64::MAX).units / longest.token, 1);
        assert!(rate(u64::MAX >> 1, 1 << 63, 1).flowed(u64::MAX).units > 0);
        let fastest = rate(1_000 * SECOND, SECOND, SECOND);
        assert_eq!((fastest.flowed(7).units, fastest.flowed(u64::MAX).units), (7_000, u64::MAX));
    }

    #[test]
    fn two_thirds_of_a_token_per_nanosecond_are_exactly_that() {
        let rate = rate(2, 3, 1);
        for nanos in [0, 1, 2, 3, 4, SECOND, u64::MAX / 4] {
            assert_eq!(rate.flowed(nanos).units / rate.token, nanos / 3 * 2 + nanos % 3 * 2 / 3);
        }
    }
}

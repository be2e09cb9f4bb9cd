//! A bucket's rate changes: to another one ([`Carry`]), to a new origin, from cold to warm, to none until a pause ends.

use std::task::Waker;
use std::time::{Duration, Instant};

use super::line::wake;
use super::rate::Rate;
use super::shared::Seen;
use super::token_bucket::TokenBucket;
use crate::clock::{NEVER, nanos_of};
use crate::error::BadSetting;

/// What becomes of the tokens taken so far when the rate changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry {
    /// As many tokens are there as before, or as the bucket holds.
    AsIs,
    /// The bucket is as full as before: half full stays half full. Debts stay as they are.
    Scaled,
    /// The bucket is full.
    Full,
}

impl Carry {
    /// Returns the level in units of the new rate, given the one in units of the old.
    pub(super) fn level(self, rate: &Rate, old: &Rate, level: i128) -> i128 {
        match self {
            Carry::AsIs => rate.convert(level, old).min(rate.burst.into()),
            Carry::Scaled if level > 0 => level * i128::from(rate.burst) / i128::from(old.burst),
            Carry::Scaled => rate.convert(level, old),
            Carry::Full => rate.burst.into(),
        }
    }
}

impl TokenBucket {
    /// Changes the rate to `tokens` per `period` in bursts of `burst`, and carries over what was taken as `carry` says.
    ///
    /// Those who wait get new times; one that would then wait longer than it wanted is rejected. A pause ends when it would
    /// have ended, with one token or what is left of a debt.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Call, Carry, Clock, Gate, TokenBucket};
    ///
    /// let bucket = TokenBucket::per_second(100).clock(Clock::manual());
    /// assert!(bucket.try_acquire_for(Call::new().cost(40)).is_ok());
    /// bucket.set_rate(1_000, Duration::from_secs(1), 1_000, Carry::Scaled)?;
    /// assert_eq!(bucket.available(), 600);
    /// # Ok::<(), floodwall::BadSetting>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If a setting makes no sense: the one at which the constructor would panic. Nothing is changed then.
    pub fn set_rate(
        &self,
        tokens: u64,
        period: Duration,
        burst: u64,
        carry: Carry,
    ) -> Result<(), BadSetting> {
        let (rate, now) = (Rate::new(tokens, period, burst)?, self.clock.nanos());
        self.start_if_cold(&self.shared.read(), now);
        let woken = self.change_rate(Some(rate), carry, now);
        woken.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Changes the rate, or with `None` only its origin; returns who must look again.
    pub(super) fn change_rate(&self, rate: Option<Rate>, carry: Carry, now: u64) -> Vec<Waker> {
        let mut line = self.line().lock();
        let mut woken = Vec::new();
        self.shared.change(|old, full_at| {
            let is_paused = now < old.paused_until;
            // A time that was read before another change would let what has flowed since then flow once more.
            let now = old.resumed(now.max(old.origin));
            let rate = rate.unwrap_or(*old).following(old, now);
            let flowed = i128::from(rate.flowed(now).units);
            let level = old.level(full_at, now);
            let level = match (carry, line.first()) {
                _ if !is_paused => carry.level(&rate, old, level),
                (Carry::AsIs | Carry::Scaled, _) => Carry::AsIs.level(&rate, old, level),
                // What the first one takes is there when the pause ends.
                (Carry::Full, Some(first)) => rate.units_of(first.cost / old.token).into(),
                (Carry::Full, None) => rate.token.into(),
            };
            let mut full_at = (flowed + i128::from(rate.burst) - level).clamp(0, i128::from(u64::MAX)) as u64;
            woken = line.change_all(|waiter| {
                waiter.cost = rate.units_of(waiter.cost / old.token);
                waiter.next = match carry {
                    Carry::Full => {
                        full_at = full_at.saturating_add(waiter.cost);
                        full_at
                    }
                    Carry::AsIs | Carry::Scaled => {
                        let missing = i128::from(waiter.next)
                            - i128::from(old.burst)
                            - i128::from(old.flowed(now).units);
                        let next = flowed + i128::from(rate.burst) - rate.convert(-missing, old);
                        next.clamp(0, i128::from(u64::MAX)) as u64
                    }
                };
            });
            (rate, full_at)
        });
        drop(line);
        woken
    }

    /// Admits nobody before `at`, because the server said so; then one call, and more at the bucket's rate.
    ///
    /// Those who wait go on at `at`, in the distances that they had. Nothing moves a pause nearer: neither tokens that are given
    /// back, nor another rate, nor one who waits and leaves, nor another pause with an earlier end. A debt that is not paid by
    /// then lasts longer than the pause. Tokens that were taken before it, as a permit or a [`Reservation`] that is ready, are
    /// not taken away.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Clock, Gate, TokenBucket};
    ///
    /// let clock = Clock::manual();
    /// let bucket = TokenBucket::per_second(10).clock(clock.clone());
    /// bucket.pause_until(clock.now() + Duration::from_secs(60));
    /// bucket.refund(100);
    /// let rejected = bucket.try_acquire().unwrap_err();
    /// assert_eq!(rejected.retry_after(), Some(Duration::from_secs(60)));
    /// clock.advance(Duration::from_secs(60));
    /// assert!(bucket.try_acquire().is_ok());
    /// assert!(bucket.try_acquire().is_err());
    /// ```
    ///
    /// [`Reservation`]: crate::Reservation
    pub fn pause_until(&self, at: Instant) {
        let now = self.clock.nanos();
        self.start_if_cold(&self.shared.read(), now);
        // An origin that is never is that of a cold bucket.
        let at = nanos_of(at).min(NEVER - 1);
        let mut line = self.line().lock();
        let rate = self.shared.rate();
        // Past the end of another pause, and past where counting began.
        if at < rate.paused_until.max(rate.origin) {
            return;
        }
        let mut woken = Vec::new();
        self.shared.change(|old, full_at| {
            let rate = if now < at { old.paused(at) } else { *old };
            let start = |rate: &Rate| i128::from(rate.flowed(at).units) + i128::from(rate.burst);
            // The first one's tokens are there at `at`, and the others follow in their distances.
            let first = line.first().map(|first| first.next).filter(|next| *next > 0);
            let earliest = first.unwrap_or(full_at.saturating_add(rate.token));
            let later = start(&rate) - i128::from(earliest).min(start(old));
            let move_on = |units| (i128::from(units) + later).clamp(0, i128::from(u64::MAX)) as u64;
            // Those who are due, at 0, have nothing on the word.
            woken = line
                .change_all(|waiter| waiter.next = if waiter.next > 0 { move_on(waiter.next) } else { 0 });
            (rate, move_on(full_at))
        });
        wake(line, woken);
    }

    /// Returns how many of `units` can be given back so that no turn comes before the end of a pause: neither that of the
    /// first who then moves up, nor, if there is nobody, that of the next call.
    pub(super) fn spared(&self, rate: &Rate, now: u64, units: u64, first: Option<u64>) -> u64 {
        if now >= rate.paused_until {
            return units;
        }
        let start = rate.flowed(rate.paused_until).units.saturating_add(rate.burst);
        let earliest = first.unwrap_or_else(|| self.shared.read().full_at.saturating_add(rate.token));
        units.min(earliest.saturating_sub(start))
    }

    /// Lets a cold bucket start to warm up; returns whether it was cold. A time that was read before others started it is
    /// not one at which it is cold.
    #[inline]
    pub(super) fn start_if_cold(&self, seen: &Seen, now: u64) -> bool {
        let cold = seen.rate.cold(seen.full_at, now).is_some();
        if cold {
            let mut line = self.line().lock();
            self.shared.change(|rate, full_at| match rate.cold(full_at, now) {
                Some(cold) => {
                    // Who still stands there has not looked since the bucket was full, and counts from the old origin.
                    line.all_are_due();
                    cold
                }
                None => (*rate, full_at),
            });
        }
        cold
    }

    /// Moves the origin if the count of units nears its end; returns whether it did.
    pub(super) fn renew(&self, now: u64) -> bool {
        self.renew_if_worn(&self.shared.read().rate, now)
    }

    #[inline]
    pub(super) fn renew_if_worn(&self, rate: &Rate, now: u64) -> bool {
        let worn = rate.is_worn(now);
        if worn {
            self.change_rate(None, Carry::AsIs, now).into_iter().for_each(Waker::wake);
        }
        worn
    }
}

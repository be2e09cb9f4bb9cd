//! A bucket's rate changes: to another one ([`Carry`]), to a new origin, from cold to warm.

use std::task::Waker;
use std::time::Duration;

use super::rate::Rate;
use super::shared::Seen;
use super::token_bucket::TokenBucket;
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
    /// Those who wait get new times; one that would then wait longer than it wanted is rejected.
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
            // A time that was read before another change would let what has flowed since then flow once more.
            let now = now.max(old.origin);
            let rate = rate.unwrap_or(*old).following(old, now);
            let flowed = i128::from(rate.flowed(now).units);
            let level = carry.level(&rate, old, old.level(full_at, now));
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

//! A bucket counts exactly: after a billion admissions at an odd rate, not one is missing and not one is too many.
#![cfg(not(floodwall_loom))]

mod support;

use floodwall::{Clock, Gate, TokenBucket};
use support::nanos;

const BILLION: u128 = 1_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// A bucket that is emptied again and again, beside the exact number that it should have given by then.
struct Account {
    bucket: TokenBucket,
    clock: Clock,
    rate: (u64, u64),
    burst: u64,
    time: u128,
    taken: u128,
    seed: u64,
}

impl Account {
    fn open(tokens: u64, period: u64, burst: u64) -> Self {
        let clock = Clock::manual();
        let bucket = TokenBucket::per(tokens, nanos(period)).burst(burst).clock(clock.clone());
        let mut account = Self { bucket, clock, rate: (tokens, period), burst, time: 0, taken: 0, seed: 1 };
        account.empty();
        account
    }

    /// Takes all that is there, however many calls that is.
    fn empty(&mut self) {
        loop {
            let taken = self.bucket.take_up_to(u32::MAX);
            self.taken += u128::from(taken);
            if taken == 0 {
                break;
            }
        }
        assert!(self.bucket.try_acquire().is_err());
        let (tokens, period) = self.rate;
        let exact = u128::from(self.burst) + self.time * u128::from(tokens) / u128::from(period);
        assert_eq!(self.taken, exact, "{tokens} per {period} ns after {} ns", self.time);
    }

    /// Lets less than `most` nanoseconds pass, at least one, and empties the bucket.
    fn step(&mut self, most: u64) {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let step = 1 + ((u128::from(self.seed) * u128::from(most)) >> 64) as u64;
        self.clock.advance(nanos(step));
        self.time += u128::from(step);
        self.empty();
    }
}

/// Traps R4 (a rate that is rounded to nanoseconds, or counted in floating point, drifts) and R5 (what has flowed since
/// the last call is rounded down at each call): a bucket is asked three times per token, then goes on for a billion
/// tokens, and is asked three times per token again.
#[test]
fn after_a_billion_admissions_the_count_is_exact() {
    for (tokens, period) in [
        (2, 3),
        (10, 1),
        (300_000_000, SECOND),
        (600_000_001, SECOND),
        (999_999_937, 3_600 * SECOND),
        (7, SECOND + 3),
        // Its count of units starts anew some times in these 222 years.
        (1, 7 * SECOND),
    ] {
        let burst = 4_000_000;
        let per_token = period.div_ceil(tokens);
        let mut account = Account::open(tokens, period, burst);
        (0..20_000).for_each(|_| account.step(per_token.div_ceil(3)));
        let fills = (u128::from(burst) * u128::from(period) / u128::from(tokens)) as u64;
        while account.taken < BILLION {
            // Never full, so that nothing is lost by right.
            account.step(fills);
        }
        (0..20_000).for_each(|_| account.step(per_token.div_ceil(3)));
    }
}

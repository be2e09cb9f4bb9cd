//! What does a rate limit cost, admitted and denied, on one thread and on several?
//!
//! Admitted, all run at a billion tokens a second with a billion at once, so that nothing is ever denied; denied, at
//! one an hour, which has been taken. Results are unwrapped: a limit that decides otherwise ends the run.
//!
//! What is not alike. By default governor tells the time by the processor's counter and floodwall by the system clock,
//! so each also runs on the other's. floodwall reads the clock again after a lost race, governor and `mutex` do not.
//! floodwall's denial says how long to wait, and so do better-bucket's and rate-net's; governor's can be asked, and
//! leaky-bucket's is a bare `false`. better-bucket and rate-net tell the time by the system clock; "rate-net, coarse" by
//! a clock of its own that a thread moves every millisecond, and which may lag behind: no thread of ours does that.
//! leaky-bucket reads no clock while it has tokens; for that it adds tokens once per interval, not evenly.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use better_bucket::Bucket;
use floodwall::{Clock, Gate, TokenBucket};
use governor::clock::MonotonicClock;
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;
use rate_net::{CoarseClock, DirectLimiter};

use crate::harness::Case;

const BILLION: u32 = 1_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);

pub fn cases() -> Vec<Case> {
    vec![admitted(), denied()]
}

fn admitted() -> Case {
    let bucket = || TokenBucket::per_second(BILLION.into());
    let quota = Quota::per_second(NonZeroU32::new(BILLION).unwrap());
    Case::new("admitted")
        .threads(&[1, 2, 4, 8])
        .tails()
        .peer("floodwall", bucket(), |bucket| bucket.try_acquire().unwrap().success())
        .peer("floodwall, tsc", bucket().clock(Clock::tsc()), |bucket| {
            bucket.try_acquire().unwrap().success();
        })
        .peer("governor", RateLimiter::direct(quota), |limiter| limiter.check().unwrap())
        .peer("governor, std", RateLimiter::direct_with_clock(quota, MonotonicClock), |limiter| {
            limiter.check().unwrap();
        })
        .peer("better-bucket", Bucket::per_second(BILLION), |bucket| assert!(bucket.acquire(1).is_allowed()))
        .peer("rate-net", DirectLimiter::per_second(BILLION), |limiter| assert!(limiter.check().is_allow()))
        .peer("rate-net, coarse", DirectLimiter::per_second(BILLION).with_clock(coarse()), |limiter| {
            assert!(limiter.check().is_allow());
        })
        .peer("leaky-bucket", leaky(BILLION as usize, Duration::from_secs(1)), |limiter| {
            assert!(limiter.try_acquire(1));
        })
        .peer("mutex", Plain::new(BILLION.into(), BILLION.into()), |bucket| bucket.take().unwrap())
}

fn denied() -> Case {
    let bucket = |clock| {
        let bucket = TokenBucket::per(1, HOUR).clock(clock);
        bucket.try_acquire().unwrap().success();
        bucket
    };
    let quota = Quota::with_period(HOUR).unwrap();
    let governor = RateLimiter::direct(quota);
    governor.check().unwrap();
    let governor_std = RateLimiter::direct_with_clock(quota, MonotonicClock);
    governor_std.check().unwrap();
    let better_bucket = Bucket::per_duration(1, HOUR);
    assert!(better_bucket.acquire(1).is_allowed());
    let hourly = rate_net::Quota::rate(1, HOUR).unwrap();
    let rate_net = DirectLimiter::with_quota(hourly);
    assert!(rate_net.check().is_allow());
    let rate_net_coarse = DirectLimiter::with_quota(hourly).with_clock(coarse());
    assert!(rate_net_coarse.check().is_allow());
    let leaky = leaky(1, HOUR);
    assert!(leaky.try_acquire(1));
    let plain = Plain::new(1.0 / HOUR.as_secs_f64(), 1.0);
    plain.take().unwrap();
    Case::new("denied")
        .threads(&[1, 2, 4, 8])
        .tails()
        .peer("floodwall", bucket(Clock::system()), |bucket| bucket.try_acquire().unwrap_err())
        .peer("floodwall, tsc", bucket(Clock::tsc()), |bucket| bucket.try_acquire().unwrap_err())
        .peer("governor", governor, |limiter| limiter.check().unwrap_err())
        .peer("governor, std", governor_std, |limiter| limiter.check().unwrap_err())
        .peer("better-bucket", better_bucket, |bucket| bucket.acquire(1).retry_after().unwrap())
        .peer("rate-net", rate_net, |limiter| limiter.check().retry_after().unwrap())
        .peer("rate-net, coarse", rate_net_coarse, |limiter| limiter.check().retry_after().unwrap())
        .peer("leaky-bucket", leaky, |limiter| assert!(!limiter.try_acquire(1)))
        .peer("mutex", plain, |bucket| bucket.take().unwrap_err())
}

fn leaky(tokens: usize, interval: Duration) -> leaky_bucket::RateLimiter {
    leaky_bucket::RateLimiter::builder().max(tokens).initial(tokens).refill(tokens).interval(interval).build()
}

fn coarse() -> CoarseClock {
    CoarseClock::spawn(Duration::from_millis(1)).unwrap()
}

/// What one writes without a crate: a count of tokens under a lock.
struct Plain {
    per_second: f64,
    burst: f64,
    state: Mutex<(f64, Instant)>,
}

impl Plain {
    fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second, burst, state: Mutex::new((burst, Instant::now())) }
    }

    /// Takes a token, or says how long to wait for it. Reads the clock before it locks, to hold the lock shortly.
    fn take(&self) -> Result<(), Duration> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let (tokens, last) = &mut *state;
        let flowed = now.saturating_duration_since(*last).as_secs_f64() * self.per_second;
        *tokens = (*tokens + flowed).min(self.burst);
        *last = now.max(*last);
        if *tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - *tokens) / self.per_second));
        }
        *tokens -= 1.0;
        Ok(())
    }
}

//! What a caller may know of a limit: [`Quota`].

use std::time::Duration;

use super::rate::Rate;

/// What is left of a limit at one moment; a plain value, for answers, logs and dashboards.
///
/// Limits of the crate's fill it, and one of your own may: all fields are public. Between this reading and the next
/// call others may have taken what is left.
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Clock, Gate, TokenBucket};
///
/// let bucket = TokenBucket::per(10, Duration::from_secs(60)).name("api").clock(Clock::manual());
/// bucket.try_acquire()?.success();
/// let quota = bucket.quota();
/// assert_eq!((quota.name, quota.remaining, quota.limit), ("api", 9, 10));
/// assert_eq!(quota.more_after, Duration::from_secs(6));
/// # Ok::<(), floodwall::Rejected>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The name that the limit was given when it was built; empty if it was given none.
    pub name: &'static str,
    /// How much can be taken at once when nothing is missing.
    pub limit: u64,
    /// How long until all of `limit` is there again after it was taken: the limit's rate is `limit` per `window`.
    pub window: Duration,
    /// How much can be taken now.
    pub remaining: u64,
    /// How long until more than `remaining` is there; zero if nothing is missing.
    pub more_after: Duration,
}

impl Quota {
    /// Of a bucket whose word is `full_at`.
    pub(super) fn of(name: &'static str, rate: &Rate, full_at: u64, now: u64) -> Self {
        let (limit, remaining) = (rate.burst / rate.token, rate.available(full_at, now));
        // Nothing is missing, or one token less than is missing now.
        let more_at = full_at.saturating_sub(rate.units_of((limit - remaining).saturating_sub(1)));
        let more_after = if remaining == limit { 0 } else { rate.time_of(more_at, now).saturating_sub(now) };
        let warm = Rate { warm_up: 0, ..*rate };
        let window = warm.wait(warm.flowed(warm.origin), warm.burst);
        Self {
            name,
            limit,
            window: Duration::from_nanos(window),
            remaining,
            more_after: Duration::from_nanos(more_after),
        }
    }
}

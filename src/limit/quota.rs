//! What a caller may know of a limit: [`Quota`].

use std::time::Duration;

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

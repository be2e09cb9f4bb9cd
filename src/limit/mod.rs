//! Limits on how often: token bucket, fixed window, sliding window as a counter and as a log.
//!
#![doc = include_str!("which.md")]

mod fixed_window;
mod sliding_counter;
mod sliding_log;
mod token_bucket;

pub use fixed_window::FixedWindow;
pub use sliding_counter::SlidingCounter;
pub use sliding_log::SlidingLog;
pub use token_bucket::TokenBucket;

use std::time::Duration;

use crate::error::{absurd, saturating_nanos};

/// Returns a period in nanoseconds, of which there may be 1 to 2^63.
#[track_caller]
const fn period_nanos(period: Duration) -> u64 {
    let nanos = saturating_nanos(period);
    if nanos == 0 {
        absurd("period", nanos, "must be at least 1 ns");
    }
    if nanos > 1 << 63 {
        absurd("period", nanos, "must be at most 9223372036854775808 ns (292 years)");
    }
    nanos
}

//! Limits on how often: token buckets and windows, [`AllOf`] for several at once, [`AdaptiveRate`] where nobody knows the
//! rate, [`PriorityBucket`] where some calls matter more; and what is left of one, [`Quota`].
//!
#![doc = include_str!("which.md")]

mod adaptive;
mod all_of;
mod cubic;
mod feedback;
mod fixed_window;
mod line;
mod priority;
mod quota;
mod rate;
mod reservation;
mod shares;
mod sliding_counter;
mod sliding_log;
mod token_bucket;

pub use adaptive::AdaptiveRate;
pub use all_of::AllOf;
pub use fixed_window::FixedWindow;
pub use priority::PriorityBucket;
pub use quota::Quota;
pub use reservation::Reservation;
pub use sliding_counter::SlidingCounter;
pub use sliding_log::SlidingLog;
pub use token_bucket::{Carry, TokenBucket};

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

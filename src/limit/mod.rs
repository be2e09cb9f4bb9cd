//! Limits on how often: [`TokenBucket`], and [`AllOf`] for several at once.

mod all_of;
mod line;
mod rate;
mod reservation;
mod token_bucket;

pub use all_of::AllOf;
pub use rate::BadSetting;
pub use reservation::Reservation;
pub use token_bucket::{Carry, TokenBucket};

//! Limits on how often: [`TokenBucket`].

mod line;
mod rate;
mod reservation;
mod token_bucket;

pub use rate::BadSetting;
pub use reservation::Reservation;
pub use token_bucket::{Carry, TokenBucket};

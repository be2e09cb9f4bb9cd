//! Limits on how often: [`TokenBucket`], [`AllOf`] for several at once, [`AdaptiveRate`] where nobody knows the rate.

mod adaptive;
mod all_of;
mod cubic;
mod feedback;
mod line;
mod rate;
mod reservation;
mod token_bucket;

pub use adaptive::AdaptiveRate;
pub use all_of::AllOf;
pub use rate::BadSetting;
pub use reservation::Reservation;
pub use token_bucket::{Carry, TokenBucket};

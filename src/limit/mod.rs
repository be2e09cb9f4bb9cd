//! Limits on how often: [`TokenBucket`], and [`AllOf`] for several at once; and what is left of one, [`Quota`].

mod all_of;
mod line;
mod quota;
mod rate;
mod reservation;
mod token_bucket;

pub use all_of::AllOf;
pub use quota::Quota;
pub use rate::BadSetting;
pub use reservation::Reservation;
pub use token_bucket::{Carry, TokenBucket};

//! Limits on how often: [`TokenBucket`]; [`AllOf`] for several at once, [`AdaptiveRate`] where nobody knows the rate,
//! [`PriorityBucket`] where some calls matter more; and what is left of one, [`Quota`].

mod adaptive;
mod all_of;
mod cubic;
mod feedback;
mod line;
mod priority;
mod quota;
mod rate;
mod reservation;
mod shares;
mod token_bucket;

pub use adaptive::AdaptiveRate;
pub use all_of::AllOf;
pub use priority::PriorityBucket;
pub use quota::Quota;
pub use rate::BadSetting;
pub use reservation::Reservation;
pub use token_bucket::{Carry, TokenBucket};

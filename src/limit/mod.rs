//! Limits on how often: [`TokenBucket`]; and what is left of one, [`Quota`].

mod quota;
mod token_bucket;

pub use quota::Quota;
pub use token_bucket::TokenBucket;

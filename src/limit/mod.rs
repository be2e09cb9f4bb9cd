//! Limits on how often: [`TokenBucket`].

mod token_bucket;

pub use token_bucket::TokenBucket;

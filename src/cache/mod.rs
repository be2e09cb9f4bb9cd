//! A cache in memory that decides by itself what is worth keeping.

mod evict;

pub use evict::{Eviction, Simulator};

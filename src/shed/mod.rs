//! Gates that shed calls when there is too much to do: by a signal of yours, or by how long calls take.

mod latency;
mod load;

pub use latency::LatencyShed;
pub use load::LoadShed;

//! What leaves when there is no room: pure cores over the ids of entries, told nothing but hashes and weights.

#![allow(dead_code, unused_imports, reason = "the table of entries uses it")]

mod choice;
mod clock;
mod core;
mod ghost;
mod list;
mod lru;
mod mini;
mod node;
mod selector;
mod simulator;
mod sketch;
#[cfg(all(test, not(floodwall_loom)))]
mod tests;

pub(crate) use self::choice::Choice;
pub(crate) use self::core::Core;
pub(crate) use self::node::{NIL, Node, Nodes};
pub(crate) use self::selector::{Ratios, Selector};
pub use self::simulator::Simulator;

/// Which entry leaves when there is no room for another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Eviction {
    /// Whichever is likely to be missed least, by how often and how lately entries were used. How much either counts is learnt
    /// from the load, by small simulations beside the cache. A hit takes no lock.
    #[default]
    Adaptive,
    /// The least recently used one, strictly. A hit takes a lock, and a scan over many keys empties the cache of all others.
    Lru,
}

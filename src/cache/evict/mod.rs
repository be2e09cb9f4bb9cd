//! What leaves when there is no room: pure cores over the ids of entries, told nothing but hashes and weights.
//!
//! Who keeps the entries has a [`Node`] for each (in what implements [`Nodes`]) and a [`Core`] for each shard, under the
//! shard's lock:
//!
//! 1. A hit is [`Node::touch`], without the lock; with [`Eviction::Lru`] it is [`Core::reuse`], under it.
//! 2. A new entry: [`Node::renew`] with 32 good bits of its hash (not those alone that chose the shard), then [`Core::admit`];
//!    while the cache is over its capacity, [`Core::victim`]. A new value under an old key: [`Core::replace`] if it has
//!    another id, otherwise [`Core::reweigh`] and [`Core::reuse`].
//! 3. One [`Selector`] for the whole cache hears of those accesses, hits and misses, whose hash is in its sample
//!    ([`Selector::is_sampled`], with the limit that [`Selector::limit`] returns, which changes with [`Selector::fit`]), in
//!    about the order in which they were made; some may be lost. What it returns goes to [`Core::choose`] of every shard, each
//!    at its next insert. It need not be told of a key that is only written. [`Selector::ratios`] is the estimate.
//! 4. A core does not know the capacity. Its sketch and ghost follow the count of the entries in its shard.

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

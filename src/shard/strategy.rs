//! What every way to place keys has in common: [`Strategy`], and the [`Layout`] that it makes for a set of nodes.

use std::fmt;
use std::sync::Arc;

use super::error::ShardError;

/// From what the answer of a strategy follows. Processes agree if they agree on this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DependsOn {
    /// The set of nodes and weights alone, in whatever order they came.
    Set,
    /// The order in which nodes joined and left: agree by passing on a saved [`State`](crate::shard::State), and check it by
    /// the fingerprint.
    History,
    /// An explicit table inside the strategy, beside the set: agree on the table.
    Table,
}

/// A way to place keys on nodes.
///
/// It is asked anew whenever the set of nodes changes, and what it makes is never changed afterwards. One of your own
/// goes wherever those of the crate go.
pub trait Strategy: fmt::Debug + Send + Sync {
    /// Returns from what its answers follow.
    fn depends_on(&self) -> DependsOn;

    /// Places all keys on these nodes.
    ///
    /// # Errors
    ///
    /// If the strategy cannot do so, such as for weights that it does not know.
    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError>;
}

impl<S: Strategy + ?Sized> Strategy for Arc<S> {
    fn depends_on(&self) -> DependsOn {
        (**self).depends_on()
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        (**self).layout(roster)
    }
}

impl<S: Strategy + ?Sized> Strategy for Box<S> {
    fn depends_on(&self) -> DependsOn {
        (**self).depends_on()
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        (**self).layout(roster)
    }
}

/// The homes of all keys among the nodes of one set; it never changes.
///
/// Nodes are numbers here, by their [`index`](Spec::index). Nothing in here may allocate or depend on anything but the key
/// and what the layout was made from.
pub trait Layout: fmt::Debug + Send + Sync {
    /// Returns all that the layout has to know of a key.
    fn locate(&self, key: &[u8]) -> Spot;

    /// Returns the node on which such keys live.
    fn owner(&self, spot: Spot) -> u32;

    /// Returns the node on which a key lives.
    fn place(&self, key: &[u8]) -> u32 {
        self.owner(self.locate(key))
    }

    /// Returns the next candidate for a key, the best first, which is its owner; `None` when there are no more.
    ///
    /// It may name a node more than once, but comes to every node with a weight.
    fn next(&self, walk: &mut Walk) -> Option<u32>;

    /// Returns the homes of all keys as a list, if keys share them in pieces that can be listed.
    fn pieces(&self) -> Option<Pieces> {
        None
    }
}

/// What a layout knows of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Its hash, or whatever number the layout goes by; that by which [`Pieces`] are counted, if they are.
    pub number: u64,
    /// Which part of a layout that consists of several, such as which range of keys.
    pub part: u32,
    /// The node that the key is pinned to, whatever its number says.
    pub pin: Option<u32>,
}

impl Spot {
    /// Creates the spot of a key that has no more than a number.
    #[inline]
    pub const fn at(number: u64) -> Self {
        Self { number, part: 0, pin: None }
    }
}

/// How far the search for candidates of one key has come. Only the layout knows what its numbers mean.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Where the key is.
    pub spot: Spot,
    /// How many candidates were named.
    pub step: u64,
    /// Where the layout goes on.
    pub cursor: u64,
    /// Which layer of a layout that consists of several is being asked.
    pub layer: u32,
}

impl Walk {
    /// Creates the start of a search.
    #[inline]
    pub const fn from(spot: Spot) -> Self {
        Self { spot, step: 0, cursor: 0, layer: 0 }
    }
}

/// All homes, as pieces in order: where each starts, and who owns it. The first starts at the least.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pieces {
    /// Of a table of so many slots.
    Slots(u64, Vec<(u64, u32)>),
    /// Of the hashes of so many bits.
    Hashes(u32, Vec<(u64, u32)>),
    /// Of keys in the order of their bytes.
    Keys(Vec<(Box<[u8]>, u32)>),
}

/// What a strategy is told of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// By which number layouts know it. By ids in order, so that it is the same wherever the set is.
    pub index: u32,
    /// What it is called.
    pub id: Arc<str>,
    /// Finite, and not negative; drained if zero.
    pub weight: f64,
    /// What fails together with it.
    pub zone: Option<Arc<str>>,
    /// Which seat it took when it joined; for strategies that go by history.
    pub seat: u32,
}

/// The nodes, in the order of their ids, and the seats that were left.
#[derive(Clone, Debug, PartialEq)]
pub struct Roster {
    /// The nodes.
    pub nodes: Vec<Spec>,
    /// The seats that removed nodes have left, the last one last. Who joins takes the last, or a new one behind all.
    pub vacated: Vec<u32>,
}

impl Roster {
    /// Returns the nodes with a weight above zero; at least one in all that a [`Sharder`](crate::Sharder) hands out.
    pub fn active(&self) -> impl Iterator<Item = &Spec> {
        self.nodes.iter().filter(|node| node.weight > 0.0)
    }

    /// Returns how many seats there are, the vacated ones included.
    pub fn seats(&self) -> usize {
        self.nodes.len() + self.vacated.len()
    }

    /// Returns the weight of all.
    pub(super) fn weight(&self) -> f64 {
        self.nodes.iter().map(|node| node.weight).sum()
    }

    /// Finds a node by its id.
    pub fn find(&self, id: &str) -> Option<&Spec> {
        self.nodes.binary_search_by(|node| (*node.id).cmp(id)).ok().map(|at| &self.nodes[at])
    }

    /// Checks that all weights are alike, but for those of drained nodes.
    pub(super) fn equal(&self) -> Result<(), ShardError> {
        let first = self.active().next().map_or(1.0, |node| node.weight);
        match self.active().find(|node| node.weight != first) {
            Some(node) => Err(ShardError::Unequal(node.id.to_string())),
            None => Ok(()),
        }
    }

    /// Checks that no more nodes than `most` are active, and at least one.
    pub(super) fn at_most(&self, most: usize) -> Result<usize, ShardError> {
        match self.active().count() {
            0 => Err(ShardError::Empty),
            nodes if nodes > most => Err(ShardError::TooMany { nodes, most }),
            nodes => Ok(nodes),
        }
    }
}

//! The node that scores best for the key, and no table: [`Rendezvous`]; and for comparison [`Modulo`].

use super::error::ShardError;
use super::hash::{KeyHash, hashes};
use super::score::Scorer;
use super::strategy::{DependsOn, Layout, Roster, Spot, Strategy, Walk};

/// Each key lives on the node that scores best for it (highest random weight).
///
/// Weights are kept exactly, and a change moves only the keys that it must, to the last one. The price is a step a node for
/// each look-up: for up to some 50 nodes. With more, take [`Slots`](crate::shard::Slots).
///
/// D. Thaler and C. Ravishankar, "A name-based mapping scheme for rendezvous", 1996.
///
/// # Cost
///
/// About a nanosecond a node, two if weights differ; as much again for each replica.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::Rendezvous;
///
/// let shards = Sharder::with(Rendezvous::new(), ["a", "b", "c"])?;
/// let before: Vec<_> = (0..1_000).map(|key: u32| shards.get(&key)).collect();
/// shards.add("d")?;
/// let moved: Vec<_> = (0..1_000u32).map(|key| shards.get(&key)).zip(before).filter(|(a, b)| a != b).collect();
/// assert!(moved.iter().all(|(now, _)| *now.clone().unwrap() == "d"));
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Rendezvous {
    hash: KeyHash,
}

impl Rendezvous {
    hashes!(new);
}

impl Strategy for Rendezvous {
    fn depends_on(&self) -> DependsOn {
        DependsOn::Set
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        roster.at_most(u32::MAX as usize)?;
        Ok(Box::new(RendezvousLayout { scorer: Scorer::new(roster), hash: self.hash }))
    }
}

#[derive(Debug)]
struct RendezvousLayout {
    scorer: Scorer,
    hash: KeyHash,
}

impl Layout for RendezvousLayout {
    #[inline]
    fn locate(&self, key: &[u8]) -> Spot {
        Spot::at(self.hash.spread(key))
    }

    #[inline]
    fn owner(&self, spot: Spot) -> u32 {
        self.scorer.index(self.scorer.best(spot.number))
    }

    fn next(&self, walk: &mut Walk) -> Option<u32> {
        let key = walk.spot.number;
        let place = if walk.step == 0 {
            self.scorer.best(key)
        } else {
            let last = walk.cursor as usize;
            self.scorer.best_after(key, Some((self.scorer.rank(key, last), last)), |_| true)?
        };
        walk.step += 1;
        walk.cursor = place as u64;
        Some(self.scorer.index(place))
    }
}

/// The hash of the key, modulo the number of nodes; nodes in the order of their ids.
///
/// For comparison, and where the set never changes: with another number of nodes nearly every key moves. It knows no
/// weights.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::{KeyHash, Modulo};
///
/// let shards = Sharder::with(Modulo::new().hash(KeyHash::Crc16), ["a", "b"])?;
/// assert_eq!(*shards.get("123456789").unwrap(), "b"); // 0x31c3 is odd
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Modulo {
    hash: KeyHash,
}

impl Modulo {
    hashes!(new);
}

impl Strategy for Modulo {
    fn depends_on(&self) -> DependsOn {
        DependsOn::Set
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        roster.at_most(u32::MAX as usize)?;
        roster.equal()?;
        let nodes = roster.active().map(|node| node.index).collect();
        Ok(Box::new(ModuloLayout { nodes, hash: self.hash }))
    }
}

#[derive(Debug)]
struct ModuloLayout {
    nodes: Box<[u32]>,
    hash: KeyHash,
}

impl Layout for ModuloLayout {
    fn locate(&self, key: &[u8]) -> Spot {
        // As the function defines it: others can compute the same.
        Spot::at(self.hash.hash(key))
    }

    fn owner(&self, spot: Spot) -> u32 {
        self.nodes[(spot.number % self.nodes.len() as u64) as usize]
    }

    fn next(&self, walk: &mut Walk) -> Option<u32> {
        let nodes = self.nodes.len() as u64;
        let at = (walk.spot.number % nodes + walk.step) % nodes;
        walk.step += 1;
        (walk.step <= nodes).then(|| self.nodes[at as usize])
    }
}

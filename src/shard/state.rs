//! What is saved of a snapshot, so that processes agree: [`State`].

use super::snapshot::{Snapshot, sample};
use super::strategy::Pieces;
use crate::hash::stable_hash;

/// A set of nodes and its history, to be saved or sent: with the feature `serde` it can be serialised.
///
/// The strategy is code, and not in it. Its [`fingerprint`](Self::fingerprint) tells whether both sides place keys alike.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::{JumpBack, Member};
///
/// let here = Sharder::with(JumpBack::new(), ["a", "b", "c"].map(Member::new))?;
/// here.remove("a")?;
/// let state = here.snapshot().state();
///
/// let there = Sharder::restore(JumpBack::new(), state, |node| Member::new(&node.id))?;
/// assert_eq!(here.get("user:7"), there.get("user:7"));
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct State {
    /// How often the sharder had changed.
    pub version: u64,
    /// The nodes, in the order of their ids.
    pub nodes: Vec<SavedNode>,
    /// The seats that were left, the last one last.
    pub vacated: Vec<u32>,
    /// A number that follows from where all keys live.
    pub fingerprint: u64,
}

/// What is saved of one node.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SavedNode {
    /// What it is called.
    pub id: String,
    /// Its weight.
    pub weight: f64,
    /// Its zone.
    pub zone: Option<String>,
    /// Its seat, for strategies that go by history.
    pub seat: u32,
    /// Whether it was marked down.
    pub is_down: bool,
}

/// How many keys stand for all where their homes cannot be listed.
const PROBES: u64 = 4_096;

pub(super) fn fingerprint<N>(snapshot: &Snapshot<N>) -> u64 {
    let ids: Vec<u64> = snapshot.roster.nodes.iter().map(|spec| stable_hash(spec.id.as_bytes(), 0)).collect();
    let mut print = 0;
    let mut add = |start: &[u8], owner: u32| {
        print = stable_hash(&ids[owner as usize].to_be_bytes(), stable_hash(start, print));
    };
    match snapshot.layout.pieces() {
        Some(Pieces::Slots(_, pieces) | Pieces::Hashes(_, pieces)) => {
            pieces.iter().for_each(|(start, owner)| add(&start.to_be_bytes(), *owner));
        }
        Some(Pieces::Keys(pieces)) => pieces.iter().for_each(|(start, owner)| add(start, *owner)),
        None => (0..PROBES).map(sample).for_each(|key| add(&key, snapshot.layout.place(&key))),
    }
    print
}

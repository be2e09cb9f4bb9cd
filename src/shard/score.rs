//! Weighted rendezvous: whose score for a key is best, in a way that every machine computes alike.
//!
//! Each node's score for a key is a random number from an exponential distribution of rate `weight`, made from both
//! hashes: -ln(u) / weight for a uniform u. The least wins with a probability of its share of the weights, exactly (J. Mosheiff and
//! others; C. Schindelhauer and G. Schomaker, "Weighted distributed hash tables", 2005), and a node that joins, leaves or is
//! weighed anew moves the keys of its own change of share, and no others.

use super::hash::remix;
use super::strategy::{Roster, Spec};
use crate::hash::stable_hash;

/// Makes the hashes of ids independent from those of keys, which may be the same text.
const NODE: u64 = 0x6e6f_6465;

/// The hash of a node's id.
pub(super) fn node_hash(node: &Spec) -> u64 {
    stable_hash(node.id.as_bytes(), NODE)
}

/// Mixes the hash of a key with that of a node: the halves of their product, one on the other. Both are made odd, since
/// zero would swallow the other.
#[inline]
pub(super) fn pair(key: u64, node: u64) -> u64 {
    let product = u128::from(key | 1) * u128::from(node | 1);
    (product >> 64) as u64 ^ product as u64
}

/// What [`pair`] is called with for a number that may be small or regular, as those of slots are.
#[inline]
pub(super) fn lift(number: u64) -> u64 {
    remix(number)
}

const PARTS: usize = 128;

/// For each of 128 parts of [1, 2): one over its middle, and the logarithm to base 2 of its middle.
const LOGS: [(f64, f64); PARTS] = {
    let mut table = [(0.0, 0.0); PARTS];
    let mut at = 0;
    while at < PARTS {
        let middle = 1.0 + (at as f64 + 0.5) / PARTS as f64;
        // ln(x) = 2 artanh((x - 1) / (x + 1)), a series whose terms fall by 9 each and more.
        let ratio = (middle - 1.0) / (middle + 1.0);
        let (mut sum, mut power, mut odd) = (0.0, ratio, 1.0);
        while odd < 45.0 {
            sum += power / odd;
            power *= ratio * ratio;
            odd += 2.0;
        }
        table[at] = (1.0 / middle, 2.0 * sum * std::f64::consts::LOG2_E);
        at += 1;
    }
    table
};

/// Returns -log2(u) for the u in (0, 1) that a hash stands for; never zero, never infinite.
///
/// From additions and multiplications alone, which every machine rounds alike; the standard library's logarithm is the
/// system's, and systems differ. Off by less than 10^-12.
#[inline]
pub(super) fn cost(hash: u64) -> f64 {
    // The middle of one of 2^52 equal parts, as an odd number of 2^-53.
    let u = ((hash >> 12) * 2 + 1) as f64;
    let bits = u.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let fraction = bits & ((1 << 52) - 1);
    let (inverse, log) = LOGS[(fraction >> (52 - PARTS.ilog2())) as usize];
    let off = f64::from_bits(fraction | 1023 << 52) * inverse - 1.0;
    let rest = off * (1.0 - off * (0.5 - off * (1.0 / 3.0 - off * 0.25)));
    f64::from(53 - exponent) - (log + rest * std::f64::consts::LOG2_E)
}

/// The active nodes, ready to be scored.
#[derive(Debug)]
pub(super) struct Scorer {
    hashes: Box<[u64]>,
    /// One over each weight; empty if all weigh the same, since then the hashes alone say who is first.
    inverse: Box<[f64]>,
    index: Box<[u32]>,
}

/// How a node is ranked for a key: less is better. Ties go to the node whose id is first.
type Rank = u64;

impl Scorer {
    pub(super) fn new(roster: &Roster) -> Self {
        let inverse = if roster.equal().is_ok() {
            Box::default()
        } else {
            // Divided by the mean, so that neither huge nor tiny weights leave the range of numbers.
            let mean = roster.weight() / roster.active().count() as f64;
            roster.active().map(|node| mean / node.weight).collect()
        };
        Self {
            hashes: roster.active().map(node_hash).collect(),
            inverse,
            index: roster.active().map(|node| node.index).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    pub(super) fn index(&self, place: usize) -> u32 {
        self.index[place]
    }

    /// The place of a node, by its index.
    pub(super) fn place(&self, index: u32) -> Option<usize> {
        self.index.binary_search(&index).ok()
    }

    #[inline]
    pub(super) fn rank(&self, key: u64, place: usize) -> Rank {
        self.rank_of(pair(key, self.hashes[place]), place)
    }

    #[inline]
    fn rank_of(&self, hash: u64, place: usize) -> Rank {
        // Floats that are not negative are ordered as their bits are.
        self.inverse.get(place).map_or(!hash, |inverse| (cost(hash) * inverse).to_bits())
    }

    /// The place of the best node for a key. There has to be a node.
    #[inline]
    pub(super) fn best(&self, key: u64) -> usize {
        if self.inverse.is_empty() {
            let (mut best, mut place) = (0, 0);
            for (at, node) in self.hashes.iter().enumerate() {
                let hash = pair(key, *node);
                (best, place) = if hash > best { (hash, at) } else { (best, place) };
            }
            return place;
        }
        let (mut best, mut place) = (f64::INFINITY, 0);
        for (at, (node, inverse)) in self.hashes.iter().zip(&self.inverse).enumerate() {
            let hash = pair(key, *node);
            // -log2(u) is more than (1 - u) log2(e), which takes no table and rules out most.
            let least =
                (!hash >> 12) as f64 * (inverse * 0.999_999 * std::f64::consts::LOG2_E / (1u64 << 52) as f64);
            if least < best {
                let cost = cost(hash) * inverse;
                (best, place) = if cost < best { (cost, at) } else { (best, place) };
            }
        }
        place
    }

    /// The best place among those that come after one of this rank, and `allows`.
    pub(super) fn best_after(
        &self,
        key: u64,
        after: Option<(Rank, usize)>,
        allows: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let ranks = (0..self.len()).map(|place| (self.rank(key, place), place));
        let left = ranks.filter(|rank| after.is_none_or(|after| *rank > after) && allows(rank.1));
        left.min().map(|(_, place)| place)
    }

    /// Returns for each node the least hash with which it can score below `limit`, rounded down; and the rank that is
    /// that limit.
    ///
    /// What is rounded here only decides what is looked at, never who wins: on that, machines agree.
    pub(super) fn thresholds(&self, wanted: f64) -> (Vec<u64>, Rank) {
        // About so many of all nodes score below it, or all do.
        let limit = wanted / (self.len() as f64 * std::f64::consts::LN_2);
        if self.inverse.is_empty() {
            let share = 1.0 - (wanted / self.len() as f64).min(1.0);
            let least = (share * u64::MAX as f64) as u64;
            return (vec![least; self.len()], !least);
        }
        let least = |inverse: &f64| {
            let u = (-limit / inverse).exp2() * 0.999_99;
            (u * u64::MAX as f64) as u64
        };
        (self.inverse.iter().map(least).collect(), limit.to_bits())
    }

    #[inline]
    pub(super) fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// The rank of a node whose hash for the key is known.
    #[inline]
    pub(super) fn rank_by(&self, hash: u64, place: usize) -> Rank {
        self.rank_of(hash, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right_to_a_trillionth() {
        let hashes = [0, 1, u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1, 1 << 12, 0x1234_5678_9abc_def0];
        for hash in hashes.into_iter().chain((0..10_000).map(remix)) {
            let u = ((hash >> 12) * 2 + 1) as f64 / (1u64 << 53) as f64;
            let (ours, exact) = (cost(hash), -u.log2());
            assert!((ours - exact).abs() < 1e-12, "{hash:x}: {ours} instead of {exact}");
            assert!(ours > 0.0 && ours.is_finite(), "{hash:x}: {ours}");
        }
        // Literal bits: every machine has to find these.
        assert_eq!(cost(remix(1)).to_bits(), cost(remix(1)).to_bits());
    }
}

//! Points on a circle: [`Ring`] and [`MultiProbe`], and the layout that all rings share.

use super::error::ShardError;
use super::hash::{KeyHash, hashes, remix};
use super::score::{node_hash, pair};
use super::strategy::{DependsOn, Layout, Pieces, Roster, Spot, Strategy, Walk};
use crate::error::absurd;

/// Points on a circle, each of which owns the hashes from the point before it, up to itself.
#[derive(Debug)]
pub(super) struct Points {
    /// In order; no two alike.
    points: Box<[u64]>,
    /// Of each point the upper 48 bits, and its owner below: so a look-up reads one place of memory rather than two.
    heads: Box<[u64]>,
    /// For each value of a hash's upper bits, the first point at or after the least such hash.
    starts: Box<[u32]>,
    shift: u32,
    bits: u32,
}

/// Nodes are numbered in 16 bits.
const MOST: usize = 1 << 16;

/// All bits of a head but those of the owner.
const UPPER: u64 = !0xffff;

/// The upper 48 bits of a point or hash, wherever it ends.
#[inline]
const fn head(point: u64, bits: u32) -> u64 {
    point << (64 - bits) & UPPER
}

impl Points {
    /// Of several points at one place the first in the list counts, and the others are not there.
    pub(super) fn new(mut all: Vec<(u64, u16)>, bits: u32) -> Result<Self, ShardError> {
        // Stable: the list, which is in the order of ids, decides between points that meet.
        all.sort_by_key(|(point, _)| *point);
        all.dedup_by_key(|(point, _)| *point);
        if all.is_empty() {
            return Err(ShardError::Empty);
        }
        // Two starts for each point: a look-up passes half a point, and seldom guesses wrong. Large rings have one for two to
        // four points, which lie on one or two lines of the cache, as more starts would not fit into it.
        let count = all.len() as u64;
        let (many, few) = ((count * 2).next_power_of_two(), (count / 4 + 1).next_power_of_two());
        let places = many.min(few.max(1 << 16));
        let shift = bits - places.ilog2().min(bits - 1);
        let mut starts = vec![0; (1 << (bits - shift)) + 1];
        for (start, first) in starts.iter_mut().enumerate() {
            *first = all.partition_point(|(point, _)| point >> shift < start as u64) as u32;
        }
        Ok(Self {
            points: all.iter().map(|(point, _)| *point).collect(),
            heads: all.iter().map(|(point, owner)| head(*point, bits) | u64::from(*owner)).collect(),
            starts: starts.into(),
            shift,
            bits,
        })
    }

    /// The first point at or after a hash; after the last comes the first.
    #[inline]
    pub(super) fn find(&self, hash: u64) -> usize {
        let mut at = self.starts[(hash >> self.shift) as usize] as usize;
        let head = head(hash, self.bits);
        while let Some(next) = self.heads.get(at) {
            // Where the upper bits are the same, all of them decide.
            if *next & UPPER > head || *next & UPPER == head && self.points[at] >= hash {
                return at;
            }
            at += 1;
        }
        0
    }

    #[inline]
    fn owner_at(&self, at: usize) -> u32 {
        (self.heads[at] & !UPPER) as u32
    }

    #[inline]
    pub(super) fn owner(&self, hash: u64) -> u32 {
        self.owner_at(self.find(hash))
    }

    /// The owner, then those of the points behind it.
    pub(super) fn next(&self, walk: &mut Walk) -> Option<u32> {
        if walk.step == 0 {
            walk.cursor = self.find(walk.spot.number) as u64;
        }
        self.follow(walk)
    }

    /// The owner of the point that the walk has come to.
    fn follow(&self, walk: &mut Walk) -> Option<u32> {
        let points = self.points.len() as u64;
        if walk.step == points {
            return None;
        }
        let at = walk.cursor % points;
        walk.step += 1;
        walk.cursor = at + 1;
        Some(self.owner_at(at as usize))
    }

    pub(super) fn pieces(&self) -> Pieces {
        let owner = |at: usize| self.owner_at(at % self.heads.len());
        let mut pieces = vec![(0, owner(0))];
        let most = u64::MAX >> (64 - self.bits);
        let ends = self.points.iter().enumerate().filter(|(_, point)| **point < most);
        pieces.extend(ends.map(|(at, point)| (point + 1, owner(at + 1))));
        Pieces::Hashes(self.bits, pieces)
    }
}

/// A strategy that puts a layout of points around a hash function.
#[derive(Debug)]
pub(super) struct PointsLayout {
    pub(super) points: Points,
    pub(super) hash: KeyHash,
    /// Hashes are spread over all 64 bits, rather than to be as the function defines them.
    pub(super) spread: bool,
}

impl Layout for PointsLayout {
    #[inline]
    fn locate(&self, key: &[u8]) -> Spot {
        Spot::at(if self.spread { self.hash.spread(key) } else { self.hash.hash(key) })
    }

    #[inline]
    fn owner(&self, spot: Spot) -> u32 {
        self.points.owner(spot.number)
    }

    fn next(&self, walk: &mut Walk) -> Option<u32> {
        self.points.next(walk)
    }

    fn pieces(&self) -> Option<Pieces> {
        Some(self.points.pieces())
    }
}

/// Each node has points on a circle, and a key lives on the node of the next point.
///
/// A node that comes or goes moves the keys of its own points only. The price is balance: with 160 points each, the fullest of 100 nodes
/// has 1.2 to 1.3 times the mean. Points are made of hashes, not of texts, so that no two nodes' labels can run into
/// each other, and they are of 64 bits. For the rings of memcached's clients, nginx and Envoy see
/// [`Ketama`](crate::shard::Ketama) and its neighbours.
///
/// D. Karger and others, "Consistent hashing and random trees", 1997.
///
/// # Cost
///
/// A look-up hashes the key and finds the point in a few steps. 17 to 32 bytes a point.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::Ring;
///
/// let shards = Sharder::with(Ring::new(), ["a", "b", "c"])?;
/// let home = shards.get("user:7");
/// shards.add("d")?;
/// assert!(shards.get("user:7") == home || *shards.get("user:7").unwrap() == "d");
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ring {
    points: u32,
    hash: KeyHash,
}

impl Ring {
    /// Creates a ring of 160 points for each unit of weight.
    pub const fn new() -> Self {
        Self { points: 160, hash: KeyHash::Xxh3 }
    }

    /// Gives a node so many points for each unit of its weight, and at least one. Default: 160.
    ///
    /// # Panics
    ///
    /// If it is zero.
    #[track_caller]
    #[must_use = "returns the changed value"]
    pub const fn points(mut self, points: u32) -> Self {
        if points == 0 {
            absurd("points", 0, "must be at least 1");
        }
        self.points = points;
        self
    }

    hashes!("XXH3");
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

/// All points of a ring are at most so many, lest a weight in bytes takes all memory.
const MOST_POINTS: usize = 1 << 26;

impl Strategy for Ring {
    fn depends_on(&self) -> DependsOn {
        DependsOn::Set
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        roster.at_most(MOST)?;
        let mut all = Vec::new();
        for node in roster.active() {
            let points = (node.weight * f64::from(self.points)).round().max(1.0);
            if all.len() as f64 + points > MOST_POINTS as f64 {
                return Err(ShardError::Weight { id: node.id.to_string(), weight: node.weight });
            }
            let hash = node_hash(node);
            // Numbers that follow each other, mixed before they meet the node's hash.
            all.extend((0..points as u64).map(|point| (pair(hash, remix(point)), node.index as u16)));
        }
        Ok(Box::new(PointsLayout { points: Points::new(all, 64)?, hash: self.hash, spread: true }))
    }
}

/// Each node has one point on a circle, and a key tries several places: it lives where the way to the next point is shortest.
///
/// In balance between a ring of as many points and a table, in a memory of 32 bytes a node. It knows no weights. With
/// 21 probes the fullest of 100 nodes has about 1.1 to 1.2 times the mean.
///
/// B. Appleton and M. O'Reilly, "Multi-probe consistent hashing", 2015.
///
/// # Cost
///
/// As many steps as probes.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::MultiProbe;
///
/// let shards = Sharder::with(MultiProbe::new(), ["a", "b", "c"])?;
/// assert!(shards.get("user:7").is_some());
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MultiProbe {
    probes: u32,
    hash: KeyHash,
}

impl MultiProbe {
    /// Creates the strategy with 21 probes, which for 100 nodes is balance to about a tenth.
    pub const fn new() -> Self {
        Self { probes: 21, hash: KeyHash::Xxh3 }
    }

    /// Tries so many places. Default: 21.
    ///
    /// # Panics
    ///
    /// If it is zero.
    #[track_caller]
    #[must_use = "returns the changed value"]
    pub const fn probes(mut self, probes: u32) -> Self {
        if probes == 0 {
            absurd("probes", 0, "must be at least 1");
        }
        self.probes = probes;
        self
    }

    hashes!("XXH3");
}

impl Default for MultiProbe {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for MultiProbe {
    fn depends_on(&self) -> DependsOn {
        DependsOn::Set
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        roster.at_most(MOST)?;
        roster.equal()?;
        let all = roster.active().map(|node| (node_hash(node), node.index as u16)).collect();
        Ok(Box::new(ProbeLayout { points: Points::new(all, 64)?, hash: self.hash, probes: self.probes }))
    }
}

#[derive(Debug)]
struct ProbeLayout {
    points: Points,
    hash: KeyHash,
    probes: u32,
}

impl ProbeLayout {
    /// The point that is nearest to any of the probes.
    #[inline]
    fn nearest(&self, hash: u64) -> usize {
        let step = remix(hash) | 1;
        let mut probe = hash;
        let (mut least, mut nearest) = (u64::MAX, 0);
        for _ in 0..self.probes {
            let at = self.points.find(probe);
            // Around the circle: the way over the end is as long as the numbers wrap.
            let way = self.points.points[at].wrapping_sub(probe);
            (least, nearest) = if way < least { (way, at) } else { (least, nearest) };
            probe = probe.wrapping_add(step);
        }
        nearest
    }
}

impl Layout for ProbeLayout {
    #[inline]
    fn locate(&self, key: &[u8]) -> Spot {
        Spot::at(self.hash.spread(key))
    }

    #[inline]
    fn owner(&self, spot: Spot) -> u32 {
        self.points.owner_at(self.nearest(spot.number))
    }

    fn next(&self, walk: &mut Walk) -> Option<u32> {
        if walk.step == 0 {
            walk.cursor = self.nearest(walk.spot.number) as u64;
        }
        self.points.follow(walk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_finds_the_first_point_at_or_after_it_and_wraps_behind_the_last() {
        let twin = |points: &[u64], hash: u64| points.iter().position(|point| *point >= hash).unwrap_or(0);
        for bits in [8, 32, 64] {
            let most = u64::MAX >> (64 - bits);
            for count in [1, 2, 3, 10, 100] {
                let mut list: Vec<u64> = (0..count).map(|at| remix(at) & most).collect();
                let points = Points::new(list.iter().map(|point| (*point, 0)).collect(), bits).unwrap();
                list.sort_unstable();
                list.dedup();
                // Beside a point of 64 bits the upper 48 are alike.
                let edges =
                    list.iter().flat_map(|point| [point.saturating_sub(1), *point, (point + 1).min(most)]);
                for hash in edges.chain([0, 1, most, most - 1]).chain((0..500).map(|at| remix(!at) & most)) {
                    assert_eq!(points.find(hash), twin(&list, hash), "{hash} in {list:?}");
                }
            }
        }
    }

    /// Whatever order they came in: it is by ids that the list is ordered.
    #[test]
    fn of_points_that_meet_the_first_id_wins() {
        let points = Points::new(vec![(7, 0), (9, 1), (7, 2)], 32).unwrap();
        assert_eq!(&*points.points, [7, 9]);
        assert_eq!([7, 9].map(|hash| points.owner(hash)), [0, 1]);
    }
}

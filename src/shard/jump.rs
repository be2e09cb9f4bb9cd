//! Numbered buckets without a table: [`Jump`], and [`JumpBack`], from which any bucket can go.

use super::error::ShardError;
use super::hash::{KeyHash, hashes, remix};
use super::strategy::{DependsOn, Layout, Roster, Spot, Strategy, Walk};
use crate::rng::Rng;

/// Returns the bucket, of so many, in which a key's hash lies, by jump consistent hash.
///
/// With a further bucket, a key stays or goes into that one.
///
/// J. Lamping and E. Veach, "A fast, minimal memory, consistent hash algorithm", 2014. Zero buckets count as one.
///
/// ```
/// use floodwall::shard::jump_bucket;
///
/// assert_eq!(jump_bucket(10_863_919_174_838_991, 11), 6);
/// ```
#[inline]
pub fn jump_bucket(hash: u64, buckets: u32) -> u32 {
    let (mut key, mut bucket, mut next) = (hash, 0, 0i64);
    while next < i64::from(buckets) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * ((1u64 << 31) as f64 / ((key >> 33) + 1) as f64)) as i64;
    }
    bucket as u32
}

/// Returns the bucket, of so many, in which a key's hash lies, by JumpBackHash: as even as [`jump_bucket`], in less than two
/// random numbers whatever the number of buckets, without floats.
///
/// O. Ertl, "JumpBackHash: say goodbye to the modulo operation to distribute keys uniformly to buckets", 2024; with
/// SplitMix64, as in hash4j. Zero buckets count as one.
///
/// ```
/// use floodwall::shard::jump_back_bucket;
///
/// assert_eq!(jump_back_bucket(0x85ef_23a0_b545_d53b, 3), 2);
/// ```
#[inline]
pub fn jump_back_bucket(hash: u64, buckets: u32) -> u32 {
    jump_back(&mut Rng::seeded(hash), buckets)
}

#[inline]
fn jump_back(rng: &mut Rng, buckets: u32) -> u32 {
    if buckets <= 1 {
        return 0;
    }
    let first = rng.next();
    // Of each of the ranges [2^i, 2^(i+1)) one bit says whether the key jumps into it at all.
    let mut ranges = (first ^ first >> 32) as u32 & (u32::MAX >> (buckets - 1).leading_zeros());
    while ranges != 0 {
        let low = 1 << (31 - ranges.leading_zeros());
        let bucket = low + ((first >> ((ranges.count_ones() * 32) & 63)) as u32 & (low - 1));
        if bucket < buckets {
            return bucket;
        }
        let wide = low << 1;
        // Back from beyond the end: to another bucket of this range, or out of it.
        let mut half = 0u64;
        let mut odd = false;
        loop {
            half = if odd { half >> 32 } else { rng.next() };
            odd = !odd;
            let bucket = half as u32 & wide.wrapping_sub(1);
            if bucket < low {
                break;
            }
            if bucket < buckets {
                return bucket;
            }
        }
        ranges ^= low;
    }
    0
}

/// Keys jump to numbered nodes, by the order in which these joined; only the last can leave.
///
/// For shards that are only ever added: evenly filled, no table, and nothing moves but what the new one takes. Nodes weigh alike, or
/// nothing. To take out another than the last, [drain](crate::Sharder::reweight) it, or use [`JumpBack`].
///
/// # Cost
///
/// About as many steps as the logarithm of the number of nodes, each with a division.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::{Jump, ShardError};
///
/// let shards = Sharder::with(Jump::new(), ["first", "second"])?;
/// shards.add("third")?;
/// assert_eq!(shards.remove("first").unwrap_err(), ShardError::NotLast("first".into()));
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Jump {
    hash: KeyHash,
}

impl Jump {
    hashes!(new);
}

/// The nodes by their seats.
fn seated(roster: &Roster) -> Result<Vec<Option<u32>>, ShardError> {
    roster.at_most(u32::MAX as usize / 2)?;
    roster.equal()?;
    let mut seats = vec![None; roster.seats()];
    roster.nodes.iter().for_each(|node| seats[node.seat as usize] = Some(node.index));
    Ok(seats)
}

impl Strategy for Jump {
    fn depends_on(&self) -> DependsOn {
        DependsOn::History
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        let seats: Vec<Option<u32>> = seated(roster)?;
        let nodes: Option<Box<[u32]>> = seats.into_iter().collect();
        let Some(nodes) = nodes else {
            // Whoever removed it knows its name: the sharder fills it in.
            return Err(ShardError::NotLast(String::new()));
        };
        let drained = drained(roster);
        Ok(Box::new(JumpLayout { nodes, drained, hash: self.hash }))
    }
}

/// Whether each node, by its index, is drained; empty if none is.
fn drained(roster: &Roster) -> Box<[bool]> {
    if roster.nodes.iter().all(|node| node.weight > 0.0) {
        return Box::default();
    }
    let most = roster.nodes.iter().map(|node| node.index + 1).max().unwrap_or(0);
    let mut drained = vec![false; most as usize];
    roster.nodes.iter().for_each(|node| drained[node.index as usize] = node.weight == 0.0);
    drained.into()
}

/// How often a key jumps anew before it takes the nodes in turn.
const JUMPS: u64 = 64;

#[derive(Debug)]
struct JumpLayout {
    nodes: Box<[u32]>,
    drained: Box<[bool]>,
    hash: KeyHash,
}

/// The next candidate after one that cannot be had: by another hash of the key, and in the end by turns.
fn again(walk: &mut Walk, seats: usize, bucket: impl Fn(u64) -> u32) -> Option<u32> {
    let step = walk.step;
    walk.step += 1;
    let seats = seats as u64;
    match step {
        0 => Some(bucket(walk.spot.number)),
        1..JUMPS => Some(bucket(remix(walk.spot.number ^ remix(step)))),
        _ if step - JUMPS < seats => {
            Some(((u64::from(bucket(walk.spot.number)) + step - JUMPS) % seats) as u32)
        }
        _ => None,
    }
}

impl Layout for JumpLayout {
    #[inline]
    fn locate(&self, key: &[u8]) -> Spot {
        Spot::at(self.hash.spread(key))
    }

    #[inline]
    fn owner(&self, spot: Spot) -> u32 {
        let node = self.nodes[jump_bucket(spot.number, self.nodes.len() as u32) as usize];
        if self.drained.is_empty() { node } else { self.undrained(Walk::from(spot)) }
    }

    fn next(&self, walk: &mut Walk) -> Option<u32> {
        loop {
            let seat = again(walk, self.nodes.len(), |hash| jump_bucket(hash, self.nodes.len() as u32))?;
            let node = self.nodes[seat as usize];
            if !self.drained.get(node as usize).is_some_and(|drained| *drained) {
                return Some(node);
            }
        }
    }
}

impl JumpLayout {
    #[cold]
    fn undrained(&self, mut walk: Walk) -> u32 {
        // There is a node with a weight, or there were no layout.
        self.next(&mut walk).unwrap_or(self.nodes[0])
    }
}

/// Keys jump to numbered nodes, by the order in which these joined; any node can leave.
///
/// As even as [`Jump`] and quicker, in a few bytes a node. A node that leaves moves its own keys only, and the next one to
/// join takes its place. So the answer depends on the order of all that came and went: processes agree by passing on a
/// saved [`State`](crate::shard::State). Nodes weigh alike, or nothing.
///
/// O. Ertl, JumpBackHash, with the removals of hash4j's `ConsistentJumpBackAnchorBucketHasher`.
///
/// # Cost
///
/// Less than two random numbers a look-up, whatever the number of nodes; one or two more for each look-up that meets a
/// vacated place.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::JumpBack;
///
/// let shards = Sharder::with(JumpBack::new(), ["a", "b", "c"])?;
/// shards.remove("a")?;
/// assert_ne!(*shards.get("user:7").unwrap(), "a");
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct JumpBack {
    hash: KeyHash,
}

impl JumpBack {
    hashes!(new);
}

impl Strategy for JumpBack {
    fn depends_on(&self) -> DependsOn {
        DependsOn::History
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        let mut seats: Vec<Seat> =
            seated(roster)?.into_iter().map(|node| Seat { node: node.unwrap_or(u32::MAX), ..FREE }).collect();
        // What happened at each removal follows from the order of all, replayed.
        let all = seats.len() as u32;
        for (count, seat) in roster.vacated.iter().enumerate() {
            let left = all - count as u32 - 1;
            let heir = view(&seats, left, left + 1);
            let seat = &mut seats[*seat as usize];
            (seat.left, seat.heir) = (left, heir);
        }
        Ok(Box::new(JumpBackLayout { seats: seats.into(), drained: drained(roster), hash: self.hash }))
    }
}

/// One numbered place.
#[derive(Clone, Copy, Debug)]
struct Seat {
    node: u32,
    /// How many were left when it was vacated; more than any number if it is taken.
    left: u32,
    /// The seat that then took its place in the order.
    heir: u32,
}

const FREE: Seat = Seat { node: u32::MAX, left: u32::MAX, heir: 0 };

impl Seat {
    fn is_vacated(&self) -> bool {
        self.left != u32::MAX
    }
}

/// Which seat stands at a place of the order when so many are left.
fn view(seats: &[Seat], mut at: u32, left: u32) -> u32 {
    while seats[at as usize].is_vacated() && seats[at as usize].left >= left {
        at = seats[at as usize].heir;
    }
    at
}

#[derive(Debug)]
struct JumpBackLayout {
    seats: Box<[Seat]>,
    drained: Box<[bool]>,
    hash: KeyHash,
}

impl JumpBackLayout {
    #[inline]
    fn seat(&self, hash: u64) -> u32 {
        let mut rng = Rng::seeded(hash);
        let mut at = jump_back(&mut rng, self.seats.len() as u32);
        while self.seats[at as usize].is_vacated() {
            let left = self.seats[at as usize].left;
            at = view(&self.seats, below(&mut rng, left), left);
        }
        at
    }

    #[cold]
    fn undrained(&self, mut walk: Walk) -> u32 {
        // There is a node with a weight, or there were no layout.
        self.next(&mut walk).unwrap_or(0)
    }
}

/// A number below `end`, each equally likely.
fn below(rng: &mut Rng, end: u32) -> u32 {
    ((u128::from(rng.next()) * u128::from(end)) >> 64) as u32
}

impl Layout for JumpBackLayout {
    #[inline]
    fn locate(&self, key: &[u8]) -> Spot {
        Spot::at(self.hash.spread(key))
    }

    #[inline]
    fn owner(&self, spot: Spot) -> u32 {
        let node = self.seats[self.seat(spot.number) as usize].node;
        if self.drained.is_empty() { node } else { self.undrained(Walk::from(spot)) }
    }

    fn next(&self, walk: &mut Walk) -> Option<u32> {
        loop {
            let seat = self.seats[again(walk, self.seats.len(), |hash| self.seat(hash))? as usize];
            let is_drained = self.drained.get(seat.node as usize).is_some_and(|drained| *drained);
            if !seat.is_vacated() && !is_drained {
                return Some(seat.node);
            }
        }
    }
}

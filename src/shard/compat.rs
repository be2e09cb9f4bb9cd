//! How databases name places of their own: Cassandra's tokens, Vitess' keyspace ids and key ranges.

use std::fmt;
use std::str::FromStr;

use super::hash::KeyHash;

/// Returns the token of a partition key in Cassandra and ScyllaDB (Murmur3Partitioner).
///
/// ```
/// assert_eq!(floodwall::shard::compat::cassandra_token(b"test"), -6_017_608_668_500_074_083);
/// ```
pub fn cassandra_token(key: &[u8]) -> i64 {
    match KeyHash::CassandraMurmur3.hash(key) as i64 {
        // The least is no token: it stands for the start of the ring.
        i64::MIN => i64::MAX,
        token => token,
    }
}

/// A range of tokens on Cassandra's ring: after `start`, up to `end`; around the end if that is not greater.
///
/// ```
/// use floodwall::shard::compat::TokenRange;
///
/// let parts = TokenRange { start: 0, end: 11 }.split(3);
/// assert_eq!(parts.map(|part| part.end).collect::<Vec<_>>(), [4, 8, 11]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRange {
    /// Not in the range.
    pub start: i64,
    /// In the range.
    pub end: i64,
}

/// How many tokens there are: the least `i64` is none.
const RING: i128 = (1 << 64) - 1;

impl TokenRange {
    /// Returns how many tokens are in it.
    pub fn len(&self) -> u64 {
        let length = i128::from(self.end) - i128::from(self.start);
        (if length <= 0 { length + RING } else { length }) as u64
    }

    /// Returns whether no token is in it: never, as a range from a token to itself is the whole ring.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts the range into so many parts, the first ones larger by a token where it does not come out even.
    pub fn split(self, parts: u32) -> impl Iterator<Item = TokenRange> {
        let (length, parts) = (i128::from(self.len()), i128::from(parts));
        let at = move |part: i128| {
            if part == parts {
                return self.end;
            }
            let token = i128::from(self.start) + length / parts * part + part.min(length % parts);
            (if token > i128::from(i64::MAX) { token - RING } else { token }) as i64
        };
        (0..parts).map(move |part| TokenRange { start: at(part), end: at(part + 1) })
    }
}

/// A node on Cassandra's ring, with the token that it owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingNode<'a> {
    /// The token.
    pub token: i64,
    /// What it is called.
    pub id: &'a str,
    /// Its data centre.
    pub datacenter: &'a str,
    /// Its rack.
    pub rack: &'a str,
}

/// Returns the nodes that hold a token with Cassandra's `SimpleStrategy`: the first `count` different ones along the ring, which has
/// to be in the order of tokens.
pub fn simple_replicas<'a>(ring: &[RingNode<'a>], token: i64, count: usize) -> Vec<&'a str> {
    let mut replicas = Vec::new();
    for node in along(ring, token) {
        if replicas.len() < count && !replicas.contains(&node.id) {
            replicas.push(node.id);
        }
    }
    replicas
}

/// Returns the nodes of one data centre that hold a token with Cassandra's `NetworkTopologyStrategy`: along the ring, of each rack one
/// before any has two, as far as there are racks.
///
/// ```
/// use floodwall::shard::compat::{RingNode, datacenter_replicas};
///
/// let node = |token, id, rack| RingNode { token, id, datacenter: "eu", rack };
/// let ring = [node(10, "a", "r1"), node(20, "b", "r1"), node(30, "c", "r2")];
/// assert_eq!(datacenter_replicas(&ring, 5, "eu", 2), ["a", "c"]);
/// assert_eq!(datacenter_replicas(&ring, 5, "eu", 3), ["a", "b", "c"]);
/// ```
pub fn datacenter_replicas<'a>(
    ring: &[RingNode<'a>],
    token: i64,
    datacenter: &str,
    count: usize,
) -> Vec<&'a str> {
    let here = || along(ring, token).filter(|node| node.datacenter == datacenter);
    let mut all: Vec<&str> = here().map(|node| node.rack).collect();
    all.sort_unstable();
    all.dedup();
    // So many nodes may be the second of their rack.
    let mut repeats = count.saturating_sub(all.len());
    let (mut replicas, mut racks) = (Vec::new(), Vec::new());
    for node in here() {
        if replicas.len() == count {
            break;
        }
        if replicas.contains(&node.id) {
            continue;
        }
        if !racks.contains(&node.rack) {
            racks.push(node.rack);
        } else if repeats > 0 {
            repeats -= 1;
        } else {
            continue;
        }
        replicas.push(node.id);
    }
    replicas
}

/// The nodes from a token's owner on, once around.
fn along<'r, 'a>(ring: &'r [RingNode<'a>], token: i64) -> impl Iterator<Item = &'r RingNode<'a>> {
    let first = ring.partition_point(|node| node.token < token);
    ring[first..].iter().chain(&ring[..first])
}

/// Returns the keyspace id that Vitess' vindex `hash` gives a number: its block under DES with the key zero.
///
/// ```
/// assert_eq!(floodwall::shard::compat::vitess_hash(1), 0x166b_40b4_4aba_4bd6);
/// ```
#[cfg(feature = "shard-compat")]
#[cfg_attr(docsrs, doc(cfg(feature = "shard-compat")))]
pub fn vitess_hash(number: u64) -> u64 {
    use des::cipher::{BlockCipherEncrypt, KeyInit};
    let mut block = number.to_be_bytes().into();
    des::Des::new(&[0; 8].into()).encrypt_block(&mut block);
    u64::from_be_bytes(block.into())
}

/// A range of keyspace ids in Vitess, written as in `40-80`: from `start` on, up to `end`, not included; both in bytes, and without
/// zeroes at their end.
///
/// ```
/// use floodwall::shard::compat::KeyRange;
///
/// let range: KeyRange = "40-80".parse()?;
/// assert!(range.contains(&[0x7f]) && !range.contains(&[0x80]));
/// assert_eq!(range.merge(&"80-".parse()?).unwrap().to_string(), "40-");
/// # Ok::<(), floodwall::shard::compat::BadKeyRange>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    start: Vec<u8>,
    /// Empty: to the end of all.
    end: Vec<u8>,
}

impl KeyRange {
    /// Returns one of so many shards of equal size, the first being 0; `None` if there is no such one, or their number is
    /// not a power of two up to 65,536.
    ///
    /// ```
    /// use floodwall::shard::compat::KeyRange;
    ///
    /// assert_eq!(KeyRange::even(1, 4).unwrap().to_string(), "40-80");
    /// assert!(KeyRange::even(1, 6).is_none());
    /// ```
    pub fn even(shard: u32, of: u32) -> Option<Self> {
        if shard >= of || !of.is_power_of_two() || of > 1 << 16 {
            return None;
        }
        let width = (1 << 16) / of;
        // As long as the number of shards needs, which is how Vitess writes them.
        let bytes = if of <= 256 { 1 } else { 2 };
        let bound = |at: u32| match at * width {
            0 | 0x1_0000 => Vec::new(),
            bound => (bound as u16).to_be_bytes()[..bytes].to_vec(),
        };
        Some(Self { start: bound(shard), end: bound(shard + 1) })
    }

    /// Returns whether a keyspace id is in the range.
    pub fn contains(&self, id: &[u8]) -> bool {
        trim(&self.start) <= trim(id) && (self.end.is_empty() || trim(id) < trim(&self.end))
    }

    /// Returns whether both are the same ids, however they are written.
    pub fn same(&self, other: &Self) -> bool {
        trim(&self.start) == trim(&other.start) && trim(&self.end) == trim(&other.end)
    }

    /// Returns whether the other begins where this one ends.
    pub fn is_followed_by(&self, other: &Self) -> bool {
        !self.end.is_empty() && trim(&self.end) == trim(&other.start)
    }

    /// Joins two ranges that are neighbours; `None` if they are not.
    pub fn merge(&self, other: &Self) -> Option<Self> {
        if self.is_followed_by(other) {
            Some(Self { start: self.start.clone(), end: other.end.clone() })
        } else if other.is_followed_by(self) {
            Some(Self { start: other.start.clone(), end: self.end.clone() })
        } else {
            None
        }
    }
}

/// Without the zeroes at its end, which change nothing.
fn trim(bound: &[u8]) -> &[u8] {
    &bound[..bound.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)]
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.start.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.end.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Not a range of keyspace ids: two hexadecimal bounds with a dash between, the first less than the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadKeyRange;

impl fmt::Display for BadKeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a key range, such as 40-80")
    }
}

impl std::error::Error for BadKeyRange {}

impl FromStr for KeyRange {
    type Err = BadKeyRange;

    fn from_str(text: &str) -> Result<Self, BadKeyRange> {
        let (start, end) = text.split_once('-').ok_or(BadKeyRange)?;
        let bytes = |text: &str| {
            let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
            let pairs = text.as_bytes().chunks(2);
            let byte = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?);
            pairs.map(byte).collect::<Option<Vec<u8>>>().ok_or(BadKeyRange)
        };
        let (start, end) = (bytes(start)?, bytes(end)?);
        if !end.is_empty() && trim(&start) >= trim(&end) {
            return Err(BadKeyRange);
        }
        Ok(Self { start, end })
    }
}

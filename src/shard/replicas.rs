//! The nodes for the copies of a key, in order: [`Replicas`].

use std::collections::BTreeMap;
use std::fmt;

use super::snapshot::Snapshot;
use super::strategy::{Roster, Spot, Walk};

/// Which zone each node is in, as a number; a node without one is a zone of its own.
#[derive(Debug)]
pub(super) struct Zones {
    of: Box<[u32]>,
    /// How many nodes of each can be used.
    sizes: Box<[u32]>,
}

impl Zones {
    pub(super) fn new(roster: &Roster, unusable: &[bool]) -> Self {
        let mut numbers = BTreeMap::new();
        let mut sizes = Vec::new();
        let mut of = Vec::new();
        for (node, unusable) in roster.nodes.iter().zip(unusable) {
            let new = sizes.len() as u32;
            let number = match node.zone.as_deref() {
                Some(zone) => *numbers.entry(zone).or_insert(new),
                None => new,
            };
            if number == new {
                sizes.push(0);
            }
            sizes[number as usize] += u32::from(!unusable);
            of.push(number);
        }
        Self { of: of.into(), sizes: sizes.into() }
    }

    /// How many nodes are named once each zone had so many turns.
    fn after(&self, turns: u32) -> usize {
        self.sizes.iter().map(|size| (*size).min(turns) as usize).sum()
    }
}

/// The nodes for the copies of a key that are up, the best first. Made by [`Snapshot::replicas`].
///
/// ```
/// use floodwall::Sharder;
///
/// let shards = Sharder::new(["a", "b", "c"])?;
/// let snapshot = shards.snapshot();
/// let homes: Vec<_> = snapshot.replicas("user:7").take(2).collect();
/// assert_ne!(homes[0], homes[1]);
/// let error = snapshot.replicas("user:7").exactly::<4>().unwrap_err();
/// assert_eq!(error.to_string(), "3 of 4 nodes are there");
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
pub struct Replicas<'a, N> {
    /// Whose numbers the nodes have: while data moves it may be the next one.
    pub(super) snapshot: &'a Snapshot<N>,
    spot: Spot,
    walk: Walk,
    /// How many turns each zone has had, to within one.
    turn: u32,
    taken: Taken,
}

impl<'a, N> Replicas<'a, N> {
    pub(super) fn new(snapshot: &'a Snapshot<N>, spot: Spot) -> Self {
        Self { snapshot, spot, walk: Walk::from(spot), turn: 0, taken: Taken::default() }
    }

    /// The next one's index.
    pub(super) fn step(&mut self) -> Option<u32> {
        let zones = &self.snapshot.zones;
        loop {
            let count = self.taken.len;
            // All zones have had this turn: from the best candidate on anew.
            let is_over = count > 0 && count == zones.after(self.turn + 1);
            let next = if is_over { None } else { self.snapshot.layout.next(&mut self.walk) };
            let Some(index) = next else {
                self.turn += 1;
                if zones.sizes.iter().all(|size| *size <= self.turn) {
                    return None;
                }
                self.walk = Walk::from(self.spot);
                continue;
            };
            let zone = zones.of[index as usize];
            let is_due = self.taken.count(|taken| zones.of[taken as usize] == zone) <= self.turn as usize;
            if is_due && self.snapshot.is_usable(index) && self.taken.count(|taken| taken == index) == 0 {
                self.taken.push(index);
                return Some(index);
            }
        }
    }

    /// Returns exactly so many, or says how many there are.
    ///
    /// # Errors
    ///
    /// If there are fewer.
    pub fn exactly<const K: usize>(mut self) -> Result<[&'a N; K], TooFew> {
        let mut found = 0;
        let nodes = [(); K].map(|()| self.next().inspect(|_| found += 1));
        match nodes.iter().any(Option::is_none) {
            true => Err(TooFew { wanted: K, found }),
            false => Ok(nodes.map(|node| node.expect("none is missing"))),
        }
    }

    /// Returns so many, or says how many there are; for numbers that are known when the program runs.
    ///
    /// # Errors
    ///
    /// If there are fewer.
    pub fn at_least(self, wanted: usize) -> Result<Vec<&'a N>, TooFew> {
        let nodes: Vec<_> = self.take(wanted).collect();
        if nodes.len() == wanted { Ok(nodes) } else { Err(TooFew { wanted, found: nodes.len() }) }
    }
}

impl<'a, N> Iterator for Replicas<'a, N> {
    type Item = &'a N;

    fn next(&mut self) -> Option<&'a N> {
        self.step().map(|index| &*self.snapshot.nodes[index as usize])
    }
}

impl<N> fmt::Debug for Replicas<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicas").field("taken", &self.taken.len).finish_non_exhaustive()
    }
}

/// Those named so far; the first of them without a vector.
#[derive(Default)]
struct Taken {
    first: [u32; 16],
    more: Vec<u32>,
    len: usize,
}

impl Taken {
    fn push(&mut self, index: u32) {
        match self.first.get_mut(self.len) {
            Some(place) => *place = index,
            None => self.more.push(index),
        }
        self.len += 1;
    }

    fn count(&self, is: impl Fn(u32) -> bool) -> usize {
        let first = &self.first[..self.len.min(self.first.len())];
        first.iter().chain(&self.more).filter(|index| is(**index)).count()
    }
}

/// Fewer nodes are up than copies were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFew {
    /// How many were asked for.
    pub wanted: usize,
    /// How many there are.
    pub found: usize,
}

impl fmt::Display for TooFew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} nodes are there", self.found, self.wanted)
    }
}

impl std::error::Error for TooFew {}

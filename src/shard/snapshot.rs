//! One set of nodes and the homes of all keys in it: [`Snapshot`]; and how the next one is made: [`Draft`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::error::ShardError;
use super::key::Key;
use super::node::Node;
use super::replicas::{Replicas, Zones};
use super::shift::Moving;
use super::state::{SavedNode, State, fingerprint};
use super::strategy::{Layout, Pieces, Roster, Spec, Spot, Strategy};
use crate::sync::AtomicU64;

/// A set of nodes and the home of every key in it; it never changes.
///
/// Made by [`Sharder::snapshot`](crate::Sharder::snapshot). All answers of one snapshot agree with each other, whatever happens
/// to the sharder meanwhile.
///
/// # Cost
///
/// A look-up takes no lock, writes nothing and does not allocate.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::Member;
///
/// let node = |id, zone| Member::new(id).zone(zone);
/// let shards = Sharder::new([node("a", "z1"), node("b", "z1"), node("c", "z2")])?;
/// let snapshot = shards.snapshot();
/// let [first, second] = snapshot.replicas("user:7").exactly().unwrap();
/// assert_eq!(Some(first), snapshot.get("user:7"));
/// assert!(*first == node("c", "z2") || *second == node("c", "z2")); // never both in one zone
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
pub struct Snapshot<N> {
    pub(super) version: u64,
    pub(super) nodes: Box<[Arc<N>]>,
    pub(super) roster: Roster,
    pub(super) layout: Arc<dyn Layout>,
    pub(super) strategy: Arc<dyn Strategy>,
    down: Box<[bool]>,
    /// Down or drained.
    unusable: Box<[bool]>,
    /// Some node is unusable, or data moves: a look-up has to look closer.
    is_intricate: bool,
    pub(super) zones: Zones,
    /// What runs on each node at the moment, for bounded loads; shared by all snapshots that have the node.
    pub(super) loads: Box<[Arc<AtomicU64>]>,
    pub(super) moving: Option<Arc<Moving<N>>>,
}

impl<N> Snapshot<N> {
    /// Returns the node on which a key lives: its first choice that is up. `None` if none is.
    ///
    /// While a [`Shift`](crate::shard::Shift) runs, that is where the key can be read.
    ///
    /// # Cost
    ///
    /// That of the strategy; no lock, no allocation.
    #[inline]
    pub fn get<K: Key + ?Sized>(&self, key: &K) -> Option<&N> {
        self.find(key.bytes().as_ref()).map(|node| &**node)
    }

    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Option<&Arc<N>> {
        let index = self.layout.place(key) as usize;
        if self.is_intricate && (self.moving.is_some() || self.unusable[index]) {
            return self.find_closely(key);
        }
        Some(&self.nodes[index])
    }

    #[inline(never)]
    fn find_closely(&self, key: &[u8]) -> Option<&Arc<N>> {
        let mut replicas = self.replicas_of(key);
        let index = replicas.step()?;
        Some(&replicas.snapshot.nodes[index as usize])
    }

    /// As it is at the moment: during a shift, each key by the snapshot that it is read by.
    fn replicas_of(&self, key: &[u8]) -> Replicas<'_, N> {
        let present = self.moving.as_deref().map_or(self, |moving| moving.read(self, key));
        Replicas::new(present, present.layout.locate(key))
    }

    /// Returns the id of the node on which a key lives while no node is down.
    pub fn home<K: Key + ?Sized>(&self, key: &K) -> &str {
        self.id(self.layout.place(key.bytes().as_ref()))
    }

    /// Returns the nodes for a key that are up, the best first: each once, and no zone a second time before all had their turn.
    ///
    /// The first is what [`get`](Self::get) returns; while a [`Shift`](crate::shard::Shift) runs, they are those of before a key's move, or
    /// those of after. With fewer taken, they are the first of those with more taken.
    ///
    /// # Cost
    ///
    /// No allocation for the first 16. With [`Slots`](crate::shard::Slots), the first three are read from the table, each further one takes a step a
    /// node.
    pub fn replicas<K: Key + ?Sized>(&self, key: &K) -> Replicas<'_, N> {
        self.replicas_of(key.bytes().as_ref())
    }

    /// Returns the slot of a key, or its hash if the strategy has no slots: the number that [`Piece`](crate::shard::Piece)s are given
    /// by. Stored beside each row, in an index, it finds the rows of a move.
    pub fn number<K: Key + ?Sized>(&self, key: &K) -> u64 {
        self.layout.locate(key.bytes().as_ref()).number
    }

    /// Returns how often the sharder has changed to come to this.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns all nodes with their ids, in the order of these.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &N)> {
        self.roster.nodes.iter().zip(&self.nodes).map(|(spec, node)| (&*spec.id, &**node))
    }

    /// Finds a node by its id.
    pub fn node(&self, id: &str) -> Option<&N> {
        self.roster.find(id).map(|spec| &*self.nodes[spec.index as usize])
    }

    /// Returns the nodes as strategies see them.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Returns whether a node was marked down; `false` if there is no such node.
    pub fn is_down(&self, id: &str) -> bool {
        self.roster.find(id).is_some_and(|spec| self.down[spec.index as usize])
    }

    /// The same, while data moves.
    pub(super) fn with_moving(mut self, moving: Option<Arc<Moving<N>>>) -> Self {
        self.is_intricate = moving.is_some() || self.unusable.contains(&true);
        self.moving = moving;
        self
    }

    pub(super) fn id(&self, index: u32) -> &str {
        &self.roster.nodes[index as usize].id
    }

    pub(super) fn is_usable(&self, index: u32) -> bool {
        !self.unusable[index as usize]
    }

    /// Returns the share of all hashes that each node owns: exactly, where the strategy's table can be listed, and
    /// otherwise by 2^17 keys at random, to within about a hundredth.
    pub fn shares(&self) -> BTreeMap<String, f64> {
        let mut shares = vec![0.0; self.nodes.len()];
        let weigh = |of: u128, starts: &[(u64, u32)], shares: &mut Vec<f64>| {
            let ends = starts.iter().skip(1).map(|(start, _)| u128::from(*start)).chain([of]);
            for ((start, owner), end) in starts.iter().zip(ends) {
                shares[*owner as usize] += (end - u128::from(*start)) as f64 / of as f64;
            }
        };
        match self.layout.pieces() {
            Some(Pieces::Slots(slots, starts)) => weigh(slots.into(), &starts, &mut shares),
            Some(Pieces::Hashes(bits, starts)) => weigh(1 << bits, &starts, &mut shares),
            _ => {
                for key in 0..SAMPLES {
                    shares[self.layout.place(&sample(key)) as usize] += 1.0 / SAMPLES as f64;
                }
            }
        }
        self.roster.nodes.iter().map(|spec| spec.id.to_string()).zip(shares).collect()
    }

    /// Returns a number that is the same, but for bad luck, where all keys live on the same nodes.
    ///
    /// Down nodes count as if they were up. Exact where the strategy's table can be listed, otherwise by 4,096 keys.
    pub fn fingerprint(&self) -> u64 {
        fingerprint(self)
    }

    /// Returns what is needed to make the same snapshot elsewhere, see [`Sharder::restore`](crate::Sharder::restore).
    pub fn state(&self) -> State {
        let nodes = self.roster.nodes.iter().zip(&self.down).map(|(spec, is_down)| SavedNode {
            id: spec.id.to_string(),
            weight: spec.weight,
            zone: spec.zone.as_deref().map(str::to_owned),
            seat: spec.seat,
            is_down: *is_down,
        });
        State {
            version: self.version,
            nodes: nodes.collect(),
            vacated: self.roster.vacated.clone(),
            fingerprint: self.fingerprint(),
        }
    }

    /// Starts a snapshot that differs from this one.
    pub fn draft(&self) -> Draft<N> {
        let specs = self.roster.nodes.iter().zip(&self.nodes).zip(self.down.iter().zip(&self.loads));
        let entries = specs.map(|((spec, node), (is_down, load))| Entry {
            node: node.clone(),
            spec: spec.clone(),
            is_down: *is_down,
            load: load.clone(),
        });
        Draft {
            entries: entries.collect(),
            vacated: self.roster.vacated.clone(),
            strategy: self.strategy.clone(),
            layout: Some(self.layout.clone()),
            removed: String::new(),
            version: self.version,
        }
    }
}

/// How many keys are taken where the homes of all cannot be listed.
pub(super) const SAMPLES: u64 = 1 << 17;

/// A key for samples.
pub(super) fn sample(number: u64) -> [u8; 16] {
    let mut key = *b"sample: ........";
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

impl<N> fmt::Debug for Snapshot<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<&str> = self.roster.nodes.iter().map(|spec| &*spec.id).collect();
        f.debug_struct("Snapshot")
            .field("version", &self.version)
            .field("strategy", &self.strategy)
            .field("nodes", &nodes)
            .finish_non_exhaustive()
    }
}

struct Entry<N> {
    node: Arc<N>,
    spec: Spec,
    is_down: bool,
    load: Arc<AtomicU64>,
}

impl<N> Clone for Entry<N> {
    fn clone(&self) -> Self {
        let Self { node, spec, is_down, load } = self;
        Self { node: node.clone(), spec: spec.clone(), is_down: *is_down, load: load.clone() }
    }
}

/// A set of nodes that is being changed. Made by [`Snapshot::draft`], for plans, and by
/// [`Sharder::change`](crate::Sharder::change), for several changes at once.
pub struct Draft<N> {
    /// In the order of ids.
    entries: Vec<Entry<N>>,
    vacated: Vec<u32>,
    strategy: Arc<dyn Strategy>,
    /// Still that of the strategy for these nodes.
    layout: Option<Arc<dyn Layout>>,
    /// Whoever left last, for messages.
    removed: String,
    /// That of the snapshot that this began with.
    version: u64,
}

impl<N> Draft<N> {
    pub(super) fn new(strategy: Arc<dyn Strategy>) -> Self {
        let (entries, vacated, removed) = (Vec::new(), Vec::new(), String::new());
        Self { entries, vacated, strategy, layout: None, removed, version: 0 }
    }

    fn at(&self, id: &str) -> Result<usize, ShardError> {
        let found = self.entries.binary_search_by(|entry| (*entry.spec.id).cmp(id));
        found.map_err(|_| ShardError::Unknown(id.to_owned()))
    }

    /// Adds a node.
    ///
    /// # Errors
    ///
    /// If there is one of this id, or its weight makes no sense.
    pub fn add(&mut self, node: N) -> Result<&mut Self, ShardError>
    where
        N: Node,
    {
        self.join(Arc::new(node))?;
        Ok(self)
    }

    pub(super) fn join(&mut self, node: Arc<N>) -> Result<(), ShardError>
    where
        N: Node,
    {
        let seat = self.vacated.last().copied().unwrap_or(self.entries.len() as u32);
        let (id, zone) = (node.id().into(), node.zone().map(Into::into));
        let spec = Spec { index: 0, id, weight: node.weight(), zone, seat };
        self.insert(node, spec, false)?;
        self.vacated.pop();
        Ok(())
    }

    fn insert(&mut self, node: Arc<N>, spec: Spec, is_down: bool) -> Result<(), ShardError> {
        check(&spec.id, spec.weight)?;
        match self.at(&spec.id) {
            Ok(_) => return Err(ShardError::Duplicate(spec.id.to_string())),
            Err(_) => {
                let at = self.entries.partition_point(|entry| entry.spec.id < spec.id);
                self.entries.insert(at, Entry { node, spec, is_down, load: Arc::new(AtomicU64::new(0)) });
            }
        }
        self.layout = None;
        Ok(())
    }

    /// Adds a node as it was saved.
    pub(super) fn bring_back(&mut self, saved: SavedNode, node: Arc<N>) -> Result<(), ShardError> {
        let SavedNode { id, weight, zone, seat, is_down } = saved;
        let spec = Spec { index: 0, id: id.into(), weight, zone: zone.map(Into::into), seat };
        self.insert(node, spec, is_down)
    }

    /// Whether keys live elsewhere than in the snapshot that this began with, or may.
    pub(super) fn places_anew(&self) -> bool {
        self.layout.is_none()
    }

    pub(super) fn vacate(&mut self, vacated: Vec<u32>) {
        self.vacated = vacated;
    }

    /// Whether every seat is taken once, or vacated once.
    pub(super) fn seats_are_whole(&self) -> bool {
        let mut seats: Vec<u32> = self.entries.iter().map(|entry| entry.spec.seat).collect();
        seats.extend(&self.vacated);
        seats.sort_unstable();
        seats.into_iter().eq(0..(self.entries.len() + self.vacated.len()) as u32)
    }

    /// Removes a node.
    ///
    /// # Errors
    ///
    /// If there is none of this id.
    pub fn remove(&mut self, id: &str) -> Result<Arc<N>, ShardError> {
        let entry = self.entries.remove(self.at(id)?);
        // The last seat of all goes with its node, unless the order of those vacated before has to be kept.
        if !self.vacated.is_empty() || entry.spec.seat as usize != self.entries.len() {
            self.vacated.push(entry.spec.seat);
        }
        id.clone_into(&mut self.removed);
        self.layout = None;
        Ok(entry.node)
    }

    /// Gives a node another weight; zero drains it.
    ///
    /// # Errors
    ///
    /// If there is none of this id, or the weight makes no sense.
    pub fn reweight(&mut self, id: &str, weight: f64) -> Result<&mut Self, ShardError> {
        check(id, weight)?;
        let at = self.at(id)?;
        self.entries[at].spec.weight = weight;
        self.layout = None;
        Ok(self)
    }

    /// Marks a node as down, or as up again.
    ///
    /// # Errors
    ///
    /// If there is none of this id.
    pub fn mark(&mut self, id: &str, is_down: bool) -> Result<&mut Self, ShardError> {
        let at = self.at(id)?;
        self.entries[at].is_down = is_down;
        Ok(self)
    }

    /// Places keys by another strategy, for which history begins now.
    pub fn strategy(&mut self, strategy: impl Strategy + 'static) -> &mut Self {
        self.strategy = Arc::new(strategy);
        self.layout = None;
        self.vacated.clear();
        let mut order: Vec<&mut Entry<N>> = self.entries.iter_mut().collect();
        order.sort_by_key(|entry| entry.spec.seat);
        order.into_iter().zip(0..).for_each(|(entry, seat)| entry.spec.seat = seat);
        self
    }

    /// Makes the snapshot.
    ///
    /// # Errors
    ///
    /// If no node has a weight, or the strategy cannot place keys on these nodes.
    pub fn build(&self) -> Result<Snapshot<N>, ShardError> {
        let mut nodes: Vec<Spec> = self.entries.iter().map(|entry| entry.spec.clone()).collect();
        nodes.iter_mut().zip(0..).for_each(|(spec, index)| spec.index = index);
        let roster = Roster { nodes, vacated: self.vacated.clone() };
        let total = roster.weight();
        if let Some(first) = roster.active().next() {
            if total.is_infinite() {
                return Err(ShardError::Weight { id: first.id.to_string(), weight: first.weight });
            }
            // Less than one of 2^53 hashes: no arithmetic could tell.
            if let Some(tiny) = roster.active().find(|node| node.weight / total < f64::EPSILON) {
                return Err(ShardError::Weight { id: tiny.id.to_string(), weight: tiny.weight });
            }
        } else {
            return Err(ShardError::Empty);
        }
        let layout = match &self.layout {
            Some(layout) => layout.clone(),
            None => self.strategy.layout(&roster).map(Arc::from).map_err(|error| match error {
                ShardError::NotLast(_) => ShardError::NotLast(self.removed.clone()),
                error => error,
            })?,
        };
        let down: Box<[bool]> = self.entries.iter().map(|entry| entry.is_down).collect();
        let unusable: Box<[bool]> =
            self.entries.iter().map(|entry| entry.is_down || entry.spec.weight == 0.0).collect();
        Ok(Snapshot {
            version: self.version,
            nodes: self.entries.iter().map(|entry| entry.node.clone()).collect(),
            zones: Zones::new(&roster, &unusable),
            roster,
            layout,
            strategy: self.strategy.clone(),
            is_intricate: unusable.contains(&true),
            down,
            unusable,
            loads: self.entries.iter().map(|entry| entry.load.clone()).collect(),
            moving: None,
        })
    }
}

fn check(id: &str, weight: f64) -> Result<(), ShardError> {
    if weight.is_finite() && weight >= 0.0 {
        Ok(())
    } else {
        Err(ShardError::Weight { id: id.to_owned(), weight })
    }
}

impl<N> Clone for Draft<N> {
    fn clone(&self) -> Self {
        Self {
            entries: self.entries.clone(),
            vacated: self.vacated.clone(),
            strategy: self.strategy.clone(),
            layout: self.layout.clone(),
            removed: self.removed.clone(),
            version: self.version,
        }
    }
}

impl<N> fmt::Debug for Draft<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<&str> = self.entries.iter().map(|entry| &*entry.spec.id).collect();
        f.debug_struct("Draft")
            .field("strategy", &self.strategy)
            .field("nodes", &nodes)
            .finish_non_exhaustive()
    }
}

/// Where a key is in the layout, and who owns that, whoever is down.
pub(super) fn located<N>(snapshot: &Snapshot<N>, key: &[u8]) -> (Spot, u32) {
    let spot = snapshot.layout.locate(key);
    (spot, snapshot.layout.owner(spot))
}

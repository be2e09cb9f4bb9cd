//! The set of nodes that changes while readers read: [`Sharder`], and [`Reader`] for many look-ups.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::error::ShardError;
use super::key::Key;
use super::node::Node;
use super::replicas::Replicas;
use super::shift::{Ended, Epoch, Moving};
use super::slots::Slots;
use super::snapshot::{Draft, Snapshot};
use super::state::{SavedNode, State};
use super::strategy::Strategy;
use crate::sync::{AtomicU64, Mutex, Ordering, parallelism, thread_number};

/// Says on which node each key lives, while nodes join, leave, change their weight, fail and come back.
///
/// The answer is computed, so that processes agree without talking: with the default strategy,
/// [`Slots`](crate::shard::Slots), from the set of nodes and weights alone. [The module](crate::shard) compares the strategies.
///
/// A change makes a new [`Snapshot`] beside the old one and puts it in its place; who reads meanwhile sees the one or the
/// other, whole. Clones are further handles of the same sharder.
///
/// # Cost
///
/// There are three ways to ask. A [`reader`](Self::reader), one for each thread or task, takes no lock: it looks whether the set has changed and
/// reads its snapshot, a nanosecond more than the strategy. A [`snapshot`](Self::snapshot), once for each request, makes all its
/// answers agree. [`get`](Self::get) is for the rest: it takes a short lock that the thread's
/// neighbours do not use, and counts the node. None of them allocates.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::Member;
///
/// let node = |id| Member::new(id);
/// let shards = Sharder::new([node("db1"), node("db2"), node("db3")])?;
/// let home = shards.get("user:7").unwrap();
///
/// shards.mark_down("db1")?; // its keys go to their next choice,
/// assert_ne!(*shards.get("user:7").unwrap(), node("db1"));
/// shards.mark_up("db1")?; // and come back.
/// assert_eq!(shards.get("user:7"), Some(home));
///
/// shards.add(node("db4").weight(2.0))?;
/// shards.remove("db2")?;
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
pub struct Sharder<N> {
    pub(super) shared: Arc<Shared<N>>,
}

/// What the handles of one sharder share.
pub(super) struct Shared<N> {
    current: Mutex<Arc<Snapshot<N>>>,
    /// That of `current`, stored after all lanes have it.
    version: AtomicU64,
    lanes: Box<[Lane<N>]>,
    /// Of all nodes together, for bounded loads.
    pub(super) load: AtomicU64,
}

/// Where some of the threads find the snapshot. Alone on its cache lines: processors fetch them in pairs.
#[repr(align(128))]
struct Lane<N>(Mutex<Held<N>>);

/// A lane's own count of the snapshot: threads that count one and the same take its line from each other.
pub(super) struct Own<N>(Arc<OneOf<N>>);

struct OneOf<N>(Arc<Snapshot<N>>);

impl<N> Own<N> {
    fn new(snapshot: &Arc<Snapshot<N>>) -> Self {
        Self(Arc::new(OneOf(snapshot.clone())))
    }
}

impl<N> Clone for Own<N> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<N> Deref for Own<N> {
    type Target = Arc<Snapshot<N>>;

    fn deref(&self) -> &Arc<Snapshot<N>> {
        &self.0.0
    }
}

struct Held<N> {
    snapshot: Own<N>,
    epoch: Arc<Epoch>,
}

impl<N> Shared<N> {
    fn new(first: Snapshot<N>) -> Self {
        let first = Arc::new(first);
        let lane = || {
            let snapshot = Own::new(&first);
            Lane(Mutex::new(Held { snapshot, epoch: Arc::new(Epoch::new()) }))
        };
        let lanes = parallelism().next_power_of_two().min(64);
        Self {
            lanes: (0..lanes).map(|_| lane()).collect(),
            version: AtomicU64::new(first.version),
            current: Mutex::new(first),
            load: AtomicU64::new(0),
        }
    }

    #[inline]
    fn lane(&self) -> &Mutex<Held<N>> {
        // As many as a power of two.
        &self.lanes[thread_number() & (self.lanes.len() - 1)].0
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot<N>> {
        self.current.lock().clone()
    }

    /// The snapshot, and what tells that those who hold it have let go.
    pub(super) fn hold(&self) -> (Own<N>, Arc<Epoch>) {
        let held = self.lane().lock();
        (held.snapshot.clone(), held.epoch.clone())
    }

    /// Puts `next` in place of `before`; `None` if that is not in place any more.
    pub(super) fn install(&self, before: &Snapshot<N>, mut next: Snapshot<N>) -> Option<Arc<Snapshot<N>>> {
        // Around the end: a state that was saved elsewhere may say anything.
        next.version = before.version.wrapping_add(1);
        let next = Arc::new(next);
        let mut fresh: Vec<_> = self.lanes.iter().map(|_| Own::new(&next)).collect();
        // The old ones are dropped after the locks, and with them the nodes that left.
        let old = {
            let mut current = self.current.lock();
            if current.version != before.version {
                return None;
            }
            for (lane, fresh) in self.lanes.iter().zip(&mut fresh) {
                std::mem::swap(&mut lane.0.lock().snapshot, fresh);
            }
            let old = std::mem::replace(&mut *current, next.clone());
            // Release, with the Acquire of readers: who sees this version finds it in every lane.
            self.version.store(next.version, Ordering::Release);
            old
        };
        drop((old, fresh));
        Some(next)
    }

    /// Begins a new epoch and returns what ends with those before it.
    pub(super) fn new_epoch(&self) -> Vec<Arc<Ended>> {
        let mut old: Vec<Arc<Epoch>> = self.lanes.iter().map(|_| Arc::new(Epoch::new())).collect();
        for (lane, epoch) in self.lanes.iter().zip(&mut old) {
            let mut held = lane.0.lock();
            // Linked before anybody can put another in its place: an epoch outlives all before it.
            held.epoch.followed_by(epoch);
            std::mem::swap(&mut held.epoch, epoch);
        }
        // Dropped here, out of every lock: if nobody holds one, that ends it.
        old.into_iter().map(|epoch| epoch.ended()).collect()
    }
}

impl<N> Sharder<N> {
    /// Creates a sharder over these nodes with the default strategy, [`Slots`].
    ///
    /// # Errors
    ///
    /// If no node has a weight above zero, two have the same id, or a weight makes no sense.
    pub fn new(nodes: impl IntoIterator<Item = N>) -> Result<Self, ShardError>
    where
        N: Node,
    {
        Self::with(Slots::new(), nodes)
    }

    /// Creates a sharder over these nodes with a strategy.
    ///
    /// # Errors
    ///
    /// If no node has a weight above zero, two have the same id, a weight makes no sense, or the strategy
    /// cannot do with these nodes.
    pub fn with(
        strategy: impl Strategy + 'static,
        nodes: impl IntoIterator<Item = N>,
    ) -> Result<Self, ShardError>
    where
        N: Node,
    {
        let mut draft = Draft::new(Arc::new(strategy));
        for node in nodes {
            draft.add(node)?;
        }
        Ok(Self::from(draft.build()?))
    }

    /// Creates a sharder as it was saved, with nodes that are made from what was saved of them.
    ///
    /// # Errors
    ///
    /// If the state makes no sense, or keys live elsewhere than they did there: under another strategy, say.
    pub fn restore(
        strategy: impl Strategy + 'static,
        state: State,
        mut node: impl FnMut(&SavedNode) -> N,
    ) -> Result<Self, ShardError> {
        let mut draft = Draft::new(Arc::new(strategy));
        for saved in state.nodes {
            let node = Arc::new(node(&saved));
            draft.bring_back(saved, node)?;
        }
        draft.vacate(state.vacated);
        if !draft.seats_are_whole() {
            return Err(ShardError::Disagree);
        }
        let mut snapshot = draft.build()?;
        if snapshot.fingerprint() != state.fingerprint {
            return Err(ShardError::Disagree);
        }
        snapshot.version = state.version;
        Ok(Self::from(snapshot))
    }

    /// Returns the node on which a key lives: its first choice that is up. `None` if none is.
    ///
    /// # Cost
    ///
    /// A short lock of the thread's own, two counts, and a look-up; no allocation. A [`Reader`] is quicker.
    pub fn get<K: Key + ?Sized>(&self, key: &K) -> Option<Arc<N>> {
        let snapshot = self.shared.lane().lock().snapshot.clone();
        snapshot.find(key.bytes().as_ref()).cloned()
    }

    /// Returns the set of nodes as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot<N>> {
        self.shared.snapshot()
    }

    /// Creates a reader: for one thread or task, that asks often.
    pub fn reader(&self) -> Reader<N> {
        Reader { snapshot: self.snapshot(), shared: self.shared.clone() }
    }

    /// Adds a node.
    ///
    /// # Errors
    ///
    /// If there is one of this id, its weight makes no sense, the strategy cannot do with it, or data is being moved.
    pub fn add(&self, node: N) -> Result<(), ShardError>
    where
        N: Node,
    {
        let node = Arc::new(node);
        self.change(|draft| draft.join(node.clone()))
    }

    /// Removes a node and returns it; others may hold it still.
    ///
    /// # Errors
    ///
    /// If there is none of this id, no node would be left, the strategy cannot do without it, or data is being moved.
    pub fn remove(&self, id: &str) -> Result<Arc<N>, ShardError> {
        self.change(|draft| draft.remove(id))
    }

    /// Gives a node another weight; zero drains it.
    ///
    /// # Errors
    ///
    /// If there is none of this id, the weight makes no sense, no node would have one, or data is being moved.
    pub fn reweight(&self, id: &str, weight: f64) -> Result<(), ShardError> {
        self.change(|draft| draft.reweight(id, weight).map(|_| ()))
    }

    /// Marks a node as down: its keys go to their next choice.
    ///
    /// # Errors
    ///
    /// If there is none of this id.
    ///
    /// # Cost
    ///
    /// A step a node: the strategy is not asked.
    pub fn mark_down(&self, id: &str) -> Result<(), ShardError> {
        self.mark(id, true)
    }

    /// Marks a node as up again: its keys come back.
    ///
    /// # Errors
    ///
    /// If there is none of this id.
    pub fn mark_up(&self, id: &str) -> Result<(), ShardError> {
        self.mark(id, false)
    }

    fn mark(&self, id: &str, is_down: bool) -> Result<(), ShardError> {
        loop {
            let before = self.snapshot();
            // A node that joins by a shift is in the next set only.
            let moving = before
                .moving
                .as_deref()
                .filter(|moving| before.roster.find(id).is_none() && moving.next.roster.find(id).is_some());
            let Some(moving) = moving else {
                return self.change(|draft| draft.mark(id, is_down).map(|_| ()));
            };
            let moving = Arc::new(moving.with_next(moving.next.draft().mark(id, is_down)?.build()?));
            let next = before.draft().build()?.with_moving(Some(moving));
            if self.shared.install(&before, next).is_some() {
                return Ok(());
            }
        }
    }

    /// Places keys by another strategy from now on.
    ///
    /// # Errors
    ///
    /// If it cannot do with these nodes, or data is being moved.
    pub fn strategy(&self, strategy: impl Strategy + 'static) -> Result<(), ShardError> {
        let strategy = Arc::new(strategy);
        self.change(|draft| {
            draft.strategy(strategy.clone());
            Ok(())
        })
    }

    /// Makes several changes at once: nobody sees some of them without the others.
    ///
    /// The closure runs once more if another change came between.
    ///
    /// # Errors
    ///
    /// What the closure returns; or if the strategy cannot do with the nodes that are left, or data is being moved.
    ///
    /// # Examples
    ///
    /// ```
    /// use floodwall::Sharder;
    ///
    /// let shards = Sharder::new(["a", "b"])?;
    /// shards.change(|draft| {
    ///     draft.remove("a")?;
    ///     draft.add("c")?;
    ///     Ok(())
    /// })?;
    /// assert_eq!(shards.snapshot().nodes().map(|node| node.0).collect::<Vec<_>>(), ["b", "c"]);
    /// # Ok::<(), floodwall::shard::ShardError>(())
    /// ```
    pub fn change<T>(
        &self,
        mut change: impl FnMut(&mut Draft<N>) -> Result<T, ShardError>,
    ) -> Result<T, ShardError> {
        loop {
            let before = self.snapshot();
            let mut draft = before.draft();
            let answer = change(&mut draft)?;
            let moving = match before.moving.as_deref() {
                Some(_) if draft.places_anew() => return Err(ShardError::Moving),
                Some(moving) => Some(Arc::new(marked_alike(&draft.build()?, moving)?)),
                None => None,
            };
            let next = draft.build()?.with_moving(moving);
            if self.shared.install(&before, next).is_some() {
                return Ok(answer);
            }
        }
    }
}

/// What the sharder is on the way to, with the same nodes down.
fn marked_alike<N>(present: &Snapshot<N>, moving: &Moving<N>) -> Result<Moving<N>, ShardError> {
    let mut draft = moving.next.draft();
    for (id, _) in moving.next.nodes().filter(|(id, _)| present.node(id).is_some()) {
        draft.mark(id, present.is_down(id))?;
    }
    Ok(moving.with_next(draft.build()?))
}

impl<N> From<Snapshot<N>> for Sharder<N> {
    fn from(first: Snapshot<N>) -> Self {
        Self { shared: Arc::new(Shared::new(first)) }
    }
}

impl<N> Clone for Sharder<N> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<N> fmt::Debug for Sharder<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sharder").field(&*self.snapshot()).finish()
    }
}

/// Reads a sharder for one thread or task, without a lock.
///
/// Each question first looks whether the set has changed, and then takes the new snapshot. An idle reader keeps the last one it
/// saw, and its nodes, alive.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
///
/// let shards = Sharder::new(["a", "b", "c"])?;
/// let mut reader = shards.reader();
/// std::thread::spawn(move || assert!(reader.get("user:7").is_some())).join().unwrap();
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
pub struct Reader<N> {
    snapshot: Arc<Snapshot<N>>,
    shared: Arc<Shared<N>>,
}

impl<N> Reader<N> {
    /// Returns the node on which a key lives: its first choice that is up. `None` if none is.
    #[inline]
    pub fn get<K: Key + ?Sized>(&mut self, key: &K) -> Option<&N> {
        self.snapshot().get(key)
    }

    /// Returns the nodes for the copies of a key, as [`Snapshot::replicas`] does.
    #[inline]
    pub fn replicas<K: Key + ?Sized>(&mut self, key: &K) -> Replicas<'_, N> {
        self.snapshot().replicas(key)
    }

    /// Returns the set of nodes as it is now.
    #[inline]
    pub fn snapshot(&mut self) -> &Arc<Snapshot<N>> {
        // Acquire, with the Release of `install`.
        if self.shared.version.load(Ordering::Acquire) != self.snapshot.version {
            self.refresh();
        }
        &self.snapshot
    }

    #[cold]
    fn refresh(&mut self) {
        let fresh = self.shared.hold().0;
        self.snapshot = (*fresh).clone();
    }
}

impl<N> Clone for Reader<N> {
    fn clone(&self) -> Self {
        Self { snapshot: self.snapshot.clone(), shared: self.shared.clone() }
    }
}

impl<N> fmt::Debug for Reader<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reader").field(&*self.snapshot).finish()
    }
}

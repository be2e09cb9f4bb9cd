//! No node far above its share of what runs: [`Bounded`].

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::key::Key;
use super::sharder::{Sharder, Shared};
use crate::sync::{AtomicU64, Ordering};

/// Sends each key to its home, or to its next choice while more runs there than the home's share of all, times a factor.
///
/// For hot keys and caches: with a factor of 1.25 no node has more than a quarter above its share, and keys go elsewhere only while
/// that is so. Works with every strategy; weights count. What runs is counted in this process, and kept when the set changes. When **not** to use
/// it: for data that lives on one node, which a key must not leave.
///
/// V. Mirrokni, M. Thorup and M. Zadimoghaddam, "Consistent hashing with bounded loads", 2016.
///
/// # Cost
///
/// That of [`Sharder::get`] and two atomic counts, one of which all threads share; a few steps more for each node that is full.
/// No allocation.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::Bounded;
///
/// let shards = Sharder::new(["a", "b", "c", "d"])?;
/// let bounded = Bounded::new(&shards, 1.25);
/// // One key, many times at once: a single node would run them all.
/// let running: Vec<_> = (0..8).map(|_| bounded.assign("hot").unwrap()).collect();
/// let on = |id| running.iter().filter(|assigned| ***assigned == id).count();
/// assert!(["a", "b", "c", "d"].into_iter().all(|id| on(id) <= 3));
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
pub struct Bounded<N> {
    shared: Arc<Shared<N>>,
    factor: f64,
}

impl<N> Bounded<N> {
    /// Bounds the loads on the nodes of a sharder. From 1.25 to 2 is sensible; at 1, keys move nearly always.
    ///
    /// # Panics
    ///
    /// If the factor is less than 1 or not a number.
    #[track_caller]
    pub fn new(shards: &Sharder<N>, factor: f64) -> Self {
        assert!(factor >= 1.0, "factor: must be at least 1");
        Self { shared: shards.shared.clone(), factor }
    }

    /// Assigns a call to the best node for its key that has room. Drop what it returns when the call has ended. `None` if no node is up.
    pub fn assign<K: Key + ?Sized>(&self, key: &K) -> Option<Assigned<N>> {
        let (held, _) = self.shared.hold();
        let mut replicas = held.replicas(key);
        let snapshot = replicas.snapshot;
        let all = Counted::one(&self.shared);
        let weight: f64 = snapshot
            .roster
            .active()
            .filter(|node| snapshot.is_usable(node.index))
            .map(|node| node.weight)
            .sum();
        let quota = |index: u32| {
            let share = snapshot.roster.nodes[index as usize].weight / weight;
            // The total includes this call, so that together there is always room for it.
            (self.factor * all.total as f64 * share - 1e-9).ceil().max(1.0) as u64
        };
        while let Some(index) = replicas.step() {
            let load = &snapshot.loads[index as usize];
            let quota = quota(index);
            // Relaxed: the counts guard nothing.
            let more = |load: u64| (load < quota).then_some(load + 1);
            if load.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
                let node = snapshot.nodes[index as usize].clone();
                return Some(Assigned { node, load: load.clone(), _all: all });
            }
        }
        // While others come and go, each node may be found full in its turn: then the home takes it.
        let index = held.replicas(key).step()?;
        let load = &snapshot.loads[index as usize];
        load.fetch_add(1, Ordering::Relaxed);
        Some(Assigned { node: snapshot.nodes[index as usize].clone(), load: load.clone(), _all: all })
    }

    /// Returns how many calls run on a node; `None` if there is no such node.
    pub fn running(&self, id: &str) -> Option<u64> {
        let snapshot = self.shared.snapshot();
        let index = snapshot.roster.find(id)?.index;
        Some(snapshot.loads[index as usize].load(Ordering::Relaxed))
    }
}

impl<N> fmt::Debug for Bounded<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounded").field("factor", &self.factor).finish_non_exhaustive()
    }
}

/// One call in the count of all.
struct Counted<N> {
    shared: Arc<Shared<N>>,
    total: u64,
}

impl<N> Counted<N> {
    fn one(shared: &Arc<Shared<N>>) -> Self {
        let total = shared.load.fetch_add(1, Ordering::Relaxed) + 1;
        Self { shared: shared.clone(), total }
    }
}

impl<N> Drop for Counted<N> {
    fn drop(&mut self) {
        self.shared.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call that runs on a node; derefs to the node. Drop it when the call has ended.
#[must_use = "the call ends when this is dropped"]
pub struct Assigned<N> {
    node: Arc<N>,
    load: Arc<AtomicU64>,
    _all: Counted<N>,
}

impl<N> Deref for Assigned<N> {
    type Target = N;

    fn deref(&self) -> &N {
        &self.node
    }
}

impl<N> Drop for Assigned<N> {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<N: fmt::Debug> fmt::Debug for Assigned<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Assigned").field(&self.node).finish()
    }
}

//! Keys in order, cut into ranges: [`Ranges`].

use super::error::ShardError;
use super::hash::KeyHash;
use super::score::Scorer;
use super::strategy::{DependsOn, Layout, Pieces, Roster, Spot, Strategy, Walk};

/// Ranges of keys, in the order of their bytes, each of which lives on one node.
///
/// For scans over neighbouring keys, and where a range that grows too large is cut in two. The table is yours:
/// [`split`](Self::split) and [`merge`](Self::merge) change a copy, which
/// [`Sharder::strategy`](crate::Sharder::strategy) puts in place. A range whose node is not there goes to the node that scores
/// best for it, as in [`Rendezvous`](crate::shard::Rendezvous).
///
/// # Cost
///
/// A look-up is a binary search among the ranges.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::Ranges;
///
/// let ranges = Ranges::all("a").split("m", "b");
/// let shards = Sharder::with(ranges.clone(), ["a", "b", "c"])?;
/// assert_eq!((*shards.get("alice").unwrap(), *shards.get("mallory").unwrap()), ("a", "b"));
///
/// // The range from m on has grown: from t on it shall live on c.
/// shards.strategy(ranges.split("t", "c"))?;
/// assert_eq!((*shards.get("mallory").unwrap(), *shards.get("trent").unwrap()), ("b", "c"));
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Where each starts, in order, and on whom it lives; the first starts at the empty key.
    starts: Vec<(Box<[u8]>, String)>,
}

impl Ranges {
    /// Creates one range of all keys, on this node.
    pub fn all(id: &str) -> Self {
        Self { starts: vec![(Box::default(), id.to_owned())] }
    }

    /// Cuts the range that holds `key` in two: from `key` on it lives on this node, before it as before. Where a range starts at `key`
    /// already, it is given to the node.
    #[must_use = "returns the changed value"]
    pub fn split(mut self, key: impl AsRef<[u8]>, id: &str) -> Self {
        let key = key.as_ref();
        match self.starts.binary_search_by(|(start, _)| (**start).cmp(key)) {
            Ok(at) => self.starts[at].1 = id.to_owned(),
            Err(at) => self.starts.insert(at, (key.into(), id.to_owned())),
        }
        self
    }

    /// Cuts the range that holds `keys` so that about a half of them is on either side, and gives the upper half to this node.
    ///
    /// Does nothing if they are fewer than two different ones. Keys outside of the range of the first of them do not count.
    ///
    /// ```
    /// use floodwall::shard::Ranges;
    ///
    /// let ranges = Ranges::all("a").split_half(["d", "a", "c", "b"], "b");
    /// assert_eq!(ranges, Ranges::all("a").split("c", "b"));
    /// ```
    #[must_use = "returns the changed value"]
    pub fn split_half<K: AsRef<[u8]>>(self, keys: impl IntoIterator<Item = K>, id: &str) -> Self {
        let mut keys: Vec<Box<[u8]>> = keys.into_iter().map(|key| key.as_ref().into()).collect();
        let Some(range) = keys.first().map(|key| self.find(key)) else { return self };
        keys.retain(|key| self.find(key) == range);
        keys.sort_unstable();
        let middle = &keys[keys.len() / 2];
        // Where one key is most of them, the cut is before it, or else behind it.
        let cut = if *middle == keys[0] { keys.iter().find(|key| *key > middle) } else { Some(middle) };
        match cut.cloned() {
            Some(key) => self.split(key, id),
            None => self,
        }
    }

    /// Joins the range that starts at `key` to the one before it, on whose node it then lives. Does nothing if none starts there.
    #[must_use = "returns the changed value"]
    pub fn merge(mut self, key: impl AsRef<[u8]>) -> Self {
        self.starts.retain(|(start, _)| start.is_empty() || **start != *key.as_ref());
        self
    }

    /// Returns where each range starts, and on which node it lives, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &str)> {
        self.starts.iter().map(|(start, id)| (&**start, id.as_str()))
    }

    fn find(&self, key: &[u8]) -> usize {
        self.starts.partition_point(|(start, _)| **start <= *key) - 1
    }
}

impl Strategy for Ranges {
    fn depends_on(&self) -> DependsOn {
        DependsOn::Table
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        roster.at_most(u32::MAX as usize)?;
        let scorer = Scorer::new(roster);
        let owners = self.starts.iter().map(|(start, id)| {
            let named = roster.find(id).filter(|node| node.weight > 0.0).map(|node| node.index);
            named.unwrap_or_else(|| scorer.index(scorer.best(KeyHash::Xxh3.hash(start))))
        });
        Ok(Box::new(RangeLayout {
            owners: owners.collect(),
            starts: self.starts.iter().map(|(start, _)| start.clone()).collect(),
            scorer,
        }))
    }
}

#[derive(Debug)]
struct RangeLayout {
    starts: Box<[Box<[u8]>]>,
    owners: Box<[u32]>,
    scorer: Scorer,
}

impl Layout for RangeLayout {
    fn locate(&self, key: &[u8]) -> Spot {
        Spot::at(self.starts.partition_point(|start| **start <= *key) as u64 - 1)
    }

    fn owner(&self, spot: Spot) -> u32 {
        self.owners[spot.number as usize]
    }

    /// Its node, then all by their score for the range.
    fn next(&self, walk: &mut Walk) -> Option<u32> {
        walk.step += 1;
        if walk.step == 1 {
            return Some(self.owner(walk.spot));
        }
        let key = KeyHash::Xxh3.hash(&self.starts[walk.spot.number as usize]);
        let last = walk.cursor.checked_sub(1);
        let last = last.map(|place| (self.scorer.rank(key, place as usize), place as usize));
        let place = self.scorer.best_after(key, last, |_| true)?;
        walk.cursor = place as u64 + 1;
        Some(self.scorer.index(place))
    }

    fn pieces(&self) -> Option<Pieces> {
        Some(Pieces::Keys(self.starts.iter().cloned().zip(self.owners.iter().copied()).collect()))
    }
}

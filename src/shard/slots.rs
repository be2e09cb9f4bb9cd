//! A table of slots, filled by rendezvous under a cap: [`Slots`], the default; and that of Redis Cluster: [`RedisSlots`].

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::error::ShardError;
use super::hash::{KeyHash, hashes};
use super::score::{Scorer, lift, pair};
use super::strategy::{DependsOn, Layout, Pieces, Roster, Spot, Strategy, Walk};
use crate::error::absurd;

/// Keys share 65,536 slots, and each slot belongs to the node that scores best for it and has not its fill yet.
///
/// The default of a [`Sharder`](crate::Sharder). It is as quick as a table and depends on the set of nodes alone. Its one
/// knob is the [`spare`](Self::spare): how far a node may be filled above its share before further slots go to
/// their next choice. Little spare is even balance; more of it lets fewer slots move when a node comes or goes.
///
/// | 100 equal nodes, 65,536 slots | fullest node, of the mean | moved beyond what must, one leaves |
/// |---|---|---|
/// | spare 0 | 1.001 | about 32 % of a node's share |
/// | spare 0.02 | 1.021 | about 12 % |
/// | spare 0.05, the default | 1.05 | about 3 % |
/// | Maglev, for comparison | 1.001 | about 55 % |
///
/// Keep 256 slots and more for each node, or the slots are too few to be even.
///
/// # Cost
///
/// A look-up hashes the key and reads one entry. A table takes 6 bytes a slot, and as many steps to make as there are slots
/// times nodes: 54 ms for 1,000 nodes (Xeon at 2.6 GHz, 2026-11-25).
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::{Member, Slots};
///
/// let nodes = ["a", "b", "c"].map(Member::new);
/// let shards = Sharder::with(Slots::new().spare(0.0), nodes)?;
/// // Without spare, each has its share to within a slot.
/// let shares = shards.snapshot().shares();
/// assert!(shares.values().all(|share| (share - 1.0 / 3.0).abs() <= 1.0 / 65_536.0));
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Slots {
    slots: u32,
    spare: f64,
    hash: KeyHash,
}

impl Slots {
    /// Creates the default: 65,536 slots, spare 0.05, XXH3.
    pub const fn new() -> Self {
        Self { slots: 1 << 16, spare: 0.05, hash: KeyHash::Xxh3 }
    }

    /// Shares out so many slots. Default: 65,536.
    ///
    /// # Panics
    ///
    /// If it is not a power of two from 2 to 2^20.
    #[track_caller]
    #[must_use = "returns the changed value"]
    pub const fn slots(mut self, slots: u32) -> Self {
        if !slots.is_power_of_two() || slots < 2 || slots > 1 << 20 {
            absurd("slots", slots as u64, "must be a power of two from 2 to 2^20");
        }
        self.slots = slots;
        self
    }

    /// Lets a node be filled so far above its share, as a part of it. Default: 0.05. Zero: every node gets exactly its
    /// share, to within a slot. Infinity: there is no cap, only chance.
    ///
    /// # Panics
    ///
    /// If it is negative or not a number.
    #[track_caller]
    #[must_use = "returns the changed value"]
    pub const fn spare(mut self, spare: f64) -> Self {
        assert!(spare >= 0.0, "spare: must not be negative");
        self.spare = spare;
        self
    }

    hashes!("XXH3");
}

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for Slots {
    fn depends_on(&self) -> DependsOn {
        DependsOn::Set
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        let table = Table::fill(roster, self.slots, self.spare)?;
        Ok(Box::new(SlotLayout { table, hash: self.hash, shift: 64 - self.slots.ilog2() }))
    }
}

#[derive(Debug)]
struct SlotLayout {
    table: Table,
    hash: KeyHash,
    shift: u32,
}

impl Layout for SlotLayout {
    #[inline]
    fn locate(&self, key: &[u8]) -> Spot {
        Spot::at(self.hash.spread(key) >> self.shift)
    }

    #[inline]
    fn owner(&self, spot: Spot) -> u32 {
        self.table.owner(spot.number)
    }

    fn next(&self, walk: &mut Walk) -> Option<u32> {
        self.table.next(walk)
    }

    fn pieces(&self) -> Option<Pieces> {
        Some(self.table.pieces())
    }
}

/// No alternate is known.
const NONE: u16 = u16::MAX;

/// Nodes are numbered in 16 bits, of which one number means none.
const MOST: usize = NONE as usize;

/// Who owns each slot, and whom it goes to next.
#[derive(Debug)]
struct Table {
    owners: Box<[u16]>,
    /// For each slot the two best nodes beside its owner.
    alternates: Box<[[u16; 2]]>,
    scorer: Scorer,
}

impl Table {
    fn fill(roster: &Roster, slots: u32, spare: f64) -> Result<Self, ShardError> {
        let active = roster.at_most(MOST)?;
        let scorer = Scorer::new(roster);
        let mut room = caps(roster, slots, spare);
        let few = active <= 32;
        let (thresholds, limit) = scorer.thresholds(if few { active as f64 } else { 16.0 });
        let (mut owners, mut alternates) = (Vec::new(), Vec::new());
        owners.reserve_exact(slots as usize);
        alternates.reserve_exact(slots as usize);
        let mut found: Vec<(u64, usize)> = Vec::new();
        for slot in 0..slots {
            let key = lift(slot.into());
            found.clear();
            if few {
                found.extend((0..active).map(|place| (scorer.rank(key, place), place)));
            } else {
                let nodes = scorer.hashes().iter().zip(&thresholds).enumerate();
                for (place, (node, least)) in nodes {
                    let hash = pair(key, *node);
                    if hash >= *least {
                        let rank = scorer.rank_by(hash, place);
                        if rank < limit {
                            found.push((rank, place));
                        }
                    }
                }
            }
            found.sort_unstable();
            // Whoever is not among those found comes after all of them.
            let owner = found.iter().map(|(_, place)| *place).find(|place| room[*place] > 0);
            let Some(owner) = owner.or_else(|| scorer.best_after(key, None, |place| room[place] > 0)) else {
                unreachable!("there is room for every slot");
            };
            room[owner] -= 1;
            let mut others = found.iter().map(|(_, place)| *place).filter(|place| *place != owner);
            let alternate = [(); 2].map(|()| others.next().map_or(NONE, |place| place as u16));
            owners.push(owner as u16);
            alternates.push(alternate);
        }
        Ok(Self { owners: owners.into(), alternates: alternates.into(), scorer })
    }

    #[inline]
    fn owner(&self, slot: u64) -> u32 {
        self.scorer.index(self.owners[slot as usize].into())
    }

    /// The owner, then the best two beside it, then all by their rank.
    fn next(&self, walk: &mut Walk) -> Option<u32> {
        let slot = walk.spot.number;
        let step = walk.step;
        walk.step += 1;
        if step == 0 {
            return Some(self.owner(slot));
        }
        if let Some(alternate) = self.alternates[slot as usize].get(step as usize - 1) {
            if *alternate != NONE {
                return Some(self.scorer.index((*alternate).into()));
            }
        }
        // From the best on once more: those that were named before are passed over by whoever asks.
        let key = lift(slot);
        let last =
            walk.cursor.checked_sub(1).map(|place| (self.scorer.rank(key, place as usize), place as usize));
        let place = self.scorer.best_after(key, last, |_| true)?;
        walk.cursor = place as u64 + 1;
        Some(self.scorer.index(place))
    }

    fn pieces(&self) -> Pieces {
        let slots = self.owners.len() as u64;
        Pieces::Slots(slots, (0..slots).map(|slot| (slot, self.owner(slot))).collect())
    }
}

/// How many slots each active node may have. There is always room for all slots.
fn caps(roster: &Roster, slots: u32, spare: f64) -> Vec<u32> {
    let all = roster.weight();
    let shares: Vec<f64> = roster.active().map(|node| node.weight / all * f64::from(slots)).collect();
    let mut caps: Vec<u32> = if spare > 0.0 {
        // What is above the share by a rounding error only is not rounded up by a whole slot.
        shares.iter().map(|share| (share * (1.0 + spare) - 1e-9).ceil().max(1.0) as u32).collect()
    } else {
        shares.iter().map(|share| *share as u32).collect()
    };
    // Without spare, what the rounding leaves goes to those who lost most by it: each has its share to within a slot.
    let room = caps.iter().fold(0, |room: u32, cap| room.saturating_add(*cap));
    let mut order: Vec<usize> = (0..caps.len()).collect();
    order.sort_by(|a, b| shares[*b].fract().total_cmp(&shares[*a].fract()));
    order.iter().cycle().take(slots.saturating_sub(room) as usize).for_each(|place| caps[*place] += 1);
    caps
}

/// The 16,384 slots of Redis Cluster: CRC16 of the key, or of the `{tag}` in it.
///
/// Slots that are [assigned](Self::assign) belong to whom they are assigned to, as `CLUSTER SLOTS` tells; the others are
/// shared out as in [`Slots`]. Keys with the same tag live together.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::RedisSlots;
///
/// assert_eq!(RedisSlots::slot_of(b"foo"), 12_182);
/// assert_eq!(RedisSlots::slot_of(b"{user:7}:cart"), RedisSlots::slot_of(b"{user:7}:orders"));
///
/// let table = RedisSlots::new().assign(0..=8_191, "a").assign(8_192..=16_383, "b");
/// let shards = Sharder::with(table, ["a", "b"])?;
/// assert_eq!(*shards.get("foo").unwrap(), "b");
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RedisSlots {
    assigned: BTreeMap<u16, String>,
}

const REDIS: u32 = 1 << 14;

impl RedisSlots {
    /// Creates a table in which no slot is assigned.
    pub const fn new() -> Self {
        Self { assigned: BTreeMap::new() }
    }

    /// Assigns slots to a node. Assigned to one that is not there, they are shared out like the others.
    ///
    /// # Panics
    ///
    /// If there is no such slot: they end at 16,383.
    #[track_caller]
    #[must_use = "returns the changed value"]
    pub fn assign(mut self, slots: RangeInclusive<u16>, id: &str) -> Self {
        if u32::from(*slots.end()) >= REDIS {
            absurd("slots", (*slots.end()).into(), "must be at most 16383");
        }
        self.assigned.extend(slots.map(|slot| (slot, id.to_owned())));
        self
    }

    /// Returns the slot of a key.
    pub fn slot_of(key: &[u8]) -> u16 {
        KeyHash::Crc16.hash(hash_tag(key)) as u16 & (REDIS as u16 - 1)
    }
}

/// Returns what is between the first `{` and the first `}` after it, or the whole key if that is nothing.
///
/// Redis Cluster's rule. For other strategies, keys are kept together by [`Entities`](crate::shard::Entities).
///
/// ```
/// use floodwall::shard::hash_tag;
///
/// assert_eq!(hash_tag(b"cart:{7}:items"), b"7");
/// assert_eq!(hash_tag(b"cart:{}:items"), b"cart:{}:items");
/// assert_eq!(hash_tag(b"{{7}}"), b"{7");
/// ```
pub fn hash_tag(key: &[u8]) -> &[u8] {
    let tag = || {
        let start = key.iter().position(|byte| *byte == b'{')? + 1;
        let length = key[start..].iter().position(|byte| *byte == b'}')?;
        Some(&key[start..start + length])
    };
    tag().filter(|tag| !tag.is_empty()).unwrap_or(key)
}

impl Strategy for RedisSlots {
    fn depends_on(&self) -> DependsOn {
        if self.assigned.is_empty() { DependsOn::Set } else { DependsOn::Table }
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        let mut table = Table::fill(roster, REDIS, 0.05)?;
        for (slot, id) in &self.assigned {
            let node = roster.find(id).and_then(|node| table.scorer.place(node.index));
            if let Some(place) = node {
                table.owners[usize::from(*slot)] = place as u16;
            }
        }
        Ok(Box::new(RedisLayout(table)))
    }
}

#[derive(Debug)]
struct RedisLayout(Table);

impl Layout for RedisLayout {
    fn locate(&self, key: &[u8]) -> Spot {
        Spot::at(RedisSlots::slot_of(key).into())
    }

    fn owner(&self, spot: Spot) -> u32 {
        self.0.owner(spot.number)
    }

    fn next(&self, walk: &mut Walk) -> Option<u32> {
        self.0.next(walk)
    }

    fn pieces(&self) -> Option<Pieces> {
        Some(self.0.pieces())
    }
}

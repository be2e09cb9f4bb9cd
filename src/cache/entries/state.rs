//! What is known under the lock of a shard: [`State`], and the [`Chain`]s of slots in it.

use super::locked::Outgrown;
use super::slots::Slots;
use crate::cache::evict::Core;
use crate::cache::wheel::Wheel;

/// What only the holder of the lock knows.
pub(super) struct State {
    pub(super) order: Core,
    /// The version of the lessons that it was told.
    pub(super) lesson: u32,
    /// Of a cache that knows time; made when the first entry comes.
    pub(super) wheel: Option<Wheel>,
    /// Slots that were ever used.
    pub(super) slots: u32,
    pub(super) free: Chain,
    /// Out of the table, without a stamp yet.
    pub(super) fresh: Chain,
    /// Out of the table since before the stamp; perhaps named by a reader.
    pub(super) young: Chain,
    pub(super) stamp: u64,
    /// Named by nobody: to be emptied.
    pub(super) ripe: Chain,
    /// What was in the table when it was cleared, and is still to be told and dropped.
    pub(super) cleared: Vec<Cleared>,
    /// Tables that were outgrown, and when.
    pub(super) outgrown: Vec<(u64, Outgrown)>,
    /// No scan was made for the last of them.
    pub(super) is_outgrown_new: bool,
    /// How many entries are expected at most.
    pub(super) expected: u32,
    /// Room that is this shard's.
    pub(super) credit: u64,
    /// What all weighs that waits to be dropped.
    pub(super) pending: u64,
    /// What has come in and nothing has left for.
    pub(super) owed: u64,
}

/// Slots that were in one list of the order, by the links that they have from there.
pub(super) struct Cleared {
    pub(super) first: u32,
    /// When that was.
    pub(super) at: u64,
}

/// Slots one behind the other, by the links of their nodes; 0 is none.
#[derive(Clone, Copy, Default)]
pub(super) struct Chain {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) len: u32,
}

impl Chain {
    pub(super) fn push<K, V>(&mut self, slots: &Slots<K, V>, slot: u32) {
        slots.get(slot).node.set_next(0);
        match self.last {
            0 => self.first = slot,
            last => slots.get(last).node.set_next(slot),
        }
        self.last = slot;
        self.len += 1;
    }

    /// In front: what was used last is near.
    pub(super) fn push_first<K, V>(&mut self, slots: &Slots<K, V>, slot: u32) {
        slots.get(slot).node.set_next(self.first);
        if self.last == 0 {
            self.last = slot;
        }
        self.first = slot;
        self.len += 1;
    }

    /// Puts all of another behind.
    pub(super) fn append<K, V>(&mut self, slots: &Slots<K, V>, other: &mut Self) {
        let other = std::mem::take(other);
        match (self.last, other.first) {
            (_, 0) => {}
            (0, _) => *self = other,
            (last, first) => {
                slots.get(last).node.set_next(first);
                self.last = other.last;
                self.len += other.len;
            }
        }
    }

    pub(super) fn pop<K, V>(&mut self, slots: &Slots<K, V>) -> Option<u32> {
        let slot = self.first;
        if slot == 0 {
            return None;
        }
        self.first = slots.get(slot).node.next();
        if self.first == 0 {
            self.last = 0;
        }
        self.len -= 1;
        Some(slot)
    }
}

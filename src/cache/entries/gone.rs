//! What has left, for those who want to see it once more: [`Gone`].
#![expect(unsafe_code, reason = "what has left is looked at without a lock")]

use super::room::Reaped;
use super::{Cause, Entries};
use crate::cache::evict::Nodes;

/// Entries that have left: still readable by who took them out, given back when this is dropped.
///
/// They are chained through their nodes, which nothing else uses meanwhile.
#[must_use = "listeners hear of what has left"]
pub(crate) struct Gone<'a, K, V> {
    entries: &'a Entries<K, V>,
    first: Link,
    last: Link,
    /// How many left for each cause that nobody asked to see.
    unseen: [u32; 4],
    /// The key of a value that was too heavy.
    refused: Option<K>,
    /// What was free already.
    pub(super) reaped: Reaped<'a, K, V>,
    /// A shard that has much to be told.
    pub(super) due: Option<u16>,
    /// Room was taken that is to be paid for.
    owes: bool,
}

/// A slot, and the shard it is in. No entry has the number 0.
#[derive(Clone, Copy)]
struct Link {
    shard: u16,
    slot: u32,
}

const NONE: Link = Link { shard: 0, slot: 0 };

impl Cause {
    const ALL: [Self; 4] = [Self::Expired, Self::Explicit, Self::Replaced, Self::Size];

    const fn number(self) -> u32 {
        match self {
            Self::Expired => 0,
            Self::Explicit => 1,
            Self::Replaced => 2,
            Self::Size => 3,
        }
    }
}

impl<'a, K, V> Gone<'a, K, V> {
    #[inline]
    pub(super) const fn new(entries: &'a Entries<K, V>) -> Self {
        Self {
            entries,
            first: NONE,
            last: NONE,
            unseen: [0; 4],
            refused: None,
            reaped: Reaped::none(),
            due: None,
            owes: false,
        }
    }

    /// Takes a key along, to be dropped with the rest.
    pub(super) fn refuse(&mut self, key: K) {
        self.refused = Some(key);
    }

    /// Remembers to pay for room that was taken.
    pub(super) fn owe(&mut self) {
        self.owes = true;
    }

    pub(super) fn count(&mut self, cause: Cause) {
        self.unseen[cause.number() as usize] += 1;
    }

    /// Says how many left beside those that can be seen, and why.
    #[inline]
    pub(crate) fn unseen(&self, mut say: impl FnMut(Cause, u64)) {
        for cause in Cause::ALL {
            let count = self.unseen[cause.number() as usize];
            if count > 0 {
                say(cause, count.into());
            }
        }
    }

    /// Adds an entry that was just taken out.
    ///
    /// # Safety
    ///
    /// It is filled, and out of the table and of every other list: from now on nobody else may empty it.
    pub(super) unsafe fn push(&mut self, shard: usize, slot: u32, cause: Cause) {
        let slots = &self.entries.shards[shard].slots;
        // While it is shown it takes no room: a listener that uses the cache would make others leave for what has left.
        self.entries.budget.give(slots.weight(slot));
        let node = &slots.get(slot).node;
        node.set_prev(cause.number());
        node.set_next(0);
        let link = Link { shard: shard as u16, slot };
        match std::mem::replace(&mut self.last, link) {
            Link { slot: 0, .. } => self.first = link,
            last => {
                let node = &self.entries.shards[usize::from(last.shard)].slots.get(last.slot).node;
                node.set_next(slot);
                node.set_stamp(link.shard);
            }
        }
    }

    fn after(&self, link: Link) -> Link {
        let node = &self.entries.shards[usize::from(link.shard)].slots.get(link.slot).node;
        Link { shard: node.stamp(), slot: node.next() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V, Cause)> {
        let mut next = self.first;
        std::iter::from_fn(move || {
            let link = next;
            if link.slot == 0 {
                return None;
            }
            next = self.after(link);
            let slot = self.entries.shards[usize::from(link.shard)].slots.get(link.slot);
            // SAFETY: who pushed it has left it to us, and we empty nothing before we are dropped.
            let (key, value) = unsafe { slot.content() };
            Some((key, value, Cause::ALL[slot.node.prev() as usize]))
        })
    }
}

impl<K, V> Drop for Gone<'_, K, V> {
    #[inline]
    fn drop(&mut self) {
        if self.first.slot != 0 || self.due.is_some() || self.owes {
            self.give_back();
        }
    }
}

impl<K, V> Gone<'_, K, V> {
    /// Gives back what has left, drops some of what is free and pays what is owed.
    #[inline(never)]
    fn give_back(&mut self) {
        let entries = self.entries;
        let mut next = std::mem::replace(&mut self.first, NONE);
        // All are given back before the first is dropped: that runs code of the user's, which may panic.
        while next.slot != 0 {
            let link = next;
            next = self.after(link);
            let shard = usize::from(link.shard);
            let mut locked = entries.shards[shard].lock();
            entries.budget.overdraw(entries.shards[shard].slots.weight(link.slot));
            locked.retire(link.slot);
            self.owes = true;
            if entries.is_scan_due(&mut locked) {
                self.due = Some(link.shard);
            }
        }
        drop(std::mem::replace(&mut self.reaped, Reaped::none()));
        if let Some(shard) = self.due {
            entries.scan_for(shard.into());
        }
        if self.owes {
            entries.settle(self.due.unwrap_or(0).into());
        }
    }
}

//! What eviction keeps of an entry: 16 bytes, beside the entry's slot.

use crate::sync::{AtomicU8, AtomicU16, AtomicU32, Ordering};

/// The id of no entry.
pub(crate) const NIL: u32 = u32::MAX;

/// An entry as eviction sees it.
///
/// Links and the place belong to the core that owns the entry, and change under its lock alone. Uses are counted by
/// readers, who hold no lock: they have a byte of their own, so that nothing but a use can be lost when two meet.
/// All of it is relaxed. Nobody reads an entry's contents because of what stands here.
#[derive(Debug)]
pub(crate) struct Node {
    hash: AtomicU32,
    next: AtomicU32,
    prev: AtomicU32,
    /// For the core.
    stamp: AtomicU16,
    uses: AtomicU8,
    /// Which list it is in; 0 in none.
    place: AtomicU8,
}

/// The entries of a cache by id. What is asked for is never more than was admitted.
pub(crate) trait Nodes {
    /// Returns the node of an entry.
    fn node(&self, id: u32) -> &Node;

    /// Returns what the entry weighs: 1 in a cache without weights. It changes only with [`Core::reweigh`](super::Core::reweigh).
    fn weight(&self, id: u32) -> u64;
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl Node {
    /// More uses than this are not counted.
    pub(crate) const USES: u8 = 3;

    pub(crate) fn new() -> Self {
        Self {
            hash: AtomicU32::new(0),
            next: AtomicU32::new(NIL),
            prev: AtomicU32::new(NIL),
            stamp: AtomicU16::new(0),
            uses: AtomicU8::new(0),
            place: AtomicU8::new(0),
        }
    }

    /// Makes the node that of a new entry. `hash` must be well mixed in all of its bits.
    pub(crate) fn renew(&self, hash: u32) {
        self.hash.store(hash, Ordering::Relaxed);
        self.uses.store(0, Ordering::Relaxed);
    }

    /// Counts a use. Any thread may call it at any time, also when the entry has left: then it counts for whoever
    /// comes next, which is harmless. An entry in much use is not written to, so that its line stays shared.
    #[inline]
    pub(crate) fn touch(&self) {
        let uses = self.uses.load(Ordering::Relaxed);
        if uses < Self::USES {
            self.uses.store(uses + 1, Ordering::Relaxed);
        }
    }

    pub(crate) fn hash(&self) -> u32 {
        self.hash.load(Ordering::Relaxed)
    }

    pub(crate) fn uses(&self) -> u8 {
        self.uses.load(Ordering::Relaxed)
    }

    pub(crate) fn set_uses(&self, uses: u8) {
        self.uses.store(uses, Ordering::Relaxed);
    }

    pub(crate) fn next(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }

    pub(crate) fn set_next(&self, id: u32) {
        self.next.store(id, Ordering::Relaxed);
    }

    pub(crate) fn prev(&self) -> u32 {
        self.prev.load(Ordering::Relaxed)
    }

    pub(crate) fn set_prev(&self, id: u32) {
        self.prev.store(id, Ordering::Relaxed);
    }

    pub(crate) fn stamp(&self) -> u16 {
        self.stamp.load(Ordering::Relaxed)
    }

    pub(crate) fn set_stamp(&self, stamp: u16) {
        self.stamp.store(stamp, Ordering::Relaxed);
    }

    pub(crate) fn place(&self) -> u8 {
        self.place.load(Ordering::Relaxed)
    }

    pub(crate) fn set_place(&self, place: u8) {
        self.place.store(place, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_node_takes_sixteen_bytes() {
        assert_eq!(size_of::<Node>(), 16);
    }

    #[test]
    fn uses_saturate() {
        let node = Node::new();
        node.renew(7);
        for _ in 0..9 {
            node.touch();
        }
        assert_eq!((node.hash(), node.uses()), (7, Node::USES));
        node.renew(8);
        assert_eq!((node.hash(), node.uses()), (8, 0));
    }
}

//! A list through the nodes of entries, newest first.

use super::node::{NIL, Nodes};

/// One of a core's lists. Each has a number, which its entries bear, so that nobody is linked twice.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    place: u8,
    newest: u32,
    oldest: u32,
    len: usize,
    weight: u64,
}

impl List {
    pub(super) const fn new(place: u8) -> Self {
        Self { place, newest: NIL, oldest: NIL, len: 0, weight: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// What the entries weigh together. It wraps rather than to overflow: it is never more than the cache's capacity and
    /// an entry, and was right before the sum wrapped.
    pub(super) const fn weight(&self) -> u64 {
        self.weight
    }

    pub(super) const fn oldest(&self) -> Option<u32> {
        if self.oldest == NIL { None } else { Some(self.oldest) }
    }

    /// Whether the entry stands in this list.
    pub(super) fn holds(&self, nodes: &impl Nodes, id: u32) -> bool {
        nodes.node(id).place() == self.place
    }

    pub(super) fn push(&mut self, nodes: &impl Nodes, id: u32) {
        let node = nodes.node(id);
        debug_assert_eq!(node.place(), 0, "an entry stands in one list");
        node.set_place(self.place);
        node.set_prev(NIL);
        node.set_next(self.newest);
        if self.newest == NIL {
            self.oldest = id;
        } else {
            nodes.node(self.newest).set_prev(id);
        }
        self.newest = id;
        self.len += 1;
        self.weight = self.weight.wrapping_add(nodes.weight(id));
    }

    pub(super) fn unlink(&mut self, nodes: &impl Nodes, id: u32) {
        let node = nodes.node(id);
        debug_assert_eq!(node.place(), self.place, "it stands in this list");
        let (next, prev) = (node.next(), node.prev());
        if prev == NIL {
            self.newest = next
        } else {
            nodes.node(prev).set_next(next)
        }
        if next == NIL {
            self.oldest = prev
        } else {
            nodes.node(next).set_prev(prev)
        }
        node.set_place(0);
        self.len -= 1;
        self.weight = self.weight.wrapping_sub(nodes.weight(id));
    }

    /// Forgets all entries, and returns the newest, or [`NIL`]. The others follow it by their `next`, up to [`NIL`], and bear
    /// the list's number still.
    pub(super) fn clear(&mut self) -> u32 {
        std::mem::replace(self, Self::new(self.place)).newest
    }

    /// Puts another entry in the place of one.
    pub(super) fn replace(&mut self, nodes: &impl Nodes, old: u32, new: u32) {
        let (from, to) = (nodes.node(old), nodes.node(new));
        debug_assert!(
            from.place() == self.place && to.place() == 0,
            "one stands in this list, the other in none"
        );
        let (next, prev) = (from.next(), from.prev());
        to.set_next(next);
        to.set_prev(prev);
        to.set_place(self.place);
        from.set_place(0);
        if prev == NIL {
            self.newest = new
        } else {
            nodes.node(prev).set_next(new)
        }
        if next == NIL {
            self.oldest = new
        } else {
            nodes.node(next).set_prev(new)
        }
        self.reweigh(nodes.weight(old), nodes.weight(new));
    }

    /// Makes the entry the newest, as if it had just come.
    pub(super) fn renew(&mut self, nodes: &impl Nodes, id: u32) {
        if self.newest != id {
            self.unlink(nodes, id);
            self.push(nodes, id);
        }
    }

    /// Corrects the sum after an entry in the list has changed its weight.
    pub(super) fn reweigh(&mut self, old: u64, new: u64) {
        self.weight = self.weight.wrapping_sub(old).wrapping_add(new);
    }

    /// The ids from the oldest on.
    pub(super) fn iter<'a>(&self, nodes: &'a impl Nodes) -> impl Iterator<Item = u32> + 'a {
        std::iter::successors(self.oldest(), move |&id| {
            let prev = nodes.node(id).prev();
            (prev != NIL).then_some(prev)
        })
    }
}

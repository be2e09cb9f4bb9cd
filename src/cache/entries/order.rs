//! In which order entries leave.

use crate::cache::evict::{Node, Nodes};

pub(super) const NIL: u32 = u32::MAX;

/// First in, first out, with a second chance.
pub(super) struct Order {
    oldest: u32,
    newest: u32,
}

impl Order {
    pub(super) fn new() -> Self {
        Self { oldest: NIL, newest: NIL }
    }

    pub(super) fn admit(&mut self, nodes: &impl Nodes, id: u32) {
        let node = nodes.node(id);
        node.set_prev(self.newest);
        node.set_next(NIL);
        if self.newest == NIL {
            self.oldest = id;
        } else {
            nodes.node(self.newest).set_next(id);
        }
        self.newest = id;
    }

    pub(super) fn replace(&mut self, nodes: &impl Nodes, old: u32, new: u32) {
        let (from, to): (&Node, &Node) = (nodes.node(old), nodes.node(new));
        let (prev, next) = (from.prev(), from.next());
        to.set_prev(prev);
        to.set_next(next);
        to.set_uses(from.uses());
        if prev == NIL {
            self.oldest = new;
        } else {
            nodes.node(prev).set_next(new);
        }
        if next == NIL {
            self.newest = new;
        } else {
            nodes.node(next).set_prev(new);
        }
    }

    pub(super) fn remove(&mut self, nodes: &impl Nodes, id: u32) {
        let node = nodes.node(id);
        let (prev, next) = (node.prev(), node.next());
        if prev == NIL {
            self.oldest = next;
        } else {
            nodes.node(prev).set_next(next);
        }
        if next == NIL {
            self.newest = prev;
        } else {
            nodes.node(next).set_prev(prev);
        }
    }

    pub(super) fn victim(&mut self, nodes: &impl Nodes) -> Option<u32> {
        for _ in 0..16 {
            let id = self.oldest;
            if id == NIL {
                return None;
            }
            let node = nodes.node(id);
            self.remove(nodes, id);
            if node.uses() == 0 {
                return Some(id);
            }
            node.set_uses(node.uses() - 1);
            self.admit(nodes, id);
        }
        let id = self.oldest;
        self.remove(nodes, id);
        Some(id)
    }
}

//! The least recently used entry leaves.

use super::list::List;
use super::node::Nodes;

/// In exact order of use, which costs a lock at each hit.
#[derive(Debug)]
pub(super) struct Lru(List);

impl Lru {
    pub(super) const fn new() -> Self {
        Self(List::new(1))
    }

    pub(super) const fn weight(&self) -> u64 {
        self.0.weight()
    }

    pub(super) fn admit(&mut self, nodes: &impl Nodes, id: u32) {
        self.0.push(nodes, id);
    }

    pub(super) fn reuse(&mut self, nodes: &impl Nodes, id: u32) {
        self.0.renew(nodes, id);
    }

    pub(super) const fn list(&mut self) -> &mut List {
        &mut self.0
    }

    pub(super) fn clear(&mut self) -> u32 {
        self.0.clear()
    }

    pub(super) fn victim(&mut self, nodes: &impl Nodes) -> Option<u32> {
        let oldest = self.0.oldest()?;
        self.0.unlink(nodes, oldest);
        Some(oldest)
    }
}

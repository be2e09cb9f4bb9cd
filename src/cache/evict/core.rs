//! One shard's policy, chosen by value.

use super::Eviction;
use super::choice::Choice;
use super::clock::Clock;
use super::list::List;
use super::lru::Lru;
use super::node::{NIL, Nodes};

/// Orders the entries of one shard. It is told ids, and reads hashes and weights from their nodes; it keeps no entries.
///
/// An id is admitted once, and is known until `remove` or `victim` has returned it. The capacity is somebody else's:
/// who is over it asks for a victim, again and again if weights differ.
///
/// An entry that weighs nothing stays until it is removed: that it leaves would make no room.
#[derive(Debug)]
pub(crate) struct Core {
    kind: Kind,
    pinned: List,
}

#[derive(Debug)]
enum Kind {
    Lru(Lru),
    Clock(Box<Clock>),
}

impl Kind {
    /// The list in which an entry stands.
    fn list(&mut self, nodes: &impl Nodes, id: u32) -> &mut List {
        match self {
            Self::Lru(lru) => lru.list(),
            Self::Clock(clock) => clock.list(nodes, id),
        }
    }
}

impl Core {
    /// Different seeds make cores that cannot be led to the same mistake.
    pub(crate) fn new(eviction: Eviction, seed: u64) -> Self {
        let kind = match eviction {
            Eviction::Lru => Kind::Lru(Lru::new()),
            Eviction::Adaptive => Kind::Clock(Box::new(Clock::new(seed))),
        };
        Self { kind, pinned: List::new(3) }
    }

    /// Takes in a new entry; its hash and its weight are set.
    pub(crate) fn admit(&mut self, nodes: &impl Nodes, id: u32) {
        if nodes.weight(id) == 0 {
            return self.pinned.push(nodes, id);
        }
        match &mut self.kind {
            Kind::Lru(lru) => lru.admit(nodes, id),
            Kind::Clock(clock) => clock.admit(nodes, id),
        }
    }

    /// Counts a use of an entry under the shard's lock: its value was replaced, or it was hit in a cache whose order is exact.
    pub(crate) fn reuse(&mut self, nodes: &impl Nodes, id: u32) {
        match &mut self.kind {
            Kind::Lru(lru) if !self.pinned.holds(nodes, id) => lru.reuse(nodes, id),
            Kind::Lru(_) => {}
            Kind::Clock(_) => nodes.node(id).touch(),
        }
    }

    /// Puts an entry in the place of another with the same key, which is known no more; it counts as a use. Hash and weight of the
    /// new one are set, and those of the old one still what they were.
    pub(crate) fn replace(&mut self, nodes: &impl Nodes, old: u32, new: u32) {
        let (from, to) = (nodes.node(old), nodes.node(new));
        to.set_uses(from.uses());
        to.set_stamp(from.stamp());
        if (nodes.weight(old) == 0) != (nodes.weight(new) == 0) {
            self.remove(nodes, old);
            return self.admit(nodes, new);
        }
        let list = if self.pinned.holds(nodes, old) { &mut self.pinned } else { self.kind.list(nodes, old) };
        list.replace(nodes, old, new);
        self.reuse(nodes, new);
    }

    /// Hears that an entry has another weight now, and which one it had.
    pub(crate) fn reweigh(&mut self, nodes: &impl Nodes, id: u32, old: u64) {
        let new = nodes.weight(id);
        if (old == 0) != (new == 0) {
            // The sum of the list that it leaves is corrected with the weight that it had there.
            let list = if old == 0 { &mut self.pinned } else { self.kind.list(nodes, id) };
            list.reweigh(old, new);
            list.unlink(nodes, id);
            return self.admit(nodes, id);
        }
        if old != 0 {
            self.kind.list(nodes, id).reweigh(old, new);
        }
    }

    /// Forgets an entry that leaves for another reason than want of room.
    pub(crate) fn remove(&mut self, nodes: &impl Nodes, id: u32) {
        let list = if self.pinned.holds(nodes, id) { &mut self.pinned } else { self.kind.list(nodes, id) };
        list.unlink(nodes, id);
    }

    /// Forgets all entries at once, and keeps what it has learnt. Returns the first of each list: the others follow it by
    /// their nodes' `next`, up to [`NIL`]. They bear the number of their list until somebody sets it to 0.
    pub(crate) fn clear(&mut self) -> [u32; 3] {
        let [first, second] = match &mut self.kind {
            Kind::Lru(lru) => [lru.clear(), NIL],
            Kind::Clock(clock) => clock.clear(),
        };
        [first, second, self.pinned.clear()]
    }

    /// Takes out the entry that is worth least and returns it; nothing if there is none. It is not the newest unless that is the
    /// only one.
    ///
    /// # Cost
    ///
    /// A bounded number of steps, whatever the entries are like.
    pub(crate) fn victim(&mut self, nodes: &impl Nodes) -> Option<u32> {
        match &mut self.kind {
            Kind::Lru(lru) => lru.victim(nodes),
            Kind::Clock(clock) => clock.victim(nodes),
        }
    }

    /// Goes on in the way that would have hit most lately; an LRU has only one.
    pub(crate) fn choose(&mut self, choice: Choice) {
        if let Kind::Clock(clock) = &mut self.kind {
            clock.choose(choice);
        }
    }

    /// What all entries weigh together.
    pub(crate) const fn weight(&self) -> u64 {
        match &self.kind {
            Kind::Lru(lru) => lru.weight(),
            Kind::Clock(clock) => clock.weight(),
        }
    }

    /// How many bytes it holds on the heap.
    pub(crate) fn memory(&self) -> usize {
        match &self.kind {
            Kind::Lru(_) => 0,
            Kind::Clock(clock) => size_of_val(&**clock) + clock.memory(),
        }
    }
}

//! A cache of hashes alone, around a core: what the simulations run on.

use super::Eviction;
use super::choice::Choice;
use super::core::Core;
use super::node::{NIL, Node, Nodes};
use crate::rng::Rng;

/// Knows keys by a number, and keeps nothing for them.
#[derive(Debug)]
pub(super) struct Mini<K> {
    core: Core,
    entries: Entries,
    keys: Vec<K>,
    free: Vec<u32>,
    /// Ids by the hash of their key, with linear probing; [`NIL`] where there is none.
    table: Box<[u32]>,
    capacity: u64,
    weight: u64,
}

#[derive(Debug)]
struct Entries {
    nodes: Vec<Node>,
    /// Empty as long as everything weighs 1.
    weights: Vec<u64>,
}

impl Nodes for Entries {
    #[inline]
    fn node(&self, id: u32) -> &Node {
        &self.nodes[id as usize]
    }

    #[inline]
    fn weight(&self, id: u32) -> u64 {
        self.weights.get(id as usize).copied().unwrap_or(1)
    }
}

impl<K: Copy + Eq + Into<u64>> Mini<K> {
    pub(super) fn new(eviction: Eviction, capacity: u64) -> Self {
        Self {
            core: Core::new(eviction, capacity),
            entries: Entries { nodes: Vec::new(), weights: Vec::new() },
            keys: Vec::new(),
            free: Vec::new(),
            table: Box::new([NIL; 8]),
            capacity,
            weight: 0,
        }
    }

    pub(super) fn choose(&mut self, choice: Choice) {
        self.core.choose(choice);
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len() - self.free.len()
    }

    pub(super) const fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(super) const fn weight(&self) -> u64 {
        self.weight
    }

    /// How many entries there is room for, if those to come are like those that are here.
    pub(super) fn room(&self) -> u64 {
        let room = u128::from(self.capacity) * self.len() as u128 / u128::from(self.weight.max(1));
        u64::try_from(room).unwrap_or(u64::MAX)
    }

    pub(super) fn memory(&self) -> usize {
        self.core.memory()
            + self.entries.nodes.capacity() * size_of::<Node>()
            + self.entries.weights.capacity() * 8
            + self.keys.capacity() * size_of::<K>()
            + (self.free.capacity() + self.table.len()) * 4
    }

    pub(super) fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity;
        self.make_room();
    }

    /// Looks a key up, and takes it in if it is missing. Returns whether it was there.
    #[inline]
    pub(super) fn access(&mut self, key: K, weight: u64) -> bool {
        let hash = Rng::seeded(key.into()).next();
        let mut place = self.home(hash as u32);
        while let Some(&id) = self.keys.get(self.table[place] as usize).and(self.table.get(place)) {
            if self.keys[id as usize] == key {
                self.core.reuse(&self.entries, id);
                let old = self.entries.weight(id);
                if old != weight {
                    self.reweigh(id, old, weight);
                }
                return true;
            }
            place = (place + 1) & (self.table.len() - 1);
        }
        if weight <= self.capacity {
            self.insert(place, key, hash as u32, weight);
        }
        false
    }

    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.table.len() as u64) >> 32) as usize
    }

    fn insert(&mut self, place: usize, key: K, hash: u32, weight: u64) {
        let id = self.free.pop().unwrap_or_else(|| {
            self.reserve();
            self.keys.push(key);
            self.entries.nodes.push(Node::new());
            (self.keys.len() - 1) as u32
        });
        self.keys[id as usize] = key;
        self.entries.node(id).renew(hash);
        self.set_weight(id, weight);
        self.table[place] = id;
        if self.len() * 3 > self.table.len() * 2 {
            self.grow();
        }
        self.core.admit(&self.entries, id);
        self.weight += weight;
        self.make_room();
    }

    /// Room for twice as many entries where there is none for another, but for no more than can be here at once, which is one
    /// more than fit: twice as many as 513 would be in vain.
    fn reserve(&mut self) {
        let (len, most) = (self.keys.len(), usize::try_from(self.capacity).unwrap_or(usize::MAX));
        if len == self.keys.capacity() {
            let more = len.max(8).min((most - most.min(len)).saturating_add(1));
            self.keys.reserve_exact(more);
            self.entries.nodes.reserve_exact(more);
        }
    }

    fn set_weight(&mut self, id: u32, weight: u64) {
        let weights = &mut self.entries.weights;
        if weight != 1 || !weights.is_empty() {
            weights.resize(self.keys.len(), 1);
            weights[id as usize] = weight;
        }
    }

    fn reweigh(&mut self, id: u32, old: u64, new: u64) {
        self.set_weight(id, new);
        self.core.reweigh(&self.entries, id, old);
        self.weight = self.weight - old + new;
        self.make_room();
    }

    fn make_room(&mut self) {
        while self.weight > self.capacity {
            let Some(id) = self.core.victim(&self.entries) else { break };
            self.weight -= self.entries.weight(id);
            self.take_out(id);
        }
    }

    /// Closes the gap that an entry leaves in the table: those behind it move up as far as their hash allows.
    fn take_out(&mut self, id: u32) {
        let mask = self.table.len() - 1;
        let mut gap = self.home(self.entries.node(id).hash());
        while self.table[gap] != id {
            gap = (gap + 1) & mask;
        }
        let mut next = (gap + 1) & mask;
        while self.table[next] != NIL {
            let home = self.home(self.entries.node(self.table[next]).hash());
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(gap) & mask {
                self.table[gap] = self.table[next];
                gap = next;
            }
            next = (next + 1) & mask;
        }
        self.table[gap] = NIL;
        self.free.push(id);
    }

    fn grow(&mut self) {
        let wider = vec![NIL; self.table.len() * 2].into();
        let ids = std::mem::replace(&mut self.table, wider);
        let mask = self.table.len() - 1;
        for &id in ids.iter().filter(|&&id| id != NIL) {
            let mut place = self.home(self.entries.node(id).hash());
            while self.table[place] != NIL {
                place = (place + 1) & mask;
            }
            self.table[place] = id;
        }
    }
}

//! Lists linked by index: queue order in one vector, without pointers and without an allocation per entry.

const NIL: usize = usize::MAX;

/// A first-in-first-out list whose entries keep their key until they are taken out, also once they left the queue.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Entry<T>>,
    /// The first free place; free places are linked through `next`.
    free: usize,
    first: usize,
    last: usize,
    queued: usize,
}

#[derive(Debug)]
struct Entry<T> {
    /// `None` in a free place.
    value: Option<T>,
    queued: bool,
    previous: usize,
    next: usize,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new(), free: NIL, first: NIL, last: NIL, queued: 0 }
    }

    /// Returns how many entries stand in the queue.
    pub(crate) const fn queued(&self) -> usize {
        self.queued
    }

    /// Returns the key of the first entry in the queue.
    pub(crate) fn first(&self) -> Option<usize> {
        (self.first != NIL).then_some(self.first)
    }

    /// Returns the key of the last entry in the queue.
    pub(crate) fn last(&self) -> Option<usize> {
        (self.last != NIL).then_some(self.last)
    }

    /// Returns the key of the entry that stands behind `key` in the queue.
    pub(crate) fn after(&self, key: usize) -> Option<usize> {
        let next = self.entries.get(key).filter(|entry| entry.queued)?.next;
        (next != NIL).then_some(next)
    }

    /// Returns the key of the entry that stands before `key` in the queue.
    pub(crate) fn before(&self, key: usize) -> Option<usize> {
        let previous = self.entries.get(key).filter(|entry| entry.queued)?.previous;
        (previous != NIL).then_some(previous)
    }

    /// Returns all entries, also those that left the queue, in no order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|entry| entry.value.as_ref())
    }

    pub(crate) fn get(&self, key: usize) -> Option<&T> {
        self.entries.get(key)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        self.entries.get_mut(key)?.value.as_mut()
    }

    pub(crate) fn push_back(&mut self, value: T) -> usize {
        self.push_before(None, value)
    }

    /// Adds an entry before the one of key `next`, which stands in the queue; at the back if there is none.
    pub(crate) fn push_before(&mut self, next: Option<usize>, value: T) -> usize {
        let next = next.unwrap_or(NIL);
        let previous = if next == NIL { self.last } else { self.entries[next].previous };
        let entry = Entry { value: Some(value), queued: true, previous, next };
        let key = match self.free {
            NIL => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
            key => {
                self.free = self.entries[key].next;
                self.entries[key] = entry;
                key
            }
        };
        match previous {
            NIL => self.first = key,
            previous => self.entries[previous].next = key,
        }
        match next {
            NIL => self.last = key,
            next => self.entries[next].previous = key,
        }
        self.queued += 1;
        key
    }

    /// Takes an entry out of the queue and keeps it under its key.
    pub(crate) fn unqueue(&mut self, key: usize) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if !std::mem::take(&mut entry.queued) {
            return;
        }
        let (previous, next) = (entry.previous, entry.next);
        match previous {
            NIL => self.first = next,
            previous => self.entries[previous].next = next,
        }
        match next {
            NIL => self.last = previous,
            next => self.entries[next].previous = previous,
        }
        self.queued -= 1;
    }

    /// Takes an entry out altogether; its key may be given to another one.
    pub(crate) fn remove(&mut self, key: usize) -> Option<T> {
        self.unqueue(key);
        let entry = self.entries.get_mut(key)?;
        let value = entry.value.take()?;
        entry.next = self.free;
        self.free = key;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_slab_queues_like_a_plain_queue(steps in prop::collection::vec((0u8..5, any::<prop::sample::Index>()), 0..200)) {
            let mut slab = Slab::new();
            let mut queue: VecDeque<(usize, u32)> = VecDeque::new();
            let mut kept: Vec<(usize, u32)> = Vec::new();
            for (number, (step, index)) in (0u32..).zip(steps) {
                match step {
                    0 | 1 => queue.push_back((slab.push_back(number), number)),
                    4 => {
                        let place = index.index(queue.len() + 1);
                        let next = queue.get(place).map(|entry| entry.0);
                        queue.insert(place, (slab.push_before(next, number), number));
                    }
                    2 if !queue.is_empty() => {
                        let entry = queue.remove(index.index(queue.len())).unwrap();
                        slab.unqueue(entry.0);
                        kept.push(entry);
                    }
                    3 if !kept.is_empty() => {
                        let (key, value) = kept.swap_remove(index.index(kept.len()));
                        prop_assert_eq!(slab.remove(key), Some(value));
                    }
                    3 => if let Some((key, value)) = queue.pop_front() {
                        prop_assert_eq!(slab.first(), Some(key));
                        prop_assert_eq!(slab.remove(key), Some(value));
                    }
                    _ => {}
                }
                prop_assert_eq!(slab.queued(), queue.len());
                prop_assert_eq!(slab.first(), queue.front().map(|entry| entry.0));
                prop_assert_eq!(slab.last(), queue.back().map(|entry| entry.0));
                let mut keys: Vec<_> = std::iter::successors(slab.last(), |key| slab.before(*key)).collect();
                keys.reverse();
                prop_assert_eq!(keys, queue.iter().map(|entry| entry.0).collect::<Vec<_>>());
                let keys: Vec<_> = std::iter::successors(slab.first(), |key| slab.after(*key)).collect();
                prop_assert_eq!(keys, queue.iter().map(|entry| entry.0).collect::<Vec<_>>());
                for (key, value) in queue.iter().chain(&kept) {
                    prop_assert_eq!(slab.get_mut(*key), Some(&mut value.clone()));
                }
            }
            prop_assert!(slab.entries.len() <= 200);
        }
    }
}

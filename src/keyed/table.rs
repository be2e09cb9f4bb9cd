//! The keys of one shard, told the time.

use std::borrow::Borrow;
use std::sync::Arc;

use crate::places::{Places, Tagged};
use crate::prefetch::prefetch;

/// A hash table with a sweep: the hand of a CLOCK (F. J. Corbató, "A paging experiment with the Multics system", 1968).
///
/// Why no debt is forgotten: a gate becomes a suspect only while nobody but the table holds it, and is then marked as
/// unused. Whoever gets at it later gets it here, under the lock, which marks it as used, and as long as there is a
/// suspect (which holds the gate) no sweep takes the mark away. So if it is unmarked when it is to be removed, nobody
/// can have used it since its residual was asked for. What its last holder did to it is seen, since `Arc::get_mut`
/// acquires what the drop of an `Arc` releases.
#[derive(Debug)]
pub(super) struct Table<K, G> {
    slots: Places<Slot<K, G>>,
    turns: u32,
    /// When the hand last began a round, and how often counts are halved in it.
    round_since: u64,
    halvings: u32,
}

/// For keys of a word 32 bytes: two to a cache line.
#[derive(Debug)]
pub(super) struct Slot<K, G> {
    tag: u32,
    /// How often it was used, fading. The top bit: used since the sweep last passed, or held then.
    uses: u32,
    /// When the sweep last passed and found that it had been used, or when it was made.
    unused_since: u64,
    gate: Arc<G>,
    pub(super) key: K,
}

const USED: u32 = 1 << 31;

/// A gate that may be forgotten if it has no residual.
#[derive(Debug)]
pub(super) struct Suspect<G> {
    tag: u32,
    pub(super) gate: Arc<G>,
}

pub(super) type Suspects<G> = [Option<Suspect<G>>; 4];

/// What became of a key that was to be inserted.
pub(super) enum Inserted<K, G> {
    /// It is in, and the sweep is due.
    New { sweep: bool },
    /// Somebody else was quicker.
    Known(Arc<G>, K),
    /// There is no room.
    Full(K),
}

impl<K, G> Tagged for Slot<K, G> {
    fn tag(&self) -> u32 {
        self.tag
    }
}

impl<K, G> Slot<K, G> {
    const fn is_used(&self) -> bool {
        self.uses & USED != 0
    }

    const fn count(&self) -> u32 {
        self.uses & !USED
    }

    fn use_once(&mut self) {
        let more = (self.count() + 1).min(USED - 1);
        self.uses = more | USED;
    }
}

impl<K, G> Table<K, G> {
    /// How many look-ups there are to a step of the sweep.
    const TURN: u32 = 64;
    /// Counts are halved in each: nanoseconds.
    const MINUTE: u64 = 60_000_000_000;

    pub(super) const fn new(max: usize) -> Self {
        Self { slots: Places::new(max), turns: 0, round_since: 0, halvings: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn places(&self) -> usize {
        self.slots.count()
    }

    pub(super) const fn is_full(&self) -> bool {
        self.slots.is_full()
    }

    #[inline]
    fn find<Q>(&self, tag: u32, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.slots.find(tag, |slot| slot.key.borrow() == key)
    }

    /// Counts the look-ups, and returns whether the sweep is due.
    const fn turn(&mut self, steps: u32) -> bool {
        self.turns = self.turns.wrapping_add(steps);
        self.turns % Self::TURN < steps
    }

    /// Returns the gate of a key for use, and whether the sweep is due.
    #[inline]
    pub(super) fn enter<Q>(&mut self, tag: u32, key: &Q) -> Option<(Arc<G>, bool)>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let place = self.find(tag, key)?;
        let sweep = self.turn(1);
        let slot = self.slots.get_mut(place)?;
        // The gate is large, and what raises its count waits for the first line alone.
        prefetch(&*slot.gate);
        slot.use_once();
        Some((slot.gate.clone(), sweep))
    }

    /// Returns the gate of a key without counting a use.
    pub(super) fn peek<Q>(&mut self, tag: u32, key: &Q) -> Option<Arc<G>>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let place = self.find(tag, key)?;
        let slot = self.slots.get_mut(place)?;
        // Who holds it may use it.
        slot.uses |= USED;
        Some(slot.gate.clone())
    }

    /// Puts in a key that was not there. It counts as unused, so that keys that come once go first.
    pub(super) fn insert(&mut self, tag: u32, key: K, gate: &Arc<G>, now: u64) -> Inserted<K, G>
    where
        K: Eq,
    {
        if let Some((known, _)) = self.enter(tag, &key) {
            return Inserted::Known(known, key);
        }
        if self.is_full() {
            return Inserted::Full(key);
        }
        if self.slots.len() == 0 {
            self.round_since = now;
        }
        // The permit that it is made for is the first use; it protects the gate by holding it.
        self.slots.put(Slot { tag, uses: 1, unused_since: now, gate: gate.clone(), key });
        Inserted::New { sweep: self.turn(8) }
    }

    pub(super) fn remove<Q>(&mut self, tag: u32, key: &Q) -> Option<(K, Arc<G>)>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let place = self.find(tag, key)?;
        let slot = self.slots.take(place)?;
        Some((slot.key, slot.gate))
    }

    /// Looks at the next places and finds gates that nobody holds and of which `is_suspect` says so, told whether they
    /// were used lately and since when they were not. Returns how many places it has looked at.
    pub(super) fn sweep(
        &mut self,
        places: usize,
        now: u64,
        is_suspect: impl Fn(bool, u64) -> bool,
        suspects: &mut [Option<Suspect<G>>],
    ) -> usize {
        let mut free = suspects.iter_mut();
        for looked_at in 0..places.min(self.slots.count()) {
            if free.len() == 0 {
                return looked_at;
            }
            let place = self.slots.turn();
            if place == 0 {
                self.halvings = self.halvings_at(now);
                self.round_since = now;
            }
            let Some(slot) = self.slots.get_mut(place) else { continue };
            let was_used = slot.is_used();
            if was_used {
                slot.unused_since = now;
            }
            slot.uses = slot.count() >> self.halvings | slot.uses & USED;
            let is_suspect = is_suspect(was_used, slot.unused_since);
            // The mark of a gate that somebody holds stays: it may be what saves a suspect of another sweep.
            if (was_used || is_suspect) && Arc::get_mut(&mut slot.gate).is_some() {
                slot.uses &= !USED;
                if is_suspect {
                    if let Some(suspect) = free.next() {
                        *suspect = Some(Suspect { tag: slot.tag, gate: slot.gate.clone() });
                    }
                }
            }
        }
        places
    }

    /// Takes out a suspect that was found to have no residual, unless it was used meanwhile.
    pub(super) fn convict(&mut self, suspect: &Suspect<G>) -> Option<Slot<K, G>> {
        let place = self.slots.find(suspect.tag, |slot| Arc::ptr_eq(&slot.gate, &suspect.gate))?;
        let slot = self.slots.get(place)?;
        if slot.is_used() { None } else { self.slots.take(place) }
    }

    /// Returns how often each key was used lately.
    pub(super) fn counts(&self, now: u64) -> impl Iterator<Item = (&K, u32)> {
        let halvings = self.halvings_at(now);
        self.slots.iter().map(move |slot| (&slot.key, slot.count() >> halvings))
    }

    /// How many minutes have begun since the round has: as many for every key, whatever goes on in its shard.
    fn halvings_at(&self, now: u64) -> u32 {
        let minutes = (now / Self::MINUTE).saturating_sub(self.round_since / Self::MINUTE);
        minutes.min(31) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Tags of few bits, so that keys collide and wrap around.
        #[test]
        fn a_table_finds_what_a_map_finds(
            max in 1usize..60,
            steps in prop::collection::vec((0u8..5, 0u32..80), 0..300),
        ) {
            let mut table = Table::new(max);
            let mut map = HashMap::new();
            for (time, (step, key)) in (0u64..).zip(steps) {
                let tag = (key % 7).wrapping_mul(0x2492_4925);
                match step {
                    0..=2 => match table.insert(tag, key, &Arc::new(time), time) {
                        Inserted::New { .. } => {
                            prop_assert!(map.len() < max && !map.contains_key(&key));
                            map.insert(key, time);
                        }
                        Inserted::Known(value, _) => prop_assert_eq!(Some(&*value), map.get(&key)),
                        Inserted::Full(_) => prop_assert!(map.len() == max && !map.contains_key(&key)),
                    }
                    3 => {
                        let removed = table.remove(tag, &key).map(|(_, value)| *value);
                        prop_assert_eq!(removed, map.remove(&key));
                    }
                    _ => {
                        let mut suspects = Suspects::default();
                        table.sweep(3, time, |_, _| true, &mut suspects);
                        for suspect in suspects.iter().flatten() {
                            let slot = table.convict(suspect).unwrap();
                            prop_assert_eq!(map.remove(&slot.key), Some(*suspect.gate));
                        }
                    }
                }
                prop_assert_eq!(table.len(), map.len());
                for key in 0..80 {
                    let tag = (key % 7u32).wrapping_mul(0x2492_4925);
                    let found = table.find(tag, &key);
                    let value = found.map(|place| *table.slots.get(place).unwrap().gate);
                    prop_assert_eq!(value, map.get(&key).copied());
                }
            }
        }
    }

    #[test]
    fn a_suspect_that_is_used_meanwhile_stays() {
        let mut table = Table::new(4);
        assert!(matches!(table.insert(1, "a", &Arc::new(()), 0), Inserted::New { .. }));
        for use_it in [
            |table: &mut Table<&str, ()>| drop(table.enter(1, &"a")),
            |table: &mut Table<&str, ()>| drop(table.peek(1, &"a")),
        ] {
            let mut suspects = Suspects::default();
            table.sweep(8, 0, |_, _| true, &mut suspects);
            let suspect = suspects[0].take().unwrap();
            use_it(&mut table);
            assert!(table.convict(&suspect).is_none());
        }
        let held = table.peek(1, &"a");
        let mut suspects = Suspects::default();
        table.sweep(8, 0, |_, _| true, &mut suspects);
        assert!(suspects[0].is_none(), "it is held");
        drop(held);
        table.sweep(8, 0, |_, _| true, &mut suspects);
        assert!(table.convict(suspects[0].as_ref().unwrap()).is_some());
    }

    #[test]
    fn a_suspect_that_is_used_and_passed_by_another_sweep_stays() {
        let mut table = Table::new(4);
        assert!(matches!(table.insert(1, "a", &Arc::new(()), 0), Inserted::New { .. }));
        let mut suspects = Suspects::default();
        table.sweep(8, 0, |_, _| true, &mut suspects);
        let suspect = suspects[0].take().unwrap();
        drop(table.enter(1, &"a"));
        table.sweep(8, 0, |_, _| true, &mut suspects);
        assert!(table.convict(&suspect).is_none());
    }

    #[test]
    fn a_slot_of_a_word_is_half_a_cache_line() {
        assert_eq!(size_of::<Option<Slot<u64, u8>>>(), 32);
    }
}

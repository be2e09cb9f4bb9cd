//! Which slot has the entry of a hash: [`Table`].
//!
//! Linear probing over cells of 32 bits: a tag and the number of a slot, 0 where there is none. One thread at a time changes
//! them, others read meanwhile. What is removed leaves no tombstone: the cells after it move up (R. Brent's
//! "backward shift"), so that no table ever has to be cleaned. The tag begins with the low bits of the cell's home, so
//! that what moves need not be looked up.

use crate::sync::{AtomicU32, Ordering};

/// Cells by hash. What does not fit behind the last home is put into the tail.
#[derive(Debug)]
pub(super) struct Table {
    cells: Box<[AtomicU32]>,
    homes: u32,
    /// How many bits of a cell are the slot's number.
    bits: u32,
    /// How many bits of the home are in the tag.
    near: u32,
    /// 1 if a cell is so far from its home that the tag does not tell: then the hash does.
    is_far: AtomicU32,
}

/// What stands in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) at: usize,
    pub(super) slot: u32,
    pub(super) word: u32,
}

impl Table {
    /// Makes a table for slots numbered 1 to `slots`.
    pub(super) fn new(homes: u32, tail: u32, slots: u32) -> Self {
        let bits = 32 - slots.leading_zeros();
        debug_assert!(homes > 0 && tail > 0 && bits <= 28);
        // The last cell is never filled: look-ups end there.
        let cells = (0..homes as usize + tail as usize).map(|_| AtomicU32::new(0)).collect();
        Self { cells, homes, bits, near: (32 - bits).min(10), is_far: AtomicU32::new(0) }
    }

    pub(super) const fn homes(&self) -> u32 {
        self.homes
    }

    pub(super) fn tail(&self) -> u32 {
        self.cells.len() as u32 - self.homes
    }

    /// The largest number of a slot.
    pub(super) const fn most(&self) -> u32 {
        (1 << self.bits) - 1
    }

    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.cells)
    }

    /// Evenly over all homes, by the upper bits; the lower ones are left for the tag.
    #[inline]
    const fn home(&self, hash: u32) -> usize {
        ((hash as u64 * self.homes as u64) >> 32) as usize
    }

    #[inline]
    const fn mark(&self, hash: u32, home: usize) -> u32 {
        let near = home as u32 & ((1 << self.near) - 1);
        (hash << self.near | near) << self.bits
    }

    /// The cell at a place, as it is now.
    #[inline]
    pub(super) fn word(&self, at: usize) -> u32 {
        // Acquire: who finds a slot sees what is in it.
        self.cells[at].load(Ordering::Acquire)
    }

    /// Returns the first cell of a hash that `is` says it is.
    #[inline]
    pub(super) fn find(&self, hash: u32, mut is: impl FnMut(Cell) -> bool) -> Option<Cell> {
        let mut at = self.home(hash);
        let mark = self.mark(hash, at);
        let slots = self.most();
        while let Some(cell) = self.cells.get(at) {
            let word = cell.load(Ordering::Acquire);
            if word == 0 {
                return None;
            }
            // Equal above the slot's number.
            if (word ^ mark) <= slots {
                let cell = Cell { at, slot: word & slots, word };
                if is(cell) {
                    return Some(cell);
                }
            }
            at += 1;
        }
        None
    }

    /// Puts a slot in. False if that would reach the end of the tail: then a larger table is needed.
    #[must_use]
    pub(super) fn put(&self, hash: u32, slot: u32) -> bool {
        debug_assert!(slot != 0 && slot <= self.most());
        let home = self.home(hash);
        // Relaxed: it is this thread that writes.
        let free = self.cells[home..].iter().position(|cell| cell.load(Ordering::Relaxed) == 0);
        let Some(distance) = free.filter(|distance| home + distance + 1 < self.cells.len()) else {
            return false;
        };
        if distance >= 1 << self.near {
            self.is_far.store(1, Ordering::Relaxed);
        }
        self.cells[home + distance].store(self.mark(hash, home) | slot, Ordering::Release);
        true
    }

    /// Puts another slot with the same hash into a cell.
    pub(super) fn replace(&self, cell: Cell, slot: u32) {
        debug_assert!(slot != 0 && slot <= self.most());
        self.cells[cell.at].store(cell.word & !self.most() | slot, Ordering::Release);
    }

    /// Takes a slot out. `moves` is called before the first cell moves, `hash` tells that of a slot. Returns whether
    /// cells have moved.
    pub(super) fn remove(&self, at: usize, moves: impl FnOnce(), hash: impl Fn(u32) -> u32) -> bool {
        let mut moves = Some(moves);
        let mut hole = at;
        let is_far = self.is_far.load(Ordering::Relaxed) == 1;
        for next in at + 1..self.cells.len() {
            let word = self.cells[next].load(Ordering::Relaxed);
            if word == 0 {
                break;
            }
            let home = if is_far {
                self.home(hash(word & self.most()))
            } else {
                // So many cells from home that the low bits agree.
                next - ((next as u32).wrapping_sub(word >> self.bits) & ((1 << self.near) - 1)) as usize
            };
            if home <= hole {
                if let Some(moves) = moves.take() {
                    moves();
                }
                // There twice, rather than nowhere.
                self.cells[hole].store(word, Ordering::Release);
                hole = next;
            }
        }
        self.cells[hole].store(0, Ordering::Release);
        moves.is_none()
    }

    /// Returns the slots of all cells.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        let slots = self.most();
        self.cells.iter().map(move |cell| cell.load(Ordering::Relaxed) & slots).filter(|slot| *slot != 0)
    }
}

/// How many homes are right for so many entries: somewhat more than they are on average. Few in a model, so that a table
/// grows in it.
fn fitting(expected: u32) -> u32 {
    let (expected, spare) = (u64::from(expected), if cfg!(floodwall_loom) { 4 } else { 32 });
    ((expected + expected / 32 + spare) * 5 / 4).min(1 << 27) as u32
}

/// How many homes a table begins with: doubled, they end at what fits.
pub(super) fn first_size(expected: u32) -> u32 {
    let mut homes = fitting(expected);
    while homes > 64 {
        homes = homes.div_ceil(2);
    }
    homes.max(8)
}

/// How many homes come after so many.
pub(super) fn next_size(homes: u32, expected: u32) -> u32 {
    let fitting = fitting(expected);
    let more = if homes >= fitting { homes + homes / 4 } else { (homes * 2).min(fitting) };
    // A last step that is nearly none is taken at once.
    let more = if fitting - fitting / 8 <= more { more.max(fitting) } else { more };
    more.max(16)
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The hash of a slot: those of a table that wraps nowhere, collides often, and uses all of the bits.
    fn spread(key: u32, kind: u8) -> u32 {
        match kind {
            0 => key.wrapping_mul(0x9e37_79b9),
            1 => (key % 5).wrapping_mul(0x3333_3333),
            _ => u32::MAX - key % 2,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_table_finds_what_is_in_it(
            homes in 1u32..80,
            near in 1u32..=10,
            kind in 0u8..3,
            steps in prop::collection::vec((any::<bool>(), 1u32..100), 0..200),
        ) {
            let mut table = Table::new(homes, 101, 127);
            table.near = near;
            let mut slots = BTreeMap::new();
            for (puts, slot) in steps {
                let hash = spread(slot, kind);
                let found = table.find(hash, |cell| cell.slot == slot);
                prop_assert_eq!(found.is_some(), slots.contains_key(&slot));
                match found {
                    Some(cell) if !puts => {
                        let mut told = false;
                        let moved = table.remove(cell.at, || told = true, |slot| spread(slot, kind));
                        prop_assert_eq!(moved, told);
                        slots.remove(&slot);
                    }
                    None if puts => {
                        prop_assert!(table.put(hash, slot));
                        slots.insert(slot, ());
                    }
                    _ => {}
                }
                let mut all: Vec<_> = table.slots().collect();
                all.sort_unstable();
                prop_assert_eq!(all, slots.keys().copied().collect::<Vec<_>>());
                for slot in slots.keys() {
                    prop_assert!(table.find(spread(*slot, kind), |cell| cell.slot == *slot).is_some());
                }
            }
        }
    }

    #[test]
    fn a_full_tail_says_so() {
        let table = Table::new(4, 3, 31);
        assert!((1..3).all(|slot| table.put(u32::MAX, slot)));
        assert!(table.put(u32::MAX, 3));
        assert!(!table.put(u32::MAX, 4), "the last cell stays empty");
        assert_eq!(table.find(u32::MAX, |cell| cell.slot == 9), None);
    }
}

//! The core of write-behind: which writes are not in the store yet, and which of them are written next.
//!
//! Of each key only the newest write is kept. Its entry is *ready* to be written, *late* until its delay has passed
//! after a failure, or *flying*: part of the batch that is being written. A key whose write is flying is never part of
//! another batch, so a store sees one operation for a key at a time, and in order.
//!
//! Why a read never misses an accepted write: an entry leaves only when the write that landed is the newest one of its
//! key, by number. One that came while its predecessor was flying stays, and becomes ready.
//!
//! A batch that fails as a whole halves how many the next one may have, until the write that spoils it flies alone, and
//! fails alone; batches that land double it again. Writes keep their place in the line, so that this is a bisection.

use std::collections::btree_map::Entry as Place;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use super::epochs::Epochs;
use super::item::freed;
pub(crate) use super::item::{Fate, Freed, GiveUp, Item, Landed, Next};
use super::pins::Pins;
use crate::clock::NEVER;

pub(crate) struct Dirty<K, V> {
    entries: HashMap<Arc<K>, Entry<V>>,
    /// By their order.
    ready: BTreeMap<u64, Arc<K>>,
    ready_bytes: u64,
    /// By when they are ready again, and their order.
    late: BTreeMap<(u64, u64), Arc<K>>,
    limits: Limits,
    /// How many writes the next batch may have.
    window: usize,
    /// No batch is begun before.
    pause: u64,
    /// How many batches in a row were of no use.
    failures: u32,
    /// No more writes are taken.
    closed: bool,
    /// Who runs it may go, also if something is left.
    ended: bool,
    orders: u64,
    sequences: u64,
    pub(super) epochs: Epochs,
    /// Since when each change waits, in order.
    ages: BTreeMap<u64, u64>,
    counts: Counts,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(super) batch: usize,
    pub(super) batch_bytes: u64,
    /// How long a write waits for others, in nanoseconds.
    pub(super) delay: u64,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(super) written: u64,
    pub(super) coalesced: u64,
    pub(super) retries: u64,
    pub(super) dead: u64,
}

struct Entry<V> {
    /// Writers that are about to add their change: it stays until they have.
    pins: Pins,
    /// The number of the newest write that was seen, landed or not.
    latest: u64,
    /// What is not in the store yet.
    change: Option<Change<V>>,
    state: State,
}

impl<V> Entry<V> {
    fn clean() -> Self {
        Self { pins: Pins::default(), latest: 0, change: None, state: State::Ready }
    }
}

struct Change<V> {
    value: Option<Arc<V>>,
    bytes: u64,
    sequence: u64,
    /// Its place in the line: at the end, whenever it has failed, so that it holds up nobody.
    order: u64,
    /// The place that it had first.
    born: u64,
    since: u64,
    epoch: u64,
    failed: u32,
    /// It was tried before.
    tried: bool,
    /// It spoiled a batch.
    alone: bool,
    /// How many writes had landed when it failed first.
    landed: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Ready,
    Late {
        until: u64,
    },
    /// The change of this number; a newer one may be there already.
    Flying {
        sequence: u64,
        epoch: u64,
    },
}

impl<K: Hash + Eq, V> Dirty<K, V> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            entries: HashMap::new(),
            ready: BTreeMap::new(),
            ready_bytes: 0,
            late: BTreeMap::new(),
            limits,
            window: limits.batch,
            pause: 0,
            failures: 0,
            closed: false,
            ended: false,
            orders: 0,
            sequences: 0,
            epochs: Epochs::new(),
            ages: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    /// Returns the next number, for writes that no journal numbers.
    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequences += 1;
        self.sequences
    }

    /// Returns what was written last to `key`, unless that is in the store.
    pub(super) fn get(&self, key: &K) -> Option<Option<Arc<V>>> {
        self.entries.get(key)?.change.as_ref().map(|change| change.value.clone())
    }

    /// Keeps the numbers of `key` until [`unpin`](Self::unpin) is told of the pin, which this returns: see [`Pins`].
    pub(super) fn pin(&mut self, key: &Arc<K>) -> u64 {
        self.entries.entry(key.clone()).or_insert_with(Entry::clean).pins.pin()
    }

    /// Returns the numbers of writes that need not be kept any more.
    pub(super) fn unpin(&mut self, key: &Arc<K>, pin: u64) -> (Vec<u64>, Option<Arc<K>>) {
        let Some(entry) = self.entries.get_mut(key) else { return (Vec::new(), None) };
        (entry.pins.unpin(pin), self.forget_if_clean(key))
    }

    fn forget_if_clean(&mut self, key: &Arc<K>) -> Option<Arc<K>> {
        let entry = self.entries.get(key)?;
        if !entry.pins.is_empty() || entry.change.is_some() {
            return None;
        }
        self.entries.remove_entry(key).map(|(key, _)| key)
    }

    /// Adds a write. Returns what became free, and whether whoever waits for work should look.
    pub(super) fn accept(
        &mut self,
        now: u64,
        key: &Arc<K>,
        value: Option<Arc<V>>,
        bytes: u64,
        sequence: u64,
    ) -> (Freed<K, V>, bool) {
        let (order, epoch) = (self.orders, self.epochs.current());
        let fresh = |value, since| Change {
            value,
            bytes,
            sequence,
            order,
            born: order,
            since,
            epoch,
            failed: 0,
            tried: false,
            alone: false,
            landed: 0,
        };
        let entry = self.entries.entry(key.clone()).or_insert_with(Entry::clean);
        if sequence <= entry.latest {
            // It got its number before one that is here already.
            return (freed(bytes, Some(sequence), (None, value)), false);
        }
        entry.latest = sequence;
        let state = entry.state;
        let outcome = match &mut entry.change {
            Some(old) if !matches!(state, State::Flying { sequence, .. } if sequence == old.sequence) => {
                let mut change = fresh(value, old.since);
                (change.order, change.born, change.epoch) = (old.order, old.born, old.epoch);
                let old = std::mem::replace(old, change);
                if state == State::Ready {
                    self.ready_bytes = self.ready_bytes - old.bytes + bytes;
                }
                self.counts.coalesced += 1;
                freed(old.bytes, Some(old.sequence), (None, old.value))
            }
            change => {
                let old = change.replace(fresh(value, now));
                self.orders += 1;
                self.epochs.enter(epoch);
                self.ages.insert(order, now);
                if let Some(old) = &old {
                    // It flies, and its bytes are free when it has landed.
                    self.ages.remove(&old.born);
                } else {
                    entry.state = State::Ready;
                    self.ready.insert(order, key.clone());
                    self.ready_bytes += bytes;
                }
                freed(0, None, (None, old.and_then(|old| old.value)))
            }
        };
        let looks = self.ready.len() == 1
            || self.ready.len() == self.limits.batch
            || self.ready_bytes >= self.limits.batch_bytes;
        (outcome, looks)
    }

    /// Decides what to do. No batch may be flying.
    pub(super) fn next(&mut self, now: u64, pressed: bool) -> Next<K, V> {
        while let Some(entry) = self.late.first_entry() {
            let (until, order) = *entry.key();
            if until > now {
                break;
            }
            let key = entry.remove();
            self.make_ready(key, order);
        }
        let late = self.late.first_key_value().map_or(NEVER, |(at, _)| at.0);
        let Some((_, first)) = self.ready.first_key_value() else { return Next::Sleep(late) };
        if now < self.pause {
            return Next::Sleep(self.pause);
        }
        let due = self.since(first).saturating_add(self.limits.delay);
        let full = self.ready.len() >= self.limits.batch || self.ready_bytes >= self.limits.batch_bytes;
        // A window that is not whole is in the middle of a search.
        if now < due && !full && !pressed && !self.epochs.wanted() && self.window == self.limits.batch {
            return Next::Sleep(due.min(late));
        }
        Next::Write(self.take_batch())
    }

    fn make_ready(&mut self, key: Arc<K>, order: u64) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.state = State::Ready;
            self.ready_bytes += entry.change.as_ref().map_or(0, |change| change.bytes);
            if let Place::Vacant(place) = self.ready.entry(order) {
                place.insert(key);
            }
        }
    }

    fn since(&self, key: &Arc<K>) -> u64 {
        self.entries.get(key).and_then(|entry| entry.change.as_ref()).map_or(NEVER, |change| change.since)
    }

    fn take_batch(&mut self) -> Vec<Item<K, V>> {
        let mut items: Vec<Item<K, V>> = Vec::new();
        let (mut bytes, mut orders) = (0_u64, Vec::new());
        for (&order, key) in &self.ready {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            let Some(change) = &entry.change else { continue };
            if !items.is_empty()
                && (items.len() == self.window || bytes + change.bytes > self.limits.batch_bytes)
            {
                break;
            }
            if change.alone && !items.is_empty() {
                continue;
            }
            bytes += change.bytes;
            orders.push(order);
            self.counts.retries += u64::from(change.tried);
            entry.state = State::Flying { sequence: change.sequence, epoch: change.epoch };
            items.push(Item {
                key: key.clone(),
                value: change.value.clone(),
                sequence: change.sequence,
                bytes: change.bytes,
                failed: change.failed,
            });
            if change.alone {
                break;
            }
        }
        for order in orders {
            self.ready.remove(&order);
        }
        self.ready_bytes -= bytes;
        items
    }

    /// Hears how a batch went, before [`land`](Self::land) is told of its items.
    pub(super) fn batch_ended(
        &mut self,
        landed: usize,
        items: usize,
        pause: Option<u64>,
        failed_whole: bool,
    ) {
        self.failures = if pause.is_some() { self.failures.saturating_add(1) } else { 0 };
        self.counts.written += landed as u64;
        if failed_whole {
            self.window = (items / 2).max(1);
        } else if landed > 0 {
            self.window = self.window.saturating_mul(2).min(self.limits.batch);
        }
        self.pause = pause.unwrap_or(0);
    }

    /// Hears how one write of a batch ended.
    pub(super) fn land(&mut self, now: u64, item: &Item<K, V>, fate: Fate) -> Landed<K, V> {
        let landed = self.counts.written;
        let Some(entry) = self.entries.get_mut(&item.key) else { return Landed::StillDirty };
        let Some(change) = &mut entry.change else { return Landed::StillDirty };
        let superseded = change.sequence != item.sequence;
        match fate {
            Fate::Failed { delay, alone, give_up } if !superseded => {
                change.failed += 1;
                change.tried = true;
                change.alone |= alone;
                if change.failed == 1 {
                    change.landed = landed;
                }
                let others = give_up == GiveUp::IfOthersLand && landed > change.landed;
                if others || give_up == GiveUp::Now {
                    return Landed::Dead;
                }
                let until = now.saturating_add(delay);
                change.order = self.orders;
                self.orders += 1;
                entry.state = State::Late { until };
                self.late.insert((until, change.order), item.key.clone());
                Landed::StillDirty
            }
            Fate::Untried | Fate::Unclear if !superseded => {
                change.tried |= fate == Fate::Unclear;
                let order = change.order;
                self.make_ready(item.key.clone(), order);
                Landed::StillDirty
            }
            _ => Landed::Freed(self.clean(item)),
        }
    }

    /// Forgets a write that was given up.
    pub(super) fn bury(&mut self, item: &Item<K, V>) -> Freed<K, V> {
        self.counts.dead += 1;
        self.clean(item)
    }

    /// Keeps a write that was to be given up, since whoever wanted to hear of it did not.
    pub(super) fn revive(&mut self, now: u64, item: &Item<K, V>) -> Landed<K, V> {
        self.land(now, item, Fate::Failed { delay: self.limits.delay, alone: true, give_up: GiveUp::Never })
    }

    /// Takes a flying write away; a newer one of its key is ready then.
    fn clean(&mut self, item: &Item<K, V>) -> Freed<K, V> {
        let (mut done, mut garbage) = (Some(item.sequence), (None, None));
        if let Some(entry) = self.entries.get_mut(&item.key) {
            if let State::Flying { epoch, .. } = entry.state {
                self.epochs.leave(epoch);
            }
            match &entry.change {
                Some(newer) if newer.sequence != item.sequence => {
                    let order = newer.order;
                    self.make_ready(item.key.clone(), order);
                }
                _ => {
                    let change = entry.change.take();
                    entry.state = State::Ready;
                    if let Some(change) = &change {
                        self.ages.remove(&change.born);
                    }
                    done = entry.pins.let_go(item.sequence);
                    garbage = (self.forget_if_clean(&item.key), change.and_then(|change| change.value));
                }
            }
        }
        freed(item.bytes, done, garbage)
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended || self.closed && self.ages.is_empty()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns how many batches in a row were of no use.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns how many keys have a write that is not in the store.
    pub(super) fn len(&self) -> usize {
        self.ages.len()
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns since when the oldest of them waits.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.ages.first_key_value().map(|(_, since)| *since)
    }

    /// Returns what is not in the store, in the order in which it came.
    pub(super) fn left(&self) -> Vec<(Arc<K>, Option<Arc<V>>, u64)> {
        let mut left: Vec<_> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| Some((key, entry.change.as_ref()?)))
            .map(|(key, change)| (key.clone(), change.value.clone(), change.sequence))
            .collect();
        left.sort_unstable_by_key(|change| change.2);
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { batch: 4, batch_bytes: 100, delay: 0 };

    fn accept(dirty: &mut Dirty<u8, u8>, key: &Arc<u8>, value: u8, sequence: u64) -> Option<u64> {
        dirty.accept(0, key, Some(Arc::new(value)), 1, sequence).0.done
    }

    fn fly(dirty: &mut Dirty<u8, u8>) -> Vec<Item<u8, u8>> {
        match dirty.next(0, true) {
            Next::Write(items) => items,
            Next::Sleep(at) => panic!("nothing to write until {at}"),
        }
    }

    fn land(dirty: &mut Dirty<u8, u8>, items: &[Item<u8, u8>]) -> Vec<u64> {
        dirty.batch_ended(items.len(), items.len(), None, false);
        let mut done = Vec::new();
        for item in items {
            match dirty.land(0, item, Fate::Written) {
                Landed::Freed(freed) => done.extend(freed.done),
                Landed::StillDirty | Landed::Dead => panic!("it was written"),
            }
        }
        done
    }

    /// Two writers of a key get the numbers 1 and 2 from the journal; the first is slow to say so.
    #[test]
    fn a_write_that_is_late_to_come_undoes_no_newer_one_and_is_let_go_first() {
        let (mut dirty, key) = (Dirty::new(LIMITS), Arc::new(7));
        let (slow, fast) = (dirty.pin(&key), dirty.pin(&key));
        assert_eq!(accept(&mut dirty, &key, 20, 2), None);
        assert_eq!(dirty.unpin(&key, fast).0, [0u64; 0]);
        let items = fly(&mut dirty);
        // Not let go: a crash now could bring back the first one alone.
        assert_eq!(land(&mut dirty, &items), [0u64; 0]);
        assert_eq!((dirty.get(&7), dirty.len()), (None, 0));
        // A later writer does not hold it any longer.
        let later = dirty.pin(&key);
        assert_eq!(accept(&mut dirty, &key, 10, 1), Some(1));
        assert!(matches!(dirty.next(0, true), Next::Sleep(NEVER)));
        assert_eq!(dirty.unpin(&key, slow).0, [2]);
        assert_eq!(dirty.unpin(&key, later).0, [0u64; 0]);
        assert!(dirty.entries.is_empty());
    }

    #[test]
    fn a_write_beside_one_that_flies_is_kept_and_counted_by_itself() {
        let (mut dirty, key) = (Dirty::new(LIMITS), Arc::new(7));
        accept(&mut dirty, &key, 1, 1);
        let first = fly(&mut dirty);
        assert_eq!(accept(&mut dirty, &key, 2, 2), None);
        // Newer still: the second has not flown, and is let go.
        assert_eq!(accept(&mut dirty, &key, 3, 3), Some(2));
        assert!(matches!(dirty.next(0, true), Next::Sleep(NEVER)), "one operation for a key at a time");
        assert_eq!(land(&mut dirty, &first), [1]);
        assert_eq!(dirty.get(&7).unwrap().as_deref(), Some(&3));
        let last = fly(&mut dirty);
        assert_eq!((last.len(), last[0].sequence), (1, 3));
        assert_eq!(land(&mut dirty, &last), [3]);
        assert!(dirty.entries.is_empty() && dirty.ready.is_empty() && dirty.ages.is_empty());
    }

    #[test]
    fn a_failure_of_a_write_that_was_replaced_meanwhile_is_nobodys() {
        let (mut dirty, key) = (Dirty::new(LIMITS), Arc::new(7));
        accept(&mut dirty, &key, 1, 1);
        let first = fly(&mut dirty);
        accept(&mut dirty, &key, 2, 2);
        dirty.batch_ended(0, 1, None, false);
        let fate = Fate::Failed { delay: 1_000, alone: true, give_up: GiveUp::Now };
        assert!(matches!(dirty.land(0, &first[0], fate), Landed::Freed(_)));
        let second = fly(&mut dirty);
        assert_eq!((second[0].sequence, second[0].failed), (2, 0));
    }

    #[test]
    fn one_that_flies_alone_goes_behind_those_that_wait() {
        let (mut dirty, keys) = (Dirty::new(LIMITS), [Arc::new(0), Arc::new(1), Arc::new(2)]);
        for (key, sequence) in keys.iter().zip(1..) {
            accept(&mut dirty, key, 0, sequence);
        }
        dirty.window = 1;
        let poison = fly(&mut dirty);
        assert_eq!((poison.len(), *poison[0].key), (1, 0));
        dirty.batch_ended(0, 1, None, true);
        let fate = Fate::Failed { delay: 0, alone: true, give_up: GiveUp::Never };
        assert!(matches!(dirty.land(0, &poison[0], fate), Landed::StillDirty));
        for _ in 0..2 {
            let items = fly(&mut dirty);
            assert_ne!(*items[0].key, 0);
            land(&mut dirty, &items);
        }
        assert_eq!(*fly(&mut dirty)[0].key, 0);
    }
}

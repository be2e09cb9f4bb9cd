//! Which records are still needed, and what the segments hold of them: pure bookkeeping.
//!
//! Segments are removed strictly from the oldest on. An acknowledgement stands behind its record, so it can be forgotten
//! when its own segment goes: no older copy of the record is left that it would have to kill. And a record that is newer
//! than another of its key never goes before it.

use std::collections::{BTreeMap, VecDeque};

#[derive(Debug, Default)]
pub(super) struct Book {
    /// Oldest first; the last one is being written.
    segments: VecDeque<Segment>,
    /// By sequence number.
    live: BTreeMap<u64, Place>,
    live_bytes: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    length: u64,
    live: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u64,
    frame: u32,
}

impl Book {
    /// Begins a segment, behind all others.
    pub(super) fn begin(&mut self, number: u64, length: u64) {
        debug_assert!(self.segments.back().is_none_or(|last| last.number + 1 == number));
        self.segments.push_back(Segment { number, length, live: 0 });
        self.bytes += length;
    }

    /// Counts bytes that were written to the last segment.
    pub(super) fn grow(&mut self, bytes: u64) {
        if let Some(last) = self.segments.back_mut() {
            last.length += bytes;
            self.bytes += bytes;
        }
    }

    /// Notes that the last segment ends earlier than it was read.
    pub(super) fn cut_last(&mut self, length: u64) {
        if let Some(last) = self.segments.back_mut() {
            self.bytes -= last.length - length;
            last.length = length;
        }
    }

    /// Notes that the last segment holds a record; if an older one does too, that copy does not count any more.
    pub(super) fn record(&mut self, sequence: u64, frame: u32) {
        let Some(last) = self.segments.back_mut() else { return };
        last.live += 1;
        self.live_bytes += u64::from(frame);
        let place = Place { segment: last.number, frame };
        if let Some(old) = self.live.insert(sequence, place) {
            self.leave(old);
        }
    }

    /// Forgets a record; says whether it was needed until now.
    pub(super) fn forget(&mut self, sequence: u64) -> bool {
        let gone = self.live.remove(&sequence);
        gone.map(|place| self.leave(place)).is_some()
    }

    /// Returns the first record of a range, however large the range may be.
    pub(super) fn first_in(&self, first: u64, last: u64) -> Option<u64> {
        self.live.range(first..=last).next().map(|(sequence, _)| *sequence)
    }

    fn leave(&mut self, place: Place) {
        self.live_bytes -= u64::from(place.frame);
        if let Some(segment) = self.segment_mut(place.segment) {
            segment.live -= 1;
        }
    }

    fn segment_mut(&mut self, number: u64) -> Option<&mut Segment> {
        let first = self.segments.front()?.number;
        self.segments.get_mut(number.checked_sub(first)? as usize)
    }

    pub(super) fn is_live_in(&self, sequence: u64, segment: u64) -> bool {
        self.live.get(&sequence).is_some_and(|place| place.segment == segment)
    }

    /// Returns the oldest segment if nothing of it is needed and it is not the one that is being written.
    pub(super) fn dead(&self) -> Option<u64> {
        let oldest = self.segments.front().filter(|oldest| self.segments.len() > 1 && oldest.live == 0);
        oldest.map(|oldest| oldest.number)
    }

    /// Returns the oldest segment and its length if its records should be copied, so that it can go: when more than half
    /// of all bytes, beside a `slack`, are not needed. So the journal is at most twice as long as what it must
    /// keep, and copying costs at most as much again as what was written.
    pub(super) fn wasteful(&self, slack: u64) -> Option<(u64, u64)> {
        let dead = self.bytes - self.live_bytes;
        let oldest = self.segments.front().filter(|_| self.segments.len() > 1);
        oldest
            .filter(|_| dead > self.live_bytes.saturating_add(slack))
            .map(|oldest| (oldest.number, oldest.length))
    }

    /// Takes out the oldest segment.
    pub(super) fn remove_oldest(&mut self) {
        if let Some(oldest) = self.segments.pop_front() {
            debug_assert_eq!(oldest.live, 0);
            self.bytes -= oldest.length;
        }
    }

    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn live(&self) -> usize {
        self.live.len()
    }

    pub(super) const fn live_bytes(&self) -> u64 {
        self.live_bytes
    }
}

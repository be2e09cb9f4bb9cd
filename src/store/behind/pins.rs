//! Writers of a key that are getting a number, and what is kept on their account: [`Pins`].
//!
//! A write that gets its number first and is added second is known for an old one then, also when the newer one has landed
//! meanwhile; and the newer one is [kept](super::keep) until that is so. Otherwise a crash between the two could bring back
//! the old one alone.

use crate::clock::NEVER;

/// Those of one key. Pins are numbered in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Pins {
    /// Writers that are getting a number, or have one and are about to add their change; the oldest first.
    pins: Vec<u64>,
    /// How many there were.
    pinned: u64,
    /// The numbers of writes that are done, each with the first pin that cannot be older.
    held: Vec<(u64, u64)>,
}

impl Pins {
    pub(super) fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    pub(super) fn pin(&mut self) -> u64 {
        self.pinned += 1;
        self.pins.push(self.pinned);
        self.pinned
    }

    /// Forgets a pin; returns the numbers of writes that need not be kept any more.
    pub(super) fn unpin(&mut self, pin: u64) -> Vec<u64> {
        self.pins.retain(|other| *other != pin);
        let oldest = self.pins.first().copied().unwrap_or(NEVER);
        let mut done = Vec::new();
        self.held.retain(|(barrier, sequence)| {
            let is_held = oldest < *barrier;
            if !is_held {
                done.push(*sequence);
            }
            is_held
        });
        done
    }

    /// Hears of a write that is done, and returns its number if nobody holds it.
    pub(super) fn let_go(&mut self, sequence: u64) -> Option<u64> {
        if self.pins.is_empty() {
            return Some(sequence);
        }
        self.held.push((self.pinned + 1, sequence));
        None
    }
}

//! Places that calls take and give back, as many as there are, each in its turn: [`Semaphore`].
//!
//! How many are taken is one atomic word, so that a call for which there is room, and one that finds none and does not
//! wait, take no lock. The word's lowest bit is a *mark* that somebody waits; while it is set, everybody goes through the
//! line's lock. A waiter sets the mark before it looks for room the last time. So whoever gives places back after that
//! look sees the mark, and whoever gave them back before is seen by it: both meet in the order of the one word.

use std::time::Duration;

use crate::call::Call;
use crate::clock::Clock;
use crate::error::Reason;
use crate::sync::{AtomicU64, Mutex, Ordering, const_fn};
use crate::wait::{Line, Turn, Wait, WaitList, Waited, serve_newcomer, serve_waiters};

#[derive(Debug)]
pub(crate) struct Semaphore {
    /// Twice the places taken, plus 1 while somebody waits.
    word: AtomicU64,
    max: AtomicU64,
    list: Mutex<WaitList<Ask>>,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) places: u64,
    /// The first class is 0.
    pub(crate) class: u8,
    /// How much of `max` must stay free for better classes, in millionths.
    pub(crate) kept: u32,
    /// Once it is served: how many places are taken, its own included.
    pub(crate) running: u64,
}

const MARK: u64 = 1;
const PLACE: u64 = 2;

impl Ask {
    pub(crate) const fn places(places: u64) -> Self {
        Self { places, class: 0, kept: 0, running: 0 }
    }
}

impl Semaphore {
    /// How many are given out at most, so that the count, with what was taken above it, stays far from the word's end.
    const MAX: u64 = u64::MAX >> 2;

    const_fn! {
        pub(crate) fn new(max: u64, waiting: usize) -> Self {
            Self {
                word: AtomicU64::new(0),
                max: AtomicU64::new(max),
                list: Mutex::new(WaitList::bounded(waiting)),
            }
        }
    }

    pub(crate) fn change_list(&self, change: impl FnOnce(&mut WaitList<Ask>)) {
        change(&mut self.list.lock());
    }

    pub(crate) fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    pub(crate) fn running(&self) -> u64 {
        self.word.load(Ordering::Relaxed) / PLACE
    }

    pub(crate) fn waiting(&self) -> usize {
        self.list.lock().len()
    }

    pub(crate) fn in_use(&self) -> bool {
        self.word.load(Ordering::Relaxed) != 0
    }

    /// Changes how many places there are; who wait are served by the next to leave, or by [`serve`](Self::serve). A call
    /// that is being admitted at this moment may still see the old number.
    pub(crate) fn replace_max(&self, max: u64) {
        // Relaxed: who leaves next tells it to whom it serves by the word, and `serve` by the lock.
        self.max.store(max, Ordering::Relaxed);
    }

    /// Serves those who wait and fit now.
    pub(crate) fn serve(&self) {
        serve_waiters(self, self.list.lock());
    }

    /// Takes places if there is room and nobody stands before.
    pub(crate) fn try_enter(&self, ask: &mut Ask) -> Turn {
        match self.take(ask, MARK) {
            Some(turn) => turn,
            None if ask.turn(0, self.max()) == Turn::Never => Turn::Never,
            None => serve_newcomer(self, ask),
        }
    }

    /// Takes places, and waits for them at most for `limit` and until the call's deadline; or says why not.
    pub(crate) async fn enter(
        &self,
        mut ask: Ask,
        call: Call,
        limit: Duration,
        clock: &Clock,
    ) -> Result<Ask, Reason> {
        match self.try_enter(&mut ask) {
            Turn::Served => return Ok(ask),
            Turn::Never => return Err(Reason::BulkheadFull),
            Turn::NotYet => {}
        }
        let patience = clock.after(limit);
        match Wait::new(self, clock, patience.min(call.deadline), ask).await {
            Waited::Served(ask) => Ok(ask),
            Waited::TooLate if call.deadline <= patience => Err(Reason::DeadlineExceeded),
            Waited::Full | Waited::TooLate => Err(Reason::BulkheadFull),
        }
    }

    /// Gives places back, and serves those who fit now.
    pub(crate) fn leave(&self, places: u64) {
        if self.give_back(places) & MARK > 0 {
            self.serve();
        }
    }

    /// Takes places that are taken already, whether there is room or not.
    pub(crate) fn overrun(&self, places: u64) {
        self.word.fetch_add(places * PLACE, Ordering::Relaxed);
    }

    /// Returns the word as it was. A ticket that somebody made up cannot take it below zero.
    fn give_back(&self, places: u64) -> u64 {
        let less = |word: u64| Some(((word / PLACE).saturating_sub(places) * PLACE) | (word & MARK));
        // Release: what the call did is seen by the one that gets its place. Acquire: if somebody waits, its mark.
        let given = self.word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
        given.unwrap_or_else(|word| word)
    }

    /// Takes places if there is room; `None` if the word carries a mark of `barred`.
    fn take(&self, ask: &mut Ask, barred: u64) -> Option<Turn> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & barred > 0 {
                return None;
            }
            let turn = ask.turn(word / PLACE, self.max());
            if turn != Turn::Served {
                return Some(turn);
            }
            let taken = word + ask.places * PLACE;
            match self.word.compare_exchange_weak(word, taken, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    ask.running = taken / PLACE;
                    return Some(Turn::Served);
                }
                Err(newer) => word = newer,
            }
        }
    }
}

impl Ask {
    /// Says whether it may be served while so many of `max` places are taken.
    fn turn(&self, running: u64, max: u64) -> Turn {
        let open = if self.kept == 0 { max } else { open_to(self.kept, max) }.min(Semaphore::MAX);
        if self.places > open {
            Turn::Never
        } else if running + self.places > open {
            Turn::NotYet
        } else {
            Turn::Served
        }
    }
}

/// What is left of `max` for a class that must keep so many millionths of it free; rounded down, and at least 1.
fn open_to(kept: u32, max: u64) -> u64 {
    let kept = (u128::from(max) * u128::from(kept)).div_ceil(1_000_000) as u64;
    max.saturating_sub(kept).max(1)
}

impl Line for Semaphore {
    type Slot = Ask;

    fn list(&self) -> &Mutex<WaitList<Ask>> {
        &self.list
    }

    fn serve_one(&self, ask: &mut Ask) -> Turn {
        self.take(ask, 0).unwrap_or(Turn::NotYet)
    }

    fn take_back(&self, ask: Ask) {
        self.give_back(ask.places);
    }

    fn mark(&self, somebody_waits: bool) {
        if somebody_waits {
            self.word.fetch_or(MARK, Ordering::AcqRel);
        } else {
            self.word.fetch_and(!MARK, Ordering::AcqRel);
        }
    }

    fn rank(ask: &Ask) -> u8 {
        ask.class
    }
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_class_leaves_what_is_kept_for_better_ones() {
        assert_eq!([1, 2, 3, 10, 1_000].map(|max| open_to(200_000, max)), [1, 1, 2, 8, 800]);
        assert_eq!(open_to(500_000, Semaphore::MAX), Semaphore::MAX / 2);
    }

    #[test]
    fn a_made_up_ticket_takes_nothing_below_zero() {
        let places = Semaphore::new(3, 1);
        places.leave(7);
        assert_eq!(places.running(), 0);
        assert_eq!(places.try_enter(&mut Ask::places(3)), Turn::Served);
        places.leave(u64::MAX);
        assert!(!places.in_use());
    }
}

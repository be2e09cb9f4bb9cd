//! When is everything that came before a moment done? Counts per stretch of time between such moments: [`Epochs`].

use std::collections::VecDeque;

/// Counts of what is not done yet, by the epoch in which it came. An epoch ends when somebody asks for its end.
#[derive(Debug)]
pub(crate) struct Epochs {
    /// The number of the first count.
    first: u64,
    /// Never empty; the last one is that of the current epoch.
    counts: VecDeque<u64>,
    /// Epochs before this one are waited for.
    wanted: u64,
}

impl Epochs {
    pub(super) fn new() -> Self {
        Self { first: 0, counts: VecDeque::from([0]), wanted: 0 }
    }

    pub(super) fn current(&self) -> u64 {
        self.first + self.counts.len() as u64 - 1
    }

    pub(super) fn enter(&mut self, epoch: u64) {
        self.counts[(epoch - self.first) as usize] += 1;
    }

    pub(super) fn leave(&mut self, epoch: u64) {
        self.counts[(epoch - self.first) as usize] -= 1;
        self.forget_what_is_done();
    }

    fn forget_what_is_done(&mut self) {
        while self.counts.len() > 1 && self.counts[0] == 0 {
            self.counts.pop_front();
            self.first += 1;
        }
    }

    /// Ends the current epoch, which is wanted from now on, and returns the one after it: what was asked for is done
    /// [when that is the first](Self::reached).
    pub(super) fn end(&mut self) -> u64 {
        // Where nothing has come since the last end, there is nothing more to wait for.
        if self.counts[self.counts.len() - 1] > 0 {
            self.counts.push_back(0);
        }
        let next = self.current();
        self.wanted = next;
        self.forget_what_is_done();
        next
    }

    pub(super) fn reached(&self, epoch: u64) -> bool {
        self.first >= epoch
    }

    /// Returns whether somebody waits for something that is not done.
    pub(super) fn wanted(&self) -> bool {
        self.first < self.wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_reached_when_all_before_it_is_done() {
        let mut epochs = Epochs::new();
        assert!(epochs.reached(epochs.first) && !epochs.wanted());
        let nothing = epochs.end();
        assert!(epochs.reached(nothing) && !epochs.wanted());

        let first = epochs.current();
        epochs.enter(first);
        let one = epochs.end();
        let second = epochs.current();
        epochs.enter(second);
        let two = epochs.end();
        assert!(!epochs.reached(one) && !epochs.reached(two) && epochs.wanted());
        // Out of turn: the second is done, and waits for the first.
        epochs.leave(second);
        assert!(!epochs.reached(one) && !epochs.reached(two));
        epochs.leave(first);
        assert!(epochs.reached(one) && epochs.reached(two) && !epochs.wanted());
    }
}

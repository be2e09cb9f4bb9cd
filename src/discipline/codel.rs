//! Whether a queue is overloaded, and which entries to drop then: CoDel, as folly has it.
//!
//! CoDel (K. Nichols and V. Jacobson, "Controlling Queue Delay", 2012) looks at the *shortest* delay within an interval: a
//! burst empties out and has a short one, a standing queue has not. Where the original then drops ever more often, folly
//! drops what has waited longer than twice the target for as long as the overload lasts (B. Maurer, "Fail at Scale",
//! 2015), and never the first of an interval.

/// What decides. All times are in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Codel {
    pub(super) target: u64,
    pub(super) interval: u64,
    min_delay: u64,
    interval_end: u64,
    /// The next delay starts an interval.
    is_reset: bool,
    is_overloaded: bool,
}

impl Codel {
    pub(crate) const fn new(target: u64, interval: u64) -> Self {
        Self { target, interval, min_delay: 0, interval_end: 0, is_reset: true, is_overloaded: false }
    }

    /// One whose first interval begins now: it knows of no delay before.
    pub(crate) const fn from(mut self, now: u64) -> Self {
        self.interval_end = now.saturating_add(self.interval);
        self
    }

    /// Hears the delay of the entry that comes out at `now`, and says whether to drop it.
    pub(crate) fn drops(&mut self, now: u64, delay: u64) -> bool {
        if now > self.interval_end && !self.is_reset {
            self.is_reset = true;
            self.interval_end = now.saturating_add(self.interval);
            self.is_overloaded = self.min_delay > self.target;
        }
        if self.is_reset {
            self.is_reset = false;
            self.min_delay = delay;
            return false;
        }
        self.min_delay = self.min_delay.min(delay);
        self.is_overloaded && self.is_too_old(delay)
    }

    /// Returns whether the last interval had no delay within the target.
    pub(super) const fn is_overloaded(&self) -> bool {
        self.is_overloaded
    }

    /// Returns whether an entry has waited so long that it is dropped under overload.
    pub(super) const fn is_too_old(&self, delay: u64) -> bool {
        delay > self.target.saturating_mul(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// The vectors of folly's CodelTest, with the time told: (waits before, delay, is dropped), in milliseconds.
    fn run(codel: &mut Codel, steps: &[(u64, u64, bool)], now: &mut u64) {
        for (step, (wait, delay, dropped)) in steps.iter().enumerate() {
            *now += wait * MS;
            assert_eq!(codel.drops(*now, delay * MS), *dropped, "step {step} of {steps:?}");
        }
    }

    #[test]
    fn the_basic_vector_holds() {
        // Made at 1 ms, as an interval that ends then.
        let (mut codel, mut now) = (Codel { interval_end: MS, ..Codel::new(5 * MS, 100 * MS) }, MS);
        let steps = [(110, 100, false), (90, 50, false), (0, 50, true), (110, 2, false), (90, 20, true)];
        run(&mut codel, &steps, &mut now);
    }

    #[test]
    fn a_delay_within_twice_the_target_is_not_dropped() {
        run(&mut Codel::new(5 * MS, 100 * MS), &[(0, 20, false), (90, 8, false), (0, 4, false)], &mut 0);
    }

    #[test]
    fn one_request_is_never_dropped() {
        run(&mut Codel::new(5 * MS, 100 * MS), &[(0, 20, false)], &mut 0);
    }

    #[test]
    fn a_changed_target_holds_at_once() {
        let (mut codel, mut now) = (Codel::new(5 * MS, 100 * MS), 0);
        run(&mut codel, &[(0, 40, false)], &mut now);
        codel.target = 40 * MS;
        run(&mut codel, &[(0, 40, false)], &mut now);
        codel.target = 5 * MS;
        run(&mut codel, &[(110, 40, false), (0, 40, true)], &mut now);
    }

    #[test]
    fn a_changed_interval_holds_from_the_next_on() {
        let (mut codel, mut now) = (Codel { interval_end: MS, ..Codel::new(5 * MS, 100 * MS) }, MS);
        run(&mut codel, &[(0, 50, false), (110, 50, false), (0, 50, true)], &mut now);
        codel.interval = 200 * MS;
        run(&mut codel, &[(101, 20, false), (0, 20, true)], &mut now);
        assert_eq!(codel.interval_end, now + 200 * MS);
    }

    /// Trap: one huge delay after an idle time is a burst, not an overload.
    #[test]
    fn one_huge_delay_on_an_idle_queue_drops_nothing_after_it() {
        let (mut codel, mut now) = (Codel::new(5 * MS, 100 * MS), 0);
        run(&mut codel, &[(0, 1, false), (10_000, 9_000, false), (1, 9_000, false), (1, 0, false)], &mut now);
        run(&mut codel, &[(200, 30, false), (1, 30, false)], &mut now);
        assert!(!codel.is_overloaded());
    }
}

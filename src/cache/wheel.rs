//! Whose time is over: a [`Wheel`] of timers over entries that it knows by number.
//!
//! A hierarchical timing wheel (G. Varghese and T. Lauck, "Hashed and hierarchical timing wheels", 1987): seven rings of 64
//! lists, each ring 64 times as coarse as the one below. An entry stands in the ring of the highest digit, to the base of
//! 64, in which its deadline differs from the wheel's time; it moves down as the time comes near it, at most six times.
//! Seven rings hold every deadline that there is, so nothing wraps round.
//!
//! The wheel is only about when entries are *swept*: it may be late by a tick and by what its budget leaves for later, and
//! never early. Who reads an entry compares the deadline itself.

use crate::clock::NEVER;

/// The rings' bits, and how many there are: 7 × 6 bits hold all ticks of 64 bits of nanoseconds.
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const RINGS: usize = 7;
/// A tick is 2²⁴ ns, 17 ms.
const TICK_BITS: u32 = 24;
/// The list of those that a step back in time has left without a place.
const ASTRAY: usize = RINGS * SLOTS;
const LISTS: usize = ASTRAY + 1;
/// As a link: in no list.
pub(super) const UNLINKED: u32 = u32::MAX;
/// As a link: the end of the list of the number beyond this.
const ENDS: u32 = UNLINKED - LISTS as u32;
/// Steps back that threads cause which have read the clock at about the same time, in ticks; others are real ones.
const TOLERATED: u64 = 64;

/// What a wheel keeps in each entry: two links, which are [`UNLINKED`] in a new one, and the deadline, which may move
/// *later* without the wheel being told.
pub(super) trait Links {
    fn deadline(&self, id: u32) -> u64;
    fn next(&self, id: u32) -> u32;
    fn previous(&self, id: u32) -> u32;
    fn set_next(&self, id: u32, next: u32);
    fn set_previous(&self, id: u32, previous: u32);
}

/// The deadlines of entries whose numbers are below 2³² − 450.
///
/// A list is a ring by its `previous` links and ends, by its `next` links, in its own number. So one word a list is
/// enough: the last is the first one's `previous`, and who is the first is found from the last.
#[derive(Debug)]
pub(super) struct Wheel {
    first: Box<[u32; LISTS]>,
    /// Which lists of a ring are not empty.
    used: [u64; RINGS],
    /// Up to where entries have been looked at, in ticks. All in the rings are due then or later.
    time: u64,
}

impl Wheel {
    pub(super) fn new(now: u64) -> Self {
        Self { first: Box::new([UNLINKED; LISTS]), used: [0; RINGS], time: now >> TICK_BITS }
    }

    /// Places an entry by its deadline, wherever it stood before; out of the wheel if that is never.
    pub(super) fn schedule(&mut self, links: &impl Links, id: u32) {
        debug_assert!(id < ENDS);
        self.deschedule(links, id);
        self.place(links, id);
    }

    /// Takes an entry out, if it is in.
    pub(super) fn deschedule(&mut self, links: &impl Links, id: u32) {
        let (previous, next) = (links.previous(id), links.next(id));
        if next == UNLINKED {
            return;
        }
        // The last one's next is its list's number, and only the first one's previous is the last one.
        let above = links.next(previous);
        match (above >= ENDS, next >= ENDS) {
            (true, true) => self.set_first((above - ENDS) as usize, UNLINKED),
            (true, false) => {
                self.set_first((above - ENDS) as usize, next);
                links.set_previous(next, previous);
            }
            (false, true) => {
                links.set_next(previous, next);
                links.set_previous(self.first[(next - ENDS) as usize], previous);
            }
            (false, false) => {
                links.set_next(previous, next);
                links.set_previous(next, previous);
            }
        }
        links.set_next(id, UNLINKED);
        links.set_previous(id, UNLINKED);
    }

    /// Takes out and returns an entry whose deadline is `now` or earlier.
    ///
    /// Each entry that is looked at costs one of the budget, also those that only move to a finer ring. `None`: no more are
    /// due, or the budget is used up.
    pub(super) fn pop(&mut self, links: &impl Links, now: u64, budget: &mut usize) -> Option<u32> {
        // A clock that has come to the end of time does not end what never ends.
        let now = now.min(NEVER - 1);
        let tick = now >> TICK_BITS;
        if tick.saturating_add(TOLERATED) < self.time {
            self.turn_back(links, tick);
        }
        while *budget > 0 {
            let list = self.first_due(tick)?;
            *budget -= 1;
            let id = self.first[list];
            self.deschedule(links, id);
            if links.deadline(id) <= now {
                return Some(id);
            }
            self.place(links, id);
        }
        None
    }

    /// Finds the list that is due first, at `tick` or earlier, and moves the time there.
    fn first_due(&mut self, tick: u64) -> Option<usize> {
        if self.first[ASTRAY] != UNLINKED {
            return Some(ASTRAY);
        }
        // A finer ring lies wholly before the next list of a coarser one. But the list of a coarser ring that the time
        // has just reached comes before all: its entries belong into the finer ones.
        let mut first = None;
        for ring in (0..RINGS).rev() {
            let shift = BITS * ring as u32;
            let at = (self.time >> shift) & (SLOTS as u64 - 1);
            let ahead = self.used[ring] >> at;
            if ahead == 0 {
                // Lists behind the time are empty: they were emptied before the time went on.
                debug_assert_eq!(self.used[ring], 0, "ring {ring} is used behind the time");
                continue;
            }
            let steps = u64::from(ahead.trailing_zeros());
            let due = ((self.time >> shift) + steps) << shift;
            first = Some((ring * SLOTS + (at + steps) as usize, due.max(self.time)));
            if steps == 0 {
                break;
            }
        }
        match first {
            Some((list, due)) if due <= tick => {
                self.time = due;
                Some(list)
            }
            _ => {
                // Nothing is due up to `tick`; a coarser list that begins right then would have been found.
                self.time = self.time.max(tick);
                None
            }
        }
    }

    /// Puts an entry that is in no list where its deadline says.
    fn place(&mut self, links: &impl Links, id: u32) {
        let deadline = links.deadline(id);
        if deadline == NEVER {
            return;
        }
        // Rounded up, so that what is in a list that is due is over.
        let tick = (deadline >> TICK_BITS) + u64::from(deadline & ((1 << TICK_BITS) - 1) != 0);
        let tick = tick.max(self.time);
        let ring = (63 - ((tick ^ self.time) | 1).leading_zeros()) / BITS;
        let slot = (tick >> (BITS * ring)) as usize & (SLOTS - 1);
        self.push(links, ring as usize * SLOTS + slot, id);
    }

    fn push(&mut self, links: &impl Links, list: usize, id: u32) {
        let first = self.first[list];
        if first == UNLINKED {
            links.set_next(id, ENDS + list as u32);
            links.set_previous(id, id);
            self.set_first(list, id);
        } else {
            let last = links.previous(first);
            links.set_next(last, id);
            links.set_previous(id, last);
            links.set_next(id, ENDS + list as u32);
            links.set_previous(first, id);
        }
    }

    fn set_first(&mut self, list: usize, id: u32) {
        self.first[list] = id;
        if let Some(used) = self.used.get_mut(list / SLOTS) {
            let bit = 1 << (list % SLOTS);
            *used = if id == UNLINKED { *used & !bit } else { *used | bit };
        }
    }

    /// Goes back to a time before the wheel's. No entry keeps its place then; they find a new one as they are looked at.
    fn turn_back(&mut self, links: &impl Links, tick: u64) {
        for list in 0..ASTRAY {
            let first = self.first[list];
            if first == UNLINKED {
                continue;
            }
            let last = links.previous(first);
            let next = self.first[ASTRAY];
            if next == UNLINKED {
                links.set_next(last, ENDS + ASTRAY as u32);
            } else {
                links.set_previous(first, links.previous(next));
                links.set_next(last, next);
                links.set_previous(next, last);
            }
            self.set_first(list, UNLINKED);
            self.set_first(ASTRAY, first);
        }
        self.time = tick;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy)]
    struct Entry {
        deadline: u64,
        next: u32,
        previous: u32,
    }

    struct Plain(RefCell<Vec<Entry>>);

    impl Plain {
        fn new(count: usize) -> Self {
            Self(RefCell::new(vec![Entry { deadline: NEVER, next: UNLINKED, previous: UNLINKED }; count]))
        }

        fn set(&self, id: u32, deadline: u64) {
            self.0.borrow_mut()[id as usize].deadline = deadline;
        }
    }

    impl Links for Plain {
        fn deadline(&self, id: u32) -> u64 {
            self.0.borrow()[id as usize].deadline
        }
        fn next(&self, id: u32) -> u32 {
            self.0.borrow()[id as usize].next
        }
        fn previous(&self, id: u32) -> u32 {
            self.0.borrow()[id as usize].previous
        }
        fn set_next(&self, id: u32, next: u32) {
            self.0.borrow_mut()[id as usize].next = next;
        }
        fn set_previous(&self, id: u32, previous: u32) {
            self.0.borrow_mut()[id as usize].previous = previous;
        }
    }

    const TICK: u64 = 1 << TICK_BITS;

    fn all(wheel: &mut Wheel, links: &Plain, now: u64) -> Vec<u32> {
        let mut ids: Vec<u32> = std::iter::from_fn(|| wheel.pop(links, now, &mut { usize::MAX })).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn at_every_boundary_an_entry_leaves_within_a_tick_and_never_early() {
        let starts =
            [0, 1, TICK - 1, TICK, 63 * TICK, 64 * TICK - 1, 64 * 64 * TICK - 1, u64::MAX / 3, u64::MAX - 1];
        for start in starts {
            let edges = (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
            for deadline in edges.flat_map(|edge| [edge, start.saturating_add(edge)]).chain([u64::MAX - TICK])
            {
                if deadline > u64::MAX - TICK {
                    continue;
                }
                let links = Plain::new(1);
                let mut wheel = Wheel::new(start);
                links.set(0, deadline);
                wheel.schedule(&links, 0);
                if deadline > start {
                    assert_eq!(all(&mut wheel, &links, deadline - 1), [0u32; 0], "{start} {deadline}");
                }
                let late = deadline.max(start).saturating_add(TICK - 1);
                assert_eq!(all(&mut wheel, &links, late), [0], "{start} {deadline}");
                assert_eq!((links.next(0), links.previous(0)), (UNLINKED, UNLINKED));
            }
        }
    }

    #[test]
    fn never_is_not_scheduled_and_a_deadline_that_becomes_never_is_not_swept() {
        let links = Plain::new(2);
        let mut wheel = Wheel::new(0);
        wheel.schedule(&links, 0);
        assert_eq!(links.next(0), UNLINKED);
        links.set(1, 5);
        wheel.schedule(&links, 1);
        // A reader may do this on its own. (Trap 16: moka#565.)
        links.set(1, NEVER);
        assert_eq!(all(&mut wheel, &links, u64::MAX), [0u32; 0]);
        assert_eq!(links.next(1), UNLINKED);
        wheel.deschedule(&links, 1);
    }

    #[test]
    fn the_budget_bounds_the_work_and_what_is_left_is_found_later() {
        let links = Plain::new(1000);
        let mut wheel = Wheel::new(0);
        for id in 0..1000 {
            links.set(id, 3_600_000_000_000 + u64::from(id) * 1_000_000);
            wheel.schedule(&links, id);
        }
        let (mut rounds, mut left) = (0, 1000);
        while left > 0 {
            let mut budget = 10;
            while wheel.pop(&links, 7_200_000_000_000, &mut budget).is_some() {
                left -= 1;
            }
            rounds += 1;
            assert!(rounds <= 1000 * RINGS / 10, "an entry moves at most {RINGS} times");
        }
        assert!(rounds >= 100);
    }

    #[test]
    fn a_clock_that_jumps_a_century_ahead_and_back_sweeps_on() {
        let links = Plain::new(3);
        let mut wheel = Wheel::new(1_000 * TICK);
        let century = 3_155_760_000_000_000_000;
        links.set(0, 2 * century);
        wheel.schedule(&links, 0);
        assert_eq!(all(&mut wheel, &links, century), [0u32; 0]);
        for id in [1, 2] {
            links.set(id, 2_000 * TICK + u64::from(id));
            wheel.schedule(&links, id);
        }
        assert_eq!(all(&mut wheel, &links, 1_500 * TICK), [0u32; 0]);
        assert_eq!(all(&mut wheel, &links, 2_001 * TICK), [1, 2]);
        assert_eq!(all(&mut wheel, &links, 2 * century), [0]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u32, u64),
        /// A reader makes it live longer, and does not tell.
        Later(u32, u64),
        Deschedule(u32),
        Advance(u64, usize),
        Back(u64),
    }

    fn far() -> impl Strategy<Value = u64> {
        prop_oneof![
            3 => 0..100 * TICK,
            3 => (0u32..64, 0u64..3).prop_map(|(bit, more)| (1u64 << bit).saturating_sub(1) + more),
            1 => Just(u64::MAX),
            1 => any::<u64>(),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u32..24, far()).prop_map(|(id, after)| Step::Schedule(id, after)),
            1 => (0u32..24, far()).prop_map(|(id, by)| Step::Later(id, by)),
            2 => (0u32..24).prop_map(Step::Deschedule),
            4 => (far(), prop_oneof![Just(usize::MAX), 0usize..6]).prop_map(|(by, budget)| Step::Advance(by, budget)),
            1 => far().prop_map(Step::Back),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..Default::default() })]

        /// Trap 16, and 17.
        #[test]
        fn a_wheel_sweeps_what_a_sorted_map_of_deadlines_would(start in far(), steps in prop::collection::vec(step(), 1..120)) {
            let links = Plain::new(24);
            let mut now = start;
            let mut wheel = Wheel::new(now);
            let mut live: BTreeMap<u32, u64> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Schedule(id, after) => {
                        let deadline = now.saturating_add(after);
                        links.set(id, deadline);
                        wheel.schedule(&links, id);
                        live.insert(id, deadline);
                    }
                    Step::Later(id, by) => if let Some(deadline) = live.get_mut(&id) {
                        *deadline = deadline.saturating_add(by);
                        links.set(id, *deadline);
                    }
                    Step::Deschedule(id) => {
                        wheel.deschedule(&links, id);
                        live.remove(&id);
                    }
                    Step::Advance(by, budget) => {
                        now = now.saturating_add(by);
                        let (mut left, mut count) = (budget, 0);
                        while let Some(id) = wheel.pop(&links, now, &mut left) {
                            count += 1;
                            let deadline = live.remove(&id);
                            prop_assert!(deadline.is_some_and(|deadline| deadline <= now), "early or twice: {:?}", deadline);
                        }
                        prop_assert!(count <= budget);
                        prop_assert!(wheel.time <= (now >> TICK_BITS) + TOLERATED || budget == 0);
                        if budget == usize::MAX && wheel.time <= now >> TICK_BITS {
                            let late = live.values().filter(|at| **at < NEVER && **at <= now.saturating_sub(TICK)).count();
                            prop_assert_eq!(late, 0, "left behind");
                        }
                    }
                    Step::Back(by) => now = now.saturating_sub(by),
                }
            }
            // At the end of time all are over but those that never are.
            let end = u64::MAX - 1;
            let swept = all(&mut wheel, &links, end);
            let due: Vec<u32> = live.iter().filter(|(_, at)| **at <= end - TICK).map(|(id, _)| *id).collect();
            prop_assert!(due.iter().all(|id| swept.contains(id)));
            prop_assert!(swept.iter().all(|id| live[id] < NEVER));
        }
    }
}

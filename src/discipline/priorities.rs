//! Which priorities form a class, and what a class is due: [`Priorities`].

use crate::error::absurd;

/// Classes of [priority](crate::Call::priority): one that goes first always, and below it some that share what is left.
///
/// The first class is strict: it is served whenever it has something. The others share the rest by their weights (deficit
/// round robin), so that none of them starves another. A class can have places of its own in the queue, which no other
/// class fills.
///
/// # Examples
///
/// ```
/// use floodwall::{Call, Priorities, Queue};
///
/// let queue = Queue::new(100).priorities(Priorities::strict_from(200).then(100, 3).then(0, 1));
/// queue.try_push_for("report", Call::new().priority(50)).unwrap();
/// queue.try_push_for("checkout", Call::new().priority(220)).unwrap();
/// assert_eq!(queue.try_pop(), Ok("checkout"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Priorities {
    classes: [Class; Self::MAX],
    count: usize,
}

#[derive(Clone, Copy, Debug)]
struct Class {
    /// The lowest priority that belongs to it.
    from: u8,
    weight: u32,
    reserved: usize,
}

impl Priorities {
    const MAX: usize = 8;

    /// A strict class from priority `from` up. All others form a second class, until [`then`](Self::then) divides them.
    pub const fn strict_from(from: u8) -> Self {
        let rest = Class { from: 0, weight: 1, reserved: 0 };
        let mut classes = [rest; Self::MAX];
        classes[0].from = from;
        Self { classes, count: 1 }
    }

    /// Adds a class below those that there are: from priority `from` up, served by `weight` beside the other classes. The
    /// last class also takes all priorities below its own.
    ///
    /// # Panics
    ///
    /// If `from` is not below that of the class before, if `weight` is 0 or over 1,000, or if there are 8 classes already.
    #[must_use = "returns the changed priorities"]
    #[track_caller]
    pub const fn then(mut self, from: u8, weight: u32) -> Self {
        if self.count == Self::MAX {
            absurd("classes", 9, "must be at most 8");
        }
        if from >= self.classes[self.count - 1].from {
            absurd("from", from as u64, "must be below that of the class before");
        }
        if weight == 0 || weight > 1_000 {
            absurd("weight", weight as u64, "must be between 1 and 1,000");
        }
        self.classes[self.count] = Class { from, weight, reserved: 0 };
        self.count += 1;
        self
    }

    /// Keeps `places` of the queue for the class that was added last. Default: none.
    #[must_use = "returns the changed priorities"]
    pub const fn reserve(mut self, places: usize) -> Self {
        self.classes[self.count - 1].reserved = places;
        self
    }

    /// Returns the number of the class of a priority; the first is 0.
    pub(crate) fn class_of(&self, priority: u8) -> usize {
        let reached = |class: &Class| priority >= class.from;
        self.classes[..self.len()].iter().position(reached).unwrap_or(self.len() - 1)
    }

    /// Returns how many classes there are: with only the strict one named, the rest is a second.
    pub(crate) const fn len(&self) -> usize {
        if self.count == 1 { 2 } else { self.count }
    }

    pub(crate) const fn weight(&self, class: usize) -> u32 {
        self.classes[class].weight
    }

    pub(crate) const fn reserved(&self, class: usize) -> usize {
        self.classes[class].reserved
    }
}

impl Default for Priorities {
    /// Four classes: strict from 192 up, then from 128, from 64 and below, by 4 : 2 : 1.
    fn default() -> Self {
        Self::strict_from(192).then(128, 4).then(64, 2).then(0, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_belongs_to_the_first_class_that_it_reaches() {
        let classes = Priorities::default();
        let of = |priority| classes.class_of(priority);
        assert_eq!([255, 192, 191, 128, 127, 64, 63, 0].map(of), [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(
            [255, 9, 8, 0].map(|priority| Priorities::strict_from(9).class_of(priority)),
            [0, 0, 1, 1]
        );
        let open = Priorities::strict_from(200).then(100, 1);
        assert_eq!([200, 199, 0].map(|priority| open.class_of(priority)), [0, 1, 1]);
    }

    #[test]
    #[should_panic(expected = "from: 100 must be below that of the class before")]
    fn classes_go_downwards() {
        let _ = Priorities::strict_from(50).then(100, 1);
    }
}

//! How fast a queue empties while it has something: the base of every promise about waiting.

/// Learns the time that one entry takes, from the entries that came out while the queue was never empty.
#[derive(Debug)]
pub(crate) struct Drain {
    /// When so many had come out; `None` after the queue was empty.
    mark: Option<(u64, u64)>,
    /// Nanoseconds for each entry; 0 while nothing is known.
    per_entry: f64,
}

/// Each sample counts for an eighth: old enough to smooth, young enough to follow a server that slows down.
const SHARE: f64 = 0.125;

impl Drain {
    pub(crate) const fn new() -> Self {
        Self { mark: None, per_entry: 0.0 }
    }

    /// Hears that the queue is empty: the time until the next entry says nothing.
    #[inline]
    pub(crate) const fn idle(&mut self) {
        // Mostly there is none, and to write that again would take the line from other cores.
        if self.mark.is_some() {
            self.mark = None;
        }
    }

    /// Hears that `count` entries have come out by `now`, since the beginning.
    pub(crate) fn sample(&mut self, now: u64, count: u64) {
        if let Some((then, before)) = self.mark {
            let entries = count.saturating_sub(before);
            if entries == 0 {
                return;
            }
            let each = now.saturating_sub(then) as f64 / entries as f64;
            let share = if self.per_entry == 0.0 { 1.0 } else { SHARE };
            self.per_entry += (each - self.per_entry) * share;
        }
        self.mark = Some((now, count));
    }

    /// Returns how long it takes until `entries` have come out, in nanoseconds; `None` while nothing is known.
    pub(crate) fn time_for(&self, entries: usize) -> Option<u64> {
        (self.per_entry > 0.0).then_some((self.per_entry * entries as f64) as u64)
    }

    /// Returns how many come out per second.
    pub(crate) fn per_second(&self) -> Option<f64> {
        (self.per_entry > 0.0).then(|| 1e9 / self.per_entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_per_entry_is_learned_and_idle_times_do_not_count() {
        let mut drain = Drain::new();
        assert_eq!(drain.time_for(3), None);
        drain.sample(1_000, 0);
        drain.sample(3_000, 2);
        assert_eq!(drain.time_for(3), Some(3_000));
        drain.idle();
        drain.sample(900_000, 3);
        drain.sample(901_000, 4);
        assert_eq!(drain.time_for(3), Some(3_000));
        drain.sample(909_000, 5);
        assert_eq!(drain.time_for(1), Some(1_875));
        assert_eq!(drain.per_second(), Some(1e9 / 1_875.0));
    }
}

//! Rolling counters over slices of time: [`Window`].

use std::time::Duration;

use crate::error::saturating_nanos;

/// How many slices a window has: what it counts is between one window and one window less a slice old.
const SLICES: usize = 10;

/// Counts calls and failures over the last so much time.
///
/// A slice whose time is over is emptied by the first count that lands on it, so there is no sweep and no drift, and
/// a slice that time has left behind is never summed.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// In nanoseconds, at least 1.
    slice: u64,
    slices: [Slice; SLICES],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    /// The number of the slice on the timeline.
    number: u64,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) calls: u64,
    pub(crate) failures: u64,
}

impl Window {
    pub(crate) fn new(length: Duration) -> Self {
        let slice = saturating_nanos(length).div_ceil(SLICES as u64).max(1);
        Self { slice, slices: [Slice::default(); SLICES] }
    }

    pub(crate) fn record(&mut self, now: u64, failed: bool) {
        let number = now / self.slice;
        let slice = &mut self.slices[(number % SLICES as u64) as usize];
        // A clock that went back counts into the newer slice.
        if slice.number < number {
            *slice = Slice { number, counts: Counts::default() };
        }
        slice.counts.calls += 1;
        slice.counts.failures += u64::from(failed);
    }

    pub(crate) fn counts(&self, now: u64) -> Counts {
        let oldest = (now / self.slice).saturating_sub(SLICES as u64 - 1);
        let live = self.slices.iter().filter(|slice| slice.number >= oldest);
        live.fold(Counts::default(), |sum, slice| Counts {
            calls: sum.calls + slice.counts.calls,
            failures: sum.failures + slice.counts.failures,
        })
    }

    pub(crate) fn clear(&mut self) {
        self.slices = [Slice::default(); SLICES];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the obvious twin, a log of every call: what is younger than nine slices counts, what is older than
        /// ten does not.
        #[test]
        fn a_window_counts_what_a_log_counts(
            length in 1u64..5_000,
            calls in prop::collection::vec((0u64..2_000, any::<bool>()), 1..100),
        ) {
            let mut window = Window::new(Duration::from_nanos(length));
            let slice = length.div_ceil(10);
            let (mut now, mut log) = (0, Vec::new());
            for (wait, failed) in calls {
                now += wait;
                window.record(now, failed);
                log.push((now, failed));
                let exact: Vec<_> = log.iter().filter(|call| call.0 / slice + 9 >= now / slice).collect();
                let failures = exact.iter().filter(|call| call.1).count();
                prop_assert_eq!(window.counts(now), Counts { calls: exact.len() as u64, failures: failures as u64 });
            }
        }
    }

    #[test]
    fn an_idle_gap_empties_the_window() {
        let mut window = Window::new(Duration::from_secs(10));
        window.record(0, true);
        window.record(9_999_999_999, false);
        assert_eq!(window.counts(9_999_999_999), Counts { calls: 2, failures: 1 });
        assert_eq!(window.counts(10_000_000_000), Counts { calls: 1, failures: 0 });
        assert_eq!(window.counts(u64::MAX), Counts::default());
    }

    #[test]
    fn a_window_of_a_nanosecond_and_one_of_five_centuries_work() {
        for length in [Duration::from_nanos(1), Duration::MAX] {
            let mut window = Window::new(length);
            window.record(5, true);
            assert_eq!(window.counts(5), Counts { calls: 1, failures: 1 });
        }
    }
}

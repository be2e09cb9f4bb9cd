//! Which priorities to admit as a queue fills: the lowest of those that came lately go first.
//!
//! The fill between two marks is a share, and the priorities that make up that share of the recent calls, from the lowest
//! up, are refused. So it refuses as much as is needed whatever the priorities are, as DAGOR does for WeChat (H. Zhou and
//! others, "Overload Control for Scaling WeChat Microservices", 2018) and the prioritizers of Netflix and failsafe-go.

/// How the priorities of the recent calls are spread.
#[derive(Debug)]
pub(crate) struct Threshold {
    counts: [u32; 256],
    total: u32,
}

/// So many calls are remembered; then all counts are halved.
const MEMORY: u32 = 2_000;

/// From this fill on calls are refused.
const LOW: f64 = 0.5;

impl Threshold {
    pub(crate) const fn new() -> Self {
        Self { counts: [0; 256], total: 0 }
    }

    /// Counts a call of `priority`, and says whether it is admitted while a share `fill` of the queue is taken.
    pub(crate) fn admits(&mut self, priority: u8, fill: f64) -> bool {
        self.counts[usize::from(priority)] += 1;
        self.total += 1;
        if self.total >= MEMORY {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
        let refused = (fill - LOW) / (1.0 - LOW);
        if refused <= 0.0 {
            return true;
        }
        // Those of its own priority count with it: where all have the same, none is refused before the queue is full.
        let below: u32 = self.counts[..=usize::from(priority)].iter().sum();
        f64::from(below) > refused * f64::from(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_share_of_the_recent_priorities_is_refused_as_the_queue_fills() {
        let mut threshold = Threshold::new();
        for _ in 0..100 {
            assert!([10, 20, 30, 40].into_iter().all(|priority| threshold.admits(priority, 0.5)));
        }
        let admitted = |threshold: &mut Threshold, fill| {
            [10, 20, 30, 40].map(|priority| threshold.admits(priority, fill))
        };
        assert_eq!(admitted(&mut threshold, 0.6), [true; 4]);
        assert_eq!(admitted(&mut threshold, 0.7), [false, true, true, true]);
        assert_eq!(admitted(&mut threshold, 0.8), [false, false, true, true]);
        assert_eq!(admitted(&mut threshold, 0.95), [false, false, false, true]);
    }

    #[test]
    fn where_all_matter_the_same_none_is_refused() {
        let mut threshold = Threshold::new();
        assert!((0..5_000).all(|_| threshold.admits(128, 0.99)));
    }

    #[test]
    fn it_follows_a_change_of_the_mix() {
        let mut threshold = Threshold::new();
        (0..5_000).for_each(|_| assert!(threshold.admits(10, 0.0)));
        (0..5_000).for_each(|_| assert!(threshold.admits(200, 0.0)));
        assert!(!threshold.admits(10, 0.6));
    }
}

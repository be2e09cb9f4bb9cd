//! The histogram: quantiles within the stated error, merged, and recorded by many threads.
#![cfg(not(floodwall_loom))]

mod support;

use std::time::Duration;

use floodwall::Histogram;
use proptest::prelude::*;
use support::{millis, nanos, secs};

/// The smallest sample that a share `q` of all does not exceed.
fn exact(sorted: &[u64], q: f64) -> u64 {
    sorted[((q * sorted.len() as f64).ceil() as usize).max(1) - 1]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_quantile_is_within_a_thirty_second_of_the_sorted_lists(
        // Evenly over the magnitudes, not over the numbers.
        samples in prop::collection::vec((0u32..40, any::<u64>()), 1..300),
        q in 0.0..=1.0f64,
        split in any::<prop::sample::Index>(),
    ) {
        let mut samples: Vec<u64> =
            samples.into_iter().map(|(bits, random)| (1 << bits) | (random & ((1 << bits) - 1))).collect();
        let (mine, theirs) = (Histogram::new(), Histogram::new());
        for (number, sample) in samples.iter().enumerate() {
            let histogram = if number < split.index(samples.len()) { &mine } else { &theirs };
            histogram.record(nanos(*sample));
        }
        mine.merge(&theirs);
        samples.sort_unstable();
        prop_assert_eq!(mine.count(), samples.len() as u64);
        for q in [q, 0.0, 0.5, 0.95, 0.99, 0.999, 1.0] {
            let (told, exact) = (mine.quantile(q).unwrap().as_nanos() as u64, exact(&samples, q));
            prop_assert!(told.abs_diff(exact) * 32 <= exact, "q {}: {} instead of {}", q, told, exact);
        }
        let buckets: Vec<_> = mine.buckets().collect();
        prop_assert_eq!(buckets.iter().map(|bucket| bucket.1).sum::<u64>(), mine.count());
        for (longest, _) in &buckets {
            let below = buckets.iter().filter(|bucket| bucket.0 <= *longest).map(|bucket| bucket.1).sum::<u64>();
            let really = samples.iter().filter(|sample| nanos(**sample) <= *longest).count() as u64;
            prop_assert_eq!(below, really);
        }
    }
}

#[test]
fn nothing_recorded_has_no_quantile() {
    let empty = Histogram::new();
    assert_eq!((empty.count(), empty.quantile(0.5), empty.buckets().count()), (0, None, 0));
}

#[test]
fn extremes_are_counted_at_the_ends() {
    let histogram = Histogram::new();
    histogram.record(Duration::ZERO);
    assert_eq!(histogram.quantile(1.0), Some(Duration::ZERO));
    histogram.record(Duration::MAX);
    let longest = histogram.quantile(1.0).unwrap();
    assert!(longest > secs(17 * 60) && longest < secs(19 * 60), "{longest:?}");
}

#[test]
fn a_clone_is_a_snapshot() {
    let histogram = Histogram::new();
    histogram.record(millis(1));
    let snapshot = histogram.clone();
    histogram.record(millis(2));
    assert_eq!((snapshot.count(), histogram.count()), (1, 2));
    assert!(format!("{histogram:?}").starts_with("Histogram { count: 2, p50: Some("));
}

#[test]
fn no_count_is_lost_between_threads() {
    static SHARED: Histogram = Histogram::new();
    std::thread::scope(|scope| {
        for thread in 1..=8 {
            scope.spawn(move || (0..10_000).for_each(|_| SHARED.record(millis(thread))));
        }
    });
    assert_eq!(SHARED.count(), 80_000);
    let median = SHARED.quantile(0.5).unwrap();
    assert!(median.abs_diff(millis(4)) <= millis(4) / 32, "{median:?}");
}

#[test]
#[should_panic(expected = "q: 95 must be between 0 and 1")]
fn a_percentage_is_not_a_quantile() {
    let _ = Histogram::new().quantile(95.0);
}

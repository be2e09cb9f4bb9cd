//! Hit ratios of the default policy: on loads that each break some policy, and on traces where they are at hand.
//!
//! The traps of caches that concern eviction have numbers: 14 (tiny capacities), 15 (entries without weight), 23 (an attack on
//! frequencies), 24 (a sketch that stops ageing) stand beside the cores, in `src/cache/evict/tests.rs`; 26 (a learner that
//! oscillates, or is worse than LRU) is here.
#![cfg(not(floodwall_loom))]

use std::io::Read;
use std::path::Path;

use floodwall::cache::{Eviction, Simulator};

/// SplitMix64.
fn hash(key: u64) -> u64 {
    let mut z = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Hits in percent.
fn replay(eviction: Eviction, capacity: u64, keys: &[u64]) -> f64 {
    let mut simulator = Simulator::new(eviction, capacity);
    let hits = keys.iter().filter(|&&key| simulator.access(hash(key), 1)).count();
    assert!(simulator.len() as u64 <= capacity);
    hits as f64 * 100.0 / keys.len() as f64
}

/// Keys that are asked for a second time after `distance` others, and never again.
fn twice(keys: u64, distance: u64, start: u64) -> impl Iterator<Item = u64> {
    (start..start + keys).flat_map(move |key| [key + distance, key])
}

fn zipf(requests: u64, keys: usize) -> impl Iterator<Item = u64> {
    let sums = (1..=keys)
        .scan(0.0, |sum, rank| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        })
        .collect::<Vec<_>>();
    (0..requests).map(move |draw| {
        let draw = hash(draw) as f64 / u64::MAX as f64 * sums[sums.len() - 1];
        sums.partition_point(|&sum| sum < draw) as u64
    })
}

/// Trap 26: recency, then a loop that empties an LRU, then recency again.
#[test]
fn a_splice_of_recency_and_loops_is_followed_both_ways() {
    for capacity in [512u64, 4_096, 8_192] {
        let distance = capacity / 4;
        let part = capacity * 40;
        let looped = (0..part * 2).map(|time| time % (capacity * 2));
        let keys = twice(part, distance, 1 << 40)
            .chain(looped)
            .chain(twice(part, distance, 1 << 41))
            .collect::<Vec<_>>();
        let (ours, lru) =
            (replay(Eviction::Adaptive, capacity, &keys), replay(Eviction::Lru, capacity, &keys));
        // The optimum is half of the requests in each part. LRU has that of the first and the last.
        assert!((32.0..34.0).contains(&lru), "{capacity}: {lru}");
        assert!(ours > lru + 8.0, "{capacity}: {ours}, LRU {lru}");
    }
}

#[test]
fn a_loop_larger_than_the_cache_is_hit_as_far_as_it_fits() {
    let keys = (0..200_000).map(|time| time % 1_000).collect::<Vec<_>>();
    assert_eq!(replay(Eviction::Lru, 700, &keys), 0.0);
    let ours = replay(Eviction::Adaptive, 700, &keys);
    assert!((64.0..70.0).contains(&ours), "{ours}");
}

#[test]
fn scans_do_not_wash_out_what_is_asked_for_often() {
    let mut often = zipf(200_000, 20_000);
    let mut scan = 1 << 40..;
    let keys = (0..300_000u64)
        .filter_map(|time| if time / 1_000 % 3 == 2 { scan.next() } else { often.next() })
        .collect::<Vec<_>>();
    let (ours, lru) = (replay(Eviction::Adaptive, 2_000, &keys), replay(Eviction::Lru, 2_000, &keys));
    assert!(ours > lru + 5.0, "{ours}, LRU {lru}");
}

#[test]
fn what_is_asked_for_often_may_change() {
    let keys = zipf(300_000, 20_000).zip(0..).map(|(rank, time)| rank + time / 30).collect::<Vec<_>>();
    let (ours, lru) = (replay(Eviction::Adaptive, 1_000, &keys), replay(Eviction::Lru, 1_000, &keys));
    assert!(ours > lru - 0.5, "{ours}, LRU {lru}");
}

#[test]
fn a_heavy_newcomer_stays_until_others_have_come() {
    let mut simulator = Simulator::new(Eviction::Adaptive, 100);
    for _ in 0..4 {
        for key in 0..100 {
            simulator.access(hash(key), 1);
        }
    }
    assert!(!simulator.access(hash(1_000), 40));
    assert!(simulator.access(hash(1_000), 40));
    assert_eq!(simulator.weight(), 100);
    assert_eq!(simulator.len(), 61);
}

#[test]
fn a_weight_may_change() {
    for eviction in [Eviction::Adaptive, Eviction::Lru] {
        let mut simulator = Simulator::new(eviction, 100);
        for key in 0..10 {
            simulator.access(hash(key), 10);
        }
        assert!(simulator.access(hash(9), 55));
        assert!(simulator.weight() <= 100, "{eviction:?}: {}", simulator.weight());
        assert!(!simulator.is_empty());
    }
}

/// Small cells of `../shared/traces/gate.csv`; all of them: `cargo run --release --example cache_sim -- --gate ../shared/traces`.
#[test]
fn real_traces_are_hit_as_the_design_notes_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces");
    if !folder.is_dir() {
        println!("skipped: there are no traces in {}", folder.display());
        return;
    }
    // LRU's figure is exact; ours may move a little with every change.
    for (name, capacity, lru, at_least) in [
        ("2_pools", 100, 21.95, 48.0),
        ("multi2", 2_000, 49.00, 69.0),
        ("sprite", 600, 83.19, 82.0),
        ("cpp", 100, 69.71, 74.0),
        ("zigzag", 800, 38.41, 35.5),
        ("web07", 1_000, 50.41, 53.5),
    ] {
        let file = std::fs::File::open(folder.join(format!("{name}.keys.zst"))).unwrap();
        let mut text = String::new();
        ruzstd::decoding::StreamingDecoder::new(file).unwrap().read_to_string(&mut text).unwrap();
        let keys = text.lines().map(|line| line.parse().unwrap()).collect::<Vec<_>>();
        let exact = replay(Eviction::Lru, capacity, &keys);
        assert!((exact - lru).abs() < 0.01, "{name} {capacity}: LRU has {exact}");
        let ours = replay(Eviction::Adaptive, capacity, &keys);
        assert!(ours >= at_least, "{name} {capacity}: {ours}");
    }
}

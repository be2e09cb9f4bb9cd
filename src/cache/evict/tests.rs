//! What a core promises whatever is asked of it, and the traps of caches before this one (numbers as in `tests/cache_sim.rs`).

use std::cell::Cell;
use std::collections::VecDeque;

use proptest::prelude::*;

use super::choice::{CHOICES, FIRST, Ghosts};
use super::ghost::Ghost;
use super::mini::Mini;
use super::sketch::Sketch;
use super::*;
use crate::rng::Rng;

/// Nodes that count how often they are asked for.
struct Counted {
    nodes: Vec<Node>,
    weights: Vec<u64>,
    asked: Cell<usize>,
}

impl Counted {
    fn new(len: usize) -> Self {
        let nodes = (0..len).map(|_| Node::new()).collect();
        Self { nodes, weights: vec![1; len], asked: Cell::new(0) }
    }

    fn admit(&self, core: &mut Core, id: u32) {
        self.nodes[id as usize].renew(Rng::seeded(id.into()).next() as u32);
        core.admit(self, id);
    }
}

impl Nodes for Counted {
    fn node(&self, id: u32) -> &Node {
        self.asked.set(self.asked.get() + 1);
        &self.nodes[id as usize]
    }

    fn weight(&self, id: u32) -> u64 {
        self.weights[id as usize]
    }
}

/// Keys and weights, the least recently used first.
#[derive(Default)]
struct PlainLru {
    entries: VecDeque<(u64, u64)>,
}

impl PlainLru {
    fn access(&mut self, key: u64, weight: u64, capacity: u64) -> bool {
        let place = self.entries.iter().position(|&(other, _)| other == key);
        if let Some(place) = place {
            self.entries.remove(place);
        }
        if place.is_some() || weight <= capacity {
            self.entries.push_back((key, weight));
        }
        while self.entries.iter().map(|entry| entry.1).sum::<u64>() > capacity {
            // What weighs nothing would make no room.
            let Some(victim) = self.entries.iter().position(|entry| entry.1 > 0) else { break };
            self.entries.remove(victim);
        }
        place.is_some()
    }
}

fn count(sketch: &mut Sketch, hash: u32, uses: u8, entries: usize) {
    let seen = sketch.see(hash);
    sketch.count(seen, uses, entries);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn an_lru_is_a_plain_lru(
        capacity in 0u64..20,
        weighted in any::<bool>(),
        steps in prop::collection::vec((0u64..30, 0u64..6), 0..300),
    ) {
        let mut mini = Mini::<u64>::new(Eviction::Lru, capacity);
        let mut plain = PlainLru::default();
        for (key, weight) in steps {
            let weight = if weighted { weight } else { 1 };
            prop_assert_eq!(mini.access(key, weight), plain.access(key, weight, capacity));
            prop_assert_eq!(mini.len(), plain.entries.len());
            prop_assert_eq!(mini.weight(), plain.entries.iter().map(|entry| entry.1).sum::<u64>());
        }
    }

    /// Whatever is done, an entry that was admitted leaves once, and one that weighs nothing is never a victim.
    #[test]
    fn who_was_admitted_leaves_once(
        lru in any::<bool>(),
        steps in prop::collection::vec((0u8..14, 0u32..40, 0u64..4), 0..400),
    ) {
        let eviction = if lru { Eviction::Lru } else { Eviction::Adaptive };
        let mut core = Core::new(eviction, 1);
        let mut nodes = Counted::new(40);
        let mut live = [false; 40];
        for (step, id, weight) in steps {
            let place = id as usize;
            match step {
                0..=4 if !live[place] => {
                    nodes.weights[place] = weight;
                    nodes.admit(&mut core, id);
                    live[place] = true;
                }
                0..=4 => core.reuse(&nodes, id),
                5 | 6 => nodes.nodes[place].touch(),
                7 if live[place] => {
                    core.remove(&nodes, id);
                    live[place] = false;
                }
                8 if live[place] => {
                    let old = std::mem::replace(&mut nodes.weights[place], weight);
                    core.reweigh(&nodes, id, old);
                }
                9 => core.choose(CHOICES[place % CHOICES.len()]),
                10 | 11 if live[place] => {
                    let Some(new) = live.iter().position(|live| !live) else { continue };
                    nodes.weights[new] = weight;
                    nodes.nodes[new].renew(nodes.nodes[place].hash());
                    core.replace(&nodes, id, new as u32);
                    (live[place], live[new]) = (false, true);
                }
                _ => {
                    let victim = core.victim(&nodes);
                    let can_leave = live.iter().zip(&nodes.weights).any(|(&live, &weight)| live && weight > 0);
                    prop_assert_eq!(victim.is_some(), can_leave);
                    if let Some(victim) = victim {
                        prop_assert!(live[victim as usize] && nodes.weights[victim as usize] > 0);
                        live[victim as usize] = false;
                    }
                }
            }
            for (place, &live) in live.iter().enumerate() {
                prop_assert_eq!(nodes.nodes[place].place() > 0, live);
            }
            let sum = live.iter().zip(&nodes.weights).filter(|(live, _)| **live).map(|(_, weight)| weight).sum::<u64>();
            prop_assert_eq!(core.weight(), sum);
        }
        while let Some(victim) = core.victim(&nodes) {
            prop_assert!(std::mem::take(&mut live[victim as usize]));
        }
        prop_assert!(live.iter().zip(&nodes.weights).all(|(&live, &weight)| !live || weight == 0));
    }

    /// Halving lines when they are looked at is halving all of them at once.
    #[test]
    fn a_sketch_halves_what_it_has_counted(keys in prop::collection::vec((0u32..50, 1u8..5), 0..600)) {
        let mut sketch = Sketch::new();
        let (mut counts, mut counted) = ([0u64; 50], 0);
        for (key, uses) in keys {
            let hash = Rng::seeded(key.into()).next() as u32;
            sketch.fit(4_096);
            count(&mut sketch, hash, uses, 16);
            // The counter is capped before it is halved.
            counts[key as usize] = (counts[key as usize] + u64::from(uses)).min(15);
            counted += u64::from(uses);
            if counted >= 160 {
                counted = 0;
                counts.iter_mut().for_each(|count| *count /= 2);
            }
        }
        for (key, &count) in (0u64..).zip(&counts) {
            // With so much room, two keys seldom share all of their counters.
            prop_assert_eq!(u64::from(sketch.see(Rng::seeded(key).next() as u32).count), count);
        }
    }
}

/// Trap 14.
#[test]
fn tiny_capacities_work_and_keep_the_newest() {
    for eviction in [Eviction::Adaptive, Eviction::Lru] {
        for capacity in 0..6 {
            let mut mini = Mini::<u64>::new(eviction, capacity);
            for key in 0..200 {
                assert!(!mini.access(key, 1));
                assert_eq!(mini.len() as u64, capacity.min(key + 1), "{eviction:?} {capacity}");
                assert_eq!(mini.access(key, 1), capacity > 0, "{eviction:?} {capacity}: the newest stays");
            }
        }
    }
}

#[test]
fn what_is_too_heavy_is_not_taken_in_and_costs_nobody_a_place() {
    let mut mini = Mini::<u64>::new(Eviction::Adaptive, 10);
    assert!((0..10).all(|key| !mini.access(key, 1)));
    assert!(!mini.access(99, 11));
    assert!(!mini.access(99, 11));
    assert!((0..10).all(|key| mini.access(key, 1)));
}

/// Trap 15.
#[test]
fn entries_without_weight_stay_and_do_not_make_eviction_run_in_circles() {
    for eviction in [Eviction::Adaptive, Eviction::Lru] {
        let mut core = Core::new(eviction, 1);
        let mut nodes = Counted::new(10_001);
        nodes.weights[..10_000].fill(0);
        (0..10_000).for_each(|id| nodes.admit(&mut core, id));
        nodes.asked.set(0);
        assert_eq!(core.victim(&nodes), None);
        nodes.admit(&mut core, 10_000);
        assert_eq!(core.victim(&nodes), Some(10_000));
        assert!(nodes.asked.get() < 50, "{} nodes were looked at", nodes.asked.get());
    }
}

#[test]
fn an_entry_that_replaces_another_stands_in_its_place_and_was_used() {
    let nodes = Counted::new(4);
    let mut core = Core::new(Eviction::Lru, 1);
    (0..3).for_each(|id| nodes.admit(&mut core, id));
    nodes.nodes[3].renew(0);
    core.replace(&nodes, 0, 3);
    assert_eq!([1, 2, 3, 3].map(|_| core.victim(&nodes)), [Some(1), Some(2), Some(3), None]);

    let mut core = Core::new(Eviction::Adaptive, 1);
    (0..3).for_each(|id| nodes.admit(&mut core, id));
    nodes.nodes[0].touch();
    nodes.nodes[3].renew(0);
    core.replace(&nodes, 0, 3);
    assert_eq!((nodes.nodes[3].uses(), nodes.nodes[0].place(), core.weight()), (2, 0, 3));
    let mut left = [(); 3].map(|()| core.victim(&nodes));
    left.sort_unstable();
    assert_eq!(left, [Some(1), Some(2), Some(3)]);
}

#[test]
fn a_victim_is_found_in_bounded_time_though_all_are_in_use() {
    for choice in CHOICES {
        let mut core = Core::new(Eviction::Adaptive, 1);
        core.choose(choice);
        let nodes = Counted::new(20_000);
        for id in 0..20_000 {
            nodes.admit(&mut core, id);
            (0..3).for_each(|_| nodes.nodes[id as usize].touch());
        }
        for _ in 0..100 {
            nodes.asked.set(0);
            assert!(core.victim(&nodes).is_some());
            assert!(nodes.asked.get() < 500, "{choice:?}: {} nodes were looked at", nodes.asked.get());
        }
    }
}

/// Trap 23.
#[test]
fn a_key_that_is_asked_for_gets_in_though_all_others_look_more_used() {
    let mut core = Core::new(Eviction::Adaptive, 1);
    let nodes = Counted::new(2_000);
    // Ninety entries with the hash of one that was made to look very much used.
    for round in 0..30 {
        for id in 0..90 {
            nodes.nodes[id].renew(7);
            core.admit(&nodes, id as u32);
        }
        for _ in 0..if round < 29 { 90 } else { 0 } {
            core.victim(&nodes).unwrap();
        }
    }
    // Two keys are asked for again and again. By frequency alone they would never get past ninety that are kept in use.
    nodes.admit(&mut core, 1_001);
    assert_eq!(core.victim(&nodes), Some(89), "it was in the window");
    let tries = (0..20_000).find(|number| {
        (0..89).for_each(|id| (0..3).for_each(|_| nodes.nodes[id].touch()));
        nodes.admit(&mut core, 1_000 + number % 2);
        core.victim(&nodes).unwrap() < 89
    });
    assert!(tries.is_some_and(|tries| tries > 5), "{tries:?}");
}

/// Trap 24.
#[test]
fn a_sketch_keeps_ageing_after_it_became_too_large() {
    let mut sketch = Sketch::new();
    sketch.fit(65_536);
    count(&mut sketch, 7, 15, 65_536);
    sketch.fit(256);
    for other in 0..256u32 * 10 {
        count(&mut sketch, Rng::seeded(other.into()).next() as u32, 1, 256);
    }
    let seen = sketch.see(7).count;
    assert!(seen <= 7, "{seen}");
    assert!(sketch.memory() <= 256 * 64, "{} bytes", sketch.memory());
}

#[test]
fn a_sketch_that_grows_knows_what_it_knew() {
    let mut sketch = Sketch::new();
    sketch.fit(1_000);
    for key in 0..100 {
        count(&mut sketch, Rng::seeded(key).next() as u32, 1 + key as u8 % 4, 1_000);
    }
    let before = (0..100).map(|key| sketch.see(Rng::seeded(key).next() as u32).count).collect::<Vec<_>>();
    sketch.fit(100_000);
    let after = (0..100).map(|key| sketch.see(Rng::seeded(key).next() as u32).count).collect::<Vec<_>>();
    assert_eq!(before, after);
    assert!((0..100).all(|key| before[key] > key as u8 % 4));
}

#[test]
fn a_ghost_remembers_about_as_many_keys_as_there_are_entries() {
    let mut ghost = Ghost::new();
    let hash = |key| Rng::seeded(key).next() as u32;
    ghost.fit(1_000);
    (0..10_000).for_each(|key| ghost.remember(hash(key)));
    // One that grows forgets nothing.
    ghost.fit(1_010);
    let known = (0..10_000).filter(|&key| ghost.take(hash(key))).collect::<Vec<_>>();
    assert!((800..1_100).contains(&known.len()), "{}", known.len());
    let recent = known.iter().filter(|&&key| key >= 8_800).count();
    assert!(recent * 10 > known.len() * 8, "{recent} of {}", known.len());
    assert!(known.iter().filter(|&&key| ghost.take(hash(key))).count() < 20, "they were taken out");
}

/// All of it together: sketch, ghost and simulations, at a million entries in sixteen shards.
#[test]
fn a_million_entries_cost_less_than_ten_bytes_each() {
    let nodes = Counted::new(62_500);
    let mut core = Core::new(Eviction::Adaptive, 1);
    (0..62_500).for_each(|id| nodes.admit(&mut core, id));
    let mut selector = Selector::new(1_000_000);
    for hash in 0..100_000 {
        selector.access(hash, false);
    }
    let bytes = (core.memory() * 16 + selector.memory()) as f64 / 1e6;
    assert!(bytes < 10.0, "{bytes} bytes an entry");
    assert!(bytes > 4.0, "{bytes} bytes an entry cannot be all");
}

#[test]
fn simulations_have_room_for_no_more_than_can_be_in_them() {
    for (entries, most) in [(64, 28_000), (1_024, 190_000), (1_000_000, 750_000)] {
        let mut selector = Selector::new(entries);
        for key in 0..20_000 {
            selector.access(Rng::seeded(key).next() as u32, false);
        }
        assert!(selector.memory() <= most, "{} bytes for {entries} entries", selector.memory());
    }
}

#[test]
fn choices_are_distinct_and_the_first_is_one_of_them() {
    assert_eq!(Choice::default(), CHOICES[FIRST]);
    for (number, choice) in CHOICES.iter().enumerate() {
        assert!(CHOICES[..number].iter().all(|other| other != choice));
        assert!((1..1024).contains(&choice.window));
    }
    assert!(CHOICES.iter().any(|choice| choice.ghost == Ghosts::Alone));
}

#[test]
fn a_selector_goes_over_to_a_large_window_for_a_stack_and_back_for_a_loop() {
    let mut cache = Mini::<u32>::new(Eviction::Adaptive, 1_000);
    let mut selector = Selector::new(1_000);
    let mut access = |selector: &mut Selector, hash| {
        let is_hit = cache.access(hash, 1);
        if let Some(choice) = selector.access(hash, is_hit) {
            cache.choose(choice);
        }
        is_hit
    };
    let mut rng = Rng::seeded(1);
    let mut stack = VecDeque::new();
    for new in 0..60_000u32 {
        // Recently used keys are asked for again, soon, and then never more.
        stack.push_front(new.wrapping_mul(0x9e37_79b1));
        stack.truncate(700);
        access(&mut selector, stack[0]);
        let again = stack[rng.up_to(stack.len() as u64 - 1) as usize];
        access(&mut selector, again);
    }
    assert!(selector.choice().window > 300, "{:?}", selector.choice());
    let ratios = selector.ratios().unwrap();
    assert!(ratios.half < ratios.same && ratios.same <= ratios.double + 0.02, "{ratios:?}");
    let mut hits = 0;
    for request in 0..100_000u32 {
        hits += u32::from(access(&mut selector, (request % 1_500).wrapping_mul(0x85eb_ca6b)));
    }
    assert!(hits > 50_000, "{hits} of at most 66,000");
    assert!(selector.choice().window < 50, "{:?}", selector.choice());
    let ratios = selector.ratios().unwrap();
    assert!(ratios.double > 0.9 && ratios.half < 0.5, "{ratios:?}");
}

/// Hits in percent of keys drawn by Zipf's law, with scans between, by shards that share one selector.
fn sharded(shards: usize, capacity: u64, keys: usize, requests: u64) -> f64 {
    let sums = (1..=keys)
        .scan(0.0, |sum, rank| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        })
        .collect::<Vec<_>>();
    let mut minis = (0..shards)
        .map(|_| Mini::<u64>::new(Eviction::Adaptive, capacity / shards as u64))
        .collect::<Vec<_>>();
    let mut selector = Selector::new(capacity);
    let mut hits = 0;
    for time in 0..requests {
        let draw = Rng::seeded(time).next() as f64 / u64::MAX as f64 * sums[keys - 1];
        let rank = sums.partition_point(|&sum| sum < draw) as u64;
        let key = if time / (capacity / 2) % 3 == 2 { 1 << 40 | time } else { rank };
        let hash = Rng::seeded(!key).next();
        let is_hit = minis[hash as usize % shards].access(hash, 1);
        hits += u64::from(is_hit);
        let short = (hash >> 32) as u32;
        if Selector::is_sampled(short, selector.limit()) {
            if let Some(choice) = selector.access(short, is_hit) {
                minis.iter_mut().for_each(|mini| mini.choose(choice));
            }
        }
    }
    hits as f64 * 100.0 / requests as f64
}

#[test]
fn shards_hit_what_one_cache_hits() {
    let one = sharded(1, 8_192, 100_000, 200_000);
    let many = sharded(64, 8_192, 100_000, 200_000);
    assert!((one - many).abs() < 1.0, "one {one}, many {many}");
}

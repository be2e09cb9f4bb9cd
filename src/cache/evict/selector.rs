//! Which way of the default policy would have hit most lately: small simulations tell.

use super::Eviction;
use super::choice::{CHOICES, Choice, FIRST};
use super::mini::Mini;

/// Runs every [`Choice`] on a sample of the keys, with as small a share of the capacity (C. Waldspurger, T. Saemundsson,
/// I. Ahmad and N. Park, "Cache modeling and optimization using miniature simulations", 2017).
///
/// A key is in the sample by its hash, so all of its accesses are, and hot keys weigh what they weigh in the
/// cache; that a very hot one is in or out moves all scores alike. A switch empties a part of the cache, so
/// it has to be worth it: the lead is more than chance would give, for as many accesses as the two ways disagreed in,
/// and more than what a change of the window costs.
#[derive(Debug)]
pub(crate) struct Selector {
    arms: [Mini<u32>; ARMS],
    /// The present choice with half and with twice the capacity.
    half: Mini<u32>,
    double: Mini<u32>,
    hits: [f32; ARMS],
    /// In how many accesses one hit and the other did not.
    only: [[f32; ARMS]; ARMS],
    half_hits: f32,
    double_hits: f32,
    seen: f32,
    /// Accesses until the next decision.
    due: u32,
    present: usize,
    /// Hashes up to this one are in the sample, once they are mixed.
    limit: u32,
}

const ARMS: usize = CHOICES.len();

/// The hit ratio that a cache would have had lately, by the simulations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratios {
    pub(crate) half: f64,
    pub(crate) same: f64,
    pub(crate) double: f64,
}

impl Selector {
    /// How many entries a simulation has at least, if the cache has as many.
    const SMALLEST: u64 = 512;
    const LARGEST: u64 = 2048;
    /// Decisions in the time in which a simulation sees as many accesses as it has entries.
    const DECISIONS: u64 = 4;
    /// What a score keeps from one decision to the next: half of it after 32 times as many accesses as entries.
    const FADE: f32 = 0.994_6;
    /// How many standard deviations a lead has to be.
    const SURE: f32 = 2.0;
    /// Hits that it costs to fill a window anew, for each of its entries.
    const COST: f32 = 0.25;

    /// For a cache of about so many entries.
    pub(crate) fn new(entries: u64) -> Self {
        let mini = || Mini::new(Eviction::Adaptive, 1);
        let mut selector = Self {
            arms: std::array::from_fn(|_| mini()),
            half: mini(),
            double: mini(),
            hits: [0.0; ARMS],
            only: [[0.0; ARMS]; ARMS],
            half_hits: 0.0,
            double_hits: 0.0,
            seen: 0.0,
            due: 1,
            present: FIRST,
            limit: u32::MAX,
        };
        for (arm, choice) in selector.arms.iter_mut().zip(CHOICES) {
            arm.choose(choice);
        }
        selector.fit(entries);
        selector
    }

    /// Hears how many entries the cache has room for, which where entries have weights is a matter of the load.
    pub(crate) fn fit(&mut self, entries: u64) {
        let entries = entries.max(1);
        let share = (entries / 64).clamp(Self::SMALLEST, Self::LARGEST).min(entries);
        let one_in = entries / share;
        let size = (entries / one_in).max(1);
        self.limit = (u64::from(u32::MAX) / one_in) as u32;
        if self.arms[0].capacity() != size {
            for arm in &mut self.arms {
                arm.set_capacity(size);
            }
            self.half.set_capacity((size / 2).max(1));
            self.double.set_capacity(size * 2);
            self.due = self.due.min((size / Self::DECISIONS) as u32).max(8);
        }
    }

    /// Up to which value a key is in the sample: see [`is_sampled`](Self::is_sampled).
    pub(crate) const fn limit(&self) -> u32 {
        self.limit
    }

    /// Whether accesses of a key are to be told, hits and misses alike.
    #[inline]
    pub(crate) const fn is_sampled(hash: u32, limit: u32) -> bool {
        // The shard, the table and the sketch use the hash as it is.
        (hash ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b1) <= limit
    }

    /// Hears of an access, and returns how the cache is to go on if it has to change.
    pub(crate) fn access(&mut self, hash: u32) -> Option<Choice> {
        let mut hit = 0u32;
        for (number, arm) in self.arms.iter_mut().enumerate() {
            hit |= u32::from(arm.access(hash, 1)) << number;
        }
        self.half_hits += f32::from(u8::from(self.half.access(hash, 1)));
        self.double_hits += f32::from(u8::from(self.double.access(hash, 1)));
        self.seen += 1.0;
        if hit != 0 {
            self.score(hit);
        }
        self.due -= 1;
        if self.due > 0 {
            return None;
        }
        self.due = ((self.arms[0].capacity() / Self::DECISIONS) as u32).max(8);
        self.decide()
    }

    fn score(&mut self, hit: u32) {
        let all_hit = hit == (1 << ARMS) - 1;
        for (arm, only) in self.only.iter_mut().enumerate().filter(|(arm, _)| hit >> arm & 1 == 1) {
            self.hits[arm] += 1.0;
            if all_hit {
                continue;
            }
            for (other, count) in only.iter_mut().enumerate() {
                *count += f32::from(u8::from(hit >> other & 1 == 0));
            }
        }
    }

    fn decide(&mut self) -> Option<Choice> {
        let present = self.present;
        let best =
            (0..ARMS).fold(present, |best, arm| if self.hits[arm] > self.hits[best] { arm } else { best });
        let lead = self.hits[best] - self.hits[present];
        let chance = (self.only[best][present] + self.only[present][best]).sqrt();
        let moved = f32::from(CHOICES[best].window.abs_diff(CHOICES[present].window)) / 1024.0;
        let cost = Self::COST * moved * self.arms[0].capacity() as f32;
        let pays = best != present && lead > 2.0 + Self::SURE * chance + cost;
        let numbers = self.hits.iter_mut().chain(self.only.iter_mut().flatten());
        for number in numbers.chain([&mut self.half_hits, &mut self.double_hits, &mut self.seen]) {
            *number *= Self::FADE;
        }
        if !pays {
            return None;
        }
        self.present = best;
        self.half.choose(CHOICES[best]);
        self.double.choose(CHOICES[best]);
        Some(CHOICES[best])
    }

    /// What the cache is to run with.
    pub(crate) const fn choice(&self) -> Choice {
        CHOICES[self.present]
    }

    /// Hit ratios at half, at the present and at double capacity; nothing as long as nothing was seen.
    pub(crate) fn ratios(&self) -> Option<Ratios> {
        let ratio = |hits: f32| f64::from(hits) / f64::from(self.seen);
        (self.seen > 0.0).then(|| Ratios {
            half: ratio(self.half_hits),
            same: ratio(self.hits[self.present]),
            double: ratio(self.double_hits),
        })
    }

    /// How many bytes it holds.
    pub(crate) fn memory(&self) -> usize {
        let minis = self.arms.iter().chain([&self.half, &self.double]);
        size_of::<Self>() + minis.map(Mini::memory).sum::<usize>()
    }
}

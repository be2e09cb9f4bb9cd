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
///
/// A lead is looked for in what was seen lately, where a load that has become another shows soon, and in a longer time, where
/// small ones do.
#[derive(Debug)]
pub(crate) struct Selector {
    arms: [Mini<u32>; ARMS],
    /// The present choice with half and with twice the capacity.
    half: Mini<u32>,
    double: Mini<u32>,
    /// What was seen lately, and in a longer time.
    scores: [Scores; 2],
    /// Hits of the cache since it goes on as at present, and what the simulation had in the same accesses.
    real: f32,
    promised: f32,
    since: f32,
    /// Decisions since then, and how many of them it is given to come near what was promised.
    held: u32,
    patience: u32,
    half_hits: f32,
    double_hits: f32,
    seen: f32,
    /// Accesses until the next decision.
    due: u32,
    present: usize,
    /// How many entries the simulations were made for.
    entries: u64,
    /// Hashes up to this one are in the sample, once they are mixed.
    limit: u32,
}

const ARMS: usize = CHOICES.len();

/// Counts that fade.
#[derive(Clone, Debug)]
struct Scores {
    hits: [f32; ARMS],
    /// In how many accesses one hit and the other did not.
    only: [[f32; ARMS]; ARMS],
    fade: f32,
    /// How many standard deviations a lead has to be.
    sure: f32,
}

impl Scores {
    const fn new(fade: f32, sure: f32) -> Self {
        Self { hits: [0.0; ARMS], only: [[0.0; ARMS]; ARMS], fade, sure }
    }

    fn count(&mut self, hit: u32) {
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

    /// The arm that hit most, other than one that is to be left out. Of equals it is the present one.
    fn best(&self, present: usize, without: Option<usize>) -> usize {
        (0..ARMS)
            .filter(|&arm| Some(arm) != without)
            .fold(None, |best: Option<usize>, arm| match best {
                Some(best)
                    if self.hits[best] > self.hits[arm]
                        || self.hits[best] == self.hits[arm] && arm != present =>
                {
                    Some(best)
                }
                _ => Some(arm),
            })
            .unwrap_or(present)
    }

    /// The best arm, if it leads the present one.
    fn leader(&self, present: usize, cost: impl Fn(usize) -> f32) -> Option<usize> {
        let best = self.best(present, None);
        (best != present && self.leads(best, present, self.hits[present], cost(best))).then_some(best)
    }

    /// Whether one arm leads another, who has so many hits, by more than chance would give, and by a cost.
    fn leads(&self, arm: usize, other: usize, hits: f32, cost: f32) -> bool {
        let chance = (self.only[arm][other] + self.only[other][arm]).sqrt();
        self.hits[arm] - hits > 2.0 + self.sure * chance + cost
    }

    fn fade(&mut self) {
        self.hits.iter_mut().chain(self.only.iter_mut().flatten()).for_each(|count| *count *= self.fade);
    }
}

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
    /// What a score keeps from one decision to the next: half of it after 4 and after 32 times as many accesses as entries.
    const FADES: [f32; 2] = [0.957_6, 0.994_6];
    /// How many standard deviations a lead has to be.
    const SURE: [f32; 2] = [4.0, 3.0];
    /// Decisions in which a cache has to come near what a simulation has; each time that it does not, twice as many.
    const PATIENCE: u32 = 12;
    /// Hits that it costs to fill a window anew, for each of its entries.
    const COST: f32 = 0.25;

    /// For a cache of about so many entries.
    pub(crate) fn new(entries: u64) -> Self {
        let mini = || Mini::new(Eviction::Adaptive, 1);
        let mut selector = Self {
            arms: std::array::from_fn(|_| mini()),
            half: mini(),
            double: mini(),
            scores: std::array::from_fn(|n| Scores::new(Self::FADES[n], Self::SURE[n])),
            real: 0.0,
            promised: 0.0,
            since: 0.0,
            held: 0,
            patience: Self::PATIENCE,
            half_hits: 0.0,
            double_hits: 0.0,
            seen: 0.0,
            due: 1,
            present: FIRST,
            entries: 0,
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
        if entries.abs_diff(self.entries) * 8 <= self.entries {
            return;
        }
        self.entries = entries;
        let share = (entries / 64).clamp(Self::SMALLEST, Self::LARGEST).min(entries);
        let one_in = entries / share;
        let size = (entries / one_in).max(1);
        self.limit = (u64::from(u32::MAX) / one_in) as u32;
        for arm in &mut self.arms {
            arm.set_capacity(size);
        }
        self.half.set_capacity((size / 2).max(1));
        self.double.set_capacity(size * 2);
        self.due = self.due.min((size / Self::DECISIONS) as u32).max(8);
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

    /// Hears of an access that the cache has hit or missed, and returns how it is to go on if it has to change.
    pub(crate) fn access(&mut self, hash: u32, is_hit: bool) -> Option<Choice> {
        let mut hit = 0u32;
        for (number, arm) in self.arms.iter_mut().enumerate() {
            hit |= u32::from(arm.access(hash, 1)) << number;
        }
        let one = |hit: bool| f32::from(u8::from(hit));
        self.half_hits += one(self.half.access(hash, 1));
        self.double_hits += one(self.double.access(hash, 1));
        self.seen += 1.0;
        self.real += one(is_hit);
        self.promised += one(hit >> self.present & 1 == 1);
        self.since += 1.0;
        if hit != 0 {
            self.scores.iter_mut().for_each(|scores| scores.count(hit));
        }
        self.due -= 1;
        if self.due > 0 {
            return None;
        }
        self.due = ((self.arms[0].capacity() / Self::DECISIONS) as u32).max(8);
        let best = self.decide();
        self.scores.iter_mut().for_each(Scores::fade);
        for number in [&mut self.half_hits, &mut self.double_hits, &mut self.seen] {
            *number *= Self::FADES[1];
        }
        for number in [&mut self.real, &mut self.promised, &mut self.since] {
            *number *= Self::FADES[0];
        }
        let best = best.filter(|&best| best != self.present)?;
        self.present = best;
        self.held = 0;
        (self.real, self.promised, self.since) = (0.0, 0.0, 0.0);
        self.half.choose(CHOICES[best]);
        self.double.choose(CHOICES[best]);
        Some(CHOICES[best])
    }

    fn decide(&mut self) -> Option<usize> {
        let present = self.present;
        let size = self.arms[0].capacity() as f32;
        let cost = |arm: usize| {
            let moved = CHOICES[arm].window.abs_diff(CHOICES[present].window);
            Self::COST * f32::from(moved) / 1024.0 * size
        };
        // A cache that was full of other things when it went over may miss for ever what the simulation, which was not,
        // goes on to hit: keys that are missed come in twice as often, and push each other out. Then another way, if nearly
        // as good, gets it out of there.
        self.held += 1;
        let is_short = self.promised - self.real > 0.1 * self.since;
        if !is_short && self.held >= Self::PATIENCE {
            self.patience = Self::PATIENCE;
        }
        if is_short && self.held >= self.patience {
            let share = self.real / self.promised;
            let best = self.scores[0].best(present, Some(present));
            if self.scores[0].leads(best, present, self.scores[0].hits[present] * share, cost(best)) {
                self.scores.iter_mut().for_each(|scores| scores.hits[present] *= share);
                self.patience = (self.patience * 2).min(512);
                return Some(best);
            }
        }
        let (lately, longer) = (self.scores[0].leader(present, cost), self.scores[1].leader(present, cost));
        if lately.is_some() {
            // What was before is over, and would only call back.
            let [lately, longer] = &mut self.scores;
            (longer.hits, longer.only) = (lately.hits, lately.only);
        }
        lately.or(longer)
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
            same: ratio(self.scores[1].hits[self.present]),
            double: ratio(self.double_hits),
        })
    }

    /// How many bytes it holds.
    pub(crate) fn memory(&self) -> usize {
        let minis = self.arms.iter().chain([&self.half, &self.double]);
        size_of::<Self>() + minis.map(Mini::memory).sum::<usize>()
    }
}

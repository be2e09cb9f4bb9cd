//! Seeded random numbers for jitter: fast and repeatable, not secret.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::sync::{AtomicU64, Ordering};

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Rng {
    pub(crate) const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number in `0..=max`, each as likely as any other to within 2^-64.
    pub(crate) const fn up_to(&mut self, max: u64) -> u64 {
        ((self.next() as u128 * (max as u128 + 1)) >> 64) as u64
    }
}

/// Hands out generators that differ from each other, from any thread.
#[derive(Debug)]
pub(crate) struct Seeds(AtomicU64);

impl Seeds {
    pub(crate) fn from_entropy() -> Self {
        Self::seeded(RandomState::new().build_hasher().finish())
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(Rng::seeded(seed).next()))
    }

    pub(crate) fn next(&self) -> Rng {
        // Relaxed: only the number itself matters, and each is handed out once.
        let mut seed = Rng::seeded(self.0.fetch_add(GOLDEN, Ordering::Relaxed));
        Rng::seeded(seed.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        // First outputs of the reference implementation for seed 1234567.
        let mut rng = Rng::seeded(1_234_567);
        assert_eq!([rng.next(), rng.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        let (a, b) = (Seeds::seeded(7), Seeds::seeded(7));
        assert_eq!(a.next().next(), b.next().next());
        assert_ne!(a.next().next(), a.next().next());
    }

    #[test]
    fn bounds_are_kept_at_the_extremes() {
        let mut rng = Rng::seeded(1);
        assert_eq!(rng.up_to(0), 0);
        assert!((0..1000).map(|_| rng.up_to(3)).all(|n| n <= 3));
        assert!((0..1000).map(|_| rng.up_to(3)).any(|n| n == 3));
        rng.up_to(u64::MAX);
    }
}

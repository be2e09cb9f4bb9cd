//! Keys that have just left: two bytes for each.

/// A set of fingerprints in which the oldest make room for new ones, in buckets of half a cache line.
#[derive(Debug)]
pub(super) struct Ghost {
    buckets: Box<[Bucket]>,
    /// How many places of a bucket are in use.
    ways: u16,
}

/// The last place holds the number of the one to be written next.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
struct Bucket([u16; WAYS + 1]);

const WAYS: usize = 15;

impl Ghost {
    pub(super) fn new() -> Self {
        Self { buckets: Box::new([Bucket([0; WAYS + 1])]), ways: 1 }
    }

    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    /// The bucket and the fingerprint, which is never 0.
    #[inline]
    fn spot(&self, hash: u32) -> (usize, u16) {
        let mixed = u64::from(hash).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let bucket = ((mixed >> 32).wrapping_mul(self.buckets.len() as u64) >> 32) as usize;
        (bucket, mixed as u16 | 1)
    }

    #[inline]
    pub(super) fn remember(&mut self, hash: u32) {
        let (bucket, print) = self.spot(hash);
        let Bucket(places) = &mut self.buckets[bucket];
        let turn = places[WAYS];
        places[turn as usize & WAYS] = print;
        places[WAYS] = if turn + 1 < self.ways { turn + 1 } else { 0 };
    }

    /// Takes a key out, and returns whether it was there. One in some thousands of others is taken for it.
    #[inline]
    pub(super) fn take(&mut self, hash: u32) -> bool {
        let (bucket, print) = self.spot(hash);
        let Bucket(places) = &mut self.buckets[bucket];
        let mut found = 0;
        for (place, &other) in places[..WAYS].iter().enumerate() {
            found |= u16::from(other == print) << place;
        }
        if found == 0 {
            return false;
        }
        places[found.trailing_zeros() as usize & WAYS] = 0;
        true
    }

    /// Sees to it that about nine tenths as many keys are remembered as there are entries. A bucket is a prefix of the hash, so
    /// that each becomes two; those that a half does not need grow old there.
    pub(super) fn fit(&mut self, entries: usize) {
        let keys = (entries - entries / 10).max(1);
        while self.buckets.len() * WAYS < keys {
            self.buckets = self.buckets.iter().flat_map(|&bucket| [bucket, bucket]).collect();
        }
        while self.buckets.len() > 1 && self.buckets.len() * WAYS / 8 > keys {
            self.buckets = self.buckets.iter().copied().step_by(2).collect();
        }
        self.ways = keys.div_ceil(self.buckets.len()).clamp(1, WAYS) as u16;
    }
}

//! Keys that have just left: two bytes for each.

/// A set of fingerprints in which the oldest make room for new ones, in buckets of half a cache line.
#[derive(Debug)]
pub(super) struct Ghost {
    buckets: Box<[Bucket]>,
    /// How many places of a bucket are in use.
    ways: usize,
}

#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
struct Bucket([u16; WAYS]);

const WAYS: usize = 16;

impl Ghost {
    pub(super) fn new() -> Self {
        Self { buckets: Box::new([Bucket([0; WAYS])]), ways: 1 }
    }

    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    /// The bucket and the fingerprint, which is never 0.
    #[inline]
    fn spot(&mut self, hash: u32) -> (&mut [u16; WAYS], u16) {
        let mixed = u64::from(hash).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let bucket = ((mixed >> 32).wrapping_mul(self.buckets.len() as u64) >> 32) as usize;
        (&mut self.buckets[bucket].0, mixed as u16 | 1)
    }

    #[inline]
    pub(super) fn remember(&mut self, hash: u32) {
        let ways = self.ways;
        let (places, print) = self.spot(hash);
        // A length that is known moves in one vector, without a call.
        places.copy_within(..WAYS - 1, 1);
        places[0] = print;
        if let Some(unused) = places.get_mut(ways) {
            *unused = 0;
        }
    }

    /// Takes a key out, and returns whether it was there. One in some thousands of others is taken for it.
    #[inline]
    pub(super) fn take(&mut self, hash: u32) -> bool {
        let (places, print) = self.spot(hash);
        let mut found = 0u32;
        for (place, &other) in places.iter().enumerate() {
            found |= u32::from(other == print) << place;
        }
        if found == 0 {
            return false;
        }
        let place = found.trailing_zeros() as usize % WAYS;
        places.copy_within(place + 1.., place);
        places[WAYS - 1] = 0;
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
        self.ways = keys.div_ceil(self.buckets.len()).clamp(1, WAYS);
    }
}

//! The hash of keys: [`Seed`].

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

/// What makes the hashes of one cache differ from all others.
///
/// The hash folds products of 64 bits, as wyhash and foldhash do: all 64 bits are good, in a few nanoseconds. Who does not know the
/// seed, which is random and never shown, cannot choose keys that collide; against somebody who measures times it
/// promises less than SipHash. What an attacker would gain is a slower cache, never a wrong value.
#[derive(Clone)]
pub(super) struct Seed {
    start: u64,
    factor: u64,
}

impl Seed {
    pub(super) fn random() -> Self {
        if cfg!(floodwall_loom) {
            // The same in each run of a model.
            return Self { start: 0xe220_a839_7b1d_cdaf, factor: 0x6e78_9e6a_a1b9_65f5 };
        }
        let random = RandomState::new();
        // Odd, so that no bit of a key is lost.
        Self { start: random.hash_one(1), factor: random.hash_one(2) | 1 }
    }

    #[inline]
    pub(super) fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        let mut fold = Fold { state: self.start, factor: self.factor };
        key.hash(&mut fold);
        fold.finish()
    }
}

impl Seed {
    /// Another random number of the same cache.
    pub(super) const fn other(&self) -> u64 {
        fold(self.start, self.factor ^ self.start.rotate_left(32))
    }
}

struct Fold {
    state: u64,
    factor: u64,
}

#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Fold {
    #[inline]
    fn add(&mut self, word: u64) {
        self.state = fold(self.state ^ word, self.factor);
    }
}

impl Hasher for Fold {
    #[inline]
    fn finish(&self) -> u64 {
        // Once more, so that each bit of the last word reaches all bits. The golden ratio, odd.
        fold(self.state, 0x9e37_79b9_7f4a_7c15)
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (mut rest, length) = (bytes, bytes.len());
        while rest.len() > 16 {
            self.state = fold(self.state ^ word(rest), self.factor ^ word(&rest[8..]));
            rest = &rest[16..];
        }
        // The first and the last bytes of what is left; they overlap.
        let (low, high) = match rest.len() {
            8.. => (word(rest), word(&rest[rest.len() - 8..])),
            4..8 => {
                let four =
                    |bytes: &[u8]| u64::from(u32::from_le_bytes(*bytes.first_chunk().unwrap_or(&[0; 4])));
                (four(rest), four(&rest[rest.len() - 4..]))
            }
            1..4 => {
                let last = rest.len() - 1;
                (u64::from(rest[0]) | u64::from(rest[rest.len() / 2]) << 8, u64::from(rest[last]))
            }
            0 => (0, 0),
        };
        self.state = fold(self.state ^ low, self.factor ^ high).wrapping_add(length as u64);
    }

    #[inline]
    fn write_u8(&mut self, word: u8) {
        self.add(word.into());
    }

    #[inline]
    fn write_u16(&mut self, word: u16) {
        self.add(word.into());
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.add(word.into());
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    #[inline]
    fn write_u128(&mut self, word: u128) {
        self.add(word as u64);
        self.add((word >> 64) as u64);
    }

    #[inline]
    fn write_usize(&mut self, word: usize) {
        self.add(word as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// How far the fullest of 256 boxes lies from the mean, in standard deviations.
    fn unevenness(hashes: &[u64], bits: u32) -> f64 {
        let mut boxes = [0.0; 256];
        hashes.iter().for_each(|hash| boxes[(hash >> bits) as usize & 255] += 1.0);
        let mean = hashes.len() as f64 / 256.0;
        boxes.iter().map(|count: &f64| (count - mean).abs() / mean.sqrt()).fold(0.0, f64::max)
    }

    #[test]
    fn all_bits_are_good_for_common_keys() {
        let seed = Seed { start: 0xe220_a839_7b1d_cdaf, factor: 0x6e78_9e6a_a1b9_65f5 };
        type HashOf = fn(&Seed, u64) -> u64;
        let kinds: [(&str, HashOf); 5] = [
            ("numbers", |seed, key| seed.hash(&key)),
            ("multiples", |seed, key| seed.hash(&(key << 40))),
            ("short texts", |seed, key| seed.hash(&key.to_string())),
            ("long texts", |seed, key| seed.hash(&format!("tenant/eu-west/user:{key:08}/profile"))),
            ("pairs", |seed, key| seed.hash(&(key % 300, (key / 300) as u32))),
        ];
        for (kind, hash) in kinds {
            let hashes: Vec<_> = (0..100_000).map(|key| hash(&seed, key)).collect();
            assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), 100_000, "{kind}");
            for bits in (0..=56).step_by(4) {
                let far = unevenness(&hashes, bits);
                assert!(far < 5.0, "{kind}, bits from {bits}: {far}");
            }
        }
    }

    #[test]
    fn each_byte_counts_and_so_does_the_length() {
        let seed = Seed::random();
        for length in 0..70 {
            let bytes = vec![0u8; length];
            let mut hashes = HashSet::from([seed.hash(&bytes[..])]);
            for at in 0..length {
                let mut bytes = bytes.clone();
                bytes[at] = 1;
                assert!(hashes.insert(seed.hash(&bytes[..])), "byte {at} of {length}");
            }
            assert!(hashes.insert(seed.hash(&vec![0u8; length + 1][..])));
        }
    }
}

//! Documented hash functions for keys: [`KeyHash`].

use twox_hash::{XxHash3_64, XxHash64};

/// A hash function for keys, the same on every platform and in every version.
///
/// The default is [`Xxh3`](Self::Xxh3). The others are there to agree with systems that use them. None but
/// [`SipHash`](Self::SipHash) with a secret key withstands somebody who chooses keys so that they meet on one node.
///
/// # Examples
///
/// ```
/// use floodwall::shard::KeyHash;
///
/// assert_eq!(KeyHash::Crc16.hash(b"123456789"), 0x31c3);
/// assert_eq!(KeyHash::Crc32.hash(b"123456789"), 0xcbf4_3926);
/// assert_eq!(KeyHash::Fnv1a.hash(b"foobar"), 0x8594_4171_f739_67e8);
/// assert_eq!(KeyHash::Xxh3.hash(b""), 0x2d06_8005_38d3_94c2);
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum KeyHash {
    /// XXH3-64, seed 0, as in [`stable_hash`](crate::stable_hash).
    #[default]
    Xxh3,
    /// XXH64, seed 0: Envoy's rings and Maglev tables.
    Xxh64,
    /// The first half of MurmurHash3 x64 128, seed 0.
    Murmur3,
    /// The same as Cassandra computes it, with the last bytes of the key taken as signed: the partitioner's token.
    CassandraMurmur3,
    /// MurmurHash64A (of MurmurHash2) with the seed `0xc70f6907`: Envoy's other rings, and GNU's `std::hash`.
    Murmur2,
    /// FNV-1a, 64 bits.
    Fnv1a,
    /// CRC-16/XMODEM, 16 bits: Redis Cluster.
    Crc16,
    /// CRC-32 of zip and Ethernet, 32 bits: nginx.
    Crc32,
    /// The first four bytes of MD5, little-endian, 32 bits: ketama.
    #[cfg(feature = "shard-compat")]
    #[cfg_attr(docsrs, doc(cfg(feature = "shard-compat")))]
    Md5,
    /// SipHash-2-4 with a key of two words.
    #[cfg(feature = "shard-compat")]
    #[cfg_attr(docsrs, doc(cfg(feature = "shard-compat")))]
    SipHash(u64, u64),
    /// A function of yours, whose 64 bits are all used.
    Custom(fn(&[u8]) -> u64),
}

impl KeyHash {
    /// Returns the hash as the function defines it, in the low bits if it has fewer than 64.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        match self {
            Self::Xxh3 => XxHash3_64::oneshot(key),
            Self::Xxh64 => XxHash64::oneshot(0, key),
            Self::Murmur3 => murmur3(key, false),
            Self::CassandraMurmur3 => murmur3(key, true),
            Self::Murmur2 => murmur2(key, 0xc70f_6907),
            Self::Fnv1a => fnv1a(key),
            Self::Crc16 => crc16(key).into(),
            Self::Crc32 => crc32(0, key).into(),
            #[cfg(feature = "shard-compat")]
            Self::Md5 => md5_words(key)[0].into(),
            #[cfg(feature = "shard-compat")]
            Self::SipHash(k0, k1) => siphasher::sip::SipHasher24::new_with_keys(*k0, *k1).hash(key),
            Self::Custom(hash) => hash(key),
        }
    }

    /// Returns the hash as 64 bits that can each be used alone.
    ///
    /// Functions of fewer bits, and FNV, whose upper bits hardly notice a short key's end, are mixed once more.
    #[inline]
    pub fn spread(&self, key: &[u8]) -> u64 {
        let hash = self.hash(key);
        match self {
            Self::Fnv1a | Self::Crc16 | Self::Crc32 => remix(hash),
            #[cfg(feature = "shard-compat")]
            Self::Md5 => remix(hash),
            _ => hash,
        }
    }

    /// Returns how many bits the function has.
    pub(super) fn bits(&self) -> u32 {
        match self {
            Self::Crc16 => 16,
            Self::Crc32 => 32,
            #[cfg(feature = "shard-compat")]
            Self::Md5 => 32,
            _ => 64,
        }
    }
}

/// Gives a strategy with the field `hash` its setter, whose default is said in words; and the constructor of one with nothing
/// else to set.
macro_rules! hashes {
    (new) => {
        /// Creates the strategy.
        pub const fn new() -> Self {
            Self { hash: $crate::shard::KeyHash::Xxh3 }
        }

        $crate::shard::hash::hashes!("XXH3");
    };
    ($default:literal) => {
        #[doc = concat!("Hashes keys by this function. Default: ", $default, ".")]
        #[must_use = "returns the changed value"]
        pub const fn hash(mut self, hash: $crate::shard::KeyHash) -> Self {
            self.hash = hash;
            self
        }
    };
}
pub(super) use hashes;

/// Another step of SplitMix64: a bijection, every bit of which depends on every other.
#[inline]
pub(super) const fn remix(hash: u64) -> u64 {
    crate::rng::Rng::seeded(hash).next()
}

/// FNV-1a (G. Fowler, L. C. Noll, K.-P. Vo; draft-eastlake-fnv).
fn fnv1a(key: &[u8]) -> u64 {
    key.iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut crc = (at as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc >> 15 == 1 { crc << 1 ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
};

#[inline]
fn crc16(key: &[u8]) -> u16 {
    key.iter().fold(0, |crc, byte| crc << 8 ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC32: [u32; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut crc = at as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
};

/// Goes on from the checksum of what came before.
#[inline]
pub(super) fn crc32(before: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!before, |crc, byte| crc >> 8 ^ CRC32[usize::from(crc as u8 ^ byte)])
}

#[cfg(feature = "shard-compat")]
pub(super) fn md5_words(text: &[u8]) -> [u32; 4] {
    let digest = md5::compute(text).0;
    std::array::from_fn(|word| word_at::<4>(&digest, word * 4) as u32)
}

/// `N` bytes from a place on, little-endian.
#[inline]
fn word_at<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(word)
}

/// MurmurHash64A (A. Appleby, public domain).
fn murmur2(key: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let scramble = |word: u64| {
        let word = word.wrapping_mul(M);
        (word ^ word >> 47).wrapping_mul(M)
    };
    let mut hash = seed ^ (key.len() as u64).wrapping_mul(M);
    let mut chunks = key.chunks_exact(8);
    for chunk in &mut chunks {
        hash = (hash ^ scramble(word_at::<8>(chunk, 0))).wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        hash = (hash ^ tail(rest, false)).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 47).wrapping_mul(M);
    hash ^ hash >> 47
}

/// Up to eight bytes, little-endian. As Cassandra reads them, each is signed and spills over those above it.
fn tail(bytes: &[u8], signed: bool) -> u64 {
    bytes.iter().enumerate().fold(0, |word, (at, byte)| {
        let byte = if signed { i64::from(*byte as i8) as u64 } else { u64::from(*byte) };
        word ^ byte << (8 * at)
    })
}

/// The first half of MurmurHash3 x64 128 (A. Appleby, public domain).
fn murmur3(key: &[u8], signed: bool) -> u64 {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let first = |word: u64| word.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let second = |word: u64| word.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let end = |mut hash: u64| {
        hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ hash >> 33
    };
    let (mut h1, mut h2) = (0u64, 0u64);
    let mut chunks = key.chunks_exact(16);
    for chunk in &mut chunks {
        h1 ^= first(word_at::<8>(chunk, 0));
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= second(word_at::<8>(chunk, 8));
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let (low, high) = chunks.remainder().split_at(chunks.remainder().len().min(8));
    h2 ^= second(tail(high, signed));
    h1 ^= first(tail(low, signed));
    let length = key.len() as u64;
    h1 = (h1 ^ length).wrapping_add(h2 ^ length);
    h2 = (h2 ^ length).wrapping_add(h1);
    end(h1).wrapping_add(end(h2))
}

//! What does a cache cost, beside others?
//!
//! Keys are drawn by Zipf's law (exponent 0.99) beforehand, a sequence for each thread. Caches hold 100,000 entries;
//! keys are 80,000 where all are to be found, else a million. A read that misses puts nothing in.
//!
//! What is not alike. All are bounded by entries but `dashmap`, which evicts nothing, and is here to say what a table of locked
//! parts costs alone. `lru` is a list under one lock. moka and mini-moka also count what is read, in channels that others empty.
//! Each hashes as it does by default: floodwall with a folded product, quick_cache with ahash, the others with SipHash
//! or ahash.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

use crate::harness::Case;

const KEYS: u64 = 1_000_000;
const HELD: u64 = 80_000;
const CAPACITY: usize = 100_000;
const DRAWS: usize = 1 << 18;
const THREADS: usize = 8;

pub fn cases() -> Vec<Case> {
    vec![
        numbers("hits", HELD, 0).quick(&[1, 4]),
        numbers("95/5", KEYS, 5).quick(&[1, 4]).tails(),
        numbers("50/50", KEYS, 50).quick(&[]),
        numbers("inserts", KEYS, 100).quick(&[1, 4]),
        texts("texts, hits", HELD, 0).quick(&[1, 4]),
        texts("texts, 95/5", KEYS, 5).quick(&[]),
        one_key().quick(&[]),
    ]
}

/// What all caches can do.
trait Cache<K, V>: Send + Sync + 'static {
    fn new() -> Self;
    fn get(&self, key: &K) -> Option<V>;
    fn insert(&self, key: K, value: V);
}

macro_rules! caches {
    ($($type:ty, $new:expr, |$cache:ident, $key:ident| $get:expr, |$value:ident| $insert:expr;)*) => {
        $(impl<K: Key, V: Value> Cache<K, V> for $type {
            fn new() -> Self {
                $new
            }

            #[inline]
            fn get(&self, $key: &K) -> Option<V> {
                let $cache = self;
                $get
            }

            #[inline]
            fn insert(&self, $key: K, $value: V) {
                let $cache = self;
                $insert
            }
        })*
    };
}

trait Key: std::hash::Hash + Eq + Clone + Send + Sync + 'static {}
impl Key for u64 {}
impl Key for String {}
trait Value: Clone + Send + Sync + 'static {}
impl Value for u64 {}
impl Value for Arc<[u8]> {}

caches! {
    floodwall::Cache<K, V>, Self::new(CAPACITY as u64), |cache, key| cache.get(key),
        |value| drop(cache.insert(key, value));
    quick_cache::sync::Cache<K, V>, Self::new(CAPACITY), |cache, key| cache.get(key),
        |value| cache.insert(key, value);
    moka::sync::Cache<K, V>, Self::new(CAPACITY as u64), |cache, key| cache.get(key),
        |value| cache.insert(key, value);
    mini_moka::sync::Cache<K, V>, Self::new(CAPACITY as u64), |cache, key| cache.get(key),
        |value| cache.insert(key, value);
    Mutex<lru::LruCache<K, V>>, Self::new(lru::LruCache::new(NonZeroUsize::new(CAPACITY).unwrap())),
        |cache, key| cache.lock().get(key).cloned(), |value| drop(cache.lock().push(key, value));
    dashmap::DashMap<K, V>, Self::new(), |cache, key| Self::get(cache, key).map(|found| found.clone()),
        |value| drop(Self::insert(cache, key, value));
}

/// A cache that is made when its case is measured, not for all cases at the start.
type Lazy<C> = LazyLock<C, Box<dyn FnOnce() -> C + Send>>;

/// Adds a peer that reads, and inserts in so many of a hundred operations.
fn peer<K: Key, V: Value, C: Cache<K, V>>(
    case: Case,
    name: &'static str,
    keys: u64,
    inserts: u64,
    key: fn(u64) -> K,
    value: fn(u64) -> V,
    look: fn(&C, u64) -> bool,
) -> Case {
    let make = move || {
        let cache = C::new();
        // Twice, so that policies that look at what comes back have seen it.
        for number in (0..keys.min(CAPACITY as u64)).rev().chain((0..keys.min(CAPACITY as u64)).rev()) {
            cache.insert(key(number), value(number));
        }
        cache
    };
    let cache: Lazy<C> = LazyLock::new(Box::new(make));
    let every = move |place: usize| (place as u64 * inserts) % 100 + inserts > 99;
    case.peer(name, cache, move |cache| {
        let (place, number) = draw(keys);
        if inserts > 0 && every(place) {
            cache.insert(key(number), value(number));
            return true;
        }
        look(cache, number)
    })
}

macro_rules! peers {
    ($case:expr, $key:ty, $value:ty, $($arguments:expr),*) => {{
        let case = $case;
        let case = peer::<$key, $value, floodwall::Cache<_, _>>(case, "floodwall", $($arguments),*);
        let case = peer::<$key, $value, quick_cache::sync::Cache<_, _>>(case, "quick_cache", $($arguments),*);
        let case = peer::<$key, $value, moka::sync::Cache<_, _>>(case, "moka", $($arguments),*);
        let case = peer::<$key, $value, mini_moka::sync::Cache<_, _>>(case, "mini-moka", $($arguments),*);
        let case = peer::<$key, $value, Mutex<lru::LruCache<_, _>>>(case, "mutex lru", $($arguments),*);
        peer::<$key, $value, dashmap::DashMap<_, _>>(case, "dashmap", $($arguments),*)
    }};
}

fn numbers(name: &'static str, keys: u64, inserts: u64) -> Case {
    let case = Case::new(name).threads(&[1, 2, 4, 8]);
    peers!(case, u64, u64, keys, inserts, |number| number, |number| number, |cache, number| {
        cache.get(&number).is_some()
    })
}

static TEXTS: LazyLock<Vec<String>> =
    LazyLock::new(|| (0..KEYS).map(|key| format!("user:{key:07}")).collect());
static BYTES: LazyLock<Vec<Arc<[u8]>>> = LazyLock::new(|| (0..1024).map(|_| Arc::from([7; 100])).collect());

fn texts(name: &'static str, keys: u64, inserts: u64) -> Case {
    let case = Case::new(name).threads(&[1, 2, 4, 8]);
    let key = |number| TEXTS[number as usize].clone();
    let value = |number| {
        if number % 7 == 0 { BYTES[number as usize % 1024].clone() } else { Arc::from([number as u8; 100]) }
    };
    peers!(case, String, Arc<[u8]>, keys, inserts, key, value, |cache, number| {
        cache.get(&TEXTS[number as usize]).is_some()
    })
}

/// All threads read one key.
fn one_key() -> Case {
    let case = Case::new("one hot key").threads(&[1, 2, 4, 8]);
    peers!(case, u64, u64, HELD, 0, |number| number, |number| number, |cache, _| cache.get(&7).is_some())
}

/// A place in the thread's sequence, and the key drawn there.
#[inline]
fn draw(keys: u64) -> (usize, u64) {
    let (sequence, place) = PLACE.get();
    PLACE.set((sequence, place.wrapping_add(1)));
    let sequences = if keys == KEYS { &MANY } else { &FEW };
    (place, sequences[sequence][place % DRAWS].into())
}

static MANY: LazyLock<Vec<Vec<u32>>> = LazyLock::new(|| sequences(KEYS));
static FEW: LazyLock<Vec<Vec<u32>>> = LazyLock::new(|| sequences(HELD));

fn sequences(keys: u64) -> Vec<Vec<u32>> {
    let mut sum = 0.0;
    let mut cumulative = Vec::new();
    for rank in 1..=keys {
        sum += (rank as f64).powf(-0.99);
        cumulative.push(sum);
    }
    let mut seed = 1_u64;
    let mut draw = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (seed >> 11) as f64 / (1u64 << 53) as f64 * sum;
        let rank = cumulative.partition_point(|below| *below < at) as u64;
        // Keys that are often used do not lie side by side.
        (rank.wrapping_mul(0x9e37_79b9) % keys) as u32
    };
    (0..THREADS).map(|_| (0..DRAWS).map(|_| draw()).collect()).collect()
}

thread_local! {
    /// Which sequence, and where in it.
    static PLACE: Cell<(usize, usize)> = Cell::new({
        static THREAD: AtomicUsize = AtomicUsize::new(0);
        let thread = THREAD.fetch_add(1, Ordering::Relaxed);
        (thread % THREADS, thread * 7919)
    });
}

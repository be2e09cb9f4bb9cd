//! What does a limit per key cost, for 100,000 keys of which few are used often?
//!
//! Keys are drawn by Zipf's law (exponent 1) beforehand, a sequence for each thread. All run at a billion tokens a
//! second, so that nothing is ever denied, and all know every key before they are measured.
//!
//! What is not alike. `floodwall` is `TokenBuckets`, limits of one rate, as all the others are; `floodwall, Keyed` takes any
//! gate and gives permits that keep theirs alive. Both have a hard cap and forget no debt; rate-net's has a cap too, and a table of the debts of those that went, but only limits and no
//! permits; governor's grows for ever and `mutex map` too: 64 maps of plain buckets under a lock each. By default
//! governor tells the time by the processor's counter, floodwall and rate-net by the system clock. All hash keys with
//! SipHash but rate-net, which uses ahash.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use floodwall::{Clock, Keyed, TokenBucket, TokenBuckets};
use governor::clock::MonotonicClock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;
use rate_net::Eviction;

use crate::harness::Case;

const KEYS: u64 = 100_000;
const BILLION: u32 = 1_000_000_000;
const DRAWS: usize = 1 << 16;
const THREADS: usize = 8;

pub fn cases() -> Vec<Case> {
    vec![zipf(), one_key(), new_keys()]
}

fn limits(clock: Clock, max_keys: usize) -> Keyed<u64, TokenBucket> {
    let time = clock.clone();
    Keyed::new(move |_: &u64| TokenBucket::per_second(BILLION.into()).clock(time.clone()))
        .max_keys(max_keys)
        .clock(clock)
}

fn buckets(clock: Clock, max_keys: usize) -> TokenBuckets<u64> {
    TokenBuckets::per_second(BILLION.into()).max_keys(max_keys).clock(clock)
}

fn zipf() -> Case {
    let ours = |clock| {
        let limits = buckets(clock, 125_000);
        (0..KEYS).for_each(|key| limits.try_acquire(&key).unwrap());
        (limits, Draws)
    };
    let keyed = |clock| {
        let limits = limits(clock, 125_000);
        (0..KEYS).for_each(|key| limits.try_acquire(&key).unwrap().success());
        (limits, Draws)
    };
    let quota = Quota::per_second(NonZeroU32::new(BILLION).unwrap());
    let governor = RateLimiter::dashmap(quota);
    let states: DashMapStateStore<u64> = DashMapStateStore::default();
    let governor_std: RateLimiter<u64, _, _, NoOpMiddleware<Instant>> =
        RateLimiter::new(quota, states, MonotonicClock);
    let rate_net = rate_net_limits(125_000);
    let plain = PlainMap::new();
    for key in 0..KEYS {
        assert!(rate_net.check_bytes(key.to_le_bytes()).is_allow());
        governor.check_key(&key).unwrap();
        governor_std.check_key(&key).unwrap();
        plain.take(key);
    }
    Case::new("zipf")
        .threads(&[1, 2, 4, 8])
        .peer("floodwall", ours(Clock::system()), |(limits, draws)| {
            limits.try_acquire(&draws.next()).unwrap();
        })
        .peer("floodwall, tsc", ours(Clock::tsc()), |(limits, draws)| {
            limits.try_acquire(&draws.next()).unwrap();
        })
        .peer("floodwall, Keyed", keyed(Clock::system()), |(limits, draws)| {
            limits.try_acquire(&draws.next()).unwrap().success();
        })
        .peer("floodwall, Keyed, tsc", keyed(Clock::tsc()), |(limits, draws)| {
            limits.try_acquire(&draws.next()).unwrap().success();
        })
        .peer("governor", (governor, Draws), |(limiter, draws)| {
            limiter.check_key(&draws.next()).unwrap();
        })
        .peer("governor, std", (governor_std, Draws), |(limiter, draws)| {
            limiter.check_key(&draws.next()).unwrap();
        })
        .peer("rate-net", (rate_net, Draws), |(limiter, draws)| {
            assert!(limiter.check_bytes(draws.next().to_le_bytes()).is_allow());
        })
        .peer("mutex map", (plain, Draws), |(map, draws)| map.take(draws.next()))
        .peer("the draw alone", Draws, Draws::next)
}

fn one_key() -> Case {
    let quota = Quota::per_second(NonZeroU32::new(BILLION).unwrap());
    Case::new("one key")
        .threads(&[1, 2, 4])
        .peer("floodwall", buckets(Clock::system(), 100), |limits| limits.try_acquire(&7).unwrap())
        .peer("floodwall, tsc", buckets(Clock::tsc(), 100), |limits| limits.try_acquire(&7).unwrap())
        .peer("floodwall, Keyed", limits(Clock::system(), 100), |limits| {
            limits.try_acquire(&7).unwrap().success();
        })
        .peer("governor", RateLimiter::dashmap(quota), |limiter| limiter.check_key(&7u64).unwrap())
        .peer("rate-net", rate_net_limits(100), |limiter| {
            assert!(limiter.check_bytes(7u64.to_le_bytes()).is_allow());
        })
        .peer("mutex map", PlainMap::new(), |map| map.take(7))
}

fn rate_net_limits(max_keys: usize) -> rate_net::RateLimiter {
    let limits = rate_net::RateLimiter::builder().per_second(BILLION);
    limits.eviction(Eviction::capacity(max_keys)).build()
}

/// A flood of new keys against a full registry. governor keeps them all, so it is not asked.
fn new_keys() -> Case {
    let count = || AtomicUsize::new(0);
    Case::new("new keys, full")
        .threads(&[1, 2])
        .peer("floodwall", (buckets(Clock::system(), 10_000), count()), |(limits, next)| {
            limits.try_acquire(&(next.fetch_add(1, Ordering::Relaxed) as u64)).unwrap();
        })
        .peer("floodwall, 100k", (buckets(Clock::system(), 100_000), count()), |(limits, next)| {
            limits.try_acquire(&(next.fetch_add(1, Ordering::Relaxed) as u64)).unwrap();
        })
        .peer("floodwall, Keyed", (limits(Clock::system(), 10_000), count()), |(limits, next)| {
            limits.try_acquire(&(next.fetch_add(1, Ordering::Relaxed) as u64)).unwrap().success();
        })
        .peer("floodwall, Keyed, 100k", (limits(Clock::system(), 100_000), count()), |(limits, next)| {
            limits.try_acquire(&(next.fetch_add(1, Ordering::Relaxed) as u64)).unwrap().success();
        })
        .peer("rate-net", (rate_net_limits(10_000), count()), |(limiter, next)| {
            limiter.check_bytes((next.fetch_add(1, Ordering::Relaxed) as u64).to_le_bytes())
        })
}

/// Keys drawn beforehand; each thread goes through one of the sequences.
struct Draws;

static SEQUENCES: LazyLock<Vec<Vec<u32>>> = LazyLock::new(|| {
    let mut sum = 0.0;
    let mut cumulative = Vec::new();
    for rank in 1..=KEYS {
        sum += 1.0 / rank as f64;
        cumulative.push(sum);
    }
    let mut seed = 1_u64;
    let mut draw = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (seed >> 11) as f64 / (1u64 << 53) as f64 * sum;
        cumulative.partition_point(|below| *below < at) as u32
    };
    (0..THREADS).map(|_| (0..DRAWS).map(|_| draw()).collect()).collect()
});

thread_local! {
    /// Which sequence, and where in it.
    static PLACE: Cell<(usize, usize)> = Cell::new({
        static THREAD: AtomicUsize = AtomicUsize::new(0);
        let thread = THREAD.fetch_add(1, Ordering::Relaxed);
        (thread % THREADS, thread * 7919)
    });
}

impl Draws {
    fn next(&self) -> u64 {
        let (sequence, place) = PLACE.get();
        PLACE.set((sequence, place.wrapping_add(1)));
        SEQUENCES[sequence][place % DRAWS].into()
    }
}

/// What one writes without a crate: maps of buckets under locks.
struct PlainMap {
    hasher: RandomState,
    maps: Vec<Mutex<HashMap<u64, (f64, Instant)>>>,
}

impl PlainMap {
    fn new() -> Self {
        let hasher = RandomState::new();
        let map = || Mutex::new(HashMap::with_hasher(hasher.clone()));
        Self { maps: (0..64).map(|_| map()).collect(), hasher }
    }

    fn take(&self, key: u64) {
        let now = Instant::now();
        let shard = self.hasher.hash_one(key) >> 58;
        let mut map = self.maps[shard as usize].lock();
        let (tokens, last) = map.entry(key).or_insert((BILLION.into(), now));
        let flowed = now.saturating_duration_since(*last).as_secs_f64() * f64::from(BILLION);
        *tokens = (*tokens + flowed).min(BILLION.into());
        *last = now.max(*last);
        assert!(*tokens >= 1.0);
        *tokens -= 1.0;
    }
}

//! What do a hit, a miss and an insert of a cache cost, and what do time, weights and statistics add?
//!
//! `peek` is a hit that nothing counts: neither the statistics nor eviction hear of it. On one thread; what several threads
//! do, and beside other caches: `versus/`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use floodwall::cache::Eviction;
use floodwall::{Cache, CacheBuilder};

type Numbers = Cache<u64, u64>;
type Builder = CacheBuilder<u64, u64>;

const CAPACITY: u64 = 10_000;
/// So many of the keys that are there are asked for in turn.
const ASKED: u64 = 1_000;
const LONG: Duration = Duration::from_secs(3_600);

fn cache(settings: impl FnOnce(Builder) -> Builder) -> Numbers {
    let cache = settings(Cache::builder(CAPACITY)).build();
    (0..CAPACITY / 2).for_each(|key| cache.insert(key, key).unwrap());
    // In much use, so that a hit writes nothing more.
    (0..4 * ASKED).for_each(|number| _ = cache.get(&(number % ASKED)));
    cache
}

fn kinds() -> [(&'static str, Numbers); 6] {
    [
        ("plain", cache(|builder| builder)),
        ("weigher", cache(|builder| builder.weigher(|_, _| 1))),
        ("ttl", cache(|builder| builder.ttl(LONG))),
        ("idle", cache(|builder| builder.idle(LONG))),
        ("ttl, idle, weigher", cache(|builder| builder.ttl(LONG).idle(LONG).weigher(|_, _| 1))),
        ("least recently used", cache(|builder| builder.eviction(Eviction::Lru))),
    ]
}

fn in_turn(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    from: u64,
    ask: impl Fn(&u64) -> Option<u64>,
) {
    let mut number = 0;
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            number = (number + 1) % ASKED;
            ask(black_box(&(from + number)))
        });
    });
}

fn hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hit");
    for (name, cache) in kinds() {
        in_turn(&mut group, name, 0, |key| cache.get(key));
        assert!(cache.stats().misses == 0);
    }
    let cache = cache(|builder| builder);
    in_turn(&mut group, "plain, uncounted", 0, |key| cache.peek(key));
}

fn misses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("miss");
    for (name, cache) in kinds() {
        in_turn(&mut group, name, CAPACITY, |key| cache.get(key));
    }
    let cache = cache(|builder| builder);
    in_turn(&mut group, "plain, uncounted", CAPACITY, |key| cache.peek(key));
}

/// Each makes another entry leave.
fn inserts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("insert");
    for (name, cache) in kinds() {
        let mut key = CAPACITY;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                key += 1;
                cache.insert(black_box(key), key)
            });
        });
    }
}

criterion_group!(benches, hits, misses, inserts);
criterion_main!(benches);

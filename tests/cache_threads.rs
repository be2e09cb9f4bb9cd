//! `Cache` under many threads: what is read is whole, what leaves is dropped once, and there is never too much.
#![cfg(not(floodwall_loom))]

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use floodwall::Cache;

/// How many values there are, and how many there were at most at the same time.
#[derive(Default)]
struct Census {
    now: AtomicI64,
    most: AtomicI64,
}

/// Says by itself whether it is whole, and is counted.
struct Value {
    key: u64,
    text: Box<str>,
    not_key: u64,
    census: Arc<Census>,
}

impl Value {
    fn new(key: u64, census: &Arc<Census>) -> Self {
        let now = census.now.fetch_add(1, Ordering::Relaxed) + 1;
        census.most.fetch_max(now, Ordering::Relaxed);
        Self { key, text: key.to_string().into(), not_key: !key, census: Arc::clone(census) }
    }

    fn check(&self, key: u64) {
        assert_eq!((self.key, self.not_key), (key, !key));
        assert_eq!(self.text.parse(), Ok(key));
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.check(self.key);
        self.key = 0;
        self.not_key = 0;
        self.census.now.fetch_sub(1, Ordering::Relaxed);
    }
}

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 7
}

/// Threads that read and insert for a while, and also do everything else if that is wanted. Returns how many values there
/// were at most.
fn storm(capacity: u64, keys: u64, threads: usize, everything: bool, time: Duration) -> i64 {
    let census = Arc::new(Census::default());
    let cache: Cache<u64, Value> = Cache::new(capacity);
    let start = Barrier::new(threads);
    let end = AtomicBool::new(false);
    let hits = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..threads {
            let (cache, census, start, end, hits) = (&cache, &census, &start, &end, &hits);
            scope.spawn(move || {
                let mut seed = thread as u64;
                start.wait();
                let until = Instant::now() + time;
                while !end.load(Ordering::Relaxed) {
                    for _ in 0..64 {
                        let key = random(&mut seed) % keys;
                        let kinds = if everything { 24 } else { 16 };
                        match random(&mut seed) % kinds {
                            0..=7 => {
                                if cache.with(&key, |value| value.check(key)).is_some() {
                                    hits.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                            16..=19 => drop(cache.with(&key, |value| {
                                // A read within a read.
                                cache.with(&(keys - 1 - key), |other| other.check(keys - 1 - key));
                                value.check(key);
                            })),
                            20..=22 => drop(cache.remove_if(&key, |_| true)),
                            23 => drop(Cache::<u64, u64>::new(5).insert(1, 1)),
                            _ => cache.insert(key, Value::new(key, census)).map_err(drop).unwrap(),
                        }
                    }
                    if Instant::now() >= until {
                        end.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(hits.load(Ordering::Relaxed) > 0);
    assert!(cache.len() as u64 <= capacity);
    drop(cache);
    assert_eq!(census.now.load(Ordering::Relaxed), 0, "all are dropped, each once");
    census.most.load(Ordering::Relaxed)
}

const SIZES: [(u64, u64); 5] = [(1, 4), (7, 20), (100, 150), (1000, 3000), (20_000, 100_000)];

#[test]
fn there_is_never_more_than_one_entry_a_thread_too_much() {
    for (capacity, keys) in SIZES {
        let most = storm(capacity, keys, 4, false, Duration::from_millis(300));
        // One that the thread is about to put in, and one that it has lent itself while another one drops what would have
        // paid for it: seen in one of 200 runs.
        assert!(most <= capacity as i64 + 2 * 4, "{most} values where {capacity} may be");
    }
}

#[test]
fn what_is_read_is_whole_and_what_leaves_is_dropped_once() {
    for (capacity, keys) in SIZES {
        storm(capacity, keys, 4, true, Duration::from_millis(300));
    }
}

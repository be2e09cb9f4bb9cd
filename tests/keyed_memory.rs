//! What a registry of gates takes: bytes per key, and allocations per call.
#![cfg(not(floodwall_loom))]
#![expect(unsafe_code, reason = "a counting allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use floodwall::{Blocking, Bulkhead, CircuitBreaker, Keyed, TokenBucket, TokenBuckets};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes that are allocated now; a test frees on its own thread.
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static HIGHEST: Cell<i64> = const { Cell::new(0) };
}

fn count(allocated: usize, freed: usize) {
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + u64::from(allocated > 0)));
    let live = LIVE.try_with(|live| {
        live.set(live.get() + allocated as i64 - freed as i64);
        live.get()
    });
    let _ = HIGHEST.try_with(|highest| highest.set(highest.get().max(live.unwrap_or(0))));
}

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(run: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

/// The formula of the documentation.
fn documented<K, G>() -> f64 {
    (16 + size_of::<G>()) as f64 + 4.0 / 3.0 * (24 + size_of::<K>()) as f64
}

/// Trap R11.
#[test]
fn a_flood_of_keys_stays_below_the_documented_bytes_per_key() {
    for max_keys in [1_000, 10_000, 100_000] {
        let before = LIVE.get();
        let limits = Keyed::new(|_: &u64| TokenBucket::per_second(1_000_000_000)).max_keys(max_keys);
        let empty = LIVE.get() - before;
        HIGHEST.set(LIVE.get());
        for key in 0..3 * max_keys as u64 {
            limits.try_acquire(&key).unwrap().success();
        }
        let taken = (LIVE.get() - before - empty) as f64;
        let highest = (HIGHEST.get() - before - empty) as f64;
        let (known, most) = (limits.len() as f64, max_keys as f64);
        drop(limits);
        // Before anything is printed, which may allocate too.
        assert_eq!(LIVE.get(), before, "all of it comes back");
        println!(
            "{max_keys} keys: {empty} bytes empty, {:.0} a key, {:.0} a key of the cap, {:.0} at the highest",
            taken / known,
            taken / most,
            highest / most,
        );
        assert!(known >= 0.95 * most);
        // A shard's table is there twice while it grows, and each shard has a free place that ends a search.
        let ceiling = documented::<u64, TokenBucket>() * most * 1.02 + 2_000.0;
        assert!(taken <= ceiling, "{taken} of {ceiling}");
        assert!(highest <= ceiling * 1.05, "{highest} of {ceiling}");
    }
}

#[test]
fn the_bytes_of_a_key_are_those_that_the_documentation_names() {
    let bytes = documented::<u64, TokenBucket>();
    assert!(bytes <= 220.0, "{bytes} bytes a key");
}

#[test]
fn a_flood_of_keys_stays_below_the_documented_bytes_per_bucket() {
    for max_keys in [1_000, 10_000, 100_000] {
        let before = LIVE.get();
        let limits = TokenBuckets::<u64>::per_second(1_000_000_000).max_keys(max_keys);
        let empty = LIVE.get() - before;
        HIGHEST.set(LIVE.get());
        for key in 0..3 * max_keys as u64 {
            limits.try_acquire(&key).unwrap();
        }
        let taken = (LIVE.get() - before - empty) as f64;
        let highest = (HIGHEST.get() - before - empty) as f64;
        let (known, most) = (limits.len() as f64, max_keys as f64);
        drop(limits);
        assert_eq!(LIVE.get(), before, "all of it comes back");
        println!(
            "{max_keys} keys: {empty} bytes empty, {:.0} a key, {:.0} at the highest",
            taken / known,
            highest / most
        );
        assert!(known >= 0.95 * most);
        // A free place for each shard; and the table of a shard, of at least 512 keys, is there twice while it grows.
        let ceiling = 4.0 / 3.0 * (16 + size_of::<u64>()) as f64 * most * 1.02 + 2_000.0;
        assert!(taken <= ceiling, "{taken} of {ceiling}");
        assert!(highest <= ceiling + 32.0 * 1024.0, "{highest} of {ceiling}");
    }
}

#[test]
fn a_known_key_allocates_nothing_borrowed_or_not() {
    let limits = Keyed::new(|_: &String| TokenBucket::per_second(1));
    let places = Keyed::new(|_: &u64| Bulkhead::new(1));
    let buckets = TokenBuckets::<String>::per_second(1);
    let all = || {
        let _ = buckets.try_acquire("alice");
        let _ = buckets.at("alice").call_blocking(|| Ok::<_, ()>(1));
        buckets.refund("alice", 1);
        let _ = limits.try_acquire("alice");
        let _ = limits.at("alice").call_blocking(|| Ok::<_, ()>(1));
        assert!(limits.peek("alice").is_some());
        places.try_acquire(&7).unwrap().success();
        assert_eq!(places.at(&7).call_blocking(|| Ok::<_, ()>(1)), Ok(1));
        assert_eq!(places.len(), 1);
    };
    all();
    assert_eq!(allocations(|| (0..1_000).for_each(|_| all())), 0);
}

#[test]
fn a_key_that_is_shed_allocates_nothing() {
    let places = Keyed::new(|_: &String| Bulkhead::new(1)).max_keys(1);
    let _held = places.try_acquire("alice").unwrap();
    assert_eq!(allocations(|| (0..1_000).for_each(|_| assert!(places.try_acquire("bob").is_err()))), 0);
}

#[test]
fn idle_keys_give_their_gates_back() {
    let limits = Keyed::new(|_: &u64| TokenBucket::per_second(1_000_000_000)).idle(std::time::Duration::ZERO);
    (0..10_000).for_each(|key| limits.try_acquire(&key).unwrap().success());
    let full = LIVE.get();
    (0..4).for_each(|_| limits.forget_idle());
    assert!(limits.is_empty());
    assert!(full - LIVE.get() >= 10_000 * size_of::<TokenBucket>() as i64 / 2);
}

/// With what it has on the heap. (Where threads meet at one, their lines come on top.)
#[test]
fn a_breaker_takes_no_more_than_its_documentation_names() {
    let rate = || CircuitBreaker::builder().failure_rate(0.5);
    let minute = std::time::Duration::from_secs(60);
    for (builder, bound) in [
        (CircuitBreaker::builder().failures(5), 264),
        (rate(), 264 + 208),
        (rate().last_calls(100), 264 + 88),
        (rate().slow_calls(minute, 0.5).abandoned_rate(0.9), 264 + 500),
    ] {
        let before = LIVE.get();
        let breaker = builder.clone().build();
        let bytes = size_of_val(&breaker) as i64 + LIVE.get() - before;
        drop(breaker);
        println!("a breaker: {bytes} bytes");
        assert!(bytes <= bound, "{bytes} bytes");
        drop(builder);
    }
}

//! What a cache takes: live bytes an entry, as the allocator rounds them.
#![cfg(all(target_os = "linux", not(floodwall_loom)))]
#![expect(unsafe_code, reason = "a counting allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use floodwall::{Cache, CacheBuilder};

struct Counting;

thread_local! {
    /// Bytes that are allocated now; a test frees on its own thread.
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

fn count(pointer: *mut u8, sign: i64) {
    // SAFETY: the pointer came from the system's allocator and is not freed yet.
    let usable = unsafe { libc::malloc_usable_size(pointer.cast()) };
    let _ = LIVE.try_with(|live| live.set(live.get() + sign * usable as i64));
}

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promised.
        let pointer = unsafe { System.alloc(layout) };
        count(pointer, 1);
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promised.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        count(pointer, 1);
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(pointer, -1);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Live bytes an entry of a full cache, and what it says itself.
fn bytes(entries: u64, settings: impl Fn(CacheBuilder<u64, u64>) -> CacheBuilder<u64, u64>) -> (f64, f64) {
    let before = LIVE.get();
    let cache = settings(Cache::builder(entries)).build();
    for key in 0..entries + entries / 4 {
        if cache.get(&key).is_none() {
            cache.insert(key, key).unwrap();
        }
    }
    let (live, said, len) = (LIVE.get() - before, cache.memory_usage(), cache.len());
    assert!(len as u64 > entries - entries / 50, "{len} of {entries}");
    drop(cache);
    assert_eq!(LIVE.get(), before, "all of it comes back");
    (live as f64 / len as f64, said as f64 / len as f64)
}

#[test]
fn an_entry_takes_no_more_than_documented() {
    // The lane of this thread, which stays.
    Cache::new(1).insert(1, 1).unwrap();
    let _ = Cache::<u64, u64>::new(1).get(&1);
    let plain = bytes(1_000_000, |builder| builder);
    let weighed = bytes(100_000, |builder| builder.weigher(|_, _| 1));
    let timed = bytes(100_000, |builder| builder.ttl(Duration::from_secs(3600)));
    let both = bytes(100_000, |builder| {
        builder
            .ttl(Duration::from_secs(3600))
            .idle(Duration::from_secs(60))
            .stale_if_error(Duration::from_secs(60))
    });
    println!(
        "bytes an entry, live and said: plain {plain:.1?}, weighed {weighed:.1?}, timed {timed:.1?} and {both:.1?}"
    );
    assert!(
        (both.0 - timed.0).abs() < 0.5,
        "whatever times an entry has, it takes {timed:?}, and not {both:?}"
    );
    assert!(plain.0 <= 48.0, "plain {plain:?}");
    for (live, said) in [plain, weighed, timed, both] {
        assert!((live - said).abs() < 0.05 * live, "{live} live, {said} said");
    }
}

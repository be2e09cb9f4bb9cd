//! Asks the processor for memory that will be needed soon.
#![cfg_attr(
    all(target_arch = "x86_64", not(miri)),
    expect(unsafe_code, reason = "the processor's hint has no safe form on Rust 1.85")
)]

/// How many lines of a large value are worth asking for.
const LINES: usize = 4;

/// Lets the processor fetch the first lines of a value while other work goes on; elsewhere than on x86-64 it does nothing.
///
/// Atomic operations wait for each other's memory: without this, what follows one finds its lines one after the other.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(value).cast::<i8>();
        for line in 0..LINES.min(size_of::<T>().div_ceil(64)) {
            // SAFETY: a hint reads nothing that the program could see and never faults, whatever the address; the
            // instruction is in SSE, which every x86-64 processor has.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * 64)) };
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (value, LINES);
}

//! Room for values by number that grows and never moves: [`Chunks`].
#![expect(unsafe_code, reason = "memory that is made behind a shared reference, aligned to cache lines")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ptr;

use crate::sync::{AtomicPtr, Ordering};

/// Values numbered from 0, in chunks that are an eighth of what there is at most.
///
/// Chunks are made when they are needed and freed with the whole. A chunk that can be seen is full of values.
pub(super) struct Chunks<T> {
    chunks: [AtomicPtr<T>; CHUNKS],
    values: PhantomData<Box<[T]>>,
}

const CHUNKS: usize = 8 * (LARGEST - SMALLEST + 1) as usize;
/// The first eight chunks have 2^4 values each.
const SMALLEST: u32 = 7;
const LARGEST: u32 = 26;

/// Where a value is: its chunk, the place in it, the chunk's length.
#[inline]
const fn locate(number: u32) -> (usize, usize, usize) {
    let from = number + (1 << SMALLEST);
    let octave = 31 - from.leading_zeros();
    let bits = octave - 3;
    let chunk = ((octave - SMALLEST) << 3) + ((from >> bits) & 7);
    (chunk as usize, (from & ((1 << bits) - 1)) as usize, 1 << bits)
}

impl<T: Default> Chunks<T> {
    /// Numbers are below this.
    pub(super) const MOST: u32 = (1 << LARGEST) - (1 << SMALLEST);

    pub(super) fn new() -> Self {
        const { assert!(size_of::<T>() > 0, "what takes no room needs no chunks") };
        Self { chunks: std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())), values: PhantomData }
    }

    /// Makes the chunk of a number if it is not there. Not by two threads at once.
    pub(super) fn make(&self, number: u32) {
        assert!(number < Self::MOST, "no more chunks");
        let (chunk, _, length) = locate(number);
        // Relaxed: who makes chunks has made all there are, or was told under a lock.
        if !self.chunks[chunk].load(Ordering::Relaxed).is_null() {
            return;
        }
        let layout = layout::<T>(length);
        // SAFETY: the layout has a size: neither the length nor the size of a value is 0.
        let first = unsafe { alloc(layout) }.cast::<T>();
        if first.is_null() {
            handle_alloc_error(layout);
        }
        for place in 0..length {
            // SAFETY: the memory is for `length` values, and nobody else knows of it yet.
            unsafe { first.add(place).write(T::default()) };
        }
        // Release: whoever sees the chunk sees the values in it.
        self.chunks[chunk].store(first, Ordering::Release);
    }

    /// Returns a value.
    ///
    /// # Panics
    ///
    /// If its chunk was not made.
    #[inline]
    pub(super) fn get(&self, number: u32) -> &T {
        let (chunk, place, _) = locate(number);
        let first = self.chunks[chunk].load(Ordering::Acquire);
        assert!(!first.is_null(), "no such chunk");
        // SAFETY: a chunk that can be seen has values in all of its places, `place` is one of them, and it is
        // freed with `self` alone.
        unsafe { &*first.add(place) }
    }

    /// Returns how many bytes it takes.
    pub(super) fn memory(&self) -> usize {
        self.lengths().map(|(_, length)| length * size_of::<T>()).sum()
    }
}

impl<T> Chunks<T> {
    /// Returns the first value and the length of each chunk there is.
    fn lengths(&self) -> impl Iterator<Item = (*mut T, usize)> {
        (0..).zip(&self.chunks).filter_map(|(chunk, first)| {
            let first = first.load(Ordering::Acquire);
            (!first.is_null()).then_some((first, 1 << ((chunk >> 3) + SMALLEST - 3)))
        })
    }
}

impl<T> Drop for Chunks<T> {
    fn drop(&mut self) {
        for (first, length) in self.lengths() {
            // SAFETY: nobody else has `self` any more; the chunk was made by `make` with this layout and is full.
            unsafe {
                ptr::slice_from_raw_parts_mut(first, length).drop_in_place();
                dealloc(first.cast(), layout::<T>(length));
            }
        }
    }
}

/// From the start of a cache line, so that small values do not lie across two.
fn layout<T>(length: usize) -> Layout {
    let layout = Layout::array::<T>(length).and_then(|layout| layout.align_to(64));
    layout.expect("chunks are far smaller than memory")
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_each_other_through_the_chunks() {
        let mut next = (0, 0);
        for number in 0..100_000 {
            let (chunk, place, length) = locate(number);
            assert_eq!((chunk, place), next);
            assert_eq!(length, 16 << (chunk / 8));
            next = if place + 1 == length { (chunk + 1, 0) } else { (chunk, place + 1) };
        }
        assert_eq!(locate(Chunks::<u8>::MOST - 1).0, CHUNKS - 9);
    }

    #[test]
    fn values_stay_where_they_are() {
        let chunks = Chunks::<std::cell::Cell<u32>>::new();
        (0..1000).for_each(|number| {
            chunks.make(number);
            chunks.get(number).set(number);
        });
        let first = ptr::from_ref(chunks.get(0));
        assert_eq!(first.align_offset(64), 0);
        (1000..5000).for_each(|number| chunks.make(number));
        assert!(ptr::eq(first, chunks.get(0)));
        assert!((0..1000).all(|number| chunks.get(number).get() == number));
        assert!(chunks.memory() >= 20_000 && chunks.memory() < 25_000, "{}", chunks.memory());
    }
}

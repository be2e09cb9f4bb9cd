//! Room for values by number that grows and never moves: [`Chunks`].
#![expect(unsafe_code, reason = "memory that is made behind a shared reference, aligned to cache lines")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use crate::sync::{AtomicPtr, Ordering};

/// Values numbered from 0, in chunks that are an eighth of what there is at most.
///
/// Chunks are made when they are needed and freed with the whole. A chunk that can be seen is full of values. A first one may be
/// as large as is expected to be enough: it is there from the start, so that what lies in it is found faster. The system gives it
/// memory as it is used.
pub(super) struct Chunks<T> {
    first: NonNull<T>,
    /// How long the first chunk is.
    length: u32,
    chunks: [AtomicPtr<T>; CHUNKS],
    values: PhantomData<Box<[T]>>,
}

// SAFETY: what others get of a shared one is shared values. They are made in one thread and dropped in another.
unsafe impl<T: Send + Sync> Sync for Chunks<T> {}
// SAFETY: it is alone with its chunks.
unsafe impl<T: Send> Send for Chunks<T> {}

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

/// What has a value whose bytes are all 0, which is as good as its default.
///
/// # Safety
///
/// They are a value, outside of models.
pub(super) unsafe trait Zero: Default {}

// SAFETY: an integer.
unsafe impl Zero for crate::sync::AtomicU64 {}

impl<T: Zero> Chunks<T> {
    /// Numbers are below this.
    pub(super) const MOST: u32 = (1 << LARGEST) - (1 << SMALLEST);

    /// `length` is that of the first chunk.
    pub(super) fn new(length: u32) -> Self {
        const { assert!(size_of::<T>() > 0, "what takes no room needs no chunks") };
        Self {
            first: if length > 0 { make_values(length as usize) } else { NonNull::dangling() },
            length,
            chunks: std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            values: PhantomData,
        }
    }

    /// Makes the chunk of a number if it is not there. Not by two threads at once.
    pub(super) fn make(&self, number: u32) {
        assert!(number < Self::MOST, "no more chunks");
        if number >= self.length {
            let (chunk, _, length) = locate(number - self.length);
            let chunk = &self.chunks[chunk];
            // Relaxed: who makes chunks has made all there are, or was told under a lock.
            if chunk.load(Ordering::Relaxed).is_null() {
                // Release: whoever sees the chunk sees the values in it.
                chunk.store(make_values(length).as_ptr(), Ordering::Release);
            }
        }
    }

    /// Returns a value.
    ///
    /// # Panics
    ///
    /// If its chunk was not made.
    #[inline]
    pub(super) fn get(&self, number: u32) -> &T {
        if number < self.length {
            // SAFETY: the first chunk has so many values, and is freed with `self` alone.
            return unsafe { self.first.add(number as usize).as_ref() };
        }
        let (chunk, place, _) = locate(number - self.length);
        let first = self.chunks[chunk].load(Ordering::Acquire);
        assert!(!first.is_null(), "no such chunk");
        // SAFETY: a chunk that can be seen has values in all of its places, `place` is one of them, and it is
        // freed with `self` alone.
        unsafe { &*first.add(place) }
    }

    /// Returns how many bytes so many values take.
    pub(super) fn memory(&self, values: u32) -> usize {
        let length = |(first, length): (NonNull<T>, usize)| {
            if first == self.first { length.min(values as usize) } else { length }
        };
        self.lengths().map(|chunk| length(chunk) * size_of::<T>()).sum()
    }
}

fn make_values<T: Zero>(length: usize) -> NonNull<T> {
    let first = allocate::<T>(length);
    if cfg!(floodwall_loom) {
        for place in 0..length {
            // SAFETY: the memory is for `length` values, and nobody else knows of it yet.
            unsafe { first.add(place).write(T::default()) };
        }
    }
    first
}

impl<T> Chunks<T> {
    /// Returns the first value and the length of each chunk there is.
    fn lengths(&self) -> impl Iterator<Item = (NonNull<T>, usize)> {
        let first = (self.length > 0).then_some((self.first, self.length as usize));
        let others = (0..).zip(&self.chunks).filter_map(|(chunk, first)| {
            let length = 1 << ((chunk >> 3) + SMALLEST - 3);
            Some((NonNull::new(first.load(Ordering::Acquire))?, length))
        });
        first.into_iter().chain(others)
    }
}

impl<T> Drop for Chunks<T> {
    fn drop(&mut self) {
        for (first, length) in self.lengths() {
            // SAFETY: nobody else has `self` any more; the chunk was made by `make` with this length and is full.
            unsafe {
                NonNull::slice_from_raw_parts(first, length).drop_in_place();
                free(first, length);
            }
        }
    }
}

/// Makes room for so many values, all bytes of which are 0.
///
/// It begins with a cache line, so that small values do not lie across two. It is not asked for like that: zeroes at such a place
/// would be written by this thread at once, while the system has pages full of them.
fn allocate<T>(length: usize) -> NonNull<T> {
    let (layout, align) = layout::<T>(length);
    // SAFETY: the layout has a size.
    let Some(start) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
    // At least 16, since the start is aligned to 16.
    let shift = align - (start.addr().get() & (align - 1));
    // SAFETY: the layout is larger than the values by `align`, which `shift` is not more than; the word before the
    // first value is in what was shifted, and aligned.
    unsafe {
        let first = start.add(shift);
        first.cast::<usize>().sub(1).write(shift);
        first.cast()
    }
}

/// Frees what [`allocate`] made.
///
/// # Safety
///
/// It was made with this length, is not freed, and nobody uses it.
unsafe fn free<T>(first: NonNull<T>, length: usize) {
    // SAFETY: as the caller says; the shift stands before the first value.
    unsafe {
        let shift = first.cast::<usize>().sub(1).read();
        dealloc(first.cast::<u8>().sub(shift).as_ptr(), layout::<T>(length).0);
    }
}

/// The layout of values with something before them, and to what they are aligned.
fn layout<T>(length: usize) -> (Layout, usize) {
    let align = align_of::<T>().max(64);
    let size = length.checked_mul(size_of::<T>()).and_then(|size| size.checked_add(align));
    let layout = size.and_then(|size| Layout::from_size_align(size, 16).ok());
    (layout.expect("chunks are far smaller than memory"), align)
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use super::*;
    use crate::sync::AtomicU64;

    #[test]
    fn numbers_follow_each_other_through_the_chunks() {
        let mut next = (0, 0);
        for number in 0..100_000 {
            let (chunk, place, length) = locate(number);
            assert_eq!((chunk, place), next);
            assert_eq!(length, 16 << (chunk / 8));
            next = if place + 1 == length { (chunk + 1, 0) } else { (chunk, place + 1) };
        }
        assert_eq!(locate(Chunks::<AtomicU64>::MOST - 1).0, CHUNKS - 9);
    }

    #[test]
    fn values_stay_where_they_are() {
        let chunks = Chunks::<AtomicU64>::new(20);
        (0..1000).for_each(|number| {
            chunks.make(number);
            chunks.get(number).store(number.into(), Ordering::Relaxed);
        });
        let first = [0, 20].map(|number| ptr::from_ref(chunks.get(number)));
        assert!(first.iter().all(|first| first.align_offset(64) == 0));
        (1000..5000).for_each(|number| chunks.make(number));
        assert_eq!(first, [0, 20].map(|number| ptr::from_ref(chunks.get(number))));
        assert!((0..1000).all(|number| chunks.get(number).load(Ordering::Relaxed) == u64::from(number)));
        let memory = chunks.memory(5000);
        assert!((40_000..50_000).contains(&memory), "{memory}");
        assert_eq!(Chunks::<AtomicU64>::new(20).memory(0), 0);
    }

    #[test]
    fn what_is_not_used_yet_of_the_first_chunk_takes_no_memory() {
        let chunks = Chunks::<AtomicU64>::new(1000);
        chunks.make(0);
        assert_eq!(chunks.memory(10), 80);
    }
}

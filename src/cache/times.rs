//! The times of one entry: [`Life`] as it is written, [`Times`] as readers see it and may move it.

use crate::clock::NEVER;
use crate::sync::{AtomicU64, Ordering};

/// The most words that an entry has of its times.
pub(super) const MOST_WORDS: usize = 3;

/// The times of an entry that is written: its first words are those that the table keeps, as many as its
/// [`Room`](super::entries::Room) says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    /// When it is written, in nanoseconds of the cache's clock; 0 in a cache that knows no time.
    pub(super) now: u64,
    pub(super) words: [u64; MOST_WORDS],
}

impl Life {
    pub(super) const FOREVER: Self = Self { now: 0, words: [NEVER; MOST_WORDS] };
}

/// The words of time of an entry in a table. The first says when it leaves; what others mean is its cache's matter. A cache
/// that knows no time has none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times<'a>(pub(super) &'a [AtomicU64]);

impl Times<'_> {
    /// Returns when the entry leaves; it may be 1 ns less.
    #[inline]
    pub(super) fn expires(self) -> u64 {
        self.get(0)
    }

    /// Returns whether the entry has to leave: nobody is given it any more.
    #[inline]
    pub(super) fn is_over(self, now: u64) -> bool {
        self.expires() <= now
    }

    // Relaxed throughout: a time says nothing about other memory, and whoever found the entry has seen it written.
    #[inline]
    pub(super) fn get(self, word: usize) -> u64 {
        self.0.get(word).map_or(NEVER, |time| time.load(Ordering::Relaxed))
    }

    /// Moves a word if it still is `old`.
    pub(super) fn exchange(self, word: usize, old: u64, new: u64) -> bool {
        self.0
            .get(word)
            .is_some_and(|word| word.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok())
    }
}

//! A rate that threads share, and the word that counts in its units: [`Shared`].

use std::time::Duration;

use super::rate::Rate;
use crate::sync::{AtomicU64, Ordering, back_off, const_fn, fence, into_inner};

/// A rate and the word that counts in its units, which change together.
///
/// A sequence lock (H.-J. Boehm, "Can seqlocks get along with programming language memory models?", 2012): readers
/// load everything and look whether the version has changed meanwhile. `CHANGING` stands in for the word during a
/// change, and the word's low bits count the changes, so that a reader of the old rate can swap the word neither during
/// the change nor after it.
#[derive(Debug)]
pub(super) struct Shared {
    /// Odd during a change.
    version: AtomicU64,
    word: AtomicU64,
    fields: [AtomicU64; 9],
}

const CHANGING: u64 = u64::MAX;

/// A rate and its word, read together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) rate: Rate,
    /// When everything taken will have flowed back, in the rate's units.
    pub(super) full_at: u64,
    pub(super) word: u64,
    pub(super) version: u64,
}

impl Shared {
    const CHANGES_BITS: u32 = Rate::END.leading_zeros() + 1;

    const_fn! {
        pub(super) fn new(rate: Rate) -> Self {
            let Rate { origin, period, whole, part, reciprocal, burst, token, warm_up, paused_until } = rate;
            Self {
                version: AtomicU64::new(0),
                word: AtomicU64::new(0),
                fields: [
                    AtomicU64::new(origin),
                    AtomicU64::new(period),
                    AtomicU64::new(whole),
                    AtomicU64::new(part),
                    AtomicU64::new(reciprocal),
                    AtomicU64::new(burst),
                    AtomicU64::new(token),
                    AtomicU64::new(warm_up),
                    AtomicU64::new(paused_until),
                ],
            }
        }
    }

    const_fn! {
        /// The same rate with room for `tokens`, before it is shared.
        #[track_caller]
        pub(super) fn with_burst(self, tokens: u64) -> Self {
            Self::new(self.into_rate().with_burst(tokens))
        }
    }

    const_fn! {
        /// The same rate, cold until its first use, before it is shared.
        #[track_caller]
        pub(super) fn with_warm_up(self, time: Duration) -> Self {
            Self::new(self.into_rate().with_warm_up(time))
        }
    }

    const_fn! {
        fn into_rate(self) -> Rate {
            let Self { fields: [origin, period, whole, part, reciprocal, burst, token, warm_up, paused_until], .. } = self;
            Rate {
                origin: into_inner(origin),
                period: into_inner(period),
                whole: into_inner(whole),
                part: into_inner(part),
                reciprocal: into_inner(reciprocal),
                burst: into_inner(burst),
                token: into_inner(token),
                warm_up: into_inner(warm_up),
                paused_until: into_inner(paused_until),
            }
        }
    }

    #[inline(always)]
    pub(super) fn read(&self) -> Seen {
        loop {
            // Acquire, partner of the Release that ends a change: sees all of it.
            let version = self.version.load(Ordering::Acquire);
            let rate = self.rate();
            let word = self.word.load(Ordering::Relaxed);
            // Partner of the fence that begins a change: what was loaded of it shows in the version.
            fence(Ordering::Acquire);
            // An odd version, less its last bit, is none that can come later.
            if self.version.load(Ordering::Relaxed) == version & !1 {
                return Self::seen(rate, word, version);
            }
            back_off();
        }
    }

    const fn seen(rate: Rate, word: u64, version: u64) -> Seen {
        Seen { rate, full_at: word >> Self::CHANGES_BITS, word, version }
    }

    const fn word(full_at: u64, changes: u64) -> u64 {
        // One below the end, so that no word is `CHANGING`.
        let full_at = if full_at < Rate::END { full_at } else { Rate::END - 2 };
        full_at << Self::CHANGES_BITS | changes
    }

    /// Returns the rate, which must not be changing: for those who hold the lock that changes it.
    #[inline]
    pub(super) fn rate(&self) -> Rate {
        // Relaxed: `read` orders them.
        let [origin, period, whole, part, reciprocal, burst, token, warm_up, paused_until] =
            self.fields.each_ref().map(|field| field.load(Ordering::Relaxed));
        Rate { origin, period, whole, part, reciprocal, burst, token, warm_up, paused_until }
    }

    /// Returns which rate this is, counted from the first: for those who hold the lock that changes it.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Swaps the word that was seen, unless it has changed.
    #[inline]
    pub(super) fn swap(&self, seen: &Seen, full_at: u64) -> bool {
        let (word, next) = (seen.word, Self::word(full_at, seen.changes()));
        // Relaxed: the word is all there is, and guards no other data.
        self.word.compare_exchange(word, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Changes the word of a rate that is not changing: for those who hold the lock that changes it.
    pub(super) fn adjust(&self, change: impl Fn(u64) -> u64) {
        let _ = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let seen = Self::seen(self.rate(), word, 0);
            Some(Self::word(change(seen.full_at), seen.changes()))
        });
    }

    /// Changes rate and word together: for those who hold the lock that changes it.
    pub(super) fn change(&self, change: impl FnOnce(&Rate, u64) -> (Rate, u64)) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let seen = Self::seen(self.rate(), self.word.swap(CHANGING, Ordering::Relaxed), version);
        let (rate, full_at) = change(&seen.rate, seen.full_at);
        for (field, (old, new)) in self.fields.iter().zip(values(&seen.rate).into_iter().zip(values(&rate))) {
            // What stays as it is has nothing to tell, and a loom model nothing to try.
            if old != new {
                field.store(new, Ordering::Relaxed);
            }
        }
        let changes = (seen.changes() + 1) % (1 << Self::CHANGES_BITS);
        self.word.store(Self::word(full_at, changes), Ordering::Relaxed);
        self.version.store(version + 2, Ordering::Release);
    }
}

/// In the order of the fields.
const fn values(rate: &Rate) -> [u64; 9] {
    let Rate { origin, period, whole, part, reciprocal, burst, token, warm_up, paused_until } = *rate;
    [origin, period, whole, part, reciprocal, burst, token, warm_up, paused_until]
}

impl Seen {
    const fn changes(&self) -> u64 {
        self.word % (1 << Shared::CHANGES_BITS)
    }
}

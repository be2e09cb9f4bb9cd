//! What a cache learns from its look-ups: [`Lessons`].

use crate::cache::evict::{Choice, Ratios, Selector};
use crate::lanes;
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, parallelism};

/// Hands a sample of the look-ups to a [`Selector`].
///
/// Look-ups write to a ring of their own thread; who fills one hands it over, unless another thread is at it: then it is lost.
/// What a look-up pays on average is small: in a cache of less than some ten thousand entries the sample is so large a
/// share of the keys that it is taken in turns, for some time in each.
pub(super) struct Lessons {
    /// See [`Selector::limit`].
    limit: AtomicU32,
    /// Rises when there is another choice.
    version: AtomicU32,
    rings: Box<[Ring]>,
    class: Class,
}

/// Processors fetch lines in pairs.
#[repr(align(128))]
struct Ring {
    at: AtomicU32,
    /// A hash, and whether it was hit in the lowest bit.
    heard: [AtomicU64; LENGTH as usize],
}

const LENGTH: u32 = 32;

/// On lines of its own: look-ups do not look at it.
#[repr(align(128))]
struct Class {
    selector: Mutex<Selector>,
    /// How many look-ups are passed over until the next turn.
    pause: AtomicU64,
    /// How many were heard in this one.
    turn: AtomicU64,
}

impl Lessons {
    /// One of so many look-ups is heard, at most.
    const RARE: u64 = 32;
    /// How many are heard in a turn, by entries of a simulation; they are about so many as fit into a mean one.
    const TURN: u64 = 16 * 1024;

    pub(super) fn new(entries: u64) -> Self {
        let rings = (parallelism() * 2).next_power_of_two().clamp(4, 64);
        let ring = |_| Ring { at: AtomicU32::new(0), heard: std::array::from_fn(|_| AtomicU64::new(0)) };
        let selector = Selector::new(entries);
        Self {
            limit: AtomicU32::new(selector.limit()),
            version: AtomicU32::new(0),
            rings: (0..rings).map(ring).collect(),
            class: Class {
                selector: Mutex::new(selector),
                pause: AtomicU64::new(0),
                turn: AtomicU64::new(0),
            },
        }
    }

    /// Hears of a look-up. `entries` says for how many there is room.
    #[inline]
    pub(super) fn hear(&self, hash: u32, is_hit: bool, entries: impl FnOnce() -> u64) {
        if Selector::is_sampled(hash, self.limit.load(Ordering::Relaxed)) {
            self.note(hash, is_hit, entries);
        }
    }

    #[cold]
    #[inline(never)]
    fn note(&self, hash: u32, is_hit: bool, entries: impl FnOnce() -> u64) {
        // As many as a power of two. Threads that share one may overwrite each other's.
        let ring = &self.rings[lanes::number().unwrap_or(0) & (self.rings.len() - 1)];
        let at = ring.at.load(Ordering::Relaxed) % LENGTH;
        ring.heard[at as usize].store(u64::from(hash) << 1 | u64::from(is_hit), Ordering::Relaxed);
        ring.at.store(at + 1, Ordering::Relaxed);
        if at + 1 == LENGTH {
            self.hand_over(ring, entries);
        }
    }

    fn hand_over(&self, ring: &Ring, entries: impl FnOnce() -> u64) {
        let (heard, Class { selector, pause, turn }) = (u64::from(LENGTH), &self.class);
        let left = pause.load(Ordering::Relaxed);
        if left > 0 {
            // Threads that meet here pass over some more or less.
            pause.store(left.saturating_sub(heard), Ordering::Relaxed);
            return;
        }
        let Some(mut selector) = selector.try_lock() else { return };
        let mut has_changed = false;
        for look_up in &ring.heard {
            let look_up = look_up.load(Ordering::Relaxed);
            has_changed |= selector.access((look_up >> 1) as u32, look_up & 1 == 1).is_some();
        }
        if has_changed {
            self.version.fetch_add(1, Ordering::Relaxed);
        }
        let taken = turn.load(Ordering::Relaxed) + heard;
        turn.store(taken, Ordering::Relaxed);
        if taken >= Self::TURN {
            turn.store(0, Ordering::Relaxed);
            selector.fit(entries());
            self.limit.store(selector.limit(), Ordering::Relaxed);
            let one_in = u64::from(u32::MAX / selector.limit().max(1)).max(1);
            pause.store((Self::RARE / one_in).saturating_sub(1) * Self::TURN, Ordering::Relaxed);
        }
    }

    /// Changes with each new choice.
    #[inline]
    pub(super) fn version(&self) -> u32 {
        self.version.load(Ordering::Relaxed)
    }

    pub(super) fn choice(&self) -> Choice {
        self.class.selector.lock().choice()
    }

    pub(super) fn ratios(&self) -> Option<Ratios> {
        self.class.selector.lock().ratios()
    }

    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.rings) + self.class.selector.lock().memory()
    }
}

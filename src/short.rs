//! A lock for critical sections of some ten nanoseconds, in which nothing waits: [`Short`].
//!
//! It is given back by a store, where a lock that knows who waits needs an atomic exchange, which is half of what such a
//! section costs. So nobody is woken: who finds it taken looks again, gives its processor to others after a microsecond, and
//! sleeps if that does not help, since then its holder has lost its own. (`tests/loom/short.rs` is a model of this very file.)

use std::ops::{Deref, DerefMut};

use crate::sync::{AtomicBool, Guarded, Ordering, const_fn, wait_for_lock};

/// A value that one has at a time.
pub(crate) struct Short<T> {
    is_taken: AtomicBool,
    value: Guarded<T>,
}

#[expect(
    unsafe_code,
    reason = "to be a lock is a promise, and this one saves 10 of 27 ns where an item changes hands"
)]
// SAFETY: the value is reached through a guard only, and of these there is one at a time: only who has changed `is_taken`
// from false to true makes one, and nobody changes it back but who drops it. Acquire and Release: what one holder did is
// seen by the next. So it is the value's own thread that changes, which it may if it is `Send`.
unsafe impl<T: Send> Sync for Short<T> {}

/// Has the value, until it is dropped.
pub(crate) struct ShortGuard<'a, T> {
    lock: &'a Short<T>,
    // Of the lock's value; it also keeps the guard on its thread.
    value: *mut T,
}

impl<T> Short<T> {
    const_fn! {
        pub(crate) fn new(value: T) -> Self {
            Self { is_taken: AtomicBool::new(false), value: Guarded::new(value) }
        }
    }

    #[inline]
    pub(crate) fn lock(&self) -> ShortGuard<'_, T> {
        if !self.try_take() {
            self.take_slowly();
        }
        // A model checks here that all that holders before did is ordered before this.
        ShortGuard { lock: self, value: self.value.with_mut(|value| value) }
    }

    #[inline]
    fn try_take(&self) -> bool {
        self.is_taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn take_slowly(&self) {
        let mut round = 0;
        // Asked before it is tried, so that those who wait do not take the line from the one who is about to leave.
        while self.is_taken.load(Ordering::Relaxed) || !self.try_take() {
            wait_for_lock(round);
            round += 1;
        }
    }
}

impl<T> Deref for ShortGuard<'_, T> {
    type Target = T;

    #[inline]
    #[expect(unsafe_code, reason = "as above")]
    fn deref(&self) -> &T {
        // SAFETY: this guard has the lock, see above.
        unsafe { &*self.value }
    }
}

impl<T> DerefMut for ShortGuard<'_, T> {
    #[inline]
    #[expect(unsafe_code, reason = "as above")]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard has the lock, see above, and is borrowed alone.
        unsafe { &mut *self.value }
    }
}

impl<T> Drop for ShortGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.is_taken.store(false, Ordering::Release);
    }
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use super::*;
    use std::thread;

    /// More threads than processors, and sections of all lengths: each adds to what it has read, with others in between.
    #[test]
    fn a_short_lock_is_had_by_one_at_a_time() {
        let sum = Short::new(0_u64);
        thread::scope(|scope| {
            for number in 0..4 {
                let sum = &sum;
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let mut guard = sum.lock();
                        let before = *guard;
                        (0..(number * round) % 7).for_each(|_| std::hint::spin_loop());
                        if round % 1_000 == 0 {
                            thread::yield_now();
                        }
                        *guard = before + 1;
                    }
                });
            }
        });
        assert_eq!(*sum.lock(), 80_000);
    }
}

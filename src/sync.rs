//! Locks and atomics, real or modelled: the only file that names them.
//!
//! Under `--cfg floodwall_loom` they come from loom, which explores how threads interleave. It is a cfg of our own,
//! since the global `--cfg loom` breaks other crates.

#[cfg(not(floodwall_loom))]
pub(crate) use real::*;

#[cfg(floodwall_loom)]
pub(crate) use modelled::*;

pub(crate) use std::sync::OnceLock;

#[cfg(not(floodwall_loom))]
mod real {
    // parking_lot rather than std: as fast alone, two to three times the throughput under contention
    // and fairer between threads (figures in the design notes).
    pub(crate) use parking_lot::{Mutex, MutexGuard};
    pub(crate) use std::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
        compiler_fence, fence,
    };

    use parking_lot::lock_api::{GuardNoSend, RawMutex};
    pub(crate) use std::{thread, thread_local};

    use std::cell::{Cell, UnsafeCell};
    use std::sync::OnceLock;
    use std::time::Duration;

    pub(crate) const fn into_inner(atomic: AtomicU64) -> u64 {
        atomic.into_inner()
    }

    pub(crate) const fn zeroes<const N: usize>() -> [AtomicU64; N] {
        [const { AtomicU64::new(0) }; N]
    }

    /// Lets the winner of a race go on for some microseconds, before the next round.
    ///
    /// A line that changes its owner costs more than a hundred calls that do not: threads that take turns in runs are
    /// faster, all of them, than threads that alternate (figures in the design notes).
    #[cold]
    #[inline(never)]
    pub(crate) fn back_off() {
        for _ in 0..256 {
            std::hint::spin_loop();
        }
    }

    /// A lock for critical sections of some ten nanoseconds, in which nothing waits.
    ///
    /// It is given back by a store, where a lock that knows who waits needs an atomic exchange, which is half of what such
    /// a section costs. So nobody is woken: who finds it taken looks again, gives its processor to others after a
    /// microsecond, and sleeps if that does not help, since then its holder has lost its own.
    pub(crate) type Short<T> = parking_lot::lock_api::Mutex<RawShort, T>;
    pub(crate) type ShortGuard<'a, T> = parking_lot::lock_api::MutexGuard<'a, RawShort, T>;

    pub(crate) struct RawShort {
        is_taken: AtomicBool,
    }

    #[expect(
        unsafe_code,
        reason = "to be a lock is a promise, and this one saves 10 of 27 ns where an item changes hands"
    )]
    // SAFETY: only who has changed `is_taken` from false to true has the lock, and nobody changes it back but by `unlock`,
    // which is called by who has it. Acquire and Release: what one holder did is seen by the next.
    unsafe impl RawMutex for RawShort {
        const INIT: Self = Self { is_taken: AtomicBool::new(false) };
        type GuardMarker = GuardNoSend;

        #[inline]
        fn lock(&self) {
            if !self.try_lock() {
                self.lock_slowly();
            }
        }

        #[inline]
        fn try_lock(&self) -> bool {
            self.is_taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        }

        #[inline]
        unsafe fn unlock(&self) {
            self.is_taken.store(false, Ordering::Release);
        }
    }

    impl RawShort {
        #[cold]
        fn lock_slowly(&self) {
            let mut round = 0;
            loop {
                // Asked before it is tried, so that those who wait do not take the line from the one who is about to leave.
                if !self.is_taken.load(Ordering::Relaxed) && self.try_lock() {
                    return;
                }
                match round {
                    0..32 => std::hint::spin_loop(),
                    32..40 => thread::yield_now(),
                    _ => thread::sleep(Duration::from_micros(20 << (round - 40).min(5))),
                }
                round += 1;
            }
        }
    }

    /// A value that the first one who needs it makes.
    pub(crate) type SetOnce<T> = OnceLock<T>;

    /// A lock for a `static`.
    pub(crate) type Static<T> = Mutex<T>;

    /// A number that differs between threads, and is small while there were few.
    #[inline]
    pub(crate) fn thread_number() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        std::thread_local!(static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) });
        // A thread that ends has no number any more, and may share one.
        NUMBER
            .try_with(|number| {
                if number.get() == usize::MAX {
                    number.set(NEXT.fetch_add(1, Ordering::Relaxed) & (usize::MAX >> 1));
                }
                number.get()
            })
            .unwrap_or(0)
    }

    /// What is shared by rules that the compiler does not know; the model checks that no write meets another access.
    #[repr(transparent)]
    pub(crate) struct Guarded<T>(UnsafeCell<T>);

    impl<T> Guarded<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(UnsafeCell::new(value))
        }

        #[inline(always)]
        pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }

        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }

    /// Declares a value that all threads share.
    macro_rules! global {
        (static $name:ident: $type:ty = $value:expr) => {
            static $name: &$type = {
                static VALUE: $type = $value;
                &VALUE
            };
        };
    }
    pub(crate) use global;

    /// How many threads may run at the same time.
    pub(crate) fn parallelism() -> usize {
        static PARALLELISM: OnceLock<usize> = OnceLock::new();
        *PARALLELISM.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
    }
}

#[cfg(floodwall_loom)]
mod modelled {
    pub(crate) use loom::cell::UnsafeCell as Guarded;
    pub(crate) use loom::sync::atomic::{
        AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
    pub(crate) use loom::sync::{Condvar, MutexGuard};
    pub(crate) use loom::thread::yield_now as back_off;

    pub(crate) fn into_inner(atomic: AtomicU64) -> u64 {
        atomic.load(Ordering::Relaxed)
    }

    pub(crate) fn compiler_fence(order: Ordering) {
        fence(order);
    }

    macro_rules! global {
        (static $name:ident: $type:ty = $value:expr) => {
            loom::lazy_static! {
                static ref $name: $type = $value;
            }
        };
    }
    pub(crate) use global;

    // A built-in attribute has the name, so the macro gets it on its way out.
    macro_rules! modelled_thread_local {
        ($($(#[$attribute:meta])* static $name:ident: $type:ty = const { $value:expr };)*) => {
            loom::thread_local! {
                $($(#[$attribute])* static $name: $type = $value;)*
            }
        };
    }
    pub(crate) use modelled_thread_local as thread_local;

    /// A value that the first one who needs it makes; ordered as the standard library's is.
    #[derive(Debug)]
    pub(crate) struct SetOnce<T> {
        value: std::sync::OnceLock<T>,
        is_set: AtomicU64,
        sets: Mutex<()>,
    }

    impl<T> Default for SetOnce<T> {
        fn default() -> Self {
            Self { value: std::sync::OnceLock::new(), is_set: AtomicU64::new(0), sets: Mutex::new(()) }
        }
    }

    impl<T> SetOnce<T> {
        pub(crate) fn get(&self) -> Option<&T> {
            if self.is_set.load(Ordering::Acquire) == 1 { self.value.get() } else { None }
        }

        pub(crate) fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
            let _sets = self.sets.lock();
            let value = self.value.get_or_init(make);
            self.is_set.store(1, Ordering::Release);
            value
        }

        pub(crate) fn take(&mut self) -> Option<T> {
            self.value.take()
        }
    }

    /// A lock for a `static`, which loom's cannot be: none of its steps may be taken while this one is held.
    pub(crate) struct Static<T>(std::sync::Mutex<T>);

    impl<T> Static<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
        }
    }

    /// The same for the same thread in each run of a model.
    pub(crate) fn thread_number() -> usize {
        use std::hash::{Hash, Hasher};
        let mut hasher = std::hash::DefaultHasher::new();
        loom::thread::current().id().hash(&mut hasher);
        hasher.finish() as usize
    }

    pub(crate) fn parallelism() -> usize {
        1
    }

    pub(crate) fn zeroes<const N: usize>() -> [AtomicU64; N] {
        std::array::from_fn(|_| AtomicU64::new(0))
    }

    /// What matters in a model is that one has it at a time.
    pub(crate) type Short<T> = Mutex<T>;
    pub(crate) type ShortGuard<'a, T> = MutexGuard<'a, T>;

    /// loom's mutex, without poisoning.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Self::new(T::default())
        }
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }
}

/// Declares a `const fn` around locks or atomics, which loom cannot create at compile time.
macro_rules! const_fn {
    ($(#[$attribute:meta])* $visibility:vis fn $($rest:tt)*) => {
        #[cfg(not(floodwall_loom))]
        $(#[$attribute])*
        $visibility const fn $($rest)*

        #[cfg(floodwall_loom)]
        $(#[$attribute])*
        $visibility fn $($rest)*
    };
}
pub(crate) use const_fn;

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use super::*;

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
        assert_eq!(sum.into_inner(), 80_000);
    }
}

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

    /// What who waits for a [`Short`](crate::short::Short) lock does between two looks at it.
    pub(crate) fn wait_for_lock(round: u32) {
        match round {
            0..32 => std::hint::spin_loop(),
            32..40 => thread::yield_now(),
            _ => thread::sleep(Duration::from_micros(20 << (round - 40).min(5))),
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

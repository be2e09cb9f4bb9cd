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
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
    pub(crate) use std::thread;

    pub(crate) const fn into_inner(atomic: AtomicU64) -> u64 {
        atomic.into_inner()
    }

    pub(crate) const fn zeroes<const N: usize>() -> [AtomicU64; N] {
        [const { AtomicU64::new(0) }; N]
    }

    /// Lets the winner of a race finish before the next round.
    pub(crate) fn back_off() {
        for _ in 0..64 {
            std::hint::spin_loop();
        }
    }
}

#[cfg(floodwall_loom)]
mod modelled {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
    pub(crate) use loom::sync::{Condvar, MutexGuard};
    pub(crate) use loom::thread::yield_now as back_off;

    pub(crate) fn into_inner(atomic: AtomicU64) -> u64 {
        atomic.load(Ordering::Relaxed)
    }

    pub(crate) fn zeroes<const N: usize>() -> [AtomicU64; N] {
        std::array::from_fn(|_| AtomicU64::new(0))
    }

    /// loom's mutex, without poisoning.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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

//! Which flights a thread is running code of, and which flights wait for which: so that one that waits for itself is
//! found, however many others stand between.

use std::cell::RefCell;
use std::marker::PhantomData;

use crate::sync::{Static, thread_local};

thread_local! {
    /// The addresses of the flights whose code this thread is running, the outermost first.
    static RUNNING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// The loads that wait for another flight, of all tables: the address of the one that waits, and of the one that it
/// waits for. Nobody else writes to it, and mostly it is empty.
static WAITS: Static<Vec<(usize, usize)>> = Static::new(Vec::new());

/// While this is there, the thread runs code of some flights: a load, a poll of one, the drop of one.
pub(crate) struct Entered {
    depth: usize,
    // It belongs to the thread that entered.
    not_send: PhantomData<*const ()>,
}

impl Entered {
    pub(super) fn new(flights: impl IntoIterator<Item = usize>) -> Self {
        // A thread that ends has no locals any more; then a recursion is not found.
        let depth = RUNNING.try_with(|running| {
            let mut running = running.borrow_mut();
            let depth = running.len();
            running.extend(flights);
            depth
        });
        Self { depth: depth.unwrap_or(0), not_send: PhantomData }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let _ = RUNNING.try_with(|running| running.borrow_mut().truncate(self.depth));
    }
}

/// Loads that wait for a flight, until it is dropped.
pub(super) struct Waits {
    flight: usize,
    /// Those that this thread runs code of; mostly none.
    loads: Vec<usize>,
}

impl Waits {
    /// Lets the loads that this thread runs code of wait for a flight; `None` if that flight waits for one of them.
    pub(super) fn new(flight: usize) -> Option<Self> {
        let loads = RUNNING.try_with(|running| running.borrow().clone()).unwrap_or_default();
        if loads.is_empty() {
            return Some(Self { flight, loads });
        }
        let mut waits = WAITS.lock();
        let mut reached = vec![flight];
        let mut next = 0;
        while let Some(&from) = reached.get(next) {
            if loads.contains(&from) {
                return None;
            }
            for (_, to) in waits.iter().filter(|wait| wait.0 == from) {
                if !reached.contains(to) {
                    reached.push(*to);
                }
            }
            next += 1;
        }
        waits.extend(loads.iter().map(|load| (*load, flight)));
        Some(Self { flight, loads })
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if self.loads.is_empty() {
            return;
        }
        let mut waits = WAITS.lock();
        for load in &self.loads {
            if let Some(place) = waits.iter().position(|wait| *wait == (*load, self.flight)) {
                waits.swap_remove(place);
            }
        }
    }
}

//! One fair, cancel-safe line of waiters, for tasks and threads alike.
//!
//! A primitive keeps a [`WaitList`] beside what its callers wait for, both under the primitive's own lock, and says
//! through [`Line`] how one of them is served. [`Wait`] is the future of one waiter; a thread waits by blocking on it.
//!
//! Why nothing is lost: whoever gives something back serves the first waiter *under the lock*, and what it was
//! served is recorded in its entry, so it does not matter which of "served", "timed out" and "cancelled" is seen
//! first. A waiter that was served and is dropped gives back and serves the next. A wake-up is only a hint to look.
//! Wakers are user code: they are cloned before the lock is taken, and woken and dropped after it is released.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;

use crate::clock::{Clock, NEVER, Sleep};
use crate::slab::Slab;
use crate::sync::{Mutex, MutexGuard};

/// The waiters of one primitive, first come first served.
#[derive(Debug)]
pub(crate) struct WaitList<S> {
    waiters: Slab<Waiter<S>>,
    limit: usize,
}

#[derive(Debug)]
struct Waiter<S> {
    slot: Option<S>,
    waker: Option<Waker>,
    served: bool,
}

impl<S> WaitList<S> {
    /// A list that refuses the next waiter while `limit` are waiting.
    pub(crate) const fn bounded(limit: usize) -> Self {
        Self { waiters: Slab::new(), limit }
    }

    pub(crate) const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Returns how many wait and are not served yet.
    pub(crate) const fn len(&self) -> usize {
        self.waiters.queued()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What callers line up for. Lives under the primitive's lock.
pub(crate) trait Line {
    /// What a waiter brings, and takes away once it is served.
    type Slot;

    fn waiters(&mut self) -> &mut WaitList<Self::Slot>;

    /// Serves `slot`, which nobody stands before, if that is possible now.
    fn serve(&mut self, slot: &mut Self::Slot) -> bool;

    /// Takes back what `slot` was served.
    fn take_back(&mut self, slot: Self::Slot);

    /// Serves a caller that has not joined the line: it must not pass those who have.
    fn serve_newcomer(&mut self, slot: &mut Self::Slot) -> bool {
        self.waiters().is_empty() && self.serve(slot)
    }
}

/// Serves as many waiters as can be served now, and wakes each outside the lock.
pub(crate) fn serve_waiters<'a, L: Line>(line: &'a Mutex<L>, mut locked: MutexGuard<'a, L>) {
    loop {
        let Some(waker) = serve_first(&mut *locked) else { return };
        let more = !locked.waiters().is_empty();
        drop(locked);
        waker.wake();
        if !more {
            return;
        }
        locked = line.lock();
    }
}

fn serve_first<L: Line>(line: &mut L) -> Option<Waker> {
    let key = line.waiters().waiters.first()?;
    let mut slot = line.waiters().waiters.get_mut(key)?.slot.take()?;
    let served = line.serve(&mut slot);
    let list = &mut line.waiters().waiters;
    if served {
        list.unqueue(key);
    }
    let waiter = list.get_mut(key)?;
    waiter.slot = Some(slot);
    waiter.served = served;
    if served { waiter.waker.take() } else { None }
}

/// How waiting ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Waited<S> {
    Served(S),
    /// The line was full.
    Full,
    /// The deadline passed first.
    TooLate,
}

pin_project! {
    /// One waiter: served in its turn, or refused when the line is full or its deadline passes.
    ///
    /// Dropping it leaves the line, and gives back what it was served meanwhile.
    #[must_use = "waiting does nothing unless it is awaited"]
    pub(crate) struct Wait<'a, L: Line> {
        line: &'a Mutex<L>,
        clock: &'a Clock,
        deadline: u64,
        // Before it joined the line.
        slot: Option<L::Slot>,
        // Since it joined the line.
        key: Option<usize>,
        #[pin]
        sleep: Option<Sleep>,
    }

    impl<L: Line> PinnedDrop for Wait<'_, L> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(key) = this.key.take() {
                leave(this.line, key);
            }
        }
    }
}

impl<'a, L: Line> Wait<'a, L> {
    pub(crate) fn new(line: &'a Mutex<L>, clock: &'a Clock, deadline: u64, slot: L::Slot) -> Self {
        Self { line, clock, deadline, slot: Some(slot), key: None, sleep: None }
    }
}

/// Takes a waiter out of the line and passes on what it was served.
fn leave<L: Line>(line: &Mutex<L>, key: usize) {
    let mut locked = line.lock();
    let waker = match locked.waiters().waiters.remove(key) {
        Some(Waiter { slot: Some(slot), served, waker }) => {
            if served {
                locked.take_back(slot);
            }
            waker
        }
        _ => None,
    };
    // Also when it was not served: with the first one gone, the second may be served now.
    serve_waiters(line, locked);
    drop(waker);
}

impl<L: Line> Future for Wait<'_, L> {
    type Output = Waited<L::Slot>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let waker = context.waker().clone();
        let mut old_waker = None;
        let mut locked = this.line.lock();
        match *this.key {
            None => {
                let mut slot = this.slot.take().expect("a wait that has ended is not polled again");
                if locked.serve_newcomer(&mut slot) {
                    return Poll::Ready(Waited::Served(slot));
                }
                let list = locked.waiters();
                if list.len() >= list.limit {
                    return Poll::Ready(Waited::Full);
                }
                *this.key = Some(list.waiters.push_back(Waiter {
                    slot: Some(slot),
                    waker: Some(waker),
                    served: false,
                }));
            }
            Some(key) => {
                let list = &mut locked.waiters().waiters;
                let waiter = list.get_mut(key).expect("a waiter keeps its entry until it leaves");
                if waiter.served {
                    *this.key = None;
                    let slot = list.remove(key).and_then(|waiter| waiter.slot);
                    return Poll::Ready(Waited::Served(slot.expect("a served waiter has its slot")));
                }
                old_waker = waiter.waker.replace(waker);
            }
        }
        drop(locked);
        drop(old_waker);

        if *this.deadline == NEVER {
            return Poll::Pending;
        }
        // Asked first, so that whoever waits until the same time further out does not drop a waiter that is too late.
        if this.clock.nanos() < *this.deadline {
            if this.sleep.is_none() {
                this.sleep.set(Some(this.clock.sleep_until_nanos(*this.deadline)));
            }
            let sleep = this.sleep.as_mut().as_pin_mut().expect("set just now");
            std::task::ready!(sleep.poll(context));
        }

        // The deadline has passed; it may have been served just before.
        let mut locked = this.line.lock();
        let key = this.key.take().expect("it joined the line above");
        match locked.waiters().waiters.remove(key) {
            Some(Waiter { slot: Some(slot), served: true, .. }) => Poll::Ready(Waited::Served(slot)),
            waiter => {
                serve_waiters(this.line, locked);
                drop(waiter);
                Poll::Ready(Waited::TooLate)
            }
        }
    }
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Wake;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::sync::{AtomicU64, Ordering};

    /// Tokens that waiters take `slot` of at a time.
    struct Tokens {
        free: u32,
        waiters: WaitList<u32>,
    }

    impl Line for Tokens {
        type Slot = u32;

        fn waiters(&mut self) -> &mut WaitList<u32> {
            &mut self.waiters
        }

        fn serve(&mut self, slot: &mut u32) -> bool {
            let enough = self.free >= *slot;
            if enough {
                self.free -= *slot;
            }
            enough
        }

        fn take_back(&mut self, slot: u32) {
            self.free += slot;
        }
    }

    fn tokens(free: u32, limit: usize) -> Mutex<Tokens> {
        Mutex::new(Tokens { free, waiters: WaitList::bounded(limit) })
    }

    fn give(line: &Mutex<Tokens>, tokens: u32) {
        let mut locked = line.lock();
        locked.free += tokens;
        serve_waiters(line, locked);
    }

    #[derive(Default)]
    struct CountWakes(AtomicU64);
    impl Wake for CountWakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_large_waiter_is_not_passed_by_small_ones() {
        let (line, clock) = (tokens(0, 9), Clock::manual());
        let mut large = pin!(Wait::new(&line, &clock, NEVER, 3));
        let mut small = pin!(Wait::new(&line, &clock, NEVER, 1));
        assert!(poll(large.as_mut()).is_pending());
        assert!(poll(small.as_mut()).is_pending());
        give(&line, 2);
        assert!(poll(small.as_mut()).is_pending());
        give(&line, 2);
        assert_eq!(poll(large.as_mut()), Poll::Ready(Waited::Served(3)));
        assert_eq!(poll(small.as_mut()), Poll::Ready(Waited::Served(1)));
        assert_eq!(line.lock().free, 0);
    }

    #[test]
    fn when_the_first_one_leaves_the_second_is_served() {
        let (line, clock) = (tokens(1, 9), Clock::manual());
        let mut large = Box::pin(Wait::new(&line, &clock, NEVER, 3));
        let mut small = pin!(Wait::new(&line, &clock, NEVER, 1));
        assert!(poll(large.as_mut()).is_pending());
        assert!(poll(small.as_mut()).is_pending());
        drop(large);
        assert_eq!(poll(small.as_mut()), Poll::Ready(Waited::Served(1)));
    }

    #[test]
    fn a_served_waiter_that_is_dropped_passes_on_what_it_got() {
        let (line, clock) = (tokens(0, 9), Clock::manual());
        let mut first = Box::pin(Wait::new(&line, &clock, NEVER, 1));
        let mut second = pin!(Wait::new(&line, &clock, NEVER, 1));
        assert!(poll(first.as_mut()).is_pending());
        assert!(poll(second.as_mut()).is_pending());
        give(&line, 1);
        assert!(poll(second.as_mut()).is_pending());
        drop(first);
        assert_eq!(poll(second.as_mut()), Poll::Ready(Waited::Served(1)));
    }

    #[test]
    fn two_gifts_before_the_first_waiter_runs_serve_two() {
        let (line, clock) = (tokens(0, 9), Clock::manual());
        let wakes = Arc::new(CountWakes::default());
        let waker = wakes.clone().into();
        let mut context = Context::from_waker(&waker);
        let mut first = pin!(Wait::new(&line, &clock, NEVER, 1));
        let mut second = pin!(Wait::new(&line, &clock, NEVER, 1));
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        give(&line, 1);
        give(&line, 1);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
        assert_eq!(first.poll(&mut context), Poll::Ready(Waited::Served(1)));
        assert_eq!(second.poll(&mut context), Poll::Ready(Waited::Served(1)));
    }

    #[test]
    fn who_is_served_before_its_deadline_is_seen_keeps_what_it_got() {
        let (line, clock) = (tokens(0, 9), Clock::manual());
        let deadline = clock.after(Duration::from_secs(1));
        let mut served = pin!(Wait::new(&line, &clock, deadline, 1));
        let mut late = pin!(Wait::new(&line, &clock, deadline, 1));
        assert!(poll(served.as_mut()).is_pending());
        assert!(poll(late.as_mut()).is_pending());
        give(&line, 1);
        clock.advance(Duration::from_secs(1));
        assert_eq!(poll(served.as_mut()), Poll::Ready(Waited::Served(1)));
        assert_eq!(poll(late.as_mut()), Poll::Ready(Waited::TooLate));
        assert!(line.lock().waiters.is_empty());
    }

    #[test]
    fn a_full_line_refuses() {
        let (line, clock) = (tokens(0, 1), Clock::manual());
        let mut first = pin!(Wait::new(&line, &clock, NEVER, 1));
        assert!(poll(first.as_mut()).is_pending());
        assert_eq!(poll(pin!(Wait::new(&line, &clock, NEVER, 1))), Poll::Ready(Waited::Full));
    }

    proptest! {
        /// Against the obvious twin: a queue of sizes, served from the front while it fits.
        #[test]
        fn tokens_are_conserved_and_served_in_order(steps in prop::collection::vec((0u8..4, 1u32..4, any::<prop::sample::Index>()), 1..80)) {
            let (line, clock) = (tokens(0, usize::MAX), Clock::manual());
            let mut waits = Vec::new();
            let mut twin: Vec<(usize, u32)> = Vec::new();
            let (mut twin_free, mut given, mut held) = (0, 0, 0);
            for (id, (step, size, index)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        let mut wait = Box::pin(Wait::new(&line, &clock, NEVER, size));
                        match poll(wait.as_mut()) {
                            Poll::Ready(Waited::Served(size)) => { held += size; prop_assert!(twin.is_empty()); twin_free -= size; }
                            _ => { waits.push((id, wait)); twin.push((id, size)); }
                        }
                    }
                    2 => { give(&line, size); given += size; twin_free += size; }
                    _ if !waits.is_empty() => {
                        let (id, wait) = waits.swap_remove(index.index(waits.len()));
                        drop(wait);
                        twin.retain(|waiter| waiter.0 != id);
                    }
                    _ => {}
                }
                // Nobody was polled since, so the twin may serve now whoever is next.
                let mut served = Vec::new();
                while let Some((id, size)) = twin.first().copied().filter(|waiter| waiter.1 <= twin_free) {
                    twin_free -= size;
                    served.push(id);
                    twin.remove(0);
                }
                let mut index = 0;
                while index < waits.len() {
                    match poll(waits[index].1.as_mut()) {
                        Poll::Ready(Waited::Served(size)) => {
                            prop_assert!(served.contains(&waits[index].0));
                            held += size;
                            drop(waits.swap_remove(index));
                        }
                        _ => index += 1,
                    }
                }
                prop_assert_eq!(line.lock().free, twin_free);
                prop_assert_eq!(line.lock().waiters.len(), twin.len());
                prop_assert_eq!(given, held + twin_free);
            }
        }
    }
}

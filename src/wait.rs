//! One fair, cancel-safe line of waiters, for tasks and threads alike.
//!
//! A primitive keeps a [`WaitList`] under a lock beside what its callers wait for, and says through [`Line`] how one of
//! them is served. [`Wait`] is the future of one waiter; a thread waits by blocking on it.
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

/// The waiters of one primitive: by rank, and within a rank first come first served, or last come first served.
#[derive(Debug)]
pub(crate) struct WaitList<S> {
    waiters: Slab<Waiter<S>>,
    limit: usize,
    newest_first: bool,
}

#[derive(Debug)]
struct Waiter<S> {
    slot: Option<S>,
    waker: Option<Waker>,
    turn: Turn,
}

/// What can be done for a caller now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Served,
    NotYet,
    /// There is no use in waiting.
    Never,
}

impl<S> WaitList<S> {
    /// A list that refuses the next waiter while `limit` are waiting.
    pub(crate) const fn bounded(limit: usize) -> Self {
        Self { waiters: Slab::new(), limit, newest_first: false }
    }

    pub(crate) const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Serves the newest first from now on; a full list then drops its oldest waiter for a new one.
    pub(crate) const fn serve_newest_first(&mut self) {
        self.newest_first = true;
    }

    /// Returns the limit, and whether the newest is served first.
    pub(crate) const fn bounds(&self) -> (usize, bool) {
        (self.limit, self.newest_first)
    }

    /// Returns how many wait and are not served yet.
    pub(crate) const fn len(&self) -> usize {
        self.waiters.queued()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the slot of the first waiter.
    pub(crate) fn first(&self) -> Option<&S> {
        self.waiters.get(self.waiters.first()?)?.slot.as_ref()
    }

    /// Picks the first waiter of those that are `meant`, for it to be woken and look at more than its turn; returns its
    /// slot, and its waker unless it is about to look anyway.
    pub(crate) fn nudge(&mut self, meant: impl Fn(&S) -> bool) -> Option<(&mut S, Option<Waker>)> {
        let is_meant =
            |key: usize| self.waiters.get(key).and_then(|waiter| waiter.slot.as_ref()).is_some_and(&meant);
        let mut key = self.waiters.first()?;
        while !is_meant(key) {
            key = self.waiters.after(key)?;
        }
        let waiter = self.waiters.get_mut(key)?;
        Some((waiter.slot.as_mut()?, waiter.waker.take()))
    }
}

/// What callers line up for.
pub(crate) trait Line {
    /// What a waiter brings, and takes away once it is served.
    type Slot;

    fn list(&self) -> &Mutex<WaitList<Self::Slot>>;

    /// Serves `slot`, which nobody stands before, if that is possible now. Called under the list's lock.
    fn serve_one(&self, slot: &mut Self::Slot) -> Turn;

    /// Takes back what `slot` was served. Called under the list's lock.
    fn take_back(&self, slot: Self::Slot);

    /// Hears whether somebody waits, again and again, under the list's lock. Before the first waiter joins it is told
    /// so, and then asked once more to serve it: nothing that is given back in between can be missed.
    fn mark(&self, somebody_waits: bool) {
        let _ = somebody_waits;
    }

    /// Returns whether what waiters wait for may be taken by others: a waiter that is woken then looks for itself.
    fn may_be_passed(&self) -> bool {
        false
    }

    /// Waiters of rank 0 stand before those of rank 1.
    fn rank(slot: &Self::Slot) -> u8 {
        let _ = slot;
        0
    }
}

impl<S> WaitList<S> {
    /// Returns whether a newcomer would pass somebody.
    fn bars<L: Line<Slot = S>>(&self, slot: &S) -> bool {
        let Some(first) = self.rank_at::<L>(self.waiters.first()) else { return false };
        first < L::rank(slot) || first == L::rank(slot) && !self.newest_first
    }

    fn rank_at<L: Line<Slot = S>>(&self, key: Option<usize>) -> Option<u8> {
        self.waiters.get(key?)?.slot.as_ref().map(L::rank)
    }

    /// Adds a waiter in its place; steps past those of lower ranks, of whom there are mostly none.
    fn join<L: Line<Slot = S>>(&mut self, slot: S, waker: Waker) -> usize {
        let rank = L::rank(&slot);
        let mut next = None;
        if self.newest_first {
            next = self.waiters.first();
            while self.rank_at::<L>(next).is_some_and(|other| other < rank) {
                next = next.and_then(|key| self.waiters.after(key));
            }
        } else {
            let mut last = self.waiters.last();
            while self.rank_at::<L>(last).is_some_and(|other| other > rank) {
                next = last;
                last = last.and_then(|key| self.waiters.before(key));
            }
        }
        self.waiters.push_before(next, Waiter { slot: Some(slot), waker: Some(waker), turn: Turn::NotYet })
    }

    /// Makes room for one that matters more than the last waiter; returns whom to wake, or `None` if there is no room.
    fn make_room<L: Line<Slot = S>>(&mut self, slot: &S) -> Option<Option<Waker>> {
        if self.len() < self.limit {
            return Some(None);
        }
        let last = self.waiters.last()?;
        let other = self.rank_at::<L>(Some(last))?;
        if other < L::rank(slot) || other == L::rank(slot) && !self.newest_first {
            return None;
        }
        Some(self.decide(last, Turn::Never))
    }

    /// Takes a waiter out of the queue, for it to find out why; returns whom to wake.
    fn decide(&mut self, key: usize, turn: Turn) -> Option<Waker> {
        self.waiters.unqueue(key);
        let waiter = self.waiters.get_mut(key)?;
        waiter.turn = turn;
        waiter.waker.take()
    }

    /// Serves the first waiter if that is possible now; returns whom to wake then: nobody, if it is woken already.
    fn serve_first<L: Line<Slot = S>>(&mut self, line: &L) -> Option<Option<Waker>> {
        let key = self.waiters.first()?;
        match line.serve_one(self.waiters.get_mut(key)?.slot.as_mut()?) {
            Turn::NotYet => None,
            turn => Some(self.decide(key, turn)),
        }
    }
}

/// Serves a caller that has not joined the line: it must not pass those who have.
pub(crate) fn serve_newcomer<L: Line>(line: &L, slot: &mut L::Slot) -> Turn {
    let list = line.list().lock();
    if list.bars::<L>(slot) { Turn::NotYet } else { line.serve_one(slot) }
}

/// Serves as many waiters as can be served now, and wakes each outside the lock.
pub(crate) fn serve_waiters<'a, L: Line>(line: &'a L, mut list: MutexGuard<'a, WaitList<L::Slot>>) {
    loop {
        let served = list.serve_first(line);
        let more = !list.is_empty();
        if !more {
            line.mark(false);
        }
        drop(list);
        let Some(waker) = served else { return };
        if let Some(waker) = waker {
            waker.wake();
        }
        if !more {
            return;
        }
        list = line.list().lock();
    }
}

/// Serves the first waiter if that is possible now, and wakes it outside the lock: after one thing came back, and there
/// was nothing before.
pub(crate) fn serve_next<'a, L: Line>(line: &'a L, mut list: MutexGuard<'a, WaitList<L::Slot>>) {
    let served = list.serve_first(line);
    if list.is_empty() {
        line.mark(false);
    }
    drop(list);
    if let Some(Some(waker)) = served {
        waker.wake();
    }
}

/// Wakes the first waiter that is not woken yet, for it to see whether there still is something: where others
/// [may pass](Line::may_be_passed).
pub(crate) fn wake_first<S>(mut list: MutexGuard<'_, WaitList<S>>) {
    let waker = list.waiters.first().and_then(|key| list.waiters.get_mut(key)?.waker.take());
    drop(list);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// How waiting ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Waited<S> {
    Served(S),
    /// The line was full, or there was no use in waiting.
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
        line: &'a L,
        clock: &'a Clock,
        deadline: u64,
        // When it was made, until it is polled; 0 if that is not known.
        now: u64,
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
                leave(*this.line, key);
            }
        }
    }
}

impl<'a, L: Line> Wait<'a, L> {
    pub(crate) fn new(line: &'a L, clock: &'a Clock, deadline: u64, slot: L::Slot) -> Self {
        Self { line, clock, deadline, now: 0, slot: Some(slot), key: None, sleep: None }
    }

    /// Spares it a reading of the clock, if it is polled at once.
    pub(crate) const fn from(mut self, now: u64) -> Self {
        self.now = now;
        self
    }

    /// Returns the slot of this waiter while it stands in the line, which is `list`.
    pub(crate) fn slot<'l>(&self, list: &'l mut WaitList<L::Slot>) -> Option<&'l mut L::Slot> {
        list.waiters.get_mut(self.key?)?.slot.as_mut()
    }
}

/// Takes a waiter out of the line and passes on what it was served.
fn leave<L: Line>(line: &L, key: usize) {
    let mut list = line.list().lock();
    let waker = match list.waiters.remove(key) {
        Some(Waiter { slot: Some(slot), turn, waker }) => {
            if turn == Turn::Served {
                line.take_back(slot);
            }
            waker
        }
        _ => None,
    };
    // Also when it was not served: with the first one gone, the second may be served now.
    serve_waiters(line, list);
    drop(waker);
}

impl<L: Line> Future for Wait<'_, L> {
    type Output = Waited<L::Slot>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let line = *this.line;
        let waker = context.waker().clone();
        let (mut old_waker, mut displaced) = (None, None);
        let mut list = line.list().lock();
        if this.key.is_some() && line.may_be_passed() {
            serve_waiters(line, list);
            list = line.list().lock();
        }
        match *this.key {
            None => {
                let mut slot = this.slot.take().expect("a wait that has ended is not polled again");
                line.mark(true);
                let turn = if list.bars::<L>(&slot) { Turn::NotYet } else { line.serve_one(&mut slot) };
                let room = if turn == Turn::NotYet { list.make_room::<L>(&slot) } else { None };
                let Some(loser) = room else {
                    line.mark(!list.is_empty());
                    return Poll::Ready(if turn == Turn::Served {
                        Waited::Served(slot)
                    } else {
                        Waited::Full
                    });
                };
                displaced = loser;
                *this.key = Some(list.join::<L>(slot, waker));
            }
            Some(key) => {
                let waiter = list.waiters.get_mut(key).expect("a waiter keeps its entry until it leaves");
                match waiter.turn {
                    Turn::NotYet => old_waker = waiter.waker.replace(waker),
                    Turn::Served => {
                        *this.key = None;
                        let slot = list.waiters.remove(key).and_then(|waiter| waiter.slot);
                        return Poll::Ready(Waited::Served(slot.expect("a served waiter has its slot")));
                    }
                    Turn::Never => {
                        *this.key = None;
                        list.waiters.remove(key);
                        return Poll::Ready(Waited::Full);
                    }
                }
            }
        }
        drop(list);
        drop(old_waker);
        if let Some(displaced) = displaced {
            displaced.wake();
        }

        if *this.deadline == NEVER {
            return Poll::Pending;
        }
        // Asked first, so that whoever waits until the same time further out does not drop a waiter that is too late.
        let now = match std::mem::take(this.now) {
            0 => this.clock.nanos(),
            now => now,
        };
        if now < *this.deadline {
            if this.sleep.is_none() {
                this.sleep.set(Some(this.clock.sleep_from_nanos(now, *this.deadline)));
            }
            let sleep = this.sleep.as_mut().as_pin_mut().expect("set just now");
            std::task::ready!(sleep.poll(context));
        }

        // The deadline has passed; it may have been served just before.
        let mut list = line.list().lock();
        let key = this.key.take().expect("it joined the line above");
        match list.waiters.remove(key) {
            Some(Waiter { slot: Some(slot), turn: Turn::Served, .. }) => Poll::Ready(Waited::Served(slot)),
            waiter => {
                serve_waiters(line, list);
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
        free: AtomicU64,
        list: Mutex<WaitList<u32>>,
    }

    impl Line for Tokens {
        type Slot = u32;

        fn list(&self) -> &Mutex<WaitList<u32>> {
            &self.list
        }

        fn serve_one(&self, slot: &mut u32) -> Turn {
            let free = self.free();
            if free < *slot {
                return Turn::NotYet;
            }
            self.free.store(u64::from(free - *slot), Ordering::Relaxed);
            Turn::Served
        }

        fn take_back(&self, slot: u32) {
            self.free.fetch_add(u64::from(slot), Ordering::Relaxed);
        }
    }

    impl Tokens {
        fn free(&self) -> u32 {
            self.free.load(Ordering::Relaxed) as u32
        }
    }

    fn tokens(free: u32, limit: usize) -> Tokens {
        Tokens { free: AtomicU64::new(free.into()), list: Mutex::new(WaitList::bounded(limit)) }
    }

    fn give(line: &Tokens, tokens: u32) {
        let list = line.list.lock();
        line.take_back(tokens);
        serve_waiters(line, list);
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
        assert_eq!(line.free(), 0);
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
        assert!(line.list.lock().is_empty());
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
                prop_assert_eq!(line.free(), twin_free);
                prop_assert_eq!(line.list.lock().len(), twin.len());
                prop_assert_eq!(given, held + twin_free);
            }
        }
    }
}

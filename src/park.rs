//! The only place where the crate blocks a thread: [`block_on`].

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Runs a future on this thread until it is done, parking the thread while there is nothing to do.
///
/// The blocking verbs of this crate (`acquire_blocking`, `call_blocking`) are their async twins under `block_on`.
/// Sleeps of this crate need no runtime and no timer thread inside it: the parked thread is its own timer. Do not run
/// another executor inside the future, and do not call it on a thread that drives async tasks.
///
/// # Cost
///
/// Around a ready future a few nanoseconds and no allocation, but for the first call on a thread.
///
/// # Examples
///
/// ```
/// assert_eq!(floodwall::block_on(async { 40 + 2 }), 42);
/// ```
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    Parked::with(|parked| {
        let mut context = Context::from_waker(&parked.waker);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            parked.wait();
        }
    })
}

/// Who keeps the processor for so long is a thread of another program, which uses up its time; ours would have come to an
/// end of what they can do.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1);

/// Looks until there is something, and lets other threads run in between; gives up after some microseconds, or when others
/// have the processor for long.
///
/// To park a thread and to wake it takes longer than many a wait, above all for the one who wakes. But a thread that keeps
/// looking takes its processor from those who could do something with it.
#[cfg(not(floodwall_loom))]
#[inline]
pub(crate) fn patiently<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    use crate::sync::thread;
    use std::time::Instant;

    const ROUNDS: usize = 64;
    // Mostly there is something, and no need to know the time.
    if let Some(found) = look() {
        return Some(found);
    }
    let mut before = Instant::now();
    for _ in 0..ROUNDS {
        thread::yield_now();
        if let Some(found) = look() {
            return Some(found);
        }
        let now = Instant::now();
        if now.duration_since(before) > PATIENCE {
            break;
        }
        before = now;
    }
    None
}

/// In a model it parks at once: what is found before needs no wake-up, which is what models are about.
#[cfg(floodwall_loom)]
pub(crate) fn patiently<T>(_: impl FnMut() -> Option<T>) -> Option<T> {
    None
}

#[cfg(floodwall_loom)]
use modelled::Parked;
#[cfg(not(floodwall_loom))]
use real::Parked;
#[cfg(not(floodwall_loom))]
pub(crate) use real::{Timer, arm, disarm, rearm};

/// A thread that parks, and the timers of the futures that it runs.
#[cfg(not(floodwall_loom))]
mod real {
    use std::cell::{Cell, RefCell};
    use std::time::{Duration, Instant};

    use super::{Arc, Wake, Waker};
    use crate::sync::{AtomicBool, AtomicU64, Ordering, thread};

    /// Wakes a parked thread.
    struct Unpark {
        thread: thread::Thread,
        notified: AtomicBool,
    }

    impl Unpark {
        fn take_notice(&self) -> bool {
            // Acquire, partner of the Release in `wake`: sees what was done before the wake-up.
            self.notified.swap(false, Ordering::Acquire)
        }
    }

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.wake_by_ref();
        }

        fn wake_by_ref(self: &Arc<Self>) {
            // Release, partner of the Acquire in `take_notice`.
            if !self.notified.swap(true, Ordering::Release) {
                self.thread.unpark();
            }
        }
    }

    /// What a thread keeps for its `block_on`s.
    pub(super) struct Parked {
        /// How many it is in.
        depth: Cell<usize>,
        unpark: Arc<Unpark>,
        /// Wakes `unpark`.
        pub(super) waker: Waker,
        armed: RefCell<Vec<Armed>>,
    }

    thread_local! {
        static PARKED: Parked = {
            let unpark = Arc::new(Unpark { thread: thread::current(), notified: AtomicBool::new(false) });
            Parked { depth: Cell::new(0), waker: unpark.clone().into(), unpark, armed: RefCell::default() }
        };
    }

    impl Parked {
        pub(super) fn with<T>(run: impl FnOnce(&Self) -> T) -> T {
            PARKED.with(|parked| {
                parked.depth.set(parked.depth.get() + 1);
                let _leave = Leave(parked);
                run(parked)
            })
        }

        pub(super) fn wait(&self) {
            loop {
                // First, so that timers also fire beside a future that keeps waking itself.
                let (due, next) = self.due_timers();
                due.into_iter().for_each(Waker::wake);
                if self.unpark.take_notice() {
                    return;
                }
                match next {
                    Some(wait) => thread::park_timeout(wait),
                    None => thread::park(),
                }
            }
        }

        /// Takes the wakers whose time has come, and says how long until the next one's.
        fn due_timers(&self) -> (Vec<Waker>, Option<Duration>) {
            let armed = &mut *self.armed.borrow_mut();
            if armed.is_empty() {
                return (Vec::new(), None);
            }
            let now = Instant::now();
            let due = armed.iter_mut().filter(|timer| timer.at <= now).filter_map(|timer| timer.waker.take());
            let due = due.collect();
            let waiting = armed.iter().filter(|timer| timer.waker.is_some());
            (due, waiting.map(|timer| timer.at.duration_since(now)).min())
        }
    }

    struct Leave<'a>(&'a Parked);

    impl Drop for Leave<'_> {
        fn drop(&mut self) {
            let Leave(parked) = self;
            let depth = parked.depth.get() - 1;
            parked.depth.set(depth);
            // A wake-up for the outer future may have been taken by the inner one: let it look again. And one that is
            // left over from the outermost is nobody's.
            parked.unpark.notified.store(depth > 0, Ordering::Relaxed);
            // Sleeps that go on elsewhere do not find their timers there, and arm new ones.
            if depth == 0 && !parked.armed.borrow().is_empty() {
                drop(parked.armed.take());
            }
        }
    }

    struct Armed {
        id: u64,
        at: Instant,
        /// `None` once it has fired; it stays here until its sleep has seen that.
        waker: Option<Waker>,
    }

    /// What became of a timer.
    pub(crate) enum Timer {
        /// This thread is not in `block_on`, or it is another one than where the timer was armed.
        Elsewhere,
        Armed(u64),
        Fired,
    }

    /// Arms a timer of this thread's `block_on`.
    pub(crate) fn arm(wait: Duration, waker: Waker) -> Timer {
        // Unique over all threads: a future may arm here and be dropped elsewhere.
        static IDS: AtomicU64 = AtomicU64::new(0);
        PARKED.with(|parked| {
            if parked.depth.get() == 0 {
                return Timer::Elsewhere;
            }
            // Relaxed: only the number itself matters.
            let id = IDS.fetch_add(1, Ordering::Relaxed);
            parked.armed.borrow_mut().push(Armed { id, at: Instant::now() + wait, waker: Some(waker) });
            Timer::Armed(id)
        })
    }

    /// Points an armed timer to another waker, or collects it if it has fired.
    pub(crate) fn rearm(id: u64, waker: Waker) -> Timer {
        PARKED.with(|parked| {
            let mut armed = parked.armed.borrow_mut();
            let Some(place) = armed.iter().position(|timer| timer.id == id) else { return Timer::Elsewhere };
            // Wakers are user code, also when they are dropped: after the borrow has ended.
            if armed[place].waker.is_none() {
                armed.swap_remove(place);
                return Timer::Fired;
            }
            let old_waker = armed[place].waker.replace(waker);
            drop(armed);
            drop(old_waker);
            Timer::Armed(id)
        })
    }

    /// Forgets a timer whose future was dropped.
    pub(crate) fn disarm(id: u64) {
        // The thread's locals may be gone already when a future outlives them.
        let _ = PARKED.try_with(|parked| {
            let mut armed = parked.armed.borrow_mut();
            let place = armed.iter().position(|timer| timer.id == id);
            let gone = place.map(|place| armed.swap_remove(place));
            drop(armed);
            drop(gone);
        });
    }
}

/// loom has no time, and an unpark of its threads also ends other waits: so no timers, and a condition to wait for.
#[cfg(floodwall_loom)]
mod modelled {
    use super::{Arc, Wake, Waker};
    use crate::sync::{Condvar, Mutex};

    struct Unpark {
        notified: Mutex<bool>,
        changed: Condvar,
    }

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            *self.notified.lock() = true;
            self.changed.notify_one();
        }
    }

    pub(super) struct Parked {
        unpark: Arc<Unpark>,
        pub(super) waker: Waker,
    }

    impl Parked {
        pub(super) fn with<T>(run: impl FnOnce(&Self) -> T) -> T {
            let unpark = Arc::new(Unpark { notified: Mutex::new(false), changed: Condvar::new() });
            run(&Self { waker: unpark.clone().into(), unpark })
        }

        pub(super) fn wait(&self) {
            let mut notified = self.unpark.notified.lock();
            while !std::mem::take(&mut *notified) {
                notified =
                    self.unpark.changed.wait(notified).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
        }
    }
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_wake_up_from_another_thread_is_not_lost() {
        for _ in 0..200 {
            let mut handle = None;
            block_on(poll_fn(|context| match &handle {
                None => {
                    let waker = context.waker().clone();
                    handle = Some(std::thread::spawn(move || waker.wake()));
                    Poll::Pending
                }
                Some(_) => Poll::Ready(()),
            }));
            handle.unwrap().join().unwrap();
        }
    }

    #[test]
    fn a_wake_up_taken_by_an_inner_block_on_reaches_the_outer_one() {
        let mut polls = 0;
        block_on(poll_fn(|context| {
            polls += 1;
            if polls > 1 {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            let mut inner = 0;
            block_on(poll_fn(|_| {
                inner += 1;
                if inner > 1 { Poll::Ready(()) } else { Poll::Pending }
            }));
            Poll::Pending
        }));
        assert_eq!(polls, 2);
    }

    /// A sleep that is polled in one `block_on` goes on in another, on this thread or the next, for its whole time.
    #[test]
    fn a_sleep_that_changes_places_sleeps_no_shorter() {
        let clock = Clock::system();
        let poll_once = |sleep: &mut std::pin::Pin<Box<crate::Sleep>>| {
            block_on(poll_fn(|context| Poll::Ready(sleep.as_mut().poll(context).is_ready())))
        };
        for elsewhere in [false, true] {
            let start = clock.now();
            let mut sleep = Box::pin(clock.sleep(Duration::from_millis(30)));
            assert!(!poll_once(&mut sleep));
            assert!(!poll_once(&mut sleep));
            if elsewhere {
                std::thread::spawn(move || block_on(sleep)).join().unwrap();
            } else {
                block_on(sleep);
            }
            assert!(clock.now() - start >= Duration::from_millis(30));
        }
    }

    #[test]
    fn a_timer_fires_beside_a_future_that_keeps_waking_itself() {
        let clock = Clock::system();
        let mut sleep = pin!(clock.sleep(Duration::from_millis(5)));
        let mut polls = 0_u64;
        block_on(poll_fn(|context| {
            polls += 1;
            context.waker().wake_by_ref();
            sleep.as_mut().poll(context)
        }));
        assert!(polls > 1);
    }

    #[test]
    fn a_sleep_needs_no_runtime_and_leaves_no_timer() {
        let clock = Clock::system();
        let start = clock.now();
        block_on(clock.sleep(Duration::from_millis(5)));
        assert!(clock.now() - start >= Duration::from_millis(5));
        block_on(async {
            let mut never = pin!(clock.sleep(Duration::MAX));
            let mut late = pin!(clock.sleep(Duration::from_secs(3600)));
            poll_fn(|context| {
                assert!(never.as_mut().poll(context).is_pending());
                assert!(late.as_mut().poll(context).is_pending());
                assert!(late.as_mut().poll(context).is_pending());
                Poll::Ready(())
            })
            .await;
        });
        assert!(matches!(arm(Duration::ZERO, Waker::noop().clone()), Timer::Elsewhere));
    }
}

//! What time it is, and waking up later: [`Clock`].

use std::fmt;
use std::marker::PhantomPinned;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use pin_project_lite::pin_project;

use crate::error::saturating_nanos;
use crate::park;
use crate::sync::{AtomicU64, Mutex, OnceLock, Ordering};

/// Tells the time and wakes up later; every policy has one, and a stack should have one clock in all its policies.
///
/// | clock | time | sleeps |
/// |---|---|---|
/// | [`Clock::system`] | [`Instant::now`] | see below |
/// | [`Clock::tsc`](#method.tsc) (feature `tsc`) | the processor's counter, some nanoseconds cheaper | as the system clock |
/// | [`Clock::manual`] | moves only with [`advance`](Clock::advance) | woken by `advance` |
/// | [`Clock::new`] | your [`TimeSource`] | your [`TimeSource`] |
///
/// An async sleep of the system clock takes the first of these that is there: the thread's own
/// [`block_on`](crate::block_on); tokio's timer (feature `tokio`, inside a runtime); a helper thread (feature
/// `timer`). Inside a tokio runtime whose time is paused, the system clock tells the paused time.
///
/// Clones of a clock are the same clock. Time that goes backwards, as a faulty source may tell it, is harmless:
/// limits admit less for a while, never more.
///
/// ```
/// # use std::time::Duration;
/// use floodwall::Clock;
///
/// let clock = Clock::manual();
/// let start = clock.now();
/// clock.advance(Duration::from_secs(3600));
/// assert_eq!(clock.now() - start, Duration::from_secs(3600));
/// ```
#[derive(Clone, Default)]
pub struct Clock(Kind);

#[derive(Clone, Default)]
enum Kind {
    #[default]
    System,
    #[cfg(feature = "tsc")]
    Tsc,
    Manual(Arc<Manual>),
    Source(Arc<dyn TimeSource>),
}

/// A source of time for [`Clock::new`]: another runtime's timer, a simulator, a cached clock.
///
/// It should start at an instant of this process: what it tells from before the crate's first use counts as then.
///
/// ```
/// # use std::{pin::Pin, time::{Duration, Instant}};
/// use floodwall::{Clock, TimeSource};
///
/// struct Simulated(Instant);
/// impl TimeSource for Simulated {
///     fn now(&self) -> Instant { self.0 }
///     fn sleep_until(&self, _at: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
///         Box::pin(std::future::ready(()))
///     }
/// }
/// let clock = Clock::new(Simulated(Instant::now()));
/// floodwall::block_on(clock.sleep(Duration::from_secs(7)));
/// assert_eq!(clock.now(), clock.now());
/// ```
pub trait TimeSource: Send + Sync {
    /// Tells the time.
    fn now(&self) -> Instant;
    /// Returns a future that is done when the time is `at` or later.
    fn sleep_until(&self, at: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

impl Clock {
    /// The system's monotonic clock. The default everywhere.
    pub const fn system() -> Self {
        Self(Kind::System)
    }

    /// The processor's time-stamp counter where it is invariant, else the system clock.
    ///
    /// A reading costs 4 to 9 ns less than the system clock's 17 to 20 (see the design notes). It does not count the
    /// time that the machine is suspended, and may drift from the system clock by some parts in a million. Nor does the
    /// processor wait with it for what comes before: a thread may read some nanoseconds less than another one read just
    /// before and handed over, which is harmless here. The first reading calibrates the counter and takes up to 200 ms.
    #[cfg(feature = "tsc")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tsc")))]
    pub const fn tsc() -> Self {
        Self(Kind::Tsc)
    }

    /// A clock for tests: it stands still until [`advance`](Clock::advance) moves it.
    pub fn manual() -> Self {
        Self(Kind::Manual(Arc::new(Manual::new())))
    }

    /// A clock that asks `source`.
    pub fn new(source: impl TimeSource + 'static) -> Self {
        Self(Kind::Source(Arc::new(source)))
    }

    /// Tells the time.
    ///
    /// # Cost
    ///
    /// One reading of the clock: some 20 ns for the system clock.
    pub fn now(&self) -> Instant {
        match &self.0 {
            Kind::System => system_now(),
            #[cfg(feature = "tsc")]
            Kind::Tsc => instant_of(tsc::nanos()),
            Kind::Manual(manual) => instant_of(manual.nanos()),
            Kind::Source(source) => source.now(),
        }
    }

    /// Sleeps for `duration`, counted from now; `Duration::MAX` sleeps for ever.
    ///
    /// # Panics
    ///
    /// When polled where the system clock finds no timer; the message names the features that bring one.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing behind.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until_nanos(self.after(duration))
    }

    /// Sleeps until the time is `at` or later.
    ///
    /// # Panics
    ///
    /// As [`sleep`](Clock::sleep).
    pub fn sleep_until(&self, at: Instant) -> Sleep {
        self.sleep_until_nanos(nanos_of(at))
    }

    /// Blocks this thread for `duration`; for ever if that is `Duration::MAX`.
    pub fn sleep_blocking(&self, duration: Duration) {
        park::block_on(self.sleep(duration));
    }

    /// Moves a manual clock forward and wakes the sleepers whose time has come, in the order of their times.
    ///
    /// # Panics
    ///
    /// If this is not a [`Clock::manual`].
    #[track_caller]
    pub fn advance(&self, by: Duration) {
        match &self.0 {
            Kind::Manual(manual) => manual.advance(saturating_nanos(by)),
            _ => panic!("advance: only a manual clock can be moved by hand"),
        }
    }

    /// Tells the time in nanoseconds on the process's timeline, which all clocks share.
    #[inline]
    pub(crate) fn nanos(&self) -> u64 {
        // The usual one where it is asked for: a jump by the kind and one more call cost a nanosecond or two.
        if let Kind::System = self.0 { nanos_of(system_now()) } else { self.other_nanos() }
    }

    #[inline(never)]
    fn other_nanos(&self) -> u64 {
        match &self.0 {
            Kind::System => nanos_of(system_now()),
            #[cfg(feature = "tsc")]
            Kind::Tsc => tsc::nanos(),
            Kind::Manual(manual) => manual.nanos(),
            Kind::Source(source) => nanos_of(source.now()),
        }
    }

    /// Tells when the process's timeline starts, in nanoseconds since the Unix epoch.
    ///
    /// The wall clock is read once per process: whoever aligns to it afterwards moves with the monotonic clocks, and
    /// no step of the wall clock makes time go backwards. A manual clock starts at the epoch, whatever the day.
    pub(crate) fn epoch(&self) -> u64 {
        static EPOCH: OnceLock<u64> = OnceLock::new();
        if let Kind::Manual(_) = self.0 {
            return 0;
        }
        *EPOCH.get_or_init(|| {
            let wall = SystemTime::UNIX_EPOCH.elapsed().map_or(0, saturating_nanos);
            wall.saturating_sub(nanos_of(Instant::now()))
        })
    }

    /// Returns the time `duration` from now, or `NEVER`.
    pub(crate) fn after(&self, duration: Duration) -> u64 {
        self.nanos().saturating_add(saturating_nanos(duration))
    }

    pub(crate) fn sleep_until_nanos(&self, at: u64) -> Sleep {
        self.sleep_from_nanos(0, at)
    }

    /// The same for one who has just read the time, and polls it at once: it is not read again.
    pub(crate) fn sleep_from_nanos(&self, now: u64, at: u64) -> Sleep {
        Sleep { at, clock: self.clone(), timer: Timer::Unset { now }, pinned: PhantomPinned }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::System => "Clock::system",
            #[cfg(feature = "tsc")]
            Kind::Tsc => "Clock::tsc",
            Kind::Manual(_) => "Clock::manual",
            Kind::Source(_) => "Clock::new",
        })
    }
}

/// A time on the process's timeline that does not come.
pub(crate) const NEVER: u64 = u64::MAX;

/// The start of the process's timeline: the first time that anyone asked.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// Times before the timeline's start count as its start.
pub(crate) fn nanos_of(instant: Instant) -> u64 {
    saturating_nanos(instant.saturating_duration_since(origin()))
}

pub(crate) fn instant_of(nanos: u64) -> Instant {
    // An `Instant` holds 2^63 seconds, the timeline only 2^64 nanoseconds: the sum always fits.
    origin() + Duration::from_nanos(nanos)
}

#[cfg(not(feature = "tokio"))]
fn system_now() -> Instant {
    Instant::now()
}

/// tokio's time is the system's, unless the runtime that this thread is in has paused it.
#[cfg(feature = "tokio")]
fn system_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(feature = "tsc")]
mod tsc {
    use super::{OnceLock, nanos_of, system_now};

    struct Counter {
        clock: quanta::Clock,
        start: u64,
        /// Where the start lies on the process's timeline.
        offset: u64,
    }

    pub(super) fn nanos() -> u64 {
        static COUNTER: OnceLock<Counter> = OnceLock::new();
        let counter = COUNTER.get_or_init(|| {
            let clock = quanta::Clock::new();
            let start = clock.raw();
            Counter { clock, start, offset: nanos_of(system_now()) }
        });
        counter.offset + counter.clock.delta_as_nanos(counter.start, counter.clock.raw())
    }
}

struct Manual {
    now: AtomicU64,
    sleepers: Mutex<Sleepers>,
}

#[derive(Default)]
struct Sleepers {
    waiting: Vec<Sleeper>,
    /// Never given twice: a sleeper that was woken still has its own when it is dropped.
    next_id: u64,
}

struct Sleeper {
    id: u64,
    at: u64,
    waker: Waker,
}

impl Manual {
    fn new() -> Self {
        Self { now: AtomicU64::new(0), sleepers: Mutex::new(Sleepers::default()) }
    }

    fn nanos(&self) -> u64 {
        // Acquire, partner of the Release in `advance`: who sees the new time sees what came before it.
        self.now.load(Ordering::Acquire)
    }

    fn advance(&self, by: u64) {
        let mut due: Vec<Sleeper> = {
            let mut sleepers = self.sleepers.lock();
            let now = self.nanos().saturating_add(by);
            // Release, partner of the Acquire in `nanos`. Under the lock, so that no sleeper arms itself for a time
            // that has just passed.
            self.now.store(now, Ordering::Release);
            let (due, waiting) = sleepers.waiting.drain(..).partition(|sleeper| sleeper.at <= now);
            sleepers.waiting = waiting;
            due
        };
        due.sort_by_key(|sleeper| sleeper.at);
        due.into_iter().for_each(|sleeper| sleeper.waker.wake());
    }

    /// Arms a sleeper, or points an armed one to another waker; `None` if its time has come.
    fn arm(&self, id: Option<u64>, at: u64, waker: Waker) -> Option<u64> {
        let mut sleepers = self.sleepers.lock();
        if self.nanos() >= at {
            return None;
        }
        let armed = sleepers.waiting.iter_mut().find(|sleeper| Some(sleeper.id) == id);
        let (id, old_waker) = match armed {
            Some(sleeper) => (sleeper.id, Some(std::mem::replace(&mut sleeper.waker, waker))),
            None => {
                let id = sleepers.next_id;
                sleepers.next_id += 1;
                sleepers.waiting.push(Sleeper { id, at, waker });
                (id, None)
            }
        };
        // A waker is user code, also when it is dropped: not under the lock.
        drop(sleepers);
        drop(old_waker);
        Some(id)
    }

    fn disarm(&self, id: u64) {
        let mut sleepers = self.sleepers.lock();
        let place = sleepers.waiting.iter().position(|sleeper| sleeper.id == id);
        let gone = place.map(|place| sleepers.waiting.swap_remove(place));
        drop(sleepers);
        drop(gone);
    }
}

#[cfg(feature = "tokio")]
type RuntimeSleep = tokio::time::Sleep;
#[cfg(not(feature = "tokio"))]
type RuntimeSleep = std::future::Pending<()>;

#[cfg(feature = "timer")]
type ThreadSleep = futures_timer::Delay;
#[cfg(not(feature = "timer"))]
type ThreadSleep = std::future::Pending<()>;

pin_project! {
    /// A future that is done when its clock says that the time has come; made by [`Clock::sleep`].
    #[must_use = "a sleep does nothing unless it is awaited"]
    pub struct Sleep {
        at: u64,
        clock: Clock,
        #[pin]
        timer: Timer,
        // Whatever timers are compiled in, a sleep is not `Unpin`: a feature must not take that away.
        #[pin]
        pinned: PhantomPinned,
    }

    impl PinnedDrop for Sleep {
        fn drop(this: Pin<&mut Self>) {
            match (&this.timer, &this.clock.0) {
                #[cfg(not(floodwall_loom))]
                (Timer::Parked { id }, _) => park::disarm(*id),
                (Timer::Manual { id }, Kind::Manual(manual)) => manual.disarm(*id),
                _ => {}
            }
        }
    }
}

pin_project! {
    /// Who wakes a sleeper: not decided before the first poll, since only then it is known where it runs.
    #[project = TimerProjection]
    enum Timer {
        // When it was made, if that is known.
        Unset { now: u64 },
        Done,
        Parked { id: u64 },
        Manual { id: u64 },
        Runtime { #[pin] sleep: RuntimeSleep },
        Thread { #[pin] sleep: ThreadSleep },
        Source { sleep: Pin<Box<dyn Future<Output = ()> + Send>> },
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            let next = match (this.timer.as_mut().project(), &this.clock.0) {
                (TimerProjection::Done, _) => return Poll::Ready(()),
                (TimerProjection::Unset { .. }, _) if *this.at == NEVER => return Poll::Pending,
                (TimerProjection::Unset { now: 0 }, _) => match this.clock.nanos() {
                    now if now >= *this.at => Timer::Done,
                    now => Timer::Unset { now: now.max(1) },
                },
                (TimerProjection::Unset { .. }, Kind::Manual(manual)) => {
                    match manual.arm(None, *this.at, context.waker().clone()) {
                        Some(id) => {
                            this.timer.set(Timer::Manual { id });
                            return Poll::Pending;
                        }
                        None => Timer::Done,
                    }
                }
                (TimerProjection::Manual { id }, Kind::Manual(manual)) => {
                    match manual.arm(Some(*id), *this.at, context.waker().clone()) {
                        Some(armed) => {
                            *id = armed;
                            return Poll::Pending;
                        }
                        None => Timer::Done,
                    }
                }
                (TimerProjection::Unset { .. }, Kind::Source(source)) => {
                    Timer::Source { sleep: source.sleep_until(instant_of(*this.at)) }
                }
                (TimerProjection::Unset { now }, _) => first_timer(*this.at, *now, context.waker()),
                #[cfg(not(floodwall_loom))]
                (TimerProjection::Parked { id }, _) => match park::rearm(*id, context.waker().clone()) {
                    park::Timer::Armed(_) => return Poll::Pending,
                    park::Timer::Fired => Timer::Done,
                    // The future moved to another thread: start again there.
                    park::Timer::Elsewhere => Timer::Unset { now: 0 },
                },
                (TimerProjection::Runtime { sleep }, _) => {
                    std::task::ready!(sleep.poll(context));
                    Timer::Done
                }
                (TimerProjection::Thread { sleep }, _) => {
                    std::task::ready!(sleep.poll(context));
                    Timer::Done
                }
                (TimerProjection::Source { sleep }, _) => {
                    std::task::ready!(sleep.as_mut().poll(context));
                    Timer::Done
                }
                _ => unreachable!("a sleep keeps its clock"),
            };
            this.timer.set(next);
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("clock", &self.clock).finish_non_exhaustive()
    }
}

/// Picks who wakes a sleeper of the system's time, here and now.
#[cfg_attr(floodwall_loom, expect(unused_variables, reason = "models have manual clocks only"))]
fn first_timer(at: u64, now: u64, waker: &Waker) -> Timer {
    let wait = Duration::from_nanos(at.saturating_sub(now));
    #[cfg(not(floodwall_loom))]
    if let park::Timer::Armed(id) = park::arm(wait, waker.clone()) {
        return Timer::Parked { id };
    }
    #[cfg(feature = "tokio")]
    if tokio::runtime::Handle::try_current().is_ok() {
        // The instant rather than the wait: two sleeps until one time then end in one tick of the timer.
        return Timer::Runtime { sleep: tokio::time::sleep_until(instant_of(at).into()) };
    }
    #[cfg(feature = "timer")]
    return Timer::Thread { sleep: futures_timer::Delay::new(wait) };
    #[cfg(not(feature = "timer"))]
    panic!(
        "no timer for an async sleep: enable floodwall's feature `tokio` and sleep inside its runtime, enable its \
         feature `timer`, or give the policy a clock of your own with `Clock::new`"
    );
}

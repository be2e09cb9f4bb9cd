//! Stop calling what is down: [`CircuitBreaker`].
//!
//! When most calls to a dependency fail, more calls only waste time and keep it down. A breaker counts how calls end,
//! rejects calls for a while once too many failed, then lets a few probes decide. When **not** to use it: to limit
//! load (a breaker reacts to failures, not to numbers); around work that fails because of its input, unless
//! [`when`](crate::Gate::when) or [`judge`](crate::Gate::judge) tells those failures apart.
//!
//! The state machine of M. Nygard ("Release It!", 2007), with a *generation* that each change of state raises: a call
//! that was admitted in an earlier generation says nothing about this one, so late results are not counted.
//!
//! # How it works
//!
//! One word, `control`, says generation, state and mode. Only the holder of `machine`'s lock writes it, after it has
//! changed the machine, so the word is at most a little old, and each change has one author. Whoever finds it closed is
//! admitted without a write; the generation goes with the ticket. What closed calls report is counted without a lock, in
//! words that name their generation ([`health`]); the one that finds them too many takes the lock, and opens the circuit
//! if the generation is still its own. Whoever finds it open compares the time with `until`. All else, probes and
//! manual changes, is rare and under the lock ([`machine`]), but for the events, the clock and the backoff, which may be
//! the user's code.

mod builder;
mod health;
mod last;
mod machine;
mod running;

use std::time::Duration;

pub use self::builder::{BreakerThresholds, CircuitBreakerBuilder};
use self::health::Health;
use self::machine::{Change, GENERATION, Machine, Phase, Step};
use crate::backoff::Backoff;
use crate::call::Call;
use crate::clock::{Clock, NEVER};
use crate::error::{Reason, Rejected, saturating_nanos};
use crate::event::{Event, Hook, Outcome, State};
use crate::gate::{Gate, Permit, Residual, Ticket, until};
use crate::rng::Seeds;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Rejects calls while the dependency behind it fails.
///
/// **Closed**, calls pass and are counted. It opens when too many fail, by their share over a window of time or over the
/// last so many calls, or by their number in a row; or when too many are slow, those that still run included. **Open**,
/// calls are rejected with the time that is left. After `open_for` it is **half-open**: a few probes pass; when they
/// have succeeded it closes, or lets ever more calls through until so many have ([`ramp_up`]); if one fails it opens
/// again. When probes have not ended after another `open_for`, new ones are let through beside them, so that a hung
/// probe cannot keep it half-open. A caller that comes while all probes are out is asked to come back after a tenth of
/// `open_for`, by when they may have decided.
///
/// [`Failure`](Outcome::Failure) and [`Throttled`](Outcome::Throttled) count as failures. A permit dropped without a
/// report counts for nothing (but see [`abandoned_rate`]), unless the call's deadline had passed: then the dependency was
/// too slow.
///
/// One for each host, in bounded memory, is [`Keyed`](crate::Keyed)'s work: see the last example. A breaker that has
/// counted a failure asks to be remembered for a `window`'s time after it and a tenth more, an open one until its time is
/// over.
///
/// [`ramp_up`]: CircuitBreakerBuilder::ramp_up
/// [`abandoned_rate`]: CircuitBreakerBuilder::abandoned_rate
///
/// # Cost
///
/// Closed, no lock, and no write to enter. A success writes nothing while only failures in a row matter; for a failure rate
/// over time it writes one word, a thread's own where threads meet, and mostly reads no clock. A failure reads the clock
/// and sums up the window. Open, one reading of the clock; half-open, a short critical section more. No allocation after
/// it was built, but once for lines of the threads' own, 2 kB on a machine with 8 processors and at most 8 kB.
///
/// Memory: 264 bytes; 208 more for a rate over time, 80 more for one over the last hundred calls.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{CircuitBreaker, Clock, Gate, Reason, Rejected, State};
///
/// let clock = Clock::manual();
/// let open_for = Duration::from_secs(30);
/// let breaker = CircuitBreaker::builder()
///     .failures(1)
///     .open_for(open_for)
///     .probes(1)
///     .name("db")
///     .clock(clock.clone())
///     .build();
///
/// breaker.try_acquire()?.failure();
/// assert_eq!(breaker.try_acquire().unwrap_err(), Rejected::new("db", Reason::CircuitOpen).after(open_for));
///
/// clock.advance(open_for);
/// breaker.try_acquire()?.success();
/// assert_eq!(breaker.state(), State::Closed);
/// # Ok::<(), Rejected>(())
/// ```
///
/// One for each host; 429 and 503 with `Retry-After` open it for as long as the server asks:
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{CircuitBreaker, Gate, Keyed, Outcome, Rejected};
///
/// let hosts = Keyed::new(|_host: &String| {
///     CircuitBreaker::builder().failures(5).open_when_throttled(Duration::from_secs(300)).build()
/// });
/// let retry_after = Some(Duration::from_secs(60));
/// hosts.try_acquire("api.example.com")?.report(Outcome::Throttled { retry_after });
/// let rejected = hosts.try_acquire("api.example.com").unwrap_err();
/// assert!(rejected.retry_after() > Some(Duration::from_secs(59)));
/// assert!(hosts.try_acquire("api.example.org").is_ok());
/// # Ok::<(), Rejected>(())
/// ```
#[derive(Debug)]
pub struct CircuitBreaker {
    /// The generation and the flags below.
    control: AtomicU64,
    /// Open, until when; forced open, the wait to tell.
    until: AtomicU64,
    health: Health,
    machine: Mutex<Machine>,
    growth: Option<Box<Growth>>,
    /// If not 0, a throttling opens it at once, for so long at most.
    throttled: u64,
    clock: Clock,
    hook: Hook,
}

#[derive(Debug)]
struct Growth {
    backoff: Backoff,
    seeds: Seeds,
}

/// Whether a [`CircuitBreaker`] decides by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerMode {
    /// It does.
    #[default]
    Automatic,
    /// It rejects every call: the dependency is under maintenance, an operator or another system knows that it is down.
    ForcedOpen,
    /// It admits every call and counts none.
    Disabled,
    /// It decides, counts and tells its events as ever, but admits every call: to try thresholds out on real traffic.
    MetricsOnly,
}

/// The calls that a closed [`CircuitBreaker`] takes its rates over: see [`CircuitBreaker::counts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallCounts {
    /// Calls that succeeded or failed.
    pub calls: u64,
    /// Those that failed.
    pub failures: u64,
    /// Those that were slow, if slow calls are watched.
    pub slow: u64,
    /// Calls whose permit was dropped without a report, if they are watched. `calls` does not count them.
    pub abandoned: u64,
}

/// The control word of a closed circuit that watches nothing but ends is its generation: no flag is set.
const OPEN: u64 = 1;
const HALF_OPEN: u64 = 2;
const FORCED_OPEN: u64 = 4;
const DISABLED: u64 = 8;
const METRICS_ONLY: u64 = 16;
const WATCHES_STARTS: u64 = 32;

/// The ticket of a call that is not counted: no generation is 0.
const UNCOUNTED: u64 = 0;

/// Why a call is not admitted.
enum Refusal {
    Wait(u64),
    TooLate,
}

impl CircuitBreaker {
    /// Starts to describe a breaker.
    pub fn builder() -> CircuitBreakerBuilder {
        CircuitBreakerBuilder::default()
    }

    /// Returns the state that a call would meet now, also when no call has come for a while.
    pub fn state(&self) -> State {
        let now = self.clock.nanos();
        self.machine.lock().state(now)
    }

    /// Returns what was counted since it was closed, within the window or the last so many calls. All zero if it counts
    /// only failures in a row, or is not closed.
    ///
    /// ```
    /// use floodwall::{CircuitBreaker, Gate};
    ///
    /// let breaker = CircuitBreaker::builder().build();
    /// breaker.try_acquire()?.success();
    /// breaker.try_acquire()?.failure();
    /// assert_eq!((breaker.counts().calls, breaker.counts().failures), (2, 1));
    /// # Ok::<(), floodwall::Rejected>(())
    /// ```
    pub fn counts(&self) -> CallCounts {
        let control = self.control.load(Ordering::Acquire);
        self.health.counts(control & GENERATION, self.clock.nanos())
    }

    /// Returns whether it decides by itself.
    pub fn mode(&self) -> BreakerMode {
        self.machine.lock().mode
    }

    /// Lets it decide by itself, or not. Default: [`BreakerMode::Automatic`].
    ///
    /// Calls that were admitted before it was forced open or disabled, or after, are not counted; it comes out of both
    /// closed and as new.
    ///
    /// ```
    /// use floodwall::{BreakerMode, CircuitBreaker, Gate};
    ///
    /// let breaker = CircuitBreaker::builder().build();
    /// breaker.set_mode(BreakerMode::ForcedOpen);
    /// assert!(breaker.try_acquire().is_err());
    /// breaker.set_mode(BreakerMode::Automatic);
    /// assert!(breaker.try_acquire().is_ok());
    /// ```
    pub fn set_mode(&self, mode: BreakerMode) {
        let now = self.clock.nanos();
        self.change(|machine| machine.set_mode(mode, now));
    }

    /// Closes it and forgets what it counted; calls that run are not counted any more. The mode stays.
    pub fn reset(&self) {
        self.change(Machine::close);
    }

    /// Changes the machine under its lock, publishes that, and tells it.
    fn change(&self, change: impl FnOnce(&mut Machine) -> Change) {
        let told = {
            let mut machine = self.machine.lock();
            let told = change(&mut machine);
            self.publish(&machine);
            told
        };
        self.tell(told);
    }

    fn tell(&self, change: Change) {
        if let Some((from, to)) = change {
            self.hook.emit(Event::StateChanged { from, to });
        }
    }

    /// Lets those without the lock know what the machine is, for its holder.
    fn publish(&self, machine: &Machine) {
        let (phase, until) = match machine.phase {
            Phase::Closed => (0, 0),
            Phase::Open { until } => (OPEN, until),
            Phase::HalfOpen(_) => (HALF_OPEN, 0),
        };
        let (mode, until) = match machine.mode {
            BreakerMode::Automatic => (0, until),
            BreakerMode::ForcedOpen => (FORCED_OPEN, machine.open_for),
            BreakerMode::Disabled => (DISABLED, until),
            BreakerMode::MetricsOnly => (METRICS_ONLY, until),
        };
        let watches = if self.health.slow.is_some() { WATCHES_STARTS } else { 0 };
        let control = machine.generation | phase | mode | watches;
        // Relaxed: only holders of the lock write it.
        if self.control.load(Ordering::Relaxed) & GENERATION != machine.generation && phase == 0 {
            self.health.restart(machine.generation);
        }
        self.until.store(until, Ordering::Relaxed);
        // Release, partner of the Acquire in those who read it: they see `until`, and the counters of its generation.
        self.control.store(control, Ordering::Release);
    }

    /// Admits or rejects a call when it is not simply closed.
    #[inline(never)]
    fn try_acquire_otherwise(&self, call: Call, control: u64) -> Result<Permit<'_>, Rejected> {
        if control & !GENERATION == OPEN {
            let (until, now) = (self.until.load(Ordering::Relaxed), self.clock.nanos());
            if now < until {
                return self.refuse(Reason::CircuitOpen, until - now);
            }
        }
        match self.admit(call) {
            Ok(word) => {
                self.hook.emit(Event::Admitted);
                Ok(Permit::new(self, Ticket::new(word, call)))
            }
            Err(Refusal::Wait(wait)) => self.refuse(Reason::CircuitOpen, wait),
            Err(Refusal::TooLate) => {
                let rejected = Rejected::new(self.hook.name, Reason::DeadlineExceeded);
                self.hook.emit(Event::Rejected(rejected));
                Err(rejected)
            }
        }
    }

    #[inline]
    fn refuse(&self, reason: Reason, wait: u64) -> Result<Permit<'_>, Rejected> {
        let rejected = Rejected::new(self.hook.name, reason).after_nanos(wait);
        self.hook.emit_with(|| Event::Rejected(rejected));
        Err(rejected)
    }

    /// Admits a call with its ticket's word, when it is not simply closed.
    #[inline(never)]
    fn admit(&self, call: Call) -> Result<u64, Refusal> {
        loop {
            let control = self.control.load(Ordering::Acquire);
            if control & DISABLED != 0 {
                return Ok(UNCOUNTED);
            }
            if control & FORCED_OPEN != 0 {
                return Err(Refusal::Wait(self.until.load(Ordering::Relaxed)));
            }
            match self.admit_by_itself(call, control) {
                Some(Err(_)) if control & METRICS_ONLY != 0 => return Ok(UNCOUNTED),
                Some(admitted) => return admitted,
                // It was closed meanwhile.
                None => {}
            }
        }
    }

    fn admit_by_itself(&self, call: Call, control: u64) -> Option<Result<u64, Refusal>> {
        let generation = control & GENERATION;
        let slow = self.health.slow.as_deref();
        if control & (OPEN | HALF_OPEN | WATCHES_STARTS) == 0 {
            return Some(Ok(generation));
        }
        let now = self.clock.nanos();
        let stamp = slow.map_or(0, |slow| slow.stamp(now).into());
        if control & (OPEN | HALF_OPEN) == 0 {
            let some_hang = slow.is_some_and(|slow| slow.start(now));
            if !some_hang || !self.health.is_bad(generation, now) {
                return Some(Ok(generation | stamp));
            }
            // Too many do. That this one seems to run is forgotten when it closes.
            self.open(generation, now, None);
        } else if control & OPEN != 0 {
            let until = self.until.load(Ordering::Relaxed);
            if now < until {
                return Some(Err(Refusal::Wait(until - now)));
            }
        }
        if now >= call.deadline && call.deadline != NEVER {
            // Too late for a probe.
            return Some(Err(Refusal::TooLate));
        }
        let (admitted, change) = {
            let mut machine = self.machine.lock();
            if let Phase::Closed = machine.phase {
                return None;
            }
            let admitted = machine.admit(now);
            self.publish(&machine);
            admitted
        };
        self.tell(change);
        Some(admitted.map(|word| word | stamp).map_err(Refusal::Wait))
    }

    /// Counts a result that is not simply the success of a call that was admitted simply.
    fn settle(&self, ticket: &Ticket, outcome: Outcome) {
        let control = self.control.load(Ordering::Acquire);
        let (word, generation) = (ticket.word(), control & GENERATION);
        if word & GENERATION != generation {
            return;
        }
        let (now, stamp) = (self.clock.nanos(), word as u32);
        let slow = self.health.slow.as_deref();
        let is_slow = outcome != Outcome::Ignored && slow.is_some_and(|slow| slow.is_slow(stamp, now));
        let asked = match outcome {
            Outcome::Throttled { retry_after } => retry_after,
            _ => None,
        };
        if control & (OPEN | HALF_OPEN) == 0 {
            if let Some(slow) = slow {
                slow.end(stamp, now);
            }
            let is_too_much = self.health.settle(generation, outcome, is_slow, now);
            if is_too_much || self.throttled > 0 && matches!(outcome, Outcome::Throttled { .. }) {
                self.open(generation, now, asked);
            }
            return;
        }
        let failed = match outcome {
            Outcome::Failure | Outcome::Throttled { .. } => Some(true),
            _ if is_slow => Some(true),
            Outcome::Success => Some(false),
            Outcome::Ignored | Outcome::Abandoned => None,
        };
        let step = {
            let mut machine = self.machine.lock();
            let step = machine.settle(word, failed, self.health.rules());
            self.publish(&machine);
            step
        };
        match step {
            Step::Stays => {}
            Step::Closes(change) => self.tell(change),
            Step::Fails => self.open(generation, now, asked),
        }
    }

    /// Opens it, unless it has changed since `generation`.
    fn open(&self, generation: u64, now: u64, asked: Option<Duration>) {
        let (open_for, trips) = {
            let machine = self.machine.lock();
            if machine.generation != generation {
                return;
            }
            (machine.open_for, machine.trips)
        };
        // Outside the lock: the backoff may be the user's code.
        let time = match &self.growth {
            None => open_for,
            Some(growth) => {
                let delay = growth.backoff.delay(trips.saturating_add(1), &mut growth.seeds.next());
                delay.map_or(NEVER, saturating_nanos).max(1)
            }
        };
        let cap = if self.throttled > 0 { self.throttled } else { open_for.saturating_mul(10) };
        let time = time.max(asked.map_or(0, saturating_nanos).min(cap));
        self.change(|machine| machine.open(generation, now.saturating_add(time)));
    }
}

impl Gate for CircuitBreaker {
    #[inline]
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        let control = self.control.load(Ordering::Acquire);
        if control & !GENERATION != 0 {
            // Out of the way: what it needs of the stack would cost a simple admission twice as much as it takes.
            return self.try_acquire_otherwise(call, control);
        }
        self.hook.emit(Event::Admitted);
        Ok(Permit::new(self, Ticket::new(control, call)))
    }

    fn release(&self, ticket: Ticket, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Abandoned if ticket.is_late(&self.clock) => Outcome::Failure,
            outcome => outcome,
        };
        let (control, word) = (self.control.load(Ordering::Acquire), ticket.word());
        // No flag is set; a stamp alone could look like one.
        if outcome == Outcome::Success && control == word && control & !GENERATION == 0 {
            self.health.succeed(word, &self.clock);
        } else {
            self.settle(&ticket, outcome);
        }
        self.hook.emit_with(|| Event::Finished(outcome));
    }

    fn residual(&self) -> Option<Residual> {
        {
            // Under the lock: whoever asks must not forget what another thread has just opened.
            let machine = self.machine.lock();
            match machine.phase {
                // It was told what to do, which no time ends.
                _ if machine.mode != BreakerMode::Automatic => return Some(Residual::InUse),
                Phase::HalfOpen(_) => return Some(Residual::InUse),
                Phase::Open { until: at } => return Some(until(at)),
                Phase::Closed => {}
            }
        }
        match self.health.remembers_until() {
            0 => None,
            at => (at > self.clock.nanos()).then(|| until(at)),
        }
    }
}

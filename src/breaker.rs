//! Stop calling what is down: [`CircuitBreaker`].
//!
//! When most calls to a dependency fail, more calls only waste time and keep it down. A breaker counts how calls end,
//! rejects calls for a while once too many failed, then lets a few probes decide. When **not** to use it: to limit
//! load (a breaker reacts to failures, not to numbers); around work that fails because of its input, unless
//! [`when`](crate::Gate::when) or [`judge`](crate::Gate::judge) tells those failures apart.
//!
//! The state machine of M. Nygard ("Release It!", 2007), with a *generation* that each change of state raises: a call
//! that was admitted in an earlier generation says nothing about this one, so late results are not counted.

use std::time::Duration;

use crate::call::Call;
use crate::clock::{Clock, NEVER};
use crate::error::{Reason, Rejected, absurd, saturating_nanos};
use crate::event::{Event, Hook, Outcome, State};
use crate::gate::{Gate, Permit, Residual, Ticket, until};
use crate::setters::setters;
use crate::sync::Mutex;
use crate::window::Window;

/// Rejects calls while the dependency behind it fails.
///
/// **Closed**, calls pass and are counted. It opens when the failure rate over a window of time, or the number of
/// consecutive failures, reaches its threshold. **Open**, calls are rejected with the time that is left. After
/// `open_for` it is **half-open**: a few probes pass; when as many have succeeded it closes, if one fails it opens
/// again. When probes have not ended after another `open_for`, new ones are let through beside them, so that a hung
/// probe cannot keep it half-open. A caller that comes while all probes are out is asked to come back after a tenth of
/// `open_for`, by when they may have decided.
///
/// [`Failure`](Outcome::Failure) and [`Throttled`](Outcome::Throttled) count as failures. A permit dropped without a
/// report counts for nothing, unless the call's deadline had passed: then the dependency was too slow.
///
/// # Cost
///
/// Closed, a short critical section to enter and one to leave, one reading of the clock to leave; open, one more of each
/// to enter. No allocation.
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
#[derive(Debug)]
pub struct CircuitBreaker {
    core: Mutex<Core>,
    clock: Clock,
    hook: Hook,
}

impl CircuitBreaker {
    /// Starts to describe a breaker.
    pub fn builder() -> CircuitBreakerBuilder {
        CircuitBreakerBuilder::default()
    }

    /// Returns the state that a call would meet now, also when no call has come for a while.
    pub fn state(&self) -> State {
        let now = self.clock.nanos();
        self.core.lock().state(now)
    }

    fn tell(&self, change: Option<(State, State)>) {
        if let Some((from, to)) = change {
            self.hook.emit(Event::StateChanged { from, to });
        }
    }
}

impl Gate for CircuitBreaker {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        // Closed, the time does not matter: do not read it. Otherwise read it outside the lock.
        let closed = self.core.lock().admit_if_closed();
        let (admitted, change) = match closed {
            Some(word) => (Ok(word), None),
            None => {
                let now = self.clock.nanos();
                if now >= call.deadline && call.deadline != NEVER {
                    // Too late for a probe.
                    return self.hook.admission(Err(Rejected::new(self.hook.name, Reason::DeadlineExceeded)));
                }
                self.core.lock().admit(now)
            }
        };
        self.tell(change);
        self.hook.admission(match admitted {
            Ok(word) => Ok(Permit::new(self, Ticket::new(word, call))),
            Err(wait) => {
                Err(Rejected::new(self.hook.name, Reason::CircuitOpen).after(Duration::from_nanos(wait)))
            }
        })
    }

    fn release(&self, ticket: Ticket, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Abandoned if ticket.is_late(&self.clock) => Outcome::Failure,
            outcome => outcome,
        };
        let now = self.clock.nanos();
        let change = self.core.lock().settle(ticket.word(), outcome, now);
        self.tell(change);
        self.hook.emit(Event::Finished(outcome));
    }

    fn residual(&self) -> Option<Residual> {
        match self.core.lock().phase {
            Phase::Closed { .. } => None,
            Phase::Open { until: at } => Some(until(at)),
            Phase::HalfOpen { .. } => Some(Residual::InUse),
        }
    }
}

/// Describes a [`CircuitBreaker`].
///
/// Without [`failures`](Self::failures) and [`failure_rate`](Self::failure_rate) it opens at a failure rate of 0.5;
/// with one of them by that one; with both by whichever comes first.
#[derive(Clone, Debug)]
#[must_use = "call build()"]
pub struct CircuitBreakerBuilder {
    failures: Option<u32>,
    failure_rate: Option<f64>,
    window: Duration,
    min_calls: u64,
    open_for: Duration,
    probes: u32,
    clock: Clock,
    hook: Hook,
}

impl Default for CircuitBreakerBuilder {
    fn default() -> Self {
        Self {
            failures: None,
            failure_rate: None,
            window: Duration::from_secs(10),
            min_calls: 20,
            open_for: Duration::from_secs(5),
            probes: 3,
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
    }
}

impl CircuitBreakerBuilder {
    /// Opens after so many failures in a row. Default: failures in a row do not matter.
    ///
    /// # Panics
    ///
    /// If `failures` is 0.
    #[track_caller]
    pub fn failures(mut self, failures: u32) -> Self {
        if failures == 0 {
            absurd("failures", 0, "must be at least 1");
        }
        self.failures = Some(failures);
        self
    }

    /// Opens when this share of the calls in the window failed. Default: 0.5, unless `failures` is set.
    ///
    /// # Panics
    ///
    /// If `rate` is not above 0 and at most 1.
    #[track_caller]
    pub fn failure_rate(mut self, rate: f64) -> Self {
        assert!(rate > 0.0 && rate <= 1.0, "failure_rate: {rate} must be above 0 and at most 1");
        self.failure_rate = Some(rate);
        self
    }

    /// Takes the failure rate over so much time, in ten slices. Default: 10 s.
    ///
    /// # Panics
    ///
    /// If `length` is zero.
    #[track_caller]
    pub fn window(mut self, length: Duration) -> Self {
        if length.is_zero() {
            absurd("window", 0, "ns must be at least 1 ns");
        }
        self.window = length;
        self
    }

    /// Looks at the failure rate only when the window holds so many calls. Default: 20.
    ///
    /// # Panics
    ///
    /// If `calls` is 0.
    #[track_caller]
    pub fn min_calls(mut self, calls: u64) -> Self {
        if calls == 0 {
            absurd("min_calls", 0, "must be at least 1");
        }
        self.min_calls = calls;
        self
    }

    /// Rejects calls for so long once it is open. Default: 5 s. `Duration::MAX` stays open.
    ///
    /// # Panics
    ///
    /// If `time` is zero.
    #[track_caller]
    pub fn open_for(mut self, time: Duration) -> Self {
        if time.is_zero() {
            absurd("open_for", 0, "ns must be at least 1 ns");
        }
        self.open_for = time;
        self
    }

    /// Lets so many calls through when half-open, and closes when they all succeed. Default: 3.
    ///
    /// # Panics
    ///
    /// If `probes` is 0.
    #[track_caller]
    pub fn probes(mut self, probes: u32) -> Self {
        if probes == 0 {
            absurd("probes", 0, "must be at least 1");
        }
        self.probes = probes;
        self
    }

    setters!("breaker");

    /// Builds the breaker, closed.
    pub fn build(self) -> CircuitBreaker {
        let failure_rate = match (self.failures, self.failure_rate) {
            (None, None) => Some(0.5),
            (_, rate) => rate,
        };
        let core = Core {
            failures: self.failures.unwrap_or(u32::MAX),
            rate: failure_rate.map(|threshold| (threshold, Window::new(self.window))),
            min_calls: self.min_calls,
            open_for: saturating_nanos(self.open_for),
            probes: self.probes,
            generation: 0,
            phase: Phase::Closed { in_a_row: 0 },
        };
        CircuitBreaker { core: Mutex::new(core), clock: self.clock, hook: self.hook }
    }
}

/// The state machine, told the time.
///
/// Every change of state goes through `enter`, which raises the generation; `settle` looks only at tickets of the
/// current one. In half-open `out` is exactly the number of this round's probes that have not reported, and one is let
/// out only while `out + succeeded` is below `probes`: no more run, however calls race. A probe of an earlier round
/// counts when it reports, since the dependency did answer, but has no place to give back.
#[derive(Debug)]
struct Core {
    failures: u32,
    rate: Option<(f64, Window<1, 1>)>,
    min_calls: u64,
    open_for: u64,
    probes: u32,
    generation: u64,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Closed {
        in_a_row: u32,
    },
    Open {
        until: u64,
    },
    /// When `lease` is over, the probes that are `out` no longer take places, and the next `round` begins.
    HalfOpen {
        round: u16,
        out: u32,
        succeeded: u32,
        lease: u64,
    },
}

type Change = Option<(State, State)>;

impl Core {
    const fn admit_if_closed(&self) -> Option<u64> {
        if let Phase::Closed { .. } = self.phase { Some(self.word()) } else { None }
    }

    /// Admits a call with the generation as its word, or says how many nanoseconds are left.
    fn admit(&mut self, now: u64) -> (Result<u64, u64>, Change) {
        let mut change = None;
        match self.phase {
            Phase::Open { until } if now < until => return (Err(until - now), None),
            Phase::HalfOpen { out, succeeded, lease, .. }
                if out + succeeded >= self.probes && now < lease =>
            {
                return (Err((self.open_for / 10).clamp(1, lease - now)), None);
            }
            Phase::Open { .. } => {
                change = self.enter(Phase::HalfOpen { round: 0, out: 0, succeeded: 0, lease: 0 });
            }
            _ => {}
        }
        if let Phase::HalfOpen { round, out, succeeded, lease } = &mut self.phase {
            if *out + *succeeded >= self.probes {
                *round = round.wrapping_add(1);
                *out = 0;
            }
            *out += 1;
            *lease = now.saturating_add(self.open_for);
        }
        (Ok(self.word()), change)
    }

    /// What a ticket remembers: the generation, and the round of half-open.
    const fn word(&self) -> u64 {
        let round = if let Phase::HalfOpen { round, .. } = self.phase { round } else { 0 };
        self.generation << 16 | round as u64
    }

    fn settle(&mut self, word: u64, outcome: Outcome, now: u64) -> Change {
        if word >> 16 != self.generation {
            return None;
        }
        let of_this_round = word == self.word();
        if let Phase::HalfOpen { out, .. } = &mut self.phase {
            *out -= u32::from(of_this_round);
        }
        let failed = match outcome {
            Outcome::Success => false,
            Outcome::Failure | Outcome::Throttled { .. } => true,
            Outcome::Ignored | Outcome::Abandoned => return None,
        };
        let open = Phase::Open { until: now.saturating_add(self.open_for) };
        match &mut self.phase {
            Phase::Closed { in_a_row } => {
                *in_a_row = if failed { in_a_row.saturating_add(1) } else { 0 };
                let row_is_full = *in_a_row >= self.failures;
                match &self.rate {
                    Some((_, window)) if failed => window.count(0, self.generation as u8, now),
                    Some((_, window)) => window.count_hot(0, self.generation as u8, || now),
                    None => {}
                }
                // Only a failure can raise the rate.
                if failed && (row_is_full || self.rate_is_high(now)) { self.enter(open) } else { None }
            }
            Phase::HalfOpen { .. } if failed => self.enter(open),
            Phase::HalfOpen { succeeded, .. } => {
                *succeeded += 1;
                if *succeeded >= self.probes { self.enter(Phase::Closed { in_a_row: 0 }) } else { None }
            }
            // Nobody is admitted while open, so no ticket has this generation.
            Phase::Open { .. } => None,
        }
    }

    fn rate_is_high(&self, now: u64) -> bool {
        self.rate.as_ref().is_some_and(|(threshold, window)| {
            let epoch = self.generation as u8;
            let failures = window.cold(0, epoch, now);
            let calls = failures + window.hot(0, epoch, now, u64::MAX);
            // Divided rather than multiplied: 7 of 100 is 0.07, while 0.07 times 100 is more than 7.
            calls >= self.min_calls && failures as f64 / calls as f64 >= *threshold
        })
    }

    fn enter(&mut self, phase: Phase) -> Change {
        let from = self.phase.state();
        self.generation += 1;
        self.phase = phase;
        let to = self.phase.state();
        (from != to).then_some((from, to))
    }

    /// The state that a call would meet at `now`.
    fn state(&self, now: u64) -> State {
        match self.phase {
            Phase::Open { until } if now >= until => State::HalfOpen,
            ref phase => phase.state(),
        }
    }
}

impl Phase {
    const fn state(&self) -> State {
        match self {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }
}

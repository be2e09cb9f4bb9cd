//! A limit on calls at once that finds out by itself what the dependency can take: [`AdaptiveConcurrency`].
//!
//! For a dependency whose capacity nobody knows, or that changes: it is deployed anew, grows and shrinks, is shared with
//! others. When **not** to use it: if the number is known (that is a [`Bulkhead`](crate::Bulkhead)); if the dependency
//! counts calls per second (that is an [`AdaptiveRate`](crate::AdaptiveRate)); around calls of very different kinds, whose
//! mixture changes: give each kind a limit of its own, or a cheap kind will be taken for a fast server.

use std::time::Duration;

use crate::acquire::Acquire;
use crate::call::Call;
use crate::clock::{Clock, NEVER};
use crate::error::{BadSetting, Reason, Rejected, absurd, saturating_nanos};
use crate::event::{Event, Hook, Outcome};
use crate::gate::{Gate, Permit, Residual, Ticket};
use crate::semaphore::{Ask, Semaphore};
use crate::setters::setters;
use crate::sync::Mutex;
use crate::wait::Turn;

mod learner;
mod rule;

use learner::{Heard, Learner};
use rule::Rule;

/// Lets as many calls run at once as the dependency can take, which it learns from how they end.
///
/// It admits, rejects and lets wait as a [`Bulkhead`](crate::Bulkhead) does, with a limit that moves between a floor and a
/// ceiling. What it learns from:
///
/// - [`Success`](Outcome::Success): how long the call took.
/// - [`Throttled`](Outcome::Throttled): a congestion. Let [`judge`](Gate::judge) say which results are throttlings.
/// - [`Failure`](Outcome::Failure) at or after the call's deadline, and a permit dropped then: the call was too slow. If a
///   fifth of the latest calls was, that is a congestion; fewer are stragglers, which there are at any limit.
/// - Everything else says nothing: an error may come fast or slowly for other reasons than load.
///
/// So put the [`Timeout`](crate::Timeout) outside, as in `(timeout, &limit)`: it writes the deadline. One further in ends
/// calls that have no deadline here; tell the limit with [`slow_after`](Self::slow_after).
///
/// # How it moves
///
/// - It is looked at once in a round: when as many calls as the limit, and at least ten, have begun since the last look and
///   succeeded. By a congestion it is lowered at once, but once only: calls that began before that do not lower it again,
///   nor does one within a round trip.
/// - It rises only if at least half of it was in flight in that round: a limit that nobody reaches says nothing about what
///   the dependency can take.
/// - How long calls take without load, the *baseline*, is learned in a *probe*: for one round the limit is halved, and calls
///   go on. That is after 20 to 40 rounds, drawn at random so that many clients do not probe in step, or as soon as calls
///   take twice as long as they should. A server that has become slower, or stands under the load of this very limit, thus
///   shows its real baseline: if half of the load does not make it faster, it is not the load.
/// - AIMD neither needs a baseline nor probes.
///
/// # Which algorithm
///
/// By Little's law as many calls are in a server as it answers per second, times how long one takes. More of them only
/// wait in its queue. All three raise the limit until they see a sign of that; they differ in the sign.
///
/// | | [`gradient`](Self::gradient), the default | [`vegas`](Self::vegas) | [`aimd`](Self::aimd) |
/// |---|---|---|---|
/// | sign | calls take half as long again as without load | some calls wait in the queue | calls are throttled, run out of time, or are [too slow](Self::slow_after) |
/// | queue at the server | about half of what it works on | a few calls; in large limits up to a fifth | as long as callers bear it |
/// | limit for 20 workers | about 35 | about 25 | up to 180, with callers of 10 times a call |
/// | needs | calls that take about as long as each other, on average | the same, and that more steadily | a server that says no, or calls with a deadline |
/// | choose it | first | where waiting must be short, and some throughput may be lost | where times say nothing: batches, streams, long polls |
///
/// # What is reached
///
/// A simulated server of 20 workers, 50 ms a call, under one and a half times the load that it can bear, with callers who
/// give up after 500 ms, unheard by it: it becomes twice as fast, three times slower, loses half of its workers, gets them
/// back. How long until the good answers per second are above 0.9 of those behind the best fixed limit for the new server, at
/// most; and their share from the bound that the test holds to the end of the phase, at least:
///
/// | | `gradient` | `vegas` | `aimd(1, 0.8)` | the same, `slow_after` 250 ms |
/// |---|---|---|---|---|
/// | recovered | at once | 2.5 s | 5.5 s | 1.5 s |
/// | bound | 1 s | 3 s | 8 s | 3 s |
/// | share | 0.95 | 0.96 | 0.94 | 0.91 |
///
/// (`cargo test --test concurrency keeps_up -- --nocapture` prints each phase.) AIMD is slow where the server is three times
/// slower: what was admitted under the old limit fills the server's queue, and callers must give up before it is known.
///
/// It is **not** reached behind 4 workers when they become three times slower and callers bear little more than three times
/// what a call takes then: 0.89 by gradient, 0.84 by Vegas, 0.86 and 0.87 by AIMD. A step of the limit is a large share of
/// it there, and one call too many makes all too late. With callers of twice the patience gradient and Vegas reach 0.97, AIMD
/// 0.85 and 0.88. For a server so small, count its workers and take a [`Bulkhead`](crate::Bulkhead).
///
/// # Cost
///
/// To admit: one atomic operation and one reading of the clock; to be refused: two loads. To hear a result: one atomic
/// operation, one reading of the clock and a short critical section of constant length. No allocation. Where callers wait,
/// also what a [`Bulkhead`](crate::Bulkhead) costs then; who joins the line steps past the waiters of lower classes.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{AdaptiveConcurrency, Clock, Gate};
///
/// let clock = Clock::manual();
/// let search = AdaptiveConcurrency::between(1, 200).start(20).clock(clock.clone());
/// for _ in 0..10 {
///     let permits: Vec<_> = (0..20).map_while(|_| search.try_acquire().ok()).collect();
///     clock.advance(Duration::from_millis(50));
///     permits.into_iter().for_each(|permit| permit.success());
/// }
/// // All that were tried at once took as long as one: there is room for more.
/// assert!(search.limit() > 20);
/// assert_eq!(search.baseline(), Some(Duration::from_millis(50)));
/// ```
///
/// In a stack, by what the server says:
///
/// ```
/// use floodwall::{AdaptiveConcurrency, Clock, Error, Gate, Outcome, Policy};
///
/// let search = AdaptiveConcurrency::between(1, 200).start(100).aimd(1, 0.5).clock(Clock::manual());
/// let search = search.judge(|result: &Result<u16, Error<()>>| match result {
///     Ok(503) => Outcome::Throttled { retry_after: None },
///     Ok(_) => Outcome::Success,
///     Err(_) => Outcome::Failure,
/// });
/// let _ = floodwall::block_on(search.call(|| async { Ok(503) }));
/// assert_eq!(search.limit(), 50);
/// ```
#[derive(Debug)]
pub struct AdaptiveConcurrency {
    places: Semaphore,
    learner: Mutex<Learner>,
    classes: Classes,
    clock: Clock,
    hook: Hook,
}

/// Highest first.
#[derive(Clone, Copy, Debug)]
struct Classes {
    /// The lowest priority of each, and what it and those above it keep from those below, in millionths.
    classes: [(u8, u32); Self::MAX],
    count: usize,
}

impl Classes {
    const MAX: usize = 8;
    /// Of the limit, in millionths: with more, the last class alone could never use half of it, and it would not rise.
    const MAX_KEPT: u32 = 500_000;

    fn ask(&self, priority: u8) -> Ask {
        let known = &self.classes[..self.count];
        let class = known.iter().position(|(from, _)| priority >= *from).unwrap_or(self.count);
        let kept = if class == 0 { 0 } else { self.classes[class - 1].1 };
        Ask { class: class as u8, kept, ..Ask::places(1) }
    }
}

impl AdaptiveConcurrency {
    /// Creates a limit that stays between `floor` and `ceiling` calls at once.
    ///
    /// # Panics
    ///
    /// If `floor` is 0; if `ceiling` is below `floor` or above 2⁵⁰.
    #[track_caller]
    pub fn between(floor: usize, ceiling: usize) -> Self {
        let (floor, ceiling) = match checked(floor, ceiling) {
            Ok(bounds) => bounds,
            Err(bad) => bad.panic(),
        };
        let start = Self::START.clamp(floor, ceiling);
        Self {
            places: Semaphore::new(start, Self::MAX_WAITING),
            learner: Mutex::new(Learner::new(floor, ceiling, start)),
            classes: Classes { classes: [(0, 0); Classes::MAX], count: 0 },
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
    }

    const START: u64 = 20;
    const MAX_WAITING: usize = 1024;

    /// Starts with `limit` calls at once. Default: 20, or the floor or ceiling if that is nearer.
    ///
    /// # Panics
    ///
    /// If `limit` is not between the floor and the ceiling.
    #[track_caller]
    #[must_use = "returns the changed limit"]
    pub fn start(self, limit: usize) -> Self {
        self.change(|learner| {
            let Learner { floor, ceiling, .. } = *learner;
            let limit = limit as u64;
            assert!(
                (floor..=ceiling).contains(&limit),
                "start: {limit} must be between {floor} and {ceiling}"
            );
            learner.limit = limit as f64;
        })
    }

    /// Goes by congestions alone: one lowers the limit to `factor` of it, each round raises it by `increase`. Default: by
    /// gradient.
    ///
    /// Additive increase, multiplicative decrease (D.-M. Chiu and R. Jain, 1989): clients that share a server come to equal
    /// limits. `(1, 0.9)` is common; a lower factor finds a new capacity sooner and gives up more of the old one. Without
    /// [`slow_after`](Self::slow_after) it fills the server's queue until callers run out of time.
    ///
    /// # Panics
    ///
    /// If `increase` is not above 0 and finite, or `factor` is not above 0 and below 1.
    #[track_caller]
    #[must_use = "returns the changed limit"]
    pub fn aimd(self, increase: impl Into<f64>, factor: f64) -> Self {
        let increase = increase.into();
        assert!(increase > 0.0 && increase.is_finite(), "increase: {increase} must be above 0 and finite");
        assert!(factor > 0.0 && factor < 1.0, "factor: {factor} must be above 0 and below 1");
        self.change(|learner| learner.rule = Rule::Aimd { increase, factor })
    }

    /// Goes by how many calls wait in the server's queue, reckoned from how much longer than the baseline they take; keeps
    /// them few. A congestion lowers the limit to 0.9 of it. Default: by gradient.
    ///
    /// TCP Vegas (L. Brakmo and L. Peterson, 1995), with the bounds of Netflix's `VegasLimit` (concurrency-limits): one,
    /// three and six times the logarithm of the limit. From limits of 30 on a tenth and a fifth of it are allowed if
    /// that is more, so that times that vary a little are not taken for a queue.
    #[must_use = "returns the changed limit"]
    pub fn vegas(self) -> Self {
        self.change(|learner| learner.rule = Rule::Vegas)
    }

    /// Goes by how much longer than the baseline calls take: up to half as long again is fine, above that the limit falls
    /// in proportion. A congestion lowers the limit to 0.9 of it. This is the default.
    ///
    /// Netflix's `Gradient2Limit` (concurrency-limits), without two of its flaws. It ignores calls that are dropped; here
    /// they lower the limit. And it drifts upwards, since its baseline is a long average, which becomes that of the queue;
    /// here it comes from probes alone, so that the limit settles at half as many calls again as the server works on.
    #[must_use = "returns the changed limit"]
    pub fn gradient(self) -> Self {
        self.change(|learner| learner.rule = Rule::Gradient)
    }

    /// Counts a call that takes longer as too slow, however it ends, unless it is [`Ignored`](Outcome::Ignored). Default: only one that misses its deadline.
    ///
    /// Well above what a call takes that need not queue, or it counts what no limit can help: if a fifth of the calls takes
    /// longer on an idle server, the limit falls to its floor.
    ///
    /// # Panics
    ///
    /// If `time` is zero.
    #[track_caller]
    #[must_use = "returns the changed limit"]
    pub fn slow_after(self, time: Duration) -> Self {
        if time.is_zero() {
            absurd("slow_after", 0, "ns must be at least 1 ns");
        }
        self.change(|learner| learner.slow_after = saturating_nanos(time))
    }

    /// Adds a class, below those before it: calls of this [priority](Call::priority) and above, for which `share` of the
    /// limit is kept free of calls below. Default: all calls are one class.
    ///
    /// So a lower class is shed first as calls in flight near the limit, and cannot take the last places from a higher one; if
    /// the limit is 1, there is one place for all. Who waits stands before all lower classes, and takes the place of the
    /// last one of them when the line is full. Higher classes may use the whole limit, and can starve lower ones.
    ///
    /// A call that finds no place is rejected as [`Shed`](Reason::Shed) if there is one that is kept for others, and as
    /// [`BulkheadFull`](Reason::BulkheadFull) if there is none.
    ///
    /// ```
    /// use floodwall::{AdaptiveConcurrency, Call, Gate, Reason};
    ///
    /// let limit = AdaptiveConcurrency::between(1, 100).start(10).class(200, 0.2);
    /// let (premium, basic) = (Call::new().priority(200), Call::new().priority(0));
    /// let held: Vec<_> = std::iter::from_fn(|| limit.try_acquire_for(basic).ok()).collect();
    /// assert_eq!(held.len(), 8);
    /// assert_eq!(limit.try_acquire_for(basic).unwrap_err().reason(), Reason::Shed);
    /// assert!(limit.try_acquire_for(premium).is_ok());
    /// ```
    ///
    /// # Panics
    ///
    /// If `priority` is not below that of the class before; if `share` is not between 0 and 1, or all shares are more than
    /// a half: with more, the last class alone could not use half of the limit, and it would never rise; if there are 8
    /// classes already.
    #[track_caller]
    #[must_use = "returns the changed limit"]
    pub fn class(mut self, priority: u8, share: f64) -> Self {
        let Classes { classes, count } = &mut self.classes;
        assert!((0.0..=1.0).contains(&share), "share: {share} must be between 0 and 1");
        if *count == Classes::MAX {
            absurd("priority", priority.into(), "must be that of one of at most 8 classes");
        }
        let before = count.checked_sub(1).map(|last| classes[last]);
        if before.is_some_and(|(from, _)| priority >= from) {
            absurd("priority", priority.into(), "must be below that of the class before");
        }
        let kept = before.map_or(0, |(_, kept)| kept) + (share * 1e6).round() as u32;
        if kept > Classes::MAX_KEPT {
            absurd("share", kept.into(), "millionths in all must be at most 500000");
        }
        classes[*count] = (priority, kept);
        *count += 1;
        self
    }

    /// Lets at most `waiting` calls wait for their turn; more are rejected. Default: 1,024.
    #[must_use = "returns the changed limit"]
    pub fn max_waiting(self, waiting: usize) -> Self {
        self.places.change_list(|list| list.set_limit(waiting));
        self
    }

    setters!("limit");

    /// Changes the floor and the ceiling at run time. The limit moves only if it is outside.
    ///
    /// # Errors
    ///
    /// If `floor` is 0; if `ceiling` is below `floor` or above 2⁵⁰; nothing changes then.
    pub fn set_between(&self, floor: usize, ceiling: usize) -> Result<(), BadSetting> {
        let (floor, ceiling) = checked(floor, ceiling)?;
        let mut learner = self.learner.lock();
        learner.set_between(floor, ceiling);
        // Under the lock, so that it is the latest one's; those who wait are served after it.
        self.places.replace_max(learner.max());
        drop(learner);
        self.places.serve();
        Ok(())
    }

    /// Returns how many calls may run at once now; half of what was learned while it probes.
    pub fn limit(&self) -> usize {
        self.places.max() as usize
    }

    /// Returns how many calls run now. After the limit has fallen that may be more for a while.
    pub fn running(&self) -> usize {
        self.places.running() as usize
    }

    /// Returns how many calls wait now.
    pub fn waiting(&self) -> usize {
        self.places.waiting()
    }

    /// Returns how long calls take without load, as it was learned; `None` before that, and always by AIMD.
    pub fn baseline(&self) -> Option<Duration> {
        self.learner.lock().baseline().map(Duration::from_nanos)
    }

    #[track_caller]
    fn change(self, change: impl FnOnce(&mut Learner)) -> Self {
        let mut learner = self.learner.lock();
        change(&mut learner);
        self.places.replace_max(learner.max());
        drop(learner);
        self
    }

    fn permit(&self, ask: Ask, call: Call) -> Result<Permit<'_>, Rejected> {
        let now = self.clock.nanos();
        if call.deadline != NEVER && now >= call.deadline {
            self.places.leave(ask.places);
            return Err(Rejected::new(self.hook.name, Reason::DeadlineExceeded));
        }
        // A ticket's word: when the call began, and whether half of the limit was in flight.
        let was_used = ask.running.saturating_mul(2) >= self.places.max();
        Ok(Permit::new(self, Ticket::new(now << 1 | u64::from(was_used), call)))
    }

    fn full(&self, ask: Ask) -> Rejected {
        let shed = ask.kept > 0 && self.places.running() < self.places.max();
        Rejected::new(self.hook.name, if shed { Reason::Shed } else { Reason::BulkheadFull })
    }
}

const MAX_CEILING: u64 = 1 << 50;

const fn checked(floor: usize, ceiling: usize) -> Result<(u64, u64), BadSetting> {
    let (floor, ceiling) = (floor as u64, ceiling as u64);
    let (setting, value, must) = if floor == 0 {
        ("floor", floor, "must be at least 1")
    } else if ceiling < floor {
        ("ceiling", ceiling, "must be at least the floor")
    } else if ceiling > MAX_CEILING {
        ("ceiling", ceiling, "must be at most 1125899906842624 (2^50)")
    } else {
        return Ok((floor, ceiling));
    };
    Err(BadSetting::new(setting, value, must))
}

impl Gate for AdaptiveConcurrency {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        let mut ask = self.classes.ask(call.priority);
        self.hook.admission(match self.places.try_enter(&mut ask) {
            Turn::Served => self.permit(ask, call),
            Turn::NotYet | Turn::Never => Err(self.full(ask)),
        })
    }

    fn release(&self, ticket: Ticket, outcome: Outcome) {
        let now = self.clock.nanos();
        let is_late = ticket.is_late_at(now);
        let outcome = match outcome {
            Outcome::Abandoned if is_late => Outcome::Failure,
            outcome => outcome,
        };
        let heard = match outcome {
            Outcome::Success => Some(Heard::Answered),
            Outcome::Throttled { .. } => Some(Heard::Throttled),
            Outcome::Failure if is_late => Some(Heard::TooLate),
            Outcome::Failure | Outcome::Abandoned => Some(Heard::Otherwise),
            Outcome::Ignored => None,
        };
        if let Some(heard) = heard {
            let mut learner = self.learner.lock();
            learner.hear(heard, ticket.word() >> 1, ticket.word() & 1 == 1, now);
            // Under the lock, so that it is the latest one's; before the place is given back, which serves who fits now.
            self.places.replace_max(learner.max());
        }
        self.places.leave(1);
        self.hook.emit(Event::Finished(outcome));
    }

    fn residual(&self) -> Option<Residual> {
        self.places.in_use().then_some(Residual::InUse)
    }
}

impl Acquire for AdaptiveConcurrency {
    async fn acquire_within(&self, call: Call, limit: Duration) -> Result<Permit<'_>, Rejected> {
        let ask = self.classes.ask(call.priority);
        self.hook.admission(match self.places.enter(ask, call, limit, &self.clock).await {
            Ok(ask) => self.permit(ask, call),
            Err(Reason::BulkheadFull) => Err(self.full(ask)),
            Err(reason) => Err(Rejected::new(self.hook.name, reason)),
        })
    }
}

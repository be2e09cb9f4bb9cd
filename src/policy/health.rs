//! What a failover remembers of its alternates: [`Health`], told the time, and [`Memory`], which callers share.

use crate::call::Call;
use crate::clock::Clock;
use crate::error::saturating_nanos;
use crate::event::Outcome;
use crate::gate::Ticket;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// How well each alternate did lately.
///
/// Every rest that begins or ends raises the `epoch`, and the alternate remembers which one it was: a call that asked it
/// before that says nothing about it now. So a hundred calls that fail together begin one rest, and not a hundred
/// doublings. A `probe` is a lease: while it lasts others pass the alternate over, and if the one that holds it never
/// comes back, the next one may try.
#[derive(Clone, Debug)]
pub(super) struct Health {
    alternates: Box<[Alternate]>,
    pub(super) failures: u32,
    /// In nanoseconds, as is the next.
    pub(super) rest_for: u64,
    pub(super) max_rest: u64,
    epoch: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Alternate {
    /// Failures in a row while it does not rest.
    failed: u32,
    /// How often it has been laid to rest since it last succeeded; 0 if it does not rest.
    rests: u32,
    until: u64,
    /// When the lease of a probe ends; 0 if none is out.
    probe: u64,
    /// The epoch of its last change.
    since: u64,
}

/// Which alternate to ask, and what to tell when it has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pick {
    pub(super) alternate: usize,
    is_probe: bool,
    epoch: u64,
}

impl Pick {
    const fn word(self) -> u64 {
        self.epoch << 8 | (self.is_probe as u64) << 7 | self.alternate as u64
    }

    const fn from_word(word: u64) -> Self {
        Self { alternate: (word & 0x7f) as usize, is_probe: word & 0x80 != 0, epoch: word >> 8 }
    }
}

impl Health {
    pub(super) fn of(alternates: usize) -> Self {
        Self {
            alternates: vec![Alternate::default(); alternates].into_boxed_slice(),
            failures: 1,
            rest_for: 1_000_000_000,
            max_rest: 60_000_000_000,
            epoch: 0,
        }
    }

    /// Picks among those that are not in `tried`, a set of bits: the first that does not rest; else the one whose rest
    /// ends first. `skip` is 0 but for a further attempt: that begins at the `skip`th after the first, and goes around
    /// from the one that it asked `last`.
    ///
    /// An earlier attempt may still run beside a further one, and the two should not meet. So whose rest is over comes
    /// last for a further one: were it counted in its place, a rest that ends between the two would lead the second to
    /// where the first one is. And going back to the first alternate would lead it there too.
    fn pick(&mut self, tried: u64, last: usize, skip: usize, now: u64) -> Option<Pick> {
        let all = 0..self.alternates.len();
        let left = |number: &usize| tried >> number & 1 == 0;
        let fit = |number: &usize| left(number) && self.alternates[*number].is_fit(now);
        let is_over = |number: &usize| self.alternates[*number].rests > 0;
        let count = all.clone().filter(fit).count();
        let alternate = if count == 0 {
            all.filter(left).min_by_key(|number| self.alternates[*number].fit_at())?
        } else if skip > 0 && tried == 0 {
            let well = all.clone().filter(fit).filter(|number| !is_over(number));
            well.chain(all.filter(fit).filter(is_over)).nth(skip % count)?
        } else {
            let from = if skip == 0 { 0 } else { last + 1 };
            (from..all.end).chain(0..from).find(fit)?
        };
        let chosen = &mut self.alternates[alternate];
        let is_probe = chosen.rests > 0 && chosen.is_fit(now);
        if is_probe {
            chosen.probe = now.saturating_add(rest(self.rest_for, self.max_rest, chosen.rests - 1));
        }
        Some(Pick { alternate, is_probe, epoch: self.epoch })
    }

    fn hear(&mut self, pick: Pick, outcome: Outcome, now: u64) {
        let Self { failures, rest_for, max_rest, .. } = *self;
        let alternate = &mut self.alternates[pick.alternate];
        if pick.epoch < alternate.since {
            return;
        }
        let asked = match outcome {
            Outcome::Success => {
                if alternate.rests > 0 {
                    self.epoch += 1;
                    *alternate = Alternate { since: self.epoch, ..Alternate::default() };
                }
                alternate.failed = 0;
                return;
            }
            Outcome::Ignored | Outcome::Abandoned => {
                if pick.is_probe {
                    alternate.probe = 0;
                }
                return;
            }
            Outcome::Throttled { retry_after: Some(wait) } => saturating_nanos(wait).min(max_rest),
            Outcome::Throttled { retry_after: None } | Outcome::Failure => 0,
        };
        alternate.failed = alternate.failed.saturating_add(1);
        if alternate.rests > 0 || alternate.failed >= failures {
            self.epoch += 1;
            let wait = rest(rest_for, max_rest, alternate.rests).max(asked);
            *alternate = Alternate {
                failed: 0,
                rests: alternate.rests.saturating_add(1),
                until: now.saturating_add(wait),
                probe: 0,
                since: self.epoch,
            };
        }
    }

    fn rests(&self, alternate: usize, now: u64) -> bool {
        self.alternates.get(alternate).is_some_and(|alternate| alternate.rests > 0 && now < alternate.until)
    }

    /// Whether there is anything to remember.
    fn is_troubled(&self) -> bool {
        self.alternates.iter().any(|alternate| alternate.rests > 0 || alternate.failed > 0)
    }
}

impl Alternate {
    const fn is_fit(&self, now: u64) -> bool {
        self.rests == 0 || now >= self.fit_at()
    }

    const fn fit_at(&self) -> u64 {
        if self.probe > self.until { self.probe } else { self.until }
    }
}

/// The rest after so many before it: doubled each time, up to a cap.
const fn rest(first: u64, max: u64, before: u32) -> u64 {
    let doubled = if before < first.leading_zeros() { first << before } else { u64::MAX };
    if doubled < max { doubled } else { max }
}

/// The health that callers share. While all is well, asking and answering is a load each.
#[derive(Debug)]
pub(super) struct Memory {
    health: Mutex<Health>,
    /// Twice the epoch, plus 1 if there is anything to remember. Written under the lock.
    seen: AtomicU64,
    count: usize,
}

impl Memory {
    pub(super) fn of(alternates: usize) -> Self {
        Self { health: Mutex::new(Health::of(alternates)), seen: AtomicU64::new(0), count: alternates }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Health)) {
        change(&mut self.health.lock());
    }

    pub(super) fn rests(&self, alternate: usize, clock: &Clock) -> bool {
        let now = clock.nanos();
        self.health.lock().rests(alternate, now)
    }

    /// Picks the alternate to ask. `tried` is the set of those that this attempt has asked, `last` the last of them.
    pub(super) fn ask<'a>(
        &'a self,
        call: Call,
        tried: u64,
        last: usize,
        clock: &'a Clock,
    ) -> Option<Asked<'a>> {
        // The second attempt of whoever stands further out begins at the second alternate.
        let skip = usize::from(call.attempt.saturating_sub(1));
        // Acquire, partner of the Release in `hear`: what was asked in an epoch knows what the epoch began with.
        let seen = self.seen.load(Ordering::Acquire);
        let pick = if seen & 1 == 0 && tried == 0 {
            Pick { alternate: skip % self.count, is_probe: false, epoch: seen >> 1 }
        } else {
            let now = clock.nanos();
            self.health.lock().pick(tried, last, skip, now)?
        };
        Some(Asked {
            memory: self,
            clock,
            alternate: pick.alternate,
            ticket: Some(Ticket::new(pick.word(), call)),
        })
    }

    fn hear(&self, ticket: &Ticket, outcome: Outcome, clock: &Clock) {
        let untroubled = self.seen.load(Ordering::Acquire) & 1 == 0;
        if untroubled && !matches!(outcome, Outcome::Failure | Outcome::Throttled { .. }) {
            return;
        }
        let now = clock.nanos();
        let mut health = self.health.lock();
        health.hear(Pick::from_word(ticket.word()), outcome, now);
        let seen = health.epoch << 1 | u64::from(health.is_troubled());
        self.seen.store(seen, Ordering::Release);
    }
}

/// One alternate that is being asked. Dropped without a report it gives a probe back, unless its call came too late
/// or its thread panics: then the alternate failed.
pub(super) struct Asked<'a> {
    pub(super) alternate: usize,
    memory: &'a Memory,
    clock: &'a Clock,
    ticket: Option<Ticket>,
}

impl Asked<'_> {
    pub(super) fn report(mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            self.memory.hear(&ticket, outcome, self.clock);
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let failed = std::thread::panicking() || ticket.is_late(self.clock);
            let outcome = if failed { Outcome::Failure } else { Outcome::Abandoned };
            self.memory.hear(&ticket, outcome, self.clock);
        }
    }
}

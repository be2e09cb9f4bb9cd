//! What a rate is when it is shared, and what is left of whose share: [`Limits`], [`Shares`].

use std::time::Duration;

use super::change::Carry;
use super::rate::Rate;
use crate::error::{BadSetting, Reason, absurd, saturating_nanos};

/// How many classes there may be, and the last one.
const CLASSES: usize = 9;

/// Shares are counted in millionths.
const WHOLE: u64 = 1_000_000;

/// The settings. All amounts are in units of which a token has `token`, chosen so that a whole number of them flows into
/// the whole and into every reserve each nanosecond: nothing is ever rounded, but for the times of retries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    token: u128,
    burst: u128,
    /// Per nanosecond.
    flow: u128,
    /// Highest first; the last is for all calls below.
    classes: [Class; CLASSES],
    count: usize,
}

#[derive(Clone, Copy, Debug)]
struct Class {
    /// The lowest priority in it.
    from: u8,
    /// In millionths.
    share: u64,
    /// What its reserve holds.
    reserve: u128,
    /// What flows into its reserve per nanosecond.
    flow: u128,
    /// What it leaves of the common tokens.
    leaves: u128,
}

impl Class {
    const LAST: Self = Self { from: 0, share: 0, reserve: 0, flow: 0, leaves: 0 };
}

impl Limits {
    /// With it the largest amount fits: 2^40 tokens of 10^6 × 2^63 units.
    const MAX_BURST: u64 = 1 << 40;
    const AT_MOST: &'static str = "must be at most 1099511627776 (2^40)";

    #[track_caller]
    pub(super) const fn new(tokens: u64, period: Duration) -> Self {
        // For its checks, which are those of every bucket.
        let _ = Rate::expect(tokens, period, None);
        Self::unchecked(tokens, period).with_burst(tokens)
    }

    const fn unchecked(tokens: u64, period: Duration) -> Self {
        let nanos = saturating_nanos(period) as u128;
        let (token, flow) = (nanos * WHOLE as u128, tokens as u128 * WHOLE as u128);
        Self { token, burst: 0, flow, classes: [Class::LAST; CLASSES], count: 1 }
    }

    #[track_caller]
    pub(super) const fn with_burst(mut self, tokens: u64) -> Self {
        if tokens == 0 {
            absurd("burst", tokens, "must be at least 1");
        }
        if tokens > Self::MAX_BURST {
            absurd("burst", tokens, Self::AT_MOST);
        }
        if self.count > 1 {
            absurd("burst", tokens, "must be set before the classes");
        }
        self.burst = tokens as u128 * self.token;
        self
    }

    /// The same classes and shares of another rate.
    pub(super) fn changed(&self, tokens: u64, period: Duration, burst: u64) -> Result<Self, BadSetting> {
        if burst > Self::MAX_BURST {
            return Err(BadSetting::new("burst", burst, Self::AT_MOST));
        }
        Rate::new(tokens, period, burst)?;
        let mut changed =
            Self { classes: self.classes, count: self.count, ..Self::unchecked(tokens, period) };
        changed.burst = u128::from(burst) * changed.token;
        changed.arranged()
    }

    #[track_caller]
    pub(super) const fn with_class(mut self, from: u8, share: f64) -> Self {
        let last = self.count - 1;
        if last > 0 && from >= self.classes[last - 1].from {
            absurd("priority", from as u64, "must be below that of the class before");
        }
        if last == CLASSES - 1 {
            absurd("priority", from as u64, "must be that of one of at most 8 classes");
        }
        // A constant can write whole numbers only.
        assert!(!share.is_nan(), "share: NaN must be between 0 and 1");
        assert!(share >= 0.0, "share: a negative number must be between 0 and 1");
        let share = (share * WHOLE as f64 + 0.5) as u64;
        if share > WHOLE {
            absurd("share", share, "millionths must be at most 1000000");
        }
        self.classes[last] = Class { from, share, ..Class::LAST };
        self.count += 1;
        let (mut shares, mut i) = (0, 0);
        while i < self.count {
            shares += self.classes[i].share;
            i += 1;
        }
        if shares > WHOLE {
            absurd("share", shares, "millionths in all must be at most 1000000");
        }
        match self.arranged() {
            Ok(limits) => limits,
            Err(bad) => bad.panic(),
        }
    }

    /// Gives each class the reserve and the flow of its share, and says what it leaves of the common tokens.
    const fn arranged(mut self) -> Result<Self, BadSetting> {
        let (mut reserved, mut i) = (0, 0);
        while i < self.count {
            let share = self.classes[i].share as u128;
            if share > 0 {
                let reserve = self.burst / WHOLE as u128 * share / 2;
                self.classes[i].reserve = if reserve < self.token { self.token } else { reserve };
                self.classes[i].flow = self.flow / WHOLE as u128 * share;
            }
            reserved += self.classes[i].reserve;
            i += 1;
        }
        if self.count == 1 {
            return Ok(self);
        }
        if reserved + self.token > self.burst {
            let value = (self.burst / self.token) as u64;
            return Err(BadSetting::new("burst", value, "must hold more than the reserves"));
        }
        // Less a token, so that the last class can be served when nothing is missing.
        let spare = self.burst - reserved - self.token;
        i = 0;
        while i < self.count {
            self.classes[i].leaves = spare / 2 / (self.count as u128 - 1) * i as u128;
            i += 1;
        }
        Ok(self)
    }

    /// Turns units of other limits into units of these, rounded down.
    const fn convert(&self, units: u128, from: &Self) -> u128 {
        let (period, its_period) = (self.token / WHOLE as u128, from.token / WHOLE as u128);
        // In three parts, since the product need not fit: tokens, millionths of them, and nanoseconds of the period.
        let (tokens, rest) = (units / from.token, units % from.token);
        let part = rest / its_period * period + rest % its_period * period / its_period;
        tokens.saturating_mul(self.token).saturating_add(part)
    }

    /// What there is of `units` of other limits when it keeps its proportion to the burst, rounded down.
    const fn scaled(&self, units: u128, from: &Self) -> u128 {
        let (burst, its_burst) = (self.burst / self.token, from.burst / from.token);
        let units = self.convert(units, from);
        (units / its_burst).saturating_mul(burst).saturating_add(units % its_burst * burst / its_burst)
    }

    pub(super) fn class_of(&self, priority: u8) -> usize {
        let classes = &self.classes[..self.count - 1];
        classes.iter().position(|class| priority >= class.from).unwrap_or(self.count - 1)
    }

    /// Returns how many tokens a class can take at once when nothing is missing, and in how many nanoseconds so many flow in.
    pub(super) fn alone(&self, class: usize) -> (u64, u64) {
        let tokens = Shares::FULL.available(self, class);
        (tokens, wait(u128::from(tokens) * self.token, self.flow).unwrap_or(u64::MAX))
    }

    fn classes(&self) -> &[Class] {
        &self.classes[..self.count]
    }
}

/// What is missing now: in the whole, and in each reserve.
///
/// The reserves together never hold more than the whole, which is why a reserve can be promised: it is so when nothing
/// is missing; each call takes as much from the whole as from its reserve, and from the whole alone only what no
/// reserve holds; and while the whole is not full, no less flows into it than into all reserves. (A debt breaks this,
/// and so the whole is asked too.)
///
/// A reserve never misses more than a bucket of the same rate and size would that had admitted all of the class: both
/// gain the same, and the reserve is charged what the bucket is or less. So what fits that bucket fits the reserve.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    /// The time up to which all has flowed.
    at: u64,
    whole: u128,
    reserves: [u128; CLASSES],
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    /// In nanoseconds; `None` if it is not known, or for ever.
    pub(super) wait: Option<u64>,
}

impl Shares {
    pub(super) const FULL: Self = Self { at: 0, whole: 0, reserves: [0; CLASSES] };

    /// A time that was read before another call's changes nothing: time only moves forward. Returns how much earlier it
    /// was, which whoever waits has to wait too.
    pub(super) fn advance(&mut self, limits: &Limits, now: u64) -> u64 {
        let behind = self.at.saturating_sub(now);
        let nanos = u128::from(now.saturating_sub(self.at));
        self.at = self.at.max(now);
        self.whole = self.whole.saturating_sub(nanos.saturating_mul(limits.flow));
        for (missing, class) in self.reserves.iter_mut().zip(limits.classes()) {
            *missing = missing.saturating_sub(nanos.saturating_mul(class.flow));
        }
        behind
    }

    pub(super) fn take(&mut self, limits: &Limits, class: usize, cost: u32, now: u64) -> Result<(), Refusal> {
        let behind = self.advance(limits, now);
        let cost = u128::from(cost) * limits.token;
        // Also if it costs nothing: a debt has to be paid first.
        let reason = if self.whole.saturating_add(cost) > limits.burst {
            Reason::RateLimited
        } else if cost > self.reserve(limits, class) && cost > self.open(limits, class) {
            Reason::Shed
        } else {
            self.charge(limits, class, cost);
            return Ok(());
        };
        Err(Refusal { reason, wait: self.wait(limits, class, cost).map(|wait| wait.saturating_add(behind)) })
    }

    /// Takes it from the class's reserve as far as that goes, and all of it from the whole.
    fn charge(&mut self, limits: &Limits, class: usize, units: u128) {
        let missing = &mut self.reserves[class];
        *missing = limits.classes[class].reserve.min(missing.saturating_add(units));
        self.whole = self.whole.saturating_add(units);
    }

    pub(super) fn settle(&mut self, limits: &Limits, class: usize, estimate: u32, actual: u32, now: u64) {
        self.advance(limits, now);
        if actual > estimate {
            self.charge(limits, class, u128::from(actual - estimate) * limits.token);
        } else {
            let back = u128::from(estimate - actual) * limits.token;
            self.whole = self.whole.saturating_sub(back);
            self.reserves[class] = self.reserves[class].saturating_sub(back);
        }
    }

    /// Goes over to other limits. Rounding down keeps what is promised: the reserves still hold no more than the whole.
    pub(super) fn change(&mut self, old: &Limits, new: &Limits, carry: Carry, now: u64) {
        self.advance(old, now);
        let carried = |level: u128| match carry {
            Carry::AsIs => new.convert(level, old),
            Carry::Scaled => new.scaled(level, old),
            Carry::Full => u128::MAX,
        };
        for class in 0..old.count {
            let reserve = new.classes[class].reserve;
            self.reserves[class] = reserve - carried(self.reserve(old, class)).min(reserve);
        }
        self.whole = match self.whole.checked_sub(old.burst) {
            // A debt stays as it is, rounded up.
            Some(debt) if debt > 0 && carry != Carry::Full => {
                let rounding = u128::from(new.token != old.token);
                new.burst.saturating_add(new.convert(debt, old)).saturating_add(rounding)
            }
            _ => new.burst - carried(self.whole(old)).min(new.burst),
        };
    }

    /// What is there; 0 if there is a debt.
    const fn whole(&self, limits: &Limits) -> u128 {
        limits.burst.saturating_sub(self.whole)
    }

    const fn reserve(&self, limits: &Limits, class: usize) -> u128 {
        limits.classes[class].reserve - self.reserves[class]
    }

    /// What a class may take where its reserve alone is not enough: all but what the others' reserves hold, and what it
    /// must leave.
    fn open(&self, limits: &Limits, class: usize) -> u128 {
        let kept = (0..limits.count).filter(|other| *other != class).map(|other| self.reserve(limits, other));
        self.whole(limits).saturating_sub(kept.sum::<u128>() + limits.classes[class].leaves)
    }

    pub(super) fn available(&self, limits: &Limits, class: usize) -> u64 {
        let there = self.reserve(limits, class).max(self.open(limits, class));
        (there.min(self.whole(limits)) / limits.token) as u64
    }

    /// Returns after how many nanoseconds more than so many tokens could be taken if nobody else came.
    pub(super) fn more_after(&self, limits: &Limits, class: usize, tokens: u64) -> u64 {
        self.wait(limits, class, (u128::from(tokens) + 1) * limits.token).unwrap_or(u64::MAX)
    }

    /// Returns after how many nanoseconds `cost` could be taken if nobody else came; `None` if it could not.
    fn wait(&self, limits: &Limits, class: usize, cost: u128) -> Option<u64> {
        let reserved = self.wait_for_reserve(limits, class, cost);
        reserved.into_iter().chain(self.wait_for_open(limits, class, cost)).min()
    }

    /// When the reserve has it; in a debt, when the whole has it too.
    fn wait_for_reserve(&self, limits: &Limits, class: usize, cost: u128) -> Option<u64> {
        let Class { reserve, flow, .. } = limits.classes[class];
        let reserved = wait((self.reserves[class] + cost).saturating_sub(reserve), flow)?;
        let whole = wait(self.whole.saturating_add(cost).saturating_sub(limits.burst), limits.flow)?;
        (cost <= reserve).then_some(reserved.max(whole))
    }

    /// What is open to a class grows by what flows into the whole less what flows into the others' reserves, faster each
    /// time one of these is full, until the whole is full; from then on it only shrinks.
    fn wait_for_open(&self, limits: &Limits, class: usize, cost: u128) -> Option<u64> {
        let (mut flow, mut kept) = (limits.flow, limits.classes[class].leaves);
        let mut fills = [(u64::MAX, 0, 0); CLASSES];
        let mut filling = 0;
        for other in (0..limits.count).filter(|other| *other != class) {
            kept += self.reserve(limits, other);
            let (missing, its_flow) = (self.reserves[other], limits.classes[other].flow);
            if missing > 0 {
                flow -= its_flow;
                fills[filling] = (wait(missing, its_flow)?, missing, its_flow);
                filling += 1;
            }
        }
        let mut needed = self.whole.saturating_add(cost + kept).saturating_sub(limits.burst);
        // In the order in which they are full. Either it is enough before the next one is, or that takes no more.
        fills[..filling].sort_unstable();
        let mut after = None;
        for (full, missing, its_flow) in &fills[..filling] {
            after = wait(needed, flow).filter(|after| after < full);
            if after.is_some() {
                break;
            }
            needed = needed.saturating_add(*missing);
            flow += its_flow;
        }
        let after = after.or_else(|| wait(needed, flow))?;
        // That reckons as if the whole were never full.
        let mut then = self.clone();
        then.advance(limits, self.at.checked_add(after)?);
        (then.open(limits, class) >= cost).then_some(after)
    }

    pub(super) fn until_full(&self, limits: &Limits) -> u64 {
        let reserves =
            self.reserves.iter().zip(limits.classes()).map(|(missing, class)| (*missing, class.flow));
        let waits = reserves.chain([(self.whole, limits.flow)]).map(|(missing, flow)| wait(missing, flow));
        waits.map(|wait| wait.unwrap_or(u64::MAX)).max().unwrap_or(0)
    }
}

/// Returns in how many nanoseconds so many units flow in; `None` if they never do.
fn wait(units: u128, flow: u128) -> Option<u64> {
    if units == 0 {
        return Some(0);
    }
    units.div_ceil((flow > 0).then_some(flow)?).try_into().ok()
}

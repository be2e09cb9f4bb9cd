//! A rate shared by classes of priority: literal times, what is promised, and an obvious twin.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use floodwall::{
    Blocking, Call, Carry, Clock, Error, Event, Gate, Outcome, Policy, PriorityBucket, Reason, Rejected,
    Residual, block_on,
};
use proptest::prelude::*;
use support::{millis, nanos, secs};

const PREMIUM: Call = Call::new().priority(200);
const STANDARD: Call = Call::new().priority(100);
const BASIC: Call = Call::new().priority(0);

/// Reserves of 25 and 15, and 60 common tokens, of which standard leaves 14 and basic 29.
fn api(clock: &Clock) -> PriorityBucket {
    PriorityBucket::per_second(100).class(200, 0.5).class(100, 0.3).name("api").clock(clock.clone())
}

fn left(bucket: &PriorityBucket) -> [u64; 3] {
    [200, 100, 0].map(|priority| bucket.available(priority))
}

/// Takes all that a class can get.
fn spend(bucket: &PriorityBucket, call: Call) -> u64 {
    std::iter::from_fn(|| bucket.try_acquire_for(call).ok()).map(|permit| permit.success()).count() as u64
}

/// (class, what it can get when the others take nothing).
#[test]
fn a_burst_leaves_the_reserves_of_the_others() {
    for (call, got, others) in
        [(PREMIUM, 85, [0, 15, 0]), (STANDARD, 60, [40, 0, 0]), (BASIC, 30, [55, 30, 0])]
    {
        let bucket = api(&Clock::manual());
        assert_eq!(left(&bucket), [85, 60, 30]);
        assert_eq!(spend(&bucket, call), got);
        assert_eq!(left(&bucket), others, "after {got}");
    }
}

#[test]
fn priorities_belong_to_the_first_class_that_they_reach() {
    let bucket = api(&Clock::manual());
    for (priority, there) in
        [(255, 85), (200, 85), (199, 60), (Call::NORMAL, 60), (100, 60), (99, 30), (0, 30)]
    {
        assert_eq!(bucket.available(priority), there, "{priority}");
    }
    let all = PriorityBucket::per_second(100).clock(Clock::manual());
    assert_eq!((all.available(0), spend(&all, BASIC), all.available(255)), (100, 100, 0));
}

/// The lower class is shed while there are tokens; who is told of an empty whole is told by that name.
#[test]
fn a_rejection_says_whether_the_whole_is_empty_or_kept_for_others() {
    let clock = Clock::manual();
    let bucket = api(&clock);
    assert_eq!(spend(&bucket, BASIC), 30);
    let shed = bucket.try_acquire_for(BASIC).unwrap_err();
    // 29.5 tokens are to be left, so half a token was there.
    assert_eq!(shed, Rejected::new("api", Reason::Shed).after(millis(5)));
    assert_eq!(spend(&bucket, PREMIUM) + spend(&bucket, STANDARD), 70);
    let empty = bucket.try_acquire_for(PREMIUM).unwrap_err();
    // Its reserve gets half of what flows, and nobody is before it at what is common.
    assert_eq!(empty, Rejected::new("api", Reason::RateLimited).after(nanos(14_285_715)));
    assert_eq!(bucket.try_acquire_for(BASIC).unwrap_err().reason(), Reason::RateLimited);
}

/// Trap R14. (reserve of the class, when it is admitted next), with everything taken: premium gets 50 a second from its
/// reserve and 20 common ones.
#[test]
fn who_comes_back_after_retry_after_is_admitted_and_not_a_moment_earlier() {
    for (call, cost) in
        [(PREMIUM, 1), (PREMIUM, 25), (PREMIUM, 60), (STANDARD, 1), (STANDARD, 40), (BASIC, 1)]
    {
        let clock = Clock::manual();
        let bucket = api(&clock);
        let call = call.cost(cost);
        spend(&bucket, PREMIUM);
        spend(&bucket, STANDARD);
        let wait = bucket.try_acquire_for(call).unwrap_err().retry_after().unwrap();
        clock.advance(wait - nanos(1));
        assert!(bucket.try_acquire_for(call).is_err(), "{call:?} after {wait:?}");
        clock.advance(nanos(1));
        assert!(bucket.try_acquire_for(call).is_ok(), "{call:?} after {wait:?}");
    }
}

#[test]
fn a_cost_that_never_fits_is_rejected_without_a_time() {
    let bucket = api(&Clock::manual());
    for (call, reason) in [
        (BASIC.cost(31), Reason::Shed),
        (STANDARD.cost(61), Reason::Shed),
        (PREMIUM.cost(86), Reason::Shed),
        (PREMIUM.cost(101), Reason::RateLimited),
    ] {
        assert_eq!(bucket.try_acquire_for(call).unwrap_err(), Rejected::new("api", reason), "{call:?}");
    }
}

/// How many of each class are admitted in ten seconds, after two to use up the bursts, when they ask so often a second.
fn admitted(bucket: &PriorityBucket, clock: &Clock, asks: [u64; 3]) -> [u64; 3] {
    let mut admitted = [0; 3];
    for step in 0..12_000u64 {
        // The last first: the order in which they come gives nobody an advantage.
        for (class, call) in [(2, BASIC), (1, STANDARD), (0, PREMIUM)] {
            let due = (step + 1) * asks[class] / 1_000 - step * asks[class] / 1_000;
            let got = (0..due).filter(|_| bucket.try_acquire_for(call).is_ok()).count() as u64;
            admitted[class] += if step < 2_000 { 0 } else { got };
        }
        clock.advance(millis(1));
    }
    admitted
}

/// (asks a second, at least admitted in ten seconds, at most), of premium (50 %), standard (30 %) and basic (none) at 100
/// a second.
#[test]
fn each_class_gets_its_share_and_a_higher_one_what_is_left() {
    for (asks, least, most) in [
        // All ask too much: the 20 % that are nobody's are premium's.
        ([500, 500, 500], [695, 295, 0], [705, 305, 5]),
        // Premium asks for its share only: the rest is standard's.
        ([50, 500, 500], [500, 495, 0], [500, 505, 5]),
        // Premium asks for less: what it leaves is standard's too.
        ([20, 500, 500], [200, 795, 0], [200, 805, 5]),
        // Both are content: the rest is basic's.
        ([20, 30, 500], [200, 300, 495], [200, 300, 505]),
        // Whoever is alone has the whole.
        ([500, 0, 0], [995, 0, 0], [1_005, 0, 0]),
        ([0, 500, 0], [0, 995, 0], [0, 1_005, 0]),
        ([0, 0, 500], [0, 0, 995], [0, 0, 1_005]),
        // A flood from below costs those above nothing.
        ([50, 30, 5_000], [500, 300, 195], [500, 300, 205]),
        // A flood from above costs those below their share of nothing only.
        ([5_000, 30, 5], [695, 300, 0], [705, 300, 5]),
    ] {
        let clock = Clock::manual();
        let bucket = api(&clock);
        let got = admitted(&bucket, &clock, asks);
        for class in 0..3 {
            assert!((least[class]..=most[class]).contains(&got[class]), "{asks:?}: {got:?}");
        }
        assert!(got.iter().sum::<u64>() <= 1_000 + 5, "{asks:?}: {got:?}");
    }
}

/// With all of the rate reserved, a class without a share lives on what the others leave.
#[test]
fn shares_that_sum_to_the_whole_starve_nobody_while_they_are_not_used() {
    let clock = Clock::manual();
    let bucket = PriorityBucket::per_second(100).class(200, 0.6).class(100, 0.4).clock(clock.clone());
    assert_eq!(admitted(&bucket, &clock, [0, 0, 500])[2], 1_000);
    let got = admitted(&bucket, &clock, [500, 500, 500]);
    assert!(got[0].abs_diff(600) <= 5 && got[1].abs_diff(400) <= 5 && got[2] == 0, "{got:?}");
}

#[test]
fn a_reserve_holds_at_least_a_token() {
    let clock = Clock::manual();
    let bucket = PriorityBucket::per(1, secs(10)).burst(2).class(200, 0.1).clock(clock.clone());
    assert_eq!(spend(&bucket, BASIC), 1);
    assert_eq!(bucket.try_acquire_for(BASIC).unwrap_err().reason(), Reason::Shed);
    assert_eq!(spend(&bucket, PREMIUM), 1);
    // A token of the whole takes ten seconds, nine tenths of it are common.
    clock.advance(secs(10));
    assert_eq!((bucket.available(200), bucket.available(0)), (1, 0));
}

#[test]
fn an_estimate_is_settled_both_ways() {
    let clock = Clock::manual();
    let bucket = api(&clock);
    let mut permit = bucket.try_acquire_for(PREMIUM.cost(40)).unwrap();
    assert_eq!(left(&bucket), [45, 45, 15]);
    permit.settle(0);
    permit.success();
    assert_eq!(left(&bucket), [85, 60, 30]);
    let mut permit = bucket.try_acquire_for(PREMIUM.cost(40)).unwrap();
    permit.settle(140);
    permit.settle(150);
    permit.success();
    assert_eq!(left(&bucket), [0, 0, 0]);
    // A debt of 50, which is paid before anyone is admitted, also who takes nothing.
    let rejected = bucket.try_acquire_for(BASIC.cost(0)).unwrap_err();
    assert_eq!(rejected, Rejected::new("api", Reason::RateLimited).after(millis(500)));
    assert_eq!(bucket.residual(), Some(Residual::Until(clock.now() + millis(1_500))));
    clock.advance(millis(500));
    assert!(bucket.try_acquire_for(BASIC.cost(0)).is_ok());
    clock.advance(secs(1));
    assert_eq!((left(&bucket), bucket.residual()), ([85, 60, 30], None));
}

/// Trap R12. (how, left for each class of a burst of 100 after premium took 40, at twice the rate in half the time with half
/// the burst), from 45, 45 and 15; and what flows in afterwards.
#[test]
fn a_changed_rate_neither_mints_nor_destroys_tokens() {
    for (carry, left_then, left_later) in [
        (Carry::AsIs, [42, 42, 28], [42, 34, 20]),
        (Carry::Scaled, [22, 22, 8], [38, 30, 16]),
        (Carry::Full, [42, 30, 15], [42, 30, 15]),
    ] {
        let clock = Clock::manual();
        let bucket = api(&clock);
        clock.advance(secs(7));
        assert!(bucket.try_acquire_for(PREMIUM.cost(40)).is_ok());
        bucket.set_rate(200, millis(500), 50, carry).unwrap();
        assert_eq!(left(&bucket), left_then, "{carry:?}");
        clock.advance(millis(40));
        assert_eq!(left(&bucket), left_later, "{carry:?}");
        clock.advance(secs(1));
        assert_eq!(left(&bucket), [42, 30, 15], "{carry:?}");
        assert_eq!(spend(&bucket, PREMIUM), 42);
        assert_eq!(spend(&bucket, STANDARD), 7);
    }
}

#[test]
fn a_debt_outlasts_a_change_of_the_rate() {
    for (period, burst) in [(secs(1), 100), (secs(3), 7), (millis(10), 1_000)] {
        let clock = Clock::manual();
        let bucket = api(&clock);
        bucket.try_acquire_for(PREMIUM.cost(100 - 15)).unwrap().settle(150);
        for carry in [Carry::AsIs, Carry::Scaled] {
            bucket.set_rate(50, period, burst, carry).unwrap();
            let told = bucket.try_acquire_for(PREMIUM.cost(0)).unwrap_err().retry_after().unwrap();
            // A nanosecond of rounding each time.
            assert!(told >= period && told <= period + nanos(3), "{told:?}");
        }
        bucket.set_rate(50, period, burst, Carry::Full).unwrap();
        assert!(bucket.try_acquire_for(PREMIUM).is_ok());
    }
}

#[test]
fn a_rate_that_makes_no_sense_changes_nothing() {
    let bucket = api(&Clock::manual());
    for (tokens, period, burst, message) in [
        (0, secs(1), 100, "tokens: 0 must be at least 1"),
        (1, Duration::ZERO, 100, "period: 0 must be at least 1 ns"),
        (1, secs(1), 0, "burst: 0 must be at least 1"),
        (1, secs(1), 2, "burst: 2 must hold more than the reserves"),
        (1, secs(1), (1 << 40) + 1, "burst: 1099511627777 must be at most 1099511627776 (2^40)"),
    ] {
        let error = bucket.set_rate(tokens, period, burst, Carry::Full).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(left(&bucket), [85, 60, 30]);
    }
    let longest = Duration::from_nanos(1 << 63);
    for carry in [Carry::AsIs, Carry::Scaled, Carry::Full] {
        bucket.set_rate(1 << 40, longest, 1 << 40, carry).unwrap();
        bucket.set_rate(1_000, nanos(1), 3, carry).unwrap();
        assert!(left(&bucket)[0] <= 3);
    }
}

/// (tokens premium took, left for standard, milliseconds until there is one more): while premium's reserve fills, half of
/// what flows is open to standard, and it leaves 14.75.
#[test]
fn a_quota_says_what_is_left_for_a_class() {
    let clock = Clock::manual();
    let bucket = api(&clock);
    let quota = bucket.quota(100);
    assert_eq!((quota.name, quota.limit, quota.window), ("api", 60, millis(600)));
    assert_eq!((quota.remaining, quota.more_after), (60, Duration::ZERO));
    for (taken, left, more) in [(25, 60, 0), (10, 50, 15), (15, 35, 15), (20, 15, 15)] {
        assert!(bucket.try_acquire_for(PREMIUM.cost(taken)).is_ok());
        let quota = bucket.quota(100);
        assert_eq!((quota.remaining, quota.more_after), (left, millis(more)), "{taken}");
    }
}

#[test]
fn a_call_whose_time_is_over_takes_nothing() {
    let clock = Clock::manual();
    let bucket = api(&clock);
    let rejected = bucket.try_acquire_for(PREMIUM.deadline(clock.now())).unwrap_err();
    assert_eq!(rejected.reason(), Reason::DeadlineExceeded);
    assert_eq!(left(&bucket), [85, 60, 30]);
}

#[test]
fn it_is_a_policy_and_tells_its_events() {
    let events: &Mutex<Vec<Event>> = Box::leak(Box::default());
    let bucket = PriorityBucket::per_second(1)
        .clock(Clock::manual())
        .observe("api", |_: &str, event| events.lock().unwrap().push(event));
    assert_eq!(block_on(bucket.call_with(PREMIUM, |_| async { Ok::<_, ()>(1) })), Ok(1));
    let rejected = Rejected::new("api", Reason::RateLimited).after(secs(1));
    assert_eq!(bucket.call_blocking(|| Ok::<_, ()>(1)), Err(Error::Rejected(rejected)));
    let expected = [Event::Admitted, Event::Finished(Outcome::Success), Event::Rejected(rejected)];
    assert_eq!(*events.lock().unwrap(), expected);
}

/// Two threads of each class, until there is nothing left for theirs.
#[test]
fn threads_that_race_for_the_last_tokens_get_what_they_were_promised_and_no_more() {
    for _ in 0..200 {
        let bucket = api(&Clock::manual());
        let counts: Vec<u64> = std::thread::scope(|scope| {
            let workers = [PREMIUM, BASIC, STANDARD, PREMIUM, BASIC, STANDARD].map(|call| {
                scope.spawn({
                    let bucket = &bucket;
                    move || spend(bucket, call)
                })
            });
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        let [premium, basic, standard] = [0, 1, 2].map(|class| counts[class] + counts[class + 3]);
        assert_eq!(premium + basic + standard, 100, "{counts:?}");
        assert!(premium >= 25 && standard >= 15 && basic <= 30, "{counts:?}");
    }
}

/// Trap R1.
#[test]
fn threads_under_a_real_clock_never_exceed_the_whole() {
    let bucket = PriorityBucket::per_second(200_000).burst(100).class(200, 0.5);
    let start = Instant::now();
    let admitted: u64 = std::thread::scope(|scope| {
        let workers = [BASIC, PREMIUM].map(|call| {
            let bucket = &bucket;
            scope.spawn(move || {
                let mut admitted = 0;
                while start.elapsed() < millis(100) {
                    admitted += u64::from(bucket.try_acquire_for(call).is_ok());
                }
                admitted
            })
        });
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert!(admitted >= 100);
    let whole = 100.0 + 200_000.0 * start.elapsed().as_secs_f64() + 1.0;
    assert!(admitted as f64 <= whole, "{admitted} of {whole}");
}

/// Levels instead of deficits, in exact arithmetic: amounts are tokens times nanoseconds times millionths.
struct Twin {
    rate: i128,
    token: i128,
    burst: i128,
    level: i128,
    /// (share in millionths, room, level).
    reserves: Vec<(i128, i128, i128)>,
    /// What a bucket of the class's share alone would have left if it had admitted all of the class; may be in debt.
    private: Vec<i128>,
}

impl Twin {
    fn new(rate: u64, period: u64, burst: u64, percents: &[u64]) -> Self {
        let token = i128::from(period) * 1_000_000;
        let burst = i128::from(burst) * token;
        let mut reserves: Vec<_> = percents
            .iter()
            .map(|percent| {
                let room = burst * i128::from(*percent) / 100 / 2;
                let room = if *percent == 0 { 0 } else { room.max(token) };
                (i128::from(*percent) * 10_000, room, room)
            })
            .collect();
        reserves.push((0, 0, 0));
        let private = reserves.iter().map(|reserve| reserve.1).collect();
        Self { rate: rate.into(), token, burst, level: burst, reserves, private }
    }

    fn advance(&mut self, nanos: u128) {
        let flow = nanos as i128 * self.rate;
        self.level = (self.level + flow * 1_000_000).min(self.burst);
        for ((share, room, level), private) in self.reserves.iter_mut().zip(&mut self.private) {
            *level = (*level + flow * *share).min(*room);
            *private = (*private + flow * *share).min(*room);
        }
    }

    /// Goes over to another rate and burst in the same period, if the reserves fit.
    fn change(&mut self, rate: u64, period: u64, burst: u64, percents: &[u64], carry: Carry) -> bool {
        let mut new = Self::new(rate, period, burst, percents);
        let rooms: i128 = new.reserves.iter().map(|reserve| reserve.1).sum();
        if !percents.is_empty() && rooms + new.token > new.burst {
            return false;
        }
        let carried = |level: i128, most: i128| match carry {
            Carry::AsIs => level.min(most),
            Carry::Scaled if level > 0 => (level * new.burst / self.burst).min(most),
            Carry::Scaled => level,
            Carry::Full => most,
        };
        new.level = carried(self.level, new.burst);
        for (class, (_, room, level)) in new.reserves.iter_mut().enumerate() {
            *level = carried(self.reserves[class].2, *room);
            new.private[class] = carried(self.private[class], *room);
        }
        *self = new;
        true
    }

    fn decide(&self, class: usize, cost: u32) -> Result<(), Reason> {
        let cost = i128::from(cost) * self.token;
        if cost > self.level {
            return Err(Reason::RateLimited);
        }
        let from_common = (cost - self.reserves[class].2).max(0);
        let reserved: i128 = self.reserves.iter().map(|reserve| reserve.2).sum();
        let rooms: i128 = self.reserves.iter().map(|reserve| reserve.1).sum();
        let classes = self.reserves.len() as i128;
        let spare = self.burst - rooms - self.token;
        let leaves = if classes > 1 { spare / 2 / (classes - 1) * class as i128 } else { 0 };
        if from_common == 0 || self.level - reserved - from_common >= leaves {
            Ok(())
        } else {
            Err(Reason::Shed)
        }
    }

    fn charge(&mut self, class: usize, cost: u32) {
        let cost = i128::from(cost) * self.token;
        self.level -= cost;
        let reserve = &mut self.reserves[class].2;
        *reserve = (*reserve - cost).max(0);
        self.private[class] -= cost;
    }
}

fn shares() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0u64..60, 0..5).prop_map(|mut percents| {
        let mut left = 100;
        for percent in &mut percents {
            *percent = (*percent).min(left);
            left -= *percent;
        }
        percents
    })
}

fn change() -> impl Strategy<Value = (u64, u64, Carry)> {
    let carry = prop_oneof![Just(Carry::AsIs), Just(Carry::Scaled), Just(Carry::Full)];
    (1u64..2_000, 6u64..60, carry)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_shared_bucket_does_what_its_twin_does_and_keeps_its_promises(
        rate in 1u64..2_000,
        period in prop_oneof![Just(1_000_000_000), 2_000u64..5_000_000],
        burst in 6u64..60,
        percents in shares(),
        steps in prop::collection::vec(
            (0u64..3_000_000, 0usize..6, 0u32..8, any::<bool>(), prop::option::weighted(0.05, change())), 1..200,
        ),
    ) {
        let clock = Clock::manual();
        let mut bucket = PriorityBucket::per(rate, nanos(period)).burst(burst);
        for (class, percent) in percents.iter().enumerate() {
            bucket = bucket.class(200 - class as u8, *percent as f64 / 100.0);
        }
        let bucket = bucket.clock(clock.clone());
        let mut twin = Twin::new(rate, period, burst, &percents);
        for (wait, class, cost, obeys, change) in steps {
            clock.advance(nanos(wait));
            twin.advance(wait.into());
            if let Some((rate, burst, carry)) = change {
                let changed = bucket.set_rate(rate, nanos(period), burst, carry).is_ok();
                prop_assert_eq!(changed, twin.change(rate, period, burst, &percents, carry));
            }
            let class = class.min(percents.len());
            let call = Call::new().priority(if class == percents.len() { 0 } else { 200 - class as u8 }).cost(cost);
            let fits_its_share = twin.private[class] >= i128::from(cost) * twin.token;
            match (bucket.try_acquire_for(call).map(drop), twin.decide(class, cost)) {
                (Ok(()), Ok(())) => twin.charge(class, cost),
                (Err(rejected), Err(reason)) => {
                    prop_assert_eq!(rejected.reason(), reason);
                    prop_assert!(!fits_its_share, "a class within its share was refused");
                    let Some(wait) = rejected.retry_after().filter(|_| obeys) else { continue };
                    clock.advance(wait - nanos(1));
                    twin.advance(wait.as_nanos() - 1);
                    prop_assert!(bucket.try_acquire_for(call).is_err(), "it was told to wait too long");
                    clock.advance(nanos(1));
                    twin.advance(1);
                    prop_assert!(bucket.try_acquire_for(call).is_ok(), "who obeys is admitted");
                    prop_assert_eq!(twin.decide(class, cost), Ok(()));
                    twin.charge(class, cost);
                }
                (ours, twins) => prop_assert!(false, "{:?}, but the twin {:?}", ours, twins),
            }
            prop_assert!(twin.level >= 0, "more than the whole was admitted");
            let reserved: i128 = twin.reserves.iter().map(|reserve| reserve.2).sum();
            prop_assert!(reserved <= twin.level, "more is reserved than is there");
            if let Some(Residual::Until(at)) = bucket.residual() {
                prop_assert!(at > clock.now());
            }
            let quota = bucket.quota(call.priority);
            prop_assert!(quota.remaining <= quota.limit);
            prop_assert_eq!(twin.decide(class, quota.remaining as u32), Ok(()));
            if quota.remaining < quota.limit {
                prop_assert!(twin.decide(class, quota.remaining as u32 + 1).is_err());
                clock.advance(quota.more_after - nanos(1));
                prop_assert_eq!(bucket.available(call.priority), quota.remaining);
                clock.advance(nanos(1));
                twin.advance(quota.more_after.as_nanos());
                prop_assert!(bucket.available(call.priority) > quota.remaining);
            }
        }
    }
}

mod absurd_settings {
    use super::*;

    fn bucket() -> PriorityBucket {
        PriorityBucket::per_second(100)
    }

    /// What it panics with.
    fn says(build: impl FnOnce() -> PriorityBucket + std::panic::UnwindSafe) -> String {
        let panic = std::panic::catch_unwind(build).expect_err("it is accepted");
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap()
    }

    /// Trap R13.
    #[test]
    fn each_is_named_with_its_value() {
        for (message, panic) in [
            ("tokens: 0 must be at least 1", says(|| PriorityBucket::per_second(0))),
            ("period: 0 must be at least 1 ns", says(|| PriorityBucket::per(1, Duration::ZERO))),
            ("burst: 0 must be at least 1", says(|| bucket().burst(0))),
            (
                "burst: 1099511627777 must be at most 1099511627776 (2^40)",
                says(|| bucket().burst((1 << 40) + 1)),
            ),
            ("burst: 50 must be set before the classes", says(|| bucket().class(200, 0.5).burst(50))),
            ("burst: 1 must hold more than the reserves", says(|| bucket().burst(1).class(200, 0.5))),
            (
                "burst: 2 must hold more than the reserves",
                says(|| bucket().burst(2).class(200, 0.5).class(100, 0.1)),
            ),
            ("share: NaN must be between 0 and 1", says(|| bucket().class(200, f64::NAN))),
            ("share: a negative number must be between 0 and 1", says(|| bucket().class(200, -0.1))),
            ("share: 1100000 millionths must be at most 1000000", says(|| bucket().class(200, 1.1))),
            (
                "share: 1100000 millionths in all must be at most 1000000",
                says(|| bucket().class(200, 0.6).class(100, 0.5)),
            ),
            (
                "priority: 200 must be below that of the class before",
                says(|| bucket().class(200, 0.5).class(200, 0.5)),
            ),
            (
                "priority: 8 must be that of one of at most 8 classes",
                says(|| (8..17).rev().fold(bucket(), |bucket, priority| bucket.class(priority, 0.0))),
            ),
        ] {
            assert_eq!(panic, message);
        }
    }

    /// Trap R3.
    #[test]
    fn extreme_ones_that_make_sense_are_obeyed() {
        let clock = Clock::manual();
        let longest = Duration::from_nanos(1 << 63);
        let bucket = PriorityBucket::per(1, longest).burst(1 << 40).class(255, 1.0).clock(clock.clone());
        for _ in 0..10_000 {
            let mut permit = bucket.try_acquire_for(PREMIUM.cost(1)).unwrap();
            permit.settle(0);
        }
        let mut permit = bucket.try_acquire_for(PREMIUM.cost(1)).unwrap();
        permit.settle(u32::MAX);
        assert!(bucket.try_acquire_for(PREMIUM.cost(u32::MAX)).is_ok());
        assert!(bucket.residual().is_some());
        let fastest = PriorityBucket::per_second(1_000_000_000_000).class(200, 0.5).clock(clock.clone());
        assert!(fastest.try_acquire_for(PREMIUM.cost(u32::MAX)).is_ok());
        clock.advance(secs(500 * 365 * 86_400));
        assert!(fastest.try_acquire_for(PREMIUM.cost(u32::MAX)).is_ok());
    }

    /// Trap R3. A debt without bounds must neither wrap nor panic.
    #[test]
    fn a_debt_saturates() {
        let clock = Clock::manual();
        let longest = Duration::from_nanos(1 << 63);
        let bucket = PriorityBucket::per(1, longest).burst(1 << 40).class(255, 0.5).clock(clock.clone());
        let permits: Vec<_> = (0..100_000).map(|_| bucket.try_acquire_for(PREMIUM).unwrap()).collect();
        permits.into_iter().for_each(|mut permit| permit.settle(u32::MAX));
        let rejected = bucket.try_acquire_for(PREMIUM).unwrap_err();
        assert_eq!(rejected, Rejected::new("", Reason::RateLimited));
        clock.advance(secs(500 * 365 * 86_400));
        assert!(bucket.try_acquire_for(PREMIUM.cost(0)).is_err());
        assert_eq!((bucket.available(255), bucket.available(0)), (0, 0));
        assert!(bucket.residual().is_some());
    }
}

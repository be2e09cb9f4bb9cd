//! Adaptive concurrency: against a server that changes, and by hand.
#![cfg(not(floodwall_loom))]

mod support;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use floodwall::{
    Acquire, AdaptiveConcurrency, Blocking, Bulkhead, Call, Clock, Error, Gate, Outcome, Permit, Policy,
    Reason, Rejected, Residual, Timeout, block_on,
};
use proptest::prelude::*;
use support::{millis, nanos, poll, secs, settable};

/// What the server is like for a while.
#[derive(Clone, Copy)]
struct Phase {
    name: &'static str,
    workers: u32,
    /// How long it serves a call on average; half of that is the least, the rest is distributed exponentially.
    service: Duration,
}

impl Phase {
    /// In calls per second.
    fn capacity(&self) -> f64 {
        f64::from(self.workers) / self.service.as_secs_f64()
    }
}

const PHASES: [Phase; 6] = [
    Phase { name: "steady", workers: 20, service: millis(50) },
    Phase { name: "twice as fast", workers: 20, service: millis(25) },
    Phase { name: "steady again", workers: 20, service: millis(50) },
    Phase { name: "three times slower", workers: 20, service: millis(150) },
    Phase { name: "half of the workers", workers: 10, service: millis(50) },
    Phase { name: "recovered", workers: 20, service: millis(50) },
];

/// How long each phase lasts.
const PHASE: Duration = secs(40);
/// After which a caller gives up, and its answer is worth nothing. The server does not hear of it.
const PATIENCE: Duration = millis(500);
/// Callers come evenly at random, so many times as often as the server could serve them.
const OVERLOAD: f64 = 1.5;

struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -(1.0 - self.unit()).ln() * mean
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    Phase(usize),
    Arrival,
    Served(usize),
    GivesUp(usize),
}

/// How finely good answers are counted.
const SLICE: Duration = millis(500);

/// Runs the phases one after the other behind `gate`, and returns the good answers in each slice of time.
fn run(gate: &dyn Gate, clock: &Clock, phases: &[Phase], patience: Duration, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    let (mut agenda, mut order) = (BinaryHeap::new(), 0u64);
    let mut plan = |agenda: &mut BinaryHeap<_>, at: u64, what| {
        order += 1;
        agenda.push(Reverse((at, order, what)));
    };
    for (number, _) in phases.iter().enumerate() {
        plan(&mut agenda, number as u64 * PHASE.as_nanos() as u64, Happens::Phase(number));
    }
    plan(&mut agenda, 0, Happens::Arrival);
    let end = phases.len() as u64 * PHASE.as_nanos() as u64;
    let mut good = vec![0u32; (end / SLICE.as_nanos() as u64) as usize];
    let start = clock.now();
    let (mut now, mut phase, mut busy) = (0u64, phases[0], 0u32);
    let mut queue = VecDeque::new();
    let mut calls: Vec<Option<Permit<'_>>> = Vec::new();
    while let Some(Reverse((at, _, what))) = agenda.pop().filter(|Reverse((at, ..))| *at < end) {
        clock.advance(nanos(at - now));
        now = at;
        match what {
            Happens::Phase(number) => phase = phases[number],
            Happens::Arrival => {
                let wait = random.exponential(1e9 / (phase.capacity() * OVERLOAD));
                plan(&mut agenda, at + wait as u64, Happens::Arrival);
                let call = Call::new().deadline(start + nanos(at) + patience);
                if let Ok(permit) = gate.try_acquire_for(call) {
                    queue.push_back(calls.len());
                    plan(&mut agenda, at + patience.as_nanos() as u64, Happens::GivesUp(calls.len()));
                    calls.push(Some(permit));
                }
            }
            Happens::Served(call) => {
                busy -= 1;
                if let Some(permit) = calls[call].take() {
                    permit.success();
                    good[(at / SLICE.as_nanos() as u64) as usize] += 1;
                }
            }
            Happens::GivesUp(call) => drop(calls[call].take()),
        }
        while busy < phase.workers {
            let Some(call) = queue.pop_front() else { break };
            busy += 1;
            let half = phase.service.as_nanos() as f64 / 2.0;
            let time = half + random.exponential(half);
            plan(&mut agenda, at + time as u64, Happens::Served(call));
        }
    }
    good
}

fn per_second(good: &[u32]) -> f64 {
    good.iter().map(|count| f64::from(*count)).sum::<f64>() / (good.len() as f64 * SLICE.as_secs_f64())
}

fn slices(time: Duration) -> usize {
    (time.as_nanos() / SLICE.as_nanos()) as usize
}

/// The best fixed limit for each phase, and the good answers per second behind it.
fn best_fixed() -> &'static [(u32, f64)] {
    static BEST: OnceLock<Vec<(u32, f64)>> = OnceLock::new();
    BEST.get_or_init(|| PHASES.map(|phase| best_fixed_for(phase, PATIENCE)).into())
}

fn best_fixed_for(phase: Phase, patience: Duration) -> (u32, f64) {
    let results = [50, 75, 100, 110, 125, 150, 200, 300, 400].map(|percent| {
        let limit = phase.workers * percent / 100;
        let clock = Clock::manual();
        let bulkhead = Bulkhead::new(limit as usize);
        let good = run(&bulkhead, &clock, &[phase], patience, 7);
        (limit, per_second(&good[slices(secs(5))..]))
    });
    results.into_iter().fold((0, 0.0), |best, other| if other.1 > best.1 { other } else { best })
}

/// What is promised of good answers, as a share of those behind the best fixed limit.
const PROMISE: f64 = 0.9;

/// Returns from when on the promise is kept: for the two seconds from then, and from then to the end of the phase.
fn recovered(good: &[u32], promised: f64) -> Option<Duration> {
    let two = slices(secs(2));
    let kept = |from: &usize| {
        per_second(&good[*from..from + two]) >= promised && per_second(&good[*from..]) >= promised
    };
    (0..=good.len() - two).find(kept).map(|from| SLICE * from as u32)
}

/// Runs an algorithm through all phases, from three seeds, and prints the worst of them for each phase.
///
/// After each change it must keep the promise within the bound for that phase, and from there to the end of the phase.
fn keeps_its_promise(name: &str, bounds: [Duration; PHASES.len()], limit: impl Fn() -> AdaptiveConcurrency) {
    let runs = [1, 2, 3].map(|seed| {
        let clock = Clock::manual();
        run(&limit().clock(clock.clone()), &clock, &PHASES, PATIENCE, seed)
    });
    let mut table = format!(
        "{name}\n  {:20} {:>10} {:>8} {:>6} {:>10} {:>7}\n",
        "phase", "best fixed", "good/s", "share", "recovered", "bound"
    );
    let mut broken = Vec::new();
    for (number, (phase, bound)) in PHASES.into_iter().zip(bounds).enumerate() {
        let (best_limit, best) = best_fixed()[number];
        let each = runs.each_ref().map(|good| &good[number * slices(PHASE)..][..slices(PHASE)]);
        let recovered = each.map(|good| recovered(good, PROMISE * best).unwrap_or(PHASE));
        let recovered = recovered.into_iter().max().unwrap_or(PHASE);
        let rates = each.map(|good| per_second(&good[slices(bound)..]));
        let rate = rates.into_iter().fold(f64::MAX, f64::min);
        let share = rate / best;
        table += &format!(
            "  {:20} {best_limit:>10} {rate:>8.1} {share:>6.3} {:>8.1} s {:>5.1} s\n",
            phase.name,
            recovered.as_secs_f64(),
            bound.as_secs_f64(),
        );
        if recovered > bound || share < PROMISE {
            broken.push(phase.name);
        }
    }
    println!("{table}");
    assert!(broken.is_empty(), "not kept when {broken:?}:\n{table}");
}

#[test]
fn the_gradient_keeps_up_with_a_server_that_changes() {
    keeps_its_promise("gradient", [secs(1); 6], || AdaptiveConcurrency::between(1, 1_000).gradient());
}

#[test]
fn vegas_keeps_up_with_a_server_that_changes() {
    keeps_its_promise("vegas", [secs(3); 6], || AdaptiveConcurrency::between(1, 1_000).vegas());
}

/// It knows of no congestion until callers give up, and what they gave up stands in the server's queue.
#[test]
fn aimd_keeps_up_with_a_server_that_changes() {
    let bounds = [0, 0, 2, 8, 1, 0].map(secs);
    keeps_its_promise("aimd", bounds, || AdaptiveConcurrency::between(1, 1_000).aimd(1, 0.8));
}

#[test]
fn aimd_that_is_told_what_is_slow_keeps_up_with_a_server_that_changes() {
    let bounds = [0, 0, 1, 3, 1, 0].map(secs);
    keeps_its_promise("aimd, slow after 250 ms", bounds, || {
        AdaptiveConcurrency::between(1, 1_000).aimd(1, 0.8).slow_after(millis(250))
    });
}

/// With callers of 250 ms a tenth of the calls is too late behind any limit, once the server takes 150 ms on average. If
/// each of them lowered it, the limit would fall to where the server has little to do.
#[test]
fn stragglers_that_no_limit_can_help_do_not_pull_it_down() {
    let (patience, slower) = (millis(250), PHASES[3]);
    let (best_limit, best) = best_fixed_for(slower, patience);
    println!("callers of 250 ms, {}, best fixed {best_limit}: {best:.1} good/s", slower.name);
    for (name, choose) in [
        ("gradient", AdaptiveConcurrency::gradient as fn(AdaptiveConcurrency) -> AdaptiveConcurrency),
        ("vegas", AdaptiveConcurrency::vegas),
        ("aimd", |limit| limit.aimd(1, 0.8)),
    ] {
        for seed in [1, 2, 3] {
            let clock = Clock::manual();
            let limit = choose(AdaptiveConcurrency::between(1, 1_000).clock(clock.clone()));
            let good = run(&limit, &clock, &[PHASES[2], slower], patience, seed);
            let share = per_second(&good[slices(PHASE + secs(8))..]) / best;
            println!("  {name:10} {share:.3}");
            assert!(share >= PROMISE, "{name}: {share}");
        }
    }
}

/// Behind 4 workers each step of the limit is a large share of it, and with callers who bear three times what a call takes, a
/// few calls too many in flight make all of them too late. There the promise is **not** kept; here is what is.
#[test]
fn a_small_server_with_impatient_callers_gets_less_than_what_is_promised() {
    type Choose = fn(AdaptiveConcurrency) -> AdaptiveConcurrency;
    let small = [PHASES[2], PHASES[3]].map(|phase| Phase { workers: 4, ..phase });
    let rows: [(&str, Choose, [f64; 2]); 4] = [
        ("gradient", AdaptiveConcurrency::gradient, [0.88, PROMISE]),
        ("vegas", AdaptiveConcurrency::vegas, [0.82, PROMISE]),
        ("aimd", |limit| limit.aimd(1, 0.8), [0.84, 0.84]),
        ("aimd, slow after 250 ms", |limit| limit.aimd(1, 0.8).slow_after(millis(250)), [0.86, 0.86]),
    ];
    for (at, patience) in [PATIENCE, secs(1)].into_iter().enumerate() {
        let (best_limit, best) = best_fixed_for(small[1], patience);
        println!(
            "4 workers, {}, callers of {patience:?}, best fixed {best_limit}: {best:.1} good/s",
            small[1].name
        );
        for (name, choose, stated) in &rows {
            let shares = [1, 2, 3, 4, 5, 6].map(|seed| {
                let clock = Clock::manual();
                let limit = choose(AdaptiveConcurrency::between(1, 1_000).clock(clock.clone()));
                let good = run(&limit, &clock, &small, patience, seed);
                per_second(&good[slices(PHASE + secs(8))..]) / best
            });
            let share = shares.iter().sum::<f64>() / 6.0;
            println!("  {name:24} {share:.3}");
            assert!(share >= stated[at], "{name}, callers of {patience:?}: {share}");
        }
    }
}

const THROTTLED: Outcome = Outcome::Throttled { retry_after: None };

/// As many calls at once as `running`, which all take `time` and succeed.
fn calls(limit: &AdaptiveConcurrency, clock: &Clock, running: usize, time: Duration) {
    let permits: Vec<_> = (0..running).map(|_| limit.try_acquire().unwrap()).collect();
    clock.advance(time);
    permits.into_iter().for_each(|permit| permit.success());
}

fn limit(start: usize) -> (AdaptiveConcurrency, Clock) {
    let clock = Clock::manual();
    (AdaptiveConcurrency::between(2, 1_000).start(start).clock(clock.clone()), clock)
}

#[test]
fn it_admits_as_many_as_its_limit_and_learns_that_more_can_run() {
    let (limit, clock) = limit(20);
    let held: Vec<_> = (0..20).map(|_| limit.try_acquire().unwrap()).collect();
    assert_eq!((limit.limit(), limit.running()), (20, 20));
    let full = limit.try_acquire().unwrap_err();
    assert_eq!(full, Rejected::new("", Reason::BulkheadFull));
    drop(held);
    assert_eq!((limit.limit(), limit.running(), limit.baseline()), (20, 0, None));
    for _ in 0..4 {
        calls(&limit, &clock, limit.limit(), millis(10));
    }
    assert!(limit.limit() > 20, "{}", limit.limit());
    assert_eq!(limit.baseline(), Some(millis(10)));
}

#[test]
fn a_limit_that_is_not_used_does_not_rise() {
    let by = [
        AdaptiveConcurrency::aimd as fn(AdaptiveConcurrency, f64, f64) -> AdaptiveConcurrency,
        |limit, _, _| limit.vegas(),
        |limit, _, _| limit.gradient(),
    ];
    for choose in by {
        let (unused, clock) = limit(30);
        let unused = choose(unused, 1.0, 0.9);
        for _ in 0..500 {
            calls(&unused, &clock, 14, millis(10));
            assert!(unused.limit() <= 30, "rose to {}", unused.limit());
        }
        let (used, clock) = limit(30);
        let used = choose(used, 1.0, 0.9);
        for _ in 0..10 {
            calls(&used, &clock, 15, millis(10));
        }
        assert!(used.limit() > 30 || used.limit() == 15, "{}", used.limit());
    }
}

#[test]
fn one_congestion_lowers_the_limit_once() {
    let (limit, clock) = limit(100);
    let limit = limit.aimd(1, 0.5);
    let [mut first, mut second] = [0, 1].map(|_| Vec::new());
    first.extend((0..30).map(|_| limit.try_acquire().unwrap()));
    clock.advance(millis(10));
    first.pop().unwrap().report(THROTTLED);
    assert_eq!(limit.limit(), 50);
    clock.advance(millis(10));
    second.extend((0..10).map(|_| limit.try_acquire().unwrap()));
    clock.advance(millis(10));
    first.into_iter().for_each(|permit| permit.report(THROTTLED));
    assert_eq!(limit.limit(), 50, "they met the old limit");
    second.into_iter().for_each(|permit| permit.report(THROTTLED));
    assert_eq!(limit.limit(), 25, "they met the new one, and its successor only once");
}

#[test]
fn calls_that_miss_their_deadline_together_lower_the_limit_once() {
    let (limit, clock) = limit(64);
    let limit = limit.aimd(1, 0.5);
    let call = || Call::new().deadline(clock.now() + millis(50));
    let slow: Vec<_> = (0..64).map(|_| limit.try_acquire_for(call()).unwrap()).collect();
    clock.advance(millis(50));
    drop(slow);
    assert_eq!(limit.limit(), 32);
    // Those that come after it are not judged by them.
    clock.advance(millis(1));
    for _ in 0..20 {
        let permit = limit.try_acquire_for(call()).unwrap();
        clock.advance(millis(1));
        permit.success();
    }
    assert_eq!(limit.limit(), 32);
}

/// Refusals come at once, answers after 100 ms: a burst of refusals is one congestion.
#[test]
fn refusals_that_come_faster_than_answers_do_not_send_the_limit_to_its_floor() {
    let (limit, clock) = limit(64);
    let limit = limit.aimd(1, 0.5);
    calls(&limit, &clock, 64, millis(100));
    assert_eq!(limit.limit(), 65);
    for _ in 0..99 {
        clock.advance(millis(1));
        limit.try_acquire().unwrap().report(THROTTLED);
    }
    assert_eq!(limit.limit(), 32);
    clock.advance(millis(2));
    limit.try_acquire().unwrap().report(THROTTLED);
    assert_eq!(limit.limit(), 16);
}

#[test]
fn calls_that_miss_their_deadline_are_a_congestion_and_a_few_are_stragglers() {
    let late = |misses: usize| {
        let (limit, clock) = limit(40);
        let limit = limit.aimd(1, 0.5);
        for number in 0..200 {
            let call = Call::new().deadline(clock.now() + millis(50));
            let permit = limit.try_acquire_for(call).unwrap();
            clock.advance(millis(if number % 20 < misses { 50 } else { 10 }));
            // A failure or a drop, it is the same.
            match number % 20 {
                miss if miss >= misses => permit.success(),
                miss if miss % 2 == 0 => permit.failure(),
                _ => drop(permit),
            }
        }
        limit.limit()
    };
    assert_eq!(late(0), 40);
    assert_eq!(late(2), 40);
    assert!(late(10) < 20);
}

#[test]
fn other_failures_and_dropped_permits_say_nothing() {
    let (limit, clock) = limit(20);
    for outcome in [Outcome::Failure, Outcome::Ignored, Outcome::Abandoned] {
        for _ in 0..100 {
            let call = Call::new().deadline(clock.now() + secs(1));
            let permit = limit.try_acquire_for(call).unwrap();
            clock.advance(millis(1));
            permit.report(outcome);
        }
    }
    assert_eq!((limit.limit(), limit.baseline(), limit.running()), (20, None, 0));
}

#[test]
fn a_call_is_too_slow_when_it_takes_longer_than_told_however_it_ends() {
    for outcome in [Outcome::Success, Outcome::Failure, Outcome::Abandoned, Outcome::Ignored] {
        let (limit, clock) = limit(40);
        let limit = limit.aimd(1, 0.5).slow_after(millis(100));
        let run = |time| {
            let permits: Vec<_> = (0..20).map(|_| limit.try_acquire().unwrap()).collect();
            clock.advance(time);
            permits.into_iter().for_each(|permit| permit.report(outcome));
        };
        run(millis(100));
        assert_eq!(limit.limit(), 40, "{outcome:?}");
        run(millis(101));
        assert_eq!(limit.limit(), if outcome == Outcome::Ignored { 40 } else { 20 }, "{outcome:?}");
    }
}

#[test]
fn it_stays_between_its_floor_and_its_ceiling_and_both_can_move() {
    let (limit, clock) = limit(4);
    let limit = limit.aimd(100, 0.1);
    limit.set_between(3, 6).unwrap();
    for _ in 0..5 {
        for _ in 0..4 {
            calls(&limit, &clock, limit.limit(), millis(1));
        }
        assert_eq!(limit.limit(), 6);
        let permit = limit.try_acquire().unwrap();
        clock.advance(millis(1));
        permit.report(THROTTLED);
        assert_eq!(limit.limit(), 3);
        clock.advance(millis(1));
    }
    limit.set_between(8, 9).unwrap();
    assert_eq!(limit.limit(), 8);
    limit.set_between(1, 2).unwrap();
    assert_eq!(limit.limit(), 2);
    for (floor, ceiling, message) in [
        (0, 1, "floor: 0 must be at least 1"),
        (3, 2, "ceiling: 2 must be at least the floor"),
        (1, usize::MAX, "ceiling: 18446744073709551615 must be at most 1125899906842624 (2^50)"),
    ] {
        assert_eq!(limit.set_between(floor, ceiling).unwrap_err().to_string(), message);
    }
    assert_eq!(limit.limit(), 2);
}

#[test]
fn a_higher_ceiling_serves_who_waits() {
    let limit = AdaptiveConcurrency::between(1, 1);
    let _held = limit.try_acquire().unwrap();
    let mut waiter = Box::pin(limit.acquire());
    assert!(poll(&mut waiter).is_pending());
    limit.set_between(2, 2).unwrap();
    assert!(poll(&mut waiter).is_ready());
}

/// From 10 ms a call to 30 ms, whatever runs: a baseline that stayed would shrink the limit without end.
#[test]
fn a_server_that_becomes_slower_gets_a_new_baseline_and_is_not_starved() {
    for vegas in [false, true] {
        let (limit, clock) = limit(20);
        let limit = if vegas { limit.vegas() } else { limit };
        for _ in 0..50 {
            calls(&limit, &clock, limit.limit().min(40), millis(10));
        }
        assert_eq!(limit.baseline(), Some(millis(10)));
        let before = limit.limit();
        for _ in 0..20 {
            calls(&limit, &clock, limit.limit().min(40), millis(30));
            assert!(limit.limit() >= before / 4, "{} of {before}", limit.limit());
        }
        assert_eq!(limit.baseline(), Some(millis(30)));
        assert!(limit.limit() * 10 >= before * 8, "{} of {before}", limit.limit());
    }
}

/// Ten workers of 10 ms: with 40 calls in flight each takes 40 ms, and that is not the baseline.
#[test]
fn a_limit_that_started_far_too_high_learns_what_the_server_takes_without_its_own_load() {
    for vegas in [false, true] {
        let (limit, clock) = limit(80);
        let limit = if vegas { limit.vegas() } else { limit };
        for _ in 0..400 {
            let running = limit.limit();
            calls(&limit, &clock, running, millis(10) * running.max(10) as u32 / 10);
        }
        let baseline = limit.baseline().unwrap();
        assert!(baseline <= millis(15), "{baseline:?}");
        assert!((5..=30).contains(&limit.limit()), "{}", limit.limit());
    }
}

#[test]
fn a_probe_halves_the_limit_for_one_round_and_calls_go_on() {
    let (limit, clock) = limit(100);
    limit.set_between(1, 100).unwrap();
    let (mut probes, mut rounds) = (0, 0);
    for _ in 0..600 {
        let running = limit.limit();
        assert!(running >= 50, "{running}");
        calls(&limit, &clock, running, millis(10));
        rounds += u32::from(running == 100);
        probes += u32::from(running == 50);
    }
    // One round in some twenty to forty, and the first one sooner.
    assert!((600 / 42..=600 / 20).contains(&probes), "{probes} probes, {rounds} rounds");
    assert_eq!(probes + rounds, 600);
}

#[test]
fn a_probe_ends_where_few_calls_succeed() {
    let (limit, clock) = limit(1_000);
    let mut halved = 0;
    for _ in 0..600 {
        halved = if limit.limit() == 500 { halved + 1 } else { 0 };
        assert!(halved <= 8, "the limit stays halved");
        let permits: Vec<_> = (0..limit.limit()).map(|_| limit.try_acquire().unwrap()).collect();
        clock.advance(millis(10));
        for (number, permit) in permits.into_iter().enumerate() {
            if number % 100 == 0 { permit.success() } else { permit.failure() }
        }
        limit.set_between(1_000, 1_000).unwrap_or(());
        limit.set_between(1, 1_000).unwrap_or(());
    }
}

#[test]
fn classes_are_shed_from_the_lowest_up_and_the_best_may_use_all() {
    let clock = Clock::manual();
    let limit = AdaptiveConcurrency::between(1, 100).start(10).class(200, 0.2).class(100, 0.1).clock(clock);
    let [best, middle, last] = [255, 199, 99].map(|priority| Call::new().priority(priority));
    let mut held = Vec::new();
    let mut fill = |call, until: usize, reason| {
        let refused = loop {
            match limit.try_acquire_for(call) {
                Ok(permit) => held.push(permit),
                Err(rejected) => break rejected,
            }
        };
        assert_eq!((limit.running(), refused.reason()), (until, reason));
    };
    fill(last, 7, Reason::Shed);
    fill(middle, 8, Reason::Shed);
    fill(best, 10, Reason::BulkheadFull);
    fill(last, 10, Reason::BulkheadFull);
}

#[test]
fn who_matters_more_stands_before_and_takes_the_last_ones_place_in_line() {
    let limit = AdaptiveConcurrency::between(1, 1).class(200, 0.2).max_waiting(2);
    let held = limit.try_acquire().unwrap();
    let low = || Box::pin(limit.acquire_for(Call::new().priority(0)));
    let high = || Box::pin(limit.acquire_for(Call::new().priority(200)));
    let (mut first, mut second, mut third) = (low(), low(), high());
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending() && poll(&mut third).is_pending());
    assert_eq!(limit.waiting(), 2);
    let Poll::Ready(Err(displaced)) = poll(&mut second) else { panic!("the line was full") };
    assert_eq!(displaced.reason(), Reason::BulkheadFull);
    let Poll::Ready(Err(_)) = poll(&mut low()) else { panic!("nobody stands below") };
    held.success();
    assert!(poll(&mut first).is_pending());
    let Poll::Ready(Ok(permit)) = poll(&mut third) else { panic!("it stands before") };
    permit.success();
    assert!(poll(&mut first).is_ready());
}

/// Four places for three classes: the best may use all, the next leaves one free, the last two.
struct Twin {
    running: usize,
    line: Vec<(usize, usize)>,
    decided: Vec<(usize, bool)>,
}

impl Twin {
    const PRIORITIES: [u8; 3] = [200, 100, 0];
    const MAX_WAITING: usize = 4;

    fn tries(&mut self, class: usize) -> bool {
        let admitted = self.running < 4 - class && self.line.iter().all(|waiter| waiter.1 > class);
        self.running += usize::from(admitted);
        admitted
    }

    /// Returns whether it is admitted or refused at once; otherwise it waits.
    fn asks(&mut self, id: usize, class: usize) -> Option<bool> {
        if self.tries(class) {
            return Some(true);
        }
        if self.line.len() == Self::MAX_WAITING {
            if self.line[Self::MAX_WAITING - 1].1 <= class {
                return Some(false);
            }
            let last = self.line.remove(Self::MAX_WAITING - 1);
            self.decided.push((last.0, false));
        }
        self.line.push((id, class));
        self.line.sort_by_key(|waiter| waiter.1);
        None
    }

    fn serves(&mut self) {
        while let Some((id, _)) = self.line.first().copied().filter(|waiter| self.running < 4 - waiter.1) {
            self.line.remove(0);
            self.decided.push((id, true));
            self.running += 1;
        }
    }
}

#[test]
fn a_timeout_further_out_tells_it_what_is_too_slow() {
    let (limit, clock) = limit(10);
    let limit = limit.aimd(1, 0.5);
    let stack = (Timeout::new(millis(50)).clock(clock.clone()), &limit);
    let mut hung: Vec<_> =
        (0..10).map(|_| Box::pin(stack.call(std::future::pending::<Result<(), ()>>))).collect();
    assert!(hung.iter_mut().all(|call| poll(call).is_pending()));
    clock.advance(millis(50));
    for call in &mut hung {
        assert!(matches!(poll(call), Poll::Ready(Err(Error::TimedOut(_)))));
    }
    assert_eq!((limit.limit(), limit.running()), (5, 0));
}

#[test]
fn a_call_whose_time_is_over_is_refused_and_leaves_its_place() {
    let (limit, clock) = limit(2);
    let late = Call::new().deadline(clock.now());
    assert_eq!(limit.try_acquire_for(late).unwrap_err().reason(), Reason::DeadlineExceeded);
    assert_eq!(block_on(limit.acquire_for(late)).unwrap_err().reason(), Reason::DeadlineExceeded);
    assert_eq!((limit.running(), limit.residual()), (0, None));
    let _permit = limit.try_acquire().unwrap();
    assert_eq!(limit.residual(), Some(Residual::InUse));
}

#[test]
fn a_clock_that_stands_still_or_goes_back_does_no_harm() {
    let (clock, offset) = settable(secs(10));
    let limit = AdaptiveConcurrency::between(1, 1_000).clock(clock);
    for step in 0..2_000i64 {
        let permits: Vec<_> = (0..limit.limit()).map_while(|_| limit.try_acquire().ok()).collect();
        offset.fetch_add([0, -1_000, 500, i64::from(step % 7 == 0)][step as usize % 4], Relaxed);
        permits.into_iter().for_each(|permit| permit.success());
        assert!((1..=1_000).contains(&limit.limit()));
    }
    assert_eq!(limit.running(), 0);
}

#[test]
fn it_is_a_policy_and_calls_can_wait_at_it() {
    let limit = AdaptiveConcurrency::between(1, 1).name("search");
    let patient = (&limit).wait_up_to(secs(60));
    let done: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..200).map(|_| patient.call_blocking(|| Ok::<_, ()>(1)).unwrap()).sum::<u32>()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!((done, limit.running(), limit.waiting()), (800, 0, 0));
    let _held = limit.try_acquire().unwrap();
    let full = Err(Error::Rejected(Rejected::new("search", Reason::BulkheadFull)));
    assert_eq!(block_on(limit.call(|| async { Ok::<_, ()>(1) })), full);
}

#[test]
#[should_panic(expected = "floor: 0 must be at least 1")]
fn a_floor_of_nobody_is_refused() {
    let _ = AdaptiveConcurrency::between(0, 5);
}

#[test]
#[should_panic(expected = "start: 9 must be between 1 and 5")]
fn a_start_above_the_ceiling_is_refused() {
    let _ = AdaptiveConcurrency::between(1, 5).start(9);
}

#[test]
#[should_panic(expected = "share: 600000 millionths in all must be at most 500000")]
fn shares_that_leave_too_little_to_the_last_class_are_refused() {
    let _ = AdaptiveConcurrency::between(1, 5).class(200, 0.4).class(100, 0.2);
}

#[test]
#[should_panic(expected = "priority: 200 must be below that of the class before")]
fn classes_out_of_order_are_refused() {
    let _ = AdaptiveConcurrency::between(1, 5).class(200, 0.1).class(200, 0.1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn classes_share_places_as_they_should_whatever_happens(
        steps in prop::collection::vec((0u8..6, 0usize..3, any::<prop::sample::Index>()), 1..150),
    ) {
        let limit = AdaptiveConcurrency::between(4, 4).max_waiting(Twin::MAX_WAITING);
        let limit = limit.class(200, 0.25).class(100, 0.25).clock(Clock::manual());
        let mut twin = Twin { running: 0, line: Vec::new(), decided: Vec::new() };
        let (mut waiters, mut permits) = (Vec::new(), Vec::new());
        for (id, (step, class, index)) in steps.into_iter().enumerate() {
            let call = Call::new().priority(Twin::PRIORITIES[class]);
            match step {
                0 => {
                    let permit = limit.try_acquire_for(call);
                    prop_assert_eq!(permit.is_ok(), twin.tries(class));
                    permits.extend(permit);
                }
                1 | 2 => {
                    let mut waiter = Box::pin(limit.acquire_for(call));
                    let polled = poll(&mut waiter).map(|permit| permits.extend(permit));
                    let known = twin.asks(id, class);
                    prop_assert_eq!(polled.is_ready(), known.is_some());
                    if known.is_none() {
                        waiters.push((id, waiter));
                    }
                }
                3 if !permits.is_empty() => {
                    permits.swap_remove(index.index(permits.len())).success();
                    twin.running -= 1;
                    twin.serves();
                }
                4 if !waiters.is_empty() => {
                    let (id, waiter) = waiters.swap_remove(index.index(waiters.len()));
                    drop(waiter);
                    twin.line.retain(|waiter| waiter.0 != id);
                    if let Some(at) = twin.decided.iter().position(|waiter| waiter.0 == id) {
                        twin.running -= usize::from(twin.decided.remove(at).1);
                    }
                    twin.serves();
                }
                5 if !waiters.is_empty() => {
                    let at = index.index(waiters.len());
                    let polled = poll(&mut waiters[at].1);
                    let known = twin.decided.iter().position(|waiter| waiter.0 == waiters[at].0);
                    prop_assert_eq!(polled.is_ready(), known.is_some());
                    if let (Poll::Ready(permit), Some(known)) = (polled, known) {
                        prop_assert_eq!(permit.is_ok(), twin.decided.remove(known).1);
                        permits.extend(permit);
                        drop(waiters.swap_remove(at));
                    }
                }
                _ => {}
            }
            prop_assert_eq!((limit.running(), limit.waiting()), (twin.running, twin.line.len()));
        }
        drop((waiters, permits));
        prop_assert_eq!((limit.running(), limit.waiting(), limit.residual()), (0, 0, None));
    }
}

//! A gate for each key: what is forgotten, what never is, and what an attacker gets.
#![cfg(not(floodwall_loom))]

mod support;

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use floodwall::{
    Acquire, Blocking, Bulkhead, Call, CircuitBreaker, Clock, Error, Event, Gate, Keyed, Permit, Policy,
    Reason, Rejected, Residual, State, TimeSource, TokenBucket, block_on,
};
use proptest::prelude::*;
use support::{millis, nanos, secs};

/// Buckets of 10 a second, told the time by one manual clock.
fn buckets() -> (Keyed<u64, TokenBucket>, Clock) {
    let clock = Clock::manual();
    let time = clock.clone();
    let limits = Keyed::new(move |_: &u64| TokenBucket::per_second(10).clock(time.clone()));
    (limits.clock(clock.clone()), clock)
}

fn drain<K, Q>(limits: &Keyed<K, TokenBucket>, key: &Q) -> u32
where
    K: Borrow<Q> + Eq + Hash,
    Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
{
    (0..1_000).take_while(|_| limits.try_acquire(key).is_ok()).count() as u32
}

#[test]
fn each_key_has_a_gate_of_its_own() {
    let limits = Keyed::new(|plan: &u64| TokenBucket::per_second(*plan).clock(Clock::manual()));
    assert_eq!((drain(&limits, &3), drain(&limits, &5)), (3, 5));
    assert_eq!(limits.try_acquire(&3).unwrap_err().reason(), Reason::RateLimited);
    assert_eq!(limits.len(), 2);
}

#[test]
fn a_call_is_charged_what_it_costs_and_an_estimate_can_be_settled() {
    let (limits, _) = buckets();
    let mut permit = limits.try_acquire_for(&1, Call::new().cost(8)).unwrap();
    assert_eq!(limits.get(&1).unwrap().available(), 2);
    permit.settle(3);
    permit.success();
    assert_eq!(limits.get(&1).unwrap().available(), 7);
}

#[test]
fn a_permit_crosses_threads_and_reports_to_its_own_gate() {
    let hosts = Keyed::new(|_: &u64| CircuitBreaker::builder().failures(1).build());
    let permit = hosts.try_acquire(&1).unwrap();
    std::thread::spawn(move || permit.failure()).join().unwrap();
    assert_eq!(hosts.get(&1).unwrap().state(), State::Open);
    assert_eq!(hosts.get(&2).unwrap().state(), State::Closed);
}

#[test]
fn a_key_of_a_stack_rejects_judges_and_waits_as_its_gate_does() {
    let limits = Keyed::new(|_: &String| TokenBucket::per_second(1).name("tenant"));
    let upstream = Bulkhead::new(1);
    let call = || block_on((limits.at("a"), &upstream).call(|| async { Ok::<_, ()>(1) }));
    assert_eq!(call(), Ok(1));
    let Err(Error::Rejected(rejected)) = call() else { panic!("admitted twice") };
    assert_eq!((rejected.by(), rejected.reason()), ("tenant", Reason::RateLimited));
    assert_eq!((limits.at("b"), &upstream).call_blocking(|| Ok::<_, ()>(1)), Ok(1));
    let moved = String::from("moved");
    let once = block_on(limits.at("c").call_once(|| async { Ok::<_, ()>(moved) }));
    assert_eq!(once, Ok("moved".to_owned()));

    let hosts = Keyed::new(|_: &u64| CircuitBreaker::builder().failures(1).build());
    let judged = hosts.at(&1).when(|error: &Error<u16>| !matches!(error, Error::Inner(404)));
    assert!(judged.call_blocking(|| Err::<(), _>(404)).is_err());
    assert_eq!(hosts.get(&1).unwrap().state(), State::Closed);
    assert!(hosts.at(&1).call_blocking(|| Err::<(), _>(404)).is_err());
    assert_eq!(hosts.get(&1).unwrap().state(), State::Open);

    let places = Keyed::new(|_: &u64| Bulkhead::new(1));
    let held = places.try_acquire(&1).unwrap();
    let patient = places.at(&1).wait_up_to(millis(1));
    assert!(block_on(patient.call(|| async { Ok::<_, ()>(1) })).is_err());
    held.success();
    assert_eq!(block_on(patient.call(|| async { Ok::<_, ()>(1) })), Ok(1));
}

/// Trap R11.
#[test]
fn a_victim_gets_no_new_burst_however_many_keys_come_after_it() {
    for (keys, flood) in [(1, 120), (2, 400), (50, 4_000), (600, 60_000), (5_000, 20_000)] {
        let (limits, clock) = buckets();
        let limits = limits.max_keys(keys);
        assert_eq!(drain(&limits, &u64::MAX), 10);
        let mut admitted = 0;
        for key in 0..flood {
            let _ = limits.try_acquire(&key);
            // Time for 4 of the victim's tokens while the flood comes, too little for all of them.
            if key % (flood / 40) == 0 {
                clock.advance(millis(10));
                admitted += u32::from(limits.try_acquire(&u64::MAX).is_ok());
            }
            assert!(limits.len() <= keys);
        }
        assert!((3..=4).contains(&admitted), "{admitted} of {keys} keys");
    }
}

/// Trap R11.
#[test]
fn who_rotates_keys_gets_what_each_gate_gives_and_not_more() {
    let (limits, clock) = buckets();
    let limits = limits.max_keys(20);
    let mut admitted = HashMap::<u64, u32>::new();
    for round in 0..1_000u64 {
        for key in 0..60 {
            *admitted.entry(key).or_default() += u32::from(limits.try_acquire(&(key + round % 3)).is_ok());
        }
        clock.advance(millis(1));
    }
    // 10 at once, 10 in the second, and 3 keys that share a line of this table.
    assert!(admitted.values().all(|count| *count <= 3 * 21), "{admitted:?}");
}

#[test]
fn a_new_key_is_shed_while_all_others_owe_and_told_when_the_first_has_paid() {
    let told = Arc::new(AtomicU64::new(0));
    let tell = told.clone();
    let (limits, clock) = buckets();
    let limits = limits.max_keys(3).observe("tenants", move |name: &str, event: Event| {
        assert!(name == "tenants" && matches!(event, Event::Rejected(_)));
        tell.fetch_add(1, Ordering::Relaxed);
    });
    for (key, tokens) in [(1, 10), (2, 2), (3, 4)] {
        limits.try_acquire_for(&key, Call::new().cost(tokens)).unwrap().success();
    }
    let shed = Rejected::new("tenants", Reason::Shed).after(millis(200));
    assert_eq!(limits.try_acquire(&4).unwrap_err(), shed);
    assert_eq!(limits.at(&4).call_blocking(|| Ok::<_, ()>(1)), Err(Error::Rejected(shed)));
    assert_eq!(told.load(Ordering::Relaxed), 2);
    assert!(limits.peek(&4).is_none());

    clock.advance(millis(200));
    assert!(limits.try_acquire(&4).is_ok(), "who obeys is admitted");
    assert!(limits.peek(&2).is_none() && limits.len() == 3);
    assert_eq!(limits.get(&1).unwrap().available(), 2);
}

#[test]
fn nothing_is_made_for_a_key_that_is_shed() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let places = Keyed::new(move |_: &u64| {
        count.fetch_add(1, Ordering::Relaxed);
        Bulkhead::new(1)
    });
    let places = places.max_keys(1);
    let _held = places.try_acquire(&1).unwrap();
    let rejected = places.try_acquire(&2).unwrap_err();
    assert_eq!((rejected.reason(), rejected.retry_after()), (Reason::Shed, None));
    assert_eq!(made.load(Ordering::Relaxed), 1);
}

#[test]
fn a_gate_with_a_permit_out_survives_a_flood() {
    let places = Keyed::new(|_: &u64| Bulkhead::new(1)).max_keys(100);
    let held = places.try_acquire(&u64::MAX).unwrap();
    for key in 0..10_000 {
        places.try_acquire(&key).unwrap().success();
    }
    assert_eq!(places.try_acquire(&u64::MAX).unwrap_err().reason(), Reason::BulkheadFull);
    held.success();
    assert!(places.try_acquire(&u64::MAX).is_ok());
}

#[test]
fn a_gate_that_somebody_holds_or_waits_at_survives_a_flood() {
    let (limits, _) = buckets();
    let limits = limits.max_keys(10);
    // No residual, but whoever holds it could make one.
    let (held, at) = (limits.get(&1_000).unwrap(), limits.at(&1_001));
    let weak = Arc::downgrade(&limits.get(&1_002).unwrap());
    for key in 0..1_000 {
        let _ = limits.try_acquire(&key);
    }
    while held.try_acquire().is_ok() && at.try_acquire().is_ok() {}
    weak.upgrade().unwrap().try_acquire_for(Call::new().cost(10)).unwrap().success();
    for key in 1_000..1_003 {
        assert!(limits.try_acquire(&key).is_err(), "{key}");
    }
}

#[test]
fn an_open_breaker_stays_open_through_a_flood() {
    let clock = Clock::manual();
    let time = clock.clone();
    let hosts = Keyed::new(move |_: &u64| {
        CircuitBreaker::builder().failures(1).open_for(secs(5)).clock(time.clone()).build()
    });
    let hosts = hosts.max_keys(50).clock(clock.clone());
    hosts.try_acquire(&u64::MAX).unwrap().failure();
    for key in 0..5_000 {
        hosts.try_acquire(&key).unwrap().success();
    }
    let rejected = hosts.try_acquire(&u64::MAX).unwrap_err();
    assert_eq!((rejected.reason(), rejected.retry_after()), (Reason::CircuitOpen, Some(secs(5))));
    clock.advance(secs(5));
    assert_eq!(hosts.get(&u64::MAX).unwrap().state(), State::HalfOpen);
}

/// Trap R11. A million hosts: other registries of breakers by name keep them all.
#[test]
fn a_million_keys_leave_no_more_than_the_cap() {
    let hosts = Keyed::new(|_: &u64| Bulkhead::new(1)).max_keys(1_000);
    for key in 0..1_000_000 {
        hosts.try_acquire(&key).unwrap().success();
    }
    assert!(hosts.len() <= 1_000 && hosts.len() > 900, "{}", hosts.len());
}

#[test]
fn keys_in_use_stay_while_others_come_once_and_go() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let places = Keyed::new(move |key: &u64| {
        count.fetch_add(usize::from(*key < 20), Ordering::Relaxed);
        Bulkhead::new(1)
    });
    let places = places.max_keys(100);
    for key in 0..20_000 {
        places.try_acquire(&(key % 20)).unwrap().success();
        places.try_acquire(&(1_000 + key)).unwrap().success();
    }
    assert_eq!(made.load(Ordering::Relaxed), 20);
}

#[test]
fn an_idle_key_is_forgotten_and_not_before_its_time() {
    let (limits, clock) = buckets();
    let limits = limits.idle(secs(60));
    limits.try_acquire(&1).unwrap().success();
    limits.try_acquire_for(&2, Call::new().cost(10)).unwrap().success();
    let held = limits.get(&3).unwrap();
    clock.advance(secs(59));
    limits.forget_idle();
    assert_eq!(limits.len(), 3);
    clock.advance(secs(1));
    limits.forget_idle();
    assert!(limits.peek(&1).is_none() && limits.peek(&2).is_none());
    assert_eq!(limits.len(), 1);
    drop(held);
    limits.forget_idle();
    clock.advance(secs(60));
    limits.forget_idle();
    assert!(limits.is_empty());
}

/// Trap R11.
#[test]
fn a_key_that_is_idle_and_owes_is_not_forgotten() {
    let clock = Clock::manual();
    let time = clock.clone();
    let limits = Keyed::new(move |_: &u64| TokenBucket::per(1, secs(3_600)).burst(1).clock(time.clone()));
    let limits = limits.idle(secs(60)).clock(clock.clone());
    limits.try_acquire(&1).unwrap().success();
    for _ in 0..59 {
        clock.advance(secs(60));
        limits.forget_idle();
        assert!(limits.try_acquire(&1).is_err());
    }
    clock.advance(secs(120));
    limits.forget_idle();
    clock.advance(secs(60));
    limits.forget_idle();
    assert!(limits.is_empty());
}

#[test]
fn idle_keys_go_while_others_are_used() {
    let (limits, clock) = buckets();
    let limits = limits.idle(secs(60));
    for key in 0..1_000 {
        limits.try_acquire(&key).unwrap().success();
    }
    clock.advance(secs(61));
    for _ in 0..200_000 {
        // A shard whose keys nobody uses keeps them until new ones come.
        let _ = limits.try_acquire(&0);
    }
    for key in 1_000..3_000 {
        limits.try_acquire(&key).unwrap().success();
    }
    let left = (1..1_000).filter(|key| limits.peek(key).is_some()).count();
    assert!(left < 600, "{left} of 1,000 idle keys are left");
    assert!(limits.peek(&0).is_some());
}

#[test]
fn a_removed_key_starts_anew_and_its_permits_report_to_the_old_gate() {
    let places = Keyed::new(|_: &String| Bulkhead::new(1));
    let held = places.try_acquire("a").unwrap();
    let old = places.remove("a").unwrap();
    assert!(places.remove("a").is_none());
    let again = places.try_acquire("a").unwrap();
    held.success();
    assert_eq!((old.running(), places.get("a").unwrap().running()), (0, 1));
    again.success();
}

#[test]
fn the_heaviest_keys_come_first() {
    let places = Keyed::new(|_: &String| Bulkhead::new(1)).max_keys(20_000);
    for round in 0..200u32 {
        for key in 0..50 {
            let weight = if key == 7 { 8 } else { 1 + u32::from(key == 13) * 3 };
            (0..weight).for_each(|_| places.try_acquire(format!("{key}").as_str()).unwrap().success());
        }
        places.try_acquire(format!("once {round}").as_str()).unwrap().success();
    }
    let heaviest = places.heaviest(3);
    let keys: Vec<_> = heaviest.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys[..2], ["7", "13"], "{heaviest:?}");
    assert!(heaviest[0].1 > heaviest[1].1 && heaviest[1].1 > heaviest[2].1, "{heaviest:?}");
    assert_eq!(places.heaviest(usize::MAX).len(), places.len());
    assert!(places.heaviest(0).is_empty());
}

#[test]
fn uses_fade_with_the_minutes_whether_or_not_others_come() {
    for sweeping in [false, true] {
        let (limits, clock) = buckets();
        (0..800).for_each(|_| drop(limits.try_acquire(&1)));
        for _ in 0..2 {
            clock.advance(secs(60));
            if sweeping {
                limits.forget_idle();
                limits.forget_idle();
            }
        }
        (0..300).for_each(|_| drop(limits.try_acquire(&2)));
        let heaviest = limits.heaviest(2);
        // Where both are in one shard, the sweep may halve what has just come, too.
        assert!(matches!(heaviest[..], [(2, 250..=300), (1, 100 | 200)]), "{heaviest:?}");
    }
}

#[test]
fn threads_that_meet_a_new_key_at_once_share_one_gate() {
    for key in 0..200 {
        let places = Keyed::new(|_: &u64| Bulkhead::new(1));
        let admitted: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| places.try_acquire(&key))).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap().ok()).collect()
        });
        assert_eq!((admitted.len(), places.len()), (1, 1));
    }
}

/// Trap R1.
#[test]
fn threads_on_one_key_under_a_real_clock_never_exceed_its_quota() {
    let limits = Keyed::new(|_: &u64| TokenBucket::per_second(100_000).burst(100)).max_keys(100);
    let start = Instant::now();
    let admitted: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4u64)
            .map(|thread| {
                let (limits, start) = (&limits, &start);
                scope.spawn(move || {
                    let (mut admitted, mut stranger) = (0, thread << 32);
                    while start.elapsed() < millis(300) {
                        admitted += u64::from(limits.try_acquire(&7).is_ok());
                        stranger += 1;
                        let _ = limits.try_acquire(&stranger);
                    }
                    admitted
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    let bound = 100.0 + 100_000.0 * start.elapsed().as_secs_f64() + 1.0;
    assert!(admitted as f64 <= bound, "{admitted} of {bound}");
    assert!(admitted > 5_000, "{admitted}");
}

#[test]
fn many_threads_on_many_keys_keep_the_cap_and_lose_no_permit() {
    let places = Keyed::new(|_: &u64| Bulkhead::new(1)).max_keys(64).idle(Duration::ZERO);
    let running: Vec<_> = (0..200).map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (places, running) = (&places, &running);
            scope.spawn(move || {
                for step in 0..30_000u64 {
                    let key = (step * (thread * 2 + 1)) % 200;
                    if let Ok(permit) = places.try_acquire(&key) {
                        assert_eq!(running[key as usize].fetch_add(1, Ordering::SeqCst), 0, "two gates");
                        running[key as usize].fetch_sub(1, Ordering::SeqCst);
                        permit.success();
                    }
                    if step % 1_000 == 0 {
                        assert!(places.len() <= 64);
                    }
                }
            });
        }
    });
}

static NOSY: OnceLock<Keyed<NosyKey, NosyGate>> = OnceLock::new();

/// Deadlocks if it is called under a shard's lock, since there is one shard.
fn look() {
    if let Some(registry) = NOSY.get() {
        assert!(registry.len() <= 2);
    }
}

#[derive(PartialEq, Eq)]
struct NosyKey(u64);

impl Hash for NosyKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        look();
        self.0.hash(state);
    }
}

impl Clone for NosyKey {
    fn clone(&self) -> Self {
        look();
        Self(self.0)
    }
}

impl Drop for NosyKey {
    fn drop(&mut self) {
        look();
    }
}

struct NosyGate(bool);

impl Gate for NosyGate {
    fn try_acquire_for(&self, _: Call) -> Result<Permit<'_>, Rejected> {
        look();
        Ok(Permit::free())
    }

    fn residual(&self) -> Option<Residual> {
        look();
        self.0.then_some(Residual::InUse)
    }
}

impl Drop for NosyGate {
    fn drop(&mut self) {
        look();
    }
}

struct NosyClock(Instant);

impl TimeSource for NosyClock {
    fn now(&self) -> Instant {
        look();
        self.0
    }

    fn sleep_until(&self, _: Instant) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

#[test]
fn what_the_user_wrote_runs_outside_the_locks() {
    let registry = NOSY.get_or_init(|| {
        let make = |key: &NosyKey| {
            look();
            NosyGate(key.0 >= 1_000)
        };
        Keyed::new(make)
            .max_keys(2)
            .idle(Duration::ZERO)
            .clock(Clock::new(NosyClock(Instant::now())))
            .observe("nosy", |_: &str, _: Event| look())
    });
    for key in 0..500 {
        registry.try_acquire(&NosyKey(key)).unwrap().success();
        assert!(registry.try_acquire(&NosyKey(key)).is_ok());
    }
    assert!(registry.remove(&NosyKey(499)).is_some());
    registry.forget_idle();
    for key in 1_000..1_002 {
        assert!(registry.try_acquire(&NosyKey(key)).is_ok());
    }
    assert_eq!(registry.try_acquire(&NosyKey(7)).unwrap_err().reason(), Reason::Shed);
    registry.forget_idle();
}

#[test]
fn a_closure_that_panics_leaves_the_registry_as_it_was() {
    let limits = Keyed::new(|key: &u64| {
        assert!(*key != 13, "unlucky");
        Bulkhead::new(1)
    });
    let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| limits.try_acquire(&13).is_ok()));
    assert!(attempt.is_err());
    assert!(limits.is_empty());
    assert!(limits.try_acquire(&14).is_ok());
}

#[test]
#[should_panic(expected = "max_keys: 0 must be at least 1")]
fn no_room_at_all_is_absurd() {
    let _ = Keyed::new(|_: &u64| Bulkhead::new(1)).max_keys(0);
}

/// Trap R11. Under a flood the dearest of a thousand new keys costs what all cost: there is no walk over all keys.
#[test]
fn a_new_key_costs_the_same_however_many_there_are() {
    let asked = Arc::new(AtomicUsize::new(0));
    struct Owing(Arc<AtomicUsize>, Instant);
    impl Gate for Owing {
        fn try_acquire_for(&self, _: Call) -> Result<Permit<'_>, Rejected> {
            Ok(Permit::free())
        }

        fn residual(&self) -> Option<Residual> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Some(Residual::Until(self.1))
        }
    }
    let (ask, clock) = (asked.clone(), Clock::manual());
    let at = clock.now() + secs(1);
    let limits = Keyed::new(move |_: &u64| Owing(ask.clone(), at)).max_keys(20_000).clock(clock.clone());
    let shed = (0..40_000).filter(|key| limits.try_acquire(key).is_err()).count();
    assert!(shed >= 20_000, "{shed}");
    let before = asked.load(Ordering::Relaxed);
    (40_000..41_000).for_each(|key| assert!(limits.try_acquire(&key).is_err()));
    let looks = asked.load(Ordering::Relaxed) - before;
    assert!(looks <= 64_000, "{looks} looks for 1,000 new keys");
    clock.advance(secs(1));
    (40_000..41_000).for_each(|key| assert!(limits.try_acquire(&key).is_ok()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    /// With room for few keys it may shed new ones; whomever it does not shed it treats as a map of all buckets would.
    #[test]
    fn admissions_are_those_of_a_map_that_forgets_nothing(
        max_keys in 1usize..40,
        idle in 0u64..2_000,
        steps in prop::collection::vec((0u64..60, 0u64..40, 0u32..6), 1..400),
    ) {
        let (limits, clock) = buckets();
        let limits = limits.max_keys(max_keys).idle(millis(idle));
        let mut twin = HashMap::new();
        for (wait, key, cost) in steps {
            clock.advance(millis(wait));
            let call = Call::new().cost(cost);
            let decision = limits.try_acquire_for(&key, call).map(drop);
            if decision.is_err_and(|rejected| rejected.reason() == Reason::Shed) {
                prop_assert!(twin.len() >= max_keys);
                let wait = decision.unwrap_err().retry_after();
                prop_assert!(wait.is_some_and(|wait| wait > nanos(0) && wait <= secs(1)));
                continue;
            }
            let bucket = twin
                .entry(key)
                .or_insert_with(|| TokenBucket::per_second(10).clock(clock.clone()));
            prop_assert_eq!(decision, bucket.try_acquire_for(call).map(drop));
            prop_assert!(limits.len() <= max_keys);
            if wait % 10 == 0 {
                limits.forget_idle();
            }
        }
    }
}

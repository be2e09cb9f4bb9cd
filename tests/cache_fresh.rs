//! How the entries of a `Cache` are kept fresh: refreshed ahead, given out while they are refreshed or when they cannot be.
//! Traps 2, 3 and 25 of the cache page.
#![cfg(not(floodwall_loom))]

mod support;

use std::cell::Cell;
use std::future::{pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::Poll;
use std::time::Duration;

use floodwall::cache::Job;
use floodwall::{Cache, CacheBuilder, Call, Clock, Error, Policy, block_on};
use proptest::prelude::*;
use support::{millis, nanos, poll, secs};

type Numbers = Cache<String, u32>;
type Loaded = Result<u32, Error<&'static str>>;

/// Ten seconds to live, and what `setting` says; "a" is 1.
fn cache(setting: impl FnOnce(CacheBuilder<String, u32>) -> CacheBuilder<String, u32>) -> (Numbers, Clock) {
    let clock = Clock::manual();
    let cache = setting(Cache::builder(100)).ttl(secs(10)).clock(clock.clone()).build();
    cache.insert("a".into(), 1).unwrap();
    (cache, clock)
}

fn load(cache: &Numbers, result: Result<u32, &'static str>) -> Loaded {
    cache.get_or_load_blocking("a", || result)
}

/// A look-up that has nothing to load.
fn ask(cache: &Numbers) -> u32 {
    cache.get_or_load_blocking("a", || -> Result<u32, &str> { panic!("there is nothing to load") }).unwrap()
}

/// Keeps jobs until a test runs them.
fn jobs() -> (impl Fn(Job) + Send + Sync + 'static, mpsc::Receiver<Job>) {
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    (move |job| sender.lock().unwrap().send(job).unwrap(), receiver)
}

#[test]
fn an_entry_is_refreshed_ahead_by_one_while_others_get_what_is_there() {
    let (cache, clock) = cache(|cache| cache.refresh_ahead(0.8));
    clock.advance(secs(8) - millis(1));
    assert_eq!(ask(&cache), 1);
    clock.advance(millis(1));
    let mut refresh = Box::pin(cache.get_or_load("a", || async {
        pending::<()>().await;
        Ok::<_, &str>(2)
    }));
    assert!(poll(&mut refresh).is_pending());
    assert_eq!((ask(&cache), cache.get("a")), (1, Some(1)));
    drop(refresh);
    // Another one may, at once.
    assert_eq!(load(&cache, Ok(3)), Ok(3));
    clock.advance(secs(8) - millis(1));
    assert_eq!(ask(&cache), 3);
    let stats = cache.stats();
    assert_eq!((stats.stale, stats.loads, stats.load_failures), (0, 1, 1));
}

#[test]
fn a_refresh_that_fails_leaves_what_is_there_and_backs_off() {
    let (cache, clock) = cache(|cache| cache.refresh_ahead(0.5));
    clock.advance(secs(5));
    assert_eq!(load(&cache, Err("down")), Ok(1));
    clock.advance(secs(1) - millis(1));
    assert_eq!(ask(&cache), 1);
    clock.advance(millis(2));
    assert_eq!(load(&cache, Err("down")), Ok(1));
    clock.advance(secs(5));
    assert_eq!(load(&cache, Err("down")), Err(Error::Inner("down")), "its time is over");
}

#[test]
fn an_entry_is_given_out_after_its_time_while_it_is_refreshed() {
    let (cache, clock) = cache(|cache| cache.stale_while_revalidate(secs(5)));
    clock.advance(secs(10));
    assert_eq!((cache.get("a"), cache.peek("a")), (None, None), "who loads nothing gets nothing old");
    let mut refresh = Box::pin(cache.get_or_load("a", || async {
        pending::<()>().await;
        Ok::<_, &str>(2)
    }));
    assert!(poll(&mut refresh).is_pending());
    assert_eq!(ask(&cache), 1);
    drop(refresh);
    clock.advance(secs(5));
    assert_eq!(load(&cache, Err("down")), Err(Error::Inner("down")), "it is too old");
    assert_eq!(cache.stats().stale, 1);
}

#[test]
fn an_entry_is_given_out_after_its_time_if_its_load_fails_and_loads_are_throttled() {
    let (cache, clock) = cache(|cache| cache.stale_if_error(secs(100)));
    clock.advance(secs(10));
    assert_eq!(cache.get("a"), None);
    assert_eq!(load(&cache, Err("down")), Ok(1));
    // For a second nobody tries.
    clock.advance(secs(1) - millis(1));
    assert_eq!(ask(&cache), 1);
    clock.advance(millis(2));
    assert_eq!(load(&cache, Err("down")), Ok(1));
    clock.advance(secs(50));
    assert_eq!(load(&cache, Err("down")), Ok(1));
    // Half as long as it is over.
    clock.advance(secs(25));
    assert_eq!(ask(&cache), 1);
    clock.advance(secs(1));
    assert_eq!(load(&cache, Ok(2)), Ok(2));
    assert_eq!(ask(&cache), 2);
    clock.advance(secs(110));
    assert_eq!(load(&cache, Err("down")), Err(Error::Inner("down")));
}

#[test]
fn all_who_wait_for_a_load_that_fails_get_what_was_there() {
    let (cache, clock) = cache(|cache| cache.stale_if_error(secs(100)));
    clock.advance(secs(10));
    let loads = Cell::new(0);
    let gate = Cell::new(false);
    let load = || {
        cache.get_or_load("a", || async {
            loads.set(loads.get() + 1);
            std::future::poll_fn(|_| if gate.get() { Poll::Ready(()) } else { Poll::Pending }).await;
            Err::<u32, _>("down")
        })
    };
    let mut callers: Vec<_> = (0..20).map(|_| Box::pin(load())).collect();
    assert!(callers.iter_mut().all(|caller| poll(caller).is_pending()));
    gate.set(true);
    for caller in &mut callers {
        assert_eq!(poll(caller), Poll::Ready(Ok(1)));
    }
    assert_eq!((loads.get(), cache.stats().stale), (1, 1));
}

#[test]
fn who_waits_until_its_deadline_gets_what_was_there() {
    let (cache, clock) = cache(|cache| cache.stale_if_error(secs(100)));
    clock.advance(secs(10));
    let mut first = Box::pin(cache.get_or_load("a", pending::<Result<u32, &str>>));
    assert!(poll(&mut first).is_pending());
    let at = cache.at("a");
    let call = Call::new().deadline(clock.now() + secs(1));
    let mut late = Box::pin(at.call_with(call, |_| ready(Ok::<_, &str>(2))));
    assert!(poll(&mut late).is_pending());
    clock.advance(secs(1));
    assert_eq!((poll(&mut late), cache.stats().stale), (Poll::Ready(Ok(1)), 1));
}

#[test]
fn a_refresh_goes_on_in_the_background() {
    let (start, jobs) = jobs();
    let (cache, clock) =
        cache(|cache| cache.refresh_ahead(0.5).stale_while_revalidate(secs(90)).background(start));
    let refresh = |value| cache.get_or_refresh_blocking("a", move || Ok::<_, &str>(value)).unwrap();
    clock.advance(secs(5));
    assert_eq!((refresh(2), refresh(3)), (1, 1));
    jobs.try_recv().unwrap().run();
    assert!(jobs.try_recv().is_err(), "one is enough");
    assert_eq!(refresh(9), 2);
    clock.advance(secs(20));
    assert_eq!(refresh(4), 2);
    // A job that was dropped can be done by another one at once.
    drop(jobs.try_recv().unwrap());
    assert_eq!(refresh(5), 2);
    block_on(jobs.try_recv().unwrap());
    assert_eq!(refresh(9), 5);
    // And one that nobody does, after a while.
    clock.advance(secs(20));
    assert_eq!(refresh(6), 5);
    clock.advance(secs(10) + millis(1));
    assert_eq!(refresh(7), 5);
    let (old, new) = (jobs.try_recv().unwrap(), jobs.try_recv().unwrap());
    new.run();
    assert_eq!(refresh(9), 7);
    drop(old);
}

#[tokio::test]
async fn who_finds_nothing_loads_and_who_has_no_background_refreshes_itself() {
    let (cache, clock) = cache(|cache| cache.stale_while_revalidate(secs(90)));
    let refresh = async |value| cache.get_or_refresh("a", move || ready(value)).await;
    clock.advance(secs(10));
    assert_eq!(refresh(Ok(2)).await, Ok(2));
    cache.remove("a");
    assert_eq!(refresh(Err("down")).await, Err(Error::Inner("down")));
    assert_eq!(refresh(Ok(3)).await, Ok(3));
}

#[tokio::test]
async fn a_slow_load_is_not_waited_for_longer_than_the_soft_timeout() {
    let (start, jobs) = jobs();
    let (cache, clock) =
        cache(|cache| cache.stale_if_error(secs(90)).background(start).soft_timeout(millis(100)));
    clock.advance(secs(10));
    let (value, come) = tokio::sync::oneshot::channel::<u32>();
    let mut caller = Box::pin(cache.get_or_refresh("a", || async { come.await.map_err(|_| "gone") }));
    assert!(poll(&mut caller).is_pending());
    let mut job = Box::pin(jobs.try_recv().unwrap());
    assert!(poll(&mut job).is_pending());
    clock.advance(millis(99));
    assert!(poll(&mut caller).is_pending());
    clock.advance(millis(1));
    assert_eq!(poll(&mut caller), Poll::Ready(Ok(1)));
    value.send(2).unwrap();
    assert_eq!(poll(&mut job), Poll::Ready(()));
    assert_eq!(ask(&cache), 2);
    assert_eq!(cache.stats().stale, 1);

    // A quick one is waited for.
    clock.advance(secs(10));
    let mut caller = Box::pin(cache.get_or_refresh("a", || ready(Ok::<_, &str>(3))));
    assert!(poll(&mut caller).is_pending());
    jobs.try_recv().unwrap().await;
    assert_eq!(poll(&mut caller), Poll::Ready(Ok(3)));

    // One that fails is, too.
    clock.advance(secs(10));
    let mut caller = Box::pin(cache.get_or_refresh("a", || ready(Err::<u32, _>("down"))));
    assert!(poll(&mut caller).is_pending());
    jobs.try_recv().unwrap().await;
    assert_eq!(poll(&mut caller), Poll::Ready(Ok(3)));

    // And who drops the job has answered.
    clock.advance(secs(2));
    let mut caller = Box::pin(cache.get_or_refresh("a", pending::<Result<u32, &str>>));
    assert!(poll(&mut caller).is_pending());
    drop(jobs.try_recv().unwrap());
    assert_eq!(poll(&mut caller), Poll::Ready(Ok(3)));
}

/// The clock stands still: nothing but the end of the job can wake who waits for it.
#[tokio::test]
async fn who_waits_for_a_job_is_woken_by_its_end() {
    let (start, jobs) = jobs();
    let (cache, clock) =
        cache(|cache| cache.stale_if_error(secs(90)).background(start).soft_timeout(secs(1)));
    for done in [true, false] {
        clock.advance(secs(20));
        let asks = cache.clone();
        let caller = tokio::spawn(async move { asks.get_or_refresh("a", || ready(Ok::<_, &str>(2))).await });
        let job = loop {
            match jobs.try_recv() {
                Ok(job) => break job,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        // It waits by now: the other task ran until it had to.
        tokio::task::yield_now().await;
        if done {
            job.await;
        } else {
            drop(job);
        }
        let answer = tokio::time::timeout(secs(60), caller).await.expect("nobody woke it").unwrap();
        assert_eq!(answer, Ok(2));
    }
}

#[test]
fn a_refresh_that_takes_long_keeps_others_from_loading() {
    let (cache, clock) = cache(|cache| cache.stale_while_revalidate(secs(900)));
    clock.advance(secs(10));
    let mut refresh = Box::pin(cache.get_or_load("a", pending::<Result<u32, &str>>));
    assert!(poll(&mut refresh).is_pending());
    for _ in 0..10 {
        clock.advance(secs(11));
        assert_eq!(ask(&cache), 1);
    }
    drop(refresh);
    clock.advance(secs(11));
    assert_eq!(load(&cache, Ok(2)), Ok(2));
}

#[test]
fn a_thread_does_not_wait_longer_than_the_soft_timeout_either() {
    let gate = Arc::new(Barrier::new(2));
    let (started, starts) = mpsc::channel();
    let started = Mutex::new(started);
    let (cache, clock) = cache(|cache| {
        cache.stale_if_error(Duration::MAX).soft_timeout(secs(1)).background(move |job: Job| {
            std::thread::spawn(|| job.run());
            started.lock().unwrap().send(()).unwrap();
        })
    });
    clock.advance(secs(10));
    let caller = {
        let (cache, gate) = (cache.clone(), gate.clone());
        std::thread::spawn(move || {
            cache.get_or_refresh_blocking("a", move || {
                gate.wait();
                Ok::<_, &str>(2)
            })
        })
    };
    starts.recv().unwrap();
    // It may not wait yet.
    while !caller.is_finished() {
        clock.advance(secs(1));
        std::thread::yield_now();
    }
    assert_eq!(caller.join().unwrap(), Ok(1));
    gate.wait();
    while cache.get("a").is_none() {
        std::thread::yield_now();
    }
    assert_eq!(cache.get("a"), Some(2));
}

/// Traps 2 and 3: what is written or removed while a refresh runs is not undone by it.
#[test]
fn a_refresh_brings_nothing_back_and_overtakes_nothing() {
    type Change = fn(&Numbers);
    let changes: [(Change, Option<u32>); 6] = [
        (|cache| _ = cache.remove("a"), None),
        (|cache| cache.clear(), None),
        (|cache| cache.retain(|_, value| *value != 1), None),
        (|cache| _ = cache.remove_if("a", |_| true), None),
        (|cache| cache.insert("a".into(), 7).unwrap(), Some(7)),
        // The same value again, but not the same entry.
        (
            |cache| {
                cache.insert("a".into(), 7).unwrap();
                cache.insert("a".into(), 1).unwrap();
            },
            Some(1),
        ),
    ];
    for result in [Ok(2), Err("down")] {
        for (number, (change, left)) in changes.into_iter().enumerate() {
            for age in [secs(5), secs(12), secs(50)] {
                let (start, jobs) = jobs();
                let (cache, clock) = cache(|cache| {
                    let cache =
                        cache.refresh_ahead(0.5).stale_while_revalidate(secs(10)).stale_if_error(secs(90));
                    cache.background(start)
                });
                clock.advance(age);
                let gate = Arc::new(AtomicU32::new(0));
                let opened = gate.clone();
                let load = move || async move {
                    std::future::poll_fn(|_| {
                        if opened.load(Ordering::SeqCst) == 1 { Poll::Ready(()) } else { Poll::Pending }
                    })
                    .await;
                    result
                };
                // Beyond the window, whoever asks waits.
                let mut caller = Box::pin(cache.get_or_refresh("a", load));
                let answered = poll(&mut caller);
                let mut job = jobs.try_recv().ok().map(Box::pin);
                assert!(job.as_mut().is_none_or(|job| poll(job).is_pending()));
                change(&cache);
                gate.store(1, Ordering::SeqCst);
                match &mut job {
                    Some(job) => {
                        assert_eq!(answered, Poll::Ready(Ok(1)));
                        assert!(poll(job).is_ready());
                    }
                    None => {
                        let answer = poll(&mut caller);
                        let expected = result.map_err(Error::Inner);
                        assert_eq!(
                            answer,
                            Poll::Ready(expected),
                            "not the old value: it was changed, by {number}"
                        );
                    }
                }
                assert_eq!(cache.peek("a"), left, "change {number} at {age:?}, {result:?}");
            }
        }
    }
}

/// Trap 25.
#[test]
fn what_is_counted_is_what_users_asked() {
    let (start, jobs) = jobs();
    let (cache, clock) = cache(|cache| cache.refresh_ahead(0.5).stale_if_error(secs(90)).background(start));
    let mut asked = 0;
    for round in 0..50 {
        clock.advance(secs(1));
        let result = if round % 3 == 0 { Err("down") } else { Ok(round) };
        let _ = cache.get_or_refresh_blocking("a", move || result);
        asked += 1;
        while let Ok(job) = jobs.try_recv() {
            job.run();
        }
    }
    let stats = cache.stats();
    assert_eq!(stats.hits + stats.misses, asked);
    assert!(stats.loads > 5 && stats.load_failures > 2);
    assert_eq!(cache.hottest(1).len(), 1);
}

#[test]
fn a_thousand_callers_of_an_entry_that_is_due_load_once() {
    for window in [0, 1_000] {
        let (cache, clock) = cache(|cache| cache.refresh_ahead(0.5).stale_while_revalidate(secs(window)));
        clock.advance(secs(if window == 0 { 6 } else { 100 }));
        let loads = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..125 {
                        let value = cache.get_or_load_blocking("a", || {
                            loads.fetch_add(1, Ordering::SeqCst);
                            std::thread::yield_now();
                            Ok::<_, &str>(2)
                        });
                        assert!(matches!(value, Ok(1 | 2)));
                    }
                });
            }
        });
        assert_eq!((loads.into_inner(), ask(&cache)), (1, 2));
    }
}

#[test]
fn a_refresh_that_panics_tells_its_caller_and_leaves_what_is_there() {
    let (cache, clock) = cache(|cache| cache.refresh_ahead(0.5).stale_if_error(secs(90)));
    for age in [5, 6] {
        clock.advance(secs(age));
        let panics = || cache.get_or_load_blocking("a", || -> Result<u32, &str> { panic!("as planned") });
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    }
    assert_eq!(load(&cache, Err("down")), Ok(1));
    clock.advance(secs(2));
    assert_eq!(load(&cache, Ok(2)), Ok(2));
}

#[test]
fn what_is_not_there_is_known_for_a_time_of_its_own() {
    let clock = Clock::manual();
    let users = Cache::builder(100).ttl(secs(60)).negative_ttl(secs(5)).clock(clock.clone()).build();
    let loads = Cell::new(0);
    let find = |user: Option<&'static str>| {
        users.get_or_load_blocking(&7, || {
            loads.set(loads.get() + 1);
            Ok::<_, ()>(user)
        })
    };
    assert_eq!((find(None), find(Some("ann"))), (Ok(None), Ok(None)));
    clock.advance(secs(5));
    assert_eq!((find(Some("ann")), find(None)), (Ok(Some("ann")), Ok(Some("ann"))));
    clock.advance(secs(59));
    assert_eq!(find(None), Ok(Some("ann")));
    assert_eq!(loads.get(), 2);
}

#[test]
fn the_time_of_loads_is_counted() {
    let (cache, clock) = cache(|cache| cache);
    for (took, result) in [(3, Ok(1)), (5, Err("down"))] {
        cache.remove("a");
        let _ = cache.get_or_load_blocking("a", || {
            clock.advance(secs(took));
            result
        });
    }
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.load_failures, stats.load_time), (1, 1, secs(8)));
    assert_eq!(stats.mean_load_time(), secs(4));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    /// Nobody gets what is older than allowed, nobody loads without need, and no failure is told while there is something
    /// to give out.
    #[test]
    fn what_is_given_out_is_as_old_as_was_allowed(
        ahead in 0.0f64..1.0,
        revalidate in 0u64..20,
        on_error in 0u64..40,
        steps in prop::collection::vec((0u64..20, any::<bool>(), 0u8..3), 1..80),
    ) {
        let clock = Clock::manual();
        let ttl = 10;
        let cache = Cache::builder(10).ttl(secs(ttl)).refresh_ahead(ahead).stale_while_revalidate(secs(revalidate))
            .stale_if_error(secs(on_error)).clock(clock.clone()).build();
        // The value is when it was made.
        let mut now = 0u64;
        for (wait, fails, step) in steps {
            clock.advance(secs(wait));
            now += wait;
            if step == 0 {
                if let Some(made) = cache.get(&1) {
                    prop_assert!(now - made < ttl);
                }
                continue;
            }
            let before = cache.iter().next().map(|(_, made)| made);
            let loaded = Cell::new(false);
            let got = cache.get_or_load_blocking(&1, || {
                loaded.set(true);
                if fails { Err("down") } else { Ok(now) }
            });
            match got {
                Ok(made) if made == now => {}
                Ok(made) => {
                    let age = now - made;
                    prop_assert!(age < ttl + revalidate.max(on_error), "{} old", age);
                    prop_assert!(!loaded.get() || fails, "a load that succeeds is what its caller gets");
                }
                Err(_) => {
                    prop_assert!(loaded.get() && fails && before.is_none());
                }
            }
            if let Some(made) = before {
                if loaded.get() {
                    prop_assert!((now - made) as f64 >= ahead * ttl as f64 - 0.001, "not due");
                }
            }
        }
    }
}

#[test]
fn a_soft_timeout_needs_somebody_who_finishes_the_load() {
    let build = || Cache::<u32, u32>::builder(1).soft_timeout(secs(1)).build();
    let panic = catch_unwind(AssertUnwindSafe(build)).unwrap_err();
    assert_eq!(
        *panic.downcast_ref::<&str>().unwrap(),
        "soft_timeout: needs a background, which finishes the load"
    );
}

/// XFetch: with reads a second apart and loads of a second, the chance that none of them is early is the product of
/// 1 - e^(-k / beta) over all k.
#[test]
fn as_many_entries_are_refreshed_early_as_expected() {
    const ENTRIES: u32 = 4_000;
    let early = |beta: f64, seed: u64| {
        let clock = Clock::manual();
        let cache =
            Cache::builder(100_000).ttl(secs(100)).refresh_early(beta).seed(seed).clock(clock.clone());
        let cache: Cache<u32, u32> = cache.build();
        let (mut early, mut ahead) = (0u32, 0u64);
        for key in 0..ENTRIES {
            let load = |takes| {
                clock.advance(secs(takes));
                Ok::<_, ()>(7)
            };
            cache.get_or_load_blocking(&key, || load(1)).unwrap();
            clock.advance(secs(40));
            for left in (1..60).rev() {
                clock.advance(secs(1));
                let mut was_early = false;
                cache
                    .get_or_load_blocking(&key, || {
                        was_early = true;
                        load(0)
                    })
                    .unwrap();
                if was_early {
                    early += 1;
                    ahead += left;
                    break;
                }
            }
        }
        (early, ahead as f64 / f64::from(early))
    };
    for beta in [1.0, 0.5, 3.0] {
        let (mut none, mut ahead) = (1.0, 0.0);
        for left in (1..60).rev().map(f64::from) {
            let chance = (-left / beta).exp();
            ahead += none * chance * left;
            none *= 1.0 - chance;
        }
        let (expected, deviation) =
            (f64::from(ENTRIES) * (1.0 - none), (f64::from(ENTRIES) * none * (1.0 - none)).sqrt());
        let (count, mean) = early(beta, 7);
        assert!((f64::from(count) - expected).abs() < 4.0 * deviation, "{count} of {expected} for {beta}");
        let mean_expected = ahead / (1.0 - none);
        assert!((mean - mean_expected).abs() < 0.1 * mean_expected, "{mean} for {mean_expected}");
    }
    assert_eq!(early(1.0, 7), early(1.0, 7));
    assert_ne!(early(1.0, 7), early(1.0, 8));
}

#[test]
fn what_was_not_loaded_is_not_refreshed_early_and_who_sets_another_rule_has_that() {
    let clock = Clock::manual();
    let cache = Cache::builder(100).ttl(secs(100)).refresh_ahead(0.5).refresh_early(1e9).clock(clock.clone());
    let cache: Cache<u32, u32> = cache.build();
    cache.insert(1, 1).unwrap();
    clock.advance(secs(100) - nanos(2));
    assert_eq!(cache.get_or_load_blocking(&1, || Ok::<_, ()>(2)), Ok(1));
    let cache = Cache::builder(100).ttl(secs(100)).refresh_early(1e9).refresh_ahead(0.5).clock(clock.clone());
    let cache: Cache<u32, u32> = cache.build();
    cache.insert(1, 1).unwrap();
    clock.advance(secs(49));
    assert_eq!(cache.get_or_load_blocking(&1, || Ok::<_, ()>(2)), Ok(1));
    clock.advance(secs(1));
    assert_eq!(cache.get_or_load_blocking(&1, || Ok::<_, ()>(2)), Ok(2));
}

#[test]
fn shares_and_times_at_their_ends_do_what_they_say() {
    let (cache, clock) = cache(|cache| cache.refresh_ahead(0.0).stale_if_error(Duration::MAX));
    assert_eq!(load(&cache, Ok(2)), Ok(2), "always due");
    clock.advance(Duration::from_secs(3_000_000_000));
    assert_eq!(load(&cache, Err("down")), Ok(2), "for ever");
    let cache = Cache::builder(9).refresh_ahead(0.5).build();
    cache.insert("a".to_string(), 1).unwrap();
    assert_eq!(ask(&cache), 1, "what lives for ever is never due");
}

//! Loads of a cache: one per key at a time, kept unless the key was changed meanwhile; trap numbers are those of the
//! cache's design page.
#![cfg(not(floodwall_loom))]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use floodwall::cache::{Compute, Entry};
use floodwall::{Blocking, Bulkhead, Cache, Call, Clock, Error, Policy, Reason, TimedOut, block_on};
use support::{poll, secs};
use tokio::sync::oneshot;

type Users = Cache<u8, u32>;
type Teller = oneshot::Sender<Result<u32, &'static str>>;
type Loading<'a> = Pin<Box<dyn Future<Output = Result<u32, Error<&'static str>>> + Send + 'a>>;

/// A load that ends when it is told with what.
fn loading<'a>(users: &'a Users, key: &'a u8) -> (Teller, Loading<'a>) {
    let (sender, receiver) = oneshot::channel();
    (sender, Box::pin(users.get_or_load(key, || async { receiver.await.unwrap() })))
}

fn is_recursive<T, E>(result: Result<T, Error<E>>) -> bool {
    matches!(result, Err(Error::Rejected(rejected)) if rejected.reason() == Reason::Recursive)
}

#[test]
fn a_thousand_callers_load_once() {
    let users = Users::new(100);
    let (gives, mut first) = loading(&users, &1);
    assert!(poll(&mut first).is_pending());
    let mut others: Vec<_> =
        (0..999).map(|_| Box::pin(users.get_or_load(&1, async || Err::<u32, _>("loaded twice")))).collect();
    assert!(others.iter_mut().all(|other| poll(other).is_pending()));
    gives.send(Ok(7)).unwrap();
    assert_eq!(poll(&mut first), Poll::Ready(Ok(7)));
    assert!(others.iter_mut().all(|other| poll(other) == Poll::Ready(Ok(7))));
    assert_eq!(users.get_or_load_blocking(&1, || Err::<u32, _>("loaded twice")), Ok(7));
    assert_eq!((users.stats().loads, users.stats().load_failures), (1, 0));
}

#[test]
fn threads_and_tasks_wait_for_the_same_load() {
    let users = Users::new(100);
    let (gives, mut task) = loading(&users, &1);
    assert!(poll(&mut task).is_pending());
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| users.get_or_load_blocking(&1, || Ok::<_, ()>(7)));
        gives.send(Ok(7)).unwrap();
        assert_eq!(poll(&mut task), Poll::Ready(Ok(7)));
        assert_eq!(thread.join().unwrap(), Ok(7));
    });
    assert_eq!(users.stats().loads, 1);
}

/// Traps 1 and 3: whatever changes the key while it is loaded, the load answers its caller and is not kept.
#[test]
fn trap_1_a_load_that_races_a_change_is_not_kept() {
    type Change = fn(&Users);
    let changes: [(Change, Option<u32>); 6] = [
        (|users| users.clear(), None),
        (|users| assert_eq!(users.remove(&1), None), None),
        (|users| users.retain(|_, _| true), None),
        (|users| users.insert(1, 2).unwrap(), Some(2)),
        // Trap 3: the same value again, and gone again.
        (
            |users| {
                users.insert(1, 1).unwrap();
                users.remove(&1);
            },
            None,
        ),
        (|users| assert_eq!(users.remove_tag(&1_u32), 0), None),
    ];
    for (number, (change, left)) in changes.into_iter().enumerate() {
        let users = Users::builder(100).tags(|_, value: &u32| [*value]).build();
        let (gives, mut old) = loading(&users, &1);
        assert!(poll(&mut old).is_pending());
        change(&users);
        gives.send(Ok(1)).unwrap();
        assert_eq!(poll(&mut old), Poll::Ready(Ok(1)), "change {number}");
        assert_eq!(users.peek(&1), left, "change {number}");
        if left.is_none() {
            assert_eq!(users.get_or_load_blocking(&1, || Ok::<_, ()>(9)), Ok(9));
        }
    }
}

/// Trap 2: of two loads that overlap, the older one finishes last.
#[test]
fn trap_2_an_older_load_does_not_replace_a_newer_one() {
    let users = Users::new(100);
    let (gives_old, mut old) = loading(&users, &1);
    assert!(poll(&mut old).is_pending());
    users.remove(&1);
    let (gives_new, mut new) = loading(&users, &1);
    assert!(poll(&mut new).is_pending());
    gives_new.send(Ok(2)).unwrap();
    assert_eq!(poll(&mut new), Poll::Ready(Ok(2)));
    gives_old.send(Ok(1)).unwrap();
    assert_eq!((poll(&mut old), users.get(&1)), (Poll::Ready(Ok(1)), Some(2)));
}

#[test]
fn who_takes_over_does_not_load_what_has_come_meanwhile() {
    let users = Users::new(100);
    let (_gives, mut first) = loading(&users, &1);
    assert!(poll(&mut first).is_pending());
    let mut second = Box::pin(users.get_or_load(&1, async || Err::<u32, _>("loaded twice")));
    assert!(poll(&mut second).is_pending());
    users.insert(1, 2).unwrap();
    drop(first);
    assert_eq!((poll(&mut second), users.stats().loads), (Poll::Ready(Ok(2)), 0));
}

#[test]
fn trap_4_no_update_of_threads_that_compute_is_lost() {
    let users = Users::new(100);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..250 {
                    users.compute_blocking(&1, |old| Compute::Put(old.map_or(1, |old| old + 1))).unwrap();
                }
            });
        }
    });
    assert_eq!(users.get(&1), Some(1000));
}

#[test]
fn trap_4_a_value_that_is_changed_while_it_is_computed_is_computed_again() {
    let users = Users::new(100);
    users.insert(1, 1).unwrap();
    let mut seen = Vec::new();
    let value = users.compute_blocking(&1, |old| {
        seen.push(*old.unwrap());
        if seen.len() == 1 {
            users.insert(1, 10).unwrap();
        }
        Compute::Put(seen.last().unwrap() + 1)
    });
    assert_eq!((value, users.get(&1)), (Ok(Some(11)), Some(11)));
    assert_eq!(seen, [1, 10]);
    assert_eq!(users.compute_blocking(&1, |_| Compute::Keep), Ok(Some(11)));
    assert_eq!(users.compute_blocking(&1, |_| Compute::Remove), Ok(None));
    assert_eq!(users.compute_blocking(&1, |_| Compute::Keep), Ok(None));
}

#[test]
fn trap_5_a_load_that_asks_for_its_own_key_is_told_so() {
    let users = Users::new(100);
    let outer = users.get_or_load_blocking(&1, || {
        assert!(is_recursive(users.get_or_load_blocking(&1, || Ok::<_, ()>(1))));
        assert!(users.compute_blocking(&1, |_| Compute::Put(1)).is_err());
        assert!(users.entry_blocking(&1).is_err());
        assert!(is_recursive(users.get_many_blocking(&[1], |_| Ok::<_, ()>([(1, 1)]))));
        users.get_or_load_blocking(&2, || Ok::<_, ()>(2))
    });
    assert_eq!((outer, users.get(&2)), (Ok(2), Some(2)));
    let many = block_on(users.get_many(&[3, 4], async |_| {
        assert!(is_recursive(users.get_or_load(&4, async || Ok::<_, ()>(4)).await));
        Ok::<_, ()>([(3, 3)])
    }));
    assert_eq!(many, Ok(vec![Some(3), None]));
}

#[test]
fn trap_6_a_load_that_panics_leaves_the_key_to_the_next() {
    let users = Users::new(100);
    let panics = catch_unwind(AssertUnwindSafe(|| {
        users.get_or_load_blocking(&1, || if true { panic!("in the load") } else { Ok::<_, ()>(0) })
    }));
    assert!(panics.is_err());
    assert_eq!(users.get_or_load_blocking(&1, || Ok::<_, ()>(1)), Ok(1));
    assert_eq!((users.stats().loads, users.stats().load_failures), (1, 1));
}

/// Trap 7, at every await point: of three callers one is dropped; the others get a value, of one load at a time.
#[test]
fn trap_7_callers_cancelled_at_any_await_point_leave_the_others_a_load() {
    for (number, polls) in (0..3).flat_map(|number| (0..6).map(move |polls| (number, polls))) {
        let users = Users::new(100);
        let running = AtomicU64::new(0);
        let load = async || {
            struct Ends<'a>(&'a AtomicU64);
            impl Drop for Ends<'_> {
                fn drop(&mut self) {
                    self.0.fetch_sub(1, Ordering::Relaxed);
                }
            }
            assert_eq!(running.fetch_add(1, Ordering::Relaxed), 0, "two loads at a time");
            let _ends = Ends(&running);
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            Ok::<_, ()>(1)
        };
        let mut callers: Vec<_> = (0..3).map(|_| Some(Box::pin(users.get_or_load(&1, load)))).collect();
        let mut ended = 0;
        for round in 0..20 {
            if round == polls {
                callers[number] = None;
            }
            for caller in &mut callers {
                if let Some(Poll::Ready(answer)) = caller.as_mut().map(poll) {
                    assert_eq!(answer, Ok(1));
                    ended += 1;
                    *caller = None;
                }
            }
        }
        assert!(ended >= 2, "caller {number} dropped after {polls} polls: {ended} ended");
        assert_eq!((running.load(Ordering::Relaxed), users.get(&1)), (0, Some(1)));
    }
}

/// Trap 8.
#[test]
fn trap_8_a_guard_that_is_dropped_or_overtaken_leaves_nothing() {
    let users: Cache<Arc<u8>, Arc<u8>> = Cache::new(100);
    let (key, value) = (Arc::new(1), Arc::new(2));
    let guard = || match users.try_entry(&key) {
        Some(Entry::Vacant(guard)) => guard,
        _ => panic!("nobody loads it"),
    };
    drop(guard());
    let overtaken = guard();
    users.insert(key.clone(), value.clone()).unwrap();
    assert!(!overtaken.insert(Arc::new(3)));
    assert_eq!(users.get(&key).as_deref(), Some(&2));
    let dropped = users.remove(&key).map(|_| guard());
    users.insert(key.clone(), value.clone()).unwrap();
    drop(dropped);
    assert_eq!(users.remove(&key), Some(value.clone()));
    assert_eq!((Arc::strong_count(&key), Arc::strong_count(&value)), (1, 1));
    assert!(guard().insert(value.clone()));
}

#[test]
fn who_waits_for_a_guard_gets_its_value_or_takes_over() {
    let users = Users::new(100);
    let Ok(Entry::Vacant(first)) = users.entry_blocking(&1) else { panic!("vacant") };
    let mut second = Box::pin(users.entry(&1));
    let (gives, mut third) = loading(&users, &1);
    assert!(poll(&mut second).is_pending());
    assert!(poll(&mut third).is_pending());
    drop(first);
    let Poll::Ready(Ok(Entry::Vacant(guard))) = poll(&mut second) else { panic!("it takes over") };
    assert_eq!(guard.key(), &1);
    assert!(guard.insert(5));
    assert_eq!(poll(&mut third), Poll::Ready(Ok(5)));
    drop(gives);
}

/// Trap 9.
#[test]
fn trap_9_a_listener_may_use_the_cache() {
    let handle: Arc<std::sync::OnceLock<Users>> = Arc::default();
    let inside = handle.clone();
    let users = Users::builder(1)
        .listener(move |key, value, _| {
            let users = inside.get().unwrap();
            if *value < 100 {
                users.remove(key);
                assert_eq!(
                    users.get_or_load_blocking(&(key + 100), || Ok::<_, ()>(value + 100)),
                    Ok(value + 100)
                );
            }
        })
        .build();
    handle.set(users.clone()).ok().unwrap();
    for key in 0..3 {
        assert_eq!(users.get_or_load_blocking(&key, || Ok::<_, ()>(u32::from(key))), Ok(u32::from(key)));
    }
    assert!(users.len() <= 1);
    handle.get().unwrap().set_capacity(0);
}

#[test]
fn many_keys_take_one_load_for_what_nobody_loads() {
    let users = Users::new(100);
    users.insert(1, 1).unwrap();
    let (gives, mut other) = loading(&users, &2);
    assert!(poll(&mut other).is_pending());
    let calls = AtomicU64::new(0);
    let mut many = Box::pin(users.get_many(&[1, 2, 3, 3, 4], async |missing| {
        calls.fetch_add(1, Ordering::Relaxed);
        assert_eq!(missing, [3, 4]);
        Ok::<_, &str>(vec![(3, 3), (9, 9)])
    }));
    assert!(poll(&mut many).is_pending());
    gives.send(Ok(2)).unwrap();
    assert_eq!(poll(&mut other), Poll::Ready(Ok(2)));
    assert_eq!(poll(&mut many), Poll::Ready(Ok(vec![Some(1), Some(2), Some(3), Some(3), None])));
    assert_eq!((calls.load(Ordering::Relaxed), users.get(&3), users.contains(&9)), (1, Some(3), false));
}

#[test]
fn many_keys_whose_loader_fails_elsewhere_are_loaded_here() {
    let users = Users::new(100);
    let (fails, mut other) = loading(&users, &2);
    assert!(poll(&mut other).is_pending());
    let mut many = Box::pin(users.get_many(&[2], async |missing| {
        Ok::<_, ()>(missing.into_iter().map(|key| (key, u32::from(key))).collect::<Vec<_>>())
    }));
    assert!(poll(&mut many).is_pending());
    fails.send(Err("down")).unwrap();
    assert_eq!(poll(&mut other), Poll::Ready(Err(Error::Inner("down"))));
    assert_eq!(poll(&mut many), Poll::Ready(Ok(vec![Some(2)])));
}

#[test]
fn two_calls_for_many_keys_that_cross_each_other_both_end() {
    let users = Users::new(100);
    let load = async |missing: Vec<u8>| {
        tokio::task::yield_now().await;
        Ok::<_, ()>(missing.into_iter().map(|key| (key, 1)).collect::<Vec<_>>())
    };
    let mut calls = [
        Box::pin(users.get_many(&[1, 2, 3], load)),
        Box::pin(users.get_many(&[3, 4, 1], load)),
        Box::pin(users.get_many(&[4, 2, 5], load)),
    ];
    let mut ended = [false; 3];
    for _ in 0..10 {
        for (call, ended) in calls.iter_mut().zip(&mut ended).filter(|(_, ended)| !**ended) {
            if let Poll::Ready(values) = poll(call) {
                assert_eq!(values, Ok(vec![Some(1); 3]));
                *ended = true;
            }
        }
    }
    assert_eq!((ended, users.stats().loads), ([true; 3], 5));
}

#[test]
fn a_hit_does_not_go_further_in_and_a_miss_does_once() {
    let (users, upstream, clock) = (Users::new(100), Bulkhead::new(1), Clock::manual());
    let id = 7;
    let stack = (users.at(&id), &upstream);
    let load = || async {
        tokio::task::yield_now().await;
        Ok::<_, &str>(1)
    };
    let mut calls: Vec<_> = (0..3).map(|_| Box::pin(stack.call(load))).collect();
    assert!(calls.iter_mut().all(|call| poll(call).is_pending()));
    assert_eq!(upstream.running(), 1);
    assert!(calls.iter_mut().all(|call| poll(call) == Poll::Ready(Ok(1))));
    assert_eq!(stack.call_blocking(|| Err("a hit runs nothing")), Ok(1));

    let users = Users::builder(100).clock(clock.clone()).name("users").build();
    let (_never, mut first) = loading(&users, &1);
    assert!(poll(&mut first).is_pending());
    let call = Call::new().deadline(clock.now() + secs(1));
    let at = users.at(&1);
    let mut late = Box::pin(at.call_with(call, |_| async { Ok::<_, ()>(1) }));
    assert!(poll(&mut late).is_pending());
    clock.advance(secs(1));
    assert_eq!(poll(&mut late), Poll::Ready(Err(TimedOut::new("users", secs(1)).into())));
}

/// The line of the design page.
#[tokio::test]
async fn a_cache_joins_a_stack_where_the_key_is_known() {
    async fn fetch_user(id: u64) -> std::io::Result<String> {
        Ok(format!("user {id}"))
    }
    let users: Cache<u64, String> = Cache::new(10_000);
    let upstream = Arc::new(Bulkhead::new(8));
    let handle = users.clone();
    let user = tokio::spawn(async move {
        let id = 7;
        match (handle.at(&id), &upstream).call(|| fetch_user(id)).await {
            Ok(user) => user,
            Err(Error::Inner(error)) => error.to_string(),
            Err(Error::Rejected(rejected)) => rejected.to_string(),
            Err(Error::TimedOut(timed_out)) => timed_out.to_string(),
        }
    });
    assert_eq!(user.await.unwrap(), "user 7");
    assert_eq!(users.get(&7).as_deref(), Some("user 7"));
}

//! Queues, at literal times.
//!
//! The traps that other queues fell into have numbers, which the tests name. 2 to 4 (those who leave), 18, 23 to 25, 27 to 29 and
//! 32 are here, in `queue_cancel.rs` and, as a whole, in `queue_model.rs`; 26 (CoDel's vectors) in `src/discipline/codel.rs`; 30
//! to 32 in `workers.rs`; 33 (places taken by services that are ready and never called) in `tower.rs`; 34 (processors taken by
//! those who wait) in `queue_idle.rs`.
#![cfg(not(floodwall_loom))]

mod support;

use std::sync::{Arc, Mutex};
use std::task::Poll;

use floodwall::{Call, Clock, DropReason, Overflow, PopError, Priorities, Queue, Reason};
use support::{Wakes, millis, poll, secs};

fn all(queue: &Queue<u32>) -> Vec<u32> {
    std::iter::from_fn(|| queue.try_pop().ok()).collect()
}

/// Trap 3: a popper that was granted an item and is dropped loses nothing, and order is kept.
#[test]
fn a_cancelled_pop_leaves_its_item_in_place() {
    let queue = Queue::new(4);
    for round in 0..200 {
        let mut cancelled = Box::pin(queue.pop());
        let mut next = Box::pin(queue.pop());
        assert!(poll(&mut cancelled).is_pending() && poll(&mut next).is_pending());
        queue.try_push(round).unwrap();
        drop(cancelled);
        assert_eq!(poll(&mut next), Poll::Ready(Ok(round)));
    }
    assert_eq!(queue.stats().popping, 0);
}

/// An item is not kept for a popper that was woken, which may take long to come; but its place in the line is.
#[test]
fn a_woken_popper_that_finds_nothing_stays_first() {
    let queue = Queue::new(4);
    let (mut first, mut second) = (Box::pin(queue.pop()), Box::pin(queue.pop()));
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
    queue.try_push(1).unwrap();
    assert_eq!(queue.try_pop(), Ok(1));
    assert!(poll(&mut first).is_pending());
    queue.try_push(2).unwrap();
    assert!(poll(&mut second).is_pending());
    assert_eq!(poll(&mut first), Poll::Ready(Ok(2)));
}

/// Trap 24: a future that is kept and never polled again holds back nobody.
#[test]
fn a_forgotten_popper_or_pusher_blocks_nobody() {
    let queue = Queue::new(1);
    let mut forgotten = Box::pin(queue.pop());
    assert!(poll(&mut forgotten).is_pending());
    std::mem::forget(forgotten);
    queue.try_push(1).unwrap();
    let mut other = Box::pin(queue.pop());
    assert_eq!(poll(&mut other), Poll::Ready(Ok(1)));

    queue.try_push(2).unwrap();
    let mut forgotten = Box::pin(queue.push(3));
    assert!(poll(&mut forgotten).is_pending());
    std::mem::forget(forgotten);
    assert_eq!(all(&queue), [2, 3]);
    queue.try_push(4).unwrap();
    assert_eq!(all(&queue), [4]);
}

#[test]
fn a_cancelled_push_gives_its_item_back_or_has_delivered_it() {
    let queue = Queue::new(1);
    queue.try_push(1).unwrap();
    let (mut outside, mut inside) = (Box::pin(queue.push(2)), Box::pin(queue.push(3)));
    assert!(poll(&mut outside).is_pending() && poll(&mut inside).is_pending());
    assert_eq!(outside.as_mut().cancel(), Some(2));
    assert_eq!(queue.try_pop(), Ok(1));
    assert_eq!(inside.as_mut().cancel(), None);
    assert_eq!(queue.try_pop(), Ok(3));
}

/// Traps 24 and 25: polling again adds no place in the line, and only the last waker is woken, once for each item.
#[test]
fn a_pending_pop_has_one_place_and_one_waker() {
    let queue = Queue::new(4);
    let (old, new) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
    let mut pop = Box::pin(queue.pop());
    for _ in 0..10_000 {
        assert!(old.poll(&mut pop).is_pending());
    }
    assert!(new.poll(&mut pop).is_pending());
    assert_eq!(queue.stats().popping, 1);
    queue.try_push(1).unwrap();
    queue.try_push(2).unwrap();
    assert_eq!((old.count(), new.count()), (0, 1));
}

#[test]
fn each_item_wakes_one_who_waits_and_room_wakes_one_who_pushes() {
    let queue = Queue::new(2);
    let wakes: [Arc<Wakes>; 3] = Default::default();
    let count = || [0, 1, 2].map(|at: usize| wakes[at].take());
    let mut pops: Vec<_> = wakes.iter().map(|_| Box::pin(queue.pop())).collect();
    assert!(pops.iter_mut().zip(&wakes).all(|(pop, wakes)| wakes.poll(pop).is_pending()));
    queue.try_push(1).unwrap();
    assert_eq!(count(), [1, 0, 0]);
    queue.try_push(2).unwrap();
    assert_eq!(count(), [0, 1, 0]);
    // Who leaves passes it on, to whom nobody has woken yet.
    drop(pops);
    assert_eq!(count(), [0, 0, 1]);

    let mut pushes: Vec<_> = (3..=5).map(|item| Box::pin(queue.push(item))).collect();
    assert!(pushes.iter_mut().zip(&wakes).all(|(push, wakes)| wakes.poll(push).is_pending()));
    queue.try_pop().unwrap();
    assert_eq!(count(), [1, 0, 0]);
}

/// Trap 18: closed, a queue wakes all who wait, and has something for them or not.
#[test]
fn a_queue_that_is_closed_ends_every_wait() {
    let queue = Queue::new(2);
    let (mut first, mut second) = (Box::pin(queue.pop()), Box::pin(queue.pop()));
    let wakes = Arc::new(Wakes::default());
    assert!(poll(&mut first).is_pending() && wakes.poll(&mut second).is_pending());
    queue.try_push(1).unwrap();
    assert_eq!(wakes.count(), 0);
    queue.close();
    assert_eq!(wakes.count(), 1);
    assert_eq!(poll(&mut second), Poll::Ready(Ok(1)));
    assert_eq!(poll(&mut first), Poll::Ready(Err(PopError::Closed)));
    assert_eq!(queue.stats().popping, 0);
}

/// Trap 24: woken for an item and forgotten, a popper holds it back from those who wait no longer than until the next one
/// comes or the queue is closed, and from those who come not at all.
#[test]
fn a_popper_that_is_forgotten_once_it_was_woken_loses_no_item() {
    let queue = Queue::new(4);
    let wakes = Arc::new(Wakes::default());
    let (mut forgotten, mut waits) = (Box::pin(queue.pop()), Box::pin(queue.pop()));
    assert!(poll(&mut forgotten).is_pending() && wakes.poll(&mut waits).is_pending());
    queue.try_push(1).unwrap();
    std::mem::forget(forgotten);
    queue.try_push(2).unwrap();
    assert_eq!(wakes.take(), 1);
    assert_eq!(poll(&mut waits), Poll::Ready(Ok(1)));
    assert_eq!(queue.try_pop(), Ok(2));

    let mut waits = Box::pin(queue.pop());
    assert!(wakes.poll(&mut waits).is_pending());
    queue.try_push(3).unwrap();
    queue.close();
    assert_eq!(wakes.count(), 1);
    assert_eq!(poll(&mut waits), Poll::Ready(Ok(3)));
    assert_eq!(queue.try_pop(), Err(PopError::Closed));
}

/// Trap 25: a loser of a race that is dropped takes nothing along, whichever of them was woken.
#[test]
fn a_race_takes_the_item_of_its_winner_only() {
    let (left, right) = (Queue::new(4), Queue::new(4));
    for round in 0..100 {
        let mut race = Box::pin(async {
            tokio::select! {
                biased;
                item = left.pop() => item,
                item = right.pop() => item,
            }
        });
        assert!(poll(&mut race).is_pending());
        right.try_push(round).unwrap();
        left.try_push(round + 100).unwrap();
        assert_eq!(poll(&mut race), Poll::Ready(Ok(round + 100)));
        drop(race);
        assert_eq!((left.try_pop(), right.try_pop()), (Err(PopError::Empty), Ok(round)));
    }
    assert_eq!((left.stats().popping, right.stats().popping), (0, 0));
}

/// Trap 27: newest first only while it lasts; the oldest are dropped then and not stuck, and order comes back.
#[test]
fn newest_first_ends_with_the_overload_and_leaves_nobody_behind() {
    let clock = Clock::manual();
    let queue =
        Queue::new(1_000).codel(millis(5), millis(100)).newest_first_when_overloaded().clock(clock.clone());
    let mut newest_first = 0;
    for item in 0..1_000 {
        queue.try_push(2 * item).unwrap();
        queue.try_push(2 * item + 1).unwrap();
        clock.advance(millis(1));
        newest_first += u32::from(queue.try_pop() == Ok(2 * item + 1));
    }
    assert!(newest_first > 500, "{newest_first}");
    let dropped = queue.stats().dropped(DropReason::Overloaded);
    // Nothing comes any more: what is too old goes, and the rest is served.
    while queue.try_pop().is_ok() {
        clock.advance(millis(1));
    }
    let stats = queue.stats();
    assert!(stats.dropped(DropReason::Overloaded) >= dropped);
    assert_eq!((stats.len, stats.pushed), (0, stats.popped + stats.dropped_in_all()));
    // Served at once for longer than an interval, it is not overloaded any more.
    for item in 0..300 {
        queue.try_push(item).unwrap();
        assert_eq!(queue.try_pop(), Ok(item));
        clock.advance(millis(1));
    }
    (1..=3).for_each(|item| queue.try_push(item).unwrap());
    assert_eq!(all(&queue), [1, 2, 3]);
}

/// What a queue that is closed at once returns comes to nobody else, and all who wait are told.
#[test]
fn closed_at_once_it_returns_what_is_inside_and_nothing_else() {
    let queue = Queue::new(1).priorities(Priorities::strict_from(200));
    let mut pop = Box::pin(queue.pop());
    assert!(poll(&mut pop).is_pending());
    queue.try_push(1).unwrap();
    let mut push = Box::pin(queue.push_for(2, Call::new().priority(255)));
    assert!(poll(&mut push).is_pending());
    assert_eq!(queue.close_now(), [1]);
    assert_eq!(poll(&mut pop), Poll::Ready(Err(PopError::Closed)));
    let Poll::Ready(Err(error)) = poll(&mut push) else { panic!("it waits at a closed queue") };
    assert_eq!((error.reason(), error.into_item()), (Reason::Closed, 2));
    assert_eq!((queue.close_now(), queue.is_closed(), queue.len()), (vec![], true, 0));
    let stats = queue.stats();
    assert_eq!((stats.popped, stats.pushing, stats.popping), (0, 0, 0));
}

/// Trap 27: pushers of a class that has used up its room do not keep another one from the places kept for it.
#[test]
fn a_class_comes_to_its_reserved_places_past_others_who_wait() {
    let queue = Queue::new(3).priorities(Priorities::strict_from(200).then(100, 1).then(0, 1).reserve(1));
    let (middle, low) = (Call::new().priority(100), Call::new().priority(0));
    queue.try_push_for(1, middle).unwrap();
    queue.try_push_for(2, middle).unwrap();
    let mut waits = Box::pin(queue.push_for(3, middle));
    assert!(poll(&mut waits).is_pending());
    queue.try_push_for(4, low).unwrap();
    let mut lower = Box::pin(queue.push_for(5, low));
    assert!(poll(&mut lower).is_pending());
    while queue.try_pop() != Ok(4) {}
    assert!(poll(&mut lower).is_ready());
}

/// Trap 4: granted and too late at the same tick, it gets the item.
#[test]
fn an_item_that_comes_at_the_deadline_is_taken_or_stays() {
    let clock = Clock::manual();
    let queue = Queue::new(4).clock(clock.clone());
    let (mut granted, mut late) = (Box::pin(queue.pop_within(secs(1))), Box::pin(queue.pop_within(secs(1))));
    assert!(poll(&mut granted).is_pending() && poll(&mut late).is_pending());
    queue.try_push(1).unwrap();
    clock.advance(secs(1));
    assert_eq!(poll(&mut granted), Poll::Ready(Ok(1)));
    assert_eq!(poll(&mut late), Poll::Ready(Err(PopError::Empty)));
}

/// Trap 28: a heavy item is refused if it can never fit, and is not passed by light ones if it can.
#[test]
fn weights_are_exact_and_a_heavy_item_is_not_starved() {
    let queue = Queue::new(100).max_weight(10);
    let weighs = |weight| Call::new().cost(weight);
    assert_eq!(queue.try_push_for(0, weighs(11)).unwrap_err().reason(), Reason::TooHeavy);
    queue.try_push_for(1, weighs(6)).unwrap();
    let mut heavy = Box::pin(queue.push_for(2, weighs(9)));
    assert!(poll(&mut heavy).is_pending());
    assert_eq!(queue.try_push_for(3, weighs(1)).unwrap_err().reason(), Reason::QueueFull);
    assert_eq!(queue.try_pop(), Ok(1));
    assert!(poll(&mut heavy).is_ready());
    assert_eq!((queue.stats().weight, queue.len()), (9, 1));
}

#[test]
fn each_overflow_drops_what_it_says() {
    let left = |overflow| {
        let dropped = Arc::new(Mutex::new(Vec::new()));
        let hears = dropped.clone();
        let queue = Queue::new(2)
            .overflow(overflow)
            .on_drop(move |item, why| hears.lock().unwrap().push((item, why)));
        let refused: Vec<u32> =
            (1..=4).filter_map(|item| queue.try_push(item).err()).map(|error| error.into_item()).collect();
        let dropped = dropped.lock().unwrap().clone();
        (all(&queue), refused, dropped)
    };
    assert_eq!(left(Overflow::Reject), (vec![1, 2], vec![3, 4], vec![]));
    let newest = vec![(3, DropReason::Newest), (4, DropReason::Newest)];
    assert_eq!(left(Overflow::DropNewest), (vec![1, 2], vec![], newest));
    let oldest = vec![(1, DropReason::Oldest), (2, DropReason::Oldest)];
    assert_eq!(left(Overflow::DropOldest), (vec![3, 4], vec![], oldest));
    let superseded = vec![(1, DropReason::Superseded), (2, DropReason::Superseded)];
    assert_eq!(left(Overflow::Latest), (vec![3, 4], vec![], superseded));
}

#[test]
fn the_lowest_class_makes_room_for_higher_ones() {
    let queue = Queue::new(2).overflow(Overflow::DropLowest);
    queue.try_push_for(1, Call::new().priority(0)).unwrap();
    queue.try_push_for(2, Call::new().priority(130)).unwrap();
    queue.try_push_for(3, Call::new().priority(200)).unwrap();
    assert_eq!(queue.try_push_for(4, Call::new().priority(0)).unwrap_err().into_item(), 4);
    assert_eq!(all(&queue), [3, 2]);
}

/// Trap 27: a class below a busy one gets its share.
#[test]
fn classes_below_the_strict_one_share_by_their_weights() {
    let queue = Queue::new(1_000).priorities(Priorities::default());
    for _ in 0..200 {
        for priority in [130, 70, 10] {
            queue.try_push_for(priority.into(), Call::new().priority(priority)).unwrap();
        }
    }
    let served: Vec<u32> = (0..70).map(|_| queue.try_pop().unwrap()).collect();
    assert_eq!([130, 70, 10].map(|class| served.iter().filter(|item| **item == class).count()), [40, 20, 10]);
}

/// Trap 29: to evict an item while all are promised takes no promise away.
#[test]
fn an_eviction_while_all_is_promised_loses_no_promise() {
    let queue = Queue::new(1).overflow(Overflow::DropOldest);
    let mut pop = Box::pin(queue.pop());
    assert!(poll(&mut pop).is_pending());
    queue.try_push(1).unwrap();
    queue.try_push(2).unwrap();
    assert_eq!(poll(&mut pop), Poll::Ready(Ok(2)));
}

/// Trap 32: closed while full, pushers get their items back and poppers what is left.
#[test]
fn closing_gives_every_item_to_somebody() {
    let queue = Queue::new(1);
    queue.try_push(1).unwrap();
    let mut push = Box::pin(queue.push(2));
    assert!(poll(&mut push).is_pending());
    queue.close();
    let Poll::Ready(Err(error)) = poll(&mut push) else { panic!("it waits at a closed queue") };
    assert_eq!((error.reason(), error.into_item()), (Reason::Closed, 2));
    assert_eq!((queue.try_pop(), queue.try_pop()), (Ok(1), Err(PopError::Closed)));
}

#[test]
fn a_queue_that_grows_lets_in_who_waits() {
    let queue = Queue::new(1);
    queue.try_push(1).unwrap();
    let mut push = Box::pin(queue.push(2));
    assert!(poll(&mut push).is_pending());
    queue.set_capacity(2).unwrap();
    assert_eq!(poll(&mut push), Poll::Ready(Ok(())));
    assert_eq!(all(&queue), [1, 2]);
}

/// Arrivals at twice the rate of service for a minute: what is served has waited less than three times the target.
#[test]
fn overload_keeps_waits_short_and_the_server_busy() {
    let clock = Clock::manual();
    let queue = Queue::new(10_000)
        .codel(millis(5), millis(100))
        .newest_first_when_overloaded()
        .priorities(Priorities::strict_from(200).then(0, 1))
        .clock(clock.clone());
    let (mut served, mut top) = (0, 0);
    for step in 0..60_000 {
        // One in ten of the served rate is of the top class.
        queue.try_push_for(step, Call::new().priority(if step % 10 == 0 { 255 } else { 0 })).unwrap();
        queue.try_push_for(1, Call::new().priority(0)).unwrap();
        clock.advance(millis(1));
        if let Ok(item) = queue.try_pop() {
            served += 1;
            top += u32::from(item % 10 == 0);
        }
    }
    let stats = queue.stats();
    assert!(served > 57_000, "{served}");
    assert!(top >= 5_999, "{top} of the top class");
    assert!(stats.wait(0.99).unwrap() < millis(15), "{:?}", stats.wait(0.99));
    assert_eq!(stats.pushed, stats.popped + stats.dropped_in_all() + stats.len as u64);
}

#[tokio::test]
async fn a_stream_and_a_sink_are_ends_of_the_same_queue() {
    use futures_util::{SinkExt, StreamExt};

    let queue = Arc::new(Queue::new(1));
    let mut sink = Queue::sink(queue.clone());
    let mut items = Queue::stream(&*queue);
    sink.feed(1).await.unwrap();
    sink.feed(2).await.unwrap();
    let (flushed, first) = tokio::join!(sink.flush(), items.next());
    assert_eq!((flushed.is_ok(), first, queue.len()), (true, Some(1), 1));
    // A stream that waits and is dropped takes nothing along, nor does a sink.
    assert_eq!(items.next().await, Some(2));
    let mut waits = Box::pin(async { items.next().await });
    assert!(poll(&mut waits).is_pending());
    queue.try_push(3).unwrap();
    drop(waits);
    drop(items);
    let mut fourth = Box::pin(sink.send(4));
    assert!(poll(&mut fourth).is_pending());
    drop(fourth);
    drop(sink);
    assert_eq!(all(&queue), [3]);
    queue.close();
    assert_eq!(Queue::stream(queue.clone()).next().await, None);
    assert_eq!(Queue::sink(queue.clone()).send(5).await.unwrap_err().into_item(), 5);
    assert_eq!((queue.stats().pushing, queue.stats().popping), (0, 0));
}

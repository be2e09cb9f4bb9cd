//! Queues whose callers leave: at every point where they wait, and at random, at both ends at once.
#![cfg(not(floodwall_loom))]

mod support;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use floodwall::{Call, Clock, Overflow, PopError, Priorities, Queue};
use support::{poll, secs};

/// What is inside, in the order in which it comes out.
fn all(queue: &Queue<u64>) -> Vec<u64> {
    std::iter::from_fn(|| queue.try_pop().ok()).collect()
}

fn nobody_waits_at(queue: &Queue<u64>) {
    let stats = queue.stats();
    assert_eq!((stats.pushing, stats.popping), (0, 0));
}

#[test]
fn a_pop_may_be_dropped_before_while_and_after_it_waits() {
    let clock = Clock::manual();
    let queue = Queue::new(4).clock(clock.clone());
    drop(queue.pop());
    let mut waits = Box::pin(queue.pop());
    assert!(poll(&mut waits).is_pending());
    drop(waits);
    let mut sleeps = Box::pin(queue.pop_within(secs(1)));
    assert!(poll(&mut sleeps).is_pending());
    drop(sleeps);
    let mut woken = Box::pin(queue.pop());
    assert!(poll(&mut woken).is_pending());
    queue.try_push(1).unwrap();
    drop(woken);
    let mut late = Box::pin(queue.pop_within(secs(1)));
    queue.try_pop().unwrap();
    assert!(poll(&mut late).is_pending());
    clock.advance(secs(1));
    queue.try_push(2).unwrap();
    drop(late);
    assert_eq!(all(&queue), [2]);
    nobody_waits_at(&queue);
}

#[test]
fn a_push_may_be_dropped_before_while_and_after_it_waits() {
    let clock = Clock::manual();
    let queue = Queue::new(1).clock(clock.clone());
    drop(queue.push(0));
    queue.try_push(1).unwrap();
    let mut waits = Box::pin(queue.push(2));
    assert!(poll(&mut waits).is_pending());
    drop(waits);
    let mut sleeps = Box::pin(queue.push_for(3, Call::new().deadline(clock.now() + secs(1))));
    assert!(poll(&mut sleeps).is_pending());
    drop(sleeps);
    let mut inside = Box::pin(queue.push(4));
    assert!(poll(&mut inside).is_pending());
    assert_eq!(queue.try_pop(), Ok(1));
    drop(inside);
    assert_eq!(all(&queue), [4]);
    nobody_waits_at(&queue);
}

/// Dropped half way, `push_many` has put in a beginning of its items, and `pop_many` has taken nothing.
#[test]
fn many_at_once_may_be_dropped_while_they_wait() {
    let queue = Queue::new(3);
    let mut pushes = Box::pin(queue.push_many(1..=9));
    assert!(poll(&mut pushes).is_pending());
    assert_eq!(queue.try_pop(), Ok(1));
    assert!(poll(&mut pushes).is_pending());
    drop(pushes);
    assert_eq!(all(&queue), [2, 3, 4]);

    let mut into = Vec::new();
    let mut pops = Box::pin(queue.pop_many(&mut into, 9));
    assert!(poll(&mut pops).is_pending());
    queue.try_push(7).unwrap();
    drop(pops);
    assert_eq!((into, all(&queue)), (vec![], vec![7]));
    nobody_waits_at(&queue);
}

/// A heavy item that waits in front and leaves makes way for a light one behind it.
#[test]
fn when_a_heavy_pusher_leaves_the_light_one_behind_it_gets_in() {
    let queue = Queue::new(9).max_weight(4);
    let weighs = |weight| Call::new().cost(weight);
    queue.try_push_for(1, weighs(2)).unwrap();
    let mut heavy = Box::pin(queue.push_for(2, weighs(4)));
    let mut light = Box::pin(queue.push_for(3, weighs(1)));
    assert!(poll(&mut heavy).is_pending() && poll(&mut light).is_pending());
    drop(heavy);
    assert_eq!(poll(&mut light), Poll::Ready(Ok(())));
    assert_eq!(all(&queue), [1, 3]);
}

/// Trap 2: woken and dropped before it looks, a popper passes its wake-up on, whoever it was.
#[test]
fn a_wake_up_is_passed_on_along_a_line_of_those_who_leave() {
    struct Count(AtomicU64);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let queue = Queue::new(4);
    let last_wakes = Arc::new(Count(AtomicU64::new(0)));
    let mut leavers: Vec<_> = (0..100).map(|_| Box::pin(queue.pop())).collect();
    assert!(leavers.iter_mut().all(|pop| poll(pop).is_pending()));
    let mut last = Box::pin(queue.pop());
    assert!(last.as_mut().poll(&mut Context::from_waker(&last_wakes.clone().into())).is_pending());
    queue.try_push(5).unwrap();
    leavers.into_iter().for_each(drop);
    assert_eq!(last_wakes.0.load(Ordering::Relaxed), 1);
    assert_eq!(poll(&mut last), Poll::Ready(Ok(5)));
}

/// Traps 23: wakers and values that come back to the queue while it wakes or drops them.
#[test]
fn a_waker_and_a_dropped_value_may_use_the_queue() {
    struct Takes(Arc<Queue<u64>>, AtomicU64);
    impl Wake for Takes {
        fn wake(self: Arc<Self>) {
            self.1.store(self.0.try_pop().unwrap(), Ordering::Relaxed);
        }
    }
    let queue = Arc::new(Queue::new(4));
    let waker = Arc::new(Takes(queue.clone(), AtomicU64::new(0)));
    let mut pop = Box::pin(queue.pop());
    assert!(pop.as_mut().poll(&mut Context::from_waker(&waker.clone().into())).is_pending());
    queue.try_push(7).unwrap();
    assert_eq!(waker.1.load(Ordering::Relaxed), 7);

    struct Returns(Arc<Queue<Option<Returns>>>);
    impl Drop for Returns {
        fn drop(&mut self) {
            self.0.try_push(None).unwrap();
        }
    }
    let queue = Arc::new(Queue::new(1).overflow(Overflow::DropOldest));
    queue.try_push(Some(Returns(queue.clone()))).unwrap();
    queue.try_push(None).unwrap();
    assert_eq!(queue.stats().dropped_in_all(), 2);
    assert!(queue.try_pop().unwrap().is_none());
}

/// A small generator, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// The operations of all threads together.
const OPERATIONS: u64 = 1_000_000;
const PRODUCERS: u64 = 2;
const CONSUMERS: u64 = 2;

/// Polls `future` some times and then leaves it.
fn impatient<F: Future>(mut future: std::pin::Pin<&mut F>, random: &mut Random) -> Option<F::Output> {
    for _ in 0..=random.below(3) {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(output);
        }
        thread::yield_now();
    }
    None
}

/// Pushes numbers, leaving at random; returns those that it got back.
fn produce(queue: &Queue<u64>, producer: u64) -> Vec<u64> {
    let mut random = Random(producer);
    let mut back = Vec::new();
    for number in 0..OPERATIONS / 2 / PRODUCERS {
        let item = number * PRODUCERS + producer;
        let returned = match random.below(4) {
            0 => queue.push_blocking(item).err().map(|error| error.into_item()),
            1 => queue.try_push(item).err().map(|error| error.into_item()),
            2 => {
                let soon = Call::new().within(Duration::from_micros(random.below(50)));
                queue.push_blocking_for(item, soon).err().map(|error| error.into_item())
            }
            _ => {
                let mut push = pin!(queue.push(item));
                match impatient(push.as_mut(), &mut random) {
                    Some(Ok(())) => None,
                    Some(Err(error)) => Some(error.into_item()),
                    None => push.cancel(),
                }
            }
        };
        back.extend(returned);
    }
    back
}

/// Pops until the queue is closed and empty, leaving at random.
fn consume(queue: &Queue<u64>, seed: u64) -> Vec<u64> {
    let mut random = Random(seed);
    let mut got = Vec::new();
    loop {
        let popped = match random.below(4) {
            0 => queue.pop_blocking(),
            1 => queue.try_pop(),
            2 => queue.pop_blocking_within(Duration::from_micros(random.below(50))),
            _ => impatient(pin!(queue.pop()), &mut random).unwrap_or(Err(PopError::Empty)),
        };
        match popped {
            Ok(item) => got.push(item),
            Err(PopError::Empty) => {}
            Err(PopError::Closed) => return got,
        }
    }
}

/// Runs all ends against each other; returns what was got by each consumer, and what was given back.
fn run(queue: &Queue<u64>) -> (Vec<Vec<u64>>, Vec<u64>) {
    thread::scope(|scope| {
        let consumers: Vec<_> =
            (0..CONSUMERS).map(|seed| scope.spawn(move || consume(queue, seed + 99))).collect();
        let producers: Vec<_> = (0..PRODUCERS).map(|id| scope.spawn(move || produce(queue, id))).collect();
        let back = producers.into_iter().flat_map(|producer| producer.join().unwrap()).collect();
        queue.close();
        (consumers.into_iter().map(|consumer| consumer.join().unwrap()).collect(), back)
    })
}

fn each_item_is_somewhere_once(got: &[Vec<u64>], back: &[u64], dropped: &[u64]) {
    let mut ids: Vec<u64> = got.iter().flatten().chain(back).chain(dropped).copied().collect();
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(0..OPERATIONS / 2), "{} items of {}", ids.len(), OPERATIONS / 2);
}

/// Of a million operations, three quarters may leave; every item is popped once or given back, and each consumer sees
/// those of one producer in their order.
#[test]
fn no_item_is_lost_or_doubled_by_those_who_leave() {
    let start = Instant::now();
    let queue = Queue::new(16);
    let (got, back) = run(&queue);
    each_item_is_somewhere_once(&got, &back, &[]);
    for items in &got {
        for producer in 0..PRODUCERS {
            let mine = items.iter().filter(|item| **item % PRODUCERS == producer);
            assert!(mine.is_sorted(), "order was not kept");
        }
    }
    assert!(got.iter().map(Vec::len).sum::<usize>() > 10_000);
    nobody_waits_at(&queue);
    assert!(start.elapsed() < secs(240), "{:?}", start.elapsed());
}

#[test]
fn no_item_is_lost_or_doubled_where_classes_and_weights_drop_others() {
    let dropped = Arc::new(std::sync::Mutex::new(Vec::new()));
    let hears = dropped.clone();
    let queue = Queue::new(16)
        .max_weight(12)
        .priorities(Priorities::default())
        .fair_by(|item| *item % 7)
        .overflow(Overflow::DropOldest)
        .on_drop(move |item, _| hears.lock().unwrap().push(item));
    let (got, back) = run(&queue);
    each_item_is_somewhere_once(&got, &back, &dropped.lock().unwrap());
    let stats = queue.stats();
    assert_eq!(stats.pushed, stats.popped + stats.dropped_in_all());
    assert_eq!((stats.len, stats.weight, stats.pushing, stats.popping), (0, 0, 0, 0));
}

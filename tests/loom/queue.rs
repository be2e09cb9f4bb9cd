//! Models of queues.

use std::sync::Arc;

use floodwall::{Overflow, PopError, Queue};
use loom::thread;

use super::{model, model_of, poll};

/// Takes what is left.
fn all(queue: &Queue<u64>) -> Vec<u64> {
    std::iter::from_fn(|| queue.try_pop().ok()).collect()
}

#[test]
fn items_pass_from_thread_to_thread_in_order() {
    model_of(2, || {
        let queue = Arc::new(Queue::new(1));
        let pushes = queue.clone();
        let producer = thread::spawn(move || {
            pushes.push_blocking(1).unwrap();
            pushes.push_blocking(2).unwrap();
        });
        assert_eq!((queue.pop_blocking(), queue.pop_blocking()), (Ok(1), Ok(2)));
        producer.join().unwrap();
    });
}

#[test]
fn two_poppers_get_one_item_each() {
    model(|| {
        let queue = Arc::new(Queue::new(2));
        let pops = queue.clone();
        let other = thread::spawn(move || pops.pop_blocking().unwrap());
        queue.try_push(1).unwrap();
        queue.try_push(2).unwrap();
        let mine = queue.pop_blocking().unwrap();
        assert_eq!(mine + other.join().unwrap(), 3);
    });
}

/// Trap 2: who was woken for an item and leaves wakes the next one, also while a newcomer takes the item.
#[test]
fn a_popper_that_leaves_passes_its_wake_up_on() {
    model(|| {
        let queue = Arc::new(Queue::new(2));
        let mut leaves = Box::pin(queue.pop());
        assert!(poll(&mut leaves).is_pending());
        let pushes = queue.clone();
        let producer = thread::spawn(move || pushes.try_push(1).unwrap());
        let pops = queue.clone();
        let other = thread::spawn(move || pops.pop_blocking().unwrap());
        drop(leaves);
        producer.join().unwrap();
        assert_eq!(other.join().unwrap(), 1);
    });
}

#[test]
fn a_newcomer_that_is_quicker_leaves_the_next_item_to_who_waits() {
    model_of(2, || {
        let queue = Arc::new(Queue::new(2));
        let pops = queue.clone();
        let waits = thread::spawn(move || pops.pop_blocking().unwrap());
        queue.try_push(1).unwrap();
        let quick = queue.try_pop().ok();
        queue.try_push(2).unwrap();
        let got = waits.join().unwrap();
        assert_eq!(quick.unwrap_or(1 + 2 - got) + got, 3);
        assert_eq!(all(&queue).len(), usize::from(quick.is_none()));
    });
}

#[test]
fn a_pusher_that_leaves_has_its_item_back_or_inside() {
    model(|| {
        let queue = Arc::new(Queue::new(1));
        queue.try_push(1).unwrap();
        let mut leaves = Box::pin(queue.push(2));
        assert!(poll(&mut leaves).is_pending());
        let pops = queue.clone();
        let consumer = thread::spawn(move || pops.try_pop().unwrap());
        let back = leaves.as_mut().cancel();
        assert_eq!(consumer.join().unwrap(), 1);
        assert_eq!(all(&queue), if back.is_some() { vec![] } else { vec![2] });
    });
}

/// Traps 18 and 32: whoever waits when a queue is closed is told, and each item is got or given back.
#[test]
fn closing_ends_every_wait() {
    model_of(2, || {
        let queue = Arc::new(Queue::new(1));
        queue.try_push(1).unwrap();
        let pushes = queue.clone();
        let producer = thread::spawn(move || pushes.push_blocking(2).is_ok());
        let pops = queue.clone();
        let consumer = thread::spawn(move || {
            let first = pops.pop_blocking().unwrap();
            (first, pops.pop_blocking())
        });
        queue.close();
        let (first, second) = consumer.join().unwrap();
        let expected = if producer.join().unwrap() { Ok(2) } else { Err(PopError::Closed) };
        assert_eq!((first, second), (1, expected));
    });
}

/// Trap 29: an item that makes way for another one leaves its wake-up behind.
#[test]
fn an_eviction_leaves_the_wake_up_to_the_new_item() {
    model(|| {
        let queue = Arc::new(Queue::new(1).overflow(Overflow::DropOldest));
        let pops = queue.clone();
        let consumer = thread::spawn(move || pops.pop_blocking().unwrap());
        queue.try_push(1).unwrap();
        queue.try_push(2).unwrap();
        let got = consumer.join().unwrap();
        assert_eq!(all(&queue), if got == 1 { vec![2] } else { vec![] });
    });
}

#[test]
fn a_queue_that_grows_lets_in_who_joins_meanwhile() {
    model(|| {
        let queue = Arc::new(Queue::new(1));
        queue.try_push(1).unwrap();
        let pushes = queue.clone();
        let producer = thread::spawn(move || pushes.push_blocking(2).unwrap());
        queue.set_capacity(2).unwrap();
        producer.join().unwrap();
        assert_eq!(all(&queue), [1, 2]);
    });
}

//! Models of waiting rooms.

use std::sync::Arc;
use std::task::Poll;

use floodwall::{Acquire, Gate, Queue, WaitingRoom};
use loom::thread;

use super::{model_of, poll};

/// Who joins the queue as the last place is given back is seen, or sees the place.
#[test]
fn no_place_is_lost_between_those_who_come_and_those_who_leave() {
    model_of(2, || {
        let room = Arc::new(WaitingRoom::new(1, Queue::new(2)));
        let other = {
            let room = room.clone();
            thread::spawn(move || room.acquire_blocking().unwrap().success())
        };
        room.acquire_blocking().unwrap().success();
        other.join().unwrap();
        assert_eq!((room.running(), room.stats().len), (0, 0));
    });
}

#[test]
fn a_place_that_is_given_to_one_who_leaves_goes_on() {
    model_of(2, || {
        let room = Arc::new(WaitingRoom::new(1, Queue::new(2)));
        let permit = room.try_acquire().unwrap();
        let mut leaves = Box::pin(room.acquire());
        assert!(poll(&mut leaves).is_pending());
        let other = {
            let room = room.clone();
            thread::spawn(move || {
                let mut waits = Box::pin(room.acquire());
                match poll(&mut waits) {
                    Poll::Ready(permit) => permit.unwrap().success(),
                    Poll::Pending => floodwall::block_on(waits).unwrap().success(),
                }
            })
        };
        permit.success();
        drop(leaves);
        other.join().unwrap();
        assert_eq!(room.running(), 0);
    });
}

//! Callers that queue for a place: who is served next, who is shed, and that no place is lost.
#![cfg(not(floodwall_loom))]

mod support;

use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;

use floodwall::{
    Acquire, Blocking, Call, Clock, Error, Event, Gate, Outcome, Overflow, Permit, Policy, Priorities, Queue,
    Reason, Rejected, Timeout, WaitingRoom, block_on,
};
use support::{millis, poll, secs};

type Waiter<'a> = Pin<Box<dyn Future<Output = Result<Permit<'a>, Rejected>> + 'a>>;

fn waits(room: &WaitingRoom, priority: u8) -> Waiter<'_> {
    let mut waiter: Waiter<'_> = Box::pin(room.acquire_for(Call::new().priority(priority)));
    assert!(poll(&mut waiter).is_pending());
    waiter
}

fn reason(waiter: &mut Waiter<'_>) -> Reason {
    match poll(waiter) {
        Poll::Ready(Err(rejected)) => rejected.reason(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn callers_are_served_by_their_priority() {
    let room = WaitingRoom::new(1, Queue::new(9).priorities(Priorities::default()));
    let permit = room.try_acquire().unwrap();
    assert_eq!(room.try_acquire().unwrap_err().reason(), Reason::BulkheadFull);
    let (mut low, mut high) = (waits(&room, 10), waits(&room, 250));
    permit.success();
    assert!(poll(&mut low).is_pending());
    let Poll::Ready(Ok(permit)) = poll(&mut high) else { panic!("it is its turn") };
    permit.success();
    assert!(matches!(poll(&mut low), Poll::Ready(Ok(_))));
    assert_eq!(room.running(), 0);
}

/// Trap 2: who was given a place and leaves passes it on.
#[test]
fn a_place_that_was_given_to_one_who_leaves_goes_to_the_next() {
    let room = WaitingRoom::new(1, Queue::new(9));
    let permit = room.try_acquire().unwrap();
    let (leaves, mut next) = (waits(&room, 0), waits(&room, 0));
    permit.success();
    assert_eq!(room.running(), 1);
    drop(leaves);
    let Poll::Ready(Ok(permit)) = poll(&mut next) else { panic!("it was not passed on") };
    permit.success();
    assert_eq!((room.running(), room.stats().len), (0, 0));
}

#[test]
fn those_who_have_left_make_room_in_the_queue() {
    let room = WaitingRoom::new(1, Queue::new(2));
    let permit = room.try_acquire().unwrap();
    let (stays, leaves) = (waits(&room, 0), waits(&room, 0));
    let mut refused: Waiter<'_> = Box::pin(room.acquire());
    assert_eq!(reason(&mut refused), Reason::QueueFull);
    drop(leaves);
    let mut comes = waits(&room, 0);
    drop(stays);
    permit.success();
    assert!(matches!(poll(&mut comes), Poll::Ready(Ok(_))));
}

#[test]
fn who_is_dropped_by_the_queue_is_told_at_once() {
    let room = WaitingRoom::new(1, Queue::new(1).overflow(Overflow::DropOldest).name("db"));
    let permit = room.try_acquire().unwrap();
    let mut oldest = waits(&room, 0);
    let _newest = waits(&room, 0);
    let Poll::Ready(Err(rejected)) = poll(&mut oldest) else { panic!("it still waits") };
    assert_eq!((rejected.reason(), rejected.by()), (Reason::Shed, "db"));
    permit.success();
}

/// Served at half the rate at which callers come: CoDel sheds those who have waited too long, and the place is never idle.
#[test]
fn an_overload_is_shed_by_codel() {
    let clock = Clock::manual();
    let queue = Queue::new(1_000).codel(millis(5), millis(100)).clock(clock.clone());
    let room = WaitingRoom::new(1, queue);
    let (mut waiters, mut permit) = (Vec::new(), Some(room.try_acquire().unwrap()));
    let (mut served, mut shed) = (0, 0);
    for _ in 0..2_000 {
        waiters.push(waits(&room, 0));
        waiters.push(waits(&room, 0));
        clock.advance(millis(1));
        permit.take().unwrap().success();
        waiters.retain_mut(|waiter| match poll(waiter) {
            Poll::Pending => true,
            Poll::Ready(Ok(given)) => {
                served += 1;
                permit = Some(given);
                false
            }
            Poll::Ready(Err(rejected)) => {
                assert_eq!(rejected.reason(), Reason::Shed);
                shed += 1;
                false
            }
        });
        assert_eq!(room.running(), 1);
    }
    assert_eq!(served, 2_000);
    assert!(shed > 1_500, "{shed}");
    assert!(room.stats().wait(0.9).unwrap() < millis(110), "{:?}", room.stats().wait(0.9));
}

/// Trap 4: a place that is given as the time runs out is taken; one whose time is over leaves no trace.
#[test]
fn a_caller_waits_no_longer_than_it_may() {
    let clock = Clock::manual();
    let room = WaitingRoom::new(1, Queue::new(9).clock(clock.clone()));
    let permit = room.try_acquire().unwrap();
    let mut limited: Waiter<'_> = Box::pin(room.acquire_within(Call::new(), secs(1)));
    let due = Call::new().deadline(clock.now() + secs(1));
    let (mut late, mut granted): (Waiter<'_>, Waiter<'_>) =
        (Box::pin(room.acquire_for(due)), Box::pin(room.acquire_for(due)));
    for waiter in [&mut granted, &mut limited, &mut late] {
        assert!(poll(waiter).is_pending());
    }
    permit.success();
    clock.advance(secs(1));
    assert_eq!((reason(&mut limited), reason(&mut late)), (Reason::BulkheadFull, Reason::DeadlineExceeded));
    assert!(matches!(poll(&mut granted), Poll::Ready(Ok(_))));
    drop((limited, late, granted));
    assert_eq!(room.running(), 0);
    room.try_acquire().unwrap().success();
}

#[test]
fn it_grows_and_shrinks_while_it_is_used() {
    let room = WaitingRoom::new(1, Queue::new(9));
    let first = room.try_acquire().unwrap();
    let mut second = waits(&room, 0);
    room.set_max(2).unwrap();
    let Poll::Ready(Ok(second)) = poll(&mut second) else { panic!("there is a place") };
    room.set_max(1).unwrap();
    assert_eq!((room.running(), room.max()), (2, 1));
    first.success();
    assert!(room.try_acquire().is_err());
    second.success();
    assert!(room.try_acquire().is_ok());
    assert!(room.set_max(0).is_err());
}

#[test]
fn closed_it_serves_who_waits_and_refuses_who_would_have_to() {
    let room = WaitingRoom::new(1, Queue::new(9));
    let permit = room.try_acquire().unwrap();
    let mut inside = waits(&room, 0);
    room.close();
    let mut late: Waiter<'_> = Box::pin(room.acquire());
    assert_eq!(reason(&mut late), Reason::Closed);
    permit.success();
    assert!(matches!(poll(&mut inside), Poll::Ready(Ok(_))));
}

/// It stands in a stack as it is, for tasks and threads, and its events are those of a gate.
#[test]
fn in_a_stack_calls_wait_for_their_place() {
    let events = std::sync::Arc::new(Mutex::new(Vec::new()));
    let hears = events.clone();
    let queue = Queue::new(9).observe("db", move |_: &str, event: Event| hears.lock().unwrap().push(event));
    let stack = (Timeout::new(secs(60)), WaitingRoom::new(1, queue));
    assert_eq!(block_on(stack.call(|| async { Ok::<_, ()>(1) })), Ok(1));
    assert_eq!(*events.lock().unwrap(), [Event::Admitted, Event::Finished(Outcome::Success)]);

    let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let room = &stack.1;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let done: Result<(), Error<()>> = room.call_blocking(|| {
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                        Ok(())
                    });
                    done.unwrap();
                }
            });
        }
    });
    assert_eq!((most.into_inner(), room.running()), (1, 0));
    assert_eq!(room.stats().len, 0);
}

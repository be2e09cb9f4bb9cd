//! Queues of every kind under random steps, against the obvious twin: items in a list, and two lines of those who wait.
//!
//! The twin says what each step returns, who is inside and who must have been woken. Where keys are told apart it asks the
//! queue which item it took, and checks the rest. In the end each item was popped, dropped or given back, once.
#![cfg(not(floodwall_loom))]

mod support;

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Instant;

use floodwall::{
    Call, Clock, DropReason, Overflow, Pop, PopError, Priorities, Push, PushError, Queue, Reason,
};
use proptest::prelude::*;
use support::{Wakes, secs};

#[derive(Clone, Copy, Debug)]
struct Kind {
    overflow: Overflow,
    weight: Option<u64>,
    has_classes: bool,
    drops_expired: bool,
    is_fair: bool,
}

/// What an item asks for; its deadline is in seconds from now.
#[derive(Clone, Copy, Debug)]
struct Ask {
    weight: u32,
    is_urgent: bool,
    within: Option<u64>,
}

#[derive(Clone, Debug)]
enum Step {
    TryPush(Ask),
    TryPushMany(usize),
    /// Makes a future, and polls it once.
    Push(Ask),
    PollPush(usize),
    CancelPush(usize),
    DropPush(usize),
    TryPop,
    TryPopMany(usize),
    /// Makes a future, which waits for so many seconds, and polls it once.
    Pop(Option<u64>),
    PollPop(usize),
    DropPop(usize),
    Advance(u64),
    SetCapacity(usize),
    SetMaxWeight(u64),
    Close,
    CloseNow,
}

fn kind() -> impl Strategy<Value = Kind> {
    let overflow = prop_oneof![
        4 => Just(Overflow::Wait),
        1 => Just(Overflow::Reject),
        1 => Just(Overflow::DropNewest),
        1 => Just(Overflow::DropOldest),
        2 => Just(Overflow::DropLowest),
        1 => Just(Overflow::Latest),
    ];
    (overflow, prop::option::of(4u64..9), any::<bool>(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(overflow, weight, has_classes, drops_expired, is_fair)| {
            let has_classes = has_classes || overflow == Overflow::DropLowest;
            Kind { overflow, weight, has_classes, drops_expired, is_fair }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let ask = || {
        (1u32..6, any::<bool>(), prop::option::weighted(0.3, 0u64..5))
            .prop_map(|(weight, is_urgent, within)| Ask { weight, is_urgent, within })
    };
    let one = || 0usize..8;
    prop_oneof![
        4 => ask().prop_map(Step::TryPush),
        1 => (1usize..4).prop_map(Step::TryPushMany),
        8 => ask().prop_map(Step::Push),
        4 => one().prop_map(Step::PollPush),
        2 => one().prop_map(Step::CancelPush),
        1 => one().prop_map(Step::DropPush),
        5 => Just(Step::TryPop),
        1 => (1usize..4).prop_map(Step::TryPopMany),
        6 => prop::option::weighted(0.3, 0u64..5).prop_map(Step::Pop),
        6 => one().prop_map(Step::PollPop),
        3 => one().prop_map(Step::DropPop),
        3 => (1u64..3).prop_map(Step::Advance),
        2 => (1usize..6).prop_map(Step::SetCapacity),
        2 => (3u64..9).prop_map(Step::SetMaxWeight),
        1 => prop::bool::weighted(0.1).prop_map(|now| if now { Step::CloseNow } else { Step::TryPop }),
        1 => prop::bool::weighted(0.2).prop_map(|now| if now { Step::Close } else { Step::TryPop }),
    ]
}

/// An item, as the twin has it.
#[derive(Clone, Copy, Debug)]
struct Item {
    id: u64,
    weight: u64,
    class: u8,
    deadline: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Pushed {
    In,
    Waits,
    Refused(Reason),
}

/// Who waits for room.
#[derive(Debug)]
struct Pusher {
    item: Item,
    state: Pushed,
}

/// Who waits for an item; granted, an item was there for it.
#[derive(Debug)]
struct Popper {
    number: u64,
    is_granted: bool,
}

struct Twin {
    kind: Kind,
    capacity: usize,
    max_weight: u64,
    now: u64,
    is_closed: bool,
    inside: Vec<Item>,
    /// In the order in which they get in.
    pushers: Vec<Pusher>,
    poppers: Vec<Popper>,
    dropped: Vec<(u64, DropReason)>,
    popped: u64,
    refused: u64,
}

impl Twin {
    fn weight(&self) -> u64 {
        self.inside.iter().map(|item| item.weight).sum()
    }

    fn fits(&self, item: &Item) -> bool {
        self.inside.len() < self.capacity && self.weight() + item.weight <= self.max_weight
    }

    fn is_over(&self) -> bool {
        self.is_closed && self.inside.is_empty()
    }

    fn is_expired(&self, item: &Item) -> bool {
        self.kind.drops_expired && item.deadline.is_some_and(|deadline| deadline <= self.now)
    }

    fn drop_at(&mut self, at: usize, why: DropReason) {
        let item = self.inside.remove(at);
        self.dropped.push((item.id, why));
    }

    /// `came_too_late` is what the queue says; it may foresee what the twin cannot.
    fn push(&mut self, item: Item, waits: bool, came_too_late: bool) -> Pushed {
        let pushed = self.push_or_not(item, waits, came_too_late);
        self.refused += u64::from(matches!(pushed, Pushed::Refused(_)));
        self.settle();
        pushed
    }

    fn push_or_not(&mut self, item: Item, waits: bool, came_too_late: bool) -> Pushed {
        if self.is_closed {
            return Pushed::Refused(Reason::Closed);
        }
        if item.weight > self.max_weight {
            return Pushed::Refused(Reason::TooHeavy);
        }
        if self.is_expired(&item) || self.kind.drops_expired && item.deadline.is_some() && came_too_late {
            return Pushed::Refused(Reason::DeadlineExceeded);
        }
        let waiting = |pusher: &&Pusher| pusher.state == Pushed::Waits;
        let is_barred = self.pushers.iter().filter(waiting).any(|pusher| pusher.item.class <= item.class);
        if !is_barred && self.fits(&item) {
            self.inside.push(item);
            return Pushed::In;
        }
        match self.kind.overflow {
            Overflow::Wait if waits => return Pushed::Waits,
            Overflow::DropNewest => {
                self.dropped.push((item.id, DropReason::Newest));
                return Pushed::In;
            }
            // Which of them is checked outside, where keys are told apart.
            Overflow::DropOldest => {
                while !self.fits(&item) {
                    self.drop_at(0, DropReason::Oldest);
                }
            }
            Overflow::DropLowest if item.class == 0 => {
                let mut left = self.inside.clone();
                let mut lower = Vec::new();
                let fits = |left: &[Item]| {
                    let weight: u64 = left.iter().map(|item| item.weight).sum();
                    left.len() < self.capacity && weight + item.weight <= self.max_weight
                };
                while !fits(&left) {
                    let Some(at) = left.iter().position(|item| item.class == 1) else {
                        return Pushed::Refused(Reason::QueueFull);
                    };
                    lower.push((left.remove(at).id, DropReason::Lowest));
                }
                self.inside = left;
                self.dropped.extend(lower);
            }
            Overflow::Latest => {
                // In the order in which they would have come out.
                self.inside.sort_by_key(|item| item.class);
                while !self.inside.is_empty() {
                    self.drop_at(0, DropReason::Superseded);
                }
            }
            _ => return Pushed::Refused(Reason::QueueFull),
        }
        self.inside.push(item);
        Pushed::In
    }

    /// Lets in who has room now, and grants what is inside.
    fn settle(&mut self) {
        for at in 0..self.pushers.len() {
            let Pusher { item, state: Pushed::Waits } = self.pushers[at] else { continue };
            if item.weight > self.max_weight {
                self.pushers[at].state = Pushed::Refused(Reason::TooHeavy);
                self.refused += 1;
            }
        }
        for at in 0..self.pushers.len() {
            let Pusher { item, state: Pushed::Waits } = self.pushers[at] else { continue };
            if !self.fits(&item) {
                break;
            }
            self.pushers[at].state = Pushed::In;
            self.inside.push(item);
        }
        let mut granted = self.poppers.iter().filter(|popper| popper.is_granted).count();
        for popper in &mut self.poppers {
            if !popper.is_granted && granted < self.inside.len() {
                popper.is_granted = true;
                granted += 1;
            }
        }
    }

    fn join_pushers(&mut self, item: Item) {
        let place = self.pushers.iter().rposition(|other| other.item.class <= item.class);
        self.pushers.insert(place.map_or(0, |place| place + 1), Pusher { item, state: Pushed::Waits });
    }

    /// Takes the next item; `says` is what the queue dropped and took, and decides where keys are told apart.
    fn pop(&mut self, says: &[u64]) -> Option<u64> {
        let mut says = says.iter();
        loop {
            let said = says.next();
            let at = if self.kind.is_fair {
                let at = self.inside.iter().position(|item| Some(&item.id) == said)?;
                let first = self.inside.iter().map(|item| item.class).min();
                assert_eq!(Some(self.inside[at].class), first, "another class is first");
                at
            } else {
                let classes = self.inside.iter().enumerate().map(|(at, item)| (item.class, at));
                classes.min()?.1
            };
            if self.is_expired(&self.inside[at]) {
                self.drop_at(at, DropReason::Expired);
                if self.inside.is_empty() {
                    self.settle();
                }
                continue;
            }
            let item = self.inside.remove(at);
            self.popped += 1;
            self.settle();
            return Some(item.id);
        }
    }

    /// What a popper gets that looks, and has waited under this number, if it has.
    fn look(&mut self, number: u64, is_late: bool, says: &[u64]) -> Poll<Result<u64, PopError>> {
        let place = self.poppers.iter().position(|popper| popper.number == number);
        let is_granted = self.is_closed || place.is_none_or(|place| self.poppers[place].is_granted);
        if is_granted {
            place.map(|place| self.poppers.remove(place));
            if let Some(id) = self.pop(says) {
                return Poll::Ready(Ok(id));
            }
        }
        let polled = match (self.is_over(), is_late) {
            (true, _) => Poll::Ready(Err(PopError::Closed)),
            (_, true) => Poll::Ready(Err(PopError::Empty)),
            _ => Poll::Pending,
        };
        self.poppers.retain(|popper| popper.number != number || polled.is_pending());
        if polled.is_pending() && is_granted {
            // One that was granted something that others took stays first.
            let front = self.poppers.iter().position(|popper| !popper.is_granted);
            let place = front.filter(|_| place.is_some()).unwrap_or(self.poppers.len());
            self.poppers.insert(place, Popper { number, is_granted: false });
        }
        self.settle();
        polled
    }

    fn leave(&mut self, number: u64) {
        self.poppers.retain(|popper| popper.number != number);
        self.settle();
    }

    fn close(&mut self) {
        self.is_closed = true;
        for pusher in self.pushers.iter_mut().filter(|pusher| pusher.state == Pushed::Waits) {
            pusher.state = Pushed::Refused(Reason::Closed);
            self.refused += 1;
        }
    }
}

struct Waits<F> {
    id: u64,
    future: Pin<Box<F>>,
    deadline: Option<u64>,
    wakes: Arc<Wakes>,
}

impl<F: Future> Waits<F> {
    fn new(id: u64, future: F, deadline: Option<u64>) -> Self {
        Self { id, future: Box::pin(future), deadline, wakes: Arc::default() }
    }

    fn poll(&mut self) -> Poll<F::Output> {
        self.wakes = Arc::default();
        self.wakes.poll(&mut self.future)
    }

    fn is_woken(&self) -> bool {
        self.wakes.count() > 0
    }
}

/// The queue and its twin, and all that became of the items.
struct Both<'a> {
    queue: &'a Queue<u64>,
    clock: Clock,
    start: Instant,
    twin: Twin,
    /// What the queue has dropped.
    drops: Arc<Mutex<Vec<(u64, DropReason)>>>,
    pushes: Vec<Waits<Push<'a, u64>>>,
    pops: Vec<Waits<Pop<'a, u64>>>,
    next: u64,
    got: Vec<u64>,
    back: Vec<u64>,
    /// Dropped with the future that had them.
    lost: Vec<u64>,
}

fn reason_of(result: &Result<(), PushError<u64>>) -> Option<Reason> {
    result.as_ref().err().map(PushError::reason)
}

impl<'a> Both<'a> {
    fn item(&mut self, ask: Ask) -> (Item, Call) {
        let id = self.next;
        self.next += 1;
        let deadline = ask.within.map(|within| self.twin.now + within);
        let call = Call::new().cost(ask.weight).priority(if ask.is_urgent { 255 } else { 0 });
        let call = deadline.map_or(call, |deadline| call.deadline(self.start + secs(deadline)));
        let weight = if self.twin.kind.weight.is_some() { ask.weight.into() } else { 1 };
        let class = u8::from(self.twin.kind.has_classes && !ask.is_urgent);
        (Item { id, weight, class, deadline }, call)
    }

    /// Which items the queue has dropped since the twin looked last.
    fn news(&self) -> Vec<u64> {
        self.drops.lock().unwrap()[self.twin.dropped.len()..].iter().map(|dropped| dropped.0).collect()
    }

    /// Brings those to the front that the queue has dropped as the oldest of their keys, one after the other.
    fn follow_evictions(&mut self) {
        if self.twin.kind.is_fair {
            let news = self.news();
            self.twin.inside.sort_by_key(|item| news.iter().position(|id| *id == item.id).unwrap_or(99));
        }
    }

    fn heard(&mut self, item: Item, result: Result<(), PushError<u64>>, expected: Pushed) {
        match (result, expected) {
            (Ok(()), Pushed::In) => {}
            (Err(error), Pushed::Refused(reason)) => {
                assert_eq!((error.reason(), error.into_item()), (reason, item.id));
                self.back.push(item.id);
            }
            (result, expected) => panic!("{item:?}: {result:?} and not {expected:?}"),
        }
    }

    fn try_push(&mut self, ask: Ask) {
        let (item, call) = self.item(ask);
        let result = self.queue.try_push_for(item.id, call);
        self.follow_evictions();
        let is_late = reason_of(&result) == Some(Reason::DeadlineExceeded);
        let expected = self.twin.push(item, false, is_late);
        self.heard(item, result, expected);
    }

    fn poll_push(&mut self, at: usize) {
        let (item, expected) = {
            let id = self.pushes[at].id;
            let place = self.twin.pushers.iter().position(|pusher| pusher.item.id == id);
            let pusher = &self.twin.pushers[place.expect("it waits there")];
            (pusher.item, pusher.state)
        };
        let result = self.pushes[at].poll();
        let is_late = self.pushes[at].deadline.is_some_and(|deadline| deadline <= self.twin.now);
        let result = match result {
            Poll::Pending => return assert!(expected == Pushed::Waits && !is_late, "{item:?} waits"),
            Poll::Ready(result) => result,
        };
        drop(self.pushes.remove(at));
        self.twin.pushers.retain(|pusher| pusher.item.id != item.id);
        let late = Pushed::Refused(Reason::DeadlineExceeded);
        let expected = if expected == Pushed::Waits && is_late { late } else { expected };
        self.twin.refused += u64::from(expected == late);
        self.twin.settle();
        self.heard(item, result, expected);
    }

    fn push(&mut self, ask: Ask) {
        let (item, call) = self.item(ask);
        let mut push = Waits::new(item.id, self.queue.push_for(item.id, call), item.deadline);
        let polled = push.poll();
        self.follow_evictions();
        let is_late =
            matches!(&polled, Poll::Ready(result) if reason_of(result) == Some(Reason::DeadlineExceeded));
        match self.twin.push(item, true, is_late) {
            Pushed::Waits if item.deadline.is_some_and(|deadline| deadline <= self.twin.now) => {
                self.twin.refused += 1;
                let Poll::Ready(result) = polled else { panic!("{item:?} waits") };
                self.heard(item, result, Pushed::Refused(Reason::DeadlineExceeded));
            }
            Pushed::Waits => {
                assert!(polled.is_pending(), "{item:?} does not wait");
                self.twin.join_pushers(item);
                self.pushes.push(push);
            }
            expected => {
                let Poll::Ready(result) = polled else { panic!("{item:?} waits and is not {expected:?}") };
                self.heard(item, result, expected);
            }
        }
    }

    fn leave_push(&mut self, at: usize, cancels: bool) {
        let mut push = self.pushes.remove(at);
        let place = self.twin.pushers.iter().position(|pusher| pusher.item.id == push.id).unwrap();
        let is_outside = self.twin.pushers.remove(place).state != Pushed::In;
        if cancels {
            let back = push.future.cancel();
            assert_eq!(back, is_outside.then_some(push.id));
            self.back.extend(back);
        } else if is_outside {
            self.lost.push(push.id);
        }
        drop(push);
        self.twin.settle();
    }

    fn try_pop(&mut self) {
        let popped = self.queue.try_pop();
        let says = self.says(popped.ok());
        match self.twin.pop(&says) {
            Some(id) => assert_eq!(popped, Ok(id)),
            None if self.twin.is_over() => assert_eq!(popped, Err(PopError::Closed)),
            None => assert_eq!(popped, Err(PopError::Empty)),
        }
        self.got.extend(popped.ok());
    }

    fn says(&self, popped: Option<u64>) -> Vec<u64> {
        self.news().into_iter().chain(popped).collect()
    }

    fn poll_pop(&mut self, at: usize) {
        let pop = &mut self.pops[at];
        let polled = pop.poll();
        let is_late = pop.deadline.is_some_and(|deadline| deadline <= self.twin.now);
        let number = pop.id;
        let popped = if let Poll::Ready(Ok(id)) = polled { Some(id) } else { None };
        let says = self.says(popped);
        assert_eq!(polled, self.twin.look(number, is_late, &says), "popper {number}");
        self.got.extend(popped);
        if polled.is_ready() {
            drop(self.pops.remove(at));
        }
    }

    fn take(&mut self, step: Step) {
        let at = |at: usize, len: usize| (len > 0).then(|| at % len);
        match step {
            Step::TryPush(ask) => self.try_push(ask),
            Step::TryPushMany(count) => {
                let first = self.next;
                self.next += count as u64;
                let mut rest: Vec<u64> = self.queue.try_push_many(first..first + count as u64).collect();
                let class = u8::from(self.twin.kind.has_classes);
                for id in first..first + count as u64 {
                    let item = Item { id, weight: 1, class, deadline: None };
                    self.follow_evictions();
                    if self.twin.push(item, false, false) != Pushed::In {
                        assert_eq!(rest.first(), Some(&id));
                        break;
                    }
                }
                self.back.append(&mut rest);
            }
            Step::Push(ask) => self.push(ask),
            Step::PollPush(which) => {
                let _ = at(which, self.pushes.len()).map(|at| self.poll_push(at));
            }
            Step::CancelPush(which) => {
                let _ = at(which, self.pushes.len()).map(|at| self.leave_push(at, true));
            }
            Step::DropPush(which) => {
                let _ = at(which, self.pushes.len()).map(|at| self.leave_push(at, false));
            }
            Step::TryPop => self.try_pop(),
            // Which of its drops came before which of its items is not told.
            Step::TryPopMany(_) if self.twin.kind.is_fair && self.twin.kind.drops_expired => self.try_pop(),
            Step::TryPopMany(most) => {
                let mut into = Vec::new();
                assert_eq!(self.queue.try_pop_many(&mut into, most), into.len());
                let says = |nth| if self.twin.kind.is_fair { into.get(nth) } else { None };
                let says: Vec<Option<u64>> = (0..most).map(|nth| says(nth).copied()).collect();
                let expected = says.iter().map_while(|says| self.twin.pop(says.as_slice()));
                assert_eq!(into, expected.collect::<Vec<_>>());
                self.got.append(&mut into);
            }
            Step::Pop(within) => {
                let (deadline, number) = (within.map(|within| self.twin.now + within), self.next);
                self.next += 1;
                self.lost.push(number);
                let pop = within.map_or(self.queue.pop(), |within| self.queue.pop_within(secs(within)));
                self.pops.push(Waits::new(number, pop, deadline));
                self.poll_pop(self.pops.len() - 1);
            }
            Step::PollPop(which) => {
                let _ = at(which, self.pops.len()).map(|at| self.poll_pop(at));
            }
            Step::DropPop(which) => {
                let _ = at(which, self.pops.len()).map(|at| {
                    let pop = self.pops.remove(at);
                    self.twin.leave(pop.id);
                });
            }
            Step::Advance(time) => {
                self.clock.advance(secs(time));
                self.twin.now += time;
            }
            Step::SetCapacity(capacity) => {
                self.queue.set_capacity(capacity).unwrap();
                self.twin.capacity = capacity;
                self.twin.settle();
            }
            Step::SetMaxWeight(weight) => {
                let changed = self.queue.set_max_weight(weight);
                assert_eq!(changed.is_ok(), self.twin.kind.weight.is_some());
                if changed.is_ok() {
                    self.twin.max_weight = weight;
                    self.twin.settle();
                }
            }
            Step::Close => {
                self.queue.close();
                self.twin.close();
            }
            Step::CloseNow => {
                let left = self.queue.close_now();
                self.twin.inside.sort_by_key(|item| item.class);
                let mut expected: Vec<u64> = self.twin.inside.drain(..).map(|item| item.id).collect();
                if self.twin.kind.is_fair {
                    let mut sorted = left.clone();
                    sorted.sort_unstable();
                    expected.sort_unstable();
                    assert_eq!(sorted, expected);
                } else {
                    assert_eq!(left, expected);
                }
                self.back.extend(left);
                self.twin.close();
            }
        }
    }

    fn check(&self) {
        let (stats, twin) = (self.queue.stats(), &self.twin);
        let waiting = twin.pushers.iter().filter(|pusher| pusher.state == Pushed::Waits).count();
        let popping = twin.poppers.iter().filter(|popper| !popper.is_granted).count();
        assert_eq!((stats.len, stats.weight), (twin.inside.len(), twin.weight()));
        assert_eq!((stats.pushing, stats.popping), (waiting, popping));
        assert_eq!((stats.popped, stats.refused), (twin.popped, twin.refused));
        assert_eq!(*self.drops.lock().unwrap(), twin.dropped);
        assert_eq!(stats.dropped_in_all(), twin.dropped.len() as u64);
        for pusher in twin.pushers.iter().filter(|pusher| pusher.state != Pushed::Waits) {
            let push = self.pushes.iter().find(|push| push.id == pusher.item.id).unwrap();
            assert!(push.is_woken(), "{pusher:?} was not woken");
        }
        for popper in twin.poppers.iter().filter(|popper| popper.is_granted || twin.is_closed) {
            let pop = self.pops.iter().find(|pop| pop.id == popper.number).unwrap();
            assert!(pop.is_woken(), "{popper:?} was not woken");
        }
    }

    /// Ends all, and finds every item once.
    fn end(mut self) {
        self.take(Step::CloseNow);
        while !self.pushes.is_empty() {
            self.leave_push(0, true);
        }
        while !self.pops.is_empty() {
            self.poll_pop(0);
        }
        self.check();
        let drops = self.drops.lock().unwrap();
        let ids = self.got.iter().chain(&self.back).chain(&self.lost).chain(drops.iter().map(|drop| &drop.0));
        let mut ids: Vec<u64> = ids.copied().collect();
        ids.sort_unstable();
        assert!(ids.iter().copied().eq(0..self.next), "{ids:?} of {}", self.next);
    }
}

proptest! {
    #[test]
    fn a_queue_does_what_its_twin_says(kind in kind(), capacity in 1usize..6, steps in prop::collection::vec(step(), 1..80)) {
        let drops = Arc::new(Mutex::new(Vec::new()));
        let (hears, clock) = (drops.clone(), Clock::manual());
        let mut queue = Queue::new(capacity)
            .overflow(kind.overflow)
            .on_drop(move |id, why| hears.lock().unwrap().push((id, why)))
            .clock(clock.clone());
        if let Some(weight) = kind.weight {
            queue = queue.max_weight(weight);
        }
        if kind.has_classes {
            queue = queue.priorities(Priorities::strict_from(200));
        }
        if kind.drops_expired {
            queue = queue.drop_expired();
        }
        if kind.is_fair {
            queue = queue.fair_by(|id| *id % 3);
        }
        let twin = Twin {
            kind,
            capacity,
            max_weight: kind.weight.unwrap_or(u64::MAX),
            now: 0,
            is_closed: false,
            inside: Vec::new(),
            pushers: Vec::new(),
            poppers: Vec::new(),
            dropped: Vec::new(),
            popped: 0,
            refused: 0,
        };
        let mut both = Both {
            queue: &queue,
            start: clock.now(),
            clock,
            twin,
            drops,
            pushes: Vec::new(),
            pops: Vec::new(),
            next: 0,
            got: Vec::new(),
            back: Vec::new(),
            lost: Vec::new(),
        };
        for step in steps {
            both.take(step);
            both.check();
        }
        both.end();
    }
}

//! A bounded queue between those who make work and those who do it: [`Queue`].
//!
//! Where work comes faster than it is done, something has to give: producers wait, or items are refused or dropped. An
//! unbounded queue only hides that until memory or patience is over. When **not** to use it: to cap what runs at once
//! without handing anything over (that is a [`Bulkhead`](crate::Bulkhead)); for one value that many watch; for a channel
//! whose ends hang up by being dropped (this one is [closed](Queue::close) by hand).
//!
//! One short-held lock guards everything. No lock-free ring could keep an item in its place until its receiver really
//! comes for it, or drop the lowest one, and short critical sections are as fast where items have to change threads.

mod effects;
mod error;
mod items;
mod many;
mod pop;
mod push;
mod state;
mod stats;
#[cfg(feature = "stream")]
mod stream;
mod verbs;
mod wanted;

use std::fmt;
use std::time::Duration;

use crate::clock::Clock;
use crate::discipline::{Entry, Order, Priorities, Threshold};
use crate::error::{BadSetting, Reason, Rejected, absurd, saturating_nanos};
use crate::event::{DropReason, Event, Hook};
use crate::histogram::Histogram;
use crate::setters::setters;
use crate::short::Short;
use crate::sync::const_fn;

use effects::Effects;
pub use error::{PopError, PushError};
pub use many::Unpushed;
pub use pop::Pop;
pub use push::Push;
use state::State;
pub use stats::QueueStats;
#[cfg(feature = "stream")]
pub use stream::{QueueSink, QueueStream};

/// Holds items until they are popped: at most so many, and, if told so, at most so heavy altogether.
///
/// Producers and consumers are threads or tasks, on the same queue: [`try_push`](Self::try_push) and
/// [`try_pop`](Self::try_pop) never wait, [`push`](Self::push) and [`pop`](Self::pop) are futures,
/// [`push_blocking`](Self::push_blocking) and [`pop_blocking`](Self::pop_blocking) block a thread. Those who wait are
/// served in the order in which they came. What happens when it is full is [`Overflow`]; in which order items come out, and
/// which are dropped, is said by setters, and by default it is first in, first out, and none.
///
/// What an item asks for is told by a [`Call`](crate::Call) beside it: its priority, its deadline, its cost as a weight.
///
/// A queue is shared by reference, in a `static` or in an `Arc`.
///
/// # Cost
///
/// A short critical section to push and one to pop, without a reading of the clock (but for one item in 64, by which waits
/// are measured), and a wake-up only if somebody waits. Memory grows to the longest it was. Deadlines and overload control
/// read the clock at each push and pop.
///
/// # Examples
///
/// ```
/// use std::thread;
/// use floodwall::Queue;
///
/// static QUEUE: Queue<u32> = Queue::new(2);
///
/// thread::scope(|scope| {
///     scope.spawn(|| {
///         (1..=9).for_each(|item| QUEUE.push_blocking(item).unwrap());
///         QUEUE.close();
///     });
///     let mut sum = 0;
///     while let Ok(item) = QUEUE.pop_blocking() {
///         sum += item;
///     }
///     assert_eq!(sum, 45);
/// });
/// ```
#[repr(C, align(64))]
pub struct Queue<T> {
    state: Short<State<T>>,
    overflow: Overflow,
    is_plain: bool,
    is_timed: bool,
    by_cost: bool,
    by_priority: bool,
    key_of: Option<KeyOf<T>>,
    on_drop: Option<OnDrop<T>>,
    waits: Histogram,
    clock: Clock,
    hook: Hook,
}

type KeyOf<T> = Box<dyn Fn(&T) -> u64 + Send + Sync>;
type OnDrop<T> = Box<dyn Fn(T, DropReason) + Send + Sync>;

/// What a push does when the queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// `push` waits for room; `try_push` gives the item back.
    #[default]
    Wait,
    /// Every push gives the item back.
    Reject,
    /// The item that would go in is dropped.
    DropNewest,
    /// The oldest item inside is dropped; where [keys](Queue::fair_by) are told apart, the oldest of the one with the most.
    DropOldest,
    /// The oldest item of the lowest class of priority is dropped, or the push gives the item back if it is the lowest.
    DropLowest,
    /// All that is inside is dropped: only the latest matters.
    Latest,
}

const MUST_BE_SOME: &str = "must be at least 1";

impl<T> Queue<T> {
    const_fn! {
        /// Creates a queue for at most `capacity` items.
        ///
        /// # Panics
        ///
        /// If `capacity` is 0.
        #[track_caller]
        pub fn new(capacity: usize) -> Self {
            if capacity == 0 {
                absurd("capacity", 0, MUST_BE_SOME);
            }
            Self {
                state: Short::new(State::new(capacity)),
                overflow: Overflow::Wait,
                is_plain: true,
                is_timed: false,
                by_cost: false,
                by_priority: false,
                key_of: None,
                on_drop: None,
                waits: Histogram::new(),
                clock: Clock::system(),
                hook: Hook::unnamed(),
            }
        }
    }

    /// Says what a push does when the queue is full. Default: [`Overflow::Wait`].
    ///
    /// ```
    /// use floodwall::{Overflow, Queue};
    ///
    /// let queue = Queue::new(2).overflow(Overflow::DropOldest);
    /// (1..=5).for_each(|reading| queue.try_push(reading).unwrap());
    /// assert_eq!((queue.try_pop(), queue.try_pop()), (Ok(4), Ok(5)));
    /// ```
    #[must_use = "returns the changed queue"]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        if overflow == Overflow::DropLowest {
            return self
                .reordered(|order| order.priorities = order.priorities.or(Some(Priorities::default())));
        }
        self
    }

    /// Hands each item that the queue drops to `take`, with the reason. Default: it is dropped, and counted.
    ///
    /// It is called by whoever pushed or popped, outside the lock, so it may push the item elsewhere, or here again.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use floodwall::{DropReason, Overflow, Queue};
    ///
    /// let overflow = Arc::new(Queue::new(100));
    /// let sideline = overflow.clone();
    /// let queue = Queue::new(1)
    ///     .overflow(Overflow::DropOldest)
    ///     .on_drop(move |item, why| sideline.try_push((item, why)).unwrap());
    /// queue.try_push("old").unwrap();
    /// queue.try_push("new").unwrap();
    /// assert_eq!(overflow.try_pop(), Ok(("old", DropReason::Oldest)));
    /// ```
    #[must_use = "returns the changed queue"]
    pub fn on_drop(mut self, take: impl Fn(T, DropReason) + Send + Sync + 'static) -> Self {
        self.on_drop = Some(Box::new(take));
        self
    }

    /// Bounds also what all items [cost](crate::Call::cost) together, such as their bytes. Default: only their number counts.
    ///
    /// An item that costs more than `weight` is refused as [`TooHeavy`](Reason::TooHeavy). A heavy one that waits for room
    /// is not passed by light ones.
    ///
    /// ```
    /// use floodwall::{Call, Queue, Reason};
    ///
    /// let queue = Queue::new(1_000).max_weight(4_096);
    /// let bytes = vec![0; 3_000];
    /// queue.try_push_for(bytes, Call::new().cost(3_000)).unwrap();
    /// assert_eq!(queue.try_push_for(vec![], Call::new().cost(1_097)).unwrap_err().reason(), Reason::QueueFull);
    /// assert_eq!(queue.try_push_for(vec![], Call::new().cost(5_000)).unwrap_err().reason(), Reason::TooHeavy);
    /// ```
    ///
    /// # Panics
    ///
    /// If `weight` is 0.
    #[must_use = "returns the changed queue"]
    #[track_caller]
    pub fn max_weight(mut self, weight: u64) -> Self {
        if weight == 0 {
            absurd("weight", 0, MUST_BE_SOME);
        }
        self.by_cost = true;
        self.state.lock().items.max_weight = weight;
        self.reordered(|_| {})
    }

    /// Serves items by classes of their [priority](crate::Call::priority). Default: all are of one class.
    #[must_use = "returns the changed queue"]
    pub fn priorities(self, priorities: Priorities) -> Self {
        self.reordered(|order| order.priorities = Some(priorities))
    }

    /// Serves keys in turn, within each class: one client's thousand items do not stand before another's one. Default:
    /// items of one class are served in the order in which they came.
    ///
    /// `key` tells whose an item is, as a number or a hash such as [`stable_hash`](crate::stable_hash); it is called
    /// outside the lock. Items are spread over 64 flows: each key has a hand of four of them and uses the shortest, and
    /// flows are served in turn by what their items cost. So items of one key may pass each other.
    ///
    /// ```
    /// use floodwall::Queue;
    ///
    /// let queue = Queue::new(100).fair_by(|item: &(u64, &str)| item.0);
    /// (0..50).for_each(|_| queue.try_push((1, "crawler")).unwrap());
    /// queue.try_push((2, "visitor")).unwrap();
    /// let first: Vec<_> = (0..6).filter_map(|_| queue.try_pop().ok()).collect();
    /// assert!(first.contains(&(2, "visitor")));
    /// ```
    #[must_use = "returns the changed queue"]
    pub fn fair_by(mut self, key: impl Fn(&T) -> u64 + Send + Sync + 'static) -> Self {
        self.key_of = Some(Box::new(key));
        self.reordered(|order| order.is_fair = true)
    }

    /// Drops items whose [deadline](crate::Call::deadline) has passed, and refuses those that would not come out in time at
    /// the rate at which items come out now. Default: a deadline only ends the wait for room.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Call, Clock, PopError, Queue, Reason};
    ///
    /// let clock = Clock::manual();
    /// let queue = Queue::new(9).drop_expired().clock(clock.clone());
    /// let soon = Call::new().deadline(clock.now() + Duration::from_secs(1));
    /// queue.try_push_for("answer", soon).unwrap();
    /// clock.advance(Duration::from_secs(1));
    /// assert_eq!(queue.try_pop(), Err(PopError::Empty));
    /// assert_eq!(queue.try_push_for("too late", soon).unwrap_err().reason(), Reason::DeadlineExceeded);
    /// ```
    #[must_use = "returns the changed queue"]
    pub fn drop_expired(self) -> Self {
        self.reordered(|order| order.drops_expired = true)
    }

    /// Drops what has waited more than twice `target` while the queue is overloaded: while for a whole `interval` nothing
    /// came out that had waited less than `target` (CoDel, as folly has it). Default: it does not.
    ///
    /// Each class of priority is judged by itself. 5 ms and 100 ms suit services.
    ///
    /// # Panics
    ///
    /// If `target` is zero or not below `interval`.
    #[must_use = "returns the changed queue"]
    #[track_caller]
    pub fn codel(self, target: Duration, interval: Duration) -> Self {
        if target.is_zero() || target >= interval {
            absurd("target", saturating_nanos(target), "ns must be above 0 and below the interval");
        }
        self.reordered(|order| order.codel = Some((saturating_nanos(target), saturating_nanos(interval))))
    }

    /// Serves the newest first while the queue is overloaded, and drops what is too old by then, as
    /// [`codel`](Self::codel) says; that is 5 ms and 100 ms unless it is set. Default: first in, first out, always.
    ///
    /// Under overload the oldest are those whose callers have given up most likely; in between, order is kept. (*Adaptive
    /// LIFO*: B. Maurer, "Fail at Scale", 2015.)
    #[must_use = "returns the changed queue"]
    pub fn newest_first_when_overloaded(self) -> Self {
        self.reordered(|order| {
            order.is_adaptive = true;
            order.codel = order.codel.or(Some((5_000_000, 100_000_000)));
        })
    }

    /// Refuses the lowest priorities as the queue fills: from half of its capacity on, a growing share of those that came
    /// lately. Default: priorities do not matter for admission.
    ///
    /// So what matters most finds room to the end, whatever the priorities are and however many there are of each.
    #[must_use = "returns the changed queue"]
    pub fn admit_by_priority(mut self) -> Self {
        self.by_priority = true;
        self.state.lock().threshold = Some(Box::new(Threshold::new()));
        self.reordered(|_| {})
    }

    setters!("queue");

    /// Makes the store an ordered one, and changes its order; what is inside goes along.
    fn reordered(mut self, change: impl FnOnce(&mut Order)) -> Self {
        self.is_plain = false;
        let mut state = self.state.lock();
        let mut order = state.items.order().cloned().unwrap_or_default();
        change(&mut order);
        let is_timed = order.needs_time();
        state.items.reorder(order);
        state.reopen();
        drop(state);
        self.is_timed = is_timed;
        self
    }

    /// Changes how many items there may be, at run time. Growing lets those in who wait; shrinking drops nothing, and lets
    /// nothing in until enough have come out.
    ///
    /// ```
    /// use floodwall::Queue;
    ///
    /// let queue = Queue::new(1);
    /// queue.try_push(1).unwrap();
    /// queue.set_capacity(2)?;
    /// queue.try_push(2).unwrap();
    /// queue.set_capacity(1)?;
    /// assert_eq!((queue.len(), queue.capacity()), (2, 1));
    /// # Ok::<(), floodwall::BadSetting>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If `capacity` is 0; nothing changes then.
    pub fn set_capacity(&self, capacity: usize) -> Result<(), BadSetting> {
        if capacity == 0 {
            return Err(BadSetting::new("capacity", 0, MUST_BE_SOME));
        }
        self.changed(|state| state.items.capacity = capacity);
        Ok(())
    }

    /// Changes how heavy all items may be together, at run time, where [`max_weight`](Self::max_weight) has set it.
    ///
    /// A pusher that waits with an item that is now too heavy is refused.
    ///
    /// # Errors
    ///
    /// If `weight` is 0, or the queue was built without a weight; nothing changes then.
    pub fn set_max_weight(&self, weight: u64) -> Result<(), BadSetting> {
        if weight == 0 {
            return Err(BadSetting::new("weight", 0, MUST_BE_SOME));
        }
        if !self.by_cost {
            return Err(BadSetting::new("weight", weight, "must be set when the queue is built"));
        }
        self.changed(|state| state.items.max_weight = weight);
        Ok(())
    }

    fn changed(&self, change: impl FnOnce(&mut State<T>)) {
        let (now, mut effects) = (self.now(), Effects::none());
        let mut state = self.state.lock();
        change(&mut state);
        state.reopen();
        state.refuse_too_heavy(&mut effects);
        state.settle(now, &mut effects);
        drop(state);
        self.follow_up(effects);
    }

    /// Lets nothing in any more. What is inside can still be popped; then pops end as [`Closed`](PopError::Closed).
    ///
    /// Pushes that wait are refused and give their items back.
    pub fn close(&self) {
        let mut effects = Effects::none();
        self.state.lock().close(&mut effects);
        self.follow_up(effects);
    }

    /// Lets nothing in any more and returns what is inside, in the order in which it would have come out.
    ///
    /// ```
    /// use floodwall::{PopError, Queue};
    ///
    /// let queue = Queue::new(9);
    /// queue.try_push(1).unwrap();
    /// assert_eq!(queue.close_now(), [1]);
    /// assert_eq!(queue.try_pop(), Err(PopError::Closed));
    /// ```
    pub fn close_now(&self) -> Vec<T> {
        let mut effects = Effects::none();
        let mut state = self.state.lock();
        let left = state.items.drain_all();
        state.close(&mut effects);
        drop(state);
        self.follow_up(effects);
        left
    }

    /// Returns whether the queue was closed; something may still be inside.
    pub fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }

    /// Returns how many items are inside.
    pub fn len(&self) -> usize {
        self.state.lock().items.len()
    }

    /// Returns whether nothing is inside.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many items there may be.
    pub fn capacity(&self) -> usize {
        self.state.lock().items.capacity
    }

    /// The time, if the order of items needs it.
    fn now(&self) -> u64 {
        if self.is_timed { self.clock.nanos() } else { 0 }
    }

    /// Does what must not be done under the lock; mostly nothing.
    #[inline]
    fn follow_up(&self, effects: Effects<T>) {
        if effects.is_some() {
            self.do_effects(effects);
        } else {
            // Empty, it has nothing to drop, and to find that out takes longer than to say it.
            std::mem::forget(effects);
        }
    }

    #[inline(never)]
    fn do_effects(&self, effects: Effects<T>) {
        let Effects { waker, more, unused, dropped } = effects;
        if let Some(waker) = waker {
            waker.wake();
        }
        more.into_iter().for_each(std::task::Waker::wake);
        drop(unused);
        for (item, why) in dropped {
            self.hook.emit(Event::Dropped(why));
            match &self.on_drop {
                Some(take) => take(item, why),
                None => drop(item),
            }
        }
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("name", &self.hook.name)
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("overflow", &self.overflow)
            .finish_non_exhaustive()
    }
}

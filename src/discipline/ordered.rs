//! Entries in the order in which they are served, and the ones that are dropped on the way: [`Ordered`].

use std::collections::VecDeque;

use super::codel::Codel;
use super::drr::Drr;
use super::priorities::Priorities;
use super::shuffle::{FLOWS, hand};
use crate::clock::NEVER;
use crate::event::DropReason;

/// Something that waits to be served, and what it is served by.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    pub(crate) item: T,
    /// What it costs, where costs are counted; else 1.
    pub(crate) weight: u32,
    pub(crate) priority: u8,
    /// Whose it is, where flows are told apart.
    pub(crate) key: u64,
    /// When it came, where that matters; nanoseconds.
    pub(crate) at: u64,
    pub(crate) deadline: u64,
    /// Its number, in the order of coming.
    pub(crate) seq: u64,
}

/// How entries are ordered and dropped, as it was built.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    pub(crate) priorities: Option<Priorities>,
    pub(crate) is_fair: bool,
    pub(crate) drops_expired: bool,
    /// Target and interval, in nanoseconds.
    pub(crate) codel: Option<(u64, u64)>,
    pub(crate) is_adaptive: bool,
    /// The times of all entries are measured.
    pub(crate) is_timed: bool,
}

impl Order {
    /// Returns whether it must be told the time at each step.
    pub(crate) const fn needs_time(&self) -> bool {
        self.is_timed || self.drops_expired || self.codel.is_some()
    }

    pub(crate) fn class_of(&self, priority: u8) -> usize {
        self.priorities.as_ref().map_or(0, |priorities| priorities.class_of(priority))
    }
}

/// Entries by class and by flow.
#[derive(Debug)]
pub(crate) struct Ordered<T> {
    pub(crate) order: Order,
    classes: Vec<Class<T>>,
    /// Who is next below the strict class.
    turns: Drr,
    len: usize,
    weight: u64,
    /// Some classes have places of their own.
    keeps_places: bool,
}

/// The entries of one class.
#[derive(Debug)]
struct Class<T> {
    flows: Vec<VecDeque<Entry<T>>>,
    turns: Drr,
    len: usize,
    codel: Option<Codel>,
}

/// An entry that was taken out to make room, and where it stood first.
#[derive(Debug)]
pub(crate) struct Evicted<T> {
    pub(crate) entry: Entry<T>,
    class: usize,
    flow: usize,
}

/// How many entries that are too old one pop drops, so that no critical section is long.
const PRUNE: usize = 8;

impl<T> Ordered<T> {
    pub(crate) fn new(order: Order) -> Self {
        let count = order.priorities.map_or(1, |priorities| priorities.len());
        let keeps = |priorities: Priorities| (0..count).any(|class| priorities.reserved(class) > 0);
        let weight = |class| order.priorities.map_or(1, |priorities| priorities.weight(class).into());
        let flows = if order.is_fair { FLOWS } else { 1 };
        let class = || Class {
            flows: (0..flows).map(|_| VecDeque::new()).collect(),
            turns: Drr::new(vec![1; flows]),
            len: 0,
            codel: order.codel.map(|(target, interval)| Codel::new(target, interval)),
        };
        Self {
            classes: (0..count).map(|_| class()).collect(),
            turns: Drr::new((0..count).map(weight).collect()),
            len: 0,
            weight: 0,
            keeps_places: order.priorities.is_some_and(keeps),
            order,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn weight(&self) -> u64 {
        self.weight
    }

    /// Returns whether some classes have places of their own.
    pub(crate) const fn keeps_places(&self) -> bool {
        self.keeps_places
    }

    /// Returns how many of `capacity` an entry of this priority may fill together with all others: the places that
    /// are kept for other classes, and are free, are not for it.
    #[inline]
    pub(crate) fn open_to(&self, priority: u8, capacity: usize) -> usize {
        let Some(priorities) = self.order.priorities.as_ref().filter(|_| self.keeps_places) else {
            return capacity;
        };
        let own = priorities.class_of(priority);
        let others = self.classes.iter().enumerate().filter(|(class, _)| *class != own);
        let kept = others.map(|(number, class)| priorities.reserved(number).saturating_sub(class.len)).sum();
        capacity.saturating_sub(kept)
    }

    /// Returns how many entries may be served before a new one of this priority.
    pub(crate) fn ahead_of(&self, priority: u8) -> usize {
        if self.order.class_of(priority) == 0 { self.classes[0].len } else { self.len }
    }

    #[inline]
    pub(crate) fn push(&mut self, entry: Entry<T>) {
        let number = self.order.class_of(entry.priority);
        self.entered(number, &entry);
        self.classes[number].push(entry);
    }

    #[inline]
    fn entered(&mut self, number: usize, entry: &Entry<T>) {
        self.len += 1;
        self.weight += u64::from(entry.weight);
        if number > 0 && self.classes[number].len == 0 {
            self.turns.activate(number);
        }
    }

    /// Takes the entry to serve at `now`, and hands those that are dropped before it to `gone`.
    #[inline]
    pub(crate) fn pop(&mut self, now: u64, mut gone: impl FnMut(Entry<T>, DropReason)) -> Option<Entry<T>> {
        loop {
            let number = self.next_class()?;
            let order = &self.order;
            let class = &mut self.classes[number];
            let codel =
                class.codel.as_ref().filter(|codel| order.is_adaptive && codel.is_overloaded()).cloned();
            let (flow, newest_first) = (class.next_flow()?, codel.is_some());
            if let Some(codel) = codel {
                let is_old = |entry: &Entry<T>| codel.is_too_old(now.saturating_sub(entry.at));
                for _ in 0..PRUNE {
                    // The last one is left to be judged below.
                    if class.flows[flow].len() < 2 || !class.flows[flow].front().is_some_and(is_old) {
                        break;
                    }
                    if let Some(entry) = class.take(flow, false) {
                        self.len -= 1;
                        self.weight -= u64::from(entry.weight);
                        gone(entry, DropReason::Overloaded);
                    }
                }
            }
            let class = &mut self.classes[number];
            // Newest first, the delay of the oldest is still what tells whether the overload lasts.
            let oldest = class.flows[flow].front().map_or(now, |entry| entry.at);
            let entry = class.take(flow, newest_first)?;
            self.len -= 1;
            self.weight -= u64::from(entry.weight);
            let is_empty = class.len == 0;
            let drops = order.drops_expired && entry.deadline <= now;
            let why = if drops {
                Some(DropReason::Expired)
            } else if let Some(codel) = &mut class.codel {
                let own = now.saturating_sub(entry.at);
                let late = codel.drops(now, now.saturating_sub(oldest));
                (late && codel.is_too_old(own)).then_some(DropReason::Overloaded)
            } else {
                None
            };
            if is_empty && number > 0 {
                self.turns.deactivate(number);
            }
            match why {
                Some(why) => gone(entry, why),
                None => {
                    self.turns.charge(number, 1);
                    self.classes[number].charge(flow, &entry);
                    return Some(entry);
                }
            }
        }
    }

    /// Takes the entry to serve where time does not matter.
    #[inline]
    pub(crate) fn pop_untimed(&mut self) -> Option<Entry<T>> {
        let number = self.next_class()?;
        let class = &mut self.classes[number];
        let flow = class.next_flow()?;
        let entry = class.take(flow, false)?;
        class.charge(flow, &entry);
        let is_empty = class.len == 0;
        self.len -= 1;
        self.weight -= u64::from(entry.weight);
        if number > 0 {
            self.turns.charge(number, 1);
            if is_empty {
                self.turns.deactivate(number);
            }
        }
        Some(entry)
    }

    /// Takes the next entry as it is, whatever it has waited, to empty the queue.
    pub(crate) fn pop_any(&mut self) -> Option<Entry<T>> {
        let number = self.classes.iter().position(|class| class.len > 0)?;
        let flow = self.classes[number].next_flow()?;
        self.remove(number, flow)
    }

    /// Takes out all entries of which `is_gone` says so. Takes as long as a look at each.
    pub(crate) fn extract(&mut self, is_gone: impl Fn(&T) -> bool, mut gone: impl FnMut(Entry<T>)) {
        for number in 0..self.classes.len() {
            for flow in 0..self.classes[number].flows.len() {
                let entries = std::mem::take(&mut self.classes[number].flows[flow]);
                let (out, kept): (VecDeque<_>, _) =
                    entries.into_iter().partition(|entry| is_gone(&entry.item));
                self.classes[number].flows[flow] = kept;
                for entry in out {
                    self.classes[number].left(flow);
                    self.left(number, &entry);
                    gone(entry);
                }
            }
        }
    }

    /// Takes out the oldest entry, where flows are told apart the oldest of the longest flow; `None` if all the places
    /// taken are reserved by classes other than that of `priority`.
    pub(crate) fn evict_oldest(&mut self, priority: u8) -> Option<Evicted<T>> {
        let own = self.order.class_of(priority);
        let class_numbers = 0..self.classes.len();
        let flows = class_numbers.filter(|number| *number == own || self.is_over_reserve(*number)).flat_map(
            |number| {
                let flows = self.classes[number].flows.iter().enumerate();
                flows.filter_map(move |(flow, entries)| {
                    Some((number, flow, entries.len(), entries.front()?.seq))
                })
            },
        );
        let (number, flow, ..) = if self.order.is_fair {
            flows.max_by_key(|(_, _, len, seq)| (*len, std::cmp::Reverse(*seq)))?
        } else {
            flows.min_by_key(|(.., seq)| *seq)?
        };
        self.evict(number, flow)
    }

    /// Takes out the oldest entry of the lowest class below that of `priority`; `None` if there is none, or it is reserved.
    pub(crate) fn evict_lowest(&mut self, priority: u8) -> Option<Evicted<T>> {
        let own = self.order.class_of(priority);
        let number = (own + 1..self.classes.len()).rev().find(|number| self.is_over_reserve(*number))?;
        let class = &self.classes[number];
        let heads = class.flows.iter().enumerate();
        let heads = heads.filter_map(|(flow, entries)| Some((entries.front()?.seq, flow)));
        let (_, flow) = heads.min()?;
        self.evict(number, flow)
    }

    fn evict(&mut self, class: usize, flow: usize) -> Option<Evicted<T>> {
        let entry = self.remove(class, flow)?;
        Some(Evicted { entry, class, flow })
    }

    /// Undoes an eviction: the last one first.
    pub(crate) fn put_back(&mut self, evicted: Evicted<T>) {
        let Evicted { entry, class: number, flow } = evicted;
        self.entered(number, &entry);
        let class = &mut self.classes[number];
        class.entered(flow);
        class.flows[flow].push_front(entry);
    }

    fn is_over_reserve(&self, class: usize) -> bool {
        self.classes[class].len
            > self.order.priorities.as_ref().map_or(0, |priorities| priorities.reserved(class))
    }

    #[inline]
    fn remove(&mut self, number: usize, flow: usize) -> Option<Entry<T>> {
        let entry = self.classes[number].take(flow, false)?;
        self.left(number, &entry);
        Some(entry)
    }

    #[inline]
    fn left(&mut self, number: usize, entry: &Entry<T>) {
        self.len -= 1;
        self.weight -= u64::from(entry.weight);
        if self.classes[number].len == 0 && number > 0 {
            self.turns.deactivate(number);
        }
    }

    #[inline]
    fn next_class(&mut self) -> Option<usize> {
        if self.classes[0].len > 0 {
            return Some(0);
        }
        self.turns.pick(|_| 1)
    }
}

impl<T> Class<T> {
    #[inline]
    fn push(&mut self, entry: Entry<T>) {
        let flow = if self.flows.len() == 1 {
            0
        } else {
            // The shortest of its hand.
            hand(entry.key).into_iter().min_by_key(|flow| self.flows[*flow].len()).unwrap_or(0)
        };
        self.entered(flow);
        self.flows[flow].push_back(entry);
    }

    #[inline]
    fn entered(&mut self, flow: usize) {
        if self.flows.len() > 1 && self.flows[flow].is_empty() {
            self.turns.activate(flow);
        }
        self.len += 1;
    }

    #[inline]
    fn next_flow(&mut self) -> Option<usize> {
        if self.flows.len() == 1 {
            return Some(0);
        }
        let flows = &self.flows;
        self.turns.pick(|flow| flows[flow].front().map_or(0, |entry| entry.weight.into()))
    }

    /// Hears that an entry of the flow was served.
    #[inline]
    fn charge(&mut self, flow: usize, entry: &Entry<T>) {
        if self.flows.len() > 1 {
            self.turns.charge(flow, entry.weight.into());
        }
    }

    #[inline]
    fn take(&mut self, flow: usize, newest: bool) -> Option<Entry<T>> {
        let entries = &mut self.flows[flow];
        let entry = if newest { entries.pop_back() } else { entries.pop_front() }?;
        self.left(flow);
        Some(entry)
    }

    #[inline]
    fn left(&mut self, flow: usize) {
        self.len -= 1;
        if self.flows.len() > 1 && self.flows[flow].is_empty() {
            self.turns.deactivate(flow);
        }
    }
}

impl<T> Entry<T> {
    /// An entry that asks for nothing.
    pub(crate) const fn plain(item: T) -> Self {
        Self { item, weight: 1, priority: 0, key: 0, at: 0, deadline: NEVER, seq: 0 }
    }
}

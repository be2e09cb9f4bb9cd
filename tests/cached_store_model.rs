//! A store with a cache in front under random operations, interleavings, failures, evictions and restarts, against a plain
//! map.
#![cfg(not(floodwall_loom))]

#[path = "support/stepped.rs"]
mod stepped;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use floodwall::store::{Batch, CachedStore, Store, Write};
use floodwall::{Cache, Clock, Error};
use proptest::prelude::*;
use stepped::{Broken, Mood, Stepped};
use support::{poll, secs};

const KEYS: u64 = 4;

#[derive(Clone, Debug)]
enum Step {
    Save(u64),
    Remove(u64),
    WriteMany(BTreeSet<u64>, u64),
    Load(u64),
    LoadMany(BTreeSet<u64>),
    /// One of those that run goes on, as far as it can, or by one step.
    Poll(usize),
    Finish(usize),
    Drop(usize),
    Evict(u64),
    Clear,
    Advance(u64),
    Mood(Mood),
    Flush,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS;
    let keys = || prop::collection::btree_set(0..KEYS, 1..4);
    prop_oneof![
        6 => key().prop_map(Step::Save),
        2 => key().prop_map(Step::Remove),
        3 => (keys(), 0u64..4).prop_map(|(keys, removed)| Step::WriteMany(keys, removed)),
        6 => key().prop_map(Step::Load),
        2 => keys().prop_map(Step::LoadMany),
        20 => (0usize..8).prop_map(Step::Poll),
        6 => (0usize..8).prop_map(Step::Finish),
        4 => (0usize..8).prop_map(Step::Drop),
        3 => key().prop_map(Step::Evict),
        1 => Just(Step::Clear),
        2 => (0u64..6).prop_map(Step::Advance),
        2 => Just(Step::Mood(Mood::Well)),
        1 => Just(Step::Mood(Mood::Down)),
        1 => Just(Step::Mood(Mood::Picky)),
        1 => Just(Step::Mood(Mood::Lying)),
        1 => Just(Step::Flush),
        1 => Just(Step::Restart),
    ]
}

type Cached = CachedStore<u64, u64, Arc<Stepped>>;
type Make = fn(Cache<u64, Option<u64>>, Arc<Stepped>) -> Cached;

/// What may be read of a key.
#[derive(Clone, Debug, Default)]
struct Truth {
    /// What was written last that was said to be written.
    accepted: Option<u64>,
    /// What may have been written since: by writes that run, by their number, and by those that failed or were dropped.
    running: BTreeMap<usize, Option<u64>>,
    unclear: Vec<Option<u64>>,
}

impl Truth {
    fn may_be(&self, value: Option<u64>) -> bool {
        self.accepted == value
            || self.unclear.contains(&value)
            || self.running.values().any(|other| *other == value)
    }
}

enum Output {
    Written(Batch<(), Error<Broken>>),
    Loaded(Batch<Option<u64>, Error<Broken>>),
}

struct Task {
    number: usize,
    future: Pin<Box<dyn Future<Output = Output>>>,
    writes: Vec<(u64, Option<u64>)>,
    /// What a read may answer, for each of its keys: what it was when it began, and what has come since.
    reads: Vec<(u64, Vec<Option<u64>>)>,
}

struct Program {
    make: Make,
    /// Whether a failure leaves the cache as it was.
    leaves_as_it_was: bool,
    store: Arc<Stepped>,
    clock: Clock,
    cached: Cached,
    tasks: Vec<Task>,
    truth: Vec<Truth>,
    /// Rises, so that each value was written once.
    count: u64,
}

fn open(make: Make, store: &Arc<Stepped>, clock: &Clock) -> Cached {
    let cache =
        Cache::builder(3).ttl(secs(10)).refresh_ahead(0.5).stale_if_error(secs(20)).clock(clock.clone());
    make(cache.build(), store.clone())
}

impl Program {
    fn new(make: Make, leaves_as_it_was: bool) -> Self {
        let (store, clock) = (Stepped::new(1), Clock::manual());
        let cached = open(make, &store, &clock);
        let truth = vec![Truth::default(); KEYS as usize];
        Self { make, leaves_as_it_was, store, clock, cached, tasks: Vec::new(), truth, count: 0 }
    }

    fn write(&mut self, writes: Vec<(u64, Option<u64>)>) {
        self.count += 1;
        let number = self.count as usize;
        for (key, value) in &writes {
            self.truth[*key as usize].running.insert(number, *value);
            for (_, answers) in
                self.tasks.iter_mut().flat_map(|task| &mut task.reads).filter(|read| read.0 == *key)
            {
                answers.push(*value);
            }
        }
        let (cached, own) = (self.cached.clone(), writes.clone());
        let future = Box::pin(async move {
            Output::Written(match own[..] {
                [(key, Some(value))] => cached.save(&key, &value).await.map(|()| vec![Ok(())]),
                [(key, None)] => cached.remove(&key).await.map(|()| vec![Ok(())]),
                _ => {
                    let write = |write| match write {
                        &(ref key, Some(ref value)) => Write::save(key, value),
                        (key, None) => Write::remove(key),
                    };
                    cached.write_many(&own.iter().map(write).collect::<Vec<_>>()).await
                }
            })
        });
        self.tasks.push(Task { number, future, writes, reads: Vec::new() });
    }

    fn read(&mut self, keys: Vec<u64>) {
        self.count += 1;
        let answers = |key: &u64| {
            let truth = &self.truth[*key as usize];
            let mut answers = vec![truth.accepted];
            answers.extend(truth.running.values().chain(&truth.unclear));
            (*key, answers)
        };
        let reads = keys.iter().map(answers).collect();
        let cached = self.cached.clone();
        let future = Box::pin(async move {
            Output::Loaded(match keys[..] {
                [key] => Ok(vec![cached.load(&key).await]),
                _ => cached.load_many(&keys.iter().collect::<Vec<_>>()).await,
            })
        });
        self.tasks.push(Task { number: self.count as usize, future, writes: Vec::new(), reads });
    }

    /// Polls a task; returns whether it has ended.
    fn poll(&mut self, place: usize) -> bool {
        let task = &mut self.tasks[place];
        let Poll::Ready(output) = poll(&mut task.future) else { return false };
        let task = self.tasks.remove(place);
        match output {
            Output::Written(results) => {
                let results: Vec<bool> = match results {
                    Ok(results) => results.iter().map(Result::is_ok).collect(),
                    Err(_) => vec![false; task.writes.len()],
                };
                for ((key, value), is_accepted) in task.writes.iter().zip(results) {
                    let truth = &mut self.truth[*key as usize];
                    truth.running.remove(&task.number);
                    if is_accepted {
                        truth.accepted = *value;
                        // Those that have ended did so before this one began.
                        truth.unclear.clear();
                    } else {
                        truth.unclear.push(*value);
                    }
                }
            }
            Output::Loaded(Ok(results)) => {
                for ((key, answers), result) in task.reads.iter().zip(results) {
                    if let Ok(value) = result {
                        assert!(answers.contains(&value), "key {key}: {value:?} is none of {answers:?}");
                    }
                }
            }
            Output::Loaded(Err(_)) => {}
        }
        true
    }

    fn finish(&mut self, place: usize) {
        let number = self.tasks[place].number;
        for _ in 0..1_000 {
            let Some(place) = self.tasks.iter().position(|task| task.number == number) else { return };
            if self.poll(place) {
                return;
            }
            // It may wait for others.
            for place in (0..self.tasks.len()).rev() {
                if self.tasks.get(place).is_some_and(|task| task.number != number) {
                    self.poll(place);
                }
            }
        }
        panic!("task {number} does not end");
    }

    fn drop_task(&mut self, place: usize) {
        let task = self.tasks.remove(place);
        for (key, value) in &task.writes {
            let truth = &mut self.truth[*key as usize];
            truth.running.remove(&task.number);
            truth.unclear.push(*value);
        }
    }

    fn take(&mut self, step: Step) {
        let one_of = |place: usize, tasks: &[Task]| (!tasks.is_empty()).then(|| place % tasks.len());
        self.count += 1;
        let value = self.count;
        match step {
            Step::Save(key) => self.write(vec![(key, Some(value))]),
            Step::Remove(key) => self.write(vec![(key, None)]),
            Step::WriteMany(keys, removed) => {
                let value = |key: u64| (key != removed).then_some(value * 10 + key);
                self.write(keys.into_iter().map(|key| (key, value(key))).collect());
            }
            Step::Load(key) => self.read(vec![key]),
            Step::LoadMany(keys) => self.read(keys.into_iter().collect()),
            Step::Poll(place) => drop(one_of(place, &self.tasks).map(|place| self.poll(place))),
            Step::Finish(place) => {
                one_of(place, &self.tasks).into_iter().for_each(|place| self.finish(place))
            }
            Step::Drop(place) => {
                one_of(place, &self.tasks).into_iter().for_each(|place| self.drop_task(place))
            }
            Step::Evict(key) => drop(self.cached.cache().remove(&key)),
            Step::Clear => self.cached.cache().clear(),
            Step::Advance(time) => self.clock.advance(secs(time)),
            Step::Mood(mood) => self.store.set(mood),
            Step::Flush => {
                let cached = self.cached.clone();
                let flush = async move { cached.flush().await };
                // What is left may be in the hands of a task that is not polled; then it is not waited for.
                let mut flush = Box::pin(flush);
                for _ in 0..10 {
                    if poll(&mut flush).is_ready() {
                        break;
                    }
                }
            }
            Step::Restart => {
                self.store.set(Mood::Well);
                self.end();
                self.cached = open(self.make, &self.store, &self.clock);
            }
        }
    }

    /// Lets everything end, and holds what all of them have against the map.
    fn end(&mut self) {
        while !self.tasks.is_empty() {
            self.finish(0);
        }
        assert!(polls_to_the_end(self.cached.flush()));
        for key in 0..KEYS {
            let (truth, row) = (&self.truth[key as usize], self.store.row(key));
            assert!(truth.may_be(row), "key {key}: the store has {row:?}, which is not {truth:?}");
            let held = self.cached.cache().peek(&key);
            // A failure that hides a write leaves the cache as it was, on purpose.
            let hides = self.leaves_as_it_was && !truth.unclear.is_empty();
            let may_hold = held.is_none() || held == Some(row) || hides;
            assert!(may_hold, "key {key}: the cache has {held:?}, the store {row:?}");
        }
        // From here on what the store has is the truth.
        self.cached.cache().clear();
        for key in 0..KEYS {
            self.truth[key as usize] = Truth { accepted: self.store.row(key), ..Truth::default() };
        }
    }
}

fn polls_to_the_end<F: Future>(future: F) -> bool {
    let mut future = Box::pin(future);
    (0..1_000).any(|_| poll(&mut future).is_ready())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..Default::default() })]

    /// A read answers what was accepted last, or what was on its way while it ran; the cache ends as the store does.
    #[test]
    fn reads_see_the_last_write_that_was_accepted(steps in prop::collection::vec(step(), 1..150), strategy in 0usize..3) {
        let make = [Cached::write_through, Cached::write_around, Cached::invalidating][strategy];
        let mut program = Program::new(make, strategy < 2);
        for step in steps {
            program.take(step);
        }
        program.store.set(Mood::Well);
        program.end();
    }
}

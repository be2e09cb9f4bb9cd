//! Write-behind under random operations, failures, evictions and restarts, against a plain map.
#![cfg(not(floodwall_loom))]

mod support {
    pub(crate) mod faulty;
}

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use floodwall::store::Store;
use floodwall::{Cache, Clock, Exponential, Timeout, WriteBehind};
use proptest::prelude::*;
use support::faulty::{Faulty, Mood};

#[derive(Clone, Debug)]
enum Step {
    Save(u64, u64),
    Remove(u64),
    Load(u64),
    Evict(u64),
    Advance(u64),
    Mood(Mood),
    Hang(bool),
    /// The runner goes away, in the middle of a batch perhaps, and another one comes.
    Rerun,
    BeginFlush,
    DropFlush,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0u64..8;
    let keys = || prop::collection::hash_set(0u64..8, 1..4);
    prop_oneof![
        8 => (key.clone(), 0u64..1_000).prop_map(|(key, value)| Step::Save(key, value)),
        3 => key.clone().prop_map(Step::Remove),
        6 => key.clone().prop_map(Step::Load),
        3 => key.prop_map(Step::Evict),
        6 => (0u64..3_000).prop_map(Step::Advance),
        1 => Just(Step::Mood(Mood::Well)),
        1 => Just(Step::Mood(Mood::Down)),
        1 => Just(Step::Mood(Mood::Lying)),
        1 => keys().prop_map(|keys| Step::Mood(Mood::Spoiled(keys))),
        1 => keys().prop_map(|keys| Step::Mood(Mood::Picky(keys))),
        1 => Just(Step::Hang(true)),
        2 => Just(Step::Hang(false)),
        1 => Just(Step::Rerun),
        1 => Just(Step::BeginFlush),
        1 => Just(Step::DropFlush),
        1 => Just(Step::Restart),
    ]
}

type Behind = WriteBehind<u64, u64, Arc<Faulty>>;
type Task = Pin<Box<dyn Future<Output = ()>>>;

fn poll(task: &mut Task) -> bool {
    task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn open(store: &Arc<Faulty>, clock: &Clock) -> Behind {
    let backoff = Exponential::new(Duration::from_millis(100)).max(Duration::from_secs(2)).attempts(3);
    WriteBehind::builder(store.clone())
        .clock(clock.clone())
        .batch(4)
        .weigher(|_, _| 1)
        .max_bytes(1_000)
        .backoff(backoff)
        .seed(7)
        .build()
}

/// A cache in front, as a program would have it: what it holds is only ever what was read or written last.
struct Program {
    store: Arc<Faulty>,
    clock: Clock,
    behind: Behind,
    cache: Cache<u64, u64>,
    run: Task,
    flush: Option<Task>,
    twin: BTreeMap<u64, u64>,
}

impl Program {
    fn new() -> Self {
        let (store, clock) = (Faulty::new(), Clock::manual());
        let behind = open(&store, &clock);
        let run = Box::pin(behind.run());
        let (cache, twin) = (Cache::new(4), BTreeMap::new());
        Self { store, clock, behind, cache, run, flush: None, twin }
    }

    fn load(&self, key: u64) -> Option<u64> {
        self.cache.get(&key).or_else(|| {
            let value = self.behind.load_blocking(&key).unwrap()?;
            self.cache.insert(key, value).unwrap();
            Some(value)
        })
    }

    fn begin_flush(&mut self) {
        let behind = self.behind.clone();
        self.flush = Some(Box::pin(async move { behind.flush().await }));
    }

    /// Runs all that can run, until nothing more happens.
    fn settle(&mut self) {
        for _ in 0..4 {
            let _ = poll(&mut self.run);
            if self.flush.as_mut().is_some_and(poll) {
                self.flush = None;
            }
        }
    }

    /// Brings everything into the store.
    fn drain(&mut self) {
        self.store.set(Mood::Well);
        self.store.hang(false);
        self.begin_flush();
        for _ in 0..200 {
            self.settle();
            if self.flush.is_none() {
                return;
            }
            self.clock.advance(Duration::from_millis(500));
        }
        panic!("a flush of a store that is well does not end: {:?}", self.behind.backlog());
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Save(key, value) => {
                self.behind.save_blocking(&key, &value).unwrap();
                self.cache.insert(key, value).unwrap();
                self.twin.insert(key, value);
            }
            Step::Remove(key) => {
                self.behind.remove_blocking(&key).unwrap();
                self.cache.remove(&key);
                self.twin.remove(&key);
            }
            Step::Load(key) => assert_eq!(self.load(key), self.twin.get(&key).copied(), "key {key}"),
            Step::Evict(key) => drop(self.cache.remove(&key)),
            Step::Advance(millis) => self.clock.advance(Duration::from_millis(millis)),
            Step::Mood(mood) => self.store.set(mood),
            Step::Hang(hangs) => self.store.hang(hangs),
            Step::Rerun => self.run = Box::pin(self.behind.run()),
            Step::BeginFlush => self.begin_flush(),
            Step::DropFlush => self.flush = None,
            Step::Restart => {
                self.drain();
                assert!(self.behind.close_blocking(Duration::from_secs(1)).is_empty());
                self.behind = open(&self.store, &self.clock);
                self.run = Box::pin(self.behind.run());
                self.cache = Cache::new(4);
                self.check_store();
            }
        }
        self.settle();
    }

    fn check_store(&self) {
        assert_eq!(*self.store.rows.lock().unwrap(), self.twin);
        let backlog = self.behind.backlog();
        assert_eq!((backlog.keys, backlog.bytes, backlog.oldest), (0, 0, None));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..Default::default() })]

    /// Reads see the last write that was taken, whatever the store does; the store sees one operation for a key at a time
    /// (it asserts that), in order; in the end it holds what the map holds.
    #[test]
    fn reads_see_the_last_write_and_the_store_ends_as_the_map(steps in prop::collection::vec(step(), 1..120)) {
        let mut program = Program::new();
        for step in steps {
            let restart = matches!(step, Step::Restart);
            program.take(step);
            if restart {
                program.store.batches.lock().unwrap().clear();
            }
            for key in 0..8 {
                prop_assert_eq!(program.behind.load_blocking(&key).unwrap(), program.twin.get(&key).copied());
            }
            let mut last = HashMap::new();
            for (key, _, sequence) in program.store.batches.lock().unwrap().iter().flatten() {
                let before = last.insert(*key, *sequence).unwrap_or(0);
                prop_assert!(*sequence >= before, "key {} went back from {} to {}", key, before, sequence);
            }
        }
        program.drain();
        program.check_store();
    }

    /// With a hook for what is given up, each write is in the store or was told to the hook: never neither.
    #[test]
    fn what_is_not_stored_was_told(
        poison in prop::collection::hash_set(0u64..40, 0..6),
        whole: bool,
        batch in 1usize..20,
    ) {
        let (store, clock) = (Faulty::new(), Clock::manual());
        let told = Arc::new(std::sync::Mutex::new(HashSet::new()));
        let heard = told.clone();
        let behind = WriteBehind::builder(store.clone())
            .clock(clock.clone())
            .batch(batch)
            .backoff(Exponential::new(Duration::from_millis(100)).max(Duration::from_secs(1)).attempts(3))
            .policy(Timeout::new(Duration::from_secs(5)).clock(clock.clone()))
            .dead_letters(move |letter| assert!(heard.lock().unwrap().insert(*letter.key)))
            .seed(1)
            .build();
        store.set(if whole { Mood::Spoiled(poison.clone()) } else { Mood::Picky(poison.clone()) });
        let mut run = Box::pin(behind.run());
        let mut poll_run = || match run.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(()) => panic!("nobody has closed it"),
            Poll::Pending => {}
        };
        for key in 0..40 {
            behind.save_blocking(&key, &key).unwrap();
        }
        for more in 100..200 {
            clock.advance(Duration::from_secs(1));
            poll_run();
            // A sign of life, without which nobody knows that the store is not down.
            behind.save_blocking(&more, &more).unwrap();
        }
        clock.advance(Duration::from_secs(1));
        poll_run();
        prop_assert_eq!(&*told.lock().unwrap(), &poison);
        let rows = store.rows.lock().unwrap();
        prop_assert!((0..40).all(|key| rows.contains_key(&key) != poison.contains(&key)));
        prop_assert_eq!(behind.backlog().keys, 0);
    }
}

//! `Cache` against a naive twin: one thread, random commands, everything at once; and the same with users' code that panics.
#![cfg(not(floodwall_loom))]

mod support;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use floodwall::cache::{Cause, Compute, Eviction};
use floodwall::{Cache, Clock};
use proptest::prelude::*;
use support::nanos;

thread_local! {
    /// After so many calls of users' code one panics; 0 is never.
    static FUSE: Cell<u32> = const { Cell::new(0) };
    /// The values that are alive, by their ids.
    static ALIVE: RefCell<BTreeSet<u64>> = const { RefCell::new(BTreeSet::new()) };
    static NEXT: Cell<u64> = const { Cell::new(0) };
    /// Whether the last panic came out of a drop.
    static DROPPING: Cell<bool> = const { Cell::new(false) };
}

/// A call of users' code.
fn burn() {
    burn_in(false);
}

fn burn_in(drop: bool) {
    let left = FUSE.get();
    FUSE.set(left.saturating_sub(1));
    if left == 1 && !std::thread::panicking() {
        DROPPING.set(drop);
        panic!("as planned");
    }
}

/// Forgets what a case before has left, if it failed.
fn begin() {
    FUSE.set(0);
    ALIVE.with_borrow_mut(BTreeSet::clear);
}

/// A key, and how many different hashes there are.
#[derive(Clone, Debug)]
struct Key(u8, u8);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        burn();
        (self.0 % self.1).hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        burn();
        self.0 == other.0
    }
}

impl Eq for Key {}

impl Drop for Key {
    fn drop(&mut self) {
        burn_in(true);
    }
}

/// A value that says whose it is, and is dropped once.
#[derive(Debug)]
struct Value {
    id: u64,
    key: u8,
    number: u64,
    weight: u64,
}

impl Value {
    fn new(key: u8, number: u64, weight: u64) -> Self {
        let id = NEXT.replace(NEXT.get() + 1);
        ALIVE.with_borrow_mut(|alive| assert!(alive.insert(id)));
        Self { id, key, number, weight }
    }
}

impl Clone for Value {
    fn clone(&self) -> Self {
        burn();
        Self::new(self.key, self.number, self.weight)
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        let was_alive = ALIVE.with_borrow_mut(|alive| alive.remove(&self.id));
        // Twice is not forgiven.
        if !was_alive {
            std::process::abort();
        }
        burn_in(true);
    }
}

#[derive(Clone, Debug)]
struct Settings {
    capacity: u64,
    hashes: u8,
    lru: bool,
    weighted: bool,
    largest: f64,
    ttl: u64,
    idle: u64,
    listened: bool,
}

/// What a capacity is at most.
const MOST: u64 = 1 << 56;

/// Each time has a unit that the wheel's ticks do not divide.
const UNIT: u64 = (1 << 22) + 1;

fn settings() -> impl Strategy<Value = Settings> {
    let capacity = prop_oneof![6 => 0u64..30, 1 => 600u64..700, 1 => Just(u64::MAX)];
    let hashes = prop_oneof![Just(1u8), Just(3), Just(255)];
    let time = prop_oneof![2 => Just(u64::MAX / UNIT), 1 => 1u64..100];
    (capacity, hashes, any::<[bool; 3]>(), prop_oneof![Just(1.0), Just(0.5)], time.clone(), time).prop_map(
        |(capacity, hashes, [lru, weighted, listened], largest, ttl, idle)| Settings {
            capacity,
            hashes,
            lru,
            weighted,
            largest,
            ttl,
            idle,
            listened,
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u8, u64),
    Get(u8),
    Peek(u8),
    Remove(u8),
    RemoveIf(u8, bool),
    Retain(u8),
    Clear,
    Compute(u8, Option<u64>),
    Load(u8, Result<u64, ()>),
    Iterate,
    Resize(u64),
    Advance(u64),
    Sweep(usize),
    Nested(u8, u8, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || prop_oneof![4 => 0u8..12, 1 => any::<u8>()];
    let weight = || prop_oneof![6 => 0u64..8, 1 => Just(MOST), 1 => Just(MOST / 2), 1 => Just(u64::MAX)];
    prop_oneof![
        8 => (key(), weight()).prop_map(|(key, weight)| Step::Insert(key, weight)),
        6 => key().prop_map(Step::Get),
        1 => key().prop_map(Step::Peek),
        2 => key().prop_map(Step::Remove),
        1 => (key(), any::<bool>()).prop_map(|(key, passes)| Step::RemoveIf(key, passes)),
        1 => (1u8..4).prop_map(Step::Retain),
        1 => Just(Step::Clear),
        2 => (key(), prop::option::of(weight())).prop_map(|(key, becomes)| Step::Compute(key, becomes)),
        2 => (key(), prop_oneof![3 => weight().prop_map(Ok), 1 => Just(Err(()))])
            .prop_map(|(key, loaded)| Step::Load(key, loaded)),
        1 => Just(Step::Iterate),
        1 => prop_oneof![3 => 0u64..30, 1 => 600u64..700, 1 => Just(u64::MAX)].prop_map(Step::Resize),
        3 => (0u64..30).prop_map(Step::Advance),
        1 => (0usize..5).prop_map(Step::Sweep),
        1 => (key(), key(), weight()).prop_map(|(key, other, weight)| Step::Nested(key, other, weight)),
    ]
}

type Heard = Arc<Mutex<Vec<(u8, u64, Cause)>>>;

fn build(settings: &Settings, clock: &Clock) -> (Cache<Key, Value>, Heard) {
    let heard = Heard::default();
    let mut builder = Cache::builder(settings.capacity).largest(settings.largest).clock(clock.clone());
    if settings.lru {
        builder = builder.eviction(Eviction::Lru);
    }
    if settings.weighted {
        builder = builder.weigher(|_: &Key, value: &Value| {
            burn();
            value.weight
        });
    }
    if settings.ttl < u64::MAX / UNIT {
        builder = builder.ttl(nanos(settings.ttl * UNIT));
    }
    if settings.idle < u64::MAX / UNIT {
        builder = builder.idle(nanos(settings.idle * UNIT));
    }
    if settings.listened {
        let heard = Arc::clone(&heard);
        builder = builder.listener(move |key: &Key, value: &Value, cause| {
            heard.lock().unwrap().push((key.0, value.number, cause));
            assert_eq!(key.0, value.key);
            burn();
        });
    }
    (builder.build(), heard)
}

/// An entry, as the twin knows it.
#[derive(Clone, Copy, Debug)]
struct Kept {
    number: u64,
    weight: u64,
    /// Where its time ends without further reads, and where at the latest.
    end: u64,
    cap: u64,
    used: u64,
}

/// What should be there. It is told what leaves, and says whether that may be.
struct Twin {
    settings: Settings,
    now: u64,
    uses: u64,
    kept: BTreeMap<u8, Kept>,
    /// Cleared, and not yet told.
    cleared: HashMap<u64, (u8, Kept, u64)>,
    cache: Cache<Key, Value>,
    heard: Heard,
    /// Which entries may leave for the operation that is going on.
    explicit: BTreeSet<u64>,
    replaced: Option<u64>,
    evicts: bool,
}

impl Twin {
    fn key(&self, key: u8) -> Key {
        Key(key, self.settings.hashes)
    }

    fn weight_of(&self, weight: u64) -> u64 {
        if self.settings.weighted { weight } else { 1 }
    }

    /// How much an idle entry may leave early.
    fn slack(&self, kept: &Kept) -> u64 {
        if kept.end < kept.cap { self.settings.idle * UNIT / 256 + 2 } else { 0 }
    }

    fn is_over(&self, kept: &Kept, may_be: bool) -> bool {
        let slack = if may_be { self.slack(kept) } else { 0 };
        kept.end <= self.now.saturating_add(slack)
    }

    fn use_of(&mut self, key: u8) {
        self.uses += 1;
        let (now, uses, idle) = (self.now, self.uses, self.settings.idle.saturating_mul(UNIT));
        if let Some(kept) = self.kept.get_mut(&key) {
            kept.used = uses;
            kept.end = kept.cap.min(now.saturating_add(idle));
        }
    }

    fn write(&mut self, key: u8, number: u64, weight: u64) {
        self.uses += 1;
        let cap = self.now.saturating_add(self.settings.ttl.saturating_mul(UNIT));
        let end = cap.min(self.now.saturating_add(self.settings.idle.saturating_mul(UNIT)));
        let weight = self.weight_of(weight);
        self.kept.insert(key, Kept { number, weight, end, cap, used: self.uses });
    }

    fn limit(&self) -> u64 {
        let capacity = self.cache.capacity();
        if self.settings.largest < 1.0 {
            ((capacity as f64 * self.settings.largest) as u64).max(capacity.min(1))
        } else {
            capacity
        }
    }

    /// Hears of what has left in the operation that has just been made.
    fn hear(&mut self) {
        for (key, number, cause) in std::mem::take(&mut *self.heard.lock().unwrap()) {
            if let Some((cleared, kept, at)) = self.cleared.remove(&number) {
                assert_eq!(cleared, key);
                let was_over = kept.end <= at.saturating_add(self.slack(&kept));
                assert!(cause == Cause::Explicit || cause == Cause::Expired && was_over, "{cause:?}");
                continue;
            }
            let kept = self.kept.remove(&key).expect("it was there, and left once");
            assert_eq!(kept.number, number, "what leaves is what was there");
            match cause {
                Cause::Expired => assert!(self.is_over(&kept, true), "{kept:?} at {}", self.now),
                Cause::Explicit => assert!(self.explicit.remove(&number) && !self.is_over(&kept, false)),
                Cause::Replaced => {
                    assert_eq!(self.replaced.take(), Some(number));
                    assert!(!self.is_over(&kept, false));
                }
                Cause::Size => {
                    assert!(self.evicts && kept.weight > 0);
                    if self.settings.lru {
                        let older = self.kept.values().filter(|kept| kept.weight > 0).map(|kept| kept.used);
                        assert!(older.min().is_none_or(|oldest| kept.used < oldest), "the oldest leaves");
                    }
                }
                cause => panic!("{cause:?}"),
            }
        }
    }

    /// What has to be so after each operation.
    fn check(&mut self) {
        self.hear();
        (self.evicts, self.replaced) = (false, None);
        let left = std::mem::take(&mut self.explicit);
        if self.settings.listened {
            assert!(left.is_empty(), "they were to leave: {left:?}");
            assert_eq!(self.cache.len(), self.kept.len());
            assert_eq!(self.cache.weight(), self.kept.values().map(|kept| kept.weight).sum::<u64>());
        } else {
            self.kept.retain(|_, kept| !left.contains(&kept.number));
            self.cleared.clear();
            assert!(self.cache.len() <= self.kept.len());
        }
        assert!(self.cache.weight() <= self.cache.capacity());
    }

    /// Whether a look-up that found this may be right.
    fn saw(&mut self, key: u8, found: Option<&Value>, is_use: bool) {
        match (found, self.kept.get(&key)) {
            (Some(value), Some(kept)) => {
                assert_eq!((value.key, value.number), (key, kept.number));
                assert!(!self.is_over(kept, false), "given out after its time");
                if is_use {
                    self.use_of(key);
                }
            }
            (Some(value), None) => panic!("{value:?} was never there, or has left"),
            (None, Some(kept)) => {
                assert!(
                    !self.settings.listened || self.is_over(kept, true),
                    "{key} {kept:?} at {}",
                    self.now
                );
            }
            (None, None) => {}
        }
    }

    /// Comes before an operation that may write a value of a weight.
    fn begin_write(&mut self, key: u8) {
        self.evicts = true;
        self.replaced = self.kept.get(&key).map(|kept| kept.number);
    }

    fn wrote(&mut self, key: u8, number: u64, weight: u64) {
        self.hear();
        assert!(!self.settings.listened || !self.kept.contains_key(&key), "what was there has left");
        if self.weight_of(weight) <= self.limit() {
            self.write(key, number, weight);
        } else {
            self.kept.remove(&key);
        }
    }

    fn remove_those(&mut self, test: impl Fn(u8) -> bool) {
        self.explicit = self
            .kept
            .iter()
            .filter(|(key, kept)| test(**key) && !self.is_over(kept, false))
            .map(|(_, kept)| kept.number)
            .collect();
    }

    fn take(&mut self, step: Step, clock: &Clock) {
        let cache = self.cache.clone();
        let number = self.uses + 1_000;
        match step {
            Step::Insert(key, weight) => {
                self.begin_write(key);
                let written = cache.insert(self.key(key), Value::new(key, number, weight));
                let weight_of = self.weight_of(weight);
                assert_eq!(written.is_ok(), weight_of <= self.limit());
                if let Err(refused) = written {
                    assert_eq!(
                        (refused.value.number, refused.weight, refused.limit),
                        (number, weight_of, self.limit())
                    );
                }
                self.wrote(key, number, weight);
                if weight_of <= self.limit() {
                    self.check();
                    assert!(cache.contains(&self.key(key)), "it was just written");
                }
            }
            Step::Get(key) => {
                let found = cache.get(&self.key(key));
                self.saw(key, found.as_ref(), true);
            }
            Step::Peek(key) => {
                let found = cache.peek(&self.key(key));
                self.saw(key, found.as_ref(), false);
                assert_eq!(found.is_some(), cache.contains(&self.key(key)));
            }
            Step::Remove(key) => {
                self.remove_those(|other| other == key);
                let found = cache.remove(&self.key(key));
                let kept = self.kept.get(&key).copied();
                self.hear();
                if let Some(found) = found {
                    assert_eq!(kept.map(|kept| kept.number), Some(found.number));
                }
                self.kept.remove(&key);
                self.explicit.clear();
            }
            Step::RemoveIf(key, passes) => {
                if passes {
                    self.remove_those(|other| other == key);
                }
                let removed = cache.remove_if(&self.key(key), |value| {
                    assert_eq!(value.key, key);
                    passes
                });
                assert!(passes || !removed);
                assert!(
                    !self.settings.listened || removed != self.explicit.is_empty() || !passes || {
                        // Idle, and so a little early.
                        self.kept.get(&key).is_some_and(|kept| self.is_over(kept, true))
                    }
                );
                if !removed {
                    self.explicit.clear();
                }
            }
            Step::Retain(modulus) => {
                let before = self.kept.clone();
                self.remove_those(|key| key % modulus == 0);
                cache.retain(|key, _| key.0 % modulus != 0);
                self.hear();
                // Idle, and so a little early.
                let may_be = |number: &u64| {
                    before.values().any(|kept| kept.number == *number && self.is_over(kept, true))
                };
                let rest: Vec<u64> = self.explicit.iter().copied().filter(|number| !may_be(number)).collect();
                assert!(!self.settings.listened || rest.is_empty());
                if self.settings.listened {
                    self.explicit.clear();
                }
            }
            Step::Clear => {
                for (key, kept) in std::mem::take(&mut self.kept) {
                    self.cleared.insert(kept.number, (key, kept, self.now));
                }
                cache.clear();
                assert_eq!((cache.len(), cache.weight(), cache.iter().count()), (0, 0, 0));
            }
            Step::Compute(key, becomes) => {
                self.begin_write(key);
                if becomes.is_none() {
                    self.remove_those(|other| other == key);
                }
                let mut seen = None;
                let after = cache.compute_blocking(&self.key(key), |value| {
                    seen = Some(value.map(|value| value.number));
                    becomes.map_or(Compute::Remove, |weight| Compute::Put(Value::new(key, number, weight)))
                });
                let seen = seen.expect("it was called");
                let kept = self.kept.get(&key).copied();
                if let Some(seen) = seen {
                    assert_eq!(kept.map(|kept| kept.number), Some(seen));
                } else if let Some(kept) = kept {
                    assert!(!self.settings.listened || self.is_over(&kept, true));
                }
                match becomes {
                    Some(weight) => {
                        // It was looked up first.
                        if seen.is_some() {
                            self.use_of(key);
                        }
                        self.wrote(key, number, weight);
                        assert_eq!(after.unwrap().is_some(), self.weight_of(weight) <= self.limit());
                    }
                    None => {
                        assert!(after.unwrap().is_none());
                        self.hear();
                        self.kept.remove(&key);
                        self.explicit.clear();
                    }
                }
            }
            Step::Load(key, loaded) => {
                self.begin_write(key);
                let mut was_called = false;
                let got = cache.get_or_load_blocking(&self.key(key), || {
                    was_called = true;
                    loaded.map(|weight| Value::new(key, number, weight))
                });
                if was_called {
                    let kept = self.kept.get(&key).copied();
                    if let (Some(kept), true) = (kept, self.settings.listened) {
                        assert!(self.is_over(&kept, true));
                    }
                    match loaded {
                        Ok(weight) => self.wrote(key, number, weight),
                        Err(()) => assert!(got.is_err()),
                    }
                } else {
                    let found = got.unwrap();
                    self.saw(key, Some(&found), true);
                }
            }
            Step::Iterate => {
                let mut all: Vec<(u8, u64)> =
                    cache.iter().map(|(key, value)| (key.0, value.number)).collect();
                all.sort_unstable();
                let number_of = all.len();
                all.dedup_by_key(|(key, _)| *key);
                assert_eq!(number_of, all.len(), "each once");
                for (key, kept) in &self.kept {
                    let is_there = all.binary_search(&(*key, kept.number)).is_ok();
                    assert!(!is_there || !self.is_over(kept, false));
                    assert!(is_there || self.is_over(kept, true) || !self.settings.listened);
                }
                assert!(all.iter().all(|(key, _)| self.kept.contains_key(key)));
            }
            Step::Resize(capacity) => {
                self.evicts = true;
                cache.set_capacity(capacity);
                assert_eq!(cache.capacity(), capacity.min(MOST));
            }
            Step::Advance(by) => {
                clock.advance(nanos(by * UNIT));
                self.now += by * UNIT;
            }
            Step::Sweep(budget) => {
                cache.sweep(budget);
            }
            Step::Nested(key, other, weight) => {
                // While a value is looked at, its own key is written twice, and another one.
                let fits = self.weight_of(weight) <= self.limit();
                let was_there = cache.with(&self.key(key), |value| {
                    let before = value.number;
                    self.saw(key, Some(value), true);
                    for at in [number, number + 1] {
                        self.begin_write(key);
                        assert_eq!(cache.insert(self.key(key), Value::new(key, at, weight)).is_ok(), fits);
                        self.wrote(key, at, weight);
                        self.check();
                    }
                    if other != key {
                        self.begin_write(other);
                        let _ = cache.insert(self.key(other), Value::new(other, number + 2, weight));
                        self.wrote(other, number + 2, weight);
                        self.check();
                    }
                    assert_eq!((value.key, value.number), (key, before), "it is what it was");
                });
                if was_there.is_none() {
                    self.saw(key, None, true);
                }
                self.uses += 10;
            }
        }
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_cache_is_a_map_that_forgets_what_it_says(
        settings in settings(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        begin();
        let clock = Clock::manual();
        let (cache, heard) = build(&settings, &clock);
        let mut twin = Twin {
            settings,
            now: 0,
            uses: 0,
            kept: BTreeMap::new(),
            cleared: HashMap::new(),
            cache: cache.clone(),
            heard,
            explicit: BTreeSet::new(),
            replaced: None,
            evicts: false,
        };
        for step in steps {
            twin.take(step, &clock);
        }
        // Nobody is forgotten: in the end all have left and were told.
        cache.sweep(usize::MAX);
        twin.check();
        prop_assert!(twin.cleared.is_empty(), "{:?}", twin.cleared);
        // And what is not in the cache any more was dropped.
        let alive = ALIVE.with_borrow(BTreeSet::len);
        prop_assert_eq!(alive, cache.len());
        drop((cache, twin));
        prop_assert_eq!(ALIVE.with_borrow(BTreeSet::len), 0);
    }

    /// Trap 10: each kind of users' code panics somewhere, and nothing is lost but what was in its hands.
    #[test]
    fn trap_10_nothing_is_lost_or_dropped_twice_whatever_panics(
        settings in settings(),
        steps in prop::collection::vec((step(), 0u32..60), 1..60),
        last in 0u32..50,
    ) {
        begin();
        let clock = Clock::manual();
        let (cache, heard) = build(&settings, &clock);
        let key = |key| Key(key, settings.hashes);
        let mut told = BTreeSet::new();
        // What a function returns is lost by the language if a destructor panics at its end (rust-lang/rust#47949).
        let mut lost = 0;
        for (number, (step, fuse)) in (1_000u64..).step_by(10).zip(steps) {
            let work = || match step {
                Step::Insert(at, weight) => drop(cache.insert(key(at), Value::new(at, number, weight))),
                Step::Get(at) => drop(cache.get(&key(at))),
                Step::Peek(at) => drop(cache.peek(&key(at))),
                Step::Remove(at) => drop(cache.remove(&key(at))),
                Step::RemoveIf(at, passes) => {
                    cache.remove_if(&key(at), |_| {
                        burn();
                        passes
                    });
                }
                Step::Retain(modulus) => cache.retain(|key, _| {
                    burn();
                    key.0 % modulus != 0
                }),
                Step::Clear => cache.clear(),
                Step::Compute(at, becomes) => {
                    let _ = cache.compute_blocking(&key(at), |_| {
                        burn();
                        becomes.map_or(Compute::Remove, |weight| Compute::Put(Value::new(at, number, weight)))
                    });
                }
                Step::Load(at, loaded) => {
                    let _ = cache.get_or_load_blocking(&key(at), || {
                        burn();
                        loaded.map(|weight| Value::new(at, number, weight))
                    });
                }
                Step::Iterate => drop(cache.iter().count()),
                Step::Resize(capacity) => cache.set_capacity(capacity),
                Step::Advance(by) => clock.advance(nanos(by * UNIT)),
                Step::Sweep(budget) => _ = cache.sweep(budget),
                Step::Nested(at, other, weight) => {
                    cache.with(&key(at), |value| {
                        let before = value.number;
                        let _ = cache.insert(key(at), Value::new(at, number, weight));
                        let _ = cache.insert(key(other), Value::new(other, number + 1, weight));
                        assert_eq!((value.key, value.number), (at, before));
                        burn();
                    });
                }
            };
            let returns = match step {
                Step::Get(_) | Step::Peek(_) | Step::Remove(_) | Step::Compute(..) | Step::Load(..) => 1,
                Step::Insert(_, weight) => usize::from(settings.weighted && weight > 0),
                // Of its two inserts only the one that panics.
                Step::Nested(_, _, weight) => usize::from(settings.weighted && weight > 0),
                _ => 0,
            };
            FUSE.set(fuse);
            DROPPING.set(false);
            let _ = catch_unwind(AssertUnwindSafe(work));
            FUSE.set(0);
            lost += if DROPPING.get() { returns } else { 0 };
            // Whole, whatever has become of it.
            prop_assert!(cache.weight() <= cache.capacity());
            let mut weight = 0;
            let mut count = 0;
            cache.for_each(|key, value| {
                assert_eq!(key.0, value.key);
                weight += if settings.weighted { value.weight } else { 1 };
                count += 1;
            });
            prop_assert!((count, weight) <= (cache.len(), cache.weight()));
            for event in heard.lock().unwrap().drain(..) {
                prop_assert!(told.insert((event.0, event.1)), "told twice of {:?}", event);
            }
        }
        // As good as new: it takes in as much as before, and gives all of it back.
        cache.set_capacity(20);
        cache.clear();
        cache.sweep(usize::MAX);
        let alive = ALIVE.with_borrow(BTreeSet::len);
        prop_assert!(alive <= lost, "{} alive and {} lost", alive, lost);
        for at in 0..20 {
            cache.insert(key(at), Value::new(at, u64::from(at), 1)).unwrap();
        }
        prop_assert_eq!((cache.len(), cache.weight()), (20, 20), "no room was lost");
        prop_assert!((0..20).all(|at| cache.get(&key(at)).is_some_and(|value| value.number == u64::from(at))));
        // Also by the last who drops something.
        FUSE.set(last);
        let _ = catch_unwind(AssertUnwindSafe(|| drop(cache)));
        FUSE.set(0);
        prop_assert_eq!(ALIVE.with_borrow(BTreeSet::len), alive);
    }
}

/// Trap 10.
#[test]
fn trap_10_the_listener_hears_of_what_was_removed_also_if_its_clone_panics() {
    begin();
    let settings = Settings {
        capacity: 10,
        hashes: 255,
        lru: false,
        weighted: false,
        largest: 1.0,
        ttl: u64::MAX / UNIT,
        idle: u64::MAX / UNIT,
        listened: true,
    };
    for fuse in 1..=6 {
        let (cache, heard) = build(&settings, &Clock::manual());
        cache.insert(Key(1, 255), Value::new(1, 7, 1)).unwrap();
        FUSE.set(fuse);
        let removed = catch_unwind(AssertUnwindSafe(|| cache.remove(&Key(1, 255))));
        FUSE.set(0);
        assert!(removed.is_err());
        let gone = 1 - cache.len();
        assert_eq!(*heard.lock().unwrap(), vec![(1, 7, Cause::Explicit); gone]);
        assert_eq!(cache.stats().removed, gone as u64);
    }
}

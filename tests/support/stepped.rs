//! A store in memory whose operations take steps, so that a test can stop them half-way.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::collections::{BTreeMap, HashSet};
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use floodwall::store::{Batch, Store, Write};

/// What happens to writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Nothing works, reads included.
    Down,
    /// Odd keys fail.
    Picky,
    /// It writes, and says that it has not.
    Lying,
    Panicking,
}

#[derive(Debug, Default)]
pub(crate) struct Stepped {
    pub(crate) rows: Mutex<BTreeMap<u64, u64>>,
    pub(crate) mood: Mutex<Mood>,
    /// All writes that were made, in order.
    pub(crate) log: Mutex<Vec<(u64, Option<u64>, u64)>>,
    pub(crate) loads: AtomicUsize,
    /// The keys that are being written.
    writing: Mutex<HashSet<u64>>,
    is_shared: bool,
    steps: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// A key that is being written. Two at a time are against the rules.
struct Writing<'a>(&'a Stepped, u64);

impl<'a> Writing<'a> {
    fn new(store: &'a Stepped, key: u64) -> Self {
        let is_new = store.writing.lock().unwrap().insert(key);
        assert!(is_new || store.is_shared, "key {key} is written twice at a time");
        Self(store, key)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.writing.lock().unwrap().remove(&self.1);
    }
}

impl Stepped {
    /// Every operation yields so often before it has its effect, and as often after.
    pub(crate) fn new(steps: usize) -> Arc<Self> {
        Arc::new(Self { steps, ..Self::default() })
    }

    /// As `new`, for several writers that know nothing of each other.
    pub(crate) fn shared(steps: usize) -> Arc<Self> {
        Arc::new(Self { steps, is_shared: true, ..Self::default() })
    }

    pub(crate) fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub(crate) fn row(&self, key: u64) -> Option<u64> {
        self.rows.lock().unwrap().get(&key).copied()
    }

    pub(crate) fn loads(&self) -> usize {
        self.loads.load(Ordering::Relaxed)
    }

    async fn step(&self) {
        let mut left = self.steps;
        poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            // So that threads meet in the middle of it.
            std::thread::yield_now();
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn put(&self, write: Write<'_, u64, u64>) -> Result<(), Broken> {
        let mood = *self.mood.lock().unwrap();
        if mood == Mood::Down || mood == Mood::Picky && write.key % 2 == 1 {
            return Err(Broken);
        }
        assert!(mood != Mood::Panicking, "the store panics, as told");
        self.log.lock().unwrap().push((*write.key, write.value.copied(), write.sequence));
        let mut rows = self.rows.lock().unwrap();
        match write.value {
            Some(value) => drop(rows.insert(*write.key, *value)),
            None => drop(rows.remove(write.key)),
        }
        if mood == Mood::Lying { Err(Broken) } else { Ok(()) }
    }

    async fn write(&self, write: Write<'_, u64, u64>) -> Result<(), Broken> {
        let _writing = Writing::new(self, *write.key);
        self.step().await;
        let result = self.put(write);
        self.step().await;
        result
    }
}

impl Store<u64, u64> for Stepped {
    type Error = Broken;

    async fn load(&self, key: &u64) -> Result<Option<u64>, Broken> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.step().await;
        if *self.mood.lock().unwrap() == Mood::Down {
            return Err(Broken);
        }
        let value = self.row(*key);
        self.step().await;
        Ok(value)
    }

    async fn save(&self, key: &u64, value: &u64) -> Result<(), Broken> {
        self.write(Write::save(key, value)).await
    }

    async fn remove(&self, key: &u64) -> Result<(), Broken> {
        self.write(Write::remove(key)).await
    }

    /// Odd keys fail when it is picky, the whole batch when it is down.
    async fn load_many(&self, keys: &[&u64]) -> Batch<Option<u64>, Broken> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.step().await;
        let mood = *self.mood.lock().unwrap();
        if mood == Mood::Down {
            return Err(Broken);
        }
        let load = |key: &u64| {
            if mood == Mood::Picky && key % 2 == 1 { Err(Broken) } else { Ok(self.row(*key)) }
        };
        let values = keys.iter().map(|key| load(key)).collect();
        self.step().await;
        Ok(values)
    }

    async fn write_many(&self, writes: &[Write<'_, u64, u64>]) -> Batch<(), Broken> {
        let _writing: Vec<_> = writes.iter().map(|write| Writing::new(self, *write.key)).collect();
        self.step().await;
        if *self.mood.lock().unwrap() == Mood::Down {
            return Err(Broken);
        }
        let results = writes.iter().map(|write| self.put(*write)).collect();
        self.step().await;
        Ok(results)
    }
}

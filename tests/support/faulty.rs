//! A store in memory that fails, hangs and panics as a test tells it, and writes down what it was asked to do.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::collections::{BTreeMap, HashSet};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use floodwall::store::{Batch, Store, Write};

/// What happens to the next batches.
#[derive(Clone, Debug, Default)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Nothing works.
    Down,
    /// Batches with one of these keys fail as a whole.
    Spoiled(HashSet<u64>),
    /// Writes of these keys fail, and the others of their batch do not.
    Picky(HashSet<u64>),
    /// It writes, and says that it has not.
    Lying,
    /// The store panics.
    Panicking,
}

/// A write as it came: key, value and number.
type Written = (u64, Option<u64>, u64);

#[derive(Debug, Default)]
pub(crate) struct Faulty {
    pub(crate) rows: Mutex<BTreeMap<u64, u64>>,
    pub(crate) batches: Mutex<Vec<Vec<Written>>>,
    pub(crate) mood: Mutex<Mood>,
    /// While it is set, batches hang.
    pub(crate) hangs: AtomicBool,
    /// The keys that are being written.
    writing: Mutex<HashSet<u64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

impl Faulty {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub(crate) fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }

    pub(crate) fn row(&self, key: u64) -> Option<u64> {
        self.rows.lock().unwrap().get(&key).copied()
    }

    /// How many writes it was asked to make.
    pub(crate) fn writes(&self) -> usize {
        self.batches.lock().unwrap().iter().map(Vec::len).sum()
    }

    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.batches.lock().unwrap().iter().map(Vec::len).collect()
    }

    /// For a test that cuts a write off.
    pub(crate) fn forget_what_is_written(&self) {
        self.writing.lock().unwrap().clear();
    }

    fn put(&self, key: u64, value: Option<u64>) {
        let mut rows = self.rows.lock().unwrap();
        match value {
            Some(value) => drop(rows.insert(key, value)),
            None => drop(rows.remove(&key)),
        }
    }
}

impl Store<u64, u64> for Faulty {
    type Error = Broken;

    async fn load(&self, key: &u64) -> Result<Option<u64>, Broken> {
        Ok(self.row(*key))
    }

    async fn save(&self, key: &u64, value: &u64) -> Result<(), Broken> {
        self.write_many(&[Write::save(key, value)]).await?.remove(0)
    }

    async fn remove(&self, key: &u64) -> Result<(), Broken> {
        self.write_many(&[Write::remove(key)]).await?.remove(0)
    }

    async fn write_many(&self, writes: &[Write<'_, u64, u64>]) -> Batch<(), Broken> {
        let batch: Vec<_> =
            writes.iter().map(|write| (*write.key, write.value.copied(), write.sequence)).collect();
        for (key, ..) in &batch {
            assert!(self.writing.lock().unwrap().insert(*key), "two operations for one key at a time");
        }
        self.batches.lock().unwrap().push(batch.clone());
        poll_fn(|_| if self.hangs.load(Ordering::Relaxed) { Poll::Pending } else { Poll::Ready(()) }).await;
        for (key, ..) in &batch {
            self.writing.lock().unwrap().remove(key);
        }
        let mood = self.mood.lock().unwrap().clone();
        match &mood {
            Mood::Down => return Err(Broken),
            Mood::Spoiled(keys) if batch.iter().any(|write| keys.contains(&write.0)) => return Err(Broken),
            Mood::Panicking => panic!("the store panics, as told"),
            _ => {}
        }
        let write = |(key, value, _): &(u64, Option<u64>, u64)| match &mood {
            Mood::Picky(keys) if keys.contains(key) => Err(Broken),
            Mood::Lying => {
                self.put(*key, *value);
                Err(Broken)
            }
            _ => {
                self.put(*key, *value);
                Ok(())
            }
        };
        Ok(batch.iter().map(write).collect())
    }
}

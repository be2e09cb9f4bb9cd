//! What write-behind writes, and what becomes of it.

use std::sync::Arc;

/// One write of a batch.
#[derive(Debug)]
pub(crate) struct Item<K, V> {
    pub(super) key: Arc<K>,
    pub(super) value: Option<Arc<V>>,
    pub(super) sequence: u64,
    pub(super) bytes: u64,
    /// How often it has failed before.
    pub(super) failed: u32,
}

/// What is to be done next.
pub(crate) enum Next<K, V> {
    Write(Vec<Item<K, V>>),
    /// Nothing before this time, unless something changes.
    Sleep(u64),
}

/// How one write of a batch ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fate {
    Written,
    /// It was not tried.
    Untried,
    /// Its batch failed, and it may have been any of them.
    Unclear,
    Failed {
        delay: u64,
        alone: bool,
        give_up: GiveUp,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum GiveUp {
    Never,
    /// If others have landed since it failed first: then it is not the store that is down.
    IfOthersLand,
    Now,
}

/// What a caller must see to after a change.
pub(crate) struct Freed<K, V> {
    pub(super) bytes: u64,
    /// The number of a write that need not be kept any more.
    pub(super) done: Option<u64>,
    /// To be dropped outside the lock.
    pub(super) _garbage: (Option<Arc<K>>, Option<Arc<V>>),
}

pub(crate) enum Landed<K, V> {
    Freed(Freed<K, V>),
    StillDirty,
    /// To be given up: [`Dirty::bury`] or [`Dirty::revive`] it.
    Dead,
}

pub(super) fn freed<K, V>(
    bytes: u64,
    done: Option<u64>,
    garbage: (Option<Arc<K>>, Option<Arc<V>>),
) -> Freed<K, V> {
    Freed { bytes, done, _garbage: garbage }
}

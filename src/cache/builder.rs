//! The settings of a cache: [`CacheBuilder`].

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use super::evict::Eviction;
use super::expiry::Rules;
use super::hash::Seed;
use super::stats::Counts;
use super::{Cache, Cause, Entries, Inner, Room, Settings};
use crate::clock::Clock;
use crate::event::Hook;
use crate::flight::Flights;
use crate::rng::Seeds;
use crate::setters::setters;

/// The settings of a [`Cache`], made by [`Cache::builder`].
#[must_use = "does nothing until `build` is called"]
pub struct CacheBuilder<K, V> {
    room: Room,
    pub(super) settings: Settings<K, V>,
    clock: Clock,
    hook: Hook,
}

impl<K: Hash + Eq, V> CacheBuilder<K, V> {
    pub(super) fn new(capacity: u64) -> Self {
        Self {
            room: Room {
                capacity,
                weighted: false,
                largest: 1.0,
                eviction: Eviction::default(),
                seed: 0,
                words: 0,
                listened: false,
            },
            settings: Settings {
                weigher: None,
                listener: None,
                rules: Rules::FOREVER,
                expiry: None,
                negative: None,
                tags: None,
                background: None,
                seeds: Seeds::from_entropy(),
                soft_timeout: Duration::MAX,
            },
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
    }

    /// Counts the capacity in what `weigh` says of each entry, such as its bytes. Default: each entry weighs 1.
    ///
    /// A capacity of more than 2⁵⁶ is as good as none, and counts as that; nor may an entry be heavier.
    pub fn weigher(mut self, weigh: impl Fn(&K, &V) -> u64 + Send + Sync + 'static) -> Self {
        self.room.weighted = true;
        self.settings.weigher = Some(Box::new(weigh));
        self
    }

    /// Refuses an entry that weighs more than `share` of the capacity. Default: 1, all of it.
    ///
    /// A heavy entry makes many others leave. One of weight 1 is never refused, but by a cache of capacity 0.
    ///
    /// # Panics
    ///
    /// If `share` is not within 0 and 1.
    ///
    /// ```
    /// use floodwall::Cache;
    ///
    /// let pages = Cache::builder(1000).weigher(|_, page: &String| page.len() as u64).largest(0.1).build();
    /// pages.insert("small", "a".repeat(100))?;
    /// let refused = pages.insert("large", "b".repeat(101)).unwrap_err();
    /// assert_eq!((refused.weight, refused.limit), (101, 100));
    /// assert_eq!(pages.len(), 1);
    /// # Ok::<(), floodwall::cache::TooHeavy<String>>(())
    /// ```
    #[track_caller]
    pub fn largest(mut self, share: f64) -> Self {
        assert!((0.0..=1.0).contains(&share), "largest: {share} must be within 0 and 1");
        self.room.largest = share;
        self
    }

    /// Says which entry leaves when there is no room. Default: [`Eviction::Adaptive`].
    ///
    /// ```
    /// use floodwall::Cache;
    /// use floodwall::cache::Eviction;
    ///
    /// let cache = Cache::builder(2).eviction(Eviction::Lru).build();
    /// cache.insert("a", 1)?;
    /// cache.insert("b", 2)?;
    /// cache.get("a");
    /// cache.insert("c", 3)?;
    /// assert_eq!((cache.get("a"), cache.get("b")), (Some(1), None));
    /// # Ok::<(), floodwall::cache::TooHeavy<i32>>(())
    /// ```
    pub fn eviction(mut self, eviction: Eviction) -> Self {
        self.room.eviction = eviction;
        self
    }

    /// Tells `listener` of each entry that leaves, and why. Default: nobody.
    ///
    /// It runs on the thread that made the entry leave, after every lock is released: it may use the cache. If it panics, it
    /// is not told of the others that have left for the same call.
    pub fn listener(mut self, listener: impl Fn(&K, &V, Cause) + Send + Sync + 'static) -> Self {
        self.settings.listener = Some(Box::new(listener));
        self
    }

    setters!("cache");

    /// Makes the cache.
    ///
    /// # Panics
    ///
    /// If it has a [`soft_timeout`](Self::soft_timeout) and no [`background`](Self::background).
    #[track_caller]
    pub fn build(self) -> Cache<K, V> {
        let Self { mut room, settings, clock, hook } = self;
        assert!(
            settings.soft_timeout == Duration::MAX || settings.background.is_some(),
            "soft_timeout: needs a background, which finishes the load"
        );
        room.words = settings.rules.words();
        room.listened = settings.listener.is_some() || settings.tags.is_some();
        let seed = Seed::random();
        room.seed = seed.other();
        Cache {
            inner: Arc::new(Inner {
                entries: Entries::new(room),
                flights: Flights::new(),
                seed,
                settings,
                counts: Counts::new(),
                clock,
                hook,
            }),
        }
    }
}

impl<K, V> fmt::Debug for CacheBuilder<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder").field("room", &self.room).finish_non_exhaustive()
    }
}

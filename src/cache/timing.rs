//! The settings of a cache that are about time.

use std::hash::Hash;
use std::time::Duration;

use super::CacheBuilder;
use super::expiry::{Expiry, WHOLE, fixed};
use crate::error::{absurd, saturating_nanos};
use crate::rng::Seeds;

impl<K: Hash + Eq, V> CacheBuilder<K, V> {
    /// Lets each entry live for `ttl` after it was written. Default: for ever.
    ///
    /// At its end and later an entry is never given out, whenever it is swept. `Duration::MAX` is for ever.
    ///
    /// # Panics
    ///
    /// If `ttl` is zero.
    ///
    /// # Cost
    ///
    /// A look-up reads the clock; an entry takes some words more, for its times.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Cache, Clock};
    ///
    /// let clock = Clock::manual();
    /// let cache = Cache::builder(100).ttl(Duration::from_secs(10)).clock(clock.clone()).build();
    /// cache.insert("a", 1)?;
    /// clock.advance(Duration::from_secs(10) - Duration::from_nanos(1));
    /// assert_eq!(cache.get("a"), Some(1));
    /// clock.advance(Duration::from_nanos(1));
    /// assert_eq!(cache.get("a"), None);
    /// # Ok::<(), floodwall::cache::TooHeavy<i32>>(())
    /// ```
    #[track_caller]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.rules.ttl = at_least_1("ttl", ttl);
        // For ever is a time too: `insert_for` may say a shorter one.
        self.settings.rules.each = true;
        self
    }

    /// Lets each entry live for `idle` after it was last read or written, within its time to live. Default: for ever.
    ///
    /// A read counts if the last one that counted was longer ago than a 256th of it, so that an entry that is read all the
    /// time is not written all the time. So an entry may leave that much early, and never late.
    ///
    /// # Panics
    ///
    /// If `idle` is zero.
    #[track_caller]
    pub fn idle(mut self, idle: Duration) -> Self {
        self.settings.rules.idle = at_least_1("idle", idle);
        self
    }

    /// Lets `expiry` say how long each entry lives, in place of [`ttl`](Self::ttl). Default: all live equally long.
    pub fn expiry(mut self, expiry: impl Expiry<K, V> + 'static) -> Self {
        self.settings.expiry = Some(Box::new(expiry));
        (self.settings.rules.each, self.settings.rules.after_read) = (true, true);
        self
    }

    /// Shortens each time to live by up to `share` of it, so that what was written together does not end together.
    /// Default: 0.
    ///
    /// By how much is drawn from the key's hash: for one key the same each time, evenly spread over keys, and different in
    /// each process.
    ///
    /// # Panics
    ///
    /// If `share` is not within 0 and 1.
    #[track_caller]
    pub fn jitter(mut self, share: f64) -> Self {
        self.settings.rules.jitter = share_within_1("jitter", share);
        self
    }

    /// Refreshes an entry that is asked for when it has lived `share` of its time to live. Default: 1, when its time is over.
    ///
    /// One of those who [load](crate::Cache::get_or_load) it does so, and the others get what is there; with
    /// [`get_or_refresh`](crate::Cache::get_or_refresh) all do. So an entry that is asked for often never ends, and nobody waits
    /// for it. With [`jitter`](Self::jitter) entries that were written together are due one after the other.
    ///
    /// # Panics
    ///
    /// If `share` is not within 0 and 1.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Cache, Clock};
    ///
    /// let clock = Clock::manual();
    /// let rates = Cache::builder(100).ttl(Duration::from_secs(10)).refresh_ahead(0.8).clock(clock.clone()).build();
    /// rates.insert("eur", 1.1)?;
    /// clock.advance(Duration::from_secs(8));
    /// // It is due: loaded anew, but a failure harms nobody.
    /// let rate = rates.get_or_load_blocking(&"eur", || Err("the bank is closed"));
    /// assert_eq!(rate, Ok(1.1));
    /// # Ok::<(), floodwall::cache::TooHeavy<f64>>(())
    /// ```
    #[track_caller]
    pub fn refresh_ahead(mut self, share: f64) -> Self {
        let rules = &mut self.settings.rules;
        (rules.ahead, rules.early) = (share_within_1("refresh_ahead", share), 0.0);
        self
    }

    /// Refreshes an entry that is asked for shortly before its end, at random: each time with a chance of e to the power of
    /// minus what is left of its time, in units of `beta` times what its load took. Default: 0, when its time is over.
    ///
    /// In place of [`refresh_ahead`](Self::refresh_ahead): of the two the one that is set last holds. It is for a source that
    /// many processes ask, whose entries would all be due at the same share of their time. What is hot is refreshed
    /// some loads before its end by one of them, what is asked for seldom hardly before it. 1 suits most; more is earlier. Who
    /// refreshes, and what others get meanwhile, is as it is there.
    ///
    /// An entry that was inserted and not loaded has taken no time, and is not refreshed early.
    ///
    /// The rule is XFetch (A. Vattani, F. Chierichetti and K. Lowenstein, "Optimal probabilistic cache stampede prevention",
    /// 2015).
    ///
    /// # Panics
    ///
    /// If `beta` is negative or not finite.
    ///
    /// # Cost
    ///
    /// A power and a random number for who [loads](crate::Cache::get_or_load) an entry within 64 such units of its end.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Cache, Clock};
    ///
    /// let (clock, secs) = (Clock::manual(), Duration::from_secs);
    /// let rates = Cache::builder(100).ttl(secs(60)).refresh_early(1.0).clock(clock.clone()).build();
    /// let mut loads = 0;
    /// for _ in 0..60 {
    ///     rates.get_or_load_blocking(&"eur", || {
    ///         loads += 1;
    ///         clock.advance(secs(10)); // It takes that long.
    ///         Ok::<_, ()>(1.1)
    ///     }).unwrap();
    ///     clock.advance(secs(1));
    /// }
    /// assert!((1..=6).contains(&loads));
    /// ```
    #[track_caller]
    pub fn refresh_early(mut self, beta: f64) -> Self {
        assert!(beta >= 0.0 && beta.is_finite(), "refresh_early: {beta} must be at least 0");
        let rules = &mut self.settings.rules;
        (rules.ahead, rules.early) = (WHOLE, beta);
        self
    }

    /// Draws the same [early refreshes](Self::refresh_early) in each run. Default: a random seed.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seeds = Seeds::seeded(seed);
        self
    }

    /// Gives an entry out for so long after its time to those who would load it, while one of them does. Default: zero.
    ///
    /// [`get`](crate::Cache::get) and others that load nothing do not see it any more.
    ///
    /// ```
    /// # use std::{sync::mpsc, time::Duration};
    /// use floodwall::{Cache, Clock, cache::Job};
    ///
    /// let (clock, secs) = (Clock::manual(), Duration::from_secs);
    /// let (sender, jobs) = mpsc::sync_channel(8);
    /// let pages = Cache::builder(100)
    ///     .ttl(secs(10))
    ///     .stale_while_revalidate(secs(60))
    ///     .background(move |job: Job| sender.send(job).unwrap())
    ///     .clock(clock.clone())
    ///     .build();
    /// pages.insert("/", "old")?;
    /// clock.advance(secs(10));
    /// assert_eq!(pages.get(&"/"), None);
    /// assert_eq!(pages.get_or_refresh_blocking(&"/", || Ok::<_, ()>("new")), Ok("old"));
    /// jobs.recv().unwrap().run();
    /// assert_eq!(pages.get(&"/"), Some("new"));
    /// # Ok::<(), floodwall::cache::TooHeavy<&str>>(())
    /// ```
    pub fn stale_while_revalidate(mut self, time: Duration) -> Self {
        self.settings.rules.revalidate = saturating_nanos(time);
        self
    }

    /// Gives an entry out for so long after its time to those whose load fails. Default: zero.
    ///
    /// After a failure it is given out without a load for a second; later for half of the time for which it is over, up to
    /// a minute. So a dependency that is down is asked seldom, and one that was down shortly soon again.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Cache, Clock};
    ///
    /// let (clock, secs) = (Clock::manual(), Duration::from_secs);
    /// let users = Cache::builder(100).ttl(secs(10)).stale_if_error(secs(3600)).clock(clock.clone()).build();
    /// users.insert(7, "ann")?;
    /// clock.advance(secs(600));
    /// assert_eq!(users.get_or_load_blocking(&7, || Err("the database is down")), Ok("ann"));
    /// # Ok::<(), floodwall::cache::TooHeavy<&str>>(())
    /// ```
    pub fn stale_if_error(mut self, time: Duration) -> Self {
        self.settings.rules.on_error = saturating_nanos(time);
        self
    }
}

impl<K: Hash + Eq, V> CacheBuilder<K, Option<V>> {
    /// Lets values that are `None` live for `ttl`, since what is not there may soon be. Default: as the others.
    ///
    /// For loaders that say "there is none" by `Ok(None)`: it is known then, and not asked for each time.
    ///
    /// # Panics
    ///
    /// If `ttl` is zero.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Cache, Clock};
    ///
    /// let (clock, secs) = (Clock::manual(), Duration::from_secs);
    /// let users = Cache::builder(100).ttl(secs(60)).negative_ttl(secs(5)).clock(clock.clone()).build();
    /// users.insert(7, Some("ann"))?;
    /// users.insert(8, None)?;
    /// assert_eq!(users.get(&8), Some(None));
    /// clock.advance(secs(5));
    /// assert_eq!((users.get(&7), users.get(&8)), (Some(Some("ann")), None));
    /// # Ok::<(), floodwall::cache::TooHeavy<Option<&str>>>(())
    /// ```
    #[track_caller]
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.settings.negative = Some((Option::is_none, at_least_1("negative_ttl", ttl)));
        self.settings.rules.each = true;
        self
    }
}

#[track_caller]
fn at_least_1(setting: &str, time: Duration) -> u64 {
    if time.is_zero() {
        absurd(setting, 0, "ns must be at least 1 ns");
    }
    saturating_nanos(time)
}

#[track_caller]
fn share_within_1(setting: &str, share: f64) -> u64 {
    fixed(share).unwrap_or_else(|| panic!("{setting}: {share} must be within 0 and 1"))
}

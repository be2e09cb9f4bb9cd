//! How long an entry lives: [`Expiry`], and the pure [`Rules`] of a cache.

use std::time::Duration;

use super::times::{Life, MOST_WORDS, Times};
use crate::clock::NEVER;
use crate::rng::Rng;

/// Says how long each entry lives; closures `Fn(&K, &V) -> Duration` do so when it is written.
///
/// `Duration::MAX` is for ever, zero not at all. It is asked outside every lock, and may be asked more than once.
///
/// ```
/// # use std::time::Duration;
/// use floodwall::{Cache, Clock};
///
/// struct Token { lasts: Duration }
/// let clock = Clock::manual();
/// let tokens = Cache::builder(100)
///     .expiry(|_user: &&str, token: &Token| token.lasts)
///     .clock(clock.clone())
///     .build();
/// tokens.insert("ann", Token { lasts: Duration::from_secs(60) })?;
/// clock.advance(Duration::from_secs(59));
/// assert!(tokens.contains("ann"));
/// clock.advance(Duration::from_secs(1));
/// assert!(!tokens.contains("ann"));
/// # Ok::<(), floodwall::cache::TooHeavy<Token>>(())
/// ```
pub trait Expiry<K, V>: Send + Sync {
    /// Returns how long an entry that is new lives from now.
    fn after_create(&self, key: &K, value: &V) -> Duration;

    /// Returns how long an entry whose value was replaced lives from now; the old one had `left` to live. As
    /// [`after_create`](Expiry::after_create) if it does not say.
    fn after_update(&self, key: &K, value: &V, left: Duration) -> Duration {
        let _ = left;
        self.after_create(key, value)
    }

    /// Returns how long an entry that is read lives from now, or `None` to leave that as it is: it has `left` to live. As
    /// it is if this does not say.
    fn after_read(&self, key: &K, value: &V, left: Duration) -> Option<Duration> {
        let _ = (key, value, left);
        None
    }
}

impl<K, V, F: Fn(&K, &V) -> Duration + Send + Sync> Expiry<K, V> for F {
    fn after_create(&self, key: &K, value: &V) -> Duration {
        self(key, value)
    }
}

/// All of a share, in the fixed point that shares are kept in.
pub(super) const WHOLE: u64 = 1 << 32;
/// The longest time for which entries are kept after their end, 146 years: the sum of both has to fit.
const LONGEST_KEPT: u64 = 1 << 62;

/// How long the entries of a cache live, in nanoseconds; pure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) ttl: u64,
    pub(super) idle: u64,
    /// By what share of it a time to live may be shorter.
    pub(super) jitter: u64,
    /// At which share of its time to live an entry is due to be refreshed.
    pub(super) ahead: u64,
    /// By how many times its load an entry is refreshed before its end, on average; 0 if it is not.
    pub(super) early: f64,
    /// How long an entry is given out after its end while it is refreshed, and when it could not be.
    pub(super) revalidate: u64,
    pub(super) on_error: u64,
    /// Whether entries may live longer by a time that is computed when they are read.
    pub(super) after_read: bool,
    /// Whether the times of entries are computed one by one.
    pub(super) each: bool,
}

impl Rules {
    pub(super) const FOREVER: Self = Self {
        ttl: NEVER,
        idle: NEVER,
        jitter: 0,
        ahead: WHOLE,
        early: 0.0,
        revalidate: 0,
        on_error: 0,
        after_read: false,
        each: false,
    };

    /// Whether entries may be refreshed, and have a word that says when.
    pub(super) const fn refreshes(&self) -> bool {
        self.ahead < WHOLE || self.early > 0.0 || self.revalidate > 0 || self.on_error > 0
    }

    /// Whether reads move the time of an entry.
    const fn moves(&self) -> bool {
        self.idle < NEVER || self.after_read
    }

    pub(super) const fn caps(&self) -> bool {
        self.idle < NEVER && (self.ttl < NEVER || self.each)
    }

    /// How many words of time an entry has: when it leaves; when it is due; where its idle time ends at the latest.
    pub(super) const fn words(&self) -> usize {
        let timed = self.ttl < NEVER || self.each || self.moves() || self.refreshes();
        timed as usize + self.refreshes() as usize + self.caps() as usize
    }

    /// The word that says from when on the entry is due to be refreshed.
    pub(super) const fn due_word(&self) -> usize {
        if self.refreshes() { 1 } else { MOST_WORDS }
    }

    pub(super) const fn cap_word(&self) -> usize {
        if self.caps() { 1 + self.refreshes() as usize } else { MOST_WORDS }
    }

    /// How long an entry is kept after its end.
    pub(super) fn kept(&self) -> u64 {
        self.revalidate.max(self.on_error).min(LONGEST_KEPT)
    }

    /// Returns the times of an entry that is written at `now` to live for `ttl`, and whose load took so long.
    pub(super) fn life(&self, now: u64, ttl: u64, hash: u64, took: u64) -> Life {
        let ttl = self.jittered(ttl, hash);
        let cap = now.saturating_add(ttl);
        let mut life = Life { now, ..Life::FOREVER };
        let leaves = self.leaves(cap.min(now.saturating_add(self.idle)));
        let due = if self.early > 0.0 {
            self.early_from(cap, took)
        } else {
            cap.min(now.saturating_add(share_of(ttl, self.ahead)))
        };
        // Even: the lowest bit says that it was moved.
        let due = due & !1;
        for (word, time) in [(0, leaves), (self.due_word(), due), (self.cap_word(), cap)] {
            if let Some(word) = life.words.get_mut(word) {
                *word = time;
            }
        }
        life
    }

    /// Shortens a time to live by what the key's hash draws: the same for a key each time, and evenly spread over keys.
    /// Hashes differ from process to process, and so do the times. Never longer: nothing is older than was asked for.
    fn jittered(&self, ttl: u64, hash: u64) -> u64 {
        if ttl == NEVER {
            return ttl;
        }
        // The hash also says where the key lies: mixed, so that neighbours do not share their times.
        let drawn = Rng::seeded(hash).next() >> 32;
        ttl - share_of(ttl, (drawn * self.jitter) >> 32)
    }

    /// When an entry leaves whose end is `end`. Even where reads may move it: the lowest bit says that they may not.
    fn leaves(&self, end: u64) -> u64 {
        if end == NEVER {
            return NEVER;
        }
        let leaves = end.saturating_add(self.kept()).min(NEVER - 1);
        if self.moves() { leaves & !1 } else { leaves }
    }

    /// When the time of an entry ends.
    pub(super) fn end(&self, leaves: u64) -> u64 {
        if leaves == NEVER { NEVER } else { leaves.saturating_sub(self.kept()) }
    }

    /// Returns how long an entry has to live, and `None` if its time has ended.
    ///
    /// Nobody sees an entry again that somebody has seen ended: where reads move times, whoever finds one that has ended
    /// seals it. (A reader that was held up could otherwise lengthen a life that others have seen end.)
    pub(super) fn left(&self, times: Times<'_>, now: u64) -> Option<u64> {
        loop {
            let leaves = times.expires();
            let end = self.end(leaves);
            if end > now {
                return Some(if end == NEVER { NEVER } else { end - now });
            }
            let sealed = leaves.wrapping_sub(1);
            if !self.moves() || leaves & 1 == 1 || leaves == 0 || times.exchange(0, leaves, sealed) {
                return None;
            }
        }
    }

    /// Moves the end of an entry that was read in time by its idle time.
    ///
    /// Reads soon after each other write once: the end is up to a 256th of the idle time early, and never late.
    #[inline]
    pub(super) fn used(&self, times: Times<'_>, now: u64) {
        if self.idle == NEVER {
            return;
        }
        let old = times.expires();
        let leaves = self.leaves(now.saturating_add(self.idle).min(times.get(self.cap_word())));
        if old & 1 == 0 && leaves > old && leaves - old > self.idle >> 8 {
            times.exchange(0, old, leaves);
        }
    }

    /// Lets an entry that was read in time live for `ttl` from now, unless it was seen ended meanwhile.
    pub(super) fn live_on(&self, times: Times<'_>, now: u64, ttl: u64) {
        let mut old = times.expires();
        let leaves = self.leaves(now.saturating_add(ttl));
        while (old & 1 == 0 || old == NEVER) && old != leaves {
            if times.exchange(0, old, leaves) {
                return self.end_moved(times, self.end(old), self.end(leaves));
            }
            old = times.expires();
        }
    }
}

pub(super) fn share_of(time: u64, share: u64) -> u64 {
    ((u128::from(time) * u128::from(share)) >> 32) as u64
}

/// A share from 0 to 1 as it is kept; `None` outside, or if it is no number.
pub(super) fn fixed(share: f64) -> Option<u64> {
    (0.0..=1.0).contains(&share).then_some((share * WHOLE as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::AtomicU64;

    fn entry(rules: &Rules, now: u64) -> Vec<AtomicU64> {
        let life = rules.life(now, rules.ttl, 7, 0);
        life.words[..rules.words()].iter().map(|word| AtomicU64::new(*word)).collect()
    }

    #[test]
    fn an_entry_keeps_no_more_words_than_it_needs() {
        let words = |rules: Rules| rules.words();
        let (ttl, idle, on_error) = (10, 10, 10);
        assert_eq!(words(Rules::FOREVER), 0);
        assert_eq!(words(Rules { ttl, ..Rules::FOREVER }), 1);
        assert_eq!(words(Rules { idle, ..Rules::FOREVER }), 1);
        assert_eq!(words(Rules { ttl, idle, ..Rules::FOREVER }), 2);
        assert_eq!(words(Rules { ttl, on_error, ..Rules::FOREVER }), 2);
        assert_eq!(words(Rules { ttl, idle, on_error, ..Rules::FOREVER }), 3);
    }

    #[test]
    fn a_late_reader_moves_no_time_that_another_has_seen_end() {
        let rules = Rules { idle: 1_000, ..Rules::FOREVER };
        let entry = entry(&rules, 0);
        let times = Times(&entry);
        assert_eq!(rules.left(times, 999), Some(1));
        assert_eq!(rules.left(times, 1_000), None);
        // It read the clock before, and comes late.
        rules.used(times, 999);
        rules.live_on(times, 999, 1_000_000);
        assert_eq!(rules.left(times, 1_000), None);
        assert!(times.is_over(1_000));
    }

    #[test]
    fn reads_soon_after_each_other_write_once() {
        let rules = Rules { idle: 25_600, ..Rules::FOREVER };
        let entry = entry(&rules, 0);
        let times = Times(&entry);
        rules.used(times, 100);
        assert_eq!(times.expires(), 25_600);
        rules.used(times, 102);
        assert_eq!(times.expires(), 25_702);
    }
}

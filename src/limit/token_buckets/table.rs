//! The buckets of one shard, told the time.

use std::borrow::Borrow;
use std::num::NonZeroU32;

use crate::limit::change::Carry;
use crate::limit::rate::Rate;
use crate::places::{Places, Tagged};

/// The buckets of the keys of one shard, and their rate. Lives under a lock, so a bucket is a plain word.
///
/// A key is there while something is missing from its bucket; one whose bucket is full is as good as one that was never
/// met. That is what makes room: the hand of a CLOCK looks for a full bucket, first for one that was not used lately.
#[derive(Debug)]
pub(super) struct Table<K> {
    pub(super) rate: Rate,
    buckets: Places<Bucket<K>>,
}

/// For keys of a word 24 bytes.
#[derive(Debug)]
struct Bucket<K> {
    tag: Tag,
    was_used: bool,
    /// When everything taken will have flowed back, in units.
    full_at: u64,
    key: K,
}

/// The lower half of a hash, but for a bit: so that a free place takes no more than a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(NonZeroU32);

impl Tag {
    #[inline]
    pub(super) const fn new(hash: u64) -> Self {
        Self(NonZeroU32::MIN.saturating_add(hash as u32 & !1))
    }
}

impl<K> Tagged for Bucket<K> {
    #[inline]
    fn tag(&self) -> u32 {
        self.tag.0.get()
    }
}

/// What a key's bucket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Taken,
    /// The tokens are there in so many nanoseconds.
    Wait(u64),
    /// They never are: the bucket does not hold as many.
    Never,
    /// The key is new, and there is room for it in so many nanoseconds.
    NoRoom(u64),
}

impl<K: Eq> Table<K> {
    /// How many places a search for room looks at.
    const SEARCH: usize = 64;

    pub(super) const fn new(max: usize, rate: Rate) -> Self {
        Self { rate, buckets: Places::new(max) }
    }

    pub(super) const fn len(&self) -> usize {
        self.buckets.len()
    }

    #[inline]
    fn find<Q>(&self, tag: Tag, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.buckets.find(tag.0.get(), |bucket| bucket.key.borrow() == key)
    }

    /// Takes tokens of a key's bucket, or says when they are there; `None` if the key is not known.
    #[inline]
    pub(super) fn take<Q>(&mut self, tag: Tag, key: &Q, now: u64, cost: u32) -> Option<Decision>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let place = self.find(tag, key)?;
        let rate = &self.rate;
        let bucket = self.buckets.get_mut(place)?;
        match rate.take_at_once(bucket.full_at, now, cost) {
            Some(next) => {
                bucket.full_at = next;
                bucket.was_used = true;
                Some(Decision::Taken)
            }
            None if self.renew(now) => self.take(tag, key, now, cost),
            None => Some(self.refusal(self.full_at(tag, key), now, cost)),
        }
    }

    /// Says when so many tokens are there, or that they are there now.
    pub(super) fn refusal(&self, full_at: u64, now: u64, cost: u32) -> Decision {
        match self.rate.take(full_at, now, cost) {
            Some((_, 0)) => Decision::Taken,
            Some((_, wait)) => Decision::Wait(wait),
            None => Decision::Never,
        }
    }

    /// Returns the word of a key's bucket; that of a full one if the key is not known.
    pub(super) fn full_at<Q>(&self, tag: Tag, key: &Q) -> u64
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let bucket = self.find(tag, key).and_then(|place| self.buckets.get(place));
        bucket.map_or(0, |bucket| bucket.full_at)
    }

    /// Takes tokens of the full bucket of a key that is not known, or that others have met since; returns a key that has
    /// to be dropped.
    pub(super) fn meet(&mut self, tag: Tag, key: K, now: u64, cost: u32) -> (Decision, Option<K>) {
        if let Some(decision) = self.take(tag, &key, now, cost) {
            return (decision, Some(key));
        }
        match self.rate.take_at_once(0, now, cost) {
            Some(full_at) => self.insert(tag, key, full_at, now),
            None if self.renew(now) => self.meet(tag, key, now, cost),
            None => (Decision::Never, Some(key)),
        }
    }

    /// Takes tokens that were used without asking.
    pub(super) fn charge(&mut self, tag: Tag, key: K, now: u64, tokens: u32) -> (Decision, Option<K>) {
        // Others may have met the key since it was not known.
        if self.charge_known(tag, &key, now, tokens) {
            return (Decision::Taken, Some(key));
        }
        let full_at = self.charged(0, now, tokens);
        self.insert(tag, key, full_at, now)
    }

    /// The same for a key that is known; returns whether it is.
    pub(super) fn charge_known<Q>(&mut self, tag: Tag, key: &Q, now: u64, tokens: u32) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.renew(now);
        let Some(place) = self.find(tag, key) else { return false };
        let full_at = self.buckets.get(place).map_or(0, |bucket| bucket.full_at);
        let charged = self.charged(full_at, now, tokens);
        self.buckets.get_mut(place).map(|bucket| bucket.full_at = charged).is_some()
    }

    fn charged(&self, full_at: u64, now: u64, tokens: u32) -> u64 {
        let (flowed, units) = (self.rate.flowed(now).units, self.rate.units_of(tokens.into()));
        full_at.max(flowed).saturating_add(units).min(Rate::END - 1)
    }

    /// Gives back tokens that were taken and not used.
    pub(super) fn refund<Q>(&mut self, tag: Tag, key: &Q, tokens: u32)
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let units = self.rate.units_of(tokens.into());
        if let Some(bucket) = self.find(tag, key).and_then(|place| self.buckets.get_mut(place)) {
            bucket.full_at = bucket.full_at.saturating_sub(units);
        }
    }

    /// Puts in a key that is not known.
    fn insert(&mut self, tag: Tag, key: K, full_at: u64, now: u64) -> (Decision, Option<K>) {
        let mut forgotten = None;
        if self.buckets.is_full() {
            match self.recovered(now) {
                Ok(place) => forgotten = self.buckets.take(place),
                Err(first) => {
                    let wait = self.rate.wait(self.rate.flowed(now), first);
                    return (Decision::NoRoom(wait), Some(key));
                }
            }
        }
        // The mark is for a second use, so that keys that come once go first.
        self.buckets.put(Bucket { tag, was_used: false, full_at, key });
        (Decision::Taken, forgotten.map(|bucket| bucket.key))
    }

    /// Looks for a full bucket, or returns which word will be full first.
    fn recovered(&mut self, now: u64) -> Result<usize, u64> {
        let flowed = self.rate.flowed(now).units;
        let (mut found, mut first) = (None, u64::MAX);
        for _ in 0..Self::SEARCH.min(self.buckets.count()) {
            let place = self.buckets.turn();
            let Some(bucket) = self.buckets.get_mut(place) else { continue };
            first = first.min(bucket.full_at);
            if bucket.full_at <= flowed {
                found = Some(place);
                if !std::mem::take(&mut bucket.was_used) {
                    break;
                }
            }
        }
        found.ok_or(first)
    }

    pub(super) fn remove<Q>(&mut self, tag: Tag, key: &Q) -> Option<K>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let place = self.find(tag, key)?;
        self.buckets.take(place).map(|bucket| bucket.key)
    }

    /// Takes out all keys whose buckets are full.
    pub(super) fn remove_full(&mut self, now: u64) -> Vec<K> {
        let flowed = self.rate.flowed(now).units;
        let mut removed = Vec::new();
        // Removals move others up, also past the hand: as often as there are places and removals.
        let mut left = self.buckets.count();
        while left > 0 {
            left -= 1;
            let place = self.buckets.turn();
            while self.buckets.get(place).is_some_and(|bucket| bucket.full_at <= flowed) {
                removed.extend(self.buckets.take(place).map(|bucket| bucket.key));
            }
        }
        removed
    }

    /// Returns how many tokens each key's bucket misses.
    pub(super) fn missing(&self, now: u64) -> impl Iterator<Item = (&K, u64)> {
        let flowed = self.rate.flowed(now).units;
        let token = self.rate.token;
        self.buckets
            .iter()
            .map(move |bucket| (&bucket.key, bucket.full_at.saturating_sub(flowed).div_ceil(token)))
    }

    /// Moves the origin if the count of units nears its end; returns whether it did.
    fn renew(&mut self, now: u64) -> bool {
        let worn = self.rate.is_worn(now);
        if worn {
            self.change(self.rate, Carry::AsIs, now);
        }
        worn
    }

    /// Changes the rate, and what is left in each bucket as `carry` says.
    pub(super) fn change(&mut self, rate: Rate, carry: Carry, now: u64) {
        let old = self.rate;
        let now = now.max(old.origin);
        self.rate = rate.following(&old, now);
        for bucket in self.buckets.iter_mut() {
            let level = carry.level(&self.rate, &old, old.level(bucket.full_at, now));
            let full_at = i128::from(self.rate.burst) - level;
            bucket.full_at = full_at.clamp(0, i128::from(Rate::END) - 1) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_time_read_before_another_change_flows_in_only_once() {
        let rate = Rate::expect(1, Duration::from_secs(1), Some(10));
        let mut table = Table::new(1, rate);
        assert_eq!(table.meet(Tag::new(1), 7, 0, 10), (Decision::Taken, None));
        table.change(rate, Carry::AsIs, 5 * SECOND);
        table.change(rate, Carry::AsIs, SECOND);
        assert_eq!(table.take(Tag::new(1), &7, 5 * SECOND, 6), Some(Decision::Wait(SECOND)));
        assert_eq!(table.take(Tag::new(1), &7, 5 * SECOND, 5), Some(Decision::Taken));
    }

    #[test]
    fn a_bucket_for_a_key_of_a_word_takes_24_bytes_and_a_free_place_no_more() {
        assert_eq!(size_of::<Option<Bucket<u64>>>(), 24);
    }
}

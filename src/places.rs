//! A bounded hash table whose places a hand walks round: [`Places`].

/// What can be put into a place: something that knows its hash.
pub(crate) trait Tagged {
    /// Returns the lower half of the hash of its key.
    fn tag(&self) -> u32;
}

/// Open addressing with linear probing; a removal moves up those behind it, so that there are no tombstones to clear
/// (D. E. Knuth, "The Art of Computer Programming" vol. 3, 6.4, algorithm R).
///
/// It has a hand that goes round the places, for sweeps; those that a removal moves past it may be seen twice or not at
/// all in a round.
#[derive(Debug)]
pub(crate) struct Places<S> {
    places: Vec<Option<S>>,
    len: usize,
    max: usize,
    hand: usize,
}

impl<S: Tagged> Places<S> {
    const FIRST: usize = 8;

    pub(crate) const fn new(max: usize) -> Self {
        Self { places: Vec::new(), len: 0, max, hand: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Returns how many places there are, free ones included.
    pub(crate) fn count(&self) -> usize {
        self.places.len()
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.len >= self.max
    }

    /// Three quarters full at most, and never without a free place, which ends a search.
    const fn last_count(&self) -> usize {
        self.max + self.max / 3 + 1
    }

    /// Scales a tag to the number of places, whatever that is (D. Lemire, "Fast random integer generation in an
    /// interval", 2019).
    #[inline]
    fn home(&self, tag: u32) -> usize {
        ((tag as u64 * self.places.len() as u64) >> 32) as usize
    }

    #[inline]
    fn after(&self, place: usize) -> usize {
        if place + 1 < self.places.len() { place + 1 } else { 0 }
    }

    /// How far behind `from` a place is.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.places.len() - from }
    }

    /// Returns where it is that has the tag and of which `is_it` says so.
    #[inline]
    pub(crate) fn find(&self, tag: u32, is_it: impl Fn(&S) -> bool) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let mut place = self.home(tag);
        while let Some(slot) = &self.places[place] {
            if slot.tag() == tag && is_it(slot) {
                return Some(place);
            }
            place = self.after(place);
        }
        None
    }

    #[inline]
    pub(crate) fn get(&self, place: usize) -> Option<&S> {
        self.places[place].as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut S> {
        self.places[place].as_mut()
    }

    /// Puts in what is not there yet; there must be room.
    pub(crate) fn put(&mut self, slot: S) {
        if self.len >= self.places.len() / 4 * 3 && self.places.len() < self.last_count() {
            self.grow();
        }
        self.place(slot);
        self.len += 1;
    }

    fn place(&mut self, slot: S) {
        let mut place = self.home(slot.tag());
        while self.places[place].is_some() {
            place = self.after(place);
        }
        self.places[place] = Some(slot);
    }

    fn grow(&mut self) {
        let count = (self.places.len() * 2).max(Self::FIRST).min(self.last_count());
        let mut larger = Vec::with_capacity(count);
        larger.resize_with(count, || None);
        self.hand = 0;
        let old = std::mem::replace(&mut self.places, larger);
        old.into_iter().flatten().for_each(|slot| self.place(slot));
    }

    pub(crate) fn take(&mut self, place: usize) -> Option<S> {
        let taken = self.places[place].take()?;
        self.len -= 1;
        let (mut hole, mut place) = (place, self.after(place));
        while let Some(slot) = &self.places[place] {
            // It may move up if that does not bring it before its home.
            if self.distance(self.home(slot.tag()), place) >= self.distance(hole, place) {
                self.places[hole] = self.places[place].take();
                hole = place;
            }
            place = self.after(place);
        }
        Some(taken)
    }

    /// Moves the hand on, and returns the place on which it was; there must be places.
    pub(crate) fn turn(&mut self) -> usize {
        let place = self.hand;
        self.hand = self.after(place);
        place
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &S> {
        self.places.iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut S> {
        self.places.iter_mut().flatten()
    }
}

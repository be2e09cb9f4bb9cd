//! Who is refused while a pool is overloaded: CoDel, for each priority by itself.

use crate::discipline::Codel;

#[derive(Debug)]
pub(super) struct Overload {
    /// Target and interval, in nanoseconds.
    codel: Option<(u64, u64)>,
    /// Of the ranks of which somebody was served since nobody waited.
    ranks: Vec<(u8, Codel)>,
}

impl Overload {
    pub(super) const fn new(codel: Option<(u64, u64)>) -> Self {
        Self { codel, ranks: Vec::new() }
    }

    /// Says whether one who has waited since then, and whose turn has come, is refused.
    pub(super) fn refuses(&mut self, rank: u8, now: u64, since: u64) -> bool {
        let Some((target, interval)) = self.codel else { return false };
        let place = self.ranks.iter().position(|known| known.0 == rank).unwrap_or_else(|| {
            self.ranks.push((rank, Codel::new(target, interval).from(now)));
            self.ranks.len() - 1
        });
        self.ranks[place].1.drops(now, now.saturating_sub(since))
    }

    /// Hears that somebody was served who had not waited.
    #[inline]
    pub(super) fn ends(&mut self) {
        if !self.ranks.is_empty() {
            self.ranks.clear();
        }
    }
}

//! How often was a key seen lately: four bits of memory for it, more or less.

/// A count-min sketch (G. Cormode and S. Muthukrishnan, 2005) with conservative update, as TinyLFU uses it (G. Einziger,
/// R. Friedman and B. Manes, 2017). All of a key's counters lie in one cache line.
///
/// Counts are halved when ten times as many uses were counted as there are entries. Halving all lines at once would stop
/// a large cache for a while. So every line bears the number of the halvings that it has seen, in one of its
/// counters, and makes up for what it has missed when somebody looks at it. That number has four bits; a hand that
/// visits all lines between two halvings sees to it that no line falls sixteen behind.
#[derive(Debug)]
pub(super) struct Sketch {
    lines: Box<[Line]>,
    /// Uses counted since the last halving.
    counted: u64,
    halvings: u8,
    hand: usize,
    /// Of what the hand moves on by: see `count`.
    owed: u64,
}

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([u64; 8]);

/// The lowest counter of the first word holds the number of halvings.
const STAMP: u64 = 0xf;
const HALVES: u64 = 0x7777_7777_7777_7777;

impl Line {
    const COUNTERS: usize = 128;

    /// Makes up for halvings that the line has missed.
    #[inline]
    fn catch_up(&mut self, halvings: u8) {
        let missed = halvings.wrapping_sub((self.0[0] & STAMP) as u8) & STAMP as u8;
        if missed > 0 {
            self.halve(missed, halvings);
        }
    }

    fn halve(&mut self, times: u8, halvings: u8) {
        self.0[0] &= !STAMP;
        for word in &mut self.0 {
            for _ in 0..times.min(4) {
                *word = (*word >> 1) & HALVES;
            }
        }
        self.0[0] = self.0[0] & !STAMP | u64::from(halvings) & STAMP;
    }
}

/// How often a key was seen, and where its counters are: as long as the sketch is of the same size.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// Never less than it was but for halvings.
    pub(super) count: u8,
    line: usize,
    /// A byte for each row: four times the number of the counter among the row's 32, which are two words.
    spots: u32,
}

impl Seen {
    const ROWS: usize = 4;

    /// The word of a row, and how far up in it the counter is.
    #[inline]
    const fn spot(self, row: usize) -> (usize, u32) {
        let spot = self.spots >> (8 * row) & 0x7c;
        (2 * row + (spot >> 6) as usize, spot & 63)
    }
}

impl Sketch {
    pub(super) const MAX: u8 = 15;
    /// Uses counted to an entry between two halvings.
    const PERIOD: u64 = 10;

    pub(super) fn new() -> Self {
        Self { lines: Box::new([Line([0; 8])]), counted: 0, halvings: 0, hand: 0, owed: 0 }
    }

    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.lines)
    }

    /// Looks how often a key was counted.
    #[inline]
    pub(super) fn see(&mut self, hash: u32) -> Seen {
        let mixed = u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The upper half picks the line: the lines are a power of two, so it is the first bits that count.
        let line = ((mixed >> 32).wrapping_mul(self.lines.len() as u64) >> 32) as usize;
        let bits = (mixed as u32 ^ hash).wrapping_mul(0x85eb_ca6b);
        let mut spots =
            bits >> 10 & 0x7c | bits >> 7 & 0x7c00 | bits >> 4 & 0x7c_0000 | bits >> 1 & 0x7c00_0000;
        // The stamp's place is nobody's.
        spots |= u32::from(spots & 0x7c == 0) << 3;
        let mut seen = Seen { count: Self::MAX, line, spots };
        let Some(line) = self.lines.get_mut(line) else { return seen };
        line.catch_up(self.halvings);
        for row in 0..Seen::ROWS {
            let (word, shift) = seen.spot(row);
            seen.count = seen.count.min((line.0[word] >> shift & 15) as u8);
        }
        seen
    }

    /// Counts uses of a key that was just seen, in a cache of so many entries.
    #[inline]
    pub(super) fn count(&mut self, seen: Seen, uses: u8, entries: usize) {
        let Some(line) = self.lines.get_mut(seen.line) else { return };
        let count = u64::from((seen.count + uses).min(Self::MAX));
        for row in 0..Seen::ROWS {
            let (word, shift) = seen.spot(row);
            let word = &mut line.0[word];
            // Only counters below it are raised; without a branch, which nobody could predict.
            *word += count.saturating_sub((*word >> shift) & 15) << shift;
        }
        let period = (entries as u64).max(8) * Self::PERIOD;
        self.counted += u64::from(uses);
        if self.counted >= period {
            self.counted = 0;
            self.halvings = self.halvings.wrapping_add(1) & STAMP as u8;
        }
        // Twice round between two halvings, without a division.
        self.owed += 2 * u64::from(uses) * self.lines.len() as u64;
        while self.owed >= period {
            self.owed -= period;
            self.visit();
        }
    }

    fn visit(&mut self) {
        self.hand = if self.hand + 1 < self.lines.len() { self.hand + 1 } else { 0 };
        self.lines[self.hand].catch_up(self.halvings);
    }

    /// Sees to it that there are eight to sixteen counters for each of so many entries. What is known stays known: a
    /// line is a prefix of the hash, so that each becomes two.
    pub(super) fn fit(&mut self, entries: usize) {
        while self.lines.len() * Line::COUNTERS < entries * 8 {
            self.lines = self.lines.iter().flat_map(|&line| [line, line]).collect();
            self.hand *= 2;
        }
        while self.lines.len() > 1 && self.lines.len() * Line::COUNTERS / 64 > entries {
            // Far too large, after the cache was made smaller: two become their mean.
            for line in &mut self.lines {
                line.catch_up(self.halvings);
            }
            let stamp = u64::from(self.halvings);
            self.lines = self
                .lines
                .chunks_exact(2)
                .map(|pair| {
                    let mut line = pair[0];
                    for (word, other) in line.0.iter_mut().zip(&pair[1].0) {
                        *word = ((*word >> 1) & HALVES) + ((other >> 1) & HALVES);
                    }
                    line.0[0] = line.0[0] & !STAMP | stamp;
                    line
                })
                .collect();
            self.hand = 0;
            self.owed = 0;
        }
    }
}

//! Google's lookup table: [`Maglev`].

use super::error::ShardError;
use super::hash::{KeyHash, hashes};
use super::strategy::{DependsOn, Layout, Pieces, Roster, Spot, Strategy, Walk};
use crate::error::absurd;

/// Nodes claim the entries of a table in turns, each in an order of its own.
///
/// The table is that of Envoy's Maglev, weights included: nodes are called as Envoy hashes them. It is as even as a table can be, and
/// moves more than it has to: of 100 nodes one that leaves moves half a share beyond its own, of 1,000 nodes six shares. That, at the same speed, is
/// what [`Slots`](crate::shard::Slots) does better.
///
/// D. Eisenbud and others, "Maglev: a fast and reliable software network load balancer", 2016.
///
/// # Cost
///
/// A look-up hashes the key and reads one entry. 2 bytes an entry.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::Maglev;
///
/// let shards = Sharder::with(Maglev::new(), ["10.0.0.1:80", "10.0.0.2:80"])?;
/// assert!(shards.get("session:9").is_some());
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Maglev {
    entries: u32,
    hash: KeyHash,
    order: fn(&[u8], u64) -> (u64, u64),
}

impl Maglev {
    /// Creates Envoy's default: 65,537 entries, XXH64.
    pub const fn new() -> Self {
        Self { entries: 65_537, hash: KeyHash::Xxh64, order: envoy }
    }

    /// Makes a table of so many entries. Default: 65,537. At least a hundred for each node, or it is not even.
    ///
    /// # Panics
    ///
    /// If it is not a prime.
    #[track_caller]
    #[must_use = "returns the changed value"]
    pub const fn entries(mut self, entries: u32) -> Self {
        if !is_prime(entries) {
            absurd("entries", entries as u64, "must be a prime");
        }
        self.entries = entries;
        self
    }

    hashes!("XXH64");

    /// Takes the first entry and the step of each node's order from this function of its id and the number of entries. Both
    /// are taken modulo that number. Default: as Envoy does.
    #[must_use = "returns the changed value"]
    pub const fn order(mut self, order: fn(&[u8], u64) -> (u64, u64)) -> Self {
        self.order = order;
        self
    }
}

impl Default for Maglev {
    fn default() -> Self {
        Self::new()
    }
}

fn envoy(id: &[u8], entries: u64) -> (u64, u64) {
    let hash = |seed| twox_hash::XxHash64::oneshot(seed, id);
    (hash(0) % entries, hash(1) % (entries - 1) + 1)
}

const fn is_prime(number: u32) -> bool {
    let mut divisor = 2;
    while divisor < number && divisor <= number / divisor {
        if number % divisor == 0 {
            return false;
        }
        divisor += 1;
    }
    number >= 2
}

/// One of a node's turns: its weight, how much it has claimed, and where it looks next.
struct Turn {
    weight: f64,
    due: f64,
    next: u64,
    skip: u64,
}

impl Strategy for Maglev {
    fn depends_on(&self) -> DependsOn {
        DependsOn::Set
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        let entries = u64::from(self.entries);
        // Entries hold 16 bits, and one of their numbers means free.
        roster.at_most((entries as usize).min(FREE.into()))?;
        let most = roster.active().map(|node| node.weight).fold(0.0, f64::max);
        let mut turns = Vec::new();
        for node in roster.active() {
            let (first, skip) = (self.order)(node.id.as_bytes(), entries);
            // A step of zero would look at one entry for ever.
            turns.push(Turn {
                weight: node.weight,
                due: 0.0,
                next: first % entries,
                skip: (skip % entries).max(1),
            });
        }
        let mut owners = vec![FREE; entries as usize];
        let mut left = entries;
        let mut round = 1.0;
        'fill: loop {
            for (place, turn) in turns.iter_mut().enumerate() {
                // The heaviest claims in each round, the others in their share of the rounds.
                if round * turn.weight < turn.due {
                    continue;
                }
                turn.due += most;
                while owners[turn.next as usize] != FREE {
                    turn.next = (turn.next + turn.skip) % entries;
                }
                owners[turn.next as usize] = place as u16;
                left -= 1;
                if left == 0 {
                    break 'fill;
                }
            }
            round += 1.0;
        }
        Ok(Box::new(MaglevLayout {
            owners: owners.into(),
            nodes: roster.active().map(|node| node.index).collect(),
            inverse: u128::MAX / u128::from(entries) + 1,
            hash: self.hash,
        }))
    }
}

const FREE: u16 = u16::MAX;

#[derive(Debug)]
struct MaglevLayout {
    owners: Box<[u16]>,
    nodes: Box<[u32]>,
    /// 2^128 over the number of entries, rounded up.
    inverse: u128,
    hash: KeyHash,
}

/// The remainder of a division, by multiplications: a division takes longer than all the rest of a look-up.
///
/// D. Lemire, O. Kaser and N. Kurz, "Faster remainder by direct computation", 2019. `inverse` is 2^128 over `divisor`, rounded
/// up; exact, as the hash has 64 bits and the divisor 32.
#[inline]
fn remainder(hash: u64, divisor: u64, inverse: u128) -> u64 {
    // The fraction that the division leaves, of 2^128; times the divisor it is the remainder.
    let fraction = inverse.wrapping_mul(u128::from(hash));
    let low = ((fraction & u128::from(u64::MAX)) * u128::from(divisor)) >> 64;
    (((fraction >> 64) * u128::from(divisor) + low) >> 64) as u64
}

impl Layout for MaglevLayout {
    #[inline]
    fn locate(&self, key: &[u8]) -> Spot {
        Spot::at(remainder(self.hash.hash(key), self.owners.len() as u64, self.inverse))
    }

    #[inline]
    fn owner(&self, spot: Spot) -> u32 {
        self.nodes[usize::from(self.owners[spot.number as usize])]
    }

    /// The entries behind the key's.
    fn next(&self, walk: &mut Walk) -> Option<u32> {
        let entries = self.owners.len() as u64;
        if walk.step < entries {
            let entry = (walk.spot.number + walk.step) % entries;
            walk.step += 1;
            return Some(self.owner(Spot::at(entry)));
        }
        // In a table that is too small for all, some have no entry.
        let node = self.nodes.get((walk.step - entries) as usize)?;
        walk.step += 1;
        Some(*node)
    }

    fn pieces(&self) -> Option<Pieces> {
        let entries = self.owners.len() as u64;
        Some(Pieces::Slots(entries, (0..entries).map(|entry| (entry, self.owner(Spot::at(entry)))).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remainder_is_that_of_a_division() {
        for divisor in [2, 3, 7, 251, 65_537, 655_373, 4_294_967_291] {
            let inverse = u128::MAX / u128::from(divisor) + 1;
            let hashes = [0, 1, divisor - 1, divisor, divisor + 1, u64::MAX, u64::MAX - 1, 1 << 63];
            for hash in hashes.into_iter().chain((0..10_000).map(super::super::hash::remix)) {
                assert_eq!(remainder(hash, divisor, inverse), hash % divisor, "{hash} by {divisor}");
            }
        }
    }

    #[test]
    fn primes_are_told_from_others() {
        let primes: Vec<u32> = (0..30).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537) && is_prime(4_294_967_291) && !is_prime(65_536) && !is_prime(u32::MAX));
    }
}

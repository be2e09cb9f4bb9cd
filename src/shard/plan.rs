//! What has to move from one snapshot to the next, and in what order: [`Plan`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::key::Key;
use super::snapshot::{SAMPLES, Snapshot, located, sample};
use super::strategy::Pieces;

/// A part of all keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Piece {
    /// Those in these slots of a table, first and last.
    Slots(u64, u64),
    /// Those with these hashes, first and last.
    Hashes(u64, u64),
    /// Those from one key on, up to another, not included; `None`: to the end.
    Keys(Vec<u8>, Option<Vec<u8>>),
    /// All that live on the one node before and on the other after.
    All,
    /// All that move and are in no other piece, from whichever node to whichever: the last move of a plan that was made from some
    /// of the keys. [`Shift::find`](crate::shard::Shift::find) tells which these are.
    Rest,
}

/// A part of all keys that moves from one node to another.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Move {
    /// Which keys.
    pub piece: Piece,
    /// The id of the node on which they live before; empty for [`Piece::Rest`].
    pub from: String,
    /// The id of the node on which they live after; empty for [`Piece::Rest`].
    pub to: String,
    /// How much of everything it is, from 0 to 1: by hashes, by the keys that were counted, or as
    /// [`weigh`](Plan::weigh) says. Zero for a range of keys that was not weighed, and for the rest.
    pub share: f64,
}

/// What moves from one snapshot to the next: in order, with the least that theory demands beside it.
///
/// Made by [`Snapshot::plan`]. To carry it out while reads and writes go on, see
/// [`Sharder::shift`](crate::Sharder::shift).
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
///
/// let shards = Sharder::new(["a", "b", "c"])?;
/// let before = shards.snapshot();
/// let after = before.draft().add("d")?.build()?;
/// let plan = before.plan(&after);
/// assert!(plan.moves().iter().all(|part| part.to == "d"));
/// assert!((plan.minimum() - 0.25).abs() < 1e-9);
/// assert!(plan.share() < 0.27);
/// // Nothing is left to do afterwards.
/// assert!(after.plan(&after).moves().is_empty());
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    moves: Vec<Move>,
    minimum: f64,
    /// The fingerprints of the snapshots between which it leads.
    between: (u64, u64),
    /// The move of each piece that is numbered: first, last and which, by number.
    numbered: Vec<(u64, u64, usize)>,
}

/// What a piece is known by while the plan is made.
trait Start: Ord + Clone {
    /// The piece from here up to another, or to the end.
    fn piece(&self, end: Option<&Self>) -> Piece;
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Slot(u64, u64);

impl Start for Slot {
    fn piece(&self, end: Option<&Self>) -> Piece {
        Piece::Slots(self.0, end.map_or(self.1, |end| end.0) - 1)
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Hash(u64, u64);

impl Start for Hash {
    fn piece(&self, end: Option<&Self>) -> Piece {
        Piece::Hashes(self.0, end.map_or(self.1, |end| end.0 - 1))
    }
}

impl Start for Box<[u8]> {
    fn piece(&self, end: Option<&Self>) -> Piece {
        Piece::Keys(self.to_vec(), end.map(|end| end.to_vec()))
    }
}

/// The pieces whose owners differ, neighbours with the same owners as one.
fn merge<S: Start>(
    before: &[(S, u32)],
    after: &[(S, u32)],
    differ: impl Fn(u32, u32) -> bool,
) -> Vec<(Piece, u32, u32)> {
    let mut starts: Vec<&S> = before.iter().chain(after).map(|(start, _)| start).collect();
    starts.sort_unstable();
    starts.dedup();
    let (mut at, mut then) = (0, 0);
    let mut runs: Vec<(&S, u32, u32)> = Vec::new();
    for start in starts {
        at += usize::from(before.get(at + 1).is_some_and(|next| next.0 <= *start));
        then += usize::from(after.get(then + 1).is_some_and(|next| next.0 <= *start));
        let owners = (before[at].1, after[then].1);
        if runs.last().is_none_or(|run| (run.1, run.2) != owners) {
            runs.push((start, owners.0, owners.1));
        }
    }
    let ends = runs.iter().skip(1).map(|run| Some(run.0)).chain([None]);
    let moves = runs.iter().zip(ends).filter(|((_, from, to), _)| differ(*from, *to));
    moves.map(|((start, from, to), end)| (start.piece(end), *from, *to)).collect()
}

impl Plan {
    pub(super) fn new<N>(before: &Snapshot<N>, after: &Snapshot<N>) -> Self {
        let differ = |from, to| before.id(from) != after.id(to);
        let slots = |of: u64, list: Vec<(u64, u32)>| -> Vec<_> {
            list.into_iter().map(|(start, owner)| (Slot(start, of), owner)).collect()
        };
        let most = |bits: u32| u64::MAX >> (64 - bits);
        let hashes = |bits: u32, list: Vec<(u64, u32)>| -> Vec<_> {
            list.into_iter().map(|(start, owner)| (Hash(start, most(bits)), owner)).collect()
        };
        let (pieces, whole) = match (before.layout.pieces(), after.layout.pieces()) {
            (Some(Pieces::Slots(size, before)), Some(Pieces::Slots(same, after))) if size == same => {
                (merge(&slots(size, before), &slots(size, after), differ), size as f64)
            }
            (Some(Pieces::Hashes(bits, before)), Some(Pieces::Hashes(same, after))) if bits == same => {
                (merge(&hashes(bits, before), &hashes(bits, after), differ), most(bits) as f64 + 1.0)
            }
            (Some(Pieces::Keys(before)), Some(Pieces::Keys(after))) => (merge(&before, &after, differ), 1.0),
            _ => return Self::of_keys(before, after, (0..SAMPLES).map(sample)),
        };
        let moves = pieces.into_iter().map(|(piece, from, to)| {
            let share = match piece {
                Piece::Slots(first, last) | Piece::Hashes(first, last) => {
                    (u128::from(last - first) + 1) as f64 / whole
                }
                _ => 0.0,
            };
            Move { piece, from: before.id(from).into(), to: after.id(to).into(), share }
        });
        Self::ordered(moves.collect(), before, after)
    }

    pub(super) fn of_keys<N, K: Key>(
        before: &Snapshot<N>,
        after: &Snapshot<N>,
        keys: impl IntoIterator<Item = K>,
    ) -> Self {
        let (mut all, mut pairs) = (0u64, BTreeMap::new());
        for key in keys {
            let (from, to) = {
                let key = key.bytes();
                (before.layout.place(key.as_ref()), after.layout.place(key.as_ref()))
            };
            all += 1;
            if before.id(from) != after.id(to) {
                *pairs.entry((from, to)).or_insert(0u64) += 1;
            }
        }
        let moves = pairs.into_iter().map(|((from, to), count)| Move {
            piece: Piece::All,
            from: before.id(from).into(),
            to: after.id(to).into(),
            share: count as f64 / all as f64,
        });
        let mut plan = Self::ordered(moves.collect(), before, after);
        if !Arc::ptr_eq(&before.layout, &after.layout) {
            let (from, to) = (String::new(), String::new());
            plan.moves.push(Move { piece: Piece::Rest, from, to, share: 0.0 });
        }
        plan
    }

    /// Nodes take turns, those that have to give up most first, so that neither they nor those that receive wait for each other.
    fn ordered<N>(mut moves: Vec<Move>, before: &Snapshot<N>, after: &Snapshot<N>) -> Self {
        let mut gives: BTreeMap<String, f64> = BTreeMap::new();
        moves.iter().for_each(|part| *gives.entry(part.from.clone()).or_default() += part.share);
        let mut turns: BTreeMap<String, u32> = BTreeMap::new();
        let mut ranks: Vec<u32> = Vec::new();
        for part in &moves {
            let turn = turns.entry(part.from.clone()).or_default();
            *turn += 1;
            ranks.push(*turn);
        }
        let mut order: Vec<usize> = (0..moves.len()).collect();
        order.sort_by(|a, b| {
            let most = gives[&moves[*b].from].total_cmp(&gives[&moves[*a].from]);
            ranks[*a].cmp(&ranks[*b]).then(most)
        });
        let mut taken: Vec<Option<Move>> = moves.drain(..).map(Some).collect();
        moves.extend(order.into_iter().filter_map(|at| taken[at].take()));
        let between = (before.fingerprint(), after.fingerprint());
        Self { numbered: numbered(&moves), moves, minimum: minimum(before, after), between }
    }

    /// Whether it leads from the one of these snapshots to the other.
    pub(super) fn is_between<N>(&self, before: &Snapshot<N>, after: &Snapshot<N>) -> bool {
        self.between == (before.fingerprint(), after.fingerprint())
    }

    /// Returns the moves, in the order in which to make them.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// Returns how much of everything moves, from 0 to 1.
    pub fn share(&self) -> f64 {
        self.moves.iter().map(|part| part.share).sum()
    }

    /// Returns the least that has to move if every node is to have the share of its weight: what those grow by that grow.
    pub fn minimum(&self) -> f64 {
        self.minimum
    }

    /// Sets the size of each move by a function of yours, such as the rows in its range, in any unit: shares are of all that moves
    /// then.
    #[must_use = "returns the changed plan"]
    pub fn weigh(mut self, size: impl Fn(&Move) -> f64) -> Self {
        let sizes: Vec<f64> = self.moves.iter().map(size).collect();
        let all: f64 = sizes.iter().sum();
        self.moves
            .iter_mut()
            .zip(sizes)
            .for_each(|(part, size)| part.share = if all > 0.0 { size / all } else { 0.0 });
        self
    }

    /// Cuts moves of slots and hashes that are more than `share` of everything into several.
    ///
    /// # Panics
    ///
    /// If `share` is not above zero.
    #[track_caller]
    #[must_use = "returns the changed plan"]
    pub fn in_parts_of(mut self, share: f64) -> Self {
        assert!(share > 0.0, "share: must be above zero");
        let mut moves = Vec::new();
        for part in self.moves {
            let (first, last) = match part.piece {
                Piece::Slots(first, last) | Piece::Hashes(first, last) if part.share > share => (first, last),
                _ => {
                    moves.push(part);
                    continue;
                }
            };
            let all = u128::from(last - first) + 1;
            let parts = ((part.share / share).ceil() as u128).min(all);
            for at in 0..parts {
                let (start, end) = (all * at / parts, all * (at + 1) / parts);
                let numbers = (first + start as u64, first + (end - 1) as u64);
                let piece = match part.piece {
                    Piece::Slots(..) => Piece::Slots(numbers.0, numbers.1),
                    _ => Piece::Hashes(numbers.0, numbers.1),
                };
                moves.push(Move {
                    piece,
                    share: part.share * (end - start) as f64 / all as f64,
                    ..part.clone()
                });
            }
        }
        self.moves = moves;
        self.numbered = numbered(&self.moves);
        self
    }

    /// Returns how many of the moves, from the first on, stay within this share of everything.
    pub fn within(&self, budget: f64) -> usize {
        let mut spent = 0.0;
        let fits = |part: &&Move| {
            spent += part.share;
            // What adds up to the budget but for rounding is within it.
            spent <= budget * (1.0 + 1e-9)
        };
        self.moves.iter().take_while(fits).count()
    }

    /// Returns the numbers of the moves in waves: those of one wave can run at once, since no node gives in more than `at_once`
    /// of them, or receives.
    ///
    /// # Panics
    ///
    /// If `at_once` is zero.
    #[track_caller]
    pub fn waves(&self, at_once: usize) -> Vec<Vec<usize>> {
        assert!(at_once > 0, "at_once: must be at least 1");
        /// How many moves each node gives in, or receives in.
        type Busy<'a> = BTreeMap<(bool, &'a str), usize>;
        let mut waves: Vec<(Vec<usize>, Busy<'_>)> = Vec::new();
        // The waves before are full for a pair of nodes and stay so.
        let mut starts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (at, part) in self.moves.iter().enumerate() {
            let start = starts.entry((&part.from, &part.to)).or_default();
            // Of the rest nobody knows who takes part: nobody else meanwhile.
            *start = if part.piece == Piece::Rest { waves.len() } else { *start };
            let busy = |wave: &Busy<'_>, key| wave.get(&key).is_some_and(|n| *n >= at_once);
            while waves
                .get(*start)
                .is_some_and(|(_, nodes)| busy(nodes, (false, &*part.from)) || busy(nodes, (true, &*part.to)))
            {
                *start += 1;
            }
            if *start == waves.len() {
                waves.push((Vec::new(), BTreeMap::new()));
            }
            let (wave, nodes) = &mut waves[*start];
            wave.push(at);
            *nodes.entry((false, &*part.from)).or_default() += 1;
            *nodes.entry((true, &*part.to)).or_default() += 1;
        }
        waves.into_iter().map(|(wave, _)| wave).collect()
    }

    /// Finds the move that a key is in.
    pub(super) fn find<N>(&self, before: &Snapshot<N>, key: &[u8], from: &str, to: &str) -> Option<usize> {
        if !self.numbered.is_empty() {
            let number = located(before, key).0.number;
            let at = self.numbered.partition_point(|(first, ..)| *first <= number).checked_sub(1)?;
            let (_, last, which) = self.numbered[at];
            return (number <= last).then_some(which);
        }
        self.moves.iter().position(|part| match &part.piece {
            Piece::Keys(first, end) => **first <= *key && end.as_ref().is_none_or(|end| *key < **end),
            Piece::Rest => true,
            _ => part.from == from && part.to == to,
        })
    }
}

fn numbered(moves: &[Move]) -> Vec<(u64, u64, usize)> {
    let ranges = moves.iter().enumerate().filter_map(|(at, part)| match part.piece {
        Piece::Slots(first, last) | Piece::Hashes(first, last) => Some((first, last, at)),
        _ => None,
    });
    let mut numbered: Vec<_> = ranges.collect();
    numbered.sort_unstable();
    numbered
}

/// By how much those grow that grow, in shares of the weights.
fn minimum<N>(before: &Snapshot<N>, after: &Snapshot<N>) -> f64 {
    let (all, all_after) = (before.roster.weight(), after.roster.weight());
    let grows = after.roster.active().map(|node| {
        let had = before.roster.find(&node.id).map_or(0.0, |node| node.weight / all);
        (node.weight / all_after - had).max(0.0)
    });
    grows.sum()
}

impl<N> Snapshot<N> {
    /// Plans the way from this snapshot to another.
    ///
    /// With strategies whose homes cannot be listed (rendezvous, jump, multi-probe, directory and rules), a move is all that lives on one
    /// node before and on another after, and shares are those of 2^17 keys at random; [`plan_of`](Self::plan_of) takes yours. What these
    /// keys do not show is in the last move, [`Piece::Rest`].
    pub fn plan(&self, next: &Self) -> Plan {
        Plan::new(self, next)
    }

    /// Plans the way from this snapshot to another by these keys: a move is all that lives on one node before and on
    /// another after, and what these keys do not show is in the last move, [`Piece::Rest`].
    ///
    /// The way for strategies with exceptions, such as a directory, of which keys at random show nothing.
    pub fn plan_of<K: Key>(&self, next: &Self, keys: impl IntoIterator<Item = K>) -> Plan {
        Plan::of_keys(self, next, keys)
    }
}

/// One line for each pair of nodes, and a sum.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pairs: BTreeMap<(&str, &str), (usize, f64)> = BTreeMap::new();
        for part in self.moves.iter().filter(|part| part.piece != Piece::Rest) {
            let pair = pairs.entry((&part.from, &part.to)).or_default();
            *pair = (pair.0 + 1, pair.1 + part.share);
        }
        let wide = pairs.keys().map(|pair| pair.0.len()).max().unwrap_or(0);
        let to = pairs.keys().map(|pair| pair.1.len()).max().unwrap_or(0);
        for ((from, target), (count, share)) in &pairs {
            writeln!(f, "{from:wide$} -> {target:to$}  {:7.3} % in {count} parts", share * 100.0)?;
        }
        if self.moves.iter().any(|part| part.piece == Piece::Rest) {
            writeln!(f, "and the rest, if there is any")?;
        }
        let (share, minimum) = (self.share() * 100.0, self.minimum * 100.0);
        write!(f, "moves {share:.3} % of all; the least possible is {minimum:.3} %")
    }
}

//! How evenly keys are spread: [`Spread`].

use std::fmt;

use super::key::Key;
use super::snapshot::Snapshot;

/// How some keys are spread over the nodes of a snapshot; printed, a table with bars.
///
/// Made by [`Snapshot::spread`].
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
///
/// let shards = Sharder::new(["a", "b", "c"])?;
/// let spread = shards.snapshot().spread(0..30_000u32);
/// assert_eq!(spread.keys(), 30_000);
/// assert!(spread.fullest() < 1.06 && spread.deviation() < 0.05);
/// println!("{spread}");
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Spread {
    /// Id, share of the weights, keys.
    nodes: Vec<(String, f64, u64)>,
    keys: u64,
}

impl<N> Snapshot<N> {
    /// Counts on which nodes these keys live.
    pub fn spread<K: Key>(&self, keys: impl IntoIterator<Item = K>) -> Spread {
        let all = self.roster.weight();
        let mut nodes: Vec<_> =
            self.roster.nodes.iter().map(|node| (node.id.to_string(), node.weight / all, 0)).collect();
        let mut count = 0;
        for key in keys {
            nodes[self.layout.place(key.bytes().as_ref()) as usize].2 += 1;
            count += 1;
        }
        Spread { nodes, keys: count }
    }
}

impl Spread {
    /// Returns how many keys were counted.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// Returns each node's id and how many keys live there.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.nodes.iter().map(|(id, _, keys)| (id.as_str(), *keys))
    }

    /// How many keys each node has, of the number that its weight makes fair.
    fn fills(&self) -> impl Iterator<Item = f64> {
        let fair = |share: f64| share * self.keys as f64;
        let due = self.nodes.iter().filter(move |(_, share, _)| fair(*share) > 0.0);
        due.map(move |(_, share, keys)| *keys as f64 / fair(*share))
    }

    /// Returns how full the fullest node is: 1.05 is a twentieth more than its weight makes fair.
    pub fn fullest(&self) -> f64 {
        self.fills().fold(0.0, f64::max)
    }

    /// Returns how full the emptiest node is, drained ones aside.
    pub fn emptiest(&self) -> f64 {
        self.fills().fold(f64::INFINITY, f64::min)
    }

    /// Returns the standard deviation of how full nodes are: 0.05 is a twentieth of what is fair.
    pub fn deviation(&self) -> f64 {
        let count = self.fills().count().max(1) as f64;
        (self.fills().map(|fill| (fill - 1.0).powi(2)).sum::<f64>() / count).sqrt()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BAR: f64 = 40.0;
        let wide = self.nodes.iter().map(|node| node.0.len()).max().unwrap_or(0).max("node".len());
        let most = self.nodes.iter().map(|node| node.2).max().unwrap_or(0).max(1);
        writeln!(f, "{:wide$}  {:>12}  {:>6}", "node", "keys", "fill")?;
        for (id, share, keys) in &self.nodes {
            let fair = share * self.keys as f64;
            let fill = if fair > 0.0 { format!("{:.3}", *keys as f64 / fair) } else { "-".into() };
            let bar = "#".repeat((*keys as f64 / most as f64 * BAR).round() as usize);
            writeln!(f, "{}", format!("{id:wide$}  {keys:>12}  {fill:>6}  {bar}").trim_end())?;
        }
        let (fullest, emptiest, deviation) = (self.fullest(), self.emptiest(), self.deviation());
        write!(
            f,
            "fullest {fullest:.3}, emptiest {emptiest:.3} of what is fair; standard deviation {deviation:.3}"
        )
    }
}

//! Rings that other systems' clients compute, point for point: [`Ketama`], [`NginxRing`], [`EnvoyRing`].

use super::error::ShardError;
#[cfg(feature = "shard-compat")]
use super::hash::md5_words;
use super::hash::{KeyHash, crc32};
use super::ring::{Points, PointsLayout};
use super::strategy::{DependsOn, Layout, Roster, Spec, Strategy};

/// Nodes are numbered in 16 bits.
const MOST: usize = 1 << 16;

/// Weights as whole numbers, as these systems know them.
fn whole(node: &Spec) -> Result<u32, ShardError> {
    let weight = node.weight.round().max(1.0);
    // A float of 32 bits holds whole numbers up to here, and memory not many more points.
    if weight > f64::from(1 << 24) {
        return Err(ShardError::Weight { id: node.id.to_string(), weight: node.weight });
    }
    Ok(weight as u32)
}

/// The ketama ring, byte for byte as memcached's clients and proxies compute it.
///
/// A node's id is its label, so write it as the system does: see each of the constructors. Weights count as whole numbers.
///
/// A trap is kept, since it is part of the format: points are counted in 32-bit floats, so that at 25, 47, 50, 100 and about
/// a hundred other numbers of equal nodes each has 156 points instead of 160. There, and whenever weights
/// differ, a node that comes or goes changes the points of all others too, and some keys move between nodes that stayed.
/// Where nobody else has to compute the same, take [`Ring`](crate::shard::Ring) or [`Slots`](crate::shard::Slots).
///
/// R. Jones, "libketama", 2007.
///
/// # Cost
///
/// A look-up is an MD5 and a few steps. 17 to 32 bytes a point.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::{Ketama, Member};
///
/// let nodes = [Member::new("localhost").weight(8.0), Member::new("localhost:11212").weight(8.0)];
/// let shards = Sharder::with(Ketama::libmemcached(), nodes.clone())?;
/// assert_eq!(*shards.get("key1").unwrap(), nodes[1]);
/// assert_eq!(*shards.get("key2").unwrap(), nodes[0]);
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[cfg(feature = "shard-compat")]
#[cfg_attr(docsrs, doc(cfg(feature = "shard-compat")))]
#[derive(Clone, Debug)]
pub struct Ketama(Count);

/// How a program counts a node's labels.
#[cfg(feature = "shard-compat")]
#[derive(Clone, Copy, Debug)]
enum Count {
    Libmemcached,
    Twemproxy,
    Libketama,
    Spymemcached,
}

#[cfg(feature = "shard-compat")]
impl Ketama {
    /// Creates libmemcached's weighted ring. A node is called `host:port`, or `host` alone if the port is 11211.
    pub const fn libmemcached() -> Self {
        Self(Count::Libmemcached)
    }

    /// Creates twemproxy's ring. A node is called by its name, or else as libmemcached calls it.
    pub const fn twemproxy() -> Self {
        Self(Count::Twemproxy)
    }

    /// Creates the original ring. A node is called as in its file, `ip:port`.
    pub const fn libketama() -> Self {
        Self(Count::Libketama)
    }

    /// Creates spymemcached's ring. A node is called `ip:port`, or `host/ip:port` if the host had a name. With equal weights
    /// it has 160 points each, always.
    pub const fn spymemcached() -> Self {
        Self(Count::Spymemcached)
    }

    /// How many labels a node has, each of which makes four points.
    fn labels(&self, weight: u32, all: u64, nodes: usize, equal: bool) -> u32 {
        // Step for step in floats of 32 bits, or of 64 where the program does so.
        let part = weight as f32 / all as f32;
        let libmemcached = part * 160.0 / 4.0 * nodes as f32;
        match self.0 {
            Count::Libmemcached => (libmemcached + 1e-10f32).floor() as u32,
            Count::Twemproxy => ((f64::from(libmemcached) + 1e-10) as f32).floor() as u32,
            Count::Libketama => (f64::from(part) * 40.0 * nodes as f64).floor() as u32,
            Count::Spymemcached if equal => 40,
            Count::Spymemcached => ((f64::from(libmemcached) + 1e-10) as f32).floor() as u32,
        }
    }
}

#[cfg(feature = "shard-compat")]
impl Strategy for Ketama {
    fn depends_on(&self) -> DependsOn {
        DependsOn::Set
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        let nodes = roster.at_most(MOST)?;
        let equal = roster.equal().is_ok();
        let weights = roster.active().map(whole).collect::<Result<Vec<_>, _>>()?;
        let all = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut points = Vec::new();
        for (node, weight) in roster.active().zip(weights) {
            // One at least, where the programs have none: a node without points is a surprise that nobody relies on.
            for label in 0..self.labels(weight, all, nodes, equal).max(1) {
                let words = md5_words(format!("{}-{label}", node.id).as_bytes());
                points.extend(words.map(|word| (u64::from(word), node.index as u16)));
            }
        }
        Ok(Box::new(PointsLayout { points: Points::new(points, 32)?, hash: KeyHash::Md5, spread: false }))
    }
}

/// The ring of nginx's `hash .. consistent`, point for point.
///
/// A node is called `host:port` as in the configuration, and has 160 points for each unit of its weight.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::NginxRing;
///
/// let shards = Sharder::with(NginxRing::new(), ["10.0.0.1:443", "10.0.0.2:443"])?;
/// assert!(shards.get("/index.html").is_some());
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct NginxRing;

impl NginxRing {
    /// Creates the strategy.
    pub const fn new() -> Self {
        Self
    }
}

impl Strategy for NginxRing {
    fn depends_on(&self) -> DependsOn {
        DependsOn::Set
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        roster.at_most(MOST)?;
        let mut points = Vec::new();
        for node in roster.active() {
            // The checksum runs over the host, a zero and the port, then over the point before.
            let (host, port) = node.id.rsplit_once(':').unwrap_or((&node.id, ""));
            let base = crc32(crc32(crc32(0, host.as_bytes()), &[0]), port.as_bytes());
            let mut point = 0u32;
            for _ in 0..u64::from(whole(node)?) * 160 {
                point = crc32(base, &point.to_le_bytes());
                points.push((u64::from(point), node.index as u16));
            }
        }
        Ok(Box::new(PointsLayout { points: Points::new(points, 32)?, hash: KeyHash::Crc32, spread: false }))
    }
}

/// Envoy's ring hash, point for point.
///
/// A node is called as Envoy hashes it: by address, or by host name if so configured. Envoy's default ring of 1,024 points is badly
/// balanced: among 100 nodes the fullest has 1.8 times the mean.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::EnvoyRing;
///
/// let shards = Sharder::with(EnvoyRing::new().size(1_024, 8_388_608), ["10.0.0.1:80", "10.0.0.2:80"])?;
/// assert!(shards.get("session:9").is_some());
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug)]
pub struct EnvoyRing {
    least: u64,
    most: u64,
    hash: KeyHash,
}

impl EnvoyRing {
    /// Creates Envoy's default: XXH64, 1,024 to 8 million points.
    pub const fn new() -> Self {
        Self { least: 1_024, most: 8 << 20, hash: KeyHash::Xxh64 }
    }

    /// Makes at least, and at most, so many points. Default: 1,024 and 8,388,608.
    ///
    /// # Panics
    ///
    /// If the least is zero or more than the most.
    #[track_caller]
    #[must_use = "returns the changed value"]
    pub const fn size(mut self, least: u32, most: u32) -> Self {
        assert!(least > 0 && least <= most, "size: the least must be from 1 to the most");
        (self.least, self.most) = (least as u64, most as u64);
        self
    }

    /// Hashes labels and keys by this function. Default: XXH64; Envoy also has [`KeyHash::Murmur2`].
    #[must_use = "returns the changed value"]
    pub const fn hash(mut self, hash: KeyHash) -> Self {
        self.hash = hash;
        self
    }
}

impl Default for EnvoyRing {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for EnvoyRing {
    fn depends_on(&self) -> DependsOn {
        DependsOn::Set
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        roster.at_most(MOST)?;
        let all = roster.weight();
        let least = roster.active().map(|node| node.weight / all).fold(1.0, f64::min);
        // So that the lightest node has a whole number of points, if the ring may be that large.
        let scale = ((least * self.least as f64).ceil() / least).min(self.most as f64);
        let mut points = Vec::new();
        let (mut target, mut count) = (0.0, 0.0);
        for node in roster.active() {
            target += scale * (node.weight / all);
            let mut label = 0;
            // Where the most is too little for all, a node may have no point in Envoy; here it has one.
            while count < target || label == 0 {
                let text = format!("{}_{label}", node.id);
                points.push((self.hash.hash(text.as_bytes()), node.index as u16));
                (label, count) = (label + 1, count + 1.0);
            }
        }
        let points = Points::new(points, self.hash.bits())?;
        Ok(Box::new(PointsLayout { points, hash: self.hash, spread: false }))
    }
}

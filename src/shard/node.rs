//! What keys can live on: [`Node`], and [`Member`] for those who have no type of their own.

use std::borrow::Cow;
use std::sync::Arc;

/// Where keys can live: a server, a database, a directory; any type with a stable name.
///
/// It is asked when it joins, and its answers are kept: a weight is changed later by
/// [`Sharder::reweight`](crate::Sharder::reweight).
///
/// # Examples
///
/// ```
/// use std::borrow::Cow;
/// use floodwall::Sharder;
/// use floodwall::shard::Node;
///
/// struct Db { name: String, rack: String, gigabytes: u32 }
/// impl Node for Db {
///     fn id(&self) -> Cow<'_, str> { Cow::from(&self.name) }
///     fn weight(&self) -> f64 { self.gigabytes.into() }
///     fn zone(&self) -> Option<Cow<'_, str>> { Some(Cow::from(&self.rack)) }
/// }
/// let db = |name: &str, gigabytes| Db { name: name.into(), rack: "r1".into(), gigabytes };
/// let shards = Sharder::new([db("a", 100), db("b", 200)])?;
/// let share = shards.snapshot().shares();
/// assert!((share["b"] / share["a"] - 2.0).abs() < 0.2);
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
pub trait Node {
    /// Returns what it is called, wherever it runs: the identity, not the address. Keys follow it.
    fn id(&self) -> Cow<'_, str>;

    /// Returns how much it takes, relative to the others. Zero: nothing, it is drained.
    fn weight(&self) -> f64 {
        1.0
    }

    /// Returns what fails together with it: the rack, room or region. Copies of a key are spread over zones.
    fn zone(&self) -> Option<Cow<'_, str>> {
        None
    }
}

impl Node for &str {
    fn id(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

impl Node for String {
    fn id(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

impl<N: Node + ?Sized> Node for Arc<N> {
    fn id(&self) -> Cow<'_, str> {
        (**self).id()
    }

    fn weight(&self) -> f64 {
        (**self).weight()
    }

    fn zone(&self) -> Option<Cow<'_, str>> {
        (**self).zone()
    }
}

/// A node that is no more than its name, weight and zone.
///
/// # Examples
///
/// ```
/// use floodwall::shard::{Member, Node};
///
/// let member = Member::new("db7").weight(2.0).zone("eu-1");
/// let node: &dyn Node = &member;
/// assert_eq!((&*node.id(), node.weight(), node.zone().as_deref()), ("db7", 2.0, Some("eu-1")));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    id: String,
    weight: f64,
    zone: Option<String>,
}

impl Member {
    /// Creates a node of weight 1 that belongs to no zone.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), weight: 1.0, zone: None }
    }

    /// Takes so much, relative to the others. Default: 1.
    #[must_use = "returns the changed value"]
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// Fails together with the others of this zone. Default: alone.
    #[must_use = "returns the changed value"]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }
}

impl Node for Member {
    fn id(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.id)
    }

    fn weight(&self) -> f64 {
        self.weight
    }

    fn zone(&self) -> Option<Cow<'_, str>> {
        self.zone.as_deref().map(Cow::Borrowed)
    }
}

//! Strategies around another: [`Directory`], [`Entities`], [`Regions`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::error::ShardError;
use super::slots::Slots;
use super::strategy::{DependsOn, Layout, Roster, Spot, Strategy, Walk};
use crate::hash::stable_hash;

/// Returns the part of a key by which it is placed.
type Part = Arc<dyn for<'a> Fn(&'a [u8]) -> &'a [u8] + Send + Sync>;

/// Keys whose node is written down; all others by another strategy.
///
/// For the few that have to live where they live: a large customer, a key that must not move. A key whose node is not
/// there, drained or down is placed like the others meanwhile.
///
/// # Cost
///
/// A look-up in a sorted table before that of the other strategy. Keys are compared by a hash of 64 bits first.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::{Directory, Slots};
///
/// let homes = Directory::new(Slots::new()).assign("acme", "big-db");
/// let shards = Sharder::with(homes, ["db1", "db2", "big-db"])?;
/// assert_eq!(*shards.get("acme").unwrap(), "big-db");
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Directory {
    others: Arc<dyn Strategy>,
    homes: BTreeMap<Box<[u8]>, String>,
}

impl Directory {
    /// Creates an empty directory; all keys are placed by this strategy.
    pub fn new(others: impl Strategy + 'static) -> Self {
        Self { others: Arc::new(others), homes: BTreeMap::new() }
    }

    /// Writes down where a key lives.
    #[must_use = "returns the changed value"]
    pub fn assign(mut self, key: impl AsRef<[u8]>, id: &str) -> Self {
        self.homes.insert(key.as_ref().into(), id.to_owned());
        self
    }

    /// Strikes out where a key lives: it is placed like all others.
    #[must_use = "returns the changed value"]
    pub fn release(mut self, key: impl AsRef<[u8]>) -> Self {
        self.homes.remove(key.as_ref());
        self
    }
}

impl Strategy for Directory {
    fn depends_on(&self) -> DependsOn {
        if self.homes.is_empty() { self.others.depends_on() } else { DependsOn::Table }
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        Ok(Box::new(Pinned::new(self.others.layout(roster)?, &self.homes, None, roster)))
    }
}

/// Keys live where their entity lives: all that belongs to a tenant is together.
///
/// The entity is a part of the key, found by a function of yours. Large tenants can be pinned to a node.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::Entities;
///
/// // Keys are `tenant/whatever`.
/// let tenant = |key: &[u8]| key.iter().position(|byte| *byte == b'/').unwrap_or(key.len());
/// let homes = Entities::new(move |key| &key[..tenant(key)]).pin("acme", "db3");
/// let shards = Sharder::with(homes, ["db1", "db2", "db3"])?;
/// assert_eq!(shards.get("hooli/orders/1"), shards.get("hooli/users/7"));
/// assert_eq!(*shards.get("acme/orders/1").unwrap(), "db3");
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone)]
pub struct Entities {
    part: Part,
    homes: Directory,
}

impl Entities {
    /// Places keys by the part that the function returns, in [`Slots`].
    pub fn new(entity: impl for<'a> Fn(&'a [u8]) -> &'a [u8] + Send + Sync + 'static) -> Self {
        Self { part: Arc::new(entity), homes: Directory::new(Slots::new()) }
    }

    /// Places entities by this strategy. Default: [`Slots`].
    #[must_use = "returns the changed value"]
    pub fn by(mut self, strategy: impl Strategy + 'static) -> Self {
        self.homes.others = Arc::new(strategy);
        self
    }

    /// Pins an entity to a node.
    #[must_use = "returns the changed value"]
    pub fn pin(mut self, entity: impl AsRef<[u8]>, id: &str) -> Self {
        self.homes = self.homes.assign(entity, id);
        self
    }

    /// Lets an entity live where it would without a pin.
    #[must_use = "returns the changed value"]
    pub fn unpin(mut self, entity: impl AsRef<[u8]>) -> Self {
        self.homes = self.homes.release(entity);
        self
    }
}

impl fmt::Debug for Entities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entities").field("homes", &self.homes).finish_non_exhaustive()
    }
}

impl Strategy for Entities {
    fn depends_on(&self) -> DependsOn {
        self.homes.depends_on()
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        let Directory { others, homes } = &self.homes;
        Ok(Box::new(Pinned::new(others.layout(roster)?, homes, Some(self.part.clone()), roster)))
    }
}

/// A key that is pinned: its hash, itself, and the node.
type Home = (u64, Box<[u8]>, u32);

/// Keys, or parts of them, that are pinned to nodes; all others by another layout.
struct Pinned {
    others: Box<dyn Layout>,
    part: Option<Part>,
    /// In the order of their hashes.
    homes: Box<[Home]>,
}

impl Pinned {
    fn new(
        others: Box<dyn Layout>,
        homes: &BTreeMap<Box<[u8]>, String>,
        part: Option<Part>,
        roster: &Roster,
    ) -> Self {
        let there = |id: &str| roster.find(id).filter(|node| node.weight > 0.0);
        let mut homes: Vec<_> = homes
            .iter()
            .filter_map(|(key, id)| Some((stable_hash(key, 0), key.clone(), there(id)?.index)))
            .collect();
        homes.sort_unstable();
        Self { others, part, homes: homes.into() }
    }

    fn pin(&self, key: &[u8]) -> Option<u32> {
        if self.homes.is_empty() {
            return None;
        }
        let hash = stable_hash(key, 0);
        let first = self.homes.partition_point(|home| home.0 < hash);
        let alike = self.homes[first..].iter().take_while(|home| home.0 == hash);
        alike.into_iter().find(|home| *home.1 == *key).map(|home| home.2)
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("others", &self.others).field("homes", &self.homes.len()).finish()
    }
}

impl Layout for Pinned {
    fn locate(&self, key: &[u8]) -> Spot {
        let key = self.part.as_ref().map_or(key, |part| part(key));
        let spot = self.others.locate(key);
        Spot { pin: self.pin(key).or(spot.pin), ..spot }
    }

    fn owner(&self, spot: Spot) -> u32 {
        spot.pin.unwrap_or_else(|| self.others.owner(spot))
    }

    /// The node that is written down, then those that the key would have otherwise.
    fn next(&self, walk: &mut Walk) -> Option<u32> {
        // Taken out, so that it is named once, and not by a layout further in too.
        match walk.spot.pin.take() {
            Some(pin) => Some(pin),
            None => self.others.next(walk),
        }
    }
}

/// Finds the name of the region that a key belongs to.
type Region = Arc<dyn for<'a> Fn(&'a [u8]) -> Option<&'a str> + Send + Sync>;

/// Keys live on nodes of the zones that their region allows, and elsewhere only when none of those is up.
///
/// For data that has to stay in a country, or near its users. The region is found in the key by a function of yours.
///
/// Where a rule must hold even if all nodes of its zones fail, say so by [`strictly`](Self::strictly): such keys then have no home
/// rather than one elsewhere.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::{Member, Regions};
///
/// fn country(key: &[u8]) -> Option<&str> {
///     std::str::from_utf8(key.get(..2)?).ok()
/// }
/// let homes = Regions::new(country).rule("de", &["eu-1", "eu-2"]).rule("us", &["us-1"]);
/// let node = |id, zone| Member::new(id).zone(zone);
/// let shards = Sharder::with(homes, [node("a", "eu-1"), node("b", "eu-2"), node("c", "us-1")])?;
/// assert_eq!(*shards.get("us:user:7").unwrap(), node("c", "us-1"));
/// assert_ne!(*shards.get("de:user:7").unwrap(), node("c", "us-1"));
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
#[derive(Clone)]
pub struct Regions {
    region: Region,
    rules: Vec<(String, Vec<String>)>,
    others: Arc<dyn Strategy>,
    strictly: bool,
}

impl Regions {
    /// Creates the strategy without a rule; keys of no region, or of one without a rule, live on any node.
    pub fn new(region: impl for<'a> Fn(&'a [u8]) -> Option<&'a str> + Send + Sync + 'static) -> Self {
        Self { region: Arc::new(region), rules: Vec::new(), others: Arc::new(Slots::new()), strictly: false }
    }

    /// Keeps the keys of a region on the nodes of these zones.
    #[must_use = "returns the changed value"]
    pub fn rule(mut self, region: &str, zones: &[&str]) -> Self {
        self.rules.retain(|(known, _)| known != region);
        self.rules.push((region.to_owned(), zones.iter().map(|zone| (*zone).to_owned()).collect()));
        self
    }

    /// Places keys among the nodes that they may live on by this strategy. Default: [`Slots`].
    ///
    /// # Panics
    ///
    /// If its answers depend on history: no rule has a history of its own.
    #[track_caller]
    #[must_use = "returns the changed value"]
    pub fn by(mut self, strategy: impl Strategy + 'static) -> Self {
        assert!(strategy.depends_on() != DependsOn::History, "by: must not depend on history");
        self.others = Arc::new(strategy);
        self
    }

    /// Never places a key outside of its zones, whatever fails. A set in which some rule has no node is refused then.
    #[must_use = "returns the changed value"]
    pub fn strictly(mut self) -> Self {
        self.strictly = true;
        self
    }
}

impl fmt::Debug for Regions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region: _, rules, others, strictly } = self;
        f.debug_struct("Regions")
            .field("rules", rules)
            .field("others", others)
            .field("strictly", strictly)
            .finish()
    }
}

impl Strategy for Regions {
    fn depends_on(&self) -> DependsOn {
        if self.rules.is_empty() { self.others.depends_on() } else { DependsOn::Table }
    }

    fn layout(&self, roster: &Roster) -> Result<Box<dyn Layout>, ShardError> {
        let mut parts = vec![self.others.layout(roster)?];
        let mut rules = BTreeMap::new();
        for (region, zones) in &self.rules {
            let is_allowed =
                |zone: &Option<Arc<str>>| zone.as_deref().is_some_and(|zone| zones.iter().any(|z| z == zone));
            let nodes: Vec<_> = roster.nodes.iter().filter(|node| is_allowed(&node.zone)).cloned().collect();
            let subset = Roster { nodes, vacated: Vec::new() };
            match self.others.layout(&subset) {
                Ok(part) => {
                    rules.insert(region.as_str().into(), parts.len() as u32);
                    parts.push(part);
                }
                // Nobody is there: anywhere then, unless that is forbidden.
                Err(ShardError::Empty) if !self.strictly => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Box::new(RegionLayout {
            region: self.region.clone(),
            rules,
            parts: parts.into(),
            strictly: self.strictly,
        }))
    }
}

/// A layout of all nodes, and one for those of each rule.
struct RegionLayout {
    region: Region,
    rules: BTreeMap<Box<str>, u32>,
    /// The first is that of all nodes.
    parts: Box<[Box<dyn Layout>]>,
    strictly: bool,
}

impl fmt::Debug for RegionLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegionLayout")
            .field("rules", &self.rules)
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

impl RegionLayout {
    /// Which part a spot is in, and what that part knows of it: its own part is what is left.
    fn split(&self, spot: Spot) -> (&dyn Layout, Spot) {
        let parts = self.parts.len() as u32;
        (&*self.parts[(spot.part % parts) as usize], Spot { part: spot.part / parts, ..spot })
    }
}

impl Layout for RegionLayout {
    fn locate(&self, key: &[u8]) -> Spot {
        let rule = if self.rules.is_empty() { None } else { (self.region)(key) };
        let part = rule.and_then(|region| self.rules.get(region)).copied().unwrap_or(0);
        let spot = self.parts[part as usize].locate(key);
        Spot { part: spot.part * self.parts.len() as u32 + part, ..spot }
    }

    fn owner(&self, spot: Spot) -> u32 {
        let (part, spot) = self.split(spot);
        part.owner(spot)
    }

    /// Those that the rule allows, then all.
    fn next(&self, walk: &mut Walk) -> Option<u32> {
        let spot = walk.spot;
        if walk.layer == 0 {
            let (part, inner) = self.split(spot);
            walk.spot = inner;
            let next = part.next(walk);
            walk.spot = Spot { pin: walk.spot.pin, ..spot };
            if next.is_some() || self.strictly || spot.part % self.parts.len() as u32 == 0 {
                return next;
            }
            *walk = Walk { layer: 1, ..Walk::from(spot) };
        }
        walk.spot = Spot { part: spot.part / self.parts.len() as u32, ..spot };
        let next = self.parts[0].next(walk);
        walk.spot = Spot { pin: walk.spot.pin, ..spot };
        next
    }
}

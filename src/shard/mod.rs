//! Where keys live: which strategy, who moves when the set of nodes changes, and how to move them.
//!
//! A [`Sharder`] says on which node each key lives. Strategies are values, and any can take
//! another's place:
//!
//! | strategy | follows from | weights | moved beyond what must | fullest of 100 nodes | a look-up |
//! |---|---|---|---|---|---|
//! | [`Slots`], the default | the set | yes | 3 % of a share | 1.05 | one table entry |
//! | [`Slots`], spare 0 | the set | to a slot | 32 % of a share | 1.001 | one table entry |
//! | [`Maglev`] | the set | yes | 55 % of a share | 1.001 | one table entry |
//! | [`Rendezvous`] | the set | exactly | nothing | chance | a step a node |
//! | [`Ring`] | the set | yes | nothing | 1.2 to 1.3 | a step or two |
//! | [`MultiProbe`] | the set | equal | nothing | 1.1 to 1.2 | 21 steps |
//! | [`JumpBack`] | history | equal | nothing | chance | two random numbers |
//! | [`Jump`] | history | equal | nothing, only the last leaves | chance | logarithm of the nodes |
//! | [`Modulo`] | the set | equal | nearly all | chance | a division |
//! | [`Ranges`] | your table | yours | nothing | yours | a binary search |
//! | [`Directory`], [`Entities`], [`Regions`] | your table, and another strategy | | | | that of the other |
//!
//! "Chance" is what keys thrown at random do: with 10,000 a node, the fullest of 100 has 1.03 of the mean. "The set" means that
//! processes agree if they have the same nodes and weights, in whatever order these came; see [`DependsOn`].
//!
//! To agree with other systems: [`RedisSlots`], `Ketama` (libmemcached, twemproxy, libketama and spymemcached), [`NginxRing`],
//! [`EnvoyRing`], [`Maglev`] (Envoy's table); the hash functions of [`KeyHash`]; and [`compat`] for Cassandra's tokens and
//! Vitess' keyspace ids.
//!
//! When **not** to use it: to spread calls over servers that are all alike, which is a load balancer's work; where a database does its
//! own sharding.
//!
//! # When the set changes
//!
//! For a cache, add or remove a node and be done. Where the nodes hold data, a [`Plan`] says what has to move, and a [`Shift`] routes reads
//! and writes while it moves: see [`Sharder::shift`].

mod bounded;
pub mod compat;
mod error;
mod hash;
mod jump;
mod ketama;
mod key;
mod maglev;
mod node;
mod plan;
mod ranges;
mod rendezvous;
mod replicas;
mod report;
mod ring;
mod rules;
mod score;
mod sharder;
mod shift;
mod slots;
mod snapshot;
mod state;
mod strategy;

pub use bounded::{Assigned, Bounded};
pub use error::ShardError;
pub use hash::KeyHash;
pub use jump::{Jump, JumpBack, jump_back_bucket, jump_bucket};
#[cfg(feature = "shard-compat")]
#[cfg_attr(docsrs, doc(cfg(feature = "shard-compat")))]
pub use ketama::Ketama;
pub use ketama::{EnvoyRing, NginxRing};
pub use key::Key;
pub use maglev::Maglev;
pub use node::{Member, Node};
pub use plan::{Move, Piece, Plan};
pub use ranges::Ranges;
pub use rendezvous::{Modulo, Rendezvous};
pub use replicas::{Replicas, TooFew};
pub use report::Spread;
pub use ring::{MultiProbe, Ring};
pub use rules::{Directory, Entities, Regions};
pub use sharder::{Reader, Sharder};
pub use shift::{Phase, Route, Shift};
pub use slots::{RedisSlots, Slots, hash_tag};
pub use snapshot::{Draft, Snapshot};
pub use state::{SavedNode, State};
pub use strategy::{DependsOn, Layout, Pieces, Roster, Spec, Spot, Strategy, Walk};

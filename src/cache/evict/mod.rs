//! What leaves when there is no room: pure cores over the ids of entries, told nothing but hashes and weights.

#[allow(dead_code, reason = "the table of entries uses it")]
mod node;

#[allow(unused_imports, reason = "the table of entries uses them")]
pub(crate) use node::{Node, Nodes};

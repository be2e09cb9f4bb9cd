//! Why a set of nodes, or a change of it, is refused: [`ShardError`].

use std::fmt;

/// Why a set of nodes, or a change of it, is refused. Nothing has changed then.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
/// use floodwall::shard::{Member, ShardError};
///
/// assert_eq!(Sharder::<Member>::new([]).unwrap_err(), ShardError::Empty);
/// let error = Sharder::new([Member::new("a"), Member::new("a")]).unwrap_err();
/// assert_eq!(error.to_string(), "two nodes are called a");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ShardError {
    /// No node has a weight above zero, so that no key has a home.
    Empty,
    /// Two nodes have the same id.
    Duplicate(String),
    /// No node has this id.
    Unknown(String),
    /// A weight is not a number, infinite, negative, or so far from the others that it cannot be told from zero.
    Weight {
        /// Whose it is.
        id: String,
        /// What it is.
        weight: f64,
    },
    /// The strategy knows no weights but zero and one for all, and this node's differs.
    Unequal(String),
    /// The strategy can only give up the node that came last, and this is another.
    NotLast(String),
    /// There are more nodes than the strategy can tell apart.
    TooMany {
        /// How many nodes there are.
        nodes: usize,
        /// How many it can tell apart.
        most: usize,
    },
    /// Data moves at the moment, see [`Shift`](crate::shard::Shift); or, when one is ended, some of it has yet to.
    Moving,
    /// The set has changed since the draft was made, or the plan leads elsewhere.
    Stale,
    /// The nodes are those that were saved, and keys live elsewhere: the strategy or its history is another.
    Disagree,
}

impl fmt::Display for ShardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no node has a weight above zero"),
            Self::Duplicate(id) => write!(f, "two nodes are called {id}"),
            Self::Unknown(id) => write!(f, "no node is called {id}"),
            Self::Weight { id, weight } => write!(f, "{id}: weight {weight} must be finite and not negative"),
            Self::Unequal(id) => write!(f, "{id}: this strategy needs equal weights"),
            Self::NotLast(id) => write!(f, "{id}: this strategy can only give up the last node"),
            Self::TooMany { nodes, most } => write!(f, "{nodes} nodes, at most {most} can be told apart"),
            Self::Moving => f.write_str("data is still moving"),
            Self::Stale => f.write_str("the set has changed since the draft or the plan was made"),
            Self::Disagree => f.write_str("keys live elsewhere than when this was saved"),
        }
    }
}

impl std::error::Error for ShardError {}

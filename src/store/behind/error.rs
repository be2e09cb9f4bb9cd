//! How a write to, or a read through, a write-behind fails: [`WriteBehindError`].

use std::fmt;

use crate::error::Rejected;
use crate::store::CodecError;
#[cfg(feature = "journal")]
use crate::store::journal::JournalError;

/// How an operation on a [`WriteBehind`](crate::WriteBehind) fails.
#[derive(Debug)]
#[non_exhaustive]
pub enum WriteBehindError<E> {
    /// A read was not in memory, and the store failed.
    Store(E),
    /// A write was not taken: too much waits already, or it is closed.
    Rejected(Rejected),
    /// A write was not taken, since it has no bytes for the journal to keep.
    Codec(CodecError),
    /// A write was not taken, since the journal could not keep it.
    #[cfg(feature = "journal")]
    #[cfg_attr(docsrs, doc(cfg(feature = "journal")))]
    Journal(JournalError),
}

impl<E> From<Rejected> for WriteBehindError<E> {
    fn from(rejected: Rejected) -> Self {
        WriteBehindError::Rejected(rejected)
    }
}

impl<E: fmt::Display> fmt::Display for WriteBehindError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteBehindError::Store(error) => error.fmt(f),
            WriteBehindError::Rejected(rejected) => rejected.fmt(f),
            WriteBehindError::Codec(error) => error.fmt(f),
            #[cfg(feature = "journal")]
            WriteBehindError::Journal(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error> std::error::Error for WriteBehindError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WriteBehindError::Store(error) => error.source(),
            WriteBehindError::Rejected(_) => None,
            WriteBehindError::Codec(error) => error.source(),
            #[cfg(feature = "journal")]
            WriteBehindError::Journal(error) => error.source(),
        }
    }
}

//! How a journal refuses.

use std::fmt;
use std::io;
use std::sync::Arc;

/// Why a journal did not do what it was asked to do.
///
/// After [`Full`](JournalError::Full) and [`TooLarge`](JournalError::TooLarge) the journal goes on; every other error is its
/// end, and every later call fails with the same one.
///
/// A write that failed is not accepted, yet it may be found at the next opening: it may have reached the disk before the
/// error did. One that was refused since the disk is full is not found, unless it came together with more than a segment
/// holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum JournalError {
    /// The journal could not be opened, read or tidied.
    Io(Arc<io::Error>),
    /// The disk is full, or a quota is used up. What was accepted before stays; room may come back.
    Full(Arc<io::Error>),
    /// A record is longer than [`record_limit`](super::JournalBuilder::record_limit).
    TooLarge {
        /// Key and value together, in bytes.
        bytes: usize,
        /// As many are allowed.
        limit: usize,
    },
    /// What was read is not what was written, and that cannot be explained by a crash: nothing was changed.
    Corrupt {
        /// The number of the segment, which its file is named by.
        segment: u64,
        /// Where the damage begins, in bytes.
        offset: u64,
        /// What is wrong there.
        problem: &'static str,
    },
    /// Another process, or another journal of this one, has it open.
    Locked,
    /// A write or an `fsync` failed, so nobody knows any more what is on disk. It has to be opened anew.
    Poisoned(Arc<io::Error>),
    /// It was closed.
    Closed,
}

impl JournalError {
    /// Sorts what came back from a write: a full disk is no reason to give up.
    pub(super) fn of_write(error: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => JournalError::Full(Arc::new(error)),
            _ => JournalError::Poisoned(Arc::new(error)),
        }
    }

    /// What came back from an `fsync`. The system may have dropped what it could not write, and report success the next
    /// time: asking again proves nothing.
    pub(super) fn of_sync(error: io::Error) -> Self {
        JournalError::Poisoned(Arc::new(error))
    }

    /// Says whether the journal cannot go on.
    pub(super) const fn is_final(&self) -> bool {
        !matches!(self, JournalError::Full(_) | JournalError::TooLarge { .. })
    }
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        JournalError::Io(Arc::new(error))
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::Io(error) => write!(f, "journal not usable: {error}"),
            JournalError::Full(error) => write!(f, "journal has no room: {error}"),
            JournalError::TooLarge { bytes, limit } => {
                write!(f, "record of {bytes} bytes is longer than the limit of {limit}")
            }
            JournalError::Corrupt { segment, offset, problem } => {
                write!(f, "journal corrupt in segment {segment} at byte {offset}: {problem}")
            }
            JournalError::Locked => f.write_str("journal is open elsewhere"),
            JournalError::Poisoned(error) => write!(f, "journal poisoned by a failed write: {error}"),
            JournalError::Closed => f.write_str("journal is closed"),
        }
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JournalError::Io(error) | JournalError::Full(error) | JournalError::Poisoned(error) => {
                Some(&**error)
            }
            _ => None,
        }
    }
}

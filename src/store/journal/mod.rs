//! Writes that survive a crash: a [`Journal`] on disk of what is not in the store yet.
//!
//! A write-behind accepts a write before the store has it; the journal is where it is safe meanwhile. Records are appended,
//! acknowledged when the store has them, and found again at the next opening if they were not. When **not** to use it: as a
//! database. It is read once, when it is opened, and what it holds is in memory besides.
//!
//! ```
//! use floodwall::store::journal::{Journal, Kind};
//! # let folder = std::env::temp_dir().join(format!("floodwall-doc-{}", std::process::id()));
//! # std::fs::remove_dir_all(&folder).ok();
//!
//! let (journal, recovery) = Journal::open(&folder)?;
//! assert!(recovery.records.is_empty());
//! let ann = journal.append_blocking(Kind::Put, b"user:7", b"ann")?;
//! journal.append_blocking(Kind::Put, b"user:8", b"bob")?;
//! journal.acknowledge([ann]); // the store has it
//! journal.close_blocking()?;
//!
//! let (_journal, recovery) = Journal::open(&folder)?;
//! assert_eq!(recovery.records.len(), 1);
//! assert_eq!(recovery.records[0].value, b"bob");
//! # std::fs::remove_dir_all(&folder).ok();
//! # Ok::<(), floodwall::store::journal::JournalError>(())
//! ```

mod book;
mod disk;
mod error;
mod format;
mod group;
mod log;
mod read;
mod recover;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::error::absurd;
use crate::park::block_on;
use disk::Folder;
use format::{MAX_BODY, Tag};
use group::Group;
use log::Log;

pub use disk::{Disk, DiskFile};
pub use error::JournalError;

/// An append-only log of writes, in segments, that is synced in groups.
///
/// However many write at once, each group of them costs one write and one `fsync`: who comes first does it for all that
/// have come meanwhile. The journal has no thread of its own.
///
/// # Order
///
/// Records have rising sequence numbers, in the order in which they are accepted; no number is ever given out twice, also
/// not after a crash. A key and a sequence number are the token by which a store can tell that it has seen a write.
///
/// # What is promised
///
/// A write that was acknowledged to the caller, under [`Durability::Always`], is found at the next opening unless it was
/// [acknowledged](Journal::acknowledge) by it; a write may be found though it was, when the acknowledgement did not
/// reach the disk: at least once. What was not acknowledged to the caller may be found or not.
///
/// If something on disk is not what was written, opening fails and says where, except for an end that a crash has torn.
///
/// # Cancel safety
///
/// See [`append`](Journal::append).
#[derive(Debug)]
pub struct Journal {
    group: Group,
    durability: Durability,
    clock: Clock,
}

/// When a record is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is on disk: after an `fsync`, which a group of writes share. The default.
    #[default]
    Always,
    /// When the operating system has it. A write syncs if the last sync is so long ago, so a crash of the machine takes at
    /// most the writes of this time, as long as writes come or [`run`](Journal::run) runs. A crash of the process
    /// takes nothing.
    Interval(Duration),
    /// When the operating system has it, which writes it to disk when it likes. A crash of the machine takes what it has not
    /// written yet: the latest writes, and none before them. A crash of the process takes nothing.
    Os,
}

/// What a record does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Gives it a value.
    Put,
    /// Removes it.
    Remove,
}

impl Kind {
    const fn tag(self) -> Tag {
        match self {
            Kind::Put => Tag::Put,
            Kind::Remove => Tag::Remove,
        }
    }
}

/// A write to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    /// What it does.
    pub kind: Kind,
    /// To which key.
    pub key: &'a [u8],
    /// The new value; empty if it is removed.
    pub value: &'a [u8],
}

/// A record that was found at an opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Rises in the order in which records were accepted.
    pub sequence: u64,
    /// What it does.
    pub kind: Kind,
    /// To which key.
    pub key: Vec<u8>,
    /// The new value; empty if it is removed.
    pub value: Vec<u8>,
}

/// What was found at an opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The records that nobody has acknowledged, oldest first.
    pub records: Vec<Record>,
    /// How many bytes of a write that a crash had cut short were thrown away.
    pub torn_bytes: u64,
}

/// The sizes and counts of a journal, as of its last group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalStats {
    /// How many files there are.
    pub segments: usize,
    /// How long they are together.
    pub bytes: u64,
    /// How many records are not acknowledged.
    pub live_records: usize,
    /// How much of the files they take.
    pub live_bytes: u64,
    /// How many groups were written since the opening.
    pub groups: u64,
    /// How many times a segment was synced.
    pub syncs: u64,
    /// How long that took in all.
    pub sync_time: Duration,
}

impl Journal {
    /// Opens the journal in a folder, or begins one, with the [defaults](JournalBuilder); returns what it holds.
    ///
    /// # Errors
    ///
    /// As [`JournalBuilder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<(Self, Recovery), JournalError> {
        Self::builder().open(path)
    }

    /// Returns a builder.
    pub const fn builder() -> JournalBuilder {
        JournalBuilder {
            durability: Durability::Always,
            segment_bytes: 64 << 20,
            record_limit: 16 << 20,
            clock: Clock::system(),
        }
    }

    /// Appends a record, waits until it is accepted, and returns its sequence number.
    ///
    /// # Errors
    ///
    /// [`TooLarge`](JournalError::TooLarge) and [`Full`](JournalError::Full), after which the journal goes on;
    /// [`Poisoned`](JournalError::Poisoned), [`Closed`](JournalError::Closed) and others, after which it does not.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is done, the record may be written all the same; then it is acknowledged at once, as nobody
    /// knows of it, but a crash can come in between and have it found. The others of its group do not notice.
    ///
    /// # Cost
    ///
    /// One write and one sync for all who wait at the same time, tasks of one thread included. Whoever leads the group
    /// **blocks its thread** meanwhile, in async code too. Under [`Durability::Always`] it first waits for those who were
    /// in the last group, for some microseconds and at most half as long as a sync takes; alone it waits for nobody.
    pub async fn append(&self, kind: Kind, key: &[u8], value: &[u8]) -> Result<u64, JournalError> {
        Ok(self.group.append(&[Write { kind, key, value }]).await?.start)
    }

    /// Appends a record as [`append`](Journal::append) does, on a thread that waits.
    ///
    /// # Errors
    ///
    /// As [`append`](Journal::append).
    pub fn append_blocking(&self, kind: Kind, key: &[u8], value: &[u8]) -> Result<u64, JournalError> {
        block_on(self.append(kind, key, value))
    }

    /// Appends records as one group, and returns their sequence numbers.
    ///
    /// They are accepted together or not at all; after a crash before that, the first few of them may be found.
    ///
    /// # Errors
    ///
    /// As [`append`](Journal::append).
    ///
    /// # Cancel safety
    ///
    /// As [`append`](Journal::append).
    pub async fn append_all(&self, writes: &[Write<'_>]) -> Result<Range<u64>, JournalError> {
        self.group.append(writes).await
    }

    /// Appends records as [`append_all`](Journal::append_all) does, on a thread that waits.
    ///
    /// # Errors
    ///
    /// As [`append`](Journal::append).
    pub fn append_all_blocking(&self, writes: &[Write<'_>]) -> Result<Range<u64>, JournalError> {
        block_on(self.append_all(writes))
    }

    /// Says that records are not needed any more: the store has them, or they are superseded.
    ///
    /// Does not wait: it is written with the next group, sync or close, and so costs no `fsync` of its own. A crash before that
    /// has the records found again. Of two records of one key, the older one must not be acknowledged later than
    /// the newer one, or it may be found alone. Numbers that are not known are ignored.
    pub fn acknowledge(&self, sequences: impl IntoIterator<Item = u64>) {
        self.group.acknowledge(sequences);
    }

    /// Waits until all that was appended and acknowledged before is on disk, whatever the journal's durability.
    ///
    /// # Errors
    ///
    /// As [`append`](Journal::append).
    pub async fn sync(&self) -> Result<(), JournalError> {
        self.group.sync(false).await
    }

    /// Syncs as [`sync`](Journal::sync) does, on a thread that waits.
    ///
    /// # Errors
    ///
    /// As [`append`](Journal::append).
    pub fn sync_blocking(&self) -> Result<(), JournalError> {
        block_on(self.sync())
    }

    /// Syncs, and closes the journal; what is appended later is refused. Closing it again does nothing.
    ///
    /// A journal that is dropped instead is left as after a crash of the process: what was accepted is found, but not all
    /// that happened to its last group later can be told from a crash.
    ///
    /// # Errors
    ///
    /// As [`append`](Journal::append).
    pub async fn close(&self) -> Result<(), JournalError> {
        self.group.sync(true).await
    }

    /// Closes the journal as [`close`](Journal::close) does, on a thread that waits.
    ///
    /// # Errors
    ///
    /// As [`append`](Journal::append).
    pub fn close_blocking(&self) -> Result<(), JournalError> {
        block_on(self.close())
    }

    /// Syncs at each [`Interval`](Durability::Interval), until the journal is closed; does nothing for other durabilities.
    ///
    /// # Errors
    ///
    /// When the journal fails.
    pub async fn run(&self) -> Result<(), JournalError> {
        let Durability::Interval(interval) = self.durability else { return Ok(()) };
        loop {
            self.clock.sleep(interval).await;
            match self.sync().await {
                Err(JournalError::Closed) => return Ok(()),
                synced => synced?,
            }
        }
    }

    /// Returns when a record is accepted.
    pub const fn durability(&self) -> Durability {
        self.durability
    }

    /// Returns how many bytes the key and the value of a record may have together.
    pub const fn record_limit(&self) -> usize {
        self.group.record_limit()
    }

    /// Returns sizes and counts, as of the last group.
    pub fn stats(&self) -> JournalStats {
        self.group.stats()
    }

    /// Returns why the journal has ended, if it has.
    pub fn ended(&self) -> Option<JournalError> {
        self.group.ended()
    }
}

/// How a [`Journal`] is to be kept.
#[derive(Clone, Debug)]
#[must_use = "opens nothing until it is told where"]
pub struct JournalBuilder {
    durability: Durability,
    segment_bytes: u64,
    record_limit: usize,
    clock: Clock,
}

impl JournalBuilder {
    /// Says when a record is accepted. Default: [`Durability::Always`].
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Begins a new file when one is so long. Default: 64 MiB.
    ///
    /// Room is given back file by file. A record that is longer gets a file of its own.
    ///
    /// # Panics
    ///
    /// Below 1 KiB or above 1 GiB.
    #[track_caller]
    pub const fn segment_bytes(mut self, bytes: u64) -> Self {
        if bytes < 1 << 10 || bytes > 1 << 30 {
            absurd("segment_bytes", bytes, "must be from 1 KiB to 1 GiB");
        }
        self.segment_bytes = bytes;
        self
    }

    /// Refuses records whose key and value together are longer. Default: 16 MiB.
    ///
    /// # Panics
    ///
    /// At 0, and above 256 MiB.
    #[track_caller]
    pub const fn record_limit(mut self, bytes: usize) -> Self {
        if bytes == 0 || bytes > MAX_BODY {
            absurd("record_limit", bytes as u64, "must be from 1 byte to 256 MiB");
        }
        self.record_limit = bytes;
        self
    }

    /// Tells the time by `clock`, for [`Durability::Interval`] and the statistics. Default: the system clock.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the journal in a folder, or begins one; returns what it holds. Blocks while it reads.
    ///
    /// # Errors
    ///
    /// [`Locked`](JournalError::Locked) if it is open elsewhere; [`Corrupt`](JournalError::Corrupt) if it was damaged, and
    /// then nothing is changed; [`Io`](JournalError::Io) and others if the file system fails.
    pub fn open(self, path: impl AsRef<Path>) -> Result<(Journal, Recovery), JournalError> {
        let folder = Folder::open(path.as_ref())?;
        self.open_on(folder)
    }

    /// Opens the journal on a disk of your own. Nobody else may use that meanwhile.
    ///
    /// # Errors
    ///
    /// As [`open`](JournalBuilder::open), but for the lock.
    pub fn open_on(self, disk: impl Disk + 'static) -> Result<(Journal, Recovery), JournalError> {
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let opened = recover::open(&disk)?;
        let how = (self.durability, self.segment_bytes, self.clock.clone());
        let mut log = Log::new(disk, how, opened.book, opened.active, opened.next);
        log.tidy()?;
        let records = opened.records.into_values().collect();
        let journal = Journal {
            group: Group::new(
                log,
                opened.next,
                self.record_limit,
                self.durability == Durability::Always,
                self.clock.clone(),
            ),
            durability: self.durability,
            clock: self.clock,
        };
        Ok((journal, Recovery { records, torn_bytes: opened.torn_bytes }))
    }
}

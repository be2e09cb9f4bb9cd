//! The segments of an open journal, in the hands of whoever writes the next group.

use std::sync::Arc;
use std::time::Duration;

use super::book::Book;
use super::disk::{Disk, DiskFile};
use super::error::JournalError;
use super::format::{self, FRAME, HEAD, HEADER, Head, Header, MAX_RANGES, Tag};
use super::read::{Frames, Next};
use super::{Durability, JournalStats};
use crate::clock::Clock;
use crate::error::saturating_nanos;

/// How much of an old segment is read at a time to save what is left of it.
const CLEANED_AT_ONCE: u64 = 1 << 20;
/// How much of a batch's memory the next one has at once.
const KEPT: usize = 4 << 20;

pub(super) struct Log {
    disk: Arc<dyn Disk>,
    durability: Durability,
    segment_bytes: u64,
    clock: Clock,
    book: Book,
    active: Active,
    /// No record that was written has this sequence number or a higher one.
    next: u64,
    /// Acknowledged, and not written yet.
    acknowledged: Vec<u64>,
    cleaner: Option<Cleaner>,
    last_sync: u64,
    syncs: u64,
    sync_nanos: u64,
    /// How long the last sync took.
    sync_took: u64,
    groups: u64,
}

/// The segment that is being written.
pub(super) struct Active {
    pub(super) number: u64,
    pub(super) file: Box<dyn DiskFile>,
    pub(super) length: u64,
    /// As much of it is on disk.
    pub(super) synced: u64,
    /// A write failed, and what it left behind `length` is unknown: nothing is written to this file any more.
    pub(super) broken: bool,
}

/// Where the copying of an old segment's live records stands.
struct Cleaner {
    segment: u64,
    frames: Frames,
}

/// What is written, and synced, at once.
#[derive(Default)]
pub(super) struct Batch {
    /// Whole frames, of which the heads are still to be written.
    pub(super) bytes: Vec<u8>,
    /// In the order of their sequence numbers.
    pub(super) frames: Vec<Head>,
    /// Sequence numbers that are not needed any more.
    pub(super) acknowledged: Vec<u64>,
    /// Somebody wants it on disk, whatever the journal's durability.
    pub(super) sync: bool,
    /// It is the last one.
    pub(super) close: bool,
    /// Who waits for it.
    pub(super) waiters: Vec<usize>,
}

impl Batch {
    pub(super) fn push(&mut self, head: Head, key: &[u8], value: &[u8]) {
        format::push(&head, key, value, &mut self.bytes);
        self.frames.push(head);
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.frames.clear();
        self.acknowledged.clear();
        self.waiters.clear();
        (self.sync, self.close) = (false, false);
    }
}

/// Returns the name of a segment's file.
pub(super) fn name_of(segment: u64) -> String {
    format!("{segment:020}.journal")
}

/// Returns the number of the segment in the file of this name, if it holds one.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".journal")?;
    digits.parse().ok().filter(|number| *number > 0 && name_of(*number) == name)
}

/// What a new segment is called until it is complete: then it is renamed, so no crash leaves half a header.
pub(super) const NEW: &str = "new";

/// Creates a segment that begins with `frames`, and returns when it is on disk.
pub(super) fn create(disk: &dyn Disk, header: Header, frames: &[u8]) -> Result<Active, JournalError> {
    let mut file = disk.create(NEW).map_err(JournalError::of_write)?;
    let written = write_all(&mut *file, &header.encode()).and_then(|()| write_all(&mut *file, frames));
    if let Err(error) = written {
        // It is emptied when it is created the next time; until then it may be what takes the last room.
        drop(file);
        let _ = disk.remove(NEW);
        return Err(error);
    }
    file.sync().map_err(JournalError::of_sync)?;
    disk.rename(NEW, &name_of(header.segment)).map_err(JournalError::of_write)?;
    disk.sync_names().map_err(JournalError::of_sync)?;
    let length = (HEADER + frames.len()) as u64;
    Ok(Active { number: header.segment, file, length, synced: length, broken: false })
}

fn write_all(file: &mut dyn DiskFile, mut bytes: &[u8]) -> Result<(), JournalError> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(JournalError::of_write(std::io::ErrorKind::WriteZero.into())),
            Ok(written) => bytes = &bytes[written.min(bytes.len())..],
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(JournalError::of_write(error)),
        }
    }
    Ok(())
}

impl Log {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        (durability, segment_bytes, clock): (Durability, u64, Clock),
        book: Book,
        active: Active,
        next: u64,
    ) -> Self {
        let last_sync = clock.nanos();
        Self {
            disk,
            durability,
            segment_bytes,
            clock,
            book,
            active,
            next,
            acknowledged: Vec::new(),
            cleaner: None,
            last_sync,
            syncs: 0,
            sync_nanos: 0,
            sync_took: 0,
            groups: 0,
        }
    }

    /// Writes a batch, and syncs it if that is due. On an error nothing of the batch is accepted.
    pub(super) fn commit(&mut self, batch: &mut Batch) -> Result<(), JournalError> {
        self.take_acknowledgements(batch);
        let (records, bytes) = (batch.frames.len(), batch.bytes.len());
        self.save_old(batch)?;
        self.add_acknowledgements(batch);
        let (written, rest) = if records == 0 || batch.bytes.len() as u64 <= self.longest_piece() {
            (self.write(&mut batch.bytes, &batch.frames), Ok(()))
        } else {
            // The records by themselves, in one piece if they can be: so that it can be taken back.
            let (first, rest) = batch.bytes.split_at_mut(bytes);
            match self.write(first, &batch.frames[..records]) {
                Ok(()) => (Ok(()), self.write(rest, &batch.frames[records..])),
                failed => (failed, Ok(())),
            }
        };
        // Those that were acknowledged in the batch that brought them.
        for sequence in &self.acknowledged {
            self.book.forget(*sequence);
        }
        if written.is_ok() && rest.is_ok() {
            self.acknowledged.clear();
        } else {
            self.cleaner = None;
        }
        let failed = match (written, rest) {
            // The records are there; what else there was to say is said another time.
            (Ok(()), Err(error)) if !error.is_final() && !batch.sync && !batch.close => None,
            (written, rest) => written.and(rest).err(),
        };
        if let Some(error) = failed {
            // Some may be written already: nobody hears of them, so nobody will acknowledge them.
            let heads = batch.frames[..records].iter().filter(|head| self.book.forget(head.sequence));
            self.acknowledged.extend(heads.map(|head| head.sequence));
            return Err(error);
        }
        self.groups += u64::from(!batch.frames.is_empty());
        if self.is_due() || batch.sync || batch.close {
            self.sync()?;
        }
        if batch.close {
            // Says that all before it is on disk, so that the next opening can tell any damage. Without room for it, that
            // can tell a little less.
            let mut mark = Batch::default();
            mark.push(Head::of(Tag::Mark, 0, &[], &[]), &[], &[]);
            match self.write(&mut mark.bytes, &mark.frames) {
                Err(error) if error.is_final() => return Err(error),
                _ => self.sync()?,
            }
        }
        Ok(())
    }

    /// Collects what is not needed any more, out of this batch or what was written before.
    fn take_acknowledgements(&mut self, batch: &Batch) {
        for sequence in &batch.acknowledged {
            let comes = || batch.frames.binary_search_by_key(sequence, |head| head.sequence).is_ok();
            if self.book.forget(*sequence) || comes() {
                self.acknowledged.push(*sequence);
            }
        }
        self.acknowledged.sort_unstable();
        self.acknowledged.dedup();
    }

    /// Adds frames that say what is not needed any more, behind all records that they speak of.
    fn add_acknowledgements(&self, batch: &mut Batch) {
        let mut ranges = format::ranges(&self.acknowledged).peekable();
        let mut value = Vec::new();
        while ranges.peek().is_some() {
            value.clear();
            ranges.by_ref().take(MAX_RANGES).for_each(|range| format::push_range(range, &mut value));
            batch.push(Head::of(Tag::Acknowledge, 0, &[], &value), &[], &value);
        }
    }

    /// Adds copies of records that an old segment holds, if that is mostly dead and can go when they are saved.
    fn save_old(&mut self, batch: &mut Batch) -> Result<(), JournalError> {
        let Some((segment, length)) = self.book.wasteful(self.segment_bytes) else {
            self.cleaner = None;
            return Ok(());
        };
        let cleaner = match &mut self.cleaner {
            Some(cleaner) if cleaner.segment == segment => cleaner,
            cleaner => {
                let mut frames = Frames::new(self.disk.read(&name_of(segment))?, length);
                frames.peek(HEADER)?;
                frames.skip(HEADER);
                cleaner.insert(Cleaner { segment, frames })
            }
        };
        let until = cleaner.frames.offset() + CLEANED_AT_ONCE.max(batch.bytes.len() as u64);
        while cleaner.frames.offset() < until {
            let offset = cleaner.frames.offset();
            match cleaner.frames.next(segment)? {
                Next::Frame(head) => {
                    if self.book.is_live_in(head.sequence, segment) {
                        let (key, value) = cleaner.frames.body(&head);
                        batch.push(head, key, value);
                    }
                }
                Next::End => break,
                Next::Bad(problem) => return Err(JournalError::Corrupt { segment, offset, problem }),
            }
        }
        Ok(())
    }

    /// What has room in a segment.
    const fn longest_piece(&self) -> u64 {
        self.segment_bytes - HEADER as u64
    }

    /// Writes frames, in as few pieces as the segments' size allows. A piece for which the disk had no room leaves nothing.
    fn write(&mut self, bytes: &mut [u8], frames: &[Head]) -> Result<(), JournalError> {
        let (mut bytes, mut frames) = (bytes, frames);
        while let Some(first) = frames.first() {
            let room = self.segment_bytes.saturating_sub(self.active.length);
            let wanted = Some(bytes.len() as u64).filter(|bytes| *bytes <= self.longest_piece());
            let wanted = wanted.unwrap_or(first.frame() as u64);
            if self.active.broken || self.active.length > HEADER as u64 && room < wanted {
                self.roll()?;
                continue;
            }
            let settled = self.active.synced == self.active.length;
            let (mut length, mut count) = (0, 0);
            for head in frames {
                if count > 0 && (length + head.frame()) as u64 > room {
                    break;
                }
                let head = Head { settled: settled && count == 0, ..*head };
                bytes[length..length + HEAD].copy_from_slice(&head.encode(self.active.number));
                length += head.frame();
                count += 1;
            }
            let (piece, rest) = bytes.split_at_mut(length);
            if let Err(error) = write_all(&mut *self.active.file, piece) {
                self.active.broken = true;
                return Err(self.cut_off(error));
            }
            self.active.length += length as u64;
            self.book.grow(length as u64);
            for head in &frames[..count] {
                if matches!(head.tag, Tag::Put | Tag::Remove) {
                    self.book.record(head.sequence, (FRAME + head.body()) as u32);
                    self.next = self.next.max(head.sequence + 1);
                }
            }
            (bytes, frames) = (rest, &frames[count..]);
        }
        Ok(())
    }

    /// Takes away what a failed write has left, so that what was refused is not found after a crash.
    fn cut_off(&self, error: JournalError) -> JournalError {
        if error.is_final() {
            return error;
        }
        match self.disk.truncate(&name_of(self.active.number), self.active.length) {
            Ok(()) => error,
            Err(failed) => match JournalError::of_write(failed) {
                failed if failed.is_final() => failed,
                // It takes room to cut a file. Then it is cut when the next segment begins.
                _ => error,
            },
        }
    }

    /// Begins a new segment. The old one is on disk before, up to the length that the new one says.
    fn roll(&mut self) -> Result<(), JournalError> {
        self.sync()?;
        if self.active.broken {
            // What the failed write has left takes room. It does not count in any case: the new segment says how
            // long this one is.
            let _ = self.disk.truncate(&name_of(self.active.number), self.active.length);
        }
        let segment = self.active.number + 1;
        let header = Header { segment, first: self.next, previous: self.active.length };
        self.active = create(&*self.disk, header, &[])?;
        self.syncs += 1;
        self.book.begin(segment, self.active.length);
        Ok(())
    }

    fn is_due(&self) -> bool {
        match self.durability {
            Durability::Always => true,
            Durability::Interval(interval) => {
                self.clock.nanos().saturating_sub(self.last_sync) >= saturating_nanos(interval)
            }
            Durability::Os => false,
        }
    }

    /// Returns when all that was written is on disk.
    fn sync(&mut self) -> Result<(), JournalError> {
        let before = self.clock.nanos();
        if self.active.synced < self.active.length {
            self.active.file.sync().map_err(JournalError::of_sync)?;
            self.active.synced = self.active.length;
            self.syncs += 1;
            self.sync_took = self.clock.nanos().saturating_sub(before);
            self.sync_nanos += self.sync_took;
        }
        self.last_sync = before;
        Ok(())
    }

    /// Returns how many nanoseconds a group is worth waiting for: half of what it saves those who would come too late.
    pub(super) const fn patience(&self) -> u64 {
        self.sync_took / 2
    }

    /// Returns whether no segment can go.
    pub(super) fn is_tidy(&self) -> bool {
        self.book.dead().is_none()
    }

    /// Removes old segments of which nothing is needed, one after the other.
    pub(super) fn tidy(&mut self) -> Result<(), JournalError> {
        while let Some(segment) = self.book.dead() {
            // What stands for the records that go, copies and newer writes, is on disk before they go.
            self.sync()?;
            match self.disk.remove(&name_of(segment)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Ok(()),
                _ => {}
            }
            // Before the next one goes: after a crash no segment may be there without those that follow it.
            self.disk.sync_names().map_err(JournalError::of_sync)?;
            self.book.remove_oldest();
        }
        Ok(())
    }

    pub(super) fn stats(&self) -> JournalStats {
        JournalStats {
            segments: self.book.segments(),
            bytes: self.book.bytes(),
            live_records: self.book.live(),
            live_bytes: self.book.live_bytes(),
            groups: self.groups,
            syncs: self.syncs,
            sync_time: Duration::from_nanos(self.sync_nanos),
        }
    }
}

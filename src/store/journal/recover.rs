//! Opening a journal: what is there, what of it counts, and a fresh segment to go on in.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::book::Book;
use super::disk::Disk;
use super::error::JournalError;
use super::format::{self, HEADER, Head, Header, MAX_RANGES, Tag};
use super::log::{self, Active, name_of, number_of};
use super::read::{Frames, Next};
use super::{Kind, Record};

/// Each opening begins at a multiple of this. So no sequence number is given out twice, even if those that were given
/// out last never reached the disk.
const OPENING: u64 = 1 << 32;

/// What was found, and the segment to write on.
pub(super) struct Opened {
    pub(super) book: Book,
    pub(super) active: Active,
    pub(super) next: u64,
    pub(super) records: BTreeMap<u64, Record>,
    pub(super) torn_bytes: u64,
}

#[derive(Default)]
struct Recovery {
    book: Book,
    records: BTreeMap<u64, Record>,
    next: u64,
    torn_bytes: u64,
}

/// The frames of the last segment from the last one on that says that all before it is on disk. What is read there may be
/// in the system's memory alone, after an `fsync` that failed: it is written once more, to a file without a past.
#[derive(Default)]
struct Tail {
    start: u64,
    records: Vec<u64>,
    acknowledged: Vec<(u64, u64)>,
}

pub(super) fn open(disk: &Arc<dyn Disk>) -> Result<Opened, JournalError> {
    let mut numbers: Vec<u64> = disk.names()?.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    for pair in numbers.windows(2) {
        if pair[1] != pair[0] + 1 {
            return Err(corrupt(pair[0] + 1, 0, "the segment is missing"));
        }
    }
    let mut recovery = Recovery { next: 1, ..Recovery::default() };
    let mut tail = Tail::default();
    let mut header = numbers.first().map(|first| read_header(&**disk, *first)).transpose()?;
    for (at, number) in numbers.iter().enumerate() {
        let follower = numbers.get(at + 1).map(|next| read_header(&**disk, *next)).transpose()?;
        let first = header.map_or(0, |header| header.first);
        recovery.next = recovery.next.max(first);
        tail = recovery.read_segment(&**disk, *number, follower.map(|next| next.previous))?;
        header = follower;
    }
    let last = numbers.last().copied().unwrap_or(0);
    let active = recovery.begin_anew(&**disk, last, &tail)?;
    if last > 0 && disk.length(&name_of(last))? > tail.start {
        // The new segment says how long this one is: what is behind that does not count, cut off or not.
        disk.truncate(&name_of(last), tail.start)?;
    }
    let Recovery { book, records, next, torn_bytes } = recovery;
    Ok(Opened { book, active, next, records, torn_bytes })
}

fn corrupt(segment: u64, offset: u64, problem: &'static str) -> JournalError {
    JournalError::Corrupt { segment, offset, problem }
}

fn read_header(disk: &dyn Disk, segment: u64) -> Result<Header, JournalError> {
    let mut frames = Frames::new(disk.read(&name_of(segment))?, HEADER as u64);
    let header = Header::decode(frames.peek(HEADER)?).map_err(|problem| corrupt(segment, 0, problem))?;
    if header.segment != segment {
        return Err(corrupt(segment, 12, "the file has the name of another segment"));
    }
    Ok(header)
}

impl Recovery {
    /// Reads a segment up to its `end`, or, if it is the last one, as far as it goes.
    fn read_segment(
        &mut self,
        disk: &dyn Disk,
        segment: u64,
        end: Option<u64>,
    ) -> Result<Tail, JournalError> {
        let length = disk.length(&name_of(segment))?;
        let until = end.unwrap_or(length);
        if until > length || until < HEADER as u64 {
            return Err(corrupt(segment, length, "the segment is too short"));
        }
        let mut frames = Frames::new(disk.read(&name_of(segment))?, until);
        frames.peek(HEADER)?;
        frames.skip(HEADER);
        self.book.begin(segment, HEADER as u64);
        let mut tail = Tail { start: HEADER as u64, ..Tail::default() };
        loop {
            let offset = frames.offset();
            match frames.next(segment)? {
                Next::Frame(head) => {
                    if head.settled {
                        tail = Tail { start: offset, ..Tail::default() };
                    }
                    self.book.grow(head.frame() as u64);
                    let (key, value) = frames.body(&head);
                    self.take(segment, offset, &head, key, value, &mut tail)?;
                }
                Next::End => return Ok(tail),
                Next::Bad(problem) => {
                    if end.is_some() || !frames.is_torn(segment)? {
                        return Err(corrupt(segment, offset, problem));
                    }
                    self.torn_bytes = length - offset;
                    return Ok(tail);
                }
            }
        }
    }

    fn take(
        &mut self,
        segment: u64,
        offset: u64,
        head: &Head,
        key: &[u8],
        value: &[u8],
        tail: &mut Tail,
    ) -> Result<(), JournalError> {
        let kind = match head.tag {
            Tag::Put => Kind::Put,
            Tag::Remove => Kind::Remove,
            Tag::Mark => return Ok(()),
            Tag::Acknowledge => {
                let ranges = format::read_ranges(value).ok_or(corrupt(
                    segment,
                    offset,
                    "an acknowledgement makes no sense",
                ))?;
                for (first, last) in ranges {
                    tail.acknowledged.push((first, last));
                    while let Some(sequence) = self.book.first_in(first, last) {
                        self.book.forget(sequence);
                        self.records.remove(&sequence);
                    }
                }
                return Ok(());
            }
        };
        let sequence = head.sequence;
        self.next = sequence
            .checked_add(1)
            .ok_or(corrupt(segment, offset, "the sequence numbers are used up"))?
            .max(self.next);
        let record = Record { sequence, kind, key: key.to_vec(), value: value.to_vec() };
        self.records.insert(sequence, record);
        self.book.record(sequence, head.frame() as u32);
        tail.records.push(sequence);
        Ok(())
    }

    /// Creates the segment that follows the last one, with what of that is not known to be on disk.
    fn begin_anew(&mut self, disk: &dyn Disk, last: u64, tail: &Tail) -> Result<Active, JournalError> {
        let used_up = corrupt(last, 0, "the sequence numbers are used up");
        if last > 0 {
            let opening = self.next / OPENING + 1;
            self.next = opening.checked_mul(OPENING).ok_or(used_up.clone())?;
        }
        let segment = last.checked_add(1).ok_or(used_up)?;
        let mut frames = Vec::new();
        let mut copied = Vec::new();
        let mut add = |head: Head, key: &[u8], value: &[u8]| {
            let start = frames.len();
            format::push(&head, key, value, &mut frames);
            frames[start..start + format::HEAD].copy_from_slice(&head.encode(segment));
        };
        let mut saved = tail.records.clone();
        saved.sort_unstable();
        saved.dedup();
        for record in saved.iter().filter_map(|sequence| self.records.get(sequence)) {
            let head = Head::of(record.kind.tag(), record.sequence, &record.key, &record.value);
            add(head, &record.key, &record.value);
            copied.push((record.sequence, head.frame() as u32));
        }
        for ranges in tail.acknowledged.chunks(MAX_RANGES) {
            let mut value = Vec::with_capacity(16 * ranges.len());
            ranges.iter().for_each(|range| format::push_range(*range, &mut value));
            add(Head::of(Tag::Acknowledge, 0, &[], &value), &[], &value);
        }
        let header = Header { segment, first: self.next, previous: tail.start };
        let active = log::create(disk, header, &frames)?;
        self.book.cut_last(tail.start);
        self.book.begin(segment, active.length);
        for (sequence, frame) in copied {
            self.book.record(sequence, frame);
        }
        Ok(active)
    }
}

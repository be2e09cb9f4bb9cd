//! Reading a segment frame by frame, and telling what a crash leaves behind from what damage does.

use std::io::{self, Read};

use super::format::{FRAME, HEAD, Head};

/// What a disk writes whole or not at all, at least.
const SECTOR: u64 = 512;
const WINDOW: usize = 64 << 10;

/// A segment, of which no more is in memory than its longest frame and a window.
pub(super) struct Frames {
    file: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    /// How much of `buffer` has been read.
    at: usize,
    /// Where that is in the file.
    offset: u64,
    end: u64,
}

/// What comes next in a segment.
pub(super) enum Next {
    /// A frame; its body is to be had by [`Frames::body`] until the next one is read.
    Frame(Head),
    End,
    Bad(&'static str),
}

impl Frames {
    /// Reads up to `end`, where the file may go on.
    pub(super) fn new(file: Box<dyn Read + Send>, end: u64) -> Self {
        Self { file, buffer: Vec::new(), at: 0, offset: 0, end }
    }

    /// Where the next frame begins.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns what follows: `wanted` bytes, or fewer where the segment ends.
    pub(super) fn peek(&mut self, wanted: usize) -> io::Result<&[u8]> {
        let left = self.end - self.offset;
        let wanted = wanted.min(usize::try_from(left).unwrap_or(usize::MAX));
        if self.buffer.len() - self.at < wanted {
            self.buffer.drain(..self.at);
            self.at = 0;
            let held = self.buffer.len() as u64;
            let more = (wanted.max(WINDOW) as u64).min(left) - held;
            self.file.by_ref().take(more).read_to_end(&mut self.buffer)?;
            if self.buffer.len() < wanted {
                // Shorter than it said; who looks at what is there sees it.
                self.end = self.offset + self.buffer.len() as u64;
            }
        }
        let held = self.buffer.len() - self.at;
        Ok(&self.buffer[self.at..self.at + wanted.min(held)])
    }

    pub(super) fn skip(&mut self, bytes: usize) {
        self.at += bytes;
        self.offset += bytes as u64;
    }

    /// Reads the next frame of `segment`. A bad one is not passed over.
    pub(super) fn next(&mut self, segment: u64) -> io::Result<Next> {
        let head = self.peek(HEAD)?;
        if head.is_empty() {
            return Ok(Next::End);
        }
        if head.len() < HEAD {
            return Ok(Next::Bad("a frame is cut off"));
        }
        let Some(head) = Head::decode(head, segment) else {
            return Ok(Next::Bad("the head of a frame is damaged"));
        };
        if self.end - self.offset < head.frame() as u64 {
            return Ok(Next::Bad("a frame is cut off"));
        }
        let frame = self.peek(head.frame())?;
        if frame.len() < head.frame() {
            return Ok(Next::Bad("a frame is cut off"));
        }
        if !head.matches(&frame[HEAD..]) {
            return Ok(Next::Bad("a record is damaged"));
        }
        self.skip(head.frame());
        Ok(Next::Frame(head))
    }

    /// Returns key and value of the frame that was read last.
    pub(super) fn body(&self, head: &Head) -> (&[u8], &[u8]) {
        let end = self.at - 1;
        self.buffer[end - head.body()..end].split_at(head.key as usize)
    }

    /// Says whether the bad frame that comes next, in the segment that was written last, can be what a crash has left
    /// of writes that were not synced; or whether something that was on disk has been damaged.
    ///
    /// A crash leaves a file that ends early, or that holds zeroes where sectors did not reach the disk: a file
    /// that only grows has no older contents. Other bytes than those that were written are damage. So
    /// is anything bad before a frame that was written when all before it was on disk.
    ///
    /// What this cannot tell: damage in the very last group that was written, if it hits a record that has a whole
    /// sector of zeroes in its value; it counts as torn.
    pub(super) fn is_torn(&mut self, segment: u64) -> io::Result<bool> {
        let torn = self.is_unfinished(segment)?;
        Ok(torn && !self.settled_follows(segment)?)
    }

    fn is_unfinished(&mut self, segment: u64) -> io::Result<bool> {
        let (start, end) = (self.offset, self.end);
        if end - start < FRAME as u64 {
            return Ok(true);
        }
        let until = match Head::decode(self.peek(HEAD)?, segment) {
            Some(head) if end - start < head.frame() as u64 => return Ok(true),
            Some(head) => start + head.frame() as u64,
            // To the end of the sector that the head ends in: with a part of the head, all behind it is lost.
            None => (start + HEAD as u64).next_multiple_of(SECTOR).min(end),
        };
        let bytes = self.peek((until - start) as usize)?;
        let first = (start.next_multiple_of(SECTOR) - start) as usize;
        let (partial, whole) = bytes.split_at(first.min(bytes.len()));
        let lost = |piece: &[u8]| !piece.is_empty() && piece.iter().all(|byte| *byte == 0);
        Ok(lost(partial) || whole.chunks(SECTOR as usize).any(lost))
    }

    /// Looks for a frame behind this one that was written when all before it was on disk.
    fn settled_follows(&mut self, segment: u64) -> io::Result<bool> {
        loop {
            let one = self.peek(1)?.len();
            self.skip(one);
            let bytes = self.peek(WINDOW)?;
            let found = bytes
                .windows(HEAD)
                .any(|bytes| Head::decode(bytes, segment).is_some_and(|head| head.settled));
            if found {
                return Ok(true);
            }
            if bytes.len() < WINDOW {
                return Ok(false);
            }
            // All windows that begin before this have been looked at.
            let seen = bytes.len() - HEAD;
            self.skip(seen);
        }
    }
}

//! Group commit without a thread of its own: the first waiter writes and syncs for all that have come.
//!
//! Whoever finds the log leads: it takes the log and the batch that has gathered, writes and syncs that in one go, and tells
//! all who wait for it. Meanwhile the next batch gathers; then its waiters are woken, and the first one to run leads. So one
//! that is dropped, or just not polled, holds nobody up. Nobody is dropped while it leads, since to lead is to block: an
//! async caller also blocks its thread for one write and one `fsync`.
//!
//! Where each group is synced, nobody leads the first time that it could: it lets the other tasks of its thread come
//! before. They could not come while it blocks, and each would lead a group of one: 64 tasks on one thread made 64 groups
//! of what is one now.
//!
//! Those who were told of a group mostly come back with the next write, but threads take some microseconds each to wake.
//! So the next group waits for them, at most half as long as a sync takes, which it saves those who would else have
//! missed it: `commit_delay` of PostgreSQL, with a measured delay and no wait where nobody else is about. One of
//! those who could lead stays awake meanwhile, and the one whose coming makes the group whole leads it.

use std::fmt;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::error::JournalError;
use super::format::Head;
use super::log::{Batch, Log};
use super::{JournalStats, Write};
use crate::clock::{Clock, NEVER};
use crate::park::patiently;
use crate::slab::Slab;
use crate::sync::Mutex;

pub(super) struct Group {
    queue: Mutex<Queue>,
    record_limit: usize,
    /// A group is worth waiting for.
    gathers: bool,
    clock: Clock,
}

struct Queue {
    /// `None` while somebody leads, and after the end.
    log: Option<Box<Log>>,
    /// Why it has ended.
    ended: Option<JournalError>,
    /// The sequence number of the next record.
    next: u64,
    /// What gathers.
    pending: Batch,
    /// The buffers of the batch before, to be used again.
    spare: Option<Batch>,
    /// So many make the next group whole: those who were told of the last one, and those who had come meanwhile.
    expected: usize,
    /// Then it is whole without them, in nanoseconds of the clock.
    until: u64,
    /// Somebody looks out for them, and leads then if nobody else does: no other need be woken for that.
    awaited: bool,
    waiters: Slab<Waiter>,
    stats: JournalStats,
}

/// Somebody who waits for a batch.
struct Waiter {
    waker: Option<Waker>,
    outcome: Option<Result<(), JournalError>>,
    /// It is not there any more, and its batch is being written.
    is_gone: bool,
    /// The records that it brought.
    sequences: Range<u64>,
}

impl Group {
    pub(super) fn new(log: Log, next: u64, record_limit: usize, gathers: bool, clock: Clock) -> Self {
        let queue = Queue {
            stats: log.stats(),
            log: Some(Box::new(log)),
            ended: None,
            next,
            pending: Batch::default(),
            spare: None,
            expected: 0,
            until: 0,
            awaited: false,
            waiters: Slab::new(),
        };
        Self { queue: Mutex::new(queue), record_limit, gathers, clock }
    }

    /// Adds records to the batch that gathers, one behind the other, and waits until it is written.
    pub(super) async fn append(&self, records: &[Write<'_>]) -> Result<Range<u64>, JournalError> {
        for record in records {
            let bytes = record.key.len() + record.value.len();
            if bytes > self.record_limit {
                return Err(JournalError::TooLarge { bytes, limit: self.record_limit });
            }
        }
        // Checksums take the longest: outside the lock.
        let head = |record: &Write<'_>| Head::of(record.kind.tag(), 0, record.key, record.value);
        let waiting = match records {
            [] => return Ok(0..0),
            [record] => self.enter(&[head(record)], records),
            records => self.enter(&records.iter().map(head).collect::<Vec<_>>(), records),
        };
        let (waiting, sequences) = waiting?;
        waiting.await?;
        Ok(sequences)
    }

    /// Waits until all that came before is on disk.
    pub(super) async fn sync(&self, close: bool) -> Result<(), JournalError> {
        let waiting = {
            let mut queue = self.queue.lock();
            match &queue.ended {
                Some(JournalError::Closed) if close => return Ok(()),
                Some(error) => return Err(error.clone()),
                None => {}
            }
            queue.pending.sync = true;
            queue.pending.close |= close;
            self.wait_in(&mut queue, 0..0)
        };
        waiting.await
    }

    fn enter(
        &self,
        heads: &[Head],
        records: &[Write<'_>],
    ) -> Result<(Waiting<'_>, Range<u64>), JournalError> {
        let mut queue = self.queue.lock();
        if let Some(error) = &queue.ended {
            return Err(error.clone());
        }
        if queue.pending.close {
            return Err(JournalError::Closed);
        }
        let first = queue.next;
        for (head, record) in heads.iter().zip(records) {
            let sequence = queue.next;
            queue.next += 1;
            queue.pending.push(Head { sequence, ..*head }, record.key, record.value);
        }
        let sequences = first..queue.next;
        Ok((self.wait_in(&mut queue, sequences.clone()), sequences))
    }

    fn wait_in(&self, queue: &mut Queue, sequences: Range<u64>) -> Waiting<'_> {
        let waiter = Waiter { waker: None, outcome: None, is_gone: false, sequences };
        let key = queue.waiters.push_back(waiter);
        queue.pending.waiters.push(key);
        Waiting { group: self, key: Some(key), lets_others_come: self.gathers }
    }

    /// Notes that records are not needed any more; the next batch says so on disk.
    pub(super) fn acknowledge(&self, sequences: impl IntoIterator<Item = u64>) {
        // The iterator is not ours: before the lock.
        let sequences: Vec<u64> = sequences.into_iter().collect();
        self.queue.lock().pending.acknowledged.extend(sequences);
    }

    pub(super) const fn record_limit(&self) -> usize {
        self.record_limit
    }

    pub(super) fn stats(&self) -> JournalStats {
        self.queue.lock().stats
    }

    pub(super) fn ended(&self) -> Option<JournalError> {
        self.queue.lock().ended.clone()
    }

    /// Waits, for some microseconds, until the next group is whole or somebody leads it.
    fn look_out(&self) {
        patiently(|| {
            let now = self.clock.nanos();
            let queue = self.queue.lock();
            (queue.log.is_none() || queue.is_whole(now)).then_some(())
        });
    }

    fn lead(&self, log: Box<Log>, batch: Batch) {
        let mut lead = Lead { group: self, log: Some(log), batch };
        let Some(log) = &mut lead.log else { return };
        let committed = log.commit(&mut lead.batch);
        let end = match &committed {
            Err(error) if error.is_final() => Some(error.clone()),
            Ok(()) if lead.batch.close => Some(JournalError::Closed),
            _ if log.is_tidy() => None,
            _ => {
                // Nobody waits until files are removed.
                lead.tell(committed.clone());
                // Also when the disk is full: this is what makes room.
                lead.log.as_mut().and_then(|log| log.tidy().err())
            }
        };
        lead.give_back(committed, end);
    }
}

/// Whoever leads. If the disk panics it ends the journal, and nobody waits for ever.
struct Lead<'a> {
    group: &'a Group,
    log: Option<Box<Log>>,
    batch: Batch,
}

impl Lead<'_> {
    /// Tells all who wait for this batch how it went.
    fn tell(&mut self, outcome: Result<(), JournalError>) {
        let mut wakers = Vec::new();
        let mut queue = self.group.queue.lock();
        queue.tell(&mut self.batch, outcome, &mut wakers);
        drop(queue);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Tells those who have not been told, and lets the next one lead, or ends the journal.
    fn give_back(&mut self, outcome: Result<(), JournalError>, end: Option<JournalError>) {
        let (mut wakers, mut batch) = (Vec::new(), std::mem::take(&mut self.batch));
        let now = self.group.clock.nanos();
        let mut queue = self.group.queue.lock();
        let log = self.log.take();
        if let Some(log) = &log {
            queue.stats = log.stats();
            queue.expected = batch.waiters.len() + queue.pending.waiters.len();
            queue.until = now.saturating_add(log.patience());
        }
        queue.tell(&mut batch, outcome, &mut wakers);
        batch.clear();
        // Dropped after the lock: files are closed.
        let mut closed = None;
        match end {
            Some(end) => {
                let mut pending = std::mem::take(&mut queue.pending);
                queue.tell(&mut pending, Err(end.clone()), &mut wakers);
                queue.ended = Some(end);
                closed = log;
            }
            None => {
                queue.log = log;
                queue.spare = Some(batch);
            }
        }
        drop(queue);
        drop(closed);
        wakers.into_iter().for_each(Waker::wake);
        // Mostly one of those leads by now, and the others need not be woken twice.
        let wakers: Vec<Waker> = self.group.queue.lock().call_to_lead().collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if self.log.is_some() {
            let end = JournalError::Poisoned(Arc::new(io::Error::other("the disk panicked")));
            self.give_back(Err(end.clone()), Some(end));
        }
    }
}

impl Queue {
    /// Returns whether the next group need not wait for others.
    fn is_whole(&self, now: u64) -> bool {
        self.pending.waiters.len() >= self.expected || now >= self.until
    }

    /// Gives the log, and what is to be written, to one who leads from now on.
    fn begin(&mut self, now: u64) -> Option<(Box<Log>, Batch)> {
        if !self.is_whole(now) {
            return None;
        }
        let log = self.log.take()?;
        self.awaited = false;
        let next = self.spare.take().unwrap_or_default();
        Some((log, std::mem::replace(&mut self.pending, next)))
    }

    fn tell(&mut self, batch: &mut Batch, outcome: Result<(), JournalError>, wakers: &mut Vec<Waker>) {
        for key in batch.waiters.drain(..) {
            let Some(waiter) = self.waiters.get_mut(key) else { continue };
            if waiter.is_gone {
                let gone = self.waiters.remove(key);
                // Nobody has learned of its records.
                self.pending.acknowledged.extend(gone.map_or(0..0, |gone| gone.sequences));
                continue;
            }
            waiter.outcome = Some(outcome.clone());
            wakers.extend(waiter.waker.take());
        }
    }

    /// Returns whom to wake, since the log is there and nobody is about to take it: all who wait. The first alone would do
    /// if it were sure to be polled; a future that is held and not polled must not keep up the others.
    fn call_to_lead(&mut self) -> impl Iterator<Item = Waker> {
        let is_idle = self.log.is_some() && !self.awaited;
        let waiting = if is_idle { self.pending.waiters.as_slice() } else { &[] };
        waiting.iter().filter_map(|key| self.waiters.get_mut(*key)?.waker.take())
    }
}

/// The wait for a batch.
///
/// Dropping it leaves what it brought in the batch, and takes that back with an acknowledgement.
struct Waiting<'a> {
    group: &'a Group,
    key: Option<usize>,
    /// It could not have led yet.
    lets_others_come: bool,
}

impl Future for Waiting<'_> {
    type Output = Result<(), JournalError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Wakers are user code: cloned before the lock is taken, dropped after it is released.
        let waker = context.waker().clone();
        let key = self.key.expect("a wait that has ended is not polled again");
        let mut is_patient = self.group.gathers;
        loop {
            let now = if is_patient { self.group.clock.nanos() } else { NEVER };
            let mut queue = self.group.queue.lock();
            let waiter = queue.waiters.get_mut(key).expect("a waiter keeps its entry until it leaves");
            if let Some(outcome) = waiter.outcome.take() {
                let gone = queue.waiters.remove(key);
                drop(queue);
                drop(gone);
                self.key = None;
                return Poll::Ready(outcome);
            }
            if queue.log.is_some() && std::mem::take(&mut self.lets_others_come) {
                drop(queue);
                waker.wake();
                return Poll::Pending;
            }
            if let Some((log, batch)) = queue.begin(now) {
                drop(queue);
                self.group.lead(log, batch);
                continue;
            }
            if queue.log.is_some() && !std::mem::replace(&mut queue.awaited, true) {
                drop(queue);
                self.group.look_out();
                is_patient = false;
                continue;
            }
            let old = queue.waiters.get_mut(key).and_then(|waiter| waiter.waker.replace(waker));
            drop(queue);
            drop(old);
            return Poll::Pending;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let mut queue = self.group.queue.lock();
        let in_flight = match queue.pending.waiters.iter().position(|waiter| *waiter == key) {
            Some(place) => {
                queue.pending.waiters.remove(place);
                false
            }
            None => queue.waiters.get_mut(key).is_some_and(|waiter| waiter.outcome.is_none()),
        };
        let (mut gone, mut waker) = (None, None);
        match queue.waiters.get_mut(key) {
            Some(waiter) if in_flight => {
                waiter.is_gone = true;
                waker = waiter.waker.take();
            }
            _ => gone = queue.waiters.remove(key),
        }
        if let Some(gone) = &gone {
            queue.pending.acknowledged.extend(gone.sequences.clone());
        }
        drop(queue);
        drop((gone, waker));
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("stats", &self.stats())
            .field("ended", &self.ended())
            .finish_non_exhaustive()
    }
}

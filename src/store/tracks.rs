//! One write of a key at a time, and each brought to its end, also when its caller goes away: [`Tracks`].
//!
//! A track is the hash of a key; keys that share a hash share a track. Who writes keys takes their tracks, in the order of
//! the hashes, so that no two wait for each other.
//!
//! A write that is dropped in the middle is not over: the store may still be at it, and end it after one that begins
//! later. So it is left here, and whoever comes to one of its tracks next, to write or to load, brings it to its end
//! first.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::bell::Bell;
use crate::clock::{Clock, NEVER};
use crate::error::{Error, Reason, Rejected};
use crate::event::Hook;
use crate::flight::{Flights, Lead, Leads, OwnErrors, Part, Until};
use crate::hash::ByHash;
use crate::sync::Mutex;

/// A write that is being made, and all that is to be done at its end.
type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(super) struct Tracks {
    tracks: Flights<u64, ()>,
    /// Writes whose callers went away, under each of their tracks; mostly none.
    left: Mutex<ByHash<Arc<Left>>>,
    /// Who brings one of them to its end, by its address.
    turns: Flights<u64, ()>,
    /// Rings when something is left.
    bell: Bell,
    clock: Clock,
    hook: Hook,
}

/// A write whose caller went away.
struct Left {
    tracks: Vec<u64>,
    /// `None` while somebody is at it, and at its end.
    work: Mutex<Option<Work<()>>>,
}

impl Tracks {
    pub(super) fn new() -> Self {
        Self {
            tracks: Flights::new(),
            left: Mutex::default(),
            turns: Flights::new(),
            bell: Bell::default(),
            clock: Clock::system(),
            hook: Hook::unnamed(),
        }
    }

    /// Waits for tracks until they are free, and until what was left in them has ended.
    pub(super) async fn take(&self, mut tracks: Vec<u64>) -> Result<Held<'_>, Rejected> {
        tracks.sort_unstable();
        tracks.dedup();
        let mut leads = Vec::with_capacity(tracks.len());
        for track in &tracks {
            leads.push(self.lead(&self.tracks, *track).await?);
        }
        for track in &tracks {
            self.settle(*track).await?;
        }
        Ok(Held { owner: self, tracks, leads })
    }

    /// Brings what was left in a track to its end.
    pub(super) async fn settle(&self, track: u64) -> Result<(), Rejected> {
        while let Some(left) = self.left_in(track) {
            let lead = self.lead(&self.turns, Arc::as_ptr(&left) as usize as u64).await?;
            // Else another one has ended it meanwhile.
            let work = left.work.lock().take();
            if let Some(work) = work {
                Finish { owner: self, left: &left, lead, work: Some(work) }.end().await;
            }
        }
        Ok(())
    }

    /// Brings everything that was left to its end.
    pub(super) async fn settle_all(&self) -> Result<(), Rejected> {
        loop {
            let track = self.left.lock().keys().next().copied();
            let Some(track) = track else { return Ok(()) };
            self.settle(track).await?;
        }
    }

    /// Brings to its end what was left and what will be left, for ever.
    pub(super) async fn settle_always(&self) -> Infallible {
        loop {
            let heard = self.bell.rings();
            // The one error there is says that it is called by one of them, and it is not.
            let _ = self.settle_all().await;
            self.bell.wait(heard, &self.clock, NEVER).await;
        }
    }

    fn left_in(&self, track: u64) -> Option<Arc<Left>> {
        self.left.lock().get(&track).map(Arc::clone)
    }

    async fn lead<'a>(&self, flights: &'a Flights<u64, ()>, key: u64) -> Result<Lead<'a, u64, ()>, Rejected> {
        let until = Until { clock: &self.clock, hook: &self.hook, deadline: NEVER };
        match flights.take_part::<u64, Infallible, OwnErrors>(key, &key, until).await {
            Ok(Part::Lead(lead)) => Ok(lead),
            Ok(Part::Value(())) => unreachable!("nothing lands"),
            Err(Error::Rejected(rejected)) => Err(rejected),
            Err(Error::Inner(never)) => match never {},
            Err(Error::TimedOut(timed_out)) => Err(Rejected::new(timed_out.by(), Reason::DeadlineExceeded)),
        }
    }
}

/// Tracks that are taken. Dropped, they go to those who wait.
pub(super) struct Held<'a> {
    owner: &'a Tracks,
    tracks: Vec<u64>,
    leads: Vec<Lead<'a, u64, ()>>,
}

impl Leads for Held<'_> {
    fn addresses(&self) -> impl Iterator<Item = usize> {
        self.leads.iter().flat_map(Lead::addresses)
    }
}

impl Held<'_> {
    /// Makes a write, and gives the tracks back. If it is dropped or panics before it ends, `unclear` is called: what was
    /// dropped is left to those who come next.
    pub(super) async fn run<T: Send + 'static>(
        self,
        work: impl Future<Output = T> + Send + 'static,
        unclear: impl FnOnce(),
    ) -> T {
        Run { held: self, work: Some(Box::pin(work)), unclear: Some(unclear) }.end().await
    }
}

struct Run<'a, T: Send + 'static, U: FnOnce()> {
    held: Held<'a>,
    /// `None` while it is polled, so that one that panics is not polled again.
    work: Option<Work<T>>,
    /// `None` once it has ended.
    unclear: Option<U>,
}

impl<T: Send + 'static, U: FnOnce()> Run<'_, T, U> {
    async fn end(mut self) -> T {
        let ended = poll_fn(|context| {
            let _entered = self.held.enter();
            advance(&mut self.work, context)
        });
        let result = ended.await;
        self.unclear = None;
        result
    }
}

impl<T: Send + 'static, U: FnOnce()> Drop for Run<'_, T, U> {
    fn drop(&mut self) {
        let Some(unclear) = self.unclear.take() else { return };
        if let Some(work) = self.work.take() {
            let work: Work<()> = Box::pin(async move { drop(work.await) });
            let left = Arc::new(Left { tracks: self.held.tracks.clone(), work: Mutex::new(Some(work)) });
            let mut all = self.held.owner.left.lock();
            all.extend(left.tracks.iter().map(|track| (*track, Arc::clone(&left))));
            drop(all);
            self.held.owner.bell.ring();
        }
        // After it is left: who loads what this removes finds it.
        unclear();
    }
}

/// Brings a write that was left to its end. Dropped, it leaves it to the next.
struct Finish<'a> {
    owner: &'a Tracks,
    left: &'a Arc<Left>,
    lead: Lead<'a, u64, ()>,
    work: Option<Work<()>>,
}

impl Finish<'_> {
    async fn end(mut self) {
        poll_fn(|context| {
            let _entered = self.lead.enter();
            advance(&mut self.work, context)
        })
        .await;
    }
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            *self.left.work.lock() = Some(work);
            return;
        }
        // It has ended, or panicked.
        let mut all = self.owner.left.lock();
        self.left.tracks.iter().for_each(|track| drop(all.remove(track)));
    }
}

fn advance<T>(work: &mut Option<Work<T>>, context: &mut Context<'_>) -> Poll<T> {
    let mut running = work.take().expect("a write that has ended is not polled again");
    let polled = running.as_mut().poll(context);
    if polled.is_pending() {
        *work = Some(running);
    }
    polled
}

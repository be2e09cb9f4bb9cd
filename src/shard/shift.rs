//! Moving data while reads and writes go on: [`Shift`], and the [`Route`] of each key meanwhile.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::error::ShardError;
use super::key::Key;
use super::plan::Plan;
use super::sharder::{Sharder, Shared};
use super::snapshot::{Snapshot, located};
use crate::park::block_on;
use crate::sync::{AtomicU64, Mutex, Ordering, SetOnce};

/// How far a move has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Phase {
    /// Not begun: all on the old node.
    Waiting,
    /// Being copied: read from the old node, written to both.
    Copying,
    /// All on the new node; the old one's copy can be deleted.
    Switched,
}

impl Phase {
    fn of(phase: &AtomicU64) -> Self {
        // Acquire, with the Release that sets it: whoever reads from the new node finds what was copied before.
        match phase.load(Ordering::Acquire) {
            0 => Self::Waiting,
            1 => Self::Copying,
            _ => Self::Switched,
        }
    }
}

/// What a sharder is on the way to.
pub(super) struct Moving<N> {
    pub(super) next: Arc<Snapshot<N>>,
    pub(super) plan: Arc<Plan>,
    /// Of each move.
    pub(super) phases: Arc<[AtomicU64]>,
}

impl<N> Moving<N> {
    /// Where a key lives before and after, and the number of its move; `None` if it stays.
    fn find(&self, before: &Snapshot<N>, key: &[u8]) -> (u32, Option<(u32, usize)>) {
        let (_, from) = located(before, key);
        let (_, to) = located(&self.next, key);
        if before.id(from) == self.next.id(to) {
            return (from, None);
        }
        let at = self.plan.find(before, key, before.id(from), self.next.id(to));
        (from, Some((to, at.expect("a plan between two snapshots knows every key that moves"))))
    }

    /// The same way, with other nodes down.
    pub(super) fn with_next(&self, next: Snapshot<N>) -> Self {
        Self { next: Arc::new(next), plan: self.plan.clone(), phases: self.phases.clone() }
    }

    /// The snapshot by which a key is read: that before its move, or after.
    pub(super) fn read<'a>(&'a self, before: &'a Snapshot<N>, key: &[u8]) -> &'a Snapshot<N> {
        match self.find(before, key).1 {
            Some((_, at)) if Phase::of(&self.phases[at]) == Phase::Switched => &self.next,
            _ => before,
        }
    }
}

/// Where to read and write one key now. Hold it while you do: a [`Shift`] waits for the routes that it makes obsolete.
///
/// Made by [`Sharder::route`].
pub struct Route<N> {
    read: Arc<N>,
    /// The other node to write to.
    also: Option<Arc<N>>,
    _epoch: Arc<Epoch>,
}

impl<N> Route<N> {
    pub(super) fn find(snapshot: &Snapshot<N>, epoch: Arc<Epoch>, key: &[u8]) -> Self {
        let Some(moving) = snapshot.moving.as_deref() else {
            let read = snapshot.nodes[snapshot.layout.place(key) as usize].clone();
            return Self { read, also: None, _epoch: epoch };
        };
        let (from, to) = moving.find(snapshot, key);
        let old = &snapshot.nodes[from as usize];
        let phase = |at: usize| Phase::of(&moving.phases[at]);
        let (read, also) = match to.map(|(to, at)| (&moving.next.nodes[to as usize], phase(at))) {
            Some((new, Phase::Copying)) => (old.clone(), Some(new.clone())),
            Some((new, Phase::Switched)) => (new.clone(), None),
            Some((_, Phase::Waiting)) | None => (old.clone(), None),
        };
        Self { read, also, _epoch: epoch }
    }

    /// Returns the node to read from.
    pub fn read(&self) -> &N {
        &self.read
    }

    /// Returns the nodes to write to: the one that is read from, and while the key is being copied the new one too.
    pub fn writes(&self) -> impl Iterator<Item = &N> {
        [Some(&*self.read), self.also.as_deref()].into_iter().flatten()
    }
}

impl<N> fmt::Debug for Route<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("writes_to_both", &self.also.is_some()).finish_non_exhaustive()
    }
}

/// Held by all routes that were made between two changes; its drop tells that they, and those before them, have ended.
pub(super) struct Epoch {
    ended: Arc<Ended>,
    /// The next one, kept alive.
    next: SetOnce<Arc<Epoch>>,
}

pub(super) struct Ended(Mutex<(bool, Option<Waker>)>);

impl Default for Ended {
    fn default() -> Self {
        Self(Mutex::new((false, None)))
    }
}

impl Epoch {
    pub(super) fn new() -> Self {
        Self { ended: Arc::default(), next: SetOnce::default() }
    }

    pub(super) fn followed_by(&self, next: &Arc<Self>) {
        self.next.get_or_init(|| next.clone());
    }

    pub(super) fn ended(&self) -> Arc<Ended> {
        self.ended.clone()
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        // Those that end with it one after the other: many may have come since an old route was made, and a drop within a
        // drop within a drop takes stack.
        let mut next = self.next.take();
        while let Some(mut epoch) = next.and_then(Arc::into_inner) {
            next = epoch.next.take();
        }

        let waker = {
            let mut ended = self.ended.0.lock();
            ended.0 = true;
            ended.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Ended {
    async fn wait(&self) {
        poll_fn(|context| {
            let mine = context.waker().clone();
            let mut ended = self.0.lock();
            if ended.0 {
                // Dropped after the lock, as it is somebody else's code.
                drop(ended);
                return Poll::Ready(());
            }
            let old = ended.1.replace(mine);
            drop(ended);
            drop(old);
            Poll::Pending
        })
        .await;
    }
}

/// A change of the set that is carried out move by move, while reads and writes go on by [`Sharder::route`].
///
/// Made by [`Sharder::shift`]. For each move, in any order, or several at once:
///
/// 1. [`copy`](Self::copy): from now on its keys are written to both nodes, and no write to the old node alone is under way any
///    more. Now copy what is there, without overwriting what the writers have put on the new node meanwhile.
/// 2. [`switch`](Self::switch): from now on its keys are read from and written to the new node, and no route to the old one is
///    under way any more. Now delete the old copy.
///
/// When all are switched, [`finish`](Self::finish). It can take days: a shift that is dropped goes on as it is, and
/// [`Sharder::shifting`] finds it again.
///
/// # Examples
///
/// ```
/// use floodwall::Sharder;
///
/// let shards = Sharder::new(["a", "b", "c"])?;
/// let next = shards.snapshot().draft().add("d")?.build()?;
/// let shift = shards.shift(next)?;
/// for at in 0..shift.plan().moves().len() {
///     shift.copy_blocking([at]);
///     // .. copy the rows of `shift.plan().moves()[at]` ..
///     shift.switch_blocking([at]);
///     // .. delete them from the old node ..
/// }
/// shift.finish()?;
/// assert!(shards.snapshot().node("d").is_some());
/// # Ok::<(), floodwall::shard::ShardError>(())
/// ```
pub struct Shift<N> {
    shared: Arc<Shared<N>>,
    before: Arc<Snapshot<N>>,
    moving: Arc<Moving<N>>,
}

impl<N> Shift<N> {
    fn of(shared: &Arc<Shared<N>>, before: Arc<Snapshot<N>>) -> Option<Self> {
        let moving = before.moving.clone()?;
        Some(Self { shared: shared.clone(), before, moving })
    }

    /// Returns what moves.
    pub fn plan(&self) -> &Plan {
        &self.moving.plan
    }

    /// Returns the snapshot that the sharder is on the way to.
    pub fn next(&self) -> &Snapshot<N> {
        &self.moving.next
    }

    /// Finds the move that a key is in, by its number in the plan; `None` if the key stays.
    pub fn find<K: Key + ?Sized>(&self, key: &K) -> Option<usize> {
        self.moving.find(&self.before, key.bytes().as_ref()).1.map(|(_, at)| at)
    }

    /// Returns how far a move, by its number in the plan, has come.
    ///
    /// # Panics
    ///
    /// If there is no such move.
    pub fn phase(&self, at: usize) -> Phase {
        Phase::of(&self.moving.phases[at])
    }

    /// Begins these moves, by their numbers in the plan: waits until every route that does not write to both nodes has been
    /// dropped.
    ///
    /// Moves that have come so far already stay as they are.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the moves are begun, but older writes may be under way: call it again before you copy.
    ///
    /// # Panics
    ///
    /// If there is no such move.
    pub async fn copy(&self, moves: impl IntoIterator<Item = usize>) {
        self.advance(moves, 1).await;
    }

    /// [`copy`](Self::copy) on a thread. It never ends if this thread itself holds a route.
    ///
    /// # Panics
    ///
    /// If there is no such move.
    pub fn copy_blocking(&self, moves: impl IntoIterator<Item = usize>) {
        block_on(self.copy(moves));
    }

    /// Ends these moves, by their numbers in the plan, that were copied: waits until every route that leads to the old node has
    /// been dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the moves are switched, but older reads may be under way: call it again before you delete.
    ///
    /// # Panics
    ///
    /// If there is no such move, or it was not begun by [`copy`](Self::copy).
    pub async fn switch(&self, moves: impl IntoIterator<Item = usize>) {
        let begun =
            |at: &usize| assert!(self.phase(*at) >= Phase::Copying, "move {at}: must be copied first");
        self.advance(moves.into_iter().inspect(begun), 2).await;
    }

    /// [`switch`](Self::switch) on a thread. It never ends if this thread itself holds a route.
    ///
    /// # Panics
    ///
    /// If there is no such move, or it was not begun by [`copy`](Self::copy).
    pub fn switch_blocking(&self, moves: impl IntoIterator<Item = usize>) {
        block_on(self.switch(moves));
    }

    async fn advance(&self, moves: impl IntoIterator<Item = usize>, to: u64) {
        for at in moves {
            self.moving.phases[at].fetch_max(to, Ordering::Release);
        }
        // Routes made from here on see the new phases: they take the new epoch under the lock that put it there.
        for ended in self.shared.new_epoch() {
            ended.wait().await;
        }
    }

    /// Ends the shift: from now on the sharder is what it was on the way to.
    ///
    /// # Errors
    ///
    /// If a move has not been switched, or the shift has been ended before.
    pub fn finish(&self) -> Result<Arc<Snapshot<N>>, ShardError> {
        if !self.moving.phases.iter().all(|phase| Phase::of(phase) == Phase::Switched) {
            return Err(ShardError::Moving);
        }
        self.end(|_, moving| moving.next.draft().build())
    }

    /// Gives the shift up: the sharder stays what it was. What was copied can be deleted from the new nodes, once the routes made
    /// before have been dropped.
    ///
    /// # Errors
    ///
    /// If a move was switched, since its keys are on the new node alone by now; or the shift has been ended before.
    pub fn abandon(&self) -> Result<Arc<Snapshot<N>>, ShardError> {
        if self.moving.phases.iter().any(|phase| Phase::of(phase) == Phase::Switched) {
            return Err(ShardError::Moving);
        }
        self.end(|before, _| before.draft().build())
    }

    fn end(
        &self,
        next: impl Fn(&Snapshot<N>, &Moving<N>) -> Result<Snapshot<N>, ShardError>,
    ) -> Result<Arc<Snapshot<N>>, ShardError> {
        loop {
            let before = self.shared.snapshot();
            let phases = &self.moving.phases;
            let moving = before.moving.as_deref().filter(|moving| Arc::ptr_eq(&moving.phases, phases));
            let next = next(&before, moving.ok_or(ShardError::Moving)?)?;
            if let Some(next) = self.shared.install(&before, next) {
                return Ok(next);
            }
        }
    }
}

impl<N> fmt::Debug for Shift<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moves = self.moving.phases.len();
        let switched = (0..moves).filter(|at| self.phase(*at) == Phase::Switched).count();
        f.debug_struct("Shift").field("moves", &moves).field("switched", &switched).finish_non_exhaustive()
    }
}

impl<N> Sharder<N> {
    /// Returns where to read and write a key now, while a [`Shift`] runs or not. Hold the route until that is done.
    ///
    /// It leads to the key's home whether that is marked down or not: data does not move because its node is away.
    ///
    /// # Cost
    ///
    /// A short lock of the thread's own, three counts, and a look-up; twice a look-up while a shift runs. No allocation.
    pub fn route<K: Key + ?Sized>(&self, key: &K) -> Route<N> {
        let (snapshot, epoch) = self.shared.hold();
        Route::find(&snapshot, epoch, key.bytes().as_ref())
    }

    /// Begins to move data to where the next snapshot wants it; one that was made from the present one by
    /// [`draft`](Snapshot::draft).
    ///
    /// Until the shift ends, other changes of the set are refused, but nodes can be marked down and up.
    ///
    /// # Errors
    ///
    /// If a shift is running, or the set has changed since the draft was made.
    pub fn shift(&self, next: Snapshot<N>) -> Result<Shift<N>, ShardError> {
        let plan = self.snapshot().plan(&next);
        self.shift_by(next, plan)
    }

    /// [`shift`](Self::shift) by a plan that was cut into parts, or made from your own keys.
    ///
    /// # Errors
    ///
    /// If a shift is running, the set has changed since the draft was made, or the plan is one between other snapshots.
    pub fn shift_by(&self, next: Snapshot<N>, plan: Plan) -> Result<Shift<N>, ShardError> {
        if !plan.is_between(&self.snapshot(), &next) {
            return Err(if self.shifting().is_some() { ShardError::Moving } else { ShardError::Stale });
        }
        let phases = plan.moves().iter().map(|_| AtomicU64::new(0)).collect();
        let moving = Arc::new(Moving { next: Arc::new(next), plan: Arc::new(plan), phases });
        loop {
            let before = self.snapshot();
            if before.moving.is_some() {
                return Err(ShardError::Moving);
            }
            if moving.next.version != before.version {
                return Err(ShardError::Stale);
            }
            let next = before.draft().build()?.with_moving(Some(moving.clone()));
            if let Some(before) = self.shared.install(&before, next) {
                return Ok(Shift { shared: self.shared.clone(), before, moving });
            }
        }
    }

    /// Returns the shift that is running.
    pub fn shifting(&self) -> Option<Shift<N>> {
        Shift::of(&self.shared, self.snapshot())
    }
}

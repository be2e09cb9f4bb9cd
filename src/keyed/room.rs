//! Who is let in and who has to go: new keys, the search for room, the sweep.
//!
//! Gates are asked and values dropped between the locks, so what was found may have changed when it is acted on; the
//! table knows whether it has.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use super::Keyed;
use super::table::{Inserted, Suspect, Suspects, Table};
use crate::clock::nanos_of;
use crate::error::{Reason, Rejected};
use crate::event::Event;
use crate::gate::{Gate, Residual};
use crate::sync::{Mutex, back_off};

impl<K: Eq + Hash, G: Gate> Keyed<K, G> {
    /// How many places a sweep looks at.
    pub(super) const SWEEP: usize = 8;
    /// How many places a search for room looks at, 4 keys at a time; so many of them spare keys that were used lately.
    const SEARCH: usize = 64;
    const SPARING: usize = 24;

    /// Makes the gate of a new key, outside the lock, once there is room for it.
    #[cold]
    pub(super) fn meet<Q>(&self, shard: &Mutex<Table<K, G>>, tag: u32, key: &Q) -> Result<Arc<G>, Rejected>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let now = self.clock.nanos();
        let mut made = None;
        // Others may take the room that was made, so try again; not for ever.
        for _ in 0..4 {
            let is_full = shard.lock().is_full();
            if is_full {
                self.make_room(shard, now)?;
            }
            let (key, gate) = made.take().unwrap_or_else(|| {
                let key = key.to_owned();
                let gate = Arc::new((self.make)(&key));
                (key, gate)
            });
            let inserted = shard.lock().insert(tag, key, &gate, now);
            match inserted {
                Inserted::New { sweep } => {
                    if sweep {
                        self.sweep(shard);
                    }
                    return Ok(gate);
                }
                Inserted::Known(known, _key) => return Ok(known),
                Inserted::Full(key) => made = Some((key, gate)),
            }
        }
        Err(self.shed(None))
    }

    /// Forgets a key of a full shard that may be forgotten.
    fn make_room(&self, shard: &Mutex<Table<K, G>>, now: u64) -> Result<(), Rejected> {
        let mut soonest = None;
        let (mut left, mut waited) = (Self::SEARCH, false);
        while left > 0 {
            let sparing = left > Self::SEARCH - Self::SPARING;
            let mut suspects = Suspects::default();
            // Mostly the first one will do, and those that are passed lose the mark that they were used.
            let wanted = if left == Self::SEARCH { &mut suspects[..1] } else { &mut suspects[..] };
            let looked_at =
                shard.lock().sweep(left.min(16), now, |was_used, _| !(sparing && was_used), wanted);
            left = left.saturating_sub(looked_at.max(1));
            for suspect in suspects.iter().flatten() {
                match self.residual(suspect, now) {
                    None if self.forget(shard, suspect) => return Ok(()),
                    Some(Residual::Until(at)) => {
                        let at = nanos_of(at);
                        soonest = Some(soonest.map_or(at, |soonest: u64| soonest.min(at)));
                    }
                    _ => {}
                }
            }
            if suspects[0].is_none() && !waited {
                // It may be another thread that holds them, to ask the same.
                back_off();
                waited = true;
            }
        }
        Err(self.shed(soonest.map(|at| Duration::from_nanos(at.saturating_sub(now)))))
    }

    /// Looks at a few keys, and forgets those that were idle for long.
    #[cold]
    pub(super) fn sweep(&self, shard: &Mutex<Table<K, G>>) {
        let now = self.clock.nanos();
        let is_idle = |was_used: bool, since: u64| !was_used && now.saturating_sub(since) >= self.idle;
        let mut suspects = Suspects::default();
        // Two times 4 suspects.
        let mut left = Self::SWEEP;
        while left > 0 {
            let looked_at = shard.lock().sweep(left, now, is_idle, &mut suspects);
            left -= looked_at.clamp(1, left);
            for suspect in suspects.iter_mut().filter_map(Option::take) {
                if self.residual(&suspect, now).is_none() {
                    self.forget(shard, &suspect);
                }
            }
        }
    }

    /// Asks a gate what would be lost, outside the lock: it may be the user's, or have a clock that is.
    fn residual(&self, suspect: &Suspect<G>, now: u64) -> Option<Residual> {
        suspect.gate.residual().filter(|residual| match residual {
            Residual::Until(at) => nanos_of(*at) > now,
            Residual::InUse => true,
        })
    }

    /// Forgets a suspect unless it was used meanwhile; returns whether it did.
    fn forget(&self, shard: &Mutex<Table<K, G>>, suspect: &Suspect<G>) -> bool {
        // Dropped after the lock: keys are the user's.
        let forgotten = shard.lock().convict(suspect);
        forgotten.is_some()
    }

    fn shed(&self, wait: Option<Duration>) -> Rejected {
        let rejected = Rejected::new(self.hook.name, Reason::Shed);
        let rejected = wait.map_or(rejected, |wait| rejected.after(wait));
        self.hook.emit(Event::Rejected(rejected));
        rejected
    }
}

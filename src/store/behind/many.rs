//! Several writes at once: they share the sync of a journal.

use std::hash::Hash;
use std::sync::Arc;

use super::keep::Keep;
use super::{Inner, Pinned, WriteBehindError};
use crate::policy::Policy;
use crate::store::{Batch, Store, Write};

/// A write that is to be taken.
pub(super) struct Taken<K, V> {
    pub(super) key: Arc<K>,
    pub(super) value: Option<Arc<V>>,
    bytes: u64,
}

impl<K, V, S, P> Inner<K, V, S, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Store<K, V> + 'static,
    P: Policy<Vec<Result<(), S::Error>>, S::Error> + 'static,
{
    /// Takes several writes.
    pub(super) async fn take_many(&self, writes: &[Write<'_, K, V>]) -> Batch<(), WriteBehindError<S::Error>>
    where
        K: Clone,
        V: Clone,
    {
        let mut results = Vec::with_capacity(writes.len());
        let Some(keep) = &self.keep else {
            for write in writes {
                results.push(self.take(write.key.clone(), write.value.cloned()).await);
            }
            return Ok(results);
        };
        let taken = |write: &Write<'_, K, V>| Taken {
            key: Arc::new(write.key.clone()),
            value: write.value.cloned().map(Arc::new),
            bytes: (self.settings.weigher)(write.key, write.value),
        };
        let mut rest = writes.iter().map(taken).peekable();
        while rest.peek().is_some() {
            // As many at once as there can ever be room for.
            let (mut some, mut bytes) = (Vec::new(), 0_u64);
            while let Some(next) =
                rest.next_if(|next| some.is_empty() || bytes.saturating_add(next.bytes) <= self.room.max())
            {
                bytes = bytes.saturating_add(next.bytes);
                some.push(next);
            }
            self.take_some(&**keep, &some, bytes, &mut results).await?;
        }
        Ok(results)
    }

    async fn take_some(
        &self,
        keep: &dyn Keep<K, V, S::Error>,
        writes: &[Taken<K, V>],
        bytes: u64,
        results: &mut Vec<Result<(), WriteBehindError<S::Error>>>,
    ) -> Result<(), WriteBehindError<S::Error>> {
        let mut room = self.enter(bytes).await?;
        let mut pins: Vec<Pinned<'_, K, V, S, P>> = Vec::with_capacity(writes.len());
        for write in writes {
            pins.push(self.pin(&write.key)?);
        }
        let sequences = keep.append_all(writes).await?;
        let (mut freed, mut looks) = (Vec::with_capacity(writes.len()), false);
        {
            let now = self.clock.nanos();
            let mut dirty = self.dirty.lock();
            for (Taken { key, value, bytes }, sequence) in writes.iter().zip(sequences) {
                results.push(sequence.map(|sequence| {
                    let (free, look) = dirty.accept(now, key, value.clone(), *bytes, sequence);
                    freed.push(free);
                    looks |= look;
                    // It is the write's now.
                    room.bytes -= bytes;
                }));
            }
        }
        // In this order: of two writes of a key the older one is let go first.
        self.free(freed);
        drop(pins);
        if looks {
            self.bell.ring();
        }
        if room.through {
            drop(room);
            self.flush().await;
        }
        Ok(())
    }
}

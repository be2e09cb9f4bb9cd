//! Hearing what other instances have written, and telling them: [`CachedStore::listen`].

use std::convert::Infallible;
use std::future::poll_fn;
use std::hash::Hash;
use std::pin::pin;

use super::Store;
use super::bus::{Bus, Message, Subscription};
use super::cached::{CachedStore, Inner};
use super::in_step::InStep;
use crate::cache::Invalidation;

impl<K, V, S, B> CachedStore<K, V, S, B>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: Store<K, V> + 'static,
    B: Bus<K> + 'static,
{
    /// Subscribes to the [bus](CachedStore::bus), and removes what others say that they have changed, until the connection is
    /// lost: a future to spawn, in a loop.
    ///
    /// The cache is cleared at its beginning and at its end: what changed while nobody listened could stay wrong for ever.
    /// Between an end and the next beginning entries may be as old as their time to live lets them. An own write that was
    /// on its way while another one's was heard is not kept.
    ///
    /// All instances then end with what the store ends with, however late, often, or in whatever order the messages come.
    /// That holds for a store that has a write when it says so: not over a [`WriteBehind`](crate::WriteBehind).
    ///
    /// # Errors
    ///
    /// When the bus cannot be subscribed to.
    ///
    /// # Cancel safety
    ///
    /// Dropping it clears the cache.
    pub fn listen(&self) -> impl Future<Output = Result<(), B::Error>> + Send {
        let inner = &*self.inner;
        async move {
            let mut subscription = inner.bus.subscribe().await?;
            inner.lose();
            let _deaf = LoseOnDrop(inner);
            inner.resend().await;
            let mut hear = pin!(async move {
                while let Some(message) = subscription.next().await {
                    inner.hear(message);
                }
            });
            // A write whose caller was dropped is told of when it has ended, and maybe nobody else comes to its key.
            let mut settle = pin!(inner.tracks.settle_always());
            poll_fn(|context| {
                let _ = settle.as_mut().poll(context);
                hear.as_mut().poll(context)
            })
            .await;
            Ok(())
        }
    }

    /// Removes from the caches of all instances what is no longer true: for what was changed in the store past them.
    pub async fn invalidate(&self, what: Invalidation<K, Infallible>) {
        let inner = &*self.inner;
        inner.cache.apply(what.clone());
        if let Some(others) = &inner.in_step {
            inner.publish(others, what).await;
        }
    }

    /// Returns how many messages the bus has not taken yet.
    pub fn unsent(&self) -> usize {
        self.inner.in_step.as_ref().map_or(0, InStep::unsent)
    }
}

struct LoseOnDrop<'a, K: Hash + Eq + Clone, V, S, B>(&'a Inner<K, V, S, B>);

impl<K: Hash + Eq + Clone, V, S, B> Drop for LoseOnDrop<'_, K, V, S, B> {
    fn drop(&mut self) {
        self.0.lose();
    }
}

impl<K: Hash + Eq + Clone, V, S, B> Inner<K, V, S, B> {
    /// Forgets all that somebody may have changed unheard.
    fn lose(&self) {
        self.in_step.iter().for_each(InStep::lose);
        self.cache.clear();
    }

    fn hear(&self, message: Message<K>) {
        let Some(others) = &self.in_step else { return };
        if let Some(what) = others.hear(message, |key| self.track(key)) {
            self.cache.apply(what);
        }
    }
}

impl<K, V, S, B> Inner<K, V, S, B>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: Store<K, V>,
    B: Bus<K>,
{
    /// Tells the others, now or later.
    pub(super) async fn publish(&self, others: &InStep<K>, what: Invalidation<K, Infallible>) {
        let message = others.say(what);
        let is_taken = self.resend().await && self.bus.publish(&message).await.is_ok();
        if !is_taken {
            others.keep(message);
        }
    }

    /// Sends what the bus did not take before; returns whether it has taken all.
    pub(super) async fn resend(&self) -> bool {
        let Some(others) = &self.in_step else { return true };
        while let Some(message) = others.next_unsent() {
            if self.bus.publish(&message).await.is_err() {
                return false;
            }
            others.sent(&message);
        }
        true
    }
}

//! A store with a cache in front, written and read by several threads: the cache ends with what the store ends with.

use std::convert::Infallible;

use floodwall::cache::Invalidation;
use floodwall::store::{Bus, CachedStore, LocalBus, MemoryStore, Message, Store};

use super::*;

type Rows = Arc<MemoryStore<u8, u64>>;

/// In a thread of its own, as models of caches are; with a stack, in words, in which a whole stack of futures has room.
fn model_of_writes(check: impl Fn() + Send + Sync + Copy + 'static) {
    model_of(2, move || thread::Builder::new().stack_size(0x4000).spawn(check).unwrap().join().unwrap());
}

fn cached() -> (CachedStore<u8, u64, Rows>, Rows) {
    let rows = Rows::default();
    (CachedStore::write_through(Cache::new(2), rows.clone()), rows)
}

fn agree<S, B>(cached: &CachedStore<u8, u64, S, B>, rows: &Rows) {
    let (held, row) = (cached.cache().peek(&1), block_on(rows.load(&1)).unwrap());
    assert!(held.is_none() || held == Some(row), "the cache has {held:?}, the store {row:?}");
}

#[test]
fn two_writers_of_a_key_leave_the_same_in_cache_and_store() {
    model_of_writes(|| {
        let (cached, rows) = cached();
        let other = {
            let cached = cached.clone();
            thread::spawn(move || cached.save_blocking(&1, &10).unwrap())
        };
        cached.save_blocking(&1, &20).unwrap();
        other.join().unwrap();
        agree(&cached, &rows);
    });
}

#[test]
fn a_load_beside_a_write_leaves_nothing_old() {
    model_of_writes(|| {
        let (cached, rows) = cached();
        let reader = {
            let cached = cached.clone();
            thread::spawn(move || cached.load_blocking(&1).unwrap())
        };
        cached.save_blocking(&1, &10).unwrap();
        assert_eq!(cached.load_blocking(&1), Ok(Some(10)));
        reader.join().unwrap();
        agree(&cached, &rows);
    });
}

/// Takes a step before it writes, and so can be dropped there.
struct Slow(Rows);

impl Store<u8, u64> for Slow {
    type Error = Infallible;

    async fn load(&self, key: &u8) -> Result<Option<u64>, Infallible> {
        self.0.load(key).await
    }

    async fn save(&self, key: &u8, value: &u64) -> Result<(), Infallible> {
        let mut is_first = true;
        std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        self.0.save(key, value).await
    }

    async fn remove(&self, key: &u8) -> Result<(), Infallible> {
        self.0.remove(key).await
    }
}

#[test]
fn a_write_that_is_dropped_is_brought_to_its_end_by_one_of_those_who_come() {
    model_of_writes(|| {
        let rows = Rows::default();
        let cached = CachedStore::write_through(Cache::new(2), Slow(rows.clone()));
        let own = cached.clone();
        let mut save = Box::pin(async move { own.save(&1, &10).await });
        assert!(poll(&mut save).is_pending());
        let reader = {
            let cached = cached.clone();
            thread::spawn(move || cached.load_blocking(&1).unwrap())
        };
        drop(save);
        assert_eq!(cached.load_blocking(&1), Ok(Some(10)));
        reader.join().unwrap();
        assert_eq!(cached.load_blocking(&1), Ok(Some(10)));
        agree(&cached, &rows);
    });
}

#[test]
fn a_write_that_meets_a_message_is_not_kept() {
    model_of_writes(|| {
        let (bus, rows) = (LocalBus::new(), Rows::default());
        let cached = CachedStore::write_through(Cache::new(2), rows.clone()).bus(bus.clone());
        let own = cached.clone();
        let mut listen: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move { own.listen().await });
        assert!(poll(&mut listen).is_pending());
        let other = {
            let rows = rows.clone();
            thread::spawn(move || {
                block_on(rows.save(&1, &20)).unwrap();
                block_on(bus.publish(&Message::new(Invalidation::Key(1), 1, 99))).unwrap();
                assert!(poll(&mut listen).is_pending());
                listen
            })
        };
        cached.save_blocking(&1, &10).unwrap();
        let listen = other.join().unwrap();
        agree(&cached, &rows);
        drop(listen);
    });
}

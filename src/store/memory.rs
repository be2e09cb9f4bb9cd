//! A store in memory: [`MemoryStore`].

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::hash::Hash;

use super::Store;
use crate::sync::Mutex;

/// A [`Store`] in memory, for tests and for trying out: what it holds ends with the process.
///
/// It never fails; to see what a program does when its store does, put a [`Chaos`](crate::Chaos) around the calls.
///
/// ```
/// use floodwall::store::{MemoryStore, Store};
///
/// let store = MemoryStore::new();
/// store.save_blocking(&"a", &1)?;
/// assert_eq!((store.load_blocking(&"a")?, store.len()), (Some(1), 1));
/// # Ok::<(), std::convert::Infallible>(())
/// ```
pub struct MemoryStore<K, V> {
    map: Mutex<HashMap<K, V>>,
}

impl<K, V> MemoryStore<K, V> {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self { map: Mutex::new(HashMap::new()) }
    }

    /// Returns how many keys have a value.
    pub fn len(&self) -> usize {
        self.map.lock().len()
    }

    /// Returns whether no key has a value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K, V> Default for MemoryStore<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> fmt::Debug for MemoryStore<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("len", &self.len()).finish()
    }
}

impl<K, V> Store<K, V> for MemoryStore<K, V>
where
    K: Hash + Eq + Clone + Send + Sync,
    V: Clone + Send + Sync,
{
    type Error = Infallible;

    async fn load(&self, key: &K) -> Result<Option<V>, Infallible> {
        Ok(self.map.lock().get(key).cloned())
    }

    async fn save(&self, key: &K, value: &V) -> Result<(), Infallible> {
        let (key, value) = (key.clone(), value.clone());
        let old = self.map.lock().insert(key, value);
        drop(old);
        Ok(())
    }

    async fn remove(&self, key: &K) -> Result<(), Infallible> {
        let old = self.map.lock().remove(key);
        drop(old);
        Ok(())
    }
}

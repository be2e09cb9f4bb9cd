//! Where writes are kept until the store has them: [`Keep`], and a journal as one.

use std::pin::Pin;

use super::WriteBehindError;
use super::many::Taken;

type Kept<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, WriteBehindError<E>>> + Send + 'a>>;

/// Keeps writes over a crash, and numbers them.
pub(super) trait Keep<K, V, E>: Send + Sync {
    /// Is done when the write is as safe as it was asked to be; gives its number.
    fn append<'a>(&'a self, key: &'a K, value: Option<&'a V>) -> Kept<'a, u64, E>;

    /// As [`append`](Keep::append), for several; those that cannot be kept do not hold up the others.
    fn append_all<'a>(
        &'a self,
        writes: &'a [Taken<K, V>],
    ) -> Kept<'a, Vec<Result<u64, WriteBehindError<E>>>, E>;

    /// Hears what need not be kept any more.
    fn acknowledge(&self, sequences: Vec<u64>);

    /// Ends, when nothing is left to be kept.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

#[cfg(feature = "journal")]
pub(super) use journaled::{Journaled, decoded};

#[cfg(feature = "journal")]
mod journaled {
    use std::sync::Arc;

    use super::{Keep, Kept, Pin, Taken, WriteBehindError};
    use crate::store::journal::{Journal, JournalError, Kind, Recovery, Write};
    use crate::store::{Codec, CodecError};

    pub(in super::super) struct Journaled<C> {
        pub(in super::super) journal: Arc<Journal>,
        pub(in super::super) codec: C,
    }

    impl<C> Journaled<C> {
        fn encoded<K, V>(&self, key: &K, value: Option<&V>) -> Result<Bytes, CodecError>
        where
            C: Codec<K> + Codec<V>,
        {
            let kind = if value.is_some() { Kind::Put } else { Kind::Remove };
            let (mut key_bytes, mut value_bytes) = (Vec::new(), Vec::new());
            self.codec.encode(key, &mut key_bytes)?;
            if let Some(value) = value {
                self.codec.encode(value, &mut value_bytes)?;
            }
            Ok(Bytes { kind, key: key_bytes, value: value_bytes })
        }
    }

    struct Bytes {
        kind: Kind,
        key: Vec<u8>,
        value: Vec<u8>,
    }

    impl<K, V, E, C> Keep<K, V, E> for Journaled<C>
    where
        K: Send + Sync,
        V: Send + Sync,
        E: Send,
        C: Codec<K> + Codec<V>,
    {
        fn append<'a>(&'a self, key: &'a K, value: Option<&'a V>) -> Kept<'a, u64, E> {
            Box::pin(async move {
                let Bytes { kind, key, value } = self.encoded(key, value).map_err(WriteBehindError::Codec)?;
                self.journal.append(kind, &key, &value).await.map_err(WriteBehindError::Journal)
            })
        }

        fn append_all<'a>(
            &'a self,
            writes: &'a [Taken<K, V>],
        ) -> Kept<'a, Vec<Result<u64, WriteBehindError<E>>>, E> {
            Box::pin(async move {
                let encoded: Vec<Result<Bytes, CodecError>> =
                    writes.iter().map(|write| self.encoded(&*write.key, write.value.as_deref())).collect();
                let limit = self.journal.record_limit();
                let fits = |write: &Bytes| write.key.len() + write.value.len() <= limit;
                let kept: Vec<Write<'_>> = encoded
                    .iter()
                    .flatten()
                    .filter(|write| fits(write))
                    .map(|Bytes { kind, key, value }| Write { kind: *kind, key, value })
                    .collect();
                let mut sequences =
                    self.journal.append_all(&kept).await.map_err(WriteBehindError::Journal)?;
                let result = |bytes: Result<Bytes, CodecError>| {
                    let write = bytes.map_err(WriteBehindError::Codec)?;
                    let bytes = write.key.len() + write.value.len();
                    let number = if fits(&write) { sequences.next() } else { None };
                    number.ok_or(WriteBehindError::Journal(JournalError::TooLarge { bytes, limit }))
                };
                Ok(encoded.into_iter().map(result).collect())
            })
        }

        fn acknowledge(&self, sequences: Vec<u64>) {
            self.journal.acknowledge(sequences);
        }

        fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(async move {
                // What is found again after a failure here is written again, and that is all.
                drop(self.journal.close().await);
            })
        }
    }

    /// What a journal has kept, as writes.
    type Writes<K, V> = Vec<(K, Option<V>, u64)>;

    pub(in super::super) fn decoded<K, V, C: Codec<K> + Codec<V>>(
        recovery: &Recovery,
        codec: &C,
    ) -> Result<Writes<K, V>, CodecError> {
        let decoded = recovery.records.iter().map(|record| {
            let value = match record.kind {
                Kind::Put => Some(codec.decode(&record.value)?),
                Kind::Remove => None,
            };
            Ok((codec.decode(&record.key)?, value, record.sequence))
        });
        decoded.collect()
    }
}

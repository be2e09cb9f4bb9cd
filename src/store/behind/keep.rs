//! Where writes are kept until the store has them: [`Keep`], and a journal as one.

use std::pin::Pin;

use super::WriteBehindError;

type Kept<'a, E> = Pin<Box<dyn Future<Output = Result<u64, WriteBehindError<E>>> + Send + 'a>>;

/// Keeps writes over a crash, and numbers them.
pub(super) trait Keep<K, V, E>: Send + Sync {
    /// Is done when the write is as safe as it was asked to be; gives its number.
    fn append<'a>(&'a self, key: &'a K, value: Option<&'a V>) -> Kept<'a, E>;

    /// Hears what need not be kept any more.
    fn acknowledge(&self, sequences: Vec<u64>);

    /// Ends, when nothing is left to be kept.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

#[cfg(feature = "journal")]
pub(super) use journaled::{Journaled, decoded};

#[cfg(feature = "journal")]
mod journaled {
    use super::{Keep, Kept, Pin, WriteBehindError};
    use crate::store::journal::{Journal, Kind, Recovery};
    use crate::store::{Codec, CodecError};

    pub(in super::super) struct Journaled<C> {
        pub(in super::super) journal: Journal,
        pub(in super::super) codec: C,
    }

    impl<C> Journaled<C> {
        fn encoded<K, V>(&self, key: &K, value: Option<&V>) -> Result<(Vec<u8>, Vec<u8>), CodecError>
        where
            C: Codec<K> + Codec<V>,
        {
            let (mut key_bytes, mut value_bytes) = (Vec::new(), Vec::new());
            self.codec.encode(key, &mut key_bytes)?;
            if let Some(value) = value {
                self.codec.encode(value, &mut value_bytes)?;
            }
            Ok((key_bytes, value_bytes))
        }
    }

    impl<K, V, E, C> Keep<K, V, E> for Journaled<C>
    where
        K: Send + Sync,
        V: Send + Sync,
        E: Send,
        C: Codec<K> + Codec<V>,
    {
        fn append<'a>(&'a self, key: &'a K, value: Option<&'a V>) -> Kept<'a, E> {
            Box::pin(async move {
                let (key, bytes) = self.encoded(key, value).map_err(WriteBehindError::Codec)?;
                let kind = if value.is_some() { Kind::Put } else { Kind::Remove };
                self.journal.append(kind, &key, &bytes).await.map_err(WriteBehindError::Journal)
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

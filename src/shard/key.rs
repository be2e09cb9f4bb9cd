//! What can be a key: [`Key`].

/// A key: anything that has the same bytes everywhere.
///
/// Strings and byte strings are their bytes. Integers are big-endian, with the sign flipped, so that the order of the
/// bytes is that of the numbers; of different widths they are different keys.
///
/// # Examples
///
/// ```
/// use floodwall::shard::Key;
///
/// assert_eq!(Key::bytes("user:7"), b"user:7");
/// assert_eq!(258u32.bytes(), [0, 0, 1, 2]);
/// assert!((-1i64).bytes() < 0i64.bytes());
///
/// struct UserId(u64);
/// impl Key for UserId {
///     type Bytes<'a> = [u8; 8];
///     fn bytes(&self) -> [u8; 8] {
///         self.0.bytes()
///     }
/// }
/// assert_eq!(UserId(7).bytes(), 7u64.bytes());
/// ```
pub trait Key {
    /// The bytes, borrowed or by value.
    type Bytes<'a>: AsRef<[u8]>
    where
        Self: 'a;

    /// Returns the bytes.
    fn bytes(&self) -> Self::Bytes<'_>;
}

macro_rules! borrowed {
    ($($type:ty, $method:ident;)*) => {$(
        impl Key for $type {
            type Bytes<'a> = &'a [u8];

            #[inline]
            fn bytes(&self) -> &[u8] {
                self.$method()
            }
        }
    )*};
}

borrowed! {
    str, as_bytes;
    String, as_bytes;
    [u8], as_ref;
    Vec<u8>, as_slice;
}

impl<const N: usize> Key for [u8; N] {
    type Bytes<'a> = &'a [u8];

    #[inline]
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl<K: Key + ?Sized> Key for &K {
    type Bytes<'a>
        = K::Bytes<'a>
    where
        Self: 'a;

    #[inline]
    fn bytes(&self) -> K::Bytes<'_> {
        (**self).bytes()
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Key for $type {
            type Bytes<'a> = [u8; size_of::<$type>()];

            #[inline]
            fn bytes(&self) -> Self::Bytes<'_> {
                // The least number becomes all zeroes: nothing for unsigned ones, the flipped sign for the others.
                (*self ^ <$type>::MIN).to_be_bytes()
            }
        }
    )*};
}

integers!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128);

//! How keys and values become bytes: [`Codec`], [`Plain`], and `Json`.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Turns a `T` into bytes and back, for stores and journals that keep bytes.
///
/// A format of your own is two methods; this one is for a type of a protobuf, a `Vec` of fixed records, or whatever
/// you have:
///
/// ```
/// use floodwall::store::{Codec, CodecError, Plain};
///
/// struct Point(u32, u32);
/// struct Points;
/// impl Codec<Point> for Points {
///     fn encode(&self, point: &Point, into: &mut Vec<u8>) -> Result<(), CodecError> {
///         Plain.encode(&point.0, into)?;
///         Plain.encode(&point.1, into)
///     }
///     fn decode(&self, bytes: &[u8]) -> Result<Point, CodecError> {
///         let (x, y) = bytes.split_at_checked(4).ok_or("a point has 8 bytes")?;
///         Ok(Point(Plain.decode(x)?, Plain.decode(y)?))
///     }
/// }
/// let mut bytes = Vec::new();
/// Points.encode(&Point(1, 2), &mut bytes)?;
/// assert_eq!(Points.decode(&bytes)?.1, 2);
/// assert!(Points.decode(b"?").is_err());
/// # Ok::<(), CodecError>(())
/// ```
pub trait Codec<T>: Send + Sync {
    /// Appends the bytes of `value`. Equal keys must give equal bytes.
    ///
    /// # Errors
    ///
    /// When the format cannot say it.
    fn encode(&self, value: &T, into: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads what [`encode`](Codec::encode) wrote.
    ///
    /// # Errors
    ///
    /// When the bytes are no `T`.
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError>;
}

/// Bytes that are no value, or a value that has no bytes.
pub struct CodecError(Box<dyn Error + Send + Sync>);

impl CodecError {
    /// Creates an error from another one, or from a message.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

impl From<&'static str> for CodecError {
    fn from(message: &'static str) -> Self {
        Self::new(message)
    }
}

impl fmt::Debug for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for CodecError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// Strings and bytes as they are, integers with their highest byte first, so that bytes sort as the numbers do.
///
/// For signed integers the sign bit is turned over, for the same reason.
///
/// ```
/// use floodwall::store::{Codec, Plain};
///
/// let mut bytes = Vec::new();
/// Plain.encode(&258_u32, &mut bytes)?;
/// assert_eq!(bytes, [0, 0, 1, 2]);
/// let text: String = Plain.decode("ä".as_bytes())?;
/// assert_eq!(text, "ä");
/// # Ok::<(), floodwall::store::CodecError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Codec<String> for Plain {
    fn encode(&self, value: &String, into: &mut Vec<u8>) -> Result<(), CodecError> {
        into.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<String, CodecError> {
        std::str::from_utf8(bytes).map(str::to_owned).map_err(CodecError::new)
    }
}

impl Codec<Vec<u8>> for Plain {
    fn encode(&self, value: &Vec<u8>, into: &mut Vec<u8>) -> Result<(), CodecError> {
        into.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
        Ok(bytes.to_vec())
    }
}

impl<T> Codec<Arc<T>> for Plain
where
    Plain: Codec<T>,
{
    fn encode(&self, value: &Arc<T>, into: &mut Vec<u8>) -> Result<(), CodecError> {
        self.encode(&**value, into)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Arc<T>, CodecError> {
        self.decode(bytes).map(Arc::new)
    }
}

macro_rules! integers {
    ($($number:ty, $sign:expr;)+) => {$(
        impl Codec<$number> for Plain {
            fn encode(&self, value: &$number, into: &mut Vec<u8>) -> Result<(), CodecError> {
                into.extend_from_slice(&(value ^ $sign).to_be_bytes());
                Ok(())
            }

            fn decode(&self, bytes: &[u8]) -> Result<$number, CodecError> {
                let bytes = bytes.try_into().map_err(|_| "an integer has another number of bytes")?;
                Ok(<$number>::from_be_bytes(bytes) ^ $sign)
            }
        }
    )+};
}
integers! {
    u8, 0; u16, 0; u32, 0; u64, 0; u128, 0;
    i8, i8::MIN; i16, i16::MIN; i32, i32::MIN; i64, i64::MIN; i128, i128::MIN;
}

/// What serde can say, as JSON.
///
/// ```
/// use floodwall::store::{Codec, Json};
///
/// let mut bytes = Vec::new();
/// Json.encode(&("ann".to_string(), 7), &mut bytes)?;
/// assert_eq!(bytes, br#"["ann",7]"#);
/// let back: (String, u32) = Json.decode(&bytes)?;
/// assert_eq!(back.1, 7);
/// # Ok::<(), floodwall::store::CodecError>(())
/// ```
#[cfg(feature = "serde")]
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

#[cfg(feature = "serde")]
impl<T: serde::Serialize + serde::de::DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T, into: &mut Vec<u8>) -> Result<(), CodecError> {
        serde_json::to_writer(into, value).map_err(CodecError::new)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes).map_err(CodecError::new)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes<T>(value: T) -> Vec<u8>
    where
        Plain: Codec<T>,
    {
        let mut bytes = Vec::new();
        Plain.encode(&value, &mut bytes).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn numbers_come_back_and_their_bytes_sort_as_they_do(one: i64, other: i64, text: String) {
            prop_assert_eq!(bytes(one).cmp(&bytes(other)), one.cmp(&other));
            prop_assert_eq!(bytes(one as u64).cmp(&bytes(other as u64)), (one as u64).cmp(&(other as u64)));
            let back: i64 = Plain.decode(&bytes(one)).unwrap();
            prop_assert_eq!(back, one);
            let back: Arc<String> = Plain.decode(&bytes(Arc::new(text.clone()))).unwrap();
            prop_assert_eq!(&*back, &text);
        }
    }

    #[test]
    fn bytes_that_are_no_value_are_an_error() {
        let number: Result<u32, _> = Plain.decode(b"abc");
        assert_eq!(number.unwrap_err().to_string(), "an integer has another number of bytes");
        let text: Result<String, _> = Plain.decode(&[0xff]);
        assert!(text.is_err());
    }
}

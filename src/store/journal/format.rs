//! How a journal lies on disk: pure encoding and decoding.
//!
//! A segment is a header and then frames, all numbers little-endian:
//!
//! | header | bytes | | frame | bytes |
//! |---|---|---|---|---|
//! | `floodlog` | 8 | | begin mark | 1 |
//! | version | 4 | | flags | 1 |
//! | segment number | 8 | | kind | 1 |
//! | first sequence number | 8 | | zero | 1 |
//! | length of the segment before | 8 | | length of the key | 4 |
//! | CRC-32C of the above | 4 | | length of the value | 4 |
//! | | | | sequence number | 8 |
//! | | | | CRC-32C of key and value | 4 |
//! | | | | CRC-32C of the above and the segment number | 4 |
//! | | | | key, value, end mark | .. + 1 |
//!
//! A frame's head has a checksum of its own, so that its lengths can be trusted before its body is read. The two marks are
//! not zero, so that a frame of which the disk holds only a part is told from one that was damaged: see `recover.rs`.

/// The length of a segment's header.
pub(super) const HEADER: usize = 40;
/// The length of a frame's head.
pub(super) const HEAD: usize = 28;
/// What a frame takes beside its key and value.
pub(super) const FRAME: usize = HEAD + 1;
/// The longest key and value together that any journal takes.
pub(super) const MAX_BODY: usize = 256 << 20;
/// How many ranges of sequence numbers one acknowledgement holds at most.
pub(super) const MAX_RANGES: usize = 4096;

const MAGIC: &[u8; 8] = b"floodlog";
const VERSION: u32 = 1;
/// More than one bit each, so that a single flipped bit cannot make them zero.
const BEGIN: u8 = 0xF7;
const END: u8 = 0x6E;
/// All of the segment before this frame was on disk before the frame was written.
const SETTLED: u8 = 1;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// A key's new value.
    Put,
    /// A key's value is removed.
    Remove,
    /// Records that are not needed any more: the value holds ranges of sequence numbers.
    Acknowledge,
    /// Nothing, but that what stands before it is settled.
    Mark,
}

impl Tag {
    const fn byte(self) -> u8 {
        match self {
            Tag::Put => 1,
            Tag::Remove => 2,
            Tag::Acknowledge => 3,
            Tag::Mark => 4,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Tag::Put),
            2 => Some(Tag::Remove),
            3 => Some(Tag::Acknowledge),
            4 => Some(Tag::Mark),
            _ => None,
        }
    }
}

/// The first bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) segment: u64,
    /// No record of this segment that was not copied from an older one has a lower sequence number.
    pub(super) first: u64,
    /// How much of the segment before this one counts; 0 if there was none.
    pub(super) previous: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.segment.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.first.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.previous.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header, or says what is wrong with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let Some(bytes) = bytes.first_chunk::<HEADER>() else { return Err("the header is cut off") };
        if &bytes[..8] != MAGIC {
            return Err("this is not a journal");
        }
        if u32_at(bytes, 8) != VERSION {
            return Err("the version is not known");
        }
        if crc32c::crc32c(&bytes[..36]) != u32_at(bytes, 36) {
            return Err("the header is damaged");
        }
        Ok(Self { segment: u64_at(bytes, 12), first: u64_at(bytes, 20), previous: u64_at(bytes, 28) })
    }
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) tag: Tag,
    pub(super) settled: bool,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) sequence: u64,
    /// Of key and value.
    pub(super) crc: u32,
}

impl Head {
    pub(super) fn of(tag: Tag, sequence: u64, key: &[u8], value: &[u8]) -> Self {
        let crc = crc32c::crc32c_append(crc32c::crc32c(key), value);
        // Callers have checked that both fit into `MAX_BODY`.
        Self { tag, settled: false, key: key.len() as u32, value: value.len() as u32, sequence, crc }
    }

    /// How long key and value are together.
    pub(super) const fn body(&self) -> usize {
        self.key as usize + self.value as usize
    }

    /// How long the frame is.
    pub(super) const fn frame(&self) -> usize {
        FRAME + self.body()
    }

    pub(super) fn encode(&self, segment: u64) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[0] = BEGIN;
        bytes[1] = if self.settled { SETTLED } else { 0 };
        bytes[2] = self.tag.byte();
        bytes[4..8].copy_from_slice(&self.key.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.value.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.crc.to_le_bytes());
        let crc = seal(&bytes[..24], segment);
        bytes[24..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a head that belongs into `segment`; `None` if it is none, or damaged.
    pub(super) fn decode(bytes: &[u8], segment: u64) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEAD>()?;
        if bytes[0] != BEGIN || bytes[1] & !SETTLED != 0 || bytes[3] != 0 {
            return None;
        }
        let tag = Tag::of(bytes[2])?;
        if seal(&bytes[..24], segment) != u32_at(bytes, 24) {
            return None;
        }
        let head = Self {
            tag,
            settled: bytes[1] == SETTLED,
            key: u32_at(bytes, 4),
            value: u32_at(bytes, 8),
            sequence: u64_at(bytes, 12),
            crc: u32_at(bytes, 20),
        };
        (u64::from(head.key) + u64::from(head.value) <= MAX_BODY as u64).then_some(head)
    }

    /// Says whether `rest` is what was written behind this head: key, value and end mark.
    pub(super) fn matches(&self, rest: &[u8]) -> bool {
        rest.len() == self.body() + 1
            && rest[self.body()] == END
            && crc32c::crc32c(&rest[..self.body()]) == self.crc
    }
}

/// Adds a frame whose head is still to be written, since only who writes it knows into which segment it goes.
pub(super) fn push(head: &Head, key: &[u8], value: &[u8], into: &mut Vec<u8>) {
    into.reserve(head.frame());
    into.extend_from_slice(&[0; HEAD]);
    into.extend_from_slice(key);
    into.extend_from_slice(value);
    into.push(END);
}

/// The checksum of a head: a frame that strays into another segment does not match.
fn seal(head: &[u8], segment: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&segment.to_le_bytes()), head)
}

/// Ranges of sequence numbers, first and last, out of numbers in ascending order.
pub(super) fn ranges(sequences: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    let mut rest = sequences;
    std::iter::from_fn(move || {
        let first = *rest.first()?;
        let mut last = first;
        while let Some((next, after)) = rest.split_first() {
            if *next > last.saturating_add(1) {
                break;
            }
            last = *next;
            rest = after;
        }
        Some((first, last))
    })
}

pub(super) fn push_range((first, last): (u64, u64), into: &mut Vec<u8>) {
    into.extend_from_slice(&first.to_le_bytes());
    into.extend_from_slice(&last.to_le_bytes());
}

/// Reads the ranges of an acknowledgement; `None` if it makes no sense.
pub(super) fn read_ranges(value: &[u8]) -> Option<impl Iterator<Item = (u64, u64)>> {
    let fits = value.len() % 16 == 0 && value.len() <= 16 * MAX_RANGES;
    let ranges = || value.chunks_exact(16).map(|range| (u64_at(range, 0), u64_at(range, 8)));
    (fits && ranges().all(|(first, last)| first <= last)).then(ranges)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the caller has checked the length"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the caller has checked the length"))
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tag() -> impl Strategy<Value = Tag> {
        prop::sample::select(vec![Tag::Put, Tag::Remove, Tag::Acknowledge, Tag::Mark])
    }

    fn frame(head: &Head, key: &[u8], value: &[u8], segment: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        push(head, key, value, &mut bytes);
        bytes[..HEAD].copy_from_slice(&head.encode(segment));
        bytes
    }

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c::crc32c(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn a_segment_is_laid_out_as_it_was_when_version_1_was_first_written() {
        let header = Header { segment: 3, first: 0x1_0000_0000, previous: 77 }.encode();
        assert_eq!(&header[..12], b"floodlog\x01\0\0\0");
        assert_eq!(&header[12..36], b"\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x4d\0\0\0\0\0\0\0");
        let bytes = frame(&Head::of(Tag::Put, 7, b"k", b"vw"), b"k", b"vw", 3);
        assert_eq!(&bytes[..20], b"\xf7\0\x01\0\x01\0\0\0\x02\0\0\0\x07\0\0\0\0\0\0\0");
        assert_eq!(&bytes[20..24], crc32c::crc32c(b"kvw").to_le_bytes());
        assert_eq!(&bytes[28..], b"kvw\x6e");
    }

    #[test]
    fn a_header_says_what_is_wrong() {
        let mut bytes = Header { segment: 1, first: 1, previous: 0 }.encode();
        assert_eq!(Header::decode(&bytes[..39]), Err("the header is cut off"));
        bytes[8] = 2;
        assert_eq!(Header::decode(&bytes), Err("the version is not known"));
        bytes[0] = 0;
        assert_eq!(Header::decode(&bytes), Err("this is not a journal"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_written_is_read(
            tag in tag(),
            settled: bool,
            sequence: u64,
            segment: u64,
            key in prop::collection::vec(any::<u8>(), 0..40),
            value in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let head = Head { settled, ..Head::of(tag, sequence, &key, &value) };
            let bytes = frame(&head, &key, &value, segment);
            prop_assert_eq!(bytes.len(), head.frame());
            prop_assert_eq!(Head::decode(&bytes, segment), Some(head));
            prop_assert!(head.matches(&bytes[HEAD..]));
            prop_assert_eq!(Head::decode(&bytes, segment.wrapping_add(1)), None);
            let header = Header { segment, first: sequence, previous: sequence ^ segment };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn a_flipped_bit_is_seen(
            key in prop::collection::vec(any::<u8>(), 0..40),
            value in prop::collection::vec(any::<u8>(), 0..80),
            at: prop::sample::Index,
            bit in 0..8u8,
        ) {
            let head = Head::of(Tag::Put, 9, &key, &value);
            let mut bytes = frame(&head, &key, &value, 4);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let read = Head::decode(&bytes, 4);
            prop_assert!(read.is_none() || !head.matches(&bytes[HEAD..]));
            prop_assert_eq!(read.is_none(), at < HEAD);
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), segment: u64) {
            let _ = Header::decode(&bytes);
            if let Some(head) = Head::decode(&bytes, segment) {
                let _ = head.matches(&bytes[HEAD..]);
            }
            if let Some(ranges) = read_ranges(&bytes) {
                for (first, last) in ranges {
                    prop_assert!(first <= last);
                }
            }
        }

        #[test]
        fn ranges_hold_the_same_numbers(numbers in prop::collection::btree_set(prop_oneof![0..60u64, u64::MAX - 9..=u64::MAX], 0..60)) {
            let sorted: Vec<u64> = numbers.iter().copied().collect();
            let mut bytes = Vec::new();
            ranges(&sorted).for_each(|range| push_range(range, &mut bytes));
            let read: Vec<_> = read_ranges(&bytes).unwrap().collect();
            let again: Vec<u64> = read.iter().flat_map(|(first, last)| *first..=*last).collect();
            prop_assert_eq!(again, sorted);
            prop_assert!(read.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }
    }
}

//! Log records: taking the payload of a LOG frame, or a piece of the core's ring, apart, and what each
//! kind of record says. Format strings are not known here. The layout is `portcullis_ipc::log`.

use portcullis_ipc::log::{RecordHead, payload};
use std::fmt;
use zerocopy::FromBytes;

/// Bytes of a record's head.
pub const HEAD: usize = size_of::<RecordHead>();

/// SHA-1 build id of an ELF.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BuildId(pub [u8; 20]);

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Head, as the core wrote it.
    pub head: RecordHead,
    /// Payload, without the padding.
    pub payload: Vec<u8>,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// One raw defmt frame.
    Defmt(&'a [u8]),
    /// An instance started.
    Start {
        /// Build id of its ELF.
        build_id: BuildId,
        /// Name of the partition.
        name: String,
    },
    /// TSC ticks per second.
    Clock(u64),
    /// Records of the origin that were dropped.
    Dropped(u32),
    /// A kind that this tool does not know, or a payload too short for its kind.
    Unknown(u8),
}

impl Record {
    /// What the record says.
    pub fn body(&self) -> Body<'_> {
        let bytes = self.payload.as_slice();
        match self.head.kind {
            payload::DEFMT => Some(Body::Defmt(bytes)),
            payload::START => bytes.split_first_chunk::<20>().map(|(id, name)| Body::Start {
                build_id: BuildId(*id),
                name: String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(),
            }),
            payload::CLOCK => bytes.first_chunk::<8>().map(|hz| Body::Clock(u64::from_le_bytes(*hz))),
            payload::DROPPED => bytes.first_chunk::<4>().map(|n| Body::Dropped(u32::from_le_bytes(*n))),
            _ => None,
        }
        .unwrap_or(Body::Unknown(self.head.kind))
    }
}

/// Reads one record at the start of `bytes`: the record, and the bytes up to the next one. `None` when
/// `bytes` ends within it. The padding of the last record may be missing.
pub fn first(bytes: &[u8]) -> Option<(Record, usize)> {
    let (head, rest) = RecordHead::read_from_prefix(bytes).ok()?;
    let payload = rest.get(..usize::from(head.length))?.to_vec();
    let next = HEAD + payload.len().next_multiple_of(8);
    Some((Record { head, payload }, next.min(bytes.len())))
}

/// Takes a piece of stream apart: the records, and how many bytes at its end belong to none.
pub fn split(mut bytes: &[u8]) -> (Vec<Record>, usize) {
    let mut records = Vec::new();
    while let Some((record, next)) = first(bytes) {
        records.push(record);
        bytes = &bytes[next..];
    }
    (records, bytes.len())
}

#[cfg(test)]
pub mod fixture {
    //! Records for the tests of this directory.
    use super::*;
    use zerocopy::IntoBytes;

    /// A record of `partition`, generation 1, with 1,000 ticks a sequence number.
    pub fn record(partition: u8, kind: u8, sequence: u64, payload: &[u8]) -> Record {
        let head = RecordHead {
            length: payload.len() as u16,
            partition,
            kind,
            generation: 1,
            sequence,
            tsc: sequence.saturating_mul(1000),
        };
        Record { head, payload: payload.to_vec() }
    }

    /// The record as it stands in the ring.
    pub fn bytes(record: &Record) -> Vec<u8> {
        let mut out = record.head.as_bytes().to_vec();
        out.extend_from_slice(&record.payload);
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::{bytes, record};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_are_read_back_in_order(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..8),
        ) {
            let records: Vec<_> =
                payloads.iter().enumerate().map(|(n, p)| record(3, 0, n as u64, p)).collect();
            let stream: Vec<u8> = records.iter().flat_map(bytes).collect();
            prop_assert_eq!(split(&stream), (records, 0));
        }

        #[test]
        fn garbage_never_panics(garbage in proptest::collection::vec(any::<u8>(), 0..600)) {
            for record in split(&garbage).0 {
                record.body();
            }
        }
    }

    #[test]
    fn each_kind_says_what_it_carries() {
        let mut start = vec![7; 20];
        start.extend_from_slice(b"vmexit\0\0");
        let of = |kind, payload: &[u8]| record(0, kind, 0, payload);
        assert_eq!(
            of(payload::START, &start).body(),
            Body::Start { build_id: BuildId([7; 20]), name: "vmexit".into() }
        );
        assert_eq!(of(payload::CLOCK, &5u64.to_le_bytes()).body(), Body::Clock(5));
        assert_eq!(of(payload::DROPPED, &9u32.to_le_bytes()).body(), Body::Dropped(9));
        assert_eq!(of(payload::CLOCK, &[1]).body(), Body::Unknown(payload::CLOCK));
        assert_eq!(of(200, &[]).body(), Body::Unknown(200));
    }

    #[test]
    fn the_last_records_padding_may_be_missing_but_not_its_payload() {
        let whole = bytes(&record(1, 0, 0, &[1, 2, 3]));
        assert_eq!(split(&whole[..HEAD + 3]).0.len(), 1);
        assert_eq!(split(&whole[..HEAD + 2]), (vec![], HEAD + 2));
    }
}

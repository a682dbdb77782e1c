//! The core's log ring in a raw memory dump: finding it, reading the records that are still whole, and
//! the epitaph. The layout is `portcullis_ipc::log::RingHead`.

use super::records::{self, Record};
use portcullis_ipc::log::{RING_MAGIC, RingHead};
use zerocopy::FromBytes;

/// What a ring held when the memory was captured.
#[derive(Debug, PartialEq, Eq)]
pub struct Ring {
    /// Records that are still whole, oldest first.
    pub records: Vec<Record>,
    /// Why the core stopped; `None` while it lived.
    pub epitaph: Option<String>,
    /// Offset of the ring's head in the dump.
    pub offset: usize,
}

/// Largest ring that is believed, bytes; a head that names more is not a ring.
const MAX_CAPACITY: u64 = 1 << 26;

/// Finds the ring with the most bytes written: a dump may hold the magic in code and in copies, too.
pub fn find(dump: &[u8]) -> Option<Ring> {
    memchr::memmem::find_iter(dump, &RING_MAGIC)
        .filter_map(|at| Some((at, plausible(&dump[at..])?)))
        .max_by_key(|(_, (head, _))| head.written)
        .map(|(offset, (head, ring))| Ring { records: read(&head, ring), epitaph: epitaph(&head), offset })
}

fn plausible(bytes: &[u8]) -> Option<(RingHead, &[u8])> {
    let (head, rest) = RingHead::read_from_prefix(bytes).ok()?;
    let sound = head.capacity.is_power_of_two()
        && head.capacity <= MAX_CAPACITY
        && head.oldest <= head.taken
        && head.taken <= head.written
        && head.written - head.oldest <= head.capacity
        && head.epitaph_length <= head.epitaph.len() as u64;
    let ring = rest.get(..usize::try_from(head.capacity).ok()?)?;
    sound.then_some((head, ring))
}

fn epitaph(head: &RingHead) -> Option<String> {
    let text = head.epitaph.get(..usize::try_from(head.epitaph_length).ok()?)?;
    (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
}

/// The records that are still whole, from the oldest, which the head names, to the one that may be half written.
fn read(head: &RingHead, ring: &[u8]) -> Vec<Record> {
    let at = |position: u64| ring.get((position % head.capacity) as usize).copied();
    let bytes: Vec<u8> = (head.oldest..head.written).filter_map(at).collect();
    records::split(&bytes).0
}

#[cfg(test)]
pub mod fixture {
    //! A ring in memory, as the core keeps it.
    use super::*;
    use crate::logs::records::fixture::bytes;
    use zerocopy::IntoBytes;

    /// `capacity` bytes of ring after all `records` were written to it and all were taken.
    pub fn ring(capacity: usize, records: &[Record], epitaph: &str) -> Vec<u8> {
        let mut ring = vec![0; capacity];
        let (mut written, mut oldest) = (0, 0);
        let mut sizes = records.iter().map(|record| bytes(record).len());
        for record in records {
            let record = bytes(record);
            while written + record.len() - oldest > capacity {
                oldest += sizes.next().unwrap();
            }
            for byte in record {
                ring[written % capacity] = byte;
                written += 1;
            }
        }
        let mut text = [0; 192];
        text[..epitaph.len()].copy_from_slice(epitaph.as_bytes());
        let head = RingHead {
            magic: RING_MAGIC,
            capacity: capacity as u64,
            written: written as u64,
            taken: written as u64,
            oldest: oldest as u64,
            epitaph_length: epitaph.len() as u64,
            epitaph: text,
        };
        [head.as_bytes(), &ring].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::fixture::record;
    use super::fixture::ring;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ring_is_found_anywhere_with_its_epitaph() {
        let records = [record(0xff, 0, 1, &[1, 0]), record(2, 0, 2, &[2, 0, 9])];
        let mut dump = vec![0xaa; 4096];
        dump.extend_from_slice(&RING_MAGIC);
        dump.extend_from_slice(&[0xaa; 1000]);
        dump.extend_from_slice(&ring(256, &records, "panic: out of pool"));
        let found = find(&dump).unwrap();
        assert_eq!(found.records, records);
        assert_eq!(found.epitaph.as_deref(), Some("panic: out of pool"));
        assert_eq!(found.offset, 4096 + 16 + 1000);
    }

    #[test]
    fn memory_without_a_ring_has_none() {
        assert_eq!(find(&[0; 8192]), None);
        assert_eq!(find(&RING_MAGIC), None);
    }

    /// Payloads that look like heads of records more often than chance would have it: short lengths, known kinds, zeros.
    fn payload() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => Just(0u8), 2 => 0u8..4, 1 => 1u8..40, 1 => any::<u8>()];
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..40),
            proptest::collection::vec(byte, 1..40),
            // A whole head of a record, with a payload of its own.
            (1u16..16, 0u8..4, 0u64..80).prop_map(|(length, kind, sequence)| {
                let inner = record(1, kind, sequence, &vec![7; length.into()]);
                crate::logs::records::fixture::bytes(&inner)
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn after_wrapping_every_record_that_is_whole_is_read_and_nothing_else(
            payloads in proptest::collection::vec(payload(), 1..60),
        ) {
            let records: Vec<_> =
                payloads.iter().enumerate().map(|(n, p)| record(1, 0, n as u64 + 1, p)).collect();
            let found = find(&ring(512, &records, "")).unwrap();
            let mut room = 512;
            let whole = records.iter().rev().take_while(|one| {
                let size = crate::logs::records::fixture::bytes(one).len();
                let fits = size <= room;
                room = if fits { room - size } else { 0 };
                fits
            });
            let whole = whole.count();
            prop_assert_eq!(&found.records[..], &records[records.len() - whole..]);
        }
    }

    #[test]
    fn a_record_that_was_being_written_is_left_out() {
        let records = [record(1, 0, 1, &[1, 0]), record(1, 0, 2, &[2; 40])];
        for missing in 1..64 {
            let mut dump = ring(256, &records, "");
            let at = std::mem::offset_of!(RingHead, written);
            let written = u64::from_le_bytes(dump[at..at + 8].try_into().unwrap()) - missing;
            dump[at..at + 8].copy_from_slice(&written.to_le_bytes());
            dump[at + 8..at + 16].copy_from_slice(&0u64.to_le_bytes());
            assert_eq!(find(&dump).unwrap().records, records[..1], "{missing}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(garbage in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut dump = RING_MAGIC.to_vec();
            dump.extend_from_slice(&garbage);
            find(&dump);
        }
    }
}

//! The core's log ring in a raw memory dump: finding it, reading the records that are still whole, and
//! the epitaph. The layout is `portcullis_ipc::log::RingHead`.

use super::records::{self, HEAD, Record};
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
        && head.taken <= head.written
        && head.epitaph_length <= head.epitaph.len() as u64;
    let ring = rest.get(..usize::try_from(head.capacity).ok()?)?;
    sound.then_some((head, ring))
}

fn epitaph(head: &RingHead) -> Option<String> {
    let text = head.epitaph.get(..usize::try_from(head.epitaph_length).ok()?)?;
    (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
}

/// The records that end exactly at the write position: those not taken yet are sure to be whole; before
/// them the oldest start from which an unbroken chain of rising sequences leads there.
fn read(head: &RingHead, ring: &[u8]) -> Vec<Record> {
    let kept = head.written.min(head.capacity);
    let bytes: Vec<u8> =
        (head.written - kept..head.written).map(|position| ring[(position % head.capacity) as usize]).collect();
    (0..bytes.len()).step_by(8).find_map(|start| chain(&bytes[start..])).unwrap_or_default()
}

fn chain(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut found: Vec<Record> = Vec::new();
    while !bytes.is_empty() {
        let (record, next) = records::first(bytes)?;
        let follows = found
            .last()
            .is_none_or(|last| last.head.sequence < record.head.sequence && last.head.tsc <= record.head.tsc);
        // A zeroed or torn piece reads as an endless row of empty records.
        if !follows || record.payload.is_empty() || next < HEAD || record.head.kind > 3 {
            return None;
        }
        found.push(record);
        bytes = &bytes[next..];
    }
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
pub mod fixture {
    //! A ring in memory, as the core keeps it.
    use super::*;
    use crate::logs::records::fixture::bytes;
    use zerocopy::IntoBytes;

    /// `capacity` bytes of ring after all `records` were written to it and none was taken.
    pub fn ring(capacity: usize, records: &[Record], epitaph: &str) -> Vec<u8> {
        let mut ring = vec![0; capacity];
        let mut written = 0;
        for byte in records.iter().flat_map(bytes) {
            ring[written % capacity] = byte;
            written += 1;
        }
        let mut text = [0; 192];
        text[..epitaph.len()].copy_from_slice(epitaph.as_bytes());
        let head = RingHead {
            magic: RING_MAGIC,
            capacity: capacity as u64,
            written: written as u64,
            taken: 0,
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

    proptest! {
        #[test]
        fn after_wrapping_the_newest_records_are_read_unbroken(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 1..60),
        ) {
            let records: Vec<_> =
                payloads.iter().enumerate().map(|(n, p)| record(1, 0, n as u64 + 1, p)).collect();
            let found = find(&ring(512, &records, "")).unwrap();
            prop_assert!(!found.records.is_empty());
            prop_assert!(records.ends_with(&found.records));
            prop_assert!(found.records.len() >= records.len().min(512 / 64));
        }

        #[test]
        fn garbage_never_panics(garbage in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut dump = RING_MAGIC.to_vec();
            dump.extend_from_slice(&garbage);
            find(&dump);
        }
    }
}

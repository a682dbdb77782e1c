//! The log: one ring for all, records with the origin added by the core; and defmt's logger of the core
//! itself. `link` drains it (`log_read`); what it did not drain the epitaph writes out.
//!
//! A full ring drops the newest record and counts it; one partition may hold a quarter of the ring, so that a chatty one
//! does not silence the others.

use crate::arch::cpu;
use crate::object::{Partition, Table};
use arrayvec::ArrayVec;
use portcullis_ipc::log::{CORE, RING_MAGIC, RecordHead, RingHead, payload};
use spin::Mutex;
use zerocopy::IntoBytes;

/// Bytes of the ring.
pub const CAPACITY: usize = 32768;
/// Bytes of the ring that one origin may hold.
const SHARE: usize = CAPACITY / 4;
const HEAD: usize = size_of::<RecordHead>();

/// Who makes records: a partition, or the core.
struct Origin {
    /// Bytes of the ring that it holds.
    held: usize,
    /// Records that it lost since its last one.
    dropped: u32,
}

/// The ring. `repr(C)`, so that a reader of dead memory finds it by its magic.
#[repr(C)]
pub struct Ring {
    /// Head, with the epitaph.
    pub head: RingHead,
    bytes: [u8; CAPACITY],
    sequence: u64,
    origins: Table<Origin, 64>,
    /// A record of the core while it is written.
    frame: ArrayVec<u8, 128>,
}

/// The one ring.
pub static RING: Mutex<Ring> = Mutex::new(Ring::EMPTY);

impl Ring {
    const EMPTY: Self = {
        // SAFETY: all zeros is a ring without its magic: numbers, bytes, and an empty vector of bytes.
        let mut ring: Self = unsafe { core::mem::zeroed() };
        (ring.head.magic, ring.head.capacity) = (RING_MAGIC, CAPACITY as u64);
        ring
    };

    /// Bytes that were not taken.
    pub fn used(&self) -> usize {
        self.head.written.wrapping_sub(self.head.taken) as usize
    }

    /// What was not taken, from `offset` on.
    pub fn rest(&self, offset: usize) -> impl Iterator<Item = u8> {
        let start = (self.head.taken as usize).wrapping_add(offset);
        let byte = |place: usize| self.bytes.get(place & (CAPACITY - 1)).copied().unwrap_or(0);
        (start..self.head.written as usize).map(byte)
    }

    fn peek(&self, offset: usize, into: &mut [u8]) {
        into.iter_mut().zip(self.rest(offset)).for_each(|(to, from)| *to = from);
    }

    fn put(&mut self, byte: u8) {
        if let Some(to) = self.bytes.get_mut(self.head.written as usize & (CAPACITY - 1)) {
            *to = byte;
        }
        self.head.written = self.head.written.wrapping_add(1);
    }

    fn record(&mut self, partition: u8, generation: u32, kind: u8, parts: [&[u8]; 2]) -> bool {
        let [first, second] = parts;
        let length = first.len().wrapping_add(second.len());
        let size = HEAD.wrapping_add(length.next_multiple_of(8));
        let held = self.origins[partition].held.wrapping_add(size);
        if self.used().wrapping_add(size) > CAPACITY || held > SHARE {
            return false;
        }
        self.origins[partition].held = held;
        // What is about to be overwritten is not a record any more.
        while self.head.written.wrapping_add(size as u64).wrapping_sub(self.head.oldest) > CAPACITY as u64 {
            let (_, gone) = self.head_at(self.head.oldest.wrapping_sub(self.head.taken) as usize);
            self.head.oldest = self.head.oldest.wrapping_add(gone as u64);
        }
        let head =
            RecordHead { length: length as u16, partition, kind, generation, sequence: self.sequence, tsc: cpu::tsc() };
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = head.as_bytes().iter().chain(first).chain(second).chain(&[0; 8]);
        bytes.take(size).for_each(|byte| self.put(*byte));
        true
    }

    /// Append a record of `partition`; `false` if it was dropped. The next that is not tells how many were.
    pub fn append(&mut self, partition: u8, generation: u32, kind: u8, parts: [&[u8]; 2]) -> bool {
        let lost = self.origins[partition].dropped;
        let told = lost == 0 || self.record(partition, generation, payload::DROPPED, [&lost.to_le_bytes(), &[]]);
        let done = told && self.record(partition, generation, kind, parts);
        let before = if told { 0 } else { lost };
        self.origins[partition].dropped = before.saturating_add((!done).into());
        done
    }

    /// Head and size of the record at `offset` after what was taken.
    fn at(&self, offset: usize) -> Option<(RecordHead, usize)> {
        (offset < self.used()).then(|| self.head_at(offset))
    }

    /// The same where a record is sure to be; an offset below zero is before what was taken.
    fn head_at(&self, offset: usize) -> (RecordHead, usize) {
        let mut head = RecordHead::default();
        self.peek(offset, head.as_mut_bytes());
        (head, HEAD.wrapping_add((head.length as usize).next_multiple_of(8)))
    }

    /// Forget the records whose sequence is below `below`, and copy whole ones after them into `into`; returns
    /// their bytes and the sequence below which they, too, can be forgotten.
    pub fn take(&mut self, mut below: u64, into: &mut [u8]) -> (usize, u64) {
        while let Some((head, size)) = self.at(0)
            && head.sequence < below
        {
            self.head.taken = self.head.taken.wrapping_add(size as u64);
            let held = &mut self.origins[head.partition].held;
            *held = held.wrapping_sub(size);
        }
        let mut length = 0usize;
        while let Some((head, size)) = self.at(length)
            && let Some(room) = into.get_mut(length..length.wrapping_add(size))
        {
            self.peek(length, room);
            length = length.wrapping_add(size);
            below = head.sequence.wrapping_add(1);
        }
        (length, below)
    }
}

/// The first records: the clock, and the core as an origin.
pub fn begin(tsc_hz: u64, build_id: &[u8; 20]) {
    let mut ring = RING.lock();
    ring.append(CORE, 0, payload::CLOCK, [&tsc_hz.to_le_bytes(), &[]]);
    ring.append(CORE, 0, payload::START, [build_id, b"core"]);
}

/// An instance of `index` starts.
pub fn started(index: u8, partition: &Partition) {
    let Partition { generation, plan, record, .. } = partition;
    RING.lock().append(index, *generation, payload::START, [&plan.build_id, &plan.name]);
    let restarts = u32::from_le_bytes(record.restarts);
    if restarts > 0 {
        defmt::info!("partition {=u8} starts again: generation {=u32}, restart {=u32}", index, generation, restarts);
    }
}

/// The instance of `index` ended; its record tells why.
pub fn ended(index: u8, partition: &Partition) {
    let record = &partition.record;
    defmt::warn!(
        "partition {=u8} ended: cause {=u8} phase {=u8} detail {=u8} code {=u32} rip {=u64:x} address {=u64:x}",
        index,
        record.cause,
        record.phase,
        record.detail,
        u32::from_le_bytes(record.code),
        u64::from_le_bytes(record.rip),
        u64::from_le_bytes(record.address)
    );
}

#[defmt::global_logger]
struct Logger;

// SAFETY: INV-LOGGER: the core runs on one CPU, is not preempted and does not log from NMI, #DF or #MC, so acquire and
// release bracket one frame, never nested.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        RING.lock().frame.clear();
    }
    unsafe fn flush() {}
    unsafe fn write(part: &[u8]) {
        let _ = RING.lock().frame.try_extend_from_slice(part);
    }
    unsafe fn release() {
        let mut ring = RING.lock();
        let frame = ring.frame.clone();
        ring.append(CORE, 0, payload::DEFMT, [&frame, &[]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes;

    defmt::timestamp!("{=u8}", 0);

    #[test]
    fn records_come_out_whole_and_in_order_over_the_wrap() {
        let mut ring = Ring::EMPTY;
        for round in 0..2000u64 {
            let text = vec![round as u8; (round % 60) as usize];
            assert!(ring.append(3, 1, payload::DEFMT, [&text, &[]]));
            let mut out = [0u8; 256];
            let (length, next) = ring.take(round, &mut out);
            assert_eq!(next, round + 1);
            assert_eq!(ring.take(round, &mut out), (length, next), "what was not forgotten is given again");
            let (head, rest) = RecordHead::read_from_prefix(&out[..length]).unwrap();
            assert_eq!((head.sequence, head.partition, head.length as usize), (round, 3, text.len()));
            assert_eq!(&rest[..text.len()], &text[..]);
        }
    }

    #[test]
    fn the_oldest_whole_record_is_known_however_often_the_ring_was_overwritten() {
        let mut ring = Ring::EMPTY;
        let mut out = [0u8; 1024];
        for round in 0..4000u64 {
            let text = vec![round as u8; (round * 7 % 400) as usize];
            assert!(ring.append(3, 1, payload::DEFMT, [&text, &[]]));
            ring.take(round, &mut out);
            let (oldest, written) = (ring.head.oldest, ring.head.written);
            assert!(oldest <= ring.head.taken && written - oldest <= CAPACITY as u64);
            // Less than one record of the greatest size is given up beyond what was overwritten.
            assert!(written <= CAPACITY as u64 || written - oldest > CAPACITY as u64 - 512);
            let (mut at, mut last) = (oldest, None);
            while at < written {
                let (head, size) = ring.head_at(at.wrapping_sub(ring.head.taken) as usize);
                assert!(last.is_none_or(|last| head.sequence == last + 1));
                (at, last) = (at + size as u64, Some(head.sequence));
            }
            assert_eq!((at, last), (written, Some(round)));
        }
    }

    #[test]
    fn a_flood_of_one_partition_leaves_room_for_the_others_and_is_counted() {
        let mut ring = Ring::EMPTY;
        let text = [7u8; 100];
        let mut lost = 0u32;
        for _ in 0..1000 {
            lost += u32::from(!ring.append(1, 1, payload::DEFMT, [&text, &[]]));
        }
        assert!(lost > 0);
        assert!(ring.append(2, 1, payload::DEFMT, [&text, &[]]), "the other partition still gets in");
        let mut out = vec![0u8; CAPACITY];
        let taken = ring.sequence;
        ring.take(taken, &mut out);
        assert!(ring.append(1, 1, payload::DEFMT, [&text, &[]]));
        let (length, _) = ring.take(taken, &mut out);
        let (head, rest) = RecordHead::read_from_prefix(&out[..length]).unwrap();
        assert_eq!(head.kind, payload::DROPPED);
        assert_eq!(u32::from_le_bytes(rest[..4].try_into().unwrap()), lost);
    }
}

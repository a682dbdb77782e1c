//! A partition: its address space, its capabilities, its one thread, and what is known of its last end.

use super::capability::Slots;
use crate::arch::entry::Frame;
use crate::mem::page::CorePage;
use crate::state::Index;
use portcullis_ipc::{image, limits, record};
use zerocopy::FromZeros;

/// A contiguous range of a partition's memory. Nothing else is mapped for ring 3 but fixed pages, so an
/// address is checked and translated by these ranges alone, without a page walk.
#[derive(Clone, Copy, Debug, FromZeros)]
pub struct Range {
    /// First address.
    pub address: u64,
    /// First frame.
    pub physical: u64,
    /// Bytes, a multiple of 4096.
    pub bytes: u64,
    /// [`portcullis_ipc::syscall::rights`].
    pub rights: u8,
    /// Where in the sealed image the bytes stand with which every instance finds a writable segment; 0 for what
    /// outlives an instance.
    pub source: u64,
    /// How many; the rest is zero.
    pub file_bytes: u64,
}

/// What a thread is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromZeros)]
#[repr(u8)]
pub enum Work {
    /// Waits for an event.
    None,
    /// Works on its own account: start-up, or a notification.
    Own,
    /// Serves the call of a partition.
    Call(u8),
    /// Serves the exit of a vCPU.
    Exit(u8),
    /// Serves the port call of a vCPU.
    Port(u8),
    /// Serves a call whose caller died.
    Orphan,
}

/// The thread of a partition.
#[derive(FromZeros)]
pub struct Thread {
    /// Its registers while it does not run.
    pub frame: Frame,
    /// Its message page.
    pub message: CorePage,
    /// What it is at.
    pub work: Work,
    /// The partition that it calls; its call is in that one's queue or work.
    pub calling: Index,
    /// Badge of that call.
    pub badge: u32,
    /// Notification word.
    pub pending: u64,
    /// Bits that may end the wait.
    pub mask: u64,
    /// Who waits for it, by [`queue`] bit.
    pub queue: u64,
    /// Sequence of the last call taken.
    pub sequence: u32,
    /// Ticks used for the present work.
    pub used: i64,
    /// Ticks that it may use for one piece of work.
    pub call_limit: i64,
    /// Ticks that it lends to a payer whose budget runs out while it works for that one.
    pub reserve: i64,
    /// [`queue`] bit of the request that was taken last out of the queue.
    pub served: u8,
}

/// Bits of [`Thread::queue`]: callers by partition, then exits, then port calls by vCPU.
pub mod queue {
    /// A call of partition `index`.
    pub const fn call(index: u8) -> u64 {
        1 << (index & 31)
    }
    /// An exit of vCPU `index`.
    pub const fn exit(index: u8) -> u64 {
        1 << 32 << (index & 15)
    }
    /// A port call of vCPU `index`.
    pub const fn port(index: u8) -> u64 {
        1 << 48 << (index & 15)
    }
    /// All calls.
    pub const CALLS: u64 = 0xffff_ffff;
}

static_assertions::const_assert!(limits::PARTITIONS <= 32 && limits::VCPUS <= 16);

/// Where a partition is in its life; the numbers are those of [`record::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromZeros)]
#[repr(u8)]
pub enum Life {
    /// It was given up, or never was.
    Gone,
    /// Its thread runs or waits.
    Alive,
    /// It stopped; its record is kept until a restart.
    Frozen,
}

/// A partition; all zeros is an empty slot of the table.
#[derive(FromZeros)]
pub struct Partition {
    /// Where it is in its life.
    pub life: Life,
    /// Generation of this instance; while frozen, of the next.
    pub generation: u32,
    /// What the image says of it.
    pub plan: image::PartitionRecord,
    /// Root of its page tables.
    pub root: u64,
    /// Its memory; what is not in use has no bytes.
    pub ranges: [Range; limits::RANGES],
    /// Its capabilities.
    pub slots: Slots,
    /// Its thread.
    pub thread: Thread,
    /// Its last end, and its counters.
    pub record: record::Status,
}

impl Partition {
    /// The frame address of `address`, if `bytes` bytes from there lie in one range with `rights`.
    pub fn translate(&self, address: u64, bytes: u64, wanted: u8) -> Option<u64> {
        let range = self.ranges.iter().find(|range| {
            let offset = address.wrapping_sub(range.address);
            offset < range.bytes && bytes <= range.bytes.wrapping_sub(offset)
        })?;
        (range.rights & wanted == wanted).then(|| range.physical.wrapping_add(address.wrapping_sub(range.address)))
    }

    /// Phase of the present work, for a record.
    pub fn phase(&self) -> u8 {
        let base = match self.thread.work {
            Work::None => record::phase::WAITING,
            Work::Own | Work::Orphan => record::phase::OWN_WORK,
            Work::Call(_) | Work::Port(_) => record::phase::SERVING_CALL,
            Work::Exit(_) => record::phase::SERVING_EXIT,
        };
        if self.thread.calling != Index::NONE { base | record::phase::CALLING } else { base }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_ipc::syscall::rights;

    #[test]
    fn an_address_translates_only_inside_one_range_with_the_rights() {
        let mut partition = Partition::new_zeroed();
        let range =
            |address, physical, bytes, rights| Range { address, physical, bytes, rights, ..Range::new_zeroed() };
        partition.ranges[0] = range(0x4000_0000, 0x10_0000, 0x2000, rights::READ);
        partition.ranges[3] = range(0x4000_2000, 0x90_0000, 0x1000, 3);
        let table = [
            (0x4000_0000, 1, 1, Some(0x10_0000)),
            (0x4000_1fff, 1, 1, Some(0x10_1fff)),
            (0x4000_1fff, 2, 1, None),
            (0x4000_0000, 0x2000, 1, Some(0x10_0000)),
            (0x4000_0000, u64::MAX, 1, None),
            (0x4000_0000, 1, 2, None),
            (0x4000_2000, 0x1000, 3, Some(0x90_0000)),
            (0x3fff_ffff, 1, 1, None),
            (u64::MAX, 2, 1, None),
        ];
        for (address, bytes, rights, expected) in table {
            assert_eq!(partition.translate(address, bytes, rights), expected, "{address:#x}+{bytes:#x}");
        }
    }
}

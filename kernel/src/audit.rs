//! What an audit from outside needs to know: who owns which frames, and where the tables are. A part of the core's
//! state of fixed shape, found by its magic in the ELF's symbol `CORE`; the core itself never reads it back.

use crate::object::Table;
use portcullis_ipc::limits;
use zerocopy::FromZeros;

/// Who owns a run of frames, and the index of the partition, VM or vCPU where the kind has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub u32, pub u8);

impl Owner {
    /// The core's own: tables of the processor, control blocks.
    pub const CORE: Self = Self(1, 0);
    /// Page-table pool.
    pub const POOL: Self = Self(2, 0);
    /// The sealed image.
    pub const IMAGE: Self = Self(3, 0);
    /// The platform page, shared by all, read-only.
    pub const PLATFORM: Self = Self(9, 0);
    /// Memory of a partition.
    pub const PARTITION: u32 = 4;
    /// State region of a partition.
    pub const STATE: u32 = 5;
    /// Message page of a partition, shared with the core.
    pub const MESSAGE: u32 = 6;
    /// Exit page of a vCPU, shared by the core and the VM's `vmexit`.
    pub const EXIT: u32 = 7;
    /// Memory of a VM, shared by its nested table and its `vmexit`.
    pub const GUEST: u32 = 8;
    /// Spare slot of a partition.
    pub const SPARE: u32 = 10;
}

/// Runs of frames that can be noted.
pub const RUNS: usize = 256;

/// A run of frames.
#[derive(FromZeros)]
#[repr(C)]
pub struct Run {
    /// Physical address of the first.
    pub start: u64,
    /// How many; 0 for an unused entry.
    pub pages: u64,
    /// [`Owner`].
    pub owner: u32,
    /// Partition (4, 5, 6, 10), vCPU (7) or VM (8).
    pub index: u32,
}

/// What an audit finds.
#[derive(FromZeros)]
#[repr(C)]
pub struct Audit {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Root of the core's own page table.
    pub core_root: u64,
    /// Roots of the partitions' page tables, 0 for none.
    pub roots: Table<u64, { limits::PARTITIONS }>,
    /// Roots of the VMs' nested tables, 0 for none.
    pub nested: Table<u64, { limits::VMS }>,
    /// Runs noted; more than [`RUNS`] means that some are missing.
    pub count: u64,
    /// The runs.
    pub runs: [Run; RUNS],
}

/// First bytes of the record.
pub const MAGIC: [u8; 8] = *b"PCAUDIT2";

impl Audit {
    /// Note that `owner` has these frames, if there are any.
    pub fn add(&mut self, start: u64, pages: u64, Owner(owner, index): Owner) {
        if pages == 0 {
            return;
        }
        if let Some(run) = self.runs.get_mut(self.count as usize) {
            *run = Run { start, pages, owner, index: index.into() };
        }
        self.count = self.count.wrapping_add(1);
    }
}

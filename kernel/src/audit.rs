//! What an audit from outside needs to know: who owns which frames, and where the tables are. One static of
//! fixed shape, found through the ELF's symbol `AUDIT`; the core itself never reads it back.

use core::cell::UnsafeCell;
use portcullis_ipc::limits;

/// Who owns a run of frames; `index` of partition, VM or vCPU where the kind has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The core's own: tables of the processor, control blocks.
    Core,
    /// Page-table pool.
    Pool,
    /// The sealed image.
    Image,
    /// Memory of a partition.
    Partition(u8),
    /// State region of a partition.
    State(u8),
    /// Message page of a partition, shared with the core.
    Message(u8),
    /// Exit page of a vCPU, shared by the core and the VM's `vmexit`.
    Exit(u8),
    /// Memory of a VM, shared by its nested table and its `vmexit`.
    Guest(u8),
    /// The platform page, shared by all, read-only.
    Platform,
    /// Spare slot of a partition.
    Spare(u8),
}

impl Owner {
    const fn code(self) -> (u32, u32) {
        match self {
            Self::Core => (1, 0),
            Self::Pool => (2, 0),
            Self::Image => (3, 0),
            Self::Partition(index) => (4, index as u32),
            Self::State(index) => (5, index as u32),
            Self::Message(index) => (6, index as u32),
            Self::Exit(index) => (7, index as u32),
            Self::Guest(index) => (8, index as u32),
            Self::Platform => (9, 0),
            Self::Spare(index) => (10, index as u32),
        }
    }
}

/// Runs of frames that can be noted.
pub const RUNS: usize = 256;

/// A run of frames.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Run {
    /// Physical address of the first.
    pub start: u64,
    /// How many; 0 for an unused entry.
    pub pages: u64,
    /// 1 core, 2 pool, 3 image, 4 partition, 5 state, 6 message, 7 exit, 8 guest, 9 platform, 10 spare.
    pub owner: u32,
    /// Partition (4, 5, 6, 10), vCPU (7) or VM (8).
    pub index: u32,
}

/// All runs.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ownership {
    /// Runs noted; more than [`RUNS`] means that some are missing.
    pub count: u64,
    /// The runs.
    pub runs: [Run; RUNS],
}

impl Ownership {
    /// Nothing owned.
    pub const EMPTY: Self = Self { count: 0, runs: [Run { start: 0, pages: 0, owner: 0, index: 0 }; RUNS] };

    /// Note that `owner` has these frames.
    pub fn add(&mut self, start: u64, pages: u64, owner: Owner) {
        let (owner, index) = owner.code();
        if let Some(run) = self.runs.get_mut(self.count as usize) {
            *run = Run { start, pages, owner, index };
        }
        self.count = self.count.wrapping_add(1);
    }
}

/// The static.
#[repr(C)]
pub struct Audit {
    /// "PCAUDIT1".
    pub magic: [u8; 8],
    /// First byte, end of text, end of read-only data, end of the core's image: all physical = virtual.
    pub image: [u64; 4],
    /// Root of the core's own page table.
    pub core_root: u64,
    /// Roots of the partitions' page tables, 0 for none.
    pub roots: [u64; limits::PARTITIONS],
    /// Roots of the VMs' nested tables, 0 for none.
    pub nested: [u64; limits::VMS],
    /// Partition that is the `vmexit` of each VM.
    pub vmexit: [u32; limits::VMS],
    /// Who owns what.
    pub owned: Ownership,
}

struct Cell(UnsafeCell<Audit>);
// SAFETY: written once at boot, before the first partition runs; never read by the core.
unsafe impl Sync for Cell {}

#[unsafe(no_mangle)]
#[used]
static AUDIT: Cell = Cell(UnsafeCell::new(Audit {
    magic: *b"PCAUDIT1",
    image: [0; 4],
    core_root: 0,
    roots: [0; limits::PARTITIONS],
    nested: [0; limits::VMS],
    vmexit: [0; limits::VMS],
    owned: Ownership::EMPTY,
}));

/// Publish the facts, once.
pub fn publish(fill: impl FnOnce(&mut Audit)) {
    // SAFETY: called once, at boot; nobody else refers to the static.
    fill(unsafe { &mut *AUDIT.0.get() });
}

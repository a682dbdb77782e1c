//! The image format, version 1: what the image builder lays out and the core checks again at boot.
//!
//! An image is one module: an [`ImageHead`], the directory of its tables ([`TableHead`]), the tables, each of records of
//! one size, then page-aligned data, blobs last. All integers are little endian. A table of an unknown kind that is marked
//! mandatory makes the core refuse the image; without the mark it is skipped. A record is known by its position in its
//! table, and names its partition or VM by that.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Head of the image, 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ImageHead {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: u32,
    /// CRC-32 of what stands between this head and `checked`.
    pub checksum: u32,
    /// Bytes of the whole image, head included; a multiple of 4096.
    pub length: u64,
    /// Entries of the directory of tables, which starts right after this head.
    pub tables: u32,
    /// Zero.
    pub reserved: u32,
    /// Pages of the page-table pool: enough for all partitions and for every VM wholly in 4 KiB pages.
    pub pool_pages: u32,
    /// Restarts of the supervisor that the core makes by itself...
    pub supervisor_restarts: u32,
    /// ... within this many microseconds.
    pub supervisor_window_us: u64,
    /// Fixed slice of round robin among equal priorities, microseconds.
    pub slice_us: u32,
    /// Mitigation policy: bits of [`mitigation`] that the manifest turns off.
    pub mitigations_off: u32,
    /// End of the bytes that the core checks, a multiple of 4096. After it stand blobs and nothing else; each has a
    /// CRC-32C of its own in the information page, and whoever uses it checks it.
    pub checked: u64,
}

/// First bytes of an image.
pub const MAGIC: [u8; 8] = *b"PCULLIS\x01";
/// Format version: 1 had a CRC-32 for each blob, where 2 has a CRC-32C.
pub const VERSION: u32 = 2;

/// Where a table stands, 16 bytes: an entry of the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TableHead {
    /// [`table`].
    pub kind: u16,
    /// Bit 0: mandatory.
    pub flags: u16,
    /// Bytes of one record.
    pub record_bytes: u32,
    /// Number of records.
    pub count: u32,
    /// Offset of the first record in the image, a multiple of 8.
    pub offset: u32,
}

/// Flag: a core that does not know the table must refuse the image.
pub const MANDATORY: u16 = 1;

/// Kinds of table.
pub mod table {
    /// [`super::PartitionRecord`].
    pub const PARTITIONS: u16 = 1;
    /// [`super::SegmentRecord`].
    pub const SEGMENTS: u16 = 2;
    /// [`super::CapabilityRecord`].
    pub const CAPABILITIES: u16 = 3;
    /// [`super::VmRecord`].
    pub const VMS: u16 = 4;
    /// [`super::VcpuRecord`], those of a VM next to each other.
    pub const VCPUS: u16 = 5;
}

/// A partition.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PartitionRecord {
    /// Name, padded with zeros.
    pub name: [u8; 24],
    /// [`rank`].
    pub rank: u8,
    /// Scheduling priority, higher first; 1 to 255.
    pub priority: u8,
    /// CPU of its thread.
    pub cpu: u16,
    /// Pages that the state region of a replacement may have at most.
    pub state_limit_pages: u32,
    /// Budget for its own work, microseconds in each period: guaranteed, and no limit without [`schedule::CAP`].
    pub budget_us: u32,
    /// Period of the budget, microseconds.
    pub period_us: u32,
    /// Reserve that is lent to a payer whose budget runs out while this partition works for it, microseconds.
    pub reserve_us: u32,
    /// Execution time within which it must answer any piece of work, microseconds.
    pub call_limit_us: u32,
    /// First instruction.
    pub entry: u64,
    /// Initial RSP.
    pub stack_top: u64,
    /// Offset of its information page in the image.
    pub info_offset: u64,
    /// Pages of the state region.
    pub state_pages: u32,
    /// Version of the state that this program writes.
    pub state_version: u32,
    /// Oldest version of the state that it reads.
    pub state_reads_from: u32,
    /// Pages of the spare slot: memory kept for the replacement, which is its size limit too.
    pub spare_pages: u32,
    /// Build id of the ELF (SHA-1 note).
    pub build_id: [u8; 20],
    /// SHA-256 over the partition's segments as they stand in the image.
    pub digest: [u8; 32],
    /// [`schedule`].
    pub flags: u32,
    /// Ed25519 signature over the digest, or zeros.
    pub signature: [u8; 64],
}

/// Ranks: calls go strictly upwards (R11).
pub mod rank {
    /// Test and other partitions that only call.
    pub const CLIENT: u8 = 0;
    /// `vmexit`.
    pub const VMEXIT: u8 = 1;
    /// `vmport-rpc`.
    pub const VMPORT_RPC: u8 = 2;
    /// `acpi-mangler`.
    pub const ACPI_MANGLER: u8 = 3;
    /// `migration`.
    pub const MIGRATION: u8 = 4;
    /// `link`.
    pub const LINK: u8 = 5;
    /// `supervisor`: one a system, notified of every end, restarted by the core itself.
    pub const SUPERVISOR: u8 = 6;
}

/// A segment of a partition.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SegmentRecord {
    /// First address, page aligned.
    pub address: u64,
    /// Offset of its bytes in the image, page aligned; unused when `file_bytes` is 0.
    pub offset: u64,
    /// Bytes in the image; the rest of the pages is zero.
    pub file_bytes: u64,
    /// Pages in memory.
    pub pages: u32,
    /// [`crate::syscall::rights`] READ, WRITE, EXECUTE; WRITE and EXECUTE exclude each other. A segment
    /// without WRITE is mapped from the sealed image itself.
    pub rights: u8,
    /// Zero.
    pub reserved: u8,
    /// The partition.
    pub partition: u16,
}

/// A capability of a partition.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CapabilityRecord {
    /// Slot, below [`crate::limits::SLOTS`].
    pub slot: u16,
    /// [`kind`].
    pub kind: u8,
    /// [`crate::syscall::rights`], after the kind.
    pub rights: u8,
    /// Index of the object: partition, timer, GSI or VM; 0 where the kind has none.
    pub object: u16,
    /// The partition that holds it.
    pub partition: u16,
    /// Badge that the callee sees (endpoint).
    pub badge: u32,
    /// Zero.
    pub reserved: u32,
    /// Notification bits that may be set (notification), that an event sets in the holder (timer,
    /// interrupt); first port or MSR.
    pub first: u64,
    /// Number of ports or MSRs.
    pub count: u64,
}

/// Capability kinds.
pub mod kind {
    /// Empty slot.
    pub const NONE: u8 = 0;
    /// Call a partition. `object`: partition.
    pub const ENDPOINT: u8 = 1;
    /// Notify a partition. `object`: partition; `first`: bits.
    pub const NOTIFICATION: u8 = 2;
    /// A timer. `object`: timer, one holder each; `first`: bits set in the holder.
    pub const TIMER: u8 = 3;
    /// An interrupt. `object`: GSI, one holder each; `first`: bits set in the holder.
    pub const INTERRUPT: u8 = 4;
    /// I/O ports `first` to `first + count - 1`.
    pub const PORTS: u8 = 5;
    /// MSRs `first` to `first + count - 1`, by rights.
    pub const MSRS: u8 = 6;
    /// A VM. `object`: VM.
    pub const VM: u8 = 7;
    /// A partition as an object of control. `object`: partition.
    pub const PARTITION: u8 = 8;
    /// The log ring's reading end, one holder.
    pub const LOG: u8 = 9;
    /// The right to set the wall clock, one holder.
    pub const CLOCK: u8 = 10;
}

/// A VM.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VmRecord {
    /// Name, padded with zeros.
    pub name: [u8; 24],
    /// Partition that serves its exits.
    pub vmexit: u16,
    /// Partition that serves its port, [`NO_PARTITION`] when the port is off.
    pub vmport: u16,
    /// Badge of the port calls.
    pub vmport_badge: u32,
    /// [`feature`].
    pub features: u32,
    /// Zero.
    pub reserved: u32,
    /// Guest memory in 4 KiB pages, where [`crate::ram`] says; a multiple of 512.
    pub memory_pages: u64,
    /// XCR0 bits that the guest may set; a subset of 7 (x87, SSE, AVX).
    pub xcr0: u64,
}

/// `vmport` of a VM whose port is off.
pub const NO_PARTITION: u16 = u16::MAX;

/// How an account is scheduled: flags of a partition and of a vCPU.
pub mod schedule {
    /// The budget is a limit, too: beyond it the account gets no time, although nobody else wants it.
    pub const CAP: u32 = 1;
}

/// VM features.
pub mod feature {
    /// Intercept RDTSC.
    pub const INTERCEPT_RDTSC: u32 = 1;
    /// Intercept PAUSE.
    pub const INTERCEPT_PAUSE: u32 = 2;
}

/// A vCPU.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuRecord {
    /// The VM.
    pub vm: u16,
    /// CPU.
    pub cpu: u16,
    /// Scheduling priority, higher first; 1 to 255.
    pub priority: u16,
    /// [`schedule`].
    pub flags: u16,
    /// Budget, microseconds in each period: guaranteed, and no limit without [`schedule::CAP`].
    pub budget_us: u32,
    /// Period, microseconds.
    pub period_us: u32,
}

/// Mitigations (R14), bits of [`ImageHead::mitigations_off`] and of the platform page.
pub mod mitigation {
    /// IBPB between partitions and VMs.
    pub const IBPB: u32 = 1;
    /// STIBP on.
    pub const STIBP: u32 = 1 << 1;
    /// SSBD on.
    pub const SSBD: u32 = 1 << 2;
    /// Return-stack fill between partitions and VMs and on entry to the core from a guest.
    pub const RSB_FILL: u32 = 1 << 3;
    /// VERW at every way out of the core.
    pub const VERW: u32 = 1 << 4;
    /// L1D flush between partitions and VMs.
    pub const L1D_FLUSH: u32 = 1 << 5;
    /// Guest memory in 4 KiB pages only: a guest that may execute larger ones can raise a machine check.
    pub const SMALL_PAGES: u32 = 1 << 6;
    /// IBRS on for good: what ring 3 and guests train predicts nothing in the core.
    pub const IBRS: u32 = 1 << 7;
    /// IBPB at every way into the core, instead of between partitions and VMs: returns are predicted as branches are.
    pub const IBPB_ENTRY: u32 = 1 << 8;
    /// A call and an LFENCE after a guest's exit.
    pub const PBRSB: u32 = 1 << 9;
    /// No predictions for what is not a branch (Zen 2).
    pub const BTC_NOBR: u32 = 1 << 10;
    /// SSBD by LS_CFG, where SPEC_CTRL is not there.
    pub const LS_CFG_SSBD: u32 = 1 << 11;
    /// Page tables without the core's half for partitions (Meltdown), which this core does not have.
    pub const PTI: u32 = 1 << 12;
    /// TSX off.
    pub const TSX_OFF: u32 = 1 << 13;
    /// RRSBA_DIS_S: returns are not predicted by branches' targets.
    pub const RRSBA_DIS: u32 = 1 << 14;
    /// BHI_DIS_S: what ring 3 and guests branched chooses no target in the core.
    pub const BHI_DIS: u32 = 1 << 15;
    /// The microcode's mitigation of gather data sampling stays on.
    pub const GDS_MITG: u32 = 1 << 16;
    /// The microcode's mitigation of special register buffer sampling stays on.
    pub const RNGDS_MITG: u32 = 1 << 17;
    /// The vector registers' backup fix (Zen 2, Zenbleed).
    pub const ZENBLEED: u32 = 1 << 18;
    /// A division between partitions and VMs, which leaves its operands in the divider (Zen 1).
    pub const DIV0: u32 = 1 << 19;
    /// LFENCE lets nothing run ahead.
    pub const LFENCE: u32 = 1 << 20;
    /// Their names in manifests and in the boot's lines, in the order of the bits.
    pub const NAMES: &str = "ibpb stibp ssbd rsb-fill verw l1d-flush small-pages ibrs ibpb-entry pbrsb btc-nobr ls-cfg-ssbd \
        page-table-isolation tsx-off rrsba-dis bhi-dis gds srbds zenbleed div0 lfence";

    /// Names of the bits in `mask`.
    pub fn names(mask: u32) -> impl Iterator<Item = &'static str> {
        NAMES.split(' ').enumerate().filter(move |(bit, _)| mask >> (bit & 31) & 1 != 0).map(|(_, name)| name)
    }
}

static_assertions::const_assert_eq!(size_of::<ImageHead>(), 64);
static_assertions::const_assert_eq!(size_of::<TableHead>(), 16);
static_assertions::const_assert_eq!(size_of::<PartitionRecord>(), 208);
static_assertions::const_assert_eq!(size_of::<SegmentRecord>(), 32);
static_assertions::const_assert_eq!(size_of::<CapabilityRecord>(), 32);
static_assertions::const_assert_eq!(size_of::<VmRecord>(), 56);
static_assertions::const_assert_eq!(size_of::<VcpuRecord>(), 16);

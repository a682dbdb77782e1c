//! Capacities of the core's fixed tables. The image builder refuses a manifest that needs more and
//! prints the limit; the core checks again at boot. Every table size is a power of two.

/// Partitions of one system.
pub const PARTITIONS: usize = 32;
/// Capability slots of one partition.
pub const SLOTS: usize = 64;
/// Files of the image that one partition is given.
pub const BLOBS: usize = 4;
/// Timers of one system.
pub const TIMERS: usize = 64;
/// Interrupt lines (GSIs) that can be bound.
pub const INTERRUPTS: usize = 32;
/// Virtual machines of one system.
pub const VMS: usize = 8;
/// vCPUs of one system, over all VMs.
pub const VCPUS: usize = 16;
/// vCPUs of one VM.
pub const VCPUS_PER_VM: usize = 8;
/// Platform versions that a VM can have: what its guest sees of the machine.
pub const PLATFORMS: core::ops::RangeInclusive<u16> = 1..=2;
/// Contiguous memory ranges of one partition: segments, those of a replacement, state region, guest memory, spare slot.
pub const RANGES: usize = 32;
/// Segments of one partition in the image.
pub const SEGMENTS: usize = 10;
/// Ranges that are not segments: state region, spare slot, and guest memory below and from 4 GiB on.
pub const OTHER_RANGES: usize = 4;
static_assertions::const_assert!(2 * SEGMENTS + OTHER_RANGES <= RANGES);
/// Pages of the page-table pool, at most (512 MiB, half of the core's half of the addresses). Every VM has a page of it for
/// each 2 MiB of its memory, so this is enough for four VMs of 64 GiB without what else is mapped.
pub const POOL_PAGES: u64 = 1 << 17;
/// Entries of a VM's port answer table.
pub const ANSWERS: usize = 16;
/// Leases that one call can carry.
pub const LEASES: usize = 4;
/// Bytes of one lease.
pub const LEASE_BYTES: u32 = 1 << 20;
/// Bytes that one lease copy moves at most.
pub const LEASE_COPY: usize = 4096;
/// Payload bytes of one message.
pub const PAYLOAD: usize = 256;
/// Bytes of one log frame that a partition hands to the core.
pub const LOG_FRAME: usize = 512;
/// Bytes that one `log_read` returns at most.
pub const LOG_READ: usize = 1024;
/// CPUs that a manifest may name. The ABI binds threads and vCPUs to a CPU from version 1.
pub const CPUS: usize = 1;
/// Pages of memory that the core itself initialises for one partition on a restart, at most (1 MiB).
pub const WRITABLE_PAGES: usize = 256;
/// Pages of a partition's state region, at most (4 MiB).
pub const STATE_PAGES: usize = 1024;

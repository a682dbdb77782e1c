//! The address space of a partition, as the core lays it out.
//!
//! The first GiB is the core's half: no partition can touch it. A partition's segments start at
//! [`USER_BASE`]; pages shared with the core stand at fixed addresses, so that a service needs no
//! discovery to find its message page.

/// Size of a page, bytes.
pub const PAGE: usize = 4096;
/// First address that a partition may use; below it is the core's half.
pub const USER_BASE: u64 = 0x4000_0000;
/// End (exclusive) of the addresses at which segments may lie.
pub const SEGMENT_END: u64 = 0x7000_0000;
/// End (exclusive) of all addresses that a partition may use.
pub const USER_END: u64 = 0x0000_8000_0000_0000;
/// The partition's information page ([`crate::info::InfoPage`]), read-only.
pub const INFO_PAGE: u64 = 0x7000_0000;
/// The platform page ([`crate::platform::PlatformPage`]), read-only, shared by all partitions.
pub const PLATFORM_PAGE: u64 = 0x7000_1000;
/// The thread's message page ([`crate::message`]), readable and writable. CPU n's thread finds its
/// own at `MESSAGE_PAGE + n * PAGE`.
pub const MESSAGE_PAGE: u64 = 0x7000_2000;
/// Exit page of vCPU n of the VM that this `vmexit` serves: `EXIT_PAGES + n * PAGE`.
pub const EXIT_PAGES: u64 = 0x7002_0000;
/// The partition's state region, readable and writable, kept across instances.
pub const STATE_REGION: u64 = 0x7010_0000;
/// Read-only blobs of the image that the manifest gives a partition (guest files), one after the
/// other, each at a page boundary.
pub const BLOB_BASE: u64 = 0x60_0000_0000;
/// Guest-physical address 0 of the VM that this `vmexit` serves; guest memory is readable and
/// writable there, never executable. Where the guest has none ([`crate::ram`]), nothing is mapped.
pub const GUEST_BASE: u64 = 0x100_0000_0000;

/// Message page: offset of the header and payload that the thread sends.
pub const SEND: usize = 0x000;
/// Message page: offset of the header and payload that the thread receives.
pub const RECEIVE: usize = 0x200;
/// Message page: offset of the lease descriptors of the next call.
pub const LEASE_TABLE: usize = 0x400;
/// Message page: offset of the log frame for `log_write`.
pub const LOG_OUT: usize = 0x800;
/// Message page: offset at which `log_read` delivers records.
pub const LOG_IN: usize = 0xC00;

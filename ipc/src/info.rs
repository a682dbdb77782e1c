//! The page that tells a partition who it is: made by the image builder, mapped by the core, which does not read it.

use crate::limits;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A name in the information page, padded with zeros.
pub type Name = [u8; 24];

/// One capability slot by name.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SlotName {
    /// The name that the manifest gives the capability.
    pub name: Name,
    /// [`crate::image::kind`].
    pub kind: u8,
    /// Zero.
    pub reserved: u8,
    /// Slot number.
    pub slot: u16,
    /// Kind-specific: pages of a blob, vCPUs of a VM, notification bits of a timer or interrupt (low half).
    pub detail: u32,
}

/// Who the partition is: made by the image builder, one per partition, read-only.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InfoPage {
    /// [`INFO_MAGIC`].
    pub magic: u32,
    /// Index of the partition.
    pub partition: u32,
    /// Its name.
    pub name: Name,
    /// Heap segment: first address and bytes.
    pub heap: u64,
    /// Bytes of the heap segment.
    pub heap_bytes: u64,
    /// Bytes of the state region at [`crate::layout::STATE_REGION`].
    pub state_bytes: u64,
    /// Guest memory of the VM that this `vmexit` serves, bytes; 0 for all others.
    pub guest_bytes: u64,
    /// Version of the state this program writes.
    pub state_version: u32,
    /// Number of valid entries in `slots`.
    pub slot_count: u32,
    /// Bytes of configuration text at [`config_offset`] in this page: `key=value` lines of the
    /// manifest's `config` table, UTF-8.
    pub config_bytes: u32,
    /// Number of blobs (guest files) in `blobs`.
    pub blob_count: u32,
    /// Blobs mapped for this partition.
    pub blobs: [Blob; limits::BLOBS],
    /// Capability slots by name, `slot_count` of them; over the places of the others lies the configuration text.
    pub slots: [SlotName; limits::SLOTS],
}

/// A file of the image that is mapped read-only for the partition.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Blob {
    /// The name that the manifest gives it.
    pub name: Name,
    /// First address.
    pub address: u64,
    /// Bytes.
    pub bytes: u64,
    /// CRC-32C of these bytes ([`crate::file::crc32c`]). The core does not check it: whoever uses the blob does.
    pub checksum: u32,
    /// Zero.
    pub reserved: u32,
}

/// "INFO".
pub const INFO_MAGIC: u32 = u32::from_le_bytes(*b"INFO");
/// Offset of the configuration text in the information page of a partition with so many slots: the text reaches from
/// there to the end of the page at most.
pub const fn config_offset(slots: usize) -> usize {
    let slots = if slots < limits::SLOTS { slots } else { limits::SLOTS };
    core::mem::offset_of!(InfoPage, slots) + slots * size_of::<SlotName>()
}

static_assertions::const_assert_eq!(size_of::<SlotName>(), 32);
static_assertions::const_assert_eq!(size_of::<Blob>(), 48);
static_assertions::const_assert!(size_of::<InfoPage>() == config_offset(limits::SLOTS));
static_assertions::const_assert!(size_of::<InfoPage>() < crate::layout::PAGE);

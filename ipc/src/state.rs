//! The envelope of saved state (rule R9): what a state region starts with, and what a save writes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Head of saved state, 48 bytes; `length` bytes follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Envelope {
    /// [`MAGIC`].
    pub magic: u32,
    /// Version of the state's type.
    pub version: u32,
    /// Name of the service, padded with zeros.
    pub service: [u8; 16],
    /// Schema hash of the state's type.
    pub schema: u64,
    /// Bytes that follow.
    pub length: u32,
    /// CRC-32 (IEEE) of the bytes that follow.
    pub checksum: u32,
    /// Commit count: of two slots the one with the higher count is current.
    pub commit: u64,
}

/// "PCST".
pub const MAGIC: u32 = u32::from_le_bytes(*b"PCST");

static_assertions::const_assert_eq!(size_of::<Envelope>(), 48);

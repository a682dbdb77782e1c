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

/// CRC-32 (IEEE 802.3, reflected), table-driven; used by the core for the image and by all for small
/// records. `crc` is the result so far, 0 at the start.
pub fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    let mut crc = !crc;
    for &byte in bytes {
        let index = (crc ^ u32::from(byte)) & 0xff;
        crc = CRC_TABLE.get(index as usize).copied().unwrap_or(0) ^ (crc >> 8);
    }
    !crc
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 != 0 { 0xEDB8_8320 ^ (value >> 1) } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    #[test]
    fn crc_of_the_check_string_is_the_published_one() {
        assert_eq!(super::crc32(0, b"123456789"), 0xCBF4_3926);
        assert_eq!(super::crc32(super::crc32(0, b"1234"), b"56789"), 0xCBF4_3926);
    }
}

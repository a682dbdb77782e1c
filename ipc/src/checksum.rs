//! CRC-32, as the image's head, the control line and saved state carry it. Files have [`crate::file::crc32c`].

/// CRC-32 (IEEE 802.3, reflected), table-driven; used by the core for the image and by all for small
/// records. `crc` is the result so far, 0 at the start.
pub fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    let add = |crc: u32, byte: &u8| {
        let index = (crc ^ u32::from(*byte)) & 0xff;
        CRC_TABLE.get(index as usize).copied().unwrap_or(0) ^ (crc >> 8)
    };
    // Eight bytes a round: an image has a million of them.
    let (rounds, rest) = bytes.as_chunks::<8>();
    let crc = rounds.iter().fold(!crc, |crc, round| round.iter().fold(crc, add));
    !rest.iter().fold(crc, add)
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

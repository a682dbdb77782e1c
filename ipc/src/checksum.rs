//! CRC-32, as the image, the control line and saved state carry it.

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

/// The same for a large file, eight bytes at a time; its tables take 8 KiB.
pub fn crc32_of_file(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut crc = u32::MAX;
    for word in words {
        let word = u64::from_le_bytes(*word) ^ u64::from(crc);
        let [t0, t1, t2, t3, t4, t5, t6, t7] = &WIDE_TABLES;
        let part = |table: &[u32; 256], place: u32| table[(word >> (8 * place)) as u8 as usize];
        crc = part(t7, 0)
            ^ part(t6, 1)
            ^ part(t5, 2)
            ^ part(t4, 3)
            ^ part(t3, 4)
            ^ part(t2, 5)
            ^ part(t1, 6)
            ^ part(t0, 7);
    }
    crc32(!crc, rest)
}

/// Table `n` holds what a byte adds when `n` more bytes follow it.
static WIDE_TABLES: [[u32; 256]; 8] = {
    let mut tables = [CRC_TABLE; 8];
    let mut table = 1;
    while table < 8 {
        let mut index = 0;
        while index < 256 {
            let before = tables[table - 1][index];
            tables[table][index] = CRC_TABLE[(before & 0xff) as usize] ^ (before >> 8);
            index += 1;
        }
        table += 1;
    }
    tables
};

#[cfg(test)]
mod tests {
    #[test]
    fn crc_of_the_check_string_is_the_published_one() {
        assert_eq!(super::crc32(0, b"123456789"), 0xCBF4_3926);
        assert_eq!(super::crc32(super::crc32(0, b"1234"), b"56789"), 0xCBF4_3926);
    }

    #[test]
    fn a_file_has_the_checksum_of_its_bytes_whatever_its_length() {
        let bytes: Vec<u8> = (0..100_u32).map(|index| (index * 37 + 11) as u8).collect();
        for length in 0..bytes.len() {
            assert_eq!(super::crc32_of_file(&bytes[..length]), super::crc32(0, &bytes[..length]), "{length}");
        }
    }
}

//! CRC-32 of a large file: the same as [`crate::checksum`], several bytes at a time.

use crate::checksum::{CRC_TABLE, crc32};

/// CRC-32 of a file, eight bytes at a time; the tables take 8 KiB. `crc` is the result so far, 0 at the start.
pub fn crc32_of_file(crc: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut crc = !crc;
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
    fn a_file_has_the_checksum_of_its_bytes_whatever_its_length() {
        let bytes: Vec<u8> = (0..100_u32).map(|index| (index * 37 + 11) as u8).collect();
        for length in 0..bytes.len() {
            let expected = crate::checksum::crc32(0, &bytes[..length]);
            assert_eq!(super::crc32_of_file(0, &bytes[..length]), expected, "{length}");
            for cut in 0..=length {
                let head = super::crc32_of_file(0, &bytes[..cut]);
                assert_eq!(super::crc32_of_file(head, &bytes[cut..length]), expected, "{cut} of {length}");
            }
        }
    }
}

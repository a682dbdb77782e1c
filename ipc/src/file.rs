//! CRC-32C of a file, by tables: the image builder's, and a service's on a processor without the CRC32 instruction.

/// Castagnoli's polynomial, reflected: that of the CRC32 instruction (Intel SDM volume 2, CRC32) and of RFC 3720,
/// appendix B.4.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// CRC-32C of a file, eight bytes at a time; the tables take 8 KiB. `crc` is the result so far, 0 at the start.
pub fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let [t0, t1, t2, t3, t4, t5, t6, t7] = &TABLES;
    let mut crc = !crc;
    for word in words {
        let word = u64::from_le_bytes(*word) ^ u64::from(crc);
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
    for byte in rest {
        crc = t0[(crc as u8 ^ byte) as usize] ^ (crc >> 8);
    }
    !crc
}

/// Table `n` holds what a byte adds when `n` more bytes follow it.
static TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 != 0 { POLYNOMIAL ^ (value >> 1) } else { value >> 1 };
            bit += 1;
        }
        tables[0][index] = value;
        index += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut index = 0;
        while index < 256 {
            let before = tables[table - 1][index];
            tables[table][index] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            index += 1;
        }
        table += 1;
    }
    tables
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string_and_of_zeros_is_the_published_one() {
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(0, &[0; 32]), 0x8a91_36aa, "RFC 3720, appendix B.4");
    }

    #[test]
    fn a_file_has_the_checksum_of_its_bytes_wherever_it_is_cut() {
        let bytes: Vec<u8> = (0..100_u32).map(|index| (index * 37 + 11) as u8).collect();
        for length in 0..bytes.len() {
            let whole = crc32c(0, &bytes[..length]);
            for cut in 0..=length {
                let head = crc32c(0, &bytes[..cut]);
                assert_eq!(crc32c(head, &bytes[cut..length]), whole, "{cut} of {length}");
            }
        }
    }
}

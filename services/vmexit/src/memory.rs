//! Guest memory as this service sees it: bounded copies by guest-physical address.

/// Guest memory. The guest and other vCPUs change it at any time, so every value is read once.
pub trait GuestMemory {
    /// Bytes there are, from guest-physical address 0.
    fn size(&self) -> u64;
    /// Copies out; `false` and nothing copied when the range is not all memory.
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool;
    /// Copies in; `false` and nothing copied when the range is not all memory.
    fn write(&mut self, address: u64, bytes: &[u8]) -> bool;
    /// The aligned word of eight bytes that holds `address`; all ones when it is not memory.
    #[inline]
    fn word(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        if self.read(address & !7, &mut bytes) { u64::from_le_bytes(bytes) } else { u64::MAX }
    }
}

/// An aligned little-endian integer of `N` bytes, 4 or 8; memory that is not there reads all ones, as an
/// open bus does.
#[inline]
pub fn load<const N: usize>(memory: &impl GuestMemory, address: u64) -> u64 {
    memory.word(address) >> (8 * (address & 7)) & all_ones(N)
}

/// A value of `width` bytes (1 to 8) with every bit set.
pub const fn all_ones(width: usize) -> u64 {
    if width >= 8 { u64::MAX } else { (1 << (width * 8)) - 1 }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Guest memory in a vector.
    pub struct Plain(pub Vec<u8>);

    impl Plain {
        /// `size` bytes of zeros.
        pub fn new(size: usize) -> Self {
            Self(vec![0; size])
        }

        /// Puts bytes at an address.
        pub fn put(&mut self, address: usize, bytes: &[u8]) {
            self.0[address..address + bytes.len()].copy_from_slice(bytes);
        }
    }

    impl GuestMemory for Plain {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }
        fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
            let Some(end) = address.checked_add(bytes.len() as u64) else {
                return false;
            };
            if end > self.size() {
                return false;
            }
            bytes.copy_from_slice(&self.0[address as usize..end as usize]);
            true
        }
        fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
            let Some(end) = address.checked_add(bytes.len() as u64) else {
                return false;
            };
            if end > self.size() {
                return false;
            }
            self.0[address as usize..end as usize].copy_from_slice(bytes);
            true
        }
    }

    #[test]
    fn memory_that_is_not_there_reads_all_ones() {
        let mut memory = Plain::new(16);
        memory.put(8, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(load::<4>(&memory, 8), 0x0403_0201);
        assert_eq!(load::<4>(&memory, 12), 0x0807_0605);
        assert_eq!(load::<8>(&memory, 8), 0x0807_0605_0403_0201);
        assert_eq!(load::<4>(&memory, 16), 0xffff_ffff);
        assert_eq!(load::<8>(&memory, u64::MAX - 7), u64::MAX);
    }
}

//! Guest memory as this service sees it: bounded copies by guest-physical address.

use portcullis_ipc::ram::Ram;

/// Guest memory. The guest and other vCPUs change it at any time, so every value is read once.
pub trait GuestMemory {
    /// Bytes there are; where they lie, [`portcullis_ipc::ram`] says.
    fn size(&self) -> u64;
    /// Whether the `length` bytes at `address` are all memory.
    #[inline]
    fn holds(&self, address: u64, length: u64) -> bool {
        Ram::new(self.size()).holds(address, length)
    }
    /// Copies out; `false` and nothing copied when the range is not all memory.
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool;
    /// Copies in; `false` and nothing copied when the range is not all memory.
    fn write(&mut self, address: u64, bytes: &[u8]) -> bool;
    /// Replaces `old` by `new` in the `width` bytes at `address`, in one step for every vCPU: `false` and nothing
    /// replaced when something else stands there, or when it is not memory. `width` is 1, 4 or 8 and divides `address`.
    fn exchange(&mut self, address: u64, width: usize, old: u64, new: u64) -> bool;
    /// Writes `length` zeros; `false` and nothing written when the range is not all memory.
    fn zero(&mut self, address: u64, length: u64) -> bool;
    /// What the guest's processor takes for a page-table entry.
    #[inline]
    fn entries(&self) -> Entries {
        Entries::default()
    }
    /// The aligned word of eight bytes that holds `address`; all ones when it is not memory.
    #[inline]
    fn word(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        if self.read(address & !7, &mut bytes) { u64::from_le_bytes(bytes) } else { u64::MAX }
    }
}

/// What a processor takes for a page-table entry (CPUID 0x8000_0008 EAX, 0x8000_0001 EDX bit 26).
#[derive(Clone, Copy, Debug)]
pub struct Entries {
    /// Address bits that are reserved: from the width of a physical address to bit 51.
    pub reserved: u64,
    /// An entry of the third level may be a page of 1 GiB.
    pub gigabytes: bool,
}

impl Default for Entries {
    /// Of a processor with every address bit and pages of 1 GiB.
    fn default() -> Self {
        Self::new(52, true)
    }
}

impl Entries {
    /// Of a processor whose physical addresses have `bits` bits.
    pub fn new(bits: u32, gigabytes: bool) -> Self {
        let above = u64::MAX.checked_shl(bits).unwrap_or(0);
        Self { reserved: above & 0x000f_ffff_ffff_f000, gigabytes }
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

        /// Whether the `width` bytes at an address are those of `value`.
        pub fn holds(&self, address: u64, width: usize, value: u64) -> bool {
            let mut found = [0; 8];
            self.read(address, &mut found[..width]) && u64::from_le_bytes(found) == value
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
        fn exchange(&mut self, address: u64, width: usize, old: u64, new: u64) -> bool {
            self.holds(address, width, old) && self.write(address, &new.to_le_bytes()[..width])
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
        fn zero(&mut self, address: u64, length: u64) -> bool {
            let end = address.checked_add(length).filter(|end| *end <= self.size());
            if let Some(end) = end {
                self.0[address as usize..end as usize].fill(0);
            }
            end.is_some()
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

//! The boot hand-over: what the loader left in memory, read once with bounds checks.
//!
//! Two forms: PVH `hvm_start_info` (version 1) and multiboot2 tags. Both are reduced to a [`Handover`]. The command line
//! and ACPI are not the core's to read.

use arrayvec::ArrayVec;

/// Regions of each kind kept, at most; more make the boot stop.
pub const REGIONS: usize = 64;

/// A range of RAM, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// What the loader handed over.
#[derive(Debug, Default)]
pub struct Handover {
    /// RAM that the firmware calls usable.
    pub ram: ArrayVec<Region, REGIONS>,
    /// What it calls anything else; it wins where both overlap.
    pub other: ArrayVec<Region, REGIONS>,
    /// Module 0: the system image.
    pub image: Option<Region>,
}

/// Neither PVH nor multiboot2.
pub const PROTOCOL: &str = "boot: started neither by PVH nor by multiboot2; use a loader that speaks one of them";
const MAGIC: &str = "boot: start_info lacks its magic 0x336ec578";
const NO_MEMORY_MAP: &str = "boot: the loader gave no memory map; PVH version 1 or multiboot2 is needed";
const BOUNDS: &str = "boot: a hand-over structure lies outside the first 4 GiB";
const TOO_MANY_REGIONS: &str = "boot: more than 64 regions of one kind in the memory map (limit 64)";

/// Reader of physical memory while the boot tables map the first 4 GiB.
pub trait Memory {
    /// The four bytes at `address`, if they are in reach.
    fn peek(&self, address: u64) -> Option<u32>;

    /// A little-endian word of four bytes.
    fn word(&self, address: u64) -> Result<u64, &'static str> {
        self.peek(address).map(u64::from).ok_or(BOUNDS)
    }

    /// A little-endian word of eight bytes.
    fn long(&self, address: u64) -> Result<u64, &'static str> {
        Ok(self.word(address)? | self.word(address.saturating_add(4))? << 32)
    }
}

/// Take the memory-map entry at `entry` (address, length, type; the same in both protocols).
fn add(memory: &impl Memory, entry: u64, out: &mut Handover) -> Result<(), &'static str> {
    let start = memory.long(entry)?;
    let end = start.saturating_add(memory.long(entry.saturating_add(8))?);
    let usable = memory.word(entry.saturating_add(16))? == 1;
    let regions = if usable { &mut out.ram } else { &mut out.other };
    if start < end {
        regions.try_push(Region { start, end }).map_err(|_| TOO_MANY_REGIONS)?;
    }
    Ok(())
}

/// Read `hvm_start_info` at `address` (Xen public/arch-x86/hvm/start_info.h).
pub fn pvh(memory: &impl Memory, address: u64) -> Result<Handover, &'static str> {
    let field = |offset: u64| address.saturating_add(offset);
    if memory.word(address)? != 0x336e_c578 {
        return Err(MAGIC);
    }
    let mut out = Handover::default();
    let modules = memory.word(field(12))?;
    let module_list = memory.long(field(16))?;
    let map = memory.long(field(40))?;
    let entries = memory.word(field(48))?;
    if memory.word(field(4))? < 1 || entries == 0 || map == 0 {
        return Err(NO_MEMORY_MAP);
    }
    for index in 0..entries.min(1024) {
        let entry = map.saturating_add(index.saturating_mul(24));
        add(memory, entry, &mut out)?;
    }
    if modules > 0 {
        let start = memory.long(module_list)?;
        let length = memory.long(module_list.saturating_add(8))?;
        out.image = Some(Region { start, end: start.saturating_add(length) });
    }
    Ok(out)
}

/// Read the multiboot2 information structure at `address` (Multiboot2 specification, section 3.6).
pub fn multiboot2(memory: &impl Memory, address: u64) -> Result<Handover, &'static str> {
    let total = memory.word(address)?;
    if !(16..=1 << 20).contains(&total) {
        return Err(BOUNDS);
    }
    let end = address.saturating_add(total);
    let mut tag = address.saturating_add(8);
    let mut out = Handover::default();
    while tag.saturating_add(8) <= end {
        let kind = memory.word(tag)?;
        let size = memory.word(tag.saturating_add(4))?;
        if kind == 0 {
            break;
        }
        if size < 8 || tag.saturating_add(size) > end {
            return Err(BOUNDS);
        }
        let body = tag.saturating_add(8);
        match kind {
            3 if out.image.is_none() => {
                let start = memory.word(body)?;
                out.image = Some(Region { start, end: memory.word(body.saturating_add(4))? });
            }
            6 => {
                let step = memory.word(body)?.max(24);
                let mut entry = tag.saturating_add(16);
                while entry.saturating_add(24) <= tag.saturating_add(size) {
                    add(memory, entry, &mut out)?;
                    entry = entry.saturating_add(step);
                }
            }
            _ => {}
        }
        tag = tag.saturating_add(size.saturating_add(7) & !7);
    }
    if out.ram.is_empty() { Err(NO_MEMORY_MAP) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(Vec<u8>);
    impl Memory for Fake {
        fn peek(&self, address: u64) -> Option<u32> {
            let bytes = self.0.get(address as usize..)?.first_chunk()?;
            Some(u32::from_le_bytes(*bytes))
        }
    }

    fn put(memory: &mut [u8], at: usize, bytes: &[u8]) {
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn pvh_gives_ram_and_module() {
        let mut m = vec![0u8; 4096];
        put(&mut m, 0, &0x336e_c578u32.to_le_bytes());
        put(&mut m, 4, &1u32.to_le_bytes());
        put(&mut m, 12, &1u32.to_le_bytes());
        put(&mut m, 16, &256u64.to_le_bytes());
        put(&mut m, 40, &768u64.to_le_bytes());
        put(&mut m, 48, &2u32.to_le_bytes());
        put(&mut m, 256, &0x10_0000u64.to_le_bytes());
        put(&mut m, 264, &0x2000u64.to_le_bytes());
        put(&mut m, 776, &0x9_f000u64.to_le_bytes());
        put(&mut m, 784, &1u32.to_le_bytes());
        put(&mut m, 792, &0xf000u64.to_le_bytes());
        put(&mut m, 800, &0x1000u64.to_le_bytes());
        put(&mut m, 808, &2u32.to_le_bytes());
        let handover = pvh(&Fake(m), 0).unwrap();
        assert_eq!(handover.ram.as_slice(), &[Region { start: 0, end: 0x9_f000 }]);
        assert_eq!(handover.image, Some(Region { start: 0x10_0000, end: 0x10_2000 }));
    }

    #[test]
    fn a_hand_over_without_magic_map_or_reach_is_refused() {
        assert_eq!(pvh(&Fake(vec![0; 64]), 0).unwrap_err(), MAGIC);
        let mut m = vec![0u8; 64];
        put(&mut m, 0, &0x336e_c578u32.to_le_bytes());
        assert_eq!(pvh(&Fake(m.clone()), 0).unwrap_err(), NO_MEMORY_MAP);
        m.truncate(20);
        assert_eq!(pvh(&Fake(m), 0).unwrap_err(), BOUNDS);
        assert_eq!(multiboot2(&Fake(vec![0; 64]), 0).unwrap_err(), BOUNDS);
    }

    proptest::proptest! {
        #[test]
        fn no_hand_over_makes_the_readers_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..512)) {
            let mut bytes = bytes;
            let _ = multiboot2(&Fake(bytes.clone()), 0);
            if bytes.len() >= 8 { put(&mut bytes, 0, &0x336e_c578u32.to_le_bytes()); put(&mut bytes, 4, &1u32.to_le_bytes()); }
            let _ = pvh(&Fake(bytes), 0);
        }
    }
}

//! The guest's own page tables, walked in this service's address space: linear to guest-physical, with
//! the rights and the accessed and dirty bits that the processor would apply.
//!
//! A walk takes at most four steps, whatever the tables hold. An entry is marked only as the walk read it: one that
//! another vCPU took out or changed meanwhile stays as that vCPU left it, and the walk begins anew.

use crate::memory::{GuestMemory, load};
use portcullis_ipc::exit::ExitPage;

/// What the access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// The page fault that the access raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// Linear address, for CR2.
    pub address: u64,
    /// Error code.
    pub error: u32,
}

/// Why an access has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// It raises this page fault.
    Fault(PageFault),
    /// Another vCPU changed an entry during each of [`TRIES`] walks: the instruction has to run again.
    Busy,
}

/// Walks that one translation makes while another vCPU changes the entries on its way.
const TRIES: usize = 8;

/// The state that decides how an address is translated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Translation {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// Privilege level 3.
    pub user: bool,
    /// RFLAGS.AC.
    pub alignment_check: bool,
}

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

/// How a set of tables is built: levels, bits of index at each, bytes of an entry, address bits of CR3.
#[derive(Clone, Copy)]
struct Shape {
    levels: u32,
    index_bits: u32,
    entry: u64,
    root: u64,
}

const FOUR: Shape = Shape { levels: 4, index_bits: 9, entry: 8, root: FRAME };
const THREE: Shape = Shape { levels: 3, index_bits: 9, entry: 8, root: 0xffff_ffe0 };
const TWO: Shape = Shape { levels: 2, index_bits: 10, entry: 4, root: 0xffff_f000 };

impl Translation {
    /// From an exit page whose CONTROL group is valid.
    pub fn of(page: &ExitPage) -> Self {
        Self {
            cr0: page.cr0,
            cr3: page.cr3,
            cr4: page.cr4,
            efer: page.efer,
            user: page.cpl == 3,
            alignment_check: page.rflags & 1 << 18 != 0,
        }
    }

    /// For the processor's own accesses to descriptors and tasks: a supervisor's, whatever level the guest runs at.
    pub fn system(page: &ExitPage) -> Self {
        Self { user: false, alignment_check: false, ..Self::of(page) }
    }

    /// Translates `linear` for `access`.
    pub fn translate(&self, memory: &mut impl GuestMemory, linear: u64, access: Access) -> Result<u64, Miss> {
        let low = linear & 0xffff_ffff;
        for _ in 0..TRIES {
            // Each call is compiled for its shape: this is on the way of every decoded instruction.
            let walked = match (self.cr0 & CR0_PG != 0, self.efer & EFER_LMA != 0, self.cr4 & CR4_PAE != 0) {
                (false, ..) => return Ok(low),
                (_, true, _) => self.walk(memory, linear, access, FOUR),
                (_, _, true) => self.walk(memory, low, access, THREE),
                _ => self.walk(memory, low, access, TWO),
            };
            match walked {
                Ok(Some(physical)) => return Ok(physical),
                Ok(None) => {}
                Err(fault) => return Err(Miss::Fault(fault)),
            }
        }
        Err(Miss::Busy)
    }

    /// The address; `None` when an entry changed under the walk.
    #[inline(always)]
    fn walk(
        &self,
        memory: &mut impl GuestMemory,
        linear: u64,
        access: Access,
        shape: Shape,
    ) -> Result<Option<u64>, PageFault> {
        let entries = memory.entries();
        let nx_counts = self.efer & EFER_NXE != 0 && shape.entry == 8;
        let mut table = self.cr3 & shape.root;
        // Bits that every entry on the way has, and bits that any has.
        let (mut all, mut any) = (WRITABLE | USER, 0);
        let mut level = shape.levels;
        loop {
            let shift = 12 + (level - 1) * shape.index_bits;
            let root_of_three = shape.levels == 3 && level == 3;
            // The root of the three-level form has four entries.
            let places = if root_of_three { 4 } else { 1 << shape.index_bits };
            let at = table + (linear >> shift & (places - 1)) * shape.entry;
            let entry = if shape.entry == 8 { load::<8>(memory, at) } else { load::<4>(memory, at) };
            if entry & PRESENT == 0 {
                return Err(self.fault(linear, access, 0, nx_counts));
            }
            let leaf = level == 1 || (entry & LARGE != 0 && self.large_at(level, &shape));
            let huge = leaf && level == 3 && !entries.gigabytes;
            let wide = shape.entry == 8 && entry & entries.reserved != 0;
            if huge || wide || self.reserved(entry, level, leaf, root_of_three, &shape, nx_counts) {
                return Err(self.fault(linear, access, 1 | 1 << 3, nx_counts));
            }
            if !root_of_three {
                all &= entry;
                any |= entry;
            }
            if leaf {
                let executable = !nx_counts || any & NO_EXECUTE == 0;
                if !self.allowed(access, all & WRITABLE != 0, all & USER != 0, executable) {
                    return Err(self.fault(linear, access, 1, nx_counts));
                }
                let dirty = if access == Access::Write { DIRTY } else { 0 };
                if !mark(memory, at, entry, ACCESSED | dirty, shape.entry) {
                    return Ok(None);
                }
                let offset = linear & ((1 << shift) - 1);
                return Ok(Some(frame(entry, level, &shape) & !((1 << shift) - 1) | offset));
            }
            if !root_of_three && !mark(memory, at, entry, ACCESSED, shape.entry) {
                return Ok(None);
            }
            table = if shape.entry == 8 { entry & FRAME } else { entry & 0xffff_f000 };
            level -= 1;
        }
    }

    #[inline(always)]
    fn large_at(&self, level: u32, shape: &Shape) -> bool {
        match shape.levels {
            4 => level == 2 || level == 3,
            3 => level == 2,
            _ => level == 2 && self.cr4 & CR4_PSE != 0,
        }
    }

    #[inline(always)]
    fn reserved(&self, entry: u64, level: u32, leaf: bool, root: bool, shape: &Shape, nx: bool) -> bool {
        if shape.entry == 4 {
            // Bit 21 of a 4 MiB entry; bits 13 to 20 hold the upper address bits.
            return leaf && level == 2 && entry & 1 << 21 != 0;
        }
        if root {
            // Its low bits were checked when CR3 was loaded, or this processor does not care.
            return entry & 0xfff0_0000_0000_0000 != 0;
        }
        let no_nx = !nx && entry & NO_EXECUTE != 0;
        let no_such_large = !leaf && entry & LARGE != 0;
        let upper = shape.levels == 3 && entry & 0x7ff0_0000_0000_0000 != 0;
        let misaligned = match (leaf, level) {
            (true, 2) => entry & 0x001f_e000 != 0,
            (true, 3) => entry & 0x3fff_e000 != 0,
            _ => false,
        };
        no_nx || no_such_large || upper || misaligned
    }

    #[inline(always)]
    fn allowed(&self, access: Access, writable: bool, user: bool, executable: bool) -> bool {
        if self.user {
            return user
                && match access {
                    Access::Read => true,
                    Access::Write => writable,
                    Access::Fetch => executable,
                };
        }
        let guarded = user && self.cr4 & CR4_SMAP != 0 && !self.alignment_check;
        match access {
            Access::Read => !guarded,
            Access::Write => !guarded && (writable || self.cr0 & CR0_WP == 0),
            Access::Fetch => executable && !(user && self.cr4 & CR4_SMEP != 0),
        }
    }

    #[cold]
    fn fault(&self, address: u64, access: Access, error: u32, nx_counts: bool) -> PageFault {
        let smep = self.cr4 & CR4_SMEP != 0;
        let kind = match access {
            Access::Read => 0,
            Access::Write => 1 << 1,
            Access::Fetch if nx_counts || smep => 1 << 4,
            Access::Fetch => 0,
        };
        PageFault { address, error: error | kind | u32::from(self.user) << 2 }
    }
}

/// Whether a load of CR3 under PAE paging takes the four entries that it finds: those present have no reserved bit set.
pub fn takes_pae_root(memory: &impl GuestMemory, cr3: u64, physical_bits: u32) -> bool {
    let reserved = 0x1e6 | u64::MAX.checked_shl(physical_bits).unwrap_or(0);
    (0..4).all(|index| {
        let entry = load::<8>(memory, (cr3 & THREE.root) + 8 * index);
        entry & PRESENT == 0 || entry & reserved == 0
    })
}

#[inline(always)]
fn frame(entry: u64, level: u32, shape: &Shape) -> u64 {
    match (shape.entry, level) {
        (8, _) => entry & FRAME,
        (_, 1) => entry & 0xffff_f000,
        // 36-bit page-size extension: address bits 32 to 39 stand in bits 13 to 20.
        _ => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
    }
}

/// Sets bits of an entry where they are not set yet, as the processor does: only while the entry is the one that was
/// read. `false` when it is another by now.
#[inline(always)]
fn mark(memory: &mut impl GuestMemory, at: u64, entry: u64, bits: u64, width: u64) -> bool {
    entry & bits == bits || memory.exchange(at, width as usize, entry, entry | bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Entries;
    use crate::memory::tests::Plain;
    use proptest::prelude::*;

    const ALL: u64 = PRESENT | WRITABLE | USER;

    fn put64(memory: &mut Plain, at: usize, value: u64) {
        memory.put(at, &value.to_le_bytes());
    }

    fn long() -> Translation {
        Translation {
            cr0: CR0_PG | CR0_WP | 1,
            cr3: 0x1000,
            cr4: CR4_PAE,
            efer: EFER_LMA | EFER_NXE,
            ..Default::default()
        }
    }

    /// 0x40_0000 to 0x5000 by four levels, 0x20_0000 as a large page.
    fn long_memory(leaf: u64) -> Plain {
        let mut memory = Plain::new(0x40_0000);
        put64(&mut memory, 0x1000, 0x2000 | ALL);
        put64(&mut memory, 0x2000, 0x3000 | ALL);
        put64(&mut memory, 0x3008, 0x20_0000 | ALL | LARGE);
        put64(&mut memory, 0x3010, 0x4000 | ALL);
        put64(&mut memory, 0x4000, 0x5000 | leaf);
        memory
    }

    #[test]
    fn without_paging_linear_is_physical_within_32_bits() {
        let off = Translation::default();
        let result = off.translate(&mut Plain::new(0), 0x1_0000_1234, Access::Read);
        assert_eq!(result, Ok(0x1234));
    }

    #[test]
    fn four_levels_translate_small_and_large_pages_and_mark_them() {
        let mut memory = long_memory(ALL);
        assert_eq!(long().translate(&mut memory, 0x40_0123, Access::Write), Ok(0x5123));
        assert_eq!(load::<8>(&memory, 0x4000), 0x5000 | ALL | ACCESSED | DIRTY);
        assert_eq!(load::<8>(&memory, 0x1000), 0x2000 | ALL | ACCESSED);
        assert_eq!(long().translate(&mut memory, 0x3f_ffff, Access::Read), Ok(0x3f_ffff));
    }

    #[test]
    fn rights_follow_the_processor() {
        let user = Translation { user: true, ..long() };
        let smap = Translation { cr4: CR4_PAE | CR4_SMAP | CR4_SMEP, ..long() };
        let stac = Translation { alignment_check: true, ..smap };
        let no_wp = Translation { cr0: CR0_PG | 1, ..long() };
        let table: [(Translation, u64, Access, Option<u32>); 12] = [
            (long(), PRESENT, Access::Read, None),
            (long(), PRESENT, Access::Write, Some(0b0_0011)),
            (no_wp, PRESENT, Access::Write, None),
            (user, PRESENT | WRITABLE, Access::Read, Some(0b0_0101)),
            (user, PRESENT | USER, Access::Write, Some(0b0_0111)),
            (user, PRESENT | USER | NO_EXECUTE, Access::Fetch, Some(0b1_0101)),
            (user, PRESENT | USER, Access::Fetch, None),
            (long(), 0, Access::Write, Some(0b0_0010)),
            (smap, ALL, Access::Read, Some(0b0_0001)),
            (stac, ALL, Access::Read, None),
            (smap, ALL, Access::Fetch, Some(0b1_0001)),
            (long(), PRESENT | NO_EXECUTE, Access::Fetch, Some(0b1_0001)),
        ];
        for (translation, leaf, access, error) in table {
            let result = translation.translate(&mut long_memory(leaf), 0x40_0000, access);
            let expected = error.map_or(Ok(0x5000), |error| Err(Miss::Fault(PageFault { address: 0x40_0000, error })));
            assert_eq!(result, expected, "{leaf:#x} {access:?} {translation:?}");
        }
    }

    #[test]
    fn a_table_outside_memory_raises_a_reserved_bit_fault() {
        let far = Translation { cr3: 0x8000_0000, ..long() };
        let result = far.translate(&mut long_memory(ALL), 0, Access::Read);
        // All ones has the large bit set where none may be.
        assert_eq!(result, Err(Miss::Fault(PageFault { address: 0, error: 0b1001 })));
    }

    #[test]
    fn two_levels_translate_small_and_four_megabyte_pages() {
        let mut memory = Plain::new(0x10_0000);
        memory.put(0x1000, &(0x2000u32 | ALL as u32).to_le_bytes());
        memory.put(0x1004, &(0x80_0000u32 | (ALL | LARGE) as u32).to_le_bytes());
        memory.put(0x2004, &(0x7000u32 | ALL as u32).to_le_bytes());
        let legacy = Translation { cr0: CR0_PG, cr3: 0x1000, cr4: CR4_PSE, ..Default::default() };
        assert_eq!(legacy.translate(&mut memory, 0x1fff, Access::Write), Ok(0x7fff));
        assert_eq!(load::<4>(&memory, 0x2004), 0x7000 | ALL | ACCESSED | DIRTY);
        assert_eq!(legacy.translate(&mut memory, 0x40_1234, Access::Read), Ok(0x80_1234));
    }

    #[test]
    fn three_levels_take_their_root_from_a_32_byte_aligned_table() {
        let mut memory = Plain::new(0x10_0000);
        put64(&mut memory, 0x1020, 0x2000 | PRESENT);
        put64(&mut memory, 0x2000, 0x3000 | ALL);
        put64(&mut memory, 0x3008, 0x9000 | ALL);
        let pae = Translation { cr0: CR0_PG, cr3: 0x1020, cr4: CR4_PAE, ..Default::default() };
        assert_eq!(pae.translate(&mut memory, 0x1010, Access::Read), Ok(0x9010));
        assert_eq!(load::<8>(&memory, 0x1020), 0x2000 | PRESENT);
    }

    #[test]
    fn a_pae_root_is_taken_without_reserved_bits_in_its_present_entries() {
        let table = [
            (0x2001, 40, true),
            (0x2019, 40, true),
            (0x2003, 40, false),
            (0x2021, 40, false),
            (0x2002, 40, true),
            (1 << 40 | 1, 40, false),
            (1 << 40 | 1, 41, true),
            (1 << 63 | 1, 52, false),
            (0x2001, 255, true),
        ];
        for (entry, physical_bits, taken) in table {
            let mut memory = Plain::new(0x2000);
            put64(&mut memory, 0x1038, entry);
            assert_eq!(takes_pae_root(&memory, 0x103f, physical_bits), taken, "{entry:#x} of {physical_bits}");
        }
        assert!(!takes_pae_root(&Plain::new(0x2000), 0x2000, 40), "nothing there reads all ones");
    }

    /// Memory in which another vCPU changes one entry after a walk's load of it, so many times.
    struct Racing {
        memory: Plain,
        entry: u64,
        becomes: Vec<u64>,
    }

    /// Tables with an entry of `width` bytes for linear 0 that can be marked.
    fn racing(width: u64, becomes: &[u64]) -> Racing {
        let mut memory = Plain::new(0x1_0000);
        for at in [0x1000, 0x2000, 0x3000, 0x4000] {
            memory.put(at, &((at as u64 + 0x1000) | ALL).to_le_bytes()[..width as usize]);
        }
        Racing { memory, entry: if width == 8 { 0x4000 } else { 0x2000 }, becomes: becomes.to_vec() }
    }

    impl Racing {
        fn translate(self, access: Access) -> (Result<u64, Miss>, u64) {
            let width = if self.entry == 0x4000 { 8 } else { 4 };
            let legacy = Translation { cr0: CR0_PG, cr3: 0x1000, ..Default::default() };
            let translation = if width == 8 { long() } else { legacy };
            let entry = self.entry;
            let mut shared = Shared(core::cell::RefCell::new(self));
            let result = translation.translate(&mut shared, 0, access);
            let memory = &shared.0.borrow().memory;
            (result, if width == 8 { load::<8>(memory, entry) } else { load::<4>(memory, entry) })
        }
    }

    struct Shared(core::cell::RefCell<Racing>);

    impl GuestMemory for Shared {
        fn size(&self) -> u64 {
            self.0.borrow().memory.size()
        }
        fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
            self.0.borrow().memory.read(address, bytes)
        }
        fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
            self.0.get_mut().memory.write(address, bytes)
        }
        fn zero(&mut self, _: u64, _: u64) -> bool {
            false
        }
        fn exchange(&mut self, address: u64, width: usize, old: u64, new: u64) -> bool {
            self.0.get_mut().memory.exchange(address, width, old, new)
        }
        fn word(&self, address: u64) -> u64 {
            let racing = &mut *self.0.borrow_mut();
            let found = racing.memory.word(address);
            if address == racing.entry && !racing.becomes.is_empty() {
                let becomes = racing.becomes.remove(0);
                racing.memory.put(address as usize, &becomes.to_le_bytes()[..4]);
            }
            found
        }
    }

    #[test]
    fn an_entry_that_another_vcpu_took_out_stays_out() {
        for width in [4, 8] {
            for access in [Access::Read, Access::Write] {
                let error = if access == Access::Write { 2 } else { 0 };
                let gone = Err(Miss::Fault(PageFault { address: 0, error }));
                assert_eq!(racing(width, &[0]).translate(access), (gone, 0), "{width} bytes");
            }
        }
    }

    #[test]
    fn an_entry_that_another_vcpu_changed_is_walked_anew() {
        for width in [4, 8] {
            let other = 0x7000 | ALL;
            let taken = (Ok(0x7000), other | ACCESSED | DIRTY);
            assert_eq!(racing(width, &[other]).translate(Access::Write), taken, "{width} bytes");
            let without_end: Vec<u64> = (0..100).map(|index| (7 + index % 2) << 12 | ALL).collect();
            let (result, entry) = racing(width, &without_end).translate(Access::Write);
            assert_eq!((result, entry & (ACCESSED | DIRTY)), (Err(Miss::Busy), 0), "{width} bytes");
        }
    }

    #[test]
    fn address_bits_beyond_the_processors_width_and_huge_pages_it_lacks_are_reserved() {
        struct Narrow(Plain, Entries);
        impl GuestMemory for Narrow {
            fn size(&self) -> u64 {
                self.0.size()
            }
            fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
                self.0.read(address, bytes)
            }
            fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
                self.0.write(address, bytes)
            }
            fn zero(&mut self, _: u64, _: u64) -> bool {
                false
            }
            fn exchange(&mut self, address: u64, width: usize, old: u64, new: u64) -> bool {
                self.0.exchange(address, width, old, new)
            }
            fn entries(&self) -> Entries {
                self.1
            }
        }
        let reserved = Err(Miss::Fault(PageFault { address: 0x40_0000, error: 0b1001 }));
        for (leaf, bits, expected) in [
            (0, 36, Ok(0x5000)),
            (1 << 36, 36, reserved),
            (1 << 36, 37, Ok(1 << 36 | 0x5000)),
            (1 << 51, 51, reserved),
            (1 << 51, 52, Ok(1 << 51 | 0x5000)),
        ] {
            let mut memory = Narrow(long_memory(leaf | ALL), Entries::new(bits, true));
            assert_eq!(long().translate(&mut memory, 0x40_0000, Access::Read), expected, "{leaf:#x} of {bits}");
        }
        for (gigabytes, expected) in [(true, Ok(0x40_0000)), (false, reserved)] {
            let mut memory = Narrow(long_memory(ALL), Entries::new(40, gigabytes));
            put64(&mut memory.0, 0x2000, ALL | LARGE);
            assert_eq!(long().translate(&mut memory, 0x40_0000, Access::Read), expected);
        }
    }

    proptest! {
        /// Hostile tables, also those that point to themselves, end in an address or a fault.
        #[test]
        fn no_table_makes_a_walk_endless(
            words in prop::collection::vec(any::<u64>(), 512),
            cr0: u64, cr3 in 0u64..8192, cr4: u64, efer: u64, user: bool, linear: u64
        ) {
            let mut memory = Plain::new(4096);
            for (index, word) in words.iter().enumerate() {
                // Keep frames inside the page, so that walks go on.
                put64(&mut memory, index * 8, word & 0x80ff_ffff_0000_0fff);
            }
            let translation = Translation { cr0, cr3, cr4, efer, user, alignment_check: false };
            for access in [Access::Read, Access::Write, Access::Fetch] {
                let _ = translation.translate(&mut memory, linear, access);
            }
        }
    }
}

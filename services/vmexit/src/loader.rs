//! The state in which a guest starts: registers by entry mode, and for long mode the page tables and
//! descriptors in its memory. RBX holds the bytes of guest memory.
//!
//! In guest memory the loader uses 0x1000 to 0x7fff, of guests that do not start in real mode; the
//! stack pointer starts at 0x9000. The guest may take all of it over.

use crate::config::Entry;
use crate::memory::GuestMemory;
use portcullis_ipc::exit::{ExitPage, Segment, gpr, group, segment};

/// Page tables: root, next level, then one table for each GiB.
const TABLES: u64 = 0x1000;
/// GiB that the tables map.
const MAPPED: u64 = 4;
const DESCRIPTORS: u64 = 0x7000;
const STACK: u64 = 0x9000;
const CODE: u16 = 0x08;
const DATA: u16 = 0x10;

const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;

/// CR0: PE, ET. Long mode adds MP, NE, WP, PG.
const CR0_PROTECTED: u64 = 0x11;
const CR0_LONG: u64 = CR0_PROTECTED | 1 << 1 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4: PAE, OSFXSR, OSXMMEXCPT.
const CR4_LONG: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// EFER: LME, LMA.
const EFER_LONG: u64 = 1 << 8 | 1 << 10;
/// Reset value of the PAT register.
const PAT: u64 = 0x0007_0406_0007_0406;

fn flat(selector: u16, attributes: u16, limit: u32) -> Segment {
    Segment { selector, attributes, limit, base: 0 }
}

/// Writes what a guest of this entry mode finds in memory besides its image; `false` when memory is too
/// small.
pub fn prepare(memory: &mut impl GuestMemory, entry: Entry) -> bool {
    if entry == Entry::Real16 {
        return true;
    }
    let code: u64 = if entry == Entry::Long64 { 0x00af_9b00_0000_ffff } else { 0x00cf_9b00_0000_ffff };
    let mut done = true;
    for (index, descriptor) in [0, code, 0x00cf_9300_0000_ffff].into_iter().enumerate() {
        done &= memory.write(DESCRIPTORS + index as u64 * 8, &u64::to_le_bytes(descriptor));
    }
    if entry == Entry::Long64 {
        let (directory_pointers, directories) = (TABLES + 0x1000, TABLES + 0x2000);
        done &= memory.write(TABLES, &(directory_pointers | PRESENT_WRITABLE).to_le_bytes());
        for gib in 0..MAPPED {
            let table = directories + gib * 0x1000;
            done &= memory.write(directory_pointers + gib * 8, &(table | PRESENT_WRITABLE).to_le_bytes());
            for index in 0..512 {
                let leaf = (gib << 30 | index << 21) | PRESENT_WRITABLE | LARGE;
                done &= memory.write(table + index * 8, &leaf.to_le_bytes());
            }
        }
    }
    done
}

/// Fills the page with the state at the first instruction, all groups but the time.
pub fn start(page: &mut ExitPage, entry: Entry, load: u64, memory_bytes: u64) {
    page.registers = [0; 16];
    page.registers[gpr::RBX] = memory_bytes;
    page.rflags = 2;
    (page.cr2, page.cr3, page.xcr0) = (0, 0, 1);
    (page.dr, page.dr6, page.dr7) = ([0; 4], 0xffff_0ff0, 0x400);
    (page.star, page.lstar, page.cstar, page.sfmask, page.kernel_gs_base) = (0, 0, 0, 0, 0);
    (page.sysenter_cs, page.sysenter_esp, page.sysenter_eip) = (0, 0, 0);
    (page.pat, page.tsc_aux) = (PAT, 0);
    (page.event, page.shadow, page.windows) = (0, 0, 0);
    page.gdtr = flat(0, 0, 0xffff);
    page.idtr = flat(0, 0, 0xffff);
    let (code, data) = match entry {
        Entry::Real16 => (0x9b, 0x93),
        Entry::Protected32 => (0xc9b, 0xc93),
        Entry::Long64 => (0xa9b, 0xc93),
    };
    if entry == Entry::Real16 {
        (page.cr0, page.cr4, page.efer) = (0x10, 0, 0);
        page.segments = [flat(0, data, 0xffff); 8];
        // Below 64 KiB code runs at 0:load, as firmware starts a boot sector.
        let paragraph = if load <= 0xffff { 0 } else { (load >> 4) as u16 };
        page.segments[segment::CS] =
            Segment { selector: paragraph, attributes: code, limit: 0xffff, base: u64::from(paragraph) << 4 };
        page.rip = load - (u64::from(paragraph) << 4);
        page.registers[gpr::RSP] = 0x7c00;
        page.idtr.limit = 0x3ff;
    } else {
        let long = entry == Entry::Long64;
        (page.cr0, page.cr4, page.efer) = if long { (CR0_LONG, CR4_LONG, EFER_LONG) } else { (CR0_PROTECTED, 0, 0) };
        page.cr3 = if long { TABLES } else { 0 };
        page.segments = [flat(DATA, data, u32::MAX); 8];
        page.segments[segment::CS] = flat(CODE, code, u32::MAX);
        page.gdtr = Segment { limit: 23, base: DESCRIPTORS, ..Segment::default() };
        page.rip = load;
        page.registers[gpr::RSP] = STACK;
    }
    page.segments[segment::LDTR] = flat(0, 0x82, 0xffff);
    page.segments[segment::TR] = flat(0, 0x8b, 0xffff);
    page.xsave.fill(0);
    let (control, mxcsr) = (0x37f_u16.to_le_bytes(), 0x1f80_u32.to_le_bytes());
    page.xsave[..2].copy_from_slice(&control);
    page.xsave[24..28].copy_from_slice(&mxcsr);
    page.dirty = group::ALL & !group::TIME;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::Plain;
    use crate::paging::{Access, Translation};
    use crate::registers::bits;
    use zerocopy::FromZeros;

    fn started(entry: Entry, load: u64) -> ExitPage {
        let mut page = ExitPage::new_zeroed();
        start(&mut page, entry, load, 8 << 20);
        page
    }

    #[test]
    fn each_mode_starts_at_the_load_address_with_the_size_of_memory_in_rbx() {
        for (entry, load, code_bits) in [
            (Entry::Real16, 0x7c00, 16),
            (Entry::Real16, 0x2_0000, 16),
            (Entry::Protected32, 0x10_0000, 32),
            (Entry::Long64, 0x10_0000, 64),
        ] {
            let page = started(entry, load);
            assert_eq!(page.segments[segment::CS].base + page.rip, load);
            assert_eq!(page.registers[gpr::RBX], 8 << 20);
            assert_eq!(bits(&page), code_bits);
            assert_eq!(page.rflags, 2);
        }
    }

    #[test]
    fn long_mode_maps_four_gib_one_to_one() {
        let mut memory = Plain::new(0x8000);
        assert!(prepare(&mut memory, Entry::Long64));
        let page = started(Entry::Long64, 0x10_0000);
        let translation = Translation::of(&page);
        for address in [0, 0x10_0000, 0x3fff_ffff, 0x1_0000_0000 - 1] {
            assert_eq!(translation.translate(&mut memory, address, Access::Write), Ok(address));
        }
        assert!(translation.translate(&mut memory, 0x1_0000_0000, Access::Read).is_err());
    }

    #[test]
    fn memory_that_is_too_small_for_the_tables_is_noticed() {
        assert!(!prepare(&mut Plain::new(0x7000), Entry::Long64));
        assert!(prepare(&mut Plain::new(0), Entry::Real16));
    }
}

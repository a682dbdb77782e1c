//! The states in which further processors enter the guest: real mode after INIT and a start-up, and 64-bit
//! mode from the mailbox. The page tables of the latter lie in memory that the guest is told is reserved.

use crate::memory::GuestMemory;
use portcullis_ipc::exit::{ExitPage, Segment, gpr, group, segment};

/// Page tables: root, next level, then one table for each GiB.
const TABLES: u64 = 0xf_8000;
const PAGE: u64 = 0x1000;
/// GiB that they map, one to one.
const MAPPED: u64 = 4;
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;

/// CR0 after INIT: CD, NW, ET.
const CR0_AT_INIT: u64 = 0x6000_0010;
/// CR0 as UEFI's firmware for 64 bits leaves it: PE, MP, ET, NE, WP, PG.
const CR0_LONG: u64 = 0x8001_0033;
/// CR4 likewise: DE, PAE, MCE, OSFXSR, OSXMMEXCPT.
const CR4_LONG: u64 = 1 << 3 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10;
/// EFER likewise: LME, LMA, NXE. Linux from 6.12 on loads page tables with no-execute bits before it writes EFER.
const EFER_LONG: u64 = 1 << 8 | 1 << 10 | 1 << 11;
/// Reset value of the PAT register.
const PAT: u64 = 0x0007_0406_0007_0406;

/// The state after INIT and a start-up at `address`: AMD APM volume 2, table 14-1.
pub fn at_startup(page: &mut ExitPage, address: u64) {
    reset(page);
    page.segments[segment::CS] =
        Segment { selector: (address >> 4) as u16, attributes: 0x9b, limit: 0xffff, base: address };
}

/// The state in which the mailbox starts a processor at `address`: 64-bit mode, memory mapped one to one,
/// interrupts off, no descriptor tables. `false` when guest memory is too small for the page tables.
pub fn at_mailbox(page: &mut ExitPage, memory: &mut impl GuestMemory, address: u64) -> bool {
    reset(page);
    let flat = |attributes| Segment { selector: 0, attributes, limit: u32::MAX, base: 0 };
    for index in [segment::ES, segment::SS, segment::DS, segment::FS, segment::GS] {
        if let Some(place) = page.segments.get_mut(index) {
            *place = flat(0xc93);
        }
    }
    page.segments[segment::CS] = flat(0xa9b);
    page.rip = address;
    (page.cr0, page.cr3, page.cr4, page.efer) = (CR0_LONG, TABLES, CR4_LONG, EFER_LONG);
    identity(memory)
}

/// Writes the page tables; they are the same for every processor.
fn identity(memory: &mut impl GuestMemory) -> bool {
    let mut word = |address: u64, value: u64| memory.write(address, &value.to_le_bytes());
    let mut done = word(TABLES, (TABLES + PAGE) | PRESENT_WRITABLE);
    for gib in 0..MAPPED {
        let table = TABLES + (2 + gib) * PAGE;
        done &= word(TABLES + PAGE + gib * 8, table | PRESENT_WRITABLE);
        for index in 0..512 {
            done &= word(table + index * 8, (gib << 30 | index << 21) | PRESENT_WRITABLE | LARGE);
        }
    }
    done
}

/// What both have in common.
fn reset(page: &mut ExitPage) {
    let segment = |attributes| Segment { selector: 0, attributes, limit: 0xffff, base: 0 };
    page.registers = [0; 16];
    // Family 6, as a processor gives its signature at reset.
    page.registers[gpr::RDX] = 0x600;
    (page.rip, page.rflags) = (0, 2);
    (page.cr0, page.cr2, page.cr3, page.cr4) = (CR0_AT_INIT, 0, 0, 0);
    (page.efer, page.xcr0) = (0, 1);
    (page.dr, page.dr6, page.dr7) = ([0; 4], 0xffff_0ff0, 0x400);
    page.segments = [segment(0x93); 10];
    page.segments[segment::LDTR] = segment(0x82);
    page.segments[segment::TR] = segment(0x8b);
    page.segments[segment::GDTR] = segment(0);
    page.segments[segment::IDTR] = segment(0);
    (page.star, page.lstar, page.cstar, page.sfmask, page.kernel_gs_base) = (0, 0, 0, 0, 0);
    (page.sysenter_cs, page.sysenter_esp, page.sysenter_eip) = (0, 0, 0);
    (page.pat, page.tsc_aux) = (PAT, 0);
    (page.event, page.shadow, page.windows) = (0, 0, 0);
    page.xsave.fill(0);
    page.xsave[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
    page.xsave[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    page.dirty = group::ALL & !group::TIME;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::Plain;
    use crate::paging::{Access, Translation};
    use crate::registers::bits;
    use zerocopy::FromZeros;

    #[test]
    fn a_start_up_enters_real_mode_at_its_page() {
        let mut page = ExitPage::new_zeroed();
        at_startup(&mut page, 0x9_9000);
        let cs = page.segments[segment::CS];
        assert_eq!((cs.selector, cs.base, page.rip, bits(&page)), (0x9900, 0x9_9000, 0, 16));
        assert_eq!((page.rflags, page.dirty), (2, group::ALL & !group::TIME));
    }

    #[test]
    fn the_mailbox_enters_64_bit_mode_with_four_gib_mapped_one_to_one() {
        let mut memory = Plain::new(0x10_0000);
        let mut page = ExitPage::new_zeroed();
        assert!(at_mailbox(&mut page, &mut memory, 0x9_a123));
        assert_eq!((page.rip, bits(&page), page.rflags), (0x9_a123, 64, 2));
        assert_eq!((page.cr0, page.cr4, page.efer), (0x8001_0033, 0x668, 0xd00), "what UEFI's firmware leaves");
        let translation = Translation::of(&page);
        for address in [0, 0x9_a123, 0xfee0_0000, 0xffff_ffff] {
            assert_eq!(translation.translate(&mut memory, address, Access::Write), Ok(address));
        }
        assert!(!at_mailbox(&mut page, &mut Plain::new(0x8_0000), 0));
    }
}

//! Parts of registers, the mode of the code, and what the end of an emulated instruction does.

use crate::exception::{raise, vector};
use crate::exits::debug::detect_no_more;
use portcullis_ipc::exit::{ExitPage, group, segment, shadow};

/// RFLAGS.TF.
pub const TRAP: u64 = 1 << 8;
/// RFLAGS.IF: interrupts are on.
pub const INTERRUPTS: u64 = 1 << 9;
/// RFLAGS.DF.
pub const DIRECTION: u64 = 1 << 10;
/// RFLAGS.RF.
pub const RESUME: u64 = 1 << 16;
/// RFLAGS.VM.
pub const VIRTUAL_8086: u64 = 1 << 17;
/// CR0.PE.
const PROTECTED: u64 = 1;
/// EFER.LMA.
const LONG: u64 = 1 << 10;
/// Segment attribute L.
const ATTRIBUTE_LONG: u16 = 1 << 9;
/// Segment attribute D/B.
const ATTRIBUTE_BIG: u16 = 1 << 10;
/// DR6.BS.
const SINGLE_STEP: u64 = 1 << 14;

/// `old` with its low `width` bytes from `value`; four bytes clear the upper half, as the architecture
/// says.
pub const fn merge(old: u64, width: usize, value: u64) -> u64 {
    match width {
        1 => old & !0xff | value & 0xff,
        2 => old & !0xffff | value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// Real or virtual-8086 mode, in which segments have no rights. Needs the group CONTROL.
pub fn is_real(page: &ExitPage) -> bool {
    page.cr0 & PROTECTED == 0 || page.rflags & VIRTUAL_8086 != 0
}

/// Width of the code in bits: 16, 32 or 64. Needs the groups CONTROL and SEGMENTS.
pub fn bits(page: &ExitPage) -> u32 {
    let [_, cs, ..] = page.segments;
    if is_real(page) {
        16
    } else if page.efer & LONG != 0 && cs.attributes & ATTRIBUTE_LONG != 0 {
        64
    } else if cs.attributes & ATTRIBUTE_BIG != 0 {
        32
    } else {
        16
    }
}

/// The linear address of `offset` in segment `index`. In 64-bit code only FS and GS have a base.
pub fn linear(page: &ExitPage, index: usize, offset: u64, code_bits: u32) -> u64 {
    let base = page.segments.get(index).map_or(0, |one| one.base);
    match code_bits {
        64 if index == segment::FS || index == segment::GS => base.wrapping_add(offset),
        64 => offset,
        _ => base.wrapping_add(offset) & 0xffff_ffff,
    }
}

/// The instruction is done: goes on at `next`, as the processor does after any instruction.
#[inline(always)]
pub fn finish(page: &mut ExitPage, next: u64) {
    page.rip = next;
    page.dirty |= group::FLOW;
    let flags = page.rflags;
    page.rflags = flags & !RESUME;
    if flags & TRAP != 0 || page.shadow & shadow::INTERRUPT != 0 {
        finish_rare(page, flags);
    }
}

#[cold]
fn finish_rare(page: &mut ExitPage, flags: u64) {
    page.shadow &= !shadow::INTERRUPT;
    page.event = 0;
    page.windows = 0;
    page.dirty |= group::EVENT;
    if flags & TRAP != 0 {
        // Group DEBUG was fetched if the trap flag is set.
        page.dr6 |= SINGLE_STEP;
        detect_no_more(page);
        page.dirty |= group::DEBUG;
        raise(page, vector::DEBUG, None);
    }
}

/// The address `length` bytes after RIP, wrapped as the code's width wraps it.
pub fn after(page: &ExitPage, length: usize, code_bits: u32) -> u64 {
    let next = page.rip.wrapping_add(length as u64);
    match code_bits {
        64 => next,
        32 => next & 0xffff_ffff,
        // A 16-bit IP wraps; an EIP beyond 64 KiB in 16-bit code does not become one.
        _ if page.rip <= 0xffff => next & 0xffff,
        _ => next & 0xffff_ffff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_ipc::exit::event::exception;
    use zerocopy::FromZeros;

    fn page(cr0: u64, efer: u64, rflags: u64, attributes: u16) -> ExitPage {
        let mut page = ExitPage::new_zeroed();
        (page.cr0, page.efer, page.rflags) = (cr0, efer, rflags);
        page.segments[segment::CS].attributes = attributes;
        page
    }

    #[test]
    fn writing_part_of_a_register_keeps_or_clears_the_rest() {
        let old = 0x1122_3344_5566_7788;
        let table = [(1, 0x1122_3344_5566_77ff), (2, 0x1122_3344_5566_ffff), (4, 0xffff_ffff), (8, u64::MAX)];
        for (width, expected) in table {
            assert_eq!(merge(old, width, u64::MAX), expected);
        }
    }

    #[test]
    fn the_width_of_code_follows_mode_and_descriptor() {
        let table = [
            (page(0, 0, 0, ATTRIBUTE_BIG), 16),
            (page(1, 0, 0, ATTRIBUTE_BIG), 32),
            (page(1, 0, 0, 0), 16),
            (page(1, 0, VIRTUAL_8086, ATTRIBUTE_BIG), 16),
            (page(1, LONG, 0, ATTRIBUTE_LONG), 64),
            (page(1, LONG, 0, ATTRIBUTE_BIG), 32),
            (page(1, 0, 0, ATTRIBUTE_LONG), 16),
        ];
        for (page, expected) in table {
            assert_eq!(bits(&page), expected);
        }
    }

    #[test]
    fn a_next_address_wraps_at_the_width_of_the_code() {
        let mut page = ExitPage::new_zeroed();
        for (rip, code_bits, expected) in
            [(0xffff, 16, 1), (0x1_fffe, 16, 0x2_0000), (0xffff_ffff, 32, 1), (0xffff_ffff, 64, 0x1_0000_0001)]
        {
            page.rip = rip;
            assert_eq!(after(&page, 2, code_bits), expected);
        }
    }

    #[test]
    fn bases_count_outside_64_bit_code_and_for_fs_and_gs() {
        let mut page = ExitPage::new_zeroed();
        for one in &mut page.segments {
            one.base = 0xffff_0000;
        }
        assert_eq!(linear(&page, segment::DS, 0x1_0010, 32), 0x10);
        assert_eq!(linear(&page, segment::DS, 0x10, 64), 0x10);
        assert_eq!(linear(&page, segment::GS, 0x1_0010, 64), 0x1_0000_0010);
    }

    #[test]
    fn an_emulated_instruction_ends_the_shadow_and_traps_when_single_stepped() {
        let mut plain = page(1, 0, RESUME | 2, 0);
        finish(&mut plain, 5);
        assert_eq!((plain.rip, plain.rflags, plain.dirty), (5, 2, group::FLOW));
        let mut held = page(1, 0, 2, 0);
        held.shadow = shadow::INTERRUPT | shadow::NMI;
        finish(&mut held, 5);
        assert_eq!((held.shadow, held.event), (shadow::NMI, 0));
        let mut stepped = page(1, 0, TRAP | 2, 0);
        finish(&mut stepped, 5);
        assert_eq!(stepped.event, exception(1, None));
        assert_eq!(stepped.dr6, SINGLE_STEP);
    }
}

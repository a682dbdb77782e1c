//! What a segment allows: the checks that a processor makes before it translates the address of an operand. An INS or
//! OUTS exits before them on both vendors, so here is the only place where they are made for those.

use crate::exception::vector;
use crate::registers::{is_real, linear};
use core::ops::RangeInclusive;
use iced_x86::Register;
use portcullis_ipc::exit::{ExitPage, Segment, segment};

/// Segment attribute: writable data, or readable code.
const OPEN: u16 = 1 << 1;
/// Segment attribute of data: its offsets are those above the limit.
const DOWNWARDS: u16 = 1 << 2;
/// Segment attribute: code.
const CODE: u16 = 1 << 3;
/// Segment attribute S: code or data.
const MEMORY: u16 = 1 << 4;
/// Segment attribute P; clear in a segment register that holds a null selector.
const PRESENT: u16 = 1 << 7;
/// Segment attribute D/B.
const BIG: u16 = 1 << 10;

/// Index in the exit page of a segment register.
pub fn index_of(register: Register) -> usize {
    match register {
        Register::ES => segment::ES,
        Register::CS => segment::CS,
        Register::SS => segment::SS,
        Register::FS => segment::FS,
        Register::GS => segment::GS,
        _ => segment::DS,
    }
}

/// The offsets that lie in a segment outside 64-bit code; none when the end lies before the start.
pub fn offsets(one: &Segment) -> RangeInclusive<u64> {
    let limit = u64::from(one.limit);
    match one.attributes {
        kind if kind & (CODE | DOWNWARDS) != DOWNWARDS => 0..=limit,
        kind if kind & BIG != 0 => limit + 1..=0xffff_ffff,
        _ => limit + 1..=0xffff,
    }
}

/// The offsets that lie in segment `index` as code of this width uses it.
pub fn offsets_of(page: &ExitPage, index: usize, code_bits: u32) -> RangeInclusive<u64> {
    match page.segments.get(index) {
        Some(one) if code_bits != 64 => offsets(one),
        _ => 0..=u64::MAX,
    }
}

/// Whether protected mode lets data be read from, or written to, a segment with these attributes.
fn allows(attributes: u16, writes: bool) -> bool {
    let there = attributes & (PRESENT | MEMORY) == PRESENT | MEMORY;
    let code = attributes & CODE != 0;
    let open = attributes & OPEN != 0;
    there && if writes { open && !code } else { open || !code }
}

/// The exception that an access of `length` bytes at `offset` of a segment raises before any translation.
pub fn refusal(page: &ExitPage, index: usize, offset: u64, length: u32, writes: bool, code_bits: u32) -> Option<u8> {
    let fault = if index == segment::SS { vector::STACK } else { vector::PROTECTION };
    if code_bits == 64 {
        let address = linear(page, index, offset, 64);
        let canonical = |address: u64| (address as i64) << 16 >> 16 == address as i64;
        let last = address.wrapping_add(u64::from(length) - 1);
        return (!canonical(address) || !canonical(last)).then_some(fault);
    }
    let open = is_real(page) || page.segments.get(index).is_some_and(|one| allows(one.attributes, writes));
    let inside = offsets_of(page, index, code_bits);
    let last = offset.checked_add(u64::from(length) - 1);
    (!open || !inside.contains(&offset) || last.is_none_or(|last| !inside.contains(&last))).then_some(fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    const DATA: u16 = 0xc93;

    fn page(cr0: u64, attributes: u16, limit: u32) -> ExitPage {
        let mut page = ExitPage::new_zeroed();
        page.cr0 = cr0;
        for one in &mut page.segments {
            (one.attributes, one.limit) = (attributes, limit);
        }
        page
    }

    #[test]
    fn protected_mode_asks_what_kind_of_segment_it_is() {
        // Attributes, and whether data may be read and written.
        for (attributes, reads, writes) in [
            (DATA, true, true),
            (0xc91, true, false),
            (0xc9b, true, false),
            (0xc99, false, false),
            (0xc9f, true, false),
            (0xc13, false, false),
            (0xc83, false, false),
            (0, false, false),
            (0x60, false, false),
        ] {
            for (write, allowed) in [(false, reads), (true, writes)] {
                let page = page(1, attributes, u32::MAX);
                let refused = refusal(&page, segment::ES, 0x4000, 4, write, 32);
                assert_eq!(refused, (!allowed).then_some(vector::PROTECTION), "{attributes:#x} {write}");
            }
        }
        let refused = refusal(&page(1, 0, u32::MAX), segment::SS, 0, 1, false, 32);
        assert_eq!(refused, Some(vector::STACK));
        for cr0 in [0, 1] {
            let mut page = page(cr0, 0, 0xffff);
            page.rflags = 1 << 17;
            assert_eq!(refusal(&page, segment::ES, 0x4000, 4, true, 16), None, "real and virtual-8086 mode");
        }
        let long = refusal(&page(1, 0, 0), segment::ES, 0x4000, 4, true, 64);
        assert_eq!(long, None, "64-bit code");
    }

    #[test]
    fn offsets_end_at_the_limit_or_begin_after_it() {
        // Attributes, limit, offset, length.
        for (attributes, limit, offset, length, inside) in [
            (DATA, 0x3fff, 0x3ffc, 4, true),
            (DATA, 0x3fff, 0x3ffd, 4, false),
            (DATA, u32::MAX, 0xffff_fffd, 4, false),
            (DATA, u32::MAX, u64::MAX, 1, false),
            (0xc97, 0x0fff, 0x1000, 4, true),
            (0xc97, 0x0fff, 0x0fff, 1, false),
            (0xc97, 0x0fff, 0xffff_fffc, 4, true),
            (0xc97, 0x0fff, 0xffff_fffd, 4, false),
            (0x097, 0x0fff, 0xffff, 1, true),
            (0x097, 0x0fff, 0x1_0000, 1, false),
            (0x097, 0x0fff, 0xffff, 2, false),
            (0xc97, u32::MAX, 0, 1, false),
            (0xc97, u32::MAX, 0xffff_ffff, 1, false),
        ] {
            let page = page(1, attributes, limit);
            let refused = refusal(&page, segment::DS, offset, length, true, 32);
            assert_eq!(refused.is_none(), inside, "{attributes:#x} {limit:#x} {offset:#x} {length}");
        }
    }
}

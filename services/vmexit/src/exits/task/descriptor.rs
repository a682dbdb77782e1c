//! Segment descriptors: where one stands, what it says, and whether a switch to a task may load it.

use crate::data;
use crate::exception::vector;
use crate::memory::GuestMemory;
use crate::paging::{Miss, Translation};
use portcullis_ipc::exit::{ExitPage, Segment, segment};

/// The bit of a selector that means the LDT.
pub const LOCAL: u16 = 1 << 2;
/// The bits of a selector that are its privilege level.
pub const LEVEL: u16 = 3;
/// The bits of a selector that are not.
pub const WHICH: u16 = !LEVEL;
/// Where the type stands in a descriptor, with the accessed and the busy bit.
pub const TYPE: u64 = 5;

/// Segment attribute: accessed.
pub const ACCESSED: u16 = 1 << 0;
/// Segment attribute: readable code or writable data.
const OPEN: u16 = 1 << 1;
/// Segment attribute: conforming code, or data that grows downwards.
pub const CONFORMING: u16 = 1 << 2;
/// Segment attribute: code.
const CODE: u16 = 1 << 3;
/// Segment attribute S: code or data, not the system's.
const MEMORY: u16 = 1 << 4;
/// Segment attribute P.
pub const PRESENT: u16 = 1 << 7;
/// Segment attribute D/B.
pub const BIG: u16 = 1 << 10;
const GRANULAR: u16 = 1 << 11;

/// Why a switch goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An access that has no address.
    Missed(Miss),
    /// An exception about what a selector names.
    Selector(u8, u16),
}

impl From<Miss> for Fault {
    fn from(miss: Miss) -> Self {
        Self::Missed(miss)
    }
}

/// Linear address of the descriptor that `selector` names; `None` outside its table.
pub fn place(page: &ExitPage, selector: u16) -> Option<u64> {
    let local = selector & LOCAL != 0;
    let table = page.segments[if local { segment::LDTR } else { segment::GDTR }];
    let offset = u64::from(selector & !7);
    let inside = offset + 7 <= table.limit.into() && (!local || table.attributes & PRESENT != 0);
    inside.then(|| table.base.wrapping_add(offset))
}

/// The segment that the descriptor at a linear address describes.
pub fn read(page: &ExitPage, memory: &mut impl GuestMemory, address: u64, selector: u16) -> Result<Segment, Miss> {
    let mut bytes = [0; 8];
    data::read(&Translation::system(page), memory, address, &mut bytes)?;
    Ok(parse(u64::from_le_bytes(bytes), selector))
}

fn parse(descriptor: u64, selector: u16) -> Segment {
    let attributes = (descriptor >> 40 & 0xff | descriptor >> 44 & 0xf00) as u16;
    let limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
    Segment {
        selector,
        attributes,
        limit: if attributes & GRANULAR != 0 { limit << 12 | 0xfff } else { limit },
        base: descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000,
    }
}

/// What a segment is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// CS.
    Code,
    /// SS.
    Stack,
    /// DS, ES, FS, GS.
    Data,
    /// LDTR.
    Table,
}

impl Role {
    /// The exception by which a task of privilege level `cpl` is refused a segment with these attributes, named by
    /// a selector of privilege level `rpl` (Intel SDM volume 3, table 7-1).
    pub fn refusal(self, attributes: u16, rpl: u16, cpl: u16) -> Option<u8> {
        let has = |bits: u16| attributes & bits == bits;
        let level = attributes >> 5 & 3;
        let conforms = has(CODE | CONFORMING);
        let fits = match self {
            Self::Code => has(MEMORY | CODE) && if conforms { level <= rpl } else { level == rpl },
            Self::Stack => has(MEMORY | OPEN) && !has(CODE),
            Self::Data => has(MEMORY) && (has(OPEN) || !has(CODE)) && (conforms || level >= rpl.max(cpl)),
            Self::Table => attributes & 0x1f == 2,
        };
        match self {
            _ if !fits => Some(vector::INVALID_TASK),
            Self::Code | Self::Data if !has(PRESENT) => Some(vector::NOT_PRESENT),
            Self::Stack if !has(PRESENT) => Some(vector::STACK),
            Self::Table if !has(PRESENT) => Some(vector::INVALID_TASK),
            Self::Stack if level != cpl || level != rpl => Some(vector::INVALID_TASK),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn a_descriptor_is_put_together_from_its_pieces() {
        let byte = parse(0x124f_9a34_5678_9abc, 8);
        assert_eq!((byte.base, byte.limit, byte.attributes), (0x1234_5678, 0xf_9abc, 0x49a));
        let pages = parse(0x00cf_9300_0000_ffff, 0x10);
        assert_eq!((pages.base, pages.limit, pages.attributes), (0, u32::MAX, 0xc93));
        assert_eq!(pages.selector, 0x10);
    }

    #[test]
    fn a_descriptor_lies_wholly_in_a_table_that_can_be_used() {
        let mut page = ExitPage::new_zeroed();
        page.segments[segment::GDTR] = Segment { base: 0x1000, limit: 0x17, ..Segment::default() };
        page.segments[segment::LDTR] = Segment { base: 0x2000, limit: 0x0e, attributes: 0x82, ..Segment::default() };
        let table = [(0x13, Some(0x1010)), (0x18, None), (0x07, Some(0x2000)), (0x0c, None), (0xfff8, None)];
        for (selector, expected) in table {
            assert_eq!(place(&page, selector), expected, "{selector:#x}");
        }
        page.segments[segment::LDTR].attributes = 0;
        assert_eq!(place(&page, 0x07), None);
    }

    #[test]
    fn each_register_takes_the_segments_that_are_for_it() {
        let (wrong, absent, stack) = (Some(10), Some(11), Some(12));
        let table = [
            // Role, attributes, RPL, CPL, exception.
            (Role::Code, 0x9b, 0, 0, None),
            (Role::Code, 0xfb, 3, 3, None),
            (Role::Code, 0x9b, 3, 3, wrong),
            (Role::Code, 0xfb, 0, 0, wrong),
            (Role::Code, 0x9f, 3, 3, None),
            (Role::Code, 0xff, 0, 0, wrong),
            (Role::Code, 0x93, 0, 0, wrong),
            (Role::Code, 0x1b, 0, 0, absent),
            (Role::Code, 0x8b, 0, 0, wrong),
            (Role::Stack, 0x93, 0, 0, None),
            (Role::Stack, 0xf3, 3, 3, None),
            (Role::Stack, 0x97, 0, 0, None),
            (Role::Stack, 0x91, 0, 0, wrong),
            (Role::Stack, 0x9b, 0, 0, wrong),
            (Role::Stack, 0xf3, 3, 0, wrong),
            (Role::Stack, 0x93, 3, 0, wrong),
            (Role::Stack, 0x13, 0, 0, stack),
            (Role::Stack, 0x83, 0, 0, wrong),
            (Role::Data, 0x91, 0, 0, None),
            (Role::Data, 0xf3, 3, 3, None),
            (Role::Data, 0xf3, 0, 0, None),
            (Role::Data, 0x93, 3, 0, wrong),
            (Role::Data, 0x93, 0, 3, wrong),
            (Role::Data, 0x9b, 0, 0, None),
            (Role::Data, 0x99, 0, 0, wrong),
            (Role::Data, 0x9f, 3, 3, None),
            (Role::Data, 0x13, 0, 0, absent),
            (Role::Data, 0x82, 0, 0, wrong),
            (Role::Table, 0x82, 0, 0, None),
            (Role::Table, 0x02, 0, 0, wrong),
            (Role::Table, 0x92, 0, 0, wrong),
            (Role::Table, 0x89, 0, 0, wrong),
        ];
        for (role, attributes, rpl, cpl, expected) in table {
            assert_eq!(role.refusal(attributes, rpl, cpl), expected, "{role:?} {attributes:#x} {rpl} {cpl}");
        }
    }
}

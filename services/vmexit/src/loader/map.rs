//! The memory map that a guest is told: what is RAM, what is reserved, where the firmware's tables lie.

use crate::firmware::MAILBOX;
use arrayvec::ArrayVec;
use portcullis_ipc::proto::acpi::WINDOW;
use portcullis_ipc::ram::{self, Ram};

/// Where the low RAM ends.
pub const LOW_END: u64 = 0x9_f000;
/// Where the high RAM begins.
pub const HIGH: u64 = 0x10_0000;
/// Where the firmware's tables begin; the RSDP stands first.
const TABLES: u64 = WINDOW as u64;
/// Where they end; the mailbox page and SMBIOS after them are reserved.
const TABLES_END: u64 = MAILBOX as u64;

/// What a range is, with the numbers of the ACPI address-range types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Memory for the guest.
    Ram = 1,
    /// Not for the guest.
    Reserved = 2,
    /// ACPI tables, memory once they were read.
    Acpi = 3,
}

/// One range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Address after the last one.
    pub end: u64,
    /// What it is.
    pub kind: Kind,
}

/// Ranges at most.
pub const RANGES: usize = 6;

/// The ranges, lowest first, without overlap. What lies between them is for devices.
pub type Map = ArrayVec<Range, RANGES>;

/// Bytes of memory of a VM whose RAM ends at `end`.
pub const fn reaching(end: u64) -> u64 {
    if end > ram::HIGH { end - (ram::HIGH - ram::LOW_END) } else { end }
}

/// The map of a VM with `memory` bytes, with or without tables of ACPI.
pub fn map(memory: u64, tables: bool) -> Map {
    let kind = if tables { Kind::Acpi } else { Kind::Reserved };
    let ram = Ram::new(memory);
    let all = [
        (0, LOW_END.min(memory), Kind::Ram),
        (LOW_END, TABLES, Kind::Reserved),
        (TABLES, TABLES_END, kind),
        (TABLES_END, HIGH, Kind::Reserved),
        (HIGH, ram.low_end, Kind::Ram),
        (ram::HIGH, ram.high_end, Kind::Ram),
    ];
    let ranges = all.into_iter().filter(|(start, end, _)| start < end);
    ranges.map(|(start, end, kind)| Range { start, end, kind }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_one_another_up_to_the_end_of_memory() {
        for (memory, tables) in [(8 << 20, true), (8 << 20, false), (HIGH, true), (3 << 30, true)] {
            let map = map(memory, tables);
            assert_eq!(map[0].start, 0);
            assert!(map.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].start < pair[0].end));
            assert_eq!(map.last().unwrap().end, memory.max(HIGH));
            assert_eq!(map.iter().any(|range| range.kind == Kind::Acpi), tables);
        }
    }

    #[test]
    fn memory_above_three_gib_goes_on_at_four() {
        const M: u64 = 1 << 20;
        const G: u64 = 1 << 30;
        for (memory, low, high) in [
            (3 * G - 2 * M, 3 * G - 2 * M, None),
            (3 * G, 3 * G, None),
            (3 * G + 2 * M, 3 * G, Some(4 * G + 2 * M)),
            (7 * G / 2, 3 * G, Some(9 * G / 2)),
            (8 * G, 3 * G, Some(9 * G)),
            (ram::MOST, 3 * G, Some(65 * G)),
        ] {
            let map = map(memory, true);
            let ram = |start, end| Range { start, end, kind: Kind::Ram };
            let expected: Vec<_> =
                [Some(ram(HIGH, low)), high.map(|end| ram(4 * G, end))].into_iter().flatten().collect();
            assert_eq!(map[4..], expected, "{memory:#x}");
        }
    }

    #[test]
    fn a_tiny_machine_has_no_high_ram() {
        assert_eq!(map(0x1_0000, false)[0], Range { start: 0, end: 0x1_0000, kind: Kind::Ram });
        assert_eq!(map(0x1_0000, false).iter().filter(|range| range.kind == Kind::Ram).count(), 1);
    }
}

//! Entries of VT-x's nested tables (extended page tables; SDM volume 3, section 28.3.2): what they allow, and how those that
//! the core writes look. A processor reads a malformed one as a misconfiguration, or as something that was not meant.

use super::walk::{ADDRESS, LARGE, Rights};

const READ: u64 = 1;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
/// Memory type of a leaf, and that it counts without the guest's PAT.
const TYPE: u64 = 0xf << 3;
/// Write-back, whatever the guest's PAT says.
const WRITE_BACK: u64 = 6 << 3 | 1 << 6;
/// Set by the processor where it is told to.
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;

/// What an entry allows; `None` when it translates nothing.
pub fn rights(entry: u64) -> Option<Rights> {
    let bits = entry & (READ | WRITE | EXECUTE);
    (bits != 0).then_some(Rights { write: bits & WRITE != 0, user: true, execute: bits & EXECUTE != 0 })
}

/// What is wrong with an entry that translates something; `level` is a leaf's (1: 4 KiB, 2: 2 MiB, 3: 1 GiB).
pub fn faults(entry: u64, level: Option<u32>) -> Vec<&'static str> {
    let table = READ | WRITE | EXECUTE | ACCESSED | ADDRESS;
    let low = |level: u32| ((1u64 << (9 * (level - 1))) - 1) << 12;
    let (known, wrong_type, unaligned) = match level {
        None => (table, false, false),
        Some(level) => {
            let size = if level == 1 { 0 } else { LARGE };
            (table | TYPE | DIRTY | size, entry & TYPE != WRITE_BACK, entry & low(level) != 0)
        }
    };
    [
        (entry & READ == 0, "it allows something but not to read"),
        (entry & !known != 0, "a bit is set that must be clear"),
        (wrong_type, "its memory type is not write-back for every guest"),
        (unaligned, "its frame is not aligned to its size"),
    ]
    .into_iter()
    .filter_map(|(wrong, what)| wrong.then_some(what))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Image;
    use super::super::walk::{Format, walk};
    use super::*;

    const ALL: u64 = READ | WRITE | EXECUTE;

    #[test]
    fn what_the_core_writes_and_the_processor_adds_is_well_formed() {
        for (entry, level) in [
            (0x5000 | ALL, None),
            (0x5000 | ALL | ACCESSED, None),
            (0x5000 | ALL | WRITE_BACK, Some(1)),
            (0x5000 | READ | WRITE_BACK | ACCESSED | DIRTY, Some(1)),
            (0x40_0000 | ALL | WRITE_BACK | LARGE, Some(2)),
            (0x4000_0000 | ALL | WRITE_BACK | LARGE, Some(3)),
        ] {
            assert_eq!(faults(entry, level), [] as [&str; 0], "{entry:#x}");
        }
    }

    #[test]
    fn each_way_to_be_malformed_has_its_words() {
        let (bit, kind) = ("a bit is set that must be clear", "its memory type is not write-back for every guest");
        let (read, aligned) = ("it allows something but not to read", "its frame is not aligned to its size");
        for (entry, level, what) in [
            (0x5000 | WRITE | EXECUTE | WRITE_BACK, Some(1), read),
            (0x5000 | EXECUTE, None, read),
            (0x5000 | ALL, Some(1), kind),
            (0x5000 | ALL | 6 << 3, Some(1), kind),
            (0x5000 | ALL | WRITE_BACK | LARGE, Some(1), bit),
            (0x5000 | ALL | WRITE_BACK, None, bit),
            (0x5000 | ALL | DIRTY, None, bit),
            (0x5000 | ALL | WRITE_BACK | 1 << 63, Some(1), bit),
            (0x40_1000 | ALL | WRITE_BACK | LARGE, Some(2), aligned),
        ] {
            assert_eq!(faults(entry, level), [what], "{entry:#x}");
        }
    }

    #[test]
    fn the_walk_reads_rights_as_vt_x_does_and_finds_what_can_only_be_written() {
        let mut image = Image::new(16);
        let root = image.table();
        image.map(root, 0x1000, 0x9000, EXECUTE | WRITE_BACK);
        image.map(root, 0x2000, 0xa000, WRITE | WRITE_BACK);
        image.map(root, 0x3000, 0xb000, WRITE_BACK);
        let tree = walk(image.memory(), root, Format::Ept);
        let found: Vec<_> =
            tree.mappings.iter().map(|one| (one.address, one.rights.write, one.rights.execute)).collect();
        assert_eq!(found, [(0x1000, false, true), (0x2000, true, false), (0x3000, false, false)]);
        assert_eq!(tree.malformed, []);
        let entry = super::super::walk::leaf_entry(image.memory(), root, 0x3000).unwrap();
        image.set(entry, 0xb000 | WRITE | WRITE_BACK);
        let tree = walk(image.memory(), root, Format::Ept);
        assert_eq!(tree.mappings.len(), 3);
        assert_eq!(tree.malformed, [(0x3000, "it allows something but not to read")]);
    }
}

//! How many page-table pages a system needs at most.

use super::Placed;
use crate::manifest::System;
use portcullis_ipc::layout::{self, PAGE};
use portcullis_ipc::ram::Ram;
use std::collections::BTreeSet;
use std::ops::Range;

const PAGE_BYTES: u64 = PAGE as u64;
/// Address bits that one table of each level covers: a page table, a directory, a pointer table.
const LEVELS: [u32; 3] = [21, 30, 39];

/// A range of addresses and the lowest level of table that maps it: 0 for 4 KiB pages, 1 for 2 MiB.
struct Mapped {
    first: u64,
    bytes: u64,
    lowest: usize,
}

/// Tables of one address space: those that the ranges touch, and the root.
fn tables(ranges: &[Mapped]) -> u64 {
    let mut touched = BTreeSet::new();
    for range in ranges.iter().filter(|range| range.bytes > 0) {
        for (level, shift) in LEVELS.iter().enumerate().skip(range.lowest) {
            let (first, last) = (range.first >> shift, (range.first + range.bytes - 1) >> shift);
            touched.extend((first..=last).map(|table| (level, table)));
        }
    }
    1 + touched.len() as u64
}

/// Tables of the core's own half at most: root, pointer table and directory; page tables for its image
/// (up to 4 MiB), for the fixed maps, and for single pages in six places that the firmware's memory map
/// keeps apart. What maps the pool itself comes on top.
const CORE_TABLES: u64 = 3 + 3 + 1 + 6;

/// Pages of the pool: the core's half, every partition's tables, and every VM wholly in 4 KiB pages. The last is a page for
/// 2 MiB of a guest's memory, whatever the processor needs: it is known when the machine starts, and the right to change
/// what a guest may do with a page must not end with a pool that is too small.
pub fn pages(system: &System, placed: &[Placed]) -> u64 {
    let small = |first, bytes| Mapped { first, bytes, lowest: 0 };
    let mut pages = CORE_TABLES;
    for (index, (partition, placed)) in system.partitions.iter().zip(placed).enumerate() {
        let mut ranges: Vec<Mapped> =
            placed.segments.iter().map(|segment| small(segment.address, segment.pages * PAGE_BYTES)).collect();
        ranges.push(small(layout::INFO_PAGE, 3 * PAGE_BYTES));
        let state = partition.state_pages.max(partition.state_limit_pages);
        ranges.push(small(layout::STATE_REGION, u64::from(state) * PAGE_BYTES));
        for vm in system.vms.iter().filter(|vm| usize::from(vm.vmexit) == index) {
            ranges.push(small(layout::EXIT_PAGES, vm.vcpus.len() as u64 * PAGE_BYTES));
            let guest = |piece: Range<u64>| Mapped {
                first: layout::GUEST_BASE + piece.start,
                bytes: piece.end - piece.start,
                lowest: 1,
            };
            ranges.extend(Ram::new(vm.memory_pages * PAGE_BYTES).pieces().map(guest));
        }
        // The core's half shares the pointer table of the first 512 GiB.
        ranges.push(Mapped { first: 0, bytes: PAGE_BYTES, lowest: 2 });
        pages += tables(&ranges);
    }
    for vm in &system.vms {
        let pieces = Ram::new(vm.memory_pages * PAGE_BYTES).pieces();
        pages += tables(&pieces.map(|piece| small(piece.start, piece.end - piece.start)).collect::<Vec<_>>());
    }
    // The pool maps itself; it need not start at a table's boundary.
    pages + 1 + (pages + 1).div_ceil(512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_of_eight_mebibytes_in_small_pages_needs_four_page_tables_and_three_above() {
        assert_eq!(tables(&[Mapped { first: 0, bytes: 8 << 20, lowest: 0 }]), 4 + 3);
    }

    #[test]
    fn large_pages_need_no_page_table() {
        let guest = Mapped { first: layout::GUEST_BASE, bytes: 1 << 30, lowest: 1 };
        assert_eq!(tables(&[guest]), 3);
    }

    #[test]
    fn a_large_guest_pays_its_page_tables_and_a_small_one_does_not() {
        let nested = |bytes: u64| {
            let pieces = Ram::new(bytes).pieces();
            tables(
                &pieces
                    .map(|piece| Mapped { first: piece.start, bytes: piece.end - piece.start, lowest: 0 })
                    .collect::<Vec<_>>(),
            )
        };
        // Root and pointer table, a directory for each GiB that is touched, a table for each 2 MiB.
        assert_eq!(nested(384 << 20), 2 + 1 + 192);
        assert_eq!(nested(3 << 30), 2 + 3 + 1536);
        assert_eq!(nested((3 << 30) + (2 << 20)), 2 + 4 + 1537);
        assert_eq!(nested(64 << 30), 2 + 64 + 32768);
    }

    #[test]
    fn ranges_in_one_directory_share_their_tables() {
        let near = |first| Mapped { first, bytes: PAGE_BYTES, lowest: 0 };
        assert_eq!(tables(&[near(0x4000_0000), near(0x4000_5000)]), 4);
    }
}

//! Tasks with address spaces of their own.

use super::*;
use portcullis_ipc::exit::event::exception;

/// Directories of the old task and of the new one; the table of each stands [`TABLE_AFTER`] them.
const DIRECTORIES: [u64; 2] = [0x6000, 0x7000];
const TABLE_AFTER: u64 = 0x8000;

/// Turns paging on, everything mapped to itself in both tasks.
pub fn paged(bench: &mut Bench) {
    for directory in DIRECTORIES {
        bench.put(directory, &((directory + TABLE_AFTER) as u32 | 0x27).to_le_bytes());
        for frame in 0..0x20u32 {
            bench.put(directory + TABLE_AFTER + 4 * u64::from(frame), &(frame << 12 | 0x67).to_le_bytes());
        }
    }
    (bench.page.cr0, bench.page.cr3) = (0x8001_0011, DIRECTORIES[0]);
}

/// Sets the entry of a page in one of the two tasks' tables.
fn map(bench: &mut Bench, task: usize, address: u64, entry: u32) {
    bench.put(DIRECTORIES[task] + TABLE_AFTER + 4 * (address >> 12), &entry.to_le_bytes());
}

#[test]
fn the_new_task_has_its_own_address_space() {
    let mut bench = Bench::new(GATE, NEW_TASK);
    paged(&mut bench);
    // Its stack lies in another frame.
    map(&mut bench, 1, 0x4000, 0x9067);
    bench.page.event = exception(13, Some(0x42));
    bench.exit();
    bench.assert_entered();
    assert_eq!((bench.page.cr3, bench.word(0x9ffc), bench.word(0x4ffc)), (0x7000, 0x42, 0));
    let mut bench = Bench::new(CALL, HALF_TASK);
    paged(&mut bench);
    bench.exit();
    assert_eq!(bench.page.cr3, 0x6000);
}

#[test]
fn a_page_fault_in_the_old_task_changes_nothing() {
    const READ_ONLY: u32 = 0x61;
    let table: [(u64, u64, u32, u64, u32); 7] = [
        // Source, page, its entry, address and error code of the fault.
        (CALL, GDT, 0, GDT + 0x20, 0),
        (CALL, OLD, 0, OLD + 32, 2),
        (JUMP, OLD, OLD as u32 | READ_ONLY, OLD + 32, 3),
        (CALL, GDT, GDT as u32 | READ_ONLY, GDT + 0x25, 3),
        (JUMP, GDT, GDT as u32 | READ_ONLY, GDT + 0x25, 3),
        (IRET, GDT, GDT as u32 | READ_ONLY, GDT + 0x1d, 3),
        (CALL, 0xf000, 0xf000 | READ_ONLY, 0xffd0, 3),
    ];
    for (source, address, entry, fault, error) in table {
        let mut bench = Bench::new(source, NEW_TASK);
        paged(&mut bench);
        if address == 0xf000 {
            bench.put(GDT + u64::from(NEW_TASK), &descriptor(0xffd0, 0x89, 0x67));
        }
        map(&mut bench, 0, address, entry);
        // The processor's own accesses have the supervisor's rights in ring 3 as well.
        (bench.page.cpl, bench.page.rflags) = (3, 0x4_0002);
        let (page, memory) = (bench.page, bench.machine.host.memory.0.clone());
        assert_eq!(bench.exit(), Resume::ENTER);
        assert_eq!((bench.page.event, bench.page.cr2), (exception(14, Some(error)), fault), "{source} {address:#x}");
        assert_eq!((bench.page.rip, bench.page.segments), (page.rip, page.segments), "{source} {address:#x}");
        assert_eq!(bench.page.dirty, group::EVENT | group::CONTROL | group::FLOW, "{source} {address:#x}");
        let after = &bench.machine.host.memory.0;
        let differs = |at: &usize| after[*at] != memory[*at] && !(0xe000..0x1_0000).contains(at);
        assert_eq!((0..0x2_0000).find(differs), None, "{source} {address:#x}");
    }
}

#[test]
fn a_page_fault_behind_the_switch_is_the_new_tasks() {
    let table = [
        // Page that the new task lacks; address, error code and level.
        (GDT, GDT + u64::from(TABLE), 0, 3),
        (LDT, LDT, 0, 0),
        (0x4000, 0x4ffc, 2, 0),
    ];
    for (address, fault, error, cpl) in table {
        let mut bench = Bench::new(GATE, NEW_TASK);
        paged(&mut bench);
        map(&mut bench, 1, address, 0);
        bench.page.event = exception(17, Some(0));
        bench.exit();
        assert_eq!((bench.page.event, bench.page.cr2), (exception(14, Some(error)), fault));
        assert_eq!((bench.page.rip, bench.page.cr3, bench.page.cpl), (ENTRY.into(), 0x7000, cpl));
        assert_eq!(bench.page.registers[gpr::RSP], STACK.into());
    }
}

#[test]
fn an_address_space_that_the_processor_would_refuse_is_refused() {
    for (entry, taken) in [(0x9001u64, true), (0x9003, false)] {
        let mut bench = Bench::new(CALL, NEW_TASK);
        // Two-megabyte pages, one to one.
        for root in [0x6000, 0x7000] {
            bench.put(root, &(0x9001u64).to_le_bytes());
        }
        bench.put(0x9000, &(0xe7u64).to_le_bytes());
        bench.put(0x7008, &entry.to_le_bytes());
        (bench.page.cr0, bench.page.cr3, bench.page.cr4) = (0x8001_0011, 0x6000, 0x20);
        bench.exit();
        let (cr3, event) = if taken { (0x7000, 0) } else { (0x6000, exception(13, Some(0))) };
        assert_eq!((bench.page.cr3, bench.page.event, bench.page.rip), (cr3, event, ENTRY.into()));
    }
}

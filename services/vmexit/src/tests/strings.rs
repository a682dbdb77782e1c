//! INS and OUTS.

use super::{CODE, CODE_LONG, Model, long_page, machine, page, put};
use crate::machine::Machine;
use portcullis_ipc::exit::event::exception;
use portcullis_ipc::exit::{ExitPage, Reason, gpr, io, segment};
use portcullis_ipc::syscall::Resume;
use proptest::prelude::*;

fn string(page: &mut ExitPage, port: u16, count: u64, at: u64) {
    page.qualification[0] = u64::from(port) | 1 << io::WIDTH_SHIFT | io::STRING;
    page.registers[gpr::RDX] = port.into();
    page.registers[gpr::RCX] = count;
    page.registers[gpr::RSI] = at;
    page.registers[gpr::RDI] = at;
}

/// Runs one instruction to its end, as a guest that is entered again and again does.
fn run(machine: &mut Machine<Model>, page: &mut ExitPage) -> u32 {
    let start = page.rip;
    for exits in 1..2000 {
        assert_eq!(machine.exited(0, page), Resume::ENTER);
        page.sequence += 1;
        if page.rip != start || page.event != 0 {
            return exits;
        }
    }
    panic!("the instruction does not end");
}

#[test]
fn string_input_fills_memory_forwards_and_backwards() {
    let table: [(&[u8], u64, u64, u64, std::ops::Range<usize>); 6] = [
        (&[0x6c], 0, 5, 0x4001, 0x4000..0x4001),
        (&[0x66, 0x6d], 0, 5, 0x4002, 0x4000..0x4002),
        (&[0x6d], 0, 5, 0x4004, 0x4000..0x4004),
        (&[0xf3, 0x6c], 0, 0, 0x4005, 0x4000..0x4005),
        (&[0xf3, 0x6d], 0, 0, 0x4014, 0x4000..0x4014),
        (&[0xf3, 0x6c], 1 << 10, 0, 0x3ffb, 0x3ffc..0x4001),
    ];
    for (code, flags, count, end, filled) in table {
        let mut machine = machine();
        let mut page = page(Reason::Io);
        put(&mut machine, &page, code);
        string(&mut page, 0x1234, 5, 0x4000);
        page.rflags |= flags;
        run(&mut machine, &mut page);
        assert_eq!((page.registers[gpr::RDI], page.registers[gpr::RCX]), (end, count), "{code:x?}");
        for (at, byte) in machine.host.memory.0.iter().enumerate().skip(0x3f00).take(0x200) {
            assert_eq!(*byte == 0xff, filled.contains(&at), "{code:x?} {at:#x}");
        }
        assert_eq!(page.rip, CODE + code.len() as u64);
    }
}

#[test]
fn a_string_goes_to_the_console_byte_by_byte() {
    let mut machine = machine();
    let mut page = page(Reason::Io);
    put(&mut machine, &page, &[0xf3, 0x6e]);
    machine.host.memory.put(0x4ffe, b"hey\n");
    string(&mut page, 0x3f8, 4, 0x4ffe);
    assert_eq!(run(&mut machine, &mut page), 4);
    assert_eq!(machine.host.console, b"hey\n");
    assert_eq!((page.registers[gpr::RSI], page.registers[gpr::RCX]), (0x5002, 0));
}

#[test]
fn a_long_repetition_is_cut_into_bounded_pieces() {
    let mut machine = machine();
    let mut page = page(Reason::Io);
    put(&mut machine, &page, &[0xf3, 0x6e]);
    string(&mut page, 0x1234, 1000, 0x4000);
    assert_eq!(run(&mut machine, &mut page), 4);
    assert_eq!(page.registers[gpr::RSI], 0x4000 + 1000);
}

#[test]
fn a_count_of_zero_moves_nothing() {
    let mut machine = machine();
    let mut page = page(Reason::Io);
    put(&mut machine, &page, &[0xf3, 0x6c]);
    string(&mut page, 0x1234, 0, 0x4000);
    run(&mut machine, &mut page);
    assert_eq!((page.registers[gpr::RDI], machine.host.memory.0[0x4000]), (0x4000, 0));
}

#[test]
fn address_size_and_segment_override_are_honoured() {
    let mut machine = machine();
    let mut page = page(Reason::Io);
    // 16-bit addresses: SI wraps inside 64 KiB and the upper half stays.
    put(&mut machine, &page, &[0x67, 0x64, 0x6e]);
    string(&mut page, 0x3f8, 0, 0xabcd_ffff);
    page.segments[segment::FS].base = 0x2000;
    machine.host.memory.put(0x1_1fff, b"z");
    run(&mut machine, &mut page);
    machine.flush();
    assert_eq!(machine.host.console, b"z");
    assert_eq!(page.registers[gpr::RSI], 0xabcd_0000);
}

#[test]
fn a_page_fault_in_the_middle_leaves_the_registers_at_the_faulting_element() {
    let mut machine = machine();
    let mut page = long_page(&mut machine.host, Reason::Io);
    page.rip = CODE_LONG;
    put(&mut machine, &page, &[0xf3, 0x6c]);
    string(&mut page, 0x1234, 8, 0x1f_fffd);
    // The second large page is not present.
    machine.host.memory.put(0x3008, &0u64.to_le_bytes());
    run(&mut machine, &mut page);
    assert_eq!(page.event, exception(14, Some(2)));
    assert_eq!((page.cr2, page.rip), (0x20_0000, CODE_LONG));
    assert_eq!((page.registers[gpr::RDI], page.registers[gpr::RCX]), (0x20_0000, 5));
}

#[test]
fn limits_and_canonical_form_are_checked_before_the_port_is_touched() {
    let mut machine = machine();
    let mut page = page(Reason::Io);
    put(&mut machine, &page, &[0x6e]);
    string(&mut page, 0x3f8, 0, 0x4000);
    page.segments[segment::DS].limit = 0x3fff;
    run(&mut machine, &mut page);
    assert_eq!(page.event, exception(13, Some(0)));
    let mut page = long_page(&mut machine.host, Reason::Io);
    put(&mut machine, &page, &[0x6e]);
    string(&mut page, 0x3f8, 0, 0x8000_0000_0000);
    run(&mut machine, &mut page);
    assert_eq!(page.event, exception(13, Some(0)));
    assert!(machine.durable.uart.unsent().is_empty());
}

proptest! {
    /// Whatever stands at the instruction and in the registers, an exit ends.
    #[test]
    fn no_guest_makes_an_exit_endless_or_harmful(
        code in prop::array::uniform15(any::<u8>()),
        registers in prop::array::uniform16(any::<u64>()),
        reason in 0u32..30,
        qualification in prop::array::uniform3(any::<u64>()),
        cr in prop::array::uniform4(any::<u64>()),
        attributes: u16, limit: u32, base: u64, rflags: u64, event: u64, cpl in 0u32..4
    ) {
        let mut machine = machine();
        let mut page = page(Reason::None);
        put(&mut machine, &page, &code);
        (page.reason, page.qualification, page.registers) = (reason, qualification, registers);
        [page.cr0, page.cr3, page.cr4, page.efer] = cr;
        for one in &mut page.segments {
            (one.attributes, one.limit, one.base) = (attributes, limit, base & 0xf_ffff);
        }
        (page.rflags, page.event, page.cpl) = (rflags, event, cpl);
        let word = machine.exited(0, &mut page);
        prop_assert!(word & 0xff <= Resume::YIELD);
    }
}

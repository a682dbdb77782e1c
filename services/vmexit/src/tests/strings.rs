//! INS and OUTS.

use super::{CODE, CODE_LONG, Model, long_page, machine, page, put};
use crate::machine::Machine;
use portcullis_ipc::exit::event::exception;
use portcullis_ipc::exit::{ExitPage, Reason, gpr, io, segment};
use portcullis_ipc::syscall::Resume;
use proptest::prelude::*;

/// Puts `code` there and makes the page that of its exit.
fn string(machine: &mut Machine<Model>, page: &mut ExitPage, code: &[u8], port: u16, (count, at): (u64, u64)) {
    put(machine, page, code);
    page.qualification[0] = u64::from(port) | access_of(code);
    page.registers[gpr::RDX] = port.into();
    page.registers[gpr::RCX] = count;
    page.registers[gpr::RSI] = at;
    page.registers[gpr::RDI] = at;
}

/// What the processor says of `code`, which is an INS or OUTS in 32- or 64-bit code.
pub fn access_of(code: &[u8]) -> u64 {
    let (opcode, prefixes) = code.split_last().unwrap();
    let width = match (opcode & 1, prefixes.contains(&0x66)) {
        (0, _) => 1,
        (_, true) => 2,
        _ => 4,
    };
    let input = if opcode & 2 == 0 { io::INPUT } else { 0 };
    let repeat = if prefixes.contains(&0xf3) || prefixes.contains(&0xf2) { io::REPEAT } else { 0 };
    width << io::WIDTH_SHIFT | io::STRING | input | repeat
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
        string(&mut machine, &mut page, code, 0x1234, (5, 0x4000));
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
    machine.host.memory.put(0x4ffe, b"hey\n");
    string(&mut machine, &mut page, &[0xf3, 0x6e], 0x3f8, (4, 0x4ffe));
    assert_eq!(run(&mut machine, &mut page), 4);
    assert_eq!(machine.host.console, b"hey\n");
    assert_eq!((page.registers[gpr::RSI], page.registers[gpr::RCX]), (0x5002, 0));
}

#[test]
fn a_long_repetition_is_cut_into_bounded_pieces() {
    let mut machine = machine();
    let mut page = page(Reason::Io);
    string(&mut machine, &mut page, &[0xf3, 0x6e], 0x1234, (1000, 0x4000));
    assert_eq!(run(&mut machine, &mut page), 4);
    assert_eq!(page.registers[gpr::RSI], 0x4000 + 1000);
}

#[test]
fn a_count_of_zero_moves_nothing() {
    let mut machine = machine();
    let mut page = page(Reason::Io);
    string(&mut machine, &mut page, &[0xf3, 0x6c], 0x1234, (0, 0x4000));
    run(&mut machine, &mut page);
    assert_eq!((page.registers[gpr::RDI], machine.host.memory.0[0x4000]), (0x4000, 0));
}

#[test]
fn address_size_and_segment_override_are_honoured() {
    let mut machine = machine();
    let mut page = page(Reason::Io);
    // 16-bit addresses: SI wraps inside 64 KiB and the upper half stays.
    string(&mut machine, &mut page, &[0x67, 0x64, 0x6e], 0x3f8, (0, 0xabcd_ffff));
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
    string(&mut machine, &mut page, &[0xf3, 0x6c], 0x1234, (8, 0x1f_fffd));
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
    string(&mut machine, &mut page, &[0x6e], 0x3f8, (0, 0x4000));
    page.segments[segment::DS].limit = 0x3fff;
    run(&mut machine, &mut page);
    assert_eq!(page.event, exception(13, Some(0)));
    let mut page = long_page(&mut machine.host, Reason::Io);
    string(&mut machine, &mut page, &[0x6e], 0x3f8, (0, 0x8000_0000_0000));
    run(&mut machine, &mut page);
    assert_eq!(page.event, exception(13, Some(0)));
    assert!(machine.durable.uart.unsent().is_empty());
}

#[test]
fn a_segment_that_does_not_take_the_data_raises_its_exception_and_nothing_moves() {
    // Attributes and limit of ES or DS, the offset, and whether an INS and an OUTS go through.
    for (attributes, limit, offset, input, output) in [
        (0, u32::MAX, 0x4000, false, false),
        (0xc91, u32::MAX, 0x4000, false, true),
        (0xc99, u32::MAX, 0x4000, false, false),
        (0xc9b, u32::MAX, 0x4000, false, true),
        (0xc13, u32::MAX, 0x4000, false, false),
        (0xc97, 0x0fff, 0x4000, true, true),
        (0xc97, 0x7fff, 0x4000, false, false),
    ] {
        for (code, fits) in [(&[0x6c][..], input), (&[0x6e], output)] {
            let mut machine = machine();
            let mut page = page(Reason::Io);
            string(&mut machine, &mut page, code, 0x3f9, (1, offset));
            machine.host.memory.put(offset as usize, &[0x55]);
            for index in [segment::ES, segment::DS] {
                (page.segments[index].attributes, page.segments[index].limit) = (attributes, limit);
            }
            run(&mut machine, &mut page);
            assert_eq!(page.event == 0, fits, "{attributes:#x} {limit:#x} {code:x?}");
            assert_eq!(machine.host.memory.0[offset as usize] != 0x55, fits && code == [0x6c]);
        }
    }
}

#[test]
fn an_instruction_of_another_width_or_direction_than_the_exits_runs_anew() {
    for code in [&[0x66, 0x6f][..], &[0x6f], &[0x6c], &[0xee]] {
        let mut machine = machine();
        let mut page = page(Reason::Io);
        string(&mut machine, &mut page, &[0x6e], 0x3f8, (1, 0x4000));
        put(&mut machine, &page, code);
        let before = page.registers;
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
        assert_eq!((page.registers, page.rip, page.event), (before, CODE, 0), "{code:x?}");
        assert!(machine.durable.uart.unsent().is_empty(), "{code:x?}");
    }
}

#[test]
fn a_repetition_is_what_the_exit_says() {
    let mut machine = machine();
    let mut page = page(Reason::Io);
    string(&mut machine, &mut page, &[0x6e], 0x1234, (5, 0x4000));
    put(&mut machine, &page, &[0xf3, 0x6e]);
    run(&mut machine, &mut page);
    assert_eq!((page.registers[gpr::RSI], page.registers[gpr::RCX]), (0x4001, 5));
}

#[test]
fn a_stepped_repetition_traps_after_each_element() {
    for (code, index) in [([0xf3, 0x6c], gpr::RDI), ([0xf3, 0x6e], gpr::RSI)] {
        for port in [0x1234, 0x3ff] {
            let mut machine = machine();
            let mut page = page(Reason::Io);
            string(&mut machine, &mut page, &code, port, (3, 0x4000));
            page.rflags |= 1 << 8;
            for done in 1..=3 {
                assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
                assert_eq!((page.event, page.dr6 & 1 << 14), (exception(1, None), 1 << 14), "{port:#x} {done}");
                let rip = if done == 3 { CODE + 2 } else { CODE };
                assert_eq!((page.rip, page.registers[index], page.registers[gpr::RCX]), (rip, 0x4000 + done, 3 - done));
                (page.event, page.dr6, page.sequence) = (0, 0, page.sequence + 1);
            }
        }
    }
}

/// Where the second large page of 64-bit code is mapped.
const MAPPING: usize = 0x3008;

/// The exit of an INSB or OUTSB at the serial port in 64-bit code; its data lies at 0xb000, in a page of its own.
fn at_the_serial_port(machine: &mut Machine<Model>, code: &[u8], sequence: u64) -> ExitPage {
    let mut page = long_page(&mut machine.host, Reason::Io);
    machine.host.memory.put(MAPPING, &0x83u64.to_le_bytes());
    string(machine, &mut page, code, 0x3f8, (1, 0x20_b000));
    page.sequence = sequence;
    page
}

/// Serves the exit until the service is killed after `fuse` effects, and then again while another vCPU has taken the data's
/// page away; a guest that gets a page fault maps the page again and goes on. Says whether there was a kill.
fn served_with_a_kill(machine: Machine<Model>, code: &[u8], fuse: u32) -> (Machine<Model>, bool) {
    let mut machine = machine;
    let exit = at_the_serial_port(&mut machine, code, 9);
    machine.host.live_on(fuse);
    machine.exited(0, &mut exit.clone());
    let killed = machine.host.killed();
    let mut model = machine.host;
    model.live(u32::MAX);
    let mut machine = super::over(model);
    machine.host.memory.put(MAPPING, &[0; 8]);
    let mut again = exit;
    assert_eq!(machine.exited(0, &mut again), Resume::ENTER);
    if again.event != 0 {
        assert_eq!((again.rip, again.cr2), (CODE_LONG, 0x20_b000));
        let mut page = at_the_serial_port(&mut machine, code, 10);
        assert_eq!((machine.exited(0, &mut page), page.event), (Resume::ENTER, 0));
    }
    (machine, killed)
}

#[test]
fn what_a_string_read_is_in_memory_or_still_at_the_port_wherever_the_service_is_killed() {
    for fuse in 0.. {
        let mut model = Model::new();
        model.input = b"Q".to_vec();
        let (mut machine, killed) = served_with_a_kill(super::over(model), &[0x6c], fuse);
        assert_eq!(machine.host.memory.0[0xb000], b'Q', "{fuse}");
        let mut page = at_the_serial_port(&mut machine, &[0x6c], 11);
        assert_eq!((machine.exited(0, &mut page), machine.host.memory.0[0xb000]), (Resume::ENTER, 0), "{fuse}");
        if !killed {
            assert!(fuse > 5, "{fuse}");
            break;
        }
    }
}

#[test]
fn what_a_string_wrote_is_written_once_wherever_the_service_is_killed() {
    for fuse in 0.. {
        let mut machine = machine();
        machine.host.memory.put(0xb000, b"Q");
        let (mut machine, killed) = served_with_a_kill(machine, &[0x6e], fuse);
        machine.flush();
        assert_eq!(machine.host.console, b"Q", "{fuse}");
        if !killed {
            assert!(fuse > 5, "{fuse}");
            break;
        }
    }
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

//! Strings at the high-bandwidth port.

use super::strings::access_of;
use super::{CODE, CODE_LONG, Message, Model, long_page, machine, page, put};
use crate::machine::Machine;
use portcullis_ipc::exit::event::exception;
use portcullis_ipc::exit::{ExitPage, Reason, gpr, segment};
use portcullis_ipc::port::MAGIC;
use portcullis_ipc::syscall::Resume;

const UPPER: u64 = 0x1111_2222_0000_0000;

/// The exit of a string of `count` bytes at `at`; from ring 3 it is a protection fault.
fn string(machine: &mut Machine<Model>, code: &[u8], ring: u32, count: u64, at: u64) -> ExitPage {
    let mut page = page(if ring == 3 { Reason::Exception } else { Reason::Io });
    page.qualification[0] = if ring == 3 { 13 } else { 0x5659 | access_of(code) };
    page.cpl = ring;
    page.registers[gpr::RAX] = MAGIC.into();
    page.registers[gpr::RBX] = UPPER | 0x1_0000;
    page.registers[gpr::RDX] = 0x5_5659;
    page.registers[gpr::RCX] = count;
    page.registers[gpr::RSI] = at;
    page.registers[gpr::RDI] = at;
    put(machine, &page, code);
    page
}

fn over(left: usize) -> Machine<Model> {
    let mut machine = machine();
    machine.host.message = Some(Message { left, ..Message::default() });
    machine
}

fn run(machine: &mut Machine<Model>, page: &mut ExitPage) -> usize {
    for exits in 1.. {
        assert_eq!(machine.exited(0, page), Resume::ENTER);
        page.sequence += 1;
        if page.rip != CODE || page.event != 0 {
            return exits;
        }
    }
    0
}

#[test]
fn a_message_goes_page_by_page_forwards_and_backwards_from_every_ring() {
    for ring in [0, 3] {
        for (flags, at, end) in [(0, 0x4ff0u64, 0x6010), (1 << 10, 0x600f, 0x4fef)] {
            let mut machine = over(0x1020);
            for index in 0..0x1020 {
                machine.host.memory.put(0x4ff0 + index, &[index as u8]);
            }
            let mut page = string(&mut machine, &[0xf3, 0x6e], ring, 0x1020, at);
            page.rflags |= flags;
            assert_eq!(run(&mut machine, &mut page), 3);
            let message = machine.host.message.take().unwrap();
            let expected: Vec<u8> = (0..0x1020).map(|index: usize| index as u8).collect();
            let sent: Vec<u8> = if flags == 0 { message.bytes } else { message.bytes.into_iter().rev().collect() };
            assert_eq!(sent, expected);
            assert_eq!(message.pieces, [(1, 0x10), (2, 0x1000), (3, 0x10)]);
            let registers = [gpr::RBX, gpr::RCX, gpr::RSI].map(|register| page.registers[register]);
            assert_eq!((registers, page.rip), ([UPPER | 0x1_0000, 0, end], CODE + 2));
        }
    }
}

#[test]
fn a_message_comes_forwards_and_backwards() {
    for (flags, at, end) in [(0, 0x4ffeu64, 0x5003), (1 << 10, 0x5002, 0x4ffd)] {
        let mut machine = over(5);
        let mut page = string(&mut machine, &[0xf3, 0x6c], 3, 5, at);
        page.rflags |= flags;
        assert_eq!(run(&mut machine, &mut page), 2);
        let expected = if flags == 0 { [0, 5, 4, 3, 2, 1, 0] } else { [0, 1, 2, 3, 4, 5, 0] };
        assert_eq!(machine.host.memory.0[0x4ffd..0x5004], expected);
        assert_eq!((page.registers[gpr::RDI], page.registers[gpr::RCX]), (end, 0));
    }
}

#[test]
fn a_string_that_nobody_takes_is_skipped_as_a_whole() {
    for left in [None, Some(7)] {
        for code in [[0xf3, 0x6c], [0xf3, 0x6e]] {
            let mut machine = over(left.unwrap_or(0));
            if left.is_none() {
                machine.host.message = None;
            }
            let mut page = string(&mut machine, &code, 3, 0xffff_ffff, 0x4000);
            assert_eq!(run(&mut machine, &mut page), 1);
            assert_eq!((page.registers[gpr::RBX], page.registers[gpr::RCX]), (UPPER, 0));
            assert!(machine.host.memory.0[0x4000..0x5000].iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn one_element_and_none() {
    for (code, count, sent, left) in [(&[0x6e][..], 9, 1, 9), (&[0xf3, 0x6e], 0, 0, 0), (&[0xf2, 0x6e], 2, 2, 0)] {
        let mut machine = over(9);
        let mut page = string(&mut machine, code, 3, count, 0x4000);
        run(&mut machine, &mut page);
        assert_eq!(machine.host.message.unwrap().bytes.len(), sent);
        assert_eq!((page.registers[gpr::RCX], page.rip), (left, CODE + code.len() as u64));
    }
}

#[test]
fn a_page_that_is_absent_faults_after_what_came_before_it() {
    for (code, index, error) in [([0xf3, 0x6e], gpr::RSI, 0), ([0xf3, 0x6c], gpr::RDI, 2)] {
        let mut machine = over(8);
        let mut page = long_page(&mut machine.host, Reason::Io);
        page.qualification[0] = 0x5659 | access_of(&code);
        let edge = 0x1_0000_0000;
        page.registers[gpr::RAX] = MAGIC.into();
        page.registers[gpr::RDX] = 0x5659;
        page.registers[gpr::RCX] = 8;
        page.registers[index] = edge - 3;
        machine.host.memory.put(CODE_LONG as usize, &code);
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
        assert_eq!((page.registers[gpr::RCX], page.registers[index], page.event), (5, edge, 0));
        page.sequence += 1;
        let before = page.registers;
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
        assert_eq!((page.event, page.cr2), (exception(14, Some(error)), edge));
        assert_eq!((page.registers, page.rip), (before, CODE_LONG));
        assert_eq!(machine.host.message.unwrap().pieces, [(1, 3)]);
    }
}

#[test]
fn a_piece_that_was_served_moves_the_string_on_though_its_page_is_gone_by_now() {
    for (code, index) in [([0xf3, 0x6e], gpr::RSI), ([0xf3, 0x6c], gpr::RDI)] {
        for served in [false, true] {
            let mut machine = over(8);
            let mut page = long_page(&mut machine.host, Reason::Io);
            page.qualification[0] = 0x5659 | access_of(&code);
            page.registers[gpr::RAX] = MAGIC.into();
            page.registers[gpr::RDX] = 0x5659;
            page.registers[gpr::RCX] = 8;
            page.registers[index] = 0x20_b000;
            machine.host.memory.put(CODE_LONG as usize, &code);
            machine.host.memory.put(0x3008, &0x83u64.to_le_bytes());
            if served {
                assert_eq!(machine.exited(0, &mut page.clone()), Resume::ENTER);
            }
            // The next instance is given the exit again, after another vCPU took the page away.
            let mut machine = super::over(machine.host);
            machine.host.memory.put(0x3008, &[0; 8]);
            assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
            let pieces = machine.host.message.unwrap().pieces;
            if served {
                assert_eq!((page.event, page.registers[gpr::RCX], pieces), (0, 0, vec![(1, 8)]));
            } else {
                assert_eq!((page.cr2, page.registers[gpr::RCX], pieces), (0x20_b000, 8, vec![]));
            }
        }
    }
}

#[test]
fn a_segment_that_takes_no_data_or_grows_downwards_counts_for_the_string_too() {
    for (code, index) in [([0xf3, 0x6e], segment::DS), ([0xf3, 0x6c], segment::ES)] {
        let mut machine = over(8);
        let mut page = string(&mut machine, &code, 3, 8, 0x4000);
        page.segments[index].attributes = 0;
        run(&mut machine, &mut page);
        assert_eq!((page.event, page.registers[gpr::RCX]), (exception(13, Some(0)), 8));
        // Backwards, down to the first offset beyond the limit.
        let mut page = string(&mut machine, &code, 3, 8, 0x4003);
        (page.segments[index].attributes, page.segments[index].limit) = (0xc97, 0x3fff);
        page.rflags |= 1 << 10;
        run(&mut machine, &mut page);
        assert_eq!((page.event, page.registers[gpr::RCX]), (exception(13, Some(0)), 4));
        assert_eq!(machine.host.message.unwrap().left, 4);
    }
}

#[test]
fn a_segment_ends_a_string_with_its_fault() {
    let mut machine = over(8);
    let mut page = string(&mut machine, &[0xf3, 0x6e], 0, 8, 0x4000);
    page.segments[segment::DS].limit = 0x4002;
    run(&mut machine, &mut page);
    assert_eq!((page.event, page.registers[gpr::RCX]), (exception(13, Some(0)), 5));
}

#[test]
fn a_stepped_string_traps_after_each_element() {
    let mut machine = over(8);
    let mut page = string(&mut machine, &[0xf3, 0x6e], 3, 8, 0x4000);
    page.rflags |= 1 << 8;
    assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    assert_eq!((page.event, page.registers[gpr::RCX], page.rip), (exception(1, None), 7, CODE));
}

#[test]
fn the_high_port_without_a_string_of_bytes_is_nobodys() {
    let mut machine = over(8);
    let mut page = string(&mut machine, &[0xed], 3, 8, 0x4000);
    machine.exited(0, &mut page);
    assert_eq!((page.registers[gpr::RAX], page.rip, page.event), (0xffff_ffff, CODE + 1, 0));
    let mut page = string(&mut machine, &[0x66, 0xef], 3, 8, 0x4000);
    machine.exited(0, &mut page);
    assert_eq!((page.registers[gpr::RAX], page.rip, page.event), (MAGIC.into(), CODE + 2, 0));
    let mut page = string(&mut machine, &[0xf3, 0x6f], 3, 2, 0x4000);
    machine.exited(0, &mut page);
    assert_eq!((page.event, page.rip), (exception(13, Some(0)), CODE));
    assert!(machine.host.message.unwrap().bytes.is_empty());
}

#[test]
fn a_reset_of_the_machine_is_told_with_its_number() {
    let mut machine = machine();
    let mut page = super::port_page(0xcf9, 1, false);
    page.registers[gpr::RAX] = 6;
    page.sequence = 77;
    machine.host.stopped.push(0);
    machine.exited(1, &mut page);
    assert_eq!(machine.host.resets, [1]);
}

//! Exceptions, the port behind #GP, and memory that is not there.

use super::{CODE, CODE_LONG, long_page, machine, page, put};
use crate::host::Note;
use crate::registers::RESUME;
use crate::saved::power;
use portcullis_ipc::exit::event::{exception, interrupt};
use portcullis_ipc::exit::exception::INT1;
use portcullis_ipc::exit::{ExitPage, Reason, access, gpr, group, segment};
use portcullis_ipc::port::MAGIC;
use portcullis_ipc::syscall::Resume;

fn protection() -> ExitPage {
    let mut page = page(Reason::Exception);
    page.qualification[0] = 13;
    page.cpl = 3;
    page.registers[gpr::RAX] = 0xffff_ffff_0000_0000 | u64::from(MAGIC);
    page.registers[gpr::RDX] = 0xffff_ffff_1234_5658;
    page
}

#[test]
fn the_port_behind_a_protection_fault_is_found() {
    let mut machine = machine();
    for ring in [1, 2] {
        let mut page = protection();
        page.cpl = ring;
        put(&mut machine, &page, &[0xed]);
        assert_eq!(machine.exited(0, &mut page), Resume::port(4, true, 1), "ring {ring}");
    }
    let mut page = protection();
    put(&mut machine, &page, &[0xed]);
    assert_eq!(machine.exited(0, &mut page), Resume::port(4, true, 1));
    assert_eq!(page.dirty, 0);
    put(&mut machine, &page, &[0x3e, 0x66, 0xef]);
    assert_eq!(machine.exited(0, &mut page), Resume::port(2, false, 3));
}

#[test]
fn virtual_8086_code_reaches_the_port_with_16_bit_rules() {
    let mut machine = machine();
    let mut page = protection();
    page.rflags |= 1 << 17;
    page.segments[segment::CS].base = 0xf00;
    page.rip = 0x100;
    machine.host.memory.put(0x1000, &[0x66, 0xed]);
    assert_eq!(machine.exited(0, &mut page), Resume::port(4, true, 2));
}

/// Each of these is the guest's own fault, which it gets back unchanged.
#[test]
fn every_other_protection_fault_comes_back_unchanged() {
    let cases: [(&str, fn(&mut ExitPage)); 6] = [
        ("wrong magic", |page| page.registers[gpr::RAX] = 0),
        ("other port", |page| page.registers[gpr::RDX] = 0x565a),
        ("error code", |page| page.qualification[1] = 0x10),
        ("ring 0", |page| page.cpl = 0),
        ("in delivery", |page| page.event = interrupt(0x20)),
        ("far away", |page| page.rip = 0x5000_0000),
    ];
    for (what, change) in cases {
        let mut machine = machine();
        let mut page = protection();
        put(&mut machine, &page, &[0xed]);
        change(&mut page);
        let rip = page.rip;
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER, "{what}");
        let error = page.qualification[1] as u32;
        assert_eq!((page.event, page.rip), (exception(13, Some(error)), rip), "{what}");
        assert_eq!((page.dirty, page.rflags & RESUME), (group::EVENT | group::FLOW, RESUME), "{what}");
    }
    for code in [&[0xe5, 0x58][..], &[0x6d], &[0xf4], &[0xfa], &[0x0f, 0x33], &[0xff, 0xff]] {
        let mut machine = machine();
        let mut page = protection();
        put(&mut machine, &page, code);
        machine.exited(0, &mut page);
        assert_eq!(page.event, exception(13, Some(0)), "{code:x?}");
    }
}

#[test]
fn a_vm_without_the_port_gets_all_its_faults() {
    let mut machine = machine();
    machine.config.port = false;
    let mut page = protection();
    put(&mut machine, &page, &[0xed]);
    machine.exited(0, &mut page);
    assert_eq!(page.event, exception(13, Some(0)));
}

#[test]
fn a_fault_while_a_fault_is_delivered_becomes_a_double_fault_and_then_the_end() {
    let mut machine = machine();
    let mut page = protection();
    (page.qualification[1], page.event) = (0x6a, exception(13, Some(0)));
    assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    assert_eq!(page.event, exception(8, Some(0)));
    let mut page = protection();
    (page.qualification[1], page.event) = (0x42, exception(8, Some(0)));
    assert_eq!(machine.exited(0, &mut page), Resume::STOP);
    assert_eq!(machine.host.notes, [Note::Reset("triple fault")]);
    // A second soon after, and a third that is one too many.
    for (sequence, note) in [(page.sequence + 1, Note::Reset("triple fault")), (page.sequence + 2, Note::Falls(3))] {
        machine.host.notes.clear();
        page.sequence = sequence;
        machine.durable.board.power = power::RUNNING;
        assert_eq!(machine.triple_fault(0, &mut page), Ok(Resume::STOP));
        assert_eq!(machine.host.notes, [note]);
    }
    assert_eq!(machine.durable.board.power, power::OFF);
}

#[test]
fn intercepted_exceptions_keep_their_kind() {
    for (vector, error, event) in [(1, 0, exception(1, None)), (17, 0, exception(17, Some(0)))] {
        let mut page = page(Reason::Exception);
        (page.qualification[0], page.qualification[1]) = (vector, error);
        machine().exited(0, &mut page);
        assert_eq!(page.event, event);
    }
}

/// INT1 exits before it is done where the core cannot let the processor do it.
#[test]
fn int1_raises_one_debug_exception_behind_itself() {
    let mut machine = machine();
    let mut page = page(Reason::Exception);
    (page.qualification[0], page.qualification[2], page.dr7) = (1, INT1, 1 << 13);
    put(&mut machine, &page, &[0xf1]);
    assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    assert_eq!((page.event, page.rip, page.rflags & RESUME), (exception(1, None), CODE + 1, 0));
    assert_eq!(page.dirty, group::EVENT | group::FLOW | group::DEBUG);
}

#[test]
fn an_interrupted_event_is_delivered_again() {
    for reason in [Reason::Recall, Reason::SystemSignal, Reason::InterruptWindow] {
        let mut page = page(reason);
        page.event = interrupt(0x30);
        assert_eq!(machine().exited(0, &mut page), Resume::ENTER);
        assert_eq!((page.event, page.dirty), (interrupt(0x30), group::EVENT));
    }
}

const HOLE: u64 = 0x4000_0000;

fn nested(how: u64) -> ExitPage {
    let mut page = page(Reason::NestedFault);
    (page.qualification[0], page.qualification[1]) = (HOLE, how);
    page.registers[gpr::RDI] = HOLE;
    page.registers[gpr::RAX] = 0x1122_3344_5566_7788;
    page
}

#[test]
fn moves_outside_memory_read_all_ones_and_write_nothing() {
    let ones = 0x1122_3344_5566_77ff;
    let table: [(&[u8], u64); 10] = [
        (&[0x8a, 0x07], ones),
        (&[0x66, 0x8b, 0x07], 0x1122_3344_5566_ffff),
        (&[0x8b, 0x07], 0xffff_ffff),
        (&[0x8a, 0x27], 0x1122_3344_5566_ff88),
        (&[0x0f, 0xb6, 0x07], 0xff),
        (&[0x0f, 0xbe, 0x07], 0xffff_ffff),
        (&[0xa1, 0, 0, 0, 0x40], 0xffff_ffff),
        (&[0x89, 0x07], 0x1122_3344_5566_7788),
        (&[0xc7, 0x07, 1, 2, 3, 4], 0x1122_3344_5566_7788),
        (&[0x8c, 0x1f], 0x1122_3344_5566_7788),
    ];
    for (code, rax) in table {
        let mut machine = machine();
        let mut page = nested(0);
        put(&mut machine, &page, code);
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER, "{code:x?}");
        assert_eq!(page.registers[gpr::RAX], rax, "{code:x?}");
        assert_eq!(page.rip, CODE + code.len() as u64, "{code:x?}");
    }
}

#[test]
fn addresses_relative_to_rip_and_segment_bases_are_computed() {
    let mut machine = machine();
    let mut page = long_page(&mut machine.host, Reason::NestedFault);
    page.qualification[0] = HOLE;
    page.segments[segment::FS].base = HOLE - 0x10;
    put(&mut machine, &page, &[0x64, 0x48, 0x8b, 0x04, 0x25, 0x10, 0, 0, 0]);
    assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    assert_eq!((page.registers[gpr::RAX], page.rip), (u64::MAX, CODE_LONG + 9));
    page.rip = CODE_LONG;
    let distance = (HOLE - (CODE_LONG + 7)) as u32;
    let mut code = vec![0x48, 0x8b, 0x1d];
    code.extend(distance.to_le_bytes());
    put(&mut machine, &page, &code);
    assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    assert_eq!(page.registers[gpr::RBX], u64::MAX);
}

#[test]
fn page_tables_outside_memory_raise_the_fault_of_all_ones() {
    let mut machine = machine();
    let mut page = long_page(&mut machine.host, Reason::NestedFault);
    (page.qualification[0], page.qualification[1]) = (HOLE, access::GUEST_WALK);
    // The third GiB's table lies outside memory.
    machine.host.memory.put(0x2010, &(HOLE | 3).to_le_bytes());
    put(&mut machine, &page, &[0x8b, 0x07]);
    page.registers[gpr::RDI] = 0x8000_0000;
    assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    assert_eq!((page.event, page.cr2), (exception(14, Some(9)), 0x8000_0000));
    assert_eq!(page.rip, CODE_LONG);
}

#[test]
fn what_cannot_be_done_where_there_is_no_memory_stops_the_guest() {
    let cases: [(&str, fn(&mut ExitPage)); 2] = [
        ("in delivery", |page| page.event = interrupt(0x20)),
        ("inside memory", |page| page.qualification[0] = 0x1000),
    ];
    for (what, change) in cases {
        let mut machine = machine();
        let mut page = nested(0);
        put(&mut machine, &page, &[0x8b, 0x07]);
        change(&mut page);
        assert_eq!(machine.exited(0, &mut page), Resume::STOP, "{what}");
    }
}

#[test]
fn an_instruction_that_cannot_be_done_where_there_is_no_memory_is_undefined_and_told() {
    let cases: [(&[u8], fn(&mut ExitPage)); 5] = [
        (&[0x8b, 0x07], |page| page.qualification[1] = access::FETCH),
        (&[0x8b, 0x07], |page| page.rip = HOLE),
        (&[0x0f, 0x10, 0x07], |_| {}),
        (&[0x06], |_| {}),
        (&[0xff, 0xff], |_| {}),
    ];
    for (code, change) in cases {
        let mut machine = machine();
        let mut page = nested(0);
        put(&mut machine, &page, code);
        change(&mut page);
        let rip = page.rip;
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER, "{code:x?}");
        assert_eq!((page.event, page.rip), (exception(6, None), rip), "{code:x?}");
        assert_eq!(machine.host.notes, [Note::NotEmulated(rip, HOLE)], "{code:x?}");
    }
}

#[test]
fn broken_page_tables_behind_an_instruction_that_is_not_emulated_raise_their_page_fault() {
    let mut machine = machine();
    let mut page = long_page(&mut machine.host, Reason::NestedFault);
    (page.qualification[0], page.qualification[1]) = (HOLE, access::GUEST_WALK);
    machine.host.memory.put(0x2010, &(HOLE | 3).to_le_bytes());
    page.registers[gpr::RSP] = 0x8000_0008;
    put(&mut machine, &page, &[0x50]);
    assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    assert_eq!((page.event, page.cr2), (exception(14, Some(0xb)), 0x8000_0000));
}

#[test]
fn a_repetition_goes_on_with_the_next_exit_and_a_trap_comes_after_each_element() {
    let mut machine = machine();
    let mut page = nested(access::WRITE);
    page.registers[gpr::RCX] = 300;
    put(&mut machine, &page, &[0xf3, 0xaa]);
    assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    assert_eq!((page.rip, page.registers[gpr::RCX], page.event), (CODE, 44, 0));
    page.rflags |= 1 << 8;
    assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    assert_eq!((page.rip, page.registers[gpr::RCX], page.event), (CODE, 43, exception(1, None)));
}

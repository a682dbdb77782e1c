//! Exits that end in the guest going on.

use super::{CODE, machine, page, port_page, put};
use crate::host::Note;
use portcullis_ipc::exit::event::exception;
use portcullis_ipc::exit::{Reason, gpr, group, shadow};
use portcullis_ipc::proto::link::VmEventKind;
use portcullis_ipc::syscall::Resume;

const OLD: u64 = 0x1122_3344_5566_7788;

#[test]
fn a_port_that_nobody_claims_reads_all_ones_and_ignores_writes() {
    let table = [
        (1, true, 0x1122_3344_5566_77ff),
        (2, true, 0x1122_3344_5566_ffff),
        (4, true, 0xffff_ffff),
        (1, false, OLD),
        (4, false, OLD),
    ];
    for port in [0x80, 0x1234, 0x5658, 0x5659, 0x5670, 0xffff] {
        for (width, input, expected) in table {
            let mut page = port_page(port, width, input);
            page.registers[gpr::RAX] = OLD;
            assert_eq!(machine().exited(0, &mut page), Resume::ENTER);
            assert_eq!(page.registers[gpr::RAX], expected);
            assert_eq!(page.rip, CODE + 1);
            let general = if input { group::GENERAL } else { 0 };
            assert_eq!(page.dirty, group::FLOW | general);
        }
    }
}

#[test]
fn lines_that_the_guest_writes_reach_the_console_whole() {
    let mut machine = machine();
    for (sequence, byte) in b"one\ntwo".iter().enumerate() {
        let mut page = port_page(0x3f8, 1, false);
        page.sequence = sequence as u64 + 1;
        page.registers[gpr::RAX] = u64::from(*byte) | 0xffff_ff00;
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    }
    assert_eq!(machine.host.console, b"one\n");
    machine.flush();
    assert_eq!(machine.host.console, b"one\ntwo");
}

#[test]
fn a_console_that_is_full_holds_the_guest_and_loses_nothing() {
    let mut machine = machine();
    machine.host.console_full = true;
    let mut sequence = 0;
    let mut write = |machine: &mut crate::machine::Machine<super::Model>| {
        sequence += 1;
        let mut page = port_page(0x3f8, 1, false);
        page.sequence = sequence;
        page.registers[gpr::RAX] = b'x'.into();
        (machine.exited(0, &mut page), page.dirty)
    };
    for _ in 0..128 {
        assert_eq!(write(&mut machine).0, Resume::ENTER);
    }
    assert_eq!(write(&mut machine), (Resume::YIELD, 0));
    let mut status = port_page(0x3fd, 1, true);
    status.sequence = 1000;
    machine.exited(0, &mut status);
    assert_eq!(status.registers[gpr::RAX], 0);
    machine.host.console_full = false;
    assert_eq!(write(&mut machine).0, Resume::ENTER);
    machine.flush();
    assert_eq!(machine.host.console, [b'x'; 129]);
}

#[test]
fn the_end_of_the_machine_is_told_after_what_the_guest_wrote_before() {
    for killed in [false, true] {
        let mut machine = machine();
        machine.host.console_full = true;
        for (sequence, byte) in (1..).zip(*b"the end") {
            let mut page = port_page(0x3f8, 1, false);
            (page.sequence, page.registers[gpr::RAX]) = (sequence, byte.into());
            machine.exited(0, &mut page);
        }
        let mut off = port_page(0x600, 1, false);
        (off.sequence, off.registers[gpr::RAX]) = (8, 0x34);
        assert_eq!(machine.exited(0, &mut off), Resume::STOP);
        machine.output();
        assert_eq!(machine.host.events, [], "the console holds it up");
        if killed {
            let mut model = machine.host;
            model.live(u32::MAX);
            machine = super::over(model);
            machine.start(false);
            assert_eq!(machine.host.events, []);
        }
        machine.host.console_full = false;
        machine.output();
        assert_eq!(machine.host.console, b"the end");
        assert_eq!(machine.host.events, [(1, VmEventKind::PowerOff)]);
        machine.output();
        assert_eq!(machine.host.events.len(), 1);
    }
}

#[test]
fn an_end_does_not_wait_for_a_console_that_is_never_tried_again_nor_for_another_end() {
    let mut machine = machine();
    (machine.host.console_full, machine.host.calls_back) = (true, false);
    machine.uart().write(0, b'x');
    let reset = |machine: &mut crate::machine::Machine<super::Model>, sequence| {
        let mut page = port_page(0x64, 1, false);
        (page.sequence, page.registers[gpr::RAX]) = (sequence, 0xfe);
        machine.host.stopped = vec![1];
        machine.exited(0, &mut page)
    };
    reset(&mut machine, 5);
    assert_eq!(machine.host.events, [(1, VmEventKind::Reset)]);
    machine.host.calls_back = true;
    reset(&mut machine, 6);
    assert_eq!(machine.host.events.len(), 1);
    reset(&mut machine, 7);
    assert_eq!(machine.host.events, [(1, VmEventKind::Reset), (2, VmEventKind::Reset)]);
    assert_eq!(machine.host.resets, [1, 2, 3], "each has a number of its own");
}

#[test]
fn console_input_reaches_the_receiver_in_order() {
    let mut machine = machine();
    machine.host.input = b"root\n".to_vec();
    machine.input();
    let read = |machine: &mut crate::machine::Machine<super::Model>, sequence, port| {
        let mut page = port_page(port, 1, true);
        page.sequence = sequence;
        machine.exited(0, &mut page);
        page.registers[gpr::RAX] as u8
    };
    let taken: Vec<u8> = (1..=5).map(|sequence| read(&mut machine, sequence, 0x3f8)).collect();
    assert_eq!(taken, b"root\n");
    assert_eq!(read(&mut machine, 6, 0x3fd), 0x60);
}

#[test]
fn an_access_that_touches_the_serial_port_from_outside_is_split_into_bytes() {
    let mut machine = machine();
    let mut page = port_page(0x3fe, 4, true);
    machine.exited(0, &mut page);
    assert_eq!(page.registers[gpr::RAX], 0xffff_00b0);
}

#[test]
fn cpuid_writes_four_registers_and_clears_their_upper_halves() {
    let mut machine = machine();
    let mut page = page(Reason::Cpuid);
    put(&mut machine, &page, &[0x0f, 0xa2]);
    page.registers = [u64::MAX; 16];
    page.registers[gpr::RAX] = 0xffff_ffff_4000_0000;
    assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    let [rax, rcx, rdx, rbx, rsp, ..] = page.registers;
    assert_eq!([rax, rbx, rcx, rdx], [0x4000_0010, 0x6177_4d56, 0x4d56_6572, 0x6572_6177]);
    assert_eq!((rsp, page.rip), (u64::MAX, CODE + 2));
}

#[test]
fn instructions_without_work_are_passed_over() {
    let table: [(Reason, &[u8], u64); 9] = [
        (Reason::Wbinvd, &[0x0f, 0x09], Resume::ENTER),
        (Reason::Wbinvd, &[0x0f, 0x08], Resume::ENTER),
        (Reason::Wbinvd, &[0xf3, 0x0f, 0x09], Resume::ENTER),
        (Reason::Pause, &[0xf3, 0x90], Resume::YIELD),
        (Reason::Hlt, &[0xf4], Resume::PARK),
        (Reason::Hlt, &[0x2e, 0xf4], Resume::PARK),
        (Reason::Invlpg, &[0x0f, 0x01, 0x3d, 0, 0, 0, 0], Resume::ENTER),
        (Reason::Rdtsc, &[0x0f, 0x31], Resume::ENTER),
        (Reason::Rdtsc, &[0x0f, 0x01, 0xf9], Resume::ENTER),
    ];
    for (reason, code, word) in table {
        let mut machine = machine();
        let mut page = page(reason);
        put(&mut machine, &page, code);
        assert_eq!(machine.exited(0, &mut page), word, "{reason:?}");
        assert_eq!(page.rip, CODE + code.len() as u64, "{reason:?}");
    }
}

#[test]
fn an_instruction_that_was_changed_after_its_exit_is_run_again() {
    for reason in [Reason::Cpuid, Reason::Hlt, Reason::Msr, Reason::Pause, Reason::ControlRegister] {
        let mut machine = machine();
        let mut page = page(reason);
        put(&mut machine, &page, &[0x90]);
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
        assert_eq!((page.rip, page.dirty), (CODE, 0), "{reason:?}");
    }
}

#[test]
fn a_next_address_from_the_processor_is_used_as_it_is() {
    let mut machine = machine();
    let mut page = page(Reason::Cpuid);
    page.next_rip = CODE + 7;
    machine.exited(0, &mut page);
    assert_eq!(page.rip, CODE + 7);
}

#[test]
fn time_stamp_reads_add_the_offset_and_give_the_auxiliary_value() {
    let mut machine = machine();
    let mut page = page(Reason::Rdtsc);
    put(&mut machine, &page, &[0x0f, 0x01, 0xf9]);
    (page.tsc_offset, page.tsc_aux) = (0x1_0000_0000, 7);
    machine.exited(0, &mut page);
    assert_eq!(page.registers[gpr::RAX], 1_000_000);
    assert_eq!((page.registers[gpr::RDX], page.registers[gpr::RCX]), (1, 7));
}

#[test]
fn msr_access_reads_writes_or_refuses() {
    let table = [
        (0xc000_0080u64, false, 0u64, true),
        (0x277, true, 0x0007_0406_0007_0406, true),
        (0x277, true, 2, false),
        (0x1234_5678, false, 0, false),
        (0x1234_5678, true, 0, false),
        (0x8b, false, 0, true),
    ];
    for (number, write, value, done) in table {
        let mut machine = machine();
        let mut page = page(Reason::Msr);
        page.qualification[0] = write.into();
        put(&mut machine, &page, if write { &[0x0f, 0x30] } else { &[0x0f, 0x32] });
        page.registers[gpr::RCX] = number;
        page.registers[gpr::RAX] = value & 0xffff_ffff;
        page.registers[gpr::RDX] = value >> 32;
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
        if done {
            assert_eq!((page.rip, page.event), (CODE + 2, 0), "{number:#x}");
        } else {
            assert_eq!((page.rip, page.event), (CODE, exception(13, Some(0))), "{number:#x}");
            assert_eq!(machine.host.notes, [Note::UnknownMsr(number as u32, write)]);
        }
    }
}

#[test]
fn xcr0_takes_only_what_the_vm_may_and_the_architecture_allows() {
    let table = [
        (0u64, 7u64, 0, true),
        (0, 3, 0, true),
        (0, 1, 0, true),
        (0, 0, 0, false),
        (0, 2, 0, false),
        (0, 5, 0, false),
        (0, 15, 0, false),
        (1, 1, 0, false),
        (0, 7, 3, false),
    ];
    for (register, value, cpl, done) in table {
        let mut machine = machine();
        let mut page = page(Reason::Xsetbv);
        put(&mut machine, &page, &[0x0f, 0x01, 0xd1]);
        (page.registers[gpr::RCX], page.registers[gpr::RAX]) = (register, value);
        (page.cpl, page.xcr0) = (cpl, 1);
        machine.exited(0, &mut page);
        assert_eq!(page.xcr0, if done { value } else { 1 }, "{register} {value} {cpl}");
        assert_eq!(page.event == 0, done);
    }
}

#[test]
fn control_register_4_takes_the_bits_of_features_that_the_guest_sees() {
    for (value, done) in [(0x20u64, true), (0x80, true), (1 << 13, false), (1 << 17, false), (1 << 8, false)] {
        let mut machine = machine();
        let mut page = page(Reason::ControlRegister);
        (page.qualification[0], page.qualification[1]) = (4, 1);
        put(&mut machine, &page, &[0x0f, 0x22, 0xe3]);
        page.registers[gpr::RBX] = value | 0xffff_ffff_0000_0000;
        machine.exited(0, &mut page);
        assert_eq!(page.cr4, if done { value } else { 0 });
        assert_eq!(page.rip, if done { CODE + 3 } else { CODE });
    }
}

#[test]
fn an_access_to_a_debug_register_that_is_to_be_detected_raises_a_debug_exception_once() {
    let mut machine = machine();
    let mut page = page(Reason::DebugRegister);
    put(&mut machine, &page, &[0x0f, 0x23, 0xc3]);
    (page.dr7, page.dr6, page.registers[gpr::RBX]) = (1 << 13 | 0x400, 0xffff_0ff0, 0x5000);
    assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    assert_eq!((page.event, page.rip, page.dr[0]), (exception(1, None), CODE, 0));
    assert_eq!((page.dr6, page.dr7), (0xffff_2ff0, 0x400));
    assert!(page.dirty & group::DEBUG != 0);
    (page.event, page.dirty, page.sequence) = (0, 0, page.sequence + 1);
    assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    assert_eq!((page.event, page.rip, page.dr[0]), (0, CODE + 3, 0x5000));
}

#[test]
fn a_debug_exception_that_the_guest_gets_back_ends_the_detection_of_accesses() {
    for (dr7, dirty) in [(1 << 13 | 0x401, group::DEBUG), (0x401, 0)] {
        let mut page = page(Reason::Exception);
        (page.qualification, page.dr7) = ([1, 0, 0], dr7);
        assert_eq!(machine().exited(0, &mut page), Resume::ENTER);
        assert_eq!((page.event, page.dr7), (exception(1, None), 0x401));
        assert_eq!(page.dirty, group::EVENT | dirty);
    }
}

#[test]
fn long_mode_cannot_be_left_by_clearing_pae() {
    let mut machine = machine();
    let mut page = super::long_page(&mut machine.host, Reason::ControlRegister);
    put(&mut machine, &page, &[0x0f, 0x22, 0xe0]);
    let before = page.cr4;
    machine.exited(0, &mut page);
    assert_eq!((page.cr4, page.event), (before, exception(13, Some(0))));
}

#[test]
fn control_register_8_is_kept_for_each_vcpu() {
    let mut machine = machine();
    let mut page = super::long_page(&mut machine.host, Reason::ControlRegister);
    put(&mut machine, &page, &[0x44, 0x0f, 0x22, 0xc1, 0x44, 0x0f, 0x20, 0xc3]);
    page.registers[gpr::RCX] = 9;
    machine.exited(1, &mut page);
    assert_eq!(page.rip, super::CODE_LONG + 4);
    machine.exited(1, &mut page);
    assert_eq!(page.registers[gpr::RBX], 9);
    page.rip = super::CODE_LONG + 4;
    machine.exited(0, &mut page);
    assert_eq!(page.registers[gpr::RBX], 0);
}

#[test]
fn a_guest_that_programs_the_interval_timer_is_told_of() {
    let mut machine = machine();
    for (port, read) in [(0x40, 0xff), (0x42, 0), (0x43, 0xff)] {
        let mut page = super::port_page(port, 1, true);
        machine.exited(0, &mut page);
        assert_eq!((page.registers[gpr::RAX] & 0xff, machine.host.notes.len()), (read, 0), "{port:#x}");
    }
    let mut page = super::port_page(0x43, 1, false);
    machine.exited(0, &mut page);
    assert_eq!(machine.host.notes, [Note::NoTimer]);
}

#[test]
fn instructions_that_the_machine_does_not_offer_are_undefined() {
    for reason in [Reason::Hypercall, Reason::Virtualization, Reason::Monitor, Reason::Mwait] {
        let mut page = page(reason);
        assert_eq!(machine().exited(0, &mut page), Resume::ENTER);
        assert_eq!((page.event, page.rip), (exception(6, None), CODE));
    }
    let mut page = page(Reason::Rdpmc);
    page.registers[gpr::RCX] = 4;
    machine().exited(0, &mut page);
    assert_eq!(page.event, exception(13, Some(0)));
}

#[test]
fn halting_in_the_shadow_of_sti_ends_the_shadow() {
    let mut machine = machine();
    let mut page = page(Reason::Hlt);
    put(&mut machine, &page, &[0xf4]);
    page.shadow = shadow::INTERRUPT;
    assert_eq!(machine.exited(0, &mut page), Resume::PARK);
    assert_eq!((page.shadow, page.dirty & group::EVENT), (0, group::EVENT));
}

#[test]
fn a_single_stepped_instruction_traps_after_it_was_emulated() {
    for (reason, code) in [(Reason::Hlt, &[0xf4][..]), (Reason::Cpuid, &[0x0f, 0xa2])] {
        let mut machine = machine();
        let mut page = page(reason);
        put(&mut machine, &page, code);
        page.rflags |= 1 << 8;
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
        assert_eq!((page.event, page.dr6), (exception(1, None), 1 << 14));
        assert_eq!(page.rip, CODE + code.len() as u64);
    }
}

#[test]
fn the_guest_stops_at_what_is_not_emulated_and_the_log_says_why() {
    for reason in [Reason::BadState, Reason::Other, Reason::None] {
        let mut machine = machine();
        let mut page = page(reason);
        assert_eq!(machine.exited(0, &mut page), Resume::STOP);
        assert!(matches!(machine.host.notes[..], [Note::Stopped(_, CODE, _)]), "{reason:?}");
    }
    let mut machine = machine();
    let mut page = port_page(0xf4, 1, false);
    page.registers[gpr::RAX] = 0x10;
    assert_eq!(machine.exited(0, &mut page), Resume::STOP);
    assert_eq!(machine.host.notes, [Note::TestExit(0x10)]);
}

#[test]
fn the_clock_and_the_ports_that_kernels_probe_read_what_they_must() {
    let mut machine = machine();
    machine.host.wall = 1_763_783_825 * 1_000_000_000;
    let mut sequence = 0;
    let mut access = |port, width, write: Option<u64>| {
        sequence += 1;
        let mut page = port_page(port, width, write.is_none());
        page.sequence = sequence;
        page.registers[gpr::RAX] = write.unwrap_or(0);
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
        page.registers[gpr::RAX]
    };
    for (index, value) in [(0, 5), (2, 0x57), (4, 3), (7, 0x22), (8, 0x11), (9, 0x25), (0x32, 0x20), (0xa, 0x26)] {
        access(0x70, 1, Some(index));
        assert_eq!(access(0x71, 1, None), value, "{index:#x}");
    }
    // A word at 0x70 sets the index and writes a cell that cannot be written.
    access(0x70, 2, Some(0xff04));
    assert_eq!(access(0x70, 2, None), 0x03ff);
    for (port, width, value) in [(0x42, 1, 0), (0x61, 1, 0x20), (0x600, 2, 0), (0x43, 1, 0xff), (0x60, 4, 0xffff_20ff)]
    {
        assert_eq!(access(port, width, None), value, "{port:#x}");
    }
}

#[test]
fn switching_off_ends_every_vcpu_and_is_told_once() {
    let mut machine = machine();
    let mut page = port_page(0x600, 1, false);
    page.registers[gpr::RAX] = 0x34;
    assert_eq!(machine.exited(0, &mut page), Resume::STOP);
    assert_eq!(machine.host.notes, [Note::PowerOff]);
    assert_eq!(machine.host.events, [(1, VmEventKind::PowerOff)]);
    assert_eq!(machine.host.recalled, [1]);
    for reason in [Reason::Recall, Reason::Io, Reason::Hlt] {
        let mut other = super::page(reason);
        other.qualification[0] = 0x80 | 1 << 16;
        (other.sequence, other.next_rip) = (5, CODE + 1);
        assert_eq!(machine.exited(1, &mut other), Resume::STOP, "{reason:?}");
    }
}

#[test]
fn a_reset_stops_all_vcpus_and_starts_the_first_one_anew() {
    for (port, value) in [(0x64, 0xfe), (0xcf9, 6)] {
        let mut machine = machine();
        let mut page = port_page(port, 1, false);
        page.registers[gpr::RAX] = value;
        assert_eq!(machine.exited(1, &mut page), Resume::STOP);
        assert_eq!(machine.host.recalled, [0]);
        machine.host.stopped.push(1);
        let mut first = super::page(Reason::Recall);
        assert_eq!(machine.exited(0, &mut first), Resume::ENTER);
        assert_eq!((first.rip, first.cr0), (0x7c00, 0x10));
        assert_eq!(first.dirty, group::ALL & !group::TIME);
        assert_eq!(machine.host.memory.0[0x7c00..0x7c10], [0xf4; 16]);
        let mut again = super::page(Reason::Recall);
        again.sequence = 2;
        assert_eq!(machine.exited(0, &mut again), Resume::ENTER);
        assert_eq!(again.dirty, 0);
    }
}

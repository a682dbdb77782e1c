//! Kills: the service dies at any of its effects, and the exit it did not answer is given again (R13).

use super::{Model, over, port_page};
use crate::host::Note;
use crate::machine::Machine;
use crate::saved::{Block, power};
use portcullis_ipc::exit::{ExitPage, gpr};
use portcullis_ipc::proto::link::VmEventKind;
use portcullis_ipc::syscall::Resume;
use proptest::prelude::*;

/// Serves `page` in so many new instances over the same state; how the last one answered.
fn again(model: Model, page: &ExitPage, crashed: bool, instances: u32) -> (Machine<Model>, u64) {
    let (mut model, mut word) = (model, 0);
    for number in 1..=instances {
        let mut machine = over(model);
        machine.crashed = crashed;
        word = machine.exited(0, &mut page.clone());
        if number == instances {
            return (machine, word);
        }
        model = machine.host;
    }
    (over(model), word)
}

#[test]
fn an_exit_that_ended_so_many_instances_in_a_row_stops_the_machine_with_a_line() {
    let mut page = port_page(0x1234, 1, true);
    (page.sequence, page.rflags) = (9, 0x246);
    for (crashed, instances, off) in [(true, 2, false), (true, 3, true), (false, 9, false)] {
        let (machine, word) = again(Model::new(), &page, crashed, instances);
        let note = Note::Deadly { reason: page.reason, times: 3, rip: page.rip, rflags: 0x246 };
        assert_eq!(word == Resume::STOP, off, "{crashed} {instances}");
        assert_eq!(machine.durable.board.power == power::OFF, off);
        assert_eq!(machine.host.notes.contains(&note), off);
        let told = machine.host.events.iter().any(|event| event.1 == VmEventKind::Stopped);
        assert_eq!(told, off);
    }
}

#[test]
fn other_exits_and_a_load_that_gets_on_begin_the_count_anew() {
    let (first, second) = (port_page(0x1234, 1, true), port_page(0x1234, 1, true));
    let (first, second) = (ExitPage { sequence: 9, ..first }, ExitPage { sequence: 10, ..second });
    let (machine, _) = again(Model::new(), &first, true, 2);
    let (machine, _) = again(machine.host, &second, true, 2);
    let (mut machine, word) = again(machine.host, &first, true, 2);
    assert_ne!(word, Resume::STOP);
    machine.durable.load.written += 1;
    machine.touched.add(Block::Load);
    machine.commit();
    let (_, word) = again(machine.host, &first, true, 2);
    assert_ne!(word, Resume::STOP);
}

/// One access of the guest to its serial port.
#[derive(Clone, Copy, Debug)]
enum Access {
    Write(u8),
    Scratch(u8),
    Read,
}

/// Runs the accesses with a kill after `fuse` effects of each life; returns what the console took, what
/// the guest read, and the scratch register at the end.
fn run(accesses: &[Access], fuses: &[u32], input: &[u8]) -> (Vec<u8>, Vec<u8>, u8) {
    let mut model = Model::new();
    model.input = input.to_vec();
    let mut lives = fuses.iter().copied();
    model.live(lives.next().unwrap_or(u32::MAX));
    let mut machine = over(model);
    machine.input();
    let mut seen = Vec::new();
    for (index, access) in accesses.iter().enumerate() {
        loop {
            let (port, input, value) = match *access {
                Access::Write(byte) => (0x3f8, false, byte),
                Access::Scratch(byte) => (0x3ff, false, byte),
                Access::Read => (0x3f8, true, 0),
            };
            let mut page = port_page(port, 1, input);
            page.sequence = index as u64 + 1;
            page.registers[gpr::RAX] = value.into();
            machine.exited(0, &mut page);
            if !machine.host.killed() {
                if input {
                    seen.push(page.registers[gpr::RAX] as u8);
                }
                break;
            }
            // Killed: what the instance did to its page is lost, and so is its memory.
            let mut model = machine.host;
            model.live(lives.next().unwrap_or(u32::MAX));
            machine = over(model);
            machine.flush();
        }
    }
    machine.host.live(u32::MAX);
    machine.flush();
    let scratch = machine.durable.uart.scratch;
    (machine.host.console, seen, scratch)
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![
        4 => prop_oneof![Just(b'\n'), b'a'..=b'z'].prop_map(Access::Write),
        1 => any::<u8>().prop_map(Access::Scratch),
        1 => Just(Access::Read),
    ]
}

proptest! {
    #[test]
    fn whatever_effect_a_kill_cuts_off_the_guest_and_the_console_see_each_byte_once(
        accesses in prop::collection::vec(access(), 1..200),
        fuses in prop::collection::vec(1u32..20, 0..40)
    ) {
        prop_assert_eq!(run(&accesses, &fuses, b"input"), run(&accesses, &[], b"input"));
    }
}

#[test]
fn a_kill_at_every_single_effect_of_a_session_changes_nothing() {
    let text = b"login: root\nwelcome\n";
    let mut accesses: Vec<Access> = text.iter().map(|&byte| Access::Write(byte)).collect();
    accesses.extend([Access::Read, Access::Scratch(7), Access::Read]);
    let expected = run(&accesses, &[], b"ab");
    assert_eq!(expected, (text.to_vec(), b"ab".to_vec(), 7));
    for fuse in 1..900 {
        assert_eq!(run(&accesses, &[fuse], b"ab"), expected, "killed after {fuse} effects");
    }
}

#[test]
fn an_end_of_the_guest_is_told_once_however_often_its_exit_is_given() {
    let mut page = port_page(0xf4, 1, false);
    page.registers[gpr::RAX] = 3;
    for fuse in 1..20 {
        let mut model = Model::new();
        model.live(fuse);
        let mut first = over(model);
        first.exited(0, &mut page.clone());
        let mut model = first.host;
        model.live(u32::MAX);
        let mut second = over(model);
        second.exited(0, &mut page.clone());
        assert_eq!(second.host.events, [(1, VmEventKind::TestExit(3))], "killed after {fuse} effects");
    }
}
#[test]
fn a_reset_is_told_once_however_often_its_exit_is_given() {
    let mut page = port_page(0x64, 1, false);
    page.registers[gpr::RAX] = 0xfe;
    page.sequence = 5;
    let mut bad = Vec::new();
    for fuse in 1..200 {
        let mut model = Model::new();
        model.stopped = vec![1];
        model.live(fuse);
        let mut first = over(model);
        first.exited(0, &mut page.clone());
        let mut model = first.host;
        model.live(u32::MAX);
        let mut second = over(model);
        second.start(false);
        second.exited(0, &mut page.clone());
        if second.host.events != [(1, VmEventKind::Reset)] {
            bad.push((fuse, second.host.events.clone(), second.host.resets.clone()));
        }
    }
    assert!(bad.is_empty(), "{} of 199, first {:?}", bad.len(), bad[0]);
}

#[test]
fn a_byte_that_fills_the_transmitter_is_written_once() {
    use portcullis_ipc::proto::link::CONSOLE_BYTES;
    let mut model = Model::new();
    model.console_full = true;
    let mut machine = over(model);
    for index in 1..=CONSOLE_BYTES as u64 {
        let mut page = port_page(0x3f8, 1, false);
        (page.sequence, page.registers[gpr::RAX]) = (index, u64::from(b'a') + index % 26);
        machine.exited(0, &mut page);
    }
    // Killed before the core took the answer to the last one.
    let mut model = machine.host;
    model.live(u32::MAX);
    let mut machine = over(model);
    machine.start(false);
    let last = CONSOLE_BYTES as u64;
    let mut page = port_page(0x3f8, 1, false);
    (page.sequence, page.registers[gpr::RAX]) = (last, u64::from(b'a') + last % 26);
    let rip = page.rip;
    let word = machine.exited(0, &mut page);
    machine.host.console_full = false;
    machine.output();
    if page.rip == rip {
        // The guest runs the instruction again.
        let mut page = port_page(0x3f8, 1, false);
        (page.sequence, page.registers[gpr::RAX]) = (last + 1, u64::from(b'a') + last % 26);
        machine.exited(0, &mut page);
    }
    machine.output();
    assert_eq!(machine.host.console.len(), CONSOLE_BYTES, "word {word:#x}");
}

#[test]
fn a_vcpu_with_a_window_is_recalled_at_power_off() {
    use super::{CONFIG, IDENTITY};
    use crate::config::Config;
    use crate::machine::Machine;
    let config = Config { lapic: true, ioapic: true, ..CONFIG };
    let mut machine = Machine::new(Model::new(), config, IDENTITY);
    machine.start(false);
    let mut msr = |number: u64, value: u64, sequence| {
        let mut page = super::page(portcullis_ipc::exit::Reason::Msr);
        (page.sequence, page.next_rip) = (sequence, 0x1002);
        page.qualification[0] = 1;
        (page.registers[gpr::RCX], page.registers[gpr::RAX]) = (number, value);
        machine.exited(1, &mut page);
    };
    msr(0x1b, 0xfee0_0c00, 1);
    msr(0x80f, 0x1ff, 2);
    msr(0x83f, 0x31, 3);
    assert_eq!(machine.attention >> 1 & 1, 1);
    machine.host.recalled.clear();
    let mut page = port_page(0x600, 1, false);
    (page.sequence, page.registers[gpr::RAX]) = (9, 0x34);
    machine.exited(0, &mut page);
    assert_eq!(machine.host.recalled, [1]);
}

fn with_apics() -> crate::machine::Machine<Model> {
    use super::{CONFIG, IDENTITY};
    let config = crate::config::Config { lapic: true, ioapic: true, ..CONFIG };
    let mut machine = crate::machine::Machine::new(Model::new(), config, IDENTITY);
    machine.start(false);
    machine
}

fn write_msr(machine: &mut crate::machine::Machine<Model>, vcpu: u16, sequence: u64, number: u64, value: u64) {
    let mut page = super::page(portcullis_ipc::exit::Reason::Msr);
    (page.sequence, page.next_rip) = (sequence, 0x1002);
    page.qualification[0] = 1;
    (page.registers[gpr::RCX], page.registers[gpr::RAX]) = (number, value & 0xffff_ffff);
    page.registers[gpr::RDX] = value >> 32;
    machine.exited(vcpu, &mut page);
}

#[test]
fn a_processor_started_out_of_a_halt_runs_after_a_kill() {
    use portcullis_ipc::exit::Reason;
    use portcullis_ipc::syscall::Resume;
    let mut machine = with_apics();
    write_msr(&mut machine, 0, 1, 0x1b, 0xfee0_0d00);
    write_msr(&mut machine, 0, 2, 0x80f, 0x1ff);
    write_msr(&mut machine, 0, 3, 0x830, 1 << 32 | 0x4500);
    write_msr(&mut machine, 0, 4, 0x830, 1 << 32 | 0x4699);
    let halt = || {
        let mut page = super::page(Reason::Hlt);
        (page.sequence, page.next_rip) = (20, 0x1001);
        page
    };
    let mut page = halt();
    assert_eq!(machine.exited(1, &mut page), Resume::ENTER);
    assert_eq!(machine.durable.vcpus[1].life, crate::saved::life::RUNNING);
    // Killed before the core took the answer.
    let config = machine.config;
    let mut model = machine.host;
    model.live(u32::MAX);
    let mut machine = crate::machine::Machine::new(model, config, super::IDENTITY);
    machine.start(false);
    let mut page = halt();
    assert_eq!(machine.exited(1, &mut page), Resume::ENTER);
    assert_eq!(machine.durable.vcpus[1].life, crate::saved::life::RUNNING, "it runs, and is remembered as halting");
}

#[test]
fn init_of_the_bootstrap_processor_is_a_reset() {
    let mut machine = with_apics();
    write_msr(&mut machine, 1, 1, 0x1b, 0xfee0_0c00);
    write_msr(&mut machine, 1, 2, 0x80f, 0x1ff);
    write_msr(&mut machine, 1, 3, 0x830, 0x4500);
    machine.host.stopped = vec![1];
    let mut page = super::page(portcullis_ipc::exit::Reason::Recall);
    page.sequence = 30;
    machine.exited(0, &mut page);
    assert_eq!(machine.durable.board.power, crate::saved::power::RUNNING);
    assert_eq!((machine.host.events.len(), machine.host.resets.len()), (1, 1));
}

#[test]
fn no_timer_is_set_for_a_machine_that_is_off() {
    let mut machine = with_apics();
    write_msr(&mut machine, 0, 1, 0x1b, 0xfee0_0d00);
    write_msr(&mut machine, 0, 2, 0x80f, 0x1ff);
    write_msr(&mut machine, 0, 3, 0x83e, 0xb);
    write_msr(&mut machine, 0, 4, 0x832, 0x2_0031);
    write_msr(&mut machine, 0, 5, 0x838, 1000);
    machine.host.stopped = vec![1];
    let mut page = port_page(0x600, 1, false);
    (page.sequence, page.registers[gpr::RAX]) = (9, 0x34);
    machine.exited(0, &mut page);
    machine.host.stopped = vec![0, 1];
    for _ in 0..3 {
        machine.host.tsc += 200_000;
        machine.timer();
    }
    assert!(machine.host.deadline <= machine.host.tsc, "armed for {} at {}", machine.host.deadline, machine.host.tsc);
}

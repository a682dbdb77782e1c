//! Starts and ends of the machine and its vCPUs, and services that do not answer meanwhile.

use super::delivery::{APIC, first_exit, machine, msr};
use super::{CODE, IDENTITY, Model, page, port_page};
use crate::config::{ApStart, Config};
use crate::firmware::MAILBOX;
use crate::host::Note;
use crate::loader::Error;
use crate::machine::Machine;
use crate::memory::load;
use crate::saved::{power, start};
use portcullis_ipc::exit::{ExitPage, Reason, access, gpr};
use portcullis_ipc::proto::link::VmEventKind;
use portcullis_ipc::syscall::{Resume, rights};

const WITH_MAILBOX: Config = Config { ap_start: ApStart::Mailbox, ..APIC };

/// A machine with a mailbox that has just started.
fn with_mailbox() -> Machine<Model> {
    let mut model = Model::cold();
    model.memory.plain = crate::memory::tests::Plain::new(0x10_0000);
    model.stopped = vec![0, 1];
    let mut machine = Machine::new(model, WITH_MAILBOX, IDENTITY);
    machine.start(false);
    first_exit(&mut machine);
    machine
}

/// The exit of an instruction that writes to the mailbox at [EDI].
fn mailbox_page(sequence: u64, offset: u64, value: u64) -> ExitPage {
    let mut page = page(Reason::NestedFault);
    page.sequence = sequence;
    page.qualification = [u64::from(MAILBOX) + offset, access::PRESENT | access::WRITE, 0];
    page.registers[gpr::RDI] = u64::from(MAILBOX) + offset;
    page.registers[gpr::RAX] = value;
    page
}

#[test]
fn a_write_to_the_mailbox_is_done_once_wherever_the_service_is_killed() {
    let at = |offset: u64| (u64::from(MAILBOX) + offset) as usize;
    // INC of a word beside the command; the command by OR, by MOV and by STOSW.
    let table: [(&[u8], u64, u64, bool); 4] = [
        (&[0xff, 0x07], 0x100, 1, false),
        (&[0x66, 0x83, 0x0f, 0x01], 0, 0, true),
        (&[0x66, 0x89, 0x07], 0, 0, true),
        (&[0x66, 0xab], 0, 0, true),
    ];
    for (code, offset, expected, starts) in table {
        for fuse in 0.. {
            let mut machine = with_mailbox();
            machine.host.memory.put(at(4), &1u32.to_le_bytes());
            machine.host.memory.put(at(8), &0x9_a000u64.to_le_bytes());
            let exit = mailbox_page(11, offset, 1);
            super::put(&mut machine, &exit, code);
            machine.host.live_on(fuse);
            machine.exited(0, &mut exit.clone());
            let killed = machine.host.killed();
            let mut model = machine.host;
            model.live(u32::MAX);
            let mut machine = Machine::new(model, WITH_MAILBOX, IDENTITY);
            machine.start(false);
            let mut again = exit;
            assert_eq!(machine.exited(0, &mut again), Resume::ENTER);
            assert_eq!(again.rip, CODE + code.len() as u64);
            let found = load::<4>(&machine.host.memory, u64::from(MAILBOX) + offset);
            assert_eq!((found, machine.host.stopped.is_empty()), (expected, starts), "{code:x?} {fuse}");
            if !killed {
                assert!(fuse > 5, "{fuse}");
                break;
            }
        }
    }
}

#[test]
fn the_mailbox_starts_the_processor_that_it_names() {
    let mut machine = with_mailbox();
    assert_eq!(machine.host.protected, [(u64::from(MAILBOX), rights::READ)]);
    let mut sequence = 10;
    // mov [edi], eax and mov [edi], ax.
    let mut write = |machine: &mut Machine<Model>, offset: u64, value: u64, code: &[u8]| {
        sequence += 1;
        let mut page = mailbox_page(sequence, offset, value);
        super::put(machine, &page, code);
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
        assert_eq!((page.rip, page.event), (CODE + code.len() as u64, 0));
    };
    let word = |machine: &Machine<Model>| load::<4>(&machine.host.memory, MAILBOX.into());
    write(&mut machine, 4, 7, &[0x89, 0x07]);
    write(&mut machine, 8, 0x9_a000, &[0x89, 0x07]);
    write(&mut machine, 0, 1, &[0x66, 0x89, 0x07]);
    assert_eq!((machine.host.stopped.as_slice(), word(&machine)), (&[1][..], 1), "there is no such processor");
    write(&mut machine, 4, 1, &[0x89, 0x07]);
    assert_eq!((machine.host.stopped.as_slice(), word(&machine)), (&[][..], 0));
    assert_eq!(machine.durable.vcpus[1].start, start::mailbox(0x9_a000));
    msr(&mut machine, 0, 40, 0x1b, Some(0xfee0_0d00));
    msr(&mut machine, 0, 41, 0x830, Some(1 << 32 | 0x699));
    assert_eq!(machine.durable.vcpus[1].start, start::mailbox(0x9_a000));
}

#[test]
fn a_state_that_the_processor_refused_ends_the_machine() {
    let mut machine = machine();
    machine.host.stopped = vec![0, 1];
    machine.start(true);
    assert_eq!(machine.host.stopped, [0, 1]);
    assert_eq!(machine.host.events.len(), 1);
}

#[test]
fn a_refused_state_ends_the_machine_though_the_instance_that_was_told_so_ended_too() {
    for fuse in 0.. {
        let mut model = Model::cold();
        model.stopped = vec![0, 1];
        let mut machine = Machine::new(model, APIC, IDENTITY);
        machine.start(false);
        first_exit(&mut machine);
        // The guest has changed its image, and the core has stopped it.
        let mut model = machine.host;
        model.memory.put(0x7c00, &[0xee; 16]);
        (model.stopped, model.stopped_by) = (vec![0, 1], Reason::BadState);
        model.live(fuse);
        let mut next = Machine::new(model, APIC, IDENTITY);
        next.start(true);
        let killed = next.host.killed();
        let mut model = next.host;
        model.live(u32::MAX);
        let mut last = Machine::new(model, APIC, IDENTITY);
        last.start(false);
        assert_eq!((last.durable.board.power, last.host.stopped.as_slice()), (power::OFF, &[0, 1][..]), "{fuse}");
        assert_eq!(last.host.events, [(1, VmEventKind::Stopped)], "{fuse}");
        assert_eq!(last.host.memory.0[0x7c00], 0xee, "{fuse}");
        if !killed {
            assert!(fuse > 3, "{fuse}");
            break;
        }
    }
}

#[test]
fn firmware_tables_that_come_late_let_the_machine_start_when_they_come() {
    for (calls_back, serving) in [(true, 0), (true, 1), (false, 0)] {
        let mut machine = machine();
        machine.config.acpi = true;
        machine.host.calls_back = calls_back;
        machine.host.memory.plain = crate::memory::tests::Plain::new(0x20_0000);
        (machine.host.tables_late, machine.host.stopped) = (true, vec![1 - serving]);
        let mut reset = port_page(0xcf9, 1, false);
        (reset.sequence, reset.registers[gpr::RAX]) = (30, 6);
        assert_eq!(machine.exited(serving, &mut reset), Resume::STOP);
        if serving != 0 {
            assert_eq!(machine.host.stopped, [], "vCPU 0 is to come and load");
            machine.host.stopped = vec![1];
            let mut first = page(Reason::Recall);
            first.sequence = 31;
            assert_eq!(machine.exited(0, &mut first), Resume::STOP);
        }
        machine.host.stopped = vec![0, 1];
        if !calls_back {
            assert_eq!(machine.durable.board.power, power::OFF, "nobody would call");
            continue;
        }
        assert_eq!(machine.durable.board.power, power::LOADING);
        assert!(machine.host.notes.contains(&Note::LoadsLater(Error::TablesLate)));
        for late in [true, false] {
            machine.host.tables_late = late;
            machine.output();
            assert_eq!(machine.host.stopped, [1], "vCPU 0 is to come");
            let mut first = page(Reason::Recall);
            first.sequence = 32 + u64::from(!late);
            let word = machine.exited(0, &mut first);
            assert_eq!(word, if late { Resume::STOP } else { Resume::ENTER });
            machine.host.stopped = if late { vec![0, 1] } else { vec![1] };
        }
        assert_eq!(machine.durable.board.power, power::RUNNING);
        let told: Vec<_> = machine.host.events.iter().map(|(_, kind)| *kind).collect();
        assert_eq!(told, [VmEventKind::Reset], "no end was told");
    }
}

#[test]
fn input_that_could_not_be_fetched_is_fetched_when_the_console_answers() {
    let mut machine = machine();
    machine.host.console_full = true;
    machine.host.input = b"x".to_vec();
    machine.input();
    let mut looks = 0;
    let mut read = |machine: &mut Machine<Model>| {
        looks += 1;
        let mut page = port_page(0x3f8, 1, true);
        page.sequence = 50 + looks;
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
        page.registers[gpr::RAX] as u8
    };
    assert_eq!((read(&mut machine), machine.more_input), (0, true));
    machine.host.console_full = false;
    assert_eq!(read(&mut machine), 0, "not asked with each look of the guest");
    machine.output();
    assert_eq!(read(&mut machine), b'x');
}

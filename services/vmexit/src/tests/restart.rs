//! Kills: the service dies at any of its effects, and the exit it did not answer is given again (R13).

use super::{Model, over, port_page};
use portcullis_ipc::exit::gpr;
use portcullis_ipc::proto::link::VmEventKind;
use proptest::prelude::*;

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

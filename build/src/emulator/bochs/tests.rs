//! Bochs with a system of a few bytes: a CD that the BIOS starts in real mode, made here.

use crate::emulator::machine::{Bios, Boot, Kind, Machine, Target};
use crate::emulator::{EXIT_PORT, Emulator, Event};
use crate::{process, setup};
use std::time::Duration;

/// A CD that boots `code` without emulation of another medium (El Torito), loaded at 0x7C00.
fn cd(code: &[u8]) -> Vec<u8> {
    const SECTOR: usize = 2048;
    let mut image = vec![0; 400 * SECTOR];
    let mut put = |sector: usize, offset: usize, bytes: &[u8]| {
        image[sector * SECTOR + offset..][..bytes.len()].copy_from_slice(bytes);
    };
    put(16, 0, b"\x01CD001\x01");
    put(17, 0, b"\0CD001\x01EL TORITO SPECIFICATION");
    put(17, 0x47, &19u32.to_le_bytes());
    put(18, 0, b"\xffCD001\x01");
    // Validation entry, its words sum to 0; then the boot entry: 4 sectors of 512 bytes from sector 20.
    put(19, 0, &[1, 0, 0, 0]);
    put(19, 28, &[0xaa, 0x55, 0x55, 0xaa]);
    put(19, 32, &[0x88, 0, 0, 0, 0, 0, 4, 0, 20, 0, 0, 0]);
    put(20, 0, code);
    image
}

/// Starts a machine with that code; `None` where Bochs is not installed.
fn start(code: &[u8], bios: Bios, limit: Duration) -> Option<(Emulator, tempfile::NamedTempFile)> {
    if process::find(super::BOCHS.as_ref()).is_none() || !setup::missing(&[setup::Need::Bochs]).is_empty() {
        return None;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), cd(code)).unwrap();
    let target = Target { bios, ..Target::new(Kind::Bochs, Some("ryzen")) };
    let machine = Machine { target, ..Machine::new(Boot::IsoBios(file.path().into()), 32) };
    Some((Emulator::start(&machine, limit).unwrap(), file))
}

fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0xba, low, high, 0xb0, value, 0xee]
}

/// Eight data bits on both lines: unlike QEMU, Bochs sends only those that are set.
fn eight_bits() -> Vec<u8> {
    [out(0x3fb, 3), out(0x2fb, 3)].concat()
}

const PATIENCE: Duration = Duration::from_secs(60);
/// Stops of one machine.
const ROUNDS: u32 = 50;

/// Collects events until `last` has come; the BIOS may have said something before.
fn until(emulator: &mut Emulator, last: &Event) -> Vec<Event> {
    let mut seen = Vec::new();
    while seen.last() != Some(last) {
        let event = emulator.next(PATIENCE);
        assert!(!matches!(event, Event::Deadline | Event::Quiet | Event::Gone), "{event:?} after {seen:?}");
        seen.push(event);
    }
    seen
}

#[test]
fn lines_the_exit_value_and_memory_arrive_under_both_bioses() {
    let code =
        [eight_bits(), out(0x3f8, b'A'), out(0x2f8, b'B'), out(EXIT_PORT, 0x10), vec![0xf4, 0xeb, 0xfd]].concat();
    for bios in [Bios::Bochs, Bios::Seabios] {
        let Some((mut emulator, _file)) = start(&code, bios, PATIENCE) else { return };
        let seen = until(&mut emulator, &Event::Exit(0x10));
        for event in [Event::Com1(b"A".into()), Event::Com2(b"B".into())] {
            assert!(seen.contains(&event), "{event:?} is not in {seen:?}");
        }
        let snapshot = emulator.snapshot().unwrap();
        assert_eq!(snapshot.memory.len(), 32 << 20);
        assert_eq!(&snapshot.memory[0x7c00..][..code.len()], code);
        assert!(snapshot.registers.contains("CR3=") && snapshot.features.smap && !snapshot.features.umip);
        // It goes on and can be stopped again.
        emulator.started.console.go().unwrap();
        assert!(emulator.snapshot().unwrap().registers.contains("CR0="));
    }
}

#[test]
fn a_machine_that_has_just_gone_on_is_stopped_each_time() {
    let code = [eight_bits(), out(0x3f8, b'A'), vec![0xeb, 0xfe]].concat();
    let Some((mut emulator, _file)) = start(&code, Bios::Bochs, PATIENCE) else { return };
    until(&mut emulator, &Event::Com1(b"A".into()));
    for _ in 0..ROUNDS {
        emulator.started.console.stop().unwrap();
        emulator.started.console.go().unwrap();
    }
}

#[test]
fn what_is_sent_comes_back_from_a_machine_that_echoes() {
    // Wait for a byte on COM2, send it on COM1.
    let code = [&[0xba, 0xfd, 2, 0xec, 0xa8, 1, 0x74, 0xf8, 0xba, 0xf8, 2, 0xec, 0xba, 0xf8, 3, 0xee, 0xeb, 0xee][..]];
    let code = [eight_bits(), out(0x3f8, b'>'), code.concat()].concat();
    let Some((mut emulator, _file)) = start(&code, Bios::Bochs, PATIENCE) else { return };
    until(&mut emulator, &Event::Com1(b">".into()));
    emulator.send_com2(b"x").unwrap();
    until(&mut emulator, &Event::Com1(b"x".into()));
}

#[test]
fn a_triple_fault_and_a_reset_stop_the_machine_and_leave_its_memory() {
    // lidt of zeros with limit 0, then int3; reset by port 0xCF9.
    let crash = [0x31, 0xc0, 0x8e, 0xd8, 0x0f, 0x01, 0x1e, 0x10, 0x7c, 0xcc, 0xeb, 0xfe];
    for code in [crash.to_vec(), out(0xcf9, 6)] {
        let Some((mut emulator, _file)) = start(&code, Bios::Bochs, PATIENCE) else { return };
        assert_eq!(emulator.next(PATIENCE), Event::Stopped("reset".to_owned()));
        let snapshot = emulator.snapshot().unwrap();
        assert_eq!(&snapshot.memory[0x7c00..][..code.len()], code);
    }
}

#[test]
fn a_machine_that_hangs_ends_at_its_deadline() {
    let Some((mut emulator, _file)) = start(&[0xeb, 0xfe], Bios::Bochs, Duration::from_millis(300)) else { return };
    assert_eq!(emulator.next(10 * PATIENCE), Event::Deadline);
}

#[test]
fn a_processor_that_bochs_does_not_know_is_named() {
    let Some((first, file)) = start(&[0xf4], Bios::Bochs, PATIENCE) else { return };
    drop(first);
    let target = Target::new(Kind::Bochs, Some("abacus"));
    let machine = Machine { target, ..Machine::new(Boot::IsoBios(file.path().into()), 32) };
    let error = Emulator::start(&machine, PATIENCE).err().unwrap().to_string();
    assert!(error.starts_with("Bochs has no processor `abacus`"), "{error}");
}

//! The emulator with a system of a few bytes: a PVH ELF made here, so that no build is needed.

use super::*;
use machine::Boot;
use qemu::program;

/// Where the ELF lies.
const BASE: u32 = 0x20_0000;
/// Its note and its code in it.
const NOTE: usize = 64 + 2 * 56;
const CODE: usize = NOTE + 20;

/// A PVH ELF at 2 MiB: 32-bit code, and the note that names its entry.
fn pvh_elf(code: &[u8]) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    let mut put = |bytes: &[u8]| elf.extend_from_slice(bytes);
    put(&[2, 0, 62, 0, 1, 0, 0, 0]);
    put(&u64::from(BASE + CODE as u32).to_le_bytes());
    put(&64u64.to_le_bytes());
    put(&[0; 12]);
    put(&[64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]);
    let size = (CODE + code.len()) as u64;
    for (kind, offset, bytes) in [(1u32, 0u64, size), (4, NOTE as u64, 20)] {
        put(&kind.to_le_bytes());
        put(&5u32.to_le_bytes());
        let address = u64::from(BASE) + offset;
        for word in [offset, address, address, bytes, bytes, if kind == 1 { 4096 } else { 4 }] {
            put(&word.to_le_bytes());
        }
    }
    put(&[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(b"Xen\0");
    put(&(BASE + CODE as u32).to_le_bytes());
    put(code);
    elf
}

/// Starts a machine with that code; `None` where QEMU is not installed.
fn start(code: &[u8], icount: bool, limit: Duration) -> Option<(Emulator, tempfile::NamedTempFile)> {
    if !program::is_there() {
        return None;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pvh_elf(code)).unwrap();
    let boot = Boot::Pvh { core: file.path().into(), bundle: None, command_line: String::new() };
    let machine = Machine { icount, ..Machine::new(boot, 32) };
    Some((Emulator::start(&machine, limit).unwrap(), file))
}

fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

#[test]
fn lines_the_exit_value_and_memory_arrive() {
    let mut code = [out(0x3f8, b'A'), out(0x2f8, b'B'), out(EXIT_PORT, 0x10)].concat();
    code.extend_from_slice(&[0xeb, 0xfe]);
    for icount in [false, true] {
        let Some((mut emulator, _file)) = start(&code, icount, Duration::from_secs(30)) else {
            return;
        };
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.push(emulator.next(Duration::from_secs(30)));
        }
        for event in [Event::Com1(b"A".into()), Event::Com2(b"B".into()), Event::Exit(0x10)] {
            assert!(seen.contains(&event), "{event:?} is not in {seen:?}");
        }
        let snapshot = emulator.snapshot().unwrap();
        assert_eq!(snapshot.memory.len(), 32 << 20);
        assert_eq!(&snapshot.memory[0x20_0000..0x20_0004], b"\x7fELF");
        assert!(snapshot.registers.contains("CR3="), "{}", snapshot.registers);
    }
}

#[test]
fn a_directory_with_a_path_longer_than_a_sockets_will_do_and_one_that_is_not_there_is_named() {
    if !program::is_there() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let long = directory.path().join("x".repeat(120)).join("y".repeat(120));
    let file = directory.path().join("core");
    std::fs::write(&file, pvh_elf(&[out(EXIT_PORT, 0x10), vec![0xeb, 0xfe]].concat())).unwrap();
    let machine = Machine::new(Boot::Pvh { core: file, bundle: None, command_line: String::new() }, 32);
    let start = || Emulator::start_in(&machine, Duration::from_secs(30), &long);
    let error = start().err().unwrap().to_string();
    assert!(error.contains(&long.display().to_string()) && error.contains("TMPDIR"), "{error}");
    std::fs::create_dir_all(&long).unwrap();
    assert_eq!(start().unwrap().next(Duration::from_secs(30)), Event::Exit(0x10));
}

#[test]
fn a_machine_that_hangs_ends_at_its_deadline() {
    let Some((mut emulator, _file)) = start(&[0xeb, 0xfe], false, Duration::from_secs(3)) else {
        return;
    };
    assert_eq!(emulator.next(Duration::from_millis(10)), Event::Quiet);
    assert_eq!(emulator.next(Duration::from_secs(600)), Event::Deadline);
}

#[test]
fn a_triple_fault_stops_the_machine_and_leaves_its_memory() {
    // lidt of zeros, then int3.
    let code = [0x0f, 0x01, 0x1d, 0, 0, 0, 0, 0xcc];
    let Some((mut emulator, _file)) = start(&code, false, Duration::from_secs(30)) else {
        return;
    };
    assert_eq!(emulator.next(Duration::from_secs(30)), Event::Stopped("guest-reset".into()));
    assert_eq!(emulator.snapshot().unwrap().memory.len(), 32 << 20);
}

#[test]
fn an_emulator_that_refuses_its_arguments_is_quoted() {
    if !program::is_there() {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"no ELF").unwrap();
    let boot = Boot::Pvh { core: file.path().into(), bundle: None, command_line: String::new() };
    let machine = Machine::new(boot, 32);
    let error = Emulator::start(&machine, Duration::from_secs(5)).err().unwrap();
    assert!(error.to_string().starts_with("QEMU ended at once"), "{error}");
}

#[test]
fn a_machine_that_never_stops_talking_ends_at_its_deadline() {
    let mut code = out(0x3f8, b'x');
    code.extend_from_slice(&[0xeb, 0xfd]);
    let Some((mut emulator, _file)) = start(&code, false, Duration::from_millis(500)) else { return };
    let begun = Instant::now();
    while emulator.next(Duration::from_secs(60)) != Event::Deadline {
        assert!(begun.elapsed() < Duration::from_secs(300));
    }
}

#[test]
fn a_machine_that_spins_is_stopped_at_a_place_again_and_again() {
    // Two jumps to each other; the machine nearly always stands still at one of them by chance.
    let code = [0xeb, 0x00, 0xeb, 0xfc];
    for icount in [false, true] {
        let Some((mut emulator, _file)) = start(&code, icount, Duration::from_secs(30)) else {
            return;
        };
        let first = BASE + CODE as u32;
        for place in [first, first + 2, first] {
            emulator.memory(0).unwrap();
            emulator.leave_guest(u64::from(place)).unwrap();
            let registers = emulator.snapshot().unwrap().registers;
            assert!(registers.contains(&format!("EIP={place:08x}")), "{place:x} is not in {registers}");
            emulator.started.console.go().unwrap();
        }
    }
}

//! What `cargo xtask run` shows: which hypervisor is there and what it answers.
#![no_std]
#![no_main]

use guests::{
    code::Place,
    machine,
    memory::{cpuid, tsc},
    port::{Access, MAGIC, command},
    report::Report,
    run::{Mode, State, reg},
};

guests::entry!(long64, main);

const HYPERVISOR: u32 = 0x4000_0000;
const TIMING: u32 = 0x4000_0010;

fn ask(command: u16) -> State {
    let code = guests::code::Code::new(Mode::Long).raw(&[0xed]);
    code.run(Place::ring0(Mode::Long), |state| {
        state.registers[reg::RAX] = u64::from(MAGIC);
        state.registers[reg::RCX] = u64::from(command);
        state.registers[reg::RDX] = u64::from(Access::input(command).port);
    })
}

extern "C" fn main(memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("demo");
    report.note(format_args!("long mode, {} MiB of memory", memory >> 20));
    let [highest, ebx, ecx, edx] = cpuid(HYPERVISOR);
    let mut vendor = [0u8; 12];
    for (bytes, word) in vendor.chunks_exact_mut(4).zip([ebx, ecx, edx]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let name = core::str::from_utf8(&vendor).unwrap_or("not text");
    let present = cpuid(1)[2] & 1 << 31 != 0;
    report.check(present, "hypervisor bit", format_args!("vendor {name:?}, highest leaf {highest:#x}"));
    if present && highest >= TIMING {
        let [tsc_khz, bus_khz, ..] = cpuid(TIMING);
        report.note(format_args!("leaf {TIMING:#x}: TSC {tsc_khz} kHz, bus {bus_khz} kHz"));
    }
    let version = ask(command::GETVERSION);
    let [rax, rcx, _, rbx, ..] = version.registers;
    report.check(
        rax == 6 && rbx == u64::from(MAGIC),
        "GETVERSION",
        format_args!("version {rax}, magic {rbx:#x}, type {rcx}"),
    );
    let hz = ask(command::GETHZ);
    let [rax, rcx, _, rbx, ..] = hz.registers;
    let hertz = rbx << 32 | rax & 0xffff_ffff;
    report.check(
        (10_000_000..20_000_000_000).contains(&hertz),
        "GETHZ",
        format_args!("TSC {hertz} Hz, local APIC {rcx} Hz"),
    );
    let first = tsc();
    let second = tsc();
    report.check(second > first, "TSC goes forward", format_args!("{first} then {second}"));
    report.done()
}

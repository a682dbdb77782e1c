//! What a guest finds out about its machine: registers and counters that one vendor has, the base of the local APIC,
//! ports that kernels wait at, the size of an XSAVE area, the name of the processor.
#![no_std]
#![no_main]

use guests::{
    apic::msr,
    code::{Code, Place, ended},
    machine,
    memory::{cpuid, inb, tsc},
    report::Report,
    run::{Mode, State, reg},
};

guests::entry!(long64, main);

const PLACE: Place = Place::ring0(Mode::Long);
const GENERAL_PROTECTION: u64 = 13;
/// Bits of CPUID leaf 1.
const XSAVE: u32 = 1 << 26;
const LOCAL_APIC: u32 = 1 << 9;
/// Where the local APIC lies, on, of the first processor; and off.
const APIC_ON: u64 = 0xfee0_0900;
const APIC_OFF: u64 = 0xfee0_0100;

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("features");
    let intel = cpuid(0)[1] == u32::from_le_bytes(*b"Genu");
    report.note(format_args!("signature {:#x}, {}", cpuid(1)[0], if intel { "Intel" } else { "AMD" }));
    registers_of_a_vendor(&mut report, intel);
    counters(&mut report, intel);
    apic_base(&mut report);
    ports(&mut report);
    xsave(&mut report);
    names(&mut report);
    report.done()
}

/// Runs RDMSR: the value, or the vector of its fault.
fn read(number: u64) -> Result<u64, u64> {
    run(&[0x0f, 0x32], |state| state.registers[reg::RCX] = number)
}

/// Runs WRMSR.
fn write(number: u64, value: u64) -> Result<(), u64> {
    let set = |state: &mut State| {
        state.registers[reg::RCX] = number;
        (state.registers[reg::RAX], state.registers[reg::RDX]) = (value & 0xffff_ffff, value >> 32);
    };
    run(&[0x0f, 0x30], set).map(|_| ())
}

/// Runs an instruction: EDX:EAX, or the vector of its fault.
fn run(bytes: &[u8], set: impl FnOnce(&mut State)) -> Result<u64, u64> {
    let code = Code::new(Mode::Long).raw(bytes);
    let after = code.run(PLACE, set);
    if ended(&after, &code) {
        Ok(after.registers[reg::RDX] << 32 | after.registers[reg::RAX])
    } else {
        Err(after.vector)
    }
}

fn registers_of_a_vendor(report: &mut Report, intel: bool) {
    // Controls and counters 0 to 3 of AMD's performance monitor.
    for number in 0xc001_0000..=0xc001_0007 {
        let found = (read(number), write(number, 0x43_0076), read(number));
        let fault = Err(GENERAL_PROTECTION);
        let expected = if intel { (fault, fault.map(|_: u64| ()), fault) } else { (Ok(0), Ok(()), Ok(0)) };
        report.check(found == expected, "a counter's register", format_args!("{number:#x} {found:x?}"));
    }
    let table: &[(u64, u64)] = if intel {
        // MISC_ENABLE: fast strings, no branch trace store, no PEBS.
        &[(0x1a0, 0x1801)]
    } else {
        // HWCR: the TSC counts at P0; DE_CFG: LFENCE serializes.
        &[(0xc001_0015, 1 << 24), (0xc001_1029, 2)]
    };
    for &(number, value) in table {
        let found = (read(number), write(number, 0), read(number));
        report.check(
            found == (Ok(value), Ok(()), Ok(value)),
            "a register as firmware leaves it",
            format_args!("{number:#x} {found:x?}"),
        );
    }
}

fn counters(report: &mut Report, intel: bool) {
    for counter in 0..5 {
        let found = run(&[0x0f, 0x33], |state| state.registers[reg::RCX] = counter);
        let expected = if intel || counter == 4 { Err(GENERAL_PROTECTION) } else { Ok(0) };
        report.check(found == expected, "rdpmc", format_args!("{counter} {found:x?}"));
    }
}

fn apic_base(report: &mut Report) {
    let base = u64::from(msr::BASE);
    let shown = || [cpuid(1)[3], cpuid(0x8000_0001)[3]].map(|features| features & LOCAL_APIC != 0);
    let again = cpuid(0)[1] != u32::from_le_bytes(*b"Genu");
    report.check(
        read(base) == Ok(APIC_ON) && shown() == [true, again],
        "the local APIC is there",
        format_args!("{:x?} {:?}", read(base), shown()),
    );
    let off = write(base, APIC_OFF);
    report.check(
        off == Ok(()) && shown() == [false, false],
        "the local APIC is off",
        format_args!("{off:x?} {:?}", shown()),
    );
    let on = write(base, APIC_ON);
    report.check(on == Ok(()) && shown() == [true, again], "it is on again", format_args!("{on:x?} {:?}", shown()));
    let width = cpuid(0x8000_0008)[0] & 0xff;
    for bit in width..64 {
        let found = write(base, APIC_ON | 1 << bit);
        if found != Err(GENERAL_PROTECTION) || bit == width {
            report.check(
                found == Err(GENERAL_PROTECTION),
                "a base beyond the width of addresses",
                format_args!("bit {bit} {found:x?}"),
            );
        }
    }
}

/// How often a port is read before a kernel would wait for ever.
const READS: u32 = 100_000;

fn ports(report: &mut Report) {
    let status = inb(0x64);
    report.check(status & 3 == 0, "the keyboard controller's buffers are empty", format_args!("{status:#x}"));
    let begin = tsc();
    let first = inb(0x61) & 0x10;
    let reads = (0..READS).take_while(|_| inb(0x61) & 0x10 == first).count();
    report.check(
        reads < READS as usize,
        "the refresh of memory goes on",
        format_args!("after {reads} reads, {} ticks", tsc() - begin),
    );
}

fn xsave(report: &mut Report) {
    if cpuid(1)[2] & XSAVE == 0 {
        report.note(format_args!("no XSAVE"));
        return;
    }
    let [compacted, plain, ..] = [1, 0].map(|subleaf| core::arch::x86_64::__cpuid_count(0xd, subleaf));
    let expected = if compacted.eax & 2 == 0 { 0 } else { plain.ebx };
    // With x87, SSE and AVX alone both forms of the area have one size.
    report.check(
        compacted.ebx == expected,
        "the size of a compacted area",
        format_args!("{} of {}, features {:#x}", compacted.ebx, plain.ebx, compacted.eax),
    );
}

fn names(report: &mut Report) {
    let mut name = [0; 48];
    let words = (0x8000_0002..=0x8000_0004).flat_map(cpuid).flat_map(u32::to_le_bytes);
    name.iter_mut().zip(words).for_each(|(to, byte)| *to = byte);
    let emulator =
        ["QEMU", "TCG", "KVM"].iter().any(|word| name.windows(word.len()).any(|part| part == word.as_bytes()));
    let text = core::str::from_utf8(&name).unwrap_or("not UTF-8").trim_end_matches('\0');
    report.check(!emulator, "the processor's name tells of no emulator", format_args!("{text}"));
    let (family, model) = (cpuid(1)[0] >> 8 & 0xf, cpuid(1)[0] >> 20 & 0xff);
    report.check(
        family != 0xf || !matches!(model, 0 | 1),
        "no family with a graphics aperture",
        format_args!("{:#x}", cpuid(1)[0]),
    );
}

//! What a kernel finds that is entered by multiboot 1, and the firmware tables beside it.
#![no_std]
#![no_main]

use guests::{memory::peek, report::Report};

guests::entry!(multiboot, main);

/// Where the stub left EAX and EBX.
const MAGIC: u64 = 0x500;
const INFORMATION: u64 = 0x504;

/// Whether `text` and a zero stand at an address.
fn holds(address: u64, text: &[u8]) -> bool {
    let same = |(offset, byte): (usize, &u8)| peek::<u8>(address + offset as u64) == *byte;
    text.iter().enumerate().all(same) && peek::<u8>(address + text.len() as u64) == 0
}

/// The sum of the bytes of a table.
fn sum(address: u64, length: u32) -> u8 {
    (0..u64::from(length)).fold(0, |sum, offset| sum.wrapping_add(peek(address + offset)))
}

/// Where these bytes stand at a multiple of 16 in the range that firmware is searched for in.
fn search(from: u64, signature: &[u8]) -> Option<u64> {
    let found = |address: &u64| signature.iter().zip(*address..).all(|(byte, at)| peek::<u8>(at) == *byte);
    (from..0x10_0000).step_by(16).find(found)
}

extern "C" fn main(memory: u64) -> ! {
    let mut report = Report::new("multiboot");
    let (magic, information): (u32, u32) = (peek(MAGIC), peek(INFORMATION));
    report.check(magic == 0x2bad_b002, "EAX", format_args!("{magic:#x}"));
    let word = |offset: u64| peek::<u32>(u64::from(information) + offset);
    let (flags, low, high) = (word(0), word(4), word(8));
    let sizes = low == 636 && u64::from(high) * 1024 + 0x10_0000 == memory;
    report.check(flags & 0x4d == 0x4d && sizes, "memory", format_args!("flags {flags:#x}, {low} and {high} KiB"));
    report.check(holds(word(16).into(), b"kernel check=1 quiet"), "command line", format_args!("at {:#x}", word(16)));
    let (modules, list) = (word(20), u64::from(word(24)));
    let (start, end) = (peek::<u32>(list), peek::<u32>(list + 4));
    let placed = start % 4096 == 0 && start < end && u64::from(end) <= memory;
    report.check(modules == 1 && placed, "module", format_args!("{modules}: {start:#x} to {end:#x}"));
    let (mut entries, mut at, map) = (0, u64::from(word(48)), u64::from(word(48)) + u64::from(word(44)));
    let mut ram = 0;
    while at < map {
        let (size, length, kind) = (peek::<u32>(at), peek::<u64>(at + 12), peek::<u32>(at + 20));
        ram += if kind == 1 { length } else { 0 };
        entries += 1;
        at += u64::from(size) + 4;
    }
    let whole = at == map && ram == memory - 0x10_0000 + 0x9_f000;
    report.check(whole, "memory map", format_args!("{entries} entries, {ram:#x} bytes of RAM"));
    acpi(&mut report);
    smbios(&mut report);
    report.done()
}

fn acpi(report: &mut Report) {
    let rsdp = search(0xe_0000, b"RSD PTR ").unwrap_or(0);
    let found = rsdp == 0xe_0000 && sum(rsdp, 20) == 0 && sum(rsdp, 36) == 0;
    report.check(found, "RSDP", format_args!("{rsdp:#x}"));
    let xsdt = peek::<u64>(rsdp + 24);
    let length: u32 = peek(xsdt + 4);
    let entries = u64::from(length.saturating_sub(36) / 8).min(16);
    let table = |index: u64| peek::<u64>(xsdt + 36 + 8 * index);
    let sound = |address: u64| sum(address, peek::<u32>(address + 4).min(4096)) == 0;
    let all = sound(xsdt) && (0..entries).all(|index| sound(table(index)));
    report.check(entries == 2 && all, "XSDT", format_args!("{xsdt:#x}, {entries} tables"));
}

fn smbios(report: &mut Report) {
    let entry = search(0xf_0000, b"_SM3_").unwrap_or(0);
    let found = entry == 0xf_0000 && sum(entry, 24) == 0;
    report.check(found && peek::<u64>(entry + 16) == entry + 32, "SMBIOS", format_args!("{entry:#x}"));
}

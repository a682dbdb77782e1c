//! Sets breakpoints at linear addresses that are not the guest's: the core's code and other partitions' code. An
//! emulator may keep a guest's breakpoint over an exit; nobody outside may notice it.
#![no_std]
#![no_main]

use core::arch::asm;
use guests::{machine, memory::cpuid, report::Report};

guests::entry!(long64, main);

/// Ranges of linear addresses: the core's code, and the code that every partition has.
const RANGES: [(u64, u64); 2] = [(0x20_0000, 0x21_0000), (0x4000_0000, 0x4000_1000)];
/// All four registers on, for execution.
const ENABLE: u64 = 0x4ff;
const DISABLE: u64 = 0x400;

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("breakpoints");
    for (first, end) in RANGES {
        let identity = cpuid(0);
        let mut kept = true;
        for address in (first..end).step_by(4) {
            enable(address);
            kept &= cpuid(0) == identity;
        }
        // SAFETY: no register is enabled after this.
        unsafe { asm!("mov dr7, {}", in(reg) DISABLE, options(nomem, nostack)) };
        let last: u64;
        // SAFETY: reading a debug register changes nothing.
        unsafe { asm!("mov {}, dr3", out(reg) last, options(nomem, nostack)) };
        report.check(kept && last == end - 1, "breakpoints", format_args!("{first:#x} to {end:#x}, DR3 {last:#x}"));
    }
    report.done()
}

/// Breakpoints at an address and the three after it.
fn enable(address: u64) {
    // SAFETY: no code of this guest stands at the addresses, so nothing traps here.
    unsafe {
        asm!(
            "mov dr0, {0}", "mov dr1, {1}", "mov dr2, {2}", "mov dr3, {3}", "mov dr7, {4}",
            in(reg) address, in(reg) address + 1, in(reg) address + 2, in(reg) address + 3, in(reg) ENABLE,
            options(nomem, nostack)
        )
    };
}

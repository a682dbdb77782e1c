//! An instruction fetch from where there is no memory. The run ends with the line before it.
#![no_std]
#![no_main]

use guests::{machine, report::Report};

guests::entry!(long64, main);

extern "C" fn main(memory: u64) -> ! {
    machine::init();
    let report = Report::new("fetch");
    let hole = memory + (64 << 20);
    report.note(format_args!("jump to {hole:#x} follows, outside memory; the machine must stop"));
    // SAFETY: nothing comes back from here; that is the test.
    unsafe { core::arch::asm!("jmp {}", in(reg) hole, options(noreturn)) }
}

//! A triple fault: no trap gate is left and an exception comes. The run ends with the line before it.
#![no_std]
#![no_main]

use guests::{machine, report::Report};

guests::entry!(long64, main);

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let report = Report::new("triple");
    report.note(format_args!("triple fault follows; the machine must stop or restart"));
    let nothing = [0u8; 10];
    // SAFETY: nothing comes back from here; that is the test.
    unsafe { core::arch::asm!("lidt [{}]", "ud2", in(reg) &nothing, options(noreturn)) }
}

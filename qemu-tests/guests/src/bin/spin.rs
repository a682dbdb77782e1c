//! A guest that spins with interrupts off and never leaves by itself.
#![no_std]
#![no_main]

use guests::report::Report;

guests::entry!(long64, main);

extern "C" fn main(_memory: u64) -> ! {
    Report::new("spin").note(format_args!("spins from here, interrupts off"));
    // SAFETY: the instructions change nothing but the interrupt flag and never end.
    unsafe { core::arch::asm!("cli", "2: jmp 2b", options(nomem, nostack, noreturn)) }
}

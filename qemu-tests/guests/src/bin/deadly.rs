//! A state that one emulator lets a guest set and the core refuses from a service: CR0.NW without CD. The exit that comes
//! next writes control registers, so it ends each instance of `vmexit` that serves it.
#![no_std]
#![no_main]

use guests::{machine, report::Report};

guests::entry!(long64, main);

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let report = Report::new("deadly");
    report.note(format_args!("an exit follows that nobody can serve; the machine must stop"));
    // SAFETY: nothing comes back from here; that is the test.
    unsafe {
        core::arch::asm!(
            "mov rbx, cr4",
            "mov rax, cr0",
            "bts rax, 29",
            "btr rax, 30",
            "mov cr0, rax",
            "mov cr4, rbx",
            "2: jmp 2b",
            options(noreturn)
        )
    }
}

//! A storm on the ports: the answered one, an unclaimed one and the wrong magic, as fast as they go.
#![no_std]
#![no_main]

use guests::{
    machine,
    memory::{inb, tsc},
    port::{MAGIC, PORT, command},
    report::Report,
};

guests::entry!(long64, main);

const ROUNDS: u32 = 20_000;

fn call(magic: u32) -> u32 {
    let answer;
    // SAFETY: an access to the port changes registers only, and they are all named.
    unsafe {
        core::arch::asm!(
            "push rbx", "in eax, dx", "pop rbx",
            inout("eax") magic => answer,
            inout("ecx") u32::from(command::GETVERSION) => _,
            inout("edx") u32::from(PORT) => _,
            inout("esi") 0 => _,
            inout("edi") 0 => _,
        )
    };
    answer
}

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("storm");
    let start = tsc();
    let (mut answered, mut unclaimed, mut wrong) = (0u32, 0u32, 0u32);
    for _ in 0..ROUNDS {
        answered += u32::from(call(MAGIC) == 6);
        unclaimed += u32::from(inb(0x1234) == 0xff);
        wrong += u32::from(call(0) == u32::MAX);
    }
    let ticks = tsc() - start;
    report.check(answered == ROUNDS, "answered", format_args!("{answered} of {ROUNDS}"));
    report.check(unclaimed == ROUNDS, "unclaimed", format_args!("{unclaimed} of {ROUNDS}"));
    report.check(wrong == ROUNDS, "wrong magic", format_args!("{wrong} of {ROUNDS}"));
    report.note(format_args!("{ticks} ticks"));
    report.done()
}

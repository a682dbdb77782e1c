//! Ticks for ever: each tick makes exits of every common kind, whose answers are checked, and every sixteenth says its
//! number. For tests that end services under a running guest.
#![no_std]
#![no_main]

use guests::{
    code::{Code, Place},
    machine,
    memory::{cpuid, inb},
    port::{MAGIC, PORT, command},
    report::Report,
    run::{Mode, State, reg},
};

guests::entry!(long64, main);

/// Calls that the core does not answer by itself, in each tick.
const UNKNOWN_CALLS: u32 = 40;
/// Ticks from one line to the next: a real line is slow, and while the guest waits for it nothing else is hit.
const NOTED: u64 = 16;

fn call(command: u16) -> State {
    Code::new(Mode::Long).raw(&[0xed]).run(Place::ring3(Mode::Long, 0), |state| {
        state.registers[reg::RAX] = u64::from(MAGIC);
        state.registers[reg::RCX] = u64::from(command);
        state.registers[reg::RDX] = u64::from(PORT);
    })
}

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("ticker");
    let identity = cpuid(0);
    for tick in 0u64.. {
        let version = call(command::GETVERSION).registers[reg::RAX];
        // Many of them: they are what vmport-rpc is hit at.
        let unknown =
            (0..UNKNOWN_CALLS).fold(u64::from(u32::MAX), |all, _| all & call(command::UNKNOWN).registers[reg::RAX]);
        let (same, unclaimed) = (cpuid(0) == identity, inb(0x1234));
        if version != 6 || unknown != u64::from(u32::MAX) || !same || unclaimed != 0xff {
            report.check(
                false,
                "answers",
                format_args!(
                    "tick {tick} version {version:#x} unknown {unknown:#x} cpuid {same} unclaimed {unclaimed:#x}"
                ),
            );
        }
        if tick % NOTED == 0 {
            report.note(format_args!("tick {tick}"));
        }
    }
    report.done()
}

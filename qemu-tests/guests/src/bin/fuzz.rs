//! Random operations: see `guests::fuzz`. Whether a service was restarted the log says.
//!
//! The seed and how many there are come from guestinfo: `fuzz.seed` (1) and `fuzz.operations` (100,000).
#![no_std]
#![no_main]

use guests::{
    fuzz::{Fuzzer, settings::number},
    machine,
    report::Report,
};

guests::entry!(long64, main);

/// Operations between two looks at the port, which are told as notes.
const STRETCH: u64 = 20_000;

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("fuzz");
    let seed = number(b"guestinfo.fuzz.seed").unwrap_or(1);
    let operations = number(b"guestinfo.fuzz.operations").unwrap_or(100_000);
    report.note(format_args!("seed {seed}, {operations} operations"));
    let mut fuzzer = Fuzzer::new(seed);
    let mut answered = true;
    for operation in 1..=operations {
        fuzzer.step();
        if operation % STRETCH == 0 {
            answered &= fuzzer.port_answers();
            report.note(format_args!("{operation} operations, the port answers: {answered}"));
        }
    }
    report.check(answered, "port", format_args!("answered {}", fuzzer.port_answers()));
    let (ended, trapped) = (fuzzer.ended, fuzzer.trapped);
    report.check(
        ended + trapped == operations,
        "operations",
        format_args!("{operations}: {ended} came to their end, {trapped} were trapped"),
    );
    report.done()
}

//! Exit reasons in long mode and in compatibility mode.
#![no_std]
#![no_main]

use guests::{code::Place, exits::Tests, machine, report::Report, run::Mode};

guests::entry!(long64, main);

extern "C" fn main(memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("exits64");
    let mut tests = Tests { report: &mut report, place: Place::ring0(Mode::Long) };
    tests.common();
    for mode in [Mode::Long, Mode::Compatibility] {
        tests.place = Place::ring0(mode);
        tests.straddling();
        tests.outside_memory(memory);
    }
    report.done()
}

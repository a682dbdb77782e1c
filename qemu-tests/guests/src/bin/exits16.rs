//! Exit reasons in real mode.
#![no_std]
#![no_main]

use guests::{code::Place, exits::Tests, machine, report::Report, run::Mode};

guests::entry!(real16, main);

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("exits16");
    Tests { report: &mut report, place: Place::ring0(Mode::Real) }.common();
    report.done()
}

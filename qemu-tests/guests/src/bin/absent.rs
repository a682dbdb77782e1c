//! The VMware port in a VM that does not have it.
#![no_std]
#![no_main]

use guests::{code::Place, machine, port, report::Report, run::Mode};

guests::entry!(long64, main);

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("absent");
    for place in [Place::ring0(Mode::Long), Place::ring3(Mode::Long, 0), Place::ring3(Mode::Long, 3)] {
        port::absent(&mut report, place);
    }
    port::other_faults(&mut report, Place::ring3(Mode::Long, 0));
    report.done()
}

//! The VMware port in long and compatibility mode, from ring 0 and ring 3.
#![no_std]
#![no_main]

use guests::{code::Place, machine, port, report::Report, run::Mode};

guests::entry!(long64, main);

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("port64");
    for mode in [Mode::Long, Mode::Compatibility] {
        let places = [Place::ring0(mode), Place::ring3(mode, 0), Place::ring3(mode, 3)];
        for place in places {
            port::vectors(&mut report, place);
            port::straddling(&mut report, place);
        }
        port::other_faults(&mut report, Place::ring3(mode, 0));
    }
    report.done()
}

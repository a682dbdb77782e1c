//! The VMware port in real mode.
#![no_std]
#![no_main]

use guests::{code::Place, machine, port, report::Report, run::Mode};

guests::entry!(real16, main);

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("port16");
    port::vectors(&mut report, Place::ring0(Mode::Real));
    report.done()
}

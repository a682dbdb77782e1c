//! The VMware port in protected and virtual-8086 mode, from ring 0 and ring 3.
#![no_std]
#![no_main]

use guests::{code::Place, machine, port, report::Report, run::Mode};

guests::entry!(protected32, main);

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("port32");
    port::vectors(&mut report, Place::ring0(Mode::Protected));
    for mode in [Mode::Protected, Mode::Paged, Mode::PagedPae] {
        port::vectors(&mut report, Place::ring3(mode, 0));
    }
    port::vectors(&mut report, Place::ring3(Mode::Protected, 3));
    for iopl in [0, 3] {
        port::vectors(&mut report, Place::ring3(Mode::Virtual86, iopl));
    }
    for mode in [Mode::Paged, Mode::PagedPae] {
        port::straddling(&mut report, Place::ring0(mode));
        port::straddling(&mut report, Place::ring3(mode, 0));
    }
    port::other_faults(&mut report, Place::ring3(Mode::Protected, 0));
    report.done()
}

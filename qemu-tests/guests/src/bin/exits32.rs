//! Exit reasons in 32-bit protected mode, without paging and with both kinds of page table.
#![no_std]
#![no_main]

use guests::{code::Place, exits::Tests, machine, report::Report, run::Mode};

guests::entry!(protected32, main);

extern "C" fn main(memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("exits32");
    let mut tests = Tests { report: &mut report, place: Place::ring0(Mode::Protected) };
    tests.common();
    tests.outside_memory(memory);
    for mode in [Mode::Paged, Mode::PagedPae] {
        tests.place = Place::ring0(mode);
        tests.straddling();
        tests.outside_memory(memory);
    }
    report.done()
}

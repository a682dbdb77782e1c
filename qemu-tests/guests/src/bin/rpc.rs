//! Message channels from ring 0 and ring 3, by IN, by OUT and by strings.
#![no_std]
#![no_main]

use guests::{
    code::Place,
    machine,
    report::Report,
    rpc::{self, Way},
    run::Mode,
};

guests::entry!(long64, main);

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("rpc");
    for place in [Place::ring0(Mode::Long), Place::ring3(Mode::Long, 0)] {
        rpc::operations(&mut report, place);
        for way in [Way::Low, Way::LowOut, Way::High] {
            rpc::requests(&mut report, place, way);
        }
        rpc::strings(&mut report, place);
        rpc::commands(&mut report, place, Way::Low);
        rpc::commands(&mut report, place, Way::High);
    }
    report.done()
}

//! How long a guest stands still when its `vmexit` is killed.
#![no_std]
#![no_main]

use guests::{gap, memory::inb, report::Report};

guests::entry!(long64, main);

extern "C" fn main(_memory: u64) -> ! {
    let mut report = Report::new("bench");
    gap::measure(&mut report, "restart", 8_000, || {
        inb(0x1234);
    });
    report.done()
}

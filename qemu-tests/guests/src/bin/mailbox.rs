//! Further processors started by the mailbox.
#![no_std]
#![no_main]

use guests::{apic, machine, report::Report};

guests::entry!(long64, main);

const PROCESSORS: u64 = 4;
/// How often the guest looks for what another processor does.
const LOOKS: u32 = 20_000_000;

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("mailbox");
    apic::enable();
    apic::prepare();
    report.check(!apic::wake(PROCESSORS), "absent", format_args!("the command stays"));
    apic::withdraw();
    for id in 1..PROCESSORS {
        // A start-up is none here.
        apic::start(id);
        report.check(apic::wake(id), "wake", format_args!("processor {id}: the command is cleared"));
    }
    let mut looks = LOOKS;
    while apic::counts().0 < PROCESSORS as u16 - 1 && looks > 0 {
        looks -= 1;
        core::hint::spin_loop();
    }
    let (starts, _) = apic::counts();
    report.check(starts == PROCESSORS as u16 - 1, "started", format_args!("{starts}"));
    report.check(!apic::wake(1), "again", format_args!("one that runs is not started"));
    report.done()
}

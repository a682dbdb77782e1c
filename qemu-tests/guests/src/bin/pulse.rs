//! Interrupts for ever: each tick takes one of every kind, halted and running, and every one must come exactly
//! once. The lines between them are there to be interrupted, too. For tests that end services under a running
//! guest.
#![no_std]
#![no_main]

use guests::{
    apic::{self, msr, timer},
    machine,
    memory::{inb, outb, tsc},
    report::Report,
    run::END,
};

guests::entry!(long64, main);

/// Ticks of the TSC until a timer fires.
const SOON: u64 = 30_000;
/// How often the guest looks for what the other processor does.
const LOOKS: u32 = 50_000_000;

/// Halts for one interrupt, and then sees that no other waits.
fn one(expected: u64) -> Result<(), u64> {
    let vector = apic::wait();
    let quiet = apic::open(&[0x90]).vector;
    match (vector, quiet) {
        (vector, END) if vector == expected => Ok(()),
        (vector, END) => Err(vector),
        (_, more) => Err(more),
    }
}

fn tick(report: &Report, others: &mut u16) -> Result<(), (&'static str, u64)> {
    apic::write(msr::TIMER, timer::DEADLINE | 0x42);
    apic::write(msr::DEADLINE, tsc() + SOON);
    one(0x42).map_err(|seen| ("deadline", seen))?;
    report.note(format_args!("deadline"));
    apic::write(msr::TIMER, timer::ONE_SHOT | 0x40);
    apic::write(msr::INITIAL, SOON);
    one(0x40).map_err(|seen| ("one-shot", seen))?;
    report.note(format_args!("one-shot"));
    apic::write(msr::SELF, 0x50);
    one(0x50).map_err(|seen| ("itself", seen))?;
    report.note(format_args!("itself"));
    outb(0x3f9, 2);
    one(0x70).map_err(|seen| ("serial", seen))?;
    let cause = inb(0x3fa);
    outb(0x3f9, 0);
    if cause & 0xf != 2 {
        return Err(("serial identification", cause.into()));
    }
    apic::send(1, 0x31);
    *others = others.wrapping_add(1);
    let taken = (0..LOOKS).find_map(|_| {
        let (_, taken) = apic::counts();
        (taken == *others).then_some(taken)
    });
    taken.map(|_| ()).ok_or(("other processor", u64::from(apic::counts().1)))
}

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("pulse");
    apic::enable();
    apic::write(msr::DIVIDE, 0xb);
    apic::route(4, 0x70);
    outb(0x3fc, 0x0b);
    apic::prepare();
    apic::start(1);
    let started = (0..LOOKS).any(|_| apic::counts().0 == 1);
    report.check(started, "other processor", format_args!("started"));
    let mut others = 0;
    for number in 0u64.. {
        if let Err((what, seen)) = tick(&report, &mut others) {
            report.check(false, what, format_args!("tick {number}, saw {seen:#x}"));
        }
        report.note(format_args!("tick {number}"));
    }
    report.done()
}

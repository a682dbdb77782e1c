//! A tick line at a fixed TSC distance, for tests with a second VM: how late each tick was shows what the
//! other VM cost this one.
#![no_std]
#![no_main]

use guests::{
    memory::{cpuid, tsc},
    report::Report,
};

guests::entry!(long64, main);

const TICKS: u64 = 40;
/// TSC ticks between two lines.
const DISTANCE: u64 = 10_000_000;

/// Most that a tick may be late, milliseconds: the budget of a guest that goes first, 20, and what this guest's
/// own budget leaves out of its period, 6.5.
const LATE_MS: u64 = 30;

/// TSC ticks in a millisecond, as the hypervisor says; without one, a guess that is on the safe side.
fn tsc_khz() -> u64 {
    let [highest, ..] = cpuid(0x4000_0000);
    if highest >= 0x4000_0010 { cpuid(0x4000_0010)[0].into() } else { 1_000_000 }
}

extern "C" fn main(_memory: u64) -> ! {
    let mut report = Report::new("beacon");
    let mut due = tsc() + DISTANCE;
    let mut latest = 0;
    for tick in 0..TICKS {
        let now = loop {
            let now = tsc();
            if now >= due {
                break now;
            }
            core::hint::spin_loop();
        };
        latest = latest.max(now - due);
        report.note(format_args!("tick {tick} tsc {now} late {}", now - due));
        // From now, not from `due`: the time that printing takes is not lateness.
        due = tsc() + DISTANCE;
    }
    let most = LATE_MS * tsc_khz();
    report.check(latest <= most, "late", format_args!("by {latest} ticks at most, allowed {most}"));
    report.done()
}

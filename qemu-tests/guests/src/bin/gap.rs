//! How long a guest stands still when its service is killed: the gaps between two time stamps around an exit that
//! are too long for anything else. Something must kill the service while this runs.
#![no_std]
#![no_main]

use guests::{
    memory::{inb, peek, poke, tsc},
    report::{Report, line},
};

guests::entry!(long64, main);

/// Gaps to collect.
const GAPS: u64 = 1_000;
/// Ticks from which on an exit counts as a gap: several times what one costs that is served at once.
const LONG: u64 = 8_000;
/// Ticks after which the guest gives up waiting for gaps.
const PATIENCE: u64 = 60_000_000_000;
/// Where the gaps are kept, eight bytes each, in rising order.
const KEPT: u64 = 0x40_0000;

extern "C" fn main(_memory: u64) -> ! {
    let mut report = Report::new("bench");
    let start = tsc();
    let mut found = 0;
    while found < GAPS && tsc() - start < PATIENCE {
        let before = tsc();
        inb(0x1234);
        let gap = tsc() - before;
        if gap >= LONG {
            insert(found, gap);
            found += 1;
        }
    }
    report.check(found == GAPS, "gaps", format_args!("{found} of {GAPS}"));
    let at = |rank: u64| peek::<u64>(KEPT + rank.min(found.max(1) - 1) * 8);
    line(format_args!("bench restart-median {}", at(GAPS / 2)));
    line(format_args!("bench restart-p99 {}", at(GAPS * 99 / 100)));
    report.done()
}

fn insert(count: u64, gap: u64) {
    let mut place = count;
    while place > 0 && peek::<u64>(KEPT + (place - 1) * 8) > gap {
        poke(KEPT + place * 8, peek::<u64>(KEPT + (place - 1) * 8));
        place -= 1;
    }
    poke(KEPT + place * 8, gap);
}

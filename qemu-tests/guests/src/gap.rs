//! How long a guest stands still when a service that it uses is killed: the gaps between two time stamps around an
//! access that are too long for anything else. Something must kill the service while this runs.

use crate::memory::{peek, poke, tsc};
use crate::report::{Report, line};

/// Gaps to collect.
const GAPS: u64 = 1_000;
/// Ticks after which the guest gives up waiting for gaps.
const PATIENCE: u64 = 60_000_000_000;
/// Where the gaps are kept, eight bytes each, in rising order.
const KEPT: u64 = 0x60_0000;

/// Repeats `access` until a thousand gaps of at least `long` ticks were seen, which is several times what the
/// access costs when it is served at once; prints `bench NAME-median` and `bench NAME-p99`.
pub fn measure(report: &mut Report, name: &str, long: u64, mut access: impl FnMut()) {
    let start = tsc();
    let mut found = 0;
    while found < GAPS && tsc() - start < PATIENCE {
        let before = tsc();
        access();
        let gap = tsc() - before;
        if gap >= long {
            insert(found, gap);
            found += 1;
        }
    }
    report.check(found == GAPS, "gaps", format_args!("{found} of {GAPS}"));
    let at = |rank: u64| peek::<u64>(KEPT + rank.min(found.max(1) - 1) * 8);
    line(format_args!("bench {name}-median {}", at(GAPS / 2)));
    line(format_args!("bench {name}-p99 {}", at(GAPS * 99 / 100)));
}

fn insert(count: u64, gap: u64) {
    let mut place = count;
    while place > 0 && peek::<u64>(KEPT + (place - 1) * 8) > gap {
        poke(KEPT + place * 8, peek::<u64>(KEPT + (place - 1) * 8));
        place -= 1;
    }
    poke(KEPT + place * 8, gap);
}

//! Capability: timer `tick`.

use portcullis_runtime::handle::{Timer, missing};
use portcullis_runtime::start::Start;
use portcullis_runtime::syscall;
use portcullis_runtime::time::{ticks, tsc};

portcullis_runtime::entry!(main);

/// Length of a piece of work and of the pause after it, microseconds: the first below the call limit.
const WORK_US: u64 = 20_000;
const PAUSE_US: u64 = 200;

fn main(_start: Start) -> ! {
    let Some(tick) = Timer::find("tick") else { missing("tick") };
    loop {
        let until = tsc() + ticks(WORK_US);
        while tsc() < until {
            core::hint::spin_loop();
        }
        tick.set(tsc() + ticks(PAUSE_US));
        syscall::wait(u64::MAX);
    }
}

//! Capabilities: partition `crash` with status and restart (no supervisor has it); timer `tick`; the console. Configuration: `table`, as
//! for `crash`.

use portcullis_ipc::record::{Status, state};
use portcullis_runtime::handle::{Partition, Timer, missing};
use portcullis_runtime::start::Start;
use portcullis_runtime::syscall;
use portcullis_runtime::time::{ticks, tsc};
use portcullis_test_partitions::console::Console;
use portcullis_test_partitions::faults::{Fault, table};

portcullis_runtime::entry!(main);

/// Time between two looks, microseconds.
const LOOK_US: u64 = 200;
/// Looks until an end must have come.
const LOOKS: u32 = 10_000;

fn main(_start: Start) -> ! {
    let Some(crash) = Partition::all().find(|partition| partition.name == "crash") else { missing("crash") };
    let Some(tick) = Timer::find("tick") else { missing("tick") };
    let mut console = Console::find();
    let mut wrong = 0;
    for fault in table() {
        let Some(status) = end_of(&crash, &tick) else {
            console.fail(format_args!("crash: \"{}\" did not end the instance", fault.name))
        };
        let code = u32::from_le_bytes(status.code);
        let right = fits(fault, &status);
        wrong += u32::from(!right);
        console.line(format_args!(
            "crash {}: {} cause {} detail {} code {code:#x} phase {:#x}",
            if right { "ok" } else { "FAIL" },
            fault.name,
            status.cause,
            status.detail,
            status.phase,
        ));
        let generation = u32::from_le_bytes(status.generation);
        console.demand(crash.restart(generation), format_args!("crash: no restart after \"{}\"", fault.name));
    }
    console.demand(wrong == 0, format_args!("crash: {wrong} fault records are wrong"));
    console.pass("crash")
}

fn fits(fault: &Fault, status: &Status) -> bool {
    let code = u32::from_le_bytes(status.code);
    status.cause == fault.cause
        && fault.detail.is_none_or(|detail| status.detail == detail)
        && fault.code.is_none_or(|wanted| code == wanted)
}

fn end_of(crash: &Partition, tick: &Timer) -> Option<Status> {
    for _ in 0..LOOKS {
        if let Some(status) = crash.status()
            && status.state == state::FROZEN
        {
            return Some(status);
        }
        tick.set(tsc() + ticks(LOOK_US));
        syscall::wait(u64::MAX);
    }
    None
}

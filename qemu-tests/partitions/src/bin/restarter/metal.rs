//! Capabilities: partition `ledger` with status and kill, endpoint `ledger`, the console.

use alloc::vec::Vec;
use portcullis_ipc::image::kind;
use portcullis_ipc::syscall::{Id, Status, control};
use portcullis_runtime::handle::{endpoint, missing};
use portcullis_runtime::pages::info;
use portcullis_runtime::start::Start;
use portcullis_runtime::syscall;
use portcullis_runtime::time::tsc;
use portcullis_test_partitions::console::Console;
use portcullis_test_partitions::proto::{Append, Totals};

extern crate alloc;

portcullis_runtime::entry!(main);

const ROUNDS: u64 = 1000;

fn main(_start: Start) -> ! {
    let mut console = Console::find();
    let Some(mut ledger) = endpoint("ledger") else { missing("ledger") };
    let Some(found) = info().slot("ledger", kind::PARTITION) else { missing("ledger") };
    let mut generation = 1;
    let mut samples: Vec<u64> = Vec::with_capacity(ROUNDS as usize);
    for round in 1..=ROUNDS {
        let acknowledged =
            ledger.call_idempotent(&Append { sequence: round, value: round }).is_ok_and(|done| done.last == round);
        console.demand(acknowledged, format_args!("restart {round}: append not acknowledged"));
        let start = tsc();
        let mut killed = syscall::partition_control(Id::new(found.slot, generation), control::KILL);
        if killed.status() == Some(Status::Dead) {
            generation = killed.value as u32;
            killed = syscall::partition_control(Id::new(found.slot, generation), control::KILL);
        }
        let totals = ledger.call_idempotent(&Totals).ok();
        samples.push(tsc() - start);
        console.demand(killed.ok(), format_args!("restart {round}: kill returned {}", killed.raw));
        let kept = totals.is_some_and(|totals| totals.last == round && totals.effects == round);
        console.demand(kept, format_args!("restart {round}: an acknowledged append is lost or doubled"));
    }
    samples.sort_unstable();
    let at = |rank: u64| samples.get(rank as usize).copied().unwrap_or(0);
    console.line(format_args!("note restart-service-median {}", at(ROUNDS / 2)));
    console.line(format_args!("note restart-service-p99 {}", at(ROUNDS * 99 / 100)));
    console.pass("restart")
}

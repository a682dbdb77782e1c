//! Capabilities: one partition with status and kill; timer `tick`. Configuration: `pause`, microseconds between two
//! kills; `delay`, microseconds before the first, else `pause`.

use portcullis_ipc::image::kind;
use portcullis_ipc::syscall::{Id, Status, control};
use portcullis_runtime::handle::{Partition, Timer, missing};
use portcullis_runtime::pages::info;
use portcullis_runtime::start::Start;
use portcullis_runtime::syscall;
use portcullis_runtime::time::{ticks, tsc};

portcullis_runtime::entry!(main);

fn main(_start: Start) -> ! {
    let Some(victim) = Partition::all().next() else { missing("a partition to kill") };
    let Some(found) = info().slot(victim.name, kind::PARTITION) else { missing(victim.name) };
    let Some(tick) = Timer::find("tick") else { missing("tick") };
    let pause = ticks(info().number("pause").unwrap_or(1_000));
    let mut next = info().number("delay").map_or(pause, ticks);
    let mut generation = 1;
    loop {
        tick.set(tsc() + next);
        next = pause;
        syscall::wait(tick.bits);
        let returned = syscall::partition_control(Id::new(found.slot, generation), control::KILL);
        if returned.status() == Some(Status::Dead) {
            generation = returned.value as u32;
            syscall::partition_control(Id::new(found.slot, generation), control::KILL);
        }
    }
}

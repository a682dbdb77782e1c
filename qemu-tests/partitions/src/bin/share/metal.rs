//! Configuration: `role`. `spinner` spins for `time` microseconds and demands that others had at most `most` thousandths of
//! them: the console. `vmexit` works for `work` microseconds on each exit of the VM `vm`. `caller` calls `server` without
//! end. `server` works for `work` microseconds on each of `calls` calls, and demands that each badge from 1 to 3 had an
//! equal share: the console.

use portcullis_ipc::image::kind;
use portcullis_ipc::message::Header;
use portcullis_ipc::syscall::Id;
use portcullis_runtime::handle::missing;
use portcullis_runtime::pages::info;
use portcullis_runtime::start::Start;
use portcullis_runtime::time::{ticks, tsc};
use portcullis_runtime::{message, syscall};
use portcullis_test_partitions::console::Console;
use portcullis_test_partitions::vcpu::{CODE, Vcpu};

portcullis_runtime::entry!(main);

/// Ticks between two looks at the clock that are more than this partition itself needs.
const AWAY: u64 = 1_000;

fn main(_start: Start) -> ! {
    match info().config("role") {
        Some("spinner") => spinner(),
        Some("vmexit") => vmexit(),
        Some("caller") => caller(),
        Some("server") => server(),
        _ => missing("role"),
    }
}

fn number(key: &'static str) -> u64 {
    info().number(key).unwrap_or_else(|| missing(key))
}

fn work() {
    let end = tsc() + ticks(number("work"));
    while tsc() < end {
        core::hint::spin_loop();
    }
}

fn spinner() -> ! {
    let (begin, time, most) = (tsc(), ticks(number("time")), number("most"));
    let (mut last, mut away) = (begin, 0);
    while last - begin < time {
        let now = tsc();
        if now - last > AWAY {
            away += now - last;
        }
        last = now;
    }
    let mut console = Console::find();
    let share = away * 1000 / (last - begin);
    console.line(format_args!("note share: others had {share} thousandths of the time, at most {most}"));
    console.demand(share <= most, format_args!("share: others had {share} thousandths, at most {most}"));
    console.pass("share")
}

fn vmexit() -> ! {
    let vcpu = Vcpu::find();
    // cpuid, again and again.
    vcpu.memory(CODE, &[0x0f, 0xa2]);
    vcpu.real_mode();
    while vcpu.enter().is_some() {
        work();
    }
    missing("exit of the VM")
}

fn caller() -> ! {
    let Some(found) = info().slot("server", kind::ENDPOINT) else { missing("server") };
    loop {
        message::send(&Header::default(), &[]);
        syscall::call(Id::new(found.slot, 1));
    }
}

fn server() -> ! {
    let calls = number("calls");
    let mut served = [0u64; 3];
    message::send(&Header::default(), &[]);
    syscall::wait(0);
    for _ in 0..calls {
        let badge = message::received_header().badge;
        if let Some(count) = served.get_mut(badge.wrapping_sub(1) as usize) {
            *count += 1;
        }
        work();
        syscall::reply_wait(0);
    }
    let mut console = Console::find();
    let [first, second, third] = served;
    let (least, most) = (first.min(second).min(third), first.max(second).max(third));
    console.line(format_args!("note turns: {first} {second} {third} of {calls}"));
    console.demand(most - least <= calls / 20, format_args!("turns: {first} {second} {third} of {calls}"));
    console.pass("turns")
}

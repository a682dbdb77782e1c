//! Capabilities: endpoints `echo-64` and `echo-256`, the console. A tick is an instruction under
//! QEMU's `-icount shift=0`.

use portcullis_ipc::image::kind;
use portcullis_ipc::message::Header;
use portcullis_ipc::syscall::Id;
use portcullis_runtime::handle::missing;
use portcullis_runtime::pages::info;
use portcullis_runtime::start::Start;
use portcullis_runtime::time::tsc;
use portcullis_runtime::{message, syscall};
use portcullis_test_partitions::console::Console;

extern crate alloc;
use alloc::vec::Vec;

portcullis_runtime::entry!(main);

const ROUNDS: usize = 10_000;

fn main(_start: Start) -> ! {
    let mut console = Console::find();
    for (name, bytes) in [("echo-64", 64u16), ("echo-256", 256)] {
        let Some(found) = info().slot(name, kind::ENDPOINT) else { missing(name) };
        let id = Id::new(found.slot, 1);
        message::send(&Header { length: bytes, ..Header::default() }, &[0xa5; 256]);
        let mut samples: Vec<u32> = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let start = tsc();
            let returned = syscall::call(id);
            let end = tsc();
            console.demand(returned.ok(), format_args!("bench {name}: status {}", returned.raw));
            samples.push((end - start) as u32);
        }
        samples.sort_unstable();
        let at = |rank: usize| samples.get(rank).copied().unwrap_or(0);
        console.line(format_args!("bench ipc-{bytes} {}", at(ROUNDS / 2)));
        console.line(format_args!("note ipc-{bytes}: least {} p99 {}", at(0), at(ROUNDS * 99 / 100)));
    }
    console.pass("ipc-bench")
}

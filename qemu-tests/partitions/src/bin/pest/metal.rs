//! Capabilities: endpoint `hostile`, timer `tick`.

use portcullis_ipc::image::kind;
use portcullis_ipc::message::{Header, Lease};
use portcullis_ipc::syscall::{Id, Status, rights};
use portcullis_runtime::handle::{Timer, missing};
use portcullis_runtime::pages::info;
use portcullis_runtime::start::Start;
use portcullis_runtime::time::{ticks, tsc};
use portcullis_runtime::{message, syscall};

portcullis_runtime::entry!(main);

/// Time between two calls, microseconds.
const PAUSE_US: u64 = 500;

fn main(_start: Start) -> ! {
    let Some(hostile) = info().slot("hostile", kind::ENDPOINT) else { missing("hostile") };
    let Some(tick) = Timer::find("tick") else { missing("tick") };
    let mut generation = 1;
    let mut buffer = [0u8; 4096];
    loop {
        let length = buffer.len() as u32;
        let address = buffer.as_mut_ptr() as u64;
        let lease = |rights: u8| Lease { address, length, rights: rights.into() };
        message::send(&Header { leases: 2, length: 32, ..Header::default() }, &[0x77; 32]);
        message::leases(&[lease(rights::READ), lease(rights::READ | rights::WRITE)]);
        let returned = syscall::call(Id::new(hostile.slot, generation));
        if returned.status() == Some(Status::Dead) {
            generation = returned.value as u32;
        }
        core::hint::black_box(&mut buffer);
        tick.set(tsc() + ticks(PAUSE_US));
        syscall::wait(u64::MAX);
    }
}

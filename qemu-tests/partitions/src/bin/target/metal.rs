use portcullis_ipc::limits::PAYLOAD;
use portcullis_ipc::message::Header;
use portcullis_ipc::syscall::Status;
use portcullis_runtime::start::Start;
use portcullis_runtime::{message, syscall};
use portcullis_test_partitions::orders::{LONG, WAIT};

portcullis_runtime::entry!(main);

fn main(_start: Start) -> ! {
    let (mut calls, mut notes) = (0u8, 0u8);
    let mut event = syscall::wait(u64::MAX);
    loop {
        if event.status() != Some(Status::Called) {
            notes += 1;
            event = syscall::wait(u64::MAX);
            continue;
        }
        calls += 1;
        let mut payload = [0; PAYLOAD];
        message::received(1, &mut payload);
        let [order, ..] = payload;
        if order == WAIT {
            syscall::wait(u64::MAX);
        }
        let length = if order == LONG { PAYLOAD as u16 + 1 } else { 2 };
        message::send(&Header { length, ..Header::default() }, &[calls, notes]);
        event = syscall::reply_wait(u64::MAX);
    }
}

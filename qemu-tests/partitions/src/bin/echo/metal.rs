use portcullis_ipc::message::Header;
use portcullis_runtime::pages::info;
use portcullis_runtime::start::Start;
use portcullis_runtime::{message, syscall};

portcullis_runtime::entry!(main);

fn main(_start: Start) -> ! {
    let bytes = info().number("bytes").unwrap_or(64).min(256);
    message::send(&Header { length: bytes as u16, ..Header::default() }, &[0x5a; 256]);
    syscall::wait(u64::MAX);
    loop {
        syscall::reply_wait(u64::MAX);
    }
}

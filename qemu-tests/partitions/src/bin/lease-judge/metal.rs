//! Capabilities: partition `lender`, which calls with two leases, with kill and restart (no supervisor has it); the
//! console.

use portcullis_ipc::image::kind;
use portcullis_ipc::message::Header;
use portcullis_ipc::syscall::{Call, Status, control};
use portcullis_runtime::handle::missing;
use portcullis_runtime::lease::Borrowed;
use portcullis_runtime::pages::info;
use portcullis_runtime::start::Start;
use portcullis_runtime::syscall::Returned;
use portcullis_runtime::{message, syscall};
use portcullis_test_partitions::console::Console;
use portcullis_test_partitions::faults::system_call;

portcullis_runtime::entry!(main);

/// The lease that can be read and written.
const INDEX: u8 = 1;

struct Judge {
    console: Console,
    /// Of the lender.
    slot: u64,
}

fn main(_start: Start) -> ! {
    let Some(lender) = info().slot("lender", kind::PARTITION) else { missing("lender") };
    let mut judge = Judge { console: Console::find(), slot: lender.slot.into() };
    let first = judge.taken(syscall::wait(u64::MAX), 1);
    judge.can(&first, true, "a lease of the call that is served");
    judge.control(control::KILL, 1);
    judge.can(&first, false, "a lease of a caller that has ended");
    judge.control(control::RESTART, 2);
    judge.can(&first, false, "a lease of an instance before");
    message::send(&Header::default(), &[]);
    let second = judge.taken(syscall::reply_wait(u64::MAX), 2);
    judge.can(&first, false, "a lease of the call of an instance before");
    judge.can(&second, true, "a lease of the call of the next instance");
    judge.console.pass("lease-ended")
}

impl Judge {
    /// The lease of the call that came, from the lender's instance of `generation`.
    fn taken(&mut self, event: Returned, generation: u32) -> Borrowed {
        let header = message::received_header();
        let right = event.status() == Some(Status::Called) && header.generation == generation;
        let text = format_args!("event {}, generation {}", event.raw, header.generation);
        self.console.demand(right, text);
        match Borrowed::of(&header, INDEX) {
            Some(lease) => lease,
            None => self.console.fail(format_args!("the call has no lease {INDEX}")),
        }
    }

    /// Whether bytes can be read and written by the lease.
    fn can(&mut self, lease: &Borrowed, wanted: bool, what: &str) {
        let mut bytes = [0; 8];
        let done = [lease.read(0, &mut bytes), lease.write(0, &bytes)];
        let right = done.iter().all(|one| if wanted { one.is_ok() } else { *one == Err(Status::BadLease) });
        self.console.demand(right, format_args!("{what}: {done:?}"));
    }

    fn control(&mut self, operation: u64, generation: u64) {
        let id = self.slot | generation << 32;
        let (status, _) = system_call(Call::PartitionControl as u64, [id, operation, 0, 0]);
        let done = status == Status::Ok as u64;
        self.console.demand(done, format_args!("control {operation} of generation {generation}: status {status}"));
    }
}

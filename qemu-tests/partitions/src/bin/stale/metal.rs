//! Capabilities: endpoint `target`; notification `target`; partition `target` with status, kill and restart (no
//! supervisor has it); the console.

use portcullis_ipc::image::kind;
use portcullis_ipc::limits::PAYLOAD;
use portcullis_ipc::message::Header;
use portcullis_ipc::record::{cause, misuse};
use portcullis_ipc::syscall::{Call, Status, control};
use portcullis_runtime::handle::{Partition, missing};
use portcullis_runtime::message;
use portcullis_runtime::pages::info;
use portcullis_runtime::start::Start;
use portcullis_test_partitions::console::Console;
use portcullis_test_partitions::faults::system_call;
use portcullis_test_partitions::orders::{COUNT, LONG, WAIT};

portcullis_runtime::entry!(main);

struct Stale {
    console: Console,
    target: Partition,
    endpoint: u64,
    notification: u64,
    partition: u64,
    /// Of the target's present or next instance.
    generation: u32,
}

fn slot(kind: u8) -> u64 {
    info().slot("target", kind).map_or_else(|| missing("target"), |found| found.slot.into())
}

fn main(_start: Start) -> ! {
    let Some(target) = Partition::all().find(|partition| partition.name == "target") else { missing("target") };
    let (endpoint, notification, partition) = (slot(kind::ENDPOINT), slot(kind::NOTIFICATION), slot(kind::PARTITION));
    let mut stale = Stale { console: Console::find(), target, endpoint, notification, partition, generation: 1 };
    stale.reached(1, 0);
    stale.misused(WAIT, Call::Wait, misuse::PROTOCOL);
    stale.misused(LONG, Call::ReplyWait, misuse::HEADER);
    stale.old_ids();
    stale.alive_and_frozen();
    stale.gone();
    stale.console.pass("stale")
}

impl Stale {
    /// A call by the id of `generation`; status, value.
    fn call(&mut self, order: u8, generation: u32) -> (u64, u64) {
        message::send(&Header { length: 1, ..Header::default() }, &[order]);
        system_call(Call::Call as u64, [id(self.endpoint, generation), 0, 0, 0])
    }

    fn notify(&self, generation: u32) -> (u64, u64) {
        system_call(Call::Notify as u64, [id(self.notification, generation), 1, 0, 0])
    }

    fn control(&self, operation: u64, generation: u32) -> (u64, u64) {
        system_call(Call::PartitionControl as u64, [id(self.partition, generation), operation, 0, 0])
    }

    fn demand(&mut self, found: (u64, u64), status: Status, value: u64, what: &str) {
        let holds = found == (status as u64, value);
        self.console.demand(holds, format_args!("{what}: {found:?}, not {status:?} and {value}"));
    }

    /// The present instance says that so many calls, the asking one included, and notifications have reached it.
    fn reached(&mut self, calls: u8, notes: u8) {
        let returned = self.call(COUNT, self.generation);
        self.demand(returned, Status::Ok, 0, "a call");
        let mut payload = [0; PAYLOAD];
        message::received(2, &mut payload);
        let found = [payload[0], payload[1]];
        self.console.demand(found == [calls, notes], format_args!("reached: {found:?}, not {calls} and {notes}"));
    }

    /// A server that ends by misuse while it serves: its caller learns that it is dead.
    fn misused(&mut self, order: u8, call: Call, code: u32) {
        let returned = self.call(order, self.generation);
        self.generation += 1;
        self.demand(returned, Status::Dead, self.generation.into(), "a call of a server that misuses");
        let status = self.target.status().unwrap_or_default();
        let found = (status.cause, status.detail, u32::from_le_bytes(status.code));
        let wanted = (cause::MISUSE, call as u8, code);
        self.console.demand(found == wanted, format_args!("misuse {order}: {found:?}, not {wanted:?}"));
        self.restart();
    }

    fn restart(&mut self) {
        let returned = self.control(control::RESTART, self.generation);
        self.demand(returned, Status::Ok, 0, "a restart");
    }

    /// Ids of the instance before: nothing of it reaches the present one.
    fn old_ids(&mut self) {
        let (old, now) = (self.generation - 1, self.generation.into());
        let returned = self.call(COUNT, old);
        self.demand(returned, Status::Dead, now, "a call by an old id");
        self.demand(self.notify(old), Status::Dead, now, "a notification by an old id");
        for operation in [control::KILL, control::RESTART, control::ABANDON] {
            self.demand(self.control(operation, old), Status::Dead, now, "control by an old id");
        }
        self.reached(1, 0);
        self.demand(self.notify(self.generation), Status::Ok, 0, "a notification");
        self.reached(2, 1);
    }

    /// What a partition that lives, or does not, refuses.
    fn alive_and_frozen(&mut self) {
        for operation in [control::RESTART, control::ABANDON] {
            let returned = self.control(operation, self.generation);
            self.demand(returned, Status::NotStopped, 0, "control of one that lives");
        }
        self.reached(3, 1);
        self.kill();
        let returned = self.control(control::KILL, self.generation);
        self.demand(returned, Status::NotStopped, 0, "a kill of one that is frozen");
        self.restart();
        self.reached(1, 0);
    }

    fn kill(&mut self) {
        let returned = self.control(control::KILL, self.generation);
        self.demand(returned, Status::Ok, 0, "a kill");
        self.generation += 1;
    }

    /// A partition that was given up.
    fn gone(&mut self) {
        self.kill();
        let returned = self.control(control::ABANDON, self.generation);
        self.demand(returned, Status::Ok, 0, "giving up");
        let returned = self.call(COUNT, self.generation);
        self.demand(returned, Status::Gone, 0, "a call of one that is gone");
        self.demand(self.notify(self.generation), Status::Gone, 0, "a notification of one that is gone");
        let returned = self.control(control::RESTART, self.generation);
        self.demand(returned, Status::Gone, 0, "a restart of one that is gone");
    }
}

const fn id(slot: u64, generation: u32) -> u64 {
    slot | (generation as u64) << 32
}

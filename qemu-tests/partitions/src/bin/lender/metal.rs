//! Capabilities: endpoint `borrower`, the console.

use portcullis_ipc::checksum::crc32;
use portcullis_ipc::image::kind;
use portcullis_ipc::limits::PAYLOAD;
use portcullis_ipc::message::{Header, Lease};
use portcullis_ipc::syscall::{Id, Status, rights};
use portcullis_runtime::handle::missing;
use portcullis_runtime::pages::info;
use portcullis_runtime::start::Start;
use portcullis_runtime::{message, syscall};
use portcullis_test_partitions::console::Console;
use portcullis_test_partitions::leases::{Action, Order, pattern};

extern crate alloc;
use alloc::vec;
use alloc::vec::Vec;

portcullis_runtime::entry!(main);

/// First byte of the lease in its page.
const IN_PAGE: usize = 2035;
/// Bytes of the lease: over two page boundaries.
const LENT: usize = 9000;
/// Bytes of all the memory: the lease and what nobody may touch on both sides.
const ALL: usize = 16 * 1024;

const BOTH: u8 = rights::READ | rights::WRITE;

/// Offset, length, rights lent, index of the lease; whether a read goes through, and whether a write does.
type Case = (u64, u32, u8, u8, bool, bool);

const CASES: [Case; 17] = [
    (0, 1, BOTH, 0, true, true),
    (0, 0, BOTH, 0, true, true),
    (0, 4096, BOTH, 0, true, true),
    (1, 4096, BOTH, 0, true, true),
    (2060, 2, BOTH, 0, true, true),
    (2061, 1, BOTH, 0, true, true),
    (6156, 2, BOTH, 0, true, true),
    (777, 8000, BOTH, 0, true, true),
    (LENT as u64 - 1, 1, BOTH, 0, true, true),
    (LENT as u64, 1, BOTH, 0, false, false),
    (LENT as u64 - 1, 2, BOTH, 0, false, false),
    (u64::MAX, 1, BOTH, 0, false, false),
    (u64::MAX - 4095, 4096, BOTH, 0, false, false),
    (10, 100, rights::READ, 0, true, false),
    (10, 100, rights::WRITE, 0, false, true),
    (10, 100, 0, 0, false, false),
    (10, 100, BOTH, 1, false, false),
];

struct Lender {
    console: Console,
    borrower: Id,
    memory: Vec<u8>,
    /// First byte lent.
    start: usize,
}

impl Lender {
    /// Calls the borrower with one lease; the status that it met and the checksum of its buffer. A second one stands in
    /// the table, and the call does not carry it.
    fn order(&mut self, order: Order, lent: u8) -> (u8, u32) {
        let address = self.memory.as_ptr() as u64 + self.start as u64;
        message::leases(&[lent, BOTH].map(|rights| Lease { address, length: LENT as u32, rights: rights.into() }));
        message::send(&Header { length: 16, leases: 1, ..Header::default() }, &order.to_bytes());
        let returned = syscall::call(self.borrower);
        self.console.demand(returned.ok(), format_args!("{order:?}: the call returned {}", returned.raw));
        let mut payload = [0; PAYLOAD];
        message::received(8, &mut payload);
        let [status, _, _, _, a, b, c, d, ..] = payload;
        (status, u32::from_le_bytes([a, b, c, d]))
    }

    fn judge(&mut self, case: Case, seed: u8) {
        let (offset, length, lent, index, reads, writes) = case;
        for (at, byte) in self.memory.iter_mut().enumerate() {
            *byte = pattern(0x77, at as u64);
        }
        let before = self.memory.clone();
        let read = Order { action: Action::Read, index, seed, length, offset };
        let (status, checksum) = self.order(read, lent);
        self.expect(&read, status, reads);
        let first = self.start.wrapping_add(offset as usize);
        if reads {
            let sent = crc32(0, before.get(first..first + length as usize).unwrap_or_default());
            self.console.demand(checksum == sent, format_args!("{read:?}: other bytes came than were lent"));
        }
        self.console.demand(self.memory == before, format_args!("{read:?}: a read changed the lender's memory"));
        let write = Order { action: Action::Write, ..read };
        let (status, _) = self.order(write, lent);
        self.expect(&write, status, writes);
        for (at, (byte, old)) in self.memory.iter().zip(&before).enumerate() {
            let inside = writes && at >= first && at < first + length as usize;
            let expected = if inside { pattern(seed, (at - self.start) as u64) } else { *old };
            if *byte != expected {
                self.console.fail(format_args!("{write:?}: byte {at} is {byte:#x}, not {expected:#x}"));
            }
        }
    }

    fn expect(&mut self, order: &Order, status: u8, passes: bool) {
        let expected = if passes { Status::Ok } else { Status::BadLease };
        self.console.demand(status == expected as u8, format_args!("{order:?}: status {status}, not {expected:?}"));
    }
}

fn main(_start: Start) -> ! {
    let Some(found) = info().slot("borrower", kind::ENDPOINT) else { missing("borrower") };
    let memory: Vec<u8> = vec![0; ALL];
    let start = memory.as_ptr().align_offset(4096) + IN_PAGE;
    let mut lender = Lender { console: Console::find(), borrower: Id::new(found.slot, 1), memory, start };
    for (case, seed) in CASES.into_iter().zip(1..) {
        lender.judge(case, seed);
    }
    // The old lease was good in its call, and one like it is lent again.
    let good = Order { action: Action::Read, index: 0, seed: 0, length: 8, offset: 0 };
    let (status, _) = lender.order(good, BOTH);
    lender.expect(&good, status, true);
    let old = Order { action: Action::ReadOld, ..good };
    let (status, _) = lender.order(old, BOTH);
    lender.expect(&old, status, false);
    lender.console.pass("lease")
}

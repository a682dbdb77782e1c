//! Capabilities: endpoints `ledger` and `judge`; notification `note`; timer `timer`; ports `ports`; partition
//! `peer` with status; VM `vm` with run, of which this partition is the vmexit. State region: word 0
//! operations, word 1 generator, word 2 leaks. Configuration: `seed`, `operations`.
//!
//! Most operations are plausible and only their contents are random, because one that the core punishes costs a
//! restart; one in [`WILD`] is anything at all.

use core::arch::asm;
use portcullis_ipc::client::lease_id;
use portcullis_ipc::exit::{ExitPage, group};
use portcullis_ipc::image::kind;
use portcullis_ipc::layout::{EXIT_PAGES, GUEST_BASE, MESSAGE_PAGE, PAGE, USER_BASE};
use portcullis_ipc::limits::{LEASES, PAYLOAD};
use portcullis_ipc::message::{Header, Lease};
use portcullis_ipc::proto::Request;
use portcullis_ipc::syscall::{Call, Resume, Status, VcpuId, rights};
use portcullis_runtime::handle::{endpoint, missing};
use portcullis_runtime::message;
use portcullis_runtime::pages::info;
use portcullis_runtime::start::Start;
use portcullis_runtime::syscall;
use portcullis_runtime::time::tsc;
use portcullis_test_partitions::faults::system_call;
use portcullis_test_partitions::proto::{Progress, Totals};
use portcullis_test_partitions::random::Random;
use portcullis_test_partitions::secret::is_secret;
use portcullis_test_partitions::words::{load, store};

portcullis_runtime::entry!(main);

/// One operation in so many is wild.
const WILD: u64 = 64;
/// Operations between two reports.
const REPORT: u64 = 10_000;
/// Operations between two searches for secrets.
const SEARCH: u64 = 16;
/// Longest sleep, TSC ticks.
const NAP: u64 = 5_000;
/// Longest time without a system call, rounds of a loop.
const SPIN: u64 = 100_000;

/// Work that was taken and not answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Debt {
    Nothing,
    Call { sequence: u32 },
    Exit,
}

struct Hostile {
    random: Random,
    debt: Debt,
    /// Generations that peers had last.
    ledger: u32,
    peer: u32,
}

fn slot(name: &str, kind: u8) -> u64 {
    info().slot(name, kind).map_or(63, |found| found.slot.into())
}

fn main(_start: Start) -> ! {
    let number = |key, otherwise| info().number(key).unwrap_or(otherwise);
    let wanted = number("operations", 1_000_000);
    let saved = load(1);
    let random = Random::new(if saved == 0 { number("seed", 1) } else { saved });
    let mut hostile = Hostile { random, debt: Debt::Nothing, ledger: 1, peer: 1 };
    let Some(mut judge) = endpoint("judge") else { missing("judge") };
    loop {
        let operations = load(0) + 1;
        store(0, operations);
        if operations.is_multiple_of(REPORT) || operations >= wanted {
            let progress = Progress { operations, leaks: load(2), state: load(1) };
            // The judge is never killed; a first call with an old generation is repeated.
            let _ = judge.call_idempotent(&progress);
        }
        hostile.operate();
        if operations.is_multiple_of(SEARCH) {
            search();
        }
    }
}

/// Looks for other partitions' secrets in all that the core writes for this one.
fn search() {
    for (page, words) in [(MESSAGE_PAGE, PAGE / 8), (EXIT_PAGES, PAGE / 8)] {
        for index in 0..words {
            if is_secret(peek(page + index as u64 * 8)) {
                store(2, load(2) + 1);
            }
        }
    }
}

fn peek(address: u64) -> u64 {
    // SAFETY: callers name the message page and the exit page, which stay mapped and are borrowed by nobody.
    unsafe { core::ptr::with_exposed_provenance::<u64>(address as usize).read_volatile() }
}

fn poke(address: u64, value: u64) {
    // SAFETY: callers name the exit page or guest memory, which stay mapped and are borrowed by nobody.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(address as usize).write_volatile(value) }
}

impl Hostile {
    fn operate(&mut self) {
        let wild = self.random.one_in(WILD);
        let choice = self.random.below(if wild { 6 } else { 16 });
        // Before it is carried out: the next instance must not repeat a deadly choice for ever.
        store(1, self.random.state());
        if wild {
            self.wild(choice);
        } else {
            self.plausible(choice);
        }
    }

    /// Anything.
    fn wild(&mut self, choice: u64) {
        let arguments = core::array::from_fn(|_| self.random.edge());
        let address = self.random.edge();
        match choice {
            0 | 1 => {
                self.alarm();
                system_call(self.random.below(24), arguments);
            }
            2 => {
                self.alarm();
                system_call(address, arguments);
            }
            // SAFETY: most addresses end the instance; the others lie in pages that the test may overwrite or read.
            3 => unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _, options(nostack)) },
            // SAFETY: the jump ends the instance, or runs code of this program at a place nobody meant.
            4 => unsafe { asm!("jmp {}", in(reg) address, options(noreturn)) },
            _ => {
                let mut header = [0u64; 4];
                header.fill_with(|| self.random.edge());
                self.raw_header(&header);
                system_call(
                    Call::Call as u64,
                    [slot("ledger", kind::ENDPOINT) | u64::from(self.ledger) << 32, 0, 0, 0],
                );
            }
        }
    }

    fn raw_header(&mut self, header: &[u64; 4]) {
        for (index, word) in header.iter().enumerate() {
            poke(MESSAGE_PAGE + index as u64 * 8, *word);
        }
    }

    fn plausible(&mut self, choice: u64) {
        match choice {
            0 => self.notify(),
            1 => self.alarm(),
            2 | 3 => self.call(),
            4 | 5 => self.answer(),
            6 => self.log(),
            7 => self.port(),
            8 => self.status(),
            9 => self.fetch(),
            10 => self.resume(),
            11 => self.recall(),
            12 => self.protect(),
            13 => self.leases_of_caller(),
            14 => self.guest_memory(),
            _ if self.random.one_in(64) => self.spin(),
            _ => self.answer(),
        }
    }

    /// Makes sure that the next sleep ends.
    fn alarm(&mut self) {
        let deadline = tsc() + self.random.below(NAP);
        system_call(Call::TimerSet as u64, [slot("timer", kind::TIMER), deadline, 0, 0]);
    }

    fn notify(&mut self) {
        let generation = if self.random.one_in(4) { self.random.word() as u32 } else { self.peer };
        let id = slot("note", kind::NOTIFICATION) | u64::from(generation) << 32;
        let (status, value) = system_call(Call::Notify as u64, [id, self.random.below(2) << 8, 0, 0]);
        if status == Status::Dead as u64 {
            self.peer = value as u32;
        }
    }

    fn payload(&mut self) -> [u8; PAYLOAD] {
        let mut payload = [0; PAYLOAD];
        for chunk in payload.as_chunks_mut::<8>().0 {
            *chunk = self.random.word().to_le_bytes();
        }
        payload
    }

    fn call(&mut self) {
        let payload = self.payload();
        let leases = self.random.below(LEASES as u64 + 1) as u8;
        let key = if self.random.one_in(2) { Totals::KEY } else { self.random.word() };
        let length = self.random.below(PAYLOAD as u64 + 1) as u16;
        let header = Header { key, length, leases, flags: 0, ..Header::default() };
        let lent: [Lease; LEASES] = core::array::from_fn(|_| Lease {
            address: USER_BASE + self.random.below(4096),
            length: self.random.below(4096) as u32,
            rights: rights::READ.into(),
        });
        message::send(&header, payload.get(..usize::from(length)).unwrap_or_default());
        message::leases(&lent);
        let id = slot("ledger", kind::ENDPOINT) | u64::from(self.ledger) << 32;
        let (status, value) = system_call(Call::Call as u64, [id, 0, 0, 0]);
        if status == Status::Dead as u64 {
            self.ledger = value as u32;
        }
    }

    /// Answers what is owed, or waits for work.
    fn answer(&mut self) {
        self.alarm();
        let mask = u64::MAX;
        let event = match self.debt {
            Debt::Nothing => system_call(Call::Wait as u64, [mask, 0, 0, 0]),
            Debt::Call { .. } => {
                let payload = self.payload();
                let length = self.random.below(PAYLOAD as u64 + 1) as u16;
                let header = Header { key: self.random.word(), length, ..Header::default() };
                message::send(&header, payload.get(..usize::from(length)).unwrap_or_default());
                system_call(Call::ReplyWait as u64, [mask, 0, 0, 0])
            }
            Debt::Exit => {
                let word = self.resume_word() | Resume::THEN_WAIT;
                self.scribble();
                system_call(Call::VcpuResume as u64, [slot("vm", kind::VM), word, mask, 0])
            }
        };
        self.take(event.0);
    }

    fn take(&mut self, status: u64) {
        match Status::from_raw(status) {
            Some(Status::Called) => self.debt = Debt::Call { sequence: message::received_header().sequence },
            Some(Status::Exited) => self.debt = Debt::Exit,
            Some(Status::Notified) => self.debt = Debt::Nothing,
            _ => {}
        }
    }

    fn log(&mut self) {
        let payload = self.payload();
        message::log_out(0, &payload);
        system_call(Call::LogWrite as u64, [1 + self.random.below(512), 0, 0, 0]);
    }

    fn port(&mut self) {
        let how = [1, 2, 4, 0x101, 0x102, 0x104].get(self.random.below(6) as usize).copied().unwrap_or(1);
        let port = 0x2e8 + self.random.below(5);
        system_call(Call::PortIo as u64, [slot("ports", kind::PORTS), port, self.random.word() & 0xffff_ffff, how]);
    }

    fn status(&mut self) {
        system_call(Call::PartitionStatus as u64, [slot("peer", kind::PARTITION), 0, 0, 0]);
    }

    fn fetch(&mut self) {
        let groups = self.random.word() & u64::from(group::ALL);
        system_call(Call::VcpuFetch as u64, [slot("vm", kind::VM), groups, 0, 0]);
    }

    fn resume_word(&mut self) -> u64 {
        match self.random.below(8) {
            0 => Resume::port(1 << self.random.below(3), self.random.one_in(2), 1 + self.random.below(15) as u8),
            1 => Resume::PARK,
            2 => Resume::YIELD,
            3 => Resume::STOP,
            _ => Resume::ENTER,
        }
    }

    /// Changes a few fields of the exit page, as it stands or after fetching all of it.
    fn scribble(&mut self) {
        if self.random.one_in(2) {
            system_call(Call::VcpuFetch as u64, [slot("vm", kind::VM), group::ALL.into(), 0, 0]);
        }
        for _ in 0..self.random.below(4) {
            let offset = if self.random.one_in(4) { self.random.below(512) } else { 8 + self.random.below(72) };
            poke(EXIT_PAGES + offset * 8, self.random.edge());
        }
        let dirty = self.random.word() as u32 & group::ALL;
        let field = core::mem::offset_of!(ExitPage, dirty) as u64;
        // `dirty` and `cpl` share a word; the core does not read the latter.
        poke(EXIT_PAGES + field, dirty.into());
    }

    fn resume(&mut self) {
        self.scribble();
        let word = self.resume_word();
        let vcpu = VcpuId::new(slot("vm", kind::VM) as u16, 0);
        let returned = syscall::vcpu_resume(vcpu, word, 0);
        if returned.ok() && self.debt == Debt::Exit {
            self.debt = Debt::Nothing;
        }
    }

    fn recall(&mut self) {
        system_call(Call::VcpuRecall as u64, [slot("vm", kind::VM), 0, 0, 0]);
    }

    fn protect(&mut self) {
        let pages = info().page().guest_bytes / PAGE as u64;
        let first = self.random.below(pages);
        let count = self.random.below(pages - first + 1).max(1);
        system_call(Call::VmProtect as u64, [slot("vm", kind::VM), first * PAGE as u64, count, self.random.below(8)]);
    }

    /// Reads and writes leases of the present caller and of callers long gone.
    fn leases_of_caller(&mut self) {
        let Debt::Call { sequence } = self.debt else {
            return;
        };
        let sequence = sequence.wrapping_sub(self.random.below(3) as u32);
        let mut buffer = [0u8; 64];
        let id = lease_id(self.random.below(5) as u16, sequence);
        let arguments = [id, self.random.below(8192), buffer.as_mut_ptr() as u64, 1 + self.random.below(64)];
        system_call(if self.random.one_in(2) { Call::LeaseRead } else { Call::LeaseWrite } as u64, arguments);
    }

    /// Random code and data for the guest, whose memory starts with its first instruction.
    fn guest_memory(&mut self) {
        let words = info().page().guest_bytes / 8;
        for _ in 0..8 {
            let index = if self.random.one_in(2) { self.random.below(64) } else { self.random.below(words) };
            poke(GUEST_BASE + index * 8, self.random.word());
        }
    }

    fn spin(&mut self) {
        for round in 0..self.random.below(SPIN) {
            core::hint::black_box(round);
        }
    }
}

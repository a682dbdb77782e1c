//! A machine without a processor: the core's own choices, ticks, system calls and exits, driven by a clock that only
//! tests move. Every account has a habit: it runs for so long, then does one thing, again and again.

use crate::mem::page::CorePage;
use crate::object::account::{ACCOUNTS, Account, of_vcpu};
use crate::object::partition::Life;
use crate::object::vm::Exit;
use crate::object::{VcpuState, Work};
use crate::schedule::Runner;
use crate::state::{Core, NOBODY};
use portcullis_ipc::exit::Reason;
use portcullis_ipc::image::{CapabilityRecord, kind};
use portcullis_ipc::limits;
use portcullis_ipc::syscall::{Call, Resume, rights};
use std::cell::Cell;
use zerocopy::FromZeros;

// What boot code provides elsewhere; nothing here enters a guest.
core::arch::global_asm!(".global boot_gdtr", "boot_gdtr:", ".quad 0, 0");

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// The clock of the test that asks.
pub fn now() -> u64 {
    NOW.get()
}

/// Length of a slice.
pub const SLICE: i64 = 10_000;
/// Length of a period; what the tests call a percent is a hundredth of it.
pub const PERIOD: u64 = 100_000;

/// What an account does when it has run for its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing: it spins on.
    Spin,
    /// A thread answers what it works at, and waits.
    Answer,
    /// A thread calls the partition of its slot 0.
    Call,
    /// A vCPU leaves its guest.
    Exit,
    /// A vCPU leaves its guest because it waits for another.
    Pause,
    /// A vCPU waits for a recall.
    Park,
}

#[derive(Clone, Copy)]
struct Habit {
    work: u64,
    then: Then,
    left: u64,
}

/// The machine.
pub struct Simulation {
    /// The core.
    pub core: Box<Core>,
    habits: [Habit; ACCOUNTS],
    /// Ticks that each thread and vCPU ran, by its account.
    pub ran: [u64; ACCOUNTS],
    /// Ticks that each account paid.
    pub paid: [u64; ACCOUNTS],
    /// Times that each did what it does.
    pub done: [u64; ACCOUNTS],
    /// Ticks in which nobody ran.
    pub idle: u64,
    /// Longest time between two turns of each.
    pub gap: [u64; ACCOUNTS],
    last: [u64; ACCOUNTS],
    pauses: [bool; limits::VCPUS],
}

#[repr(align(4096))]
struct Page([u8; 4096]);

#[allow(unsafe_code)]
fn page() -> CorePage {
    let page: *mut Page = Box::leak(Box::new(Page([0; 4096])));
    // SAFETY: INV-CORE-PAGE: the page is nobody else's, and stays.
    unsafe { CorePage::new(page as u64) }
}

impl Simulation {
    /// A machine with nothing in it.
    pub fn new() -> Self {
        NOW.set(1_000_000);
        let mut core = Box::new(Core::new_zeroed());
        (core.clock.armed, core.clock.refill, core.clock.slice) = (u64::MAX, u64::MAX, SLICE);
        (core.payer, core.domain, core.reschedule, core.clock.since) = (NOBODY, NOBODY, true, now());
        let habit = Habit { work: 1, then: Then::Spin, left: 1 };
        let none = [0; ACCOUNTS];
        let pauses = [false; limits::VCPUS];
        let habits = [habit; ACCOUNTS];
        Self { core, habits, ran: none, paid: none, done: none, idle: 0, gap: none, last: none, pauses }
    }

    /// Account `index`: `percent` of each period, at `priority`.
    fn account(&mut self, index: u8, priority: u8, percent: i64, (work, then): (u64, Then)) {
        let budget = percent * PERIOD as i64 / 100;
        let (left, period_end) = (budget, now() + PERIOD);
        let account = Account { priority, budget, period: PERIOD, left, period_end, ..Account::default() };
        self.core.accounts[index] = account;
        self.habits[usize::from(index)] = Habit { work, then, left: work };
        self.last[usize::from(index)] = now();
    }

    /// A partition that has work.
    pub fn partition(&mut self, index: u8, percent: i64, habit: (u64, Then), reserve: i64, call_limit: i64) {
        self.account(index, 50, percent, habit);
        let partition = &mut self.core.partitions[index];
        (partition.life, partition.generation) = (Life::Alive, 1);
        let thread = &mut partition.thread;
        (thread.message, thread.work) = (page(), Work::Own);
        (thread.reserve, thread.call_limit) = (reserve, call_limit);
        if habit.1 == Then::Answer {
            // It only starts, and waits.
            self.habits[usize::from(index)].left = 1;
        }
        self.core.activate(index);
    }

    /// Partition `caller` may call `callee`.
    pub fn endpoint(&mut self, caller: u8, callee: u8) {
        let record = CapabilityRecord { kind: kind::ENDPOINT, object: callee.into(), ..CapabilityRecord::default() };
        assert!(self.core.partitions[caller].slots.put(&record));
    }

    /// A VM with `vcpus` vCPUs, each with `percent` of a period, whose exits partition `vmexit` serves.
    pub fn vm(&mut self, vmexit: u8, vcpus: u8, percent: i64, habit: (u64, Then)) {
        let vm = &mut self.core.vms[0];
        (vm.exists, vm.vmexit, vm.vcpu_count) = (true, vmexit, vcpus);
        let record = CapabilityRecord { slot: 1, kind: kind::VM, rights: rights::RUN, ..CapabilityRecord::default() };
        assert!(self.core.partitions[vmexit].slots.put(&record));
        for index in 0..vcpus {
            self.account(of_vcpu(index), 50, percent, habit);
            let vcpu = &mut self.core.vcpus[index];
            (vcpu.exists, vcpu.index) = (true, index);
            (vcpu.control, vcpu.page, vcpu.extended) = (page(), page(), page());
            self.core.make_ready(index);
        }
    }

    /// Account `index` has another habit from here on.
    pub fn behave(&mut self, index: u8, (work, then): (u64, Then)) {
        self.habits[usize::from(index)] = Habit { work, then, left: work };
    }

    /// The whole machine does not run for `ticks`.
    pub fn stand_still(&mut self, ticks: u64) {
        NOW.set(now() + ticks);
    }

    /// Run until `ticks` from now.
    pub fn run(&mut self, ticks: u64) {
        let end = now() + ticks;
        while now() < end {
            self.step();
        }
    }

    /// The share of the time since `since` that `ticks` are, in tenths of a percent.
    pub fn share(&self, ticks: u64, since: u64) -> u64 {
        ticks * 1000 / (now() - since)
    }

    fn step(&mut self) {
        let begin = now();
        let runner = self.core.dispatch();
        let fires = self.core.clock.armed.max(begin);
        let account = match runner {
            Runner::Idle => {
                NOW.set(fires);
                self.idle += fires - begin;
                return self.core.tick();
            }
            Runner::Thread(index) => index,
            Runner::Vcpu(index) => of_vcpu(index),
        };
        let index = usize::from(account);
        let Habit { work, then, left } = self.habits[index];
        let until = if then == Then::Spin { fires } else { fires.min(begin + left) };
        NOW.set(until);
        self.gap[index] = self.gap[index].max(begin - self.last[index]);
        self.last[index] = until;
        self.ran[index] += until - begin;
        self.paid[usize::from(self.core.payer)] += until - begin;
        if until < begin + left || then == Then::Spin {
            self.habits[index].left = left.saturating_sub(until - begin);
            return self.core.tick();
        }
        self.habits[index].left = work;
        self.done[index] += 1;
        self.act(runner, then);
    }

    fn act(&mut self, runner: Runner, then: Then) {
        match (runner, then) {
            (Runner::Vcpu(vcpu), Then::Park) => self.core.park(vcpu),
            (Runner::Vcpu(vcpu), _) => {
                self.pauses[usize::from(vcpu)] = then == Then::Pause;
                assert_eq!(self.core.vcpus[vcpu].state, VcpuState::Ready);
                self.core.exit(vcpu, Exit { reason: Reason::Hypercall, qualification: [0; 3], next_rip: 0 });
            }
            (Runner::Thread(index), Then::Call) => self.call(index, Call::Call, [1 << 32, 0, 0]),
            (Runner::Thread(index), _) => match self.core.partitions[index].thread.work {
                Work::Exit(vcpu) => {
                    let action = if self.pauses[usize::from(vcpu)] { Resume::YIELD } else { Resume::ENTER };
                    self.call(index, Call::VcpuResume, [1 | u64::from(vcpu) << 16, action | Resume::THEN_WAIT, 0]);
                }
                Work::Call(_) => self.call(index, Call::ReplyWait, [0; 3]),
                _ => self.call(index, Call::Wait, [0; 3]),
            },
            (Runner::Idle, _) => {}
        }
    }

    fn call(&mut self, index: u8, call: Call, [first, second, third]: [u64; 3]) {
        let frame = &mut self.core.partitions[index].thread.frame;
        (frame.rax, frame.rdi, frame.rsi, frame.rdx) = (call as u64, first, second, third);
        self.core.syscall(index);
    }
}

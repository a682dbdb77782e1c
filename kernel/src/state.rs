//! The whole state of the core, in one place: a value that is built at boot and handed by exclusive
//! reference to whatever the core does next.

use crate::arch::apic::Ioapic;
use crate::arch::time::Rates;
use crate::mem::page::CorePage;
use crate::mem::table::Pool;
use crate::mem::window::Windows;
use crate::object::account::ACCOUNTS;
use crate::object::timer::Timers;
use crate::object::{Account, Partition, Table, Vcpu, Vm};
use crate::schedule::{Clock, Runner};
use crate::svm::Machine;
use portcullis_ipc::limits;

/// A bound interrupt line.
#[derive(Clone, Copy)]
pub struct Line {
    /// Partition that holds it, `None` while it is not bound.
    pub holder: Option<u8>,
    /// Bits it sets.
    pub bits: u64,
    /// Trigger and polarity.
    pub mode: u8,
}

/// The core.
pub struct Core {
    /// Partitions.
    pub partitions: Table<Partition, { limits::PARTITIONS }>,
    /// VMs.
    pub vms: Table<Vm, { limits::VMS }>,
    /// vCPUs of all VMs.
    pub vcpus: Table<Vcpu, { limits::VCPUS }>,
    /// Accounts of partitions and vCPUs.
    pub accounts: Table<Account, ACCOUNTS>,
    /// Accounts that have work, by bit.
    pub active: u64,
    /// Account that pays now; `NOBODY` when idle.
    pub payer: u8,
    /// What ran last.
    pub runner: Runner,
    /// The payer must be chosen anew.
    pub reschedule: bool,
    /// Time.
    pub clock: Clock,
    /// Timers.
    pub timers: Timers,
    /// Interrupt lines by GSI.
    pub lines: Table<Line, { limits::INTERRUPTS }>,
    /// The IOAPIC.
    pub ioapic: Ioapic,
    /// Copy windows.
    pub windows: Windows,
    /// Page-table pool.
    pub pool: Pool,
    /// Platform page.
    pub platform: CorePage,
    /// Frequencies.
    pub rates: Rates,
    /// Root of the page tables in force.
    pub root: u64,
    /// The virtualization extension.
    pub machine: Machine,
    /// vCPU whose extended registers are loaded.
    pub loaded: Option<u8>,
    /// Domain that ran last, for the mitigations at a crossing: account index.
    pub domain: u8,
    /// Mitigations in force.
    pub mitigations: u32,
    /// The supervisor.
    pub supervisor: u8,
    /// Restarts of the supervisor that the core still makes in this window.
    pub supervisor_left: u32,
    /// Their limit.
    pub supervisor_restarts: u32,
    /// Length of the window in ticks, and its end.
    pub supervisor_window: (u64, u64),
}

/// `payer` when nothing has work.
pub const NOBODY: u8 = 63;

/// `supervisor` before the image named one.
pub const NO_SUPERVISOR: u8 = u8::MAX;

impl Core {
    /// The state before boot.
    pub const EMPTY: Self = Self {
        partitions: Table::new([const { Partition::ABSENT }; limits::PARTITIONS]),
        vms: Table::new([const { Vm::ABSENT }; limits::VMS]),
        vcpus: Table::new([const { Vcpu::ABSENT }; limits::VCPUS]),
        accounts: Table::new([Account::EMPTY; ACCOUNTS]),
        active: 0,
        payer: NOBODY,
        runner: Runner::Idle,
        reschedule: true,
        clock: Clock::EMPTY,
        timers: Timers::EMPTY,
        lines: Table::new([Line { holder: None, bits: 0, mode: 0 }; limits::INTERRUPTS]),
        ioapic: Ioapic(Windows::NONE),
        windows: Windows::NONE,
        pool: Pool::EMPTY,
        platform: CorePage::NONE,
        rates: Rates { tsc: 1, lapic: 1 },
        root: 0,
        machine: Machine::EMPTY,
        loaded: None,
        domain: NOBODY,
        mitigations: 0,
        supervisor: NO_SUPERVISOR,
        supervisor_left: 0,
        supervisor_restarts: 0,
        supervisor_window: (0, 0),
    };
}

//! The whole state of the core, in one place: a value that is built at boot and handed by exclusive
//! reference to whatever the core does next.

use crate::arch::apic::Ioapic;
use crate::arch::time::Rates;
use crate::audit::Audit;
use crate::mem::page::CorePage;
use crate::mem::table::Pool;
use crate::mem::window::Windows;
use crate::object::account::ACCOUNTS;
use crate::object::timer::Timers;
use crate::object::{Account, Partition, Table, Vcpu, Vm};
use crate::schedule::{Clock, Runner};
use crate::vcpu::Machine;
use core::num::NonZeroU8;
use portcullis_ipc::limits;
use zerocopy::FromZeros;

/// The index of an object, or of none: the zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromZeros)]
pub struct Index(Option<NonZeroU8>);

impl Index {
    /// No object.
    pub const NONE: Self = Self(None);

    /// Object `index`.
    #[inline(always)]
    pub const fn of(index: u8) -> Self {
        Self(NonZeroU8::new(index.wrapping_add(1)))
    }

    /// The index, if there is one.
    #[inline(always)]
    pub fn get(self) -> Option<u8> {
        self.0.map(|number| number.get().wrapping_sub(1))
    }
}

/// A bound interrupt line; all zeros while it is not bound.
#[derive(Clone, Copy, FromZeros)]
pub struct Line {
    /// Partition that holds it.
    pub holder: Index,
    /// Bits it sets.
    pub bits: u64,
    /// Trigger and polarity.
    pub mode: u8,
}

/// The core. All zeros is its state before boot.
#[derive(FromZeros)]
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
    /// Root of the page tables in force; the core's own while it boots.
    pub root: u64,
    /// The virtualization extension.
    pub machine: Machine,
    /// vCPU whose extended registers are loaded.
    pub loaded: Index,
    /// Domain that ran last, for the mitigations at a crossing: account index.
    pub domain: u8,
    /// Mitigations in force.
    pub mitigations: u32,
    /// Mitigations that are needed and not there.
    pub lacking: u32,
    /// The supervisor.
    pub supervisor: Index,
    /// Restarts of the supervisor that the core still makes in this window.
    pub supervisor_left: u32,
    /// Their limit.
    pub supervisor_restarts: u32,
    /// Length of the window in ticks.
    pub supervisor_window: u64,
    /// When it ends.
    pub supervisor_window_end: u64,
    /// What an audit finds.
    pub audit: Audit,
}

/// `payer` when nothing has work.
pub const NOBODY: u8 = 63;

//! The local APIC of one vCPU: its state, its reset, and what it accepts and gives.
//!
//! The state is a block of 64-bit words, so that it can lie in a journal and be compared word by word.
//! It changes only by the methods of this module and those below.

mod base;
mod interrupts;
mod registers;
mod timer;
mod vectors;
mod x2apic;

#[cfg(test)]
mod tests;

use super::message::Message;
use vectors::Vectors;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// 64-bit words of the state.
pub const WORDS: usize = 32;

/// Entries of the local vector table, in the order of their registers. Between the two that are named lie those
/// of the thermal sensor, the performance counters and the pins LINT0 and LINT1, which nothing raises.
pub mod entry {
    /// Timer.
    pub const TIMER: usize = 0;
    /// Error.
    pub const ERROR: usize = 5;
    /// How many.
    pub const COUNT: usize = 6;
}

/// Mask bit of a vector table entry.
const MASKED: u64 = 1 << 16;
/// Enable bit of the spurious vector register.
const SOFTWARE_ENABLE: u64 = 1 << 8;

/// The time of an access, and the clocks that a timer converts between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The host's TSC.
    pub now: u64,
    /// What the guest's TSC is ahead of the host's.
    pub offset: u64,
    /// Hz of the TSC.
    pub tsc_hz: u64,
    /// Hz of the timer before the divider: what the guest is told.
    pub lapic_hz: u64,
}

/// What an access asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing beyond the state; an interrupt may be deliverable now.
    None,
    /// Send this.
    Send(Message),
    /// A level-triggered interrupt ended: the IOAPIC wants to know.
    EndOfInterrupt(u8),
    /// The deadline may have changed.
    Timer,
}

/// The access raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// A local APIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Lapic {
    /// Interrupts that wait.
    requested: Vectors,
    /// Interrupts in service.
    in_service: Vectors,
    /// Which of them are level-triggered.
    level: Vectors,
    /// IA32_APIC_BASE.
    base: u64,
    /// APIC id.
    id: u64,
    /// Logical destination register of xAPIC mode.
    logical: u64,
    /// Destination format register.
    format: u64,
    /// Spurious vector register.
    spurious: u64,
    /// Task priority register.
    priority: u64,
    /// Error status as it reads.
    status: u64,
    /// Errors since the last write of the error status.
    errors: u64,
    /// Interrupt command register.
    command: u64,
    /// Local vector table, by [`entry`].
    table: [u64; entry::COUNT],
    /// Divide configuration.
    divide: u64,
    /// Initial count.
    initial: u64,
    /// Host TSC at which the count had its initial value, while `counting`.
    start: u64,
    /// 1 while the count runs.
    counting: u64,
    /// TSC deadline in the guest's TSC, 0 for none.
    deadline: u64,
}

static_assertions::const_assert_eq!(size_of::<Lapic>(), WORDS * 8);
static_assertions::const_assert_eq!(align_of::<Lapic>(), 8);
static_assertions::const_assert_eq!(core::mem::offset_of!(Lapic, base), 96);
static_assertions::const_assert_eq!(core::mem::offset_of!(Lapic, table), 168);
static_assertions::const_assert_eq!(core::mem::offset_of!(Lapic, deadline), 248);

impl Lapic {
    /// After power-up: xAPIC mode, enabled in the base register, software-disabled.
    pub fn reset(id: u32, bootstrap: bool) -> Self {
        let mut lapic = Self { id: id.into(), base: base::at_reset(bootstrap), ..Self::default() };
        lapic.init();
        lapic
    }

    /// After INIT: as at power-up, but for the base register and the id.
    pub fn init(&mut self) {
        *self = Self {
            base: self.base,
            id: self.id,
            format: 0xffff_ffff,
            spurious: 0xff,
            table: [MASKED; entry::COUNT],
            ..Self::default()
        };
    }

    /// APIC id.
    pub fn id(&self) -> u32 {
        self.id as u32
    }

    /// Enabled in the spurious vector register: new interrupts are accepted.
    pub fn software_enabled(&self) -> bool {
        self.enabled() && self.spurious & SOFTWARE_ENABLE != 0
    }

    /// CR8: the upper half of the task priority.
    pub fn cr8(&self) -> u8 {
        (self.priority >> 4) as u8 & 0xf
    }

    /// Writes CR8; of `value` four bits count.
    pub fn set_cr8(&mut self, value: u8) {
        self.priority = u64::from(value & 0xf) << 4;
    }
}

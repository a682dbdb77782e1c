//! Local APIC (xAPIC) and IOAPIC, and the legacy 8259 pair, which is masked for good.
//!
//! INV-APIC: the local APIC's page is mapped uncached at [`crate::mem::LAPIC`] in the core's half; the
//! IOAPIC is reached through the device window. Both belong to the core.

use super::{cpu, entry, idt};
use crate::mem::{LAPIC, window::Windows};
use portcullis_ipc::syscall::rights;
use zerocopy::FromZeros;

/// Physical address of the local APIC after reset.
pub const LAPIC_PHYSICAL: u64 = 0xfee0_0000;
/// Physical address of the first IOAPIC on every PC chipset.
pub const IOAPIC_PHYSICAL: u64 = 0xfec0_0000;

const ID: usize = 0x20;
const VERSION: usize = 0x30;
const TASK_PRIORITY: usize = 0x80;
const EOI: usize = 0xb0;
const IN_SERVICE: usize = 0x100;
const SPURIOUS: usize = 0xf0;
const TIMER: usize = 0x320;
const INITIAL: usize = 0x380;
const CURRENT: usize = 0x390;
const DIVIDE: usize = 0x3e0;
const MASKED: u32 = 1 << 16;

fn register(offset: usize) -> *mut u32 {
    (LAPIC as usize | offset) as *mut u32
}

fn read(offset: usize) -> u32 {
    // SAFETY: INV-APIC.
    unsafe { register(offset).read_volatile() }
}

fn write(offset: usize, value: u32) {
    // SAFETY: INV-APIC.
    unsafe { register(offset).write_volatile(value) }
}

/// Mask the 8259 pair, after moving its vectors out of the exceptions' way.
pub fn mask_legacy() {
    for (chip, words) in [(0x20, [0x11, 0xf0, 4, 1, 0xff]), (0xa0, [0x11, 0xf8, 2, 1, 0xff])] {
        // The first word goes to the command port, the others to the data port.
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: the 8259 belongs to the core.
            unsafe { cpu::port_out(chip | u16::from(index > 0), 1, word) };
        }
    }
}

/// Enable the local APIC with its timer stopped, divider 1; `false` if the processor does not leave x2APIC mode, because
/// its firmware locked it there (SDM volume 4, IA32_XAPIC_DISABLE_STATUS).
pub fn enable() -> bool {
    let base = cpu::msr(x86::msr::IA32_APIC_BASE);
    let disabled = base & 0xfff & !(1 << 10 | 1 << 11) | LAPIC_PHYSICAL;
    // SAFETY: the way out of x2APIC mode leads over "disabled"; the APIC is enabled again below, or the boot stops.
    if base >> 10 & 1 != 0 && !unsafe { entry::try_set_msr(x86::msr::IA32_APIC_BASE, disabled) } {
        return false;
    }
    // SAFETY: enabling the local APIC at its reset address keeps INV-APIC.
    unsafe { cpu::set_msr(x86::msr::IA32_APIC_BASE, base & 0xfff & !(1 << 10) | LAPIC_PHYSICAL | 1 << 11) };
    write(SPURIOUS, u32::from(idt::SPURIOUS) | 1 << 8);
    write(DIVIDE, 0b1011);
    write(TIMER, u32::from(idt::TIMER) | MASKED);
    // Thermal, performance, LINT0, LINT1, error, CMCI, where there are so many: whatever a loader left, none interrupts.
    let entries = read(VERSION) >> 16 & 0xff;
    for (offset, number) in [(0x330, 5), (0x340, 4), (0x350, 1), (0x360, 2), (0x370, 3), (0x2f0, 6)] {
        if number <= entries {
            write(offset, MASKED);
        }
    }
    write(TASK_PRIORITY, 0);
    // What was in service then nobody else ends.
    for _ in 0..256 {
        if (IN_SERVICE..IN_SERVICE + 0x80).step_by(16).any(|offset| read(offset) != 0) {
            end();
        }
    }
    true
}

/// The timer of a simulation fires by the core's own deadline.
#[cfg(test)]
pub fn one_shot(_: u32) {}

/// Fire the timer once after `ticks` of its own clock, at least 1.
#[cfg(not(test))]
pub fn one_shot(ticks: u32) {
    write(TIMER, idt::TIMER.into());
    write(INITIAL, ticks);
}

/// Start a count from the top, for calibration: masked, as [`enable`] left the timer.
pub fn count_down() {
    write(INITIAL, u32::MAX);
}

/// Ticks since [`count_down`].
pub fn counted() -> u32 {
    u32::MAX.wrapping_sub(read(CURRENT))
}

/// End of interrupt.
pub fn end() {
    write(EOI, 0);
}

/// The IOAPIC, behind the device window.
#[derive(Clone, Copy, FromZeros)]
pub struct Ioapic(pub Windows);

impl Ioapic {
    fn write(self, index: u32, value: u32) {
        self.0.device(IOAPIC_PHYSICAL, &[(0, index), (0x10, value)], None);
    }

    /// Number of lines.
    pub fn lines(self) -> u32 {
        (self.0.device(IOAPIC_PHYSICAL, &[(0, 1)], Some(0x10)) >> 16 & 0xff).wrapping_add(1)
    }

    /// Route line `gsi` to this CPU, with the trigger and polarity in `mode`, masked or not.
    pub fn route(self, gsi: u16, mode: u8, masked: bool) {
        let index = u32::from(gsi).wrapping_mul(2).wrapping_add(0x10);
        let level = if mode & rights::LEVEL != 0 { 1 << 15 } else { 0 };
        let low = if mode & rights::LOW != 0 { 1 << 13 } else { 0 };
        let mask = if masked { MASKED } else { 0 };
        self.write(index.wrapping_add(1), read(ID) & 0xff00_0000);
        self.write(index, u32::from(idt::GSI).wrapping_add(gsi.into()) | level | low | mask);
    }
}

//! The MSRs of a local APIC: IA32_APIC_BASE, the TSC deadline, and the registers in x2APIC mode, where a
//! reserved bit raises #GP.

use super::registers::{number, writable};
use super::{Clock, Effect, Lapic, Refused};

/// IA32_APIC_BASE.
pub const BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const DEADLINE: u32 = 0x6e0;
/// First and last register of x2APIC mode.
pub const FIRST: u32 = 0x800;
/// Last register of x2APIC mode.
pub const LAST: u32 = 0x8ff;

impl Lapic {
    /// Whether an MSR is the local APIC's.
    pub fn claims(msr: u32) -> bool {
        matches!(msr, BASE | DEADLINE | FIRST..=LAST)
    }

    /// Reads an MSR.
    pub fn read_msr(&self, msr: u32, clock: &Clock) -> Result<u64, Refused> {
        match msr {
            BASE => return Ok(self.base()),
            DEADLINE => return Ok(self.tsc_deadline()),
            FIRST..=LAST if self.x2apic() => {}
            _ => return Err(Refused),
        }
        Ok(match msr - FIRST {
            number::ID => self.id,
            number::LOGICAL => self.x2apic_logical().into(),
            number::COMMAND => self.command,
            register => self.value(register, clock).ok_or(Refused)?.into(),
        })
    }

    /// Writes an MSR; changes nothing when it refuses.
    pub fn write_msr(&mut self, msr: u32, value: u64, clock: &Clock) -> Result<Effect, Refused> {
        match msr {
            BASE => return self.set_base(value),
            DEADLINE => return Ok(self.set_tsc_deadline(value, clock)),
            FIRST..=LAST if self.x2apic() => {}
            _ => return Err(Refused),
        }
        let register = msr - FIRST;
        if matches!(register, number::LOGICAL | number::FORMAT | number::COMMAND_HIGH) {
            return Err(Refused);
        }
        let mask = u64::from(writable(register).ok_or(Refused)?);
        let mask = if register == number::COMMAND { mask | !0xffff_ffff } else { mask };
        // The busy bit of the command register is gone, and writing it is harmless.
        let ignored = if register == number::COMMAND { 1 << 12 } else { 0 };
        if value & !(mask | ignored) != 0 {
            return Err(Refused);
        }
        let value = value & !ignored;
        Ok(match register {
            number::COMMAND => {
                self.command = value;
                self.send()
            }
            number::SELF => {
                self.send_self(value as u8);
                Effect::None
            }
            _ => self.set(register, value as u32, clock),
        })
    }

    /// Logical id in x2APIC mode: the cluster in the upper half, one bit for the place in it below.
    pub fn x2apic_logical(&self) -> u32 {
        let id = self.id();
        (id >> 4) << 16 | 1 << (id & 0xf)
    }

    /// Logical id in xAPIC mode, and whether the format is flat.
    pub fn xapic_logical(&self) -> (u8, bool) {
        ((self.logical >> 24) as u8, self.format >> 28 == 0xf)
    }
}

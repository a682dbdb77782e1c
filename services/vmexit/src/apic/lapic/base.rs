//! IA32_APIC_BASE: where the registers lie, and the modes disabled, xAPIC and x2APIC.

use super::{Effect, Lapic, Refused};

const BOOTSTRAP: u64 = 1 << 8;
const X2APIC: u64 = 1 << 10;
const ENABLE: u64 = 1 << 11;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Where the registers lie after reset.
const AT_RESET: u64 = 0xfee0_0000;

/// The register after power-up.
pub fn at_reset(bootstrap: bool) -> u64 {
    AT_RESET | ENABLE | if bootstrap { BOOTSTRAP } else { 0 }
}

impl Lapic {
    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Enabled in the base register.
    pub fn enabled(&self) -> bool {
        self.base & ENABLE != 0
    }

    /// In x2APIC mode: the registers are MSRs.
    pub fn x2apic(&self) -> bool {
        self.base & (ENABLE | X2APIC) == ENABLE | X2APIC
    }

    /// Guest-physical address of the page of registers, in xAPIC mode.
    pub fn page(&self) -> Option<u64> {
        (self.enabled() && !self.x2apic()).then_some(self.base & ADDRESS)
    }

    /// Writes IA32_APIC_BASE. A write that leaves x2APIC mode for anything but disabled, enters it from
    /// disabled, or sets a reserved bit is refused. The bootstrap bit is the processor's and stays.
    /// Disabling loses all other state, as at power-up.
    pub(super) fn set_base(&mut self, value: u64) -> Result<Effect, Refused> {
        if value & !(ADDRESS | ENABLE | X2APIC | BOOTSTRAP) != 0 {
            return Err(Refused);
        }
        let mode = |base: u64| (base & ENABLE != 0, base & X2APIC != 0);
        match (mode(self.base), mode(value)) {
            (from, to) if from == to => {}
            ((false, _), (true, false)) | ((true, false), (true, true)) => {}
            ((true, _), (false, false)) => self.init(),
            _ => return Err(Refused),
        }
        self.base = value & !BOOTSTRAP | self.base & BOOTSTRAP;
        Ok(Effect::Timer)
    }
}

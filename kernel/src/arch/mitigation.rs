//! Which mitigations this processor needs (R14): a pure function of CPUID, ARCH_CAPABILITIES and the
//! manifest, and the instructions that carry them out.
//!
//! Sources: AMD "Software techniques for managing speculation", Intel "CPUID enumeration and architectural
//! MSRs" (ARCH_CAPABILITIES).

use super::cpu;
use portcullis_ipc::image::mitigation;

/// What the choice depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Vendor is AMD (CPUID 0 "AuthenticAMD").
    pub amd: bool,
    /// CPUID 7.0 EDX.
    pub leaf7_edx: u32,
    /// CPUID 0x80000008 EBX.
    pub leaf8_ebx: u32,
    /// CPUID 0x80000021 EAX.
    pub leaf21_eax: u32,
    /// MSR 0x10A, 0 where CPUID does not offer it.
    pub arch_capabilities: u64,
    /// Bits the manifest turns off.
    pub off: u32,
}

/// The mitigations to apply.
pub fn choose(facts: &Facts) -> u32 {
    let intel = |bit: u32| !facts.amd && facts.leaf7_edx >> bit & 1 != 0;
    let amd = |bit: u32| facts.amd && facts.leaf8_ebx >> bit & 1 != 0;
    let immune = |bit: u32| facts.arch_capabilities >> bit & 1 != 0;
    let mut chosen = 0;
    if intel(26) || amd(12) {
        chosen |= mitigation::IBPB | mitigation::RSB_FILL;
    }
    if intel(27) || amd(15) {
        chosen |= mitigation::STIBP;
    }
    if intel(31) && !immune(4) || amd(24) && !amd(26) {
        chosen |= mitigation::SSBD;
    }
    if intel(10) && !immune(5) {
        chosen |= mitigation::VERW;
    }
    if intel(28) && !immune(0) && !immune(3) {
        chosen |= mitigation::L1D_FLUSH;
    }
    // Errata of older processors of Intel's: instruction TLB entries of two sizes are a machine check.
    if !facts.amd && !immune(6) {
        chosen |= mitigation::SMALL_PAGES;
    }
    if !facts.amd && immune(1) || facts.amd && facts.leaf21_eax >> 8 & 1 != 0 {
        chosen |= mitigation::IBRS;
    }
    chosen & !facts.off
}

/// Read the facts of this processor.
pub fn facts(off: u32) -> Facts {
    let vendor = cpu::cpuid(0, 0);
    let leaf7_edx = cpu::cpuid(7, 0).edx;
    Facts {
        amd: vendor.ebx == u32::from_le_bytes(*b"Auth"),
        leaf7_edx,
        leaf8_ebx: cpu::cpuid(0x8000_0008, 0).ebx,
        leaf21_eax: cpu::cpuid(0x8000_0021, 0).eax,
        arch_capabilities: if leaf7_edx >> 29 & 1 != 0 { cpu::msr(0x10a) } else { 0 },
        off,
    }
}

/// Set what stays set: in SPEC_CTRL IBRS, STIBP and SSBD; IBRS of AMD in EFER.
pub fn install(chosen: u32, amd: bool) {
    let bit = |wanted: u32, place: u32| u64::from(chosen & wanted != 0) << place;
    let (own, all) = if amd { (0, bit(mitigation::IBRS, 21)) } else { (bit(mitigation::IBRS, 0), 0) };
    let value = own | bit(mitigation::STIBP, 1) | bit(mitigation::SSBD, 2);
    let settings = [(0x48, value), (x86::msr::IA32_EFER, all)];
    for (number, bits) in settings.into_iter().filter(|setting| setting.1 != 0) {
        // SAFETY: `choose` found the register's bits in CPUID.
        unsafe { cpu::set_msr(number, if number == 0x48 { bits } else { cpu::msr(number) | bits }) };
    }
}

/// What [`cross`] does; others are done once.
pub const AT_CROSSINGS: u32 = mitigation::IBPB | mitigation::RSB_FILL | mitigation::VERW | mitigation::L1D_FLUSH;

/// Crossing from one partition or VM to another.
#[inline(never)]
pub fn cross(chosen: u32) {
    for (wanted, command) in [(mitigation::IBPB, 0x49), (mitigation::L1D_FLUSH, 0x10b)] {
        if chosen & wanted != 0 {
            // SAFETY: `choose` found it in CPUID; the command only forgets predictions or writes back lines.
            unsafe { cpu::set_msr(command, 1) };
        }
    }
    if chosen & mitigation::VERW != 0 {
        let selector = super::gdt::KERNEL_DATA;
        // SAFETY: VERW of a valid selector changes flags only.
        unsafe { core::arch::asm!("verw [{}]", in(reg) &selector, options(nostack, readonly)) };
    }
    fill_return_stack(chosen);
}

/// Leave nothing in the return predictor of what ran before.
pub fn fill_return_stack(chosen: u32) {
    if chosen & mitigation::RSB_FILL != 0 {
        // SAFETY: 32 calls into the next instruction, then the stack pointer is put back: only the return
        // predictor changes.
        unsafe {
            core::arch::asm!(".rept 32", "call 77f", "int3", "77:", ".endr", "add rsp, 256");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_follows_the_processor_and_the_manifest() {
        let all_intel = Facts { leaf7_edx: 1 << 26 | 1 << 27 | 1 << 31 | 1 << 10 | 1 << 28, ..Facts::default() };
        let table = [
            (Facts::default(), 64),
            (Facts { amd: true, leaf7_edx: u32::MAX, ..Facts::default() }, 0),
            (all_intel, 63 | 64),
            (Facts { arch_capabilities: 1 << 6 | 1 << 5 | 1 << 4 | 1, ..all_intel }, 1 | 2 | 8),
            (Facts { arch_capabilities: 1 << 1 | 1 << 6, ..Facts::default() }, 128),
            (Facts { amd: true, leaf21_eax: 1 << 8, ..Facts::default() }, 128),
            (Facts { off: 255, ..all_intel }, 0),
            (Facts { amd: true, leaf8_ebx: 1 << 12 | 1 << 15 | 1 << 24, ..Facts::default() }, 1 | 2 | 4 | 8),
            (Facts { amd: true, leaf8_ebx: 1 << 24 | 1 << 26, ..Facts::default() }, 0),
        ];
        for (facts, expected) in table {
            assert_eq!(choose(&facts), expected, "{facts:?}");
        }
    }
}

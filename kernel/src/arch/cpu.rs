//! Processor instructions as functions, and the check that the processor has what the core needs.
//!
//! INV-RING0: the core runs in ring 0 and these registers are its own to set.

use arrayvec::ArrayString;
use core::arch::asm;
pub use core::arch::x86_64::CpuidResult;

/// CPUID leaf and sub-leaf.
pub fn cpuid(leaf: u32, sub: u32) -> CpuidResult {
    core::arch::x86_64::__cpuid_count(leaf, sub)
}

/// Read a model-specific register that exists on every supported processor.
pub fn msr(number: u32) -> u64 {
    // SAFETY: INV-RING0; the caller names a register that the processor has.
    unsafe { x86::msr::rdmsr(number) }
}

/// Write a model-specific register. The value must keep the core's own invariants (paging, entry points, interrupts).
pub use x86::msr::wrmsr as set_msr;

#[cfg(test)]
pub use crate::simulation::now as tsc;

/// Time-stamp counter.
#[cfg(not(test))]
#[inline(always)]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC has no effect but its result.
    unsafe { core::arch::x86_64::_rdtsc() }
}

macro_rules! read {
    ($get:ident, $name:literal) => {
        #[doc = concat!("Read ", $name, ", every bit.")]
        #[inline(always)]
        pub fn $get() -> u64 {
            let value: u64;
            // SAFETY: INV-RING0; reading has no effect.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }
    };
}

macro_rules! write {
    ($set:ident, $name:literal) => {
        #[doc = concat!("Write ", $name, ".\n\n# Safety\nThe value must keep the core's mappings and rules in force.")]
        #[inline(always)]
        pub unsafe fn $set(value: u64) {
            // SAFETY: by the caller's promise.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
        }
    };
}
read!(cr0, "cr0");
read!(cr2, "cr2");
read!(cr3, "cr3");
read!(cr4, "cr4");
write!(set_cr0, "cr0");
write!(set_cr2, "cr2");
write!(set_cr3, "cr3");
write!(set_cr4, "cr4");

/// `index` if it is below `N`, a power of two of at most 256. Where the processor runs ahead of that check it has an index
/// below `N` all the same: the mask is one that no compiler leaves out because the check was made.
#[inline(always)]
pub fn below<const N: usize>(index: u64) -> Option<u8> {
    const { assert!(N.is_power_of_two() && N <= 256) };
    let mut place = index as u32;
    // SAFETY: the instruction changes one register and the flags.
    unsafe { asm!("and {:e}, {}", inout(reg) place, const N - 1, options(pure, nomem, nostack)) };
    (index < N as u64).then_some(place as u8)
}

/// Drop the translation of one page.
#[inline(always)]
pub fn invalidate(address: u64) {
    // SAFETY: INV-RING0; forgetting a translation is always sound.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Copy 8-byte words with one string instruction.
///
/// # Safety
/// Both ranges are mapped for the access and do not overlap; they may be shared with a partition that does not run.
#[inline(always)]
pub unsafe fn copy_words(from: *const u64, to: *mut u64, words: usize) {
    // SAFETY: by the caller's promise; the direction flag is clear in the core (entry code).
    unsafe {
        asm!("rep movsq", inout("rcx") words => _, inout("rsi") from => _, inout("rdi") to => _, options(nostack, preserves_flags));
    }
}

/// Read `width` (1, 2, 4) bytes from a port.
///
/// # Safety
/// Reading the port must not break the core: it belongs to the core or to the caller's capability.
pub unsafe fn port_in(port: u16, width: u8) -> u32 {
    match width {
        // SAFETY: by the caller's promise.
        1 => unsafe { x86::io::inb(port) }.into(),
        // SAFETY: by the caller's promise.
        2 => unsafe { x86::io::inw(port) }.into(),
        // SAFETY: by the caller's promise.
        _ => unsafe { x86::io::inl(port) },
    }
}

/// Write `width` (1, 2, 4) bytes to a port.
///
/// # Safety
/// As [`port_in`].
pub unsafe fn port_out(port: u16, width: u8, value: u32) {
    match width {
        // SAFETY: by the caller's promise.
        1 => unsafe { x86::io::outb(port, value as u8) },
        // SAFETY: by the caller's promise.
        2 => unsafe { x86::io::outw(port, value as u16) },
        // SAFETY: by the caller's promise.
        _ => unsafe { x86::io::outl(port, value) },
    }
}

/// Stop for good, interrupts off.
pub fn halt() -> ! {
    loop {
        // SAFETY: INV-RING0; nothing runs after it.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Reset the machine: the reset register of the chipset, then the keyboard controller, then a halt.
pub fn reset() -> ! {
    for (port, value) in [(0xcf9, 6), (0x64, 0xfe)] {
        // SAFETY: the machine is given up.
        unsafe { port_out(port, 1, value) };
    }
    halt()
}

/// CR4 bits that the core runs with on every processor: PAE, MCE, PGE, OSFXSR, OSXMMEXCPT, OSXSAVE, SMEP.
pub const CR4: u64 = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 18 | 1 << 20;
const UMIP: u64 = 1 << 11;
const SMAP: u64 = 1 << 21;
/// CR0 bits that the core runs with: PG, WP, NE, TS, MP, PE (and ET). TS is set, so that extended
/// registers are out of reach of every partition.
pub const CR0: u64 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 3 | 1 << 1 | 1;
/// CR0.TS.
pub const CR0_TS: u64 = 1 << 3;

/// What the processor must have, as (leaf, register, bit, name).
pub fn missing_feature() -> Option<&'static str> {
    let leaf1 = cpuid(1, 0);
    let leaf7 = cpuid(7, 0);
    let extended = cpuid(0x8000_0001, 0);
    let needs = [
        (leaf1.ecx, 26, "XSAVE"),
        (leaf1.edx, 7, "machine-check exception"),
        (leaf1.edx, 9, "local APIC"),
        (leaf7.ebx, 7, "SMEP"),
        (extended.edx, 20, "NX"),
        (extended.edx, 11, "SYSCALL"),
    ];
    needs.iter().find(|(register, bit, _)| register >> bit & 1 == 0).map(|(_, _, name)| *name)
}

/// CR4 bits that the core sets where the processor has them, and what the boot says of what it lacks. Without invariant TSC
/// or ARAT the core runs, and its clocks are right as long as neither frequency nor sleep state changes.
pub fn optional() -> (u64, ArrayString<48>) {
    let (leaf7, power) = (cpuid(7, 0), cpuid(0x8000_0007, 0));
    let rows = [
        (leaf7.ebx, 20, SMAP, "SMAP"),
        (leaf7.ecx, 2, UMIP, "UMIP"),
        (power.edx, 8, 0, "invariant TSC"),
        (cpuid(6, 0).eax, 2, 0, "ARAT"),
    ];
    let (mut bits, mut lacks) = (0, ArrayString::new());
    for (register, bit, wanted, name) in rows {
        if register >> bit & 1 != 0 {
            bits |= wanted;
        } else {
            let before = if lacks.is_empty() { ", without " } else { ", " };
            [before, name].into_iter().for_each(|text| _ = lacks.try_push_str(text));
        }
    }
    (bits, lacks)
}

//! Extended registers (x87, SSE, AVX), XCR0, DR0-DR3 and TSC_AUX of guests. The core and the partitions use
//! none of them (CR0.TS is set outside a guest), so they are swapped only between vCPUs; but a processor can run ahead
//! over CR0.TS, so before a partition runs that is not the `vmexit` of their VM they are cleared ([`clear`]).
//!
//! INV-EXTENDED: each vCPU has a [`CorePage`] for them. It starts with an XSAVE area, large enough for XCR0 = 7
//! (832 bytes), that holds a standard-format image whose reserved header bits are zero; the others stand after it.

use super::cpu;
use crate::mem::page::CorePage;
use core::arch::asm;

/// XCR0 bits that the core lets any guest use: x87, SSE, AVX.
pub const XCR0_MOST: u64 = 7;

/// Offset of DR0 to DR3 in the page.
pub const DEBUG: usize = 1024;
/// Offset of XCR0 in the page.
pub const XCR0: usize = 1056;
/// Offset of TSC_AUX in the page.
pub const TSC_AUX: usize = 1064;

/// XCR0 bits of this processor among [`XCR0_MOST`].
pub fn supported() -> u64 {
    u64::from(cpu::cpuid(0xd, 0).eax) & XCR0_MOST
}

/// Read XCR0.
pub fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: CR4.OSXSAVE is set in the core.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Set XCR0 to `value`, a subset of [`supported`] with bit 0.
pub fn set_xcr0(value: u64) {
    let value = value & supported() | 1;
    // SAFETY: the value is legal by the line above.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") 0, options(nomem, nostack)) };
}

/// Give partitions no way to the registers: set CR0.TS.
fn close() {
    // SAFETY: CR0 as the core runs with it.
    unsafe { cpu::set_cr0(cpu::cr0() | cpu::CR0_TS) };
}

/// Save the registers of the vCPU that has them into `area`.
pub fn save(area: CorePage) {
    set_xcr0(XCR0_MOST);
    // SAFETY: INV-EXTENDED; TS is set again below.
    unsafe { asm!("clts", "xsave64 [{}]", in(reg) area.physical(), in("eax") 7, in("edx") 0, options(nostack)) };
    close();
}

/// Load the registers from `area`.
pub fn load(area: CorePage) {
    restore(area.physical());
}

/// Load the registers from the XSAVE area at `area`. Some processors of AMD's restore the x87 pointers of exceptions only
/// (APM volume 2, section 11.5.10): the instructions before leave the core's own there.
fn restore(area: u64) {
    set_xcr0(XCR0_MOST);
    // SAFETY: INV-EXTENDED; TS is set again below.
    unsafe {
        asm!("clts", "fnclex", "emms", "fild dword ptr [{0}]", "xrstor64 [{0}]", in(reg) area, in("eax") 7, in("edx") 0, options(nostack));
    }
    close();
}

/// An XSAVE area in which nothing is in use.
#[repr(align(64))]
struct Nothing {
    _area: [u64; 72],
}
static NOTHING: Nothing = Nothing { _area: [0; 72] };

/// Leave nothing in the registers.
pub fn clear() {
    restore(&raw const NOTHING as u64);
}

/// Make `area` hold the registers' reset state: FCW 0x37f, MXCSR 0x1f80, XCR0 1, nothing in use.
pub fn reset(area: CorePage) {
    area.clear();
    area.set_word(0, 0x37f);
    area.set_word(24, 0x1f80);
    area.set_word(XCR0, 1);
}

/// Load DR0 to DR3, XCR0, and TSC_AUX where the processor has it, from `area`.
pub fn load_small(area: CorePage) {
    let [a, b, c, d] = area.read::<[u64; 4], DEBUG>();
    // SAFETY: DR7 enables no breakpoint, here and wherever no guest runs.
    unsafe {
        asm!("mov dr7, {}", "mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) 0x400u64, in(reg) a, in(reg) b, in(reg) c, in(reg) d, options(nomem, nostack, preserves_flags));
    }
    set_xcr0(area.word(XCR0));
    if cpu::cpuid(0x8000_0001, 0).edx >> 27 & 1 != 0 {
        // SAFETY: RDTSCP and RDPID read it, nothing in the core does.
        unsafe { cpu::set_msr(x86::msr::IA32_TSC_AUX, area.word(TSC_AUX) & 0xffff_ffff) };
    }
}

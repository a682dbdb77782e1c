//! The instructions of the extension.
//!
//! INV-VMCS: after `enable` the processor is in VMX operation; the fields named here exist on every processor that
//! `refusal` takes, and [`load`] has made the vCPU's VMCS the current one. So an instruction that fails is an error of
//! the core's own, and stops it.

use crate::epitaph;
use crate::mem::page::CorePage;
use core::arch::{asm, global_asm};
use x86::vmx::vmcs::ro;

global_asm!(".global vmx_failed", "vmx_failed:", "and rsp, -16", "call {stop}", "ud2", stop = sym failed);

extern "sysv64" fn failed() -> ! {
    let number: u64;
    // SAFETY: INV-VMCS; without a current VMCS the result is not written.
    unsafe {
        asm!("xor {0:e}, {0:e}", "vmread {0}, {1}", out(reg) number, in(reg) u64::from(ro::VM_INSTRUCTION_ERROR))
    };
    epitaph::stop(format_args!("a VMX instruction failed, error {number}"))
}

/// Enter VMX operation with the VMXON region `page`.
///
/// # Safety
/// INV-CORE-PAGE; the page holds the revision and is the processor's from here on; CR4.VMXE is set.
pub unsafe fn vmxon(page: CorePage) {
    // SAFETY: by the caller's promise.
    unsafe { asm!("vmxon [{}]", "jna vmx_failed", in(reg) &page.physical()) };
}

/// Write a VMCS back to its page and forget it.
pub fn clear(vmcs: CorePage) {
    // SAFETY: INV-VMCS; the page is a VMCS of the core's.
    unsafe { asm!("vmclear [{}]", "jna vmx_failed", in(reg) &vmcs.physical()) };
}

/// Make `vmcs` the current one.
pub fn load(vmcs: CorePage) {
    // SAFETY: INV-VMCS; the page is a VMCS of the core's.
    unsafe { asm!("vmptrld [{}]", "jna vmx_failed", in(reg) &vmcs.physical()) };
}

/// Read a field of the current VMCS.
#[inline(always)]
pub fn read(field: u32) -> u64 {
    let value: u64;
    // SAFETY: INV-VMCS.
    unsafe { asm!("vmread {}, {}", "jna vmx_failed", out(reg) value, in(reg) u64::from(field)) };
    value
}

/// Write a field of the current VMCS.
#[inline(always)]
pub fn write(field: u32, value: u64) {
    // SAFETY: INV-VMCS; what the fields may hold is checked where their values come from, and by the entry.
    unsafe { asm!("vmwrite {}, {}", "jna vmx_failed", in(reg) u64::from(field), in(reg) value) };
}

/// Forget what was translated by the nested table `eptp`, and for the guest `vpid`.
pub fn flush(eptp: u64, vpid: u64) {
    const SINGLE_CONTEXT: u64 = 1;
    // SAFETY: INV-VMCS; forgetting translations is always sound.
    unsafe { asm!("invept {}, [{}]", "jna vmx_failed", in(reg) SINGLE_CONTEXT, in(reg) &[eptp, 0]) };
    // SAFETY: as above.
    unsafe { asm!("invvpid {}, [{}]", "jna vmx_failed", in(reg) SINGLE_CONTEXT, in(reg) &[vpid, 0]) };
}

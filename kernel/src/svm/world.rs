//! The world switch.
//!
//! INV-WORLD: the control block is complete and checked, its pages belong to the VM, the host's own state
//! stands in the host block, and interrupts are off. While the global interrupt flag is clear nothing
//! interrupts; physical interrupts exit the guest, because host IF is 1 and V_INTR_MASKING is set.
//!
//! CR8, the priority below which no interrupt comes, is always 0. It is written after each exit nevertheless: that has
//! the local APIC of QEMU look again for an interrupt that waits. QEMU (seen: 7.2) sets a flag without a lock when it
//! enters a guest with V_IRQ set, and loses an interrupt whose flag another thread sets in the same word just then.

use crate::arch::entry::{BARRIER, DATA, MITIGATIONS};
use crate::mem::page::CorePage;
use crate::vcpu::each_guest_register;
use portcullis_ipc::image::mitigation;

/// Enter the guest; returns at its next exit. General registers but RAX and RSP travel in `registers`.
///
/// # Safety
/// INV-WORLD.
#[inline]
pub unsafe fn enter(block: CorePage, registers: &mut [u64; 16], host: CorePage) {
    // SAFETY: by the caller's promise; all registers that the guest changes are declared or restored.
    unsafe {
        core::arch::asm!(
            "push rbx",
            "push rbp",
            "push rdx",
            "push rsi",
            "test byte ptr gs:[{mitigations}], {verw}",
            "jz 2f",
            "verw word ptr [rip + {data}]",
            "2:",
            each_guest_register!("mov \\register, [rsi + at]"),
            "mov rsi, [rsi + 48]",
            "clgi",
            "sti",
            "vmload rax",
            "vmrun rax",
            "vmsave rax",
            "cli",
            "xchg rsi, [rsp]",
            each_guest_register!("mov [rsi + at], \\register"),
            "pop rcx",
            "mov [rsi + 48], rcx",
            "pop rax",
            "vmload rax",
            "test dword ptr gs:[{mitigations}], {barrier}",
            "jz 3f",
            "call entry_barrier",
            "3:",
            "xor eax, eax",
            "mov cr8, rax",
            "stgi",
            "pop rbp",
            "pop rbx",
            mitigations = const MITIGATIONS,
            verw = const mitigation::VERW,
            barrier = const BARRIER,
            data = sym DATA,
            inout("rax") block.physical() => _,
            inout("rsi") registers.as_mut_ptr() => _,
            inout("rdx") host.physical() => _,
            out("rcx") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
}

/// Keep the host's own state for VMLOAD in `host`, and its save area in `save`.
///
/// # Safety
/// INV-CORE-PAGE for both; EFER.SVME is set; segment and system-call registers have their final values.
pub unsafe fn install(host: CorePage, save: CorePage) {
    const VM_HSAVE_PA: u32 = 0xc001_0117;
    // SAFETY: the page belongs to the processor from here on.
    unsafe { crate::arch::cpu::set_msr(VM_HSAVE_PA, save.physical()) };
    // SAFETY: by the caller's promise.
    unsafe { core::arch::asm!("vmsave rax", in("rax") host.physical(), options(nostack)) };
}

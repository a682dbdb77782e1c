//! The world switch.
//!
//! INV-WORLD: the control block is complete and checked, its pages belong to the VM, the host's own state
//! stands in the host block, and interrupts are off. While the global interrupt flag is clear nothing
//! interrupts; physical interrupts exit the guest, because host IF is 1 and V_INTR_MASKING is set.

use crate::mem::page::CorePage;

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
            "mov rcx, [rsi + 8]",
            "mov rdx, [rsi + 16]",
            "mov rbx, [rsi + 24]",
            "mov rbp, [rsi + 40]",
            "mov rdi, [rsi + 56]",
            "mov r8, [rsi + 64]",
            "mov r9, [rsi + 72]",
            "mov r10, [rsi + 80]",
            "mov r11, [rsi + 88]",
            "mov r12, [rsi + 96]",
            "mov r13, [rsi + 104]",
            "mov r14, [rsi + 112]",
            "mov r15, [rsi + 120]",
            "mov rsi, [rsi + 48]",
            "clgi",
            "sti",
            "vmload rax",
            "vmrun rax",
            "vmsave rax",
            "cli",
            "xchg rsi, [rsp]",
            "mov [rsi + 8], rcx",
            "mov [rsi + 16], rdx",
            "mov [rsi + 24], rbx",
            "mov [rsi + 40], rbp",
            "mov [rsi + 56], rdi",
            "mov [rsi + 64], r8",
            "mov [rsi + 72], r9",
            "mov [rsi + 80], r10",
            "mov [rsi + 88], r11",
            "mov [rsi + 96], r12",
            "mov [rsi + 104], r13",
            "mov [rsi + 112], r14",
            "mov [rsi + 120], r15",
            "pop rcx",
            "mov [rsi + 48], rcx",
            "pop rax",
            "vmload rax",
            "stgi",
            "pop rbp",
            "pop rbx",
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

//! The world switch.
//!
//! INV-WORLD: the VMCS of the vCPU is current and complete, the host's own state stands in it, its lists lie in the
//! control block, and interrupts are off. An exit gives the tables of descriptors the largest limits, so the core's own
//! is loaded again before anything can use a selector behind its end.

use x86::vmx::vmcs::host;

/// Enter the guest; returns at its next exit. `true` if the processor refused by a failed instruction. General registers
/// but RSP travel in `registers`.
///
/// # Safety
/// INV-WORLD; `launched` says whether this VMCS was entered since it was cleared.
#[inline]
pub unsafe fn enter(registers: &mut [u64; 16], launched: bool) -> bool {
    let failed: u8;
    // SAFETY: by the caller's promise; all registers that the guest changes are declared or restored.
    unsafe {
        core::arch::asm!(
            "push rbx",
            "push rbp",
            "push rsi",
            "vmwrite rdx, rsp",
            "lea rdx, [rip + 4f]",
            "vmwrite rdi, rdx",
            "test ecx, ecx",
            "mov rax, [rsi]",
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
            "jnz 2f",
            "vmlaunch",
            "jmp 3f",
            "2: vmresume",
            "3: stc",
            "jmp 5f",
            "4: clc",
            "5: xchg rsi, [rsp]",
            "mov [rsi], rax",
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
            "setc al",
            "lgdt [rip + boot_gdtr]",
            "pop rbp",
            "pop rbx",
            inout("rsi") registers.as_mut_ptr() => _,
            inout("rdx") u64::from(host::RSP) => _,
            inout("rdi") u64::from(host::RIP) => _,
            inout("ecx") u32::from(launched) => _,
            out("al") failed,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    failed != 0
}

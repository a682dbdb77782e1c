//! The world switch.
//!
//! INV-WORLD: the VMCS of the vCPU is current and complete, the host's own state stands in it, its lists lie in the
//! control block, and interrupts are off. An exit gives the tables of descriptors the largest limits, so the core's own
//! is loaded again before anything can use a selector beyond its end.

use super::capability::REFUSED;
use crate::arch::entry::{BARRIER, DATA, MITIGATIONS};
use crate::vcpu::each_guest_register;
use portcullis_ipc::image::mitigation;
use x86::vmx::vmcs::{host, ro};

/// Where every exit goes on.
pub fn exit_point() -> u64 {
    unsafe extern "C" {
        static vmx_exit: u8;
    }
    &raw const vmx_exit as u64
}

/// Enter the guest; returns its RAX and the exit reason at its next exit, [`REFUSED`] if the instruction failed. General
/// registers but RAX and RSP travel in `registers`. There is one copy of this, which the label makes sure of.
///
/// # Safety
/// INV-WORLD; `launched` says whether this VMCS was entered since it was cleared.
#[inline(always)]
#[expect(named_asm_labels, reason = "a second copy must not link: every VMCS names the one place")]
pub unsafe fn enter(registers: &mut [u64; 16], mut rax: u64, launched: bool) -> (u64, u32) {
    let reason: u64;
    // SAFETY: by the caller's promise; all registers that the guest changes are declared or restored.
    unsafe {
        core::arch::asm!(
            "push rbx",
            "push rbp",
            "push rsi",
            "test byte ptr gs:[{mitigations}], {verw}",
            "jz 2f",
            "verw word ptr [rip + {data}]",
            "2:",
            "vmwrite rdx, rsp",
            "test ecx, ecx",
            each_guest_register!("mov \\register, [rsi + at]"),
            "mov rsi, [rsi + 48]",
            "jnz 3f",
            "vmlaunch",
            "jmp 4f",
            "3: vmresume",
            "4: pop rsi", // the instruction failed, the registers are as they were
            "mov ecx, {refused}",
            "jmp 6f",
            ".global vmx_exit",
            "vmx_exit:",
            "xchg rsi, [rsp]",
            each_guest_register!("mov [rsi + at], \\register"),
            "pop rcx",
            "mov [rsi + 48], rcx",
            "lgdt [rip + boot_gdtr]",
            "test dword ptr gs:[{mitigations}], {barrier}",
            "jz 5f",
            "push rax",
            "call entry_barrier",
            "pop rax",
            "5: mov ecx, {reason}",
            "vmread rcx, rcx",
            "6: pop rbp",
            "pop rbx",
            inout("rax") rax,
            inout("rsi") registers.as_mut_ptr() => _,
            inout("rdx") u64::from(host::RSP) => _,
            inout("rcx") u64::from(launched) => reason,
            out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            mitigations = const MITIGATIONS,
            verw = const mitigation::VERW,
            barrier = const BARRIER,
            data = sym DATA,
            refused = const REFUSED,
            reason = const ro::EXIT_REASON,
        );
    }
    (rax, reason as u32)
}

//! Into the core and out of it: system call, exception and interrupt entry from ring 3, and the return.
//!
//! INV-ENTRY: every entry from ring 3 stores all registers of the thread in the [`Frame`] that per-CPU
//! state points to, takes the CPU's one stack from its top, and calls [`crate::entry`] with interrupts
//! off, the direction and alignment-check flags clear. The core returns only through [`resume`].

use super::{cpu, gdt};
use zerocopy::FromZeros;

/// All registers of a thread in ring 3.
#[derive(Clone, Copy, Debug, Default, FromZeros)]
#[repr(C)]
pub struct Frame {
    /// RAX.
    pub rax: u64,
    /// RBX.
    pub rbx: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RSI.
    pub rsi: u64,
    /// RDI.
    pub rdi: u64,
    /// RBP.
    pub rbp: u64,
    /// R8 to R15.
    pub high: [u64; 8],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// 0: entered by SYSCALL, leave by SYSRET; 1: leave by IRET.
    pub interrupted: u64,
}

impl Frame {
    /// R10, the fourth argument of a system call.
    pub const fn r10(&self) -> u64 {
        let [_, _, r10, ..] = self.high;
        r10
    }
}

static_assertions::const_assert_eq!(core::mem::offset_of!(Frame, high), 56);
static_assertions::const_assert_eq!(core::mem::offset_of!(Frame, rip), 120);
static_assertions::const_assert_eq!(core::mem::offset_of!(Frame, interrupted), 144);

/// Why the core was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// SYSCALL.
    Call,
    /// Exception in ring 3: vector and error code.
    Exception(u8, u32),
    /// Interrupt in ring 3: vector.
    Interrupt(u8),
}

#[repr(C)]
struct PerCpu {
    own: u64,
    scratch: u64,
    frame: u64,
    stack: u64,
    pending: u64,
    nmis: u64,
}

/// Written at boot and by the owning CPU's entry code only (INV-ENTRY).
static mut PER_CPU: PerCpu = PerCpu { own: 0, scratch: 0, frame: 0, stack: 0, pending: 0, nmis: 0 };

/// First of the 256 entry stubs, 16 bytes each.
pub fn stubs() -> u64 {
    unsafe extern "C" {
        static entry_stubs: u8;
    }
    &raw const entry_stubs as u64
}

/// Program the entry points; `stack` is the top of the CPU's stack.
pub fn install(stack: u64) {
    let per_cpu = &raw mut PER_CPU;
    // SAFETY: INV-ENTRY: nothing enters the core yet.
    unsafe { (*per_cpu).stack = stack };
    let star = u64::from(gdt::SYSRET_BASE) << 48 | u64::from(gdt::KERNEL_CODE) << 32;
    unsafe extern "C" {
        fn entry_call();
    }
    let settings = [
        (x86::msr::IA32_GS_BASE, per_cpu as u64),
        (x86::msr::IA32_KERNEL_GSBASE, 0),
        (x86::msr::IA32_STAR, star),
        (x86::msr::IA32_LSTAR, entry_call as *const () as u64),
        // IF, TF, DF, IOPL, NT, AC, RF off at entry.
        (x86::msr::IA32_FMASK, 0x0005_7700),
        (x86::msr::IA32_EFER, cpu::msr(x86::msr::IA32_EFER) | 1 | 1 << 11),
    ];
    for (number, value) in settings {
        // SAFETY: these are the entry points that INV-ENTRY describes.
        unsafe { cpu::set_msr(number, value) };
    }
}

/// Leave the core: load `frame` and go on in ring 3.
///
/// # Safety
/// The address space of the frame's partition is loaded, and the frame stays in place until the next
/// entry (INV-ENTRY).
pub unsafe fn resume(frame: *mut Frame) -> ! {
    // SAFETY: by the caller's promise; GS points to PER_CPU (INV-ENTRY).
    unsafe {
        core::arch::asm!(
            "mov gs:[16], rdi",
            "mov rax, [rdi]",
            "mov rbx, [rdi + 8]",
            "mov rdx, [rdi + 24]",
            "mov rsi, [rdi + 32]",
            "mov rbp, [rdi + 48]",
            "mov r8, [rdi + 56]",
            "mov r9, [rdi + 64]",
            "mov r10, [rdi + 72]",
            "mov r12, [rdi + 88]",
            "mov r13, [rdi + 96]",
            "mov r14, [rdi + 104]",
            "mov r15, [rdi + 112]",
            "cmp qword ptr [rdi + 144], 0",
            "jne 2f",
            "mov rcx, [rdi + 120]",
            "mov r11, [rdi + 128]",
            "mov rsp, [rdi + 136]",
            "mov rdi, [rdi + 40]",
            "swapgs",
            "sysretq",
            "2:",
            "mov rcx, [rdi + 16]",
            "mov r11, [rdi + 80]",
            "push {data}",
            "push qword ptr [rdi + 136]",
            "push qword ptr [rdi + 128]",
            "push {code}",
            "push qword ptr [rdi + 120]",
            "mov rdi, [rdi + 40]",
            "swapgs",
            "iretq",
            in("rdi") frame,
            data = const gdt::USER_DATA,
            code = const gdt::USER_CODE,
            options(noreturn),
        )
    }
}

/// Reset the data segment registers, which a partition may load with any selector of ring 3: the next one
/// must not read them.
pub fn reset_segments() {
    // SAFETY: the selector is valid in ring 0 and 3; SWAPGS keeps the core's own GS base out of it, and
    // nothing interrupts (interrupts are off, the NMI stub uses no GS).
    unsafe {
        core::arch::asm!(
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov fs, {data:e}",
            "swapgs",
            "mov gs, {data:e}",
            "swapgs",
            data = in(reg) u32::from(gdt::USER_DATA),
            options(nomem, nostack, preserves_flags),
        );
    }
}

/// The one window in which the core takes an interrupt while it is in ring 0: after an INTR exit, and
/// when there is nothing to run (`idle`: the processor halts until one comes). Returns the vector, 0
/// for none.
pub fn interrupt_window(idle: bool) -> u8 {
    let vector: u64;
    // SAFETY: INV-ENTRY: the handler in ring 0 stores the vector, clears IF and returns.
    unsafe {
        core::arch::asm!(
            "mov qword ptr gs:[32], 0",
            "test {idle:e}, {idle:e}",
            "jnz 2f",
            "sti",
            "nop",
            "cli",
            "jmp 3f",
            "2:",
            "sti",
            "hlt",
            "cli",
            "3:",
            "mov {vector}, gs:[32]",
            idle = in(reg) u32::from(idle),
            vector = out(reg) vector,
        );
    }
    vector as u8
}

/// Take an NMI whose exit holds the next ones back: only an IRET opens them again.
pub fn nmi() {
    // SAFETY: INV-IDT: the gate of vector 2 counts and returns.
    unsafe { core::arch::asm!("int 2") };
}

/// Read a register that the processor may lack; `None` if it does.
pub fn try_msr(number: u32) -> Option<u64> {
    let (low, high, done): (u32, u32, u64);
    // SAFETY: reading has no effect; a #GP at the instruction continues at `entry_msr_failed`.
    unsafe {
        core::arch::asm!("call entry_rdmsr", in("ecx") number, out("eax") low, out("edx") high, out("rdi") done);
    }
    (done != 0).then_some(u64::from(high) << 32 | u64::from(low))
}

/// Write a register that the processor may lack; `false` if it does or refuses the value.
///
/// # Safety
/// The register is none that the core depends on.
pub unsafe fn try_set_msr(number: u32, value: u64) -> bool {
    let done: u64;
    // SAFETY: by the caller's promise; a #GP at the instruction continues at `entry_msr_failed`.
    unsafe {
        core::arch::asm!("call entry_wrmsr", in("ecx") number, inlateout("eax") value as u32 => _, inlateout("edx") (value >> 32) as u32 => _, out("rdi") done);
    }
    done != 0
}

extern "sysv64" fn enter_call() -> ! {
    crate::entry(Cause::Call)
}

extern "sysv64" fn enter_interrupt(vector: u64, error: u64) -> ! {
    let vector = vector as u8;
    crate::entry(if vector < 32 { Cause::Exception(vector, error as u32) } else { Cause::Interrupt(vector) })
}

extern "sysv64" fn trap(vector: u64, error: u64, rip: u64) -> ! {
    crate::epitaph::trap(vector, error, rip)
}

core::arch::global_asm!(
    r#"
    .text
    .global entry_call
entry_call:
    swapgs
    mov gs:[8], rsp
    mov rsp, gs:[16]
    mov [rsp], rax
    mov [rsp + 8], rbx
    mov [rsp + 24], rdx
    mov [rsp + 32], rsi
    mov [rsp + 40], rdi
    mov [rsp + 48], rbp
    mov [rsp + 56], r8
    mov [rsp + 64], r9
    mov [rsp + 72], r10
    mov [rsp + 88], r12
    mov [rsp + 96], r13
    mov [rsp + 104], r14
    mov [rsp + 112], r15
    mov [rsp + 120], rcx
    mov [rsp + 128], r11
    mov rax, gs:[8]
    mov [rsp + 136], rax
    mov qword ptr [rsp + 144], 0
    mov rsp, gs:[24]
    call {enter_call}
    ud2

entry_interrupt:                    // vector, error, rip, cs, rflags, rsp, ss
    test qword ptr [rsp + 24], 3
    jz 2f
    swapgs
    push 2                          // DF and AC off; CLAC exists only where SMAP does
    popfq
    mov gs:[8], rax
    mov rax, gs:[16]
    mov [rax + 8], rbx
    mov [rax + 16], rcx
    mov [rax + 24], rdx
    mov [rax + 32], rsi
    mov [rax + 40], rdi
    mov [rax + 48], rbp
    mov [rax + 56], r8
    mov [rax + 64], r9
    mov [rax + 72], r10
    mov [rax + 80], r11
    mov [rax + 88], r12
    mov [rax + 96], r13
    mov [rax + 104], r14
    mov [rax + 112], r15
    mov rbx, gs:[8]
    mov [rax], rbx
    mov rbx, [rsp + 16]
    mov [rax + 120], rbx
    mov rbx, [rsp + 32]
    mov [rax + 128], rbx
    mov rbx, [rsp + 40]
    mov [rax + 136], rbx
    mov qword ptr [rax + 144], 1
    mov rdi, [rsp]
    mov rsi, [rsp + 8]
    mov rsp, gs:[24]
    call {enter_interrupt}
    ud2
2:  cmp qword ptr [rsp], 32
    jae 3f
    cmp qword ptr [rsp], 13         // the two instructions that may fault
    jne entry_trap
    cmp qword ptr [rsp + 16], offset entry_rdmsr
    je 4f
    cmp qword ptr [rsp + 16], offset entry_wrmsr
    jne entry_trap
4:  mov qword ptr [rsp + 16], offset entry_msr_failed
    add rsp, 16
    iretq
3:
    push rax                        // an interrupt in the window
    mov rax, [rsp + 8]
    mov gs:[32], rax
    pop rax
    add rsp, 16
    and qword ptr [rsp + 16], 0xfffffffffffffdff
    iretq

entry_trap:                         // an exception in ring 0, a double fault or a machine check
    mov rdi, [rsp]
    mov rsi, [rsp + 8]
    mov rdx, [rsp + 16]
    and rsp, -16
    call {trap}
    ud2

entry_rdmsr:
    rdmsr
    mov edi, 1
    ret
entry_wrmsr:
    wrmsr
    mov edi, 1
    ret
entry_msr_failed:
    xor edi, edi
    xor eax, eax
    xor edx, edx
    ret

entry_nmi:
    add qword ptr [rip + {per_cpu} + 40], 1
    add rsp, 16
    iretq

    .balign 16
    .global entry_stubs
entry_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) | (vector == 10) | (vector == 11) | (vector == 12) | (vector == 13) | (vector == 14) | (vector == 17) | (vector == 21) | (vector == 29) | (vector == 30)
    .else
    push 0
    .endif
    .byte 0x68                      // push imm32
    .long vector
    .if vector == 2
    jmp entry_nmi
    .elseif (vector == 8) | (vector == 18)
    jmp entry_trap
    .else
    jmp entry_interrupt
    .endif
    .set vector, vector + 1
    .endr
    "#,
    enter_call = sym enter_call,
    enter_interrupt = sym enter_interrupt,
    trap = sym trap,
    per_cpu = sym PER_CPU,
);

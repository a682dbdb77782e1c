//! Into the core and out of it: system call, exception and interrupt entry from ring 3, and the return.
//!
//! INV-ENTRY: every entry from ring 3 stores all registers of the thread in the [`Frame`] whose end the task state names
//! (the processor itself stores the last five), takes the CPU's one stack from its top, and calls [`crate::entry`] with
//! interrupts off, the direction and alignment-check flags clear. The core returns only through [`resume`].
//!
//! What the processor needs at every way in (IBPB before the first return) and out (VERW) stands here and in the world
//! switches, by the mask at [`MITIGATIONS`].

use super::gdt::TaskState;
use super::{cpu, gdt};
use core::arch::asm;
use core::mem::offset_of;
use portcullis_ipc::image::mitigation;
use zerocopy::FromZeros;

/// All registers of a thread in ring 3. The processor aligns the end to 16 bytes.
#[derive(Clone, Copy, Debug, Default, FromZeros)]
#[repr(C, align(16))]
pub struct Frame {
    /// RAX.
    pub rax: u64,
    /// RDX.
    pub rdx: u64,
    /// RSI.
    pub rsi: u64,
    /// R10.
    pub r10: u64,
    /// RBX, RBP, R8, R9, R12 to R15.
    pub others: [u64; 8],
    /// RDI.
    pub rdi: u64,
    /// RCX and R11, which SYSCALL leaves as they were.
    pub clobbered: [u64; 2],
    /// Vector and error code of an exception or interrupt.
    pub event: [u64; 2],
    /// Instruction pointer.
    pub rip: u64,
    /// Code segment. 0: entered by SYSCALL, leave by SYSRET; else leave by IRET.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
}

impl Frame {
    /// R10, the fourth argument of a system call.
    pub const fn r10(&self) -> u64 {
        self.r10
    }
}

static_assertions::const_assert_eq!(size_of::<Frame>(), 176);

/// An instruction for each register that SYSCALL keeps; `at` is its place, counted from the frame's end.
macro_rules! each_register {
    ($instruction:literal) => {
        concat!(
            ".set at, -176\n.irp register, rax, rdx, rsi, r10, rbx, rbp, r8, r9, r12, r13, r14, r15, rdi\n",
            $instruction,
            "\n.set at, at + 8\n.endr"
        )
    };
}

/// Why the core was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// SYSCALL.
    Call,
    /// Exception (below 32) or interrupt in ring 3: vector and error code.
    Event(u8, u32),
}

/// What a CPU has for itself, its task state first; GS points to it while the core runs.
#[repr(C)]
pub struct PerCpu {
    task: TaskState,
    scratch: u64,
    stack: u64,
    mitigations: u64,
}

/// Place of the mitigations in force at GS, for the ways in and out.
pub const MITIGATIONS: usize = offset_of!(PerCpu, mitigations);
/// What [`barrier`] does.
pub const BARRIER: u32 = mitigation::IBPB_ENTRY | mitigation::PBRSB;

/// Written at boot and by the owning CPU's entry code only (INV-ENTRY).
pub static mut PER_CPU: PerCpu = PerCpu { task: TaskState::EMPTY, scratch: 0, stack: 0, mitigations: 0 };

/// Selector for VERW.
pub static DATA: u16 = gdt::KERNEL_DATA;

/// Apply `chosen` at each way in and out from now on.
pub fn apply(chosen: u32) {
    let per_cpu = &raw mut PER_CPU;
    // SAFETY: INV-ENTRY: called once at boot; nothing else refers to the word.
    unsafe { (*per_cpu).mitigations = chosen.into() };
}

/// Address of the entry stub of `vector`.
pub fn stub(vector: u8) -> u64 {
    unsafe extern "C" {
        static entry_stubs: [[u8; 9]; 256];
    }
    (&raw const entry_stubs).cast::<[u8; 9]>().wrapping_add(vector.into()) as u64
}

/// Load the task state and program the entry points.
pub fn install() {
    let per_cpu = &raw mut PER_CPU;
    // SAFETY: INV-ENTRY: nothing enters the core yet.
    let PerCpu { task, stack, .. } = unsafe { &mut *per_cpu };
    *stack = gdt::load(task);
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
        // No entry, whatever a boot loader left: SYSENTER faults.
        (x86::msr::IA32_SYSENTER_CS, 0),
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
        asm!(
            "mov gs:[{frame_end}], rdi",
            "test byte ptr gs:[{mitigations}], {verw}",
            "jz 3f",
            "verw word ptr [rip + {data}]",
            "3:",
            "cmp qword ptr [rdi - 32], 0",
            "jne 2f",
            "mov rcx, [rdi - 40]",
            "mov r11, [rdi - 24]",
            "mov rsp, [rdi - 16]",
            each_register!("mov \\register, [rdi + at]"),
            "swapgs",
            "sysretq",
            "2:",
            "mov rcx, [rdi - 72]",
            "mov r11, [rdi - 64]",
            "lea rsp, [rdi - 40]",
            each_register!("mov \\register, [rdi + at]"),
            "swapgs",
            "iretq",
            in("rdi") frame.wrapping_add(1),
            frame_end = const offset_of!(PerCpu, task) + offset_of!(TaskState, frame_end),
            mitigations = const MITIGATIONS,
            verw = const mitigation::VERW,
            data = sym DATA,
            options(noreturn),
        )
    }
}

/// Reset the data segment registers, which a partition may load with any selector of ring 3: the next one
/// must not read them.
pub fn reset_segments() {
    // SAFETY: the null selector is valid in ring 0 and 3; SWAPGS keeps the core's own GS base out of it, and
    // nothing interrupts (interrupts are off, the NMI stub uses no GS).
    unsafe {
        asm!(
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov fs, {data:e}",
            "swapgs",
            "mov gs, {data:e}",
            "swapgs",
            data = in(reg) 0,
            options(nomem, nostack, preserves_flags),
        );
    }
}

/// The one window in which the core takes an interrupt while it is in ring 0: after an INTR exit, and
/// when there is nothing to run (`idle`: the processor halts until one comes). Returns the vector, 0
/// for none.
pub fn interrupt_window(idle: bool) -> u8 {
    let vector: u64;
    if idle {
        // SAFETY: INV-ENTRY: the handler in ring 0 puts the vector into RAX, clears IF and returns.
        unsafe { asm!("sti", "hlt", "cli", inout("rax") 0u64 => vector) };
    } else {
        // SAFETY: as above.
        unsafe { asm!("sti", "nop", "cli", inout("rax") 0u64 => vector) };
    }
    vector as u8
}

/// Take an NMI whose exit holds the next ones back: only an IRET opens them again.
pub fn nmi() {
    // SAFETY: INV-IDT: the gate of vector 2 does nothing but return.
    unsafe { asm!("int 2") };
}

/// Read a register that the processor may lack; `None` if it does.
pub fn try_msr(number: u32) -> Option<u64> {
    let (low, high, done): (u32, u32, u64);
    // SAFETY: reading has no effect; a #GP at the instruction clears RDI and goes on after it.
    unsafe {
        asm!("call entry_rdmsr", in("ecx") number, out("eax") low, out("edx") high, inout("rdi") 1u64 => done);
    }
    (done != 0).then_some(u64::from(high) << 32 | u64::from(low))
}

/// Write a register that the processor may lack; `false` if it does or refuses the value.
///
/// # Safety
/// The register is none that the core depends on.
pub unsafe fn try_set_msr(number: u32, value: u64) -> bool {
    let (low, high, done) = (value as u32, (value >> 32) as u32, 1u64);
    let result: u64;
    // SAFETY: by the caller's promise; a #GP at the instruction clears RDI and goes on after it.
    unsafe {
        asm!("call entry_wrmsr", in("ecx") number, in("eax") low, in("edx") high, inout("rdi") done => result);
    }
    result != 0
}

/// Turn off what a loader may have left on, because it goes on by itself: supervisor state of XSAVES (IA32_XSS), DEBUGCTL,
/// RTIT_CTL, PEBS_ENABLE and PERF_GLOBAL_CTRL; on AMD IBS_FETCH_CTL, IBS_OP_CTL and the counters.
pub fn quiet() {
    let own = [0xda0, 0x1d9, 0x570, 0x3f1, 0x38f, 0xc001_1030, 0xc001_1033];
    for number in own.into_iter().chain((0xc001_0200..0xc001_020c).step_by(2)) {
        // SAFETY: the core uses none of them.
        let _ = unsafe { try_set_msr(number, 0) };
    }
}

extern "sysv64" fn enter_call() -> ! {
    crate::entry(Cause::Call)
}

extern "sysv64" fn enter_interrupt(vector: u64, error: u64) -> ! {
    crate::entry(Cause::Event(vector as u8, error as u32))
}

core::arch::global_asm!(
    r#"
    .text
    .global entry_call
entry_call:
    swapgs
    mov gs:[{scratch}], rsp
    mov rsp, gs:[{frame_end}]
    "#,
    each_register!("mov [rsp + at], \\register"),
    r#"
    mov rax, gs:[{scratch}]
    mov [rsp - 16], rax
    mov [rsp - 24], r11
    mov qword ptr [rsp - 32], 0
    mov [rsp - 40], rcx
    mov rsp, gs:[{stack}]
    test dword ptr gs:[{mitigations}], {ibpb_entry}
    jz 1f
    call entry_barrier
1:  call {enter_call}
    ud2

entry_interrupt:                    // vector, error, rip, cs, rflags, rsp, ss: from ring 3 the end of the frame
    test qword ptr [rsp + 24], 3
    jz 2f
    swapgs
    push 2                          // DF and AC off; CLAC exists only where SMAP does
    popfq
    "#,
    each_register!("mov [rsp + 56 + at], \\register"),
    r#"
    mov [rsp - 16], rcx
    mov [rsp - 8], r11
    mov rdi, [rsp]
    mov rsi, [rsp + 8]
    mov rsp, gs:[{stack}]
    test dword ptr gs:[{mitigations}], {ibpb_entry}
    jz 1f
    call entry_barrier
1:  call {enter_interrupt}
    ud2
2:  cmp qword ptr [rsp], 32
    jae 3f
    cmp qword ptr [rsp], 13         // the two instructions that may fault
    jne entry_trap
    cmp qword ptr [rsp + 16], offset entry_rdmsr
    je 4f
    cmp qword ptr [rsp + 16], offset entry_wrmsr
    jne entry_trap
4:  add qword ptr [rsp + 16], 2     // both have two bytes
    xor edi, edi
    add rsp, 16
    iretq
3:  mov rax, [rsp]                  // an interrupt in the window
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

    .global entry_barrier
entry_barrier:                      // all registers are saved, and nothing returned yet; changes RAX, RCX, RDX
    lfence                          // the call that led here is done, so the next return is predicted by it
    test dword ptr gs:[{mitigations}], {ibpb_entry}
    jz 1f
    mov ecx, 0x49                   // PRED_CMD
    mov eax, 1
    xor edx, edx
    wrmsr
1:  ret

entry_rdmsr:
    rdmsr
    ret
entry_wrmsr:
    wrmsr
    ret

entry_nmi:
    add rsp, 16
    iretq

    .global entry_stubs
entry_stubs:
    .set vector, 0
    .rept 256                       // 9 bytes each
    .if (vector == 8) | (vector >= 10) & (vector <= 14) | (vector == 17) | (vector == 21) | (vector == 29) | (vector == 30)
    xchg ax, ax                     // the processor pushed an error code
    .else
    push 0
    .endif
    .byte 0x6a, vector              // push imm8; of its sign-extension the low byte counts
    .byte 0xe9                      // jmp rel32
    .if vector == 2
    .long entry_nmi - . - 4
    .elseif (vector == 8) | (vector == 18)
    .long entry_trap - . - 4
    .else
    .long entry_interrupt - . - 4
    .endif
    .set vector, vector + 1
    .endr
    "#,
    enter_call = sym enter_call,
    enter_interrupt = sym enter_interrupt,
    trap = sym crate::epitaph::trap,
    frame_end = const offset_of!(PerCpu, task) + offset_of!(TaskState, frame_end),
    scratch = const offset_of!(PerCpu, scratch),
    stack = const offset_of!(PerCpu, stack),
    mitigations = const MITIGATIONS,
    ibpb_entry = const mitigation::IBPB_ENTRY,
);

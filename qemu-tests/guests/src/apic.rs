//! The local APIC in x2APIC mode, the IOAPIC, and further processors: what a guest needs to see interrupts.

use crate::code::{Code, Place};
use crate::memory::{peek, place, poke};
use crate::run::{Mode, State};
use core::arch::asm;

/// Numbers of MSRs.
pub mod msr {
    /// IA32_APIC_BASE.
    pub const BASE: u32 = 0x1b;
    /// IA32_TSC_DEADLINE.
    pub const DEADLINE: u32 = 0x6e0;
    /// End of interrupt.
    pub const END: u32 = 0x80b;
    /// Spurious vector.
    pub const SPURIOUS: u32 = 0x80f;
    /// Interrupt command.
    pub const COMMAND: u32 = 0x830;
    /// Timer's entry in the vector table.
    pub const TIMER: u32 = 0x832;
    /// Initial count.
    pub const INITIAL: u32 = 0x838;
    /// Current count.
    pub const CURRENT: u32 = 0x839;
    /// Divide configuration.
    pub const DIVIDE: u32 = 0x83e;
    /// Interrupt to itself.
    pub const SELF: u32 = 0x83f;
}

/// Modes of the timer, as its entry has them.
pub mod timer {
    /// Counts once.
    pub const ONE_SHOT: u64 = 0;
    /// Counts again and again.
    pub const PERIODIC: u64 = 1 << 17;
    /// Fires at a TSC value.
    pub const DEADLINE: u64 = 2 << 17;
    /// Masked.
    pub const MASKED: u64 = 1 << 16;
}

/// Registers of the IOAPIC.
const IOAPIC: u64 = 0xfec0_0000;

/// Reads an MSR.
pub fn read(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: a register that is not there raises a trap, which ends the run with a line.
    unsafe { asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR.
pub fn write(number: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the registers named above change no memory; interrupts are off while Rust code runs.
    unsafe { asm!("wrmsr", in("ecx") number, in("eax") low, in("edx") high, options(nostack)) };
}

/// Enters x2APIC mode and accepts interrupts.
pub fn enable() {
    write(msr::BASE, read(msr::BASE) | 0xc00);
    write(msr::SPURIOUS, 0x1ff);
}

/// Sends an interrupt command to the processor with an APIC id.
pub fn send(id: u64, command: u64) {
    write(msr::COMMAND, id << 32 | command);
}

/// Routes a pin of the IOAPIC to processor 0: edge-triggered interrupt `vector`.
pub fn route(pin: u32, vector: u32) {
    for (register, value) in [(0x11 + 2 * pin, 0), (0x10 + 2 * pin, vector)] {
        poke(IOAPIC, register);
        poke(IOAPIC + 0x10, value);
    }
}

/// Runs `code` with interrupts on until something interrupts it, or its quiet end.
pub fn open(code: &[u8]) -> State {
    Code::new(Mode::Long).raw(code).run(Place::ring0(Mode::Long), |state| state.rflags |= 1 << 9)
}

/// Halts until an interrupt comes: its vector. It is ended.
pub fn wait() -> u64 {
    // The loop goes on halting after an interrupt that only ended the shadow.
    let after = open(&[0xf4, 0xeb, 0xfd]);
    write(msr::END, 0);
    after.vector
}

/// Page at which further processors enter, and where they count: starts, and interrupts 0x31.
pub const ENTRY: u64 = 0x8000;
const STARTS: u64 = 0x7e00;
const INTERRUPTS: u64 = 0x7e08;

/// Real-mode code of a further processor: counts its start, enables its APIC, halts for interrupts, counts
/// them.
const REAL: &[u8] = &[
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, // cli; xor ax, ax; mov ds, ax; mov ss, ax
    0xbc, 0x00, 0x7e, // mov sp, 0x7e00
    0x66, 0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, // mov ecx, 0x1b; rdmsr
    0x66, 0x0d, 0x00, 0x0c, 0, 0, 0x0f, 0x30, // or eax, 0xc00; wrmsr
    0x66, 0xb9, 0x0f, 0x08, 0, 0, // mov ecx, 0x80f
    0x66, 0xb8, 0xff, 0x01, 0, 0, 0x66, 0x31, 0xd2, 0x0f, 0x30, // mov eax, 0x1ff; xor edx, edx; wrmsr
    0xf0, 0xff, 0x06, 0x00, 0x7e, // lock inc word [0x7e00]
    0xfb, 0xf4, 0xeb, 0xfc, // sti; hlt; jmp back
];
/// Its interrupt handler, in real mode.
const HANDLER: &[u8] = &[
    0xf0, 0xff, 0x06, 0x08, 0x7e, // lock inc word [0x7e08]
    0x66, 0xb9, 0x0b, 0x08, 0, 0, // mov ecx, 0x80b
    0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f, 0x30, 0xcf, // xor eax, eax; xor edx, edx; wrmsr; iret
];
const HANDLER_AT: u64 = ENTRY + 0x100;
/// The end of a handler that sends interrupt 0x32 to processor 0 before it returns.
const ANSWER: &[u8] = &[
    0x66, 0xb9, 0x30, 0x08, 0, 0, // mov ecx, 0x830
    0x66, 0xb8, 0x32, 0, 0, 0, 0x66, 0x31, 0xd2, 0x0f, 0x30, 0xcf, // mov eax, 0x32; xor edx, edx; wrmsr; iret
];
/// The end of [`REAL`] that waits with PAUSE.
const SPINS: &[u8] = &[0xfb, 0xf3, 0x90, 0xeb, 0xfb]; // sti; pause; jmp back
/// 64-bit code of a further processor, from the mailbox: counts its start and stays.
const LONG: &[u8] = &[
    0xf0, 0x66, 0xff, 0x04, 0x25, 0x00, 0x7e, 0, 0, // lock inc word [0x7e00]
    0xf3, 0x90, 0xeb, 0xfc, // pause; jmp back
];
const LONG_AT: u64 = ENTRY + 0x200;
/// The mailbox.
const MAILBOX: u64 = 0xe_f000;

/// Puts the code of further processors in its place and their counts to zero.
pub fn prepare() {
    place(ENTRY, REAL);
    place(HANDLER_AT, HANDLER);
    place(LONG_AT, LONG);
    poke(STARTS, 0u16);
    poke(INTERRUPTS, 0u16);
    // The handler in the interrupt vector table of real mode.
    poke(0x31 * 4, HANDLER_AT as u32);
}

/// The same for a processor that spins with PAUSE, and answers each interrupt with 0x32 to processor 0.
pub fn prepare_answers() {
    prepare();
    place(ENTRY + REAL.len() as u64 - 4, SPINS);
    place(HANDLER_AT + HANDLER.len() as u64 - 1, ANSWER);
}

/// Starts the processor with this APIC id by INIT and two start-ups.
pub fn start(id: u64) {
    send(id, 0xc500);
    send(id, 0x600 | ENTRY >> 12);
    send(id, 0x600 | ENTRY >> 12);
}

/// Starts the processor with this APIC id by the mailbox; whether the command was taken.
pub fn wake(id: u64) -> bool {
    poke(MAILBOX + 4, id as u32);
    poke(MAILBOX + 8, LONG_AT);
    poke(MAILBOX, 1u16);
    peek::<u16>(MAILBOX) == 0
}

/// Takes a command of the mailbox back that was not obeyed.
pub fn withdraw() {
    poke(MAILBOX, 0u16);
}

/// Further processors that started, and interrupts that they took.
pub fn counts() -> (u16, u16) {
    (peek(STARTS), peek(INTERRUPTS))
}

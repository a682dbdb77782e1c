//! Two tasks: the one that legacy code runs in, and another one that is described here before it is switched to.

use crate::code::Code;
use crate::machine::{self, STACK, selector};
use crate::memory::{peek, place, poke};
use crate::paging;
use crate::run::Mode;
use core::arch::asm;

/// Where the other task's code stands.
pub const CODE: u64 = machine::CODE + 0x80;
/// End of the other task's stack, below that of the code under test.
pub const TASK_STACK: u64 = STACK - 0x400;
/// End of its stack for ring 0, when it runs outside.
const INNER_STACK: u64 = STACK - 0x200;
/// CR3 bits that change no translation and tell the other task's CR3 from the own one.
const MARK: u64 = 0x18;
const TASK_SWITCHED: u64 = 8;
/// DR6.BT.
const TASK_TRAP: u64 = 1 << 15;

/// Access byte of an available 32-bit task.
pub const AVAILABLE: u8 = 0x89;
/// Access byte of a busy one.
pub const BUSY: u8 = 0x8b;
/// What both access bytes lack for a 16-bit task.
pub const FULL: u8 = 8;

/// Offsets in a 32-bit TSS.
pub mod field {
    /// Back link.
    pub const LINK: u64 = 0;
    /// CR3.
    pub const CR3: u64 = 28;
    /// EIP.
    pub const EIP: u64 = 32;
    /// EFLAGS.
    pub const EFLAGS: u64 = 36;
    /// EAX; the other general registers follow in the processor's order.
    pub const EAX: u64 = 40;
    /// ESP.
    pub const ESP: u64 = 56;
    /// ES; the other segments follow.
    pub const ES: u64 = 72;
    /// CS.
    pub const CS: u64 = 76;
    /// SS.
    pub const SS: u64 = 80;
    /// DS.
    pub const DS: u64 = 84;
    /// LDTR.
    pub const LDT: u64 = 96;
    /// The trap flag; above it the offset of the I/O permission map.
    pub const TRAP: u64 = 100;
}

const ESP0: u64 = 4;
/// Offsets in a 16-bit TSS.
const HALF_IP: u64 = 14;
const HALF_SP: u64 = 26;
const HALF_ES: u64 = 34;

/// The CR3 of legacy code in a mode.
fn root(mode: Mode) -> u64 {
    match mode {
        Mode::Paged => paging::root32(),
        Mode::PagedPae => paging::root_pae(),
        _ => 0,
    }
}

/// The CR3 that the other task has in a mode.
pub fn other_root(mode: Mode) -> u64 {
    if root(mode) == 0 { 0 } else { root(mode) | MARK }
}

/// Makes the other task an available one of ring 0 that starts with `code`, and CR0.TS clear.
pub fn prepare(mode: Mode, code: &Code) {
    let (own, other) = (machine::own_tss(), machine::other_tss());
    for offset in (0..0x68).step_by(4) {
        poke(other + offset, 0u32);
    }
    poke(own + field::CR3, root(mode) as u32);
    place(CODE, code.bytes());
    poke(other + ESP0, INNER_STACK as u32);
    poke(other + ESP0 + 4, selector::DATA as u32);
    poke(other + field::CR3, other_root(mode) as u32);
    poke(other + field::EIP, CODE as u32);
    poke(other + field::EFLAGS, 2u32);
    poke(other + field::EAX, 0x7a5cu32);
    poke(other + field::ESP, TASK_STACK as u32);
    set_segments(selector::CODE32, selector::DATA);
    describe(AVAILABLE);
    // SAFETY: no code of this program uses the registers that CR0.TS guards.
    unsafe { asm!("clts", options(nomem, nostack)) };
}

/// Gives the other task this code segment, and this one for data.
pub fn set_segments(code: u64, data: u64) {
    for (index, segment) in [data, code, data, data, data, data].into_iter().enumerate() {
        poke(machine::other_tss() + field::ES + 4 * index as u64, segment as u32);
    }
}

/// Makes what [`prepare`] left an available task of 16 bits.
pub fn narrow() {
    let other = machine::other_tss();
    for offset in (0..0x60).step_by(4) {
        poke(other + offset, 0u32);
    }
    poke(other + HALF_IP, CODE as u16);
    poke(other + HALF_IP + 2, 2u16);
    poke(other + HALF_SP, TASK_STACK as u16);
    for (index, segment) in [selector::DATA, selector::CODE32, selector::DATA, selector::DATA].into_iter().enumerate() {
        poke(other + HALF_ES + 2 * index as u64, segment as u16);
    }
    describe(AVAILABLE & !FULL);
}

fn describe(access: u8) {
    poke(machine::descriptor_at(selector::OTHER_TSS) + 5, access);
}

/// Access bytes of the own task and of the other one.
pub fn access() -> (u8, u8) {
    let of = |selector| peek::<u8>(machine::descriptor_at(selector) + 5);
    (of(selector::OWN_TSS), of(selector::OTHER_TSS))
}

/// CR0.TS, which every switch sets.
pub fn switched() -> bool {
    let cr0: u64;
    // SAFETY: reading CR0 changes nothing.
    unsafe { asm!("mov {}, cr0", out(reg) cr0, options(nomem, nostack, preserves_flags)) };
    cr0 & TASK_SWITCHED != 0
}

/// Whether DR6 says that a task's trap flag raised the debug exception; DR6 says so no more.
pub fn take_trap_cause() -> bool {
    let status: u64;
    // SAFETY: DR6 tells of debug exceptions that are past, and nothing else in this program reads it.
    unsafe { asm!("mov {}, dr6", out(reg) status, options(nomem, nostack, preserves_flags)) };
    // SAFETY: as above.
    unsafe { asm!("mov dr6, {}", in(reg) status & !TASK_TRAP, options(nomem, nostack, preserves_flags)) };
    status & TASK_TRAP != 0
}

/// A far jump (0xea) or call (0x9a) to the other task.
pub fn far(opcode: u8) -> [u8; 7] {
    let [low, high] = (selector::OTHER_TSS as u16).to_le_bytes();
    [opcode, 0, 0, 0, 0, low, high]
}

/// `code`, and an instruction that ends in a 32-bit address.
pub fn absolute(code: Code, opcode: &[u8], address: u64) -> Code {
    code.raw(opcode).raw(&(address as u32).to_le_bytes())
}

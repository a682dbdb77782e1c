//! Running a few bytes of machine code in a mode, with registers of our choice, and seeing what became
//! of them: the one primitive on which all tests stand.
//!
//! The code ends with any trap; `INT 0x80` is the quiet end. Long and compatibility mode are entered
//! by IRETQ. For protected, virtual-8086 and real mode the guest leaves long mode first and climbs
//! back after the trap.

use crate::machine::GDT;
use crate::report::unexpected;
use core::arch::global_asm;

global_asm!(include_str!("run/long.s"), unexpected = sym unexpected);
global_asm!(include_str!("run/legacy.s"), gdt = sym GDT);

unsafe extern "C" {
    fn run_long(state: *mut State);
    fn run_legacy(state: *mut State);
}

/// Vector of the quiet end.
pub const END: u64 = 0x80;

/// Index of a register in [`State::registers`].
pub mod reg {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
}

/// What is loaded before the code runs and, after it, what the trap found. The assembly knows the
/// offsets.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct State {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8-R15. After legacy code RSP is not updated and high
    /// halves keep what they were.
    pub registers: [u64; 16],
    /// First instruction; after the run, the address that the trap pushed.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Code segment: a selector, in real and virtual-8086 mode a segment.
    pub cs: u64,
    /// Stack segment.
    pub ss: u64,
    /// Data segment.
    pub ds: u64,
    /// Extra segment.
    pub es: u64,
    /// Vector that ended the run.
    pub vector: u64,
    /// Its error code, 0 where it has none.
    pub error: u64,
    /// CR2 after the run.
    pub cr2: u64,
    /// Bits to set in CR0 (paging) before legacy code runs.
    pub cr0: u64,
    /// CR3 of legacy code.
    pub cr3: u64,
    /// CR4 of legacy code.
    pub cr4: u64,
    /// 1 for real mode.
    pub real: u64,
}

const _: () = assert!(size_of::<State>() == 232 && core::mem::offset_of!(State, vector) == 176);

/// The modes in which code can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit code.
    Long,
    /// 32-bit code under long mode.
    Compatibility,
    /// 32-bit code, no paging.
    Protected,
    /// 32-bit code, 32-bit page tables with 4 MiB pages.
    Paged,
    /// 32-bit code, PAE page tables.
    PagedPae,
    /// 16-bit code under protected mode.
    Virtual86,
    /// 16-bit code.
    Real,
}

impl Mode {
    /// The default operand size of the mode's code is 16 bits.
    pub const fn is_16_bit(self) -> bool {
        matches!(self, Self::Virtual86 | Self::Real)
    }
    /// The code runs under long mode.
    pub const fn is_long(self) -> bool {
        matches!(self, Self::Long | Self::Compatibility)
    }
}

impl State {
    /// Runs until the next trap.
    pub fn run(&mut self, mode: Mode) {
        if mode.is_long() {
            // SAFETY: the state lives until the trap handler has stored it; the code it names lies in
            // the scratch area and comes back by a trap, whose gates `machine::init` has set.
            unsafe { run_long(self) };
        } else {
            // SAFETY: as above; image, stacks and tables lie below 4 GiB where legacy code reaches them.
            unsafe { run_legacy(self) };
        }
    }
}

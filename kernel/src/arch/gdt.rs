//! Descriptor table, task state and stacks: one set a CPU.
//!
//! INV-CPU-LOCAL: the statics here are written before the task state is loaded, and only by the CPU that owns them.

use core::arch::asm;

/// Selector of ring-0 code.
pub const KERNEL_CODE: u16 = 0x08;
/// Selector of ring-0 data.
pub const KERNEL_DATA: u16 = 0x10;
/// Base selector of SYSRET: data at +8, code at +16.
pub const SYSRET_BASE: u16 = 0x18;
/// Selector of ring-3 data, with RPL 3.
pub const USER_DATA: u16 = 0x23;
/// Selector of ring-3 code, with RPL 3.
pub const USER_CODE: u16 = 0x2b;
/// Selector of the task state.
pub const TASK: u16 = 0x30;

/// The descriptor table, in force from the first 64-bit instruction on; its last two words are the task state's.
pub static mut GDT: [u64; 8] =
    [0, 0x00af_9a00_0000_ffff, 0x00cf_9200_0000_ffff, 0, 0x00cf_f200_0000_ffff, 0x00af_fa00_0000_ffff, 0, 0];

/// Bytes of the core's stack, on which it boots, too.
pub const STACK: u64 = 16384;
/// Bytes of each of the stacks after it: for NMI, #DF and #MC.
const FAULT_STACK: u64 = 4096;

/// The stacks.
#[repr(C, align(16))]
pub struct Stacks([u8; (STACK + 3 * FAULT_STACK) as usize]);

/// The stacks, the core's first. The linker puts them right after what is read-only: what overflows the core's faults.
#[cfg_attr(target_os = "none", unsafe(link_section = ".bss.stacks"))]
pub static mut STACKS: Stacks = Stacks([0; (STACK + 3 * FAULT_STACK) as usize]);

/// Task state as the processor reads it.
#[derive(Clone, Copy)]
#[repr(C, packed(4))]
pub struct TaskState {
    reserved: u32,
    /// Where the processor stores what it interrupts in ring 3: the end of the running thread's frame.
    pub frame_end: u64,
    rsp: [u64; 2],
    reserved2: u64,
    ist: [u64; 7],
    reserved3: [u16; 5],
    io_map: u16,
}

static_assertions::const_assert_eq!(size_of::<TaskState>(), 104);

impl TaskState {
    /// Nothing in it, and no map of ports.
    pub const EMPTY: Self =
        Self { reserved: 0, frame_end: 0, rsp: [0; 2], reserved2: 0, ist: [0; 7], reserved3: [0; 5], io_map: 104 };
}

/// Addresses of the descriptor table and of the task state.
pub fn bases() -> [u64; 2] {
    [&raw const GDT as u64, &raw const super::entry::PER_CPU as u64]
}

/// Fill and load the task state; returns the top of the core's stack.
pub fn load(task: &'static mut TaskState) -> u64 {
    let stack = (&raw const STACKS as u64).wrapping_add(STACK);
    task.ist = [1, 2, 3, 0, 0, 0, 0].map(|number: u64| stack.wrapping_add(number.wrapping_mul(FAULT_STACK)));
    let address = &raw const *task as u64;
    const LIMIT: u64 = size_of::<TaskState>() as u64 - 1;
    let gdt = &raw mut GDT;
    // SAFETY: INV-CPU-LOCAL: nobody else refers to the table, and the processor reads these words only below.
    let [.., low, high] = unsafe { &mut *gdt };
    *low = LIMIT | (address & 0xff_ffff) << 16 | 0x89 << 40 | (address >> 24 & 0xff) << 56;
    *high = address >> 32;
    // SAFETY: INV-CPU-LOCAL, INV-RING0: the task state and its descriptor are complete and static.
    unsafe { asm!("ltr {:x}", in(reg) TASK, options(nostack, preserves_flags)) };
    stack
}

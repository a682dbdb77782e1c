//! The guest's own machine: descriptor tables, trap gates and the scratch area in low memory.

use crate::memory::{peek, poke};
use crate::paging;
use core::arch::{asm, global_asm};
use core::ptr::addr_of;
use core::sync::atomic::AtomicU64;

/// Where the real-mode part of the runner is copied to (written into `run/legacy.s`).
pub const LOW_CODE: u64 = 0x1000;
/// Where code under test stands; identical in every mode.
pub const CODE: u64 = 0x3000;
/// The page after it.
pub const CODE_NEXT: u64 = 0x4000;
/// End of the stack of code under test.
pub const STACK: u64 = 0x5ff0;
/// A page for data of code under test.
pub const DATA: u64 = 0x6000;

/// Selectors. The order is known to `run/*.s`.
pub mod selector {
    /// 64-bit code, ring 0.
    pub const CODE64: u64 = 0x08;
    /// Flat data, ring 0.
    pub const DATA: u64 = 0x10;
    /// 32-bit code, ring 0.
    pub const CODE32: u64 = 0x18;
    /// 32-bit code, ring 3.
    pub const USER_CODE32: u64 = 0x33;
    /// Flat data, ring 3.
    pub const USER_DATA: u64 = 0x3b;
    /// 64-bit code, ring 3.
    pub const USER_CODE64: u64 = 0x43;
    /// The TSS of legacy code.
    pub const OWN_TSS: u64 = 0x58;
    /// A second 32-bit TSS, for task switches.
    pub const OTHER_TSS: u64 = 0x60;
    /// Points past the table: loading it raises #GP with itself as the error code.
    pub const BEYOND: u64 = 0x2f8;
}

/// The descriptor table; the two TSS descriptors are completed by [`init`].
pub(crate) static GDT: [AtomicU64; 14] = [
    AtomicU64::new(0),
    AtomicU64::new(0x00af_9b00_0000_ffff),
    AtomicU64::new(0x00cf_9300_0000_ffff),
    AtomicU64::new(0x00cf_9b00_0000_ffff),
    AtomicU64::new(0x0000_9b00_0000_ffff),
    AtomicU64::new(0x0000_9300_0000_ffff),
    AtomicU64::new(0x00cf_fb00_0000_ffff),
    AtomicU64::new(0x00cf_f300_0000_ffff),
    AtomicU64::new(0x00af_fb00_0000_ffff),
    AtomicU64::new(0),
    AtomicU64::new(0),
    AtomicU64::new(0),
    AtomicU64::new(0),
    AtomicU64::new(0),
];

// Inside `machine_tables`: the long-mode IDT, the two kinds of TSS, the legacy IDT.
const LONG_IDT: u64 = 0;
const TSS64: u64 = 0x1000;
const TSS32: u64 = 0x1100;
const OTHER_TSS32: u64 = 0x1200;
const LEGACY_IDT: u64 = 0x2000;
/// A TSS without an I/O bitmap: its bitmap offset lies beyond its limit.
const TSS_LIMIT: u64 = 0x67;

global_asm!(
    ".section .text.machine, \"ax\"",
    "machine_addresses:",
    ".quad machine_tables, trap_stack_top, legacy_stack_top, traps_long, traps_legacy, low_start, low_end, low_traps",
);

unsafe extern "C" {
    static machine_addresses: [u64; 8];
    static long_idt_pointer: u8;
}

fn address(index: usize) -> u64 {
    // SAFETY: the table is constant and has eight entries, written by the assembly above.
    unsafe { *addr_of!(machine_addresses[index]) }
}

fn descriptor(base: u64, limit: u64) -> u64 {
    limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56
}

fn long_gate(vector: u64, rights: u64) -> (u64, u64) {
    let target = address(3) + vector * 16;
    ((target & 0xffff) | 0x08 << 16 | 1 << 32 | rights << 40 | (target & 0xffff_0000) << 32, target >> 32)
}

fn legacy_gate(vector: u64, rights: u64) -> u64 {
    let target = address(4) + vector * 16;
    (target & 0xffff) | selector::CODE32 << 16 | rights << 40 | (target & 0xffff_0000) << 32
}

/// Gate rights of a present interrupt gate for ring 0.
pub const GATE: u64 = 0x8e;
/// Gate rights of a present interrupt gate that ring 3 may call.
pub const GATE_USER: u64 = 0xee;
/// Gate rights of a gate that is not present.
pub const GATE_ABSENT: u64 = 0x0e;
/// Gate rights of a descriptor type that is not a gate.
pub const GATE_BROKEN: u64 = 0x80;

/// Sets the rights of a vector's gates in the long-mode and the legacy IDT.
pub fn set_gate(vector: u64, rights: u64) {
    let tables = address(0);
    let (low, high) = long_gate(vector, rights);
    poke(tables + LONG_IDT + vector * 16, low);
    poke(tables + LONG_IDT + vector * 16 + 8, high);
    poke(tables + LEGACY_IDT + vector * 8, legacy_gate(vector, rights));
}

/// Has a vector's gate in the legacy IDT switch to a task.
pub fn set_task_gate(vector: u64, task: u64) {
    poke(address(0) + LEGACY_IDT + vector * 8, task << 16 | 0x85 << 40);
}

/// Address of the TSS of legacy code.
pub fn own_tss() -> u64 {
    address(0) + TSS32
}

/// Address of the second TSS.
pub fn other_tss() -> u64 {
    address(0) + OTHER_TSS32
}

/// Address of a descriptor.
pub fn descriptor_at(selector: u64) -> u64 {
    addr_of!(GDT) as u64 + (selector & !7)
}

/// Takes the machine over from the loader: own page tables, descriptor tables, gates and low memory.
pub fn init() {
    // First of all: the loader's tables may lie where the scratch area is.
    paging::init();
    let tables = address(0);
    let (trap_stack, legacy_stack) = (address(1), address(2));
    for slot in 0..7 {
        poke(tables + TSS64 + 36 + slot * 8, trap_stack);
    }
    poke(tables + TSS64 + 4, trap_stack);
    poke(tables + TSS64 + 102, 0x68u16);
    poke(tables + TSS32 + 4, legacy_stack as u32);
    poke(tables + TSS32 + 8, selector::DATA as u32);
    poke(tables + TSS32 + 102, 0x68u16);
    let gdt = addr_of!(GDT) as u64;
    poke(gdt + 0x48, descriptor(tables + TSS64, TSS_LIMIT));
    poke(gdt + 0x50, (tables + TSS64) >> 32);
    poke(gdt + 0x58, descriptor(tables + TSS32, TSS_LIMIT));
    poke(gdt + 0x60, descriptor(tables + OTHER_TSS32, TSS_LIMIT));
    for vector in 0..256 {
        set_gate(vector, if vector == crate::run::END { GATE_USER } else { GATE });
    }
    let (low, low_end, low_traps) = (address(5), address(6), address(7));
    for offset in 0..low_end - low {
        poke(LOW_CODE + offset, peek::<u8>(low + offset));
    }
    for vector in 0..256 {
        poke(vector * 4, (LOW_CODE + (low_traps - low) + vector * 8) as u32);
    }
    let mut pointer = [0u8; 10];
    pointer[..2].copy_from_slice(&(14 * 8 - 1u16).to_le_bytes());
    pointer[2..].copy_from_slice(&gdt.to_le_bytes());
    // SAFETY: the table is static and its descriptors describe flat segments; CS is loaded from it at once.
    unsafe {
        asm!(
            "lgdt [{pointer}]",
            "push 0x08",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ax, 0x10",
            "mov ds, ax",
            "mov es, ax",
            "mov ss, ax",
            "mov ax, 0x48",
            "ltr ax",
            "lidt [{idt}]",
            pointer = in(reg) &pointer,
            idt = in(reg) addr_of!(long_idt_pointer),
            scratch = out(reg) _,
            out("ax") _,
        )
    };
}

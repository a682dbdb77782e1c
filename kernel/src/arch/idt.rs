//! Interrupt descriptor table and the vectors the core uses.
//!
//! INV-IDT: every gate is an interrupt gate into the stubs of [`super::entry`]; NMI, #DF and #MC run on
//! stacks of their own (IST 1 to 3). No gate can be raised by an INT instruction of ring 3.

use super::{entry, gdt};
use core::arch::asm;

/// Vector of the local APIC's timer.
pub const TIMER: u8 = 0x40;
/// First of the 32 vectors of GSIs.
pub const GSI: u8 = 0x50;
/// Last of them.
pub const LAST_GSI: u8 = GSI + 31;
/// Spurious vector of the local APIC.
pub const SPURIOUS: u8 = 0xff;

/// Written once at boot, before it is loaded (INV-IDT).
static mut TABLE: [[u64; 2]; 256] = [[0; 2]; 256];

/// Address of the table.
pub fn base() -> u64 {
    &raw const TABLE as u64
}

/// Fill and load the table.
pub fn load() {
    let table = &raw mut TABLE;
    // SAFETY: INV-IDT: not loaded yet, nobody else refers to it.
    let gates = unsafe { &mut *table };
    for (vector, gate) in (0..=255).zip(gates) {
        let target = entry::stub(vector);
        let ist: u64 = match vector {
            2 => 1,
            8 => 2,
            18 => 3,
            _ => 0,
        };
        let low = target & 0xffff
            | u64::from(gdt::KERNEL_CODE) << 16
            | ist << 32
            | 0x8e << 40
            | (target >> 16 & 0xffff) << 48;
        *gate = [low, target >> 32];
    }
    let base = base();
    let pointer: [u16; 5] = [4095, base as u16, (base >> 16) as u16, (base >> 32) as u16, (base >> 48) as u16];
    // SAFETY: INV-IDT; the table is static and complete.
    unsafe { asm!("lidt [{}]", in(reg) &pointer, options(readonly, nostack, preserves_flags)) };
}

//! The processor and the platform's few devices that the core itself drives: control registers,
//! descriptor tables, entry and exit of ring 3, local APIC, IOAPIC, timer calibration, COM1 for last words.
//! Nothing here decides anything; `unsafe` is at home here.

pub mod apic;
pub mod cpu;
pub mod entry;
pub mod extended;
pub mod gdt;
pub mod idt;
pub mod mitigation;
pub mod time;
pub mod uart;

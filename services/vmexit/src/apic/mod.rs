//! Interrupt controllers of a guest: the local APIC of each vCPU, the IOAPIC, and the way of a message
//! from one to the other. Pure state: no call to the core, no memory, no clock of its own; time is an
//! argument.
//!
//! Not here: how an interrupt gets into the vCPU, the host timer behind a deadline, what INIT and SIPI do
//! to a vCPU, and the decoding of the instruction that touched a register.
//!
//! Sources: Intel SDM volume 3 chapter 11 and AMD APM volume 2 chapter 16 (local APIC, x2APIC), the data
//! sheet of the 82093AA (IOAPIC).

pub mod ioapic;
pub mod lapic;
pub mod message;
pub mod route;

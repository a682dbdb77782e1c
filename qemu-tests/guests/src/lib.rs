//! Small guests that test a hypervisor from the inside: what each exit reason, each form of the VMware
//! port and each mode of the processor does, seen by the guest. They print what they saw on COM1 and
//! need nothing from the hypervisor but a serial port, so they run on any.
//!
//! Lines: `guest NAME: ok WHAT: SEEN`, `guest NAME: FAIL WHAT: SEEN`, `guest NAME: note TEXT`, at the
//! end `guest NAME: done N ok M failed`. Each guest is a flat image, entered in real mode (0x7c00),
//! protected mode or long mode (1 MiB) with EBX/RBX = bytes of guest memory; all climb to long mode
//! and go back down for the tests of their mode.
#![no_std]

pub mod apic;
pub mod code;
mod entry;
pub mod exits;
pub mod fuzz;
pub mod gap;
pub mod machine;
pub mod memory;
pub mod paging;
pub mod port;
pub mod report;
pub mod rpc;
pub mod run;
pub mod task;

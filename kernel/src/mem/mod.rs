//! Memory as the core sees it: pages it may touch, page tables, and the copy windows.
//!
//! The core's half is the first GiB of every address space. In it virtual equals physical for the core's
//! image and for the pages taken at boot (rule R7 lists them); the last 2 MiB hold the fixed maps: local
//! APIC and windows. Nothing here knows what a partition or a VM is.

pub mod page;
pub mod table;
pub mod window;

/// Start of the fixed maps; pages of the core's half lie below.
pub const FIXED_MAPS: u64 = 0x3fe0_0000;
/// Virtual address of the local APIC.
pub const LAPIC: u64 = FIXED_MAPS;

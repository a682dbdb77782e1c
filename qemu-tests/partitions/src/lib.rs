//! What the test partitions share: their messages, how they report, a random generator, and the tables of
//! faults.
//!
//! A test system has one partition that judges. It prints `TEST PASS name` or `TEST FAIL reason` and ends
//! the run through the emulator's exit port. It owns COM1 itself, or prints through `link` in a system
//! that has one.
#![cfg_attr(target_os = "none", no_std)]

#[cfg(target_os = "none")]
extern crate alloc;

pub mod leases;
pub mod orders;
pub mod proto;
pub mod random;
pub mod secret;

#[cfg(target_os = "none")]
pub mod bad_rounds;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod faults;
#[cfg(target_os = "none")]
pub mod guest_state;
#[cfg(target_os = "none")]
pub mod ledger;
#[cfg(target_os = "none")]
pub mod refused_state;
#[cfg(target_os = "none")]
pub mod vcpu;
#[cfg(target_os = "none")]
pub mod vm_faults;
#[cfg(target_os = "none")]
pub mod words;

/// Main of a test partition's binary on the host, where it cannot run.
#[cfg(not(target_os = "none"))]
pub fn not_here() {
    eprintln!("a test partition of Portcullis: run `cargo xtask test`");
}

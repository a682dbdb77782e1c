//! Shares of the processor: a spinner, a vmexit that works long on each exit, callers, and a server that counts them.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[path = "share/metal.rs"]
mod metal;

#[cfg(not(target_os = "none"))]
fn main() {
    portcullis_test_partitions::not_here();
}

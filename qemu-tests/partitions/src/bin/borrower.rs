//! The borrower of the lease test: does with leases what it is told.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[path = "borrower/metal.rs"]
mod metal;

#[cfg(not(target_os = "none"))]
fn main() {
    portcullis_test_partitions::not_here();
}

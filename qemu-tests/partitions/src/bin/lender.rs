//! The lender of the lease test: lends its memory in every way and judges what came of it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[path = "lender/metal.rs"]
mod metal;

#[cfg(not(target_os = "none"))]
fn main() {
    portcullis_test_partitions::not_here();
}

//! Computes on its own account, so that it is what runs when nobody else has anything to do or to pay with.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[path = "bystander/metal.rs"]
mod metal;

#[cfg(not(target_os = "none"))]
fn main() {
    portcullis_test_partitions::not_here();
}

//! Kills one service again and again, at a steady pace.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[path = "killer/metal.rs"]
mod metal;

#[cfg(not(target_os = "none"))]
fn main() {
    portcullis_test_partitions::not_here();
}

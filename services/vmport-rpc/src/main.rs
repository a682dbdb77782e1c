//! `vmport-rpc`: answers VMware's port for one VM. On start it fills the VM's answer table, from which
//! the core serves the frequent commands; all other commands reach it as calls.
//!
//! Message channels (command MESSAGE) are not served yet: every operation fails in the way that the
//! protocol defines, and clients take the machine for one without channels.
//!
//! Capabilities: the VM `vm` with the right `answer`. Configuration: `hardware-version`, the version of
//! the virtual hardware that GETHWVERSION returns (13). The service keeps no state: each answer follows
//! from the call alone, so a repeated call is harmless.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(test, allow(clippy::type_complexity, reason = "tables of cases"))]
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "used by the bare-metal part"))]

mod commands;

#[cfg(target_os = "none")]
mod desk;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("vmport-rpc is a partition of Portcullis: build an image with `cargo xtask build`");
}

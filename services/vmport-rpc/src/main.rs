//! `vmport-rpc`: answers VMware's port for one VM. On start it fills the VM's answer table, from which
//! the core serves the frequent commands; all other commands reach it as calls. It holds the message
//! channels, answers the requests that come in by them, keeps guestinfo, and commands the guest's tools.
//!
//! Capabilities: the VM `vm` with the right `answer`; the timer `sweep`, without which idle channels stay
//! open. Callers: the core for port 0x5658, `vmexit` for strings at 0x5659 and for resets of the machine.
//!
//! Configuration: `vm.hardware`, the version of the virtual hardware that GETHWVERSION returns (from the VM's table, 13);
//! `guestinfo.keys`, the number of keys a VM may have (512). Blob: `guestinfo`, what the VM starts with.
//!
//! All memory for messages and values is the partition's state region, whose size stands in the manifest;
//! without one no channel can be opened. At its end the guest sees a failed SENDSIZE or an RPC error.
//! Everything durable is changed in place and at once ([`store`]): a restart costs a look at the heads of
//! what is there, and a call given again is answered from the record of its vCPU.
//!
//! What does not live here: text that only the guest's programs read, and walks of guest memory (`vmexit`).
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(test, allow(clippy::type_complexity, reason = "tables of cases"))]
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "used by the bare-metal part"))]

mod channel;
mod channels;
mod clock;
mod commands;
mod cookie;
mod dispatch;
mod guestinfo;
mod high;
mod layout;
mod notes;
mod pool;
mod preset;
mod record;
mod rpci;
mod store;
mod sweep;
mod tclo;
mod text;
mod told;

#[cfg(test)]
mod tests;

#[cfg(target_os = "none")]
mod desk;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("vmport-rpc is a partition of Portcullis: build an image with `cargo xtask build`");
}

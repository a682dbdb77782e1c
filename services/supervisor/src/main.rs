//! `supervisor`: restarts partitions that ended. It only receives: it calls nobody and parses no input
//! but its own configuration.
//!
//! Every notification makes it look at the status of every partition it controls, so a lost, merged or
//! early notification does no harm, and a supervisor that was itself restarted finds what happened
//! meanwhile.
//!
//! Capabilities: every partition capability of the manifest is a child, whatever its name; the timer
//! `backoff`. Configuration, times in microseconds: `restart.base` (10,000), `restart.cap` (5,000,000),
//! `restart.stable` (10,000,000), `restart.give-up` (restarts in a row; 0, the default, means never).
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "used by the bare-metal part"))]

mod policy;

#[cfg(target_os = "none")]
mod watch;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("supervisor is a partition of Portcullis: build an image with `cargo xtask build`");
}

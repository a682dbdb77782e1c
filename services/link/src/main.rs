//! `link`: owns both serial lines. COM2 carries frames (log records, consoles, control requests and
//! replies); COM1 carries console 0 as plain text, after the core's early lines.
//!
//! What a console wrote and the line has not yet taken lives in the state region, so that an instance
//! that is killed loses nothing that it acknowledged. The log frame on its way lies there too: what is
//! lost with an instance are the records it took from the core's ring and had not yet put there, and the
//! gap in their sequence says so. A frame that is sent again has the same sequence as before.
//!
//! Capabilities: ports `com1`, `com2` (8 each); interrupts `com1-irq`, `com2-irq`; timer `tick`; log
//! `log`; notifications `console-0` to `console-7`, each to the `vmexit` that wants to hear of input.
//! What the manifest does not grant is not used; only `tick` is necessary. The badge of a caller's
//! endpoint names its console. Configuration: `tick-us`, microseconds between two looks at the log
//! (10,000). It needs 16 KiB of stack, 32 KiB of heap and a state region of 5 pages or more.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "used by the bare-metal part"))]

extern crate alloc;

mod console;
mod control;
mod events;
mod frame;
mod input;
mod saved;
mod spill;
mod uart;

#[cfg(target_os = "none")]
mod hub;
#[cfg(target_os = "none")]
mod lines;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("link is a partition of Portcullis: build an image with `cargo xtask build`");
}

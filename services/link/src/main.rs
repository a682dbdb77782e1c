//! `link`: owns both serial lines. COM2 carries frames (log records, consoles, control requests and
//! replies); COM1 carries console 0 as plain text, after the core's early lines.
//!
//! What a console wrote and a line has not yet taken, what its guest has not yet read, and what became of its
//! VM lives in the state region, so that an instance that is killed loses nothing that it acknowledged. Log
//! records stay in the core's ring until COM2 has them. A frame that is sent again has the same sequence as
//! before, and a byte on COM1 carries a mark by which the next instance knows that it left.
//!
//! `link` also tells the system the time of day, once, from the host's CMOS clock.
//!
//! Capabilities: ports `com1`, `com2` (8 each) and `rtc` (0x70, 0x71); interrupts `com1-irq`, `com2-irq`; timer
//! `tick`; log `log`; the clock `clock`; notifications `console-0` to `console-7`, each to the `vmexit` that wants to hear of input.
//! What the manifest does not grant is not used; only `tick` is necessary. The badge of a caller's
//! endpoint names its console. Configuration: `tick-us`, microseconds between two looks at the log
//! (10,000). It needs 16 KiB of stack, 32 KiB of heap and a state region of 4 pages.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "used by the bare-metal part"))]

extern crate alloc;

mod console;
mod control;
mod events;
mod frame;
mod input;
mod records;
mod rtc;
mod saved;
mod turns;
mod uart;

#[cfg(target_os = "none")]
mod hub;
#[cfg(target_os = "none")]
mod lines;
#[cfg(target_os = "none")]
mod wall;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("link is a partition of Portcullis: build an image with `cargo xtask build`");
}

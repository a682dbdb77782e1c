//! The end of the core: last words on COM1 and in the ring's head, the undrained log as it is on COM2, a reset.

use crate::arch::uart::{COM2, Line};
use crate::arch::{cpu, uart};
use crate::log;
use arrayvec::ArrayString;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use portcullis_ipc::log::{EPITAPH, LAST_RECORDS};

/// A stop has begun: a fault in the middle of it must not begin another.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Stop the core for good: say why, write out the log, reset the machine.
pub fn stop(reason: fmt::Arguments) -> ! {
    if STOPPED.swap(true, Ordering::Relaxed) {
        cpu::reset();
    }
    uart::say(format_args!("stop: {reason}"));
    let mut text = ArrayString::<EPITAPH>::new();
    let _ = write!(text, "{reason}");
    // Whoever held the ring will not go on.
    // SAFETY: the core is on one CPU and does not return to the holder.
    unsafe { log::RING.force_unlock() };
    let mut ring = log::RING.lock();
    ring.head.epitaph_length = text.len() as u64;
    ring.head.epitaph.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    let length = ring.used() as u64;
    for byte in LAST_RECORDS.into_iter().chain(length.to_le_bytes()).chain(ring.rest(0)) {
        if !Line(COM2).byte(byte) {
            break;
        }
    }
    uart::say(format_args!("stop: log written, reset"));
    cpu::reset()
}

/// An exception in ring 0, a double fault or a machine check.
pub extern "sysv64" fn trap(vector: u64, error: u64, rip: u64) -> ! {
    stop(format_args!("trap {vector} in the core, error {error:#x}, at {rip:#x}, address {:#x}", cpu::cr2()))
}

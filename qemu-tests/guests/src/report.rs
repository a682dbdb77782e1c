//! What a guest says: lines on COM1, a count of checks, and the end of the run.

use crate::memory::{inb, outb};
use core::fmt::{self, Write};

/// First port of COM1.
const COM1: u16 = 0x3f8;
/// Port of QEMU's debug exit; elsewhere nothing answers there.
const DEBUG_EXIT: u16 = 0xf4;
/// How often the transmitter is asked before a byte is sent all the same.
const POLLS: u32 = 1_000_000;

/// COM1 as a text sink.
pub struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            for _ in 0..POLLS {
                if inb(COM1 + 5) & 0x20 != 0 {
                    break;
                }
            }
            outb(COM1, byte);
        }
        Ok(())
    }
}

/// Prints one line.
pub fn line(text: fmt::Arguments<'_>) {
    // A serial line has no way to fail.
    let _ = Serial.write_fmt(text);
    let _ = Serial.write_str("\n");
}

/// The running report of one guest.
pub struct Report {
    name: &'static str,
    ok: u32,
    failed: u32,
}

impl Report {
    /// Starts the report of guest `name`.
    pub const fn new(name: &'static str) -> Self {
        Self { name, ok: 0, failed: 0 }
    }

    /// Counts a check and prints it; `seen` says what the guest saw.
    pub fn check(&mut self, pass: bool, what: &str, seen: fmt::Arguments<'_>) {
        if pass {
            self.ok += 1;
            line(format_args!("guest {}: ok {what}: {seen}", self.name));
        } else {
            self.failed += 1;
            line(format_args!("guest {}: FAIL {what}: {seen}", self.name));
        }
    }

    /// Prints something that is not a check.
    pub fn note(&self, text: fmt::Arguments<'_>) {
        line(format_args!("guest {}: note {text}", self.name));
    }

    /// Prints the last line and stops: by the debug exit where there is one, else with HLT and interrupts off.
    pub fn done(&self) -> ! {
        line(format_args!("guest {}: done {} ok {} failed", self.name, self.ok, self.failed));
        outb(DEBUG_EXIT, if self.failed == 0 { 0x10 } else { 0x11 });
        halt()
    }
}

/// Stops for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off nothing runs after HLT but this loop.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Called for a trap that no test asked for.
pub(crate) extern "C" fn unexpected(vector: u64, error: u64, rip: u64) -> ! {
    line(format_args!("guest: FAIL unexpected vector {vector} error {error:#x} rip {rip:#x}"));
    line(format_args!("guest: done 0 ok 1 failed"));
    outb(DEBUG_EXIT, 0x11);
    halt()
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    line(format_args!("guest: FAIL {info}"));
    line(format_args!("guest: done 0 ok 1 failed"));
    outb(DEBUG_EXIT, 0x11);
    halt()
}

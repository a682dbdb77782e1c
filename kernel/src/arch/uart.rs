//! COM1 for the core's early and last lines, polled, 115200 baud. After boot the port belongs to `link`;
//! the core writes again only when it stops.

use super::cpu;
use core::fmt::{self, Write};

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// First port of COM2.
pub const COM2: u16 = 0x2f8;

/// A line to write text or bytes to.
pub struct Line(pub u16);

impl Line {
    fn out(&self, offset: u16, value: u8) {
        // SAFETY: the UART belongs to the core before boot ends and after the core stopped.
        unsafe { cpu::port_out(self.0.wrapping_add(offset), 1, value.into()) };
    }

    /// 8 data bits, no parity, one stop bit, FIFOs on, no interrupts.
    pub fn init(&self) {
        for (offset, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 0xc7), (4, 0x0b)] {
            self.out(offset, value);
        }
    }

    /// Send one byte; `false` on a line that never gets ready.
    pub fn byte(&self, byte: u8) -> bool {
        // SAFETY: as in `out`; reading the line status has no effect.
        let ready = (0..100_000u32).any(|_| unsafe { cpu::port_in(self.0.wrapping_add(5), 1) } & 0x20 != 0);
        if ready {
            self.out(0, byte);
        }
        ready
    }
}

impl Write for Line {
    /// Gives a line up that does not take a byte.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let sent = text.bytes().all(|byte| (byte != b'\n' || self.byte(b'\r')) && self.byte(byte));
        if sent { Ok(()) } else { Err(fmt::Error) }
    }
}

/// A text in a line, as it is: without what the language's own formatting of texts takes.
pub struct Text<'a>(pub &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Write one line on COM1, with the core's name in front.
pub fn say(text: fmt::Arguments) {
    let _ = writeln!(Line(COM1), "portcullis: {text}");
}

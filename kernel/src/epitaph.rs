//! The end of the core: last words on COM1 and in the ring's head, the undrained log on COM2, a reset.

use crate::arch::uart::{COM2, Line};
use crate::arch::{cpu, uart};
use crate::log;
use core::fmt::{self, Write};
use portcullis_ipc::checksum::crc32;
use portcullis_ipc::frame::{Head, channel};
use portcullis_ipc::limits;
use portcullis_ipc::log::RingHead;
use zerocopy::IntoBytes;

struct Text<'a>(&'a mut RingHead);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if let Some(place) = self.0.epitaph.get_mut(self.0.epitaph_length as usize) {
                *place = byte;
                self.0.epitaph_length = self.0.epitaph_length.wrapping_add(1);
            }
        }
        Ok(())
    }
}

/// Stop the core for good: say why, write out the log, reset the machine.
pub fn stop(reason: fmt::Arguments) -> ! {
    uart::say(format_args!("stop: {reason}"));
    // Whoever held the ring will not go on.
    // SAFETY: the core is on one CPU and does not return to the holder.
    unsafe { log::RING.force_unlock() };
    let _ = write!(Text(&mut log::RING.lock().head), "{reason}");
    let line = Line(COM2);
    line.byte(0);
    let mut records = [0u8; limits::LOG_READ];
    let mut sequence = 1u32 << 31;
    let mut below = 0;
    loop {
        let (length, next) = log::take(below, &mut records);
        if length == 0 {
            break;
        }
        below = next;
        frame(&line, sequence, records.get(..length).unwrap_or(&[]));
        sequence = sequence.wrapping_add(1);
    }
    uart::say(format_args!("stop: log written, reset"));
    cpu::reset()
}

/// Send one frame of the log channel: COBS, zero at the end. Sequences from 2^31 on mark the core's own.
fn frame(line: &Line, sequence: u32, payload: &[u8]) {
    let head = Head { channel: channel::LOG, version: 1, length: payload.len() as u16, sequence };
    let checksum = crc32(crc32(0, head.as_bytes()), payload).to_le_bytes();
    let mut bytes = head.as_bytes().iter().chain(payload).chain(&checksum).copied();
    let mut block = [0u8; 254];
    loop {
        let mut length = 0usize;
        let ended = loop {
            match bytes.next() {
                None => break true,
                Some(0) => break false,
                Some(byte) => {
                    if let Some(place) = block.get_mut(length) {
                        *place = byte;
                    }
                    length = length.wrapping_add(1);
                    if length == 254 {
                        break false;
                    }
                }
            }
        };
        line.byte(length.wrapping_add(1) as u8);
        for byte in block.iter().take(length) {
            line.byte(*byte);
        }
        if ended {
            break;
        }
    }
    line.byte(0);
}

/// An exception in ring 0, a double fault or a machine check.
pub fn trap(vector: u64, error: u64, rip: u64) -> ! {
    stop(format_args!("trap {vector} in the core, error {error:#x}, at {rip:#x}, address {:#x}", cpu::cr2()))
}

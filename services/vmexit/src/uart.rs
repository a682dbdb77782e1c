//! The guest's 16550 at COM1: registers, transmit buffer, receive FIFO. It raises no interrupt: there is
//! no interrupt controller yet, and the interrupt identification says "none pending".
//!
//! What the guest wrote leaves in numbered messages. A message is fixed before it is sent, so that it
//! can be sent again after a restart as the same message.

use arrayvec::ArrayVec;
use portcullis_ipc::proto::link::CONSOLE_BYTES;

/// First port.
pub const FIRST: u16 = 0x3f8;
/// Ports.
pub const COUNT: u16 = 8;
/// Bytes of the receive FIFO.
pub const RECEIVE: usize = 16;

const DIVISOR_ACCESS: u8 = 1 << 7;
const LOOPBACK: u8 = 1 << 4;
const FIFO_ENABLE: u8 = 1;
const FIFO_CLEAR_RECEIVE: u8 = 2;

/// The device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uart {
    /// Interrupt enable.
    pub interrupts: u8,
    /// Line control.
    pub line: u8,
    /// Modem control.
    pub modem: u8,
    /// Scratch.
    pub scratch: u8,
    /// Divisor, low and high byte.
    pub divisor: [u8; 2],
    /// FIFO control, bit 0.
    pub fifo: u8,
    /// Bytes for the guest.
    pub receive: ArrayVec<u8, RECEIVE>,
    /// Bytes from the guest.
    pub transmit: ArrayVec<u8, CONSOLE_BYTES>,
    /// Bytes of `transmit` that are the message being sent; 0: none.
    pub sending: u8,
    /// Sequence of the last message that was taken.
    pub sequence: u64,
    /// Bytes of console input that the receiver ever took.
    pub received: u64,
}

impl Uart {
    /// Reads register `offset`; the second value says whether that changed the device.
    pub fn read(&mut self, offset: u16) -> (u8, bool) {
        let divisor = self.line & DIVISOR_ACCESS != 0;
        let value = match offset {
            0 if divisor => self.divisor[0],
            0 => {
                return self.receive.pop_at(0).map_or((0, false), |byte| (byte, true));
            }
            1 if divisor => self.divisor[1],
            1 => self.interrupts,
            2 => 1 | if self.fifo & FIFO_ENABLE != 0 { 0xc0 } else { 0 },
            3 => self.line,
            4 => self.modem,
            5 => {
                let room = if self.transmit.is_full() { 0 } else { 0x60 };
                room | u8::from(!self.receive.is_empty())
            }
            6 if self.modem & LOOPBACK != 0 => (self.modem & 2) << 3 | (self.modem & 1) << 5 | (self.modem & 0xc) << 4,
            // Carrier, data set ready, clear to send.
            6 => 0xb0,
            _ => self.scratch,
        };
        (value, false)
    }

    /// Writes register `offset`. A byte that finds the transmitter full is lost, as on a real line.
    pub fn write(&mut self, offset: u16, value: u8) {
        let divisor = self.line & DIVISOR_ACCESS != 0;
        match offset {
            0 if divisor => self.divisor[0] = value,
            0 if self.modem & LOOPBACK != 0 => {
                let _ = self.receive.try_push(value);
            }
            0 => {
                let _ = self.transmit.try_push(value);
            }
            1 if divisor => self.divisor[1] = value,
            1 => self.interrupts = value & 0xf,
            2 => {
                self.fifo = value & FIFO_ENABLE;
                if value & FIFO_CLEAR_RECEIVE != 0 {
                    self.receive.clear();
                }
            }
            3 => self.line = value,
            4 => self.modem = value & 0x1f,
            7 => self.scratch = value,
            _ => {}
        }
    }

    /// The transmitter holds a line or can hold no more.
    pub fn wants_flush(&self) -> bool {
        self.transmit.is_full() || self.transmit.last() == Some(&b'\n')
    }

    /// Fixes the next message; `false` when one is fixed already or there is nothing to send.
    pub fn fix_message(&mut self) -> bool {
        let fresh = self.sending == 0 && !self.transmit.is_empty();
        if fresh {
            self.sending = self.transmit.len() as u8;
        }
        fresh
    }

    /// The fixed message and its sequence.
    pub fn message(&self) -> Option<(u64, &[u8])> {
        let bytes = self.transmit.get(..self.sending.into())?;
        (!bytes.is_empty()).then_some((self.sequence + 1, bytes))
    }

    /// The fixed message was taken.
    pub fn message_taken(&mut self) {
        let count = usize::from(core::mem::take(&mut self.sending)).min(self.transmit.len());
        self.transmit.drain(..count);
        self.sequence += 1;
    }

    /// Puts the registers into their reset state; what the guest wrote before is still sent.
    pub fn reset(&mut self) {
        let Self { transmit, sending, sequence, received, .. } = core::mem::take(self);
        *self = Self { transmit, sending, sequence, received, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_read_back_and_the_divisor_hides_behind_its_bit() {
        let mut uart = Uart::default();
        for (offset, value) in [(1, 5), (3, 3), (4, 0xb), (7, 0x5a)] {
            uart.write(offset, value);
            assert_eq!(uart.read(offset), (value, false), "{offset}");
        }
        uart.write(3, 0x83);
        uart.write(0, 1);
        uart.write(1, 2);
        assert_eq!((uart.read(0).0, uart.read(1).0), (1, 2));
        uart.write(3, 3);
        assert_eq!((uart.read(1).0, uart.transmit.len()), (5, 0));
    }

    #[test]
    fn a_full_transmitter_says_so_and_loses_what_comes() {
        let mut uart = Uart::default();
        for _ in 0..CONSOLE_BYTES {
            assert_eq!(uart.read(5).0, 0x60);
            uart.write(0, b'x');
        }
        assert_eq!(uart.read(5).0, 0);
        assert!(uart.wants_flush());
        uart.write(0, b'y');
        assert_eq!(uart.transmit.last(), Some(&b'x'));
    }

    #[test]
    fn a_message_stays_the_same_until_it_is_taken() {
        let mut uart = Uart::default();
        assert!(!uart.fix_message());
        b"ab\n".iter().for_each(|&byte| uart.write(0, byte));
        assert!(uart.fix_message());
        uart.write(0, b'c');
        assert!(!uart.fix_message());
        assert_eq!(uart.message(), Some((1, &b"ab\n"[..])));
        uart.message_taken();
        assert_eq!(uart.message(), None);
        assert!(uart.fix_message());
        assert_eq!(uart.message(), Some((2, &b"c"[..])));
    }

    #[test]
    fn received_bytes_come_out_in_order_and_reading_one_is_an_effect() {
        let mut uart = Uart::default();
        uart.receive.extend(*b"hi");
        assert_eq!(uart.read(5).0 & 1, 1);
        assert_eq!([uart.read(0), uart.read(0), uart.read(0)], [(b'h', true), (b'i', true), (0, false)]);
    }

    /// The probe of Linux' 8250 driver.
    #[test]
    fn loopback_mirrors_the_modem_lines_and_the_data() {
        let mut uart = Uart::default();
        uart.write(4, 0x1a);
        assert_eq!(uart.read(6).0 & 0xf0, 0x90);
        uart.write(0, 0x42);
        assert_eq!(uart.read(0), (0x42, true));
        assert!(uart.transmit.is_empty());
    }

    #[test]
    fn a_reset_keeps_what_was_written() {
        let mut uart = Uart::default();
        uart.write(7, 1);
        uart.write(0, b'a');
        uart.fix_message();
        uart.reset();
        assert_eq!((uart.read(7).0, uart.message()), (0, Some((1, &b"a"[..]))));
    }
}

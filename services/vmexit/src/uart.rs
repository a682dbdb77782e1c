//! The guest's 16550A at COM1: registers, transmit buffer, receive FIFO, interrupt conditions. Where its
//! interrupt line leads is not known here.
//!
//! What the guest wrote leaves in numbered messages. A message is fixed before it is sent, so that it
//! can be sent again after a restart as the same message. A character takes no time: the transmitter is
//! empty again at once while the buffer has room, and the time-out of the receiver has always passed.

use portcullis_ipc::proto::link::CONSOLE_BYTES;
use postcard_schema::Schema;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First port.
pub const FIRST: u16 = 0x3f8;
/// Port after the last.
pub const END: u16 = FIRST + 8;
/// Bytes of the receive FIFO.
pub const RECEIVE: usize = 16;

/// Interrupt enable: received data, transmitter empty, line status, modem status.
mod enable {
    pub const RECEIVED: u8 = 1;
    pub const TRANSMIT: u8 = 2;
    pub const LINE: u8 = 4;
    pub const MODEM: u8 = 8;
}

/// Interrupt identification, by priority.
mod identity {
    pub const NONE: u8 = 1;
    pub const LINE: u8 = 6;
    pub const RECEIVED: u8 = 4;
    pub const TIMEOUT: u8 = 0xc;
    pub const TRANSMIT: u8 = 2;
    pub const MODEM: u8 = 0;
    /// FIFOs are on.
    pub const FIFO: u8 = 0xc0;
}

const DIVISOR_ACCESS: u8 = 1 << 7;
const LOOPBACK: u8 = 1 << 4;
/// Modem control: the interrupt line is connected.
const OUT2: u8 = 1 << 3;
const FIFO_ENABLE: u8 = 1;
const FIFO_CLEAR_RECEIVE: u8 = 2;
/// Line status.
const DATA_READY: u8 = 1;
const OVERRUN: u8 = 2;
const EMPTY: u8 = 0x60;
/// Modem status: carrier, data set ready, clear to send.
const CONNECTED: u8 = 0xb0;

/// The device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Schema)]
#[repr(C)]
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
    /// FIFO control: bit 0, and the trigger level in bits 6-7.
    pub fifo: u8,
    /// 1: the transmitter became empty and the guest was not told.
    pub emptied: u8,
    /// Changed modem lines, as in the modem status.
    pub delta: u8,
    /// Line status errors that were not read.
    pub errors: u8,
    /// Bytes of `receive`.
    pub waiting: u8,
    /// Bytes of `transmit`.
    pub written: u8,
    /// Bytes of `transmit` that are the message being sent; 0: none.
    pub sending: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// Sequence of the last message that was taken.
    pub sequence: u64,
    /// Bytes of console input that the receiver ever took.
    pub received: u64,
    /// Bytes for the guest.
    pub receive: [u8; RECEIVE],
    /// Bytes from the guest.
    pub transmit: [u8; CONSOLE_BYTES],
}

/// Whether an access of `width` bytes at `port` touches it.
pub fn touches(port: u16, width: u32) -> bool {
    u32::from(port) + width > u32::from(FIRST) && port < END
}

impl Default for Uart {
    fn default() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }
}

impl Uart {
    /// Reads register `offset`.
    pub fn read(&mut self, offset: u16) -> u8 {
        let divisor = self.line & DIVISOR_ACCESS != 0;
        match offset {
            0 if divisor => self.divisor[0],
            0 => self.take_received(),
            1 if divisor => self.divisor[1],
            1 => self.interrupts,
            2 => {
                let cause = self.cause();
                if cause == identity::TRANSMIT {
                    self.emptied = 0;
                }
                cause | if self.fifo & FIFO_ENABLE != 0 { identity::FIFO } else { 0 }
            }
            3 => self.line,
            4 => self.modem,
            5 => {
                let room = if self.is_full() { 0 } else { EMPTY };
                let ready = if self.waiting > 0 { DATA_READY } else { 0 };
                room | ready | core::mem::take(&mut self.errors)
            }
            6 => self.modem_lines() | core::mem::take(&mut self.delta),
            _ => self.scratch,
        }
    }

    /// Writes register `offset`. A byte that finds the transmitter full is lost, as on a real line.
    pub fn write(&mut self, offset: u16, value: u8) {
        let divisor = self.line & DIVISOR_ACCESS != 0;
        match offset {
            0 if divisor => self.divisor[0] = value,
            0 if self.modem & LOOPBACK != 0 => {
                if self.give(&[value]) == 0 {
                    self.errors |= OVERRUN;
                }
                self.emptied = 1;
            }
            0 => {
                if let Some(place) = self.transmit.get_mut(usize::from(self.written)) {
                    *place = value;
                    self.written += 1;
                }
                self.emptied = u8::from(!self.is_full());
            }
            1 if divisor => self.divisor[1] = value,
            1 => {
                // A transmitter that is empty says so when it is asked to.
                if value & !self.interrupts & enable::TRANSMIT != 0 && !self.is_full() {
                    self.emptied = 1;
                }
                self.interrupts = value & 0xf;
            }
            2 => {
                // The other bits count only while bit 0 is set.
                self.fifo = if value & FIFO_ENABLE != 0 { value & 0xc1 } else { 0 };
                if value & FIFO_CLEAR_RECEIVE != 0 {
                    self.waiting = 0;
                }
            }
            3 => self.line = value,
            4 => {
                let before = self.modem_lines();
                self.modem = value & 0x1f;
                let after = self.modem_lines();
                // The ring line tells only its end.
                let changed = (before ^ after) & 0xb0 | before & !after & 0x40;
                self.delta |= changed >> 4;
            }
            7 => self.scratch = value,
            _ => {}
        }
    }

    /// Whether the interrupt line is high.
    pub fn interrupt(&self) -> bool {
        self.modem & (OUT2 | LOOPBACK) == OUT2 && self.cause() != identity::NONE
    }

    /// The most urgent condition that the guest enabled.
    fn cause(&self) -> u8 {
        let enabled = |bit: u8| self.interrupts & bit != 0;
        if enabled(enable::LINE) && self.errors != 0 {
            identity::LINE
        } else if enabled(enable::RECEIVED) && self.waiting > 0 {
            if self.waiting >= self.trigger() { identity::RECEIVED } else { identity::TIMEOUT }
        } else if enabled(enable::TRANSMIT) && self.emptied != 0 {
            identity::TRANSMIT
        } else if enabled(enable::MODEM) && self.delta != 0 {
            identity::MODEM
        } else {
            identity::NONE
        }
    }

    fn trigger(&self) -> u8 {
        match self.fifo >> 6 {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    fn modem_lines(&self) -> u8 {
        if self.modem & LOOPBACK == 0 {
            return CONNECTED;
        }
        (self.modem & 2) << 3 | (self.modem & 1) << 5 | (self.modem & 0xc) << 4
    }

    fn take_received(&mut self) -> u8 {
        let [first, rest @ ..] = self.receive;
        if self.waiting == 0 {
            return 0;
        }
        self.waiting -= 1;
        let [places @ .., last] = &mut self.receive;
        (*places, *last) = (rest, 0);
        first
    }

    /// Bytes that the receiver can take.
    pub fn room(&self) -> usize {
        RECEIVE.saturating_sub(self.waiting.into())
    }

    /// Puts bytes into the receiver; how many found room.
    pub fn give(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        for (place, byte) in self.receive.iter_mut().skip(self.waiting.into()).zip(bytes) {
            *place = *byte;
        }
        self.waiting += taken as u8;
        taken
    }

    /// The transmitter can hold no more.
    pub fn is_full(&self) -> bool {
        usize::from(self.written) >= CONSOLE_BYTES
    }

    /// What the guest wrote and is not yet sent.
    pub fn unsent(&self) -> &[u8] {
        self.transmit.get(..self.written.into()).unwrap_or(&self.transmit)
    }

    /// The transmitter holds a line or can hold no more.
    pub fn wants_flush(&self) -> bool {
        self.is_full() || self.unsent().last() == Some(&b'\n')
    }

    /// Fixes the next message; `false` when one is fixed already or there is nothing to send.
    pub fn fix_message(&mut self) -> bool {
        let fresh = self.sending == 0 && self.written > 0;
        if fresh {
            self.sending = self.written;
        }
        fresh
    }

    /// The fixed message and its sequence.
    pub fn message(&self) -> Option<(u64, &[u8])> {
        let bytes = self.unsent().get(..self.sending.into())?;
        (!bytes.is_empty()).then_some((self.sequence + 1, bytes))
    }

    /// The fixed message was taken.
    pub fn message_taken(&mut self) {
        if self.is_full() {
            self.emptied = 1;
        }
        let written = usize::from(self.written).min(CONSOLE_BYTES);
        let sent = usize::from(core::mem::take(&mut self.sending)).min(written);
        self.transmit.copy_within(sent..written, 0);
        self.written = (written - sent) as u8;
        self.sequence += 1;
    }

    /// Puts the registers into their reset state; what the guest wrote before is still sent.
    pub fn reset(&mut self) {
        let Self { transmit, written, sending, sequence, received, .. } = *self;
        *self = Self { transmit, written, sending, sequence, received, ..Self::default() };
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
            assert_eq!(uart.read(offset), value, "{offset}");
        }
        uart.write(3, 0x83);
        uart.write(0, 1);
        uart.write(1, 2);
        assert_eq!((uart.read(0), uart.read(1)), (1, 2));
        uart.write(3, 3);
        assert_eq!((uart.read(1), uart.written), (5, 0));
    }

    #[test]
    fn a_full_transmitter_says_so_and_loses_what_comes() {
        let mut uart = Uart::default();
        for _ in 0..CONSOLE_BYTES {
            assert_eq!(uart.read(5), 0x60);
            uart.write(0, b'x');
        }
        assert_eq!(uart.read(5), 0);
        assert!(uart.wants_flush());
        uart.write(0, b'y');
        assert_eq!(uart.unsent().last(), Some(&b'x'));
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
    fn received_bytes_come_out_in_order() {
        let mut uart = Uart::default();
        assert_eq!(uart.give(b"hi"), 2);
        assert_eq!(uart.read(5) & 1, 1);
        assert_eq!([uart.read(0), uart.read(0), uart.read(0)], [b'h', b'i', 0]);
        assert_eq!((uart.give(&[b'x'; 20]), uart.give(b"y"), uart.room()), (16, 0, 0));
    }

    /// The probe of Linux' 8250 driver.
    #[test]
    fn loopback_mirrors_the_modem_lines_and_the_data() {
        let mut uart = Uart::default();
        uart.write(4, 0x1a);
        assert_eq!(uart.read(6) & 0xf0, 0x90);
        uart.write(0, 0x42);
        assert_eq!((uart.read(0), uart.written), (0x42, 0));
    }

    #[test]
    fn a_reset_keeps_what_was_written() {
        let mut uart = Uart::default();
        uart.write(7, 1);
        uart.write(0, b'a');
        uart.fix_message();
        uart.reset();
        assert_eq!((uart.read(7), uart.message()), (0, Some((1, &b"a"[..]))));
    }

    /// Steps: a write `w`, a read `r` with what it brings, input `i`, and the line after it.
    enum Step {
        W(u16, u8),
        R(u16, u8),
        I(&'static [u8]),
        /// The transmitter's message is taken.
        Taken,
    }
    use Step::{I, R, Taken, W};

    fn drive(name: &str, steps: &[(Step, bool)]) {
        let mut uart = Uart::default();
        uart.write(4, 0x0b);
        for (number, (step, line)) in steps.iter().enumerate() {
            match *step {
                W(offset, value) => uart.write(offset, value),
                R(offset, value) => assert_eq!(uart.read(offset), value, "{name}: step {number}"),
                I(bytes) => assert_eq!(uart.give(bytes), bytes.len()),
                Taken => {
                    uart.fix_message();
                    uart.message_taken();
                }
            }
            assert_eq!(uart.interrupt(), *line, "{name}: step {number}");
        }
    }

    #[test]
    fn the_interrupt_line_follows_the_conditions_that_the_guest_enabled() {
        drive(
            "transmitter",
            &[
                (W(0, b'a'), false),
                (R(2, 0x01), false),
                // Enabling it while the transmitter is empty is an interrupt at once.
                (W(1, 2), true),
                (R(2, 0x02), false),
                (R(2, 0x01), false),
                (W(0, b'b'), true),
                (W(1, 0), false),
                (W(1, 2), true),
                (R(2, 0x02), false),
            ],
        );
        drive(
            "receiver without FIFO",
            &[(I(b"x"), false), (W(1, 1), true), (R(2, 0x04), true), (R(0, b'x'), false), (R(2, 0x01), false)],
        );
        drive(
            "trigger level and time-out",
            &[
                (W(2, 0x81), false),
                (W(1, 1), false),
                (I(b"abcdefg"), true),
                (R(2, 0xcc), true),
                (I(b"h"), true),
                (R(2, 0xc4), true),
                (R(0, b'a'), true),
                (R(2, 0xcc), true),
                (W(2, 0x83), false),
                (R(2, 0xc1), false),
            ],
        );
        drive(
            "modem lines",
            &[
                (W(1, 8), false),
                // Loopback cuts the line off; its changed lines are told after it.
                (W(4, 0x10), false),
                (W(4, 0x0b), true),
                (R(2, 0x00), true),
                (R(6, 0xbb), false),
                (R(6, 0xb0), false),
            ],
        );
        drive(
            "data comes before the transmitter",
            &[(W(1, 3), true), (I(b"x"), true), (R(2, 0x04), true), (R(0, b'x'), true), (R(2, 2), false)],
        );
        drive("not connected", &[(W(1, 2), true), (W(4, 3), false), (W(4, 0xb), true)]);
        let mut full: Vec<(Step, bool)> = vec![(W(1, 2), true)];
        full.extend((1..CONSOLE_BYTES).map(|_| (W(0, b'x'), true)));
        full.extend([(W(0, b'x'), false), (Taken, true)]);
        drive("a full transmitter is empty again when its message is taken", &full);
    }

    #[test]
    fn an_overrun_in_loopback_is_told_once() {
        let mut uart = Uart::default();
        uart.write(4, 0x10);
        (0..17).for_each(|_| uart.write(0, 1));
        assert_eq!((uart.read(5) & 2, uart.read(5) & 2), (2, 0));
    }
}

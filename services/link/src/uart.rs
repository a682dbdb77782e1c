//! The 16550: set-up, sending by polling, receiving. Nothing here waits for the line: what it does not
//! take now is taken at a later event.

/// Byte access to the eight ports of one line, by register offset.
pub trait Registers {
    /// Reads a register.
    fn read(&self, register: u16) -> u8;
    /// Writes a register.
    fn write(&self, register: u16, value: u8);
    /// Writes a register and the next one: both, or none if the instance ends.
    fn write_pair(&self, register: u16, values: [u8; 2]);
}

const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;

const DATA_READY: u8 = 1 << 0;
const TRANSMITTER_READY: u8 = 1 << 5;
const TRANSMITTER_IDLE: u8 = 1 << 6;
const DIVISOR_ACCESS: u8 = 1 << 7;
/// Eight bits, no parity, one stop bit.
const EIGHT_N_ONE: u8 = 3;
/// FIFOs on, the receiver's emptied: the transmitter may still hold bytes that were acknowledged.
const FIFO_ON: u8 = 0b011;
/// DTR, RTS, and the output that lets the interrupt through.
const LINES_UP: u8 = 0b1011;
const RECEIVE_INTERRUPT: u8 = 1;
/// The mark of an odd number of bytes sent: the line-status interrupt, which every look at the line status
/// clears and which tells nothing new.
const ODD: u8 = 1 << 2;

/// Bytes that the transmitter takes when it says that it is ready.
pub const FIFO: usize = 16;
/// Looks at a busy transmitter before set-up goes on without it: several times what 16 bytes take.
const IDLE_LOOKS: u32 = 20_000;
/// Bytes taken from the receiver at one event: more than a frame of typed text.
pub const RECEIVE_MOST: usize = 256;

/// One line.
pub struct Uart<R>(pub R);

impl<R: Registers> Uart<R> {
    /// Sets up 115,200 bits a second, 8N1, FIFOs and the receive interrupt. Keeps the mark of the last byte
    /// sent, and returns it.
    pub fn start(&self) -> bool {
        self.0.write(LINE_CONTROL, EIGHT_N_ONE);
        let mark = self.0.read(INTERRUPT_ENABLE) & ODD;
        self.0.write(INTERRUPT_ENABLE, mark);
        for _ in 0..IDLE_LOOKS {
            if self.0.read(LINE_STATUS) & TRANSMITTER_IDLE != 0 {
                break;
            }
        }
        self.0.write(LINE_CONTROL, DIVISOR_ACCESS);
        self.0.write(DATA, 1);
        self.0.write(INTERRUPT_ENABLE, 0);
        self.0.write(LINE_CONTROL, EIGHT_N_ONE);
        self.0.write(FIFO_CONTROL, FIFO_ON);
        self.0.write(MODEM_CONTROL, LINES_UP);
        self.0.write(INTERRUPT_ENABLE, RECEIVE_INTERRUPT | mark);
        mark != 0
    }

    /// Sets the mark without a byte.
    pub fn mark(&self, odd: bool) {
        self.0.write(INTERRUPT_ENABLE, Self::marked(odd));
    }

    const fn marked(odd: bool) -> u8 {
        if odd { RECEIVE_INTERRUPT | ODD } else { RECEIVE_INTERRUPT }
    }

    /// Sends one byte and says with it whether the number of bytes sent is odd now, so that an instance which
    /// follows knows if the last one left; the caller has asked for room.
    pub fn send_marked(&self, byte: u8, odd: bool) {
        self.0.write_pair(DATA, [byte, Self::marked(odd)]);
    }

    /// Bytes that the transmitter takes now: [`FIFO`] or none.
    pub fn room(&self) -> usize {
        if self.0.read(LINE_STATUS) & TRANSMITTER_READY != 0 { FIFO } else { 0 }
    }

    /// Sends one byte; the caller has asked for room.
    pub fn send(&self, byte: u8) {
        self.0.write(DATA, byte);
    }

    /// The next byte that has arrived.
    pub fn receive(&self) -> Option<u8> {
        (self.0.read(LINE_STATUS) & DATA_READY != 0).then(|| self.0.read(DATA))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    struct Fake {
        status: u8,
        enabled: u8,
        written: RefCell<Vec<(u16, u8)>>,
    }

    impl Registers for Fake {
        fn read(&self, register: u16) -> u8 {
            match register {
                LINE_STATUS => self.status,
                INTERRUPT_ENABLE => self.enabled,
                _ => b'x',
            }
        }
        fn write(&self, register: u16, value: u8) {
            self.written.borrow_mut().push((register, value));
        }
        fn write_pair(&self, register: u16, [first, second]: [u8; 2]) {
            self.write(register, first);
            self.write(register + 1, second);
        }
    }

    fn line(status: u8) -> Uart<Fake> {
        Uart(Fake { status, enabled: 0, written: RefCell::default() })
    }

    #[test]
    fn set_up_programs_divisor_1_and_never_empties_the_transmitter() {
        let uart = line(TRANSMITTER_IDLE);
        uart.start();
        let written = uart.0.written.borrow();
        let divisor = [(LINE_CONTROL, DIVISOR_ACCESS), (DATA, 1), (INTERRUPT_ENABLE, 0)];
        assert_eq!(written[2..5], divisor);
        assert!(written.iter().all(|&(register, value)| register != FIFO_CONTROL || value & 4 == 0));
        assert_eq!(written.last(), Some(&(INTERRUPT_ENABLE, RECEIVE_INTERRUPT)));
    }

    #[test]
    fn the_mark_goes_with_its_byte_and_outlives_a_set_up() {
        for odd in [true, false] {
            let uart = Uart(Fake { enabled: if odd { ODD } else { 0 }, ..line(TRANSMITTER_IDLE).0 });
            assert_eq!(uart.start(), odd);
            let kept = uart
                .0
                .written
                .borrow()
                .iter()
                .all(|&(register, value)| register != INTERRUPT_ENABLE || value & ODD != 0 || !odd);
            // The divisor's high byte is written to the same port.
            let divisor = uart.0.written.borrow().iter().filter(|write| **write == (INTERRUPT_ENABLE, 0)).count();
            assert!(kept || divisor == 1);
            uart.0.written.borrow_mut().clear();
            uart.send_marked(b'x', !odd);
            assert_eq!(uart.0.written.borrow()[..], [(DATA, b'x'), (INTERRUPT_ENABLE, Uart::<Fake>::marked(!odd))]);
        }
    }

    #[test]
    fn set_up_goes_on_when_the_transmitter_never_gets_idle() {
        line(0).start();
    }

    #[test]
    fn room_and_arrived_bytes_follow_the_line_status() {
        assert_eq!(line(0).room(), 0);
        assert_eq!(line(TRANSMITTER_READY).room(), FIFO);
        assert_eq!(line(0).receive(), None);
        assert_eq!(line(DATA_READY).receive(), Some(b'x'));
    }
}

//! The 16550: set-up, sending by polling, receiving. Nothing here waits for the line: what it does not
//! take now is taken at a later event.

/// Byte access to the eight ports of one line, by register offset.
pub trait Registers {
    /// Reads a register.
    fn read(&self, register: u16) -> u8;
    /// Writes a register.
    fn write(&self, register: u16, value: u8);
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

/// Bytes that the transmitter takes when it says that it is ready.
pub const FIFO: usize = 16;
/// Looks at a busy transmitter before set-up goes on without it: several times what 16 bytes take.
const IDLE_LOOKS: u32 = 20_000;
/// Bytes taken from the receiver at one event.
pub const RECEIVE_MOST: usize = 64;

/// One line.
pub struct Uart<R>(pub R);

impl<R: Registers> Uart<R> {
    /// Sets up 115,200 bits a second, 8N1, FIFOs and the receive interrupt.
    pub fn start(&self) {
        self.0.write(INTERRUPT_ENABLE, 0);
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
        self.0.write(INTERRUPT_ENABLE, RECEIVE_INTERRUPT);
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
        written: RefCell<Vec<(u16, u8)>>,
    }

    impl Registers for Fake {
        fn read(&self, register: u16) -> u8 {
            if register == LINE_STATUS { self.status } else { b'x' }
        }
        fn write(&self, register: u16, value: u8) {
            self.written.borrow_mut().push((register, value));
        }
    }

    fn line(status: u8) -> Uart<Fake> {
        Uart(Fake { status, written: RefCell::default() })
    }

    #[test]
    fn set_up_programs_divisor_1_and_never_empties_the_transmitter() {
        let uart = line(TRANSMITTER_IDLE);
        uart.start();
        let written = uart.0.written.borrow();
        let divisor = [(LINE_CONTROL, DIVISOR_ACCESS), (DATA, 1), (INTERRUPT_ENABLE, 0)];
        assert_eq!(written[1..4], divisor);
        assert!(written.iter().all(|&(register, value)| register != FIFO_CONTROL || value & 4 == 0));
        assert_eq!(written.last(), Some(&(INTERRUPT_ENABLE, RECEIVE_INTERRUPT)));
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

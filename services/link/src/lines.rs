//! A serial line as capabilities give it: its ports and its interrupt.

use crate::uart::{RECEIVE_MOST, Registers, Uart};
use arrayvec::ArrayVec;
use portcullis_runtime::handle::{Interrupt, Ports};

/// The eight ports of a line.
pub struct LinePorts {
    ports: Ports,
    first: u16,
}

impl Registers for LinePorts {
    fn read(&self, register: u16) -> u8 {
        self.ports.read(self.first + register)
    }

    fn write(&self, register: u16, value: u8) {
        self.ports.write(self.first + register, value);
    }

    fn write_pair(&self, register: u16, values: [u8; 2]) {
        self.ports.write_pair(self.first + register, values);
    }
}

/// A line.
pub struct Line {
    /// Its 16550.
    pub uart: Uart<LinePorts>,
    /// The mark of the last byte sent, as the instance before left it.
    pub odd: bool,
    interrupt: Option<Interrupt>,
}

impl Line {
    /// Sets up the line whose ports start at `first`; `None` when the manifest does not grant it.
    pub fn open(ports: &str, interrupt: &str, first: u16) -> Option<Self> {
        let ports = Ports::find(ports)?;
        let uart = Uart(LinePorts { ports, first });
        let odd = uart.start();
        let line = Self { uart, odd, interrupt: Interrupt::find(interrupt) };
        // The instance before may have ended between an interrupt and its acknowledgement.
        if let Some(interrupt) = line.interrupt {
            interrupt.acknowledge();
        }
        Some(line)
    }

    /// The bytes that have arrived, [`RECEIVE_MOST`] at most. What is left makes no further interrupt.
    pub fn received(&self) -> ArrayVec<u8, RECEIVE_MOST> {
        core::iter::from_fn(|| self.uart.receive()).take(RECEIVE_MOST).collect()
    }

    /// Lets the interrupt come again if it is among the notification `bits`.
    pub fn acknowledge(&self, bits: u64) {
        if let Some(interrupt) = self.interrupt
            && bits & interrupt.bits != 0
        {
            interrupt.acknowledge();
        }
    }
}

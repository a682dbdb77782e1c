//! The way between the serial port and the console service.

use crate::host::Host;
use crate::machine::Machine;
use crate::uart::RECEIVE;

impl<H: Host> Machine<H> {
    /// Sends a whole line at once, anything when the guest `rests`, and sees to it that no rest waits for
    /// ever.
    pub(crate) fn send_output(&mut self, rests: bool) {
        if self.durable.uart.written == 0 {
            return;
        }
        if rests || self.durable.uart.wants_flush() {
            self.flush();
        } else {
            self.host.flush_later();
        }
    }

    /// Sends what the guest wrote, as far as the console takes it.
    pub(crate) fn flush(&mut self) {
        loop {
            if self.durable.uart.sending == 0 && self.durable.uart.written > 0 {
                self.uart().fix_message();
                self.commit();
            }
            let Some((sequence, bytes)) = self.durable.uart.message() else {
                return;
            };
            if !self.host.console_write(sequence, bytes) {
                self.host.flush_later();
                return;
            }
            self.uart().message_taken();
            self.commit();
        }
    }

    /// The time for the beginning of a line to wait for its end is over, and what found nobody that answered is tried
    /// again.
    pub fn output(&mut self) {
        self.flush();
        self.input_later = false;
        self.take_input();
        self.start_again();
        self.conclude(None);
    }

    /// The console has input.
    pub fn input(&mut self) {
        (self.more_input, self.input_later) = (true, false);
        self.take_input();
        self.conclude(None);
    }

    /// Fetches console input while the receiver has room.
    pub(crate) fn take_input(&mut self) {
        let room = self.durable.uart.room();
        if !self.more_input || self.input_later || room == 0 {
            return;
        }
        let mut bytes = [0; RECEIVE];
        let wanted = bytes.get_mut(..room).unwrap_or_default();
        let Some((from, taken)) = self.host.console_read(self.durable.uart.received, wanted) else {
            // Asked again soon, not with each of the guest's looks at its serial port.
            self.input_later = self.host.flush_later();
            return;
        };
        self.more_input = taken == room;
        if let Some(bytes @ [_, ..]) = bytes.get(..taken) {
            let uart = self.uart();
            uart.give(bytes);
            uart.received = from + taken as u64;
        }
    }
}

//! Interrupts on their way through: requested, in service, ended; priorities; errors.

use super::{Effect, Lapic, MASKED, entry};
use crate::apic::message::Mode;

/// Bits of the error status.
pub(super) mod error {
    /// The vector of a message that was sent is below 16.
    pub const SENT_VECTOR: u64 = 1 << 5;
    /// The vector of a message that came is below 16.
    pub const RECEIVED_VECTOR: u64 = 1 << 6;
    /// A register that does not exist was accessed.
    pub const REGISTER: u64 = 1 << 7;
}

/// Vectors below are reserved for exceptions.
const FIRST_VECTOR: u8 = 16;

impl Lapic {
    /// Takes in an interrupt; `false` when it is refused because the APIC is disabled or the vector is
    /// reserved, which sets an error.
    pub fn accept(&mut self, vector: u8, level: bool) -> bool {
        if !self.software_enabled() {
            return false;
        }
        if vector < FIRST_VECTOR {
            self.error(error::RECEIVED_VECTOR);
            return false;
        }
        self.requested.put(vector, true);
        self.level.put(vector, level);
        true
    }

    /// The interrupt that the vCPU would take now if it takes any: the highest one requested, if its
    /// priority is above the processor's. Those requested before a software disable stay.
    pub fn pending(&self) -> Option<u8> {
        let vector = self.requested.highest()?;
        (self.enabled() && vector >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// The vCPU takes interrupt `vector`: it is in service now.
    pub fn take(&mut self, vector: u8) {
        self.requested.put(vector, false);
        self.in_service.put(vector, true);
    }

    /// PPR: the higher of task priority and the interrupt in service.
    pub fn processor_priority(&self) -> u8 {
        let task = self.priority as u8;
        let service = self.in_service.highest().unwrap_or(0) & 0xf0;
        if task & 0xf0 >= service { task } else { service }
    }

    /// Requests the interrupt of a local source, if its entry is not masked.
    pub(super) fn local(&mut self, source: usize) {
        let entry = self.table.get(source).copied().unwrap_or(MASKED);
        if entry & MASKED == 0 {
            self.accept(entry as u8, false);
        }
    }

    /// Ends the highest interrupt in service.
    pub(super) fn end(&mut self) -> Effect {
        let Some(vector) = self.in_service.highest() else { return Effect::None };
        self.in_service.put(vector, false);
        if self.level.holds(vector) { Effect::EndOfInterrupt(vector) } else { Effect::None }
    }

    /// Notes an error. The first of its kind since the last write of the error status interrupts; an error
    /// interrupt whose own vector is reserved is thereby an error once, not for ever.
    pub(super) fn error(&mut self, bit: u64) {
        if self.errors & bit == 0 {
            self.errors |= bit;
            self.local(entry::ERROR);
        }
    }

    /// A write of the error status: what happened since the last one becomes readable.
    pub(super) fn latch_errors(&mut self) {
        self.status = core::mem::take(&mut self.errors);
    }

    /// Sends what the command register says.
    pub(super) fn send(&mut self) -> Effect {
        let message = crate::apic::message::Message::of_command(self.command, self.x2apic());
        let Some(message) = message else { return Effect::None };
        let vectored = matches!(message.mode, Mode::Fixed | Mode::LowestPriority);
        if vectored && message.vector < FIRST_VECTOR {
            self.error(error::SENT_VECTOR);
        }
        Effect::Send(message)
    }

    /// SELF_IPI.
    pub(super) fn send_self(&mut self, vector: u8) {
        if vector < FIRST_VECTOR {
            self.error(error::SENT_VECTOR);
        }
        self.accept(vector, false);
    }
}

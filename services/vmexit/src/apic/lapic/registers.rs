//! The registers: numbers, what reads and writes of them do, which bits can be written. The page of xAPIC
//! mode and the MSRs of x2APIC mode are two ways to the same registers.

use super::interrupts::error;
use super::{Clock, Effect, Lapic, MASKED, SOFTWARE_ENABLE, entry};

/// Numbers: the offset in the page divided by 16, or the MSR less 0x800.
pub(super) mod number {
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const PRIORITY: u32 = 0x08;
    pub const ARBITRATION: u32 = 0x09;
    pub const PROCESSOR_PRIORITY: u32 = 0x0a;
    pub const END: u32 = 0x0b;
    pub const REMOTE_READ: u32 = 0x0c;
    pub const LOGICAL: u32 = 0x0d;
    pub const FORMAT: u32 = 0x0e;
    pub const SPURIOUS: u32 = 0x0f;
    pub const IN_SERVICE: u32 = 0x10;
    pub const LEVEL: u32 = 0x18;
    pub const REQUESTED: u32 = 0x20;
    pub const STATUS: u32 = 0x28;
    pub const COMMAND: u32 = 0x30;
    pub const COMMAND_HIGH: u32 = 0x31;
    pub const TABLE: u32 = 0x32;
    pub const TABLE_LAST: u32 = 0x37;
    pub const INITIAL: u32 = 0x38;
    pub const CURRENT: u32 = 0x39;
    pub const DIVIDE: u32 = 0x3e;
    pub const SELF: u32 = 0x3f;
}

/// Version 0x14, six entries in the vector table, no suppression of end-of-interrupt messages.
const VERSION: u32 = 0x14 | (entry::COUNT as u32 - 1) << 16;

/// Bits of the vector table's entries that can be written: vector and mask everywhere, the timer's mode,
/// the delivery mode, and polarity and trigger of the pins.
const TABLE_WRITABLE: [u32; entry::COUNT] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];

/// Index of the entry of a register of the vector table.
fn table_index(register: u32) -> usize {
    register.wrapping_sub(number::TABLE) as usize
}

/// Bits of a register that can be written; `None` when there are none.
pub(super) fn writable(register: u32) -> Option<u32> {
    Some(match register {
        number::PRIORITY | number::SELF => 0xff,
        number::LOGICAL | number::COMMAND_HIGH => 0xff00_0000,
        number::FORMAT => 0xf000_0000,
        number::SPURIOUS => 0x3ff,
        number::COMMAND => 0x000c_cfff,
        number::TABLE..=number::TABLE_LAST => TABLE_WRITABLE.get(table_index(register)).copied()?,
        number::INITIAL => u32::MAX,
        number::DIVIDE => 0xb,
        // Any write does what it does; in x2APIC mode the value must be 0.
        number::END | number::STATUS => 0,
        _ => return None,
    })
}

impl Lapic {
    /// Reads the word at `offset` of the page; what is not the first of sixteen bytes reads 0.
    pub fn read(&mut self, offset: u16, clock: &Clock) -> u32 {
        if offset & 0xf != 0 {
            return 0;
        }
        match u32::from(offset) >> 4 {
            number::ID => self.id() << 24,
            number::LOGICAL => self.logical as u32,
            // Write-only, or no longer used.
            number::END | number::ARBITRATION | number::REMOTE_READ => 0,
            number::FORMAT => self.format as u32,
            number::COMMAND_HIGH => (self.command >> 32) as u32,
            register => match self.value(register, clock) {
                Some(value) => value,
                None => {
                    self.error(error::REGISTER);
                    0
                }
            },
        }
    }

    /// Writes the word at `offset` of the page. Bits that cannot be written stay, and so do registers that
    /// can only be read.
    pub fn write(&mut self, offset: u16, value: u32, clock: &Clock) -> Effect {
        let register = u32::from(offset) >> 4;
        if offset & 0xf != 0 {
            return Effect::None;
        }
        match (register, writable(register)) {
            (number::SELF, _) => self.error(error::REGISTER),
            (number::LOGICAL, Some(mask)) => self.logical = (value & mask).into(),
            (number::FORMAT, Some(mask)) => self.format = (value | !mask).into(),
            (number::COMMAND_HIGH, Some(mask)) => {
                self.command = self.command & 0xffff_ffff | u64::from(value & mask) << 32;
            }
            (_, Some(mask)) => return self.set(register, value & mask, clock),
            (number::ID | number::ARBITRATION | number::REMOTE_READ, None) => {}
            (_, None) if self.value(register, clock).is_some() => {}
            (_, None) => self.error(error::REGISTER),
        }
        Effect::None
    }

    /// Registers that read the same in both modes.
    pub(super) fn value(&self, register: u32, clock: &Clock) -> Option<u32> {
        Some(match register {
            number::VERSION => VERSION,
            number::PRIORITY => self.priority as u32,
            number::PROCESSOR_PRIORITY => self.processor_priority().into(),
            number::SPURIOUS => self.spurious as u32,
            number::IN_SERVICE..number::LEVEL => self.in_service.part(register - number::IN_SERVICE),
            number::LEVEL..number::REQUESTED => self.level.part(register - number::LEVEL),
            number::REQUESTED..number::STATUS => self.requested.part(register - number::REQUESTED),
            number::STATUS => self.status as u32,
            number::COMMAND => self.command as u32,
            number::TABLE..=number::TABLE_LAST => *self.table.get(table_index(register))? as u32,
            number::INITIAL => self.initial as u32,
            number::CURRENT => self.count(clock),
            number::DIVIDE => self.divide as u32,
            _ => return None,
        })
    }

    /// Registers that are written the same in both modes; `value` holds writable bits only.
    pub(super) fn set(&mut self, register: u32, value: u32, clock: &Clock) -> Effect {
        let word = u64::from(value);
        match register {
            number::PRIORITY => self.priority = word,
            number::END => return self.end(),
            number::SPURIOUS => return self.set_spurious(word),
            number::STATUS => self.latch_errors(),
            number::COMMAND => {
                self.command = self.command & !0xffff_ffff | word;
                return self.send();
            }
            number::TABLE..=number::TABLE_LAST => return self.set_entry(table_index(register), word, clock),
            number::INITIAL => return self.set_initial(value, clock),
            number::DIVIDE => return self.set_divide(word, clock),
            _ => {}
        }
        Effect::None
    }

    /// While the APIC is software-disabled every entry of the vector table stays masked.
    fn set_spurious(&mut self, value: u64) -> Effect {
        self.spurious = value;
        if value & SOFTWARE_ENABLE == 0 {
            self.table.iter_mut().for_each(|entry| *entry |= MASKED);
        }
        Effect::Timer
    }

    fn set_entry(&mut self, index: usize, value: u64, clock: &Clock) -> Effect {
        let value = if self.software_enabled() { value } else { value | MASKED };
        if index == entry::TIMER {
            return self.set_timer(value, clock);
        }
        if let Some(entry) = self.table.get_mut(index) {
            *entry = value;
        }
        Effect::None
    }
}

//! The IOAPIC: 24 pins, a redirection entry for each, edges and levels.
//!
//! Lines come as asserted or not; the polarity bit is kept and has no meaning, since no wire has a
//! voltage.

use super::message::{Message, Mode, narrow};
use arrayvec::ArrayVec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Pins.
pub const PINS: usize = 24;
/// 64-bit words of the state.
pub const WORDS: usize = PINS + 3;

/// Version 0x20, which has an end-of-interrupt register, and the index of the last pin.
const VERSION: u32 = 0x20 | (PINS as u32 - 1) << 16;
/// Writable bits of a redirection entry: vector, delivery and destination mode, polarity, trigger, mask,
/// destination.
const WRITABLE: u64 = 0xff00_0000_0001_afff;
const REMOTE: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;

/// Offsets in the page.
const SELECT: u16 = 0x00;
const WINDOW: u16 = 0x10;
const END: u16 = 0x40;
/// Register of the low half of the first entry.
const FIRST_ENTRY: u32 = 0x10;

/// An IOAPIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ioapic {
    /// Redirection entries.
    entries: [u64; PINS],
    /// Register that the window shows.
    select: u64,
    /// Its id, in the bits that the register has it in.
    id: u64,
    /// Lines that are asserted, one bit each.
    lines: u64,
}

static_assertions::const_assert_eq!(size_of::<Ioapic>(), WORDS * 8);
static_assertions::const_assert_eq!(core::mem::offset_of!(Ioapic, lines), 208);

impl Default for Ioapic {
    fn default() -> Self {
        Self { entries: [MASKED; PINS], select: 0, id: 0, lines: 0 }
    }
}

impl Ioapic {
    /// Reads the word at `offset` of the page; 0 where there is no register.
    pub fn read(&self, offset: u16) -> u32 {
        match offset {
            SELECT => self.select as u32,
            WINDOW => self.register(),
            _ => 0,
        }
    }

    /// Writes the word at `offset` of the page: the messages that follow from it.
    pub fn write(&mut self, offset: u16, value: u32) -> ArrayVec<Message, PINS> {
        match offset {
            SELECT => self.select = (value & 0xff).into(),
            WINDOW => return self.set_register(value).into_iter().collect(),
            END => return self.end(value as u8),
            _ => {}
        }
        ArrayVec::new()
    }

    /// The line of `pin` is asserted or not: the message that follows from it. An edge that finds its pin
    /// masked is lost; a level is there until it goes.
    pub fn line(&mut self, pin: usize, asserted: bool) -> Option<Message> {
        let entry = self.entries.get(pin).copied()?;
        let before = self.lines >> pin & 1 != 0;
        self.lines = self.lines & !(1 << pin) | u64::from(asserted) << pin;
        if entry & LEVEL != 0 {
            return self.raise_level(pin);
        }
        (asserted && !before && entry & MASKED == 0).then(|| message(entry)).flatten()
    }

    /// Whether `pin` is unmasked and sends an NMI or INIT.
    pub fn may_signal(&self, pin: usize) -> bool {
        let entry = self.entries.get(pin).copied().unwrap_or(MASKED);
        entry & MASKED == 0 && matches!(Mode::of(entry >> 8), Some(Mode::Nmi | Mode::Init))
    }

    /// A vCPU ended interrupt `vector`: the messages of the lines that are asserted still.
    pub fn end(&mut self, vector: u8) -> ArrayVec<Message, PINS> {
        let mut again = ArrayVec::new();
        for pin in 0..PINS {
            let Some(entry) = self.entries.get_mut(pin) else { continue };
            if *entry as u8 == vector && *entry & (LEVEL | REMOTE) == LEVEL | REMOTE {
                *entry &= !REMOTE;
                again.extend(self.raise_level(pin));
            }
        }
        again
    }

    /// The message of a level that is asserted, unmasked and not in service.
    fn raise_level(&mut self, pin: usize) -> Option<Message> {
        if !self.waits(pin) {
            return None;
        }
        let entry = self.entries.get_mut(pin)?;
        let message = message(*entry)?;
        *entry |= REMOTE;
        Some(message)
    }

    /// No local APIC took this message in: what it came from is not in service, and is sent again.
    pub fn not_taken(&mut self, sent: &Message) {
        for entry in self.entries.iter_mut().filter(|entry| **entry & (LEVEL | REMOTE) == LEVEL | REMOTE) {
            if message(*entry) == Some(*sent) {
                *entry &= !REMOTE;
            }
        }
    }

    /// Whether `pin` is a level that is asserted, unmasked and not in service.
    pub fn waits(&self, pin: usize) -> bool {
        let entry = self.entries.get(pin).copied().unwrap_or(MASKED);
        self.lines >> pin & 1 != 0 && entry & (LEVEL | MASKED | REMOTE) == LEVEL
    }

    fn register(&self) -> u32 {
        match self.select as u32 {
            0 | 2 => self.id as u32,
            1 => VERSION,
            number => {
                let (pin, high) = place(number);
                let entry = self.entries.get(pin).copied().unwrap_or(0);
                (if high { entry >> 32 } else { entry }) as u32
            }
        }
    }

    fn set_register(&mut self, value: u32) -> Option<Message> {
        if self.select == 0 {
            self.id = (value & 0x0f00_0000).into();
            return None;
        }
        let (pin, high) = place(self.select as u32);
        let entry = self.entries.get_mut(pin)?;
        let value = u64::from(value);
        let written = if high { *entry & 0xffff_ffff | value << 32 } else { *entry & !0xffff_ffff | value };
        // An entry that becomes edge-triggered forgets what was in service: software ends interrupts so.
        let kept = if written & LEVEL != 0 { *entry & REMOTE } else { 0 };
        *entry = written & WRITABLE | kept;
        self.raise_level(pin)
    }
}

/// Pin and half of an entry's register; no pin for other registers.
fn place(number: u32) -> (usize, bool) {
    let index = number.wrapping_sub(FIRST_ENTRY) as usize;
    (index / 2, index & 1 != 0)
}

/// The message of an entry; `None` for delivery modes that no line can have here.
fn message(entry: u64) -> Option<Message> {
    let mode = Mode::of(entry >> 8).filter(|mode| *mode != Mode::Startup)?;
    let destination = narrow((entry >> 56) as u8, entry & 1 << 11 != 0);
    Some(Message { destination, mode, vector: entry as u8, level: entry & LEVEL != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apic::message::Destination;
    use proptest::prelude::*;

    fn put(ioapic: &mut Ioapic, register: u32, value: u32) -> Vec<Message> {
        ioapic.write(SELECT, register);
        ioapic.write(WINDOW, value).to_vec()
    }

    fn get(ioapic: &mut Ioapic, register: u32) -> u32 {
        ioapic.write(SELECT, register);
        ioapic.read(WINDOW)
    }

    fn fixed(vector: u8, level: bool) -> Message {
        Message { destination: Destination::Physical(1), mode: Mode::Fixed, vector, level }
    }

    /// Pin 4 to vCPU 1.
    fn wired(low: u32) -> Ioapic {
        let mut ioapic = Ioapic::default();
        assert!(put(&mut ioapic, 0x19, 0x0100_0000).is_empty());
        assert!(put(&mut ioapic, 0x18, low).is_empty());
        ioapic
    }

    #[test]
    fn registers_read_back_what_can_be_written() {
        let table = [
            (0x00, u32::MAX, 0x0f00_0000),
            (0x01, u32::MAX, 0x0017_0020),
            (0x02, 0, 0x0f00_0000),
            (0x03, u32::MAX, 0),
            (0x10, u32::MAX, 0x0001_afff),
            (0x11, u32::MAX, 0xff00_0000),
            (0x3e, 0x31, 0x31),
            (0x3f, 0x0200_0000, 0x0200_0000),
            (0x40, u32::MAX, 0),
            (0xff, u32::MAX, 0),
        ];
        let mut ioapic = Ioapic::default();
        assert_eq!(get(&mut ioapic, 0x10), 0x1_0000);
        for (register, written, read) in table {
            put(&mut ioapic, register, written);
            assert_eq!(get(&mut ioapic, register), read, "{register:#x}");
        }
        assert_eq!((ioapic.read(SELECT), ioapic.read(0x20)), (0xff, 0));
    }

    #[test]
    fn an_edge_comes_once_and_is_lost_while_masked() {
        let mut ioapic = wired(0x1_0031);
        assert_eq!(ioapic.line(4, true), None);
        put(&mut ioapic, 0x18, 0x31);
        assert_eq!([ioapic.line(4, true), ioapic.line(4, false)], [None, None]);
        assert_eq!([ioapic.line(4, true), ioapic.line(4, true)], [Some(fixed(0x31, false)), None]);
        assert!(ioapic.end(0x31).is_empty());
    }

    #[test]
    fn a_level_comes_again_after_its_end_while_it_is_asserted() {
        let mut ioapic = wired(0x8031);
        assert_eq!(ioapic.line(4, true), Some(fixed(0x31, true)));
        assert_eq!(ioapic.line(4, true), None);
        assert_eq!(get(&mut ioapic, 0x18), 0xc031);
        assert!(ioapic.end(0x32).is_empty());
        assert_eq!(ioapic.write(END, 0x31).to_vec(), [fixed(0x31, true)]);
        assert_eq!(ioapic.line(4, false), None);
        assert!(ioapic.end(0x31).is_empty());
        assert_eq!(get(&mut ioapic, 0x18), 0x8031);
    }

    #[test]
    fn a_level_that_was_masked_comes_with_the_unmasking() {
        let mut ioapic = wired(0x1_8031);
        assert_eq!(ioapic.line(4, true), None);
        assert_eq!(put(&mut ioapic, 0x18, 0x8031), [fixed(0x31, true)]);
        // Becoming edge-triggered ends it; the level that is still there comes again.
        assert!(put(&mut ioapic, 0x18, 0x1_0031).is_empty());
        assert_eq!(get(&mut ioapic, 0x18), 0x1_0031);
        assert_eq!(put(&mut ioapic, 0x18, 0x8031), [fixed(0x31, true)]);
    }

    #[test]
    fn a_level_that_nobody_took_in_is_not_in_service_and_comes_again() {
        let mut ioapic = wired(0x8031);
        let sent = ioapic.line(4, true).unwrap();
        ioapic.not_taken(&sent);
        assert_eq!((get(&mut ioapic, 0x18), ioapic.waits(4)), (0x8031, true));
        assert_eq!(ioapic.line(4, true), Some(sent));
        assert_eq!((get(&mut ioapic, 0x18), ioapic.waits(4)), (0xc031, false));
        // Another message than the one that is in service says nothing about it.
        ioapic.not_taken(&fixed(0x32, true));
        assert_eq!(get(&mut ioapic, 0x18), 0xc031);
    }

    #[test]
    fn delivery_modes_without_a_meaning_send_nothing() {
        for mode in [2, 3, 6, 7] {
            let mut ioapic = wired(mode << 8);
            assert_eq!(ioapic.line(4, true), None, "{mode}");
        }
        let mut ioapic = wired(4 << 8);
        assert_eq!(ioapic.line(4, true).map(|one| one.mode), Some(Mode::Nmi));
    }

    proptest! {
        #[test]
        fn any_accesses_leave_a_level_in_service_only_where_one_was_sent(
            steps in prop::collection::vec((0u8..4, any::<u16>(), any::<u32>()), 0..200)
        ) {
            let mut ioapic = Ioapic::default();
            for (what, place, value) in steps {
                match what {
                    0 => { ioapic.line(place as usize % 32, value & 1 != 0); }
                    1 => { ioapic.end(value as u8); }
                    2 => { put(&mut ioapic, u32::from(place) % 0x48, value & 0x1ffff); }
                    _ => { ioapic.write(place % 0x60, value); ioapic.read(place); }
                }
                for entry in ioapic.entries {
                    prop_assert!(entry & REMOTE == 0 || entry & LEVEL != 0);
                    prop_assert_eq!(entry & !(WRITABLE | REMOTE), 0);
                }
            }
        }
    }
}

//! Random instructions on the pages of the interrupt controllers, at their edges, and where nobody is.

use super::{ABSENT, Fuzzer, HARMLESS};
use crate::code::{Code, Place};
use crate::run::{Mode, reg};

/// The local APIC after reset.
pub const LAPIC: u64 = 0xfee0_0000;
/// Where it may be moved to.
pub const LAPIC_MOVED: u64 = 0xfed0_0000;
/// The IOAPIC.
pub const IOAPIC: u64 = 0xfec0_0000;

/// What an instruction does to its operand in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Reads, or writes no more than its source has.
    Plain,
    /// Computes what it writes.
    Computed,
    /// Reaches beside its operand by the number of a bit.
    Bit,
}
use Kind::{Bit, Computed, Plain};

/// An opcode, the fixed register field of its ModRM byte if it has one, and the bytes of a constant.
type Form = (Kind, &'static [u8], Option<u8>, usize);

const FORMS: [Form; 66] = [
    (Plain, &[0x88], None, 0),
    (Plain, &[0x89], None, 0),
    (Plain, &[0x89], None, 0),
    (Plain, &[0x89], None, 0),
    (Plain, &[0x8a], None, 0),
    (Plain, &[0x8b], None, 0),
    (Plain, &[0x8b], None, 0),
    (Plain, &[0x8b], None, 0),
    (Plain, &[0xc6], Some(0), 1),
    (Plain, &[0xc7], Some(0), 4),
    (Plain, &[0xc7], Some(0), 4),
    (Plain, &[0x63], None, 0),
    (Plain, &[0x84], None, 0),
    (Plain, &[0x85], None, 0),
    (Plain, &[0x86], None, 0),
    (Plain, &[0x87], None, 0),
    (Plain, &[0x8c], None, 0),
    (Plain, &[0x20], None, 0),
    (Plain, &[0x21], None, 0),
    (Plain, &[0x03], None, 0),
    (Plain, &[0x0b], None, 0),
    (Plain, &[0x13], None, 0),
    (Plain, &[0x1b], None, 0),
    (Plain, &[0x23], None, 0),
    (Plain, &[0x2b], None, 0),
    (Plain, &[0x33], None, 0),
    (Plain, &[0x38], None, 0),
    (Plain, &[0x39], None, 0),
    (Plain, &[0x3b], None, 0),
    (Plain, &[0x81], Some(7), 4),
    (Plain, &[0x83], Some(7), 1),
    (Plain, &[0xf6], Some(0), 1),
    (Plain, &[0xf7], Some(0), 4),
    (Plain, &[0x0f, 0xb6], None, 0),
    (Plain, &[0x0f, 0xb7], None, 0),
    (Plain, &[0x0f, 0xbe], None, 0),
    (Plain, &[0x0f, 0xbf], None, 0),
    (Plain, &[0x0f, 0xc3], None, 0),
    (Plain, &[0x0f, 0x38, 0xf0], None, 0),
    (Plain, &[0x0f, 0x38, 0xf1], None, 0),
    (Plain, &[0x0f, 0x44], None, 0),
    (Plain, &[0x0f, 0x94], Some(0), 0),
    (Plain, &[0x0f, 0x10], None, 0),
    (Plain, &[0x0f, 0xae], Some(7), 0),
    (Plain, &[0x0f, 0x18], Some(0), 0),
    (Plain, &[0x69], None, 4),
    (Plain, &[0xff], Some(6), 0),
    (Computed, &[0x01], None, 0),
    (Computed, &[0x09], None, 0),
    (Computed, &[0x11], None, 0),
    (Computed, &[0x29], None, 0),
    (Computed, &[0x31], None, 0),
    (Computed, &[0x81], Some(1), 4),
    (Computed, &[0x83], Some(0), 1),
    (Computed, &[0xd1], Some(4), 0),
    (Computed, &[0xf7], Some(2), 0),
    (Computed, &[0xf7], Some(3), 0),
    (Computed, &[0xff], Some(0), 0),
    (Computed, &[0xff], Some(1), 0),
    (Computed, &[0x0f, 0xb1], None, 0),
    (Computed, &[0x0f, 0xc1], None, 0),
    (Computed, &[0x0f, 0xc7], Some(1), 0),
    (Bit, &[0x0f, 0xa3], None, 0),
    (Bit, &[0x0f, 0xab], None, 0),
    (Bit, &[0x0f, 0xb3], None, 0),
    (Bit, &[0x0f, 0xba], Some(7), 1),
];

impl Fuzzer {
    /// Base and offset of a device access of this kind.
    fn register(&mut self, kind: Kind) -> (u64, u64) {
        let base = self.random.pick(&[LAPIC, LAPIC, LAPIC, IOAPIC, IOAPIC, LAPIC_MOVED, ABSENT]);
        let offset = match (base, self.random.below(8)) {
            (_, 0) => self.random.below(0x1000),
            (_, 1) => 0xff4 + self.random.below(12),
            (IOAPIC, _) => self.random.pick(&[0, 0x10, 0x10, 0x40]),
            _ => self.random.below(0x40) * 16,
        };
        // The interrupt command register is written with chosen values only.
        let apart = match kind {
            Plain => 0..0,
            Computed => 0x2f8..0x308,
            Bit => 0x280..0x388,
        };
        (base, if base != IOAPIC && apart.contains(&offset) { 0x80 } else { offset })
    }

    /// One instruction with an operand in a page of registers, or a string.
    pub(super) fn mmio(&mut self) {
        if self.random.chance(8) {
            return self.device_string();
        }
        let (kind, opcode, field, constant) = self.random.pick(&FORMS);
        let (base, offset) = self.register(kind);
        let place = match self.random.below(48) {
            0 => Place::ring0(Mode::Protected),
            1 => Place::ring0(Mode::PagedPae),
            2 => Place::ring0(Mode::Compatibility),
            3..8 => Place::ring3(Mode::Long, 0),
            _ => Place::ring0(Mode::Long),
        };
        // AX, CX, DX or BX; the address is in DI.
        let field = field.unwrap_or(self.random.below(4) as u8);
        let mut code = Code::new(place.mode);
        let (mut narrow, wide) = (false, place.mode == Mode::Long && self.random.chance(3));
        match self.random.below(12) {
            0 | 1 => (code, narrow) = (code.raw(&[0x66]), true),
            2 if kind != Plain => code = code.raw(&[0xf0]),
            3 => code = code.raw(&[self.random.pick(&[0x3e, 0x26, 0xf2, 0xf3])]),
            _ => {}
        }
        if wide {
            code = code.raw(&[0x48]);
        }
        // A constant of four bytes is one of two where the operand has two.
        let constant = if narrow && !wide { constant.min(2) } else { constant };
        code = code.raw(opcode);
        let (pointer, displacement) = match self.random.below(3) {
            0 => (base + offset, None),
            1 => (base + offset + 8, Some(&[0xf8][..])),
            _ => (base + offset - 0x1234, Some(&[0x34, 0x12, 0, 0][..])),
        };
        let mode = match displacement {
            None => 0x07,
            Some([_]) => 0x47,
            Some(_) => 0x87,
        };
        code = code.raw(&[mode | field << 3]).raw(displacement.unwrap_or_default());
        let value = self.random.word() & HARMLESS;
        code = code.raw(&value.to_le_bytes()[..constant]);
        let values = [(); 4].map(|()| self.random.word() & HARMLESS);
        let bit = self.random.below(1024).wrapping_sub(512);
        self.run(place, &code, |state| {
            state.registers[..4].copy_from_slice(&values);
            if kind == Bit {
                state.registers[..4].fill(bit);
            }
            state.registers[reg::RDI] = pointer;
            // The stack of a PUSH.
            state.registers[reg::RSP] = crate::machine::STACK;
        });
    }

    /// A string that reads or writes a page of registers.
    fn device_string(&mut self) {
        let opcode = self.random.pick(&[0xa4, 0xa5, 0xa5, 0xaa, 0xab, 0xab, 0xac, 0xad]);
        // What is moved comes from anywhere: it must not reach the interrupt command register.
        let moves = opcode & 0xfe == 0xa4;
        let (base, offset) = self.register(if moves { Bit } else { Plain });
        let offset = if moves && base != IOAPIC { offset.min(0x200) } else { offset };
        let from_device = self.random.chance(2);
        let mut code = Code::new(Mode::Long);
        if self.random.chance(4) {
            code = code.raw(&[0x66]);
        }
        code = code.raw(&[self.random.pick(&[0xf3, 0xf3, 0xf2, 0x2e])]);
        if self.random.chance(4) {
            code = code.raw(&[0x48]);
        }
        let code = code.raw(&[opcode]);
        let (count, data, value) = (self.random.below(8), self.data(), self.random.word() & HARMLESS);
        let (source, target) = match from_device {
            true if moves => (base + offset, data),
            _ => (if moves { data } else { base + offset }, base + offset),
        };
        let place = if self.random.chance(4) { Place::ring3(Mode::Long, 0) } else { Place::ring0(Mode::Long) };
        self.run(place, &code, |state| {
            state.registers[reg::RAX] = value;
            state.registers[reg::RCX] = count;
            state.registers[reg::RSI] = source;
            state.registers[reg::RDI] = target;
        });
    }
}

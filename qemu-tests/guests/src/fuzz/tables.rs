//! Page tables that make no sense, and string instructions that meet them.
//!
//! A GiB of linear addresses has tables of its own: entries of the level above it, directories and tables
//! whose entries are random. Each level's good entries lead to the next one or to [`super::DATA`], and
//! its bad ones out of memory, so that neither the processor nor the hypervisor writes to anything else.

use super::mmio::{IOAPIC, LAPIC};
use super::{ABSENT, DATA, Fuzzer};
use crate::code::{Code, Place};
use crate::memory::poke;
use crate::paging;
use crate::run::{Mode, reg};

/// First frame of the directories and tables.
const TABLES: u64 = 0x40_0000;
/// Directories, and after them tables.
const DIRECTORIES: u64 = 4;
const LEAVES: u64 = 8;
/// The GiB that they are for.
const GIB: u64 = 5;
const PAGE: u64 = 0x1000;

const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// Clears the tables, and fills what string instructions read.
pub fn init() {
    for word in 0..(DIRECTORIES + LEAVES) * PAGE / 8 {
        poke(TABLES + word * 8, 0u64);
    }
    for word in 0..0x20_0000 / 8 {
        poke(DATA + word * 8, word.wrapping_mul(0x0123_4567_89ab_cdef));
    }
}

/// Level of a table entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Pointer,
    Directory,
    Leaf,
}

impl Fuzzer {
    /// An entry of a level.
    fn entry(&mut self, level: Level) -> u64 {
        let random = &mut self.random;
        let large = level != Level::Leaf && random.chance(6);
        let good = match level {
            _ if large => DATA,
            Level::Pointer => TABLES + random.below(DIRECTORIES) * PAGE,
            Level::Directory => TABLES + (DIRECTORIES + random.below(LEAVES)) * PAGE,
            Level::Leaf => DATA + 0x10_0000 + random.below(16) * PAGE,
        };
        let frame = match random.below(10) {
            0 => ABSENT + random.below(16) * PAGE,
            1 => (1 << 32 | random.draw() & 0x000f_ffff_ffff_f000) & if large { !0x3fff_ffff } else { u64::MAX },
            2 if large => good | random.draw() & 0x1f_e000,
            2 if level == Level::Leaf => IOAPIC,
            2 => LAPIC,
            _ => good,
        };
        let mut flags = random.draw() & 0xe7e;
        flags |= u64::from(!random.chance(8));
        flags |= if random.chance(8) { 0 } else { 6 };
        flags |= if random.chance(12) { NO_EXECUTE } else { 0 };
        flags |= if random.chance(16) { random.draw() & 0x7ff0_0000_0000_0000 } else { 0 };
        frame | flags | if large { LARGE } else { 0 }
    }

    /// Changes some entries.
    fn disturb(&mut self) {
        if self.random.chance(4) {
            let entry = self.entry(Level::Pointer);
            paging::set_pointer(GIB, entry);
        }
        for _ in 0..self.random.below(4) {
            let place = TABLES + self.random.below(DIRECTORIES) * PAGE + self.random.below(8) * 8;
            let entry = self.entry(Level::Directory);
            poke(place, entry);
        }
        for _ in 0..self.random.below(8) {
            let place = TABLES + (DIRECTORIES + self.random.below(LEAVES)) * PAGE + self.random.below(16) * 8;
            let entry = self.entry(Level::Leaf);
            poke(place, entry);
        }
        if !self.random.chance(8) {
            paging::flush();
        }
    }

    /// Address of an operand: after the tables, in plain memory, at a device, or nowhere.
    pub(super) fn operand(&mut self) -> u64 {
        match self.random.below(8) {
            0 => self.data(),
            1 => ABSENT + self.random.below(PAGE),
            2 => IOAPIC + self.random.below(PAGE),
            3 => self.random.draw() & 0xffff_8000_0000_0000 | GIB << 30,
            _ => {
                let page = GIB << 30 | self.random.below(8) << 21 | self.random.below(16) << 12;
                let edge = if self.random.chance(2) { PAGE - self.random.below(16) } else { self.random.below(PAGE) };
                page + edge
            }
        }
    }

    /// Elements of a repetition.
    pub(super) fn count(&mut self) -> u64 {
        let most = if self.random.chance(32) { 600 } else { 8 };
        self.random.below(most)
    }

    /// A string instruction, repeated or not, over such tables.
    pub(super) fn string(&mut self) {
        self.disturb();
        let opcode =
            self.random.pick(&[0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0x6c, 0x6d, 0x6e, 0x6f]);
        let mut code = Code::new(Mode::Long);
        match self.random.below(8) {
            0 => code = code.raw(&[0x66]),
            1 => code = code.raw(&[0x67]),
            2 => code = code.raw(&[self.random.pick(&[0x64, 0x65, 0x36])]),
            _ => {}
        }
        if !self.random.chance(4) {
            code = code.raw(&[self.random.pick(&[0xf3, 0xf2])]);
        }
        if self.random.chance(4) {
            code = code.raw(&[0x48]);
        }
        let code = code.raw(&[opcode]);
        let (source, target, count, port) = (self.operand(), self.operand(), self.count(), self.port());
        let user = self.random.chance(3);
        let place = if user { Place::ring3(Mode::Long, 3) } else { Place::ring0(Mode::Long) };
        self.run(place, &code, |state| {
            state.registers[reg::RCX] = count;
            state.registers[reg::RDX] = port.into();
            state.registers[reg::RSI] = source;
            state.registers[reg::RDI] = target;
        });
    }
}

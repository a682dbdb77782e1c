//! Random values in the registers of the processor: MSRs, control and debug registers, CPUID, and the
//! instructions that a hypervisor refuses.

use super::mmio::{LAPIC, LAPIC_MOVED};
use super::{ABSENT, Fuzzer, HARMLESS};
use crate::code::{Code, Place};
use crate::run::{Mode, reg};

const APIC_BASE: u64 = 0x1b;
const EFER: u64 = 0xc000_0080;
const COMMAND: u64 = 0x830;
/// Bits of CR0 that change while the guest lives: MP, EM, TS, NE, WP, AM, CD. Not NW: without CD it must raise
/// #GP, which QEMU does not raise, and then no processor enters the guest again.
const CR0_CHANGES: u64 = 0x4005_002e;
/// What is written to DR6 and DR7: bits above must raise #GP, with the same reservation.
const DEBUG_WRITABLE: u64 = 0xffff_ffff;
/// DR7 without breakpoints.
const DR7: u64 = 0x400;
/// SMEP and SMAP, which would take the guest's own pages, open to ring 3, away from it.
const CR4_LEFT_OUT: u64 = 3 << 20;

const MSRS: [u64; 30] = [
    0x10,
    0x1b,
    0x1b,
    0x1b,
    0x8b,
    0xfe,
    0x174,
    0x179,
    0x17a,
    0x1a0,
    0x200,
    0x277,
    0x2ff,
    0x6e0,
    0x6e0,
    0x802,
    0x808,
    0x80b,
    0x80d,
    0x80f,
    0x828,
    0x830,
    0x832,
    0x838,
    0x83e,
    0x83f,
    EFER,
    0xc000_0103,
    0xc001_0015,
    0xc001_0114,
];

/// Instructions that exit, or raise what the hypervisor must pass on.
const INSTRUCTIONS: [&[u8]; 24] = [
    &[0x0f, 0xa2],
    &[0x0f, 0xa2],
    &[0x0f, 0xa2],
    &[0x0f, 0x31],
    &[0x0f, 0x01, 0xf9],
    &[0x0f, 0x33],
    &[0x0f, 0x09],
    &[0x0f, 0x08],
    &[0xf3, 0x90],
    &[0x0f, 0x01, 0xd1],
    &[0x0f, 0x01, 0xd0],
    &[0x0f, 0x01, 0xd9],
    &[0x0f, 0x01, 0xc1],
    &[0x0f, 0x01, 0xc8],
    &[0x0f, 0x01, 0xc9],
    &[0x0f, 0x01, 0xd8],
    &[0x0f, 0x01, 0x3f],
    &[0x0f, 0x0b],
    &[0xcc],
    &[0xf1],
    &[0x0f, 0x20, 0xc0],
    &[0x0f, 0x20, 0xe0],
    &[0x44, 0x0f, 0x20, 0xc0],
    &[0x0f, 0x21, 0xf8],
];

impl Fuzzer {
    /// One access to a register of the processor.
    pub(super) fn processor(&mut self) {
        match self.random.below(8) {
            0..4 => self.model_specific(),
            4 => self.control(),
            5 => self.debug(),
            _ => {
                let bytes = self.random.pick(&INSTRUCTIONS);
                let leaf = self.random.pick(&[0, 1, 7, 0xb, 0xd, 0x4000_0000, 0x4000_0010, 0x8000_0000, 0x8000_0008]);
                let near = leaf + self.random.below(4);
                let place = self.place();
                let any = self.random.chance(8);
                self.run(place, &Code::new(place.mode).raw(bytes), |state| {
                    if !any {
                        state.registers[reg::RAX] = near;
                        state.registers[reg::RCX] &= 7;
                    }
                });
            }
        }
    }

    fn model_specific(&mut self) {
        let write = self.random.chance(2);
        let number = match self.random.below(8) {
            0 => self.random.draw() >> 32,
            1 => 0x800 + self.random.below(0x40),
            _ => self.random.pick(&MSRS),
        };
        let value = match number {
            // Wherever the registers are moved, they stay out of the way of what else the guest does.
            APIC_BASE => {
                let base = self.random.pick(&[LAPIC, LAPIC, LAPIC, LAPIC_MOVED]);
                let mode = self.random.pick(&[0, 0x400, 0x800, 0x800, 0x900, 0xc00, 0xc00, 0xfff]);
                base | mode | if self.random.chance(16) { 1 << 60 } else { 0 }
            }
            EFER => self.efer ^ self.random.pick(&[0, 1, 1 << 8, 1 << 10, 1 << 11, 1 << 12, 1 << 14, 1 << 40]),
            COMMAND => self.random.word() & HARMLESS,
            _ => self.random.word(),
        };
        let place = if self.random.chance(8) { Place::ring3(Mode::Long, 0) } else { Place::ring0(Mode::Long) };
        let code = Code::new(place.mode).raw(if write { &[0x0f, 0x30] } else { &[0x0f, 0x32] });
        self.run(place, &code, |state| {
            state.registers[reg::RCX] = number;
            state.registers[reg::RAX] = value;
            state.registers[reg::RDX] = value >> 32;
        });
    }

    /// Writes CR0, CR2, CR4 or CR8, and puts CR0 and CR4 right again.
    fn control(&mut self) {
        let (code, value): (&[u8], u64) = match self.random.below(4) {
            0 => (&[0x0f, 0x22, 0xc0], self.cr0 ^ self.random.draw() & CR0_CHANGES),
            1 => (&[0x0f, 0x22, 0xd0], self.random.word()),
            2 => (&[0x0f, 0x22, 0xe0], (self.cr4 ^ 1 << self.random.below(64)) & !CR4_LEFT_OUT),
            _ => (&[0x44, 0x0f, 0x22, 0xc0], self.random.below(20)),
        };
        let place = if self.random.chance(8) { Place::ring3(Mode::Long, 0) } else { Place::ring0(Mode::Long) };
        self.run(place, &Code::new(place.mode).raw(code), |state| state.registers[reg::RAX] = value);
        self.put_right();
    }

    /// Reads or writes a debug register, and switches breakpoints off again.
    fn debug(&mut self) {
        let write = self.random.chance(2);
        let number = self.random.below(8) as u8;
        // Breakpoints lie where the guest is never.
        let value = if number < 4 { ABSENT | self.random.below(0x1000) } else { self.random.word() & DEBUG_WRITABLE };
        let code = Code::new(Mode::Long).raw(&[0x0f, if write { 0x23 } else { 0x21 }, 0xc0 | number << 3]);
        let place = if self.random.chance(8) { Place::ring3(Mode::Long, 0) } else { Place::ring0(Mode::Long) };
        self.run(place, &code, |state| state.registers[reg::RAX] = value);
        self.put_right();
    }

    /// CR0, CR4 and DR7 as they were. The first access to a debug register may trap once (DR7.GD).
    fn put_right(&self) {
        let code = Code::new(Mode::Long).raw(&[0x0f, 0x22, 0xc0, 0x0f, 0x22, 0xe1, 0x0f, 0x23, 0xfa]);
        for _ in 0..2 {
            code.run(Place::ring0(Mode::Long), |state| {
                state.registers[reg::RAX] = self.cr0;
                state.registers[reg::RCX] = self.cr4;
                state.registers[reg::RDX] = DR7;
            });
        }
    }
}

/// CR0, CR4 and EFER as they are.
pub fn current() -> [u64; 3] {
    let code = Code::new(Mode::Long).raw(&[0x0f, 0x32, 0x0f, 0x20, 0xc2, 0x0f, 0x20, 0xe3]);
    let state = code.run(Place::ring0(Mode::Long), |state| state.registers[reg::RCX] = EFER);
    [reg::RDX, reg::RBX, reg::RAX].map(|index| state.registers[index])
}

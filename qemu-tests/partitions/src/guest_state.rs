//! The exit page as plain words, and whole guest states to fill it with: two that differ in every field, and
//! the one that the core gives a vCPU at the start.

use core::mem::offset_of;
use portcullis_ipc::exit::{ExitPage, event};
use portcullis_ipc::layout::{EXIT_PAGES, PAGE};

/// Words of the page.
const WORDS: usize = PAGE / 8;
/// First word of guest state; what stands before it describes the exit.
const STATE: usize = offset_of!(ExitPage, registers) / 8;

/// Word offsets of fields, bytes.
pub mod at {
    use super::{ExitPage, offset_of};

    /// `sequence`.
    pub const SEQUENCE: usize = offset_of!(ExitPage, sequence);
    /// `reason` and `valid`.
    pub const REASON: usize = offset_of!(ExitPage, reason);
    /// `dirty` and `cpl`.
    pub const DIRTY: usize = offset_of!(ExitPage, dirty);
    /// `registers`.
    pub const REGISTERS: usize = offset_of!(ExitPage, registers);
    /// `rip`.
    pub const RIP: usize = offset_of!(ExitPage, rip);
    /// `rflags`.
    pub const RFLAGS: usize = offset_of!(ExitPage, rflags);
    /// `cr0`.
    pub const CR0: usize = offset_of!(ExitPage, cr0);
    /// `cr2`.
    pub const CR2: usize = offset_of!(ExitPage, cr2);
    /// `cr3`.
    pub const CR3: usize = offset_of!(ExitPage, cr3);
    /// `cr4`.
    pub const CR4: usize = offset_of!(ExitPage, cr4);
    /// `efer`.
    pub const EFER: usize = offset_of!(ExitPage, efer);
    /// `xcr0`.
    pub const XCR0: usize = offset_of!(ExitPage, xcr0);
    /// `dr`.
    pub const DR0: usize = offset_of!(ExitPage, dr);
    /// `dr6`.
    pub const DR6: usize = offset_of!(ExitPage, dr6);
    /// `dr7`.
    pub const DR7: usize = offset_of!(ExitPage, dr7);
    /// `segments`: two words each, the second the base.
    pub const SEGMENTS: usize = offset_of!(ExitPage, segments);
    /// `star`.
    pub const STAR: usize = offset_of!(ExitPage, star);
    /// `lstar`.
    pub const LSTAR: usize = offset_of!(ExitPage, lstar);
    /// `cstar`.
    pub const CSTAR: usize = offset_of!(ExitPage, cstar);
    /// `sfmask`.
    pub const SFMASK: usize = offset_of!(ExitPage, sfmask);
    /// `kernel_gs_base`.
    pub const KERNEL_GS_BASE: usize = offset_of!(ExitPage, kernel_gs_base);
    /// `sysenter_cs`.
    pub const SYSENTER_CS: usize = offset_of!(ExitPage, sysenter_cs);
    /// `sysenter_esp`.
    pub const SYSENTER_ESP: usize = offset_of!(ExitPage, sysenter_esp);
    /// `sysenter_eip`.
    pub const SYSENTER_EIP: usize = offset_of!(ExitPage, sysenter_eip);
    /// `pat`.
    pub const PAT: usize = offset_of!(ExitPage, pat);
    /// `tsc_aux`.
    pub const TSC_AUX: usize = offset_of!(ExitPage, tsc_aux);
    /// `tsc_offset`.
    pub const TSC_OFFSET: usize = offset_of!(ExitPage, tsc_offset);
    /// `event`.
    pub const EVENT: usize = offset_of!(ExitPage, event);
    /// `shadow` and, in the high half, `windows`.
    pub const SHADOW: usize = offset_of!(ExitPage, shadow);
    /// `xsave`.
    pub const XSAVE: usize = offset_of!(ExitPage, xsave);
    /// MXCSR in `xsave`, and its mask in the high half.
    pub const MXCSR: usize = XSAVE + 24;
    /// Header in `xsave`, eight words.
    pub const XSAVE_HEADER: usize = XSAVE + 512;

    /// Base of segment or table `index`.
    pub const fn base(index: usize) -> usize {
        SEGMENTS + index * 16 + 8
    }
}

/// CR0 of [`State::second`]: PE, MP, ET, NE, WP, AM, PG.
pub const SECOND_CR0: u64 = 0x8005_0033;
/// CR4 of [`State::second`]: PAE, OSFXSR, OSXMMEXCPT.
pub const SECOND_CR4: u64 = 0x620;
/// EFER of [`State::second`]: SCE, LME, LMA, NXE.
pub const SECOND_EFER: u64 = 0xd01;

/// A copy of an exit page.
#[derive(Clone)]
pub struct State([u64; WORDS]);

impl State {
    /// The exit page of vCPU `index` as it is.
    pub fn read(index: u16) -> Self {
        let mut words = [0; WORDS];
        for (offset, word) in words.iter_mut().enumerate() {
            // SAFETY: the core maps the page for the life of the instance and nobody holds a reference into it.
            *word = unsafe { place(index, offset).read_volatile() };
        }
        Self(words)
    }

    /// Writes the state into the exit page of vCPU `index`, with `dirty`; the head stays as it is.
    pub fn write(&self, index: u16, dirty: u32) {
        for (offset, word) in self.0.iter().enumerate().skip(STATE) {
            // SAFETY: as in `read`; the page is writable.
            unsafe { place(index, offset).write_volatile(*word) };
        }
        // SAFETY: as above.
        unsafe { place(index, at::DIRTY / 8).write_volatile(dirty.into()) };
    }

    /// The word at `offset` bytes.
    pub fn word(&self, offset: usize) -> u64 {
        self.0.get(offset / 8).copied().unwrap_or(0)
    }

    /// Sets the word at `offset` bytes.
    pub fn put(&mut self, offset: usize, value: u64) {
        if let Some(word) = self.0.get_mut(offset / 8) {
            *word = value;
        }
    }

    /// Offset of the first word of guest state, or of the space between, that is another one in `other`.
    pub fn difference(&self, other: &Self) -> Option<usize> {
        let mut pairs = self.0.iter().zip(&other.0).enumerate().skip(STATE);
        pairs.find(|(_, (one, two))| one != two).map(|(index, _)| index * 8)
    }

    /// What `vcpu_fetch` shows of a vCPU that was never entered.
    pub fn reset() -> Self {
        let mut state = Self([0; WORDS]);
        for (offset, value) in [
            (at::RFLAGS, 2),
            (at::CR0, 0x10),
            (at::XCR0, 1),
            (at::DR6, 0xffff_0ff0),
            (at::DR7, 0x400),
            (at::PAT, 0x0007_0406_0007_0406),
            (at::XSAVE, 0x37f),
            (at::MXCSR, 0x1f80),
        ] {
            state.put(offset, value);
        }
        state
    }

    /// A state in protected mode with a value of its own in every field.
    pub fn first() -> Self {
        let mut state = Self::marked(1);
        for (offset, value) in [
            (at::RFLAGS, 0x2),
            (at::CR0, 0x11),
            (at::XCR0, 1),
            (at::DR6, 0xffff_0ff0),
            (at::DR7, 0x400),
            (at::PAT, 0x0007_0406_0007_0406),
            (at::XSAVE_HEADER, 1),
        ] {
            state.put(offset, value);
        }
        state
    }

    /// A state in long mode with a value of its own in every field, none of them that of [`State::first`].
    pub fn second() -> Self {
        let mut state = Self::marked(2);
        for (offset, value) in [
            (at::RFLAGS, 0x203),
            (at::CR0, SECOND_CR0),
            (at::CR4, SECOND_CR4),
            (at::EFER, SECOND_EFER),
            (at::XCR0, 3),
            (at::DR6, 0xffff_0ff1),
            (at::DR7, 0x500),
            (at::PAT, 0x0606_0606_0606_0606),
            (at::EVENT, event::interrupt(0x42)),
            (at::SHADOW, 3 | 1 << 32),
            (at::XSAVE_HEADER, 3),
        ] {
            state.put(offset, value);
        }
        state
    }

    /// A state in real mode that runs at `rip` in the first 64 KiB.
    pub fn real(rip: u64) -> Self {
        let mut state = Self::reset();
        state.put(at::RIP, rip);
        for index in 0..10 {
            state.put(at::SEGMENTS + index * 16, 0xffff << 32 | 0x93 << 16);
        }
        state.put(at::SEGMENTS + 16, 0xffff << 32 | 0x9b << 16);
        state.put(at::XSAVE_HEADER, 3);
        state
    }

    /// Fields in which any value is allowed, filled with values that tell `seed` and place.
    fn marked(seed: u64) -> Self {
        let mut state = Self([0; WORDS]);
        let value = |offset: usize| (seed << 56 | offset as u64).wrapping_mul(0x0101_0101_0101_0101) | 1;
        for index in 0..16 {
            state.put(at::REGISTERS + index * 8, value(at::REGISTERS + index * 8));
        }
        for index in 0..4 {
            state.put(at::DR0 + index * 8, value(at::DR0 + index * 8));
        }
        for index in 0..10 {
            let selector = seed << 8 | (index as u64) << 3;
            state.put(at::SEGMENTS + index * 16, (0xffff - seed) << 32 | 0x93 << 16 | selector);
            state.put(at::base(index), 0xffff_8000_0000_0000 | seed << 32 | (index as u64) << 12);
        }
        for offset in [at::LSTAR, at::CSTAR, at::KERNEL_GS_BASE, at::SYSENTER_ESP, at::SYSENTER_EIP] {
            state.put(offset, value(offset) & 0x7fff_ffff_ffff);
        }
        for offset in [at::CR2, at::STAR, at::SFMASK, at::SYSENTER_CS, at::TSC_OFFSET] {
            state.put(offset, value(offset));
        }
        state.put(at::RIP, seed << 12);
        state.put(at::CR3, seed << 12);
        state.put(at::TSC_AUX, value(at::TSC_AUX) & 0xffff_ffff);
        for offset in (at::XSAVE..at::XSAVE_HEADER).chain(at::XSAVE_HEADER + 64..at::XSAVE + 832).step_by(8) {
            state.put(offset, value(offset));
        }
        state.put(at::XSAVE, 0x37f);
        state.put(at::MXCSR, 0x1f80 | seed);
        state
    }
}

fn place(index: u16, word: usize) -> *mut u64 {
    core::ptr::with_exposed_provenance_mut(EXIT_PAGES as usize + usize::from(index) * PAGE + (word % WORDS) * 8)
}

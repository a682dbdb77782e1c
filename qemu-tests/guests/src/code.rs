//! A few bytes of machine code for one mode, and where they run: mode, ring and I/O privilege level.

use crate::machine::{self, CODE, STACK, selector};
use crate::memory::place;
use crate::paging;
use crate::run::{END, Mode, State};

/// Arithmetic flags and DF, all set: what an instruction must leave alone.
pub const FLAGS: u64 = 0xcd7;
/// RF: set in the image that a fault pushes, so it is left out of comparisons.
pub const RESUME_FLAG: u64 = 1 << 16;
const VIRTUAL_8086: u64 = 1 << 17;
const PAGING: u64 = 1 << 31;
const PSE: u64 = 1 << 4;
const PAE: u64 = 1 << 5;

/// Where code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Mode of the processor.
    pub mode: Mode,
    /// Privilege level: 0 or 3. Virtual-8086 code is always 3, real mode 0.
    pub ring: u8,
    /// I/O privilege level: 0 or 3.
    pub iopl: u8,
}

impl core::fmt::Display for Place {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mode = match self.mode {
            Mode::Long => "long",
            Mode::Compatibility => "compat",
            Mode::Protected => "prot",
            Mode::Paged => "paged",
            Mode::PagedPae => "pae",
            Mode::Virtual86 => "vm86",
            Mode::Real => "real",
        };
        write!(out, "{mode}/ring{}/iopl{}", self.ring, self.iopl)
    }
}

impl Place {
    /// Ring 0 of a mode.
    pub const fn ring0(mode: Mode) -> Self {
        Self { mode, ring: 0, iopl: 0 }
    }
    /// Ring 3 of a mode.
    pub const fn ring3(mode: Mode, iopl: u8) -> Self {
        Self { mode, ring: 3, iopl }
    }

    /// A state that starts at the scratch code page of this place, all general registers 0.
    pub fn state(self) -> State {
        let user = self.ring == 3;
        let data = if user { selector::USER_DATA } else { selector::DATA };
        let mut state = State {
            rip: CODE,
            rflags: 2 | u64::from(self.iopl) << 12,
            ss: data,
            ds: data,
            es: data,
            ..State::default()
        };
        state.registers[crate::run::reg::RSP] = STACK;
        match self.mode {
            Mode::Long => state.cs = if user { selector::USER_CODE64 } else { selector::CODE64 },
            Mode::Real => {
                (state.cs, state.ss, state.ds, state.es, state.real) = (0, 0, 0, 0, 1);
            }
            Mode::Virtual86 => {
                (state.cs, state.ss, state.ds, state.es) = (0, 0, 0, 0);
                state.rflags |= VIRTUAL_8086;
            }
            _ => state.cs = if user { selector::USER_CODE32 } else { selector::CODE32 },
        }
        match self.mode {
            Mode::Paged => (state.cr0, state.cr3, state.cr4) = (PAGING, paging::root32(), PSE),
            Mode::PagedPae => (state.cr0, state.cr3, state.cr4) = (PAGING, paging::root_pae(), PAE),
            _ => {}
        }
        state
    }
}

/// Machine code being put together for one mode.
#[derive(Clone, Copy)]
pub struct Code {
    mode: Mode,
    bytes: [u8; 64],
    length: usize,
}

impl Code {
    /// No code yet.
    pub const fn new(mode: Mode) -> Self {
        Self { mode, bytes: [0; 64], length: 0 }
    }
    /// Bytes that mean the same in every mode.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        for &byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
        }
        self
    }
    /// An instruction with a 32-bit operand.
    pub fn op32(self, bytes: &[u8]) -> Self {
        if self.mode.is_16_bit() { self.raw(&[0x66]).raw(bytes) } else { self.raw(bytes) }
    }
    /// An instruction with a 16-bit operand.
    pub fn op16(self, bytes: &[u8]) -> Self {
        if self.mode.is_16_bit() { self.raw(bytes) } else { self.raw(&[0x66]).raw(bytes) }
    }
    /// An instruction that uses DI as a pointer in 16-bit code and EDI or RDI elsewhere: the ModRM byte's
    /// r/m field differs.
    pub fn through_di(self, opcode: &[u8], register: u8) -> Self {
        let rm = if self.mode.is_16_bit() { 5 } else { 7 };
        self.raw(opcode).raw(&[register << 3 | rm])
    }
    /// The bytes so far.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }
    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length as u64
    }
    /// Puts the code, followed by the quiet end, at the scratch code page.
    pub fn put(&self) {
        self.put_at(CODE);
    }
    /// Puts the code, followed by the quiet end, at an address.
    pub fn put_at(&self, address: u64) {
        place(address, self.bytes());
        place(address + self.length(), &[0xcd, END as u8]);
    }
    /// Runs the code at the scratch page in `place`, after `set` changed the registers.
    pub fn run(&self, place: Place, set: impl FnOnce(&mut State)) -> State {
        self.put();
        let mut state = place.state();
        set(&mut state);
        state.run(place.mode);
        state
    }
    /// Runs the code across the boundary of two pages that are not neighbours in memory, `before` bytes in
    /// the first; without `second` that page is absent.
    pub fn run_straddling(&self, place: Place, before: u64, second: bool, set: impl FnOnce(&mut State)) -> State {
        self.put_at(CODE);
        let first = machine::CODE_NEXT + 0x1000 - before;
        for offset in 0..before {
            crate::memory::poke(first + offset, crate::memory::peek::<u8>(CODE + offset));
        }
        for offset in before..self.length() + 2 {
            crate::memory::poke(CODE + offset - before, crate::memory::peek::<u8>(CODE + offset));
        }
        paging::map_window(0, Some(machine::CODE_NEXT));
        paging::map_window(1, second.then_some(CODE));
        let mut state = place.state();
        state.rip = paging::WINDOW + 0x1000 - before;
        set(&mut state);
        state.run(place.mode);
        state
    }
}

/// The run went through all of `code` to the quiet end.
pub fn ended(state: &State, code: &Code) -> bool {
    state.vector == END && state.rip == CODE + code.length() + 2
}

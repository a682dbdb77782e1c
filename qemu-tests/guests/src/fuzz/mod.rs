//! A guest that does whatever a guest may do, at random: commands and channels of the VMware port, accesses to
//! the pages of the interrupt controllers in every form, registers of the processor, string instructions
//! over page tables that make no sense.
//!
//! Left out is what ends or stops the machine by design: reset and sleep registers, INIT and NMI by the
//! interrupt command register, HLT, and page tables that take the guest's own memory away from it.

pub mod mmio;
pub mod ports;
pub mod processor;
pub mod random;
pub mod settings;
pub mod tables;

use crate::code::{Code, FLAGS, Place};
use crate::machine::CODE;
use crate::port::{MAGIC, PORT, command};
use crate::report::line;
use crate::run::{END, Mode, State, reg};
use random::Random;

/// A page-aligned stretch of 2 MiB that string instructions may read and write.
pub const DATA: u64 = 0x60_0000;
/// Bytes of it that addresses are chosen from; the rest is room for repetitions in both directions.
const CHOSEN: u64 = 0x10_0000;
/// Addresses beyond which there is nothing.
pub const ABSENT: u64 = 0x5000_0000;
/// Bits that a word written to a local APIC leaves clear wherever it begins, so that an interrupt command is
/// neither INIT, NMI nor start-up: bit 2 of each byte, one of which becomes bit 10 of the register.
pub const HARMLESS: u64 = !0x0404_0404_0404_0404;

/// Vectors above 15 whose exceptions have an error code.
const WITH_ERROR: [u64; 2] = [17, 21];

const TRAP: u64 = 1 << 8;
const INTERRUPT: u64 = 1 << 9;
const ALIGNMENT: u64 = 1 << 18;

/// What was done so far.
pub struct Fuzzer {
    /// The source of everything.
    pub random: Random,
    /// Runs that came to their end.
    pub ended: u64,
    /// Runs that a trap or an interrupt ended.
    pub trapped: u64,
    /// What channels were given as cookies.
    cookies: [(u64, u64); 4],
    cr0: u64,
    cr4: u64,
    efer: u64,
}

impl Fuzzer {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        tables::init();
        let [cr0, cr4, efer] = processor::current();
        Self { random: Random::new(seed), ended: 0, trapped: 0, cookies: [(0, 0); 4], cr0, cr4, efer }
    }

    /// One operation.
    pub fn step(&mut self) {
        match self.random.below(20) {
            0..5 => self.command(),
            5..8 => self.channel(),
            8 => self.high_bandwidth(),
            9..14 => self.mmio(),
            14..17 => self.processor(),
            _ => self.string(),
        }
    }

    /// Whether the port still answers as it must.
    pub fn port_answers(&mut self) -> bool {
        let code = Code::new(Mode::Long).raw(&[0xed]);
        let state = code.run(Place::ring0(Mode::Long), |state| {
            state.registers[reg::RAX] = u64::from(MAGIC);
            state.registers[reg::RCX] = u64::from(command::GETVERSION);
            state.registers[reg::RDX] = u64::from(PORT);
        });
        state.registers[reg::RAX] == 6 && state.registers[reg::RBX] == u64::from(MAGIC)
    }

    /// A place to run: mostly 64-bit code, of any ring.
    fn place(&mut self) -> Place {
        let mode = match self.random.below(64) {
            0 => Mode::Compatibility,
            1 => Mode::Protected,
            2 => Mode::PagedPae,
            3 => Mode::Virtual86,
            _ => Mode::Long,
        };
        let user = mode == Mode::Virtual86 || self.random.chance(3);
        let iopl = if self.random.chance(2) { 3 } else { 0 };
        if user { Place::ring3(mode, iopl) } else { Place::ring0(mode) }
    }

    /// Runs code with random flags; all registers are random unless `set` sets them.
    fn run(&mut self, place: Place, code: &Code, set: impl FnOnce(&mut State)) -> State {
        let random = &mut self.random;
        let mut before = State::default();
        let state = code.run(place, |state| {
            for (index, register) in state.registers.iter_mut().enumerate() {
                if index != reg::RSP {
                    *register = random.word();
                }
            }
            state.rflags |= random.draw() & FLAGS;
            for (flag, rarity) in [(TRAP, 32), (INTERRUPT, 8), (ALIGNMENT, 16)] {
                state.rflags |= if random.chance(rarity) { flag } else { 0 };
            }
            set(state);
            before = *state;
        });
        // Whatever happened, it happened in the code and not after it. An interrupt with the vector of an
        // exception that has an error code leaves no address: its gate takes one word too many.
        let inside = (CODE..=CODE + code.length() + 2).contains(&state.rip) || WITH_ERROR.contains(&state.vector);
        if !inside {
            line(format_args!("guest fuzz: FAIL astray: {place} {:02x?} from {before:x?} to {state:x?}", code.bytes()));
        }
        match state.vector {
            END => self.ended += 1,
            _ => self.trapped += 1,
        }
        state
    }

    /// An address in [`DATA`].
    fn data(&mut self) -> u64 {
        DATA + (0x20_0000 - CHOSEN) / 2 + self.random.below(CHOSEN)
    }
}

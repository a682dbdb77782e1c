//! MOVS, STOS and LODS on addresses that are not memory.
//!
//! An exit moves a bounded number of elements, and one only where its access is remembered, so that each of
//! those has an exit of its own; a longer repetition goes on at the same instruction with its registers
//! advanced. Elements that lie in memory as a whole are left to the guest.

use super::operand::{Effective, put};
use super::place::Place;
use super::{Bus, Done, Stop};
use crate::memory::all_ones;
use crate::registers::{DIRECTION, TRAP, merge};
use crate::segments::index_of;
use iced_x86::{Code, Instruction, OpKind, Register};
use portcullis_ipc::exit::{ExitPage, gpr, group, segment};

/// Elements that one exit moves where nobody answers.
const AT_ONCE: u64 = 256;

/// A decoded string instruction.
pub struct StringMove {
    /// Bytes of an element.
    width: usize,
    /// Segment of the source, if it is memory; else it is the accumulator.
    source: Option<usize>,
    /// The destination is memory; else it is the accumulator.
    to_memory: bool,
    repeat: bool,
    /// Bytes of the address and count registers: 2, 4 or 8.
    address_bytes: usize,
}

impl StringMove {
    /// `None` when the instruction is none.
    pub fn of(instruction: &Instruction) -> Option<Self> {
        let (width, from_memory, to_memory) = match instruction.code() {
            Code::Movsb_m8_m8 => (1, true, true),
            Code::Movsw_m16_m16 => (2, true, true),
            Code::Movsd_m32_m32 => (4, true, true),
            Code::Movsq_m64_m64 => (8, true, true),
            Code::Stosb_m8_AL => (1, false, true),
            Code::Stosw_m16_AX => (2, false, true),
            Code::Stosd_m32_EAX => (4, false, true),
            Code::Stosq_m64_RAX => (8, false, true),
            Code::Lodsb_AL_m8 => (1, true, false),
            Code::Lodsw_AX_m16 => (2, true, false),
            Code::Lodsd_EAX_m32 => (4, true, false),
            Code::Lodsq_RAX_m64 => (8, true, false),
            _ => return None,
        };
        let address_bytes = match instruction.op_kind(u32::from(!to_memory)) {
            OpKind::MemorySegSI | OpKind::MemoryESDI => 2,
            OpKind::MemorySegESI | OpKind::MemoryESEDI => 4,
            _ => 8,
        };
        let source = from_memory.then(|| index_of(instruction.memory_segment()));
        let repeat = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        Some(Self { width, source, to_memory, repeat, address_bytes })
    }

    /// Moves elements until the bound, the end, or one that cannot be moved; an exception of the first
    /// element is the result, one of a later element comes with the next exit.
    pub fn execute(&self, page: &mut ExitPage, code_bits: u32, bus: &mut impl Bus) -> Result<Done, Stop> {
        let left = if self.repeat { page.registers[gpr::RCX] & all_ones(self.address_bytes) } else { 1 };
        // A trap comes after each element.
        let most = left.min(if page.rflags & TRAP != 0 { 1 } else { AT_ONCE });
        let mut done = 0;
        while done < most {
            match self.element(page, code_bits, bus, done == 0) {
                Ok(last) => {
                    done += 1;
                    if last {
                        break;
                    }
                }
                Err(stop) if done == 0 => return Err(stop),
                Err(_) => break,
            }
        }
        Ok(if done == left { Done::Whole } else { Done::Part })
    }

    /// Moves one element and advances the registers; says whether the exit ends with it. Only the
    /// exit's first element may be one that is remembered.
    fn element(&self, page: &mut ExitPage, code_bits: u32, bus: &mut impl Bus, first: bool) -> Result<bool, Stop> {
        let source = match self.source {
            Some(segment) => Some(self.place(page, code_bits, bus, segment, gpr::RSI, false)?),
            None => None,
        };
        let target = match self.to_memory {
            true => Some(self.place(page, code_bits, bus, segment::ES, gpr::RDI, true)?),
            false => None,
        };
        let places = || source.into_iter().chain(target);
        if places().all(|place| place.is_memory(bus)) {
            return Err(Stop::Memory);
        }
        let remembered = places().any(|place| place.is_remembered(bus));
        if remembered && !first {
            return Err(Stop::Memory);
        }
        let accumulator = page.registers[gpr::RAX];
        let access = |bus: &mut _| {
            let value = source.map_or(accumulator, |place| place.load(bus));
            if let Some(place) = target {
                place.store_outside(bus, value);
            }
            value
        };
        let value = if remembered { bus.once(access) } else { access(bus) };
        match target {
            Some(place) => place.store_inside(bus, value),
            None => put(page, self.accumulator(), value),
        }
        self.advance(page);
        Ok(remembered)
    }

    fn place(
        &self,
        page: &ExitPage,
        code_bits: u32,
        bus: &mut impl Bus,
        segment: usize,
        index: usize,
        writes: bool,
    ) -> Result<Place, Stop> {
        let offset = page.registers.get(index).copied().unwrap_or(0);
        let effective = Effective::indexed(segment, offset, self.address_bytes);
        let linear = effective.linear(page, self.width, writes, code_bits)?;
        Place::translate(page, bus, linear, self.width, writes)
    }

    fn accumulator(&self) -> Register {
        match self.width {
            1 => Register::AL,
            2 => Register::AX,
            4 => Register::EAX,
            _ => Register::RAX,
        }
    }

    /// Advances index and count registers by an element.
    fn advance(&self, page: &mut ExitPage) {
        let step = self.width as u64;
        let step = if page.rflags & DIRECTION != 0 { step.wrapping_neg() } else { step };
        let indexes = [self.source.map(|_| gpr::RSI), self.to_memory.then_some(gpr::RDI)];
        let steps = indexes.into_iter().flatten().map(|index| (index, step));
        let count = self.repeat.then_some((gpr::RCX, u64::MAX));
        for (index, step) in steps.chain(count) {
            if let Some(register) = page.registers.get_mut(index) {
                *register = merge(*register, self.address_bytes, register.wrapping_add(step));
            }
        }
        page.dirty |= group::GENERAL;
    }
}

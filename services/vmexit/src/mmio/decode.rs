//! From an instruction to what it does with its one operand in memory.

use super::operand::{self, Effective, put};
use super::operation::{Action, Arithmetic, Bit, Operands};
use super::place::Place;
use super::{Bus, Done, Stop};
use crate::registers::merge;
use iced_x86::{Instruction, Mnemonic, OpKind};
use portcullis_ipc::exit::{ExitPage, gpr, group};

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    action: Action,
    /// Bytes of the operand in memory.
    width: usize,
    /// Memory holds the bytes in the opposite order.
    swapped: bool,
    /// Index of the other operand, where there is one.
    other: Option<u32>,
}

impl Operation {
    /// The operation of `instruction`; `None` when it is none of those that are emulated.
    pub fn of(instruction: &Instruction) -> Option<Self> {
        let width = instruction.memory_size().size();
        if !matches!(width, 1 | 2 | 4 | 8) {
            return None;
        }
        let in_memory = |index| index < instruction.op_count() && instruction.op_kind(index) == OpKind::Memory;
        let (left, right) = (in_memory(0), in_memory(1));
        if left == right {
            return None;
        }
        let other = match instruction.op_count() {
            1 => None,
            2 => Some(u32::from(left)),
            _ => return None,
        };
        let action = action(instruction.mnemonic(), left)?;
        // A move to a segment register loads a descriptor; moves to others keep to general registers.
        let general = other.is_none_or(|index| operand::is_usable(instruction, index, left));
        let swapped = instruction.mnemonic() == Mnemonic::Movbe;
        general.then_some(Self { action, width, swapped, other })
    }

    /// Does it.
    pub fn execute(
        self,
        page: &mut ExitPage,
        instruction: &Instruction,
        code_bits: u32,
        bus: &mut impl Bus,
    ) -> Result<Done, Stop> {
        let source = self.other.map_or(0, |index| operand::value(page, instruction, index));
        let effective = Effective::of(page, instruction, code_bits);
        let effective = match self.action {
            Action::Bit(_) if self.other_is_register(instruction) => effective.beside(bit_distance(source, self.width)),
            _ => effective,
        };
        let linear = effective.linear(page, self.width, self.action.writes(), code_bits)?;
        let place = Place::translate(page, bus, linear, self.width, self.action.writes())?;
        if place.is_memory(bus) {
            return Err(Stop::Memory);
        }
        let (accumulator, flags) = (page.registers[gpr::RAX], page.rflags);
        let outcome = |read| {
            let memory = self.ordered(read);
            let mut results = self.action.apply(&Operands { memory, source, accumulator, flags, width: self.width });
            results.memory = results.memory.map(|value| self.ordered(value));
            results
        };
        let old = place.once(bus, |bus| {
            let old = if self.action.reads() { place.load(bus) } else { 0 };
            if let Some(new) = outcome(old).memory {
                place.store_outside(bus, new);
            }
            old
        });
        let results = outcome(old);
        if let Some(new) = results.memory {
            place.store_inside(bus, new);
        }
        if let (Some(value), Some(index)) = (results.register, self.other) {
            put(page, instruction.op_register(index), value);
        }
        if let Some(value) = results.accumulator {
            page.registers[gpr::RAX] = merge(accumulator, self.width, value);
            page.dirty |= group::GENERAL;
        }
        if results.flags != flags {
            page.rflags = results.flags;
            page.dirty |= group::FLOW;
        }
        Ok(Done::Whole)
    }

    fn other_is_register(self, instruction: &Instruction) -> bool {
        self.other.is_some_and(|index| instruction.op_kind(index) == OpKind::Register)
    }

    fn ordered(self, value: u64) -> u64 {
        if self.swapped { value.swap_bytes() >> (64 - 8 * self.width) } else { value }
    }
}

/// Bytes between the operand's address and the word that holds bit `number`, which has a sign.
fn bit_distance(number: u64, width: usize) -> u64 {
    let unused = 64 - 8 * width as u32;
    let number = (number << unused) as i64 >> unused;
    let bits = 8 * width as i64;
    (number.div_euclid(bits) * width as i64) as u64
}

fn action(mnemonic: Mnemonic, left: bool) -> Option<Action> {
    use Arithmetic::{Add, AddCarry, And, Or, Subtract, SubtractBorrow, Xor};
    let both = |operation| Some(if left { Action::Memory(operation, true) } else { Action::Register(operation, true) });
    match mnemonic {
        Mnemonic::Mov | Mnemonic::Movbe if left => Some(Action::Store),
        Mnemonic::Mov | Mnemonic::Movbe | Mnemonic::Movzx => Some(Action::Load),
        Mnemonic::Movsx | Mnemonic::Movsxd => Some(Action::LoadSigned),
        Mnemonic::Movnti => Some(Action::Store),
        Mnemonic::Xchg => Some(Action::Exchange),
        Mnemonic::Xadd => Some(Action::ExchangeAdd),
        Mnemonic::Cmpxchg => Some(Action::CompareExchange),
        Mnemonic::Add => both(Add),
        Mnemonic::Adc => both(AddCarry),
        Mnemonic::Sub => both(Subtract),
        Mnemonic::Sbb => both(SubtractBorrow),
        Mnemonic::And => both(And),
        Mnemonic::Or => both(Or),
        Mnemonic::Xor => both(Xor),
        Mnemonic::Test => Some(Action::Memory(And, false)),
        Mnemonic::Cmp if left => Some(Action::Memory(Subtract, false)),
        Mnemonic::Cmp => Some(Action::Register(Subtract, false)),
        Mnemonic::Bt => Some(Action::Bit(Bit::Keep)),
        Mnemonic::Bts => Some(Action::Bit(Bit::Set)),
        Mnemonic::Btr => Some(Action::Bit(Bit::Clear)),
        Mnemonic::Btc => Some(Action::Bit(Bit::Flip)),
        Mnemonic::Inc => Some(Action::Increment),
        Mnemonic::Dec => Some(Action::Decrement),
        Mnemonic::Not => Some(Action::Not),
        Mnemonic::Neg => Some(Action::Negate),
        _ => None,
    }
}

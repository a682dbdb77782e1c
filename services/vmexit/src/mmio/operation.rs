//! What an operation makes of its operands, and the flags. Values are as wide as the operand; what is
//! above does not count.

use crate::memory::all_ones;

/// RFLAGS.CF.
const CARRY: u64 = 1 << 0;
/// RFLAGS.PF.
const PARITY: u64 = 1 << 2;
/// RFLAGS.AF.
const AUXILIARY: u64 = 1 << 4;
/// RFLAGS.ZF.
const ZERO: u64 = 1 << 6;
/// RFLAGS.SF.
const SIGN: u64 = 1 << 7;
/// RFLAGS.OF.
const OVERFLOW: u64 = 1 << 11;
const ARITHMETIC: u64 = CARRY | PARITY | AUXILIARY | ZERO | SIGN | OVERFLOW;

/// An operation with a result and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// ADD.
    Add,
    /// ADC.
    AddCarry,
    /// SUB and CMP.
    Subtract,
    /// SBB.
    SubtractBorrow,
    /// AND and TEST.
    And,
    /// OR.
    Or,
    /// XOR.
    Xor,
}

/// What becomes of a bit that was copied to the carry flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bit {
    /// BT.
    Keep,
    /// BTS.
    Set,
    /// BTR.
    Clear,
    /// BTC.
    Flip,
}

/// What an instruction does with its operand in memory and the other one, its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Register from memory.
    Load,
    /// Register from memory, with its sign.
    LoadSigned,
    /// Memory from source.
    Store,
    /// Both ways.
    Exchange,
    /// Both ways, and memory gets the sum.
    ExchangeAdd,
    /// Memory from source if it equals the accumulator, else the accumulator from memory.
    CompareExchange,
    /// Memory is the left operand and gets the result if the flag says so.
    Memory(Arithmetic, bool),
    /// The register is the left operand and gets the result if the flag says so.
    Register(Arithmetic, bool),
    /// A bit of memory.
    Bit(Bit),
    /// Plus one, without the carry flag.
    Increment,
    /// Minus one, without the carry flag.
    Decrement,
    /// Every bit the other way.
    Not,
    /// Zero less it.
    Negate,
}

impl Action {
    /// Reads its operand in memory.
    pub fn reads(self) -> bool {
        self != Self::Store
    }

    /// Writes its operand in memory.
    pub fn writes(self) -> bool {
        !matches!(
            self,
            Self::Load | Self::LoadSigned | Self::Memory(_, false) | Self::Register(..) | Self::Bit(Bit::Keep)
        )
    }
}

/// Operands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Operands {
    /// In memory.
    pub memory: u64,
    /// The other one; the bit's number for [`Action::Bit`].
    pub source: u64,
    /// RAX.
    pub accumulator: u64,
    /// RFLAGS.
    pub flags: u64,
    /// Bytes of the operand in memory: 1, 2, 4 or 8.
    pub width: usize,
}

/// What comes out; `None` is not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// To memory.
    pub memory: Option<u64>,
    /// To the register operand.
    pub register: Option<u64>,
    /// To RAX.
    pub accumulator: Option<u64>,
    /// RFLAGS.
    pub flags: u64,
}

impl Action {
    /// What the action makes of its operands.
    pub fn apply(self, operands: &Operands) -> Results {
        let Operands { accumulator, flags, width, .. } = *operands;
        let mask = all_ones(width);
        let (memory, source) = (operands.memory & mask, operands.source & mask);
        let plain = Results { flags, ..Results::default() };
        let both = |left, right, operation| arithmetic(operation, left, right, flags, width);
        match self {
            Self::Load => Results { register: Some(memory), ..plain },
            Self::LoadSigned => Results { register: Some(sign_extended(memory, width)), ..plain },
            Self::Store => Results { memory: Some(source), ..plain },
            Self::Exchange => Results { memory: Some(source), register: Some(memory), ..plain },
            Self::ExchangeAdd => {
                let (sum, flags) = both(memory, source, Arithmetic::Add);
                Results { memory: Some(sum), register: Some(memory), accumulator: None, flags }
            }
            Self::CompareExchange => {
                let (difference, flags) = both(accumulator & mask, memory, Arithmetic::Subtract);
                match difference {
                    0 => Results { memory: Some(source), flags, ..plain },
                    // The processor writes in either case.
                    _ => Results { memory: Some(memory), accumulator: Some(memory), register: None, flags },
                }
            }
            Self::Memory(operation, keeps) => {
                let (result, flags) = both(memory, source, operation);
                Results { memory: keeps.then_some(result), flags, ..plain }
            }
            Self::Register(operation, keeps) => {
                let (result, flags) = both(source, memory, operation);
                Results { register: keeps.then_some(result), flags, ..plain }
            }
            Self::Bit(what) => {
                let bit = 1 << (operands.source & (8 * width as u64 - 1));
                let flags = flags & !CARRY | if memory & bit != 0 { CARRY } else { 0 };
                let memory = match what {
                    Bit::Keep => None,
                    Bit::Set => Some(memory | bit),
                    Bit::Clear => Some(memory & !bit),
                    Bit::Flip => Some(memory ^ bit),
                };
                Results { memory, flags, ..plain }
            }
            Self::Increment | Self::Decrement => {
                let operation = if self == Self::Increment { Arithmetic::Add } else { Arithmetic::Subtract };
                let (result, changed) = both(memory, 1, operation);
                Results { memory: Some(result), flags: changed & !CARRY | flags & CARRY, ..plain }
            }
            Self::Not => Results { memory: Some(!memory & mask), ..plain },
            Self::Negate => {
                let (result, flags) = both(0, memory, Arithmetic::Subtract);
                Results { memory: Some(result), flags, ..plain }
            }
        }
    }
}

/// A value of `width` bytes with its sign to 64 bits.
fn sign_extended(value: u64, width: usize) -> u64 {
    let unused = 64 - 8 * width as u32;
    ((value << unused) as i64 >> unused) as u64
}

/// Result and flags. AF after a logical operation is undefined; here it is 0, as on real processors.
fn arithmetic(operation: Arithmetic, left: u64, right: u64, flags: u64, width: usize) -> (u64, u64) {
    let mask = all_ones(width);
    let carried = u128::from(flags & CARRY);
    let (wide_left, wide_right) = (u128::from(left), u128::from(right));
    let with = match operation {
        Arithmetic::AddCarry | Arithmetic::SubtractBorrow => wide_right + carried,
        _ => wide_right,
    };
    // The carry, and what overflows when the result's sign is wrong.
    let (result, carry, wrong_sign) = match operation {
        Arithmetic::Add | Arithmetic::AddCarry => {
            let sum = wide_left + with;
            let result = sum as u64 & mask;
            (result, sum > u128::from(mask), (left ^ result) & (right ^ result))
        }
        Arithmetic::Subtract | Arithmetic::SubtractBorrow => {
            let result = left.wrapping_sub(with as u64) & mask;
            (result, wide_left < with, (left ^ right) & (left ^ result))
        }
        Arithmetic::And => (left & right, false, 0),
        Arithmetic::Or => (left | right, false, 0),
        Arithmetic::Xor => (left ^ right, false, 0),
    };
    let logical = matches!(operation, Arithmetic::And | Arithmetic::Or | Arithmetic::Xor);
    let sign = 1 << (8 * width as u32 - 1);
    let set = |condition, flag| if condition { flag } else { 0 };
    let new = set(carry, CARRY)
        | set((result as u8).count_ones().is_multiple_of(2), PARITY)
        | set(!logical && (left ^ right ^ result) & 0x10 != 0, AUXILIARY)
        | set(result == 0, ZERO)
        | set(result & sign != 0, SIGN)
        | set(wrong_sign & sign != 0, OVERFLOW);
    (result, flags & !ARITHMETIC | new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An adder of single bits: result, carry out of the last bit and of bit 3, and whether the sign is wrong.
    fn ripple(left: u64, right: u64, mut carry: bool, width: usize) -> (u64, bool, bool, bool) {
        let (mut result, mut half, mut into_last) = (0, false, false);
        for bit in 0..8 * width {
            let (a, b) = (left >> bit & 1 != 0, right >> bit & 1 != 0);
            into_last = carry;
            result |= u64::from(a ^ b ^ carry) << bit;
            carry = a && b || carry && (a || b);
            half = if bit == 3 { carry } else { half };
        }
        (result, carry, half, into_last != carry)
    }

    /// The same operation by single bits: result and flags.
    fn by_bits(operation: Arithmetic, left: u64, right: u64, flags: u64, width: usize) -> (u64, u64) {
        let carry = flags & CARRY != 0;
        let (result, carry, half, overflow) = match operation {
            Arithmetic::Add => ripple(left, right, false, width),
            Arithmetic::AddCarry => ripple(left, right, carry, width),
            // A borrow is a carry that did not come.
            Arithmetic::Subtract | Arithmetic::SubtractBorrow => {
                let borrow = operation == Arithmetic::SubtractBorrow && carry;
                let (result, carry, half, overflow) = ripple(left, !right, !borrow, width);
                (result, !carry, !half, overflow)
            }
            Arithmetic::And => (left & right, false, false, false),
            Arithmetic::Or => (left | right, false, false, false),
            Arithmetic::Xor => (left ^ right, false, false, false),
        };
        let even = (0..8).fold(true, |even, bit| even ^ (result >> bit & 1 != 0));
        let sign = result >> (8 * width - 1) & 1 != 0;
        let flags = [(carry, 0), (even, 2), (half, 4), (result == 0, 6), (sign, 7), (overflow, 11)];
        (result, flags.into_iter().fold(0, |word, (set, bit)| word | u64::from(set) << bit))
    }

    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            prop::sample::select(vec![0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000, 1 << 63, !0])
        ]
    }

    proptest! {
        #[test]
        fn results_and_flags_are_those_of_an_adder_of_single_bits(
            operation in prop::sample::select(vec![
                Arithmetic::Add, Arithmetic::AddCarry, Arithmetic::Subtract, Arithmetic::SubtractBorrow,
                Arithmetic::And, Arithmetic::Or, Arithmetic::Xor,
            ]),
            left in value(), right in value(), flags in any::<u64>(),
            width in prop::sample::select(vec![1usize, 2, 4, 8])
        ) {
            let (left, right) = (left & all_ones(width), right & all_ones(width));
            let (result, after) = arithmetic(operation, left, right, flags, width);
            prop_assert_eq!((result, after & ARITHMETIC), by_bits(operation, left, right, flags, width));
            prop_assert_eq!(after & !ARITHMETIC, flags & !ARITHMETIC);
        }

        #[test]
        fn an_action_writes_memory_exactly_when_it_says_so(
            memory: u64, source: u64, accumulator: u64, flags: u64,
            width in prop::sample::select(vec![1usize, 2, 4, 8])
        ) {
            let operands = Operands { memory, source, accumulator, flags, width };
            for action in [
                Action::Load, Action::LoadSigned, Action::Store, Action::Exchange, Action::ExchangeAdd,
                Action::CompareExchange, Action::Memory(Arithmetic::And, false), Action::Memory(Arithmetic::Or, true),
                Action::Register(Arithmetic::Xor, true), Action::Bit(Bit::Keep), Action::Bit(Bit::Flip),
                Action::Increment, Action::Decrement, Action::Not, Action::Negate,
            ] {
                let results = action.apply(&operands);
                prop_assert_eq!(results.memory.is_some(), action.writes(), "{:?}", action);
                prop_assert!(results.memory.is_none_or(|value| value & !all_ones(width) == 0), "{:?}", action);
            }
        }
    }
}

//! Operands of an instruction: registers and their parts, constants, and the address of the one in memory.

use super::Stop;
use crate::data;
use crate::memory::{GuestMemory, all_ones};
use crate::paging::{Access, Miss, Translation};
use crate::registers::{linear, merge};
use crate::segments::{index_of, refusal};
use iced_x86::{Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};
use portcullis_ipc::exit::{ExitPage, group};

/// An operand's place in its segment.
#[derive(Clone, Copy)]
pub struct Effective {
    segment: usize,
    offset: u64,
    /// Bits of the offset that count.
    mask: u64,
}

impl Effective {
    /// Of the one operand in memory that has a base, an index or a displacement.
    pub fn of(page: &ExitPage, instruction: &Instruction, code_bits: u32) -> Self {
        let segment = index_of(instruction.memory_segment());
        let operand = u32::from(instruction.op0_kind() != OpKind::Memory);
        let offset = instruction.virtual_address(operand, 0, |register, _, _| {
            // The segment's base is added later, with the rules of the mode.
            Some(if register.is_segment_register() { 0 } else { get(page, register).unwrap_or(0) })
        });
        let bytes = address_bytes(instruction, code_bits);
        Self { segment, offset: offset.unwrap_or(0), mask: all_ones(bytes) }
    }

    /// Of a string instruction: the offset is a register's, `bytes` of it count.
    pub fn indexed(segment: usize, offset: u64, bytes: usize) -> Self {
        let mask = all_ones(bytes);
        Self { segment, offset: offset & mask, mask }
    }

    /// The same, `distance` bytes further.
    pub fn beside(self, distance: u64) -> Self {
        Self { offset: self.offset.wrapping_add(distance) & self.mask, ..self }
    }

    /// The linear address, or the exception that the segment raises.
    pub fn linear(self, page: &ExitPage, length: usize, writes: bool, code_bits: u32) -> Result<u64, Stop> {
        match refusal(page, self.segment, self.offset, length as u32, writes, code_bits) {
            Some(fault) => Err(Stop::Exception(fault)),
            None => Ok(linear(page, self.segment, self.offset, code_bits)),
        }
    }
}

/// Width of the address in bytes.
fn address_bytes(instruction: &Instruction, code_bits: u32) -> usize {
    let registers = [instruction.memory_base(), instruction.memory_index()];
    let register = registers.into_iter().find(|register| *register != Register::None);
    match (register, instruction.memory_displ_size()) {
        (Some(register), _) => register.size(),
        (None, size @ (2 | 4 | 8)) => size as usize,
        _ => code_bits as usize / 8,
    }
}

/// Whether operand `index` beside one in memory is a general register, a constant, or, where it is only
/// read, a segment register.
pub fn is_usable(instruction: &Instruction, index: u32, reads_only: bool) -> bool {
    match instruction.op_kind(index) {
        OpKind::Register => {
            let register = instruction.op_register(index);
            register.is_gpr() || reads_only && register.is_segment_register()
        }
        OpKind::Immediate8
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => true,
        _ => false,
    }
}

/// Value of a register or constant; see [`is_usable`].
pub fn value(page: &ExitPage, instruction: &Instruction, index: u32) -> u64 {
    if instruction.op_kind(index) != OpKind::Register {
        return instruction.immediate(index);
    }
    let register = instruction.op_register(index);
    if register.is_segment_register() {
        return page.segments.get(index_of(register)).map_or(0, |one| one.selector.into());
    }
    get(page, register).unwrap_or(0)
}

/// Value of a general register, or of a part of one.
pub fn get(page: &ExitPage, register: Register) -> Option<u64> {
    let full = page.registers.get(register.full_register().number())?;
    let shifted = if is_high_byte(register) { full >> 8 } else { *full };
    register.is_gpr().then_some(shifted & all_ones(register.size()))
}

/// Writes a general register, or a part of one.
pub fn put(page: &mut ExitPage, register: Register, value: u64) {
    let Some(full) = page.registers.get_mut(register.full_register().number()) else { return };
    *full = if is_high_byte(register) {
        *full & !0xff00 | (value & 0xff) << 8
    } else {
        merge(*full, register.size(), value)
    };
    page.dirty |= group::GENERAL;
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// The page fault that one of an instruction's operands in memory raises, if one does: for instructions
/// that are not emulated and met page tables which lie outside memory.
pub fn reach(
    page: &ExitPage,
    memory: &mut impl GuestMemory,
    instruction: &Instruction,
    code_bits: u32,
) -> Option<Miss> {
    let translation = Translation::of(page);
    let mut factory = InstructionInfoFactory::new();
    for operand in factory.info(instruction).used_memory() {
        let offset = operand.virtual_address(0, |register, _, _| {
            Some(if register.is_segment_register() { 0 } else { get(page, register).unwrap_or(0) })
        });
        let address = linear(page, index_of(operand.segment()), offset.unwrap_or(0), code_bits);
        let access = match operand.access() {
            OpAccess::Read | OpAccess::CondRead => Access::Read,
            OpAccess::NoMemAccess | OpAccess::None => continue,
            _ => Access::Write,
        };
        let length = operand.memory_size().size().clamp(1, 64);
        if let Err(miss) = data::translate(&translation, memory, address, length, access) {
            return Some(miss);
        }
    }
    None
}

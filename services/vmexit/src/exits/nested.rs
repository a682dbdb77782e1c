//! Guest-physical addresses behind which there is nothing: reads bring all ones, writes go nowhere, and
//! an instruction fetch stops the machine. Emulated are the moves that probing code uses.

use super::string::{segment_fault, segment_index};
use crate::data;
use crate::exception::raise;
use crate::host::Host;
use crate::machine::{Machine, Step};
use crate::memory::GuestMemory;
use crate::paging::Translation;
use crate::registers::{after, finish, merge};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use portcullis_ipc::exit::{ExitPage, access, event, group};
use portcullis_ipc::syscall::Resume;

impl<H: Host> Machine<H> {
    pub(crate) fn nested_fault(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        let [address, how, _] = page.qualification;
        if address < self.host.memory().size() {
            return self.stop(vcpu, page, "access to guest memory that its protection refuses", address);
        }
        if page.event & event::VALID != 0 {
            return self.stop(vcpu, page, "event delivered through memory that is not there", address);
        }
        let bytes = self.bytes(vcpu, page, 0)?;
        if bytes.as_slice().is_empty() || how & access::FETCH != 0 && how & access::GUEST_WALK == 0 {
            return self.stop(vcpu, page, "instruction fetch where there is no memory", address);
        }
        let Some(instruction) = bytes.decode(page.rip) else {
            return self.stop(vcpu, page, "unknown instruction on memory that is not there", address);
        };
        if !self.emulate(page, &instruction, bytes.bits)? {
            let code = instruction.mnemonic() as u64;
            return self.stop(vcpu, page, "instruction that is not emulated on memory that is not there", code);
        }
        finish(page, after(page, instruction.len(), bytes.bits));
        Ok(Resume::ENTER)
    }

    /// Does the instruction; `false` when it is none of those that are emulated.
    fn emulate(&mut self, page: &mut ExitPage, instruction: &Instruction, code_bits: u32) -> Step<bool> {
        let loads = instruction.op1_kind() == OpKind::Memory;
        let stores = instruction.op0_kind() == OpKind::Memory;
        let length = instruction.memory_size().size();
        if !matches!(length, 1 | 2 | 4 | 8) || !(loads || stores) {
            return Ok(false);
        }
        let signed = match (instruction.mnemonic(), loads) {
            (Mnemonic::Mov | Mnemonic::Movzx, true) | (Mnemonic::Mov | Mnemonic::Movnti, false) => false,
            (Mnemonic::Movsx | Mnemonic::Movsxd, true) => true,
            _ => return Ok(false),
        };
        let address = self.address(page, instruction, length as u32, code_bits)?;
        let translation = Translation::of(page);
        let mut buffer = [0; 8];
        let bytes = buffer.get_mut(..length).unwrap_or_default();
        if stores {
            let Some(value) = source(page, instruction) else {
                return Ok(false);
            };
            for (to, from) in bytes.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
            let written = data::write(&translation, self.host.memory(), address, bytes);
            written.map_err(|fault| self.page_fault(page, fault))?;
            return Ok(true);
        }
        let read = data::read(&translation, self.host.memory(), address, bytes);
        read.map_err(|fault| self.page_fault(page, fault))?;
        let unused = 64 - 8 * length as u32;
        let value = u64::from_le_bytes(buffer);
        let value = if signed { ((value << unused) as i64 >> unused) as u64 } else { value };
        Ok(put(page, instruction.op0_register(), value))
    }

    /// The linear address of the memory operand, or the exception that its segment raises.
    fn address(&mut self, page: &mut ExitPage, instruction: &Instruction, length: u32, code_bits: u32) -> Step<u64> {
        let index = segment_index(instruction.memory_segment());
        let operand = u32::from(instruction.op0_kind() != OpKind::Memory);
        let offset = instruction.virtual_address(operand, 0, |register, _, _| {
            // The segment's base is added below, with the rules of the mode.
            Some(if register.is_segment_register() { 0 } else { get(page, register).unwrap_or(0) })
        });
        let offset = offset.unwrap_or(0);
        if let Some(fault) = segment_fault(page, index, offset, length, code_bits) {
            raise(page, fault, Some(0));
            return Err(Resume::ENTER);
        }
        Ok(crate::registers::linear(page, index, offset, code_bits))
    }
}

/// Value of a general register, or of a part of one.
fn get(page: &ExitPage, register: Register) -> Option<u64> {
    if register == Register::RIP || register == Register::EIP {
        return Some(page.rip);
    }
    let full = page.registers.get(register.full_register().number())?;
    let shifted = if is_high_byte(register) { full >> 8 } else { *full };
    Some(shifted & crate::memory::all_ones(register.size()))
}

/// Writes a general register, or a part of one; `false` when it is none.
fn put(page: &mut ExitPage, register: Register, value: u64) -> bool {
    let Some(full) = page.registers.get_mut(register.full_register().number()) else {
        return false;
    };
    if !register.is_gpr() {
        return false;
    }
    *full = if is_high_byte(register) {
        *full & !0xff00 | (value & 0xff) << 8
    } else {
        merge(*full, register.size(), value)
    };
    page.dirty |= group::GENERAL;
    true
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// What a move stores: a register or a constant.
fn source(page: &ExitPage, instruction: &Instruction) -> Option<u64> {
    match instruction.op1_kind() {
        OpKind::Register if instruction.op1_register().is_gpr() => get(page, instruction.op1_register()),
        OpKind::Register if instruction.op1_register().is_segment_register() => {
            let index = segment_index(instruction.op1_register());
            page.segments.get(index).map(|one| u64::from(one.selector))
        }
        OpKind::Immediate8 | OpKind::Immediate16 | OpKind::Immediate32 | OpKind::Immediate32to64 => {
            Some(instruction.immediate(1))
        }
        _ => None,
    }
}

//! INS and OUTS: the processor gives the port, the rest stands in the instruction and in guest memory.
//!
//! An exit moves a bounded number of elements; a longer repetition goes on at the same instruction with
//! its registers advanced, as the architecture allows.

use crate::data;
use crate::exception::{raise, vector};
use crate::host::Host;
use crate::machine::{Machine, Step};
use crate::paging::Translation;
use crate::registers::{DIRECTION, after, finish, linear, merge};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use portcullis_ipc::exit::{ExitPage, gpr, group, segment};
use portcullis_ipc::syscall::Resume;

/// Elements that one exit moves at a port that nobody claims.
const AT_ONCE: u64 = 256;

/// A decoded string instruction.
pub(super) struct StringIo {
    pub(super) width: u32,
    pub(super) input: bool,
    pub(super) repeat: bool,
    /// Bytes of the address and count registers: 2, 4 or 8.
    address_bytes: usize,
    pub(super) segment: usize,
    /// RSI or RDI.
    pub(super) index: usize,
}

impl StringIo {
    pub(super) fn of(instruction: &Instruction) -> Option<Self> {
        let (width, input) = match instruction.mnemonic() {
            Mnemonic::Insb => (1, true),
            Mnemonic::Insw => (2, true),
            Mnemonic::Insd => (4, true),
            Mnemonic::Outsb => (1, false),
            Mnemonic::Outsw => (2, false),
            Mnemonic::Outsd => (4, false),
            _ => return None,
        };
        let operand = instruction.op_kind(if input { 0 } else { 1 });
        let address_bytes = match operand {
            OpKind::MemorySegSI | OpKind::MemoryESDI => 2,
            OpKind::MemorySegESI | OpKind::MemoryESEDI => 4,
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => 8,
            _ => return None,
        };
        let segment = if input { segment::ES } else { segment_index(instruction.memory_segment()) };
        let repeat = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        let index = if input { gpr::RDI } else { gpr::RSI };
        Some(Self { width, input, repeat, address_bytes, segment, index })
    }

    pub(super) fn mask(&self) -> u64 {
        crate::memory::all_ones(self.address_bytes)
    }
}

/// Index in the exit page of a segment register.
pub(crate) fn segment_index(register: Register) -> usize {
    match register {
        Register::ES => segment::ES,
        Register::CS => segment::CS,
        Register::SS => segment::SS,
        Register::FS => segment::FS,
        Register::GS => segment::GS,
        _ => segment::DS,
    }
}

/// The exception that an access of `length` bytes at `offset` of a segment raises before any translation.
pub(crate) fn segment_fault(page: &ExitPage, index: usize, offset: u64, length: u32, code_bits: u32) -> Option<u8> {
    let fault = if index == segment::SS { vector::STACK } else { vector::PROTECTION };
    if code_bits == 64 {
        let address = linear(page, index, offset, 64);
        let canonical = |address: u64| (address as i64) << 16 >> 16 == address as i64;
        let last = address.wrapping_add(u64::from(length) - 1);
        return (!canonical(address) || !canonical(last)).then_some(fault);
    }
    let limit = page.segments.get(index).map_or(0, |one| one.limit);
    let last = offset.checked_add(u64::from(length) - 1);
    last.is_none_or(|last| last > limit.into()).then_some(fault)
}

impl<H: Host> Machine<H> {
    pub(crate) fn string_port(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        let bytes = self.bytes(vcpu, page, 0)?;
        let instruction = bytes.decode(page.rip).ok_or(Resume::ENTER)?;
        let string = StringIo::of(&instruction).ok_or(Resume::ENTER)?;
        let port = page.registers[gpr::RDX] as u16;
        if string.width == 1 && self.is_high_bandwidth(page, port) {
            return self.high_bandwidth(vcpu, page, &string, instruction.len(), bytes.bits);
        }
        let mask = string.mask();
        let total = if string.repeat { page.registers[gpr::RCX] & mask } else { 1 };
        // At a claimed port each element is an exit of its own, so that it has a record of its own.
        let claimed = self.claimed.may_have(port, string.width);
        let most = total.min(if claimed { 1 } else { AT_ONCE });
        let backwards = page.rflags & DIRECTION != 0;
        let step = u64::from(string.width);
        let step = if backwards { step.wrapping_neg() } else { step };
        let mut done = 0;
        let mut end = Ok(Resume::ENTER);
        while done < most && end.is_ok() {
            let offset = page.registers[string.index].wrapping_add(step.wrapping_mul(done)) & mask;
            match self.element(vcpu, page, &string, port, offset, bytes.bits) {
                Ok(()) => done += 1,
                Err(word) => end = Err(word),
            }
        }
        if end == Err(Resume::STOP) {
            return end;
        }
        advance(page, &string, step.wrapping_mul(done), done);
        if done == total {
            finish(page, after(page, instruction.len(), bytes.bits));
        }
        end
    }

    /// Moves one element; nothing has changed when it fails.
    fn element(
        &mut self,
        vcpu: u16,
        page: &mut ExitPage,
        string: &StringIo,
        port: u16,
        offset: u64,
        code_bits: u32,
    ) -> Step<()> {
        if let Some(fault) = segment_fault(page, string.segment, offset, string.width, code_bits) {
            raise(page, fault, Some(0));
            return Err(Resume::ENTER);
        }
        let address = linear(page, string.segment, offset, code_bits);
        let translation = Translation::of(page);
        let mut buffer = [0; 4];
        let length = string.width as usize;
        let bytes = buffer.get_mut(..length).unwrap_or_default();
        if string.input {
            let probe = data::probe(&translation, self.host.memory(), address, length);
            probe.map_err(|fault| self.page_fault(page, fault))?;
            let value = self.transfer(vcpu, page, port, string.width, None)?.to_le_bytes();
            for (to, from) in bytes.iter_mut().zip(value) {
                *to = from;
            }
            let written = data::write(&translation, self.host.memory(), address, bytes);
            return written.map_err(|fault| self.page_fault(page, fault));
        }
        let read = data::read(&translation, self.host.memory(), address, bytes);
        read.map_err(|fault| self.page_fault(page, fault))?;
        self.transfer(vcpu, page, port, string.width, Some(u32::from_le_bytes(buffer)))?;
        Ok(())
    }
}

/// Advances index and count registers by `done` elements.
pub(super) fn advance(page: &mut ExitPage, string: &StringIo, distance: u64, done: u64) {
    let index = page.registers[string.index];
    page.registers[string.index] = merge(index, string.address_bytes, index.wrapping_add(distance));
    if string.repeat {
        let count = page.registers[gpr::RCX];
        page.registers[gpr::RCX] = merge(count, string.address_bytes, count.wrapping_sub(done));
    }
    page.dirty |= group::GENERAL;
}

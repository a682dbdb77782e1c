//! INS and OUTS: the processor gives the port, the rest stands in the instruction and in guest memory.
//!
//! An exit moves a bounded number of elements; a longer repetition goes on at the same instruction with
//! its registers advanced, as the architecture allows.

use crate::data;
use crate::exception::raise;
use crate::exits::port::Data;
use crate::host::Host;
use crate::machine::{Machine, Step};
use crate::paging::{Access, Translation};
use crate::registers::{DIRECTION, TRAP, after, finish, linear, merge};
use crate::segments::{index_of, refusal};
use iced_x86::{Instruction, Mnemonic, OpKind};
use portcullis_ipc::exit::{ExitPage, gpr, group, io, segment};
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
        let segment = if input { segment::ES } else { index_of(instruction.memory_segment()) };
        let repeat = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        let index = if input { gpr::RDI } else { gpr::RSI };
        Some(Self { width, input, repeat, address_bytes, segment, index })
    }

    pub(super) fn mask(&self) -> u64 {
        crate::memory::all_ones(self.address_bytes)
    }
}

impl<H: Host> Machine<H> {
    pub(crate) fn string_port(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        let bytes = self.bytes(vcpu, page, 0)?;
        let instruction = bytes.decode(page.rip).ok_or(Resume::ENTER)?;
        let string = StringIo::of(&instruction).ok_or(Resume::ENTER)?;
        let [access, ..] = page.qualification;
        // The processor checked the port for this width and direction: another instruction stands there by now.
        let same = (access >> io::WIDTH_SHIFT) as u32 & 7 == string.width && (access & io::INPUT != 0) == string.input;
        if !same {
            return Ok(Resume::ENTER);
        }
        let string = StringIo { repeat: access & io::REPEAT != 0, ..string };
        let next = match page.next_rip {
            0 => after(page, instruction.len(), bytes.bits),
            next => next,
        };
        let port = access as u16;
        if string.width == 1 && self.is_high_bandwidth(page, port) {
            return self.high_bandwidth(vcpu, page, &string, next, bytes.bits);
        }
        let mask = string.mask();
        let total = if string.repeat { page.registers[gpr::RCX] & mask } else { 1 };
        // At a claimed port each element is an exit of its own, so that it has a record of its own; a trap comes
        // after each element.
        let stepped = page.rflags & TRAP != 0;
        let most = total.min(if stepped || self.claimed.may_have(port, string.width) { 1 } else { AT_ONCE });
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
            finish(page, next);
        } else if done > 0 && stepped {
            finish(page, page.rip);
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
        // What the exit did before it was given again is done, whatever the guest's tables say by now.
        if self.answered(vcpu, page.sequence).is_some() {
            return Ok(());
        }
        let length = string.width as usize;
        if let Some(fault) = refusal(page, string.segment, offset, string.width, string.input, code_bits) {
            raise(page, fault, Some(0));
            return Err(Resume::ENTER);
        }
        let address = linear(page, string.segment, offset, code_bits);
        let access = if string.input { Access::Write } else { Access::Read };
        let places = data::translate(&Translation::of(page), self.host.memory(), address, length, access);
        let places = places.map_err(|miss| self.missed(page, miss))?;
        let data = if string.input {
            Data::Into(places)
        } else {
            let mut buffer = [0; 4];
            data::read_at(self.host.memory(), places, buffer.get_mut(..length).unwrap_or_default());
            Data::Out(u32::from_le_bytes(buffer))
        };
        self.transfer(vcpu, page, port, string.width, data).map(|_| ())
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

//! Strings at VMware's high-bandwidth port: INSB and OUTSB move a whole message. An exit moves what lies in
//! one page; the instruction goes on with its registers advanced, as an interrupted repetition does.

use super::string::{StringIo, advance, segment_fault};
use crate::data;
use crate::exception::raise;
use crate::host::Host;
use crate::machine::{Machine, Step};
use crate::paging::{PageFault, Translation};
use crate::registers::{DIRECTION, TRAP, after, finish, linear};
use portcullis_ipc::exit::{ExitPage, gpr};
use portcullis_ipc::port::{MAGIC, PORT_HIGH_BANDWIDTH};
use portcullis_ipc::proto::vmport::{HighBandwidth, PIECE};
use portcullis_ipc::syscall::Resume;

/// Where EAX to EBP of a port call stand among the general registers.
const PLACES: [usize; 7] = [gpr::RAX, gpr::RBX, gpr::RCX, gpr::RDX, gpr::RSI, gpr::RDI, gpr::RBP];

/// Bytes that a string moves from `offset`, which lies at linear `address`, until it leaves its page, its
/// segment or the range of its address register.
fn room(page: &ExitPage, string: &StringIo, offset: u64, address: u64, code_bits: u32) -> u64 {
    let in_page = address & (PIECE as u64 - 1);
    if page.rflags & DIRECTION != 0 {
        return (in_page + 1).min(offset.saturating_add(1));
    }
    let limit = match page.segments.get(string.segment) {
        Some(segment) if code_bits != 64 => u64::from(segment.limit),
        _ => u64::MAX,
    };
    let last = limit.min(string.mask());
    (PIECE as u64 - in_page).min(last.saturating_sub(offset).saturating_add(1))
}

impl<H: Host> Machine<H> {
    /// Whether an access to `port` is one to the high-bandwidth port.
    pub(super) fn is_high_bandwidth(&self, page: &ExitPage, port: u16) -> bool {
        self.config.port && port == PORT_HIGH_BANDWIDTH && page.registers[gpr::RAX] as u32 == MAGIC
    }

    /// Moves a piece of a string of bytes; `length` is that of the instruction. The groups CONTROL and
    /// SEGMENTS are valid.
    pub(super) fn high_bandwidth(
        &mut self,
        vcpu: u16,
        page: &mut ExitPage,
        string: &StringIo,
        length: usize,
        code_bits: u32,
    ) -> Step {
        let next = after(page, length, code_bits);
        let mask = string.mask();
        let count = if string.repeat { page.registers[gpr::RCX] & mask } else { 1 };
        if count == 0 {
            finish(page, next);
            return Ok(Resume::ENTER);
        }
        let offset = page.registers[string.index] & mask;
        if let Some(fault) = segment_fault(page, string.segment, offset, 1, code_bits) {
            raise(page, fault, Some(0));
            return Ok(Resume::ENTER);
        }
        let address = linear(page, string.segment, offset, code_bits);
        // A debugger that steps sees each element.
        let most = if page.rflags & TRAP != 0 { 1 } else { room(page, string, offset, address, code_bits) };
        let piece = most.min(count);
        let backwards = page.rflags & DIRECTION != 0;
        let moved = self.move_piece(vcpu, page, string, address, (piece, count));
        let (done, ebx) = moved.map_err(|fault| self.page_fault(page, fault))?;
        let distance = if backwards { done.wrapping_neg() } else { done };
        advance(page, string, distance, done);
        if done == count {
            let rbx = &mut page.registers[gpr::RBX];
            *rbx = *rbx & !0xffff_ffff | u64::from(ebx);
            finish(page, next);
        } else if page.rflags & TRAP != 0 {
            finish(page, page.rip);
        }
        Ok(Resume::ENTER)
    }

    /// Moves `piece` of the `count` bytes that are left, from or to linear `address`: how many went, and EBX
    /// for the end of the string. A string that nobody takes goes all at once and nothing is moved.
    fn move_piece(
        &mut self,
        vcpu: u16,
        page: &ExitPage,
        string: &StringIo,
        address: u64,
        (piece, count): (u64, u64),
    ) -> Result<(u64, u32), PageFault> {
        let backwards = page.rflags & DIRECTION != 0;
        let translation = Translation::of(page);
        // The first element is the one that faults.
        let at_element = |fault: PageFault| PageFault { address, ..fault };
        let lowest = |length: u64| if backwards { address.wrapping_sub(length - 1) } else { address };
        let bytes = self.piece.get_mut(..piece as usize).unwrap_or_default();
        if string.input {
            data::probe(&translation, self.host.memory(), lowest(piece), bytes.len()).map_err(at_element)?;
        } else {
            data::read(&translation, self.host.memory(), lowest(piece), bytes).map_err(at_element)?;
            if backwards {
                bytes.reverse();
            }
        }
        let request = HighBandwidth {
            sequence: page.sequence,
            vcpu: vcpu as u8,
            input: string.input,
            cpl: page.cpl as u8,
            registers: PLACES.map(|place| (page.registers[place] as u32).to_le_bytes()),
            count,
            lent: piece as u16,
        };
        let moved = match self.host.high_bandwidth(&request, bytes) {
            Some(reply) if reply.ebx != 0 && (1..=piece).contains(&reply.moved) => reply,
            _ => return Ok((count, 0)),
        };
        if string.input {
            let taken = bytes.get_mut(..moved.moved as usize).unwrap_or_default();
            if backwards {
                taken.reverse();
            }
            data::write(&translation, self.host.memory(), lowest(moved.moved), taken).map_err(at_element)?;
        }
        Ok((moved.moved, moved.ebx))
    }
}

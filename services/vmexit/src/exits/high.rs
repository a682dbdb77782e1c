//! Strings at VMware's high-bandwidth port: INSB and OUTSB move a whole message. An exit moves what lies in
//! one page; the instruction goes on with its registers advanced, as an interrupted repetition does.

use super::string::{StringIo, advance};
use crate::data;
use crate::exception::raise;
use crate::host::Host;
use crate::machine::{Machine, Step};
use crate::memory::GuestMemory;
use crate::paging::{Access, Miss, PageFault, Translation};
use crate::registers::{DIRECTION, TRAP, finish, linear};
use crate::segments::{offsets_of, refusal};
use portcullis_ipc::exit::{ExitPage, gpr};
use portcullis_ipc::port::{MAGIC, PORT_HIGH_BANDWIDTH};
use portcullis_ipc::proto::vmport::{HighBandwidth, PIECE};
use portcullis_ipc::syscall::Resume;

/// Where EAX to EBP of a port call stand among the general registers.
const PLACES: [usize; 7] = [gpr::RAX, gpr::RBX, gpr::RCX, gpr::RDX, gpr::RSI, gpr::RDI, gpr::RBP];

/// Bytes that a string moves from `offset` of its segment, which lies at linear `address`, until it leaves its page, the
/// segment or the range of its address register.
fn room(page: &ExitPage, string: &StringIo, offset: u64, address: u64, code_bits: u32) -> u64 {
    let in_page = address & (PIECE as u64 - 1);
    let inside = offsets_of(page, string.segment, code_bits);
    if page.rflags & DIRECTION != 0 {
        return (in_page + 1).min(offset.saturating_sub(*inside.start()).saturating_add(1));
    }
    let last = (*inside.end()).min(string.mask());
    (PIECE as u64 - in_page).min(last.saturating_sub(offset).saturating_add(1))
}

impl<H: Host> Machine<H> {
    /// Whether an access to `port` is one to the high-bandwidth port.
    pub(super) fn is_high_bandwidth(&self, page: &ExitPage, port: u16) -> bool {
        self.config.port && port == PORT_HIGH_BANDWIDTH && page.registers[gpr::RAX] as u32 == MAGIC
    }

    /// Moves a piece of a string of bytes; `next` is where the guest goes on after the instruction. The groups
    /// CONTROL and SEGMENTS are valid.
    pub(super) fn high_bandwidth(
        &mut self,
        vcpu: u16,
        page: &mut ExitPage,
        string: &StringIo,
        next: u64,
        code_bits: u32,
    ) -> Step {
        let mask = string.mask();
        let count = if string.repeat { page.registers[gpr::RCX] & mask } else { 1 };
        if count == 0 {
            finish(page, next);
            return Ok(Resume::ENTER);
        }
        let offset = page.registers[string.index] & mask;
        if let Some(fault) = refusal(page, string.segment, offset, 1, string.input, code_bits) {
            raise(page, fault, Some(0));
            return Ok(Resume::ENTER);
        }
        let address = linear(page, string.segment, offset, code_bits);
        // A debugger that steps sees each element.
        let most = if page.rflags & TRAP != 0 { 1 } else { room(page, string, offset, address, code_bits) };
        let piece = most.min(count);
        let backwards = page.rflags & DIRECTION != 0;
        let moved = self.move_piece(vcpu, page, string, address, (piece, count));
        let (done, ebx) = moved.map_err(|miss| self.missed(page, miss))?;
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
    ) -> Result<(u64, u32), Miss> {
        let backwards = page.rflags & DIRECTION != 0;
        let request = HighBandwidth {
            sequence: page.sequence,
            vcpu: vcpu as u8,
            input: string.input,
            cpl: page.cpl as u8,
            registers: PLACES.map(|place| (page.registers[place] as u32).to_le_bytes()),
            count,
            lent: piece as u16,
        };
        let bytes = self.piece.get_mut(..piece as usize).unwrap_or_default();
        let lowest = if backwards { address.wrapping_sub(piece - 1) } else { address };
        let access = if string.input { Access::Write } else { Access::Read };
        let places = match data::translate(&Translation::of(page), self.host.memory(), lowest, bytes.len(), access) {
            Ok(places) => places,
            Err(miss) => {
                // An exit that was served before is done, whatever the guest's tables say by now: its record moves
                // the string on. Nothing is lent, so nothing is done for one that was not.
                let recorded = match self.unseen >> vcpu & 1 {
                    0 => None,
                    _ => self.host.high_bandwidth(&HighBandwidth { lent: 0, ..request }, bytes),
                };
                return match recorded {
                    Some(reply) if reply.ebx != 0 && (1..=piece).contains(&reply.moved) => Ok((reply.moved, reply.ebx)),
                    _ => Err(at_element(miss, address)),
                };
            }
        };
        if !string.input {
            data::read_at(self.host.memory(), places, bytes);
            if backwards {
                bytes.reverse();
            }
        }
        let moved = match self.host.high_bandwidth(&request, bytes) {
            Some(reply) if reply.ebx != 0 && (1..=piece).contains(&reply.moved) => reply,
            _ => return Ok((count, 0)),
        };
        if string.input {
            // The piece lies in one page, so its places are one: what came begins or ends it.
            let [(lowest, _), _] = places;
            let taken = bytes.get_mut(..moved.moved as usize).unwrap_or_default();
            let skipped = if backwards { piece - moved.moved } else { 0 };
            if backwards {
                taken.reverse();
            }
            self.host.memory().write(lowest + skipped, taken);
        }
        Ok((moved.moved, moved.ebx))
    }
}

/// The first element, at `address`, is the one that faults.
fn at_element(miss: Miss, address: u64) -> Miss {
    match miss {
        Miss::Fault(fault) => Miss::Fault(PageFault { address, ..fault }),
        Miss::Busy => Miss::Busy,
    }
}

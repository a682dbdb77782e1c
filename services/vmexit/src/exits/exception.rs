//! Exceptions that exit: #GP, which an access to VMware's ports may have raised, and those that the core
//! intercepts for its own safety and the guest gets back unchanged.

use super::debug::detect_no_more;
use super::string::StringIo;
use crate::exception::{Combined, combine, deliver, error_of, vector};
use crate::fetch::{self, Bytes};
use crate::host::Host;
use crate::machine::{Machine, Step};
use crate::paging::Miss;
use crate::registers::{after, finish, merge};
use iced_x86::{Code, Register};
use portcullis_ipc::exit::exception::INT1;
use portcullis_ipc::exit::{ExitPage, event, gpr, group};
use portcullis_ipc::port::{MAGIC, PORT, PORT_HIGH_BANDWIDTH};
use portcullis_ipc::syscall::Resume;

/// An IN or OUT through DX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PortForm {
    width: u8,
    input: bool,
    length: u8,
}

impl PortForm {
    /// The instruction at the beginning of `bytes`, if it is one. The plain forms are compared; prefixes
    /// other than the operand size go through the decoder.
    fn of(bytes: &Bytes, rip: u64) -> Option<Self> {
        let (opcode, prefixed, length) = match *bytes.as_slice() {
            [0x66, opcode, ..] => (opcode, true, 2),
            [opcode, ..] => (opcode, false, 1),
            [] => return None,
        };
        let input = opcode & 2 == 0;
        match opcode {
            0xec | 0xee => {
                return Some(Self { width: 1, input, length });
            }
            0xed | 0xef => {
                let width = if (bytes.bits == 16) == prefixed { 4 } else { 2 };
                return Some(Self { width, input, length });
            }
            _ => {}
        }
        let instruction = bytes.decode(rip)?;
        let length = instruction.len() as u8;
        let (width, input) = match instruction.code() {
            Code::In_AL_DX => (1, true),
            Code::In_AX_DX => (2, true),
            Code::In_EAX_DX => (4, true),
            Code::Out_DX_AL => (1, false),
            Code::Out_DX_AX => (2, false),
            Code::Out_DX_EAX => (4, false),
            _ => return None,
        };
        debug_assert!([instruction.op0_register(), instruction.op1_register()].contains(&Register::DX));
        Some(Self { width, input, length })
    }
}

impl<H: Host> Machine<H> {
    pub(crate) fn exception(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        let [number, code, _] = page.qualification;
        let number = number as u8;
        if number == vector::PROTECTION
            && code == 0
            && let Some(step) = self.behind_protection(vcpu, page)
        {
            return step;
        }
        if number == vector::PROTECTION
            && code == 0
            && let Some(word) = self.counter_behind_protection(vcpu, page)
        {
            return Ok(word);
        }
        if number == vector::DEBUG {
            self.host.fetch(vcpu, page, group::DEBUG);
            detect_no_more(page);
            if page.qualification[2] == INT1 {
                // A trap, which ends after its instruction.
                let (next, _) = self.next(vcpu, page, &[fetch::INT1], 0)?;
                page.rip = next;
                page.dirty |= group::FLOW;
            }
        }
        match combine(page.event, number, error_of(number, code)) {
            Combined::Deliver(event) => {
                deliver(page, event);
                Ok(Resume::ENTER)
            }
            Combined::Shutdown => self.triple_fault(vcpu, page),
        }
    }

    /// Serves the access to a VMware port that raised this #GP(0), if one did: from ring 1, 2 or 3, with the
    /// magic, at exactly the port, while no event was in delivery.
    fn behind_protection(&mut self, vcpu: u16, page: &mut ExitPage) -> Option<Step> {
        let port = page.registers[gpr::RDX] as u16;
        let magic = page.registers[gpr::RAX] as u32;
        let in_delivery = page.event & event::VALID != 0;
        let known = port == PORT || port == PORT_HIGH_BANDWIDTH;
        if !self.config.port || page.cpl == 0 || in_delivery || !known || magic != MAGIC {
            return None;
        }
        self.host.fetch(vcpu, page, group::CONTROL | group::SEGMENTS);
        let bytes = match Bytes::fetch(self.host.memory(), page) {
            Ok(bytes) => bytes,
            // Bytes that cannot be fetched any more are not an access: the guest gets its #GP.
            Err(Miss::Fault(_)) => return None,
            Err(Miss::Busy) => return Some(Ok(Resume::ENTER)),
        };
        match PortForm::of(&bytes, page.rip) {
            Some(form) if port == PORT => Some(Ok(Resume::port(form.width, form.input, form.length))),
            Some(form) => {
                self.unused(page, &form, bytes.bits);
                Some(Ok(Resume::ENTER))
            }
            None if port == PORT => None,
            None => {
                let instruction = bytes.decode(page.rip)?;
                let string = StringIo::of(&instruction).filter(|string| string.width == 1)?;
                let next = after(page, instruction.len(), bytes.bits);
                Some(self.high_bandwidth(vcpu, page, &string, next, bytes.bits))
            }
        }
    }

    /// The high-bandwidth port without a string: reads all ones, ignores writes.
    fn unused(&mut self, page: &mut ExitPage, form: &PortForm, code_bits: u32) {
        if form.input {
            let rax = &mut page.registers[gpr::RAX];
            *rax = merge(*rax, form.width.into(), u64::MAX);
            page.dirty |= group::GENERAL;
        }
        finish(page, after(page, form.length.into(), code_bits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::Plain;
    use portcullis_ipc::exit::segment;
    use zerocopy::FromZeros;

    fn form(code: &[u8], protected32: bool) -> Option<(u8, bool, u8)> {
        let mut memory = Plain::new(0x1000);
        memory.put(0x100, code);
        let mut page = ExitPage::new_zeroed();
        page.rip = 0x100;
        if protected32 {
            page.cr0 = 1;
            page.segments[segment::CS].attributes = 1 << 10;
        }
        let bytes = Bytes::fetch(&mut memory, &page).unwrap();
        PortForm::of(&bytes, 0x100).map(|form| (form.width, form.input, form.length))
    }

    #[test]
    fn only_the_forms_through_dx_are_port_accesses() {
        let table: [(&[u8], Option<(u8, bool, u8)>); 13] = [
            (&[0xed], Some((4, true, 1))),
            (&[0xec], Some((1, true, 1))),
            (&[0x66, 0xed], Some((2, true, 2))),
            (&[0xef], Some((4, false, 1))),
            (&[0xee], Some((1, false, 1))),
            (&[0x66, 0xef], Some((2, false, 2))),
            (&[0x66, 0xec], Some((1, true, 2))),
            (&[0x3e, 0x66, 0xed], Some((2, true, 3))),
            (&[0xf3, 0xed], Some((4, true, 2))),
            (&[0xe5, 0x58], None),
            (&[0x6d], None),
            (&[0x0f, 0x33], None),
            (&[0xcd, 0x80], None),
        ];
        for (code, expected) in table {
            assert_eq!(form(code, true), expected, "{code:x?}");
        }
    }

    #[test]
    fn the_operand_size_prefix_means_the_opposite_in_16_bit_code() {
        assert_eq!(form(&[0xed], false), Some((2, true, 1)));
        assert_eq!(form(&[0x66, 0xed], false), Some((4, true, 2)));
        assert_eq!(form(&[0x66, 0xef], false), Some((4, false, 2)));
    }
}

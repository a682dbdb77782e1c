//! Accesses to debug registers. Reads exit on VMX only.
//!
//! No guest writes a debug register by itself: an emulated processor that forgets to take a guest's breakpoints away at the
//! exit would raise them in the core.

use crate::exception::{raise, set_resume, vector};
use crate::host::Host;
use crate::machine::{Machine, Step};
use crate::registers::{after, finish};
use iced_x86::{Mnemonic, Register};
use portcullis_ipc::exit::{ExitPage, group};
use portcullis_ipc::syscall::Resume;

const CR4_DE: u64 = 1 << 3;
/// Bits of DR6 that a write changes, and those that read as one.
const DR6: (u64, u64) = (0xe00f, 0xffff_0ff0);
/// Bits of DR7 that a write changes, and the one that reads as one.
const DR7: (u64, u64) = (0xffff_23ff, 0x400);

/// DR7.GD: the next access to a debug register raises a debug exception.
const DETECT: u64 = 1 << 13;
/// DR6.BD: it did.
const DETECTED: u64 = 1 << 13;

/// Switches general detection off, as the processor does when it delivers a debug exception that nobody injected
/// (Intel SDM volume 3, 17.2.4). The page holds the debug registers.
pub fn detect_no_more(page: &mut ExitPage) {
    if page.dr7 & DETECT != 0 {
        page.dr7 &= !DETECT;
        page.dirty |= group::DEBUG;
    }
}

/// What becomes of a write of `value` to the register `number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Address(usize, u64),
    Status(u64),
    Control(u64),
    Undefined,
    Protection,
}

fn write(number: usize, value: u64, extensions: bool) -> Write {
    let number = match number {
        4 | 5 if extensions => return Write::Undefined,
        4 | 5 => number + 2,
        other => other,
    };
    match number {
        0..=3 => Write::Address(number, value),
        6 | 7 if value >> 32 != 0 => Write::Protection,
        6 => Write::Status(value & DR6.0 | DR6.1),
        7 => Write::Control(value & DR7.0 | DR7.1),
        _ => Write::Undefined,
    }
}

/// What a read of the register `number` gives; `None` where it raises #UD.
fn read(page: &ExitPage, number: usize) -> Option<u64> {
    match number {
        4 | 5 if page.cr4 & CR4_DE != 0 => None,
        4 | 6 => Some(page.dr6),
        5 | 7 => Some(page.dr7),
        other => page.dr.get(other).copied(),
    }
}

impl<H: Host> Machine<H> {
    pub(crate) fn debug_register(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        let bytes = self.bytes(vcpu, page, group::DEBUG)?;
        let instruction = bytes.decode(page.rip).ok_or(Resume::ENTER)?;
        let (to, from): (Register, Register) = (instruction.op0_register(), instruction.op1_register());
        if instruction.mnemonic() != Mnemonic::Mov || to.is_dr() == from.is_dr() {
            return Err(Resume::ENTER);
        }
        if page.dr7 & DETECT != 0 {
            page.dr6 |= DETECTED;
            raise(page, vector::DEBUG, None);
            set_resume(page);
            detect_no_more(page);
            return Ok(Resume::ENTER);
        }
        let next = after(page, instruction.len(), bytes.bits);
        if from.is_dr() {
            let value = read(page, from.number());
            let (Some(value), Some(place)) = (value, page.registers.get_mut(to.full_register().number())) else {
                raise(page, vector::UNDEFINED, None);
                return Ok(Resume::ENTER);
            };
            *place = value;
            page.dirty |= group::GENERAL;
            finish(page, next);
            return Ok(Resume::ENTER);
        }
        let place = page.registers.get(from.full_register().number()).copied();
        let place = place.ok_or(Resume::ENTER)?;
        let value = if bytes.bits == 64 { place } else { place & 0xffff_ffff };
        match write(to.number(), value, page.cr4 & CR4_DE != 0) {
            Write::Address(index, value) => {
                if let Some(register) = page.dr.get_mut(index) {
                    *register = value;
                }
            }
            Write::Status(value) => page.dr6 = value,
            Write::Control(value) => page.dr7 = value,
            Write::Protection => return self.refuse(page),
            Write::Undefined => {
                raise(page, vector::UNDEFINED, None);
                return Ok(Resume::ENTER);
            }
        }
        page.dirty |= group::DEBUG;
        finish(page, next);
        Ok(Resume::ENTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn a_read_gives_what_the_register_holds_under_either_of_its_names() {
        let mut page = ExitPage::new_zeroed();
        (page.dr, page.dr6, page.dr7) = ([10, 11, 12, 13], 6, 7);
        let reads = |page: &ExitPage| [0, 3, 4, 5, 6, 7, 8].map(|number| read(page, number));
        assert_eq!(reads(&page), [Some(10), Some(13), Some(6), Some(7), Some(6), Some(7), None]);
        page.cr4 = CR4_DE;
        assert_eq!(reads(&page), [Some(10), Some(13), None, None, Some(6), Some(7), None]);
    }

    #[test]
    fn a_write_goes_where_the_architecture_says_with_its_fixed_bits() {
        let table = [
            (0, u64::MAX, false, Write::Address(0, u64::MAX)),
            (3, 0x1000, true, Write::Address(3, 0x1000)),
            (4, 0, false, Write::Status(0xffff_0ff0)),
            (5, 0, false, Write::Control(0x400)),
            (4, 0, true, Write::Undefined),
            (5, 0, true, Write::Undefined),
            (6, 0xffff_ffff, false, Write::Status(0xffff_efff)),
            (7, 0xffff_ffff, false, Write::Control(0xffff_27ff)),
            (7, 1 << 32, false, Write::Protection),
            (9, 0, false, Write::Undefined),
        ];
        for (number, value, extensions, expected) in table {
            assert_eq!(write(number, value, extensions), expected, "DR{number} = {value:#x}");
        }
    }
}

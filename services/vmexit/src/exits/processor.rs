//! Exits that read or write the processor itself: CPUID, MSRs, counters, CR0, CR4 and CR8, XCR0.

use crate::apic::lapic::Lapic;
use crate::cpuid::Asker;
use crate::fetch;
use crate::host::{Host, Note};
use crate::machine::{Machine, Step};
use crate::msr::{self, Refused};
use crate::registers::{after, finish};
use iced_x86::{Mnemonic, Register};
use portcullis_ipc::exit::{ExitPage, gpr, group};
use portcullis_ipc::syscall::Resume;

const CR4_PAE: u64 = 1 << 5;
const CR4_OSXSAVE: u64 = 1 << 18;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
/// PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG; a write leaves the others 0.
const CR0_KNOWN: u64 = 0x3f | 1 << 16 | 1 << 18 | CR0_NW | CR0_CD | CR0_PG;
/// Segment attribute L.
const ATTRIBUTE_LONG: u16 = 1 << 9;
/// x87 cannot be turned off; AVX needs SSE.
const XCR0_X87: u64 = 1;
const XCR0_SSE: u64 = 2;
const XCR0_AVX: u64 = 4;

fn pair(page: &ExitPage) -> u64 {
    page.registers[gpr::RAX] & 0xffff_ffff | page.registers[gpr::RDX] << 32
}

fn set_pair(page: &mut ExitPage, value: u64) {
    page.registers[gpr::RAX] = value & 0xffff_ffff;
    page.registers[gpr::RDX] = value >> 32;
    page.dirty |= group::GENERAL;
}

/// CR0 and EFER after a write of `value` to CR0 by code of `code_bits` (SDM volume 2, MOV to control registers); `None`
/// where it raises #GP(0). VMX makes such a write exit when it changes NE.
fn cr0_after(page: &ExitPage, value: u64, code_bits: u32) -> Option<(u64, u64)> {
    let (paging, was_paging) = (value & CR0_PG != 0, page.cr0 & CR0_PG != 0);
    let turns_on_long_mode = paging && !was_paging && page.efer & EFER_LME != 0;
    let [_, cs, ..] = page.segments;
    let refused = value >> 32 != 0
        || paging && value & CR0_PE == 0
        || value & CR0_NW != 0 && value & CR0_CD == 0
        || turns_on_long_mode && (page.cr4 & CR4_PAE == 0 || cs.attributes & ATTRIBUTE_LONG != 0)
        || !paging && was_paging && code_bits == 64;
    if refused {
        return None;
    }
    let efer = match (turns_on_long_mode, paging) {
        (true, _) => page.efer | EFER_LMA,
        (false, true) => page.efer,
        (false, false) => page.efer & !EFER_LMA,
    };
    Some((value & CR0_KNOWN | CR0_ET, efer))
}

impl<H: Host> Machine<H> {
    pub(crate) fn cpuid(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        let (leaf, subleaf) = (page.registers[gpr::RAX] as u32, page.registers[gpr::RCX] as u32);
        let groups = if matches!(leaf, 1 | 0xd) { group::CONTROL } else { 0 };
        let (next, _) = self.next(vcpu, page, &[fetch::CPUID], groups)?;
        let asker = Asker {
            vcpu: vcpu.into(),
            apic: self.durable.lapics.get(usize::from(vcpu)).is_some_and(Lapic::enabled),
            osxsave: page.cr4 & CR4_OSXSAVE != 0,
            xcr0: page.xcr0,
        };
        let host = &self.host;
        let values = self.identity.answer(leaf, subleaf, &asker, |leaf, sub| host.cpuid(leaf, sub));
        let [eax, ebx, ecx, edx] = values.map(u64::from);
        page.registers[gpr::RAX] = eax;
        page.registers[gpr::RBX] = ebx;
        page.registers[gpr::RCX] = ecx;
        page.registers[gpr::RDX] = edx;
        page.dirty |= group::GENERAL;
        finish(page, next);
        Ok(Resume::ENTER)
    }

    pub(crate) fn msr(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        let write = page.qualification[0] == 1;
        let candidates = if write { [fetch::WRMSR] } else { [fetch::RDMSR] };
        let number = page.registers[gpr::RCX] as u32;
        // EFER's rules need CR0 beside it; both are in one group.
        let (next, _) = self.next(vcpu, page, &candidates, msr::groups(number))?;
        let tsc = self.host.tsc();
        let done = if self.config.lapic && Lapic::claims(number) {
            let sequence = page.sequence;
            let done = if write {
                self.write_lapic_msr(vcpu, sequence, number, pair(page))
            } else {
                self.read_lapic_msr(vcpu, number).map(|value| set_pair(page, value))
            };
            done.map_err(|_| Refused)
        } else if write {
            let done = msr::write(page, vcpu, number, pair(page), tsc, self.vendor);
            self.follow_tsc(vcpu, page, number);
            done
        } else {
            msr::read(page, vcpu, number, tsc, self.vendor).map(|value| set_pair(page, value))
        };
        if done == Err(Refused) {
            self.host.note(Note::UnknownMsr(number, write));
            return self.refuse(page);
        }
        finish(page, next);
        Ok(Resume::ENTER)
    }

    /// A write of the TSC moved the guest's clock, and with it the timers that follow it.
    fn follow_tsc(&mut self, vcpu: u16, page: &ExitPage, number: u32) {
        if number == msr::number::TSC {
            let offset = page.tsc_offset;
            self.rearm = true;
            if let Some(state) = self.vcpu(vcpu.into()) {
                state.tsc_offset = offset;
            }
        }
    }

    pub(crate) fn rdtsc(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        // QEMU reports RDTSCP as RDTSC: the instruction itself says which.
        let candidates = [fetch::RDTSC, fetch::RDTSCP];
        let (next, mnemonic) = self.next(vcpu, page, &candidates, group::TIME | group::SYSCALL)?;
        let value = self.host.tsc().wrapping_add(page.tsc_offset);
        set_pair(page, value);
        if mnemonic == Mnemonic::Rdtscp {
            page.registers[gpr::RCX] = page.tsc_aux & 0xffff_ffff;
        }
        finish(page, next);
        Ok(Resume::ENTER)
    }

    pub(crate) fn xsetbv(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        let (next, _) = self.next(vcpu, page, &[fetch::XSETBV], group::CONTROL)?;
        let value = pair(page);
        let subset = value & !self.identity.xcr0_mask == 0 && value & XCR0_X87 != 0;
        let whole = value & XCR0_AVX == 0 || value & XCR0_SSE != 0;
        if page.cpl != 0 || page.registers[gpr::RCX] as u32 != 0 || !subset || !whole {
            return self.refuse(page);
        }
        page.xcr0 = value;
        page.dirty |= group::CONTROL;
        finish(page, next);
        Ok(Resume::ENTER)
    }

    pub(crate) fn control_register(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        let bytes = self.bytes(vcpu, page, 0)?;
        let instruction = bytes.decode(page.rip).ok_or(Resume::ENTER)?;
        if instruction.mnemonic() != Mnemonic::Mov {
            return Err(Resume::ENTER);
        }
        let (to, from) = (instruction.op0_register(), instruction.op1_register());
        let write = to.is_cr();
        let (control, general) = if write { (to, from) } else { (from, to) };
        let register = general.full_register().number();
        let place = page.registers.get(register).copied().ok_or(Resume::ENTER)?;
        let value = if bytes.bits == 64 { place } else { place & 0xffff_ffff };
        let next = after(page, instruction.len(), bytes.bits);
        match (control, write) {
            (Register::CR0, true) => {
                let Some((cr0, efer)) = cr0_after(page, value, bytes.bits) else {
                    return self.refuse(page);
                };
                (page.cr0, page.efer) = (cr0, efer);
                page.dirty |= group::CONTROL;
            }
            (Register::CR4, true) => {
                let leaves_long_mode = page.efer & EFER_LMA != 0 && value & CR4_PAE == 0;
                if value & !self.cr4_allowed != 0 || leaves_long_mode {
                    return self.refuse(page);
                }
                page.cr4 = value;
                page.dirty |= group::CONTROL;
            }
            (Register::CR8, true) => {
                let priority = u8::try_from(value).ok().filter(|value| *value <= 15);
                let Some(priority) = priority else {
                    return self.refuse(page);
                };
                if let Some(lapic) = self.lapic(vcpu.into()) {
                    lapic.set_cr8(priority);
                }
            }
            (Register::CR8, false) => {
                let value = self.durable.lapics.get(usize::from(vcpu)).map_or(0, Lapic::cr8);
                if let Some(place) = page.registers.get_mut(register) {
                    *place = value.into();
                }
                page.dirty |= group::GENERAL;
            }
            _ => return self.refuse(page),
        }
        finish(page, next);
        Ok(Resume::ENTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn a_write_of_cr0_switches_long_mode_and_is_refused_where_the_architecture_says() {
        const ON: u64 = CR0_PG | CR0_PE | CR0_ET;
        let table = [
            // CR0, CR4, EFER before; value; width of the code; CR0 and EFER after.
            (0x10, 0, 0, 0x21, 16, Some((0x31, 0))),
            (0x11, 0, 0, 1 << 10 | 1, 32, Some((0x11, 0))),
            (0x11, CR4_PAE, EFER_LME, ON, 32, Some((ON, EFER_LME | EFER_LMA))),
            (ON, CR4_PAE, EFER_LME | EFER_LMA, ON | 2, 64, Some((ON | 2, EFER_LME | EFER_LMA))),
            (ON, CR4_PAE, EFER_LME | EFER_LMA, CR0_PE, 32, Some((CR0_PE | CR0_ET, EFER_LME))),
            (ON, CR4_PAE, EFER_LME | EFER_LMA, CR0_PE, 64, None),
            (0x11, 0, EFER_LME, ON, 32, None),
            (0x11, 0, 0, CR0_PG, 32, None),
            (0x11, 0, 0, CR0_NW | 1, 32, None),
            (0x11, 0, 0, 1 << 32 | 1, 64, None),
        ];
        for (cr0, cr4, efer, value, code_bits, expected) in table {
            let mut page = ExitPage::new_zeroed();
            (page.cr0, page.cr4, page.efer) = (cr0, cr4, efer);
            assert_eq!(cr0_after(&page, value, code_bits), expected, "{cr0:#x} {value:#x}");
        }
    }
}
